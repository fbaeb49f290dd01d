package control_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vcsync/vcsync/broker"
	"github.com/vcsync/vcsync/broker/brokertest"
	"github.com/vcsync/vcsync/consumer"
	"github.com/vcsync/vcsync/control"
	"github.com/vcsync/vcsync/producer"
	"github.com/vcsync/vcsync/schemas"
	"github.com/vcsync/vcsync/visualcron"
	"github.com/vcsync/vcsync/visualcron/bridge"
	"github.com/vcsync/vcsync/visualcron/standin"
)

var update = flag.Bool("update", false, "write the generated files anew")

// TestMain checks that no goroutine of vcsync is left. Those of nats-server end by
// timers of their own.
func TestMain(m *testing.M) {
	flag.Parse()
	code := m.Run()
	http.DefaultTransport.(*http.Transport).CloseIdleConnections()
	if left := leftOver(10 * time.Second); code == 0 && left != "" {
		fmt.Fprintf(os.Stderr, "goroutines are left:\n%s\n", left)
		code = 1
	}
	os.Exit(code)
}

// leftOver returns the stacks of vcsync's goroutines that have not ended in time.
func leftOver(limit time.Duration) string {
	for end := time.Now().Add(limit); ; time.Sleep(20 * time.Millisecond) {
		buf := make([]byte, 8<<20)
		var left []string
		for i, stack := range strings.Split(string(buf[:runtime.Stack(buf, true)]), "\n\n") {
			if i > 0 && strings.Contains(stack, "github.com/vcsync/vcsync/") {
				left = append(left, stack)
			}
		}
		if left == nil || time.Now().After(end) {
			return strings.Join(left, "\n\n")
		}
	}
}

// password is odd enough that its finding somewhere is no accident.
const password = `Pä55-w0rd "q" \ zX`

// world is a control server over a real broker, with what it is asked about.
type world struct {
	t       *testing.T
	dir     string // the store's
	b       *broker.Broker
	s       *control.Server
	srv     *httptest.Server
	roles   *fakeRoles
	log     *lockedBuffer
	answers *lockedBuffer // everything that was ever answered, headers too
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// fakeRoles stand for producer and consumer.
type fakeRoles struct {
	mu      sync.Mutex
	poked   []schemas.Slug
	sources []producer.Status
	targets []consumer.TargetStatus
	setting []consumer.SettingStatus
}

type fakeProducers struct{ *fakeRoles }

func (f fakeProducers) Status() []producer.Status { return f.sources }
func (f fakeProducers) Poke(s schemas.Slug) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.poked = append(f.poked, s)
}

type fakeConsumers struct{ *fakeRoles }

func (f fakeConsumers) Status() ([]consumer.TargetStatus, []consumer.SettingStatus) {
	return f.targets, f.setting
}

func openBridge(s schemas.Server, pw string) (visualcron.Connector, error) {
	return bridge.New(visualcron.Config{Server: s.ID, Reach: visualcron.Anywhere(), Pins: s.Pins, Address: s.Address, User: s.User, Password: pw, RequestTimeout: 3 * time.Second}, bridge.WithIdentity(s.Identity))
}

func newWorld(t *testing.T, change ...func(*control.Config)) *world {
	t.Helper()
	dir := t.TempDir()
	w := &world{t: t, dir: dir, b: brokertest.Open(t, dir), roles: &fakeRoles{}, log: &lockedBuffer{}, answers: &lockedBuffer{}}
	cfg := control.Config{Broker: w.b, Sources: fakeProducers{w.roles}, Targets: fakeConsumers{w.roles}, Open: openBridge,
		Data: dir, Addr: "127.0.0.1:7780", Version: "test", Log: slog.New(slog.NewJSONHandler(w.log, &slog.HandlerOptions{Level: slog.LevelDebug}))}
	for _, c := range change {
		c(&cfg)
	}
	var err error
	if w.s, err = control.New(cfg); err != nil {
		t.Fatal(err)
	}
	w.srv = httptest.NewServer(w.s.Handler())
	t.Cleanup(w.srv.Close)
	return w
}

// standIn runs a stand-in with the password of these tests and returns its address.
func standIn(t *testing.T, id string) string {
	t.Helper()
	s, err := standin.Open(standin.Config{Name: "stand-in " + id, ID: id, User: "sync", Password: password})
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewServer(s.Handler())
	t.Cleanup(func() {
		srv.Close()
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return srv.URL
}

// answer is what came back.
type answer struct {
	t      *testing.T
	status int
	header http.Header
	body   []byte
}

// do makes a request; header holds names and values in turn, body is JSON or nil.
func (w *world) do(method, path, body string, header ...string) answer {
	w.t.Helper()
	var rd io.Reader
	if body != "" {
		rd = strings.NewReader(body)
	}
	req, err := http.NewRequestWithContext(w.t.Context(), method, w.srv.URL+path, rd)
	if err != nil {
		w.t.Fatal(err)
	}
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i < len(header); i += 2 {
		if header[i] == "Host" {
			req.Host = header[i+1]
		} else {
			req.Header.Set(header[i], header[i+1])
		}
	}
	resp, err := w.srv.Client().Do(req)
	if err != nil {
		w.t.Fatal(err)
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		w.t.Fatal(err)
	}
	fmt.Fprintf(w.answers, "%s %s %d %v\n%s\n", method, path, resp.StatusCode, resp.Header, raw)
	return answer{w.t, resp.StatusCode, resp.Header, raw}
}

// want checks the status and that the answer holds the words, and that a refusal
// is a problem.
func (a answer) want(status int, words ...string) answer {
	a.t.Helper()
	if a.status != status {
		a.t.Fatalf("status %d, want %d: %s", a.status, status, a.body)
	}
	if status >= 400 {
		if ct := a.header.Get("Content-Type"); ct != "application/problem+json" {
			a.t.Errorf("a refusal of type %q: %s", ct, a.body)
		}
		var p struct {
			Status int
			Detail string
		}
		if err := json.Unmarshal(a.body, &p); err != nil || p.Status != status || p.Detail == "" {
			a.t.Errorf("not a problem with status and detail: %s", a.body)
		}
	}
	for _, w := range words {
		if !strings.Contains(string(a.body), w) {
			a.t.Errorf("the answer does not say %q: %s", w, a.body)
		}
	}
	return a
}

func (a answer) etag() string { return a.header.Get("ETag") }

func (a answer) into(v any) {
	a.t.Helper()
	if err := json.Unmarshal(a.body, v); err != nil {
		a.t.Fatalf("%v: %s", err, a.body)
	}
}

func serverBody(id, address, more string) string {
	b, _ := json.Marshal(map[string]string{"id": id, "connector": "bridge", "address": address, "user": "sync", "password": password})
	return strings.TrimSuffix(string(b), "}") + more + "}"
}

// putServer stores a server without any contact.
func (w *world) putServer(ids ...schemas.Slug) {
	w.t.Helper()
	for _, id := range ids {
		if _, err := w.b.PutServer(w.t.Context(), schemas.Server{ID: id, Connector: "bridge", Address: "http://127.0.0.1:1", User: "sync"}, 0); err != nil {
			w.t.Fatal(err)
		}
	}
}

const allJobs = `"rules":{"Job":{"sync":"all","new":true,"updated":true,"deleted":true}}`

func settingBody(id, from, to string, active bool, rules string) string {
	if id != "" {
		id = fmt.Sprintf(`"id":%q,`, id)
	}
	return fmt.Sprintf(`{%s"source":%q,"target":%q,"active":%v,%s}`, id, from, to, active, rules)
}

// audits returns the audit records of all acts, without those of their results.
func (w *world) audits() (out []broker.AuditRecord) {
	w.t.Helper()
	s, err := w.b.JS().Stream(w.t.Context(), broker.StreamAudit)
	if err != nil {
		w.t.Fatal(err)
	}
	info, err := s.Info(w.t.Context())
	if err != nil {
		w.t.Fatal(err)
	}
	for seq := info.State.FirstSeq; seq <= info.State.LastSeq && seq > 0; seq++ {
		m, err := s.GetMsg(w.t.Context(), seq)
		if err != nil {
			w.t.Fatal(err)
		}
		var r broker.AuditRecord
		if err := json.Unmarshal(m.Data, &r); err != nil {
			w.t.Fatal(err)
		}
		if r.Of == 0 {
			out = append(out, r)
		}
	}
	return out
}

func TestNewNamesEveryFault(t *testing.T) {
	_, err := control.New(control.Config{Addr: "0.0.0.0:7780"})
	for _, want := range []string{"no broker", "no way to open", "loopback"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want it to say %q", err, want)
		}
	}
}

func TestOpenAPIIsCurrent(t *testing.T) {
	w := newWorld(t)
	got, err := w.s.OpenAPI()
	if err != nil {
		t.Fatal(err)
	}
	if *update {
		if err := os.WriteFile("openapi.yaml", got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile("openapi.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Error("openapi.yaml is not what the Go types say; run go test ./control -update and look at the difference: clients are built on it")
	}
	served := w.do("GET", "/api/v1/openapi.yaml", "").want(200)
	if !bytes.Equal(served.body, want) {
		t.Error("what is served differs from openapi.yaml")
	}
	// Only the bodies of adding and changing a server, of signing in, and of making an account or its
	// password have a place for a password.
	if n := strings.Count(string(want), "        password:\n"); n != 6 {
		t.Errorf("%d schemas with a password, want 6", n)
	}
	if !strings.Contains(string(want), "openapi: 3.1.0") {
		t.Error("not OpenAPI 3.1")
	}
}

func TestServers(t *testing.T) {
	w := newWorld(t)
	const idA, idB = "aaaaaaaa-0000-4000-8000-000000000001", "bbbbbbbb-0000-4000-8000-000000000002"
	a, b := standIn(t, idA), standIn(t, idB)
	dead := httptest.NewServer(http.NotFoundHandler())
	dead.Close()

	w.do("GET", "/api/v1/servers", "").want(200, `"items":[]`)
	added := w.do("POST", "/api/v1/servers", serverBody("production", a, "")).want(201, idA, `"ok":true`, "not VisualCron")
	if added.etag() == "" {
		t.Error("no ETag")
	}
	if pw, err := w.b.Password(t.Context(), "production"); err != nil || pw != password {
		t.Errorf("stored password %q, error %v", pw, err)
	}
	got := w.do("GET", "/api/v1/servers/production", "").want(200, a, `"user":"sync"`)
	if got.etag() != added.etag() {
		t.Errorf("ETag %s, want %s", got.etag(), added.etag())
	}
	w.do("POST", "/api/v1/servers/production/test", "").want(200, `"ok":true`, `"changes":true`, `"Job"`)

	w.do("POST", "/api/v1/servers", serverBody("production", b, "")).want(409, "already")
	if pw, err := w.b.Password(t.Context(), "production"); err != nil || pw != password {
		t.Errorf("a refused add changed the password to %q, error %v", pw, err)
	}
	w.do("GET", "/api/v1/servers/nowhere", "").want(404, "no server nowhere")
	w.do("GET", "/api/v1/servers/UPPER", "").want(422, "lower-case")

	for _, c := range []struct {
		name, body string
		status     int
		says       string
	}{
		{"a name that is no slug", serverBody("Pro.duction", a, ""), 422, "lower-case"},
		{"an address with a password", serverBody("x", "http://u:"+"hunter2@h:1", ""), 422, "must hold no user"},
		{"a connector that is not there", strings.Replace(serverBody("x", a, ""), `"bridge"`, `"telepathy"`, 1), 422, "telepathy"},
		{"a member that there is not", serverBody("x", a, `,"skipTest":true`), 422, "unexpected property"},
		{"no password", `{"id":"x","address":"` + a + `","user":"u"}`, 422, "password"},
		{"an empty password", `{"id":"x","address":"` + a + `","user":"u","password":""}`, 422, "password"},
		{"a password that is no text", `{"id":"x","address":"` + a + `","user":"u","password":{"x":"hunter2"}}`, 422, "string"},
		{"cut JSON", `{"id":"x","password":"hunter2`, 400, ""},
		{"a member twice", serverBody("x", a, `,"password":"hunter2"`), 400, ""},
		{"an unreachable server", serverBody("x", dead.URL, ""), 422, "--offline"},
		{"a wrong account", strings.Replace(serverBody("x", a, ""), `"sync"`, `"other"`, 1), 422, "unauthorized"},
		{"a wrong account, even offline", strings.Replace(serverBody("x", a, `,"unreachableOk":true`), `"sync"`, `"other"`, 1), 422, "unauthorized"},
	} {
		t.Run(c.name, func(t *testing.T) {
			w.do("POST", "/api/v1/servers", c.body).want(c.status, c.says)
			if strings.Contains(w.answers.String(), "hunter2") {
				t.Error("the answer quotes a password")
			}
		})
	}
	w.do("GET", "/api/v1/servers/x", "").want(404)

	w.do("POST", "/api/v1/servers", serverBody("later", dead.URL, `,"unreachableOk":true`)).want(201, `"ok":false`)
	w.do("POST", "/api/v1/servers/later/test", "").want(200, `"ok":false`, `"class":"unreachable"`)

	// The name stays bound to the server that it stood for.
	w.do("DELETE", "/api/v1/servers/production", "").want(428, "If-Match")
	w.do("DELETE", "/api/v1/servers/production", "", "If-Match", `"999"`).want(412)
	w.do("DELETE", "/api/v1/servers/production", "", "If-Match", added.etag()).want(204)
	if _, err := w.b.Password(t.Context(), "production"); err == nil {
		t.Error("the password outlives the server")
	}
	acts := len(w.audits())
	w.do("POST", "/api/v1/servers", serverBody("production", b, "")).want(409, idA, idB, "choose another name")
	if n := len(w.audits()); n != acts {
		t.Errorf("a refused name left %d audit records", n-acts)
	}
	w.do("GET", "/api/v1/servers/production", "").want(404)
	w.do("POST", "/api/v1/servers", serverBody("production", a, "")).want(201)
}

func TestAServerThatASettingNamesStays(t *testing.T) {
	w := newWorld(t)
	w.putServer("a", "b", "c")
	w.do("POST", "/api/v1/settings", settingBody("one", "a", "b", true, allJobs)).want(201)
	w.do("POST", "/api/v1/settings", settingBody("two", "c", "a", false, allJobs)).want(201)
	w.do("DELETE", "/api/v1/servers/a", "", "If-Match", "*").want(409, "one, two")
	w.do("DELETE", "/api/v1/settings/two", "", "If-Match", "*").want(204)
	w.do("DELETE", "/api/v1/servers/c", "", "If-Match", "*").want(204)
}

func TestSettings(t *testing.T) {
	w := newWorld(t)
	w.putServer("a", "b")
	w.do("GET", "/api/v1/settings", "").want(200, `"items":[]`)
	added := w.do("POST", "/api/v1/settings", settingBody("one", "a", "b", true, allJobs)).want(201, `"takes":["Job"]`, `"activePolicy":"keep"`, `"active":true`)
	w.do("POST", "/api/v1/settings", settingBody("one", "a", "b", false, allJobs)).want(409, "already")

	for _, c := range []struct {
		name, body, says string
	}{
		{"a source that is not there", settingBody("x", "nowhere", "b", true, allJobs), "no server nowhere"},
		{"a target that is not there", settingBody("x", "a", "nowhere", true, allJobs), "no server nowhere"},
		{"source and target the same", settingBody("x", "a", "a", true, allJobs), "source itself"},
		{"a type that there is not", settingBody("x", "a", "b", true, `"rules":{"Jobs":{"sync":"all","new":true}}`), "did you mean Job?"},
		{"a mode that there is not", settingBody("x", "a", "b", true, `"rules":{"Job":{"sync":"some"}}`), "listed"},
		{"a policy that there is not", settingBody("x", "a", "b", true, `"activePolicy":"on",`+allJobs), "follow"},
		{"rights beside listed", settingBody("x", "a", "b", true, `"rules":{"Job":{"sync":"listed","new":true,"objects":[{"id":"1","new":true}]}}`), "belong to all"},
		{"an object twice", settingBody("x", "a", "b", true, `"rules":{"Job":{"sync":"listed","objects":[{"id":"1"},{"id":"1"}]}}`), "twice"},
		{"an id that is none", settingBody("x", "a", "b", true, `"rules":{"Job":{"sync":"listed","objects":[{"id":"00000000-0000-0000-0000-000000000000"}]}}`), "zero GUID"},
		{"new server settings", settingBody("x", "a", "b", true, `"rules":{"ServerSettings":{"sync":"all","new":true}}`), "each server has one object of this type"},
		{"a member that there is not", settingBody("x", "a", "b", true, `"retries":3,`+allJobs), "unexpected property"},
		{"no rules", `{"id":"x","source":"a","target":"b","active":true}`, "rules"},
	} {
		t.Run(c.name, func(t *testing.T) { w.do("POST", "/api/v1/settings", c.body).want(422, c.says) })
	}
	w.do("GET", "/api/v1/settings/x", "").want(404)
	w.do("POST", "/api/v1/settings", settingBody("quiet", "a", "b", true, `"rules":{"Job":{"sync":"all","new":true},"Connection":{"sync":"none"}}`)).want(201, `"takes":["Job"]`)

	// An upper-case GUID is the same object.
	const guid = "ABCDEF00-1111-4222-8333-444444444444"
	put := w.do("PUT", "/api/v1/settings/one", settingBody("", "a", "b", true, `"description":"mine","activePolicy":"off","rules":{"Job":{"sync":"listed","objects":[{"id":"`+guid+`","name":"n","updated":true}]}}`),
		"If-Match", added.etag()).want(200, strings.ToLower(guid), `"activePolicy":"off"`, `"description":"mine"`)
	got := w.do("GET", "/api/v1/settings/one", "").want(200, strings.ToLower(guid), `"name":"n"`)
	if put.etag() == added.etag() || got.etag() != put.etag() {
		t.Errorf("ETags: added %s, replaced %s, read %s", added.etag(), put.etag(), got.etag())
	}

	for _, c := range []struct{ method, path, body string }{
		{"PUT", "/api/v1/settings/one", settingBody("", "a", "b", true, allJobs)},
		{"DELETE", "/api/v1/settings/one", ""},
		{"POST", "/api/v1/settings/one/activate", ""},
		{"POST", "/api/v1/settings/one/deactivate", ""},
	} {
		w.do(c.method, c.path, c.body).want(428, "If-Match")
		w.do(c.method, c.path, c.body, "If-Match", added.etag()).want(412, "changed since")
		w.do(c.method, c.path, c.body, "If-Match", "W/"+got.etag()).want(412)
	}

	off := w.do("POST", "/api/v1/settings/one/deactivate", "", "If-Match", got.etag()).want(200, `"active":false`)
	again := w.do("POST", "/api/v1/settings/one/deactivate", "", "If-Match", off.etag()).want(200, `"active":false`)
	if again.etag() != off.etag() {
		t.Error("turning off what is off makes a new revision")
	}
	w.do("POST", "/api/v1/settings/one/activate", "", "If-Match", "*").want(200, `"active":true`)
	if snap, err := w.b.Snapshot(t.Context()); err != nil || len(snap.Settings["one"].Since) != len(snap.Settings["one"].TakenTypes()) {
		t.Errorf("a setting that was turned on waits for %v (%v)", snap.Settings["one"].Since, err)
	}

	clone := w.do("POST", "/api/v1/settings/one/clone", `{"id":"copy"}`, "If-Match", "*").want(201, `"active":false`, strings.ToLower(guid))
	w.do("POST", "/api/v1/settings/one/clone", `{"id":"copy"}`, "If-Match", "*").want(409, "already")
	w.do("POST", "/api/v1/settings/nowhere/clone", `{"id":"copy2"}`, "If-Match", "*").want(404)
	w.do("DELETE", "/api/v1/settings/copy", "", "If-Match", clone.etag()).want(204)
	w.do("GET", "/api/v1/settings/copy", "").want(404)
}

func TestWhatThisVersionDoesNotSyncIsRefused(t *testing.T) {
	w := newWorld(t, func(c *control.Config) {
		c.Supported = func(t schemas.Type) bool { return t != schemas.Connection && t != schemas.User }
	})
	w.putServer("a", "b")
	const rules = `"rules":{"Job":{"sync":"all","new":true},"Connection":{"sync":"all","new":true},"User":{"sync":"listed","objects":[{"id":"x","new":true}]}}`
	w.do("POST", "/api/v1/settings", settingBody("x", "a", "b", false, rules)).want(422, "User, Connection: not synced by this version yet")
	w.do("POST", "/api/v1/settings", settingBody("x", "a", "b", false, allJobs)).want(201)
}

func TestVariableValues(t *testing.T) {
	w := newWorld(t)
	w.putServer("a", "b")
	if plain := w.do("POST", "/api/v1/settings", settingBody("plain", "a", "b", true, allJobs)).want(201); strings.Contains(string(plain.body), "variableValues") {
		t.Errorf("not asked for: %s", plain.body)
	}
	w.do("POST", "/api/v1/settings", settingBody("one", "a", "b", true, `"variableValues":true,`+allJobs)).want(201, `"variableValues":true`)
	w.do("GET", "/api/v1/settings/one", "").want(200, `"variableValues":true`)
	w.do("POST", "/api/v1/settings/one/deactivate", "", "If-Match", "*").want(200, `"variableValues":true`)
	w.do("POST", "/api/v1/settings/one/clone", `{"id":"two"}`, "If-Match", "*").want(201, `"variableValues":true`)
	snap, err := w.b.Snapshot(t.Context())
	if err != nil || snap.Settings["plain"].VariableValues || !snap.Settings["one"].VariableValues || !snap.Settings["two"].VariableValues {
		t.Errorf("%+v, error %v", snap.Settings, err)
	}
	if a := w.audits(); !strings.Contains(a[1].Detail, "values of variables") || strings.Contains(a[0].Detail, "values of variables") {
		t.Errorf("%+v", a)
	}
	w.do("PUT", "/api/v1/settings/one", settingBody("", "a", "b", true, allJobs), "If-Match", "*").want(200)
	if snap, err = w.b.Snapshot(t.Context()); err != nil || snap.Settings["one"].VariableValues {
		t.Errorf("%+v, error %v", snap.Settings["one"], err)
	}
}

func TestReplacingASettingKeepsWhatANewerVersionWrote(t *testing.T) {
	w := newWorld(t)
	w.putServer("a", "b")
	s, err := schemas.ParseSetting([]byte(`{"id":"one","source":"a","target":"b","active":false,"activePolicy":"keep","rules":{"Job":{"sync":"all","new":true,"pace":7}},"window":{"from":"22:00"}}`))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.b.PutSetting(t.Context(), s, 0); err != nil {
		t.Fatal(err)
	}
	w.do("PUT", "/api/v1/settings/one", settingBody("", "a", "b", false, allJobs), "If-Match", "*").want(200)
	snap, err := w.b.Snapshot(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	raw, err := snap.Settings["one"].Encode()
	if err != nil || !strings.Contains(string(raw), `"window":{"from":"22:00"}`) || !strings.Contains(string(raw), `"pace":7`) {
		t.Errorf("%s, error %v", raw, err)
	}
}

func TestBothDirectionsOfOneTypeAreRefused(t *testing.T) {
	w := newWorld(t)
	w.putServer("a", "b", "c")
	w.do("POST", "/api/v1/settings", settingBody("there", "a", "b", true, allJobs)).want(201)
	w.do("POST", "/api/v1/settings", settingBody("back", "b", "a", true, allJobs)).want(409, "there", "Job", "neither would be right")
	w.do("POST", "/api/v1/settings", settingBody("back", "b", "a", false, allJobs)).want(201)
	w.do("POST", "/api/v1/settings/back/activate", "", "If-Match", "*").want(409)
	w.do("PUT", "/api/v1/settings/back", settingBody("", "b", "a", true, allJobs), "If-Match", "*").want(409)
	// Another type, another server, or only one of the two active: fine.
	w.do("PUT", "/api/v1/settings/back", settingBody("", "b", "a", true, `"rules":{"Variable":{"sync":"all","new":true}}`), "If-Match", "*").want(200)
	w.do("POST", "/api/v1/settings", settingBody("ring1", "b", "c", true, allJobs)).want(201)
	w.do("POST", "/api/v1/settings", settingBody("ring2", "c", "a", true, allJobs)).want(201)
	w.do("POST", "/api/v1/settings/there/deactivate", "", "If-Match", "*").want(200)
	w.do("PUT", "/api/v1/settings/back", settingBody("", "b", "a", true, allJobs), "If-Match", "*").want(200)
	w.do("POST", "/api/v1/settings/there/activate", "", "If-Match", "*").want(409, "back")
	// Unless one server wins, or a person decides at both.
	for _, there := range []string{"overwrite", "keep", "park"} {
		w.do("POST", "/api/v1/settings/back/deactivate", "", "If-Match", "*").want(200)
		w.do("PUT", "/api/v1/settings/there", settingBody("", "a", "b", true, `"targetEdits":"`+there+`",`+allJobs), "If-Match", "*").want(200)
		for _, back := range []string{"overwrite", "keep", "park"} {
			want := 409
			switch there + " " + back {
			case "overwrite keep", "keep overwrite", "park park":
				want = 200
			}
			w.do("PUT", "/api/v1/settings/back", settingBody("", "b", "a", true, `"targetEdits":"`+back+`",`+allJobs), "If-Match", "*").want(want)
		}
	}
}

func TestEveryActIsAuditedBeforeItsEffect(t *testing.T) {
	w := newWorld(t)
	a := standIn(t, "aaaaaaaa-0000-4000-8000-000000000001")
	w.putServer("b", "c")
	p := broker.Parked{Target: "b", Setting: "one", Source: "a", Type: schemas.Job, Token: "x", ID: "x", Version: schemas.Version{Epoch: 1, Revision: 1}, Class: "refused", Reason: "r", First: time.Now(), Last: time.Now()}
	for _, p.Token = range []schemas.Token{"x", "y"} {
		if _, err := w.b.PutParked(t.Context(), p); err != nil {
			t.Fatal(err)
		}
	}
	batch := map[schemas.Type]string{}
	for _, typ := range []schemas.Type{schemas.Job, schemas.User} {
		held := broker.Airlock{Source: "a", Type: typ, Objects: []broker.AirlockObject{{Token: "x", Version: p.Version}}}
		held.Normalize()
		batch[typ] = held.Batch
		if _, err := w.b.PutAirlock(t.Context(), held); err != nil {
			t.Fatal(err)
		}
	}
	acts := []struct{ action, method, path, body string }{
		{"server.add", "POST", "/api/v1/servers", serverBody("a", a, "")},
		{"airlock.approve", "POST", "/api/v1/airlock/" + batch[schemas.Job] + "/approve", `{"reason":"meant"}`},
		{"airlock.reject", "POST", "/api/v1/airlock/" + batch[schemas.User] + "/reject", `{"reason":"not meant"}`},
		{"server.update", "PUT", "/api/v1/servers/c", `{"name":"C","address":"http://127.0.0.1:1","user":"sync"}`},
		{"setting.add", "POST", "/api/v1/settings", settingBody("one", "a", "b", true, allJobs)},
		{"setting.update", "PUT", "/api/v1/settings/one", settingBody("", "a", "b", true, `"description":"x",`+allJobs)},
		{"setting.clone", "POST", "/api/v1/settings/one/clone", `{"id":"two"}`},
		{"setting.deactivate", "POST", "/api/v1/settings/one/deactivate", ""},
		{"setting.activate", "POST", "/api/v1/settings/one/activate", ""},
		{"source.poll", "POST", "/api/v1/sources/a/poll", ""},
		{"server.hint-token", "POST", "/api/v1/servers/a/hint-token", ""},
		{"server.hint-revoke", "DELETE", "/api/v1/servers/a/hint-token", ""},
		{"server.hint-token", "POST", "/api/v1/servers/a/hint-token", ""},
		{"parked.retry", "POST", "/api/v1/parked/b/Job/x/retry", ""},
		{"parked.retry-all", "POST", "/api/v1/parked/retry", ""},
		{"parked.discard", "POST", "/api/v1/parked/b/Job/x/discard", `{"reason":"old"}`},
		{"setting.remove", "DELETE", "/api/v1/settings/two", ""},
		{"server.remove", "DELETE", "/api/v1/servers/c", ""},
	}
	for i, c := range acts {
		if r := w.do(c.method, c.path, c.body, "If-Match", "*"); r.status >= 300 {
			t.Fatalf("%s: %d %s", c.action, r.status, r.body)
		}
		got := w.audits()
		if len(got) != i+1 {
			t.Fatalf("%s: %d audit records, want %d", c.action, len(got), i+1)
		}
		r := got[i]
		if r.Action != c.action || r.Who != "local" || r.From == "" || r.Object == "" || r.Time.IsZero() {
			t.Errorf("%s: record %+v", c.action, r)
		}
	}
	// What is refused is no act.
	w.do("POST", "/api/v1/settings", settingBody("one", "a", "b", true, allJobs), "If-Match", "*").want(409)
	w.do("POST", "/api/v1/settings/one/deactivate", "", "If-Match", `"1"`).want(412)
	if n := len(w.audits()); n != len(acts) {
		t.Errorf("%d audit records after refusals, want %d", n, len(acts))
	}

	// Where the audit stream has no room, or is gone, nothing happens.
	fresh := standIn(t, "aaaaaaaa-0000-4000-8000-000000000009")
	audit, err := w.b.JS().Stream(t.Context(), broker.StreamAudit)
	if err != nil {
		t.Fatal(err)
	}
	w.roles.poked = nil
	before := w.state()
	for _, name := range []string{"full", "gone"} {
		if name == "full" {
			cfg := audit.CachedInfo().Config
			cfg.MaxBytes = 1
			_, err = w.b.JS().UpdateStream(t.Context(), cfg)
		} else {
			err = w.b.JS().DeleteStream(t.Context(), broker.StreamAudit)
		}
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range acts {
			body := strings.NewReplacer(a, fresh, `"id":"a"`, `"id":"new"`, `"id":"one"`, `"id":"new"`, `"id":"two"`, `"id":"new2"`).Replace(c.body)
			path := c.path
			switch c.action {
			case "airlock.approve": // what was decided already would be refused
				path = "/api/v1/airlock/" + batch[schemas.User] + "/approve"
			case "airlock.reject":
				path = "/api/v1/airlock/" + batch[schemas.Job] + "/reject"
			case "server.update":
				path = "/api/v1/servers/b"
			case "server.remove":
				path = "/api/v1/servers/nobody"
				if name == "full" {
					w.putServer("nobody")
					before = w.state()
				}
			case "setting.remove":
				path = "/api/v1/settings/one"
			case "setting.activate":
				continue // it is active
			}
			w.do(c.method, path, body, "If-Match", "*").want(503, "audit")
			if after := w.state(); after != before {
				t.Errorf("%s, audit %s: it had an effect without its record:\n%s\nbefore:\n%s", c.action, name, after, before)
			}
		}
	}
	if len(w.roles.poked) > 0 {
		t.Error("a poll without its record")
	}
}

// state is what there is of servers, settings, passwords and parked records.
func (w *world) state() string {
	w.t.Helper()
	ctx := w.t.Context()
	snap, err := w.b.Snapshot(ctx)
	if err != nil {
		w.t.Fatal(err)
	}
	parked, err := w.b.ListParked(ctx, "")
	if err != nil {
		w.t.Fatal(err)
	}
	sec, err := w.b.JS().Stream(ctx, "KV_"+broker.BucketSecret)
	if err != nil {
		w.t.Fatal(err)
	}
	return fmt.Sprintf("%d %v %v %+v %d", snap.Revision, len(snap.Servers), len(snap.Settings), parked, sec.CachedInfo().State.LastSeq)
}

func TestOneServerHasOneName(t *testing.T) {
	w := newWorld(t)
	a := standIn(t, "aaaaaaaa-0000-4000-8000-000000000007")
	add := func(id string) answer { return w.do("POST", "/api/v1/servers", serverBody(id, a, "")) }
	if r := add("production"); r.status >= 300 {
		t.Fatalf("%d %s", r.status, r.body)
	}
	add("alias").want(409, "production", "onto itself")
	w.do("DELETE", "/api/v1/servers/production", "", "If-Match", "*")
	if r := add("alias"); r.status >= 300 {
		t.Errorf("after the first name is gone: %d %s", r.status, r.body)
	}
}

func TestWhatIsNotMeantForThisAPIIsRefused(t *testing.T) {
	w := newWorld(t)
	w.putServer("a", "b")
	body := settingBody("one", "a", "b", true, allJobs)
	const path = "/api/v1/settings"
	w.do("POST", path, body, "Sec-Fetch-Site", "cross-site").want(403, "another origin")
	w.do("POST", path, body, "Sec-Fetch-Site", "same-site").want(403)
	w.do("POST", path, body, "Origin", "https://evil.example").want(403)
	w.do("DELETE", path+"/one", "", "Origin", "null", "If-Match", "*").want(403)
	// Reading is no page's business either; following a link to the page is fine.
	w.do("GET", path, "", "Origin", "https://evil.example").want(403, "another origin")
	w.do("GET", "/api/v1/events/stream", "", "Sec-Fetch-Site", "cross-site", "Sec-Fetch-Mode", "cors").want(403)
	w.do("GET", path, "", "Sec-Fetch-Site", "same-site", "Sec-Fetch-Mode", "navigate").want(403)
	w.do("GET", "/", "", "Sec-Fetch-Site", "cross-site", "Sec-Fetch-Mode", "navigate").want(200)
	w.do("GET", path, "", "Sec-Fetch-Site", "same-origin").want(200)
	w.do("GET", path, "", "Origin", w.srv.URL).want(200)
	w.do("POST", path, body, "Host", "evil.example").want(421, "Host")
	w.do("POST", path, body, "Host", "evil.example:7780").want(421)
	w.do("GET", path, "", "Host", "127.0.0.1.evil.example").want(421)
	w.do("GET", "/", "", "Host", "evil.example").want(421)
	w.do("GET", "/livez", "", "Host", "evil.example").want(421)
	w.do("GET", "/api/v1/events/stream", "", "Host", "evil.example").want(421)
	for _, ct := range []string{"text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "", "application/jsonx", "application/json; charset=utf-16"} {
		w.do("POST", path, body, "Content-Type", ct).want(415, "application/json")
	}
	w.do("DELETE", path+"/one", "x", "Content-Type", "text/plain", "If-Match", "*").want(415)
	if len(w.audits()) > 0 {
		t.Fatal("one of them was carried out")
	}
	big := settingBody("one", "a", "b", true, `"description":"`+strings.Repeat("x", 1<<20)+`",`+allJobs)
	w.do("POST", path, big).want(413)
	for _, host := range []string{"localhost", "LocalHost:7780", "127.0.0.1", "127.0.0.1:1", "[::1]", "[::1]:7780"} {
		w.do("GET", path, "", "Host", host).want(200)
	}
	w.do("POST", path, body, "Content-Type", "application/json; charset=utf-8", "Origin", w.srv.URL).want(201)

	w.do("GET", "/api/v1/nothing", "").want(404)
	w.do("PATCH", path, "").want(405, "PATCH")
	w.do("POST", "/", "").want(405)
	w.do("POST", "/readyz", "").want(405)
	w.do("GET", path+"?sort=name", "").want(422, "sort")

	for _, p := range []string{"/", path, "/livez", "/api/v1/nothing"} {
		h := w.do("GET", p, "").header
		if h.Get("X-Content-Type-Options") != "nosniff" || h.Get("Referrer-Policy") != "no-referrer" || h.Get("Cache-Control") != "no-store" ||
			!strings.Contains(h.Get("Content-Security-Policy"), "default-src 'none'") || !strings.Contains(h.Get("Content-Security-Policy"), "frame-ancestors 'none'") {
			t.Errorf("%s: headers %v", p, h)
		}
		if h.Get("Access-Control-Allow-Origin") != "" {
			t.Errorf("%s: another origin may read it", p)
		}
	}
}

func TestNoGetChangesAnything(t *testing.T) {
	w := newWorld(t)
	w.putServer("a", "b")
	w.do("POST", "/api/v1/settings", settingBody("one", "a", "b", true, allJobs)).want(201)
	before := w.state()
	for _, p := range []string{"/", "/livez", "/readyz", "/api/v1/servers", "/api/v1/servers/a", "/api/v1/settings", "/api/v1/settings/one", "/api/v1/events",
		"/api/v1/status", "/api/v1/parked", "/api/v1/settings/one/deactivate", "/api/v1/sources/a/poll", "/api/v1/parked/retry", "/api/v1/servers/a/test"} {
		w.do("GET", p, "", "If-Match", "*")
	}
	if after := w.state(); after != before || len(w.audits()) != 1 || len(w.roles.poked) > 0 {
		t.Errorf("%s\nbefore %s", after, before)
	}
}

func TestThePasswordIsNowhere(t *testing.T) {
	w := newWorld(t)
	a := standIn(t, "aaaaaaaa-0000-4000-8000-000000000001")
	w.putServer("b")
	w.do("POST", "/api/v1/servers", serverBody("a", a, "")).want(201)
	w.do("POST", "/api/v1/servers", serverBody("a", a, "")).want(409)
	w.do("POST", "/api/v1/servers", serverBody("A", a, "")).want(422)
	w.do("POST", "/api/v1/servers", serverBody("x", "http://127.0.0.1:1", "")).want(422)
	w.do("POST", "/api/v1/servers", serverBody("x", "ftp://127.0.0.1:1", "")).want(422)
	w.do("POST", "/api/v1/servers", serverBody("x", a, `,"more":1`)).want(422)
	w.do("POST", "/api/v1/servers", strings.Replace(serverBody("x", a, ""), `"user":"sync"`, `"user":7`, 1)).want(422)
	w.do("POST", "/api/v1/servers", serverBody("x", a, "")+"x").want(400)
	w.do("POST", "/api/v1/servers", "["+serverBody("x", a, "")+"]").want(422)
	w.do("POST", "/api/v1/servers", strings.TrimSuffix(serverBody("x", a, ""), "}")).want(400)
	w.do("POST", "/api/v1/servers", serverBody("x", a, ""), "Content-Type", "text/plain").want(415)
	w.do("POST", "/api/v1/settings", settingBody("one", "a", "b", true, allJobs)).want(201)
	for _, p := range []string{"/", "/readyz", "/livez", "/api/v1/servers", "/api/v1/servers/a", "/api/v1/settings", "/api/v1/settings/one", "/api/v1/events", "/api/v1/status",
		"/api/v1/parked", "/api/v1/openapi.yaml", "/api/v1/openapi.json"} {
		w.do("GET", p, "").want(200)
	}
	w.do("POST", "/api/v1/servers/a/test", "").want(200)
	w.do("POST", "/api/v1/servers/b/test", "").want(409, "No password")
	w.do("POST", "/api/v1/sources/a/poll", "").want(202)
	audit, err := json.Marshal(w.audits())
	if err != nil {
		t.Fatal(err)
	}
	escaped, err := json.Marshal(password)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256([]byte(password))
	for _, place := range []struct{ name, text string }{{"an answer", w.answers.String()}, {"the log", w.log.String()}, {"the audit", string(audit)}} {
		for _, form := range []string{password, strings.Trim(string(escaped), `"`), base64.StdEncoding.EncodeToString([]byte(password)),
			base64.RawURLEncoding.EncodeToString([]byte(password)), fmt.Sprintf("%x", password), fmt.Sprintf("%x", sum), "w0rd"} {
			if strings.Contains(place.text, form) {
				t.Errorf("%s holds %q", place.name, form)
			}
		}
	}
}

func TestSourcesArePolledOnRequest(t *testing.T) {
	w := newWorld(t)
	w.putServer("a")
	w.do("POST", "/api/v1/sources/a/poll", "").want(202, `"source":"a"`)
	w.do("POST", "/api/v1/sources/b/poll", "").want(404)
	if len(w.roles.poked) != 1 || w.roles.poked[0] != "a" {
		t.Errorf("poked %v", w.roles.poked)
	}
	w = newWorld(t, func(c *control.Config) { c.Sources = nil })
	w.putServer("a")
	w.do("POST", "/api/v1/sources/a/poll", "").want(409, "No producer is known")
}

func TestLiveAndReady(t *testing.T) {
	w := newWorld(t)
	w.do("GET", "/livez", "").want(200, `"live":true`)
	w.do("GET", "/readyz", "").want(200, `"ready":true`)
	if err := w.b.Close(); err != nil {
		t.Fatal(err)
	}
	// The last answer is good for a second; then the store is asked again.
	deadline := time.Now().Add(20 * time.Second)
	for {
		a := w.do("GET", "/readyz", "")
		if a.status == http.StatusServiceUnavailable {
			var r struct {
				Ready  bool
				Reason string
			}
			if a.into(&r); r.Ready || r.Reason == "" {
				t.Errorf("%s", a.body)
			}
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("ready without a store")
		}
		time.Sleep(20 * time.Millisecond)
	}
	w.do("GET", "/livez", "").want(200)
}

func TestServeEndsWithItsContextAndSaysWhatIsTaken(t *testing.T) {
	w := newWorld(t)
	for _, addr := range []string{"0.0.0.0:0", ":0", "192.0.2.1:0", "example.com:0", "nonsense", "127.0.0.1:http", "127.0.0.1:99999"} {
		if l, err := control.Listen(t.Context(), addr, false); err == nil {
			l.Close()
			t.Errorf("%s is accepted", addr)
		}
	}
	l, err := control.Listen(t.Context(), "127.0.0.1:0", false)
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	if _, err := control.Listen(t.Context(), addr, false); err == nil || !strings.Contains(err.Error(), addr) || !strings.Contains(err.Error(), "VCSYNC_API_ADDR") {
		t.Errorf("a taken address: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() { served <- w.s.Serve(ctx, l) }()
	// An open event stream does not hold the end up.
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+addr+"/api/v1/events/stream", nil)
	if err != nil {
		t.Fatal(err)
	}
	tr := &http.Transport{}
	defer tr.CloseIdleConnections()
	resp, err := tr.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	begun := time.Now()
	cancel()
	if err := <-served; err != nil {
		t.Error(err)
	}
	if took := time.Since(begun); took > 2*time.Second {
		t.Errorf("the end took %s", took)
	}
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		t.Errorf("the stream was cut instead of ended: %v", err)
	}
}

// TestTitles: what people call a server is one line.
func TestTitles(t *testing.T) {
	t.Parallel()
	for title, ok := range map[string]bool{"": true, "Head office, Åre": true, "two\nlines": false, "a\x1b[2J": false, "turned \u202e around": false} {
		if err := control.TitleFault(title); (err == nil) != ok || err != nil && !errors.Is(err, schemas.ErrServer) {
			t.Errorf("%q: %v", title, err)
		}
	}
}
