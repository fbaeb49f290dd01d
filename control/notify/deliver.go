package notify

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v4"
	"github.com/nats-io/nuid"
)

const (
	// queueLength is how many messages wait for a line; what is beyond is dropped.
	queueLength = 64
	// retryFor is how long a message is tried again.
	retryFor = 5 * time.Minute
	// endFor is how long a message that is under way may take once the process ends.
	endFor = 2 * time.Second
)

// Results of a message at a line.
const (
	ResultSent    = "sent"
	ResultFailed  = "failed"
	ResultDropped = "dropped"
)

func newID() string { return nuid.Next() }

// Result is how many messages of a kind came to what.
type Result struct{ Kind, Result string }

// counts are those since the start.
type counts struct {
	mu sync.Mutex
	by map[Result]uint64
}

func (c *counts) add(k Kind, result string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.by[Result{string(k), result}]++
}

// outbox sends messages to the lines, each in its own time.
type outbox struct {
	lines  []Line
	queues []chan parcel
	counts *counts
	log    *slog.Logger
}

// parcel is a message that waits for a line; done is called when it has been dealt with.
type parcel struct {
	m    Message
	done func()
}

func newOutbox(lines []Line, c *counts, log *slog.Logger) *outbox {
	o := &outbox{lines: lines, counts: c, log: log}
	for range lines {
		o.queues = append(o.queues, make(chan parcel, queueLength))
	}
	return o
}

// put hands a message to every line that takes it and never waits. Done is called once
// none has anything to do with it any more; not where the process ends before.
func (o *outbox) put(m Message, done func()) {
	var takers []int
	for i, l := range o.lines {
		if l.takes(m.Kind) {
			takers = append(takers, i)
		}
	}
	var mu sync.Mutex
	left := len(takers) + 1
	one := func() {
		mu.Lock()
		left--
		last := left == 0
		mu.Unlock()
		if last {
			done()
		}
	}
	for _, i := range takers {
		select {
		case o.queues[i] <- parcel{m, one}:
		default:
			o.counts.add(m.Kind, ResultDropped)
			o.log.Warn("a notification was dropped, because too many wait for its receiver", "line", o.lines[i].Number, "service", o.lines[i].Service, "kind", m.Kind, "state", m.State)
			one()
		}
	}
	one()
}

// run sends until ctx ends.
func (o *outbox) run(ctx context.Context) {
	var wg sync.WaitGroup
	for i, l := range o.lines {
		wg.Go(func() {
			for {
				select {
				case <-ctx.Done():
					return
				case p := <-o.queues[i]:
					if o.deliver(ctx, l, p.m) {
						p.done()
					}
				}
			}
		})
	}
	wg.Wait()
}

// deliver tries for a while. It tells whether the message has been dealt with: not where
// the process ends meanwhile.
func (o *outbox) deliver(ctx context.Context, l Line, m Message) bool {
	b := backoff.NewExponentialBackOff(backoff.WithInitialInterval(time.Second), backoff.WithMaxInterval(time.Minute), backoff.WithMaxElapsedTime(retryFor))
	tries := 0
	err := backoff.Retry(func() error {
		tries++
		err := sendOnce(ctx, l, m)
		if err != nil && lasting(err) {
			return backoff.Permanent(err)
		}
		return err
	}, backoff.WithContext(b, ctx))
	switch {
	case err == nil:
		o.counts.add(m.Kind, ResultSent)
	case ctx.Err() != nil:
		return false
	default:
		o.counts.add(m.Kind, ResultFailed)
		o.log.Warn("a notification could not be sent", "line", l.Number, "service", l.Service, "kind", m.Kind, "state", m.State, "tries", tries, "reason", reason(err))
	}
	return true
}

// errPanic stands for a library that failed in a way it should not.
var errPanic = errors.New("the sender panicked")

func sendOnce(ctx context.Context, l Line, m Message) (err error) {
	// What is under way when the process ends has a moment to arrive: broken off, it would
	// be told once more.
	ending := ctx
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), tryFor)
	defer cancel()
	defer context.AfterFunc(ending, func() { time.AfterFunc(endFor, cancel) })()
	defer func() {
		if recover() != nil { // its text may quote the URL
			err = errPanic
		}
	}()
	return l.send(ctx, m)
}

// Outcome is what came of a message at a line.
type Outcome struct {
	Line    int    `json:"line"`
	Service string `json:"service"`
	Sent    bool   `json:"sent"`
	Reason  string `json:"reason,omitzero"`
}

// Try sends a message once to every line, whatever kinds it takes, and says for each what
// came of it.
func Try(ctx context.Context, lines []Line, m Message) []Outcome {
	out := make([]Outcome, len(lines))
	var wg sync.WaitGroup
	for i, l := range lines {
		wg.Go(func() {
			out[i] = Outcome{Line: l.Number, Service: l.Service}
			if err := sendOnce(ctx, l, m); err != nil {
				out[i].Reason = reason(err)
				return
			}
			out[i].Sent = true
		})
	}
	wg.Wait()
	return out
}
