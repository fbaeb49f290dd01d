package e2e_test

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/vcsync/vcsync/consumer"
	"github.com/vcsync/vcsync/e2e"
	"github.com/vcsync/vcsync/schemas"
)

// waiting returns how many objects of a setting wait for its window, and that nothing of
// it is parked.
func waiting(t *testing.T, w *e2e.World, setting schemas.Slug) int {
	t.Helper()
	_, ss := w.Cons.Status()
	i := slices.IndexFunc(ss, func(s consumer.SettingStatus) bool { return s.Setting == setting })
	if ss[i].Parked != 0 || ss[i].LastError != "" || ss[i].Waiting > 0 && ss[i].State != "waiting for its sync window" {
		t.Errorf("while it waits: %+v", ss[i])
	}
	return ss[i].Waiting
}

// clock sleeps until a time of the day, the next one if that is past.
func clock(hour, minute, second int) {
	now := time.Now().UTC()
	at := time.Date(now.Year(), now.Month(), now.Day(), hour, minute, second, 0, time.UTC)
	if !at.After(now) {
		at = at.AddDate(0, 0, 1)
	}
	time.Sleep(time.Until(at))
}

func TestAWriteWaitsForItsWindow(t *testing.T) {
	t.Parallel()
	world(t, []schemas.Slug{"test"}, func(w *e2e.World) {
		const setting = "production-to-test"
		prod, test := w.Hosts["production"], w.Hosts["test"]
		s := e2e.AllJobs(setting, "production", "test", schemas.Keep)
		s.Windows = schemas.Windows{{Kind: schemas.AllowWindow, Schedule: "30 0 * * *", Duration: "10m"}}
		w.Setting(s)
		w.Poll = 2 * time.Minute
		for i := range 5 {
			putJob(t, prod, i, "first")
		}
		w.StartProducer()
		w.StartConsumer()
		balanced(t, w, w.Cons, setting, "five jobs wait", 5, 0, 0, 0, 0, 5)
		clock(0, 15, 0)
		putJob(t, prod, 1, "second")
		w.Crash()
		w.StartProducer()
		w.StartConsumer()
		clock(0, 29, 58)
		if puts, _ := test.Count(); puts != 0 || waiting(t, w, setting) != 5 {
			t.Errorf("a second before it opens: %d writes, %d wait", puts, waiting(t, w, setting))
		}
		clock(0, 30, 10)
		if puts, _ := test.Count(); puts != 5 || waiting(t, w, setting) != 0 || !holdsJob(test, 1, "second") {
			t.Errorf("ten seconds after: %d writes, %d wait", puts, waiting(t, w, setting))
		}
		balanced(t, w, w.Cons, setting, "all are applied", 6, 5, 1, 0, 0, 0)

		// After the window everything waits again, whatever it is.
		clock(0, 40, 0)
		test.Reset()
		putJob(t, prod, 1, "third")
		deleteJob(t, prod, 2)
		putJob(t, prod, 7, "new")
		clock(0, 46, 0)
		if puts, deletes := test.Count(); puts+deletes != 0 || waiting(t, w, setting) != 3 {
			t.Errorf("after it closed: %d writes, %d deletions, %d wait", puts, deletes, waiting(t, w, setting))
		}
		// What was changed back meanwhile needs no write, and waits no more.
		putJob(t, prod, 1, "second")
		time.Sleep(5 * time.Minute)
		if waiting(t, w, setting) != 2 {
			t.Errorf("%d wait after one was changed back, want 2", waiting(t, w, setting))
		}

		// Another setting onto the same target is open: what it takes goes.
		other := e2e.AllJobs("open", "production", "test", schemas.Keep)
		other.Rules[schemas.Job] = schemas.Rule{Sync: schemas.SyncAll, Rights: schemas.Rights{New: true}}
		w.Setting(other)
		time.Sleep(10 * time.Second)
		if puts, deletes := test.Count(); puts != 1 || deletes != 0 || !holdsJob(test, 7, "new") {
			t.Errorf("a second setting that is open: %d writes, %d deletions", puts, deletes)
		}
		// The setting is changed: what waits goes at once.
		s.Windows = schemas.Windows{{Kind: schemas.DenyWindow, Schedule: "0 1 * * *", Duration: "13m"}}
		w.Setting(s)
		time.Sleep(10 * time.Second)
		if _, deletes := test.Count(); deletes != 1 || waiting(t, w, setting) != 0 {
			t.Errorf("after the setting was changed: %d deletions, %d wait", deletes, waiting(t, w, setting))
		}

		// No write at all while a window of deny is open, also of edits in a long row.
		w.Do(func(ctx context.Context) error {
			snap, err := w.Broker.Snapshot(ctx)
			if err != nil {
				return err
			}
			return w.Broker.DeleteSetting(ctx, "open", snap.Settings["open"].Revision)
		})
		clock(1, 0, 0)
		test.Reset()
		for i := range 4 {
			putJob(t, prod, 1, fmt.Sprint("edit ", i))
			time.Sleep(3 * time.Minute)
		}
		clock(1, 14, 0)
		seen := test.Seen()
		if len(seen) != 1 || seen[0].At.UTC().Minute() != 13 || !holdsJob(test, 1, "edit 3") {
			t.Errorf("%d writes over the window, want one, of the last edit, after 01:13", len(seen))
		}
	})
}
