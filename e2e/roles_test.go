package e2e_test

import (
	"crypto/tls"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vcsync/vcsync/e2e"
	"github.com/vcsync/vcsync/schemas"
)

// TestRolesApart does what whoever spreads vcsync over machines does: writes the keys,
// starts broker, control, producer and two consumers as processes of their own, and
// edits; and then loses a process of each role but the broker, one after another.
func TestRolesApart(t *testing.T) {
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
	f.Env = []string{"VCSYNC_LEASE_TTL=10s", "VCSYNC_POLL=5s"}
	policies := map[schemas.Slug]schemas.ActivePolicy{"test": schemas.Keep, "standby": schemas.Off}
	for _, name := range []schemas.Slug{"production", "test", "standby"} {
		if _, err := f.AddHost(t.Context(), name); err != nil {
			t.Fatal(err)
		}
	}
	put := func(i, version int) {
		t.Helper()
		body := fmt.Sprintf(`{"Id":"0e2e0000-0000-4000-8000-%012d","Name":"Job %d","Description":"version=%d","Stats":{"Active":true}}`, i, i, version)
		if _, _, err := f.Hosts["production"].Server.Put(schemas.Job, []byte(body)); err != nil {
			t.Fatal(err)
		}
	}
	equal := func(what string, limit time.Duration) {
		t.Helper()
		took, err := f.WaitEqual(t.Context(), policies, limit)
		if err != nil {
			t.Fatalf("%s: %v; the logs are in %s", what, err, f.Dir)
		}
		t.Logf("%s: equal after %s", what, took.Round(10*time.Millisecond))
	}
	for i := range 20 {
		put(i, 0)
	}
	r, err := f.Apart(t.Context(), 1, 2)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Start(t.Context()); err != nil {
		t.Fatalf("%v; the logs are in %s", err, f.Dir)
	}
	if err := f.Register(t.Context(), policies); err != nil {
		t.Fatalf("%v; the logs are in %s", err, f.Dir)
	}
	equal("the first objects", 20*time.Second)
	put(1, 1)
	equal("an edit", 5*time.Second)

	t.Run("nobody gets in without TLS 1.3 or a key", func(t *testing.T) {
		if c, err := tls.Dial("tcp", r.Address, &tls.Config{InsecureSkipVerify: true, MaxVersion: tls.VersionTLS12}); err == nil {
			c.Close()
			t.Error("the broker speaks TLS 1.2")
		}
		c, err := net.Dial("tcp", r.Address)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(5 * time.Second))
		fmt.Fprint(c, "CONNECT {\"verbose\":true}\r\nPING\r\n")
		all := make([]byte, 0, 8192)
		for buf := make([]byte, 4096); ; {
			n, err := c.Read(buf)
			all = append(all, buf[:n]...)
			if err != nil {
				break
			}
		}
		if strings.Contains(string(all), "+OK") || strings.Contains(string(all), "PONG") {
			t.Errorf("without TLS and key: %.500s", all)
		}
	})

	// The work is shared out; whoever writes to test dies, and the other takes over.
	shared := func() (out map[schemas.Slug]string) {
		out, err := r.Holders(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	until := func(what string, limit time.Duration, ok func() bool) {
		t.Helper()
		for begun := time.Now(); !ok(); time.Sleep(50 * time.Millisecond) {
			if time.Since(begun) > limit {
				t.Fatalf("not within %s: %s; the logs are in %s", limit, what, f.Dir)
			}
		}
	}
	until("each consumer has a target", 15*time.Second, func() bool {
		h := shared()
		return h["test"] != "" && h["standby"] != "" && h["test"] != h["standby"]
	})
	victim := r.Consumers[slices.IndexFunc(r.Consumers, func(p *e2e.Process) bool { return p.Name == shared()["test"] })]
	// Both wait for the end of a lease, at the same time.
	victim.Kill()
	r.Producers[0].Kill()
	put(2, 2)
	if err := r.Producers[0].Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	equal("an edit after the kill of the producer and of the consumer of test", 20*time.Second) // TTL + 5 s, a start and a listing
	if got := shared()["test"]; got == victim.Name {
		t.Errorf("test is still with %s", got)
	}
	r.Control.Kill()
	put(3, 3)
	equal("an edit without control", 5*time.Second)
	for _, p := range []*e2e.Process{r.Control, victim} {
		if err := p.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
	}

	status := struct {
		Sources, Targets []struct{ Server, State string }
	}{}
	until("control tells of the others", 15*time.Second, func() bool {
		out, err := f.CLI(t.Context(), "status", "--json")
		if err != nil || json.Unmarshal([]byte(out), &status) != nil {
			return false
		}
		return len(status.Sources) == 1 && status.Sources[0].State == "capturing" && len(status.Targets) == 2 &&
			status.Targets[0].State == "working" && status.Targets[1].State == "working"
	})
	for _, p := range r.All() {
		if !p.Running() {
			t.Errorf("%s does not run", p.Name)
		}
	}
	var stops sync.WaitGroup
	for _, p := range append([]*e2e.Process{r.Control}, append(r.Producers, r.Consumers...)...) {
		stops.Go(p.Stop)
	}
	stops.Wait()
	r.Broker.Stop()
	for name, h := range f.Hosts {
		if h.Broken != nil {
			t.Errorf("%s: %v", name, h.Broken)
		}
	}
	hits, err := e2e.FindSecret(e2e.Password, f.Dir) // G6
	if err != nil || hits != nil {
		t.Errorf("%v, %v", hits, err)
	}
}
