package main

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/spf13/cobra"

	"github.com/vcsync/vcsync/control"
	"github.com/vcsync/vcsync/schemas"
)

func newSettingCommand(a *app) *cobra.Command {
	return group("setting", "Sync settings: what a target takes from a source",
		newSettingAdd(a), newSettingEdit(a), newSettingList(a), newSettingShow(a), newSettingRemove(a),
		newSettingActive(a, "activate", "Turn a sync setting on, for good or for a time"), newSettingActive(a, "deactivate", "Turn a sync setting off, for good or for a time"), newSettingClone(a), newSettingMatch(a))
}

// settingFlags are what add and edit share.
type settingFlags struct {
	policyFlags
	from, to, policy, description string
	rules                         []string
	inactive, variableValues      bool
}

const ruleHelp = `A rule is one of
  Job=all:new,updated,deleted   all jobs, with these of the three rights
  Connection=none               no connections (also what no rule means)
  *=all:new,updated,deleted     every type but ServerSettings, which has to be named;
                                a rule for one type beside it counts for that type
  ServerSettings=all:updated    each server has one, so there is no other right
  Job/ID=updated                this job, with these rights; ID=none takes it out
Behind all and its rights, :group=G and :name=PATTERN narrow it; both may be repeated,
an object in any of the groups or with any of the names is taken, * stands for any text:
  Job=all:new,updated:group=Finance:name=Report*`

func (s *settingFlags) register(c *cobra.Command) {
	f := c.Flags()
	f.StringVar(&s.from, "from", "", "server that is read")
	f.StringVar(&s.to, "to", "", "server that is written to")
	f.StringArrayVar(&s.rules, "rule", nil, "what is taken of a type or an object; may be repeated")
	f.StringVar(&s.policy, "active", "keep", "a job's Active flag at the target: keep its own, follow the source, or off")
	f.BoolVar(&s.variableValues, "variable-values", false, "take the values of user variables too, not only their definition; tasks write them at run time")
	f.BoolVar(&s.inactive, "inactive", false, "the setting itself is off")
	f.StringVar(&s.description, "description", "", "words of your own")
	s.policyFlags.register(c)
}

func newSettingAdd(a *app) *cobra.Command {
	var s settingFlags
	c := &cobra.Command{
		Use:   "add NAME --from SERVER --to SERVER --rule RULE...",
		Short: "Add a sync setting",
		Long: "Adds a sync setting; it is active unless --inactive is given, and then it acts at once\n" +
			"on every object that it takes. To look first, add it with --inactive, look with\n\"vcsync sync NAME --dry-run\", and activate it.\n\n" + ruleHelp + "\n\n" + policyHelp,
		Example: `  vcsync setting add prod-to-test --from production --to test --rule '*=all:new,updated,deleted' --active keep
  vcsync setting add one-job --from production --to test --rule Job/3f2c...=updated --inactive`,
		Args: exactly(1, "the setting's name"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if s.from == "" || s.to == "" {
				return usageError("--from and --to are missing: name the server that is read and the one that is written to")
			}
			if len(s.rules) == 0 {
				return usageError("--rule is missing: say what is taken, such as --rule '*=all:new,updated,deleted'; see vcsync setting add --help")
			}
			changes, err := parseRules(s.rules)
			if err != nil {
				return err
			}
			in := control.NewSetting{ID: args[0], SettingBody: control.SettingBody{Source: s.from, Target: s.to, Active: !s.inactive, ActivePolicy: s.policy,
				VariableValues: s.variableValues, Description: s.description, Rules: map[string]control.RuleRecord{}}}
			if err := applyRules(in.Rules, changes); err != nil {
				return err
			}
			if err := s.apply(cmd, &in.SettingBody); err != nil {
				return err
			}
			if _, err := schemas.ParseActivePolicy(s.policy); err != nil {
				return usageError("--active: %w", err)
			}
			if _, err := schemas.ParseSlug(args[0]); err != nil {
				return usageError("%w", err)
			}
			api, err := a.client()
			if err != nil {
				return err
			}
			var out control.SettingRecord
			raw, _, err := api.call(cmd.Context(), http.MethodPost, apiPath("settings"), nil, in, &out)
			if err != nil {
				return err
			}
			return a.show(raw, func() error {
				return errors.Join(a.settingLine("is stored", out), a.actsLine(cmd.Context(), api, out, time.Now()))
			})
		},
	}
	s.register(c)
	return c
}

func newSettingEdit(a *app) *cobra.Command {
	var s settingFlags
	var yes bool
	c := &cobra.Command{
		Use:   "edit NAME",
		Short: "Change a sync setting",
		Long: `Changes what the flags name and leaves the rest as it is. A rule for a type
replaces that type's rule. A rule for an object adds or replaces its row; on a type
that is not taken at all it makes it listed, with just these rows.

An active automatic setting acts on a change at once, at every object, so on a terminal
that is asked about. To look first, deactivate it, change it, look with
"vcsync sync NAME --dry-run", and activate it. Where all is so already, nothing is written.

` + ruleHelp + "\n\n" + policyHelp,
		Args: exactly(1, "the setting's name"),
		RunE: func(cmd *cobra.Command, args []string) error {
			changes, err := parseRules(s.rules)
			if err != nil {
				return err
			}
			if cmd.Flags().Changed("active") {
				if _, err := schemas.ParseActivePolicy(s.policy); err != nil {
					return usageError("--active: %w", err)
				}
			}
			acts := false // more than words are changed
			for _, n := range append([]string{"from", "to", "rule", "active", "variable-values", "inactive"}, policyFlagNames...) {
				acts = acts || cmd.Flags().Changed(n)
			}
			if !acts && !cmd.Flags().Changed("description") {
				return usageError("nothing to change; see vcsync setting edit --help")
			}
			api, err := a.client()
			if err != nil {
				return err
			}
			var have control.SettingRecord
			raw, etag, err := api.call(cmd.Context(), http.MethodGet, apiPath("settings", args[0]), nil, nil, &have)
			if err != nil {
				return err
			}
			was, err := json.Marshal(have.SettingBody, json.Deterministic(true))
			if err != nil {
				return failed(exitRunTime, err)
			}
			body := have.SettingBody
			if body.Rules == nil {
				body.Rules = map[string]control.RuleRecord{}
			}
			if err := applyRules(body.Rules, changes); err != nil {
				return err
			}
			if err := s.apply(cmd, &body); err != nil {
				return err
			}
			for _, f := range []struct {
				flag string
				to   *string
				from string
			}{{"from", &body.Source, s.from}, {"to", &body.Target, s.to}, {"active", &body.ActivePolicy, s.policy}, {"description", &body.Description, s.description}} {
				if cmd.Flags().Changed(f.flag) {
					*f.to = f.from
				}
			}
			if cmd.Flags().Changed("variable-values") {
				body.VariableValues = s.variableValues
			}
			if cmd.Flags().Changed("inactive") {
				body.Active = !s.inactive
			}
			if is, err := json.Marshal(body, json.Deterministic(true)); err != nil {
				return failed(exitRunTime, err)
			} else if bytes.Equal(was, is) {
				return a.show(raw, func() error {
					_, err := fmt.Fprintf(a.out, "Sync setting %s is so already; nothing was changed.\n", clean(args[0]))
					return err
				})
			}
			if !yes && acts && terminal(a.in) && actsAtOnce(body) {
				question := fmt.Sprintf("Sync setting %s is active and automatic: this acts at once on %s. Change it?", clean(args[0]), upTo(cmd.Context(), api, body))
				if err := a.confirm(cmd.Context(), question); err != nil {
					return err
				}
			}
			var out control.SettingRecord
			raw, _, err = api.call(cmd.Context(), http.MethodPut, apiPath("settings", args[0]), map[string]string{"If-Match": etag}, body, &out)
			if err != nil {
				return err
			}
			return a.show(raw, func() error {
				return errors.Join(a.settingLine("is changed", out), a.actsLine(cmd.Context(), api, out, time.Now()))
			})
		},
	}
	s.register(c)
	c.Flags().BoolVarP(&yes, "yes", "y", false, "do not ask")
	return c
}

// typeWords names types in few words.
func typeWords(types []string) string {
	return control.TypeWords(types, func(t string) string { return t })
}

// takesWords is typeWords for a table, where many names would take up the line.
func takesWords(types []string) string {
	if w := typeWords(types); len(w) <= 50 {
		return w
	}
	return fmt.Sprintf("%d types", len(types))
}

func variableWords(values bool) string {
	if values {
		return "definition and value"
	}
	return "definition; the value is each server's own"
}

// settingLine says what a setting is now.
func (a *app) settingLine(what string, s control.SettingRecord) error {
	state := "active"
	if !s.Active {
		state = "inactive"
	}
	if !s.Until.IsZero() {
		state += " until " + when(s.Until)
	}
	takes := cmp.Or(typeWords(s.Takes), "nothing")
	if s.VariableValues {
		takes += " with the values of variables"
	}
	takes += goneWords(s)
	_, err := fmt.Fprintf(a.out, "Sync setting %s %s: %s to %s, %s, takes %s; a job's Active flag: %s.\n", s.ID, what, s.Source, s.Target, state, takes, s.ActivePolicy)
	return err
}

// actsLine says after a save what follows of it by itself.
func (a *app) actsLine(ctx context.Context, api *client, s control.SettingRecord, now time.Time) error {
	for _, w := range s.Warnings {
		if _, err := fmt.Fprintf(a.out, "Warning: %s.\n", clean(w)); err != nil {
			return err
		}
	}
	if never(s.Windows, now) {
		_, err := fmt.Fprintln(a.out, "Warning: its sync windows do not open in the next years, so it writes nothing.")
		return err
	}
	if !actsAtOnce(s.SettingBody) {
		return nil
	}
	_, err := fmt.Fprintf(a.out, "It is active and automatic, so this acts at once on %[2]s. To look first:\n"+
		"  vcsync setting deactivate %[1]s, change it, vcsync sync %[1]s --dry-run, vcsync setting activate %[1]s\n", s.ID, upTo(ctx, api, s.SettingBody))
	return err
}

// actsAtOnce tells whether a setting writes by itself.
func actsAtOnce(s control.SettingBody) bool {
	return s.Active && (s.Mode == "" || s.Mode == schemas.Automatic.String()) && len(takenTypes(s)) > 0
}

// takenTypes returns the types of which a setting takes anything.
func takenTypes(s control.SettingBody) (out []string) {
	for t, r := range s.Rules {
		if r.New || r.Updated || r.Deleted || slices.ContainsFunc(r.Objects, func(o control.ObjectRuleRecord) bool { return o.New || o.Updated || o.Deleted }) {
			out = append(out, t)
		}
	}
	return out
}

// upTo says on how many objects a setting acts, as far as that is known: what of its
// types lies at the source.
func upTo(ctx context.Context, api *client, s control.SettingBody) string {
	every := "every object that it takes"
	var r control.StatusReport
	if _, _, err := api.call(ctx, http.MethodGet, apiPath("status"), nil, nil, &r); err != nil {
		return every // it is a hint
	}
	types, n := takenTypes(s), 0
	for _, src := range r.Sources {
		for _, t := range src.Types {
			if src.Server == s.Source && slices.Contains(types, t.Type) {
				n += t.Objects
			}
		}
	}
	if n == 0 {
		return every
	}
	return fmt.Sprintf("every object that it takes, of %d at %s", n, clean(s.Source))
}

// never tells whether windows do not open in the next years.
func never(windows []control.WindowRecord, now time.Time) bool {
	var w schemas.Windows
	for _, r := range windows {
		w = append(w, schemas.Window{Kind: schemas.WindowKind(r.Kind), Schedule: r.Schedule, Duration: r.Duration, TimeZone: r.TimeZone})
	}
	if len(w) == 0 {
		return false
	}
	open, next := w.At(now)
	return !open && next.IsZero()
}

func newSettingList(a *app) *cobra.Command {
	return &cobra.Command{Use: "list", Short: "List the sync settings", Args: none, RunE: func(cmd *cobra.Command, _ []string) error {
		api, err := a.client()
		if err != nil {
			return err
		}
		var out items[control.SettingRecord]
		raw, _, err := api.call(cmd.Context(), http.MethodGet, apiPath("settings"), nil, nil, &out)
		if err != nil {
			return err
		}
		return a.show(raw, func() error {
			if len(out.Items) == 0 {
				_, err := fmt.Fprintln(a.out, "No sync settings yet. Add one with: vcsync setting add NAME --from SERVER --to SERVER --rule '*=all:new,updated,deleted'")
				return err
			}
			t := newTable("NAME", "ACTIVE", "FROM", "TO", "TAKES", "MODE", "JOBS' ACTIVE", "DESCRIPTION")
			for _, s := range out.Items {
				t.add(s.ID, yesNo(s.Active), s.Source, s.Target, dash(takesWords(s.Takes)+goneWords(s)), cmp.Or(s.Mode, schemas.Automatic.String()), s.ActivePolicy, dash(shorten(s.Description, 60)))
			}
			if err := t.print(a.out); err != nil {
				return err
			}
			var r control.StatusReport
			if _, _, err := api.call(cmd.Context(), http.MethodGet, apiPath("status"), nil, nil, &r); err != nil {
				return nil // the list is what was asked for
			}
			for _, v := range r.Settings {
				if w := heldWords(v); w != "" {
					fmt.Fprintf(a.out, "%s: %s\n", clean(v.Setting), w)
				}
			}
			return nil
		})
	}}
}

func newSettingShow(a *app) *cobra.Command {
	return &cobra.Command{Use: "show NAME", Short: "Show a sync setting and its rules", Args: exactly(1, "the setting's name"), RunE: func(cmd *cobra.Command, args []string) error {
		api, err := a.client()
		if err != nil {
			return err
		}
		var s control.SettingRecord
		raw, _, err := api.call(cmd.Context(), http.MethodGet, apiPath("settings", args[0]), nil, nil, &s)
		if err != nil {
			return err
		}
		return a.show(raw, func() error {
			t := newTable("Name", s.ID)
			t.add("From", s.Source)
			t.add("To", s.Target)
			t.add("Active", stateWords(s))
			t.add("Jobs' Active", s.ActivePolicy)
			t.add("Variables", variableWords(s.VariableValues))
			policyRows(t, s)
			t.add("Description", dash(s.Description))
			t.add("Created", when(s.Created))
			t.add("Revision", fmt.Sprint(s.Revision))
			if err := t.print(a.out); err != nil {
				return err
			}
			for _, w := range s.Warnings {
				fmt.Fprintf(a.out, "Warning: %s.\n", clean(w))
			}
			if err := a.showFlagged(cmd.Context(), api, s.ID); err != nil {
				return err
			}
			fmt.Fprintln(a.out)
			t = newTable("TYPE", "SYNC", "RIGHTS", "OBJECT")
			for _, typ := range schemas.Types() {
				r, ok := s.Rules[string(typ)]
				if !ok {
					continue
				}
				if r.Sync != string(schemas.SyncListed) {
					t.add(string(typ), r.Sync, schemas.Rights(r.RightsRecord).String(), narrowWords(r))
				}
				for _, o := range r.Objects {
					sync := r.Sync
					if sync == string(schemas.SyncAll) {
						sync = "except"
					}
					t.add(string(typ), sync, schemas.Rights(o.RightsRecord).String(), strings.TrimSpace(o.ID+" "+o.Name)+goneMark(s, string(typ), o.ID))
				}
			}
			return t.print(a.out)
		})
	}}
}

// goneWords says how many listed objects are gone at the source.
func goneWords(s control.SettingRecord) string {
	if len(s.Gone) == 0 {
		return ""
	}
	return fmt.Sprintf(", %d listed gone", len(s.Gone))
}

// goneMark marks a listed object that is gone at the source.
func goneMark(s control.SettingRecord, t, id string) string {
	if slices.ContainsFunc(s.Gone, func(g control.GoneRecord) bool { return g.Type == t && g.ID == id }) {
		return " (gone at the source)"
	}
	return ""
}

// narrowWords says to what a rule of all is narrowed.
func narrowWords(r control.RuleRecord) string {
	var w []string
	for _, g := range r.Groups {
		w = append(w, "group "+g)
	}
	for _, n := range r.Names {
		w = append(w, "name "+n)
	}
	return strings.Join(w, ", ")
}

func newSettingRemove(a *app) *cobra.Command {
	return &cobra.Command{Use: "remove NAME", Short: "Forget a sync setting; nothing at its target is deleted", Args: exactly(1, "the setting's name"), RunE: func(cmd *cobra.Command, args []string) error {
		return a.removeRecord(cmd, "settings", "Sync setting", args[0], "Nothing at its target was deleted.")
	}}
}

func newSettingActive(a *app, verb, short string) *cobra.Command {
	var f stateFlags
	c := &cobra.Command{Use: verb + " NAME", Short: short, Args: exactly(1, "the setting's name"), RunE: func(cmd *cobra.Command, args []string) error {
		change, err := f.change(cmd, time.Now())
		if err != nil {
			return err
		}
		api, err := a.client()
		if err != nil {
			return err
		}
		_, etag, err := api.call(cmd.Context(), http.MethodGet, apiPath("settings", args[0]), nil, nil, nil)
		if err != nil {
			return err
		}
		var out control.SettingRecord
		raw, _, err := api.call(cmd.Context(), http.MethodPost, apiPath("settings", args[0], verb), map[string]string{"If-Match": etag}, change, &out)
		if err != nil {
			return err
		}
		return a.show(raw, func() error { return a.settingLine("is "+verb+"d", out) })
	}}
	f.register(c)
	return c
}

func newSettingClone(a *app) *cobra.Command {
	return &cobra.Command{Use: "clone NAME NEWNAME", Short: "Copy a sync setting; the copy is inactive", Args: exactly(2, "a setting's name and one for the copy"), RunE: func(cmd *cobra.Command, args []string) error {
		api, err := a.client()
		if err != nil {
			return err
		}
		out, raw, err := cloneSetting(cmd.Context(), api, args[0], args[1])
		if err != nil {
			return err
		}
		return a.show(raw, func() error { return a.settingLine("is a copy of "+clean(args[0]), out) })
	}}
}

func cloneSetting(ctx context.Context, api *client, name, to string) (out control.SettingRecord, raw []byte, err error) {
	_, tag, err := api.call(ctx, http.MethodGet, apiPath("settings", name), nil, nil, nil)
	if err != nil {
		return out, nil, err
	}
	raw, _, err = api.call(ctx, http.MethodPost, apiPath("settings", name, "clone"), map[string]string{"If-Match": tag}, control.CloneName{ID: to}, &out)
	return out, raw, err
}
