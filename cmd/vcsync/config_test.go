package main

import (
	"flag"
	"fmt"
	"log/slog"
	"os"
	"reflect"
	"strings"
	"testing"
	"time"
)

var update = flag.Bool("update", false, "write the generated files anew")

// clearEnv takes every variable of vcsync out of the test's environment.
func clearEnv(t *testing.T) {
	t.Helper()
	for _, kv := range os.Environ() {
		if name, _, _ := strings.Cut(kv, "="); strings.HasPrefix(name, envPrefix) {
			t.Setenv(name, "") // so that it comes back
			if err := os.Unsetenv(name); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func TestConfigDefaults(t *testing.T) {
	clearEnv(t)
	c, err := loadConfig()
	if err != nil {
		t.Fatal(err)
	}
	want := config{APIAddr: defaultAPIAddr, ServersAllow: "*", Data: "./data", EventsMaxBytes: 8 << 30, Poll: 30 * time.Second, Lanes: 8, LeaseTTL: 15 * time.Second, NotifyGrace: time.Minute,
		LogLevel: slog.LevelInfo, LogFormat: "auto", Production: "127.0.0.1:7701", Test: "127.0.0.1:7702", Standby: "127.0.0.1:7703",
		StandinUser: "admin", StandinPassword: "standin-demo"}
	if c != want {
		t.Errorf("%+v\nwant %+v", c, want)
	}
}

func TestConfigFaults(t *testing.T) {
	for _, c := range []struct {
		name, variable, value, says string // says "" for a good one
	}{
		{"a poll in words", "POLL", "1m30s", ""},
		{"a size in words", "EVENTS_MAX_BYTES", "512MiB", ""},
		{"an event stream that holds next to nothing", "EVENTS_MAX_BYTES", "1MiB", "want 64MiB or more"},
		{"a broker that listens to all", "NATS_LISTEN", "0.0.0.0:4222", "want a loopback address"},
		{"a stand-in that listens to all", "STANDIN_TEST_ADDR", "0.0.0.0:7702", "want a loopback address"},
		{"an address without a port", "STANDIN_TEST_ADDR", "garbage", "want a loopback address"},
		{"a size in bytes", "EVENTS_MAX_BYTES", "67108864", ""},
		{"a grace without end", "NOTIFY_GRACE", "25h", "want 0s to 24h"},
		{"a level", "LOG_LEVEL", "debug", ""},
		{"a number without a unit", "POLL", "30", "VCSYNC_POLL=\"30\""},
		{"a poll that floods", "POLL", "1ms", "want 100ms to 24h"},
		{"no lanes", "LANES", "0", "want 1 to 64"},
		{"too many lanes", "LANES", "65", "want 1 to 64"},
		{"a lease too short for a request", "LEASE_TTL", "1s", "want 10s to 10m"},
		{"a size that is none", "EVENTS_MAX_BYTES", "8GB", "8GiB"},
		{"a size below nothing", "EVENTS_MAX_BYTES", "-1", "number of bytes"},
		{"a size beyond all", "EVENTS_MAX_BYTES", "9000000TiB", "number of bytes"},
		{"a level that is none", "LOG_LEVEL", "loud", "VCSYNC_LOG_LEVEL"},
		{"a format that is none", "LOG_FORMAT", "xml", "auto, text or json"},
		{"an address for others", "API_ADDR", "0.0.0.0:7780", "loopback"},
		{"credentials without a server", "NATS_CREDS", "x.creds", "VCSYNC_NATS_URL"},
		{"a near miss", "LEASE_TIME", "15s", "did you mean VCSYNC_LEASE_TTL?"},
		{"something else", "ZZZZZZZZZZZZZZZZZZ", "1", "VCSYNC_ZZZZZZZZZZZZZZZZZZ is not a variable"},
	} {
		t.Run(c.name, func(t *testing.T) {
			clearEnv(t)
			t.Setenv(envPrefix+c.variable, c.value)
			_, err := loadConfig()
			if c.says == "" && err != nil || c.says != "" && (err == nil || !strings.Contains(err.Error(), c.says)) {
				t.Errorf("error %v, want %q", err, c.says)
			}
		})
	}
	clearEnv(t)
	t.Setenv("VCSYNC_LANES", "x")
	t.Setenv("VCSYNC_POLL", "y")
	t.Setenv("VCSYNC_NATS_URL", "nats://127.0.0.1:1")
	t.Setenv("VCSYNC_NATS_LISTEN", "127.0.0.1:2")
	t.Setenv("VCSYNC_POL", "30s")
	_, err := loadConfig()
	for _, want := range []string{"VCSYNC_LANES", "VCSYNC_POLL=", "VCSYNC_NATS_LISTEN", "VCSYNC_POL is not"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want it to name %s: all faults at once", err, want)
		}
	}
}

func TestConfigurationPageIsCurrent(t *testing.T) {
	const path = "../../docs/configuration.md"
	var b strings.Builder
	b.WriteString(`# Configuration

vcsync is configured by its environment. A variable that begins with ` + "`VCSYNC_`" + ` and
is not in this table keeps it from starting, because it would be a setting that is
not followed; all faults are named at once, and the exit code is 2.

<!-- The table is made from the struct tags in cmd/vcsync/config.go: go test ./cmd/vcsync -update -->

| Variable | Default | Meaning |
|---|---|---|
`)
	for _, o := range options() {
		def := "none"
		if o.def != "" {
			def = "`" + o.def + "`"
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s |\n", o.name, def, o.desc)
	}
	if *update {
		if err := os.WriteFile(path, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	have, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if string(have) != b.String() {
		t.Error("docs/configuration.md is not what the struct tags say; run go test ./cmd/vcsync -update")
	}
	for f := range reflect.TypeFor[config]().Fields() {
		if f.Tag.Get("desc") == "" || f.Tag.Get("envconfig") == "" {
			t.Errorf("%s has no name or no description", f.Name)
		}
	}
}

func TestASignalThatMakeKeepsIsSeen(t *testing.T) {
	for status, want := range map[string]bool{
		"Name:\tmake\nSigBlk:\t0000000000010000\n": false,
		"Name:\tmake\nSigBlk:\t0000000000010002\n": true,
		"Name:\tmake\n": false,
	} {
		if got := blocksInterrupt([]byte(status)); got != want {
			t.Errorf("%q: %v, want %v", status, got, want)
		}
	}
}
