package e2e

import (
	"context"
	"log/slog"
	"path/filepath"
	"testing"
	"time"

	"github.com/vcsync/vcsync/broker"
	"github.com/vcsync/vcsync/schemas"
)

// TestAWatchSeesAgain cuts a process off from the broker and lets it back. From then on
// it has to see what others change: a setting that was switched off meanwhile must not
// stay in force there (G13), and a lease that moved must be seen to move.
func TestAWatchSeesAgain(t *testing.T) {
	address, err := FreeAddr()
	if err != nil {
		t.Fatal(err)
	}
	dir, log := t.TempDir(), slog.New(slog.DiscardHandler)
	data := filepath.Join(dir, "data")
	own, err := broker.Open(t.Context(), broker.Config{Dir: data, LazySync: true, Listen: address, EventsMaxBytes: 1 << 30, Log: log})
	if err != nil {
		t.Fatal(err)
	}
	defer own.Close()
	link, err := NewLink(address)
	if err != nil {
		t.Fatal(err)
	}
	defer link.Close()
	far, err := broker.Open(t.Context(), broker.Config{Dir: filepath.Join(dir, "far"), Keys: data, Role: broker.Consumer, URL: "nats://" + link.Addr(),
		Seed: filepath.Join(data, "broker.nk"), Log: log})
	if err != nil {
		t.Fatal(err)
	}
	defer far.Close()

	s := AllJobs("to-test", "production", "test", schemas.Keep)
	s.Normalize()
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	seen := make(chan uint64, 100)
	ended := make(chan error, 1)
	go func() {
		ended <- far.WatchConfig(ctx, func(snap broker.Snapshot) {
			if x, ok := snap.Settings[s.ID]; ok {
				seen <- x.Revision
			}
		})
	}()
	shares := map[string]*broker.Share{}
	for name, b := range map[string]*broker.Broker{"near": own, "far": far} {
		share, err := b.NewShare(ctx, broker.ShareConfig{Role: "consumer", Prefix: "target.", Instance: name, Times: broker.LeaseTimes{TTL: 10 * time.Second}})
		if err != nil {
			t.Fatal(err)
		}
		defer share.Close()
		shares[name] = share
		share.Want([]string{"test"})
	}
	within := func(limit time.Duration, what string, ok func() bool) {
		t.Helper()
		for begun := time.Now(); !ok(); time.Sleep(10 * time.Millisecond) {
			if time.Since(begun) > limit {
				t.Fatalf("not within %s: %s", limit, what)
			}
		}
	}
	var rev uint64
	sees := func(limit time.Duration, what string) {
		t.Helper()
		if rev, err = own.PutSetting(t.Context(), s, rev); err != nil {
			t.Fatal(err)
		}
		within(limit, what, func() bool {
			select {
			case err := <-ended:
				t.Fatalf("the watch has ended: %v", err)
			case got := <-seen:
				return got == rev
			default:
			}
			return false
		})
	}
	sees(3*time.Second, "the setting is seen")
	within(3*time.Second, "each knows of the other", func() bool { return shares["near"].Others("test") && shares["far"].Others("test") })
	for _, c := range []struct {
		name       string
		cut, again func()
	}{{"connections stay", link.Pause, link.Flow}, {"connections end", link.Cut, link.Flow}} {
		c.cut()
		within(25*time.Second, "the far one counts as dead where "+c.name, func() bool { return !shares["near"].Others("test") })
		if rev, err = own.PutSetting(t.Context(), s, rev); err != nil {
			t.Fatal(err)
		}
		c.again()
		sees(5*time.Second, "a setting is seen again after a cut where "+c.name)
		within(5*time.Second, "each knows of the other again after a cut where "+c.name, func() bool { return shares["near"].Others("test") && shares["far"].Others("test") })
	}
}
