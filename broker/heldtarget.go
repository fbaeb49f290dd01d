package broker

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nuid"

	"github.com/vcsync/vcsync/schemas"
)

// HeldDeletions are the deletions at the target of a sync setting that wait for a person,
// or that one has rejected, as its drift list has them.
type HeldDeletions struct {
	Setting schemas.Slug
	Source  schemas.Slug
	Target  schemas.Slug
	// Batch names those of Waiting: another set of them, or another version of one, is
	// another batch. Empty where none waits.
	Batch   string
	Waiting []PlanEntry
	// Rejected are those that stay.
	Rejected []PlanEntry
	// Cut tells that the drift list had no room for all.
	Cut bool
}

// heldReasons are the words of package decide for a deletion that waits in the airlock, and
// rejectedReason that for one that a person has rejected.
var heldReasons = []string{"airlock", "in-use"}

const rejectedReason = "rejected"

// IsHeldDeletion tells whether an entry of a drift list is a deletion that waits in the
// airlock at the target.
func (e PlanEntry) IsHeldDeletion() bool {
	return e.Act == "hold" && slices.Contains(heldReasons, e.Reason)
}

// IsRejectedDeletion tells whether it is one that a person has rejected.
func (e PlanEntry) IsRejectedDeletion() bool { return e.Act == "hold" && e.Reason == rejectedReason }

// HeldDeletions returns what waits at the target of a setting; nothing where it has no
// drift list.
func (b *Broker) HeldDeletions(ctx context.Context, setting schemas.Slug) (HeldDeletions, error) {
	const tries = 5
	for try := 0; ; try++ {
		out, err := b.heldDeletions(ctx, setting)
		if !errors.Is(err, ErrConflict) || try == tries { // a newer list was stored meanwhile
			return out, err
		}
		select {
		case <-ctx.Done():
			return out, ctx.Err()
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func (b *Broker) heldDeletions(ctx context.Context, setting schemas.Slug) (HeldDeletions, error) {
	out := HeldDeletions{Setting: setting}
	d, err := b.GetDrift(ctx, setting)
	if errors.Is(err, ErrNotFound) {
		return out, nil
	}
	if err != nil {
		return out, err
	}
	out.Source, out.Target, out.Cut = d.Source, d.Target, d.Cut
	err = b.DriftPages(ctx, d, func(_ int, page PlanPage) bool {
		for _, e := range page.Entries {
			switch {
			case e.IsHeldDeletion():
				out.Waiting = append(out.Waiting, e)
			case e.IsRejectedDeletion():
				out.Rejected = append(out.Rejected, e)
			}
		}
		return true
	})
	if err == nil {
		out.Batch = BatchOf(setting, out.Waiting)
	}
	return out, err
}

// BatchOf names a set of deletions at the target of a setting, empty for none.
func BatchOf(setting schemas.Slug, entries []PlanEntry) string {
	if len(entries) == 0 {
		return ""
	}
	var rows []string
	for _, e := range entries {
		rows = append(rows, fmt.Sprintf("%s %s %s %s", e.Type, e.ID, e.Source, e.Version))
	}
	slices.Sort(rows)
	sum := sha256.Sum256([]byte("target " + string(setting) + "\n" + strings.Join(rows, "\n")))
	return hex.EncodeToString(sum[:])[:12]
}

// ApproveDeletions stores a run that does exactly these deletions, with its plan. ErrConflict
// where another run of the setting is not over, or is asked for this moment.
func (b *Broker) ApproveDeletions(ctx context.Context, set StoredSetting, batch string, entries []PlanEntry, by string) (Run, error) {
	before, err := b.GetRun(ctx, set.ID)
	if err != nil && !errors.Is(err, ErrNotFound) {
		return Run{}, err
	}
	if err == nil && !before.Phase.Over() {
		return Run{}, fmt.Errorf("run %s of sync setting %s is not over: %w", before.ID, set.ID, ErrConflict)
	}
	now := time.Now().UTC()
	r := Run{ID: nuid.Next(), Setting: set.ID, SettingRevision: set.Revision, Phase: RunApplying, Scope: RunScope{Airlock: batch}, Plan: nuid.Next(), Approved: now, By: by, Asked: now}
	p := Plan{ID: r.Plan, Run: r.ID, Setting: set.ID, SettingRevision: set.Revision, Source: set.Source, Target: set.Target, Began: now, Made: now}
	counts := map[PlanCount]int{}
	entries = slices.Clone(entries)
	for i, e := range entries {
		e.Act, e.Would = "delete", ""
		entries[i] = e
		counts[PlanCount{Type: e.Type, Difference: e.Difference, Act: e.Act}]++
	}
	for c, n := range counts {
		c.Objects = n
		p.Counts = append(p.Counts, c)
	}
	slices.SortFunc(p.Counts, func(x, y PlanCount) int { return strings.Compare(string(x.Type), string(y.Type)) })
	if err := b.PutPlan(ctx, p, entries); err != nil {
		return Run{}, err
	}
	_, err = b.PutRun(ctx, r, before.Revision)
	return r, err
}
