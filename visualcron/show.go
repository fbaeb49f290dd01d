package visualcron

import (
	"fmt"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/vcsync/vcsync/schemas"
)

// Masked stands in place of a secret wherever configuration is shown.
const Masked = "***"

// Change is one field in which two normal forms differ. Old and New are JSON with secrets
// masked, nil where the field is not there. Two secrets that differ look the same.
type Change struct {
	Field    string // JSON pointer in the normal form
	Old, New jsontext.Value
}

// Changes is Differences with what each of the two has there, secrets masked (G6). The
// zero Normal stands for no object. Redact, where it is not nil, takes out of a text what
// must not be told beside, such as a password within a command line.
func Changes(before, after Normal, limit int, redact func(string) string) []Change {
	var out []Change
	differ(before, after, func(at string, x, y *node) bool {
		if len(out) < limit {
			out = append(out, Change{at, x.masked(redact), y.masked(redact)})
		}
		return len(out) < limit
	})
	return out
}

// masked returns a part of a normal form as JSON, with every secret in it masked.
func (n *node) masked(redact func(string) string) jsontext.Value {
	if n == nil {
		return nil
	}
	return n.mask(redact).append(nil)
}

func (n *node) mask(redact func(string) string) *node {
	switch {
	case n.secret:
		return textNode(Masked)
	case n.kind == '{':
		out := &node{kind: '{'}
		for _, m := range n.members {
			out.members = append(out.members, member{m.name, m.value.mask(redact)})
		}
		return out
	case n.kind == '[':
		out := &node{kind: '['}
		for _, it := range n.items {
			out.items = append(out.items, it.mask(redact))
		}
		return out
	case n.kind == '"' && redact != nil:
		return textNode(redact(n.text()))
	}
	return n
}

// MaskBody returns a body as it travels with every secret masked: what stands sealed at
// the places, and what the rules of this version know as a secret beside. The error wraps
// ErrBody.
func MaskBody(t schemas.Type, body []byte, places []string) ([]byte, error) {
	mask := func(string, string) string { return Masked }
	opened, err := OpenBody(body, places, func(string, string) (string, error) { return `"` + Masked + `"`, nil })
	if err != nil {
		return nil, fmt.Errorf("mask secrets: %w", err)
	}
	out, _, err := SealBody(t, opened, mask)
	return out, err
}
