package control

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/nats-io/nuid"

	"github.com/vcsync/vcsync/broker"
	"github.com/vcsync/vcsync/consumer/decide"
	"github.com/vcsync/vcsync/schemas"
)

// RunObjectRecord is one object, by its id at the source.
type RunObjectRecord struct {
	Type string `json:"type" maxLength:"32"`
	ID   string `json:"id" minLength:"1" maxLength:"4096"`
}

// NewRun is the body of asking for a run.
type NewRun struct {
	Types        []string          `json:"types,omitzero" maxItems:"17" doc:"Only these types; with neither types nor objects, all that the setting takes."`
	Objects      []RunObjectRecord `json:"objects,omitzero" maxItems:"1000" doc:"Only these objects, by their ids at the source."`
	Dependencies bool              `json:"dependencies,omitzero" doc:"Beside objects: also what they refer to, directly or through others, where the target has none."`
	DryRun       bool              `json:"dryRun,omitzero" doc:"It ends when the plan is there."`
	Fields       bool              `json:"fields,omitzero" doc:"The plan tells old and new values of what differs, without secrets."`
	Replay       *NewReplay        `json:"replay,omitzero" doc:"Apply again what is stored: the newest state of every object in scope of which something was captured in this range. The source is not listed."`
}

// NewReplay is the range of a replay: since a time or from an event on, to now. With
// neither it is all that is stored.
type NewReplay struct {
	Since   time.Time `json:"since,omitzero" doc:"Events stored since then count."`
	FromSeq uint64    `json:"fromSeq,omitzero" maximum:"9223372036854775807" doc:"Events with this sequence in the event stream or a higher one count."`
}

// RunRecord is a run of a sync setting as the API shows it.
type RunRecord struct {
	ID      string `json:"id"`
	Setting string `json:"setting,omitzero" doc:"Absent of a run at a server."`
	Server  string `json:"server,omitzero" doc:"Where it undoes a pass or brings a version back; absent of a run of a setting."`
	Undo    string `json:"undo,omitzero" doc:"The pass that it undoes."`
	Revert  string `json:"revert,omitzero" doc:"The version that it brings back."`
	Phase   string `json:"phase" doc:"capture: the source is listed afresh. plan: the target is listed, and the plan is made. shown: it waits for an approval. applying, and then done, failed or dropped."`
	Over    bool   `json:"over"`
	// Captured is of a replay.
	Captured time.Time       `json:"captured,omitzero" doc:"Of a replay: when every type in scope had been listed completely at the source before it was asked for; absent where nobody knows."`
	DryRun   bool            `json:"dryRun,omitzero"`
	Scope    NewRun          `json:"scope"`
	Reason   string          `json:"reason,omitzero" doc:"Why it failed or was dropped."`
	Waits    string          `json:"waits,omitzero" doc:"What it waits for now."`
	By       string          `json:"by,omitzero"`
	Asked    time.Time       `json:"asked"`
	Ended    time.Time       `json:"ended,omitzero"`
	Plan     *PlanRecord     `json:"plan,omitempty" doc:"Absent while there is none."`
	Applied  *ProgressRecord `json:"applied,omitempty" doc:"How far the applying of the plan has come; absent before it began."`
}

// CountRecord is a number of objects of one type.
type CountRecord struct {
	Type       string `json:"type"`
	Difference string `json:"difference"`
	Act        string `json:"act"`
	Objects    int    `json:"objects"`
}

// PlanRecord is the head of a plan.
type PlanRecord struct {
	ID       string        `json:"id"`
	Source   string        `json:"source"`
	Target   string        `json:"target"`
	Made     time.Time     `json:"made"`
	Newest   time.Time     `json:"newest,omitzero" doc:"Of a replay: when the newest of the states that it looked at was captured."`
	Counts   []CountRecord `json:"counts" nullable:"false" doc:"Every object that was looked at."`
	Changes  int           `json:"changes" doc:"How many objects of the target it would add, update or delete."`
	Entries  int           `json:"entries" doc:"Objects of which there is something to say."`
	Pages    int           `json:"pages"`
	Warnings []string      `json:"warnings,omitzero"`
	// Waiting is of the time of the answer, not of the plan.
	Waiting []string `json:"waitingAtSource,omitzero" doc:"What the plan cannot know of the types that it looked at: deletions that wait at the source for a person, were rejected, or are approved and not published yet. These objects count as they were."`
	Failed  string   `json:"failed,omitzero"`
}

// TypeProgress is how far one type of a plan has come.
type TypeProgress struct {
	Type  string `json:"type"`
	Total int    `json:"total"`
	Done  int    `json:"done"`
}

// ProgressRecord is how far the applying of a plan has come.
type ProgressRecord struct {
	Total    int            `json:"total" doc:"Entries of the plan that change or record something."`
	Done     int            `json:"done" doc:"How many of them have an outcome."`
	Types    []TypeProgress `json:"types" nullable:"false"`
	Outcomes map[string]int `json:"outcomes" nullable:"false" doc:"How many entries ended how."`
	Ended    bool           `json:"ended"`
}

// FieldChangeRecord is a field in which an object differs, with its values.
type FieldChangeRecord struct {
	Field string `json:"field" doc:"A JSON pointer into the object's normal form."`
	Old   string `json:"old,omitzero" doc:"What the target has, as JSON, cut after 160 characters, \"***\" for a secret; absent where it has none."`
	New   string `json:"new,omitzero" doc:"What it would have."`
}

// EntryRecord is one object of a plan or of a drift list. It holds no content but for
// Changed.
type EntryRecord struct {
	Type       string              `json:"type"`
	ID         string              `json:"id" doc:"At the source."`
	TargetID   string              `json:"targetId,omitzero" doc:"At the target, where a pin makes it another."`
	Name       string              `json:"name,omitzero"`
	Group      string              `json:"group,omitzero"`
	Difference string              `json:"difference" doc:"equal, different, only at the source, only at the target, or owned: different only in what is the target's own."`
	Act        string              `json:"act" doc:"add, update, delete, adopt (record that both are equal), wait, hold, park, or nothing."`
	Reason     string              `json:"reason,omitzero" doc:"A short word for why."`
	Why        string              `json:"why,omitzero" doc:"The same for people."`
	Fields     []string            `json:"fields,omitzero" doc:"What differs, the first 8."`
	Opens      time.Time           `json:"opens,omitzero" doc:"When the sync window opens that it waits for; absent where that is not in the next years."`
	Changed    []FieldChangeRecord `json:"changed,omitzero" doc:"The same with old and new values, where the run asked for them."`
	Version    string              `json:"version,omitzero"`
	Outcome    string              `json:"outcome,omitzero" doc:"What became of it; absent before the plan is applied."`
	OutcomeWhy string              `json:"outcomeWhy,omitzero"`
}

// EntryPage is a page of a plan or of a drift list.
type EntryPage struct {
	Plan  string        `json:"plan" doc:"Of which plan or drift list."`
	Page  int           `json:"page"`
	Pages int           `json:"pages"`
	Items []EntryRecord `json:"items" nullable:"false"`
}

// DriftRecord is what the last audit of a setting's target found.
type DriftRecord struct {
	ID       string        `json:"id"`
	Began    time.Time     `json:"began,omitzero" doc:"When the listing of the target began; absent while none ended well."`
	Cause    string        `json:"cause,omitzero" doc:"start, interval, reconnect, settings or asked."`
	Counts   []CountRecord `json:"counts" nullable:"false" doc:"Every object that was looked at."`
	Equal    int           `json:"equal" doc:"With those that differ only in what is the target's own."`
	Differs  int           `json:"different" doc:"Different, or at one side only, of what the setting takes."`
	Held     int           `json:"held" doc:"Of these, those that are kept back until a person does something; what waits for a window is none."`
	Entries  int           `json:"entries"`
	Pages    int           `json:"pages"`
	Cut      bool          `json:"cut,omitzero" doc:"There were more entries than a list takes."`
	Failed   string        `json:"failed,omitzero" doc:"Why the last audit could not be made; the rest is of one before."`
	Outdated bool          `json:"outdated,omitzero" doc:"The setting was changed since."`
	Warnings []string      `json:"warnings,omitzero" doc:"What objects at the target refer to and that is not there."`
}

func countRecords(counts []broker.PlanCount) []CountRecord {
	out := []CountRecord{}
	for _, c := range counts {
		out = append(out, CountRecord{string(c.Type), string(c.Difference), c.Act, c.Objects})
	}
	return out
}

func entryRecord(e broker.PlanEntry) EntryRecord {
	r := EntryRecord{Type: string(e.Type), ID: string(e.ID), TargetID: string(e.TargetID), Name: e.Name, Group: e.Group, Difference: string(e.Difference),
		Act: e.Act, Reason: e.Reason, Why: e.Why, Fields: e.Fields, Opens: e.Opens, Outcome: string(e.Outcome), OutcomeWhy: e.OutcomeWhy}
	if e.Version != (schemas.Version{}) {
		r.Version = e.Version.String()
	}
	return r
}

func planRecord(p broker.Plan) *PlanRecord {
	r := &PlanRecord{ID: p.ID, Source: string(p.Source), Target: string(p.Target), Made: p.Made, Newest: p.Newest, Counts: countRecords(p.Counts), Entries: p.Entries, Pages: p.Pages,
		Warnings: p.Warnings, Failed: p.Failed}
	for _, c := range p.Counts {
		if decide.Act(c.Act).Writes() {
			r.Changes += c.Objects
		}
	}
	return r
}

// runRecord adds to a run what the consumer says of it.
func (s *Server) runRecord(ctx context.Context, r broker.StoredRun) (RunRecord, error) {
	out := RunRecord{ID: r.ID, Setting: string(r.Setting), Phase: string(r.Phase), Over: r.Phase.Over(), DryRun: r.DryRun, Reason: r.Reason, By: r.By, Asked: r.Asked,
		Ended: r.Ended, Scope: NewRun{Dependencies: r.Scope.Dependencies, DryRun: r.DryRun, Fields: r.Fields}}
	if r.Server != "" {
		out.Setting, out.Server, out.Undo = "", string(r.Server), r.Act.Undo
		if r.Act.Revert.Seq > 0 {
			out.Revert = r.Act.Revert.Version.String()
		}
	}
	if r.Scope.IsReplay() {
		out.Scope.Replay, out.Captured = &NewReplay{FromSeq: r.Scope.Replay.FromSeq}, r.Scope.Replay.Captured
	}
	for _, t := range r.Scope.Types {
		out.Scope.Types = append(out.Scope.Types, string(t))
	}
	for _, o := range r.Scope.Objects {
		out.Scope.Objects = append(out.Scope.Objects, RunObjectRecord{string(o.Type), string(o.ID)})
	}
	p, err := s.broker.GetPlan(ctx, r.Setting)
	switch {
	case err == nil && p.Run == r.ID:
		out.Plan = planRecord(p)
		if out.Plan.Waiting, err = s.waitingAtSource(ctx, p, r.Scope.Objects); err != nil {
			return out, err
		}
	case err != nil && !errors.Is(err, broker.ErrNotFound):
		return out, err
	}
	g, err := s.broker.GetProgress(ctx, r.Setting)
	switch {
	case err == nil && g.Run == r.ID && g.Plan == r.Plan:
		a := ProgressRecord{Total: g.Total, Done: g.Done, Types: []TypeProgress{}, Outcomes: map[string]int{}, Ended: g.Ended}
		for _, t := range g.Types {
			a.Types = append(a.Types, TypeProgress{string(t.Type), t.Total, t.Done})
		}
		for o, n := range g.Outcomes {
			a.Outcomes[string(o)] = n
		}
		out.Applied = &a
	case err != nil && !errors.Is(err, broker.ErrNotFound):
		return out, err
	}
	if out.Over {
		return out, nil
	}
	out.Waits, err = s.runWaits(ctx, r)
	return out, err
}

// runWaits says what a run waits for, for people.
func (s *Server) runWaits(ctx context.Context, r broker.StoredRun) (string, error) {
	switch r.Phase {
	case broker.RunShown:
		return "an approval", nil
	case broker.RunCapture, broker.RunPlan, broker.RunApplying:
	default:
		return "", nil
	}
	snap, err := s.broker.Snapshot(ctx)
	if err != nil {
		return "", err
	}
	v, ok := snap.Subject(r.Setting)
	switch {
	case !ok:
		return "", nil
	case r.Phase == broker.RunCapture:
		_, waits := s.captured(r, v.Setting)
		return waits, nil
	}
	return s.targetState(v.Target), nil
}

// subject finds what a run is of: a sync setting, or a server.
type subject func(ctx context.Context, id string) (broker.StoredSetting, broker.Snapshot, error)

// runName names what a run is of, to people.
func runName(v schemas.Slug) string {
	if server, ok := strings.CutPrefix(string(v), string(broker.ActAt(""))); ok {
		return "server " + server
	}
	return "sync setting " + string(v)
}

// runObject names what a run is of, in the audit.
func runObject(v schemas.Slug) string { return strings.Replace(runName(v), "sync ", "", 1) }

func (s *Server) getRun(ctx context.Context, in *IDPath) (*tagged[RunRecord], error) {
	return s.getRunOf(ctx, s.setting, in)
}

func (s *Server) getRunOf(ctx context.Context, of subject, in *IDPath) (*tagged[RunRecord], error) {
	v, _, err := of(ctx, in.ID)
	if err != nil {
		return nil, err
	}
	r, err := s.run(ctx, v.ID)
	if err != nil {
		return nil, err
	}
	return s.tagRun(ctx, r)
}

func (s *Server) tagRun(ctx context.Context, r broker.StoredRun) (*tagged[RunRecord], error) {
	rec, err := s.runRecord(ctx, r)
	if err != nil {
		return nil, err
	}
	return &tagged[RunRecord]{etag(r.Revision), rec}, nil
}

func (s *Server) run(ctx context.Context, setting schemas.Slug) (broker.StoredRun, error) {
	r, err := s.broker.GetRun(ctx, setting)
	if errors.Is(err, broker.ErrNotFound) {
		return r, huma.Error404NotFound(fmt.Sprintf("%s had no run yet.", upperFirst(runName(setting))))
	}
	return r, err
}

// scope reads what a run is narrowed to.
func (b NewRun) scope(v schemas.Setting) (broker.RunScope, error) {
	out := broker.RunScope{Dependencies: b.Dependencies}
	refuse := func(format string, a ...any) (broker.RunScope, error) {
		return out, huma.Error422UnprocessableEntity(fmt.Sprintf(format, a...))
	}
	takes := func(t schemas.Type) bool { return v.Rules[t].Takes() }
	for _, text := range b.Types {
		t, err := schemas.ParseType(text)
		if err != nil {
			return refuse("types: %v", err)
		}
		if !takes(t) {
			return refuse("Sync setting %s takes nothing of %s.", v.ID, t)
		}
		if !slices.Contains(out.Types, t) {
			out.Types = append(out.Types, t)
		}
	}
	for _, o := range b.Objects {
		t, err := schemas.ParseType(o.Type)
		if err != nil {
			return refuse("objects: %v", err)
		}
		id, err := schemas.ParseID(o.ID)
		if err != nil {
			return refuse("objects: %v", err)
		}
		if !takes(t) {
			return refuse("Sync setting %s takes nothing of %s.", v.ID, t)
		}
		if x := (broker.RunObject{Type: t, ID: id}); !slices.Contains(out.Objects, x) {
			out.Objects = append(out.Objects, x)
		}
	}
	if b.Dependencies && b.Replay != nil {
		return refuse("A replay takes no dependencies along: what they are only a fresh listing tells.")
	}
	if b.Dependencies && len(b.Objects) == 0 {
		return refuse("dependencies go with objects: name at least one.")
	}
	if len(out.TypesOf(v)) == 0 {
		return refuse("Sync setting %s takes nothing, so there is nothing to look at.", v.ID)
	}
	return out, nil
}

func (s *Server) askRun(ctx context.Context, in *idBody[NewRun]) (*tagged[RunRecord], error) {
	s.writes.Lock()
	defer s.writes.Unlock()
	v, snap, err := s.setting(ctx, in.ID)
	if err != nil {
		return nil, err
	}
	scope, err := in.Body.scope(v.Setting)
	if err != nil {
		return nil, err
	}
	for _, id := range []schemas.Slug{v.Source, v.Target} {
		if _, ok := snap.Servers[id]; !ok {
			return nil, huma.Error409Conflict(fmt.Sprintf("There is no server %s; add it first.", id))
		}
	}
	if s.cfg.Sources == nil && in.Body.Replay == nil || s.cfg.Targets == nil {
		return nil, huma.Error409Conflict("No producer or no consumer is known here, so nobody would do it.")
	}
	if in.Body.Replay != nil {
		if scope.Replay, err = s.replay(ctx, snap, v, scope, *in.Body.Replay); err != nil {
			return nil, err
		}
	}
	if v.Mode == schemas.ReportOnly && !in.Body.DryRun {
		return nil, huma.Error409Conflict(fmt.Sprintf("Sync setting %s only reports: it never changes its target, whatever anybody approves. Look with a dry run, or change its mode.", v.ID))
	}
	old, err := s.broker.GetRun(ctx, v.ID)
	switch {
	case errors.Is(err, broker.ErrNotFound):
	case err != nil:
		return nil, err
	case !old.Phase.Over():
		return nil, huma.Error409Conflict(fmt.Sprintf("A run of sync setting %s is under way since %s (%s). Wait for its end, or drop it: vcsync sync %s --drop.",
			v.ID, old.Asked.Format(time.RFC3339), old.Phase, v.ID))
	}
	r := broker.StoredRun{Run: broker.Run{ID: nuid.Next(), Setting: v.ID, SettingRevision: v.Revision, Phase: broker.RunCapture, Scope: scope, DryRun: in.Body.DryRun, Fields: in.Body.Fields,
		By: who(ctx), Asked: time.Now().UTC()}}
	if scope.IsReplay() {
		r.Phase = broker.RunPlan // it lists nothing
	}
	err = s.act(ctx, broker.AuditRecord{Action: "run.ask", Object: "setting/" + string(v.ID), Before: old.Revision, Settings: v.Revision, Detail: describeRun(r.Run)}, func(ctx context.Context) error {
		var err error
		r.Revision, err = s.broker.PutRun(ctx, r.Run, old.Revision)
		return err
	})
	if err != nil {
		return nil, err
	}
	if !scope.IsReplay() {
		s.cfg.Sources.Poke(v.Source)
	}
	return s.tagRun(ctx, r)
}

// replay reads the range of a replay. What an active setting has to see listed first is
// no matter of a replay: nothing stale is brought by it (see broker.Snapshot.Awaits).
func (s *Server) replay(ctx context.Context, snap broker.Snapshot, v broker.StoredSetting, scope broker.RunScope, in NewReplay) (out broker.RunReplay, err error) {
	if !in.Since.IsZero() && in.FromSeq > 0 {
		return out, huma.Error422UnprocessableEntity("replay: since and fromSeq exclude each other")
	}
	waits := snap.Awaits(v)
	for _, t := range scope.TypesOf(v.Setting) {
		if waits[t] > 0 {
			return out, huma.Error409Conflict(fmt.Sprintf("Sync setting %s waits for a complete listing of %s at %s since it was turned on or began to take it: what is stored may be gone there. Wait for the listing, or list afresh: vcsync sync %s.", v.ID, t, v.Source, v.ID))
		}
	}
	last, err := s.broker.LastEventSeq(ctx)
	if err != nil {
		return out, err
	}
	switch out.FromSeq = 1; {
	case in.FromSeq > last:
		return out, huma.Error422UnprocessableEntity(fmt.Sprintf("replay: there is no event %d: the newest is %d. vcsync events --json shows sequences.", in.FromSeq, last))
	case in.FromSeq > 0:
		out.FromSeq = in.FromSeq
	case in.Since.After(time.Now()):
		return out, huma.Error422UnprocessableEntity("replay: since is in the future")
	case !in.Since.IsZero():
		if out.FromSeq, err = s.broker.SeqSince(ctx, in.Since); err != nil {
			return out, err
		}
	}
	out.Captured = s.listedAt(v.Source, scope.TypesOf(v.Setting))
	return out, nil
}

// listedAt returns when all of the types had been listed completely at a source; zero
// where nobody says.
func (s *Server) listedAt(source schemas.Slug, types []schemas.Type) (at time.Time) {
	if s.cfg.Sources == nil {
		return at
	}
	for _, p := range s.cfg.Sources.Status() {
		if p.Server != source {
			continue
		}
		for i, t := range types {
			if c := p.Types[t].Complete; i == 0 || c.Before(at) {
				at = c
			}
		}
	}
	return at.UTC()
}

// describeRun is a run in one line, for the audit.
func describeRun(r broker.Run) string {
	what := "all"
	if len(r.Scope.Types)+len(r.Scope.Objects) > 0 {
		what = fmt.Sprint(r.Scope.Types, r.Scope.Objects)
	}
	if r.Scope.Dependencies {
		what += " with dependencies"
	}
	if r.Scope.IsReplay() {
		what += fmt.Sprintf(", a replay from event %d on", r.Scope.Replay.FromSeq)
	}
	if r.DryRun {
		what += ", dry run"
	}
	return "run " + r.ID + ": " + what
}

// ApproveRun is the body of approving a plan.
type ApproveRun struct {
	Plan string `json:"plan" minLength:"1" maxLength:"64" doc:"The id of the plan that was looked at: no other is approved."`
}

func (s *Server) approveRun(ctx context.Context, in *idBody[ApproveRun]) (*tagged[RunRecord], error) {
	return s.approveRunOf(ctx, s.setting, in)
}

func (s *Server) approveRunOf(ctx context.Context, of subject, in *idBody[ApproveRun]) (*tagged[RunRecord], error) {
	s.writes.Lock()
	defer s.writes.Unlock()
	v, _, err := of(ctx, in.ID)
	if err != nil {
		return nil, err
	}
	r, err := s.run(ctx, v.ID)
	if err != nil {
		return nil, err
	}
	if r.Phase != broker.RunShown {
		return nil, huma.Error409Conflict(fmt.Sprintf("The run of %s waits for no approval: it is %s. %s", runName(v.ID), phaseWords[r.Phase], upperFirst(r.Reason)))
	}
	p, err := s.broker.GetPlan(ctx, v.ID)
	if err != nil && !errors.Is(err, broker.ErrNotFound) {
		return nil, err
	}
	switch {
	case err != nil || p.Run != r.ID || p.ID != in.Body.Plan: // G14
		return nil, huma.Error409Conflict(fmt.Sprintf("The plan of %s that waits for an approval is another one. Ask for a new one, and look at it first.", runName(v.ID)))
	case v.Revision != r.SettingRevision: // G13
		return nil, huma.Error409Conflict(fmt.Sprintf("%s was changed since the plan was made. Ask for a new one.", upperFirst(runName(v.ID))))
	case v.Mode == schemas.ReportOnly:
		return nil, huma.Error409Conflict(fmt.Sprintf("Sync setting %s only reports.", v.ID))
	}
	next := r
	next.Phase, next.Plan, next.Approved = broker.RunApplying, p.ID, time.Now().UTC()
	err = s.act(ctx, broker.AuditRecord{Action: "run.approve", Object: strings.Replace(runObject(v.ID), " ", "/", 1), Before: r.Revision, Settings: v.Revision, Approval: p.ID, Detail: "run " + r.ID + ", plan " + p.ID}, func(ctx context.Context) error {
		var err error
		next.Revision, err = s.broker.PutRun(ctx, next.Run, r.Revision)
		return err
	})
	if err != nil {
		return nil, err
	}
	return s.tagRun(ctx, next)
}

// phaseWords say in which state a run is.
var phaseWords = map[broker.RunPhase]string{broker.RunCapture: "listing the source", broker.RunPlan: "making its plan", broker.RunShown: "waiting for an approval",
	broker.RunApplying: "being applied", broker.RunDone: "done", broker.RunFailed: "failed", broker.RunDropped: "dropped"}

// DropRun is the body of dropping a run.
type DropRun struct {
	Run string `json:"run" minLength:"1" maxLength:"64" doc:"The id of the run; no other is dropped."`
}

func (s *Server) dropRun(ctx context.Context, in *idBody[DropRun]) (*tagged[RunRecord], error) {
	return s.dropRunOf(ctx, s.setting, in)
}

func (s *Server) dropRunOf(ctx context.Context, of subject, in *idBody[DropRun]) (*tagged[RunRecord], error) {
	s.writes.Lock()
	defer s.writes.Unlock()
	v, _, err := of(ctx, in.ID)
	if err != nil {
		return nil, err
	}
	r, err := s.run(ctx, v.ID)
	if err != nil {
		return nil, err
	}
	switch {
	case r.ID != in.Body.Run:
		return nil, huma.Error409Conflict(fmt.Sprintf("The run of %s is another one by now.", runName(v.ID)))
	case r.Phase.Over():
		return nil, huma.Error409Conflict(fmt.Sprintf("The run of %s is over: it is %s.", runName(v.ID), phaseWords[r.Phase]))
	}
	next := r
	next.Phase, next.Reason, next.Ended = broker.RunDropped, "somebody dropped it", time.Now().UTC()
	err = s.act(ctx, broker.AuditRecord{Action: "run.drop", Object: strings.Replace(runObject(v.ID), " ", "/", 1), Before: r.Revision, Detail: "run " + r.ID}, func(ctx context.Context) error {
		var err error
		next.Revision, err = s.broker.PutRun(ctx, next.Run, r.Revision)
		return err
	})
	if err != nil {
		return nil, err
	}
	return s.tagRun(ctx, next)
}

// PageInput names a page of a setting's plan or drift list.
type PageInput struct {
	IDPath
	Page int    `query:"page" minimum:"0" maximum:"100000" doc:"From 0."`
	Plan string `query:"plan" maxLength:"64" doc:"Only of this plan or drift list; another one is an error."`
}

// page reads one page of entries, with what more is to be told of each.
func (in *PageInput) page(id string, pages int, each func(func(int, broker.PlanPage) bool) error, more func(broker.PlanEntry, *EntryRecord) error) (*output[EntryPage], error) {
	newer := huma.NewError(http.StatusConflict, "A newer list has taken its place meanwhile: read it from its first page.")
	if in.Plan != "" && in.Plan != id {
		return nil, newer
	}
	if in.Page >= pages && in.Page > 0 {
		return nil, huma.Error404NotFound(fmt.Sprintf("There are %d pages, counted from 0.", pages))
	}
	out := EntryPage{Plan: id, Page: in.Page, Pages: pages, Items: []EntryRecord{}}
	var merr error
	err := each(func(n int, p broker.PlanPage) bool {
		if n == in.Page {
			for _, e := range p.Entries {
				r := entryRecord(e)
				if more != nil {
					merr = cmp.Or(merr, more(e, &r))
				}
				out.Items = append(out.Items, r)
			}
		}
		return n < in.Page
	})
	if errors.Is(err, broker.ErrConflict) || errors.Is(err, broker.ErrNotFound) {
		return nil, newer
	}
	return &output[EntryPage]{out}, cmp.Or(err, merr)
}

func (s *Server) listPlan(ctx context.Context, in *PageInput) (*output[EntryPage], error) {
	return s.listPlanOf(ctx, s.setting, in)
}

func (s *Server) listPlanOf(ctx context.Context, of subject, in *PageInput) (*output[EntryPage], error) {
	v, _, err := of(ctx, in.ID)
	if err != nil {
		return nil, err
	}
	p, err := s.broker.GetPlan(ctx, v.ID)
	if errors.Is(err, broker.ErrNotFound) {
		return nil, huma.Error404NotFound(fmt.Sprintf("There is no plan of %s.", runName(v.ID)))
	}
	if err != nil {
		return nil, err
	}
	return in.page(p.ID, p.Pages, func(each func(int, broker.PlanPage) bool) error { return s.broker.PlanPages(ctx, p, each) },
		func(e broker.PlanEntry, r *EntryRecord) error {
			changed, err := s.broker.Changed(p, e)
			for _, c := range changed {
				r.Changed = append(r.Changed, FieldChangeRecord(c))
			}
			return err
		})
}

func (s *Server) getDrift(ctx context.Context, in *IDPath) (*output[DriftRecord], error) {
	v, _, err := s.setting(ctx, in.ID)
	if err != nil {
		return nil, err
	}
	d, err := s.driftRecord(ctx, v)
	if err == nil && d == nil {
		err = huma.Error404NotFound(fmt.Sprintf("The target of sync setting %s was not audited yet.", v.ID))
	}
	if err != nil {
		return nil, err
	}
	return &output[DriftRecord]{*d}, nil
}

func (s *Server) listDrift(ctx context.Context, in *PageInput) (*output[EntryPage], error) {
	v, _, err := s.setting(ctx, in.ID)
	if err != nil {
		return nil, err
	}
	d, err := s.broker.GetDrift(ctx, v.ID)
	if errors.Is(err, broker.ErrNotFound) {
		return nil, huma.Error404NotFound(fmt.Sprintf("The target of sync setting %s was not audited yet.", v.ID))
	}
	if err != nil {
		return nil, err
	}
	return in.page(d.ID, d.Pages, func(each func(int, broker.PlanPage) bool) error { return s.broker.DriftPages(ctx, d, each) }, nil)
}

// driftRecord returns what the last audit found, nil where there was none.
func (s *Server) driftRecord(ctx context.Context, v broker.StoredSetting) (*DriftRecord, error) {
	d, err := s.broker.GetDrift(ctx, v.ID)
	if errors.Is(err, broker.ErrNotFound) {
		return nil, nil
	}
	if errors.Is(err, broker.ErrRecord) { // of another release
		return &DriftRecord{Counts: []CountRecord{}, Failed: err.Error()}, nil
	}
	if err != nil {
		return nil, err
	}
	r := &DriftRecord{ID: d.ID, Began: d.Began, Cause: d.Cause, Counts: countRecords(d.Counts), Entries: d.Entries, Pages: d.Pages, Cut: d.Cut, Failed: d.Failed, Warnings: d.Warnings,
		Outdated: d.SettingRevision != v.Revision}
	for _, c := range d.Counts {
		switch {
		case Same(string(c.Difference), c.Act):
			r.Equal += c.Objects
			continue
		case decide.Act(c.Act) == decide.Hold:
			r.Held += c.Objects
		}
		r.Differs += c.Objects
	}
	return r, nil
}

// Same tells whether a comparison counts as equal. What only the target has counts as a
// difference where something would be done about it, so not where it never came from
// the source: that is not what the setting is about.
func Same(difference, act string) bool {
	switch broker.Difference(difference) {
	case broker.Equal, broker.Owned:
		return true
	case broker.OnlyTarget:
		return decide.Act(act) == decide.Nothing
	}
	return false
}
