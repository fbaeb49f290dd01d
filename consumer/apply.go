package consumer

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/vcsync/vcsync/broker"
	"github.com/vcsync/vcsync/consumer/decide"
	"github.com/vcsync/vcsync/schemas"
	"github.com/vcsync/vcsync/visualcron"
)

// apply makes the target hold the object's newest state, as far as the settings
// take it. It returns nil when that is so and on record, or when there is nothing
// to do.
func (l *look) apply(ctx context.Context) error {
	// Whatever comes of this look, it is the try that was asked for until now.
	l.hand, _ = l.parked.get(l.key.t, l.key.id.Token())
	for {
		if err := l.soft.Err(); err != nil {
			return err // nothing new begins
		}
		v, _ := l.current()
		l.session.mu.Lock()
		delete(l.passedBy, l.key) // found out anew
		l.session.mu.Unlock()
		l.usage.keep(l.key, nil)
		l.take(v)
		if l.grant != nil && l.run.run.Server != "" {
			if err := l.applyAct(ctx, v); err != nil {
				return err
			}
			continue // what the settings take of it is looked at as ever
		}
		ev, tm, err := l.choose(ctx, v)
		if err != nil {
			return err
		}
		if l.grant != nil && !l.grant.fits(ev) {
			l.refuse(broker.OutcomeSource, "") // G14
			continue
		}
		if ev == nil { // no setting takes it from anybody, so nothing waits here either
			return l.unpark(ctx)
		}
		l.event = *ev
		stale, err := l.applyUnder(ctx, v, tm)
		if visualcron.ClassOf(err) == visualcron.Changed {
			_ = l.probe(ctx) // the next try knows; what fails here fails there too
		}
		if err != nil || !stale {
			return err
		}
		// G13: other settings are in force than those the plan was made under, or the
		// gate was shut so long that the object may have a newer state.
	}
}

// choose finds the event that the object has to follow: the newest of the source
// that owns it here, or of the only source that has it. Nil where no setting takes
// the object, or where there is nothing newer than what is on record.
func (l *look) choose(ctx context.Context, v *view) (*schemas.Event, terms, error) {
	var all, back []candidate
	l.cameFromHere = false
	for _, src := range v.sources(l.run) {
		from, ok := v.origin(src, l.key.t, l.key.id, l.run)
		if !ok { // its object of this id is at home under another
			continue
		}
		if !v.mayTake(src, l.key.t, from, l.run) {
			continue
		}
		ev, newest, err := l.cfg.Broker.NewestWith(ctx, schemas.Key{Source: src, Type: l.key.t, Token: from.Token()},
			func(size int) error { return l.room(ctx, size) })
		if errors.Is(err, broker.ErrNotFound) {
			continue
		}
		if err != nil {
			l.event = schemas.Event{Source: src, Object: schemas.Object{Type: l.key.t, ID: from}}
			l.setting = v.taker(src, l.key.t, from)
			return nil, terms{}, err
		}
		l.traced.sawEvent(src, newest.EventSeq)
		tm := v.terms(src, l.key.t, ev.Selected(), l.run)
		if !tm.rights.Use() {
			if l.shown == nil {
				l.leftAlone(ctx, ev)
			}
			continue
		}
		if slices.Contains(ev.Path(), l.server.ID) {
			if tm.edits != schemas.OverwriteEdits && l.shown == nil {
				back = append(back, candidate{ev, tm})
			}
			continue // G8: it came from here
		}
		all = append(all, candidate{ev, tm})
	}
	if len(all) == 0 && len(back) == 1 { // where edits count, it is to be known that this one was taken over
		l.cameFromHere, l.setting = true, back[0].terms.setting
		return &back[0].event, back[0].terms, nil
	}
	if len(all) == 0 {
		return nil, terms{}, nil
	}
	entry, known := l.ledger.Get(l.key.t, l.key.id)
	c, err := v.pick(l.key, l.run, all, entry, known)
	if l.setting = c.terms.setting; err != nil {
		l.event = c.event
		return nil, c.terms, err
	}
	return &c.event, c.terms, nil
}

// candidate is the newest state of an object at one source, and what the settings take of
// it.
type candidate struct {
	event schemas.Event
	terms terms
}

// pick returns the candidate that the object has to follow, or the one that is in conflict
// with it, with a parkError. There must be at least one.
func (v *view) pick(key objectKey, also *running, all []candidate, entry broker.Entry, known bool) (candidate, error) {
	var owner schemas.Slug
	if from, ok := v.origin(entry.Source, key.t, key.id, also); known && entry.State != broker.Removed && ok && from == entry.From() {
		owner = entry.Source
	}
	var states []decide.Candidate
	for _, c := range all {
		states = append(states, decide.Candidate{Source: c.event.Source, Deleted: c.event.Kind == schemas.Deleted, Digest: c.event.Digest})
	}
	best, rival := decide.Choose(states, owner, entry.Digest)
	if rival >= 0 {
		c := all[rival]
		reason := fmt.Sprintf("%s and %s both have this object, and not the same", all[best].event.Source, c.event.Source)
		if states[best].Deleted {
			reason = fmt.Sprintf("%s, from which it came, has deleted this object, and %s has another of the same id", all[best].event.Source, c.event.Source)
		}
		return c, &parkError{classConflict, reason, decide.Conflict.Fix()}
	}
	c := all[best]
	for i, more := range all { // all that have it have the same
		if i != best && !states[i].Deleted {
			mine, theirs := v.ownName(c.event.Source, key.t, c.event.Object.ID, also), v.ownName(more.event.Source, key.t, more.event.Object.ID, also)
			c.terms.join(more.terms, mine == theirs)
		}
	}
	return c, nil
}

// applyUnder does it under one view of the settings. It returns true where that
// has to begin anew: the settings changed before anything was sent, or the gate was
// shut meanwhile.
func (l *look) applyUnder(ctx context.Context, v *view, tm terms) (stale bool, err error) {
	entry, known := l.ledger.Get(l.key.t, l.key.id)
	sit := l.situation(entry, known, v, tm)
	d := l.decide(sit, tm)
	switch {
	case d.Act != decide.Look && l.shown == nil:
		return l.leave(ctx, v, d, sit)
	case sit.Source == decide.Deleted:
		return l.remove(ctx, v, entry, tm, sit)
	}
	return l.write(ctx, v, entry, known, tm, sit)
}

// leftAlone says that an object that vcsync brought here is taken no more, because its
// source calls it otherwise now, or had when it was deleted there.
func (l *look) leftAlone(ctx context.Context, ev schemas.Event) {
	e, known := l.ledger.Get(l.key.t, l.key.id)
	if !known || !owned(e) || e.Source != ev.Source || e.Version.Compare(ev.Version) >= 0 {
		return
	}
	l.log.InfoContext(ctx, "an object is left alone as it is at the target: by its name and group at the source no sync setting takes it any more",
		"source", ev.Source, "type", l.key.t, "id", l.key.id, "name", ev.Object.Name, "group", ev.Object.Group, "version", ev.Version)
}

// situation is what is known of the object before the target is asked.
func (l *look) situation(entry broker.Entry, known bool, v *view, tm terms) decide.Situation {
	ev := l.event
	release, _ := l.release()
	s := decide.Situation{Occasion: l.occasion, Approved: l.grant != nil, SafeMode: v.safe, Rights: tm.rights, Mode: tm.mode, Drift: tm.drift(), TargetEdits: tm.edits,
		OtherVersions: !tm.crosses && v.otherRelease(ev.Source, release), Source: decide.Present, CameFromHere: l.cameFromHere, RemovedItself: ev.RemovedItself, Record: recordOf(entry, known),
		Ours: known && isOf(entry, ev.Source, ev.Object.ID), MayHaveRun: entry.Open, Asked: l.isAsked(),
		Unfinished: v.unfinished(entry, ev.Object.ID, tm, l.run)}
	if ev.Kind == schemas.Deleted {
		s.Source = decide.Deleted
	}
	if known && entry.From() != ev.Object.ID { // what was brought here is another object
		s.Record, s.MayHaveRun = decide.NoRecord, false
	}
	if s.Ours {
		s.Age = map[int]decide.Age{-1: decide.Older, 0: decide.Same, 1: decide.Newer}[entry.Version.Compare(ev.Version)]
	}
	if p, ok := l.parked.get(l.key.t, l.key.id.Token()); ok && p.IsOf(ev.Source, ev.Object.ID) && p.Version == ev.Version && p.RetryAsked <= p.RetryDone {
		due := !p.NextTry.IsZero() && !time.Now().Before(p.NextTry)
		switch {
		case p.Discarded != "":
			s.Parked = decide.Discarded
		case !due && !l.retryParked:
			s.Parked = decide.Waits
		}
	}
	if l.isPaused() {
		s.Parked = decide.Paused
	}
	return s
}

// sureOf decides again with the release that the target has now, where a write depends on
// that and it was asked for too long ago.
func (l *look) sureOf(ctx context.Context, d decide.Decision, sit *decide.Situation, v *view, tm terms) (decide.Decision, error) {
	before, at := l.release()
	if !d.Act.Writes() || tm.crosses || l.shown != nil || before == "" || time.Since(at) < releaseFor {
		return d, nil
	}
	req, cancel := l.deadline(ctx)
	defer cancel()
	if err := l.probe(req); err != nil {
		return d, l.leaseFault(ctx, req, err)
	}
	now, _ := l.release()
	if now == before {
		return d, nil
	}
	sit.OtherVersions = v.otherRelease(l.event.Source, now)
	return l.decide(*sit, tm), nil
}

// left returns the digest of a body at the target as broker.Entry.Left holds it: n is
// its normal form with all that can count, and e is what is on record or to be.
func (l *look) left(body []byte, n visualcron.Normal, e broker.Entry, secrets visualcron.SecretMode) (schemas.Digest, error) {
	if body == nil {
		return broker.Absent, nil
	}
	if l.key.t == schemas.Variable && !e.Values || len(e.LeftKept) > 0 {
		var err error
		if n, err = (visualcron.View{Secrets: secrets, Values: e.Values || l.key.t != schemas.Variable, Digest: l.cfg.Broker.Keys.Digest, Kept: e.LeftKept}).Normalize(l.key.t, body); err != nil {
			return "", err
		}
	}
	return n.Left(l.key.t, e.Policy == schemas.Follow), nil
}

// unfinished tells whether a version on record was dealt with under other terms, or is to
// be completed.
func (v *view) unfinished(e broker.Entry, from schemas.ID, tm terms, also *running) bool {
	return e.Own != v.ownName(e.Source, e.Type, from, also) || e.Policy != tm.policy || tm.values && !e.Values || len(e.Needs) > 0 || e.Waits
}

// recordOf says how far vcsync and the object have come.
func recordOf(e broker.Entry, known bool) decide.Record {
	switch {
	case !known:
		return decide.NoRecord
	case e.State == broker.Removed:
		return decide.Removed
	case e.State == broker.Intent && e.Ours && e.Again:
		return decide.Brought // what else was begun, this version is on record
	case e.State == broker.Intent && e.Ours:
		return decide.BegunAgain
	case e.State == broker.Intent:
		return decide.Begun
	}
	return decide.Brought
}

// leave does what a decision asks for that writes nothing to the target. It returns
// true where that has to be decided anew, because other settings are in force: what is
// held is looked at again when they change, and that may have been a moment ago.
func (l *look) leave(ctx context.Context, v *view, d decide.Decision, s decide.Situation) (stale bool, err error) {
	switch {
	case d.Act == decide.Park:
		return false, &parkError{string(d.Reason), l.whyOf(d), d.Reason.Fix()}
	case d.Reason == decide.IsParked || d.Reason == decide.GivenUp || d.Reason == decide.Undone:
		l.wasParked = d.Reason != decide.GivenUp
		return false, nil
	case s.Target != decide.Unread:
		err := l.passBy(ctx, d)
		now, _ := l.current()
		return err == nil && d.Act != decide.Nothing && now != v, err
	}
	return false, l.unpark(ctx)
}

// write brings an object that exists at the source to the target.
func (l *look) write(ctx context.Context, v *view, entry broker.Entry, known bool, tm terms, sit decide.Situation) (stale bool, err error) {
	ev := l.event
	t, id := l.key.t, l.key.id
	if waited, err := l.enter(); err != nil || waited {
		return waited, err
	}
	if l.shown == nil {
		l.traced.begin(ctx, l.server.ID, l.setting, ev)
	}
	can, asked := l.capability(t)
	ended := l.traced.step("read")
	have, err := l.read(ctx)
	ended()
	readAt := time.Now()
	if visualcron.ClassOf(err) == visualcron.Changed {
		return l.changed(ctx, can, err)
	}
	if err != nil {
		return false, err
	}
	if now, _ := l.capability(t); now.Secrets != can.Secrets {
		return true, nil // which of both was in force when it was read is not known
	}
	source, err := l.open(ev)
	if err != nil {
		return false, err
	}
	own, ownName := v.ownOf(ev.Source, t, ev.Object.ID, l.run)
	refs, err := references(t, source, own)
	if err != nil {
		return false, err
	}
	l.refs = refs
	composition := visualcron.Composition{Policy: tm.policy, Values: tm.values, Secrets: can.Secrets,
		Withholds: ev.Object.Withholds, Withheld: ev.Object.Withheld, Own: own}
	ours := known && isOf(entry, ev.Source, ev.Object.ID)
	if ours && !l.isSaidToBeThere(t, id) {
		composition.Needs = entry.Needs
	}
	follows := tm.policy == schemas.Follow && visualcron.HasActive(t) // under the others a new object is inactive anyway
	if follows {
		if composition.Wait, err = l.lacksSecret(ctx, v, refs); err != nil {
			return false, err
		}
	}
	compare, back := have, ours && !entry.Grace.IsZero() && have != nil
	if back { // it is as it was before it was switched off, but where a person has switched it since
		on, is, err := visualcron.SetActive(t, have, true)
		if err != nil {
			return false, err
		}
		if entry.Grace.Active && !is {
			compare = on
		}
		if !tm.rights.Updated { // then only its flag
			source, composition = compare, visualcron.Composition{Policy: schemas.Keep, Values: tm.values, Secrets: can.Secrets}
			tm.rights.Updated, sit.Rights.Updated = true, true
		}
	}
	made, err := visualcron.Compose(t, source, compare, composition)
	if err != nil {
		return false, err
	}
	l.secrets = append(l.secrets, visualcron.Secrets(t, made.Body)...)
	if l.shown != nil {
		if l.points = visualcron.PointsAt(t, made.Body, v.fleet); have != nil {
			if l.owned, err = visualcron.OwnedFields(t, source, have, composition, 8); err != nil {
				return false, err
			}
		}
	}
	full := visualcron.View{Secrets: can.Secrets, Values: true, Digest: l.cfg.Broker.Keys.Digest}
	want, err := full.Normalize(t, made.Body)
	if err != nil {
		return false, err
	}
	// What the target's own producer, where it is a source too, will call the body.
	atTarget := func(n visualcron.Normal, body []byte) (schemas.Digest, error) {
		if t != schemas.Variable || v.captured {
			return n.Digest, nil
		}
		n, err := visualcron.View{Secrets: can.Secrets, Digest: l.cfg.Broker.Keys.Digest}.Normalize(t, body)
		return n.Digest, err
	}
	record := broker.Entry{Type: t, ID: id, Source: ev.Source, Version: ev.Version, Digest: ev.Digest, Path: ev.Path(), Policy: tm.policy,
		Values: tm.values, Needs: made.Needs, Waits: composition.Wait, SourceID: otherID(ev.Object.ID, id), Own: ownName,
		LeftSecrets: string(can.Secrets), LeftKept: own.Kept}
	tellsEdits := len(record.Needs) == 0 && !record.Waits // else somebody is to edit it there
	sit.Target, sit.RemovesItself = decide.Absent, want.RemovesItself
	var now visualcron.Normal
	if have != nil {
		if now, err = full.Normalize(t, have); err != nil {
			return false, fmt.Errorf("the target's own: %w", err)
		}
		sit.BuiltIn = now.BuiltIn
		if sit.Target = decide.Different; now.Digest == want.Digest {
			sit.Target = decide.Equal
		}
	}
	there, err := l.left(have, now, entry, can.Secrets)
	if err != nil {
		return false, err
	}
	sit.Edited = known && entry.Edited(there, string(can.Secrets))
	leave := func(n visualcron.Normal, body []byte) error {
		if !tellsEdits {
			return nil
		}
		record.Left, err = l.left(body, n, record, can.Secrets)
		return err
	}
	if sit.Elsewhere, err = l.elsewhere(ctx, v, tm, sit, want.RemovesItself || now.RemovesItself); err != nil {
		return false, err
	}
	sit.WindowShut, l.opens = l.window(v, tm, sit)
	d := l.decide(sit, tm)
	if d, err = l.sureOf(ctx, d, &sit, v, tm); err != nil {
		return false, err
	}
	l.traced.decided(readAt, d)
	if l.shown != nil && d.Act == decide.Adopt && ours && !sit.Unfinished && entry.Version == ev.Version && (entry.State == broker.Applied || entry.State == broker.Adopted) {
		// Where the record would be the same, a plan has nothing to say of it.
		if record.AtTarget, err = atTarget(now, have); err != nil {
			return false, err
		}
		if err := leave(now, have); err != nil {
			return false, err
		}
		if record.AtTarget == entry.AtTarget && record.Left == entry.Left && record.LeftSecrets == entry.LeftSecrets && slices.Equal(record.LeftKept, entry.LeftKept) {
			d.Act = decide.Nothing
		}
	}
	if done, stale := l.weigh(d, sit, want, now, have); done || stale {
		return stale, nil
	}
	switch d.Act {
	case decide.Add, decide.Update:
	case decide.Adopt:
		record.State = broker.Adopted
		if record.AtTarget, err = atTarget(now, have); err != nil {
			return false, err
		}
		if err := leave(now, have); err != nil {
			return false, err
		}
		if ours && (entry.State == broker.Applied || entry.State == broker.Intent) {
			record.State = broker.Applied
		}
		l.count(func(s *TargetStatus) { s.Equal++ })
		return false, l.record(ctx, record)
	case decide.Wait:
		return false, &errWindow{l.opens, l.setting, v.inForce()}
	default:
		return l.leave(ctx, v, d, sit)
	}
	if asked && !can.Put {
		return false, &visualcron.Error{Class: visualcron.Unsupported, Op: "put", Server: l.server.ID, Type: t, ID: id}
	}
	if err := l.missing(ctx, v, refs); err != nil {
		return false, err
	}
	if follows {
		if wait, err := l.lacksSecret(ctx, v, refs); err != nil || wait != composition.Wait {
			return err == nil, err // it landed since, without its secret
		}
	}
	if t == schemas.User {
		done, err := l.guardUsers(ctx, have, made.Body)
		if err != nil {
			return false, err
		}
		defer done()
	}
	if !l.stands(v, tm, sit) {
		return true, nil // G13
	}
	// Before a first create: a crash after it and a later deletion would leave an orphan.
	// Before any write to a server that is a source too: its producer has to recognise the
	// echo, however early it looks. Before any of a job that deletes itself: it may run and
	// be gone before it is known that it arrived. And before every other: what a crash left
	// unrecorded would look like an edit at the target, to a setting that minds them then.
	if l.isAsked() && (entry.Open || sit.Elsewhere == decide.GoneElsewhere) {
		// A person has said to create it again: once.
		if err := l.spend(ctx); err != nil {
			return false, err
		}
	}
	intent := record
	intent.State, intent.Open = broker.Intent, want.RemovesItself
	if back {
		intent.Grace = entry.Grace // until it is on again
	}
	if intent.AtTarget, err = atTarget(want, made.Body); err != nil {
		return false, err
	}
	if err := leave(want, made.Body); err != nil {
		return false, err
	}
	intent.Left = record.Left
	switch {
	case sit.Edited: // it stays an edit where this write does not arrive
		intent.Before = entry.Left
	default:
		if intent.Before, err = l.left(have, now, record, can.Secrets); err != nil {
			return false, err
		}
	}
	if ours {
		intent.Version, intent.Ours = entry.Version, owned(entry)
		intent.Again = sit.Record == decide.Brought && sit.Age == decide.Same && !sit.Unfinished
	} else {
		intent.Version = schemas.Version{}
	}
	if err := l.begin(ctx, intent, d.Act, have, want.Digest); err != nil {
		return false, err
	}
	if !l.stands(v, tm, sit) {
		return true, l.unsent(ctx, intent, entry, known) // G13
	}
	if werr := l.mayRefer(made.Body); werr != nil {
		return false, cmp.Or(l.unsent(ctx, intent, entry, known), werr)
	}
	if !l.sends() {
		return true, l.unsent(ctx, intent, entry, known)
	}
	req, cancel := l.deadline(ctx)
	defer cancel()
	ended = l.traced.step("write")
	stored, err := l.conn.Put(req, t, id, made.Body, can.Secrets)
	ended()
	if err != nil {
		if !mayLand(err) && req.Err() == nil {
			if uerr := l.unsent(ctx, intent, entry, known); uerr != nil {
				return false, uerr
			}
		}
		if visualcron.ClassOf(err) == visualcron.Changed {
			return l.changed(ctx, can, err)
		}
		return false, l.openOutcome(ctx, req, err)
	}
	ended = l.traced.step("read back")
	got, err := full.Normalize(t, stored)
	ended()
	if err != nil {
		return false, fmt.Errorf("what the target stored: %w", err)
	}
	if got.Digest != want.Digest {
		if l.grant != nil {
			l.grant.left = got.Digest
		}
		if !sit.Edited { // it is nobody's edit that the target stores otherwise
			if intent.Before, err = l.left(stored, got, record, can.Secrets); err != nil {
				return false, err
			}
			if err := l.put(ctx, intent); err != nil {
				return false, err
			}
		}
		return false, &errMismatch{visualcron.Differences(want, got, 8)}
	}
	record.State = broker.Applied
	if record.AtTarget, err = atTarget(got, stored); err != nil {
		return false, err
	}
	if err := leave(got, stored); err != nil {
		return false, err
	}
	l.count(func(s *TargetStatus) { s.Applied++ })
	return false, l.record(ctx, record)
}

// remove takes an object that is gone at the source from the target.
func (l *look) remove(ctx context.Context, v *view, entry broker.Entry, tm terms, sit decide.Situation) (stale bool, err error) {
	ev := l.event
	t, id := l.key.t, l.key.id
	record := broker.Entry{Type: t, ID: id, Source: ev.Source, Version: ev.Version, Path: ev.Path(), Policy: tm.policy, State: broker.Removed,
		SourceID: otherID(ev.Object.ID, id)}
	if waited, err := l.enter(); err != nil || waited {
		return waited, err
	}
	if l.shown == nil {
		l.traced.begin(ctx, l.server.ID, l.setting, ev)
	}
	ended := l.traced.step("read")
	have, err := l.read(ctx)
	ended()
	if err != nil {
		return false, err
	}
	readAt := time.Now()
	can, asked := l.capability(t)
	sit.Target = decide.Absent
	there := broker.Absent // made as entry.Left is
	var now visualcron.Normal
	if have != nil {
		sit.Target = decide.Different
		view := visualcron.View{Secrets: can.Secrets, Values: v.captured, Digest: l.cfg.Broker.Keys.Digest}
		if now, err = view.Normalize(t, have); err != nil { // G4: whether it is built in, or was edited, nobody can tell
			return false, fmt.Errorf("the target's own: %w", err)
		}
		sit.BuiltIn, sit.RemovesItself, sit.AsLeft = now.BuiltIn, now.RemovesItself, now.Digest == entry.AtTarget
		if there, err = l.left(have, now, entry, can.Secrets); err != nil {
			return false, err
		}
		sit.Edited = entry.Edited(there, string(can.Secrets))
	}
	sit.WindowShut, l.opens = l.window(v, tm, sit)
	if have != nil {
		landed, err := l.airlock(ctx, v, entry, tm, &sit, have)
		if err != nil {
			return false, err
		}
		defer landed()
	}
	d := l.decide(sit, tm)
	if d, err = l.sureOf(ctx, d, &sit, v, tm); err != nil {
		return false, err
	}
	l.traced.decided(readAt, d)
	if d.Reason == decide.OnGrace {
		l.opens = l.graceEnds
	}
	if done, stale := l.weigh(d, sit, visualcron.Normal{}, now, have); done || stale {
		return stale, nil
	}
	switch {
	case d.Act != decide.Hold:
	case d.Reason == decide.Airlock:
		if err := l.hold(ctx, entry); err != nil {
			return false, err
		}
	case d.Reason == decide.InUse:
		l.usage.keep(l.key, l.using)
	}
	switch d.Act {
	case decide.Delete:
	case decide.Adopt:
		record.Open = true // a job may have run here, and gone by itself
		if entry.State == broker.Intent && entry.Left == broker.Absent {
			record.Deleted = entry.Deleted // that it arrived was not known
		}
		return false, l.record(ctx, record)
	case decide.Update:
		return l.switchOff(ctx, v, entry, tm, sit, have, now)
	case decide.Wait:
		if d.Reason == decide.OnGrace {
			l.lookAt(l.key, l.graceEnds)
			return l.leave(ctx, v, d, sit)
		}
		return false, &errWindow{l.opens, l.setting, v.inForce()}
	default:
		return l.leave(ctx, v, d, sit)
	}
	if asked && !can.Delete {
		return false, &visualcron.Error{Class: visualcron.Unsupported, Op: "delete", Server: l.server.ID, Type: t, ID: id}
	}
	if t == schemas.User {
		done, err := l.guardUsers(ctx, have, nil)
		if err != nil {
			return false, err
		}
		defer done()
	}
	intent := entry
	intent.State, intent.AtTarget, intent.Path, intent.Ours = broker.Intent, "", ev.Path(), true
	if !sit.Cleared { // else a person has answered for it, and it counts in no measure
		intent.Deleted = l.deleter
	}
	if sit.Edited {
		there = entry.Left // it stays an edit where this deletion does not arrive
	}
	intent.Left, intent.Before, intent.LeftSecrets = broker.Absent, there, string(can.Secrets)
	if err := l.begin(ctx, intent, d.Act, have, ""); err != nil {
		return false, err
	}
	yield, may := l.mayGo()
	defer yield()
	if !may || !l.stands(v, tm, sit) || !l.sends() {
		return true, l.unsent(ctx, intent, entry, true) // G13
	}
	req, cancel := l.deadline(ctx)
	defer cancel()
	ended = l.traced.step("write")
	err = l.conn.Delete(req, t, id)
	ended()
	if err != nil {
		if !mayLand(err) && req.Err() == nil {
			if uerr := l.unsent(ctx, intent, entry, true); uerr != nil {
				return false, uerr
			}
		}
		return false, l.openOutcome(ctx, req, err)
	}
	l.count(func(s *TargetStatus) { s.Applied++ })
	record.Deleted = intent.Deleted
	return false, l.record(ctx, record)
}
