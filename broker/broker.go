package broker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nuid"

	"github.com/vcsync/vcsync/schemas"
)

// Role says which part of vcsync a process is.
type Role string

// Roles. All is everything in one process, as vcsync up runs it.
const (
	All      Role = ""
	Control  Role = "control"
	Producer Role = "producer"
	Consumer Role = "consumer"
)

// owns tells whether the role makes the streams, keeps the keyring and may accept a
// loss. The others wait for it, and assert what it made.
func (r Role) owns() bool { return r == All || r == Control }

// Files in the folder of keys, as Init writes them for each role.
const (
	// SeedFile holds the nkey seed with which the process signs in.
	SeedFile = "role.nk"
	// CAFile holds the certificate authority that the broker's certificate is of.
	CAFile = "ca.pem"
)

// Config says which broker to use and where the data folder is.
type Config struct {
	// Dir is the data folder, which this process alone writes to. It holds the
	// high-water file, and the embedded broker's store.
	Dir string
	// Keys is the folder of the keyring; Dir where empty. Producer and Consumer only
	// read it.
	Keys string
	// Role is which part of vcsync opens the store; All where empty. Only All and
	// Control make and assert what is missing; Producer and Consumer wait for it.
	Role Role
	// Sources are what a Producer may see and capture, where its key allows only these;
	// empty means all. With them events are read without the leader's help, which no
	// right can limit to a source.
	Sources []schemas.Slug
	// Name is that of the process, in the names of its connections; none where empty.
	Name string
	// Listen is the loopback address on which the embedded broker listens, such as
	// 127.0.0.1:4222, for clients that sign with the nkey in the data folder. Empty,
	// the default, means no listening port at all.
	Listen string
	// URL is an external NATS server or cluster, its addresses with commas between
	// them; empty means the embedded one.
	URL string
	// Creds is the file with the credentials for URL.
	Creds string
	// Seed is the file with the nkey seed for URL, in place of Creds.
	Seed string
	// CA is the file with the only certificate authority that the broker at URL may
	// have its certificate from; with it nothing below TLS 1.3 is spoken. Empty: those
	// of the system.
	CA string
	// Replicas is the number of copies of what vcsync creates on an external broker;
	// where 0 it is 3 on a cluster and else 1.
	Replicas int
	// EventsMaxBytes limits VCS_EV when it is created, and VCS_BODY by as much, at
	// least 1 GiB; 8 GiB where 0. A full stream refuses new events, it forgets none.
	EventsMaxBytes int64
	// Command is what was started, for what it says to do next; "vcsync up" where empty.
	Command string
	// AcceptLoss goes on with a store that went backwards, or whose damaged streams were
	// moved aside, under new epochs.
	AcceptLoss bool
	// LazySync leaves writing to disk to the operating system. A power cut then
	// loses what was acknowledged; for simulations only.
	LazySync bool
	// Settle is how long requests that are under way in the embedded broker get to
	// end after their clients are gone; 100 ms where zero. Simulations give more.
	Settle time.Duration
	// Log is where the broker speaks; slog.Default() where nil.
	Log *slog.Logger

	restore func() error // of Restore: it is called once the store is known to be empty
}

// Broker is the open store.
type Broker struct {
	// Keys is the installation's keyring.
	Keys *Keyring

	cfg  Config
	log  *slog.Logger
	lock *os.File
	mark *highWater
	srv  *embedded // nil when external
	nc   *nats.Conn
	js   jetstream.JetStream
	// boot tells this process from every other that ever held a lease here.
	boot string
	lost chan error
	// signIn are the options with which an external broker is reached, and own the
	// prefix of this key's inboxes.
	signIn []nats.Option
	own    string
	denied atomic.Uint64

	upload sync.Mutex // held while a body is stored

	auditing chan struct{} // holds one entry while a record is appended to the audit
	audited  auditHead     // where the chain stood then

	mu     sync.Mutex
	conns  []*nats.Conn
	closed bool

	stop context.CancelFunc
	wg   sync.WaitGroup
}

// Open opens the store: the keyring, the embedded or external broker, the streams
// and buckets, and the high-water check. A role that runs apart waits until ctx ends
// for a broker that cannot be reached, and Producer and Consumer for what Control
// has not made yet. It returns errors that wrap ErrInUse, ErrKeyring, ErrLayout,
// ErrBroker or ErrDamaged or ErrWentBackwards where one of these stopped it; nothing runs then.
func Open(ctx context.Context, cfg Config) (_ *Broker, err error) {
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	if cfg.EventsMaxBytes == 0 {
		cfg.EventsMaxBytes = 8 << 30
	}
	if cfg.Keys == "" {
		cfg.Keys = cfg.Dir
	}
	if cfg.Settle == 0 {
		cfg.Settle = 100 * time.Millisecond
	}
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("create the data folder: %w", err)
	}
	b := &Broker{cfg: cfg, log: cfg.Log, boot: nuid.Next(), lost: make(chan error, 1), auditing: make(chan struct{}, 1)}
	defer func() {
		if err != nil {
			err = errors.Join(err, b.Close())
		}
	}()
	if b.lock, err = lockFolder(cfg.Dir); err != nil {
		return nil, err
	}
	if _, err := os.Stat(filepath.Join(cfg.Dir, restoringFile)); err == nil && cfg.restore == nil {
		return nil, fmt.Errorf("%w: a restore into %s broke off: empty that folder, and the store, and restore again", ErrBackup, cfg.Dir)
	}
	if b.mark, err = openHighWater(cfg.Dir); err != nil {
		return nil, err
	}
	if !cfg.Role.owns() { // before anything waits for others
		if b.Keys, err = readKeyring(cfg.Keys); err != nil {
			return nil, err
		}
	}
	if cfg.URL == "" {
		if !cfg.Role.owns() {
			return nil, fmt.Errorf("a %s has no broker of its own: say where it is with VCSYNC_NATS_URL, such as tls://host:4222", cfg.Role)
		}
		if b.srv, err = startEmbedded(ctx, cfg, b.mark.sequence); err != nil {
			return nil, err
		}
	} else if b.signIn, err = signInOptions(cfg); err != nil {
		return nil, err
	}
	if b.own, err = inboxPrefix(cfg.Seed); err != nil {
		return nil, err
	}
	if b.nc, err = b.firstConnection(ctx); err != nil {
		return nil, err
	}
	if err := b.checkServer(ctx); err != nil {
		return nil, err
	}
	if b.js, err = newJetStream(b.nc); err != nil {
		return nil, err
	}
	if cfg.Role.owns() {
		if err := b.waitStore(ctx); err != nil {
			return nil, err
		}
		if cfg.restore != nil {
			if err := b.emptyStore(ctx); err != nil {
				return nil, err
			}
			if err := cfg.restore(); err != nil {
				return nil, fmt.Errorf("restore the keyring: %w", err)
			}
		}
		if err := b.openLayout(ctx); err != nil {
			return nil, err
		}
		fresh := !hasKeyring(cfg.Keys)
		if err := b.openKeys(ctx, cfg); err != nil {
			return nil, err
		}
		if fresh && cfg.AcceptLoss { // every secret has another digest now
			if err := b.enterByItself(ctx, "the keyring was lost, and a new one was made"); err != nil {
				return nil, err
			}
		}
	} else if err := b.waitLayout(ctx); err != nil {
		return nil, err
	}
	if err := b.checkKeys(ctx, cfg); err != nil {
		return nil, err
	}
	if err := b.checkHighWater(ctx, cfg.AcceptLoss && cfg.Role.owns()); err != nil {
		return nil, err
	}
	run, stop := context.WithCancel(context.WithoutCancel(ctx))
	b.stop = stop
	b.wg.Go(func() { b.keepMark(run) })
	if cfg.Role.owns() {
		b.wg.Go(func() { b.keepBodies(run) })
	}
	return b, nil
}

// Lost yields the error of a store that went backwards while it was in use: its
// user has to end then.
func (b *Broker) Lost() <-chan error { return b.lost }

// JS returns the JetStream context of the broker's own connection.
func (b *Broker) JS() jetstream.JetStream { return b.js }

// Exclusive tells that nobody but this process can reach the broker: it is
// embedded, has no listening port, and the data folder is locked.
func (b *Broker) Exclusive() bool { return b.srv != nil && b.cfg.Listen == "" }

// NewJetStream returns a JetStream context on a connection of Connect, with the
// limits that vcsync uses everywhere.
func newJetStream(nc *nats.Conn) (jetstream.JetStream, error) {
	return jetstream.New(nc, jetstream.WithDefaultTimeout(15*time.Second), jetstream.WithPublishAsyncMaxPending(256), jetstream.WithPublishAsyncTimeout(30*time.Second))
}

// JetStreamOn returns a JetStream context on a connection of Connect.
func (b *Broker) JetStreamOn(nc *nats.Conn) (jetstream.JetStream, error) { return newJetStream(nc) }

// keyringKey is where the store keeps the mark of its keyring.
const keyringKey = "keyring"

// checkKeys compares the keyring with the one that the store is used with: with
// another, a process would take targets and be able to open nothing. The mark says
// nothing of the keys.
func (b *Broker) checkKeys(ctx context.Context, cfg Config) error {
	mark := b.Keys.Digest("the keyring of this installation")
	kv, err := b.js.KeyValue(ctx, BucketConfig)
	if err != nil {
		return fmt.Errorf("compare the keyring: %w", err)
	}
	e, err := kv.Get(ctx, keyringKey)
	switch {
	case errors.Is(err, jetstream.ErrKeyNotFound):
		if cfg.Role.owns() {
			_, err = kv.Create(ctx, keyringKey, []byte(mark))
		} else {
			err = nil // control, of this version, makes it
		}
	case err == nil && string(e.Value()) != mark && cfg.AcceptLoss && cfg.Role.owns():
		if err = b.dropSealedAccounts(ctx); err == nil {
			_, err = kv.Put(ctx, keyringKey, []byte(mark))
		}
	case err == nil && string(e.Value()) != mark:
		return fmt.Errorf("%w: the one in %s is not the one that this store is used with: take the keyring.json of control's folder of keys", ErrKeyring, cfg.Keys)
	}
	if err != nil {
		return fmt.Errorf("compare the keyring: %w", err)
	}
	return nil
}

// openKeys opens the keyring. Where the store already holds what another one
// sealed, none is made in its place: that would look like a working installation
// whose passwords are all lost and whose every object has changed.
func (b *Broker) openKeys(ctx context.Context, cfg Config) error {
	if !hasKeyring(cfg.Keys) && !cfg.AcceptLoss {
		s, err := b.js.Stream(ctx, "KV_"+BucketSecret)
		if err != nil {
			return fmt.Errorf("look up %s: %w", BucketSecret, err)
		}
		if s.CachedInfo().State.Msgs > 0 {
			return fmt.Errorf("%w: the store holds passwords sealed with a keyring that is not in %s: bring it back from a backup; or start once with --accept-loss, and enter every server's password again", ErrKeyring, cfg.Keys)
		}
	}
	var err error
	b.Keys, err = OpenKeyring(cfg.Keys)
	return err
}

// Probe proves that the store takes writes, by one to a bucket, and that the event
// stream has room for an event of any size: the readiness check, since a store that
// is full or broken still answers questions.
func (b *Broker) Probe(ctx context.Context) error {
	ev, err := b.js.Stream(ctx, StreamEvents)
	if err != nil {
		return fmt.Errorf("look up %s: %w", StreamEvents, err)
	}
	if info := ev.CachedInfo(); info.Config.MaxBytes > 0 && info.State.Bytes+MaxPayload > uint64(info.Config.MaxBytes) {
		return fmt.Errorf("%s has no room left for an event of any size: it holds %d of %d bytes; give it more with the nats command (nats stream edit %s --max-bytes), through VCSYNC_NATS_LISTEN where the broker is built in", StreamEvents, info.State.Bytes, info.Config.MaxBytes, StreamEvents)
	}
	kv, err := b.js.KeyValue(ctx, BucketLease)
	if err == nil {
		_, err = kv.Put(ctx, "probe", []byte(time.Now().UTC().Format(time.RFC3339)))
	}
	if err != nil {
		return fmt.Errorf("write to the broker: %w", err)
	}
	return nil
}

// Close ends every connection and, when embedded, the server, which it returns
// from only when all is on disk. It may be called more than once.
func (b *Broker) Close() error {
	b.mu.Lock()
	if b.closed {
		b.mu.Unlock()
		return nil
	}
	b.closed = true
	conns := b.conns
	b.mu.Unlock()
	var err error
	if b.stop != nil {
		b.stop()
		b.wg.Wait()
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		err = b.Mark(ctx)
		cancel()
		if b.srv == nil || errors.Is(err, nats.ErrConnectionClosed) || errors.Is(err, context.DeadlineExceeded) {
			err = nil // the mark is a second old at most; and an external broker may be away
		}
	}
	for _, nc := range conns {
		nc.Close()
	}
	if b.srv != nil {
		err = errors.Join(err, b.srv.close(b.cfg.Settle))
	}
	if b.lock != nil {
		err = errors.Join(err, b.lock.Close())
	}
	return err
}

// waitNoClients returns once the server has let go of every client, or after 5
// seconds, and what they last asked for has had time to end: Shutdown sleeps while
// it holds a lock that such a request may wait for, which virtual time never gets
// past.
func waitNoClients(s *server.Server, settle time.Duration) {
	for range 500 {
		if s.NumClients() == 0 {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	time.Sleep(settle)
}
