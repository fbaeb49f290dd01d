package consumer

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/vcsync/vcsync/broker"
	"github.com/vcsync/vcsync/consumer/decide"
	"github.com/vcsync/vcsync/schemas"
	"github.com/vcsync/vcsync/visualcron"
)

// survey compares everything that a setting takes with what the target has: it lists the
// target freshly, per type, and asks for every object what the live path would do about
// it. It changes nothing. A plan is one, and so is an audit.
type survey struct {
	*session
	v        *view
	set      broker.StoredSetting
	occasion decide.Occasion
	// run is that of a plan, nil for an audit.
	run   *running
	types []schemas.Type
	takes func(t schemas.Type, o schemas.Selected) bool
	// from is the first event of VCS_EV that counts in a replay. Older are the objects
	// whose newest event came before, newest is when the newest of the others was
	// captured.
	from   uint64
	older  map[objectKey]bool
	newest time.Time

	began    time.Time
	entries  []broker.PlanEntry
	equal    map[schemas.Type]int
	same     map[objectKey]bool   // these, by their ids at the target, of an audit
	owned    map[schemas.Type]int // that are in no entry
	warnings []string
	// present are the objects that the target has, refs what the objects refer to that a
	// plan is to write; both by the ids at the target.
	present map[objectKey]bool
	refs    map[objectKey][]visualcron.Reference
	// listed are the types that the target listed, standing what the objects refer to that
	// it has, and by which: both are known from the listings alone.
	listed   map[schemas.Type]bool
	standing map[objectKey][]named
	dangling []string // of these, what is not there
	// ownedListed and flags count what is named of these.
	ownedListed, flags int
	// valued counts the entries with values.
	valued int
	// deleting are the deletions so far, by the setting that they count for, and after the
	// objects that are to go before each.
	deleting map[objectKey]schemas.Slug
	after    map[objectKey][]objectKey
}

// named is an object for people.
type named struct {
	objectKey
	name string
}

// errTooMany refuses a plan that nobody would read.
var errTooMany = fmt.Errorf("there are more than %d objects to say something of; narrow it by type or object", broker.PlanMost)

// make does it. The error is one of the target or of the broker; then nothing that was
// found counts.
func (y *survey) make(ctx context.Context) error {
	done, err := y.listing.take(ctx)
	if err != nil {
		return err
	}
	defer done()
	y.present, y.refs = map[objectKey]bool{}, map[objectKey][]visualcron.Reference{}
	y.listed, y.standing = map[schemas.Type]bool{}, map[objectKey][]named{}
	y.equal, y.owned = map[schemas.Type]int{}, map[schemas.Type]int{}
	y.deleting, y.after = map[objectKey]schemas.Slug{}, map[objectKey][]objectKey{}
	if err := y.probe(ctx); err != nil { // also what it can do, and who it is
		return err
	}
	wait, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	if err := y.cfg.Broker.WaitState(wait); err != nil {
		return err
	}
	heads := map[schemas.Type]map[schemas.ID]broker.Newest{}
	y.older = map[objectKey]bool{}
	var filters []string
	for _, t := range y.types {
		heads[t] = map[schemas.ID]broker.Newest{}
		filters = append(filters, schemas.TypeStateFilter(y.set.Source, t))
	}
	err = y.cfg.Broker.ScanState(ctx, filters, func(n broker.Newest) {
		heads[n.Key.Type][n.ID] = n
		switch {
		case n.EventSeq < y.from:
			y.older[objectKey{n.Key.Type, n.ID}] = true
		case y.from > 0 && n.Time.After(y.newest) && y.takes(n.Key.Type, n.Selected()):
			y.newest = n.Time
		}
	}, func(broker.Unreadable) {}) // the live path says it
	if err != nil {
		return err
	}
	if y.mayDelete(heads) { // now, and not while another listing stands open
		if err := y.freshUsage(ctx, usageFor); err != nil {
			return err
		}
	}
	y.began = time.Now()
	for _, t := range y.types {
		if err := y.listType(ctx, t, heads[t]); err != nil {
			return err
		}
	}
	y.gate.answered()
	if y.run != nil {
		y.holdUsed()
		if err := y.warnMissing(ctx); err != nil {
			return err
		}
	}
	if err := y.findDangling(ctx); err != nil {
		return err
	}
	if y.run != nil {
		y.warnings = append(y.warnings, y.dangling...)
	}
	slices.SortFunc(y.entries, func(a, b broker.PlanEntry) int {
		return cmp.Or(cmp.Compare(a.Type, b.Type), cmp.Compare(a.ID, b.ID))
	})
	return nil
}

// mayDelete tells whether something that others may refer to is gone at the source and not
// at the target, as far as the ledger knows.
func (y *survey) mayDelete(heads map[schemas.Type]map[schemas.ID]broker.Newest) bool {
	for t, all := range heads {
		if !visualcron.IsReferable(t) {
			continue
		}
		for id, n := range all {
			if n.Kind == schemas.Deleted {
				if e, ok := y.ledger.Get(t, y.v.home(y.set.Source, t, id, y.run)); ok && owned(e) && e.Source == y.set.Source && y.takes(t, n.Selected()) {
					return true
				}
			}
		}
	}
	return false
}

// holdUsed holds the deletions of what others refer to that were to go before, and that are
// not in the plan.
func (y *survey) holdUsed() {
	at := map[objectKey]int{}
	for i, e := range y.entries {
		at[keyOf(e)] = i
	}
	goes := func(key objectKey) bool {
		i, ok := at[key]
		return ok && y.entries[i].Act == string(decide.Delete)
	}
	for again := true; again; {
		again = false
		for key, users := range y.after {
			if !goes(key) {
				continue
			}
			if i := slices.IndexFunc(users, func(u objectKey) bool { return !goes(u) }); i >= 0 {
				e := &y.entries[at[key]]
				e.Act, e.Would, e.Reason = string(decide.Hold), e.Act, string(decide.InUse)
				e.Why = fmt.Sprintf("%s: %s %s", decide.InUse.Text(), users[i].t, users[i].id)
				again = true
			}
		}
	}
}

// listType compares one type.
func (y *survey) listType(ctx context.Context, t schemas.Type, heads map[schemas.ID]broker.Newest) error {
	if can, asked := y.capability(t); asked && !can.List {
		y.warnings = append(y.warnings, fmt.Sprintf("%s cannot list objects of type %s: nothing is known of them", y.server.ID, t))
		return nil
	}
	var names []decide.Named
	for id, n := range heads {
		if n.Kind != schemas.Deleted && y.takes(t, n.Selected()) {
			names = append(names, decide.Named{ID: id, Name: n.Name})
		}
	}
	seen := map[schemas.ID]bool{}
	complete, err := y.conn.List(ctx, t, func(r visualcron.Row) error {
		y.present[objectKey{t, r.ID}] = true
		from, housed := y.v.origin(y.set.Source, t, r.ID, y.run)
		n, known := heads[from]
		known = known && housed
		if known {
			seen[from] = true
		}
		if e, ok := y.behind(t, r); ok {
			o := heads[e.From()].Selected()
			o.ID = e.From()
			var here *broker.PlanEntry // what becomes of the object that is at home here
			if known && (y.takes(t, o) || y.takes(t, n.Selected())) {
				var err error
				if here, err = y.evaluate(ctx, objectKey{t, r.ID}, bytes.Clone(r.Body), false); err != nil {
					return err
				}
			}
			switch {
			case y.takes(t, o) && y.staysBehind(e, here, known && y.takes(t, n.Selected())):
				return y.leftBehind(e, r, here)
			case !known:
				return nil
			}
		}
		if known && !y.takes(t, n.Selected()) {
			return nil
		}
		if known && n.Kind != schemas.Deleted {
			y.stands(t, r, n.Name)
		}
		if e, ok := y.ledger.Get(t, r.ID); !known && (!ok || e.Source != y.set.Source) {
			return y.onlyHere(t, r, decide.NotFromHere)
		}
		if !known { // its history went with a store that was lost
			return y.orphan(t, r)
		}
		if y.isAsLeft(t, r.ID, n, r.Body) {
			y.countEqual(t, r.ID)
			return nil
		}
		return y.look(ctx, t, r.ID, r.Body)
	})
	if err != nil {
		return err
	}
	if !complete.IsComplete() || complete.Type() != t {
		return &visualcron.Error{Class: visualcron.BadAnswer, Op: "list", Server: y.server.ID, Type: t, Detail: "the listing is not proven to be complete"}
	}
	y.listed[t] = true
	for _, id := range slices.Sorted(maps.Keys(heads)) {
		if seen[id] || !y.takes(t, heads[id].Selected()) || !y.v.housed(y.set.Source, t, id, y.run) {
			continue
		}
		home := y.v.home(y.set.Source, t, id, y.run)
		if heads[id].Kind == schemas.Deleted {
			if e, ok := y.ledger.Get(t, home); !ok || e.State == broker.Removed || !isOf(e, y.set.Source, id) {
				continue // gone at both, and on record or never ours
			}
		}
		if err := y.look(ctx, t, home, nil); err != nil {
			return err
		}
	}
	y.warnOfNamesakes(t, names)
	return nil
}

// onlyHere notes an object of which nothing is known from the source, and why.
func (y *survey) onlyHere(t schemas.Type, r visualcron.Row, why decide.Reason) error {
	n, err := visualcron.View{Digest: y.cfg.Broker.Keys.Digest}.Normalize(t, r.Body)
	if err != nil || n.BuiltIn {
		return nil
	}
	return y.add(broker.PlanEntry{Type: t, ID: r.ID, Name: n.Name, Group: n.Group, Difference: broker.OnlyTarget,
		Act: string(decide.Nothing), Reason: string(why), Why: why.Text()})
}

// orphan notes an object that vcsync brought and of which nothing is known from the source
// any more: it is for a person to decide about, so it counts as a difference.
func (y *survey) orphan(t schemas.Type, r visualcron.Row) error {
	e, _ := y.ledger.Get(t, r.ID)
	if !owned(e) || !y.set.MayTake(t, e.From()) || y.run != nil && !y.run.run.Scope.Takes(t, e.From()) {
		return y.onlyHere(t, r, decide.NotFromHere)
	}
	n, err := visualcron.View{Digest: y.cfg.Broker.Keys.Digest}.Normalize(t, r.Body)
	if err != nil || n.BuiltIn {
		return nil
	}
	return y.add(broker.PlanEntry{Type: t, ID: e.From(), TargetID: otherID(e.ID, e.From()), Name: n.Name, Group: n.Group, Difference: broker.OnlyTarget,
		Act: string(decide.Hold), Reason: string(decide.Orphan), Source: e.Source, Version: e.Version, Why: decide.Orphan.Text()})
}

// isLeftBehind tells whether vcsync brought an object to where a pin has no room for it
// any more.
func (y *survey) isLeftBehind(e broker.Entry) bool {
	return owned(e) && e.Source == y.set.Source && (!y.v.housed(e.Source, e.Type, e.From(), y.run) || y.v.home(e.Source, e.Type, e.From(), y.run) != e.ID)
}

// behind returns the record of an object that was left behind at the id of a row: that of
// the id, or of who was there before another one of which no write has arrived.
func (y *survey) behind(t schemas.Type, r visualcron.Row) (broker.Entry, bool) {
	e, ok := y.ledger.Get(t, r.ID)
	if !ok || y.isLeftBehind(e) {
		return e, ok
	}
	if e.State != broker.Intent || owned(e) || len(e.Displaced) == 0 {
		return e, false
	}
	can, _ := y.capability(t)
	now, err := visualcron.View{Secrets: can.Secrets, Values: t != schemas.Variable || y.v.captured, Digest: y.cfg.Broker.Keys.Digest}.Normalize(t, r.Body)
	if err == nil && now.Digest == e.AtTarget {
		return e, false
	}
	was := e.Displaced[len(e.Displaced)-1]
	e = broker.Entry{Type: t, ID: r.ID, Source: was.Source, SourceID: otherID(was.ID, r.ID), State: broker.Applied}
	return e, y.isLeftBehind(e)
}

// staysBehind tells whether what was left behind is to be said, in place of what becomes of
// the object that is at home there; nil where there is none. Listed tells that the setting
// takes that one.
func (y *survey) staysBehind(e broker.Entry, here *broker.PlanEntry, listed bool) bool {
	if here == nil {
		return true
	}
	act := decide.Act(here.Act)
	if act.Writes() || act == decide.Adopt {
		return false // it is about to be overwritten, or is what is to be there
	}
	if !listed || act == decide.Nothing {
		return true // nobody is going to do anything about it
	}
	// Until its own turn comes it is where it was, and only there.
	home, ok := y.ledger.Get(e.Type, y.v.home(e.Source, e.Type, e.From(), y.run))
	return ok && owned(home) && isOf(home, e.Source, e.From())
}

// leftBehind notes such an object: nobody deletes it, and it goes on running. Here is what
// becomes of the object that is at home there, nil where there is none.
func (y *survey) leftBehind(e broker.Entry, r visualcron.Row, here *broker.PlanEntry) error {
	n, err := visualcron.View{Digest: y.cfg.Broker.Keys.Digest}.Normalize(e.Type, r.Body)
	if err != nil {
		n = visualcron.Normal{}
	}
	why := fmt.Sprintf("%s (%s %s at %s, now %s at %s)", decide.LeftBehind.Text(), e.Type, e.From(), e.Source, y.v.home(e.Source, e.Type, e.From(), y.run), y.server.ID)
	if here != nil {
		why += fmt.Sprintf("; of %s %s at %s, which belongs here: %s", here.Type, here.ID, here.Source, here.Why)
	}
	return y.add(broker.PlanEntry{Type: e.Type, ID: e.From(), TargetID: otherID(e.ID, e.From()), Name: n.Name, Group: n.Group, Difference: broker.OnlyTarget,
		Act: string(decide.Hold), Reason: string(decide.LeftBehind), Source: e.Source, Version: e.Version, Why: why})
}

// isAsLeft tells whether an object is on record at its newest version and the target has
// what vcsync left there, so that its body need not be read. It is never true in doubt.
func (y *survey) isAsLeft(t schemas.Type, home schemas.ID, n broker.Newest, body []byte) bool {
	e, ok := y.ledger.Get(t, home)
	if !ok || !isOf(e, n.Key.Source, n.ID) || e.Version != n.Version || e.State != broker.Applied && e.State != broker.Adopted || len(y.v.sources(y.run)) > 1 {
		return false
	}
	if own, _ := y.v.ownOf(e.Source, t, n.ID, y.run); len(own.Kept)+len(own.Patches) > 0 {
		return false // in what they differ on purpose only the source's body tells
	}
	if y.v.unfinished(e, n.ID, y.v.terms(e.Source, t, n.Selected(), y.run), y.run) {
		return false
	}
	can, _ := y.capability(t)
	now, err := visualcron.View{Secrets: can.Secrets, Values: t != schemas.Variable || y.v.captured, Digest: y.cfg.Broker.Keys.Digest}.Normalize(t, body)
	return err == nil && now.Digest == e.AtTarget && (t != schemas.Variable || y.v.captured)
}

// look asks what the live path would do about one object.
func (y *survey) look(ctx context.Context, t schemas.Type, id schemas.ID, have []byte) error {
	e, err := y.evaluate(ctx, objectKey{t, id}, bytes.Clone(have), false)
	if err != nil || e == nil {
		return err
	}
	switch {
	case !y.isSettled(*e):
	case e.Difference == broker.Equal:
		y.countEqual(t, id)
		return nil
	default:
		if e.Act = string(decide.Nothing); y.ownedListed == ownedMost {
			y.owned[t]++
			return nil
		}
		y.ownedListed++
	}
	return y.add(*e)
}

// countEqual counts an object that is equal.
func (y *survey) countEqual(t schemas.Type, id schemas.ID) {
	y.equal[t]++
	if y.same != nil {
		y.same[objectKey{t, id}] = true
	}
}

// isSettled tells whether the target is as it should be, with or without differences on
// purpose, and nothing is left to record.
func (y *survey) isSettled(e broker.PlanEntry) bool {
	switch {
	case e.Difference != broker.Equal && e.Difference != broker.Owned:
		return false
	case e.Act == string(decide.Nothing):
		return true
	case e.Act != string(decide.Adopt) || !y.isOnRecord(e):
		return false
	}
	// A plan comes to an equal object only where something of it is to be recorded.
	return y.run == nil || e.Difference == broker.Owned && y.isOwnOnRecord(e)
}

// isOwnOnRecord tells whether the ledger holds what differs on purpose as it is now.
func (y *survey) isOwnOnRecord(e broker.PlanEntry) bool {
	r, _ := y.ledger.Get(e.Type, keyOf(e).id)
	return r.Own == y.v.ownName(e.Source, e.Type, e.ID, y.run)
}

// ownedMost is how many objects that differ on purpose are named; the others are counted.
const ownedMost = 1000

// valuesMost is of how many objects a plan holds the values of what differs.
const valuesMost = 1000

// warnMost is how many objects that point at a server of the fleet are named.
const warnMost = 50

// flag warns of an object that would speak, from the target, to a server of the fleet.
func (y *survey) flag(l *look) {
	for _, p := range l.points {
		switch y.flags++; {
		case y.flags <= warnMost:
			y.warnings = append(y.warnings, fmt.Sprintf("%s %q would point at server %s: %s is %s; keep the target's own there, or override it", l.key.t, l.event.Object.Name, p.Server, p.Place, p.Host))
		case y.flags == warnMost+1:
			y.warnings = append(y.warnings, "more objects point at servers of the fleet; see vcsync setting show")
		}
	}
}

// isOnRecord tells whether the ledger holds the entry's version already.
func (y *survey) isOnRecord(e broker.PlanEntry) bool {
	r, ok := y.ledger.Get(e.Type, keyOf(e).id)
	return ok && r.Source == e.Source && r.Version == e.Version && r.State != broker.Intent
}

func (y *survey) add(e broker.PlanEntry) error {
	if len(e.Changed) > 0 {
		switch y.valued++; {
		case y.valued == valuesMost+1:
			y.warnings = append(y.warnings, fmt.Sprintf("the values of what differs are shown of the first %d objects; narrow it by type or object to see others", valuesMost))
			fallthrough
		case y.valued > valuesMost:
			e.Changed = nil
		}
	}
	if y.entries = append(y.entries, e); len(y.entries) > broker.PlanMost {
		return errTooMany
	}
	return nil
}

// evaluate says what would be done with one object; nil where the settings do not take
// it. Unlisted reads it at the target in place of taking what a listing held.
func (y *survey) evaluate(ctx context.Context, key objectKey, have []byte, unlisted bool) (*broker.PlanEntry, error) {
	l := &look{session: y.session, key: key}
	l.shown, l.listed, l.unlisted, l.occasion, l.run = &broker.PlanEntry{}, have, unlisted, y.occasion, y.run
	l.planned = y.deleting
	defer func() {
		if l.roomy != nil {
			l.roomy()
		}
	}()
	l.hand, _ = l.parked.get(key.t, key.id.Token())
	ev, tm, err := l.choose(ctx, y.v)
	for tries := 0; err == nil && ev != nil; tries++ {
		l.event = *ev
		var again bool
		if again, err = l.applyUnder(ctx, y.v, tm); err == nil && !again {
			if y.run != nil && decide.Act(l.shown.Act).Writes() {
				y.refs[key] = l.refs
			}
			if delete(y.deleting, key); l.shown.Act == string(decide.Delete) || l.shown.Reason == string(decide.SwitchedOff) {
				y.deleting[key], y.after[key] = l.deleter, l.after
			}
			y.flag(l)
			return l.shown, nil
		}
		if err == nil && tries == 3 {
			err = &visualcron.Error{Class: visualcron.Changed, Op: "get", Server: y.server.ID, Type: key.t, ID: key.id, Detail: "the server keeps giving its secrets otherwise"}
		}
	}
	if err == nil {
		return nil, nil
	}
	err = l.redact(err)
	verdict := Judge(err, patience, mismatches)
	if ctx.Err() != nil || verdict.Fate != Park || verdict.Class == "internal" {
		return nil, err
	}
	e := l.entryOf(decide.Decision{Act: decide.Park, Reason: decide.Reason(verdict.Class)}, decide.Situation{}, visualcron.Normal{}, visualcron.Normal{}, have)
	e.Difference, e.Fields, e.Why = broker.Different, nil, err.Error()
	if have == nil {
		e.Difference = broker.OnlySource
	}
	return &e, nil
}

// counts returns how many objects there are of each kind.
func countEntries(equal, owned map[schemas.Type]int, entries []broker.PlanEntry) []broker.PlanCount {
	by := map[broker.PlanCount]int{}
	for t, n := range equal {
		by[broker.PlanCount{Type: t, Difference: broker.Equal, Act: string(decide.Nothing)}] += n
	}
	for t, n := range owned {
		by[broker.PlanCount{Type: t, Difference: broker.Owned, Act: string(decide.Nothing)}] += n
	}
	for _, e := range entries {
		by[broker.PlanCount{Type: e.Type, Difference: e.Difference, Act: e.Act}]++
	}
	var out []broker.PlanCount
	for c, n := range by {
		if c.Objects = n; n > 0 {
			out = append(out, c)
		}
	}
	slices.SortFunc(out, func(a, b broker.PlanCount) int {
		return cmp.Or(cmp.Compare(a.Type, b.Type), cmp.Compare(a.Difference, b.Difference), cmp.Compare(a.Act, b.Act))
	})
	return out
}

// closure returns the objects that a run takes because others in its scope refer to
// them, directly or through others, by their ids at the source; and warns of what is not
// there.
func (s *session) closure(ctx context.Context, r running, roots []visualcron.Object) (with map[objectKey]bool, warnings []string, err error) {
	closed, err := visualcron.Closure(roots, func(o visualcron.Object) ([]byte, error) {
		if o.Type == schemas.ServerSettings || !visualcron.Supported(o.Type) {
			return nil, nil
		}
		ev, _, err := s.cfg.Broker.NewestOf(ctx, schemas.Key{Source: r.set.Source, Type: o.Type, Token: o.ID.Token()})
		if errors.Is(err, broker.ErrNotFound) || errors.Is(err, schemas.ErrEvent) || err == nil && ev.Kind == schemas.Deleted {
			return nil, nil
		}
		return ev.Object.Body, err
	}, nil)
	if err != nil {
		return nil, nil, err
	}
	with = map[objectKey]bool{}
	for _, o := range slices.Concat(roots, closed.With) {
		with[objectKey{o.Type, o.ID}] = true
	}
	tasks := 0
	for _, m := range closed.Missing { // of objects the plan warns itself, where the target lacks them too
		if m.Task {
			tasks++
		}
	}
	if tasks > 0 {
		warnings = append(warnings, fmt.Sprintf("%d tasks of other jobs are referred to; which jobs these are is not looked for", tasks))
	}
	return with, warnings, nil
}

// warnMissing warns of references that will dangle at the target after the plan.
func (y *survey) warnMissing(ctx context.Context) error {
	for _, e := range y.entries {
		if decide.Act(e.Act) == decide.Add {
			y.present[keyOf(e)] = true
		}
	}
	said := 0
	for _, e := range y.entries {
		for _, r := range y.refs[keyOf(e)] {
			key := objectKey{r.Type, r.ID}
			there, known := y.present[key]
			if !known && !r.Task && !slices.Contains(y.types, r.Type) {
				req, cancel := context.WithTimeout(ctx, requestLimit)
				_, err := y.conn.Get(req, r.Type, r.ID)
				cancel()
				if there = err == nil; err != nil && ctx.Err() != nil {
					return err
				} else if visualcron.ClassOf(err) != visualcron.NotFound {
					there = true // it cannot be known
				}
				y.present[key] = there
			}
			if there || r.Task {
				continue
			}
			if said++; said > warnMost {
				y.warnings = append(y.warnings, "more objects refer to what is not at the target and not in this plan")
				return nil
			}
			what := "--with-dependencies takes it along where the source has it"
			lacks, err := y.sourceLacks(ctx, key)
			if err != nil {
				return err
			}
			if lacks || y.run != nil && y.run.run.Scope.Dependencies {
				what = "the source has none either"
			}
			y.warnings = append(y.warnings, fmt.Sprintf("%s %q refers to %s %s, which is not at the target and not in this plan; %s", e.Type, e.Name, r.Type, r.ID, what))
		}
	}
	return nil
}

// stands notes what an object that the target has refers to.
func (y *survey) stands(t schemas.Type, r visualcron.Row, name string) {
	refs, err := visualcron.References(t, r.Body)
	if err != nil {
		return // the live path says it
	}
	for _, ref := range refs {
		if key := (objectKey{ref.Type, ref.ID}); !ref.Task && len(y.standing[key]) < warnMost {
			y.standing[key] = append(y.standing[key], named{objectKey{t, r.ID}, name})
		}
	}
}

// askMost is how many objects of types that were not listed a plan asks the target for.
const askMost = 100

// findDangling finds what objects that stand at the target refer to and that is not there,
// nor in the plan. That they are as at the source, and nothing is to be written, makes them
// no better. An audit knows of types that it has listed only.
func (y *survey) findDangling(ctx context.Context) error {
	for _, e := range y.entries {
		if decide.Act(e.Act) == decide.Add {
			y.present[keyOf(e)] = true
		}
	}
	asked := 0
	keys := slices.SortedFunc(maps.Keys(y.standing), func(a, b objectKey) int { return cmp.Or(cmp.Compare(a.t, b.t), cmp.Compare(a.id, b.id)) })
	for _, key := range keys {
		there, known := y.present[key]
		if !known && !y.listed[key.t] {
			if asked++; y.run == nil || asked > askMost {
				continue
			}
			req, cancel := context.WithTimeout(ctx, requestLimit)
			_, err := y.conn.Get(req, key.t, key.id)
			cancel()
			if err != nil && ctx.Err() != nil {
				return err
			}
			there = visualcron.ClassOf(err) != visualcron.NotFound // or it cannot be known
			y.present[key] = there
		}
		if there {
			continue
		}
		lacks, err := y.sourceLacks(ctx, key)
		if err != nil {
			return err
		}
		for _, by := range y.standing[key] {
			if len(y.refs[by.objectKey]) > 0 {
				continue // it is to be written, and the plan warns of what it will refer to
			}
			if len(y.dangling) == warnMost {
				y.dangling = append(y.dangling, "more objects at the target refer to what is not there")
				return nil
			}
			what := fmt.Sprintf("vcsync sync %s --object %s/%s --with-dependencies takes it along where the source has it", y.set.ID, by.t, by.id)
			if lacks {
				what = "the source has none either"
			}
			y.dangling = append(y.dangling, fmt.Sprintf("%s %q, which is at the target, refers to %s %s, which is not; %s", by.t, by.name, key.t, key.id, what))
		}
	}
	return nil
}

// sourceLacks tells whether the source is known to have none of an object, which is named
// by its id at the target.
func (y *survey) sourceLacks(ctx context.Context, key objectKey) (bool, error) {
	from, ok := y.v.origin(y.set.Source, key.t, key.id, y.run)
	n, err := y.cfg.Broker.HeadOf(ctx, schemas.Key{Source: y.set.Source, Type: key.t, Token: from.Token()})
	if err != nil && !errors.Is(err, broker.ErrNotFound) && !errors.Is(err, schemas.ErrEvent) {
		return false, err
	}
	return !ok || err == nil && n.Kind == schemas.Deleted || err != nil && slices.Contains(y.types, key.t), nil
}
