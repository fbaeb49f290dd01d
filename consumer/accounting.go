package consumer

import (
	"context"
	"errors"
	"hash/maphash"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"
	"unique"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/vcsync/vcsync/broker"
	"github.com/vcsync/vcsync/consumer/decide"
	"github.com/vcsync/vcsync/schemas"
	"github.com/vcsync/vcsync/visualcron"
)

const (
	// accountEvery is how often the accounts are drawn up without any cause, and
	// accountLook how often it is seen whether something was done since.
	accountEvery = 30 * time.Second
	accountLook  = 2 * time.Second
	// accountAgain is when a difference is looked at again: what is only on its way from
	// one account to the next has arrived by then.
	accountAgain = 5 * time.Second
	// accountRest is how many times as long as it took to draw up the accounts of a
	// target they rest at least.
	accountRest = 20
	// accountNames is how many objects a report of a difference names.
	accountNames = 5
)

// Accounting says what became of every version of every object that was captured at
// a setting's source: Captured = Applied + Superseded + Filtered + Parked + Held +
// Pending. Each is counted on its own: Captured from the history of events, Applied
// and Superseded from the ledger, the others by looking for what is newer than the
// ledger. Where the sum is less, something was dropped (G7).
type Accounting struct {
	// At is when it was drawn up, by the clock of the process that holds the target.
	At time.Time
	// Captured counts the versions that the source's events tell of.
	Captured uint64
	// Applied counts the versions that were written, found equal, removed or found
	// gone; Superseded those that a newer one overtook before their turn came.
	Applied    uint64
	Superseded uint64
	// Filtered counts what the settings do not take, of an object's newest version.
	Filtered uint64
	// Parked counts the newest versions that are parked, discarded ones too.
	Parked uint64
	// Held counts the newest versions that the settings hold: for an approval, because
	// they only report, for a sync window, or between different VisualCron versions; see
	// package decide. The deletions that wait at the source for a person are not among the
	// events, so whoever knows of them adds them here and to Captured.
	Held uint64
	// Pending counts the newest versions that are on their way or wait for their turn.
	Pending uint64
	// Oldest is when the oldest of the pending versions was captured, by the broker's
	// clock; zero where none is pending.
	Oldest time.Time
	// Unaccounted is how many versions are in none of the accounts, or in two, and
	// stayed so for some seconds. It is never anything but 0 unless something was lost
	// or vcsync is wrong. Objects names up to 5 of the objects, as Type/id.
	Unaccounted uint64
	Objects     []string
	// Left is how many objects lie at the target that vcsync brought there from the source
	// and that no setting takes any more, of types of which the setting takes some: by
	// their group or name, or by what the rules say now. They are left alone, also where
	// the source deletes them. LeftObjects names up to 5 of them, as Type/id.
	Left        uint64
	LeftObjects []string
	// Open is how many versions could not be found in any account this time. Most are
	// on their way from one to the next; those that stay become Unaccounted.
	Open uint64
}

// captured is what was captured of a source: the newest event of each of its objects.
// All targets of a process share it.
type captured struct {
	broker *broker.Broker
	source schemas.Slug

	reading baton // held by who reads on
	mu      sync.RWMutex
	upTo    uint64
	by      map[objectKey]capturedHead
}

type capturedHead struct {
	version schemas.Version
	seq     uint64 // in VCS_EV
	digest  uint64 // a hash of it
	stored  int64  // by the broker's clock, in seconds since 1970
	path    []schemas.Slug
	deleted bool
	name    string
	group   string
}

// selected is what the rules ask about the object.
func (h capturedHead) selected(id schemas.ID) schemas.Selected {
	return schemas.Selected{ID: id, Name: h.name, Group: h.group}
}

var digestSeed = maphash.MakeSeed()

// readOn takes in what was captured since the last call.
func (c *captured) readOn(ctx context.Context) error {
	done, err := c.reading.take(ctx)
	if err != nil {
		return err
	}
	defer done()
	var news []broker.StoredEvent
	take := func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		for _, e := range news {
			key := objectKey{e.Key.Type, e.ID}
			// By version, since the newest events of the three kinds come in any order.
			if have, ok := c.by[key]; ok && have.version.Compare(e.Version) >= 0 {
				continue
			}
			h := capturedHead{version: e.Version, seq: e.Seq, stored: e.Stored.Unix(), digest: maphash.String(digestSeed, string(e.Digest)), deleted: e.Kind == schemas.Deleted,
				name: strings.Clone(e.Name), group: unique.Make(e.Group).Value()}
			for _, s := range e.OriginPath {
				h.path = append(h.path, schemas.Slug(strings.Clone(string(s)))) // not the whole header
			}
			c.by[objectKey{e.Key.Type, schemas.ID(strings.Clone(string(e.ID)))}] = h
		}
		news = news[:0]
	}
	upTo, err := c.broker.ScanCaptured(ctx, c.source, c.upTo, func(e broker.StoredEvent) {
		if news = append(news, e); len(news) >= 500 { // a session that reads the table is not held up for long
			take()
		}
	})
	take()
	if err == nil {
		c.mu.Lock()
		c.upTo = upTo
		c.mu.Unlock()
	}
	return err
}

// histories holds what was captured, by source, as long as a session asks for it.
type histories struct {
	// turn is held by who draws up an account, so that however many targets a process
	// has, that takes one core at most.
	turn baton

	mu   sync.Mutex
	by   map[schemas.Slug]*captured
	used map[schemas.Slug]int
}

// take returns the history of a source; done tells that it is not needed any more.
func (h *histories) take(b *broker.Broker, source schemas.Slug) (c *captured, done func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.by == nil {
		h.by, h.used = map[schemas.Slug]*captured{}, map[schemas.Slug]int{}
	}
	if h.by[source] == nil {
		h.by[source] = &captured{broker: b, source: source, reading: make(baton, 1), by: map[objectKey]capturedHead{}}
	}
	h.used[source]++
	return h.by[source], sync.OnceFunc(func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		if h.used[source]--; h.used[source] == 0 {
			delete(h.by, source)
			delete(h.used, source)
		}
	})
}

// accounts draws up the accounting of a session's settings.
type accounts struct {
	s         *session
	histories map[schemas.Slug]*captured
	done      map[schemas.Slug]func()
	open      map[schemas.Slug]map[objectKey]doubt // by setting, as of its last account
	said      map[schemas.Slug]uint64
	drawn     map[schemas.Slug]drawn
}

// doubt is an object of which versions were in no account, or in two.
type doubt struct {
	newest, done schemas.Version
	since        time.Time
	versions     uint64
}

// drawn is what an account rests on: while nothing of it moves, neither does that.
type drawn struct {
	upTo, ledger   uint64
	parked, passed uint64
	view           *view
	quiet          bool
}

// compared notes that in this session everything that a revision of a setting takes
// was compared with the ledger: from then on an object that waits is in its lane.
func (s *session) compared(set broker.StoredSetting) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.comparedAt == nil {
		s.comparedAt = map[schemas.Slug]uint64{}
	}
	s.comparedAt[set.ID] = set.Revision
}

func (s *session) isCompared(set broker.StoredSetting) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.comparedAt[set.ID] == set.Revision && !s.unserved[set.ID]
}

// account draws up the accounts until ctx ends: every 30 seconds, and soon after
// something was done.
func (s *session) account(ctx context.Context) {
	a := &accounts{s: s, histories: map[schemas.Slug]*captured{}, done: map[schemas.Slug]func(){}, open: map[schemas.Slug]map[objectKey]doubt{},
		said: map[schemas.Slug]uint64{}, drawn: map[schemas.Slug]drawn{}}
	defer func() {
		for _, done := range a.done {
			done()
		}
		s.showAccounts(nil) // who holds the target now knows
	}()
	tick := time.NewTicker(accountLook)
	defer tick.Stop()
	var last time.Time
	var took time.Duration
	var ledger uint64
	failing := false
	for {
		now, rested := s.ledger.Generation(), time.Since(last)
		due := rested >= accountEvery || a.doubtful() && rested >= accountAgain || now != ledger && s.lanes.count() == 0
		if due && rested >= accountRest*took {
			done, err := s.cfg.histories.turn.take(ctx)
			if err != nil {
				return
			}
			last, ledger = time.Now(), now
			all, err := a.draw(ctx)
			if took = time.Since(last); err != nil {
				took = 0 // it waited for the broker
			}
			done()
			switch {
			case err == nil:
				s.showAccounts(all)
				failing = false
			case ctx.Err() == nil && !failing:
				failing = true
				s.log.WarnContext(ctx, "the accounts of this target cannot be drawn up; nothing else depends on them", "error", err)
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// showAccounts shows the accounts in the status of the settings; those of others are taken
// back.
func (s *session) showAccounts(all map[schemas.Slug]*Accounting) {
	s.target.mu.Lock()
	defer s.target.mu.Unlock()
	for id, a := range all {
		if s.target.settings[id] == nil {
			s.target.settings[id] = &SettingStatus{Setting: id}
		}
		s.target.settings[id].Accounting = a
	}
	for id, st := range s.target.settings {
		if all[id] == nil {
			st.Accounting = nil
		}
	}
}

func (a *accounts) doubtful() bool {
	for _, open := range a.open {
		if len(open) > 0 {
			return true
		}
	}
	return false
}

// draw draws up the accounts of all settings.
func (a *accounts) draw(ctx context.Context) (map[schemas.Slug]*Accounting, error) {
	v, _ := a.s.current()
	sources := v.sources(nil)
	for _, src := range sources {
		if a.histories[src] == nil {
			a.histories[src], a.done[src] = a.s.cfg.histories.take(a.s.cfg.Broker, src)
		}
		if err := a.histories[src].readOn(ctx); err != nil {
			return nil, err
		}
	}
	for src, done := range a.done {
		if !slices.Contains(sources, src) {
			done()
			delete(a.histories, src)
			delete(a.done, src)
		}
	}
	for id := range a.open {
		if _, ok := v.settings[id]; !ok {
			delete(a.open, id)
			delete(a.said, id)
			delete(a.drawn, id)
		}
	}
	all := map[schemas.Slug]*Accounting{}
	for _, id := range slices.Sorted(maps.Keys(v.settings)) {
		acc, err := a.drawOne(ctx, v, v.settings[id])
		if err != nil {
			return nil, err
		}
		all[id] = acc
	}
	return all, nil
}

// basis returns what the account of a setting rests on now.
func (a *accounts) basis(v *view, source schemas.Slug) drawn {
	h := a.histories[source]
	d := drawn{ledger: a.s.ledger.Generation(), parked: a.s.parked.mark(), view: v, quiet: a.s.lanes.count() == 0}
	h.mu.RLock()
	d.upTo = h.upTo
	h.mu.RUnlock()
	a.s.mu.Lock()
	d.passed = a.s.passes<<20 + uint64(len(a.s.passedBy))
	a.s.mu.Unlock()
	return d
}

// drawOne draws up the account of one setting. What moves while it is drawn up moves
// in the direction in which it looks, from the history to the ledger, so that little
// is missed on the way.
func (a *accounts) drawOne(ctx context.Context, v *view, set broker.StoredSetting) (*Accounting, error) {
	s := a.s
	basis := a.basis(v, set.Source)
	if before, ok := a.drawn[set.ID]; ok && before == basis && basis.quiet && len(a.open[set.ID]) == 0 {
		if have := s.accountOf(set.ID); have != nil && have.Pending == 0 {
			same := *have
			same.At = time.Now()
			return &same, nil
		}
	}
	acc := &Accounting{At: time.Now()}
	open := map[objectKey]doubt{}
	waiting := map[objectKey]capturedHead{}
	h := a.histories[set.Source]
	h.mu.RLock()
	var left []string
	for key, head := range h.by {
		if a.isLeft(v, set, key, head) {
			acc.Left++
			left = append(left, string(key.t)+"/"+string(key.id))
		}
		if b := a.book(v, set, key, head, false); b.waits {
			waiting[key] = head
		} else {
			acc.add(b)
			b.doubt(open, key, head)
		}
	}
	h.mu.RUnlock()
	slices.Sort(left)
	acc.LeftObjects = left[:min(len(left), accountNames)]
	if len(waiting) > 0 {
		if err := a.bookWaiting(ctx, acc, v, set, waiting, open); err != nil {
			return nil, err
		}
	}
	a.settle(ctx, acc, set, open)
	a.drawn[set.ID] = basis
	return acc, nil
}

// isLeft tells whether an object that was brought here from the setting's source is taken
// by none any more.
func (a *accounts) isLeft(v *view, set broker.StoredSetting, key objectKey, head capturedHead) bool {
	if !set.Rules[key.t].Takes() || set.Rights(key.t, head.selected(key.id)).Use() {
		return false
	}
	e, known := a.s.ledger.Get(key.t, v.home(set.Source, key.t, key.id, nil))
	return known && owned(e) && isOf(e, set.Source, key.id) && !v.terms(set.Source, key.t, head.selected(key.id), nil).rights.Use()
}

// accountOf returns the last account of a setting.
func (s *session) accountOf(id schemas.Slug) *Accounting {
	s.target.mu.Lock()
	defer s.target.mu.Unlock()
	if st := s.target.settings[id]; st != nil {
		return st.Accounting
	}
	return nil
}

// booked is what became of the versions of one object.
type booked struct {
	captured, applied, superseded, filtered, parked, held, pending uint64
	// waits tells that the newest version is in none of these accounts: it is on its
	// way, or nowhere.
	waits bool
	// done is as far as the ledger has come.
	done schemas.Version
}

// doubt notes an object whose accounts do not balance.
func (b booked) doubt(open map[objectKey]doubt, key objectKey, head capturedHead) {
	sum := b.applied + b.superseded + b.filtered + b.parked + b.held + b.pending
	if n := max(sum, b.captured) - min(sum, b.captured); n > 0 {
		open[key] = doubt{newest: head.version, done: b.done, versions: n}
	}
}

// book finds out what became of the versions of one object. Unless it is to be final,
// it may say that one waits although it is filtered.
func (a *accounts) book(v *view, set broker.StoredSetting, key objectKey, head capturedHead, final bool) booked {
	home := objectKey{key.t, v.home(set.Source, key.t, key.id, nil)}
	e, known := a.s.ledger.Get(home.t, home.id)
	var b booked
	if known && isOf(e, set.Source, key.id) && (e.Version.Compare(head.version) >= 0 || broker.SameNumbering(e.Version, head.version)) {
		b.done = e.Version
		b.applied, b.superseded = e.Counts()
	}
	if b.done.Compare(head.version) >= 0 {
		b.captured = b.done.Revision
		return b
	}
	b.captured = head.version.Revision
	left := head.version.Revision - b.done.Revision
	if !set.Rights(key.t, head.selected(key.id)).Use() || !visualcron.Supported(key.t) || !v.housed(set.Source, key.t, key.id, nil) {
		b.filtered = left
		return b
	}
	b.superseded += left - 1 // only the newest version is ever looked at
	switch {
	case a.isParked(home, set.Source, key.id, head):
		b.parked = 1
	case a.isHeld(home, set.Source, key.id, head):
		b.held = 1
	case a.isFiltered(v, set.Source, key, head, e, known), final && a.isOthers(v, set.Source, key, head, e, known):
		b.filtered = 1
	default:
		b.waits = true
	}
	return b
}

// isParked tells whether the version is parked, discarded or not. The key is the target's,
// the id the source's. In a conflict the record names one of the sources and stands for all, and
// one that pauses the object stands for all versions.
func (a *accounts) isParked(key objectKey, source schemas.Slug, id schemas.ID, head capturedHead) bool {
	p, ok := a.s.parked.get(key.t, key.id.Token())
	return ok && (p.IsOf(source, id) && p.Version == head.version || p.Class == classConflict || p.IsPaused())
}

// isHeld tells whether the version is held or waits by the settings' own words.
func (a *accounts) isHeld(home objectKey, source schemas.Slug, id schemas.ID, head capturedHead) bool {
	why, ok := a.s.leftAlone(home, source, id, head.version)
	return ok && (why.Act == decide.Hold || why.Act == decide.Wait)
}

// isFiltered tells whether the settings do not take a version, although they take
// others of the object. It follows choose and applyUnder, which leave these versions
// without a record.
func (a *accounts) isFiltered(v *view, source schemas.Slug, key objectKey, head capturedHead, e broker.Entry, known bool) bool {
	s := a.s
	ours := known && isOf(e, source, key.id)
	home := objectKey{key.t, v.home(source, key.t, key.id, nil)}
	tm := terms{rights: schemas.Rights{New: true, Updated: true, Deleted: true}}
	if known { // finding out costs something, and of what is new here it does not matter
		tm = v.terms(source, key.t, head.selected(key.id), nil)
	}
	if source == s.server.ID || slices.Contains(head.path, s.server.ID) {
		return true // G8: it came from here
	}
	sit := decide.Situation{Source: decide.Present, Record: recordOf(e, known), Ours: ours}
	if head.deleted {
		sit.Source = decide.Deleted
	}
	var all []decide.Situation
	for t := &tm; t != nil; t = t.next {
		sit.Rights, sit.Mode = t.rights, t.mode
		all = append(all, sit)
	}
	if d, _ := decide.Among(all); d.Act == decide.Nothing {
		return true
	}
	_, left := s.leftAlone(home, source, key.id, head.version)
	return left
}

// isOthers tells whether another source brings the object here, and the same, or
// would if the settings took it.
func (a *accounts) isOthers(v *view, source schemas.Slug, key objectKey, head capturedHead, e broker.Entry, known bool) bool {
	home := objectKey{key.t, v.home(source, key.t, key.id, nil)}
	same := func(from schemas.Slug) (capturedHead, bool) {
		h := a.histories[from]
		id, housed := v.origin(from, home.t, home.id, nil)
		if h == nil || from == source || !housed || !v.mayTake(from, key.t, id, nil) {
			return capturedHead{}, false
		}
		h.mu.RLock()
		defer h.mu.RUnlock()
		owner, ok := h.by[objectKey{key.t, id}]
		return owner, ok && v.terms(from, key.t, owner.selected(id), nil).rights.Use() && !owner.deleted && !slices.Contains(owner.path, a.s.server.ID) && owner.digest == head.digest
	}
	if known && e.State != broker.Removed {
		if _, ok := same(e.Source); ok {
			return true
		}
	}
	a.s.mu.Lock()
	by := a.s.passedBy[home]
	a.s.mu.Unlock()
	owner, ok := same(by.source)
	return ok && owner.version == by.version // nobody takes it from there, nor from here
}

// bookWaiting books what seemed to wait: it is on its way to the lanes, in one, or
// nowhere, unless it was dealt with meanwhile.
func (a *accounts) bookWaiting(ctx context.Context, acc *Accounting, v *view, set broker.StoredSetting, waiting map[objectKey]capturedHead, open map[objectKey]doubt) error {
	s := a.s
	compared := s.isCompared(set)
	durable := durableConfig(set).Durable
	from, out, err := s.cfg.Broker.Undelivered(ctx, durable)
	if err != nil && !errors.Is(err, jetstream.ErrConsumerNotFound) { // it is being made, and begins with all
		return err
	}
	in, held := s.lanes.holds(durable)
	out -= held // with another process, or on their way to a lane
	for key, head := range waiting {
		b := a.book(v, set, key, head, true)
		switch {
		case !b.waits:
		case in[objectKey{key.t, v.home(set.Source, key.t, key.id, nil)}], head.seq >= from, !compared:
			b.pending = 1
		case out > 0:
			out--
			b.pending = 1
		}
		if at := time.Unix(head.stored, 0).UTC(); b.pending > 0 && (acc.Oldest.IsZero() || at.Before(acc.Oldest)) {
			acc.Oldest = at
		}
		acc.add(b)
		b.doubt(open, key, head)
	}
	return nil
}

// settle finds out which of the doubts have stood since an earlier account, and says
// so.
func (a *accounts) settle(ctx context.Context, acc *Accounting, set broker.StoredSetting, open map[objectKey]doubt) {
	before := a.open[set.ID]
	now := time.Now()
	var names []string
	for key, d := range open {
		d.since = now
		if b, ok := before[key]; ok && b.newest == d.newest && b.done == d.done {
			d.since = b.since
		}
		open[key] = d
		acc.Open += d.versions
		if now.Sub(d.since) >= accountAgain-time.Second {
			acc.Unaccounted += d.versions
			names = append(names, string(key.t)+"/"+string(key.id))
		}
	}
	slices.Sort(names)
	acc.Objects = names[:min(len(names), accountNames)]
	a.open[set.ID] = open
	switch said := a.said[set.ID]; {
	case acc.Unaccounted > 0 && acc.Unaccounted != said:
		a.s.log.WarnContext(ctx, "the accounts do not balance: captured versions were neither applied nor filtered, parked or waiting (G7); the next comparison, within 5 minutes, looks at every object again, and if this stays, compare the objects on both servers and tell the maintainers",
			"setting", set.ID, "source", set.Source, "versions", acc.Unaccounted, "objects", acc.Objects)
	case acc.Unaccounted == 0 && said > 0:
		a.s.log.InfoContext(ctx, "the accounts balance again", "setting", set.ID)
	}
	a.said[set.ID] = acc.Unaccounted
}

func (a *Accounting) add(b booked) {
	a.Captured += b.captured
	a.Applied += b.applied
	a.Superseded += b.superseded
	a.Filtered += b.filtered
	a.Parked += b.parked
	a.Held += b.held
	a.Pending += b.pending
}
