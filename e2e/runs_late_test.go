package e2e_test

import (
	"context"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vcsync/vcsync/broker"
	"github.com/vcsync/vcsync/consumer"
	"github.com/vcsync/vcsync/e2e"
	"github.com/vcsync/vcsync/schemas"
)

// TestAnApprovalExpires approves a plan for a target that does not answer, and lets it
// come back when nobody thinks of that any more (G14): with a consumer that waited, and
// with one that was not there.
func TestAnApprovalExpires(t *testing.T) {
	t.Parallel()
	for name, away := range map[string]bool{"the consumer waits": false, "the consumer is away": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			world(t, []schemas.Slug{"test"}, func(w *e2e.World) {
				prod, test := w.Hosts["production"], w.Hosts["test"]
				set := e2e.AllJobs(oneSetting, "production", "test", schemas.Keep)
				set.Active = false
				w.Setting(set)
				const jobs = 20
				for i := range jobs {
					putJob(t, prod, i, "new")
				}
				w.StartProducer()
				w.StartConsumer()
				p, _ := w.Ask(oneSetting, broker.RunScope{})
				w.StopProducer(nil)
				var done atomic.Int32
				test.SetFaults(fault(func(rw http.ResponseWriter, r *http.Request) bool {
					if r.Method == http.MethodPut {
						done.Add(1)
					}
					if done.Load() <= 5 { // it goes when some of it is done
						return false
					}
					rw.WriteHeader(http.StatusServiceUnavailable)
					return true
				}))
				w.Move(oneSetting, broker.RunApplying, p.ID)
				time.Sleep(10 * time.Minute)
				if away {
					w.StopConsumer(consumer.ErrCrash)
				}
				time.Sleep(70 * time.Minute)
				test.SetFaults(nil)
				before, _ := test.Count()
				if away {
					w.StartConsumer()
				}
				time.Sleep(5 * time.Minute)
				if puts, _ := test.Count(); puts != before {
					t.Errorf("%d writes of an approval that is over an hour old", puts-before)
				}
				end, entries := w.Finish(p)
				if end.Result != broker.RunDropped || end.Outcomes[broker.OutcomeExpired] < 5 || end.Outcomes[broker.OutcomeDone] == 0 {
					t.Errorf("progress %+v", end)
				}
				for _, e := range entries {
					want := broker.OutcomeExpired
					if _, there := test.Server.Get(schemas.Job, e.ID); there {
						want = broker.OutcomeDone
					}
					if e.Outcome != want && e.Outcome != broker.OutcomeOther {
						t.Errorf("%s: %q %s, want %q", e.ID, e.Outcome, e.OutcomeWhy, want)
					}
				}
			})
		})
	}
}

// TestAPlanThatCannotBeStoredIsSaid lets the store refuse the pages of a plan: that ends
// the run soon, since nobody can ask for another one meanwhile.
func TestAPlanThatCannotBeStoredIsSaid(t *testing.T) {
	t.Parallel()
	world(t, []schemas.Slug{"test"}, func(w *e2e.World) {
		prod := w.Hosts["production"]
		set := e2e.AllJobs(oneSetting, "production", "test", schemas.Keep)
		set.Active = false
		w.Setting(set)
		for i := range 20 {
			putJob(t, prod, i, "new")
		}
		w.StartProducer()
		w.StartConsumer()
		w.Do(func(ctx context.Context) error {
			st, err := w.Broker.JS().Stream(ctx, "KV_"+broker.BucketPlan)
			if err != nil {
				return err
			}
			cfg := st.CachedInfo().Config
			cfg.MaxMsgSize = 1500 // a head, and no page of twenty
			_, err = w.Broker.JS().UpdateStream(ctx, cfg)
			return err
		})
		if p, _ := w.Ask(oneSetting, broker.RunScope{}); !strings.Contains(p.Failed, "could not be stored") {
			t.Errorf("plan %+v", p)
		}
	})
}
