package consumer

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/vcsync/vcsync/broker"
	"github.com/vcsync/vcsync/schemas"
	"github.com/vcsync/vcsync/visualcron"
)

// work does one look at one object and decides what follows.
func (s *session) work(ctx context.Context, ln *lane) {
	msgs, passes, retryParked := s.lanes.take(ln)
	l := &look{session: s, key: ln.key, retryParked: retryParked, waited: ln.waited, traced: newTraced(s.cfg.Tracer)}
	defer l.traced.end("interrupted") // where nothing else was said
	err := l.redact(l.apply(ctx))
	defer l.sentOnce()
	if l.roomy != nil {
		l.roomy()
	}
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
		if v.Fate != Park {
			l.traced.end(outcomes[v.Fate])
		}
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
		case AwaitWindow:
			why, _ := errors.AsType[*errWindow](err)
			for _, p := range passes {
				p.done(false) // as far as that may be now
			}
			s.lanes.awaitWindow(ln, why, msgs)
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
	l.fulfil(err)
	acknowledged := l.traced.step("acknowledge")
	for _, m := range msgs {
		// The effect is confirmed and on record, or the parking is; a lost
		// acknowledgement brings the message again, and the ledger knows.
		_ = m.Ack()
	}
	acknowledged()
	if err != nil {
		l.traced.end(outcomes[Park])
	} else {
		l.traced.end("done")
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
	waited      time.Duration // of the lane's try, see lane.waited
	traced      traced

	entered   bool // the gate let it in
	replanned bool // the target said that it gives its secrets otherwise
	// cameFromHere tells that the event's content came from this target.
	cameFromHere bool
	wasParked    bool // the state stays parked, or is flagged
	event        schemas.Event
	setting      schemas.Slug
	hand         broker.Parked // the record that a person or the clock asks to try again
	wants                      // what a run or an audit wants of it
	secrets      []string      // of the event's body, never to be shown
	otherHome    schemas.ID    // another id at the target that the object was brought to
	// deleter is the setting by whose right it is deleted, tally what that has deleted.
	deleter schemas.Slug
	tally   tally
	// keeping are the objects at the target that refer to it and stay, usedBy the same for
	// people; using are those and what else keeps it from being deleted.
	keeping, using []objectKey
	usedBy         string
	// names are what others would refer to, asked who was asked whether he does.
	names []visualcron.Reference
	asked []objectKey
	// graceEnds is when it is to be deleted that is switched off for now.
	graceEnds time.Time
	acts      bool   // it does what a run at a server says
	roomy     func() // gives back the room of a large body; nil where none was taken
}

// room waits until a body of that size may be held in memory: of large ones one at a
// time per target, because each takes many times its size (G11).
func (l *look) room(ctx context.Context, size int) (err error) {
	if size > bigBody && l.roomy == nil {
		l.roomy, err = l.big.take(ctx)
	}
	return err
}

// redact takes the object's own secrets out of what the target said of it.
func (l *look) redact(err error) error {
	if e, ok := errors.AsType[*visualcron.Error](err); ok {
		e.Detail = hide(e.Detail, l.secrets)
	}
	return err
}

// hide returns a text without secrets. Those that are shorter than 4 bytes stay: they
// would take out half of it.
func hide(text string, secrets []string) string {
	for _, s := range secrets {
		if len(s) >= 4 {
			text = strings.ReplaceAll(text, s, "***")
		}
	}
	return text
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
