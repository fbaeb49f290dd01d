package e2e

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// Roles are the roles of a fleet as processes of their own: each with its own data
// folder and log, and with the keys of its role that vcsync broker init wrote. A Link
// lies between the broker and each producer and consumer.
type Roles struct {
	*Fleet
	Broker, Control      *Process
	Producers, Consumers []*Process
	// Members are the brokers of a cluster, of which Broker is the first; nil where
	// there is no cluster.
	Members []*Process
	// Address is where the broker listens, or several with commas between them, and
	// Keys the folder of all keys.
	Address, Keys string

	routes map[[2]int]*Link // from one member to another
}

// Apart prepares the roles of the fleet as processes; none runs yet. The environment
// is that of the fleet now.
func (f *Fleet) Apart(ctx context.Context, producers, consumers int) (*Roles, error) {
	r := &Roles{Fleet: f}
	if err := r.keys(ctx); err != nil {
		return nil, err
	}
	var err error
	if r.Address, err = FreeAddr(); err != nil {
		return nil, err
	}
	r.Broker = f.process("broker", []string{"broker"}, "VCSYNC_KEYS="+filepath.Join(r.Keys, "broker"), "VCSYNC_NATS_LISTEN="+r.Address)
	r.Broker.ready = waitPort(r.Address)
	return r, r.around(producers, consumers, true)
}

// OnCluster is Apart with a cluster of three brokers, from the configuration files in
// a folder (deploy/nats), at free ports. Each member reaches each other through a Link;
// the roles reach them straight.
func (f *Fleet) OnCluster(ctx context.Context, files string, producers, consumers int) (*Roles, error) {
	r := &Roles{Fleet: f, routes: map[[2]int]*Link{}}
	if err := r.keys(ctx); err != nil {
		return nil, err
	}
	var clients, members [3]string
	for i := range 3 {
		var err, err2 error
		clients[i], err = FreeAddr()
		members[i], err2 = FreeAddr()
		if err = errors.Join(err, err2); err != nil {
			return nil, err
		}
	}
	for i := range 3 {
		for j := range 3 {
			link, err := NewLink(members[j])
			if err != nil {
				return nil, err
			}
			r.routes[[2]int{i, j}] = link
			f.ends = append(f.ends, link.Close)
		}
	}
	folder := filepath.Join(r.Keys, "broker")
	for i := range 3 {
		name := fmt.Sprintf("broker-%d", 1+i)
		for _, file := range []string{"common.conf", fmt.Sprintf("node%d.conf", 1+i)} {
			raw, err := os.ReadFile(filepath.Join(files, file))
			if err != nil {
				return nil, err
			}
			pairs := []string{"/etc/vcsync-broker", folder, "/var/lib/vcsync-broker", filepath.Join(f.Dir, name), "0.0.0.0:4222", clients[i], "0.0.0.0:6222", members[i],
				// Else the members tell each other their own addresses, past the links.
				`name: "vcsync"`, "name: \"vcsync\"\n  no_advertise: true"}
			for j := range 3 {
				pairs = append(pairs, fmt.Sprintf("nats%d:6222", 1+j), r.routes[[2]int{i, j}].Addr())
			}
			if err := os.WriteFile(filepath.Join(folder, file), []byte(strings.NewReplacer(pairs...).Replace(string(raw))), 0o600); err != nil {
				return nil, err
			}
		}
		p := f.process(name, []string{"broker", "--config", filepath.Join(folder, fmt.Sprintf("node%d.conf", 1+i))})
		p.ready = waitPort(clients[i])
		r.Members = append(r.Members, p)
	}
	r.Broker, r.Address = r.Members[0], strings.Join(clients[:], ",")
	return r, r.around(producers, consumers, false)
}

// CutOff pauses all that goes between a member and the others, until the function that
// it returns is called; with ends it ends their connections too.
func (r *Roles) CutOff(member int, ends bool) (again func()) {
	var links []*Link
	for pair, link := range r.routes {
		if pair[0] == member || pair[1] == member {
			links = append(links, link)
		}
	}
	for _, link := range links {
		if ends {
			link.Cut()
		} else {
			link.Pause()
		}
	}
	return func() {
		for _, link := range links {
			link.Flow()
		}
	}
}

func (r *Roles) keys(ctx context.Context) error {
	r.Keys = filepath.Join(r.Dir, "keys")
	_, err := r.CLI(ctx, "broker", "init", r.Keys, "--host", "127.0.0.1")
	return err
}

// around prepares what uses the broker.
func (r *Roles) around(producers, consumers int, linked bool) error {
	r.Control = r.role("control", "control", r.Address, "VCSYNC_API_ADDR="+r.API)
	r.Control.ready = func(ctx context.Context, died <-chan error) error {
		return WaitHTTP(ctx, "http://"+r.API+"/livez", died)
	}
	worker := func(role string, i int) (*Process, error) {
		name := fmt.Sprintf("%s-%d", role, 1+i)
		if !linked {
			return r.role(role, name, r.Address), nil
		}
		link, err := NewLink(r.Address)
		if err != nil {
			return nil, err
		}
		r.ends = append(r.ends, link.Close)
		p := r.role(role, name, link.Addr())
		p.Link = link
		return p, nil
	}
	for i := range producers {
		p, err := worker("producer", i)
		if err != nil {
			return err
		}
		r.Producers = append(r.Producers, p)
	}
	for i := range consumers {
		p, err := worker("consumer", i)
		if err != nil {
			return err
		}
		r.Consumers = append(r.Consumers, p)
	}
	return nil
}

// brokerURL returns the URLs of broker addresses with commas between them.
func brokerURL(addresses string) string {
	return "tls://" + strings.ReplaceAll(addresses, ",", ",tls://")
}

// role prepares a process of a role that reaches the broker at an address.
func (r *Roles) role(role, name, broker string, env ...string) *Process {
	return r.process(name, []string{role}, append([]string{"VCSYNC_KEYS=" + filepath.Join(r.Keys, role), "VCSYNC_NATS_URL=" + brokerURL(broker), "VCSYNC_INSTANCE=" + name, "VCSYNC_SERVERS_ALLOW=127.0.0.1"}, env...)...)
}

// All returns all processes, the brokers first.
func (r *Roles) All() []*Process {
	out := r.Members
	if out == nil {
		out = []*Process{r.Broker}
	}
	return slices.Concat(out, []*Process{r.Control}, r.Producers, r.Consumers)
}

// Start starts all processes, those that run already apart, and returns when the API
// answers.
func (r *Roles) Start(ctx context.Context) error {
	if r.Members != nil { // one alone waits for another
		errs := make(chan error, len(r.Members))
		for _, p := range r.Members {
			go func() { errs <- p.Start(ctx) }()
		}
		for range r.Members {
			if err := <-errs; err != nil {
				return err
			}
		}
	}
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
