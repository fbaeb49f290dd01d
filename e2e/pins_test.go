package e2e_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/vcsync/vcsync/broker"
	"github.com/vcsync/vcsync/control"
	"github.com/vcsync/vcsync/e2e"
	"github.com/vcsync/vcsync/schemas"
)

func pinOf(from, to int) schemas.Pin {
	return schemas.Pin{Type: schemas.Job, Source: jobID(from), Target: jobID(to)}
}

// TestAPinMakesNoJobRunAgain: a job that deletes itself ran at the target. A pin that
// comes, changes or goes does not create it there again, until a person says so, once.
func TestAPinMakesNoJobRunAgain(t *testing.T) {
	t.Parallel()
	selfWorld(t, func(w *e2e.World, prod, test *e2e.Host) {
		selfJob(t, prod, 1, true, "runs and goes", removes)
		selfJob(t, prod, 2, true, "runs and goes, pinned", removes)
		set := e2e.AllJobs("production-to-test", "production", "test", schemas.Follow)
		pin := func(pins ...schemas.Pin) {
			t.Helper()
			set.Pins = pins
			w.Setting(set)
			time.Sleep(time.Minute)
		}
		w.StartProducer()
		w.StartConsumer()
		pin(pinOf(2, 8))
		for _, i := range []int{1, 8} {
			if _, err := test.Server.Delete(schemas.Job, jobID(i)); err != nil { // it ran
				t.Fatalf("job %d: %v", i, err)
			}
		}
		time.Sleep(6 * time.Minute)
		test.Reset()
		never := func(what string) {
			t.Helper()
			if puts, _ := test.Count(); puts != 0 {
				t.Errorf("%s: %d jobs were made again", what, puts)
			}
		}
		pin(pinOf(1, 9))
		never("a pin came and one went")
		pin(pinOf(1, 10), pinOf(2, 11))
		never("both changed")
		var parked broker.Parked
		for _, p := range listParked(t, w) {
			if p.ID == jobID(10) {
				parked = p
			}
		}
		if parked.Class != "ran-elsewhere" || !strings.Contains(parked.Reason, string(jobID(1))) || !strings.Contains(parked.Reason, string(jobID(10))) {
			t.Errorf("parked %+v", parked)
		}
		w.Do(func(ctx context.Context) error { // a person wants it all the same
			parked.RetryAsked++
			_, err := w.Broker.PutParked(ctx, parked)
			return err
		})
		time.Sleep(time.Minute)
		if _, _, there := jobAt(t, test, 10); !there {
			t.Error("it was not created again although a person asked for it")
		}
		if _, err := test.Server.Delete(schemas.Job, jobID(10)); err != nil {
			t.Fatal(err)
		}
		time.Sleep(6 * time.Minute)
		if puts, _ := test.Count(); puts != 1 {
			t.Errorf("%d writes after one retry", puts)
		}
	})
}

// TestAnObjectHasOneHome: what was brought and then pinned elsewhere is not written there
// while the old one is at the target, which is listed; once that is gone, it is.
func TestAnObjectHasOneHome(t *testing.T) {
	t.Parallel()
	world(t, nil, func(w *e2e.World) {
		prod, test := w.Hosts["production"], w.AddHost("test")
		set := e2e.AllJobs(oneSetting, "production", "test", schemas.Follow)
		w.Setting(set)
		putJob(t, prod, 1, "one")
		w.StartProducer()
		w.StartConsumer()
		time.Sleep(time.Minute)
		at := func(what string, want ...int) {
			t.Helper()
			var have []int
			for i := range 10 {
				if bodyOf(t, test, schemas.Job, jobID(i)) != nil {
					have = append(have, i)
				}
			}
			if fmt.Sprint(have) != fmt.Sprint(want) {
				t.Errorf("%s: the target has %v, want %v", what, have, want)
			}
		}
		set.Pins = []schemas.Pin{pinOf(1, 9)}
		w.Setting(set)
		time.Sleep(2 * time.Minute)
		at("pinned elsewhere", 1)
		behind := func(what string, entries []broker.PlanEntry) {
			t.Helper()
			n := 0
			for _, e := range entries {
				if e.Reason == "left-behind" && e.ID == jobID(1) && e.Act == "hold" && e.Difference == broker.OnlyTarget {
					n++
				}
			}
			if n != 1 {
				t.Errorf("%s does not list the one that was left behind: %v", what, lines(entries))
			}
		}
		_, entries := w.Drift(oneSetting)
		behind("drift", entries)
		p, entries := w.Ask(oneSetting, broker.RunScope{})
		behind("the plan", entries)
		for _, c := range p.Counts {
			if c.Difference == broker.OnlyTarget && control.Same(string(c.Difference), c.Act) {
				t.Errorf("what is left behind counts as equal: %+v", c)
			}
		}
		w.Move(oneSetting, broker.RunDropped, "")
		if parked := listParked(t, w); len(parked) != 1 || !strings.Contains(parked[0].Reason, string(jobID(1))) || !strings.Contains(parked[0].Reason, string(jobID(9))) {
			t.Errorf("parked %+v", parked)
		}
		deleteJob(t, test, 1)
		time.Sleep(6 * time.Minute)
		at("once the old one was removed", 9)
		if parked := listParked(t, w); len(parked) != 0 {
			t.Errorf("still parked: %+v", parked)
		}
		set.Pins = nil
		w.Setting(set)
		time.Sleep(2 * time.Minute)
		at("without a pin", 9)
		_, entries = w.Drift(oneSetting)
		behind("drift without a pin", entries)
		deleteJob(t, prod, 1)
		time.Sleep(16 * time.Minute)
		at("deleted at the source", 9)
		_, entries = w.Drift(oneSetting)
		behind("drift once it is deleted at the source", entries)
		if a := account(t, w, w.Cons, oneSetting); a.Unaccounted != 0 || a.Open != 0 {
			t.Errorf("%+v", a)
		}
	})
}

// TestPinsThatTurn: two objects that were brought change places by pins: each is about to
// be overwritten by the other, so neither stands in the other's way.
func TestPinsThatTurn(t *testing.T) {
	t.Parallel()
	world(t, nil, func(w *e2e.World) {
		prod, test := w.Hosts["production"], w.AddHost("test")
		set := e2e.AllJobs(oneSetting, "production", "test", schemas.Keep)
		w.Setting(set)
		putJob(t, prod, 1, "one")
		putJob(t, prod, 2, "two")
		w.StartProducer()
		w.StartConsumer()
		time.Sleep(time.Minute)
		set.Pins = []schemas.Pin{pinOf(1, 2), pinOf(2, 1)}
		w.Setting(set)
		time.Sleep(2 * time.Minute)
		one, two := bodyOf(t, test, schemas.Job, jobID(2)), bodyOf(t, test, schemas.Job, jobID(1))
		if one["Description"] != "one" || two["Description"] != "two" {
			t.Errorf("id 2 is %v, id 1 is %v", one["Description"], two["Description"])
		}
	})
}
