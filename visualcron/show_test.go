package visualcron_test

import (
	"strings"
	"testing"

	"github.com/vcsync/vcsync/schemas"
	"github.com/vcsync/vcsync/visualcron"
)

// TestChangesShowNoSecret compares two bodies and masks one: the fields are named, and
// neither secrets nor their digests are shown, wherever they stand (G6).
func TestChangesShowNoSecret(t *testing.T) {
	t.Parallel()
	const before = `{"Id":"10000000-1111-4222-8333-000000000001","Name":"share","UserName":"a","Password":"hidden-one","Extra":{"Deep":{"ApiKey":"hidden-two"}}}`
	const after = `{"Id":"10000000-1111-4222-8333-000000000001","Name":"share","UserName":"b","Password":"hidden-three","Added":{"Secret":"hidden-four","Port":22}}`
	digest := func(s string) string { return "digest-of-" + s }
	norm := func(body string) visualcron.Normal {
		n, err := visualcron.Normalize(schemas.Credential, []byte(body), digest)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	var lines []string
	for _, c := range visualcron.Changes(norm(before), norm(after), 100, nil) {
		lines = append(lines, c.Field+" "+string(c.Old)+" "+string(c.New))
	}
	got := strings.Join(lines, "\n")
	want := "/Extra {\"Deep\":{\"ApiKey\":\"***\"}} \n/Password \"***\" \"***\"\n/UserName \"a\" \"b\"\n/Added  {\"Port\":22,\"Secret\":\"***\"}"
	if got != want {
		t.Errorf("changes:\n%s\nwant:\n%s", got, want)
	}
	if n := len(visualcron.Changes(norm(before), norm(after), 2, nil)); n != 2 {
		t.Errorf("%d changes, want no more than 2", n)
	}
	if n := visualcron.Changes(visualcron.Normal{}, norm(after), 9, nil); len(n) != 1 || n[0].Old != nil || strings.Contains(string(n[0].New), "hidden") {
		t.Errorf("against no object: %+v", n)
	}

	sealed, places, err := visualcron.SealBody(schemas.Credential, []byte(before), func(_, s string) string { return "sealed " + s })
	if err != nil || len(places) != 2 {
		t.Fatalf("%v %v", places, err)
	}
	for _, known := range [][]string{places, nil} { // nil: a release that knew fewer secrets has captured it
		shown, err := visualcron.MaskBody(schemas.Credential, sealed, known)
		if err != nil || strings.Contains(string(shown), "hidden") || strings.Count(string(shown), `"***"`) != 2 || !strings.Contains(string(shown), `"UserName":"a"`) {
			t.Errorf("masked: %s, %v", shown, err)
		}
	}
}
