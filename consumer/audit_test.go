package consumer

import (
	"slices"
	"testing"

	"github.com/vcsync/vcsync/broker"
	"github.com/vcsync/vcsync/consumer/decide"
	"github.com/vcsync/vcsync/schemas"
)

// TestAnAuditPutsBackNothingThatWasSettled: a run deals with objects that an audit is about
// to list as held. What is found out or held after that stands.
func TestAnAuditPutsBackNothingThatWasSettled(t *testing.T) {
	var k driftKeeper
	entry := func(id schemas.ID) broker.PlanEntry {
		return broker.PlanEntry{Type: schemas.Job, ID: id, Act: string(decide.Hold), Difference: broker.Different}
	}
	found := map[objectKey]broker.PlanEntry{}
	for _, id := range []schemas.ID{"stands", "settled", "found again", "held again"} {
		k.hold("one", entry(id))
		found[objectKey{schemas.Job, id}] = entry(id)
	}
	k.settle(objectKey{schemas.Job, "stands"}) // before the audit, which found it afterwards
	k.begin()
	for _, id := range []schemas.ID{"settled", "found again", "held again"} {
		k.settle(objectKey{schemas.Job, id})
	}
	k.lookAgain(objectKey{schemas.Job, "found again"})
	k.hold("one", entry("held again"))
	before, now := k.replace("one", driftList{entries: found}, func(objectKey, broker.PlanEntry) bool { return true })
	var have []schemas.ID
	for key := range k.list("one").entries {
		have = append(have, key.id)
	}
	slices.Sort(have)
	if want := []schemas.ID{"found again", "held again", "stands"}; !slices.Equal(have, want) || now != 3 || before != 1 {
		t.Errorf("listed: %v, want %v; %d before, %d now", have, want, before, now)
	}
}
