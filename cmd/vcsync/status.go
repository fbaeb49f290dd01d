package main

import (
	"fmt"
	"net/http"
	"strings"

	"github.com/spf13/cobra"

	"github.com/vcsync/vcsync/control"
)

func newStatusCommand(a *app) *cobra.Command {
	return &cobra.Command{Use: "status", Short: "How sources, targets, sync settings and the store do", Args: none, RunE: func(cmd *cobra.Command, _ []string) error {
		api, err := a.client()
		if err != nil {
			return err
		}
		var r control.StatusReport
		raw, _, err := api.call(cmd.Context(), http.MethodGet, apiPath("status"), nil, nil, &r)
		if err != nil {
			return err
		}
		return a.show(raw, func() error { return a.printStatus(r) })
	}}
}

func (a *app) printStatus(r control.StatusReport) error {
	store := "ready"
	if !r.Store.Ready {
		store = "NOT READY: " + clean(r.Store.Reason)
	}
	fmt.Fprintf(a.out, "vcsync %s; store %s, %d events, %.1f of %.0f MiB\n", clean(r.Version), store, r.Store.Events,
		float64(r.Store.Bytes)/(1<<20), float64(r.Store.MaxBytes)/(1<<20))
	for _, f := range r.Faulty {
		fmt.Fprintf(a.out, "record %s is not understood: %s\n", clean(f.Record), clean(f.Reason))
	}
	fmt.Fprintln(a.out)
	t := newTable("SOURCE", "STATE", "HINTS", "OBJECTS", "EVENTS", "LAST COMPLETE LISTING", "REASON")
	for _, s := range r.Sources {
		if len(s.Types) == 0 {
			t.add(s.Server, s.State, yesNo(s.Feed), "-", "-", "-", dash(shorten(s.Reason, 120)))
		}
		for i, v := range s.Types {
			var notes []string
			if i == 0 && s.Reason != "" {
				notes = append(notes, shorten(s.Reason, 120))
			}
			if v.Held > 0 {
				notes = append(notes, fmt.Sprintf("%d deletions wait", v.Held))
			}
			if v.Refused > 0 {
				notes = append(notes, fmt.Sprintf("%d not captured: %s", v.Refused, shorten(v.RefusedWhy, 80)))
			}
			t.add(s.Server, s.State, yesNo(s.Feed), objects(v.Objects, v.BuiltIn, v.Type), fmt.Sprint(v.Published), when(v.Complete), dash(strings.Join(notes, "; ")))
		}
	}
	if err := a.section(t, r.Roles.Producer, "No producer runs in this process.", "No sources: none is named by a sync setting."); err != nil {
		return err
	}
	t = newTable("TARGET", "STATE", "WORKING ON", "APPLIED", "EQUAL", "PARKED", "REASON")
	for _, v := range r.Targets {
		t.add(v.Server, v.State, fmt.Sprint(v.Lanes), fmt.Sprint(v.Applied), fmt.Sprint(v.Equal), fmt.Sprint(v.Parked), dash(shorten(v.Reason, 120)))
	}
	if err := a.section(t, r.Roles.Consumer, "No consumer runs in this process.", "No targets: none is named by a sync setting."); err != nil {
		return err
	}
	t = newTable("SETTING", "ACTIVE", "FROM", "TO", "TAKES", "STATE", "PENDING", "PARKED", "LAST RUN", "LAST ERROR")
	for _, v := range r.Settings {
		pending, run := "-", "-"
		if v.Known {
			pending, run = fmt.Sprint(v.Pending), when(v.LastRun)
		}
		t.add(v.Setting, yesNo(v.Active), v.Source, v.Target, dash(strings.Join(v.Takes, ", ")), dash(v.State), pending, fmt.Sprint(v.Parked), run, dash(shorten(v.LastError, 120)))
	}
	return a.section(t, true, "", "No sync settings.")
}

// section prints a table, or why there is none, and a blank line.
func (a *app) section(t *table, here bool, notHere, empty string) error {
	var err error
	switch {
	case len(t.rows) > 1:
		err = t.print(a.out)
	case !here:
		_, err = fmt.Fprintln(a.out, notHere)
	default:
		_, err = fmt.Fprintln(a.out, empty)
	}
	if err == nil {
		_, err = fmt.Fprintln(a.out)
	}
	return err
}

// objects counts what can be synced, and names what never is.
func objects(n, builtIn int, t string) string {
	if builtIn == 0 {
		return fmt.Sprintf("%d %s", n, t)
	}
	return fmt.Sprintf("%d %s (+%d built-in, never synced)", n, t, builtIn)
}
