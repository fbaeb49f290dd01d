package consumer

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/vcsync/vcsync/broker"
	"github.com/vcsync/vcsync/consumer/decide"
	"github.com/vcsync/vcsync/schemas"
	"github.com/vcsync/vcsync/visualcron"
)

const (
	// usageFor is how old the index of who refers to whom may be. Each user that it names
	// is read again, and what vcsync itself writes is taken in.
	usageFor = 30 * time.Second
	// usersNamed is how many users of an object are named.
	usersNamed = 8
	// usersAwaited is for how many an object waits at once that are to go before it.
	usersAwaited = 64
)

// usage is an index of what the objects at a target refer to, made when something is to be
// deleted that others may refer to, and used for a burst of deletions.
type usage struct {
	making baton // held while it is made

	mu sync.Mutex
	at time.Time
	by referrers
	// next is the one that is being made; until then the older one is asked.
	next referrers
	// going are the objects whose deletion is being sent, and what others would refer to.
	going map[objectKey][]visualcron.Reference
	// held are the objects that are not deleted because of their users, and these.
	held map[objectKey][]objectKey
}

// referrers are the objects that refer to something.
type referrers map[visualcron.Reference]map[objectKey]bool

// add notes what an object refers to.
func (x referrers) add(key objectKey, refs []visualcron.Reference) {
	for _, r := range refs {
		if x[r] == nil {
			x[r] = map[objectKey]bool{}
		}
		x[r][key] = true
	}
}

// of returns who refers to one of these.
func (x referrers) of(refs []visualcron.Reference, except objectKey) []objectKey {
	all := map[objectKey]bool{}
	for _, r := range refs {
		maps.Copy(all, x[r])
	}
	delete(all, except)
	return slices.SortedFunc(maps.Keys(all), func(a, b objectKey) int { return cmp.Or(cmp.Compare(a.t, b.t), cmp.Compare(a.id, b.id)) })
}

// namesOf returns what others refer to where they refer to an object: to itself, and to a
// job's tasks. The error wraps visualcron.ErrBody.
func namesOf(key objectKey, body []byte) ([]visualcron.Reference, error) {
	refs := []visualcron.Reference{{Type: key.t, ID: key.id}}
	if key.t == schemas.Job {
		tasks, err := visualcron.Tasks(body)
		if err != nil {
			return nil, err
		}
		for _, id := range tasks {
			refs = append(refs, visualcron.Reference{Type: schemas.Job, ID: id, Task: true})
		}
	}
	return refs, nil
}

// of returns who refers to one of these.
func (u *usage) of(refs []visualcron.Reference, except objectKey) []objectKey {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.by.of(refs, except)
}

// claim notes that the deletion of an object is sent now, until yield. It returns false
// where others may refer to it by now than were asked.
func (u *usage) claim(key objectKey, refs []visualcron.Reference, asked []objectKey, isWritten func(objectKey) bool) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	if slices.ContainsFunc(u.by.of(refs, key), func(user objectKey) bool { return !slices.Contains(asked, user) || isWritten(user) }) {
		return false
	}
	if u.going == nil {
		u.going = map[objectKey][]visualcron.Reference{}
	}
	u.going[key] = refs
	return true
}

// yield ends what claim began.
func (u *usage) yield(key objectKey) {
	u.mu.Lock()
	defer u.mu.Unlock()
	delete(u.going, key)
}

// isGoing tells whether the deletion of something that is referred to is being sent.
func (u *usage) isGoing(refs []visualcron.Reference) (objectKey, bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	for key, names := range u.going {
		if slices.ContainsFunc(refs, func(r visualcron.Reference) bool { return slices.Contains(names, r) }) {
			return key, true
		}
	}
	return objectKey{}, false
}

// wrote takes in what an object refers to that is written now.
func (u *usage) wrote(key objectKey, refs []visualcron.Reference) {
	u.mu.Lock()
	defer u.mu.Unlock()
	for _, by := range []referrers{u.by, u.next} {
		if by != nil { // else it is to be made
			by.add(key, refs)
		}
	}
}

// keep notes which users keep an object from being deleted; none to forget that.
func (u *usage) keep(key objectKey, users []objectKey) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if len(users) == 0 {
		delete(u.held, key)
		return
	}
	if u.held == nil {
		u.held = map[objectKey][]objectKey{}
	}
	u.held[key] = users
}

// heldBy returns the objects that one keeps from being deleted.
func (u *usage) heldBy(user objectKey) (out []objectKey) {
	u.mu.Lock()
	defer u.mu.Unlock()
	for key, users := range u.held {
		if slices.Contains(users, user) {
			out = append(out, key)
		}
	}
	return out
}

// freshUsage makes the index where it is older than that. Each object is read in a listing of its
// type; what the target cannot list refers to nothing.
func (s *session) freshUsage(ctx context.Context, oldest time.Duration) error {
	done, err := s.usage.making.take(ctx)
	if err != nil {
		return err
	}
	defer done()
	s.usage.mu.Lock()
	fresh := s.usage.by != nil && time.Since(s.usage.at) < oldest
	if !fresh { // what is written from now on is taken in
		s.usage.next = referrers{}
	}
	s.usage.mu.Unlock()
	if fresh {
		return nil
	}
	began := time.Now()
	err = s.indexUsers(ctx)
	s.usage.mu.Lock()
	defer s.usage.mu.Unlock()
	if err == nil {
		s.usage.by, s.usage.at = s.usage.next, began
	}
	s.usage.next = nil
	return err
}

func (s *session) indexUsers(ctx context.Context) error {
	for _, t := range schemas.Types() {
		if can, asked := s.capability(t); !visualcron.Supported(t) || asked && !can.List {
			continue
		}
		// A listing of many takes longer than one request may; it only reads.
		complete, err := s.conn.List(ctx, t, func(r visualcron.Row) error {
			refs, err := visualcron.References(t, r.Body)
			if err != nil {
				return nil // nobody can tell; the live path says it of what is ours
			}
			s.usage.wrote(objectKey{t, r.ID}, refs)
			return nil
		})
		if err != nil {
			return err
		}
		if !complete.IsComplete() || complete.Type() != t {
			return &visualcron.Error{Class: visualcron.BadAnswer, Op: "list", Server: s.server.ID, Type: t, Detail: "the listing is not proven to be complete"}
		}
	}
	return nil
}

// errUsers says that an object is deleted once those that refer to it are.
type errUsers struct{ users []objectKey }

func (e *errUsers) Error() string {
	return fmt.Sprintf("is deleted after %d others that refer to it", len(e.users))
}

// isInUse tells whether objects at the target refer to the look's, and names them. One
// that is about to be deleted itself does not count: the look waits for it, as long as that
// is under way. Nor do those that a person has seen who let the deletion through.
func (l *look) isInUse(ctx context.Context, v *view, have []byte) (bool, error) {
	going, err := l.findUsers(ctx, v, have)
	if err != nil {
		return false, err
	}
	unseen := func(key objectKey) bool {
		return l.grant == nil || l.run.run.Scope.Airlock == "" || !slices.Contains(l.grant.entry.UsedBy, broker.RunObject{Type: key.t, ID: key.id})
	}
	if slices.ContainsFunc(l.keeping, unseen) {
		l.using = slices.Concat(l.keeping, going)
		return true, nil
	}
	if l.shown != nil {
		l.after = going
		return false, nil
	}
	// In a cycle somebody goes first.
	if going = l.waits.set(l.key, going); len(going) > 0 {
		return false, &errUsers{going}
	}
	return false, nil
}

// findUsers finds out which objects at the target refer to the look's: keeping are those
// that stay, of which the first are named, going those that are about to be deleted.
func (l *look) findUsers(ctx context.Context, v *view, have []byte) (going []objectKey, err error) {
	l.keeping, l.usedBy = nil, ""
	if !visualcron.IsReferable(l.key.t) {
		return nil, nil
	}
	refs, err := namesOf(l.key, have)
	if err != nil {
		return nil, err
	}
	oldest := usageFor
	if l.shown != nil { // a survey has made it before it began to list
		oldest = time.Hour
	}
	if err := l.freshUsage(ctx, oldest); err != nil {
		return nil, err
	}
	var keeping []objectKey
	var names []string
	candidates := l.usage.of(refs, l.key)
	l.names, l.asked = refs, candidates
	more := 0
	for i, key := range candidates {
		if l.shown == nil && l.waited <= usersPatience && l.lanes.isWorked(key) {
			going = append(going, key) // a write of it may be on its way
			continue
		}
		if len(keeping) == usersNamed || len(going) == usersAwaited {
			more = len(candidates) - i
			break
		}
		name, uses, err := l.reads(ctx, key, refs)
		if err != nil {
			return nil, err
		}
		if !uses {
			continue
		}
		goes, err := l.isToGo(ctx, v, key)
		if err != nil {
			return nil, err
		}
		if goes {
			going = append(going, key)
			continue
		}
		keeping = append(keeping, key)
		names = append(names, fmt.Sprintf("%s %s %q", key.t, key.id, name))
	}
	if len(keeping) > 0 {
		if l.usedBy = strings.Join(names, ", "); more > 0 {
			l.usedBy += fmt.Sprintf(", and perhaps %d more", more)
		}
	}
	l.keeping = keeping
	return going, nil
}

// reads reads an object again, and tells whether it refers to one of these.
func (l *look) reads(ctx context.Context, key objectKey, refs []visualcron.Reference) (name string, uses bool, err error) {
	if l.shown == nil {
		if err := l.waitLanded(ctx, key); err != nil {
			return "", false, err
		}
	}
	req, cancel := l.deadline(ctx)
	defer cancel()
	body, err := l.conn.Get(req, key.t, key.id)
	switch {
	case visualcron.ClassOf(err) == visualcron.NotFound:
		return "", false, nil
	case visualcron.ClassOf(err) == visualcron.Changed:
		return "", true, nil // it is there
	case err != nil:
		return "", false, l.leaseFault(ctx, req, err)
	}
	now, err := visualcron.References(key.t, body)
	if err != nil {
		return "", true, nil // it referred to it a moment ago, and nobody can tell now
	}
	if n, err := (visualcron.View{Digest: l.cfg.Broker.Keys.Digest}).Normalize(key.t, body); err == nil {
		name = n.Name
	}
	return name, slices.ContainsFunc(now, func(r visualcron.Reference) bool { return slices.Contains(refs, r) }), nil
}

// isToGo tells whether an object at the target is itself to be deleted by the same
// settings, before the look's. One whose deletion is held or parked is not; nor, but in a
// plan, is one of which that is not under way. Of a run that a person approved, what it is
// to delete goes.
func (l *look) isToGo(ctx context.Context, v *view, key objectKey) (bool, error) {
	if l.grant != nil && l.isWishedAway(key) {
		return l.waited <= usersPatience && l.lanes.isUnderWay(key), nil
	}
	if l.acts {
		return false, nil
	}
	e, ok := l.ledger.Get(key.t, key.id)
	if !ok || !owned(e) {
		return false, nil
	}
	ev, err := l.cfg.Broker.HeadOf(ctx, schemas.Key{Source: e.Source, Type: key.t, Token: e.From().Token()})
	switch {
	case errors.Is(err, broker.ErrNotFound), errors.Is(err, schemas.ErrEvent):
		return false, nil
	case err != nil:
		return false, err
	}
	if ev.Kind != schemas.Deleted || e.Held == ev.Version || v.isRejected(eventOf(ev.Head)) {
		return false, nil
	}
	if _, may := v.deleter(v.terms(e.Source, key.t, ev.Selected(), l.run), l.run); !may {
		return false, nil
	}
	if l.shown != nil {
		return true, nil
	}
	if _, left := l.session.leftAlone(key, e.Source, e.From(), ev.Version); left || l.waited > usersPatience {
		return false, nil
	}
	return l.lanes.isUnderWay(key), nil
}

// isWishedAway tells whether the run that the look is for is to delete an object, too.
func (l *look) isWishedAway(key objectKey) bool {
	l.session.mu.Lock()
	defer l.session.mu.Unlock()
	return slices.ContainsFunc(l.wishes[key], func(w *wish) bool { return w.run == l.grant.run && w.entry.Act == string(decide.Delete) })
}

// usersPatience is how long an object waits in its lane for the deletion of those that
// refer to it; then it is held, and looked at again when they are gone.
const usersPatience = time.Minute

// mayGo tells whether nobody refers to the object by now but who was asked. Where it may,
// nobody begins to until done is called.
func (l *look) mayGo() (done func(), ok bool) {
	if len(l.names) == 0 {
		return func() {}, true
	}
	if !l.usage.claim(l.key, l.names, l.asked, func(user objectKey) bool { return l.waited <= usersPatience && l.lanes.isWorked(user) }) {
		return func() {}, false
	}
	return func() { l.usage.yield(l.key) }, true
}

// mayRefer takes in what the object refers to that is sent now, unless the deletion of some
// of it is being sent: then it returns an errWait.
func (l *look) mayRefer(body []byte) error {
	refs, err := visualcron.References(l.key.t, body)
	if err != nil {
		return nil
	}
	l.usage.wrote(l.key, refs)
	if key, ok := l.usage.isGoing(refs); ok {
		return &errWait{[]string{fmt.Sprintf("%s %s (which is being deleted)", key.t, key.id)}}
	}
	return nil
}

// usersOf looks again at what an object kept from being deleted, when that was deleted or
// changed.
func (s *session) usersOf(key objectKey) {
	for _, held := range s.usage.heldBy(key) {
		s.lanes.look(held, nil, nil, false)
	}
}
