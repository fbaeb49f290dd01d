package control

import (
	"errors"
	"fmt"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/vcsync/vcsync/schemas"
)

// WindowRecord is a time in which a sync setting may, or may not, write.
type WindowRecord struct {
	Kind     string `json:"kind" enum:"allow,deny" doc:"allow: with one or more of these, it writes only while one is open. deny: it does not write while it is open, whatever else is."`
	Schedule string `json:"schedule" maxLength:"200" doc:"When it opens: a cron expression of five fields, such as 0 22 * * 1-5."`
	Duration string `json:"duration" maxLength:"40" doc:"How long it stays open, such as 8h or 90m."`
	TimeZone string `json:"timeZone,omitzero" maxLength:"100" doc:"By whose clock, such as Europe/Berlin; UTC where empty."`
}

// KeptRecord is a place in objects that is the target's own.
type KeptRecord struct {
	Type    string `json:"type" maxLength:"32"`
	ID      string `json:"id,omitzero" maxLength:"4096" doc:"One object, by its id at the source; all of the type where empty."`
	Pointer string `json:"pointer" maxLength:"1000" doc:"A JSON pointer into the object. An item of a list is named by its own Id, or by * for every item."`
}

// OverrideRecord is a merge patch that objects get on their way.
type OverrideRecord struct {
	Type  string `json:"type" maxLength:"32"`
	ID    string `json:"id,omitzero" maxLength:"4096" doc:"One object, by its id at the source; all of the type where empty."`
	Patch Patch  `json:"patch" doc:"A JSON merge patch (RFC 7396)."`
}

// PinRecord says that an object of the source has another id at the target.
type PinRecord struct {
	Type   string `json:"type" maxLength:"32"`
	Source string `json:"source" maxLength:"4096" doc:"Its id at the source."`
	Target string `json:"target" maxLength:"4096" doc:"Its id at the target."`
	Name   string `json:"name,omitzero" maxLength:"1000" doc:"Its last known name, for people."`
}

// Patch is a JSON object as it was written.
type Patch jsontext.Value

// MarshalJSON returns the patch as it is.
func (p Patch) MarshalJSON() ([]byte, error) { return jsontext.Value(p).MarshalJSON() }

// UnmarshalJSON keeps a copy.
func (p *Patch) UnmarshalJSON(b []byte) error { return (*jsontext.Value)(p).UnmarshalJSON(b) }

// Schema describes a patch: any JSON object.
func (Patch) Schema(huma.Registry) *huma.Schema {
	return &huma.Schema{Type: huma.TypeObject, AdditionalProperties: true}
}

// showPolicies writes a setting's policies into its body. A default, which is stored as
// nothing, is shown by its word.
func (b *SettingBody) showPolicies(s schemas.Setting) {
	b.Mode, b.TargetEdits, b.Drift, b.Versions = s.Mode.String(), s.TargetEdits.String(), s.Drift.String(), s.Versions.String()
	b.Deletes, b.Grace = measureRecords(s.Deletes), s.Grace
	for _, w := range s.Windows {
		b.Windows = append(b.Windows, WindowRecord{string(w.Kind), w.Schedule, w.Duration, w.TimeZone})
	}
	for _, k := range s.Kept {
		b.Kept = append(b.Kept, KeptRecord{string(k.Type), string(k.ID), k.Pointer})
	}
	for _, o := range s.Overrides {
		b.Overrides = append(b.Overrides, OverrideRecord{string(o.Type), string(o.ID), Patch(o.Patch.Clone())})
	}
	for _, p := range s.Pins {
		b.Pins = append(b.Pins, PinRecord{string(p.Type), string(p.Source), string(p.Target), p.Name})
	}
}

// policies reads the policies into a setting. Ids of objects come to their canonical form.
func (b SettingBody) policies(s *schemas.Setting) error {
	var errs []error
	id := func(text, path string, a ...any) schemas.ID {
		if text == "" {
			return ""
		}
		out, err := schemas.ParseID(text)
		if err != nil {
			errs = append(errs, fmt.Errorf("%w: %s: %w", schemas.ErrSetting, fmt.Sprintf(path, a...), err))
		}
		return out
	}
	s.Mode, s.TargetEdits, s.Drift, s.Versions = schemas.Mode(b.Mode), schemas.TargetEdits(b.TargetEdits), schemas.Drift(b.Drift), schemas.Versions(b.Versions)
	s.Deletes, s.Grace = measures(b.Deletes), b.Grace
	for _, w := range b.Windows {
		s.Windows = append(s.Windows, schemas.Window{Kind: schemas.WindowKind(w.Kind), Schedule: w.Schedule, Duration: w.Duration, TimeZone: w.TimeZone})
	}
	for i, k := range b.Kept {
		s.Kept = append(s.Kept, schemas.KeptField{Type: schemas.Type(k.Type), ID: id(k.ID, "kept[%d].id", i), Pointer: k.Pointer})
	}
	for i, o := range b.Overrides {
		s.Overrides = append(s.Overrides, schemas.Override{Type: schemas.Type(o.Type), ID: id(o.ID, "overrides[%d].id", i), Patch: jsontext.Value(o.Patch).Clone()})
	}
	for i, p := range b.Pins {
		s.Pins = append(s.Pins, schemas.Pin{Type: schemas.Type(p.Type), Source: id(p.Source, "pins[%d].source", i), Target: id(p.Target, "pins[%d].target", i), Name: p.Name})
	}
	return errors.Join(errs...)
}

// StateChange is the body of turning a sync setting on or off.
type StateChange struct {
	Reason string    `json:"reason,omitzero" maxLength:"1000" doc:"Why, for those who find it so."`
	For    string    `json:"for,omitzero" maxLength:"40" doc:"After how long it changes back by itself, such as 2h."`
	Until  time.Time `json:"until,omitzero" doc:"When it changes back by itself, in place of for."`
}

// until returns when the state changes back, zero where it stays.
func (c StateChange) until(now time.Time) (time.Time, error) {
	refuse := func(format string, a ...any) (time.Time, error) {
		return time.Time{}, huma.Error422UnprocessableEntity(fmt.Sprintf(format, a...))
	}
	switch {
	case c.For != "" && !c.Until.IsZero():
		return refuse("Both for and until are given; want one of them.")
	case c.For != "":
		d, err := time.ParseDuration(c.For)
		if err != nil || d < time.Second {
			return refuse("for: %.40q, want a time of a second or more, such as 2h or 90m.", c.For)
		}
		return now.Add(d), nil
	case !c.Until.IsZero() && !c.Until.After(now):
		return refuse("until: %s is past.", c.Until.UTC().Format(time.RFC3339))
	}
	return c.Until, nil
}
