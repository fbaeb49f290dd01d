// Command compose proves the fleet of docker-compose.yml on a real Docker: it
// starts a fresh one under a project name of its own, kills each container in turn,
// and measures how long an edit on production takes to arrive at both targets
// meanwhile and afterwards. Each is killed in two ways: with `docker kill`, which
// Docker takes for somebody's wish and never undoes, so that the program starts it
// again with `docker start`; and with SIGKILL from outside of Docker, as a crash or
// the kernel's out-of-memory killer would end it, from which it has to come back by
// itself. It runs as root on the machine of the Docker daemon, because it reaches
// the stand-ins by the addresses of their containers.
package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/vcsync/vcsync/schemas"
	"github.com/vcsync/vcsync/visualcron"
	"github.com/vcsync/vcsync/visualcron/bridge"
	"github.com/vcsync/vcsync/visualcron/standin"
)

var (
	docker  = flag.String("docker", "docker", "the docker command")
	compose = flag.String("compose", "docker-compose", `the compose command, such as "docker compose"`)
	project = flag.String("project", "vcsync-test", "name of the fleet; one that exists is removed, with its data")
	file    = flag.String("file", "docker-compose.yml", "the compose file")
	keep    = flag.Bool("keep", false, "leave the fleet running")
	only    = flag.String("only", "", "kill only these services, with commas between them")
	limit   = flag.Duration("limit", 2*time.Minute, "how long anything may take")
	worst   = flag.Duration("worst", 25*time.Second, "how long an edit may take after a kill: the lease's 15 s, 5 s to take over, and its own way")
)

func main() {
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "compose:", err)
		os.Exit(1)
	}
}

// The stand-ins, and where each listens in its container.
var (
	targets = []string{"test", "standby"}
	ports   = map[string]int{"production": 7701, "test": 7702, "standby": 7703}
	policy  = map[string]schemas.ActivePolicy{"test": schemas.Keep, "standby": schemas.Off}
)

// services are killed in this order. One with @ is whichever process holds that
// server: killing one that stands by proves little.
var services = []string{"@production", "@test", "@standby", "producer-1", "producer-2", "consumer-1", "consumer-2", "consumer-3",
	"control", "broker", "standin-test", "standin-standby", "standin-production"}

// The two ways to die.
const (
	crash      = "crash"
	dockerKill = "docker kill"
)

type fleet struct {
	job   schemas.ID // the one that is edited
	edits int
}

func run(ctx context.Context) (err error) {
	if _, err := command(ctx, composeArgs("down", "-v", "--remove-orphans")...); err != nil {
		return err
	}
	defer func() {
		// The fleet goes even where the program was interrupted.
		ctx := context.WithoutCancel(ctx)
		if err != nil {
			logs, _ := command(ctx, composeArgs("logs", "--no-color", "--tail=40")...) // what there is
			fmt.Fprintln(os.Stderr, logs)
		}
		if !*keep {
			_, derr := command(ctx, composeArgs("down", "-v", "--remove-orphans")...)
			err = errors.Join(err, derr)
		}
	}()
	begun := time.Now()
	if _, err := command(ctx, composeArgs("up", "-d")...); err != nil {
		return err
	}
	var f fleet
	if err := until(ctx, "the targets equal production", f.equal); err != nil {
		return err
	}
	fmt.Printf("compose: from nothing to two equal targets: %.1f s\n", time.Since(begun).Seconds())
	plain, err := f.arrival(ctx, targets)
	if err != nil {
		return err
	}
	fmt.Printf("compose: an edit on production arrives after %.1f s while all is well\n\n", plain.Seconds())
	fmt.Printf("%-20s %-12s %-12s %-30s %-24s %s\n", "KILLED", "IT HELD", "HOW", "AN EDIT RIGHT AFTER ARRIVED", "CAME BACK", "AN EDIT AFTERWARDS")
	for _, how := range []string{crash, dockerKill} {
		for _, s := range services {
			if *only != "" && !slices.Contains(strings.Split(*only, ","), s) {
				continue
			}
			if err := f.round(ctx, s, how); err != nil {
				return fmt.Errorf("%s, %s: %w", s, how, err)
			}
		}
	}
	if err := until(ctx, "the targets equal production at the end", f.equal); err != nil {
		return err
	}
	c, err := inspect(ctx, "control")
	if err != nil {
		return err
	}
	status, err := command(ctx, *docker, "exec", c.ID, "vcsync", "status")
	fmt.Printf("\ncompose: PASSED after %d edits: every job equal at both targets, and the same objects of every type\n\n%s", f.edits, status)
	return err
}

// round kills one container and sees whether edits arrive without it and after it.
func (f *fleet) round(ctx context.Context, service, how string) error {
	var held []string
	if err := until(ctx, "each server is held by a process", func(ctx context.Context) error {
		holders, err := holders(ctx)
		if server, ok := strings.CutPrefix(service, "@"); ok && err == nil {
			service = holders[server]
		}
		held = nil
		for server, process := range holders {
			if process == service {
				held = append(held, server)
			}
		}
		return err
	}); err != nil {
		return err
	}
	before, err := inspect(ctx, service)
	if err != nil {
		return err
	}
	if how == dockerKill {
		_, err = command(ctx, *docker, "kill", before.ID)
	} else {
		err = syscall.Kill(before.State.Pid, syscall.SIGKILL)
	}
	if err != nil {
		return fmt.Errorf("kill it: %w", err)
	}
	killed := time.Now()
	start := func() error {
		// Not before it is known that Docker itself leaves it dead.
		if c, err := inspect(ctx, service); err != nil || c.State.Running {
			return errors.Join(err, fmt.Errorf("docker started it by itself (running: %t): this program's assumption does not hold", c.State.Running))
		}
		_, err := command(ctx, *docker, "start", before.ID)
		return err
	}
	// Without these nothing can move, so they are started first. The others are
	// dead while the edit goes its way.
	early := how == dockerKill && (service == "broker" || service == "standin-production")
	living := slices.DeleteFunc(slices.Clone(targets), func(t string) bool { return how == dockerKill && service == "standin-"+t })
	if early {
		if service == "broker" { // edited while it is dead, captured when it is back
			if err := f.edit(ctx); err != nil {
				return err
			}
		}
		if err := start(); err != nil {
			return err
		}
	}
	if service != "broker" || !early {
		if err := until(ctx, "production takes an edit", f.edit); err != nil {
			return err
		}
	}
	if err := until(ctx, "the edit arrives", func(ctx context.Context) error { return f.arrived(ctx, living) }); err != nil {
		return err
	}
	took := time.Since(killed)
	during := fmt.Sprintf("%.1f s", took.Seconds())
	if len(living) < len(targets) {
		during += ", at the other target"
	}
	back := "by docker start"
	if how == dockerKill && !early {
		if err := start(); err != nil {
			return err
		}
	}
	if how == crash {
		if err := until(ctx, "it comes back", func(ctx context.Context) error {
			c, err := inspect(ctx, service)
			if err == nil && (!c.State.Running || c.State.Pid == before.State.Pid) {
				err = fmt.Errorf("it is %s", c.State.Status)
			}
			return err
		}); err != nil {
			return err
		}
		back = "by itself"
	}
	returned := time.Now()
	if err := until(ctx, "what it missed arrives", func(ctx context.Context) error { return f.arrived(ctx, targets) }); err != nil {
		return err
	}
	if len(living) < len(targets) {
		back += fmt.Sprintf(", +%.1f s", time.Since(returned).Seconds())
	}
	if service == "control" {
		if err := until(ctx, "control is healthy", func(ctx context.Context) error {
			c, err := inspect(ctx, service)
			if err == nil && c.State.Health.Status != "healthy" {
				err = fmt.Errorf("it is %q", c.State.Health.Status)
			}
			return err
		}); err != nil {
			return err
		}
	}
	after, err := f.arrival(ctx, targets)
	if err != nil {
		return err
	}
	slices.Sort(held)
	fmt.Printf("%-20s %-12s %-12s %-30s %-24s %.1f s\n", service, cmp.Or(strings.Join(held, ","), "-"), how, during, back, after.Seconds())
	if took > *worst {
		return fmt.Errorf("the edit took %s, more than %s", took, *worst)
	}
	return nil
}

// holders returns the process that holds each server, as control knows it. It is an
// error while a server has none, or one that is not known to be alive.
func holders(ctx context.Context) (map[string]string, error) {
	c, err := inspect(ctx, "control")
	if err != nil {
		return nil, err
	}
	out, err := command(ctx, *docker, "exec", c.ID, "vcsync", "status", "--json")
	if err != nil {
		return nil, err
	}
	var status struct {
		Processes []struct {
			Instance, State  string
			Sources, Targets []string
		}
	}
	if err := json.Unmarshal([]byte(out), &status); err != nil {
		return nil, err
	}
	by := map[string]string{}
	for _, p := range status.Processes {
		for _, server := range slices.Concat(p.Sources, p.Targets) {
			if other, ok := by[server]; ok || p.State != "alive" {
				return nil, fmt.Errorf("%s is held by %s, which is %s, and by %q", server, p.Instance, p.State, other)
			}
			by[server] = p.Instance
		}
	}
	for name := range ports {
		if by[name] == "" {
			return nil, fmt.Errorf("no process holds %s", name)
		}
	}
	return by, nil
}

// arrival edits and returns how long it took to arrive.
func (f *fleet) arrival(ctx context.Context, at []string) (time.Duration, error) {
	if err := f.edit(ctx); err != nil {
		return 0, err
	}
	begun := time.Now()
	err := until(ctx, "an edit arrives", func(ctx context.Context) error { return f.arrived(ctx, at) })
	return time.Since(begun), err
}

// edit changes the description of a job on production.
func (f *fleet) edit(ctx context.Context) error {
	return on(ctx, "production", func(c visualcron.Connector) error {
		body, err := c.Get(ctx, schemas.Job, f.job)
		if err != nil {
			return err
		}
		var job map[string]json.RawMessage
		if err := json.Unmarshal(body, &job); err != nil {
			return err
		}
		job["Description"] = json.RawMessage(fmt.Sprintf(`"edit %d"`, f.edits+1))
		if body, err = json.Marshal(job); err != nil {
			return err
		}
		if _, err = c.Put(ctx, schemas.Job, f.job, body, ""); err == nil {
			f.edits++
		}
		return err
	})
}

// arrived says where the last edit is not.
func (f *fleet) arrived(ctx context.Context, at []string) error {
	for _, name := range at {
		if err := on(ctx, name, func(c visualcron.Connector) error {
			body, err := c.Get(ctx, schemas.Job, f.job)
			var job struct{ Description string }
			if err == nil {
				err = json.Unmarshal(body, &job)
			}
			if want := fmt.Sprintf("edit %d", f.edits); err == nil && job.Description != want {
				err = fmt.Errorf("%s has %q, not %q", name, job.Description, want)
			}
			return err
		}); err != nil {
			return err
		}
	}
	return nil
}

// equal says in what the targets differ from production: in a job, or in which
// objects of the other types there are.
func (f *fleet) equal(ctx context.Context) error {
	want, err := contents(ctx, "production")
	if err != nil {
		return err
	}
	for id := range want[schemas.Job] {
		f.job = max(f.job, id)
	}
	if f.job == "" {
		return errors.New("production has no job yet")
	}
	for _, name := range targets {
		have, err := contents(ctx, name)
		if err != nil {
			return err
		}
		for _, t := range schemas.Types() {
			if t == schemas.ServerSettings {
				continue // not in the demo's settings
			}
			if len(have[t]) != len(want[t]) {
				return fmt.Errorf("%s has %d objects of type %s, production %d", name, len(have[t]), t, len(want[t]))
			}
			for id, body := range want[t] {
				own, ok := have[t][id]
				if !ok {
					return fmt.Errorf("%s lacks %s %s", name, t, id)
				}
				if t != schemas.Job {
					continue
				}
				if same, err := holds(body, own, policy[name]); err != nil || !same {
					return errors.Join(err, fmt.Errorf("%s %s differs at %s", t, id, name))
				}
			}
		}
	}
	return nil
}

// holds tells whether a target's job is what the source's makes of it.
func holds(source, own []byte, active schemas.ActivePolicy) (bool, error) {
	inClear := func(s string) string { return s }
	composed, err := visualcron.Compose(schemas.Job, source, own, visualcron.Composition{Policy: active, Secrets: visualcron.SecretsEqual})
	if err != nil {
		return false, err
	}
	want, err := visualcron.Normalize(schemas.Job, composed.Body, inClear)
	if err != nil {
		return false, err
	}
	have, err := visualcron.Normalize(schemas.Job, own, inClear)
	return want.Digest == have.Digest, err
}

// contents lists a stand-in, without what is built in.
func contents(ctx context.Context, name string) (map[schemas.Type]map[schemas.ID][]byte, error) {
	out := map[schemas.Type]map[schemas.ID][]byte{}
	err := on(ctx, name, func(c visualcron.Connector) error {
		for _, t := range schemas.Types() {
			out[t] = map[schemas.ID][]byte{}
			if _, err := c.List(ctx, t, func(r visualcron.Row) error {
				if !standin.IsBuiltin(t, r.ID) {
					out[t][r.ID] = bytes.Clone(r.Body)
				}
				return nil
			}); err != nil {
				return err
			}
		}
		return nil
	})
	return out, err
}

// on speaks to a stand-in, at the address that its container has now.
func on(ctx context.Context, name string, do func(visualcron.Connector) error) error {
	c, err := inspect(ctx, "standin-"+name)
	if err != nil {
		return err
	}
	for _, n := range c.NetworkSettings.Networks {
		if n.IPAddress == "" {
			continue
		}
		b, err := bridge.New(visualcron.Config{Server: schemas.Slug(name), Reach: visualcron.Anywhere(), Address: fmt.Sprintf("http://%s:%d", n.IPAddress, ports[name]),
			User: standin.DefaultUser, Password: standin.DefaultPassword, RequestTimeout: 5 * time.Second})
		if err != nil {
			return err
		}
		return errors.Join(do(b), b.Close())
	}
	return fmt.Errorf("the container of %s has no address: it is %s", name, c.State.Status)
}

// container is what of `docker inspect` is of interest.
type container struct {
	ID    string `json:"Id"`
	State struct {
		Status  string
		Running bool
		Pid     int
		Health  struct{ Status string }
	}
	NetworkSettings struct {
		Networks map[string]struct{ IPAddress string }
	}
}

func inspect(ctx context.Context, service string) (container, error) {
	ids, err := command(ctx, *docker, "ps", "-aq", "--no-trunc", "--filter", "label=com.docker.compose.project="+*project,
		"--filter", "label=com.docker.compose.service="+service)
	if err != nil {
		return container{}, err
	}
	id := strings.TrimSpace(ids)
	if id == "" || strings.Contains(id, "\n") {
		return container{}, fmt.Errorf("want one container of service %s, there are: %q", service, id)
	}
	out, err := command(ctx, *docker, "inspect", id)
	if err != nil {
		return container{}, err
	}
	var all []container
	if err := json.Unmarshal([]byte(out), &all); err != nil || len(all) != 1 {
		return container{}, fmt.Errorf("docker inspect %s: %d containers, %w", id, len(all), err)
	}
	return all[0], nil
}

// until tries again and again, and says after the limit what was missing.
func until(ctx context.Context, what string, try func(context.Context) error) error {
	begun := time.Now()
	for {
		err := try(ctx)
		if err == nil {
			return nil
		}
		if time.Since(begun) > *limit {
			return fmt.Errorf("%s: not within %s: %w", what, *limit, err)
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(100 * time.Millisecond):
		}
	}
}

func composeArgs(args ...string) []string {
	return slices.Concat(strings.Fields(*compose), []string{"-f", *file, "-p", *project}, args)
}

// command runs a command and returns what it printed; its errors are part of the
// error only.
func command(ctx context.Context, args ...string) (string, error) {
	var stdout, stderr bytes.Buffer
	c := exec.CommandContext(ctx, args[0], args[1:]...)
	c.Stdout, c.Stderr = &stdout, &stderr
	if err := c.Run(); err != nil {
		return stdout.String(), fmt.Errorf("%s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(stderr.String()))
	}
	return stdout.String(), nil
}
