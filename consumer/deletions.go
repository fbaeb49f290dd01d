package consumer

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/vcsync/vcsync/broker"
	"github.com/vcsync/vcsync/consumer/decide"
	"github.com/vcsync/vcsync/schemas"
)

// measureFor is the time in which a setting's deletions are counted (G4).
const measureFor = 24 * time.Hour

// deletions counts what vcsync deletes at a target: see schemas.Setting.Deletes. It is made
// from the ledger, and keeps in line with it.
type deletions struct {
	mu sync.Mutex
	// done are the deletions of the last 24 hours and a while, and what was switched off
	// to be deleted; flying are those that are under way.
	done   map[objectKey]deletion
	flying map[objectKey]deletion
	// owned counts what vcsync brought and has not removed, by source and type.
	owned map[ownedKey]int
}

type deletion struct {
	setting, source schemas.Slug
	at              time.Time
	// there tells that the object is still among the owned: it was switched off and is not
	// deleted yet, or its deletion is under way.
	there bool
	grace bool // switched off, and not deleted yet
}

type ownedKey struct {
	source schemas.Slug
	t      schemas.Type
}

// deletionOf returns what an entry of the ledger says of a deletion.
func deletionOf(e broker.Entry) (deletion, bool) {
	switch {
	case (e.State == broker.Removed || e.State == broker.Intent) && e.Deleted != "":
		return deletion{setting: e.Deleted, source: e.Source, at: e.At, there: owned(e)}, true
	case !e.Grace.IsZero():
		return deletion{setting: e.Grace.Setting, source: e.Source, at: e.Grace.Since, there: owned(e), grace: true}, true
	}
	return deletion{}, false
}

func newDeletions(l *broker.Ledger) *deletions {
	d := &deletions{done: map[objectKey]deletion{}, flying: map[objectKey]deletion{}, owned: map[ownedKey]int{}}
	l.Each(func(e broker.Entry) { d.record(broker.Entry{}, e) })
	return d
}

// record takes in that an entry took the place of another one, the zero Entry for none.
func (d *deletions) record(before, e broker.Entry) {
	d.mu.Lock()
	defer d.mu.Unlock()
	key := objectKey{e.Type, e.ID}
	if owned(before) {
		d.owned[ownedKey{before.Source, before.Type}]--
	}
	if owned(e) {
		d.owned[ownedKey{e.Source, e.Type}]++
	}
	if x, ok := deletionOf(e); ok && time.Since(x.at) < measureFor {
		d.done[key] = x
	} else {
		delete(d.done, key)
	}
}

// tally is how many deletions there were, and how many there may be.
type tally struct{ done, limit, of int }

// beyond tells whether one more deletion is more than the measure. Also are deletions that
// a plan has seen before it. Where it is not, and fly says so, the deletion counts from now
// on, until land.
func (d *deletions) beyond(key objectKey, source schemas.Slug, set schemas.Setting, also map[objectKey]schemas.Slug, fly bool) (tally, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	now := time.Now()
	var n tally
	removed := 0
	for k, x := range d.done {
		switch {
		case now.Sub(x.at) >= measureFor:
			if !x.grace {
				delete(d.done, k)
			}
		case k != key && k.t == key.t && x.setting == set.ID:
			n.done++
			if x.source == source && !x.there {
				removed++
			}
		}
	}
	for k, x := range d.flying {
		if _, counted := d.done[k]; k != key && k.t == key.t && x.setting == set.ID && !counted {
			n.done++
		}
	}
	for k, setting := range also {
		_, counted := d.done[k]
		if _, flies := d.flying[k]; k != key && k.t == key.t && setting == set.ID && !counted && !flies {
			n.done++
		}
	}
	n.of = d.owned[ownedKey{source, key.t}] + removed
	n.limit = set.MeasureOf(key.t).Of(n.of)
	if n.done+1 > n.limit {
		return n, true
	}
	if fly {
		d.flying[key] = deletion{setting: set.ID, source: source}
	}
	return n, false
}

// land notes that a deletion is not under way any more: it is on record, or came to
// nothing.
func (d *deletions) land(key objectKey) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.flying, key)
}

// deleter returns the setting whose right a deletion goes by: that of the freest mode that
// has one.
func (v *view) deleter(tm terms, also *running) (schemas.Setting, bool) {
	for t := &tm; t != nil; t = t.next {
		for _, c := range t.counted {
			if !c.rights.Deleted {
				continue
			}
			if also != nil && c.setting == also.set.ID {
				return also.set.Setting, true
			}
			if s, ok := v.settings[c.setting]; ok {
				return s.Setting, true
			}
		}
	}
	return schemas.Setting{}, false
}

// airlock finds out what keeps a deletion back: the setting's measure, and who uses the
// object at the target. Have is what the target has. What is counted by it lands with done.
func (l *look) airlock(ctx context.Context, v *view, entry broker.Entry, tm terms, sit *decide.Situation, have []byte) (done func(), err error) {
	done = func() {}
	set, ok := v.deleter(tm, l.run)
	if !ok {
		return done, nil
	}
	l.deleter = set.ID
	sit.Cleared = l.grant != nil && l.run.run.Scope.Airlock != ""
	sit.Rejected = v.isRejected(l.event)
	var ends time.Time
	if sit.Grace, ends = graceOf(l.key.t, entry, set, time.Now()); sit.Grace == decide.InGrace {
		l.graceEnds = ends
	}
	d := l.decide(*sit, tm)
	goes := d.Act == decide.Delete || d.Reason == decide.SwitchedOff
	if sit.Rejected && !sit.Cleared || !goes && !(d.Reason == decide.NeedsApproval && d.Would == decide.Delete) {
		return done, nil
	}
	if !sit.Cleared {
		l.tally, sit.Beyond = l.deletions.beyond(l.key, l.event.Source, set, l.planned, false)
		if entry.Held == l.event.Version { // it stays so when the 24 hours are over: a person has seen it wait, or is to
			sit.Beyond = true
		}
	}
	if sit.Beyond { // who lets it through is to see who refers to it
		if _, err := l.findUsers(ctx, v, have); err != nil && l.shown == nil {
			l.log.DebugContext(ctx, "who refers to what is held is not known", "type", l.key.t, "id", l.key.id, "error", err)
		}
		return done, ctx.Err()
	}
	if sit.InUse, err = l.isInUse(ctx, v, have); err != nil || sit.InUse || sit.Cleared || !goes || l.shown != nil {
		return done, err
	}
	// It counts from now on, and not before: what turns out to be in use would keep another
	// one back for good.
	if l.tally, sit.Beyond = l.deletions.beyond(l.key, l.event.Source, set, l.planned, true); !sit.Beyond {
		done = func() { l.deletions.land(l.key) }
	}
	return done, nil
}

// hold keeps on record that a deletion waits in the airlock: no time that goes by lets it
// through.
func (l *look) hold(ctx context.Context, entry broker.Entry) error {
	if entry.Held == l.event.Version {
		return nil
	}
	entry.Held = l.event.Version
	if err := l.ledger.Put(ctx, entry); err != nil {
		return fmt.Errorf("%w: %w", broker.ErrLeaseLost, err)
	}
	return nil
}

// whyHeld adds to a reason what it is about.
func (l *look) whyHeld(d decide.Decision) string {
	switch d.Reason {
	case decide.Airlock:
		why := d.Reason.Text()
		if l.tally.limit != 0 || l.tally.of != 0 {
			deletions := "deletions"
			if l.tally.done == 1 {
				deletions = "deletion"
			}
			why += fmt.Sprintf(" (%s: %d %s of %s in 24 hours, and up to %d of %d are made)", l.deleter, l.tally.done, deletions, l.key.t, l.tally.limit, l.tally.of)
		}
		if l.usedBy != "" {
			why += "; " + decide.InUse.Text() + ": " + l.usedBy
		}
		return why
	case decide.OnGrace:
		return fmt.Sprintf("%s, at %s", d.Reason.Text(), l.graceEnds.UTC().Format(time.RFC3339))
	case decide.InUse:
		return fmt.Sprintf("%s: %s", d.Reason.Text(), l.usedBy)
	}
	return d.Reason.Text()
}

// isRejected tells whether a person has rejected an object's deletion.
func (v *view) isRejected(ev schemas.Event) bool {
	for _, x := range v.verdicts {
		if _, ok := x.Find(ev.Source, ev.Object.Type, ev.Object.ID, ev.Version); ok {
			return true
		}
	}
	return false
}
