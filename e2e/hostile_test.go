package e2e_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/vcsync/vcsync/e2e"
	"github.com/vcsync/vcsync/schemas"
)

// late makes every write of a job that holds mark go wrong: after left has ended
// (the client is gone) or at once, it lands after the delay all the same.
func late(mark string, delay time.Duration, waitForLeaving bool) func(http.Handler) http.Handler {
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			if r.Method != http.MethodPut {
				next.ServeHTTP(rw, r)
				return
			}
			body, _ := io.ReadAll(r.Body)
			r.Body = io.NopCloser(bytes.NewReader(body))
			if !bytes.Contains(body, []byte(mark)) {
				next.ServeHTTP(rw, r)
				return
			}
			again := r.Clone(context.WithoutCancel(r.Context()))
			again.Body = io.NopCloser(bytes.NewReader(body))
			land := func() { time.Sleep(delay); next.ServeHTTP(discard{}, again) }
			if waitForLeaving {
				<-r.Context().Done()
				land()
				return
			}
			go land()
			rw.WriteHeader(http.StatusGatewayTimeout)
		})
	}
}

func TestAWriteThatLandsLateIsNotOvertaken(t *testing.T) {
	holds := func(t *testing.T, h *e2e.Host, want string) {
		t.Helper()
		if body, _ := h.Server.Get(schemas.Job, jobID(1)); !bytes.Contains(body, []byte(want)) {
			t.Errorf("the target holds something else than %s: %.300s", want, body)
		}
	}
	t.Run("when the server says that it failed", func(t *testing.T) {
		world(t, []schemas.Slug{"test"}, func(w *e2e.World) {
			prod, test := w.Hosts["production"], w.Hosts["test"]
			test.SetFaults(late("v1", 1500*time.Millisecond, false))
			w.StartProducer()
			w.StartConsumer()
			time.Sleep(10 * time.Second)
			putJob(t, prod, 1, "v1")
			time.Sleep(200 * time.Millisecond)
			putJob(t, prod, 1, "v2")
			time.Sleep(4 * time.Minute)
			holds(t, test, "v2")
		})
	})
	t.Run("when the writer is stopped while it is under way", func(t *testing.T) {
		world(t, []schemas.Slug{"test"}, func(w *e2e.World) {
			prod, test := w.Hosts["production"], w.Hosts["test"]
			test.SetFaults(late("v1", 2*time.Second, true))
			putJob(t, prod, 1, "v1")
			w.StartProducer()
			w.StartConsumer()
			time.Sleep(3 * time.Second)
			putJob(t, prod, 1, "v2")
			time.Sleep(time.Second)
			begun := time.Now()
			w.StopConsumer(nil)
			if took := time.Since(begun); took > 9*time.Second {
				t.Errorf("the stop took %s", took)
			}
			w.StartConsumer()
			time.Sleep(4 * time.Minute)
			holds(t, test, "v2")
		})
	})
	t.Run("when the writer is killed while it is under way", func(t *testing.T) {
		world(t, []schemas.Slug{"test"}, func(w *e2e.World) {
			prod, test := w.Hosts["production"], w.Hosts["test"]
			test.SetFaults(late("v1", 2*time.Second, true))
			putJob(t, prod, 1, "v1")
			w.StartProducer()
			w.StartConsumer()
			time.Sleep(3 * time.Second)
			putJob(t, prod, 1, "v2")
			time.Sleep(time.Second)
			w.Crash()
			w.StartProducer()
			w.StartConsumer()
			time.Sleep(4 * time.Minute)
			holds(t, test, "v2")
		})
	})
}

// spoilSecrets makes a source give its secrets as mask, and say so.
func spoilSecrets(mode, mask string) func(http.Handler) http.Handler {
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			if r.Method != http.MethodGet || strings.HasSuffix(r.URL.Path, "changes") {
				next.ServeHTTP(rw, r)
				return
			}
			rec := httptest.NewRecorder()
			next.ServeHTTP(rec, r)
			for k, v := range rec.Header() {
				rw.Header()[k] = v
			}
			rw.Header().Del("Content-Length")
			rw.Header().Del("VisualCron-Secrets")
			rw.WriteHeader(rec.Code)
			io.WriteString(rw, strings.NewReplacer(`"dmFsdWU="`, mask, `"secrets":"equal"`, fmt.Sprintf(`"secrets":%q`, mode)).Replace(rec.Body.String()))
		})
	}
}

func TestAMaskNeverDestroysASecret(t *testing.T) {
	for mode, mask := range map[string]string{"masked": `"********"`, "null": "null", "opaque": `"c2VydmVyIG9ubHk="`, "": "null"} {
		t.Run("mode "+mode, func(t *testing.T) {
			world(t, []schemas.Slug{"test"}, func(w *e2e.World) {
				prod, test := w.Hosts["production"], w.Hosts["test"]
				prod.SetFaults(spoilSecrets(mode, mask))
				putJob(t, prod, 1, "of production")
				putJob(t, test, 1, "at test")
				w.StartProducer()
				w.StartConsumer()
				time.Sleep(2 * time.Minute)
				body, _ := test.Server.Get(schemas.Job, jobID(1))
				if !bytes.Contains(body, []byte("dmFsdWU=")) {
					t.Errorf("the target's secret is gone: %.300s", body)
				}
				if puts, deletes := test.Count(); puts != 1 || deletes != 0 || !bytes.Contains(body, []byte("of production")) {
					t.Errorf("%d puts, %d deletes; want what is no secret to arrive: %.300s", puts, deletes, body)
				}
				if p := listParked(t, w); len(p) != 0 {
					t.Errorf("flagged, although the target has its secret: %+v", p)
				}
			})
		})
	}
}

func TestAnObjectThatWasNeverOursIsNotDeleted(t *testing.T) {
	world(t, nil, func(w *e2e.World) {
		prod, test := w.Hosts["production"], w.AddHost("test")
		s := e2e.AllJobs("some", "production", "test", schemas.Keep)
		s.Rules = map[schemas.Type]schemas.Rule{schemas.Job: {Sync: schemas.SyncAll, Rights: schemas.Rights{New: true, Deleted: true}}}
		w.Setting(s)
		putJob(t, prod, 1, "of production")
		putJob(t, prod, 2, "of production")
		putJob(t, prod, 3, "the same on both")
		putJob(t, test, 1, "made at test")
		putJob(t, test, 3, "the same on both")
		w.StartProducer()
		w.StartConsumer()
		time.Sleep(2 * time.Minute)
		for i := 1; i <= 3; i++ {
			deleteJob(t, prod, i)
		}
		time.Sleep(2 * time.Minute)
		if _, there := test.Server.Get(schemas.Job, jobID(1)); !there {
			t.Error("an object that vcsync neither brought nor found equal was deleted")
		}
		if puts, deletes := test.Count(); puts != 1 || deletes != 2 {
			t.Errorf("%d puts, %d deletes; want the one new job, and deletions of that and of the equal one", puts, deletes)
		}
		before := test.Requests()
		time.Sleep(time.Hour)
		if n := test.Requests() - before; n > 2*4 { // an audit asks who it is and lists, every 15 minutes
			t.Errorf("%d requests in an hour about an object that nobody takes", n)
		}
	})
}

func TestADiscardedConflictStaysDiscarded(t *testing.T) {
	world(t, []schemas.Slug{"test"}, func(w *e2e.World) {
		other := w.AddHost("other")
		w.Setting(e2e.AllJobs("other-to-test", "other", "test", schemas.Keep))
		putJob(t, w.Hosts["production"], 1, "of production")
		putJob(t, other, 1, "of other")
		w.StartProducer()
		w.StartConsumer()
		time.Sleep(2 * time.Minute)
		parked := listParked(t, w)
		if len(parked) != 1 {
			t.Fatalf("parked: %+v", parked)
		}
		attempts := parked[0].Attempts
		parked[0].Discarded = "known"
		w.Do(func(ctx context.Context) error { _, err := w.Broker.PutParked(ctx, parked[0]); return err })
		time.Sleep(30 * time.Minute)
		parked = listParked(t, w)
		if len(parked) != 1 || parked[0].Discarded != "known" || parked[0].Attempts != attempts {
			t.Errorf("after half an hour: %+v", parked)
		}
	})
}

func TestATargetThatEchoesASecretIsNotQuoted(t *testing.T) {
	world(t, []schemas.Slug{"test"}, func(w *e2e.World) {
		w.Hosts["test"].SetFaults(fault(func(rw http.ResponseWriter, r *http.Request) bool {
			if r.Method != http.MethodPut {
				return false
			}
			rw.Header().Set("Content-Type", "application/problem+json")
			rw.WriteHeader(http.StatusUnprocessableEntity)
			io.WriteString(rw, `{"title":"cannot store the variable with value dmFsdWU="}`)
			return true
		}))
		putJob(t, w.Hosts["production"], 1, "first")
		w.StartProducer()
		w.StartConsumer()
		time.Sleep(time.Minute)
		parked := listParked(t, w)
		if len(parked) != 1 || !strings.Contains(parked[0].Reason, "cannot store the variable") || strings.Contains(parked[0].Reason, "dmFsdWU=") {
			t.Errorf("parked: %+v", parked)
		}
	})
}
