package schemas

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/go-json-experiment/json/jsontext"
)

// Mode says what a sync setting does when it finds something to do.
type Mode string

// The modes.
const (
	// Automatic, the default, does it.
	Automatic Mode = ""
	// Approve shows it, and does it when a person has approved the plan.
	Approve Mode = "approve"
	// ReportOnly shows it and never does it, whatever anybody approves.
	ReportOnly Mode = "report"
)

// TargetEdits says what becomes of an object that somebody edited at the target since
// vcsync last wrote it or found it equal there, when its source changes it too.
type TargetEdits string

// What becomes of edits at the target.
const (
	// OverwriteEdits, the default: the source wins.
	OverwriteEdits TargetEdits = ""
	// KeepEdits: the target wins, and the object is shown as kept.
	KeepEdits TargetEdits = "keep"
	// ParkEdits: a person decides.
	ParkEdits TargetEdits = "park"
)

// Drift says what the audit pass does about an object that differs at the target
// without any change at the source.
type Drift string

// What becomes of drift.
const (
	// DriftReport, the default, shows it.
	DriftReport Drift = ""
	// DriftHeal does what Sync now would do.
	DriftHeal Drift = "heal"
)

// Versions says between which versions of VisualCron a setting writes.
type Versions string

// Which versions.
const (
	// SameVersions, the default: only where major and minor are equal.
	SameVersions Versions = ""
	// AnyVersions: whatever they are.
	AnyVersions Versions = "any"
)

// WindowKind says what a sync window does while it is open.
type WindowKind string

// Kinds of windows.
const (
	// AllowWindow: with one or more of these, writes happen only while one is open.
	AllowWindow WindowKind = "allow"
	// DenyWindow: no writes while it is open; it wins over AllowWindow.
	DenyWindow WindowKind = "deny"
)

// Window is a time in which a setting may, or may not, write to its target. What waits
// for one is shown as waiting; Sync now obeys windows too.
type Window struct {
	Kind WindowKind `json:"kind"`
	// Schedule is a cron expression of five fields: when the window opens.
	Schedule string `json:"schedule"`
	// Duration is how long it stays open, such as "8h" or "90m", from a minute to 366
	// days. It is read by the same clock: 8h from 22:00 end at 06:00, also in the nights in
	// which the clock is changed.
	Duration string `json:"duration"`
	// TimeZone is the IANA name of the zone by whose clock both are read; UTC where empty.
	TimeZone string `json:"timeZone,omitzero"`
	// Unknown holds the members that this version does not know (see Setting).
	Unknown jsontext.Value `json:"-"`
}

// KeptField is a place in objects of a type that is the target's own: it keeps its value
// there, and takes part in no comparison.
type KeptField struct {
	Type Type `json:"type"`
	// ID limits it to one object, by its id at the source; all of the type where empty.
	ID ID `json:"id,omitzero"`
	// Pointer is a JSON pointer (RFC 6901) into the body. An item of a list is named by
	// its own Id, or by * for every item, never by its place, which changes.
	Pointer string `json:"pointer"`
	// Unknown holds the members that this version does not know (see Setting).
	Unknown jsontext.Value `json:"-"`
}

// Override is a JSON merge patch (RFC 7396) that objects of a type get on their way.
type Override struct {
	Type Type `json:"type"`
	// ID limits it to one object, by its id at the source; all of the type where empty.
	// That of the one object is applied after that of the type.
	ID ID `json:"id,omitzero"`
	// Patch is a JSON object. It names no secret.
	Patch jsontext.Value `json:"patch"`
	// Unknown holds the members that this version does not know (see Setting).
	Unknown jsontext.Value `json:"-"`
}

// Pin says that an object of the source is another id's at the target. References to it
// are rewritten.
type Pin struct {
	Type   Type `json:"type"`
	Source ID   `json:"source"`
	Target ID   `json:"target"`
	// Name is the object's last known name, for people.
	Name string `json:"name,omitzero"`
	// Unknown holds the members that this version does not know (see Setting).
	Unknown jsontext.Value `json:"-"`
}

// Words of the defaults, which are stored as nothing.
const (
	wordAutomatic = "automatic"
	wordOverwrite = "overwrite"
	wordReport    = "report"
	wordSame      = "same"
)

// String returns the mode's word: automatic, approve or report.
func (m Mode) String() string { return wordOf(m, wordAutomatic) }

// ParseMode is the inverse of Mode.String. The error wraps ErrSetting.
func ParseMode(s string) (Mode, error) {
	return parseWord("mode", s, wordAutomatic, Automatic, Approve, ReportOnly)
}

// String returns the word: overwrite, keep or park.
func (t TargetEdits) String() string { return wordOf(t, wordOverwrite) }

// ParseTargetEdits is the inverse of TargetEdits.String. The error wraps ErrSetting.
func ParseTargetEdits(s string) (TargetEdits, error) {
	return parseWord("edits at the target", s, wordOverwrite, OverwriteEdits, KeepEdits, ParkEdits)
}

// String returns the word: report or heal.
func (d Drift) String() string { return wordOf(d, wordReport) }

// ParseDrift is the inverse of Drift.String. The error wraps ErrSetting.
func ParseDrift(s string) (Drift, error) {
	return parseWord("drift", s, wordReport, DriftReport, DriftHeal)
}

// String returns the word: same or any.
func (v Versions) String() string { return wordOf(v, wordSame) }

// ParseVersions is the inverse of Versions.String. The error wraps ErrSetting.
func ParseVersions(s string) (Versions, error) {
	return parseWord("versions", s, wordSame, SameVersions, AnyVersions)
}

func wordOf[T ~string](v T, ofDefault string) string {
	if v == "" {
		return ofDefault
	}
	return string(v)
}

func parseWord[T ~string](what, s, ofDefault string, allowed ...T) (T, error) {
	var words []string
	for _, a := range allowed {
		w := wordOf(a, ofDefault)
		if s == w {
			return a, nil
		}
		words = append(words, w)
	}
	return "", fmt.Errorf("%w: %s %.32q, want %s", ErrSetting, what, s, strings.Join(words[:len(words)-1], ", ")+" or "+words[len(words)-1])
}

// MeasureOf returns how many deletions of a type at the target in 24 hours are made
// without a person.
func (s Setting) MeasureOf(t Type) Measure {
	if m, ok := s.Deletes[t]; ok {
		return m
	}
	return DefaultMeasure
}

// GraceOf returns how long a deleted object of a type is only switched off at the target;
// 0 for not at all.
func (s Setting) GraceOf(t Type) time.Duration {
	if t != Job {
		return 0
	}
	d, _ := parseGrace(s.Grace)
	return d
}

// maxGrace bounds Setting.Grace.
const maxGrace = 366 * 24 * time.Hour

func parseGrace(text string) (time.Duration, error) {
	if text == "" {
		return 0, nil
	}
	d, err := time.ParseDuration(text)
	if err != nil || d < time.Minute || d > maxGrace {
		return 0, fmt.Errorf("%.32q, want a duration such as 48h, from 1m to 8784h", text)
	}
	return d, nil
}

// normalizePolicies stores a default that is spelled out as nothing, and sorts what has
// no order of its own.
func (s *Setting) normalizePolicies() {
	noDefault(&s.Mode, wordAutomatic)
	noDefault(&s.TargetEdits, wordOverwrite)
	noDefault(&s.Drift, wordReport)
	noDefault(&s.Versions, wordSame)
	s.Until = plainTime(s.Until)
	s.Deletes = plainMeasures(s.Deletes)
	if d, err := time.ParseDuration(s.Grace); err == nil && d == 0 {
		s.Grace = ""
	}
	slices.SortStableFunc(s.Kept, func(a, b KeptField) int {
		return slices.Compare([]string{string(a.Type), string(a.ID), a.Pointer}, []string{string(b.Type), string(b.ID), b.Pointer})
	})
	slices.SortStableFunc(s.Overrides, func(a, b Override) int {
		return slices.Compare([]string{string(a.Type), string(a.ID)}, []string{string(b.Type), string(b.ID)})
	})
	slices.SortStableFunc(s.Pins, func(a, b Pin) int {
		return slices.Compare([]string{string(a.Type), string(a.Source)}, []string{string(b.Type), string(b.Source)})
	})
	s.Windows, s.Kept, s.Overrides, s.Pins = orNil(s.Windows), orNil(s.Kept), orNil(s.Overrides), orNil(s.Pins)
}

func noDefault[T ~string](v *T, word string) {
	if string(*v) == word {
		*v = ""
	}
}

// orNil makes [] and no member at all the same list.
func orNil[T any](s []T) []T {
	if len(s) == 0 {
		return nil
	}
	return s
}

// clonePolicies makes the copy share nothing with where it came from.
func (s *Setting) clonePolicies() {
	s.Deletes = maps.Clone(s.Deletes)
	for t, m := range s.Deletes {
		m.Unknown = slices.Clone(m.Unknown)
		s.Deletes[t] = m
	}
	s.Windows, s.Kept, s.Pins, s.Overrides = slices.Clone(s.Windows), slices.Clone(s.Kept), slices.Clone(s.Pins), slices.Clone(s.Overrides)
	for i := range s.Overrides {
		s.Overrides[i].Patch = slices.Clone(s.Overrides[i].Patch)
		s.Overrides[i].Unknown = slices.Clone(s.Overrides[i].Unknown)
	}
	for i := range s.Windows {
		s.Windows[i].Unknown = slices.Clone(s.Windows[i].Unknown)
	}
	for i := range s.Kept {
		s.Kept[i].Unknown = slices.Clone(s.Kept[i].Unknown)
	}
	for i := range s.Pins {
		s.Pins[i].Unknown = slices.Clone(s.Pins[i].Unknown)
	}
}

// keepUnknownPolicies is KeepUnknown for the rows of the policies: those that are the
// same place or object in both, and windows that are the same.
func (s *Setting) keepUnknownPolicies(old Setting) {
	keepRows(s.Windows, old.Windows, func(w *Window) (string, *jsontext.Value) {
		return strings.Join([]string{string(w.Kind), w.Schedule, w.Duration, w.TimeZone}, "\x00"), &w.Unknown
	})
	keepRows(s.Kept, old.Kept, func(k *KeptField) (string, *jsontext.Value) {
		return strings.Join([]string{string(k.Type), string(k.ID), k.Pointer}, "\x00"), &k.Unknown
	})
	keepRows(s.Overrides, old.Overrides, func(o *Override) (string, *jsontext.Value) {
		return strings.Join([]string{string(o.Type), string(o.ID)}, "\x00"), &o.Unknown
	})
	keepRows(s.Pins, old.Pins, func(p *Pin) (string, *jsontext.Value) {
		return strings.Join([]string{string(p.Type), string(p.Source)}, "\x00"), &p.Unknown
	})
}

func keepRows[T any](rows, old []T, of func(*T) (key string, unknown *jsontext.Value)) {
	known := map[string]jsontext.Value{}
	for i := range old {
		key, unknown := of(&old[i])
		known[key] = *unknown
	}
	for i := range rows {
		key, unknown := of(&rows[i])
		*unknown = slices.Clone(known[key])
	}
}

// policyFaults reports what is wrong with the policies.
func (s Setting) policyFaults(add func(path, format string, a ...any)) {
	word := func(path string, err error) {
		if err != nil {
			add(path, "%v", err)
		}
	}
	_, err := ParseMode(s.Mode.String())
	word("mode", err)
	_, err = ParseTargetEdits(s.TargetEdits.String())
	word("targetEdits", err)
	_, err = ParseDrift(s.Drift.String())
	word("drift", err)
	_, err = ParseVersions(s.Versions.String())
	word("versions", err)
	measureFaults(s.Deletes, add)
	if _, err := parseGrace(s.Grace); err != nil {
		add("grace", "%v", err)
	}
	for i, w := range s.Windows {
		_, faults := w.parse()
		for _, f := range faults {
			add(fmt.Sprintf("windows[%d].%s", i, f[0]), "%s", f[1])
		}
	}
	object := func(path string, t Type, id ID, optional bool) {
		if _, err := ParseType(string(t)); err != nil {
			add(path+".type", "%v", err)
		}
		if id == "" && optional {
			return
		}
		if canonical, err := ParseID(string(id)); err != nil || canonical != id {
			add(path+".id", "%.64q is not an object id in its canonical form (GUIDs in lower case)", id)
		}
	}
	for i, k := range s.Kept {
		path := fmt.Sprintf("kept[%d]", i)
		object(path, k.Type, k.ID, true)
		if len(k.Pointer) < 2 || !jsontext.Pointer(k.Pointer).IsValid() {
			add(path+".pointer", "%.64q, want a JSON pointer such as /Description", k.Pointer)
		}
	}
	patched := map[string]bool{}
	for i, o := range s.Overrides {
		path := fmt.Sprintf("overrides[%d]", i)
		object(path, o.Type, o.ID, true)
		if o.Patch.Kind() != '{' || !o.Patch.IsValid() {
			add(path+".patch", "want a JSON object, a merge patch (RFC 7396)")
		}
		if key := string(o.Type) + "/" + string(o.ID); patched[key] {
			add(path, "%s has an override already; put both in one patch", strings.TrimSuffix(key, "/"))
		} else {
			patched[key] = true
		}
	}
	from, to := map[string]bool{}, map[string]bool{}
	for i, p := range s.Pins {
		path := fmt.Sprintf("pins[%d]", i)
		object(path, p.Type, p.Source, false)
		object(path, p.Type, p.Target, false)
		a, b := string(p.Type)+"/"+string(p.Source), string(p.Type)+"/"+string(p.Target)
		if from[a] {
			add(path+".source", "%.64q is pinned twice", p.Source)
		}
		if to[b] {
			add(path+".target", "two objects of the source are pinned to %.64q", p.Target)
		}
		from[a], to[b] = true, true
	}
}
