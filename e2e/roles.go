package e2e

import (
	"context"
	"fmt"
	"net"
	"path/filepath"
	"time"
)

// Roles are the roles of a fleet as processes of their own: each with its own data
// folder and log, and with the keys of its role that vcsync broker init wrote. A Link
// lies between the broker and each producer and consumer.
type Roles struct {
	*Fleet
	Broker, Control      *Process
	Producers, Consumers []*Process
	// Address is where the broker listens, and Keys the folder of all keys.
	Address, Keys string
}

// Apart prepares the roles of the fleet as processes; none runs yet. The environment
// is that of the fleet now.
func (f *Fleet) Apart(ctx context.Context, producers, consumers int) (*Roles, error) {
	r := &Roles{Fleet: f, Keys: filepath.Join(f.Dir, "keys")}
	if out, err := f.CLI(ctx, "broker", "init", r.Keys, "--host", "127.0.0.1"); err != nil {
		return nil, fmt.Errorf("%w\n%s", err, out)
	}
	var err error
	if r.Address, err = FreeAddr(); err != nil {
		return nil, err
	}
	r.Broker = f.process("broker", []string{"broker"}, "VCSYNC_KEYS="+filepath.Join(r.Keys, "broker"), "VCSYNC_NATS_LISTEN="+r.Address)
	r.Broker.ready = waitPort(r.Address)
	r.Control = r.role("control", "control", r.Address, "VCSYNC_API_ADDR="+f.API)
	r.Control.ready = func(ctx context.Context, died <-chan error) error {
		return WaitHTTP(ctx, "http://"+f.API+"/livez", died)
	}
	linked := func(role, name string) (*Process, error) {
		link, err := NewLink(r.Address)
		if err != nil {
			return nil, err
		}
		f.ends = append(f.ends, link.Close)
		p := r.role(role, name, link.Addr())
		p.Link = link
		return p, nil
	}
	for i := range producers {
		p, err := linked("producer", fmt.Sprintf("producer-%d", 1+i))
		if err != nil {
			return nil, err
		}
		r.Producers = append(r.Producers, p)
	}
	for i := range consumers {
		p, err := linked("consumer", fmt.Sprintf("consumer-%d", 1+i))
		if err != nil {
			return nil, err
		}
		r.Consumers = append(r.Consumers, p)
	}
	return r, nil
}

// role prepares a process of a role that reaches the broker at an address.
func (r *Roles) role(role, name, broker string, env ...string) *Process {
	return r.process(name, []string{role}, append([]string{"VCSYNC_KEYS=" + filepath.Join(r.Keys, role), "VCSYNC_NATS_URL=tls://" + broker, "VCSYNC_INSTANCE=" + name}, env...)...)
}

// All returns all processes, the broker first.
func (r *Roles) All() []*Process {
	return append(append([]*Process{r.Broker, r.Control}, r.Producers...), r.Consumers...)
}

// Start starts all processes, those that run already apart, and returns when the API
// answers.
func (r *Roles) Start(ctx context.Context) error {
	for _, p := range r.All() {
		if err := p.Start(ctx); err != nil {
			return err
		}
	}
	return nil
}

// process prepares a process of the fleet.
func (f *Fleet) process(name string, args []string, env ...string) *Process {
	p := &Process{Name: name, Log: logIn(f.Dir, name), binary: f.binary, args: args,
		env: append(append([]string{"VCSYNC_DATA=" + filepath.Join(f.Dir, name), "VCSYNC_LOG_FORMAT=json", "VCSYNC_LOG_LEVEL=debug"}, f.Env...), env...)}
	f.mu.Lock()
	f.processes = append(f.processes, p)
	f.mu.Unlock()
	f.ends = append([]func(){p.Kill}, f.ends...) // before what they speak to
	return p
}

// waitPort returns what waits until somebody listens on an address.
func waitPort(address string) func(context.Context, <-chan error) error {
	return func(ctx context.Context, died <-chan error) error {
		for limit := time.Now().Add(time.Minute); ; {
			c, err := net.DialTimeout("tcp", address, time.Second)
			if err == nil {
				return c.Close()
			}
			if time.Now().After(limit) {
				return fmt.Errorf("nobody listens on %s after a minute: %w", address, err)
			}
			select {
			case err := <-died:
				return err
			case <-ctx.Done():
				return context.Cause(ctx)
			case <-time.After(20 * time.Millisecond):
			}
		}
	}
}
