package e2e_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/vcsync/vcsync/broker"
	"github.com/vcsync/vcsync/e2e"
	"github.com/vcsync/vcsync/schemas"
	"github.com/vcsync/vcsync/visualcron/standin"
)

func listParked(t *testing.T, w *e2e.World) (parked []broker.Parked) {
	t.Helper()
	w.Do(func(ctx context.Context) (err error) { parked, err = w.Broker.ListParked(ctx, ""); return })
	return parked
}

func TestTwoSourcesOfOneObjectAreAConflict(t *testing.T) {
	world(t, []schemas.Slug{"test"}, func(w *e2e.World) {
		branch, test := w.AddHost("branch"), w.Hosts["test"]
		putJob(t, w.Hosts["production"], 1, "of production")
		w.StartProducer()
		w.StartConsumer()
		within(t, w, time.Minute, "test")
		putJob(t, branch, 1, "of the branch")
		putJob(t, branch, 2, "of the branch alone")
		w.Setting(e2e.AllJobs("branch-to-test", "branch", "test", schemas.Keep))
		time.Sleep(time.Minute)
		parked := listParked(t, w)
		if len(parked) != 1 || parked[0].Class != "conflict" || parked[0].ID != jobID(1) {
			t.Fatalf("parked: %+v", parked)
		}
		if body, _ := test.Server.Get(schemas.Job, jobID(1)); !strings.Contains(string(body), "of production") {
			t.Errorf("the job went over: %s", body)
		}
		if _, ok := test.Server.Get(schemas.Job, jobID(2)); !ok {
			t.Error("the branch's own job is held up")
		}
		// Neither side wins by editing or deleting.
		putJob(t, branch, 1, "edited at the branch")
		deleteJob(t, w.Hosts["production"], 1)
		time.Sleep(2 * time.Minute)
		if body, ok := test.Server.Get(schemas.Job, jobID(1)); !ok || !strings.Contains(string(body), "of production") {
			t.Errorf("the job went over or away: %v %s", ok, body)
		}
		// One setting less, and the conflict is over.
		w.Do(func(ctx context.Context) error {
			snap, err := w.Broker.Snapshot(ctx)
			if err != nil {
				return err
			}
			return w.Broker.DeleteSetting(ctx, "production-to-test", snap.Settings["production-to-test"].Revision)
		})
		time.Sleep(6 * time.Minute) // a comparison at the latest
		if body, _ := test.Server.Get(schemas.Job, jobID(1)); !strings.Contains(string(body), "edited at the branch") {
			t.Errorf("the one source that is left does not get through: %s", body)
		}
		if parked := listParked(t, w); len(parked) != 0 {
			t.Errorf("still parked: %+v", parked)
		}
	})
}

func TestTwoSettingsOfOnePairWriteOnce(t *testing.T) {
	world(t, nil, func(w *e2e.World) {
		prod, test := w.Hosts["production"], w.AddHost("test")
		some := func(id schemas.Slug, r schemas.Rights) schemas.Setting {
			s := e2e.AllJobs(id, "production", "test", schemas.Keep)
			s.Rules[schemas.Job] = schemas.Rule{Sync: schemas.SyncAll, Rights: r}
			return s
		}
		w.Setting(some("a", schemas.Rights{New: true}))
		w.Setting(some("b", schemas.Rights{Updated: true, Deleted: true}))
		w.StartProducer()
		w.StartConsumer()
		for i := range 10 {
			putJob(t, prod, i, "first")
		}
		within(t, w, time.Minute, "test")
		for i := range 10 {
			putJob(t, prod, i, "second")
		}
		within(t, w, time.Minute, "test")
		deleteJob(t, prod, 3)
		within(t, w, 2*time.Minute, "test")
		if puts, deletes := test.Count(); puts != 20 || deletes != 1 {
			t.Errorf("%d puts and %d deletes, want 20 and 1", puts, deletes)
		}
	})
}

func TestAnotherServerAtTheTargetsAddressIsNeverWritten(t *testing.T) {
	world(t, []schemas.Slug{"test"}, func(w *e2e.World) {
		prod, test := w.Hosts["production"], w.Hosts["test"]
		putJob(t, prod, 1, "first")
		w.StartProducer()
		w.StartConsumer()
		within(t, w, time.Minute, "test")
		other, err := standin.Open(standin.Config{Name: "other", Password: e2e.Password, NoSync: true})
		if err != nil {
			t.Fatal(err)
		}
		defer other.Close()
		before := len(other.Objects(schemas.Job))
		test.SetFaults(func(http.Handler) http.Handler { return other.Handler() })
		putJob(t, prod, 1, "second")
		putJob(t, prod, 2, "second")
		time.Sleep(10 * time.Minute)
		if n := len(other.Objects(schemas.Job)); n != before {
			t.Errorf("the other server holds %d jobs, before %d", n, before)
		}
		if ts, _ := w.Cons.Status(); ts[0].State != "down" || !strings.Contains(ts[0].Reason, "wrong server") {
			t.Errorf("target %+v", ts[0])
		}
		// After a restart it is still known who the name stands for.
		w.StopConsumer(nil)
		w.StartConsumer()
		time.Sleep(time.Minute)
		if n := len(other.Objects(schemas.Job)); n != before {
			t.Errorf("after a restart the other server holds %d jobs, before %d", n, before)
		}
		test.SetFaults(nil)
		within(t, w, 3*time.Minute, "test")
	})
}

func TestATargetThatIgnoresAFieldIsFoundOut(t *testing.T) {
	world(t, []schemas.Slug{"test"}, func(w *e2e.World) {
		prod, test := w.Hosts["production"], w.Hosts["test"]
		test.SetFaults(func(next http.Handler) http.Handler {
			return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
				if r.Method == http.MethodPut && strings.HasSuffix(r.URL.Path, string(jobID(1))) {
					body, _ := io.ReadAll(r.Body)
					r.Body = io.NopCloser(strings.NewReader(strings.Replace(string(body), "ignored", "kept", 1)))
					r.ContentLength = int64(len(body) - 3)
				}
				next.ServeHTTP(rw, r)
			})
		})
		putJob(t, prod, 1, "ignored")
		putJob(t, prod, 2, "fine")
		w.StartProducer()
		w.StartConsumer()
		time.Sleep(2 * time.Minute)
		parked := listParked(t, w)
		if len(parked) != 1 || parked[0].Class != "mismatch" || !strings.Contains(parked[0].Reason, "/Description") {
			t.Fatalf("parked: %+v", parked)
		}
		if puts, _ := test.Count(); puts > 1+3 {
			t.Errorf("%d writes", puts)
		}
		// A person leaves it at that, with a reason; it stays so over a restart.
		w.Do(func(ctx context.Context) error {
			parked[0].Discarded = "we live with it"
			_, err := w.Broker.PutParked(ctx, parked[0])
			return err
		})
		w.StopConsumer(nil)
		test.Reset()
		w.StartConsumer()
		time.Sleep(15 * time.Minute)
		if puts, _ := test.Count(); puts != 0 {
			t.Errorf("%d writes of a discarded version", puts)
		}
		if _, st := w.Cons.Status(); st[0].Parked != 0 {
			t.Errorf("a discarded record counts as parked: %+v", st[0])
		}
		putJob(t, prod, 1, "newer")
		within(t, w, 3*time.Second, "test")
		time.Sleep(time.Second)
		if parked := listParked(t, w); len(parked) != 0 {
			t.Errorf("still there after a newer version: %+v", parked)
		}
	})
}

func TestABlackHoleDelaysNobodyElse(t *testing.T) {
	world(t, []schemas.Slug{"test", "standby"}, func(w *e2e.World) {
		prod := w.Hosts["production"]
		w.Hosts["test"].SetFaults(fault(func(_ http.ResponseWriter, r *http.Request) bool {
			io.Copy(io.Discard, r.Body) // only then does the server notice that the client left
			<-r.Context().Done()
			return true
		}))
		w.StartProducer()
		w.StartConsumer()
		for i := range 50 {
			putJob(t, prod, i, "first")
		}
		took := within(t, w, 3*time.Second, "standby")
		t.Logf("the other target was equal after %s", took)
		time.Sleep(10 * time.Minute)
		for i := range 50 {
			putJob(t, prod, i, "second")
		}
		within(t, w, 3*time.Second, "standby")
		if ts, _ := w.Cons.Status(); ts[1].State != "down" || ts[1].Parked != 0 {
			t.Errorf("the black hole: %+v", ts[1])
		}
		if n := w.Hosts["test"].Requests(); n > 120 {
			t.Errorf("%d requests into the black hole in 10 minutes", n)
		}
		w.Hosts["test"].SetFaults(nil)
		within(t, w, 2*time.Minute, "test")
	})
}

func TestWithoutAFeedThePollFindsIt(t *testing.T) {
	world(t, []schemas.Slug{"test"}, func(w *e2e.World) {
		prod := w.Hosts["production"]
		prod.SetFaults(fault(func(rw http.ResponseWriter, r *http.Request) bool {
			if r.URL.Path == "/api/v1/changes" {
				rw.Header().Set("Content-Type", "application/problem+json")
				rw.WriteHeader(http.StatusNotFound)
				return true
			}
			return false
		}))
		w.StartProducer()
		w.StartConsumer()
		time.Sleep(time.Minute)
		putJob(t, prod, 1, "first")
		t.Logf("add after %s", within(t, w, w.Poll+time.Second, "test"))
		time.Sleep(10 * time.Second)
		deleteJob(t, prod, 1)
		t.Logf("delete after %s", within(t, w, w.Poll+10*time.Second, "test"))
	})
}

func TestARogueMessageIsParkedAndDoesNoHarm(t *testing.T) {
	world(t, []schemas.Slug{"test"}, func(w *e2e.World) {
		prod, test := w.Hosts["production"], w.Hosts["test"]
		putJob(t, prod, 1, "first")
		w.StartProducer()
		w.StartConsumer()
		within(t, w, time.Minute, "test")
		w.Do(func(ctx context.Context) error {
			for i, subject := range []string{
				"vcsync.ev.production.Job.deleted." + string(jobID(1)), // a forged deletion
				"vcsync.ev.production.Job.added.rogue",
				"vcsync.ev.production.Job.added.*",
				"vcsync.ev.production.Nonsense.added.x",
			} {
				m := nats.NewMsg(subject)
				m.Data = []byte(`{"junk":` + fmt.Sprint(i) + `}`)
				if _, err := w.Broker.JS().PublishMsg(ctx, m); err != nil {
					return fmt.Errorf("%s: %w", subject, err)
				}
			}
			return nil
		})
		time.Sleep(time.Minute)
		if _, deletes := test.Count(); deletes != 0 {
			t.Error("a forged deletion was believed")
		}
		putJob(t, prod, 2, "still alive")
		within(t, w, 3*time.Second, "test")
		// The next edit of the object puts it right, also over a restart.
		w.StopProducer(nil)
		w.StopConsumer(nil)
		w.StartProducer()
		w.StartConsumer()
		time.Sleep(time.Minute)
		putJob(t, prod, 1, "edited")
		within(t, w, 2*time.Minute, "test")
		for _, p := range listParked(t, w) {
			if p.ID == jobID(1) {
				t.Errorf("still parked: %+v", p)
			}
		}
	})
}

func TestAnExceptionBesideAll(t *testing.T) {
	world(t, nil, func(w *e2e.World) {
		prod, test := w.Hosts["production"], w.AddHost("test")
		s := e2e.AllJobs("some", "production", "test", schemas.Keep)
		r := s.Rules[schemas.Job]
		r.Objects = []schemas.ObjectRule{{ID: jobID(1)}, {ID: jobID(2), Rights: schemas.Rights{New: true}}}
		s.Rules[schemas.Job] = r
		w.Setting(s)
		for i := range 5 {
			putJob(t, prod, i, "first")
		}
		w.StartProducer()
		w.StartConsumer()
		time.Sleep(time.Minute)
		for i := range 5 {
			putJob(t, prod, i, "second")
		}
		time.Sleep(time.Minute)
		for i, want := range []string{"second", "", "first", "second", "second"} {
			body, there := test.Server.Get(schemas.Job, jobID(i))
			if there != (want != "") || !strings.Contains(string(body), want) {
				t.Errorf("job %d: there %v, want %q", i, there, want)
			}
		}
	})
}

func TestOneServerUnderTwoNamesIsNotSyncedOntoItself(t *testing.T) {
	world(t, nil, func(w *e2e.World) {
		prod := w.Hosts["production"]
		alias := w.AddHost("alias")
		alias.SetFaults(func(http.Handler) http.Handler { return prod.Server.Handler() })
		for i := range 5 {
			putJob(t, prod, i, "first")
		}
		w.Setting(e2e.AllJobs("loop", "production", "alias", schemas.Off))
		w.StartProducer()
		time.Sleep(10 * time.Second) // production is known by its name
		w.StartConsumer()
		time.Sleep(5 * time.Minute)
		if puts, deletes := prod.Count(); puts+deletes != 0 {
			t.Errorf("%d puts, %d deletes at the source itself", puts, deletes)
		}
		if ts, _ := w.Cons.Status(); ts[0].State != "down" || !strings.Contains(ts[0].Reason, "same server as production") {
			t.Errorf("target %+v", ts[0])
		}
	})
}
