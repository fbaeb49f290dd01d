package standin_test

import (
	"errors"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"regexp"
	"testing"

	"github.com/vcsync/vcsync/schemas"
	"github.com/vcsync/vcsync/visualcron/standin"
)

func TestEveryListingFaultHasAWordOfItsOwn(t *testing.T) {
	seen, word := map[string]bool{}, regexp.MustCompile(`^[a-z0-9.]+(-[a-z0-9.]+)*$`)
	for _, f := range standin.ListingFaults() {
		if !word.MatchString(f.Name) || f.What == "" || seen[f.Name] {
			t.Errorf("%q: %q", f.Name, f.What)
		}
		seen[f.Name] = true
	}
	if len(seen) < 40 {
		t.Errorf("%d faults", len(seen))
	}
}

// A fault spoils what is said, of the types that it is for, until it ends; never
// what is stored.
func TestAListingFaultEndsAndLeavesNothing(t *testing.T) {
	s := open(t, standin.Config{})
	srv := httptest.NewServer(s.Handler())
	defer srv.Close()
	token := logon(t, srv.Client(), srv.URL)
	list := func(typ schemas.Type) string {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, srv.URL+"/api/v1/objects/"+string(typ), nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer "+token)
		res, err := srv.Client().Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		b, err := io.ReadAll(res.Body)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	stored, users, groups := everything(s), list(schemas.User), list(schemas.UserGroup)
	for _, f := range standin.ListingFaults() {
		switch f.Name {
		case "hang-up", "hang-up-mid", "hang-up-end", "length-long", "bad-chunk", "no-http", "silent", "silent-mid", "slow", "endless-blanks", "endless-row":
			continue // no whole answer comes; the connector's errors are tested with the producer
		}
		if err := s.Misbehave(standin.Misbehaviour{Mode: "listing", Arg: f.Name, Type: schemas.User}); err != nil {
			t.Fatal(err)
		}
		// The bodies of these are true; net/http takes the gzip out that it asked for.
		switch same := list(schemas.User) == users; f.Name {
		case "text-plain", "no-media-type", "gzip", "status-206", "other-server", "page-link", "page-limit":
			if !same {
				t.Errorf("%s spoils the body", f.Name)
			}
		default:
			if same {
				t.Errorf("%s spoils nothing", f.Name)
			}
		}
		if list(schemas.UserGroup) != groups {
			t.Errorf("%s spoils another type", f.Name)
		}
	}
	s.Behave("listing")
	if list(schemas.User) != users || !maps.Equal(everything(s), stored) {
		t.Error("something is left of the faults")
	}
	if err := s.Misbehave(standin.Misbehaviour{Mode: "listing", Arg: "no-such-fault"}); !errors.Is(err, standin.ErrMode) {
		t.Errorf("an unknown fault: %v", err)
	}
}
