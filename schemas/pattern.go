package schemas

import (
	"fmt"
	"strings"
	"unicode/utf8"
)

// maxPattern is how long a group or a pattern of names may be, in bytes, as a name in an
// event's headers.
const maxPattern = 4 * maxHeaderText

// MatchName tells whether a name fits a pattern, in which * stands for any text, also
// none, and ? for one character. Case does not count, and neither do blanks around the
// name.
func MatchName(pattern, name string) bool {
	p, n := []rune(fold(pattern)), []rune(fold(name))
	i, j := 0, 0
	star, from := -1, 0 // the last *, and how far it has eaten
	for j < len(n) {
		switch {
		case i < len(p) && p[i] == '*':
			star, from = i, j
			i++
		case i < len(p) && (p[i] == '?' || p[i] == n[j]):
			i++
			j++
		case star >= 0:
			from++
			i, j = star+1, from
		default:
			return false
		}
	}
	for i < len(p) && p[i] == '*' {
		i++
	}
	return i == len(p)
}

// sameGroup tells whether two names of groups mean the same one.
func sameGroup(a, b string) bool { return fold(a) == fold(b) }

// fold makes texts equal that differ by case or by blanks around them alone.
func fold(s string) string { return strings.ToLower(strings.TrimSpace(s)) }

// narrowFaults reports what is wrong with the groups and names of a rule.
func narrowFaults(r Rule, path string, add func(path, format string, a ...any)) {
	for _, list := range []struct {
		name, what string
		texts      []string
	}{{"groups", "group", r.Groups}, {"names", "pattern", r.Names}} {
		seen := map[string]bool{}
		for i, text := range list.texts {
			at := fmt.Sprintf("%s.%s[%d]", path, list.name, i)
			switch {
			case strings.TrimSpace(text) == "":
				add(at, "is empty; want the %s, or leave it out", list.what)
			case !utf8.ValidString(text):
				add(at, "%.64q is no UTF-8", text)
			case len(text) > maxPattern:
				add(at, "%.64q has %d bytes, at most %d", text, len(text), maxPattern)
			case seen[fold(text)]:
				add(at, "%.64q stands there twice; case does not count", text)
			}
			seen[fold(text)] = true
		}
	}
}
