package e2e_test

import (
	"context"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/vcsync/vcsync/broker"
	"github.com/vcsync/vcsync/e2e"
	"github.com/vcsync/vcsync/schemas"
)

// safeMode enters or leaves safe mode, as control does.
func safeMode(w *e2e.World, on bool) {
	w.T.Helper()
	w.Do(func(ctx context.Context) error {
		if on {
			return w.Broker.EnterSafeMode(ctx, "local", "a test")
		}
		m, err := w.Broker.GetSafeMode(ctx)
		if err != nil {
			return err
		}
		_, err = w.Broker.PutSafeMode(ctx, broker.SafeMode{Why: "enough"}, m.Revision)
		return err
	})
}

// TestSafeModeWritesOnlyWhatWasApproved: nothing is deleted, nothing else is written but by
// an approved plan, what is equal is put on record, and the end of safe mode brings the
// rest.
func TestSafeModeWritesOnlyWhatWasApproved(t *testing.T) {
	t.Parallel()
	world(t, []schemas.Slug{"test"}, func(w *e2e.World) {
		prod, test := w.Hosts["production"], w.Hosts["test"]
		for i := range 4 {
			putJob(t, prod, i, "first")
		}
		w.StartProducer()
		w.StartConsumer()
		time.Sleep(2 * time.Minute)
		safeMode(w, true)
		time.Sleep(time.Second)
		test.Reset()
		putJob(t, prod, 0, "edited")
		deleteJob(t, prod, 1)
		putJob(t, prod, 5, "new")
		putJob(t, prod, 6, "on both")
		putJob(t, test, 6, "on both")
		putJob(t, test, 2, "edited at the target")
		time.Sleep(40 * time.Minute)
		wrote(t, test, "in safe mode", 0, 0)
		if e := entryOf(t, w, "test", 6); e.State != broker.Adopted {
			t.Errorf("what is equal is on record as %q, want adopted", e.State)
		}

		p, entries := w.Ask(oneSetting, broker.RunScope{})
		same(t, "plan", entries,
			"Job 0 different: update (differs)",
			"Job 1 only at the target: hold delete (safe-mode)",
			"Job 2 different: update (differs)",
			"Job 5 only at the source: add (new)")
		w.Approve(p)
		wrote(t, test, "what was approved", 3, 0)
		time.Sleep(20 * time.Minute)
		wrote(t, test, "after the plan", 0, 0)
		safeMode(w, false)
		time.Sleep(time.Minute)
		wrote(t, test, "after safe mode", 0, 1)
		if d := e2e.Diverged(prod, test, schemas.Keep); d != nil {
			t.Errorf("differences: %v", d)
		}
	})
}

// TestSafeModeStopsWhatIsPlanned enters safe mode between the look at the target and the
// write (G13).
func TestSafeModeStopsWhatIsPlanned(t *testing.T) {
	t.Parallel()
	world(t, []schemas.Slug{"test"}, func(w *e2e.World) {
		prod, test := w.Hosts["production"], w.Hosts["test"]
		putJob(t, prod, 0, "first")
		w.StartProducer()
		w.StartConsumer()
		time.Sleep(2 * time.Minute)
		test.Reset()
		reads := 0
		test.SetFaults(fault(func(_ http.ResponseWriter, r *http.Request) bool {
			if r.Method == http.MethodGet && strings.Contains(r.URL.Path, "/objects/Job/") {
				reads++
				time.Sleep(5 * time.Second)
			}
			return false
		}))
		putJob(t, prod, 0, "edited")
		time.Sleep(3 * time.Second) // it is being read
		if reads != 1 {
			t.Fatalf("%d reads of the object, want one that is under way", reads)
		}
		safeMode(w, true)
		time.Sleep(2 * time.Minute)
		wrote(t, test, "planned before safe mode", 0, 0)
		safeMode(w, false)
		time.Sleep(time.Minute)
		wrote(t, test, "after safe mode", 1, 0)
	})
}

// entryOf returns what the ledger of a target holds of a job.
func entryOf(t *testing.T, w *e2e.World, target schemas.Slug, i int) (out broker.Entry) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := w.Broker.WatchLedger(ctx, target, func(e broker.Entry) {
		if e.Type == schemas.Job && e.ID == jobID(i) {
			out = e
		}
	}, cancel); err != nil && ctx.Err() == nil {
		t.Fatal(err)
	}
	return out
}
