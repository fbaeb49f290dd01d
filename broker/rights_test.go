package broker_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nkeys"

	"github.com/vcsync/vcsync/broker"
	"github.com/vcsync/vcsync/schemas"
)

// site is a broker that Serve runs on the files of Init.
type site struct {
	keys, store, url string
	reload           chan os.Signal
	log              *syncBuffer
	stop             func()
}

// syncBuffer is a log that tests read while it is written.
type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

func newSite(t testing.TB, o broker.InitOptions) *site {
	t.Helper()
	s := &site{keys: t.TempDir(), store: t.TempDir(), reload: make(chan os.Signal), log: &syncBuffer{}}
	if _, err := broker.Init(s.keys, o); err != nil {
		t.Fatal(err)
	}
	s.start(t, "127.0.0.1:0")
	return s
}

func (s *site) start(t testing.TB, listen string) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ready, done := make(chan string, 1), make(chan error, 1)
	go func() {
		done <- broker.Serve(ctx, broker.ServeConfig{Dir: s.store, Keys: filepath.Join(s.keys, "broker"), Listen: listen, Reload: s.reload,
			Log: slog.New(slog.NewTextHandler(s.log, nil)), Ready: func(a string) error { ready <- a; return nil }})
	}()
	select {
	case a := <-ready:
		s.url = "tls://" + a
	case err := <-done:
		t.Fatalf("serve: %v", err)
	}
	var once sync.Once
	s.stop = func() {
		once.Do(func() {
			cancel()
			if err := <-done; err != nil {
				t.Errorf("serve: %v", err)
			}
		})
	}
	t.Cleanup(s.stop)
}

// readAgain makes the broker read its users again, and waits until it has.
func (s *site) readAgain(t testing.TB) {
	t.Helper()
	const says = "were read again"
	before := strings.Count(s.log.String(), says)
	s.reload <- os.Interrupt
	eventually(t, "the users are read again", func() bool { return strings.Count(s.log.String(), says) > before })
}

// config is that of a process whose keys lie in the folder.
func (s *site) config(t testing.TB, folder string, role broker.Role, sources ...schemas.Slug) broker.Config {
	k := filepath.Join(s.keys, folder)
	return broker.Config{Dir: t.TempDir(), Keys: k, Role: role, Name: "test", URL: s.url, Seed: filepath.Join(k, broker.SeedFile), CA: filepath.Join(k, broker.CAFile),
		Sources: sources, EventsMaxBytes: 1 << 30, Log: slog.New(slog.DiscardHandler)}
}

func (s *site) open(t testing.TB, folder string, role broker.Role, sources ...schemas.Slug) *broker.Broker {
	t.Helper()
	return openConfig(t, s.config(t, folder, role, sources...))
}

func openConfig(t testing.TB, cfg broker.Config) *broker.Broker {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	b, err := broker.Open(ctx, cfg)
	if err != nil {
		t.Fatalf("open as %s: %v", cfg.Role, err)
	}
	t.Cleanup(func() {
		if err := b.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return b
}

// raw is a bare connection with the key of a folder, and what it was refused.
type raw struct {
	nc     *nats.Conn
	prefix string
}

func (s *site) raw(t testing.TB, folder string) *raw {
	t.Helper()
	r := &raw{}
	seed := filepath.Join(s.keys, folder, broker.SeedFile)
	text, err := os.ReadFile(seed)
	if err != nil {
		t.Fatal(err)
	}
	kp, err := nkeys.ParseDecoratedUserNKey(text)
	if err != nil {
		t.Fatal(err)
	}
	public, _ := kp.PublicKey()
	r.prefix = broker.InboxPrefix(public)
	opt, err := nats.NkeyOptionFromSeed(seed)
	if err != nil {
		t.Fatal(err)
	}
	r.nc, err = nats.Connect(s.url, opt, nats.RootCAs(filepath.Join(s.keys, folder, broker.CAFile)), nats.CustomInboxPrefix(r.prefix), nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {}))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.nc.Close)
	return r
}

// refused tells whether the broker refuses what act does with a subject that the
// connection had nothing to do with before. It answers what it refuses before the
// flush, and names it.
func (r *raw) refused(t testing.TB, subject string, act func(nc *nats.Conn) error) bool {
	t.Helper()
	if err := act(r.nc); err != nil {
		t.Fatal(err)
	}
	if err := r.nc.Flush(); err != nil {
		t.Fatal(err)
	}
	err := r.nc.LastError()
	return errors.Is(err, nats.ErrPermissionViolation) && strings.Contains(err.Error(), `"`+subject+`"`)
}

func TestRights(t *testing.T) {
	s := newSite(t, broker.InitOptions{Producers: map[string][]schemas.Slug{"east": {"production", "test"}}})
	if err := os.MkdirAll(filepath.Join(s.keys, "producer"), 0o700); err != nil { // and one for all sources
		t.Fatal(err)
	}
	if _, err := broker.Init(s.keys, broker.InitOptions{}); err != nil {
		t.Fatal(err)
	}
	s.readAgain(t)
	control := s.open(t, "control", broker.Control)
	const all, east, consumer, ctl = "producer", "producer-east", "consumer", "control"
	folders := []string{ctl, all, east, consumer}
	conns := map[string]*raw{}
	for _, f := range folders {
		conns[f] = s.raw(t, f)
	}
	inbox := func(folder string) string { return conns[folder].prefix + ".x" }
	for _, c := range []struct {
		act     string
		subject string
		listen  bool
		allowed string // the folders whose keys may
	}{
		{"publish an event of a source of its own", "vcsync.ev.production.Job.updated.x", false, all + " " + east},
		{"publish an event of its second source", "vcsync.ev.test.Job.updated.x", false, all + " " + east},
		{"publish an event of another source", "vcsync.ev.other.Job.updated.x", false, all},
		{"publish a state past the events", "vcsync.st.production.Job.x", false, ""},
		{"write the audit", "vcsync.audit.setting.update", false, ctl},
		{"poke a source", "vcsync.poke.test", false, ctl},
		{"hear the pokes of its source", "vcsync.poke.production", true, all + " " + east},
		{"hear the pokes of another source", "vcsync.poke.other", true, all},
		{"hear all", ">", true, ""},
		{"hear events past the store", "vcsync.ev.>", true, ""},
		{"hear the answers to control", inbox(ctl), true, ctl},
		{"hear the answers to consumers", inbox(consumer), true, consumer},
		{"hear the answers to a producer", inbox(all), true, all},
		{"hear the answers of everybody", "_INBOX.>", true, ""},
		{"read the requests of others", "$JS.API.>", true, ""},

		{"change a setting", "$KV.VCS_CFG.setting.a", false, ctl},
		{"ask for a run", "$KV.VCS_CFG.run.a", false, ctl},
		{"change a server", "$KV.VCS_CFG.server.production", false, ctl},
		{"say that a loss was accepted", "$KV.VCS_CFG.generation", false, ctl},
		{"raise the epoch of its source", "$KV.VCS_CFG.epoch.production", false, ctl + " " + all + " " + east},
		{"raise the epoch of another source", "$KV.VCS_CFG.epoch.other", false, ctl + " " + all},
		{"bind its source to a server", "$KV.VCS_CFG.identity.production", false, ctl + " " + all + " " + east + " " + consumer},
		{"say its source's version", "$KV.VCS_CFG.visualcron.production", false, ctl + " " + all + " " + east + " " + consumer},
		{"say another source's version", "$KV.VCS_CFG.visualcron.other", false, ctl + " " + all + " " + consumer},
		{"say that its source was listed", "$KV.VCS_CFG.listed.production", false, ctl + " " + all + " " + east},
		{"say that another source was listed", "$KV.VCS_CFG.listed.other", false, ctl + " " + all},
		{"hold deletions of its source", "$KV.VCS_CFG.airlock.production.Job", false, ctl + " " + all + " " + east},
		{"hold deletions of another source", "$KV.VCS_CFG.airlock.other.Job", false, ctl + " " + all},
		{"say with what account its source was listed", "$KV.VCS_CFG.account.production", false, ctl + " " + all + " " + east},
		{"say with what account another source was listed", "$KV.VCS_CFG.account.other", false, ctl + " " + all},
		{"bind another source to a server", "$KV.VCS_CFG.identity.other", false, ctl + " " + all + " " + consumer},
		{"write a password", "$KV.VCS_SEC.password.production", false, ctl},
		{"read the password of its source", "$JS.API.DIRECT.GET.KV_VCS_SEC.$KV.VCS_SEC.password.production", false, ctl + " " + all + " " + east + " " + consumer},
		{"read the password of another source", "$JS.API.DIRECT.GET.KV_VCS_SEC.$KV.VCS_SEC.password.other", false, ctl + " " + all + " " + consumer},
		{"read a hint token", "$JS.API.DIRECT.GET.KV_VCS_SEC.$KV.VCS_SEC.hint.production", false, ctl},
		{"read any secret by number", "$JS.API.DIRECT.GET.KV_VCS_SEC", false, ctl},
		{"read any secret from the leader", "$JS.API.STREAM.MSG.GET.KV_VCS_SEC", false, ctl},
		{"watch the secrets", "$JS.API.CONSUMER.CREATE.KV_VCS_SEC.x.$KV.VCS_SEC.>", false, ctl},
		{"watch the secrets without a filter", "$JS.API.CONSUMER.CREATE.KV_VCS_SEC.x", false, ctl},
		{"make a durable on the secrets", "$JS.API.CONSUMER.DURABLE.CREATE.KV_VCS_SEC.x", false, ctl},

		{"take a target", "$KV.VCS_LEASE.target.test", false, ctl + " " + consumer},
		{"take a source of its own", "$KV.VCS_LEASE.source.production", false, ctl + " " + all + " " + east},
		{"take another source", "$KV.VCS_LEASE.source.other", false, ctl + " " + all},
		{"be seen as a consumer", "$KV.VCS_LEASE.consumer.a", false, ctl + " " + consumer},
		{"be seen as a producer", "$KV.VCS_LEASE.producer.a", false, ctl + " " + all + " " + east},
		{"say how a consumer does", "$KV.VCS_STATUS.consumer.a", false, consumer},
		{"say how a producer does", "$KV.VCS_STATUS.producer.a", false, all + " " + east},
		{"write the ledger", "$KV.VCS_LEDGER.test.0", false, consumer},
		{"read the ledger", "$JS.API.STREAM.MSG.GET.KV_VCS_LEDGER", false, ctl + " " + consumer},
		{"read the ledger from any replica", "$JS.API.DIRECT.GET.KV_VCS_LEDGER.$KV.VCS_LEDGER.test.0", false, ctl},
		{"pull from the ledger", "$JS.API.CONSUMER.MSG.NEXT.KV_VCS_LEDGER.x", false, ctl},
		{"park an object", "$KV.VCS_PARKED.test.Job.x", false, ctl + " " + consumer},
		{"write a plan", "$KV.VCS_PLAN.plan.a", false, ctl + " " + consumer},
		{"write a drift list", "$KV.VCS_PLAN.drift.a", false, consumer},
		{"write a drift list", "$KV.VCS_PLAN.drift.a.0", false, consumer},
		{"read a plan", "$JS.API.STREAM.MSG.GET.KV_VCS_PLAN", false, ctl + " " + consumer},
		{"watch the plans", "$JS.API.CONSUMER.CREATE.KV_VCS_PLAN.x.$KV.VCS_PLAN.>", false, ctl + " " + consumer},
		{"store a body", "$O.VCS_BODY.C.x", false, all + " " + east + " " + consumer},
		{"say what was at a target before a write", "vcsync.done.test.pass.Job.x", false, consumer},
		{"acknowledge a state", "$JS.ACK.VCS_STATE.set-a.1.2.3.4.5", false, ctl + " " + consumer},
		{"acknowledge a state in the newer form", "$JS.ACK._.hash.VCS_STATE.set-a.1.2.3.4.5", false, ctl + " " + consumer},
		{"acknowledge elsewhere", "$JS.ACK.VCS_EV.x.1.2.3.4.5", false, ctl},

		{"read the states of its source", "$JS.API.CONSUMER.CREATE.VCS_STATE.x.vcsync.st.production.>", false, ctl + " " + all + " " + east + " " + consumer},
		{"read the states of another source", "$JS.API.CONSUMER.CREATE.VCS_STATE.x.vcsync.st.other.>", false, ctl + " " + all + " " + consumer},
		{"read the states of all sources", "$JS.API.CONSUMER.CREATE.VCS_STATE.x.vcsync.st.>", false, ctl + " " + consumer},
		{"read states without a filter", "$JS.API.CONSUMER.CREATE.VCS_STATE.x", false, ctl + " " + all + " " + consumer},
		{"read states from the leader", "$JS.API.STREAM.MSG.GET.VCS_STATE", false, ctl + " " + all + " " + consumer},
		{"read events from the leader", "$JS.API.STREAM.MSG.GET.VCS_EV", false, ctl + " " + all + " " + consumer},
		{"read the last event of its source", "$JS.API.DIRECT.GET.VCS_EV.vcsync.ev.production.Job.*.x", false, ctl + " " + all + " " + east},
		{"read the last event of another source", "$JS.API.DIRECT.GET.VCS_EV.vcsync.ev.other.Job.*.x", false, ctl + " " + all},
		{"read the last event of any source", "$JS.API.DIRECT.GET.VCS_EV.vcsync.ev.*.Job.*.x", false, ctl + " " + all},
		{"remove a durable consumer", "$JS.API.CONSUMER.DELETE.VCS_STATE.set-a", false, ctl},
		{"pause a durable consumer", "$JS.API.CONSUMER.PAUSE.VCS_STATE.set-a", false, ctl},

		{"create a stream", "$JS.API.STREAM.CREATE.X", false, ctl},
		{"change a stream", "$JS.API.STREAM.UPDATE.VCS_EV", false, ctl},
		{"delete a stream", "$JS.API.STREAM.DELETE.VCS_EV", false, ctl},
		{"purge a stream", "$JS.API.STREAM.PURGE.OBJ_VCS_BODY", false, ctl},
		{"delete a message", "$JS.API.STREAM.MSG.DELETE.VCS_EV", false, ctl},
		{"take a snapshot of a stream", "$JS.API.STREAM.SNAPSHOT.KV_VCS_SEC", false, ctl},
		{"restore a stream", "$JS.API.STREAM.RESTORE.X", false, ctl},
		{"ask a member of the cluster to go", "$JS.API.STREAM.PEER.REMOVE.VCS_EV", false, ctl},
		{"ask the system", "$SYS.REQ.SERVER.PING", false, ""},
	} {
		for _, f := range folders {
			want := strings.Contains(" "+c.allowed+" ", " "+f+" ")
			refused := conns[f].refused(t, c.subject, func(nc *nats.Conn) error {
				if c.listen {
					sub, err := nc.SubscribeSync(c.subject)
					if err == nil {
						err = sub.AutoUnsubscribe(1)
					}
					return err
				}
				// Without a reply and with a body that is no request, nothing comes of it.
				return nc.Publish(c.subject, []byte("{"))
			})
			if refused == want {
				t.Errorf("%s: may it %s (%s)? %v, want %v", f, c.act, c.subject, !refused, want)
			}
		}
	}
	// What was refused never reached the store.
	if _, err := control.EventsState(t.Context()); err != nil {
		t.Error(err)
	}
	m, err := control.JS().Stream(t.Context(), broker.StreamEvents)
	if err != nil {
		t.Fatal(err)
	}
	if n := m.CachedInfo().State.Msgs; n != 5 { // two each of both producers, and one of a third source
		t.Errorf("%d messages in %s, want the 5 that were allowed", n, broker.StreamEvents)
	}
}

func TestOnlyKeysOfInitSignIn(t *testing.T) {
	s := newSite(t, broker.InitOptions{})
	ca := nats.RootCAs(filepath.Join(s.keys, "control", broker.CAFile))
	own, err := nats.NkeyOptionFromSeed(filepath.Join(s.keys, "control", broker.SeedFile))
	if err != nil {
		t.Fatal(err)
	}
	stranger, _ := nkeys.CreateUser()
	public, _ := stranger.PublicKey()
	pool := x509.NewCertPool()
	pem, err := os.ReadFile(filepath.Join(s.keys, "control", broker.CAFile))
	if err != nil {
		t.Fatal(err)
	}
	pool.AppendCertsFromPEM(pem)
	for name, c := range map[string]struct {
		url  string
		opts []nats.Option
		ok   bool
	}{
		"its key over TLS":     {s.url, []nats.Option{ca, own}, true},
		"nobody":               {s.url, []nats.Option{ca}, false},
		"a stranger's key":     {s.url, []nats.Option{ca, nats.Nkey(public, stranger.Sign)}, false},
		"a password":           {s.url, []nats.Option{ca, nats.UserInfo("control", "control")}, false},
		"another's authority":  {s.url, []nats.Option{own}, false},
		"TLS 1.2":              {s.url, []nats.Option{own, nats.Secure(&tls.Config{RootCAs: pool, MaxVersion: tls.VersionTLS12})}, false},
		"TLS 1.3, by the same": {s.url, []nats.Option{own, nats.Secure(&tls.Config{RootCAs: pool, MaxVersion: tls.VersionTLS13})}, true},
	} {
		nc, err := nats.Connect(c.url, append(c.opts, nats.NoReconnect())...)
		if err == nil {
			nc.Close()
		}
		if (err == nil) != c.ok {
			t.Errorf("%s: %v, want in: %v", name, err, c.ok)
		}
	}
	// In the clear: the server's greeting demands TLS, and what comes in the clear ends
	// the connection.
	plainMustFail(t, strings.TrimPrefix(s.url, "tls://"))
}

func TestARoleSaysWhatIsWrongWithItsKeys(t *testing.T) {
	s := newSite(t, broker.InitOptions{})
	other := t.TempDir()
	if _, err := broker.Init(other, broker.InitOptions{}); err != nil {
		t.Fatal(err)
	}
	empty := t.TempDir()
	for name, c := range map[string]struct {
		change func(*broker.Config)
		says   string
		wraps  error
	}{
		"no keyring":           {func(c *broker.Config) { c.Keys = empty }, "copy it from where vcsync broker init wrote it", broker.ErrKeyring},
		"no broker":            {func(c *broker.Config) { c.URL = "" }, "VCSYNC_NATS_URL", nil},
		"another's key":        {func(c *broker.Config) { c.Seed = filepath.Join(other, "consumer", broker.SeedFile) }, "among its users", broker.ErrBroker},
		"no key":               {func(c *broker.Config) { c.Seed = "" }, "among its users", broker.ErrBroker},
		"another's authority":  {func(c *broker.Config) { c.CA = filepath.Join(other, "consumer", broker.CAFile) }, "ca.pem", broker.ErrBroker},
		"an authority missing": {func(c *broker.Config) { c.CA = filepath.Join(empty, "ca.pem") }, "certificate authority", nil},
	} {
		cfg := s.config(t, "consumer", broker.Consumer)
		c.change(&cfg)
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		_, err := broker.Open(ctx, cfg)
		if err == nil || ctx.Err() != nil || !strings.Contains(err.Error(), c.says) || c.wraps != nil && !errors.Is(err, c.wraps) {
			t.Errorf("%s: %v, want an error at once that says %q", name, err, c.says)
		}
		cancel()
		if _, err := os.Stat(filepath.Join(empty, "keyring.json")); err == nil {
			t.Errorf("%s: a keyring was made", name)
		}
	}
}

// TestRolesDoTheirWork runs what each role needs under its own key.
func TestRolesDoTheirWork(t *testing.T) {
	s := newSite(t, broker.InitOptions{Producers: map[string][]schemas.Slug{"east": {"production", "test"}}})
	if err := os.MkdirAll(filepath.Join(s.keys, "producer"), 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := broker.Init(s.keys, broker.InitOptions{}); err != nil {
		t.Fatal(err)
	}
	s.readAgain(t)
	ctx := t.Context()
	check := func(what string, err error) {
		t.Helper()
		if err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	ctl := s.open(t, "control", broker.Control)
	check("probe", ctl.Probe(ctx))
	for _, id := range []schemas.Slug{"production", "test", "other"} {
		_, err := ctl.PutServer(ctx, schemas.Server{ID: id, Connector: "bridge", Address: "http://127.0.0.1:1", User: "u"}, 0)
		check("put server", err)
		check("set password", ctl.SetPassword(ctx, id, "pw-"+string(id)))
	}
	check("audit", ctl.Audit(ctx, broker.AuditRecord{Action: "setting.update"}))
	check("poke", ctl.JS().Conn().Publish(broker.PokePrefix+"production", nil))

	brokers := map[string]*broker.Broker{"control": ctl}
	for folder, sources := range map[string][]schemas.Slug{"producer": nil, "producer-east": {"production", "test"}} {
		b := s.open(t, folder, broker.Producer, sources...)
		brokers[folder] = b
		pre := map[string]string{"producer": "producer", "producer-east": "east"}[folder] // none begins another
		sub, err := b.JS().Conn().SubscribeSync(broker.PokePrefix + "production")
		check("listen for pokes", err)
		check("flush", b.JS().Conn().Flush())
		check("poke", ctl.JS().Conn().Publish(broker.PokePrefix+"production", nil))
		_, err = sub.NextMsg(10 * time.Second)
		check("poke arrives", err)
		l, err := b.AcquireLease(ctx, "source.production", "test", broker.LeaseTimes{})
		check("lease", err)
		_, err = b.Epoch(ctx, "production")
		check("epoch", err)
		_, err = b.EpochAtLeast(ctx, "production", 2)
		check("epoch at least", err)
		_, err = b.BindIdentity(ctx, "production", "server-1")
		check("bind identity", err)
		_, err = b.SameServer(ctx, "production", "server-1")
		check("same server", err)
		if pw, err := b.Password(ctx, "production"); pw != "pw-production" {
			t.Errorf("%s: password %q, %v", folder, pw, err)
		}
		one, two := event(pre+"a", schemas.Added, 1), event(pre+"b", schemas.Added, 1)
		out, err := b.Publish(ctx, []broker.Change{{Event: one}, {Event: two}})
		check(folder+": publish", err)
		for _, o := range out {
			check("publish one", o.Err)
		}
		// Again, as after an answer that was lost: our own id there means that it is stored.
		out, err = b.Publish(ctx, []broker.Change{{Event: one}, {Event: two}})
		check(folder+": publish again", err)
		for _, o := range out {
			check("publish one again", o.Err)
		}
		// And one that another came before.
		out, err = b.Publish(ctx, []broker.Change{{Event: event(pre+"a", schemas.Updated, 2), After: 1 << 40}})
		check("publish in conflict", err)
		if len(out) != 1 || !errors.Is(out[0].Err, broker.ErrConflict) {
			t.Errorf("%s: %v, want a conflict", folder, out)
		}
		big := large(pre+"large", pre, schemas.Added, 1)
		out, err = b.Publish(ctx, []broker.Change{{Event: big}})
		check(folder+": publish a large body", err)
		check("publish a large body", out[0].Err)
		check(folder+": wait for the state", b.WaitState(ctx))
		e, _, err := b.NewestOf(ctx, big.Key())
		check("newest of a large one", err)
		if len(e.Object.Body) != len(big.Object.Body) {
			t.Errorf("%s: body of %d bytes, want %d", folder, len(e.Object.Body), len(big.Object.Body))
		}
		_, err = b.LastEvent(ctx, one.Key())
		check("last event", err)
		if _, err = b.LastEvent(ctx, event("never", schemas.Added, 1).Key()); !errors.Is(err, broker.ErrNotFound) {
			t.Errorf("%s: last event of what never was: %v", folder, err)
		}
		seen := 0
		check("scan", b.ScanState(ctx, []string{schemas.TypeStateFilter("production", schemas.Job), schemas.TypeStateFilter("production", schemas.Variable)},
			func(n broker.Newest) {
				if strings.HasPrefix(string(n.ID), pre) {
					seen++
				}
			}, func(u broker.Unreadable) { t.Errorf("odd: %v", u) }))
		if seen != 3 {
			t.Errorf("%s: %d objects seen, want 3", folder, seen)
		}
		snap, err := b.Snapshot(ctx)
		check("settings", err)
		if len(snap.Servers) != 3 {
			t.Errorf("%s: %d servers, want 3", folder, len(snap.Servers))
		}
		kv, err := b.JS().KeyValue(ctx, broker.BucketStatus)
		check("status", err)
		_, err = kv.Put(ctx, "producer.test", []byte("{}"))
		check("put status", err)
		check("release", l.Release(ctx))
	}
	east := brokers["producer-east"]
	if out, err := east.Publish(short(t, 3*time.Second), []broker.Change{{Event: of("other", event("x", schemas.Added, 1))}}); err == nil && out[0].Err == nil {
		t.Error("a producer publishes as another source")
	}
	if pw, err := east.Password(short(t, time.Second), "other"); err == nil {
		t.Errorf("a producer reads another source's password: %q", pw)
	}
	for begun := time.Now(); east.Denied() < 2 && time.Since(begun) < 10*time.Second; {
		time.Sleep(10 * time.Millisecond) // the broker says so beside its answers
	}
	if east.Denied() != 2 {
		t.Errorf("%d acts of the limited producer were denied, want the two above", east.Denied())
	}

	con := s.open(t, "consumer", broker.Consumer)
	l, err := con.AcquireLease(ctx, "target.test", "test", broker.LeaseTimes{})
	check("lease", err)
	ledger, err := con.OpenLedger(ctx, "test")
	check("open ledger", err)
	for i := range 300 {
		go ledger.Put(ctx, broker.Entry{Type: schemas.Job, ID: schemas.ID(fmt.Sprint("job", i)), Source: "production", State: broker.Applied})
	}
	check("put ledger", ledger.Put(ctx, broker.Entry{Type: schemas.Job, ID: "a", Source: "production", State: broker.Applied}))
	ledger.Close()
	ledger, err = con.OpenLedger(ctx, "test")
	check("open ledger again", err)
	if _, ok := ledger.Get(schemas.Job, "a"); !ok {
		t.Error("the ledger forgot")
	}
	ledger.Close()
	p := broker.Parked{Target: "test", Setting: "a", Source: "production", Type: schemas.Job, Token: "t", Class: "refused"}
	p.Revision, err = con.PutParked(ctx, p)
	check("park", err)
	_, err = con.GetParked(ctx, "test", schemas.Job, "t")
	check("get parked", err)
	_, err = con.ListParked(ctx, "test")
	check("list parked", err)
	check("unpark", con.Unpark(ctx, p))
	plan := broker.Plan{ID: "p", Run: "r", Setting: "a"}
	check("put plan", con.PutPlan(ctx, plan, []broker.PlanEntry{{Type: schemas.Job, ID: "a"}}))
	plan, err = con.GetPlan(ctx, "a")
	check("get plan", err)
	var first broker.PlanPage
	check("plan's pages", con.PlanPages(ctx, plan, func(_ int, page broker.PlanPage) bool { first = page; return true }))
	_, err = con.PutPlanPage(ctx, plan, 0, first)
	check("put page", err)
	check("put progress", con.PutProgress(ctx, broker.RunProgress{Run: "r", Setting: "a"}))
	check("put drift", con.PutDrift(ctx, broker.DriftList{ID: "d", Setting: "a"}, nil))
	_, err = ctl.GetPlan(ctx, "a")
	check("control: get plan", err)
	_, err = ctl.PutRun(ctx, broker.Run{ID: "r", Setting: "a"}, 0)
	check("control: put run", err)
	_, err = con.GetRun(ctx, "a")
	check("get run", err)
	if pw, err := con.Password(ctx, "test"); pw != "pw-test" {
		t.Errorf("password %q, %v", pw, err)
	}
	_, err = con.BindIdentity(ctx, "test", "server-2")
	check("bind identity", err)
	_, _, err = con.NewestOf(ctx, event("producerlarge", schemas.Added, 1).Key())
	check("newest of a large one", err)
	_, err = con.Snapshot(ctx)
	check("settings", err)
	check("scan", con.ScanState(ctx, []string{schemas.SourceStateFilter("production"), schemas.SourceStateFilter("test")}, func(broker.Newest) {}, func(broker.Unreadable) {}))
	consumeAll(t, ctl, con)
	counted := 0
	upTo, err := con.ScanCaptured(ctx, "production", 0, func(broker.StoredEvent) { counted++ })
	check("count what was captured", err)
	_, err = con.ScanCaptured(ctx, "production", upTo-1, func(broker.StoredEvent) { counted++ })
	check("count on", err)
	if counted < 2 {
		t.Errorf("%d events counted", counted)
	}
	_, _, err = con.Undelivered(ctx, "set-a")
	check("how far a durable has come", err)
	report, end := context.WithCancel(ctx)
	said, gone := make(chan struct{}, 8), make(chan struct{}, 8)
	go ctl.WatchStatus(report, func(s broker.ProcessStatus, g bool) {
		if s.Instance == "c-1" && g {
			gone <- struct{}{}
		} else if s.Instance == "c-1" {
			said <- struct{}{}
		}
	})
	reporting, done := context.WithCancel(ctx)
	go func() { <-said; done() }()
	check("report", broker.Reporter{Broker: con, Role: broker.RoleNameConsumer, Instance: "c-1", Words: func() any { return 1 }}.Run(reporting))
	select {
	case <-gone:
	case <-time.After(20 * time.Second):
		t.Error("a report is not taken back")
	}
	end()
	kv, err := con.JS().KeyValue(ctx, broker.BucketStatus)
	check("status", err)
	_, err = kv.Put(ctx, "consumer.test", []byte("{}"))
	check("put status", err)
	check("release", l.Release(ctx))
	if _, err := ctl.CollectBodies(ctx); err != nil {
		t.Error(err)
	}
	for name, b := range map[string]*broker.Broker{"control": ctl, "producer": brokers["producer"], "consumer": con} {
		check(name+": mark", b.Mark(ctx))
		if b.Denied() != 0 {
			t.Errorf("%s: %d acts were denied, see users.conf", name, b.Denied())
		}
	}
}

// of makes an event one of another source.
func of(source schemas.Slug, e schemas.Event) schemas.Event {
	e.Source = source
	return e
}

func short(t *testing.T, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

// consumeAll makes a durable consumer as control does, and takes what it holds as a
// consumer does.
func consumeAll(t *testing.T, ctl, con *broker.Broker) {
	t.Helper()
	if _, err := ctl.JS().CreateConsumer(t.Context(), broker.StreamState, jetstream.ConsumerConfig{Durable: "set-a", FilterSubjects: []string{"vcsync.st.production.>"},
		HeadersOnly: true, AckPolicy: jetstream.AckExplicitPolicy}); err != nil {
		t.Fatal(err)
	}
	cons, err := con.JS().Consumer(t.Context(), broker.StreamState, "set-a")
	if err != nil {
		t.Fatal(err)
	}
	info, err := cons.Info(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	acked := make(chan error, 1024)
	cc, err := cons.Consume(func(m jetstream.Msg) { acked <- m.DoubleAck(t.Context()) })
	if err != nil {
		t.Fatal(err)
	}
	for range info.NumPending {
		select {
		case err := <-acked:
			if err != nil {
				t.Errorf("acknowledge: %v", err)
			}
		case <-time.After(20 * time.Second):
			t.Fatal("nothing comes")
		}
	}
	cc.Stop()
	<-cc.Closed()
	if info, err = cons.Info(t.Context()); err != nil || info.NumPending != 0 || info.NumAckPending != 0 {
		t.Errorf("after all is acknowledged: %+v, %v", info, err)
	}
}

// plainMustFail signs in without TLS, as far as the broker lets it.
func plainMustFail(t *testing.T, addr string) {
	t.Helper()
	c, err := net.DialTimeout("tcp", addr, 5*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(20 * time.Second))
	r := bufio.NewReader(c)
	greeting, err := r.ReadString('\n')
	if err != nil || !strings.Contains(greeting, `"tls_required":true`) {
		t.Errorf("greeting %q, %v, want one that demands TLS", greeting, err)
	}
	fmt.Fprintf(c, "CONNECT {}\r\nPING\r\n")
	for {
		line, err := r.ReadString('\n')
		if strings.HasPrefix(line, "PONG") {
			t.Error("the broker speaks in the clear")
		}
		if err != nil {
			return
		}
	}
}
