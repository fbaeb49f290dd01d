package control

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/vcsync/vcsync/broker"
	"github.com/vcsync/vcsync/schemas"
)

// RightsRecord says which of the three kinds of change are taken.
type RightsRecord struct {
	New     bool `json:"new,omitzero" doc:"Create where it is absent at the target."`
	Updated bool `json:"updated,omitzero" doc:"Overwrite where it differs."`
	Deleted bool `json:"deleted,omitzero" doc:"Delete where it is gone at the source."`
}

// ObjectRuleRecord is one row of "Sync the following".
type ObjectRuleRecord struct {
	ID   string `json:"id" minLength:"1" maxLength:"4096"`
	Name string `json:"name,omitzero" maxLength:"1000" doc:"The object's last known name, for people."`
	RightsRecord
}

// RuleRecord says what a sync setting takes of one type.
type RuleRecord struct {
	Sync string `json:"sync" enum:"none,all,listed" doc:"Sync None, Sync all, or Sync the following."`
	RightsRecord
	Groups  []string           `json:"groups,omitzero" maxItems:"1000" doc:"Beside all: only objects in one of these groups, or of one of these names. Case does not count."`
	Names   []string           `json:"names,omitzero" maxItems:"1000" doc:"Beside all: patterns of names, in which * stands for any text and ? for one character."`
	Objects []ObjectRuleRecord `json:"objects,omitzero" maxItems:"20000" doc:"The rows of Sync the following; beside all, the objects with rights of their own."`
}

// SettingBody is what a person decides about a sync setting.
type SettingBody struct {
	Source         string                `json:"source" maxLength:"48" doc:"The server that is read."`
	Target         string                `json:"target" maxLength:"48" doc:"The server that is written to."`
	Active         bool                  `json:"active" doc:"Turns the automatic following on."`
	ActivePolicy   string                `json:"activePolicy,omitzero" enum:"keep,follow,off" default:"keep" doc:"What becomes of a job's Active flag at the target."`
	Rules          map[string]RuleRecord `json:"rules" nullable:"false" doc:"By type, in VisualCron's singular words; a type without a rule is not synced. ServerSettings has one object, server, and takes updated alone."`
	VariableValues bool                  `json:"variableValues,omitzero" doc:"Take the values of user variables too, not only their definition. Tasks write them at run time."`
	Mode           string                `json:"mode,omitzero" enum:"automatic,approve,report" default:"automatic" doc:"Whether it does what it finds to do, shows it and waits for an approval, or only ever shows it."`
	TargetEdits    string                `json:"targetEdits,omitzero" enum:"overwrite,keep,park" default:"overwrite" doc:"What becomes of an object that was edited at the target, when its source changes it too."`
	Drift          string                `json:"drift,omitzero" enum:"report,heal" default:"report" doc:"What is done about an object that differs at the target without a change at the source."`
	Versions       string                `json:"versions,omitzero" enum:"same,any" default:"same" doc:"Between which versions of VisualCron it writes: of the same major and minor number, or any."`
	// Deletes is by type.
	Deletes     map[string]MeasureRecord `json:"deletes,omitempty" doc:"By type, how many deletions at the target in 24 hours are made without a person; 5 and 10 % of what came from the source where absent."`
	Grace       string                   `json:"grace,omitzero" maxLength:"40" doc:"How long a job that is gone at its source is only switched off at the target before it is deleted, such as 48h; not at all where absent."`
	Windows     []WindowRecord           `json:"windows,omitzero" maxItems:"100" doc:"When it may write; at any time where there are none."`
	Kept        []KeptRecord             `json:"kept,omitzero" maxItems:"1000" doc:"Places in objects that are the target's own."`
	Overrides   []OverrideRecord         `json:"overrides,omitzero" maxItems:"1000" doc:"What is made different on the way."`
	Pins        []PinRecord              `json:"pins,omitzero" maxItems:"20000" doc:"Objects that have another id at the target."`
	Description string                   `json:"description,omitzero" maxLength:"2000"`
}

// NewSetting is the body of adding a sync setting.
type NewSetting struct {
	ID string `json:"id" minLength:"1" maxLength:"48" doc:"The short name: lower-case letters, digits and inner hyphens."`
	SettingBody
}

// CloneName is the body of copying a sync setting.
type CloneName struct {
	ID string `json:"id" minLength:"1" maxLength:"48" doc:"The short name of the copy."`
}

// SettingRecord is a sync setting as the API shows it.
type SettingRecord struct {
	ID string `json:"id"`
	SettingBody
	Takes    []string     `json:"takes" nullable:"false" doc:"The types of which anything is taken."`
	Gone     []GoneRecord `json:"gone,omitzero" doc:"Listed objects that are gone at the source; their rows stay."`
	Warnings []string     `json:"warnings,omitzero" doc:"What may be a slip of the pen: kept fields and overrides that name what no captured object has. Where one setting is shown or stored."`
	Reason   string       `json:"reason,omitzero" doc:"Why somebody turned it on or off last."`
	Until    time.Time    `json:"until,omitzero" doc:"When that changes back by itself; absent where it stays."`
	Created  time.Time    `json:"created,omitzero"`
	Revision uint64       `json:"revision"`
}

func settingRecord(s broker.StoredSetting) SettingRecord {
	r := SettingRecord{ID: string(s.ID), Takes: []string{}, Reason: s.Reason, Until: s.Until, Created: s.Created, Revision: s.Revision, SettingBody: SettingBody{
		Source: string(s.Source), Target: string(s.Target), Active: s.Active, ActivePolicy: string(s.Policy), VariableValues: s.VariableValues, Description: s.Description,
		Rules: map[string]RuleRecord{}}}
	r.showPolicies(s.Setting)
	for _, t := range s.TakenTypes() {
		r.Takes = append(r.Takes, string(t))
	}
	for t, rule := range s.Rules {
		rr := RuleRecord{Sync: string(rule.Sync), RightsRecord: RightsRecord(rule.Rights), Groups: slices.Clone(rule.Groups), Names: slices.Clone(rule.Names)}
		for _, o := range rule.Objects {
			rr.Objects = append(rr.Objects, ObjectRuleRecord{string(o.ID), o.Name, RightsRecord(o.Rights)})
		}
		r.Rules[string(t)] = rr
	}
	return r
}

// setting reads what a person decided. Ids of objects come to their canonical form.
func (b SettingBody) setting(id schemas.Slug) (schemas.Setting, error) {
	s := schemas.Setting{ID: id, Source: schemas.Slug(b.Source), Target: schemas.Slug(b.Target), Active: b.Active,
		Policy: schemas.ActivePolicy(b.ActivePolicy), VariableValues: b.VariableValues, Description: b.Description, Rules: map[schemas.Type]schemas.Rule{}}
	var errs []error
	for t, rr := range b.Rules {
		rule := schemas.Rule{Sync: schemas.SyncMode(rr.Sync), Rights: schemas.Rights(rr.RightsRecord), Groups: slices.Clone(rr.Groups), Names: slices.Clone(rr.Names)}
		for i, o := range rr.Objects {
			oid, err := schemas.ParseID(o.ID)
			if err != nil {
				errs = append(errs, fmt.Errorf("%w: rules.%s.objects[%d].id: %w", schemas.ErrSetting, t, i, err))
			}
			rule.Objects = append(rule.Objects, schemas.ObjectRule{ID: oid, Name: o.Name, Rights: schemas.Rights(o.RightsRecord)})
		}
		s.Rules[schemas.Type(t)] = rule
	}
	errs = append(errs, b.policies(&s))
	s.Normalize()
	if err := errors.Join(errs...); err != nil {
		return s, err
	}
	return s, s.Validate()
}

func sortedSettings(snap broker.Snapshot) []broker.StoredSetting {
	out := make([]broker.StoredSetting, 0, len(snap.Settings))
	for _, v := range snap.Settings {
		out = append(out, v)
	}
	slices.SortFunc(out, func(a, b broker.StoredSetting) int { return cmp.Compare(a.ID, b.ID) })
	return out
}

func (s *Server) listSettings(ctx context.Context, _ *noInput) (*output[list[SettingRecord]], error) {
	snap, err := s.broker.Snapshot(ctx)
	if err != nil {
		return nil, err
	}
	out := &output[list[SettingRecord]]{}
	for _, v := range sortedSettings(snap) {
		out.Body.Items = append(out.Body.Items, s.shown(ctx, v))
	}
	return out, nil
}

func (s *Server) setting(ctx context.Context, text string) (broker.StoredSetting, broker.Snapshot, error) {
	id, err := parseSlug(text)
	if err != nil {
		return broker.StoredSetting{}, broker.Snapshot{}, err
	}
	snap, err := s.broker.Snapshot(ctx)
	if err != nil {
		return broker.StoredSetting{}, snap, err
	}
	v, ok := snap.Settings[id]
	if !ok {
		if err := snap.Unreadable["setting."+string(id)]; err != nil {
			return v, snap, huma.Error409Conflict(fmt.Sprintf("The record of sync setting %s is not understood by this version: %v", id, err))
		}
		return v, snap, notFound("sync setting", id)
	}
	return v, snap, nil
}

func (s *Server) getSetting(ctx context.Context, in *IDPath) (*tagged[SettingRecord], error) {
	v, _, err := s.setting(ctx, in.ID)
	if err != nil {
		return nil, err
	}
	out := &tagged[SettingRecord]{etag(v.Revision), s.shown(ctx, v)}
	out.Body.Warnings = s.ownWarnings(ctx, v.Setting)
	return out, nil
}

// check tells whether a sync setting may stand among the others.
func (s *Server) check(snap broker.Snapshot, v schemas.Setting) error {
	for _, id := range []schemas.Slug{v.Source, v.Target} {
		if _, ok := snap.Servers[id]; !ok {
			return huma.Error422UnprocessableEntity(fmt.Sprintf("There is no server %s; add it first.", id))
		}
	}
	var unsupported []string
	for _, t := range v.TakenTypes() {
		if !s.cfg.Supported(t) {
			unsupported = append(unsupported, string(t))
		}
	}
	if len(unsupported) > 0 {
		return huma.Error422UnprocessableEntity(strings.Join(unsupported, ", ") + ": not synced by this version yet. Leave the rule out, or set it to none.")
	}
	if err := ownFaults(snap, v); err != nil {
		return err
	}
	if !v.Active {
		return nil
	}
	for _, o := range sortedSettings(snap) {
		if o.ID == v.ID || !o.Active || o.Source != v.Target || o.Target != v.Source {
			continue
		}
		var both []string
		for _, t := range v.TakenTypes() {
			if o.Rules[t].Takes() {
				both = append(both, string(t))
			}
		}
		if len(both) > 0 && !oneWins(v.TargetEdits, o.TargetEdits) {
			return huma.Error409Conflict(fmt.Sprintf("Active sync setting %s takes %s from %s to %s already. With both directions active, an edit on each side "+
				"at the same time would make each server overwrite the other, and neither would be right. Take other types, leave one of the two inactive, "+
				"let one server win (target edits overwrite in the one setting and keep in the other), or let a person decide (park in both).",
				o.ID, TypeWords(both, many), o.Source, o.Target))
		}
	}
	return nil
}

// oneWins tells whether of two settings in opposite directions the edits of one server
// win, or a person decides at both.
func oneWins(a, b schemas.TargetEdits) bool {
	switch a {
	case schemas.KeepEdits:
		return b == schemas.OverwriteEdits
	case schemas.ParkEdits:
		return b == schemas.ParkEdits
	}
	return b == schemas.KeepEdits
}

// store checks and stores a sync setting; after is 0 for a new one. The caller
// holds s.writes.
func (s *Server) store(ctx context.Context, action, detail string, snap broker.Snapshot, v schemas.Setting, after uint64) (*tagged[SettingRecord], error) {
	if err := s.check(snap, v); err != nil {
		return nil, err
	}
	v.Since = snap.Since(v)
	return s.put(ctx, action, detail, v, after)
}

// put is store without a look at the others.
func (s *Server) put(ctx context.Context, action, detail string, v schemas.Setting, after uint64) (*tagged[SettingRecord], error) {
	if !v.Active {
		v.Since = nil
	}
	raw, err := v.Encode()
	if err != nil {
		return nil, err
	}
	var rev uint64
	err = s.act(ctx, broker.AuditRecord{Action: action, Object: "setting/" + string(v.ID), Before: after, New: digestOf(raw), Detail: detail}, func(ctx context.Context) error {
		var err error
		rev, err = s.broker.PutSetting(ctx, v, after)
		if after == 0 && errors.Is(err, broker.ErrConflict) {
			return taken(v.ID)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	out := &tagged[SettingRecord]{etag(rev), s.shown(ctx, broker.StoredSetting{Setting: v, Revision: rev})}
	out.Body.Warnings = s.ownWarnings(ctx, v)
	return out, nil
}

func taken(id schemas.Slug) error {
	return huma.Error409Conflict(fmt.Sprintf("There is a sync setting %s already.", id))
}

func (s *Server) addSetting(ctx context.Context, in *bodyInput[NewSetting]) (*tagged[SettingRecord], error) {
	v, err := in.Body.SettingBody.setting(schemas.Slug(in.Body.ID))
	if err != nil {
		return nil, err
	}
	v.Created = time.Now().UTC()
	s.learnNames(ctx, &v, schemas.Setting{})
	s.writes.Lock()
	defer s.writes.Unlock()
	snap, err := s.broker.Snapshot(ctx)
	if err != nil {
		return nil, err
	}
	if _, ok := snap.Settings[v.ID]; ok || snap.Unreadable["setting."+string(v.ID)] != nil {
		return nil, taken(v.ID)
	}
	return s.store(ctx, "setting.add", describe(v), snap, v, 0)
}

func (s *Server) replaceSetting(ctx context.Context, in *idMatchBody[SettingBody]) (*tagged[SettingRecord], error) {
	s.writes.Lock()
	defer s.writes.Unlock()
	old, snap, err := s.setting(ctx, in.ID)
	if err != nil {
		return nil, err
	}
	if err := match(in.IfMatch, old.Revision); err != nil {
		return nil, err
	}
	v, err := in.Body.setting(old.ID)
	if err != nil {
		return nil, err
	}
	v.Created = old.Created
	if v.Active == old.Active { // else why and how long was said of the other state
		v.Reason, v.Until = old.Reason, old.Until
	}
	s.learnNames(ctx, &v, old.Setting)
	v.KeepUnknown(old.Setting) // G10: what a newer version wrote stays
	return s.store(ctx, "setting.update", describe(v), snap, v, old.Revision)
}

func (s *Server) removeSetting(ctx context.Context, in *IDMatch) (*struct{}, error) {
	s.writes.Lock()
	defer s.writes.Unlock()
	old, _, err := s.setting(ctx, in.ID)
	if err != nil {
		return nil, err
	}
	if err := match(in.IfMatch, old.Revision); err != nil {
		return nil, err
	}
	return nil, s.act(ctx, broker.AuditRecord{Action: "setting.remove", Object: "setting/" + string(old.ID), Before: old.Revision},
		func(ctx context.Context) error { return s.broker.DeleteSetting(ctx, old.ID, old.Revision) })
}

func (s *Server) activateSetting(ctx context.Context, in *stateInput) (*tagged[SettingRecord], error) {
	return s.setActive(ctx, in, true, "setting.activate")
}

func (s *Server) deactivateSetting(ctx context.Context, in *stateInput) (*tagged[SettingRecord], error) {
	return s.setActive(ctx, in, false, "setting.deactivate")
}

// stateInput names a sync setting; a body may say why, and for how long.
type stateInput struct {
	IDMatch
	Body *StateChange
}

func (s *Server) setActive(ctx context.Context, in *stateInput, active bool, action string) (*tagged[SettingRecord], error) {
	s.writes.Lock()
	defer s.writes.Unlock()
	old, snap, err := s.setting(ctx, in.ID)
	if err != nil {
		return nil, err
	}
	if err := match(in.IfMatch, old.Revision); err != nil {
		return nil, err
	}
	var change StateChange
	if in.Body != nil {
		change = *in.Body
	}
	v := old.Clone()
	v.Active, v.Reason = active, change.Reason
	if v.Until, err = change.until(time.Now()); err != nil {
		return nil, err
	}
	v.Normalize()
	if err := oldState(old, active, v.Until); err != nil {
		return nil, err
	}
	if old.Active == active && old.Reason == v.Reason && old.Until.Equal(v.Until) {
		return &tagged[SettingRecord]{etag(old.Revision), settingRecord(old)}, nil
	}
	if !active { // always possible, whatever else may be wrong with it
		return s.put(ctx, action, describeState(v), v, old.Revision)
	}
	return s.store(ctx, action, describeState(v), snap, v, old.Revision)
}

// oldState refuses a state for a time that would not come back to the one that lasts: at
// its end a setting that was off would be on.
func oldState(old broker.StoredSetting, active bool, until time.Time) error {
	lasts := old.Active == old.Until.IsZero() // what it is when no time is set
	switch {
	case until.IsZero() || active != lasts:
		return nil
	case old.Until.IsZero():
		return huma.Error409Conflict(fmt.Sprintf("Sync setting %s is %s already, and for good: at the end of that time it would be turned %s. Nothing was changed.",
			old.ID, onOff(active), onOff(!active)))
	}
	return huma.Error409Conflict(fmt.Sprintf("Sync setting %s is %s only until %s, and %s for good after it. Turn it %s without a time. Nothing was changed.",
		old.ID, onOff(old.Active), old.Until.Format(time.RFC3339), onOff(active), onOff(active)))
}

func (s *Server) cloneSetting(ctx context.Context, in *idMatchBody[CloneName]) (*tagged[SettingRecord], error) {
	to, err := parseSlug(in.Body.ID)
	if err != nil {
		return nil, err
	}
	s.writes.Lock()
	defer s.writes.Unlock()
	old, snap, err := s.setting(ctx, in.ID)
	if err != nil {
		return nil, err
	}
	if err := match(in.IfMatch, old.Revision); err != nil {
		return nil, err
	}
	if _, ok := snap.Settings[to]; ok || snap.Unreadable["setting."+string(to)] != nil {
		return nil, taken(to)
	}
	v := old.Clone()
	v.ID, v.Active, v.Created = to, false, time.Now().UTC()
	v.Reason, v.Until = "", time.Time{}
	return s.store(ctx, "setting.clone", "from "+string(old.ID), snap, v, 0)
}

// describe is a setting in one line, for the audit.
func describe(v schemas.Setting) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s to %s, active %v, %s", v.Source, v.Target, v.Active, v.Policy)
	if v.VariableValues {
		b.WriteString(", values of variables")
	}
	for _, w := range []struct{ word, what string }{{v.Mode.String(), "mode"}, {v.TargetEdits.String(), "edits at the target"}, {v.Drift.String(), "drift"}, {v.Versions.String(), "versions"}} {
		fmt.Fprintf(&b, ", %s %s", w.what, w.word)
	}
	for _, n := range []struct {
		n    int
		what string
	}{{len(v.Deletes), "measures of deletions"}, {len(v.Windows), "windows"}, {len(v.Kept), "kept fields"}, {len(v.Overrides), "overrides"}, {len(v.Pins), "pins"}} {
		if n.n > 0 {
			fmt.Fprintf(&b, ", %d %s", n.n, n.what)
		}
	}
	if v.Grace != "" {
		fmt.Fprintf(&b, ", grace %s", v.Grace)
	}
	for _, t := range schemas.Types() {
		r, ok := v.Rules[t]
		switch {
		case !ok:
		case r.Sync == schemas.SyncListed:
			fmt.Fprintf(&b, ", %s=listed(%d)", t, len(r.Objects))
		default:
			fmt.Fprintf(&b, ", %s=%s:%s", t, r.Sync, r.Rights)
			if len(r.Groups) > 0 {
				fmt.Fprintf(&b, " of groups %q", r.Groups)
			}
			if len(r.Names) > 0 {
				fmt.Fprintf(&b, " named %q", r.Names)
			}
			if n := len(r.Objects); n > 0 {
				fmt.Fprintf(&b, " but for %d", n)
			}
		}
	}
	return b.String()
}

// describeState says in one line why a setting is on or off and for how long, for the
// audit.
func describeState(v schemas.Setting) string {
	var w []string
	if v.Reason != "" {
		w = append(w, v.Reason)
	}
	if !v.Until.IsZero() {
		w = append(w, "until "+v.Until.Format(time.RFC3339))
	}
	return strings.Join(w, "; ")
}
