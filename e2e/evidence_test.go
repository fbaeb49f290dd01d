package e2e_test

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vcsync/vcsync/broker"
	"github.com/vcsync/vcsync/consumer"
	"github.com/vcsync/vcsync/e2e"
	"github.com/vcsync/vcsync/schemas"
)

// One complete listing that lacks an object is no evidence.
func TestOneListingIsNoEvidence(t *testing.T) {
	world(t, []schemas.Slug{"test"}, func(w *e2e.World) {
		prod := w.Hosts["production"]
		for i := range 3 {
			putJob(t, prod, i, "first")
		}
		w.StartProducer()
		w.StartConsumer()
		within(t, w, time.Minute, "test")
		var n atomic.Int32
		prod.SetFaults(func(next http.Handler) http.Handler {
			return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
				if n.Add(1); !isList(r) {
					next.ServeHTTP(rw, r)
					return
				}
				rec := httptest.NewRecorder()
				next.ServeHTTP(rec, r)
				var rows []json.RawMessage
				if err := json.Unmarshal(rec.Body.Bytes(), &rows); err != nil {
					t.Error(err)
				}
				prod.SetFaults(nil) // once
				raw, _ := json.Marshal(rows[1:])
				rw.Header().Set("Content-Type", "application/json")
				rw.Write(raw)
			})
		})
		time.Sleep(5 * time.Minute)
		if _, deletes := w.Hosts["test"].Count(); n.Load() == 0 || deletes != 0 {
			t.Errorf("%d deletes", deletes)
		}
		w.Do(func(ctx context.Context) error {
			ev, err := w.Broker.Events(ctx, broker.EventQuery{Kind: schemas.Deleted}, 10)
			if len(ev) > 0 {
				t.Errorf("G4: %d deletions published", len(ev))
			}
			return err
		})
	})
}

// Nothing is acknowledged while its write is under way.
func TestNothingIsAcknowledgedBeforeItIsRecorded(t *testing.T) {
	world(t, []schemas.Slug{"test"}, func(w *e2e.World) {
		w.Hosts["test"].SetFaults(fault(func(rw http.ResponseWriter, r *http.Request) bool {
			if r.Method == http.MethodPut {
				io.Copy(io.Discard, r.Body)
				<-r.Context().Done()
				return true
			}
			return false
		}))
		w.StartProducer()
		w.StartConsumer()
		time.Sleep(time.Minute)
		putJob(t, w.Hosts["production"], 1, "first")
		time.Sleep(5 * time.Second)
		w.Do(func(ctx context.Context) error {
			c, err := w.Broker.JS().Consumer(ctx, broker.StreamState, "set-production-to-test")
			if err != nil {
				return err
			}
			i, err := c.Info(ctx)
			if err == nil && i.NumAckPending != 1 {
				t.Errorf("%d messages wait for their acknowledgement, want 1", i.NumAckPending)
			}
			return err
		})
	})
}

// Rows read between two answers of the right server are that server's.
// The server behind the address is another one from the first listing on, and says
// so only when asked (a proxy takes the header out).
func TestRowsOfAnotherServerAreNotPublished(t *testing.T) {
	for name, fill := range map[string]func(h *e2e.Host){
		"another content": func(h *e2e.Host) { putJob(t, h, 1, "of another server") },
		"fewer objects":   func(h *e2e.Host) { putJob(t, h, 0, "first"); putJob(t, h, 1, "first") },
	} {
		t.Run(name, func(t *testing.T) { rowsOfAnotherServer(t, fill) })
	}
}

func rowsOfAnotherServer(t *testing.T, fill func(h *e2e.Host)) {
	world(t, []schemas.Slug{"test"}, func(w *e2e.World) {
		prod := w.Hosts["production"]
		for i := range 3 {
			putJob(t, prod, i, "first")
		}
		other, err := e2e.NewHost("elsewhere")
		if err != nil {
			t.Fatal(err)
		}
		defer other.Server.Close()
		fill(other)
		w.StartProducer()
		w.StartConsumer()
		within(t, w, time.Minute, "test")
		w.Hosts["test"].Reset()
		var listed atomic.Bool
		prod.SetFaults(func(next http.Handler) http.Handler {
			return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
				if !isList(r) && !listed.Load() {
					next.ServeHTTP(rw, r)
					return
				}
				listed.Store(true)
				rec := httptest.NewRecorder()
				other.Server.Handler().ServeHTTP(rec, r)
				if rec.Code == http.StatusUnauthorized { // the token is the first server's
					if isList(r) {
						rec = httptest.NewRecorder()
						var rows []json.RawMessage
						for _, o := range other.Server.Objects(schemas.Job) {
							rows = append(rows, o.Body)
						}
						raw, _ := json.Marshal(rows)
						rec.Header().Set("Content-Type", "application/json")
						rec.Write(raw)
					}
				}
				for k, v := range rec.Header() {
					if k != http.CanonicalHeaderKey("VisualCron-Server-Id") {
						rw.Header()[k] = v
					}
				}
				rw.WriteHeader(rec.Code)
				rw.Write(rec.Body.Bytes())
			})
		})
		time.Sleep(5 * time.Minute)
		if !listed.Load() {
			t.Error("nothing was listed")
		}
		wrote(t, w.Hosts["test"], "rows of another server", 0, 0)
	})
}

// What the ledger holds as newer is not overwritten, whatever the stream
// says (a store that lost events and whose high-water file is lost too).
func TestTheLedgerRefusesAnOlderVersion(t *testing.T) {
	world(t, []schemas.Slug{"test"}, func(w *e2e.World) {
		prod, test := w.Hosts["production"], w.Hosts["test"]
		putJob(t, prod, 1, "older")
		putJob(t, test, 1, "newer")
		test.Reset()
		w.Do(func(ctx context.Context) error {
			l, err := w.Broker.OpenLedger(ctx, "test")
			if err != nil {
				return err
			}
			defer l.Close()
			return l.Put(ctx, broker.Entry{Type: schemas.Job, ID: jobID(1), Source: "production", Version: schemas.Version{Epoch: 1, Revision: 7},
				Digest: schemas.DigestOf([]byte("x")), Policy: schemas.Keep, State: broker.Applied, At: time.Now()})
		})
		w.StartProducer()
		w.StartConsumer()
		time.Sleep(20 * time.Minute)
		if puts, deletes := test.Count(); puts+deletes != 0 {
			t.Errorf("G3: version 1.1 was written over 1.7: %d puts, %d deletes", puts, deletes)
		}
	})
}

// A crash between a create and its record, then a deletion at the source,
// leaves no orphan.
func TestACrashAfterACreateLeavesNoOrphan(t *testing.T) {
	world(t, []schemas.Slug{"test"}, func(w *e2e.World) {
		prod, test := w.Hosts["production"], w.Hosts["test"]
		test.SetFaults(func(next http.Handler) http.Handler {
			return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
				if r.Method == http.MethodPut { // applied, and the answer does not come
					next.ServeHTTP(discard{}, r)
					<-r.Context().Done()
					return
				}
				next.ServeHTTP(rw, r)
			})
		})
		putJob(t, prod, 1, "first")
		w.StartProducer()
		w.StartConsumer()
		time.Sleep(3 * time.Second)
		w.StopConsumer(consumer.ErrCrash)
		test.SetFaults(nil)
		deleteJob(t, prod, 1)
		time.Sleep(2 * time.Minute)
		w.StartConsumer()
		time.Sleep(10 * time.Minute)
		if _, there := test.Server.Get(schemas.Job, jobID(1)); there {
			t.Error("G2: an orphan stays at the target")
		}
	})
}

// An object that was parked right after a write with an open outcome, and
// whose newer version comes at once, is not overwritten by the late one.
func TestALateWriteOfAParkedVersion(t *testing.T) {
	world(t, []schemas.Slug{"test"}, func(w *e2e.World) {
		prod, test := w.Hosts["production"], w.Hosts["test"]
		var v2 atomic.Bool
		test.SetFaults(func(next http.Handler) http.Handler {
			return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
				if r.Method != http.MethodPut {
					next.ServeHTTP(rw, r)
					return
				}
				body, _ := io.ReadAll(r.Body)
				r.Body = io.NopCloser(bytes.NewReader(body))
				if !bytes.Contains(body, []byte("v1")) {
					v2.Store(true)
					next.ServeHTTP(rw, r)
					return
				}
				again := r.Clone(context.WithoutCancel(r.Context()))
				again.Body = io.NopCloser(bytes.NewReader(body))
				go func() {
					if time.Sleep(2500 * time.Millisecond); v2.Load() {
						next.ServeHTTP(discard{}, again)
					}
				}()
				rw.WriteHeader(http.StatusGatewayTimeout)
			})
		})
		putJob(t, prod, 1, "v1")
		w.StartProducer()
		w.StartConsumer()
		for range 20000 {
			if time.Sleep(50 * time.Millisecond); len(listParked(t, w)) > 0 {
				break
			}
		}
		putJob(t, prod, 1, "v2")
		time.Sleep(10 * time.Minute)
		if body, _ := test.Server.Get(schemas.Job, jobID(1)); !bytes.Contains(body, []byte("v2")) {
			t.Errorf("G3: v1 landed on v2: %.200s", body)
		}
	})
}

// A plan made under older settings is dropped: what is narrowed while the target is
// being read is not written any more (G13).
func TestAPlanOfOlderSettingsIsNotSent(t *testing.T) {
	world(t, []schemas.Slug{"test"}, func(w *e2e.World) {
		prod, test := w.Hosts["production"], w.Hosts["test"]
		putJob(t, prod, 1, "first")
		w.StartProducer()
		w.StartConsumer()
		within(t, w, time.Minute, "test")
		time.Sleep(time.Minute)
		test.Reset()
		reading, goOn := make(chan struct{}, 1), make(chan struct{})
		test.SetFaults(fault(func(_ http.ResponseWriter, r *http.Request) bool {
			if r.Method == http.MethodGet && strings.HasSuffix(r.URL.Path, string(jobID(1))) {
				select {
				case reading <- struct{}{}:
				default:
				}
				<-goOn
			}
			return false
		}))
		putJob(t, prod, 1, "second")
		<-reading
		s := e2e.AllJobs("production-to-test", "production", "test", schemas.Keep)
		s.Rules[schemas.Job] = schemas.Rule{Sync: schemas.SyncAll, Rights: schemas.Rights{New: true}}
		w.Setting(s)
		time.Sleep(time.Second) // the narrower setting is in force
		close(goOn)
		time.Sleep(time.Minute)
		if puts, _ := test.Count(); puts != 0 {
			t.Errorf("%d writes that the settings no longer allow", puts)
		}
	})
}
