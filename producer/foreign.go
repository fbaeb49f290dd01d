package producer

import (
	"context"
	"sync"
	"time"

	"github.com/vcsync/vcsync/broker"
	"github.com/vcsync/vcsync/schemas"
)

// settleFor is how long an event may be known from the stream before its own
// acknowledgement is.
const settleFor = 3 * time.Second

// foreign watches for events of this source that this process did not publish: of a
// producer that was cut off and whose last event came late, or of a client that should
// not. Nobody published in between, so nothing refused them; but they are of a state
// that the source has no more, and what is known here of the object is wrong. The
// object's own state is published above them at the next poll (G2).
type foreign struct {
	mu sync.Mutex
	// own holds the last event of an object that was stored by this process and not
	// seen yet, others the last that it did not store.
	own, others map[schemas.Key]uint64
}

// reset forgets everything: the last state was just read back.
func (f *foreign) reset() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.own, f.others = map[schemas.Key]uint64{}, map[schemas.Key]uint64{}
}

// stored notes an event of this process.
func (f *foreign) stored(key schemas.Key, seq uint64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.own[key] = seq
	if f.others[key] <= seq {
		delete(f.others, key)
	}
}

// seen notes an event of the stream, and tells whether it may be another's.
func (f *foreign) seen(key schemas.Key, seq uint64) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if own, ok := f.own[key]; ok && own >= seq {
		if own == seq {
			delete(f.own, key)
		}
		return false
	}
	f.others[key] = seq
	return true
}

// take returns the objects that others published, and forgets them.
func (f *foreign) take() map[schemas.Key]uint64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	out := f.others
	f.others = map[schemas.Key]uint64{}
	return out
}

// any tells whether one of the objects of a type was published by others.
func (f *foreign) any(t schemas.Type) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	for key := range f.others {
		if key.Type == t {
			return true
		}
	}
	return false
}

// followForeign watches the source's events after a sequence until ctx ends.
func (s *source) followForeign(ctx context.Context, after uint64) {
	var late sync.WaitGroup
	defer late.Wait()
	waiting := map[schemas.Type]bool{}
	var mu sync.Mutex
	for ctx.Err() == nil {
		err := s.cfg.Broker.FollowEvents(ctx, broker.EventQuery{Source: s.server.ID}, after, func(uint64) error { return nil }, func(e broker.StoredEvent) error {
			after = e.Seq
			mu.Lock()
			defer mu.Unlock()
			if t := e.Key.Type; s.foreign.seen(e.Key, e.Seq) && !waiting[t] {
				waiting[t] = true
				late.Go(func() {
					select {
					case <-ctx.Done():
					case <-time.After(settleFor):
					}
					mu.Lock()
					waiting[t] = false
					mu.Unlock()
					if s.foreign.any(t) {
						s.hint(t)
					}
				})
			}
			return nil
		})
		if err != nil && ctx.Err() == nil {
			s.log.DebugContext(ctx, "the events of this source cannot be followed; trying again", "error", err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(time.Second):
		}
	}
}

// relearnForeign looks anew at the objects that others published.
func (s *source) relearnForeign(ctx context.Context) error {
	for key, seq := range s.foreign.take() {
		base, wanted := s.base[key.Type]
		id, ok := key.Token.ID()
		if !ok { // of a long id the token is a hash; the object is found by its token
			for have := range base {
				if have.Token() == key.Token {
					id, ok = have, true
				}
			}
		}
		if !wanted || !ok {
			continue
		}
		if k := base[id]; k != nil && k.seq >= seq {
			continue
		}
		s.log.WarnContext(ctx, "an event of this source was published by another process, late perhaps; the object's own state is published above it", "type", key.Type, "id", id, "sequence", seq)
		if err := s.relearn(ctx, key, id); err != nil {
			return err
		}
	}
	return nil
}
