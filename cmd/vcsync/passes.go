package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/spf13/cobra"

	"github.com/vcsync/vcsync/broker"
	"github.com/vcsync/vcsync/consumer/decide"
	"github.com/vcsync/vcsync/control"
	"github.com/vcsync/vcsync/schemas"
)

func newPassCommand(a *app) *cobra.Command {
	c := group("pass", "What was written to targets, pass by pass", newPassList(a), newPassShow(a))
	c.Long = `A pass is what was written to a target in one go: by a Sync now, an undo or a revert, or
by an active sync setting until it wrote nothing for 30 seconds, at most 15 minutes. What
was there before each write is kept for 30 days, and as long as there is room. vcsync undo
puts it back.`
	return c
}

func newPassList(a *app) *cobra.Command {
	var target, since string
	c := &cobra.Command{Use: "list", Short: "List the passes, newest first", Args: none,
		Example: `  vcsync pass list --target test --since 2h`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			q := url.Values{}
			if target != "" {
				if _, err := schemas.ParseSlug(target); err != nil {
					return usageError("--target: %w", err)
				}
				q.Set("target", target)
			}
			d, err := time.ParseDuration(since)
			if err != nil || d <= 0 {
				return usageError("--since %q: want a duration, such as 2h or 90m", since)
			}
			q.Set("since", time.Now().Add(-d).UTC().Format(time.RFC3339))
			api, err := a.client()
			if err != nil {
				return err
			}
			var out items[control.PassRecord]
			raw, _, err := api.call(cmd.Context(), http.MethodGet, apiPath("passes")+"?"+q.Encode(), nil, nil, &out)
			if err != nil {
				return err
			}
			return a.show(raw, func() error {
				if len(out.Items) == 0 {
					_, err := fmt.Fprintf(a.out, "Nothing was written in the last %s.\n", since)
					return err
				}
				t := newTable("PASS", "TARGET", "SETTING", "BEGAN", "BY", "ADDED", "UPDATED", "DELETED", "WHAT")
				for _, p := range out.Items {
					t.add(p.Pass, p.Target, dash(p.Setting), when(p.Began), cmp.Or(p.By, "vcsync"), fmt.Sprint(p.Acts["add"]), fmt.Sprint(p.Acts["update"]), fmt.Sprint(p.Acts["delete"]), passWhat(p))
				}
				return t.print(a.out)
			})
		}}
	c.Flags().StringVar(&target, "target", "", "only at this server")
	c.Flags().StringVar(&since, "since", "24h", "only passes that ended within this time")
	return c
}

func passWhat(p control.PassRecord) string {
	switch {
	case p.Undoes != "":
		return "undo of " + p.Undoes
	case p.Reverts != "":
		return "version " + p.Reverts
	case p.By != "":
		return "an approved plan"
	}
	return "live"
}

func newPassShow(a *app) *cobra.Command {
	return &cobra.Command{Use: "show PASS", Short: "Show a pass with its objects", Args: exactly(1, "a pass, as vcsync pass list names it"), RunE: func(cmd *cobra.Command, args []string) error {
		api, err := a.client()
		if err != nil {
			return err
		}
		var p control.PassDetail
		raw, _, err := api.call(cmd.Context(), http.MethodGet, apiPath("passes", args[0]), nil, nil, &p)
		if err != nil {
			return err
		}
		return a.show(raw, func() error {
			fmt.Fprintf(a.out, "%s at %s: %s, by %s, %s to %s\n", clean(p.Pass), clean(p.Target), clean(passWhat(p.PassRecord)), clean(cmp.Or(p.By, "vcsync")), when(p.Began), when(p.Ended))
			if p.Setting != "" {
				fmt.Fprintf(a.out, "Sync setting %s, from %s: %d added, %d updated, %d deleted\n", clean(p.Setting), clean(strings.Join(p.Sources, ", ")), p.Acts["add"], p.Acts["update"], p.Acts["delete"])
			}
			t := newTable("ACT", "OBJECT", "NAME", "VERSION", "AT")
			for _, o := range p.Objects {
				t.add(o.Act, o.Type+"/"+shorten(o.ID, 64), dash(shorten(o.Name, 60)), dash(o.Version), when(o.At))
			}
			if err := t.print(a.out); err != nil {
				return err
			}
			_, err := fmt.Fprintf(a.out, "\nUndo it: vcsync undo %s\n", clean(p.Pass))
			if i := slices.IndexFunc(p.Objects, func(o control.PassObject) bool { return o.Act == string(decide.Delete) }); i >= 0 && err == nil {
				_, err = fmt.Fprintf(a.out, "Bring one deleted object back: vcsync undo %s --object %s/%s\n", clean(p.Pass), p.Objects[i].Type, clean(p.Objects[i].ID))
			}
			return err
		})
	}}
}

// actFlags are what undo and revert share.
type actFlags struct{ dryRun, yes, all bool }

func (f *actFlags) register(c *cobra.Command) {
	c.Flags().BoolVar(&f.dryRun, "dry-run", false, "show the plan, and change nothing")
	c.Flags().BoolVarP(&f.yes, "yes", "y", false, "do not ask")
	c.Flags().BoolVar(&f.all, "all", false, "show every object, however many there are")
}

func (f *actFlags) check(a *app) error {
	switch {
	case f.dryRun && f.yes:
		return usageError("--dry-run and --yes exclude each other")
	case !f.dryRun && !f.yes && !terminal(a.in):
		return usageError("nobody can be asked here: repeat it with --yes, or with --dry-run to only look; nothing was changed")
	}
	return nil
}

func newUndoCommand(a *app) *cobra.Command {
	var f actFlags
	var objects []string
	var drop string
	c := &cobra.Command{
		Use:   "undo PASS",
		Short: "Undo what a pass wrote to its target",
		Long: `Shows a plan, asks, and does it: what the pass created at its target is deleted, what it
changed is put back as it was, and what it deleted is created again with its id. Run
statistics stay the target's own. What somebody changed there since, and what other
objects there still use, is left as it is, and said.

Every object of it is then paused at that target: no event, comparison or audit changes it
until a person resumes it with vcsync parked retry. An undo is a pass too: undo it, and
all is as it was before, with no object paused because of it.

With --object it brings single objects back, such as one that a pass deleted.

Exit codes: 0 done, or nothing to do; 1 some of it was left, with --dry-run: there is
something to do; 2 no such pass or object; 4 it failed, or another run is under way.`,
		Example: `  vcsync undo 9fQ2kZ... --dry-run
  vcsync undo 9fQ2kZ... --object Job/3f2c1a50-... --yes`,
		Args: func(cmd *cobra.Command, args []string) error {
			if drop == "" && len(args) != 1 || drop != "" && len(args) != 0 {
				return usageError("vcsync undo takes a pass, as vcsync pass list names it; or --drop SERVER alone")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			if drop != "" {
				if f != (actFlags{}) || len(objects) > 0 {
					return usageError("--drop goes alone: it ends the run at a server that is under way")
				}
				return a.dropAct(cmd.Context(), drop)
			}
			in := control.UndoPass{DryRun: f.dryRun}
			for _, text := range objects {
				t, id, err := objectArg(text)
				if err != nil {
					return fmt.Errorf("--object: %w", err)
				}
				in.Objects = append(in.Objects, control.ObjectRef{Type: string(t), ID: string(id)})
			}
			if err := f.check(a); err != nil {
				return err
			}
			return a.actAt(cmd.Context(), apiPath("passes", args[0], "undo"), in, f)
		},
	}
	f.register(c)
	c.Flags().StringArrayVar(&objects, "object", nil, "only this object, as TYPE/ID with its id at the target; may be repeated")
	c.Flags().StringVar(&drop, "drop", "", "end the run at this server that is under way")
	return c
}

func newRevertCommand(a *app) *cobra.Command {
	var f actFlags
	in := control.RevertObject{}
	c := &cobra.Command{
		Use:   "revert TYPE/ID --to VERSION",
		Short: "Bring an older version of an object back",
		Long: `Brings an older version of an object back as a new change. Without --at it is written to
the object's source, where it is captured as any edit and goes to every target that takes
it. With --at it is written to one target, made for it as the sync setting says, and
paused there until a person resumes it with vcsync parked retry.

What the version refers to has to be there; where it is not, that is said and nothing is
done, unless --force is given. vcsync history shows the versions.

Exit codes: 0 done, or nothing to do; 1 it was left, with --dry-run: there is something to
do; 2 no such object or version; 4 it failed, or another run is under way.`,
		Example: `  vcsync revert Job/3f2c1a50-... --to 1.41 --dry-run
  vcsync revert Job/3f2c1a50-... --to 1.41 --at test`,
		Args: exactly(1, "an object as TYPE/ID, with its id at the source"),
		RunE: func(cmd *cobra.Command, args []string) error {
			t, id, err := objectArg(args[0])
			if err != nil {
				return err
			}
			if !isVersion(in.Version) {
				return usageError("--to %q: want a version, such as 1.42 or 42; vcsync history %s shows them", in.Version, args[0])
			}
			for name, v := range map[string]string{"--source": in.Source, "--at": in.At} {
				if v != "" {
					if _, err := schemas.ParseSlug(v); err != nil {
						return usageError("%s: %w", name, err)
					}
				}
			}
			if err := f.check(a); err != nil {
				return err
			}
			in.DryRun = f.dryRun
			return a.actAt(cmd.Context(), apiPath("history", string(t), string(id.Token()), "revert"), in, f)
		},
	}
	f.register(c)
	c.Flags().StringVar(&in.Version, "to", "", "the version")
	c.Flags().StringVar(&in.At, "at", "", "only at this target; at the source where absent")
	c.Flags().StringVar(&in.Source, "source", "", "the source, where several have such an object")
	c.Flags().BoolVar(&in.Force, "force", false, "also where it refers to what is not there")
	return c
}

// dropAct ends the run at a server that is under way.
func (a *app) dropAct(ctx context.Context, server string) error {
	api, err := a.client()
	if err != nil {
		return err
	}
	var r control.RunRecord
	if _, _, err := api.call(ctx, http.MethodGet, apiPath("servers", server, "run"), nil, nil, &r); err != nil {
		return err
	}
	raw, _, err := api.call(ctx, http.MethodPost, apiPath("servers", server, "run", "drop"), nil, control.DropRun{Run: r.ID}, nil)
	if err != nil {
		return err
	}
	return a.show(raw, func() error {
		_, err := fmt.Fprintf(a.out, "The run at %s is dropped. What was done already stays as it is.\n", clean(server))
		return err
	})
}

// actAt asks for a run at a server, shows its plan, asks, and follows it to its end.
func (a *app) actAt(ctx context.Context, path string, in any, f actFlags) error {
	api, err := a.client()
	if err != nil {
		return err
	}
	var run control.RunRecord
	if _, _, err := api.call(ctx, http.MethodPost, path, nil, in, &run); err != nil {
		if isStatus(err, http.StatusConflict) {
			err = failed(exitRunTime, err)
		}
		return err
	}
	leave := func(err error) error { // whoever turns away leaves no run behind that nobody wants
		if run.Over {
			return err
		}
		late, cancel := context.WithTimeout(context.WithoutCancel(ctx), 3*time.Second)
		defer cancel()
		_, _, derr := api.call(late, http.MethodPost, runPath(run)+"/drop", nil, control.DropRun{Run: run.ID}, &run)
		if isStatus(derr, http.StatusConflict) {
			derr = nil
		}
		return errors.Join(err, derr)
	}
	bar := a.progress()
	err = follow(ctx, api, runPath(run), run.ID, func(r control.RunRecord) bool {
		run = r
		if !r.Over && r.Waits != "" && r.Phase != string(broker.RunShown) {
			bar.note("waiting for " + r.Waits)
		}
		return r.Over || r.Phase == string(broker.RunShown)
	})
	bar.end()
	if err != nil {
		return leave(err)
	}
	if err := runError(run); err != nil {
		return failed(exitRunTime, err)
	}
	if run.Plan == nil {
		return failed(exitRunTime, errors.New("the run is over and left no plan"))
	}
	report := SyncReport{Run: run}
	if report.Objects, err = entries(ctx, api, runPath(run)+"/plan", run.Plan.ID); err != nil {
		return leave(err)
	}
	show := func() error {
		if !a.json {
			return nil
		}
		raw, err := json.Marshal(report)
		if err != nil {
			return failed(exitRunTime, err)
		}
		return a.show(raw, nil)
	}
	if !a.json {
		if err := a.printPlan(run, report.Objects, f.all); err != nil {
			return leave(failed(exitRunTime, err))
		}
	}
	held := 0
	for _, e := range report.Objects {
		if e.Act == string(decide.Hold) {
			held++
		}
	}
	var left error
	if held > 0 {
		left = failed(exitDifferent, fmt.Errorf("%s left as it is; see why above", count(held, "object")))
	}
	switch {
	case run.Over && run.Plan.Changes == 0:
		return errors.Join(show(), left)
	case f.dryRun:
		return errors.Join(show(), failed(exitDifferent, fmt.Errorf("%s to make; nothing was changed (--dry-run)", count(run.Plan.Changes, "change"))))
	case !f.yes && run.Plan.Changes > 0:
		if err := a.confirm(ctx, fmt.Sprintf("Make %s at %s?", these(run.Plan.Changes), run.Plan.Target)); err != nil {
			return leave(err)
		}
	}
	if _, _, err := api.call(ctx, http.MethodPost, runPath(run)+"/approve", nil, control.ApproveRun{Plan: run.Plan.ID}, &run); err != nil {
		return leave(err)
	}
	if run, err = a.toTheEnd(ctx, api, run); err != nil {
		return err
	}
	report.Run = run
	if report.Objects, err = entries(ctx, api, runPath(run)+"/plan", run.Plan.ID); err != nil {
		return err
	}
	if !a.json {
		if err := a.printResult(run, report.Objects, f.all); err != nil {
			return failed(exitRunTime, err)
		}
		fmt.Fprintf(a.out, "It is pass %s; vcsync undo %s takes it back.\n", clean(run.ID), clean(run.ID))
	}
	return errors.Join(show(), cmp.Or(runError(run), left))
}
