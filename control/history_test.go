package control_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/vcsync/vcsync/broker"
	"github.com/vcsync/vcsync/control"
	"github.com/vcsync/vcsync/schemas"
	"github.com/vcsync/vcsync/visualcron"
)

// capture stores the next version of an object as a producer does: sealed, and with the
// event that it replaces. An empty body is a deletion.
func (w *world) capture(source schemas.Slug, t schemas.Type, id schemas.ID, revision uint64, who, body string) {
	w.t.Helper()
	ctx := w.t.Context()
	e := schemas.Event{Source: source, Kind: schemas.Deleted, Version: schemas.Version{Epoch: 1, Revision: revision}, Who: who, Time: time.Now().UTC(),
		Object: schemas.Object{Type: t, ID: id, Name: "Nightly"}}
	last, err := w.b.LastEvent(ctx, e.Key())
	if err != nil && revision > 1 {
		w.t.Fatal(err)
	}
	if body != "" {
		n, err := visualcron.Normalize(t, []byte(body), w.b.Keys.Digest)
		if err != nil {
			w.t.Fatal(err)
		}
		sealed, places, err := visualcron.SealBody(t, []byte(body), func(pointer, secret string) string {
			return w.b.Keys.Seal(schemas.SealContext(source, t, id, pointer), secret)
		})
		if err != nil {
			w.t.Fatal(err)
		}
		e.Kind, e.Digest, e.Object.Body, e.Object.Sealed = schemas.Updated, n.Digest, jsontext.Value(sealed), places
		if last.Head.Version.IsZero() || last.Head.Kind == schemas.Deleted {
			e.Kind = schemas.Added
		}
	}
	stored, err := w.b.Publish(ctx, []broker.Change{{Event: e, After: last.Seq}})
	if err != nil || stored[0].Err != nil {
		w.t.Fatal(err, stored)
	}
	if err := w.b.WaitState(ctx); err != nil {
		w.t.Fatal(err)
	}
}

const historyJob = "10000000-1111-4222-8333-000000000001"

func TestHistory(t *testing.T) {
	w := newWorld(t)
	ctx := t.Context()
	path := "/api/v1/history/Job/" + historyJob
	w.do("GET", path, "").want(404, "Nothing was ever captured of Job/"+historyJob)
	body := func(description, password string, more string) string {
		return fmt.Sprintf(`{"Id":%q,"Name":"Nightly","Description":%q,"Tasks":[{"Id":"10000000-1111-4222-8333-000000000002","Name":"Run","Password":%q}]%s}`, historyJob, description, password, more)
	}
	w.capture("production", schemas.Job, historyJob, 1, "åsa", body("first", "hidden-1", ""))
	w.capture("production", schemas.Job, historyJob, 2, "bo", body("second", "hidden-2", ""))
	w.capture("production", schemas.Job, historyJob, 3, "bo", body("second", "hidden-2", `,"Script":"`+noiseOf(7)+`"`)) // lies in the object store
	w.capture("production", schemas.Job, historyJob, 4, "", "")
	w.capture("production", schemas.Job, historyJob, 5, "cy", body("again", "hidden-2", ""))

	for _, id := range []schemas.Slug{"production", "test", "standby", "far"} {
		if _, err := w.b.PutServer(ctx, schemas.Server{ID: id, Connector: "bridge", Address: "http://" + string(id) + ".invalid", User: "sync"}, 0); err != nil {
			t.Fatal(err)
		}
	}
	take := map[schemas.Type]schemas.Rule{schemas.Job: {Sync: schemas.SyncAll, Rights: schemas.Rights{New: true}}}
	for _, v := range []schemas.Setting{
		{ID: "to-test", Source: "production", Target: "test", Active: true, Rules: take, Pins: []schemas.Pin{{Type: schemas.Job, Source: historyJob, Target: "other"}}},
		{ID: "to-standby", Source: "production", Target: "standby", Active: true, Rules: take},
	} {
		v.Normalize()
		if _, err := w.b.PutSetting(ctx, v, 0); err != nil {
			t.Fatal(err)
		}
	}
	ledger, err := w.b.OpenLedger(ctx, "test")
	if err != nil {
		t.Fatal(err)
	}
	defer ledger.Close()
	for _, e := range []broker.Entry{{Type: schemas.Job, ID: "other", SourceID: historyJob, Source: "production", Version: schemas.Version{Epoch: 1, Revision: 2}, State: broker.Applied, At: time.Now()},
		{Type: schemas.Job, ID: historyJob, Source: "elsewhere", Version: schemas.Version{Epoch: 1, Revision: 9}, State: broker.Applied}} {
		if err := ledger.Put(ctx, e); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := w.b.PutParked(ctx, broker.Parked{Target: "test", Setting: "to-test", Source: "production", Type: schemas.Job, ID: "other", Token: schemas.ID("other").Token(),
		Version: schemas.Version{Epoch: 1, Revision: 5}, Class: "refused", Reason: "the server says no"}); err != nil {
		t.Fatal(err)
	}
	if err := w.b.PutDrift(ctx, broker.DriftList{ID: "d", Setting: "to-standby"}, []broker.PlanEntry{{Type: schemas.Job, ID: historyJob, Act: "hold", Why: "waits for approval",
		Version: schemas.Version{Epoch: 1, Revision: 5}}}); err != nil {
		t.Fatal(err)
	}

	var h control.HistoryRecord
	w.do("GET", path, "").want(200).into(&h)
	var got []string
	for _, v := range h.Versions {
		got = append(got, fmt.Sprintf("%s %s %s against %q %v %s", v.Version, v.Kind, v.Who, v.Against, v.Fields, v.Problem))
	}
	want := []string{`1.5 added cy against "" [] `, `1.4 deleted  against "" [] `, `1.3 updated bo against "1.2" [/Script] `, `1.2 updated bo against "1.1" [/Description /Tasks/0/Password] `, `1.1 added åsa against "" [] `}
	if !slices.Equal(got, want) || h.Lost != 0 || h.Older != 0 {
		t.Errorf("versions\n%s\nwant\n%s\n%+v", strings.Join(got, "\n"), strings.Join(want, "\n"), h)
	}
	got = nil
	for _, p := range h.Places {
		got = append(got, fmt.Sprintf("%s %s %s %s %v %s", p.Target, p.ID, p.Version, p.State, p.Newest, p.Held))
	}
	want = []string{"standby    false hold: waits for approval", "test other 1.2 applied false parked, refused: the server says no"}
	if !slices.Equal(got, want) {
		t.Errorf("places\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	w.do("GET", path+"?limit=2", "").want(200, `"older":3`, `"version":"1.4"`).lacks(`"version":"1.3"`)

	w.do("GET", path+"/versions/2", "").want(200, `"Description":"second"`, `"Password":"***"`)
	w.do("GET", path+"/versions/1.3", "").want(200, `"Script":"`)
	w.do("GET", path+"/versions/4", "").want(200, `"kind":"deleted"`).lacks(`"body"`)
	w.do("GET", path+"/versions/1.9", "").want(404, "it keeps 20 of each kind, now 1.1 to 1.5")
	w.do("GET", path+"/versions/x", "").want(422)
	w.do("GET", path+"/changes?to=2", "").want(200, `"from":"1.1"`, `{"field":"/Description","old":"first","new":"second"}`, `{"field":"/Tasks/0/Password","old":"***","new":"***"}`)
	w.do("GET", path+"/changes?from=1.1&to=1.5", "").want(200, `"new":"again"`)
	w.do("GET", path+"/changes?from=1.5&to=1.1", "").want(200, `"new":"first"`)
	w.do("GET", path+"/changes?to=1", "").want(200, `"field":""`, `"new":{`).lacks(`"from"`)

	// What the stream holds no more is said.
	for rev := uint64(6); rev < 40; rev++ {
		w.capture("production", schemas.Job, historyJob, rev, "", body(fmt.Sprint("edit ", rev), "hidden-3", ""))
	}
	h = control.HistoryRecord{}
	w.do("GET", path+"?limit=60", "").want(200).into(&h)
	if i := slices.IndexFunc(h.Versions, func(v control.VersionRecord) bool { return v.Version == "1.20" }); h.Lost != 16 || i < 0 || h.Versions[i].Lost != 14 || h.Versions[i].Against != "1.5" {
		t.Errorf("of 39 versions: %d lost, %+v", h.Lost, h.Versions)
	}
	w.do("GET", path+"/changes?from=1.5&to=1.20", "").want(200, `"lost":14`)

	// Two sources have it: which is meant has to be said.
	w.capture("elsewhere", schemas.Job, historyJob, 1, "", body("first", "hidden-1", ""))
	w.do("GET", path, "").want(409, "was captured at elsewhere and production")
	w.do("GET", path+"?source=elsewhere", "").want(200, `"version":"1.1"`)
	w.do("GET", path+"?source=nobody", "").want(404)
	w.do("GET", "/api/v1/history/Jobs/x", "").want(422)
	for _, secret := range []string{"hidden-", w.b.Keys.Digest(`"hidden-1"`), "sealed:"} {
		if strings.Contains(w.answers.String(), secret) || strings.Contains(w.log.String(), secret) {
			t.Errorf("%q is shown", secret)
		}
	}
}

// A body that is lost, or that was written by another program, hides no other version.
func TestHistoryWithLostContent(t *testing.T) {
	w := newWorld(t)
	for rev := uint64(1); rev < 4; rev++ {
		w.capture("production", schemas.Job, historyJob, rev, "", fmt.Sprintf(`{"Id":%q,"Name":"Nightly","Description":"%d %s"}`, historyJob, rev, noiseOf(rev)))
	}
	s, err := w.b.JS().Stream(t.Context(), "OBJ_"+broker.BucketBodies)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Purge(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.capture("production", schemas.Job, historyJob, 4, "", fmt.Sprintf(`{"Id":%q,"Name":"Nightly"}`, historyJob))
	w.capture("production", schemas.Job, historyJob, 5, "", fmt.Sprintf(`{"Id":%q,"Name":"Nightly","Description":"new"}`, historyJob))
	path := "/api/v1/history/Job/" + historyJob
	w.do("GET", path, "").want(200, `"against":"1.4","fields":["/Description"]`, `"problem":`, `is not there`)
	w.do("GET", path+"/versions/2", "").want(409, "The content of version 1.2 cannot be read", "Other versions are as they were")
	w.do("GET", path+"/changes?to=4", "").want(409)
}

// noiseOf returns a text that no compression makes small.
func noiseOf(seed uint64) string {
	r := rand.New(rand.NewPCG(seed, 1))
	b := make([]byte, 8<<20)
	for i := range b {
		b[i] = 'a' + byte(r.IntN(26))
	}
	return string(b)
}

// lacks tells that an answer does not hold a text.
func (a answer) lacks(text string) {
	a.t.Helper()
	if strings.Contains(string(a.body), text) {
		a.t.Errorf("the answer holds %s: %.300s", text, a.body)
	}
}
