package broker

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nkeys"
)

const (
	storeFolder = "broker"
	lockName    = "lock"
	// serverName is that of a broker that vcsync runs by itself, which always syncs.
	serverName = "vcsync"
	nkeyFile   = "broker.nk"
	// runningFile lies in the data folder while the embedded broker runs; found at a
	// start it says that the last stop was none.
	runningFile = "running"
	// startLimit bounds the start of the embedded broker; one million subjects took
	// 10 s after a crash.
	startLimit = 5 * time.Minute
	// storeLimit is what JetStream may use of the disk.
	storeLimit = 512 << 30
)

// embedded is the nats-server in this process.
type embedded struct {
	dir    string
	server *server.Server
	key    nkeys.KeyPair
	public string
	damage []string // of streams that were moved aside, since their loss was accepted
}

func startEmbedded(ctx context.Context, cfg Config, reached func(stream string) uint64) (_ *embedded, err error) {
	host, port, err := loopback(cfg.Listen)
	if err != nil {
		return nil, err
	}
	e := &embedded{dir: cfg.Dir}
	if e.key, err = openNkey(filepath.Join(cfg.Dir, nkeyFile)); err != nil {
		return nil, err
	}
	if e.public, err = e.key.PublicKey(); err != nil {
		return nil, fmt.Errorf("broker key: %w", err)
	}
	opts := func(listen bool) *server.Options {
		o := &server.Options{ServerName: serverName, NoSigs: true, NoLog: true, DontListen: !listen, Host: host, Port: port,
			SyncAlways: !cfg.LazySync, Nkeys: []*server.NkeyUser{{Nkey: e.public}}}
		storeOptions(o, filepath.Join(cfg.Dir, storeFolder))
		if listen {
			letGo(o)
		}
		return o
	}
	if e.damage, err = settleDamage(ctx, cfg.Log, cfg.Dir, filepath.Join(cfg.Dir, storeFolder), cfg.AcceptLoss, cmp.Or(cfg.Command, "vcsync up"), reached); err != nil {
		return nil, err
	}
	if err := e.settleUnclean(ctx, cfg.Log, true, func() *server.Options { return opts(false) }); err != nil {
		return nil, err
	}
	if e.server, err = boot(ctx, opts(cfg.Listen != ""), cfg.Log); err != nil {
		return nil, err
	}
	return e, nil
}

// settleUnclean leaves a marker in the folder until the broker is stopped. Where there
// is one the last stop was none: then, with again, it starts and stops the broker
// once.
func (e *embedded) settleUnclean(ctx context.Context, log *slog.Logger, again bool, opts func() *server.Options) error {
	marker := filepath.Join(e.dir, runningFile)
	_, err := os.Stat(marker)
	switch {
	case err == nil && again:
		// After kill -9 sourcing was measured to stand still for about 12 s in half of
		// the starts, and never after one clean stop in between.
		log.InfoContext(ctx, "the last stop was not clean: the broker is started and stopped once before anything connects")
		s, err := boot(ctx, opts(), slog.New(errorsOnly{log.Handler()}))
		if err != nil {
			return err
		}
		s.Shutdown()
		s.WaitForShutdown()
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("look for the marker of an unclean stop: %w", err)
	}
	if err := writeFile(marker, nil); err != nil {
		return fmt.Errorf("write the marker of a running broker: %w", err)
	}
	return nil
}

func boot(ctx context.Context, o *server.Options, log *slog.Logger) (*server.Server, error) {
	s, err := server.NewServer(o)
	if err != nil {
		return nil, fmt.Errorf("configure the embedded broker: %w", err)
	}
	l := &serverLog{log: log, fatal: make(chan string, 1)}
	s.SetLoggerV2(l, false, false, false)
	go s.Start()
	for begun := time.Now(); !s.ReadyForConnections(time.Second); {
		var why string
		select {
		case why = <-l.fatal:
		case <-ctx.Done():
			why = ctx.Err().Error()
		default:
			if time.Since(begun) < startLimit {
				continue
			}
			why = "not ready in time"
		}
		s.Shutdown()
		s.WaitForShutdown()
		return nil, fmt.Errorf("start the embedded broker in %s: %s", o.StoreDir, why)
	}
	if !s.JetStreamEnabled() {
		s.Shutdown()
		s.WaitForShutdown()
		return nil, fmt.Errorf("start the embedded broker in %s: its store could not be opened; see the log above", o.StoreDir)
	}
	return s, nil
}

// close stops the server; those of its own process have been closed before. The
// marker goes last, when all is on disk.
func (e *embedded) close(settle time.Duration) error {
	if e.public != "" {
		waitNoClients(e.server, settle)
	}
	e.server.Shutdown()
	e.server.WaitForShutdown()
	err := os.Remove(filepath.Join(e.dir, runningFile))
	if err == nil {
		err = syncDir(e.dir)
	}
	if err != nil {
		err = fmt.Errorf("remove the marker of a running broker: %w", err)
	}
	return err
}

// lockFolder takes the folder for this process; the lock ends with the process,
// however that ends.
func lockFolder(dir string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dir, lockName), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock the data folder: %w", err)
	}
	if err := lockFile(f); err != nil {
		f.Close()
		return nil, fmt.Errorf("%w: %s; stop that process, or choose another folder with VCSYNC_DATA", ErrInUse, dir)
	}
	return f, nil
}

// loopback parses a listening address and refuses any that others can reach: there
// is no TLS on it yet.
func loopback(listen string) (string, int, error) {
	if listen == "" {
		return "", 0, nil
	}
	host, p, err := net.SplitHostPort(listen)
	port, perr := strconv.Atoi(p)
	if ip := net.ParseIP(host); err != nil || perr != nil || ip == nil || !ip.IsLoopback() {
		return "", 0, fmt.Errorf("VCSYNC_NATS_LISTEN=%q: want a loopback address and port, such as 127.0.0.1:4222", listen)
	}
	return host, port, nil
}

// openNkey reads the key with which clients sign in to the embedded broker, and
// makes one where there is none.
func openNkey(path string) (nkeys.KeyPair, error) {
	seed, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		kp, kerr := nkeys.CreateUser()
		if kerr == nil {
			seed, kerr = kp.Seed()
		}
		if kerr == nil {
			kerr = writeFile(path, seed)
		}
		err = kerr
	}
	if err != nil {
		return nil, fmt.Errorf("broker key: %w", err)
	}
	kp, err := nkeys.FromSeed(seed)
	if err != nil {
		return nil, fmt.Errorf("broker key %s is damaged: %w; delete it to get a new one", path, err)
	}
	return kp, nil
}

// errorsOnly lets errors through. What a server says that is stopped again at once,
// that it found itself killed, is known.
type errorsOnly struct{ slog.Handler }

// Enabled is of slog.Handler.
func (h errorsOnly) Enabled(ctx context.Context, l slog.Level) bool {
	return l >= slog.LevelError && h.Handler.Enabled(ctx, l)
}

// serverLog passes what nats-server says on. Its notices are noise here.
type serverLog struct {
	log   *slog.Logger
	fatal chan string
}

func (l *serverLog) Noticef(f string, v ...any) { l.log.Debug("broker: " + fmt.Sprintf(f, v...)) }
func (l *serverLog) Warnf(f string, v ...any)   { l.log.Warn("broker: " + fmt.Sprintf(f, v...)) }
func (l *serverLog) Errorf(f string, v ...any)  { l.log.Error("broker: " + fmt.Sprintf(f, v...)) }
func (l *serverLog) Debugf(string, ...any)      {}
func (l *serverLog) Tracef(string, ...any)      {}
func (l *serverLog) Fatalf(f string, v ...any) {
	msg := fmt.Sprintf(f, v...)
	l.log.Error("broker: " + msg)
	select {
	case l.fatal <- msg:
	default:
	}
}
