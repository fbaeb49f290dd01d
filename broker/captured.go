package broker

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/vcsync/vcsync/schemas"
)

// ScanCaptured calls each with what was captured of a source after a sequence of
// VCS_EV, oldest first, headers only; after 0 with the newest event of every object
// and kind, which is enough to know how many versions of it there were. What is no
// event is left out. It returns up to where it has read: the next call goes on from
// there. It reads VCS_EV alone, so that what VCS_STATE lost is found missing.
func (b *Broker) ScanCaptured(ctx context.Context, source schemas.Slug, after uint64, each func(StoredEvent)) (upTo uint64, err error) {
	fail := func(err error) (uint64, error) {
		return after, fmt.Errorf("read what was captured of %s: %w", source, err)
	}
	s, err := b.js.Stream(ctx, StreamEvents)
	if err != nil {
		return fail(err)
	}
	upTo = s.CachedInfo().State.LastSeq
	if upTo <= after {
		return after, nil
	}
	cfg := jetstream.OrderedConsumerConfig{FilterSubjects: []string{schemas.EventsFilter(source, "", "")}, HeadersOnly: true, InactiveThreshold: time.Minute,
		DeliverPolicy: jetstream.DeliverByStartSequencePolicy, OptStartSeq: after + 1}
	if after == 0 {
		cfg.DeliverPolicy, cfg.OptStartSeq = jetstream.DeliverLastPerSubjectPolicy, 0
	}
	want, err := b.leaderLast(ctx, StreamEvents, schemas.EventsFilter(source, "", ""))
	if err != nil {
		return fail(err)
	}
	if want <= after {
		want = 0
	}
	cons, err := b.orderedConsumer(ctx, StreamEvents, cfg)
	if err != nil {
		return fail(err)
	}
	err = b.readAll(ctx, "read "+StreamEvents, cons, want, func(m jetstream.Msg, seq uint64) {
		if h, err := schemas.ParseHead(m.Subject(), m.Headers()); err == nil {
			meta, merr := m.Metadata()
			if merr == nil {
				each(StoredEvent{h, seq, meta.Timestamp.UTC()})
			}
		}
		upTo = max(upTo, seq)
	})
	if err != nil {
		return fail(err)
	}
	return upTo, nil
}

// Undelivered tells how far a durable consumer of VCS_STATE has come: what has a
// sequence of from or higher in VCS_EV has not been delivered to anybody, and as many
// messages as open tells were delivered and are not acknowledged.
func (b *Broker) Undelivered(ctx context.Context, durable string) (from uint64, open int, err error) {
	fail := func(err error) (uint64, int, error) {
		return 0, 0, fmt.Errorf("read how far consumer %s has come: %w", durable, err)
	}
	// The end of the stream first: what comes after it counts as undelivered.
	st, err := b.js.Stream(ctx, StreamState)
	if err != nil {
		return fail(err)
	}
	var end uint64
	if last := st.CachedInfo().State.LastSeq; last > 0 {
		m, err := b.storedMsg(ctx, StreamState, msgGet{Seq: last})
		if errors.Is(err, ErrNotFound) { // replaced since
			m, err = b.storedMsg(ctx, StreamState, msgGet{Seq: last + 1, NextBySubject: ">"})
		}
		if err != nil {
			return fail(err)
		}
		if end, err = sourceSeq(m.Header); err != nil {
			return fail(err)
		}
	}
	cons, err := b.js.Consumer(ctx, StreamState, durable)
	if err != nil {
		return fail(err)
	}
	info := cons.CachedInfo()
	if info.NumPending == 0 {
		return end + 1, info.NumAckPending, nil
	}
	// Both streams have one order, so nothing that follows the next message either.
	m, err := b.storedMsg(ctx, StreamState, msgGet{Seq: info.Delivered.Stream + 1, NextBySubject: ">"})
	if errors.Is(err, ErrNotFound) { // delivered since
		return end + 1, info.NumAckPending, nil
	}
	if err != nil {
		return fail(err)
	}
	from, err = sourceSeq(m.Header)
	if err != nil {
		return fail(err)
	}
	return from, info.NumAckPending, nil
}
