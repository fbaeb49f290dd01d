package e2e_test

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vcsync/vcsync/broker"
	"github.com/vcsync/vcsync/e2e"
	"github.com/vcsync/vcsync/schemas"
	"github.com/vcsync/vcsync/visualcron"
	"github.com/vcsync/vcsync/visualcron/standin"
)

// seed fills a host with everything that the demo's production has.
func seed(t testing.TB, h *e2e.Host) {
	t.Helper()
	seedSome(t, h, 1<<20)
}

// seedSome is seed with at most n objects of a type.
func seedSome(t testing.TB, h *e2e.Host, n int) {
	t.Helper()
	count := map[schemas.Type]int{}
	for _, o := range standin.SeedObjects() {
		if count[o.Type]++; count[o.Type] > n {
			continue
		}
		if _, _, err := h.Server.Put(o.Type, o.Body); err != nil {
			t.Fatalf("seed %s %s: %v", o.Type, o.ID, err)
		}
	}
}

// equalWithin waits until the targets hold all that the source has, of all types.
func equalWithin(t *testing.T, w *e2e.World, limit time.Duration, source schemas.Slug, targets ...schemas.Slug) {
	t.Helper()
	begun := time.Now()
	for {
		var diverged []string
		for _, name := range targets {
			diverged = append(diverged, e2e.Diverged(w.Hosts[source], w.Hosts[name], schemas.Keep, e2e.AllTypes()...)...)
		}
		if diverged == nil {
			return
		}
		if time.Since(begun) > limit {
			for _, p := range listParked(t, w) {
				t.Logf("parked at %s: %s %s: %s", p.Target, p.Type, p.Name, p.Reason)
			}
			t.Fatalf("after %s %d objects differ: %.2000s", limit, len(diverged), strings.Join(diverged, "; "))
		}
		time.Sleep(time.Second)
	}
}

// edited returns a body with one plain field of its own changed.
func edited(t *testing.T, x schemas.Type, body []byte) []byte {
	t.Helper()
	fields := []string{"Description", "Name", "Path", "CommonName", "Domain"}
	switch x {
	case schemas.Variable: // its name is its id
		fields = fields[:1]
	case schemas.ServerSettings: // its name is its own
		fields = []string{"LogLevel"}
	}
	for _, f := range fields {
		if mark := fmt.Appendf(nil, `"%s":"`, f); bytes.Contains(body, mark) {
			return bytes.Replace(body, mark, append(mark, "edited "...), 1)
		}
	}
	t.Fatalf("no field of %s to edit in %.300s", x, body)
	return nil
}

// What must be shown first: one field of one object of every type.
func TestAnEditOfEveryTypeArrives(t *testing.T) {
	t.Parallel()
	targets := []schemas.Slug{"test", "standby"}
	world(t, targets, func(w *e2e.World) {
		prod := w.Hosts["production"]
		seed(t, prod)
		for _, name := range targets {
			s := e2e.AllObjects("production-to-"+name, "production", name, schemas.Keep)
			s.Rules[schemas.ServerSettings] = schemas.Rule{Sync: schemas.SyncAll, Rights: schemas.Rights{Updated: true}}
			w.Setting(s)
		}
		w.StartProducer()
		w.StartConsumer()
		equalWithin(t, w, 5*time.Minute, "production", targets...)
		for _, p := range listParked(t, w) { // the one with tokens of its server's own
			if p.Class != "secret" || p.Type != schemas.Connection || !strings.Contains(p.Reason, "/OAuth/AccessToken, /OAuth/RefreshToken") {
				t.Errorf("parked: %+v", p)
			}
		}
		for _, x := range schemas.Types() {
			t.Run(string(x), func(t *testing.T) {
				for _, name := range targets {
					w.Hosts[name].Reset()
				}
				var was visualcron.Row
				for _, r := range prod.Server.Objects(x) {
					if n, err := visualcron.Normalize(x, r.Body, func(s string) string { return s }); err == nil && !n.BuiltIn {
						was = r
						break
					}
				}
				body := was.Body
				body = edited(t, x, body)
				if _, _, err := prod.Server.Put(x, body); err != nil {
					t.Fatal(err)
				}
				time.Sleep(2 * time.Minute)
				for _, name := range targets {
					got, _ := w.Hosts[name].Server.Get(x, was.ID)
					if !bytes.Contains(got, []byte("edited ")) {
						t.Errorf("%s has not got it: %.300s", name, got)
					}
					if puts, deletes := w.Hosts[name].Count(); puts != 1 || deletes != 0 {
						t.Errorf("%s: %d writes and %d deletes for one edit", name, puts, deletes)
					}
				}
			})
		}
		for _, name := range targets {
			settings, _ := w.Hosts[name].Server.Get(schemas.ServerSettings, visualcron.ServerSettingsID)
			if !bytes.Contains(settings, []byte(`"Name":"`+string(name)+`"`)) {
				t.Errorf("the server's own name is gone: %s", settings)
			}
		}
	})
}

// dangling returns the references at a host, as "type/id → type/id", that lead
// nowhere.
func dangling(t testing.TB, h *e2e.Host) map[string]bool {
	t.Helper()
	tasks := map[schemas.ID]bool{}
	for _, r := range h.Server.Objects(schemas.Job) {
		d, err := visualcron.Tasks(r.Body)
		if err != nil {
			t.Fatal(err)
		}
		for _, id := range d {
			tasks[id] = true
		}
	}
	out := map[string]bool{}
	for _, x := range schemas.Types() {
		for _, r := range h.Server.Objects(x) {
			refs, err := visualcron.References(x, r.Body)
			if err != nil {
				t.Fatal(err)
			}
			for _, ref := range refs {
				_, ok := h.Server.Get(ref.Type, ref.ID)
				if ref.Task {
					ok = tasks[ref.ID]
				}
				if !ok {
					out[fmt.Sprintf("%s/%s → %s/%s", x, r.ID, ref.Type, ref.ID)] = true
				}
			}
		}
	}
	return out
}

// Events of a closure in any order, with a parent that the target refuses for a
// while: nothing dangles at rest that does not dangle at the source, and what can
// wait was never written before what it refers to.
func TestShuffledArrivalLeavesNothingDangling(t *testing.T) {
	for seedOf := range uint64(2) {
		t.Run(fmt.Sprint("seed ", seedOf), func(t *testing.T) {
			t.Parallel()
			world(t, []schemas.Slug{"test"}, func(w *e2e.World) {
				prod, test := w.Hosts["production"], w.Hosts["test"]
				seed(t, prod)
				for i, r := range prod.Server.Objects(schemas.Job)[:100] { // and as many again
					twin := bytes.ReplaceAll(r.Body, []byte(r.ID), fmt.Appendf(nil, "7a117a11-0000-4000-8000-%012d", i))
					if _, _, err := prod.Server.Put(schemas.Job, twin); err != nil {
						t.Fatal(err)
					}
				}
				w.Setting(e2e.AllObjects("production-to-test", "production", "test", schemas.Keep))
				var changes []broker.Change
				view := visualcron.View{Secrets: visualcron.SecretsEqual, Digest: w.Broker.Keys.Digest}
				for _, x := range e2e.AllTypes() {
					for _, r := range prod.Server.Objects(x) {
						n, err := view.Normalize(x, r.Body)
						if err != nil {
							t.Fatal(err)
						}
						if n.BuiltIn {
							continue
						}
						sealed, err := view.SealBody(x, r.Body, func(p, s string) string {
							return w.Broker.Keys.Seal(schemas.SealContext("production", x, r.ID, p), s)
						})
						if err != nil {
							t.Fatal(err)
						}
						changes = append(changes, broker.Change{Event: schemas.Event{Source: "production", Kind: schemas.Added, Version: schemas.Version{Epoch: 1, Revision: 1},
							Digest: n.Digest, Time: time.Now(), Object: schemas.Object{Type: x, ID: r.ID, Name: n.Name, Body: slices.Clone(sealed.Body), Sealed: sealed.Places, Withheld: sealed.Withheld}}})
					}
				}
				if len(changes) < 500 {
					t.Fatalf("a closure of %d objects", len(changes))
				}
				rng := rand.New(rand.NewPCG(seedOf, 7))
				rng.Shuffle(len(changes), func(i, j int) { changes[i], changes[j] = changes[j], changes[i] })
				var mu sync.Mutex
				refused := map[string]bool{}
				test.SetFaults(refuseUntil(time.Now().Add(3*time.Minute), schemas.Connection, refused, &mu))
				w.StartConsumer()
				for part := range slices.Chunk(changes, 25) {
					w.Do(func(ctx context.Context) error { _, err := w.Broker.Publish(ctx, part); return err })
					time.Sleep(time.Duration(rng.IntN(2000)) * time.Millisecond)
				}
				time.Sleep(20 * time.Minute)
				// The refused ones are parked for a person: who asks to try again.
				w.Do(func(ctx context.Context) error {
					for _, p := range listParked(t, w) {
						if p.Class == "refused" {
							p.RetryAsked++
							if _, err := w.Broker.PutParked(ctx, p); err != nil {
								return err
							}
						}
					}
					return nil
				})
				mu.Lock()
				t.Logf("%d objects, %d refused at first", len(changes), len(refused))
				if len(refused) == 0 {
					t.Error("nothing was refused")
				}
				mu.Unlock()
				time.Sleep(20 * time.Minute)
				if d := e2e.Diverged(prod, test, schemas.Keep, e2e.AllTypes()...); d != nil {
					for _, p := range listParked(t, w) {
						t.Logf("parked: %s %s %s: %s", p.Class, p.Type, p.Name, p.Reason)
					}
					t.Fatalf("%d differ: %.500s", len(d), strings.Join(d, "; "))
				}
				want := dangling(t, prod)
				for ref := range dangling(t, test) {
					if !want[ref] {
						t.Errorf("dangles at the target only: %s", ref)
					}
				}
			})
		})
	}
}

// refuseUntil refuses to store objects of a type until that time.
func refuseUntil(end time.Time, x schemas.Type, refused map[string]bool, mu *sync.Mutex) func(http.Handler) http.Handler {
	return fault(func(rw http.ResponseWriter, r *http.Request) bool {
		if r.Method != http.MethodPut || !strings.HasPrefix(r.URL.Path, "/api/v1/objects/"+string(x)+"/") || !time.Now().Before(end) {
			return false
		}
		io.Copy(io.Discard, r.Body)
		mu.Lock()
		refused[r.URL.Path] = true
		mu.Unlock()
		rw.Header().Set("Content-Type", "application/problem+json")
		rw.WriteHeader(http.StatusUnprocessableEntity)
		io.WriteString(rw, `{"title":"not now"}`)
		return true
	})
}

// A pass is published in the order in which it can be applied, its deletions in
// reverse.
func TestAPassIsPublishedInTheOrderOfApplying(t *testing.T) {
	world(t, []schemas.Slug{"test"}, func(w *e2e.World) {
		prod := w.Hosts["production"]
		seedSome(t, prod, 12)
		w.Setting(e2e.AllObjects("production-to-test", "production", "test", schemas.Keep))
		w.StartProducer()
		time.Sleep(time.Minute)
		published := func(kind schemas.Kind) (types []schemas.Type) {
			w.Do(func(ctx context.Context) error {
				events, err := w.Broker.Events(ctx, broker.EventQuery{Kind: kind}, 1000)
				slices.SortFunc(events, func(a, b broker.StoredEvent) int { return cmp.Compare(a.Seq, b.Seq) })
				for _, e := range events {
					types = append(types, e.Head.Key.Type)
				}
				return err
			})
			return types
		}
		if got := slices.Compact(published(schemas.Added)); !slices.Equal(got, e2e.AllTypes()) {
			t.Errorf("added: %v, want %v", got, e2e.AllTypes())
		}
		w.StopProducer(nil)
		reverse := e2e.AllTypes()
		slices.Reverse(reverse)
		for _, x := range reverse {
			rows := prod.Server.Objects(x)
			if _, err := prod.Server.Delete(x, rows[len(rows)-1].ID); err != nil {
				t.Fatal(err)
			}
		}
		w.StartProducer()
		time.Sleep(time.Minute)
		if got := published(schemas.Deleted); !slices.Equal(got, reverse) {
			t.Errorf("deleted: %v, want %v", got, reverse)
		}
	})
}
