package broker_test

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/vcsync/vcsync/broker"
	"github.com/vcsync/vcsync/schemas"
)

// cluster is three brokers that run the files of deploy/nats, at free ports.
type cluster struct {
	site
	dir   string
	stops [3]func()
	urls  [3]string
}

func freePorts(t testing.TB, n int) (out []string) {
	t.Helper()
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		_, port, _ := net.SplitHostPort(l.Addr().String())
		out = append(out, port)
	}
	return out
}

func newCluster(t testing.TB) *cluster {
	t.Helper()
	c := &cluster{site: site{keys: t.TempDir(), log: &syncBuffer{}}, dir: t.TempDir()}
	if _, err := broker.Init(c.keys, broker.InitOptions{}); err != nil {
		t.Fatal(err)
	}
	ports := freePorts(t, 6)
	folder := filepath.Join(c.keys, "broker")
	for i := range 3 {
		for _, name := range []string{"common.conf", fmt.Sprintf("node%d.conf", i+1)} {
			raw, err := os.ReadFile(filepath.Join("..", "deploy", "nats", name))
			if err != nil {
				t.Fatal(err)
			}
			text := strings.NewReplacer("/etc/vcsync-broker", folder, "/var/lib/vcsync-broker", filepath.Join(c.dir, fmt.Sprint(i)),
				"0.0.0.0:4222", "127.0.0.1:"+ports[i], "0.0.0.0:6222", "127.0.0.1:"+ports[3+i]).Replace(string(raw))
			text = regexp.MustCompile(`nats(\d):6222`).ReplaceAllStringFunc(text, func(m string) string { return "127.0.0.1:" + ports[3+m[4]-'1'] })
			if err := os.WriteFile(filepath.Join(folder, name), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		c.urls[i] = "tls://127.0.0.1:" + ports[i]
	}
	c.url = strings.Join(c.urls[:], ",")
	for i := range 3 {
		c.begin(t, i)
	}
	return c
}

func (c *cluster) begin(t testing.TB, i int) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ready, done := make(chan struct{}), make(chan error, 1)
	go func() {
		done <- broker.Serve(ctx, broker.ServeConfig{Dir: filepath.Join(c.dir, fmt.Sprint(i)), File: filepath.Join(c.keys, "broker", fmt.Sprintf("node%d.conf", i+1)),
			Log: slog.New(slog.NewTextHandler(c.log, nil)), Ready: func(string) error { close(ready); return nil }})
	}()
	select {
	case <-ready:
	case err := <-done:
		t.Fatalf("member %d: %v", i+1, err)
	}
	stopped := false
	c.stops[i] = func() {
		if !stopped {
			stopped = true
			cancel()
			if err := <-done; err != nil {
				t.Errorf("member %d: %v", i+1, err)
			}
		}
	}
	t.Cleanup(c.stops[i])
}

func TestAClusterOfThree(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	ctl := c.open(t, "control", broker.Control)
	pro, con := c.open(t, "producer", broker.Producer), c.open(t, "consumer", broker.Consumer)
	for _, name := range []string{broker.StreamEvents, broker.StreamState, "KV_" + broker.BucketLease, "OBJ_" + broker.BucketBodies} {
		s, err := ctl.JS().Stream(t.Context(), name)
		if err != nil {
			t.Fatal(err)
		}
		if n := s.CachedInfo().Config.Replicas; n != 3 {
			t.Errorf("%s has %d copies, want 3", name, n)
		}
	}
	// The leader of the events goes and comes back; what was acknowledged stays.
	put(t, pro, "before")
	st, err := ctl.JS().Stream(t.Context(), broker.StreamEvents)
	if err != nil {
		t.Fatal(err)
	}
	leader := int(strings.TrimPrefix(st.CachedInfo().Cluster.Leader, "vcsync-")[0] - '1')
	c.stops[leader]()
	put(t, pro, "without")
	c.begin(t, leader)
	put(t, pro, "after")
	eventually(t, "the consumer sees every object", func() bool {
		if err := pro.WaitState(short(t, 10*time.Second)); err != nil {
			return false
		}
		n := 0
		err := con.ScanState(short(t, 10*time.Second), []string{schemas.SourceStateFilter("production")}, func(broker.Newest) { n++ }, func(broker.Unreadable) {})
		return err == nil && n == 3
	})
	for who, b := range map[string]*broker.Broker{"control": ctl, "producer": pro, "consumer": con} {
		select {
		case err := <-b.Lost():
			t.Errorf("%s: %v", who, err)
		default:
		}
		if n := b.Denied(); n > 0 {
			t.Errorf("%s: %d acts were denied", who, n)
		}
	}
}

func TestAConfigurationThatIsNotSafeIsRefused(t *testing.T) {
	keys := t.TempDir()
	if _, err := broker.Init(keys, broker.InitOptions{}); err != nil {
		t.Fatal(err)
	}
	folder := filepath.Join(keys, "broker")
	base := fmt.Sprintf(`listen: "127.0.0.1:-1"
max_payload: 8MB
ping_interval: "1500ms"
ping_max: 2
jetstream { store_dir: %q, sync_interval: always }
tls { cert_file: %q, key_file: %q, ca_file: %q, min_version: "1.3" }
include "users.conf"
`, t.TempDir(), filepath.Join(folder, "server.pem"), filepath.Join(folder, "server.key"), filepath.Join(folder, "ca.pem"))
	file := filepath.Join(folder, "test.conf")
	for _, c := range []struct{ name, old, new, says string }{
		{"as it should be", "", "", ""},
		{"nobody has to sign in", `include "users.conf"`, "", "names no user"},
		{"a file of an earlier version", `include "users.conf"`, "authorization { users = [ { nkey: UB3E6EHSGUAB6PHJ7BA4CUSBVIKWFGA6UUARAUQVPR5YFEVARX3HVB7F } ] }", "run vcsync broker init again"},
		{"lazy", "sync_interval: always", "sync_interval: 2m", "sync_interval: always"},
		{"old TLS", `, min_version: "1.3"`, "", "min_version 1.3"},
		{"small messages", "max_payload: 8MB", "max_payload: 1MB", "want 8MB"},
		{"the ping of a stock server", "ping_interval: \"1500ms\"", "", "ping_interval"},
		{"a slow ping", "1500ms", "20s", "ping_interval"},
		{"no store", "jetstream {", "xjetstream {", "jetstream"},
		{"members in the clear", `include "users.conf"`, `include "users.conf"` + "\ncluster { name: a, listen: \"127.0.0.1:-1\" }", "cluster block"},
	} {
		if err := os.WriteFile(file, []byte(strings.Replace(base, c.old, c.new, 1)), 0o600); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		err := broker.Serve(ctx, broker.ServeConfig{Dir: t.TempDir(), File: file, Log: slog.New(slog.DiscardHandler), Ready: func(string) error { cancel(); return nil }})
		cancel()
		if c.says == "" && err != nil || c.says != "" && (err == nil || !strings.Contains(err.Error(), c.says)) {
			t.Errorf("%s: %v, want %q", c.name, err, c.says)
		}
	}
}
