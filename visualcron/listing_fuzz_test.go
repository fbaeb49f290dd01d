package visualcron_test

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/vcsync/vcsync/schemas"
	"github.com/vcsync/vcsync/visualcron"
	"github.com/vcsync/vcsync/visualcron/standin"
)

// falseListings returns what the stand-in's listing faults send, the beginning of
// those that do not end.
func falseListings(t testing.TB, typ schemas.Type) (bodies [][]byte) {
	s, err := standin.Open(standin.Config{})
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewServer(s.Handler())
	defer srv.Close()
	defer s.Close()
	res, err := http.Post(srv.URL+"/api/v1/logon", "application/json", strings.NewReader(`{"user":"`+standin.DefaultUser+`","password":"`+standin.DefaultPassword+`"}`))
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	var logon struct{ Token string }
	if err := json.NewDecoder(res.Body).Decode(&logon); err != nil {
		t.Fatal(err)
	}
	client := http.Client{Timeout: 200 * time.Millisecond, Transport: &http.Transport{DisableKeepAlives: true}}
	for _, f := range append([]standin.ListingFault{{}}, standin.ListingFaults()...) {
		if f.Name != "" {
			if err := s.Misbehave(standin.Misbehaviour{Mode: "listing", Arg: f.Name}); err != nil {
				t.Fatal(err)
			}
		}
		req, err := http.NewRequest(http.MethodGet, srv.URL+"/api/v1/objects/"+string(typ), nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer "+logon.Token)
		res, err := client.Do(req)
		if err != nil {
			continue // no answer, so nothing to read
		}
		body, _ := io.ReadAll(io.LimitReader(res.Body, 64<<10)) // what came
		res.Body.Close()
		bodies = append(bodies, body)
	}
	return bodies
}

// FuzzReadList holds what is read as complete against another decoder, and whatever
// is not against the promise that nothing follows from it.
func FuzzReadList(f *testing.F) {
	types := schemas.Types()
	for _, typ := range []schemas.Type{schemas.UserGroup, schemas.ServerSettings} {
		for _, body := range falseListings(f, typ) {
			f.Add(uint8(slices.Index(types, typ)), body)
		}
	}
	for _, s := range []string{`[{"Name":"a"},{"Name":"A"}]`, `[{"Task":{"Id":"a"}},{"Task":{"Id":"b","Id":"c"}}]`, ` [ ] `, `[{"Id":"{5b0c2f3e-6a1d-4c58-9e0a-1f2d3c4b5a60}"}]`} {
		for i := range types {
			f.Add(uint8(i), []byte(s))
		}
	}
	f.Fuzz(func(t *testing.T, n uint8, body []byte) {
		typ := types[int(n)%len(types)]
		read := func(r io.Reader) (ids []schemas.ID, bodies [][]byte, c visualcron.Complete, err error) {
			c, err = visualcron.ReadList(r, typ, func(row visualcron.Row) error {
				ids, bodies = append(ids, row.ID), append(bodies, bytes.Clone(row.Body))
				return nil
			})
			return
		}
		ids, bodies, complete, err := read(bytes.NewReader(body))
		again, _, slowly, slowErr := read(iotest.OneByteReader(bytes.NewReader(body)))
		if !slices.Equal(ids, again) || complete != slowly || (err == nil) != (slowErr == nil) {
			t.Fatalf("byte by byte it is another listing: %v, %v; %v, %v", ids, err, again, slowErr)
		}
		if err != nil {
			if complete != (visualcron.Complete{}) || visualcron.ClassOf(err) != visualcron.BadAnswer {
				t.Errorf("complete %+v with the error %v", complete, err)
			}
			return
		}
		var rows []json.RawMessage
		if err := json.Unmarshal(body, &rows); err != nil || rows == nil {
			t.Fatalf("complete, but another decoder says %v", err)
		}
		if !complete.IsComplete() || complete.Type() != typ || complete.Count() != len(rows) || len(ids) != len(rows) {
			t.Fatalf("%+v with %d rows, another decoder finds %d", complete, len(ids), len(rows))
		}
		seen := map[schemas.ID]bool{}
		for i, id := range ids {
			own, err := visualcron.BodyID(typ, rows[i])
			if canonical, perr := schemas.ParseID(string(id)); err != nil || own != id || perr != nil || canonical != id || seen[id] {
				t.Errorf("row %d: id %q, its body says %q, %v, seen before %v", i, id, own, err, seen[id])
			}
			seen[id] = true
			if !bytes.Equal(bytes.TrimSpace(rows[i]), bodies[i]) {
				t.Errorf("row %d is %q, another decoder finds %q", i, bodies[i], rows[i])
			}
		}
	})
}
