package consumer

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/vcsync/vcsync/consumer/decide"
	"github.com/vcsync/vcsync/schemas"
)

// windowLook is how often lanes that wait for a window are looked through at least: a
// timer does not notice that the clock was set.
const windowLook = 10 * time.Second

// errWindow says that a write waits for a sync window.
type errWindow struct {
	opens time.Time // zero where that is not to be seen
	// setting is one of those that wait, under those that are in force.
	setting schemas.Slug
	under   string
}

func (e *errWindow) Error() string {
	if e.opens.IsZero() {
		return "waits for a sync window, and none is to open in the next years"
	}
	return fmt.Sprintf("waits for its sync window, which opens at %s", e.opens.UTC().Format(time.RFC3339))
}

// windows remembers when the windows of settings open and close next.
type windows struct {
	mu sync.Mutex
	by map[schemas.Slug]windowState
}

type windowState struct {
	at   time.Time // when it was found out
	open bool
	next time.Time // when it changes, zero where that is not to be seen
}

// at tells whether a setting's windows are open, and when that changes.
func (w *windows) at(s counted, now time.Time) (open bool, next time.Time) {
	if len(s.windows) == 0 {
		return true, time.Time{}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	have, ok := w.by[s.setting]
	until := have.next
	if until.IsZero() {
		until = have.at.Add(time.Hour)
	}
	if ok && !now.Before(have.at) && now.Before(until) {
		return have.open, have.next
	}
	have.at = now
	have.open, have.next = s.windows.At(now)
	if w.by == nil {
		w.by = map[schemas.Slug]windowState{}
	}
	w.by[s.setting] = have
	return have.open, have.next
}

// counted is a setting whose rights count for an object.
type counted struct {
	setting schemas.Slug
	windows schemas.Windows
	rights  schemas.Rights
}

// inForce names the settings and their revisions: while that stays, nothing that waits
// for a window need be looked at.
func (v *view) inForce() string {
	v.force.Do(func() {
		var w []string
		for id, s := range v.settings {
			w = append(w, fmt.Sprintf("%s %d", id, s.Revision))
		}
		slices.Sort(w)
		if v.safe {
			w = append(w, "safe mode")
		}
		v.forced = strings.Join(w, ",")
	})
	return v.forced
}

// window tells whether none of the settings that give the right to the write that a
// situation may lead to is open, and then when the first opens: zero where that is not to
// be seen. The target has been read.
func (l *look) window(v *view, tm terms, s decide.Situation) (shut bool, opens time.Time) {
	gives := func(r schemas.Rights) bool { return r.Updated }
	switch {
	case s.Source == decide.Deleted:
		gives = func(r schemas.Rights) bool { return r.Deleted }
	case s.Target == decide.Absent:
		gives = func(r schemas.Rights) bool { return r.New }
	}
	now := time.Now()
	for _, c := range tm.counted {
		if !gives(c.rights) {
			continue
		}
		open, next := v.windows.at(c, now)
		if open {
			return false, time.Time{}
		}
		shut = true
		if opens.IsZero() || !next.IsZero() && next.Before(opens) {
			opens = next
		}
	}
	return shut, opens
}

// stands tells whether a plan may still be sent: the settings under which it was made
// are in force (G13), and their window is open. Where nobody wants anything of the target
// any more, the session ends.
func (l *look) stands(v *view, tm terms, s decide.Situation) bool {
	if now, _ := l.current(); now != v || l.soft.Err() != nil {
		return false
	}
	shut, _ := l.window(v, tm, s)
	return !shut
}

// openWindows wakes the lanes that wait for a window when it opens, or when the settings
// change, until ctx ends.
func (s *session) openWindows(ctx context.Context) {
	for ctx.Err() == nil {
		v, changed := s.current()
		var tick <-chan time.Time
		if again := s.lanes.openWindow(v, time.Now()); again > 0 {
			tick = time.After(again)
		}
		select {
		case <-ctx.Done():
		case <-changed:
		case <-tick:
		case <-s.lanes.shutting:
		}
	}
}
