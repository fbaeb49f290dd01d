package e2e_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/vcsync/vcsync/broker"
	"github.com/vcsync/vcsync/consumer"
	"github.com/vcsync/vcsync/e2e"
	"github.com/vcsync/vcsync/producer"
	"github.com/vcsync/vcsync/schemas"
	"github.com/vcsync/vcsync/visualcron/standin"
)

// airlock is a world in which a target has what its source has: n jobs.
func airlock(t *testing.T, n int, f func(w *e2e.World, prod, test *e2e.Host)) {
	t.Parallel()
	world(t, []schemas.Slug{"test"}, func(w *e2e.World) {
		prod, test := w.Hosts["production"], w.Hosts["test"]
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

// heldAt returns what waits of the jobs of production.
func heldAt(w *e2e.World) (a broker.Airlock) {
	w.T.Helper()
	w.Do(func(ctx context.Context) (err error) {
		if a, err = w.Broker.GetAirlock(ctx, "production", schemas.Job); errors.Is(err, broker.ErrNotFound) {
			err = nil
		}
		return err
	})
	return a
}

// wantHeld says how many deletions wait, why, and how many were turned down; nothing may
// have been written at the target.
func wantHeld(t *testing.T, w *e2e.World, test *e2e.Host, what string, held, rejected int, class string) broker.Airlock {
	t.Helper()
	wrote(t, test, what, 0, 0)
	a := heldAt(w)
	s := w.Prod.Status()[0].Types[schemas.Job]
	if a.Count("") != held || a.Count(broker.Rejected) != rejected || a.Class != class || s.Held != held || s.Rejected != rejected || s.Batch != a.Batch {
		t.Errorf("%s: %d held and %d rejected because of %q (%s), the status says %d and %d, want %d and %d because of %q", what,
			a.Count(""), a.Count(broker.Rejected), a.Class, a.Why, s.Held, s.Rejected, held, rejected, class)
	}
	return a
}

// judge gives a verdict as control does, to some jobs or, without any, to the batch.
func judge(w *e2e.World, batch string, v broker.Verdict, jobs ...int) (done int) {
	w.T.Helper()
	w.Do(func(ctx context.Context) error {
		a, err := w.Broker.GetAirlock(ctx, "production", schemas.Job)
		if err != nil {
			return err
		}
		done = a.Decide(broker.AirlockDecision{Batch: batch, Verdict: v, Who: "test", Reason: "for the test", At: time.Now()}, func(o broker.AirlockObject) bool {
			for _, i := range jobs {
				if jobID(i).Token() == o.Token {
					return true
				}
			}
			return jobs == nil
		})
		if done == 0 {
			return nil
		}
		_, err = w.Broker.PutAirlock(ctx, a)
		return err
	})
	return done
}

// lower makes the account see less.
func lower(t *testing.T, h *e2e.Host, arg string) {
	t.Helper()
	if err := h.Server.Misbehave(standin.Misbehaviour{Mode: "lower-account", Arg: arg}); err != nil {
		t.Fatal(err)
	}
}

// TestDoubtfulAbsenceIsHeld: few objects are gone, no more than a pass may delete, and
// what tells of it is not to be believed (G4).
func TestDoubtfulAbsenceIsHeld(t *testing.T) {
	for name, c := range map[string]struct {
		class string
		// doubt brings it about and returns how many writes at the target that is.
		doubt func(*testing.T, *e2e.World, *e2e.Host) (puts int)
	}{
		"an account with fewer rights": {producer.HeldAccount, func(t *testing.T, w *e2e.World, h *e2e.Host) int {
			lower(t, h, "10")
			return 0
		}},
		"another account of a server that tells nothing": {producer.HeldAccount, func(t *testing.T, w *e2e.World, h *e2e.Host) int {
			w.StopProducer(nil)
			w.Do(func(ctx context.Context) error { // the stand-in takes one account only: it is the record that differs
				return w.Broker.SetSourceEvidence(ctx, "production", broker.SourceEvidence{
					Accounts: map[schemas.Type]broker.SeenBy{schemas.Job: {User: "another"}}})
			})
			lower(t, h, "10,silent")
			w.StartProducer()
			return 0
		}},
		"restored, which undoes an edit": {producer.HeldRestored, func(t *testing.T, w *e2e.World, h *e2e.Host) int {
			old := h.Server.Copy()
			putJob(t, h, 1, "edited")
			putJob(t, h, 100, "made since")
			time.Sleep(2 * time.Minute)
			w.StopProducer(nil) // statistics that it remembers tell nothing
			if err := h.Server.Restore(old); err != nil {
				t.Fatal(err)
			}
			w.StartProducer()
			return 3
		}},
		"restored, and only statistics tell": {producer.HeldRestored, func(t *testing.T, w *e2e.World, h *e2e.Host) int {
			putJob(t, h, 2, "edited")
			h.Server.Fire()
			old := h.Server.Copy()
			putJob(t, h, 100, "made since")
			time.Sleep(12 * time.Minute) // less could be runs that overlap
			h.Server.Fire()
			time.Sleep(time.Minute)
			if err := h.Server.Restore(old); err != nil {
				t.Fatal(err)
			}
			return 2
		}},
	} {
		t.Run(name, func(t *testing.T) {
			airlock(t, 40, func(w *e2e.World, prod, test *e2e.Host) {
				puts := c.doubt(t, w, prod)
				time.Sleep(3 * time.Minute)
				wrote(t, test, "when it came about", puts, 0)
				n := heldAt(w).Count("")
				if n == 0 || n > 4 {
					t.Errorf("%d are gone: more than are believed, or none", n)
				}
				wantHeld(t, w, test, "a while later", n, 0, c.class)

				// Neither a restart nor time makes it any truer.
				w.StopProducer(nil)
				w.StartProducer()
				time.Sleep(5 * time.Minute)
				a := wantHeld(t, w, test, "after a restart", n, 0, c.class)

				if done := judge(w, a.Batch, broker.Approved); done != n {
					t.Errorf("%d approved, want %d", done, n)
				}
				time.Sleep(3 * time.Minute)
				wrote(t, test, "approved", 0, n)
				if a := heldAt(w); len(a.Objects) != 0 {
					t.Errorf("%+v is left", a)
				}
				last := 39 // that is still there
				for _, there := test.Server.Get(schemas.Job, jobID(last)); !there; _, there = test.Server.Get(schemas.Job, jobID(last)) {
					last--
				}
				deleteJob(t, prod, last) // what was doubtful was looked at
				time.Sleep(3 * time.Minute)
				wrote(t, test, "the next deletion", 0, 1)
			})
		})
	}
}

// TestWhatTheAccountSeesAgain: an account that saw less for a while takes nothing with it,
// and neither does one of which the server says something for the first time.
func TestWhatTheAccountSeesAgain(t *testing.T) {
	airlock(t, 40, func(w *e2e.World, prod, test *e2e.Host) {
		lower(t, prod, "10")
		time.Sleep(3 * time.Minute)
		wantHeld(t, w, test, "fewer rights", heldAt(w).Count(""), 0, producer.HeldAccount)
		prod.Server.Behave()
		time.Sleep(2 * time.Minute)
		wantHeld(t, w, test, "all rights again", 0, 0, "")
		if err := prod.Server.Misbehave(standin.Misbehaviour{Mode: "no-account"}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * time.Minute) // it is seen once that nothing is missing
		deleteJob(t, prod, 1)
		time.Sleep(2 * time.Minute)
		wrote(t, test, "a deletion that such a server shows", 0, 1)
	})
}

// TestVerdicts: a batch one beyond the measure is decided object by object, across a
// takeover and changes of the batch (G4).
func TestVerdicts(t *testing.T) {
	airlock(t, 20, func(w *e2e.World, prod, test *e2e.Host) {
		changeOne(w, func(s *schemas.Setting) { s.Deletes = map[schemas.Type]schemas.Measure{schemas.Job: {Share: 100}} }) // here it is the source's that counts
		test.Reset()
		w.StopProducer(nil)
		for i := range 6 {
			deleteJob(t, prod, i)
		}
		w.StartProducer()
		time.Sleep(2 * time.Minute)
		first := wantHeld(t, w, test, "one beyond the measure", 6, 0, producer.HeldTooMany)

		// A seventh makes it another batch: a verdict about the first is none about that.
		deleteJob(t, prod, 6)
		time.Sleep(2 * time.Minute)
		second := wantHeld(t, w, test, "one more", 7, 0, producer.HeldTooMany)
		if done := judge(w, first.Batch, broker.Approved); done != 0 || second.Batch == first.Batch {
			t.Errorf("%d objects approved by a batch that is no more", done)
		}

		// What is left is within the measure, and waits all the same.
		if done := judge(w, second.Batch, broker.Rejected, 0, 1); done != 2 {
			t.Fatalf("%d rejected", done)
		}
		time.Sleep(2 * time.Minute)
		third := wantHeld(t, w, test, "two rejected", 5, 2, producer.HeldTooMany)

		// One is approved while nobody captures the source, and is back before the next one does.
		w.StopProducer(consumer.ErrCrash)
		if done := judge(w, third.Batch, broker.Approved, 2, 3); done != 2 {
			t.Fatalf("%d approved", done)
		}
		putJob(t, prod, 3, "first")
		time.Sleep(time.Minute)
		wrote(t, test, "nobody captures", 0, 0)
		w.StartProducer()
		time.Sleep(2 * time.Minute)
		if _, there := test.Server.Get(schemas.Job, jobID(3)); !there {
			t.Error("a job that was back was deleted")
		}
		wrote(t, test, "one of two approved", 0, 1)
		fourth := wantHeld(t, w, test, "the rest", 3, 2, producer.HeldTooMany)

		// A rejected one that the source has again is as any other: its verdict has ended.
		putJob(t, prod, 0, "first")
		time.Sleep(2 * time.Minute)
		wantHeld(t, w, test, "a rejected one is back", 3, 1, producer.HeldTooMany)
		if done := judge(w, fourth.Batch, broker.Approved); done != 3 {
			t.Fatalf("%d approved", done)
		}
		time.Sleep(2 * time.Minute)
		wrote(t, test, "the batch", 0, 3)
		wantHeld(t, w, test, "only the rejected one is left", 0, 1, "")
		deleteJob(t, prod, 0)
		time.Sleep(2 * time.Minute)
		wrote(t, test, "deleted anew", 0, 1)
		wantHeld(t, w, test, "the rejected one counts in no measure", 0, 1, "")
		if _, there := test.Server.Get(schemas.Job, jobID(1)); !there {
			t.Error("the rejected job is gone at the target")
		}

		// Who changes his mind says so.
		if done := judge(w, second.Batch, broker.Approved); done != 1 {
			t.Fatalf("%d approved", done)
		}
		time.Sleep(2 * time.Minute)
		wrote(t, test, "the rejected one, approved", 0, 1)
		if diff := e2e.Diverged(prod, test, schemas.Keep); diff != nil {
			t.Error(diff)
		}
	})
}

// TestTheMeasureOfAServer: how many deletions are believed is said by server and type.
func TestTheMeasureOfAServer(t *testing.T) {
	airlock(t, 20, func(w *e2e.World, prod, test *e2e.Host) {
		measure := func(m schemas.Measure) {
			w.Do(func(ctx context.Context) error {
				snap, err := w.Broker.Snapshot(ctx)
				if err != nil {
					return err
				}
				s := snap.Servers["production"]
				s.Deletes = map[schemas.Type]schemas.Measure{schemas.Job: m}
				_, err = w.Broker.PutServer(ctx, s.Server, s.Revision)
				return err
			})
			time.Sleep(time.Minute)
		}
		measure(schemas.Measure{})
		deleteJob(t, prod, 0)
		time.Sleep(2 * time.Minute)
		a := wantHeld(t, w, test, "no deletion is believed", 1, 0, producer.HeldTooMany)
		judge(w, a.Batch, broker.Approved)
		time.Sleep(2 * time.Minute)
		wrote(t, test, "approved", 0, 1)
		measure(schemas.Measure{Number: 3, Share: 50})
		changeOne(w, func(s *schemas.Setting) { s.Deletes = map[schemas.Type]schemas.Measure{schemas.Job: {Share: 100}} }) // here it is the source's that counts
		w.StopProducer(nil)
		for i := 1; i < 10; i++ { // 9 of 19
			deleteJob(t, prod, i)
		}
		w.StartProducer()
		time.Sleep(2 * time.Minute)
		wrote(t, test, "half of them", 0, 9)
	})
}

// TestNothingOfOursDeletes: a setting that takes less and one that is deleted are no
// deletions at any target (G4).
func TestNothingOfOursDeletes(t *testing.T) {
	airlock(t, 20, func(w *e2e.World, prod, test *e2e.Host) {
		set := e2e.AllJobs("production-to-test", "production", "test", schemas.Keep)
		r := set.Rules[schemas.Job]
		r.Names = []string{"Job 1*"}
		set.Rules[schemas.Job] = r
		save(w, &set)
		time.Sleep(6 * time.Minute)
		wrote(t, test, "the setting was narrowed", 0, 0)
		w.Do(func(ctx context.Context) error {
			snap, err := w.Broker.Snapshot(ctx)
			if err != nil {
				return err
			}
			return w.Broker.DeleteSetting(ctx, set.ID, snap.Settings[set.ID].Revision)
		})
		time.Sleep(6 * time.Minute)
		wrote(t, test, "the setting was deleted", 0, 0)
		if n := len(test.Server.Objects(schemas.Job)); n != 22 { // two are built in
			t.Errorf("%d jobs at the target", n)
		}
	})
}
