package broker_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/go-json-experiment/json"

	"github.com/vcsync/vcsync/broker"
	"github.com/vcsync/vcsync/broker/brokertest"
	"github.com/vcsync/vcsync/schemas"
)

// TestLedgerKeepsWhoWasDisplaced: that an object was at an id is known after another one
// took it, in whichever page, after the ledger is opened anew, and until it is there again.
func TestLedgerKeepsWhoWasDisplaced(t *testing.T) {
	b := brokertest.Start(t)
	ctx := t.Context()
	l, err := b.OpenLedger(ctx, "test")
	if err != nil {
		t.Fatal(err)
	}
	put := func(id, from schemas.ID, state broker.LedgerState, ours, open bool) {
		t.Helper()
		e := broker.Entry{Type: schemas.Job, ID: id, Source: "production", Version: schemas.Version{Epoch: 1, Revision: 1}, State: state, Ours: ours, Open: open, At: time.Now().UTC()}
		if from != id {
			e.SourceID = from
		}
		before, _ := l.Get(schemas.Job, id)
		if err := l.Put(ctx, e.Counted(before).Displacing(before)); err != nil {
			t.Fatal(err)
		}
	}
	was := func(what string, from schemas.ID, want ...schemas.ID) {
		t.Helper()
		if got := l.Displaced("production", schemas.Job, from); !slices.Equal(got, want) {
			t.Errorf("%s: %s was displaced at %v, want %v", what, from, got, want)
		}
	}
	for i := range 300 { // more than a page
		id := schemas.ID(fmt.Sprintf("job-%d", i))
		put(id, id, broker.Applied, false, false)
	}
	put("job-299", "job-7", broker.Applied, false, false)
	put("job-3", "job-9", broker.Intent, false, true)
	put("job-3", "job-8", broker.Intent, false, false)
	put("job-3", "job-10", broker.Applied, false, false)
	put("job-299", "job-299", broker.Intent, false, false) // a try that may come to nothing
	for _, when := range []string{"at once", "opened anew"} {
		was(when, "job-299", "job-299")
		was(when, "job-7", "job-299")
		was(when, "job-3", "job-3")
		was(when, "job-9", "job-3")
		was(when, "job-8") // nothing was sent
		was(when, "job-10")
		if homes := l.Homes("production", schemas.Job, "job-3"); len(homes) != 0 {
			t.Errorf("%s: %d homes of what was displaced", when, len(homes))
		}
		if when == "at once" {
			l.Close()
			if l, err = b.OpenLedger(ctx, "test"); err != nil {
				t.Fatal(err)
			}
		}
	}
	defer l.Close()
	put("job-299", "job-299", broker.Applied, false, false)
	was("there again", "job-299")
	was("there again", "job-7", "job-299")
	// However many take turns at one id, the entry stays small.
	for i := range 100 {
		put("job-5", schemas.ID(fmt.Sprintf("job-%d", i+10)), broker.Applied, false, false)
	}
	if e, _ := l.Get(schemas.Job, "job-5"); len(e.Displaced) != 32 || e.Displaced[31].ID != "job-108" {
		t.Errorf("%d displaced: %v", len(e.Displaced), e.Displaced)
	}
	was("forgotten", "job-10")
	was("forgotten", "job-5")
	was("the newest", "job-108", "job-5")
	// The release before reads the page as it stands.
	kv, err := b.JS().KeyValue(ctx, broker.BucketLedger)
	if err != nil {
		t.Fatal(err)
	}
	page, err := kv.Get(ctx, "test.0")
	if err != nil {
		t.Fatal(err)
	}
	var old struct {
		Version int `json:"v"`
		Entries []struct {
			ID    schemas.ID         `json:"id"`
			State broker.LedgerState `json:"state"`
		} `json:"entries"`
	}
	if err := json.Unmarshal(page.Value(), &old); err != nil || old.Version != 1 || len(old.Entries) != 256 || old.Entries[3].State != broker.Applied {
		t.Errorf("version %d, %d entries: %v", old.Version, len(old.Entries), err)
	}
}
