package control

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/vcsync/vcsync/broker"
)

// drainTime is how long Serve waits at its end for requests that are under way.
const drainTime = 3 * time.Second

// Listen opens the address addr, which must be a loopback one where the API has no TLS.
// The error wraps ErrConfig or ErrListen, names the address and says what to do.
func Listen(ctx context.Context, addr string, tls bool) (net.Listener, error) {
	if err := CheckAddr(addr, tls); err != nil {
		return nil, err
	}
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", addr)
	if errors.Is(err, syscall.EADDRINUSE) {
		return nil, fmt.Errorf("%w on %s: the address is taken; stop the program that uses it, or choose another with VCSYNC_API_ADDR", ErrListen, addr)
	}
	if err != nil {
		if op, ok := errors.AsType[*net.OpError](err); ok {
			err = op.Err
		}
		return nil, fmt.Errorf("%w on %s: %w; choose another address with VCSYNC_API_ADDR", ErrListen, addr, err)
	}
	if t, ok := l.Addr().(*net.TCPAddr); !tls && (!ok || !t.IP.IsLoopback()) {
		_ = l.Close()
		return nil, fmt.Errorf("%w on %s: the name stands for %s, which others can reach; use 127.0.0.1", ErrListen, addr, l.Addr())
	}
	return l, nil
}

// CheckDoor tells whether the API may be opened: where others than this machine can reach
// it, there must be an account that can manage accounts. The error wraps ErrConfig and says
// how to make one.
func (s *Server) CheckDoor(ctx context.Context) error {
	if isLoopback(s.cfg.Addr) {
		return nil
	}
	all, _, err := s.broker.Accounts(ctx)
	if err != nil {
		return err
	}
	if !slices.ContainsFunc(all, func(a broker.StoredAccount) bool { return isAdmin(a.Account) }) {
		return fmt.Errorf("%w: VCSYNC_API_ADDR=%.80q: others could reach it, and there is no admin account yet: start once with a loopback address, such as 127.0.0.1:7780, and run vcsync account first NAME", ErrConfig, s.cfg.Addr)
	}
	return nil
}

// Serve answers requests on l until ctx ends, waits a moment for what is under
// way, and returns nil. Whatever it started has ended then, and l is closed. It is
// called once.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	srv := &http.Server{
		Handler:           s.handler,
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       30 * time.Second,
		WriteTimeout:      time.Minute, // event streams set their own for every write
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    64 << 10,
		ErrorLog:          slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var wg sync.WaitGroup
	wg.Go(func() { _ = s.TendRuns(ctx) }) // it returns nil
	wg.Go(func() {
		<-ctx.Done()
		s.stop()
		late, cancel := context.WithTimeout(context.WithoutCancel(ctx), drainTime)
		defer cancel()
		if srv.Shutdown(late) != nil {
			_ = srv.Close() // what did not end in time is cut
		}
	})
	var err error
	if s.cfg.Certificate != nil {
		srv.TLSConfig = s.cfg.Certificate.config()
		err = srv.ServeTLS(l, "", "")
	} else {
		err = srv.Serve(l)
	}
	cancel()
	wg.Wait()
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return fmt.Errorf("serve the API: %w", err)
}
