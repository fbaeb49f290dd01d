package decide_test

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/vcsync/vcsync/consumer/decide"
	"github.com/vcsync/vcsync/schemas"
)

var update = flag.Bool("update", false, "write the tables of docs/settings.md anew")

const doc = "../../docs/settings.md"

// columns are the rules of the table, by the rights that they give for the object.
func columns() (out []schemas.Rights) {
	for _, s := range []string{"none", "new", "updated", "deleted", "new,updated", "new,deleted", "updated,deleted", "new,updated,deleted"} {
		r, err := schemas.ParseRights(s)
		if err != nil {
			panic(err)
		}
		out = append(out, r)
	}
	return out
}

// row is one situation in the words of the table.
type row struct {
	occasion, source, target string
	sit                      decide.Situation
}

func rows() (out []row) {
	occasions := []struct {
		name string
		is   []decide.Occasion
	}{{"first activation", []decide.Occasion{decide.Live}}, {"live", []decide.Occasion{decide.Live}}, {"audit", []decide.Occasion{decide.Audit}},
		{"Sync now, replay", []decide.Occasion{decide.SyncNow, decide.Replay}}}
	situations := []struct {
		source, target string
		sit            decide.Situation
	}{
		{"new", "absent", decide.Situation{Source: decide.Present, Target: decide.Absent}},
		{"new", "equal", decide.Situation{Source: decide.Present, Target: decide.Equal}},
		{"new", "different", decide.Situation{Source: decide.Present, Target: decide.Different}},
		{"deleted, never brought", "different", decide.Situation{Source: decide.Deleted, Target: decide.Different}},
		{"changed", "absent", decide.Situation{Source: decide.Present, Target: decide.Absent, Record: decide.Brought, Ours: true, Edited: true}},
		{"changed", "equal", decide.Situation{Source: decide.Present, Target: decide.Equal, Record: decide.Brought, Ours: true, Edited: true}},
		{"changed", "different", decide.Situation{Source: decide.Present, Target: decide.Different, Record: decide.Brought, Ours: true, AsLeft: true}},
		{"changed", "edited by hand", decide.Situation{Source: decide.Present, Target: decide.Different, Record: decide.Brought, Ours: true, Edited: true}},
		{"unchanged", "absent", decide.Situation{Source: decide.Present, Target: decide.Absent, Record: decide.Brought, Ours: true, Age: decide.Same, Edited: true}},
		{"unchanged", "equal", decide.Situation{Source: decide.Present, Target: decide.Equal, Record: decide.Brought, Ours: true, Age: decide.Same, AsLeft: true}},
		{"unchanged", "edited by hand", decide.Situation{Source: decide.Present, Target: decide.Different, Record: decide.Brought, Ours: true, Age: decide.Same, Edited: true}},
		{"deleted", "absent", decide.Situation{Source: decide.Deleted, Target: decide.Absent, Record: decide.Brought, Ours: true, Edited: true}},
		{"deleted", "as vcsync left it", decide.Situation{Source: decide.Deleted, Target: decide.Different, Record: decide.Brought, Ours: true, AsLeft: true}},
		{"deleted", "edited by hand", decide.Situation{Source: decide.Deleted, Target: decide.Different, Record: decide.Brought, Ours: true, Edited: true}},
	}
	for i, o := range occasions {
		for j, s := range situations {
			if i == 0 && j > 3 {
				break // nothing was brought before
			}
			for _, is := range o.is {
				s.sit.Occasion = is
				out = append(out, row{o.name, s.source, s.target, s.sit})
			}
		}
	}
	return out
}

// word is a decision as a cell shows it.
func word(d decide.Decision) string {
	switch {
	case d.Act.Writes():
		return "**" + string(d.Act) + "**"
	case d.Act == decide.Nothing:
		return string(d.Reason)
	case d.Act == decide.Adopt:
		return "adopt"
	}
	return fmt.Sprintf("%s (%s)", d.Act, d.Reason)
}

func ruleTable() [][]string {
	head := []string{"Occasion", "At the source", "At the target"}
	for _, c := range columns() {
		head = append(head, strings.ReplaceAll(c.String(), ",", ", "))
	}
	out := [][]string{head}
	for _, r := range rows() {
		line := []string{r.occasion, r.source, r.target}
		for _, c := range columns() {
			r.sit.Rights = c
			line = append(line, word(decide.Decide(r.sit)))
		}
		if last := out[len(out)-1]; strings.Join(last, "|") != strings.Join(line, "|") { // Sync now and replay
			out = append(out, line)
		}
	}
	return out
}

// policyTable shows what the policies make of a write that the rules ask for.
func policyTable() [][]string {
	all := schemas.Rights{New: true, Updated: true, Deleted: true}
	plain := decide.Situation{Rights: all, Source: decide.Present, Target: decide.Different, Record: decide.Brought, Ours: true, AsLeft: true}
	edited := decide.Situation{Rights: all, Source: decide.Present, Target: decide.Different, Record: decide.Brought, Ours: true, Edited: true}
	goneByHand := edited
	goneByHand.Target = decide.Absent
	deleted := plain
	deleted.Source = decide.Deleted
	deletedEdited := edited
	deletedEdited.Source = decide.Deleted
	drift := edited
	drift.Age = decide.Same
	policies := []struct {
		name string
		set  func(*decide.Situation)
	}{
		{"all defaults", func(*decide.Situation) {}},
		{"edits at the target: keep", func(s *decide.Situation) { s.TargetEdits = schemas.KeepEdits }},
		{"edits at the target: park", func(s *decide.Situation) { s.TargetEdits = schemas.ParkEdits }},
		{"edits at the target: park, and a person retries", func(s *decide.Situation) { s.TargetEdits, s.Asked = schemas.ParkEdits, true }},
		{"drift: heal", func(s *decide.Situation) { s.Drift = schemas.DriftHeal }},
		{"drift: heal, edits at the target: keep", func(s *decide.Situation) { s.Drift, s.TargetEdits = schemas.DriftHeal, schemas.KeepEdits }},
		{"mode: approve", func(s *decide.Situation) { s.Mode = schemas.Approve }},
		{"mode: approve, and a person has approved it", func(s *decide.Situation) { s.Mode, s.Approved = schemas.Approve, true }},
		{"mode: report", func(s *decide.Situation) { s.Mode, s.Approved = schemas.ReportOnly, true }},
		{"other versions of VisualCron", func(s *decide.Situation) { s.OtherVersions = true }},
		{"other versions of VisualCron, versions: any", func(s *decide.Situation) { s.OtherVersions, s.Versions = true, schemas.AnyVersions }},
		{"safe mode", func(s *decide.Situation) { s.SafeMode = true }},
		{"safe mode, and a person has approved it", func(s *decide.Situation) { s.SafeMode, s.Approved = true, true }},
		{"outside of the sync windows", func(s *decide.Situation) { s.WindowShut = true }},
		{"more deletions than the measure", func(s *decide.Situation) { s.Beyond = true }},
		{"others at the target refer to it", func(s *decide.Situation) { s.InUse = true }},
		{"its deletion is rejected", func(s *decide.Situation) { s.Rejected = true }},
		{"more than the measure or rejected, and its deletion is approved", func(s *decide.Situation) { s.Beyond, s.Rejected, s.Cleared = true, true, true }},
		{"its deletion is approved, and others refer to it than were shown", func(s *decide.Situation) { s.InUse, s.Cleared = true, true }},
		{"grace", func(s *decide.Situation) { s.Grace = decide.GraceBegins }},
		{"grace, switched off", func(s *decide.Situation) { s.Grace = decide.InGrace }},
		{"grace, and its deletion is approved", func(s *decide.Situation) { s.Grace, s.Cleared = decide.GraceBegins, true }},
	}
	cases := []struct {
		name     string
		sit      decide.Situation
		occasion decide.Occasion
	}{
		{"changed, as vcsync left it", plain, decide.Live},
		{"changed, edited by hand", edited, decide.Live},
		{"changed, deleted by hand", goneByHand, decide.Live},
		{"deleted, as vcsync left it", deleted, decide.Live},
		{"deleted, edited by hand", deletedEdited, decide.Live},
		{"unchanged, edited by hand: audit", drift, decide.Audit},
		{"unchanged, edited by hand: Sync now, replay", drift, decide.SyncNow},
		{"changed: Sync now, replay", plain, decide.SyncNow},
	}
	head := []string{"Policy"}
	for _, c := range cases {
		head = append(head, c.name)
	}
	out := [][]string{head}
	for _, p := range policies {
		line := []string{p.name}
		for _, c := range cases {
			c.sit.Occasion = c.occasion
			p.set(&c.sit)
			line = append(line, word(decide.Decide(c.sit)))
		}
		out = append(out, line)
	}
	return out
}

func reasonTable() [][]string {
	out := [][]string{{"Word", "Why", "What to do"}}
	for _, r := range decide.Reasons() {
		out = append(out, []string{string(r), r.Text(), r.Fix()})
	}
	return out
}

// TestEveryCellOfTheTable compares the tables of docs/settings.md with what Decide says,
// cell by cell. Who changes what is decided changes the table with -update, and sees in
// the diff which cells that are.
func TestEveryCellOfTheTable(t *testing.T) {
	text, err := os.ReadFile(doc)
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string][][]string{"rules": ruleTable(), "policies": policyTable(), "reasons": reasonTable()} {
		begin, end := "<!-- "+name+" -->\n", "<!-- end of "+name+" -->"
		before, rest, ok := strings.Cut(string(text), begin)
		table, after, ok2 := strings.Cut(rest, end)
		if !ok || !ok2 {
			t.Errorf("%s has no table %q", doc, name)
			continue
		}
		if *update {
			text = []byte(before + begin + markdown(want) + end + after)
			continue
		}
		have := parse(table)
		if len(have) != len(want) {
			t.Errorf("table %s has %d rows, want %d", name, len(have), len(want))
			continue
		}
		for i, line := range want {
			for j, cell := range line {
				if j >= len(have[i]) || have[i][j] != cell {
					t.Errorf("table %s, row %v, column %q: the page says %q, the code %q", name, line[:min(3, len(line))], want[0][j], have[i], cell)
				}
			}
		}
	}
	if *update {
		if err := os.WriteFile(doc, text, 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

func markdown(table [][]string) string {
	var b strings.Builder
	for i, line := range table {
		b.WriteString("| " + strings.Join(line, " | ") + " |\n")
		if i == 0 {
			b.WriteString(strings.Repeat("|---", len(line)) + "|\n")
		}
	}
	return b.String()
}

func parse(table string) (out [][]string) {
	for line := range strings.Lines(table) {
		line = strings.TrimSpace(line)
		if !strings.HasPrefix(line, "|") || strings.HasPrefix(line, "|---") {
			continue
		}
		var cells []string
		for c := range strings.SplitSeq(strings.Trim(line, "|"), "|") {
			cells = append(cells, strings.TrimSpace(c))
		}
		out = append(out, cells)
	}
	return out
}

// TestWithoutTheTargetNothingElseIsSaid: what is decided before the target is asked
// holds whatever the target has, over every situation there is.
func TestWithoutTheTargetNothingElseIsSaid(t *testing.T) {
	looked, said := 0, 0
	each(func(s decide.Situation) {
		blind := s
		blind.Target, blind.BuiltIn, blind.AsLeft, blind.Edited = decide.Unread, false, false, false
		d := decide.Decide(blind)
		switch {
		case s.Target == decide.Unread:
		case d.Act == decide.Look:
			looked++
			if now := decide.Decide(s); now.Act == decide.Look {
				t.Fatalf("%+v: asks for the target again", s)
			}
		default:
			said++
			if now := decide.Decide(s); now != d {
				t.Fatalf("%+v: %v without the target, %v with it", s, d, now)
			}
		}
		if d := decide.Decide(s); d.Reason.Text() == "" {
			t.Fatalf("%+v: no words for %q", s, d.Reason)
		}
	})
	if looked == 0 || said == 0 {
		t.Errorf("%d looks, %d answers without one", looked, said)
	}
}

// each calls f with every situation that matters: all of what was found, under few
// settings.
func each(f func(decide.Situation)) {
	bit := func(n, i int) bool { return n>>i&1 == 1 }
	for _, rights := range columns() {
		for n := range 1 << 8 {
			for o := decide.Live; o <= decide.Replay; o++ {
				for src := decide.Never; src <= decide.Deleted; src++ {
					for tg := decide.Unread; tg <= decide.Different; tg++ {
						for rec := decide.NoRecord; rec <= decide.Removed; rec++ {
							for age := decide.Older; age <= decide.Newer; age++ {
								f(decide.Situation{Elsewhere: decide.Elsewhere((n + int(age) + int(rec)) % 3), Occasion: o, Rights: rights, Source: src, Target: tg, Record: rec, Age: age, RemovesItself: bit(n, 0), BuiltIn: bit(n, 1),
									AsLeft: bit(n, 2), Edited: bit(n, 3), Ours: bit(n, 4), Unfinished: bit(n, 5), MayHaveRun: bit(n, 6), TargetEdits: schemas.ParkEdits, Asked: bit(n, 7)})
							}
						}
					}
				}
			}
		}
	}
}
