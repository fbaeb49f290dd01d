package broker

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"github.com/nats-io/nats-server/v2/server"
)

// ServeConfig says how Serve runs a broker.
type ServeConfig struct {
	// Dir is the data folder: the store, the lock and the marker of an unclean stop.
	Dir string
	// Keys is the folder that Init wrote for brokers. Not read where File is given.
	Keys string
	// Listen is the address for clients, such as 0.0.0.0:4222. Not read where File is
	// given.
	Listen string
	// File is a NATS configuration in place of Keys and Listen, for a cluster.
	File string
	// Reload makes the broker read its users, certificates or File again. Each is
	// logged. May be nil.
	Reload <-chan os.Signal
	// AcceptLoss moves damaged streams aside. Control then needs it too, to make them anew.
	AcceptLoss bool
	// Log is where the broker speaks; slog.Default() where nil.
	Log *slog.Logger
	// Ready is called once, when the broker takes connections, with its address.
	Ready func(address string) error
}

// Serve runs a broker until ctx ends, and returns when all is on disk. It lets in
// only the keys of users.conf, over TLS 1.3, and writes to disk before it
// acknowledges. After an unclean stop of a single broker it starts and stops it once
// before anybody connects. Before that it reads the files of the streams, unless it is a
// member of a cluster, and refuses damaged ones. Errors wrap ErrInUse, ErrBroker or
// ErrDamaged where one of these stopped it.
func Serve(ctx context.Context, cfg ServeConfig) (err error) {
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return fmt.Errorf("create the data folder: %w", err)
	}
	lock, err := lockFolder(cfg.Dir)
	if err != nil {
		return err
	}
	defer lock.Close()
	g, err := newGate(cfg.Log)
	if err != nil {
		return err
	}
	opts, err := cfg.options(g)
	if err != nil {
		return err
	}
	if err := ownAccount(opts); err != nil {
		return err
	}
	e := &embedded{dir: cfg.Dir}
	clustered := opts.Cluster.Port != 0
	if !clustered {
		if _, err := settleDamage(ctx, cfg.Log, cfg.Dir, opts.StoreDir, cfg.AcceptLoss, "vcsync broker, and then vcsync control,", nil); err != nil {
			return err
		}
	}
	// The store of a cluster's member is never opened outside of the cluster. There the
	// others go on while one comes back.
	if err := e.settleUnclean(ctx, cfg.Log, !clustered, func() *server.Options { return aside(opts) }); err != nil {
		return err
	}
	if e.server, err = boot(ctx, opts, cfg.Log); err != nil {
		return err
	}
	defer func() {
		cfg.Log.Info("the broker is stopping")
		if cerr := e.close(0); cerr != nil {
			err = errors.Join(err, cerr)
		}
	}()
	if hasStoreAccount(opts) {
		shut, err := g.open(e.server)
		if err != nil {
			return err
		}
		defer shut()
	}
	if cfg.Ready != nil {
		if err := cfg.Ready(e.server.Addr().String()); err != nil {
			return err
		}
	}
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-cfg.Reload:
			if err := cfg.reload(e.server, g); err != nil {
				cfg.Log.Error("the configuration was not read again: the broker goes on with the one before", "error", err)
			} else {
				cfg.Log.Info("users and certificates were read again")
			}
		}
	}
}

// reload reads the files again, twice: nats-server 2.15 begins to serve the imports of
// an account that is new only when it finds the account there, at the next reload.
func (cfg ServeConfig) reload(s *server.Server, g *gate) error {
	for range 2 {
		next, err := cfg.options(g)
		if err != nil {
			return err
		}
		if err := s.ReloadOptions(next); err != nil {
			return err
		}
	}
	return nil
}

// options reads the files of the configuration, and lets the gate in.
func (cfg ServeConfig) options(g *gate) (*server.Options, error) {
	read := cfg.keysOptions
	if cfg.File != "" {
		read = cfg.fileOptions
	}
	opts, err := read()
	if err == nil {
		g.admit(opts)
	}
	return opts, err
}

func hasStoreAccount(o *server.Options) bool {
	return slices.ContainsFunc(o.Accounts, func(a *server.Account) bool { return a.Name == storeAccount })
}

// jetStreamFolder is the folder of the streams within a store, as nats-server names it.
const jetStreamFolder = "jetstream"

// ownAccount refuses a store that an earlier version kept in the default account:
// next to it an empty one would be opened.
func ownAccount(o *server.Options) error {
	old := filepath.Join(o.StoreDir, jetStreamFolder, "$G", "streams", StreamEvents)
	if _, err := os.Stat(old); err != nil || !hasStoreAccount(o) {
		return nil
	}
	return fmt.Errorf("%w: the store in %s is of an earlier version, which kept it in NATS's default account: this version keeps it in the account %s and would begin with an empty one. Stop all processes, keep a copy, remove that folder from every broker, and start control with --accept-loss; or go on with the earlier version and its users.conf",
		ErrBroker, filepath.Join(o.StoreDir, jetStreamFolder), storeAccount)
}

// keysOptions are those of a single broker with the files of Init.
func (cfg ServeConfig) keysOptions() (*server.Options, error) {
	host, p, err := net.SplitHostPort(cfg.Listen)
	port, perr := strconv.Atoi(p)
	if err != nil || perr != nil {
		return nil, fmt.Errorf("VCSYNC_NATS_LISTEN=%q: want an address and port, such as 0.0.0.0:4222", cfg.Listen)
	}
	if port == 0 {
		port = server.RANDOM_PORT
	}
	users := filepath.Join(cfg.Keys, usersFile)
	opts, err := server.ProcessConfigFile(users)
	if err != nil {
		if _, serr := os.Stat(users); errors.Is(serr, fs.ErrNotExist) {
			return nil, fmt.Errorf("%w: %s is not there: run vcsync broker init, and name its folder broker with VCSYNC_KEYS", ErrBroker, users)
		}
		return nil, fmt.Errorf("%w: %s: %w", ErrBroker, users, err)
	}
	if err := locked(opts, users); err != nil {
		return nil, err
	}
	if opts.TLSConfig, err = serverTLS(cfg.Keys, cfg.Log); err != nil {
		return nil, err
	}
	// The name of the file is kept by nats-server for a reload of its own.
	opts.ConfigFile = ""
	opts.TLS, opts.TLSTimeout, opts.AuthTimeout = true, 5, 5
	opts.Host, opts.Port = host, port
	opts.ServerName, opts.NoSigs, opts.NoLog = serverName, true, true
	letGo(opts)
	storeOptions(opts, filepath.Join(cfg.Dir, storeFolder))
	opts.SyncAlways = true
	return opts, nil
}

// fileOptions reads a NATS configuration, and refuses one that vcsync cannot trust.
func (cfg ServeConfig) fileOptions() (*server.Options, error) {
	opts, err := server.ProcessConfigFile(cfg.File)
	if err != nil {
		return nil, fmt.Errorf("%w: read %s: %w", ErrBroker, cfg.File, err)
	}
	if err := locked(opts, cfg.File); err != nil {
		return nil, err
	}
	switch {
	case opts.TLSConfig == nil || opts.TLSConfig.MinVersion < tls.VersionTLS13:
		return nil, fmt.Errorf("%w: %s has no tls block with min_version 1.3: see deploy/nats", ErrBroker, cfg.File)
	case opts.Cluster.Port != 0 && opts.Cluster.TLSConfig == nil:
		return nil, fmt.Errorf("%w: %s has no tls block in its cluster block, so that the members would speak in the clear: see deploy/nats", ErrBroker, cfg.File)
	case !opts.JetStream:
		return nil, fmt.Errorf("%w: %s has no jetstream block: see deploy/nats", ErrBroker, cfg.File)
	case !opts.SyncAlways:
		return nil, fmt.Errorf("%w: %s lacks sync_interval: always in its jetstream block: a power cut would lose what was acknowledged", ErrBroker, cfg.File)
	case opts.PingInterval == 0 || opts.MaxPingsOut == 0 || time.Duration(opts.MaxPingsOut+2)*opts.PingInterval > letGoMost:
		return nil, fmt.Errorf("%w: %s keeps the connections of processes that were cut off for longer than their leases last, so that what they had sent could count late: it needs ping_interval: \"1500ms\" and ping_max: 2, see deploy/nats", ErrBroker, cfg.File)
	case opts.MaxPayload < MaxPayload:
		return nil, fmt.Errorf("%w: %s has max_payload %d, want 8MB", ErrBroker, cfg.File, opts.MaxPayload)
	}
	opts.NoSigs, opts.NoLog, opts.LogFile = true, true, ""
	if opts.StoreDir == "" {
		opts.StoreDir = filepath.Join(cfg.Dir, storeFolder)
	}
	return opts, nil
}

// locked refuses a configuration that lets anybody in.
func locked(opts *server.Options, file string) error {
	if opts.NoAuthUser != "" {
		return fmt.Errorf("%w: %s lets anybody in, as no_auth_user", ErrBroker, file)
	}
	if len(opts.Nkeys) == 0 && len(opts.Users) == 0 && len(opts.TrustedOperators) == 0 {
		return fmt.Errorf("%w: %s names no user: include the users.conf that vcsync broker init wrote", ErrBroker, file)
	}
	if len(opts.TrustedOperators) == 0 && !hasStoreAccount(opts) {
		return fmt.Errorf("%w: %s has no account %s: its users.conf is of an earlier version, by which any key could reach what it may not write; run vcsync broker init again on its folder", ErrBroker, file, storeAccount)
	}
	return nil
}

// serverTLS reads the server certificate.
func serverTLS(keys string, log *slog.Logger) (*tls.Config, error) {
	cert, err := tls.LoadX509KeyPair(filepath.Join(keys, serverCertFile), filepath.Join(keys, serverKeyFile))
	if err != nil {
		return nil, fmt.Errorf("%w: read the server certificate: %w: run vcsync broker init again", ErrBroker, err)
	}
	leaf, err := x509.ParseCertificate(cert.Certificate[0])
	if err != nil {
		return nil, fmt.Errorf("%w: read the server certificate: %w", ErrBroker, err)
	}
	if left := time.Until(leaf.NotAfter); left < 90*24*time.Hour {
		log.Warn("the broker's certificate ends soon, and then no process can connect: run vcsync broker init again, which renews it, and send the broker SIGHUP", "ends", leaf.NotAfter)
	}
	return &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS13}, nil
}

// letGoMost is when the broker has closed the connection of a process that was cut off
// or stands still, counted from its last byte. The shortest lease is 10 s, renewed
// every 2 s: what the process had sent must not arrive when somebody else holds it. An
// event of a state that the source has no more would be taken (G2, G4).
const letGoMost = 6 * time.Second

// letGo keeps to letGoMost: a ping may be put off by almost its interval, and the
// connection is closed when the one after ping_max is due.
func letGo(o *server.Options) {
	o.PingInterval, o.MaxPingsOut = 1500*time.Millisecond, 2
}

// storeOptions are those of every broker that vcsync runs by itself.
func storeOptions(o *server.Options, dir string) {
	o.MaxPayload, o.MaxPending, o.MaxControlLine = MaxPayload, 256<<20, 4096
	o.JetStream, o.StoreDir, o.JetStreamMaxMemory, o.JetStreamMaxStore = true, dir, 256<<20, storeLimit
	o.SyncInterval = 2 * time.Minute
}

// aside returns options to start a broker on the same store that nobody reaches.
func aside(o *server.Options) *server.Options {
	out := &server.Options{ServerName: o.ServerName, NoSigs: true, NoLog: true, DontListen: true, Nkeys: o.Nkeys,
		SyncAlways: o.SyncAlways, JetStreamLimits: o.JetStreamLimits, JetStreamDomain: o.JetStreamDomain,
		JetStreamKey: o.JetStreamKey, JetStreamOldKey: o.JetStreamOldKey, JetStreamCipher: o.JetStreamCipher,
		Accounts: o.Accounts, Users: o.Users, SystemAccount: o.SystemAccount}
	storeOptions(out, o.StoreDir)
	return out
}
