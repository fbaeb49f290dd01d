package producer

import (
	"context"
	"sync"

	"github.com/vcsync/vcsync/broker"
	"github.com/vcsync/vcsync/schemas"
)

// echo knows what vcsync itself last wrote to this source in its role as a target,
// or found equal there, so that such content is marked with the path it came by
// (G8).
type echo struct {
	mu sync.Mutex
	at map[objectKey]broker.Entry
	// spent holds the entries after which this source has published the object: what
	// comes later was made here, even where it has the old content again.
	spent map[objectKey]broker.Entry
}

type objectKey struct {
	t  schemas.Type
	id schemas.ID
}

// follow keeps the knowledge current until ctx ends; ready is called when it is.
func (e *echo) follow(ctx context.Context, b *broker.Broker, server schemas.Slug, ready func()) error {
	e.mu.Lock()
	e.at = map[objectKey]broker.Entry{}
	if e.spent == nil {
		e.spent = map[objectKey]broker.Entry{}
	}
	e.mu.Unlock()
	return b.WatchLedger(ctx, server, func(x broker.Entry) {
		e.mu.Lock()
		e.at[objectKey{x.Type, x.ID}] = x
		e.mu.Unlock()
	}, ready)
}

// path returns the servers that this content of an object came by, nil where it
// was made here. The empty digest stands for the object's absence.
func (e *echo) path(t schemas.Type, id schemas.ID, digest, last schemas.Digest) []schemas.Slug {
	e.mu.Lock()
	defer e.mu.Unlock()
	k := objectKey{t, id}
	x, ok := e.at[k]
	if !ok || x.AtTarget != digest || x.Version.IsZero() && x.State == broker.Adopted {
		return nil // never ours, or changed since, or found there and not equal
	}
	if s, ok := e.spent[k]; ok && last != digest && s.Source == x.Source && s.From() == x.From() && s.Version == x.Version {
		return nil // an edit that was undone: the old content, and a new change
	}
	return x.Path
}

// spend notes that the source has published the object after what is on record now.
func (e *echo) spend(t schemas.Type, id schemas.ID) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if x, ok := e.at[objectKey{t, id}]; ok && x.State != broker.Intent {
		e.spent[objectKey{t, id}] = x
	}
}
