package broker

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/synadia-io/orbit.go/jetstreamext"

	"github.com/vcsync/vcsync/schemas"
)

// LedgerState says how far vcsync and an object at a target have come.
type LedgerState string

// Ledger states.
const (
	// Intent: a write is about to start; its outcome is not known yet.
	Intent LedgerState = "intent"
	// Applied: written by vcsync and read back.
	Applied LedgerState = "applied"
	// Adopted: found at the target as an object of the source, not written.
	Adopted LedgerState = "adopted"
	// Removed: deleted by vcsync, or found gone after it was ours.
	Removed LedgerState = "removed"
)

// Entry is what vcsync last did with one object at one target.
type Entry struct {
	Type schemas.Type `json:"type"`
	ID   schemas.ID   `json:"id"`
	// Source is the server that owns the object at this target, SourceID the object's id
	// there where it is another than here: see From.
	Source   schemas.Slug    `json:"source"`
	SourceID schemas.ID      `json:"sourceId,omitzero"`
	Version  schemas.Version `json:"version"`
	// Digest is that of the source's event, empty for a deletion.
	Digest schemas.Digest `json:"digest,omitzero"`
	// AtTarget is the digest of what the target answered on read-back. In an Intent
	// it is what the write is expected to leave there.
	AtTarget schemas.Digest `json:"atTarget,omitzero"`
	// Left is the digest of what vcsync left at the target, or found there, without what
	// is the target's own: who edits that edits nothing that vcsync brought. Before, in
	// an Intent, is the same of what was there before the write; LeftSecrets how the
	// target gave its secrets then. Absent stands for no object. Left is empty where an
	// edit could not be told, such as of an object that lacks a secret. See Edited.
	Left        schemas.Digest `json:"left,omitzero"`
	Before      schemas.Digest `json:"before,omitzero"`
	LeftSecrets string         `json:"leftSecrets,omitzero"`
	// Path lists the servers that the content came by, the source last.
	Path   []schemas.Slug       `json:"path,omitzero"`
	Policy schemas.ActivePolicy `json:"policy,omitzero"`
	State  LedgerState          `json:"state"`
	// Values tells of a user variable that its value was taken too.
	Values bool `json:"values,omitzero"`
	// Needs are the places of the secrets that the object was written without and lacks
	// at the target (see visualcron.Composed). Waits tells that something it refers to
	// lacks one, so that it was left inactive.
	Needs []string `json:"needs,omitzero"`
	Waits bool     `json:"waits,omitzero"`
	// Own names what made the object differ on purpose, empty for nothing: another name
	// means that it was composed otherwise. LeftKept are the places that the target keeps
	// for itself and that Left and Before leave out.
	Own      string   `json:"own,omitzero"`
	LeftKept []string `json:"leftKept,omitzero"`
	// Open tells of an Intent to create a job that deletes itself that a write may have
	// arrived, and of what was Removed that vcsync found it gone: a job may have run and
	// gone.
	Open bool `json:"open,omitzero"`
	// Ours tells of an Intent that the object was Applied or Adopted before; the
	// intent alone is no ownership, since the write may have been refused (G4).
	Ours bool `json:"ours,omitzero"`
	// Again tells of an Intent that the version was dealt with before under the same
	// terms: who asked for this write wanted it, an approval or an audit that heals, and
	// nobody else does.
	Again bool      `json:"again,omitzero"`
	At    time.Time `json:"at"`
	// Deleted tells of a Removed object that vcsync deleted it, without a person who let
	// exactly that through the airlock, and for which sync setting; of an Intent that it
	// may have.
	Deleted schemas.Slug `json:"deleted,omitzero"`
	// Held is the version that is the object's deletion at its source and waits in the
	// airlock, until a person has decided or the source has it again.
	Held schemas.Version `json:"held,omitzero"`
	// Grace tells that the object was switched off because it is gone at its source.
	Grace Grace `json:"grace,omitzero"`
	// Applied counts the versions of the object that were dealt with at the target:
	// written, found equal, removed or found gone. Superseded counts those that a newer
	// one overtook on the way. Together they are the revision of Version; see Counted
	// and Counts.
	Applied    uint64 `json:"applied,omitzero"`
	Superseded uint64 `json:"superseded,omitzero"`
	// Displaced are the objects that were here, or may have been, until another one took
	// the id: a job that deletes itself may have run here. The last is the newest.
	Displaced []Displaced `json:"displaced,omitzero"`
	// Unknown is what another release wrote beside it; an entry keeps it until it is
	// replaced itself (G10).
	Unknown jsontext.Value `json:",embed"`
}

// Grace is what is on record of a job that is gone at its source and only switched off at
// the target, for a time.
type Grace struct {
	// Since is when it was switched off, for Setting. Active is what its flag was before.
	Since   time.Time    `json:"since"`
	Setting schemas.Slug `json:"setting"`
	Active  bool         `json:"active,omitzero"`
}

// IsZero tells that it is no such job.
func (g Grace) IsZero() bool { return g.Since.IsZero() }

// Displaced is an object, by its source and its id there.
type Displaced struct {
	Source schemas.Slug `json:"source"`
	ID     schemas.ID   `json:"id"`
}

// displacedMost is how many objects an entry keeps on record that were at its id before;
// older ones are forgotten.
const displacedMost = 32

// Absent is the digest of no object in Entry.Left and Entry.Before.
const Absent schemas.Digest = "absent"

// Edited tells whether somebody else changed or deleted the object at its target since
// the entry was made. Now is the digest of what is there, made as Left is; secrets is how
// the target gives its secrets.
func (e Entry) Edited(now schemas.Digest, secrets string) bool {
	if e.Left == "" || now == e.Left || e.LeftSecrets != secrets && now != Absent {
		return false
	}
	switch e.State {
	case Applied, Adopted:
		return true
	case Intent:
		return e.Ours && now != e.Before
	}
	return false
}

// From returns the object's id at its source.
func (e Entry) From() schemas.ID {
	if e.SourceID != "" {
		return e.SourceID
	}
	return e.ID
}

// Counts returns the counters of an entry. An entry of a release without them counts
// as one version applied that overtook all before.
func (e Entry) Counts() (applied, superseded uint64) {
	if e.Applied == 0 && e.Superseded == 0 && e.Version.Revision > 0 {
		return 1, e.Version.Revision - 1
	}
	return e.Applied, e.Superseded
}

// Counted returns the entry with its counters, which go on from those of the entry
// that it replaces; before is the zero Entry where there is none. Versions in between
// were superseded. An intent counts nothing, and neither does the same version once
// more. Another source, another object of it, or a numbering that begins anew, is counted anew.
func (e Entry) Counted(before Entry) Entry {
	e.Applied, e.Superseded = 0, 0
	if before.Source != e.Source || before.From() != e.From() || !SameNumbering(before.Version, e.Version) {
		before = Entry{}
	}
	if e.Version.IsZero() {
		return e
	}
	applied, superseded := before.Counts()
	if before.Version != e.Version {
		applied++
		superseded += e.Version.Revision - before.Version.Revision - 1
	}
	e.Applied, e.Superseded = applied, superseded
	return e
}

// Displacing returns the entry with the objects on record that were at its id before, or
// may have been; before is the entry that it replaces, the zero Entry where there is none.
func (e Entry) Displacing(before Entry) Entry {
	out := slices.Clone(before.Displaced)
	without := func(d Displaced) {
		out = slices.DeleteFunc(out, func(o Displaced) bool { return o == d })
	}
	if was := (Displaced{before.Source, before.From()}); before.ID != "" && was != (Displaced{e.Source, e.From()}) && (before.Owned() || before.Open) {
		without(was)
		out = append(out, was)
	}
	if e.Owned() { // the entry itself says it
		without(Displaced{e.Source, e.From()})
	}
	out = out[max(0, len(out)-displacedMost):]
	if e.Displaced = out; len(out) == 0 {
		e.Displaced = nil
	}
	return e
}

// Owned tells whether vcsync brought the object to the target or found it equal there.
func (e Entry) Owned() bool {
	return e.State == Applied || e.State == Adopted || e.State == Intent && e.Ours
}

// SameNumbering tells whether revisions were counted on from one version of an object
// to a later one or the same, so that their difference is a number of versions. It is
// false where a lost stream made the source count from 1 again.
func SameNumbering(earlier, later schemas.Version) bool {
	return earlier == later || earlier.Compare(later) < 0 && earlier.Revision < later.Revision
}

// ledgerPage is how many entries share one record: an entry takes about 370 bytes,
// so a page stays below 100 kB.
const ledgerPage = 256

type pageRecord struct {
	Version int     `json:"v"`
	Entries []Entry `json:"entries"`
}

type entryKey struct {
	t  schemas.Type
	id schemas.ID
}

// Ledger is the record of one target, packed in pages of 256 objects. The holder
// of the target's lease is its only writer. Its methods may be called from many
// goroutines; writes that meet are stored together.
type Ledger struct {
	target schemas.Slug
	js     jetstream.JetStream

	mu      sync.Mutex
	pages   []*page
	at      map[entryKey]place
	away    map[awayKey]map[schemas.ID]bool // the ids here of objects that have another at their source, or were displaced
	pending map[entryKey]Entry
	waiters []chan error
	failed  error
	// generation rises with everything that is stored.
	generation uint64

	wake chan struct{}
	stop context.CancelFunc
	done chan struct{}
}

// awayKey is an object by its id at its source.
type awayKey struct {
	source schemas.Slug
	t      schemas.Type
	id     schemas.ID
}

// index notes that an entry is there, or with gone that it is not any more. It needs the
// lock.
func (l *Ledger) index(e Entry, gone bool) {
	note := func(key awayKey) {
		switch {
		case !gone && l.away[key] == nil:
			l.away[key] = map[schemas.ID]bool{e.ID: true}
		case !gone:
			l.away[key][e.ID] = true
		default:
			if delete(l.away[key], e.ID); len(l.away[key]) == 0 {
				delete(l.away, key)
			}
		}
	}
	if e.From() != e.ID {
		note(awayKey{e.Source, e.Type, e.From()})
	}
	for _, d := range e.Displaced {
		note(awayKey{d.Source, e.Type, d.ID})
	}
}

type page struct {
	rev     uint64
	entries []Entry
}

type place struct{ page, slot int }

// OpenLedger reads the ledger of a target and opens it for writing. The caller
// holds the target's lease, and closes the ledger before it gives that back.
func (b *Broker) OpenLedger(ctx context.Context, target schemas.Slug) (*Ledger, error) {
	l := &Ledger{target: target, js: b.js, at: map[entryKey]place{}, away: map[awayKey]map[schemas.ID]bool{}, pending: map[entryKey]Entry{},
		wake: make(chan struct{}, 1), done: make(chan struct{})}
	err := b.watchPages(ctx, target, true, func(n int, rev uint64, entries []Entry) {
		for len(l.pages) <= n {
			l.pages = append(l.pages, &page{})
		}
		l.pages[n] = &page{rev, entries}
		for slot, e := range entries {
			l.at[entryKey{e.Type, e.ID}] = place{n, slot}
			l.index(e, false)
		}
	})
	if err != nil {
		return nil, err
	}
	run, stop := context.WithCancel(context.WithoutCancel(ctx))
	l.stop = stop
	go l.flushLoop(run)
	return l, nil
}

// Get returns the entry of an object, as far as it is stored.
func (l *Ledger) Get(t schemas.Type, id schemas.ID) (Entry, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	p, ok := l.at[entryKey{t, id}]
	if !ok {
		return Entry{}, false
	}
	return l.pages[p.page].entries[p.slot], true
}

// Homes returns the stored entries about one object of a source, by its id there: more
// than one where pins gave it several ids at the target.
func (l *Ledger) Homes(source schemas.Slug, t schemas.Type, from schemas.ID) (out []Entry) {
	l.mu.Lock()
	defer l.mu.Unlock()
	add := func(id schemas.ID) {
		if p, ok := l.at[entryKey{t, id}]; ok {
			if e := l.pages[p.page].entries[p.slot]; e.Source == source && e.From() == from {
				out = append(out, e)
			}
		}
	}
	add(from)
	for _, id := range slices.Sorted(maps.Keys(l.away[awayKey{source, t, from}])) {
		if id != from {
			add(id)
		}
	}
	return out
}

// Displaced returns the ids here at which an object of a source was, or may have been,
// until another object took them; by its id there.
func (l *Ledger) Displaced(source schemas.Slug, t schemas.Type, from schemas.ID) (out []schemas.ID) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, id := range slices.Sorted(maps.Keys(l.away[awayKey{source, t, from}])) {
		if p, ok := l.at[entryKey{t, id}]; ok && slices.Contains(l.pages[p.page].entries[p.slot].Displaced, Displaced{source, from}) {
			out = append(out, id)
		}
	}
	return out
}

// Generation returns a number that is another whenever something was stored since.
func (l *Ledger) Generation() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.generation
}

// Each calls f with every stored entry.
func (l *Ledger) Each(f func(Entry)) {
	l.mu.Lock()
	var all []Entry
	for _, p := range l.pages {
		all = append(all, p.entries...)
	}
	l.mu.Unlock()
	for _, e := range all {
		f(e)
	}
}

// Put stores an entry and returns when it is on disk, or when ctx ends: then it
// may be stored or not. After any error the ledger takes no more; open it anew.
func (l *Ledger) Put(ctx context.Context, e Entry) error {
	l.mu.Lock()
	if l.failed != nil {
		defer l.mu.Unlock()
		return l.failed
	}
	ch := make(chan error, 1)
	l.pending[entryKey{e.Type, e.ID}] = e
	l.waiters = append(l.waiters, ch)
	l.mu.Unlock()
	select {
	case l.wake <- struct{}{}:
	default:
	}
	select {
	case err := <-ch:
		return err
	case <-ctx.Done():
		return fmt.Errorf("ledger of %s: %w", l.target, ctx.Err())
	}
}

// Close ends the writer; what waits in Put gets an error.
func (l *Ledger) Close() {
	l.stop()
	<-l.done
}

func (l *Ledger) flushLoop(ctx context.Context) {
	defer close(l.done)
	for {
		var err error
		select {
		case <-ctx.Done():
			err = fmt.Errorf("ledger of %s: closed", l.target)
		case <-l.wake:
			err = l.flush(ctx)
		}
		if err != nil {
			l.mu.Lock()
			l.failed = err
			waiters := l.waiters
			l.waiters = nil
			l.mu.Unlock()
			for _, ch := range waiters {
				ch <- err
			}
			return
		}
	}
}

// flush stores all pending entries as one atomic batch of their pages.
func (l *Ledger) flush(ctx context.Context) error {
	l.mu.Lock()
	pending, waiters := l.pending, l.waiters
	l.pending, l.waiters = map[entryKey]Entry{}, nil
	next := map[int]*page{}
	moved := map[entryKey]place{}
	total := len(l.pages)
	dirty := func(n int) *page {
		if next[n] == nil {
			p := &page{}
			if n < len(l.pages) {
				p.rev = l.pages[n].rev
				p.entries = append(make([]Entry, 0, ledgerPage), l.pages[n].entries...)
			}
			next[n] = p
		}
		return next[n]
	}
	for k, e := range pending {
		if at, ok := l.at[k]; ok {
			dirty(at.page).entries[at.slot] = e
			continue
		}
		n := max(total-1, 0)
		if total == 0 || len(dirty(n).entries) >= ledgerPage {
			n = total
		}
		p := dirty(n)
		total = max(total, n+1)
		p.entries = append(p.entries, e)
		moved[k] = place{n, len(p.entries) - 1}
	}
	l.mu.Unlock()
	err := l.store(ctx, next)
	if err == nil {
		l.mu.Lock()
		for k, e := range pending {
			if at, ok := l.at[k]; ok {
				l.index(l.pages[at.page].entries[at.slot], true)
			}
			l.index(e, false)
		}
		for n, p := range next {
			for len(l.pages) <= n {
				l.pages = append(l.pages, &page{})
			}
			l.pages[n] = p
		}
		for k, at := range moved {
			l.at[k] = at
		}
		l.generation++
		l.mu.Unlock()
	}
	for _, ch := range waiters {
		ch <- err
	}
	return err
}

func pageKey(target schemas.Slug, n int) string { return string(target) + "." + strconv.Itoa(n) }

func (l *Ledger) store(ctx context.Context, pages map[int]*page) error {
	var order []int
	var msgs []*nats.Msg
	for n, p := range pages {
		raw, err := json.Marshal(pageRecord{1, p.entries})
		if err != nil {
			return fmt.Errorf("ledger of %s: %w", l.target, err)
		}
		m := nats.NewMsg("$KV." + BucketLedger + "." + pageKey(l.target, n))
		m.Data = raw
		m.Header.Set(jetstream.ExpectedLastSubjSeqHeader, strconv.FormatUint(p.rev, 10))
		order, msgs = append(order, n), append(msgs, m)
	}
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	var err error
	var last uint64
	switch len(msgs) {
	case 0:
		return nil
	case 1:
		var ack *jetstream.PubAck
		if ack, err = l.js.PublishMsg(ctx, msgs[0], jetstream.WithRetryAttempts(0)); err == nil {
			last = ack.Sequence
		}
	default:
		var ack *jetstreamext.BatchAck
		if ack, err = jetstreamext.PublishMsgBatch(ctx, l.js, msgs, oneAnswer); err == nil {
			last = ack.Sequence
		}
	}
	var api *jetstream.APIError
	if errors.As(err, &api) && api.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequence {
		return fmt.Errorf("ledger of %s: %w: %w", l.target, ErrConflict, err)
	}
	if err != nil {
		return fmt.Errorf("store the ledger of %s: %w", l.target, err)
	}
	for i, n := range order {
		pages[n].rev = last - uint64(len(order)-1-i)
	}
	return nil
}

// WatchLedger calls each with every entry of a target, ready once when all that was
// there has come, and each again for every page that changes, until ctx ends.
func (b *Broker) WatchLedger(ctx context.Context, target schemas.Slug, each func(Entry), ready func()) error {
	return b.watch(ctx, BucketLedger, string(target)+".*", func(e jetstream.KeyValueEntry) error {
		_, entries, err := parsePage(target, e)
		if err != nil {
			return err
		}
		for _, x := range entries {
			each(x)
		}
		return nil
	}, func() bool { ready(); return false })
}

func (b *Broker) watchPages(ctx context.Context, target schemas.Slug, once bool, each func(n int, rev uint64, entries []Entry)) error {
	return b.watch(ctx, BucketLedger, string(target)+".*", func(e jetstream.KeyValueEntry) error {
		n, entries, err := parsePage(target, e)
		if err == nil {
			each(n, e.Revision(), entries)
		}
		return err
	}, func() bool { return once })
}

func parsePage(target schemas.Slug, e jetstream.KeyValueEntry) (int, []Entry, error) {
	n, err := strconv.Atoi(strings.TrimPrefix(e.Key(), string(target)+"."))
	if err != nil || n < 0 || n > 1<<20 {
		return 0, nil, fmt.Errorf("%w: ledger page %s", ErrRecord, e.Key())
	}
	var rec pageRecord
	if err := json.Unmarshal(e.Value(), &rec); err != nil || rec.Version != 1 {
		return 0, nil, fmt.Errorf("%w: ledger page %s: version %d: %v", ErrRecord, e.Key(), rec.Version, err)
	}
	return n, rec.Entries, nil
}

// watch calls each for every value under keys, now and later; initial is called
// once when all that was there has come, and ends the watch by returning true. It ends
// with ErrWatch when the connection was lost and is back: what is told by a watch from
// before then comes late, after many seconds, or never. Its caller begins anew.
func (b *Broker) watch(ctx context.Context, bucket, keys string, each func(jetstream.KeyValueEntry) error, initial func() bool) error {
	back := b.nc.StatusChanged(nats.CONNECTED)
	defer b.nc.RemoveStatusListener(back)
	kv, err := b.js.KeyValue(ctx, bucket)
	if err != nil {
		return fmt.Errorf("watch %s: %w", bucket, err)
	}
	want, err := b.leaderLast(ctx, "KV_"+bucket, kvSubject(bucket, keys))
	if err != nil {
		return fmt.Errorf("watch %s: %w", bucket, err)
	}
	w, err := kv.Watch(ctx, keys)
	if err != nil {
		return fmt.Errorf("watch %s: %w", bucket, err)
	}
	defer w.Stop()
	var seen uint64
	begun, waiting := false, false // told of what was there; waiting for a member that is behind
	var lags <-chan time.Time
	for {
		if waiting && !begun && seen >= want {
			begun, lags = true, nil
			if initial() {
				return nil
			}
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-lags:
			return errLags("watch "+bucket, seen, want)
		case <-back:
			return fmt.Errorf("watch %s: the connection to the broker was lost, and is back: %w", bucket, ErrWatch)
		case e, ok := <-w.Updates():
			switch {
			case !ok:
				return fmt.Errorf("watch %s: the watch ended: %w", bucket, errors.Join(ErrWatch, ctx.Err()))
			case e == nil:
				waiting = true
				lags = time.After(lagLimit)
			default:
				seen = max(seen, e.Revision())
				if err := each(e); err != nil {
					return err
				}
			}
		}
	}
}
