package producer

import (
	"context"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/vcsync/vcsync/broker"
	"github.com/vcsync/vcsync/schemas"
	"github.com/vcsync/vcsync/visualcron"
)

// Config is what the producer needs.
type Config struct {
	Broker *broker.Broker
	// Open makes the connector of a server; it contacts nobody yet.
	Open func(s schemas.Server, password string) (visualcron.Connector, error)
	// Poll is the time between two listings of a source; 30 s where zero.
	Poll time.Duration
	// Log is where the producer speaks; slog.Default() where nil.
	Log *slog.Logger
}

// Manager captures every server that is the source of an active sync setting.
type Manager struct {
	cfg Config

	mu      sync.Mutex
	sources map[schemas.Slug]*running
}

type running struct {
	src  *source
	want wanted
	stop context.CancelFunc
	done chan struct{}
}

// wanted is what a source's runner depends on; another one means a new runner.
type wanted struct {
	server schemas.Server
	rev    uint64
	types  string
	values bool // of user variables
}

// New returns a Manager; Run starts it.
func New(cfg Config) *Manager {
	if cfg.Poll == 0 {
		cfg.Poll = 30 * time.Second
	}
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	return &Manager{cfg: cfg, sources: map[schemas.Slug]*running{}}
}

// Run captures until ctx ends, following the servers and settings as they change.
// Whatever it started has ended when it returns. It returns an error only where
// the store cannot be watched any more.
func (m *Manager) Run(ctx context.Context) error {
	defer m.reconcile(ctx, broker.Snapshot{})
	return m.cfg.Broker.WatchConfig(ctx, func(s broker.Snapshot) { m.reconcile(ctx, s) })
}

// reconcile starts and stops runners so that they are what the snapshot wants.
func (m *Manager) reconcile(ctx context.Context, snap broker.Snapshot) {
	want := map[schemas.Slug]wanted{}
	types := map[schemas.Slug]map[schemas.Type]bool{}
	values := map[schemas.Slug]bool{}
	for _, s := range snap.Settings {
		if !s.Active {
			continue
		}
		for _, t := range s.TakenTypes() {
			if visualcron.Supported(t) {
				if types[s.Source] == nil {
					types[s.Source] = map[schemas.Type]bool{}
				}
				types[s.Source][t] = true
			}
		}
		values[s.Source] = values[s.Source] || s.VariableValues
	}
	for id, ts := range types {
		srv, ok := snap.Servers[id]
		if !ok {
			m.cfg.Log.WarnContext(ctx, "a sync setting names a source that is not there; add the server or remove the setting", "server", id)
			continue
		}
		var words []string
		for _, t := range schemas.ApplyOrder() {
			if ts[t] {
				words = append(words, string(t))
			}
		}
		want[id] = wanted{srv.Server, srv.Revision, strings.Join(words, " "), values[id]}
	}
	m.mu.Lock()
	var ending []*running
	for id, r := range m.sources {
		if w, ok := want[id]; !ok || w.rev != r.want.rev || w.types != r.want.types || w.values != r.want.values {
			r.stop()
			ending = append(ending, r)
			delete(m.sources, id)
		}
	}
	m.mu.Unlock()
	for _, r := range ending {
		<-r.done // two runners of one source would refuse each other's events
	}
	if ctx.Err() != nil {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, id := range slices.Sorted(maps.Keys(want)) {
		if m.sources[id] != nil {
			continue
		}
		w := want[id]
		var ts []schemas.Type
		for f := range strings.FieldsSeq(w.types) {
			ts = append(ts, schemas.Type(f))
		}
		run, stop := context.WithCancel(ctx)
		r := &running{src: newSource(m.cfg, w.server, ts, w.values), want: w, stop: stop, done: make(chan struct{})}
		m.sources[id] = r
		go func() {
			defer close(r.done)
			r.src.run(run)
		}()
	}
}

// Status returns what is known of every captured source, by name.
func (m *Manager) Status() []Status {
	m.mu.Lock()
	defer m.mu.Unlock()
	var out []Status
	for _, id := range slices.Sorted(maps.Keys(m.sources)) {
		out = append(out, m.sources[id].src.currentStatus())
	}
	return out
}

// Poke makes the next listing of a source immediate. It does nothing for a server
// that is no source.
func (m *Manager) Poke(source schemas.Slug) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if r := m.sources[source]; r != nil {
		r.src.pokeAll()
	}
}
