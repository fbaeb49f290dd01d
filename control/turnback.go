package control

import (
	"context"
	"errors"
	"maps"
	"slices"
	"time"

	"github.com/vcsync/vcsync/broker"
	"github.com/vcsync/vcsync/schemas"
)

// byItself is who does what was asked for earlier, in the audit.
const byItself = "vcsync"

// turnBack turns sync settings back on or off whose time is over. Until when stands in
// the setting, so whichever control process runs then does it; two of them at once are
// told apart by the setting's revision.
func (t *tender) turnBack(ctx context.Context, snap broker.Snapshot) {
	for _, id := range slices.Sorted(maps.Keys(snap.Settings)) {
		v := snap.Settings[id]
		if v.Until.IsZero() || time.Now().Before(v.Until) {
			delete(t.stuck, id)
			continue
		}
		err := t.s.turnBack(ctx, id)
		switch {
		case err == nil, errors.Is(err, broker.ErrConflict), ctx.Err() != nil:
			delete(t.stuck, id)
		case t.stuck[id] != v.Revision: // said once
			t.stuck[id] = v.Revision
			t.s.log.WarnContext(ctx, "a sync setting cannot be turned back although its time is over; it is tried again until somebody turns it on or off", "setting", id, "active", v.Active, "until", v.Until, "error", err)
		}
	}
}

// turnBack turns one setting back, if its time is over still.
func (s *Server) turnBack(ctx context.Context, id schemas.Slug) error {
	s.writes.Lock()
	defer s.writes.Unlock()
	snap, err := s.broker.Snapshot(ctx)
	if err != nil {
		return err
	}
	old, ok := snap.Settings[id]
	if !ok || old.Until.IsZero() || time.Now().Before(old.Until) {
		return nil // somebody was faster
	}
	v := old.Clone()
	v.Active = !old.Active
	v.Reason, v.Until = "turned back: it was only to be "+onOff(old.Active)+" until "+old.Until.Format(time.RFC3339), time.Time{}
	if old.Reason != "" {
		v.Reason += " (" + old.Reason + ")"
	}
	action := "setting.deactivate"
	if v.Active {
		action = "setting.activate"
		if err := s.check(snap, v); err != nil {
			return err
		}
	}
	v.Since = snap.Since(v)
	if _, err := v.Encode(); err != nil {
		return err
	}
	r := broker.AuditRecord{Action: action, Object: "setting/" + string(id), Before: old.Revision, Who: byItself, Detail: v.Reason}
	return s.act(ctx, r, func(ctx context.Context) error {
		_, err := s.broker.PutSetting(ctx, v, old.Revision)
		return err
	})
}

func onOff(active bool) string {
	if active {
		return "on"
	}
	return "off"
}
