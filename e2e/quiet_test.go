package e2e_test

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/vcsync/vcsync/e2e"
	"github.com/vcsync/vcsync/schemas"
	"github.com/vcsync/vcsync/visualcron/standin"
)

// Servers that move by themselves, and store what is written in a spelling of
// their own: after settling, an hour without a write (G8).
func TestAnHourOfMovingStatisticsIsQuiet(t *testing.T) {
	for _, modes := range [][]standin.Misbehaviour{
		{{Mode: "statistics-move"}, {Mode: "canonicalises"}},
		{{Mode: "statistics-move"}, {Mode: "canonicalises"}, {Mode: "adds-fields"}},
		{{Mode: "statistics-move"}, {Mode: "secrets", Arg: "opaque"}, {Mode: "fresh-iv"}},
	} {
		t.Run(fmt.Sprint(modes), func(t *testing.T) {
			t.Parallel()
			world(t, []schemas.Slug{"test"}, func(w *e2e.World) {
				prod, test := w.Hosts["production"], w.Hosts["test"]
				seedSome(t, prod, 5)
				for _, h := range []*e2e.Host{prod, test} {
					if err := h.Server.Misbehave(modes...); err != nil {
						t.Fatal(err)
					}
				}
				w.Setting(e2e.AllObjects("production-to-test", "production", "test", schemas.Keep))
				w.StartProducer()
				w.StartConsumer()
				time.Sleep(10 * time.Minute)
				puts, _ := test.Count()
				if puts < 40 {
					t.Errorf("only %d writes while settling", puts)
				}
				test.Reset()
				published := w.Prod.Status()[0]
				time.Sleep(time.Hour)
				if puts, deletes := test.Count(); puts+deletes != 0 {
					t.Errorf("%d puts and %d deletes in an hour without a change", puts, deletes)
				}
				for x, ts := range w.Prod.Status()[0].Types {
					if ts.Published != published.Types[x].Published || ts.Class != "" {
						t.Errorf("%s: %d events became %d; %s", x, published.Types[x].Published, ts.Published, ts.Reason)
					}
				}
			})
		})
	}
}

// A ring of three with every type settles after one round, and one edit makes one
// more: two writes, not three.
func TestARingOfThreeSettlesAfterOneRound(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := e2e.NewWorld(t)
		defer w.Close()
		ring := []schemas.Slug{"a", "b", "c"}
		for _, name := range ring {
			w.AddHost(name)
			if err := w.Hosts[name].Server.Misbehave(standin.Misbehaviour{Mode: "statistics-move"}, standin.Misbehaviour{Mode: "canonicalises"}); err != nil {
				t.Fatal(err)
			}
		}
		for i, name := range ring {
			next := ring[(i+1)%len(ring)]
			w.Setting(e2e.AllObjects(name+"-to-"+next, name, next, schemas.Keep))
		}
		seedSome(t, w.Hosts["a"], 5)
		w.StartProducer()
		w.StartConsumer()
		time.Sleep(15 * time.Minute)
		objects := 0
		for _, x := range e2e.AllTypes() {
			for _, r := range w.Hosts["a"].Server.Objects(x) {
				if !standin.IsBuiltin(x, r.ID) {
					objects++
				}
			}
		}
		if d := append(e2e.Diverged(w.Hosts["a"], w.Hosts["b"], schemas.Keep, e2e.AllTypes()...), e2e.Diverged(w.Hosts["b"], w.Hosts["c"], schemas.Keep, e2e.AllTypes()...)...); d != nil {
			t.Fatalf("%d differ, such as %s", len(d), d[0])
		}
		for name, want := range map[schemas.Slug]int{"a": 0, "b": objects, "c": objects} {
			if puts, deletes := w.Hosts[name].Count(); puts != want || deletes != 0 {
				t.Errorf("%s: %d puts and %d deletes, want %d and none", name, puts, deletes, want)
			}
			w.Hosts[name].Reset()
		}
		time.Sleep(time.Hour)
		for _, name := range ring {
			if puts, deletes := w.Hosts[name].Count(); puts+deletes != 0 {
				t.Errorf("%s: %d puts and %d deletes in a quiet hour", name, puts, deletes)
			}
		}
		b := w.Hosts["b"].Server.Objects(schemas.Connection)[0]
		if _, _, err := w.Hosts["b"].Server.Put(schemas.Connection, edited(t, schemas.Connection, b.Body)); err != nil {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Minute)
		for name, want := range map[schemas.Slug]int{"a": 1, "b": 0, "c": 1} {
			if puts, _ := w.Hosts[name].Count(); puts != want {
				t.Errorf("%s: %d puts after one edit at b, want %d", name, puts, want)
			}
		}
	})
}
