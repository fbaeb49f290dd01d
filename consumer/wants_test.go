package consumer

import (
	"context"
	"testing"

	"github.com/vcsync/vcsync/broker"
	"github.com/vcsync/vcsync/consumer/decide"
	"github.com/vcsync/vcsync/schemas"
)

// TestAGrantStandsBeforeAnAuditsWish: an audit wants an object healed, and its lane waits
// for a sync window. What a person approves then is taken up at once and first; what an
// audit wants after that adds nothing.
func TestAGrantStandsBeforeAnAuditsWish(t *testing.T) {
	s := &session{target: &target{}, lanes: newLanes(), wishes: map[objectKey][]*wish{}}
	ctx, cancel := context.WithCancel(t.Context())
	cancel() // next waits for nothing
	s.wishFor(key("a"), &wish{})
	ln := s.lanes.next(ctx)
	msgs, _, _ := s.lanes.take(ln)
	s.lanes.awaitWindow(ln, &errWindow{}, msgs)
	if s.lanes.next(ctx) != nil {
		t.Fatal("it does not wait")
	}
	v := &view{runs: map[schemas.Slug]running{"s": {run: broker.StoredRun{Run: broker.Run{ID: "r", Plan: "p", Phase: broker.RunApplying}}}}}
	valid := func() bool { return false }
	grants := []*wish{{setting: "s", run: "r", plan: "p", expired: valid}, {setting: "s", run: "r", plan: "p", expired: valid}}
	for _, w := range grants {
		s.wishFor(key("a"), w)
	}
	s.wishFor(key("a"), &wish{})
	if ln = s.lanes.next(ctx); ln == nil {
		t.Fatal("it waits on")
	}
	for i, w := range grants {
		l := &look{session: s, key: key("a")}
		if l.take(v); l.took != w || l.grant != w || l.occasion != decide.SyncNow {
			t.Errorf("look %d took %+v, grant %+v, occasion %d", i, l.took, l.grant, l.occasion)
		}
		if !s.unwish(key("a"), w) {
			t.Errorf("grant %d was taken back", i)
		}
	}
	if s.isWished(key("a")) {
		t.Error("something is wished still")
	}
}
