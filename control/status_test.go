package control_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/vcsync/vcsync/broker"
	"github.com/vcsync/vcsync/consumer"
	"github.com/vcsync/vcsync/control"
	"github.com/vcsync/vcsync/producer"
	"github.com/vcsync/vcsync/schemas"
)

var at = time.Date(2026, 3, 4, 15, 16, 17, 0, time.UTC)

// busy gives a world something to tell.
func (w *world) busy() {
	w.t.Helper()
	w.putServer("a", "b")
	w.do("POST", "/api/v1/settings", settingBody("one", "a", "b", true, allJobs)).want(201)
	w.do("POST", "/api/v1/settings", settingBody("two", "b", "a", false, allJobs)).want(201)
	w.roles.sources = []producer.Status{{Server: "a", State: producer.Degraded, Class: "unauthorized", Reason: "logon on a: unauthorized", Since: at, Feed: true, Epoch: 3,
		Types: map[schemas.Type]producer.TypeStatus{schemas.Job: {Complete: at, Objects: 202, Published: 7, Held: 12, Refused: 1, RefusedWhy: "no id"}}}}
	w.roles.targets = []consumer.TargetStatus{{Target: "b", State: consumer.Down, Reason: "nobody answers", Since: at, Lanes: 4, Applied: 5, Equal: 6, Parked: 2}}
	w.roles.setting = []consumer.SettingStatus{{Setting: "one", Pending: 9, LastRun: at, State: "target down", LastError: "put Job on b: busy", Parked: 1}}
	for i, id := range []schemas.ID{"Contoso/Share", "gone"} {
		p := broker.Parked{Target: "b", Setting: "one", Source: "a", Type: schemas.Job, Token: id.Token(), ID: id, Name: "<script>alert(1)</script>", Version: schemas.Version{Epoch: 1, Revision: 2},
			Class: "refused", Reason: "the server says: <b>no</b>", Fix: "rename it", First: at.Add(time.Duration(i) * time.Second), Last: at, Attempts: 3}
		if id == "gone" {
			p.Discarded = "not needed"
		}
		if _, err := w.b.PutParked(w.t.Context(), p); err != nil {
			w.t.Fatal(err)
		}
	}
}

func TestStatus(t *testing.T) {
	w := newWorld(t)
	w.busy()
	if _, err := w.b.JS().Publish(t.Context(), "$KV.VCS_CFG.setting.odd", []byte(`{"id":"odd","version":9}`)); err != nil {
		t.Fatal(err)
	}
	var r control.StatusReport
	w.do("GET", "/api/v1/status", "").want(200).into(&r)
	if !r.Store.Ready || !r.Store.Embedded || r.Store.MaxBytes != 1<<30 || !r.Roles.Producer || !r.Roles.Consumer || r.Version != "test" {
		t.Errorf("%+v", r)
	}
	if len(r.Sources) != 1 || r.Sources[0].State != "degraded" || r.Sources[0].Types[0].Held != 12 || !r.Sources[0].Since.Equal(at) {
		t.Errorf("sources %+v", r.Sources)
	}
	if len(r.Targets) != 1 || r.Targets[0].State != "down" || r.Targets[0].Applied != 5 {
		t.Errorf("targets %+v", r.Targets)
	}
	if len(r.Settings) != 2 || !r.Settings[0].Known || r.Settings[0].Pending != 9 || r.Settings[0].Parked != 1 || r.Settings[1].Known || r.Settings[1].Active {
		t.Errorf("settings %+v", r.Settings)
	}
	if r.Parked != 1 {
		t.Errorf("%d parked, want 1: what is discarded waits for nobody", r.Parked)
	}
	if len(r.ParkedBy) != 1 || r.ParkedBy[0].Target != "b" || r.ParkedBy[0].Class != "refused" || r.ParkedBy[0].Count != 1 {
		t.Errorf("parked by class %+v", r.ParkedBy)
	}
	if len(r.Faulty) != 1 || r.Faulty[0].Record != "setting.odd" {
		t.Errorf("faulty %+v", r.Faulty)
	}
	// A record that is not understood is left alone.
	w.do("GET", "/api/v1/settings/odd", "").want(409, "not understood")
	w.do("POST", "/api/v1/settings", settingBody("odd", "a", "b", false, allJobs)).want(409)
	w.do("DELETE", "/api/v1/settings/odd", "", "If-Match", "*").want(409)

	w = newWorld(t, func(c *control.Config) { c.Sources, c.Targets = nil, nil })
	w.do("GET", "/api/v1/status", "").want(200, `"producer":false`, `"sources":[]`, `"settings":[]`)
}

// One line says how a source of 17 types does, with the types in trouble by name;
// a hundred records of few reasons are told by their reasons.
func TestManyTypesAndManyParked(t *testing.T) {
	w := newWorld(t)
	w.putServer("a", "b")
	w.do("POST", "/api/v1/settings", settingBody("none", "a", "b", false, `"rules":{}`)).want(201)
	var rules []string
	types := map[schemas.Type]producer.TypeStatus{}
	for i, x := range schemas.Types() {
		types[x] = producer.TypeStatus{Complete: at.Add(-time.Duration(i) * time.Second), Objects: 10, BuiltIn: 1, Published: 2}
		if x != schemas.ServerSettings {
			rules = append(rules, fmt.Sprintf(`%q:{"sync":"all","new":true}`, x))
		}
	}
	w.do("POST", "/api/v1/settings", settingBody("one", "a", "b", true, `"rules":{`+strings.Join(rules, ",")+`}`)).want(201)
	w.do("POST", "/api/v1/settings", settingBody("back", "b", "a", true, `"rules":{`+strings.Join(rules, ",")+`}`)).want(409, "takes all but ServerSettings from")
	held := types[schemas.Credential]
	held.Held = 12
	types[schemas.Credential] = held
	refused := types[schemas.Variable]
	refused.Refused, refused.RefusedWhy = 3, "no <name>"
	types[schemas.Variable] = refused
	w.roles.sources = []producer.Status{{Server: "a", State: producer.Capturing, Types: types}}
	for i := range 100 {
		id := schemas.ID(fmt.Sprintf("object-%02d", i))
		p := broker.Parked{Target: "b", Setting: "one", Source: "a", Type: schemas.Job, Token: id.Token(), ID: id, Version: schemas.Version{Epoch: 1, Revision: 2},
			Class: "waits", Reason: "r", First: at, Last: at, Attempts: 1}
		if i%10 == 0 {
			p.Class, p.Type = "refused", schemas.Connection
		}
		if i == 99 {
			p.Target = "a"
		}
		if _, err := w.b.PutParked(t.Context(), p); err != nil {
			t.Fatal(err)
		}
	}
	var r control.StatusReport
	w.do("GET", "/api/v1/status", "").want(200).into(&r)
	s := r.Sources[0]
	if s.Objects != 170 || s.BuiltIn != 17 || s.Published != 34 || !s.Complete.Equal(at.Add(-16*time.Second)) || len(s.Types) != 17 {
		t.Errorf("source %+v", s)
	}
	if got, want := fmt.Sprint(r.ParkedBy), "[{a waits 1 [Job]} {b waits 89 [Job]} {b refused 10 [Connection]}]"; got != want {
		t.Errorf("parked %s, want %s", got, want)
	}
	w.do("GET", "/", "").want(200, "170 objects of 17 types", "and 17 built-in", "Credentials: 12 deletions wait", "Variables: 3 not captured", "no &lt;name&gt;",
		"All but ServerSettings", "Nothing", "89 waits", "10 refused", "And 50 more")

	types[schemas.User] = producer.TypeStatus{}
	r = control.StatusReport{}
	w.do("GET", "/api/v1/status", "").want(200).into(&r)
	if !r.Sources[0].Complete.IsZero() {
		t.Errorf("complete at %s, and one type never was", r.Sources[0].Complete)
	}
}

func TestParked(t *testing.T) {
	w := newWorld(t)
	w.do("GET", "/api/v1/parked", "").want(200, `"items":[]`)
	w.busy()
	const one = "/api/v1/parked/b/Job/Contoso=2FShare"
	w.do("GET", "/api/v1/parked", "").want(200, `"id":"Contoso/Share"`, `"token":"Contoso=2FShare"`, `"id":"gone"`)
	w.do("GET", "/api/v1/parked?target=a", "").want(200, `"items":[]`)
	w.do("GET", one, "").want(200, `"fix":"rename it"`, `"version":"1.2"`)
	w.do("GET", "/api/v1/parked/b/Job/other", "").want(404, "not parked at b")
	w.do("GET", "/api/v1/parked/b/Jobs/other", "").want(422)
	w.do("GET", "/api/v1/parked/b/Job/=zz", "").want(422)

	w.do("POST", one+"/retry", "").want(202, `"retrying":true`)
	p, err := w.b.GetParked(t.Context(), "b", schemas.Job, "Contoso=2FShare")
	if err != nil || p.RetryAsked != 1 || p.RetryDone != 0 {
		t.Errorf("%+v, error %v", p, err)
	}
	w.do("POST", "/api/v1/parked/retry", "").want(202, `"asked":1`) // not the discarded one
	w.do("POST", "/api/v1/parked/retry?target=a", "").want(202, `"asked":0`)
	w.do("POST", "/api/v1/parked/b/Job/gone/retry", "").want(202, `"retrying":true`)
	if p, err := w.b.GetParked(t.Context(), "b", schemas.Job, "gone"); err != nil || p.Discarded != "" || p.RetryAsked != 1 {
		t.Errorf("a retry of what was discarded: %+v, error %v", p, err)
	}

	w.do("POST", one+"/discard", `{}`, "If-Match", "*").want(422, "reason")
	w.do("POST", one+"/discard", `{"reason":"  "}`, "If-Match", "*").want(422, "reason")
	w.do("POST", one+"/discard", `{"reason":"an old job"}`, "If-Match", "*").want(202, `"discarded":"an old job"`)
	if p, err := w.b.GetParked(t.Context(), "b", schemas.Job, "Contoso=2FShare"); err != nil || p.Discarded != "an old job" {
		t.Errorf("%+v, error %v", p, err)
	}
	records := w.audits()
	if last := records[len(records)-1]; last.Action != "parked.discard" || last.Object != "parked/b/Job/Contoso=2FShare" || !strings.Contains(last.Detail, "an old job") {
		t.Errorf("%+v", last)
	}
}

func TestThePage(t *testing.T) {
	w := newWorld(t)
	empty := w.do("GET", "/", "").want(200, "No sync settings yet", "Nothing is parked", "No changes yet", "Sync Server Objects")
	if ct := empty.header.Get("Content-Type"); ct != "text/html; charset=utf-8" {
		t.Error(ct)
	}
	w.busy()
	for i := range 25 {
		w.publish("a", schemas.Job, schemas.Added, schemas.ID(fmt.Sprintf("job-%02d", i)), 1)
	}
	a := w.do("GET", "/", "").want(200, "degraded", "logon on a: unauthorized", "12 deletions wait", "nobody answers", "target down", "2 in trouble", "202 Jobs",
		"&lt;script&gt;alert(1)&lt;/script&gt;", "&lt;b&gt;no&lt;/b&gt;", "rename it", "Discarded: not needed", "job-24", "job-05", `http-equiv="refresh"`, "prefers-color-scheme:dark")
	body := string(a.body)
	if strings.Contains(body, "<script") || strings.Contains(body, "<b>no") || strings.Contains(body, "job-04") {
		t.Error("a script, a name that is not escaped, or more than 20 changes")
	}
	csp := a.header.Get("Content-Security-Policy")
	if strings.Contains(csp, "unsafe") || !strings.Contains(csp, "default-src 'none'; style-src 'sha256-") {
		t.Errorf("policy %s", csp)
	}
	if strings.Contains(body, " style=") || strings.Contains(body, " onclick") {
		t.Error("the policy does not let this through")
	}
	w.do("HEAD", "/", "")
}

// TestStatusSaysWhyAListingDoesNotCome turns a setting on, which waits for a listing of its
// source (G7).
func TestStatusSaysWhyAListingDoesNotCome(t *testing.T) {
	w := newWorld(t)
	w.putServer("a", "b")
	w.do("POST", "/api/v1/settings", settingBody("one", "a", "b", true, allJobs)).want(201)
	snap, err := w.b.Snapshot(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	since := snap.Settings["one"].Since[schemas.Job]
	of := func(state producer.State, change func(*producer.Status, *producer.TypeStatus)) []producer.Status {
		p, ts := producer.Status{Server: "a", State: state, Since: at, Proves: true}, producer.TypeStatus{Complete: at, Revision: since + 1}
		if change != nil {
			change(&p, &ts)
		}
		p.Types = map[schemas.Type]producer.TypeStatus{schemas.Job: ts}
		return []producer.Status{p}
	}
	for _, c := range []struct {
		what    string
		sources []producer.Status
		want    string
	}{
		{"nobody captures it", nil, "captured by no producer"},
		{"all stand by", of(producer.Standby, nil), "captured by no producer"},
		{"it is on its way", of(producer.Capturing, nil), ""},
		{"the source is down", of(producer.Degraded, func(p *producer.Status, _ *producer.TypeStatus) { p.Class, p.Reason = "unreachable", "no route" }), "cannot be listed (unreachable: no route)"},
		{"the type cannot be listed", of(producer.Degraded, func(p *producer.Status, ts *producer.TypeStatus) {
			p.Partly, ts.Class, ts.Reason = true, "refused", "no"
		}), "cannot list Job (refused: no); mend that"},
		{"deletions are held", of(producer.Capturing, func(_ *producer.Status, ts *producer.TypeStatus) { ts.Held = 9 }), "holds 9 deletions of Job back"},
		{"objects cannot be captured", of(producer.Capturing, func(_ *producer.Status, ts *producer.TypeStatus) { ts.Stale, ts.RefusedWhy = 1, "too large" }), "objects of type Job that cannot be captured"},
		{"an older producer", of(producer.Capturing, func(p *producer.Status, ts *producer.TypeStatus) { p.Proves, ts.Revision = false, 0 }), "of an older release and does not store that: update it"},
		{"a key without the right", of(producer.Capturing, func(p *producer.Status, _ *producer.TypeStatus) { p.Unproven = "timeout" }), "run vcsync broker init of this release again"},
	} {
		w.roles.sources = c.sources
		var r control.StatusReport
		w.do("GET", "/api/v1/status", "").want(200).into(&r)
		if got := r.Settings[0].Unlisted; c.want == "" && got != "" || !strings.Contains(got, c.want) {
			t.Errorf("%s: %q, want %q", c.what, got, c.want)
		}
	}
	if err := w.b.SetListed(t.Context(), "a", map[schemas.Type]uint64{schemas.Job: since + 1}); err != nil {
		t.Fatal(err)
	}
	var r control.StatusReport
	if w.do("GET", "/api/v1/status", "").want(200).into(&r); r.Settings[0].Unlisted != "" {
		t.Errorf("once it is listed: %q", r.Settings[0].Unlisted)
	}
}
