package standin

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync"
	"syscall"
	"time"
)

// drainTime is how long a stopping server waits for requests that are under way.
const drainTime = 3 * time.Second

// Listen opens addr, such as 127.0.0.1:7701. The error names the address, says
// what to do, and wraps ErrListen.
func Listen(ctx context.Context, addr string) (net.Listener, error) {
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", addr)
	if errors.Is(err, syscall.EADDRINUSE) {
		return nil, fmt.Errorf("%w on %s: the address is taken; stop the program that uses it, or choose another port", ErrListen, addr)
	}
	if err != nil {
		if op, ok := errors.AsType[*net.OpError](err); ok {
			err = op.Err
		}
		return nil, fmt.Errorf("%w on %s: %w; want host:port, such as 127.0.0.1:7701", ErrListen, addr, err)
	}
	return l, nil
}

// ListenAndServe is Listen and Serve.
func (s *Server) ListenAndServe(ctx context.Context, addr string) error {
	l, err := Listen(ctx, addr)
	if err != nil {
		return err
	}
	return s.Serve(ctx, l)
}

// Serve answers requests on l and runs the statistics until ctx ends, waits a
// moment for what is under way, and returns nil. Whatever it started has ended
// then, and l is closed. The Server itself stays open.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	srv := &http.Server{
		Handler:           s.Handler(),
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       2 * time.Minute,                                   // above the connector's own
		BaseContext:       func(net.Listener) context.Context { return ctx }, // ends the change feeds
	}
	var wg sync.WaitGroup
	wg.Go(func() { s.Run(ctx) })
	wg.Go(func() {
		<-ctx.Done()
		late, cancel := context.WithTimeout(context.WithoutCancel(ctx), drainTime)
		defer cancel()
		if srv.Shutdown(late) != nil {
			_ = srv.Close() // what did not end in time is cut
		}
	})
	err := srv.Serve(l)
	stop()
	wg.Wait()
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return fmt.Errorf("serve the stand-in %s: %w", s.cfg.Name, err)
}
