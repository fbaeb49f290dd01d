package consumer

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v4"

	"github.com/vcsync/vcsync/schemas"
	"github.com/vcsync/vcsync/visualcron"
)

const (
	// tripAfter is how many objects in a row must fail, none succeeding in between,
	// before a fault that might be theirs counts as the target's.
	tripAfter = 5
	// probeMost bounds the time between two probes of a target that is down;
	// refusedMost that of one that refuses the account, which may lock it.
	probeMost   = 30 * time.Second
	refusedMost = 5 * time.Minute
)

// gate is a target's breaker. While it is shut no request starts; one cheap read
// after another probes the target, and after a good one a single object goes first.
type gate struct {
	probe func(context.Context) error
	said  func(shut bool, reason error)

	mu      sync.Mutex
	shut    bool
	trial   bool // the one object that goes first is under way
	trials  bool // a probe was good; one object may go first
	reason  error
	since   time.Time
	lastly  time.Time          // when the log was last told
	failed  map[objectKey]bool // objects that failed in a row
	backoff *backoff.ExponentialBackOff
	moved   chan struct{} // closed and replaced at every change
}

type objectKey struct {
	t  schemas.Type
	id schemas.ID
}

func newGate(probe func(context.Context) error, said func(bool, error)) *gate {
	g := &gate{probe: probe, said: said, failed: map[objectKey]bool{}, moved: make(chan struct{})}
	g.backoff = fullJitter(time.Second, probeMost)
	return g
}

// fullJitter returns a back-off whose waits lie between nothing and an interval
// that doubles from first to most, so that many that failed together do not come
// back together.
func fullJitter(first, most time.Duration) *backoff.ExponentialBackOff {
	return backoff.NewExponentialBackOff(backoff.WithInitialInterval(first/2), backoff.WithMaxInterval(most/2),
		backoff.WithMultiplier(2), backoff.WithRandomizationFactor(1), backoff.WithMaxElapsedTime(0))
}

func (g *gate) change() {
	close(g.moved)
	g.moved = make(chan struct{})
}

// enter waits until a request may start, and tells whether it had to. It returns
// an error only when ctx ends.
func (g *gate) enter(ctx context.Context) (waited bool, err error) {
	for {
		g.mu.Lock()
		if !g.shut {
			g.mu.Unlock()
			return waited, nil
		}
		if g.trials && !g.trial {
			g.trial = true
			g.mu.Unlock()
			return waited, nil
		}
		moved := g.moved
		g.mu.Unlock()
		waited = true
		select {
		case <-ctx.Done():
			return true, ctx.Err()
		case <-moved:
		}
	}
}

// ok tells that an object went through, or failed for a reason of its own.
func (g *gate) ok(key objectKey) {
	g.mu.Lock()
	defer g.mu.Unlock()
	clear(g.failed)
	if g.shut && g.trial {
		g.open()
	}
}

// answered tells that the target gave a whole listing, while the gate was open or a
// trial was allowed: no object need go first.
func (g *gate) answered() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.shut && g.trials && !g.trial {
		g.open()
	}
}

// open needs the lock.
func (g *gate) open() {
	g.shut, g.trial, g.trials, g.reason = false, false, false, nil
	g.backoff.Reset()
	g.said(false, nil)
	g.change()
}

// bad tells that an object failed for a reason that may be the target's. It
// returns whether the gate is shut now.
func (g *gate) bad(key objectKey, err error) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.failed[key] = true
	if g.shut {
		if g.trial {
			g.trial, g.trials, g.reason = false, false, err
			g.change()
		}
		return true
	}
	if len(g.failed) < tripAfter {
		return false
	}
	g.close(err)
	return true
}

// down shuts the gate, at once.
func (g *gate) down(err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.shut {
		if g.trial {
			g.trial, g.trials, g.reason = false, false, err
			g.change()
		}
		return
	}
	g.close(err)
}

// close needs the lock.
func (g *gate) close(err error) {
	g.shut, g.trial, g.trials, g.reason, g.since = true, false, false, err, time.Now()
	g.lastly = g.since
	g.said(true, err)
	g.change()
}

// state returns whether the target is down, why and since when.
func (g *gate) state() (shut bool, since time.Time, why error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.shut && !g.trials, g.since, g.reason
}

// run probes while the gate is shut, until ctx ends.
func (g *gate) run(ctx context.Context) {
	for ctx.Err() == nil {
		g.mu.Lock()
		idle, reason, moved := !g.shut || g.trials, g.reason, g.moved
		g.mu.Unlock()
		if idle {
			select {
			case <-ctx.Done():
			case <-moved:
			}
			continue
		}
		g.backoff.MaxInterval = probeMost / 2
		if visualcron.ClassOf(reason) == visualcron.Unauthorized {
			g.backoff.MaxInterval = refusedMost / 2
		}
		wait := g.backoff.NextBackOff()
		if e, ok := errors.AsType[*visualcron.Error](reason); ok {
			wait = max(wait, e.RetryAfter)
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
		err := g.probe(ctx)
		g.mu.Lock()
		if err == nil {
			g.trials = true
		} else if ctx.Err() == nil {
			g.reason = fmt.Errorf("probe: %w", err)
			if time.Since(g.lastly) >= sayAgain {
				g.lastly = time.Now()
				g.said(true, g.reason)
			}
		}
		g.change()
		g.mu.Unlock()
	}
}
