package e2e_test

import (
	"context"
	"fmt"
	"net/http"
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
		before := digests(t, test)
		if len(before) != 212 {
			t.Fatalf("%d objects at the target before the pass", len(before))
		}

		for i := 100; i < 190; i++ {
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
		after := digests(t, test)
		passes := w.Passes("test")
		if len(passes) != 2 || passes[0].Setting != oneSetting || fmt.Sprint(passes[0].Acts) != "map[add:196 delete:6 update:90]" {
			t.Fatalf("passes %+v", passes)
		}
		pass := passes[0].ID

		// By hand, at the target.
		edit := func(i int) { selfJob(t, test, i, true, "by hand", fmt.Sprintf(`,"X":{"Credential":%q}`, credential(10))) }
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
		tallied(t, "plan", entries, map[string]int{"add": 5, "delete": 193, "update": 88, "adopt": 1, "hold changed-since": 4, "hold still-used": 1})
		wrote(t, test, "a plan", 0, 0)
		end, entries := w.Approve(p)
		if end.Result != broker.RunDone {
			t.Errorf("progress %+v", end)
		}
		tallied(t, "result", entries, map[string]int{"add -> done": 5, "delete -> done": 193, "update -> done": 88, "adopt -> done": 1, "hold changed-since": 4, "hold still-used": 1})
		seenDelete := false
		for _, x := range test.Seen() {
			if seenDelete = seenDelete || x.Op == "delete"; seenDelete && x.Op == "put" {
				t.Errorf("%s %s was written after a deletion", x.Type, x.ID)
			}
		}
		wrote(t, test, "the undo", 93, 193)
		got, want := digests(t, test), before
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
		if a := account(t, w, w.Cons, oneSetting); a.Unaccounted != 0 || a.Open != 0 || a.Captured != a.Applied+a.Superseded+a.Filtered+a.Parked+a.Held+a.Pending || a.Parked < 287 {
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
		if end.Result != broker.RunDone || end.Outcomes[broker.OutcomeDone] != 286 {
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

var _ = consumer.ErrCrash
var _ = http.StatusOK
var _ atomic.Int32
