package e2e_test

import (
	"context"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/vcsync/vcsync/broker"
	"github.com/vcsync/vcsync/e2e"
	"github.com/vcsync/vcsync/schemas"
)

// TestTwoRunsOfOneObjectBothEnd approves two plans that hold the same object before
// either has written it.
func TestTwoRunsOfOneObjectBothEnd(t *testing.T) {
	t.Parallel()
	world(t, []schemas.Slug{"test"}, func(w *e2e.World) {
		prod, test := w.Hosts["production"], w.Hosts["test"]
		a := e2e.AllJobs(oneSetting, "production", "test", schemas.Keep)
		a.Active = false
		w.Setting(a)
		b := a.Clone()
		b.ID = "second"
		w.Setting(b)
		putJob(t, prod, 1, "new")
		w.StartProducer()
		w.StartConsumer()
		pa, _ := w.Ask(oneSetting, broker.RunScope{})
		pb, _ := w.Ask("second", broker.RunScope{})
		test.SetFaults(fault(func(_ http.ResponseWriter, r *http.Request) bool {
			if r.Method == http.MethodPut {
				time.Sleep(5 * time.Second)
			}
			return false
		}))
		w.Move(oneSetting, broker.RunApplying, pa.ID)
		w.Move("second", broker.RunApplying, pb.ID)
		time.Sleep(5 * time.Minute)
		for _, id := range []schemas.Slug{oneSetting, "second"} {
			w.Do(func(ctx context.Context) error {
				p, err := w.Broker.GetProgress(ctx, id)
				if err == nil && !p.Ended {
					t.Errorf("the run of %s has not ended: %+v", id, p)
				}
				return err
			})
		}
		wrote(t, test, "one object in two plans", 1, 0)
	})
}

// TestDriftOutlivesAnAuditThatBreaksOff has a target list its jobs and fail to give any
// in the middle of an audit.
func TestDriftOutlivesAnAuditThatBreaksOff(t *testing.T) {
	t.Parallel()
	world(t, []schemas.Slug{"test"}, func(w *e2e.World) {
		prod, test := w.Hosts["production"], w.Hosts["test"]
		set := e2e.AllJobs(oneSetting, "production", "test", schemas.Keep)
		set.Drift = schemas.DriftHeal // what is to be written is read again
		for i := range 3 {
			putJob(t, prod, i, "first")
		}
		w.StartProducer()
		w.StartConsumer()
		time.Sleep(2 * time.Minute)
		putJob(t, test, 1, "by hand")
		deleteJob(t, test, 2)
		time.Sleep(16 * time.Minute)
		test.SetFaults(fault(func(rw http.ResponseWriter, r *http.Request) bool {
			if r.Method == http.MethodGet && strings.Contains(r.URL.Path, "/Job/") {
				rw.WriteHeader(http.StatusServiceUnavailable)
				return true
			}
			return false
		}))
		w.Setting(set)
		time.Sleep(3 * time.Minute)
		if d, entries := w.Drift(oneSetting); len(entries) != 2 {
			t.Errorf("two jobs differ; the drift list says %v, failed %q", lines(entries), d.Failed)
		}
	})
}

// TestARunBesideAnActiveSetting looks at a setting that is off and takes what an active
// one takes, in another way.
func TestARunBesideAnActiveSetting(t *testing.T) {
	t.Parallel()
	world(t, nil, func(w *e2e.World) {
		prod, _ := w.Hosts["production"], w.AddHost("test")
		w.Setting(e2e.AllObjects("on", "production", "test", schemas.Keep))
		off := e2e.AllObjects("off", "production", "test", schemas.Keep)
		off.Active, off.VariableValues = false, true
		w.Setting(off)
		if _, _, err := prod.Server.Put(schemas.Variable, []byte(`{"Name":"Region","Description":"d","ObjectType":"String","ValueObject":"eA=="}`)); err != nil {
			t.Fatal(err)
		}
		w.StartProducer()
		w.StartConsumer()
		time.Sleep(2 * time.Minute)
		before := account(t, w, w.Cons, "on").Captured
		p, _ := w.Ask("off", broker.RunScope{})
		w.Move("off", broker.RunDropped, "")
		time.Sleep(2 * time.Minute)
		if after := account(t, w, w.Cons, "on").Captured; after != before {
			t.Errorf("a look made %d versions that nobody made", after-before)
		}
		if len(p.Warnings) == 0 || !strings.Contains(strings.Join(p.Warnings, "\n"), "sync setting on is active") {
			t.Errorf("warnings %q, want one that the other setting brings back its own", p.Warnings)
		}
	})
}
