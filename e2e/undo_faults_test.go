package e2e_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/vcsync/vcsync/broker"
	"github.com/vcsync/vcsync/e2e"
	"github.com/vcsync/vcsync/schemas"
)

// thrice is a target that has had job 1 as "first", "second" and "third", in passes of
// their own, the newest first.
func thrice(t *testing.T, with func(*schemas.Setting), rest string, f func(w *e2e.World, prod, test *e2e.Host, passes []broker.PassInfo)) {
	t.Helper()
	world(t, nil, func(w *e2e.World) {
		prod, test := w.Hosts["production"], w.AddHost("test")
		set := e2e.AllJobs(oneSetting, "production", "test", schemas.Follow)
		if with != nil {
			with(&set)
		}
		w.Setting(set)
		w.StartProducer()
		w.StartConsumer()
		for _, text := range []string{"first", "second", "third"} {
			selfJob(t, prod, 1, true, text, rest)
			time.Sleep(2 * time.Minute)
		}
		passes := w.Passes("test")
		if len(passes) != 3 {
			t.Fatalf("passes %+v", passes)
		}
		test.Reset()
		f(w, prod, test, passes)
	})
}

// undo undoes a pass and returns how many of its objects came to what.
func undo(w *e2e.World, pass string) map[broker.Outcome]int {
	w.T.Helper()
	p, _ := w.AskAct("test", broker.RunAct{Undo: pass}, broker.RunScope{})
	end, _ := w.Approve(p)
	return end.Outcomes
}

// TestAnUndoThatIsRefusedLeavesAllAsItWas: a write of an undo that surely did not arrive
// leaves pause, discard and ledger as they were, so that nothing is redone.
func TestAnUndoThatIsRefusedLeavesAllAsItWas(t *testing.T) {
	t.Parallel()
	t.Run("paused by another undo", func(t *testing.T) {
		t.Parallel()
		thrice(t, nil, "", func(w *e2e.World, prod, test *e2e.Host, passes []broker.PassInfo) {
			if o := undo(w, passes[0].ID); o[broker.OutcomeDone] != 1 {
				t.Fatalf("undo of the third: %v", o)
			}
			describes(t, test, 1, "second")
			before, paused := entryOf(t, w, "test", 1), parkedAs(w, "test", 1)
			test.SetFaults(refusePuts())
			if o := undo(w, passes[1].ID); o[broker.OutcomeDone] != 0 {
				t.Errorf("undo of the second, refused: %v", o)
			}
			test.SetFaults(nil)
			time.Sleep(20 * time.Minute)
			describes(t, test, 1, "second")
			if p := parkedAs(w, "test", 1); !p.IsPaused() || p.Pass != paused.Pass || p.Reason != paused.Reason {
				t.Errorf("parked %+v, was %+v", p, paused)
			}
			if e := entryOf(t, w, "test", 1); e.State != before.State || e.Version != before.Version || e.Left != before.Left {
				t.Errorf("ledger %+v, was %+v", e, before)
			}
			if o := undo(w, passes[1].ID); o[broker.OutcomeDone] != 1 {
				t.Errorf("undo of the second: %v", o)
			}
			time.Sleep(20 * time.Minute)
			describes(t, test, 1, "first")
		})
	})
	t.Run("discarded by a person", func(t *testing.T) {
		t.Parallel()
		thrice(t, nil, "", func(w *e2e.World, prod, test *e2e.Host, passes []broker.PassInfo) {
			test.SetFaults(refusePuts())
			selfJob(t, prod, 1, true, "never", "")
			time.Sleep(time.Minute)
			p := parkedAs(w, "test", 1)
			p.Discarded = "for the test"
			w.Park(p)
			if o := undo(w, passes[0].ID); o[broker.OutcomeDone] != 0 {
				t.Errorf("undo, refused: %v", o)
			}
			test.SetFaults(nil)
			time.Sleep(20 * time.Minute)
			describes(t, test, 1, "third")
			if p := parkedAs(w, "test", 1); p.Discarded == "" {
				t.Errorf("parked %+v", p)
			}
		})
	})
}

// TestAnUndoMakesNoJobRunTwice: a job that a pass created and that ran at the target, and
// deleted itself, is not made again by who resumes what the undo paused.
func TestAnUndoMakesNoJobRunTwice(t *testing.T) {
	t.Parallel()
	selfWorld(t, func(w *e2e.World, prod, test *e2e.Host) {
		selfJob(t, prod, 1, true, "runs and goes", removes)
		selfJob(t, prod, 2, true, "stays", "")
		w.StartProducer()
		w.StartConsumer()
		time.Sleep(2 * time.Minute)
		runs(t, test, 1)
		test.Reset()
		p, entries := w.AskAct("test", broker.RunAct{Undo: w.Passes("test")[0].ID}, broker.RunScope{})
		tallied(t, "plan", entries, map[string]int{"adopt": 1, "delete": 1})
		if end, _ := w.Approve(p); end.Outcomes[broker.OutcomeDone] != 2 {
			t.Errorf("progress %+v", end)
		}
		retry(t, w, schemas.Job, jobID(1))
		retry(t, w, schemas.Job, jobID(2))
		time.Sleep(20 * time.Minute)
		if n := made(test, 1); n != 0 {
			t.Errorf("the job that ran was made again %d times", n)
		}
		if class := parkedAt(t, w, 1); class != "may have run" {
			t.Errorf("parked as %q", class)
		}
		describes(t, test, 2, "stays")
		retry(t, w, schemas.Job, jobID(1)) // a person says it now
		time.Sleep(time.Minute)
		if n := made(test, 1); n != 1 {
			t.Errorf("once it was asked for, the job was made %d times", n)
		}
	})
}

// TestAResumedObjectObeysItsSetting: to resume is no word about what somebody did at the
// target meanwhile.
func TestAResumedObjectObeysItsSetting(t *testing.T) {
	t.Parallel()
	thrice(t, func(s *schemas.Setting) { s.TargetEdits = schemas.ParkEdits }, "", func(w *e2e.World, prod, test *e2e.Host, passes []broker.PassInfo) {
		if o := undo(w, passes[0].ID); o[broker.OutcomeDone] != 1 {
			t.Fatalf("undo: %v", o)
		}
		selfJob(t, test, 1, true, "by hand", "")
		retry(t, w, schemas.Job, jobID(1))
		time.Sleep(20 * time.Minute)
		describes(t, test, 1, "by hand")
		if class := parkedAt(t, w, 1); class != "edited" {
			t.Errorf("parked as %q", class)
		}
	})
}

// TestAnUndoTakesBackWhatIsItsOwnOnly: what somebody else wrote in the middle of a pass is
// not undone with it.
func TestAnUndoTakesBackWhatIsItsOwnOnly(t *testing.T) {
	t.Parallel()
	world(t, []schemas.Slug{"test"}, func(w *e2e.World) {
		prod, test := w.Hosts["production"], w.Hosts["test"]
		selfJob(t, prod, 1, true, "first", "")
		w.StartProducer()
		w.StartConsumer()
		time.Sleep(2 * time.Minute)
		selfJob(t, prod, 1, true, "second", "")
		time.Sleep(10 * time.Second)
		selfJob(t, test, 1, true, "by hand", "")
		selfJob(t, prod, 1, true, "third", "")
		time.Sleep(2 * time.Minute)
		describes(t, test, 1, "third")
		if o := undo(w, w.Passes("test")[0].ID); o[broker.OutcomeDone] != 1 {
			t.Errorf("undo: %v", o)
		}
		describes(t, test, 1, "by hand")
	})
}

// TestAnUndoKeepsWhatIsHeld: that a deletion waits for a person is not forgotten by an undo
// of an earlier pass.
func TestAnUndoKeepsWhatIsHeld(t *testing.T) {
	t.Parallel()
	deleting(t, 4, func(s *schemas.Setting) { s.Deletes = map[schemas.Type]schemas.Measure{schemas.Job: {}} }, func(w *e2e.World, prod, test *e2e.Host) {
		time.Sleep(time.Minute)
		putJob(t, prod, 1, "second")
		time.Sleep(2 * time.Minute)
		deleteJob(t, prod, 1)
		time.Sleep(time.Minute)
		deleted(t, w, "held", 0, 1, 0)
		if o := undo(w, w.Passes("test")[0].ID); o[broker.OutcomeDone] != 1 {
			t.Errorf("undo: %v", o)
		}
		changeOne(w, func(s *schemas.Setting) { s.Deletes = nil })
		retry(t, w, schemas.Job, jobID(1))
		time.Sleep(20 * time.Minute)
		deleted(t, w, "resumed", 0, 1, 0)
	})
}

// TestAnUndoKeepsWhatIsInUse: a job that a pass created is not deleted while another refers
// to one of its tasks, nor a credential that a job of the target's own came to use after
// the plan was shown.
func TestAnUndoKeepsWhatIsInUse(t *testing.T) {
	t.Parallel()
	world(t, []schemas.Slug{"test"}, func(w *e2e.World) {
		prod, test := w.Hosts["production"], w.Hosts["test"]
		changeOne(w, func(s *schemas.Setting) { s.Rules[schemas.Credential] = s.Rules[schemas.Job] })
		putJob(t, prod, 1, "has a task")
		change(t, prod, schemas.Job, jobID(1), func(b map[string]any) {
			b["Tasks"] = []any{map[string]any{"Id": jobID(51), "Name": "Task", "Order": 1}}
		})
		putText(t, prod, schemas.Credential, fmt.Sprintf(`{"Id":%q,"Username":"u","Domain":"d","Password":"p"}`, jobID(0)))
		w.StartProducer()
		w.StartConsumer()
		time.Sleep(2 * time.Minute)
		putJob(t, test, 100, "after {TASK("+string(jobID(51))+",Name)}")
		p, entries := w.AskAct("test", broker.RunAct{Undo: w.Passes("test")[0].ID}, broker.RunScope{})
		tallied(t, "plan", entries, map[string]int{"hold in-use": 1, "delete": 1})
		putJobUsing(t, test, 101, 0)
		end, _ := w.Approve(p)
		if end.Outcomes[broker.OutcomeDone] != 0 {
			t.Errorf("outcomes %v", end.Outcomes)
		}
		if _, there := test.Server.Get(schemas.Credential, jobID(0)); !there {
			t.Error("a credential in use was deleted")
		}
		deleteJob(t, test, 100)
		deleteJob(t, test, 101)
		time.Sleep(time.Minute)
		if o := undo(w, w.Passes("test")[0].ID); o[broker.OutcomeDone] != 2 {
			t.Errorf("not in use any more: %v", o)
		}
	})
}
