package e2e_test

import (
	"bytes"
	"fmt"
	"testing"
	"time"

	"github.com/vcsync/vcsync/e2e"
	"github.com/vcsync/vcsync/schemas"
)

// groupJob puts a job of a group.
func groupJob(t testing.TB, h *e2e.Host, i int, group, description string) {
	t.Helper()
	body := fmt.Appendf(nil, `{"Id":%q,"Name":"Job %d","Description":%q,"Group":%q,"Stats":{"Active":false},"Tasks":[],"Triggers":[]}`, jobID(i), i, description, group)
	if _, _, err := h.Server.Put(schemas.Job, body); err != nil {
		t.Fatal(err)
	}
}

// holdsJob tells whether a server has a job with that description.
func holdsJob(h *e2e.Host, i int, description string) bool {
	body, there := h.Server.Get(schemas.Job, jobID(i))
	return there && bytes.Contains(body, []byte(`"`+description+`"`))
}

func TestWhatLeavesTheGroupIsLeftAlone(t *testing.T) {
	t.Parallel()
	world(t, []schemas.Slug{"test"}, func(w *e2e.World) {
		const setting = "production-to-test"
		prod, test := w.Hosts["production"], w.Hosts["test"]
		s := e2e.AllJobs(setting, "production", "test", schemas.Keep)
		rule := s.Rules[schemas.Job]
		rule.Groups, rule.Names = []string{"finance"}, []string{"job 7*"}
		rule.Objects = []schemas.ObjectRule{{ID: jobID(3)}}
		s.Rules[schemas.Job] = rule
		w.Setting(s)
		for i, group := range []string{"Finance", "Finance", "Sales", "Finance"} {
			groupJob(t, prod, i, group, "first")
		}
		groupJob(t, prod, 7, "Sales", "first")
		w.StartProducer()
		w.StartConsumer()
		balanced(t, w, w.Cons, setting, "two of the group, one of the name, one of another group, and one that its row leaves out", 5, 3, 0, 2, 0, 0)
		for i, want := range map[int]bool{0: true, 1: true, 2: false, 3: false, 7: true} {
			if holdsJob(test, i, "first") != want {
				t.Errorf("job %d at the target: %v, want %v", i, !want, want)
			}
		}

		// What leaves the group stays as it is, whatever becomes of it at the source.
		test.Reset()
		groupJob(t, prod, 0, "Sales", "second")
		groupJob(t, prod, 1, "Sales", "second")
		balanced(t, w, w.Cons, setting, "two leave the group", 7, 3, 0, 4, 0, 0)
		deleteJob(t, prod, 0)
		balanced(t, w, w.Cons, setting, "and one of these is deleted", 8, 3, 0, 5, 0, 0)
		w.Crash()
		w.StartProducer()
		w.StartConsumer()
		balanced(t, w, w.Cons, setting, "after a crash", 8, 3, 0, 5, 0, 0)
		if puts, deletes := test.Count(); puts+deletes != 0 || !holdsJob(test, 0, "first") || !holdsJob(test, 1, "first") {
			t.Errorf("%d writes and %d deletions of what left the group", puts, deletes)
		}
		if a := account(t, w, w.Cons, setting); a.Left != 2 || len(a.LeftObjects) != 2 || a.LeftObjects[0] != "Job/"+string(jobID(0)) {
			t.Errorf("left alone: %d, %v, want jobs 0 and 1", a.Left, a.LeftObjects)
		}

		// What comes back, or comes in, is taken.
		groupJob(t, prod, 1, "FINANCE", "third")
		groupJob(t, prod, 2, "Finance", "second")
		time.Sleep(2 * time.Minute)
		if !holdsJob(test, 1, "third") || !holdsJob(test, 2, "second") {
			t.Error("what came into the group has not arrived")
		}
		// A wider setting brings what is there without an edit, and a narrower one takes
		// nothing away.
		rule.Groups = []string{"sales"}
		s.Rules[schemas.Job] = rule
		w.Setting(s)
		groupJob(t, prod, 1, "Finance", "fourth")
		deleteJob(t, prod, 2)
		time.Sleep(2 * time.Minute)
		if !holdsJob(test, 1, "third") || !holdsJob(test, 2, "second") {
			t.Error("a narrower setting took something away or still follows")
		}
		if a := account(t, w, w.Cons, setting); a.Left != 2 {
			t.Errorf("left alone: %d, %v, want jobs 1 and 2", a.Left, a.LeftObjects)
		}
	})
}
