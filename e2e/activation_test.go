package e2e_test

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vcsync/vcsync/broker"
	"github.com/vcsync/vcsync/consumer"
	"github.com/vcsync/vcsync/e2e"
	"github.com/vcsync/vcsync/schemas"
	"github.com/vcsync/vcsync/visualcron/standin"
)

// save stores a setting as control does.
func save(w *e2e.World, set *schemas.Setting) {
	w.T.Helper()
	w.Do(func(ctx context.Context) error {
		snap, err := w.Broker.Snapshot(ctx)
		set.Since = snap.Since(*set)
		return err
	})
	w.Setting(*set)
}

// TestActivationWritesNothingStale: somebody looks at what a setting would do, and turns
// it on later, also while the source is down. What is written is the source's state of
// that day, not of the look. A setting that was on all along goes on after a restart
// although its source is down.
func TestActivationWritesNothingStale(t *testing.T) {
	t.Parallel()
	world(t, []schemas.Slug{"test"}, func(w *e2e.World) {
		prod, test := w.Hosts["production"], w.Hosts["test"]
		set := e2e.AllJobs(oneSetting, "production", "test", schemas.Follow)
		set.Active = false
		set.Rules[schemas.Credential] = set.Rules[schemas.Job]
		save(w, &set)
		for _, i := range []int{5, 6} {
			if _, _, err := prod.Server.Put(schemas.Credential, fmt.Appendf(nil, `{"Id":%q,"Username":"u","Domain":"d","Password":"p"}`, jobID(i))); err != nil {
				t.Fatal(err)
			}
		}
		putJob(t, prod, 1, "old")
		putJob(t, prod, 2, "old")
		w.StartProducer()
		w.StartConsumer()
		w.Ask(oneSetting, broker.RunScope{})
		w.Move(oneSetting, broker.RunDropped, "")
		time.Sleep(20 * time.Minute)
		putJob(t, prod, 1, "newer")
		deleteJob(t, prod, 2)
		if _, err := prod.Server.Delete(schemas.Credential, jobID(5)); err != nil {
			t.Fatal(err)
		}
		delete(set.Rules, schemas.Credential)
		down := fault(func(rw http.ResponseWriter, _ *http.Request) bool { problem(rw, 503); return true })
		prod.SetFaults(down)
		test.Reset()
		set.Active = true
		save(w, &set)
		state := func() string {
			t.Helper()
			_, settings := w.Cons.Status()
			i := slices.IndexFunc(settings, func(s consumer.SettingStatus) bool { return s.Setting == oneSetting })
			return settings[i].State
		}
		time.Sleep(5 * time.Minute)
		wrote(t, test, "with the source down", 0, 0)
		if s := state(); !strings.Contains(s, "waiting for a listing of production: Job") {
			t.Errorf("the status says %q", s)
		}
		w.Crash()
		w.StartProducer()
		w.StartConsumer()
		time.Sleep(5 * time.Minute)
		wrote(t, test, "after a restart with the source down", 0, 0)
		prod.SetFaults(nil)
		time.Sleep(2 * time.Minute)
		wrote(t, test, "with the source back", 1, 0)
		if b := bodyOf(t, test, schemas.Job, jobID(1)); b["Description"] != "newer" {
			t.Errorf("job 1 is %v", b["Description"])
		}
		if s := state(); s != "following" {
			t.Errorf("the status says %q", s)
		}

		w.StopConsumer(nil)
		putJob(t, prod, 1, "newest")
		time.Sleep(2 * time.Minute)
		prod.SetFaults(down)
		w.Crash()
		test.Reset()
		w.StartProducer()
		w.StartConsumer()
		time.Sleep(2 * time.Minute)
		wrote(t, test, "active all along, with the source down after a restart", 1, 0)

		// It begins to take another type while the source is down: only that waits.
		set.Rules[schemas.Credential] = set.Rules[schemas.Job]
		test.Reset()
		save(w, &set)
		time.Sleep(time.Minute)
		wrote(t, test, "a type that is taken while the source is down", 0, 0)
		if s := state(); s != "following; waiting for a listing of production: Credential" {
			t.Errorf("the status says %q", s)
		}
		prod.SetFaults(nil)
		time.Sleep(2 * time.Minute)
		if s := state(); s != "following" {
			t.Errorf("the status says %q", s)
		}
		wrote(t, test, "of two credentials, one was gone before they were taken", 1, 0)
		if a := account(t, w, w.Cons, oneSetting); a.Unaccounted != 0 || a.Open != 0 {
			t.Errorf("%+v", a)
		}
	})
}

// TestHeldDeletionsProveNothing turns a setting on while its source has fewer jobs than
// the newest states tell, and the deletions wait for a person (G4).
func TestHeldDeletionsProveNothing(t *testing.T) {
	t.Parallel()
	world(t, []schemas.Slug{"test"}, func(w *e2e.World) {
		prod, test := w.Hosts["production"], w.Hosts["test"]
		set := e2e.AllJobs(oneSetting, "production", "test", schemas.Follow)
		set.Active = false
		save(w, &set)
		for i := range 12 {
			putJob(t, prod, i, "old")
		}
		w.StartProducer()
		w.StartConsumer()
		w.Ask(oneSetting, broker.RunScope{})
		w.Move(oneSetting, broker.RunDropped, "")
		time.Sleep(time.Minute)
		for i := range 10 {
			deleteJob(t, prod, i)
		}
		set.Active = true
		save(w, &set)
		time.Sleep(5 * time.Minute)
		wrote(t, test, "while deletions are held", 0, 0)
		for i := range 10 { // the source has them again
			putJob(t, prod, i, "back")
		}
		time.Sleep(5 * time.Minute)
		wrote(t, test, "when none is held any more", 12, 0)
	})
}

// TestAJobWaitsForATypeThatIsNotListedYet turns a setting on while its source's
// credentials cannot be listed: a job that refers to one is not brought without it, and
// says what it waits for. One whose reference dangles at the source too goes when that is
// known.
func TestAJobWaitsForATypeThatIsNotListedYet(t *testing.T) {
	t.Parallel()
	world(t, []schemas.Slug{"test"}, func(w *e2e.World) {
		prod, test := w.Hosts["production"], w.Hosts["test"]
		set := e2e.AllJobs(oneSetting, "production", "test", schemas.Follow)
		set.Rules[schemas.Credential] = set.Rules[schemas.Job]
		if _, _, err := prod.Server.Put(schemas.Credential, fmt.Appendf(nil, `{"Id":%q,"Username":"u","Domain":"d","Password":"p"}`, jobID(5))); err != nil {
			t.Fatal(err)
		}
		for i, refers := range map[int]int{1: 5, 2: 6} {
			putJob(t, prod, i, "refers")
			change(t, prod, schemas.Job, jobID(i), func(b map[string]any) { b["Credential"] = jobID(refers) })
		}
		putJob(t, prod, 3, "refers to nothing")
		prod.SetFaults(fault(func(rw http.ResponseWriter, r *http.Request) bool {
			if r.URL.Path != "/api/v1/objects/Credential" {
				return false
			}
			problem(rw, 403)
			return true
		}))
		save(w, &set)
		w.StartProducer()
		w.StartConsumer()
		time.Sleep(5 * time.Minute)
		wrote(t, test, "while credentials cannot be listed", 1, 0)
		if p := listParked(t, w); len(p) != 2 || !strings.Contains(p[0].Reason, "(waits for a listing of production)") {
			t.Errorf("parked %+v", p)
		}
		prod.SetFaults(nil)
		time.Sleep(2 * time.Minute)
		if p := listParked(t, w); len(p) != 0 {
			t.Errorf("parked %+v", p)
		}
		var order []string
		for _, x := range test.Seen() {
			order = append(order, fmt.Sprint(x.Type, x.ID == jobID(1)))
		}
		if i := slices.Index(order, "Jobtrue"); len(order) != 3 || slices.Index(order, "Credentialfalse") > i {
			t.Errorf("written: %v", order)
		}
	})
}

// TestWhatCannotBeCapturedNowIsNotWrittenAsItWas turns a setting on while a job of its
// source is no object that can be captured, and was one when somebody looked.
func TestWhatCannotBeCapturedNowIsNotWrittenAsItWas(t *testing.T) {
	t.Parallel()
	world(t, []schemas.Slug{"test"}, func(w *e2e.World) {
		prod, test := w.Hosts["production"], w.Hosts["test"]
		set := e2e.AllJobs(oneSetting, "production", "test", schemas.Follow)
		set.Active = false
		save(w, &set)
		for i := range 5 {
			putJob(t, prod, i, "old")
		}
		w.StartProducer()
		w.StartConsumer()
		w.Ask(oneSetting, broker.RunScope{})
		w.Move(oneSetting, broker.RunDropped, "")
		time.Sleep(time.Minute)
		for i := range 5 {
			putJob(t, prod, i, "newer")
		}
		if err := prod.Server.Misbehave(standin.Misbehaviour{Mode: "listing", Arg: "deep-row", Type: schemas.Job}); err != nil {
			t.Fatal(err)
		}
		set.Active = true
		save(w, &set)
		time.Sleep(5 * time.Minute)
		wrote(t, test, "while a job cannot be captured", 0, 0)
		prod.Server.Behave("listing")
		time.Sleep(2 * time.Minute)
		wrote(t, test, "once it can", 5, 0)
	})
}
