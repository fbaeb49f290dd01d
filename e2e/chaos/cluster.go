package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/vcsync/vcsync/broker"
	"github.com/vcsync/vcsync/schemas"
)

// The cluster: three brokers of deploy/nats, whose members are killed, frozen, cut off
// from the others and restarted while jobs change.

// runCluster lets every fault happen once to the leader of the events and once to
// another member, and restarts all three in turn.
func runCluster(ctx context.Context) (err error) {
	fmt.Printf("chaos: the members of a cluster of three fail in turn while %d jobs at each of 2 sources change for 6 targets; 2 producers, 3 consumers (seed %d)\n", *jobs, *seed)
	a, err := newApart(ctx, true, 2, 3, map[schemas.Slug]int{"production": 4, "factory": 2}, 100*time.Millisecond)
	defer func() { err = a.end(err) }()
	if err != nil {
		return err
	}
	if took, err := a.settles(ctx, 2*time.Minute); err != nil {
		return fmt.Errorf("before any fault: %w", err)
	} else {
		a.say("all is captured and applied after %s", took.Round(100*time.Millisecond))
	}
	nc, js, err := a.Connect("observer")
	if err != nil {
		return err
	}
	defer nc.Close()
	rest := a.flows(12)
	resting := false
	defer func() {
		if !resting {
			rest()
		}
	}()
	if err := a.wait(ctx, 5*time.Second); err != nil {
		return err
	}
	a.heldUp()
	if err := a.wait(ctx, 15*time.Second); err != nil {
		return err
	}
	a.say("no fault: a change took %s at most", a.heldUp().Round(10*time.Millisecond))
	const away = 15 * time.Second
	kill := func(i int) error {
		a.Members[i].Kill()
		return errors.Join(a.wait(ctx, 5*time.Second), a.Members[i].Start(ctx))
	}
	freeze := func(i int) error {
		return errors.Join(a.Members[i].Freeze(), a.wait(ctx, away), a.Members[i].Thaw())
	}
	cutOff := func(ends bool) func(int) error {
		return func(i int) error {
			again := a.CutOff(i, ends)
			defer again()
			return a.wait(ctx, away)
		}
	}
	faults := 0
	for _, f := range []struct {
		what string
		do   func(member int) error
	}{
		{"kill -9, away for 5 s", kill},
		{"SIGSTOP for 15 s", freeze},
		{"cut off from the other two for 15 s, connections stay", cutOff(false)},
		{"cut off from the other two for 15 s, connections end", cutOff(true)},
	} {
		for _, leads := range []bool{true, false} {
			leader, err := a.current(ctx, js)
			if err != nil {
				return err
			}
			member, word := leader, "which leads the events"
			if !leads {
				member, word = (leader+1+a.rng.IntN(2))%3, "which does not lead them"
			}
			faults++
			a.heldUp()
			if err := f.do(member); err != nil {
				return fmt.Errorf("%s, %s: %w", a.Members[member].Name, f.what, err)
			}
			if err := a.fresh(ctx, js); err != nil {
				return fmt.Errorf("%s, %s: %w", a.Members[member].Name, f.what, err)
			}
			a.say("%s, %s: %s; a change took %s at most; %d changes, %d writes", a.Members[member].Name, word, f.what, a.heldUp().Round(10*time.Millisecond), a.count(), a.writes())
			if err := a.revive(ctx); err != nil {
				return err
			}
		}
	}
	for i, p := range a.Members {
		faults++
		a.heldUp()
		p.Stop()
		if err := p.Start(ctx); err != nil {
			return err
		}
		if err := a.fresh(ctx, js); err != nil {
			return fmt.Errorf("rolling restart, %s: %w", p.Name, err)
		}
		a.say("rolling restart, %d of 3: a change took %s at most; %d changes, %d writes", 1+i, a.heldUp().Round(10*time.Millisecond), a.count(), a.writes())
		if err := a.revive(ctx); err != nil {
			return err
		}
	}
	rest()
	resting = true
	return a.verdict(ctx, fmt.Sprintf("%d faults of the cluster", faults))
}

// current waits until the events have a leader and every stream three current copies,
// and returns which member leads the events.
func (a *apart) current(ctx context.Context, js jetstream.JetStream) (leader int, err error) {
	limit := time.Now().Add(2 * time.Minute)
	for {
		leader, err = a.look(ctx, js)
		if err == nil {
			return leader, nil
		}
		if time.Now().After(limit) {
			return 0, fmt.Errorf("the cluster is not whole after 2 minutes: %w", err)
		}
		if werr := a.wait(ctx, 200*time.Millisecond); werr != nil {
			return 0, werr
		}
	}
}

func (a *apart) look(ctx context.Context, js jetstream.JetStream) (leader int, err error) {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	names := js.StreamNames(ctx)
	count := 0
	for name := range names.Name() {
		s, err := js.Stream(ctx, name)
		if err != nil {
			return 0, fmt.Errorf("%s: %w", name, err)
		}
		c := s.CachedInfo().Cluster
		switch {
		case c == nil || c.Leader == "" || len(c.Replicas) != 2:
			return 0, fmt.Errorf("%s has no leader and two others", name)
		case slices.ContainsFunc(c.Replicas, func(p *jetstream.PeerInfo) bool { return !p.Current || p.Offline }):
			return 0, fmt.Errorf("a copy of %s is behind", name)
		}
		if name == broker.StreamEvents {
			leader = int(strings.TrimPrefix(c.Leader, "vcsync-")[0] - '1')
		}
		count++
	}
	if err := names.Err(); err != nil {
		return 0, err
	}
	if count == 0 {
		return 0, errors.New("no streams")
	}
	return leader, nil
}

// fresh waits until the cluster is whole, and until what has changed before now is at
// the targets.
func (a *apart) fresh(ctx context.Context, js jetstream.JetStream) error {
	if _, err := a.current(ctx, js); err != nil {
		return err
	}
	for begun := time.Now(); ; {
		behind := a.behind(begun)
		if behind == 0 {
			return nil
		}
		if time.Since(begun) > 2*time.Minute {
			return fmt.Errorf("%d objects have not got to their targets in 2 minutes", behind)
		}
		if err := a.wait(ctx, 100*time.Millisecond); err != nil {
			return err
		}
	}
}

// behind counts the objects at targets whose last write is of a version older than the
// one that the source had at a moment.
func (a *apart) behind(at time.Time) (n int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for target, source := range a.from {
		for i := range *jobs {
			want := 0
			for _, e := range a.history[string(source)+"/"+string(id(i))] {
				if !e.deleted && a.at[e.version].Before(at) {
					want = e.version
				} else if e.deleted {
					want = 0 // whether the target ever had what was before, is open
				}
			}
			if a.highest[string(target)+"/"+string(id(i))] < want {
				n++
			}
		}
	}
	return n
}
