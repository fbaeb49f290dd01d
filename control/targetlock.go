package control

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/vcsync/vcsync/broker"
	"github.com/vcsync/vcsync/schemas"
)

// targetLock is the airlock at the target of one sync setting.
type targetLock struct {
	setting  broker.StoredSetting
	verdicts broker.Verdicts
	held     broker.HeldDeletions
	batches  []targetBatch
}

// targetBatch is a batch of it with its objects.
type targetBatch struct {
	AirlockBatch
	entries []broker.PlanEntry
}

// targetLocks returns what waits at targets, and what people have rejected there. It is as
// old as the drift lists: 2 seconds while a consumer lives.
func (s *Server) targetLocks(ctx context.Context) ([]targetLock, error) {
	snap, err := s.broker.Snapshot(ctx)
	if err != nil {
		return nil, err
	}
	var out []targetLock
	for _, v := range sortedSettings(snap) {
		held, err := s.broker.HeldDeletions(ctx, v.ID)
		if err != nil {
			return nil, err
		}
		l := targetLock{setting: v, verdicts: snap.Verdicts[v.ID], held: held}
		l.verdicts.Setting = v.ID
		if l.makeBatches(); len(l.batches) > 0 {
			out = append(out, l)
		}
	}
	return out, nil
}

// makeBatches puts what waits first, then what was rejected, by the batch in which it was.
func (l *targetLock) makeBatches() {
	of := AirlockBatch{Source: string(l.setting.Source), Target: string(l.setting.Target), Setting: string(l.setting.ID)}
	var waiting []broker.PlanEntry
	rejected := map[string][]broker.PlanEntry{}
	by := map[string]broker.RejectedDeletion{}
	for _, e := range slices.Concat(l.held.Waiting, l.held.Rejected) {
		// A verdict that the consumer has yet to see counts already.
		if d, ok := l.verdicts.Find(e.Source, e.Type, e.ID, e.Version); ok {
			rejected[d.Batch] = append(rejected[d.Batch], e)
			by[d.Batch] = d
		} else {
			waiting = append(waiting, e)
		}
	}
	if len(waiting) > 0 {
		b := of
		b.Batch, b.State, b.Count, b.Type = broker.BatchOf(l.setting.ID, waiting), stateHeld, len(waiting), typesOf(waiting)
		b.Class, b.Why = waiting[0].Reason, waiting[0].Why
		for _, e := range waiting {
			if e.Reason != b.Class {
				b.Class, b.Why = "several", "several reasons: see each object"
				break
			}
		}
		l.batches = append(l.batches, targetBatch{b, waiting})
	}
	names := make([]string, 0, len(rejected))
	for name := range rejected {
		names = append(names, name)
	}
	slices.SortFunc(names, func(a, b string) int { return cmp.Or(by[a].At.Compare(by[b].At), cmp.Compare(a, b)) })
	for _, name := range names {
		b, d := of, by[name]
		b.Batch, b.State, b.Count, b.Type = name, stateRejected, len(rejected[name]), typesOf(rejected[name])
		b.Who, b.At, b.Reason = d.Who, d.At, d.Reason
		l.batches = append(l.batches, targetBatch{b, rejected[name]})
	}
}

// typesOf names the types of entries.
func typesOf(entries []broker.PlanEntry) string {
	var out []string
	for _, t := range schemas.Types() {
		if slices.ContainsFunc(entries, func(e broker.PlanEntry) bool { return e.Type == t }) {
			out = append(out, string(t))
		}
	}
	return strings.Join(out, ",")
}

// targetLock finds a batch at a target, nil where there is none of that name.
func (s *Server) targetLock(ctx context.Context, batch string) (targetLock, *targetBatch, error) {
	all, err := s.targetLocks(ctx)
	if err != nil {
		return targetLock{}, nil, err
	}
	for _, l := range all {
		for i, b := range l.batches {
			if b.Batch == batch {
				return l, &l.batches[i], nil
			}
		}
	}
	return targetLock{}, nil, nil
}

// judgeTarget gives a verdict on deletions at a target. What is approved becomes a run that
// does exactly that; what is rejected is put on record. The caller holds s.writes.
func (s *Server) judgeTarget(ctx context.Context, l targetLock, b targetBatch, verdict broker.Verdict, reason string, only []ObjectRef) (*output[AirlockDecided], error) {
	chosen := b.entries
	if len(only) > 0 {
		chosen = nil
	}
	for _, ref := range only {
		t, err := schemas.ParseType(ref.Type)
		if err != nil {
			return nil, err
		}
		id, err := schemas.ParseID(ref.ID)
		if err != nil {
			return nil, err
		}
		is := func(e broker.PlanEntry) bool { return e.Type == t && e.ID == id }
		i := slices.IndexFunc(b.entries, is)
		if i < 0 {
			return nil, huma.Error409Conflict(fmt.Sprintf("%s/%.64s is not in batch %s: its deletion does not wait, or the object is back. Look at it: vcsync airlock show %s.", t, ref.ID, b.Batch, b.Batch))
		}
		if !slices.ContainsFunc(chosen, is) {
			chosen = append(chosen, b.entries[i])
		}
	}
	v, next := l.setting, l.verdicts
	next.Rejected = nil
	for _, r := range l.verdicts.Rejected { // what is decided anew goes, and what has ended
		decided := slices.ContainsFunc(chosen, func(e broker.PlanEntry) bool { return e.Source == r.Source && e.Type == r.Type && e.ID == r.ID })
		if stands, err := s.stands(ctx, r); err != nil {
			return nil, err
		} else if stands && !decided {
			next.Rejected = append(next.Rejected, r)
		}
	}
	action := "airlock.approve"
	switch {
	case verdict == broker.Approved && !v.Active:
		return nil, huma.Error409Conflict(fmt.Sprintf("Sync setting %s is off, so nobody knows what its source has by now. Turn it on first: vcsync setting activate %s.", v.ID, v.ID))
	case verdict == broker.Approved:
		if m, err := s.broker.GetSafeMode(ctx); err != nil {
			return nil, err
		} else if m.On {
			return nil, huma.Error409Conflict("vcsync is in safe mode and deletes nothing, whatever is approved. End that first: vcsync safe-mode off.")
		}
		if r, err := s.broker.GetRun(ctx, v.ID); err == nil && !r.Phase.Over() {
			return nil, huma.Error409Conflict(fmt.Sprintf("A run of sync setting %s is not over: %s. Wait for it, or drop it: vcsync sync %s --drop.", v.ID, r.Phase, v.ID))
		} else if err != nil && !errors.Is(err, broker.ErrNotFound) {
			return nil, err
		}
	case b.State == stateRejected:
		return nil, huma.Error409Conflict(fmt.Sprintf("Nothing of batch %s is left to be %s.", b.Batch, verdict))
	default:
		action = "airlock.reject"
		for _, e := range chosen {
			next.Rejected = append(next.Rejected, broker.RejectedDeletion{Source: e.Source, Type: e.Type, ID: e.ID, Name: e.Name, Version: e.Version,
				Batch: b.Batch, Who: who(ctx), From: remoteAddr(ctx), At: time.Now().UTC(), Reason: reason})
		}
		if len(next.Rejected) > broker.VerdictsMost {
			return nil, huma.Error409Conflict(fmt.Sprintf("%d deletions of sync setting %s would be rejected, and there is room for %d: take deletions out of its rules instead.", len(next.Rejected), v.ID, broker.VerdictsMost))
		}
	}
	out := &output[AirlockDecided]{}
	what := fmt.Sprintf("%d of %d deletions of %s at %s, which waited because of %s: %s", len(chosen), b.Count, b.Type, v.Target, cmp.Or(b.Class, "what was decided before"), reason)
	err := s.act(ctx, broker.AuditRecord{Action: action, Object: "airlock/" + string(v.ID) + "/" + b.Batch, Before: l.verdicts.Revision, Detail: what}, func(ctx context.Context) error {
		var err error
		if len(next.Rejected) > 0 || l.verdicts.Revision > 0 {
			next.Revision, err = s.broker.PutVerdicts(ctx, next)
		}
		if err == nil && verdict == broker.Approved {
			var r broker.Run
			r, err = s.broker.ApproveDeletions(ctx, v, b.Batch, chosen, who(ctx))
			out.Body.Run = r.ID
		}
		if errors.Is(err, broker.ErrConflict) {
			return huma.Error409Conflict(fmt.Sprintf("What waits for sync setting %s changed this moment: look at it again: vcsync airlock list.", v.ID))
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	out.Body.Decided, out.Body.Left = len(chosen), []AirlockBatch{}
	l.verdicts, l.batches = next, nil
	if verdict == broker.Approved { // these are on their way
		gone := func(e broker.PlanEntry) bool {
			return slices.ContainsFunc(chosen, func(o broker.PlanEntry) bool { return o.Type == e.Type && o.ID == e.ID })
		}
		l.held.Waiting, l.held.Rejected = slices.DeleteFunc(slices.Clone(l.held.Waiting), gone), slices.DeleteFunc(slices.Clone(l.held.Rejected), gone)
	}
	l.makeBatches()
	for _, left := range l.batches {
		out.Body.Left = append(out.Body.Left, left.AirlockBatch)
	}
	return out, nil
}

// stands tells whether a verdict still counts: the newest that is known of the object is
// the deletion that was rejected.
func (s *Server) stands(ctx context.Context, r broker.RejectedDeletion) (bool, error) {
	head, err := s.broker.HeadOf(ctx, schemas.Key{Source: r.Source, Type: r.Type, Token: r.ID.Token()})
	if errors.Is(err, broker.ErrNotFound) || errors.Is(err, schemas.ErrEvent) {
		return false, nil
	}
	return err == nil && head.Version == r.Version, err
}
