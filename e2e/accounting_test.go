package e2e_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/vcsync/vcsync/broker"
	"github.com/vcsync/vcsync/consumer"
	"github.com/vcsync/vcsync/e2e"
	"github.com/vcsync/vcsync/schemas"
)

// account returns the account of a setting after things have been quiet for a while.
func account(t *testing.T, w *e2e.World, m *consumer.Manager, setting schemas.Slug) consumer.Accounting {
	t.Helper()
	time.Sleep(45 * time.Second)
	_, ss := m.Status()
	i := slices.IndexFunc(ss, func(s consumer.SettingStatus) bool { return s.Setting == setting })
	if i < 0 || ss[i].Accounting == nil {
		t.Fatalf("setting %s has no account: %+v", setting, ss)
	}
	return *ss[i].Accounting
}

// balanced is account, which must balance with every term as wanted: captured,
// applied, superseded, filtered, parked, pending.
func balanced(t *testing.T, w *e2e.World, m *consumer.Manager, setting schemas.Slug, what string, want ...uint64) {
	t.Helper()
	a := account(t, w, m, setting)
	got := []uint64{a.Captured, a.Applied, a.Superseded, a.Filtered, a.Parked, a.Pending}
	if !slices.Equal(got, want) {
		t.Errorf("%s: captured, applied, superseded, filtered, parked, pending %v, want %v", what, got, want)
	}
	if a.Captured != a.Applied+a.Superseded+a.Filtered+a.Parked+a.Held+a.Pending || a.Unaccounted != 0 || a.Open != 0 {
		t.Errorf("%s: the accounts do not balance: %+v", what, a)
	}
}

func TestTheAccountsBalance(t *testing.T) {
	world(t, []schemas.Slug{"test"}, func(w *e2e.World) {
		const setting = "production-to-test"
		prod, test := w.Hosts["production"], w.Hosts["test"]
		s := e2e.AllJobs(setting, "production", "test", schemas.Keep)
		s.Rules[schemas.Job] = schemas.Rule{Sync: schemas.SyncAll, Rights: schemas.Rights{New: true, Updated: true}}
		w.Setting(s)
		for i := range 10 {
			putJob(t, prod, i, "first")
		}
		if _, _, err := prod.Server.Put(schemas.Variable, []byte(`{"Id":"v","Name":"v","ValueObject":"eA=="}`)); err != nil {
			t.Fatal(err)
		}
		w.AddHost("other") // its setting makes production's variables be captured
		vars := e2e.AllJobs("vars", "production", "other", schemas.Keep)
		vars.Rules = map[schemas.Type]schemas.Rule{schemas.Variable: {Sync: schemas.SyncAll, Rights: schemas.Rights{New: true}}}
		w.Setting(vars)
		w.StartProducer()
		w.StartConsumer()
		balanced(t, w, w.Cons, setting, "ten jobs, and a variable that is not taken", 11, 10, 0, 1, 0, 0)
		balanced(t, w, w.Cons, "vars", "a variable, and ten jobs that are not taken", 11, 1, 0, 10, 0, 0)

		putJob(t, prod, 1, "second")
		balanced(t, w, w.Cons, setting, "an edit", 12, 11, 0, 1, 0, 0)

		test.SetFaults(fault(func(http.ResponseWriter, *http.Request) bool { panic(http.ErrAbortHandler) }))
		for round := range 5 {
			putJob(t, prod, 2, fmt.Sprint("round ", round))
			time.Sleep(3 * time.Second)
		}
		balanced(t, w, w.Cons, setting, "five edits while the target is away", 17, 11, 4, 1, 0, 1)
		test.SetFaults(nil)
		time.Sleep(time.Minute)
		balanced(t, w, w.Cons, setting, "and it is back", 17, 12, 4, 1, 0, 0)

		deleteJob(t, prod, 3)
		balanced(t, w, w.Cons, setting, "a deletion that is not taken", 18, 12, 4, 2, 0, 0)
		s.Rules[schemas.Job] = schemas.Rule{Sync: schemas.SyncAll, Rights: schemas.Rights{New: true, Updated: true, Deleted: true}}
		w.Setting(s)
		balanced(t, w, w.Cons, setting, "and one that is", 18, 13, 4, 1, 0, 0)

		bad := string(jobID(4))
		test.SetFaults(fault(func(rw http.ResponseWriter, r *http.Request) bool {
			if r.Method == http.MethodPut && strings.HasSuffix(r.URL.Path, bad) {
				rw.Header().Set("Content-Type", "application/problem+json")
				rw.WriteHeader(http.StatusUnprocessableEntity)
				fmt.Fprint(rw, `{"title":"no"}`)
				return true
			}
			return false
		}))
		putJob(t, prod, 4, "refused")
		balanced(t, w, w.Cons, setting, "a parked one", 19, 13, 4, 1, 1, 0)
		w.Do(func(ctx context.Context) error {
			p, err := w.Broker.ListParked(ctx, "")
			if err != nil || len(p) != 1 {
				return fmt.Errorf("parked %+v %w", p, err)
			}
			p[0].Discarded = "not needed"
			_, err = w.Broker.PutParked(ctx, p[0])
			return err
		})
		balanced(t, w, w.Cons, setting, "a discarded one", 19, 13, 4, 1, 1, 0)

		w.StopConsumer(nil)
		w.StartConsumer()
		balanced(t, w, w.Cons, setting, "another start of the consumer", 19, 13, 4, 1, 1, 0)
		w.Crash()
		w.StartProducer()
		w.StartConsumer()
		balanced(t, w, w.Cons, setting, "after a crash", 19, 13, 4, 1, 1, 0)

		putJob(t, prod, 4, "refused again")
		balanced(t, w, w.Cons, setting, "a newer one is parked in its place", 20, 13, 5, 1, 1, 0)
		test.SetFaults(nil)
		putJob(t, prod, 4, "taken")
		balanced(t, w, w.Cons, setting, "and one is taken", 21, 14, 6, 1, 0, 0)

		next := consumer.New(consumer.Config{Broker: w.Broker, Open: w.Open, Lease: w.Lease, Log: w.Log})
		ctx, stop := context.WithCancel(context.Background())
		var wg sync.WaitGroup
		wg.Go(func() { _ = next.Run(ctx) })
		defer wg.Wait()
		defer stop()
		time.Sleep(time.Minute)
		if _, ss := next.Status(); slices.ContainsFunc(ss, func(s consumer.SettingStatus) bool { return s.Setting == setting && s.Accounting != nil }) {
			t.Errorf("who does not hold the target draws up its accounts: %+v", ss)
		}
		w.StopConsumer(nil)
		putJob(t, prod, 5, "after the handover")
		balanced(t, w, next, setting, "another holds the target", 22, 15, 6, 1, 0, 0)

		// Who loses the target knows nothing of its accounts any more.
		w.Do(func(ctx context.Context) error {
			kv, err := w.Broker.JS().KeyValue(ctx, broker.BucketLease)
			for range 15 {
				if err == nil {
					_, err = kv.Put(ctx, "target.test", []byte(`{"holder":"a thief","token":"x","boot":"y"}`))
				}
				time.Sleep(time.Second)
			}
			return err
		})
		ts, ss := next.Status()
		i := slices.IndexFunc(ss, func(s consumer.SettingStatus) bool { return s.Setting == setting })
		j := slices.IndexFunc(ts, func(s consumer.TargetStatus) bool { return s.Target == "test" })
		if i < 0 || j < 0 || ts[j].State != consumer.Waiting || ss[i].Accounting != nil {
			t.Errorf("without the lease: %+v, %+v", ts, ss)
		}
	})
}

// logged is a log that can be searched.
type logged struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logged) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logged) has(s string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Contains(l.b.String(), s)
}

func TestADroppedEventIsFoundMissing(t *testing.T) {
	world(t, []schemas.Slug{"test"}, func(w *e2e.World) {
		const setting = "production-to-test"
		var log logged
		w.Log = slog.New(slog.NewTextHandler(&log, nil))
		prod := w.Hosts["production"]
		for i := range 20 {
			putJob(t, prod, i, "first")
		}
		w.StartProducer()
		w.StartConsumer()
		balanced(t, w, w.Cons, setting, "at rest", 20, 20, 0, 0, 0, 0)

		// The durable consumer is made anew behind a message, so quickly that nobody
		// misses it.
		w.StopDurables()
		w.Do(func(ctx context.Context) error {
			st, err := w.Broker.JS().Stream(ctx, broker.StreamState)
			if err != nil {
				return err
			}
			c, err := st.Consumer(ctx, "set-"+setting)
			if err != nil {
				return err
			}
			if err := st.DeleteConsumer(ctx, "set-"+setting); err != nil {
				return err
			}
			putJob(t, prod, 7, "lost on the way")
			time.Sleep(300 * time.Millisecond)
			if err := w.Broker.WaitState(ctx); err != nil {
				return err
			}
			if ev, err := w.Broker.EventsState(ctx); err != nil || ev.Messages != 21 {
				return fmt.Errorf("%d events, want 21: %w", ev.Messages, err)
			}
			cfg := c.CachedInfo().Config
			cfg.DeliverPolicy = jetstream.DeliverNewPolicy
			_, err = st.CreateConsumer(ctx, cfg)
			return err
		})
		time.Sleep(40 * time.Second)
		a := account(t, w, w.Cons, setting)
		if a.Unaccounted != 1 || a.Captured != 21 || a.Applied != 20 || !slices.Equal(a.Objects, []string{"Job/" + string(jobID(7))}) {
			t.Errorf("after a drop: %+v", a)
		}
		if !log.has("the accounts do not balance") || !log.has(string(jobID(7))) || log.has("balance again") {
			t.Errorf("it is not said: %s", log.b.String())
		}
		time.Sleep(6 * time.Minute)
		balanced(t, w, w.Cons, setting, "the comparison has brought it", 21, 21, 0, 0, 0, 0)
		if !log.has("the accounts balance again") {
			t.Error("that it balances again is not said")
		}
	})
}

// The state stream is where targets read; what it lacks nobody applies.
func TestAnEventThatTheStateStreamLacksIsFoundMissing(t *testing.T) {
	world(t, []schemas.Slug{"test"}, func(w *e2e.World) {
		const setting = "production-to-test"
		prod := w.Hosts["production"]
		for i := range 20 {
			putJob(t, prod, i, "first")
		}
		w.StartProducer()
		w.StartConsumer()
		balanced(t, w, w.Cons, setting, "at rest", 20, 20, 0, 0, 0, 0)
		// Somebody makes the state stream anew from a sequence on, which is one too late.
		w.Do(func(ctx context.Context) error {
			js := w.Broker.JS()
			st, err := js.Stream(ctx, broker.StreamState)
			if err != nil {
				return err
			}
			cfg := st.CachedInfo().Config
			if err := js.DeleteStream(ctx, broker.StreamState); err != nil {
				return err
			}
			putJob(t, prod, 7, "lost between the streams")
			time.Sleep(40 * time.Second)
			ev, err := js.Stream(ctx, broker.StreamEvents)
			if err != nil {
				return err
			}
			src := *cfg.Sources[0]
			src.OptStartSeq = ev.CachedInfo().State.LastSeq + 1
			cfg.Sources = []*jetstream.StreamSource{&src}
			_, err = js.CreateStream(ctx, cfg)
			return err
		})
		putJob(t, prod, 8, "after it")
		a := account(t, w, w.Cons, setting)
		if a.Unaccounted != 1 || a.Captured != 22 || a.Applied != 21 || !slices.Equal(a.Objects, []string{"Job/" + string(jobID(7))}) {
			t.Errorf("after a drop: %+v", a)
		}
		// The next version overtakes it: superseded, as it should be.
		putJob(t, prod, 7, "again")
		balanced(t, w, w.Cons, setting, "a newer version has come", 23, 22, 1, 0, 0, 0)
	})
}

// Under load versions are on their way everywhere: none is ever said to be missing.
func TestTheAccountsBalanceUnderLoad(t *testing.T) {
	world(t, []schemas.Slug{"test"}, func(w *e2e.World) {
		const setting = "production-to-test"
		prod, test := w.Hosts["production"], w.Hosts["test"]
		var n atomic.Int64
		test.SetFaults(fault(func(rw http.ResponseWriter, r *http.Request) bool {
			if r.Method == http.MethodPut {
				time.Sleep(300 * time.Millisecond)
				if n.Add(1)%17 == 0 {
					rw.WriteHeader(http.StatusInternalServerError)
					return true
				}
			}
			return false
		}))
		for i := range 300 {
			putJob(t, prod, i, "first")
		}
		w.StartProducer()
		w.StartConsumer()
		for round := range 60 {
			for i := range 10 {
				putJob(t, prod, (round*7+i*13)%300, fmt.Sprint("round ", round))
			}
			time.Sleep(3 * time.Second)
			if round == 30 {
				w.StopConsumer(consumer.ErrCrash)
				w.StartConsumer()
			}
			if _, ss := w.Cons.Status(); len(ss) > 0 && ss[0].Accounting != nil && ss[0].Accounting.Unaccounted != 0 {
				t.Fatalf("round %d: %+v", round, ss[0].Accounting)
			}
		}
		test.SetFaults(nil)
		within(t, w, 3*time.Minute, "test")
		a := account(t, w, w.Cons, setting)
		if a.Captured < 600 || a.Captured != a.Applied+a.Superseded || a.Unaccounted != 0 || a.Superseded == 0 {
			t.Errorf("%+v", a)
		}
	})
}

// In a ring every server's own events come back: they are filtered.
func TestTheAccountsOfARingBalance(t *testing.T) {
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
		putJob(t, w.Hosts["production"], 1, "once round")
		putJob(t, w.Hosts["test"], 2, "from the middle")
		time.Sleep(2 * time.Minute)
		balanced(t, w, w.Cons, "a", "production to test", 2, 1, 0, 1, 0, 0)
		balanced(t, w, w.Cons, "b", "test to standby", 2, 2, 0, 0, 0, 0)
		balanced(t, w, w.Cons, "c", "standby to production", 2, 1, 0, 1, 0, 0)
		putJob(t, w.Hosts["production"], 1, "edited")
		time.Sleep(2 * time.Minute)
		balanced(t, w, w.Cons, "a", "production to test", 3, 2, 0, 1, 0, 0)
		balanced(t, w, w.Cons, "c", "standby to production: of what was passed by only the newest counts as filtered", 3, 1, 1, 1, 0, 0)
		deleteJob(t, w.Hosts["production"], 1)
		time.Sleep(2 * time.Minute)
		balanced(t, w, w.Cons, "a", "production to test", 4, 3, 0, 1, 0, 0)
		balanced(t, w, w.Cons, "b", "test to standby", 4, 4, 0, 0, 0, 0)
	})
}

// Two sources of one object: the same is another's, what differs is parked.
func TestTheAccountsOfTwoSourcesBalance(t *testing.T) {
	world(t, nil, func(w *e2e.World) {
		for _, id := range []schemas.Slug{"second", "test"} {
			w.AddHost(id)
		}
		putJob(t, w.Hosts["production"], 1, "the same")
		putJob(t, w.Hosts["second"], 1, "the same")
		w.Setting(e2e.AllJobs("one", "production", "test", schemas.Keep))
		w.Setting(e2e.AllJobs("two", "second", "test", schemas.Keep))
		w.StartProducer()
		w.StartConsumer()
		time.Sleep(time.Minute)
		balanced(t, w, w.Cons, "one", "who came first", 1, 1, 0, 0, 0, 0)
		balanced(t, w, w.Cons, "two", "who has the same", 1, 0, 0, 1, 0, 0)
		putJob(t, w.Hosts["second"], 1, "not the same")
		time.Sleep(time.Minute)
		balanced(t, w, w.Cons, "one", "who came first", 1, 1, 0, 0, 0, 0)
		balanced(t, w, w.Cons, "two", "a conflict", 2, 0, 1, 0, 1, 0)
		putJob(t, w.Hosts["production"], 1, "a third")
		time.Sleep(time.Minute)
		balanced(t, w, w.Cons, "one", "a conflict", 2, 1, 0, 0, 1, 0)
		balanced(t, w, w.Cons, "two", "a conflict", 2, 0, 1, 0, 1, 0)
		deleteJob(t, w.Hosts["production"], 1)
		time.Sleep(2 * time.Minute)
		a := account(t, w, w.Cons, "one")
		b := account(t, w, w.Cons, "two")
		t.Logf("%+v\n%+v", a, b)
		if a.Unaccounted+a.Open+b.Unaccounted+b.Open != 0 {
			t.Errorf("after the owner's deletion: %+v, %+v", a, b)
		}
	})
}
