package e2e_test

import (
	"bytes"
	"cmp"
	"context"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vcsync/vcsync/broker"
	"github.com/vcsync/vcsync/control"
	"github.com/vcsync/vcsync/e2e"
	"github.com/vcsync/vcsync/schemas"
)

// pinWorld is a world with a setting of all jobs, and what puts pins in force and waits.
func pinWorld(t *testing.T, f func(w *e2e.World, prod, test *e2e.Host, set *schemas.Setting, pin func(pins ...schemas.Pin))) {
	t.Helper()
	t.Parallel()
	world(t, nil, func(w *e2e.World) {
		set := e2e.AllJobs(oneSetting, "production", "test", schemas.Follow)
		f(w, w.Hosts["production"], w.AddHost("test"), &set, func(pins ...schemas.Pin) {
			t.Helper()
			set.Pins = pins
			w.Setting(set)
			time.Sleep(time.Minute)
		})
	})
}

// runs lets a job at a host run and delete itself.
func runs(t *testing.T, h *e2e.Host, i int) {
	t.Helper()
	if _, err := h.Server.Delete(schemas.Job, jobID(i)); err != nil {
		t.Fatalf("job %d: %v", i, err)
	}
}

// made returns how often a job was made at a host or changed there.
func made(h *e2e.Host, i int) (n int) {
	for _, x := range h.Seen() {
		if x.Op == "put" && x.ID == jobID(i) {
			n++
		}
	}
	return n
}

// parkedAt returns the class under which something is parked at an id of the target.
func parkedAt(t *testing.T, w *e2e.World, i int) string {
	t.Helper()
	for _, p := range listParked(t, w) {
		if p.ID == jobID(i) && p.Discarded == "" {
			return p.Class
		}
	}
	return ""
}

// TestAJobThatRanIsKnownAfterAnotherTookItsID: job 1 ran at the target. Another object is
// pinned to its id; the record that it was there outlives that, the writer that made it,
// and further pins, so that it is not made again without a person.
func TestAJobThatRanIsKnownAfterAnotherTookItsID(t *testing.T) {
	pinWorld(t, func(w *e2e.World, prod, test *e2e.Host, set *schemas.Setting, pin func(...schemas.Pin)) {
		selfJob(t, prod, 1, true, "runs and goes", removes)
		w.StartProducer()
		w.StartConsumer()
		pin()
		runs(t, test, 1)
		pin(pinOf(3, 1))
		selfJob(t, prod, 3, true, "takes its id", "")
		time.Sleep(2 * time.Minute)
		if body, _, _ := jobAt(t, test, 1); body == nil {
			t.Fatal("nothing took the id")
		}
		w.Crash()
		w.StartProducer()
		w.StartConsumer()
		time.Sleep(time.Minute)
		test.Reset()
		pin(pinOf(3, 1), pinOf(1, 4))
		if n, class := made(test, 4), parkedAt(t, w, 4); n != 0 || class != "ran-elsewhere" {
			t.Errorf("pinned elsewhere: made %d times, parked as %q", n, class)
		}
		// The other one goes, and it is at home where it ran.
		deleteJob(t, prod, 3)
		time.Sleep(6 * time.Minute)
		pin()
		time.Sleep(6 * time.Minute)
		if n, class := made(test, 1), parkedAt(t, w, 1); n != 0 || class != "ran-elsewhere" {
			t.Errorf("without a pin: made %d times, parked as %q", n, class)
		}
		w.Do(func(ctx context.Context) error {
			p, err := w.Broker.GetParked(ctx, "test", schemas.Job, jobID(1).Token())
			if err != nil {
				return err
			}
			p.RetryAsked++
			_, err = w.Broker.PutParked(ctx, p)
			return err
		})
		time.Sleep(time.Minute)
		runs(t, test, 1) // a person asked for it
		time.Sleep(16 * time.Minute)
		if n := made(test, 1); n != 1 {
			t.Errorf("%d writes after one retry", n)
		}
	})
}

// TestJobsThatRemoveThemselvesDoNotTurn: pins of two jobs are swapped of which one deletes
// itself. Whether or not it ran, nothing is overwritten, made again or left standing twice
// until a person acts.
func TestJobsThatRemoveThemselvesDoNotTurn(t *testing.T) {
	for _, c := range []struct {
		name string
		ran  bool
	}{{"it ran", true}, {"it is there", false}} {
		t.Run(c.name, func(t *testing.T) {
			pinWorld(t, func(w *e2e.World, prod, test *e2e.Host, set *schemas.Setting, pin func(...schemas.Pin)) {
				selfJob(t, prod, 1, true, "runs and goes", removes)
				selfJob(t, prod, 2, true, "stays", "")
				w.StartProducer()
				w.StartConsumer()
				pin()
				if c.ran {
					runs(t, test, 1)
				}
				test.Reset()
				pin(pinOf(1, 2), pinOf(2, 1))
				time.Sleep(20 * time.Minute)
				if puts, deletes := test.Count(); puts+deletes != 0 {
					t.Errorf("%d writes and %d deletions", puts, deletes)
				}
				want := "other-home"
				if c.ran {
					want = "ran-elsewhere"
				}
				if one, two := parkedAt(t, w, 2), parkedAt(t, w, 1); one != want || two != "other-home" {
					t.Errorf("parked %q and %q", one, two)
				}
				// A person does what is asked for: the one that stands is removed.
				deleteJob(t, test, 2)
				if !c.ran {
					runs(t, test, 1)
				}
				time.Sleep(20 * time.Minute)
				if a, b, class := made(test, 1), made(test, 2), parkedAt(t, w, 2); a != 1 || b != 0 || class != "ran-elsewhere" {
					t.Errorf("the one that stays was made %d times, the other %d times, parked as %q", a, b, class)
				}
			})
		})
	}
}

// TestWhatStandsTwiceIsListed: what pins left behind is a difference, whatever becomes of
// the object that is at home there.
func TestWhatStandsTwiceIsListed(t *testing.T) {
	listed := func(t *testing.T, w *e2e.World, what string, i int) {
		t.Helper()
		behind := func(entries []broker.PlanEntry) (n int) {
			for _, e := range entries {
				if e.Reason == "left-behind" && e.ID == jobID(i) && e.Act == "hold" {
					n++
				}
			}
			return n
		}
		p, entries := w.Ask(oneSetting, broker.RunScope{})
		w.Move(oneSetting, broker.RunDropped, "")
		if behind(entries) != 1 {
			t.Errorf("%s: the plan does not list job %d: %v", what, i, lines(entries))
		}
		equal := true
		for _, c := range p.Counts {
			equal = equal && control.Same(string(c.Difference), c.Act)
		}
		if equal {
			t.Errorf("%s: a comparison says equal", what)
		}
		time.Sleep(16 * time.Minute)
		if _, entries = w.Drift(oneSetting); behind(entries) != 1 {
			t.Errorf("%s: the drift list does not have job %d: %v", what, i, lines(entries))
		}
	}
	for _, edits := range []schemas.TargetEdits{schemas.OverwriteEdits, schemas.KeepEdits} {
		t.Run("the other was refused, and is deleted; edits "+cmp.Or(string(edits), "overwritten"), func(t *testing.T) {
			pinWorld(t, func(w *e2e.World, prod, test *e2e.Host, set *schemas.Setting, pin func(...schemas.Pin)) {
				set.TargetEdits = edits
				putJob(t, prod, 1, "one")
				putJob(t, prod, 2, "two")
				w.StartProducer()
				w.StartConsumer()
				pin()
				test.SetFaults(fault(func(rw http.ResponseWriter, r *http.Request) bool {
					if r.Method == http.MethodPut && strings.HasSuffix(r.URL.Path, string(jobID(2))) {
						for range 100 { // the other one goes first
							if two, _, _ := jobAt(t, test, 1); !bytes.Contains(two, []byte(`"one"`)) {
								break
							}
							time.Sleep(50 * time.Millisecond)
						}
						http.Error(rw, "no", http.StatusUnprocessableEntity)
						return true
					}
					return false
				}))
				pin(pinOf(1, 2), pinOf(2, 1))
				one, two := bodyOf(t, test, schemas.Job, jobID(1)), bodyOf(t, test, schemas.Job, jobID(2))
				if one["Description"] != "two" || two["Description"] != "two" {
					t.Fatalf("id 1 is %v, id 2 is %v", one["Description"], two["Description"])
				}
				listed(t, w, "refused", 2)
				deleteJob(t, prod, 1)
				time.Sleep(2 * time.Minute)
				listed(t, w, "deleted", 2)
			})
		})
	}
	t.Run("no right to overwrite", func(t *testing.T) {
		pinWorld(t, func(w *e2e.World, prod, test *e2e.Host, set *schemas.Setting, pin func(...schemas.Pin)) {
			set.Rules[schemas.Job] = schemas.Rule{Sync: schemas.SyncAll, Rights: schemas.Rights{New: true, Deleted: true}}
			putJob(t, prod, 1, "one")
			putJob(t, prod, 2, "two")
			w.StartProducer()
			w.StartConsumer()
			pin()
			pin(pinOf(1, 2), pinOf(2, 1))
			listed(t, w, "swapped", 2)
		})
	})
	t.Run("the other is not taken", func(t *testing.T) {
		pinWorld(t, func(w *e2e.World, prod, test *e2e.Host, set *schemas.Setting, pin func(...schemas.Pin)) {
			set.Rules[schemas.Job] = schemas.Rule{Sync: schemas.SyncListed, Objects: []schemas.ObjectRule{{ID: jobID(2), Rights: schemas.Rights{New: true, Updated: true, Deleted: true}}}}
			putJob(t, prod, 2, "two")
			putJob(t, prod, 5, "five")
			w.StartProducer()
			w.StartConsumer()
			pin(pinOf(2, 5))
			pin()
			listed(t, w, "without a pin", 2)
		})
	})
}

// TestSwappedPinsThatGo: two objects that changed places change back when the pins go.
func TestSwappedPinsThatGo(t *testing.T) {
	pinWorld(t, func(w *e2e.World, prod, test *e2e.Host, set *schemas.Setting, pin func(...schemas.Pin)) {
		for i, what := range []string{"", "one", "two", "three"} {
			if i > 0 {
				putJob(t, prod, i, what)
			}
		}
		w.StartProducer()
		w.StartConsumer()
		pin()
		at := func(what string, want ...string) {
			t.Helper()
			time.Sleep(time.Minute)
			for i, d := range want {
				if have := bodyOf(t, test, schemas.Job, jobID(i+1))["Description"]; have != d {
					t.Errorf("%s: id %d is %v, want %s", what, i+1, have, d)
				}
			}
			for _, p := range listParked(t, w) {
				t.Errorf("%s: parked %s: %s", what, p.Class, p.Reason)
			}
		}
		pin(pinOf(1, 2), pinOf(2, 1))
		at("swapped", "two", "one", "three")
		pin(pinOf(1, 3), pinOf(2, 1), pinOf(3, 2))
		at("three in a circle", "two", "three", "one")
		pin(pinOf(1, 2), pinOf(2, 3), pinOf(3, 1))
		at("the other way round", "three", "one", "two")
		pin()
		at("without pins", "one", "two", "three")
		test.Reset()
		time.Sleep(time.Hour)
		if puts, deletes := test.Count(); puts+deletes != 0 {
			t.Errorf("%d writes and %d deletions in a quiet hour", puts, deletes)
		}
	})
}

// TestOneThatIsGoneTakesNoPlace: pins are swapped, and one of the two is deleted at its
// source: the other is not written while it stands where it was.
func TestOneThatIsGoneTakesNoPlace(t *testing.T) {
	pinWorld(t, func(w *e2e.World, prod, test *e2e.Host, set *schemas.Setting, pin func(...schemas.Pin)) {
		set.Rules[schemas.Job] = schemas.Rule{Sync: schemas.SyncAll, Rights: schemas.Rights{New: true, Updated: true}}
		putJob(t, prod, 1, "one")
		putJob(t, prod, 2, "two")
		w.StartProducer()
		w.StartConsumer()
		pin()
		deleteJob(t, prod, 1)
		time.Sleep(2 * time.Minute)
		test.Reset()
		pin(pinOf(1, 2), pinOf(2, 1))
		if n, class := made(test, 1), parkedAt(t, w, 1); n != 0 || class != "other-home" {
			t.Errorf("written %d times, parked as %q", n, class)
		}
	})
}

// TestARunThatTakesOneDoesNotTurn: a run of one object of two that change places writes
// nothing over the other, which the run does not bring.
func TestARunThatTakesOneDoesNotTurn(t *testing.T) {
	pinWorld(t, func(w *e2e.World, prod, test *e2e.Host, set *schemas.Setting, pin func(...schemas.Pin)) {
		set.Mode = schemas.Approve
		putJob(t, prod, 1, "one")
		putJob(t, prod, 2, "two")
		w.StartProducer()
		w.StartConsumer()
		pin()
		p, _ := w.Ask(oneSetting, broker.RunScope{})
		w.Approve(p)
		pin(pinOf(1, 2), pinOf(2, 1))
		test.Reset()
		_, entries := w.Ask(oneSetting, broker.RunScope{Objects: []broker.RunObject{{Type: schemas.Job, ID: jobID(2)}}})
		w.Move(oneSetting, broker.RunDropped, "")
		for _, e := range entries {
			if e.Act == "update" {
				t.Errorf("one of the two: %v", lines(entries))
			}
		}
		p, _ = w.Ask(oneSetting, broker.RunScope{})
		w.Approve(p)
		one, two := bodyOf(t, test, schemas.Job, jobID(1)), bodyOf(t, test, schemas.Job, jobID(2))
		if one["Description"] != "two" || two["Description"] != "one" {
			t.Errorf("both: id 1 is %v, id 2 is %v", one["Description"], two["Description"])
		}
	})
}

// TestWhatIsParkedIsOneObjects: what a person discarded at an id is not meant of another
// object that gets its home there, also where its version has the same number.
func TestWhatIsParkedIsOneObjects(t *testing.T) {
	pinWorld(t, func(w *e2e.World, prod, test *e2e.Host, set *schemas.Setting, pin func(...schemas.Pin)) {
		refuse := fault(func(rw http.ResponseWriter, r *http.Request) bool {
			if r.Method == http.MethodPut {
				http.Error(rw, "no", http.StatusUnprocessableEntity)
				return true
			}
			return false
		})
		test.SetFaults(refuse)
		w.StartProducer()
		w.StartConsumer()
		putJob(t, prod, 1, "one")
		pin(pinOf(1, 4))
		time.Sleep(time.Minute)
		w.Do(func(ctx context.Context) error { // a person does not want it
			p, err := w.Broker.GetParked(ctx, "test", schemas.Job, jobID(4).Token())
			if err != nil {
				return err
			}
			p.Discarded = "not wanted"
			_, err = w.Broker.PutParked(ctx, p)
			return err
		})
		test.SetFaults(nil)
		putJob(t, prod, 2, "two")
		pin(pinOf(2, 4), pinOf(1, 5))
		time.Sleep(6 * time.Minute)
		if b := bodyOf(t, test, schemas.Job, jobID(4)); b["Description"] != "two" {
			t.Errorf("id 4 is %v", b["Description"])
		}
	})
}

// TestAJobIsKnownToHaveRunAfterAWriteOverAnother: the target has another job of the id. The
// write over it is done, the job runs at once and goes, and the answer is lost.
func TestAJobIsKnownToHaveRunAfterAWriteOverAnother(t *testing.T) {
	t.Parallel()
	selfWorld(t, func(w *e2e.World, prod, test *e2e.Host) {
		var n atomic.Int32
		test.SetFaults(func(next http.Handler) http.Handler {
			return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
				if r.Method == http.MethodPut && n.Add(1) == 1 {
					next.ServeHTTP(&nowhere{h: http.Header{}}, r)
					_, _ = test.Server.Delete(schemas.Job, jobID(1))
					panic(http.ErrAbortHandler)
				}
				next.ServeHTTP(rw, r)
			})
		})
		selfJob(t, test, 1, false, "somebody's", "")
		selfJob(t, prod, 1, true, "runs and goes", removes)
		w.StartProducer()
		w.StartConsumer()
		time.Sleep(5 * time.Minute)
		if class := parkedAt(t, w, 1); n.Load() != 1 || class != "may have run" {
			t.Errorf("%d writes, parked as %q", n.Load(), class)
		}
	})
}

// TestAWaitForAWindowIsNoWork: what was brought to an id where another object waits for its
// sync window is parked for what it is, and not as if somebody were at work there.
func TestAWaitForAWindowIsNoWork(t *testing.T) {
	pinWorld(t, func(w *e2e.World, prod, test *e2e.Host, set *schemas.Setting, pin func(...schemas.Pin)) {
		putJob(t, prod, 2, "two")
		w.StartProducer()
		w.StartConsumer()
		pin()
		set.Windows = schemas.Windows{never}
		pin(pinOf(2, 9), pinOf(3, 2))
		putJob(t, prod, 3, "three")
		time.Sleep(20 * time.Minute)
		if class := parkedAt(t, w, 9); class != "other-home" {
			t.Errorf("parked as %q", class)
		}
		set.Windows = nil
		pin(pinOf(2, 9), pinOf(3, 2))
		two, nine := bodyOf(t, test, schemas.Job, jobID(2)), bodyOf(t, test, schemas.Job, jobID(9))
		if two["Description"] != "three" || nine["Description"] != "two" {
			t.Errorf("id 2 is %v, id 9 is %v", two["Description"], nine["Description"])
		}
	})
}

// never is a window in which nothing is written.
var never = schemas.Window{Kind: schemas.DenyWindow, Schedule: "0 0 * * *", Duration: "36h"}

// TestNobodyLooksAgainAtAJobThatMayHaveRunElsewhere: only a person's word does, and a change
// of the setting itself; not that of another one.
func TestNobodyLooksAgainAtAJobThatMayHaveRunElsewhere(t *testing.T) {
	pinWorld(t, func(w *e2e.World, prod, test *e2e.Host, set *schemas.Setting, pin func(...schemas.Pin)) {
		other := w.AddHost("other")
		putJob(t, other, 50, "of another")
		selfJob(t, prod, 1, true, "runs and goes", removes)
		w.StartProducer()
		w.StartConsumer()
		pin()
		runs(t, test, 1)
		pin(pinOf(1, 9))
		if class := parkedAt(t, w, 9); class != "ran-elsewhere" {
			t.Fatalf("parked as %q", class)
		}
		time.Sleep(time.Minute)
		var n atomic.Int32
		test.SetFaults(fault(func(_ http.ResponseWriter, r *http.Request) bool {
			if strings.HasSuffix(r.URL.Path, string(jobID(1))) || strings.HasSuffix(r.URL.Path, string(jobID(9))) {
				n.Add(1)
			}
			return false
		}))
		more := e2e.AllJobs("other-to-test", "other", "test", schemas.Follow)
		more.Rules[schemas.Job] = schemas.Rule{Sync: schemas.SyncListed, Objects: []schemas.ObjectRule{{ID: jobID(50), Rights: schemas.Rights{New: true}}}}
		w.Setting(more)
		time.Sleep(4 * time.Minute)
		if bodyOf(t, test, schemas.Job, jobID(50)) == nil {
			t.Error("the other setting did nothing")
		}
		if n.Load() != 0 {
			t.Errorf("asked for %d times", n.Load())
		}
	})
}
