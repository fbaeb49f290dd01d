package broker_test

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/vcsync/vcsync/broker"
	"github.com/vcsync/vcsync/schemas"
)

// again stops the broker, lets something happen to its store, and starts it at the
// same address.
func (s *site) again(t testing.TB, between func(store string)) {
	t.Helper()
	s.stop()
	between(s.store)
	s.start(t, strings.TrimPrefix(s.url, "tls://"))
}

func copyFolder(t testing.TB, from, to string) {
	t.Helper()
	if err := os.RemoveAll(to); err != nil {
		t.Fatal(err)
	}
	if err := os.CopyFS(to, os.DirFS(from)); err != nil {
		t.Fatal(err)
	}
}

func lost(t testing.TB, b *broker.Broker, who string) {
	t.Helper()
	select {
	case err := <-b.Lost():
		if !errors.Is(err, broker.ErrWentBackwards) {
			t.Errorf("%s: %v", who, err)
		}
		t.Logf("%s: %v", who, err)
	case <-time.After(40 * time.Second):
		t.Fatalf("%s does not notice", who)
	}
}

// put publishes under the source's epoch of the broker's own process.
func put(t testing.TB, b *broker.Broker, id string) {
	t.Helper()
	// Right after the broker came back, or has another leader, a request may fail.
	eventually(t, "publish "+id, func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		e := event(id, schemas.Added, 1)
		var err error
		if e.Version.Epoch, err = b.Epoch(ctx, "production"); err != nil {
			return false
		}
		out, err := b.Publish(ctx, []broker.Change{{Event: e}})
		return err == nil && out[0].Err == nil
	})
}

func TestAStoreThatGoesBackwardsWhileItIsInUse(t *testing.T) {
	t.Parallel()
	defer broker.SetBackwardsFor(2 * time.Second)()
	s := newSite(t, broker.InitOptions{})
	old := t.TempDir()
	ctlCfg, proCfg, conCfg := s.config(t, "control", broker.Control), s.config(t, "producer", broker.Producer), s.config(t, "consumer", broker.Consumer)
	ctl, pro, con := openConfig(t, ctlCfg), openConfig(t, proCfg), openConfig(t, conCfg)
	if _, err := ctl.PutServer(t.Context(), schemas.Server{ID: "production", Connector: "bridge", Address: "http://127.0.0.1:1", User: "u"}, 0); err != nil {
		t.Fatal(err)
	}
	put(t, pro, "a")
	before, err := pro.Epoch(t.Context(), "production")
	if err != nil {
		t.Fatal(err)
	}
	// A restart alone is no loss.
	s.again(t, func(store string) { copyFolder(t, store, old) })
	put(t, pro, "b")
	// The producer alone has used a higher epoch, and the store is about to lose it.
	used, err := pro.EpochAtLeast(t.Context(), "production", before+1)
	if err != nil {
		t.Fatal(err)
	}
	put(t, pro, "c")
	for _, b := range []*broker.Broker{ctl, pro, con} {
		eventually(t, "it is connected again", func() bool { return b.Mark(t.Context()) == nil })
		select {
		case err := <-b.Lost():
			t.Fatalf("lost without a loss: %v", err)
		default:
		}
	}
	s.again(t, func(store string) { copyFolder(t, old, store) })
	for who, b := range map[string]*broker.Broker{"control": ctl, "producer": pro, "consumer": con} {
		lost(t, b, who)
		b.Close()
	}
	for _, cfg := range []broker.Config{proCfg, conCfg, ctlCfg} {
		_, err := broker.Open(short(t, 20*time.Second), cfg)
		if !errors.Is(err, broker.ErrWentBackwards) {
			t.Errorf("%s starts on it: %v", cfg.Role, err)
		}
		cfg.AcceptLoss = true
		if cfg.Role == broker.Control {
			continue
		}
		if _, err := broker.Open(short(t, 20*time.Second), cfg); !errors.Is(err, broker.ErrWentBackwards) {
			t.Errorf("%s accepts a loss: %v", cfg.Role, err)
		}
	}
	// A process that is new sees nothing of it, and ends when control accepts the loss.
	fresh := s.open(t, "consumer", broker.Consumer)
	ctlCfg.AcceptLoss = true
	ctl = openConfig(t, ctlCfg)
	lost(t, fresh, "a process that ran meanwhile")
	ctl.Close()
	ctlCfg.AcceptLoss = false
	ctl = openConfig(t, ctlCfg)
	log := &syncBuffer{}
	proCfg.Log = slog.New(slog.NewTextHandler(log, nil))
	pro, con = openConfig(t, proCfg), openConfig(t, conCfg)
	if !strings.Contains(log.String(), "takes the store as it is") {
		t.Errorf("nothing is said: %s", log)
	}
	after, err := pro.Epoch(t.Context(), "production")
	if err != nil || after <= used {
		t.Errorf("epoch %d, %v, after %d may have been used: an event of now would not be newer", after, err, used)
	}
	put(t, pro, "d")
	pro.Close()
	// The other way round: a store of before an accepted loss, even one that has come
	// further since; and one that has not.
	mark := filepath.Join(proCfg.Dir, "highwater.json")
	raw, err := os.ReadFile(mark)
	if err != nil {
		t.Fatal(err)
	}
	later := bytes.Replace(raw, []byte(`"generation": 1`), []byte(`"generation": 2`), 1)
	if bytes.Equal(raw, later) {
		t.Fatalf("no generation in %s", raw)
	}
	for _, text := range [][]byte{later, raw} {
		if err := os.WriteFile(mark, text, 0o600); err != nil {
			t.Fatal(err)
		}
		b, err := broker.Open(short(t, 20*time.Second), proCfg)
		if refused := errors.Is(err, broker.ErrWentBackwards); refused != bytes.Equal(text, later) {
			t.Errorf("generation of %s: %v", text, err)
		}
		if err == nil {
			b.Close()
		}
	}
	ctl.Close()
	con.Close()
	s.again(t, func(store string) { copyFolder(t, old, store) })
	if _, err := broker.Open(short(t, 20*time.Second), proCfg); !errors.Is(err, broker.ErrWentBackwards) {
		t.Errorf("a store of an older generation: %v", err)
	}
}

func TestProducersAndConsumersWaitForControl(t *testing.T) {
	s := newSite(t, broker.InitOptions{})
	cfg := s.config(t, "consumer", broker.Consumer)
	log := &syncBuffer{}
	cfg.Log = slog.New(slog.NewTextHandler(log, nil))
	opened := make(chan *broker.Broker, 1)
	go func() {
		b, err := broker.Open(t.Context(), cfg)
		if err != nil {
			t.Errorf("open: %v", err)
		}
		opened <- b
	}()
	eventually(t, "it says what it waits for", func() bool { return strings.Contains(log.String(), "waiting for vcsync control") })
	if _, err := broker.Open(short(t, 2*time.Second), s.config(t, "producer", broker.Producer)); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a producer without control: %v", err)
	}
	ctl := s.open(t, "control", broker.Control)
	defer ctl.Close()
	select {
	case b := <-opened:
		if b != nil {
			b.Close()
		}
	case <-time.After(30 * time.Second):
		t.Fatal("it waits for ever")
	}
	if n := strings.Count(log.String(), "waiting for vcsync control"); n != 1 {
		t.Errorf("said %d times: %s", n, log)
	}
}

func TestARoleWaitsForABrokerThatIsNotThere(t *testing.T) {
	s := newSite(t, broker.InitOptions{})
	s.stop()
	cfg := s.config(t, "control", broker.Control)
	log := &syncBuffer{}
	cfg.Log = slog.New(slog.NewTextHandler(log, nil))
	opened := make(chan error, 1)
	go func() {
		b, err := broker.Open(t.Context(), cfg)
		if err == nil {
			err = b.Close()
		}
		opened <- err
	}()
	eventually(t, "it says that it waits", func() bool { return strings.Contains(log.String(), "waiting for the broker") })
	s.start(t, strings.TrimPrefix(s.url, "tls://"))
	select {
	case err := <-opened:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(30 * time.Second):
		t.Fatal("it waits for ever")
	}
}

func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for begun := time.Now(); !ok(); time.Sleep(10 * time.Millisecond) {
		if time.Since(begun) > time.Minute {
			t.Fatalf("never: %s", what)
		}
	}
}

func TestTooOldAServerIsRefused(t *testing.T) {
	for version, says := range map[string]string{
		"2.12.3": "", "2.12.10": "", "2.13.0": "", "2.15.2": "", "3.0.0": "", "v2.12.3": "", "2.12.3-RC.1": "",
		"2.12.2": "members of a cluster change", "2.11.9": "no atomic batches", "2.9.25": "no atomic batches", "1.4.1": "no atomic batches", "": "says its version is", "next": "says its version is",
	} {
		err := broker.TooOld(version)
		if says == "" && err != nil || says != "" && (!errors.Is(err, broker.ErrBroker) || !strings.Contains(err.Error(), says) || !strings.Contains(err.Error(), "2.12.3")) {
			t.Errorf("%q: %v, want %q", version, err, says)
		}
	}
}

// files returns every file of a folder with its content.
func files(t testing.TB, dir string) map[string]string {
	t.Helper()
	out := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		if d.IsDir() {
			if m := info.Mode().Perm(); m != 0o700 && path != dir {
				t.Errorf("%s has mode %04o", path, m)
			}
			return nil
		}
		if m := info.Mode().Perm(); m != 0o600 {
			t.Errorf("%s has mode %04o", path, m)
		}
		raw, err := os.ReadFile(path)
		rel, _ := filepath.Rel(dir, path)
		out[rel] = string(raw)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func changed(before, after map[string]string) (out []string) {
	for name, text := range after {
		if before[name] != text {
			out = append(out, filepath.ToSlash(name))
		}
	}
	for name := range before {
		if _, ok := after[name]; !ok {
			out = append(out, "-"+filepath.ToSlash(name))
		}
	}
	slices.Sort(out)
	return out
}

func TestInitKeepsWhatIsThere(t *testing.T) {
	dir := t.TempDir()
	run := func(o broker.InitOptions) map[string]string {
		t.Helper()
		if _, err := broker.Init(dir, o); err != nil {
			t.Fatal(err)
		}
		return files(t, dir)
	}
	first := run(broker.InitOptions{})
	want := []string{"broker/ca.pem", "broker/server.key", "broker/server.pem", "broker/users.conf", "ca.key", "roles.json"}
	for _, r := range []string{"consumer", "control", "producer"} {
		want = append(want, r+"/ca.pem", r+"/keyring.json", r+"/role.nk")
	}
	slices.Sort(want)
	if got := slices.Sorted(maps.Keys(first)); !slices.Equal(got, want) {
		t.Errorf("made %v, want %v", got, want)
	}
	for name, text := range first {
		if seed, ok := first[filepath.Dir(name)+"/role.nk"]; ok && !strings.HasSuffix(name, "role.nk") && strings.Contains(text, strings.TrimSpace(seed)) {
			t.Errorf("%s holds a seed", name)
		}
		if filepath.Base(name) == "users.conf" && strings.Contains(text, "SU") && strings.Contains(text, strings.TrimSpace(first["control/role.nk"])) {
			t.Error("users.conf holds a seed")
		}
	}
	if second := run(broker.InitOptions{}); changed(first, second) != nil {
		t.Errorf("run again it changes %v", changed(first, second))
	}
	host := run(broker.InitOptions{Hosts: []string{"broker.example", "10.1.2.3"}})
	if got := changed(first, host); !slices.Equal(got, []string{"broker/server.key", "broker/server.pem"}) {
		t.Errorf("another host changes %v", got)
	}
	if again := run(broker.InitOptions{Hosts: []string{"10.1.2.3"}}); changed(host, again) != nil {
		t.Errorf("a host that is known changes %v", changed(host, again))
	}
	east := run(broker.InitOptions{Producers: map[string][]schemas.Slug{"east": {"a"}}})
	if got := changed(host, east); !slices.Equal(got, []string{"broker/users.conf", "producer-east/ca.pem", "producer-east/keyring.json", "producer-east/role.nk", "roles.json"}) {
		t.Errorf("another producer changes %v", got)
	}
	if err := os.RemoveAll(filepath.Join(dir, "producer")); err != nil {
		t.Fatal(err)
	}
	without := run(broker.InitOptions{})
	if strings.Contains(without[filepath.Join("broker", "users.conf")], `"vcsync.ev.*.>"`) {
		t.Error("the key for all sources still signs in")
	}
	// Without the key of the authority all goes that needs no signature.
	if err := os.Remove(filepath.Join(dir, "ca.key")); err != nil {
		t.Fatal(err)
	}
	run(broker.InitOptions{Producers: map[string][]schemas.Slug{"west": {"b"}}})
	if _, err := broker.Init(dir, broker.InitOptions{Hosts: []string{"more.example"}}); err == nil || !strings.Contains(err.Error(), "ca.key") {
		t.Errorf("a new certificate without the authority's key: %v", err)
	}
	for name, o := range map[string]broker.InitOptions{"a host with a port": {Hosts: []string{"x:4222"}}, "a producer out of its folder": {Producers: map[string][]schemas.Slug{"../x": {"a"}}},
		"a producer without sources": {Producers: map[string][]schemas.Slug{"x": nil}}} {
		if _, err := broker.Init(t.TempDir(), o); err == nil {
			t.Errorf("%s is taken", name)
		}
	}
}

func TestInitTakesOverAKeyring(t *testing.T) {
	dir := t.TempDir()
	made := func(role string) string {
		t.Helper()
		folder := filepath.Join(dir, role)
		if err := os.MkdirAll(folder, 0o700); err != nil {
			t.Fatal(err)
		}
		if _, err := broker.OpenKeyring(folder); err != nil {
			t.Fatal(err)
		}
		raw, err := os.ReadFile(filepath.Join(folder, "keyring.json"))
		if err != nil {
			t.Fatal(err)
		}
		return string(raw)
	}
	keyring := made("control")
	if _, err := broker.Init(dir, broker.InitOptions{}); err != nil {
		t.Fatal(err)
	}
	all := files(t, dir)
	for _, r := range []string{"control", "consumer", "producer"} {
		if all[filepath.Join(r, "keyring.json")] != keyring {
			t.Errorf("%s has another keyring", r)
		}
	}
	if err := os.Remove(filepath.Join(dir, "consumer", "keyring.json")); err != nil {
		t.Fatal(err)
	}
	made("consumer")
	if _, err := broker.Init(dir, broker.InitOptions{}); !errors.Is(err, broker.ErrKeyring) {
		t.Errorf("two keyrings: %v", err)
	}
}

func TestAProducerIsAddedWhileTheBrokerRuns(t *testing.T) {
	s := newSite(t, broker.InitOptions{})
	ctl := s.open(t, "control", broker.Control)
	if _, err := broker.Init(s.keys, broker.InitOptions{Producers: map[string][]schemas.Slug{"east": {"production"}}}); err != nil {
		t.Fatal(err)
	}
	cfg := s.config(t, "producer-east", broker.Producer, "production")
	if _, err := broker.Open(short(t, 10*time.Second), cfg); !errors.Is(err, broker.ErrBroker) {
		t.Errorf("before the broker knows it: %v", err)
	}
	s.readAgain(t)
	put(t, openConfig(t, cfg), "a")
	if err := ctl.Probe(t.Context()); err != nil {
		t.Errorf("control after the reload: %v", err)
	}
	// A file that is damaged changes nothing.
	users := filepath.Join(s.keys, "broker", "users.conf")
	good, err := os.ReadFile(users)
	if err != nil {
		t.Fatal(err)
	}
	for i, bad := range [][]byte{nil, []byte("authorization {"), bytes.ReplaceAll(good, []byte("nkey: U"), []byte("nkey: X"))} {
		if err := os.WriteFile(users, bad, 0o600); err != nil {
			t.Fatal(err)
		}
		s.reload <- os.Interrupt
		eventually(t, "a damaged file is refused", func() bool { return strings.Count(s.log.String(), "not read again") == i+1 })
	}
	if err := os.WriteFile(users, good, 0o600); err != nil {
		t.Fatal(err)
	}
	s.readAgain(t)
	if err := ctl.Probe(t.Context()); err != nil {
		t.Errorf("control after damaged files: %v", err)
	}
}

func TestACopyOfTheStoreInACluster(t *testing.T) {
	// One server that says it is a cluster cannot keep three copies.
	srv, err := server.NewServer(&server.Options{ServerName: "a", Host: "127.0.0.1", Port: -1, JetStream: true, StoreDir: t.TempDir(), NoSigs: true, NoLog: true, MaxPayload: broker.MaxPayload})
	if err != nil {
		t.Fatal(err)
	}
	go srv.Start()
	defer func() { srv.Shutdown(); srv.WaitForShutdown() }()
	if !srv.ReadyForConnections(20 * time.Second) {
		t.Fatal("no server")
	}
	quiet := slog.New(slog.DiscardHandler)
	_, err = broker.Open(t.Context(), broker.Config{Dir: t.TempDir(), URL: srv.ClientURL(), Replicas: 3, Log: quiet})
	if err == nil || !strings.Contains(err.Error(), "VCSYNC_REPLICAS") {
		t.Errorf("three copies on one server: %v", err)
	}
	dir := t.TempDir()
	b, err := broker.Open(t.Context(), broker.Config{Dir: dir, URL: srv.ClientURL(), Log: quiet})
	if err != nil {
		t.Fatal(err)
	}
	b.Close()
	log := &syncBuffer{}
	b, err = broker.Open(t.Context(), broker.Config{Dir: dir, URL: srv.ClientURL(), Replicas: 3, Log: slog.New(slog.NewTextHandler(log, nil))})
	if err != nil {
		t.Fatal(err)
	}
	b.Close()
	if !strings.Contains(log.String(), "another number of copies") {
		t.Errorf("nothing is said of the copies: %s", log)
	}
}
