package consumer

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/vcsync/vcsync/broker"
	"github.com/vcsync/vcsync/schemas"
	"github.com/vcsync/vcsync/visualcron"
)

// ErrCrash as the cause of the end of Run's context ends the manager as a crash
// would: no lease is given back and nothing more is recorded. For simulations.
var ErrCrash = errors.New("crash")

// Config is what the consumer needs.
type Config struct {
	Broker *broker.Broker
	// Open makes the connector of a server; it contacts nobody yet.
	Open func(s schemas.Server, password string) (visualcron.Connector, error)
	// Holder names this instance in leases, for people.
	Holder string
	// Lease are the times of a target's lease.
	Lease broker.LeaseTimes
	// Lanes is how many objects of one target are written at the same time; 8 where
	// zero.
	Lanes int
	// Log is where the consumer speaks; slog.Default() where nil.
	Log *slog.Logger

	histories *histories // of New
}

// Manager applies every active sync setting to its target.
type Manager struct {
	cfg Config

	mu       sync.Mutex
	targets  map[schemas.Slug]*runningTarget
	settings map[schemas.Slug]broker.StoredSetting
	durables func() // stops the upkeep of the durable consumers
	// ending holds the writers that were stopped and may still finish a request.
	ending []chan struct{}
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
	if cfg.Holder == "" {
		cfg.Holder = "vcsync"
	}
	cfg.histories = &histories{turn: make(baton, 1)}
	return &Manager{cfg: cfg, targets: map[schemas.Slug]*runningTarget{}, settings: map[schemas.Slug]broker.StoredSetting{}}
}

// Run applies until ctx ends, following the servers and settings as they change.
// Whatever it started has ended when it returns, and its leases are given back. It
// returns an error only where the store cannot be watched any more.
func (m *Manager) Run(ctx context.Context) error {
	defer m.reconcile(ctx, broker.Snapshot{})
	return m.cfg.Broker.WatchConfig(ctx, func(s broker.Snapshot) { m.reconcile(ctx, s) })
}

// reconcile starts, stops and informs the targets' writers so that they are what
// the snapshot wants.
func (m *Manager) reconcile(ctx context.Context, snap broker.Snapshot) {
	views := map[schemas.Slug]*view{}
	sources, captured := map[schemas.Slug]bool{}, map[schemas.Slug]bool{}
	for _, s := range snap.Settings {
		if s.Active {
			sources[s.Source] = true
			captured[s.Source] = captured[s.Source] || s.VariableValues
		}
	}
	for id, s := range snap.Settings {
		if _, ok := snap.Servers[s.Target]; !ok || !s.Active {
			continue
		}
		if views[s.Target] == nil {
			views[s.Target] = &view{settings: map[schemas.Slug]broker.StoredSetting{}, isSource: sources[s.Target], captured: captured[s.Target]}
		}
		views[s.Target].settings[id] = s
	}
	m.mu.Lock()
	m.settings = snap.Settings
	// Who goes on is told first: waiting for another's stop would keep a setting that
	// was switched off in force (G13).
	for id, r := range m.targets {
		if views[id] != nil && r.rev == snap.Servers[id].Revision {
			r.t.update(views[id])
		}
	}
	after := map[schemas.Slug]chan struct{}{}
	m.ending = slices.DeleteFunc(m.ending, func(done chan struct{}) bool {
		select {
		case <-done:
			return true
		default:
			return false
		}
	})
	for id, r := range m.targets {
		if views[id] == nil || r.rev != snap.Servers[id].Revision {
			r.stop()
			after[id] = r.done
			m.ending = append(m.ending, r.done)
			delete(m.targets, id)
		}
	}
	ending := slices.Clone(m.ending)
	if m.durables != nil {
		m.durables()
		m.durables = nil
	}
	m.mu.Unlock()
	if ctx.Err() != nil {
		for _, done := range ending {
			<-done
		}
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.durables = m.keepDurables(ctx, snap)
	for _, id := range slices.Sorted(maps.Keys(views)) {
		if m.targets[id] != nil {
			continue
		}
		run, stop := context.WithCancel(ctx)
		r := &runningTarget{t: newTarget(m.cfg, snap.Servers[id].Server, views[id]), rev: snap.Servers[id].Revision, stop: stop, done: make(chan struct{})}
		m.targets[id] = r
		go func() {
			defer close(r.done)
			if before := after[id]; before != nil {
				<-before // it gives its lease back when nothing of its can land any more
			}
			r.t.run(run)
		}()
	}
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

// keepDurables brings the durable consumers in line with the settings, trying
// until it has, and returns what stops that.
func (m *Manager) keepDurables(ctx context.Context, snap broker.Snapshot) func() {
	run, stop := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for wait := 200 * time.Millisecond; ; wait = min(2*wait, 30*time.Second) {
			err := m.syncDurables(run, snap)
			if err == nil || run.Err() != nil {
				return
			}
			m.cfg.Log.WarnContext(run, "the durable consumers of the sync settings could not be brought in line; trying again", "error", err)
			select {
			case <-run.Done():
				return
			case <-time.After(wait):
			}
		}
	}()
	return func() { stop(); <-done }
}

// forEver is when a paused consumer would go on by itself.
var forEver = time.Date(2200, 1, 1, 0, 0, 0, 0, time.UTC)

func (m *Manager) syncDurables(ctx context.Context, snap broker.Snapshot) error {
	js := m.cfg.Broker.JS()
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
		settings = append(settings, st)
	}
	return targets, settings
}
