package main

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/vcsync/vcsync/e2e"
	"github.com/vcsync/vcsync/schemas"
)

// The frozen writer: consumers are stopped in the middle of writes to slow targets,
// others take over and write the same objects again, and then the stopped ones go on.
// Nothing of them may land.

// runFrozen freezes two of four consumers at a time, while all lanes are busy.
func runFrozen(ctx context.Context) (err error) {
	fmt.Printf("chaos: %d times two of 4 consumers are frozen while they write %d jobs to 8 slow targets (seed %d)\n", *rounds, *jobs, *seed)
	a, err := newApart(ctx, false, 1, 4, map[schemas.Slug]int{"production": 8}, 300*time.Millisecond)
	defer func() { err = a.end(err) }()
	if err != nil {
		return err
	}
	if _, err := a.settles(ctx, 2*time.Minute); err != nil {
		return fmt.Errorf("before any fault: %w", err)
	}
	rest := a.flows(40)
	attacked, tookOver, edge := 0, 0, 0
	var slowest time.Duration
	for round := 1; round <= *rounds; round++ {
		if err = a.spread(ctx, 2); err != nil {
			break
		}
		victims := []*e2e.Process{}
		for _, i := range a.rng.Perm(len(a.Consumers))[:2] {
			victims = append(victims, a.Consumers[i])
		}
		// At a moment at which both write.
		for busy := false; !busy && ctx.Err() == nil; {
			_ = a.wait(ctx, time.Duration(a.rng.IntN(20))*time.Millisecond)
			a.mu.Lock()
			busy = a.under[victims[0].Name] > 0 && a.under[victims[1].Name] > 0
			a.mu.Unlock()
		}
		for _, v := range victims {
			if err = v.Freeze(); err != nil {
				break
			}
		}
		a.mu.Lock()
		under := a.under[victims[0].Name] + a.under[victims[1].Name]
		a.mu.Unlock()
		frozen := time.Now()
		attacked += under
		how := ""
		switch a.rng.IntN(3) {
		case 0: // around the end of the lease: the old one must have let go, the new one may begin
			d := leaseTTL*6/10 + time.Duration(a.rng.Int64N(int64(leaseTTL/2)))
			how, edge = "around the end of the lease", edge+1
			err = a.wait(ctx, d)
		case 1: // in the moment in which another begins
			how = "as soon as others had taken over"
			err = a.left(ctx, victims)
			slowest = max(slowest, time.Since(frozen))
			tookOver++
		default: // after others have written the same objects
			how = "after others had written"
			if err = a.left(ctx, victims); err == nil {
				slowest = max(slowest, time.Since(frozen))
				err = a.wait(ctx, time.Duration(1+a.rng.IntN(4))*time.Second)
			}
			tookOver++
		}
		lasted := time.Since(frozen)
		for _, v := range victims {
			if terr := v.Thaw(); err == nil {
				err = terr
			}
		}
		if err != nil {
			break
		}
		a.say("round %2d: %s and %s frozen with %d writes under way, let go %s, after %s", round, victims[0].Name, victims[1].Name, under, how, lasted.Round(10*time.Millisecond))
		if err = a.wait(ctx, 2*time.Second); err == nil {
			err = a.revive(ctx)
		}
		if err != nil {
			break
		}
	}
	rest()
	if err != nil {
		return err
	}
	fmt.Printf("chaos: %d writes were under way when their writers were frozen; %d times others had taken over, after %s at most; %d times they woke around the end of the lease\n",
		attacked, tookOver, slowest.Round(100*time.Millisecond), edge)
	if slowest > leaseTTL+5*time.Second {
		a.broken = append(a.broken, fmt.Sprintf("a take-over lasted %s, want at most %s", slowest, leaseTTL+5*time.Second))
	}
	return a.verdict(ctx, fmt.Sprintf("%d times two were frozen", *rounds))
}

// left waits until no target is held by any of the processes.
func (a *apart) left(ctx context.Context, gone []*e2e.Process) error {
	return a.holders(ctx, 30*time.Second, "targets taken over", func(by map[string]int, free int) bool {
		return free == 0 && !slices.ContainsFunc(gone, func(p *e2e.Process) bool { return by[p.Name] > 0 })
	})
}

// spread waits until every consumer has as many targets.
func (a *apart) spread(ctx context.Context, each int) error {
	return a.holders(ctx, 45*time.Second, "targets shared out", func(by map[string]int, _ int) bool {
		return !slices.ContainsFunc(a.Consumers, func(p *e2e.Process) bool { return by[p.Name] != each })
	})
}

func (a *apart) holders(ctx context.Context, limit time.Duration, what string, ok func(by map[string]int, free int) bool) error {
	for begun := time.Now(); ; {
		held := a.witness.Held()
		by, free := map[string]int{}, 0
		for target := range a.from {
			if h := held[target]; h == "" || h == "?" {
				free++
			} else {
				by[h]++
			}
		}
		switch {
		case ok(by, free):
			return nil
		case time.Since(begun) > limit:
			var words []string
			for _, name := range slices.Sorted(maps.Keys(by)) {
				words = append(words, fmt.Sprintf("%s %d", name, by[name]))
			}
			return fmt.Errorf("not within %s: %s; %d are nobody's, the others are held by: %s", limit, what, free, strings.Join(words, ", "))
		}
		if err := a.wait(ctx, 10*time.Millisecond); err != nil {
			return err
		}
	}
}
