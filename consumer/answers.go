package consumer

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/vcsync/vcsync/schemas"
	"github.com/vcsync/vcsync/visualcron"
)

// saidAfter is how long requests may be without an answer before that is said of the
// target: half of what a request has.
const saidAfter = requestLimit / 2

// answers knows since when requests to a target are without an answer. A target may take
// connections and never answer: its gate shuts only when a few requests had their time.
type answers struct {
	mu     sync.Mutex
	under  int       // requests under way
	failed bool      // one had its time, and no answer came since
	since  time.Time // the first request since the last answer; zero where none was made
}

// unanswered returns since when requests are without an answer, zero where that is not
// long enough to be said.
func (a *answers) unanswered() time.Time {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.since.IsZero() || time.Since(a.since) < saidAfter {
		return time.Time{}
	}
	return a.since
}

func (a *answers) asked() {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.under++; a.since.IsZero() {
		a.since = time.Now()
	}
}

// came tells that a part of an answer is there.
func (a *answers) came() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.since, a.failed = time.Now(), false
}

// over tells how a request ended. One that was called off says nothing of the target.
func (a *answers) over(ctx context.Context, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.under--
	switch class := visualcron.ClassOf(err); {
	case errors.Is(ctx.Err(), context.Canceled):
	case class == visualcron.Timeout || class == visualcron.Unreachable:
		a.failed = true
	case err == nil || class != "" && class != visualcron.Unsupported:
		a.since, a.failed = time.Now(), false
	}
	if a.under == 0 && !a.failed {
		a.since = time.Time{}
	}
}

// asking is a Connector that notes whether its requests are answered.
type asking struct {
	visualcron.Connector
	answers *answers
}

// Server is Connector's.
func (c asking) Server(ctx context.Context) (info visualcron.Info, err error) {
	c.answers.asked()
	defer func() { c.answers.over(ctx, err) }()
	return c.Connector.Server(ctx)
}

// List is Connector's. Each row is a part of the answer.
func (c asking) List(ctx context.Context, t schemas.Type, yield func(visualcron.Row) error) (complete visualcron.Complete, err error) {
	c.answers.asked()
	defer func() { c.answers.over(ctx, err) }()
	return c.Connector.List(ctx, t, func(r visualcron.Row) error {
		c.answers.came()
		return yield(r)
	})
}

// Get is Connector's.
func (c asking) Get(ctx context.Context, t schemas.Type, id schemas.ID) (body []byte, err error) {
	c.answers.asked()
	defer func() { c.answers.over(ctx, err) }()
	return c.Connector.Get(ctx, t, id)
}

// Put is Connector's.
func (c asking) Put(ctx context.Context, t schemas.Type, id schemas.ID, body []byte, made visualcron.SecretMode) (stored []byte, err error) {
	c.answers.asked()
	defer func() { c.answers.over(ctx, err) }()
	return c.Connector.Put(ctx, t, id, body, made)
}

// Delete is Connector's.
func (c asking) Delete(ctx context.Context, t schemas.Type, id schemas.ID) (err error) {
	c.answers.asked()
	defer func() { c.answers.over(ctx, err) }()
	return c.Connector.Delete(ctx, t, id)
}
