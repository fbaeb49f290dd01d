package broker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nuid"
)

// LeaseTimes are the times of a lease.
type LeaseTimes struct {
	// TTL is how long a candidate must see the lease unmoved before it takes it
	// over; 15 s where zero.
	TTL time.Duration
	// Margin is how long a target may still act on a request after its client gave
	// up; 3 s where zero. No request is under way in the last margin of a lease.
	Margin time.Duration
}

func (t LeaseTimes) withDefaults() LeaseTimes {
	if t.TTL == 0 {
		t.TTL = 15 * time.Second
	}
	if t.Margin == 0 {
		t.Margin = 3 * time.Second
	}
	return t
}

// Lease is the right to act alone under a name. It ends when it cannot be renewed
// in time, and then its Context does.
type Lease struct {
	name  string
	kv    jetstream.KeyValue
	times LeaseTimes
	ctx   context.Context
	end   context.CancelCauseFunc
	done  chan struct{}
	// wanted is closed when another process is to have it.
	wanted chan struct{}
	ask    sync.Once

	mu    sync.Mutex
	rev   uint64
	token string
	boot  string
	until time.Time
}

type leaseRecord struct {
	Holder string `json:"holder"`          // for people; empty when given back
	Token  string `json:"token,omitempty"` // of this acquisition
	Boot   string `json:"boot"`            // of the holder's process
	// Member is the holder's id among the processes that share, see Share.
	Member string `json:"member,omitempty"`
	// Only and Not are in heartbeats: the items that the process may have, nil for
	// any, and those that it passes on.
	Only []string `json:"only,omitempty"`
	Not  []string `json:"not,omitempty"`
}

// AcquireLease waits until it holds the lease of that name (letters, digits, "-",
// "." and "_") or ctx ends. It takes over another's lease only after its record
// stood still for a full TTL on this machine's own clock, so no two clocks are ever
// compared. Where nobody but this process can reach the broker, the holder of a
// record of an earlier process is dead, and one margin suffices: the time in which
// its last request may still land.
func (b *Broker) AcquireLease(ctx context.Context, name, holder string, times LeaseTimes) (*Lease, error) {
	times = times.withDefaults()
	kv, err := b.js.KeyValue(ctx, BucketLease)
	if err != nil {
		return nil, fmt.Errorf("lease %s: %w", name, err)
	}
	var seen uint64
	var since time.Time
	for {
		e, err := kv.Get(ctx, name)
		free, rev := false, uint64(0)
		switch {
		case errors.Is(err, jetstream.ErrKeyNotFound):
			free = true
		case err == nil:
			rev = e.Revision()
			var r leaseRecord
			wait := times.TTL
			if json.Unmarshal(e.Value(), &r) == nil {
				free = r.Holder == ""
				if b.Exclusive() && r.Boot != b.boot {
					wait = times.Margin
				}
			}
			if rev != seen {
				seen, since = rev, time.Now()
			}
			free = free || time.Since(since) >= wait
		case ctx.Err() != nil:
			return nil, fmt.Errorf("lease %s: %w", name, ctx.Err())
		}
		if free {
			if l, err := b.takeLease(ctx, ctx, kv, name, leaseRecord{Holder: holder}, times, rev); err == nil {
				return l, nil
			}
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("lease %s: %w", name, ctx.Err())
		case <-time.After(min(times.TTL/10, 500*time.Millisecond)):
		}
	}
}

// takeLease takes a lease whose record has that revision. The lease's context has
// the values of values, and does not end with it.
func (b *Broker) takeLease(ctx, values context.Context, kv jetstream.KeyValue, name string, r leaseRecord, times LeaseTimes, rev uint64) (*Lease, error) {
	l := &Lease{name: name, kv: kv, times: times, token: nuid.Next(), boot: b.boot, done: make(chan struct{}), wanted: make(chan struct{})}
	r.Token, r.Boot = l.token, l.boot
	rec, err := json.Marshal(r)
	if err != nil {
		return nil, err
	}
	sent := time.Now()
	if l.rev, err = kv.Update(ctx, name, rec, rev); err != nil {
		return nil, fmt.Errorf("lease %s: %w", name, err)
	}
	l.until = sent.Add(times.TTL - times.Margin)
	l.ctx, l.end = context.WithCancelCause(context.WithoutCancel(values))
	go l.keep(rec)
	return l, nil
}

// keep renews the lease every fifth of its TTL until it ends.
func (l *Lease) keep(rec []byte) {
	defer close(l.done)
	tick := time.NewTicker(l.times.TTL / 5)
	defer tick.Stop()
	for {
		select {
		case <-l.ctx.Done():
			return
		case <-tick.C:
		}
		sent := time.Now()
		l.mu.Lock()
		rev, until := l.rev, l.until
		l.mu.Unlock()
		if !sent.Before(until) {
			l.end(fmt.Errorf("%w: %s could not be renewed in time", ErrLeaseLost, l.name))
			return
		}
		ctx, cancel := context.WithDeadline(l.ctx, until)
		next, err := l.kv.Update(ctx, l.name, rec, rev)
		if err != nil && ctx.Err() == nil {
			// Refused, or an answer was lost: what stands there tells.
			var e jetstream.KeyValueEntry
			if e, err = l.kv.Get(ctx, l.name); err == nil {
				var r leaseRecord
				if json.Unmarshal(e.Value(), &r) != nil || r.Token != l.token {
					cancel()
					l.end(fmt.Errorf("%w: %s is held by another", ErrLeaseLost, l.name))
					return
				}
				// Ours, by a renewal whose answer was lost. It may be older than sent.
				l.mu.Lock()
				l.rev = e.Revision()
				l.mu.Unlock()
				err = errors.New("renew again")
			}
		}
		cancel()
		if err == nil {
			l.mu.Lock()
			l.rev, l.until = next, sent.Add(l.times.TTL-l.times.Margin)
			l.mu.Unlock()
		}
	}
}

// Context ends when the lease does; context.Cause then tells why.
func (l *Lease) Context() context.Context { return l.ctx }

// Wanted is closed when another process is to have the lease: give it back soon.
func (l *Lease) Wanted() <-chan struct{} { return l.wanted }

func (l *Lease) want() { l.ask.Do(func() { close(l.wanted) }) }

// Valid tells whether the lease is held at this very moment, by the clock: a process
// that was stopped for a while finds out by it before its context does.
func (l *Lease) Valid() bool { return l.ctx.Err() == nil && time.Now().Before(l.Until()) }

// Until returns the instant before which every request under the lease must have
// ended: the last renewal that was confirmed, plus TTL, minus the margin. It is the
// absolute deadline of a request that starts now.
func (l *Lease) Until() time.Time {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.until
}

// Release gives the lease back, so that the next holder need not wait. The caller
// has no request under way any more.
func (l *Lease) Release(ctx context.Context) error {
	l.end(fmt.Errorf("%w: %s was given back", ErrLeaseLost, l.name))
	<-l.done
	rec, err := json.Marshal(leaseRecord{Boot: l.boot})
	if err != nil {
		return err
	}
	// A renewal that was under way may be stored before or after this reads: what
	// stands there tells, and whether it is still ours.
	for range 3 {
		var e jetstream.KeyValueEntry
		if e, err = l.kv.Get(ctx, l.name); err != nil {
			break
		}
		var r leaseRecord
		if json.Unmarshal(e.Value(), &r) != nil || r.Token != l.token {
			return nil // another's by now
		}
		if _, err = l.kv.Update(ctx, l.name, rec, e.Revision()); err == nil {
			return nil
		}
	}
	return fmt.Errorf("release lease %s: %w", l.name, err)
}

// Abandon ends the lease without giving it back, as a crash would.
func (l *Lease) Abandon() {
	l.end(fmt.Errorf("%w: %s was abandoned", ErrLeaseLost, l.name))
	<-l.done
}
