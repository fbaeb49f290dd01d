package control_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/vcsync/vcsync/broker"
	"github.com/vcsync/vcsync/control"
	"github.com/vcsync/vcsync/schemas"
)

const policies = `"mode":"approve","targetEdits":"park","drift":"heal","versions":"any",` +
	`"windows":[{"kind":"allow","schedule":"0 22 * * 1-5","duration":"8h","timeZone":"Europe/Berlin"}],` +
	`"kept":[{"type":"Job","pointer":"/Description"}],"overrides":[{"type":"Job","id":"J","patch":{"Description":"of the test","Timeout":1.50}}],` +
	`"pins":[{"type":"Job","source":"ABCDEF00-1111-4222-8333-444444444444","target":"abcdef00-1111-4222-8333-444444444445"}],`

const narrowRule = `"rules":{"Job":{"sync":"all","new":true,"groups":["Finance"],"names":["*report*"]}}`

func TestPolicies(t *testing.T) {
	w := newWorld(t)
	w.putServer("a", "b")
	// A default is shown by its word, and stored as nothing.
	w.do("POST", "/api/v1/settings", settingBody("plain", "a", "b", true, `"mode":"automatic","drift":"report",`+allJobs)).
		want(201, `"mode":"automatic"`, `"targetEdits":"overwrite"`, `"drift":"report"`, `"versions":"same"`)
	w.do("POST", "/api/v1/settings", settingBody("one", "a", "b", true, policies+narrowRule)).want(201)
	got := w.do("GET", "/api/v1/settings/one", "").want(200, `"mode":"approve"`, `"targetEdits":"park"`, `"drift":"heal"`, `"versions":"any"`, `"timeZone":"Europe/Berlin"`,
		`"patch":{"Description":"of the test","Timeout":1.50}`, `"source":"abcdef00-1111-4222-8333-444444444444"`, `"groups":["Finance"]`, `"names":["*report*"]`)
	snap, err := w.b.Snapshot(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if s := snap.Settings["plain"]; s.Mode != schemas.Automatic || s.Drift != schemas.DriftReport || s.Windows != nil {
		t.Errorf("the defaults are stored as %+v", s)
	}
	// What was read can be written back, and is the same then.
	var r control.SettingRecord
	got.into(&r)
	body := strings.Replace(settingBody("", "a", "b", true, policies+narrowRule), `"mode":"approve",`, "", 1)
	w.do("PUT", "/api/v1/settings/one", body, "If-Match", got.etag()).want(200, `"mode":"automatic"`)
	w.do("POST", "/api/v1/settings/one/clone", `{"id":"two"}`, "If-Match", "*").want(201, `"drift":"heal"`, `"names":["*report*"]`, `"schedule":"0 22 * * 1-5"`)
	if a := w.audits(); !strings.Contains(a[1].Detail, "mode approve") || !strings.Contains(a[1].Detail, "1 windows, 1 kept fields, 1 overrides, 1 pins") || !strings.Contains(a[1].Detail, `of groups ["Finance"] named ["*report*"]`) {
		t.Errorf("the audit says %q", a[1].Detail)
	}

	for _, c := range []struct{ name, rules, says string }{
		{"a mode that there is not", `"mode":"manual",` + allJobs, "automatic"},
		{"edits", `"targetEdits":"merge",` + allJobs, "overwrite"},
		{"drift", `"drift":"never",` + allJobs, "heal"},
		{"versions", `"versions":"12",` + allJobs, "same"},
		{"a window's schedule", `"windows":[{"kind":"deny","schedule":"at night","duration":"8h"}],` + allJobs, "windows[0].schedule"},
		{"a window's zone", `"windows":[{"kind":"deny","schedule":"0 1 * * *","duration":"8h","timeZone":"Berlin"}],` + allJobs, "windows[0].timeZone"},
		{"a window's length", `"windows":[{"kind":"deny","schedule":"0 1 * * *","duration":"8"}],` + allJobs, "windows[0].duration"},
		{"a window's kind", `"windows":[{"kind":"maybe","schedule":"0 1 * * *","duration":"8h"}],` + allJobs, "windows[0].kind"},
		{"a member of a window", `"windows":[{"kind":"deny","schedule":"0 1 * * *","duration":"8h","from":"1"}],` + allJobs, "unexpected property"},
		{"no pointer", `"kept":[{"type":"Job","pointer":"Description"}],` + allJobs, "kept[0].pointer"},
		{"a patch that is no object", `"overrides":[{"type":"Job","patch":[1]}],` + allJobs, "overrides[0].patch"},
		{"an id in a pin", `"pins":[{"type":"Job","source":"00000000-0000-0000-0000-000000000000","target":"x"}],` + allJobs, "zero GUID"},
		{"groups beside listed", `"rules":{"Job":{"sync":"listed","groups":["x"],"objects":[{"id":"1","new":true}]}}`, "they narrow all"},
		{"an empty name", `"rules":{"Job":{"sync":"all","new":true,"names":[""]}}`, "rules.Job.names[0]"},
	} {
		t.Run(c.name, func(t *testing.T) {
			w.do("POST", "/api/v1/settings", settingBody("x", "a", "b", true, c.rules)).want(422, c.says)
		})
	}
	w.do("GET", "/api/v1/settings/x", "").want(404)
}

func TestOnOrOffForATime(t *testing.T) {
	w := newWorld(t)
	w.putServer("a", "b")
	w.do("POST", "/api/v1/settings", settingBody("one", "a", "b", true, allJobs)).want(201)
	off := w.do("POST", "/api/v1/settings/one/deactivate", `{"reason":"month end","for":"2h"}`, "If-Match", "*").want(200, `"active":false`, `"reason":"month end"`)
	var r control.SettingRecord
	if off.into(&r); time.Until(r.Until) < time.Hour || time.Until(r.Until) > 2*time.Hour {
		t.Errorf("until %s", r.Until)
	}
	if same := w.do("POST", "/api/v1/settings/one/deactivate", `{"reason":"month end","until":"`+r.Until.Format(time.RFC3339Nano)+`"}`, "If-Match", "*").want(200); same.etag() != off.etag() {
		t.Error("what is so already makes a new revision")
	}
	w.do("GET", "/api/v1/status", "").want(200, `"reason":"month end"`, `"until":"`)
	if a := w.audits(); len(a) != 2 || !strings.HasPrefix(a[1].Detail, "month end; until ") {
		t.Errorf("audited %+v", a)
	}
	// An edit leaves it, unless it turns the setting on or off itself; a copy has none.
	w.do("PUT", "/api/v1/settings/one", settingBody("", "a", "b", false, allJobs), "If-Match", "*").want(200, `"reason":"month end"`, `"until":"`)
	if two := w.do("POST", "/api/v1/settings/one/clone", `{"id":"two"}`, "If-Match", "*").want(201); strings.Contains(string(two.body), "until") {
		t.Errorf("the copy is to turn on: %s", two.body)
	}
	if on := w.do("PUT", "/api/v1/settings/one", settingBody("", "a", "b", true, allJobs), "If-Match", "*").want(200); strings.Contains(string(on.body), "month end") || strings.Contains(string(on.body), "until") {
		t.Errorf("an edit that turned it on: %s", on.body)
	}
	// What would come back as the other state than it is for good is refused.
	w.do("POST", "/api/v1/settings/one/activate", `{"for":"1h"}`, "If-Match", "*").want(409, "is on already, and for good")
	w.do("POST", "/api/v1/settings/two/deactivate", `{"for":"1h"}`, "If-Match", "*").want(409, "is off already, and for good")
	w.do("POST", "/api/v1/settings/two/activate", `{"for":"1h"}`, "If-Match", "*").want(200, `"until":"`)
	w.do("POST", "/api/v1/settings/two/activate", `{"for":"2h"}`, "If-Match", "*").want(200, `"until":"`)
	w.do("POST", "/api/v1/settings/two/deactivate", `{"for":"1h"}`, "If-Match", "*").want(409, "is on only until ", "off for good after it")
	w.do("POST", "/api/v1/settings/two/deactivate", "", "If-Match", "*").want(200, `"active":false`)
	w.do("POST", "/api/v1/settings/one/deactivate", "", "If-Match", "*").want(200)
	// Without a word it is for good.
	w.do("POST", "/api/v1/settings/one/activate", `{"for":"1h"}`, "If-Match", "*").want(200, `"until":"`)
	if good := w.do("POST", "/api/v1/settings/one/activate", "", "If-Match", "*").want(200); strings.Contains(string(good.body), "until") {
		t.Errorf("for good: %s", good.body)
	}
	for name, body := range map[string]string{
		"both":       `{"for":"1h","until":"2999-01-01T00:00:00Z"}`,
		"past":       `{"until":"2001-01-01T00:00:00Z"}`,
		"no time":    `{"for":"tomorrow"}`,
		"below zero": `{"for":"-1h"}`,
		"nothing":    `{"for":"1ns"}`,
		"a member":   `{"forever":true}`,
	} {
		t.Run(name, func(t *testing.T) {
			w.do("POST", "/api/v1/settings/one/deactivate", body, "If-Match", "*").want(422)
		})
	}
	w.do("GET", "/api/v1/settings/one", "").want(200, `"active":true`)
}

func TestWhoseTimeIsOverIsTurnedBack(t *testing.T) {
	w := newWorld(t)
	w.putServer("a", "b")
	past := time.Now().Add(-time.Minute).UTC().Truncate(time.Second)
	put := func(id, from, to schemas.Slug, active bool, until time.Time, reason string) {
		t.Helper()
		s := schemas.Setting{ID: id, Source: from, Target: to, Active: active, Policy: schemas.Keep, Until: until, Reason: reason,
			Rules: map[schemas.Type]schemas.Rule{schemas.Job: {Sync: schemas.SyncAll, Rights: schemas.Rights{New: true}}}}
		if _, err := w.b.PutSetting(t.Context(), s, 0); err != nil {
			t.Fatal(err)
		}
	}
	// Nothing of control ran when their time came.
	put("on", "a", "b", true, past, "a test")
	put("off", "a", "b", false, past, "")
	put("later", "a", "b", true, time.Now().Add(time.Hour), "")
	put("back", "b", "a", false, past, "") // it may not be turned on while "off" is
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- w.s.TendRuns(ctx) }()
	wait := func(what string, ok func(map[schemas.Slug]broker.StoredSetting) bool) map[schemas.Slug]broker.StoredSetting {
		t.Helper()
		for end := time.Now().Add(30 * time.Second); ; time.Sleep(5 * time.Millisecond) {
			snap, err := w.b.Snapshot(t.Context())
			if err == nil && ok(snap.Settings) {
				return snap.Settings
			}
			if time.Now().After(end) {
				t.Fatalf("%s: %+v, error %v", what, snap.Settings, err)
			}
		}
	}
	got := wait("both are turned back", func(s map[schemas.Slug]broker.StoredSetting) bool { return !s["on"].Active && s["off"].Active })
	if s := got["on"]; !s.Until.IsZero() || s.Reason != "turned back: it was only to be on until "+past.Format(time.RFC3339)+" (a test)" {
		t.Errorf("%+v", s.Setting)
	}
	if s := got["off"]; !s.Until.IsZero() || s.Reason != "turned back: it was only to be off until "+past.Format(time.RFC3339) {
		t.Errorf("%+v", s.Setting)
	}
	if s := got["later"]; !s.Active || s.Until.IsZero() {
		t.Errorf("before its time: %+v", s.Setting)
	}
	if s := got["back"]; s.Active || s.Until.IsZero() {
		t.Errorf("against another one: %+v", s.Setting)
	}
	w.do("POST", "/api/v1/settings/off/deactivate", "", "If-Match", "*").want(200)
	w.do("POST", "/api/v1/settings/later/deactivate", "", "If-Match", "*").want(200)
	wait("and the one that waited for another", func(s map[schemas.Slug]broker.StoredSetting) bool { return s["back"].Active })
	stop()
	if err := <-done; err != nil {
		t.Error(err)
	}
	var by []string
	for _, a := range w.audits() {
		if a.Who == "vcsync" {
			by = append(by, a.Action+" "+a.Object)
		}
	}
	if want := "setting.activate setting/off setting.deactivate setting/on setting.activate setting/back"; strings.Join(by, " ") != want {
		t.Errorf("audited %q, want %q", by, want)
	}
	if n := strings.Count(w.log.String(), "cannot be turned back"); n != 1 {
		t.Errorf("what could not be turned back was said %d times, want once", n)
	}
}

func TestLastKnownNames(t *testing.T) {
	w := newWorld(t)
	w.putServer("a", "b")
	publish := func(id schemas.ID, revision uint64, kind schemas.Kind, name string) {
		t.Helper()
		e := schemas.Event{Source: "a", Kind: kind, Version: schemas.Version{Epoch: 1, Revision: revision}, Time: time.Now(),
			Object: schemas.Object{Type: schemas.Job, ID: id, Name: name}}
		if kind != schemas.Deleted {
			e.Digest, e.Object.Body = schemas.DigestOf([]byte(name)), []byte(`{"Id":"x"}`)
		}
		header, data, err := e.Encode()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.b.JS().PublishMsg(t.Context(), &nats.Msg{Subject: e.Subject(), Header: header, Data: data}); err != nil {
			t.Fatal(err)
		}
		if err := w.b.WaitState(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	stored := func() map[schemas.ID]string {
		t.Helper()
		snap, err := w.b.Snapshot(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		out := map[schemas.ID]string{}
		for _, o := range snap.Settings["one"].Rules[schemas.Job].Objects {
			out[o.ID] = o.Name
		}
		for _, p := range snap.Settings["one"].Pins {
			out["pin of "+p.Source] = p.Name
		}
		return out
	}
	rules := func(more string) string {
		return `"pins":[{"type":"Job","source":"j1","target":"k1"}],"rules":{"Job":{"sync":"listed","objects":[{"id":"j1","new":true},{"id":"j2","new":true,"name":"as the admin calls it"},{"id":"j3","new":true}` + more + `]}}`
	}
	publish("j1", 1, schemas.Added, "Nightly")
	w.do("POST", "/api/v1/settings", settingBody("one", "a", "b", false, rules(""))).want(201, `"name":"Nightly"`)
	if got := stored(); got["j1"] != "Nightly" || got["j2"] != "as the admin calls it" || got["j3"] != "" || got["pin of j1"] != "Nightly" {
		t.Errorf("at the first save %v", got)
	}
	// It is called otherwise now, and the one that was not seen yet has a name.
	publish("j1", 2, schemas.Updated, "Nightly 2")
	publish("j3", 1, schemas.Added, "Third")
	if r := w.do("GET", "/api/v1/settings/one", "").want(200, `"name":"Nightly 2"`, `"name":"Third"`); strings.Contains(string(r.body), `"gone"`) {
		t.Errorf("nothing is gone: %s", r.body)
	}
	// Gone at the source, its row stays with the name that it had.
	publish("j1", 3, schemas.Deleted, "Nightly 2")
	w.do("GET", "/api/v1/settings/one", "").want(200, `"gone":[{"type":"Job","id":"j1","name":"Nightly 2"}]`)
	w.do("GET", "/api/v1/settings", "").want(200, `"gone":[{"type":"Job","id":"j1","name":"Nightly 2"}]`)
	// A save without names keeps what is known, also of many.
	var many strings.Builder
	for i := range 100 {
		fmt.Fprintf(&many, `,{"id":"never-%d","new":true}`, i)
	}
	w.do("PUT", "/api/v1/settings/one", settingBody("", "a", "b", false, strings.Replace(rules(many.String()), `,"name":"as the admin calls it"`, "", 1)), "If-Match", "*").want(200)
	if got := stored(); got["j1"] != "Nightly 2" || got["j2"] != "as the admin calls it" || got["j3"] != "Third" || got["never-7"] != "" || got["pin of j1"] != "Nightly 2" {
		t.Errorf("at a save without names %v", got)
	}
	w.do("GET", "/api/v1/settings/one", "").want(200, `"gone":[{"type":"Job","id":"j1","name":"Nightly 2"}]`)
}
