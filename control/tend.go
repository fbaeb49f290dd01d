package control

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/vcsync/vcsync/broker"
	"github.com/vcsync/vcsync/consumer"
	"github.com/vcsync/vcsync/consumer/decide"
	"github.com/vcsync/vcsync/producer"
	"github.com/vcsync/vcsync/schemas"
)

// How long a run may stay in a phase without getting on, by this process's own clock. One
// that begins anew gives each run the whole time again.
const (
	// captureFor and planFor are for servers that do not answer, captureMost and planMost
	// for those that do, also in part of the time: one type more that is listed gives the
	// whole time again.
	captureFor  = 5 * time.Minute
	captureMost = time.Hour
	planFor     = 5 * time.Minute
	planMost    = 2 * time.Hour
	// askedMost is how long there may be no plan at all, by the calendar: however often
	// this process begins anew.
	askedMost = 24 * time.Hour
	// shownFor is how long a plan waits for an approval. What it says gets old.
	shownFor = broker.ApprovalFor
	// applyMore is how much longer than an approval is good for its consumer has to say
	// so, of each object (see broker.Run.Expired).
	applyMore = 5 * time.Minute
	// tendEvery is how often what nobody tells of is looked at: the producers' words, and
	// the clock.
	tendEvery = 250 * time.Millisecond
	// restEvery is the same while no run is under way.
	restEvery = 5 * time.Second
)

// tender moves runs on. It keeps nothing that it could not begin anew with, but for
// since when a run is in its phase.
type tender struct {
	s     *Server
	since map[string]phaseSince
	// stuck holds the settings that could not be turned back, by revision.
	stuck map[schemas.Slug]uint64
}

// phaseSince is since when a run is in its phase.
type phaseSince struct {
	phase broker.RunPhase
	// got is how far the run came at most: what can be taken back, such as when another
	// process speaks, is none. At is when it came so far.
	got int
	at  time.Time
	// up tells whether the server that it waits for answers, turned since when.
	up     bool
	turned time.Time
}

// seen takes in how a run does now.
func (p phaseSince) seen(phase broker.RunPhase, got int, up bool, now time.Time) phaseSince {
	switch {
	case p.phase != phase:
		return phaseSince{phase, got, now, up, now}
	case got > p.got:
		return phaseSince{phase, got, now, up, now}
	case up != p.up:
		p.up, p.turned = up, now
	}
	return p
}

// stands is how long a run has not got on, in all and since its server turned: one that
// flaps would give it time for ever.
type stands struct{ all, turned time.Duration }

// TendRuns moves runs from phase to phase until ctx ends, and returns nil; see
// broker.Run for who does what. It also turns settings back whose time is over. Serve does it too; a process needs one of the two. A
// run is in the store, so another process goes on with it.
func (s *Server) TendRuns(ctx context.Context) error {
	t := &tender{s: s, since: map[string]phaseSince{}, stuck: map[schemas.Slug]uint64{}}
	woken := make(chan struct{}, 1)
	wake := func() {
		select {
		case woken <- struct{}{}:
		default:
		}
	}
	snaps := make(chan broker.Snapshot, 1)
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{}, 2)
	defer func() {
		cancel()
		<-done
		<-done
	}()
	watch := func(what string, watch func(context.Context) error) {
		defer func() { done <- struct{}{} }()
		for ctx.Err() == nil {
			if err := watch(ctx); err != nil && ctx.Err() == nil {
				s.log.WarnContext(ctx, what+" cannot be watched; runs of sync settings wait until they can", "error", err)
			}
			select {
			case <-ctx.Done():
			case <-time.After(restEvery):
			}
		}
	}
	go watch("the settings", func(ctx context.Context) error {
		return s.broker.WatchConfig(ctx, func(snap broker.Snapshot) {
			select { // only the newest counts
			case <-snaps:
			default:
			}
			snaps <- snap
		})
	})
	go watch("what consumers say of plans", func(ctx context.Context) error {
		return s.broker.WatchPlans(ctx, func(broker.PlanNews) { wake() })
	})
	var snap broker.Snapshot
	for {
		wait := restEvery
		t.turnBack(ctx, snap)
		if t.tend(ctx, snap) {
			wait = tendEvery
		}
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil
		case snap = <-snaps:
		case <-woken:
		case <-timer.C:
		}
		timer.Stop()
	}
}

// tend looks at every run once. It tells whether any is under way.
func (t *tender) tend(ctx context.Context, snap broker.Snapshot) bool {
	open := map[string]bool{}
	for _, id := range slices.Sorted(maps.Keys(snap.Runs)) {
		r := snap.Runs[id]
		if r.Phase.Over() {
			continue
		}
		open[r.ID] = true
		v, known := snap.Subject(id)
		got, up := t.got(ctx, r, v.Setting)
		since := t.since[r.ID].seen(r.Phase, got, up, time.Now())
		t.since[r.ID] = since
		next, reason := t.next(ctx, r, v, known, stands{time.Since(since.at), time.Since(since.turned)})
		if next == r.Phase {
			continue
		}
		if err := t.move(ctx, r, next, reason); err != nil && !errors.Is(err, broker.ErrConflict) && ctx.Err() == nil {
			t.s.log.WarnContext(ctx, "a run of a sync setting cannot be moved on; it is tried again", "setting", r.Setting, "run", r.ID, "error", err)
		}
	}
	maps.DeleteFunc(t.since, func(id string, _ phaseSince) bool { return !open[id] })
	return len(open) > 0
}

// got tells how far a run is within its phase, and whether the server that it waits for
// answers.
func (t *tender) got(ctx context.Context, r broker.StoredRun, v schemas.Setting) (n int, up bool) {
	s := t.s
	switch r.Phase {
	case broker.RunCapture:
		for _, y := range r.Scope.TypesOf(v) {
			if s.isListed(r, v, y) {
				n++
			}
		}
		return n, s.isCapturing(r, v)
	case broker.RunPlan:
		return 0, s.isWorking(v.Target)
	case broker.RunApplying:
		if g, err := s.broker.GetProgress(ctx, r.Setting); err == nil && g.Run == r.ID {
			n = g.Done
		}
	}
	return n, false
}

// isListed tells whether a type was listed at the source since a run was asked for.
func (s *Server) isListed(r broker.StoredRun, v schemas.Setting, y schemas.Type) bool {
	return s.cfg.Sources != nil && slices.ContainsFunc(s.cfg.Sources.Status(), func(p producer.Status) bool { return p.Server == v.Source && r.Listed(p.Types[y].Revision) })
}

// isCapturing tells whether a producer says that it captures the types that a run waits
// for, and that well.
func (s *Server) isCapturing(r broker.StoredRun, v schemas.Setting) bool {
	return s.cfg.Sources != nil && slices.ContainsFunc(s.cfg.Sources.Status(), func(p producer.Status) bool {
		switch {
		case p.Server != v.Source:
			return false
		case p.State == producer.Degraded && p.Partly:
			return !slices.ContainsFunc(r.Scope.TypesOf(v), func(y schemas.Type) bool { return !r.Listed(p.Types[y].Revision) && p.Types[y].Class != "" })
		}
		return p.State == producer.Starting || p.State == producer.Capturing
	})
}

// isWorking tells whether a consumer says that a target answers.
func (s *Server) isWorking(id schemas.Slug) bool {
	if s.cfg.Targets == nil {
		return false
	}
	targets, _ := s.cfg.Targets.Status()
	return slices.ContainsFunc(targets, func(v consumer.TargetStatus) bool { return v.Target == id && v.State == consumer.Working })
}

func (t *tender) move(ctx context.Context, r broker.StoredRun, next broker.RunPhase, reason string) error {
	s := t.s
	s.writes.Lock() // nobody drops or approves between the look and the step
	defer s.writes.Unlock()
	r.Phase, r.Reason = next, reason
	if next.Over() {
		r.Ended = time.Now().UTC()
	}
	if _, err := s.broker.PutRun(ctx, r.Run, r.Revision); err != nil {
		return err
	}
	s.log.InfoContext(ctx, "a run of a sync setting has moved on", "setting", r.Setting, "run", r.ID, "phase", next, "reason", reason)
	return nil
}

// next says in which phase the run has to be now, and why where it is over. Since is how
// long it has not got on.
func (t *tender) next(ctx context.Context, r broker.StoredRun, v broker.StoredSetting, known bool, since stands) (broker.RunPhase, string) {
	s := t.s
	if !known {
		return broker.RunDropped, "the sync setting is gone"
	}
	if v.Revision != r.SettingRevision && r.Phase != broker.RunApplying { // G13; what is being applied ends in order, by its consumer
		return broker.RunDropped, "the sync setting was changed since the run was asked for"
	}
	switch r.Phase {
	case broker.RunCapture:
		ok, waits := s.captured(r, v.Setting)
		if ok {
			return broker.RunPlan, ""
		}
		if limit := since.over(s.isCapturing(r, v.Setting), captureFor, captureMost, r); limit > 0 {
			return broker.RunFailed, fmt.Sprintf("the source could not be listed afresh within %s: %s", limit, waits)
		}
	case broker.RunPlan:
		p, err := s.broker.GetPlan(ctx, r.Setting)
		switch {
		case err != nil || p.Run != r.ID:
			if limit := since.over(s.isWorking(v.Target), planFor, planMost, r); limit > 0 {
				return broker.RunFailed, fmt.Sprintf("there was no plan within %s: %s", limit, s.targetState(v.Target))
			}
		case p.Failed != "":
			return broker.RunFailed, p.Failed
		case r.DryRun || !toDo(p):
			return broker.RunDone, ""
		default:
			return broker.RunShown, ""
		}
	case broker.RunShown:
		if since.all > shownFor {
			return broker.RunDropped, fmt.Sprintf("nobody approved the plan within %s", shownFor)
		}
	case broker.RunApplying:
		g, err := s.broker.GetProgress(ctx, r.Setting)
		if err == nil && g.Run == r.ID && g.Plan == r.Plan && g.Ended {
			if !g.Result.Over() {
				return broker.RunFailed, "the consumer says that it is over, and not how"
			}
			return g.Result, g.Reason
		}
		var moved time.Time
		if err == nil && g.Run == r.ID && g.Done > 0 {
			if moved = g.Moved; moved.IsZero() {
				moved = g.At // of a release that does not say it
			}
		}
		if since.all > broker.ApprovalFor+applyMore || r.Expired(moved, time.Now().Add(-applyMore)) {
			return broker.RunDropped, "the approval expired, and what has not begun is not done; ask for it again: " + s.targetState(v.Target)
		}
	}
	return r.Phase, ""
}

// over returns the limit that a run without a plan is over, 0 for none: least for a
// server that does not answer, most for one that does or did.
func (s stands) over(up bool, least, most time.Duration, r broker.StoredRun) time.Duration {
	switch {
	case !up && s.turned > least:
		return least
	case s.all > most:
		return most
	case !r.Asked.IsZero() && time.Since(r.Asked) > askedMost:
		return askedMost
	}
	return 0
}

// toDo tells whether there is anything in a plan to approve.
func toDo(p broker.Plan) bool {
	return slices.ContainsFunc(p.Counts, func(c broker.PlanCount) bool {
		act := decide.Act(c.Act)
		return c.Objects > 0 && (act.Writes() || act == decide.Adopt)
	})
}

// captured tells whether every type of a run was listed at the source since it was asked
// for, and what it waits for where not.
func (s *Server) captured(r broker.StoredRun, v schemas.Setting) (bool, string) {
	if s.cfg.Sources == nil {
		return false, "no producer is known here"
	}
	for _, p := range s.cfg.Sources.Status() {
		if p.Server != v.Source {
			continue
		}
		var missing, bad, why []string
		for _, t := range r.Scope.TypesOf(v) {
			k := p.Types[t]
			if !r.Listed(k.Revision) {
				missing = append(missing, string(t))
				if k.Class != "" || k.Reason != "" {
					bad = append(bad, string(t))
				}
				if k.Reason != "" && !slices.Contains(why, k.Reason) {
					why = append(why, k.Reason)
				}
			}
		}
		if len(missing) == 0 {
			return true, ""
		}
		if len(why) == 0 && p.Reason != "" && !p.Partly {
			why = append(why, p.Reason)
		}
		text := fmt.Sprintf("a fresh listing of %s at %s", TypeWords(missing, func(t string) string { return t }), v.Source)
		switch {
		case !p.Partly:
			text += fmt.Sprintf(", which is %s", p.State)
		case len(bad) > 0:
			text += fmt.Sprintf(", where %s cannot be listed", TypeWords(bad, func(t string) string { return t }))
		}
		if len(why) > 0 {
			text += ": " + strings.Join(why[:min(3, len(why))], "; ")
		}
		return false, text
	}
	return false, fmt.Sprintf("a producer that has server %s", v.Source)
}

// targetState says how a target does, for what waits for its consumer.
func (s *Server) targetState(id schemas.Slug) string {
	if s.cfg.Targets != nil {
		targets, _ := s.cfg.Targets.Status()
		for _, v := range targets {
			if v.Target == id {
				text := fmt.Sprintf("the consumer of %s, which is %s", id, v.State)
				if v.Reason != "" {
					text += ": " + v.Reason
				}
				return text
			}
		}
	}
	return fmt.Sprintf("a consumer that has server %s", id)
}
