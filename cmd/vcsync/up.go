package main

import (
	"cmp"
	"context"
	"fmt"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/vcsync/vcsync/broker"
)

func newUpCommand(a *app) *cobra.Command {
	var how start
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
			if keys := cmp.Or(cfg.Keys, cfg.Data); cfg.NATSURL != "" && present(filepath.Join(keys, broker.SeedFile)) != "" {
				return usageError("vcsync up: %s holds the key of one role, as vcsync broker init writes it, and this runs all of them: run vcsync control, producer and consumer, each with its own keys", keys)
			}
			return runProcess(cmd.Context(), cfg, broker.All, "vcsync up", how, a.err, func(context.Context) error {
				_, err := fmt.Fprintf(a.out, "vcsync %s is up: status page and API at %s\n", buildVersion(), cfg.apiURL())
				return err
			})
		},
	}
	how.flags(c)
	return c
}
