// Command chaos kills vcsync with SIGKILL at random moments while jobs change at a
// source, and proves that both targets end equal: nothing lost, nothing divergent,
// no older version written over a newer one, no two writes of a job at the same
// time, and no deletion that the source did not make. The stand-in servers run in
// this process and live on; vcsync is the built binary, a process of its own. With
// -roles apart it is many: see apart.go. With -admin somebody changes the settings
// meanwhile: see admin.go.
package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/vcsync/vcsync/e2e"
	"github.com/vcsync/vcsync/schemas"
)

var (
	rounds  = flag.Int("rounds", 20, "how often vcsync is killed")
	changes = flag.Int("changes", 2000, "how many changes flow meanwhile")
	jobs    = flag.Int("jobs", 300, "how many jobs they are spread over")
	seed    = flag.Uint64("seed", uint64(time.Now().UnixNano()), "repeats the choice of changes and moments, though not the timing")
	binary  = flag.String("binary", "bin/vcsync", "the program under test")
	roles   = flag.String("roles", "one", "one: everything is one process; apart: broker, control, producers and consumers are processes; frozen: apart, and only the consumer that is writing is frozen, again and again; cluster: apart on a cluster of three brokers, whose members fail in turn")
	files   = flag.String("files", "deploy/nats", "the configuration of the cluster")
	admin   = flag.Bool("admin", false, "with -roles one or apart: somebody changes the settings, their pins and their runs meanwhile; see admin.go")
	settle  = flag.Duration("settle", 5*time.Minute, "how long the targets may take to become equal after the last kill")
)

func main() {
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	do := run
	switch *roles {
	case "one":
	case "apart":
		do = runApart
	case "frozen":
		do = runFrozen
	case "cluster":
		do = runCluster
	default:
		fmt.Fprintf(os.Stderr, "chaos: -roles %q: want one, apart, frozen or cluster\n", *roles)
		os.Exit(2)
	}
	if *admin {
		switch *roles {
		case "one":
			do = runOneAdmin
		case "apart":
		default:
			fmt.Fprintf(os.Stderr, "chaos: -admin goes with -roles one and apart, not with %s\n", *roles)
			os.Exit(2)
		}
	}
	if err := do(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "chaos:", err)
		os.Exit(1)
	}
}

type chaos struct {
	*e2e.Fleet
	rng *rand.Rand

	mu      sync.Mutex
	deleted map[schemas.ID]bool
	highest map[string]int
	broken  []string
	version int
	done    int
}

var policies = map[schemas.Slug]schemas.ActivePolicy{"test": schemas.Keep, "standby": schemas.Off}

func run(ctx context.Context) (err error) {
	fleet, err := e2e.NewFleet(*binary)
	if err != nil {
		return err
	}
	c := &chaos{Fleet: fleet, rng: rand.New(rand.NewPCG(*seed, 0)), deleted: map[schemas.ID]bool{}, highest: map[string]int{}}
	c.Env = []string{"VCSYNC_POLL=5s"}
	defer func() {
		if err != nil {
			err = fmt.Errorf("%w\nseed %d; what vcsync said is in %s", err, *seed, c.Log())
		}
		err = errors.Join(err, c.Close(err != nil))
	}()
	fmt.Printf("chaos: %d kills while %d changes on %d jobs flow to 2 targets (seed %d)\n", *rounds, *changes, *jobs, *seed)
	for _, name := range []schemas.Slug{"production", "test", "standby"} {
		h, err := c.AddHost(ctx, name)
		if err != nil {
			return err
		}
		if name != "production" {
			h.SetFaults(c.watch(name))
		}
	}
	for i := range *jobs {
		c.put(i)
	}
	if err := c.Start(ctx); err != nil {
		return err
	}
	if err := c.Register(ctx, policies); err != nil {
		return err
	}
	begun := time.Now()
	perRound := (*changes + *rounds - 1) / max(*rounds, 1)
	for round := 1; round <= *rounds; round++ {
		alive := time.Duration(300+c.rng.IntN(7700)) * time.Millisecond
		until := time.Now().Add(alive)
		for i := 0; i < perRound && c.done < *changes; i++ {
			c.change()
			if pause := time.Until(until) / time.Duration(perRound-i); pause > 0 {
				select {
				case <-ctx.Done():
					return context.Cause(ctx)
				case <-time.After(pause):
				}
			}
		}
		c.Kill()
		fmt.Printf("chaos: kill %2d after %s alive, %d changes, %d writes confirmed\n", round, alive.Round(10*time.Millisecond), c.done, c.writes())
		if err := c.Start(ctx); err != nil {
			return err
		}
	}
	flowed := time.Since(begun)
	for c.done < *changes {
		c.change()
	}
	took, err := c.WaitEqual(ctx, policies, *settle)
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err != nil {
		fmt.Println("chaos:", err)
	}
	diff := c.Diverged(policies)
	c.Kill()
	lost, divergent := 0, 0
	for _, d := range diff {
		if strings.Contains(d, " lacks ") {
			lost++
		} else {
			divergent++
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, h := range c.Hosts {
		c.broken = append(c.broken, h.Broken...)
	}
	older, invented := 0, 0
	for _, b := range c.broken {
		if strings.HasPrefix(b, "G4") {
			invented++
		} else {
			older++
		}
	}
	fmt.Printf("chaos: %d kills in %s, equal %s after the last change; %d changes, %d writes: %d lost, %d divergent, %d older over newer or overlapping, %d invented deletions\n",
		*rounds, flowed.Round(time.Second), took.Round(100*time.Millisecond), c.done, c.writes(), lost, divergent, older, invented)
	hits, err := e2e.FindSecret(e2e.Password, c.Dir)
	if err != nil {
		return err
	}
	fmt.Printf("chaos: %d hits of the account password in data folder and debug log\n", len(hits))
	c.broken = append(c.broken, hits...)
	if writes := c.writes(); writes < 2**jobs {
		return fmt.Errorf("the run proves nothing: %d writes for %d jobs at 2 targets", writes, *jobs)
	}
	if len(diff)+len(c.broken) > 0 {
		return fmt.Errorf("not every promise was kept:\n%s", strings.Join(append(diff, c.broken...), "\n"))
	}
	return nil
}

func (c *chaos) writes() int {
	n := 0
	for _, h := range c.Hosts {
		puts, deletes := h.Count()
		n += puts + deletes
	}
	return n
}

// put gives a job a new version.
func (c *chaos) put(i int) {
	c.version++
	body := fmt.Sprintf(`{"Id":%q,"Name":"Job %d","Group":"Group %d","Description":"version=%d","Stats":{"Active":true},
		"Variables":[{"Key":"Secret","ValueObject":"dmFsdWU="}],
		"Tasks":[{"Id":"c4a05001-1111-4222-8333-%012d","Order":1,"Name":"Run","TaskType":"Execute","Execute":{"CmdLine":"run.cmd %d"},"Stats":{"Active":true}}]}`,
		id(i), i, i%12, c.version, i, c.version)
	if _, _, err := c.Hosts["production"].Server.Put(schemas.Job, []byte(body)); err != nil {
		panic(err) // a stand-in in memory takes every job
	}
}

// change edits, deletes or adds a job.
func (c *chaos) change() {
	c.done++
	i := c.rng.IntN(*jobs)
	if _, exists := c.Hosts["production"].Server.Get(schemas.Job, id(i)); exists && c.rng.IntN(50) == 0 {
		c.mu.Lock()
		c.deleted[id(i)] = true
		c.mu.Unlock()
		if _, err := c.Hosts["production"].Server.Delete(schemas.Job, id(i)); err != nil {
			panic(err) // see put
		}
		return
	}
	c.put(i)
}

// watch looks at every write when it starts.
func (c *chaos) watch(target schemas.Slug) func(http.Handler) http.Handler {
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			id := schemas.ID(r.URL.Path[strings.LastIndex(r.URL.Path, "/")+1:])
			switch r.Method {
			case http.MethodPut:
				body, err := io.ReadAll(r.Body)
				if err != nil {
					return // the writer was killed before it had said what to write
				}
				r.Body = io.NopCloser(bytes.NewReader(body))
				var version int
				if at := bytes.Index(body, []byte("version=")); at >= 0 {
					_, _ = fmt.Sscanf(string(body[at:min(at+30, len(body))]), "version=%d", &version)
				}
				key := string(target) + "/" + string(id)
				c.mu.Lock()
				if version < c.highest[key] {
					c.broken = append(c.broken, fmt.Sprintf("G3: %s got version %d of %s after version %d", target, version, id, c.highest[key]))
				}
				c.highest[key] = max(c.highest[key], version)
				c.mu.Unlock()
			case http.MethodDelete:
				c.mu.Lock()
				if !c.deleted[id] {
					c.broken = append(c.broken, fmt.Sprintf("G4: %s was told to delete %s, which was never deleted", target, id))
				}
				c.mu.Unlock()
			}
			next.ServeHTTP(w, r)
		})
	}
}
