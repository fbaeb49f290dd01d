package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/spf13/cobra"

	"github.com/vcsync/vcsync/broker"
	"github.com/vcsync/vcsync/consumer/decide"
	"github.com/vcsync/vcsync/control"
	"github.com/vcsync/vcsync/schemas"
)

// RebuildReport is what a rebuild found and did, for --json.
type RebuildReport struct {
	SafeMode control.SafeModeRecord `json:"safeMode"`
	Settings []RebuildSetting       `json:"settings"`
}

// RebuildSetting is what it found of one active sync setting.
type RebuildSetting struct {
	Setting string `json:"setting"`
	Source  string `json:"source"`
	Target  string `json:"target"`
	// Equal objects need nothing; Adopt says how many of them are put on record as equal.
	Equal int `json:"equal"`
	Adopt int `json:"adopt"`
	// Differ and Add are what would be written: objects that differ, and that the target
	// has not got.
	Differ int `json:"differ"`
	Add    int `json:"add"`
	// Orphans are at the target alone, and nothing is known of them from the source,
	// whether or not vcsync brought them: they stay.
	Orphans int `json:"orphans"`
	// HeldDeletions are vcsync's and gone at the source: no rebuild deletes them. Others
	// wait for something, are held or parked.
	HeldDeletions int `json:"heldDeletions"`
	Others        int `json:"others"`
	// Run is absent where there is no plan, Failed says why. Objects are those of the plan
	// of which there is something to say.
	Run     *control.RunRecord    `json:"run,omitempty"`
	Failed  string                `json:"failed,omitzero"`
	Objects []control.EntryRecord `json:"objects,omitzero"`
}

func newRebuildCommand(a *app) *cobra.Command {
	var plan, apply, yes bool
	c := &cobra.Command{
		Use:   "rebuild",
		Short: "Compare every active setting anew after a loss, and put it right without a deletion",
		Long: `After a lost, damaged or restored store: lists every source and target of the active
sync settings afresh, and says per setting how many objects are equal, differ, are
missing at the target, or are at the target alone.

With --apply vcsync is put into safe mode, where it is not yet; it asks, puts on record
what is equal, and writes what differs. It deletes nothing: objects at the target alone
stay. The end of safe mode is up to a person: vcsync safe-mode off.

Where one setting's target is the source of another, repeat it until nothing is left.

Exit codes: 0 done, or nothing to write; 1 there is something to write, or some of it was
not done; 4 a setting could not be compared.`,
		Example: `  vcsync rebuild
  vcsync rebuild --apply`,
		Args: none,
		RunE: func(cmd *cobra.Command, _ []string) error {
			switch {
			case plan && apply:
				return usageError("--plan and --apply exclude each other")
			case yes && !apply:
				return usageError("--yes goes with --apply")
			case apply && !yes && !terminal(a.in):
				return usageError("nobody can be asked here: repeat it with --yes, or with --plan to only look; nothing was changed")
			}
			api, err := a.client()
			if err != nil {
				return err
			}
			return a.rebuild(cmd.Context(), api, apply, yes)
		},
	}
	c.Flags().BoolVar(&plan, "plan", false, "show what would be done, and change nothing; the default")
	c.Flags().BoolVar(&plan, "dry-run", false, "the same as --plan")
	c.Flags().BoolVar(&apply, "apply", false, "put on record what is equal, and write what differs")
	c.Flags().BoolVarP(&yes, "yes", "y", false, "do not ask")
	return c
}

// rebuild makes one run per active setting, shows what they found, and with apply
// approves them.
func (a *app) rebuild(ctx context.Context, api *client, apply, yes bool) (err error) {
	report := RebuildReport{Settings: []RebuildSetting{}}
	var of items[control.SettingRecord]
	if _, _, err := api.call(ctx, http.MethodGet, apiPath("settings"), nil, nil, &of); err != nil {
		return err
	}
	if report.SafeMode, _, _, err = getSafeMode(ctx, api); err != nil {
		return err
	}
	if apply && !report.SafeMode.On { // before the plans are made: in safe mode no plan deletes
		if _, _, err := api.call(ctx, http.MethodPost, apiPath("safe-mode", "on"), nil, control.SafeModeChange{Reason: "vcsync rebuild --apply"}, &report.SafeMode); err != nil {
			return err
		}
	}
	// Whoever turns away leaves no run behind that nobody wants.
	leave := func() {
		late, cancel := context.WithTimeout(context.WithoutCancel(ctx), 3*time.Second)
		defer cancel()
		for _, r := range report.Settings {
			if r.Run != nil && !r.Run.Over && r.Run.Phase == string(broker.RunShown) {
				_, _, _ = api.call(late, http.MethodPost, apiPath("settings", r.Setting, "run", "drop"), nil, control.DropRun{Run: r.Run.ID}, nil) // else it ends by itself
			}
		}
	}
	for _, v := range of.Items {
		if !v.Active {
			continue
		}
		r := RebuildSetting{Setting: v.ID, Source: v.Source, Target: v.Target}
		in := control.NewRun{DryRun: !apply || v.Mode == schemas.ReportOnly.String()}
		run, rows, err := a.plan(ctx, api, v.ID, in)
		if err != nil && ctx.Err() != nil {
			leave()
			return err
		}
		if r.Objects = rows; err != nil {
			r.Failed = err.Error()
		}
		if run.Plan != nil {
			r.Run = &run
			r.count()
		}
		report.Settings = append(report.Settings, r)
	}
	if !a.json {
		if err := a.printRebuild(report); err != nil {
			leave()
			return failed(exitRunTime, err)
		}
	}
	done := func(err error) error {
		if a.json {
			raw, jerr := json.Marshal(report)
			if jerr == nil {
				jerr = a.show(raw, nil)
			}
			return errors.Join(failed(exitRunTime, jerr), err)
		}
		return err
	}
	changes, broken := report.sums()
	switch {
	case !apply && broken > 0:
		return done(failed(exitRunTime, fmt.Errorf("%s could not be compared; see why above", count(broken, "setting"))))
	case !apply && changes > 0:
		return done(failed(exitDifferent, fmt.Errorf("%s to make; nothing was changed, vcsync rebuild --apply makes them", count(changes, "change"))))
	case !apply:
		return done(nil)
	case changes > 0 && !yes:
		if err := a.confirm(ctx, fmt.Sprintf("Make %s, and delete nothing?", these(changes))); err != nil {
			leave()
			return done(err)
		}
	}
	var errs []error
	for i := range report.Settings {
		r := &report.Settings[i]
		if r.Run == nil || r.Run.Phase != string(broker.RunShown) {
			continue
		}
		if err := a.approveOne(ctx, api, r); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", r.Setting, err))
			if ctx.Err() != nil {
				leave()
				break
			}
		}
	}
	if broken > 0 {
		errs = append(errs, failed(exitRunTime, fmt.Errorf("%s could not be compared; see why above, and run it again", count(broken, "setting"))))
	}
	if errs == nil && !a.json {
		fmt.Fprintln(a.out, "Done. vcsync is still in safe mode: look at vcsync status and vcsync drift, then vcsync safe-mode off --reason '...'.")
	}
	return done(errors.Join(errs...))
}

// approveOne approves the plan of a setting and follows it to its end.
func (a *app) approveOne(ctx context.Context, api *client, r *RebuildSetting) error {
	path := apiPath("settings", r.Setting, "run")
	run := *r.Run
	plan := run.Plan.ID
	_, _, err := api.call(ctx, http.MethodPost, path+"/approve", nil, control.ApproveRun{Plan: plan}, &run)
	if err != nil {
		return err
	}
	run, err = a.toTheEnd(ctx, api, run)
	if r.Run = &run; err != nil {
		return err
	}
	if r.Objects, err = entries(ctx, api, path+"/plan", plan); err != nil {
		return err
	}
	if !a.json {
		fmt.Fprintf(a.out, "\n%s: ", clean(r.Setting))
		if err := a.printResult(run, r.Objects, false); err != nil {
			return failed(exitRunTime, err)
		}
	}
	return runError(run)
}

// count counts the objects of the plan.
func (r *RebuildSetting) count() {
	for _, c := range r.Run.Plan.Counts {
		act, diff := decide.Act(c.Act), broker.Difference(c.Difference)
		switch {
		case act == decide.Add:
			r.Add += c.Objects
		case act == decide.Update:
			r.Differ += c.Objects
		case diff == broker.OnlyTarget && act == decide.Nothing:
			r.Orphans += c.Objects
		case diff == broker.OnlyTarget:
			r.HeldDeletions += c.Objects // orphans among them, see below
		case act == decide.Adopt:
			r.Adopt += c.Objects
			r.Equal += c.Objects
		case act == decide.Nothing && (diff == broker.Equal || diff == broker.Owned):
			r.Equal += c.Objects
		default:
			r.Others += c.Objects
		}
	}
	for _, e := range r.Objects {
		if e.Reason == string(decide.Orphan) {
			r.Orphans++
			r.HeldDeletions--
		}
	}
}

// sums returns how many changes there are to make, and how many settings could not be
// compared. What a deletion would be is none of them.
func (r RebuildReport) sums() (changes, broken int) {
	for _, v := range r.Settings {
		if changes += v.Differ + v.Add; v.Failed != "" {
			broken++
		}
	}
	return changes, broken
}

func (a *app) printRebuild(r RebuildReport) error {
	fmt.Fprintln(a.out, safeModeWords(r.SafeMode))
	if len(r.Settings) == 0 {
		_, err := fmt.Fprintln(a.out, "No active sync settings: nothing to compare. Bring them back with vcsync restore or vcsync apply.")
		return err
	}
	t := newTable("SETTING", "FROM", "TO", "EQUAL", "TO RECORD", "DIFFER", "TO ADD", "ORPHANS", "DELETIONS HELD", "OTHERS", "TROUBLE")
	for _, v := range r.Settings {
		t.add(v.Setting, v.Source, v.Target, fmt.Sprint(v.Equal), fmt.Sprint(v.Adopt), fmt.Sprint(v.Differ), fmt.Sprint(v.Add), fmt.Sprint(v.Orphans),
			fmt.Sprint(v.HeldDeletions), fmt.Sprint(v.Others), dash(shorten(v.Failed, 120)))
	}
	if err := t.print(a.out); err != nil {
		return err
	}
	if slices.ContainsFunc(r.Settings, func(v RebuildSetting) bool { return v.Orphans > 0 }) {
		fmt.Fprintln(a.out, "Orphans are at the target, and nothing is known of them from the source: they stay. vcsync diff SETTING names those that vcsync brought, with --all also the others.")
	}
	if changes, _ := r.sums(); changes > 0 {
		fmt.Fprintln(a.out, "vcsync diff SETTING --fields names the objects, and what differs.")
	}
	return nil
}
