// Package conformance is the suite that every connector passes: what the rest of
// vcsync relies on, whatever the technology beneath.
//
// It promises that a connector which passes never shows a listing as complete
// that is not, never returns another object than the one asked for, tells a
// failure without effect from one of unknown outcome, and keeps the account out of
// every text. It reads what a server can do from the connector itself, and tests
// what is offered; nothing is skipped.
package conformance

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/vcsync/vcsync/schemas"
	"github.com/vcsync/vcsync/visualcron"
)

// Fault is a way in which a server misbehaves.
type Fault string

// The faults that a Harness can show.
const (
	// None: the server is well.
	None Fault = "none"
	// Down: nothing takes a connection.
	Down Fault = "down"
	// Silent: requests are taken, answers never come.
	Silent Fault = "silent"
	// Hangup: requests are taken, and the connection is closed without an answer.
	Hangup Fault = "hang-up"
	// Busy: the server asks to come back in 7 seconds.
	Busy Fault = "busy"
	// Failing: the server fails, with a fault of its own.
	Failing Fault = "failing"
	// Cut: an answer breaks off in the middle.
	Cut Fault = "cut"
	// Stranger: something answers that is no VisualCron server, with success.
	Stranger Fault = "stranger"
	// Replaced: another VisualCron server answers.
	Replaced Fault = "replaced"
	// LockedOut: the account is refused from now on, tokens included.
	LockedOut Fault = "locked out"
)

// Faults returns all faults but None.
func Faults() []Fault {
	return []Fault{Down, Silent, Hangup, Busy, Failing, Cut, Stranger, Replaced, LockedOut}
}

// Harness is a server, new for each test, and the way to it. It ends what it
// started by t.Cleanup.
type Harness struct {
	// Open returns a connector to the server, after change, if any, has changed its
	// configuration.
	Open func(change func(*visualcron.Config)) visualcron.Connector
	// Break makes the server misbehave from now on, for every connector.
	Break func(Fault)
	// Forget makes the server forget whom it let in; a new logon helps.
	Forget func()
	// Put and Delete change the server behind the connector's back.
	Put    func(t schemas.Type, body []byte)
	Delete func(t schemas.Type, id schemas.ID)
	// Get looks at the server behind the connector's back.
	Get func(t schemas.Type, id schemas.ID) (body []byte, ok bool)
	// Secrets returns the password and whatever the server has given out for it.
	Secrets func() []string
	// Hidden looks at what an object's secret members truly hold, as JSON by JSON
	// pointer, whatever of it the server shows. Get returns what it shows.
	Hidden func(t schemas.Type, id schemas.ID) map[string]string
}

// Sample returns the n-th synthetic object of a type: its id, and a body in
// VisualCron's shape with a member that nobody knows. There is one ServerSettings
// only, so n changes no id there.
func Sample(t schemas.Type, n int) (schemas.ID, []byte) {
	guid := fmt.Sprintf("c0a70500-%04d-4000-8000-%012d", slices.Index(schemas.Types(), t), n)
	body := map[string]any{"Id": guid, "Name": fmt.Sprintf("Contoso Prüfung %d", n), "Description": "made by the conformance suite",
		"UnknownToAll": map[string]any{"List": []any{1, "två", nil, true}}}
	switch t {
	case schemas.Job:
		body["Group"] = "Default group"
		body["Stats"] = map[string]any{"JobId": guid, "Active": false}
		body["Triggers"] = []any{}
		body["Tasks"] = []any{map[string]any{"Id": strings.Replace(guid, "4000", "4001", 1), "JobId": guid, "Name": "Step", "Order": 1,
			"TaskType": "Execute", "Execute": map[string]any{"CmdLine": `C:\Contoso\a.cmd`}}}
	case schemas.Variable:
		delete(body, "Id")
		body["Name"] = fmt.Sprintf("Contoso/Variable.%d", n)
	case schemas.TaskRepository:
		delete(body, "Id")
		body["Version"] = 3
		body["Task"] = map[string]any{"Id": guid, "Name": "Rotate", "TaskType": "PowerShell", "PowerShell": map[string]any{"Script": "1"}}
	case schemas.ServerSettings:
		delete(body, "Id")
	}
	b, err := json.Marshal(body, json.Deterministic(true))
	if err != nil {
		panic("conformance: " + err.Error())
	}
	id, err := visualcron.BodyID(t, b)
	if err != nil {
		panic("conformance: " + err.Error())
	}
	return id, b
}

// impatient makes waiting for a silent server short.
func impatient(c *visualcron.Config) {
	c.RequestTimeout, c.ListTimeout, c.ListIdle = 150*time.Millisecond, 2*time.Second, 150*time.Millisecond
}

// call is one method of a connector, with arguments for it.
type call struct {
	name  string
	write bool
	do    func(context.Context, visualcron.Connector) error
}

// calls returns every method but Watch, on an object of the suite.
func calls() []call {
	id, body := Sample(schemas.Job, 1)
	return []call{
		{"Server", false, func(ctx context.Context, c visualcron.Connector) error { _, err := c.Server(ctx); return err }},
		{"List", false, func(ctx context.Context, c visualcron.Connector) error {
			complete, err := c.List(ctx, schemas.Job, func(visualcron.Row) error { return nil })
			if err != nil && complete.IsComplete() {
				return fmt.Errorf("a listing with the error %w is shown as complete", err)
			}
			return err
		}},
		{"Get", false, func(ctx context.Context, c visualcron.Connector) error {
			_, err := c.Get(ctx, schemas.Job, id)
			return err
		}},
		{"Put", true, func(ctx context.Context, c visualcron.Connector) error {
			_, err := c.Put(ctx, schemas.Job, id, body, "")
			return err
		}},
		{"Delete", true, func(ctx context.Context, c visualcron.Connector) error { return c.Delete(ctx, schemas.Job, id) }},
	}
}

// Run checks the connectors that open's harness makes; open is called once per
// subtest.
func Run(t *testing.T, open func(t *testing.T) Harness) {
	run(t, func(t *testing.T, name string, test func(*testing.T)) { t.Run(name, test) }, open)
}

// RunInBubbles is Run with each subtest in a testing/synctest bubble of its own, so
// that waiting costs no time. The network of the harness must be one in memory.
func RunInBubbles(t *testing.T, open func(t *testing.T) Harness) {
	run(t, func(t *testing.T, name string, test func(*testing.T)) {
		t.Run(name, func(t *testing.T) { synctest.Test(t, test) })
	}, open)
}

func run(t *testing.T, sub func(t *testing.T, name string, test func(*testing.T)), open func(t *testing.T) Harness) {
	sub(t, "a server says who it is and what it can do", func(t *testing.T) {
		c := open(t).Open(nil)
		first := info(t, c)
		if first.ID == "" || first.Version == "" {
			t.Errorf("id %q, version %q: want both", first.ID, first.Version)
		}
		if again := info(t, c); again.ID != first.ID {
			t.Errorf("id %q, then %q", first.ID, again.ID)
		}
	})
	for _, typ := range schemas.Types() {
		sub(t, "objects of type "+string(typ)+" come and go as asked", func(t *testing.T) { roundTrip(t, open(t), typ) })
	}
	for _, typ := range []schemas.Type{schemas.Credential, schemas.Job} {
		sub(t, "secrets of type "+string(typ)+" come out and stay as the capability says", func(t *testing.T) { secrets(t, open(t), typ) })
	}
	sub(t, "ids that look like paths and escapes name their object only", func(t *testing.T) { oddIDs(t, open(t)) })
	sub(t, "a GUID in capitals is the same id", func(t *testing.T) {
		h := open(t)
		c := h.Open(nil)
		id, body := Sample(schemas.Connection, 7)
		upper := strings.ToUpper("c0a70500-abcd-4000-8000-00000000beef")
		h.Put(schemas.Connection, bytes.Replace(body, []byte(id), []byte(upper), 1))
		want := schemas.ID(strings.ToLower(upper))
		if _, err := c.Get(t.Context(), schemas.Connection, want); err != nil {
			t.Error(err)
		}
		if rows, _ := list(t, c, schemas.Connection); rows[want] == nil {
			t.Errorf("the listing does not hold %s", want)
		}
	})
	sub(t, "what changes behind its back is seen", func(t *testing.T) {
		h := open(t)
		c := h.Open(nil)
		id, body := Sample(schemas.Job, 3)
		h.Put(schemas.Job, body)
		if _, err := c.Get(t.Context(), schemas.Job, id); err != nil {
			t.Errorf("after a put: %v", err)
		}
		h.Delete(schemas.Job, id)
		wantClass(t, "after a delete", second(c.Get(t.Context(), schemas.Job, id)), visualcron.NotFound)
	})
	sub(t, "an error of whoever takes the rows ends the listing and comes back as it is", func(t *testing.T) {
		h := open(t)
		for n := range 3 {
			_, body := Sample(schemas.Job, n)
			h.Put(schemas.Job, body)
		}
		stop, rows := errors.New("enough"), 0
		complete, err := h.Open(nil).List(t.Context(), schemas.Job, func(visualcron.Row) error { rows++; return stop })
		if err != stop || rows != 1 || complete.IsComplete() {
			t.Errorf("error %v after %d rows, complete %t; want the same error after 1 row, not complete", err, rows, complete.IsComplete())
		}
	})
	sub(t, "a body under another object's id is not written", func(t *testing.T) {
		h := open(t)
		id, _ := Sample(schemas.Job, 1)
		_, other := Sample(schemas.Job, 2)
		wantClass(t, "put", second(h.Open(nil).Put(t.Context(), schemas.Job, id, other, "")), visualcron.Refused)
		if _, ok := h.Get(schemas.Job, id); ok {
			t.Error("something was written")
		}
	})
	sub(t, "a body that was made for secrets given otherwise is not written", func(t *testing.T) {
		h := open(t)
		c := h.Open(nil)
		can := info(t, c).Types[schemas.Credential]
		if !can.Put {
			return
		}
		id, body := Sample(schemas.Credential, 1)
		for _, made := range []visualcron.SecretMode{visualcron.SecretsEqual, visualcron.SecretsOpaque, visualcron.SecretsMasked, visualcron.SecretsNull} {
			if made != can.Secrets {
				wantClass(t, "put of a body made for "+string(made), second(c.Put(t.Context(), schemas.Credential, id, body, made)), visualcron.Changed)
			}
		}
		if _, ok := h.Get(schemas.Credential, id); ok {
			t.Error("something was written")
		}
		if _, err := c.Put(t.Context(), schemas.Credential, id, body, can.Secrets); err != nil {
			t.Errorf("put of one that was made for it: %v", err)
		}
	})
	sub(t, "an empty id never stands for the whole type", func(t *testing.T) {
		h := open(t)
		id, body := Sample(schemas.Job, 1)
		h.Put(schemas.Job, body)
		wantClass(t, "delete", h.Open(nil).Delete(t.Context(), schemas.Job, ""), visualcron.Refused)
		if _, ok := h.Get(schemas.Job, id); !ok {
			t.Error("an object is gone")
		}
	})
	sub(t, "a wrong password is Unauthorized at every call", func(t *testing.T) {
		h := open(t)
		wrong := `wr0ng "päss" /word`
		c := h.Open(func(cfg *visualcron.Config) { cfg.Password = wrong })
		for _, call := range calls() {
			err := call.do(t.Context(), c)
			wantClass(t, call.name, err, visualcron.Unauthorized)
			noSecret(t, c, err, append(h.Secrets(), wrong))
		}
	})
	sub(t, "a forgotten logon is made anew, once", func(t *testing.T) {
		h := open(t)
		c := h.Open(nil)
		for _, call := range calls()[:2] {
			if err := call.do(t.Context(), c); err != nil {
				t.Fatal(err)
			}
			h.Forget()
		}
		id, body := Sample(schemas.Job, 1)
		if _, err := c.Put(t.Context(), schemas.Job, id, body, ""); err != nil {
			t.Errorf("put after a forgotten logon: %v", err)
		}
	})
	sub(t, "calls side by side do not disturb each other", func(t *testing.T) { sideBySide(t, open(t)) })
	for _, f := range Faults() {
		sub(t, "server "+string(f)+": the class says what may have happened", func(t *testing.T) { faulty(t, open(t), f) })
	}
	sub(t, "a caller that gives up gets its own error", func(t *testing.T) {
		h := open(t)
		c := h.Open(nil)
		info(t, c)
		h.Break(Silent)
		for _, call := range calls() {
			ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
			err := call.do(ctx, c)
			cancel()
			if !errors.Is(err, context.DeadlineExceeded) || visualcron.ClassOf(err) != visualcron.Timeout {
				t.Errorf("%s at its deadline: %v (class %q), want DeadlineExceeded of class %q", call.name, err, visualcron.ClassOf(err), visualcron.Timeout)
			}
			ctx, cancel = context.WithCancel(t.Context())
			cancel()
			if err := call.do(ctx, c); !errors.Is(err, context.Canceled) || visualcron.ClassOf(err) != "" {
				t.Errorf("%s when cancelled: %v (class %q), want Canceled of no class", call.name, err, visualcron.ClassOf(err))
			}
		}
	})
	sub(t, "a change feed tells of changes, or is not offered", func(t *testing.T) { watch(t, open(t)) })
}

func second[A any](_ A, err error) error { return err }

func info(t *testing.T, c visualcron.Connector) visualcron.Info {
	t.Helper()
	i, err := c.Server(t.Context())
	if err != nil {
		t.Fatalf("ask for the server: %v", err)
	}
	return i
}

func list(t *testing.T, c visualcron.Connector, typ schemas.Type) (map[schemas.ID][]byte, visualcron.Complete) {
	t.Helper()
	rows := map[schemas.ID][]byte{}
	complete, err := c.List(t.Context(), typ, func(r visualcron.Row) error {
		rows[r.ID] = bytes.Clone(r.Body)
		return nil
	})
	if err != nil {
		t.Fatalf("list %s: %v", typ, err)
	}
	if !complete.IsComplete() || complete.Count() != len(rows) || complete.Type() != typ {
		t.Errorf("listing of %s: complete %t, type %q, count %d of %d rows", typ, complete.IsComplete(), complete.Type(), complete.Count(), len(rows))
	}
	return rows, complete
}

func wantClass(t *testing.T, what string, err error, want visualcron.Class) {
	t.Helper()
	if got := visualcron.ClassOf(err); got != want {
		t.Errorf("%s: class %q, want %q: %v", what, got, want, err)
	}
}

func equal(t *testing.T, what string, got, want []byte) {
	t.Helper()
	g, w := jsontext.Value(bytes.Clone(got)), jsontext.Value(bytes.Clone(want))
	if g.Canonicalize() != nil || w.Canonicalize() != nil || !bytes.Equal(g, w) {
		t.Errorf("%s: got %.400s, want %.400s", what, got, want)
	}
}

func roundTrip(t *testing.T, h Harness, typ schemas.Type) {
	c := h.Open(nil)
	can := info(t, c).Types[typ]
	id, body := Sample(typ, 1)
	if !can.Put {
		wantClass(t, "put of what is not offered", second(c.Put(t.Context(), typ, id, body, "")), visualcron.Unsupported)
	} else {
		if typ != schemas.ServerSettings {
			wantClass(t, "get before the put", second(c.Get(t.Context(), typ, id)), visualcron.NotFound)
		}
		stored, err := c.Put(t.Context(), typ, id, body, "")
		if err != nil {
			t.Fatal(err)
		}
		var members struct{ UnknownToAll jsontext.Value }
		if err := json.Unmarshal(stored, &members); err != nil {
			t.Fatal(err)
		}
		equal(t, "the member that nobody knows", members.UnknownToAll, []byte(`{"List":[1,"två",null,true]}`))
		truth, ok := h.Get(typ, id)
		if !ok {
			t.Fatal("the server does not have what was put")
		}
		equal(t, "the answer to the put", stored, truth)
		changed := bytes.Replace(body, []byte("made by"), []byte("changed by"), 1)
		if _, err := c.Put(t.Context(), typ, id, changed, ""); err != nil {
			t.Errorf("replace: %v", err)
		}
		if truth, _ := h.Get(typ, id); !bytes.Contains(truth, []byte("changed by")) {
			t.Error("a put over an object did not replace it")
		}
	}
	h.Put(typ, body)
	truth, _ := h.Get(typ, id)
	if can.Get {
		got, err := c.Get(t.Context(), typ, id)
		if err != nil {
			t.Fatal(err)
		}
		equal(t, "get", got, truth)
	}
	if can.List {
		rows, _ := list(t, c, typ)
		equal(t, "the row of the listing", rows[id], truth)
	}
	if !can.Delete {
		wantClass(t, "delete of what is not offered", c.Delete(t.Context(), typ, id), visualcron.Unsupported)
		return
	}
	for _, when := range []string{"present", "absent"} {
		if err := c.Delete(t.Context(), typ, id); err != nil {
			t.Errorf("delete of a %s object: %v", when, err)
		}
	}
	if _, ok := h.Get(typ, id); ok {
		t.Error("what was deleted is still there")
	}
	if can.List {
		if rows, _ := list(t, c, typ); rows[id] != nil {
			t.Error("what was deleted is still listed")
		}
	}
}

// secrets proves that the capability of a type tells the truth: what is shown of a
// secret, and what becomes of it when a write leaves it out or sends it back.
func secrets(t *testing.T, h Harness, typ schemas.Type) {
	c := h.Open(nil)
	can := info(t, c).Types[typ]
	if !can.Put {
		return // nothing can be written, so nothing can be lost
	}
	id, body := Sample(typ, 1)
	const truth = `"tr\u00fcth \\ of the conformance suite"` // one that may not come out spelt otherwise
	plain := strings.TrimSuffix(string(body), "}")
	at, with, without := "/Password", plain+`,"Password":`+truth+`}`, plain+`,"Domain":"changed"}`
	if typ == schemas.Job {
		at, with, without = "/Variables/0/ValueObject", plain+`,"Variables":[{"Key":"Region","ValueObject":`+truth+`}]}`, plain+`,"Variables":[{"Key":"Other"},{"Key":"Region"}]}`
	}
	holds := func(what, at, want string) {
		t.Helper()
		if got := h.Hidden(typ, id)[at]; !sameText(got, want) {
			t.Errorf("%s the secret at %s is %s, want %s", what, at, got, want)
		}
	}
	if _, err := c.Put(t.Context(), typ, id, []byte(with), ""); err != nil {
		t.Fatal(err)
	}
	holds("written,", at, truth)
	shown, ok := h.Get(typ, id)
	if !ok {
		t.Fatal("what was put is not there")
	}
	if show := bytes.Contains(shown, []byte("of the conformance suite")); show != (can.Secrets == visualcron.SecretsEqual) {
		t.Errorf("mode %q, and it shows %.400s", can.Secrets, shown)
	}
	if can.Secrets != visualcron.SecretsEqual {
		if _, err := c.Put(t.Context(), typ, id, []byte(without), ""); err != nil {
			t.Fatal(err)
		}
		if typ == schemas.Job {
			at = "/Variables/1/ValueObject" // the item moved
		}
		holds("left out,", at, truth)
		shown, _ = h.Get(typ, id)
	}
	if _, err := c.Put(t.Context(), typ, id, shown, ""); err != nil {
		t.Fatal(err)
	}
	if can.Secrets == visualcron.SecretsEqual || can.Secrets == visualcron.SecretsOpaque {
		holds("sent back,", at, truth)
	} else if got := h.Hidden(typ, id)[at]; sameText(got, truth) {
		t.Errorf("mode %q, and what was sent back did not become the secret", can.Secrets)
	}
	if can.Secrets == visualcron.SecretsEqual {
		if _, err := c.Put(t.Context(), typ, id, []byte(without), ""); err != nil {
			t.Fatal(err)
		}
		for at, v := range h.Hidden(typ, id) {
			if sameText(v, truth) {
				t.Errorf("left out of the whole object, the secret is still at %s", at)
			}
		}
	}
}

// sameText compares two JSON texts.
func sameText(a, b string) bool {
	var x, y string
	return json.Unmarshal([]byte(a), &x) == nil && json.Unmarshal([]byte(b), &y) == nil && x == y
}

func oddIDs(t *testing.T, h Harness) {
	c := h.Open(nil)
	if !info(t, c).Types[schemas.Variable].Put {
		return // variables are the only objects whose ids are free text
	}
	ids := []schemas.ID{".", "..", "...", "a/b", "/", "//", "../Job", "%2F", "%2E", "%", "a b", "a+b", "ü", "請求書", "?x=1", "#", ";", `\`, `"quoted"`,
		"line\nbreak", "a", "A", "logon", schemas.ID(strings.Repeat("lång", 600))}
	for _, id := range ids {
		name, err := json.Marshal(string(id))
		if err != nil {
			t.Fatal(err)
		}
		body := fmt.Appendf(nil, `{"Name":%s,"Description":"of %d bytes"}`, name, len(id))
		stored, err := c.Put(t.Context(), schemas.Variable, id, body, "")
		if err != nil {
			t.Errorf("put %.40q: %v", id, err)
			continue
		}
		equal(t, fmt.Sprintf("put %.40q", id), stored, body)
		got, err := c.Get(t.Context(), schemas.Variable, id)
		if err != nil {
			t.Errorf("get %.40q: %v", id, err)
			continue
		}
		equal(t, fmt.Sprintf("get %.40q", id), got, body)
	}
	rows, _ := list(t, c, schemas.Variable)
	for _, id := range ids {
		if rows[id] == nil {
			t.Errorf("%.40q is not listed", id)
		}
		if err := c.Delete(t.Context(), schemas.Variable, id); err != nil {
			t.Errorf("delete %.40q: %v", id, err)
		}
		if _, ok := h.Get(schemas.Variable, id); ok {
			t.Errorf("%.40q is still there", id)
		}
	}
}

func sideBySide(t *testing.T, h Harness) {
	c := h.Open(nil)
	var wg sync.WaitGroup
	for n := range 32 {
		wg.Go(func() {
			id, body := Sample(schemas.Job, n)
			for _, step := range []struct {
				what string
				err  error
			}{
				{"put", second(c.Put(t.Context(), schemas.Job, id, body, ""))},
				{"get", second(c.Get(t.Context(), schemas.Job, id))},
				{"list", second(c.List(t.Context(), schemas.Job, func(visualcron.Row) error { return nil }))},
			} {
				if step.err != nil {
					t.Errorf("%s %d: %v", step.what, n, step.err)
				}
			}
		})
	}
	wg.Wait()
	rows, _ := list(t, c, schemas.Job)
	for n := range 32 {
		if id, _ := Sample(schemas.Job, n); rows[id] == nil {
			t.Errorf("job %d is not there", n)
		}
	}
}

func faulty(t *testing.T, h Harness, f Fault) {
	want := map[Fault]visualcron.Class{Down: visualcron.Unreachable, Silent: visualcron.Timeout, Hangup: visualcron.Timeout, Busy: visualcron.Busy,
		Failing: visualcron.Fault, Cut: visualcron.BadAnswer, Stranger: visualcron.BadAnswer, Replaced: visualcron.WrongServer,
		LockedOut: visualcron.Unauthorized}[f]
	_, body := Sample(schemas.Job, 1)
	h.Put(schemas.Job, body)
	// One that has spoken to the server before, and one that meets it like this.
	known, fresh := h.Open(impatient), h.Open(impatient)
	server := info(t, known)
	h.Break(f)
	for _, call := range calls() {
		for who, c := range map[string]visualcron.Connector{"known server": known, "first contact": fresh} {
			if f == Replaced && who == "first contact" || f == Cut && call.name == "Delete" {
				continue // nobody can know; and an empty answer cannot be cut
			}
			err := call.do(t.Context(), c)
			what := call.name + ", " + who
			wantClass(t, what, err, want)
			noSecret(t, c, err, h.Secrets())
			e, ok := errors.AsType[*visualcron.Error](err)
			if !ok {
				continue
			}
			if e.Op == "" {
				t.Errorf("%s: no Op in %v", what, err)
			}
			if f == Busy && e.RetryAfter != 7*time.Second {
				t.Errorf("%s: RetryAfter %s, want 7s", what, e.RetryAfter)
			}
		}
	}
	h.Break(None)
	if again := info(t, known); again.ID != server.ID {
		t.Errorf("after the fault the server is %q, was %q", again.ID, server.ID)
	}
	list(t, known, schemas.Job)
}

func watch(t *testing.T, h Harness) {
	c := h.Open(nil)
	if !info(t, c).Changes {
		wantClass(t, "watch", c.Watch(t.Context(), nil, func(visualcron.Hint) {}), visualcron.Unsupported)
		return
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ready, hints, ended := make(chan struct{}), make(chan visualcron.Hint, 100), make(chan error, 1)
	go func() { ended <- c.Watch(ctx, func() { close(ready) }, func(h visualcron.Hint) { hints <- h }) }()
	select {
	case <-ready:
	case err := <-ended:
		t.Fatalf("the feed ended before it stood: %v", err)
	}
	id, body := Sample(schemas.Job, 1)
	h.Put(schemas.Job, body)
	h.Put(schemas.Job, body)
	h.Delete(schemas.Job, id)
	for _, kind := range schemas.Kinds() {
		select {
		case got := <-hints:
			if want := (visualcron.Hint{Type: schemas.Job, ID: string(id), Kind: string(kind)}); got != want {
				t.Errorf("hint %+v, want %+v", got, want)
			}
		case err := <-ended:
			t.Fatalf("the feed ended: %v", err)
		}
	}
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("a cancelled feed ended with %v, want Canceled", err)
	}
}

// noSecret looks for the secrets, as they are and in usual codings, in every way
// in which an error and the connector may be printed, and for URLs in the error.
func noSecret(t *testing.T, c visualcron.Connector, err error, secrets []string) {
	t.Helper()
	var logged bytes.Buffer
	log := slog.New(slog.NewJSONHandler(&logged, nil))
	log.Info("x", "error", err, "connector", c)
	slog.New(slog.NewTextHandler(&logged, nil)).Info("x", "error", err, "connector", c)
	told := []string{fmt.Sprint(err), fmt.Sprintf("%+v", err), fmt.Sprintf("%#v", err), fmt.Sprintf("%q", err), logged.String()}
	for e := err; e != nil; e = errors.Unwrap(e) {
		told = append(told, fmt.Sprintf("%+v", e))
	}
	for _, text := range told {
		if strings.Contains(text, "://") {
			t.Errorf("a URL stands in %q", text)
		}
	}
	told = append(told, fmt.Sprintf("%v %+v %#v %s %d", c, c, c, c, c))
	for _, s := range secrets {
		if s == "" {
			continue
		}
		spelt := []string{s, url.QueryEscape(s), url.PathEscape(s), base64.StdEncoding.EncodeToString([]byte(s)),
			base64.RawURLEncoding.EncodeToString([]byte(s))}
		for _, text := range told {
			for _, w := range spelt {
				if strings.Contains(text, w) {
					t.Errorf("a secret stands in %q", strings.ReplaceAll(text, w, "<SECRET>"))
				}
			}
		}
	}
}
