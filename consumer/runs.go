package consumer

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nuid"

	"github.com/vcsync/vcsync/broker"
	"github.com/vcsync/vcsync/consumer/decide"
	"github.com/vcsync/vcsync/schemas"
	"github.com/vcsync/vcsync/visualcron"
)

const (
	// progressEvery is how often the progress of a run and its outcomes are stored.
	progressEvery = 2 * time.Second
	// planPatience is how long a plan waits for a target that is down.
	planPatience = time.Minute
	// storeTries is how often a record about a run is stored before that is given up.
	storeTries = 5
)

// attendRuns makes the plans of the target's runs and applies those that are approved,
// until ctx ends. What became of them is stored until session ends. What each does stands
// at broker.Run.
func (s *session) attendRuns(session, ctx context.Context) {
	type attended struct {
		key  string
		stop context.CancelFunc
		done chan struct{}
	}
	all := map[schemas.Slug]attended{}
	end := func(id schemas.Slug) {
		all[id].stop()
		<-all[id].done
		delete(all, id)
	}
	for ctx.Err() == nil {
		v, changed := s.current()
		keyOf := func(r running) string { return r.run.ID + " " + string(r.run.Phase) }
		for id, a := range all {
			if r, ok := v.runs[id]; !ok || keyOf(r) != a.key || !r.holds() {
				end(id)
			}
		}
		for id, r := range v.runs {
			if _, ok := all[id]; ok || r.run.Phase != broker.RunPlan && r.run.Phase != broker.RunApplying {
				continue
			}
			run, stop := context.WithCancel(ctx)
			a := attended{keyOf(r), stop, make(chan struct{})}
			all[id] = a
			go func() {
				defer close(a.done)
				if r.run.Phase == broker.RunPlan {
					s.plan(run, ctx, r)
				} else {
					s.applyPlan(session, run, ctx, r)
				}
			}()
		}
		select {
		case <-ctx.Done():
		case <-changed:
		}
	}
	for id := range all {
		end(id)
	}
}

// store tries to store something about a run, and says where that fails.
func (s *session) store(ctx context.Context, r running, put func(context.Context) error) error {
	var err error
	for range storeTries {
		if err = put(ctx); err == nil || ctx.Err() != nil || errors.Is(err, broker.ErrConflict) {
			return err
		}
		select {
		case <-ctx.Done():
		case <-time.After(time.Second):
		}
	}
	s.log.WarnContext(ctx, "what a run came to cannot be stored; it is begun anew when the target is taken again, or asked for again", "setting", r.set.ID, "run", r.run.ID, "error", err)
	return err
}

// settingChanged says why a run comes to nothing (G13).
const settingChanged = "the sync setting was changed after the run was asked for; ask for it again"

// plan makes the plan of a run. Run ends when the run moves on, store when the session
// does.
func (s *session) plan(run, store context.Context, r running) {
	p := broker.Plan{ID: nuid.Next(), Run: r.run.ID, Setting: r.set.ID, SettingRevision: r.set.Revision, Source: r.set.Source, Target: r.set.Target}
	if have, err := s.cfg.Broker.GetPlan(run, r.set.ID); err == nil && have.Run == r.run.ID {
		return // another process made it, and control has yet to see it
	}
	y := &survey{session: s, set: r.set, occasion: r.occasion(), run: &r, from: r.run.Scope.Replay.FromSeq}
	err := s.makePlan(run, y)
	if now, _ := s.current(); err == nil && (!r.holds() || !now.runs[r.set.ID].holds()) {
		err = errors.New(settingChanged)
	}
	if run.Err() != nil {
		if now, _ := s.current(); store.Err() != nil || now.runs[r.set.ID].run.ID != r.run.ID || now.runs[r.set.ID].holds() {
			return // the next holder makes it, or nobody wants it any more
		}
		err = errors.New(settingChanged)
	}
	p.Began, p.Made, p.Counts, p.Warnings = y.began.UTC(), time.Now().UTC(), countEntries(y.equal, y.owned, y.entries), y.warnings
	if r.run.Scope.IsReplay() {
		p.Newest = y.newest.UTC()
	}
	if err != nil {
		p.Failed, p.Counts, y.entries = err.Error(), nil, nil
	}
	err = s.store(store, r, func(ctx context.Context) error { return s.cfg.Broker.PutPlan(ctx, p, y.entries) })
	for err != nil && run.Err() == nil {
		// Control waits for a plan, and nobody can ask for another one meanwhile.
		p.Failed, p.Counts, p.Warnings = fmt.Sprintf("the plan was made, and could not be stored: %v", err), nil, nil
		if s.cfg.Broker.PutPlan(store, p, nil) == nil {
			return
		}
		select {
		case <-run.Done():
		case <-time.After(5 * time.Second):
		}
	}
}

func (s *session) makePlan(ctx context.Context, y *survey) error {
	wait, cancel := context.WithTimeout(ctx, planPatience)
	defer cancel()
	for {
		shut, _, why := s.gate.state()
		if !shut {
			break
		}
		select {
		case <-wait.Done():
			return fmt.Errorf("the target is down: %w", why)
		case <-time.After(time.Second):
		}
	}
	r := *y.run
	y.v, _ = s.current()
	if r.run.Server != "" {
		err := s.planAct(ctx, y)
		if err != nil && Judge(err, 0, 0).Fate == TargetDown {
			s.gate.down(err)
		}
		return err
	}
	for _, t := range r.run.Scope.TypesOf(r.set.Setting) {
		if visualcron.Supported(t) {
			y.types = append(y.types, t)
		}
	}
	y.takes = func(t schemas.Type, o schemas.Selected) bool {
		return r.run.Scope.Takes(t, o.ID) && r.set.Rights(t, o).Use() && !y.older[objectKey{t, o.ID}]
	}
	if r.run.Scope.Dependencies {
		var start []visualcron.Object
		for _, o := range r.run.Scope.Objects {
			start = append(start, visualcron.Object{Type: o.Type, ID: o.ID})
		}
		settle, cancel := context.WithTimeout(ctx, time.Minute)
		err := s.cfg.Broker.WaitState(settle) // what was captured for the run is in the newest states
		cancel()
		if err != nil {
			return err
		}
		more, warnings, err := s.closure(ctx, r, start)
		if err != nil {
			return err
		}
		y.warnings = append(y.warnings, warnings...)
		own := y.takes
		y.takes = func(t schemas.Type, o schemas.Selected) bool { return own(t, o) || more[objectKey{t, o.ID}] }
	}
	y.warnings = append(y.warnings, y.v.contrary(r)...)
	err := y.make(ctx)
	if err != nil && Judge(err, 0, 0).Fate == TargetDown {
		s.gate.down(err)
	}
	if r.run.Scope.Objects != nil || r.run.Scope.Dependencies || r.run.Scope.IsReplay() {
		// What is only at the target is no part of such a run.
		y.entries = slices.DeleteFunc(y.entries, func(e broker.PlanEntry) bool {
			return e.Reason == string(decide.NotFromHere) || e.Reason == string(decide.Orphan) && r.run.Scope.IsReplay()
		})
	}
	if err == nil && !r.run.Scope.Dependencies && !r.run.Scope.IsReplay() && len(r.run.Scope.Objects)+len(r.run.Scope.Types) == 0 {
		s.drift.ask(auditAsked)
	}
	return err
}

// occasion is why a run looks at objects.
func (r running) occasion() decide.Occasion {
	if r.run.Scope.IsReplay() {
		return decide.Replay
	}
	return decide.SyncNow
}

// contrary warns of active settings that take the same types from the same source, and
// make something else of them than a setting that is off: they do so again after its run.
func (v *view) contrary(r running) (warnings []string) {
	if r.set.Active {
		return nil
	}
	for _, id := range slices.Sorted(maps.Keys(v.settings)) {
		o := v.settings[id]
		if o.Source != r.set.Source || o.Policy == r.set.Policy && o.VariableValues == r.set.VariableValues &&
			reflect.DeepEqual(o.Kept, r.set.Kept) && reflect.DeepEqual(o.Overrides, r.set.Overrides) && reflect.DeepEqual(o.Pins, r.set.Pins) {
			continue
		}
		var both []string
		for _, t := range r.run.Scope.TypesOf(r.set.Setting) {
			if o.Rules[t].Takes() {
				both = append(both, string(t))
			}
		}
		if len(both) > 0 {
			warnings = append(warnings, fmt.Sprintf("sync setting %s is active and takes %s from %s too, with another active policy or other differences on purpose: it brings back its own soon after this run",
				id, strings.Join(both, ", "), o.Source))
		}
	}
	return warnings
}

// appliedPlan is an approved plan that is being applied.
type appliedPlan struct {
	s *session
	r running
	p broker.Plan

	mu    sync.Mutex
	pages []broker.PlanPage
	dirty map[int]bool
	left  int
	moved time.Time     // when an entry was dealt with last
	late  bool          // the approval is too old to begin anything more
	dead  int           // entries of which that became
	all   chan struct{} // closed when nothing is left

	// The next are of a run at a server, whose entries go in stages. Given is what it
	// undoes, later what has not begun, inStage how many that began are not over; step
	// tells that none is.
	given   map[objectKey]broker.Undone
	later   []staged
	inStage int
	step    chan struct{}
}

// staged is an entry whose stage has not begun.
type staged struct {
	key  objectKey
	wish *wish
}

// approvalExpired says why the rest of a plan is not done.
const approvalExpired = "the approval expired; ask for it again"

// isLate tells whether the approval is too old to begin anything more. Once it is, it
// stays so.
func (a *appliedPlan) isLate() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.late = a.late || a.r.run.Expired(a.moved, time.Now().Round(0)) // by the calendar: a machine that slept is late
	return a.late
}

// isWork tells whether an entry of a plan does or records something.
func isWork(e broker.PlanEntry) bool {
	a := decide.Act(e.Act)
	return a.Writes() || a == decide.Adopt
}

// keyOf returns the lane of an entry's object: lanes go by the id at the target.
func keyOf(e broker.PlanEntry) objectKey {
	if e.TargetID != "" {
		return objectKey{e.Type, e.TargetID}
	}
	return objectKey{e.Type, e.ID}
}

// applyPlan applies the approved plan of a run through the objects' own lanes. Run ends
// when the run moves on, store when no new work shall begin; then the next holder of the
// target goes on with what has no outcome, see handOver.
func (s *session) applyPlan(session, run, store context.Context, r running) {
	a := &appliedPlan{s: s, r: r, dirty: map[int]bool{}, all: make(chan struct{}), step: make(chan struct{}, 1)}
	if have, err := s.cfg.Broker.GetProgress(run, r.set.ID); err == nil && have.Run == r.run.ID {
		if have.Ended {
			return // control has yet to see it
		}
		a.moved = have.Moved
	}
	result, reason := broker.RunDropped, settingChanged
	var err error
	if r.holds() {
		if err = s.store(run, r, a.read); err == nil {
			wishes := a.begin()
			for open := true; open && err == nil; {
				select {
				case <-run.Done():
					open = false
				case <-a.all:
					open = false
				case <-a.step:
					a.goOn(run)
				case <-time.After(progressEvery):
					a.goOn(run)
					err = a.save(store, false, "", "")
					open = !a.isLate()
				}
			}
			if store.Err() != nil {
				a.handOver(session, wishes)
				return
			}
			a.takeBack(session, wishes)
			if result, reason = broker.RunDone, ""; a.hasExpired() {
				result, reason = broker.RunDropped, approvalExpired
			}
		}
	}
	if store.Err() != nil {
		return
	}
	if errors.Is(err, broker.ErrLeaseLost) {
		s.fail(err) // the next holder goes on
		return
	}
	if err != nil {
		result, reason = broker.RunFailed, err.Error()
	}
	if run.Err() != nil { // dropped, or the setting was changed
		result, reason = broker.RunDropped, "the run was dropped before its end"
		if now, _ := s.current(); now.runs[r.set.ID].run.ID == r.run.ID && !now.runs[r.set.ID].holds() {
			reason = settingChanged
		}
	}
	if serr := a.save(store, true, result, reason); serr != nil && store.Err() == nil {
		s.log.WarnContext(store, "the end of a run cannot be stored", "setting", r.set.ID, "run", r.run.ID, "error", serr)
	}
}

// hasExpired tells whether anything was not done because the approval was too old.
func (a *appliedPlan) hasExpired() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.dead > 0
}

// read reads the approved plan.
func (a *appliedPlan) read(ctx context.Context) error {
	var err error
	if a.p, err = a.s.cfg.Broker.GetPlan(ctx, a.r.set.ID); err == nil && a.p.ID != a.r.run.Plan {
		err = fmt.Errorf("plan %s: %w", a.r.run.Plan, broker.ErrConflict)
	}
	a.pages = nil
	if err == nil {
		err = a.s.cfg.Broker.PlanPages(ctx, a.p, func(_ int, page broker.PlanPage) bool { a.pages = append(a.pages, page); return true })
	}
	if errors.Is(err, broker.ErrConflict) || errors.Is(err, broker.ErrNotFound) {
		return fmt.Errorf("the approved plan is not there any more; ask for another run: %w", err)
	}
	if err == nil && a.r.run.Server != "" {
		v, _ := a.s.current()
		a.given, err = a.s.givenBy(ctx, v, a.r)
	}
	return err
}

// advance begins the next stage of a run at a server. What uses what is found out anew
// before anything goes.
func (a *appliedPlan) advance(ctx context.Context) error {
	a.mu.Lock()
	if len(a.later) == 0 || a.inStage > 0 {
		a.mu.Unlock()
		return nil
	}
	stage := a.later[0].wish.entry.Stage
	n := 0
	for n < len(a.later) && a.later[n].wish.entry.Stage == stage {
		n++
	}
	now := a.later[:n]
	a.mu.Unlock()
	if slices.ContainsFunc(now, func(x staged) bool { return x.wish.entry.Act == string(decide.Delete) }) {
		if err := a.s.freshUsage(ctx, 0); err != nil {
			return err
		}
	}
	a.mu.Lock()
	a.later, a.inStage = a.later[n:], n
	a.mu.Unlock()
	a.s.wishAll(now...)
	return nil
}

// goOn begins the next stage where it can be begun; else it is tried again.
func (a *appliedPlan) goOn(ctx context.Context) {
	if shut, _, _ := a.s.gate.state(); shut {
		return
	}
	if err := a.advance(ctx); err != nil && ctx.Err() == nil {
		a.s.log.WarnContext(ctx, "what uses what at the target cannot be found out; nothing is deleted until it can", "run", a.r.run.ID, "error", err)
	}
}

// begin hands what has no outcome yet to the lanes: in the order of applying, deletions
// last and in reverse.
func (a *appliedPlan) begin() map[objectKey]*wish {
	type at struct{ page, slot int }
	order := map[schemas.Type]int{}
	for i, t := range schemas.ApplyOrder() {
		order[t] = i
	}
	var todo []at
	for n, page := range a.pages {
		for i, e := range page.Entries {
			if isWork(e) && e.Outcome == "" {
				todo = append(todo, at{n, i})
			}
		}
	}
	rank := func(x at) int {
		e := a.pages[x.page].Entries[x.slot]
		if e.Stage > 0 {
			return e.Stage
		}
		if e.Act == string(decide.Delete) {
			return 1000 - order[e.Type]
		}
		return order[e.Type]
	}
	slices.SortStableFunc(todo, func(x, y at) int { return rank(x) - rank(y) })
	a.mu.Lock()
	if a.left = len(todo); a.left == 0 {
		close(a.all)
	}
	a.mu.Unlock()
	wishes := map[objectKey]*wish{}
	var now []staged
	late := a.isLate()
	for _, x := range todo {
		e := a.pages[x.page].Entries[x.slot]
		key := keyOf(e)
		w := &wish{setting: a.r.set.ID, run: a.r.run.ID, plan: a.p.ID, entry: e, expired: a.isLate, done: func(o broker.Outcome, why string) { a.settle(x.page, x.slot, o, why) }}
		if late {
			a.end(w)
			continue
		}
		wishes[key] = w
		if e.Stage > 0 {
			w.given = a.given[key]
			a.later = append(a.later, staged{key, w})
			continue
		}
		now = append(now, staged{key, w})
	}
	a.s.wishAll(now...)
	if len(a.later) > 0 {
		a.step <- struct{}{}
	}
	return wishes
}

func (a *appliedPlan) settle(page, slot int, o broker.Outcome, why string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	e := &a.pages[page].Entries[slot]
	e.Outcome, e.OutcomeWhy = o, why
	a.dirty[page] = true
	switch o {
	case broker.OutcomeLeft:
	case broker.OutcomeExpired:
		a.dead++
	default:
		a.moved = time.Now().UTC().Round(0)
	}
	if a.left--; a.left == 0 {
		close(a.all)
	}
	if e.Stage == 0 {
		return
	}
	if a.inStage--; a.inStage == 0 && len(a.later) > 0 {
		select {
		case a.step <- struct{}{}:
		default:
		}
	}
}

// rest waits for what was sent to come to its end, as long as a request may take and the
// session lasts.
func (a *appliedPlan) rest(session context.Context, wishes map[objectKey]*wish) {
	until := time.Now().Add(requestLimit)
	for _, w := range wishes {
		for a.s.isSending(w) && session.Err() == nil && time.Now().Before(until) {
			select {
			case <-session.Done():
			case <-time.After(50 * time.Millisecond):
			}
		}
	}
}

// takeBack ends what has not begun, and lets what was sent come to its end.
func (a *appliedPlan) takeBack(session context.Context, wishes map[objectKey]*wish) {
	a.mu.Lock()
	later := a.later
	a.later = nil
	a.mu.Unlock()
	for _, x := range later {
		a.end(x.wish)
	}
	for key, w := range wishes {
		if !a.s.wasSent(w) && a.s.unwish(key, w) {
			a.end(w)
		}
	}
	a.rest(session, wishes)
	for key, w := range wishes {
		if a.s.unwish(key, w) {
			a.end(w)
		}
	}
}

// end says what became of a wish that was taken back.
func (a *appliedPlan) end(w *wish) {
	switch {
	case a.s.wasSent(w):
		w.done(broker.OutcomeOther, "a write of it was sent, and the run ended before it was known what came of that")
	case a.isLate() && a.s.isDone(w.entry):
		w.done(broker.OutcomeDone, "")
	case a.isLate():
		w.done(broker.OutcomeExpired, "")
	default:
		w.done(broker.OutcomeLeft, "")
	}
}

// handOver ends the work on a run because the session ends. Where that is so because
// nobody wants anything of the target any more, the run is over; otherwise the next
// holder goes on with what has no outcome.
func (a *appliedPlan) handOver(session context.Context, wishes map[objectKey]*wish) {
	keep, cancel := context.WithTimeout(session, finishLimit)
	defer cancel()
	rest, end := context.WithTimeout(keep, finishLimit-time.Second) // the rest is for storing it
	a.rest(rest, wishes)
	end()
	now, err := a.s.cfg.Broker.GetRun(keep, a.r.set.ID)
	if err != nil {
		return // the next holder finds out
	}
	over := now.ID != a.r.run.ID || now.Phase.Over()
	if over {
		a.takeBack(rest, wishes)
	}
	if err := a.save(keep, over, broker.RunDropped, "the run was dropped before its end"); err != nil && session.Err() == nil {
		a.s.log.WarnContext(session, "what became of a run cannot be stored", "setting", a.r.set.ID, "run", a.r.run.ID, "error", err)
	}
}

// save stores the outcomes and how far the run has come.
func (a *appliedPlan) save(ctx context.Context, ended bool, result broker.RunPhase, reason string) error {
	if !ended {
		result, reason = "", ""
	}
	p := broker.RunProgress{Run: a.r.run.ID, Plan: a.r.run.Plan, Setting: a.r.set.ID, Outcomes: map[broker.Outcome]int{}, Ended: ended, Result: result, Reason: reason, At: time.Now().UTC()}
	types := map[schemas.Type]*broker.TypeCount{}
	pages := map[int]broker.PlanPage{}
	a.mu.Lock()
	for n, page := range a.pages {
		if a.dirty[n] {
			page.Entries = slices.Clone(page.Entries)
			pages[n] = page
		}
		for _, e := range page.Entries {
			if !isWork(e) {
				continue
			}
			t := types[e.Type]
			if t == nil {
				t = &broker.TypeCount{Type: e.Type}
				types[e.Type] = t
			}
			p.Total++
			t.Total++
			if e.Outcome != "" {
				p.Done++
				t.Done++
				p.Outcomes[e.Outcome]++
			}
		}
	}
	clear(a.dirty)
	p.Moved = a.moved
	a.mu.Unlock()
	for _, t := range schemas.ApplyOrder() {
		if types[t] != nil {
			p.Types = append(p.Types, *types[t])
		}
	}
	for n, page := range pages {
		err := a.s.store(ctx, a.r, func(ctx context.Context) error {
			rev, err := a.s.cfg.Broker.PutPlanPage(ctx, a.p, n, page)
			if err == nil {
				a.pages[n].Revision = rev
			}
			return err
		})
		if errors.Is(err, broker.ErrConflict) {
			return fmt.Errorf("%w: another process holds the target: %w", broker.ErrLeaseLost, err)
		}
		if err != nil {
			return err
		}
	}
	if ended {
		a.s.log.InfoContext(ctx, "a run has ended", "setting", a.r.set.ID, "result", result, "reason", reason, "outcomes", describe(p.Outcomes))
	}
	return a.s.store(ctx, a.r, func(ctx context.Context) error { return a.s.cfg.Broker.PutProgress(ctx, p) })
}

func describe(outcomes map[broker.Outcome]int) string {
	var out []string
	for o, n := range outcomes {
		out = append(out, fmt.Sprintf("%s: %d", o, n))
	}
	slices.Sort(out)
	return strings.Join(out, ", ")
}
