package conformance_test

import (
	"encoding/base64"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"

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

// TestBridgeWithoutChanges runs it on a server that has no change feed.
func TestBridgeWithoutChanges(t *testing.T) {
	conformance.Run(t, func(t *testing.T) conformance.Harness { return bridgeHarness(t, standin.Config{NoChanges: true}) })
}

// account is not the demo one: a password that no escaping leaves as it is.
const (
	user     = "ops"
	password = `S3cret /&"<pässwörd>%+`
)

func bridgeHarness(t *testing.T, cfg standin.Config) conformance.Harness {
	t.Helper()
	var mu sync.Mutex
	fault := conformance.None
	secrets := []string{password}
	var another http.Handler
	broken := make(chan struct{})
	cfg.Dir, cfg.User, cfg.Password = t.TempDir(), user, password
	cfg.Intercept = func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			mu.Lock()
			f := fault
			token := strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")
			if token != "" && !slices.Contains(secrets, token) {
				secrets = append(secrets, token)
			}
			mu.Unlock()
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
				case <-broken:
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
				another.ServeHTTP(w, r)
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
	s, err := standin.Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	other, err := standin.Open(standin.Config{User: user, Password: password})
	if err != nil {
		t.Fatal(err)
	}
	another = other.Handler()
	srv := httptest.NewServer(s.Handler())
	t.Cleanup(func() {
		close(broken)
		_ = s.Close()
		srv.Close()
	})
	addr := srv.Listener.Addr().String()
	return conformance.Harness{
		Open: func(change func(*visualcron.Config)) visualcron.Connector {
			c := visualcron.Config{Server: "under-test", Address: "http://" + addr, User: user, Password: password}
			if change != nil {
				change(&c)
			}
			b, err := bridge.New(c)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = b.Close() })
			return b
		},
		Break: func(f conformance.Fault) {
			mu.Lock()
			was := fault
			fault = f
			mu.Unlock()
			switch {
			case f == conformance.Down: // nothing listens at the port any more
				srv.CloseClientConnections()
				_ = srv.Listener.Close()
			case was == conformance.Down:
				l, err := net.Listen("tcp", addr)
				if err != nil {
					t.Fatal(err)
				}
				up := &httptest.Server{Listener: l, Config: &http.Server{Handler: s.Handler()}}
				up.Start()
				t.Cleanup(up.Close)
			}
		},
		Forget: s.ExpireTokens,
		Put: func(typ schemas.Type, body []byte) {
			if _, _, err := s.Put(typ, body); err != nil {
				t.Fatal(err)
			}
		},
		Delete: func(typ schemas.Type, id schemas.ID) {
			if ok, err := s.Delete(typ, id); err != nil || !ok {
				t.Fatalf("delete %s/%s: %t, %v", typ, id, ok, err)
			}
		},
		Get: s.Get,
		Secrets: func() []string {
			mu.Lock()
			defer mu.Unlock()
			return append([]string(nil), secrets...)
		},
	}
}
