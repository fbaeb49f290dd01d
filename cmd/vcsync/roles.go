package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/vcsync/vcsync/broker"
	"github.com/vcsync/vcsync/consumer"
	"github.com/vcsync/vcsync/control"
	"github.com/vcsync/vcsync/control/notify"
	"github.com/vcsync/vcsync/producer"
	"github.com/vcsync/vcsync/schemas"
	"github.com/vcsync/vcsync/tracing"
	"github.com/vcsync/vcsync/visualcron"
	"github.com/vcsync/vcsync/visualcron/bridge"
)

func newProducerCommand(a *app) *cobra.Command {
	return roleCommand(a, broker.Producer, &cobra.Command{
		Short: "Run a producer: captures servers and publishes their changes",
		Long: `Runs a producer in the foreground until interrupted. It captures the servers that
active sync settings name as sources, or those of VCSYNC_SOURCES. Of several
producers one captures a source, and the others stand by.

It needs the broker at VCSYNC_NATS_URL and the keys of its role (VCSYNC_KEYS), as
"vcsync broker init" writes them.`})
}

func newConsumerCommand(a *app) *cobra.Command {
	return roleCommand(a, broker.Consumer, &cobra.Command{
		Short: "Run a consumer: applies changes to targets",
		Long: `Runs a consumer in the foreground until interrupted. Several of them share the
targets out evenly, and take over from one that dies.

It needs the broker at VCSYNC_NATS_URL and the keys of its role (VCSYNC_KEYS), as
"vcsync broker init" writes them.`})
}

func newControlCommand(a *app) *cobra.Command {
	return roleCommand(a, broker.Control, &cobra.Command{
		Short: "Run control: API, status page, settings and streams",
		Long: `Runs control in the foreground until interrupted: the API, the status page, and the
one process that makes streams and changes settings. Producers and consumers go on
without it.

It needs the broker at VCSYNC_NATS_URL and the keys of its role (VCSYNC_KEYS), as
"vcsync broker init" writes them.`})
}

// roleCommand completes the command that runs one role.
func roleCommand(a *app, role broker.Role, c *cobra.Command) *cobra.Command {
	var how start
	c.Use, c.Args = string(role), none
	c.RunE = func(cmd *cobra.Command, _ []string) error {
		cfg, err := loadConfig()
		if err != nil {
			return err
		}
		if cfg.NATSURL == "" {
			return usageError(`vcsync %s: VCSYNC_NATS_URL is not set: a role that runs apart needs the address of the broker, such as tls://host:4222; "vcsync up" runs everything in one process`, role)
		}
		return runProcess(cmd.Context(), cfg, role, "", how, a.err, func(context.Context) error {
			where := ""
			if role == broker.Control {
				where = ": status page and API at " + cfg.apiURL()
			}
			_, err := fmt.Fprintf(a.out, "vcsync %s is up as %s, called %s%s\n", buildVersion(), role, instance(cfg), where)
			return err
		})
	}
	if role == broker.Control {
		how.flags(c)
	}
	return c
}

// start is how a process is started, beside its configuration.
type start struct{ acceptLoss, offerAdmin bool }

func (s *start) flags(c *cobra.Command) {
	c.Flags().BoolVar(&s.acceptLoss, "accept-loss", false, "go on with a store that is damaged or holds less than it once held, under new epochs and in safe mode")
	c.Flags().BoolVar(&s.offerAdmin, "offer-admin", false, "let who can read the data folder make an admin, though there is one; for one who has forgotten his password")
}

// runProcess runs the roles of a process until ctx ends and returns when all of them
// have, the broker last. When they run, and the API answers where there is one, begun
// is called; its error ends everything.
func runProcess(ctx context.Context, cfg config, role broker.Role, command string, how start, stderr io.Writer, begun func(context.Context) error) (err error) {
	log := newLog(stderr, cfg.LogLevel, cfg.LogFormat)
	slog.SetDefault(log)
	var l net.Listener
	var notifier *notify.Notifier
	if role == broker.All || role == broker.Control {
		if notifier, err = newNotifier(cfg, log); err != nil {
			return err
		}
		// The port first: nothing is touched when it is taken.
		if l, err = control.Listen(ctx, cfg.APIAddr, cfg.APICert != ""); err != nil {
			return failed(environmentCode(err), err)
		}
		defer l.Close() // closed by Serve where that was reached
	}
	of := brokerConfig(cfg, role, how.acceptLoss, log)
	of.Command = command
	b, err := broker.Open(ctx, of)
	if errors.Is(err, context.Canceled) && ctx.Err() != nil {
		return nil // asked to stop while it waited for the broker
	}
	if err != nil {
		return failed(environmentCode(err), err)
	}
	defer func() {
		if cerr := b.Close(); cerr != nil {
			err = errors.Join(err, failed(exitRunTime, fmt.Errorf("close the broker: %w", cerr)))
		}
	}()
	return runRoles(ctx, cfg, role, how, b, l, notifier, log, begun)
}

// runRoles runs the roles on an open broker until ctx ends or one of them fails, and
// returns when all have ended.
func runRoles(ctx context.Context, cfg config, which broker.Role, how start, b *broker.Broker, l net.Listener, notifier *notify.Notifier, log *slog.Logger, begun func(context.Context) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	tracer, stopTracing, err := tracing.Open(ctx, buildVersion(), instance(cfg), log)
	if err != nil {
		return failed(exitUsage, err)
	}
	defer stopTracing() // when all roles have ended
	open := opener(cfg.LeaseTTL, cfg.ServersAllow.list())
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
	role("store", func(ctx context.Context) error {
		select {
		case <-ctx.Done():
			return nil
		case err := <-b.Lost():
			return err
		}
	})
	report := func(name string, words func() any) {
		role("report of the "+name, broker.Reporter{Broker: b, Role: name, Instance: instance(cfg), Version: buildVersion(), Words: words, Log: log}.Run)
	}
	var sources control.Producers
	var targets control.Consumers
	if which == broker.All || which == broker.Producer {
		p := producer.New(producer.Config{Broker: b, Open: open, Poll: cfg.Poll, Instance: instance(cfg), Only: cfg.sources(), LeaseTTL: cfg.LeaseTTL, Tracer: tracer, Log: log})
		sources = p
		role("producer", p.Run)
		report(broker.RoleNameProducer, func() any { return p.Report() })
	}
	if which == broker.All || which == broker.Consumer {
		c := consumer.New(consumer.Config{Broker: b, Open: open, Instance: instance(cfg), Lease: leaseTimes(cfg.LeaseTTL), Lanes: cfg.Lanes, Tracer: tracer, Log: log})
		targets = c
		role("consumer", c.Run)
		report(broker.RoleNameConsumer, func() any { return c.Report() })
	}
	if which == broker.All || which == broker.Control {
		role("upkeep of durable consumers", consumer.NewDurables(b, log).Run)
		reports := control.NewReports(b, log)
		role("watch of other processes", reports.Run)
		if !b.Exclusive() { // others may do what this process does not
			sources, targets = reports.Producers(), reports.Consumers()
		}
		var notifications control.Notifications
		if notifier != nil {
			notifications = notifier
		}
		var cert *control.Certificate
		if cfg.APICert != "" {
			var err error
			if cert, err = control.LoadCertificate(cfg.APICert, cfg.APIKey, log); err != nil {
				cancel(failed(exitUsage, err))
			}
		}
		var provider *control.OIDC
		if cfg.OIDCFile != "" {
			var err error
			if provider, err = control.LoadOIDC(cfg.OIDCFile); err != nil {
				cancel(failed(exitUsage, err))
			}
		}
		api, err := control.New(control.Config{Certificate: cert, OIDC: provider, Broker: b, Sources: sources, Targets: targets, Fleet: reports, Instance: instance(cfg), Open: open,
			Supported: visualcron.Supported, Data: cfg.Data, Addr: cfg.APIAddr, Version: buildVersion(), Notifications: notifications, Log: log})
		if err == nil {
			err = api.CheckDoor(ctx)
		}
		if err != nil {
			cancel(failed(environmentCode(err), err))
		} else {
			if err := api.OfferFirstAdmin(ctx, cfg.Data, how.offerAdmin); err != nil && ctx.Err() == nil {
				log.ErrorContext(ctx, "the one-time token of the first admin cannot be offered", "error", err) // the rest goes on
			}
			if notifier != nil {
				role("notifications", func(ctx context.Context) error { return notifier.Run(ctx, api.Status) })
			}
			role("API", func(ctx context.Context) error { return api.Serve(ctx, l) })
		}
	}
	if ctx.Err() == nil {
		if err := begun(ctx); err != nil && ctx.Err() == nil {
			cancel(err)
		}
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

// sources returns the servers that this process may capture, nil for all.
func (c config) sources() (out []schemas.Slug) {
	for s := range strings.SplitSeq(c.Sources, ",") {
		if s = strings.TrimSpace(s); s != "" {
			out = append(out, schemas.Slug(s))
		}
	}
	return out
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
func opener(ttl time.Duration, reach visualcron.Reach) func(schemas.Server, string) (visualcron.Connector, error) {
	lease := leaseTimes(ttl)
	timeout := min(10*time.Second, lease.TTL-lease.Margin-lease.TTL/5)
	return func(s schemas.Server, password string) (visualcron.Connector, error) {
		if s.Connector != "bridge" {
			return nil, fmt.Errorf("server %s: connector %.32q is not there in this version; want bridge", s.ID, s.Connector)
		}
		return bridge.New(visualcron.Config{Server: s.ID, Reach: reach, Pins: s.Pins, Address: s.Address, User: s.User, Password: password, RequestTimeout: timeout}, bridge.WithIdentity(s.Identity))
	}
}
