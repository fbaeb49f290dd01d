// Package e2e proves the whole of vcsync: producer, consumer, broker and stand-in
// servers together, in virtual time, with faults, and as killed processes.
//
// It promises that what it calls proven ran with the real broker, the real
// connector and HTTP, and that a failing run prints the seed that fails again.
package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"sync"
	"testing"
	"time"

	"go.opentelemetry.io/otel/trace"

	"github.com/vcsync/vcsync/broker"
	"github.com/vcsync/vcsync/consumer"
	"github.com/vcsync/vcsync/producer"
	"github.com/vcsync/vcsync/schemas"
	"github.com/vcsync/vcsync/visualcron"
	"github.com/vcsync/vcsync/visualcron/bridge"
	"github.com/vcsync/vcsync/visualcron/standin"
)

// Password is every stand-in's account password; tests search for it.
const Password = "c4nary-Passw0rd"

// Host is one stand-in server of a World and what was seen of it.
type Host struct {
	Name    schemas.Slug
	Server  *standin.Server
	Faults  func(http.Handler) http.Handler // nil for none; read at every request
	pipe    *standin.Pipe
	user    string
	mu      sync.Mutex
	current map[string]bool
	Writes  []Write
	// Broken lists violations of the invariant: overlapping writes of one object.
	Broken   []string
	requests int
	deletes  int
	seen     seen
}

// Write is one write that a stand-in answered.
type Write struct {
	At     time.Time
	Op     string
	Type   schemas.Type
	ID     schemas.ID
	Status int
	Body   []byte
}

// SetFaults puts a fault handler in, or takes it out with nil.
func (h *Host) SetFaults(f func(http.Handler) http.Handler) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.Faults = f
}

// Count returns how many writes succeeded since the last reset.
func (h *Host) Count() (puts, deletes int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, w := range h.Writes {
		if w.Status < 300 && w.Op == "put" {
			puts++
		}
		if w.Status < 300 && w.Op == "delete" {
			deletes++
		}
	}
	return
}

// Seen returns the writes since the last reset.
func (h *Host) Seen() []Write {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.Writes)
}

// Requests returns how many requests there were since the last reset.
func (h *Host) Requests() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.requests
}

// DeleteRequests returns how many requests to delete an object reached the server since
// the last reset, whatever came of them.
func (h *Host) DeleteRequests() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.deletes
}

// Reset forgets the writes and requests seen so far.
func (h *Host) Reset() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.Writes, h.requests, h.deletes = nil, 0, 0
}

// World is a fleet of stand-ins, a broker and the two roles.
type World struct {
	T      testing.TB
	Dir    string
	Broker *broker.Broker
	Hosts  map[schemas.Slug]*Host
	Poll   time.Duration
	Lease  broker.LeaseTimes
	// ListTimeout bounds a listing; as long as the connector itself bounds it where zero.
	ListTimeout time.Duration
	// AcceptLoss opens the broker with --accept-loss.
	AcceptLoss bool
	Log        *slog.Logger
	// Tracer is that of both roles; nil where nothing is traced.
	Tracer trace.Tracer

	producer, consumer, durables *role
	// Prod and Cons are the running managers, nil when stopped.
	Prod *producer.Manager
	Cons *consumer.Manager
}

type role struct {
	stop context.CancelCauseFunc
	done chan struct{}
}

// NewWorld returns a world with a broker that is open; the caller adds hosts and
// starts the roles, and calls Close at the end of the bubble.
func NewWorld(t testing.TB) *World {
	w := &World{T: t, Dir: t.TempDir(), Hosts: map[schemas.Slug]*Host{}, Log: slog.New(slog.DiscardHandler), Poll: 30 * time.Second}
	w.OpenBroker()
	return w
}

// OpenBroker opens the broker on the world's folder.
func (w *World) OpenBroker() {
	w.T.Helper()
	if err := w.TryBroker(); err != nil {
		w.T.Fatalf("open broker: %v", err)
	}
}

// TryBroker is OpenBroker where that may fail.
func (w *World) TryBroker() error {
	b, err := broker.Open(context.Background(), broker.Config{Dir: w.Dir + "/data", LazySync: true, Settle: 5 * time.Second, EventsMaxBytes: 1 << 30, AcceptLoss: w.AcceptLoss, Log: w.Log})
	if err == nil {
		w.Broker = b
	}
	return err
}

// NewHost opens a stand-in in memory, watched, as with changes its configuration.
func NewHost(name schemas.Slug, with ...func(*standin.Config)) (*Host, error) {
	h := &Host{Name: name, pipe: standin.NewPipe(), current: map[string]bool{}}
	cfg := standin.Config{Name: string(name), User: standin.DefaultUser, Password: Password, NoSync: true, StatisticsEvery: time.Minute,
		Intercept: func(next http.Handler) http.Handler {
			return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
				h.mu.Lock()
				h.requests++
				if r.Method == http.MethodDelete {
					h.deletes++
				}
				f := h.Faults
				h.mu.Unlock()
				if f != nil {
					f(next).ServeHTTP(rw, r)
					return
				}
				next.ServeHTTP(rw, r)
			})
		},
		Observe: h.observe}
	for _, f := range with {
		f(&cfg)
	}
	h.user = cfg.User
	var err error
	h.Server, err = standin.Open(cfg)
	return h, err
}

// AddHost adds a stand-in with its built-ins, and its server record. With changes
// its configuration.
func (w *World) AddHost(name schemas.Slug, with ...func(*standin.Config)) *Host {
	w.T.Helper()
	h, err := NewHost(name, with...)
	if err != nil {
		w.T.Fatal(err)
	}
	srv := &http.Server{Handler: h.Server.Handler()}
	done := make(chan struct{})
	go func() { defer close(done); _ = srv.Serve(h.pipe) }()
	run, stop := context.WithCancel(context.Background())
	ran := make(chan struct{})
	go func() { defer close(ran); h.Server.Run(run) }()
	w.T.Cleanup(func() {
		stop()
		<-ran
		h.pipe.Close()
		srv.Close()
		<-done
		h.Server.Close()
	})
	w.Hosts[name] = h
	w.Register(h)
	return h
}

// Register stores a host's server record and password, in a store that has none.
func (w *World) Register(h *Host) {
	w.T.Helper()
	w.Do(func(ctx context.Context) error {
		if _, err := w.Broker.PutServer(ctx, schemas.Server{ID: h.Name, Connector: "bridge", Address: "http://" + string(h.Name) + ".invalid", User: h.user}, 0); err != nil {
			return err
		}
		return w.Broker.SetPassword(ctx, h.Name, Password)
	})
}

func (h *Host) observe(x standin.Write) func(standin.Result) {
	h.mu.Lock()
	defer h.mu.Unlock()
	key := string(x.Type) + "/" + string(x.ID)
	if h.current[key] {
		h.Broken = append(h.Broken, fmt.Sprintf("G3: two writes of %s %s at %s at the same time", x.Type, x.ID, h.Name))
	}
	h.current[key] = true
	return func(r standin.Result) {
		h.mu.Lock()
		defer h.mu.Unlock()
		delete(h.current, key)
		h.Writes = append(h.Writes, Write{time.Now(), x.Op, x.Type, x.ID, r.Status, bytes.Clone(x.Body)})
	}
}

// Do runs f and fails the test where it fails.
func (w *World) Do(f func(context.Context) error) {
	w.T.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := f(ctx); err != nil {
		w.T.Fatal(err)
	}
}

// Open makes connectors over the hosts' pipes.
func (w *World) Open(s schemas.Server, pw string) (visualcron.Connector, error) {
	opts := []bridge.Option{bridge.WithTransport(w.Hosts[s.ID].pipe.Transport())}
	if s.Identity != "" {
		opts = append(opts, bridge.WithIdentity(s.Identity))
	}
	return bridge.New(visualcron.Config{Server: s.ID, Reach: visualcron.Anywhere(), Pins: s.Pins, Address: s.Address, User: s.User, Password: pw, ListTimeout: w.ListTimeout}, opts...)
}

// Setting stores a sync setting, new or changed.
func (w *World) Setting(s schemas.Setting) {
	w.T.Helper()
	s.Normalize()
	w.Do(func(ctx context.Context) error {
		snap, err := w.Broker.Snapshot(ctx)
		if err != nil {
			return err
		}
		_, err = w.Broker.PutSetting(ctx, s, snap.Settings[s.ID].Revision)
		return err
	})
}

// AllJobs is a setting that takes every change of every job.
func AllJobs(id, source, target schemas.Slug, policy schemas.ActivePolicy) schemas.Setting {
	return schemas.Setting{ID: id, Source: source, Target: target, Active: true, Policy: policy,
		Rules: map[schemas.Type]schemas.Rule{schemas.Job: {Sync: schemas.SyncAll, Rights: schemas.Rights{New: true, Updated: true, Deleted: true}}}}
}

// StartProducer starts the producer role.
func (w *World) StartProducer() {
	w.Prod = producer.New(producer.Config{Broker: w.Broker, Open: w.Open, Poll: w.Poll, Tracer: w.Tracer, Log: w.Log})
	w.producer = start(w.Prod.Run)
}

// StartConsumer starts the consumer role.
func (w *World) StartConsumer() {
	w.Cons = consumer.New(consumer.Config{Broker: w.Broker, Open: w.Open, Lease: w.Lease, Tracer: w.Tracer, Log: w.Log})
	w.durables = start(consumer.NewDurables(w.Broker, w.Log).Run)
	w.consumer = start(w.Cons.Run)
}

func start(run func(context.Context) error) *role {
	ctx, stop := context.WithCancelCause(context.Background())
	r := &role{stop, make(chan struct{})}
	go func() { defer close(r.done); _ = run(ctx) }()
	return r
}

// StopProducer and StopConsumer end the roles, with consumer.ErrCrash as a crash
// would.
func (w *World) StopProducer(cause error) { w.producer = stop(w.producer, cause); w.Prod = nil }

// StopConsumer ends the consumer role, see StopProducer.
func (w *World) StopConsumer(cause error) {
	w.consumer = stop(w.consumer, cause)
	w.durables = stop(w.durables, cause)
	w.Cons = nil
}

func stop(r *role, cause error) *role {
	if r != nil {
		r.stop(cause)
		<-r.done
	}
	return nil
}

// StopDurables ends the upkeep of the durable consumers, which StartConsumer starts.
func (w *World) StopDurables() { w.durables = stop(w.durables, nil) }

// Close ends the roles and the broker.
func (w *World) Close() {
	w.StopProducer(nil)
	w.StopConsumer(nil)
	if err := w.Broker.Close(); err != nil {
		w.T.Errorf("close broker: %v", err)
	}
}

// Diverged returns in what the target's objects differ from those of the source,
// composed under the policy; nil where they are equal. Without types it looks at
// jobs. Built-in objects are left out.
func Diverged(source, target *Host, policy schemas.ActivePolicy, types ...schemas.Type) []string {
	return DivergedPinned(source, target, policy, nil, types...)
}

// DivergedPinned is Diverged where some of the source's objects have another id at the
// target, by their ids at the source.
func DivergedPinned(source, target *Host, policy schemas.ActivePolicy, pins map[schemas.ID]schemas.ID, types ...schemas.Type) []string {
	if types == nil {
		types = []schemas.Type{schemas.Job}
	}
	var out []string
	for _, t := range types {
		want, err := source.objects(t)
		have, err2 := target.objects(t)
		if err = errors.Join(err, err2); err != nil {
			return []string{err.Error()}
		}
		for from, to := range pins {
			if body := want[from]; body != nil {
				delete(want, from)
				want[to] = bytes.ReplaceAll(body, []byte(from), []byte(to))
			}
		}
		for id, body := range want {
			switch equal, err := target.holds(t, body, have[id], policy); {
			case err != nil:
				return []string{err.Error()}
			case have[id] == nil:
				out = append(out, fmt.Sprintf("%s lacks %s %s", target.Name, t, id))
			case !equal:
				out = append(out, fmt.Sprintf("%s %s differs at %s", t, id, target.Name))
			}
		}
		for id := range have {
			if want[id] == nil {
				out = append(out, fmt.Sprintf("%s has %s %s, which is gone", target.Name, t, id))
			}
		}
	}
	return out
}

// AllTypes returns every type that a setting takes without naming it: all but
// ServerSettings, in the order of applying.
func AllTypes() []schemas.Type {
	return slices.DeleteFunc(schemas.ApplyOrder(), func(t schemas.Type) bool { return t == schemas.ServerSettings })
}

// AllObjects is a setting that takes every change of every object of AllTypes.
func AllObjects(id, source, target schemas.Slug, policy schemas.ActivePolicy) schemas.Setting {
	s := AllJobs(id, source, target, policy)
	for _, t := range AllTypes() {
		s.Rules[t] = s.Rules[schemas.Job]
	}
	return s
}

// seen is what was found out about bodies before; a stored body never changes, a
// changed object has a new one.
type seen struct {
	mu      sync.Mutex
	builtIn map[*byte]bool
	equal   map[pair]bool
}

type pair struct {
	source, target *byte
	policy         schemas.ActivePolicy
}

func inClear(s string) string { return s } // digests of secrets are of no interest here

// objects returns the bodies of the objects of a type that are not built in.
func (h *Host) objects(t schemas.Type) (map[schemas.ID][]byte, error) {
	h.seen.mu.Lock()
	defer h.seen.mu.Unlock()
	if h.seen.builtIn == nil || len(h.seen.builtIn)+len(h.seen.equal) > 100000 {
		h.seen.builtIn, h.seen.equal = map[*byte]bool{}, map[pair]bool{}
	}
	out := map[schemas.ID][]byte{}
	for _, o := range h.Server.Objects(t) {
		builtIn, ok := h.seen.builtIn[&o.Body[0]]
		if !ok {
			n, err := visualcron.Normalize(t, o.Body, inClear)
			if err != nil {
				return nil, err
			}
			builtIn = n.BuiltIn
			h.seen.builtIn[&o.Body[0]] = builtIn
		}
		if !builtIn {
			out[o.ID] = o.Body
		}
	}
	return out, nil
}

// holds tells whether a target's own body is what the source's makes of it.
func (h *Host) holds(t schemas.Type, source, own []byte, policy schemas.ActivePolicy) (bool, error) {
	if own == nil {
		return false, nil
	}
	h.seen.mu.Lock()
	defer h.seen.mu.Unlock()
	key := pair{&source[0], &own[0], policy}
	if equal, ok := h.seen.equal[key]; ok {
		return equal, nil
	}
	composed, err := visualcron.Compose(t, source, own, visualcron.Composition{Policy: policy, Secrets: visualcron.SecretsEqual})
	if err != nil {
		return false, err
	}
	want, err := visualcron.Normalize(t, composed.Body, inClear)
	if err != nil {
		return false, err
	}
	have, err := visualcron.Normalize(t, own, inClear)
	if err != nil {
		return false, err
	}
	h.seen.equal[key] = want.Digest == have.Digest
	return want.Digest == have.Digest, nil
}

// Crash ends everything as the death of the process would, and opens the broker
// again: it is this process's own, so its leases are a dead one's.
func (w *World) Crash() {
	w.T.Helper()
	w.Die()
	w.OpenBroker()
}

// Die ends everything as the death of the process would.
func (w *World) Die() {
	w.T.Helper()
	w.StopProducer(consumer.ErrCrash)
	w.StopConsumer(consumer.ErrCrash)
	if err := w.Broker.Close(); err != nil {
		w.T.Fatal(err)
	}
}
