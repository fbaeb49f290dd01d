package conformance_test

import (
	"context"
	"encoding/base64"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vcsync/vcsync/schemas"
	"github.com/vcsync/vcsync/visualcron"
	"github.com/vcsync/vcsync/visualcron/bridge"
	"github.com/vcsync/vcsync/visualcron/conformance"
	"github.com/vcsync/vcsync/visualcron/standin"
)

// TestBridge runs the suite over real HTTP on a stand-in with its files.
func TestBridge(t *testing.T) {
	conformance.Run(t, func(t *testing.T) conformance.Harness { return bridgeHarness(t, standin.Config{}) })
}

// TestBridgeWithoutChanges runs it on a server that has no change feed, in virtual
// time.
func TestBridgeWithoutChanges(t *testing.T) {
	conformance.RunInBubbles(t, func(t *testing.T) conformance.Harness {
		h, _ := memoryHarness(t, standin.Config{NoChanges: true})
		return h
	})
}

// account is not the demo one: a password that no escaping leaves as it is.
const (
	user     = "ops"
	password = `S3cret /&"<pässwörd>%+`
)

// host is a stand-in with faults before it, and what the suite must not see told.
type host struct {
	s       *standin.Server
	another http.Handler
	broken  chan struct{} // closed at the end, for who waits

	mu      sync.Mutex
	fault   conformance.Fault
	secrets []string
}

func newHost(t *testing.T, cfg standin.Config) *host {
	t.Helper()
	h := &host{fault: conformance.None, secrets: []string{password}, broken: make(chan struct{})}
	cfg.User, cfg.Password, cfg.Intercept = user, password, h.intercept
	s, err := standin.Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	other, err := standin.Open(standin.Config{User: user, Password: password})
	if err != nil {
		t.Fatal(err)
	}
	h.s, h.another = s, other.Handler()
	return h
}

func (h *host) intercept(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h.mu.Lock()
		f := h.fault
		token := strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")
		if token != "" && !slices.Contains(h.secrets, token) {
			h.secrets = append(h.secrets, token)
		}
		h.mu.Unlock()
		problem := func(status int) {
			w.Header().Set("Content-Type", "application/problem+json")
			w.WriteHeader(status)
			// A careless server that repeats what it was sent.
			_, _ = w.Write([]byte(`{"title":"No","detail":"see http://` + r.Host + r.URL.Path + ` with ` + strings.ReplaceAll(password, `"`, `\"`) + ` and ` + token +
				` and ` + base64.StdEncoding.EncodeToString([]byte(user+":"+password)) + ` and ` + url.QueryEscape(password) + `"}`))
		}
		switch f {
		case conformance.Silent:
			select {
			case <-r.Context().Done():
			case <-h.broken:
			}
			panic(http.ErrAbortHandler)
		case conformance.Hangup, conformance.Down:
			panic(http.ErrAbortHandler)
		case conformance.Busy:
			w.Header().Set("Retry-After", "7")
			problem(http.StatusServiceUnavailable)
		case conformance.Failing:
			problem(http.StatusInternalServerError)
		case conformance.LockedOut:
			problem(http.StatusUnauthorized)
		case conformance.Stranger:
			w.Header().Set("Content-Type", "text/html")
			_, _ = w.Write([]byte("<html><title>Welcome</title></html>"))
		case conformance.Replaced:
			h.another.ServeHTTP(w, r)
		case conformance.Cut:
			if r.Method == http.MethodPost { // the logon works; what follows breaks off
				next.ServeHTTP(w, r)
				return
			}
			rec := httptest.NewRecorder()
			next.ServeHTTP(rec, r)
			w.Header().Set("Content-Type", rec.Header().Get("Content-Type"))
			w.WriteHeader(rec.Code)
			_, _ = w.Write(rec.Body.Bytes()[:rec.Body.Len()/2])
			_ = http.NewResponseController(w).Flush()
			panic(http.ErrAbortHandler)
		default:
			next.ServeHTTP(w, r)
		}
	})
}

// harness puts the host behind an address; down takes it off the network, up brings
// it back.
func (h *host) harness(t *testing.T, address string, down, up func(), opts ...bridge.Option) conformance.Harness {
	return conformance.Harness{
		Open: func(change func(*visualcron.Config)) visualcron.Connector {
			c := visualcron.Config{Server: "under-test", Reach: visualcron.Anywhere(), Address: address, User: user, Password: password}
			if change != nil {
				change(&c)
			}
			b, err := bridge.New(c, opts...)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = b.Close() })
			return b
		},
		Break: func(f conformance.Fault) {
			h.mu.Lock()
			was := h.fault
			h.fault = f
			h.mu.Unlock()
			switch {
			case f == conformance.Down: // nothing listens at the port any more
				down()
			case was == conformance.Down:
				up()
			}
		},
		Forget: h.s.ExpireTokens,
		Put: func(typ schemas.Type, body []byte) {
			if _, _, err := h.s.Put(typ, body); err != nil {
				t.Fatal(err)
			}
		},
		Delete: func(typ schemas.Type, id schemas.ID) {
			if ok, err := h.s.Delete(typ, id); err != nil || !ok {
				t.Fatalf("delete %s/%s: %t, %v", typ, id, ok, err)
			}
		},
		Get:    h.s.Shown,
		Hidden: h.s.Secrets,
		Secrets: func() []string {
			h.mu.Lock()
			defer h.mu.Unlock()
			return append([]string(nil), h.secrets...)
		},
	}
}

// bridgeHarness is a stand-in with its files at a real port.
func bridgeHarness(t *testing.T, cfg standin.Config) conformance.Harness {
	t.Helper()
	cfg.Dir = t.TempDir()
	h := newHost(t, cfg)
	srv := httptest.NewServer(h.s.Handler())
	t.Cleanup(func() {
		close(h.broken)
		_ = h.s.Close()
		srv.Close()
	})
	addr := srv.Listener.Addr().String()
	return h.harness(t, "http://"+addr, func() {
		srv.CloseClientConnections()
		_ = srv.Listener.Close()
	}, func() {
		l, err := net.Listen("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		up := &httptest.Server{Listener: l, Config: &http.Server{Handler: h.s.Handler()}}
		up.Start()
		t.Cleanup(up.Close)
	})
}

// memoryHarness is a stand-in without files on a network in memory, for a bubble.
func memoryHarness(t *testing.T, cfg standin.Config) (conformance.Harness, *standin.Server) {
	t.Helper()
	h := newHost(t, cfg)
	var mu sync.Mutex
	var pipe *standin.Pipe
	var srv *http.Server
	down := func() {
		mu.Lock()
		defer mu.Unlock()
		_ = srv.Close()
		_ = pipe.Close()
	}
	up := func() {
		mu.Lock()
		defer mu.Unlock()
		pipe, srv = standin.NewPipe(), &http.Server{Handler: h.s.Handler(), ErrorLog: log.New(io.Discard, "", 0)}
		go func(srv *http.Server, pipe *standin.Pipe) { _ = srv.Serve(pipe) }(srv, pipe)
	}
	up()
	t.Cleanup(func() {
		close(h.broken)
		_ = h.s.Close()
		down()
	})
	dial := func(ctx context.Context, network, addr string) (net.Conn, error) {
		mu.Lock()
		p := pipe
		mu.Unlock()
		return p.DialContext(ctx, network, addr)
	}
	transport := &http.Transport{DialContext: dial, MaxIdleConnsPerHost: 16, IdleConnTimeout: time.Minute, DisableCompression: true}
	t.Cleanup(transport.CloseIdleConnections)
	return h.harness(t, "http://under-test.invalid", down, up, bridge.WithTransport(transport)), h.s
}
