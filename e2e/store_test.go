package e2e_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/minio/highwayhash"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/vcsync/vcsync/broker"
	"github.com/vcsync/vcsync/e2e"
	"github.com/vcsync/vcsync/schemas"
)

// rebuilt goes on with a store that lost what happened before: settings come again where
// they are gone, vcsync is in safe mode, and the rebuild's run is approved. Since the loss
// two jobs differ, one is new, and one is gone at its source: nothing else is written,
// nothing is deleted, and the end of safe mode changes nothing.
//
// Where the newest states are known the deletion at the source is too, and is followed
// once a person has ended safe mode.
func rebuilt(t *testing.T, w *e2e.World, known bool) {
	t.Helper()
	test := w.Hosts["test"]
	snap, err := w.Broker.Snapshot(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	if len(snap.Servers) == 0 {
		w.Register(w.Hosts["production"])
		w.Register(test)
		w.Setting(e2e.AllJobs(oneSetting, "production", "test", schemas.Keep))
	}
	m, err := w.Broker.GetSafeMode(context.Background())
	if err != nil || !m.On {
		t.Fatalf("safe mode: %+v, %v", m, err)
	}
	w.StartProducer()
	w.StartConsumer()
	time.Sleep(20 * time.Minute)
	wrote(t, test, "before anybody approved", 0, 0)
	p, entries := w.Ask(oneSetting, broker.RunScope{})
	w.Approve(p)
	if puts, deletes := test.Count(); puts != 3 || deletes != 0 {
		t.Errorf("the rebuild: %d puts and %d deletes, want 3 and 0; its plan:\n%v", puts, deletes, lines(entries))
	}
	test.Reset()
	safeMode(w, false)
	time.Sleep(40 * time.Minute)
	deletes := 0
	if known {
		deletes = 1
	}
	wrote(t, test, "after safe mode", 0, deletes)
	endsEqual(t, w, known)
}

// endsEqual compares source and target, but for job 9, which was deleted at its source
// when nobody could remember that it had been there.
func endsEqual(t *testing.T, w *e2e.World, known bool) {
	t.Helper()
	prod, test := w.Hosts["production"], w.Hosts["test"]
	if ok, err := test.Server.Delete(schemas.Job, jobID(9)); err != nil || ok == known {
		t.Errorf("job 9 at the target: %v %v", ok, err)
	}
	if ok, err := test.Server.Delete(schemas.Job, jobID(50)); err != nil || !ok {
		t.Errorf("the target's own job: %v %v", ok, err)
	}
	if d := e2e.Diverged(prod, test, schemas.Keep); d != nil {
		t.Errorf("differences: %v", d)
	}
}

// inMidRun fills source and target and ends the process while writes are under way; then
// the source goes on without it.
func inMidRun(t *testing.T, w *e2e.World) {
	t.Helper()
	midRun(t, w, w.Die)
}

// midRun is inMidRun that ends in another way.
func midRun(t *testing.T, w *e2e.World, end func()) {
	t.Helper()
	prod, test := w.Hosts["production"], w.Hosts["test"]
	for i := range 10 {
		putJob(t, prod, i, "first")
	}
	putJob(t, test, 50, "the target's own")
	w.StartProducer()
	w.StartConsumer()
	time.Sleep(2 * time.Minute)
	if n := len(e2e.Diverged(prod, test, schemas.Keep)); n != 1 {
		t.Fatalf("%d differences before the loss, want the target's own job", n)
	}
	wrote(t, test, "the first pass", 10, 0)
	test.SetFaults(fault(func(rw http.ResponseWriter, r *http.Request) bool {
		if r.Method == http.MethodGet {
			return false
		}
		time.Sleep(time.Second)
		http.Error(rw, "busy", http.StatusServiceUnavailable)
		return true
	}))
	putJob(t, prod, 1, "edited")
	time.Sleep(1500 * time.Millisecond)
	end()
	wrote(t, test, "until the end", 0, 0)
	test.SetFaults(nil)
	putJob(t, prod, 2, "edited while away")
	putJob(t, prod, 20, "new")
	deleteJob(t, prod, 9)
}

// TestTheStoreIsLostInMidRun loses the store, with and without what lies beside it.
func TestTheStoreIsLostInMidRun(t *testing.T) {
	t.Parallel()
	for _, lost := range []string{"data/broker", "data"} {
		t.Run(lost, func(t *testing.T) {
			t.Parallel()
			world(t, []schemas.Slug{"test"}, func(w *e2e.World) {
				inMidRun(t, w)
				if err := os.RemoveAll(filepath.Join(w.Dir, lost)); err != nil {
					t.Fatal(err)
				}
				if lost == "data" { // nothing is left that could tell
					w.OpenBroker()
					safeMode(w, true)
				} else {
					if err := w.TryBroker(); !errors.Is(err, broker.ErrWentBackwards) {
						t.Fatalf("start: %v, want ErrWentBackwards", err)
					}
					w.AcceptLoss = true
					w.OpenBroker()
				}
				rebuilt(t, w, false)
			})
		})
	}
}

// TestTheStoreIsDamaged flips a byte of a stream while vcsync is away.
func TestTheStoreIsDamaged(t *testing.T) {
	t.Parallel()
	for _, stream := range []string{broker.StreamEvents, broker.StreamState, "KV_" + broker.BucketLedger, "KV_" + broker.BucketConfig} {
		t.Run(stream, func(t *testing.T) {
			t.Parallel()
			world(t, []schemas.Slug{"test"}, func(w *e2e.World) {
				inMidRun(t, w)
				blocks, _ := filepath.Glob(filepath.Join(streamFolder(w, stream), "msgs", "*.blk"))
				if len(blocks) == 0 {
					t.Fatal("no block")
				}
				raw, err := os.ReadFile(blocks[0])
				if err != nil {
					t.Fatal(err)
				}
				raw[len(raw)/2] ^= 1
				if err := os.WriteFile(blocks[0], raw, 0o600); err != nil {
					t.Fatal(err)
				}
				if err := w.TryBroker(); !errors.Is(err, broker.ErrDamaged) {
					t.Fatalf("start: %v, want ErrDamaged", err)
				}
				wrote(t, w.Hosts["test"], "a refused start", 0, 0)
				w.AcceptLoss = true
				w.OpenBroker()
				rebuilt(t, w, stream == broker.StreamState || stream == "KV_"+broker.BucketConfig)
			})
		})
	}
}

// TestAStreamIsPurged: the broker refuses it; and where somebody does it behind its back,
// the next start says so.
func TestAStreamIsPurged(t *testing.T) {
	t.Parallel()
	for _, stream := range []string{broker.StreamEvents, broker.StreamState} {
		t.Run(stream, func(t *testing.T) {
			t.Parallel()
			world(t, []schemas.Slug{"test"}, func(w *e2e.World) {
				w.Do(func(ctx context.Context) error {
					s, err := w.Broker.JS().Stream(ctx, stream)
					if err != nil {
						return err
					}
					if s.Purge(ctx) == nil {
						t.Error("the broker let it be purged")
					}
					cfg := s.CachedInfo().Config
					cfg.DenyPurge = false
					if _, err := w.Broker.JS().UpdateStream(ctx, cfg); err == nil {
						t.Error("the broker took the deny away")
					}
					return nil
				})
				inMidRun(t, w)
				purgeByHand(t, w, stream)
				if err := w.TryBroker(); !errors.Is(err, broker.ErrWentBackwards) {
					t.Fatalf("start: %v, want ErrWentBackwards", err)
				}
				w.AcceptLoss = true
				w.OpenBroker()
				rebuilt(t, w, true)
			})
		})
	}
}

// TestAStreamIsDeletedWhileVcsyncRuns: it is said at once; until the process ends nothing
// is deleted; and it does end.
func TestAStreamIsDeletedWhileVcsyncRuns(t *testing.T) {
	t.Parallel()
	for _, stream := range []string{broker.StreamState, broker.StreamEvents} {
		t.Run(stream, func(t *testing.T) {
			t.Parallel()
			world(t, []schemas.Slug{"test"}, func(w *e2e.World) {
				midRun(t, w, func() {
					w.Do(func(ctx context.Context) error { return w.Broker.JS().DeleteStream(ctx, stream) })
					select {
					case err := <-w.Broker.Lost():
						if !errors.Is(err, broker.ErrWentBackwards) {
							t.Errorf("lost: %v", err)
						}
					case <-time.After(5 * time.Second):
						t.Error("nobody has noticed it")
					}
					time.Sleep(10 * time.Second)
					w.Die() // as vcsync up does then
				})
				if err := w.TryBroker(); !errors.Is(err, broker.ErrWentBackwards) {
					t.Fatalf("start: %v, want ErrWentBackwards", err)
				}
				w.AcceptLoss = true
				w.OpenBroker()
				rebuilt(t, w, stream == broker.StreamState)
			})
		})
	}
}

func streamFolder(w *e2e.World, stream string) string {
	return filepath.Join(w.Dir, "data", "broker", "jetstream", "$G", "streams", stream)
}

// purgeByHand empties a stream of a store that nobody uses.
func purgeByHand(t *testing.T, w *e2e.World, stream string) {
	t.Helper()
	deny := func(on bool) {
		folder := streamFolder(w, stream)
		raw, err := os.ReadFile(filepath.Join(folder, "meta.inf"))
		if err != nil {
			t.Fatal(err)
		}
		raw = bytes.Replace(raw, fmt.Appendf(nil, `"deny_purge":%t`, !on), fmt.Appendf(nil, `"deny_purge":%t`, on), 1)
		key := sha256.Sum256([]byte(stream))
		h, err := highwayhash.NewDigest64(key[:])
		if err != nil {
			t.Fatal(err)
		}
		h.Write(raw)
		if err := errors.Join(os.WriteFile(filepath.Join(folder, "meta.inf"), raw, 0o600),
			os.WriteFile(filepath.Join(folder, "meta.sum"), []byte(hex.EncodeToString(h.Sum(nil))), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	deny(false)
	s, err := server.NewServer(&server.Options{DontListen: true, JetStream: true, StoreDir: filepath.Join(w.Dir, "data", "broker"), NoSigs: true, NoLog: true})
	if err != nil {
		t.Fatal(err)
	}
	s.Start()
	if !s.ReadyForConnections(10 * time.Second) {
		t.Fatal("the server does not start")
	}
	nc, err := nats.Connect("", nats.InProcessServer(s))
	if err != nil {
		t.Fatal(err)
	}
	js, err := jetstream.New(nc)
	if err == nil {
		var x jetstream.Stream
		if x, err = js.Stream(context.Background(), stream); err == nil {
			err = x.Purge(context.Background())
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	nc.Close()
	time.Sleep(5 * time.Second) // a request that is under way would keep Shutdown waiting
	s.Shutdown()
	s.WaitForShutdown()
	deny(true)
}
