package consumer

import (
	"context"
	"time"

	"github.com/vcsync/vcsync/broker"
	"github.com/vcsync/vcsync/consumer/decide"
	"github.com/vcsync/vcsync/schemas"
	"github.com/vcsync/vcsync/visualcron"
)

// graceOf says how far an object that is gone at its source is with being switched off
// before it is deleted, and when its grace ends.
func graceOf(t schemas.Type, e broker.Entry, set schemas.Setting, now time.Time) (decide.Grace, time.Time) {
	grace := set.GraceOf(t)
	ends := e.Grace.Since.Add(grace)
	switch {
	case grace == 0:
		return decide.NoGrace, time.Time{}
	case e.Grace.IsZero(), e.State == broker.Intent && e.Deleted == "": // it may be on still
		return decide.GraceBegins, time.Time{}
	case now.Before(ends):
		return decide.InGrace, ends
	}
	return decide.NoGrace, time.Time{}
}

// switchOff switches a job off that is gone at its source, and notes since when and what
// its flag was, before it is done: a crash in between forgets neither.
func (l *look) switchOff(ctx context.Context, v *view, entry broker.Entry, tm terms, sit decide.Situation, have []byte, now visualcron.Normal) (stale bool, err error) {
	can, asked := l.capability(l.key.t)
	if asked && !can.Put {
		return false, &visualcron.Error{Class: visualcron.Unsupported, Op: "put", Server: l.server.ID, Type: l.key.t, ID: l.key.id}
	}
	off, was, err := visualcron.SetActive(l.key.t, have, false)
	if err != nil {
		return false, err
	}
	record := entry
	if entry.Grace.IsZero() {
		record.Grace = broker.Grace{Setting: l.deleter, Active: was}
	}
	record.Grace.Since = time.Now().UTC()
	view := visualcron.View{Secrets: can.Secrets, Values: v.captured, Digest: l.cfg.Broker.Keys.Digest}
	want, err := view.Normalize(l.key.t, off)
	if err != nil {
		return false, err
	}
	leave := func(e *broker.Entry, body []byte, n visualcron.Normal) (err error) {
		if e.AtTarget = n.Digest; e.Left != "" {
			e.Left, err = l.left(body, n, record, can.Secrets)
		}
		e.LeftSecrets = string(can.Secrets)
		return err
	}
	if !l.stands(v, tm, sit) {
		return true, nil // G13
	}
	intent := record
	intent.State, intent.Ours = broker.Intent, true
	if intent.Before, err = l.left(have, now, record, can.Secrets); err != nil {
		return false, err
	}
	if sit.Edited {
		intent.Before = entry.Left // it stays an edit where this write does not arrive
	}
	if err := leave(&intent, off, want); err != nil {
		return false, err
	}
	begin := l.put
	if was {
		begin = func(ctx context.Context, e broker.Entry) error {
			return l.begin(ctx, e, decide.Update, have, want.Digest)
		}
	}
	if err := begin(ctx, intent); err != nil {
		return false, err
	}
	stored := have
	if was {
		if !l.stands(v, tm, sit) || !l.sends() {
			return true, l.unsent(ctx, intent, entry, true) // G13
		}
		req, cancel := l.deadline(ctx)
		defer cancel()
		if stored, err = l.conn.Put(req, l.key.t, l.key.id, off, can.Secrets); err != nil {
			if !mayLand(err) && req.Err() == nil { // it is on still: who switches it off is a person
				if uerr := l.unsent(ctx, intent, entry, true); uerr != nil {
					return false, uerr
				}
			}
			if visualcron.ClassOf(err) == visualcron.Changed {
				return l.changed(ctx, can, err)
			}
			return false, l.openOutcome(ctx, req, err)
		}
	}
	got, err := view.Normalize(l.key.t, stored)
	if err != nil {
		return false, err
	}
	if got.Digest != want.Digest {
		return false, &errMismatch{visualcron.Differences(want, got, 8)}
	}
	if record.State == broker.Intent {
		record.State = broker.Applied
	}
	if err := leave(&record, stored, got); err != nil {
		return false, err
	}
	if was {
		l.count(func(s *TargetStatus) { s.Applied++ })
	}
	if err := l.put(ctx, record); err != nil {
		return false, err
	}
	l.log.InfoContext(ctx, "a job that is gone at its source is switched off, and deleted when its grace is over", "type", l.key.t, "id", l.key.id, "name", l.event.Object.Name, "was", record.Grace.Active)
	l.lanes.look(l.key, nil, nil, false) // what follows waits for the end of the grace
	return false, nil
}

// lookAt asks for another look at an object at a time; audits do too.
func (s *session) lookAt(key objectKey, at time.Time) {
	time.AfterFunc(time.Until(at), func() {
		if s.soft.Err() == nil {
			s.lanes.look(key, nil, nil, false)
		}
	})
}
