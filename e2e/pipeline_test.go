package e2e_test

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/vcsync/vcsync/broker"
	_ "github.com/vcsync/vcsync/broker/brokertest" // starts the broker's clock outside of any bubble
	"github.com/vcsync/vcsync/e2e"
	"github.com/vcsync/vcsync/schemas"
	"github.com/vcsync/vcsync/visualcron/standin"
)

// jobID returns a stable GUID.
func jobID(i int) schemas.ID { return schemas.ID(fmt.Sprintf("00000000-1111-4222-8333-%012d", i)) }

// putJob creates or changes a job at a host.
func putJob(t testing.TB, h *e2e.Host, i int, description string) {
	t.Helper()
	body := fmt.Sprintf(`{"Id":%q,"Name":"Job %d","Group":"Finance","Description":%q,"Stats":{"Active":true,"NoExecutes":3},
		"Variables":[{"Key":"Secret","ValueObject":"dmFsdWU="}],
		"Tasks":[{"Id":"10000000-1111-4222-8333-%012d","Order":1,"Name":"Run","TaskType":"Execute","Execute":{"CmdLine":"x.cmd"},"Stats":{"Active":true}}]}`, jobID(i), i, description, i)
	if _, _, err := h.Server.Put(schemas.Job, []byte(body)); err != nil {
		t.Fatal(err)
	}
}

func deleteJob(t testing.TB, h *e2e.Host, i int) {
	t.Helper()
	if ok, err := h.Server.Delete(schemas.Job, jobID(i)); err != nil || !ok {
		t.Fatalf("delete: %v %v", ok, err)
	}
}

// world runs f in virtual time on a production server and the given targets, with
// one setting each.
func world(t *testing.T, targets []schemas.Slug, f func(w *e2e.World)) {
	synctest.Test(t, func(t *testing.T) {
		w := e2e.NewWorld(t)
		defer w.Close()
		if os.Getenv("VCSYNC_TEST_LOG") != "" {
			w.Log = slog.New(slog.NewTextHandler(os.Stderr, nil))
		}
		w.AddHost("production")
		for _, id := range targets {
			w.AddHost(id)
			policy := schemas.Keep
			if id == "standby" {
				policy = schemas.Off
			}
			w.Setting(e2e.AllJobs("production-to-"+id, "production", id, policy))
		}
		f(w)
	})
}

// within waits in virtual time until the targets equal production, and returns how
// long that took.
func within(t *testing.T, w *e2e.World, limit time.Duration, targets ...schemas.Slug) time.Duration {
	t.Helper()
	begun := time.Now()
	for {
		var diff []string
		for _, id := range targets {
			policy := schemas.Keep
			if id == "standby" {
				policy = schemas.Off
			}
			diff = append(diff, e2e.Diverged(w.Hosts["production"], w.Hosts[id], policy)...)
		}
		took := time.Since(begun)
		if diff == nil {
			return took
		}
		if took > limit {
			t.Fatalf("after %s: %d differences, such as %s\nsources %+v\ntargets %v", took, len(diff), strings.Join(diff[:min(3, len(diff))], "; "), w.Prod.Status(), fmt.Sprint(w.Cons.Status()))
		}
		time.Sleep(50 * time.Millisecond)
	}
}

func TestAnEditAnAddAndADeleteArrive(t *testing.T) {
	world(t, []schemas.Slug{"test", "standby"}, func(w *e2e.World) {
		prod := w.Hosts["production"]
		if err := standin.Seed(prod.Server); err != nil {
			t.Fatal(err)
		}
		w.StartProducer()
		w.StartConsumer()
		t.Logf("200 seeded jobs after %s", within(t, w, 2*time.Minute, "test", "standby"))
		for _, o := range w.Hosts["test"].Server.Objects(schemas.Job) {
			var job struct {
				Name  string
				Stats struct{ Active bool }
			}
			if err := json.Unmarshal(o.Body, &job); err != nil || job.Stats.Active && !standin.IsBuiltin(schemas.Job, o.ID) {
				t.Errorf("%s is active at the target (%v)", job.Name, err)
			}
		}
		for _, h := range w.Hosts {
			h.Reset()
		}
		putJob(t, prod, 1, "new")
		t.Logf("add: %s", within(t, w, 3*time.Second, "test", "standby"))
		putJob(t, prod, 1, "edited")
		t.Logf("edit: %s", within(t, w, 3*time.Second, "test", "standby"))
		deleteJob(t, prod, 1)
		t.Logf("delete: %s", within(t, w, 10*time.Second, "test", "standby"))
		for _, id := range []schemas.Slug{"test", "standby"} {
			if puts, deletes := w.Hosts[id].Count(); puts != 2 || deletes != 1 {
				t.Errorf("%s: %d puts, %d deletes; want 2 and 1", id, puts, deletes)
			}
		}
		// G8: moving statistics write nothing anywhere.
		for _, h := range w.Hosts {
			h.Reset()
		}
		time.Sleep(10 * time.Minute)
		for id, h := range w.Hosts {
			if puts, deletes := h.Count(); puts+deletes != 0 {
				t.Errorf("%s: %d puts, %d deletes without any edit", id, puts, deletes)
			}
			if len(h.Broken) > 0 {
				t.Error(h.Broken)
			}
		}
	})
}

// fault answers every request for which it returns true by itself.
func fault(f func(w http.ResponseWriter, r *http.Request) bool) func(http.Handler) http.Handler {
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if !f(w, r) {
				next.ServeHTTP(w, r)
			}
		})
	}
}

// isList tells whether a request lists all jobs.
func isList(r *http.Request) bool { return r.URL.Path == "/api/v1/objects/Job" }

func TestDishonestListingsDeleteNothing(t *testing.T) {
	world(t, []schemas.Slug{"test"}, func(w *e2e.World) {
		prod := w.Hosts["production"]
		for i := range 40 {
			putJob(t, prod, i, "first")
		}
		other, err := standin.Open(standin.Config{Name: "other", Password: e2e.Password, NoSync: true})
		if err != nil {
			t.Fatal(err)
		}
		defer other.Close()
		w.StartProducer()
		w.StartConsumer()
		within(t, w, time.Minute, "test")
		// What the honest server would say, to be bent.
		answer := func(f func(honest string) (contentType, body string)) func(http.Handler) http.Handler {
			return func(next http.Handler) http.Handler {
				return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
					if !isList(r) {
						next.ServeHTTP(rw, r)
						return
					}
					rec := httptest.NewRecorder()
					next.ServeHTTP(rec, r)
					ct, body := f(rec.Body.String())
					rw.Header().Set("Content-Type", ct)
					fmt.Fprint(rw, body)
				})
			}
		}
		const js = "application/json"
		for _, c := range []struct {
			name   string
			faults func(http.Handler) http.Handler
			class  string
		}{
			{"null", answer(func(string) (string, string) { return js, "null" }), "bad answer"},
			{"an empty array where there were objects", answer(func(string) (string, string) { return js, "[]" }), "empty listing"},
			{"an object", answer(func(string) (string, string) { return js, "{}" }), "bad answer"},
			{"an HTML page with 200", answer(func(string) (string, string) { return "text/html", "<html>log on</html>" }), "bad answer"},
			{"an HTML page that calls itself JSON", answer(func(string) (string, string) { return js, "<html>log on</html>" }), "bad answer"},
			{"an empty body", answer(func(string) (string, string) { return js, "" }), "bad answer"},
			{"a cut array", answer(func(s string) (string, string) { return js, s[:len(s)/2] }), "bad answer"},
			{"an array cut between two rows", answer(func(s string) (string, string) { return js, s[:strings.LastIndex(s, `,{"`)] }), "bad answer"},
			{"trailing bytes", answer(func(s string) (string, string) { return js, s + "x" }), "bad answer"},
			{"a second array", answer(func(s string) (string, string) { return js, s + "[]" }), "bad answer"},
			{"a row without an id", answer(func(s string) (string, string) { return js, `[{"Name":"x"}]` }), "bad answer"},
			{"the same row twice", answer(func(s string) (string, string) { return js, `[{"Id":"a"},{"Id":"a"}]` }), "bad answer"},
			{"401 to the listing", fault(func(rw http.ResponseWriter, r *http.Request) bool {
				if isList(r) {
					rw.WriteHeader(http.StatusUnauthorized)
				}
				return isList(r)
			}), "unauthorized"},
			{"the connection breaks in the middle", func(next http.Handler) http.Handler {
				return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
					if !isList(r) {
						next.ServeHTTP(rw, r)
						return
					}
					rw.Header().Set("Content-Type", js)
					fmt.Fprint(rw, `[{"Id":"a","Name":"x"},`)
					rw.(http.Flusher).Flush()
					panic(http.ErrAbortHandler)
				})
			}, ""},
			{"500", fault(func(rw http.ResponseWriter, r *http.Request) bool {
				if isList(r) {
					rw.WriteHeader(http.StatusInternalServerError)
				}
				return isList(r)
			}), "fault"},
			{"204", fault(func(rw http.ResponseWriter, r *http.Request) bool {
				if isList(r) {
					rw.WriteHeader(http.StatusNoContent)
				}
				return isList(r)
			}), "bad answer"},
			{"another server at the address", func(http.Handler) http.Handler { return other.Handler() }, ""},
		} {
			t.Run(c.name, func(t *testing.T) {
				test := w.Hosts["test"]
				test.Reset()
				prod.SetFaults(c.faults)
				time.Sleep(3 * time.Minute)
				st := w.Prod.Status()[0]
				if st.State != "degraded" || st.Reason == "" || c.class != "" && st.Class != c.class {
					t.Errorf("state %q, class %q, reason %q; want degraded, class %q", st.State, st.Class, st.Reason, c.class)
				}
				wrote(t, test, c.name, 0, 0)
				t.Log(st.Reason)
				prod.SetFaults(nil)
				time.Sleep(time.Minute)
				if st := w.Prod.Status()[0]; st.State != "capturing" {
					t.Errorf("after the fault: %+v", st)
				}
				within(t, w, time.Second, "test")
			})
		}
	})
}

func TestTooManyDeletionsAtOnceAreHeld(t *testing.T) {
	world(t, []schemas.Slug{"test"}, func(w *e2e.World) {
		prod := w.Hosts["production"]
		for i := range 100 {
			putJob(t, prod, i, "first")
		}
		w.StartProducer()
		w.StartConsumer()
		within(t, w, time.Minute, "test")
		w.StopProducer(nil)
		for i := range 10 { // as many as a pass may
			deleteJob(t, prod, i)
		}
		w.StartProducer()
		within(t, w, time.Minute, "test")
		w.StopProducer(nil)
		for i := 10; i < 20; i++ { // 10 of the 90 that are left: one too many
			deleteJob(t, prod, i)
		}
		w.StartProducer()
		time.Sleep(3 * time.Minute)
		if _, deletes := w.Hosts["test"].Count(); deletes != 10 {
			t.Errorf("%d deletes at the target, want the first 10", deletes)
		}
		if held := w.Prod.Status()[0].Types[schemas.Job].Held; held != 10 {
			t.Errorf("%d held, want 10", held)
		}
	})
}

func TestATargetThatWasAwayGetsTheNewestStatesOnly(t *testing.T) {
	world(t, []schemas.Slug{"test"}, func(w *e2e.World) {
		prod, test := w.Hosts["production"], w.Hosts["test"]
		for i := range 60 {
			putJob(t, prod, i, "first")
		}
		w.StartProducer()
		w.StartConsumer()
		within(t, w, time.Minute, "test")
		test.Reset()
		test.SetFaults(fault(func(http.ResponseWriter, *http.Request) bool { panic(http.ErrAbortHandler) }))
		for round := range 20 {
			for i := range 60 {
				putJob(t, prod, i, fmt.Sprint("round ", round))
			}
			time.Sleep(2 * time.Second)
		}
		test.SetFaults(nil)
		within(t, w, 2*time.Minute, "test")
		if puts, _ := test.Count(); puts != 60 {
			t.Errorf("%d writes for 60 objects that changed 20 times", puts)
		}
	})
}

func TestARestartWritesNothing(t *testing.T) {
	world(t, []schemas.Slug{"test"}, func(w *e2e.World) {
		for i := range 100 {
			putJob(t, w.Hosts["production"], i, "first")
		}
		w.StartProducer()
		w.StartConsumer()
		within(t, w, time.Minute, "test")
		w.Hosts["test"].Reset()
		w.StopProducer(nil)
		w.StopConsumer(nil)
		if err := w.Broker.Close(); err != nil {
			t.Fatal(err)
		}
		w.OpenBroker()
		w.StartProducer()
		w.StartConsumer()
		time.Sleep(5 * time.Minute)
		test := w.Hosts["test"]
		if puts, deletes := test.Count(); puts+deletes != 0 {
			t.Errorf("%d puts, %d deletes", puts, deletes)
		}
		putJob(t, w.Hosts["production"], 1, "after the restart")
		within(t, w, 3*time.Second, "test")
	})
}

func TestAnOverloadedTargetIsLeftAlone(t *testing.T) {
	world(t, []schemas.Slug{"test"}, func(w *e2e.World) {
		prod, test := w.Hosts["production"], w.Hosts["test"]
		for i := range 300 {
			putJob(t, prod, i, "first")
		}
		test.SetFaults(fault(func(rw http.ResponseWriter, r *http.Request) bool {
			if r.Method == http.MethodPut {
				rw.Header().Set("Retry-After", "10")
				rw.WriteHeader(http.StatusServiceUnavailable)
				return true
			}
			return false
		}))
		w.StartProducer()
		w.StartConsumer()
		time.Sleep(time.Minute)
		requests := test.Requests()
		// 8 lanes may meet the first 503 together, with a read each; from then on every
		// 10 s at most a probe and one object's read and write.
		if limit := 3 + 8*2 + 6*3; requests > limit {
			t.Errorf("%d requests in a minute, want at most %d", requests, limit)
		}
		if ts, _ := w.Cons.Status(); ts[0].State != "down" {
			t.Errorf("target state %q", ts[0].State)
		}
		test.SetFaults(nil)
		took := within(t, w, time.Minute, "test")
		t.Logf("%d requests in the minute; equal %s after it", requests, took)
		if ts, _ := w.Cons.Status(); ts[0].State != "working" || ts[0].Parked != 0 {
			t.Errorf("target %+v", ts[0])
		}
	})
}

func TestARefusedObjectIsParkedAndDelaysNobody(t *testing.T) {
	world(t, []schemas.Slug{"test"}, func(w *e2e.World) {
		prod, test := w.Hosts["production"], w.Hosts["test"]
		bad := string(jobID(7))
		refuse := true
		var mu sync.Mutex
		test.SetFaults(fault(func(rw http.ResponseWriter, r *http.Request) bool {
			mu.Lock()
			defer mu.Unlock()
			if refuse && r.Method == http.MethodPut && strings.HasSuffix(r.URL.Path, bad) {
				rw.Header().Set("Content-Type", "application/problem+json")
				rw.WriteHeader(http.StatusUnprocessableEntity)
				fmt.Fprint(rw, `{"title":"Task type not licensed"}`)
				return true
			}
			return false
		}))
		for i := range 300 {
			putJob(t, prod, i, "first")
		}
		w.StartProducer()
		w.StartConsumer()
		begun := time.Now()
		for {
			if diff := e2e.Diverged(prod, test, schemas.Keep); len(diff) == 1 && strings.Contains(diff[0], bad) {
				break
			}
			if time.Since(begun) > 30*time.Second {
				t.Fatal("the others are delayed")
			}
			time.Sleep(50 * time.Millisecond)
		}
		time.Sleep(10 * time.Second)
		var parked []broker.Parked
		w.Do(func(ctx context.Context) (err error) { parked, err = w.Broker.ListParked(ctx, ""); return })
		if len(parked) != 1 || parked[0].ID != jobID(7) || parked[0].Class != "refused" || !strings.Contains(parked[0].Reason, "not licensed") || parked[0].Name != "Job 7" {
			t.Fatalf("parked: %+v", parked)
		}
		if _, st := w.Cons.Status(); st[0].Parked != 1 || st[0].OK {
			t.Errorf("setting status %+v", st[0])
		}
		// A person asks to try again: still refused, and told so.
		w.Do(func(ctx context.Context) error {
			parked[0].RetryAsked++
			_, err := w.Broker.PutParked(ctx, parked[0])
			return err
		})
		time.Sleep(10 * time.Second)
		w.Do(func(ctx context.Context) (err error) { parked, err = w.Broker.ListParked(ctx, ""); return })
		if len(parked) != 1 || parked[0].Attempts != 2 || parked[0].RetryDone != 1 {
			t.Fatalf("after a retry: %+v", parked)
		}
		// A newer version that the target takes frees it.
		mu.Lock()
		refuse = false
		mu.Unlock()
		putJob(t, prod, 7, "corrected")
		within(t, w, 3*time.Second, "test")
		time.Sleep(time.Second)
		w.Do(func(ctx context.Context) (err error) { parked, err = w.Broker.ListParked(ctx, ""); return })
		if len(parked) != 0 {
			t.Errorf("still parked: %+v", parked)
		}
	})
}

func TestAWidenedSettingBringsWhatItNewlyTakes(t *testing.T) {
	world(t, nil, func(w *e2e.World) {
		prod := w.Hosts["production"]
		test := w.AddHost("test")
		s := e2e.AllJobs("some", "production", "test", schemas.Keep)
		s.Rules = map[schemas.Type]schemas.Rule{schemas.Job: {Sync: schemas.SyncListed, Objects: []schemas.ObjectRule{{ID: jobID(1), Rights: schemas.Rights{New: true}}}}}
		w.Setting(s)
		for i := range 20 {
			putJob(t, prod, i, "first")
		}
		w.StartProducer()
		w.StartConsumer()
		time.Sleep(time.Minute)
		if puts, _ := test.Count(); puts != 1 {
			t.Fatalf("%d writes, want the one that is listed", puts)
		}
		putJob(t, prod, 1, "edited") // "updated" is not taken
		deleteJob(t, prod, 2)
		time.Sleep(time.Minute)
		if puts, deletes := test.Count(); puts != 1 || deletes != 0 {
			t.Fatalf("%d writes, %d deletes", puts, deletes)
		}
		w.Setting(e2e.AllJobs("some", "production", "test", schemas.Keep))
		took := within(t, w, 10*time.Second, "test")
		t.Logf("equal %s after the change, without any edit", took)
		if puts, deletes := test.Count(); puts != 1+19 || deletes != 0 {
			t.Errorf("%d writes, %d deletes", puts, deletes)
		}
		// Deactivating and removing a setting deletes nothing.
		s = e2e.AllJobs("some", "production", "test", schemas.Keep)
		s.Active = false
		w.Setting(s)
		deleteJob(t, prod, 3)
		time.Sleep(2 * time.Minute)
		w.Do(func(ctx context.Context) error {
			snap, err := w.Broker.Snapshot(ctx)
			if err != nil {
				return err
			}
			return w.Broker.DeleteSetting(ctx, "some", snap.Settings["some"].Revision)
		})
		time.Sleep(2 * time.Minute)
		if _, deletes := test.Count(); deletes != 0 {
			t.Errorf("%d deletes", deletes)
		}
	})
}

func TestTheActivePolicyIsKept(t *testing.T) {
	world(t, []schemas.Slug{"test", "standby"}, func(w *e2e.World) {
		prod, test, standby := w.Hosts["production"], w.Hosts["test"], w.Hosts["standby"]
		putJob(t, prod, 1, "first")
		w.StartProducer()
		w.StartConsumer()
		within(t, w, time.Minute, "test", "standby")
		activate := func(h *e2e.Host) {
			body, _ := h.Server.Get(schemas.Job, jobID(1))
			on := strings.Replace(string(body), `"Active":false`, `"Active":true`, 1)
			if on == string(body) {
				t.Fatalf("the job at %s is active already: %s", h.Name, body)
			}
			if _, _, err := h.Server.Put(schemas.Job, []byte(on)); err != nil {
				t.Fatal(err)
			}
		}
		activate(test)
		activate(standby)
		putJob(t, prod, 1, "edited")
		within(t, w, 3*time.Second, "test", "standby")
		if body, _ := test.Server.Get(schemas.Job, jobID(1)); !strings.Contains(string(body), `"Stats":{"Active":true`) {
			t.Errorf("keep: %s", body)
		}
		if body, _ := standby.Server.Get(schemas.Job, jobID(1)); !strings.Contains(string(body), `"Stats":{"Active":false`) {
			t.Errorf("off: %s", body)
		}
	})
}

func TestARingGoesQuiet(t *testing.T) {
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
		time.Sleep(5 * time.Minute)
		for id, want := range map[schemas.Slug]int{"production": 0, "test": 1, "standby": 1} {
			if puts, deletes := w.Hosts[id].Count(); puts != want || deletes != 0 {
				t.Errorf("%s: %d puts, %d deletes; want %d puts", id, puts, deletes, want)
			}
		}
		deleteJob(t, w.Hosts["production"], 1)
		time.Sleep(5 * time.Minute)
		for id, want := range map[schemas.Slug]int{"production": 0, "test": 1, "standby": 1} {
			if _, deletes := w.Hosts[id].Count(); deletes != want {
				t.Errorf("%s: %d deletes, want %d", id, deletes, want)
			}
		}
	})
}

func TestBuiltInAndTargetOnlyJobsAreLeftAlone(t *testing.T) {
	world(t, []schemas.Slug{"test"}, func(w *e2e.World) {
		prod, test := w.Hosts["production"], w.Hosts["test"]
		putJob(t, prod, 1, "of production")
		putJob(t, test, 2, "of test alone")
		before := len(test.Server.Objects(schemas.Job))
		w.StartProducer()
		w.StartConsumer()
		time.Sleep(3 * time.Minute)
		if puts, deletes := test.Count(); puts != 1 || deletes != 0 {
			t.Errorf("%d puts, %d deletes", puts, deletes)
		}
		if after := len(test.Server.Objects(schemas.Job)); after != before+1 {
			t.Errorf("%d jobs, want %d", after, before+1)
		}
	})
}
