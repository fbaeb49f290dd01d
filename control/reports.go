package control

import (
	"cmp"
	"context"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/go-json-experiment/json"

	"github.com/vcsync/vcsync/broker"
	"github.com/vcsync/vcsync/consumer"
	"github.com/vcsync/vcsync/producer"
	"github.com/vcsync/vcsync/schemas"
)

// silentFor is how long a process may say nothing, by this machine's own clock,
// until its words are no longer believed. It speaks every 10 seconds.
const silentFor = 30 * time.Second

// Process is a process of the installation, as control knows it.
type Process struct {
	Role, Instance string
	Host           string
	PID            int
	Version        string
	Started        time.Time
	Memory         uint64
	Goroutines     int
	// Gone tells that it has been silent for 30 seconds: it has died, hangs, or cannot
	// reach the broker. What it says of sources and targets is not believed then.
	Gone bool
	// Silent is how long it has said nothing.
	Silent time.Duration
	// Twice tells that two running processes have this role and name: each overwrites
	// what the other says. One of them needs another VCSYNC_INSTANCE.
	Twice bool
	// Cut tells that it had more to say than a report takes.
	Cut bool
	// Sources and Targets are those that it works on, not those it stands by for.
	Sources, Targets []schemas.Slug
}

// Reports tells of the processes that run producers and consumers, by what each
// says of itself in the store. It stands in for the roles where they run apart; its
// methods are safe for concurrent use.
type Reports struct {
	broker *broker.Broker
	log    *slog.Logger

	mu sync.Mutex
	by map[string]*heard
}

// heard is what a process said last.
type heard struct {
	status broker.ProcessStatus
	// moved is when it last said something, or when this watch first saw it.
	moved time.Time
	// boots are the runs that spoke last under this name, the newest last.
	boots []string
	twice time.Time // when two of them were last seen to take turns

	sources  []producer.Status
	targets  []consumer.TargetStatus
	settings []consumer.SettingStatus
}

// NewReports returns Reports; Run keeps them. A nil log means slog.Default().
func NewReports(b *broker.Broker, log *slog.Logger) *Reports {
	if log == nil {
		log = slog.Default()
	}
	return &Reports{broker: b, log: log, by: map[string]*heard{}}
}

// Run follows what the processes say until ctx ends. It returns nil: a store that
// cannot be read makes everybody silent, and the status says so.
func (r *Reports) Run(ctx context.Context) error {
	failing := false
	for ctx.Err() == nil {
		err := r.broker.WatchStatus(ctx, func(s broker.ProcessStatus, gone bool) {
			if failing {
				failing = false
				r.log.InfoContext(ctx, "what other processes say can be read again")
			}
			r.hear(s, gone)
		})
		if err != nil && ctx.Err() == nil && !failing {
			failing = true
			r.log.WarnContext(ctx, "what other processes say cannot be read; the status shows them as gone until it can", "error", err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(time.Second):
		}
		r.hearAgain()
	}
	return nil
}

// hearAgain gives everybody time to speak after this process itself heard nothing.
func (r *Reports) hearAgain() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, h := range r.by {
		h.moved = time.Now()
	}
}

// hear takes in what a process said.
func (r *Reports) hear(s broker.ProcessStatus, gone bool) {
	key := s.Role + "." + s.Instance
	r.mu.Lock()
	defer r.mu.Unlock()
	if gone {
		delete(r.by, key)
		return
	}
	h := r.by[key]
	if h == nil {
		h = &heard{}
		r.by[key] = h
	}
	if h.status.Revision >= s.Revision {
		return // a watch that was begun anew tells everything once more
	}
	h.status, h.moved = s, time.Now()
	if i := slices.Index(h.boots, s.Boot); i >= 0 && i < len(h.boots)-1 {
		if h.twice.IsZero() {
			r.log.Warn("two processes have one name; what the status says of them is wrong until one gets another VCSYNC_INSTANCE", "role", s.Role, "instance", s.Instance, "host", s.Host)
		}
		h.twice = time.Now()
	}
	h.boots = append(slices.DeleteFunc(h.boots, func(b string) bool { return b == s.Boot }), s.Boot)
	h.boots = h.boots[max(0, len(h.boots)-4):]
	h.sources, h.targets, h.settings = nil, nil, nil
	if len(s.Words) == 0 {
		return
	}
	var err error
	switch s.Role {
	case broker.RoleNameProducer:
		var w producer.Report
		err = json.Unmarshal(s.Words, &w)
		h.sources = w.Sources
	case broker.RoleNameConsumer:
		var w consumer.Report
		err = json.Unmarshal(s.Words, &w)
		h.targets, h.settings = w.Targets, w.Settings
	}
	if err != nil {
		r.log.Warn("what a process says of its role is not understood; it may be of another version", "role", s.Role, "instance", s.Instance, "version", s.Version, "error", err)
	}
}

// alive returns who spoke within the last 30 seconds, who spoke last first.
func (r *Reports) alive() []*heard {
	var out []*heard
	for _, h := range r.by {
		if time.Since(h.moved) < silentFor {
			out = append(out, h)
		}
	}
	slices.SortFunc(out, func(a, b *heard) int {
		return cmp.Or(b.moved.Compare(a.moved), cmp.Compare(a.status.Instance, b.status.Instance))
	})
	return out
}

// Processes returns every process that said something within the last hour, and has
// not ended in order since.
func (r *Reports) Processes() []Process {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []Process
	for _, key := range slices.Sorted(maps.Keys(r.by)) {
		h := r.by[key]
		s := h.status
		silent := time.Since(h.moved)
		p := Process{Role: s.Role, Instance: s.Instance, Host: s.Host, PID: s.PID, Version: s.Version, Started: s.Started, Memory: s.Memory,
			Goroutines: s.Goroutines, Gone: silent >= silentFor, Silent: silent, Cut: s.Cut,
			Twice: !h.twice.IsZero() && time.Since(h.twice) < time.Minute}
		if silent > time.Hour { // the store has forgotten it too
			delete(r.by, key)
			continue
		}
		if !p.Gone {
			for _, v := range h.sources {
				if sourceRank(v) > 0 {
					p.Sources = append(p.Sources, v.Server)
				}
			}
			for _, v := range h.targets {
				if targetRank(v) > 0 {
					p.Targets = append(p.Targets, v.Target)
				}
			}
		}
		out = append(out, p)
	}
	return out
}

// The ranks order what several processes say of one thing: who works on it knows
// more than who stands by.
func sourceRank(s producer.Status) int {
	switch s.State {
	case producer.Capturing, producer.Degraded:
		return 2
	case producer.Starting:
		return 1
	}
	return 0
}

func targetRank(s consumer.TargetStatus) int {
	if s.State == consumer.Working || s.State == consumer.Down {
		return 1
	}
	return 0
}

func settingRank(s consumer.SettingStatus) int {
	state, _, _ := strings.Cut(s.State, "; ") // it may wait for a listing too
	switch {
	case state == consumer.Inactive:
		return 0
	case strings.HasSuffix(state, string(consumer.Waiting)):
		return 1
	}
	return 2
}

// best returns for each name the words of the highest rank; among equals, of who
// spoke last.
func best[T any](by []*heard, words func(*heard) []T, name func(T) schemas.Slug, rank func(T) int) []T {
	out := map[schemas.Slug]T{}
	for _, h := range by {
		for _, w := range words(h) {
			if have, ok := out[name(w)]; !ok || rank(w) > rank(have) {
				out[name(w)] = w
			}
		}
	}
	var all []T
	for _, k := range slices.Sorted(maps.Keys(out)) {
		all = append(all, out[k])
	}
	return all
}

// Producers returns the producers of all processes as one.
func (r *Reports) Producers() Producers { return reportedProducers{r} }

// Consumers returns the consumers of all processes as one.
func (r *Reports) Consumers() Consumers { return reportedConsumers{r} }

type reportedProducers struct{ *Reports }

func (r reportedProducers) Status() []producer.Status {
	r.mu.Lock()
	defer r.mu.Unlock()
	return best(r.alive(), func(h *heard) []producer.Status { return h.sources }, func(s producer.Status) schemas.Slug { return s.Server }, sourceRank)
}

func (r reportedProducers) Poke(source schemas.Slug) {
	if err := r.broker.Poke(source); err != nil {
		r.log.Warn("nobody could be asked for a listing; it comes with the next poll", "source", source, "error", err)
	}
}

type reportedConsumers struct{ *Reports }

func (r reportedConsumers) Status() ([]consumer.TargetStatus, []consumer.SettingStatus) {
	r.mu.Lock()
	defer r.mu.Unlock()
	by := r.alive()
	return best(by, func(h *heard) []consumer.TargetStatus { return h.targets }, func(s consumer.TargetStatus) schemas.Slug { return s.Target }, targetRank),
		best(by, func(h *heard) []consumer.SettingStatus { return h.settings }, func(s consumer.SettingStatus) schemas.Slug { return s.Setting }, settingRank)
}
