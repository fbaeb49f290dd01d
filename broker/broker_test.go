package broker_test

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/vcsync/vcsync/broker"
	"github.com/vcsync/vcsync/broker/brokertest"
	"github.com/vcsync/vcsync/schemas"
)

// event returns a valid event of a Job of source "production".
func event(id string, kind schemas.Kind, rev uint64) schemas.Event {
	e := schemas.Event{Source: "production", Kind: kind, Version: schemas.Version{Epoch: 1, Revision: rev},
		Time: time.Date(2026, 11, 23, 6, 0, 0, 0, time.UTC), Object: schemas.Object{Type: schemas.Job, ID: schemas.ID(id), Name: "Job " + id}}
	if kind != schemas.Deleted {
		e.Object.Body = fmt.Appendf(nil, `{"Id":%q,"Name":"Job %s","Rev":%d}`, id, id, rev)
		e.Digest = schemas.DigestOf(e.Object.Body)
	}
	return e
}

// noise returns a body of about n bytes that compression does not make much smaller.
func noise(id string, n int) []byte {
	raw := make([]byte, n*3/4)
	rand.NewChaCha8([32]byte([]byte(fmt.Sprintf("%-32.32s", id)))).Read(raw)
	return fmt.Appendf(nil, `{"Id":%q,"X":%q}`, id, base64.StdEncoding.EncodeToString(raw))
}

func publish(t *testing.T, b *broker.Broker, changes ...broker.Change) []uint64 {
	t.Helper()
	out, err := b.Publish(t.Context(), changes)
	if err != nil {
		t.Fatal(err)
	}
	var seqs []uint64
	for i, s := range out {
		if s.Err != nil {
			t.Fatalf("change %d: %v", i, s.Err)
		}
		seqs = append(seqs, s.Seq)
	}
	return seqs
}

func TestNewestEventPerObject(t *testing.T) {
	b := brokertest.Start(t)
	ctx := t.Context()
	var first []broker.Change
	for i := range 600 { // more than two batches
		first = append(first, broker.Change{Event: event(fmt.Sprintf("job-%d", i), schemas.Added, 1)})
	}
	seqs := publish(t, b, first...)
	publish(t, b, broker.Change{Event: event("job-7", schemas.Updated, 2), After: seqs[7]})
	publish(t, b, broker.Change{Event: event("job-8", schemas.Deleted, 2), After: seqs[8]})
	if err := b.WaitState(ctx); err != nil {
		t.Fatal(err)
	}
	seen := map[schemas.ID]broker.Newest{}
	err := b.ScanState(ctx, []string{schemas.SourceStateFilter("production")}, func(n broker.Newest) { seen[n.ID] = n },
		func(u broker.Unreadable) { t.Errorf("unreadable %s: %v", u.Subject, u.Err) })
	if err != nil {
		t.Fatal(err)
	}
	if len(seen) != 600 {
		t.Fatalf("%d objects, want 600", len(seen))
	}
	if n := seen["job-7"]; n.Kind != schemas.Updated || n.Version.Revision != 2 || n.EventSeq != 601 {
		t.Errorf("job-7: %+v", n)
	}
	if n := seen["job-8"]; n.Kind != schemas.Deleted {
		t.Errorf("job-8: %+v", n)
	}
	if n := seen["job-5"]; n.EventSeq != seqs[5] {
		t.Errorf("job-5: event sequence %d, want %d", n.EventSeq, seqs[5])
	}
	e, n, err := b.NewestOf(ctx, event("job-7", schemas.Added, 1).Key())
	if err != nil || e.Version.Revision != 2 || string(e.Object.Body) != `{"Id":"job-7","Name":"Job job-7","Rev":2}` || n.EventSeq != 601 {
		t.Errorf("newest of job-7: %+v %+v %v", e, n, err)
	}
	if _, _, err := b.NewestOf(ctx, event("nobody", schemas.Added, 1).Key()); !errors.Is(err, broker.ErrNotFound) {
		t.Errorf("newest of an unknown object: %v", err)
	}
}

func TestPublishIsGuarded(t *testing.T) {
	b := brokertest.Start(t)
	seq := publish(t, b, broker.Change{Event: event("a", schemas.Added, 1)})[0]
	publish(t, b, broker.Change{Event: event("b", schemas.Added, 1)})

	// A retry of what is stored already is a success at the same place.
	if again := publish(t, b, broker.Change{Event: event("a", schemas.Added, 1)})[0]; again != seq {
		t.Errorf("repeated publish: sequence %d, want %d", again, seq)
	}
	publish(t, b, broker.Change{Event: event("a", schemas.Updated, 2), After: seq})
	// Another producer believes that revision 1 is still the last one.
	other := event("a", schemas.Updated, 2)
	other.Object.Body = []byte(`{"Id":"a","Other":true}`)
	other.Digest = schemas.DigestOf(other.Object.Body)
	out, err := b.Publish(t.Context(), []broker.Change{
		{Event: event("c", schemas.Added, 1)},
		{Event: other, After: seq},
		{Event: event("d", schemas.Added, 1)},
	})
	if err != nil {
		t.Fatal(err)
	}
	if out[0].Err != nil || out[2].Err != nil {
		t.Errorf("neighbours of a refused event: %v, %v", out[0].Err, out[2].Err)
	}
	if !errors.Is(out[1].Err, broker.ErrConflict) {
		t.Errorf("stale publish: %v, want ErrConflict", out[1].Err)
	}
	// An event of another kind on the same object is guarded by the same sequence.
	out, err = b.Publish(t.Context(), []broker.Change{{Event: event("a", schemas.Deleted, 3), After: seq}})
	if err != nil || !errors.Is(out[0].Err, broker.ErrConflict) {
		t.Errorf("stale deletion: %v, %v", out, err)
	}
}

func TestStoreSurvivesARestart(t *testing.T) {
	dir := t.TempDir()
	b := brokertest.Open(t, dir)
	seq := publish(t, b, broker.Change{Event: event("a", schemas.Added, 1)})[0]
	if err := b.SetPassword(t.Context(), "production", "s3cret"); err != nil {
		t.Fatal(err)
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	b = brokertest.Open(t, dir)
	publish(t, b, broker.Change{Event: event("a", schemas.Updated, 2), After: seq})
	if pw, err := b.Password(t.Context(), "production"); err != nil || pw != "s3cret" {
		t.Errorf("password %q, %v", pw, err)
	}
	if err := b.WaitState(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func TestSecondProcessIsRefused(t *testing.T) {
	dir := t.TempDir()
	brokertest.Open(t, dir)
	if _, err := broker.Open(t.Context(), broker.Config{Dir: dir}); !errors.Is(err, broker.ErrInUse) {
		t.Fatalf("second open: %v, want ErrInUse", err)
	}
}

func TestLayoutIsAssertedAndNeverRewritten(t *testing.T) {
	for name, change := range map[string]func(*jetstream.StreamConfig){
		broker.StreamEvents:               func(c *jetstream.StreamConfig) { c.MaxMsgsPerSubject = 5 },
		broker.StreamState:                func(c *jetstream.StreamConfig) { c.MaxMsgsPerSubject = 2 },
		"KV_" + broker.BucketLedger:       func(c *jetstream.StreamConfig) { c.MaxMsgsPerSubject = 3 },
		"KV_" + broker.BucketConfig:       func(c *jetstream.StreamConfig) { c.MaxAge = time.Hour },
		"OBJ_" + broker.BucketBodies:      func(c *jetstream.StreamConfig) { c.AllowDirect = true },
		broker.StreamAudit:                func(c *jetstream.StreamConfig) { c.Discard = jetstream.DiscardOld },
		"KV_" + broker.BucketParked + " ": nil,
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			b := brokertest.Open(t, dir)
			if change == nil {
				b.Close()
				brokertest.Open(t, dir) // unchanged: opens
				return
			}
			s, err := b.JS().Stream(t.Context(), name)
			if err != nil {
				t.Fatal(err)
			}
			cfg := s.CachedInfo().Config
			change(&cfg)
			if _, err := b.JS().UpdateStream(t.Context(), cfg); err != nil {
				t.Fatalf("the broker refuses this change by itself, choose another: %v", err)
			}
			b.Close()
			if _, err := broker.Open(t.Context(), broker.Config{Dir: dir}); !errors.Is(err, broker.ErrLayout) {
				t.Fatalf("open: %v, want ErrLayout", err)
			}
		})
	}
}

func TestRollUpCannotEmptyABucket(t *testing.T) {
	b := brokertest.Start(t)
	if err := b.SetPassword(t.Context(), "a", "x"); err != nil {
		t.Fatal(err)
	}
	m := nats.NewMsg("$KV." + broker.BucketSecret + ".password.b")
	m.Header.Set("Nats-Rollup", "all")
	if _, err := b.JS().PublishMsg(t.Context(), m); err == nil {
		t.Error("a roll-up was accepted")
	}
	if _, err := b.Password(t.Context(), "a"); err != nil {
		t.Error(err)
	}
}

func TestStreamThatWentBackwards(t *testing.T) {
	dir := t.TempDir()
	store := filepath.Join(dir, "broker")
	b := brokertest.Open(t, dir)
	publish(t, b, broker.Change{Event: event("a", schemas.Added, 1)})
	if _, err := b.Epoch(t.Context(), "production"); err != nil {
		t.Fatal(err)
	}
	b.Close()
	old := filepath.Join(t.TempDir(), "old")
	if err := os.CopyFS(old, os.DirFS(store)); err != nil {
		t.Fatal(err)
	}
	b = brokertest.Open(t, dir)
	publish(t, b, broker.Change{Event: event("b", schemas.Added, 1)})
	b.Close()
	restore := func(from string) {
		t.Helper()
		if err := os.RemoveAll(store); err != nil {
			t.Fatal(err)
		}
		if from != "" {
			if err := os.CopyFS(store, os.DirFS(from)); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, from := range []string{old, ""} {
		restore(from)
		if _, err := broker.Open(t.Context(), broker.Config{Dir: dir, LazySync: true}); !errors.Is(err, broker.ErrWentBackwards) {
			t.Fatalf("open of %q: %v, want ErrWentBackwards", from, err)
		}
	}
	restore(old)
	b, err := broker.Open(t.Context(), broker.Config{Dir: dir, LazySync: true, AcceptLoss: true, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	if epoch, err := b.Epoch(t.Context(), "production"); err != nil || epoch != 2 {
		t.Errorf("epoch %d, %v; want 2", epoch, err)
	}
	if m, err := b.GetSafeMode(t.Context()); err != nil || !m.On || m.By != "vcsync" || !strings.Contains(m.Why, "VCS_EV stands at 1 and had reached 2") {
		t.Errorf("safe mode after an accepted loss: %+v, %v", m, err)
	}
}

func TestUncleanStopIsFollowedByACleanOne(t *testing.T) {
	dir := t.TempDir()
	b := brokertest.Open(t, dir)
	publish(t, b, broker.Change{Event: event("a", schemas.Added, 1)})
	b.Close()
	marker := filepath.Join(dir, "running")
	if _, err := os.Stat(marker); !errors.Is(err, os.ErrNotExist) {
		t.Fatalf("marker after a clean stop: %v", err)
	}
	if err := os.WriteFile(marker, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	b = brokertest.Open(t, dir)
	if err := b.WaitState(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(marker); err != nil {
		t.Errorf("marker while running: %v", err)
	}
}

func TestKeyring(t *testing.T) {
	dir := t.TempDir()
	k, err := broker.OpenKeyring(dir)
	if err != nil {
		t.Fatal(err)
	}
	sealed := k.Seal("job/1", "s3cret")
	again, err := broker.OpenKeyring(dir)
	if err != nil {
		t.Fatal(err)
	}
	if s, err := again.Open("job/1", sealed); err != nil || s != "s3cret" {
		t.Errorf("open: %q, %v", s, err)
	}
	if _, err := again.Open("job/2", sealed); !errors.Is(err, broker.ErrKeyring) {
		t.Errorf("open for another object: %v", err)
	}
	if again.Digest("a") != k.Digest("a") || k.Digest("a") == k.Digest("b") {
		t.Error("digests do not tell secrets apart")
	}
	if s := fmt.Sprintf("%v %+v %#v", k, k, k); s != "keyring(***) keyring(***) keyring(***)" {
		t.Errorf("the keyring prints itself: %s", s)
	}
	path := filepath.Join(dir, "keyring.json")
	if info, _ := os.Stat(path); info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v", info.Mode())
	}
	os.Chmod(path, 0o644)
	if _, err := broker.OpenKeyring(dir); !errors.Is(err, broker.ErrKeyring) {
		t.Errorf("readable by others: %v", err)
	}
	os.Chmod(path, 0o600)
	os.WriteFile(path, []byte(`{"version":1}`), 0o600)
	if _, err := broker.OpenKeyring(dir); !errors.Is(err, broker.ErrKeyring) {
		t.Errorf("damaged: %v", err)
	}
}

func TestLedger(t *testing.T) {
	b := brokertest.Start(t)
	ctx := t.Context()
	l, err := b.OpenLedger(ctx, "test")
	if err != nil {
		t.Fatal(err)
	}
	entry := func(i int, rev uint64) broker.Entry {
		return broker.Entry{Type: schemas.Job, ID: schemas.ID(fmt.Sprintf("job-%d", i)), Source: "production",
			Version: schemas.Version{Epoch: 1, Revision: rev}, State: broker.Applied, At: time.Now().UTC()}
	}
	errs := make(chan error, 600)
	for i := range 600 {
		go func() { errs <- l.Put(ctx, entry(i, 1)) }()
	}
	for range 600 {
		if err := <-errs; err != nil {
			t.Fatal(err)
		}
	}
	if err := l.Put(ctx, entry(3, 2)); err != nil {
		t.Fatal(err)
	}
	l.Close()
	if err := l.Put(ctx, entry(4, 2)); err == nil {
		t.Error("a closed ledger took an entry")
	}
	l, err = b.OpenLedger(ctx, "test")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	n := 0
	l.Each(func(broker.Entry) { n++ })
	if n != 600 {
		t.Errorf("%d entries, want 600", n)
	}
	if e, ok := l.Get(schemas.Job, "job-3"); !ok || e.Version.Revision != 2 {
		t.Errorf("job-3: %+v %v", e, ok)
	}
	// A second writer, which should not be, is refused instead of overwriting.
	second, err := b.OpenLedger(ctx, "test")
	if err != nil {
		t.Fatal(err)
	}
	defer second.Close()
	if err := l.Put(ctx, entry(3, 3)); err != nil {
		t.Fatal(err)
	}
	if err := second.Put(ctx, entry(3, 4)); !errors.Is(err, broker.ErrConflict) {
		t.Errorf("second writer: %v, want ErrConflict", err)
	}
}

func TestParked(t *testing.T) {
	b := brokertest.Start(t)
	ctx := t.Context()
	p := broker.Parked{Target: "test", Setting: "prod-test", Source: "production", Type: schemas.Job, Token: "job-1", ID: "job-1", Class: "refused", Reason: "no"}
	rev, err := b.PutParked(ctx, p)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.PutParked(ctx, p); !errors.Is(err, broker.ErrConflict) {
		t.Errorf("parked twice: %v", err)
	}
	p.Revision, p.Attempts = rev, 2
	if p.Revision, err = b.PutParked(ctx, p); err != nil {
		t.Fatal(err)
	}
	all, err := b.ListParked(ctx, "")
	if err != nil || len(all) != 1 || all[0].Attempts != 2 {
		t.Fatalf("list: %+v, %v", all, err)
	}
	if err := b.Unpark(ctx, p); err != nil {
		t.Fatal(err)
	}
	if _, err := b.GetParked(ctx, "test", schemas.Job, "job-1"); !errors.Is(err, broker.ErrNotFound) {
		t.Errorf("after unpark: %v", err)
	}
	p.Revision = 0
	if _, err := b.PutParked(ctx, p); err != nil {
		t.Errorf("parked again: %v", err)
	}
}

func TestWhatANewerReleaseWroteSurvives(t *testing.T) {
	b := brokertest.Start(t)
	ctx := t.Context()
	put := func(bucket, key, value string) {
		t.Helper()
		kv, err := b.JS().KeyValue(ctx, bucket)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := kv.Put(ctx, key, []byte(value)); err != nil {
			t.Fatal(err)
		}
	}
	get := func(bucket, key string) string {
		t.Helper()
		kv, err := b.JS().KeyValue(ctx, bucket)
		if err != nil {
			t.Fatal(err)
		}
		e, err := kv.Get(ctx, key)
		if err != nil {
			t.Fatal(err)
		}
		return string(e.Value())
	}
	put(broker.BucketLedger, "test.0", `{"v":1,"entries":[{"type":"Job","id":"a","source":"production","version":{"epoch":1,"revision":1},"state":"applied","at":"2026-11-23T06:00:00Z","fresh":[1]}]}`)
	l, err := b.OpenLedger(ctx, "test")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if err := l.Put(ctx, broker.Entry{Type: schemas.Job, ID: "b", Source: "production", State: broker.Applied}); err != nil {
		t.Fatal(err)
	}
	if page := get(broker.BucketLedger, "test.0"); !strings.Contains(page, `"fresh":[1]`) || !strings.Contains(page, `"id":"b"`) {
		t.Error(page)
	}
	put(broker.BucketParked, "test.Job.a", `{"target":"test","setting":"s","source":"production","type":"Job","token":"a","version":{"epoch":1,"revision":1},"class":"x","reason":"y","first":"2026-11-23T06:00:00Z","last":"2026-11-23T06:00:00Z","attempts":1,"fresh":true}`)
	p, err := b.GetParked(ctx, "test", schemas.Job, "a")
	if err != nil {
		t.Fatal(err)
	}
	p.RetryAsked++
	if _, err := b.PutParked(ctx, p); err != nil {
		t.Fatal(err)
	}
	if rec := get(broker.BucketParked, "test.Job.a"); !strings.Contains(rec, `"fresh":true`) {
		t.Error(rec)
	}
	// A page of another layout is left alone, and nothing is written beside it.
	put(broker.BucketLedger, "other.0", `{"v":2,"packed":"?"}`)
	if _, err := b.OpenLedger(ctx, "other"); !errors.Is(err, broker.ErrRecord) {
		t.Errorf("a page of a newer layout: %v, want ErrRecord", err)
	}
}

func TestLease(t *testing.T) {
	times := broker.LeaseTimes{TTL: 15 * time.Second, Margin: 3 * time.Second}
	bubble := func(name string, f func(t *testing.T, b *broker.Broker)) {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { f(t, brokertest.Start(t)) })
		})
	}
	ctx := context.Background()
	bubble("is renewed while its holder lives", func(t *testing.T, b *broker.Broker) {
		l, err := b.AcquireLease(ctx, "target.test", "one", times)
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Minute)
		if l.Context().Err() != nil || time.Until(l.Until()) < times.TTL-times.Margin-times.TTL/5 {
			t.Errorf("after ten minutes: %v, until %s", context.Cause(l.Context()), time.Until(l.Until()))
		}
		if err := l.Release(ctx); err != nil {
			t.Error(err)
		}
	})
	bubble("is handed over at once when given back", func(t *testing.T, b *broker.Broker) {
		l, _ := b.AcquireLease(ctx, "target.test", "one", times)
		if err := l.Release(ctx); err != nil {
			t.Fatal(err)
		}
		begun := time.Now()
		next, err := b.AcquireLease(ctx, "target.test", "two", times)
		if err != nil || time.Since(begun) > time.Second {
			t.Errorf("after %s: %v", time.Since(begun), err)
		}
		next.Abandon()
	})
	bubble("is taken over from the dead only after a full TTL", func(t *testing.T, b *broker.Broker) {
		l, _ := b.AcquireLease(ctx, "target.test", "one", times)
		l.Abandon()
		begun := time.Now()
		next, err := b.AcquireLease(ctx, "target.test", "two", times)
		if took := time.Since(begun); err != nil || took < times.TTL || took > times.TTL+time.Second {
			t.Errorf("after %s: %v", took, err)
		}
		next.Abandon()
	})
	bubble("is not taken from the living", func(t *testing.T, b *broker.Broker) {
		l, _ := b.AcquireLease(ctx, "target.test", "one", times)
		wait, cancel := context.WithTimeout(ctx, 5*time.Minute)
		defer cancel()
		if _, err := b.AcquireLease(wait, "target.test", "two", times); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("a second holder: %v", err)
		}
		l.Abandon()
	})
	t.Run("of a dead process with the broker to itself is taken over after one margin", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			dir := t.TempDir()
			b := brokertest.Open(t, dir)
			l, _ := b.AcquireLease(ctx, "target.test", "one", times)
			l.Abandon()
			b.Close()
			b = brokertest.Open(t, dir)
			begun := time.Now()
			next, err := b.AcquireLease(ctx, "target.test", "two", times)
			if took := time.Since(begun); err != nil || took < times.Margin || took > times.Margin+time.Second {
				t.Errorf("after %s: %v", took, err)
			}
			next.Abandon()
		})
	})
}

func TestALostKeyringIsNotReplaced(t *testing.T) {
	dir := t.TempDir()
	b := brokertest.Open(t, dir)
	if err := b.SetPassword(t.Context(), "production", "s3cret"); err != nil {
		t.Fatal(err)
	}
	b.Close()
	if err := os.Remove(filepath.Join(dir, "keyring.json")); err != nil {
		t.Fatal(err)
	}
	for range 2 { // the refusal leaves none behind either
		if _, err := broker.Open(t.Context(), broker.Config{Dir: dir, LazySync: true}); !errors.Is(err, broker.ErrKeyring) {
			t.Fatalf("open: %v, want ErrKeyring", err)
		}
	}
	b, err := broker.Open(t.Context(), broker.Config{Dir: dir, LazySync: true, AcceptLoss: true, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	if _, err := b.Password(t.Context(), "production"); !errors.Is(err, broker.ErrKeyring) {
		t.Errorf("password: %v, want ErrKeyring", err)
	}
}

// TestAccountsOfALostKeyringAreForgotten checks that a lost keyring locks nobody out for
// good, and lets nobody in.
func TestAccountsOfALostKeyringAreForgotten(t *testing.T) {
	dir := t.TempDir()
	b := brokertest.Open(t, dir)
	if _, err := b.PutAccount(t.Context(), broker.Account{Name: "root"}, 0); err != nil {
		t.Fatal(err)
	}
	if err := b.CloseDoor(t.Context()); err != nil {
		t.Fatal(err)
	}
	b.Close()
	if err := os.Remove(filepath.Join(dir, "keyring.json")); err != nil {
		t.Fatal(err)
	}
	b, err := broker.Open(t.Context(), broker.Config{Dir: dir, LazySync: true, AcceptLoss: true, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	if all, _, err := b.Accounts(t.Context()); err != nil || len(all) > 0 {
		t.Errorf("accounts %v, error %v", all, err)
	}
	if closed, err := b.DoorClosed(t.Context()); err != nil || !closed {
		t.Errorf("the door is closed: %v, error %v", closed, err)
	}
	if acts, _, err := b.AuditPage(t.Context(), broker.AuditQuery{Action: "account.remove", Object: "account/root"}, 0, 1); err != nil || len(acts) != 1 {
		t.Errorf("on record %v, error %v", acts, err)
	}
}

func TestAFullEventStreamIsNotReady(t *testing.T) {
	b, err := broker.Open(t.Context(), broker.Config{Dir: t.TempDir(), LazySync: true, EventsMaxBytes: broker.MaxPayload + 64<<10})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	if err := b.Probe(t.Context()); err != nil {
		t.Fatal(err)
	}
	e := event("a", schemas.Added, 1)
	e.Object.Body = noise("a", 200<<10)
	publish(t, b, broker.Change{Event: e})
	if err := b.Probe(t.Context()); err == nil {
		t.Error("a full event stream counts as ready")
	}
}

// TestExternalBroker runs on a NATS server of its own, over TCP.
func TestExternalBroker(t *testing.T) {
	srv, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: -1, JetStream: true, StoreDir: t.TempDir(), NoSigs: true, NoLog: true, MaxPayload: broker.MaxPayload})
	if err != nil {
		t.Fatal(err)
	}
	go srv.Start()
	defer func() { srv.Shutdown(); srv.WaitForShutdown() }()
	if !srv.ReadyForConnections(20 * time.Second) {
		t.Fatal("no server")
	}
	dir := t.TempDir()
	for range 2 { // made, then found
		b, err := broker.Open(t.Context(), broker.Config{Dir: dir, URL: srv.ClientURL(), Log: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		if b.Exclusive() {
			t.Error("an external broker is nobody's own")
		}
		if err := b.WaitState(t.Context()); err != nil {
			t.Error(err)
		}
		if _, err := broker.Open(t.Context(), broker.Config{Dir: dir, URL: srv.ClientURL(), Log: slog.New(slog.DiscardHandler)}); !errors.Is(err, broker.ErrInUse) {
			t.Errorf("a second process on the data folder: %v", err)
		}
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	}
}

func TestListeningNeedsTheKey(t *testing.T) {
	if _, err := broker.Open(t.Context(), broker.Config{Dir: t.TempDir(), Listen: "0.0.0.0:4222"}); err == nil {
		t.Fatal("listens where others can reach it")
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	l.Close()
	dir := t.TempDir()
	b, err := broker.Open(t.Context(), broker.Config{Dir: dir, Listen: addr, LazySync: true, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	if b.Exclusive() {
		t.Error("a listening broker is not its process's own")
	}
	if nc, err := nats.Connect("nats://" + addr); err == nil {
		nc.Close()
		t.Error("anybody may connect")
	}
	opt, err := nats.NkeyOptionFromSeed(filepath.Join(dir, "broker.nk"))
	if err != nil {
		t.Fatal(err)
	}
	nc, err := nats.Connect("nats://"+addr, opt)
	if err != nil {
		t.Fatal(err)
	}
	nc.Close()
}

func TestAcceptLossThatBreaksOff(t *testing.T) {
	dir := t.TempDir()
	store := filepath.Join(dir, "broker")
	b := brokertest.Open(t, dir)
	for i := range 8 {
		if _, err := b.Epoch(t.Context(), schemas.Slug(fmt.Sprint("source", i))); err != nil {
			t.Fatal(err)
		}
	}
	kv, _ := b.JS().KeyValue(t.Context(), broker.BucketConfig)
	kv.Put(t.Context(), "epoch.source3", []byte("x")) // stands for whatever stops it in the middle: a crash, a timeout
	publish(t, b, broker.Change{Event: event("a", schemas.Added, 1)})
	b.Close()
	old := filepath.Join(t.TempDir(), "old")
	if err := os.CopyFS(old, os.DirFS(store)); err != nil {
		t.Fatal(err)
	}
	b = brokertest.Open(t, dir)
	publish(t, b, broker.Change{Event: event("b", schemas.Added, 1)})
	b.Close()
	os.RemoveAll(store)
	if err := os.CopyFS(store, os.DirFS(old)); err != nil {
		t.Fatal(err)
	}
	quiet := slog.New(slog.DiscardHandler)
	if _, err := broker.Open(t.Context(), broker.Config{Dir: dir, LazySync: true, AcceptLoss: true, Log: quiet}); err == nil {
		t.Fatal("want an error in the middle")
	} else {
		t.Log("broke off:", err)
	}
	b, err := broker.Open(t.Context(), broker.Config{Dir: dir, LazySync: true, Log: quiet}) // no AcceptLoss
	if err != nil {
		t.Log("refused again, as it should:", err)
		return
	}
	defer b.Close()
	kv, _ = b.JS().KeyValue(t.Context(), broker.BucketConfig)
	kv.Put(t.Context(), "epoch.source3", []byte("1"))
	var es []uint64
	for i := range 8 {
		e, _ := b.Epoch(t.Context(), schemas.Slug(fmt.Sprint("source", i)))
		es = append(es, e)
	}
	t.Errorf("G7: the loss is forgotten without --accept-loss, epochs %v", es)
}
