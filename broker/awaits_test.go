package broker_test

import (
	"maps"
	"slices"
	"testing"

	"github.com/vcsync/vcsync/broker"
	"github.com/vcsync/vcsync/schemas"
)

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
		if have := snap.Awaits(v); !slices.Equal(have, awaits) {
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
	if w := snap.Awaits(old); w != nil {
		t.Errorf("a setting that was active before there was Since waits for %v", w)
	}
}
