package broker

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/vcsync/vcsync/schemas"
)

// HistoryKept is how many events VCS_EV keeps of an object per kind.
const HistoryKept = history

// History returns the events that VCS_EV still holds of an object, of all kinds in the
// order in which they were stored, headers only, and how many messages among them are no
// events. It returns none where the object was never seen.
func (b *Broker) History(ctx context.Context, k schemas.Key) (all []StoredEvent, odd int, err error) {
	var merr error
	err = b.scan(ctx, StreamEvents, []string{k.EventFilter()}, func(m jetstream.Msg, seq uint64) {
		h, err := schemas.ParseHead(m.Subject(), m.Headers())
		if err != nil {
			odd++
			return
		}
		meta, err := m.Metadata()
		merr = cmp.Or(merr, err)
		if err == nil {
			all = append(all, StoredEvent{h, seq, meta.Timestamp.UTC()})
		}
	})
	return all, odd, errors.Join(err, merr)
}

// EventAt returns the event with that sequence in VCS_EV, with its body. Errors are as of
// NewestOf; ErrNotFound where the stream does not hold it any more.
func (b *Broker) EventAt(ctx context.Context, seq uint64) (schemas.Event, error) {
	m, err := b.storedMsg(ctx, StreamEvents, msgGet{Seq: seq})
	if err != nil {
		return schemas.Event{}, fmt.Errorf("read event %d: %w", seq, err)
	}
	h, err := schemas.ParseHead(m.Subject, m.Header)
	if err != nil {
		return schemas.Event{}, err
	}
	data := m.Data
	if !h.Ref.IsZero() {
		if len(data) > 0 {
			return schemas.Event{}, fmt.Errorf("%w on %.200q: it has data, and names other", schemas.ErrEvent, m.Subject)
		}
		if data, err = b.body(ctx, h.Ref); err != nil {
			return schemas.Event{}, err
		}
	}
	return schemas.ParseEvent(m.Subject, m.Header, data)
}

// SourcesOf returns the newest event of an object at every source that ever had one of
// this type and id, by source.
func (b *Broker) SourcesOf(ctx context.Context, t schemas.Type, token schemas.Token) ([]Newest, error) {
	filter := strings.TrimSuffix(schemas.TypeStateFilter("*", t), "*") + string(token)
	var out []Newest
	err := b.ScanState(ctx, []string{filter}, func(n Newest) { out = append(out, n) }, func(Unreadable) {})
	slices.SortFunc(out, func(x, y Newest) int { return cmp.Compare(x.Key.Source, y.Key.Source) })
	return out, err
}

// LastEventSeq returns the sequence of the newest event, 0 where there is none.
func (b *Broker) LastEventSeq(ctx context.Context) (uint64, error) {
	s, err := b.EventsState(ctx)
	return s.LastSeq, err
}

// SeqSince returns the sequence of the first event that was stored at that time or later,
// by the broker's clock; one above the last where none was.
func (b *Broker) SeqSince(ctx context.Context, since time.Time) (uint64, error) {
	last, err := b.LastEventSeq(ctx)
	if err != nil {
		return 0, err
	}
	cons, err := b.orderedConsumer(ctx, StreamEvents, jetstream.OrderedConsumerConfig{DeliverPolicy: jetstream.DeliverByStartTimePolicy, OptStartTime: &since,
		HeadersOnly: true, InactiveThreshold: time.Minute})
	if err != nil {
		return 0, fmt.Errorf("find the events since %s: %w", since.Format(time.RFC3339), err)
	}
	if cons.CachedInfo().NumPending == 0 {
		return last + 1, nil
	}
	it, err := cons.Messages(jetstream.PullMaxMessages(1), jetstream.PullExpiry(10*time.Second), jetstream.PullHeartbeat(3*time.Second))
	if err != nil {
		return 0, fmt.Errorf("find the events since %s: %w", since.Format(time.RFC3339), err)
	}
	defer it.Stop()
	m, err := it.Next(jetstream.NextContext(ctx))
	if err != nil {
		return 0, fmt.Errorf("find the events since %s: %w", since.Format(time.RFC3339), err)
	}
	meta, err := m.Metadata()
	if err != nil {
		return 0, fmt.Errorf("find the events since %s: %w", since.Format(time.RFC3339), err)
	}
	return meta.Sequence.Stream, nil
}

// LedgerOf returns what the ledger of a target holds of one object of a source, by its id
// there: more than one entry where pins gave it several ids at the target. It reads the
// whole ledger of the target, and writes nothing.
func (b *Broker) LedgerOf(ctx context.Context, target, source schemas.Slug, t schemas.Type, from schemas.ID) ([]Entry, error) {
	return b.ledgerOf(ctx, target, from, func(e Entry) bool { return e.Source == source && e.Type == t && e.From() == from })
}

// LedgerEntry returns what the ledger of a target holds of an object, by its id there;
// false where it holds nothing. It reads as LedgerOf does.
func (b *Broker) LedgerEntry(ctx context.Context, target schemas.Slug, t schemas.Type, id schemas.ID) (Entry, bool, error) {
	all, err := b.ledgerOf(ctx, target, id, func(e Entry) bool { return e.Type == t && e.ID == id })
	if err != nil || len(all) == 0 {
		return Entry{}, false, err
	}
	return all[0], true, nil
}

// ledgerOf returns the entries that are wanted, of those that name an id.
func (b *Broker) ledgerOf(ctx context.Context, target schemas.Slug, id schemas.ID, wanted func(Entry) bool) (out []Entry, err error) {
	text, err := json.Marshal(id)
	if err != nil {
		return nil, err
	}
	plain := !bytes.ContainsFunc(text, func(r rune) bool { return r == '\\' || r > '~' }) // has one spelling in JSON
	err = b.watch(ctx, BucketLedger, string(target)+".*", func(e jetstream.KeyValueEntry) error {
		if plain && !bytes.Contains(e.Value(), text) {
			return nil
		}
		_, entries, err := parsePage(target, e)
		for _, x := range entries {
			if wanted(x) {
				out = append(out, x)
			}
		}
		return err
	}, func() bool { return true })
	return out, err
}

// LeaseState is how a lease stands.
type LeaseState struct {
	// Holder names who has it, for people; empty where it was given back.
	Holder string
	// Revision moves with every renewal.
	Revision uint64
	// Moved is when it was renewed last, by the broker's clock.
	Moved time.Time
}

// TargetLease returns the lease of a target, ErrNotFound where nobody ever had it.
func (b *Broker) TargetLease(ctx context.Context, target schemas.Slug) (LeaseState, error) {
	kv, err := b.js.KeyValue(ctx, BucketLease)
	if err != nil {
		return LeaseState{}, fmt.Errorf("lease of %s: %w", target, err)
	}
	e, err := kv.Get(ctx, "target."+string(target))
	if errors.Is(err, jetstream.ErrKeyNotFound) {
		return LeaseState{}, fmt.Errorf("lease of %s: %w", target, ErrNotFound)
	}
	if err != nil {
		return LeaseState{}, fmt.Errorf("lease of %s: %w", target, err)
	}
	var r leaseRecord
	if err := json.Unmarshal(e.Value(), &r); err != nil {
		return LeaseState{}, fmt.Errorf("%w: lease of %s: %w", ErrRecord, target, err)
	}
	return LeaseState{r.Holder, e.Revision(), e.Created()}, nil
}
