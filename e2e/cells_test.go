package e2e_test

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/vcsync/vcsync/broker"
	"github.com/vcsync/vcsync/e2e"
	"github.com/vcsync/vcsync/schemas"
)

// cell is one cell of the first table of docs/settings.md.
type cell struct {
	occasion, source, target string
	rights                   schemas.Rights
	word                     string
	job                      int
}

// cells reads the table.
func cells(t *testing.T, occasions ...string) (out []cell) {
	t.Helper()
	text, err := os.ReadFile("../docs/settings.md")
	if err != nil {
		t.Fatal(err)
	}
	_, table, _ := strings.Cut(string(text), "<!-- rules -->")
	table, _, _ = strings.Cut(table, "<!-- end of rules -->")
	var head []string
	for line := range strings.Lines(table) {
		if !strings.HasPrefix(line, "|") || strings.HasPrefix(line, "|---") {
			continue
		}
		var cs []string
		for c := range strings.SplitSeq(strings.Trim(strings.TrimSpace(line), "|"), "|") {
			cs = append(cs, strings.TrimSpace(c))
		}
		if head == nil {
			head = cs
			continue
		}
		for i := 3; i < len(cs); i++ {
			rights, err := schemas.ParseRights(strings.ReplaceAll(head[i], ", ", ","))
			if err != nil {
				t.Fatal(err)
			}
			for _, o := range occasions {
				if o == cs[0] {
					out = append(out, cell{cs[0], cs[1], cs[2], rights, strings.Trim(cs[i], "*"), 1000 + len(out)})
				}
			}
		}
	}
	if len(out) == 0 {
		t.Fatal("docs/settings.md has no table of rules")
	}
	return out
}

// TestCellsOfTheTable runs every cell of the table for a first activation, for live
// changes and for Sync now through real servers: one job each, under a setting that lists
// it with the cell's boxes.
func TestCellsOfTheTable(t *testing.T) {
	t.Parallel()
	t.Run("live", func(t *testing.T) {
		t.Parallel()
		runCells(t, true, cells(t, "first activation", "live"))
	})
	t.Run("Sync now", func(t *testing.T) {
		t.Parallel()
		runCells(t, false, cells(t, "Sync now, replay"))
	})
}

func runCells(t *testing.T, live bool, all []cell) {
	synctest.Test(t, func(t *testing.T) {
		w := e2e.NewWorld(t)
		defer w.Close()
		prod, test := w.AddHost("production"), w.AddHost("test")
		brought := e2e.AllJobs("s", "production", "test", schemas.Keep)
		brought.Rules[schemas.Job] = schemas.Rule{Sync: schemas.SyncListed}
		asked := brought.Clone()
		list := func(s *schemas.Setting, c cell, r schemas.Rights) {
			rule := s.Rules[schemas.Job]
			rule.Objects = append(rule.Objects, schemas.ObjectRule{ID: jobID(c.job), Rights: r})
			s.Rules[schemas.Job] = rule
		}
		for _, c := range all {
			list(&asked, c, c.rights)
			if c.source == "new" && c.occasion != "first activation" {
				continue // born later
			}
			putJob(t, prod, c.job, "first")
			if c.source == "changed" || c.source == "unchanged" || c.source == "deleted" {
				list(&brought, c, schemas.Rights{New: true, Updated: true, Deleted: true})
			}
		}
		w.Setting(brought)
		w.StartProducer()
		w.StartConsumer()
		time.Sleep(2 * time.Minute)
		if puts, _ := test.Count(); puts != len(brought.Rules[schemas.Job].Objects) {
			t.Fatalf("%d jobs brought, want %d", puts, len(brought.Rules[schemas.Job].Objects))
		}
		w.StopConsumer(nil)

		deleted := 0
		for _, c := range all {
			want := "first"
			switch c.source {
			case "new":
				if c.occasion != "first activation" {
					putJob(t, prod, c.job, "first")
				}
			case "changed":
				putJob(t, prod, c.job, "second")
				want = "second"
			case "deleted", "deleted, never brought":
				deleteJob(t, prod, c.job)
				if deleted++; deleted%5 == 0 { // the airlock takes no more in a pass
					time.Sleep(time.Minute)
				}
			}
			switch c.target {
			case "absent":
				if c.source != "new" {
					deleteJob(t, test, c.job)
				}
			case "equal":
				putJob(t, test, c.job, want)
			case "different":
				if c.source == "new" || c.source == "deleted, never brought" {
					putJob(t, test, c.job, "of its own")
				}
			case "edited by hand":
				putJob(t, test, c.job, "by hand")
			}
		}
		time.Sleep(2 * time.Minute)
		test.Reset()
		asked.Active = live
		w.Setting(asked)
		w.StartConsumer()
		time.Sleep(2 * time.Minute)
		if !live {
			if puts, deletes := test.Count(); puts+deletes > 0 {
				t.Errorf("%d puts, %d deletes by a setting that is off", puts, deletes)
			}
			p, _ := w.Ask("s", broker.RunScope{})
			if end, _ := w.Approve(p); end.Result != broker.RunDone {
				t.Errorf("the run ended as %+v", end)
			}
		}

		wrote := map[schemas.ID][]string{}
		for _, x := range test.Seen() {
			what := x.Op
			for _, d := range []string{"first", "second"} {
				if strings.Contains(string(x.Body), `"Description":"`+d+`"`) {
					what += " " + d
				}
			}
			wrote[x.ID] = append(wrote[x.ID], what)
		}
		for _, c := range all {
			newest := map[bool]string{true: "second", false: "first"}[c.source == "changed"]
			want := map[string]string{"add": "[put " + newest + "]", "update": "[put " + newest + "]", "delete": "[delete]"}[c.word]
			if want == "" {
				want = "[]"
			}
			if have := fmt.Sprint(wrote[jobID(c.job)]); have != want {
				t.Errorf("%s, %s at the source, %s at the target, with %s: the table says %s, and the target got %s, want %s", c.occasion, c.source, c.target, c.rights, c.word, have, want)
			}
		}
		_, settings := w.Cons.Status()
		for _, s := range settings {
			if a := s.Accounting; live && a == nil || a != nil && a.Unaccounted != 0 {
				t.Errorf("the accounts: %+v", a)
			}
		}
		if len(test.Broken) > 0 {
			t.Error(test.Broken)
		}
	})
}
