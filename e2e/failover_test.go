package e2e_test

import (
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vcsync/vcsync/broker"
	"github.com/vcsync/vcsync/e2e"
	"github.com/vcsync/vcsync/schemas"
)

// TestAMismatchIsNoEdit: the target stores something else of an update than was sent.
// Nobody edited anything, whatever the setting does about edits.
func TestAMismatchIsNoEdit(t *testing.T) {
	t.Parallel()
	for _, edits := range []schemas.TargetEdits{schemas.OverwriteEdits, schemas.KeepEdits, schemas.ParkEdits} {
		t.Run(string(edits), func(t *testing.T) {
			t.Parallel()
			world(t, nil, func(w *e2e.World) {
				prod, test := w.Hosts["production"], w.AddHost("test")
				set := e2e.AllJobs(oneSetting, "production", "test", schemas.Follow)
				set.TargetEdits = edits
				w.Setting(set)
				putJob(t, prod, 1, "first")
				w.StartProducer()
				w.StartConsumer()
				time.Sleep(2 * time.Minute)
				test.SetFaults(func(next http.Handler) http.Handler {
					return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
						if r.Method == http.MethodPut {
							body, _ := io.ReadAll(r.Body)
							s := strings.Replace(string(body), "second", "respelled", 1)
							r.Body, r.ContentLength = io.NopCloser(strings.NewReader(s)), int64(len(s))
						}
						next.ServeHTTP(rw, r)
					})
				})
				putJob(t, prod, 1, "second")
				time.Sleep(20 * time.Minute)
				if p := parkedAs(w, "test", 1); p.Class != "mismatch" {
					t.Errorf("parked %+v", p)
				}
				test.SetFaults(nil)
				putJob(t, prod, 1, "third")
				time.Sleep(20 * time.Minute)
				if got := description(t, test, 1); got != "third" {
					t.Errorf("the target has %q", got)
				}
			})
		})
	}
}

// TestATakeoverThatDoesNotArriveTakesNothing: a write for another source is answered with
// a refusal, or with busy. Who brought what stands there has brought it still.
func TestATakeoverThatDoesNotArriveTakesNothing(t *testing.T) {
	t.Parallel()
	t.Run("refused, and the first source is back and deletes it", func(t *testing.T) {
		world(t, nil, func(w *e2e.World) {
			prod, alpha, test := w.Hosts["production"], w.AddHost("alpha"), w.AddHost("test")
			first, second := e2e.AllJobs("first", "alpha", "test", schemas.Follow), e2e.AllJobs(oneSetting, "production", "test", schemas.Follow)
			w.Setting(first)
			w.AddHost("other")
			w.Setting(e2e.AllJobs("third", "alpha", "other", schemas.Follow)) // alpha is captured all along
			putJob(t, alpha, 1, "of alpha")
			putJob(t, alpha, 2, "of alpha")
			putJob(t, prod, 1, "of production")
			w.StartProducer()
			w.StartConsumer()
			time.Sleep(2 * time.Minute)
			first.Active = false
			w.Setting(first)
			test.SetFaults(fault(func(rw http.ResponseWriter, r *http.Request) bool {
				if r.Method != http.MethodPut {
					return false
				}
				problem(rw, http.StatusUnprocessableEntity)
				return true
			}))
			w.Setting(second)
			time.Sleep(10 * time.Minute)
			second.Active = false
			w.Setting(second)
			deleteJob(t, alpha, 1)
			time.Sleep(2 * time.Minute)
			test.SetFaults(nil)
			first.Active = true
			w.Setting(first)
			time.Sleep(10 * time.Minute)
			if _, _, there := jobAt(t, test, 1); there {
				t.Error("what its source has deleted stands at the target for ever")
			}
		})
	})
	t.Run("busy, with a job that deletes itself", func(t *testing.T) {
		world(t, nil, func(w *e2e.World) {
			prod, alpha, test := w.Hosts["production"], w.AddHost("alpha"), w.AddHost("test")
			first := e2e.AllJobs("first", "alpha", "test", schemas.Follow)
			w.Setting(first)
			selfJob(t, alpha, 1, true, "of alpha", removes)
			selfJob(t, prod, 1, true, "of production", removes)
			w.StartProducer()
			w.StartConsumer()
			time.Sleep(2 * time.Minute)
			first.Active = false
			w.Setting(first)
			time.Sleep(time.Minute)
			var n atomic.Int32
			test.SetFaults(fault(func(rw http.ResponseWriter, r *http.Request) bool {
				if r.Method != http.MethodPut || n.Add(1) > 1 {
					return false
				}
				rw.Header().Set("Retry-After", "5")
				problem(rw, http.StatusTooManyRequests)
				return true
			}))
			w.Setting(e2e.AllJobs(oneSetting, "production", "test", schemas.Follow))
			time.Sleep(20 * time.Minute)
			if p := parkedAs(w, "test", 1); p.Class != "" || description(t, test, 1) != "of production" {
				t.Errorf("parked %+v", p)
			}
		})
	})
}

// TestADroppedRunHealsNothing: a person approves a plan that undoes an edit at the target,
// the target is busy, and the run is dropped, or its approval expires. From then on nobody
// wants that write.
func TestADroppedRunHealsNothing(t *testing.T) {
	t.Parallel()
	for _, how := range []string{"dropped", "expired"} {
		t.Run(how, func(t *testing.T) {
			t.Parallel()
			world(t, []schemas.Slug{"test"}, func(w *e2e.World) {
				prod, test := w.Hosts["production"], w.Hosts["test"]
				putJob(t, prod, 1, "of the source")
				w.StartProducer()
				w.StartConsumer()
				time.Sleep(2 * time.Minute)
				putJob(t, test, 1, "by hand")
				time.Sleep(20 * time.Minute)
				p, entries := w.Ask(oneSetting, broker.RunScope{})
				same(t, "plan", entries, "Job 1 different: update (differs)")
				var n atomic.Int32
				test.SetFaults(fault(func(rw http.ResponseWriter, r *http.Request) bool {
					if r.Method == http.MethodPut {
						n.Add(1)
					}
					if n.Load() > 0 {
						rw.WriteHeader(http.StatusServiceUnavailable)
					}
					return n.Load() > 0
				}))
				w.Move(oneSetting, broker.RunApplying, p.ID)
				if how == "dropped" {
					time.Sleep(5 * time.Minute)
					w.Move(oneSetting, broker.RunDropped, "")
				} else {
					time.Sleep(70 * time.Minute)
					w.Finish(p)
				}
				time.Sleep(5 * time.Minute)
				test.SetFaults(nil)
				time.Sleep(40 * time.Minute)
				if got := description(t, test, 1); got != "by hand" || n.Load() == 0 {
					t.Errorf("the target has %q after %d tries and a run that was %s", got, n.Load(), how)
				}
			})
		})
	}
}
