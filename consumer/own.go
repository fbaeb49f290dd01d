package consumer

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/vcsync/vcsync/broker"
	"github.com/vcsync/vcsync/consumer/decide"
	"github.com/vcsync/vcsync/schemas"
	"github.com/vcsync/vcsync/visualcron"
)

// differences says how the target of a view differs on purpose from each source. It is
// made from the settings at first use.
type differences struct {
	mu sync.Mutex
	by map[differsKey]*differs // nil for not at all
}

// differsKey names a source, and the setting of a run that counts too although it is not
// active: what a plan would do nobody else does.
type differsKey struct{ source, also schemas.Slug }

// differs is what the settings of one source together say.
type differs struct {
	kept      map[objectKey][]string         // by the source's id, "" for all of the type
	patches   map[objectKey][]jsontext.Value // the same
	home      map[objectKey]schemas.ID       // by the source's id
	origin    map[objectKey]schemas.ID       // by the target's
	signature string                         // of all of it, "" for none

	mu    sync.Mutex
	names map[objectKey]string // of what differs for an object, or for all of a type
}

// differs returns how objects of a source differ at the target, nil for not at all. The
// setting of a run counts too.
func (v *view) differs(source schemas.Slug, also *running) *differs {
	key := differsKey{source: source}
	if also != nil && also.set.Source == source {
		if active, ok := v.settings[also.set.ID]; !ok || active.Revision != also.set.Revision {
			key.also = also.set.ID
		}
	}
	v.own.mu.Lock()
	defer v.own.mu.Unlock()
	if d, ok := v.own.by[key]; ok {
		return d
	}
	var d *differs
	for _, sid := range v.names(also) {
		s := v.settings[sid]
		if also != nil && sid == also.set.ID {
			s = also.set
		}
		if s.Source == source && len(s.Kept)+len(s.Overrides)+len(s.Pins) > 0 {
			if d == nil {
				d = &differs{kept: map[objectKey][]string{}, patches: map[objectKey][]jsontext.Value{}, home: map[objectKey]schemas.ID{}, origin: map[objectKey]schemas.ID{},
					names: map[objectKey]string{}}
			}
			d.add(s.Setting)
		}
	}
	if v.own.by == nil {
		v.own.by = map[differsKey]*differs{}
	}
	v.own.by[key] = d
	return d
}

// add takes in what one more setting says.
func (d *differs) add(s schemas.Setting) {
	for _, k := range s.Kept {
		key := objectKey{k.Type, k.ID}
		d.kept[key] = append(d.kept[key], k.Pointer)
	}
	for _, o := range s.Overrides {
		key := objectKey{o.Type, o.ID}
		d.patches[key] = append(d.patches[key], o.Patch)
	}
	for _, p := range s.Pins { // control refuses contradictions; here the first one stands
		from, to := objectKey{p.Type, p.Source}, objectKey{p.Type, p.Target}
		if d.home[from] == "" && d.origin[to] == "" {
			d.home[from], d.origin[to] = p.Target, p.Source
		}
	}
	part, _ := json.Marshal([]any{s.Kept, s.Overrides, s.Pins}, json.Deterministic(true)) // parsed from JSON
	d.signature = signatureOf(d.signature, string(part))
}

// signature names all that differs from a source, "" for nothing.
func (v *view) signature(source schemas.Slug) string {
	if d := v.differs(source, nil); d != nil {
		return d.signature
	}
	return ""
}

func signatureOf(parts ...string) string {
	h := sha256.Sum256([]byte(strings.Join(parts, "\n")))
	return hex.EncodeToString(h[:8])
}

// home returns the id that an object of a source has at the target. Lanes, the ledger
// and parked records go by it; what comes from the source goes by the source's.
func (v *view) home(source schemas.Slug, t schemas.Type, id schemas.ID, also *running) schemas.ID {
	if d := v.differs(source, also); d != nil {
		if to, ok := d.home[objectKey{t, id}]; ok {
			return to
		}
	}
	return id
}

// origin returns the id that the object of a source has there which is at home under an
// id of the target; false where none is.
func (v *view) origin(source schemas.Slug, t schemas.Type, id schemas.ID, also *running) (schemas.ID, bool) {
	d := v.differs(source, also)
	if d == nil {
		return id, true
	}
	if from, ok := d.origin[objectKey{t, id}]; ok {
		return from, true
	}
	_, away := d.home[objectKey{t, id}]
	return id, !away
}

// housed tells whether an object of a source has a home at the target: one whose id
// another object is pinned to has none.
func (v *view) housed(source schemas.Slug, t schemas.Type, id schemas.ID, also *running) bool {
	from, ok := v.origin(source, t, v.home(source, t, id, also), also)
	return ok && from == id
}

// turnsMost is how many objects may change places in one circle.
const turnsMost = 100

// turns tells whether pins hand the ids of objects around in a circle with this one, so
// that where it was brought before is about to be overwritten, and so on until its new
// home. One that does not turn waits until it is gone from there, or is overwritten.
func (l *look) turns(ctx context.Context, v *view, tm terms, sit decide.Situation, old schemas.ID) (bool, error) {
	source, t := l.event.Source, l.key.t
	seen, next := map[schemas.ID]bool{}, []schemas.ID{old}
	for len(next) > 0 && len(seen) < turnsMost {
		at := next[0]
		if next = next[1:]; seen[at] {
			continue
		}
		seen[at] = true
		from, ok := v.origin(source, t, at, l.run)
		if !ok {
			continue
		}
		if takes, err := l.overwrites(ctx, v, tm, sit, from, at); err != nil {
			return false, err
		} else if !takes {
			continue
		}
		places := l.ledger.Displaced(source, t, from) // as far as it has come already
		for _, e := range l.ledger.Homes(source, t, from) {
			if owned(e) {
				places = append(places, e.ID)
			}
		}
		if slices.Contains(places, l.key.id) {
			return true, nil
		}
		next = append(next, places...)
	}
	return false, nil
}

// overwrites tells whether the object with that id at the look's source, which is at home
// at an id of the target, is to be written there by itself or with the look's own: it is
// there at its source, and nothing but what keeps the look's object waiting keeps it. One
// that deletes itself is not, since nobody can say where it ran.
func (l *look) overwrites(ctx context.Context, v *view, tm terms, sit decide.Situation, from, at schemas.ID) (bool, error) {
	source, t := l.event.Source, l.key.t
	also := l.run
	if also != nil && !also.run.Scope.Takes(t, from) {
		also = nil
	}
	if !v.mayTake(source, t, from, also) {
		return false, nil
	}
	ev, _, err := l.cfg.Broker.NewestWith(ctx, schemas.Key{Source: source, Type: t, Token: from.Token()},
		func(size int) error { return l.room(ctx, size) })
	switch {
	case errors.Is(err, broker.ErrNotFound), errors.Is(err, schemas.ErrEvent), errors.Is(err, broker.ErrLostBody):
		return false, nil
	case err != nil:
		return false, err
	case ev.Kind == schemas.Deleted, slices.Contains(ev.Path(), l.server.ID), visualcron.RemovesItself(t, ev.Object.Body):
		return false, nil
	}
	its := v.terms(source, t, ev.Selected(), also)
	if !its.rights.Updated || slices.Index(modes, its.mode) > slices.Index(modes, tm.mode) {
		return false, nil
	}
	if shut, _ := l.window(v, its, decide.Situation{Source: decide.Present, Target: decide.Different}); shut {
		if mine, _ := l.window(v, tm, sit); !mine {
			return false, nil
		}
	}
	p, parked := l.parked.get(t, at.Token())
	return !parked || p.Class == string(decide.OtherHome) && p.Discarded == "" || !p.IsOf(source, from) || p.Version != ev.Version, nil
}

// elsewhere finds out whether vcsync brought the look's object to another id at the
// target, before a pin came, changed or went, and whether it is there. Goes tells that it
// deletes itself, or what stands where it is at home does.
func (l *look) elsewhere(ctx context.Context, v *view, tm terms, sit decide.Situation, goes bool) (decide.Elsewhere, error) {
	found := decide.NotElsewhere
	source, from := l.event.Source, l.event.Object.ID
	for _, id := range l.ledger.Displaced(source, l.key.t, from) {
		found, l.otherHome = decide.GoneElsewhere, id // who overwrote it could not know whether it had run
	}
	if e, ok := l.ledger.Get(l.key.t, l.key.id); ok && slices.ContainsFunc(e.Displaced, func(d broker.Displaced) bool { return d.ID == from }) {
		found, l.otherHome = decide.GoneElsewhere, l.key.id
	}
	for _, e := range l.ledger.Homes(source, l.key.t, from) {
		key := objectKey{e.Type, e.ID}
		if key == l.key || e.State == broker.Removed {
			continue
		}
		turns := false
		if !goes {
			var err error
			if turns, err = l.turns(ctx, v, tm, sit, e.ID); err != nil {
				return found, err
			}
		}
		if l.shown == nil && !turns {
			if l.lanes.isWorked(key) { // under settings that were in force before, perhaps
				return found, fmt.Errorf("%s %s, where it was brought before, is being worked on", e.Type, e.ID)
			}
			if err := l.waitLanded(ctx, key); err != nil {
				return found, err
			}
		}
		req, cancel := l.deadline(ctx)
		body, err := l.conn.Get(req, e.Type, e.ID)
		cancel()
		switch class := visualcron.ClassOf(err); {
		case class == visualcron.NotFound:
			if owned(e) || e.Open {
				found, l.otherHome = decide.GoneElsewhere, e.ID
			}
			continue
		case err != nil && class != visualcron.Changed:
			return found, l.leaseFault(ctx, req, err)
		case err == nil && !owned(e):
			// A write was begun, and this is not what it would have left.
			can, _ := l.capability(e.Type)
			now, err := visualcron.View{Secrets: can.Secrets, Values: e.Type != schemas.Variable || v.captured, Digest: l.cfg.Broker.Keys.Digest}.Normalize(e.Type, body)
			if err != nil || now.Digest != e.AtTarget {
				continue
			}
		}
		if !turns {
			l.otherHome = e.ID
			return decide.IsElsewhere, nil
		}
	}
	return found, nil
}

// whyOf says why something is done or not, with the ids that it is about.
func (l *look) whyOf(d decide.Decision) string {
	if d.Reason != decide.OtherHome && d.Reason != decide.RanElsewhere {
		return l.whyHeld(d)
	}
	if l.otherHome == l.key.id {
		return fmt.Sprintf("%s (%s %s at %s was brought as %s to %s, and since then another object had that id)", d.Reason.Text(), l.key.t, l.event.Object.ID, l.event.Source, l.otherHome, l.server.ID)
	}
	return fmt.Sprintf("%s (%s %s at %s was brought as %s to %s, and is %s there now)", d.Reason.Text(), l.key.t, l.event.Object.ID, l.event.Source, l.otherHome, l.server.ID, l.key.id)
}

// ownOf returns how an object of a source, by its id there, differs at the target on
// purpose, and the name of that for the ledger: "" for not at all.
func (v *view) ownOf(source schemas.Slug, t schemas.Type, id schemas.ID, also *running) (visualcron.Own, string) {
	d := v.differs(source, also)
	if d == nil {
		return visualcron.Own{}, ""
	}
	all, one := objectKey{t, ""}, objectKey{t, id}
	own := visualcron.Own{Kept: slices.Concat(d.kept[all], d.kept[one]), Patches: slices.Concat(d.patches[all], d.patches[one])}
	if len(d.home) > 0 {
		own.IDs = func(t schemas.Type, id schemas.ID) schemas.ID { return v.home(source, t, id, also) }
	}
	if own.IsZero() {
		return own, ""
	}
	key := all
	if len(d.kept[one])+len(d.patches[one]) > 0 {
		key = one
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	name, ok := d.names[key]
	if !ok {
		var pins []string
		for from, to := range d.home {
			pins = append(pins, string(from.t)+" "+string(from.id)+" "+string(to))
		}
		slices.Sort(pins)
		part, _ := json.Marshal([]any{own.Kept, own.Patches, pins})
		name = signatureOf(string(part))
		d.names[key] = name
	}
	return own, name
}

// ownName is the name alone.
func (v *view) ownName(source schemas.Slug, t schemas.Type, id schemas.ID, also *running) string {
	_, name := v.ownOf(source, t, id, also)
	return name
}

// otherID returns the source's id for a ledger entry, "" where it is the target's too.
func otherID(from, here schemas.ID) schemas.ID {
	if from == here {
		return ""
	}
	return from
}

// isOf tells whether an entry is about that object of a source.
func isOf(e broker.Entry, source schemas.Slug, id schemas.ID) bool {
	return e.Source == source && e.From() == id
}

// references returns what a body of a source refers to as it is made for the target, by
// the ids there.
func references(t schemas.Type, source []byte, own visualcron.Own) ([]visualcron.Reference, error) {
	if !own.IsZero() {
		var err error
		if source, err = own.Apply(t, source); err != nil {
			return nil, err
		}
	}
	return visualcron.References(t, source)
}
