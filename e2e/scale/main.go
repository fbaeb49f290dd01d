// Command scale measures what vcsync writes when much changes while a target is
// away, and when it is started again on a target that has everything: about one
// write per changed object, and none. And how much memory it holds while it lists
// many large jobs again and again. And that a job of the greatest size arrives. With
// -only isolation, what a target in trouble costs the others; with -only fanout, what
// 100 targets cost.
// vcsync is the built binary.
package main

import (
	"context"
	"encoding/base64"
	"errors"
	"flag"
	"fmt"
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
	binary    = flag.String("binary", "bin/vcsync", "the program under test")
	jobs      = flag.Int("jobs", 1000, "how many jobs change while the target is away")
	changes   = flag.Int("changes", 20000, "how many changes there are then")
	objects   = flag.Int("objects", 10000, "how many objects a restart finds applied")
	large     = flag.Int("large", 2000, "how many jobs of five tasks are listed for the memory")
	memory    = flag.Int("memory", 256, "how many MiB of resident memory are too much")
	only      = flag.String("only", "", "run only away, restart, listing, body, isolation or fanout; the last two only when they are asked for")
	rate      = flag.Int("rate", 5, "edits per second while isolation is measured")
	edits     = flag.Int("edits", 150, "edits per measure of isolation; each arrives at 19 targets")
	fault     = flag.String("fault", "", "measure isolation only under the faults whose name holds this")
	targets   = flag.Int("targets", 100, "how many targets fanout has")
	consumers = flag.Int("consumers", 0, "consumers with which isolation is measured; 0 for everything in one process")
)

func main() {
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	var err error
	for _, part := range []struct {
		name string
		run  func(context.Context) error
	}{{"away", away}, {"restart", restart}, {"listing", listing}, {"body", body},
		{"isolation", isolation}, {"fanout", fanout}} {
		if *only == part.name || *only == "" && part.name != "isolation" && part.name != "fanout" {
			err = errors.Join(err, part.run(ctx))
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "scale:", err)
		os.Exit(1)
	}
}

var policies = map[schemas.Slug]schemas.ActivePolicy{"test": schemas.Keep}

// fleet starts a source with n jobs of so many tasks, a target and vcsync, and waits
// until all is applied.
func fleet(ctx context.Context, n, tasks int, env ...string) (*e2e.Fleet, error) {
	f, err := e2e.NewFleet(*binary)
	if err != nil {
		return nil, err
	}
	f.Env = env
	for _, name := range []schemas.Slug{"production", "test"} {
		if _, err := f.AddHost(ctx, name); err != nil {
			return f, err
		}
	}
	for i := range n {
		put(f, i, 0, tasks)
	}
	if err := f.Start(ctx); err != nil {
		return f, err
	}
	begun := time.Now()
	if err := f.Register(ctx, policies); err != nil {
		return f, err
	}
	for {
		puts, _ := f.Hosts["test"].Count()
		if puts >= n {
			break
		}
		select {
		case <-ctx.Done():
			return f, context.Cause(ctx)
		case err := <-f.Died():
			return f, err
		case <-time.After(100 * time.Millisecond):
		}
	}
	fmt.Printf("scale: %d jobs captured and applied in %s\n", n, time.Since(begun).Round(100*time.Millisecond))
	_, err = f.WaitEqual(ctx, policies, time.Minute)
	return f, err
}

func put(f *e2e.Fleet, i, version, tasks int) {
	var list []string
	for k := range tasks { // the stand-in adds the hundreds of empty slots
		script := ""
		if tasks > 1 { // with 9 kB of slots and 4 kB of its own, five make 65 kB
			noise := rand.NewPCG(uint64(i), uint64(k))
			for range 256 {
				script += fmt.Sprintf("%016x", noise.Uint64())
			}
		}
		list = append(list, fmt.Sprintf(`{"Id":"5ca1e001-1111-4222-8333-%06d%06d","Order":%d,"Name":"Run","TaskType":"Execute","Execute":{"CmdLine":"run.cmd %d%s"},"Stats":{"Active":true}}`,
			k, i, 1+k, version, script))
	}
	body := fmt.Sprintf(`{"Id":"5ca1e000-1111-4222-8333-%012d","Name":"Job %d","Group":"Group %d","Description":"version=%d","Stats":{"Active":true},"Tasks":[%s]}`,
		i, i, i%12, version, strings.Join(list, ","))
	if _, _, err := f.Hosts["production"].Server.Put(schemas.Job, []byte(body)); err != nil {
		panic(err) // a stand-in in memory takes every job
	}
}

// away lets the target be away while jobs change.
func away(ctx context.Context) error {
	f, err := fleet(ctx, *jobs, 1)
	if f != nil {
		defer func() { f.Close(err != nil) }()
	}
	if err != nil {
		return err
	}
	test := f.Hosts["test"]
	test.SetFaults(func(http.Handler) http.Handler {
		return http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) })
	})
	begun := time.Now()
	for i := range *changes {
		put(f, i%*jobs, 1 + i / *jobs, 1)
		if i%*jobs == 0 { // so that the changes are captured one by one, and not as one
			time.Sleep(500 * time.Millisecond)
		}
	}
	fmt.Printf("scale: %d changes on %d jobs in %s while the target was away\n", *changes, *jobs, time.Since(begun).Round(100*time.Millisecond))
	time.Sleep(3 * time.Second)
	test.Reset()
	test.SetFaults(nil)
	took, err := f.WaitEqual(ctx, policies, 5*time.Minute)
	puts, deletes := test.Count()
	fmt.Printf("scale: the target caught up in %s with %d writes and %d deletes\n", took.Round(100*time.Millisecond), puts, deletes)
	if out, serr := f.CLI(ctx, "status"); serr == nil {
		fmt.Print(out)
	}
	if err == nil && puts > *jobs*11/10 {
		err = fmt.Errorf("%d writes for %d changed objects", puts, *jobs)
	}
	return err
}

// restart starts vcsync again on a target that has everything.
func restart(ctx context.Context) error {
	f, err := fleet(ctx, *objects, 1)
	if f != nil {
		defer func() { f.Close(err != nil) }()
	}
	if err != nil {
		return err
	}
	for _, how := range []struct {
		word string
		end  func()
	}{{"a stop", f.Stop}, {"a kill", f.Kill}} {
		how.end()
		f.Hosts["test"].Reset()
		begun := time.Now()
		if err = f.Start(ctx); err != nil {
			return err
		}
		var once sync.Once
		var ready time.Duration
		for time.Since(begun) < 45*time.Second { // more than a poll and a lease
			if resp, herr := http.Get("http://" + f.API + "/readyz"); herr == nil {
				resp.Body.Close()
				if resp.StatusCode == http.StatusOK {
					once.Do(func() { ready = time.Since(begun) })
				}
			}
			select {
			case <-ctx.Done():
				return context.Cause(ctx)
			case <-time.After(100 * time.Millisecond):
			}
		}
		puts, deletes := f.Hosts["test"].Count()
		fmt.Printf("scale: restart after %s with %d applied objects: ready in %s, %d writes, %d deletes, %d requests at the target\n",
			how.word, *objects, ready.Round(10*time.Millisecond), puts, deletes, f.Hosts["test"].Requests())
		if puts+deletes > 0 {
			err = fmt.Errorf("%d writes and %d deletes after a restart", puts, deletes)
			return err
		}
	}
	return nil
}

// listing lists many large jobs every few seconds and looks at the memory: after the
// first capture, and after some more listings of which one finds a job changed.
func listing(ctx context.Context) error {
	const poll = 5 * time.Second
	f, err := fleet(ctx, *large, 5, "VCSYNC_POLL="+poll.String())
	if f != nil {
		defer func() { f.Close(err != nil) }()
	}
	if err != nil {
		return err
	}
	var peak int
	look := func(when string) error {
		now, most, err := e2e.Resident(f.PID())
		if err != nil {
			return err
		}
		peak = max(peak, most)
		fmt.Printf("scale: %s: %d MiB resident, %d at most until now\n", when, now, most)
		return nil
	}
	if err = look("all captured and applied"); err != nil {
		return err
	}
	for round := 1; round <= 3; round++ {
		listings := f.Hosts["production"].Requests()
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case err = <-f.Died():
			return err
		case <-time.After(4 * poll):
		}
		put(f, round, round, 5)
		if _, err = f.WaitEqual(ctx, policies, time.Minute); err != nil {
			return err
		}
		if err = look(fmt.Sprintf("%d requests to the source later", f.Hosts["production"].Requests()-listings)); err != nil {
			return err
		}
	}
	if peak > *memory {
		err = fmt.Errorf("%d MiB resident while %d jobs of five tasks are listed, want at most %d", peak, *large, *memory)
	}
	return err
}

// body changes a job whose body is nearly as large as one may be, and cannot be
// compressed by more than its spelling.
func body(ctx context.Context) error {
	f, err := fleet(ctx, 1, 1)
	if f != nil {
		defer func() { f.Close(err != nil) }()
	}
	if err != nil {
		return err
	}
	raw := make([]byte, 63<<20*3/4)
	rand.NewChaCha8([32]byte{}).Read(raw)
	text := base64.StdEncoding.EncodeToString(raw)
	job := fmt.Sprintf(`{"Id":"5ca1e000-1111-4222-8333-%012d","Name":"Large","Group":"Group","Description":%q,"Stats":{"Active":true}}`, 0, text)
	if _, _, err = f.Hosts["production"].Server.Put(schemas.Job, []byte(job)); err != nil {
		return err
	}
	took, err := f.WaitEqual(ctx, policies, 2*time.Minute)
	if err != nil {
		return err
	}
	_, most, err := e2e.Resident(f.PID())
	fmt.Printf("scale: a job of %d MiB arrived in %s with %d MiB resident at most\n", len(job)>>20, took.Round(100*time.Millisecond), most)
	return err
}
