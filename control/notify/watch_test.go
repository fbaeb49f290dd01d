package notify

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/vcsync/vcsync/control"
)

// world is a status that tests change, and what was told of it.
type world struct {
	mu     sync.Mutex
	status control.StatusReport
	err    error
	got    []Message
	fail   error
}

func (w *world) change(f func(*control.StatusReport)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	f(&w.status)
}

func (w *world) read(context.Context) (control.StatusReport, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	r := w.status
	r.ParkedBy, r.Sources, r.Targets, r.Settings = slices.Clone(r.ParkedBy), slices.Clone(r.Sources), slices.Clone(r.Targets), slices.Clone(r.Settings)
	return r, w.err
}

// told returns what was told since the last call, one line each.
func (w *world) told() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	var out []string
	for _, m := range w.got {
		out = append(out, fmt.Sprintf("%s %s: %s", m.Kind, m.State, m.Title))
	}
	w.got = nil
	return out
}

func (w *world) line(kinds ...Kind) Line {
	return Line{Number: 1, Service: "fake", kinds: kinds, send: func(_ context.Context, m Message) error {
		w.mu.Lock()
		defer w.mu.Unlock()
		if w.fail == nil {
			w.got = append(w.got, m)
		}
		return w.fail
	}}
}

func quiet() control.StatusReport {
	return control.StatusReport{
		Sources:  []control.SourceReport{{Server: "a", State: "capturing", Types: []control.SourceTypeReport{{Type: "Job"}, {Type: "Variable"}}}},
		Targets:  []control.TargetReport{{Server: "b", State: "working"}},
		Settings: []control.SettingReport{{Setting: "one", Source: "a", Target: "b", Active: true, Known: true, Drift: &control.DriftRecord{}}}}
}

// start runs a Notifier and returns what ends it.
func (w *world) start(t *testing.T, dir string, lines ...Line) (n *Notifier, stop func()) {
	t.Helper()
	if lines == nil {
		lines = []Line{w.line()}
	}
	ctx, cancel := context.WithCancel(t.Context())
	n = New(Config{Lines: lines, Grace: time.Minute, Dir: dir, From: "here", Log: slog.New(slog.DiscardHandler)})
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := n.Run(ctx, w.read); err != nil {
			t.Error(err)
		}
	}()
	stop = sync.OnceFunc(func() { cancel(); <-done })
	t.Cleanup(stop)
	return n, stop
}

func want(t *testing.T, got []string, want ...string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("told\n  %s\nwant\n  %s", strings.Join(got, "\n  "), strings.Join(want, "\n  "))
	}
}

func TestEveryKindBeginsAndEndsOnce(t *testing.T) {
	drift := func(n int) *control.DriftRecord { return &control.DriftRecord{Differs: n} }
	for _, c := range []struct {
		name        string
		begin       func(*control.StatusReport)
		begun, over string
	}{
		{"deletions are held at the source, of two types in one message", func(r *control.StatusReport) {
			r.Sources[0].Types = []control.SourceTypeReport{{Type: "Job", Held: 12}, {Type: "Variable", Held: 3}}
		}, "held began: 15 deletions wait for a person at source a", "held ended: over: no deletion waits any more at source a"},
		{"a deletion is held at the target", func(r *control.StatusReport) { r.Settings[0].DeletesHeld = 1 },
			"held began: 1 deletion waits for a person at target b", "held ended: over: no deletion waits any more at target b"},
		{"a burst of parked objects is one message", func(r *control.StatusReport) {
			r.ParkedBy = []control.ParkedCount{{Target: "b", Class: "refused", Count: 480}, {Target: "b", Class: "waiting", Count: 20}}
		}, "parked began: 500 objects are parked at target b", "parked ended: over: nothing is parked any more at target b"},
		{"the source is degraded", func(r *control.StatusReport) { r.Sources[0].State = "degraded" },
			"degraded began: source a is degraded: a listing fails or is not complete", "degraded ended: over: source a is listed completely again"},
		{"drift", func(r *control.StatusReport) { r.Settings[0].Drift = drift(7) },
			"drift began: 7 objects differ at target b from what setting one makes of it", "drift ended: over: target b is again as setting one makes it"},
		{"the target is down", func(r *control.StatusReport) { r.Targets[0].State = "down" },
			"down began: target b is down: it does not answer, or refuses the account", "down ended: over: target b answers again"},
		{"safe mode", func(r *control.StatusReport) { r.SafeMode.On = true },
			"safe-mode began: vcsync is in safe mode: it deletes nothing, and writes nothing but approved plans", "safe-mode ended: over: vcsync has left safe mode"},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := &world{status: quiet()}
				w.start(t, "")
				time.Sleep(5 * time.Minute)
				want(t, w.told())
				w.change(c.begin)
				time.Sleep(50 * time.Second)
				want(t, w.told()) // within the grace
				time.Sleep(time.Hour)
				want(t, w.told(), c.begun)
				w.change(func(r *control.StatusReport) { *r = quiet() })
				time.Sleep(50 * time.Second)
				want(t, w.told()) // it may come back
				time.Sleep(time.Hour)
				want(t, w.told(), c.over)
			})
		})
	}
}

func TestWhatPassesIsNotTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &world{status: quiet()}
		w.start(t, "")
		for range 20 { // it flaps faster than the grace, down and up
			w.change(func(r *control.StatusReport) { r.Targets[0].State = "down" })
			time.Sleep(40 * time.Second)
			w.change(func(r *control.StatusReport) { r.Targets[0].State = "working" })
			time.Sleep(20 * time.Second)
		}
		want(t, w.told())
		w.change(func(r *control.StatusReport) { r.Targets[0].State = "down" })
		time.Sleep(2 * time.Minute)
		want(t, w.told(), "down began: target b is down: it does not answer, or refuses the account")
		for range 20 { // what was told does not end in between
			w.change(func(r *control.StatusReport) { r.Targets[0].State = "working" })
			time.Sleep(30 * time.Second)
			w.change(func(r *control.StatusReport) { r.Targets[0].State = "down" })
			time.Sleep(30 * time.Second)
		}
		want(t, w.told())
	})
}

func TestWhatLastsIsRepeatedOnceADay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &world{status: quiet()}
		w.start(t, "")
		w.change(func(r *control.StatusReport) {
			r.ParkedBy = []control.ParkedCount{{Target: "b", Class: "refused", Count: 3}}
		})
		time.Sleep(2 * time.Minute)
		want(t, w.told(), "parked began: 3 objects are parked at target b")
		w.change(func(r *control.StatusReport) { r.ParkedBy[0].Count = 4 })
		time.Sleep(23 * time.Hour)
		want(t, w.told())
		time.Sleep(49 * time.Hour)
		want(t, w.told(), "parked lasts: still: 4 objects are parked at target b", "parked lasts: still: 4 objects are parked at target b", "parked lasts: still: 4 objects are parked at target b")
	})
}

func TestWhatIsNotKnownIsNoEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &world{status: quiet()}
		w.change(func(r *control.StatusReport) { r.Targets[0].State = "down" })
		w.start(t, "")
		time.Sleep(2 * time.Minute)
		want(t, w.told(), "down began: target b is down: it does not answer, or refuses the account")
		w.change(func(r *control.StatusReport) { r.Targets[0].State = "no consumer has it" })
		time.Sleep(50 * time.Minute)
		want(t, w.told())
		w.change(func(r *control.StatusReport) { r.Targets[0].State = "down" })
		time.Sleep(50 * time.Minute)
		want(t, w.told())
		// Nor is a status that cannot be read.
		w.mu.Lock()
		w.err = errors.New("no store")
		w.mu.Unlock()
		time.Sleep(12 * time.Hour)
		want(t, w.told())
		w.mu.Lock()
		w.err = nil
		w.mu.Unlock()
		w.change(func(r *control.StatusReport) { r.Targets = nil })
		time.Sleep(2 * time.Hour)
		want(t, w.told(), "down unknown: not known any more: target b is down: it does not answer, or refuses the account")
		time.Sleep(48 * time.Hour)
		want(t, w.told())
	})
}

func TestARestartTellsNothingTwice(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		w := &world{status: quiet()}
		w.change(func(r *control.StatusReport) { r.SafeMode.On, r.Targets[0].State = true, "down" })
		_, stop := w.start(t, dir)
		time.Sleep(2 * time.Minute)
		if got := w.told(); len(got) != 2 {
			t.Fatal(got)
		}
		stop()
		_, stop = w.start(t, dir)
		time.Sleep(time.Hour)
		want(t, w.told())
		stop()
		w.change(func(r *control.StatusReport) { r.SafeMode.On = false }) // while none runs
		_, stop = w.start(t, dir)
		time.Sleep(time.Hour)
		want(t, w.told(), "safe-mode ended: over: vcsync has left safe mode")
		stop()
		// Without the file it is told once more.
		w.start(t, t.TempDir())
		time.Sleep(time.Hour)
		want(t, w.told(), "down began: target b is down: it does not answer, or refuses the account")
	})
}

// A process that ends while a message is under way tells it at its next start.
func TestWhatWasNotSentIsToldAfterARestart(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		w := &world{status: quiet(), fail: errors.New("no way")}
		w.change(func(r *control.StatusReport) { r.SafeMode.On = true })
		_, stop := w.start(t, dir)
		time.Sleep(90 * time.Second)
		stop()
		w.mu.Lock()
		w.fail = nil
		w.mu.Unlock()
		w.start(t, dir)
		time.Sleep(time.Hour)
		if got := w.told(); len(got) != 1 || !strings.HasPrefix(got[0], "safe-mode began") {
			t.Errorf("told %q", got)
		}
	})
}

func TestALineTakesItsKinds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		all, some := &world{status: quiet()}, &world{}
		all.change(func(r *control.StatusReport) { r.SafeMode.On, r.Targets[0].State = true, "down" })
		all.start(t, "", all.line(), some.line(Down, Parked))
		time.Sleep(2 * time.Minute)
		if got := all.told(); len(got) != 2 {
			t.Errorf("all: %q", got)
		}
		if got := some.told(); len(got) != 1 || !strings.HasPrefix(got[0], "down") {
			t.Errorf("some: %q", got)
		}
	})
}

// One receiver that hangs delays no other and nothing else; its queue is bounded and what
// is beyond is counted.
func TestAReceiverThatHangsDelaysNoOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &world{status: quiet()}
		hangs := Line{Number: 2, Service: "fake", send: func(ctx context.Context, _ Message) error { <-ctx.Done(); return ctx.Err() }}
		n, _ := w.start(t, "", w.line(), hangs)
		w.change(func(r *control.StatusReport) {
			r.Targets = nil
			for i := range 100 {
				r.Targets = append(r.Targets, control.TargetReport{Server: fmt.Sprintf("t%02d", i), State: "down"})
			}
		})
		time.Sleep(75 * time.Second)
		// The first 64 wait, and one may be on its way.
		if got := w.told(); len(got) < 64 {
			t.Errorf("the other got %d", len(got))
		}
		time.Sleep(12 * time.Hour)
		count := map[string]uint64{}
		n.Counts(func(kind, result string, v uint64) {
			if kind == "down" {
				count[result] = v
			}
		})
		if count[ResultSent]+count[ResultFailed]+count[ResultDropped] != 200 || count[ResultFailed] < queueLength || count[ResultDropped] == 0 {
			t.Errorf("%v, want 200 in all", count)
		}
	})
}

func TestMessagesSayWhatToDo(t *testing.T) {
	begin := time.Date(2026, 3, 4, 15, 16, 0, 0, time.UTC)
	m := message(subject{Kind: Parked, Target: "b"}, Lasts, reading{on: true, count: 500, detail: []string{"refused", "waiting"}}, begin, begin.Add(26*time.Hour), "here", "id")
	const text = "Since 2026-03-04 15:16 UTC, for 26 h 0 min. Of: refused, waiting.\nNext: vcsync parked list --target b\nFrom vcsync at here."
	if m.Title != "still: 500 objects are parked at target b" || m.Text != text || m.Command != "vcsync parked list --target b" {
		t.Errorf("%q\n%s", m.Title, m.Text)
	}
}
