package e2e_test

import (
	"cmp"
	"slices"
	"testing"
	"time"

	"github.com/vcsync/vcsync/broker"
	"github.com/vcsync/vcsync/e2e"
	"github.com/vcsync/vcsync/schemas"
)

// entriesAt returns the entries of a drift list that stand for an id at the target.
func entriesAt(entries []broker.PlanEntry, i int) (out []broker.PlanEntry) {
	for _, e := range entries {
		if cmp.Or(e.TargetID, e.ID) == jobID(i) {
			out = append(out, e)
		}
	}
	return out
}

// TestWhatWasHeldIsLeftBehindAsAnyOther: a newer version of a job is held at its old id when
// a pin takes it elsewhere. What stands at the old id is listed as left behind, and not as
// held, for nothing is ever going to be done there.
func TestWhatWasHeldIsLeftBehindAsAnyOther(t *testing.T) {
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
		is := func(what string, i int, want ...string) {
			t.Helper()
			_, entries := w.Drift(oneSetting)
			var have []string
			for _, e := range entriesAt(entries, i) {
				have = append(have, e.Reason)
			}
			if !slices.Equal(have, want) {
				t.Errorf("%s: id %d is listed as %v, want %v: %v", what, i, have, want, lines(entries))
			}
		}
		set.Mode = schemas.ReportOnly
		w.Setting(set)
		putJob(t, prod, 1, "one, edited")
		putJob(t, prod, 2, "two, edited")
		time.Sleep(2 * time.Minute)
		is("edited", 1, "report-only")
		is("edited", 2, "report-only")
		deleteJob(t, test, 2)
		set.Pins = []schemas.Pin{pinOf(1, 9), pinOf(2, 8)}
		w.Setting(set)
		time.Sleep(2 * time.Minute)
		is("pinned elsewhere", 1, "left-behind")
		is("pinned elsewhere, and gone", 2)
		is("pinned elsewhere, and gone", 8, "report-only")
		deleteJob(t, test, 1)
		time.Sleep(20 * time.Minute)
		is("removed", 1)
		is("removed", 9, "report-only")
	})
}

// TestWhatIsHeldHidesNothingLeftBehind: a job stands at the id where it was brought before
// and at its new one, and the one that belongs to its old id is held. Edits of that one do
// not take the job that runs twice from the list.
func TestWhatIsHeldHidesNothingLeftBehind(t *testing.T) {
	t.Parallel()
	world(t, nil, func(w *e2e.World) {
		prod, test := w.Hosts["production"], w.AddHost("test")
		set := e2e.AllJobs(oneSetting, "production", "test", schemas.Keep)
		w.Setting(set)
		putJob(t, prod, 1, "one")
		w.StartProducer()
		w.StartConsumer()
		time.Sleep(time.Minute)
		old, _ := test.Server.Get(schemas.Job, jobID(1))
		set.Pins = []schemas.Pin{pinOf(1, 9)}
		w.Setting(set)
		time.Sleep(time.Minute)
		deleteJob(t, test, 1)
		time.Sleep(6 * time.Minute)
		if bodyOf(t, test, schemas.Job, jobID(9)) == nil {
			t.Fatal("the job is not at its new id")
		}
		set.Mode, set.Pins = schemas.ReportOnly, []schemas.Pin{pinOf(1, 9), pinOf(2, 1)}
		w.Setting(set)
		putJob(t, prod, 2, "two")
		time.Sleep(time.Minute)
		putJob(t, prod, 2, "two, edited")
		time.Sleep(time.Minute)
		if _, entries := w.Drift(oneSetting); len(entriesAt(entries, 1)) != 1 {
			t.Errorf("what is to come to id 1 is not held: %v", lines(entries))
		}
		if _, _, err := test.Server.Put(schemas.Job, old); err != nil { // somebody brings it back
			t.Fatal(err)
		}
		is := func(what string) {
			t.Helper()
			_, entries := w.Drift(oneSetting)
			if here := entriesAt(entries, 1); len(here) != 1 || here[0].Reason != "left-behind" || here[0].ID != jobID(1) {
				t.Errorf("%s: id 1 is listed as %v: %v", what, lines(here), lines(entries))
			}
		}
		time.Sleep(16 * time.Minute)
		is("brought back")
		putJob(t, prod, 2, "two, edited again")
		time.Sleep(2 * time.Minute)
		is("what belongs there was edited")
		time.Sleep(16 * time.Minute)
		is("audited again")
		deleteJob(t, test, 1)
		putJob(t, prod, 2, "two, edited once more")
		time.Sleep(2 * time.Minute)
		if _, entries := w.Drift(oneSetting); len(entriesAt(entries, 1)) != 1 || entriesAt(entries, 1)[0].Reason != "report-only" {
			t.Errorf("removed, but: %v", lines(entries))
		}
	})
}

// TestWhatIsTakenNoMoreIsNotHeld: a version is held when its setting is narrowed. It leaves
// the drift list, and is held again once the setting takes it again.
func TestWhatIsTakenNoMoreIsNotHeld(t *testing.T) {
	t.Parallel()
	world(t, nil, func(w *e2e.World) {
		prod := w.Hosts["production"]
		w.AddHost("test")
		set := e2e.AllJobs(oneSetting, "production", "test", schemas.Keep)
		w.Setting(set)
		putJob(t, prod, 1, "one")
		w.StartProducer()
		w.StartConsumer()
		time.Sleep(time.Minute)
		set.Mode = schemas.ReportOnly
		w.Setting(set)
		putJob(t, prod, 1, "one, edited")
		all := set.Rules[schemas.Job]
		for _, step := range []struct {
			what   string
			groups []string
			held   int
		}{{"edited", nil, 1}, {"narrowed", []string{"Production"}, 0}, {"widened", nil, 1}} {
			r := all
			r.Groups = step.groups
			set.Rules = map[schemas.Type]schemas.Rule{schemas.Job: r}
			w.Setting(set)
			time.Sleep(2 * time.Minute)
			if _, entries := w.Drift(oneSetting); len(entries) != step.held {
				t.Errorf("%s: %v, want %d", step.what, lines(entries), step.held)
			}
		}
	})
}

// TestAHeldObjectCountsOnce: what is held since an audit found it equal counts as different,
// and no more as equal, until it is dealt with.
func TestAHeldObjectCountsOnce(t *testing.T) {
	t.Parallel()
	world(t, nil, func(w *e2e.World) {
		prod := w.Hosts["production"]
		w.AddHost("test")
		set := e2e.AllJobs(oneSetting, "production", "test", schemas.Keep)
		w.Setting(set)
		for i := range 3 {
			putJob(t, prod, i+1, "as it was")
		}
		w.StartProducer()
		w.StartConsumer()
		time.Sleep(time.Minute)
		set.Mode = schemas.ReportOnly
		w.Setting(set)
		time.Sleep(time.Minute)
		is := func(what string, equal, different, target int) {
			t.Helper()
			d, _ := w.Drift(oneSetting)
			have := map[broker.Difference]int{}
			for _, c := range d.Counts {
				have[c.Difference] += c.Objects
			}
			if want := map[broker.Difference]int{broker.Equal: equal, broker.Different: different, broker.OnlyTarget: target}; have[broker.Equal] != equal || have[broker.Different] != different || have[broker.OnlyTarget] != target {
				t.Errorf("%s: %v, want %v", what, have, want)
			}
		}
		is("equal", 3, 0, 0)
		putJob(t, prod, 1, "edited")
		time.Sleep(time.Minute)
		is("one is held", 2, 1, 0)
		putJob(t, prod, 1, "edited again")
		time.Sleep(time.Minute)
		is("and again", 2, 1, 0)
		deleteJob(t, prod, 2)
		time.Sleep(time.Minute)
		is("a deletion is held", 1, 1, 1)
		putJob(t, prod, 1, "as it was")
		time.Sleep(time.Minute)
		is("what was held was undone", 2, 0, 1)
		time.Sleep(16 * time.Minute)
		is("audited again", 2, 0, 1)
	})
}
