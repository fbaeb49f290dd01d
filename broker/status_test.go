package broker_test

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/vcsync/vcsync/broker"
)

func TestAProcessSaysHowItDoes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, err := broker.Open(t.Context(), broker.Config{Dir: t.TempDir(), LazySync: true, Settle: 5 * time.Second, EventsMaxBytes: 1 << 30, Log: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		defer b.Close()
		ctx, stop := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		defer wg.Wait()
		defer stop()
		var mu sync.Mutex
		var heard []broker.ProcessStatus
		var gone int
		wg.Go(func() {
			_ = b.WatchStatus(ctx, func(s broker.ProcessStatus, g bool) {
				mu.Lock()
				defer mu.Unlock()
				if g {
					gone++
				} else {
					heard = append(heard, s)
				}
			})
		})
		count := func() (int, int) {
			mu.Lock()
			defer mu.Unlock()
			return len(heard), gone
		}
		var word atomic.Int64
		run, end := context.WithCancel(ctx)
		done := make(chan error, 1)
		r := broker.Reporter{Broker: b, Role: broker.RoleNameConsumer, Instance: "c-1", Version: "v9", Words: func() any { return map[string]int64{"word": word.Load()} }}
		go func() { done <- r.Run(run) }()
		time.Sleep(61 * time.Second)
		if n, _ := count(); n != 7 {
			t.Errorf("it spoke %d times in a minute without any news, want 7", n)
		}
		word.Add(1)
		time.Sleep(2500 * time.Millisecond)
		if n, _ := count(); n != 8 {
			t.Errorf("it spoke %d times, want once more for the news", n)
		}
		for range 20 {
			word.Add(1)
			time.Sleep(500 * time.Millisecond)
		}
		if n, _ := count(); n < 12 || n > 13 {
			t.Errorf("it spoke %d times, want every 2 seconds while there is news", n)
		}
		mu.Lock()
		last, first := heard[len(heard)-1], heard[0]
		mu.Unlock()
		if last.Role != "consumer" || last.Instance != "c-1" || last.Version != "v9" || last.PID == 0 || last.Host == "" || last.Memory == 0 || last.Goroutines == 0 ||
			last.Boot == "" || last.Boot != first.Boot || !last.Started.Equal(first.Started) || last.Revision <= first.Revision || string(first.Words) != `{"word":0}` {
			t.Errorf("%+v\n%+v", first, last)
		}
		end()
		if err := <-done; err != nil {
			t.Error(err)
		}
		time.Sleep(time.Second)
		if _, g := count(); g != 1 {
			t.Errorf("taken back %d times, want once", g)
		}
	})
}
