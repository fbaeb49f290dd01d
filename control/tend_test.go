package control_test

import (
	"context"
	"log/slog"
	"math"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vcsync/vcsync/broker"
	"github.com/vcsync/vcsync/consumer"
	"github.com/vcsync/vcsync/control"
	"github.com/vcsync/vcsync/producer"
	"github.com/vcsync/vcsync/schemas"
)

// lister is a producer of which the test says what it has listed since when.
type lister struct {
	jobs  atomic.Uint64
	state atomic.Value // producer.Degraded where it is none
	// partly makes Job the only type that it cannot list.
	partly atomic.Bool
}

func (l *lister) Poke(schemas.Slug) {}
func (l *lister) Status() []producer.Status {
	state, ok := l.state.Load().(producer.State)
	if !ok {
		state = producer.Degraded
	}
	s := producer.Status{Server: "a", State: state, Types: map[schemas.Type]producer.TypeStatus{
		schemas.Job: {Revision: l.jobs.Load(), Class: "bad-answer", Reason: "the listing was cut"}}}
	if l.partly.Load() {
		s.State, s.Partly, s.Reason = producer.Degraded, true, "one type cannot be listed"
	}
	return []producer.Status{s}
}

type tended struct {
	*world
	l    *lister
	tend func() (stop func())
}

func newTended(t *testing.T) *tended {
	l := &lister{}
	w := newWorld(t, func(c *control.Config) { c.Sources, c.Log = l, slog.New(slog.DiscardHandler) })
	w.roles.targets = []consumer.TargetStatus{{Target: "b", State: consumer.Down, Reason: "nobody answers"}}
	w.putServer("a", "b")
	w.do("POST", "/api/v1/settings", settingBody("one", "a", "b", false, allJobs)).want(201)
	return &tended{w, l, func() func() {
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- w.s.TendRuns(ctx) }()
		return func() {
			cancel()
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
	}}
}

// phase waits until the run of setting one is in a phase.
func (w *tended) phase(want string) (r control.RunRecord) {
	w.t.Helper()
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		w.do("GET", "/api/v1/settings/one/run", "").want(200).into(&r)
		if r.Phase == want {
			return r
		}
		if time.Now().After(end) {
			w.t.Fatalf("the run is in phase %s, want %s: %s %s", r.Phase, want, r.Reason, r.Waits)
		}
	}
}

func (w *tended) plan(run, id, failed string) {
	w.t.Helper()
	err := w.b.PutPlan(w.t.Context(), broker.Plan{ID: id, Run: run, Setting: "one", Source: "a", Target: "b", Failed: failed,
		Counts: []broker.PlanCount{{Type: schemas.Job, Difference: broker.Different, Act: "update", Objects: 1}}},
		[]broker.PlanEntry{{Type: schemas.Job, ID: "x", Difference: broker.Different, Act: "update", Fields: []string{"Name"}}})
	if err != nil {
		w.t.Fatal(err)
	}
}

// A run goes from phase to phase as producers and consumers say, and no further: a plan
// is applied when it was approved, that plan and no other (G14), also where control was
// started anew in between.
func TestRunPhases(t *testing.T) {
	w := newTended(t)
	stop := w.tend()
	var r control.RunRecord
	w.do("POST", "/api/v1/settings/one/runs", `{"types":["Connection"]}`).want(422, "takes nothing of Connection")
	w.do("POST", "/api/v1/settings/one/runs", `{"dependencies":true}`).want(422, "name at least one")
	w.do("GET", "/api/v1/settings/one/run", "").want(404, "no run yet")
	w.do("POST", "/api/v1/settings/one/runs", `{}`).want(201, `"phase":"capture"`, "a fresh listing of Job at a", "the listing was cut").into(&r)
	w.do("POST", "/api/v1/settings/one/runs", `{}`).want(409, "under way", "--drop")
	w.do("POST", "/api/v1/settings/one/run/approve", `{"plan":"p"}`).want(409, "waits for no approval")
	run, err := w.b.GetRun(t.Context(), "one")
	if err != nil {
		t.Fatal(err)
	}
	w.l.jobs.Store(run.Revision - 1) // a listing that began before
	for range 3 {
		if p, _ := w.s.NextPhase(t.Context(), run, broker.StoredSetting{Setting: schemas.Setting{ID: "one", Source: "a", Rules: map[schemas.Type]schemas.Rule{schemas.Job: {Sync: schemas.SyncAll, Rights: schemas.Rights{New: true}}}}, Revision: run.SettingRevision}, true, 0); p != broker.RunCapture {
			t.Fatalf("a listing from before the run counts: %s", p)
		}
	}
	w.l.jobs.Store(run.Revision)
	if r = w.phase("plan"); !strings.Contains(r.Waits, "nobody answers") {
		t.Errorf("it waits for %q", r.Waits)
	}
	w.plan("another", "p0", "")
	w.plan(r.ID, "p1", "")
	if r = w.phase("shown"); r.Plan == nil || r.Plan.ID != "p1" || r.Plan.Changes != 1 {
		t.Errorf("%+v", r.Plan)
	}
	w.do("GET", "/api/v1/settings/one/run/plan?plan=p1", "").want(200, `"fields":["Name"]`, `"pages":1`)
	w.do("GET", "/api/v1/settings/one/run/plan?plan=p0", "").want(409, "newer list")
	w.do("POST", "/api/v1/settings/one/run/approve", `{"plan":"p0"}`).want(409, "another one")
	w.do("POST", "/api/v1/settings/one/run/drop", `{"run":"x"}`).want(409, "another one")
	stop()
	w.do("POST", "/api/v1/settings/one/run/approve", `{"plan":"p1"}`).want(200, `"phase":"applying"`)
	defer w.tend()()
	for _, g := range []broker.RunProgress{
		{Run: "another", Plan: "p1", Ended: true, Result: broker.RunFailed},
		{Run: r.ID, Plan: "p0", Ended: true, Result: broker.RunFailed},
		{Run: r.ID, Plan: "p1", Total: 1},
		{Run: r.ID, Plan: "p1", Total: 1, Done: 1, Ended: true, Result: broker.RunDone, Outcomes: map[broker.Outcome]int{broker.OutcomeDone: 1}},
	} {
		g.Setting = "one"
		if err := w.b.PutProgress(t.Context(), g); err != nil {
			t.Fatal(err)
		}
	}
	if r = w.phase("done"); r.Applied == nil || r.Applied.Done != 1 || r.Ended.IsZero() || !r.Over {
		t.Errorf("%+v", r)
	}
	w.do("POST", "/api/v1/settings/one/run/drop", `{"run":"`+r.ID+`"}`).want(409, "is over")

	// Settings that change drop what was shown (G13), and a plan that failed ends the run.
	w.l.jobs.Store(math.MaxUint64)
	w.do("POST", "/api/v1/settings/one/runs", `{}`).want(201).into(&r)
	w.phase("plan")
	w.plan(r.ID, "p2", "")
	w.phase("shown")
	w.do("PUT", "/api/v1/settings/one", settingBody("", "a", "b", false, `"description":"x",`+allJobs), "If-Match", "*").want(200)
	if r = w.phase("dropped"); !strings.Contains(r.Reason, "was changed") {
		t.Error(r.Reason)
	}
	w.do("POST", "/api/v1/settings/one/runs", `{"dryRun":true}`).want(201).into(&r)
	w.phase("plan")
	w.plan(r.ID, "p3", "")
	w.phase("done")
	w.do("POST", "/api/v1/settings/one/runs", `{}`).want(201).into(&r)
	w.phase("plan")
	w.plan(r.ID, "p4", "the target cannot be listed")
	if r = w.phase("failed"); r.Reason != "the target cannot be listed" {
		t.Error(r.Reason)
	}
	w.do("POST", "/api/v1/settings/one/runs", `{}`).want(201).into(&r)
	w.do("POST", "/api/v1/settings/one/run/drop", `{"run":"`+r.ID+`"}`).want(200, `"phase":"dropped"`)
	var asked, approved, dropped int
	for _, a := range w.audits() {
		switch a.Action {
		case "run.ask":
			asked++
		case "run.approve":
			approved++
		case "run.drop":
			dropped++
		}
	}
	if asked != 5 || approved != 1 || dropped != 1 {
		t.Errorf("%d runs asked for, %d approved and %d dropped in the audit, want 5, 1 and 1", asked, approved, dropped)
	}
}

// What nobody answers, or approves, ends by itself and says why.
func TestRunsEndInTime(t *testing.T) {
	w := newTended(t)
	snap, err := w.b.Snapshot(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	v := snap.Settings["one"]
	type row struct {
		phase  broker.RunPhase
		since  time.Duration
		known  bool
		newer  bool
		want   broker.RunPhase
		reason string
	}
	try := func(c row) {
		t.Helper()
		r := broker.StoredRun{Run: broker.Run{ID: "r", Setting: "one", SettingRevision: v.Revision, Phase: c.phase, Plan: "p"}, Revision: 1000}
		s := v
		if c.newer {
			s.Revision++
		}
		got, reason := w.s.NextPhase(t.Context(), r, s, c.known, c.since)
		if got != c.want || !strings.Contains(reason, c.reason) {
			t.Errorf("%s for %s, known %v, changed %v: %s (%s), want %s (%s)", c.phase, c.since, c.known, c.newer, got, reason, c.want, c.reason)
		}
	}
	for _, c := range []row{
		{broker.RunCapture, 4 * time.Minute, true, false, broker.RunCapture, ""},
		{broker.RunCapture, 6 * time.Minute, true, false, broker.RunFailed, "the listing was cut"},
		{broker.RunPlan, 4 * time.Minute, true, false, broker.RunPlan, ""},
		{broker.RunPlan, 6 * time.Minute, true, false, broker.RunFailed, "nobody answers"},
		{broker.RunShown, 50 * time.Minute, true, false, broker.RunShown, ""},
		{broker.RunShown, 70 * time.Minute, true, false, broker.RunDropped, "nobody approved"},
		{broker.RunApplying, 50 * time.Minute, true, false, broker.RunApplying, ""},
		{broker.RunApplying, 70 * time.Minute, true, false, broker.RunDropped, "the approval expired"},
		{broker.RunApplying, 0, true, true, broker.RunApplying, ""}, // its consumer ends it in order
		{broker.RunApplying, 0, false, false, broker.RunDropped, "gone"},
		{broker.RunCapture, 0, true, true, broker.RunDropped, "was changed"},
		{broker.RunPlan, 0, true, true, broker.RunDropped, "was changed"},
		{broker.RunShown, 0, true, true, broker.RunDropped, "was changed"},
		{broker.RunShown, 0, false, false, broker.RunDropped, "gone"},
	} {
		try(c)
	}
	// Large servers, and a window that opens at night, are given their time.
	w.roles.targets = []consumer.TargetStatus{{Target: "b", State: consumer.Working}}
	w.l.state.Store(producer.Capturing)
	for _, c := range []row{
		{broker.RunCapture, 50 * time.Minute, true, false, broker.RunCapture, ""},
		{broker.RunCapture, 70 * time.Minute, true, false, broker.RunFailed, "the listing was cut"},
		{broker.RunPlan, 100 * time.Minute, true, false, broker.RunPlan, ""},
		{broker.RunPlan, 130 * time.Minute, true, false, broker.RunFailed, "working"},
		{broker.RunApplying, 64 * time.Minute, true, false, broker.RunApplying, ""}, // its consumer says it of each object
		{broker.RunApplying, 66 * time.Minute, true, false, broker.RunDropped, "the approval expired"},
	} {
		try(c)
	}
	// Words of another run, or of another plan, end nothing.
	r := broker.StoredRun{Run: broker.Run{ID: "r", Setting: "one", SettingRevision: v.Revision, Phase: broker.RunApplying, Plan: "p"}}
	for _, g := range []broker.RunProgress{{Run: "r", Plan: "p0"}, {Run: "r0", Plan: "p"}, {Run: "r", Plan: "p"}} {
		g.Setting, g.Ended, g.Result = "one", true, broker.RunDone
		if err := w.b.PutProgress(t.Context(), g); err != nil {
			t.Fatal(err)
		}
		want := broker.RunApplying
		if g.Run == "r" && g.Plan == "p" {
			want = broker.RunDone
		}
		if got, _ := w.s.NextPhase(t.Context(), r, v, true, 0); got != want {
			t.Errorf("%s of %s: %s, want %s", g.Plan, g.Run, got, want)
		}
	}
}

// A server that goes and comes gives a run no time for ever, nor does a control process
// that begins anew.
func TestRunsEndThoughServersFlap(t *testing.T) {
	w := newTended(t)
	snap, err := w.b.Snapshot(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	v := snap.Settings["one"]
	run := func(p broker.RunPhase, asked, approved time.Duration) broker.StoredRun {
		now := time.Now()
		r := broker.Run{ID: "r", Setting: "one", SettingRevision: v.Revision, Phase: p, Plan: "p", Asked: now.Add(-asked)}
		if approved > 0 {
			r.Approved = now.Add(-approved)
		}
		return broker.StoredRun{Run: r, Revision: 1000}
	}
	stuck := func(time.Duration) int { return 0 }
	lists := func(at time.Duration) int { return int(at / (50 * time.Minute)) }
	takesBack := func(at time.Duration) int { return int(at/time.Minute) % 2 }
	for _, c := range []struct {
		name  string
		phase broker.RunPhase
		got   func(time.Duration) int
		long  time.Duration
		want  broker.RunPhase
	}{
		{"a source that flaps", broker.RunCapture, stuck, 50 * time.Minute, broker.RunCapture},
		{"a source that flaps for long", broker.RunCapture, stuck, 62 * time.Minute, broker.RunFailed},
		{"a source that flaps and gets on", broker.RunCapture, lists, 90 * time.Minute, broker.RunCapture},
		{"a producer that forgets", broker.RunCapture, takesBack, 63 * time.Minute, broker.RunFailed},
		{"a target that flaps", broker.RunPlan, stuck, 110 * time.Minute, broker.RunPlan},
		{"a target that flaps for long", broker.RunPlan, stuck, 122 * time.Minute, broker.RunFailed},
		{"an approval with a target that flaps", broker.RunApplying, stuck, 66 * time.Minute, broker.RunDropped},
	} {
		if got, why := w.s.PhaseAfterFlapping(t.Context(), run(c.phase, 0, 0), v, c.got, c.long); got != c.want {
			t.Errorf("%s, %s: %s (%s), want %s", c.name, c.long, got, why, c.want)
		}
	}
	for _, c := range []struct {
		phase           broker.RunPhase
		asked, approved time.Duration
		moved           time.Duration // before now, 0 for never
		want            broker.RunPhase
	}{
		{broker.RunCapture, 23 * time.Hour, 0, 0, broker.RunCapture},
		{broker.RunCapture, 25 * time.Hour, 0, 0, broker.RunFailed},
		{broker.RunPlan, 25 * time.Hour, 0, 0, broker.RunFailed},
		{broker.RunApplying, 2 * time.Hour, time.Minute, 0, broker.RunApplying},
		{broker.RunApplying, 2 * time.Hour, 66 * time.Minute, 0, broker.RunDropped},
		{broker.RunApplying, 2 * time.Hour, 66 * time.Minute, time.Minute, broker.RunApplying},
		{broker.RunApplying, 25 * time.Hour, 25 * time.Hour, time.Minute, broker.RunDropped},
		{broker.RunApplying, 7 * 24 * time.Hour, 0, 0, broker.RunDropped}, // of a release that did not note it
	} {
		g := broker.RunProgress{Run: "none", Setting: "one"}
		if c.moved > 0 {
			g = broker.RunProgress{Run: "r", Plan: "p", Setting: "one", Done: 1, Moved: time.Now().Add(-c.moved)}
		}
		if err := w.b.PutProgress(t.Context(), g); err != nil {
			t.Fatal(err)
		}
		if got, why := w.s.NextPhase(t.Context(), run(c.phase, c.asked, c.approved), v, true, 0); got != c.want {
			t.Errorf("%s, asked %s ago, approved %s ago, moved %s ago: %s (%s), want %s", c.phase, c.asked, c.approved, c.moved, got, why, c.want)
		}
	}
}

// Where a source cannot list one type, runs of the others have their time, and a run of
// that type says at once what is wrong.
func TestARunOfATypeThatIsFine(t *testing.T) {
	w := newTended(t)
	w.l.partly.Store(true)
	rule := schemas.Rule{Sync: schemas.SyncAll, Rights: schemas.Rights{New: true}}
	v := broker.StoredSetting{Setting: schemas.Setting{ID: "one", Source: "a", Target: "b", Rules: map[schemas.Type]schemas.Rule{schemas.Job: rule, schemas.Variable: rule}}, Revision: 1}
	for _, c := range []struct {
		types []schemas.Type
		want  broker.RunPhase
	}{
		{[]schemas.Type{schemas.Variable}, broker.RunCapture},
		{[]schemas.Type{schemas.Job}, broker.RunFailed},
		{nil, broker.RunFailed},
	} {
		r := broker.StoredRun{Run: broker.Run{ID: "r", Setting: "one", SettingRevision: 1, Phase: broker.RunCapture, Scope: broker.RunScope{Types: c.types}}, Revision: 1000}
		got, why := w.s.NextPhase(t.Context(), r, v, true, 10*time.Minute)
		if got != c.want || got == broker.RunFailed && !strings.Contains(why, "where Job cannot be listed: the listing was cut") {
			t.Errorf("%v: %s (%s), want %s", c.types, got, why, c.want)
		}
	}
	w.do("POST", "/api/v1/settings/one/runs", `{"types":["Job"]}`).want(201, "where Job cannot be listed: the listing was cut")
}
