package broker_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vcsync/vcsync/broker"
	"github.com/vcsync/vcsync/broker/brokertest"
	"github.com/vcsync/vcsync/schemas"
)

func TestRunsAndPlans(t *testing.T) {
	t.Parallel()
	b := brokertest.Start(t)
	ctx := t.Context()
	if _, err := b.GetRun(ctx, "s"); !errors.Is(err, broker.ErrNotFound) {
		t.Errorf("a run that never was: %v", err)
	}
	r := broker.Run{ID: "r1", Setting: "s", Phase: broker.RunCapture, Scope: broker.RunScope{Types: []schemas.Type{schemas.Job}}, Asked: time.Date(2026, 11, 23, 6, 0, 0, 0, time.UTC)}
	rev, err := b.PutRun(ctx, r, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.PutRun(ctx, r, 0); !errors.Is(err, broker.ErrConflict) {
		t.Errorf("a second first run: %v", err)
	}
	snap, err := b.Snapshot(ctx)
	if err != nil || snap.Runs["s"].ID != "r1" || snap.Runs["s"].Revision != rev || !snap.Runs["s"].Listed(snap.Revision) || snap.Runs["s"].Listed(rev-1) {
		t.Errorf("snapshot %+v, %v", snap.Runs, err)
	}
	seen := make(chan broker.RunPhase, 10)
	watch, end := context.WithCancel(ctx)
	done := make(chan error, 1)
	go func() {
		done <- b.WatchConfig(watch, func(s broker.Snapshot) { seen <- s.Runs["s"].Phase })
	}()
	if got := <-seen; got != broker.RunCapture {
		t.Errorf("watched %q first", got)
	}
	r.Phase = broker.RunPlan
	if _, err := b.PutRun(ctx, r, rev); err != nil {
		t.Fatal(err)
	}
	if got := <-seen; got != broker.RunPlan {
		t.Errorf("watched %q then", got)
	}
	end()
	if err := <-done; err != nil {
		t.Error(err)
	}

	var entries []broker.PlanEntry
	for i := range 450 {
		entries = append(entries, broker.PlanEntry{Type: schemas.Job, ID: schemas.ID(fmt.Sprint("job", i)), Difference: broker.OnlySource, Act: "add"})
	}
	if err := b.PutPlan(ctx, broker.Plan{ID: "p1", Run: "r1", Setting: "s"}, entries); err != nil {
		t.Fatal(err)
	}
	p, err := b.GetPlan(ctx, "s")
	if err != nil || p.Pages != 3 || p.Entries != 450 {
		t.Fatalf("plan %+v, %v", p, err)
	}
	var ids []schemas.ID
	var last broker.PlanPage
	if err := b.PlanPages(ctx, p, func(_ int, page broker.PlanPage) bool {
		for _, e := range page.Entries {
			ids = append(ids, e.ID)
		}
		last = page
		return true
	}); err != nil {
		t.Fatal(err)
	}
	if len(ids) != 450 || ids[449] != "job449" || slices.Contains(ids[:449], ids[449]) {
		t.Errorf("%d ids, the last %s", len(ids), ids[len(ids)-1])
	}
	last.Entries[0].Outcome = broker.OutcomeDone
	if _, err := b.PutPlanPage(ctx, p, 2, last); err != nil {
		t.Fatal(err)
	}
	if _, err := b.PutPlanPage(ctx, p, 2, last); !errors.Is(err, broker.ErrConflict) {
		t.Errorf("a page that somebody else changed: %v", err)
	}
	if err := b.PutPlan(ctx, broker.Plan{ID: "p2", Run: "r1", Setting: "s"}, entries[:1]); err != nil {
		t.Fatal(err)
	}
	if err := b.PlanPages(ctx, p, func(int, broker.PlanPage) bool { return true }); !errors.Is(err, broker.ErrConflict) {
		t.Errorf("pages of a plan that was replaced: %v", err)
	}
	if err := b.PutProgress(ctx, broker.RunProgress{Run: "r1", Setting: "s", Total: 3, Done: 1}); err != nil {
		t.Fatal(err)
	}
	if err := b.PutDrift(ctx, broker.DriftList{ID: "d1", Setting: "s"}, slices.Repeat(entries, 5)); err != nil {
		t.Fatal(err)
	}
	if d, err := b.GetDrift(ctx, "s"); err != nil || !d.Cut || d.Entries != broker.DriftMost {
		t.Errorf("drift %+v, %v", d, err)
	}
	news, end := context.WithCancel(ctx)
	got := map[string]int{}
	if err := b.WatchPlans(news, func(n broker.PlanNews) {
		switch {
		case n.Plan != nil && n.Plan.ID == "p2":
			got["plan"]++
		case n.Progress != nil && n.Progress.Done == 1:
			got["progress"]++
		case n.Drift != nil && n.Drift.Cut:
			got["drift"]++
		default:
			t.Errorf("news %+v", n)
		}
		if len(got) == 3 {
			end()
		}
	}); err != nil {
		t.Error(err)
	}
	end()
}

func TestScopeOfARun(t *testing.T) {
	t.Parallel()
	all := schemas.Rule{Sync: schemas.SyncAll, Rights: schemas.Rights{New: true}}
	set := schemas.Setting{Rules: map[schemas.Type]schemas.Rule{schemas.Job: all, schemas.Variable: all}}
	for _, c := range []struct {
		scope broker.RunScope
		types []schemas.Type
		job   bool // takes job a
	}{
		{broker.RunScope{}, set.TakenTypes(), true},
		{broker.RunScope{Types: []schemas.Type{schemas.Variable, schemas.User}}, []schemas.Type{schemas.Variable}, false},
		{broker.RunScope{Objects: []broker.RunObject{{Type: schemas.Job, ID: "a"}}}, []schemas.Type{schemas.Job}, true},
		{broker.RunScope{Objects: []broker.RunObject{{Type: schemas.Job, ID: "b"}}}, []schemas.Type{schemas.Job}, false},
		{broker.RunScope{Objects: []broker.RunObject{{Type: schemas.Job, ID: "a"}}, Dependencies: true},
			slices.DeleteFunc(schemas.Types(), func(t schemas.Type) bool { return t == schemas.ServerSettings }), true},
	} {
		if got := c.scope.TypesOf(set); !slices.Equal(got, c.types) {
			t.Errorf("%+v: types %v, want %v", c.scope, got, c.types)
		}
		if got := c.scope.Takes(schemas.Job, "a"); got != c.job {
			t.Errorf("%+v: takes job a: %v", c.scope, got)
		}
	}
}

// Long ids and long words make more pages, not a record that no broker takes.
func TestPagesOfLongEntries(t *testing.T) {
	t.Parallel()
	b := brokertest.Start(t)
	ctx := t.Context()
	long := strings.Repeat("\x01", schemas.MaxID-4) // six bytes each in JSON
	var entries []broker.PlanEntry
	for i := range 250 {
		entries = append(entries, broker.PlanEntry{Type: schemas.Job, ID: schemas.ID(fmt.Sprintf("%s%03d", long, i)), TargetID: schemas.ID(long), Difference: broker.Different,
			Act: "update", Why: strings.Repeat("ü", 100_000), Fields: []string{strings.Repeat("f", 100_000)}})
	}
	if err := b.PutDrift(ctx, broker.DriftList{ID: "d1", Setting: "s"}, entries); err != nil {
		t.Fatal(err)
	}
	d, err := b.GetDrift(ctx, "s")
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	if err := b.DriftPages(ctx, d, func(_ int, page broker.PlanPage) bool {
		for _, e := range page.Entries {
			if e.ID != entries[n].ID || len(e.Why) != 1000 || len(e.Fields[0]) != 500 {
				t.Fatalf("entry %d: %d bytes of why, %d of a field", n, len(e.Why), len(e.Fields[0]))
			}
			n++
		}
		return true
	}); err != nil || n != 250 {
		t.Errorf("%d entries on %d pages, %v", n, d.Pages, err)
	}
}
