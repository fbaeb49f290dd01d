package consumer

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/vcsync/vcsync/broker"
	"github.com/vcsync/vcsync/schemas"
	"github.com/vcsync/vcsync/visualcron"
)

// work does one look at one object and decides what follows.
func (s *session) work(ctx context.Context, ln *lane) {
	msgs, passes, retryParked := s.lanes.take(ln)
	l := &look{session: s, key: ln.key, retryParked: retryParked}
	err := l.redact(l.apply(ctx))
	if ctx.Err() != nil || l.soft.Err() != nil && errors.Is(err, context.Canceled) {
		return // the next writer takes it up; nothing was acknowledged
	}
	parked := false
	if err != nil {
		if m, ok := errors.AsType[*errMismatch](err); ok {
			if fields := strings.Join(m.fields, " "); fields != ln.mismatch {
				ln.mismatch, ln.mismatched = fields, 0
			}
			ln.mismatched++
			ln.mismatches++
		} else {
			ln.mismatched = 0
		}
		// One that is another each time is parked too, after twice as many.
		v := Judge(err, ln.waited, max(ln.mismatched, ln.mismatches/2))
		l.report(err, v)
		switch v.Fate {
		case Abort:
			s.fail(err)
			return
		case TargetDown:
			s.lanes.again(ctx, ln, 0, msgs, passes, retryParked)
			return
		case Retry:
			if ln.backoff == nil {
				ln.backoff = fullJitter(500*time.Millisecond, 30*time.Second)
			}
			wait := max(ln.backoff.NextBackOff(), v.After)
			if shut, _, _ := s.gate.state(); !shut {
				ln.waited += wait // a target that is down uses up nobody's patience
			}
			s.lanes.again(ctx, ln, wait, msgs, passes, retryParked)
			return
		case Wait:
			ln.waited += parentPatience
			s.lanes.await(ctx, ln, parentPatience, msgs, passes, retryParked)
			return
		case Park:
			if perr := l.park(ctx, err, v); perr != nil {
				s.log.WarnContext(ctx, "an object could not be parked; trying again", "type", ln.key.t, "id", ln.key.id, "error", perr)
				s.lanes.again(ctx, ln, time.Second, msgs, passes, retryParked)
				return
			}
			parked = true
		}
	} else {
		l.report(nil, Verdict{})
		s.dealtWith(ln.key)
		parked = l.wasParked
	}
	for _, m := range msgs {
		// The effect is confirmed and on record, or the parking is; a lost
		// acknowledgement brings the message again, and the ledger knows.
		_ = m.Ack()
	}
	for _, p := range passes {
		p.done(parked)
	}
	s.lanes.finish(ln)
}

// look is one look at one object.
type look struct {
	*session
	key         objectKey
	retryParked bool

	entered   bool // the gate let it in
	replanned bool // the target said that it gives its secrets otherwise
	wasParked bool // the state stays parked, or is flagged
	event     schemas.Event
	setting   schemas.Slug
	hand      broker.Parked // the record that a person or the clock asks to try again
	secrets   []string      // of the event's body, never to be shown
}

// redact takes the object's own secrets out of what the target said of it.
func (l *look) redact(err error) error {
	if e, ok := errors.AsType[*visualcron.Error](err); ok {
		for _, s := range l.secrets {
			if len(s) < 4 {
				continue
			}
			e.Detail = strings.ReplaceAll(e.Detail, s, "***")
		}
	}
	return err
}

// report tells the gate how the target behaved, where the look got so far.
func (l *look) report(err error, v Verdict) {
	switch {
	case v.Fate == TargetDown:
		l.gate.down(err)
	case !l.entered:
	case err != nil && v.Fate == Retry && targetLevel(err):
		l.gate.bad(l.key, err)
	default:
		l.gate.ok(l.key)
	}
}

// count counts what a look came to.
func (l *look) count(f func(*TargetStatus)) {
	l.target.mu.Lock()
	f(&l.target.status)
	l.target.mu.Unlock()
}

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
		ev, _, err := l.cfg.Broker.NewestOf(ctx, schemas.Key{Source: src, Type: l.key.t, Token: l.key.id.Token()})
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
	if len(ev.Object.Body) > bigBody {
		done, err := l.big.take(ctx)
		if err != nil {
			return false, err
		}
		defer done()
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
	if tm.policy == schemas.Follow { // under the others a new object is inactive anyway
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
	if tm.policy == schemas.Follow {
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

// changed asks the target anew after it said that it gives its secrets otherwise
// than can says. It returns true, once a look, where that is so now, and the error
// otherwise: a server that contradicts itself is tried as any that fails.
func (l *look) changed(ctx context.Context, can visualcron.Capability, err error) (stale bool, _ error) {
	if perr := l.probe(ctx); perr != nil {
		return false, perr
	}
	if now, _ := l.capability(l.key.t); now.Secrets == can.Secrets || l.replanned {
		return false, err
	}
	l.replanned = true
	return true, nil
}

// unsent takes back that a write may have arrived.
func (l *look) unsent(ctx context.Context, intent broker.Entry) error {
	if !intent.Open {
		return nil
	}
	intent.Open = false
	return l.put(ctx, intent)
}

// spend notes that what a person asked to try again is tried now.
func (l *look) spend(ctx context.Context) error {
	p, ok := l.parked.get(l.key.t, l.key.id.Token())
	if !ok {
		return nil
	}
	p.RetryDone = l.hand.RetryAsked
	l.hand.RetryDone = l.hand.RetryAsked
	return l.parked.put(ctx, p)
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

// owned tells whether vcsync brought the object to the target or found it equal
// there.
func owned(e broker.Entry) bool {
	return e.State == broker.Applied || e.State == broker.Adopted || e.State == broker.Intent && e.Ours
}

// enter waits at the target's gate. It returns true where it had to wait, so that
// the newest state is read again.
func (l *look) enter() (waited bool, err error) {
	if l.entered {
		return false, nil
	}
	waited, err = l.gate.enter(l.soft)
	l.entered = err == nil
	return waited, err
}

// read returns the target's own body of the object, nil where it has none. Every
// try begins with it: an earlier write whose outcome is open may have landed, and
// is given the time to.
func (l *look) read(ctx context.Context) ([]byte, error) {
	if err := l.waitLanded(ctx, l.key); err != nil {
		return nil, err
	}
	req, cancel := l.deadline(ctx)
	defer cancel()
	body, err := l.conn.Get(req, l.key.t, l.key.id)
	if visualcron.ClassOf(err) == visualcron.NotFound {
		return nil, nil
	}
	if err != nil {
		return nil, l.leaseFault(ctx, req, err)
	}
	return body, nil
}

// deadline returns the context of one request: no request outlives the lease minus
// its margin, so that it cannot overlap with one of the next holder (G3).
func (l *look) deadline(ctx context.Context) (context.Context, context.CancelFunc) {
	until := time.Now().Add(requestLimit)
	if lease := l.lease.Until(); lease.Before(until) {
		until = lease
	}
	return context.WithDeadline(ctx, until)
}

// openOutcome notes that a write which failed may still land, where that is so; one
// that was cut off always may.
func (l *look) openOutcome(ctx, req context.Context, err error) error {
	if mayLand(err) || req.Err() != nil {
		l.session.mayLand(l.key)
	}
	return l.leaseFault(ctx, req, err)
}

// leaseFault tells an error that the lease's end caused from one of the target's.
func (l *look) leaseFault(ctx, req context.Context, err error) error {
	if ctx.Err() == nil && req.Err() != nil && !time.Now().Before(l.lease.Until()) {
		return fmt.Errorf("%w: %w", broker.ErrLeaseLost, err)
	}
	return err
}

// open puts the secrets of an event's body back.
func (l *look) open(ev schemas.Event) ([]byte, error) {
	return visualcron.OpenBody(ev.Object.Body, ev.Object.Sealed, func(pointer, sealed string) (string, error) {
		secret, err := l.cfg.Broker.Keys.Open(schemas.SealContext(ev.Source, ev.Object.Type, ev.Object.ID, pointer), sealed)
		if text := strings.Trim(secret, `"`); len(text) >= 4 {
			l.secrets = append(l.secrets, text)
		}
		return secret, err
	})
}

// record stores what was done, and frees a parked record of the object: only then
// may the stream forget the message. An object that was written without a secret
// that it has at its source is flagged: a person has to enter it at the target.
func (l *look) record(ctx context.Context, e broker.Entry) error {
	before, _ := l.ledger.Get(e.Type, e.ID)
	if err := l.put(ctx, e); err != nil {
		return err
	}
	if len(before.Needs) > 0 && len(e.Needs) == 0 || before.Waits && !e.Waits {
		l.onSecret()
	}
	var reason string
	switch {
	case len(e.Needs) > 0:
		reason = fmt.Sprintf("written without %s: %s", strings.Join(e.Needs, ", "), l.whyWithout())
		if visualcron.HasActive(e.Type) {
			reason += "; until it is there the Active flag is the target's own, inactive where the object was new"
		}
	case e.Waits:
		reason = "left inactive, because something that it refers to lacks its secret"
	default:
		return l.unpark(ctx)
	}
	l.wasParked = true
	return l.park(ctx, errors.New(reason), Verdict{Class: classSecret, Fix: "enter what is missing at the target, then retry"})
}

// whyWithout says whose fault a missing secret is.
func (l *look) whyWithout() string {
	if l.event.Object.Withholds {
		return fmt.Sprintf("%s does not give its secrets", l.event.Source)
	}
	can, _ := l.capability(l.key.t)
	if can.Secrets == visualcron.SecretsEqual {
		return "a token that a server refreshes by itself is every server's own"
	}
	return fmt.Sprintf("%s takes no secrets of other servers (it says %q)", l.server.ID, can.Secrets)
}

func (l *look) put(ctx context.Context, e broker.Entry) error {
	e.At = time.Now().UTC()
	if err := l.ledger.Put(ctx, e); err != nil {
		return fmt.Errorf("%w: %w", broker.ErrLeaseLost, err) // the ledger takes no more; begin anew
	}
	return nil
}

// passBy notes that the settings do not take what would have to be done now.
func (l *look) passBy(ctx context.Context) error {
	l.session.mu.Lock()
	l.passedBy[l.key] = l.event.Version
	l.session.mu.Unlock()
	return l.unpark(ctx)
}

func (l *look) unpark(ctx context.Context) error {
	// What is freed is the record of an older version, or of this one.
	return l.parked.free(ctx, l.key.t, l.key.id.Token())
}

// park records why the object's state cannot be applied now.
func (l *look) park(ctx context.Context, cause error, v Verdict) error {
	now := time.Now().UTC()
	p := broker.Parked{Target: l.server.ID, Setting: l.setting, Source: l.event.Source, Type: l.key.t, Token: l.key.id.Token(), ID: l.key.id,
		Name: l.event.Object.Name, Version: l.event.Version, Class: v.Class, Reason: cause.Error(), Fix: v.Fix, First: now, Last: now, Attempts: 1}
	if m, ok := errors.AsType[*errMismatch](cause); ok {
		p.Reason += ": " + strings.Join(m.fields, ", ")
	}
	if v.Again {
		p.NextTry = now.Add(tryAgain)
	}
	p.RetryDone = l.hand.RetryAsked
	if have, ok := l.parked.get(p.Type, p.Token); ok && !v.Again && have.RetryAsked == have.RetryDone && have.Source == p.Source && have.Version == p.Version && have.Class == p.Class && have.Reason == p.Reason {
		return nil // as it stands, a person's discard included
	}
	if err := l.parked.put(ctx, p); err != nil {
		return err
	}
	if v.Class == classSecret {
		l.log.WarnContext(ctx, "flagged: the object is written, and somebody has to complete it at the target", "type", l.key.t, "id", l.key.id, "name", p.Name, "reason", p.Reason)
		return nil
	}
	l.log.WarnContext(ctx, "parked: this object state is not applied until somebody or something helps", "type", l.key.t, "id", l.key.id, "name", p.Name, "class", p.Class, "reason", p.Reason)
	return nil
}
