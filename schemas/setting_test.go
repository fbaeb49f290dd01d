package schemas

import (
	"fmt"
	"reflect"
	"strings"
	"testing"
)

func TestWhatARuleTakes(t *testing.T) {
	all := Rights{New: true, Updated: true, Deleted: true}
	for _, c := range []struct {
		name  string
		rule  Rule
		id    ID
		want  Rights
		takes bool
	}{
		{"no rule takes nothing", Rule{}, "a", Rights{}, false},
		{"none takes nothing, whatever stands beside it", Rule{Sync: SyncNone, Rights: all, Objects: []ObjectRule{{ID: "a", Rights: all}}}, "a", Rights{}, false},
		{"all gives its rights to every object", Rule{Sync: SyncAll, Rights: Rights{Updated: true}}, "born-later", Rights{Updated: true}, true},
		{"all without a right takes nothing", Rule{Sync: SyncAll}, "a", Rights{}, false},
		{"a row beside all is an exception", Rule{Sync: SyncAll, Rights: all, Objects: []ObjectRule{{ID: "a", Rights: Rights{Updated: true}}}}, "a", Rights{Updated: true}, true},
		{"an exception without a right leaves the object out", Rule{Sync: SyncAll, Rights: all, Objects: []ObjectRule{{ID: "a"}}}, "a", Rights{}, true},
		{"an exception is none for others", Rule{Sync: SyncAll, Rights: all, Objects: []ObjectRule{{ID: "a"}}}, "b", all, true},
		{"the last of many rows is found", Rule{Sync: SyncListed, Objects: rows(1000)}, "row-0999", all, true},
		{"the first of many rows is found", Rule{Sync: SyncListed, Objects: rows(1000)}, "row-0000", all, true},
		{"what is not among many rows is not", Rule{Sync: SyncListed, Objects: rows(1000)}, "row-1000", Rights{}, true},
		{"listed gives each row its own rights", Rule{Sync: SyncListed, Objects: []ObjectRule{{ID: "b", Rights: all}, {ID: "a", Rights: Rights{Deleted: true}}}}, "a", Rights{Deleted: true}, true},
		{"listed gives nothing to objects born later", Rule{Sync: SyncListed, Objects: []ObjectRule{{ID: "a", Rights: all}}}, "born-later", Rights{}, true},
		{"listed with rows that are all unused takes nothing", Rule{Sync: SyncListed, Objects: []ObjectRule{{ID: "a"}}}, "a", Rights{}, false},
		{"an id matches in its canonical form only", Rule{Sync: SyncListed, Objects: []ObjectRule{{ID: lowGUID, Rights: all}}}, highGUID, Rights{}, true},
		{"an unknown mode takes nothing", Rule{Sync: "some", Rights: all}, "a", Rights{}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := Setting{Rules: map[Type]Rule{Job: c.rule}}
			if got := s.Rights(Job, Selected{ID: c.id}); got != c.want {
				t.Errorf("rights %s, want %s", got, c.want)
			}
			if s.MayTake(Job, c.id) != c.want.Use() {
				t.Errorf("may take it: %v, want %s", s.MayTake(Job, c.id), c.want)
			}
			if got := s.Rights(User, Selected{ID: c.id}); got.Use() {
				t.Errorf("another type gets %s", got)
			}
			if got := len(s.TakenTypes()) == 1; got != c.takes {
				t.Errorf("takes %v, want %v", s.TakenTypes(), c.takes)
			}
		})
	}
}

func TestWhatGroupsAndNamesTake(t *testing.T) {
	all, updated := Rights{New: true, Updated: true, Deleted: true}, Rights{Updated: true}
	both := Rule{Sync: SyncAll, Rights: all, Groups: []string{"Finance", "HR"}, Names: []string{"*report*"}, Objects: []ObjectRule{{ID: "never"}, {ID: "only", Rights: updated}}}
	for _, c := range []struct {
		what    string
		rule    Rule
		o       Selected
		want    Rights
		mayTake bool // it would be taken under another name
	}{
		{"in a group", both, Selected{"a", "Nightly", "Finance"}, all, true},
		{"in a group, whatever its case", both, Selected{"a", "Nightly", " hr"}, all, true},
		{"in another group", both, Selected{"a", "Nightly", "Finance 2"}, Rights{}, true},
		{"of a name in another group", both, Selected{"a", "Daily Report", "Sales"}, all, true},
		{"of a name without a group", both, Selected{"a", "REPORT", ""}, all, true},
		{"neither", both, Selected{"a", "Repo", "Sales"}, Rights{}, true},
		{"a row wins over the group", both, Selected{"never", "Daily Report", "Finance"}, Rights{}, false},
		{"a row wins over the lack of one", both, Selected{"only", "x", "Sales"}, updated, true},
		{"groups alone", Rule{Sync: SyncAll, Rights: all, Groups: []string{"Finance"}}, Selected{"a", "Finance", "Sales"}, Rights{}, true},
		{"names alone", Rule{Sync: SyncAll, Rights: all, Names: []string{"Finance"}}, Selected{"a", "x", "Finance"}, Rights{}, true},
		{"neither groups nor names", Rule{Sync: SyncAll, Rights: all}, Selected{"a", "", ""}, all, true},
		{"a pattern beside listed takes nothing", Rule{Sync: SyncListed, Names: []string{"*"}}, Selected{"a", "x", ""}, Rights{}, false},
		{"a name longer than a header holds", Rule{Sync: SyncAll, Rights: all, Names: []string{strings.Repeat("x", 199) + "…"}}, Selected{"a", strings.Repeat("x", 500), ""}, all, true},
	} {
		t.Run(c.what, func(t *testing.T) {
			s := Setting{Rules: map[Type]Rule{Job: c.rule}}
			if got := s.Rights(Job, c.o); got != c.want {
				t.Errorf("rights %s, want %s", got, c.want)
			}
			if got := s.MayTake(Job, c.o.ID); got != c.mayTake {
				t.Errorf("may take %v, want %v", got, c.mayTake)
			}
		})
	}
}

// rows returns n rows in order, as Normalize leaves them.
func rows(n int) []ObjectRule {
	var out []ObjectRule
	for i := range n {
		out = append(out, ObjectRule{ID: ID(fmt.Sprintf("row-%04d", i)), Rights: Rights{New: true, Updated: true, Deleted: true}})
	}
	return out
}

func TestTakenTypesStandInTheOrderOfTheTabs(t *testing.T) {
	s := Setting{Rules: map[Type]Rule{}}
	for _, x := range Types() {
		s.Rules[x] = Rule{Sync: SyncAll, Rights: Rights{New: true}}
	}
	if got := s.TakenTypes(); !reflect.DeepEqual(got, Types()) {
		t.Errorf("%v, want %v", got, Types())
	}
	if got := (Setting{}).TakenTypes(); got != nil {
		t.Errorf("no rules take %v", got)
	}
}

func TestNormalizeIsAFixpoint(t *testing.T) {
	s := aSetting()
	s.Policy = ""
	s.Rules[User] = Rule{Sync: SyncListed, Objects: []ObjectRule{{ID: "b"}, {ID: "a"}, {ID: "b", Name: "second"}}}
	s.Rules[Certificate] = Rule{}
	s.Normalize()
	once := s.Clone()
	s.Normalize()
	if !reflect.DeepEqual(s, once) {
		t.Errorf("twice\n%+v\nonce\n%+v", s, once)
	}
	if rows := s.Rules[User].Objects; rows[0].ID != "a" || rows[2].Name != "second" {
		t.Errorf("rows %v are not in a stable order by id", rows)
	}
	if _, ok := s.Rules[Certificate]; ok || s.Policy != Keep {
		t.Errorf("an empty rule stays, or the policy is %q", s.Policy)
	}
}
