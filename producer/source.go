package producer

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v4"

	"github.com/vcsync/vcsync/broker"
	"github.com/vcsync/vcsync/schemas"
	"github.com/vcsync/vcsync/visualcron"
)

const (
	// gather is how long the first hint waits for its fellows.
	gather = 50 * time.Millisecond
	// failingRest is the least time between two listings of a source that fails.
	failingRest = time.Second
	// refusedMost bounds the time between two logons that the server refuses: more of
	// them may lock the account.
	refusedMost = 5 * time.Minute
	// passAfter is how long a source must be out of this process's reach until another
	// one is to try, and passFor how long this one then leaves it alone.
	passAfter = 2 * time.Minute
	passFor   = 30 * time.Minute
	// sayAgain is how often a lasting failure is repeated in the log.
	sayAgain = 10 * time.Minute
)

// Classes of reasons for a degraded source that no connector reports.
const (
	// classBroker: the event store does not take or give events.
	classBroker = "broker"
	// classConfig: this process has no connector or password for the server.
	classConfig = "configuration"
	// classEmpty: the listing is empty where there were objects.
	classEmpty = "empty listing"
	// classSecrets: the server began to give its secrets otherwise during a listing.
	classSecrets = "secrets changed"
)

// outOfReach are the classes of reasons that another process may not have.
var outOfReach = []string{string(visualcron.Unreachable), string(visualcron.Timeout), classConfig}

// degraded is why a poll did not do its work.
type degraded struct {
	class  string
	reason string
}

func (d *degraded) Error() string { return d.reason }

// typesFailed says that some types could not be listed while the server is well:
// the others were.
type typesFailed struct {
	types []schemas.Type
	first error
}

func (f *typesFailed) Error() string {
	if len(f.types) == 1 {
		return f.first.Error()
	}
	return fmt.Sprintf("%v (and %d more types failed)", f.first, len(f.types)-1)
}

func (f *typesFailed) Unwrap() error { return f.first }

// known is the last published state of one object.
type known struct {
	version schemas.Version
	digest  schemas.Digest // empty: deleted
	seq     uint64         // of its last event in VCS_EV
	quick   uint64         // hash of the body that had this digest; 0 before the first sight
	// spoiled tells that what stands last in the stream is not this state: the object
	// has to be published anew, equal or not.
	spoiled bool
	// foreign tells that another than this process said it last: what the source has is
	// not a way back from there.
	foreign bool
}

// last returns the digest that was last published, "" where none was.
func (k *known) last() schemas.Digest {
	if k == nil {
		return ""
	}
	return k.digest
}

// source captures one server.
type source struct {
	cfg    Config
	share  *broker.Share
	server schemas.Server
	types  []schemas.Type
	values bool // the values of user variables are captured too
	log    *slog.Logger

	// The fields below belong to the goroutine of run.
	lease    *broker.Lease
	conn     visualcron.Connector
	traces   traces
	identity string
	version  string          // the VisualCron version that is on record
	view     visualcron.View // of the type that is being listed
	epoch    uint64
	quick    visualcron.QuickHasher
	base     map[schemas.Type]map[schemas.ID]*known
	// ignored holds the quick hash of the built-in objects, which are not captured.
	ignored map[schemas.Type]map[schemas.ID]uint64
	// modes holds how secrets were given when the types were listed last.
	modes map[schemas.Type]visualcron.SecretMode
	paces map[schemas.Type]pace
	// torn holds the types of which the running poll could not publish everything.
	torn map[schemas.Type]bool

	ev evidence

	echo    echo
	foreign foreign

	mu     sync.Mutex
	status Status
	// config is the newest revision of the settings that is known, asked that of the
	// newest run for which a listing was made immediate.
	config, asked uint64
	// awaited holds the revisions of the settings since which a listing of a type is waited
	// for, proven what is stored about listings.
	awaited, proven map[schemas.Type]uint64
	dirty           map[schemas.Type]bool
	said            time.Time
	saidUnproven    time.Time
	wake            chan struct{}
}

func newSource(cfg Config, share *broker.Share, server schemas.Server, types []schemas.Type, values bool) *source {
	s := &source{cfg: cfg, traces: traces{tracer: cfg.Tracer}, share: share, server: server, types: types, values: values, log: cfg.Log.With("source", server.ID), quick: visualcron.NewQuickHasher(),
		dirty: map[schemas.Type]bool{}, wake: make(chan struct{}, 1)}
	s.status = Status{Server: server.ID, State: Standby, Since: time.Now(), Proves: true, Types: map[schemas.Type]TypeStatus{}}
	for _, t := range types {
		s.status.Types[t] = TypeStatus{}
	}
	return s
}

func (s *source) currentStatus() Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := s.status
	out.Types = maps.Clone(out.Types)
	return out
}

// hint makes the poll of a type immediate; without a type, of all.
func (s *source) hint(t schemas.Type) {
	s.mu.Lock()
	if t == "" {
		for _, t := range s.types {
			s.dirty[t] = true
		}
	} else if slices.Contains(s.types, t) {
		s.dirty[t] = true
	}
	any := len(s.dirty) > 0
	s.mu.Unlock()
	if any {
		select {
		case s.wake <- struct{}{}:
		default:
		}
	}
}

func (s *source) pokeAll() { s.hint("") }

// know takes in how new the settings are that this source is captured under, which run,
// by its revision, waits for a listing that began later, and which active settings do
// (see broker.Snapshot.Awaits). Such a listing is immediate, unless the server refuses the
// account: more logons could lock it.
func (s *source) know(config, asked uint64, awaited, proven map[schemas.Type]uint64) {
	s.mu.Lock()
	news := asked > s.asked
	for t, since := range awaited {
		news = news || since > s.awaited[t]
	}
	s.awaited = awaited
	s.proven = maps.Clone(s.proven)
	if s.proven == nil {
		s.proven = map[schemas.Type]uint64{}
	}
	for t, at := range proven { // what this process stored may be newer
		s.proven[t] = max(s.proven[t], at)
	}
	s.config, s.asked = max(s.config, config), max(s.asked, asked)
	refused := s.status.State == Degraded && !s.status.Partly && s.status.Class == string(visualcron.Unauthorized)
	s.mu.Unlock()
	if news && !refused {
		s.pokeAll()
	}
}

// prove stores that types were listed for which active settings wait, and that the
// newest states tell what was found. A type of which deletions are held is not proven:
// its newest states hold objects that the source has no more. Nor is one with objects
// that cannot be captured as they are now, and were before.
func (s *source) prove(ctx context.Context) {
	s.mu.Lock()
	listed, news := maps.Clone(s.proven), false
	for t, since := range s.awaited {
		if ts := s.status.Types[t]; ts.Revision > since && ts.Held+ts.Stale == 0 {
			listed[t], news = ts.Revision, true
		}
	}
	s.mu.Unlock()
	if !news {
		s.unproven(ctx, nil)
		return
	}
	settle, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	err := s.cfg.Broker.WaitState(settle)
	if err == nil && !s.lease.Valid() {
		return // the next holder lists anew
	}
	if err == nil {
		err = s.cfg.Broker.SetListed(ctx, s.server.ID, listed)
	}
	if s.unproven(ctx, err); err != nil {
		return // it is tried again after the next listing
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.proven = listed
}

// unproven notes why it could not be stored what was listed, nil where it could, and says
// so once and then at intervals.
func (s *source) unproven(ctx context.Context, err error) {
	if ctx.Err() != nil {
		return
	}
	s.mu.Lock()
	s.status.Unproven = ""
	say := err != nil && time.Since(s.saidUnproven) >= sayAgain
	if err != nil {
		s.status.Unproven = err.Error()
	}
	if say {
		s.saidUnproven = time.Now()
	}
	s.mu.Unlock()
	if say {
		s.log.WarnContext(ctx, "sync settings wait for a listing of this source, and that it was listed cannot be stored; it is tried again after the next one", "error", err)
	}
}

// knows returns the newest revision of the settings that is known.
func (s *source) knows() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.config
}

// takeDirty returns the hinted types in the order of applying, or all of them.
func (s *source) takeDirty(all bool) []schemas.Type {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []schemas.Type
	for _, t := range s.types {
		if all || s.dirty[t] {
			out = append(out, t)
		}
	}
	clear(s.dirty)
	return out
}

// run captures whenever it holds the source's lease, until ctx ends.
func (s *source) run(ctx context.Context) {
	for ctx.Err() == nil {
		lease, err := s.share.Acquire(ctx, string(s.server.ID))
		if err != nil {
			return // ctx ended
		}
		s.lease = lease
		s.setState(Starting)
		tenure, end := context.WithCancel(lease.Context())
		stop := context.AfterFunc(ctx, end)
		wanted := make(chan struct{})
		go func() {
			defer close(wanted)
			select {
			case <-tenure.Done():
			case <-lease.Wanted():
				s.log.InfoContext(ctx, "another process captures this source from now on")
				end()
			}
		}()
		var passing sync.WaitGroup
		passing.Go(func() { s.passOn(tenure) })
		s.capture(tenure)
		stop()
		end()
		passing.Wait()
		<-wanted
		if errors.Is(context.Cause(ctx), broker.ErrCrash) {
			lease.Abandon()
			return
		}
		s.setState(Standby)
		release, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		if err := lease.Release(release); err != nil && ctx.Err() == nil {
			s.log.WarnContext(ctx, "the lease of this source could not be given back; the next holder waits until it runs out", "error", err)
		}
		cancel()
	}
}

// passOn lets another process try a source that this one cannot reach: the way to it
// may be what is broken.
func (s *source) passOn(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(passAfter / 4):
		}
		now := s.currentStatus()
		if now.State == Degraded && !now.Partly && time.Since(now.Since) >= passAfter && slices.Contains(outOfReach, now.Class) && s.share.Others(string(s.server.ID)) {
			s.log.InfoContext(ctx, "the source cannot be captured from here; another process is to try", "class", now.Class)
			s.share.Pass(string(s.server.ID), passFor)
		}
	}
}

func (s *source) setState(state State) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.status.State, s.status.Since, s.status.Class, s.status.Reason, s.status.Partly = state, time.Now(), "", "", false
}

// capture captures until ctx ends. Its state is rebuilt from the stream after every
// fault of the broker.
func (s *source) capture(ctx context.Context) {
	retry := backoff.NewExponentialBackOff(backoff.WithInitialInterval(time.Second), backoff.WithMultiplier(2),
		backoff.WithMaxInterval(s.cfg.Poll), backoff.WithMaxElapsedTime(0))
	for ctx.Err() == nil {
		err := s.session(ctx, retry.Reset)
		if ctx.Err() != nil {
			return
		}
		s.degrade(ctx, err)
		select {
		case <-ctx.Done():
		case <-time.After(retry.NextBackOff()):
		case <-s.wake:
		}
	}
}

// session loads the last published state and polls until something breaks that
// needs it loaded anew.
func (s *source) session(ctx context.Context, healthy func()) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()

	b := s.cfg.Broker
	password, err := b.Password(ctx, s.server.ID)
	if err != nil {
		return &degraded{classConfig, fmt.Sprintf("%v; set it: vcsync server edit NAME --password-file FILE", err)}
	}
	if s.identity, err = b.Identity(ctx, s.server.ID); err != nil {
		return &degraded{classBroker, err.Error()}
	}
	server := s.server
	server.Identity = s.identity // a connector that is told refuses others from the first answer on
	if s.conn, err = s.cfg.Open(server, password); err != nil {
		return &degraded{classConfig, err.Error()}
	}
	defer s.conn.Close()
	events, err := b.EventsState(ctx)
	if err != nil {
		return &degraded{classBroker, err.Error()}
	}
	if err := s.load(ctx); err != nil {
		return &degraded{classBroker, fmt.Sprintf("load the last published state: %v", err)}
	}
	if err := s.loadEvidence(ctx); err != nil {
		return &degraded{classBroker, err.Error()}
	}
	s.foreign.reset()
	wg.Go(func() { s.followForeign(ctx, events.LastSeq) })
	ready := make(chan struct{})
	failed := make(chan error, 1)
	wg.Go(func() { failed <- s.echo.follow(ctx, b, s.server.ID, sync.OnceFunc(func() { close(ready) })) })
	select {
	case <-ready:
	case err := <-failed:
		return &degraded{classBroker, fmt.Sprintf("read what vcsync wrote to this server: %v", err)}
	case <-ctx.Done():
		return ctx.Err()
	}
	feeding := false
	failures := backoff.NewExponentialBackOff(backoff.WithInitialInterval(time.Second), backoff.WithMultiplier(2),
		backoff.WithMaxInterval(max(s.cfg.Poll, time.Second)), backoff.WithMaxElapsedTime(0))
	refused := backoff.NewExponentialBackOff(backoff.WithInitialInterval(s.cfg.Poll), backoff.WithMultiplier(2), backoff.WithRandomizationFactor(0),
		backoff.WithMaxInterval(max(refusedMost, s.cfg.Poll)), backoff.WithMaxElapsedTime(0))
	all := true
	var full time.Time // of the last poll of all types
	for {
		begun := time.Now()
		if all {
			full = begun
		}
		info, err := s.poll(ctx, s.takeDirty(all))
		took := time.Since(begun)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if d, ok := errors.AsType[*degraded](err); ok && d.class == classBroker {
			return err
		}
		wait := s.cfg.Poll
		_, partly := errors.AsType[*typesFailed](err)
		switch {
		case err == nil:
			failures.Reset()
			s.recover(ctx)
		case !partly && visualcron.ClassOf(err) == visualcron.Unauthorized:
			s.degrade(ctx, err)
			wait = refused.NextBackOff()
		default:
			s.degrade(ctx, err)
			wait = min(failures.NextBackOff(), s.cfg.Poll)
		}
		if err == nil || partly { // the server itself is well
			healthy()
			refused.Reset()
			if info.Changes && !feeding {
				feeding = true
				wg.Go(func() { s.followFeed(ctx) })
			}
		}
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return ctx.Err()
		case err := <-failed:
			timer.Stop()
			return &degraded{classBroker, fmt.Sprintf("read what vcsync wrote to this server: %v", err)}
		case <-timer.C:
			all = true
		case <-s.wake:
			timer.Stop()
			// A listing may take long; its length between two of them leaves the server
			// half of its time. One that fails is not asked more often than once in a
			// while, however many hints come.
			rest := max(gather, min(took, 5*time.Second))
			if err != nil {
				rest = max(rest, failingRest)
			}
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-time.After(rest):
			}
			// A feed that tells of some types all the time does not put off the others.
			all = err != nil || time.Since(full) >= s.cfg.Poll
		}
	}
}

// load reads the last published state of every wanted type back from VCS_STATE,
// which has first to catch up with VCS_EV: the stream is the only memory.
func (s *source) load(ctx context.Context) error {
	b := s.cfg.Broker
	wait, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	if err := b.WaitState(wait); err != nil {
		return err
	}
	var err error
	if s.epoch, err = b.Epoch(ctx, s.server.ID); err != nil {
		return err
	}
	s.base, s.ignored = map[schemas.Type]map[schemas.ID]*known{}, map[schemas.Type]map[schemas.ID]uint64{}
	s.modes, s.paces = map[schemas.Type]visualcron.SecretMode{}, map[schemas.Type]pace{}
	var filters []string
	for _, t := range s.types {
		s.base[t], s.ignored[t] = map[schemas.ID]*known{}, map[schemas.ID]uint64{}
		filters = append(filters, schemas.TypeStateFilter(s.server.ID, t))
	}
	highest := s.epoch
	var spoiled []schemas.Key
	err = b.ScanState(ctx, filters, func(n broker.Newest) {
		highest = max(highest, n.Version.Epoch)
		s.base[n.Key.Type][n.ID] = &known{version: n.Version, digest: n.Digest, seq: n.EventSeq}
	}, func(u broker.Unreadable) {
		s.log.WarnContext(ctx, "a message in the state stream is no event of vcsync; the object's own state is published above it", "subject", u.Subject, "error", u.Err)
		if key, err := schemas.ParseStateSubject(u.Subject); err == nil {
			spoiled = append(spoiled, key)
		}
	})
	for _, key := range spoiled {
		if id, ok := key.Token.ID(); ok && err == nil {
			err = s.relearn(ctx, key, id)
		}
	}
	if err == nil && highest > s.epoch {
		s.epoch, err = b.EpochAtLeast(ctx, s.server.ID, highest)
	}
	s.mu.Lock()
	s.status.Epoch = s.epoch
	s.mu.Unlock()
	return err
}

// followFeed turns the server's own change feed into hints until ctx ends.
func (s *source) followFeed(ctx context.Context) {
	retry := backoff.NewExponentialBackOff(backoff.WithInitialInterval(500*time.Millisecond), backoff.WithMaxInterval(30*time.Second), backoff.WithMaxElapsedTime(0))
	setFeed := func(on bool) {
		s.mu.Lock()
		s.status.Feed = on
		s.mu.Unlock()
	}
	for ctx.Err() == nil {
		err := s.conn.Watch(ctx, func() {
			retry.Reset()
			setFeed(true)
			s.hint("") // what changed before the feed stood was not told
		}, func(h visualcron.Hint) {
			t, err := schemas.ParseType(string(h.Type))
			if err != nil {
				t = "" // a hint that is not understood still says that something changed
			}
			s.hint(t)
		})
		setFeed(false)
		if visualcron.ClassOf(err) == visualcron.Unsupported {
			return
		}
		select {
		case <-ctx.Done():
		case <-time.After(retry.NextBackOff()):
		}
	}
}

// classOf names the class of what keeps a source from being captured.
func classOf(err error) string {
	class := string(visualcron.ClassOf(err))
	if d, ok := errors.AsType[*degraded](err); ok {
		class = d.class
	}
	if class == "" {
		class = "unknown"
	}
	return class
}

// degrade records and says why the source cannot be captured, once and then at
// intervals.
func (s *source) degrade(ctx context.Context, err error) {
	class := classOf(err)
	s.mu.Lock()
	again := s.status.State != Degraded || s.status.Class != class || time.Since(s.said) >= sayAgain
	if s.status.State != Degraded {
		s.status.Since = time.Now()
	}
	s.status.State, s.status.Class, s.status.Reason = Degraded, class, err.Error()
	_, s.status.Partly = errors.AsType[*typesFailed](err)
	if again {
		s.said = time.Now()
	}
	s.mu.Unlock()
	if !again {
		return
	}
	if f, ok := errors.AsType[*typesFailed](err); ok {
		s.log.WarnContext(ctx, "source degraded: changes of some types are not captured, and nothing is deleted because of it", "types", f.types, "class", class, "reason", f.first)
		return
	}
	s.log.WarnContext(ctx, "source degraded: its changes are not captured, and nothing is deleted because of it", "class", class, "reason", err)
}

func (s *source) recover(ctx context.Context) {
	s.mu.Lock()
	was, since := s.status.State, s.status.Since
	if was != Capturing {
		s.status.State, s.status.Class, s.status.Reason, s.status.Partly, s.status.Since = Capturing, "", "", false, time.Now()
	}
	s.mu.Unlock()
	switch was {
	case Degraded:
		s.log.InfoContext(ctx, "source recovered", "after", time.Since(since).Round(time.Second))
	case Starting:
		s.log.InfoContext(ctx, "source is captured")
	}
}
