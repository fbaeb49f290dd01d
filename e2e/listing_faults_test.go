package e2e_test

import (
	"context"
	"flag"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/vcsync/vcsync/broker"
	"github.com/vcsync/vcsync/e2e"
	"github.com/vcsync/vcsync/producer"
	"github.com/vcsync/vcsync/schemas"
	"github.com/vcsync/vcsync/visualcron"
	"github.com/vcsync/vcsync/visualcron/standin"
)

var update = flag.Bool("update", false, "write the generated files anew")

// verdict is what the producer makes of a listing fault.
type verdict struct {
	// class is that of the degraded source, or how a complete listing ends: whole,
	// held or notTaken.
	class string
	// says stands in the reason.
	says string
}

const (
	whole    = "complete"                 // nothing is missing, nothing happens
	held     = "complete, deletions held" // too many are missing to be believed
	notTaken = "complete, 1 not captured" // the spoiled object stays as it was
)

// expected holds the verdicts with 0, 1 and 1,000 known objects. A type is exempt
// where the fault finds nothing to spoil.
type expected struct {
	none, one, many verdict
	exempt          []schemas.Type
	noID            *[2]string
}

// all is one verdict whatever is known.
func all(class, says string) expected {
	v := verdict{class, says}
	return expected{none: v, one: v, many: v}
}

// some is a verdict that needs a row to be spoiled.
func some(class, says string) expected {
	v := verdict{class, says}
	return expected{none: verdict{class: whole}, one: v, many: v}
}

// many is a verdict that needs more rows than one.
func many(class, says string) expected {
	return expected{none: verdict{class: whole}, one: verdict{class: whole}, many: verdict{class, says}}
}

// settings sets what the reason says for ServerSettings, which have no id to be
// missed: with none known, and with them.
func (e expected) settings(none, one string) expected {
	e.noID = &[2]string{none, one}
	return e
}

// but exempts types.
func (e expected) but(types ...schemas.Type) expected {
	e.exempt = types
	return e
}

// with returns the verdict for n known objects of a type.
func (e expected) with(t schemas.Type, n int) verdict {
	switch {
	case slices.Contains(e.exempt, t):
		return verdict{class: whole}
	case t == schemas.ServerSettings && e.noID != nil:
		return verdict{e.one.class, e.noID[n]}
	case n == 0:
		return e.none
	case n == 1:
		return e.one
	}
	return e.many
}

const (
	bad       = string(visualcron.BadAnswer)
	timeout   = string(visualcron.Timeout)
	malformed = "not a whole JSON array: it breaks off or is malformed"
	idle      = "no byte came in time"
	noEnd     = "the listing did not end in time"
)

// verdicts is the table of docs/listing-faults.md.
var verdicts = map[string]expected{
	"null":            all(bad, "want a JSON array, got null"),
	"empty-array":     some("empty listing", "is empty, and"),
	"empty-object":    all(bad, "want a JSON array, got an object"),
	"empty-body":      all(bad, malformed+" before its first row"),
	"blank-body":      all(bad, malformed+" before its first row"),
	"no-content":      all(bad, "not the status of the contract"),
	"a-number":        all(bad, "want a JSON array, got a number"),
	"a-text":          all(bad, "want a JSON array, got a string"),
	"error-object":    all(bad, "want a JSON array, got an object"),
	"problem-200":     all(bad, "want application/json, got application/problem+json"),
	"login-page":      all(bad, "want application/json, got text/html"),
	"login-page-json": all(bad, malformed+" before its first row"),
	"soap-fault":      all(bad, "want application/json, got text/xml"),
	"xml-json":        all(bad, malformed+" before its first row"),
	"text-list":       all(bad, "want application/json, got text/plain"),
	"json-lines": {none: verdict{bad, malformed + " before its first row"}, one: verdict{bad, "want a JSON array, got an object"},
		many: verdict{bad, "want a JSON array, got an object"}},
	"jsonp":        all(bad, malformed+" before its first row"),
	"wrapped-d":    all(bad, "want a JSON array, got an object"),
	"wrapped-next": all(bad, "want a JSON array, got an object"),
	"keyed":        all(bad, "want a JSON array, got an object"),

	"status-401":      all(string(visualcron.Unauthorized), "HTTP 401"),
	"status-403":      all(string(visualcron.Unauthorized), "HTTP 403"),
	"status-404":      all(string(visualcron.Refused), "HTTP 404"),
	"status-404-page": all(bad, "not found, but not in the words of the contract"),
	"status-429":      all(string(visualcron.Busy), "HTTP 429"),
	"status-500":      all(string(visualcron.Fault), "HTTP 500"),
	"status-500-page": all(string(visualcron.Fault), "HTTP 500"),
	"status-502":      all(string(visualcron.Fault), "HTTP 502"),
	"status-503":      all(string(visualcron.Busy), "HTTP 503"),
	"status-206":      all(bad, "not the status of the contract"),
	"redirect":        all(bad, "the server redirects elsewhere"),

	"text-plain":         all(bad, "want application/json, got text/plain"),
	"no-media-type":      all(bad, "want application/json, got no media type"),
	"gzip":               all(bad, "the answer is coded (gzip), which was not asked for"),
	"gzip-unsaid":        all(bad, malformed+" before its first row"),
	"other-server":       all(string(visualcron.WrongServer), "answers instead of"),
	"other-server-empty": all(string(visualcron.WrongServer), "answers instead of"),
	"other-server-mid": {none: verdict{bad, "row 1 is an array, not an object"}, one: verdict{bad, "row 1 is an array, not an object"},
		many: verdict{bad, malformed + " after row 500"}},
	"hang-up":        all(timeout, "the server closed the connection"),
	"hang-up-mid":    all(bad, "breaks off"),
	"hang-up-end":    all(bad, "breaks off"),
	"length-long":    all(bad, "breaks off"),
	"length-short":   all(bad, malformed),
	"bad-chunk":      all(bad, "what answers does not speak HTTP"),
	"http-1.0-cut":   all(bad, malformed),
	"no-http":        all(bad, "what answers does not speak HTTP"),
	"silent":         all(timeout, idle),
	"silent-mid":     all(timeout, idle),
	"slow":           all(timeout, noEnd),
	"endless-blanks": all(timeout, noEnd),
	"endless-row":    all(bad, "a row has more than"),

	"cut":              all(bad, malformed),
	"cut-between-rows": all(bad, malformed),
	"unclosed":         all(bad, malformed),
	"changed-cut":      all(bad, malformed),
	"trailing-bytes":   all(bad, "bytes follow after the array"),
	"trailing-error":   all(bad, "bytes follow after the array"),
	"two-arrays":       all(bad, "bytes follow after the array"),
	"trailing-comma":   all(bad, malformed),
	"comments":         all(bad, malformed),
	"bom":              all(bad, malformed+" before its first row"),
	"utf-16":           all(bad, malformed+" before its first row"),
	"nested-array":     all(bad, "row 1 is an array, not an object"),
	"token-mid": expected{none: verdict{bad, "no member"}, one: verdict{bad, malformed + " after row 1"},
		many: verdict{bad, malformed + " after row 500"}}.settings(malformed+" after row 1", malformed+" after row 1"),
	"error-row":       all(bad, "no member").settings("", "stands in it twice"),
	"null-row":        all(bad, "is null, not an object"),
	"ids-only":        some(bad, "row 1 is a string, not an object"),
	"twice":           some(bad, "stands in it twice"),
	"twice-changed":   some(bad, "stands in it twice"),
	"twice-capitals":  some(bad, "stands in it twice"),
	"invalid-utf-8":   some(bad, malformed),
	"lone-surrogate":  some(bad, malformed),
	"nul":             some(bad, malformed),
	"nan":             some(bad, malformed),
	"booleans-of-net": some(bad, malformed),
	"single-quotes":   some(bad, malformed),
	"too-deep":        some(bad, malformed),
	"deep-row":        some(notTaken, "nested deeper than"),
	"member-twice":    some(notTaken, "duplicate"),
	"small-letters":   some(bad, "no member").but(schemas.ServerSettings),
	"id-missing":      some(bad, "no member").but(schemas.ServerSettings),
	"id-null":         some(bad, "is no text").but(schemas.ServerSettings),
	"id-number":       some(bad, "is no text").but(schemas.ServerSettings),
	"id-empty":        some(bad, "empty").but(schemas.ServerSettings),
	"id-zero":         some(bad, "the zero GUID stands for no object").but(schemas.ServerSettings),
	"id-nul":          some(bad, "contains NUL").but(schemas.ServerSettings),
	"id-long":         some(bad, "5000 bytes, at most 4096").but(schemas.ServerSettings),
	"id-twice":        some(bad, "stands twice").but(schemas.ServerSettings),
	"id-braces":       some(bad, "a GUID in another spelling").but(schemas.Variable, schemas.ServerSettings),
	"id-no-dashes":    some(bad, "a GUID in another spelling").but(schemas.Variable, schemas.ServerSettings),
	"id-capitals":     all(whole, ""),

	"page-link":   many(bad, "its Link header says that more rows follow"),
	"page-limit":  many(held, ""),
	"half-rights": many(held, ""),
	"flicker":     all(whole, ""),
}

// TestListingFaults shows every listing fault for every type, with nothing known,
// one object and a thousand: no deletion follows, and the reason is named (G4).
func TestListingFaults(t *testing.T) {
	for _, typ := range schemas.Types() {
		if !visualcron.Supported(typ) {
			continue
		}
		for _, known := range []int{0, 1, 1000} {
			if typ == schemas.ServerSettings && known > 1 {
				continue // there is one per server
			}
			t.Run(fmt.Sprintf("%s, %d known", typ, known), func(t *testing.T) {
				t.Parallel()
				synctest.Test(t, func(t *testing.T) { listingFaults(t, typ, known) })
			})
		}
	}
}

// TestListingFaultsDocument holds docs/listing-faults.md and the table together.
func TestListingFaultsDocument(t *testing.T) {
	const file = "../docs/listing-faults.md"
	known := map[string]bool{}
	rows := ""
	for _, f := range standin.ListingFaults() {
		e, ok := verdicts[f.Name]
		if !ok || known[f.Name] {
			t.Errorf("%s: in the table of verdicts %v, earlier fault of that name %v", f.Name, ok, known[f.Name])
		}
		known[f.Name] = true
		rows += e.line(f)
	}
	if len(known) != len(verdicts) || len(known) < 40 {
		t.Errorf("%d faults, %d verdicts; want as many, and 40 or more", len(known), len(verdicts))
	}
	got := fmt.Sprintf(document, len(known), rows, "`")
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Error("docs/listing-faults.md is not what the table says; run go test ./e2e -run TestListingFaultsDocument -update and look at the difference")
	}
}

// line is the fault's line of the document.
func (e expected) line(f standin.ListingFault) string {
	var reasons []string
	for _, v := range []verdict{e.none, e.one, e.many} {
		if v.says != "" && !slices.Contains(reasons, v.says) {
			reasons = append(reasons, v.says)
		}
	}
	reason := strings.Join(reasons, "; or: ")
	for i, t := range e.exempt {
		reason += []string{" (complete for ", " and "}[min(i, 1)] + string(t)
	}
	if e.exempt != nil {
		reason += ")"
	}
	return fmt.Sprintf("| `%s` | %s | %s | %s | %s | %s |\n", f.Name, f.What, e.none.class, e.one.class, e.many.class, reason)
}

const document = `# Listing faults

Made by %[3]sgo test ./e2e -run TestListingFaultsDocument -update%[3]s; do not edit.

A deletion is published only where two complete listings in a row lack an object ([why](adr/0007-completeness-and-absence.md)). These are the %[1]d ways in which the stand-in can give a listing that is not what it should be, and what vcsync makes of each. %[3]sTestListingFaults%[3]s shows every one, for every type that is synced, to the real producer over the real connector, with nothing, one object and 1,000 objects known: no deletion is published, nothing is deleted at a target, and the source recovers when the fault ends.

| Outcome | |
|---|---|
| complete | The listing says what is there. Where there is nothing to spoil (an id where there are no rows), that is so with every fault. |
| complete, deletions held | It looks whole, and more is missing in two listings than a pass may delete (5 objects or 10 %%, the greater). Nothing is deleted. |
| complete, 1 not captured | It is whole, but one object in it is unusable. That object stays as it was, everywhere. |
| any other word | The source is *degraded*, with this class and a reason that holds the words in the last column. Nothing is deleted. |

| Fault | What the server does | 0 known | 1 known | 1,000 known | Reason |
|---|---|---|---|---|---|
%[2]s
There is one ServerSettings object per server, so it is shown with 0 and 1 known. %[3]sendless-row%[3]s is shown for type Job only: the limit is hit before the type matters. With 1,000 task repository objects, which are large, the recovery is looked at after every tenth fault.

## What no listing can tell

With these, the listing is whole by every sign that it has.

- **Objects left out in silence** (%[3]spage-limit%[3]s, %[3]shalf-rights%[3]s, %[3]sflicker%[3]s). What protects is the second listing, for whatever is left out once, and the hold, for whatever is left out in numbers. An object that is left out of two listings in a row, together with at most 5 objects or 10 %% of its type, is taken for deleted. Nothing tells that from a deletion.
- **Only the built-in objects.** Such a listing is not empty. Up to 5 objects of the type that were known before are taken for deleted, and more are held.
- **Rows of another type, of an older state, or of another server that does not tell its id in the header.** Whether their ids are known decides; the hold is what protects.
- **ServerSettings.** They have no id, so any one object in the array counts as them: an error as the only row (%[3]serror-row%[3]s, with none known) is captured, and so are settings whose members have other names (%[3]ssmall-letters%[3]s). They are off unless a setting asks for them, and are never deleted because of it.
`

// smallBody is a small object of a type that no server has by itself.
func smallBody(t schemas.Type, n int) []byte {
	id := fmt.Sprintf("5a11b0d7-0000-4000-8000-%012d", n)
	switch t {
	case schemas.Variable:
		return fmt.Appendf(nil, `{"Name":"Contoso.Variable.%d"}`, n)
	case schemas.TaskRepository:
		return fmt.Appendf(nil, `{"Task":{"Id":%q,"Name":"Object %d"}}`, id, n)
	case schemas.ServerSettings:
		return []byte(`{"Name":"Contoso","LogLevel":"Normal"}`)
	}
	return fmt.Appendf(nil, `{"Id":%q,"Name":"Object %d"}`, id, n)
}

func listingFaults(t *testing.T, typ schemas.Type, known int) {
	w := e2e.NewWorld(t)
	defer w.Close()
	w.ListTimeout = time.Minute // the broker works every second, virtual or not
	if os.Getenv("VCSYNC_TEST_LOG") != "" {
		w.Log = slog.New(slog.NewTextHandler(os.Stderr, nil))
	}
	prod, test := w.AddHost("production"), w.AddHost("test")
	for _, o := range prod.Server.Objects(typ) { // the built-in ones
		if _, err := prod.Server.Delete(typ, o.ID); err != nil {
			t.Fatal(err)
		}
	}
	for n := range known {
		if _, _, err := prod.Server.Put(typ, smallBody(typ, n)); err != nil {
			t.Fatal(err)
		}
	}
	some := typ != schemas.ServerSettings // those are only ever updated
	w.Setting(schemas.Setting{ID: "production-to-test", Source: "production", Target: "test", Active: true, Policy: schemas.Keep,
		Rules: map[schemas.Type]schemas.Rule{typ: {Sync: schemas.SyncAll, Rights: schemas.Rights{New: some, Updated: true, Deleted: some}}}})
	var begun, ended atomic.Int64
	prod.SetFaults(func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/api/v1/objects/"+string(typ) {
				begun.Add(1)
				defer ended.Add(1)
			}
			next.ServeHTTP(rw, r)
		})
	})
	w.StartProducer()
	if known <= 1 {
		w.StartConsumer() // a thousand objects more at a target prove nothing more
	}
	// poll makes the producer list, and waits until it has made up its mind.
	poll := func() (producer.Status, producer.TypeStatus) {
		t.Helper()
		before, limit := ended.Load(), time.Now().Add(time.Hour)
		w.Prod.Poke("production")
		for ended.Load() == before || begun.Load() != ended.Load() {
			if time.Now().After(limit) {
				t.Fatalf("no listing within an hour: %+v", w.Prod.Status())
			}
			time.Sleep(100 * time.Millisecond)
		}
		synctest.Wait()
		st := w.Prod.Status()[0]
		return st, st.Types[typ]
	}
	well := func(when string) producer.TypeStatus {
		t.Helper()
		begun := time.Now()
		st, ts := poll()
		if st.State != producer.Capturing || ts.Complete.Before(begun) || ts.Objects != known || ts.Held != 0 || ts.Refused != 0 {
			t.Fatalf("%s: %+v", when, st)
		}
		return ts
	}
	for len(w.Prod.Status()) == 0 { // the settings arrive
		time.Sleep(100 * time.Millisecond)
	}
	published := well("at the start").Published
	if published != uint64(known) {
		t.Fatalf("%d events for %d objects", published, known)
	}
	for i, f := range standin.ListingFaults() {
		switch {
		case f.Name == "error-row" && typ == schemas.ServerSettings && known == 0:
			continue // told from the settings by nothing; the document says so
		case f.Name == "endless-row" && typ != schemas.Job:
			// The limit is hit before the type matters, and it costs: the decoder copies
			// its buffer onto itself at each read, all of which the race detector checks.
			continue
		}
		want := verdicts[f.Name].with(typ, known)
		if err := prod.Server.Misbehave(standin.Misbehaviour{Mode: "listing", Arg: f.Name, Type: typ}); err != nil {
			t.Fatal(err)
		}
		var st producer.Status
		var ts producer.TypeStatus
		for shown := 0; shown == 0 || shown == 1 && st.State == producer.Capturing; shown++ {
			// What looks complete is shown again, so that a deletion has every chance.
			st, ts = poll()
			class, says := string(st.Class), st.Reason
			if st.State == producer.Capturing {
				switch {
				case ts.Held > 0:
					class = held
				case ts.Refused == 1:
					class, says = notTaken, ts.RefusedWhy
				default:
					class = whole
				}
			}
			if class != want.class || !strings.Contains(says, want.says) {
				t.Errorf("%s: %s, %q; want %s, %q", f.Name, class, says, want.class, want.says)
			}
		}
		if st.State == producer.Degraded && known <= 1 && ts.Published != published {
			t.Errorf("%s: %d events of a listing that is not whole", f.Name, ts.Published-published)
		}
		w.Do(func(ctx context.Context) error {
			ev, err := w.Broker.Events(ctx, broker.EventQuery{Kind: schemas.Deleted}, 1)
			if len(ev) > 0 {
				t.Fatalf("G4: %s: %s is published as deleted", f.Name, ev[0].ID)
			}
			return err
		})
		if typ == schemas.TaskRepository && known > 1 && st.State == producer.Degraded && i%10 != 0 {
			continue // a row has all the empty slots of a Task, 9 MB a listing; the other types recover each time
		}
		prod.Server.Behave("listing")
		published = well("after " + f.Name).Published
	}
	prod.Server.Behave("listing")
	well("at the end")
	if puts, _ := test.Count(); test.DeleteRequests() != 0 || known <= 1 && puts < known {
		t.Errorf("G4: %d puts and %d requests to delete an object at the target", puts, test.DeleteRequests())
	}
}
