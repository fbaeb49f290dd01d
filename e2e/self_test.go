package e2e_test

import (
	"bytes"
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/vcsync/vcsync/e2e"
	"github.com/vcsync/vcsync/schemas"
	"github.com/vcsync/vcsync/visualcron/standin"
)

// selfJob puts a job with a switch such as RunOnce, and its Active flag.
func selfJob(t testing.TB, h *e2e.Host, i int, active bool, description, rest string) {
	t.Helper()
	body := fmt.Appendf(nil, `{"Id":%q,"Name":"Job %d","Description":%q,"Group":"Finance","Stats":{"Active":%t},"Tasks":[],"Triggers":[]%s}`, jobID(i), i, description, active, rest)
	if _, _, err := h.Server.Put(schemas.Job, body); err != nil {
		t.Fatal(err)
	}
}

func jobAt(t testing.TB, h *e2e.Host, i int) (body []byte, active, there bool) {
	t.Helper()
	body, there = h.Server.Get(schemas.Job, jobID(i))
	return body, isActive(body), there
}

// act lets a server's objects change by themselves, once.
func act(t *testing.T, h *e2e.Host, kind string, want int) {
	t.Helper()
	time.Sleep(1500 * time.Millisecond) // beside the moments in which the stand-in acts by itself
	if err := h.Server.Misbehave(standin.Misbehaviour{Mode: "activity", Arg: kind}); err != nil {
		t.Fatal(err)
	}
	defer h.Server.Behave("activity")
	for range want {
		if done, err := h.Server.Act(); err != nil || len(done) != 1 {
			t.Fatalf("%s: %v, %v", kind, done, err)
		}
	}
}

const (
	removes = `,"RemoveAfterExecution":true`
	once    = `,"RunOnce":true`
)

// selfWorld is one production and one target that follows its flags.
func selfWorld(t *testing.T, f func(w *e2e.World, prod, test *e2e.Host)) {
	world(t, nil, func(w *e2e.World) {
		prod, test := w.Hosts["production"], w.AddHost("test")
		w.Setting(e2e.AllJobs("production-to-test", "production", "test", schemas.Follow))
		f(w, prod, test)
	})
}

func TestAJobThatRemovesItselfTakesNoOtherWithIt(t *testing.T) {
	t.Run("what ran at the source stays at the target", func(t *testing.T) {
		selfWorld(t, func(w *e2e.World, prod, test *e2e.Host) {
			selfJob(t, prod, 1, true, "runs and goes", removes)
			selfJob(t, prod, 2, true, "stays", "")
			w.StartProducer()
			w.StartConsumer()
			time.Sleep(2 * time.Minute)
			act(t, prod, "removed", 1)
			time.Sleep(10 * time.Minute)
			if _, active, there := jobAt(t, test, 1); !there || !active {
				t.Errorf("the target's own: there %v, active %v", there, active)
			}
			// A restart forgets what was passed by.
			w.Crash()
			w.StartProducer()
			w.StartConsumer()
			time.Sleep(10 * time.Minute)
			if _, _, there := jobAt(t, test, 1); !there {
				t.Error("the target's own is gone after a restart")
			}
			// An ordinary deletion still is one.
			if _, err := prod.Server.Delete(schemas.Job, jobID(2)); err != nil {
				t.Fatal(err)
			}
			time.Sleep(2 * time.Minute)
			if _, _, there := jobAt(t, test, 2); there {
				t.Error("an ordinary job was not deleted")
			}
		})
	})
	t.Run("what ran at the target is not made again by an edit at the source", func(t *testing.T) {
		selfWorld(t, func(w *e2e.World, prod, test *e2e.Host) {
			selfJob(t, prod, 1, true, "first", removes)
			w.StartProducer()
			w.StartConsumer()
			time.Sleep(2 * time.Minute)
			act(t, test, "removed", 1)
			test.Reset()
			for i := range 3 {
				selfJob(t, prod, 1, true, fmt.Sprint("edit ", i), removes)
				time.Sleep(10 * time.Minute)
				if i == 1 {
					w.Crash()
					w.StartProducer()
					w.StartConsumer()
				}
			}
			if puts, _ := test.Count(); puts != 0 {
				t.Errorf("%d writes of a job that has run", puts)
			}
			// The switch is taken off at the source: it is a job like any other then.
			selfJob(t, prod, 1, true, "for good", "")
			time.Sleep(5 * time.Minute)
			if body, _, there := jobAt(t, test, 1); !there || !bytes.Contains(body, []byte("for good")) {
				t.Errorf("%v %s", there, body)
			}
		})
	})
	t.Run("nor by one that came while the target was away", func(t *testing.T) {
		selfWorld(t, func(w *e2e.World, prod, test *e2e.Host) {
			selfJob(t, prod, 1, true, "first", removes)
			w.StartProducer()
			w.StartConsumer()
			time.Sleep(2 * time.Minute)
			// The edit at the source takes the switch off and puts it on again before the
			// target looks; the target's own ran long ago.
			w.StopConsumer(nil)
			act(t, test, "removed", 1)
			selfJob(t, prod, 1, true, "second", "")
			time.Sleep(2 * time.Minute)
			selfJob(t, prod, 1, true, "third", removes)
			time.Sleep(2 * time.Minute)
			w.StartConsumer()
			time.Sleep(10 * time.Minute)
			if _, _, there := jobAt(t, test, 1); there {
				t.Error("it is there again")
			}
		})
	})
	t.Run("many at once are not held, and hold no others", func(t *testing.T) {
		selfWorld(t, func(w *e2e.World, prod, test *e2e.Host) {
			for i := range 20 {
				selfJob(t, prod, i, true, "goes", removes)
			}
			for i := 20; i < 40; i++ {
				selfJob(t, prod, i, true, "stays", "")
			}
			w.StartProducer()
			w.StartConsumer()
			time.Sleep(2 * time.Minute)
			act(t, prod, "removed", 20)
			for i := 20; i < 25; i++ { // as many as a pass may delete
				if _, err := prod.Server.Delete(schemas.Job, jobID(i)); err != nil {
					t.Fatal(err)
				}
			}
			time.Sleep(5 * time.Minute)
			for _, s := range w.Prod.Status() {
				if n := s.Types[schemas.Job].Held; n != 0 {
					t.Errorf("%d held", n)
				}
			}
			if puts, deletes := test.Count(); puts != 40 || deletes != 5 {
				t.Errorf("%d writes, %d deletes", puts, deletes)
			}
			for i := range 20 {
				if _, _, there := jobAt(t, test, i); !there {
					t.Errorf("job %d is gone", i)
				}
			}
			// One more than that, and the lot is held, however many went by themselves.
			for i := range 3 {
				selfJob(t, prod, 50+i, true, "goes", removes)
			}
			time.Sleep(2 * time.Minute)
			act(t, prod, "removed", 3)
			for i := 25; i < 31; i++ {
				if _, err := prod.Server.Delete(schemas.Job, jobID(i)); err != nil {
					t.Fatal(err)
				}
			}
			time.Sleep(5 * time.Minute)
			for _, s := range w.Prod.Status() {
				if n := s.Types[schemas.Job].Held; n != 9 {
					t.Errorf("%d held, want 9", n)
				}
			}
		})
	})
}

func TestAJobThatRunsOnceRunsOnce(t *testing.T) {
	selfWorld(t, func(w *e2e.World, prod, test *e2e.Host) {
		selfJob(t, prod, 1, true, "first", once)
		selfJob(t, prod, 2, false, "has run", once)
		w.StartProducer()
		w.StartConsumer()
		time.Sleep(2 * time.Minute)
		if _, active, _ := jobAt(t, test, 1); !active {
			t.Error("a new one is not as at the source")
		}
		if _, active, _ := jobAt(t, test, 2); active {
			t.Error("a new one that has run at the source is active")
		}
		// It ran at the source: the target's own has not.
		act(t, prod, "run-once", 1)
		time.Sleep(5 * time.Minute)
		if _, active, _ := jobAt(t, test, 1); !active {
			t.Error("the target's own was switched off because the source's had run")
		}
		// It ran at the target, and somebody edits and activates it at the source.
		act(t, test, "run-once", 1)
		selfJob(t, prod, 1, true, "again", once)
		time.Sleep(5 * time.Minute)
		if body, active, _ := jobAt(t, test, 1); active || !bytes.Contains(body, []byte("again")) {
			t.Errorf("active %v: %s", active, body)
		}
		// Taken off at the source: the flag follows as always.
		selfJob(t, prod, 1, true, "for good", "")
		time.Sleep(5 * time.Minute)
		if _, active, _ := jobAt(t, test, 1); !active {
			t.Error("a job without the switch does not follow")
		}
		test.Reset()
		time.Sleep(time.Hour)
		if puts, deletes := test.Count(); puts+deletes > 0 {
			t.Errorf("%d writes and %d deletes in a quiet hour", puts, deletes)
		}
	})
}

// What changes by itself at both ends, all kinds together, writes no job twice and
// brings none back.
func TestWhatChangesByItselfDoesNotPingPong(t *testing.T) {
	world(t, nil, func(w *e2e.World) {
		a, b := w.Hosts["production"], w.AddHost("test")
		for i := range 6 {
			selfJob(t, a, i, true, "plain", "")
		}
		selfJob(t, a, 10, true, "once", once)
		selfJob(t, a, 11, true, "goes", removes)
		w.Setting(e2e.AllObjects("a-to-b", "production", "test", schemas.Keep))
		w.Setting(e2e.AllObjects("b-to-a", "test", "production", schemas.Keep))
		w.StartProducer()
		w.StartConsumer()
		time.Sleep(5 * time.Minute)
		for _, h := range []*e2e.Host{a, b} {
			if err := h.Server.Misbehave(standin.Misbehaviour{Mode: "activity"}, standin.Misbehaviour{Mode: "statistics-move"}); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(30 * time.Minute)
		for _, h := range []*e2e.Host{a, b} {
			h.Server.Behave()
		}
		time.Sleep(10 * time.Minute)
		for _, h := range []*e2e.Host{a, b} {
			for _, x := range h.Seen() {
				if x.ID == jobID(11) && x.At.Before(time.Now().Add(-38*time.Minute)) == false {
					t.Errorf("%s of the job that removes itself at %s", x.Op, h.Name)
				}
			}
			h.Reset()
		}
		time.Sleep(time.Hour)
		for _, h := range []*e2e.Host{a, b} {
			if puts, deletes := h.Count(); puts+deletes > 0 {
				t.Errorf("%d writes and %d deletes at %s in a quiet hour", puts, deletes, h.Name)
			}
		}
		for _, p := range listParked(t, w) {
			t.Errorf("parked: %s %s %s: %s", p.Class, p.Type, p.Name, p.Reason)
		}
	})
}

// TestAJobThatRanAndComesBackAtItsSource: it ran at both and was gone at both. Whoever
// brings it back at the source is asked before it runs at the target once more.
func TestAJobThatRanAndComesBackAtItsSource(t *testing.T) {
	t.Parallel()
	selfWorld(t, func(w *e2e.World, prod, test *e2e.Host) {
		selfJob(t, prod, 1, true, "runs and goes", removes)
		selfJob(t, prod, 2, true, "stays", "")
		w.StartProducer()
		w.StartConsumer()
		time.Sleep(2 * time.Minute)
		act(t, test, "removed", 1)
		act(t, prod, "removed", 1)
		time.Sleep(10 * time.Minute)
		selfJob(t, prod, 1, true, "runs and goes", removes)
		time.Sleep(10 * time.Minute)
		if _, _, there := jobAt(t, test, 1); there {
			t.Error("it was made again at the target, where it ran")
		}
		if p := parkedAs(w, "test", 1); p.Class != "may have run" {
			t.Errorf("parked %+v", p)
		}
		for _, p := range listParked(t, w) {
			p.RetryAsked = p.RetryDone + 1
			w.Do(func(ctx context.Context) error {
				_, err := w.Broker.PutParked(ctx, p)
				return err
			})
		}
		time.Sleep(time.Minute)
		if _, _, there := jobAt(t, test, 1); !there {
			t.Error("a person asked for it, and it is not there")
		}
	})
}
