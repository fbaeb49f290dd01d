package e2e_test

import (
	"context"
	"encoding/json"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/vcsync/vcsync/broker"
	"github.com/vcsync/vcsync/consumer"
	"github.com/vcsync/vcsync/e2e"
	"github.com/vcsync/vcsync/schemas"
	"github.com/vcsync/vcsync/visualcron/standin"
)

// description returns what a host's job is described as, "" where it has none.
func description(t *testing.T, h *e2e.Host, i int) string {
	t.Helper()
	body, there := h.Server.Get(schemas.Job, jobID(i))
	if !there {
		return ""
	}
	var job struct{ Description string }
	if err := json.Unmarshal(body, &job); err != nil {
		t.Fatal(err)
	}
	return job.Description
}

// parkedAs returns the record of a job that is parked at a target.
func parkedAs(w *e2e.World, target schemas.Slug, i int) (p broker.Parked) {
	w.Do(func(ctx context.Context) error {
		all, err := w.Broker.ListParked(ctx, target)
		for _, x := range all {
			if x.ID == jobID(i) {
				p = x
			}
		}
		return err
	})
	return p
}

func TestEditsAtTheTarget(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := e2e.NewWorld(t)
		defer w.Close()
		prod := w.AddHost("production")
		all := map[schemas.Slug]schemas.TargetEdits{"over": schemas.OverwriteEdits, "keeps": schemas.KeepEdits, "parks": schemas.ParkEdits}
		for id, edits := range all {
			w.AddHost(id)
			s := e2e.AllJobs(id, "production", id, schemas.Keep)
			s.TargetEdits = edits
			w.Setting(s)
		}
		const edited, switched, gone, same, lost = 1, 2, 3, 4, 5
		jobs := []int{edited, switched, gone, same, lost}
		for _, i := range jobs {
			putJob(t, prod, i, "first")
		}
		w.StartProducer()
		w.StartConsumer()
		time.Sleep(time.Minute)
		for id := range all {
			h := w.Hosts[id]
			putJob(t, h, edited, "by hand")
			putJob(t, h, switched, "first") // active, as at the source; it arrived inactive
			deleteJob(t, h, gone)
			// A write that arrives, and is never recorded because vcsync dies.
			if err := h.Server.Misbehave(standin.Misbehaviour{Mode: "answers-500-but-applies"}); err != nil {
				t.Fatal(err)
			}
		}
		putJob(t, prod, lost, "unrecorded")
		time.Sleep(2 * time.Second)
		w.StopConsumer(consumer.ErrCrash)
		for id := range all {
			if d := description(t, w.Hosts[id], lost); d != "unrecorded" {
				t.Fatalf("%s: the unrecorded write left %q", id, d)
			}
			w.Hosts[id].Server.Behave()
		}
		for _, i := range jobs {
			putJob(t, prod, i, "second")
		}
		time.Sleep(time.Minute)
		w.StartConsumer()
		time.Sleep(2 * time.Minute)
		for id, edits := range all {
			want := map[int]string{edited: "second", switched: "second", gone: "second", same: "second", lost: "second"}
			if edits != schemas.OverwriteEdits {
				want[edited], want[gone] = "by hand", ""
			}
			for i, d := range want {
				if have := description(t, w.Hosts[id], i); have != d {
					t.Errorf("%s: job %d is %q, want %q", id, i, have, d)
				}
			}
			for _, i := range jobs {
				p := parkedAs(w, id, i)
				if asks := edits == schemas.ParkEdits && (i == edited || i == gone); asks != (p.Class == "edited") {
					t.Errorf("%s: job %d is parked as %q", id, i, p.Class)
				}
			}
		}
		// A person decides; and an edit that is undone is none.
		w.Do(func(ctx context.Context) error {
			p := parkedAs(w, "parks", edited)
			p.RetryAsked++
			if _, err := w.Broker.PutParked(ctx, p); err != nil {
				return err
			}
			p = parkedAs(w, "parks", gone)
			p.Discarded = "not wanted here"
			_, err := w.Broker.PutParked(ctx, p)
			return err
		})
		putJob(t, w.Hosts["keeps"], edited, "first")
		time.Sleep(time.Minute)
		putJob(t, prod, edited, "third")
		time.Sleep(time.Minute)
		for id, want := range map[schemas.Slug]string{"over": "third", "keeps": "third", "parks": "third"} {
			if have := description(t, w.Hosts[id], edited); have != want {
				t.Errorf("%s: the edited job is %q, want %q", id, have, want)
			}
		}
		if have := description(t, w.Hosts["parks"], gone); have != "" {
			t.Errorf("the discarded job is %q", have)
		}
	})
}

func TestWritesAcrossVersionsAreHeld(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := e2e.NewWorld(t)
		defer w.Close()
		prod, same, any := w.AddHost("production"), w.AddHost("same"), w.AddHost("any")
		if err := prod.Server.Misbehave(standin.Misbehaviour{Mode: "version", Arg: "12.5.1"}); err != nil {
			t.Fatal(err)
		}
		w.Setting(e2e.AllJobs("same", "production", "same", schemas.Keep))
		s := e2e.AllJobs("any", "production", "any", schemas.Keep)
		s.Versions = schemas.AnyVersions
		w.Setting(s)
		putJob(t, prod, 1, "first")
		w.StartProducer()
		w.StartConsumer()
		time.Sleep(2 * time.Minute)
		if a, b := description(t, same, 1), description(t, any, 1); a != "" || b != "first" {
			t.Errorf("from 12.5 to 13.2: %q with versions same, %q with any", a, b)
		}
		_, settings := w.Cons.Status()
		for _, st := range settings {
			want := map[schemas.Slug]uint64{"same": 1, "any": 0}[st.Setting]
			if st.Accounting == nil || st.Accounting.Held != want || st.Accounting.Unaccounted != 0 {
				t.Errorf("%s: %+v, want %d held", st.Setting, st.Accounting, want)
			}
		}
		// The source is updated: what was held goes without any edit.
		prod.Server.Behave()
		time.Sleep(2 * time.Minute)
		if d := description(t, same, 1); d != "first" {
			t.Errorf("after the update of the source the target has %q", d)
		}
	})
}

func TestNamesakesAreToldAndNotMerged(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := e2e.NewWorld(t)
		defer w.Close()
		prod, test := w.AddHost("production"), w.AddHost("test")
		s := e2e.AllJobs("s", "production", "test", schemas.Keep)
		s.Rules[schemas.Variable] = s.Rules[schemas.Job]
		w.Setting(s)
		putJob(t, prod, 1, "first")
		body := strings.Replace(jobBody(t, prod, 1), string(jobID(1)), string(jobID(2)), 1)
		if _, _, err := test.Server.Put(schemas.Job, []byte(strings.Replace(body, "Job 1", " job 1", 1))); err != nil {
			t.Fatal(err)
		}
		for _, h := range []*e2e.Host{prod, test} { // the name is the id: one object on both
			if _, _, err := h.Server.Put(schemas.Variable, []byte(`{"Name":"Region","Description":"at `+string(h.Name)+`","ObjectType":"String"}`)); err != nil {
				t.Fatal(err)
			}
		}
		w.StartProducer()
		w.StartConsumer()
		time.Sleep(time.Minute)
		p, _ := w.Ask("s", broker.RunScope{})
		if len(p.Warnings) != 1 || !strings.Contains(p.Warnings[0], string(jobID(1))) || !strings.Contains(p.Warnings[0], string(jobID(2))) {
			t.Errorf("warnings %q", p.Warnings)
		}
		if n := len(test.Server.Objects(schemas.Job)); n != len(prod.Server.Objects(schemas.Job))+1 {
			t.Errorf("the target has %d jobs", n)
		}
	})
}

func jobBody(t *testing.T, h *e2e.Host, i int) string {
	t.Helper()
	body, ok := h.Server.Get(schemas.Job, jobID(i))
	if !ok {
		t.Fatalf("%s has no job %d", h.Name, i)
	}
	return string(body)
}

// TestBothDirectionsWithOneWinner: where one server's edits win, both follow each other,
// and an edit on both sides at once ends as the winner has it.
func TestBothDirectionsWithOneWinner(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := e2e.NewWorld(t)
		defer w.Close()
		a, b := w.AddHost("winner"), w.AddHost("other")
		w.Setting(e2e.AllJobs("there", "winner", "other", schemas.Keep))
		back := e2e.AllJobs("back", "other", "winner", schemas.Keep)
		back.TargetEdits = schemas.KeepEdits
		w.Setting(back)
		w.StartProducer()
		w.StartConsumer()
		both := func(step, want string) {
			t.Helper()
			time.Sleep(3 * time.Minute)
			if x, y := description(t, a, 1), description(t, b, 1); x != want || y != want {
				t.Errorf("%s: the winner has %q and the other %q, want %q", step, x, y, want)
			}
		}
		putJob(t, a, 1, "born at the winner")
		both("born", "born at the winner")
		putJob(t, b, 1, "edited at the other")
		both("edited at the other", "edited at the other")
		putJob(t, a, 1, "edited at the winner")
		both("edited at the winner", "edited at the winner")
		putJob(t, b, 1, "again at the other")
		both("again at the other", "again at the other")
		putJob(t, a, 1, "the winner's")
		putJob(t, b, 1, "the other's")
		both("edited on both", "the winner's")
		for _, h := range w.Hosts {
			h.Reset()
		}
		time.Sleep(time.Hour)
		for _, h := range w.Hosts {
			if puts, deletes := h.Count(); puts+deletes > 0 {
				t.Errorf("%s: %d puts, %d deletes in an hour without any edit", h.Name, puts, deletes)
			}
		}
		deleteJob(t, b, 1)
		time.Sleep(3 * time.Minute)
		if description(t, a, 1) != "" {
			t.Error("a deletion at the other did not arrive")
		}
	})
}

// TestAnEditIsWeighedAnewWhenNobodyWatched: a setting that is to overwrite edits, which
// was changed while no consumer ran, does so where an edit was parked before.
func TestAnEditIsWeighedAnewWhenNobodyWatched(t *testing.T) {
	t.Parallel()
	world(t, nil, func(w *e2e.World) {
		prod, test := w.Hosts["production"], w.AddHost("test")
		set := e2e.AllJobs(oneSetting, "production", "test", schemas.Keep)
		set.TargetEdits = schemas.ParkEdits
		w.Setting(set)
		putJob(t, prod, 1, "first")
		w.StartProducer()
		w.StartConsumer()
		time.Sleep(time.Minute)
		putJob(t, test, 1, "by hand")
		putJob(t, prod, 1, "second")
		time.Sleep(time.Minute)
		if p := parkedAs(w, "test", 1); p.Class != "edited" {
			t.Fatalf("parked %+v", p)
		}
		w.StopConsumer(nil)
		w.StartConsumer()
		time.Sleep(time.Minute)
		if p := parkedAs(w, "test", 1); p.Class != "edited" || description(t, test, 1) != "by hand" {
			t.Errorf("after a restart alone: parked %+v", p)
		}
		w.StopConsumer(nil)
		set.TargetEdits = schemas.OverwriteEdits
		w.Setting(set)
		w.StartConsumer()
		time.Sleep(time.Minute)
		if got := description(t, test, 1); got != "second" {
			t.Errorf("the target has %q", got)
		}
		if p := parkedAs(w, "test", 1); p.Class != "" {
			t.Errorf("still parked: %+v", p)
		}
	})
}

// TestAWriteThatACrashLeftUnrecordedIsNobodysEdit: it was sent while edits were
// overwritten, and is known for vcsync's own when they are kept.
func TestAWriteThatACrashLeftUnrecordedIsNobodysEdit(t *testing.T) {
	t.Parallel()
	world(t, nil, func(w *e2e.World) {
		prod, test := w.Hosts["production"], w.AddHost("test")
		set := e2e.AllJobs(oneSetting, "production", "test", schemas.Keep)
		w.Setting(set)
		putJob(t, prod, 1, "first")
		w.StartProducer()
		w.StartConsumer()
		time.Sleep(time.Minute)
		if err := test.Server.Misbehave(standin.Misbehaviour{Mode: "answers-500-but-applies"}); err != nil {
			t.Fatal(err)
		}
		putJob(t, prod, 1, "second")
		for range 6000 {
			if description(t, test, 1) == "second" {
				break
			}
			time.Sleep(10 * time.Millisecond)
		}
		w.Crash()
		if got := description(t, test, 1); got != "second" {
			t.Fatalf("the target has %q, nothing was written before the crash", got)
		}
		test.Server.Behave()
		set.TargetEdits = schemas.KeepEdits
		w.Setting(set)
		putJob(t, prod, 1, "third")
		w.StartProducer()
		w.StartConsumer()
		time.Sleep(time.Minute)
		if got := description(t, test, 1); got != "third" {
			t.Errorf("the target has %q: vcsync took its own write for somebody's edit", got)
		}
	})
}
