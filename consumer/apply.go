package consumer

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/vcsync/vcsync/broker"
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
		v, _ := l.current()
		ev, tm, err := l.choose(ctx, v)
		if err != nil {
			return err
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
	type candidate struct {
		event schemas.Event
		terms terms
	}
	var all []candidate
	for _, src := range v.sources() {
		tm := v.terms(src, l.key.t, l.key.id)
		if !tm.rights.Use() {
			continue
		}
		ev, _, err := l.cfg.Broker.NewestWith(ctx, schemas.Key{Source: src, Type: l.key.t, Token: l.key.id.Token()},
			func(size int) error { return l.room(ctx, size) })
		if errors.Is(err, broker.ErrNotFound) {
			continue
		}
		if err != nil {
			l.event = schemas.Event{Source: src, Object: schemas.Object{Type: l.key.t, ID: l.key.id}}
			l.setting = tm.setting
			return nil, tm, err
		}
		if slices.Contains(ev.Path(), l.server.ID) {
			continue // G8: it came from here
		}
		all = append(all, candidate{ev, tm})
	}
	if len(all) == 0 {
		return nil, terms{}, nil
	}
	best := 0
	entry, known := l.ledger.Get(l.key.t, l.key.id)
	owner := slices.IndexFunc(all, func(c candidate) bool {
		return known && entry.State != broker.Removed && c.event.Source == entry.Source
	})
	if owner >= 0 {
		best = owner
	} else if i := slices.IndexFunc(all, func(c candidate) bool { return c.event.Kind != schemas.Deleted }); i >= 0 {
		best = i
	}
	for i, c := range all { // a deleted one is handed over to who still has the same
		if all[best].event.Kind == schemas.Deleted && c.event.Kind != schemas.Deleted && c.event.Digest == entry.Digest {
			best = i
		}
	}
	rights := all[best].terms.rights
	for _, c := range all {
		switch {
		case c.event.Source == all[best].event.Source || c.event.Kind == schemas.Deleted:
		case c.event.Digest == all[best].event.Digest:
			rights = rights.Union(c.terms.rights)
		default:
			l.event, l.setting = c.event, c.terms.setting
			reason := fmt.Sprintf("%s and %s both have this object, and not the same", all[best].event.Source, c.event.Source)
			if all[best].event.Kind == schemas.Deleted {
				reason = fmt.Sprintf("%s, from which it came, has deleted this object, and %s has another of the same id", all[best].event.Source, c.event.Source)
			}
			return nil, c.terms, &parkError{classConflict, reason, "let only one sync setting take this object to this target"}
		}
	}
	c := all[best]
	l.setting = c.terms.setting
	c.terms.rights = rights
	return &c.event, c.terms, nil
}

// applyUnder does it under one view of the settings. It returns true where that
// has to begin anew: the settings changed before anything was sent, or the gate was
// shut meanwhile.
func (l *look) applyUnder(ctx context.Context, v *view, tm terms) (stale bool, err error) {
	ev := l.event
	entry, known := l.ledger.Get(l.key.t, l.key.id)
	ours := known && entry.Source == ev.Source
	if ours && entry.State != broker.Intent {
		switch entry.Version.Compare(ev.Version) {
		case 1:
			return false, l.unpark(ctx) // G3: something newer was applied
		case 0:
			settled := ev.Kind == schemas.Deleted || entry.Policy == tm.policy && (entry.Values || !tm.values)
			if settled && len(entry.Needs) == 0 && !entry.Waits {
				return false, l.unpark(ctx) // G8: on record already
			}
		}
	}
	if p, ok := l.parked.get(l.key.t, l.key.id.Token()); ok && p.Source == ev.Source && p.Version == ev.Version {
		asked := p.RetryAsked > p.RetryDone
		due := !p.NextTry.IsZero() && !time.Now().Before(p.NextTry)
		if p.Discarded != "" && !asked || !asked && !due && !l.retryParked {
			l.wasParked = p.Discarded == ""
			return false, nil
		}
	}
	if ev.Kind == schemas.Deleted {
		// G4: only what vcsync brought or found equal, and only for the source that
		// owns it here.
		if !ours || entry.State == broker.Removed || !tm.rights.Deleted {
			return false, l.unpark(ctx)
		}
		return l.remove(ctx, v, entry, tm)
	}
	if !tm.rights.New && !tm.rights.Updated && known {
		return false, l.unpark(ctx)
	}
	return l.write(ctx, v, entry, known, tm)
}

// write brings an object that exists at the source to the target.
func (l *look) write(ctx context.Context, v *view, entry broker.Entry, known bool, tm terms) (stale bool, err error) {
	ev := l.event
	t, id := l.key.t, l.key.id
	if waited, err := l.enter(); err != nil || waited {
		return waited, err
	}
	can, asked := l.capability(t)
	have, err := l.read(ctx)
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
	refs, err := visualcron.References(t, source)
	if err != nil {
		return false, err
	}
	composition := visualcron.Composition{Policy: tm.policy, Values: tm.values, Secrets: can.Secrets,
		Withholds: ev.Object.Withholds, Withheld: ev.Object.Withheld}
	ours := known && entry.Source == ev.Source
	if ours && !l.isSaidToBeThere(t, id) {
		composition.Needs = entry.Needs
	}
	follows := tm.policy == schemas.Follow && visualcron.HasActive(t) // under the others a new object is inactive anyway
	if follows {
		if composition.Wait, err = l.lacksSecret(ctx, refs); err != nil {
			return false, err
		}
	}
	made, err := visualcron.Compose(t, source, have, composition)
	if err != nil {
		return false, err
	}
	l.secrets = append(l.secrets, visualcron.Secrets(t, made.Body)...)
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
		Values: tm.values, Needs: made.Needs, Waits: composition.Wait}
	if have != nil {
		now, err := full.Normalize(t, have)
		if err != nil {
			return false, fmt.Errorf("the target's own: %w", err)
		}
		switch {
		case now.BuiltIn:
			return false, &parkError{"built-in", "the target's object of this id is one of its built-in objects, which are never written", "rename one of the two"}
		case now.Digest == want.Digest:
			record.State = broker.Adopted
			if record.AtTarget, err = atTarget(now, have); err != nil {
				return false, err
			}
			if ours && (entry.State == broker.Applied || entry.State == broker.Intent) {
				record.State = broker.Applied
			}
			l.count(func(s *TargetStatus) { s.Equal++ })
			return false, l.record(ctx, record)
		case !tm.rights.Updated:
			return false, l.passBy(ctx) // G4: and never deleted either, unless it was ours before
		}
	} else if !tm.rights.New || known && owned(entry) && want.RemovesItself {
		// A job that was here, ran and deleted itself must not run again.
		return false, l.passBy(ctx)
	} else if known && entry.State == broker.Intent && entry.Open && l.hand.RetryAsked <= l.hand.RetryDone {
		return false, &parkError{"may have run", "the job deletes itself when it has run, and whether an earlier write of it arrived is not known: it may have run there",
			"retry to create it again, or discard this version"}
	}
	if asked && !can.Put {
		return false, &visualcron.Error{Class: visualcron.Unsupported, Op: "put", Server: l.server.ID, Type: t, ID: id}
	}
	if err := l.missing(ctx, v, refs); err != nil {
		return false, err
	}
	if follows {
		if wait, err := l.lacksSecret(ctx, refs); err != nil || wait != composition.Wait {
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
	if now, _ := l.current(); now != v {
		return true, nil // G13
	}
	var intent broker.Entry
	if have == nil || v.isSource {
		// Before a first create: a crash after it and a later deletion would leave an
		// orphan. Before any write to a server that is a source too: its producer has
		// to recognise the echo, however early it looks.
		if l.hand.RetryAsked > l.hand.RetryDone && entry.Open {
			// A person has said to create it again: once.
			if err := l.spend(ctx); err != nil {
				return false, err
			}
		}
		intent = record
		intent.State, intent.Open = broker.Intent, have == nil && want.RemovesItself
		if intent.AtTarget, err = atTarget(want, made.Body); err != nil {
			return false, err
		}
		if ours {
			intent.Version, intent.Ours = entry.Version, owned(entry)
		} else {
			intent.Version = schemas.Version{}
		}
		if err := l.put(ctx, intent); err != nil {
			return false, err
		}
		if now, _ := l.current(); now != v {
			return true, l.unsent(ctx, intent) // G13
		}
	}
	req, cancel := l.deadline(ctx)
	defer cancel()
	stored, err := l.conn.Put(req, t, id, made.Body, can.Secrets)
	if err != nil {
		if !mayLand(err) && req.Err() == nil {
			if uerr := l.unsent(ctx, intent); uerr != nil {
				return false, uerr
			}
		}
		if visualcron.ClassOf(err) == visualcron.Changed {
			return l.changed(ctx, can, err)
		}
		return false, l.openOutcome(ctx, req, err)
	}
	got, err := full.Normalize(t, stored)
	if err != nil {
		return false, fmt.Errorf("what the target stored: %w", err)
	}
	if got.Digest != want.Digest {
		return false, &errMismatch{visualcron.Differences(want, got, 8)}
	}
	record.State = broker.Applied
	if record.AtTarget, err = atTarget(got, stored); err != nil {
		return false, err
	}
	l.count(func(s *TargetStatus) { s.Applied++ })
	return false, l.record(ctx, record)
}

// remove takes an object that is gone at the source from the target.
func (l *look) remove(ctx context.Context, v *view, entry broker.Entry, tm terms) (stale bool, err error) {
	ev := l.event
	t, id := l.key.t, l.key.id
	record := broker.Entry{Type: t, ID: id, Source: ev.Source, Version: ev.Version, Path: ev.Path(), Policy: tm.policy, State: broker.Removed}
	if waited, err := l.enter(); err != nil || waited {
		return waited, err
	}
	have, err := l.read(ctx)
	if err != nil {
		return false, err
	}
	if have == nil {
		return false, l.record(ctx, record)
	}
	can, asked := l.capability(t)
	view := visualcron.View{Secrets: can.Secrets, Values: v.captured, Digest: l.cfg.Broker.Keys.Digest}
	now, err := view.Normalize(t, have)
	switch {
	case err == nil && now.BuiltIn:
		return false, &parkError{"built-in", "the target's object of this id is one of its built-in objects, which are never deleted", "discard this version"}
	case ev.RemovedItself, err == nil && now.RemovesItself:
		return false, l.passBy(ctx) // nobody deleted it; it may run here yet
	case !owned(entry) && (err != nil || now.Digest != entry.AtTarget):
		return false, l.passBy(ctx) // G4: an intent of ours, and not what it would have left
	case asked && !can.Delete:
		return false, &visualcron.Error{Class: visualcron.Unsupported, Op: "delete", Server: l.server.ID, Type: t, ID: id}
	}
	if t == schemas.User {
		done, err := l.guardUsers(ctx, have, nil)
		if err != nil {
			return false, err
		}
		defer done()
	}
	if v.isSource {
		intent := entry
		intent.State, intent.AtTarget, intent.Path, intent.Ours = broker.Intent, "", ev.Path(), true
		if err := l.put(ctx, intent); err != nil {
			return false, err
		}
	}
	if now, _ := l.current(); now != v {
		return true, nil // G13
	}
	req, cancel := l.deadline(ctx)
	defer cancel()
	if err := l.conn.Delete(req, t, id); err != nil {
		return false, l.openOutcome(ctx, req, err)
	}
	l.count(func(s *TargetStatus) { s.Applied++ })
	return false, l.record(ctx, record)
}
