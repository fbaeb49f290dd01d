package control

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"syscall"
	"time"
)

// drainTime is how long Serve waits at its end for requests that are under way.
const drainTime = 3 * time.Second

// Listen opens the loopback address addr. The error wraps ErrConfig or ErrListen,
// names the address and says what to do.
func Listen(ctx context.Context, addr string) (net.Listener, error) {
	if err := CheckAddr(addr); err != nil {
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
	if t, ok := l.Addr().(*net.TCPAddr); !ok || !t.IP.IsLoopback() {
		_ = l.Close()
		return nil, fmt.Errorf("%w on %s: the name stands for %s, which others can reach; use 127.0.0.1", ErrListen, addr, l.Addr())
	}
	return l, nil
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
	err := srv.Serve(l)
	cancel()
	wg.Wait()
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return fmt.Errorf("serve the API: %w", err)
}
