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
	trouble := newTable("SOURCE", "TYPE", "OBJECTS", "LAST COMPLETE LISTING", "TROUBLE")
	for _, s := range r.Sources {
		t.add(s.Server, s.State, yesNo(s.Feed), objects(s), fmt.Sprint(s.Published), when(s.Complete), dash(shorten(s.Reason, 120)))
		for _, v := range s.Types {
			var notes []string
			if v.Held > 0 {
				notes = append(notes, fmt.Sprintf("%d deletions wait", v.Held))
			}
			if v.Refused > 0 {
				notes = append(notes, fmt.Sprintf("%d not captured: %s", v.Refused, shorten(v.RefusedWhy, 120)))
			}
			if notes != nil {
				trouble.add(s.Server, v.Type, fmt.Sprint(v.Objects), when(v.Complete), strings.Join(notes, "; "))
			}
		}
	}
	if err := a.section(t, r.Roles.Producer, "No producer runs in this process.", "No sources: none is named by a sync setting."); err != nil {
		return err
	}
	if len(trouble.rows) > 1 {
		if err := a.section(trouble, true, "", ""); err != nil {
			return err
		}
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
		t.add(v.Setting, yesNo(v.Active), v.Source, v.Target, dash(takesWords(v.Takes)), dash(v.State), pending, fmt.Sprint(v.Parked), run, dash(shorten(v.LastError, 120)))
	}
	if err := a.section(t, true, "", "No sync settings."); err != nil || len(r.ParkedBy) == 0 {
		return err
	}
	t = newTable("PARKED AT", "REASON", "OBJECTS", "TYPES")
	for _, v := range r.ParkedBy {
		t.add(v.Target, v.Class, fmt.Sprint(v.Count), takesWords(v.Types))
	}
	return a.section(t, true, "", "")
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

// objects counts what can be synced of a source, and says how much never is.
func objects(s control.SourceReport) string {
	var out string
	switch len(s.Types) {
	case 0:
		return "-"
	case 1:
		out = fmt.Sprintf("%d %s", s.Objects, s.Types[0].Type)
	default:
		out = fmt.Sprintf("%d of %d types", s.Objects, len(s.Types))
	}
	if s.BuiltIn > 0 {
		out += fmt.Sprintf(" (+%d built-in, never synced)", s.BuiltIn)
	}
	return out
}
