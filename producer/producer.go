package producer

import (
	"context"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"go.opentelemetry.io/otel/trace"

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
	// Instance names this process in leases, for people; "vcsync" where empty.
	Instance string
	// Only are the sources that this process may capture; nil for all.
	Only []schemas.Slug
	// LeaseTTL is how long another process waits before it takes over a source; 15 s
	// where zero.
	LeaseTTL time.Duration
	// Tracer makes the spans of captures; nil where nothing is traced.
	Tracer trace.Tracer
	// Log is where the producer speaks; slog.Default() where nil.
	Log *slog.Logger
}

// Manager captures the servers that are the source of an active sync setting, or of a
// run that is not over: all of them, or its share of them where other processes run one too. Of two processes
// one captures a source, and the other stands by.
type Manager struct {
	cfg   Config
	share *broker.Share

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

// sourceMargin is the margin of a source's lease. Nothing of a capture lands late: the
// broker refuses what does not name the event that it replaces.
const sourceMargin = 100 * time.Millisecond

// New returns a Manager; Run starts it.
func New(cfg Config) *Manager {
	if cfg.Poll == 0 {
		cfg.Poll = 30 * time.Second
	}
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	if cfg.Instance == "" {
		cfg.Instance = "vcsync"
	}
	return &Manager{cfg: cfg, sources: map[schemas.Slug]*running{}}
}

// Run captures until ctx ends, following the servers and settings as they change.
// Whatever it started has ended when it returns. It returns an error only where
// the store cannot be watched any more.
func (m *Manager) Run(ctx context.Context) error {
	var only []string
	for _, id := range m.cfg.Only {
		only = append(only, string(id))
	}
	var err error
	m.share, err = m.cfg.Broker.NewShare(ctx, broker.ShareConfig{Role: "producer", Prefix: "source.", Instance: m.cfg.Instance, Only: only,
		Times: broker.LeaseTimes{TTL: m.cfg.LeaseTTL, Margin: sourceMargin}})
	if err != nil {
		return err
	}
	defer m.share.Close()
	defer func() {
		ended, end := context.WithCancel(ctx)
		end() // also where it is the watch that ended
		m.reconcile(ended, broker.Snapshot{})
	}()
	return m.cfg.Broker.WatchConfig(ctx, func(s broker.Snapshot) { m.reconcile(ctx, s) })
}

// reconcile starts and stops runners so that they are what the snapshot wants.
func (m *Manager) reconcile(ctx context.Context, snap broker.Snapshot) {
	want := map[schemas.Slug]wanted{}
	types := map[schemas.Slug]map[schemas.Type]bool{}
	asked := map[schemas.Slug]uint64{}                    // the newest run that waits for a listing, by source
	awaited := map[schemas.Slug]map[schemas.Type]uint64{} // what active settings wait for
	for id, s := range snap.Settings {
		wants := map[schemas.Type]bool{}
		if s.Active {
			for _, t := range s.TakenTypes() {
				wants[t] = true
			}
		}
		if r, ok := snap.Runs[id]; ok && !r.Phase.Over() && !r.Scope.IsReplay() { // also of a setting that is off
			for _, t := range r.Scope.TypesOf(s.Setting) {
				wants[t] = true
			}
			if r.Phase == broker.RunCapture {
				asked[s.Source] = max(asked[s.Source], r.Revision)
			}
		}
		waits := snap.Awaits(s)
		for t := range wants {
			if visualcron.Supported(t) {
				if since, ok := waits[t]; ok {
					if awaited[s.Source] == nil {
						awaited[s.Source] = map[schemas.Type]uint64{}
					}
					awaited[s.Source][t] = max(awaited[s.Source][t], since)
				}
				if types[s.Source] == nil {
					types[s.Source] = map[schemas.Type]bool{}
				}
				types[s.Source][t] = true
			}
		}
	}
	for id, ts := range types {
		if m.cfg.Only != nil && !slices.Contains(m.cfg.Only, id) {
			continue // another process has it
		}
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
		want[id] = wanted{srv.Server, srv.Revision, strings.Join(words, " "), snap.CapturesValues(id)}
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
	var names []string
	for id := range want {
		names = append(names, string(id))
	}
	m.share.Want(names)
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, id := range slices.Sorted(maps.Keys(want)) {
		if r := m.sources[id]; r != nil {
			r.src.know(snap.Revision, asked[id], awaited[id], snap.Listed[id])
			continue
		}
		w := want[id]
		var ts []schemas.Type
		for f := range strings.FieldsSeq(w.types) {
			ts = append(ts, schemas.Type(f))
		}
		run, stop := context.WithCancel(ctx)
		r := &running{src: newSource(m.cfg, m.share, w.server, ts, w.values), want: w, stop: stop, done: make(chan struct{})}
		m.sources[id] = r
		r.src.know(snap.Revision, asked[id], awaited[id], snap.Listed[id])
		go func() {
			defer close(r.done)
			defer m.listen(run, id, r.src)()
			r.src.run(run)
		}()
	}
}

// listen makes listings immediate that another process asks for, until what it
// returns is called.
func (m *Manager) listen(ctx context.Context, id schemas.Slug, s *source) func() {
	sub, err := m.cfg.Broker.JS().Conn().Subscribe(broker.PokeSubject(id), func(*nats.Msg) { s.pokeAll() })
	if err != nil {
		m.cfg.Log.WarnContext(ctx, "requests for a listing do not reach this process; it lists at intervals", "source", id, "error", err)
		return func() {}
	}
	return func() { _ = sub.Unsubscribe() } // the connection may be gone
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
