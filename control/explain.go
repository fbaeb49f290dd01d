package control

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/vcsync/vcsync/broker"
	"github.com/vcsync/vcsync/consumer"
	"github.com/vcsync/vcsync/consumer/decide"
	"github.com/vcsync/vcsync/producer"
	"github.com/vcsync/vcsync/schemas"
)

// Gate is one of the things that may keep an object from its target.
type Gate string

// Gates, in the order in which they are told.
const (
	GateActive   Gate = "setting active"
	GateSource   Gate = "source complete"
	GateKnown    Gate = "known"
	GateSelected Gate = "selected"
	GateKind     Gate = "kind"
	GateBuiltIn  Gate = "built-in"
	GateWindow   Gate = "window"
	GateMode     Gate = "mode"
	GateSafeMode Gate = "safe mode"
	GateAirlock  Gate = "airlock"
	GateParent   Gate = "parent"
	GateConflict Gate = "conflict"
	GateParked   Gate = "parked"
	GatePolicy   Gate = "policy"
	GateBreaker  Gate = "breaker"
	GateLease    Gate = "lease"
)

var gates = []Gate{GateActive, GateSource, GateKnown, GateSelected, GateKind, GateBuiltIn, GateWindow, GateMode, GateSafeMode, GateAirlock, GateParent, GateConflict,
	GateParked, GatePolicy, GateBreaker, GateLease}

// gateOf says to which gate a reason of package decide belongs: every reason stands here,
// with no gate where it holds nothing back.
var gateOf = map[decide.Reason]Gate{
	decide.Unknown:      "",
	decide.OnRecord:     "",
	decide.AlreadyEqual: "",
	decide.GoneAlready:  "",
	decide.GoneToo:      "",
	decide.GoneAtSource: "",
	decide.Differs:      "",
	decide.IsNew:        "",
	decide.PutBack:      "", // of an undo alone, as the next ones are
	decide.AsBefore:     "",
	decide.MovedOn:      "",
	decide.HidesSecrets: "",
	decide.Dangles:      "",

	decide.NotFromHere: GateKnown,
	decide.Orphan:      GateKnown,
	decide.NotSelected: GateSelected,
	decide.NewOff:      GateKind,
	decide.UpdatedOff:  GateKind,
	decide.DeletedOff:  GateKind,
	decide.OnlyDeleted: GateKind,
	decide.BuiltIn:     GateBuiltIn,

	decide.SafeMode:      GateSafeMode,
	decide.Airlock:       GateAirlock,
	decide.InUse:         GateAirlock,
	decide.Rejected:      GateAirlock,
	decide.SwitchedOff:   "",
	decide.OnGrace:       GateAirlock,
	decide.OutsideWindow: GateWindow,
	decide.OnlyReports:   GateMode,
	decide.NeedsApproval: GateMode,
	decide.Conflict:      GateConflict,
	decide.IsParked:      GateParked,
	decide.GivenUp:       GateParked,
	decide.MayHaveRun:    GateParked,
	decide.RanElsewhere:  GateParked,
	decide.OtherHome:     GateParked,
	decide.Undone:        GateParked,

	decide.CameFromHere:   GatePolicy,
	decide.NewerOnRecord:  GatePolicy,
	decide.NotOurs:        GatePolicy,
	decide.HasRun:         GatePolicy,
	decide.RunsAndGoes:    GatePolicy,
	decide.LeftBehind:     GatePolicy,
	decide.EditKept:       GatePolicy,
	decide.EditParked:     GatePolicy,
	decide.EditHeld:       GatePolicy,
	decide.VersionsDiffer: GatePolicy,
	decide.Drifted:        GatePolicy,
}

// gateOfClass says to which gate a parked record belongs, by its class: the word of the
// reason that parked it, or of what failed.
func gateOfClass(class string) Gate {
	if g := gateOf[decide.Reason(class)]; g != "" {
		return g
	}
	if class == "waiting" {
		return GateParent
	}
	return GateParked
}

// How a gate stands.
const (
	gateOpen    = "open"
	gateShut    = "shut"
	gateUnknown = "unknown" // only a look at the target tells
)

// GateRecord is how one gate stands for an object.
type GateRecord struct {
	Gate  Gate   `json:"gate"`
	State string `json:"state" enum:"open,shut,unknown" doc:"unknown: only a look at the target tells, and none was needed yet, or it is not on record."`
	Holds bool   `json:"holds,omitzero" doc:"It is the one that holds the object."`
	Why   string `json:"why,omitzero"`
	Fix   string `json:"fix,omitzero" doc:"What to do."`
}

// ExplainRecord says gate by gate what becomes of an object under a sync setting.
type ExplainRecord struct {
	Setting string       `json:"setting"`
	Source  string       `json:"source"`
	Target  string       `json:"target"`
	Type    string       `json:"type"`
	ID      string       `json:"id" doc:"At the source."`
	Name    string       `json:"name,omitzero"`
	Version string       `json:"version,omitzero" doc:"The newest that was captured; absent where nothing was."`
	Record  string       `json:"record,omitzero" doc:"The version on record at the target; absent where none is."`
	Since   time.Time    `json:"since,omitzero" doc:"Since when that is on record."`
	Gates   []GateRecord `json:"gates" nullable:"false" doc:"In their order."`
	Stands  string       `json:"stands" enum:"on record,on its way,held" doc:"Where the object stands."`
	Held    Gate         `json:"held,omitzero" doc:"The gate that holds it; absent where none does."`
	Line    string       `json:"line" doc:"The same in one line for people."`
}

// facts are what is stored and said about one object of a sync setting.
type facts struct {
	now     time.Time
	setting broker.StoredSetting
	t       schemas.Type
	id      schemas.ID // at the source
	// outlook holds the settings, the newest events and what is on record.
	outlook consumer.Outlook
	// newest is the newest event at the setting's own source, nil for none; odd says why
	// that cannot be read.
	newest *broker.Newest
	odd    error
	awaits bool // the setting waits for a listing of the type
	// held is the entry of a drift list about the object, nil for none.
	held *broker.PlanEntry
	// atSource tells what is known of deletions that wait at the source.
	atSource heldAtSource
	source   *producer.Status       // nil where no producer speaks of it
	target   *consumer.TargetStatus // nil where no consumer does
	lease    *broker.LeaseState     // nil where nobody ever had it
}

// heldAtSource is what is known of the deletions of a type that wait at its source.
type heldAtSource struct {
	count int
	// listed tells that the batch names its objects, and this that the object is one of
	// them; why says what is held, and what to do about it.
	listed, this bool
	// approved tells that only a listing that is believed is missing.
	approved bool
	why, fix string
}

// isOrphan tells whether vcsync brought the object, and nothing is known of it from its
// source any more: a store was lost.
func (f facts) isOrphan() bool {
	e := f.outlook.Entry
	return f.newest == nil && f.odd == nil && e != nil && e.Owned() && e.Source == f.setting.Source && e.From() == f.id
}

// unanswered says since when a target that is not down yet leaves requests without an
// answer, "" where it does not.
func (f facts) unanswered() string {
	if f.target == nil || f.target.State != consumer.Working || f.target.Unanswered.IsZero() {
		return ""
	}
	return fmt.Sprintf("requests to %s are without an answer since %s", f.setting.Target, f.target.Unanswered.UTC().Format(time.RFC3339))
}

// explain says how every gate stands, and which one holds the object. It asks nobody: what
// a look at the target would come to is decided by the code of the apply path.
func explain(f facts) ExplainRecord {
	v := f.setting
	r := ExplainRecord{Setting: string(v.ID), Source: string(v.Source), Target: string(v.Target), Type: string(f.t), ID: string(f.id)}
	if f.newest != nil {
		r.Name, r.Version = f.newest.Name, f.newest.Version.String()
	}
	e := f.outlook.Entry
	ours := e != nil && e.Source == v.Source && e.From() == f.id && !e.Version.IsZero() && (e.State != broker.Intent || e.Again)
	if ours {
		r.Record, r.Since = e.Version.String(), e.At
	}
	d := f.decision()
	by := map[Gate]GateRecord{}
	for _, g := range gates {
		by[g] = f.gate(g, d)
	}
	isShut := func(g Gate) bool { return by[g].State == gateShut }
	settled := d.gate == "" && !d.Act.Writes() && d.Act != decide.Adopt && d.Act != decide.Look
	switch {
	case !v.Active:
		r.Held = GateActive
	case f.awaits:
		r.Held = GateSource
	case f.newest == nil && isShut(GateSource):
		r.Held = GateSource
	case d.gate != "" && isShut(d.gate):
		r.Held = d.gate
	case settled && f.atSource.this && !(f.atSource.approved && isShut(GateSource)):
		r.Held = GateAirlock
	case settled && isShut(GateSource):
		r.Held = GateSource // what changed there since is not known
	case settled:
	case isShut(GateBreaker):
		r.Held = GateBreaker
	case isShut(GateLease):
		r.Held = GateLease
	}
	for _, g := range gates {
		x := by[g]
		x.Holds = g == r.Held
		r.Gates = append(r.Gates, x)
	}
	record := fmt.Sprintf("nothing of it is on record at %s", v.Target)
	if ours {
		record = fmt.Sprintf("version %s is on record at %s since %s", r.Record, v.Target, r.Since.UTC().Format(time.RFC3339))
		switch e.State {
		case broker.Removed:
			record += ", where it is gone"
		case broker.Adopted:
			record += ", found equal there"
		}
	}
	if e != nil && !ours && e.State == broker.Intent && e.Source == v.Source && e.From() == f.id && !e.Version.IsZero() {
		record = fmt.Sprintf("a write of version %s at %s began at %s, and that it arrived is not on record", e.Version, v.Target, e.At.UTC().Format(time.RFC3339))
		if e.Ours {
			record += "; an older version was brought before"
		}
	}
	switch {
	case r.Held != "":
		r.Stands, r.Line = "held", fmt.Sprintf("held by gate %q: %s; %s", r.Held, by[r.Held].Why, record)
	case settled && d.source != "" && d.source != v.Source:
		r.Stands, r.Line = "on record", fmt.Sprintf("it follows %s at %s, which has it too: %s", d.source, v.Target, d.why)
	case settled && !ours:
		r.Stands, r.Line = "on record", fmt.Sprintf("nothing is to be done: %s", d.why)
	case settled:
		r.Stands, r.Line = "on record", record
		if n := f.atSource.count; n > 0 && !f.atSource.listed {
			r.Line += fmt.Sprintf("; %d deletions of %s wait at %s, and which ones is not on record", n, f.t, v.Source)
		}
	default:
		r.Stands, r.Line = "on its way", fmt.Sprintf("on its way: version %s, captured at %s; %s", r.Version, f.newest.Time.UTC().Format(time.RFC3339), record)
		if u := f.unanswered(); u != "" {
			r.Line += "; " + u
		}
	}
	return r
}

// foreseen is a decision with the gate that it belongs to.
type foreseen struct {
	decide.Decision
	gate     Gate
	why, fix string
	opens    time.Time
	source   schemas.Slug
	// said tells that the consumer found it with what the target has; else it is what the
	// records tell.
	said bool
}

// decision says what a look at the object comes to: without the target where that is
// enough, else as the consumer said it last of this version, else as the records tell.
func (f facts) decision() foreseen {
	take := func(x consumer.Foresight) foreseen {
		return foreseen{Decision: x.Decision, gate: gateOf[x.Reason], why: x.Why, fix: x.Reason.Fix(), opens: x.Opens, source: x.Source}
	}
	blind := f.outlook.Look(decide.Unread)
	d := take(blind)
	if d.Reason == decide.NotFromHere && f.isOrphan() {
		return take(consumer.Foresight{Decision: decide.Decision{Act: decide.Hold, Reason: decide.Orphan}, Why: decide.Orphan.Text()})
	}
	if d.Reason == decide.IsParked || d.Reason == decide.GivenUp || d.Reason == decide.Undone {
		p := f.outlook.Parked
		d.gate, d.why, d.fix = gateOfClass(p.Class), fmt.Sprintf("parked, %s: %s", p.Class, p.Reason), p.Fix
		if p.Discarded != "" && d.Reason != decide.Undone {
			d.gate, d.why, d.fix = GateParked, "a person has discarded this version: "+p.Discarded, "a newer version is tried; vcsync parked retry tries this one"
		}
		return d
	}
	if e := f.held; e != nil && f.newest != nil && e.Version == f.newest.Version && e.Source == f.setting.Source && (d.Act == decide.Look || d.Reason == decide.OnRecord) {
		act, g := decide.Act(e.Act), gateOf[decide.Reason(e.Reason)]
		if act == decide.Park {
			g = gateOfClass(e.Reason)
		}
		if g != "" && !act.Writes() && act != decide.Adopt {
			reason := decide.Reason(e.Reason)
			return foreseen{Decision: decide.Decision{Act: act, Reason: reason, Would: decide.Act(e.Would)}, gate: g, why: cmp.Or(e.Why, reason.Text()), fix: reason.Fix(), source: e.Source, said: true,
				opens: f.outlook.Look(decide.Different).Opens}
		}
	}
	if d.Act != decide.Look {
		return d
	}
	likely := decide.Absent
	if e := f.outlook.Entry; e != nil && e.State != broker.Removed {
		likely = decide.Different
	}
	if d = take(f.outlook.Look(likely)); d.gate == GateKind && likely == decide.Absent {
		// Nothing is on record of it, so the target may have one of its own.
		if other := take(f.outlook.Look(decide.Different)); other.gate != GateKind {
			d.why += "; where the target has one of its own, it is updated"
		}
	}
	return d
}

// gate says how one gate stands.
func (f facts) gate(g Gate, d foreseen) GateRecord {
	v := f.setting
	open := func(format string, a ...any) GateRecord {
		return GateRecord{Gate: g, State: gateOpen, Why: fmt.Sprintf(format, a...)}
	}
	shut := func(fix, format string, a ...any) GateRecord {
		return GateRecord{Gate: g, State: gateShut, Why: fmt.Sprintf(format, a...), Fix: fix}
	}
	if d.gate == g && g != GateKnown && g != GateSelected && g != GateWindow {
		x := shut(d.fix, "%s", d.why)
		switch {
		case d.Would != "":
			x.Why += fmt.Sprintf(" (would %s)", d.Would)
		case g == GateKind && x.Fix == "":
			x.Fix = fmt.Sprintf("give the right: vcsync setting edit %s --rule", v.ID)
		}
		if m := f.outlook.Snapshot.SafeMode; g == GateSafeMode && m.Why != "" {
			x.Why += "; since " + m.Since.UTC().Format(time.RFC3339) + because(m.Why)
		}
		if g == GateMode && d.Reason == decide.NeedsApproval {
			x.Fix = fmt.Sprintf("look at the plan and approve it: vcsync sync %s --object %s/%s", v.ID, f.t, f.id)
		}
		if p := f.outlook.Parked; p != nil && (g == GateParked || d.Reason == decide.IsParked) {
			x.Fix = cmp.Or(x.Fix, "see the parked record") + fmt.Sprintf("; vcsync parked show %[1]s %[2]s/%[3]s, and vcsync parked retry %[1]s %[2]s/%[3]s %[4]s", v.Target, f.t, f.outlook.ID,
				map[bool]string{true: "resumes it", false: "tries it again"}[d.Reason == decide.Undone])
		}
		return x
	}
	switch g {
	case GateActive:
		switch {
		case v.Active:
			return open("")
		case v.Until.IsZero():
			return shut(fmt.Sprintf("vcsync setting activate %s, or once: vcsync sync %s", v.ID, v.ID), "sync setting %s is off%s", v.ID, because(v.Reason))
		}
		return shut("it turns on by itself", "sync setting %s is off until %s%s", v.ID, v.Until.UTC().Format(time.RFC3339), because(v.Reason))
	case GateSource:
		return f.sourceGate(open, shut)
	case GateKnown:
		switch {
		case f.odd != nil:
			return shut("the next edit at the source puts it right", "the newest message about it cannot be read: %v", f.odd)
		case f.isOrphan():
			return shut(decide.Orphan.Fix(), "orphan: %s", decide.Orphan.Text())
		case f.newest == nil:
			x := shut(fmt.Sprintf("compare the id: vcsync events --source %s --type %s", v.Source, f.t), "nothing was ever captured of it at %s", v.Source)
			if n := f.builtIns(); n > 0 {
				x.Why += fmt.Sprintf(", whose %d built-in objects of %s are never captured", n, f.t)
				x.Fix += "; a built-in object is never synced"
			}
			return x
		case f.newest.Kind == schemas.Deleted:
			return open("gone at %s since version %s, captured at %s", v.Source, f.newest.Version, f.newest.Time.UTC().Format(time.RFC3339))
		}
		return open("version %s, captured at %s", f.newest.Version, f.newest.Time.UTC().Format(time.RFC3339))
	case GateSelected:
		if f.newest != nil && !v.Rights(f.t, f.newest.Selected()).Use() || f.newest == nil && !v.MayTake(f.t, f.id) {
			x := shut(fmt.Sprintf("see its rules: vcsync setting show %s", v.ID), "sync setting %s does not take it", v.ID)
			if d.source == v.Source && d.gate != GateSelected {
				x.Why += ", another one does"
			}
			if e := f.outlook.Entry; e != nil && e.State != broker.Removed && e.Source == v.Source {
				x.Why += "; it stays as it is at " + string(v.Target)
			}
			return x
		}
		return open("%s", v.Rights(f.t, f.selected()))
	case GateWindow:
		is, changes := v.Windows.At(f.now)
		switch {
		case d.gate == g:
			changes = cmpTime(d.opens, changes)
		case len(v.Windows) == 0:
			return open("")
		case is:
			return open("until %s", dateOr(changes, "further notice"))
		}
		return shut("it is written by itself then", "no sync window is open; the next opens at %s", dateOr(changes, "no time that can be foreseen"))
	case GateMode:
		switch v.Mode {
		case schemas.Approve:
			return open("approve: what is to be written waits for a person")
		case schemas.ReportOnly:
			return open("report: what is to be written is only listed")
		}
		return open("")
	case GateSafeMode:
		if m := f.outlook.Snapshot.SafeMode; m.On {
			return shut(decide.SafeMode.Fix(), "%s", decide.SafeMode.Text())
		}
		return open("")
	case GateAirlock:
		switch h := f.atSource; {
		case h.this && h.approved && f.sourceGate(open, shut).State == gateShut:
			return open("%s", h.why)
		case h.this:
			return shut(h.fix, "%s", h.why)
		case h.count > 0 && !h.listed:
			return GateRecord{Gate: g, State: gateUnknown, Why: fmt.Sprintf("%d deletions of %s wait at %s; which ones is not on record", h.count, f.t, v.Source), Fix: "find out whether they are meant"}
		}
		return open("")
	case GateParked:
		if p := f.outlook.Parked; p != nil && p.Discarded == "" {
			return open("an earlier version is parked (%s); a newer one is tried", p.Class)
		}
		return open("")
	case GateBuiltIn, GatePolicy:
		if n := f.builtIns(); g == GateBuiltIn && n > 0 && f.newest == nil && !f.isOrphan() {
			return GateRecord{Gate: g, State: gateUnknown, Why: fmt.Sprintf("%s has %d built-in objects of %s, and which ones is not on record", v.Source, n, f.t)}
		}
		if d.gate != "" || d.said || !d.Act.Writes() {
			return open("")
		}
		return GateRecord{Gate: g, State: gateUnknown}
	case GateBreaker:
		switch {
		case f.target == nil || f.target.State == consumer.Waiting:
			return GateRecord{Gate: g, State: gateUnknown}
		case f.target.State == consumer.Down:
			return shut(fmt.Sprintf("correct it, and it goes on by itself: vcsync server test %s", v.Target), "%s is down since %s: %s", v.Target, f.target.Since.UTC().Format(time.RFC3339), f.target.Reason)
		}
		if u := f.unanswered(); u != "" {
			return open("%s", u)
		}
		return open("%s answers", v.Target)
	case GateLease:
		holder := "nobody has it"
		if f.lease != nil && f.lease.Holder != "" {
			holder = fmt.Sprintf("%s had it last, at %s", f.lease.Holder, f.lease.Moved.UTC().Format(time.RFC3339))
		}
		switch {
		case f.target == nil:
			return shut("start a consumer, or wait until another has taken over", "no consumer process speaks of %s; %s", v.Target, holder)
		case f.target.State == consumer.Waiting:
			return shut("it goes on when the lease is free", "the consumer waits for the lease of %s; %s", v.Target, holder)
		}
		return open("")
	}
	return open("")
}

// sourceGate tells whether what is known of the source is complete.
func (f facts) sourceGate(open func(string, ...any) GateRecord, shut func(string, string, ...any) GateRecord) GateRecord {
	v, p := f.setting, f.source
	if p == nil {
		return shut("start a producer, or wait until another has taken over; a setting that is off is captured by nobody", "no producer process speaks of %s", v.Source)
	}
	y, listed := p.Types[f.t]
	switch {
	case p.State == producer.Degraded && !p.Partly:
		return shut("correct the source; nothing is deleted meanwhile", "%s is degraded since %s: %s", v.Source, p.Since.UTC().Format(time.RFC3339), p.Reason)
	case (y.Class != "" || y.Reason != "") && f.atSource.approved:
		return shut("the approved deletion goes out with the next listing that is believed; the reason says what to do", "%s could not be listed at %s: %s", f.t, v.Source, cmp.Or(y.Reason, y.Class))
	case y.Class != "" || y.Reason != "":
		return shut("correct the source; nothing is deleted meanwhile", "%s could not be listed at %s: %s", f.t, v.Source, cmp.Or(y.Reason, y.Class))
	case f.awaits:
		return shut("it goes by itself after the listing", "sync setting %s waits for a complete listing of %s at %s since it was turned on or began to take it", v.ID, f.t, v.Source)
	case p.State == producer.Standby:
		return shut("see vcsync status", "the producer of %s stands by, and none captures it", v.Source)
	case !listed || y.Complete.IsZero():
		return shut("wait for the listing", "%s was not listed completely at %s yet", f.t, v.Source)
	case y.Refused > 0:
		return open("%s was listed completely at %s; %d objects could not be captured, the first: %s", f.t, y.Complete.UTC().Format(time.RFC3339), y.Refused, y.RefusedWhy)
	}
	return open("%s was listed completely at %s", f.t, y.Complete.UTC().Format(time.RFC3339))
}

// builtIns counts the source's built-in objects of the type, which are never captured.
func (f facts) builtIns() int {
	if f.source == nil {
		return 0
	}
	return f.source.Types[f.t].BuiltIn
}

// selected is what rules go by.
func (f facts) selected() schemas.Selected {
	if f.newest != nil {
		return f.newest.Selected()
	}
	return schemas.Selected{ID: f.id}
}

func because(reason string) string {
	if reason == "" {
		return ""
	}
	return ": " + reason
}

func dateOr(at time.Time, never string) string {
	if at.IsZero() {
		return never
	}
	return at.UTC().Format(time.RFC3339)
}

func cmpTime(a, b time.Time) time.Time {
	if a.IsZero() {
		return b
	}
	return a
}

// ExplainPath names an object of a sync setting.
type ExplainPath struct {
	IDPath
	ObjectPath
}

// waitingAt says what an airlock at a source holds of an object.
func waitingAt(a broker.Airlock, token schemas.Token) heldAtSource {
	out := heldAtSource{count: a.Count(""), listed: a.Unlisted == 0}
	i, ok := a.Find(token)
	if !ok {
		return out
	}
	out.listed, out.this = true, true
	batch := a.Batch
	switch d, decided := a.Of(a.Objects[i]); {
	case !decided:
		out.why, out.fix = fmt.Sprintf("it is gone at %s, and its deletion waits with %d in all: %s", a.Source, out.count, a.Why),
			fmt.Sprintf("vcsync airlock show %s, then approve or reject it", batch)
	case d.Verdict == broker.Rejected:
		out.why, out.fix = fmt.Sprintf("it is gone at %s, and a person has rejected its deletion: %s", a.Source, d.Reason),
			fmt.Sprintf("it stays until the source has it again, or its deletion is approved: vcsync airlock approve %s", d.Batch)
	default:
		out.approved = true
		out.why, out.fix = fmt.Sprintf("it is gone at %s, and its deletion was approved and is not published yet", a.Source), "wait for two complete listings that lack it"
	}
	return out
}

// explainObject gathers what is stored and said, and explains it.
func (s *Server) explainObject(ctx context.Context, in *ExplainPath) (*output[ExplainRecord], error) {
	v, snap, err := s.setting(ctx, in.ID)
	if err != nil {
		return nil, err
	}
	t, err := schemas.ParseType(in.Type)
	if err != nil {
		return nil, err
	}
	token, err := schemas.ParseToken(in.Token)
	if err != nil {
		return nil, err
	}
	f := facts{now: time.Now(), setting: v, t: t, awaits: snap.Awaits(v)[t] > 0}
	f.outlook = consumer.Outlook{Snapshot: snap, Target: v.Target, Type: t, Also: v.ID}
	head, err := s.broker.HeadOf(ctx, schemas.Key{Source: v.Source, Type: t, Token: token})
	id, spelled := token.ID()
	switch {
	case errors.Is(err, schemas.ErrEvent):
		f.odd, f.id = err, id
	case err == nil:
		f.newest, f.id = &head, head.ID
		f.outlook.Newest = append(f.outlook.Newest, head)
	case !errors.Is(err, broker.ErrNotFound):
		return nil, err
	case !spelled:
		return nil, huma.Error404NotFound(fmt.Sprintf("Nothing was ever captured of %s/%s at %s.", t, token, v.Source))
	default:
		f.id = id
	}
	home := homeOf(snap, v.Source, v.Target, t, f.id)
	f.outlook.ID = home
	if err := s.gather(ctx, snap, &f); err != nil {
		return nil, err
	}
	return &output[ExplainRecord]{explain(f)}, nil
}

// gather reads what else is stored and said of an object.
func (s *Server) gather(ctx context.Context, snap broker.Snapshot, f *facts) error {
	v, home := f.setting, f.outlook.ID
	seen := map[schemas.Slug]bool{v.Source: true}
	for _, o := range sortedSettings(snap) {
		if o.Target != v.Target || !o.Active && o.ID != v.ID {
			continue
		}
		if !seen[o.Source] {
			seen[o.Source] = true
			from := home // or what is pinned to it
			for _, p := range o.Pins {
				if p.Type == f.t && p.Target == home {
					from = p.Source
				}
			}
			n, err := s.broker.HeadOf(ctx, schemas.Key{Source: o.Source, Type: f.t, Token: from.Token()})
			if err == nil {
				f.outlook.Newest = append(f.outlook.Newest, n)
			} else if !errors.Is(err, broker.ErrNotFound) && !errors.Is(err, schemas.ErrEvent) {
				return err
			}
		}
		if o.Source == v.Source && f.held == nil {
			e, list, ok, err := s.heldIn(ctx, o.ID, f.t, f.id)
			if err != nil {
				return err
			}
			if ok && list.SettingRevision == o.Revision {
				f.held = &e
			}
		}
	}
	e, ok, err := s.broker.LedgerEntry(ctx, v.Target, f.t, home)
	if err != nil {
		return err
	}
	if ok {
		f.outlook.Entry = &e
	}
	p, err := s.broker.GetParked(ctx, v.Target, f.t, home.Token())
	if err == nil {
		f.outlook.Parked = &p
	} else if !errors.Is(err, broker.ErrNotFound) {
		return err
	}
	lease, err := s.broker.TargetLease(ctx, v.Target)
	if err == nil {
		f.lease = &lease
	} else if !errors.Is(err, broker.ErrNotFound) {
		return err
	}
	if s.cfg.Sources != nil {
		for _, p := range s.cfg.Sources.Status() {
			if p.Server == v.Source {
				f.source, f.atSource.count = &p, p.Types[f.t].Held
			}
		}
	}
	a, err := s.broker.GetAirlock(ctx, v.Source, f.t)
	if err == nil {
		f.atSource = waitingAt(a, f.id.Token())
	} else if !errors.Is(err, broker.ErrNotFound) {
		return err
	}
	if s.cfg.Targets != nil {
		targets, _ := s.cfg.Targets.Status()
		for _, p := range targets {
			if p.Target == v.Target {
				f.target = &p
			}
		}
	}
	return nil
}
