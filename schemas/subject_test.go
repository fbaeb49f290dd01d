package schemas

import (
	"errors"
	"strings"
	"testing"
)

func TestSubjects(t *testing.T) {
	k := Key{Source: "production", Type: Variable, Token: ID("a b").Token()}
	for _, c := range []struct{ name, got, want string }{
		{"an event's subject", k.EventSubject(Deleted), "vcsync.ev.production.Variable.deleted.a=20b"},
		{"a state's subject", k.StateSubject(), "vcsync.st.production.Variable.a=20b"},
		{"all kinds of one object", k.EventFilter(), "vcsync.ev.production.Variable.*.a=20b"},
		{"all states of a source", SourceStateFilter("production"), "vcsync.st.production.>"},
		{"all states of a type", TypeStateFilter("production", Job), "vcsync.st.production.Job.*"},
		{"all events", EventsFilter("", "", ""), EventSubjects},
		{"the events of a source", EventsFilter("a", "", ""), "vcsync.ev.a.*.*.*"},
		{"the events of a type and a kind", EventsFilter("", Job, Added), "vcsync.ev.*.Job.added.*"},
		{"a key in a message", k.String(), "production/Variable/a=20b"},
	} {
		if c.got != c.want {
			t.Errorf("%s: %s, want %s", c.name, c.got, c.want)
		}
	}
}

// The state stream's subject is made by the server, from StateTransform.
func TestTheTransformMakesStateSubjects(t *testing.T) {
	k := Key{Source: "production", Type: Job, Token: lowGUID}
	parts := strings.Split(k.EventSubject(Updated), ".")[2:]
	got := StateTransform
	for i, p := range parts {
		got = strings.ReplaceAll(got, "{{wildcard("+string(rune('1'+i))+")}}", p)
	}
	if got != k.StateSubject() {
		t.Errorf("the server makes %s, want %s", got, k.StateSubject())
	}
	if strings.Count(EventSubjects, "*") != 4 || strings.Count(StateSubjects, "*") != 3 {
		t.Error("the filters do not have one wildcard per level")
	}
}

var badSubjects = []struct{ name, subject string }{
	{"nothing", ""},
	{"another root", "xcsync.ev.a.Job.added.x"},
	{"the root in another case", "Vcsync.ev.a.Job.added.x"},
	{"a root with more before it", "x.vcsync.ev.a.Job.added.x"},
	{"an event without the root", "a.Job.added.x"},
	{"a state without the root", "a.Job.x"},
	{"no object", "vcsync.ev.a.Job.added"},
	{"an empty object", "vcsync.ev.a.Job.added."},
	{"an empty source", "vcsync.ev..Job.added.x"},
	{"one level too many", "vcsync.ev.a.Job.added.x.y"},
	{"a source in upper case", "vcsync.ev.A.Job.added.x"},
	{"a type in the plural", "vcsync.ev.a.Jobs.added.x"},
	{"a right for a kind", "vcsync.ev.a.Job.new.x"},
	{"kind and type exchanged", "vcsync.ev.a.added.Job.x"},
	{"a wildcard for the object", "vcsync.ev.a.Job.added.*"},
	{"a wildcard for the kind", "vcsync.ev.a.Job.*.x"},
	{"a token that no id makes", "vcsync.ev.a.Job.added.=41"},
	{"a state without an object", "vcsync.st.a.Job"},
	{"a state with a kind", "vcsync.st.a.Job.added.x"},
	{"a state of an upper-case GUID", "vcsync.st.a.Job." + highGUID},
	{"a state with a blank behind", "vcsync.st.a.Job.x "},
	{"the prefix alone", "vcsync.st."},
}

func TestParseSubjectsRefuse(t *testing.T) {
	for _, c := range badSubjects {
		t.Run(c.name, func(t *testing.T) {
			if k, kind, err := ParseEventSubject(c.subject); !errors.Is(err, ErrSubject) || k != (Key{}) || kind != "" {
				t.Errorf("as an event %v %v, error %v, want ErrSubject", k, kind, err)
			}
			if k, err := ParseStateSubject(c.subject); !errors.Is(err, ErrSubject) || k != (Key{}) {
				t.Errorf("as a state %v, error %v, want ErrSubject", k, err)
			}
		})
	}
}

func FuzzParseStateSubject(f *testing.F) {
	f.Add("vcsync.st.production.Job." + lowGUID)
	f.Add("vcsync.st.production.Variable.=2E=2E")
	for _, c := range badSubjects {
		f.Add(c.subject)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if k, err := ParseStateSubject(s); err == nil && k.StateSubject() != s {
			t.Fatalf("round trip: %q became %q", s, k.StateSubject())
		}
	})
}

func FuzzParseEventSubject(f *testing.F) {
	f.Add("vcsync.ev.production.Job.added." + lowGUID)
	f.Add("vcsync.ev.a.ServerSettings.deleted.server")
	for _, c := range badSubjects {
		f.Add(c.subject)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if k, kind, err := ParseEventSubject(s); err == nil && k.EventSubject(kind) != s {
			t.Fatalf("round trip: %q became %q", s, k.EventSubject(kind))
		}
	})
}
