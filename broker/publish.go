package broker

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/synadia-io/orbit.go/jetstreamext"

	"github.com/vcsync/vcsync/schemas"
)

const (
	// batchMessages and batchBytes bound one atomic batch: with a store that syncs
	// before it acknowledges, a batch costs one sync.
	batchMessages = 250
	batchBytes    = 16 << 20
)

// oneAnswer lets a batch wait for the answer to its commit only: a batch is small,
// and what is wrong with it the commit says too. (The acknowledgement of the first
// message would also take a timer from a pool that nats.go shares between the
// bubbles of testing/synctest, which that forbids.)
var oneAnswer = jetstreamext.BatchFlowControl{AckFirst: false}

// Change is an event to publish, and the sequence in VCS_EV of the object's last
// event, 0 where it has none. The broker refuses it where that is no longer so.
type Change struct {
	Event schemas.Event
	After uint64
}

// Stored is the outcome of one Change.
type Stored struct {
	// Seq is the event's sequence in VCS_EV.
	Seq uint64
	// Err is nil where the event is stored; ErrConflict where another event of the
	// object came in between; else why this one event could not be stored.
	Err error
}

// Publish stores the changes in their order, as atomic batches where it can. The
// first result has one entry per change. The error is for what stopped the whole:
// the entries that were not reached then carry it too.
func (b *Broker) Publish(ctx context.Context, changes []Change) ([]Stored, error) {
	out := make([]Stored, len(changes))
	for begin := 0; begin < len(changes); {
		end, size := begin, 0
		var msgs []*nats.Msg
		for end < len(changes) && end-begin < batchMessages {
			m, err := b.changeMsg(ctx, changes[end])
			if err != nil {
				if end > begin {
					break // it gets a turn of its own
				}
				if !errors.Is(err, schemas.ErrEvent) && !errors.Is(err, errNoRoom) && !errors.Is(err, ErrRecord) {
					return notReached(out, begin, err)
				}
				out[end].Err = err
				begin, end = begin+1, end+1
				continue
			}
			if size += m.Size(); size > batchBytes && end > begin {
				break
			}
			msgs = append(msgs, m)
			end++
		}
		if err := b.publishBatch(ctx, changes[begin:end], msgs, out[begin:end]); err != nil {
			return notReached(out, begin, err)
		}
		begin = end
	}
	return out, nil
}

// notReached notes what stopped the whole where nothing else is known.
func notReached(out []Stored, begin int, err error) ([]Stored, error) {
	for i := begin; i < len(out); i++ {
		if out[i].Seq == 0 && out[i].Err == nil {
			out[i].Err = err
		}
	}
	return out, err
}

// changeMsg returns the message of a change. Data that is too large for it is stored
// before: an event never names what is not there (G1).
func (b *Broker) changeMsg(ctx context.Context, c Change) (*nats.Msg, error) {
	header, data, err := c.Event.Encode()
	if err != nil {
		return nil, err
	}
	m := nats.NewMsg(c.Event.Subject())
	m.Header = header
	if len(data) > inlineMost {
		ref, err := b.putBody(ctx, data)
		if err != nil {
			return nil, fmt.Errorf("publish %s of %s: %w", c.Event.Kind, c.Event.Key(), err)
		}
		ref.SetHeader(header)
	} else {
		m.Data = data
	}
	if m.Size() > MaxPayload-1024 {
		return nil, fmt.Errorf("%w: %.200s has %d bytes, at most %d", schemas.ErrEvent, c.Event.Key(), m.Size(), MaxPayload-1024)
	}
	m.Header.Set(jetstream.ExpectedLastSubjSeqHeader, fmt.Sprint(c.After))
	m.Header.Set(jetstream.ExpectedLastSubjSeqSubjHeader, c.Event.Key().EventFilter())
	return m, nil
}

func (b *Broker) publishBatch(ctx context.Context, changes []Change, msgs []*nats.Msg, out []Stored) error {
	if len(msgs) == 0 {
		return nil
	}
	if len(msgs) > 1 {
		ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
		defer cancel()
		ack, err := jetstreamext.PublishMsgBatch(ctx, b.js, msgs, oneAnswer)
		if err == nil {
			for i := range out {
				out[i].Seq = ack.Sequence - uint64(len(msgs)-1-i)
			}
			return nil
		}
		if ctx.Err() != nil || storeFull(err) {
			return fmt.Errorf("publish %d events: %w", len(msgs), err)
		}
		// All or nothing, and it was nothing, or the answer was lost: one by one each
		// event finds out for itself, with a message that is no part of a batch.
		for i := range changes {
			var err error
			if msgs[i], err = b.changeMsg(ctx, changes[i]); err != nil {
				return err
			}
		}
	}
	for i := range changes {
		seq, err := b.publishOne(ctx, changes[i], msgs[i])
		if err != nil && !errors.Is(err, ErrConflict) {
			return err
		}
		out[i] = Stored{seq, err}
	}
	return nil
}

// publishOne settles "wrong last sequence" and "duplicate" by looking at the
// object's last event: our own message id there means that it is stored.
func (b *Broker) publishOne(ctx context.Context, c Change, m *nats.Msg) (uint64, error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	ack, err := b.js.PublishMsg(ctx, m, jetstream.WithRetryAttempts(0))
	var api *jetstream.APIError
	switch {
	case err == nil && !ack.Duplicate:
		return ack.Sequence, nil
	case err == nil, errors.As(err, &api) && api.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequence:
	default:
		return 0, fmt.Errorf("publish %s of %s: %w", c.Event.Kind, c.Event.Key(), err)
	}
	last, err := b.lastStored(ctx, c.Event.Key(), ack, api)
	if errors.Is(err, ErrNotFound) {
		return 0, fmt.Errorf("publish %s of %s: %w", c.Event.Kind, c.Event.Key(), ErrConflict)
	}
	if err != nil {
		return 0, fmt.Errorf("publish %s of %s: %w", c.Event.Kind, c.Event.Key(), err)
	}
	if last.Header.Get(jetstream.MsgIDHeader) == m.Header.Get(jetstream.MsgIDHeader) && last.Header.Get(schemas.HeaderDigest) == string(c.Event.Digest) {
		return last.Sequence, nil
	}
	return 0, fmt.Errorf("publish %s of %s: %w", c.Event.Kind, c.Event.Key(), ErrConflict)
}

// lastStored returns the last event of an object. The broker's answer to the publish
// says how far it must have come at least: a direct get may be behind that.
func (b *Broker) lastStored(ctx context.Context, k schemas.Key, ack *jetstream.PubAck, refused *jetstream.APIError) (*jetstream.RawStreamMsg, error) {
	var least uint64
	if ack != nil {
		least = ack.Sequence
	} else if refused != nil {
		_, at, _ := strings.Cut(refused.Description, "wrong last sequence: ")
		least, _ = strconv.ParseUint(at, 10, 64)
	}
	for {
		m, err := b.storedMsg(ctx, StreamEvents, msgGet{LastBySubject: k.EventFilter()})
		if len(b.cfg.Sources) == 0 || err == nil && m.Sequence >= least || err != nil && (!errors.Is(err, ErrNotFound) || least == 0) {
			return m, err
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// storeFull tells whether the broker has no room; one by one would not either.
func storeFull(err error) bool {
	var api *jetstream.APIError
	return errors.As(err, &api) && (api.ErrorCode == 10077 || api.ErrorCode == 10023 || api.ErrorCode == 10047)
}
