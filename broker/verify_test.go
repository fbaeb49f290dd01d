package broker_test

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/minio/highwayhash"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/vcsync/vcsync/broker"
	"github.com/vcsync/vcsync/broker/brokertest"
	"github.com/vcsync/vcsync/schemas"
)

// damagedStore fills a store with more than one block of events and returns copies of its
// folder: one of a clean stop, and one of a running store, whose marks are of that moment.
func damagedStore(t *testing.T) map[string]string {
	t.Helper()
	dir := t.TempDir()
	b := brokertest.Open(t, dir)
	for i := range 20 {
		e := event("job-"+strconv.Itoa(i), schemas.Added, 1)
		junk := make([]byte, 500_000)
		rand.Read(junk)
		e.Object.Body = fmt.Appendf(nil, `{"Id":"job-%d","Junk":"%x"}`, i, junk)
		e.Digest = schemas.DigestOf(e.Object.Body)
		publish(t, b, broker.Change{Event: e})
	}
	if err := b.WaitState(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Epoch(t.Context(), "production"); err != nil {
		t.Fatal(err)
	}
	for i := range 3 {
		s := schemas.Server{ID: schemas.Slug("server-" + strconv.Itoa(i)), Address: "https://127.0.0.1:1", User: "admin", Connector: "bridge"}
		if _, err := b.PutServer(t.Context(), s, 0); err != nil {
			t.Fatal(err)
		}
	}
	l, err := b.OpenLedger(t.Context(), "test")
	if err != nil {
		t.Fatal(err)
	}
	for i := range 40 {
		e := broker.Entry{Type: schemas.Job, ID: schemas.ID("job-" + strconv.Itoa(i)), Source: "production", Version: schemas.Version{Epoch: 1, Revision: 1}, State: broker.Applied, At: time.Now().UTC()}
		if err := l.Put(t.Context(), e); err != nil {
			t.Fatal(err)
		}
	}
	if err := b.Mark(t.Context()); err != nil {
		t.Fatal(err)
	}
	out := map[string]string{"unclean": copyOf(t, dir)}
	b.Close()
	out["clean"] = copyOf(t, dir)
	return out
}

func copyOf(t *testing.T, dir string) string {
	t.Helper()
	out := filepath.Join(t.TempDir(), "data")
	if err := os.CopyFS(out, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(filepath.Join(out, "keyring.json"), 0o600); err != nil {
		t.Fatal(err)
	}
	return out
}

// blocks returns the block files of a stream, in order.
func blocks(t *testing.T, dir, stream string) []string {
	t.Helper()
	out, err := filepath.Glob(filepath.Join(dir, "broker", "jetstream", "$G", "streams", stream, "msgs", "*.blk"))
	if err != nil || out == nil {
		t.Fatalf("blocks of %s: %v, %v", stream, out, err)
	}
	slices.SortFunc(out, func(a, b string) int { return number(a) - number(b) })
	return out
}

func number(block string) int {
	n, _ := strconv.Atoi(strings.TrimSuffix(filepath.Base(block), ".blk"))
	return n
}

func flip(t *testing.T, file string, at int) {
	t.Helper()
	raw, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	raw[at] ^= 0x10
	if err := os.WriteFile(file, raw, 0o600); err != nil {
		t.Fatal(err)
	}
}

// tree is what a folder holds.
func tree(t *testing.T, dir string) string {
	t.Helper()
	var out strings.Builder
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() && filepath.Base(path) != "lock" {
			var raw []byte
			raw, err = os.ReadFile(path)
			fmt.Fprintln(&out, path, schemas.DigestOf(raw))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out.String()
}

func TestADamagedStoreIsRefused(t *testing.T) {
	from := damagedStore(t)
	streams := []string{broker.StreamEvents, broker.StreamState, "KV_" + broker.BucketLedger, "KV_" + broker.BucketConfig}
	for stop, whole := range from {
		for _, stream := range streams {
			for _, where := range []string{"first block", "last block", "last record", "length", "meta.inf"} {
				t.Run(strings.Join([]string{stop, stream, where}, " "), func(t *testing.T) {
					dir := copyOf(t, whole)
					all := blocks(t, dir, stream)
					file, name := all[len(all)-1], stream
					raw, _ := os.ReadFile(file)
					at := len(raw) / 2
					switch where {
					case "first block":
						if file = all[0]; len(all) == 1 && stream == broker.StreamEvents {
							t.Fatal("one block only")
						}
						raw, _ = os.ReadFile(file)
						at = len(raw) / 3
					case "last record":
						at = len(raw) - 12
					case "length":
						at = 1
					case "meta.inf":
						file, at = filepath.Join(filepath.Dir(filepath.Dir(file)), "meta.inf"), 20
					}
					flip(t, file, at)
					before := tree(t, dir)
					cfg := broker.Config{Dir: dir, LazySync: true, Command: map[bool]string{true: "vcsync demo"}[where == "first block"], Log: slog.New(slog.DiscardHandler)}
					_, err := broker.Open(t.Context(), cfg)
					if !errors.Is(err, broker.ErrDamaged) || !strings.Contains(err.Error(), name) || !strings.Contains(err.Error(), filepath.Base(file)) || !strings.Contains(err.Error(), cmp.Or(cfg.Command, "vcsync up")+" once with --accept-loss") {
						t.Fatalf("open: %v, want ErrDamaged with stream and file", err)
					}
					broken, _ := os.ReadFile(file)
					if after := tree(t, dir); after != before {
						t.Errorf("the refused start changed files:\n%s\nbefore:\n%s", after, before)
					}
					if where != "first block" && where != "meta.inf" {
						return
					}
					cfg.AcceptLoss = true
					b, err := broker.Open(t.Context(), cfg)
					if err != nil {
						t.Fatalf("with accept-loss: %v", err)
					}
					defer b.Close()
					if m, err := b.GetSafeMode(t.Context()); err != nil || !m.On || !strings.Contains(m.Why, stream) {
						t.Errorf("safe mode: %+v, %v", m, err)
					}
					if epoch, err := b.Epoch(t.Context(), "production"); err != nil || epoch != 2 {
						t.Errorf("epoch %d, %v; want 2", epoch, err)
					}
					kept, _ := filepath.Glob(filepath.Join(dir, "broker", "damaged", "*", stream, strings.TrimPrefix(file, filepath.Dir(filepath.Dir(file)))))
					if where == "meta.inf" {
						kept, _ = filepath.Glob(filepath.Join(dir, "broker", "damaged", "*", stream, "meta.inf"))
					}
					if len(kept) != 1 {
						t.Fatalf("moved aside: %v", kept)
					}
					if raw, err := os.ReadFile(kept[0]); err != nil || !bytes.Equal(raw, broken) {
						t.Errorf("what was moved aside is not what was damaged: %v", err)
					}
					publish(t, b, broker.Change{Event: event("new", schemas.Added, 1)})
					ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
					defer cancel()
					if err := b.WaitState(ctx); err != nil {
						t.Errorf("the newest states do not follow the events: %v", err)
					}
					if _, _, err := b.NewestOf(ctx, event("new", schemas.Added, 1).Key()); err != nil {
						t.Error(err)
					}
					if stream == broker.StreamState { // a copy of what is whole
						if _, _, err := b.NewestOf(ctx, event("job-3", schemas.Added, 1).Key()); err != nil {
							t.Errorf("an object that the events hold: %v", err)
						}
					}
				})
			}
		}
	}
}

// TestATornRecordIsNoDamage: what was being written when the process was killed had not
// been acknowledged. What the marks know of had been.
func TestATornRecordIsNoDamage(t *testing.T) {
	from := damagedStore(t)
	tear := func(t *testing.T, stop string) string {
		dir := copyOf(t, from[stop])
		all := blocks(t, dir, "KV_"+broker.BucketConfig)
		f, err := os.OpenFile(all[len(all)-1], os.O_APPEND|os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		raw, _ := os.ReadFile(all[len(all)-1])
		if _, err := f.Write(raw[:60]); err != nil { // the begin of a record
			t.Fatal(err)
		}
		return dir
	}
	dir := tear(t, "unclean")
	b := brokertest.Open(t, dir)
	snap, err := b.Snapshot(t.Context())
	if err != nil || len(snap.Servers) != 3 {
		t.Errorf("after a torn record: %d servers, %v", len(snap.Servers), err)
	}
	if m, err := b.GetSafeMode(t.Context()); err != nil || m.On {
		t.Errorf("safe mode: %+v, %v", m, err)
	}
	open := func(dir string) error {
		_, err := broker.Open(t.Context(), broker.Config{Dir: dir, LazySync: true, Log: slog.New(slog.DiscardHandler)})
		return err
	}
	if err := open(tear(t, "clean")); !errors.Is(err, broker.ErrDamaged) {
		t.Errorf("a torn record after a clean stop: %v, want ErrDamaged", err)
	}
	dir = copyOf(t, from["unclean"])
	all := blocks(t, dir, broker.StreamEvents)
	raw, _ := os.ReadFile(all[len(all)-1])
	if err := os.Truncate(all[len(all)-1], int64(len(raw)-1)); err != nil {
		t.Fatal(err)
	}
	if err := open(dir); !errors.Is(err, broker.ErrDamaged) {
		t.Errorf("a record that the marks know of is cut: %v, want ErrDamaged", err)
	}
}

// TestAPurgedStreamIsNoticed: a purge leaves the last sequence as it was. While the broker
// runs the process ends; at the next start it is refused.
func TestAPurgedStreamIsNoticed(t *testing.T) {
	for _, stream := range []string{broker.StreamEvents, broker.StreamState, "KV_" + broker.BucketLedger, "KV_" + broker.BucketConfig} {
		t.Run(stream, func(t *testing.T) {
			dir := t.TempDir()
			b := brokertest.Open(t, dir)
			publish(t, b, broker.Change{Event: event("a", schemas.Added, 1)})
			if err := b.WaitState(t.Context()); err != nil {
				t.Fatal(err)
			}
			if _, err := b.Epoch(t.Context(), "production"); err != nil {
				t.Fatal(err)
			}
			l, err := b.OpenLedger(t.Context(), "test")
			if err != nil {
				t.Fatal(err)
			}
			if err := l.Put(t.Context(), broker.Entry{Type: schemas.Job, ID: "a", Source: "production", Version: schemas.Version{Epoch: 1, Revision: 1}, State: broker.Applied, At: time.Now().UTC()}); err != nil {
				t.Fatal(err)
			}
			if err := b.Mark(t.Context()); err != nil {
				t.Fatal(err)
			}
			s, err := b.JS().Stream(t.Context(), stream)
			if err != nil {
				t.Fatal(err)
			}
			if err := s.Purge(t.Context()); err == nil {
				t.Fatal("a stream that denies it was purged")
			}
			b.Close()
			purgeByHand(t, dir, stream)
			_, err = broker.Open(t.Context(), broker.Config{Dir: dir, LazySync: true, Log: slog.New(slog.DiscardHandler)})
			if !errors.Is(err, broker.ErrWentBackwards) || !strings.Contains(err.Error(), stream+" holds ") {
				t.Fatalf("a stream that was purged: %v, want ErrWentBackwards", err)
			}
			b, err = broker.Open(t.Context(), broker.Config{Dir: dir, LazySync: true, AcceptLoss: true, Log: slog.New(slog.DiscardHandler)})
			if err != nil {
				t.Fatal(err)
			}
			defer b.Close()
			if m, err := b.GetSafeMode(t.Context()); err != nil || !m.On || !strings.Contains(m.Why, stream) {
				t.Errorf("safe mode: %+v, %v", m, err)
			}
		})
	}
}

// TestAStreamThatIsDeletedIsNoticedAtOnce: anybody whom the broker lets may do that.
func TestAStreamThatIsDeletedIsNoticedAtOnce(t *testing.T) {
	b := brokertest.Start(t)
	if err := b.JS().DeleteStream(t.Context(), broker.StreamState); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-b.Lost():
		if !errors.Is(err, broker.ErrWentBackwards) || !strings.Contains(err.Error(), broker.StreamState+" is gone") {
			t.Errorf("lost: %v", err)
		}
	case <-time.After(20 * time.Second):
		t.Error("nobody has noticed it")
	}
}

// purgeByHand empties a stream of a store that nobody uses. No broker lifts the deny of a
// purge, so it goes by the files.
func purgeByHand(t *testing.T, dir, stream string) {
	t.Helper()
	store := filepath.Join(dir, "broker")
	deny := func(on bool) {
		folder := filepath.Join(store, "jetstream", "$G", "streams", stream)
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
		os.WriteFile(filepath.Join(folder, "meta.inf"), raw, 0o600)
		os.WriteFile(filepath.Join(folder, "meta.sum"), []byte(hex.EncodeToString(h.Sum(nil))), 0o600)
	}
	deny(false)
	s, err := server.NewServer(&server.Options{DontListen: true, JetStream: true, StoreDir: store, NoSigs: true, NoLog: true})
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
		if x, err = js.Stream(t.Context(), stream); err == nil {
			err = x.Purge(t.Context())
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	nc.Close()
	s.Shutdown()
	s.WaitForShutdown()
	deny(true)
}
