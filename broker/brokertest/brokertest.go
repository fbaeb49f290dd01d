// Package brokertest starts a real broker inside the test process, also inside a
// testing/synctest bubble. It promises that nothing of it is left when the test
// ends, and that no network and no port is used.
package brokertest

import (
	"context"
	"log/slog"
	"testing"

	"github.com/nats-io/nats-server/v2/server/ats"

	"github.com/vcsync/vcsync/broker"
)

// The server's clock ticker lives as long as the process, so it has to be started
// outside of any bubble.
func init() { ats.Register() }

// Start returns a broker that lives as long as t and keeps its files in
// t.TempDir. It does not sync to disk; tests of that open their own.
func Start(t testing.TB) *broker.Broker {
	t.Helper()
	return Open(t, t.TempDir())
}

// Open is Start on a folder of the caller's, so that a test can close the broker
// and open it again. Closing it twice does no harm.
func Open(t testing.TB, dir string) *broker.Broker {
	t.Helper()
	b, err := broker.Open(context.Background(), broker.Config{Dir: dir, LazySync: true, EventsMaxBytes: 1 << 30, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatalf("open broker: %v", err)
	}
	t.Cleanup(func() {
		if err := b.Close(); err != nil {
			t.Errorf("close broker: %v", err)
		}
	})
	return b
}
