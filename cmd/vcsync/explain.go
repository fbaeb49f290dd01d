package main

import (
	"fmt"
	"net/http"

	"github.com/spf13/cobra"

	"github.com/vcsync/vcsync/control"
	"github.com/vcsync/vcsync/schemas"
)

func newExplainCommand(a *app) *cobra.Command {
	var setting string
	c := &cobra.Command{
		Use:   "explain TYPE/ID --setting NAME",
		Short: "Say where an object stands, and what keeps it from its target",
		Long: `Goes through everything that may keep an object from its target, in order, and names
the gate that holds it and what to do: setting active, source complete, known, selected,
kind, built-in, window, mode, safe mode, airlock, parent, conflict, parked, policy,
breaker, lease. The last line says where the object stands. No server is asked: it is
what is stored and what the processes say. TYPE/ID is with the id at the source.`,
		Example: `  vcsync explain Job/3f2c1a50-... --setting prod-to-test`,
		Args:    exactly(1, "an object as TYPE/ID, with its id at the source"),
		RunE: func(cmd *cobra.Command, args []string) error {
			t, id, err := objectArg(args[0])
			if err != nil {
				return err
			}
			if _, err := schemas.ParseSlug(setting); err != nil {
				if setting == "" {
					return usageError("--setting is missing: name the sync setting that is to bring it; vcsync setting list shows them")
				}
				return usageError("--setting: %w", err)
			}
			api, err := a.client()
			if err != nil {
				return err
			}
			var r control.ExplainRecord
			raw, _, err := api.call(cmd.Context(), http.MethodGet, apiPath("settings", setting, "explain", string(t), string(id.Token())), nil, nil, &r)
			if err != nil {
				return err
			}
			return a.show(raw, func() error { return a.printExplain(r) })
		},
	}
	c.Flags().StringVar(&setting, "setting", "", "the sync setting")
	return c
}

func (a *app) printExplain(r control.ExplainRecord) error {
	object := fmt.Sprintf("%s/%s", r.Type, clean(r.ID))
	if r.Name != "" {
		object += " " + clean(r.Name)
	}
	fmt.Fprintf(a.out, "%s: %s -> %s\n\n", object, r.Source, r.Target)
	t := newTable("GATE", "", "WHY")
	var todo string
	for _, g := range r.Gates {
		state := g.State
		if g.Holds {
			state, todo = "HOLDS", g.Fix
		}
		t.add(string(g.Gate), state, g.Why)
	}
	if err := t.print(a.out); err != nil {
		return err
	}
	fmt.Fprintln(a.out)
	if todo != "" {
		fmt.Fprintf(a.out, "What to do: %s\n", clean(todo))
	}
	_, err := fmt.Fprintf(a.out, "%s\n", clean(r.Line))
	return err
}
