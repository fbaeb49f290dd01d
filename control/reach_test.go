package control_test

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/vcsync/vcsync/broker"
	"github.com/vcsync/vcsync/control"
	"github.com/vcsync/vcsync/visualcron/standin"
)

// listener remembers everything that it is sent, and answers as a stand-in.
type listener struct {
	mu  sync.Mutex
	got strings.Builder
	url string
}

func (l *listener) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.got.String()
}

func listen(t *testing.T, id, password string) *listener {
	t.Helper()
	st, err := standin.Open(standin.Config{Name: "listener", ID: id, User: "sync", Password: password})
	if err != nil {
		t.Fatal(err)
	}
	l := &listener{}
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		raw, _ := io.ReadAll(r.Body)
		l.mu.Lock()
		fmt.Fprintf(&l.got, "%s %s %v\n%s\n", r.Method, r.URL, r.Header, raw)
		l.mu.Unlock()
		r.Body = io.NopCloser(strings.NewReader(string(raw)))
		st.Handler().ServeHTTP(w, r)
	}))
	l.url = srv.URL
	t.Cleanup(func() {
		srv.Close()
		if err := st.Close(); err != nil {
			t.Error(err)
		}
	})
	return l
}

// TestAPasswordGoesNowhereElse changes where a server is, as whoever may would who wants
// to learn its password.
func TestAPasswordGoesNowhereElse(t *testing.T) {
	w := newWorld(t)
	const id, other = "aaaaaaaa-0000-4000-8000-000000000001", "another long password"
	home, mine := listen(t, id, password), listen(t, id, other)
	w.do("POST", "/api/v1/servers", serverBody("a", home.url, "")).want(201)
	body := func(address, more string) string {
		return fmt.Sprintf(`{"address":%q,"user":"sync"%s}`, address, more)
	}
	const path = "/api/v1/servers/a"
	w.do("PUT", path, body(mine.url, ""), "If-Match", "*").want(422, "password has to be entered again")
	w.do("PUT", path, body(mine.url, `,"unreachableOk":true`), "If-Match", "*").want(422, "entered again")
	w.do("PUT", path, `{"address":"`+home.url+`","user":"other"}`, "If-Match", "*").want(422, "entered again")
	if mine.String() != "" {
		t.Errorf("the new address was asked before anybody entered a password: %s", mine)
	}
	if pw, err := w.b.Password(t.Context(), "a"); err != nil || pw != password {
		t.Error("a refused change took the password")
	}
	w.do("PUT", path, body(mine.url, fmt.Sprintf(`,"password":%q`, other)), "If-Match", "*").want(200)
	if pw, err := w.b.Password(t.Context(), "a"); err != nil || pw != other {
		t.Errorf("the stored password is not the new one, error %v", err)
	}
	if strings.Contains(mine.String(), "Pä55") || !strings.Contains(mine.String(), other) {
		t.Error("the new address was sent the password of the old")
	}

	// A change that does not come through takes nothing away.
	w.do("PUT", path, body(home.url, `,"password":"wrong"`), "If-Match", "*").want(422)
	w.do("PUT", path, body(home.url, fmt.Sprintf(`,"password":%q`, other)), "If-Match", `"1"`).want(412)
	if pw, err := w.b.Password(t.Context(), "a"); err != nil || pw != other {
		t.Errorf("a refused change took the password: error %v", err)
	}

	// A password alone is changed without all that.
	w.do("PUT", path, body(mine.url, `,"password":"wrong"`), "If-Match", "*").want(422)
	w.do("PUT", path, body(mine.url, `,"name":"Mine"`), "If-Match", "*").want(200, `"Mine"`)
	if pw, err := w.b.Password(t.Context(), "a"); err != nil || pw != other {
		t.Errorf("a title took the password: error %v", err)
	}
	// What is no pin, or has no certificate, is none.
	w.do("PUT", path, body(mine.url, `,"password":"x","pins":["sha256/x"]`), "If-Match", "*").want(422, "pin")
	w.do("PUT", path, body(mine.url, `,"password":"x","pins":["sha256/`+strings.Repeat("A", 43)+`="]`), "If-Match", "*").want(422, "https://")

	// Whose password was never entered is told how.
	if err := w.b.DeletePassword(t.Context(), "a"); err != nil {
		t.Fatal(err)
	}
	if _, err := w.b.Password(t.Context(), "a"); !errors.Is(err, broker.ErrNotFound) {
		t.Errorf("%v", err)
	}
	w.do("POST", path+"/test", "").want(409, "--password-file")
}

// TestTestsAreBoundedAndOnRecord asks servers who they are, more often than anybody would.
func TestTestsAreBoundedAndOnRecord(t *testing.T) {
	w := newWorld(t)
	w.do("POST", "/api/v1/servers", serverBody("a", standIn(t, "aaaaaaaa-0000-4000-8000-000000000001"), "")).want(201)
	var out control.ServerTest
	w.do("POST", "/api/v1/servers/a/test", "").want(200).into(&out)
	if got := w.audits(); !out.OK || got[len(got)-1].Action != "server.test" {
		t.Errorf("%+v, audit %+v", out, got)
	}
	for i := range 60 {
		r := w.do("POST", "/api/v1/servers/a/test", "")
		if r.status == 429 {
			if i < 40 || r.header.Get("Retry-After") == "" {
				t.Errorf("refused after %d tests, %v", i, r.header)
			}
			w.do("POST", "/api/v1/servers", serverBody("b", "http://127.0.0.1:1", "")).want(429)
			w.do("PUT", "/api/v1/servers/a", `{"address":"http://127.0.0.1:1","user":"sync","password":"x"}`, "If-Match", "*").want(429)
			return
		}
		r.want(200)
	}
	t.Error("60 tests in a row were let through")
}
