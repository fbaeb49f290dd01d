package broker_test

import (
	"testing"
	"time"

	"github.com/vcsync/vcsync/broker"
)

// After the broker was away for a moment, a process learns of the others within less
// than the TTL of a lease: by then it takes all of them for dead.
func TestTheLeasesAreWatchedAgainSoon(t *testing.T) {
	t.Parallel()
	s := newSite(t, broker.InitOptions{})
	s.open(t, "control", broker.Control)
	a, b := s.open(t, "consumer", broker.Consumer), s.open(t, "consumer", broker.Consumer)
	join := func(x *broker.Broker, name string) *broker.Share {
		share, err := x.NewShare(t.Context(), broker.ShareConfig{Role: "consumer", Prefix: "target.", Instance: name})
		if err != nil {
			t.Fatal(err)
		}
		share.Want([]string{"x", "y"})
		return share
	}
	one, two := join(a, "one"), join(b, "two")
	defer one.Close()
	defer two.Close()
	eventually(t, "they see each other", func() bool { return one.Others("x") && two.Others("x") })
	time.Sleep(5 * time.Second)
	s.again(t, func(string) {})
	begun := time.Now()
	var alone time.Duration
	for time.Since(begun) < 20*time.Second {
		time.Sleep(100 * time.Millisecond)
		if !one.Others("x") || !two.Others("x") {
			alone += 100 * time.Millisecond
		}
	}
	if alone > 0 {
		t.Errorf("for about %s of 20 s after a restart of the broker one took the other for dead, and both lived", alone)
	}
}
