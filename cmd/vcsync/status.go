package main

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/vcsync/vcsync/broker"
	"github.com/vcsync/vcsync/control"
	"github.com/vcsync/vcsync/schemas"
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
	if r.SafeMode.On {
		fmt.Fprintln(a.out, safeModeWords(r.SafeMode))
	}
	store := "ready"
	if !r.Store.Ready {
		store = "NOT READY: " + clean(r.Store.Reason)
	}
	fmt.Fprintf(a.out, "vcsync %s; store %s, %d events, %.1f of %.0f MiB\n", clean(r.Version), store, r.Store.Events,
		float64(r.Store.Bytes)/(1<<20), float64(r.Store.MaxBytes)/(1<<20))
	for _, f := range r.Faulty {
		fmt.Fprintf(a.out, "record %s is not understood: %s\n", clean(f.Record), clean(f.Reason))
	}
	for _, v := range r.Settings {
		if c := v.Accounting; c != nil && c.Unaccounted > 0 {
			fmt.Fprintf(a.out, "THE ACCOUNTS DO NOT BALANCE: %s captured for setting %s in no account, or in two (G7): %s. See the consumer's log.\n",
				versions(c.Unaccounted), clean(v.Setting), clean(strings.Join(c.Objects, ", ")))
		}
	}
	for _, p := range r.Processes {
		if p.Twice {
			fmt.Fprintf(a.out, "TWO PROCESSES HAVE ONE NAME: %s %s; one needs another VCSYNC_INSTANCE.\n", clean(p.Role), clean(p.Instance))
		}
		if p.Cut {
			fmt.Fprintf(a.out, "%s %s has more to say than a report takes: its sources and targets are missing here.\n", clean(p.Role), clean(p.Instance))
		}
	}
	fmt.Fprintln(a.out)
	t := newTable("PROCESS", "INSTANCE", "HOST", "STATE", "MEMORY", "HOLDS")
	for _, p := range r.Processes {
		state := p.State
		if p.State != "alive" {
			state = fmt.Sprintf("%s for %ds", p.State, p.Silent)
		}
		holds := append(slices.Clone(p.Sources), p.Targets...)
		t.add(p.Role, shorten(p.Instance, 20), shorten(p.Host, 14), state, fmt.Sprintf("%.0f MiB", float64(p.Memory)/(1<<20)), dash(some(holds, 16)))
	}
	if len(r.Processes) > 1 {
		if err := a.section(t, true, "", ""); err != nil {
			return err
		}
	}
	t = newTable("SOURCE", "STATE", "HINTS", "OBJECTS", "EVENTS", "LAST COMPLETE LISTING", "REASON")
	trouble := newTable("SOURCE", "TYPE", "OBJECTS", "LAST COMPLETE LISTING", "TROUBLE")
	for _, s := range r.Sources {
		t.add(s.Server, s.State, yesNo(s.Feed), objects(s), fmt.Sprint(s.Published), when(s.Complete), dash(shorten(s.Reason, 120)))
		for _, v := range s.Types {
			var notes []string
			if v.Held > 0 {
				notes = append(notes, fmt.Sprintf("%s %s: vcsync airlock show %s", count(v.Held, "deletion"), map[bool]string{true: "waits", false: "wait"}[v.Held == 1], v.Batch))
			}
			if v.Approved > 0 {
				notes = append(notes, fmt.Sprintf("%s approved, to go out once %s is listed and the listing believed: vcsync airlock list", count(v.Approved, "deletion"), v.Type))
			}
			if v.Refused > 0 {
				notes = append(notes, fmt.Sprintf("%d not captured: %s", v.Refused, shorten(v.RefusedWhy, 120)))
			}
			if notes != nil {
				trouble.add(s.Server, v.Type, fmt.Sprint(v.Objects), when(v.Complete), strings.Join(notes, "; "))
			}
		}
	}
	if err := a.section(t, r.Roles.Producer, "No producer is known here.", "No sources: none is named by a sync setting."); err != nil {
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
	if err := a.section(t, r.Roles.Consumer, "No consumer is known here.", "No targets: none is named by a sync setting."); err != nil {
		return err
	}
	t = newTable("SETTING", "ACTIVE", "FROM", "TO", "TAKES", "STATE", "PENDING", "PARKED", "LAST RUN", "LAST ERROR")
	for _, v := range r.Settings {
		pending, run := "-", "-"
		if v.Known {
			pending = fmt.Sprint(v.Pending)
		}
		if v.Known || !v.LastRun.IsZero() {
			run = when(v.LastRun)
		}
		t.add(v.Setting, yesNo(v.Active), v.Source, v.Target, dash(takesWords(v.Takes)), dash(v.State), pending, fmt.Sprint(v.Parked), run, dash(shorten(v.LastError, 120)))
	}
	if err := a.section(t, true, "", "No sync settings."); err != nil {
		return err
	}
	t = newTable("AUDIT OF", "MODE", "EQUAL", "DIFFERENT", "HELD", "LAST AUDIT", "TROUBLE")
	runs := newTable("SYNC NOW OF", "PHASE", "ASKED", "REASON")
	for _, v := range r.Settings {
		if d := v.Drift; d != nil {
			trouble := dash(shorten(d.Failed, 120))
			if d.Failed == "" && d.Outdated {
				trouble = "of before the setting was changed"
			}
			t.add(v.Setting, v.Mode, fmt.Sprint(d.Equal), fmt.Sprint(d.Differs), fmt.Sprint(d.Held), when(d.Began), trouble)
		}
		if n := v.Run; n != nil && (!n.Over || n.Phase == string(broker.RunFailed)) {
			runs.add(v.Setting, n.Phase, when(n.Asked), dash(shorten(n.Reason, 120)))
		}
	}
	for _, t := range []*table{t, runs} {
		if len(t.rows) > 1 {
			if err := a.section(t, true, "", ""); err != nil {
				return err
			}
		}
	}
	t = newTable("SETTING", "NOTE")
	for _, v := range r.Settings {
		for _, note := range settingNotes(v, r.Time.Add(-turnBackTakes)) {
			t.add(v.Setting, note)
		}
	}
	if len(t.rows) > 1 {
		if err := a.section(t, true, "", ""); err != nil {
			return err
		}
	}
	t = newTable("ACCOUNT OF", "CAPTURED", "APPLIED", "SUPERSEDED", "FILTERED", "PARKED", "HELD", "PENDING", "LOST")
	for _, v := range r.Settings {
		if c := v.Accounting; c != nil {
			row := []string{shorten(v.Setting, 20)}
			for _, n := range []uint64{c.Captured, c.Applied, c.Superseded, c.Filtered, c.Parked, c.Held, c.Pending, c.Unaccounted} {
				row = append(row, fmt.Sprint(n))
			}
			t.add(row...)
		}
	}
	if len(t.rows) > 1 {
		if err := a.section(t, true, "", ""); err != nil {
			return err
		}
	}
	if len(r.ParkedBy) == 0 {
		return nil
	}
	t = newTable("PARKED AT", "REASON", "OBJECTS", "TYPES")
	for _, v := range r.ParkedBy {
		t.add(v.Target, v.Class, fmt.Sprint(v.Count), takesWords(v.Types))
	}
	return a.section(t, true, "", "")
}

// turnBackTakes is how long a setting whose time is over may take to turn back before
// that is said.
const turnBackTakes = time.Minute

// settingNotes says of a setting what its row has no place for.
func settingNotes(v control.SettingReport, now time.Time) []string {
	var out []string
	if w := v.Window; w != nil && v.Active {
		note := "its sync windows are open at any time"
		switch {
		case w.Open && !w.Changes.IsZero():
			note = "its sync window is open until " + when(w.Changes)
		case !w.Open && !w.Changes.IsZero():
			note = "waits for its sync window, which opens at " + when(w.Changes)
		case !w.Open:
			note = "its sync windows do not open in the next years: it writes nothing"
		}
		if v.Waiting == 1 {
			note += "; 1 object waits"
		} else if v.Waiting > 0 {
			note += fmt.Sprintf("; %d objects wait", v.Waiting)
		}
		out = append(out, note)
	}
	if v.Unlisted != "" {
		out = append(out, shorten(v.Unlisted, 400))
	}
	if w := heldWords(v); w != "" {
		out = append(out, w)
	}
	if v.DeletesHeld > 0 {
		out = append(out, fmt.Sprintf("%s %s at %s: vcsync airlock list", count(v.DeletesHeld, "deletion"), map[bool]string{true: "waits", false: "wait"}[v.DeletesHeld == 1], v.Target))
	}
	if v.InGrace > 0 {
		out = append(out, fmt.Sprintf("%s %s gone at %s and only switched off so far: vcsync drift %s", count(v.InGrace, "job"), map[bool]string{true: "is", false: "are"}[v.InGrace == 1], v.Source, v.Setting))
	}
	if v.Orphans > 0 {
		out = append(out, fmt.Sprintf("%d orphans, which nobody deletes: %s: vcsync drift %s", v.Orphans, shorten(strings.Join(v.OrphanNames, ", "), 200), v.Setting))
	}
	state := "off"
	if v.Active {
		state = "on"
	}
	if !v.Until.IsZero() && v.Until.Before(now) {
		out = append(out, fmt.Sprintf("%s until %s, which is over, and it could not be turned back: see the log of control%s", state, when(v.Until), because(v.Reason)))
	} else if !v.Until.IsZero() {
		out = append(out, fmt.Sprintf("%s until %s%s", state, when(v.Until), because(v.Reason)))
	} else if v.Reason != "" {
		out = append(out, state+because(v.Reason))
	}
	if c := v.Accounting; c != nil && c.Left > 0 {
		out = append(out, fmt.Sprintf("%d brought to the target before and not taken any more, left alone there: %s", c.Left, shorten(strings.Join(c.LeftObjects, ", "), 200)))
	}
	return out
}

// heldWords says what a setting keeps back for a person, and the command for it.
func heldWords(v control.SettingReport) string {
	if v.Drift == nil || v.Drift.Held == 0 {
		return ""
	}
	n := fmt.Sprintf("%d objects are", v.Drift.Held)
	if v.Drift.Held == 1 {
		n = "1 object is"
	}
	switch v.Mode {
	case schemas.Approve.String():
		return fmt.Sprintf("%s held for an approval: vcsync sync %s", n, v.Setting)
	case schemas.ReportOnly.String():
		return fmt.Sprintf("%s only reported: vcsync drift %s", n, v.Setting)
	}
	return fmt.Sprintf("%s held: vcsync drift %s says why", n, v.Setting)
}

func because(reason string) string {
	if reason == "" {
		return ""
	}
	return ": " + shorten(reason, 120)
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

// some names the first of many, in about so many columns.
func some(names []string, columns int) string {
	var out string
	for i, n := range names {
		if i > 0 && len(out)+len(n)+2 > columns {
			return fmt.Sprintf("%s and %d more", out, len(names)-i)
		}
		if i > 0 {
			out += ", "
		}
		out += n
	}
	return out
}

func versions(n uint64) string {
	if n == 1 {
		return "1 version"
	}
	return fmt.Sprintf("%d versions", n)
}
