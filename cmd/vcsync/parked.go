package main

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"strings"

	"github.com/spf13/cobra"

	"github.com/vcsync/vcsync/control"
	"github.com/vcsync/vcsync/schemas"
)

func newParkedCommand(a *app) *cobra.Command {
	return group("parked", "Object states that wait for a person or another object",
		newParkedList(a), newParkedShow(a), newParkedRetry(a), newParkedDiscard(a))
}

// parkedArgs finds a record from TARGET TYPE/ID. Where no id is known, the last
// part is the token that the list shows.
func (a *app) parkedArgs(ctx context.Context, args []string) (api *client, path string, rec control.ParkedRecord, raw []byte, err error) {
	name, object, ok := strings.Cut(args[1], "/")
	t, terr := schemas.ParseType(name)
	if !ok || terr != nil {
		return nil, "", rec, nil, usageError("%q: want TYPE/ID, such as Job/3f2c1a50-...", args[1])
	}
	id, err := schemas.ParseID(object)
	if err != nil {
		return nil, "", rec, nil, usageError("%q: %w", args[1], err)
	}
	if api, err = a.client(); err != nil {
		return nil, "", rec, nil, err
	}
	path = apiPath("parked", args[0], string(t), string(id.Token()))
	raw, _, err = api.call(ctx, http.MethodGet, path, nil, nil, &rec)
	if token, terr := schemas.ParseToken(object); isStatus(err, http.StatusNotFound) && terr == nil && token != id.Token() {
		byToken := apiPath("parked", args[0], string(t), string(token))
		if raw2, _, err2 := api.call(ctx, http.MethodGet, byToken, nil, nil, &rec); err2 == nil {
			return api, byToken, rec, raw2, nil
		}
	}
	return api, path, rec, raw, err
}

func newParkedList(a *app) *cobra.Command {
	var target string
	c := &cobra.Command{Use: "list", Short: "List what is parked", Args: none, RunE: func(cmd *cobra.Command, _ []string) error {
		api, err := a.client()
		if err != nil {
			return err
		}
		path := apiPath("parked")
		if target != "" {
			path += "?target=" + url.QueryEscape(target)
		}
		var out items[control.ParkedRecord]
		raw, _, err := api.call(cmd.Context(), http.MethodGet, path, nil, nil, &out)
		if err != nil {
			return err
		}
		return a.show(raw, func() error {
			if len(out.Items) == 0 {
				_, err := fmt.Fprintln(a.out, "Nothing is parked.")
				return err
			}
			t := newTable("TARGET", "OBJECT", "NAME", "CLASS", "TRIES", "SINCE", "NEXT", "REASON")
			for _, p := range out.Items {
				t.add(p.Target, parkedObject(p), dash(shorten(p.Name, 40)), p.Class, fmt.Sprint(p.Attempts), when(p.First), parkedNext(p), shorten(p.Reason, 100))
			}
			return t.print(a.out)
		})
	}}
	c.Flags().StringVar(&target, "target", "", "only what waits for this server")
	return c
}

func parkedObject(p control.ParkedRecord) string {
	if p.ID == "" {
		return p.Type + "/" + p.Token
	}
	return p.Type + "/" + shorten(p.ID, 64)
}

func parkedNext(p control.ParkedRecord) string {
	switch {
	case p.Discarded != "":
		return "discarded"
	case p.Retrying:
		return "asked for"
	case p.NextTry.IsZero():
		return "waits"
	}
	return when(p.NextTry)
}

func newParkedShow(a *app) *cobra.Command {
	return &cobra.Command{Use: "show TARGET TYPE/ID", Short: "Show why an object is parked and what to do", Args: exactly(2, "a target and TYPE/ID"), RunE: func(cmd *cobra.Command, args []string) error {
		_, _, p, raw, err := a.parkedArgs(cmd.Context(), args)
		if err != nil {
			return err
		}
		return a.show(raw, func() error {
			t := newTable("Target", p.Target)
			for _, r := range [][2]string{{"Object", parkedObject(p)}, {"Name", p.Name}, {"Source", p.Source}, {"Setting", p.Setting}, {"Version", p.Version},
				{"Class", p.Class}, {"Reason", p.Reason}, {"What to do", p.Fix}, {"First", when(p.First)}, {"Last", when(p.Last)}, {"Tries", fmt.Sprint(p.Attempts)},
				{"Next", parkedNext(p)}, {"Discarded", p.Discarded}} {
				if r[1] != "" {
					t.add(r[0], r[1])
				}
			}
			return t.print(a.out)
		})
	}}
}

func newParkedRetry(a *app) *cobra.Command {
	var all bool
	var pass string
	c := &cobra.Command{
		Use:   "retry TARGET TYPE/ID | --all [TARGET]",
		Short: "Try again now; resumes what an undo has paused",
		Long: `Asks for another try of one object, or of all. What an undo or a revert has paused is
resumed by it: from then on vcsync brings it as its source and the settings say. --all
leaves what is paused as it is; --all --pass PASS resumes all that this pass paused.`,
		Args: func(cmd *cobra.Command, args []string) error {
			if pass != "" && !all {
				return usageError("--pass goes with --all")
			}
			if all && len(args) > 1 || !all && len(args) != 2 {
				return usageError("vcsync parked retry takes a target and TYPE/ID, or --all with or without a target")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			if all {
				api, err := a.client()
				if err != nil {
					return err
				}
				q := url.Values{}
				if len(args) == 1 {
					q.Set("target", args[0])
				}
				if pass != "" {
					q.Set("pass", pass)
				}
				path := apiPath("parked", "retry")
				if len(q) > 0 {
					path += "?" + q.Encode()
				}
				var out control.RetryCount
				raw, _, err := api.call(cmd.Context(), http.MethodPost, path, nil, nil, &out)
				if err != nil {
					return err
				}
				return a.show(raw, func() error {
					_, err := fmt.Fprintf(a.out, "%s will be tried again.\n", count(out.Asked, "parked object"))
					return err
				})
			}
			api, path, p, _, err := a.parkedArgs(cmd.Context(), args)
			if err != nil {
				return err
			}
			raw, _, err := api.call(cmd.Context(), http.MethodPost, path+"/retry", nil, nil, nil)
			if err != nil {
				return err
			}
			return a.show(raw, func() error {
				_, err := fmt.Fprintf(a.out, "%s at %s will be tried again.\n", clean(parkedObject(p)), p.Target)
				return err
			})
		},
	}
	c.Flags().BoolVar(&all, "all", false, "all that is parked, and neither discarded nor paused")
	c.Flags().StringVar(&pass, "pass", "", "with --all: resume all that this pass paused")
	return c
}

func newParkedDiscard(a *app) *cobra.Command {
	var reason string
	c := &cobra.Command{Use: "discard TARGET TYPE/ID --reason TEXT", Short: "Leave this version of an object unapplied", Args: exactly(2, "a target and TYPE/ID"), RunE: func(cmd *cobra.Command, args []string) error {
		if strings.TrimSpace(reason) == "" {
			return usageError("--reason is missing: say why this version is left unapplied; it stands in the audit")
		}
		api, path, p, _, err := a.parkedArgs(cmd.Context(), args)
		if err != nil {
			return err
		}
		raw, _, err := api.call(cmd.Context(), http.MethodPost, path+"/discard", map[string]string{"If-Match": `"` + p.Version + `"`}, control.DiscardReason{Reason: reason}, nil)
		if err != nil {
			return err
		}
		return a.show(raw, func() error {
			_, err := fmt.Fprintf(a.out, "%s at %s stays as it is, until a newer version comes.\n", clean(parkedObject(p)), p.Target)
			return err
		})
	}}
	c.Flags().StringVar(&reason, "reason", "", "why it is left unapplied")
	return c
}
