package control

import (
	"fmt"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/vcsync/vcsync/schemas"
)

// TypeWords says which types these are, each in its word: by what is missing where
// nearly all are there, and "" where none is.
func TypeWords(types []string, word func(string) string) string {
	var have, missing []string
	for _, t := range schemas.Types() {
		if slices.Contains(types, string(t)) {
			have = append(have, word(string(t)))
		} else {
			missing = append(missing, word(string(t)))
		}
	}
	switch {
	case len(missing) == 0:
		return "all types"
	case len(missing) <= 3:
		return "all but " + strings.Join(missing, ", ")
	}
	return strings.Join(have, ", ")
}

// Printable spells out what a text from a server could do to the screen that shows
// it: control characters, terminal escapes, marks that turn the direction of
// writing, and bytes that are no UTF-8. With lines, line breaks stay.
func Printable(s string, lines bool) string {
	var b strings.Builder
	for i := 0; i < len(s); {
		r, n := utf8.DecodeRuneInString(s[i:])
		switch {
		case r == utf8.RuneError && n == 1:
			fmt.Fprintf(&b, `\x%02x`, s[i])
		case lines && r == '\n':
			b.WriteRune(r)
		case unicode.IsControl(r), unicode.In(r, unicode.Zl, unicode.Zp, unicode.Bidi_Control), r == 0xFEFF:
			if r < 0x80 {
				fmt.Fprintf(&b, `\x%02x`, r)
			} else {
				fmt.Fprintf(&b, `\u%04x`, r)
			}
		default:
			b.WriteRune(r)
		}
		i += n
	}
	return b.String()
}
