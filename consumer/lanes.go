package consumer

import (
	"context"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v4"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/vcsync/vcsync/schemas"
)

// lanes holds one lane per object that has to be looked at. Lanes run side by side,
// a bounded number at a time; within a lane, one at a time. A lane that waits for
// its next try occupies no worker, so a poisoned object delays only itself (G5).
type lanes struct {
	mu    sync.Mutex
	by    map[objectKey]*lane
	ready []*lane
	wake  chan struct{}
	// shut are the lanes that wait for a sync window; shutting gets a value when one
	// begins to.
	shut     map[*lane]*errWindow
	shutting chan struct{}
}

// lane is the in-order queue of one object at one target, whichever settings feed
// it. It holds no event: what it applies is the newest state when its turn comes.
type lane struct {
	key objectKey
	// msgs are acknowledged when the look that began after them is done: the newest
	// of each durable consumer. Older ones are superseded in the stream already, and
	// a target that is away for days makes the broker deliver the same again and
	// again.
	msgs   map[string]jetstream.Msg
	passes []*pass
	// again tells that somebody asked for a look while one was under way.
	again, running, queued bool
	// working tells that a worker has it: one that is running may also wait.
	working bool
	// timer runs while the lane waits for an object that this one refers to.
	timer *time.Timer
	// retryParked tells that a parked record of this version does not stop the look.
	retryParked bool

	// Of the running try; they belong to the worker.
	backoff    *backoff.ExponentialBackOff
	waited     time.Duration
	mismatched int    // equal ones in a row
	mismatches int    // all
	mismatch   string // the fields of the last one
}

// pass is one comparison of a setting with everything it takes.
type pass struct {
	mu     sync.Mutex
	left   int
	parked int
	ended  func(parked int)
}

func (p *pass) add(n int) {
	p.mu.Lock()
	p.left += n
	p.mu.Unlock()
}

func (p *pass) done(parked bool) {
	p.mu.Lock()
	p.left--
	if parked {
		p.parked++
	}
	left, n := p.left, p.parked
	p.mu.Unlock()
	if left == 0 {
		p.ended(n)
	}
}

// over tells whether every object of the pass has been dealt with.
func (p *pass) over() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.left == 0
}

func newLanes() *lanes {
	return &lanes{by: map[objectKey]*lane{}, wake: make(chan struct{}, 1), shut: map[*lane]*errWindow{}, shutting: make(chan struct{}, 1)}
}

// look asks for a look at an object. The message, where there is one, is
// acknowledged when that is done; the pass is told.
func (l *lanes) look(key objectKey, msg jetstream.Msg, p *pass, retryParked bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	ln := l.by[key]
	if ln == nil {
		ln = &lane{key: key}
		l.by[key] = ln
	}
	news := retryParked
	if msg != nil && ln.keep(msg) {
		news = true
	}
	if _, shut := l.shut[ln]; shut && !news {
		return
	} else if shut { // another version may go through another window
		delete(l.shut, ln)
		ln.running = false
	}
	if p != nil {
		p.add(1)
		ln.passes = append(ln.passes, p)
	}
	ln.retryParked = ln.retryParked || retryParked
	ln.again = true
	if !ln.running {
		l.queue(ln)
	}
}

// keep holds a message for acknowledgement, unless a newer one of its consumer is
// held. It returns true where the message is none that was held before.
func (ln *lane) keep(msg jetstream.Msg) (news bool) {
	meta, err := msg.Metadata()
	if err != nil {
		return false // no message of a durable consumer
	}
	news = true
	if have := ln.msgs[meta.Consumer]; have != nil {
		if old, err := have.Metadata(); err == nil {
			if old.Sequence.Stream > meta.Sequence.Stream {
				return false
			}
			news = old.Sequence.Stream < meta.Sequence.Stream
		}
	}
	if ln.msgs == nil {
		ln.msgs = map[string]jetstream.Msg{}
	}
	ln.msgs[meta.Consumer] = msg
	return news
}

// queue needs the lock.
func (l *lanes) queue(ln *lane) {
	if ln.queued {
		return
	}
	ln.queued = true
	l.ready = append(l.ready, ln)
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// next waits for a lane with work and marks it as running; nil when ctx ends.
func (l *lanes) next(ctx context.Context) *lane {
	for {
		l.mu.Lock()
		if len(l.ready) > 0 {
			ln := l.ready[0]
			l.ready = l.ready[1:]
			ln.queued, ln.running, ln.working = false, true, true
			if len(l.ready) > 0 {
				select {
				case l.wake <- struct{}{}:
				default:
				}
			}
			l.mu.Unlock()
			return ln
		}
		l.mu.Unlock()
		select {
		case <-ctx.Done():
			return nil
		case <-l.wake:
		}
	}
}

// take returns what a look that begins now settles.
func (l *lanes) take(ln *lane) (msgs map[string]jetstream.Msg, passes []*pass, retryParked bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	msgs, passes, retryParked = ln.msgs, ln.passes, ln.retryParked
	ln.msgs, ln.passes, ln.retryParked, ln.again = nil, nil, false, false
	return
}

// finish ends a look. Without asks in between the lane is gone.
func (l *lanes) finish(ln *lane) {
	l.mu.Lock()
	defer l.mu.Unlock()
	ln.running, ln.working = false, false
	ln.backoff, ln.waited, ln.mismatched, ln.mismatches, ln.mismatch = nil, 0, 0, 0, ""
	if ln.again {
		l.queue(ln)
		return
	}
	delete(l.by, ln.key)
}

// again gives back what take took, and queues the lane after the wait. New asks
// meanwhile do not shorten it: the object is in trouble, not its version.
func (l *lanes) again(ctx context.Context, ln *lane, wait time.Duration, msgs map[string]jetstream.Msg, passes []*pass, retryParked bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.giveBack(ctx, ln, wait, msgs, passes, retryParked)
}

// await is again for a lane that waits for another object: wakeUp ends the wait.
func (l *lanes) await(ctx context.Context, ln *lane, wait time.Duration, msgs map[string]jetstream.Msg, passes []*pass, retryParked bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if ln.again { // asked in between: what it waits for may have landed
		wait = 0
	}
	ln.timer = l.giveBack(ctx, ln, wait, msgs, passes, retryParked)
}

// awaitWindow gives back the messages that take took, and lets the lane wait for a sync
// window. That occupies no worker, uses up no patience and keeps no comparison open.
func (l *lanes) awaitWindow(ln *lane, why *errWindow, msgs map[string]jetstream.Msg) {
	l.mu.Lock()
	defer l.mu.Unlock()
	ln.working = false
	news := ln.retryParked // meanwhile
	for durable := range ln.msgs {
		news = news || msgs[durable] == nil
	}
	for durable, m := range msgs {
		held := ln.msgs[durable]
		ln.keep(m)
		news = news || held != nil && ln.msgs[durable] == held
	}
	if news {
		ln.running = false
		l.queue(ln)
		return
	}
	l.shut[ln] = why
	select {
	case l.shutting <- struct{}{}:
	default:
	}
}

// nudge lets a lane that waits for a window look again.
func (l *lanes) nudge(key objectKey) {
	l.mu.Lock()
	defer l.mu.Unlock()
	ln := l.by[key]
	if _, shut := l.shut[ln]; shut {
		delete(l.shut, ln)
		ln.running = false
		l.queue(ln)
	}
}

// isWorked tells whether a look at an object is under way. One that waits, for a sync
// window or for its next try, is not.
func (l *lanes) isWorked(key objectKey) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	ln := l.by[key]
	return ln != nil && ln.working
}

// isUnderWay tells whether an object is being looked at, or is about to be; one that waits
// for a window is not.
func (l *lanes) isUnderWay(key objectKey) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	ln := l.by[key]
	_, shut := l.shut[ln]
	return ln != nil && !shut
}

// isShut tells whether an object waits for a window.
func (l *lanes) isShut(key objectKey) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	_, shut := l.shut[l.by[key]]
	return shut
}

// openWindow queues the lanes whose window opens, and all that wait because of other
// settings than those in force. It returns when to look again, zero where none waits on.
func (l *lanes) openWindow(v *view, now time.Time) (again time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for ln, why := range l.shut {
		if why.under == v.inForce() && (why.opens.IsZero() || now.Before(why.opens)) {
			if again == 0 {
				again = windowLook
			}
			if !why.opens.IsZero() {
				again = min(again, why.opens.Sub(now))
			}
			continue
		}
		delete(l.shut, ln)
		ln.running = false
		l.queue(ln)
	}
	return again
}

// waitingFor returns how many lanes wait for a window of a setting.
func (l *lanes) waitingFor(setting schemas.Slug) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := 0
	for _, why := range l.shut {
		if why.setting == setting {
			n++
		}
	}
	return n
}

// giveBack needs the lock.
func (l *lanes) giveBack(ctx context.Context, ln *lane, wait time.Duration, msgs map[string]jetstream.Msg, passes []*pass, retryParked bool) *time.Timer {
	ln.working = false
	for _, m := range msgs {
		ln.keep(m)
	}
	ln.passes = append(passes, ln.passes...)
	ln.retryParked = ln.retryParked || retryParked
	if wait <= 0 {
		ln.running = false
		l.queue(ln)
		return nil
	}
	return time.AfterFunc(wait, func() {
		if ctx.Err() != nil {
			return
		}
		l.mu.Lock()
		defer l.mu.Unlock()
		ln.timer, ln.running = nil, false
		l.queue(ln)
	})
}

// wakeUp asks for a look at an object that waited for another one, parked or in its
// lane.
func (l *lanes) wakeUp(key objectKey) {
	l.look(key, nil, nil, true)
	l.mu.Lock()
	defer l.mu.Unlock()
	if ln := l.by[key]; ln != nil && ln.timer != nil && ln.timer.Stop() {
		ln.timer, ln.running, ln.waited = nil, false, 0
		l.queue(ln)
	}
}

// count returns the number of lanes.
func (l *lanes) count() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.by)
}

// holds returns the objects that have a lane, and how many messages of a durable
// consumer the lanes hold.
func (l *lanes) holds(durable string) (in map[objectKey]bool, messages int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	in = make(map[objectKey]bool, len(l.by))
	for key, ln := range l.by {
		in[key] = true
		if ln.msgs[durable] != nil {
			messages++
		}
	}
	return in, messages
}
