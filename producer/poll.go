package producer

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/vcsync/vcsync/broker"
	"github.com/vcsync/vcsync/schemas"
	"github.com/vcsync/vcsync/visualcron"
)

const (
	// flushBytes and flushEvents bound what a listing holds in memory before it is
	// published.
	flushBytes  = 4 << 20
	flushEvents = 500
)

// poll lists the types in the order of applying and publishes what changed. It
// returns what the server said of itself.
func (s *source) poll(ctx context.Context, types []schemas.Type) (visualcron.Info, error) {
	info, err := s.identify(ctx)
	if err != nil {
		return info, err
	}
	if err := s.relearnForeign(ctx); err != nil {
		return info, &degraded{classBroker, err.Error()}
	}
	s.beginPoll(info, types)
	knew := s.knows()
	began := map[schemas.Type]time.Time{}
	s.torn = map[schemas.Type]bool{}
	gone := map[schemas.Type][]schemas.ID{}
	listedAt := map[schemas.Type]time.Time{}
	var failed typesFailed
	for _, t := range types {
		can := info.Types[t]
		if was, ok := s.modes[t]; ok && was != can.Secrets {
			for _, k := range s.base[t] {
				k.quick = 0 // the same bodies say something else now
			}
		}
		s.modes[t] = can.Secrets
		s.view = visualcron.View{Secrets: can.Secrets, Values: s.values, Digest: s.cfg.Broker.Keys.Digest}
		if why := s.resting(t); why != nil {
			err = why
		} else if can.List {
			began[t] = time.Now()
			gone[t], err = s.pollType(ctx, t)
			listedAt[t] = time.Now()
		} else {
			err = &visualcron.Error{Class: visualcron.Unsupported, Op: "list", Server: s.server.ID, Type: t, Hint: "take the type out of the sync setting, or use another connector"}
		}
		if err != nil && !s.onlyThisType(ctx, err) {
			return info, err
		}
		s.listed(t, err)
		if err != nil {
			if failed.first == nil {
				failed.first = err
			}
			failed.types = append(failed.types, t)
			delete(gone, t)
		}
	}
	for _, t := range slices.Backward(types) { // deletes go in reverse
		ids, listed := gone[t]
		if !listed {
			continue // what waits there still waits
		}
		if len(ids) > 0 && time.Since(listedAt[t]) > freshEvidence {
			if ids, err = s.stillGone(ctx, t, ids); err != nil {
				if !s.onlyThisType(ctx, err) {
					return info, err
				}
				s.listed(t, err)
				if failed.types = append(failed.types, t); failed.first == nil {
					failed.first = err
				}
				continue
			}
		}
		if err := s.deleteGone(ctx, t, ids); err != nil {
			return info, err
		}
		if s.torn[t] {
			continue // it is listed again at once
		}
		s.mu.Lock()
		ts := s.status.Types[t]
		ts.Began, ts.Revision = began[t], knew
		s.status.Types[t] = ts
		s.mu.Unlock()
	}
	s.keepEvidence(ctx)
	s.prove(ctx)
	if failed.first != nil {
		return info, &failed
	}
	return info, nil
}

// pace is what is known of the listings of a type.
type pace struct {
	// budget is how long the next one may take; zero before the first complete one.
	budget time.Duration
	// until is when the type is listed again after one that took too long, why its
	// error.
	until time.Time
	why   error
}

const (
	// leastBudget is the least time that a listing may take, budgetFactor how many
	// times longer than the last complete one. Before the first, the connector's own
	// limit counts alone.
	leastBudget  = time.Minute
	budgetFactor = 4
	// slowRest is how long a type rests whose listing took too long, so that it does
	// not keep the others waiting again at once.
	slowRest = 5 * time.Minute
)

// resting returns why a type is not listed now, nil where it is.
func (s *source) resting(t schemas.Type) error {
	if p := s.paces[t]; p.why != nil && time.Now().Before(p.until) {
		return p.why
	}
	return nil
}

// listing lists a type within its budget, and notes how long that took: one type
// that drips does not keep the others waiting (G5).
func (s *source) listing(ctx context.Context, t schemas.Type, yield func(visualcron.Row) error) (visualcron.Complete, error) {
	p := s.paces[t]
	in := ctx
	if p.budget > 0 {
		var cancel context.CancelFunc
		in, cancel = context.WithTimeout(ctx, p.budget)
		defer cancel()
	}
	begun := time.Now()
	complete, err := s.conn.List(in, t, yield)
	if err != nil && in.Err() != nil && ctx.Err() == nil {
		err = &visualcron.Error{Class: visualcron.Timeout, Op: "list", Server: s.server.ID, Type: t,
			Detail: fmt.Sprintf("the listing did not end in time, which is %s", p.budget.Round(time.Second)), Hint: "it gets more the next time, in some minutes"}
	}
	switch took := time.Since(begun); {
	case err == nil:
		s.paces[t] = pace{budget: max(leastBudget, budgetFactor*took)}
	case visualcron.ClassOf(err) == visualcron.Timeout && ctx.Err() == nil && took >= leastBudget/2:
		// It may have grown: the next one gets more, up to the connector's own limit.
		s.paces[t] = pace{budget: 2 * p.budget, until: time.Now().Add(slowRest), why: err}
	}
	return complete, err
}

// onlyThisType tells whether a listing failed for a reason of its type alone, so
// that the other types can be listed: the account may not read it, or what came
// was no listing, while the server itself still answers as it should.
func (s *source) onlyThisType(ctx context.Context, err error) bool {
	if ctx.Err() != nil {
		return false
	}
	if d, ok := errors.AsType[*degraded](err); ok {
		return d.class == classEmpty || d.class == classSecrets
	}
	e, ok := errors.AsType[*visualcron.Error](err)
	if !ok {
		return false
	}
	switch e.Class {
	case visualcron.Unsupported, visualcron.Refused, visualcron.NotFound, visualcron.Changed:
		return true
	case visualcron.Unauthorized:
		return e.Status == 403 && e.Op == "list"
	case visualcron.BadAnswer, visualcron.Fault, visualcron.Timeout:
		_, err := s.identify(ctx)
		return err == nil
	}
	return false
}

// listed notes how the listing of a type ended.
func (s *source) listed(t schemas.Type, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	ts := s.status.Types[t]
	ts.Class, ts.Reason = "", ""
	if err != nil {
		ts.Class, ts.Reason = classOf(err), err.Error()
	}
	s.status.Types[t] = ts
}

// identify asks who answers and refuses anybody else than the server that this
// name stands for.
func (s *source) identify(ctx context.Context) (visualcron.Info, error) {
	info, err := s.conn.Server(ctx)
	if err != nil {
		return info, err
	}
	if s.identity == "" {
		if other, err := s.cfg.Broker.SameServer(ctx, s.server.ID, info.ID); err != nil {
			return info, &degraded{classBroker, err.Error()}
		} else if other != "" {
			return info, &visualcron.Error{Class: visualcron.WrongServer, Op: "ask for the server's identity", Server: s.server.ID,
				Detail: fmt.Sprintf("it is the same server as %s", other), Hint: "remove one of the two names"}
		}
		if s.identity, err = s.cfg.Broker.BindIdentity(ctx, s.server.ID, info.ID); err != nil {
			return info, &degraded{classBroker, err.Error()}
		}
	}
	if info.ID != s.identity {
		return info, &visualcron.Error{Class: visualcron.WrongServer, Op: "ask for the server's identity", Server: s.server.ID,
			Detail: fmt.Sprintf("server %.64q answers, %.64q is known by this name", info.ID, s.identity),
			Hint:   "correct the address; a new server needs a name of its own"}
	}
	if c := info.Certificate; c != nil {
		s.mu.Lock()
		s.status.CertificateEnds = c.Ends
		s.mu.Unlock()
	}
	if info.Version != s.version { // before anything of it is published
		if err := s.cfg.Broker.SetVersion(ctx, s.server.ID, info.Version); err != nil {
			return info, &degraded{classBroker, err.Error()}
		}
		s.version = info.Version
	}
	return info, nil
}

// listing is one pass over the objects of a type.
type listing struct {
	s       *source
	t       schemas.Type
	seen    map[schemas.ID]bool
	changes []broker.Change
	quick   []uint64
	bytes   int
	builtIn int
	refused int
	stale   int // of these, those that are on record otherwise
	why     string
	begun   time.Time // for traces
}

// list lists the type once, publishes what is new or different, and returns the
// ids that it saw. Only a complete listing returns no error. Of a large one, changes
// are published before its end is known; each is an object that the server gave.
func (s *source) list(ctx context.Context, t schemas.Type) (map[schemas.ID]bool, error) {
	l := &listing{s: s, t: t, seen: map[schemas.ID]bool{}, begun: time.Now()}
	defer s.traces.endAll()
	complete, err := s.listing(ctx, t, func(r visualcron.Row) error { return l.row(ctx, r) })
	if err != nil {
		return nil, err // what is left of a listing that is not whole is not believed
	}
	if !complete.IsComplete() || complete.Type() != t {
		return nil, &visualcron.Error{Class: visualcron.BadAnswer, Op: "list", Server: s.server.ID, Type: t, Detail: "the listing is not proven to be complete"}
	}
	if err := l.flush(ctx); err != nil {
		return nil, err
	}
	live := s.live(t)
	if complete.Count() == 0 && live > 0 {
		return nil, &degraded{classEmpty, fmt.Sprintf("the listing of %s on %s is empty, and %d were there before; nothing is deleted because of it. If that is meant, create one object of the type there, or take the type out of the sync settings", t, s.server.ID, live)}
	}
	s.mu.Lock()
	ts := s.status.Types[t]
	ts.Complete, ts.Objects, ts.BuiltIn, ts.Refused, ts.RefusedWhy, ts.Stale = time.Now(), complete.Count()-l.builtIn, l.builtIn, l.refused, l.why, l.stale
	s.status.Types[t] = ts
	s.mu.Unlock()
	return l.seen, nil
}

// live counts the objects of a type that exist as far as the stream knows.
func (s *source) live(t schemas.Type) int {
	n := 0
	for _, k := range s.base[t] {
		if k.digest != "" {
			n++
		}
	}
	return n
}

// row looks at one object of a listing.
func (l *listing) row(ctx context.Context, r visualcron.Row) error {
	s := l.s
	l.seen[r.ID] = true
	var at time.Time
	if s.traces.tracer != nil {
		at = time.Now()
	}
	hash, moments, err := s.quick.HashWithMoments(l.t, r.Body)
	if err != nil {
		l.refuse(r.ID, err)
		return nil
	}
	k := s.base[l.t][r.ID]
	if k != nil && k.digest != "" && k.quick == hash && k.version.Epoch == s.epoch {
		s.unchanged(l.t, r.ID, moments)
		return nil
	}
	if h, ok := s.ignored[l.t][r.ID]; ok && h == hash {
		l.builtIn++
		return nil
	}
	n, err := s.view.Normalize(l.t, r.Body)
	if err != nil {
		l.refuse(r.ID, err)
		return nil
	}
	if n.BuiltIn {
		s.ignored[l.t][r.ID] = hash
		l.builtIn++
		return nil
	}
	if k != nil && k.digest == n.Digest {
		s.unchanged(l.t, r.ID, moments)
	}
	if k != nil && k.digest == n.Digest && k.version.Epoch == s.epoch && !k.spoiled {
		k.quick = hash // G8: equal content is no event
		return nil
	}
	e := schemas.Event{Source: s.server.ID, Kind: schemas.Added, Digest: n.Digest, Who: n.Who, Time: time.Now(),
		Object: schemas.Object{Type: l.t, ID: r.ID, Name: n.Name, Group: n.Group}}
	var after uint64
	if k != nil {
		after, e.BaseDigest = k.seq, k.digest
		if k.digest != "" {
			e.Kind = schemas.Updated
		}
	}
	if l.t == schemas.ServerSettings {
		e.Kind = schemas.Updated // every server has them
	}
	e.Version = s.next(k)
	e.OriginPath = s.echo.path(l.t, r.ID, n.Digest, k.last())
	if k != nil && k.digest != n.Digest && e.OriginPath == nil && !k.foreign {
		s.changed(l.t, r.ID, n.Digest, k.seq+1, moments)
	} else if k == nil || k.digest != n.Digest {
		s.sawMoments(l.t, r.ID, moments)
	}
	sealed, err := s.view.SealBody(l.t, r.Body, func(pointer, secret string) string {
		return s.cfg.Broker.Keys.Seal(schemas.SealContext(s.server.ID, l.t, r.ID, pointer), secret)
	})
	if err != nil {
		l.refuse(r.ID, err)
		return nil
	}
	e.Object.Body, e.Object.Sealed = slices.Clone(sealed.Body), sealed.Places
	e.Object.Withholds, e.Object.Withheld = s.view.Secrets != visualcron.SecretsEqual, sealed.Withheld
	e.Trace = s.traces.begin(ctx, e, l.begun, at)
	l.changes, l.quick = append(l.changes, broker.Change{Event: e, After: after}), append(l.quick, hash)
	if l.bytes += len(sealed.Body); l.bytes >= flushBytes || len(l.changes) >= flushEvents {
		return l.flush(ctx)
	}
	return nil
}

// next returns the version after that of k.
func (s *source) next(k *known) schemas.Version {
	if k == nil {
		return schemas.Version{Epoch: s.epoch, Revision: 1}
	}
	return schemas.Version{Epoch: max(s.epoch, k.version.Epoch), Revision: k.version.Revision + 1}
}

// refuse counts an object that cannot be captured. It is there, so it is never
// taken for deleted.
func (l *listing) refuse(id schemas.ID, err error) {
	if l.refused == 0 {
		l.why = fmt.Sprintf("%s %.64s: %v", l.t, id, err)
	}
	l.refused++
	if l.s.base[l.t][id].last() != "" {
		l.stale++
	}
}

// flush publishes what the listing has found so far. The identity is asked for
// again first: rows that were read between two answers of the right server are
// that server's.
func (l *listing) flush(ctx context.Context) error {
	if len(l.changes) == 0 {
		return nil
	}
	info, err := l.s.identify(ctx)
	if err != nil {
		return err
	}
	if now := info.Types[l.t].Secrets; now != l.s.view.Secrets {
		// What was read as secrets may be masks: nothing of it is published.
		return &degraded{classSecrets, fmt.Sprintf("%s gives the secrets of %s otherwise than when its listing began (%q, now %q); the listing is begun anew", l.s.server.ID, l.t, l.s.view.Secrets, now)}
	}
	err = l.s.publish(ctx, l.t, l.changes, l.quick, func(c broker.Change, err error) { l.refuse(c.Event.Object.ID, err) })
	l.changes, l.quick, l.bytes = nil, nil, 0
	return err
}

// publish stores the changes and learns from the outcome. An object that somebody
// else published meanwhile is looked at again in the next poll, made immediate.
func (s *source) publish(ctx context.Context, t schemas.Type, changes []broker.Change, quick []uint64, refused func(broker.Change, error)) error {
	if !s.lease.Valid() {
		// G4: what was seen before this process stood still is no evidence any more.
		return fmt.Errorf("publish %s of %s: %w", t, s.server.ID, broker.ErrLeaseLost)
	}
	begun := time.Now()
	stored, err := s.cfg.Broker.Publish(ctx, changes)
	var done uint64
	for i, st := range stored {
		e := changes[i].Event
		id := e.Object.ID
		switch {
		case st.Seq != 0 && st.Err == nil:
			k := &known{version: e.Version, digest: e.Digest, seq: st.Seq}
			s.echo.spend(t, id)
			s.foreign.stored(e.Key(), st.Seq)
			if quick != nil {
				k.quick = quick[i]
			}
			s.base[t][id] = k // G1: the store has acknowledged; only now is it captured
			done++
			s.traces.publish(id, begun, st.Seq, "published")
		case errors.Is(st.Err, broker.ErrConflict):
			s.traces.publish(id, begun, 0, "overtaken")
			if err := s.relearn(ctx, e.Key(), id); err != nil {
				return &degraded{classBroker, err.Error()}
			}
			s.torn[t] = true
			s.hint(t)
		case err == nil:
			s.traces.publish(id, begun, 0, "refused")
			refused(changes[i], st.Err)
		}
	}
	s.mu.Lock()
	ts := s.status.Types[t]
	ts.Published += done
	s.status.Types[t] = ts
	s.mu.Unlock()
	if err != nil && ctx.Err() == nil {
		return &degraded{classBroker, err.Error()}
	}
	return err
}

// relearn reads the end of an object's history. Where somebody else's message
// stands there, the object counts as not published, so that its state is published
// anew above it.
func (s *source) relearn(ctx context.Context, key schemas.Key, id schemas.ID) error {
	last, err := s.cfg.Broker.LastEvent(ctx, key)
	if errors.Is(err, broker.ErrNotFound) {
		// The history is gone, the newest state may not be: a store that went backwards.
		k := &known{spoiled: true}
		if old := s.base[key.Type][id]; old != nil {
			k.version, k.digest = old.version, old.digest
		}
		s.base[key.Type][id] = k
		return nil
	}
	if err != nil {
		return err
	}
	s.base[key.Type][id] = &known{version: last.Head.Version, digest: last.Head.Digest, seq: last.Seq, spoiled: last.Spoiled, foreign: true}
	return nil
}

// pollType lists a type, and where objects are missing lists it again at once. It
// returns the ids that both complete listings lack (G4).
func (s *source) pollType(ctx context.Context, t schemas.Type) ([]schemas.ID, error) {
	missing := func(seen map[schemas.ID]bool, among map[schemas.ID]bool) map[schemas.ID]bool {
		out := map[schemas.ID]bool{}
		for id, k := range s.base[t] {
			if k.digest != "" && !seen[id] && (among == nil || among[id]) {
				out[id] = true
			}
		}
		return out
	}
	seen, err := s.list(ctx, t)
	if err != nil {
		return nil, err
	}
	gone := missing(seen, nil)
	if len(gone) > 0 {
		if seen, err = s.list(ctx, t); err != nil {
			return nil, err
		}
		gone = missing(seen, gone)
	}
	for id := range s.ignored[t] {
		if !seen[id] {
			delete(s.ignored[t], id)
		}
	}
	if t == schemas.Job {
		for id := range s.ev.moments {
			if !seen[id] && s.base[t][id].last() == "" {
				delete(s.ev.moments, id)
			}
		}
	}
	return slices.Sorted(maps.Keys(gone)), nil
}

// freshEvidence is how old the second listing that lacks an object may be when its
// deletion is published: the listings of other types may have taken long since.
const freshEvidence = 5 * time.Second

// stillGone lists a type once more and returns which of the ids it lacks still.
func (s *source) stillGone(ctx context.Context, t schemas.Type, ids []schemas.ID) ([]schemas.ID, error) {
	s.view = visualcron.View{Secrets: s.modes[t], Values: s.values, Digest: s.cfg.Broker.Keys.Digest}
	seen, err := s.list(ctx, t)
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(ids, func(id schemas.ID) bool { return seen[id] }), nil
}
