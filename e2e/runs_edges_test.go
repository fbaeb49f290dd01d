package e2e_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vcsync/vcsync/broker"
	"github.com/vcsync/vcsync/consumer"
	"github.com/vcsync/vcsync/e2e"
	"github.com/vcsync/vcsync/schemas"
	"github.com/vcsync/vcsync/visualcron/standin"
)

// TestAStricterSettingHoldsWhatAFreerLacks has one setting take new jobs by itself, and
// another of the same servers update them with an approval (G7).
func TestAStricterSettingHoldsWhatAFreerLacks(t *testing.T) {
	t.Parallel()
	world(t, nil, func(w *e2e.World) {
		prod, test := w.Hosts["production"], w.AddHost("test")
		auto := e2e.AllJobs("auto", "production", "test", schemas.Keep)
		auto.Rules[schemas.Job] = schemas.Rule{Sync: schemas.SyncAll, Rights: schemas.Rights{New: true}}
		w.Setting(auto)
		careful := e2e.AllJobs("careful", "production", "test", schemas.Keep)
		careful.Rules[schemas.Job] = schemas.Rule{Sync: schemas.SyncAll, Rights: schemas.Rights{Updated: true}}
		careful.Mode = schemas.Approve
		w.Setting(careful)
		putJob(t, prod, 1, "one")
		w.StartProducer()
		w.StartConsumer()
		time.Sleep(time.Minute)
		wrote(t, test, "what the freer takes", 1, 0)
		putJob(t, prod, 1, "two")
		time.Sleep(16 * time.Minute)
		_, entries := w.Drift("careful")
		same(t, "drift", entries, "Job 1 different: hold update (approval)")
		if a := account(t, w, w.Cons, "careful"); a.Held != 1 || a.Unaccounted != 0 {
			t.Errorf("accounts %+v", a)
		}
		wrote(t, test, "what waits for an approval", 0, 0)
		_, entries = w.Ask("auto", broker.RunScope{})
		same(t, "a plan of the freer", entries, "Job 1 different: hold update (approval)")
		w.Move("auto", broker.RunDropped, "")
		p, entries := w.Ask("careful", broker.RunScope{})
		same(t, "plan", entries, "Job 1 different: update (differs)")
		w.Approve(p)
		wrote(t, test, "what was approved", 1, 0)
	})
}

// TestNothingWaitsForWhatIsOnlyReported has a job refer to a credential that another
// setting takes (G5): one that reports brings nothing; for one that a person may approve
// the job waits, and that is said.
func TestNothingWaitsForWhatIsOnlyReported(t *testing.T) {
	t.Parallel()
	for _, mode := range []schemas.Mode{schemas.ReportOnly, schemas.Approve} {
		t.Run(mode.String(), func(t *testing.T) {
			t.Parallel()
			world(t, []schemas.Slug{"test"}, func(w *e2e.World) {
				prod, test := w.Hosts["production"], w.Hosts["test"]
				set := e2e.AllJobs("credentials", "production", "test", schemas.Keep)
				set.Rules = map[schemas.Type]schemas.Rule{schemas.Credential: set.Rules[schemas.Job]}
				set.Mode = mode
				w.Setting(set)
				if _, _, err := prod.Server.Put(schemas.Credential, fmt.Appendf(nil, `{"Id":%q,"Username":"u","Domain":"d","Password":"p"}`, jobID(5))); err != nil {
					t.Fatal(err)
				}
				putJob(t, prod, 1, "refers")
				change(t, prod, schemas.Job, jobID(1), func(b map[string]any) { b["Credential"] = jobID(5) })
				w.StartProducer()
				w.StartConsumer()
				time.Sleep(20 * time.Minute)
				_, _, there := jobAt(t, test, 1)
				parked := listParked(t, w)
				if mode == schemas.ReportOnly {
					if !there || len(parked) != 0 {
						t.Errorf("there %v, parked %+v", there, parked)
					}
					return
				}
				if there || len(parked) != 1 || !strings.Contains(parked[0].Reason, "(held: approval)") {
					t.Errorf("there %v, parked %+v", there, parked)
				}
				p, _ := w.Ask("credentials", broker.RunScope{})
				w.Approve(p)
				time.Sleep(time.Minute)
				if _, _, there := jobAt(t, test, 1); !there || len(listParked(t, w)) != 0 {
					t.Errorf("after the approval: there %v, parked %+v", there, listParked(t, w))
				}
			})
		})
	}
}

// TestADroppedRunSaysWhatItDid drops a run on a setting that is off while one of its
// writes is under way (G14).
func TestADroppedRunSaysWhatItDid(t *testing.T) {
	t.Parallel()
	world(t, []schemas.Slug{"test"}, func(w *e2e.World) {
		prod, test := w.Hosts["production"], w.Hosts["test"]
		set := e2e.AllJobs(oneSetting, "production", "test", schemas.Keep)
		set.Active = false
		w.Setting(set)
		for i := range 20 { // more than there are lanes
			putJob(t, prod, i, "new")
		}
		w.StartProducer()
		w.StartConsumer()
		p, _ := w.Ask(oneSetting, broker.RunScope{})
		test.SetFaults(fault(func(_ http.ResponseWriter, r *http.Request) bool {
			if r.Method == http.MethodPut {
				time.Sleep(3 * time.Second)
			}
			return false
		}))
		w.Move(oneSetting, broker.RunApplying, p.ID)
		time.Sleep(time.Second)
		w.Move(oneSetting, broker.RunDropped, "")
		time.Sleep(time.Minute)
		var entries []broker.PlanEntry
		w.Do(func(ctx context.Context) (err error) {
			entries, err = w.Entries(ctx, p)
			return err
		})
		done := 0
		for i, e := range entries {
			want := broker.OutcomeLeft
			if _, there := test.Server.Get(schemas.Job, e.ID); there {
				want = broker.OutcomeDone
				done++
			}
			if e.Outcome != want {
				t.Errorf("entry %d: %q %s, want %q", i, e.Outcome, e.OutcomeWhy, want)
			}
		}
		if done == 0 || done == len(entries) {
			t.Errorf("%d of %d were written", done, len(entries))
		}
		if end, _ := w.Finish(p); end.Result != broker.RunDropped || end.Outcomes[broker.OutcomeDone] != done {
			t.Errorf("progress %+v", end)
		}
	})
}

// TestADeletionBeforeATakeoverIsDone ends the consumer between deletions of an approved
// plan and the record of their outcomes.
func TestADeletionBeforeATakeoverIsDone(t *testing.T) {
	t.Parallel()
	world(t, []schemas.Slug{"test"}, func(w *e2e.World) {
		prod, test := w.Hosts["production"], w.Hosts["test"]
		set := e2e.AllJobs(oneSetting, "production", "test", schemas.Keep)
		for i := range 40 {
			putJob(t, prod, i, "first")
		}
		w.StartProducer()
		w.StartConsumer()
		within(t, w, time.Minute, "test")
		set.Active = false
		w.Setting(set)
		for i := range 3 {
			deleteJob(t, prod, i)
		}
		p, _ := w.Ask(oneSetting, broker.RunScope{})
		test.SetFaults(fault(func(_ http.ResponseWriter, r *http.Request) bool {
			if r.Method == http.MethodDelete && strings.HasSuffix(r.URL.Path, "2") {
				time.Sleep(8 * time.Second)
			}
			return false
		}))
		w.Move(oneSetting, broker.RunApplying, p.ID)
		time.Sleep(1500 * time.Millisecond)
		if _, deletes := test.Count(); deletes != 2 {
			t.Errorf("%d deletes before the crash", deletes)
		}
		w.StopConsumer(consumer.ErrCrash)
		test.SetFaults(nil)
		w.StartConsumer()
		if end, entries := w.Finish(p); end.Outcomes[broker.OutcomeDone] != 3 {
			t.Errorf("%+v %v", end, lines(entries))
		}
	})
}

// TestNoWriteToATargetThatWasUpdated updates the target's VisualCron while everything
// runs and nothing is to be done.
func TestNoWriteToATargetThatWasUpdated(t *testing.T) {
	t.Parallel()
	world(t, []schemas.Slug{"test"}, func(w *e2e.World) {
		prod, test := w.Hosts["production"], w.Hosts["test"]
		putJob(t, prod, 0, "first")
		w.StartProducer()
		w.StartConsumer()
		within(t, w, time.Minute, "test")
		time.Sleep(3 * time.Minute)
		if err := test.Server.Misbehave(standin.Misbehaviour{Mode: "version", Arg: "9.9"}); err != nil {
			t.Fatal(err)
		}
		test.Reset()
		time.Sleep(time.Minute)
		putJob(t, prod, 0, "second")
		time.Sleep(2 * time.Minute)
		wrote(t, test, "a target that was updated a minute ago", 0, 0)
		if a := account(t, w, w.Cons, oneSetting); a.Held != 1 || a.Unaccounted != 0 {
			t.Errorf("accounts %+v", a)
		}
	})
}

// TestAHandEditBetweenTriesIsNotApproved lets the target alter what an approved write
// sends, and a person edit it before the next try (G14).
func TestAHandEditBetweenTriesIsNotApproved(t *testing.T) {
	t.Parallel()
	for _, edit := range []bool{false, true} {
		t.Run(fmt.Sprintf("edited %v", edit), func(t *testing.T) {
			t.Parallel()
			world(t, []schemas.Slug{"test"}, func(w *e2e.World) {
				prod, test := w.Hosts["production"], w.Hosts["test"]
				set := e2e.AllJobs(oneSetting, "production", "test", schemas.Keep)
				set.Mode = schemas.Approve
				w.Setting(set)
				putJob(t, prod, 1, "new")
				putJob(t, test, 1, "old")
				w.StartProducer()
				w.StartConsumer()
				time.Sleep(time.Minute)
				p, _ := w.Ask(oneSetting, broker.RunScope{})
				var written atomic.Bool
				test.SetFaults(func(next http.Handler) http.Handler {
					return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
						if r.Method != http.MethodPut {
							if edit && strings.Contains(r.URL.Path, string(jobID(1))) && written.CompareAndSwap(true, false) {
								putJob(t, test, 1, "by hand") // before the next try reads it
							}
							next.ServeHTTP(rw, r)
							return
						}
						b, _ := io.ReadAll(r.Body)
						b = bytes.Replace(b, []byte(`"new"`), []byte(`"altered by the target"`), 1)
						r.Body, r.ContentLength = io.NopCloser(bytes.NewReader(b)), int64(len(b))
						next.ServeHTTP(rw, r)
						written.Store(true)
					})
				})
				_, entries := w.Approve(p)
				want := broker.OutcomeParked
				if edit {
					want = broker.OutcomeTarget
				}
				if len(entries) != 1 || entries[0].Outcome != want {
					t.Errorf("%v, want %q", lines(entries), want)
				}
				if puts, _ := test.Count(); edit && puts != 1 {
					t.Errorf("%d writes over an edit that nobody approved to undo", puts-1)
				}
			})
		})
	}
}

// TestAFailedAuditIsTriedAgainSoon refuses the listing of one audit, and nothing else.
func TestAFailedAuditIsTriedAgainSoon(t *testing.T) {
	t.Parallel()
	world(t, []schemas.Slug{"test"}, func(w *e2e.World) {
		prod, test := w.Hosts["production"], w.Hosts["test"]
		putJob(t, prod, 1, "first")
		w.StartProducer()
		w.StartConsumer()
		within(t, w, time.Minute, "test")
		time.Sleep(5 * time.Minute)
		putJob(t, test, 1, "by hand")
		test.SetFaults(fault(func(rw http.ResponseWriter, r *http.Request) bool {
			if isList(r) {
				problem(rw, 400)
				return true
			}
			return false
		}))
		time.Sleep(12 * time.Minute)
		if d, _ := w.Drift(oneSetting); d.Failed == "" {
			t.Fatal("the audit has not failed")
		}
		test.SetFaults(nil)
		time.Sleep(5 * time.Minute)
		d, entries := w.Drift(oneSetting)
		if d.Failed != "" {
			t.Errorf("failed still: %s", d.Failed)
		}
		same(t, "drift", entries, "Job 1 different: hold update (drift)")
	})
}
