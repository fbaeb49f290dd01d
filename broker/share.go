package broker

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nuid"
)

// ErrCrash as the cause of the end of a role's context ends the role as a crash
// would: no lease is given back and nothing more is recorded. For simulations.
var ErrCrash = errors.New("crash")

// ShareConfig says what is shared out, and among whom.
type ShareConfig struct {
	// Role is the word that all processes share under which share: "consumer" or
	// "producer". It names their heartbeats.
	Role string
	// Prefix begins the names of the items' leases, such as "target.".
	Prefix string
	// Instance names this process, for people.
	Instance string
	// Only are the items that this process may have; nil for any.
	Only []string
	// Times are those of the leases and heartbeats.
	Times LeaseTimes
}

// Share is one process's part in sharing items (targets, sources) out among the
// processes of a role. Every process watches all leases and heartbeats and computes
// the same plan from them: who has an item keeps it, nobody has two more than
// another who may have them, and what nobody has goes to who has least. The plan
// decides who tries to take a lease and who gives one up; that only one has it, the
// lease alone decides. So a plan that is wrong for a moment costs time and nothing
// else.
type Share struct {
	cfg    ShareConfig
	b      *Broker
	log    *slog.Logger
	kv     jetstream.KeyValue
	member string // this one's id, another after every start

	mu      sync.Mutex
	items   []string
	seen    map[string]sighting // by name of the lease
	loaded  bool
	held    map[string]*Lease
	waiting map[string]chan uint64
	not     map[string]time.Time // items that this process passes on until then
	dead    map[string]uint64    // heartbeats that stand still, and are to be removed
	idle    map[string]idle      // items that nobody has, although the plan gives them to somebody
	plan    map[string]string    // item to member
	members []member

	moved chan struct{} // holds one where there is something to look at
	beat  chan struct{} // holds one where the heartbeat says something else
	stop  context.CancelFunc
	wg    sync.WaitGroup
}

// sighting is a record and since when it has stood still, on this machine's clock.
type sighting struct {
	rev   uint64
	since time.Time
	rec   leaseRecord
}

// idle says since when the plan gives an item to a process that does not take it, and
// which ones have had their time: they live, and do not know the item or cannot take
// it.
type idle struct {
	to     string
	since  time.Time
	passed map[string]bool
	until  time.Time // when it is forgotten
}

// idleFor is how long it is remembered that a process did not take an item.
const idleFor = 10 * time.Minute

type member struct {
	id   string
	only []string
	not  []string
}

func (m member) may(item string) bool {
	return (m.only == nil || slices.Contains(m.only, item)) && !slices.Contains(m.not, item)
}

// NewShare joins the processes that share. It leaves them when ctx ends, unless that
// is as a crash: from then on the others take over what this process gives back. Close
// ends the rest.
func (b *Broker) NewShare(ctx context.Context, cfg ShareConfig) (*Share, error) {
	cfg.Times = cfg.Times.withDefaults()
	kv, err := b.js.KeyValue(ctx, BucketLease)
	if err != nil {
		return nil, fmt.Errorf("share out what each %s does: %w", cfg.Role, err)
	}
	s := &Share{cfg: cfg, b: b, log: b.log.With("role", cfg.Role), kv: kv, member: nuid.Next(), seen: map[string]sighting{}, held: map[string]*Lease{},
		waiting: map[string]chan uint64{}, not: map[string]time.Time{}, dead: map[string]uint64{}, idle: map[string]idle{}, moved: make(chan struct{}, 1), beat: make(chan struct{}, 1)}
	run, stop := context.WithCancel(context.WithoutCancel(ctx))
	s.stop = stop
	s.wg.Go(func() { s.follow(run) })
	s.wg.Go(func() {
		beating, end := context.WithCancel(run)
		defer end()
		defer context.AfterFunc(ctx, end)()
		s.keepBeating(beating)
		if ctx.Err() != nil && !errors.Is(context.Cause(ctx), ErrCrash) {
			s.leave()
		}
	})
	s.wg.Go(func() { s.run(run) })
	return s, nil
}

// Close ends the sharing. What this process has, it gives back before.
func (s *Share) Close() {
	s.stop()
	s.wg.Wait()
}

// leave takes the heartbeat back.
func (s *Share) leave() {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	if err := s.kv.Delete(ctx, s.beatName()); err != nil {
		s.log.Debug("the heartbeat could not be taken back; the others wait until it is old", "error", err)
	}
}

func (s *Share) beatName() string { return s.cfg.Role + "." + s.member }

// Want says which items there are to share. What the plan gives to a process that
// does not know of it, and so does not take it for a TTL, goes to another.
func (s *Share) Want(items []string) {
	s.mu.Lock()
	s.items = slices.Sorted(slices.Values(items))
	s.mu.Unlock()
	s.look()
}

// Pass says that this process cannot serve an item and that another one is to try;
// where all pass on it, it stays where it is. It is forgotten after the time.
func (s *Share) Pass(item string, after time.Duration) {
	s.mu.Lock()
	s.not[item] = time.Now().Add(after)
	s.mu.Unlock()
	signal(s.beat)
	s.look()
}

// Others tells whether another living process may have the item and does not pass
// on it.
func (s *Share) Others(item string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.ContainsFunc(s.members, func(m member) bool { return m.id != s.member && m.may(item) })
}

// Acquire waits until the plan gives the item to this process and its lease is
// free, and takes it; or until ctx ends. One call at a time per item. The lease's
// Wanted is closed when another process is to have it.
func (s *Share) Acquire(ctx context.Context, item string) (*Lease, error) {
	ready := make(chan uint64, 1)
	s.mu.Lock()
	s.waiting[item] = ready
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		if s.waiting[item] == ready {
			delete(s.waiting, item)
		}
		s.mu.Unlock()
	}()
	s.look()
	name := s.cfg.Prefix + item
	for {
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("lease %s: %w", name, ctx.Err())
		case rev := <-ready:
			take, cancel := context.WithTimeout(ctx, s.cfg.Times.TTL/3)
			l, err := s.b.takeLease(take, ctx, s.kv, name, leaseRecord{Holder: s.cfg.Instance, Member: s.member}, s.cfg.Times, rev)
			cancel()
			if err == nil {
				s.mu.Lock()
				s.held[item] = l
				s.mu.Unlock()
				s.look()
				return l, nil
			}
			// Another was faster, or the broker is away: what comes of it, the watch tells.
			select {
			case <-ctx.Done():
			case <-time.After(s.interval()):
			}
			s.look()
		}
	}
}

func (s *Share) interval() time.Duration { return min(s.cfg.Times.TTL/10, 500*time.Millisecond) }

// look asks for a new plan.
func (s *Share) look() { signal(s.moved) }

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// follow watches all leases until ctx ends. A watch that breaks is begun anew;
// meanwhile leases seem to stand still, and the broker refuses who then tries to
// take one that does not.
func (s *Share) follow(ctx context.Context) {
	failing := false
	for ctx.Err() == nil {
		there := map[string]bool{}
		err := s.b.watch(ctx, BucketLease, ">", func(e jetstream.KeyValueEntry) error {
			there[e.Key()] = true
			if failing {
				failing = false
				s.log.InfoContext(ctx, "the leases can be watched again")
			}
			s.sight(e)
			return nil
		}, func() bool {
			s.mu.Lock()
			s.loaded = true
			maps.DeleteFunc(s.seen, func(name string, _ sighting) bool { return !there[name] }) // of a store that went back
			s.mu.Unlock()
			s.look()
			return false
		})
		if err != nil && ctx.Err() == nil && !failing {
			failing = true
			s.log.WarnContext(ctx, "the leases cannot be watched; what this process has it keeps as long as it can renew it", "error", err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(s.interval()):
		}
	}
}

func (s *Share) sight(e jetstream.KeyValueEntry) {
	role, prefix := s.cfg.Role+".", s.cfg.Prefix
	if !strings.HasPrefix(e.Key(), role) && !strings.HasPrefix(e.Key(), prefix) {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	before, known := s.seen[e.Key()]
	if known && before.rev == e.Revision() {
		return // as it was seen by the watch before this one; a lower one is of a store that went back
	}
	now := sighting{rev: e.Revision(), since: time.Now()}
	if e.Operation() == jetstream.KeyValuePut {
		if json.Unmarshal(e.Value(), &now.rec) != nil {
			now.rec = leaseRecord{Holder: "?"} // a lease it is, whoever's
		}
	}
	if now.rec.Holder == "" && strings.HasPrefix(e.Key(), role) {
		delete(s.seen, e.Key())
	} else {
		s.seen[e.Key()] = now
	}
	if !known || !sameLease(before.rec, now.rec) {
		signal(s.moved)
	}
}

// sameLease tells whether a record is only the renewal of another.
func sameLease(a, b leaseRecord) bool {
	return a.Token == b.Token && a.Holder == b.Holder && slices.Equal(a.Only, b.Only) && slices.Equal(a.Not, b.Not)
}

// keepBeating writes the heartbeat by which the others know that this process lives.
func (s *Share) keepBeating(ctx context.Context) {
	tick := time.NewTicker(s.cfg.Times.TTL / 5)
	defer tick.Stop()
	for {
		s.mu.Lock()
		var not []string
		for item, until := range s.not {
			if time.Now().Before(until) {
				not = append(not, item)
			} else {
				delete(s.not, item)
			}
		}
		s.mu.Unlock()
		slices.Sort(not)
		raw, err := json.Marshal(leaseRecord{Holder: s.cfg.Instance, Member: s.member, Boot: s.b.boot, Only: s.cfg.Only, Not: not})
		if err == nil {
			put, cancel := context.WithTimeout(ctx, s.cfg.Times.TTL/3)
			_, err = s.kv.Put(put, s.beatName(), raw)
			cancel()
		}
		if err != nil && ctx.Err() == nil {
			s.log.DebugContext(ctx, "the heartbeat could not be written", "error", err)
		}
		s.bury(ctx)
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		case <-s.beat:
		}
	}
}

// bury removes the heartbeats that stood still for a TTL, so that whoever joins now
// does not reckon with the dead until it has seen as much. One that moves after all
// is not removed, or written again.
func (s *Share) bury(ctx context.Context) {
	s.mu.Lock()
	dead := s.dead
	s.dead = map[string]uint64{}
	s.mu.Unlock()
	for name, rev := range dead {
		del, cancel := context.WithTimeout(ctx, s.cfg.Times.TTL/3)
		_ = s.kv.Delete(del, name, jetstream.LastRevision(rev)) // another may have been faster
		cancel()
	}
}

// run makes the plan anew whenever something moved, and at intervals, because what
// stands still says something too.
func (s *Share) run(ctx context.Context) {
	tick := time.NewTicker(s.interval())
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.moved:
		case <-tick.C:
		}
		s.follows(ctx)
	}
}

// follows does what the plan asks of this process.
func (s *Share) follows(ctx context.Context) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.loaded {
		return
	}
	now := time.Now()
	s.members = s.living(now)
	holders := map[string]string{}
	free := map[string]uint64{}
	for _, item := range s.items {
		x, known := s.seen[s.cfg.Prefix+item]
		mine := x.rec.Member == s.member && (s.held[item] == nil || s.held[item].Context().Err() != nil)
		wait := s.cfg.Times.TTL
		if s.b.Exclusive() && x.rec.Boot != s.b.boot {
			wait = s.cfg.Times.Margin // its process is dead; its last request may still land
		}
		switch {
		case !known || x.rec.Holder == "" || mine || now.Sub(x.since) >= wait:
			// mine: an answer to taking it was lost, or it was lost since. Nothing of this
			// process is under way under it.
			free[item] = x.rev
		default:
			holders[item] = x.rec.Member
		}
	}
	plan := share(s.items, s.members, holders, s.idlers(now))
	s.noteIdle(now, plan, free)
	if !maps.Equal(plan, s.plan) && len(s.members) > 1 {
		count := 0
		for _, m := range plan {
			if m == s.member {
				count++
			}
		}
		s.log.DebugContext(ctx, "shared out anew", "among", len(s.members), "items", len(s.items), "mine", count)
	}
	s.plan = plan
	for item, rev := range free {
		if ready := s.waiting[item]; ready != nil && plan[item] == s.member {
			select {
			case <-ready: // an older one
			default:
			}
			ready <- rev
		}
	}
	for item, l := range s.held {
		if l.Context().Err() != nil {
			delete(s.held, item)
		} else if to := plan[item]; to != "" && to != s.member {
			l.want()
		}
	}
}

// idlers returns who has not taken what the plan gave, by item.
func (s *Share) idlers(now time.Time) map[string]map[string]bool {
	out := map[string]map[string]bool{}
	for item, i := range s.idle {
		if len(i.passed) > 0 && now.After(i.until) {
			i.passed = nil
			s.idle[item] = i
		}
		out[item] = i.passed
	}
	return out
}

// noteIdle looks whether who is to have an item takes it. Each process finds that out
// by itself; where two come to other conclusions, the lease decides.
func (s *Share) noteIdle(now time.Time, plan map[string]string, free map[string]uint64) {
	for _, item := range s.items {
		i := s.idle[item]
		_, isFree := free[item]
		to := plan[item]
		switch {
		case !isFree || to == "" || to == s.member:
			i.to = ""
		case i.to != to:
			i.to, i.since = to, now
		case now.Sub(i.since) >= s.cfg.Times.TTL:
			if i.passed == nil {
				i.passed = map[string]bool{}
			}
			i.passed[to], i.until, i.to = true, now.Add(idleFor), ""
			s.log.Info("a process that is to work on this does not; another one is to", "item", s.cfg.Prefix+item)
			signal(s.moved)
		}
		if i.to == "" && len(i.passed) == 0 {
			delete(s.idle, item)
		} else {
			s.idle[item] = i
		}
	}
}

// living returns the processes whose heartbeat moves, and this one, by id.
func (s *Share) living(now time.Time) []member {
	var not []string
	for item, until := range s.not {
		if now.Before(until) {
			not = append(not, item)
		}
	}
	out := []member{{s.member, s.cfg.Only, not}}
	for name, x := range s.seen {
		id, ok := strings.CutPrefix(name, s.cfg.Role+".")
		if !ok || id == s.member {
			continue
		}
		if now.Sub(x.since) >= s.cfg.Times.TTL || s.b.Exclusive() && x.rec.Boot != s.b.boot {
			s.dead[name] = x.rev
			continue
		}
		out = append(out, member{id, x.rec.Only, x.rec.Not})
	}
	slices.SortFunc(out, func(a, b member) int { return cmp.Compare(a.id, b.id) })
	return out
}

// share gives every item to a member. Who has one keeps it, as long as nobody else
// who may have it has two less; what nobody has goes to who has least. An item that
// all pass on stays where it is. Nobody gets one that nobody may have. It depends on
// nothing but its arguments, in whichever order they come. Idle are those who had
// their time to take an item.
func share(items []string, members []member, holders map[string]string, idle map[string]map[string]bool) map[string]string {
	items = slices.Sorted(slices.Values(items))
	members = slices.SortedFunc(slices.Values(members), func(a, b member) int { return cmp.Compare(a.id, b.id) })
	may := func(item string) (able []member) {
		for _, m := range members {
			if m.may(item) && !idle[item][m.id] {
				able = append(able, m)
			}
		}
		if able != nil {
			return able
		}
		for _, m := range members { // all pass on it
			if m.not = nil; m.may(item) {
				able = append(able, m)
			}
		}
		return able
	}
	plan, load := map[string]string{}, map[string]int{}
	least := func(able []member) member {
		return slices.MinFunc(able, func(a, b member) int { return cmp.Or(cmp.Compare(load[a.id], load[b.id]), cmp.Compare(a.id, b.id)) })
	}
	has := func(able []member, id string) bool {
		return slices.ContainsFunc(able, func(m member) bool { return m.id == id })
	}
	able := map[string][]member{}
	for _, item := range items {
		if able[item] = may(item); has(able[item], holders[item]) {
			plan[item] = holders[item]
			load[holders[item]]++
		}
	}
	for _, item := range items {
		if plan[item] == "" && len(able[item]) > 0 {
			m := least(able[item])
			plan[item] = m.id
			load[m.id]++
		}
	}
	for moved := true; moved; {
		moved = false
		for _, item := range items {
			if len(able[item]) == 0 {
				continue
			}
			if m := least(able[item]); load[plan[item]]-load[m.id] >= 2 {
				load[plan[item]]--
				load[m.id]++
				plan[item] = m.id
				moved = true
			}
		}
	}
	return plan
}
