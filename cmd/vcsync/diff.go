package main

import (
	"cmp"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/go-json-experiment/json"
	"github.com/spf13/cobra"

	"github.com/vcsync/vcsync/broker"
	"github.com/vcsync/vcsync/consumer/decide"
	"github.com/vcsync/vcsync/control"
)

// DiffReport is what a comparison found, for --json.
type DiffReport struct {
	Setting string                `json:"setting"`
	Source  string                `json:"source"`
	Target  string                `json:"target"`
	Equal   bool                  `json:"equal"`
	Counts  []control.CountRecord `json:"counts"`
	// Gone are listed objects that are gone at the source.
	Gone []control.GoneRecord `json:"gone,omitzero"`
	// Waiting tells of deletions that the source has not published: they make no
	// difference here.
	Waiting []string `json:"waitingAtSource,omitzero"`
	// Objects are those that are not equal.
	Objects []control.EntryRecord `json:"objects"`
}

func newDiffCommand(a *app) *cobra.Command {
	var f runFlags
	c := &cobra.Command{
		Use:   "diff SETTING",
		Short: "Compare source and target of a sync setting, and change nothing",
		Long: `Lists source and target afresh and says per object whether they are equal, different
(with the fields), only at the source, only at the target, or owned: different only in
what the setting leaves to the target. It works on inactive sync settings too.

Exit codes: 0 equal, 1 different and nothing else, 2 no such setting, type or object, 4 it
could not be compared, such as while a Sync now is under way; the end of another diff is
waited for. Owned objects count as equal. What is only at the
target and never came from the source is not what the setting is about: it is counted,
and makes no difference. So is what is gone at the source while its deletion waits in the
airlock or is rejected: a warning says so. What vcsync brought, and of which its source
is not known any more since a store was lost, is a difference: a person decides about it.`,
		Args: exactly(1, "a sync setting's name"),
		RunE: func(cmd *cobra.Command, args []string) error {
			in, err := f.scope()
			if err != nil {
				return err
			}
			in.DryRun = true
			api, err := a.client()
			if err != nil {
				return err
			}
			run, rows, err := a.plan(cmd.Context(), api, args[0], in)
			if err != nil {
				return err
			}
			rows = slices.DeleteFunc(rows, func(e control.EntryRecord) bool { return e.Difference == string(broker.Equal) })
			r := DiffReport{run.Setting, run.Plan.Source, run.Plan.Target, true, run.Plan.Counts, nil, run.Plan.Waiting, rows}
			var s control.SettingRecord
			if _, _, err := api.call(cmd.Context(), http.MethodGet, apiPath("settings", args[0]), nil, nil, &s); err != nil {
				return err
			}
			r.Gone = s.Gone
			for _, c := range r.Counts {
				r.Equal = r.Equal && (c.Objects == 0 || control.Same(c.Difference, c.Act))
			}
			raw, err := json.Marshal(r)
			if err != nil {
				return failed(exitRunTime, err)
			}
			if err := a.show(raw, func() error { return a.printDiff(r, f.all) }); err != nil {
				return err
			}
			if r.Equal {
				return nil
			}
			return failed(exitDifferent, errors.New("source and target differ"))
		},
	}
	f.register(c)
	return c
}

var differences = []broker.Difference{broker.Different, broker.OnlySource, broker.OnlyTarget, broker.Owned, broker.Equal}

func (a *app) printDiff(r DiffReport, all bool) error {
	fmt.Fprintf(a.out, "%s: %s and %s\n", clean(r.Setting), clean(r.Source), clean(r.Target))
	for _, w := range r.Waiting {
		for i, line := range wrap("Warning: "+clean(w), planWidth-2) {
			fmt.Fprintf(a.out, "%s%s\n", map[bool]string{true: "", false: "  "}[i == 0], line)
		}
	}
	rows := slices.DeleteFunc(slices.Clone(r.Objects), func(e control.EntryRecord) bool { return control.Same(e.Difference, e.Act) && !all })
	a.printEntries(a.out, rows, all, func(e control.EntryRecord) (int, string, bool) {
		text := e.Difference
		if control.Same(e.Difference, e.Act) && e.Difference == string(broker.OnlyTarget) {
			text += ", and no concern of the setting"
		}
		plain := e.Why == decide.IsNew.Text() || e.Why == decide.Differs.Text() // it says no more than the difference
		if why := cmp.Or(e.Why, e.Reason); why != "" && !plain {
			text += ": " + clean(why)
		}
		return slices.Index(differences, broker.Difference(e.Difference)), text, false
	})
	if len(rows) > 0 {
		fmt.Fprintln(a.out)
	}
	for _, g := range r.Gone {
		for _, line := range wrap(fmt.Sprintf("Listed, and gone at %s: %s/%s %s", clean(r.Source), clean(g.Type), clean(g.ID), clean(g.Name)), planWidth) {
			fmt.Fprintln(a.out, line)
		}
	}
	n := map[broker.Difference]int{}
	foreign := 0
	for _, c := range r.Counts {
		if d := broker.Difference(c.Difference); d == broker.OnlyTarget && control.Same(c.Difference, c.Act) {
			foreign += c.Objects
		} else {
			n[d] += c.Objects
		}
	}
	var words []string
	for _, d := range differences {
		if n[d] > 0 {
			words = append(words, fmt.Sprintf("%d %s", n[d], d))
		}
	}
	if foreign > 0 {
		words = append(words, fmt.Sprintf("%d only at the target that never came from the source", foreign))
	}
	for _, line := range wrap(cmp.Or(strings.Join(words, ", "), "nothing was found")+".", planWidth) {
		if _, err := fmt.Fprintln(a.out, line); err != nil {
			return err
		}
	}
	return nil
}
