package consumer

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/vcsync/vcsync/broker"
	"github.com/vcsync/vcsync/consumer/decide"
	"github.com/vcsync/vcsync/schemas"
	"github.com/vcsync/vcsync/visualcron"
)

// waits knows which objects of a target wait for which others to be brought there.
type waits struct {
	mu sync.Mutex
	// on holds what an object waits for, by the object that waits.
	on map[objectKey][]objectKey
}

// set notes what an object waits for, leaving out those that wait for the object
// itself, directly or through others: VisualCron's references are soft, and in a
// cycle somebody has to go first. It returns what is left.
func (w *waits) set(key objectKey, parents []objectKey) []objectKey {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.on == nil {
		w.on = map[objectKey][]objectKey{}
	}
	parents = slices.DeleteFunc(slices.Clone(parents), func(p objectKey) bool { return w.reaches(p, key, map[objectKey]bool{}) })
	if len(parents) == 0 {
		delete(w.on, key)
	} else {
		w.on[key] = parents
	}
	return parents
}

// reaches tells whether from waits for to. The lock is held.
func (w *waits) reaches(from, to objectKey, seen map[objectKey]bool) bool {
	if from == to {
		return true
	}
	if seen[from] {
		return false
	}
	seen[from] = true
	return slices.ContainsFunc(w.on[from], func(p objectKey) bool { return w.reaches(p, to, seen) })
}

// settled notes that an object has been dealt with, and returns those that waited
// for it and now for nothing more.
func (w *waits) settled(key objectKey) []objectKey {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.on, key)
	var out []objectKey
	for child, parents := range w.on {
		i := slices.Index(parents, key)
		if i < 0 {
			continue
		}
		if parents = slices.Delete(parents, i, i+1); len(parents) == 0 {
			delete(w.on, child)
			out = append(out, child)
		} else {
			w.on[child] = parents
		}
	}
	return out
}

// errWait says that an object refers to others that vcsync is still to bring to the
// target.
type errWait struct {
	names []string
}

func (e *errWait) Error() string {
	const most = 5
	names := e.names
	more := ""
	if len(names) > most {
		names, more = names[:most], fmt.Sprintf(" and %d more", len(e.names)-most)
	}
	return "waits for " + strings.Join(names, ", ") + more + ", which it refers to and which is not at the target yet"
}

// missing returns an errWait where the object refers to others that exist at the
// source, that a sync setting is to bring to this target, and that are not there
// yet. What no setting brings is not waited for, nor what one only reports: which objects
// are synced is what the settings say. Nor is what dangles at the source too; while the
// source is still to be listed for a setting, nobody knows what does. References are by
// the ids at the target.
func (l *look) missing(ctx context.Context, v *view, refs []visualcron.Reference) error {
	var parents []objectKey
	names := map[objectKey]string{}
	for _, r := range refs {
		key := objectKey{r.Type, r.ID}
		if r.Task {
			continue // which job has the task only its body tells
		}
		if e, ok := l.ledger.Get(r.Type, r.ID); ok && owned(e) {
			continue
		}
		also := l.run
		if also != nil && !l.isWished(key) {
			also = nil // its plan does not bring it
		}
		from, ok := v.origin(l.event.Source, r.Type, r.ID, also)
		if !ok {
			continue
		}
		unlisted := v.awaits(l.event.Source, r.Type, from, l.grant != nil && also == nil)
		if !unlisted && !v.mayTake(l.event.Source, r.Type, from, also) {
			continue
		}
		ev, _, err := l.cfg.Broker.NewestOf(ctx, schemas.Key{Source: l.event.Source, Type: r.Type, Token: from.Token()})
		switch {
		case err == nil:
		case errors.Is(err, broker.ErrNotFound), errors.Is(err, schemas.ErrEvent):
			ev = schemas.Event{Source: l.event.Source, Kind: schemas.Deleted}
		default:
			return err
		}
		switch mode, brought := v.terms(l.event.Source, r.Type, ev.Selected(), also).bringing(); {
		case slices.Contains(ev.Path(), l.server.ID):
			continue
		case brought && ev.Kind != schemas.Deleted && l.grant != nil && also == nil && mode != schemas.Automatic:
			continue // a person approved it without what it refers to; the plan said so
		case brought && ev.Kind != schemas.Deleted:
			unlisted = false
		case !unlisted:
			continue
		}
		req, cancel := l.deadline(ctx)
		_, err = l.conn.Get(req, r.Type, r.ID)
		cancel()
		if err == nil || visualcron.ClassOf(err) == visualcron.Changed { // it is there
			continue // its own look has not come to it yet, or leaves it as it is
		}
		if visualcron.ClassOf(err) != visualcron.NotFound {
			return l.leaseFault(ctx, req, err)
		}
		name := fmt.Sprintf("%s %q", r.Type, cmp.Or(ev.Object.Name, string(r.ID)))
		if unlisted {
			name += " (waits for a listing of " + string(l.event.Source) + ")"
		}
		if why, left := l.session.leftAlone(key, ev.Source, ev.Object.ID, ev.Version); left && why.Act == decide.Hold {
			name += " (held: " + string(why.Reason) + ")"
		}
		if p, ok := l.parked.get(r.Type, r.ID.Token()); ok && p.IsOf(ev.Source, ev.Object.ID) && p.Version == ev.Version {
			if p.Discarded != "" {
				continue // a person has decided to go without it
			}
			name += " (parked: " + p.Class + ")"
		}
		parents = append(parents, key)
		names[key] = name
	}
	parents = l.waits.set(l.key, parents)
	if len(parents) == 0 {
		return nil
	}
	e := &errWait{}
	for _, p := range parents {
		e.names = append(e.names, names[p])
	}
	return e
}

// lacksSecret tells whether one of the objects referred to, or one that these refer
// to, was written without a secret that it needs. Other jobs do not count: each has
// its own flag.
func (l *look) lacksSecret(ctx context.Context, v *view, refs []visualcron.Reference) (bool, error) {
	seen := map[objectKey]bool{}
	for len(refs) > 0 {
		r := refs[0]
		refs = refs[1:]
		key := objectKey{r.Type, r.ID}
		if visualcron.HasActive(r.Type) || seen[key] {
			continue
		}
		seen[key] = true
		e, ok := l.ledger.Get(r.Type, r.ID)
		switch {
		case !ok || e.State == broker.Removed:
			continue
		case len(e.Needs) > 0 && !l.isSaidToBeThere(r.Type, r.ID):
			return true, nil
		}
		ev, _, err := l.cfg.Broker.NewestOf(ctx, schemas.Key{Source: e.Source, Type: r.Type, Token: e.From().Token()})
		switch {
		case errors.Is(err, broker.ErrNotFound), errors.Is(err, schemas.ErrEvent), err == nil && ev.Kind == schemas.Deleted:
			continue
		case err != nil:
			return false, err
		}
		own, _ := v.ownOf(e.Source, r.Type, e.From(), l.run)
		more, err := references(r.Type, ev.Object.Body, own)
		if err != nil {
			continue // it is parked itself because of that
		}
		refs = append(refs, more...)
	}
	return false, nil
}

// isSaidToBeThere tells whether a person has discarded the flag of an object that
// lacks a secret: where the target does not tell, nobody else can know.
func (s *session) isSaidToBeThere(t schemas.Type, id schemas.ID) bool {
	p, ok := s.parked.get(t, id.Token())
	return ok && p.Class == classSecret && p.Discarded != ""
}

// dealtWith looks again at what waited for an object that has been dealt with.
func (s *session) dealtWith(key objectKey) {
	for _, child := range s.waits.settled(key) {
		s.lanes.wakeUp(child)
	}
}

// onSecret looks again at what was left inactive for want of a secret.
func (s *session) onSecret() {
	for _, p := range s.parked.all() {
		if p.Class == classSecret && p.Discarded == "" {
			s.onParked(p)
		}
	}
}
