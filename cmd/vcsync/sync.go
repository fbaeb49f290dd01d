package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
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

// runFlags are what sync and diff share.
type runFlags struct {
	types, objects []string
	all, fields    bool
}

func (f *runFlags) register(c *cobra.Command) {
	c.Flags().StringArrayVar(&f.types, "type", nil, "only this type; may be repeated")
	c.Flags().StringArrayVar(&f.objects, "object", nil, "only this object, as TYPE/ID with its id at the source; may be repeated")
	c.Flags().BoolVar(&f.all, "all", false, "show every object, however many there are")
	c.Flags().BoolVar(&f.fields, "fields", false, "show old and new values of what differs, without secrets, long ones cut")
}

// scope reads the flags.
func (f *runFlags) scope() (control.NewRun, error) {
	in := control.NewRun{Fields: f.fields}
	for _, text := range f.types {
		t, err := schemas.ParseType(text)
		if err != nil {
			return in, usageError("--type: %w", err)
		}
		in.Types = append(in.Types, string(t))
	}
	for _, text := range f.objects {
		name, object, ok := strings.Cut(text, "/")
		t, err := schemas.ParseType(name)
		if !ok || err != nil {
			return in, usageError("--object %q: want TYPE/ID, such as Job/3f2c1a50-...", text)
		}
		id, err := schemas.ParseID(object)
		if err != nil {
			return in, usageError("--object %q: %w", text, err)
		}
		in.Objects = append(in.Objects, control.RunObjectRecord{Type: string(t), ID: string(id)})
	}
	return in, nil
}

// SyncReport is what a Sync now did, for --json.
type SyncReport struct {
	Run control.RunRecord `json:"run"`
	// Objects are those of the plan of which there is something to say, with what became
	// of each.
	Objects []control.EntryRecord `json:"objects"`
}

func newSyncCommand(a *app) *cobra.Command {
	var f runFlags
	var dependencies, dryRun, yes, drop bool
	c := &cobra.Command{
		Use:   "sync SETTING",
		Short: "Sync now: show a plan, ask, and do it",
		Long: `Lists the source and the target afresh, shows what would be added, updated and deleted
at the target and why the rest is not, asks, and does exactly that. It works on inactive
sync settings too. What changes meanwhile, at the source or at the target, is left out
and said; where the setting itself is changed, the plan is dropped.

Where another run of the setting only looks, its end is waited for.

Exit codes: 0 done, or nothing to do; 1 some of it was not done, with --dry-run: there is
something to do; 2 no such setting, type or object; 4 it failed, or another run is under
way.`,
		Example: `  vcsync sync prod-to-test --dry-run
  vcsync sync prod-to-test --type Job --yes
  vcsync sync prod-to-test --object Job/3f2c1a50-... --with-dependencies`,
		Args: exactly(1, "a sync setting's name"),
		RunE: func(cmd *cobra.Command, args []string) error {
			in, err := f.scope()
			if err != nil {
				return err
			}
			in.Dependencies, in.DryRun = dependencies, dryRun
			switch {
			case dependencies && len(f.objects) == 0:
				return usageError("--with-dependencies goes with --object: name at least one")
			case drop && (dryRun || yes || len(f.types)+len(f.objects) > 0):
				return usageError("--drop goes alone: it ends the run that is under way")
			case dryRun && yes:
				return usageError("--dry-run and --yes exclude each other")
			case !drop && !dryRun && !yes && !terminal(a.in):
				return usageError("nobody can be asked here: repeat it with --yes, or with --dry-run to only look; nothing was changed")
			}
			api, err := a.client()
			if err != nil {
				return err
			}
			if drop {
				return a.dropRun(cmd.Context(), api, args[0])
			}
			return a.sync(cmd.Context(), api, args[0], in, yes, f.all)
		},
	}
	f.register(c)
	c.Flags().BoolVar(&dependencies, "with-dependencies", false, "also what the named objects refer to, where the target has none")
	c.Flags().BoolVar(&dryRun, "dry-run", false, "show the plan, and change nothing")
	c.Flags().BoolVarP(&yes, "yes", "y", false, "do not ask")
	c.Flags().BoolVar(&drop, "drop", false, "end the run that is under way")
	return c
}

// dropRun ends the run that is under way.
func (a *app) dropRun(ctx context.Context, api *client, setting string) error {
	var r control.RunRecord
	if _, _, err := api.call(ctx, http.MethodGet, apiPath("settings", setting, "run"), nil, nil, &r); err != nil {
		return err
	}
	raw, _, err := api.call(ctx, http.MethodPost, apiPath("settings", setting, "run", "drop"), nil, control.DropRun{Run: r.ID}, nil)
	if err != nil {
		return err
	}
	return a.show(raw, func() error {
		_, err := fmt.Fprintf(a.out, "The run of sync setting %s is dropped: %s. What was %s stays as it is.\n", clean(setting), runWords(r), map[bool]string{true: "done already", false: "there"}[r.Phase == string(broker.RunApplying)])
		return err
	})
}

// runWords says of a run what it is for, who asked for it and when, and how far it is.
func runWords(r control.RunRecord) string {
	what := "of everything that the setting takes"
	switch n, m := len(r.Scope.Types), len(r.Scope.Objects); {
	case n > 0 && m > 0:
		what = fmt.Sprintf("of %s and %s", typeWords(r.Scope.Types), count(m, "object"))
	case n > 0:
		what = "of " + typeWords(r.Scope.Types)
	case m > 0:
		what = "of " + count(m, "object")
	}
	if r.Scope.Replay != nil {
		what += ", a replay"
	}
	if r.DryRun {
		what += ", a dry run"
	}
	return clean(fmt.Sprintf("%s, asked for by %s at %s, in phase %s", what, cmp.Or(r.By, "somebody"), when(r.Asked), r.Phase))
}

// sync asks for a run and follows it to its end.
func (a *app) sync(ctx context.Context, api *client, setting string, in control.NewRun, yes, all bool) error {
	run, rows, err := a.plan(ctx, api, setting, in)
	report := SyncReport{Run: run, Objects: rows}
	path := apiPath("settings", setting, "run")
	// Whoever turns away leaves no run behind that nobody wants.
	leave := func(err error) error {
		if run.Over {
			return err
		}
		late, cancel := context.WithTimeout(context.WithoutCancel(ctx), 3*time.Second)
		defer cancel()
		_, _, derr := api.call(late, http.MethodPost, path+"/drop", nil, control.DropRun{Run: run.ID}, &run)
		if isStatus(derr, http.StatusConflict) {
			derr = nil // it is over, or somebody else's
		}
		report.Run = run
		return errors.Join(err, derr)
	}
	if err != nil && run.Plan == nil {
		return err
	} else if err != nil {
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
		if err := a.printPlan(run, report.Objects, all); err != nil {
			return leave(failed(exitRunTime, err))
		}
	}
	switch {
	case run.Plan.Changes == 0 && run.Over:
		return show()
	case run.Plan.Changes == 0: // what is equal is put on record, and nobody has to be asked for that
	case in.DryRun:
		return errors.Join(show(), failed(exitDifferent, fmt.Errorf("%s to make; nothing was changed (--dry-run)", count(run.Plan.Changes, "change"))))
	case !yes:
		if err := a.confirm(ctx, fmt.Sprintf("Make %s at %s?", these(run.Plan.Changes), run.Plan.Target)); err != nil {
			return leave(err)
		}
	}
	if _, _, err := api.call(ctx, http.MethodPost, path+"/approve", nil, control.ApproveRun{Plan: run.Plan.ID}, &run); err != nil {
		return leave(err)
	}
	if run, err = a.toTheEnd(ctx, api, run); err != nil {
		return err
	}
	report.Run = run
	if report.Objects, err = entries(ctx, api, path+"/plan", run.Plan.ID); err != nil {
		return err
	}
	if !a.json {
		if err := a.printResult(run, report.Objects, all); err != nil {
			return failed(exitRunTime, err)
		}
	}
	return errors.Join(show(), runError(run))
}

// toTheEnd follows a run whose plan was approved.
func (a *app) toTheEnd(ctx context.Context, api *client, run control.RunRecord) (control.RunRecord, error) {
	bar := a.progress()
	err := follow(ctx, api, runPath(run), run.ID, func(r control.RunRecord) bool {
		run = r
		if r.Applied != nil {
			bar.show(r.Applied.Done, r.Applied.Total, doing(r.Applied.Types))
		} else {
			bar.note("waiting for " + r.Waits)
		}
		return r.Over
	})
	bar.end()
	if err != nil {
		if ctx.Err() != nil {
			err = failed(exitRunTime, fmt.Errorf("interrupted; what was approved goes on: see vcsync status, or end it with vcsync %s", dropWords(run)))
		}
	}
	return run, err
}

// these names changes that a person is asked about.
func these(n int) string {
	if n == 1 {
		return "this change"
	}
	return fmt.Sprintf("these %d changes", n)
}

// runError is nil where all that was approved was done.
func runError(run control.RunRecord) error {
	switch broker.RunPhase(run.Phase) {
	case broker.RunFailed:
		return failed(exitRunTime, fmt.Errorf("the run failed: %s", cmp.Or(run.Reason, "no reason is known")))
	case broker.RunDropped:
		return failed(exitDifferent, fmt.Errorf("the run was dropped: %s", cmp.Or(run.Reason, "no reason is known")))
	}
	if run.Applied != nil {
		if left := run.Applied.Total - run.Applied.Outcomes[string(broker.OutcomeDone)]; left > 0 {
			return failed(exitDifferent, fmt.Errorf("%d of %d were not done; see why above, and run it again for what is left", left, run.Applied.Total))
		}
	}
	return nil
}

// errReplaced says that another run took the place of one that is over.
var errReplaced = errors.New("somebody began another run meanwhile; this one is over")

// ask asks for a run. One that only looks is over soon, so its end is waited for; any
// other is in the way.
func (a *app) ask(ctx context.Context, api *client, setting string, in control.NewRun) (run control.RunRecord, err error) {
	bar := a.progress()
	defer bar.end()
	for over := 0; ; {
		_, _, err = api.call(ctx, http.MethodPost, apiPath("settings", setting, "runs"), nil, in, &run)
		if !isStatus(err, http.StatusConflict) {
			return run, err
		}
		var other control.RunRecord
		_, _, gerr := api.call(ctx, http.MethodGet, apiPath("settings", setting, "run"), nil, nil, &other)
		if gerr == nil && other.Over {
			over++ // since, or it is refused for another reason
		}
		switch {
		case gerr == nil && !other.Over && !other.DryRun:
			return run, failed(exitRunTime, fmt.Errorf("%w It is %s", err, runWords(other)))
		case gerr != nil || over > 1:
			return run, failed(exitRunTime, err)
		}
		bar.note("waiting for the end of another dry run")
		select {
		case <-ctx.Done():
			return run, failed(exitRunTime, errors.New("interrupted; nothing was changed"))
		case <-time.After(4 * followEvery): // who asked for it reads it first
		}
	}
}

// plan asks for a run and waits for its plan. Where a dry run was overtaken by another
// run before its plan was read, it is asked for again.
func (a *app) plan(ctx context.Context, api *client, setting string, in control.NewRun) (run control.RunRecord, rows []control.EntryRecord, err error) {
	for tries := 0; ; tries++ {
		if run, err = a.planOnce(ctx, api, setting, in); err == nil {
			rows, err = entries(ctx, api, apiPath("settings", setting, "run", "plan"), run.Plan.ID)
		}
		if overtaken := errors.Is(err, errReplaced) || isStatus(err, http.StatusConflict); !overtaken || !in.DryRun || tries == 3 {
			if isStatus(err, http.StatusConflict) {
				err = failed(exitRunTime, err)
			}
			return run, rows, err
		}
	}
}

func (a *app) planOnce(ctx context.Context, api *client, setting string, in control.NewRun) (run control.RunRecord, err error) {
	if run, err = a.ask(ctx, api, setting, in); err != nil {
		return run, err
	}
	bar := a.progress()
	err = follow(ctx, api, apiPath("settings", setting, "run"), run.ID, func(r control.RunRecord) bool {
		run = r
		if !r.Over && r.Waits != "" && r.Phase != string(broker.RunShown) {
			bar.note("waiting for " + r.Waits)
		}
		return r.Over || r.Phase == string(broker.RunShown)
	})
	bar.end()
	if err != nil {
		if ctx.Err() != nil && !run.Over {
			late, cancel := context.WithTimeout(context.WithoutCancel(ctx), 3*time.Second)
			defer cancel()
			_, _, derr := api.call(late, http.MethodPost, apiPath("settings", setting, "run", "drop"), nil, control.DropRun{Run: run.ID}, nil)
			err = errors.Join(failed(exitRunTime, errors.New("interrupted; the run is dropped, and nothing was changed")), derr)
		}
		return run, err
	}
	if err := runError(run); err != nil {
		return run, failed(exitRunTime, err) // it is no difference that it found
	}
	if run.Plan != nil && len(in.Objects) > 0 {
		found := 0
		for _, c := range run.Plan.Counts {
			found += c.Objects
		}
		if found == 0 {
			_, _, derr := api.call(ctx, http.MethodPost, apiPath("settings", setting, "run", "drop"), nil, control.DropRun{Run: run.ID}, nil)
			if run.Over || isStatus(derr, http.StatusConflict) {
				derr = nil
			}
			return run, errors.Join(usageError("of what --object names, %s has nothing that sync setting %s takes; vcsync events shows ids", run.Plan.Source, setting), derr)
		}
	}
	if run.Plan == nil {
		return run, failed(exitRunTime, errors.New("the run is over and left no plan"))
	}
	return run, nil
}

// followEvery is how often a run is asked how it does.
const followEvery = 250 * time.Millisecond

// runPath returns where a run is in the API.
func runPath(r control.RunRecord) string {
	if r.Server != "" {
		return apiPath("servers", r.Server, "run")
	}
	return apiPath("settings", r.Setting, "run")
}

// dropWords returns what drops a run, but for the word vcsync.
func dropWords(r control.RunRecord) string {
	if r.Server != "" {
		return "undo --drop " + r.Server
	}
	return "sync " + r.Setting + " --drop"
}

// follow reads a run until each says that it is enough. Path is where it is in the API.
func follow(ctx context.Context, api *client, path, id string, each func(control.RunRecord) bool) error {
	for {
		var r control.RunRecord
		if _, _, err := api.call(ctx, http.MethodGet, path, nil, nil, &r); err != nil {
			return err
		}
		if r.ID != id {
			return failed(exitRunTime, errReplaced)
		}
		if each(r) {
			return nil
		}
		select {
		case <-ctx.Done():
			return failed(exitRunTime, errors.New("interrupted"))
		case <-time.After(followEvery):
		}
	}
}

// entries reads all pages of a plan or of a drift list.
func entries(ctx context.Context, api *client, path, id string) ([]control.EntryRecord, error) {
	out := []control.EntryRecord{}
	for n := 0; ; n++ {
		var page control.EntryPage
		if _, _, err := api.call(ctx, http.MethodGet, fmt.Sprintf("%s?page=%d&plan=%s", path, n, url.QueryEscape(id)), nil, nil, &page); err != nil {
			return nil, err
		}
		out = append(out, page.Items...)
		if n+1 >= page.Pages {
			return out, nil
		}
	}
}

// doing names the type that is being worked on.
func doing(types []control.TypeProgress) string {
	for _, t := range types {
		if t.Done < t.Total {
			return t.Type
		}
	}
	return ""
}

// planWidth is how many columns a plan takes.
const planWidth = 80

// groupMost is how many objects of one kind and reason are shown without --all.
// Deletions are always shown.
const groupMost = 10

// entryGroup is objects of one type with which the same is done for the same reason.
type entryGroup struct {
	title string
	rows  []control.EntryRecord
	whole bool // shown whole, however many there are
}

// groups sorts entries into groups of one type, in the order of the titles' first
// letters: what title says, and its rank.
func groups(rows []control.EntryRecord, title func(control.EntryRecord) (rank int, text string, whole bool)) []entryGroup {
	type key struct {
		rank int
		text string
	}
	by := map[key]*entryGroup{}
	for _, e := range rows {
		rank, text, whole := title(e)
		k := key{rank, text}
		if by[k] == nil {
			by[k] = &entryGroup{title: text, whole: whole}
		}
		by[k].rows = append(by[k].rows, e)
	}
	var out []entryGroup
	for _, k := range slices.SortedFunc(maps.Keys(by), func(a, b key) int { return cmp.Or(cmp.Compare(a.rank, b.rank), cmp.Compare(a.text, b.text)) }) {
		g := by[k]
		slices.SortStableFunc(g.rows, func(a, b control.EntryRecord) int {
			return cmp.Or(strings.Compare(a.Name, b.Name), strings.Compare(a.ID, b.ID))
		})
		out = append(out, *g)
	}
	return out
}

// printEntries prints objects by type and group, in 80 columns.
func (a *app) printEntries(w io.Writer, rows []control.EntryRecord, all bool, title func(control.EntryRecord) (int, string, bool)) {
	for _, t := range schemas.Types() {
		var of []control.EntryRecord
		for _, e := range rows {
			if e.Type == string(t) {
				of = append(of, e)
			}
		}
		if len(of) == 0 {
			continue
		}
		fmt.Fprintf(w, "\n%s\n", t)
		for _, g := range groups(of, title) {
			for _, line := range wrap(fmt.Sprintf("%s (%d)", g.title, len(g.rows)), planWidth-2) {
				fmt.Fprintf(w, "  %s\n", line)
			}
			shown := len(g.rows)
			if !all && !g.whole && shown > groupMost {
				shown = groupMost
			}
			for _, e := range g.rows[:shown] {
				printEntry(w, e)
			}
			if rest := len(g.rows) - shown; rest > 0 {
				fmt.Fprintf(w, "      ... and %d more; --all shows them\n", rest)
			}
		}
	}
}

// printEntry prints one object: its name and its id on one line where both fit, and
// below what differs.
func printEntry(w io.Writer, e control.EntryRecord) {
	const indent = 6
	name, id := clean(cmp.Or(e.Name, "(no name)")), clean(e.ID)
	if e.TargetID != "" {
		id += " as " + clean(e.TargetID)
	}
	room := planWidth - indent - displayWidth(id) - 2
	switch {
	case e.Name == e.ID: // a variable's name is its id
		fmt.Fprintf(w, "      %s\n", name)
	case displayWidth(name) <= room:
		fmt.Fprintf(w, "      %s%s%s\n", name, strings.Repeat(" ", room-displayWidth(name)+2), id)
	default:
		fmt.Fprintf(w, "      %s\n", shorten(name, planWidth-indent))
		fmt.Fprintf(w, "%s%s\n", strings.Repeat(" ", max(indent+2, planWidth-displayWidth(id))), id)
	}
	for _, c := range e.Changed {
		fmt.Fprintf(w, "        %s\n", shorten(clean(c.Field), planWidth-indent-2))
		for _, v := range []struct{ sign, text string }{{"-", c.Old}, {"+", c.New}} {
			if v.text != "" {
				fmt.Fprintf(w, "          %s %s\n", v.sign, shorten(clean(v.text), planWidth-indent-6))
			}
		}
	}
	if len(e.Fields) > 0 && len(e.Changed) == 0 {
		for _, line := range wrap(clean(strings.Join(e.Fields, ", ")), planWidth-indent-2) {
			fmt.Fprintf(w, "        %s\n", line)
		}
	}
}

// wrap breaks a text between words into lines of so many columns; a longer word keeps a
// line of its own.
func wrap(text string, columns int) (lines []string) {
	line := ""
	for word := range strings.FieldsSeq(text) {
		switch {
		case line == "":
			line = word
		case displayWidth(line)+1+displayWidth(word) > columns:
			lines = append(lines, line)
			line = word
		default:
			line += " " + word
		}
	}
	if line != "" {
		lines = append(lines, line)
	}
	return lines
}

// acts are the acts of a plan in the order in which they are shown.
var acts = []decide.Act{decide.Add, decide.Update, decide.Delete, decide.Park, decide.Hold, decide.Wait, decide.Look, decide.Adopt, decide.Nothing}

// actWords name acts where they head a group and where they are counted.
var actWords = map[decide.Act][2]string{
	decide.Add: {"add", "to add"}, decide.Update: {"update", "to update"}, decide.Delete: {"delete", "to delete"}, decide.Park: {"park", "to park"},
	decide.Hold: {"held", "held"}, decide.Wait: {"waits", "waiting"}, decide.Look: {"open", "open"}, decide.Adopt: {"record as equal", "to record as equal"},
	decide.Nothing: {"left alone", "left alone"},
}

// wouldBe is what is kept from being done.
var wouldBe = map[broker.Difference]string{broker.OnlySource: "add", broker.Different: "update", broker.OnlyTarget: "delete"}

// planTitle heads the groups of a plan.
func planTitle(e control.EntryRecord) (int, string, bool) {
	act := decide.Act(e.Act)
	text := cmp.Or(actWords[act][0], e.Act)
	if would := wouldBe[broker.Difference(e.Difference)]; would != "" && (act == decide.Hold || act == decide.Wait || act == decide.Park) {
		text += " (would " + would + ")"
	}
	if why := cmp.Or(e.Why, e.Reason); why != "" {
		text += ": " + clean(why)
	}
	switch {
	case act == decide.Wait && e.Opens.IsZero():
		text += "; none is to open in the next years"
	case act == decide.Wait:
		text += "; the next opens at " + when(e.Opens)
	}
	rank := slices.Index(acts, act)
	return rank, text, act == decide.Delete
}

// counted counts the objects of a plan by what is done with them. What is equal, or left
// alone because it is, is one number: whether it was on record already changes nothing
// at the target.
func counted(counts []control.CountRecord) string {
	n := map[decide.Act]int{}
	equal, adopt := 0, 0
	for _, c := range counts {
		switch act := decide.Act(c.Act); {
		case act == decide.Adopt:
			equal += c.Objects
			adopt += c.Objects
		case act == decide.Nothing && control.Same(c.Difference, c.Act) && c.Difference != string(broker.OnlyTarget):
			equal += c.Objects
		default:
			n[act] += c.Objects
		}
	}
	var words []string
	for _, act := range acts {
		if n[act] > 0 {
			words = append(words, fmt.Sprintf("%d %s", n[act], actWords[act][1]))
		}
	}
	if equal > 0 {
		words = append(words, fmt.Sprintf("%d equal", equal))
	}
	if adopt > 0 {
		words[len(words)-1] += fmt.Sprintf(" (%d to be put on record)", adopt)
	}
	if words == nil {
		return "Nothing was found"
	}
	return strings.Join(words, ", ")
}

func (a *app) printPlan(run control.RunRecord, rows []control.EntryRecord, all bool) error {
	p := run.Plan
	switch {
	case run.Undo != "":
		fmt.Fprintf(a.out, "Plan at %s: undo pass %s\n", clean(run.Server), clean(run.Undo))
	case run.Revert != "":
		fmt.Fprintf(a.out, "Plan at %s: bring back version %s\n", clean(run.Server), clean(run.Revert))
	default:
		fmt.Fprintf(a.out, "Plan for %s: %s -> %s\n", clean(run.Setting), clean(p.Source), clean(p.Target))
	}
	if run.Scope.Replay != nil {
		for _, line := range wrap(clean(asOf(run)), planWidth) {
			fmt.Fprintln(a.out, line)
		}
	}
	for _, w := range slices.Concat(p.Warnings, p.Waiting) {
		for i, line := range wrap("Warning: "+clean(w), planWidth-2) {
			fmt.Fprintf(a.out, "%s%s\n", map[bool]string{true: "", false: "  "}[i == 0], line)
		}
	}
	if !all { // what is equal and not on record is so much the same that it is only counted
		rows = slices.DeleteFunc(slices.Clone(rows), func(e control.EntryRecord) bool { return e.Act == string(decide.Adopt) })
	}
	a.printEntries(a.out, rows, all, planTitle)
	if len(rows) > 0 {
		fmt.Fprintln(a.out)
	}
	for _, line := range wrap(counted(p.Counts)+".", planWidth) {
		fmt.Fprintln(a.out, line)
	}
	if p.Changes == 0 {
		_, err := fmt.Fprintf(a.out, "Nothing to do at %s.\n", clean(p.Target))
		return err
	}
	return nil
}

// printResult says what became of a plan, and names what was not done.
func (a *app) printResult(run control.RunRecord, rows []control.EntryRecord, all bool) error {
	var left []control.EntryRecord
	for _, e := range rows {
		if e.Outcome != "" && e.Outcome != string(broker.OutcomeDone) {
			e.Fields, e.Changed = nil, nil
			left = append(left, e)
		}
	}
	if len(left) > 0 {
		fmt.Fprint(a.out, "\nNot done:\n")
		a.printEntries(a.out, left, all, func(e control.EntryRecord) (int, string, bool) {
			text := fmt.Sprintf("%s: %s", cmp.Or(actWords[decide.Act(e.Act)][0], e.Act), clean(e.Outcome))
			if e.OutcomeWhy != "" {
				text += ": " + clean(e.OutcomeWhy)
			}
			return slices.Index(acts, decide.Act(e.Act)), text, false
		})
		fmt.Fprintln(a.out)
	}
	var done, changes, adopted int
	for _, e := range rows {
		ok := e.Outcome == string(broker.OutcomeDone)
		switch {
		case decide.Act(e.Act).Writes():
			if changes++; ok {
				done++
			}
		case ok:
			adopted++
		}
	}
	more := ""
	if adopted > 0 {
		more = fmt.Sprintf(", and %d put on record as equal", adopted)
	}
	if changes == 0 {
		_, err := fmt.Fprintf(a.out, "%d put on record as equal.\n", adopted)
		return err
	}
	_, err := fmt.Fprintf(a.out, "%d of %s made at %s%s.\n", done, count(changes, "change"), clean(run.Plan.Target), more)
	return err
}
