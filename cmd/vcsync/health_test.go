package main

import (
	"bytes"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// What /readyz can say, and what else can be at the address.
func TestHealth(t *testing.T) {
	for _, c := range []struct {
		name, kind, body string
		status, code     int
		says             string
	}{
		{"ready", "application/json", `{"ready":true}`, 200, 0, "ready"},
		{"not ready", "application/json", `{"ready":false,"reason":"the store is full"}`, 503, 1, "vcsync: not ready: the store is full"},
		{"a proxy's error", "text/html", `<html>`, 503, 3, "is not vcsync"},
		{"something else", "application/json", `{"up":true}`, 200, 3, "is not vcsync"},
	} {
		srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path != "/readyz" {
				http.NotFound(w, r)
				return
			}
			w.Header().Set("Content-Type", c.kind)
			w.WriteHeader(c.status)
			_, _ = w.Write([]byte(c.body))
		}))
		var out bytes.Buffer
		if code := run(t.Context(), []string{"health", "--api", srv.Listener.Addr().String()}, nil, &out, &out); code != c.code || !strings.Contains(out.String(), c.says) {
			t.Errorf("%s: exit code %d and %q, want %d and %q", c.name, code, out.String(), c.code, c.says)
		}
		srv.Close()
	}
}
