package main

import (
	"context"
	"fmt"
	"net/http"
	"strings"

	"github.com/spf13/cobra"

	"github.com/vcsync/vcsync/control"
)

// newSafeModeCommand makes the command that shows safe mode, with those that enter and
// leave it.
func newSafeModeCommand(a *app) *cobra.Command {
	c := &cobra.Command{
		Use:   "safe-mode",
		Short: "Whether vcsync deletes nothing and asks before every write",
		Long: `In safe mode nothing is deleted at any target, and nothing else is written there but
the entries of a plan that a person approved (vcsync rebuild, vcsync sync). Capture,
plans and audits go on, and what is equal is put on record.

vcsync enters it by itself where what it remembers may not be true: after a restore, and
where it was started with --accept-loss on a store that is damaged or went backwards,
which any other start refuses. Only a person leaves it.

Exit codes: 0 it is off, or the change was made; 1 it is on, or it is as asked for
already; 2 a reason is missing.`,
		Args: none,
		RunE: func(cmd *cobra.Command, _ []string) error {
			api, err := a.client()
			if err != nil {
				return err
			}
			m, raw, _, err := getSafeMode(cmd.Context(), api)
			if err != nil {
				return err
			}
			err = a.show(raw, func() error {
				_, err := fmt.Fprintln(a.out, safeModeWords(m))
				return err
			})
			if err == nil && m.On {
				err = failed(exitDifferent, fmt.Errorf("vcsync is in safe mode; vcsync rebuild shows what is to be done"))
			}
			return err
		},
	}
	c.AddCommand(newSafeModeSwitch(a, true), newSafeModeSwitch(a, false))
	return c
}

func getSafeMode(ctx context.Context, api *client) (m control.SafeModeRecord, raw []byte, etag string, err error) {
	raw, etag, err = api.call(ctx, http.MethodGet, apiPath("safe-mode"), nil, nil, &m)
	return m, raw, etag, err
}

// safeModeWords says how safe mode stands.
func safeModeWords(m control.SafeModeRecord) string {
	switch {
	case m.On:
		return fmt.Sprintf("SAFE MODE since %s: nothing is deleted, and nothing is written but approved plans. Reason: %s", when(m.Since), clean(dash(m.Why)))
	case m.Since.IsZero():
		return "Safe mode is off."
	}
	return fmt.Sprintf("Safe mode is off since %s: %s", when(m.Since), clean(dash(m.Why)))
}

func newSafeModeSwitch(a *app, on bool) *cobra.Command {
	var reason string
	var dryRun, yes bool
	use, short := "off", "Leave safe mode: changes are written, and deletions done, as the sync settings say"
	if on {
		use, short = "on", "Enter safe mode"
	}
	c := &cobra.Command{Use: use, Short: short, Args: none, RunE: func(cmd *cobra.Command, _ []string) error {
		switch {
		case strings.TrimSpace(reason) == "":
			return usageError("vcsync safe-mode %s: say why with --reason; nothing was changed", use)
		case dryRun && yes:
			return usageError("--dry-run and --yes exclude each other")
		case !on && !dryRun && !yes && !terminal(a.in): // entering it does no harm
			return usageError("nobody can be asked here: repeat it with --yes, or with --dry-run to only look; nothing was changed")
		}
		api, err := a.client()
		if err != nil {
			return err
		}
		m, raw, etag, err := getSafeMode(cmd.Context(), api)
		if err != nil {
			return err
		}
		if !on && m.On && !a.json {
			fmt.Fprintln(a.err, safeModeWords(m))
		}
		if dryRun {
			if m.On == on {
				return a.show(raw, func() error { _, err := fmt.Fprintln(a.out, safeModeWords(m)); return err })
			}
			return failed(exitDifferent, fmt.Errorf("safe mode would be turned %s; nothing was changed (--dry-run)", use))
		}
		if !on && m.On && !yes {
			if err := a.confirm(cmd.Context(), "Leave safe mode, so that what is held is written and deleted as the sync settings say?"); err != nil {
				return err
			}
		}
		header := map[string]string{}
		if !on {
			header["If-Match"] = etag
		}
		raw, _, err = api.call(cmd.Context(), http.MethodPost, apiPath("safe-mode", use), header, control.SafeModeChange{Reason: reason}, &m)
		if err != nil {
			return err
		}
		return a.show(raw, func() error { _, err := fmt.Fprintln(a.out, safeModeWords(m)); return err })
	}}
	c.Flags().StringVar(&reason, "reason", "", "why; it stands in the status and in the audit")
	c.Flags().BoolVar(&dryRun, "dry-run", false, "say what would be changed, and change nothing")
	c.Flags().BoolVarP(&yes, "yes", "y", false, "do not ask")
	return c
}
