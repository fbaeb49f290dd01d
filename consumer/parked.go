package consumer

import (
	"context"
	"errors"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/vcsync/vcsync/broker"
	"github.com/vcsync/vcsync/schemas"
)

// tryAgain is how long a state that was parked for a passing fault waits before it
// is tried again by itself.
const tryAgain = 5 * time.Minute

// parkedSet holds the parked records of a target as they stand in the store.
type parkedSet struct {
	b      *broker.Broker
	target schemas.Slug

	mu     sync.Mutex
	by     map[string]broker.Parked
	timers map[string]*time.Timer
}

func newParkedSet(b *broker.Broker, target schemas.Slug) *parkedSet {
	return &parkedSet{b: b, target: target, by: map[string]broker.Parked{}, timers: map[string]*time.Timer{}}
}

// load reads the records and follows them until ctx ends; each is called for every
// record whose turn to be tried again has come, and for every one that a person has
// discarded.
func (ps *parkedSet) load(ctx context.Context, wg *sync.WaitGroup, fail context.CancelCauseFunc, each func(broker.Parked)) error {
	ready := make(chan struct{})
	readyOnce := sync.OnceFunc(func() { close(ready) })
	failed := make(chan error, 1)
	wg.Go(func() {
		for {
			before, seen := ps.revisions(), map[string]bool{}
			err := ps.b.WatchParked(ctx, ps.target, func(p broker.Parked, gone bool) {
				seen[p.Key()] = true
				if ps.take(p, gone) && (p.RetryAsked > p.RetryDone || p.Discarded != "") {
					each(p)
				}
				if !gone && !p.NextTry.IsZero() {
					ps.schedule(ctx, p, each)
				}
			}, func() bool {
				ps.forget(before, seen)
				readyOnce()
				return false
			})
			if ctx.Err() != nil || !errors.Is(err, broker.ErrWatch) {
				failed <- err
				fail(err)
				return
			}
			select { // the connection was lost for a while; the lease tells whether that matters
			case <-ctx.Done():
			case <-time.After(250 * time.Millisecond):
			}
		}
	})
	select {
	case <-ready:
		return nil
	case err := <-failed:
		return err
	}
}

// revisions returns what is known, by key.
func (ps *parkedSet) revisions() map[string]uint64 {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	out := map[string]uint64{}
	for key, p := range ps.by {
		out[key] = p.Revision
	}
	return out
}

// forget lets go of what was known before a watch began and is not there any more.
func (ps *parkedSet) forget(before map[string]uint64, seen map[string]bool) {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	for key, rev := range before {
		if !seen[key] && ps.by[key].Revision == rev {
			delete(ps.by, key)
		}
	}
}

// take learns of a record; false where something newer is known.
func (ps *parkedSet) take(p broker.Parked, gone bool) bool {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	if have, ok := ps.by[p.Key()]; ok && have.Revision > p.Revision {
		return false
	}
	if gone {
		delete(ps.by, p.Key())
	} else {
		ps.by[p.Key()] = p
	}
	return !gone
}

// schedule calls each when the record's next try is due and it still stands.
func (ps *parkedSet) schedule(ctx context.Context, p broker.Parked, each func(broker.Parked)) {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	if t := ps.timers[p.Key()]; t != nil {
		t.Stop()
	}
	ps.timers[p.Key()] = time.AfterFunc(time.Until(p.NextTry), func() {
		if ctx.Err() != nil {
			return
		}
		if now, ok := ps.get(p.Type, p.Token); ok && now.Revision == p.Revision {
			each(now)
		}
	})
}

func (ps *parkedSet) get(t schemas.Type, token schemas.Token) (broker.Parked, bool) {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	p, ok := ps.by[broker.Parked{Target: ps.target, Type: t, Token: token}.Key()]
	return p, ok
}

// all returns every record.
func (ps *parkedSet) all() []broker.Parked {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	return slices.Collect(maps.Values(ps.by))
}

// count returns how many records of a setting are not discarded; of all settings
// for an empty one.
func (ps *parkedSet) count(setting schemas.Slug) int {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	n := 0
	for _, p := range ps.by {
		if p.Discarded == "" && (setting == "" || p.Setting == setting) {
			n++
		}
	}
	return n
}

// mark returns a number that is another when any record has changed.
func (ps *parkedSet) mark() uint64 {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	m := uint64(len(ps.by))
	for _, p := range ps.by {
		m += p.Revision << 20
	}
	return m
}

// put stores a record over the one that stands there, whoever changed it
// meanwhile: a retry that was asked for in between stays asked for. One that pauses the
// object stands until a person resumes it.
func (ps *parkedSet) put(ctx context.Context, p broker.Parked) error {
	for {
		if have, ok := ps.get(p.Type, p.Token); ok {
			if have.IsPaused() && p.Class != broker.ClassUndone {
				return nil
			}
			p.Revision, p.RetryAsked, p.RetryDone = have.Revision, have.RetryAsked, max(p.RetryDone, have.RetryDone)
			if have.Version == p.Version && have.Source == p.Source && have.SourceID == p.SourceID {
				p.First, p.Attempts, p.Unknown = have.First, have.Attempts+1, have.Unknown
				if have.RetryAsked <= p.RetryDone && p.Class != broker.ClassUndone { // said while the try was under way
					p.Discarded = have.Discarded
				}
			}
		} else {
			p.Revision, p.RetryAsked, p.RetryDone = 0, 0, 0
		}
		if p.Class == broker.ClassUndone {
			p.RetryDone = p.RetryAsked
		}
		rev, err := ps.b.PutParked(ctx, p)
		if err == nil {
			p.Revision = rev
			ps.take(p, false)
			return nil
		}
		if err := ps.anew(ctx, p, err); err != nil {
			return err
		}
	}
}

// free removes the record of an object, where there is one and it does not pause it.
func (ps *parkedSet) free(ctx context.Context, t schemas.Type, token schemas.Token) error {
	return ps.freeWhere(ctx, t, token, func(p broker.Parked) bool { return !p.IsPaused() })
}

// lift removes the record with which a pass paused an object, where it stands.
func (ps *parkedSet) lift(ctx context.Context, t schemas.Type, token schemas.Token, pass string) error {
	return ps.freeWhere(ctx, t, token, func(p broker.Parked) bool { return p.Class == broker.ClassUndone && p.Pass == pass })
}

// putBack puts the record back that stood before a pass paused an object, where that pause
// stands and nobody has ended it; known is false where there was none.
func (ps *parkedSet) putBack(ctx context.Context, key objectKey, pass string, was broker.Parked, known bool) error {
	for known {
		p, ok := ps.get(key.t, key.id.Token())
		if !ok || !p.IsPaused() || p.Pass != pass {
			return nil
		}
		was.Revision = p.Revision
		rev, err := ps.b.PutParked(ctx, was)
		if err == nil {
			was.Revision = rev
			ps.take(was, false)
			return nil
		}
		if err := ps.anew(ctx, p, err); err != nil {
			return err
		}
	}
	return ps.lift(ctx, key.t, key.id.Token(), pass)
}

// anew reads a record again that somebody has changed, as the error of a write of it says;
// any other error it returns.
func (ps *parkedSet) anew(ctx context.Context, p broker.Parked, err error) error {
	if !errors.Is(err, broker.ErrConflict) {
		return err
	}
	now, gerr := ps.b.GetParked(ctx, p.Target, p.Type, p.Token)
	switch {
	case gerr == nil:
		ps.take(now, false)
	case errors.Is(gerr, broker.ErrNotFound):
		ps.mu.Lock()
		delete(ps.by, p.Key())
		ps.mu.Unlock()
	default:
		return gerr
	}
	return nil
}

func (ps *parkedSet) freeWhere(ctx context.Context, t schemas.Type, token schemas.Token, is func(broker.Parked) bool) error {
	for {
		p, ok := ps.get(t, token)
		if !ok || !is(p) {
			return nil
		}
		err := ps.b.Unpark(ctx, p)
		if err == nil {
			ps.mu.Lock()
			if have, ok := ps.by[p.Key()]; ok && have.Revision == p.Revision {
				delete(ps.by, p.Key())
			}
			ps.mu.Unlock()
			return nil
		}
		if err := ps.anew(ctx, p, err); err != nil {
			return err
		}
	}
}

// onParked asks for another look at a parked object.
func (s *session) onParked(p broker.Parked) {
	if p.ID != "" {
		s.lanes.look(objectKey{p.Type, p.ID}, nil, nil, true)
	}
}

// onRecord deals with a parked record that has come or changed.
func (s *session) onRecord(p broker.Parked) {
	if p.Discarded != "" && p.RetryAsked <= p.RetryDone { // what waits for this one need not
		if p.Class == classSecret {
			s.onSecret()
		} else if p.ID != "" {
			s.dealtWith(objectKey{p.Type, p.ID})
		}
		return
	}
	s.onParked(p)
}

// unreadable parks a message that is no event, and lets it go: nothing else can
// ever be done with it, and the object's next event replaces it.
func (s *session) unreadable(ctx context.Context, set broker.StoredSetting, m jetstream.Msg, why error) {
	key, err := schemas.ParseStateSubject(m.Subject())
	if err != nil {
		s.log.WarnContext(ctx, "a message on no subject of vcsync's is left alone", "subject", m.Subject())
		_ = m.Ack() // comes again where it is lost
		return
	}
	id, known := key.Token.ID()
	from := id
	if known {
		view, _ := s.current()
		id = view.home(key.Source, key.Type, id, nil)
		key.Token = id.Token()
	}
	v := Judge(schemas.ErrEvent, 0, 0)
	err = s.parked.put(ctx, broker.Parked{Target: s.server.ID, Setting: set.ID, Source: key.Source, Type: key.Type, Token: key.Token, ID: id, SourceID: otherID(from, id),
		Class: v.Class, Reason: why.Error(), Fix: v.Fix, First: time.Now().UTC(), Last: time.Now().UTC(), Attempts: 1})
	if err == nil {
		_ = m.Ack()
	}
}
