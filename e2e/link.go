package e2e

import (
	"bytes"
	"errors"
	"io"
	"net"
	"sync"
)

// Link is a TCP proxy that can stand still: the network between a process and the
// broker, or whatever else it connects. It flows from the start.
type Link struct {
	listener net.Listener
	to       string

	mu    sync.Mutex
	moved chan struct{} // closed and replaced when the state changes
	state linkState
	conns map[net.Conn]bool
	ended bool
	// holdAt pauses the link in front of bytes that hold this, nil for nothing, and
	// then closes held.
	holdAt []byte
	held   chan struct{}
	wg     sync.WaitGroup
}

type linkState int

const (
	flows linkState = iota
	paused
	cut
)

// NewLink listens on loopback and passes all bytes on to an address.
func NewLink(to string) (*Link, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	k := &Link{listener: l, to: to, moved: make(chan struct{}), conns: map[net.Conn]bool{}}
	k.wg.Go(k.accept)
	return k, nil
}

// Addr returns the address that it listens on.
func (k *Link) Addr() string { return k.listener.Addr().String() }

// Pause lets bytes stop in both directions. Connections stay, and new ones are taken
// and get no answer. What was sent meanwhile arrives after Flow, in its order and
// late, as after a network that was broken for a while.
func (k *Link) Pause() { k.set(paused) }

// Cut ends all connections, and every new one at once.
func (k *Link) Cut() { k.set(cut) }

// Flow lets everything pass again.
func (k *Link) Flow() { k.set(flows) }

// Close ends all connections and the listening.
func (k *Link) Close() {
	k.mu.Lock()
	k.ended = true
	k.mu.Unlock()
	k.set(cut)
	k.listener.Close()
	k.wg.Wait()
}

func (k *Link) set(s linkState) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.ended {
		s = cut
	}
	k.state = s
	close(k.moved)
	k.moved = make(chan struct{})
	if s == cut {
		for c := range k.conns {
			reset(c)
		}
	}
}

// reset ends a connection so that nothing of what is under way arrives any more.
func reset(c net.Conn) {
	if t, ok := c.(*net.TCPConn); ok {
		_ = t.SetLinger(0)
	}
	_ = c.Close()
}

// passes waits while nothing flows; false when the link is cut.
func (k *Link) passes() bool {
	for {
		k.mu.Lock()
		state, moved := k.state, k.moved
		k.mu.Unlock()
		switch state {
		case flows:
			return true
		case cut:
			return false
		}
		<-moved
	}
}

func (k *Link) accept() {
	for {
		c, err := k.listener.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err == nil {
			k.wg.Go(func() { k.serve(c) })
		}
	}
}

// keep notes a connection, so that it can be cut; false where it is to be now.
func (k *Link) keep(c net.Conn) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.state == cut {
		reset(c)
		return false
	}
	k.conns[c] = true
	return true
}

func (k *Link) forget(c net.Conn) {
	c.Close()
	k.mu.Lock()
	delete(k.conns, c)
	k.mu.Unlock()
}

func (k *Link) serve(in net.Conn) {
	if !k.keep(in) {
		return
	}
	defer k.forget(in)
	if !k.passes() {
		return
	}
	out, err := net.Dial("tcp", k.to)
	if err != nil {
		reset(in)
		return
	}
	if !k.keep(out) {
		return
	}
	defer k.forget(out)
	var both sync.WaitGroup
	both.Go(func() { k.pump(out, in, k.looks) })
	both.Go(func() { k.pump(in, out, func([]byte) {}) })
	both.Wait()
}

// HoldAt pauses the link as soon as a client sends this, in front of it. It can be
// seen only where nothing is encrypted. What is returned is closed when that has
// happened.
func (k *Link) HoldAt(text string) <-chan struct{} {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.holdAt, k.held = []byte(text), make(chan struct{})
	return k.held
}

// looks pauses the link where the bytes hold what HoldAt waits for.
func (k *Link) looks(p []byte) {
	k.mu.Lock()
	hit := k.holdAt != nil && bytes.Contains(p, k.holdAt)
	if hit {
		k.holdAt = nil
		close(k.held)
	}
	k.mu.Unlock()
	if hit {
		k.Pause()
	}
}

// pump passes on what comes until one of the two ends, and then ends the other.
func (k *Link) pump(to, from net.Conn, look func([]byte)) {
	buf := make([]byte, 64<<10)
	for {
		n, err := from.Read(buf)
		look(buf[:n])
		if !k.passes() {
			break
		}
		if n > 0 {
			if _, werr := to.Write(buf[:n]); werr != nil {
				break
			}
		}
		if err != nil {
			if errors.Is(err, io.EOF) {
				if t, ok := to.(*net.TCPConn); ok {
					_ = t.CloseWrite()
					return // the other direction may go on
				}
			}
			break
		}
	}
	reset(to)
	reset(from)
}
