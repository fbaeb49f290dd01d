package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/vcsync/vcsync/broker"
	"github.com/vcsync/vcsync/consumer"
	"github.com/vcsync/vcsync/control"
	"github.com/vcsync/vcsync/producer"
	"github.com/vcsync/vcsync/schemas"
	"github.com/vcsync/vcsync/visualcron"
	"github.com/vcsync/vcsync/visualcron/bridge"
)

func newUpCommand(a *app) *cobra.Command {
	var acceptLoss bool
	c := &cobra.Command{
		Use:   "up",
		Short: "Run vcsync: broker, producer, consumer, API and status page",
		Long: `Runs everything in one process, in the foreground, until interrupted. The
configuration comes from the environment; see docs/configuration.md.`,
		Args: none,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := loadConfig()
			if err != nil {
				return err
			}
			return up(cmd.Context(), cfg, acceptLoss, a.err, func(context.Context) error {
				_, err := fmt.Fprintf(a.out, "vcsync %s is up: status page and API at http://%s\n", buildVersion(), cfg.APIAddr)
				return err
			})
		},
	}
	c.Flags().BoolVar(&acceptLoss, "accept-loss", false, "go on with a store that holds less than it once held, under new epochs")
	return c
}

// up runs all roles until ctx ends and returns when all of them have, the broker
// last. Once the API answers, begun is called; its error ends everything.
func up(ctx context.Context, cfg config, acceptLoss bool, stderr io.Writer, begun func(context.Context) error) (err error) {
	log := newLog(stderr, cfg.LogLevel, cfg.LogFormat)
	slog.SetDefault(log)
	// The port first: nothing is touched when it is taken.
	l, err := control.Listen(ctx, cfg.APIAddr)
	if err != nil {
		return failed(environmentCode(err), err)
	}
	defer l.Close() // closed by Serve where that was reached
	b, err := broker.Open(ctx, brokerConfig(cfg, broker.All, acceptLoss, log))
	if err != nil {
		return failed(environmentCode(err), err)
	}
	defer func() {
		if cerr := b.Close(); cerr != nil {
			err = errors.Join(err, failed(exitRunTime, fmt.Errorf("close the broker: %w", cerr)))
		}
	}()
	return runRoles(ctx, cfg, b, l, log, begun)
}

// environmentCode is the exit code of what keeps vcsync from starting.
func environmentCode(err error) int {
	if errors.Is(err, control.ErrConfig) {
		return exitUsage
	}
	return exitEnvironment
}

// leaseMargin is how long a target may still act on a request after its client gave
// up. It is a property of targets, so a shorter lease has the same.
const leaseMargin = 3 * time.Second

// leaseTimes are the consumer's.
func leaseTimes(ttl time.Duration) broker.LeaseTimes {
	return broker.LeaseTimes{TTL: ttl, Margin: leaseMargin}
}

// opener makes connectors. A request must be able to begin and end within what is
// left of a lease between two renewals.
func opener(ttl time.Duration) func(schemas.Server, string) (visualcron.Connector, error) {
	lease := leaseTimes(ttl)
	timeout := min(10*time.Second, lease.TTL-lease.Margin-lease.TTL/5)
	return func(s schemas.Server, password string) (visualcron.Connector, error) {
		if s.Connector != "bridge" {
			return nil, fmt.Errorf("server %s: connector %.32q is not there in this version; want bridge", s.ID, s.Connector)
		}
		return bridge.New(visualcron.Config{Server: s.ID, Address: s.Address, User: s.User, Password: password, RequestTimeout: timeout}, bridge.WithIdentity(s.Identity))
	}
}

// runRoles runs producer, consumer and API on an open broker until ctx ends or one
// of them fails, and returns when all have ended.
func runRoles(ctx context.Context, cfg config, b *broker.Broker, l net.Listener, log *slog.Logger, begun func(context.Context) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	open := opener(cfg.LeaseTTL)
	holder := fmt.Sprintf("process %d", os.Getpid())
	if host, err := os.Hostname(); err == nil {
		holder = fmt.Sprintf("%s, %s", host, holder)
	}
	p := producer.New(producer.Config{Broker: b, Open: open, Poll: cfg.Poll, Log: log})
	c := consumer.New(consumer.Config{Broker: b, Open: open, Log: log, Holder: holder, Lease: leaseTimes(cfg.LeaseTTL), Lanes: cfg.Lanes})
	api, err := control.New(control.Config{Broker: b, Sources: p, Targets: c, Open: open, Supported: visualcron.Supported, Addr: cfg.APIAddr,
		Version: buildVersion(), Log: log})
	if err != nil {
		return failed(exitUsage, err)
	}
	var wg sync.WaitGroup
	role := func(name string, run func(context.Context) error) {
		wg.Go(func() {
			err := run(ctx)
			if err == nil && ctx.Err() == nil {
				err = errors.New("it ended by itself")
			}
			if err != nil && ctx.Err() == nil {
				cancel(fmt.Errorf("the %s has stopped: %w", name, err))
			}
		})
	}
	role("producer", p.Run)
	role("consumer", c.Run)
	role("API", func(ctx context.Context) error { return api.Serve(ctx, l) })
	if err := begun(ctx); err != nil && ctx.Err() == nil {
		cancel(err)
	}
	<-ctx.Done()
	log.Info("stopping")
	wg.Wait()
	if cause := context.Cause(ctx); cause != nil && !errors.Is(cause, context.Canceled) {
		if _, ok := errors.AsType[*exitError](cause); ok {
			return cause
		}
		return failed(exitRunTime, cause)
	}
	return nil
}
