package e2e_test

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/vcsync/vcsync/broker"
	"github.com/vcsync/vcsync/consumer"
	"github.com/vcsync/vcsync/e2e"
	"github.com/vcsync/vcsync/schemas"
)

// deleting runs f where a target has n jobs of production, whose own airlock lets all
// through.
func deleting(t *testing.T, n int, with func(*schemas.Setting), f func(w *e2e.World, prod, test *e2e.Host)) {
	t.Helper()
	world(t, []schemas.Slug{"test"}, func(w *e2e.World) {
		prod, test := w.Hosts["production"], w.Hosts["test"]
		believeAll(w)
		if with != nil {
			changeOne(w, with)
		}
		for i := range n {
			putJob(t, prod, i, "first")
		}
		w.StartProducer()
		w.StartConsumer()
		within(t, w, time.Minute, "test")
		test.Reset()
		f(w, prod, test)
	})
}

// believeAll makes the airlock at the source believe every deletion.
func believeAll(w *e2e.World) {
	w.T.Helper()
	w.Do(func(ctx context.Context) error {
		snap, err := w.Broker.Snapshot(ctx)
		if err != nil {
			return err
		}
		s := snap.Servers["production"]
		s.Deletes = map[schemas.Type]schemas.Measure{}
		for _, t := range schemas.Types() {
			s.Deletes[t] = schemas.Measure{Number: 1000, Share: 100}
		}
		_, err = w.Broker.PutServer(ctx, s.Server, s.Revision)
		return err
	})
}

// changeOne edits the one setting.
func changeOne(w *e2e.World, with func(*schemas.Setting)) {
	w.T.Helper()
	w.Do(func(ctx context.Context) error {
		snap, err := w.Broker.Snapshot(ctx)
		if err != nil {
			return err
		}
		s := snap.Settings[oneSetting]
		v := s.Setting.Clone()
		if with(&v); v.Active {
			v.Since = snap.Since(v)
		}
		_, err = w.Broker.PutSetting(ctx, v, s.Revision)
		return err
	})
}

func deleteJobs(t *testing.T, h *e2e.Host, from, to int) {
	t.Helper()
	for i := from; i < to; i++ {
		deleteJob(t, h, i)
	}
}

// heldAtTarget returns what waits in the airlock at the target.
func heldAtTarget(w *e2e.World) (h broker.HeldDeletions) {
	w.T.Helper()
	w.Do(func(ctx context.Context) (err error) { h, err = w.Broker.HeldDeletions(ctx, oneSetting); return err })
	return h
}

// deleted says how many deletions the target has had since the last time, how many wait
// and how many were rejected, and that the accounts balance.
func deleted(t *testing.T, w *e2e.World, what string, deletes, waiting, rejected int) broker.HeldDeletions {
	t.Helper()
	test := w.Hosts["test"]
	_, n := test.Count()
	h := heldAtTarget(w)
	if n != deletes || len(h.Waiting) != waiting || len(h.Rejected) != rejected {
		t.Fatalf("%s: %d deletions, %d wait and %d are rejected, want %d, %d and %d\n%v", what, n, len(h.Waiting), len(h.Rejected), deletes, waiting, rejected, h)
	}
	test.Reset()
	for _, s := range settingsOf(w) {
		if a := s.Accounting; a == nil || a.Unaccounted > 0 || int(a.Held) != waiting+rejected {
			t.Errorf("%s: the accounts are %+v, want %d held", what, a, waiting+rejected)
		}
		if s.DeletesHeld != waiting {
			t.Errorf("%s: the status says that %d wait, want %d", what, s.DeletesHeld, waiting)
		}
	}
	return h
}

func settingsOf(w *e2e.World) []consumer.SettingStatus {
	_, settings := w.Cons.Status()
	return settings
}

// approveHeld lets held deletions through the airlock as control does, and waits until that is
// done. It returns what became of them.
func approveHeld(w *e2e.World, entries ...broker.PlanEntry) (outcomes map[broker.Outcome]int) {
	w.T.Helper()
	var r broker.Run
	var p broker.Plan
	w.Do(func(ctx context.Context) error {
		snap, err := w.Broker.Snapshot(ctx)
		if err != nil {
			return err
		}
		if r, err = w.Broker.ApproveDeletions(ctx, snap.Settings[oneSetting], "a batch", entries, "test"); err != nil {
			return err
		}
		p, err = w.Broker.GetPlan(ctx, oneSetting)
		return err
	})
	if p.Run != r.ID {
		w.T.Fatalf("the plan is of run %s, want %s", p.Run, r.ID)
	}
	end, _ := w.Finish(p)
	return end.Outcomes
}

// rejectHeld makes deletions stay undone.
func rejectHeld(w *e2e.World, entries ...broker.PlanEntry) {
	w.T.Helper()
	w.Do(func(ctx context.Context) error {
		snap, err := w.Broker.Snapshot(ctx)
		if err != nil {
			return err
		}
		v := snap.Verdicts[oneSetting]
		v.Setting = oneSetting
		for _, e := range entries {
			v.Rejected = append(v.Rejected, broker.RejectedDeletion{Source: e.Source, Type: e.Type, ID: e.ID, Version: e.Version, Batch: "a batch", Who: "test", At: time.Now(), Reason: "for the test"})
		}
		_, err = w.Broker.PutVerdicts(ctx, v)
		return err
	})
}

// TestTheMeasureAtTheTarget: up to the measure is deleted, in one pass or in small numbers
// pass after pass; one more is held, and stays so when the 24 hours are over.
func TestTheMeasureAtTheTarget(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		measure       schemas.Measure
		jobs, deletes int
		passes        []int // deletions at the source
	}{
		"number, at the limit":         {schemas.Measure{Number: 5, Share: 10}, 20, 5, []int{5}},
		"number, one beyond":           {schemas.Measure{Number: 5, Share: 10}, 20, 5, []int{6}},
		"share, at the limit":          {schemas.Measure{Number: 1, Share: 20}, 30, 6, []int{6}},
		"share, one beyond":            {schemas.Measure{Number: 1, Share: 20}, 30, 6, []int{7}},
		"small numbers":                {schemas.Measure{Number: 4, Share: 0}, 20, 4, []int{2, 1, 1, 1, 2}},
		"none at all":                  {schemas.Measure{}, 5, 0, []int{1}},
		"everything, which is allowed": {schemas.Measure{Share: 100}, 8, 8, []int{3, 5}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			deleting(t, c.jobs, func(s *schemas.Setting) { s.Deletes = map[schemas.Type]schemas.Measure{schemas.Job: c.measure} }, func(w *e2e.World, prod, test *e2e.Host) {
				gone := 0
				for _, n := range c.passes {
					deleteJobs(t, prod, gone, gone+n)
					gone += n
					time.Sleep(time.Minute)
				}
				time.Sleep(time.Minute)
				h := deleted(t, w, "after the passes", c.deletes, gone-c.deletes, 0)
				for _, e := range h.Waiting {
					if e.Reason != "airlock" || e.Would != "delete" || !strings.Contains(e.Why, string(oneSetting)) {
						t.Errorf("held: %+v", e)
					}
				}
			})
		})
	}
}

// TestWhatIsHeldStaysHeld: neither another holder of the target nor another measure lets
// through what waits; what is deleted at the source afterwards is measured anew.
func TestWhatIsHeldStaysHeld(t *testing.T) {
	t.Parallel()
	deleting(t, 12, nil, func(w *e2e.World, prod, test *e2e.Host) {
		deleteJobs(t, prod, 0, 7)
		time.Sleep(2 * time.Minute)
		deleted(t, w, "seven are gone", 5, 2, 0)
		w.StopConsumer(nil)
		w.StartConsumer()
		deleteJob(t, prod, 7)
		time.Sleep(2 * time.Minute)
		deleted(t, w, "taken over, and one more is gone", 0, 3, 0)
		changeOne(w, func(s *schemas.Setting) { s.Deletes = map[schemas.Type]schemas.Measure{schemas.Job: {Number: 100}} })
		time.Sleep(2 * time.Minute)
		deleted(t, w, "another measure", 0, 3, 0)
		deleteJob(t, prod, 8)
		time.Sleep(2 * time.Minute)
		deleted(t, w, "one more by that", 1, 3, 0)
	})
}

// TestWhatIsInUseIsNotMeasured: of three deletions at once, one is of a job that another one
// at the target refers to. It uses up nothing of the measure.
func TestWhatIsInUseIsNotMeasured(t *testing.T) {
	t.Parallel()
	deleting(t, 8, func(s *schemas.Setting) { s.Deletes = map[schemas.Type]schemas.Measure{schemas.Job: {Number: 2}} }, func(w *e2e.World, prod, test *e2e.Host) {
		putJob(t, test, 100, "uses it")
		change(t, test, schemas.Job, jobID(100), func(b map[string]any) { b["JobId"] = jobID(0) })
		test.SetFaults(fault(func(_ http.ResponseWriter, r *http.Request) bool {
			if isList(r) { // who uses what is found out for all of them at once
				time.Sleep(3 * time.Second)
			}
			return false
		}))
		deleteJobs(t, prod, 0, 3)
		time.Sleep(4 * time.Minute)
		h := deleted(t, w, "one of three is in use", 2, 1, 0)
		if e := h.Waiting[0]; e.ID != jobID(0) || !strings.Contains(e.Why, `"Job 100"`) {
			t.Errorf("held: %+v", e)
		}
		test.SetFaults(nil)
		deleteJob(t, prod, 3)
		time.Sleep(2 * time.Minute)
		h = deleted(t, w, "one beyond", 0, 2, 0)
		for _, e := range h.Waiting {
			if e.ID == jobID(3) && (e.Reason != "airlock" || !strings.Contains(e.Why, "2 deletions of Job in 24 hours, and up to 2 of 8 are made")) {
				t.Errorf("held: %+v", e)
			}
		}
	})
}

// TestVerdictsAtTheTarget approves one object and the rest, rejects, and brings back.
func TestVerdictsAtTheTarget(t *testing.T) {
	t.Parallel()
	deleting(t, 20, nil, func(w *e2e.World, prod, test *e2e.Host) {
		deleteJobs(t, prod, 0, 10)
		time.Sleep(2 * time.Minute)
		h := deleted(t, w, "ten are gone", 5, 5, 0)
		_, entries := w.Ask(oneSetting, broker.RunScope{})
		n := 0
		for _, e := range entries {
			if e.Act == "delete" {
				t.Errorf("Sync now would delete %s", e.ID)
			}
			if e.Act == "hold" && e.Reason == "airlock" {
				n++
			}
		}
		if n != 5 {
			t.Errorf("Sync now shows %d held deletions, want 5", n)
		}
		w.Move(oneSetting, broker.RunDropped, "")

		if o := approveHeld(w, h.Waiting[0]); o[broker.OutcomeDone] != 1 {
			t.Errorf("one approved: %v", o)
		}
		time.Sleep(time.Minute)
		h = deleted(t, w, "one is approved", 1, 4, 0)
		rejectHeld(w, h.Waiting[0], h.Waiting[1])
		time.Sleep(time.Minute)
		h = deleted(t, w, "two are rejected", 0, 2, 2)
		back := h.Rejected[0].ID
		for i := range 10 {
			if jobID(i) == back {
				putJob(t, prod, i, "back")
			}
		}
		time.Sleep(2 * time.Minute)
		wrote(t, test, "it follows its source again", 1, 0)
		h = deleted(t, w, "one is back", 0, 2, 1)
		// Approved and edited at the target since: that is said, and not done (G14).
		i := 0
		for ; jobID(i) != h.Waiting[0].ID; i++ {
		}
		putJob(t, test, i, "edited at the target")
		if o := approveHeld(w, h.Waiting[0]); o[broker.OutcomeTarget] != 1 {
			t.Errorf("edited since: %v", o)
		}
		time.Sleep(time.Minute)
		h = deleted(t, w, "edited since", 0, 2, 1)
		if o := approveHeld(w, append(h.Waiting, h.Rejected...)...); o[broker.OutcomeDone] != 3 {
			t.Errorf("all approved: %v", o)
		}
		time.Sleep(16 * time.Minute) // with an audit
		deleted(t, w, "all are approved", 3, 0, 0)
		// A person has answered for these: they count in no measure, and of the five the
		// time has not come.
		deleteJob(t, prod, 15)
		time.Sleep(2 * time.Minute)
		deleted(t, w, "one more", 0, 1, 0)
		changeOne(w, func(s *schemas.Setting) { s.Deletes = map[schemas.Type]schemas.Measure{schemas.Job: {Number: 6}} })
		deleteJob(t, prod, 16)
		time.Sleep(2 * time.Minute)
		deleted(t, w, "five and one more are six", 1, 1, 0)
		if d := e2e.Diverged(prod, test, schemas.Keep); len(d) != 1 {
			t.Errorf("differences: %v", fmt.Sprint(d))
		}
	})
}

// TestTurnedOnAfterManyDeletions: a setting that is turned on again deletes no more than its
// measure of what went meanwhile, and one that is turned on for the first time deletes
// nothing, whatever the source has deleted before.
func TestTurnedOnAfterManyDeletions(t *testing.T) {
	t.Parallel()
	deleting(t, 12, nil, func(w *e2e.World, prod, test *e2e.Host) {
		changeOne(w, func(s *schemas.Setting) { s.Active = false })
		deleteJobs(t, prod, 0, 8)
		time.Sleep(time.Minute)
		wrote(t, test, "while it is off", 0, 0)
		changeOne(w, func(s *schemas.Setting) { s.Active = true })
		time.Sleep(2 * time.Minute)
		deleted(t, w, "turned on again", 5, 3, 0)
		other := w.AddHost("other")
		for i := range 12 {
			putJob(t, other, i, "first")
		}
		w.Setting(e2e.AllJobs("another", "production", "other", schemas.Keep))
		time.Sleep(16 * time.Minute)
		wrote(t, other, "turned on for the first time", 0, 0)
		if n := len(other.Server.Objects(schemas.Job)); n != 14 { // two are built in
			t.Errorf("%d jobs at the other target", n)
		}
	})
}

// using runs f where a target has a credential of production's (0) and a job that refers to
// it (1).
func using(t *testing.T, f func(w *e2e.World, prod, test *e2e.Host)) {
	t.Helper()
	world(t, []schemas.Slug{"test"}, func(w *e2e.World) {
		prod, test := w.Hosts["production"], w.Hosts["test"]
		believeAll(w)
		changeOne(w, func(s *schemas.Setting) { s.Rules[schemas.Credential] = s.Rules[schemas.Job] })
		for _, i := range []int{0, 2, 4} { // one is always left: an empty listing is not believed
			putText(t, prod, schemas.Credential, fmt.Sprintf(`{"Id":%q,"Username":"u","Domain":"d","Password":"p"}`, jobID(i)))
		}
		putJobUsing(t, prod, 1, 0)
		putJob(t, prod, 3, "stays")
		w.StartProducer()
		w.StartConsumer()
		within(t, w, time.Minute, "test")
		time.Sleep(time.Minute)
		test.Reset()
		f(w, prod, test)
	})
}

// putJobUsing puts a job that refers to a credential.
func putJobUsing(t *testing.T, h *e2e.Host, i, credential int) {
	t.Helper()
	putJob(t, h, i, "uses it")
	change(t, h, schemas.Job, jobID(i), func(b map[string]any) { b["Credential"] = jobID(credential) })
}

func deleteCredential(t *testing.T, h *e2e.Host) {
	t.Helper()
	if ok, err := h.Server.Delete(schemas.Credential, jobID(0)); err != nil || !ok {
		t.Fatalf("delete: %v %v", ok, err)
	}
}

// isThere tells whether a host has the credential.
func isThere(h *e2e.Host) bool {
	_, ok := h.Server.Get(schemas.Credential, jobID(0))
	return ok
}

// TestWhatIsInUseIsNotDeleted: the deletion of an object that others at the target refer to
// is held, and names them; it goes once they are gone or refer to something else.
func TestWhatIsInUseIsNotDeleted(t *testing.T) {
	t.Parallel()
	t.Run("users of the target's own", func(t *testing.T) {
		t.Parallel()
		using(t, func(w *e2e.World, prod, test *e2e.Host) {
			for i := range 10 {
				putJobUsing(t, test, 100+i, 0)
			}
			deleteJob(t, prod, 1)
			deleteCredential(t, prod)
			time.Sleep(2 * time.Minute)
			h := deleted(t, w, "in use", 1, 1, 0)
			if e := h.Waiting[0]; e.Type != schemas.Credential || e.Reason != "in-use" || strings.Count(e.Why, "Job ") != 8*2 ||
				!strings.Contains(e.Why, `"Job 100"`) || !strings.HasSuffix(e.Why, "and perhaps 2 more") {
				t.Errorf("held: %+v", e)
			}
			_, entries := w.Ask(oneSetting, broker.RunScope{})
			for _, e := range entries {
				if e.Type == schemas.Credential && (e.Act != "hold" || e.Reason != "in-use") {
					t.Errorf("Sync now shows %+v", e)
				}
			}
			w.Move(oneSetting, broker.RunDropped, "")
			for i := range 10 { // by hand: the next audit sees it
				deleteJob(t, test, 100+i)
			}
			time.Sleep(16 * time.Minute)
			deleted(t, w, "they are gone", 1, 0, 0)
			if isThere(test) {
				t.Error("the credential is still there")
			}
		})
	})
	t.Run("a user that its source changes", func(t *testing.T) {
		t.Parallel()
		using(t, func(w *e2e.World, prod, test *e2e.Host) {
			deleteCredential(t, prod)
			time.Sleep(2 * time.Minute)
			deleted(t, w, "in use", 0, 1, 0)
			putJob(t, prod, 1, "does not use it any more")
			time.Sleep(time.Minute)
			deleted(t, w, "not in use any more", 1, 0, 0)
		})
	})
	t.Run("a user that is deleted later", func(t *testing.T) {
		t.Parallel()
		using(t, func(w *e2e.World, prod, test *e2e.Host) {
			deleteCredential(t, prod)
			time.Sleep(2 * time.Minute)
			deleted(t, w, "in use", 0, 1, 0)
			deleteJob(t, prod, 1)
			time.Sleep(time.Minute)
			deleted(t, w, "both are gone", 2, 0, 0)
		})
	})
	t.Run("a user that came just before", func(t *testing.T) {
		t.Parallel()
		using(t, func(w *e2e.World, prod, test *e2e.Host) {
			if ok, err := prod.Server.Delete(schemas.Credential, jobID(2)); err != nil || !ok {
				t.Fatal(ok, err)
			}
			time.Sleep(5 * time.Second) // that has found out who uses what
			wrote(t, test, "in use by nobody", 0, 1)
			putJobUsing(t, prod, 7, 4)
			time.Sleep(5 * time.Second)
			wrote(t, test, "it came", 1, 0)
			if ok, err := prod.Server.Delete(schemas.Credential, jobID(4)); err != nil || !ok {
				t.Fatal(ok, err)
			}
			time.Sleep(10 * time.Second)
			time.Sleep(time.Minute)
			deleted(t, w, "in use since", 0, 1, 0)
		})
	})
	t.Run("a user that is written while the other is being deleted", func(t *testing.T) {
		t.Parallel()
		using(t, func(w *e2e.World, prod, test *e2e.Host) {
			test.SetFaults(fault(func(_ http.ResponseWriter, r *http.Request) bool {
				if r.Method == http.MethodDelete {
					putJobUsing(t, prod, 7, 2)
					time.Sleep(4 * time.Second)
					if _, _, there := jobAt(t, test, 7); there {
						t.Error("it was written meanwhile")
					}
				}
				return false
			}))
			if ok, err := prod.Server.Delete(schemas.Credential, jobID(2)); err != nil || !ok {
				t.Fatal(ok, err)
			}
			time.Sleep(2 * time.Minute)
			deleted(t, w, "one is gone, and the other dangles as at its source", 1, 0, 0)
			if _, _, there := jobAt(t, test, 7); !there {
				t.Error("job 7 was not written")
			}
		})
	})
	t.Run("both in one pass", func(t *testing.T) {
		t.Parallel()
		using(t, func(w *e2e.World, prod, test *e2e.Host) {
			var order []string
			test.SetFaults(fault(func(_ http.ResponseWriter, r *http.Request) bool {
				if r.Method == http.MethodDelete {
					if strings.Contains(r.URL.Path, "/Job/") {
						time.Sleep(3 * time.Second)
					}
					order = append(order, r.URL.Path)
				}
				return false
			}))
			deleteJob(t, prod, 1)
			deleteCredential(t, prod)
			time.Sleep(2 * time.Minute)
			deleted(t, w, "both are gone", 2, 0, 0)
			if len(order) != 2 || !strings.Contains(order[0], "/Job/") {
				t.Errorf("deleted in the order %v", order)
			}
		})
	})
	t.Run("both in one plan", func(t *testing.T) {
		t.Parallel()
		using(t, func(w *e2e.World, prod, test *e2e.Host) {
			changeOne(w, func(s *schemas.Setting) { s.Active = false })
			deleteJob(t, prod, 1)
			deleteCredential(t, prod)
			changeOne(w, func(s *schemas.Setting) { s.Deletes = map[schemas.Type]schemas.Measure{schemas.Job: {}} })
			_, entries := w.Ask(oneSetting, broker.RunScope{})
			same(t, "plan without deletions of jobs", entries, "Job 1 only at the target: hold delete (airlock)", "u@d only at the target: hold delete (in-use)")
			w.Move(oneSetting, broker.RunDropped, "")
			changeOne(w, func(s *schemas.Setting) { s.Deletes = nil })
			p, entries := w.Ask(oneSetting, broker.RunScope{})
			same(t, "plan", entries, "Job 1 only at the target: delete (gone-at-source)", "u@d only at the target: delete (gone-at-source)")
			end, _ := w.Approve(p)
			if end.Outcomes[broker.OutcomeDone] != 2 {
				t.Errorf("outcomes: %v", end.Outcomes)
			}
			wrote(t, test, "both are gone", 0, 2)
		})
	})
	t.Run("the user's deletion is held", func(t *testing.T) {
		t.Parallel()
		using(t, func(w *e2e.World, prod, test *e2e.Host) {
			changeOne(w, func(s *schemas.Setting) { s.Deletes = map[schemas.Type]schemas.Measure{schemas.Job: {}} })
			deleteJob(t, prod, 1)
			deleteCredential(t, prod)
			time.Sleep(2 * time.Minute)
			h := deleted(t, w, "one is held, and uses the other", 0, 2, 0)
			if o := approveHeld(w, h.Waiting...); o[broker.OutcomeDone] != 2 {
				t.Errorf("outcomes: %v", o)
			}
			time.Sleep(time.Minute)
			deleted(t, w, "both are approved", 2, 0, 0)
		})
	})
	t.Run("two that refer to each other", func(t *testing.T) {
		t.Parallel()
		using(t, func(w *e2e.World, prod, test *e2e.Host) {
			for _, i := range []int{5, 6} {
				putJob(t, prod, i, "refers to the other")
				change(t, prod, schemas.Job, jobID(i), func(b map[string]any) { b["JobId"] = jobID(11 - i) })
			}
			time.Sleep(time.Minute)
			test.Reset()
			deleteJob(t, prod, 5)
			deleteJob(t, prod, 6)
			time.Sleep(3 * time.Minute)
			deleted(t, w, "both are gone", 2, 0, 0)
		})
	})
}

// active tells whether a job is at a host, and on.
func active(t *testing.T, h *e2e.Host, i int) (there, on bool) {
	t.Helper()
	b := bodyOf(t, h, schemas.Job, jobID(i))
	if b == nil {
		return false, false
	}
	stats, _ := b["Stats"].(map[string]any)
	on, _ = stats["Active"].(bool)
	return true, on
}

// TestGrace: a job that is gone at its source is only switched off first, whoever holds the
// target; it goes when the grace is over, and is as it was when its source has it again.
func TestGrace(t *testing.T) {
	t.Parallel()
	for _, policy := range []schemas.ActivePolicy{schemas.Keep, schemas.Follow} {
		t.Run(string(policy), func(t *testing.T) {
			t.Parallel()
			deleting(t, 4, func(s *schemas.Setting) { s.Grace, s.Policy = "40m", policy }, func(w *e2e.World, prod, test *e2e.Host) {
				for i := range 3 { // somebody has switched them on there
					change(t, test, schemas.Job, jobID(i), func(b map[string]any) { b["Stats"].(map[string]any)["Active"] = true })
				}
				is := func(what string, i int, there, on bool) {
					t.Helper()
					if x, y := active(t, test, i); x != there || y != on {
						t.Errorf("%s: job %d is there: %v, and on: %v, want %v and %v", what, i, x, y, there, on)
					}
				}
				test.Reset()
				deleteJobs(t, prod, 0, 4)
				time.Sleep(time.Minute)
				for i := range 4 {
					is("in grace", i, true, false)
				}
				offs := 3
				if policy == schemas.Follow {
					offs = 4
				}
				wrote(t, test, "switched off", offs, 0)
				inGrace := func(what string, n int) {
					t.Helper()
					time.Sleep(3 * time.Second)
					for _, s := range settingsOf(w) {
						if a := s.Accounting; s.InGrace != n || a == nil || int(a.Held) != n || a.Unaccounted > 0 || s.DeletesHeld > 0 {
							t.Errorf("%s: %d in grace, %d held, accounts %+v; want %d in grace", what, s.InGrace, s.DeletesHeld, a, n)
						}
					}
				}
				inGrace("in grace", 4)
				w.StopConsumer(nil)
				w.StartConsumer()
				time.Sleep(time.Minute)
				wrote(t, test, "taken over", 0, 0)
				inGrace("taken over", 4)
				putJob(t, prod, 1, "first")
				time.Sleep(time.Minute)
				is("back as it was", 1, true, true)
				wrote(t, test, "back", 1, 0)
				putJob(t, prod, 2, "edited")
				time.Sleep(time.Minute)
				is("back, edited", 2, true, true)
				wrote(t, test, "back", 1, 0)
				inGrace("two are back", 2)
				time.Sleep(34 * time.Minute)
				is("before the end", 0, true, false)
				time.Sleep(4 * time.Minute)
				is("after the end", 0, false, false)
				is("after the end", 3, false, false)
				wrote(t, test, "after the end", 0, 2)
				inGrace("after the end", 0)
			})
		})
	}
}

// TestGraceIsMeasured: what is switched off to be deleted counts as a deletion, and what is
// beyond the measure is not even switched off; a person's word needs no grace.
func TestGraceIsMeasured(t *testing.T) {
	t.Parallel()
	deleting(t, 8, func(s *schemas.Setting) { s.Grace, s.Policy = "10m", schemas.Follow }, func(w *e2e.World, prod, test *e2e.Host) {
		deleteJobs(t, prod, 0, 7)
		time.Sleep(time.Minute)
		wrote(t, test, "switched off", 5, 0)
		on := 0
		for i := range 7 {
			if _, yes := active(t, test, i); yes {
				on++
			}
		}
		h := heldAtTarget(w)
		if on != 2 || len(h.Waiting) != 2 {
			t.Fatalf("%d are on and %d wait, want 2 and 2", on, len(h.Waiting))
		}
		if o := approveHeld(w, h.Waiting[0]); o[broker.OutcomeDone] != 1 {
			t.Errorf("outcomes: %v", o)
		}
		wrote(t, test, "approved", 0, 1)
		time.Sleep(11 * time.Minute)
		deleted(t, w, "after the grace", 5, 1, 0)
	})
}

// TestGraceOutlivesACrash: what was switched off when the answer was lost is on again as it
// was.
func TestGraceOutlivesACrash(t *testing.T) {
	t.Parallel()
	deleting(t, 1, func(s *schemas.Setting) {
		s.Grace, s.Rules[schemas.Job] = "10m", schemas.Rule{Sync: schemas.SyncAll, Rights: schemas.Rights{New: true, Deleted: true}}
	}, func(w *e2e.World, prod, test *e2e.Host) {
		change(t, test, schemas.Job, jobID(0), func(b map[string]any) { b["Stats"].(map[string]any)["Active"] = true })
		deleteJob(t, prod, 0)
		for range 200 {
			if _, on := active(t, test, 0); !on {
				break
			}
			time.Sleep(100 * time.Millisecond)
		}
		w.StopConsumer(consumer.ErrCrash)
		w.StartConsumer()
		time.Sleep(time.Minute)
		if e := entryOf(t, w, "test", 0); !e.Grace.Active || e.Grace.Setting != oneSetting {
			t.Errorf("on record: %+v", e)
		}
		putJob(t, prod, 0, "edited, which the setting does not take")
		time.Sleep(time.Minute)
		if there, on := active(t, test, 0); !there || !on {
			t.Errorf("back: there %v, on %v", there, on)
		}
		if b := bodyOf(t, test, schemas.Job, jobID(0)); b["Description"] != "first" {
			t.Errorf("description: %v", b["Description"])
		}
	})
}

// TestGraceRespectsPeople: the flag that a person has set at the target meanwhile stays,
// whether vcsync's own write arrived or not.
func TestGraceRespectsPeople(t *testing.T) {
	t.Parallel()
	flag := func(t *testing.T, h *e2e.Host, on bool) {
		t.Helper()
		change(t, h, schemas.Job, jobID(0), func(b map[string]any) { b["Stats"].(map[string]any)["Active"] = on })
	}
	is := func(t *testing.T, w *e2e.World, test *e2e.Host, want bool) {
		t.Helper()
		if there, on := active(t, test, 0); !there || on != want {
			t.Errorf("there %v, on %v, want %v", there, on, want)
		}
		if e := entryOf(t, w, "test", 0); !e.Grace.IsZero() || e.State == broker.Intent {
			t.Errorf("on record: %+v", e)
		}
	}
	grace := func(s *schemas.Setting) { s.Grace = "40m" }
	t.Run("switched off after a refusal", func(t *testing.T) {
		t.Parallel()
		deleting(t, 2, grace, func(w *e2e.World, prod, test *e2e.Host) {
			flag(t, test, true)
			test.SetFaults(refusePuts())
			deleteJob(t, prod, 0)
			time.Sleep(time.Minute)
			if e := entryOf(t, w, "test", 0); !e.Grace.IsZero() || e.State == broker.Intent {
				t.Errorf("refused: %+v", e)
			}
			test.SetFaults(nil)
			flag(t, test, false)
			putJob(t, prod, 0, "back")
			time.Sleep(time.Minute)
			is(t, w, test, false)
		})
	})
	t.Run("switched on in its grace", func(t *testing.T) {
		t.Parallel()
		deleting(t, 2, grace, func(w *e2e.World, prod, test *e2e.Host) {
			deleteJob(t, prod, 0)
			time.Sleep(time.Minute)
			flag(t, test, true)
			putJob(t, prod, 0, "back")
			time.Sleep(time.Minute)
			is(t, w, test, true)
		})
	})
	t.Run("switched on in its grace, without the right to update", func(t *testing.T) {
		t.Parallel()
		deleting(t, 2, func(s *schemas.Setting) {
			s.Grace, s.Rules[schemas.Job] = "40m", schemas.Rule{Sync: schemas.SyncAll, Rights: schemas.Rights{New: true, Deleted: true}}
		}, func(w *e2e.World, prod, test *e2e.Host) {
			deleteJob(t, prod, 0)
			time.Sleep(time.Minute)
			flag(t, test, true)
			putJob(t, prod, 0, "back")
			time.Sleep(time.Minute)
			is(t, w, test, true)
			if d := description(t, test, 0); d != "first" {
				t.Errorf("description %q", d)
			}
		})
	})
}

// TestARefusedDeletionIsNone: a deletion that the target refuses leaves the record as it
// was, and counts in no measure.
func TestARefusedDeletionIsNone(t *testing.T) {
	t.Parallel()
	deleting(t, 4, func(s *schemas.Setting) { s.Deletes = map[schemas.Type]schemas.Measure{schemas.Job: {Number: 1}} }, func(w *e2e.World, prod, test *e2e.Host) {
		before := entryOf(t, w, "test", 0)
		test.SetFaults(fault(func(rw http.ResponseWriter, r *http.Request) bool {
			if r.Method != http.MethodDelete {
				return false
			}
			problem(rw, http.StatusUnprocessableEntity)
			return true
		}))
		deleteJob(t, prod, 0)
		time.Sleep(time.Minute)
		if e := entryOf(t, w, "test", 0); e.State != before.State || e.Left != before.Left || e.Deleted != "" {
			t.Errorf("on record: %+v, was %+v", e, before)
		}
		test.SetFaults(nil)
		test.Reset()
		deleteJob(t, prod, 1)
		time.Sleep(time.Minute)
		wrote(t, test, "another one", 0, 1)
	})
}

// TestAnApprovalIsOfTheUsersThatWereShown: who lets a deletion through that is more than
// the measure has seen who refers to the object, too. One who came since keeps it.
func TestAnApprovalIsOfTheUsersThatWereShown(t *testing.T) {
	t.Parallel()
	using(t, func(w *e2e.World, prod, test *e2e.Host) {
		changeOne(w, func(s *schemas.Setting) {
			s.Deletes = map[schemas.Type]schemas.Measure{schemas.Credential: {}, schemas.Job: {}}
		})
		putJobUsing(t, test, 100, 0)
		deleteJob(t, prod, 1) // it goes with it
		deleteCredential(t, prod)
		time.Sleep(2 * time.Minute)
		h := deleted(t, w, "held", 0, 2, 0)
		for _, e := range h.Waiting {
			if e.Type == schemas.Credential && (e.Reason != "airlock" || !strings.Contains(e.Why, `"Job 100"`)) {
				t.Errorf("held: %+v", e)
			}
		}
		putJobUsing(t, test, 101, 0)
		time.Sleep(time.Minute)
		if o := approveHeld(w, h.Waiting...); o[broker.OutcomeDone] != 1 || o[broker.OutcomeOther] != 1 {
			t.Errorf("outcomes: %v", o)
		}
		time.Sleep(time.Minute)
		h = deleted(t, w, "one user more", 1, 1, 0)
		if e := h.Waiting[0]; e.Type != schemas.Credential || !strings.Contains(e.Why, `"Job 101"`) {
			t.Errorf("held: %+v", e)
		}
		if o := approveHeld(w, h.Waiting...); o[broker.OutcomeDone] != 1 {
			t.Errorf("outcomes: %v", o)
		}
		time.Sleep(time.Minute)
		deleted(t, w, "both were shown", 1, 0, 0)
	})
}
