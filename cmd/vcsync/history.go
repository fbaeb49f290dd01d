package main

import (
	"bytes"
	"cmp"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/spf13/cobra"

	"github.com/vcsync/vcsync/control"
	"github.com/vcsync/vcsync/schemas"
)

// objectArg reads TYPE/ID. Where the id is not known, its token in the API will do.
func objectArg(text string) (schemas.Type, schemas.ID, error) {
	name, object, ok := strings.Cut(text, "/")
	if !ok {
		return "", "", usageError("%q: want TYPE/ID, such as Job/3f2c1a50-...", text)
	}
	t, err := schemas.ParseType(name)
	if err != nil {
		return "", "", usageError("%q: %w; want TYPE/ID, such as Job/3f2c1a50-...", text, err)
	}
	id, err := schemas.ParseID(object)
	if err != nil {
		return "", "", usageError("%q: %w", text, err)
	}
	return t, id, nil
}

func newHistoryCommand(a *app) *cobra.Command {
	var source, show, diff string
	var limit int
	c := &cobra.Command{
		Use:   "history TYPE/ID",
		Short: "Show the versions of an object: who changed what, when and where",
		Long: `Shows what the event stream holds of an object, newest first: each version with who
made it, when, at which server, and the fields that differ from the version before; then
where the object stands now at every target. The stream keeps 20 versions of each kind
(added, updated, deleted); how many it holds no more is said.

--show prints the configuration of one version as JSON, --diff the fields in which two
versions differ (of one: against the version before). A version is EPOCH.REVISION or
REVISION. Secrets are compared, and never shown.`,
		Example: `  vcsync history Job/3f2c1a50-...
  vcsync history Job/3f2c1a50-... --show 1.42
  vcsync history Job/3f2c1a50-... --diff 40..42`,
		Args: exactly(1, "an object as TYPE/ID, with its id at the source"),
		RunE: func(cmd *cobra.Command, args []string) error {
			t, id, err := objectArg(args[0])
			if err != nil {
				return err
			}
			q := url.Values{}
			if source != "" {
				if _, err := schemas.ParseSlug(source); err != nil {
					return usageError("--source: %w", err)
				}
				q.Set("source", source)
			}
			if show != "" && diff != "" {
				return usageError("--show and --diff exclude each other")
			}
			for _, f := range [][2]string{{"--show", show}, {"--diff", strings.Replace(diff, "..", "/", 1)}} {
				for v := range strings.SplitSeq(f[1], "/") {
					if f[1] != "" && !isVersion(v) {
						return usageError("%s %q: want a version, such as 1.42 or 42%s", f[0], v, map[bool]string{true: ", or two, such as 40..42", false: ""}[f[0] == "--diff"])
					}
				}
			}
			if limit < 1 || limit > 60 {
				return usageError("--limit %d: want 1 to 60", limit)
			}
			api, err := a.client()
			if err != nil {
				return err
			}
			path := func(more ...string) string {
				p := apiPath(append([]string{"history", string(t), string(id.Token())}, more...)...)
				if len(q) > 0 {
					p += "?" + q.Encode()
				}
				return p
			}
			switch {
			case show != "":
				var v control.ContentRecord
				raw, _, err := api.call(cmd.Context(), http.MethodGet, path("versions", show), nil, nil, &v)
				if err != nil {
					return err
				}
				return a.show(raw, func() error { return a.printContent(v) })
			case diff != "":
				from, to, two := strings.Cut(diff, "..")
				if !two {
					from, to = "", diff
				}
				q.Set("from", from)
				q.Set("to", to)
				var d control.ChangesRecord
				raw, _, err := api.call(cmd.Context(), http.MethodGet, path("changes"), nil, nil, &d)
				if err != nil {
					return err
				}
				return a.show(raw, func() error { return a.printVersionChanges(d) })
			}
			q.Set("limit", strconv.Itoa(limit))
			var h control.HistoryRecord
			raw, _, err := api.call(cmd.Context(), http.MethodGet, path(), nil, nil, &h)
			if err != nil {
				return err
			}
			return a.show(raw, func() error { return a.printHistory(h) })
		},
	}
	f := c.Flags()
	f.StringVar(&source, "source", "", "the source; needed where several have an object of this type and id")
	f.IntVar(&limit, "limit", 20, "at most so many versions")
	f.StringVar(&show, "show", "", "print the configuration of this version")
	f.StringVar(&diff, "diff", "", "print what changed in this version, or between two: FROM..TO")
	return c
}

// isVersion tells whether a text can be a version.
func isVersion(s string) bool {
	for part := range strings.SplitSeq(s, ".") {
		if n, err := strconv.ParseUint(part, 10, 64); err != nil || n == 0 {
			return false
		}
	}
	return strings.Count(s, ".") <= 1
}

func (a *app) printHistory(h control.HistoryRecord) error {
	fmt.Fprintf(a.out, "%s/%s %s at %s\n\n", h.Type, clean(h.ID), clean(h.Name), h.Source)
	t := newTable("VERSION", "SEQ", "KIND", "TIME", "WHO", "AT", "CHANGED")
	for _, v := range h.Versions {
		changed := strings.Join(v.Fields, ", ")
		if v.More {
			changed += ", and more"
		}
		switch {
		case v.Problem != "":
			changed = "its content cannot be read: " + v.Problem
		case v.Itself:
			changed = "it has deleted itself when it had run"
		case v.Late:
			changed = "older than what was there, and passed over"
		case v.Against != "" && changed == "":
			changed = "nothing that counts as configuration"
		}
		if v.Lost > 0 {
			changed = strings.TrimPrefix(fmt.Sprintf("%s (after %s no longer held)", changed, count(int(v.Lost), "version")), " ")
		}
		at := v.Source
		if len(v.OriginPath) > 0 {
			at += " (by vcsync, from " + strings.Join(v.OriginPath, ", ") + ")"
		}
		t.add(v.Version, strconv.FormatUint(v.Seq, 10), v.Kind, when(v.Time), dash(v.Who), at, dash(changed))
	}
	if err := t.print(a.out); err != nil {
		return err
	}
	if h.Older > 0 {
		fmt.Fprintf(a.out, "%s more; --limit shows them.\n", count(h.Older, "version"))
	}
	if h.Lost > 0 {
		fmt.Fprintf(a.out, "%s no longer held: the stream keeps 20 of each kind.\n", count(int(h.Lost), "version"))
	}
	if h.Odd > 0 {
		fmt.Fprintf(a.out, "%s by some other program among them, and left alone.\n", count(h.Odd, "message"))
	}
	if len(h.Places) == 0 {
		_, err := fmt.Fprintln(a.out, "\nNo target has it, and no sync setting takes it.")
		return err
	}
	fmt.Fprintln(a.out)
	t = newTable("TARGET", "VERSION", "STATE", "SINCE", "")
	for _, p := range h.Places {
		note := ""
		if !p.Newest {
			note = "not the newest"
		}
		if p.ID != "" {
			note = strings.TrimPrefix(note+", as "+p.ID, ", ")
		}
		if p.Held != "" {
			note = strings.TrimPrefix(note+"; "+p.Held, "; ")
		}
		t.add(p.Target, dash(p.Version), cmp.Or(p.State, "never brought"), when(p.At), note)
	}
	if err := t.print(a.out); err != nil {
		return err
	}
	for _, p := range h.Places {
		if p.Pass == "" {
			continue
		}
		if _, err := fmt.Fprintf(a.out, "Bring it back at %s: vcsync undo %s --object %s/%s\n", clean(p.Target), clean(p.Pass), h.Type, clean(cmp.Or(p.ID, h.ID))); err != nil {
			return err
		}
	}
	return nil
}

// printContent prints the configuration alone, so that it can be kept or compared.
func (a *app) printContent(v control.ContentRecord) error {
	if v.Body == nil {
		_, err := fmt.Fprintf(a.out, "Version %s is a deletion.\n", v.Version)
		return err
	}
	raw := jsontext.Value(v.Body)
	if err := raw.Indent(jsontext.WithIndent("  ")); err != nil { // a tab would be shown as one
		return err
	}
	_, err := fmt.Fprintf(a.out, "%s\n", cleanLines(string(bytes.TrimSpace(raw))))
	return err
}

func (a *app) printVersionChanges(d control.ChangesRecord) error {
	fmt.Fprintf(a.out, "%s -> %s\n", cmp.Or(d.From, "not there"), d.To)
	if d.Lost > 0 {
		fmt.Fprintf(a.out, "%s in between no longer held.\n", count(int(d.Lost), "version"))
	}
	for _, c := range d.Items {
		fmt.Fprintf(a.out, "%s\n", clean(cmp.Or(c.Field, "(the whole object)")))
		if c.Old != nil {
			fmt.Fprintf(a.out, "  - %s\n", clean(string(c.Old)))
		}
		if c.New != nil {
			fmt.Fprintf(a.out, "  + %s\n", clean(string(c.New)))
		}
		if bytes.Equal(c.Old, c.New) { // only a secret looks the same
			fmt.Fprintln(a.out, "    the secret is another")
		}
	}
	if d.More {
		fmt.Fprintln(a.out, "... and more fields")
	}
	if len(d.Items) == 0 {
		_, err := fmt.Fprintln(a.out, "They differ in nothing that counts as configuration.")
		return err
	}
	return nil
}
