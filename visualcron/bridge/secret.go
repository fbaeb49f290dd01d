package bridge

import (
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"html"
	"io"
	"log/slog"
	"net/url"
	"slices"
	"strings"
)

// masked stands for a secret in every text.
const masked = "***"

// secret is a text that prints itself in no way. It holds a pointer, because fmt
// reads unexported fields of a struct without asking their methods.
type secret struct{ text *string }

func newSecret(s string) secret { return secret{&s} }

// reveal returns the text; "" for the zero secret.
func (s secret) reveal() string {
	if s.text == nil {
		return ""
	}
	return *s.text
}

// Format masks the secret for every verb.
func (s secret) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, masked) } // fmt reports its own writes

// String masks the secret.
func (s secret) String() string { return masked }

// GoString masks the secret.
func (s secret) GoString() string { return masked }

// LogValue masks the secret.
func (s secret) LogValue() slog.Value { return slog.StringValue(masked) }

// MarshalJSON masks the secret.
func (s secret) MarshalJSON() ([]byte, error) { return []byte(`"` + masked + `"`), nil }

// MarshalText masks the secret.
func (s secret) MarshalText() ([]byte, error) { return []byte(masked), nil }

// minCore is the least length at which a piece of base64 can be told from chance.
const minCore = 4

// spellings returns the ways in which a text may show a secret: as it is, escaped
// for URLs, HTML and JSON, in hex, and in base64, alone or within something longer.
func spellings(s string) []string {
	if s == "" {
		return nil
	}
	quoted := fmt.Sprintf("%q", s)
	out := []string{s, url.QueryEscape(s), url.PathEscape(s), escapeSegment(s), html.EscapeString(s), quoted[1 : len(quoted)-1],
		hex.EncodeToString([]byte(s)), strings.ToUpper(hex.EncodeToString([]byte(s)))}
	for _, enc := range []*base64.Encoding{base64.RawStdEncoding, base64.RawURLEncoding} {
		out = append(out, enc.EncodeToString([]byte(s)))
		for offset := range 3 {
			// Characters that depend on neighbours of the secret are left out.
			core := enc.EncodeToString([]byte(strings.Repeat("\x00", offset) + s))
			core = core[[]int{0, 2, 3}[offset]:]
			if (offset+len(s))%3 != 0 {
				core = core[:len(core)-1]
			}
			if len(core) >= minCore {
				out = append(out, core)
			}
		}
	}
	return out
}

// redact takes the password, the tokens and all addresses out of a text.
func (b *Bridge) redact(text string) string {
	if text == "" {
		return ""
	}
	b.mu.Lock()
	secrets := append([]secret{b.password, b.session}, b.retired...)
	b.mu.Unlock()
	var words []string
	for _, s := range secrets {
		words = append(words, spellings(s.reveal())...)
	}
	slices.SortFunc(words, func(x, y string) int { return len(y) - len(x) }) // the longest first
	for _, w := range words {
		text = strings.ReplaceAll(text, w, masked)
	}
	return anyURL.ReplaceAllString(text, "<address>")
}
