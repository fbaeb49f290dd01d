// Command chaos kills vcsync with SIGKILL at random moments while jobs change at a
// source, and proves that both targets end equal: nothing lost, nothing divergent,
// no older version written over a newer one, no two writes of a job at the same
// time, and no deletion that the source did not make. The stand-in servers run in
// this process and live on; vcsync is the built binary, a process of its own.
package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/vcsync/vcsync/e2e"
	"github.com/vcsync/vcsync/schemas"
	"github.com/vcsync/vcsync/visualcron/standin"
)

var (
	rounds  = flag.Int("rounds", 20, "how often vcsync is killed")
	changes = flag.Int("changes", 2000, "how many changes flow meanwhile")
	jobs    = flag.Int("jobs", 300, "how many jobs they are spread over")
	seed    = flag.Uint64("seed", uint64(time.Now().UnixNano()), "repeats the choice of changes and moments, though not the timing")
	binary  = flag.String("binary", "bin/vcsync", "the program under test")
	settle  = flag.Duration("settle", 5*time.Minute, "how long the targets may take to become equal after the last kill")
)

func main() {
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "chaos:", err)
		os.Exit(1)
	}
}

type chaos struct {
	rng     *rand.Rand
	dir     string
	api     string
	prod    *e2e.Host
	targets map[schemas.Slug]*e2e.Host
	log     *os.File

	mu      sync.Mutex
	deleted map[schemas.ID]bool
	highest map[string]int
	broken  []string
	version int
	done    int
}

func run(ctx context.Context) (err error) {
	dir, err := os.MkdirTemp("", "vcsync-chaos-")
	if err != nil {
		return err
	}
	c := &chaos{rng: rand.New(rand.NewPCG(*seed, 0)), dir: dir, targets: map[schemas.Slug]*e2e.Host{}, deleted: map[schemas.ID]bool{}, highest: map[string]int{}}
	if c.log, err = os.Create(filepath.Join(dir, "vcsync.log")); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = fmt.Errorf("%w\nseed %d; what vcsync said is in %s", err, *seed, c.log.Name())
			return
		}
		err = os.RemoveAll(dir)
	}()
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	c.api = free.Addr().String()
	free.Close()
	fmt.Printf("chaos: %d kills while %d changes on %d jobs flow to 2 targets (seed %d)\n", *rounds, *changes, *jobs, *seed)

	addresses := map[schemas.Slug]string{}
	for _, name := range []schemas.Slug{"production", "test", "standby"} {
		h, err := e2e.NewHost(name)
		if err != nil {
			return err
		}
		defer h.Server.Close()
		l, err := standin.Listen(ctx, "127.0.0.1:0")
		if err != nil {
			return err
		}
		serve, end := context.WithCancel(context.Background())
		served := make(chan struct{})
		go func() { defer close(served); _ = h.Server.Serve(serve, l) }()
		defer func() { end(); <-served }()
		addresses[name] = l.Addr().String()
		if name == "production" {
			c.prod = h
			continue
		}
		c.targets[name] = h
		h.SetFaults(c.watch(name))
	}
	for i := range *jobs {
		c.put(i)
	}
	p, err := c.start(ctx)
	if err != nil {
		return err
	}
	defer func() { p.kill() }()
	for name, addr := range addresses {
		if err := c.cli(ctx, "server", "add", string(name), "--address", "http://"+addr, "--user", standin.DefaultUser, "--password-stdin"); err != nil {
			return err
		}
	}
	for name, policy := range map[string]string{"test": "keep", "standby": "off"} {
		if err := c.cli(ctx, "setting", "add", "to-"+name, "--from", "production", "--to", name, "--rule", "Job=all:new,updated,deleted", "--active", policy); err != nil {
			return err
		}
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
		p.kill()
		fmt.Printf("chaos: kill %2d after %s alive, %d changes, %d writes confirmed\n", round, alive.Round(10*time.Millisecond), c.done, c.writes())
		if p, err = c.start(ctx); err != nil {
			return err
		}
	}
	flowed := time.Since(begun)
	for c.done < *changes {
		c.change()
	}
	calm := time.Now()
	var diff []string
	for {
		diff = nil
		for name, h := range c.targets {
			policy := schemas.Keep
			if name == "standby" {
				policy = schemas.Off
			}
			diff = append(diff, e2e.Diverged(c.prod, h, policy)...)
		}
		if diff == nil || time.Since(calm) > *settle {
			break
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case err := <-p.died:
			return fmt.Errorf("vcsync ended by itself: %w", err)
		case <-time.After(200 * time.Millisecond):
		}
	}
	took := time.Since(calm)
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
	for _, h := range c.targets {
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
	for _, h := range c.targets {
		puts, deletes := h.Count()
		n += puts + deletes
	}
	return n
}

func id(i int) schemas.ID { return schemas.ID(fmt.Sprintf("c4a05000-1111-4222-8333-%012d", i)) }

// put gives a job a new version.
func (c *chaos) put(i int) {
	c.version++
	body := fmt.Sprintf(`{"Id":%q,"Name":"Job %d","Group":"Group %d","Description":"version=%d","Stats":{"Active":true},
		"Variables":[{"Key":"Secret","ValueObject":"dmFsdWU="}],
		"Tasks":[{"Id":"c4a05001-1111-4222-8333-%012d","Order":1,"Name":"Run","TaskType":"Execute","Execute":{"CmdLine":"run.cmd %d"},"Stats":{"Active":true}}]}`,
		id(i), i, i%12, c.version, i, c.version)
	if _, _, err := c.prod.Server.Put(schemas.Job, []byte(body)); err != nil {
		panic(err) // a stand-in in memory takes every job
	}
}

// change edits, deletes or adds a job.
func (c *chaos) change() {
	c.done++
	i := c.rng.IntN(*jobs)
	if _, exists := c.prod.Server.Get(schemas.Job, id(i)); exists && c.rng.IntN(50) == 0 {
		c.mu.Lock()
		c.deleted[id(i)] = true
		c.mu.Unlock()
		if _, err := c.prod.Server.Delete(schemas.Job, id(i)); err != nil {
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

// process is one run of vcsync.
type process struct {
	cmd  *exec.Cmd
	died chan error
	once sync.Once
}

func (p *process) kill() {
	if p == nil {
		return
	}
	p.once.Do(func() {
		_ = p.cmd.Process.Kill()
		<-p.died
	})
}

// start starts vcsync and returns when its API answers.
func (c *chaos) start(ctx context.Context) (*process, error) {
	cmd := exec.Command(*binary, "up")
	cmd.Env = append(os.Environ(), "VCSYNC_DATA="+filepath.Join(c.dir, "data"), "VCSYNC_API_ADDR="+c.api, "VCSYNC_POLL=5s", "VCSYNC_LOG_FORMAT=json", "VCSYNC_LOG_LEVEL=debug")
	cmd.Stdout, cmd.Stderr = c.log, c.log
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s (run make build first): %w", *binary, err)
	}
	p := &process{cmd: cmd, died: make(chan error, 1)}
	go func() { p.died <- errors.Join(errors.New("exited"), cmd.Wait()); close(p.died) }()
	for limit := time.Now().Add(time.Minute); ; {
		resp, err := http.Get("http://" + c.api + "/livez")
		if err == nil {
			resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return p, nil
			}
		}
		select {
		case err := <-p.died:
			return nil, fmt.Errorf("vcsync ended at its start: %w", err)
		case <-ctx.Done():
			p.kill()
			return nil, context.Cause(ctx)
		case <-time.After(20 * time.Millisecond):
		}
		if time.Now().After(limit) {
			p.kill()
			return nil, fmt.Errorf("vcsync is not up after a minute: %w", err)
		}
	}
}

// cli runs a client command of vcsync.
func (c *chaos) cli(ctx context.Context, args ...string) error {
	cmd := exec.CommandContext(ctx, *binary, args...)
	cmd.Env = append(os.Environ(), "VCSYNC_API_ADDR="+c.api)
	cmd.Stdin = strings.NewReader(e2e.Password)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("vcsync %s: %w\n%s", strings.Join(args, " "), err, out)
	}
	return nil
}
