package e2e_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/vcsync/vcsync/broker"
	"github.com/vcsync/vcsync/consumer/decide"
	"github.com/vcsync/vcsync/control"
	"github.com/vcsync/vcsync/e2e"
	"github.com/vcsync/vcsync/schemas"
)

// explained asks control about a job, as the command does.
func explained(t *testing.T, w *e2e.World, setting schemas.Slug, i int) control.ExplainRecord {
	t.Helper()
	cfg := control.Config{Broker: w.Broker, Open: w.Open, Addr: "127.0.0.1:7780", Log: w.Log}
	if w.Prod != nil {
		cfg.Sources = w.Prod
	}
	if w.Cons != nil {
		cfg.Targets = w.Cons
	}
	s, err := control.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	rec := httptest.NewRecorder()
	req := httptest.NewRequest(http.MethodGet, fmt.Sprintf("http://127.0.0.1:7780/api/v1/settings/%s/explain/Job/%s", setting, jobID(i).Token()), nil)
	s.Handler().ServeHTTP(rec, req)
	var out control.ExplainRecord
	if err := json.Unmarshal(rec.Body.Bytes(), &out); err != nil || rec.Code != http.StatusOK {
		t.Fatalf("%d: %s", rec.Code, rec.Body)
	}
	return out
}

// heldBy compares the gate that explain names for a job with what the consumer makes of it
// in the next minute: what is held is not written. An empty gate holds nothing.
func heldBy(t *testing.T, w *e2e.World, what string, job int, gate control.Gate, settle time.Duration) control.ExplainRecord {
	t.Helper()
	test := w.Hosts["test"]
	time.Sleep(settle)
	test.Reset()
	r := explained(t, w, oneSetting, job)
	if r.Held != gate || (gate != "") != (r.Stands == "held") {
		t.Errorf("%s: %s by %q, want %q: %s", what, r.Stands, r.Held, gate, r.Line)
	}
	time.Sleep(time.Minute)
	for _, x := range test.Seen() {
		if x.ID == jobID(job) && x.Status < 300 && gate != "" && (x.Op == "put" || x.Op == "delete") {
			t.Errorf("%s: held by %q, and written", what, gate)
		}
	}
	return r
}

// TestExplainNamesTheGate seeds one cause per gate, with real servers, and compares what
// explain says with what the consumer makes of it: what is held is not written.
func TestExplainNamesTheGate(t *testing.T) {
	t.Parallel()
	world(t, []schemas.Slug{"test"}, func(w *e2e.World) {
		prod, test := w.Hosts["production"], w.Hosts["test"]
		other := w.AddHost("other")
		base := func() schemas.Setting { return e2e.AllJobs(oneSetting, "production", "test", schemas.Keep) }
		rights := func(s string) schemas.Rule {
			r, err := schemas.ParseRights(s)
			if err != nil {
				t.Fatal(err)
			}
			return schemas.Rule{Sync: schemas.SyncAll, Rights: r}
		}
		putJob(t, prod, 1, "first")
		w.StartProducer()
		w.StartConsumer()
		within(t, w, 2*time.Minute, "test")
		check := func(what string, job int, gate control.Gate, settle time.Duration) {
			t.Helper()
			heldBy(t, w, what, job, gate, settle)
		}
		step := func(set schemas.Setting) { w.Setting(set) }
		check("all is well", 1, "", time.Minute)

		set := base()
		set.Active = false
		step(set)
		check("off", 1, control.GateActive, time.Minute)
		step(base())
		time.Sleep(2 * time.Minute)

		prod.SetFaults(fault(func(rw http.ResponseWriter, r *http.Request) bool {
			if isList(r) {
				rw.WriteHeader(http.StatusBadGateway)
				return true
			}
			return false
		}))
		putJob(t, prod, 2, "first") // nobody sees it
		check("a source that cannot be listed", 2, control.GateSource, 2*time.Minute)
		prod.SetFaults(nil)
		check("a job that never was", 77, control.GateKnown, 5*time.Minute)
		check("captured again", 2, "", 0)

		set = base()
		rule := set.Rules[schemas.Job]
		rule.Objects = []schemas.ObjectRule{{ID: jobID(2)}}
		set.Rules[schemas.Job] = rule
		step(set)
		putJob(t, prod, 2, "not taken")
		check("an exception", 2, control.GateSelected, 2*time.Minute)

		set = base()
		set.Rules[schemas.Job] = rights("new,deleted")
		step(set)
		putJob(t, prod, 1, "no right to updates")
		check("no right", 1, control.GateKind, 2*time.Minute)
		step(base())
		within(t, w, 5*time.Minute, "test")

		set = base()
		set.Windows = schemas.Windows{{Kind: schemas.AllowWindow, Schedule: "0 0 29 2 *", Duration: "1m"}}
		step(set)
		putJob(t, prod, 1, "no window")
		check("no window", 1, control.GateWindow, 2*time.Minute)

		set = base()
		set.Mode = schemas.Approve
		step(set)
		putJob(t, prod, 1, "an approval")
		check("an approval", 1, control.GateMode, 2*time.Minute)
		step(base())
		within(t, w, 5*time.Minute, "test")

		w.Do(func(ctx context.Context) error { return w.Broker.EnterSafeMode(ctx, "a test", "because") })
		putJob(t, prod, 1, "safe mode")
		check("safe mode", 1, control.GateSafeMode, 2*time.Minute)
		w.Do(func(ctx context.Context) error {
			m, err := w.Broker.GetSafeMode(ctx)
			if err == nil {
				_, err = w.Broker.PutSafeMode(ctx, broker.SafeMode{}, m.Revision)
			}
			return err
		})
		within(t, w, 10*time.Minute, "test")

		test.SetFaults(fault(func(rw http.ResponseWriter, r *http.Request) bool {
			if r.Method == http.MethodPut {
				rw.Header().Set("Content-Type", "application/problem+json")
				rw.WriteHeader(http.StatusUnprocessableEntity)
				fmt.Fprint(rw, `{"title":"Refused","status":422,"detail":"no"}`)
				return true
			}
			return false
		}))
		putJob(t, prod, 1, "refused")
		check("refused", 1, control.GateParked, 2*time.Minute)
		test.SetFaults(nil)
		putJob(t, prod, 1, "taken")
		within(t, w, 5*time.Minute, "test")

		putJob(t, test, 1, "edited there")
		check("drift", 1, control.GatePolicy, 20*time.Minute)
		putJob(t, prod, 1, "the source wins")
		within(t, w, 5*time.Minute, "test")

		two := e2e.AllJobs("other-to-test", "other", "test", schemas.Keep)
		w.Setting(two)
		putJob(t, other, 3, "of the other")
		time.Sleep(2 * time.Minute)
		putJob(t, prod, 3, "of production")
		check("two sources", 3, control.GateConflict, 2*time.Minute)

		for i := 20; i < 30; i++ {
			putJob(t, prod, i, "first")
		}
		time.Sleep(2 * time.Minute)
		for i := 20; i < 30; i++ {
			deleteJob(t, prod, i)
		}
		check("held at the source", 20, control.GateAirlock, 3*time.Minute)
		check("others are held", 1, "", 0)
		judge(w, heldAt(w).Batch, broker.Rejected)
		check("rejected", 20, control.GateAirlock, 3*time.Minute)

		putText(t, test, schemas.Job, fmt.Sprintf(`{"Id":%q,"Name":"Backup settings","Group":"Default group","Tasks":[]}`, jobID(4)))
		putJob(t, prod, 4, "the target has a built-in of this id")
		check("built in", 4, control.GateBuiltIn, 2*time.Minute)

		const conn = "20000000-1111-4222-8333-000000000001"
		set = base()
		set.Rules[schemas.Connection] = set.Rules[schemas.Job]
		step(set)
		test.SetFaults(fault(func(rw http.ResponseWriter, r *http.Request) bool {
			if r.Method == http.MethodPut && strings.Contains(r.URL.Path, "/Connection/") {
				rw.Header().Set("Content-Type", "application/problem+json")
				rw.WriteHeader(http.StatusUnprocessableEntity)
				fmt.Fprint(rw, `{"title":"Refused","status":422,"detail":"no"}`)
				return true
			}
			return false
		}))
		putText(t, prod, schemas.Connection, `{"Id":"`+conn+`","Name":"c","Group":"g","ProtocolType":"FTP"}`)
		selfJob(t, prod, 5, true, "refers", `,"X":{"ConnectionId":"`+conn+`"}`)
		check("a parent", 5, control.GateParent, 3*time.Minute)
		test.SetFaults(nil)

		test.SetFaults(fault(func(rw http.ResponseWriter, _ *http.Request) bool {
			rw.WriteHeader(http.StatusServiceUnavailable)
			return true
		}))
		putJob(t, prod, 1, "the target is down")
		check("down", 1, control.GateBreaker, 2*time.Minute)
		test.SetFaults(nil)
		time.Sleep(5 * time.Minute)
		w.StopConsumer(nil)
		putJob(t, prod, 1, "nobody writes")
		check("no consumer", 1, control.GateLease, 2*time.Minute)
	})
}

// TestExplainNamesTheGateAtTheTarget seeds what holds a deletion at the target, and what an
// undo has paused, with real servers. The words tell apart what one gate says.
func TestExplainNamesTheGateAtTheTarget(t *testing.T) {
	t.Parallel()
	deleting(t, 8, nil, func(w *e2e.World, prod, test *e2e.Host) {
		check := func(what string, job int, gate control.Gate, settle time.Duration, words ...string) {
			t.Helper()
			r := heldBy(t, w, what, job, gate, settle)
			for _, x := range words {
				if !strings.Contains(r.Line, x) {
					t.Errorf("%s: %q lacks %q", what, r.Line, x)
				}
			}
		}
		there := func(what string, i int, want bool) {
			t.Helper()
			if _, _, is := jobAt(t, test, i); is != want {
				t.Errorf("%s: job %d is at the target: %v, want %v", what, i, is, want)
			}
		}

		time.Sleep(2 * time.Minute) // the pass that brought them is over
		putJob(t, prod, 0, "second")
		within(t, w, 2*time.Minute, "test")
		time.Sleep(2 * time.Minute)
		pass := w.Passes("test")[0].ID
		p, _ := w.AskAct("test", broker.RunAct{Undo: pass}, broker.RunScope{})
		if end, _ := w.Approve(p); end.Outcomes[broker.OutcomeDone] != 1 {
			t.Errorf("the undo: %+v", end)
		}
		check("undone", 0, control.GateParked, time.Minute, "parked, undone: ", pass)
		putJob(t, prod, 0, "third")
		check("undone, and edited since", 0, control.GateParked, 2*time.Minute, "parked, undone: ", pass)
		check("another is not paused", 1, "", 0)
		w.Do(func(ctx context.Context) error {
			x, err := w.Broker.GetParked(ctx, "test", schemas.Job, jobID(0).Token())
			if err == nil {
				x.RetryAsked++
				_, err = w.Broker.PutParked(ctx, x)
			}
			return err
		})
		check("resumed", 0, "", 2*time.Minute)
		describes(t, test, 0, "third")

		putJob(t, test, 100, "uses it")
		change(t, test, schemas.Job, jobID(100), func(b map[string]any) { b["JobId"] = jobID(1) })
		deleteJob(t, prod, 1)
		check("in use", 1, control.GateAirlock, 2*time.Minute, decide.InUse.Text(), `"Job 100"`)
		there("in use", 1, true)
		deleteJob(t, test, 100)
		check("not in use any more", 1, "", 16*time.Minute)
		there("not in use any more", 1, false)

		changeOne(w, func(s *schemas.Setting) { s.Deletes = map[schemas.Type]schemas.Measure{schemas.Job: {Number: 1}} })
		deleteJob(t, prod, 2)
		check("beyond the measure", 2, control.GateAirlock, 2*time.Minute, decide.Airlock.Text(), "1 deletion of Job in 24 hours")
		there("beyond the measure", 2, true)

		changeOne(w, func(s *schemas.Setting) { s.Deletes, s.Grace = nil, "40m" })
		deleteJob(t, prod, 3)
		check("in grace", 3, control.GateAirlock, 2*time.Minute, decide.OnGrace.Text())
		there("in grace", 3, true)
		check("the measure is still what holds it", 2, control.GateAirlock, 0, decide.Airlock.Text())
		check("the grace is over", 3, "", 40*time.Minute)
		there("the grace is over", 3, false)
	})
}

// TestATargetThatHangsIsNotSaidToAnswer has a target that takes requests and never answers:
// until its breaker shuts, status and explain say since when.
func TestATargetThatHangsIsNotSaidToAnswer(t *testing.T) {
	t.Parallel()
	world(t, []schemas.Slug{"test"}, func(w *e2e.World) {
		prod, test := w.Hosts["production"], w.Hosts["test"]
		putJob(t, prod, 1, "first")
		w.StartProducer()
		w.StartConsumer()
		within(t, w, time.Minute, "test")
		breaker := func() (x control.ExplainRecord, why string) {
			x = explained(t, w, oneSetting, 1)
			for _, g := range x.Gates {
				if g.Gate == control.GateBreaker {
					why = g.Why
				}
			}
			return x, why
		}
		if ts, _ := w.Cons.Status(); ts[0].State != "working" || ts[0].Reason != "" {
			t.Errorf("while it answers: %+v", ts[0])
		}
		if _, why := breaker(); why != "test answers" {
			t.Errorf("while it answers, explain says %q", why)
		}
		test.SetFaults(fault(func(_ http.ResponseWriter, r *http.Request) bool {
			io.Copy(io.Discard, r.Body)
			<-r.Context().Done()
			return true
		}))
		putJob(t, prod, 1, "second")
		time.Sleep(20 * time.Second)
		ts, _ := w.Cons.Status()
		if ts[0].State != "working" || !strings.HasPrefix(ts[0].Reason, "requests to it are without an answer since 20") {
			t.Errorf("while it hangs: %+v", ts[0])
		}
		x, why := breaker()
		if !strings.HasPrefix(why, "requests to test are without an answer since 20") || x.Stands != "on its way" || !strings.Contains(x.Line, why) {
			t.Errorf("while it hangs, explain says %q, and in all %q", why, x.Line)
		}
		test.SetFaults(nil)
		within(t, w, 2*time.Minute, "test")
		if ts, _ := w.Cons.Status(); ts[0].State != "working" || ts[0].Reason != "" {
			t.Errorf("when it answers again: %+v", ts[0])
		}
		if _, why := breaker(); why != "test answers" {
			t.Errorf("when it answers again, explain says %q", why)
		}
	})
}
