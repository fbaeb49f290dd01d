package e2e

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/vcsync/vcsync/schemas"
	"github.com/vcsync/vcsync/visualcron/standin"
)

// Fleet is the built program as a process of its own, beside stand-ins in this
// process that listen on loopback and outlive it.
type Fleet struct {
	// Dir holds the data folder and the log of all runs of the process.
	Dir string
	// API is the address of the process's API.
	API string
	// Env is added to the process's environment.
	Env   []string
	Hosts map[schemas.Slug]*Host

	binary    string
	addresses map[schemas.Slug]string
	ends      []func()
	up        *Process
	who       *who
	mu        sync.Mutex
	processes []*Process
}

// NewFleet prepares a fleet in a new folder under the system's temporary one; no
// process runs yet.
func NewFleet(binary string) (*Fleet, error) {
	dir, err := os.MkdirTemp("", "vcsync-e2e-")
	if err != nil {
		return nil, err
	}
	f := &Fleet{Dir: dir, Hosts: map[schemas.Slug]*Host{}, binary: binary, addresses: map[schemas.Slug]string{}}
	f.who = &who{names: map[string]string{}, pids: f.pids}
	if f.API, err = FreeAddr(); err != nil {
		return nil, err
	}
	return f, nil
}

// FreeAddr returns a loopback address that nobody listens on. Its port is none of those
// that systems give to outgoing connections, so that none of them has it when somebody
// comes to listen there.
func FreeAddr() (string, error) {
	var err error
	for range 100 {
		addr := fmt.Sprintf("127.0.0.1:%d", 12000+rand.IntN(18000))
		var l net.Listener
		if l, err = net.Listen("tcp", addr); err == nil {
			return addr, l.Close()
		}
	}
	return "", err
}

// Log returns the name of the file that holds what the process said.
func (f *Fleet) Log() string { return logIn(f.Dir, "vcsync") }

// AddHost starts a stand-in. With changes its configuration.
func (f *Fleet) AddHost(ctx context.Context, name schemas.Slug, with ...func(*standin.Config)) (*Host, error) {
	h, err := NewHost(name, with...)
	if err != nil {
		return nil, err
	}
	l, err := standin.Listen(ctx, "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	serve, end := context.WithCancel(context.Background())
	served := make(chan struct{})
	go func() { defer close(served); _ = h.Server.Serve(serve, namedListener{l, f.who}) }()
	f.ends = append(f.ends, func() { end(); <-served; h.Server.Close() })
	f.Hosts[name], f.addresses[name] = h, l.Addr().String()
	return h, nil
}

// Writer returns the name of the process that sent a request to a stand-in, "" where
// that is not known.
func (f *Fleet) Writer(r *http.Request) string { return f.who.name(r) }

// pids returns the names of the roles that run apart, by process id.
func (f *Fleet) pids() map[int]string {
	f.mu.Lock()
	defer f.mu.Unlock()
	out := map[int]string{}
	for _, p := range f.processes {
		if p.Running() {
			out[p.PID()] = p.Name
		}
	}
	return out
}

// Register adds every stand-in as a server, and a setting that takes all jobs from
// production to each target.
func (f *Fleet) Register(ctx context.Context, policies map[schemas.Slug]schemas.ActivePolicy) error {
	for name, addr := range f.addresses {
		if _, err := f.CLI(ctx, "server", "add", string(name), "--address", "http://"+addr, "--user", standin.DefaultUser, "--password-stdin"); err != nil {
			return err
		}
	}
	for name, policy := range policies {
		if _, err := f.CLI(ctx, "setting", "add", "to-"+string(name), "--from", "production", "--to", string(name), "--rule", "Job=all:new,updated,deleted", "--active", string(policy)); err != nil {
			return err
		}
	}
	return nil
}

// RegisterFrom adds every stand-in as a server, and for each target a setting that
// takes all jobs from its source.
func (f *Fleet) RegisterFrom(ctx context.Context, from map[schemas.Slug]schemas.Slug, policies map[schemas.Slug]schemas.ActivePolicy) error {
	if err := f.Register(ctx, nil); err != nil {
		return err
	}
	for target, source := range from {
		if _, err := f.CLI(ctx, "setting", "add", "to-"+string(target), "--from", string(source), "--to", string(target), "--rule", "Job=all:new,updated,deleted", "--active", string(policies[target])); err != nil {
			return err
		}
	}
	return nil
}

// CLI runs a client command and returns what it printed.
func (f *Fleet) CLI(ctx context.Context, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, f.binary, args...)
	cmd.Env = append(os.Environ(), "VCSYNC_API_ADDR="+f.API)
	cmd.Stdin = strings.NewReader(Password)
	out, err := cmd.CombinedOutput()
	if err != nil {
		return string(out), fmt.Errorf("vcsync %s: %w\n%s", strings.Join(args, " "), err, out)
	}
	return string(out), nil
}

// Start starts the process and returns when its API answers.
func (f *Fleet) Start(ctx context.Context) error {
	if f.up == nil {
		f.up = &Process{Name: "vcsync", Log: f.Log(), binary: f.binary, args: []string{"up"},
			ready: func(ctx context.Context, died <-chan error) error {
				return WaitHTTP(ctx, "http://"+f.API+"/livez", died)
			}}
	}
	f.up.env = append([]string{"VCSYNC_DATA=" + filepath.Join(f.Dir, "data"), "VCSYNC_API_ADDR=" + f.API, "VCSYNC_LOG_FORMAT=json", "VCSYNC_LOG_LEVEL=debug", "VCSYNC_SERVERS_ALLOW=127.0.0.1"}, f.Env...)
	return f.up.Start(ctx)
}

// WaitHTTP returns once the URL answers 200, within a minute, unless ctx ends or
// died says something.
func WaitHTTP(ctx context.Context, url string, died <-chan error) error {
	var last error
	for limit := time.Now().Add(time.Minute); time.Now().Before(limit); {
		resp, err := http.Get(url)
		if err == nil {
			resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return nil
			}
			err = errors.New(resp.Status)
		}
		last = err
		select {
		case err := <-died:
			return err
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(20 * time.Millisecond):
		}
	}
	return fmt.Errorf("no answer in a minute: %w", last)
}

// Died gets an error when the process ends, however it does; nil where there is none.
func (f *Fleet) Died() <-chan error {
	if f.up == nil {
		return nil
	}
	return f.up.Died()
}

// PID returns the id of the process.
func (f *Fleet) PID() int { return f.up.PID() }

// Kill ends the process with SIGKILL. It may be called more than once.
func (f *Fleet) Kill() {
	if f.up != nil {
		f.up.Kill()
	}
}

// Stop ends the process with SIGINT, as Ctrl-C does.
func (f *Fleet) Stop() { f.up.Stop() }

// Diverged returns in what the targets differ from production.
func (f *Fleet) Diverged(policies map[schemas.Slug]schemas.ActivePolicy) []string {
	var out []string
	for name, policy := range policies {
		out = append(out, Diverged(f.Hosts["production"], f.Hosts[name], policy)...)
	}
	return out
}

// WaitEqual returns how long it took until the targets equalled production, or an
// error with the differences after limit.
func (f *Fleet) WaitEqual(ctx context.Context, policies map[schemas.Slug]schemas.ActivePolicy, limit time.Duration) (time.Duration, error) {
	for begun := time.Now(); ; {
		diff := f.Diverged(policies)
		took := time.Since(begun)
		if diff == nil {
			return took, nil
		}
		if took > limit {
			return took, fmt.Errorf("%d differences after %s:\n%s", len(diff), took, strings.Join(diff[:min(20, len(diff))], "\n"))
		}
		select {
		case <-ctx.Done():
			return took, context.Cause(ctx)
		case err := <-f.Died():
			return took, err
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// Close ends the process and the stand-ins; with keep the folder stays.
func (f *Fleet) Close(keep bool) error {
	f.Kill()
	for _, end := range f.ends {
		end()
	}
	if keep {
		return nil
	}
	return os.RemoveAll(f.Dir)
}
