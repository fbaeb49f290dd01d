package consumer

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/vcsync/vcsync/broker"
	"github.com/vcsync/vcsync/broker/brokertest"
	"github.com/vcsync/vcsync/schemas"
)

// many returns accounts over objects that were all dealt with, but for those of which
// the number is a multiple of behind; 0 for none.
func many(t testing.TB, objects, behind int) (*accounts, broker.StoredSetting) {
	b := brokertest.Start(t)
	l, err := b.OpenLedger(context.Background(), "b")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.Close)
	set := broker.StoredSetting{Setting: schemas.Setting{ID: "one", Source: "a", Target: "b", Active: true, Policy: schemas.Keep,
		Rules: map[schemas.Type]schemas.Rule{schemas.Job: {Sync: schemas.SyncAll, Rights: schemas.Rights{New: true, Updated: true, Deleted: true}}}}, Revision: 1}
	v := &view{settings: map[schemas.Slug]broker.StoredSetting{"one": set}}
	log := slog.New(slog.DiscardHandler)
	tg := newTarget(&Manager{cfg: Config{Broker: b, Log: log, histories: &histories{}}}, schemas.Server{ID: "b"}, v)
	s := &session{target: tg, ledger: l, lanes: newLanes(), parked: newParkedSet(b, "b"), passedBy: map[objectKey]passed{}, comparedAt: map[schemas.Slug]uint64{"one": 1}}
	if _, err := b.JS().CreateConsumer(context.Background(), broker.StreamState, durableConfig(set)); err != nil {
		t.Fatal(err)
	}
	a := &accounts{s: s, histories: map[schemas.Slug]*captured{}, done: map[schemas.Slug]func(){}, open: map[schemas.Slug]map[objectKey]doubt{}, said: map[schemas.Slug]uint64{}, drawn: map[schemas.Slug]drawn{}}
	h := &captured{broker: b, source: "a", by: map[objectKey]capturedHead{}}
	a.histories["a"] = h
	var wg sync.WaitGroup
	todo := make(chan int)
	for range 256 {
		wg.Go(func() {
			for i := range todo {
				e := broker.Entry{Type: schemas.Job, ID: schemas.ID(fmt.Sprintf("00000000-0000-4000-8000-%012d", i)), Source: "a", Version: schemas.Version{Epoch: 1, Revision: 3},
					Digest: schemas.DigestOf([]byte("x")), State: broker.Applied, At: time.Now(), Applied: 2, Superseded: 1}
				if err := l.Put(context.Background(), e); err != nil {
					t.Error(err)
				}
			}
		})
	}
	for i := range objects {
		todo <- i
		head := capturedHead{version: schemas.Version{Epoch: 1, Revision: 3}, seq: 0}
		if behind > 0 && i%behind == 0 {
			head.version.Revision++
		}
		h.by[objectKey{schemas.Job, schemas.ID(fmt.Sprintf("00000000-0000-4000-8000-%012d", i))}] = head
	}
	close(todo)
	wg.Wait()
	return a, set
}

// What is missing is found among many, is believed only when it stays, and counts
// once.
func TestADifferenceHasToStand(t *testing.T) {
	a, set := many(t, 2000, 1000)
	v, _ := a.s.current()
	draw := func() *Accounting {
		t.Helper()
		acc, err := a.drawOne(t.Context(), v, set)
		if err != nil {
			t.Fatal(err)
		}
		a.s.showAccounts(map[schemas.Slug]*Accounting{"one": acc})
		return acc
	}
	if acc := draw(); acc.Open != 2 || acc.Unaccounted != 0 || acc.Captured != 6002 || acc.Applied != 4000 || acc.Superseded != 2000 {
		t.Errorf("at first sight: %+v", acc)
	}
	backdate := func() {
		for key, d := range a.open["one"] {
			d.since = d.since.Add(-accountAgain)
			a.open["one"][key] = d
		}
	}
	backdate()
	if acc := draw(); acc.Open != 2 || acc.Unaccounted != 2 || len(acc.Objects) != 2 {
		t.Errorf("when it stands: %+v", acc)
	}
	// One of the two moves: it is a new difference. The other turns up in a lane.
	moved, found := objectKey{schemas.Job, "00000000-0000-4000-8000-000000000000"}, objectKey{schemas.Job, "00000000-0000-4000-8000-000000001000"}
	h := a.histories["a"]
	head := h.by[moved]
	head.version.Revision++
	h.by[moved] = head
	a.s.lanes.look(found, nil, nil, false)
	if acc := draw(); acc.Open != 1 || acc.Unaccounted != 0 || acc.Pending != 1 || acc.Superseded != 2001 {
		t.Errorf("when it moves: %+v", acc)
	}
	// Counters that do not add up are a difference too.
	e, _ := a.s.ledger.Get(schemas.Job, "00000000-0000-4000-8000-000000000007")
	e.Applied += 4
	if err := a.s.ledger.Put(t.Context(), e); err != nil {
		t.Fatal(err)
	}
	if acc := draw(); acc.Open != 5 {
		t.Errorf("with a ledger that counts wrongly: %+v", acc)
	}
}

// Nothing that stood still is counted again.
func TestAnAccountOfWhatStoodStillCostsNothing(t *testing.T) {
	a, set := many(t, 100, 0)
	v, _ := a.s.current()
	first, err := a.drawOne(t.Context(), v, set)
	if err != nil {
		t.Fatal(err)
	}
	a.s.showAccounts(map[schemas.Slug]*Accounting{"one": first})
	e, _ := a.s.ledger.Get(schemas.Job, "00000000-0000-4000-8000-000000000007")
	clear(a.histories["a"].by) // what is not looked at is not missed
	second, err := a.drawOne(t.Context(), v, set)
	if err != nil || second.Captured != 300 {
		t.Fatalf("%+v, %v", second, err)
	}
	e.Version.Revision, e.Applied = 4, 3
	if err := a.s.ledger.Put(t.Context(), e); err != nil {
		t.Fatal(err)
	}
	if third, err := a.drawOne(t.Context(), v, set); err != nil || third.Captured != 0 {
		t.Fatalf("the ledger moved: %+v, %v", third, err)
	}
}

func BenchmarkAccountOf50000(b *testing.B) {
	for _, c := range []struct {
		name   string
		behind int
	}{{"at-rest", 0}, {"all-pending", 1}} {
		b.Run(c.name, func(b *testing.B) {
			a, set := many(b, 50000, c.behind)
			v, _ := a.s.current()
			if c.behind > 0 {
				clear(a.s.comparedAt)
			}
			b.ReportAllocs()
			for b.Loop() {
				clear(a.drawn)
				acc, err := a.drawOne(b.Context(), v, set)
				if err != nil || acc.Open != 0 {
					b.Fatal(acc, err)
				}
			}
		})
	}
}
