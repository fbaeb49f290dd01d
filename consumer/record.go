package consumer

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/vcsync/vcsync/broker"
	"github.com/vcsync/vcsync/consumer/decide"
	"github.com/vcsync/vcsync/visualcron"
)

// owned tells whether vcsync brought the object to the target or found it equal
// there.
func owned(e broker.Entry) bool { return e.Owned() }

// record stores what was done, and frees a parked record of the object: only then
// may the stream forget the message. An object that was written without a secret
// that it has at its source is flagged: a person has to enter it at the target.
func (l *look) record(ctx context.Context, e broker.Entry) error {
	before, _ := l.ledger.Get(e.Type, e.ID)
	if err := l.put(ctx, e); err != nil {
		return err
	}
	if stored, _ := l.ledger.Get(e.Type, e.ID); len(stored.Displaced) > 0 {
		l.onDisplaced(stored)
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
	l.recorded = e.State != broker.Intent
	e.At = time.Now().UTC()
	before, _ := l.ledger.Get(e.Type, e.ID) // a lane has one look at a time, so nobody else moves it
	e = e.Counted(before).Displacing(before)
	if err := l.ledger.Put(ctx, e); err != nil {
		return fmt.Errorf("%w: %w", broker.ErrLeaseLost, err) // the ledger takes no more; begin anew
	}
	l.deletions.record(before, e)
	if l.recorded {
		l.usersOf(l.key)
	}
	return nil
}

// passBy notes that the version is left alone, and why, until something changes.
func (l *look) passBy(ctx context.Context, why decide.Decision) error {
	l.session.mu.Lock()
	l.passedBy[l.key] = passed{l.event.Source, l.event.Object.ID, l.event.Version, why}
	l.passes++
	l.session.mu.Unlock()
	return l.unpark(ctx)
}

func (l *look) unpark(ctx context.Context) error {
	// What is freed is the record of an older version, or of this one.
	return l.parked.free(ctx, l.key.t, l.key.id.Token())
}

// park records why the object's state cannot be applied now.
func (l *look) park(ctx context.Context, cause error, v Verdict) error {
	if l.acts { // its outcome says it, and no version is to be tried again
		l.refuse(broker.OutcomeOther, cause.Error())
		l.lanes.look(l.key, nil, nil, false) // as the settings say
		return nil
	}
	now := time.Now().UTC()
	p := broker.Parked{Target: l.server.ID, Setting: l.setting, Source: l.event.Source, Type: l.key.t, Token: l.key.id.Token(), ID: l.key.id,
		SourceID: otherID(l.event.Object.ID, l.key.id), Name: l.event.Object.Name, Version: l.event.Version, Class: v.Class, Reason: cause.Error(), Fix: v.Fix, First: now, Last: now, Attempts: 1}
	if m, ok := errors.AsType[*errMismatch](cause); ok {
		p.Reason += ": " + strings.Join(m.fields, ", ")
	}
	if v.Again {
		p.NextTry = now.Add(tryAgain)
	}
	p.RetryDone = l.hand.RetryAsked
	if have, ok := l.parked.get(p.Type, p.Token); ok && !v.Again && have.RetryAsked == have.RetryDone && have.IsOf(p.Source, l.event.Object.ID) && have.Version == p.Version && have.Class == p.Class && have.Reason == p.Reason {
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

// onDisplaced looks again at what waited until it was overwritten where it had been
// brought before.
func (l *look) onDisplaced(e broker.Entry) {
	v, _ := l.current()
	for _, d := range e.Displaced {
		home := v.home(d.Source, e.Type, d.ID, nil)
		if p, ok := l.parked.get(e.Type, home.Token()); ok && p.Class == string(decide.OtherHome) && p.IsOf(d.Source, d.ID) {
			l.onParked(p)
		}
	}
}

// isAsked tells whether a person has asked for this try of the object. What was asked of
// another one that had its home here before is not meant. Nor is it meant to resume what an
// undo paused: that says that its setting counts again, and nothing of this version.
func (l *look) isAsked() bool {
	return l.hand.Class != broker.ClassUndone && l.hand.RetryAsked > l.hand.RetryDone && l.hand.IsOf(l.hand.Source, l.event.Object.ID)
}

// unsent takes back an intent whose write surely did not arrive: what was on record before
// holds again, also who brought what stands there.
func (l *look) unsent(ctx context.Context, intent, before broker.Entry, known bool) error {
	if known {
		now, _ := l.ledger.Get(before.Type, before.ID)
		if err := l.ledger.Put(ctx, before); err != nil {
			return fmt.Errorf("%w: %w", broker.ErrLeaseLost, err)
		}
		l.deletions.record(now, before)
		return nil
	}
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
