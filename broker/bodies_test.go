package broker_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/vcsync/vcsync/broker"
	"github.com/vcsync/vcsync/broker/brokertest"
	"github.com/vcsync/vcsync/schemas"
)

const bodyStream = "OBJ_" + broker.BucketBodies

// large returns an event whose data is beyond what a message carries; equal seeds
// make equal bodies.
func large(id, seed string, kind schemas.Kind, rev uint64) schemas.Event {
	e := event(id, kind, rev)
	e.Object.Body = noise(seed, 6<<20)
	e.Digest = schemas.DigestOf(e.Object.Body)
	return e
}

// newest returns the newest event of an object once VCS_STATE has it.
func newest(t *testing.T, b *broker.Broker, k schemas.Key) (schemas.Event, broker.Newest, error) {
	t.Helper()
	if err := b.WaitState(t.Context()); err != nil {
		t.Fatal(err)
	}
	return b.NewestOf(t.Context(), k)
}

// bodies returns how many messages the object store's stream has.
func bodies(t *testing.T, b *broker.Broker) uint64 {
	t.Helper()
	s, err := b.JS().Stream(t.Context(), bodyStream)
	if err != nil {
		t.Fatal(err)
	}
	return s.CachedInfo().State.Msgs
}

func collect(t *testing.T, b *broker.Broker, want int) {
	t.Helper()
	if n, err := b.CollectBodies(t.Context()); err != nil || n != want {
		t.Fatalf("%d bodies removed, error %v, want %d", n, err, want)
	}
}

func TestALargeBodyIsStoredBesideItsEvent(t *testing.T) {
	b := brokertest.Start(t)
	text := event("text", schemas.Added, 1)
	text.Object.Body = fmt.Appendf(nil, `{"Id":"text","X":%q}`, strings.Repeat("nothing new. ", 5<<20))
	text.Digest = schemas.DigestOf(text.Object.Body)
	most := event("most", schemas.Added, 1)
	most.Object.Body = noise("most", 64<<20-100)
	most.Digest = schemas.DigestOf(most.Object.Body)
	all := []schemas.Event{event("small", schemas.Added, 1), large("large", "1", schemas.Added, 1), text, most, event("another", schemas.Added, 1)}
	var changes []broker.Change
	for _, e := range all {
		changes = append(changes, broker.Change{Event: e})
	}
	publish(t, b, changes...)
	for _, e := range all {
		got, n, err := newest(t, b, e.Key())
		if err != nil || !reflect.DeepEqual(got, e) {
			t.Errorf("%s: %d bytes of body, error %v, want %d", e.Object.ID, len(got.Object.Body), err, len(e.Object.Body))
		}
		if outside := e.Object.ID == "large" || e.Object.ID == "most"; n.Ref.IsZero() == outside {
			t.Errorf("%s by reference: %v", e.Object.ID, !n.Ref.IsZero())
		}
	}
	s, err := b.JS().Stream(t.Context(), broker.StreamEvents)
	if err != nil {
		t.Fatal(err)
	}
	if size := s.CachedInfo().State.Bytes; size > 1<<20 {
		t.Errorf("%s has %d bytes", broker.StreamEvents, size)
	}
}

func TestABodyThatIsLostIsSaid(t *testing.T) {
	for name, harm := range map[string]func(t *testing.T, b *broker.Broker, ref schemas.Ref){
		"the record is gone": func(t *testing.T, b *broker.Broker, ref schemas.Ref) {
			purge(t, b, "$O."+broker.BucketBodies+".M.>")
		},
		"the pieces are gone": func(t *testing.T, b *broker.Broker, ref schemas.Ref) {
			purge(t, b, "$O."+broker.BucketBodies+".C.>")
		},
		"it was deleted with another tool": func(t *testing.T, b *broker.Broker, ref schemas.Ref) {
			if err := store(t, b).Delete(t.Context(), string(ref.Digest)); err != nil {
				t.Fatal(err)
			}
		},
		"it is another": func(t *testing.T, b *broker.Broker, ref schemas.Ref) {
			if err := putBody(t, b, string(ref.Digest), bytes.Repeat([]byte{1}, ref.Size)); err != nil {
				t.Fatal(err)
			}
		},
		"it is shorter": func(t *testing.T, b *broker.Broker, ref schemas.Ref) {
			if err := putBody(t, b, string(ref.Digest), []byte{1}); err != nil {
				t.Fatal(err)
			}
		},
		"the record is no record": func(t *testing.T, b *broker.Broker, ref schemas.Ref) {
			s, err := b.JS().Stream(t.Context(), bodyStream)
			if err != nil {
				t.Fatal(err)
			}
			m, err := s.GetLastMsgForSubject(t.Context(), "$O."+broker.BucketBodies+".M.>")
			if err != nil {
				t.Fatal(err)
			}
			if _, err := b.JS().Publish(t.Context(), m.Subject, []byte("x")); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			b := brokertest.Start(t)
			e := large("a", "1", schemas.Added, 1)
			seq := publish(t, b, broker.Change{Event: e})[0]
			_, n, err := newest(t, b, e.Key())
			if err != nil {
				t.Fatal(err)
			}
			harm(t, b, n.Ref)
			if _, _, err := newest(t, b, e.Key()); !errors.Is(err, broker.ErrLostBody) || !errors.Is(err, schemas.ErrEvent) {
				t.Errorf("%v, want ErrLostBody", err)
			} else {
				t.Log(err)
			}
			// The next edit puts it right.
			e = large("a", "2", schemas.Updated, 2)
			publish(t, b, broker.Change{Event: e, After: seq})
			if got, _, err := newest(t, b, e.Key()); err != nil || !reflect.DeepEqual(got, e) {
				t.Errorf("after another edit: %v", err)
			}
		})
	}
}

func store(t *testing.T, b *broker.Broker) jetstream.ObjectStore {
	t.Helper()
	o, err := b.JS().ObjectStore(t.Context(), broker.BucketBodies)
	if err != nil {
		t.Fatal(err)
	}
	return o
}

// putBody stores a body as another tool would, without the fault of the client that
// lateEnd is about.
func putBody(t *testing.T, b *broker.Broker, name string, data []byte) error {
	t.Helper()
	_, err := store(t, b).Put(t.Context(), jetstream.ObjectMeta{Name: name}, broker.LateEnd(bytes.NewReader(data)))
	return err
}

func purge(t *testing.T, b *broker.Broker, subject string) {
	t.Helper()
	s, err := b.JS().Stream(t.Context(), bodyStream)
	if err == nil {
		err = s.Purge(t.Context(), jetstream.WithPurgeSubject(subject))
	}
	if err != nil {
		t.Fatal(err)
	}
}

func TestABodyStaysAsLongAsAnEventNamesIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := brokertest.Start(t)
		collect(t, b, 0)
		first := large("a", "1", schemas.Added, 1)
		seq := publish(t, b, broker.Change{Event: first})[0]
		for i := range 20 { // the first one stays, as the only one of its kind
			seq = publish(t, b, broker.Change{Event: large("a", fmt.Sprint("u", i), schemas.Updated, uint64(2+i)), After: seq})[0]
		}
		have := bodies(t, b)
		time.Sleep(61 * time.Minute)
		collect(t, b, 0)
		if n := bodies(t, b); n != have {
			t.Fatalf("%d messages, want %d", n, have)
		}
		// The 21st update is the end of the first.
		newer := large("a", "u20", schemas.Updated, 22)
		seq = publish(t, b, broker.Change{Event: newer, After: seq})[0]
		collect(t, b, 1)
		collect(t, b, 0)
		if n := bodies(t, b); n != have {
			t.Fatalf("%d messages, want %d", n, have)
		}
		if got, _, err := newest(t, b, newer.Key()); err != nil || !reflect.DeepEqual(got, newer) {
			t.Errorf("the newest: %v", err)
		}
		// A body that was removed is stored again where it comes back.
		again := large("a", "u0", schemas.Updated, 23)
		publish(t, b, broker.Change{Event: again, After: seq})
		if got, _, err := newest(t, b, again.Key()); err != nil || !reflect.DeepEqual(got, again) {
			t.Errorf("the old content again: %v", err)
		}
	})
}

func TestAYoungBodyStays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := brokertest.Start(t)
		data := bytes.Repeat([]byte("x"), 3<<20)
		name := string(schemas.RefOf(data).Digest)
		if err := putBody(t, b, name, data); err != nil { // an upload whose event is not yet published
			t.Fatal(err)
		}
		// One that broke off.
		if _, err := b.JS().Publish(t.Context(), "$O."+broker.BucketBodies+".C.left", data); err != nil {
			t.Fatal(err)
		}
		// And one that is somebody else's.
		if err := putBody(t, b, "notes", []byte("x")); err != nil {
			t.Fatal(err)
		}
		time.Sleep(59 * time.Minute)
		collect(t, b, 0)
		time.Sleep(2 * time.Minute)
		collect(t, b, 2)
		if n := bodies(t, b); n != 2 {
			t.Errorf("%d messages left, want the two of somebody else", n)
		}
	})
}

func TestABodyThatIsNamedAgainWhileAPassRuns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := brokertest.Start(t)
		ctx := t.Context()
		// A body that was stored, and whose event lost: nobody names it.
		e := large("a", "1", schemas.Added, 1)
		if out, err := b.Publish(ctx, []broker.Change{{Event: e, After: 7}}); err != nil || !errors.Is(out[0].Err, broker.ErrConflict) {
			t.Fatal(out, err)
		}
		time.Sleep(61 * time.Minute)
		pass := func(between, late func()) int {
			old, left, err := broker.OldBodies(b, ctx)
			if err != nil || len(old) != 1 || len(left) != 0 {
				t.Fatal(old, left, err)
			}
			between()
			if err := broker.DropNamed(b, ctx, old); err != nil {
				t.Fatal(err)
			}
			late()
			n, err := broker.RemoveBodies(b, ctx, old)
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
		// The events were read already when it is published.
		if n := pass(func() {}, func() { publish(t, b, broker.Change{Event: e}) }); n != 0 {
			t.Fatal("the body of a published event was removed")
		}
		if got, _, err := newest(t, b, e.Key()); err != nil || !reflect.DeepEqual(got, e) {
			t.Fatal(err)
		}
		// Published between the two looks.
		time.Sleep(61 * time.Minute)
		if n := pass(func() {
			other := e
			other.Source = "other" // and the same body
			publish(t, b, broker.Change{Event: other})
		}, func() {}); n != 0 {
			t.Fatal("the body of a published event was removed")
		}
		if got, _, err := newest(t, b, e.Key()); err != nil || !reflect.DeepEqual(got, e) {
			t.Fatal(err)
		}
	})
}

// Who stores a body again that is being removed finds out that it is gone.
func TestABodyThatIsRemovedIsNotTakenForThere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := brokertest.Start(t)
		ctx := t.Context()
		e := large("a", "1", schemas.Added, 1)
		if _, err := b.Publish(ctx, []broker.Change{{Event: e, After: 7}}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(61 * time.Minute)
		old, _, err := broker.OldBodies(b, ctx)
		if err != nil || len(old) != 1 {
			t.Fatal(old, err)
		}
		for name := range old {
			m, _, err := broker.BodyRecord(b, ctx, broker.BodyName(schemas.Digest(name)))
			if err != nil {
				t.Fatal(err)
			}
			if n, err := broker.RemoveBodies(b, ctx, old); err != nil || n != 1 {
				t.Fatal(n, err)
			}
			if there, err := broker.RenewBody(b, ctx, m); err != nil || there {
				t.Errorf("there: %v, error %v", there, err)
			}
		}
		publish(t, b, broker.Change{Event: e})
		if got, _, err := newest(t, b, e.Key()); err != nil || !reflect.DeepEqual(got, e) {
			t.Error(err)
		}
	})
}

func TestTwoMayCollectAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := brokertest.Start(t)
		for i := range 9 {
			if _, err := b.Publish(t.Context(), []broker.Change{{Event: large("a", fmt.Sprint(i), schemas.Added, 1), After: 7}}); err != nil {
				t.Fatal(err)
			}
		}
		kept := large("b", "b", schemas.Added, 1)
		publish(t, b, broker.Change{Event: kept})
		time.Sleep(61 * time.Minute)
		have := bodies(t, b)
		var wg sync.WaitGroup
		for range 2 {
			wg.Go(func() {
				if _, err := b.CollectBodies(t.Context()); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if n := bodies(t, b); n != have/10 {
			t.Errorf("%d messages left of %d, want those of one body", n, have)
		}
		if got, _, err := newest(t, b, kept.Key()); err != nil || !reflect.DeepEqual(got, kept) {
			t.Error(err)
		}
	})
}

func TestNothingIsCollectedWhereEventsCannotBeRead(t *testing.T) {
	for name, harm := range map[string]func(t *testing.T, js jetstream.JetStream){
		"there is no state stream": func(t *testing.T, js jetstream.JetStream) {
			if err := js.DeleteStream(t.Context(), broker.StreamState); err != nil {
				t.Fatal(err)
			}
		},
		"the state stream is behind": func(t *testing.T, js jetstream.JetStream) {
			s, err := js.Stream(t.Context(), broker.StreamState)
			if err == nil {
				cfg := s.CachedInfo().Config
				cfg.Sources = nil
				_, err = js.UpdateStream(t.Context(), cfg)
			}
			if err == nil {
				_, err = js.Publish(t.Context(), "vcsync.ev.a.Job.added.x", nil)
			}
			if err != nil {
				t.Fatal(err)
			}
		},
		"the event stream was made anew": func(t *testing.T, js jetstream.JetStream) {
			s, err := js.Stream(t.Context(), broker.StreamEvents)
			if err == nil {
				err = js.DeleteStream(t.Context(), broker.StreamEvents)
			}
			if err == nil {
				cfg := s.CachedInfo().Config
				cfg.Metadata = nil
				_, err = js.CreateStream(t.Context(), cfg)
			}
			if err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := brokertest.Start(t)
				e := large("a", "1", schemas.Added, 1)
				publish(t, b, broker.Change{Event: e})
				if err := b.WaitState(t.Context()); err != nil {
					t.Fatal(err)
				}
				have := bodies(t, b)
				harm(t, b.JS())
				time.Sleep(61 * time.Minute)
				if n, err := b.CollectBodies(t.Context()); err == nil || n != 0 {
					t.Errorf("%d removed, error %v", n, err)
				} else {
					t.Log(err)
				}
				if n := bodies(t, b); n != have {
					t.Errorf("%d messages, want %d", n, have)
				}
			})
		})
	}
}

func TestAFullBodyStoreStopsNoOtherEvent(t *testing.T) {
	b := brokertest.Start(t)
	s, err := b.JS().Stream(t.Context(), bodyStream)
	if err != nil {
		t.Fatal(err)
	}
	cfg := s.CachedInfo().Config
	cfg.MaxBytes = 8 << 20
	if _, err := b.JS().UpdateStream(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
	out, err := b.Publish(t.Context(), []broker.Change{{Event: event("a", schemas.Added, 1)}, {Event: large("b", "b", schemas.Added, 1)},
		{Event: large("c", "c", schemas.Added, 1)}, {Event: event("d", schemas.Added, 1)}})
	if err != nil {
		t.Fatal(err)
	}
	for i, o := range out {
		if full := i == 2; (o.Err != nil) != full {
			t.Errorf("change %d: %v", i, o.Err)
		}
	}
	if err := out[2].Err; err == nil || !strings.Contains(err.Error(), "nats stream edit "+bodyStream) {
		t.Errorf("it does not tell what to do: %v", err)
	}
}

// A data folder of a version that had no object store gets it.
func TestAnOlderDataFolderGetsTheBodyStore(t *testing.T) {
	dir := t.TempDir()
	b := brokertest.Open(t, dir)
	publish(t, b, broker.Change{Event: event("a", schemas.Added, 1)})
	if err := b.JS().DeleteStream(t.Context(), bodyStream); err != nil {
		t.Fatal(err)
	}
	b.Close()
	if _, err := broker.Open(t.Context(), broker.Config{Dir: dir, LazySync: true}); !errors.Is(err, broker.ErrWentBackwards) {
		t.Errorf("one that had it: %v, want ErrWentBackwards", err)
	}
	mark := filepath.Join(dir, "highwater.json")
	raw, err := os.ReadFile(mark)
	if err != nil {
		t.Fatal(err)
	}
	var rec map[string]any
	if err := json.Unmarshal(raw, &rec); err != nil {
		t.Fatal(err)
	}
	delete(rec["streams"].(map[string]any), bodyStream)
	if raw, err = json.Marshal(rec); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(mark, raw, 0o600); err != nil {
		t.Fatal(err)
	}
	b = brokertest.Open(t, dir)
	e := large("b", "b", schemas.Added, 1)
	publish(t, b, broker.Change{Event: e})
	b.Close()
	b = brokertest.Open(t, dir)
	if got, _, err := newest(t, b, e.Key()); err != nil || !reflect.DeepEqual(got, e) {
		t.Error(err)
	}
}

// A store whose last body was removed has not gone backwards, however it stopped.
func TestAnEmptiedBodyStoreIsNoLoss(t *testing.T) {
	dir := t.TempDir()
	killed := filepath.Join(t.TempDir(), "killed")
	synctest.Test(t, func(t *testing.T) {
		b := brokertest.Open(t, dir)
		if _, err := b.Publish(t.Context(), []broker.Change{{Event: large("a", "1", schemas.Added, 1), After: 7}}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(61 * time.Minute)
		collect(t, b, 1)
		if n := bodies(t, b); n != 0 {
			t.Fatalf("%d messages left", n)
		}
		if err := b.Mark(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(os.CopyFS(killed, os.DirFS(dir)), os.Chmod(filepath.Join(killed, "keyring.json"), 0o600)); err != nil {
			t.Fatal(err)
		}
		b.Close()
	})
	for _, dir := range []string{dir, killed} {
		b, err := broker.Open(t.Context(), broker.Config{Dir: dir, LazySync: true, Log: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		b.Close()
	}
}
