package broker_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/vcsync/vcsync/broker"
	"github.com/vcsync/vcsync/schemas"
)

// On a cluster the consumer of a watch or a scan lies on any member, which may be
// behind what was acknowledged: here one that was away while much was stored. Who takes
// a target over must know all that the one before it has recorded; and what a scan says
// it has read up to, it must have read.
func TestAMemberThatComesBackIsNotReadTooEarly(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	ctl := c.open(t, "control", broker.Control)
	pro, one, two := c.open(t, "producer", broker.Producer), c.open(t, "consumer", broker.Consumer), c.open(t, "consumer", broker.Consumer)
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Second)
	defer cancel()
	stale, short, rounds, failed := 0, 0, 0, 0
	begun := time.Now()
	n := 0
	for member := range 2 {
		c.stops[member]()
		var l *broker.Ledger
		eventually(t, "the ledger opens", func() bool {
			var err error
			in, done := context.WithTimeout(ctx, 10*time.Second)
			defer done()
			l, err = one.OpenLedger(in, "test")
			return err == nil
		})
		var last schemas.ID
		for range 40 {
			var changes []broker.Change
			for range 50 {
				n++
				last = schemas.ID(fmt.Sprint("object-", n))
				e := event(string(last), schemas.Added, 1)
				e.Object.Body = []byte(fmt.Sprintf(`{"Id":%q,"Name":"x","Text":"%04096x"}`, last, n))
				changes = append(changes, broker.Change{Event: e})
			}
			eventually(t, "published", func() bool {
				out, err := pro.Publish(ctx, changes)
				return err == nil && out[49].Err == nil
			})
			if err := l.Put(ctx, broker.Entry{Type: schemas.Job, ID: last, Source: "production", Version: schemas.Version{Epoch: 1, Revision: 1}, State: broker.Applied}); err != nil {
				t.Fatal(err)
			}
		}
		l.Close()
		c.begin(t, member)
		for again := time.Now(); time.Since(again) < 6*time.Second; {
			rounds++
			in, done := context.WithTimeout(ctx, 5*time.Second)
			if next, err := two.OpenLedger(in, "test"); err != nil {
				failed++
			} else {
				if _, ok := next.Get(schemas.Job, last); !ok {
					stale++
				}
				next.Close()
			}
			seen := 0
			upTo, err := two.ScanCaptured(in, "production", 0, func(broker.StoredEvent) { seen++ })
			done()
			if err == nil && upTo >= uint64(n) && seen < n {
				short++
			}
		}
		t.Logf("after %s: %d rounds, %d failed, %d stale ledgers, %d short scans", time.Since(begun).Round(time.Second), rounds, failed, stale, short)
	}
	_ = ctl
	if stale+short > 0 {
		t.Errorf("of %d times %d times the ledger was opened without what was acknowledged before, and %d times a scan said that it had read what it had not", rounds, stale, short)
	}
}
