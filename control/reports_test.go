package control_test

import (
	"context"
	"encoding/json"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/vcsync/vcsync/broker"
	"github.com/vcsync/vcsync/consumer"
	"github.com/vcsync/vcsync/control"
)

// run runs f until stop is called or the test ends.
func run(t *testing.T, f func(context.Context) error) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := f(ctx); err != nil {
			t.Error(err)
		}
	}()
	stop = sync.OnceFunc(func() { cancel(); <-done })
	t.Cleanup(stop)
	return stop
}

// waitFor waits until ok is true, for 20 seconds at most.
func waitFor(t *testing.T, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !ok(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("it did not come about in 20 s")
		}
	}
}

// What a process said is believed for 30 seconds by the listener's own clock.
func TestASilentProcessIsNotBelieved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := &lockedBuffer{}
		r := control.NewReports(nil, slog.New(slog.NewTextHandler(log, nil)))
		revision := uint64(0)
		say := func(instance, boot string, state consumer.TargetState) {
			revision++
			words, err := json.Marshal(consumer.Report{Targets: []consumer.TargetStatus{{Target: "b", State: state, Reason: instance + boot}}})
			if err != nil {
				t.Fatal(err)
			}
			// Started lies in the future of any clock: nothing rests on it.
			control.Hear(r, broker.ProcessStatus{Role: broker.RoleNameConsumer, Instance: instance, Boot: boot, Words: words, Revision: revision, Started: time.Now().Add(24 * time.Hour)}, false)
		}
		who := func() string {
			ts, _ := r.Consumers().Status()
			if len(ts) == 0 {
				return ""
			}
			return ts[0].Reason
		}
		say("one", "A", consumer.Working)
		say("two", "B", consumer.Waiting)
		if got := who(); got != "oneA" {
			t.Errorf("%q has it, want who works on it", got)
		}
		time.Sleep(20 * time.Second)
		say("two", "B", consumer.Waiting)
		time.Sleep(9 * time.Second)
		if got := who(); got != "oneA" {
			t.Errorf("after 29 s %q has it", got)
		}
		time.Sleep(2 * time.Second)
		if got := who(); got != "twoB" {
			t.Errorf("after 31 s %q has it", got)
		}
		ps := r.Processes()
		if len(ps) != 2 || !ps[0].Gone || ps[1].Gone || len(ps[0].Targets) != 0 {
			t.Errorf("%+v", ps)
		}
		// A frozen one wakes: what it thinks it holds is another's by now.
		say("two", "B", consumer.Working)
		time.Sleep(time.Second)
		say("one", "A", consumer.Working)
		if got := who(); got != "oneA" {
			t.Errorf("%q has it; of two that say so, the one that spoke last", got)
		}
		say("one", "A", consumer.Waiting)
		if got := who(); got != "twoB" {
			t.Errorf("%q has it", got)
		}
		// A restart under one name is well; two that take turns are not.
		say("one", "C", consumer.Waiting)
		if r.Processes()[0].Twice {
			t.Error("a restart is taken for two processes")
		}
		say("one", "A", consumer.Waiting)
		if !r.Processes()[0].Twice || !strings.Contains(log.String(), "two processes have one name") {
			t.Error("two processes of one name are not found out")
		}
		time.Sleep(2 * time.Minute)
		say("one", "A", consumer.Waiting)
		if r.Processes()[0].Twice {
			t.Error("it is said for ever")
		}
		// What comes once more is no sign of life.
		time.Sleep(40 * time.Second)
		revision--
		say("one", "A", consumer.Waiting)
		if !r.Processes()[0].Gone {
			t.Error("an old word revives a process")
		}
		time.Sleep(2 * time.Hour)
		if ps := r.Processes(); len(ps) != 0 {
			t.Errorf("kept for ever: %+v", ps)
		}
	})
}

// Of two consumers, the words of the one that works on a setting's target count, also
// while both say that the setting waits for a listing.
func TestWhoWorksOnASettingSaysHowItDoes(t *testing.T) {
	r := control.NewReports(nil, slog.New(slog.DiscardHandler))
	for i, state := range []string{"following; waiting for a listing of a: Job", "target waiting for the lease; waiting for a listing of a: Job"} {
		words, err := json.Marshal(consumer.Report{Settings: []consumer.SettingStatus{{Setting: "one", State: state}}})
		if err != nil {
			t.Fatal(err)
		}
		control.Hear(r, broker.ProcessStatus{Role: broker.RoleNameConsumer, Instance: []string{"one", "two"}[i], Boot: "A", Words: words, Revision: uint64(i + 1)}, false)
	}
	if _, settings := r.Consumers().Status(); len(settings) != 1 || !strings.HasPrefix(settings[0].State, "following") {
		t.Errorf("%+v", settings)
	}
}

func TestAReportIsBounded(t *testing.T) {
	w, reports := fleet(t)
	big := strings.Repeat("x", 1<<20)
	run(t, reports.Run)
	run(t, broker.Reporter{Broker: w.b, Role: broker.RoleNameConsumer, Instance: "large", Log: slog.New(slog.DiscardHandler), Words: func() any {
		return consumer.Report{Targets: []consumer.TargetStatus{{Target: "b", State: consumer.Working, Reason: big}}}
	}}.Run)
	waitFor(t, func() bool { return len(reports.Processes()) == 1 })
	if p := reports.Processes()[0]; !p.Cut || len(p.Targets) != 0 || p.Gone {
		t.Errorf("%+v", p)
	}
}

// G10: the form in which processes speak stays, and what is new in it does no harm.
func TestWhatAnotherReleaseSaysIsRead(t *testing.T) {
	r := control.NewReports(nil, slog.New(slog.DiscardHandler))
	control.Hear(r, broker.ProcessStatus{Role: "consumer", Instance: "c", Boot: "x", Revision: 1, Words: []byte(`{"Later":1,"Targets":[{"Target":"b","State":"working","Lanes":3,"Applied":4,"Later":{}}],
		"Settings":[{"Setting":"one","State":"following","Pending":2,"OK":true,"Accounting":{"Captured":9,"Applied":5,"Superseded":4,"Later":"x"}}]}`)}, false)
	control.Hear(r, broker.ProcessStatus{Role: "producer", Instance: "p", Boot: "y", Revision: 2, Words: []byte(`{"Sources":[{"Server":"a","State":"capturing","Epoch":2,"Types":{"Job":{"Objects":7,"Held":1,"Later":[]}}}]}`)}, false)
	control.Hear(r, broker.ProcessStatus{Role: "oracle", Instance: "o", Boot: "z", Revision: 3, Words: []byte(`{"Future":true}`)}, false)
	ts, ss := r.Consumers().Status()
	if len(ts) != 1 || ts[0].Target != "b" || ts[0].State != consumer.Working || ts[0].Lanes != 3 || ts[0].Applied != 4 {
		t.Errorf("%+v", ts)
	}
	if len(ss) != 1 || !ss[0].OK || ss[0].Pending != 2 || ss[0].Accounting == nil || ss[0].Accounting.Captured != 9 || ss[0].Accounting.Superseded != 4 {
		t.Errorf("%+v", ss)
	}
	if ps := r.Producers().Status(); len(ps) != 1 || ps[0].Epoch != 2 || ps[0].Types["Job"].Objects != 7 || ps[0].Types["Job"].Held != 1 {
		t.Errorf("%+v", ps)
	}
	if ps := r.Processes(); len(ps) != 3 {
		t.Errorf("%+v", ps)
	}
}
