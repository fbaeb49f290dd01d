package broker

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"
)

// leastServer is the oldest NATS server that an external broker may be.
var leastServer = [3]int{2, 12, 3}

// retryConnect is the time between two tries of a role that waits for its broker.
const retryConnect = time.Second

// signInOptions are the options of every connection to an external broker.
func signInOptions(cfg Config) ([]nats.Option, error) {
	var opts []nats.Option
	if cfg.CA != "" {
		if _, err := os.ReadFile(cfg.CA); err != nil {
			return nil, fmt.Errorf("read the broker's certificate authority: %w", err)
		}
		opts = append(opts, nats.RootCAs(cfg.CA), nats.Secure(&tls.Config{MinVersion: tls.VersionTLS13}))
	}
	switch {
	case cfg.Seed != "":
		opt, err := nats.NkeyOptionFromSeed(cfg.Seed)
		if err != nil {
			return nil, fmt.Errorf("read the key of this role, %s: %w", cfg.Seed, err)
		}
		opts = append(opts, opt)
	case cfg.Creds != "":
		opts = append(opts, nats.UserCredentials(cfg.Creds))
	}
	return opts, nil
}

// InboxPrefix is what the inboxes of the key with that public part begin with. Each
// key may listen to its own only, so that nobody reads another's answers.
func InboxPrefix(public string) string { return "_INBOX_" + public }

// inboxPrefix returns the prefix of this process's inboxes.
func inboxPrefix(seedFile string) (string, error) {
	if seedFile == "" {
		return InboxPrefix("vcsync"), nil
	}
	raw, err := os.ReadFile(seedFile)
	if err != nil {
		return "", fmt.Errorf("read the key of this role: %w", err)
	}
	kp, err := nkeys.ParseDecoratedUserNKey(raw)
	if err != nil {
		return "", fmt.Errorf("the key of this role, %s, is damaged: take it anew from where vcsync broker init wrote it", seedFile)
	}
	defer kp.Wipe()
	public, err := kp.PublicKey()
	if err != nil {
		return "", fmt.Errorf("the key of this role, %s: %w", seedFile, err)
	}
	return InboxPrefix(public), nil
}

// Connect returns a new connection that reconnects for ever; Close of the broker
// closes it, its user may do so before. About 20 consumers should share one: with
// hundreds on one connection deliveries were measured to stall.
func (b *Broker) Connect(name string) (*nats.Conn, error) {
	if b.cfg.Name != "" {
		name += " " + b.cfg.Name
	}
	opts := []nats.Option{nats.Name(name), nats.MaxReconnects(-1), nats.ReconnectWait(250 * time.Millisecond), nats.ReconnectJitter(100*time.Millisecond, time.Second),
		nats.CustomInboxPrefix(b.own), nats.Timeout(10 * time.Second),
		// What a process asked for before it was cut off must not be done minutes later,
		// when somebody else may hold its lease (G3).
		nats.ReconnectBufSize(-1),
		// A broker that is reading its users again may refuse for a moment.
		nats.IgnoreAuthErrorAbort(),
		// A peer that is silent, but not gone, is noticed within half a minute.
		nats.PingInterval(10 * time.Second), nats.MaxPingsOutstanding(2),
		nats.DisconnectErrHandler(func(_ *nats.Conn, err error) {
			if err != nil {
				b.log.Warn("connection to the broker lost", "connection", name, "error", err)
			}
		}),
		nats.ReconnectHandler(func(nc *nats.Conn) {
			b.log.Info("connection to the broker is back", "connection", name, "server", nc.ConnectedServerName())
			if err := tooOld(nc.ConnectedServerVersion()); err != nil {
				b.log.Warn("the broker that answers now is too old", "connection", name, "error", err)
			}
		}),
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) { b.fault(name, err) })}
	url := b.cfg.URL
	if b.srv != nil {
		url = ""
		opts = append(opts, nats.InProcessServer(b.srv.server), nats.Nkey(b.srv.public, b.srv.key.Sign))
	}
	nc, err := nats.Connect(url, append(opts, b.signIn...)...)
	if err != nil {
		return nil, fmt.Errorf("connect to the broker%s: %w", at(url), explainRefusal(err))
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		nc.Close()
		return nil, fmt.Errorf("connect to the broker: %w", nats.ErrConnectionClosed)
	}
	b.conns = append(slices.DeleteFunc(b.conns, (*nats.Conn).IsClosed), nc)
	return nc, nil
}

// at names the addresses of an external broker, without what may stand in them
// beside.
func at(urls string) string {
	if urls == "" {
		return ""
	}
	var hosts []string
	for u := range strings.SplitSeq(urls, ",") {
		_, host, _ := strings.Cut(u, "://")
		hosts = append(hosts, host[strings.LastIndex(host, "@")+1:])
	}
	return " at " + strings.Join(hosts, ", ")
}

// explainRefusal says what to do about a broker that answered and refused.
func explainRefusal(err error) error {
	switch {
	case errors.Is(err, nats.ErrAuthorization), errors.Is(err, nats.ErrAuthExpired), errors.Is(err, nats.ErrNkeysNotSupported):
		return fmt.Errorf("%w: %w: the key or the credentials of this process are not among its users: give it the folder that vcsync broker init wrote for its role (VCSYNC_KEYS), and let the broker read its users.conf again", ErrBroker, err)
	case errors.As(err, new(*tls.CertificateVerificationError)):
		return fmt.Errorf("%w: %w: use a name that vcsync broker init got as --host, and the ca.pem that it wrote", ErrBroker, err)
	case errors.Is(err, nats.ErrSecureConnRequired), errors.Is(err, nats.ErrSecureConnWanted):
		return fmt.Errorf("%w: %w: one of both wants TLS and the other does not: check VCSYNC_NATS_URL, and that ca.pem lies in VCSYNC_KEYS", ErrBroker, err)
	}
	return err
}

// fault logs what the broker reports beside its answers. Whoever publishes what it
// may not gets no answer, only this.
func (b *Broker) fault(connection string, err error) {
	if !errors.Is(err, nats.ErrPermissionViolation) {
		b.log.Warn("the broker reports a fault", "connection", connection, "error", err)
		return
	}
	what := deniedAct(err)
	if strings.Contains(what, "$JS.API.CONSUMER.DELETE."+StreamState+".") || strings.Contains(what, "$JS.API.CONSUMER.DELETE."+StreamEvents+".") {
		// nats.go tidies up after a scan; the right to do so would be one to delete the
		// durable consumers. The broker removes what a scan leaves after a minute.
		return
	}
	b.denied.Add(1)
	b.log.Error("the broker's users.conf does not allow this process to "+what+"; what needed it fails with a timeout. Is the key in VCSYNC_KEYS that of this role, and users.conf of this version?",
		"connection", connection)
}

var deniedPattern = regexp.MustCompile(`(?i)permissions violation for (publish|subscription) to "([^"]*)"`)

// deniedAct says in words what was refused.
func deniedAct(err error) string {
	m := deniedPattern.FindStringSubmatch(err.Error())
	switch {
	case m == nil:
		return fmt.Sprintf("do this: %v", err)
	case strings.EqualFold(m[1], "subscription"):
		return "listen to " + m[2]
	}
	return "publish to " + m[2]
}

// Denied returns how often the broker has refused what this process wanted to
// publish or to listen to, since its start. It should be 0.
func (b *Broker) Denied() uint64 { return b.denied.Load() }

// firstConnection connects. A role that runs apart waits for a broker that cannot be
// reached, since they are started in any order; one that refuses it is an error.
func (b *Broker) firstConnection(ctx context.Context) (*nats.Conn, error) {
	name := "vcsync"
	if b.cfg.Role != All {
		name += " " + string(b.cfg.Role)
	}
	said, refused := false, 0
	for {
		nc, err := b.Connect(name)
		if errors.Is(err, nats.ErrAuthorization) {
			refused++ // once may be while it reads its users again
		}
		if err == nil || b.cfg.Role == All || errors.Is(err, ErrBroker) && (refused == 0 || refused >= 3) {
			return nc, err
		}
		if !said {
			said = true
			b.log.WarnContext(ctx, "waiting for the broker", "error", err)
		}
		select {
		case <-ctx.Done():
			return nil, errors.Join(err, ctx.Err())
		case <-time.After(retryConnect):
		}
	}
}

// checkServer refuses a broker that lacks what vcsync relies on.
func (b *Broker) checkServer(ctx context.Context) error {
	if b.srv == nil {
		if err := tooOld(b.nc.ConnectedServerVersion()); err != nil {
			return err
		}
		if b.cfg.Role.owns() && b.nc.ConnectedServerName() != serverName {
			b.log.WarnContext(ctx, "the broker is external and does not tell how it is set: vcsync broker is set right; another NATS server needs sync_interval: always in its jetstream block, or a power cut loses what vcsync shows as captured, and ping_interval: 1500ms with ping_max: 2, or what a process had sent before it was cut off may come late")
		}
	}
	if most := b.nc.MaxPayload(); most < MaxPayload {
		return fmt.Errorf("%w: the broker takes messages of at most %d bytes, want %d: set max_payload to 8MB in its configuration", ErrLayout, most, MaxPayload)
	}
	return nil
}

// tooOld returns an error for a version below leastServer.
func tooOld(version string) error {
	have, ok := parseVersion(version)
	if !ok {
		return fmt.Errorf("%w: the NATS server says its version is %.32q; want %d.%d.%d or later", ErrBroker, version, leastServer[0], leastServer[1], leastServer[2])
	}
	for i, want := range leastServer {
		if have[i] > want {
			return nil
		}
		if have[i] < want {
			lacks := "it has known faults that lose data when the members of a cluster change"
			if have[0] < 2 || have[0] == 2 && have[1] < 12 {
				lacks = "it has no atomic batches, in which vcsync stores events and its ledger"
			}
			return fmt.Errorf("%w: the NATS server is version %s, want %d.%d.%d or later: %s; update it, or use vcsync broker",
				ErrBroker, version, leastServer[0], leastServer[1], leastServer[2], lacks)
		}
	}
	return nil
}

// parseVersion reads 2.12.3, v2.12.3 and 2.12.3-RC.1.
func parseVersion(s string) (out [3]int, ok bool) {
	s, _, _ = strings.Cut(strings.TrimPrefix(s, "v"), "-")
	f := strings.Split(s, ".")
	if len(f) != 3 {
		return out, false
	}
	for i := range f {
		n, err := strconv.Atoi(f[i])
		if err != nil || n < 0 {
			return out, false
		}
		out[i] = n
	}
	return out, true
}
