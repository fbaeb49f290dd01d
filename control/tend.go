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
	// for those that do: one type more that is listed gives the whole time again.
	captureFor  = 5 * time.Minute
	captureMost = time.Hour
	planFor     = 5 * time.Minute
	planMost    = 2 * time.Hour
	// shownFor is how long a plan waits for an approval. What it says gets old.
	shownFor = time.Hour
	// applyFor is how long an approved plan waits for a target that does not answer, or of
	// which there is no consumer, and applyMost for one that does, such as for its window.
	// One object more that is dealt with gives the whole time again.
	applyFor  = time.Hour
	applyMost = 24 * time.Hour
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

type phaseSince struct {
	phase broker.RunPhase
	mark  string // another where the run has got on
	at    time.Time
}

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
		v, known := snap.Settings[id]
		mark := t.mark(ctx, r, v.Setting)
		if have := t.since[r.ID]; have.phase != r.Phase || have.mark != mark {
			t.since[r.ID] = phaseSince{r.Phase, mark, time.Now()}
		}
		next, reason := t.next(ctx, r, v, known, time.Since(t.since[r.ID].at))
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

// mark is another string when a run has got on within its phase, or whether its servers
// answer has changed.
func (t *tender) mark(ctx context.Context, r broker.StoredRun, v schemas.Setting) string {
	s := t.s
	switch r.Phase {
	case broker.RunCapture:
		listed := 0
		for _, y := range r.Scope.TypesOf(v) {
			if s.isListed(r, v, y) {
				listed++
			}
		}
		return fmt.Sprint(s.isCapturing(v.Source), listed)
	case broker.RunPlan:
		return fmt.Sprint(s.isWorking(v.Target))
	case broker.RunApplying:
		g, err := s.broker.GetProgress(ctx, r.Setting)
		if err != nil || g.Run != r.ID {
			g.Done = 0
		}
		return fmt.Sprint(s.isWorking(v.Target), g.Done)
	}
	return ""
}

// isListed tells whether a type was listed at the source since a run was asked for.
func (s *Server) isListed(r broker.StoredRun, v schemas.Setting, y schemas.Type) bool {
	return s.cfg.Sources != nil && slices.ContainsFunc(s.cfg.Sources.Status(), func(p producer.Status) bool { return p.Server == v.Source && r.Listed(p.Types[y].Revision) })
}

// isCapturing tells whether a producer says that it captures a source, and that well.
func (s *Server) isCapturing(id schemas.Slug) bool {
	return s.cfg.Sources != nil && slices.ContainsFunc(s.cfg.Sources.Status(), func(p producer.Status) bool {
		return p.Server == id && (p.State == producer.Starting || p.State == producer.Capturing)
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
func (t *tender) next(ctx context.Context, r broker.StoredRun, v broker.StoredSetting, known bool, since time.Duration) (broker.RunPhase, string) {
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
		limit := captureFor
		if s.isCapturing(v.Source) {
			limit = captureMost
		}
		switch {
		case ok:
			return broker.RunPlan, ""
		case since > limit:
			return broker.RunFailed, fmt.Sprintf("the source could not be listed afresh, and nothing new was for %s: %s", limit, waits)
		}
	case broker.RunPlan:
		p, err := s.broker.GetPlan(ctx, r.Setting)
		switch {
		case err != nil || p.Run != r.ID:
			limit := planFor
			if s.isWorking(v.Target) {
				limit = planMost
			}
			if since > limit {
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
		if since > shownFor {
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
		limit := applyFor
		if s.isWorking(v.Target) {
			limit = applyMost
		}
		if since > limit {
			return broker.RunDropped, fmt.Sprintf("nothing of the plan was applied for %s, and what it says gets old; ask for it again: %s", limit, s.targetState(v.Target))
		}
	}
	return r.Phase, ""
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
		var missing, why []string
		for _, t := range r.Scope.TypesOf(v) {
			k := p.Types[t]
			if !r.Listed(k.Revision) {
				missing = append(missing, string(t))
				if k.Reason != "" && !slices.Contains(why, k.Reason) {
					why = append(why, k.Reason)
				}
			}
		}
		if len(missing) == 0 {
			return true, ""
		}
		if len(why) == 0 && p.Reason != "" {
			why = append(why, p.Reason)
		}
		text := fmt.Sprintf("a fresh listing of %s at %s, which is %s", TypeWords(missing, func(t string) string { return t }), v.Source, p.State)
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
