package e2e_test

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vcsync/vcsync/broker"
	"github.com/vcsync/vcsync/consumer"
	"github.com/vcsync/vcsync/e2e"
	"github.com/vcsync/vcsync/schemas"
	"github.com/vcsync/vcsync/visualcron"
)

// digests returns what a server holds: the digest of every object that is not built in,
// with the secrets in clear, and those of the statistics of jobs.
func digests(t *testing.T, h *e2e.Host) map[string]schemas.Digest {
	t.Helper()
	out := map[string]schemas.Digest{}
	for _, x := range schemas.Types() {
		for _, o := range h.Server.Objects(x) {
			n, err := visualcron.Normalize(x, o.Body, func(s string) string { return s })
			if err != nil {
				t.Fatal(err)
			}
			if !n.BuiltIn {
				out[string(x)+"/"+string(o.ID)] = n.Digest
			}
		}
	}
	return out
}

// bodies returns what a server holds, whole: the bodies of every object that is not built
// in, without the statistics that go on by themselves.
func bodies(t *testing.T, h *e2e.Host) map[string]string {
	t.Helper()
	out := map[string]string{}
	for k := range digests(t, h) {
		x, id, _ := strings.Cut(k, "/")
		if id == string(jobID(900)) { // the statistics of its triggers go on too
			continue
		}
		body, _ := h.Server.Get(schemas.Type(x), schemas.ID(id))
		var v map[string]any
		if err := json.Unmarshal(body, &v); err != nil {
			t.Fatal(err)
		}
		if stats, ok := v["Stats"].(map[string]any); ok {
			v["Stats"] = stats["Active"]
		}
		delete(v, "UniqueRunId")
		raw, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		out[k] = string(raw)
	}
	return out
}

// sameBodies compares whole bodies, but of some objects.
func sameBodies(t *testing.T, what string, got, want map[string]string, but ...string) {
	t.Helper()
	n := 0
	for k := range want {
		if n < 5 && got[k] != want[k] && !slices.Contains(but, k) {
			t.Errorf("%s: %s is\n%s\nwant\n%s", what, k, got[k], want[k])
			n++
		}
	}
}

func sameDigests(t *testing.T, what string, got, want map[string]schemas.Digest, but ...string) {
	t.Helper()
	for _, k := range but {
		delete(got, k)
		delete(want, k)
	}
	for k := range want {
		if got[k] != want[k] {
			t.Errorf("%s: %s is %q, want %q", what, k, got[k], want[k])
		}
	}
	for k := range got {
		if _, ok := want[k]; !ok {
			t.Errorf("%s: %s is there", what, k)
		}
	}
}

// tally counts the entries of a plan by act and outcome.
func tally(entries []broker.PlanEntry) map[string]int {
	out := map[string]int{}
	for _, e := range entries {
		k := e.Act
		if e.Outcome != "" {
			k += " -> " + string(e.Outcome)
		}
		if e.Act == "hold" {
			k += " " + e.Reason
		}
		out[k]++
	}
	return out
}

func tallied(t *testing.T, what string, entries []broker.PlanEntry, want map[string]int) {
	t.Helper()
	if got := tally(entries); fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("%s: %v, want %v", what, got, want)
	}
}

// TestUndo undoes a pass of 300 objects: adds, updates and deletes, credentials that jobs
// use, a pin, and objects that somebody edited since. Then it undoes the undo.
func TestUndo(t *testing.T) {
	t.Parallel()
	world(t, nil, func(w *e2e.World) {
		prod, test := w.Hosts["production"], w.AddHost("test")
		set := e2e.AllObjects(oneSetting, "production", "test", schemas.Follow)
		set.Pins = []schemas.Pin{{Type: schemas.Job, Source: jobID(150), Target: jobID(1150)}}
		w.Setting(set)
		credential := func(i int) schemas.ID { return schemas.ID(fmt.Sprintf("c0000000-1111-4222-8333-%012d", i)) }
		job := func(i int, text string) {
			selfJob(t, prod, i, true, text, fmt.Sprintf(`,"X":{"Credential":%q}`, credential(i%10)))
		}
		for i := range 10 {
			putText(t, prod, schemas.Credential, fmt.Sprintf(`{"Id":%q,"Username":"u%d","Password":"true-secret-%d","Domain":"first"}`, credential(i), i, i))
		}
		for i := range 200 {
			job(i, "first")
		}
		putJob(t, test, 900, "the target's own")
		putJob(t, test, 120, "the target's own")
		w.StartProducer()
		w.StartConsumer()
		time.Sleep(3 * time.Minute)
		test.Server.Behave("activity")
		before, whole := digests(t, test), bodies(t, test)
		if len(before) != 212 {
			t.Fatalf("%d objects at the target before the pass", len(before))
		}

		for i := 90; i < 190; i++ {
			job(i, "second")
		}
		for i := 200; i < 390; i++ {
			job(i, "new")
		}
		for i := range 5 { // as many as go without an airlock
			deleteJob(t, prod, 190+i)
		}
		for i := 10; i < 13; i++ {
			putText(t, prod, schemas.Credential, fmt.Sprintf(`{"Id":%q,"Username":"u%d","Password":"true-secret-%d","Domain":"new"}`, credential(i), i, i))
			selfJob(t, prod, 390+i, true, "new", fmt.Sprintf(`,"X":{"Credential":%q}`, credential(i)))
		}
		deleteJob(t, prod, 195)
		time.Sleep(2 * time.Minute)
		after, wholeAfter := digests(t, test), bodies(t, test)
		passes := w.Passes("test")
		if len(passes) != 2 || passes[0].Setting != oneSetting || fmt.Sprint(passes[0].Acts) != "map[add:196 delete:6 update:100]" {
			t.Fatalf("passes %+v", passes)
		}
		pass := passes[0].ID

		// By hand, at the target.
		edit := func(i int) {
			selfJob(t, test, i, true, "by hand", fmt.Sprintf(`,"X":{"Credential":%q}`, credential(10)))
		}
		edit(105)
		edit(205)
		edit(191)
		deleteJob(t, test, 206)
		deleteJob(t, test, 106)
		hands := []string{"Job/" + string(jobID(105)), "Job/" + string(jobID(205)), "Job/" + string(jobID(191)), "Job/" + string(jobID(206)), "Job/" + string(jobID(106)), "Credential/" + string(credential(10))}
		edited := digests(t, test)
		test.Reset()
		p, entries := w.AskAct("test", broker.RunAct{Undo: pass}, broker.RunScope{})
		if p.Failed != "" || len(p.Warnings) > 0 {
			t.Fatalf("plan %+v", p)
		}
		// Job 206 is gone as it was before; that is put on record, and it stays so.
		tallied(t, "plan", entries, map[string]int{"add": 5, "delete": 193, "update": 98, "adopt": 1, "hold changed-since": 4, "hold in-use": 1})
		wrote(t, test, "a plan", 0, 0)
		end, entries := w.Approve(p)
		if end.Result != broker.RunDone {
			t.Errorf("progress %+v", end)
		}
		tallied(t, "result", entries, map[string]int{"add -> done": 5, "delete -> done": 193, "update -> done": 98, "adopt -> done": 1, "hold changed-since": 4, "hold in-use": 1})
		seenDelete := false
		for _, x := range test.Seen() {
			if seenDelete = seenDelete || x.Op == "delete"; seenDelete && x.Op == "put" {
				t.Errorf("%s %s was written after a deletion", x.Type, x.ID)
			}
		}
		wrote(t, test, "the undo", 103, 193)
		got, want := digests(t, test), before
		sameBodies(t, "after the undo", bodies(t, test), whole, hands...)
		sameDigests(t, "after the undo", got, want, hands...)
		for _, k := range hands {
			if now := digests(t, test)[k]; now != edited[k] {
				t.Errorf("%s, edited by hand, is %q, was %q", k, now, edited[k])
			}
		}

		// Neither an audit, nor a comparison, nor the next event redoes it.
		job(101, "third")
		job(201, "third")
		deleteJob(t, prod, 102)
		time.Sleep(40 * time.Minute)
		now := digests(t, test)
		want = map[string]schemas.Digest{}
		for k, d := range before {
			want[k] = d
		}
		sameDigests(t, "40 minutes later", now, want, hands...)
		if a := account(t, w, w.Cons, oneSetting); a.Unaccounted != 0 || a.Open != 0 || a.Captured != a.Applied+a.Superseded+a.Filtered+a.Parked+a.Held+a.Pending || a.Parked < 297 {
			t.Errorf("accounts %+v", a)
		}

		// The undo of the undo.
		undo := w.Passes("test")[0]
		if undo.Undoes != pass || undo.By != "somebody" {
			t.Errorf("passes %+v", undo)
		}
		w.StopProducer(nil) // what changed at the source meanwhile comes by itself then
		p, _ = w.AskAct("test", broker.RunAct{Undo: undo.ID}, broker.RunScope{Objects: nil})
		end, entries = w.Approve(p)
		if end.Result != broker.RunDone || end.Outcomes[broker.OutcomeDone] != 296 {
			t.Errorf("undo of the undo: %+v, %v", end, tally(entries))
		}
		w.Do(func(ctx context.Context) error {
			all, err := w.Broker.ListParked(ctx, "test")
			for _, x := range all {
				if x.Pass == undo.ID && x.ID != jobID(206) {
					t.Errorf("still paused: %+v", x)
				}
			}
			return err
		})
		w.StartProducer()
		time.Sleep(10 * time.Minute)
		changed := []string{"Job/" + string(jobID(101)), "Job/" + string(jobID(201)), "Job/" + string(jobID(102))}
		sameBodies(t, "after the undo of the undo", bodies(t, test), wholeAfter, append(hands, changed...)...)
		sameDigests(t, "after the undo of the undo", digests(t, test), after, append(hands, changed...)...)
		for _, i := range []int{101, 201} {
			if body, _, _ := jobAt(t, test, i); !strings.Contains(string(body), "third") {
				t.Errorf("job %d is %s", i, body)
			}
		}
		if _, _, there := jobAt(t, test, 102); there {
			t.Error("job 102 is there")
		}
	})
}

// undoWorld is a pass of n updates at a target, from "first" to "second".
func undoWorld(t *testing.T, n int, policy schemas.ActivePolicy, f func(w *e2e.World, prod, test *e2e.Host, pass string)) {
	world(t, nil, func(w *e2e.World) {
		prod, test := w.Hosts["production"], w.AddHost("test")
		w.Setting(e2e.AllObjects(oneSetting, "production", "test", policy))
		for i := range n {
			selfJob(t, prod, i, true, "first", "")
		}
		w.StartProducer()
		w.StartConsumer()
		time.Sleep(3 * time.Minute)
		for i := range n {
			selfJob(t, prod, i, true, "second", "")
		}
		time.Sleep(2 * time.Minute)
		passes := w.Passes("test")
		if len(passes) != 2 || passes[0].Acts["update"] != n {
			t.Fatalf("passes %+v", passes)
		}
		test.Reset()
		f(w, prod, test, passes[0].ID)
	})
}

func describes(t *testing.T, h *e2e.Host, i int, want string) {
	t.Helper()
	if body, _, there := jobAt(t, h, i); !there || !strings.Contains(string(body), fmt.Sprintf("%q", want)) {
		t.Errorf("job %d at %s is %s, want %s", i, h.Name, body, want)
	}
}

// TestAnUndoOutlivesItsConsumer kills the consumer in the middle of an undo and turns the
// setting off meanwhile. The next holder goes on, and nothing is written twice.
func TestAnUndoOutlivesItsConsumer(t *testing.T) {
	t.Parallel()
	undoWorld(t, 40, schemas.Keep, func(w *e2e.World, prod, test *e2e.Host, pass string) {
		deleteJob(t, test, 7) // the target lost one
		p, entries := w.AskAct("test", broker.RunAct{Undo: pass}, broker.RunScope{})
		tallied(t, "plan", entries, map[string]int{"update": 39, "hold changed-since": 1})
		var puts atomic.Int32
		crash := make(chan struct{})
		test.SetFaults(fault(func(_ http.ResponseWriter, r *http.Request) bool {
			if r.Method == http.MethodPut {
				time.Sleep(200 * time.Millisecond)
				if puts.Add(1) == 15 {
					close(crash)
				}
			}
			return false
		}))
		w.Move(p.Setting, broker.RunApplying, p.ID)
		<-crash
		w.StopConsumer(consumer.ErrCrash)
		set := e2e.AllObjects(oneSetting, "production", "test", schemas.Keep)
		set.Active = false
		w.Setting(set)
		time.Sleep(time.Minute)
		test.SetFaults(nil)
		w.StartConsumer()
		end, entries := w.Finish(p)
		if end.Result != broker.RunDone {
			t.Errorf("progress %+v", end)
		}
		tallied(t, "result", entries, map[string]int{"update -> done": 39, "hold changed-since": 1})
		twice := map[schemas.ID]int{}
		for _, x := range test.Seen() {
			if x.Op == "put" && x.Status < 300 {
				twice[x.ID]++
			}
		}
		for i := range 40 {
			if i == 7 {
				continue
			}
			describes(t, test, i, "first")
			if n := twice[jobID(i)]; n != 1 {
				t.Errorf("job %d was written %d times", i, n)
			}
		}
		set.Active = true
		w.Setting(set)
		time.Sleep(20 * time.Minute)
		for i := range 40 {
			if i != 7 {
				describes(t, test, i, "first")
			}
		}
		// A person resumes one: it is as its source again, and the others stay.
		w.Do(func(ctx context.Context) error {
			x, err := w.Broker.GetParked(ctx, "test", schemas.Job, jobID(3).Token())
			if err != nil || x.Class != broker.ClassUndone || !strings.Contains(x.Reason, "somebody") || !strings.Contains(x.Reason, pass) {
				t.Errorf("parked %+v, %v", x, err)
			}
			x.RetryAsked++
			_, err = w.Broker.PutParked(ctx, x)
			return err
		})
		time.Sleep(10 * time.Minute)
		describes(t, test, 3, "second")
		describes(t, test, 4, "first")
		if a := account(t, w, w.Cons, oneSetting); a.Unaccounted != 0 || a.Open != 0 || a.Parked != 38 || a.Captured != a.Applied+a.Superseded+a.Filtered+a.Parked+a.Held+a.Pending {
			t.Errorf("accounts %+v", a)
		}
	})
}

// TestAnUndoMakesNothingOurs undoes the first write of an object that the target had of its
// own. A deletion at the source must not take it then.
func TestAnUndoMakesNothingOurs(t *testing.T) {
	t.Parallel()
	world(t, []schemas.Slug{"test"}, func(w *e2e.World) {
		prod, test := w.Hosts["production"], w.Hosts["test"]
		selfJob(t, test, 1, true, "the target's own", "")
		selfJob(t, prod, 1, true, "the source's", "")
		w.StartProducer()
		w.StartConsumer()
		time.Sleep(3 * time.Minute)
		describes(t, test, 1, "the source's")
		p, _ := w.AskAct("test", broker.RunAct{Undo: w.Passes("test")[0].ID}, broker.RunScope{Objects: []broker.RunObject{{Type: schemas.Job, ID: jobID(1)}}})
		if end, _ := w.Approve(p); end.Outcomes[broker.OutcomeDone] != 1 {
			t.Errorf("progress %+v", end)
		}
		describes(t, test, 1, "the target's own")
		deleteJob(t, prod, 1)
		time.Sleep(5 * time.Minute)
		w.Do(func(ctx context.Context) error {
			x, err := w.Broker.GetParked(ctx, "test", schemas.Job, jobID(1).Token())
			if err != nil {
				return err
			}
			x.RetryAsked++ // also once it is resumed
			_, err = w.Broker.PutParked(ctx, x)
			return err
		})
		time.Sleep(20 * time.Minute)
		describes(t, test, 1, "the target's own")
	})
}

// TestAnUndoAtATargetThatMasks puts credentials back at a target that shows no secrets: the
// target's own stay.
func TestAnUndoAtATargetThatMasks(t *testing.T) {
	t.Parallel()
	pairWorld(t, schemas.Keep, func(w *e2e.World, prod, test *e2e.Host) {
		treat(t, test, visualcron.SecretsMasked)
		putText(t, prod, schemas.Credential, credentialOf("d1"))
		putText(t, test, schemas.Credential, strings.Replace(credentialOf("own"), "true-secret-1", "target-secret", 1))
		w.StartProducer()
		w.StartConsumer()
		time.Sleep(3 * time.Minute)
		p, entries := w.AskAct("test", broker.RunAct{Undo: w.Passes("test")[0].ID}, broker.RunScope{})
		tallied(t, "plan", entries, map[string]int{"update": 1})
		if end, _ := w.Approve(p); end.Outcomes[broker.OutcomeDone] != 1 {
			t.Errorf("progress %+v", end)
		}
		body, _ := test.Server.Get(schemas.Credential, someCredential)
		if !strings.Contains(string(body), `"own"`) || !strings.Contains(string(body), "target-secret") {
			t.Errorf("the credential is %s", body)
		}
	})
}

// TestAnUndoDoesNotFlowBack undoes at a target that is a source of another server, and of
// the server from which it has its objects.
func TestAnUndoDoesNotFlowBack(t *testing.T) {
	t.Parallel()
	world(t, nil, func(w *e2e.World) {
		prod, test, third := w.Hosts["production"], w.AddHost("test"), w.AddHost("third")
		there := e2e.AllJobs(oneSetting, "production", "test", schemas.Follow)
		w.Setting(there)
		selfJob(t, prod, 1, true, "first", "")
		selfJob(t, prod, 3, true, "the source's", "")
		selfJob(t, test, 3, true, "the target's own", "")
		w.StartProducer()
		w.StartConsumer()
		time.Sleep(4 * time.Minute)
		first := w.Passes("test")[0].ID
		w.Setting(e2e.AllJobs("back", "test", "production", schemas.Follow))
		w.Setting(e2e.AllJobs("on", "test", "third", schemas.Follow))
		time.Sleep(4 * time.Minute)
		selfJob(t, prod, 1, true, "second", "")
		selfJob(t, prod, 2, true, "new", "")
		time.Sleep(4 * time.Minute)
		describes(t, third, 1, "second")
		prod.Reset()
		p, _ := w.AskAct("test", broker.RunAct{Undo: w.Passes("test")[0].ID}, broker.RunScope{})
		if end, _ := w.Approve(p); end.Outcomes[broker.OutcomeDone] != 2 {
			t.Errorf("progress %+v", end)
		}
		p, _ = w.AskAct("test", broker.RunAct{Undo: first}, broker.RunScope{Objects: []broker.RunObject{{Type: schemas.Job, ID: jobID(3)}}})
		if end, _ := w.Approve(p); end.Outcomes[broker.OutcomeDone] != 1 {
			t.Errorf("progress %+v", end)
		}
		time.Sleep(20 * time.Minute)
		describes(t, test, 1, "first")
		describes(t, third, 1, "first")
		describes(t, third, 3, "the target's own")
		describes(t, prod, 3, "the source's")
		wrote(t, prod, "the undo at test", 0, 0)
		describes(t, prod, 1, "second")
		describes(t, prod, 2, "new")
	})
}

// TestRevert brings an older version back: at its source, from where it goes to all, and at
// one target, where it is paused.
func TestRevert(t *testing.T) {
	t.Parallel()
	world(t, []schemas.Slug{"test", "standby"}, func(w *e2e.World) {
		prod, test, standby := w.Hosts["production"], w.Hosts["test"], w.Hosts["standby"]
		putText(t, prod, schemas.Credential, credentialOf("d"))
		selfJob(t, prod, 1, true, "first", `,"X":{"Credential":"`+string(someCredential)+`"}`)
		w.StartProducer()
		w.StartConsumer()
		time.Sleep(2 * time.Minute)
		for _, text := range []string{"second", "third"} {
			selfJob(t, prod, 1, true, text, "")
			time.Sleep(2 * time.Minute)
		}
		version := func(rev uint64) broker.RunRevert {
			r := broker.RunRevert{Source: "production", Type: schemas.Job, ID: jobID(1)}
			w.Do(func(ctx context.Context) error {
				all, _, err := w.Broker.History(ctx, schemas.Key{Source: "production", Type: schemas.Job, Token: jobID(1).Token()})
				for _, e := range all {
					if e.Version.Revision == rev {
						r.Seq, r.Version = e.Seq, e.Version
					}
				}
				return err
			})
			return r
		}
		at := version(2)
		at.Setting = "production-to-test"
		p, entries := w.AskAct("test", broker.RunAct{Revert: at}, broker.RunScope{})
		tallied(t, "plan at the target", entries, map[string]int{"update": 1})
		w.Approve(p)
		describes(t, test, 1, "second")
		time.Sleep(20 * time.Minute)
		describes(t, test, 1, "second")
		describes(t, prod, 1, "third")

		// What it refers to is not there any more.
		if ok, err := prod.Server.Delete(schemas.Credential, someCredential); err != nil || !ok {
			t.Fatal(ok, err)
		}
		r := version(1)
		_, entries = w.AskAct("production", broker.RunAct{Revert: r}, broker.RunScope{})
		tallied(t, "plan at the source", entries, map[string]int{"hold dangles": 1})
		w.Move(broker.ActAt("production"), broker.RunDropped, "")
		r.Force = true
		p, entries = w.AskAct("production", broker.RunAct{Revert: r}, broker.RunScope{})
		tallied(t, "forced", entries, map[string]int{"update": 1})
		if end, _ := w.Approve(p); end.Outcomes[broker.OutcomeDone] != 1 {
			t.Errorf("progress %+v", end)
		}
		describes(t, prod, 1, "first")
		time.Sleep(5 * time.Minute)
		describes(t, standby, 1, "first")
		describes(t, test, 1, "second") // paused
		w.Do(func(ctx context.Context) error {
			n, err := w.Broker.HeadOf(ctx, schemas.Key{Source: "production", Type: schemas.Job, Token: jobID(1).Token()})
			if err == nil && (n.Version.Revision != 4 || len(n.OriginPath) > 0) {
				t.Errorf("the newest version is %+v", n)
			}
			_, known, lerr := w.Broker.LedgerEntry(ctx, "production", schemas.Job, jobID(1))
			if known {
				t.Error("the ledger of the source has an entry")
			}
			return cmp.Or(err, lerr)
		})
		// A revert is a pass, and can be undone.
		p, entries = w.AskAct("production", broker.RunAct{Undo: w.Passes("production")[0].ID}, broker.RunScope{})
		tallied(t, "undo of the revert", entries, map[string]int{"update": 1})
		w.Approve(p)
		time.Sleep(5 * time.Minute)
		describes(t, standby, 1, "third")
	})
}
