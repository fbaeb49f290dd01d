package broker

import (
	"context"
	"log/slog"
	"testing"
)

// A connection that is closed is forgotten: a process whose targets come and go for
// months must not hold all that it ever had.
func TestClosedConnectionsAreForgotten(t *testing.T) {
	b, err := Open(context.Background(), Config{Dir: t.TempDir(), LazySync: true, EventsMaxBytes: 1 << 30, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	p := b.NewPool("test")
	defer p.Close()
	for range 20 {
		var backs []func()
		for range 2*perConnection + 1 {
			_, back, err := p.Take()
			if err != nil {
				t.Fatal(err)
			}
			backs = append(backs, back)
		}
		for _, back := range backs {
			back()
		}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if n := len(b.conns); n > 5 {
		t.Errorf("%d connections are held, %d of the pool are open", n, p.Connections())
	}
}
