package e2e

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/nats-io/nuid"

	"github.com/vcsync/vcsync/broker"
	"github.com/vcsync/vcsync/producer"
	"github.com/vcsync/vcsync/schemas"
	"github.com/vcsync/vcsync/visualcron"
)

// stepLimit bounds each step of a run.
const stepLimit = 5 * time.Minute

// Ask asks for a run of a setting, as control does, and waits until its plan is there. A
// replay waits for no listing.
// It returns the plan and its entries; of a run that failed or was dropped too.
func (w *World) Ask(setting schemas.Slug, scope broker.RunScope) (p broker.Plan, entries []broker.PlanEntry) {
	w.T.Helper()
	return w.AskFor(setting, scope, false)
}

// AskFor is Ask, with the values of what differs or without.
func (w *World) AskFor(setting schemas.Slug, scope broker.RunScope, fields bool) (p broker.Plan, entries []broker.PlanEntry) {
	w.T.Helper()
	w.Do(func(ctx context.Context) error {
		snap, err := w.Broker.Snapshot(ctx)
		if err != nil {
			return err
		}
		set, before := snap.Settings[setting], snap.Runs[setting].Revision
		r := broker.Run{ID: nuid.Next(), Setting: setting, SettingRevision: set.Revision, Phase: broker.RunCapture, Scope: scope, Fields: fields, Asked: time.Now().UTC()}
		rev, err := w.Broker.PutRun(ctx, r, before)
		if err != nil {
			return err
		}
		if scope.IsReplay() {
			return w.move(ctx, setting, broker.RunPlan, "")
		}
		asked := broker.StoredRun{Run: r, Revision: rev}
		if err := w.until(ctx, "the source is listed", func() (bool, error) { return w.listed(set, asked), nil }); err != nil {
			return err
		}
		return w.move(ctx, setting, broker.RunPlan, "")
	})
	w.Do(func(ctx context.Context) error {
		r, err := w.Broker.GetRun(ctx, setting)
		if err != nil {
			return err
		}
		if err := w.until(ctx, "the plan is there", func() (bool, error) {
			p, err = w.Broker.GetPlan(ctx, setting)
			if errors.Is(err, broker.ErrNotFound) {
				return false, nil
			}
			return p.Run == r.ID, err
		}); err != nil {
			return err
		}
		if p.Failed != "" {
			return w.move(ctx, setting, broker.RunFailed, "")
		}
		entries, err = w.Entries(ctx, p)
		return errors.Join(err, w.move(ctx, setting, broker.RunShown, ""))
	})
	return p, entries
}

// AskAct asks for a run at a server, as control does, and waits until its plan is there.
func (w *World) AskAct(server schemas.Slug, act broker.RunAct, scope broker.RunScope) (p broker.Plan, entries []broker.PlanEntry) {
	w.T.Helper()
	key := broker.ActAt(server)
	w.Do(func(ctx context.Context) error {
		snap, err := w.Broker.Snapshot(ctx)
		if err != nil {
			return err
		}
		r := broker.Run{ID: nuid.Next(), Setting: key, Server: server, SettingRevision: snap.Servers[server].Revision, Phase: broker.RunPlan, Act: act, Scope: scope, By: "somebody", Asked: time.Now().UTC()}
		if _, err := w.Broker.PutRun(ctx, r, snap.Runs[key].Revision); err != nil {
			return err
		}
		if err := w.until(ctx, "the plan is there", func() (bool, error) {
			p, err = w.Broker.GetPlan(ctx, key)
			if errors.Is(err, broker.ErrNotFound) {
				return false, nil
			}
			return p.Run == r.ID, err
		}); err != nil {
			return err
		}
		if p.Failed != "" {
			return w.move(ctx, key, broker.RunFailed, "")
		}
		entries, err = w.Entries(ctx, p)
		return errors.Join(err, w.move(ctx, key, broker.RunShown, ""))
	})
	return p, entries
}

// Park stores a parked record, as control does where a person decides about it.
func (w *World) Park(p broker.Parked) {
	w.T.Helper()
	w.Do(func(ctx context.Context) error { _, err := w.Broker.PutParked(ctx, p); return err })
}

// Passes returns the passes at a server, the newest first.
func (w *World) Passes(server schemas.Slug) (out []broker.PassInfo) {
	w.T.Helper()
	w.Do(func(ctx context.Context) (err error) {
		out, err = w.Broker.Passes(ctx, server, time.Time{})
		return err
	})
	return out
}

// Approve approves the plan of a setting's run and waits until it has ended. It returns
// how far it came, and the entries with their outcomes.
func (w *World) Approve(p broker.Plan) (end broker.RunProgress, entries []broker.PlanEntry) {
	w.T.Helper()
	w.Do(func(ctx context.Context) error { return w.move(ctx, p.Setting, broker.RunApplying, p.ID) })
	return w.Finish(p)
}

// Finish waits until a run that is being applied has ended.
func (w *World) Finish(p broker.Plan) (end broker.RunProgress, entries []broker.PlanEntry) {
	w.T.Helper()
	w.Do(func(ctx context.Context) error {
		err := w.until(ctx, "the run has ended", func() (bool, error) {
			var err error
			if end, err = w.Broker.GetProgress(ctx, p.Setting); errors.Is(err, broker.ErrNotFound) {
				return false, nil
			}
			return end.Run == p.Run && end.Ended, err
		})
		if err != nil {
			return err
		}
		if entries, err = w.Entries(ctx, p); err != nil {
			return err
		}
		return w.move(ctx, p.Setting, end.Result, "")
	})
	return end, entries
}

// Entries returns the entries of a plan.
func (w *World) Entries(ctx context.Context, p broker.Plan) (entries []broker.PlanEntry, err error) {
	err = w.Broker.PlanPages(ctx, p, func(_ int, page broker.PlanPage) bool { entries = append(entries, page.Entries...); return true })
	return entries, err
}

// Drift returns the drift list of a setting.
func (w *World) Drift(setting schemas.Slug) (d broker.DriftList, entries []broker.PlanEntry) {
	w.T.Helper()
	w.Do(func(ctx context.Context) (err error) {
		if d, err = w.Broker.GetDrift(ctx, setting); err != nil {
			return err
		}
		return w.Broker.DriftPages(ctx, d, func(_ int, page broker.PlanPage) bool { entries = append(entries, page.Entries...); return true })
	})
	return d, entries
}

// Move moves a setting's run on.
func (w *World) Move(setting schemas.Slug, to broker.RunPhase, plan string) {
	w.T.Helper()
	w.Do(func(ctx context.Context) error { return w.move(ctx, setting, to, plan) })
}

func (w *World) move(ctx context.Context, setting schemas.Slug, to broker.RunPhase, plan string) error {
	r, err := w.Broker.GetRun(ctx, setting)
	if err != nil {
		return err
	}
	if r.Phase = to; plan != "" {
		r.Plan, r.Approved = plan, time.Now().UTC()
	}
	_, err = w.Broker.PutRun(ctx, r.Run, r.Revision)
	return err
}

// listed tells whether the producer proves that it has listed all that a run needs.
func (w *World) listed(set broker.StoredSetting, r broker.StoredRun) bool {
	all := w.Prod.Status()
	i := slices.IndexFunc(all, func(s producer.Status) bool { return s.Server == set.Source })
	if i < 0 {
		return false
	}
	for _, t := range r.Scope.TypesOf(set.Setting) {
		if visualcron.Supported(t) && !r.Listed(all[i].Types[t].Revision) {
			return false
		}
	}
	return true
}

func (w *World) until(ctx context.Context, what string, ok func() (bool, error)) error {
	for begun := time.Now(); time.Since(begun) < stepLimit; {
		yes, err := ok()
		if yes || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("until %s: %w", what, ctx.Err())
		case <-time.After(100 * time.Millisecond):
		}
	}
	return fmt.Errorf("%s did not come within %s", what, stepLimit)
}
