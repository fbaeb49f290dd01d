package main

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// vcsync up tells a real receiver of safe mode, and shows the URL nowhere.
func TestUpNotifies(t *testing.T) {
	clearEnv(t)
	got := make(chan map[string]any, 16)
	srv := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		var m map[string]any
		if err := json.NewDecoder(r.Body).Decode(&m); err != nil {
			t.Error(err)
		}
		got <- m
	}))
	defer srv.Close()
	dir, api := t.TempDir(), freeAddr(t)
	path := filepath.Join(dir, "receivers")
	if err := os.WriteFile(path, []byte(srv.URL+"/sesame\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, value := range map[string]string{"API_ADDR": api, "DATA": filepath.Join(dir, "data"), "NOTIFY_FILE": path, "NOTIFY_GRACE": "0s", "LOG_LEVEL": "debug"} {
		t.Setenv(envPrefix+name, value)
	}
	t.Setenv("XDG_CONFIG_HOME", dir)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	command := func(out io.Writer, args ...string) int { return run(ctx, args, strings.NewReader(""), out, out) }
	up, stop := context.WithCancel(ctx)
	var log syncBuffer // what it logs and what it says come at the same time
	var said bytes.Buffer
	ended := make(chan int, 1)
	go func() { ended <- run(up, []string{"up"}, strings.NewReader(""), &log, &log) }()
	for command(io.Discard, "health") != 0 {
		if ctx.Err() != nil {
			t.Fatal("vcsync is not up")
		}
		time.Sleep(50 * time.Millisecond)
	}
	if code := command(&said, "safe-mode", "on", "--reason", "drill"); code != 0 {
		t.Fatalf("exit code %d: %s", code, &said)
	}
	select {
	case m := <-got:
		if m["kind"] != "safe-mode" || m["state"] != "began" || m["command"] != "vcsync safe-mode" {
			t.Errorf("%v", m)
		}
	case <-ctx.Done():
		t.Error("nobody was told")
	}
	if code := command(&said, "notify", "test"); code != 0 || (<-got)["state"] != "test" {
		t.Errorf("exit code %d: %s", code, &said)
	}
	stop()
	if code := <-ended; code != 0 {
		t.Errorf("up ended with %d", code)
	}
	if strings.Contains(log.String()+said.String(), "sesame") {
		t.Errorf("the URL is shown:\n%s%s", log.String(), &said)
	}
	if kept, err := os.ReadFile(filepath.Join(dir, "data", "notified.json")); err != nil || !strings.Contains(string(kept), `"safe-mode"`) || strings.Contains(string(kept), "sesame") {
		t.Errorf("kept %s, %v", kept, err)
	}
}
