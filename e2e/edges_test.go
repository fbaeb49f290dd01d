package e2e_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vcsync/vcsync/broker"
	"github.com/vcsync/vcsync/e2e"
	"github.com/vcsync/vcsync/schemas"
)

// refusePuts answers 422 to every write.
func refusePuts() func(http.Handler) http.Handler {
	return fault(func(rw http.ResponseWriter, r *http.Request) bool {
		if r.Method != http.MethodPut {
			return false
		}
		rw.Header().Set("Content-Type", "application/problem+json")
		rw.WriteHeader(http.StatusUnprocessableEntity)
		io.WriteString(rw, `{"title":"no"}`)
		return true
	})
}

func TestTheIntentOfARefusedCreateIsNoOwnership(t *testing.T) {
	world(t, []schemas.Slug{"test"}, func(w *e2e.World) {
		prod, test := w.Hosts["production"], w.Hosts["test"]
		test.SetFaults(refusePuts())
		putJob(t, prod, 1, "of production")
		w.StartProducer()
		w.StartConsumer()
		time.Sleep(time.Minute)
		if n := len(listParked(t, w)); n != 1 {
			t.Fatalf("parked %d", n)
		}
		test.SetFaults(nil)
		putJob(t, test, 1, "made by hand at test, differs") // e.g. entered by hand, as the parked record's fix says
		deleteJob(t, prod, 1)
		time.Sleep(3 * time.Minute)
		if _, there := test.Server.Get(schemas.Job, jobID(1)); !there {
			t.Error("G4: an object that vcsync neither brought nor found equal was deleted")
		}
	})
}

func TestTheIntentOfARefusedUpdateIsNoOwnership(t *testing.T) {
	world(t, []schemas.Slug{"test"}, func(w *e2e.World) {
		prod, test := w.Hosts["production"], w.Hosts["test"]
		w.AddHost("third")
		w.Setting(e2e.AllJobs("test-to-third", "test", "third", schemas.Keep))
		putJob(t, test, 1, "test's own")
		putJob(t, prod, 1, "of production")
		test.SetFaults(refusePuts())
		w.StartProducer()
		w.StartConsumer()
		time.Sleep(time.Minute)
		test.SetFaults(nil)
		deleteJob(t, prod, 1)
		time.Sleep(3 * time.Minute)
		if _, there := test.Server.Get(schemas.Job, jobID(1)); !there {
			t.Error("G4: test's own object, never written by vcsync, was deleted")
		}
	})
}

func TestAnUndoneEditGoesRoundTheRing(t *testing.T) {
	world(t, nil, func(w *e2e.World) {
		for _, id := range []schemas.Slug{"test", "standby"} {
			w.AddHost(id)
		}
		w.Setting(e2e.AllJobs("a", "production", "test", schemas.Follow))
		w.Setting(e2e.AllJobs("b", "test", "standby", schemas.Follow))
		w.Setting(e2e.AllJobs("c", "standby", "production", schemas.Follow))
		w.StartProducer()
		w.StartConsumer()
		time.Sleep(30 * time.Second)
		putJob(t, w.Hosts["production"], 1, "v1")
		time.Sleep(2 * time.Minute)
		putJob(t, w.Hosts["test"], 1, "edited at test")
		time.Sleep(2 * time.Minute)
		putJob(t, w.Hosts["test"], 1, "v1") // undone
		time.Sleep(30 * time.Minute)
		for id, h := range w.Hosts {
			body, _ := h.Server.Get(schemas.Job, jobID(1))
			if !bytes.Contains(body, []byte(`"v1"`)) {
				t.Errorf("G2: %s does not hold v1", id)
			}
		}
	})
}

func TestALostDurableIsMadeAnew(t *testing.T) {
	world(t, []schemas.Slug{"test"}, func(w *e2e.World) {
		prod := w.Hosts["production"]
		putJob(t, prod, 1, "first")
		w.StartProducer()
		w.StartConsumer()
		within(t, w, time.Minute, "test")
		w.Do(func(ctx context.Context) error {
			return w.Broker.JS().DeleteConsumer(ctx, broker.StreamState, "set-production-to-test")
		})
		time.Sleep(time.Minute)
		putJob(t, prod, 1, "second")
		t.Logf("after %s", within(t, w, time.Hour, "test"))
	})
}

func TestARetryOfAConflictEnds(t *testing.T) {
	world(t, []schemas.Slug{"test"}, func(w *e2e.World) {
		other := w.AddHost("other")
		w.Setting(e2e.AllJobs("other-to-test", "other", "test", schemas.Keep))
		putJob(t, w.Hosts["production"], 1, "of production")
		putJob(t, other, 1, "of other")
		w.StartProducer()
		w.StartConsumer()
		time.Sleep(2 * time.Minute)
		parked := listParked(t, w)
		if len(parked) != 1 {
			t.Fatalf("parked: %+v", parked)
		}
		before := parked[0].Attempts
		parked[0].RetryAsked++ // control.askRetry
		w.Do(func(ctx context.Context) error { _, err := w.Broker.PutParked(ctx, parked[0]); return err })
		// No sleep here: while it spins, virtual time stands still for ever.
		for range 5000 {
			p := listParked(t, w)
			if n := p[0].Attempts - before; n > 50 {
				t.Fatalf("G11: one retry became %d attempts within %s: %+v", n, time.Since(p[0].First)-2*time.Minute, p[0])
			}
			if p[0].RetryAsked == p[0].RetryDone {
				return
			}
		}
		t.Error("retry not done")
	})
}

func TestALostHistoryIsBegunAnew(t *testing.T) {
	world(t, []schemas.Slug{"test"}, func(w *e2e.World) {
		prod := w.Hosts["production"]
		putJob(t, prod, 1, "first")
		w.StartProducer()
		w.StartConsumer()
		within(t, w, time.Minute, "test")
		w.StopProducer(nil)
		w.StopConsumer(nil)
		w.Do(func(ctx context.Context) error { return w.Broker.JS().DeleteStream(ctx, broker.StreamEvents) })
		if err := w.Broker.Close(); err != nil {
			t.Fatal(err)
		}
		b, err := broker.Open(context.Background(), broker.Config{Dir: w.Dir + "/data", LazySync: true, Settle: 5 * time.Second, EventsMaxBytes: 1 << 30, AcceptLoss: true, Log: w.Log})
		if err != nil {
			t.Fatal(err)
		}
		w.Broker = b
		w.StartProducer()
		w.StartConsumer()
		time.Sleep(time.Minute)
		putJob(t, prod, 1, "second")
		w.Hosts["test"].Reset()
		time.Sleep(10 * time.Minute)
		wrote(t, w.Hosts["test"], "after an accepted loss", 0, 0) // vcsync is in safe mode
		safeMode(w, false)
		within(t, w, time.Hour, "test")
	})
}

func TestAReactivatedAndEditedSettingFollows(t *testing.T) {
	world(t, []schemas.Slug{"test"}, func(w *e2e.World) {
		w.AddHost("other")
		w.StartProducer()
		w.StartConsumer()
		time.Sleep(time.Minute)
		s := e2e.AllJobs("production-to-test", "production", "test", schemas.Keep)
		s.Active = false
		w.Setting(s)
		time.Sleep(time.Minute)
		s.Active, s.Source = true, "other"
		w.Setting(s)
		time.Sleep(time.Minute)
		putJob(t, w.Hosts["other"], 1, "first")
		begun := time.Now()
		for {
			if _, ok := w.Hosts["test"].Server.Get(schemas.Job, jobID(1)); ok {
				break
			}
			if time.Since(begun) > time.Hour {
				t.Fatal("never")
			}
			time.Sleep(100 * time.Millisecond)
		}
		if d := time.Since(begun); d > 3*time.Second {
			t.Errorf("arrived after %s, want within 3 s", d)
		}
	})
}

func TestADiscardWhileATryIsUnderWayStays(t *testing.T) {
	world(t, []schemas.Slug{"test"}, func(w *e2e.World) {
		var n atomic.Int32
		w.Hosts["test"].SetFaults(fault(func(rw http.ResponseWriter, r *http.Request) bool {
			if r.Method != http.MethodPut {
				return false
			}
			try := n.Add(1)
			if try > 1 {
				time.Sleep(5 * time.Second)
			}
			rw.Header().Set("Content-Type", "application/problem+json")
			rw.WriteHeader(http.StatusUnprocessableEntity)
			fmt.Fprintf(rw, `{"title":"no","detail":"correlation id %d"}`, try)
			return true
		}))
		putJob(t, w.Hosts["production"], 1, "first")
		w.StartProducer()
		w.StartConsumer()
		time.Sleep(time.Minute)
		p := listParked(t, w)[0]
		p.RetryAsked++
		w.Do(func(ctx context.Context) error { _, err := w.Broker.PutParked(ctx, p); return err })
		time.Sleep(2 * time.Second) // the try is under way
		p = listParked(t, w)[0]
		p.Discarded = "we do not want it"
		w.Do(func(ctx context.Context) error { _, err := w.Broker.PutParked(ctx, p); return err })
		time.Sleep(time.Minute)
		if p = listParked(t, w)[0]; p.Discarded == "" {
			t.Errorf("the discard is lost: %+v", p)
		}
	})
}

func TestTheOwnerDeletesAndTheOtherStillHasTheSame(t *testing.T) {
	world(t, []schemas.Slug{"test"}, func(w *e2e.World) {
		other := w.AddHost("other")
		w.Setting(e2e.AllJobs("other-to-test", "other", "test", schemas.Keep))
		putJob(t, w.Hosts["production"], 1, "same")
		putJob(t, other, 1, "same")
		w.StartProducer()
		w.StartConsumer()
		time.Sleep(2 * time.Minute)
		if n := len(listParked(t, w)); n != 0 {
			t.Fatalf("parked: %d", n)
		}
		deleteJob(t, other, 1) // the first by name owns it
		time.Sleep(2 * time.Minute)
		putJob(t, w.Hosts["production"], 1, "edited")
		time.Sleep(20 * time.Minute)
		for _, p := range listParked(t, w) {
			t.Errorf("parked for ever: %s: %s", p.Class, p.Reason)
		}
	})
}

func TestTheRightsOfTwoSourcesOfOneContentAreJoined(t *testing.T) {
	world(t, nil, func(w *e2e.World) {
		w.AddHost("other")
		w.AddHost("test")
		a, b := e2e.AllJobs("a", "other", "test", schemas.Keep), e2e.AllJobs("b", "production", "test", schemas.Keep)
		a.Rules = map[schemas.Type]schemas.Rule{schemas.Job: {Sync: schemas.SyncAll, Rights: schemas.Rights{New: true}}}
		w.Setting(a)
		w.Setting(b)
		putJob(t, w.Hosts["other"], 1, "same")
		putJob(t, w.Hosts["production"], 1, "same")
		putJob(t, w.Hosts["test"], 1, "different")
		w.StartProducer()
		w.StartConsumer()
		time.Sleep(20 * time.Minute)
		if body, _ := w.Hosts["test"].Server.Get(schemas.Job, jobID(1)); !bytes.Contains(body, []byte("same")) {
			t.Errorf("setting b may update it and nobody does; parked %v", listParked(t, w))
		}
	})
}

func TestASettingIsOffWhileAnotherTargetStops(t *testing.T) {
	world(t, []schemas.Slug{"slow", "test", "third"}, func(w *e2e.World) {
		prod, test := w.Hosts["production"], w.Hosts["test"]
		w.Hosts["slow"].SetFaults(fault(func(rw http.ResponseWriter, r *http.Request) bool {
			if r.Method == http.MethodPut {
				io.Copy(io.Discard, r.Body)
				<-r.Context().Done()
				return true
			}
			return false
		}))
		w.StartProducer()
		w.StartConsumer()
		time.Sleep(time.Minute)
		putJob(t, prod, 1, "v1")
		time.Sleep(2 * time.Second) // the write to slow hangs, that to test is done
		off := e2e.AllJobs("production-to-slow", "production", "slow", schemas.Keep)
		off.Active = false
		w.Setting(off)
		off2 := e2e.AllJobs("production-to-test", "production", "test", schemas.Keep)
		off2.Active = false
		w.Setting(off2)
		stored := time.Now()
		for i := range 20 {
			putJob(t, prod, 1, fmt.Sprint("after off ", i))
			time.Sleep(time.Second)
		}
		for _, x := range test.Seen() {
			if x.At.After(stored.Add(100 * time.Millisecond)) {
				t.Errorf("G13: test was written %s after its setting was off", x.At.Sub(stored))
			}
		}
	})
}

func TestAMismatchThatChangesIsParked(t *testing.T) {
	world(t, []schemas.Slug{"test"}, func(w *e2e.World) {
		var n atomic.Int32
		w.Hosts["test"].SetFaults(func(next http.Handler) http.Handler {
			return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
				if r.Method == http.MethodPut {
					body, _ := io.ReadAll(r.Body)
					old, neu := `"Group":"Finance"`, `"Group":"Other"`
					if n.Add(1)%2 == 0 {
						old, neu = `"Description":"v1"`, `"Description":"cut"`
					}
					body = bytes.Replace(body, []byte(old), []byte(neu), 1)
					r.Body, r.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
				}
				next.ServeHTTP(rw, r)
			})
		})
		putJob(t, w.Hosts["production"], 1, "v1")
		w.StartProducer()
		w.StartConsumer()
		time.Sleep(2 * time.Hour)
		puts, _ := w.Hosts["test"].Count()
		if len(listParked(t, w)) == 0 {
			_, st := w.Cons.Status()
			t.Errorf("G7, G11: after 2 hours and %d writes nothing is parked: %+v", puts, st)
		}
	})
}

func TestARogueMessageHidesNoDeletion(t *testing.T) {
	world(t, []schemas.Slug{"test"}, func(w *e2e.World) {
		prod, test := w.Hosts["production"], w.Hosts["test"]
		putJob(t, prod, 1, "first")
		putJob(t, prod, 2, "first")
		w.StartProducer()
		w.StartConsumer()
		within(t, w, time.Minute, "test")
		w.StopProducer(nil)
		w.Do(func(ctx context.Context) error {
			_, err := w.Broker.JS().Publish(ctx, "vcsync.ev.production.Job.updated."+string(jobID(1)), []byte("{}"))
			return err
		})
		deleteJob(t, prod, 1)
		w.StartProducer()
		time.Sleep(30 * time.Minute)
		if _, there := test.Server.Get(schemas.Job, jobID(1)); there {
			t.Errorf("G2: test has an object that is gone; parked %+v; %+v", listParked(t, w), w.Prod.Status())
		}
	})
}

func TestOddIds(t *testing.T) {
	world(t, []schemas.Slug{"test"}, func(w *e2e.World) {
		prod, test := w.Hosts["production"], w.Hosts["test"]
		ids := []string{"abc", "ABC", "aBc", strings.Repeat("x", 129), strings.Repeat("x", 128) + "é", strings.Repeat("y", 4000), "a b/c?d#e%41", "=Habc", "*", ">", "Öl", "a.b", "ABCDEF00-1111-4111-8111-111111111111"}
		put := func(d string) {
			for _, id := range ids {
				if _, _, err := prod.Server.Put(schemas.Job, fmt.Appendf(nil, `{"Id":%q,"Name":"n","Group":"g","Description":%q,"Stats":{"Active":true}}`, id, d)); err != nil {
					t.Fatal(id, err)
				}
			}
		}
		put("1")
		w.StartProducer()
		w.StartConsumer()
		within(t, w, time.Minute, "test")
		put("2")
		t.Log(within(t, w, time.Minute, "test"))
		for round := range 3 {
			for i, id := range ids {
				if i%3 == round {
					cid, _ := schemas.ParseID(id)
					prod.Server.Delete(schemas.Job, cid)
				}
			}
			t.Log(within(t, w, 2*time.Minute, "test"))
			put(fmt.Sprint("r", round))
			t.Log(within(t, w, 2*time.Minute, "test"))
		}
		if len(test.Broken) > 0 {
			t.Error(test.Broken)
		}
		for _, p := range listParked(t, w) {
			t.Error(p)
		}
	})
}
