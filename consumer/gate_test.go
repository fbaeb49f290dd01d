package consumer

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/vcsync/vcsync/schemas"
	"github.com/vcsync/vcsync/visualcron"
)

func key(id string) objectKey { return objectKey{schemas.Job, schemas.ID(id)} }

// withGate runs f with a gate whose probes answer what probe returns.
func withGate(t *testing.T, probe func() error, f func(t *testing.T, g *gate, probes *atomic.Int32)) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		var probes atomic.Int32
		g := newGate(func(context.Context) error { probes.Add(1); return probe() }, func(bool, error) {})
		done := make(chan struct{})
		go func() { defer close(done); g.run(ctx) }()
		f(t, g, &probes)
		cancel()
		<-done
	})
}

// entered tells whether a request may start within the time.
func entered(t *testing.T, g *gate, within time.Duration) bool {
	ctx, cancel := context.WithTimeout(t.Context(), within)
	defer cancel()
	_, err := g.enter(ctx)
	return err == nil
}

func TestGate(t *testing.T) {
	busy := &visualcron.Error{Class: visualcron.Busy, RetryAfter: 30 * time.Second}
	fault := &visualcron.Error{Class: visualcron.Fault}
	fine := func() error { return nil }
	t.Run("one object in trouble does not shut it", func(t *testing.T) {
		withGate(t, fine, func(t *testing.T, g *gate, _ *atomic.Int32) {
			for range 100 {
				g.bad(key("a"), fault)
			}
			if shut, _, _ := g.state(); shut {
				t.Error("shut")
			}
		})
	})
	t.Run("several in a row do, and one that goes through in between starts the count anew", func(t *testing.T) {
		withGate(t, fine, func(t *testing.T, g *gate, _ *atomic.Int32) {
			for _, id := range []string{"a", "b", "c", "d"} {
				g.bad(key(id), fault)
			}
			g.ok(key("e"))
			for _, id := range []string{"a", "b", "c", "d"} {
				g.bad(key(id), fault)
			}
			if shut, _, _ := g.state(); shut {
				t.Error("shut too early")
			}
			g.bad(key("e"), fault)
			if shut, _, _ := g.state(); !shut {
				t.Error("not shut")
			}
		})
	})
	t.Run("waits as long as the target asks, then lets one object go first", func(t *testing.T) {
		withGate(t, fine, func(t *testing.T, g *gate, probes *atomic.Int32) {
			g.down(busy)
			if entered(t, g, 29*time.Second) || probes.Load() != 0 {
				t.Fatal("a request or a probe before the target's time was over")
			}
			if !entered(t, g, 5*time.Second) {
				t.Fatal("nobody goes first")
			}
			if entered(t, g, time.Hour) {
				t.Fatal("a second one while the first is under way")
			}
			g.ok(key("a"))
			for range 2 {
				if !entered(t, g, 0) {
					t.Error("still shut after the first went through")
				}
			}
		})
	})
	t.Run("a first object that fails shuts it for longer", func(t *testing.T) {
		withGate(t, fine, func(t *testing.T, g *gate, probes *atomic.Int32) {
			g.down(errors.New("refused"))
			for range 20 {
				if !entered(t, g, 10*time.Minute) {
					t.Fatal("nobody goes first")
				}
				g.down(errors.New("refused"))
			}
			n := probes.Load()
			time.Sleep(10 * time.Minute)
			if probes.Load() != n+1 {
				t.Errorf("%d probes while one may go first", probes.Load()-n)
			}
		})
	})
	t.Run("probes at most every half minute on average, and opens when the target is back", func(t *testing.T) {
		var down atomic.Bool
		down.Store(true)
		withGate(t, func() error {
			if down.Load() {
				return errors.New("refused")
			}
			return nil
		}, func(t *testing.T, g *gate, probes *atomic.Int32) {
			g.down(errors.New("refused"))
			time.Sleep(time.Hour)
			if n := probes.Load(); n < 60 || n > 400 {
				t.Errorf("%d probes in an hour", n)
			}
			down.Store(false)
			if !entered(t, g, time.Minute) {
				t.Error("still shut a minute after the target is back")
			}
		})
	})
	t.Run("a refused account is asked for less often", func(t *testing.T) {
		refused := &visualcron.Error{Class: visualcron.Unauthorized, Status: 401}
		withGate(t, func() error { return refused }, func(t *testing.T, g *gate, probes *atomic.Int32) {
			g.down(refused)
			time.Sleep(time.Hour)
			if n := probes.Load(); n > 60 {
				t.Errorf("%d logons in an hour may lock the account", n)
			}
		})
	})
}
