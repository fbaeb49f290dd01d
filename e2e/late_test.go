package e2e

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/vcsync/vcsync/broker"
	"github.com/vcsync/vcsync/producer"
	"github.com/vcsync/vcsync/schemas"
)

// TestAnEventThatComesLate lets the network stand still between a producer and the
// broker at the very moment in which it sends an event. Another producer takes the
// source over and finds the object as it was before, so that it has nothing to publish.
// Then the network goes on. The event is of a state that the source has no more: it
// must not count, and the target has to end equal (G2, G4).
func TestAnEventThatComesLate(t *testing.T) {
	job := func(i int, text string) string {
		return fmt.Sprintf(`{"Id":"0e2e0000-0000-4000-8000-%012d","Name":"Job %d","Description":%q,"Stats":{"Active":true}}`, i, i, text)
	}
	for _, c := range []struct {
		name, hold   string
		change, undo func(t *testing.T, h *Host)
	}{
		{"a deletion", ".Job.deleted.",
			func(t *testing.T, h *Host) { h.mustDelete(t, job(5, "first")) },
			func(t *testing.T, h *Host) { h.mustPut(t, job(5, "first")) }},
		{"an edit", ".Job.updated.",
			func(t *testing.T, h *Host) { h.mustPut(t, job(5, "second")) },
			func(t *testing.T, h *Host) { h.mustPut(t, job(5, "first")) }},
		{"an add", ".Job.added.",
			func(t *testing.T, h *Host) { h.mustPut(t, job(99, "first")) },
			func(t *testing.T, h *Host) { h.mustDelete(t, job(99, "first")) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			w := &World{T: t, Dir: t.TempDir(), Hosts: map[schemas.Slug]*Host{}, Log: slog.New(slog.DiscardHandler), Poll: 500 * time.Millisecond}
			address, err := FreeAddr()
			if err != nil {
				t.Fatal(err)
			}
			data := filepath.Join(w.Dir, "data")
			w.Broker, err = broker.Open(t.Context(), broker.Config{Dir: data, LazySync: true, Listen: address, EventsMaxBytes: 1 << 30, Log: w.Log})
			if err != nil {
				t.Fatal(err)
			}
			defer w.Close()
			source, target := w.AddHost("production"), w.AddHost("test")
			for i := range 10 {
				source.mustPut(t, job(i, "first"))
			}
			w.Setting(AllJobs("to-test", "production", "test", schemas.Keep))
			link, err := NewLink(address)
			if err != nil {
				t.Fatal(err)
			}
			defer link.Close()
			begin := func(name, url string) (*producer.Manager, func()) {
				b, err := broker.Open(t.Context(), broker.Config{Dir: filepath.Join(w.Dir, name), Keys: data, Role: broker.Producer, URL: "nats://" + url,
					Seed: filepath.Join(data, "broker.nk"), EventsMaxBytes: 1 << 30, Log: w.Log})
				if err != nil {
					t.Fatal(err)
				}
				m := producer.New(producer.Config{Broker: b, Open: w.Open, Poll: w.Poll, Instance: name, LeaseTTL: 10 * time.Second, Log: w.Log})
				r := start(m.Run)
				return m, func() { stop(r, nil); b.Close() }
			}
			until := func(what string, ok func() bool) {
				t.Helper()
				for begun := time.Now(); !ok(); time.Sleep(20 * time.Millisecond) {
					if time.Since(begun) > 40*time.Second {
						t.Fatalf("not within 40 s: %s; %v", what, Diverged(source, target, schemas.Keep))
					}
				}
			}
			capturing := func(m *producer.Manager) bool {
				for _, s := range m.Status() {
					return s.State == producer.Capturing
				}
				return false
			}
			w.StartConsumer()
			a, endA := begin("one", link.Addr())
			defer endA()
			until("one captures", func() bool { return capturing(a) })
			until("the target is equal", func() bool { return Diverged(source, target, schemas.Keep) == nil })
			b, endB := begin("two", address)
			defer endB()

			held := link.HoldAt(c.hold)
			c.change(t, source)
			select {
			case <-held:
			case <-time.After(20 * time.Second):
				t.Fatal("nothing was published")
			}
			c.undo(t, source)
			until("two captures", func() bool { return capturing(b) })
			target.Reset()
			link.Flow()
			// Long enough for it to come, and for several listings.
			ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
			defer cancel()
			<-ctx.Done()
			if d := Diverged(source, target, schemas.Keep); d != nil {
				t.Errorf("the target is not as its source: %v", d)
			}
			for _, x := range target.Seen() {
				t.Errorf("the target got %s %s of a state that the source had no more", x.Op, x.ID)
			}
		})
	}
}

func (h *Host) mustPut(t *testing.T, body string) {
	t.Helper()
	if _, _, err := h.Server.Put(schemas.Job, []byte(body)); err != nil {
		t.Fatal(err)
	}
}

func (h *Host) mustDelete(t *testing.T, body string) {
	t.Helper()
	var id schemas.ID
	if _, err := fmt.Sscanf(body, `{"Id":%q`, &id); err != nil {
		t.Fatal(err)
	}
	if _, err := h.Server.Delete(schemas.Job, id); err != nil {
		t.Fatal(err)
	}
}

// TestAStrangersEventIsOvertaken publishes events in the name of a source beside its
// producer, each a state that the source does not have, and each naming the event that
// it follows, so that the broker takes it.
func TestAStrangersEventIsOvertaken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := NewWorld(t)
		defer w.Close()
		source, target := w.AddHost("production"), w.AddHost("test")
		body := func(i int, text string) string {
			return fmt.Sprintf(`{"Id":"0e2e0000-0000-4000-8000-%012d","Name":"Job %d","Description":%q,"Stats":{"Active":true}}`, i, i, text)
		}
		for i := range 10 {
			source.mustPut(t, body(i, "first"))
		}
		w.Setting(AllJobs("to-test", "production", "test", schemas.Keep))
		w.StartProducer()
		w.StartConsumer()
		time.Sleep(time.Minute)
		if d := Diverged(source, target, schemas.Keep); d != nil {
			t.Fatal(d)
		}
		for i, kind := range []schemas.Kind{schemas.Deleted, schemas.Updated, schemas.Added} {
			id := schemas.ID(fmt.Sprintf("0e2e0000-0000-4000-8000-%012d", i+5))
			if kind == schemas.Added {
				id = "0e2e0000-0000-4000-8000-000000000099"
			}
			key := schemas.Key{Source: "production", Type: schemas.Job, Token: id.Token()}
			w.Do(func(ctx context.Context) error {
				last, err := w.Broker.LastEvent(ctx, key)
				if err != nil && !errors.Is(err, broker.ErrNotFound) {
					return err
				}
				e := schemas.Event{Source: "production", Kind: kind, Version: schemas.Version{Epoch: max(1, last.Head.Version.Epoch), Revision: last.Head.Version.Revision + 1},
					BaseDigest: last.Head.Digest, Time: time.Now(), Object: schemas.Object{Type: schemas.Job, ID: id, Name: "Stale"}}
				if kind != schemas.Deleted {
					e.Digest = schemas.Digest(strings.Repeat("ab", 32))
					e.Object.Body = []byte(`{"Id":"` + string(id) + `","Name":"Stale","Stats":{"Active":true}}`)
				}
				_, err = w.Broker.Publish(ctx, []broker.Change{{Event: e, After: last.Seq}})
				return err
			})
		}
		time.Sleep(2 * time.Minute)
		if d := Diverged(source, target, schemas.Keep); d != nil {
			t.Errorf("the target is not as its source: %v", d)
		}
	})
}
