package broker_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/vcsync/vcsync/broker"
	"github.com/vcsync/vcsync/broker/brokertest"
	"github.com/vcsync/vcsync/schemas"
)

func version(epoch, revision uint64) schemas.Version {
	return schemas.Version{Epoch: epoch, Revision: revision}
}

func TestEntriesCountEveryVersion(t *testing.T) {
	for _, c := range []struct {
		name                string
		before, e           broker.Entry
		applied, superseded uint64
	}{
		{"the first of all", broker.Entry{}, broker.Entry{Source: "a", Version: version(1, 1), State: broker.Applied}, 1, 0},
		{"the first to get here", broker.Entry{}, broker.Entry{Source: "a", Version: version(1, 5), State: broker.Adopted}, 1, 4},
		{"the next", broker.Entry{Source: "a", Version: version(1, 5), Applied: 2, Superseded: 3}, broker.Entry{Source: "a", Version: version(1, 6)}, 3, 3},
		{"one that overtook two", broker.Entry{Source: "a", Version: version(1, 5), Applied: 2, Superseded: 3}, broker.Entry{Source: "a", Version: version(1, 8)}, 3, 5},
		{"the same again", broker.Entry{Source: "a", Version: version(1, 5), Applied: 2, Superseded: 3}, broker.Entry{Source: "a", Version: version(1, 5), Policy: schemas.Off}, 2, 3},
		{"an intent stays at the version before", broker.Entry{Source: "a", Version: version(1, 5), Applied: 2, Superseded: 3}, broker.Entry{Source: "a", Version: version(1, 5), State: broker.Intent}, 2, 3},
		{"the first intent", broker.Entry{}, broker.Entry{Source: "a", State: broker.Intent}, 0, 0},
		{"after the first intent", broker.Entry{Source: "a", State: broker.Intent}, broker.Entry{Source: "a", Version: version(1, 2)}, 1, 1},
		{"a new epoch that counts on", broker.Entry{Source: "a", Version: version(1, 5), Applied: 2, Superseded: 3}, broker.Entry{Source: "a", Version: version(2, 6)}, 3, 3},
		{"a new epoch that counts anew", broker.Entry{Source: "a", Version: version(1, 5), Applied: 2, Superseded: 3}, broker.Entry{Source: "a", Version: version(2, 2)}, 1, 1},
		{"a new epoch that has come as far", broker.Entry{Source: "a", Version: version(1, 5), Applied: 2, Superseded: 3}, broker.Entry{Source: "a", Version: version(2, 5)}, 1, 4},
		{"another source", broker.Entry{Source: "a", Version: version(1, 5), Applied: 2, Superseded: 3}, broker.Entry{Source: "b", Version: version(1, 7)}, 1, 6},
		{"after an entry of an older release", broker.Entry{Source: "a", Version: version(1, 5)}, broker.Entry{Source: "a", Version: version(1, 7)}, 2, 5},
		{"what the entry held itself counts for nothing", broker.Entry{}, broker.Entry{Source: "a", Version: version(1, 1), Applied: 9, Superseded: 9}, 1, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			applied, superseded := c.e.Counted(c.before).Counts()
			if applied != c.applied || superseded != c.superseded || applied+superseded != c.e.Version.Revision {
				t.Errorf("%d applied, %d superseded; want %d and %d, together revision %d", applied, superseded, c.applied, c.superseded, c.e.Version.Revision)
			}
		})
	}
}

func TestScanCapturedReadsOn(t *testing.T) {
	b := brokertest.Start(t)
	put := func(source schemas.Slug, kind schemas.Kind, i int, revision uint64) {
		t.Helper()
		e := schemas.Event{Source: source, Kind: kind, Version: version(1, revision), Time: time.Now(), Object: schemas.Object{Type: schemas.Job, ID: schemas.ID(fmt.Sprint("job ", i)), Name: "x"}}
		if kind != schemas.Deleted {
			e.Digest, e.Object.Body = schemas.DigestOf([]byte(fmt.Sprint(revision))), []byte(`{}`)
		}
		last, err := b.LastEvent(t.Context(), e.Key())
		if revision > 1 && err != nil {
			t.Fatal(err)
		}
		if got, err := b.Publish(t.Context(), []broker.Change{{Event: e, After: last.Seq}}); err != nil || got[0].Err != nil {
			t.Fatal(got, err)
		}
	}
	newest := map[string]uint64{}
	read := func(after uint64) (upTo uint64, n int) {
		t.Helper()
		upTo, err := b.ScanCaptured(t.Context(), "a", after, func(e broker.StoredEvent) {
			n++
			newest[string(e.ID)] = max(newest[string(e.ID)], e.Version.Revision)
		})
		if err != nil {
			t.Fatal(err)
		}
		return upTo, n
	}
	if upTo, n := read(0); upTo != 0 || n != 0 {
		t.Errorf("an empty stream: %d, %d", upTo, n)
	}
	put("a", schemas.Added, 1, 1)
	for r := range uint64(5) {
		put("a", schemas.Updated, 1, 2+r)
	}
	put("a", schemas.Added, 2, 1)
	put("b", schemas.Added, 3, 1)
	upTo, n := read(0)
	if upTo != 8 || n != 3 || newest["job 1"] != 6 || newest["job 2"] != 1 || len(newest) != 2 {
		t.Errorf("up to %d, %d events, %v; want the newest of each kind", upTo, n, newest)
	}
	if again, n := read(upTo); again != upTo || n != 0 {
		t.Errorf("nothing new: %d, %d", again, n)
	}
	put("b", schemas.Updated, 3, 2)
	if upTo, n = read(upTo); upTo != 9 || n != 0 {
		t.Errorf("another source's: %d, %d", upTo, n)
	}
	put("a", schemas.Updated, 1, 7)
	put("a", schemas.Deleted, 1, 8)
	if upTo, n = read(upTo); upTo != 11 || n != 2 || newest["job 1"] != 8 {
		t.Errorf("up to %d, %d events, %v", upTo, n, newest)
	}
}

func TestUndelivered(t *testing.T) {
	b := brokertest.Start(t)
	for i := range 5 {
		e := schemas.Event{Source: "a", Kind: schemas.Added, Version: version(1, 1), Time: time.Now(), Digest: schemas.DigestOf([]byte("x")),
			Object: schemas.Object{Type: schemas.Job, ID: schemas.ID(fmt.Sprint(i)), Name: "x", Body: []byte(`{}`)}}
		if got, err := b.Publish(t.Context(), []broker.Change{{Event: e}}); err != nil || got[0].Err != nil {
			t.Fatal(got, err)
		}
	}
	if err := b.WaitState(t.Context()); err != nil {
		t.Fatal(err)
	}
	c, err := b.JS().CreateOrUpdateConsumer(t.Context(), broker.StreamState, jetstream.ConsumerConfig{Durable: "set-x", AckPolicy: jetstream.AckExplicitPolicy, FilterSubject: schemas.TypeStateFilter("a", schemas.Job)})
	if err != nil {
		t.Fatal(err)
	}
	want := func(from uint64, open int) {
		t.Helper()
		if f, o, err := b.Undelivered(t.Context(), "set-x"); err != nil || f != from || o != open {
			t.Errorf("from %d, %d open, %v; want %d and %d", f, o, err, from, open)
		}
	}
	want(1, 0)
	batch, err := c.Fetch(3, jetstream.FetchMaxWait(5*time.Second))
	if err != nil {
		t.Fatal(err)
	}
	for m := range batch.Messages() {
		meta, err := m.Metadata()
		if err != nil {
			t.Fatal(err)
		}
		if meta.Sequence.Stream == 1 {
			if err := m.DoubleAck(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
	}
	want(4, 2)
	if batch, err = c.Fetch(2, jetstream.FetchMaxWait(5*time.Second)); err != nil {
		t.Fatal(err)
	}
	for range batch.Messages() {
	}
	want(6, 4)
}
