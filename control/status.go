package control

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/vcsync/vcsync/broker"
	"github.com/vcsync/vcsync/consumer"
	"github.com/vcsync/vcsync/producer"
	"github.com/vcsync/vcsync/schemas"
)

// StatusReport is how everything does.
type StatusReport struct {
	Version  string         `json:"version"`
	Time     time.Time      `json:"time"`
	SafeMode SafeModeRecord `json:"safeMode" doc:"Whether vcsync is in safe mode: it deletes nothing, and writes nothing but approved plans."`
	Store    StoreReport    `json:"store"`
	Roles    RolesReport    `json:"roles" doc:"Of which roles anything is known here: those that run in this process, or say in the store how they do."`
	// Processes begins with this one.
	Processes []ProcessReport    `json:"processes" nullable:"false" doc:"The processes of the installation, this one first."`
	Sources   []SourceReport     `json:"sources" nullable:"false"`
	Targets   []TargetReport     `json:"targets" nullable:"false"`
	Settings  []SettingReport    `json:"settings" nullable:"false"`
	Parked    int                `json:"parked" doc:"Without those that were discarded."`
	ParkedBy  []ParkedCount      `json:"parkedBy" nullable:"false" doc:"The same by target and class, the most first."`
	Faulty    []UnreadableReport `json:"faulty,omitzero" doc:"Stored records that this version does not understand."`
}

// ProcessReport is how a process does.
type ProcessReport struct {
	Role       string    `json:"role" doc:"all, control, producer or consumer."`
	Instance   string    `json:"instance"`
	Host       string    `json:"host"`
	PID        int       `json:"pid"`
	Version    string    `json:"version"`
	Started    time.Time `json:"started" doc:"By its own clock."`
	Memory     uint64    `json:"memory" doc:"What it holds from the operating system, in bytes."`
	Goroutines int       `json:"goroutines"`
	State      string    `json:"state" doc:"alive, or gone: silent for 30 seconds, and what it said is not believed any more."`
	Silent     int       `json:"silent" doc:"How many seconds ago it last said something."`
	Twice      bool      `json:"twice,omitzero" doc:"Two running processes have this role and name; one needs another VCSYNC_INSTANCE."`
	Cut        bool      `json:"cut,omitzero" doc:"It has more to say than a report takes; its sources and targets are missing here."`
	Sources    []string  `json:"sources" nullable:"false" doc:"What it captures, without what it stands by for."`
	Targets    []string  `json:"targets" nullable:"false" doc:"What it writes to, without what it stands by for."`
}

// Process states.
const (
	processAlive = "alive"
	processGone  = "gone"
)

// standbyFor is how long a source may be between two producers.
const standbyFor = 30 * time.Second

// noProducer and noConsumer are the states of a source and of a target that no living
// process speaks of.
const (
	noProducer = "no producer has it"
	noConsumer = "no consumer has it"
)

// AccountingReport says what became of every captured version: captured = applied +
// superseded + filtered + parked + held + pending (G7).
type AccountingReport struct {
	At          time.Time `json:"at" doc:"When it was drawn up, by the clock of the process that writes to the target."`
	Captured    uint64    `json:"captured" doc:"Versions of objects that the source's events tell of, and deletions that are held."`
	Applied     uint64    `json:"applied" doc:"Written, found equal, removed or found gone."`
	Superseded  uint64    `json:"superseded" doc:"Overtaken by a newer version before their turn came."`
	Filtered    uint64    `json:"filtered" doc:"Newest versions that the settings do not take."`
	Parked      uint64    `json:"parked" doc:"Newest versions that are parked, discarded ones too."`
	Held        uint64    `json:"held" doc:"What a setting's mode keeps back, and deletions that wait at the source."`
	Pending     uint64    `json:"pending" doc:"Newest versions that are on their way or wait for their turn."`
	Oldest      time.Time `json:"oldest,omitzero" doc:"When the oldest pending one was captured."`
	Unaccounted uint64    `json:"unaccounted" doc:"In none of these accounts, or in two, for some seconds: something was lost, or vcsync is wrong."`
	Objects     []string  `json:"objects,omitzero" doc:"Up to 5 of the objects that are unaccounted for, as Type/id."`
	Left        uint64    `json:"left,omitzero" doc:"Objects that vcsync brought to the target and no setting takes any more, of types of which this one takes some: they are left alone, and gone at the source they stay."`
	LeftObjects []string  `json:"leftObjects,omitzero" doc:"Up to 5 of them, as Type/id."`
}

// RolesReport says which roles are known here.
type RolesReport struct {
	Producer bool `json:"producer"`
	Consumer bool `json:"consumer"`
}

// StoreReport is how the store does.
type StoreReport struct {
	Ready    bool   `json:"ready"`
	Reason   string `json:"reason,omitzero" doc:"Why it is not ready."`
	Embedded bool   `json:"embedded" doc:"Nobody but this process can reach it."`
	LastSeq  uint64 `json:"lastSeq" doc:"The sequence of the newest event."`
	Events   uint64 `json:"events"`
	Bytes    uint64 `json:"bytes"`
	MaxBytes int64  `json:"maxBytes" doc:"Where it refuses new events."`
}

// SourceReport is how a source does.
type SourceReport struct {
	Server          string    `json:"server"`
	State           string    `json:"state"`
	Class           string    `json:"class,omitzero"`
	Reason          string    `json:"reason,omitzero"`
	Since           time.Time `json:"since,omitzero"`
	Feed            bool      `json:"feed" doc:"The server's own hints of changes arrive."`
	CertificateEnds time.Time `json:"certificateEnds,omitzero" doc:"When the server's certificate ends; absent where the connection is not encrypted."`
	Epoch           uint64    `json:"epoch"`
	// The sums over the types.
	Objects   int                `json:"objects"`
	BuiltIn   int                `json:"builtIn,omitzero" doc:"Objects that came with the server's installation and are never synced."`
	Published uint64             `json:"published" doc:"Events stored since the start."`
	Complete  time.Time          `json:"complete,omitzero" doc:"The end of the oldest of the types' last complete listings; absent while one has none."`
	Types     []SourceTypeReport `json:"types" nullable:"false"`
}

// ParkedCount is how much is parked at a target for one kind of reason.
type ParkedCount struct {
	Target string   `json:"target"`
	Class  string   `json:"class" doc:"A short word for the kind of reason."`
	Count  int      `json:"count"`
	Types  []string `json:"types" nullable:"false" doc:"The types of these objects."`
}

// SourceTypeReport is how one type of a source does.
type SourceTypeReport struct {
	Type       string    `json:"type"`
	Complete   time.Time `json:"complete,omitzero" doc:"The end of the last complete listing."`
	Objects    int       `json:"objects"`
	BuiltIn    int       `json:"builtIn,omitzero" doc:"Objects that came with the server's installation and are never synced."`
	Published  uint64    `json:"published" doc:"Events stored since the start."`
	Held       int       `json:"held,omitzero" doc:"Deletions that wait for a person: too many at once, or not to be believed."`
	HeldWhy    string    `json:"heldWhy,omitzero"`
	Batch      string    `json:"batch,omitzero" doc:"The name of what waits, for vcsync airlock."`
	Rejected   int       `json:"rejected,omitzero" doc:"Deletions that a person turned down."`
	Approved   int       `json:"approved,omitzero" doc:"Deletions that a person approved and that are not published yet."`
	Refused    int       `json:"refused,omitzero" doc:"Objects that could not be captured."`
	RefusedWhy string    `json:"refusedWhy,omitzero"`
}

// TargetReport is how a target does.
type TargetReport struct {
	Server string    `json:"server"`
	State  string    `json:"state"`
	Reason string    `json:"reason,omitzero"`
	Since  time.Time `json:"since,omitzero"`
	// Unanswered is while it is working and not down yet.
	Unanswered      time.Time `json:"unanswered,omitzero" doc:"Since when requests to it are without an answer; it is not down yet."`
	Lanes           int       `json:"lanes" doc:"Objects that are being worked on or wait for it."`
	Applied         uint64    `json:"applied" doc:"Writes that were confirmed since the start."`
	Equal           uint64    `json:"equal" doc:"Looks that found nothing to do."`
	Parked          int       `json:"parked"`
	CertificateEnds time.Time `json:"certificateEnds,omitzero" doc:"When the server's certificate ends; absent where the connection is not encrypted."`
}

// SettingReport is how a sync setting does.
type SettingReport struct {
	Setting   string    `json:"setting"`
	Source    string    `json:"source"`
	Target    string    `json:"target"`
	Active    bool      `json:"active"`
	Takes     []string  `json:"takes" nullable:"false"`
	Known     bool      `json:"known" doc:"A consumer follows it; else the numbers say nothing."`
	State     string    `json:"state,omitzero"`
	Pending   uint64    `json:"pending" doc:"Objects whose newest state has not been dealt with."`
	Parked    int       `json:"parked"`
	LastRun   time.Time `json:"lastRun,omitzero" doc:"The end of the last pass over all objects."`
	OK        bool      `json:"ok" doc:"The last pass parked nothing."`
	LastError string    `json:"lastError,omitzero"`
	Unlisted  string    `json:"unlisted,omitzero" doc:"Why it waits for a listing of its source that does not come, and what to do."`
	Mode      string    `json:"mode" doc:"automatic, approve or report."`
	// Drift is what the last audit found, and Run the newest run.
	Drift *DriftRecord     `json:"drift,omitempty" doc:"What the last audit of the target found; absent before the first."`
	Run   *SettingRunState `json:"run,omitempty" doc:"The newest Sync now; absent where there was none."`
	// Window and the state that is to change back are facts of the setting, also where no
	// process follows it.
	Window  *WindowReport `json:"window,omitempty" doc:"How its sync windows stand; absent where it has none."`
	Waiting int           `json:"waiting,omitzero" doc:"Objects that wait for a sync window."`
	// DeletesHeld and what follows are what the consumer has found since it took the target.
	DeletesHeld int       `json:"deletesHeld,omitzero" doc:"Deletions that wait in the airlock at the target."`
	InGrace     int       `json:"inGrace,omitzero" doc:"Jobs that are gone at the source and only switched off at the target so far."`
	Orphans     int       `json:"orphans,omitzero" doc:"Objects at the target of which nobody can tell whether their source still has them; they stay."`
	OrphanNames []string  `json:"orphanNames,omitzero" doc:"The first of these."`
	Reason      string    `json:"reason,omitzero" doc:"Why somebody turned it on or off."`
	Until       time.Time `json:"until,omitzero" doc:"When that changes back by itself."`
	// Accounting is that of the process that writes to the target.
	Accounting *AccountingReport `json:"accounting,omitempty" doc:"What became of every captured version; absent where it is not known yet."`
}

// SettingRunState is how far the newest run of a setting has come.
type SettingRunState struct {
	ID     string    `json:"id"`
	Phase  string    `json:"phase"`
	Over   bool      `json:"over"`
	Reason string    `json:"reason,omitzero"`
	Asked  time.Time `json:"asked"`
	Ended  time.Time `json:"ended,omitzero"`
}

// WindowReport is how the sync windows of a setting stand.
type WindowReport struct {
	Open    bool      `json:"open" doc:"It may write now."`
	Changes time.Time `json:"changes,omitzero" doc:"When it closes, or opens; absent where that is not in the next years."`
}

// UnreadableReport is a record that is left as it is.
type UnreadableReport struct {
	Record string `json:"record"`
	Reason string `json:"reason"`
}

func (s *Server) getStatus(ctx context.Context, _ *noInput) (*output[StatusReport], error) {
	r, err := s.status(ctx)
	return &output[StatusReport]{r}, err
}

// Status returns what GET /api/v1/status answers.
func (s *Server) Status(ctx context.Context) (StatusReport, error) { return s.status(ctx) }

func (s *Server) status(ctx context.Context) (StatusReport, error) {
	snap, err := s.broker.Snapshot(ctx)
	if err != nil {
		return StatusReport{}, err
	}
	parked, err := s.broker.ListParked(ctx, "")
	if err != nil {
		return StatusReport{}, err
	}
	ev, err := s.broker.EventsState(ctx)
	if err != nil {
		return StatusReport{}, err
	}
	ready := s.checkReady(ctx)
	r := StatusReport{Version: s.cfg.Version, Time: time.Now().UTC(), SafeMode: safeModeRecord(snap.SafeMode.SafeMode), Roles: RolesReport{s.cfg.Sources != nil, s.cfg.Targets != nil},
		Store: StoreReport{Ready: ready.Ready, Reason: ready.Reason, Embedded: s.broker.Exclusive(), LastSeq: ev.LastSeq, Events: ev.Messages,
			Bytes: ev.Bytes, MaxBytes: ev.MaxBytes},
		Sources: []SourceReport{}, Targets: []TargetReport{}, Settings: []SettingReport{}}
	if s.cfg.Sources != nil {
		for _, p := range s.cfg.Sources.Status() {
			r.Sources = append(r.Sources, sourceReport(p))
		}
		slices.SortFunc(r.Sources, func(a, b SourceReport) int { return cmp.Compare(a.Server, b.Server) })
	}
	if err := s.decidedNow(ctx, r.Sources); err != nil {
		return r, err
	}
	r.Processes = s.processes()
	held := heldOf(r.Sources)
	captured := map[schemas.Slug]producer.Status{}
	if s.cfg.Sources != nil {
		for _, p := range s.cfg.Sources.Status() {
			captured[p.Server] = p
		}
	}
	known := map[schemas.Slug]consumer.SettingStatus{}
	if s.cfg.Targets != nil {
		targets, settings := s.cfg.Targets.Status()
		for _, t := range targets {
			r.Targets = append(r.Targets, TargetReport{string(t.Target), string(t.State), t.Reason, t.Since, t.Unanswered, t.Lanes, t.Applied, t.Equal, t.Parked, t.CertificateEnds})
		}
		slices.SortFunc(r.Targets, func(a, b TargetReport) int { return cmp.Compare(a.Server, b.Server) })
		for _, v := range settings {
			known[v.Setting] = v
		}
	}
	if s.cfg.Fleet != nil {
		r.withoutProcess(snap)
	}
	waiting := map[schemas.Slug]int{}
	for _, p := range parked {
		if p.Discarded == "" {
			waiting[p.Setting]++
			r.Parked++
		}
	}
	r.ParkedBy = parkedCounts(parked)
	for _, v := range sortedSettings(snap) {
		rec := SettingReport{Setting: string(v.ID), Source: string(v.Source), Target: string(v.Target), Active: v.Active, Takes: []string{}, Parked: waiting[v.ID], Mode: v.Mode.String()}
		if rec.Drift, err = s.driftRecord(ctx, v); err != nil {
			return r, err
		}
		if run, ok := snap.Runs[v.ID]; ok {
			rec.Run = &SettingRunState{run.ID, string(run.Phase), run.Phase.Over(), run.Reason, run.Asked, run.Ended}
		}
		for _, t := range v.TakenTypes() {
			rec.Takes = append(rec.Takes, string(t))
		}
		if k, ok := known[v.ID]; ok && v.Active && k.State == consumer.Inactive && s.cfg.Fleet != nil {
			rec.State = noConsumer
		} else if ok {
			if rec.Known = true; k.Accounting != nil {
				rec.Accounting = accountingReport(*k.Accounting, held, v)
			}
			rec.Known, rec.State, rec.Pending, rec.LastRun, rec.OK, rec.LastError = true, k.State, k.Pending, k.LastRun, k.OK, k.LastError
			rec.Parked, rec.Waiting = max(rec.Parked, k.Parked), k.Waiting
			rec.DeletesHeld, rec.InGrace, rec.Orphans, rec.OrphanNames = k.DeletesHeld, k.InGrace, k.Orphans, k.OrphanNames
		}
		if d := rec.Drift; d != nil && d.Failed == "" && rec.Known && d.Began.After(rec.LastRun) {
			rec.LastRun = d.Began
		}
		if run, ok := snap.Runs[v.ID]; ok && run.Phase == broker.RunDone && !run.DryRun && run.Scope.Airlock == "" && len(run.Scope.Types)+len(run.Scope.Objects) == 0 && run.Ended.After(rec.LastRun) {
			rec.LastRun = run.Ended
		}
		if waits := snap.Awaits(v); len(waits) > 0 && s.cfg.Sources != nil {
			p, known := captured[v.Source]
			rec.Unlisted = whyUnlisted(v, waits, p, known, r.Processes)
		}
		rec.Reason, rec.Until = v.Reason, v.Until
		if len(v.Windows) > 0 {
			rec.Window = &WindowReport{}
			rec.Window.Open, rec.Window.Changes = v.Windows.At(r.Time)
		}
		r.Settings = append(r.Settings, rec)
	}
	for key, err := range snap.Unreadable {
		r.Faulty = append(r.Faulty, UnreadableReport{key, err.Error()})
	}
	slices.SortFunc(r.Faulty, func(a, b UnreadableReport) int { return cmp.Compare(a.Record, b.Record) })
	return r, nil
}

// whyUnlisted says why a setting goes on waiting for listings of its source, and what to
// do; "" where they are on their way.
func whyUnlisted(v broker.StoredSetting, waits map[schemas.Type]uint64, p producer.Status, known bool, all []ProcessReport) string {
	begin := fmt.Sprintf("nothing is written of what was captured before it was turned on or took a type: %s", v.Source)
	switch {
	case !known || p.State == producer.Standby && time.Since(p.Since) > standbyFor:
		return begin + " is captured by no producer; start one that may capture it"
	case p.State == producer.Degraded && !p.Partly:
		return fmt.Sprintf("%s cannot be listed (%s: %s)", begin, p.Class, p.Reason)
	}
	who := "its producer"
	for _, w := range all {
		if w.Role == broker.RoleNameProducer && w.State == processAlive && slices.Contains(w.Sources, string(v.Source)) {
			who = fmt.Sprintf("its producer %s (%s)", w.Instance, w.Version)
		}
	}
	for _, t := range v.TakenTypes() {
		since, waiting := waits[t]
		ts, captured := p.Types[t]
		switch {
		case !waiting || !captured:
		case ts.Class != "":
			return fmt.Sprintf("%s cannot list %s (%s: %s); mend that there, or take the type out of the setting", begin, t, ts.Class, ts.Reason)
		case ts.Held > 0:
			return fmt.Sprintf("%s holds %d deletions of %s back, so it is not known which of these objects are still there", begin, ts.Held, t)
		case ts.Stale > 0:
			return fmt.Sprintf("%s has %d objects of type %s that cannot be captured as they are now, and are on record as they were before (%s); mend them there", begin, ts.Stale, t, ts.RefusedWhy)
		case !p.Proves && !ts.Complete.IsZero():
			return fmt.Sprintf("%s was listed, but %s is of an older release and does not store that: update it", begin, who)
		case p.Unproven != "" && ts.Revision > since:
			return fmt.Sprintf("%s was listed, but %s cannot store that: run vcsync broker init of this release again, give the broker its users.conf, and see the broker's log for what it denies (%s)", begin, who, p.Unproven)
		}
	}
	return ""
}

// parkedCounts counts what waits for somebody: a hundred records of one reason are
// one thing to do.
func parkedCounts(parked []broker.Parked) []ParkedCount {
	type key struct{ target, class string }
	by := map[key]*ParkedCount{}
	out := []ParkedCount{}
	for _, p := range parked {
		if p.Discarded != "" {
			continue
		}
		k := key{string(p.Target), p.Class}
		if by[k] == nil {
			by[k] = &ParkedCount{Target: k.target, Class: k.class}
		}
		by[k].Count++
		if !slices.Contains(by[k].Types, string(p.Type)) {
			by[k].Types = append(by[k].Types, string(p.Type))
		}
	}
	for _, c := range by {
		slices.Sort(c.Types)
		out = append(out, *c)
	}
	slices.SortFunc(out, func(a, b ParkedCount) int {
		return cmp.Or(cmp.Compare(a.Target, b.Target), cmp.Compare(b.Count, a.Count), cmp.Compare(a.Class, b.Class))
	})
	return out
}

// processes returns this process and, where roles run apart, those of the roles.
func (s *Server) processes() []ProcessReport {
	own := s.self
	own.Memory, own.Goroutines = broker.ProcessFigures()
	out := []ProcessReport{own}
	if s.cfg.Fleet == nil {
		return out
	}
	for _, p := range s.cfg.Fleet.Processes() {
		v := ProcessReport{Role: p.Role, Instance: p.Instance, Host: p.Host, PID: p.PID, Version: p.Version, Started: p.Started, Memory: p.Memory,
			Goroutines: p.Goroutines, State: processAlive, Silent: int(p.Silent / time.Second), Twice: p.Twice, Cut: p.Cut, Sources: []string{}, Targets: []string{}}
		if p.Gone {
			v.State = processGone
		}
		for _, x := range p.Sources {
			v.Sources = append(v.Sources, string(x))
		}
		for _, x := range p.Targets {
			v.Targets = append(v.Targets, string(x))
		}
		out = append(out, v)
	}
	return out
}

// selfReport is what this process says of itself.
func selfReport(cfg Config) ProcessReport {
	host, err := os.Hostname()
	if err != nil {
		host = "unknown"
	}
	role := "all"
	if cfg.Fleet != nil {
		role = "control"
	}
	return ProcessReport{Role: role, Instance: cmp.Or(cfg.Instance, fmt.Sprintf("%s-%d", host, os.Getpid())), Host: host, PID: os.Getpid(), Version: cfg.Version,
		Started: time.Now().UTC(), State: processAlive, Sources: []string{}, Targets: []string{}}
}

// withoutProcess adds the sources and targets of active settings of which no living
// process speaks: nothing is worse than a line that is not there.
func (r *StatusReport) withoutProcess(snap broker.Snapshot) {
	sources, targets := map[string]bool{}, map[string]bool{}
	for _, v := range r.Sources {
		sources[v.Server] = true
	}
	for _, v := range r.Targets {
		targets[v.Server] = true
	}
	for i, v := range r.Sources {
		if v.State == string(producer.Standby) && time.Since(v.Since) > standbyFor {
			r.Sources[i].State, r.Sources[i].Reason = noProducer, "producers are alive, and none captures it: see whether the key of one allows this source, and its VCSYNC_SOURCES"
		}
	}
	for _, v := range sortedSettings(snap) {
		if src := string(v.Source); v.Active && len(v.TakenTypes()) > 0 && !sources[src] {
			sources[src] = true
			r.Sources = append(r.Sources, SourceReport{Server: src, State: noProducer, Types: []SourceTypeReport{},
				Reason: "no producer process that may capture it is alive; its changes are captured when one is started"})
		}
		if dst := string(v.Target); v.Active && !targets[dst] {
			targets[dst] = true
			r.Targets = append(r.Targets, TargetReport{Server: dst, State: noConsumer,
				Reason: "no consumer process is alive, or it is being taken over; what is captured is written when one has it"})
		}
	}
	slices.SortFunc(r.Sources, func(a, b SourceReport) int { return cmp.Compare(a.Server, b.Server) })
	slices.SortFunc(r.Targets, func(a, b TargetReport) int { return cmp.Compare(a.Server, b.Server) })
}

// Accounts tells whether anything is known of what became of the captured versions.
func (r StatusReport) Accounts() bool {
	return slices.ContainsFunc(r.Settings, func(v SettingReport) bool { return v.Accounting != nil })
}

// heldOf returns the deletions that wait, by source and type.
func heldOf(sources []SourceReport) map[string]map[string]uint64 {
	out := map[string]map[string]uint64{}
	for _, s := range sources {
		out[s.Server] = map[string]uint64{}
		for _, t := range s.Types {
			out[s.Server][t.Type] = uint64(t.Held)
		}
	}
	return out
}

// accountingReport adds what the producer holds back, which no event tells of, to
// both sides of a setting's account.
func accountingReport(a consumer.Accounting, held map[string]map[string]uint64, v broker.StoredSetting) *AccountingReport {
	var atSource uint64
	for _, t := range v.TakenTypes() {
		atSource += held[string(v.Source)][string(t)]
	}
	return &AccountingReport{At: a.At, Captured: a.Captured + atSource, Applied: a.Applied, Superseded: a.Superseded, Filtered: a.Filtered, Parked: a.Parked,
		Held: a.Held + atSource, Pending: a.Pending, Oldest: a.Oldest, Unaccounted: a.Unaccounted, Objects: a.Objects, Left: a.Left, LeftObjects: a.LeftObjects}
}

func sourceReport(p producer.Status) SourceReport {
	r := SourceReport{Server: string(p.Server), State: string(p.State), Class: p.Class, Reason: p.Reason, Since: p.Since, Feed: p.Feed, CertificateEnds: p.CertificateEnds, Epoch: p.Epoch,
		Types: []SourceTypeReport{}}
	for _, t := range schemas.Types() {
		if v, ok := p.Types[t]; ok {
			if r.Objects, r.BuiltIn, r.Published = r.Objects+v.Objects, r.BuiltIn+v.BuiltIn, r.Published+v.Published; len(r.Types) == 0 || v.Complete.Before(r.Complete) {
				r.Complete = v.Complete
			}
			r.Types = append(r.Types, SourceTypeReport{string(t), v.Complete, v.Objects, v.BuiltIn, v.Published, v.Held, v.HeldWhy, v.Batch, v.Rejected, 0, v.Refused, v.RefusedWhy})
		}
	}
	return r
}

// Polled is the answer to asking for a poll.
type Polled struct {
	Source string `json:"source"`
}

func (s *Server) pollSource(ctx context.Context, in *IDPath) (*output[Polled], error) {
	v, _, err := s.server(ctx, in.ID)
	if err != nil {
		return nil, err
	}
	if s.cfg.Sources == nil {
		return nil, huma.Error409Conflict("No producer is known here.")
	}
	err = s.act(ctx, broker.AuditRecord{Action: "source.poll", Object: "server/" + string(v.ID)}, func(context.Context) error {
		s.cfg.Sources.Poke(v.ID)
		return nil
	})
	if err != nil {
		return nil, err
	}
	return &output[Polled]{Polled{string(v.ID)}}, nil
}
