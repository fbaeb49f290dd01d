package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"reflect"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/nats-io/nats.go"

	"github.com/vcsync/vcsync/broker"
	"github.com/vcsync/vcsync/broker/brokertest"
	"github.com/vcsync/vcsync/control"
	"github.com/vcsync/vcsync/schemas"
	"github.com/vcsync/vcsync/visualcron"
)

func TestExitCode(t *testing.T) {
	plain := errors.New("x")
	for _, c := range []struct {
		name  string
		err   error
		begun bool
		want  int
	}{
		{"nothing wrong", nil, true, 0},
		{"a mistake in what was typed", usageError("x"), true, 2},
		{"an error before anything began", plain, false, 2},
		{"an error afterwards", plain, true, 4},
		{"an error that knows its code", failed(3, plain), true, 3},
		{"one that is wrapped", errors.Join(failed(1, plain)), true, 1},
	} {
		if got := exitCode(c.err, c.begun, io.Discard); got != c.want {
			t.Errorf("%s: %d, want %d", c.name, got, c.want)
		}
	}
	if failed(4, nil) != nil {
		t.Error("no error became one")
	}
	var b bytes.Buffer
	exitCode(errors.New("a \x1b[31m name\nsecond line"), true, &b)
	if b.String() != "vcsync: a \\x1b[31m name\nsecond line\n" {
		t.Errorf("%q", b.String())
	}
}

func TestTablesShowWhatTheyCannotPrint(t *testing.T) {
	for in, want := range map[string]string{
		"plain":               "plain",
		"Löhne 東京":            "Löhne 東京",
		"esc \x1b]0;title\a":  `esc \x1b]0;title\x07`,
		"two\nlines\ttab":     `two\x0alines\x09tab`,
		"c1 \u009b31m":        `c1 \u009b31m`,
		"turned \u202eround":  `turned \u202eround`,
		"split \u2028here":    `split \u2028here`,
		"broken \xff\xfe":     `broken \xff\xfe`,
		"isolate \u2066 mark": `isolate \u2066 mark`,
	} {
		if got := clean(in); got != want {
			t.Errorf("%q became %q, want %q", in, got, want)
		}
	}
	tab := newTable("A", "B")
	tab.add("東京", "x")
	tab.add("e\u0301", "y\x1b")
	var b bytes.Buffer
	if err := tab.print(&b); err != nil {
		t.Fatal(err)
	}
	if want := "A     B\n東京  x\ne\u0301     y\\x1b\n"; b.String() != want {
		t.Errorf("%q, want %q", b.String(), want)
	}
}

func TestRules(t *testing.T) {
	for _, c := range []struct {
		name, flag string
		ok         bool
	}{
		{"all with rights", "Job=all:new,updated,deleted", true},
		{"one right", "Job=all:deleted", true},
		{"none", "Connection=none", true},
		{"an object", "Job/3f2c=updated", true},
		{"an id with an equals sign", "Variable/a=b=new", true},
		{"an id with a slash", "Variable/Contoso/Share=none", true},
		{"no equals sign", "Job", false},
		{"no type", "=none", false},
		{"an unknown type", "Jobs=none", false},
		{"every type", "*=all:new,updated,deleted", true},
		{"nothing of any type", "*=none", true},
		{"every type without rights", "*=all", false},
		{"every type with a mode that has objects", "*=listed", false},
		{"every type and no more", "*", false},
		{"an object of every type", "*/x=new", false},
		{"all without rights", "Job=all", false},
		{"all with no right", "Job=all:none", false},
		{"an unknown right", "Job=all:added", false},
		{"a mode that has objects", "Job=listed", false},
		{"rights of none", "Job=none:new", false},
		{"no id", "Job/=new", false},
		{"an object with a mode", "Job/x=all:new", false},
		{"an object without rights", "Job/x=", false},
		{"the word of the help in place of an id", "Job/ID=none", false},
		{"the same in brackets", "Job/<id>=none", false},
	} {
		if _, err := parseRules([]string{c.flag}); (err == nil) != c.ok {
			t.Errorf("%s: %q: %v", c.name, c.flag, err)
		}
	}
	for _, flags := range [][]string{{"Job=none", "Job=all:new"}, {"Job/x=new", "Job/x=updated"}, {"*=none", "*=all:new"}} {
		if _, err := parseRules(flags); err == nil {
			t.Errorf("%v is accepted", flags)
		}
	}
	// The rule of a type comes first, whatever the order of the flags.
	for _, flags := range [][]string{{"Job/x=new", "Job=none"}, {"Job=all:new", "Job/x=updated"}, {"Job/x=updated", "Connection=none", "Job=all:new"}} {
		changes, err := parseRules(flags)
		if err != nil || changes[len(changes)-1].id != "x" {
			t.Errorf("%v: %+v, %v", flags, changes, err)
		}
	}
}

// What is said of every type leaves ServerSettings alone, and stands behind what is
// said of one type, whatever the order of the flags.
func TestRulesOfEveryType(t *testing.T) {
	for _, flags := range [][]string{
		{"*=all:new,updated", "Job=all:deleted", "User=none", "Variable/x=none"},
		{"Variable/x=none", "User=none", "Job=all:deleted", "*=all:new,updated"},
	} {
		changes, err := parseRules(flags)
		if err != nil {
			t.Fatal(err)
		}
		rules := map[string]control.RuleRecord{"User": {Sync: "all", RightsRecord: control.RightsRecord{New: true}}, "ServerSettings": {Sync: "all", RightsRecord: control.RightsRecord{Updated: true}}}
		if err := applyRules(rules, changes); err != nil {
			t.Fatal(err)
		}
		for _, typ := range schemas.Types() {
			want := control.RuleRecord{Sync: "all", RightsRecord: control.RightsRecord{New: true, Updated: true}}
			switch typ {
			case schemas.Job:
				want.RightsRecord = control.RightsRecord{Deleted: true}
			case schemas.User:
				want = control.RuleRecord{}
			case schemas.Variable:
				want.Objects = []control.ObjectRuleRecord{{ID: "x"}}
			case schemas.ServerSettings:
				want.RightsRecord = control.RightsRecord{Updated: true}
			}
			if got := rules[string(typ)]; !reflect.DeepEqual(got, want) {
				t.Errorf("%v: %s: %+v, want %+v", flags, typ, got, want)
			}
		}
		if changes, err = parseRules([]string{"*=none"}); err != nil {
			t.Fatal(err)
		}
		if err := applyRules(rules, changes); err != nil || len(rules) > 0 {
			t.Errorf("after none of every type: %v, error %v", rules, err)
		}
	}
}

// A source has one line, whatever its types are, and those with trouble are named;
// what is parked is counted.
func TestStatusOfManyTypes(t *testing.T) {
	at := time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)
	s := control.SourceReport{Server: "production", State: "capturing", Feed: true, Objects: 412, BuiltIn: 9, Published: 420, Complete: at}
	for _, typ := range schemas.Types() {
		r := control.SourceTypeReport{Type: string(typ), Complete: at, Objects: 20}
		switch typ {
		case schemas.Connection:
			r.Refused, r.RefusedWhy = 3, "Connection 1: the source does not give its secrets"
		case schemas.Credential:
			r.Held = 12
		}
		s.Types = append(s.Types, r)
	}
	var all []string
	for _, typ := range schemas.Types() {
		all = append(all, string(typ))
	}
	report := control.StatusReport{Roles: control.RolesReport{Producer: true, Consumer: true}, Sources: []control.SourceReport{s},
		Settings: []control.SettingReport{{Setting: "most", Takes: all[:16]}, {Setting: "some", Takes: all[:9]}, {Setting: "few", Takes: all[:2]}}, Parked: 100,
		ParkedBy: []control.ParkedCount{{Target: "test", Class: "refused", Count: 97, Types: []string{"Job"}}, {Target: "test", Class: "secret", Count: 3, Types: []string{"Connection", "Credential"}}}}
	var out bytes.Buffer
	if err := (&app{out: &out}).printStatus(report); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`production +capturing +yes +412 of 17 types \(\+9 built-in, never synced\) +420 `, `production +Connection +20 .* 3 not captured: Connection 1`,
		`production +Credential +20 .* 12 deletions wait`, `most .* all but ServerSettings `, `some .* 9 types `, `few .* User, UserGroup `,
		`test +refused +97 +Job`, `test +secret +3 +Connection, Credential`} {
		if !regexp.MustCompile(`(?m)^` + want).MatchString(out.String()) {
			t.Errorf("no line like %s", want)
		}
	}
	if n := strings.Count(out.String(), "\nproduction"); n != 3 {
		t.Errorf("%d lines for one source and two types with trouble", n)
	}
	if t.Failed() {
		t.Log("\n" + out.String())
	}
}

// syncBuffer can be written to and read at the same time.
type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// waitFor waits until the buffer holds the text.
func (b *syncBuffer) waitFor(t *testing.T, text string) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); !strings.Contains(b.String(), text); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("no %q in:\n%s", text, b)
		}
	}
}

// Events are followed across an end and a new start of vcsync, each told once.
func TestEventsAreFollowedAcrossARestart(t *testing.T) {
	clearEnv(t)
	b := brokertest.Start(t)
	log := slog.New(slog.DiscardHandler)
	serve := func(l net.Listener) (stop func()) {
		s, err := control.New(control.Config{Broker: b, Open: opener(15*time.Second, visualcron.Anywhere()), Addr: l.Addr().String(), Log: log})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error, 1)
		go func() { done <- s.Serve(ctx, l) }()
		return sync.OnceFunc(func() {
			cancel()
			if err := <-done; err != nil {
				t.Error(err)
			}
		})
	}
	l, err := control.Listen(t.Context(), "127.0.0.1:0", false)
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	stop := serve(l)
	defer func() { stop() }()
	publish(t, b, "before", 1)
	publish(t, b, "first", 1)

	var out, errs syncBuffer
	ctx, cancel := context.WithCancel(t.Context())
	code := make(chan int, 1)
	go func() {
		code <- run(ctx, []string{"events", "--follow", "--limit", "1", "--api", addr}, strings.NewReader(""), &out, &errs)
	}()
	out.waitFor(t, "Job/first")
	publish(t, b, "second", 1)
	out.waitFor(t, "Job/second")
	stop()
	errs.waitFor(t, "trying again")
	publish(t, b, "while-away", 1)
	if l, err = control.Listen(t.Context(), addr, false); err != nil {
		t.Fatal(err)
	}
	stop = serve(l)
	errs.waitFor(t, "following again")
	out.waitFor(t, "Job/while-away")
	publish(t, b, "last", 1)
	out.waitFor(t, "Job/last")
	cancel()
	if got := <-code; got != 0 {
		t.Errorf("exit code %d after an interruption, want 0: %s", got, &errs)
	}
	if strings.Contains(out.String(), "Job/before") {
		t.Error("more was told than asked for")
	}
	for _, id := range []string{"first", "second", "while-away", "last"} {
		if n := strings.Count(out.String(), "Job/"+id); n != 1 {
			t.Errorf("%s was told %d times", id, n)
		}
	}
}

func publish(t *testing.T, b *broker.Broker, id schemas.ID, revision uint64) {
	t.Helper()
	e := schemas.Event{Source: "a", Kind: schemas.Added, Version: schemas.Version{Epoch: 1, Revision: revision}, Time: time.Now(), Digest: schemas.DigestOf(nil),
		Object: schemas.Object{Type: schemas.Job, ID: id, Name: "n", Body: jsontext.Value(`{}`)}}
	header, data, err := e.Encode()
	if err == nil {
		_, err = b.JS().PublishMsg(t.Context(), &nats.Msg{Subject: e.Subject(), Header: header, Data: data})
	}
	if err != nil {
		t.Fatal(err)
	}
}

func TestALeaseHasRoomForARequest(t *testing.T) {
	for _, ttl := range []time.Duration{10 * time.Second, 15 * time.Second, time.Minute} {
		l := leaseTimes(ttl)
		if l.TTL != ttl || l.Margin <= 0 || l.Margin >= ttl/2 {
			t.Errorf("%s: %+v", ttl, l)
		}
	}
}
