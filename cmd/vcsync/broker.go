package main

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/vcsync/vcsync/broker"
	"github.com/vcsync/vcsync/schemas"
)

func newBrokerCommand(a *app) *cobra.Command {
	var file string
	var acceptLoss bool
	c := &cobra.Command{
		Use:   "broker",
		Short: "Run the broker alone, for producers, consumers and control elsewhere",
		Long: `Runs the broker in the foreground until interrupted: NATS with JetStream, over TLS
1.3, for the keys that "vcsync broker init" made. VCSYNC_KEYS names the folder broker
that init wrote, VCSYNC_DATA that of the store, VCSYNC_NATS_LISTEN the address.

With --config it runs a NATS configuration in place of these, such as that of a
cluster in deploy/nats; VCSYNC_DATA then holds the lock, and the store where the
file names no other place.

SIGHUP makes it read users.conf and the certificates again, or the file.

A store whose files are damaged is refused, unless the broker is of a cluster. To go on
without what is damaged, start this once with --accept-loss, and then control.`,
		Args: none,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := loadConfigOf(true)
			if err != nil {
				return err
			}
			log := newLog(a.err, cfg.LogLevel, cfg.LogFormat)
			slog.SetDefault(log)
			reload := make(chan os.Signal, 1)
			signal.Notify(reload, syscall.SIGHUP)
			defer signal.Stop(reload)
			ready := false
			err = broker.Serve(cmd.Context(), broker.ServeConfig{Dir: cfg.Data, Keys: cmp.Or(cfg.Keys, cfg.Data), Listen: cmp.Or(cfg.NATSListen, defaultNATSListen),
				File: file, AcceptLoss: acceptLoss, Reload: reload, Log: log, Ready: func(address string) error {
					ready = true
					_, err := fmt.Fprintf(a.out, "vcsync %s: the broker is ready at tls://%s\n", buildVersion(), address)
					return err
				}})
			switch {
			case err == nil:
				return nil
			case ready:
				return failed(exitRunTime, err)
			case errors.Is(err, broker.ErrBroker):
				return failed(exitUsage, err)
			}
			return failed(exitEnvironment, err)
		},
	}
	c.Flags().StringVar(&file, "config", "", "NATS configuration to run, such as deploy/nats/node1.conf")
	c.Flags().BoolVar(&acceptLoss, "accept-loss", false, "move damaged streams aside and go on without them")
	c.AddCommand(newBrokerInitCommand(a))
	return c
}

func newBrokerInitCommand(a *app) *cobra.Command {
	var hosts, producers []string
	c := &cobra.Command{
		Use:   "init DIR",
		Short: "Write the keys of a broker and of the roles that use it",
		Long: `Writes to DIR a certificate authority, the broker's certificate, and for each role a
folder with its key, least rights, and the keyring: broker, control, consumer and
producer. Take each folder to where its role runs, and ca.key to a safe place: it is
needed only here.

It keeps what is there, so it may run again to add a host or a producer, or to renew
the certificate; then take the folder broker to the broker and send that SIGHUP.

To keep the passwords and secrets of a vcsync up, put the keyring.json of its data
folder into DIR/control before the first run.`,
		Args: exactly(1, "a folder"),
		RunE: func(_ *cobra.Command, args []string) error {
			o := broker.InitOptions{Hosts: hosts, Producers: map[string][]schemas.Slug{}}
			for _, p := range producers {
				name, list, ok := strings.Cut(p, "=")
				if !ok || name == "" || list == "" {
					return usageError("--producer %.100q: want NAME=SOURCE,..., such as east=production,test", p)
				}
				for s := range strings.SplitSeq(list, ",") {
					slug, err := schemas.ParseSlug(strings.TrimSpace(s))
					if err != nil {
						return usageError("--producer %.100q: %w", p, err)
					}
					o.Producers[name] = append(o.Producers[name], slug)
				}
			}
			steps, err := broker.Init(args[0], o)
			for _, s := range steps {
				if _, perr := fmt.Fprintln(a.out, strings.TrimSpace(fmt.Sprintf("%-8s %s  %s", s.What, s.Path, s.Note))); perr != nil {
					return perr
				}
			}
			if err != nil {
				return failed(exitEnvironment, err)
			}
			_, err = fmt.Fprintf(a.out, `
Start the broker:   VCSYNC_KEYS=%[1]s VCSYNC_DATA=... VCSYNC_NATS_LISTEN=0.0.0.0:4222 vcsync broker
Start each role:    VCSYNC_KEYS=%[2]s VCSYNC_DATA=... VCSYNC_NATS_URL=tls://HOST:4222 vcsync control
                    and so on for consumer and producer, each with its own folder
Keep %[3]s in a safe place: only this command needs it.
`, filepath.Join(args[0], "broker"), filepath.Join(args[0], "control"), filepath.Join(args[0], "ca.key"))
			return err
		},
	}
	c.Flags().StringArrayVar(&hosts, "host", nil, "name or address under which the broker is reached; may be given often (localhost is always there)")
	c.Flags().StringArrayVar(&producers, "producer", nil, "NAME=SOURCE,...: a producer key for these sources only; may be given often (default: one key for all sources)")
	return c
}

// brokerConfig returns how a process of that role opens the store. The keys of an
// external broker are taken where the folder of keys has them.
func brokerConfig(cfg config, role broker.Role, acceptLoss bool, log *slog.Logger) broker.Config {
	keys := cmp.Or(cfg.Keys, cfg.Data)
	out := broker.Config{Dir: cfg.Data, Keys: keys, Role: role, Name: instance(cfg), Listen: cfg.NATSListen, URL: cfg.NATSURL, Creds: cfg.NATSCreds,
		Replicas: cfg.Replicas, EventsMaxBytes: int64(cfg.EventsMaxBytes), AcceptLoss: acceptLoss, Log: log}
	if role == broker.Producer {
		out.Sources = sources(cfg)
	}
	if cfg.NATSURL != "" {
		out.CA = present(filepath.Join(keys, broker.CAFile))
		if cfg.NATSCreds == "" {
			out.Seed = present(filepath.Join(keys, broker.SeedFile))
		}
	}
	return out
}

// sources are those that this process may capture; none means all.
func sources(cfg config) (out []schemas.Slug) {
	for s := range strings.SplitSeq(cfg.Sources, ",") {
		if s = strings.TrimSpace(s); s != "" {
			out = append(out, schemas.Slug(s))
		}
	}
	return out
}

// present returns the path of a file, "" where it is not there.
func present(path string) string {
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		return ""
	}
	return path
}

// instance is the name of this process.
func instance(cfg config) string {
	if cfg.Instance != "" {
		return cfg.Instance
	}
	host, err := os.Hostname()
	if err != nil || host == "" {
		host = "process"
	}
	name := []byte(host)
	for i, b := range name {
		if !instanceName.Match([]byte{b}) {
			name[i] = '-'
		}
	}
	pid := "-" + strconv.Itoa(os.Getpid())
	return string(name[:min(len(name), 64-len(pid))]) + pid
}
