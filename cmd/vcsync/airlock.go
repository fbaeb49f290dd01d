package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/vcsync/vcsync/control"
	"github.com/vcsync/vcsync/schemas"
)

func newAirlockCommand(a *app) *cobra.Command {
	list := newAirlockList(a)
	c := group("airlock", "Deletions that wait for a person",
		list, newAirlockShow(a), newAirlockVerdict(a, "approve"), newAirlockVerdict(a, "reject"))
	c.Long = `Deletions at a source wait where they are more than the server's measure (see vcsync
server edit), where the account that lists is another or has other rights than when the
objects were seen last, and where the server looks restored from an older state. While
they wait, nothing of their type is deleted anywhere because of that source.

Deletions at a target wait where they are more in 24 hours than the sync setting's measure
(see vcsync setting edit), and where other objects of the target refer to the object.
Without a command, what waits is listed.`
	wrong := c.RunE
	c.RunE = func(cmd *cobra.Command, args []string) error {
		if len(args) == 0 {
			return list.RunE(cmd, args)
		}
		return wrong(cmd, args)
	}
	return c
}

func newAirlockList(a *app) *cobra.Command {
	return &cobra.Command{Use: "list", Short: "List the batches that wait, and what was decided", Args: none, RunE: func(cmd *cobra.Command, _ []string) error {
		api, err := a.client()
		if err != nil {
			return err
		}
		var out items[control.AirlockBatch]
		raw, _, err := api.call(cmd.Context(), http.MethodGet, apiPath("airlock"), nil, nil, &out)
		if err != nil {
			return err
		}
		return a.show(raw, func() error {
			if len(out.Items) == 0 {
				_, err := fmt.Fprintln(a.out, "No deletion waits.")
				return err
			}
			t := newTable("BATCH", "STATE", "AT", "TYPE", "OBJECTS", "SINCE", "REASON")
			for _, b := range out.Items {
				t.add(b.Batch, b.State, airlockAt(b), b.Type, fmt.Sprint(b.Count), when(b.Since), dash(shorten(airlockWhy(b), 120)))
			}
			if err := t.print(a.out); err != nil {
				return err
			}
			_, err := fmt.Fprintln(a.out, "\nvcsync airlock show BATCH names the objects.")
			return err
		})
	}}
}

// airlockAt says where deletions wait.
func airlockAt(b control.AirlockBatch) string {
	if b.Target != "" {
		return b.Target + " (" + b.Setting + ")"
	}
	return b.Source
}

func airlockWhy(b control.AirlockBatch) string {
	if b.Who != "" {
		return b.Who + ": " + b.Reason
	}
	return b.Why
}

func newAirlockShow(a *app) *cobra.Command {
	return &cobra.Command{Use: "show BATCH", Short: "Show a batch with its objects", Args: exactly(1, "a batch's name"), RunE: func(cmd *cobra.Command, args []string) error {
		api, err := a.client()
		if err != nil {
			return err
		}
		var b control.AirlockDetail
		raw, _, err := api.call(cmd.Context(), http.MethodGet, apiPath("airlock", args[0]), nil, nil, &b)
		if err != nil {
			return err
		}
		return a.show(raw, func() error {
			if err := a.printBatch(b); err != nil || b.State != "held" {
				return err
			}
			_, err := fmt.Fprintf(a.out, "\nLet them go on, or keep the objects: vcsync airlock approve %[1]s --reason TEXT, vcsync airlock reject %[1]s --reason TEXT\n", b.Batch)
			return err
		})
	}}
}

// printBatch shows a batch and its objects.
func (a *app) printBatch(b control.AirlockDetail) error {
	since := ""
	if !b.Since.IsZero() {
		since = " since " + when(b.Since)
	}
	if _, err := fmt.Fprintf(a.out, "%s of %s at %s, %s%s: %s\n", count(b.Count, "deletion"), b.Type, airlockAt(b.AirlockBatch), b.State, since, clean(dash(airlockWhy(b.AirlockBatch)))); err != nil {
		return err
	}
	head := []string{"OBJECT", "NAME", "GROUP", "VERSION"}
	if b.Target != "" {
		head = append(head, "WHY")
	}
	t := newTable(head...)
	for _, o := range b.Objects {
		row := []string{o.Type + "/" + shorten(o.ID, 64), dash(shorten(o.Name, 60)), dash(shorten(o.Group, 40)), o.Version}
		if b.Target != "" {
			row = append(row, shorten(o.Why, 600))
		}
		t.add(row...)
	}
	if err := t.print(a.out); err != nil || b.Unlisted == 0 {
		return err
	}
	_, err := fmt.Fprintf(a.out, "And %d more, which wait too.\n", b.Unlisted)
	return err
}

func newAirlockVerdict(a *app, verb string) *cobra.Command {
	var objects []string
	var reason string
	var dryRun, yes bool
	approve := verb == "approve"
	whole, single := "the cleanup of last Friday", "only this one"
	if !approve {
		whole, single = "the warehouse still needs them", "this one was deleted by mistake"
	}
	c := &cobra.Command{
		Use:   verb + " BATCH --reason TEXT",
		Short: map[bool]string{true: "Let deletions go on", false: "Keep the objects as they are"}[approve],
		Long: map[bool]string{true: `Lets the deletions of a batch, or of some of its objects, go on: of each that two fresh
complete listings of the source still lack, and that is still the version that was shown.
At a target a run does exactly these deletions; what changed there since is left, and the
run says so.

Exit codes: 0 decided; 1 refused; with --dry-run: something would be decided; 2 no such
batch.`,
			false: `Keeps the objects of a batch, or some of them, as they are in the stream and at the
targets. That ends when the source has the object again. It can be approved later, by the
name of the batch in which it was rejected.

Exit codes: 0 decided; 1 refused; with --dry-run: something would be decided; 2 no such
batch.`}[approve],
		Example: `  vcsync airlock ` + verb + ` 3f2c1a50bb01 --reason "` + whole + `"
  vcsync airlock ` + verb + ` 3f2c1a50bb01 --object Job/3f2c1a50-... --reason "` + single + `"`,
		Args: exactly(1, "a batch's name"),
		RunE: func(cmd *cobra.Command, args []string) error {
			in := control.AirlockVerdict{Reason: strings.TrimSpace(reason)}
			for _, text := range objects {
				name, object, ok := strings.Cut(text, "/")
				t, err := schemas.ParseType(name)
				if !ok || err != nil {
					return usageError("--object %q: want TYPE/ID, such as Job/3f2c1a50-...", text)
				}
				id, err := schemas.ParseID(object)
				if err != nil {
					return usageError("--object %q: %w", text, err)
				}
				in.Objects = append(in.Objects, control.ObjectRef{Type: string(t), ID: string(id)})
			}
			switch {
			case in.Reason == "":
				return usageError("--reason is missing: say why; it stands in the audit")
			case dryRun && yes:
				return usageError("--dry-run and --yes exclude each other")
			case !dryRun && !yes && !terminal(a.in):
				return usageError("nobody can be asked here: repeat it with --yes, or with --dry-run to only look; nothing was changed")
			}
			api, err := a.client()
			if err != nil {
				return err
			}
			return a.airlockVerdict(cmd.Context(), api, verb, args[0], in, dryRun, yes)
		},
	}
	c.Flags().StringArrayVar(&objects, "object", nil, "only this object of the batch, as TYPE/ID; may be repeated")
	c.Flags().StringVar(&reason, "reason", "", "why")
	c.Flags().BoolVar(&dryRun, "dry-run", false, "show the batch, and change nothing")
	c.Flags().BoolVarP(&yes, "yes", "y", false, "do not ask")
	return c
}

// airlockVerdict shows what is decided about, asks, and decides.
func (a *app) airlockVerdict(ctx context.Context, api *client, verb, batch string, in control.AirlockVerdict, dryRun, yes bool) error {
	if dryRun || !yes {
		var b control.AirlockDetail
		raw, _, err := api.call(ctx, http.MethodGet, apiPath("airlock", batch), nil, nil, &b)
		if err != nil {
			return err
		}
		if dryRun {
			return errors.Join(a.show(raw, func() error { return a.printBatch(b) }), wouldDecide(b, verb, in.Objects))
		}
		if !a.json {
			if err := a.printBatch(b); err != nil {
				return err
			}
		}
		n := b.Count
		if len(in.Objects) > 0 {
			n = len(in.Objects)
		}
		if err := a.confirm(ctx, fmt.Sprintf("%s %s of %s at %s?", strings.ToUpper(verb[:1])+verb[1:], count(n, "deletion"), b.Type, airlockAt(b.AirlockBatch))); err != nil {
			return err
		}
	}
	var out control.AirlockDecided
	raw, _, err := api.call(ctx, http.MethodPost, apiPath("airlock", batch, verb), nil, in, &out)
	if err != nil {
		return err
	}
	return a.show(raw, func() error {
		for _, line := range verdictLines(verb, out) {
			if _, err := fmt.Fprintln(a.out, clean(line)); err != nil {
				return err
			}
		}
		return nil
	})
}

// wouldDecide is what a dry run of a verdict ends with: nil where the verdict was given
// already.
func wouldDecide(b control.AirlockDetail, verb string, objects []control.ObjectRef) error {
	done := map[string]string{"approve": "approved", "reject": "rejected"}[verb]
	n := b.Count
	if len(objects) > 0 {
		n = len(objects)
		for _, o := range objects {
			is := func(x control.AirlockObject) bool { return x.Type == o.Type && x.ID == o.ID }
			if b.Unlisted == 0 && !slices.ContainsFunc(b.Objects, is) {
				return failed(exitDifferent, fmt.Errorf("%s/%s is not in batch %s: its deletion does not wait, or the object is back; nothing was changed (--dry-run)", o.Type, o.ID, b.Batch))
			}
		}
	}
	if b.State == done {
		return nil
	}
	return failed(exitDifferent, fmt.Errorf("%s would be %s; nothing was changed (--dry-run)", count(n, "deletion"), done))
}

// verdictLines says what a verdict does, and what is left without one.
func verdictLines(verb string, out control.AirlockDecided) []string {
	one := out.Decided == 1
	is := map[bool]string{true: " is ", false: " are "}[one]
	var lines []string
	switch what := count(out.Decided, "deletion") + is; {
	case verb == "reject":
		lines = append(lines, what+"rejected: the "+map[bool]string{true: "object stays as it is, until the source has it again.", false: "objects stay as they are, until the source has them again."}[one])
	case out.Run != "":
		lines = append(lines, what+"approved; a run does "+map[bool]string{true: "it", false: "them"}[one]+", see vcsync status.")
	case out.Waits != "":
		lines = append(lines, what+"approved, and "+map[bool]string{true: "goes", false: "go"}[one]+" out only once the listing of the type at the source is believed. Now it is not: "+strings.TrimSuffix(out.Waits, ".")+".")
	default:
		lines = append(lines, what+"approved; "+map[bool]string{true: "it goes out with the source's next listing if that still lacks the object.", false: "those of objects that the source still lacks go out with its next listing."}[one])
	}
	for _, b := range out.Left {
		if b.State == "held" {
			lines = append(lines, fmt.Sprintf("%s of %s at %s %s: vcsync airlock show %s", count(b.Count, "other deletion"), b.Type, airlockAt(b), map[bool]string{true: "waits", false: "wait"}[b.Count == 1], b.Batch))
		}
	}
	return lines
}
