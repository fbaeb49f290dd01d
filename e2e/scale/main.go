// Command scale measures what vcsync writes when much changes while a target is
// away, and when it is started again on a target that has everything: about one
// write per changed object, and none. vcsync is the built binary.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net/http"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"github.com/vcsync/vcsync/e2e"
	"github.com/vcsync/vcsync/schemas"
)

var (
	binary  = flag.String("binary", "bin/vcsync", "the program under test")
	jobs    = flag.Int("jobs", 1000, "how many jobs change while the target is away")
	changes = flag.Int("changes", 20000, "how many changes there are then")
	objects = flag.Int("objects", 10000, "how many objects a restart finds applied")
)

func main() {
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := errors.Join(away(ctx), restart(ctx)); err != nil {
		fmt.Fprintln(os.Stderr, "scale:", err)
		os.Exit(1)
	}
}

var policies = map[schemas.Slug]schemas.ActivePolicy{"test": schemas.Keep}

// fleet starts a source with n jobs, a target and vcsync, and waits until all is
// applied.
func fleet(ctx context.Context, n int) (*e2e.Fleet, error) {
	f, err := e2e.NewFleet(*binary)
	if err != nil {
		return nil, err
	}
	for _, name := range []schemas.Slug{"production", "test"} {
		if _, err := f.AddHost(ctx, name); err != nil {
			return f, err
		}
	}
	for i := range n {
		put(f, i, 0)
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

func put(f *e2e.Fleet, i, version int) {
	body := fmt.Sprintf(`{"Id":"5ca1e000-1111-4222-8333-%012d","Name":"Job %d","Group":"Group %d","Description":"version=%d","Stats":{"Active":true},
		"Tasks":[{"Id":"5ca1e001-1111-4222-8333-%012d","Order":1,"Name":"Run","TaskType":"Execute","Execute":{"CmdLine":"run.cmd %d"},"Stats":{"Active":true}}]}`, i, i, i%12, version, i, version)
	if _, _, err := f.Hosts["production"].Server.Put(schemas.Job, []byte(body)); err != nil {
		panic(err) // a stand-in in memory takes every job
	}
}

// away lets the target be away while jobs change.
func away(ctx context.Context) error {
	f, err := fleet(ctx, *jobs)
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
		put(f, i%*jobs, 1 + i / *jobs)
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
	f, err := fleet(ctx, *objects)
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
