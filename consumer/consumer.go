package consumer

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"go.opentelemetry.io/otel/trace"

	"github.com/vcsync/vcsync/broker"
	"github.com/vcsync/vcsync/schemas"
	"github.com/vcsync/vcsync/visualcron"
)

// ErrCrash is broker.ErrCrash: as the cause of the end of Run's context it ends the
// manager as a crash would. For simulations.
var ErrCrash = broker.ErrCrash

// Config is what the consumer needs.
type Config struct {
	Broker *broker.Broker
	// Open makes the connector of a server; it contacts nobody yet.
	Open func(s schemas.Server, password string) (visualcron.Connector, error)
	// Instance names this process in leases, for people; "vcsync" where empty.
	Instance string
	// Lease are the times of a target's lease.
	Lease broker.LeaseTimes
	// Lanes is how many objects of one target are written at the same time; 8 where
	// zero.
	Lanes int
	// Tracer makes the spans of applying; nil where nothing is traced.
	Tracer trace.Tracer
	// Log is where the consumer speaks; slog.Default() where nil.
	Log *slog.Logger

	histories *histories // of New
}

// Manager applies the active sync settings, and the runs of all, to their targets: to all
// of them, or to its share of them where other processes run one too.
type Manager struct {
	cfg   Config
	share *broker.Share
	pool  *broker.Pool

	mu       sync.Mutex
	targets  map[schemas.Slug]*runningTarget
	settings map[schemas.Slug]broker.StoredSetting
	// awaits holds, by setting, the types that are to be listed at its source first.
	awaits map[schemas.Slug][]schemas.Type
	// ending holds, by target, the last writer that was stopped and may still finish a
	// request: the next one waits for it, so that a target has one at a time here.
	ending map[schemas.Slug]chan struct{}
}

type runningTarget struct {
	t    *target
	rev  uint64 // of the server's record
	stop context.CancelFunc
	done chan struct{}
}

// New returns a Manager; Run starts it.
func New(cfg Config) *Manager {
	if cfg.Lanes == 0 {
		cfg.Lanes = 8
	}
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	if cfg.Instance == "" {
		cfg.Instance = "vcsync"
	}
	cfg.histories = &histories{turn: make(baton, 1)}
	return &Manager{cfg: cfg, targets: map[schemas.Slug]*runningTarget{}, settings: map[schemas.Slug]broker.StoredSetting{}, ending: map[schemas.Slug]chan struct{}{}}
}

// Run applies until ctx ends, following the servers and settings as they change.
// Whatever it started has ended when it returns, and its leases are given back. It
// returns an error only where the store cannot be watched any more.
func (m *Manager) Run(ctx context.Context) error {
	var err error
	m.share, err = m.cfg.Broker.NewShare(ctx, broker.ShareConfig{Role: "consumer", Prefix: "target.", Instance: m.cfg.Instance, Times: m.cfg.Lease})
	if err != nil {
		return err
	}
	defer m.share.Close()
	m.pool = m.cfg.Broker.NewPool("vcsync settings of " + m.cfg.Instance)
	defer m.pool.Close()
	defer func() {
		ended, end := context.WithCancel(ctx)
		end() // also where it is the watch that ended
		m.reconcile(ended, broker.Snapshot{})
	}()
	return m.cfg.Broker.WatchConfig(ctx, func(s broker.Snapshot) { m.reconcile(ctx, s) })
}

// reconcile starts, stops and informs the targets' writers so that they are what
// the snapshot wants.
func (m *Manager) reconcile(ctx context.Context, snap broker.Snapshot) {
	views := map[schemas.Slug]*view{}
	runs := func(s broker.StoredSetting) bool { r, ok := snap.Runs[s.ID]; return ok && !r.Phase.Over() }
	fleet := map[schemas.Slug]string{}
	for id, s := range snap.Servers {
		fleet[id] = s.Address
	}
	viewOf := func(target schemas.Slug) *view {
		if views[target] == nil {
			views[target] = &view{settings: map[schemas.Slug]broker.StoredSetting{}, runs: map[schemas.Slug]running{}, captured: snap.CapturesValues(target),
				release: visualcron.Release(snap.Versions[target]), releases: map[schemas.Slug]string{}, fleet: fleet, safe: snap.SafeMode.On, verdicts: snap.VerdictsAt(target)}
		}
		return views[target]
	}
	awaits := map[schemas.Slug][]schemas.Type{}
	for id, s := range snap.Settings {
		waits := snap.Awaits(s)
		for _, t := range supported(s.TakenTypes()) {
			if _, ok := waits[t]; ok {
				awaits[id] = append(awaits[id], t)
			}
		}
		active := s.Active && (len(awaits[id]) == 0 || len(awaits[id]) < len(supported(s.TakenTypes())))
		if _, ok := snap.Servers[s.Target]; !ok || !active && !runs(s) {
			continue
		}
		v := viewOf(s.Target)
		if active {
			v.settings[id] = without(s, awaits[id])
		}
		if runs(s) { // also of a setting that is off
			v.runs[id] = running{snap.Runs[id], s}
		}
		v.releases[s.Source] = visualcron.Release(snap.Versions[s.Source])
	}
	for id, r := range snap.Runs { // at a server, whether or not anything is synced there
		if s, ok := snap.Subject(id); ok && r.Server != "" && !r.Phase.Over() {
			viewOf(r.Server).runs[id] = running{r, s}
		}
	}
	for id, types := range awaits {
		if s := snap.Settings[id]; views[s.Target] != nil {
			views[s.Target].awaited = append(views[s.Target].awaited, only(s, types))
		}
	}
	m.mu.Lock()
	m.settings, m.awaits = snap.Settings, awaits
	// Who goes on is told first: waiting for another's stop would keep a setting that
	// was switched off in force (G13).
	for id, r := range m.targets {
		if views[id] != nil && r.rev == snap.Servers[id].Revision {
			r.t.update(views[id])
		}
	}
	for id, done := range m.ending {
		select {
		case <-done:
			delete(m.ending, id)
		default:
		}
	}
	for id, r := range m.targets {
		if views[id] == nil || r.rev != snap.Servers[id].Revision {
			r.stop()
			m.ending[id] = r.done
			delete(m.targets, id)
		}
	}
	ending := slices.Collect(maps.Values(m.ending))
	m.mu.Unlock()
	if ctx.Err() != nil {
		for _, done := range ending {
			<-done
		}
		return
	}
	var names []string
	for id := range views {
		names = append(names, string(id))
	}
	m.share.Want(names)
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, id := range slices.Sorted(maps.Keys(views)) {
		if m.targets[id] != nil {
			continue
		}
		run, stop := context.WithCancel(ctx)
		r := &runningTarget{t: newTarget(m, snap.Servers[id].Server, views[id]), rev: snap.Servers[id].Revision, stop: stop, done: make(chan struct{})}
		m.targets[id] = r
		before := m.ending[id]
		go func() {
			defer close(r.done)
			if before != nil {
				<-before // it gives its lease back when nothing of its can land any more
			}
			r.t.run(run)
		}()
	}
}

// supported returns those of the types that can be synced.
func supported(types []schemas.Type) []schemas.Type {
	return slices.DeleteFunc(types, func(t schemas.Type) bool { return !visualcron.Supported(t) })
}

// without returns a setting as if it did not take some types.
func without(s broker.StoredSetting, types []schemas.Type) broker.StoredSetting {
	if len(types) > 0 {
		s.Rules = maps.Clone(s.Rules)
		for _, t := range types {
			delete(s.Rules, t)
		}
	}
	return s
}

// only returns a setting as if it took no other types.
func only(s broker.StoredSetting, types []schemas.Type) broker.StoredSetting {
	rules := map[schemas.Type]schemas.Rule{}
	for _, t := range types {
		rules[t] = s.Rules[t]
	}
	s.Rules = rules
	return s
}

// durablePrefix begins the name of a setting's durable consumer.
const durablePrefix = "set-"

// durableConfig is the durable consumer of a setting: all objects, then the tail.
// It delivers headers only, because a message says which object to look at; the
// body is read when its turn comes. Deliveries are unlimited: reaching a limit
// would drop the message without a word.
func durableConfig(s broker.StoredSetting) jetstream.ConsumerConfig {
	var filters []string
	for _, t := range s.TakenTypes() {
		if visualcron.Supported(t) {
			filters = append(filters, schemas.TypeStateFilter(s.Source, t))
		}
	}
	return jetstream.ConsumerConfig{Durable: durablePrefix + string(s.ID), FilterSubjects: filters, HeadersOnly: true,
		DeliverPolicy: jetstream.DeliverAllPolicy, AckPolicy: jetstream.AckExplicitPolicy, AckWait: time.Minute,
		MaxAckPending: 1000, MaxDeliver: -1}
}

// Durables keeps the durable consumers of the sync settings, one each, in line with
// the settings. One process per installation runs it: the one that changes settings.
type Durables struct {
	b   *broker.Broker
	log *slog.Logger
}

// NewDurables returns a Durables; Run starts it. It logs to slog.Default() where log
// is nil.
func NewDurables(b *broker.Broker, log *slog.Logger) *Durables {
	if log == nil {
		log = slog.Default()
	}
	return &Durables{b, log}
}

// lookAgain is how often the durables are looked at without any cause: one that
// somebody else removed is made again.
const lookAgain = 10 * time.Second

// Run keeps the durables until ctx ends. It returns an error only where the
// settings cannot be watched any more.
func (d *Durables) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	changed := make(chan broker.Snapshot, 1)
	done := make(chan struct{})
	go func() {
		defer close(done)
		d.keep(ctx, changed)
	}()
	err := d.b.WatchConfig(ctx, func(s broker.Snapshot) {
		select {
		case <-changed: // an older one
		default:
		}
		changed <- s
	})
	cancel()
	<-done
	return err
}

func (d *Durables) keep(ctx context.Context, changed <-chan broker.Snapshot) {
	var snap broker.Snapshot
	wait, failing := time.Duration(0), false
	for {
		var timer <-chan time.Time
		if wait > 0 {
			timer = time.After(wait)
		}
		select {
		case <-ctx.Done():
			return
		case snap = <-changed:
		case <-timer:
		}
		err := syncDurables(ctx, d.b.JS(), snap)
		switch {
		case err == nil:
			if failing {
				d.log.InfoContext(ctx, "the durable consumers of the sync settings are in line again")
			}
			wait, failing = lookAgain, false
		case ctx.Err() == nil:
			if !failing {
				d.log.WarnContext(ctx, "the durable consumers of the sync settings could not be brought in line; trying again", "error", err)
			}
			if !failing {
				wait = 100 * time.Millisecond
			}
			wait, failing = min(2*wait, lookAgain), true
		}
	}
}

// forEver is when a paused consumer would go on by itself.
var forEver = time.Date(2200, 1, 1, 0, 0, 0, 0, time.UTC)

func syncDurables(ctx context.Context, js jetstream.JetStream, snap broker.Snapshot) error {
	st, err := js.Stream(ctx, broker.StreamState)
	if err != nil {
		return err
	}
	there := map[string]*jetstream.ConsumerInfo{}
	l := st.ListConsumers(ctx)
	for info := range l.Info() {
		if strings.HasPrefix(info.Name, durablePrefix) {
			there[info.Name] = info
		}
	}
	if err := l.Err(); err != nil {
		return err
	}
	for _, s := range snap.Settings {
		cfg := durableConfig(s)
		have := there[cfg.Durable]
		delete(there, cfg.Durable)
		if len(cfg.FilterSubjects) == 0 {
			if have != nil {
				if err := st.DeleteConsumer(ctx, cfg.Durable); err != nil && !errors.Is(err, jetstream.ErrConsumerNotFound) {
					return err
				}
			}
			continue
		}
		if have == nil || !slices.Equal(filtersOf(have.Config), cfg.FilterSubjects) {
			// A durable whose filter is widened never delivers what it already passed;
			// the comparison that every change of a setting starts brings that.
			c, err := st.CreateOrUpdateConsumer(ctx, cfg)
			if err != nil {
				return err
			}
			have = c.CachedInfo()
		}
		paused := have != nil && have.Paused
		if s.Active && paused {
			if _, err := st.ResumeConsumer(ctx, cfg.Durable); err != nil {
				return err
			}
		}
		if !s.Active && !paused {
			if _, err := st.PauseConsumer(ctx, cfg.Durable, forEver); err != nil {
				return err
			}
		}
	}
	for name := range there { // of settings that are gone; nothing at a target is touched
		if _, unreadable := snap.Unreadable["setting."+strings.TrimPrefix(name, durablePrefix)]; unreadable {
			continue
		}
		if err := st.DeleteConsumer(ctx, name); err != nil && !errors.Is(err, jetstream.ErrConsumerNotFound) {
			return err
		}
	}
	return nil
}

func filtersOf(c jetstream.ConsumerConfig) []string {
	if c.FilterSubject != "" {
		return []string{c.FilterSubject}
	}
	return c.FilterSubjects
}

// awaiting says that a setting waits for listings.
func awaiting(state string, source schemas.Slug, types []schemas.Type) string {
	var words []string
	for _, t := range types[:min(3, len(types))] {
		words = append(words, string(t))
	}
	if n := len(types) - len(words); n > 0 {
		words = append(words, fmt.Sprintf("%d more types", n))
	}
	text := fmt.Sprintf("waiting for a listing of %s: %s", source, strings.Join(words, ", "))
	if state != Inactive && state != "" {
		return state + "; " + text
	}
	return text
}

// Status returns what is known of every target and every sync setting, by name.
func (m *Manager) Status() ([]TargetStatus, []SettingStatus) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var targets []TargetStatus
	var settings []SettingStatus
	for _, id := range slices.Sorted(maps.Keys(m.targets)) {
		targets = append(targets, m.targets[id].t.currentStatus())
	}
	for _, id := range slices.Sorted(maps.Keys(m.settings)) {
		s := m.settings[id]
		st := SettingStatus{Setting: id, State: Inactive}
		if r := m.targets[s.Target]; r != nil && s.Active {
			st = r.t.settingStatus(id)
		}
		if types := m.awaits[id]; len(types) > 0 {
			if len(types) == len(supported(s.TakenTypes())) {
				st.State = Inactive // nothing of it is followed
			}
			st.State, st.OK = awaiting(st.State, s.Source, types), false
		}
		settings = append(settings, st)
	}
	return targets, settings
}
