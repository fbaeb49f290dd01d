package bridge_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vcsync/vcsync/schemas"
	"github.com/vcsync/vcsync/visualcron"
)

// until is a bound that a test moves into the past.
type until struct{ over atomic.Bool }

func (u *until) time() time.Time {
	if u.over.Load() {
		return time.Now().Add(-time.Second)
	}
	return time.Now().Add(time.Hour)
}

func TestNothingIsSentAfterTheBound(t *testing.T) {
	var requests atomic.Int64
	b, _ := fake(t, func(w http.ResponseWriter, r *http.Request) {
		requests.Add(1)
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.Copy(w, r.Body)
	})
	var u until
	b.NotAfter(u.time)
	job := []byte(`{"Id":"` + guid + `","Name":"Nightly"}`)
	if _, err := b.Put(t.Context(), schemas.Job, guid, job, visualcron.SecretsEqual); err != nil {
		t.Fatal(err)
	}
	u.over.Store(true)
	before := requests.Load()
	_, err := b.Put(t.Context(), schemas.Job, guid, job, visualcron.SecretsEqual)
	if derr := b.Delete(t.Context(), schemas.Job, guid); err == nil || derr == nil || requests.Load() != before {
		t.Errorf("put %v, delete %v, %d requests arrived", err, derr, requests.Load()-before)
	}
}

// A process that stands still while a large body is on its way: the rest of it does
// not go out, and what broke off is no request.
func TestARequestThatTheBoundOvertakesBreaksOff(t *testing.T) {
	reading, goOn, done := make(chan struct{}), make(chan struct{}), make(chan error, 1)
	b, _ := fake(t, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.CopyN(io.Discard, r.Body, 64<<10)
		close(reading)
		<-goOn
		_, err := io.Copy(io.Discard, r.Body)
		done <- err
	})
	var u until
	b.NotAfter(u.time)
	job := []byte(`{"Id":"` + guid + `","Name":"` + strings.Repeat("x", 48<<20) + `"}`)
	put := make(chan error, 1)
	go func() {
		_, err := b.Put(t.Context(), schemas.Job, guid, job, visualcron.SecretsEqual)
		put <- err
	}()
	<-reading
	u.over.Store(true)
	close(goOn)
	if err := <-put; err == nil {
		t.Error("the write succeeded")
	}
	if err := <-done; err == nil {
		t.Error("the whole body arrived after the bound")
	}
}

// Many answers without end, side by side, take their turn.
func TestAnswersWithoutEndDoNotFillTheMemory(t *testing.T) {
	piece := bytes.Repeat([]byte("x"), 64<<10)
	var sent atomic.Int64
	b, _ := fake(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprint(w, `{"Id":"`+guid+`","Name":"`)
		for r.Context().Err() == nil {
			n, err := w.Write(piece)
			if err != nil {
				return
			}
			sent.Add(int64(n))
		}
	})
	const side = 32
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var most atomic.Uint64
	watched, watch := context.WithCancel(ctx)
	var watcher sync.WaitGroup
	watcher.Go(func() {
		for watched.Err() == nil {
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			most.Store(max(most.Load(), m.HeapAlloc))
			time.Sleep(5 * time.Millisecond)
		}
	})
	var wg sync.WaitGroup
	for range side {
		wg.Go(func() {
			_, err := b.Get(ctx, schemas.Job, guid)
			if visualcron.ClassOf(err) != visualcron.BadAnswer && visualcron.ClassOf(err) != visualcron.Timeout {
				t.Errorf("got %v", err)
			}
		})
	}
	wg.Wait()
	watch()
	watcher.Wait()
	// All at once they would take 2 GiB, and as much again while they grow.
	if got := most.Load() >> 20; got > 1024 {
		t.Errorf("%d MiB of heap at most for %d answers of %d MiB each", got, side, visualcron.MaxBody>>20)
	}
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		t.Error("it took more than a minute")
	}
	t.Logf("%d answers without end sent %d MiB; the heap held %d MiB at most", side, sent.Load()>>20, most.Load()>>20)
}
