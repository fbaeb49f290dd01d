package control

import (
	"cmp"
	"context"
	"slices"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/vcsync/vcsync/broker"
	"github.com/vcsync/vcsync/consumer"
	"github.com/vcsync/vcsync/producer"
	"github.com/vcsync/vcsync/schemas"
)

// StatusReport is how everything does.
type StatusReport struct {
	Version  string             `json:"version"`
	Time     time.Time          `json:"time"`
	Store    StoreReport        `json:"store"`
	Roles    RolesReport        `json:"roles" doc:"What runs in this process; of what does not, nothing is known here."`
	Sources  []SourceReport     `json:"sources" nullable:"false"`
	Targets  []TargetReport     `json:"targets" nullable:"false"`
	Settings []SettingReport    `json:"settings" nullable:"false"`
	Parked   int                `json:"parked" doc:"Without those that were discarded."`
	ParkedBy []ParkedCount      `json:"parkedBy" nullable:"false" doc:"The same by target and class, the most first."`
	Faulty   []UnreadableReport `json:"faulty,omitzero" doc:"Stored records that this version does not understand."`
}

// RolesReport says which roles run in this process.
type RolesReport struct {
	Producer bool `json:"producer"`
	Consumer bool `json:"consumer"`
}

// StoreReport is how the store does.
type StoreReport struct {
	Ready    bool   `json:"ready"`
	Reason   string `json:"reason,omitzero" doc:"Why it is not ready."`
	Embedded bool   `json:"embedded" doc:"Nobody but this process can reach it."`
	LastSeq  uint64 `json:"lastSeq" doc:"The sequence of the newest event."`
	Events   uint64 `json:"events"`
	Bytes    uint64 `json:"bytes"`
	MaxBytes int64  `json:"maxBytes" doc:"Where it refuses new events."`
}

// SourceReport is how a source does.
type SourceReport struct {
	Server string    `json:"server"`
	State  string    `json:"state"`
	Class  string    `json:"class,omitzero"`
	Reason string    `json:"reason,omitzero"`
	Since  time.Time `json:"since,omitzero"`
	Feed   bool      `json:"feed" doc:"The server's own hints of changes arrive."`
	Epoch  uint64    `json:"epoch"`
	// The sums over the types.
	Objects   int                `json:"objects"`
	BuiltIn   int                `json:"builtIn,omitzero" doc:"Objects that came with the server's installation and are never synced."`
	Published uint64             `json:"published" doc:"Events stored since the start."`
	Complete  time.Time          `json:"complete,omitzero" doc:"The end of the oldest of the types' last complete listings; absent while one has none."`
	Types     []SourceTypeReport `json:"types" nullable:"false"`
}

// ParkedCount is how much is parked at a target for one kind of reason.
type ParkedCount struct {
	Target string   `json:"target"`
	Class  string   `json:"class" doc:"A short word for the kind of reason."`
	Count  int      `json:"count"`
	Types  []string `json:"types" nullable:"false" doc:"The types of these objects."`
}

// SourceTypeReport is how one type of a source does.
type SourceTypeReport struct {
	Type       string    `json:"type"`
	Complete   time.Time `json:"complete,omitzero" doc:"The end of the last complete listing."`
	Objects    int       `json:"objects"`
	BuiltIn    int       `json:"builtIn,omitzero" doc:"Objects that came with the server's installation and are never synced."`
	Published  uint64    `json:"published" doc:"Events stored since the start."`
	Held       int       `json:"held,omitzero" doc:"Deletions that wait because a pass had too many."`
	Refused    int       `json:"refused,omitzero" doc:"Objects that could not be captured."`
	RefusedWhy string    `json:"refusedWhy,omitzero"`
}

// TargetReport is how a target does.
type TargetReport struct {
	Server  string    `json:"server"`
	State   string    `json:"state"`
	Reason  string    `json:"reason,omitzero"`
	Since   time.Time `json:"since,omitzero"`
	Lanes   int       `json:"lanes" doc:"Objects that are being worked on or wait for it."`
	Applied uint64    `json:"applied" doc:"Writes that were confirmed since the start."`
	Equal   uint64    `json:"equal" doc:"Looks that found nothing to do."`
	Parked  int       `json:"parked"`
}

// SettingReport is how a sync setting does.
type SettingReport struct {
	Setting   string    `json:"setting"`
	Source    string    `json:"source"`
	Target    string    `json:"target"`
	Active    bool      `json:"active"`
	Takes     []string  `json:"takes" nullable:"false"`
	Known     bool      `json:"known" doc:"A consumer of this process follows it; else the numbers say nothing."`
	State     string    `json:"state,omitzero"`
	Pending   uint64    `json:"pending" doc:"Objects whose newest state has not been dealt with."`
	Parked    int       `json:"parked"`
	LastRun   time.Time `json:"lastRun,omitzero" doc:"The end of the last pass over all objects."`
	OK        bool      `json:"ok" doc:"The last pass parked nothing."`
	LastError string    `json:"lastError,omitzero"`
}

// UnreadableReport is a record that is left as it is.
type UnreadableReport struct {
	Record string `json:"record"`
	Reason string `json:"reason"`
}

func (s *Server) getStatus(ctx context.Context, _ *noInput) (*output[StatusReport], error) {
	r, err := s.status(ctx)
	return &output[StatusReport]{r}, err
}

func (s *Server) status(ctx context.Context) (StatusReport, error) {
	snap, err := s.broker.Snapshot(ctx)
	if err != nil {
		return StatusReport{}, err
	}
	parked, err := s.broker.ListParked(ctx, "")
	if err != nil {
		return StatusReport{}, err
	}
	ev, err := s.broker.EventsState(ctx)
	if err != nil {
		return StatusReport{}, err
	}
	ready := s.checkReady(ctx)
	r := StatusReport{Version: s.cfg.Version, Time: time.Now().UTC(), Roles: RolesReport{s.cfg.Sources != nil, s.cfg.Targets != nil},
		Store: StoreReport{Ready: ready.Ready, Reason: ready.Reason, Embedded: s.broker.Exclusive(), LastSeq: ev.LastSeq, Events: ev.Messages,
			Bytes: ev.Bytes, MaxBytes: ev.MaxBytes},
		Sources: []SourceReport{}, Targets: []TargetReport{}, Settings: []SettingReport{}}
	if s.cfg.Sources != nil {
		for _, p := range s.cfg.Sources.Status() {
			r.Sources = append(r.Sources, sourceReport(p))
		}
		slices.SortFunc(r.Sources, func(a, b SourceReport) int { return cmp.Compare(a.Server, b.Server) })
	}
	known := map[schemas.Slug]consumer.SettingStatus{}
	if s.cfg.Targets != nil {
		targets, settings := s.cfg.Targets.Status()
		for _, t := range targets {
			r.Targets = append(r.Targets, TargetReport{string(t.Target), string(t.State), t.Reason, t.Since, t.Lanes, t.Applied, t.Equal, t.Parked})
		}
		slices.SortFunc(r.Targets, func(a, b TargetReport) int { return cmp.Compare(a.Server, b.Server) })
		for _, v := range settings {
			known[v.Setting] = v
		}
	}
	waiting := map[schemas.Slug]int{}
	for _, p := range parked {
		if p.Discarded == "" {
			waiting[p.Setting]++
			r.Parked++
		}
	}
	r.ParkedBy = parkedCounts(parked)
	for _, v := range sortedSettings(snap) {
		rec := SettingReport{Setting: string(v.ID), Source: string(v.Source), Target: string(v.Target), Active: v.Active, Takes: []string{}, Parked: waiting[v.ID]}
		for _, t := range v.TakenTypes() {
			rec.Takes = append(rec.Takes, string(t))
		}
		if k, ok := known[v.ID]; ok {
			rec.Known, rec.State, rec.Pending, rec.LastRun, rec.OK, rec.LastError = true, k.State, k.Pending, k.LastRun, k.OK, k.LastError
			rec.Parked = max(rec.Parked, k.Parked)
		}
		r.Settings = append(r.Settings, rec)
	}
	for key, err := range snap.Unreadable {
		r.Faulty = append(r.Faulty, UnreadableReport{key, err.Error()})
	}
	slices.SortFunc(r.Faulty, func(a, b UnreadableReport) int { return cmp.Compare(a.Record, b.Record) })
	return r, nil
}

// parkedCounts counts what waits for somebody: a hundred records of one reason are
// one thing to do.
func parkedCounts(parked []broker.Parked) []ParkedCount {
	type key struct{ target, class string }
	by := map[key]*ParkedCount{}
	out := []ParkedCount{}
	for _, p := range parked {
		if p.Discarded != "" {
			continue
		}
		k := key{string(p.Target), p.Class}
		if by[k] == nil {
			by[k] = &ParkedCount{Target: k.target, Class: k.class}
		}
		by[k].Count++
		if !slices.Contains(by[k].Types, string(p.Type)) {
			by[k].Types = append(by[k].Types, string(p.Type))
		}
	}
	for _, c := range by {
		slices.Sort(c.Types)
		out = append(out, *c)
	}
	slices.SortFunc(out, func(a, b ParkedCount) int {
		return cmp.Or(cmp.Compare(a.Target, b.Target), cmp.Compare(b.Count, a.Count), cmp.Compare(a.Class, b.Class))
	})
	return out
}

func sourceReport(p producer.Status) SourceReport {
	r := SourceReport{Server: string(p.Server), State: string(p.State), Class: p.Class, Reason: p.Reason, Since: p.Since, Feed: p.Feed, Epoch: p.Epoch,
		Types: []SourceTypeReport{}}
	for _, t := range schemas.Types() {
		if v, ok := p.Types[t]; ok {
			if r.Objects, r.BuiltIn, r.Published = r.Objects+v.Objects, r.BuiltIn+v.BuiltIn, r.Published+v.Published; len(r.Types) == 0 || v.Complete.Before(r.Complete) {
				r.Complete = v.Complete
			}
			r.Types = append(r.Types, SourceTypeReport{string(t), v.Complete, v.Objects, v.BuiltIn, v.Published, v.Held, v.Refused, v.RefusedWhy})
		}
	}
	return r
}

// Polled is the answer to asking for a poll.
type Polled struct {
	Source string `json:"source"`
}

func (s *Server) pollSource(ctx context.Context, in *IDPath) (*output[Polled], error) {
	v, _, err := s.server(ctx, in.ID)
	if err != nil {
		return nil, err
	}
	if s.cfg.Sources == nil {
		return nil, huma.Error409Conflict("The producer does not run in this process; ask the one that has it.")
	}
	err = s.act(ctx, broker.AuditRecord{Action: "source.poll", Object: "server/" + string(v.ID)}, func(context.Context) error {
		s.cfg.Sources.Poke(v.ID)
		return nil
	})
	if err != nil {
		return nil, err
	}
	return &output[Polled]{Polled{string(v.ID)}}, nil
}
