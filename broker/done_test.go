package broker_test

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/vcsync/vcsync/broker"
	"github.com/vcsync/vcsync/broker/brokertest"
	"github.com/vcsync/vcsync/schemas"
)

// TestDone stores what was at a target before writes and reads it back, with bodies of any
// size; two writes of one object are two records.
func TestDone(t *testing.T) {
	t.Parallel()
	b := brokertest.Start(t)
	write := func(pass, act, id string, size int) broker.Done {
		d := broker.Done{Target: "test", Pass: pass, Type: schemas.Job, ID: schemas.ID(id), Name: "Job \u00e9 " + id, Act: act, Setting: "one", Source: "production", By: "me",
			Version: schemas.Version{Epoch: 1, Revision: 2}, After: schemas.DigestOf([]byte("after")), Secrets: "masked",
			Ledger: &broker.Entry{Type: schemas.Job, ID: schemas.ID(id), Source: "production", State: broker.Applied, Version: schemas.Version{Epoch: 1, Revision: 1}}}
		if size > 0 {
			d.Object = schemas.Object{Body: noise(id, size), Withholds: true, Withheld: []string{"/Password"}}
			d.Before = schemas.DigestOf(d.Object.Body)
		}
		if act == "add" { // and the next write finds that
			d.After = schemas.DigestOf(noise(id, 100))
		}
		if err := b.PutDone(t.Context(), d); err != nil {
			t.Fatal(err)
		}
		return d
	}
	large := write("p1", "update", "a", 6<<20)
	write("p1", "add", "b", 0)
	write("p1", "update", "b", 100)
	write("p2", "delete", "a", 100)

	all, err := b.DoneBy(t.Context(), "test", "p1")
	if err != nil || len(all) != 2 || all[0].First.ID != "a" || all[1].First.Act != "add" || all[1].Last.Act != "update" || all[1].First.Seq == all[1].Last.Seq {
		t.Fatalf("pass p1: %+v, %v", all, err)
	}
	d, err := b.DoneObject(t.Context(), all[0].First.Seq)
	if err != nil || string(d.Object.Body) != string(large.Object.Body) || !d.Object.Withholds || d.Name != large.Name || d.Ledger == nil || d.Ledger.Version.Revision != 1 {
		t.Errorf("read back: %d bytes, %+v, %v", len(d.Object.Body), d.Ledger, err)
	}
	if d, err = b.DoneObject(t.Context(), all[1].First.Seq); err != nil || d.Object.Body != nil {
		t.Errorf("of an object that was not there: %s, %v", d.Object.Body, err)
	}
	if _, err := b.DoneBy(t.Context(), "test", "p3"); !errors.Is(err, broker.ErrNotFound) {
		t.Errorf("a pass that there is not: %v", err)
	}
	if _, err := b.DoneBy(t.Context(), "other", "p1"); !errors.Is(err, broker.ErrNotFound) {
		t.Errorf("at another target: %v", err)
	}
	write("p4", "add", "c", 0)
	write("p4", "update", "c", 100)
	write("p4", "update", "c", 200) // what somebody else wrote
	if all, err := b.DoneBy(t.Context(), "test", "p4"); err != nil || len(all) != 1 || all[0].First.Seq != all[0].Last.Seq {
		t.Errorf("with somebody else's write in between: %+v, %v", all, err)
	}
	if d, err := b.LastDone(t.Context(), "test", schemas.Job, "a"); err != nil || d.Pass != "p2" {
		t.Errorf("last write of a: %+v, %v", d, err)
	}
	passes, err := b.Passes(t.Context(), "", time.Time{})
	if got := fmt.Sprint(len(passes), passes[1].ID, passes[1].Acts, passes[2].Acts, passes[2].Sources); err != nil || got != "3p2map[delete:1] map[add:1 update:1] [production]" {
		t.Errorf("passes %s, %v", got, err)
	}
	if passes, err = b.Passes(t.Context(), "test", time.Now().Add(time.Hour)); err != nil || len(passes) != 0 {
		t.Errorf("later passes %+v, %v", passes, err)
	}
	old, _, err := broker.OldBodies(b, t.Context())
	if err != nil {
		t.Fatal(err)
	}
	st, err := b.JS().Stream(t.Context(), broker.StreamDone)
	if err != nil {
		t.Fatal(err)
	}
	m, err := st.GetMsg(t.Context(), all[0].First.Seq)
	if err != nil {
		t.Fatal(err)
	}
	named, other := m.Header.Get(schemas.HeaderDataDigest), string(schemas.DigestOf([]byte("other")))
	zero := old["nothing"]
	old[named], old[other] = zero, zero
	err = broker.DropNamed(b, t.Context(), old)
	if _, stays := old[other]; err != nil || named == "" || len(old) != 1 || !stays {
		t.Errorf("of the body %s and another one %v may go, %v", named, old, err)
	}
}
