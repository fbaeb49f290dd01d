package producer

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/vcsync/vcsync/broker"
	"github.com/vcsync/vcsync/schemas"
	"github.com/vcsync/vcsync/visualcron"
)

// Classes of reasons for which deletions wait at a source.
const (
	// HeldTooMany: more objects are gone at once than the server's measure allows.
	HeldTooMany = "too many"
	// HeldAccount: the account is another than the one that saw the objects last, or its
	// rights are others.
	HeldAccount = "account"
	// HeldRestored: the server looks restored from an older state.
	HeldRestored = "restored"
)

const (
	// turnsMost bounds the changes that are remembered as possible signs of a restore,
	// and turnsLooked how many of them are looked up in the history.
	turnsMost   = 500
	turnsLooked = 50
	// ranKept is how many of the jobs that ran last are on record, and ranEvery how often
	// that record is written at most.
	ranKept  = 8
	ranEvery = time.Hour
)

// turn is a change that may be a sign that the server was restored from an older state.
type turn struct {
	t      schemas.Type
	id     schemas.ID
	digest schemas.Digest
	before uint64 // sequence of the event that it would replace
	at     time.Time
	// back tells that the server's own dates went back, which needs no further proof.
	back bool
}

// evidence is what speaks for and against the absence of objects. It belongs to the
// goroutine of run.
type evidence struct {
	// info is what the server said of itself when the running poll began.
	info visualcron.Info
	// locks holds what waits, by type, as it was last read or written.
	locks map[schemas.Type]broker.Airlock
	// record is what the listings before rested on, stored whether the broker has it.
	record broker.SourceEvidence
	stored bool
	ranAt  time.Time // when record.Ran was last taken anew
	// moments are those of the jobs; edited is the latest edit that the server told of
	// before the running poll, and editing that of the running one.
	moments         map[schemas.ID]visualcron.Moments
	edited, editing time.Time
	// turns are from the last two polls of all types; full is when these began.
	turns []turn
	full  [2]time.Time
}

// loadEvidence reads back what waits, and what earlier listings rested on.
func (s *source) loadEvidence(ctx context.Context) error {
	s.ev = evidence{locks: map[schemas.Type]broker.Airlock{}, moments: map[schemas.ID]visualcron.Moments{}, stored: true, ranAt: time.Now()}
	locks, err := s.cfg.Broker.Airlocks(ctx, s.server.ID)
	if err != nil {
		return err
	}
	for _, a := range locks {
		s.ev.locks[a.Type] = a
	}
	s.ev.record, err = s.cfg.Broker.SourceEvidence(ctx, s.server.ID)
	if errors.Is(err, broker.ErrRecord) {
		// With whose eyes was it seen before? Nobody can tell.
		s.log.WarnContext(ctx, "what this source's listings rested on cannot be read; deletions wait where any is found", "error", err)
		s.ev.record = broker.SourceEvidence{}
		for _, t := range s.types {
			s.note(t, broker.SeenBy{User: "?"})
		}
		s.ev.stored = true
		err = nil
	}
	if slices.Contains(s.types, schemas.Job) {
		for id, at := range s.ev.record.Ran {
			s.ev.moments[id] = visualcron.Moments{Ran: at, Local: s.ev.record.Local}
		}
	}
	return err
}

// beginPoll notes what the server said of itself, and forgets old signs.
func (s *source) beginPoll(info visualcron.Info, types []schemas.Type) {
	e := &s.ev
	e.info = info
	e.edited = later(e.edited, e.editing)
	if len(types) == len(s.types) {
		e.full[0], e.full[1] = e.full[1], time.Now()
	}
	e.turns = slices.DeleteFunc(e.turns, func(x turn) bool { return x.at.Before(e.full[0]) })
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// unchanged looks at what a body tells of the past of an object whose configuration is
// as it was: a job that seems never to have run any more was not edited, it is an older
// one.
func (s *source) unchanged(t schemas.Type, id schemas.ID, now visualcron.Moments) {
	if s.ev.moments[id].Back(now) {
		s.turned(turn{t: t, id: id, back: true})
	}
	s.sawMoments(t, id, now)
}

// changed notes a change that may be the way back to an older state. One that the server
// dates later than all that it said before was made since.
func (s *source) changed(t schemas.Type, id schemas.ID, digest schemas.Digest, before uint64, now visualcron.Moments) {
	if e := &s.ev; now.Edited.IsZero() || e.edited.IsZero() || !now.Edited.After(e.edited) {
		s.turned(turn{t: t, id: id, digest: digest, before: before})
	}
	s.sawMoments(t, id, now)
}

func (s *source) sawMoments(t schemas.Type, id schemas.ID, now visualcron.Moments) {
	if t != schemas.Job {
		return
	}
	s.ev.editing = later(s.ev.editing, now.Edited)
	if now != s.ev.moments[id] {
		s.ev.moments[id] = now
	}
}

func (s *source) turned(x turn) {
	x.at = time.Now()
	if len(s.ev.turns) >= turnsMost {
		s.ev.turns = slices.Delete(s.ev.turns, 0, 1)
	}
	s.ev.turns = append(s.ev.turns, x)
}

// seenBy returns the account that listings of a server that says so are made with.
func (s *source) seenBy(info visualcron.Info) broker.SeenBy {
	v := broker.SeenBy{User: s.server.User}
	if a := info.Account; a != nil {
		rights := slices.Compact(slices.Sorted(slices.Values(a.Rights)))
		sum := sha256.Sum256([]byte(strings.Join(rights, "\x00")))
		v.Told, v.Name, v.Rights = true, a.Name, hex.EncodeToString(sum[:8])
	}
	return v
}

// note keeps with whose eyes a type was seen whole.
func (s *source) note(t schemas.Type, by broker.SeenBy) {
	if was, ok := s.ev.record.Accounts[t]; ok && was == by {
		return
	}
	s.ev.record.Accounts = maps.Clone(s.ev.record.Accounts)
	if s.ev.record.Accounts == nil {
		s.ev.record.Accounts = map[schemas.Type]broker.SeenBy{}
	}
	s.ev.record.Accounts[t] = by
	s.ev.stored = false
}

// keepEvidence stores what is new of it; what cannot be stored is tried again after the
// next poll.
func (s *source) keepEvidence(ctx context.Context) {
	e := &s.ev
	if time.Since(e.ranAt) >= ranEvery {
		e.ranAt = time.Now()
		ids := slices.Collect(maps.Keys(e.moments))
		slices.SortFunc(ids, func(a, b schemas.ID) int {
			return cmp.Or(e.moments[b].Ran.Compare(e.moments[a].Ran), strings.Compare(string(a), string(b)))
		})
		ran, local := map[schemas.ID]time.Time{}, false
		for _, id := range ids[:min(ranKept, len(ids))] {
			if m := e.moments[id]; !m.Ran.IsZero() {
				ran[id], local = m.Ran.UTC(), local || m.Local
			}
		}
		if len(ran) > 0 && !maps.EqualFunc(ran, e.record.Ran, time.Time.Equal) {
			e.record.Ran, e.record.Local, e.stored = ran, local, false
		}
	}
	if e.stored || !s.lease.Valid() {
		return
	}
	if err := s.cfg.Broker.SetSourceEvidence(ctx, s.server.ID, e.record); err != nil {
		if ctx.Err() == nil {
			s.log.WarnContext(ctx, "what the listings of this source rest on cannot be stored; it is tried again after the next poll", "error", err)
		}
		return
	}
	e.stored = true
}

// doubt says why the absence of objects of a type is not believed however few they are,
// with an empty class where nothing speaks against it.
func (s *source) doubt(ctx context.Context, t schemas.Type) (class, why string, err error) {
	if was, ok := s.ev.record.Accounts[t]; ok {
		switch now := s.seenBy(s.ev.info); {
		case was == now:
		case was.User != now.User:
			return HeldAccount, fmt.Sprintf("the account is %.64q, and the objects were last seen with %.64q: it may be that it does not see them", now.User, was.User), nil
		case was.Name != now.Name && was.Told && now.Told:
			return HeldAccount, fmt.Sprintf("the server calls the account %.64q, and called it %.64q when the objects were last seen: it may be that it does not see them", now.Name, was.Name), nil
		case was.Told != now.Told:
			return HeldAccount, "the server says otherwise than when the objects were last seen whether it knows what the account may: it may be that it does not see them", nil
		default:
			return HeldAccount, "the account has other rights than when the objects were last seen: it may be that it does not see them", nil
		}
	}
	for _, x := range s.ev.turns {
		if x.back {
			return HeldRestored, fmt.Sprintf("%s %.64s was run or edited later than the server says now: it looks restored from an older state", x.t, x.id), nil
		}
	}
	looked := 0
	for _, x := range slices.Backward(s.ev.turns) {
		if looked++; looked > turnsLooked {
			break
		}
		had, err := s.cfg.Broker.HadBefore(ctx, schemas.Key{Source: s.server.ID, Type: x.t, Token: x.id.Token()}, x.digest, x.before)
		if err != nil {
			return "", "", &degraded{classBroker, err.Error()}
		}
		if had {
			return HeldRestored, fmt.Sprintf("%s %.64s is as it once was before: the server looks restored from an older state", x.t, x.id), nil
		}
	}
	return "", "", nil
}

// deleteGone publishes the deletions that can be believed. The others wait for a person:
// more than the server's measure, what somebody else's eyes do not see, and what is gone
// at a server that looks restored. What waits once waits until the source has the object
// again or a person has decided (G4).
func (s *source) deleteGone(ctx context.Context, t schemas.Type, gone []schemas.ID) error {
	if _, waits := s.ev.locks[t]; len(gone) == 0 && !waits {
		s.note(t, s.seenBy(s.ev.info))
		return nil
	}
	b := s.cfg.Broker
	lock, err := b.GetAirlock(ctx, s.server.ID, t)
	switch {
	case errors.Is(err, broker.ErrNotFound):
		lock = broker.Airlock{Source: s.server.ID, Type: t}
	case errors.Is(err, broker.ErrRecord):
		s.setHeld(ctx, t, broker.Airlock{Source: s.server.ID, Type: t, Unlisted: len(gone), Why: "the record of what waits is not understood by this version: use the one that wrote it"})
		return nil
	case err != nil:
		return &degraded{classBroker, err.Error()}
	}
	if len(gone) > 0 {
		wait, cancel := context.WithTimeout(ctx, time.Minute)
		defer cancel()
		if err := b.WaitState(wait); err != nil {
			return &degraded{classBroker, err.Error()}
		}
	}
	next := lock
	next.Objects, next.Decisions, next.Unlisted = nil, slices.Clone(lock.Decisions), 0
	ids := make(map[schemas.Token]schemas.ID, len(gone))
	var approved []broker.AirlockObject
	waiting, rejected, itself, sticky := 0, 0, 0, lock.Unlisted > 0
	for _, id := range gone {
		o := broker.AirlockObject{Token: id.Token(), Version: s.base[t][id].version}
		if i, ok := lock.Find(o.Token); ok && lock.Objects[i].Version == o.Version {
			o = lock.Objects[i]
			d, _ := lock.Of(o)
			switch d.Verdict {
			case broker.Approved:
				approved = append(approved, o)
			case broker.Rejected:
				rejected++
			default:
				sticky = true
				waiting++
			}
		} else {
			// Of very many, only jobs are read: those that delete themselves do not take
			// others with them, and do not count.
			if t == schemas.Job || len(next.Objects) < namedMost {
				if err := s.describe(ctx, t, &o); err != nil {
					return err
				}
			}
			waiting++
		}
		if d, _ := next.Of(o); o.Itself && d.Verdict == "" {
			itself++
		}
		o.ID, ids[o.Token] = id, id
		next.Objects = append(next.Objects, o)
	}
	next.Live = s.live(t) - rejected
	next.Limit = s.server.MeasureOf(t).Of(next.Live) + itself
	hold := false
	if waiting > 0 {
		class, why, err := s.doubt(ctx, t)
		if err != nil {
			return err
		}
		switch {
		case class != "":
			next.Class, next.Why, hold = class, why, true
		case waiting > next.Limit:
			next.Class, next.Why, hold = HeldTooMany, fmt.Sprintf("%d of %d are gone at once, and up to %d are believed", waiting, next.Live, next.Limit), true
		case sticky:
			hold = true // a person saw them as one
		}
	}
	publish := approved
	if !hold && waiting > 0 {
		publish = slices.DeleteFunc(slices.Clone(next.Objects), func(o broker.AirlockObject) bool {
			d, _ := next.Of(o)
			return d.Verdict == broker.Rejected
		})
	}
	if len(publish) > 0 {
		info, err := s.identify(ctx)
		if err != nil {
			return err
		}
		if s.seenBy(info) != s.seenBy(s.ev.info) {
			s.torn[t] = true // who knows with whose eyes it was listed
			s.hint(t)
			return nil
		}
		if err := s.publishGone(ctx, t, publish, ids); err != nil {
			return err
		}
		next.Objects = slices.DeleteFunc(next.Objects, func(o broker.AirlockObject) bool { return s.base[t][ids[o.Token]].digest == "" })
		if !hold { // what could not be published is looked at anew in the next poll
			next.Objects = slices.DeleteFunc(next.Objects, func(o broker.AirlockObject) bool {
				d, _ := next.Of(o)
				return d.Verdict == ""
			})
		}
	}
	if err := s.keepLock(ctx, lock, next); err != nil {
		return err
	}
	if !hold {
		s.note(t, s.seenBy(s.ev.info))
	}
	return nil
}

// namedMost is how many objects are read for their names alone.
const namedMost = 2000

// describe reads what the newest state tells of an object that is gone.
func (s *source) describe(ctx context.Context, t schemas.Type, o *broker.AirlockObject) error {
	key := schemas.Key{Source: s.server.ID, Type: t, Token: o.Token}
	if t == schemas.Job {
		ev, _, err := s.cfg.Broker.NewestOf(ctx, key)
		if err == nil {
			o.Name, o.Group, o.Itself = ev.Object.Name, ev.Object.Group, visualcron.RemovesItself(t, ev.Object.Body)
			return nil
		}
		if !errors.Is(err, broker.ErrNotFound) && !errors.Is(err, schemas.ErrEvent) {
			return &degraded{classBroker, err.Error()}
		}
		return nil
	}
	head, err := s.cfg.Broker.HeadOf(ctx, key)
	if err != nil && !errors.Is(err, broker.ErrNotFound) && !errors.Is(err, schemas.ErrEvent) {
		return &degraded{classBroker, err.Error()}
	}
	if err == nil {
		o.Name, o.Group = head.Name, head.Group
	}
	return nil
}

// publishGone publishes the deletions of objects.
func (s *source) publishGone(ctx context.Context, t schemas.Type, objects []broker.AirlockObject, ids map[schemas.Token]schemas.ID) error {
	defer s.traces.endAll()
	var changes []broker.Change
	for _, o := range objects {
		if o.Name == "" { // beyond what the record has room for
			if err := s.describe(ctx, t, &o); err != nil {
				return err
			}
		}
		id := ids[o.Token]
		k := s.base[t][id]
		e := schemas.Event{Source: s.server.ID, Kind: schemas.Deleted, Version: s.next(k), BaseDigest: k.digest, Time: time.Now(),
			RemovedItself: o.Itself, OriginPath: s.echo.path(t, id, "", k.last()),
			Object: schemas.Object{Type: t, ID: id, Name: o.Name, Group: o.Group}}
		e.Trace = s.traces.begin(ctx, e, e.Time, time.Time{})
		changes = append(changes, broker.Change{Event: e, After: k.seq})
	}
	return s.publish(ctx, t, changes, nil, func(c broker.Change, err error) {
		s.log.ErrorContext(ctx, "a deletion could not be published", "type", t, "id", c.Event.Object.ID, "error", err)
	})
}

// keepLock stores what waits now in place of what was read. Where a person decided
// meanwhile, the poll is made again.
func (s *source) keepLock(ctx context.Context, was, now broker.Airlock) error {
	b, t := s.cfg.Broker, now.Type
	var err error
	if len(now.Objects) == 0 && now.Unlisted == 0 {
		delete(s.ev.locks, t)
		now.Normalize()
		if was.Revision != 0 {
			err = b.DeleteAirlock(ctx, was)
		}
	} else {
		if was.Batch == "" || now.Since.IsZero() {
			now.Since = time.Now().UTC()
		}
		now.Normalize()
		if !sameLock(was, now) {
			now.Revision, err = b.PutAirlock(ctx, now)
		}
		s.ev.locks[t] = now
	}
	s.setHeld(ctx, t, now)
	if errors.Is(err, broker.ErrConflict) {
		s.torn[t] = true
		s.hint(t)
		return nil
	}
	if err != nil {
		return &degraded{classBroker, err.Error()}
	}
	return nil
}

// sameLock tells whether a record says the same already; the numbers that only explain
// may be older.
func sameLock(a, b broker.Airlock) bool {
	return a.Revision != 0 && a.Batch == b.Batch && a.Class == b.Class && a.Unlisted == b.Unlisted && slices.Equal(a.Objects, b.Objects) && len(a.Decisions) == len(b.Decisions)
}

// setHeld shows what waits.
func (s *source) setHeld(ctx context.Context, t schemas.Type, a broker.Airlock) {
	s.mu.Lock()
	ts := s.status.Types[t]
	said := ts.Held
	ts.Held, ts.Rejected, ts.Batch, ts.HeldWhy = a.Count(""), a.Count(broker.Rejected), a.Batch, a.Why
	s.status.Types[t] = ts
	s.mu.Unlock()
	if ts.Held > 0 && said != ts.Held {
		s.log.WarnContext(ctx, "deletions are held: nothing was deleted anywhere. Look at them with: vcsync airlock show "+a.Batch, "type", t, "held", ts.Held, "class", a.Class, "reason", a.Why)
	}
}
