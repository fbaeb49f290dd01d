package e2e_test

import (
	"bytes"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vcsync/vcsync/e2e"
	"github.com/vcsync/vcsync/schemas"
)

// TestAStopEndsWhatIsUnderWay asks the process to stop while a target takes its time over a
// write: the write ends, what came of it is on record, and the next start does not repeat it.
func TestAStopEndsWhatIsUnderWay(t *testing.T) {
	t.Parallel()
	binary := filepath.Join(t.TempDir(), "vcsync")
	build := exec.Command("go", "build", "-o", binary, "../cmd/vcsync")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	f, err := e2e.NewFleet(binary)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close(t.Failed()) })
	f.Env = []string{"VCSYNC_LEASE_TTL=15s", "VCSYNC_POLL=1s"}
	for _, name := range []schemas.Slug{"production", "test"} {
		if _, err := f.AddHost(t.Context(), name); err != nil {
			t.Fatal(err)
		}
	}
	policies := map[schemas.Slug]schemas.ActivePolicy{"test": schemas.Keep}
	put := func(i int, words string) schemas.ID {
		t.Helper()
		id := schemas.ID(fmt.Sprintf("0e2e0000-0000-4000-8000-%012d", i))
		body := fmt.Sprintf(`{"Id":%q,"Name":"Job %d","Description":%q,"Stats":{"Active":true}}`, id, i, words)
		if _, _, err := f.Hosts["production"].Server.Put(schemas.Job, []byte(body)); err != nil {
			t.Fatal(err)
		}
		return id
	}
	one := put(1, "before")
	if err := f.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := f.Register(t.Context(), policies); err != nil {
		t.Fatal(err)
	}
	if _, err := f.WaitEqual(t.Context(), policies, time.Minute); err != nil {
		t.Fatal(err)
	}

	// Every write waits at the target until the process was asked to stop, and then a while.
	target := f.Hosts["test"]
	target.Reset()
	stopping, begun := make(chan struct{}), make(chan struct{}, 10)
	var answered atomic.Int64
	target.SetFaults(func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Method != http.MethodPut {
				next.ServeHTTP(w, r)
				return
			}
			begun <- struct{}{}
			<-stopping
			time.Sleep(time.Second) // the server's own time over a write
			next.ServeHTTP(w, r)
			answered.Add(1)
		})
	})
	put(1, "while it stops")
	select {
	case <-begun:
	case <-time.After(time.Minute):
		t.Fatal("no write began")
	}
	asked := time.Now()
	ended := make(chan struct{})
	go func() { defer close(ended); f.Stop() }()
	// What comes after that is not begun.
	put(2, "too late")
	close(stopping)
	select {
	case <-ended:
	case <-time.After(30 * time.Second):
		t.Fatal("it did not end within 30 s")
	}
	t.Logf("it ended %s after it was asked to, with a write of 1 s under way", time.Since(asked).Round(10*time.Millisecond))
	if got, _ := target.Server.Get(schemas.Job, one); !bytes.Contains(got, []byte("while it stops")) || answered.Load() != 1 {
		t.Errorf("%d writes were answered; the target holds %s", answered.Load(), got)
	}
	log, err := os.ReadFile(f.Log())
	if err != nil || bytes.Contains(log, []byte("panic")) {
		t.Errorf("the log (%v): %.2000s", err, log)
	}

	// The next start knows that it was done.
	target.SetFaults(nil)
	if err := f.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := f.WaitEqual(t.Context(), policies, time.Minute); err != nil {
		t.Fatal(err)
	}
	puts := 0
	for _, w := range target.Seen() {
		if w.ID == one && w.Op == "put" {
			puts++
		}
	}
	if puts != 1 {
		t.Errorf("%d writes of one edit", puts)
	}
	f.Stop()
}
