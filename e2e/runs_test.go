package e2e_test

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vcsync/vcsync/broker"
	"github.com/vcsync/vcsync/consumer"
	"github.com/vcsync/vcsync/consumer/decide"
	"github.com/vcsync/vcsync/e2e"
	"github.com/vcsync/vcsync/schemas"
)

// lines says what entries of a plan or of a drift list say, one line each: job, difference,
// act and outcome.
func lines(entries []broker.PlanEntry) []string {
	var out []string
	for _, e := range entries {
		line := fmt.Sprintf("%s %s: %s", e.Name, e.Difference, e.Act)
		if e.Would != "" {
			line += " " + e.Would
		}
		if e.Reason != "" {
			line += " (" + e.Reason + ")"
		}
		if e.Outcome != "" {
			line += " -> " + string(e.Outcome)
		}
		out = append(out, line)
	}
	slices.Sort(out)
	return out
}

func same(t *testing.T, what string, got []broker.PlanEntry, want ...string) {
	t.Helper()
	if g := lines(got); !slices.Equal(g, want) {
		t.Errorf("%s:\n%s\nwant:\n%s", what, strings.Join(g, "\n"), strings.Join(want, "\n"))
	}
}

const oneSetting = "production-to-test"

func wrote(t *testing.T, h *e2e.Host, what string, puts, deletes int) {
	t.Helper()
	if p, d := h.Count(); p != puts || d != deletes {
		t.Errorf("%s: %d puts and %d deletes at %s, want %d and %d", what, p, d, h.Name, puts, deletes)
	}
	if n := h.DeleteRequests(); deletes == 0 && n > 0 {
		t.Errorf("%s: %d requests to delete an object reached %s", what, n, h.Name)
	}
	h.Reset()
}

// TestARunOnASettingThatIsOff plans and applies with a setting that is inactive before,
// meanwhile and afterwards (G14).
func TestARunOnASettingThatIsOff(t *testing.T) {
	t.Parallel()
	world(t, []schemas.Slug{"test"}, func(w *e2e.World) {
		prod, test := w.Hosts["production"], w.Hosts["test"]
		set := e2e.AllJobs(oneSetting, "production", "test", schemas.Keep)
		set.Active = false
		w.Setting(set)
		putJob(t, prod, 1, "new")
		putJob(t, prod, 2, "as here")
		putJob(t, test, 2, "as there")
		putJob(t, test, 9, "the target's own")
		w.StartProducer()
		w.StartConsumer()
		time.Sleep(2 * time.Minute)
		test.Reset()
		if n := prod.Requests(); n != 0 {
			t.Errorf("%d requests to a source that nobody asked for", n)
		}
		prod.SetFaults(fault(func(_ http.ResponseWriter, r *http.Request) bool {
			if isList(r) {
				time.Sleep(20 * time.Second) // a plan that does not wait for the listing is made by then
			}
			return false
		}))

		p, entries := w.Ask(oneSetting, broker.RunScope{})
		same(t, "plan", entries,
			"Job 1 only at the source: add (new)",
			"Job 2 different: update (differs)",
			"Job 9 only at the target: nothing (not-from-source)")
		prod.SetFaults(nil)
		if i := slices.IndexFunc(entries, func(e broker.PlanEntry) bool { return e.Name == "Job 2" }); i < 0 || !slices.Equal(entries[i].Fields, []string{"/Description"}) {
			t.Errorf("changed fields of %+v", entries)
		}
		wrote(t, test, "a plan", 0, 0)
		end, entries := w.Approve(p)
		if end.Result != broker.RunDone || end.Total != 2 || end.Done != 2 {
			t.Errorf("progress %+v", end)
		}
		same(t, "result", entries,
			"Job 1 only at the source: add (new) -> done",
			"Job 2 different: update (differs) -> done",
			"Job 9 only at the target: nothing (not-from-source)")
		wrote(t, test, "what was approved", 2, 0)
		p, entries = w.Ask(oneSetting, broker.RunScope{})
		same(t, "a second plan", entries, "Job 9 only at the target: nothing (not-from-source)")
		if !slices.Contains(p.Counts, broker.PlanCount{Type: schemas.Job, Difference: broker.Equal, Act: "nothing", Objects: 2}) {
			t.Errorf("counts %+v", p.Counts)
		}
		w.Move(oneSetting, broker.RunDropped, "")
		putJob(t, prod, 1, "later")
		before := prod.Requests()
		time.Sleep(20 * time.Minute)
		if prod.Requests() != before {
			t.Errorf("%d requests to a source whose run is over", prod.Requests()-before)
		}
		wrote(t, test, "after the run", 0, 0)
	})
}

// TestAPlanIsAppliedAsItWasShownOrThatIsSaid changes the source, the target and the
// settings between plan and approval (G13, G14).
func TestAPlanIsAppliedAsItWasShownOrThatIsSaid(t *testing.T) {
	t.Parallel()
	world(t, []schemas.Slug{"test"}, func(w *e2e.World) {
		prod, test := w.Hosts["production"], w.Hosts["test"]
		set := e2e.AllJobs(oneSetting, "production", "test", schemas.Keep)
		set.Mode = schemas.Approve
		w.Setting(set)
		for i := range 6 {
			putJob(t, prod, i, "first")
		}
		w.StartProducer()
		w.StartConsumer()
		time.Sleep(2 * time.Minute)
		wrote(t, test, "approve writes nothing by itself", 0, 0)
		_, entries := w.Drift(oneSetting)
		if len(entries) != 6 || entries[0].Act != string(decide.Hold) || entries[0].Would != string(decide.Add) || entries[0].Reason != string(decide.NeedsApproval) {
			t.Errorf("drift list %v", lines(entries))
		}
		if a := account(t, w, w.Cons, oneSetting); a.Held != 6 || a.Captured != 6 || a.Unaccounted != 0 {
			t.Errorf("accounts %+v", a)
		}

		p, entries := w.Ask(oneSetting, broker.RunScope{Objects: []broker.RunObject{{Type: schemas.Job, ID: jobID(0)}}})
		same(t, "plan of one object", entries, "Job 0 only at the source: add (new)")
		if end, _ := w.Approve(p); end.Result != broker.RunDone {
			t.Errorf("progress %+v", end)
		}
		wrote(t, test, "one object", 1, 0)

		p, entries = w.Ask(oneSetting, broker.RunScope{})
		if len(entries) != 5 {
			t.Errorf("plan %v", lines(entries))
		}
		putJob(t, prod, 1, "second")
		putJob(t, test, 2, "by hand")
		time.Sleep(time.Minute)
		test.Reset()
		end, entries := w.Approve(p)
		same(t, "result", entries,
			"Job 1 only at the source: add (new) -> the source changed since",
			"Job 2 only at the source: add (new) -> the target changed since",
			"Job 3 only at the source: add (new) -> done",
			"Job 4 only at the source: add (new) -> done",
			"Job 5 only at the source: add (new) -> done")
		if end.Result != broker.RunDone || end.Outcomes[broker.OutcomeSource] != 1 || end.Outcomes[broker.OutcomeTarget] != 1 || end.Outcomes[broker.OutcomeDone] != 3 {
			t.Errorf("progress %+v", end)
		}
		wrote(t, test, "what was as planned", 3, 0)
		if a := account(t, w, w.Cons, oneSetting); a.Held != 2 || a.Applied != 4 || a.Superseded != 1 || a.Captured != 7 || a.Unaccounted != 0 {
			t.Errorf("accounts %+v", a)
		}

		p, _ = w.Ask(oneSetting, broker.RunScope{})
		set.Description = "changed"
		w.Setting(set)
		test.Reset()
		if end, entries := w.Approve(p); end.Result != broker.RunDropped || !strings.Contains(end.Reason, "changed") || slices.ContainsFunc(entries, func(e broker.PlanEntry) bool { return e.Outcome == broker.OutcomeDone }) {
			t.Errorf("progress %+v, %v", end, lines(entries))
		}
		wrote(t, test, "a plan of other settings", 0, 0)

		set.Mode = schemas.ReportOnly
		w.Setting(set)
		time.Sleep(time.Minute)
		p, entries = w.Ask(oneSetting, broker.RunScope{})
		same(t, "plan of a setting that only reports", entries,
			"Job 1 only at the source: hold add (report-only)",
			"Job 2 different: hold update (report-only)")
		if end, _ := w.Approve(p); end.Total != 0 {
			t.Errorf("progress %+v", end)
		}
		wrote(t, test, "report", 0, 0)
		if a := account(t, w, w.Cons, oneSetting); a.Held != 2 || a.Unaccounted != 0 {
			t.Errorf("accounts %+v", a)
		}
		if p, _ := w.Ask("production-to-test", broker.RunScope{Types: []schemas.Type{schemas.Variable}}); p.Failed != "" || p.Entries != 0 {
			t.Errorf("plan of a type that is not taken: %+v", p)
		}
	})
}

// TestARunTakesDependenciesAlong asks for single objects, with and without what they refer
// to.
func TestARunTakesDependenciesAlong(t *testing.T) {
	t.Parallel()
	world(t, []schemas.Slug{"test"}, func(w *e2e.World) {
		prod, test := w.Hosts["production"], w.Hosts["test"]
		set := e2e.AllJobs(oneSetting, "production", "test", schemas.Keep)
		set.Mode = schemas.Approve
		w.Setting(set)
		putText(t, prod, schemas.Credential, credentialOf("d"))
		for i := range 3 {
			selfJob(t, prod, i, true, "first", `,"X":{"Credential":"`+string(someCredential)+`"}`)
		}
		w.StartProducer()
		w.StartConsumer()
		one := func(i int) broker.RunScope {
			return broker.RunScope{Objects: []broker.RunObject{{Type: schemas.Job, ID: jobID(i)}}}
		}
		p, entries := w.Ask(oneSetting, one(1))
		same(t, "plan without", entries, "Job 1 only at the source: add (new)")
		if len(p.Warnings) != 1 || !strings.Contains(p.Warnings[0], string(someCredential)) {
			t.Errorf("warnings %q", p.Warnings)
		}
		_, entries = w.Approve(p)
		same(t, "result without", entries, "Job 1 only at the source: add (new) -> done")
		// It is as at the source now, and what it refers to is still not there.
		if p, _ = w.Ask(oneSetting, one(1)); len(p.Warnings) != 1 || !strings.Contains(p.Warnings[0], "--with-dependencies") {
			t.Errorf("warnings of the next plan %q", p.Warnings)
		}
		w.Move(oneSetting, broker.RunDropped, "")
		selfJob(t, prod, 5, true, "first", `,"X":{"Job":"`+string(jobID(6))+`"}`)
		if p, _ = w.Ask(oneSetting, one(5)); len(p.Warnings) != 1 || !strings.HasSuffix(p.Warnings[0], "the source has none either") {
			t.Errorf("warnings of a plan of what refers to nothing %q", p.Warnings)
		}
		w.Move(oneSetting, broker.RunDropped, "")
		with := one(2)
		with.Dependencies = true
		p, entries = w.Ask(oneSetting, with)
		if len(entries) != 2 || entries[0].Type != schemas.Credential || p.Warnings != nil {
			t.Errorf("plan with dependencies %v, warnings %q", lines(entries), p.Warnings)
		}
		test.Reset()
		end, entries := w.Approve(p)
		if end.Result != broker.RunDone || end.Outcomes[broker.OutcomeDone] != 2 {
			t.Errorf("progress %+v, %v", end, lines(entries))
		}
		if got := test.Seen(); len(got) != 2 || got[0].Type != schemas.Credential {
			t.Errorf("writes %+v", got)
		}
		time.Sleep(20 * time.Minute)
		wrote(t, test, "later", 2, 0)
	})
}

// TestARunOutlivesItsConsumer kills the consumer in the middle of applying (G14, G3).
func TestARunOutlivesItsConsumer(t *testing.T) {
	t.Parallel()
	world(t, []schemas.Slug{"test"}, func(w *e2e.World) {
		prod, test := w.Hosts["production"], w.Hosts["test"]
		set := e2e.AllJobs(oneSetting, "production", "test", schemas.Keep)
		set.Active = false
		w.Setting(set)
		const jobs = 60
		for i := range jobs {
			putJob(t, prod, i, "first")
		}
		w.StartProducer()
		w.StartConsumer()
		p, entries := w.Ask(oneSetting, broker.RunScope{})
		if len(entries) != jobs {
			t.Fatalf("plan %v", lines(entries))
		}
		test.SetFaults(fault(func(_ http.ResponseWriter, r *http.Request) bool {
			if r.Method == http.MethodPut {
				time.Sleep(time.Second)
			}
			return false
		}))
		w.Move(oneSetting, broker.RunApplying, p.ID)
		time.Sleep(4 * time.Second)
		w.StopConsumer(consumer.ErrCrash)
		puts, _ := test.Count()
		if puts == 0 || puts == jobs {
			t.Errorf("%d puts at the crash: not in the middle", puts)
		}
		w.StartConsumer()
		end, entries := w.Finish(p)
		if end.Result != broker.RunDone || end.Outcomes[broker.OutcomeDone] != jobs || len(entries) != jobs {
			t.Errorf("progress %+v", end)
		}
		if d := e2e.Diverged(prod, test, schemas.Keep); d != nil {
			t.Errorf("diverged: %v", d)
		}
		if puts, _ := test.Count(); puts > jobs+8 { // only what was under way may be written twice
			t.Errorf("%d puts for %d jobs", puts, jobs)
		}
		if test.Broken != nil {
			t.Error(test.Broken)
		}
		w.Do(func(ctx context.Context) error { // and nothing is left of it
			r, err := w.Broker.GetRun(ctx, oneSetting)
			if err == nil && r.Phase != broker.RunDone {
				err = fmt.Errorf("run %+v", r)
			}
			return err
		})
	})
}

// TestDriftIsFoundAndHealed edits, deletes and adds at the target, and lets a target undo
// what heals it (G8).
func TestDriftIsFoundAndHealed(t *testing.T) {
	t.Parallel()
	world(t, []schemas.Slug{"test"}, func(w *e2e.World) {
		prod, test := w.Hosts["production"], w.Hosts["test"]
		set := e2e.AllJobs(oneSetting, "production", "test", schemas.Keep)
		w.Setting(set)
		for i := range 4 {
			putJob(t, prod, i, "first")
		}
		w.StartProducer()
		w.StartConsumer()
		time.Sleep(2 * time.Minute)
		if d, entries := w.Drift(oneSetting); d.Began.IsZero() || len(entries) != 0 {
			t.Errorf("drift %+v: %v", d, lines(entries))
		}
		test.Reset()
		putJob(t, test, 1, "by hand")
		deleteJob(t, test, 2)
		putJob(t, test, 9, "its own")
		time.Sleep(16 * time.Minute)
		_, entries := w.Drift(oneSetting)
		found := []string{
			"Job 1 different: hold update (drift)",
			"Job 2 only at the source: hold add (drift)",
			"Job 9 only at the target: nothing (not-from-source)"}
		same(t, "drift", entries, found...)
		wrote(t, test, "drift that is reported", 0, 0)
		if a := account(t, w, w.Cons, oneSetting); a.Applied != 4 || a.Held != 0 || a.Unaccounted != 0 {
			t.Errorf("accounts %+v", a)
		}
		// At a reconnect the target is compared again.
		began, _ := w.Drift(oneSetting)
		test.SetFaults(fault(func(rw http.ResponseWriter, _ *http.Request) bool {
			rw.WriteHeader(http.StatusServiceUnavailable)
			return true
		}))
		putJob(t, prod, 0, "second")
		time.Sleep(time.Minute)
		test.SetFaults(nil)
		time.Sleep(2 * time.Minute)
		if d, entries := w.Drift(oneSetting); !d.Began.After(began.Began) || d.Cause != "reconnect" {
			t.Errorf("drift after a reconnect %+v: %v", d, lines(entries))
		}
		test.Reset()

		set.Drift = schemas.DriftHeal
		w.Setting(set)
		time.Sleep(2 * time.Minute)
		wrote(t, test, "drift that is healed", 2, 0)
		_, entries = w.Drift(oneSetting)
		same(t, "drift after healing", entries, found[2])
		time.Sleep(time.Hour)
		wrote(t, test, "healing is quiet", 0, 0)

		// Something at the target that keeps changing an object is not fought for ever.
		for range 8 {
			putJob(t, test, 1, "again and again")
			time.Sleep(15 * time.Minute)
		}
		wrote(t, test, "an object that is changed back each time", 3, 0)
		_, entries = w.Drift(oneSetting)
		same(t, "drift that comes back", entries, "Job 1 different: hold update (comes-back)", found[2])
		if a := account(t, w, w.Cons, oneSetting); a.Applied != 5 || a.Unaccounted != 0 {
			t.Errorf("accounts %+v", a)
		}
	})
}
