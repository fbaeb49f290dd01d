package consumer

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/vcsync/vcsync/broker"
	"github.com/vcsync/vcsync/schemas"
)

// TestDeletionsAreCountedFor24Hours: what is under way counts, and what the ledger has from
// before; what is older does not, nor what is of another type or setting, or was found gone.
func TestDeletionsAreCountedFor24Hours(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &deletions{done: map[objectKey]deletion{}, flying: map[objectKey]deletion{}, owned: map[ownedKey]int{}}
		set := schemas.Setting{ID: "one", Deletes: map[schemas.Type]schemas.Measure{schemas.Job: {Number: 2, Share: 0}}}
		entry := func(id schemas.ID, s broker.LedgerState, by schemas.Slug) broker.Entry {
			return broker.Entry{Type: schemas.Job, ID: id, Source: "s", State: s, Deleted: by, At: time.Now()}
		}
		remove := func(id schemas.ID, by schemas.Slug) {
			had := entry(id, broker.Applied, "")
			d.record(broker.Entry{}, had)
			d.record(had, entry(id, broker.Removed, by))
		}
		key := func(id schemas.ID) objectKey { return objectKey{schemas.Job, id} }
		want := func(what string, id schemas.ID, done int, beyond bool) {
			t.Helper()
			if n, b := d.beyond(key(id), "s", set, nil, false); n.done != done || b != beyond {
				t.Errorf("%s: %d done, beyond %v, want %d and %v", what, n.done, b, done, beyond)
			}
		}
		remove("a", "one")
		remove("b", "another")
		remove("c", "") // found gone, or a person answered for it
		want("one was deleted", "x", 1, false)
		if _, b := d.beyond(key("x"), "s", set, nil, true); b {
			t.Error("the second is beyond a measure of two")
		}
		want("one is under way", "y", 2, true)
		want("the same once more", "x", 1, false)
		d.land(key("x"))
		want("that came to nothing", "y", 1, false)
		if n, b := d.beyond(key("y"), "s", set, map[objectKey]schemas.Slug{key("p"): "one", key("q"): "another"}, false); n.done != 2 || !b {
			t.Errorf("with one that a plan holds: %d done, beyond %v", n.done, b)
		}
		time.Sleep(24*time.Hour - time.Second)
		want("a second before the end", "y", 1, false)
		time.Sleep(time.Second)
		want("after 24 hours", "y", 0, false)
		// A share is of what there was before, so that what is deleted does not make it less.
		set.Deletes[schemas.Job] = schemas.Measure{Share: 20}
		for _, id := range []schemas.ID{"1", "2", "3", "4", "5", "6", "7", "8"} {
			d.record(broker.Entry{}, entry(id, broker.Adopted, ""))
		}
		remove("e", "one")
		remove("f", "one")
		if n, b := d.beyond(key("1"), "s", set, nil, false); n != (tally{2, 2, 10}) || !b {
			t.Errorf("of ten: %+v, beyond %v", n, b)
		}
		// Nor does it make it more while it is under way, or waits switched off.
		under := entry("1", broker.Intent, "one")
		under.Ours = true
		d.record(entry("1", broker.Adopted, ""), under)
		off := entry("2", broker.Adopted, "")
		off.Grace = broker.Grace{Setting: "one", Since: time.Now()}
		d.record(entry("2", broker.Adopted, ""), off)
		if n, b := d.beyond(key("3"), "s", set, nil, false); n != (tally{4, 2, 10}) || !b {
			t.Errorf("of ten, with one under way and one switched off: %+v, beyond %v", n, b)
		}
	})
}
