package conformance

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vcsync/vcsync/schemas"
	"github.com/vcsync/vcsync/visualcron"
)

// Expected says what the methods of a connector come to on a server that
// misbehaves. Watch is judged by Run alone: its silence is one of minutes.
type Expected struct {
	// Known is the class of error by name of the method, of a connector that has
	// spoken to the server before; no class is no error.
	Known map[string]visualcron.Class
	// Fresh is the same of a connector that meets the server like this; nil where it
	// is equal.
	Fresh map[string]visualcron.Class
	// Lands: a write has its effect in spite of its error, at once or soon.
	Lands bool
	// Unseen: the object is there and does not show.
	Unseen bool
	// AnyList: a listing may be refused or not, but is never shown as complete with
	// an error.
	AnyList bool
}

// All gives every method but Watch one class.
func All(c visualcron.Class) map[string]visualcron.Class {
	m := map[string]visualcron.Class{}
	for _, call := range calls() {
		m[call.name] = c
	}
	return m
}

// String is for names of tests.
func (e Expected) String() string {
	tell := func(m map[string]visualcron.Class) string {
		var names []string
		for _, call := range calls() {
			if m[call.name] != "" {
				names = append(names, call.name+" is "+string(m[call.name]))
			}
		}
		if len(names) == 0 {
			return "all goes well"
		}
		if len(names) == len(calls()) && len(slices.Compact(slices.Sorted(maps.Values(m)))) == 1 {
			return "all is " + string(m[calls()[0].name])
		}
		return strings.Join(names, ", ")
	}
	out := tell(e.Known)
	if e.Fresh != nil {
		out += "; at first contact " + tell(e.Fresh)
	}
	for _, also := range []struct {
		is   bool
		text string
	}{{e.Lands, "writes land all the same"}, {e.Unseen, "objects do not show"}, {e.AnyList, "a listing may be refused"}} {
		if also.is {
			out += "; " + also.text
		}
	}
	return out
}

// withoutEffect are the classes with which nothing has happened at the server.
var withoutEffect = []visualcron.Class{visualcron.Unreachable, visualcron.Unauthorized, visualcron.Busy, visualcron.Refused, visualcron.Unsupported}

// Misbehaving checks a connector on a server that misbehaves once on was called:
// every method has the class that is expected, an error without effect has none, and
// what comes without error is what the server holds.
func Misbehaving(t *testing.T, h Harness, on func(), want Expected) {
	id, body := Sample(schemas.Job, 1)
	h.Put(schemas.Job, body)
	known, fresh := h.Open(impatient), h.Open(impatient)
	info(t, known)
	on()
	changed := bytes.Replace(body, []byte("made by"), []byte("changed by"), 1)
	holdsChange := func() bool {
		truth, ok := h.Get(schemas.Job, id)
		return ok && bytes.Contains(truth, []byte("changed by"))
	}
	is := func(what string, got, truth []byte, err error) {
		t.Helper()
		if err == nil {
			equal(t, what, got, truth)
		}
	}
	for who, c := range map[string]visualcron.Connector{"known server": known, "first contact": fresh} {
		classes := want.Known
		if c == fresh && want.Fresh != nil {
			classes = want.Fresh
		}
		for _, call := range calls() {
			h.Put(schemas.Job, body)
			truth, _ := h.Get(schemas.Job, id)
			what := call.name + ", " + who
			var err error
			switch call.name {
			case "List":
				found := false
				var complete visualcron.Complete
				complete, err = c.List(t.Context(), schemas.Job, func(r visualcron.Row) error {
					if r.ID == id {
						found = true
						if !want.AnyList {
							equal(t, what, r.Body, truth)
						}
					}
					return nil
				})
				if complete.IsComplete() != (err == nil) {
					t.Errorf("%s: complete %t with %v", what, complete.IsComplete(), err)
				}
				if err == nil && found == want.Unseen && !want.AnyList {
					t.Errorf("%s: the object shows: %t", what, found)
				}
			case "Get":
				var got []byte
				got, err = c.Get(t.Context(), schemas.Job, id)
				is(what, got, truth, err)
			case "Put":
				var got []byte
				got, err = c.Put(t.Context(), schemas.Job, id, changed, "")
				now, _ := h.Get(schemas.Job, id)
				is(what, got, now, err)
				effect(t, what, err, want.Lands, holdsChange)
			case "Delete":
				err = c.Delete(t.Context(), schemas.Job, id)
				effect(t, what, err, want.Lands, func() bool { _, there := h.Get(schemas.Job, id); return !there })
			default:
				err = call.do(t.Context(), c)
			}
			if call.name != "List" || !want.AnyList {
				wantClass(t, what, err, classes[call.name])
			}
			noSecret(t, c, err, h.Secrets())
		}
	}
}

// effect checks that a write has had the effect that its error leaves open or not.
func effect(t *testing.T, what string, err error, lands bool, has func() bool) {
	t.Helper()
	class := visualcron.ClassOf(err)
	switch {
	case err == nil && !has():
		t.Errorf("%s: no error and no effect", what)
	case slices.Contains(withoutEffect, class) && has():
		t.Errorf("%s: an effect in spite of class %q", what, class)
	case err != nil && lands:
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		for tick := time.NewTicker(time.Millisecond); !has(); {
			select {
			case <-tick.C:
			case <-ctx.Done():
				t.Error(fmt.Errorf("%s: it never landed", what))
				return
			}
		}
	}
}
