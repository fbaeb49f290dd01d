package consumer

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/vcsync/vcsync/broker"
	"github.com/vcsync/vcsync/schemas"
)

type fakeMsg struct {
	jetstream.Msg
	consumer string
	seq      uint64
}

func (m fakeMsg) Metadata() (*jetstream.MsgMetadata, error) {
	return &jetstream.MsgMetadata{Consumer: m.consumer, Sequence: jetstream.SequencePair{Stream: m.seq}}, nil
}

func TestLanes(t *testing.T) {
	ctx := context.Background()
	next := func(t *testing.T, l *lanes) *lane {
		t.Helper()
		ctx, cancel := context.WithCancel(ctx)
		cancel()
		return l.next(ctx)
	}
	t.Run("an object is in one place at a time", func(t *testing.T) {
		l := newLanes()
		l.look(key("a"), nil, nil, false)
		ln := next(t, l)
		l.take(ln)
		l.look(key("a"), nil, nil, false) // while it is worked on
		if next(t, l) != nil {
			t.Fatal("two workers on one object")
		}
		l.finish(ln)
		if again := next(t, l); again != ln {
			t.Error("the second ask is lost")
		}
	})
	t.Run("a lane that waits is not worked on", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			l := newLanes()
			for _, wait := range []func(*lane){
				func(ln *lane) { l.awaitWindow(ln, &errWindow{}, nil) },
				func(ln *lane) { l.again(ctx, ln, time.Minute, nil, nil, false) },
				func(ln *lane) { l.await(ctx, ln, time.Minute, nil, nil, false) },
				func(ln *lane) { l.finish(ln) },
			} {
				l.look(key("a"), nil, nil, false)
				ln := next(t, l)
				if l.take(ln); !l.isWorked(key("a")) {
					t.Error("one that has a worker is not worked on")
				}
				if wait(ln); l.isWorked(key("a")) {
					t.Error("one that waits is worked on")
				}
				l.nudge(key("a"))
				time.Sleep(2 * time.Minute)
				if ln = next(t, l); ln != nil {
					l.take(ln)
					l.finish(ln)
				}
			}
		})
	})
	t.Run("a lane that waits for its next try lets others pass", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			l := newLanes()
			l.look(key("poisoned"), nil, nil, false)
			ln := next(t, l)
			msgs, passes, retry := l.take(ln)
			l.again(ctx, ln, time.Minute, msgs, passes, retry)
			l.look(key("b"), nil, nil, false)
			l.look(key("poisoned"), nil, nil, false) // a newer version does not shorten the wait
			if b := next(t, l); b == nil || b.key != key("b") {
				t.Error("the neighbour waits")
			}
			if next(t, l) != nil {
				t.Error("the poisoned object does not wait")
			}
			time.Sleep(61 * time.Second)
			if next(t, l) != ln {
				t.Error("the poisoned object is lost")
			}
		})
	})
	t.Run("the same message again and again is held once, the newest of each consumer", func(t *testing.T) {
		l := newLanes()
		for range 1000 {
			l.look(key("a"), fakeMsg{consumer: "set-1", seq: 5}, nil, false)
		}
		l.look(key("a"), fakeMsg{consumer: "set-1", seq: 9}, nil, false)
		l.look(key("a"), fakeMsg{consumer: "set-1", seq: 5}, nil, false)
		l.look(key("a"), fakeMsg{consumer: "set-2", seq: 5}, nil, false)
		msgs, _, _ := l.take(next(t, l))
		if len(msgs) != 2 || msgs["set-1"].(fakeMsg).seq != 9 {
			t.Errorf("%v", msgs)
		}
	})
	t.Run("a lane that waits for a window is left in peace until it opens, unless there is news", func(t *testing.T) {
		l, v := newLanes(), &view{}
		now := time.Now()
		opens := now.Add(5 * time.Second)
		wait := func(seq uint64) *lane {
			t.Helper()
			ln := next(t, l)
			if ln == nil {
				t.Fatal("nothing to do")
			}
			msgs, _, _ := l.take(ln)
			if m := msgs["set-1"]; m == nil || m.(fakeMsg).seq != seq {
				t.Fatalf("%v, want message %d", msgs, seq)
			}
			l.awaitWindow(ln, &errWindow{opens: opens, setting: "s", under: v.inForce()}, msgs)
			return ln
		}
		l.look(key("a"), fakeMsg{consumer: "set-1", seq: 5}, nil, false)
		ln := wait(5)
		l.look(key("a"), fakeMsg{consumer: "set-1", seq: 5}, nil, false) // the broker sends it again
		p := &pass{left: 1}
		l.look(key("a"), nil, p, false)
		if next(t, l) != nil || p.left != 1 || l.waitingFor("s") != 1 || l.waitingFor("other") != 0 {
			t.Error("the same again makes it look, or holds up a pass, or it is not counted")
		}
		l.look(key("a"), fakeMsg{consumer: "set-1", seq: 6}, nil, false)
		wait(6)
		l.look(key("a"), nil, nil, true)
		if next(t, l) != ln {
			t.Fatal("a person's retry does not make it look")
		}
		msgs, _, _ := l.take(ln)
		l.look(key("a"), fakeMsg{consumer: "set-1", seq: 7}, nil, false) // while it is worked on
		l.awaitWindow(ln, &errWindow{opens: opens, setting: "s", under: v.inForce()}, msgs)
		wait(7)
		if again := l.openWindow(v, now); again != 5*time.Second || next(t, l) != nil {
			t.Errorf("looks again in %s before it opens, want 5s", again)
		}
		if again := l.openWindow(v, opens); again != 0 || next(t, l) != ln {
			t.Error("it does not go when its window opens")
		}
		msgs, _, _ = l.take(ln)
		l.awaitWindow(ln, &errWindow{under: v.inForce()}, msgs)
		if again := l.openWindow(v, now); again != windowLook {
			t.Errorf("one that is not to open is looked for in %s", again)
		}
		if again := l.openWindow(&view{settings: map[schemas.Slug]broker.StoredSetting{"s": {}}}, now); again != 0 || next(t, l) != ln {
			t.Error("it does not go when the settings change")
		}
	})
	t.Run("a pass ends when its last object does, and counts what was parked", func(t *testing.T) {
		l := newLanes()
		ended := -1
		p := &pass{left: 1, ended: func(parked int) { ended = parked }}
		l.look(key("a"), nil, p, false)
		l.look(key("b"), nil, p, false)
		p.done(false) // the comparison itself
		for i, parked := range []bool{true, false} {
			if ended != -1 {
				t.Fatalf("ended after %d of 2", i)
			}
			ln := next(t, l)
			_, passes, _ := l.take(ln)
			for _, p := range passes {
				p.done(parked)
			}
			l.finish(ln)
		}
		if ended != 1 || l.count() != 0 {
			t.Errorf("ended with %d parked, %d lanes left", ended, l.count())
		}
	})
}
