package schemas

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/go-json-experiment/json/jsontext"
)

// ActivePolicy says what becomes of a job's Active flag at the target. It is a
// policy and never a copied bit.
type ActivePolicy string

// The active policies.
const (
	// Keep, the default, leaves the target's own state; new jobs arrive inactive.
	Keep ActivePolicy = "keep"
	// Follow sets the state that the job has at the source.
	Follow ActivePolicy = "follow"
	// Off makes every job that the setting writes inactive.
	Off ActivePolicy = "off"
)

// ParseActivePolicy is the inverse of string(ActivePolicy). The error wraps
// ErrSetting.
func ParseActivePolicy(s string) (ActivePolicy, error) {
	switch p := ActivePolicy(s); p {
	case Keep, Follow, Off:
		return p, nil
	}
	return "", fmt.Errorf("%w: active policy %.32q, want keep, follow or off", ErrSetting, s)
}

// SyncMode is the choice at the top of a type's tab.
type SyncMode string

// The modes, in the words of the native window.
const (
	SyncNone   SyncMode = "none"   // Sync None
	SyncAll    SyncMode = "all"    // Sync all, with new, updated, deleted
	SyncListed SyncMode = "listed" // Sync the following
)

// ParseSyncMode is the inverse of string(SyncMode). The error wraps ErrSetting.
func ParseSyncMode(s string) (SyncMode, error) {
	switch m := SyncMode(s); m {
	case SyncNone, SyncAll, SyncListed:
		return m, nil
	}
	return "", fmt.Errorf("%w: sync %.32q, want none, all or listed", ErrSetting, s)
}

// Rights say which of the three kinds of change a setting takes of an object.
type Rights struct {
	New     bool `json:"new,omitzero"`     // create where it is absent at the target
	Updated bool `json:"updated,omitzero"` // overwrite where it differs
	Deleted bool `json:"deleted,omitzero"` // delete where it is gone at the source
}

// Use is the native window's box of that name: the object takes part. It is
// derived: any of the three.
func (r Rights) Use() bool { return r.New || r.Updated || r.Deleted }

// Union returns what either of the two allows.
func (r Rights) Union(o Rights) Rights {
	return Rights{r.New || o.New, r.Updated || o.Updated, r.Deleted || o.Deleted}
}

// String returns the rights as ParseRights takes them: "new,updated,deleted", or
// "none".
func (r Rights) String() string {
	var w []string
	for _, x := range []struct {
		on   bool
		word string
	}{{r.New, "new"}, {r.Updated, "updated"}, {r.Deleted, "deleted"}} {
		if x.on {
			w = append(w, x.word)
		}
	}
	if w == nil {
		return "none"
	}
	return strings.Join(w, ",")
}

// ParseRights is the inverse of Rights.String; it also takes the three words in
// any order. The error wraps ErrSetting.
func ParseRights(s string) (Rights, error) {
	var r Rights
	if s == "none" {
		return r, nil
	}
	for w := range strings.SplitSeq(s, ",") {
		box := map[string]*bool{"new": &r.New, "updated": &r.Updated, "deleted": &r.Deleted}[w]
		if box == nil || *box {
			return Rights{}, fmt.Errorf("%w: %.64q, want none or some of new, updated, deleted, each once, with commas", ErrSetting, s)
		}
		*box = true
	}
	return r, nil
}

// ObjectRule is one row of "Sync the following".
type ObjectRule struct {
	ID ID `json:"id"`
	// Name is the object's last known name, for people; nothing is matched by it.
	Name string `json:"name,omitzero"`
	Rights
	// Unknown holds the members that this version does not know (see Setting).
	Unknown jsontext.Value `json:"-"`
}

// Rule says what a setting takes of one type.
type Rule struct {
	Sync SyncMode `json:"sync"`
	// Rights are those of SyncAll, all false otherwise.
	Rights
	// Groups and Names, beside SyncAll, narrow it to objects that are in one of the
	// groups or whose name fits one of the patterns, in which * stands for any text and ?
	// for one character; case does not count. With neither, all are taken.
	Groups []string `json:"groups,omitzero"`
	Names  []string `json:"names,omitzero"`
	// Objects are those of SyncListed. Beside SyncAll they are exceptions: the
	// object's own rights stand in place of the rule's, and none leaves it out. At
	// most one per id, sorted by it after Normalize; empty for SyncNone.
	Objects []ObjectRule `json:"objects,omitzero"`
	// Unknown holds the members that this version does not know (see Setting).
	Unknown jsontext.Value `json:"-"`
}

// Of returns the rights that the rule gives for an object. A row of its own wins over
// groups and names. Objects born later at the source are in no list, so SyncListed
// gives nothing for them.
func (r Rule) Of(o Selected) Rights {
	rights, whatever := r.most(o.ID)
	if !whatever && !r.covers(o.Name, o.Group) {
		return Rights{}
	}
	return rights
}

// most returns the rights that the rule gives for an object, if what it is called does
// not keep it out: whatever tells that it cannot.
func (r Rule) most(id ID) (rights Rights, whatever bool) {
	if r.Sync == SyncAll || r.Sync == SyncListed {
		if o, ok := r.row(id); ok {
			return o.Rights, true
		}
	}
	if r.Sync == SyncAll {
		return r.Rights, len(r.Groups)+len(r.Names) == 0
	}
	return Rights{}, true
}

// covers tells whether one of the groups or names of the rule is that of an object.
func (r Rule) covers(name, group string) bool {
	// As long as in an event's headers, from which most of them come.
	name, group = cutText(name), cutText(group)
	return slices.ContainsFunc(r.Groups, func(g string) bool { return sameGroup(g, group) }) ||
		slices.ContainsFunc(r.Names, func(p string) bool { return MatchName(p, name) })
}

// row finds the row of an object. Few rows are looked through, because only
// Normalize sorts them; of many, all come from there.
func (r Rule) row(id ID) (ObjectRule, bool) {
	i := -1
	if len(r.Objects) < 64 {
		i = slices.IndexFunc(r.Objects, func(o ObjectRule) bool { return o.ID == id })
	} else if at, ok := slices.BinarySearchFunc(r.Objects, id, func(o ObjectRule, id ID) int { return strings.Compare(string(o.ID), string(id)) }); ok {
		i = at
	}
	if i < 0 {
		return ObjectRule{}, false
	}
	return r.Objects[i], true
}

// Takes tells whether the rule can give any right at all.
func (r Rule) Takes() bool {
	return r.Sync == SyncAll && r.Use() || (r.Sync == SyncAll || r.Sync == SyncListed) && slices.ContainsFunc(r.Objects, func(o ObjectRule) bool { return o.Use() })
}

// Setting is one row of the Sync Server Objects window: the target pulls from the
// source what the rules allow.
type Setting struct {
	// ID is given at creation and never changes.
	ID     Slug `json:"id"`
	Source Slug `json:"source"`
	Target Slug `json:"target"`
	// Active turns the automatic following on.
	Active bool         `json:"active"`
	Policy ActivePolicy `json:"activePolicy"`
	// Rules hold the types that take part; an absent type is SyncNone.
	Rules map[Type]Rule `json:"rules"`
	// VariableValues takes the values of user variables too, not only their
	// definition. Tasks write them at run time, so they are each server's own
	// otherwise.
	VariableValues bool `json:"variableValues,omitzero"`
	// Mode, TargetEdits, Drift and Versions are the default where empty.
	Mode        Mode        `json:"mode,omitzero"`
	TargetEdits TargetEdits `json:"targetEdits,omitzero"`
	Drift       Drift       `json:"drift,omitzero"`
	Versions    Versions    `json:"versions,omitzero"`
	// Deletes says, by type, how many deletions at the target in 24 hours are made without
	// a person; DefaultMeasure for a type that is not named.
	Deletes map[Type]Measure `json:"deletes,omitzero"`
	// Grace is how long a job that is gone at its source is only switched off at the
	// target before it is deleted there, such as "48h", from a minute to 366 days; not at
	// all where empty.
	Grace string `json:"grace,omitzero"`
	// Windows say when it may write; at any time where there are none.
	Windows Windows `json:"windows,omitzero"`
	// Kept, Overrides and Pins are how servers differ on purpose.
	Kept      []KeptField `json:"kept,omitzero"`
	Overrides []Override  `json:"overrides,omitzero"`
	Pins      []Pin       `json:"pins,omitzero"`
	// Reason says why somebody changed Active last, Until when it changes back by
	// itself; zero where it stays.
	Reason string    `json:"reason,omitzero"`
	Until  time.Time `json:"until,omitzero"`
	// Since holds the revision of the settings at which it, being active, began to take a
	// type; absent for long ago. What was captured of the type before is not written until
	// the source was listed since. Who stores a setting keeps it: see broker.Snapshot.Since.
	Since map[Type]uint64 `json:"since,omitempty"`
	// Description is the admin's own words.
	Description string    `json:"description,omitzero"`
	Created     time.Time `json:"created,omitzero"`
	// Unknown holds the members that this version does not know, as one JSON
	// object, nil where there are none. ParseSetting fills it and Encode writes it
	// back, so that an older release loses nothing of a newer one's (G10). Other
	// codecs leave it out: see KeepUnknown.
	Unknown jsontext.Value `json:"-"`
}

// Selected is what decides whether a rule takes an object. Name and Group are those at
// the source, in its newest version; of a deleted object, the last ones.
type Selected struct {
	ID          ID
	Name, Group string
}

// Selected is what rules ask about the object of an event.
func (e Event) Selected() Selected { return Selected{e.Object.ID, e.Object.Name, e.Object.Group} }

// Selected is what rules ask about the object of the event.
func (h Head) Selected() Selected { return Selected{h.ID, h.Name, h.Group} }

// Rights returns what the setting takes of one object, whether or not it is
// active.
func (s Setting) Rights(t Type, o Selected) Rights { return s.Rules[t].Of(o) }

// MayTake tells whether the setting takes the object with that id, or would if it were
// called otherwise.
func (s Setting) MayTake(t Type, id ID) bool {
	rights, _ := s.Rules[t].most(id)
	return rights.Use()
}

// MayBring tells whether the setting brings the object with that id to a target that has
// none, or would if it were called otherwise.
func (s Setting) MayBring(t Type, id ID) bool {
	rights, _ := s.Rules[t].most(id)
	return rights.New
}

// TakenTypes returns the types of which the setting takes anything, in the order
// of Types: the native window's Description column.
func (s Setting) TakenTypes() []Type {
	var out []Type
	for _, t := range Types() {
		if s.Rules[t].Takes() {
			out = append(out, t)
		}
	}
	return out
}

// Normalize brings equal settings to one form: the default policy is spelled out,
// rows are sorted by id, times are UTC, and a rule that takes nothing of "all" or
// lists nothing is none, which is the same as no rule. Rows of a list are kept even
// without rights, because they hold the object's last known name. A rule that
// contradicts itself is kept too, for Validate to name. The map and the lists are
// changed in place; Clone first what others hold.
func (s *Setting) Normalize() {
	if s.Policy == "" {
		s.Policy = Keep
	}
	if s.Rules == nil {
		s.Rules = map[Type]Rule{}
	}
	for t, r := range s.Rules {
		_, err := ParseSyncMode(string(r.Sync))
		if (err == nil || r.Sync == "") && !r.Use() && len(r.Objects) == 0 && r.Unknown == nil {
			delete(s.Rules, t)
			continue
		}
		slices.SortStableFunc(r.Objects, func(a, b ObjectRule) int { return strings.Compare(string(a.ID), string(b.ID)) })
		if len(r.Objects) == 0 {
			r.Objects = nil // [] and no member at all are the same list
		}
		r.Groups, r.Names = orNil(r.Groups), orNil(r.Names)
		s.Rules[t] = r
	}
	s.Created = plainTime(s.Created)
	s.normalizePolicies()
}

// Clone returns a copy that shares nothing with s.
func (s Setting) Clone() Setting {
	s.Unknown = slices.Clone(s.Unknown)
	s.clonePolicies()
	s.Since = maps.Clone(s.Since)
	s.Rules = maps.Clone(s.Rules)
	for t, r := range s.Rules {
		r.Unknown = slices.Clone(r.Unknown)
		r.Groups, r.Names = slices.Clone(r.Groups), slices.Clone(r.Names)
		r.Objects = slices.Clone(r.Objects)
		for i := range r.Objects {
			r.Objects[i].Unknown = slices.Clone(r.Objects[i].Unknown)
		}
		s.Rules[t] = r
	}
	return s
}

// KeepUnknown takes over from old, the stored form of the same setting, the
// members that this version does not know: those of the setting, of rules that
// both have, and of rows that both have. A caller that builds a setting from
// another codec's JSON needs it before Encode.
func (s *Setting) KeepUnknown(old Setting) {
	s.Unknown = slices.Clone(old.Unknown)
	s.keepUnknownPolicies(old)
	for t, m := range s.Deletes {
		m.Unknown = slices.Clone(old.Deletes[t].Unknown)
		s.Deletes[t] = m
	}
	for t, r := range s.Rules {
		or, ok := old.Rules[t]
		if !ok {
			continue
		}
		r.Unknown = slices.Clone(or.Unknown)
		rows := map[ID]jsontext.Value{}
		for _, o := range or.Objects {
			rows[o.ID] = o.Unknown
		}
		for i := range r.Objects {
			r.Objects[i].Unknown = slices.Clone(rows[r.Objects[i].ID])
		}
		s.Rules[t] = r
	}
}

// Encode returns the setting's normal form as JSON: equal settings give equal
// bytes. The error wraps ErrSetting.
func (s Setting) Encode() ([]byte, error) {
	s = s.Clone()
	s.Normalize()
	if err := s.Validate(); err != nil {
		return nil, err
	}
	b, err := encodeRecord(struct {
		plainSetting
		Unknown jsontext.Value `json:",embed"`
	}{plainSetting(s), s.Unknown})
	if err != nil {
		return nil, fmt.Errorf("%w: %s: %w", ErrSetting, s.ID, err)
	}
	return b, nil
}

// ParseSetting is the inverse of Setting.Encode. It keeps members that it does not
// know in Unknown, normalizes, and refuses with an error that wraps ErrSetting:
// duplicate names, invalid UTF-8, trailing bytes, unknown types, and whatever
// Validate refuses.
func ParseSetting(b []byte) (Setting, error) {
	var w struct {
		plainSetting
		Unknown jsontext.Value `json:",embed"`
	}
	if err := parseRecord(b, &w); err != nil {
		return Setting{}, fmt.Errorf("%w: %w", ErrSetting, err)
	}
	s := Setting(w.plainSetting)
	s.Unknown = w.Unknown
	s.Normalize()
	if err := s.Validate(); err != nil {
		return Setting{}, err
	}
	return s, nil
}

// Validate reports all faults of the setting at once, each with its path. The
// error wraps ErrSetting.
func (s Setting) Validate() error {
	var errs []error
	add := func(path, format string, a ...any) {
		errs = append(errs, fmt.Errorf("%w: %s: %s", ErrSetting, path, fmt.Sprintf(format, a...)))
	}
	for _, f := range []struct {
		path string
		slug Slug
	}{{"id", s.ID}, {"source", s.Source}, {"target", s.Target}} {
		if _, err := ParseSlug(string(f.slug)); err != nil {
			add(f.path, "%v", err)
		}
	}
	if s.Source == s.Target && s.Source != "" {
		add("target", "is the source itself, %s; name two different servers", s.Source)
	}
	if _, err := ParseActivePolicy(string(s.Policy)); err != nil {
		add("activePolicy", "%q, want keep, follow or off", s.Policy)
	}
	for _, t := range Types() {
		r, ok := s.Rules[t]
		if !ok {
			continue
		}
		path := "rules." + string(t)
		if _, err := ParseSyncMode(string(r.Sync)); err != nil {
			add(path+".sync", "%q, want none, all or listed", r.Sync)
		}
		if r.Sync != SyncAll && r.Use() {
			add(path, "new, updated and deleted beside sync %q; they belong to all, or to each listed object", r.Sync)
		}
		if r.Sync != SyncAll && len(r.Groups)+len(r.Names) > 0 {
			add(path, "groups and names beside sync %q; they narrow all", r.Sync)
		}
		narrowFaults(r, path, add)
		if r.Sync == SyncNone && len(r.Objects) > 0 {
			add(path+".objects", "%d objects beside sync %q; want all or listed", len(r.Objects), r.Sync)
		}
		if t == ServerSettings {
			for _, fault := range serverSettingsFaults(r) {
				add(path+fault[0], "%s", fault[1])
			}
		}
		seen := map[ID]bool{}
		if r.Sync == SyncAll && !r.Use() && len(r.Objects) > 0 {
			add(path+".objects", "%d exceptions to sync all without a right; want listed", len(r.Objects))
		}
		for i, o := range r.Objects {
			if id, err := ParseID(string(o.ID)); err != nil || id != o.ID {
				add(fmt.Sprintf("%s.objects[%d].id", path, i), "%.64q is not an object id in its canonical form (GUIDs in lower case)", o.ID)
			}
			if seen[o.ID] {
				add(fmt.Sprintf("%s.objects[%d].id", path, i), "%.64q is listed twice", o.ID)
			}
			seen[o.ID] = true
		}
	}
	s.policyFaults(add)
	for _, t := range slices.Sorted(maps.Keys(s.Rules)) {
		if _, err := ParseType(string(t)); err != nil {
			add("rules", "%v", err)
		}
	}
	return errors.Join(errs...)
}

// serverSettingsID is the id of every server's one ServerSettings object.
const serverSettingsID ID = "server"

// serverSettingsFaults says what only a rule of ServerSettings may not hold, each
// with where it stands in the rule: every server has one such object, which is
// never created nor deleted.
func serverSettingsFaults(r Rule) (faults [][2]string) {
	const only = "new and deleted do not apply: each server has one object of this type, which is never created nor deleted; want updated alone"
	if r.New || r.Deleted {
		faults = append(faults, [2]string{"", only})
	}
	for i, o := range r.Objects {
		at := fmt.Sprintf(".objects[%d]", i)
		if o.New || o.Deleted {
			faults = append(faults, [2]string{at, only})
		}
		if o.ID != serverSettingsID {
			faults = append(faults, [2]string{at + ".id", fmt.Sprintf("%.64q; the one object of this type is %s", o.ID, serverSettingsID)})
		}
	}
	return faults
}
