package broker

import (
	"context"
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/vcsync/vcsync/schemas"
)

// EventQuery says which events to read; an empty field stands for any.
type EventQuery struct {
	Source schemas.Slug
	Type   schemas.Type
	Kind   schemas.Kind
	Object schemas.Token
	// Since leaves out events that were stored before. FollowEvents ignores it.
	Since time.Time
}

func (q EventQuery) filter() string {
	f := schemas.EventsFilter(q.Source, q.Type, q.Kind)
	if q.Object != "" {
		f = strings.TrimSuffix(f, "*") + string(q.Object)
	}
	return f
}

// StoredEvent is what the headers of an event tell, and its place in VCS_EV.
type StoredEvent struct {
	schemas.Head
	Seq    uint64
	Stored time.Time
}

// Events returns the newest events that the query matches, newest first and at
// most limit of them, headers only. What is no event is left out. The stream is
// read backwards in windows that grow, so that recent events of a long history
// cost little.
func (b *Broker) Events(ctx context.Context, q EventQuery, limit int) ([]StoredEvent, error) {
	s, err := b.js.Stream(ctx, StreamEvents)
	if err != nil {
		return nil, fmt.Errorf("read events: %w", err)
	}
	state := s.CachedInfo().State
	var out []StoredEvent
	width := max(uint64(limit)*2, 256)
	for high := state.LastSeq; high >= state.FirstSeq && high > 0 && len(out) < limit; width *= 4 {
		low := state.FirstSeq
		if high-state.FirstSeq >= width {
			low = high - width + 1
		}
		older, begun, err := b.window(ctx, q, low, high, limit-len(out))
		if err != nil {
			return nil, err
		}
		out = append(out, older...)
		if begun || low == state.FirstSeq || low == 0 {
			break
		}
		high = low - 1
	}
	return out, nil
}

// window returns the newest events with sequences from low to high, newest first.
// Begun tells that it met an event from before q.Since, so that nothing older
// matters.
func (b *Broker) window(ctx context.Context, q EventQuery, low, high uint64, limit int) (out []StoredEvent, begun bool, err error) {
	cons, err := b.orderedConsumer(ctx, StreamEvents, jetstream.OrderedConsumerConfig{FilterSubjects: []string{q.filter()},
		DeliverPolicy: jetstream.DeliverByStartSequencePolicy, OptStartSeq: max(low, 1), HeadersOnly: true, InactiveThreshold: time.Minute})
	if err != nil {
		return nil, false, fmt.Errorf("read events: %w", err)
	}
	if cons.CachedInfo().NumPending == 0 {
		return nil, false, nil
	}
	it, err := cons.Messages(jetstream.PullMaxMessages(500), jetstream.PullExpiry(10*time.Second), jetstream.PullHeartbeat(3*time.Second))
	if err != nil {
		return nil, false, fmt.Errorf("read events: %w", err)
	}
	defer it.Stop()
	for {
		m, err := it.Next(jetstream.NextContext(ctx))
		if err != nil {
			return nil, false, fmt.Errorf("read events: %w", err)
		}
		meta, err := m.Metadata()
		if err != nil {
			return nil, false, fmt.Errorf("read events: %w", err)
		}
		if meta.Sequence.Stream > high {
			break
		}
		if meta.Timestamp.Before(q.Since) {
			begun = true
		} else if h, err := schemas.ParseHead(m.Subject(), m.Headers()); err == nil {
			out = append(out, StoredEvent{h, meta.Sequence.Stream, meta.Timestamp.UTC()})
			if len(out) >= 2*limit {
				out = append(out[:0], out[len(out)-limit:]...)
			}
		}
		if meta.NumPending == 0 {
			break
		}
	}
	out = out[max(0, len(out)-limit):]
	for i, k := 0, len(out)-1; i < k; i, k = i+1, k-1 {
		out[i], out[k] = out[k], out[i]
	}
	return out, begun, nil
}

// FromNow makes FollowEvents begin with the next event that is stored.
const FromNow = math.MaxUint64

// FollowEvents calls each with every event after the sequence after that the query
// matches, oldest first, headers only, and ready once it is listening, with the
// sequence that it begins after. It returns nil when ctx ended, or the error of
// ready or each.
func (b *Broker) FollowEvents(ctx context.Context, q EventQuery, after uint64, ready func(after uint64) error, each func(StoredEvent) error) error {
	if after == FromNow {
		// Not "deliver new": a consumer that breaks and is made anew would begin later.
		s, err := b.js.Stream(ctx, StreamEvents)
		if err != nil {
			return fmt.Errorf("follow events: %w", err)
		}
		after = s.CachedInfo().State.LastSeq
	}
	cfg := jetstream.OrderedConsumerConfig{FilterSubjects: []string{q.filter()}, HeadersOnly: true, InactiveThreshold: time.Minute,
		DeliverPolicy: jetstream.DeliverByStartSequencePolicy, OptStartSeq: after + 1}
	cons, err := b.orderedConsumer(ctx, StreamEvents, cfg)
	if err != nil {
		return fmt.Errorf("follow events: %w", err)
	}
	it, err := cons.Messages(jetstream.PullMaxMessages(200), jetstream.PullExpiry(10*time.Second), jetstream.PullHeartbeat(3*time.Second))
	if err != nil {
		return fmt.Errorf("follow events: %w", err)
	}
	defer it.Stop()
	if err := ready(after); err != nil {
		return err
	}
	for {
		m, err := it.Next(jetstream.NextContext(ctx))
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return fmt.Errorf("follow events: %w", err)
		}
		meta, err := m.Metadata()
		if err != nil {
			return fmt.Errorf("follow events: %w", err)
		}
		h, err := schemas.ParseHead(m.Subject(), m.Headers())
		if err != nil {
			continue
		}
		if err := each(StoredEvent{h, meta.Sequence.Stream, meta.Timestamp.UTC()}); err != nil {
			return err
		}
	}
}

// EventsState is how full the event stream is.
type EventsState struct {
	LastSeq  uint64
	Messages uint64
	Bytes    uint64
	// MaxBytes is where the stream refuses new events.
	MaxBytes int64
}

// EventsState returns how full the event stream is.
func (b *Broker) EventsState(ctx context.Context) (EventsState, error) {
	s, err := b.js.Stream(ctx, StreamEvents)
	if err != nil {
		return EventsState{}, fmt.Errorf("look up %s: %w", StreamEvents, err)
	}
	i := s.CachedInfo()
	return EventsState{LastSeq: i.State.LastSeq, Messages: i.State.Msgs, Bytes: i.State.Bytes, MaxBytes: i.Config.MaxBytes}, nil
}
