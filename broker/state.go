package broker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/vcsync/vcsync/schemas"
)

// HeaderStreamSource is the header in which the broker notes where a sourced
// message came from: stream, sequence there, and what transformed it.
const HeaderStreamSource = "Nats-Stream-Source"

// Newest is the newest event of an object as VCS_STATE holds it.
type Newest struct {
	schemas.Head
	// StateSeq is its sequence in VCS_STATE, EventSeq the one in VCS_EV. The two
	// streams have different number lines.
	StateSeq, EventSeq uint64
}

// Unreadable is a message that is not an event: some other client wrote it.
type Unreadable struct {
	Subject string
	Err     error
}

// StateLag returns how many events VCS_STATE is behind VCS_EV; of the sources in
// Config.Sources alone, and then counting those of others in between, where there
// are any.
func (b *Broker) StateLag(ctx context.Context) (uint64, error) {
	if len(b.cfg.Sources) > 0 {
		var most uint64
		for _, s := range b.cfg.Sources {
			lag, err := b.stateLagOf(ctx, s)
			if err != nil {
				return 0, err
			}
			most = max(most, lag)
		}
		return most, nil
	}
	ev, err := b.js.Stream(ctx, StreamEvents)
	if err != nil {
		return 0, fmt.Errorf("look up %s: %w", StreamEvents, err)
	}
	last := ev.CachedInfo().State.LastSeq
	st, err := b.js.Stream(ctx, StreamState)
	if err != nil {
		return 0, fmt.Errorf("look up %s: %w", StreamState, err)
	}
	seq := st.CachedInfo().State.LastSeq
	if seq == 0 {
		return last, nil
	}
	m, err := b.storedMsg(ctx, StreamState, msgGet{Seq: seq})
	if errors.Is(err, ErrNotFound) { // replaced since; the next look tells
		return 1, nil
	}
	if err != nil {
		return 0, err
	}
	at, err := sourceSeq(m.Header)
	if err != nil {
		return 0, fmt.Errorf("last message of %s: %w", StreamState, err)
	}
	return last - min(at, last), nil
}

// stateLagOf compares a source's last event with its last state: the one is made of
// the other, in order.
func (b *Broker) stateLagOf(ctx context.Context, source schemas.Slug) (uint64, error) {
	ev, err := b.storedMsg(ctx, StreamEvents, msgGet{LastBySubject: "vcsync.ev." + string(source) + ".>"})
	if errors.Is(err, ErrNotFound) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	st, err := b.storedMsg(ctx, StreamState, msgGet{LastBySubject: schemas.SourceStateFilter(source)})
	if errors.Is(err, ErrNotFound) {
		return ev.Sequence, nil
	}
	if err != nil {
		return 0, err
	}
	at, err := sourceSeq(st.Header)
	if err != nil {
		return 0, fmt.Errorf("last message of %s in %s: %w", source, StreamState, err)
	}
	return ev.Sequence - min(at, ev.Sequence), nil
}

// WaitState returns once VCS_STATE has caught up with what VCS_EV held at the call
// or later.
func (b *Broker) WaitState(ctx context.Context) error {
	for wait := 5 * time.Millisecond; ; wait = min(2*wait, 500*time.Millisecond) {
		// A question that came while a cluster had no leader is never answered: it must
		// not use up the time of all.
		try, cancel := context.WithTimeout(ctx, waitTry)
		lag, err := b.StateLag(try)
		cancel()
		if err == nil && lag == 0 {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s is %d events behind %s: %w", StreamState, lag, StreamEvents, errors.Join(ctx.Err(), err))
		case <-time.After(wait):
		}
	}
}

// waitTry is how long WaitState waits for an answer before it asks again.
const waitTry = 3 * time.Second

// ScanState calls each with the newest event of every object under the filters
// (schemas.SourceStateFilter, schemas.TypeStateFilter), headers only, and odd with
// what is no event. It returns when all that was there at the call has been seen.
func (b *Broker) ScanState(ctx context.Context, filters []string, each func(Newest), odd func(Unreadable)) error {
	return b.scan(ctx, StreamState, filters, func(m jetstream.Msg, seq uint64) {
		n := Newest{StateSeq: seq}
		var err error
		if n.Head, err = schemas.ParseHead(m.Subject(), m.Headers()); err == nil {
			n.EventSeq, err = sourceSeq(m.Headers())
		}
		if err != nil {
			odd(Unreadable{m.Subject(), err})
		} else {
			each(n)
		}
	})
}

// scan calls each with the headers of every message of a stream under the filters
// that was there at the call.
func (b *Broker) scan(ctx context.Context, stream string, filters []string, each func(m jetstream.Msg, seq uint64)) error {
	if len(filters) == 0 {
		return nil
	}
	if len(b.cfg.Sources) > 0 && len(filters) > 1 {
		// The right to read one source can only be given for one filter at a time.
		for _, f := range filters {
			if err := b.scan(ctx, stream, []string{f}, each); err != nil {
				return err
			}
		}
		return nil
	}
	want, err := b.leaderLast(ctx, stream, filters...)
	if err != nil {
		return fmt.Errorf("scan %s: %w", stream, err)
	}
	cons, err := b.orderedConsumer(ctx, stream, jetstream.OrderedConsumerConfig{
		FilterSubjects: filters, DeliverPolicy: jetstream.DeliverAllPolicy, HeadersOnly: true, InactiveThreshold: time.Minute})
	if err != nil {
		return fmt.Errorf("scan %s: %w", stream, err)
	}
	return b.readAll(ctx, "scan "+stream, cons, want, each)
}

// resets is how often a read tries to go on where its consumer is gone, a second apart.
// Without a limit nats.go tries for ever while the stream is not there, whatever becomes
// of the context of who reads.
const resets = 2

// orderedConsumer returns a consumer that goes on by itself where it is lost, up to
// resets times. Then its reader gets the error.
func (b *Broker) orderedConsumer(ctx context.Context, stream string, cfg jetstream.OrderedConsumerConfig) (jetstream.Consumer, error) {
	cfg.MaxResetAttempts = resets
	return b.js.OrderedConsumer(ctx, stream, cfg)
}

// readAll reads a consumer until all was seen that was there at the call, up to the
// sequence want at least.
func (b *Broker) readAll(ctx context.Context, what string, cons jetstream.Consumer, want uint64, each func(m jetstream.Msg, seq uint64)) error {
	if cons.CachedInfo().NumPending == 0 && want == 0 {
		return nil
	}
	it, err := cons.Messages(jetstream.PullMaxMessages(500), jetstream.PullExpiry(10*time.Second), jetstream.PullHeartbeat(3*time.Second))
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	defer it.Stop()
	var seen uint64
	behind := cons.CachedInfo().NumPending == 0
	for {
		next, cancel := ctx, context.CancelFunc(func() {})
		if behind {
			next, cancel = context.WithTimeout(ctx, lagLimit)
		}
		m, err := it.Next(jetstream.NextContext(next))
		cancel()
		if behind && err != nil && ctx.Err() == nil && next.Err() != nil {
			return errLags(what, seen, want)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", what, err)
		}
		meta, err := m.Metadata()
		if err != nil {
			return fmt.Errorf("%s: %w", what, err)
		}
		seen = meta.Sequence.Stream
		each(m, seen)
		if behind = meta.NumPending == 0; behind && seen >= want {
			return nil
		}
	}
}

// NewestOf returns the newest event of an object, with its body. It returns
// ErrNotFound where the object was never seen, an error that wraps ErrLostBody where
// the body lies outside of the event and is not there, or not what it was, and one
// that wraps schemas.ErrEvent there and where the message is no event.
func (b *Broker) NewestOf(ctx context.Context, k schemas.Key) (schemas.Event, Newest, error) {
	return b.NewestWith(ctx, k, func(int) error { return nil })
}

// HeadOf returns what the headers of the newest event of an object tell; errors are as
// of NewestOf.
func (b *Broker) HeadOf(ctx context.Context, k schemas.Key) (Newest, error) {
	m, err := b.storedMsg(ctx, StreamState, msgGet{LastBySubject: k.StateSubject()})
	if err != nil {
		return Newest{}, err
	}
	n := Newest{StateSeq: m.Sequence}
	if n.Head, err = schemas.ParseHead(m.Subject, m.Header); err == nil {
		n.EventSeq, err = sourceSeq(m.Header)
	}
	return n, err
}

// NewestWith is NewestOf, and tells room about how many bytes the event will take
// before they are read or decompressed. Its error ends the reading.
func (b *Broker) NewestWith(ctx context.Context, k schemas.Key, room func(size int) error) (schemas.Event, Newest, error) {
	var n Newest
	for {
		m, err := b.storedMsg(ctx, StreamState, msgGet{LastBySubject: k.StateSubject()})
		if err != nil {
			return schemas.Event{}, n, err
		}
		seen := n.StateSeq
		n = Newest{StateSeq: m.Sequence}
		if n.Head, err = schemas.ParseHead(m.Subject, m.Header); err != nil {
			return schemas.Event{}, n, err
		}
		data := m.Data
		if err := room(max(schemas.DataSize(m.Header, data), n.Ref.Size)); err != nil {
			return schemas.Event{}, n, err
		}
		if !n.Ref.IsZero() {
			if len(data) > 0 {
				return schemas.Event{}, n, fmt.Errorf("%w on %.200q: it has data, and names other", schemas.ErrEvent, m.Subject)
			}
			if data, err = b.body(ctx, n.Ref); errors.Is(err, ErrLostBody) && seen != m.Sequence {
				continue // replaced meanwhile, perhaps, and nobody needs it any more
			}
			if err != nil {
				return schemas.Event{}, n, err
			}
		}
		e, err := schemas.ParseEvent(m.Subject, m.Header, data)
		if err != nil {
			return schemas.Event{}, n, err
		}
		n.EventSeq, err = sourceSeq(m.Header)
		return e, n, err
	}
}

// Last is the end of an object's history in VCS_EV.
type Last struct {
	// Head is that of the last readable event; its Version is zero where none is.
	Head schemas.Head
	// Seq is the sequence of the last message, which the next publish must name.
	Seq uint64
	// Spoiled tells that the last message is no event: some other client wrote it.
	// The object's state has to be published anew to stand above it.
	Spoiled bool
}

// LastEvent returns the end of an object's history in VCS_EV, which unlike
// VCS_STATE is never behind. It returns ErrNotFound where the object was never
// seen.
func (b *Broker) LastEvent(ctx context.Context, k schemas.Key) (Last, error) {
	m, err := b.storedMsg(ctx, StreamEvents, msgGet{LastBySubject: k.EventFilter()})
	if err != nil {
		return Last{}, err
	}
	if h, err := schemas.ParseHead(m.Subject, m.Header); err == nil {
		return Last{Head: h, Seq: m.Sequence}, nil
	}
	last := Last{Seq: m.Sequence, Spoiled: true}
	err = b.scan(ctx, StreamEvents, []string{k.EventFilter()}, func(m jetstream.Msg, _ uint64) {
		if h, err := schemas.ParseHead(m.Subject(), m.Headers()); err == nil && h.Version.Compare(last.Head.Version) > 0 {
			last.Head = h
		}
	})
	return last, err
}

// sourceSeq reads the sequence in VCS_EV from a sourced message.
func sourceSeq(h nats.Header) (uint64, error) {
	f := strings.Fields(h.Get(HeaderStreamSource))
	if len(f) < 2 || !strings.HasPrefix(f[0], StreamEvents) {
		return 0, fmt.Errorf("%w: header %s %.80q: not sourced from %s", schemas.ErrEvent, HeaderStreamSource, h.Get(HeaderStreamSource), StreamEvents)
	}
	seq, err := strconv.ParseUint(f[1], 10, 64)
	if err != nil {
		return 0, fmt.Errorf("%w: header %s %.80q", schemas.ErrEvent, HeaderStreamSource, h.Get(HeaderStreamSource))
	}
	return seq, nil
}

type msgGet struct {
	Seq           uint64 `json:"seq,omitzero"`
	LastBySubject string `json:"last_by_subj,omitzero"`
	// NextBySubject asks for the first message of these subjects from Seq on.
	NextBySubject string `json:"next_by_subj,omitzero"`
}

// storedMsg asks the stream's leader for one message; unlike a direct get, which a
// lagging replica may answer, this is never older than what was acknowledged. The
// subject may hold wildcards.
//
// A producer that may see only some sources has to use direct gets of events and
// states, and on a cluster they may be a moment old. That is safe: each publish
// names the sequence that it replaces, so it is refused and settled (publishOne).
func (b *Broker) storedMsg(ctx context.Context, stream string, get msgGet) (*jetstream.RawStreamMsg, error) {
	if len(b.cfg.Sources) > 0 && get.LastBySubject != "" && (stream == StreamEvents || stream == StreamState) {
		return b.directMsg(ctx, stream, get.LastBySubject)
	}
	req, err := json.Marshal(get)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, 15*time.Second)
	defer cancel()
	reply, err := b.nc.RequestWithContext(ctx, "$JS.API.STREAM.MSG.GET."+stream, req)
	if err != nil {
		return nil, fmt.Errorf("read a message of %s: %w", stream, err)
	}
	var resp struct {
		Error   *jetstream.APIError `json:"error"`
		Message *struct {
			Subject string    `json:"subject"`
			Seq     uint64    `json:"seq"`
			Header  []byte    `json:"hdrs"`
			Data    []byte    `json:"data"`
			Time    time.Time `json:"time"`
		} `json:"message"`
	}
	if err := json.Unmarshal(reply.Data, &resp); err != nil {
		return nil, fmt.Errorf("read a message of %s: %w", stream, err)
	}
	switch {
	case resp.Error != nil && resp.Error.ErrorCode == jetstream.JSErrCodeMessageNotFound:
		return nil, ErrNotFound
	case resp.Error != nil:
		return nil, fmt.Errorf("read a message of %s: %w", stream, resp.Error)
	case resp.Message == nil:
		return nil, fmt.Errorf("read a message of %s: empty answer", stream)
	}
	m := &jetstream.RawStreamMsg{Subject: resp.Message.Subject, Sequence: resp.Message.Seq, Data: resp.Message.Data, Time: resp.Message.Time}
	if len(resp.Message.Header) > 0 {
		if m.Header, err = nats.DecodeHeadersMsg(resp.Message.Header); err != nil {
			return nil, fmt.Errorf("read a message of %s: %w", stream, err)
		}
	}
	return m, nil
}

// directMsg returns the last message of a subject, which may hold wildcards, as any
// member of a cluster has it.
func (b *Broker) directMsg(ctx context.Context, stream, subject string) (*jetstream.RawStreamMsg, error) {
	ctx, cancel := context.WithTimeout(ctx, 15*time.Second)
	defer cancel()
	reply, err := b.nc.RequestWithContext(ctx, "$JS.API.DIRECT.GET."+stream+"."+subject, nil)
	if err != nil {
		return nil, fmt.Errorf("read a message of %s: %w", stream, err)
	}
	switch status := reply.Header.Get("Status"); {
	case status == "404":
		return nil, ErrNotFound
	case status != "":
		return nil, fmt.Errorf("read a message of %s: %s %s", stream, status, reply.Header.Get("Description"))
	}
	seq, err := strconv.ParseUint(reply.Header.Get(jetstream.SequenceHeader), 10, 64)
	if err != nil {
		return nil, fmt.Errorf("read a message of %s: header %s: %w", stream, jetstream.SequenceHeader, err)
	}
	at, err := time.Parse(time.RFC3339Nano, reply.Header.Get(jetstream.TimeStampHeaer))
	if err != nil {
		return nil, fmt.Errorf("read a message of %s: header %s: %w", stream, jetstream.TimeStampHeaer, err)
	}
	m := &jetstream.RawStreamMsg{Subject: reply.Header.Get(jetstream.SubjectHeader), Sequence: seq, Data: reply.Data, Time: at, Header: reply.Header}
	for _, h := range []string{jetstream.StreamHeader, jetstream.SequenceHeader, jetstream.TimeStampHeaer, jetstream.SubjectHeader} {
		m.Header.Del(h)
	}
	return m, nil
}
