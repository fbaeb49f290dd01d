package consumer

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/vcsync/vcsync/broker"
	"github.com/vcsync/vcsync/consumer/decide"
	"github.com/vcsync/vcsync/schemas"
	"github.com/vcsync/vcsync/visualcron"
)

const (
	// compareEvery is how often a setting is compared with the ledger without any
	// cause: whatever message was lost, its object is looked at then.
	compareEvery = 5 * time.Minute
	// compareUnserved is how often while the setting's durable consumer is not there, or
	// another than it should be.
	compareUnserved = 30 * time.Second
	// compareAfterGap is how often at most because messages may have been lost on their way
	// here. Else they come again when the durable's AckWait is over, a minute later.
	compareAfterGap = 10 * time.Second
	// requestLimit bounds one request; it stays below what is left of a lease after
	// a missed renewal.
	requestLimit = 10 * time.Second
	// releaseFor is how long it counts which VisualCron a target said it is, before a write
	// that depends on it: nobody tells of an update.
	releaseFor = 30 * time.Second
	// finishLimit bounds how long a stop waits for writes that are under way.
	finishLimit = 5 * time.Second
	sayAgain    = 10 * time.Minute
	// bigBody is the size in bytes of which one body at a time is worked on per target.
	bigBody = 8 << 20
	// passAfter is how long a target must be out of this process's reach until another
	// one is to try, and passFor how long this one then leaves it alone.
	passAfter = 2 * time.Minute
	passFor   = 30 * time.Minute
	// failsSoon is how soon a tenure must end to count as one that never was.
	failsSoon = 10 * time.Second
)

// view is what the settings say of one target; it is replaced as a whole, so that
// a plan can tell whether it was made under the settings that are in force (G13).
type view struct {
	// settings are the active ones.
	settings map[schemas.Slug]broker.StoredSetting
	// awaited are the active ones as far as they wait for a listing of their source: with
	// the rules of these types alone, which count for nothing but what waits for them.
	awaited []broker.StoredSetting
	// runs are those that are not over, by setting, also of settings that are off.
	runs map[schemas.Slug]running
	// safe: vcsync is in safe mode.
	safe bool
	// verdicts are those on deletions at the target, by setting.
	verdicts map[schemas.Slug]broker.Verdicts
	windows  windows
	force    sync.Once // of inForce
	forced   string
	// captured tells that its producer, where it is a source too, captures the values of user variables.
	captured bool
	// release is the target's VisualCron release, and releases are those of the sources
	// (see visualcron.Release); empty and absent where it is not known.
	release  string
	releases map[schemas.Slug]string
	own      differences
	// fleet holds the addresses of all servers that vcsync knows.
	fleet map[schemas.Slug]string
}

// otherRelease tells whether a source is of another VisualCron release than the target,
// which is here where it is known better than by the view. What is not known is not held
// against it.
func (v *view) otherRelease(source schemas.Slug, here string) bool {
	if here == "" {
		here = v.release
	}
	return here != "" && v.releases[source] != "" && here != v.releases[source]
}

// running is a run with its setting.
type running struct {
	run broker.StoredRun
	set broker.StoredSetting
}

// terms are what all settings of a view together say of one object of a source. Where
// settings of several modes take it, those of the freest one count: what one does by
// itself is not held because another one only reports. Where these lack the right, the
// next mode is asked, and what it would do is held. Of all else the strictest counts.
type terms struct {
	rights schemas.Rights
	mode   schemas.Mode
	edits  schemas.TargetEdits
	// heals, and crosses: the settings heal drift, and write across versions; it takes
	// all of them.
	heals, crosses bool
	// policy is the strictest of the active policies: off, then keep, then follow.
	policy schemas.ActivePolicy
	// values: the value of a user variable is taken too.
	values bool
	// setting is the one that is named in records.
	setting schemas.Slug
	// counted are the settings whose rights these are.
	counted []counted
	// next are the terms of the next stricter mode that has any.
	next *terms
}

// modes are the modes, the freest first.
var modes = []schemas.Mode{schemas.Automatic, schemas.Approve, schemas.ReportOnly}

// join adds what settings say of another source that has the same content, as if that came
// from this one: the freest mode counts. Where the two sources differ on purpose at the
// target in another way, they would not make the same of it there (alike is false): then
// the other one frees nothing that the settings of this one hold.
func (t *terms) join(more terms, alike bool) {
	rank := func(m *terms) int { return slices.Index(modes, m.mode) }
	for m := &more; m != nil; m = m.next {
		if rank(m) < rank(t) {
			if alike {
				n, stricter := *m, *t
				n.next = &stricter
				*t = n
			}
			continue
		}
		at := t
		for at.next != nil && rank(at.next) <= rank(m) {
			at = at.next
		}
		if at.mode != m.mode {
			n := *m
			at.next, n.next = &n, at.next
			continue
		}
		at.rights, at.counted = at.rights.Union(m.rights), append(slices.Clone(at.counted), m.counted...)
		at.heals, at.crosses = at.heals && m.heals, at.crosses && m.crosses
		if editsRank[m.edits] > editsRank[at.edits] {
			at.edits = m.edits
		}
		if policyRank[m.policy] > policyRank[at.policy] {
			at.policy = m.policy
		}
	}
}

// editsRank and policyRank order words of settings, the strictest last.
var (
	editsRank  = map[schemas.TargetEdits]int{schemas.OverwriteEdits: 1, schemas.KeepEdits: 2, schemas.ParkEdits: 3}
	policyRank = map[schemas.ActivePolicy]int{schemas.Follow: 1, schemas.Keep: 2, schemas.Off: 3}
)

// terms returns what the settings take of an object of a source, and with them the
// setting of a run that looks at it, whether or not that is active.
func (v *view) terms(source schemas.Slug, t schemas.Type, o schemas.Selected, also *running) terms {
	var by [3]terms
	for _, sid := range v.names(also) {
		s := v.settings[sid]
		if also != nil && sid == also.set.ID {
			if s = also.set; s.Mode == schemas.Approve {
				s.Mode = schemas.Automatic // a person sees the plan, and approves it
			}
		}
		if s.Source != source {
			continue
		}
		x := s.Rights(t, o)
		if also != nil && sid == also.set.ID && also.run.Scope.Dependencies && !also.run.Scope.Takes(t, o.ID) {
			x.New = true // the plan holds it only where something in scope needs it
		}
		if x.Use() {
			out := &by[max(0, slices.Index(modes, s.Mode))]
			if out.setting == "" {
				*out = terms{setting: sid, mode: s.Mode, edits: s.TargetEdits, heals: true, crosses: true}
			}
			if editsRank[s.TargetEdits] > editsRank[out.edits] {
				out.edits = s.TargetEdits
			}
			out.heals = out.heals && s.Drift == schemas.DriftHeal
			out.crosses = out.crosses && s.Versions == schemas.AnyVersions
			out.rights = out.rights.Union(x)
			out.counted = append(out.counted, counted{sid, s.Windows, x})
			out.values = out.values || s.VariableValues && t == schemas.Variable
			if policyRank[s.Policy] > policyRank[out.policy] {
				out.policy = s.Policy
			}
		}
	}
	var out terms
	for i := len(by) - 1; i >= 0; i-- {
		if by[i].setting == "" {
			continue
		}
		if out.setting != "" {
			stricter := out
			by[i].next = &stricter
		}
		out = by[i]
	}
	return out
}

// bringing returns the mode in which an object that the target has not got is brought
// there: by itself, or once a person has approved it. Who only reports brings nothing.
func (t terms) bringing() (schemas.Mode, bool) {
	for at := &t; at != nil; at = at.next {
		if at.rights.New && at.mode != schemas.ReportOnly {
			return at.mode, true
		}
	}
	return "", false
}

// drift says what becomes of drift.
func (t terms) drift() schemas.Drift {
	if t.heals {
		return schemas.DriftHeal
	}
	return schemas.DriftReport
}

// names returns the names of the settings, and of that of a run.
func (v *view) names(also *running) []schemas.Slug {
	names := slices.Collect(maps.Keys(v.settings))
	if also != nil && !slices.Contains(names, also.set.ID) {
		names = append(names, also.set.ID)
	}
	slices.Sort(names)
	return names
}

// taker returns the first setting that takes the object with that id from a source, or
// would if it were called otherwise.
func (v *view) taker(source schemas.Slug, t schemas.Type, id schemas.ID) schemas.Slug {
	for _, sid := range slices.Sorted(maps.Keys(v.settings)) {
		if s := v.settings[sid]; s.Source == source && s.MayTake(t, id) {
			return sid
		}
	}
	return ""
}

// awaits tells whether a setting that waits for a listing of the source is to bring an
// object that the target has not got, once that is there. Until then the source may have
// an object of which nothing is known, or another than is known. Alone tells that only
// what goes without an approval counts.
func (v *view) awaits(source schemas.Slug, t schemas.Type, id schemas.ID, alone bool) bool {
	return slices.ContainsFunc(v.awaited, func(s broker.StoredSetting) bool {
		return s.Source == source && (s.Mode == schemas.Automatic || s.Mode == schemas.Approve && !alone) && s.MayBring(t, id)
	})
}

// mayTake tells whether the settings take the object with that id from a source, or
// would if it were called otherwise.
func (v *view) mayTake(source schemas.Slug, t schemas.Type, id schemas.ID, also *running) bool {
	if also != nil && also.set.Source == source && (also.set.MayTake(t, id) || also.run.Scope.Dependencies) {
		return true
	}
	for _, s := range v.settings {
		if s.Source == source && s.MayTake(t, id) {
			return true
		}
	}
	return false
}

// sources returns the sources of the view, and of a run, by name.
func (v *view) sources(also *running) []schemas.Slug {
	set := map[schemas.Slug]bool{}
	if also != nil {
		set[also.set.Source] = true
	}
	for _, s := range v.settings {
		set[s.Source] = true
	}
	return slices.Sorted(maps.Keys(set))
}

// target is the writer of one target server.
type target struct {
	cfg    Config
	share  *broker.Share
	pool   *broker.Pool
	server schemas.Server
	log    *slog.Logger

	mu       sync.Mutex
	view     *view
	changed  chan struct{} // closed and replaced when the view is
	status   TargetStatus
	settings map[schemas.Slug]*SettingStatus
	lanes    *lanes
	gate     *gate
	answers  *answers
	parked   *parkedSet
	drift    *driftKeeper
}

func newTarget(m *Manager, server schemas.Server, v *view) *target {
	t := &target{cfg: m.cfg, share: m.share, pool: m.pool, server: server, log: m.cfg.Log.With("target", server.ID), view: v, changed: make(chan struct{}),
		settings: map[schemas.Slug]*SettingStatus{}}
	t.status = TargetStatus{Target: server.ID, State: Waiting, Since: time.Now()}
	return t
}

// update puts other settings in force.
func (t *target) update(v *view) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.view = v
	close(t.changed)
	t.changed = make(chan struct{})
}

func (t *target) current() (*view, chan struct{}) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.view, t.changed
}

func (t *target) currentStatus() TargetStatus {
	t.mu.Lock()
	defer t.mu.Unlock()
	out := t.status
	if t.lanes != nil {
		out.Lanes = t.lanes.count()
	}
	if t.parked != nil {
		out.Parked = t.parked.count("")
	}
	if out.State == Working && t.gate != nil {
		if shut, since, why := t.gate.state(); shut {
			out.State, out.Since = Down, since
			if why != nil {
				out.Reason = why.Error()
			}
		} else if out.Unanswered = t.answers.unanswered(); !out.Unanswered.IsZero() {
			out.Reason = fmt.Sprintf("requests to it are without an answer since %s", out.Unanswered.UTC().Format(time.RFC3339))
		}
	}
	return out
}

func (t *target) settingStatus(id schemas.Slug) SettingStatus {
	ts := t.currentStatus()
	t.mu.Lock()
	defer t.mu.Unlock()
	out := SettingStatus{Setting: id, State: string(ts.State)}
	if s := t.settings[id]; s != nil {
		out = *s
		if ts.State != Working {
			out.State = "target " + string(ts.State)
		}
	}
	if t.parked != nil {
		out.Parked = t.parked.count(id)
	}
	out.OK = out.OK && out.Parked == 0 && out.LastError == ""
	if t.lanes != nil {
		out.Waiting = t.lanes.waitingFor(id)
	}
	if t.drift != nil {
		t.drift.say(id, &out)
	}
	if out.Waiting > 0 && ts.State == Working {
		out.State = "waiting for its sync window"
	}
	return out
}

func (t *target) setState(s TargetState) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.status.State != s {
		t.status.State, t.status.Since, t.status.Reason = s, time.Now(), ""
	}
}

// fault shows why the target is not written to, until it is.
func (t *target) fault(err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.status.State != Down {
		t.status.State, t.status.Since = Down, time.Now()
	}
	t.status.Reason = err.Error()
}

// errWanted: another process is to write to the target.
var errWanted = errors.New("another process is to write to this target")

// run writes to the target whenever it holds the lease, until ctx ends.
func (t *target) run(ctx context.Context) {
	failures := 0 // of tenures in a row that ended soon
	for ctx.Err() == nil {
		if failures == 0 {
			t.setState(Waiting)
		}
		lease, err := t.share.Acquire(ctx, string(t.server.ID))
		if err == nil {
			var settled time.Time
			begun := time.Now()
			tenure, end := context.WithCancelCause(ctx)
			given := make(chan struct{})
			go func() {
				defer close(given)
				select {
				case <-tenure.Done():
				case <-lease.Wanted():
					end(errWanted)
				}
			}()
			settled, err = t.session(tenure, lease)
			if errors.Is(context.Cause(tenure), errWanted) {
				err = errWanted
			}
			if failures++; errors.Is(err, errWanted) || errors.Is(err, broker.ErrLeaseLost) || time.Since(begun) > failsSoon {
				failures = 0
			}
			end(nil)
			<-given
			if errors.Is(context.Cause(ctx), ErrCrash) {
				lease.Abandon()
			} else {
				// G3: a write whose outcome is open may still land; the next holder, who
				// need not wait for a lease that was given back, would write under it.
				time.Sleep(time.Until(settled))
				release, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
				if rerr := lease.Release(release); rerr != nil && ctx.Err() == nil {
					t.log.WarnContext(ctx, "the lease could not be given back; the next holder waits until it runs out", "error", rerr)
				}
				cancel()
			}
		}
		switch {
		case ctx.Err() != nil:
			return
		case errors.Is(err, errWanted):
			t.log.InfoContext(ctx, "another process takes this target over; nothing is lost")
			continue
		}
		t.fault(err)
		if failures <= 1 || failures%100 == 0 {
			t.log.WarnContext(ctx, "the writer of this target starts anew; nothing is lost", "reason", err)
		}
		if failures >= 3 && t.share.Others(string(t.server.ID)) {
			// Of another release, perhaps, or with another's keyring.
			t.log.WarnContext(ctx, "this process cannot work on this target; another one is to try")
			t.share.Pass(string(t.server.ID), passFor)
			failures = 0
		}
		select {
		case <-ctx.Done():
		case <-time.After(time.Second):
		}
	}
}

// session is one tenure of the lease.
type session struct {
	*target
	lease  *broker.Lease
	ledger *broker.Ledger
	conn   visualcron.Connector
	lanes  *lanes
	gate   *gate
	parked *parkedSet
	fail   context.CancelCauseFunc
	// soft ends when no new work shall begin; what is under way may still finish.
	soft context.Context

	identity string
	mu       sync.Mutex
	info     visualcron.Info
	probed   time.Time // when info was asked for
	// landing holds until when a write of an object, whose outcome is open, may
	// still land; the latest of all is settled.
	landing map[objectKey]time.Time
	settled time.Time
	// passedBy holds the versions that were left alone after a look at the target, and
	// why, so that the target is not asked about them again and again.
	passedBy map[objectKey]passed
	passes   uint64 // counts what was put there
	// wishes are what runs and audits want of objects beside what the live path does.
	wishes map[objectKey][]*wish
	drift  driftKeeper
	// bursts are the passes of live and audit writes that are under way, by setting.
	bursts map[schemas.Slug]burst
	// comparedAt holds the revisions of the settings that were compared in this session.
	comparedAt map[schemas.Slug]uint64
	// unserved holds the settings whose durable consumer does not bring what they take:
	// it is to be made or changed by the process that changes settings.
	unserved map[schemas.Slug]bool
	waits    waits
	// big is held while a body of many megabytes is worked on: each takes many times
	// its size.
	big baton
	// listing is held while the target is listed.
	listing baton
	// users is held while something is done that may leave a target without an
	// administrator.
	users baton
	// deletions counts what is deleted, and usage knows who refers to what.
	deletions *deletions
	usage     usage
}

// passed is a version that was left alone, of an object by its id at the source.
type passed struct {
	source  schemas.Slug
	id      schemas.ID
	version schemas.Version
	why     decide.Decision
}

// leftAlone tells why a version was left alone in this session.
func (s *session) leftAlone(key objectKey, source schemas.Slug, id schemas.ID, version schemas.Version) (decide.Decision, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	by, ok := s.passedBy[key]
	return by.why, ok && by.source == source && by.id == id && by.version == version
}

// baton is held by one at a time, also over requests: who waits for it obeys a
// context.
type baton chan struct{}

func (b baton) take(ctx context.Context) (done func(), err error) {
	select {
	case b <- struct{}{}:
		return func() { <-b }, nil
	case <-ctx.Done():
		return func() {}, ctx.Err()
	}
}

// mayLand notes that a write of an object may still land.
func (s *session) mayLand(key objectKey) {
	until := time.Now().Add(lateLanding)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.landing[key] = until
	if s.settled.Before(until) {
		s.settled = until
	}
}

// waitLanded waits until no earlier write of an object can land any more.
func (s *session) waitLanded(ctx context.Context, key objectKey) error {
	for {
		s.mu.Lock()
		until, open := s.landing[key]
		if open && time.Until(until) <= 0 {
			delete(s.landing, key)
			open = false
		}
		s.mu.Unlock()
		if !open {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(time.Until(until)): // another look may wait for the same
		}
	}
}

// session does the work until the lease, ctx or something it stands on ends. It
// returns until when a write of its may still land.
func (t *target) session(parent context.Context, lease *broker.Lease) (settled time.Time, err error) {
	ctx, fail := context.WithCancelCause(lease.Context())
	defer fail(nil)
	soft, calm := context.WithCancel(ctx)
	defer calm()
	stop := context.AfterFunc(parent, func() {
		if calm(); errors.Is(context.Cause(parent), ErrCrash) {
			fail(ErrCrash)
		}
	})
	defer stop()
	password, err := t.cfg.Broker.Password(soft, t.server.ID)
	if err != nil {
		return settled, fmt.Errorf("%w; set it: vcsync server edit NAME --password-file FILE", err)
	}
	server := t.server
	if server.Identity, err = t.cfg.Broker.Identity(soft, server.ID); err != nil {
		return settled, err
	}
	conn, err := t.cfg.Open(server, password) // told who it is to be, it refuses others from the first answer on
	if err != nil {
		return settled, err
	}
	defer conn.Close()
	if c, ok := conn.(visualcron.Bounded); ok {
		c.NotAfter(lease.Until) // G3: also where this process stood still between a look at the clock and the request
	}
	ledger, err := t.cfg.Broker.OpenLedger(ctx, t.server.ID)
	if err != nil {
		return settled, err
	}
	defer ledger.Close()
	heard := &answers{}
	s := &session{target: t, lease: lease, ledger: ledger, conn: asking{conn, heard}, lanes: newLanes(), fail: fail, soft: soft, identity: server.Identity,
		landing: map[objectKey]time.Time{}, passedBy: map[objectKey]passed{}, bursts: map[schemas.Slug]burst{},
		wishes: map[objectKey][]*wish{}, listing: make(baton, 1), unserved: map[schemas.Slug]bool{}, big: make(baton, 1), users: make(baton, 1), deletions: newDeletions(ledger)}
	s.usage.making = make(baton, 1)
	s.gate = newGate(s.probe, s.sayGate(ctx))
	s.parked = newParkedSet(t.cfg.Broker, t.server.ID)
	t.mu.Lock()
	t.lanes, t.gate, t.answers, t.parked, t.drift = s.lanes, s.gate, heard, s.parked, &s.drift
	t.mu.Unlock()

	var wg sync.WaitGroup
	defer wg.Wait()
	defer fail(nil)
	if err := s.parked.load(ctx, &wg, fail, s.onRecord); err != nil {
		return settled, err
	}
	v, _ := s.current()
	s.reconsider(v) // settings may have changed meanwhile, and who waits for whom is not on record
	t.setState(Working)
	wg.Go(func() { s.gate.run(ctx) })
	wg.Go(func() { s.passOn(soft) })
	if err := s.probe(soft); err != nil && soft.Err() == nil {
		s.gate.down(err)
	}
	var workers sync.WaitGroup
	for range t.cfg.Lanes {
		workers.Go(func() {
			for ln := s.lanes.next(soft); ln != nil; ln = s.lanes.next(soft) {
				s.work(ctx, ln)
			}
		})
	}
	wg.Go(func() { s.account(ctx) })
	workers.Go(func() { s.attendRuns(ctx, soft) })
	wg.Go(func() { s.audits(soft) })
	wg.Go(func() { s.openWindows(soft) })
	s.follow(soft, &wg)
	<-soft.Done()
	// A write that is under way is let finish and be recorded, for a while.
	limit := time.AfterFunc(finishLimit, func() { fail(errors.New("the stop took too long")) })
	defer limit.Stop()
	workers.Wait()
	s.mu.Lock()
	settled = s.settled
	s.mu.Unlock()
	if err := context.Cause(ctx); err != nil {
		return settled, err
	}
	return settled, context.Cause(parent)
}

// probe is the cheap read that tells whether the target answers, and who it is.
func (s *session) probe(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, requestLimit)
	defer cancel()
	asked := time.Now()
	info, err := s.conn.Server(ctx)
	if err != nil {
		return err
	}
	s.mu.Lock()
	identity := s.identity
	s.mu.Unlock()
	if identity == "" {
		if other, err := s.cfg.Broker.SameServer(ctx, s.server.ID, info.ID); err != nil {
			return err
		} else if other != "" {
			return &visualcron.Error{Class: visualcron.WrongServer, Op: "ask for the server's identity", Server: s.server.ID,
				Detail: fmt.Sprintf("it is the same server as %s", other), Hint: "remove one of the two names"}
		}
		if identity, err = s.cfg.Broker.BindIdentity(ctx, s.server.ID, info.ID); err != nil {
			return err
		}
	}
	if info.ID != identity {
		return &visualcron.Error{Class: visualcron.WrongServer, Op: "ask for the server's identity", Server: s.server.ID,
			Detail: fmt.Sprintf("server %.64q answers, %.64q is known by this name", info.ID, identity),
			Hint:   "correct the address; a new server needs a name of its own"}
	}
	s.mu.Lock()
	before := s.info.Version
	s.mu.Unlock()
	if before != info.Version {
		if err := s.cfg.Broker.SetVersion(ctx, s.server.ID, info.Version); err != nil {
			return err
		}
	}
	s.mu.Lock()
	s.identity, s.info, s.probed = identity, info, asked
	s.mu.Unlock()
	if c := info.Certificate; c != nil {
		s.target.mu.Lock()
		s.target.status.CertificateEnds = c.Ends
		s.target.mu.Unlock()
	}
	return nil
}

// release returns the target's VisualCron release as it said last, "" for not yet, and
// since when that may be another.
func (s *session) release() (string, time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return visualcron.Release(s.info.Version), s.probed
}

// passOn lets another process try a target that this one cannot reach: the way to it
// may be what is broken. A target that answers, however badly, is the same for all.
func (s *session) passOn(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(passAfter / 4):
		}
		shut, since, why := s.gate.state()
		class := visualcron.ClassOf(why)
		if !shut || time.Since(since) < passAfter || class != visualcron.Unreachable && class != visualcron.Timeout || !s.share.Others(string(s.server.ID)) {
			continue
		}
		s.log.InfoContext(ctx, "the target cannot be reached from here; another process is to try", "reason", why)
		s.share.Pass(string(s.server.ID), passFor)
	}
}

// capability returns what the target can do with a type, as it said last.
func (s *session) capability(t schemas.Type) (visualcron.Capability, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.info.Types[t], s.identity != ""
}

// sayGate logs when the target goes down, at intervals while it stays so, and when
// it is back.
func (s *session) sayGate(ctx context.Context) func(bool, error) {
	var since time.Time
	return func(shut bool, reason error) {
		if shut {
			if since.IsZero() {
				since = time.Now()
			}
			s.log.WarnContext(ctx, "target is down: nothing is lost, it is probed until it answers", "reason", reason)
		} else {
			s.log.InfoContext(ctx, "target is back", "after", time.Since(since).Round(time.Second))
			since = time.Time{}
		}
	}
}

// follow runs one follower per setting and replaces those whose setting changed.
func (s *session) follow(ctx context.Context, wg *sync.WaitGroup) {
	type follower struct {
		what string // see followed
		own  string
		stop context.CancelFunc
		done chan struct{}
	}
	wg.Go(func() {
		followers := map[schemas.Slug]follower{}
		first := true
		var before *view
		for ctx.Err() == nil {
			v, changed := s.current()
			for id, f := range followers {
				if followed(v.settings[id]) != f.what || v.signature(v.settings[id].Source) != f.own {
					f.stop()
					<-f.done
					delete(followers, id)
				}
			}
			for id, set := range v.settings {
				if _, ok := followers[id]; ok {
					continue
				}
				run, stop := context.WithCancel(ctx)
				f := follower{followed(set), v.signature(set.Source), stop, make(chan struct{})}
				followers[id] = f
				s.mu.Lock()
				delete(s.comparedAt, id)
				s.mu.Unlock()
				retryParked := !first
				go func() {
					defer close(f.done)
					s.followSetting(run, set, retryParked)
				}()
			}
			if !first {
				s.reconsider(v)
			}
			if before != nil && (before.release != v.release || !maps.Equal(before.releases, v.releases)) {
				s.heldFor(decide.VersionsDiffer)
			}
			if before != nil && before.safe && !v.safe {
				s.heldFor(decide.SafeMode)
				s.drift.ask(auditSettings)
			}
			if before != nil && !maps.EqualFunc(before.verdicts, v.verdicts, func(a, b broker.Verdicts) bool { return a.Revision == b.Revision }) {
				s.heldFor(decide.Airlock, decide.InUse, decide.Rejected)
			}
			first, before = false, v
			select {
			case <-ctx.Done():
			case <-changed:
			}
		}
		for _, f := range followers {
			f.stop()
			<-f.done
		}
	})
}

// followed names what of a setting is followed: another revision of it, or more types that
// were listed at its source, is something else.
func followed(set broker.StoredSetting) string {
	return fmt.Sprint(set.Revision, set.TakenTypes())
}

// reconsider looks again at what was parked because of the settings themselves: in
// a conflict of two, for one that is gone, because of pins, for an edit at the target, or
// waiting for what none may bring now.
func (s *session) reconsider(v *view) {
	for _, p := range s.parked.all() {
		_, stands := v.settings[p.Setting]
		from, home := v.origin(p.Source, p.Type, p.ID, nil)
		if slices.Contains([]string{classConflict, classWaiting, string(decide.OtherHome), string(decide.EditParked)}, p.Class) || !stands || !home || !p.IsOf(p.Source, from) {
			s.onParked(p)
		}
	}
}

// heldFor looks again at what was held for reasons that are gone.
func (s *session) heldFor(why ...decide.Reason) {
	s.mu.Lock()
	var held []objectKey
	for key, by := range s.passedBy {
		if slices.Contains(why, by.why.Reason) {
			held = append(held, key)
		}
	}
	s.mu.Unlock()
	for _, key := range held {
		s.lanes.look(key, nil, nil, false)
	}
}

// followSetting feeds the lanes from one setting: a comparison of everything it
// takes with the ledger, first and then at intervals, and its durable consumer.
func (s *session) followSetting(ctx context.Context, set broker.StoredSetting, retryParked bool) {
	log := s.log.With("setting", set.ID)
	status := func(f func(*SettingStatus)) {
		s.target.mu.Lock()
		defer s.target.mu.Unlock()
		st := s.target.settings[set.ID]
		if st == nil {
			st = &SettingStatus{Setting: set.ID}
			s.target.settings[set.ID] = st
		}
		f(st)
	}
	if len(durableConfig(set).FilterSubjects) == 0 {
		status(func(st *SettingStatus) { st.State = "takes nothing" })
		return
	}
	status(func(st *SettingStatus) { st.State = "comparing" })
	begun := time.Now()
	var failing bool
	said := func(what string, err error) {
		if ctx.Err() != nil || errors.Is(err, jetstream.ErrConsumerNotFound) && time.Since(begun) < 30*time.Second {
			return // it is being made
		}
		status(func(st *SettingStatus) { st.LastError = what + ": " + err.Error() })
		if !failing {
			log.WarnContext(ctx, "the setting cannot be followed; trying again", "while", what, "error", err)
		}
		failing = true
	}
	compared, gapAt, gap := time.Time{}, time.Time{}, false
	var last *pass // not over while the target is away; its objects wait in their lanes
	gone := false
	every := compareEvery
	served := func(yes bool) {
		s.mu.Lock()
		defer s.mu.Unlock()
		if every = compareEvery; yes {
			delete(s.unserved, set.ID)
		} else {
			every, s.unserved[set.ID] = compareUnserved, true
		}
	}
	for ctx.Err() == nil {
		r, err := s.consume(ctx, set)
		switch {
		case errors.Is(err, jetstream.ErrConsumerNotFound):
			gone = true // or being made
			served(false)
		case err == nil && gone:
			// Whatever the one before had delivered or not, a comparison finds what is left
			// to do.
			gone, compared = false, time.Time{}
		}
		if err != nil {
			said("read its durable consumer", err)
			if time.Since(compared) >= every && (last == nil || last.over()) && s.compare(ctx, set, retryParked, &last, status) == nil {
				compared, retryParked = time.Now(), false
			}
		} else {
			for ctx.Err() == nil && err == nil {
				if time.Since(compared) >= every && (last == nil || last.over()) {
					if err = s.compare(ctx, set, retryParked, &last, status); err != nil {
						said("compare", err)
						break
					}
					compared, retryParked = time.Now(), false
				}
				if failing {
					failing = false
					status(func(st *SettingStatus) { st.LastError = "" })
					log.InfoContext(ctx, "the setting is followed again")
				}
				gap = r.gap() || gap
				if info, ierr := r.cons.Info(ctx); ierr == nil {
					status(func(st *SettingStatus) { st.Pending = info.NumPending + uint64(info.NumAckPending) })
					served(!info.Paused && !slices.ContainsFunc(durableConfig(set).FilterSubjects, func(f string) bool { return !slices.Contains(filtersOf(info.Config), f) }))
					// What was under way when the broker failed or moved went to nobody, perhaps.
					if gap = gap && info.NumAckPending > 0; gap && time.Since(gapAt) >= compareAfterGap && (last == nil || last.over()) {
						log.DebugContext(ctx, "the broker was away, and messages are unacknowledged; the setting is compared", "messages", info.NumAckPending)
						compared, gapAt, gap = time.Time{}, time.Now(), false
						continue
					}
				} else if errors.Is(ierr, jetstream.ErrConsumerNotFound) {
					err, gone = ierr, true
					served(false)
					break
				}
				select {
				case <-ctx.Done():
				case err = <-r.broken:
					gap = true
					said("read its durable consumer", err)
				case <-time.After(2 * time.Second):
				}
			}
			gap = r.gap() || gap
			r.stop()
		}
		select {
		case <-ctx.Done():
		case <-time.After(500 * time.Millisecond):
		}
	}
}

// reading is the reading of a durable consumer.
type reading struct {
	cons jetstream.Consumer
	// broken gets the error that ends it; it is then begun anew.
	broken chan error
	stop   func()
	// gap tells whether the broker was away since it was asked last, so that messages
	// that were on their way may have come to nobody.
	gap func() bool
}

// consume starts reading the setting's durable consumer.
func (s *session) consume(ctx context.Context, set broker.StoredSetting) (*reading, error) {
	js, back, err := s.pool.Take()
	if err != nil {
		return nil, err
	}
	cons, err := js.Consumer(ctx, broker.StreamState, durablePrefix+string(set.ID))
	if err != nil {
		back()
		return nil, err
	}
	broken := make(chan error, 1)
	var silent atomic.Bool
	connections := js.Conn().Stats().Reconnects
	cc, err := cons.Consume(func(m jetstream.Msg) {
		head, err := schemas.ParseHead(m.Subject(), m.Headers())
		if err != nil {
			s.unreadable(ctx, set, m, err)
			return
		}
		v, _ := s.current()
		s.lanes.look(objectKey{head.Key.Type, v.home(head.Key.Source, head.Key.Type, head.ID, nil)}, m, nil, false)
	}, jetstream.PullMaxMessages(256), jetstream.PullExpiry(15*time.Second), jetstream.PullHeartbeat(5*time.Second),
		jetstream.ConsumeErrHandler(func(_ jetstream.ConsumeContext, err error) {
			if errors.Is(err, jetstream.ErrNoHeartbeat) { // it asks again by itself
				silent.Store(true)
				return
			}
			select {
			case broken <- err:
			default:
			}
		}))
	if err != nil {
		back()
		return nil, err
	}
	gap := func() bool {
		before := connections
		connections = js.Conn().Stats().Reconnects
		return silent.Swap(false) || connections != before
	}
	return &reading{cons, broken, func() { cc.Stop(); <-cc.Closed(); back() }, gap}, nil
}

// compare asks for a look at every object of the setting whose newest state the
// ledger does not hold as dealt with.
func (s *session) compare(ctx context.Context, set broker.StoredSetting, retryParked bool, last **pass, status func(func(*SettingStatus))) error {
	cfg := durableConfig(set)
	p := &pass{left: 1}
	*last = p
	p.ended = func(parked int) {
		status(func(st *SettingStatus) {
			st.LastRun, st.OK, st.State = time.Now(), parked == 0, "following"
			if parked == 0 {
				st.LastError = ""
			}
		})
	}
	status(func(st *SettingStatus) { st.State = "comparing" })
	v, _ := s.current()
	err := s.cfg.Broker.ScanState(ctx, cfg.FilterSubjects, func(n broker.Newest) {
		if !set.Rights(n.Key.Type, n.Selected()).Use() {
			return
		}
		key := objectKey{n.Key.Type, v.home(n.Key.Source, n.Key.Type, n.ID, nil)}
		e, ok := s.ledger.Get(key.t, key.id)
		ours := ok && isOf(e, n.Key.Source, n.ID)
		if ours && (len(e.Needs) > 0 || e.Waits) {
			if _, said := s.parked.get(key.t, key.id.Token()); !said { // the flag went while no setting took it
				s.lanes.look(key, nil, p, retryParked)
				return
			}
		}
		switch {
		case !ok && n.Kind == schemas.Deleted: // never ours
			return
		case ours && e.Version == n.Version && e.State != broker.Intent && (n.Kind == schemas.Deleted || e.Own == v.ownName(n.Key.Source, n.Key.Type, n.ID, nil) && e.Policy == set.Policy && (e.Values || n.Key.Type != schemas.Variable || !set.VariableValues)):
			return
		}
		if _, left := s.leftAlone(key, n.Key.Source, n.ID, n.Version); left && !retryParked {
			return
		}
		s.lanes.look(key, nil, p, retryParked)
	}, func(u broker.Unreadable) {
		s.log.WarnContext(ctx, "a message in the state stream is no event of vcsync and is left alone", "subject", u.Subject, "error", u.Err)
	})
	p.done(false)
	if err == nil {
		s.compared(set)
	}
	return err
}
