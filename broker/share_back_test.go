package broker_test

import (
	"context"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/vcsync/vcsync/broker"
)

// The store comes back without its last seconds, those in which an item was taken, as
// one that does not write to disk before it acknowledges does after a power cut. It
// catches up with its mark before that counts as a loss. The item must find somebody.
func TestAnItemFindsSomebodyAfterTheStoreWentBack(t *testing.T) {
	t.Parallel()
	s := newSite(t, broker.InitOptions{})
	s.open(t, "control", broker.Control)
	con := s.open(t, "consumer", broker.Consumer)
	share, err := con.NewShare(t.Context(), broker.ShareConfig{Role: "consumer", Prefix: "target.", Instance: "one",
		Times: broker.LeaseTimes{TTL: 3 * time.Second, Margin: 500 * time.Millisecond}})
	if err != nil {
		t.Fatal(err)
	}
	defer share.Close()
	share.Want([]string{"x"})
	acquire := func(limit time.Duration) (*broker.Lease, error) {
		ctx, cancel := context.WithTimeout(t.Context(), limit)
		defer cancel()
		return share.Acquire(ctx, "x")
	}
	l, err := acquire(20 * time.Second)
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Release(t.Context()); err != nil {
		t.Fatal(err)
	}
	old := t.TempDir()
	copyFolder(t, s.store, old) // as it is on disk at this moment
	if l, err = acquire(30 * time.Second); err != nil {
		t.Fatal(err)
	}
	time.Sleep(8 * time.Second)
	{
		kv, _ := con.JS().KeyValue(t.Context(), broker.BucketLease)
		e, _ := kv.Get(t.Context(), "target.x")
		t.Log("before", e.Revision(), string(e.Value()))
	}
	s.again(t, func(store string) { copyFolder(t, old, store) })
	show := func(what string) {
		var e jetstream.KeyValueEntry
		var st jetstream.Stream
		eventually(t, "read", func() bool {
			kv, err := con.JS().KeyValue(t.Context(), broker.BucketLease)
			if err == nil {
				e, err = kv.Get(t.Context(), "target.x")
			}
			if err == nil {
				st, err = con.JS().Stream(t.Context(), "KV_"+broker.BucketLease)
			}
			return err == nil
		})
		t.Log(what, e.Revision(), string(e.Value()), st.CachedInfo().State.LastSeq)
	}
	show("back")
	<-l.Context().Done()
	t.Log(context.Cause(l.Context()))
	show("lost")
	begun := time.Now()
	if l, err = acquire(90 * time.Second); err != nil {
		t.Errorf("nobody gets it: %v", err)
	} else {
		t.Logf("after %s", time.Since(begun))
		show("taken")
		l.Abandon()
	}
	select {
	case err := <-con.Lost():
		t.Logf("the process ends and finds it at its next start: %v", err)
	default:
	}
}
