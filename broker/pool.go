package broker

import (
	"fmt"
	"sync"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// perConnection is how many users share a connection: with hundreds on one,
// deliveries were measured to stall.
const perConnection = 20

// Pool hands out connections, each to at most 20 users, and closes those that
// nobody uses.
type Pool struct {
	b    *Broker
	name string

	mu    sync.Mutex
	conns []*pooled
}

type pooled struct {
	nc    *nats.Conn
	js    jetstream.JetStream
	users int
}

// NewPool returns an empty pool; name is what its connections are called.
func (b *Broker) NewPool(name string) *Pool { return &Pool{b: b, name: name} }

// Take returns a JetStream context on a connection that has room, and what gives the
// place back.
func (p *Pool) Take() (jetstream.JetStream, func(), error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.conns {
		if c.users < perConnection {
			c.users++
			return c.js, p.back(c), nil
		}
	}
	nc, err := p.b.Connect(fmt.Sprintf("%s (%d)", p.name, len(p.conns)+1))
	if err != nil {
		return nil, nil, err
	}
	js, err := p.b.JetStreamOn(nc)
	if err != nil {
		nc.Close()
		return nil, nil, err
	}
	c := &pooled{nc, js, 1}
	p.conns = append(p.conns, c)
	return js, p.back(c), nil
}

func (p *Pool) back(c *pooled) func() {
	return sync.OnceFunc(func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		c.users--
		p.trim()
	})
}

// trim needs the lock. It closes what nobody uses, but for one connection.
func (p *Pool) trim() {
	kept := p.conns[:0]
	idle := 0
	for _, c := range p.conns {
		if c.users == 0 {
			if idle++; idle > 1 {
				c.nc.Close()
				continue
			}
		}
		kept = append(kept, c)
	}
	clear(p.conns[len(kept):])
	p.conns = kept
}

// Connections returns how many connections there are.
func (p *Pool) Connections() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.conns)
}

// Close closes all connections; nobody uses one any more.
func (p *Pool) Close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.conns {
		c.nc.Close()
	}
	p.conns = nil
}
