package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/spf13/cobra"

	"github.com/vcsync/vcsync/control"
	"github.com/vcsync/vcsync/schemas"
)

func newSettingMatch(a *app) *cobra.Command {
	var types []string
	var yes, dryRun bool
	c := &cobra.Command{
		Use:   "match NAME",
		Short: "Pin objects of both servers to each other by name, once",
		Long: `Reads both servers and pairs, by name, objects that have no partner by their id. Each
pair becomes a pin: the object of the source is written to that object of the target,
and references to it are rewritten. A name that more than one object of a server has is
listed and left to you: add --pin Type/ID=OTHER with setting edit.

Variables and server settings are the same by their name and need no pins.

Exit codes: 0 done, or nothing to pin; 1 refused; with --dry-run: there is something to
pin; 2 no such setting.`,
		Example: `  vcsync setting match prod-to-test
  vcsync setting match prod-to-test --type Credential --type Connection --yes`,
		Args: exactly(1, "the setting's name"),
		RunE: func(cmd *cobra.Command, args []string) error {
			for _, t := range types {
				if _, err := schemas.ParseType(t); err != nil {
					return usageError("--type: %w", err)
				}
			}
			api, err := a.client()
			if err != nil {
				return err
			}
			var found control.MatchRecord
			raw, etag, err := api.call(cmd.Context(), http.MethodPost, apiPath("settings", args[0], "match"), nil, control.MatchTypes{Types: types}, &found)
			if err != nil {
				return err
			}
			if !a.json {
				if err := a.printMatch(found); err != nil {
					return failed(exitRunTime, err)
				}
			}
			done := ""
			switch {
			case len(found.Pins) == 0:
				done = "No new pins."
			case dryRun:
				done = fmt.Sprintf("%s found.", count(len(found.Pins), "new pin"))
			default:
				if !yes {
					if err := a.confirm(cmd.Context(), fmt.Sprintf("Pin %s?", count(len(found.Pins), "object"))); err != nil {
						return err
					}
				}
				var have control.SettingRecord
				if _, _, err := api.call(cmd.Context(), http.MethodGet, apiPath("settings", args[0]), nil, nil, &have); err != nil {
					return err
				}
				body := have.SettingBody
				body.Pins = append(body.Pins, found.Pins...)
				// The setting that was matched: another change meanwhile is refused.
				if _, _, err := api.call(cmd.Context(), http.MethodPut, apiPath("settings", args[0]), map[string]string{"If-Match": etag}, body, nil); err != nil {
					return err
				}
				done = fmt.Sprintf("Sync setting %s has %s.", have.ID, count(len(found.Pins), "new pin"))
			}
			var would error
			if dryRun && len(found.Pins) > 0 {
				would = failed(exitDifferent, fmt.Errorf("%s to set; nothing was changed (--dry-run)", count(len(found.Pins), "new pin")))
			}
			return errors.Join(a.show(raw, func() error {
				if n := len(found.Ambiguous); n > 0 {
					done += fmt.Sprintf(" %s left to you: vcsync setting edit %s --pin Type/ID=OTHER", count(n, "name"), clean(args[0]))
				}
				_, err := fmt.Fprintln(a.out, strings.TrimSpace(done))
				return err
			}), would)
		},
	}
	f := c.Flags()
	f.StringArrayVar(&types, "type", nil, "type that is matched; may be repeated; all that the setting takes where it is not given")
	f.BoolVar(&dryRun, "dry-run", false, "show what would be pinned, and change nothing")
	f.BoolVarP(&yes, "yes", "y", false, "do not ask")
	return c
}

func (a *app) printMatch(m control.MatchRecord) error {
	if len(m.Pins) > 0 {
		t := newTable("TYPE", "NAME", "AT THE SOURCE", "AT THE TARGET")
		for _, p := range m.Pins {
			t.add(p.Type, dash(shorten(p.Name, 60)), p.Source, p.Target)
		}
		if err := t.print(a.out); err != nil {
			return err
		}
		fmt.Fprintln(a.out)
	}
	if len(m.Ambiguous) == 0 {
		return nil
	}
	t := newTable("AMBIGUOUS", "NAME", "SERVER", "ID", "GROUP")
	for _, x := range m.Ambiguous {
		for _, o := range x.Source {
			t.add(x.Type, dash(shorten(o.Name, 60)), "source", o.ID, dash(o.Group))
		}
		for _, o := range x.Target {
			t.add(x.Type, dash(shorten(o.Name, 60)), "target", o.ID, dash(o.Group))
		}
	}
	if err := t.print(a.out); err != nil {
		return err
	}
	fmt.Fprintln(a.out)
	return nil
}

// showFlagged says which objects would speak to a server of the fleet from the target.
func (a *app) showFlagged(ctx context.Context, api *client, setting string) error {
	var out items[control.FlaggedRecord]
	if _, _, err := api.call(ctx, http.MethodGet, apiPath("settings", setting, "flagged"), nil, nil, &out); err != nil {
		return err
	}
	if len(out.Items) == 0 {
		return nil
	}
	fmt.Fprintln(a.out)
	t := newTable("WARNING", "OBJECT", "POINTS AT")
	for _, x := range out.Items {
		t.add("points at a server of the fleet", strings.TrimSpace(x.Type+" "+shorten(x.Name, 60)), fmt.Sprintf("%s (%s of server %s)", x.Place, x.Host, x.Server))
	}
	if err := t.print(a.out); err != nil {
		return err
	}
	_, err := fmt.Fprintf(a.out, "From the target they would still speak to these servers: keep the field there (--keep 'Connection=/Address') or override it.\n")
	return err
}
