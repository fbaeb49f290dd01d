package broker_test

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/vcsync/vcsync/broker"
	"github.com/vcsync/vcsync/broker/brokertest"
	"github.com/vcsync/vcsync/schemas"
)

func airlockOf(ids ...string) broker.Airlock {
	a := broker.Airlock{Source: "a", Type: schemas.Job, Class: "too many", Why: "many"}
	for _, id := range ids {
		a.Objects = append(a.Objects, broker.AirlockObject{Token: schemas.ID(id).Token(), ID: schemas.ID(id), Name: id, Version: version(1, 3)})
	}
	a.Normalize()
	return a
}

func TestABatchIsItsObjectsAndTheirVersions(t *testing.T) {
	a := airlockOf("x", "y", "z")
	if b := airlockOf("z", "x", "y"); b.Batch != a.Batch || len(a.Batch) != 12 {
		t.Errorf("%q and %q for the same objects", a.Batch, b.Batch)
	}
	for what, b := range map[string]broker.Airlock{"fewer": airlockOf("x", "y"), "others": airlockOf("x", "y", "w")} {
		if b.Batch == a.Batch {
			t.Errorf("%s have the same name", what)
		}
	}
	newer := airlockOf("x", "y", "z")
	newer.Objects[1].Version = version(1, 4)
	if newer.Normalize(); newer.Batch == a.Batch {
		t.Error("another version has the same name")
	}
	all := func(broker.AirlockObject) bool { return true }
	one := func(o broker.AirlockObject) bool { return o.ID == "y" }
	first, was := a.Batch, slices.Clone(a.Objects)
	since := time.Date(2026, 3, 4, 12, 0, 0, 0, time.UTC)
	a.Since = since
	if n := a.Decide(broker.AirlockDecision{Batch: "other", Verdict: broker.Approved}, all); n != 0 || a.Batch != first || len(a.Decisions) != 0 {
		t.Errorf("%d objects of another batch: %+v", n, a)
	}
	if n := a.Decide(broker.AirlockDecision{Batch: first, Verdict: broker.Rejected}, one); n != 1 || a.Batch == first || a.Batch == "" || a.Count("") != 2 || a.Count(broker.Rejected) != 1 || was[1].Decision != 0 {
		t.Errorf("%d rejected: %+v", n, a)
	}
	if a.Since = since.Add(time.Hour); !a.Decisions[0].Since.Equal(since) { // others are held later
		t.Errorf("what was held at %s and rejected is said to wait since %s", since, a.Decisions[0].Since)
	}
	if n := a.Decide(broker.AirlockDecision{Batch: a.Batch, Verdict: broker.Approved}, all); n != 2 || a.Batch != "" || a.Class != "" || a.Count(broker.Approved) != 2 {
		t.Errorf("%d approved: %+v", n, a)
	}
	if n := a.Decide(broker.AirlockDecision{Batch: first, Verdict: broker.Approved}, all); n != 1 || a.Count(broker.Rejected) != 0 || len(a.Decisions) != 2 || !a.Decisions[1].Since.Equal(since) {
		t.Errorf("%d approved that were rejected: %+v", n, a)
	}
}

func TestAnAirlockHasRoom(t *testing.T) {
	b := brokertest.Start(t)
	var err error
	a := broker.Airlock{Source: "a", Type: schemas.Job, Class: "too many"}
	for i := range 40_100 {
		id := schemas.ID(fmt.Sprintf("00000000-1111-4222-8333-%012d", i))
		a.Objects = append(a.Objects, broker.AirlockObject{Token: id.Token(), ID: id, Name: "some name", Version: version(1, 3)})
	}
	a.Normalize()
	if a.Revision, err = b.PutAirlock(t.Context(), a); err != nil {
		t.Fatal(err)
	}
	got, err := b.GetAirlock(t.Context(), "a", schemas.Job)
	if err != nil || got.Count("") != 40_100 || got.Unlisted != 100 || got.Objects[1999].Name == "" || got.Objects[2000].Name != "" {
		t.Errorf("%d objects and %d unlisted: %v", len(got.Objects), got.Unlisted, err)
	}
	if i, ok := got.Find(a.Objects[31_000].Token); !ok || i != 31_000 {
		t.Errorf("found at %d, %v", i, ok)
	}
	stale := got
	stale.Revision--
	if _, err := b.PutAirlock(t.Context(), stale); !errors.Is(err, broker.ErrConflict) {
		t.Errorf("a stale write: %v", err)
	}
	if all, err := b.Airlocks(t.Context(), "a"); err != nil || len(all) != 1 {
		t.Errorf("%d records, %v", len(all), err)
	}
	if all, err := b.Airlocks(t.Context(), "b"); err != nil || len(all) != 0 {
		t.Errorf("%d records of another source, %v", len(all), err)
	}
	if err := b.DeleteAirlock(t.Context(), got); err != nil {
		t.Fatal(err)
	}
	if _, err := b.GetAirlock(t.Context(), "a", schemas.Job); !errors.Is(err, broker.ErrNotFound) {
		t.Errorf("deleted: %v", err)
	}
	got.Revision = 0
	if _, err := b.PutAirlock(t.Context(), got); err != nil {
		t.Errorf("made anew: %v", err)
	}
}
