package control_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/vcsync/vcsync/broker/brokertest"
	"github.com/vcsync/vcsync/control"
	"github.com/vcsync/vcsync/producer"
	"github.com/vcsync/vcsync/schemas"
	"github.com/vcsync/vcsync/visualcron"
	"github.com/vcsync/vcsync/visualcron/bridge"
	"github.com/vcsync/vcsync/visualcron/standin"
)

// token makes a server's hint token.
func (w *world) token(server string) string {
	w.t.Helper()
	var out control.HintToken
	w.do("POST", "/api/v1/servers/"+server+"/hint-token", "", "If-Match", "*").want(201).into(&out)
	if raw, err := base64.RawURLEncoding.DecodeString(out.Token); err != nil || len(raw) != 32 || out.Server != server || out.Path != "/api/v1/hints/"+server {
		w.t.Fatalf("%+v, error %v", out, err)
	}
	return out.Token
}

func (w *world) hint(server, token string) answer {
	w.t.Helper()
	return w.do("POST", "/api/v1/hints/"+server, "", "Authorization", "Bearer "+token)
}

func TestHints(t *testing.T) {
	w := newWorld(t)
	w.putServer("a", "b", "c")
	w.roles.sources = []producer.Status{{Server: "a", State: producer.Capturing}}
	w.do("POST", "/api/v1/servers/nobody/hint-token", "", "If-Match", "*").want(404)
	w.do("DELETE", "/api/v1/servers/a/hint-token", "", "If-Match", "*").want(404, "no hint token")
	a, b := w.token("a"), w.token("b")
	if a == b {
		t.Fatal("two servers have one token")
	}
	w.hint("a", a).want(202, `"server":"a"`, `"poll":true`)
	w.do("POST", "/api/v1/hints/a", "", "Authorization", "bearer  "+a).want(202)
	if got := fmt.Sprint(w.roles.poked); got != "[a a]" {
		t.Errorf("poked %s", got)
	}
	w.hint("b", b).want(202, `"poll":false`, "No active sync setting reads this server")

	// Whatever the body is, nobody looks at it.
	for _, c := range []struct{ contentType, body string }{
		{"text/plain", "something changed"},
		{"application/x-www-form-urlencoded", "a=b&c=%zz"},
		{"multipart/form-data; boundary=x", "--y"},
		{"application/json; charset=utf-16", `{"server":`},
		{"application/json", `{"token":1,"token":2}`},
		{"no media type at all;;", "\x00\xff"},
		{"", "x"},
		{"application/octet-stream", strings.Repeat("x", 5<<20)},
	} {
		t.Run(c.contentType, func(t *testing.T) {
			w.do("POST", "/api/v1/hints/a", c.body, "Content-Type", c.contentType, "Authorization", "Bearer "+a).want(202, `"poll":true`)
		})
	}

	// A refusal says nothing about which servers there are.
	refused := w.hint("nobody", a).want(401)
	if refused.header.Get("WWW-Authenticate") == "" {
		t.Error("no WWW-Authenticate")
	}
	for _, c := range []struct {
		name, server string
		header       []string
	}{
		{"no token at the server", "c", []string{"Authorization", "Bearer " + a}},
		{"no token at the server, and an empty one", "c", []string{"Authorization", "Bearer "}},
		{"another server's token", "a", []string{"Authorization", "Bearer " + b}},
		{"no token", "a", nil},
		{"an empty token", "a", []string{"Authorization", "Bearer "}},
		{"another scheme", "a", []string{"Authorization", "Basic " + a}},
		{"the token alone", "a", []string{"Authorization", a}},
		{"a cut token", "a", []string{"Authorization", "Bearer " + a[:42]}},
		{"a name that is none", "A", []string{"Authorization", "Bearer " + a}},
		{"a path in the name", "a%2Fb", []string{"Authorization", "Bearer " + a}},
		{"the token in the URL", "a?token=" + a, nil},
		{"a body beside a wrong token", "a", []string{"Authorization", "Bearer x", "Content-Type", "text/plain"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			body := ""
			if strings.HasPrefix(c.name, "a body") {
				body = "x"
			}
			got := w.do("POST", "/api/v1/hints/"+c.server, body, c.header...).want(401)
			got.header.Del("Date")
			refused.header.Del("Date")
			if !bytes.Equal(got.body, refused.body) || fmt.Sprint(got.header) != fmt.Sprint(refused.header) {
				t.Errorf("%v %s\nan unknown server gets\n%v %s", got.header, got.body, refused.header, refused.body)
			}
		})
	}
	for _, method := range []string{"GET", "HEAD", "PUT", "PATCH", "DELETE", "OPTIONS"} {
		for _, body := range []string{"", "x"} {
			r := w.do(method, "/api/v1/hints/a", body, "Authorization", "Bearer "+a, "Content-Type", "text/plain")
			if r.status != http.StatusMethodNotAllowed || r.header.Get("Allow") != "POST" {
				t.Errorf("%s: %d, Allow %q", method, r.status, r.header.Get("Allow"))
			}
		}
	}

	// A new token takes the place of the old one; a revoked one is good for nothing,
	// and neither is one of a server that was removed in between.
	newer := w.token("a")
	w.hint("a", a).want(401)
	w.hint("a", newer).want(202)
	w.do("DELETE", "/api/v1/servers/a/hint-token", "", "If-Match", "*").want(204)
	w.hint("a", newer).want(401)
	w.do("DELETE", "/api/v1/servers/b", "", "If-Match", "*").want(204)
	w.hint("b", b).want(401)
	w.putServer("b")
	w.hint("b", b).want(401)
	// Also where the removal was cut off after the record.
	address := standIn(t, "aaaaaaaa-0000-4000-8000-000000000001")
	w.do("POST", "/api/v1/servers", serverBody("d", address, "")).want(201)
	d := w.token("d")
	sum, err := w.b.HintToken(t.Context(), "d")
	if err != nil {
		t.Fatal(err)
	}
	w.do("DELETE", "/api/v1/servers/d", "", "If-Match", "*").want(204)
	if err := w.b.SetHintToken(t.Context(), "d", sum); err != nil {
		t.Fatal(err)
	}
	w.do("POST", "/api/v1/servers", serverBody("d", address, "")).want(201)
	w.hint("d", d).want(401)
}

// Only hints are let through with a body of any kind, and they from no page.
func TestOnlyHintsPassTheGuardWithAnyBody(t *testing.T) {
	w := newWorld(t)
	w.putServer("a", "b")
	a := w.token("a")
	acts := len(w.audits())
	for _, path := range []string{"/api/v1/hints", "/api/v1/hints/", "/api/v1/hints/a/b", "/api/v1/hints/a/", "/api/v1/settings", "/api/v1/servers/a/hint-token", "/api/v1/sources/a/poll", "/"} {
		w.do("POST", path, "x", "Content-Type", "text/plain", "Authorization", "Bearer "+a).want(415, "application/json")
	}
	// A way round leads to the refusal too.
	for _, path := range []string{"/api/v1/hints/../settings", "/api/v1/hints/../sources/a/poll", "//api/v1/settings"} {
		if r := w.do("POST", path, "x", "Content-Type", "text/plain", "Authorization", "Bearer "+a); r.status < 300 {
			t.Errorf("%s: %d %s", path, r.status, r.body)
		}
	}
	auth := []string{"Authorization", "Bearer " + a, "Content-Type", "text/plain"}
	w.do("POST", "/api/v1/hints/a", "x", append(auth, "Origin", "https://evil.example")...).want(403, "another origin")
	w.do("POST", "/api/v1/hints/a", "x", append(auth, "Sec-Fetch-Site", "cross-site")...).want(403)
	w.do("POST", "/api/v1/hints/a", "x", append(auth, "Host", "evil.example")...).want(421)
	w.do("POST", "/api/v1/hints/a", "x", append(auth, "Host", "localhost:7780")...).want(202)
	// The token opens nothing else, and a hint is no act.
	w.do("DELETE", "/api/v1/servers/b", "", "Authorization", "Bearer "+a).want(401)
	if n := len(w.audits()); n != acts || len(w.roles.poked) > 0 {
		t.Errorf("%d audit records, want %d; poked %v", n, acts, w.roles.poked)
	}
}

func TestHintsWithoutAProducer(t *testing.T) {
	w := newWorld(t, func(c *control.Config) { c.Sources = nil })
	w.putServer("a")
	w.hint("a", w.token("a")).want(202, `"poll":false`, "does not run in this process")
}

// More logons may lock an account that the server refuses.
func TestHintsDoNotHurryARefusedAccount(t *testing.T) {
	w := newWorld(t)
	w.putServer("a", "b")
	a, b := w.token("a"), w.token("b")
	w.roles.sources = []producer.Status{{Server: "a", State: producer.Degraded, Class: string(visualcron.Unauthorized)},
		{Server: "b", State: producer.Degraded, Class: string(visualcron.Unreachable)}}
	w.hint("a", a).want(202, `"poll":false`, "lock the account")
	w.hint("b", b).want(202, `"poll":true`)
	if got := fmt.Sprint(w.roles.poked); got != "[b]" {
		t.Errorf("poked %s", got)
	}
}

func TestAHintTokenIsNowhere(t *testing.T) {
	w := newWorld(t)
	w.putServer("a")
	w.roles.sources = []producer.Status{{Server: "a", State: producer.Capturing}}
	token := w.token("a")
	said := w.answers.String()
	w.hint("a", token).want(202)
	w.hint("nobody", token).want(401)
	w.do("POST", "/api/v1/hints/a", token, "Authorization", "Basic "+token).want(401)
	w.do("GET", "/api/v1/hints/a", "", "Authorization", "Bearer "+token).want(405)
	for _, p := range []string{"/", "/api/v1/servers", "/api/v1/servers/a", "/api/v1/status", "/api/v1/openapi.yaml"} {
		w.do("GET", p, "").want(200)
	}
	audit, err := json.Marshal(w.audits())
	if err != nil {
		t.Fatal(err)
	}
	raw, err := base64.RawURLEncoding.DecodeString(token)
	if err != nil {
		t.Fatal(err)
	}
	places := map[string]string{"the log": w.log.String(), "the audit": string(audit), "a later answer": strings.TrimPrefix(w.answers.String(), said)}
	if err := w.b.Close(); err != nil { // all is in its files then
		t.Fatal(err)
	}
	if err := filepath.WalkDir(w.dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		b, err := os.ReadFile(path)
		places[path] = string(b)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	if sum := sha256.Sum256([]byte(token)); !slices.ContainsFunc(slices.Collect(maps.Values(places)), func(text string) bool { return strings.Contains(text, fmt.Sprintf("%x", sum)) }) {
		t.Error("its hash is in no file: they were not searched")
	}
	for place, text := range places {
		for _, form := range []string{token, string(raw), fmt.Sprintf("%x", raw), base64.StdEncoding.EncodeToString(raw)} {
			if strings.Contains(text, form) {
				t.Errorf("%.80s holds the token", place)
			}
		}
	}
}

// countedList counts the listings of a connector.
type countedList struct {
	visualcron.Connector
	lists *atomic.Int64
}

func (c countedList) List(ctx context.Context, t schemas.Type, yield func(visualcron.Row) error) (visualcron.Complete, error) {
	c.lists.Add(1)
	return c.Connector.List(ctx, t, yield)
}

// A flood of hints costs the source no more than the producer's own pace: it merges
// what comes within 50 ms, and lists no more often than that.
func TestAFloodOfHintsMakesFewPolls(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const hints, pace = 1000, 50 * time.Millisecond
		b, pipe := brokertest.Start(t), standin.NewPipe()
		st, err := standin.Open(standin.Config{Name: "a", ID: "aaaaaaaa-0000-4000-8000-000000000001", User: "sync", Password: password})
		if err != nil {
			t.Fatal(err)
		}
		log := slog.New(slog.DiscardHandler)
		transport := pipe.Transport()
		var lists atomic.Int64
		m := producer.New(producer.Config{Broker: b, Poll: time.Hour, Log: log, Open: func(s schemas.Server, pw string) (visualcron.Connector, error) {
			conn, err := bridge.New(visualcron.Config{Server: s.ID, Address: s.Address, User: s.User, Password: pw}, bridge.WithTransport(transport))
			return countedList{conn, &lists}, err
		}})
		s, err := control.New(control.Config{Broker: b, Sources: m, Open: openBridge, Addr: "127.0.0.1:7780", Log: log})
		if err != nil {
			t.Fatal(err)
		}
		for _, id := range []schemas.Slug{"a", "b"} {
			if _, err := b.PutServer(t.Context(), schemas.Server{ID: id, Connector: "bridge", Address: "http://a", User: "sync"}, 0); err != nil {
				t.Fatal(err)
			}
		}
		all := schemas.Rule{Sync: schemas.SyncAll, Rights: schemas.Rights{New: true}}
		_, err = b.PutSetting(t.Context(), schemas.Setting{ID: "one", Source: "a", Target: "b", Active: true, Rules: map[schemas.Type]schemas.Rule{schemas.Job: all}}, 0)
		if err := errors.Join(err, b.SetPassword(t.Context(), "a", password), b.SetHintToken(t.Context(), "a", sha256.Sum256([]byte("token")))); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() {
			if err := st.Serve(ctx, pipe); err != nil {
				t.Error(err)
			}
		})
		wg.Go(func() {
			if err := m.Run(ctx); err != nil {
				t.Error(err)
			}
		})
		defer func() {
			cancel()
			wg.Wait()
			transport.CloseIdleConnections()
			if err := st.Close(); err != nil {
				t.Error(err)
			}
		}()
		time.Sleep(time.Minute) // the first listing, and that of the feed when it stands
		if v := m.Status(); len(v) != 1 || v[0].State != producer.Capturing || !v[0].Feed {
			t.Fatalf("%+v", v)
		}
		for _, c := range []struct {
			what  string
			apart time.Duration
			most  int64
		}{
			{"all at once", 0, 2},
			{"for 10 s", 10 * time.Millisecond, int64(hints*10*time.Millisecond/pace) + 1},
		} {
			before, begun := lists.Load(), time.Now()
			for range hints {
				r := httptest.NewRequest(http.MethodPost, "http://127.0.0.1:7780/api/v1/hints/a", strings.NewReader("changed"))
				r.Header.Set("Authorization", "Bearer token")
				w := httptest.NewRecorder()
				s.Handler().ServeHTTP(w, r)
				if w.Code != http.StatusAccepted {
					t.Fatalf("%d %s", w.Code, w.Body)
				}
				time.Sleep(c.apart)
			}
			took := time.Since(begun)
			time.Sleep(time.Minute)
			polls := lists.Load() - before
			if polls < 1 || polls > c.most {
				t.Errorf("%d hints %s made %d listings, want 1 to %d", hints, c.what, polls, c.most)
			}
			t.Logf("%d hints in %s made %d listings", hints, took, polls)
		}
	})
}
