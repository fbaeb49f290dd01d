package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/vcsync/vcsync/e2e"
	"github.com/vcsync/vcsync/schemas"
	"github.com/vcsync/vcsync/visualcron/standin"
)

// many starts a source with n jobs of one task, so many targets and vcsync: as one
// process, or with roles apart as a producer, control, a broker and so many consumers.
// It waits until all is applied.
func many(ctx context.Context, n, targets, consumers int, env ...string) (*crowd, error) {
	f, err := e2e.NewFleet(*binary)
	if err != nil {
		return nil, err
	}
	c := &crowd{Fleet: f, policies: map[schemas.Slug]schemas.ActivePolicy{}}
	f.Env = env
	if _, err := f.AddHost(ctx, "production"); err != nil {
		return c, err
	}
	for i := range targets {
		name := schemas.Slug(fmt.Sprintf("target-%03d", 1+i))
		// All of them share this machine: what the jobs of a thousand-job server seem to do
		// every minute takes them together a second of both cores.
		h, err := f.AddHost(ctx, name, func(cfg *standin.Config) { cfg.StatisticsEvery = -1 })
		if err != nil {
			return c, err
		}
		c.targets = append(c.targets, h)
		c.policies[name] = schemas.Keep
	}
	for i := range n {
		put(f, i, 0, 1)
	}
	if consumers > 0 {
		if c.roles, err = f.Apart(ctx, 1, consumers); err != nil {
			return c, err
		}
		err = c.roles.Start(ctx)
	} else {
		err = f.Start(ctx)
	}
	if err != nil {
		return c, err
	}
	begun := time.Now()
	if err := f.Register(ctx, c.policies); err != nil {
		return c, err
	}
	if _, err := f.WaitEqual(ctx, c.policies, 15*time.Minute); err != nil {
		return c, err
	}
	fmt.Printf("scale: %d jobs captured and applied to %d targets in %s\n", n, targets, time.Since(begun).Round(100*time.Millisecond))
	return c, nil
}

// crowd is a fleet of many targets.
type crowd struct {
	*e2e.Fleet
	roles    *e2e.Roles // nil for one process
	targets  []*e2e.Host
	policies map[schemas.Slug]schemas.ActivePolicy
}

func (c *crowd) close(err error) {
	if c != nil {
		c.Close(err != nil)
	}
}

// memory returns how much each process held at most, in words and the greatest in MiB.
func (c *crowd) memory() (words string, peak int, err error) {
	if c.roles == nil {
		_, peak, err = e2e.Resident(c.PID())
		return fmt.Sprintf("%d MiB", peak), peak, err
	}
	var parts []string
	for _, p := range c.roles.All() {
		_, most, err := e2e.Resident(p.PID())
		if err != nil {
			return "", 0, err
		}
		parts = append(parts, fmt.Sprintf("%s %d MiB", p.Name, most))
		peak = max(peak, most)
	}
	return strings.Join(parts, ", "), peak, nil
}

// isolation measures how long an edit takes to the targets that are well, before and
// while another one is not, and while one object is refused everywhere. It wants the
// p99 to stay within twice of what it was.
func isolation(ctx context.Context) (err error) {
	const targets, objects, turns = 20, 1000, 3
	c, err := many(ctx, objects, targets, *consumers)
	defer func() { c.close(err) }()
	if err != nil {
		return err
	}
	well := c.targets[1:]
	version := 1
	phase := func(name string, among []*e2e.Host, fault func(http.Handler) http.Handler, at []*e2e.Host) (delays []time.Duration, err error) {
		for _, h := range c.targets {
			h.Reset()
		}
		for _, h := range at {
			h.SetFaults(fault)
		}
		if fault != nil { // the first requests have met it when the measuring begins
			put(c.Fleet, 0, version, 1)
			version++
			if err = pause(ctx, 5*time.Second); err != nil {
				return
			}
		}
		first, edited := version, map[int]time.Time{}
		tick := time.NewTicker(time.Second / time.Duration(*rate))
		defer tick.Stop()
		for i := range (*edits + turns - 1) / turns {
			select {
			case <-ctx.Done():
				return nil, context.Cause(ctx)
			case err = <-c.Died():
				return
			case <-tick.C:
			}
			edited[version] = time.Now()
			put(c.Fleet, 1+(i+first)%(objects-1), version, 1)
			version++
			if fault != nil && i%20 == 0 { // what is in trouble goes on being edited
				put(c.Fleet, 0, version, 1)
				version++
			}
		}
		for begun := time.Now(); ; {
			delays = delays[:0]
			for _, h := range among {
				seen := map[int]bool{}
				for _, w := range h.Seen() {
					v := versionIn(w.Body)
					if at, ok := edited[v]; ok && w.Status < 300 && w.Op == "put" && !seen[v] {
						seen[v] = true
						delays = append(delays, w.At.Sub(at))
					}
				}
			}
			if len(delays) == len(edited)*len(among) {
				break
			}
			if time.Since(begun) > time.Minute {
				return nil, fmt.Errorf("%s: a minute after the last edit %d of %d writes had come", name, len(delays), len(edited)*len(among))
			}
			if err = pause(ctx, 200*time.Millisecond); err != nil {
				return
			}
		}
		for _, h := range at {
			h.SetFaults(nil)
		}
		return delays, nil
	}
	told := func(name string, delays []time.Duration) time.Duration {
		slices.Sort(delays)
		p50, p99 := delays[len(delays)/2], delays[len(delays)*99/100]
		fmt.Printf("scale: %-32s %5d writes at %d targets: p50 %4d ms, p99 %4d ms, most %4d ms\n", name, len(delays), len(well),
			p50.Milliseconds(), p99.Milliseconds(), delays[len(delays)-1].Milliseconds())
		return p99
	}
	one := c.targets[:1]
	for _, f := range []struct {
		name  string
		fault func(http.Handler) http.Handler
		at    []*e2e.Host
	}{
		{"one never answers", blackHole, one},
		{"one drips a byte a second", tarpit, one},
		{"one answers without end", endless, one},
		{"one fails with 500", failing, one},
		{"one object of 1,000 is refused", refuses(0), c.targets},
	} {
		if *fault != "" && !strings.Contains(f.name, *fault) {
			continue
		}
		// Both in turns, and each fault with a measure of its own: what else runs on the
		// machine changes.
		var before, with []time.Duration
		for range turns {
			for _, x := range []struct {
				to    *[]time.Duration
				fault func(http.Handler) http.Handler
				at    []*e2e.Host
			}{{&before, nil, nil}, {&with, f.fault, f.at}} {
				delays, perr := phase(f.name, well, x.fault, x.at)
				if perr != nil {
					return errors.Join(err, perr)
				}
				*x.to = append(*x.to, delays...)
			}
			// The next begins with a target that has caught up.
			if _, werr := c.waitEqual(ctx); werr != nil {
				return errors.Join(err, fmt.Errorf("after %s: %w", f.name, werr))
			}
		}
		was, is := told("all is well", before), told(f.name, with)
		ratio := float64(is) / float64(was)
		memory, _, merr := c.memory()
		err = errors.Join(err, merr)
		fmt.Printf("scale: %-32s p99 is %.2f times that without; resident at most %s\n", f.name, ratio, memory)
		if ratio > 2 {
			err = errors.Join(err, fmt.Errorf("%s: the p99 of the others is %s, and %s without: %.2f times, want at most 2", f.name, is, was, ratio))
		}
	}
	return err
}

// waitEqual edits the job that may be parked, which lets it go, and waits until all
// targets are equal.
func (c *crowd) waitEqual(ctx context.Context) (time.Duration, error) {
	put(c.Fleet, 0, int(time.Now().Unix()), 1)
	return c.WaitEqual(ctx, c.policies, 2*time.Minute)
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(d):
		return nil
	}
}

func versionIn(body []byte) (version int) {
	if at := bytes.Index(body, []byte("version=")); at >= 0 {
		_, _ = fmt.Sscanf(string(body[at:min(at+30, len(body))]), "version=%d", &version)
	}
	return version
}

// blackHole takes requests and never answers.
func blackHole(http.Handler) http.Handler {
	return http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body) // only then does the server notice that the client left
		<-r.Context().Done()
		panic(http.ErrAbortHandler)
	})
}

// tarpit answers a byte a second.
func tarpit(http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		w.Header().Set("Content-Type", "application/json")
		rc := http.NewResponseController(w)
		for r.Context().Err() == nil {
			if _, err := w.Write([]byte(" ")); err != nil || rc.Flush() != nil {
				return
			}
			select {
			case <-r.Context().Done():
			case <-time.After(time.Second):
			}
		}
	})
}

// endless answers as much as the client reads.
func endless(http.Handler) http.Handler {
	filling := []byte(`{"Id":"` + strings.Repeat("x", 64<<10))
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		w.Header().Set("Content-Type", "application/json")
		for r.Context().Err() == nil {
			if _, err := w.Write(filling); err != nil {
				return
			}
		}
	})
}

// failing answers 500.
func failing(http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, "something went wrong", http.StatusInternalServerError)
	})
}

// refuses answers 422 to every write of one job.
func refuses(i int) func(http.Handler) http.Handler {
	id := fmt.Sprintf("5ca1e000-1111-4222-8333-%012d", i)
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Method == http.MethodPut && strings.HasSuffix(r.URL.Path, id) {
				w.Header().Set("Content-Type", "application/problem+json")
				w.WriteHeader(http.StatusUnprocessableEntity)
				_, _ = io.WriteString(w, `{"title":"no","status":422,"detail":"this job is not taken here"}`)
				return
			}
			next.ServeHTTP(w, r)
		})
	}
}

// fanout brings 1,000 changes of one source to 100 targets: as one process, and with
// three consumers.
func fanout(ctx context.Context) error {
	var err error
	for _, consumers := range []int{0, 3} {
		err = errors.Join(err, fanoutWith(ctx, consumers))
	}
	return err
}

func fanoutWith(ctx context.Context, consumers int) (err error) {
	how := "one process"
	if consumers > 0 {
		how = fmt.Sprintf("%d consumers", consumers)
	}
	c, err := many(ctx, 10, *targets, consumers)
	defer func() { c.close(err) }()
	if err != nil {
		return err
	}
	for _, h := range c.targets {
		h.Reset()
	}
	const changed = 1000
	begun := time.Now()
	for i := range changed {
		put(c.Fleet, 10+i, 1, 1)
	}
	took, err := c.WaitEqual(ctx, c.policies, 20*time.Minute)
	if err != nil {
		return err
	}
	writes := 0
	for _, h := range c.targets {
		puts, deletes := h.Count()
		writes += puts + deletes
		if h.Broken != nil {
			err = errors.Join(err, errors.New(strings.Join(h.Broken, "\n")))
		}
	}
	memory, _, merr := c.memory()
	fmt.Printf("scale: %s: %d changes were at %d targets after %s (equal %s after the last one): %d writes, %.0f a second; at most %s\n",
		how, changed, *targets, time.Since(begun).Round(100*time.Millisecond), took.Round(100*time.Millisecond), writes, float64(writes)/time.Since(begun).Seconds(), memory)
	if c.roles != nil {
		all := 0
		for _, p := range append(c.roles.Producers, c.roles.Consumers...) {
			n, cerr := e2e.Connections(p.Link.Addr())
			if cerr != nil {
				return errors.Join(err, cerr)
			}
			all += n
			fmt.Printf("scale: %s has %d connections to the broker\n", p.Name, n)
		}
		fmt.Printf("scale: %.2f connections to the broker per target\n", float64(all)/float64(*targets))
	}
	return errors.Join(err, merr)
}
