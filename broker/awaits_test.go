package broker_test

import (
	"maps"
	"slices"
	"testing"

	"github.com/vcsync/vcsync/broker"
	"github.com/vcsync/vcsync/broker/brokertest"
	"github.com/vcsync/vcsync/schemas"
)

// waits returns what a setting waits for, by name.
func waits(s broker.Snapshot, v broker.StoredSetting) []schemas.Type {
	return slices.Sorted(maps.Keys(s.Awaits(v)))
}

// TestSinceSaysWhatWaitsForAListing: a setting that becomes active waits for all its types,
// one that was active only for those that it begins to take.
func TestSinceSaysWhatWaitsForAListing(t *testing.T) {
	all := schemas.Rule{Sync: schemas.SyncAll, Rights: schemas.Rights{New: true}}
	v := schemas.Setting{ID: "one", Source: "production", Target: "test", Rules: map[schemas.Type]schemas.Rule{schemas.Job: all}}
	snap := broker.Snapshot{Revision: 10, Settings: map[schemas.Slug]broker.StoredSetting{}, Listed: map[schemas.Slug]map[schemas.Type]uint64{"production": {schemas.Job: 10}}}
	store := func(want map[schemas.Type]uint64, awaits ...schemas.Type) {
		t.Helper()
		v = v.Clone()
		if v.Since = snap.Since(v); !maps.Equal(v.Since, want) {
			t.Errorf("since %v, want %v", v.Since, want)
		}
		snap.Settings[v.ID] = broker.StoredSetting{Setting: v.Clone()}
		if have := waits(snap, snap.Settings[v.ID]); !slices.Equal(have, awaits) {
			t.Errorf("waits for %v, want %v", have, awaits)
		}
		snap.Revision += 10
	}
	store(nil)
	v.Active = true
	store(map[schemas.Type]uint64{schemas.Job: 20}, schemas.Job) // it was listed before
	v.Description = "another"
	store(map[schemas.Type]uint64{schemas.Job: 20}, schemas.Job)
	snap.Listed["production"] = map[schemas.Type]uint64{schemas.Job: 21}
	v.Rules[schemas.Credential] = all
	store(map[schemas.Type]uint64{schemas.Job: 20, schemas.Credential: 40}, schemas.Credential)
	delete(v.Rules, schemas.Credential)
	store(map[schemas.Type]uint64{schemas.Job: 20})
	v.Active = false
	store(nil)
	v.Active = true
	store(map[schemas.Type]uint64{schemas.Job: 70}, schemas.Job)

	old := schemas.Setting{ID: "old", Source: "production", Target: "test", Active: true, Rules: v.Rules} // of a release without Since
	if w := waits(snap, broker.StoredSetting{Setting: old}); w != nil {
		t.Errorf("a setting that was active before there was Since waits for %v", w)
	}
}

// TestAListingIsReachedInAnotherNumbering: a setting and its listings come from a store
// whose revisions were others, as after a restore. What it waits for can still be proven,
// and what was listed then proves nothing. A type of a newer release does not keep the
// others from being read.
func TestAListingIsReachedInAnotherNumbering(t *testing.T) {
	ctx := t.Context()
	b := brokertest.Start(t)
	rule := schemas.Rule{Sync: schemas.SyncAll, Rights: schemas.Rights{New: true}}
	v := schemas.Setting{ID: "one", Source: "production", Target: "test", Active: true, Rules: map[schemas.Type]schemas.Rule{schemas.Job: rule, schemas.Credential: rule},
		Since: map[schemas.Type]uint64{schemas.Job: 4711, schemas.Credential: 4711}}
	snapshot := func() broker.Snapshot {
		t.Helper()
		snap, err := b.Snapshot(ctx)
		if err != nil || len(snap.Unreadable) > 0 {
			t.Fatal(err, snap.Unreadable)
		}
		return snap
	}
	if err := b.SetListed(ctx, "production", map[schemas.Type]uint64{schemas.Job: 5000}); err != nil {
		t.Fatal(err)
	}
	if _, err := b.PutSetting(ctx, v, 0); err != nil {
		t.Fatal(err)
	}
	snap := snapshot()
	if w := waits(snap, snap.Settings["one"]); len(w) != 2 {
		t.Errorf("waits for %v, want both types", w)
	}
	if err := b.SetListed(ctx, "production", map[schemas.Type]uint64{schemas.Job: snap.Revision, "Newer": snap.Revision}); err != nil {
		t.Fatal(err)
	}
	snap = snapshot()
	if w := waits(snap, snap.Settings["one"]); !slices.Equal(w, []schemas.Type{schemas.Credential}) {
		t.Errorf("waits for %v after a listing, want Credential", w)
	}
	if snap.Listed["production"]["Newer"] == 0 {
		t.Error("what a newer release listed is forgotten")
	}
	again := v.Clone()
	again.Description = "edited"
	if since := snap.Since(again)[schemas.Credential]; since >= snap.Settings["one"].Revision {
		t.Errorf("an edit keeps revision %d of another numbering", since)
	}
}
