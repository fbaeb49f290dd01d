package schemas

import (
	"errors"
	"math"
	"slices"
	"strings"
	"testing"
)

func TestTypesAndApplyOrderHoldTheSame17(t *testing.T) {
	a, b := Types(), ApplyOrder()
	slices.Sort(a)
	slices.Sort(b)
	if len(a) != 17 || !slices.Equal(a, b) || len(slices.Compact(a)) != 17 {
		t.Errorf("Types %v\nApplyOrder %v\nwant the same 17", a, b)
	}
}

func TestApplyOrderPutsWhatIsReferredToFirst(t *testing.T) {
	at := map[Type]int{}
	for i, o := range ApplyOrder() {
		at[o] = i
	}
	for _, c := range [][2]Type{{UserGroup, User}, {Credential, Connection}, {Connection, Job}, {Notification, Job}, {Condition, Job},
		{Variable, Job}, {TaskRepository, Job}, {TimeException, Job}, {ExitCode, Job}, {SSHKey, Connection}, {Certificate, Connection}} {
		if at[c[0]] > at[c[1]] {
			t.Errorf("%s stands after %s, which refers to it", c[0], c[1])
		}
	}
}

func TestTheListsAreTheCallersOwn(t *testing.T) {
	Types()[0], Kinds()[0], ApplyOrder()[0] = "x", "x", "x"
	if Types()[0] == "x" || Kinds()[0] == "x" || ApplyOrder()[0] == "x" {
		t.Error("a caller can change the package's list")
	}
}

// word is one row of a table over a Parse function and its inverse.
type word struct {
	name, in string
	ok       bool
}

func testWords[T ~string](t *testing.T, parse func(string) (T, error), sentinel error, words []word) {
	t.Helper()
	for _, c := range words {
		t.Run(c.name, func(t *testing.T) {
			got, err := parse(c.in)
			if c.ok && (err != nil || string(got) != c.in) {
				t.Errorf("%q became %q, error %v", c.in, got, err)
			}
			if !c.ok && (!errors.Is(err, sentinel) || got != "") {
				t.Errorf("%q became %q, error %v, want %v", c.in, got, err, sentinel)
			}
		})
	}
}

func TestParseType(t *testing.T) {
	for _, x := range Types() {
		if got, err := ParseType(x.String()); err != nil || got != x {
			t.Errorf("%s became %s, error %v", x, got, err)
		}
	}
	testWords(t, ParseType, ErrType, []word{
		{"the exact word", "PGPKeyRing", true},
		{"nothing", "", false},
		{"another case", "job", false},
		{"the plural", "Jobs", false},
		{"a blank behind", "Job ", false},
		{"the word of the native API", "TimeExceptions", false},
		{"a look-alike letter", "Jоb", false},
	})
	for in, want := range map[string]string{"jobs": "Job", "SSHKEY": "SSHKey", "Mftservers": "MFTServer"} {
		if _, err := ParseType(in); err == nil || !strings.HasSuffix(err.Error(), "did you mean "+want+"?") {
			t.Errorf("%s: %v, want a hint to %s", in, err, want)
		}
	}
}

func TestParseKind(t *testing.T) {
	for _, x := range Kinds() {
		if got, err := ParseKind(x.String()); err != nil || got != x {
			t.Errorf("%s became %s, error %v", x, got, err)
		}
	}
	testWords(t, ParseKind, ErrKind, []word{
		{"nothing", "", false}, {"another case", "Added", false}, {"a right's word", "new", false}, {"a verb", "delete", false}, {"a blank before", " added", false},
	})
}

var slugs = []word{
	{"a word", "production", true},
	{"one letter", "a", true},
	{"digits alone", "42", true},
	{"inner hyphens", "site-2--b", true},
	{"48 bytes", strings.Repeat("a", 48), true},
	{"nothing", "", false},
	{"49 bytes", strings.Repeat("a", 49), false},
	{"upper case", "Production", false},
	{"a hyphen before", "-a", false},
	{"a hyphen behind", "a-", false},
	{"a hyphen alone", "-", false},
	{"an underscore", "a_b", false},
	{"a dot would be another subject level", "a.b", false},
	{"a wildcard", "*", false},
	{"a blank", "a b", false},
	{"a line end", "a\n", false},
	{"an accent", "é", false},
	{"NUL", "a\x00", false},
}

func TestParseSlug(t *testing.T) { testWords(t, ParseSlug, ErrSlug, slugs) }

func TestParseDigest(t *testing.T) {
	hex := string(DigestOf([]byte("x")))
	testWords(t, ParseDigest, ErrDigest, []word{
		{"64 hex digits", hex, true},
		{"nothing is the digest of nothing", "", true},
		{"upper case", strings.ToUpper(hex), false},
		{"63 digits", hex[:63], false},
		{"62 digits", hex[:62], false},
		{"65 digits", hex + "0", false},
		{"a letter beyond f", "g" + hex[1:], false},
		{"a blank before", " " + hex[1:], false},
	})
}

func TestDigestOf(t *testing.T) {
	if got, want := DigestOf(nil), Digest("e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"); got != want {
		t.Errorf("digest of nothing %s, want SHA-256's %s", got, want)
	}
	if got := DigestOf(nil).Short(); got != "e3b0c44298fc" {
		t.Errorf("short form %s", got)
	}
	if got := Digest("").Short(); got != "" {
		t.Errorf("short form of the empty digest %q", got)
	}
}

func TestParseActivePolicyAndSyncMode(t *testing.T) {
	testWords(t, ParseActivePolicy, ErrSetting, []word{
		{"keep", "keep", true}, {"follow", "follow", true}, {"off", "off", true},
		{"nothing", "", false}, {"another case", "Off", false}, {"on is no policy", "on", false},
	})
	testWords(t, ParseSyncMode, ErrSetting, []word{
		{"none", "none", true}, {"all", "all", true}, {"listed", "listed", true},
		{"no mode", "", false}, {"a mode in another case", "All", false}, {"the native words", "Sync all", false},
	})
}

func TestTextCoding(t *testing.T) {
	var (
		typ  = Job
		kind = Added
		slug = Slug("a")
	)
	for _, c := range []struct {
		name string
		err  error
		want error
	}{
		{"an unknown type", typ.UnmarshalText([]byte("job")), ErrType},
		{"an unknown kind", kind.UnmarshalText([]byte("new")), ErrKind},
		{"no slug", slug.UnmarshalText([]byte("A")), ErrSlug},
		{"a type", typ.UnmarshalText([]byte("User")), nil},
		{"a kind", kind.UnmarshalText([]byte("deleted")), nil},
		{"a slug", slug.UnmarshalText([]byte("b")), nil},
	} {
		if !errors.Is(c.err, c.want) {
			t.Errorf("%s: %v, want %v", c.name, c.err, c.want)
		}
	}
	if typ != User || kind != Deleted || slug != "b" {
		t.Errorf("read %s, %s, %s", typ, kind, slug)
	}
}

var versions = []word{
	{"the first", "1.1", true},
	{"before the first", "0.0", true},
	{"the greatest", "18446744073709551615.18446744073709551615", true},
	{"nothing", "", false},
	{"one number", "1", false},
	{"no epoch", ".1", false},
	{"no revision", "1.", false},
	{"three numbers", "1.2.3", false},
	{"a leading zero", "01.1", false},
	{"a leading zero behind", "1.01", false},
	{"a sign", "+1.1", false},
	{"a negative number", "1.-1", false},
	{"an underscore", "1_0.1", false},
	{"hex", "0x1.1", false},
	{"one more than the greatest", "18446744073709551616.1", false},
	{"a blank", "1. 1", false},
	{"digits of another script", "1.١", false},
}

func TestParseVersion(t *testing.T) {
	testWords(t, func(s string) (string, error) {
		v, err := ParseVersion(s)
		if err != nil {
			if !v.IsZero() {
				t.Errorf("%q came out as %s beside its error", s, v)
			}
			return "", err
		}
		return v.String(), nil
	}, ErrEvent, versions)
}

func TestVersionsAreOrderedByEpochThenRevision(t *testing.T) {
	sorted := []Version{{}, {0, 1}, {1, 0}, {1, 1}, {1, 2}, {1, math.MaxUint64}, {2, 0}, {2, 1}, {math.MaxUint64, 0}}
	for i, v := range sorted {
		for j, w := range sorted {
			want := 0
			if i < j {
				want = -1
			} else if i > j {
				want = 1
			}
			if got := v.Compare(w); got != want {
				t.Errorf("%s compared with %s is %d, want %d", v, w, got, want)
			}
		}
		if v.IsZero() != (i == 0) {
			t.Errorf("%s.IsZero() is %v", v, v.IsZero())
		}
	}
}

var rights = []struct{ name, in, out string }{
	{"none", "none", "none"},
	{"one", "updated", "updated"},
	{"all three", "new,updated,deleted", "new,updated,deleted"},
	{"in any order", "deleted,new", "new,deleted"},
	{"nothing", "", ""},
	{"a word twice", "new,new", ""},
	{"none beside another", "none,new", ""},
	{"a comma behind", "new,", ""},
	{"a blank", "new, updated", ""},
	{"another case", "New", ""},
	{"an event's kind", "added", ""},
	{"all is a mode, no right", "all", ""},
}

func TestParseRights(t *testing.T) {
	for _, c := range rights {
		t.Run(c.name, func(t *testing.T) {
			r, err := ParseRights(c.in)
			switch {
			case c.out == "" && (!errors.Is(err, ErrSetting) || r != Rights{}):
				t.Errorf("%s, error %v, want ErrSetting", r, err)
			case c.out != "" && (err != nil || r.String() != c.out):
				t.Errorf("%s, error %v, want %s", r, err, c.out)
			}
		})
	}
	for i := range 8 {
		r := Rights{i&1 != 0, i&2 != 0, i&4 != 0}
		if back, err := ParseRights(r.String()); err != nil || back != r {
			t.Errorf("%s became %s, error %v", r, back, err)
		}
		if r.Use() != (i != 0) {
			t.Errorf("%s.Use() is %v", r, r.Use())
		}
		if got := r.Union(Rights{Updated: true}); got != (Rights{r.New, true, r.Deleted}) {
			t.Errorf("%s and updated make %s", r, got)
		}
	}
}

func FuzzParseSlug(f *testing.F) {
	for _, c := range slugs {
		f.Add(c.in)
	}
	f.Fuzz(func(t *testing.T, s string) {
		slug, err := ParseSlug(s)
		if err != nil {
			if !errors.Is(err, ErrSlug) {
				t.Fatalf("%v does not wrap ErrSlug", err)
			}
			return
		}
		if slug.String() != s || strings.Trim(s, "abcdefghijklmnopqrstuvwxyz0123456789-") != "" || len(s) > MaxSlug {
			t.Fatalf("%q became %q", s, slug)
		}
	})
}

func FuzzParseVersion(f *testing.F) {
	for _, c := range versions {
		f.Add(c.in)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if v, err := ParseVersion(s); err == nil && v.String() != s {
			t.Fatalf("round trip: %q became %q", s, v)
		}
	})
}

func FuzzParseRights(f *testing.F) {
	for _, c := range rights {
		f.Add(c.in)
	}
	f.Fuzz(func(t *testing.T, s string) {
		r, err := ParseRights(s)
		if err != nil {
			return
		}
		words := strings.Split(s, ",")
		if s == "none" {
			words = nil
		}
		if back, err := ParseRights(r.String()); err != nil || back != r {
			t.Fatalf("round trip: %q became %q", s, back)
		}
		if n := len(strings.Split(r.String(), ",")); r.Use() && n != len(words) {
			t.Fatalf("%q became %q", s, r)
		}
	})
}
