package visualcron

import (
	"bytes"
	"fmt"
	"io"
	"strconv"

	"github.com/go-json-experiment/json/jsontext"
)

// maxDepth bounds the nesting of a body; VisualCron's own stay below 12.
const maxDepth = 128

// node is a JSON value that keeps what it was made of: the order of members and
// the spelling of scalars.
type node struct {
	kind    jsontext.Kind  // '{', '[', '"', '0', 't', 'f', 'n'
	raw     jsontext.Value // of a scalar
	members []member       // of an object
	items   []*node        // of an array
	secret  bool           // of a normal form: it stands for a secret, by a keyed digest
}

type member struct {
	name  string
	value *node
}

var null = &node{kind: 'n', raw: jsontext.Value("null")}

func textNode(s string) *node {
	raw, err := jsontext.AppendQuote(nil, s)
	if err != nil { // only for invalid UTF-8, which parse has refused
		return null
	}
	return &node{kind: '"', raw: raw}
}

func boolNode(b bool) *node {
	if b {
		return &node{kind: 't', raw: jsontext.Value("true")}
	}
	return &node{kind: 'f', raw: jsontext.Value("false")}
}

// parse reads one JSON object and nothing after it. The error wraps ErrBody.
func parse(body []byte) (*node, error) {
	dec := jsontext.NewDecoder(bytes.NewReader(body))
	n, err := parseValue(dec)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrBody, err)
	}
	if n.kind != '{' {
		return nil, fmt.Errorf("%w: %s, want an object", ErrBody, kindName(n.kind))
	}
	if _, err := dec.ReadToken(); err != io.EOF {
		return nil, fmt.Errorf("%w: bytes follow after the object", ErrBody)
	}
	return n, nil
}

func parseValue(dec *jsontext.Decoder) (*node, error) {
	switch k := dec.PeekKind(); k {
	case '{', '[':
		if dec.StackDepth() >= maxDepth {
			return nil, fmt.Errorf("nested deeper than %d", maxDepth)
		}
		if _, err := dec.ReadToken(); err != nil {
			return nil, err
		}
		n := &node{kind: k}
		for c := dec.PeekKind(); c != '}' && c != ']'; c = dec.PeekKind() {
			var name string
			if k == '{' {
				tok, err := dec.ReadToken()
				if err != nil {
					return nil, err
				}
				name = tok.String()
			}
			v, err := parseValue(dec)
			if err != nil {
				return nil, err
			}
			if k == '{' {
				n.members = append(n.members, member{name, v})
			} else {
				n.items = append(n.items, v)
			}
		}
		_, err := dec.ReadToken()
		return n, err
	default:
		raw, err := dec.ReadValue()
		if err != nil {
			return nil, err
		}
		if raw.Kind() == 'n' {
			return null, nil
		}
		return &node{kind: raw.Kind(), raw: raw.Clone()}, nil
	}
}

// append writes the value as compact JSON.
func (n *node) append(b []byte) []byte {
	switch n.kind {
	case '{':
		b = append(b, '{')
		for i, m := range n.members {
			if i > 0 {
				b = append(b, ',')
			}
			b, _ = jsontext.AppendQuote(b, m.name) // names were parsed, so they are valid
			b = append(b, ':')
			b = m.value.append(b)
		}
		return append(b, '}')
	case '[':
		b = append(b, '[')
		for i, v := range n.items {
			if i > 0 {
				b = append(b, ',')
			}
			b = v.append(b)
		}
		return append(b, ']')
	}
	return append(b, n.raw...)
}

// text returns the string that n is, "" for all else.
func (n *node) text() string {
	if n == nil || n.kind != '"' {
		return ""
	}
	s, err := jsontext.AppendUnquote(nil, n.raw)
	if err != nil {
		return ""
	}
	return string(s)
}

// get returns the member of that name, nil where there is none or it is null.
func (n *node) get(name string) *node {
	if n == nil {
		return nil
	}
	for _, m := range n.members {
		if m.name == name && m.value.kind != 'n' {
			return m.value
		}
	}
	return nil
}

// set replaces the member of that name, or appends it.
func (n *node) set(name string, v *node) {
	for i := range n.members {
		if n.members[i].name == name {
			n.members[i].value = v
			return
		}
	}
	n.members = append(n.members, member{name, v})
}

// empty tells whether n says nothing: null, "", [] or {}.
func (n *node) empty() bool {
	switch n.kind {
	case 'n':
		return true
	case '"':
		return len(n.raw) == 2
	case '{':
		return len(n.members) == 0
	case '[':
		return len(n.items) == 0
	}
	return false
}

// number returns the canonical text of a number: 1.0 and 1e0 are 1. Numbers that a
// float64 does not hold exactly keep their spelling.
func number(raw []byte) []byte {
	if !bytes.ContainsAny(raw, ".eE") {
		if string(raw) == "-0" {
			return []byte("0")
		}
		return raw
	}
	f, err := strconv.ParseFloat(string(raw), 64)
	if err != nil || significant(raw) > 15 {
		return raw
	}
	if f == float64(int64(f)) && f > -1<<53 && f < 1<<53 {
		return strconv.AppendInt(nil, int64(f), 10)
	}
	return strconv.AppendFloat(nil, f, 'g', -1, 64)
}

// significant counts the digits of a number before its exponent; up to 15 of them a
// float64 holds exactly.
func significant(raw []byte) int {
	n := 0
	for _, c := range raw {
		switch {
		case c == 'e' || c == 'E':
			return n
		case '0' <= c && c <= '9' && (n > 0 || c != '0'):
			n++
		}
	}
	return n
}

// pointer appends a member name or an index to a JSON pointer (RFC 6901).
func pointer(parent string, token string) string {
	return parent + "/" + string(jsontext.Pointer("").AppendToken(token)[1:])
}
