package broker

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/vcsync/vcsync/schemas"
)

// A run is what a person asked to have done once with a sync setting: look afresh, show
// a plan, and do it when it is approved. There is one record per setting, in VCS_CFG;
// control alone writes it. What the consumer that holds the target has to say about it
// lies in VCS_PLAN: the plan, how far it has come, and the drift that audits found. So
// every step has one writer, and each side only watches what the other writes:
//
//	phase     who moves it on, and when                       what is written meanwhile
//	capture   (not of a replay, which begins with plan)
//	          control, when the producer's status proves that  events, by the producer
//	          every type in scope was listed since: Revision
//	          of producer.TypeStatus is not below the record's
//	          (see Run.Listed). No clocks are compared.
//	plan      control, when a Plan of this run is there: to    Plan with its pages, by the
//	          shown; to failed where Plan.Failed says why.     consumer
//	          The consumer begins it when it sees the phase.
//	shown     a person, through control: to applying with      nothing
//	          Run.Plan set to the plan's ID, or to dropped;
//	          control drops one that waits for too long. A
//	          DryRun is done here.
//	applying  control, when RunProgress of this run and plan   the ledger and the pages'
//	          has Ended: to its Result, which is done, failed  Outcome, then RunProgress,
//	          or dropped (G13)                                 by the consumer
//	done, failed, dropped: it is over; the next run overwrites it
//
// A run that carries out a verdict on deletions (Scope.Airlock) has no phases before
// applying: its Plan is control's, of what the person saw.
//
// Control may move any phase to dropped at any time; what is under way then ends after
// the objects that are being written. A consumer or producer that dies is no end of a
// run: the next one goes on where it stopped.
//
// A run at a server is the same, but for what is done: that says Act, and no source is
// listed, so it begins with plan. There is one record per server.
type Run struct {
	// ID tells one run of the setting from the next.
	ID string `json:"id"`
	// Setting is ActAt(Server) of a run at a server; it is not stored then.
	Setting schemas.Slug `json:"setting,omitzero"`
	// Server is where the run is, of one that is of no setting.
	Server schemas.Slug `json:"server,omitzero"`
	// SettingRevision is that of the setting under which it was asked for, or of the
	// server. With another one in force its plan is dropped (G13).
	SettingRevision uint64   `json:"settingRevision"`
	Phase           RunPhase `json:"phase"`
	Scope           RunScope `json:"scope,omitzero"`
	// Act is what a run at a server does.
	Act RunAct `json:"act,omitzero"`
	// DryRun ends it when the plan is there. Fields wants the values of what differs in it.
	DryRun bool `json:"dryRun,omitzero"`
	Fields bool `json:"fields,omitzero"`
	// Plan is the ID of the plan that was approved, Approved when that was; empty before.
	Plan     string    `json:"plan,omitzero"`
	Approved time.Time `json:"approved,omitzero"`
	// Reason says why it failed or was dropped.
	Reason string    `json:"reason,omitzero"`
	By     string    `json:"by,omitzero"`
	Asked  time.Time `json:"asked"`
	Ended  time.Time `json:"ended,omitzero"`

	// Unknown is what another release wrote beside it (G10).
	Unknown jsontext.Value `json:",embed"`
}

// RunAct is what a run at a server does. One of the two is there.
type RunAct struct {
	// Undo is the pass that is undone, whole or as far as the scope names objects, by their
	// ids at the server.
	Undo string `json:"undo,omitzero"`
	// Revert brings an older version of one object back.
	Revert RunRevert `json:"revert,omitzero"`
}

// RunRevert is an older version of an object that is to be applied as a new change.
type RunRevert struct {
	Source schemas.Slug `json:"source,omitzero"`
	Type   schemas.Type `json:"type,omitzero"`
	// ID is the object's at the source.
	ID schemas.ID `json:"id,omitzero"`
	// Seq is the sequence of the version's event in VCS_EV, Version what it says there.
	Seq     uint64          `json:"seq,omitzero"`
	Version schemas.Version `json:"version,omitzero"`
	// Setting composes the body; empty where it is written at the source itself.
	Setting schemas.Slug `json:"setting,omitzero"`
	// Force does it although something that it refers to is not there.
	Force bool `json:"force,omitzero"`
}

// actMark begins what stands for a setting's name in a run at a server: no setting is
// called so.
const actMark = "act="

// ActAt returns what stands for a setting's name in a run at a server, in its plan and in
// its progress.
func ActAt(server schemas.Slug) schemas.Slug { return actMark + server }

// actAt is the inverse of ActAt, empty for a setting.
func actAt(setting schemas.Slug) schemas.Slug {
	server, _ := strings.CutPrefix(string(setting), actMark)
	if server == string(setting) {
		return ""
	}
	return schemas.Slug(server)
}

// Subject returns the setting of a run, and whether there is one. Of a run at a server it
// is one that takes nothing, with the server as its target and the server's revision.
func (s Snapshot) Subject(setting schemas.Slug) (StoredSetting, bool) {
	server := actAt(setting)
	if server == "" {
		v, ok := s.Settings[setting]
		return v, ok
	}
	v, ok := s.Servers[server]
	return StoredSetting{schemas.Setting{ID: setting, Source: server, Target: server}, v.Revision}, ok
}

// How long an approval is good for, see Run.Expired: as long as a plan is shown.
const (
	ApprovalFor  = time.Hour
	ApprovalMost = 24 * time.Hour
)

// Expired tells whether what has not begun of an approved plan must not begin any more:
// nothing of it was dealt with for ApprovalFor, or the approval is older than
// ApprovalMost. Moved is when the last of its objects was dealt with, zero where none
// was. The clocks of who approves and who applies are compared: one that is an hour
// ahead does nothing, and says why.
func (r Run) Expired(moved, now time.Time) bool {
	since := r.Approved
	if since.IsZero() {
		since = r.Asked // of a release that did not keep it
	}
	if since.IsZero() {
		return false
	}
	last := since
	if moved.After(last) {
		last = moved
	}
	return now.Sub(last) > ApprovalFor || now.Sub(since) > ApprovalMost
}

// StoredRun is a run with the revision that its next change must name.
type StoredRun struct {
	Run
	Revision uint64
}

// RunPhase is how far a run has come.
type RunPhase string

// Phases, in their order; see Run for who moves a run on.
const (
	RunCapture  RunPhase = "capture"
	RunPlan     RunPhase = "plan"
	RunShown    RunPhase = "shown"
	RunApplying RunPhase = "applying"
	RunDone     RunPhase = "done"
	RunFailed   RunPhase = "failed"
	RunDropped  RunPhase = "dropped"
)

// Over tells that nothing comes of the run any more.
func (p RunPhase) Over() bool {
	switch p {
	case RunCapture, RunPlan, RunShown, RunApplying:
		return false
	}
	return true // also in a phase of a newer release
}

// RunScope narrows a run. Empty, it is all that the setting takes.
type RunScope struct {
	Types   []schemas.Type `json:"types,omitzero"`
	Objects []RunObject    `json:"objects,omitzero"`
	// Dependencies takes, beside Objects, what they refer to, directly or through others,
	// and creates it where it is absent at the target, also what the setting itself does
	// not take.
	Dependencies bool `json:"dependencies,omitzero"`
	// Airlock is the batch of deletions at the target that a person has let through the
	// airlock; empty for any other run. Control itself makes its plan, of what the person
	// saw, and the run begins with applying.
	Airlock string `json:"airlock,omitzero"`
	// Replay makes it a replay: what is stored is applied again, and the source is not
	// listed for it.
	Replay RunReplay `json:"replay,omitzero"`
}

// RunReplay narrows a run to the objects of which something was captured since an event.
// The newest state of each is what counts, so whatever the stream has forgotten meanwhile
// is not missed.
type RunReplay struct {
	// FromSeq is the sequence in VCS_EV of the first event that counts, at least 1; 0
	// where the run is no replay.
	FromSeq uint64 `json:"fromSeq,omitzero"`
	// Captured is when each type in scope had been listed completely at the source, as
	// its producer said when the replay was asked for; zero where nobody knew. What
	// changed at the source later is in the plan only as far as it was captured.
	Captured time.Time `json:"captured,omitzero"`
}

// IsReplay tells whether the run applies again what is stored.
func (s RunScope) IsReplay() bool { return s.Replay.FromSeq > 0 }

// RunObject is one object, by its id at the source.
type RunObject struct {
	Type schemas.Type `json:"type"`
	ID   schemas.ID   `json:"id"`
}

// Takes tells whether the scope holds an object. What Dependencies adds is not known
// here.
func (s RunScope) Takes(t schemas.Type, id schemas.ID) bool {
	if len(s.Types) == 0 && len(s.Objects) == 0 {
		return true
	}
	return slices.Contains(s.Types, t) || slices.Contains(s.Objects, RunObject{t, id})
}

// TypesOf returns the types of the setting that the run looks at, in the order of
// schemas.Types: those that have to be listed at the source and at the target. With
// Dependencies these are all that can be synced, but for ServerSettings.
func (s RunScope) TypesOf(set schemas.Setting) []schemas.Type {
	var out []schemas.Type
	for _, t := range schemas.Types() {
		taken := set.Rules[t].Takes()
		if s.Dependencies && t != schemas.ServerSettings {
			taken = true
		} else if len(s.Types)+len(s.Objects) > 0 {
			taken = taken && (slices.Contains(s.Types, t) || slices.ContainsFunc(s.Objects, func(o RunObject) bool { return o.Type == t }))
		}
		if taken {
			out = append(out, t)
		}
	}
	return out
}

// Listed tells whether a listing proves for the run that its type was listed freshly:
// configRevision is that of VCS_CFG which the producer knew when the listing began
// (producer.TypeStatus.Revision), so one that knew the run began after it was asked
// for. It holds while the phase is capture, since every later one writes the record anew.
func (r StoredRun) Listed(configRevision uint64) bool { return configRevision >= r.Revision }

// PutRun stores a run. With after 0 there must never have been one of the setting, else
// its revision must be after; ErrConflict otherwise. It returns the new revision.
func (b *Broker) PutRun(ctx context.Context, r Run, after uint64) (uint64, error) {
	key := runPrefix + string(r.Setting)
	if r.Server != "" {
		r.Setting = ""
	}
	raw, err := json.Marshal(r)
	if err != nil {
		return 0, fmt.Errorf("store %s: %w", key, err)
	}
	return b.putRecord(ctx, key, raw, after)
}

// GetRun returns the newest run of a setting, or of ActAt a server; ErrNotFound where there never was one.
// Snapshot.Runs holds those of all settings, and WatchConfig tells of every change.
func (b *Broker) GetRun(ctx context.Context, setting schemas.Slug) (StoredRun, error) {
	kv, err := b.js.KeyValue(ctx, BucketConfig)
	if err != nil {
		return StoredRun{}, fmt.Errorf("run of %s: %w", setting, err)
	}
	e, err := kv.Get(ctx, runPrefix+string(setting))
	if errors.Is(err, jetstream.ErrKeyNotFound) {
		return StoredRun{}, fmt.Errorf("run of %s: %w", setting, ErrNotFound)
	}
	if err != nil {
		return StoredRun{}, fmt.Errorf("run of %s: %w", setting, err)
	}
	return parseRun(e)
}

func parseRun(e jetstream.KeyValueEntry) (StoredRun, error) {
	var r Run
	if err := json.Unmarshal(e.Value(), &r); err != nil {
		return StoredRun{}, fmt.Errorf("%w: %s: %w", ErrRecord, e.Key(), err)
	}
	if r.Server != "" {
		r.Setting = ActAt(r.Server)
	}
	if runPrefix+string(r.Setting) != e.Key() {
		return StoredRun{}, fmt.Errorf("%w: %s says it is of %s", ErrRecord, e.Key(), r.Setting)
	}
	return StoredRun{r, e.Revision()}, nil
}

// Difference says how source and target compare in one object.
type Difference string

// Differences.
const (
	// Equal: both have it, and the target's is what the source's would become there.
	Equal Difference = "equal"
	// Different: both have it; PlanEntry.Fields says in what they differ.
	Different Difference = "different"
	// OnlySource and OnlyTarget: one side has it alone.
	OnlySource Difference = "only at the source"
	OnlyTarget Difference = "only at the target"
	// Owned: they differ in nothing but what the setting leaves to the target.
	Owned Difference = "owned"
)

// PlanEntry is one object of a plan or of a drift list. It is stored without content,
// neither secrets nor other values, but for what is sealed in it (see Changed).
type PlanEntry struct {
	Type schemas.Type `json:"type"`
	// ID is the object's at the source, TargetID that at the target where a pin makes it
	// another; empty where it is the same. Of what is only at the target, ID is that.
	ID       schemas.ID `json:"id"`
	TargetID schemas.ID `json:"targetId,omitzero"`
	Name     string     `json:"name,omitzero"`
	Group    string     `json:"group,omitzero"`
	// Difference is what was found, Act what is to be done about it: a word of
	// decide.Act. Would is what a hold, a wait or a park keeps from being done. Reason is
	// a short word for why, Why a sentence for people.
	Difference Difference `json:"difference"`
	Act        string     `json:"act"`
	Would      string     `json:"would,omitzero"`
	Reason     string     `json:"reason,omitzero"`
	Why        string     `json:"why,omitzero"`
	// Fields names what differs, at most 8.
	Fields []string `json:"fields,omitzero"`
	// UsedBy are the objects at the target that refer to one whose deletion is held, as far
	// as Why names them: who lets it through has seen these.
	UsedBy []RunObject `json:"usedBy,omitzero"`
	// Opens is when the sync window opens that a wait is for; zero where that is not to be
	// seen.
	Opens time.Time `json:"opens,omitzero"`
	// Changed holds Fields with their values, where the run asks for them. PutPlan seals
	// it, Broker.Changed opens it.
	Changed []FieldChange `json:"-"`
	Sealed  string        `json:"sealed,omitzero"`
	// Source owns the object here, Version is its newest there.
	Source  schemas.Slug    `json:"source,omitzero"`
	Version schemas.Version `json:"version,omitzero"`
	// Wanted is the digest of what the target would hold afterwards, AtTarget that of
	// what it held when it was listed; empty for absent.
	Wanted   schemas.Digest `json:"wanted,omitzero"`
	AtTarget schemas.Digest `json:"atTarget,omitzero"`
	// Stage orders the entries of a run at a server, from 1: one begins when those before
	// are over.
	Stage int `json:"stage,omitzero"`
	// Outcome is what became of it; empty before the plan is applied, and while it is on
	// its way. OutcomeWhy is for people.
	Outcome    Outcome `json:"outcome,omitzero"`
	OutcomeWhy string  `json:"outcomeWhy,omitzero"`
}

// FieldChange is a field in which an object differs, with what the target has and what it
// would have: JSON, cut, without secrets, and empty where it is not there.
type FieldChange struct {
	Field string `json:"field"`
	Old   string `json:"old,omitzero"`
	New   string `json:"new,omitzero"`
}

// Outcome says what became of one object of an approved plan.
type Outcome string

// Outcomes. Nothing but OutcomeDone has changed the target as the plan said (G14).
const (
	OutcomeDone   Outcome = "done"
	OutcomeSource Outcome = "the source changed since"
	OutcomeTarget Outcome = "the target changed since"
	// OutcomeOther: what would have to be done now is not what the plan showed, for
	// another reason, such as a capability of the target.
	OutcomeOther  Outcome = "no longer as planned"
	OutcomeParked Outcome = "parked"
	// OutcomeLeft: the run ended before its turn.
	OutcomeLeft Outcome = "not begun"
	// OutcomeExpired: its turn came too late, see Run.Expired.
	OutcomeExpired Outcome = "the approval expired"
)

// PlanCount is a number of objects.
type PlanCount struct {
	Type       schemas.Type `json:"type"`
	Difference Difference   `json:"difference"`
	Act        string       `json:"act"`
	Objects    int          `json:"objects"`
}

// Plan is the head of what a run would do. Its entries lie in pages of planPage.
type Plan struct {
	ID  string `json:"id"`
	Run string `json:"run"`
	// Setting and Server are as in Run.
	Setting         schemas.Slug `json:"setting,omitzero"`
	Server          schemas.Slug `json:"server,omitzero"`
	SettingRevision uint64       `json:"settingRevision"`
	Source          schemas.Slug `json:"source,omitzero"`
	Target          schemas.Slug `json:"target,omitzero"`
	// Began is when the listing of the target began, Made when the plan was ready.
	Began time.Time `json:"began"`
	Made  time.Time `json:"made"`
	// Newest is when the newest of the states that a replay looked at was captured.
	Newest time.Time `json:"newest,omitzero"`
	// Counts holds every object that was looked at, Entries are those of which there is
	// something to say; the equal ones are only counted.
	Counts  []PlanCount `json:"counts,omitzero"`
	Entries int         `json:"entries"`
	Pages   int         `json:"pages"`
	// Warnings are for people.
	Warnings []string `json:"warnings,omitzero"`
	// Failed says why there is no plan; empty where there is one.
	Failed string `json:"failed,omitzero"`

	// Unknown is what another release wrote beside it (G10).
	Unknown jsontext.Value `json:",embed"`
}

// PlanPage is a part of a plan's entries.
type PlanPage struct {
	// Plan is the ID of the plan or drift list that it belongs to.
	Plan    string      `json:"plan"`
	Entries []PlanEntry `json:"entries"`

	// Unknown is what another release wrote beside it (G10).
	Unknown jsontext.Value `json:",embed"`
	// Revision is the page's own, for its next change.
	Revision uint64 `json:"-"`
}

// RunProgress is how far the applying of a plan has come.
type RunProgress struct {
	Run  string `json:"run"`
	Plan string `json:"plan"`
	// Setting and Server are as in Run.
	Setting schemas.Slug `json:"setting,omitzero"`
	Server  schemas.Slug `json:"server,omitzero"`
	// Total is how many entries of the plan change or record something, Done how many
	// of them have an outcome.
	Total int         `json:"total"`
	Done  int         `json:"done"`
	Types []TypeCount `json:"types,omitzero"`
	// Outcomes counts the outcomes there are so far.
	Outcomes map[Outcome]int `json:"outcomes,omitzero"`
	// Moved is when the last of them came; zero where there is none.
	Moved time.Time `json:"moved,omitzero"`
	// Ended tells that it is over, with Result as the run's next phase and Reason for
	// people.
	Ended  bool      `json:"ended,omitzero"`
	Result RunPhase  `json:"result,omitzero"`
	Reason string    `json:"reason,omitzero"`
	At     time.Time `json:"at"`

	// Unknown is what another release wrote beside it (G10).
	Unknown jsontext.Value `json:",embed"`
}

// TypeCount is how far one type of a plan has come.
type TypeCount struct {
	Type  schemas.Type `json:"type"`
	Total int          `json:"total"`
	Done  int          `json:"done"`
}

// DriftList is the head of what the last audit of an active setting found, and of what
// was held since. Its entries lie in pages; they are those that are not equal, at most
// DriftMost of them.
type DriftList struct {
	ID              string       `json:"id"`
	Setting         schemas.Slug `json:"setting"`
	SettingRevision uint64       `json:"settingRevision"`
	Source          schemas.Slug `json:"source,omitzero"`
	Target          schemas.Slug `json:"target,omitzero"`
	// Began is when the listing of the target began; zero where none has ended well yet.
	// Cause says what it was for: start, interval, reconnect, settings or asked.
	Began   time.Time `json:"began,omitzero"`
	Cause   string    `json:"cause,omitzero"`
	Updated time.Time `json:"updated"`
	// Counts holds every object that was looked at.
	Counts  []PlanCount `json:"counts,omitzero"`
	Entries int         `json:"entries"`
	Pages   int         `json:"pages"`
	// Cut tells that there were more than DriftMost entries.
	Cut bool `json:"cut,omitzero"`
	// Failed says why the last audit could not be made; the entries are of one before.
	Failed string `json:"failed,omitzero"`
	// Warnings are for people: what objects at the target refer to and that is not there.
	Warnings []string `json:"warnings,omitzero"`

	// Unknown is what another release wrote beside it (G10).
	Unknown jsontext.Value `json:",embed"`
}

const (
	// planPage is how many entries share one record: an entry takes about 500 bytes.
	// Where ids and names are long, fewer do: planBytes is how many bytes at most, which
	// leaves room for outcomes. planText is how many runes of each text an entry keeps.
	planPage  = 200
	planBytes = MaxPayload / 4
	planText  = 500
	// PlanMost is how many entries a plan has at most: one with more is refused, since
	// nobody reads it; the scope can be narrowed.
	PlanMost = 100_000
	// DriftMost is how many entries a drift list has at most; Counts goes on counting.
	DriftMost = 2_000

	runPrefix      = "run."
	planPrefix     = "plan."
	progressPrefix = "progress."
	driftPrefix    = "drift."
)

// PutPlan stores a plan with its entries, in place of the one before it; the head comes
// last. It sets Entries and Pages. A plan that failed has no entries.
func (b *Broker) PutPlan(ctx context.Context, p Plan, entries []PlanEntry) error {
	var err error
	p.Entries = len(entries)
	for i, e := range entries {
		if len(e.Changed) == 0 {
			continue
		}
		for j, c := range e.Changed {
			e.Changed[j].Field = fmt.Sprintf("%.*s", planText, c.Field)
		}
		raw, err := json.Marshal(e.Changed)
		if err != nil {
			return fmt.Errorf("store the plan for %s: %w", p.Setting, err)
		}
		entries[i].Sealed, entries[i].Changed = b.Keys.Seal(p.sealContext(e), string(raw)), nil
	}
	if p.Pages, err = b.putPages(ctx, planPrefix+string(p.Setting), p.ID, entries); err != nil {
		return fmt.Errorf("store the plan for %s: %w", p.Setting, err)
	}
	key := planPrefix + string(p.Setting)
	if p.Server = actAt(p.Setting); p.Server != "" {
		p.Setting = ""
	}
	if err := b.putPlanRecord(ctx, key, p); err != nil {
		return fmt.Errorf("store %s: %w", key, err)
	}
	return nil
}

func (p Plan) sealContext(e PlanEntry) string {
	return fmt.Sprintf("plan/%s/%s/%s/%s", p.Setting, p.ID, e.Type, e.ID)
}

// Changed returns the values of the fields in which an entry of a plan differs, none
// where the run did not ask for them. The error wraps ErrKeyring where they cannot be
// opened here.
func (b *Broker) Changed(p Plan, e PlanEntry) (out []FieldChange, err error) {
	if e.Sealed == "" {
		return nil, nil
	}
	raw, err := b.Keys.Open(p.sealContext(e), e.Sealed)
	if err == nil {
		err = json.Unmarshal([]byte(raw), &out)
	}
	return out, err
}

// GetPlan returns the newest plan for a setting, ErrNotFound where there is none: it is
// kept for 7 days.
func (b *Broker) GetPlan(ctx context.Context, setting schemas.Slug) (p Plan, err error) {
	_, err = b.getPlanRecord(ctx, planPrefix+string(setting), &p)
	if p.Server != "" {
		p.Setting = ActAt(p.Server)
	}
	return p, err
}

// PlanPages calls each with the pages of a plan in their order, until it returns false.
// The error wraps ErrConflict where a newer plan has taken its place meanwhile.
func (b *Broker) PlanPages(ctx context.Context, p Plan, each func(n int, page PlanPage) bool) error {
	return b.pages(ctx, planPrefix+string(p.Setting), p.ID, p.Pages, each)
}

// PutPlanPage stores a page of a plan with outcomes. It returns the new revision;
// ErrConflict where somebody else changed it since it was read.
func (b *Broker) PutPlanPage(ctx context.Context, p Plan, n int, page PlanPage) (uint64, error) {
	key := pageOf(planPrefix+string(p.Setting), n)
	page.Entries = slices.Clone(page.Entries)
	for i, e := range page.Entries {
		page.Entries[i] = e.bounded()
	}
	raw, err := json.Marshal(page)
	if err != nil {
		return 0, fmt.Errorf("store %s: %w", key, err)
	}
	kv, err := b.js.KeyValue(ctx, BucketPlan)
	if err != nil {
		return 0, fmt.Errorf("store %s: %w", key, err)
	}
	rev, err := kv.Update(ctx, key, raw, page.Revision)
	return rev, recordError("store", key, err)
}

// PutProgress stores how far the applying of a plan has come.
func (b *Broker) PutProgress(ctx context.Context, p RunProgress) error {
	key := progressPrefix + string(p.Setting)
	if p.Server = actAt(p.Setting); p.Server != "" {
		p.Setting = ""
	}
	if err := b.putPlanRecord(ctx, key, p); err != nil {
		return fmt.Errorf("store how far a run has come: %w", err)
	}
	return nil
}

// GetProgress returns how far the newest run of a setting that was applied has come,
// ErrNotFound where there is none.
func (b *Broker) GetProgress(ctx context.Context, setting schemas.Slug) (p RunProgress, err error) {
	_, err = b.getPlanRecord(ctx, progressPrefix+string(setting), &p)
	if p.Server != "" {
		p.Setting = ActAt(p.Server)
	}
	return p, err
}

// PutDrift stores a drift list with its entries, in place of the one before it. It sets
// Entries, Pages and Cut.
func (b *Broker) PutDrift(ctx context.Context, d DriftList, entries []PlanEntry) error {
	if d.Cut = len(entries) > DriftMost; d.Cut {
		entries = entries[:DriftMost]
	}
	var err error
	d.Entries = len(entries)
	if d.Pages, err = b.putPages(ctx, driftPrefix+string(d.Setting), d.ID, entries); err != nil {
		return fmt.Errorf("store the drift of %s: %w", d.Setting, err)
	}
	if err := b.putPlanRecord(ctx, driftPrefix+string(d.Setting), d); err != nil {
		return fmt.Errorf("store the drift of %s: %w", d.Setting, err)
	}
	return nil
}

// GetDrift returns the newest drift list of a setting, ErrNotFound where there is none:
// it is kept for 7 days.
func (b *Broker) GetDrift(ctx context.Context, setting schemas.Slug) (d DriftList, err error) {
	_, err = b.getPlanRecord(ctx, driftPrefix+string(setting), &d)
	return d, err
}

// DriftPages calls each with the pages of a drift list in their order, until it returns
// false. The error wraps ErrConflict where a newer one has taken its place meanwhile.
func (b *Broker) DriftPages(ctx context.Context, d DriftList, each func(n int, page PlanPage) bool) error {
	return b.pages(ctx, driftPrefix+string(d.Setting), d.ID, d.Pages, each)
}

// PlanNews is what WatchPlans tells: one of the three is set.
type PlanNews struct {
	Plan     *Plan
	Progress *RunProgress
	Drift    *DriftList
}

// WatchPlans calls each with every plan, progress and drift list that is there, without
// their entries, and with every one that comes, until ctx ends; also with all anew when
// the connection to the broker was lost and is back. It returns nil when ctx ended, and
// an error only where the watch cannot begin.
func (b *Broker) WatchPlans(ctx context.Context, each func(PlanNews)) error {
	for began := false; ; {
		err := b.watch(ctx, BucketPlan, "*.*", func(e jetstream.KeyValueEntry) error {
			if e.Operation() != jetstream.KeyValuePut {
				return nil
			}
			var n PlanNews
			var err error
			switch kind, _, _ := strings.Cut(e.Key(), "."); kind + "." {
			case planPrefix:
				n.Plan = &Plan{}
				err = json.Unmarshal(e.Value(), n.Plan)
			case progressPrefix:
				n.Progress = &RunProgress{}
				err = json.Unmarshal(e.Value(), n.Progress)
			case driftPrefix:
				n.Drift = &DriftList{}
				err = json.Unmarshal(e.Value(), n.Drift)
			default:
				return nil
			}
			if err != nil {
				b.log.WarnContext(ctx, "a record about a run is left alone", "key", e.Key(), "error", err)
				return nil
			}
			each(n)
			return nil
		}, func() bool { began = true; return false })
		switch {
		case ctx.Err() != nil:
			return nil
		case !began:
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(watchAgain):
		}
	}
}

func pageOf(prefix string, n int) string { return prefix + "." + strconv.Itoa(n) }

// bounded returns the entry with texts of a length that can be stored.
func (e PlanEntry) bounded() PlanEntry {
	cut := func(s string) string { return fmt.Sprintf("%.*s", planText, s) }
	e.Name, e.Group, e.Why, e.OutcomeWhy = cut(e.Name), cut(e.Group), cut(e.Why), cut(e.OutcomeWhy)
	e.Fields = slices.Clone(e.Fields)
	for i, f := range e.Fields {
		e.Fields[i] = cut(f)
	}
	return e
}

// putPages stores entries over the pages that were there before, and returns how many
// pages they take. A page that names another plan than the head is of one that is being
// written.
func (b *Broker) putPages(ctx context.Context, prefix, plan string, entries []PlanEntry) (n int, err error) {
	page, size := []PlanEntry(nil), 0
	put := func() error {
		err := b.putPlanRecord(ctx, pageOf(prefix, n), PlanPage{Plan: plan, Entries: page})
		page, size, n = nil, 0, n+1
		return err
	}
	for _, e := range entries {
		e = e.bounded()
		raw, err := json.Marshal(e)
		if err != nil {
			return n, err
		}
		if len(page) == planPage || len(page) > 0 && size+len(raw) > planBytes {
			if err := put(); err != nil {
				return n, err
			}
		}
		page, size = append(page, e), size+len(raw)
	}
	if len(page) > 0 {
		err = put()
	}
	return n, err
}

func (b *Broker) pages(ctx context.Context, prefix, plan string, n int, each func(n int, page PlanPage) bool) error {
	for i := range n {
		var page PlanPage
		rev, err := b.getPlanRecord(ctx, pageOf(prefix, i), &page)
		if err == nil && page.Plan != plan {
			err = fmt.Errorf("read %s: %w", pageOf(prefix, i), ErrConflict)
		}
		if err != nil {
			return err
		}
		page.Revision = rev
		if !each(i, page) {
			return nil
		}
	}
	return nil
}

func (b *Broker) putPlanRecord(ctx context.Context, key string, v any) error {
	raw, err := json.Marshal(v, json.Deterministic(true))
	if err != nil {
		return err
	}
	kv, err := b.js.KeyValue(ctx, BucketPlan)
	if err == nil {
		_, err = kv.Put(ctx, key, raw)
	}
	return err
}

func (b *Broker) getPlanRecord(ctx context.Context, key string, v any) (rev uint64, err error) {
	kv, err := b.js.KeyValue(ctx, BucketPlan)
	if err != nil {
		return 0, fmt.Errorf("read %s: %w", key, err)
	}
	e, err := kv.Get(ctx, key)
	if errors.Is(err, jetstream.ErrKeyNotFound) {
		return 0, fmt.Errorf("read %s: %w", key, ErrNotFound)
	}
	if err != nil {
		return 0, fmt.Errorf("read %s: %w", key, err)
	}
	if err := json.Unmarshal(e.Value(), v); err != nil {
		return 0, fmt.Errorf("%w: %s: %w", ErrRecord, key, err)
	}
	return e.Revision(), nil
}
