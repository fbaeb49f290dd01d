package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/vcsync/vcsync/e2e"
	"github.com/vcsync/vcsync/schemas"
)

// The roles apart: two sources, six targets, and a broker, control, two producers and
// three consumers that are killed, frozen and cut off while jobs change.

const leaseTTL = 10 * time.Second

// apart is a fleet of roles and what flows through it.
type apart struct {
	*e2e.Roles
	*flow
	policies map[schemas.Slug]schemas.ActivePolicy
	sources  []schemas.Slug
	rng      *rand.Rand
	begun    time.Time
	ended    []string // processes that ended by themselves
	clerk    *clerk   // nil without -admin
}

// newApart starts a fleet of roles with so many targets for each source.
func newApart(ctx context.Context, clustered bool, producers, consumers int, targets map[schemas.Slug]int, slow time.Duration) (*apart, error) {
	fleet, err := e2e.NewFleet(*binary)
	if err != nil {
		return nil, err
	}
	fleet.Env = []string{"VCSYNC_POLL=5s", "VCSYNC_LEASE_TTL=" + leaseTTL.String()}
	a := &apart{policies: map[schemas.Slug]schemas.ActivePolicy{}, rng: rand.New(rand.NewPCG(*seed, 1)), begun: time.Now()}
	a.flow = &flow{fleet: fleet, from: map[schemas.Slug]schemas.Slug{}, slow: slow, rng: rand.New(rand.NewPCG(*seed, 2)), history: map[string][]event{}, highest: map[string]int{}}
	if clustered {
		a.Roles, err = fleet.OnCluster(ctx, *files, producers, consumers)
	} else {
		a.Roles, err = fleet.Apart(ctx, producers, consumers)
	}
	if err != nil {
		return a, errors.Join(err, fleet.Close(true))
	}
	if err := a.hosts(ctx, targets); err != nil {
		return a, err
	}
	if err := a.Start(ctx); err != nil {
		return a, err
	}
	if err := a.RegisterFrom(ctx, a.from, a.policies); err != nil {
		return a, err
	}
	a.witness, err = a.Witness()
	return a, err
}

// hosts starts the stand-ins, with their jobs.
func (a *apart) hosts(ctx context.Context, targets map[schemas.Slug]int) error {
	for _, source := range []schemas.Slug{"production", "factory"} {
		n := targets[source]
		if n == 0 {
			continue
		}
		if _, err := a.AddHost(ctx, source); err != nil {
			return err
		}
		a.sources = append(a.sources, source)
		for i := range n {
			name := schemas.Slug(fmt.Sprintf("%s-%d", source, 1+i))
			h, err := a.AddHost(ctx, name)
			if err != nil {
				return err
			}
			a.from[name] = source
			a.policies[name] = []schemas.ActivePolicy{schemas.Keep, schemas.Off, schemas.Follow}[i%3]
			h.SetFaults(a.watch(name))
		}
		for i := range *jobs {
			a.put(source, i)
		}
	}
	return nil
}

func (a *apart) say(format string, args ...any) {
	fmt.Printf("chaos: %6.1fs "+format+"\n", append([]any{time.Since(a.begun).Seconds()}, args...)...)
	a.mu.Lock()
	defer a.mu.Unlock()
	a.note("", "", fmt.Sprintf(format, args...))
}

// diverged returns in what the targets differ from their sources.
func (a *apart) diverged() (out []string) {
	for target, source := range a.from {
		diff := e2e.DivergedPinned(a.Hosts[source], a.Hosts[target], a.policies[target], a.clerk.pins(target))
		out = append(out, a.clerk.but(diff)...)
	}
	return out
}

// settles waits until the targets equal their sources.
func (a *apart) settles(ctx context.Context, limit time.Duration) (time.Duration, error) {
	for begun := time.Now(); ; {
		diff := a.diverged()
		took := time.Since(begun)
		switch {
		case diff == nil:
			return took, nil
		case took > limit:
			return took, fmt.Errorf("%d differences after %s", len(diff), took.Round(time.Second))
		}
		select {
		case <-ctx.Done():
			return took, context.Cause(ctx)
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// flows changes jobs until the function that it returns is called.
func (a *apart) flows(perSecond int) (rest func()) {
	end, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		for {
			a.mu.Lock()
			pause := time.Duration(a.flow.rng.Int64N(int64(2 * time.Second / time.Duration(perSecond))))
			source := a.sources[a.flow.rng.IntN(len(a.sources))]
			a.mu.Unlock()
			select {
			case <-end:
				return
			case <-time.After(pause):
			}
			a.change(source, *jobs)
		}
	}()
	return func() { close(end); <-ended }
}

// revive starts again whatever ended by itself, and notes that it did.
func (a *apart) revive(ctx context.Context) error {
	for _, p := range a.All() {
		if p.Running() {
			continue
		}
		a.ended = append(a.ended, p.Name)
		a.say("%s has ended by itself, and is started again", p.Name)
		if err := p.Start(ctx); err != nil {
			return err
		}
	}
	return nil
}

// verdict waits for the end, counts and ends all processes.
func (a *apart) verdict(ctx context.Context, what string) error {
	took, err := a.settles(ctx, *settle)
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err != nil {
		fmt.Println("chaos:", err)
	}
	diff := a.diverged()
	var strangers []string
	judged := a.writes()
	if a.witness != nil {
		strangers, judged = a.strangers()
		a.witness.Close()
		for _, p := range a.All() {
			p.Kill()
		}
	}
	a.Kill()
	a.mu.Lock()
	defer a.mu.Unlock()
	broken := append(a.broken, strangers...)
	for _, h := range a.Hosts {
		broken = append(broken, h.Broken...)
	}
	lost, divergent, older, invented := 0, 0, 0, 0
	for _, d := range diff {
		if strings.Contains(d, " lacks ") {
			lost++
		} else {
			divergent++
		}
	}
	for _, b := range broken {
		if strings.Contains(b, "G4: ") {
			invented++
		} else {
			older++
		}
	}
	fmt.Printf("chaos: %s in %s, equal %s after the last change; %d changes, %d writes (%d asked for, %d of them held against the leases), %d deletes: %d lost, %d divergent, %d stale, overlapping or by another than the lease's holder, %d invented deletions\n",
		what, time.Since(a.begun).Round(time.Second), took.Round(100*time.Millisecond), a.done, a.writes(), len(a.asked), judged, a.deletes, lost, divergent, older, invented)
	if len(a.ended) > 0 {
		fmt.Printf("chaos: ended by themselves: %s\n", strings.Join(a.ended, " "))
	}
	hits, err := e2e.FindSecret(e2e.Password, a.Dir)
	if err != nil {
		return err
	}
	fmt.Printf("chaos: %d hits of the account password in all folders and debug logs\n", len(hits))
	broken = append(broken, hits...)
	if a.clerk != nil {
		fmt.Printf("chaos: %d faults of pins, runs and jobs that delete themselves\n", len(a.clerk.wrong))
		broken = append(broken, a.clerk.wrong...)
	}
	if writes := a.writes(); writes < len(a.from)**jobs || judged < writes/4 {
		return fmt.Errorf("the run proves nothing: %d writes for %d jobs at %d targets, and of %d the writer was known", writes, *jobs, len(a.from), judged)
	}
	if len(diff)+len(broken)+len(a.ended) > 0 {
		a.timelines(append(slices.Clone(diff), broken...))
		return fmt.Errorf("not every promise was kept:\n%s", strings.Join(append(append(diff[:min(len(diff), 40)], broken[:min(len(broken), 60)]...), a.ended...), "\n"))
	}
	return nil
}

// runApart is the chaos of the roles apart.
func runApart(ctx context.Context) (err error) {
	fmt.Printf("chaos: %d faults while %d jobs at each of 2 sources change for 6 targets; 2 producers, 3 consumers (seed %d)\n", *rounds, *jobs, *seed)
	a, err := newApart(ctx, false, 2, 3, map[schemas.Slug]int{"production": 4, "factory": 2}, 300*time.Millisecond)
	defer func() { err = a.end(err) }()
	if err != nil {
		return err
	}
	if took, err := a.settles(ctx, time.Minute); err != nil {
		return fmt.Errorf("before any fault: %w", err)
	} else {
		a.say("all is captured and applied after %s", took.Round(100*time.Millisecond))
	}
	if *admin {
		if err := a.hire(ctx); err != nil {
			return err
		}
	}
	rest := a.flows(12)
	for round := 1; round <= *rounds; round++ {
		fault := a.fault()
		if err := a.wait(ctx, time.Duration(300+a.rng.IntN(3000))*time.Millisecond); err != nil {
			rest()
			return err
		}
		a.say("round %2d: %s; %d changes, %d writes", round, fault.what, a.count(), a.writes())
		err := fault.begin()
		if err == nil {
			err = a.wait(ctx, fault.lasts)
		}
		if err == nil {
			err = fault.end(ctx)
		}
		if err == nil {
			err = a.revive(ctx)
		}
		if err != nil {
			rest()
			return fmt.Errorf("round %d, %s: %w", round, fault.what, err)
		}
	}
	rest()
	if a.clerk != nil {
		if err := a.clerk.close(ctx); err != nil {
			return err
		}
	}
	return a.verdict(ctx, fmt.Sprintf("%d faults", *rounds))
}

func (a *apart) count() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.done
}

func (a *apart) wait(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(d):
		return nil
	}
}

func (a *apart) end(err error) error {
	if a == nil || a.Roles == nil {
		return err
	}
	if err != nil {
		err = fmt.Errorf("%w\nseed %d; data and logs of all processes are in %s", err, *seed, a.Dir)
	}
	return errors.Join(err, a.Close(err != nil))
}

// fault is what happens to one process.
type fault struct {
	what  string
	lasts time.Duration
	begin func() error
	end   func(context.Context) error
}

// fault chooses one: of what, to whom and for how long.
func (a *apart) fault() fault {
	all := a.All()
	workers := all[2:] // those that are neither broker nor control
	pick := func(among []*e2e.Process) *e2e.Process { return among[a.rng.IntN(len(among))] }
	// Up to longer than a lease with its margin, so that half of them lose their leases.
	long := time.Duration(1000+a.rng.IntN(17000)) * time.Millisecond
	short := time.Duration(a.rng.IntN(6000)) * time.Millisecond
	none := func() error { return nil }
	switch kind := a.rng.IntN(10); {
	case kind < 4:
		p := pick(all)
		lasts := short
		if a.rng.IntN(3) == 0 && p != a.Broker {
			lasts = long
		}
		return fault{fmt.Sprintf("kill -9 of %s, away for %s", p.Name, lasts), lasts, func() error { p.Kill(); return nil }, p.Start}
	case kind < 7:
		p := pick(append(workers, workers...))
		if a.rng.IntN(8) == 0 {
			p = pick(all)
		}
		return fault{fmt.Sprintf("SIGSTOP of %s for %s", p.Name, long), long, p.Freeze, func(context.Context) error { return p.Thaw() }}
	default:
		p := pick(workers)
		f := fault{fmt.Sprintf("%s cut off for %s, connections stay", p.Name, long), long, none, func(context.Context) error { p.Link.Flow(); return nil }}
		f.begin = func() error { p.Link.Pause(); return nil }
		if kind == 9 {
			f.what = fmt.Sprintf("%s cut off for %s, connections end", p.Name, long)
			f.begin = func() error { p.Link.Cut(); return nil }
		}
		return f
	}
}
