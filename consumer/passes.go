package consumer

import (
	"context"
	"time"

	"github.com/nats-io/nuid"

	"github.com/vcsync/vcsync/broker"
	"github.com/vcsync/vcsync/consumer/decide"
	"github.com/vcsync/vcsync/schemas"
	"github.com/vcsync/vcsync/visualcron"
)

const (
	// burstRest is how long a setting writes nothing until its next write begins another
	// pass, and burstMost how long a pass of live and audit writes is at most.
	burstRest = 30 * time.Second
	burstMost = 15 * time.Minute
)

// burst is a pass of live and audit writes of one setting.
type burst struct {
	id          string
	began, last time.Time
}

// burst returns the pass of a write of a setting that is made now.
func (s *session) burst(setting schemas.Slug) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	b, now := s.bursts[setting], time.Now()
	if b.id == "" || now.Sub(b.last) > burstRest || now.Sub(b.began) > burstMost {
		b = burst{id: nuid.Next(), began: now}
	}
	b.last = now
	s.bursts[setting] = b
	return b.id
}

// begin puts on record, before a write, that it is begun, and what the target holds: have,
// nil for nothing. After is the digest of what it is to hold, empty for nothing.
func (l *look) begin(ctx context.Context, intent broker.Entry, act decide.Act, have []byte, after schemas.Digest) error {
	d, err := l.done(act, have, after)
	if err != nil {
		return err
	}
	var before broker.Entry
	if d.Ledger != nil {
		before = *d.Ledger
	}
	stored := make(chan error, 1)
	go func() { stored <- l.cfg.Broker.PutDone(ctx, d) }() // beside the intent: no way there and back more
	if err := l.put(ctx, intent); err != nil {
		<-stored
		return err
	}
	if err := <-stored; err != nil {
		if uerr := l.unsent(ctx, intent, before, d.Ledger != nil); uerr != nil {
			return uerr
		}
		return err
	}
	return nil
}

// done returns the record of a write that is about to be sent.
func (l *look) done(act decide.Act, have []byte, after schemas.Digest) (broker.Done, error) {
	ev, t, id := l.event, l.key.t, l.key.id
	can, _ := l.capability(t)
	d := broker.Done{Target: l.server.ID, Type: t, ID: id, SourceID: otherID(ev.Object.ID, id), Name: ev.Object.Name, Group: ev.Object.Group, Act: string(act),
		Setting: l.setting, Source: ev.Source, Version: ev.Version, Path: ev.Path(), After: after, Secrets: string(can.Secrets)}
	if l.grant != nil {
		d.Pass, d.By = l.run.run.ID, l.run.run.By
	} else {
		d.Pass = l.burst(l.setting)
	}
	if e, known := l.ledger.Get(t, id); known {
		d.Ledger = &e
	}
	if p, ok := l.parked.get(t, id.Token()); ok && p.IsPaused() {
		d.Paused = p.Pass
	}
	if have == nil {
		return d, nil
	}
	view := visualcron.View{Secrets: can.Secrets, Values: true, Digest: l.cfg.Broker.Keys.Digest}
	now, err := view.Normalize(t, have)
	if err == nil {
		d.Before, d.Name, d.Group = now.Digest, now.Name, now.Group
	} else { // it may be deleted all the same
		d.Before = schemas.DigestOf(have)
	}
	sealed, err := view.SealBody(t, have, func(pointer, secret string) string {
		return l.cfg.Broker.Keys.Seal(schemas.SealContext(l.server.ID, t, id, pointer), secret)
	})
	if err != nil {
		return d, err
	}
	d.Object = schemas.Object{Body: sealed.Body, Sealed: sealed.Places, Withholds: can.Secrets != visualcron.SecretsEqual, Withheld: sealed.Withheld}
	return d, nil
}
