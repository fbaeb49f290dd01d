package schemas

import (
	"fmt"
	"reflect"
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
			if got := s.Rights(Job, c.id); got != c.want {
				t.Errorf("rights %s, want %s", got, c.want)
			}
			if got := s.Rights(User, c.id); got.Use() {
				t.Errorf("another type gets %s", got)
			}
			if got := len(s.TakenTypes()) == 1; got != c.takes {
				t.Errorf("takes %v, want %v", s.TakenTypes(), c.takes)
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
