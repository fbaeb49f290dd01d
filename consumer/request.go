package consumer

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/vcsync/vcsync/broker"
	"github.com/vcsync/vcsync/schemas"
	"github.com/vcsync/vcsync/visualcron"
)

// enter waits at the target's gate. It returns true where it had to wait, so that
// the newest state is read again.
func (l *look) enter() (waited bool, err error) {
	if l.entered || l.shown != nil {
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
	if l.shown != nil && !l.unlisted {
		return l.listed, nil
	}
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
