package main

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/spf13/cobra"

	"github.com/vcsync/vcsync/control"
	"github.com/vcsync/vcsync/schemas"
)

// policyFlags are the flags of add and edit for what is not the rules.
type policyFlags struct {
	mode, targetEdits, drift, versions string
	windows, kept, overrides, pins     []string
	deletes                            []string
	grace                              string
}

// nothing stands in a flag for what is to be taken out.
const nothing = "none"

const policyHelp = `A window is
  allow 0 22 * * 1-5 for 8h in Europe/Berlin   writes only while one such is open
  deny 0 8 * * * for 90m                       no writes while it is open; by UTC
with a cron expression of five fields (minute, hour, day, month, weekday) for when it
opens. The windows given replace those that there were; --window none takes all out.

What differs on purpose:
  --keep Job=/Description                      this field is the target's own
  --keep 'Job/ID=/Tasks/*/Timeout'             of one job: of every task of the list
  --override 'Connection={"Host":"test-db"}'   a JSON merge patch (RFC 7396) on the way
  --pin Job/ID=OTHER                           job ID of the source is OTHER at the target
Each adds to what there was; none in place of the value takes it out: --keep Job=none.`

func (p *policyFlags) register(c *cobra.Command) {
	f := c.Flags()
	f.StringVar(&p.mode, "mode", "automatic", "what it does with what it finds to do: automatic, approve (shows it and waits for you) or report (only ever shows it)")
	f.StringVar(&p.targetEdits, "target-edits", "overwrite", "an object that was edited at the target when its source changes it too: overwrite, keep or park")
	f.StringVar(&p.drift, "drift", "report", "an object that differs at the target without a change at the source: report or heal")
	f.StringVar(&p.versions, "versions", "same", "write between VisualCron versions of the same major and minor number, or any")
	f.StringArrayVar(&p.deletes, "deletes", nil, "how many deletions of a type at the target in 24 hours are made without a person, as TYPE=NUMBER,SHARE% or TYPE=default; may be repeated")
	f.StringVar(&p.grace, "grace", nothing, "how long a job that is gone at the source is only switched off before it is deleted, such as 48h")
	f.StringArrayVar(&p.windows, "window", nil, "when it may write; may be repeated")
	f.StringArrayVar(&p.kept, "keep", nil, "field that is the target's own; may be repeated")
	f.StringArrayVar(&p.overrides, "override", nil, "what is made different on the way; may be repeated")
	f.StringArrayVar(&p.pins, "pin", nil, "object that has another id at the target; may be repeated")
}

// policyFlagNames are those of register.
var policyFlagNames = []string{"mode", "target-edits", "drift", "versions", "deletes", "grace", "window", "keep", "override", "pin"}

// apply changes what the given flags name. Nothing is changed where it returns an error.
func (p *policyFlags) apply(c *cobra.Command, body *control.SettingBody) error {
	b := *body
	for _, f := range []struct {
		flag  string
		value string
		to    *string
		check func(string) error
	}{
		{"mode", p.mode, &b.Mode, func(s string) error { _, err := schemas.ParseMode(s); return err }},
		{"target-edits", p.targetEdits, &b.TargetEdits, func(s string) error { _, err := schemas.ParseTargetEdits(s); return err }},
		{"drift", p.drift, &b.Drift, func(s string) error { _, err := schemas.ParseDrift(s); return err }},
		{"versions", p.versions, &b.Versions, func(s string) error { _, err := schemas.ParseVersions(s); return err }},
	} {
		if !c.Flags().Changed(f.flag) {
			continue
		}
		if err := f.check(f.value); err != nil {
			return usageError("--%s: %w", f.flag, err)
		}
		*f.to = f.value
	}
	var err error
	if len(p.deletes) > 0 {
		if b.Deletes, err = measureFlags(b.Deletes, p.deletes); err != nil {
			return err
		}
	}
	if c.Flags().Changed("grace") {
		if b.Grace = p.grace; p.grace == nothing {
			b.Grace = ""
		}
	}
	if c.Flags().Changed("window") {
		b.Windows = nil
		for _, text := range p.windows {
			if text == nothing && len(p.windows) == 1 {
				break
			}
			w, err := parseWindow(text)
			if err != nil {
				return err
			}
			b.Windows = append(b.Windows, w)
		}
	}
	for _, text := range p.kept {
		if b.Kept, err = changeKept(b.Kept, text); err != nil {
			return err
		}
	}
	for _, text := range p.overrides {
		if b.Overrides, err = changeOverride(b.Overrides, text); err != nil {
			return err
		}
	}
	for _, text := range p.pins {
		if b.Pins, err = changePin(b.Pins, text); err != nil {
			return err
		}
	}
	*body = b
	return nil
}

// parseWindow reads "allow 0 22 * * 1-5 for 8h in Europe/Berlin".
func parseWindow(text string) (control.WindowRecord, error) {
	w := strings.Fields(text)
	zoned := len(w) == 10 && w[8] == "in"
	if (len(w) != 8 && !zoned) || w[6] != "for" || w[0] != string(schemas.AllowWindow) && w[0] != string(schemas.DenyWindow) {
		return control.WindowRecord{}, usageError("--window %q: want allow or deny, a cron expression of five fields, for, a time, and perhaps in and a time zone: 'allow 0 22 * * 1-5 for 8h in Europe/Berlin'", text)
	}
	out := control.WindowRecord{Kind: w[0], Schedule: strings.Join(w[1:6], " "), Duration: w[7]}
	if zoned {
		out.TimeZone = w[9]
	}
	return out, nil
}

func windowWords(w control.WindowRecord) string {
	s := w.Kind + " " + w.Schedule + " for " + w.Duration
	if w.TimeZone != "" {
		s += " in " + w.TimeZone
	}
	return s
}

// parsePlace reads Type=VALUE or Type/ID=VALUE. An id may hold any character, so the
// last separator of the flag counts, such as "=/" or "={".
func parsePlace(flag, text, separator string, needsID bool) (t schemas.Type, id schemas.ID, value string, err error) {
	left, ok := strings.CutSuffix(text, "="+nothing)
	value = nothing
	if !ok {
		i := strings.Index(text, separator)
		if i < 0 {
			return "", "", "", usageError("--%s %q: see --help for its form", flag, text)
		}
		left, value = text[:i], text[i+1:]
	}
	word, object, ofObject := strings.Cut(left, "/")
	if t, err = schemas.ParseType(word); err != nil {
		return "", "", "", usageError("--%s %q: %w", flag, text, err)
	}
	if !ofObject && needsID {
		return "", "", "", usageError("--%s %q: name the object, %s/ID", flag, text, t)
	}
	if ofObject {
		if id, err = schemas.ParseID(object); err != nil {
			return "", "", "", usageError("--%s %q: %w", flag, text, err)
		}
	}
	return t, id, value, nil
}

func changeKept(all []control.KeptRecord, text string) ([]control.KeptRecord, error) {
	t, id, value, err := parsePlace("keep", text, "=/", false)
	if err != nil {
		return nil, err
	}
	k := control.KeptRecord{Type: string(t), ID: string(id), Pointer: value}
	if value == nothing {
		left := slices.DeleteFunc(slices.Clone(all), func(o control.KeptRecord) bool { return o.Type == k.Type && o.ID == k.ID })
		if len(left) == len(all) {
			return nil, usageError("--keep %q: nothing is kept there", text)
		}
		return left, nil
	}
	if slices.Contains(all, k) {
		return all, nil
	}
	return append(slices.Clone(all), k), nil
}

func changeOverride(all []control.OverrideRecord, text string) ([]control.OverrideRecord, error) {
	t, id, value, err := parsePlace("override", text, "={", false)
	if err != nil {
		return nil, err
	}
	left := slices.DeleteFunc(slices.Clone(all), func(o control.OverrideRecord) bool { return o.Type == string(t) && o.ID == string(id) })
	if value == nothing {
		if len(left) == len(all) {
			return nil, usageError("--override %q: there is none", text)
		}
		return left, nil
	}
	if !jsontext.Value(value).IsValid() {
		return nil, usageError("--override %s: what stands behind = is no JSON object", beforeValue(text))
	}
	return append(left, control.OverrideRecord{Type: string(t), ID: string(id), Patch: control.Patch(value)}), nil
}

// beforeValue is what stands before the value of a flag, which may be long.
func beforeValue(text string) string {
	left, _, _ := strings.Cut(text, "=")
	return left
}

func changePin(all []control.PinRecord, text string) ([]control.PinRecord, error) {
	t, id, value, err := parsePlace("pin", text, "=", true)
	if err != nil {
		return nil, err
	}
	left := slices.DeleteFunc(slices.Clone(all), func(o control.PinRecord) bool { return o.Type == string(t) && o.Source == string(id) })
	if value == nothing {
		if len(left) == len(all) {
			return nil, usageError("--pin %q: it is not pinned", text)
		}
		return left, nil
	}
	to, err := schemas.ParseID(value)
	if err != nil {
		return nil, usageError("--pin %q: %w", text, err)
	}
	return append(left, control.PinRecord{Type: string(t), Source: string(id), Target: string(to)}), nil
}

// ofObject names a type, or one of its objects.
func ofObject(t, id string) string {
	if id == "" {
		return t
	}
	return t + "/" + id
}

// policyRows adds a setting's policies to the table of show; what is the default and
// says nothing is left out.
func policyRows(t *table, s control.SettingRecord) {
	t.add("Mode", s.Mode)
	t.add("Edits at the target", s.TargetEdits)
	t.add("Drift", s.Drift)
	t.add("Versions", s.Versions)
	for _, name := range slices.Sorted(maps.Keys(s.Deletes)) {
		m := s.Deletes[name]
		t.add("Deletions in 24 hours", fmt.Sprintf("%s: up to %d or %d %%", name, m.Number, m.Share))
	}
	if s.Grace != "" {
		t.add("Grace", s.Grace)
	}
	for _, w := range s.Windows {
		t.add("Window", windowWords(w))
	}
	for _, k := range s.Kept {
		t.add("Kept", ofObject(k.Type, k.ID)+" "+k.Pointer)
	}
	for _, o := range s.Overrides {
		t.add("Override", ofObject(o.Type, o.ID)+" "+shorten(string(o.Patch), 200))
	}
	for _, p := range s.Pins {
		t.add("Pinned", strings.TrimSpace(fmt.Sprintf("%s/%s is %s there %s", p.Type, p.Source, p.Target, p.Name)))
	}
}

// stateWords says whether a setting is on, why and until when.
func stateWords(s control.SettingRecord) string {
	w := yesNo(s.Active)
	if !s.Until.IsZero() {
		w += ", until " + when(s.Until)
	}
	if s.Reason != "" {
		w += ": " + s.Reason
	}
	return w
}

// stateFlags are those of activate and deactivate.
type stateFlags struct {
	reason, until string
	dur           time.Duration
}

func (f *stateFlags) register(c *cobra.Command) {
	c.Flags().StringVar(&f.reason, "reason", "", "why, for those who find it so")
	c.Flags().DurationVar(&f.dur, "for", 0, "change back by itself after this time, such as 2h")
	c.Flags().StringVar(&f.until, "until", "", "change back by itself at this time, such as 2026-11-23T18:00:00+01:00, or 18:00 of this computer's clock")
}

// change is what the flags ask for.
func (f *stateFlags) change(c *cobra.Command, now time.Time) (control.StateChange, error) {
	out := control.StateChange{Reason: f.reason}
	switch {
	case c.Flags().Changed("for") && f.until != "":
		return out, usageError("--for and --until: want one of the two")
	case c.Flags().Changed("for") && f.dur < time.Second:
		return out, usageError("--for %s: want a second or more", f.dur)
	case c.Flags().Changed("for"):
		out.For = f.dur.String()
	case f.until != "":
		t, err := parseUntil(f.until, now)
		if err != nil {
			return out, err
		}
		if !t.After(now) {
			return out, usageError("--until %s is past", f.until)
		}
		out.Until = t.UTC()
	}
	return out, nil
}

// parseUntil reads a moment: with its zone, or by now's, of today or the next day where
// only the time of day is given.
func parseUntil(text string, now time.Time) (time.Time, error) {
	if t, err := time.Parse(time.RFC3339, text); err == nil {
		return t, nil
	}
	for _, layout := range []string{"2006-01-02T15:04", "2006-01-02 15:04", "2006-01-02T15:04:05", "2006-01-02 15:04:05"} {
		if t, err := time.ParseInLocation(layout, text, now.Location()); err == nil {
			return t, nil
		}
	}
	t, err := time.Parse("15:04", text)
	if err != nil {
		return time.Time{}, usageError("--until %q: want a time such as 2026-11-23T18:00:00+01:00, 2026-11-23 18:00 or 18:00", text)
	}
	at := time.Date(now.Year(), now.Month(), now.Day(), t.Hour(), t.Minute(), 0, 0, now.Location())
	if !at.After(now) {
		at = time.Date(now.Year(), now.Month(), now.Day()+1, t.Hour(), t.Minute(), 0, 0, now.Location())
	}
	return at, nil
}
