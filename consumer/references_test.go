package consumer

import (
	"slices"
	"testing"

	"github.com/vcsync/vcsync/schemas"
)

func TestInACycleSomebodyGoesFirst(t *testing.T) {
	key := func(id schemas.ID) objectKey { return objectKey{schemas.Job, id} }
	var w waits
	for _, c := range []struct {
		who  schemas.ID
		on   []objectKey
		left []objectKey
	}{
		{"a", []objectKey{key("b")}, []objectKey{key("b")}},
		{"b", []objectKey{key("c"), key("x")}, []objectKey{key("c"), key("x")}},
		{"c", []objectKey{key("a"), key("x")}, []objectKey{key("x")}}, // a waits for b, and b for c
		{"x", []objectKey{key("x"), key("c")}, nil},
	} {
		if got := w.set(key(c.who), c.on); !slices.Equal(got, c.left) {
			t.Errorf("%s waits for %v, want %v", c.who, got, c.left)
		}
	}
	for _, c := range []struct {
		who    schemas.ID
		waited []schemas.ID
	}{{"x", []schemas.ID{"c"}}, {"c", []schemas.ID{"b"}}, {"b", []schemas.ID{"a"}}, {"a", nil}} {
		var got []schemas.ID
		for _, k := range w.settled(key(c.who)) {
			got = append(got, k.id)
		}
		if slices.Sort(got); !slices.Equal(got, c.waited) {
			t.Errorf("for %s waited %v, want %v", c.who, got, c.waited)
		}
	}
}

func TestSameAccount(t *testing.T) {
	for _, c := range []struct {
		a, b string
		same bool
	}{
		{"admin", "Admin", true}, {`CONTOSO\sync`, "sync", true}, {"sync@contoso.com", `contoso.com\SYNC`, true}, {" sync ", "sync", true},
		{`CONTOSO\sync`, `FABRIKAM\sync`, false}, {"sync", "sync2", false}, {"", "", false}, {`CONTOSO\`, `CONTOSO\`, false},
	} {
		if got := sameAccount(c.a, c.b); got != c.same {
			t.Errorf("%q and %q: %v, want %v", c.a, c.b, got, c.same)
		}
	}
}
