package schemas

import (
	"path"
	"strings"
	"testing"
	"unicode/utf8"
)

func TestMatchName(t *testing.T) {
	for _, c := range []struct {
		pattern, name string
		want          bool
	}{
		{"Report", "Report", true},
		{"report", "REPORT ", true},
		{"Report", "Reports", false},
		{"Report*", "Reports of the night", true},
		{"*report*", "Nightly Report 7", true},
		{"*report", "Nightly Report 7", false},
		{"*", "", true},
		{"**", "x", true},
		{"", "", true},
		{"", "x", false},
		{"?", "é", true},
		{"?", "", false},
		{"a?c*e", "abcde", true},
		{"a?c*e", "abde", false},
		{"a*b*a", "abbba", true},
		{"[a]", "a", false},
		{"[a]", "[A]", true},
		{`a\*`, "a*", false},
		{`*ü`, "MÜ", true},
		{"x*", "日本x", false},
		{"??x", "日本x", true},
	} {
		if got := MatchName(c.pattern, c.name); got != c.want {
			t.Errorf("%q fits %q: %v, want %v", c.name, c.pattern, got, c.want)
		}
	}
}

// FuzzMatchName compares with the standard library's patterns, which know the same two
// signs.
func FuzzMatchName(f *testing.F) {
	f.Add("Report*", "reports")
	f.Add("*a*a*a*a*a*a*b", strings.Repeat("a", 500))
	f.Add("??", "日本")
	f.Add("\xff*", "\xff")
	f.Fuzz(func(t *testing.T, pattern, name string) {
		got := MatchName(pattern, name)
		if !utf8.ValidString(pattern) || !utf8.ValidString(name) || strings.ContainsAny(pattern, `[]\`) || strings.Contains(name, "/") || strings.Contains(pattern, "/") {
			return
		}
		want, err := path.Match(strings.ToLower(strings.TrimSpace(pattern)), strings.ToLower(strings.TrimSpace(name)))
		if err == nil && got != want {
			t.Errorf("%q fits %q: %v, want %v", name, pattern, got, want)
		}
	})
}
