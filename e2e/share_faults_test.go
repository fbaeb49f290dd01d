package e2e

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/vcsync/vcsync/broker"
	"github.com/vcsync/vcsync/consumer"
	"github.com/vcsync/vcsync/schemas"
	"github.com/vcsync/vcsync/visualcron"
)

const oneJob = `{"Id":"5ca1e000-1111-4222-8333-000000000001","Name":"Job","Stats":{"Active":true}}`

// newCrew returns a world with one job at its source, n targets, and a crew of none.
func newCrew(t *testing.T, n int) (c *crew, source *Host, targets []*Host) {
	w := NewWorld(t)
	source = w.AddHost("production")
	if _, _, err := source.Server.Put(schemas.Job, []byte(oneJob)); err != nil {
		t.Fatal(err)
	}
	for i := range n {
		name := schemas.Slug(fmt.Sprintf("target-%d", i))
		targets = append(targets, w.AddHost(name))
		w.Setting(AllJobs("to-"+name, "production", name, schemas.Keep))
	}
	w.StartProducer()
	w.durables = start(consumer.NewDurables(w.Broker, w.Log).Run)
	return &crew{w: w, by: map[string]*consumer.Manager{}, roles: map[string]*role{}}, source, targets
}

func (c *crew) close() {
	for name := range c.roles {
		stop(c.roles[name], nil)
	}
	c.w.Close()
}

// One of two consumers cannot work on any target: its keyring is another's, or it is
// of a release that does not know the connector or a ledger page. The other one could.
func TestWhoCannotWorkOnATargetLeavesItToOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, source, targets := newCrew(t, 4)
		defer c.close()
		m := consumer.New(consumer.Config{Broker: c.w.Broker, Instance: "unable", Log: c.w.Log, Open: func(schemas.Server, string) (visualcron.Connector, error) {
			return nil, errors.New("no such connector in this release")
		}})
		c.by["unable"], c.roles["unable"] = m, start(m.Run)
		c.add("able")
		time.Sleep(10 * time.Minute)
		for _, h := range targets {
			if d := Diverged(source, h, schemas.Keep); d != nil {
				t.Errorf("10 minutes later, with one consumer that could: %v", d)
			}
		}
	})
}

// One of two consumers lives and knows nothing of the targets: it is of an older
// release that does not understand the record of the server, or its watch of the
// settings stands still.
func TestWhoDoesNotKnowATargetDoesNotKeepItFromOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, source, targets := newCrew(t, 4)
		defer c.close()
		unaware, err := c.w.Broker.NewShare(context.Background(), broker.ShareConfig{Role: "consumer", Prefix: "target.", Instance: "unaware"})
		if err != nil {
			t.Fatal(err)
		}
		defer unaware.Close()
		unaware.Want(nil)
		time.Sleep(5 * time.Second)
		c.add("aware")
		time.Sleep(10 * time.Minute)
		for _, h := range targets {
			if d := Diverged(source, h, schemas.Keep); d != nil {
				t.Errorf("10 minutes later, with one consumer that could: %v", d)
			}
		}
	})
}

// A consumer that ends gives its targets to those that go on at once, also where one
// of them takes long to give up.
func TestWhoEndsGetsNothingMore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, source, _ := newCrew(t, 8)
		defer c.close()
		c.add("one")
		c.add("two")
		c.settles(t, 30*time.Second, 4, 4)
		time.Sleep(time.Minute)
		var slow schemas.Slug // one of those that "one" has
		mine, _ := c.by["one"].Status()
		for _, s := range mine {
			if s.State == consumer.Working {
				slow = s.Target
			}
		}
		c.w.Hosts[slow].SetFaults(func(next http.Handler) http.Handler {
			return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
				if r.Method == http.MethodPut {
					io.Copy(io.Discard, r.Body)
					<-r.Context().Done()
					return
				}
				next.ServeHTTP(rw, r)
			})
		})
		if _, _, err := source.Server.Put(schemas.Job, []byte(`{"Id":"5ca1e000-1111-4222-8333-000000000001","Name":"Job 2","Stats":{"Active":true}}`)); err != nil {
			t.Fatal(err)
		}
		time.Sleep(3 * time.Second)
		ended := make(chan struct{})
		begun := time.Now()
		go func() { defer close(ended); stop(c.roles["one"], nil) }()
		time.Sleep(time.Second)
		had := c.load()["two"]
		for c.load()["two"] < 7 {
			if time.Since(begun) > time.Minute {
				t.Fatal("the targets do not move")
			}
			time.Sleep(50 * time.Millisecond)
		}
		took := time.Since(begun)
		<-ended
		delete(c.roles, "one")
		delete(c.by, "one")
		t.Logf("after 1 s it had %d; 7 of 8 after %s; ended after %s", had, took, time.Since(begun))
		if took > 3*time.Second {
			t.Errorf("the targets that were given back at once waited %s for the one that was not", took)
		}
	})
}

// Switching a setting off and on at once must not keep its target from being written.
func TestASettingOffAndOnAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, source, targets := newCrew(t, 1)
		defer c.close()
		c.add("one")
		time.Sleep(time.Minute)
		c.add("two") // it waits in case the first one dies
		time.Sleep(time.Minute)
		set := AllJobs("to-target-0", "production", "target-0", schemas.Keep)
		set.Normalize()
		for round := range 30 {
			var raw [2][]byte
			for i, active := range []bool{false, true} {
				set.Active = active
				var err error
				if raw[i], err = set.Encode(); err != nil {
					t.Fatal(err)
				}
			}
			for _, r := range raw { // both in one packet, as after a reconnection
				if err := c.w.Broker.JS().Conn().Publish("$KV."+broker.BucketConfig+".setting.to-target-0", r); err != nil {
					t.Fatal(err)
				}
			}
			time.Sleep(20 * time.Second)
			holder := "one"
			if c.load()["two"] > 0 {
				holder = "two"
			}
			c.end(holder, nil) // the other one is to take over
			time.Sleep(5 * time.Second)
			if _, _, err := source.Server.Put(schemas.Job, []byte(fmt.Sprintf(`{"Id":"5ca1e000-1111-4222-8333-000000000001","Name":"Job %d","Stats":{"Active":true}}`, round))); err != nil {
				t.Fatal(err)
			}
			for begun := time.Now(); Diverged(source, targets[0], schemas.Keep) != nil; time.Sleep(time.Second) {
				if time.Since(begun) > 10*time.Minute {
					t.Fatalf("round %d: nobody writes to the target any more: %v", round, c.load())
				}
			}
			c.add(holder)
			time.Sleep(time.Minute)
		}
	})
}

// Two waits for one item at once: the end of the first must not end the second.
func TestTheEndOfOneWaitIsNotThatOfAnother(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := NewWorld(t)
		defer w.Close()
		other, err := w.Broker.NewShare(context.Background(), broker.ShareConfig{Role: "consumer", Prefix: "target.", Instance: "other"})
		if err != nil {
			t.Fatal(err)
		}
		other.Want([]string{"x"})
		held, err := other.Acquire(context.Background(), "x")
		if err != nil {
			t.Fatal(err)
		}
		s, err := w.Broker.NewShare(context.Background(), broker.ShareConfig{Role: "consumer", Prefix: "target.", Instance: "one"})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		s.Want([]string{"x"})
		first, stopFirst := context.WithCancel(context.Background())
		firstEnded := make(chan struct{})
		go func() { defer close(firstEnded); s.Acquire(first, "x") }()
		time.Sleep(time.Second)
		second, stopSecond := context.WithTimeout(context.Background(), 5*time.Minute)
		defer stopSecond()
		got := make(chan error, 1)
		go func() {
			l, err := s.Acquire(second, "x")
			if err == nil {
				err = l.Release(context.Background())
			}
			got <- err
		}()
		time.Sleep(time.Second)
		stopFirst()
		<-firstEnded
		if err := held.Release(context.Background()); err != nil {
			t.Fatal(err)
		}
		other.Close()
		if err := <-got; err != nil {
			t.Errorf("a free item is not taken: %v", err)
		}
	})
}
