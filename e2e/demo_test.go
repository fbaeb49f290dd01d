package e2e_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vcsync/vcsync/broker"
	"github.com/vcsync/vcsync/e2e"
	"github.com/vcsync/vcsync/schemas"
	"github.com/vcsync/vcsync/visualcron"
	"github.com/vcsync/vcsync/visualcron/bridge"
	"github.com/vcsync/vcsync/visualcron/standin"
)

// demo is the demo as a process, as make run starts it.
type demo struct {
	t       *testing.T
	binary  string
	dir     string
	env     []string
	api     string
	servers map[schemas.Slug]visualcron.Connector
	cmd     *exec.Cmd
	out     *os.File
	died    chan error
}

// TestDemo does what a new user does: starts everything with one command, edits,
// adds and deletes a job on production, kills the process and starts it again.
func TestDemo(t *testing.T) {
	t.Parallel()
	d := newDemo(t)
	d.start()
	d.equal(time.Minute)
	for _, id := range []schemas.Slug{"test", "standby"} {
		for _, row := range d.jobs(id) {
			var job struct{ Stats struct{ Active bool } }
			if err := json.Unmarshal(row, &job); err != nil || job.Stats.Active {
				t.Fatalf("a new job is active at %s (%v): %.300s", id, err, row)
			}
		}
	}
	some := d.anyJob()
	took := d.arrives(15*time.Second, "edited by hand", func() { d.run(0, "standin", "edit", "production", "Job/"+some, "--set", "Description=edited by hand") }, some)
	t.Logf("an edit was at both targets after %s", took)
	fresh := "0e2e0000-0000-4000-8000-000000000001"
	took = d.arrives(15*time.Second, "brand new", func() {
		d.run(0, "standin", "put", "production", "Job/"+fresh, "--set", "Name=Fresh", "--set", "Description=brand new", "--set", "Group=Finance")
	}, fresh)
	t.Logf("an add was at both targets after %s", took)
	begun := time.Now()
	d.run(0, "standin", "delete", "production", "Job/"+fresh)
	d.until(30*time.Second, "the deletion arrives", func() bool { return !d.has("test", fresh) && !d.has("standby", fresh) })
	t.Logf("a delete was at both targets after %s", time.Since(begun))

	if out := d.run(0, "status"); !strings.Contains(out, "production-to-standby") || !strings.Contains(out, "capturing") {
		t.Errorf("status: %s", out)
	}
	if out := d.run(0, "events", "--limit", "3"); strings.Count(out, "Fresh") != 2 || !strings.Contains(out, "deleted") {
		t.Errorf("events: %s", out)
	}
	if out := d.run(0, "parked", "list"); strings.Count(out, "secret") != 2 || strings.Count(out, "\n") != 3 || !strings.Contains(out, "/OAuth/AccessToken") {
		t.Errorf("want the one connection that has to sign in by itself, at both targets; parked: %s", out)
	}
	for _, x := range e2e.AllTypes() {
		set := map[schemas.Type]string{schemas.Credential: "Domain", schemas.NetworkDrive: "Path", schemas.Certificate: "IssuerName", schemas.SSHKey: "Name", schemas.MFTServer: "Name",
			schemas.User: "Email", schemas.Notification: "Task.Description", schemas.TaskRepository: "Task.Description", schemas.ExitCode: "Name"}[x]
		if set == "" {
			set = "Description"
		}
		var one schemas.ID
		for id := range d.objects("production", x) {
			one = max(one, id)
		}
		d.run(0, "standin", "edit", "production", string(x)+"/"+string(one), "--set", set+"=edited of every type")
		d.until(15*time.Second, "an edit of "+string(x)+" arrives", func() bool {
			for _, server := range []schemas.Slug{"test", "standby"} {
				if !bytes.Contains(d.objects(server, x)[one], []byte("edited of every type")) {
					return false
				}
			}
			return true
		})
	}

	// Killed in the middle of changes, and started again: nothing is lost or wrong.
	d.run(0, "standin", "edit", "production", "Job/"+some, "--set", "Description=just before the kill")
	d.kill()
	d.start()
	d.until(time.Minute, "what was edited before the kill arrives", func() bool {
		return strings.Contains(d.get("test", some), "just before the kill") && strings.Contains(d.get("standby", some), "just before the kill")
	})
	d.equal(time.Minute)

	t.Run("a taken port is named", func(t *testing.T) {
		second := exec.Command(d.binary, "demo")
		second.Env = append(os.Environ(), d.env...)
		second.Env = append(second.Env, "VCSYNC_DATA="+filepath.Join(t.TempDir(), "data"))
		out, err := second.CombinedOutput()
		exit, ok := errors.AsType[*exec.ExitError](err)
		if !ok || exit.ExitCode() != 3 || !strings.Contains(string(out), "127.0.0.1:") {
			t.Errorf("%v: %s", err, out)
		}
	})
	t.Run("what the API and the page say holds no secret", func(t *testing.T) {
		for _, path := range []string{"/", "/livez", "/readyz", "/api/v1/servers", "/api/v1/servers/test", "/api/v1/settings", "/api/v1/settings/production-to-test", "/api/v1/status", "/api/v1/parked", "/api/v1/events?limit=1000"} {
			resp, err := http.Get("http://" + d.api + path)
			if err != nil {
				t.Fatal(err)
			}
			body, _ := io.ReadAll(resp.Body)
			resp.Body.Close()
			if resp.StatusCode != http.StatusOK || len(body) == 0 {
				t.Errorf("%s: %s", path, resp.Status)
			}
			for _, hit := range leaks(t, standin.SeedSecrets(), map[string][]byte{path: body}, "") {
				t.Error(hit)
			}
			for _, s := range e2e.Spellings(standin.DefaultPassword) {
				if bytes.Contains(body, []byte(s)) {
					t.Errorf("%s holds the password as %q", path, s)
				}
			}
		}
	})
	begun = time.Now()
	if err := d.cmd.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	if err := <-d.died; err != nil {
		t.Errorf("after Ctrl-C: %v", err)
	}
	if took := time.Since(begun); took > 10*time.Second {
		t.Errorf("Ctrl-C took %s", took)
	}
	// G6: nowhere on disk and in no log line, debug included.
	hits, err := e2e.FindSecret(standin.DefaultPassword, d.dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, h := range hits {
		t.Error(h)
	}
	d.noSeededSecret()
	// The control: the search finds what is there.
	if err := os.WriteFile(filepath.Join(d.dir, "control"), []byte(base64.StdEncoding.EncodeToString([]byte("x"+standin.DefaultPassword+"y"))), 0o600); err != nil {
		t.Fatal(err)
	}
	if hits, err := e2e.FindSecret(standin.DefaultPassword, d.dir); err != nil || len(hits) == 0 {
		t.Errorf("the search is blind: %v, %v", hits, err)
	}
}

// noSeededSecret looks for every secret of the seed in what the stopped demo has
// left, the stand-ins' own folders apart: files, the log, and all that lies in the
// store, decompressed.
func (d *demo) noSeededSecret() {
	t := d.t
	t.Helper()
	log, err := os.ReadFile(filepath.Join(d.dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	data := filepath.Join(d.dir, "data")
	b, err := broker.Open(t.Context(), broker.Config{Dir: data, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	stored, err := e2e.Stored(t.Context(), b)
	if cerr := b.Close(); err != nil || cerr != nil {
		t.Fatal(err, cerr)
	}
	if len(leaks(t, []string{"just before the kill"}, stored, "")) == 0 {
		t.Errorf("the search of %d streams is blind", len(stored))
	}
	stored["the log"] = log
	for _, hit := range leaks(t, standin.SeedSecrets(), stored, filepath.Join(data, "broker")) {
		t.Error(hit)
	}
}

func newDemo(t *testing.T) *demo {
	d := &demo{t: t, dir: t.TempDir(), servers: map[schemas.Slug]visualcron.Connector{}}
	d.binary = filepath.Join(t.TempDir(), "vcsync")
	build := exec.Command("go", "build", "-o", d.binary, "../cmd/vcsync")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	addr := func() string {
		a, err := e2e.FreeAddr()
		if err != nil {
			t.Fatal(err)
		}
		return a
	}
	d.api = addr()
	d.env = []string{"VCSYNC_DATA=" + filepath.Join(d.dir, "data"), "VCSYNC_API_ADDR=" + d.api, "VCSYNC_LOG_LEVEL=debug"}
	for _, name := range []schemas.Slug{"production", "test", "standby"} {
		a := addr()
		d.env = append(d.env, fmt.Sprintf("VCSYNC_STANDIN_%s_ADDR=%s", strings.ToUpper(string(name)), a))
		c, err := bridge.New(visualcron.Config{Server: name, Reach: visualcron.Anywhere(), Address: "http://" + a, User: standin.DefaultUser, Password: standin.DefaultPassword})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		d.servers[name] = c
	}
	return d
}

func (d *demo) start() {
	d.t.Helper()
	var err error
	if d.out, err = os.OpenFile(filepath.Join(d.dir, "log"), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600); err != nil {
		d.t.Fatal(err)
	}
	d.cmd = exec.Command(d.binary, "demo")
	d.cmd.Env = append(os.Environ(), d.env...)
	d.cmd.Stdout, d.cmd.Stderr = d.out, d.out
	if err := d.cmd.Start(); err != nil {
		d.t.Fatal(err)
	}
	d.died = make(chan error, 1)
	cmd := d.cmd
	died := d.died
	go func() { died <- cmd.Wait(); close(died) }()
	d.t.Cleanup(func() { cmd.Process.Kill(); <-died })
	if err := e2e.WaitHTTP(d.t.Context(), "http://"+d.api+"/readyz", d.died); err != nil {
		log, _ := os.ReadFile(d.out.Name())
		d.t.Fatalf("the demo is not up: %v\n%s", err, log)
	}
}

func (d *demo) kill() {
	d.t.Helper()
	if err := d.cmd.Process.Kill(); err != nil {
		d.t.Fatal(err)
	}
	<-d.died
}

// run runs a client command and returns what it printed.
func (d *demo) run(code int, args ...string) string {
	d.t.Helper()
	cmd := exec.Command(d.binary, args...)
	cmd.Env = append(os.Environ(), d.env...)
	out, err := cmd.CombinedOutput()
	got := 0
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		got = exit.ExitCode()
	} else if err != nil {
		d.t.Fatal(err)
	}
	if got != code {
		d.t.Fatalf("vcsync %s: exit code %d, want %d\n%s", strings.Join(args, " "), got, code, out)
	}
	return string(out)
}

// until waits for a condition.
func (d *demo) until(limit time.Duration, what string, ok func() bool) {
	d.t.Helper()
	for begun := time.Now(); !ok(); {
		if time.Since(begun) > limit {
			log, _ := os.ReadFile(d.out.Name())
			d.t.Fatalf("not within %s: %s\n%s", limit, what, log[max(0, len(log)-3000):])
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func (d *demo) get(server schemas.Slug, id string) string {
	body, err := d.servers[server].Get(d.t.Context(), schemas.Job, schemas.ID(id))
	if err != nil {
		return ""
	}
	return string(body)
}

func (d *demo) has(server schemas.Slug, id string) bool {
	_, err := d.servers[server].Get(d.t.Context(), schemas.Job, schemas.ID(id))
	return visualcron.ClassOf(err) != visualcron.NotFound
}

func (d *demo) arrives(limit time.Duration, text string, change func(), id string) time.Duration {
	d.t.Helper()
	begun := time.Now()
	change()
	d.until(limit, text+" is at both targets", func() bool {
		return strings.Contains(d.get("test", id), text) && strings.Contains(d.get("standby", id), text)
	})
	return time.Since(begun)
}

func (d *demo) jobs(server schemas.Slug) map[schemas.ID][]byte { return d.objects(server, schemas.Job) }

// objects returns what a server has of a type, without what is built in; nil where
// it cannot be listed.
func (d *demo) objects(server schemas.Slug, x schemas.Type) map[schemas.ID][]byte {
	out := map[schemas.ID][]byte{}
	ctx, cancel := context.WithTimeout(d.t.Context(), time.Minute)
	defer cancel()
	_, err := d.servers[server].List(ctx, x, func(r visualcron.Row) error {
		n, err := visualcron.Normalize(x, r.Body, func(s string) string { return s })
		if err == nil && !n.BuiltIn {
			out[r.ID] = bytes.Clone(r.Body)
		}
		return err
	})
	if err != nil {
		return nil
	}
	return out
}

func (d *demo) anyJob() string {
	d.t.Helper()
	for id := range d.jobs("production") {
		return string(id)
	}
	d.t.Fatal("production has no jobs")
	return ""
}

// equal waits until both targets hold production's objects, under their policies.
func (d *demo) equal(limit time.Duration) {
	d.t.Helper()
	digest := func(x schemas.Type, body []byte) schemas.Digest {
		n, err := visualcron.Normalize(x, body, func(s string) string { return s })
		if err != nil {
			d.t.Fatal(err)
		}
		return n.Digest
	}
	d.until(limit, "the targets equal production", func() bool {
		for _, x := range e2e.AllTypes() {
			want := d.objects("production", x)
			if len(want) == 0 {
				return false
			}
			for server, policy := range map[schemas.Slug]schemas.ActivePolicy{"test": schemas.Keep, "standby": schemas.Off} {
				have := d.objects(server, x)
				if len(have) != len(want) {
					return false
				}
				for id, body := range want {
					composed, err := visualcron.Compose(x, body, have[id], visualcron.Composition{Policy: policy, Secrets: visualcron.SecretsEqual})
					if err != nil || have[id] == nil || digest(x, composed.Body) != digest(x, have[id]) {
						return false
					}
				}
			}
		}
		return true
	})
}
