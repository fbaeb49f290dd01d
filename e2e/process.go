package e2e

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Process is the built program with one command, run as often as it is started. All
// runs write to one log. Its methods are for one goroutine at a time, but for Died,
// PID and Running.
type Process struct {
	// Name is what it is called, in messages and in the name of its log.
	Name string
	// Log is the file that holds what all runs said.
	Log string
	// Link is what lies between it and the broker; nil where it has none.
	Link *Link

	binary string
	args   []string
	env    []string
	// ready returns when a run does its work, or when died says something; nil for at
	// once.
	ready func(ctx context.Context, died <-chan error) error

	mu  sync.Mutex
	now *run
}

// run is one run of a Process.
type run struct {
	cmd  *exec.Cmd
	died chan error
	gone chan struct{}
	once sync.Once
}

// Start starts the process and returns when it does its work. One that runs already
// is left alone.
func (p *Process) Start(ctx context.Context) error {
	if p.Running() {
		return nil
	}
	log, err := os.OpenFile(p.Log, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close() // the process has its own
	cmd := exec.Command(p.binary, p.args...)
	cmd.Env = append(os.Environ(), p.env...)
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start %s (run make build first): %w", p.binary, err)
	}
	r := &run{cmd: cmd, died: make(chan error, 1), gone: make(chan struct{})}
	go func() {
		r.died <- errors.Join(errors.New(p.Name+" ended"), cmd.Wait())
		close(r.died)
		close(r.gone)
	}()
	p.mu.Lock()
	p.now = r
	p.mu.Unlock()
	if p.ready == nil {
		return nil
	}
	if err := p.ready(ctx, r.died); err != nil {
		p.Kill()
		return fmt.Errorf("start %s: %w", p.Name, err)
	}
	return nil
}

func (p *Process) current() *run {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.now
}

// Died gets an error when the process ends, however it does; nil before its start.
func (p *Process) Died() <-chan error {
	if r := p.current(); r != nil {
		return r.died
	}
	return nil
}

// Running tells whether the process has been started and has not ended.
func (p *Process) Running() bool {
	r := p.current()
	if r == nil {
		return false
	}
	select {
	case <-r.gone:
		return false
	default:
		return true
	}
}

// PID returns the id of the process, 0 before its start.
func (p *Process) PID() int {
	if r := p.current(); r != nil {
		return r.cmd.Process.Pid
	}
	return 0
}

// Kill ends the process with SIGKILL, also one that is frozen. It may be called more
// than once.
func (p *Process) Kill() { p.end(syscall.SIGKILL) }

// Stop ends the process with SIGINT, as Ctrl-C does, and kills it after half a minute.
func (p *Process) Stop() { p.end(syscall.SIGINT) }

func (p *Process) end(sig syscall.Signal) {
	r := p.current()
	if r == nil {
		return
	}
	r.once.Do(func() {
		_ = r.cmd.Process.Signal(sig) // one that has ended already is what is wanted
		late := time.AfterFunc(30*time.Second, func() { _ = r.cmd.Process.Kill() })
		<-r.gone
		late.Stop()
	})
}

// logIn returns the name of the log of a process in a folder.
func logIn(dir, name string) string { return filepath.Join(dir, name+".log") }

// Resident returns the resident memory of a process in MiB, now and at most.
func Resident(pid int) (now, most int, err error) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, 0, fmt.Errorf("the resident memory is known on Linux only: %w", err)
	}
	for line := range strings.Lines(string(status)) {
		name, value, _ := strings.Cut(line, ":")
		kib, _ := strconv.Atoi(strings.TrimSuffix(strings.TrimSpace(value), " kB"))
		switch name {
		case "VmRSS":
			now = kib >> 10
		case "VmHWM":
			most = kib >> 10
		}
	}
	return now, most, nil
}
