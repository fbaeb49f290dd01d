package producer

import (
	"context"
	"log/slog"
	"testing"
	"testing/synctest"

	"github.com/vcsync/vcsync/broker"
	"github.com/vcsync/vcsync/broker/brokertest"
	"github.com/vcsync/vcsync/schemas"
)

// TestAListingIsProvenOnlyOnceItsStatesTell: what a setting waits for is stored once the
// newest states tell what the listing found, by who still holds the source, and not while
// they tell of objects as they were before.
func TestAListingIsProvenOnlyOnceItsStatesTell(t *testing.T) {
	t.Parallel()
	for what, c := range map[string]struct {
		behind, lost bool
		status       TypeStatus
		proven, told bool
	}{
		"all is well":                              {status: TypeStatus{Revision: 11}, proven: true},
		"it began before":                          {status: TypeStatus{Revision: 10}},
		"deletions are held":                       {status: TypeStatus{Revision: 11, Held: 6}},
		"an object is on record as it was before":  {status: TypeStatus{Revision: 11, Refused: 1, Stale: 1}},
		"an object that was never captured is odd": {status: TypeStatus{Revision: 11, Refused: 1}, proven: true},
		"the newest states are behind":             {behind: true, status: TypeStatus{Revision: 11}, told: true},
		"another process has the source by now":    {lost: true, status: TypeStatus{Revision: 11}},
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				ctx := t.Context()
				b := brokertest.Start(t)
				s := newSource(Config{Broker: b, Log: slog.New(slog.DiscardHandler)}, nil, schemas.Server{ID: "production"}, []schemas.Type{schemas.Job}, false)
				var err error
				if s.lease, err = b.AcquireLease(ctx, "source.production", "test", broker.LeaseTimes{}); err != nil {
					t.Fatal(err)
				}
				if c.lost {
					s.lease.Abandon()
				} else {
					defer s.lease.Release(context.Background())
				}
				if c.behind {
					info, err := b.JS().Stream(ctx, broker.StreamState)
					if err != nil {
						t.Fatal(err)
					}
					cfg := info.CachedInfo().Config
					cfg.Sources = nil
					if _, err := b.JS().UpdateStream(ctx, cfg); err != nil {
						t.Fatal(err)
					}
					if _, err := b.JS().Publish(ctx, "vcsync.ev.production.Job.added.a", nil); err != nil {
						t.Fatal(err)
					}
				}
				s.know(12, 0, map[schemas.Type]uint64{schemas.Job: 10}, nil)
				s.status.Types[schemas.Job] = c.status
				s.prove(ctx)
				snap, err := b.Snapshot(ctx)
				if err != nil {
					t.Fatal(err)
				}
				if _, proven := snap.Listed["production"]; proven != c.proven {
					t.Errorf("proven %v", proven)
				}
				if told := s.currentStatus().Unproven != ""; told != c.told {
					t.Errorf("the status says %q", s.currentStatus().Unproven)
				}
			})
		})
	}
}
