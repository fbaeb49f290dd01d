package e2e_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/vcsync/vcsync/broker"
	"github.com/vcsync/vcsync/consumer/decide"
	"github.com/vcsync/vcsync/control"
	"github.com/vcsync/vcsync/e2e"
	"github.com/vcsync/vcsync/schemas"
)

// TestAnOrphanIsForAPerson: of what vcsync brought, and of which nothing is known from its
// source any more, every list says so. It stays.
func TestAnOrphanIsForAPerson(t *testing.T) {
	t.Parallel()
	world(t, []schemas.Slug{"test"}, func(w *e2e.World) {
		prod, test := w.Hosts["production"], w.Hosts["test"]
		putJob(t, prod, 1, "first")
		putJob(t, test, 2, "brought before the store was lost")
		putJob(t, test, 3, "its own")
		w.Do(func(ctx context.Context) error {
			l, err := w.Broker.OpenLedger(ctx, "test")
			if err != nil {
				return err
			}
			defer l.Close()
			return l.Put(ctx, broker.Entry{Type: schemas.Job, ID: jobID(2), Source: "production", Version: schemas.Version{Epoch: 1, Revision: 1},
				Digest: schemas.DigestOf([]byte("x")), AtTarget: schemas.DigestOf([]byte("x")), State: broker.Applied, At: time.Now().UTC()})
		})
		w.StartProducer()
		w.StartConsumer()
		time.Sleep(20 * time.Minute)
		_, entries := w.Drift(oneSetting)
		all := []string{"Job 2 only at the target: hold (orphan)", "Job 3 only at the target: nothing (not-from-source)"}
		same(t, "drift", entries, all...)
		_, entries = w.Ask(oneSetting, broker.RunScope{})
		same(t, "plan", entries, all...)
		_, entries = w.Ask(oneSetting, broker.RunScope{Objects: []broker.RunObject{{Type: schemas.Job, ID: jobID(1)}}})
		same(t, "plan of another", entries)
		if r := explained(t, w, oneSetting, 2); r.Held != control.GateKnown || !strings.Contains(r.Line, decide.Orphan.Text()) {
			t.Errorf("explain says %s", r.Line)
		}
		if _, deletes := test.Count(); deletes != 0 {
			t.Errorf("%d deletions", deletes)
		}
	})
}
