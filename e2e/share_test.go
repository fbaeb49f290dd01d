package e2e

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/vcsync/vcsync/broker"
	"github.com/vcsync/vcsync/consumer"
	"github.com/vcsync/vcsync/producer"
	"github.com/vcsync/vcsync/schemas"
	"github.com/vcsync/vcsync/visualcron"
	"github.com/vcsync/vcsync/visualcron/bridge"
)

// crew is several consumers on one broker.
type crew struct {
	w     *World
	names []string
	by    map[string]*consumer.Manager
	roles map[string]*role
}

func (c *crew) add(name string) {
	m := consumer.New(consumer.Config{Broker: c.w.Broker, Open: c.w.Open, Instance: name, Log: c.w.Log})
	c.by[name], c.roles[name] = m, start(m.Run)
	c.names = append(c.names, name)
}

func (c *crew) end(name string, cause error) {
	stop(c.roles[name], cause)
	delete(c.by, name)
	delete(c.roles, name)
}

// load returns how many targets each works on.
func (c *crew) load() map[string]int {
	out := map[string]int{}
	for name, m := range c.by {
		out[name] = 0
		targets, _ := m.Status()
		for _, t := range targets {
			if t.State == consumer.Working || t.State == consumer.Down {
				out[name]++
			}
		}
	}
	return out
}

// settles waits until the targets are shared out so, and returns how long it took.
func (c *crew) settles(t *testing.T, limit time.Duration, want ...int) time.Duration {
	t.Helper()
	begun := time.Now()
	for {
		have := slices.Sorted(maps.Values(c.load()))
		if slices.Equal(have, want) {
			return time.Since(begun)
		}
		if time.Since(begun) > limit {
			t.Fatalf("after %s the targets are shared out %v, want %v", limit, have, want)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

func TestConsumersShareTheTargetsOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := NewWorld(t)
		defer w.Close()
		source := w.AddHost("production")
		put := func(i, version int) {
			body := fmt.Sprintf(`{"Id":"5ca1e000-1111-4222-8333-%012d","Name":"Job %d","Description":"version=%d","Stats":{"Active":true}}`, i, i, version)
			if _, _, err := source.Server.Put(schemas.Job, []byte(body)); err != nil {
				t.Fatal(err)
			}
		}
		for i := range 20 {
			put(i, 0)
		}
		var targets []*Host
		for i := range 9 {
			name := schemas.Slug(fmt.Sprintf("target-%d", i))
			targets = append(targets, w.AddHost(name))
			w.Setting(AllJobs("to-"+name, "production", name, schemas.Keep))
		}
		w.StartProducer()
		w.durables = start(consumer.NewDurables(w.Broker, w.Log).Run)
		c := &crew{w: w, by: map[string]*consumer.Manager{}, roles: map[string]*role{}}
		defer func() {
			for name := range maps.Clone(c.roles) {
				c.end(name, nil)
			}
		}()
		// Changes flow all the time.
		flowing, rest := context.WithCancel(context.Background())
		flowed := make(chan struct{})
		go func() {
			defer close(flowed)
			for v := 1; flowing.Err() == nil; v++ {
				put(v%20, v)
				time.Sleep(300 * time.Millisecond)
			}
		}()
		for _, name := range []string{"one", "two", "three"} {
			c.add(name)
		}
		t.Logf("three consumers had three targets each after %s", c.settles(t, 30*time.Second, 3, 3, 3))
		time.Sleep(time.Minute)
		if got := slices.Sorted(maps.Values(c.load())); !slices.Equal(got, []int{3, 3, 3}) {
			t.Errorf("a minute later they have %v", got)
		}
		c.end("two", consumer.ErrCrash)
		t.Logf("the targets of the dead one had moved after %s", c.settles(t, 20*time.Second, 4, 5))
		c.add("four")
		t.Logf("they were spread again %s after one was added", c.settles(t, 15*time.Second, 3, 3, 3))
		c.end("one", nil)
		t.Logf("those of one that was stopped had moved after %s", c.settles(t, 3*time.Second, 4, 5))
		c.add("five")
		c.settles(t, 15*time.Second, 3, 3, 3)
		rest()
		<-flowed
		time.Sleep(2 * time.Minute)
		for _, h := range targets {
			if d := Diverged(source, h, schemas.Keep); d != nil {
				t.Errorf("%s: %v", h.Name, d)
			}
			if h.Broken != nil {
				t.Errorf("%s: %v", h.Name, h.Broken)
			}
			last := map[schemas.ID]string{}
			for _, x := range h.Seen() {
				if v := versionOf(x.Body); v < last[x.ID] {
					t.Errorf("%s got an older version of %s: %s after %s", h.Name, x.ID, v, last[x.ID])
				} else {
					last[x.ID] = v
				}
			}
		}
	})
}

// versionOf returns the version that a body says, so that it can be compared.
func versionOf(body []byte) string {
	var n int
	if i := indexAfter(body, "version="); i >= 0 {
		fmt.Sscanf(string(body[i:]), "%d", &n)
	}
	return fmt.Sprintf("%09d", n)
}

func indexAfter(b []byte, s string) int {
	for i := range b {
		if len(b)-i >= len(s) && string(b[i:i+len(s)]) == s {
			return i + len(s)
		}
	}
	return -1
}

// A target that is a black hole is given up within what a request may take, and the
// others of its consumer at once.
func TestABlackHoleIsHandedOverToo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := NewWorld(t)
		defer w.Close()
		source := w.AddHost("production")
		if _, _, err := source.Server.Put(schemas.Job, []byte(`{"Id":"5ca1e000-1111-4222-8333-000000000001","Name":"Job","Stats":{"Active":true}}`)); err != nil {
			t.Fatal(err)
		}
		for i := range 4 {
			name := schemas.Slug(fmt.Sprintf("target-%d", i))
			h := w.AddHost(name)
			h.SetFaults(func(http.Handler) http.Handler {
				return http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
					io.Copy(io.Discard, r.Body) // only then does the server notice that the client left
					<-r.Context().Done()
				})
			})
			w.Setting(AllJobs("to-"+name, "production", name, schemas.Keep))
		}
		w.StartProducer()
		w.durables = start(consumer.NewDurables(w.Broker, w.Log).Run)
		c := &crew{w: w, by: map[string]*consumer.Manager{}, roles: map[string]*role{}}
		c.add("one")
		defer func() { c.end("one", nil) }()
		time.Sleep(time.Minute)
		c.add("two")
		defer func() { c.end("two", nil) }()
		t.Logf("shared out after %s", c.settles(t, 10*time.Second, 2, 2))
	})
}

// A target that one consumer cannot reach and another can is handed over; one that
// nobody can reach does not wander.
func TestATargetOutOfReachIsHandedOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := NewWorld(t)
		defer w.Close()
		source := w.AddHost("production")
		if _, _, err := source.Server.Put(schemas.Job, []byte(`{"Id":"5ca1e000-1111-4222-8333-000000000001","Name":"Job","Stats":{"Active":true}}`)); err != nil {
			t.Fatal(err)
		}
		var hosts []*Host
		for _, name := range []schemas.Slug{"remote", "dead", "other"} {
			hosts = append(hosts, w.AddHost(name))
			w.Setting(AllJobs("to-"+name, "production", name, schemas.Keep))
		}
		hosts[1].SetFaults(func(http.Handler) http.Handler {
			return http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) })
		})
		w.StartProducer()
		w.durables = start(consumer.NewDurables(w.Broker, w.Log).Run)
		c := &crew{w: w, by: map[string]*consumer.Manager{}, roles: map[string]*role{}}
		blind := consumer.New(consumer.Config{Broker: w.Broker, Instance: "blind", Log: w.Log, Open: func(s schemas.Server, pw string) (visualcron.Connector, error) {
			if s.ID == "remote" {
				return bridge.New(visualcron.Config{Server: s.ID, Address: s.Address, User: s.User, Password: pw}, bridge.WithTransport(noWay{}))
			}
			return w.Open(s, pw)
		}})
		c.by["blind"], c.roles["blind"] = blind, start(blind.Run)
		defer c.end("blind", nil)
		time.Sleep(5 * time.Minute)
		c.add("sighted")
		defer c.end("sighted", nil)
		for begun := time.Now(); Diverged(source, hosts[0], schemas.Keep) != nil; time.Sleep(time.Second) {
			if time.Since(begun) > 10*time.Minute {
				t.Fatal("the remote target did not get its job")
			}
		}
		hosts[1].Reset()
		time.Sleep(20 * time.Minute)
		if n := hosts[1].Requests(); n > 200 {
			t.Errorf("%d requests to a dead target in 20 minutes", n)
		}
		hosts[1].SetFaults(nil)
		time.Sleep(2 * time.Minute)
		for _, h := range hosts {
			if d := Diverged(source, h, schemas.Keep); d != nil {
				t.Errorf("%s: %v", h.Name, d)
			}
		}
	})
}

// noWay is a network without a route.
type noWay struct{}

func (noWay) RoundTrip(*http.Request) (*http.Response, error) {
	return nil, &net.OpError{Op: "dial", Net: "tcp", Err: errors.New("no route to host")}
}

func TestOfTwoProducersOneWorksAndOneStandsBy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := NewWorld(t)
		defer w.Close()
		source, target := w.AddHost("production"), w.AddHost("test")
		w.Setting(AllJobs("to-test", "production", "test", schemas.Keep))
		w.StartConsumer()
		roles, managers := map[string]*role{}, map[string]*producer.Manager{}
		add := func(name string) {
			managers[name] = producer.New(producer.Config{Broker: w.Broker, Open: w.Open, Poll: w.Poll, Instance: name, Log: w.Log})
			roles[name] = start(managers[name].Run)
		}
		defer func() {
			for _, r := range roles {
				stop(r, nil)
			}
		}()
		states := func() (out []string) {
			for _, m := range managers {
				for _, s := range m.Status() {
					out = append(out, string(s.State))
				}
			}
			slices.Sort(out)
			return out
		}
		add("one")
		time.Sleep(time.Second)
		add("two")
		time.Sleep(time.Minute)
		if got := states(); !slices.Equal(got, []string{"capturing", "standing by"}) {
			t.Fatalf("states %v", got)
		}
		arrives := func(name string, limit time.Duration) {
			t.Helper()
			if _, _, err := source.Server.Put(schemas.Job, []byte(fmt.Sprintf(`{"Id":"5ca1e000-1111-4222-8333-000000000001","Name":%q,"Stats":{"Active":true}}`, name))); err != nil {
				t.Fatal(err)
			}
			for begun := time.Now(); Diverged(source, target, schemas.Keep) != nil; time.Sleep(100 * time.Millisecond) {
				if time.Since(begun) > limit {
					t.Fatalf("%q is not there after %s; states %v", name, limit, states())
				}
			}
		}
		arrives("while two are there", 2*time.Second)
		stop(roles["one"], broker.ErrCrash)
		delete(roles, "one")
		delete(managers, "one")
		arrives("after a crash", 22*time.Second)
		add("three")
		time.Sleep(time.Second)
		stop(roles["two"], nil)
		delete(roles, "two")
		delete(managers, "two")
		arrives("after a stop", 3*time.Second)
	})
}
