package control

import (
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/vcsync/vcsync/broker/brokertest"
	"github.com/vcsync/vcsync/schemas"
	"github.com/vcsync/vcsync/visualcron"
)

// TestTheOneTimeTokenExpires lets an hour go by, and somebody else be first.
func TestTheOneTimeTokenExpires(t *testing.T) {
	dir := t.TempDir()
	s, err := New(Config{Broker: brokertest.Open(t, dir), Open: func(schemas.Server, string) (visualcron.Connector, error) { return nil, nil }, Addr: "127.0.0.1:7780"})
	if err != nil {
		t.Fatal(err)
	}
	first := func(name string) int {
		t.Helper()
		raw, err := os.ReadFile(filepath.Join(dir, FirstAdminFile))
		if err != nil {
			t.Fatal(err)
		}
		r := httptest.NewRequest(http.MethodPost, "http://127.0.0.1:7780/api/v1/first-admin", strings.NewReader(`{"token":"`+strings.TrimSpace(string(raw))+`","account":"`+name+`","password":"correct horse 7 battery"}`))
		r.Header.Set("Content-Type", "application/json")
		rec := httptest.NewRecorder()
		s.Handler().ServeHTTP(rec, r)
		return rec.Code
	}
	if err := s.OfferFirstAdmin(t.Context(), dir, false); err != nil {
		t.Fatal(err)
	}
	s.first.until = time.Now().Add(-time.Second)
	if got := first("root"); got != 403 {
		t.Errorf("after an hour: %d", got)
	}
	s.first.until = time.Now().Add(time.Hour)
	if got := first("root"); got != 201 {
		t.Fatalf("%d", got)
	}
	// Another process offered it too, before there was an admin.
	if err := os.WriteFile(filepath.Join(dir, FirstAdminFile), []byte("of the other process"), 0o600); err != nil {
		t.Fatal(err)
	}
	s.first.hash = hashSecret("of the other process")
	if got := first("second"); got != 409 {
		t.Errorf("though there is an admin: %d", got)
	}
}
