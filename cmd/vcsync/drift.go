package main

import (
	"cmp"
	"fmt"
	"net/http"
	"slices"

	"github.com/go-json-experiment/json"
	"github.com/spf13/cobra"

	"github.com/vcsync/vcsync/broker"
	"github.com/vcsync/vcsync/consumer/decide"
	"github.com/vcsync/vcsync/control"
)

// DriftReport is the standing drift list of a sync setting, for --json.
type DriftReport struct {
	Setting string                `json:"setting"`
	Audit   control.DriftRecord   `json:"audit"`
	Objects []control.EntryRecord `json:"objects"`
}

func newDriftCommand(a *app) *cobra.Command {
	var all bool
	c := &cobra.Command{
		Use:   "drift SETTING",
		Short: "Show what the last audit of a sync setting's target found, and what is held",
		Long: `Shows the standing list: what the last audit of the target found to differ, and what
was held since, each with the reason. No server is asked; "vcsync diff SETTING" compares
afresh.`,
		Args: exactly(1, "a sync setting's name"),
		RunE: func(cmd *cobra.Command, args []string) error {
			api, err := a.client()
			if err != nil {
				return err
			}
			r := DriftReport{Setting: args[0]}
			path := apiPath("settings", args[0], "drift")
			for tries := 0; ; tries++ {
				if _, _, err = api.call(cmd.Context(), http.MethodGet, path, nil, nil, &r.Audit); err != nil {
					return err
				}
				r.Objects, err = entries(cmd.Context(), api, path+"/objects", r.Audit.ID)
				if !isStatus(err, http.StatusConflict) || tries == 3 { // a newer list has taken its place
					break
				}
			}
			if err != nil {
				return err
			}
			raw, err := json.Marshal(r)
			if err != nil {
				return failed(exitRunTime, err)
			}
			return a.show(raw, func() error { return a.printDrift(r, all) })
		},
	}
	c.Flags().BoolVar(&all, "all", false, "show every object, also those that differ only in what is the target's own")
	return c
}

func (a *app) printDrift(r DriftReport, all bool) error {
	fmt.Fprintf(a.out, "%s: last audit %s\n", clean(r.Setting), when(r.Audit.Began))
	for _, w := range r.Audit.Warnings {
		fmt.Fprintf(a.out, "Warning: %s\n", clean(w))
	}
	switch {
	case r.Audit.Failed != "":
		fmt.Fprintf(a.out, "It could not be made since: %s\n", clean(r.Audit.Failed))
	case r.Audit.Outdated:
		fmt.Fprintln(a.out, "The setting was changed since.")
	}
	rows := slices.DeleteFunc(slices.Clone(r.Objects), func(e control.EntryRecord) bool { return control.Same(e.Difference, e.Act) && !all })
	a.printEntries(a.out, rows, all, func(e control.EntryRecord) (int, string, bool) {
		text := e.Difference
		if act := decide.Act(e.Act); act != decide.Nothing {
			text += ", " + cmp.Or(actWords[act][0], e.Act)
		}
		if why := cmp.Or(e.Why, e.Reason); why != "" {
			text += ": " + clean(why)
		}
		return slices.Index(differences, broker.Difference(e.Difference)), text, false
	})
	if len(rows) > 0 {
		fmt.Fprintln(a.out)
	}
	_, err := fmt.Fprintf(a.out, "%d equal, %d different, of these %d held.\n", r.Audit.Equal, r.Audit.Differs, r.Audit.Held)
	if err == nil && r.Audit.Cut {
		_, err = fmt.Fprintln(a.out, "There are more than the list takes.")
	}
	return err
}
