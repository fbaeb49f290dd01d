package standin

import (
	"bytes"
	"slices"
	"strings"

	"github.com/go-json-experiment/json/jsontext"
)

// node is a JSON value that can be changed at any depth. Order and spelling of what
// is not changed stay as they are.
type node struct {
	kind  jsontext.Kind  // of an object '{', of a list '['; all else is in raw
	raw   jsontext.Value // of what is neither
	names []string       // of an object's members
	kids  []*node        // members, or items
}

// parseNode reads a JSON value that was found valid; the tree aliases v.
func parseNode(v []byte) (*node, error) {
	dec := jsontext.NewDecoder(bytes.NewReader(v))
	return readNode(dec, v)
}

func readNode(dec *jsontext.Decoder, whole []byte) (*node, error) {
	n := &node{kind: dec.PeekKind()}
	if n.kind != '{' && n.kind != '[' {
		val, err := dec.ReadValue()
		end := dec.InputOffset()
		if err == nil {
			n.raw = whole[end-int64(len(val)) : end : end]
		}
		return n, err
	}
	if _, err := dec.ReadToken(); err != nil {
		return nil, err
	}
	for k := dec.PeekKind(); k != '}' && k != ']'; k = dec.PeekKind() {
		if n.kind == '{' {
			tok, err := dec.ReadToken()
			if err != nil {
				return nil, err
			}
			n.names = append(n.names, tok.String())
		}
		kid, err := readNode(dec, whole)
		if err != nil {
			return nil, err
		}
		n.kids = append(n.kids, kid)
	}
	_, err := dec.ReadToken()
	return n, err
}

// append writes the value, compact.
func (n *node) append(out []byte) []byte {
	switch n.kind {
	case '{', '[':
		out = append(out, byte(n.kind))
		for i, kid := range n.kids {
			if i > 0 {
				out = append(out, ',')
			}
			if n.kind == '{' {
				out, _ = jsontext.AppendQuote(out, n.names[i]) // the name came out of valid JSON
				out = append(out, ':')
			}
			out = kid.append(out)
		}
		if n.kind == '{' {
			return append(out, '}')
		}
		return append(out, ']')
	}
	return append(out, n.raw...)
}

func (n *node) index(name string) int {
	if n == nil || n.kind != '{' {
		return -1
	}
	return slices.Index(n.names, name)
}

// get returns a member, nil where there is none.
func (n *node) get(name string) *node {
	if i := n.index(name); i >= 0 {
		return n.kids[i]
	}
	return nil
}

// set replaces a member or appends it.
func (n *node) set(name string, v *node) {
	if i := n.index(name); i >= 0 {
		n.kids[i] = v
		return
	}
	n.names, n.kids = append(n.names, name), append(n.kids, v)
}

func (n *node) remove(i int) {
	n.names, n.kids = slices.Delete(n.names, i, i+1), slices.Delete(n.kids, i, i+1)
}

// text returns a string's text, "" for all else.
func (n *node) text() string {
	if n == nil || n.kind != '"' {
		return ""
	}
	b, err := jsontext.AppendUnquote(nil, n.raw)
	if err != nil {
		return ""
	}
	return string(b)
}

func textNode(s string) *node {
	raw, _ := jsontext.AppendQuote(nil, s) // what is not valid UTF-8 becomes so
	return &node{kind: '"', raw: raw}
}

// rawNode is a value that is neither object nor list, as JSON.
func rawNode(v string) *node { return &node{kind: jsontext.Value(v).Kind(), raw: jsontext.Value(v)} }

// twin returns the item of the list that is the same thing as the item at i of
// another list: the one of the same Id, or else Key, without case; an item with
// neither goes by its place.
func (n *node) twin(other *node, i int) *node {
	if n == nil || n.kind != '[' {
		return nil
	}
	for _, key := range []string{"Id", "Key"} {
		want := other.kids[i].get(key).text()
		if want == "" {
			continue
		}
		for _, kid := range n.kids {
			if strings.EqualFold(kid.get(key).text(), want) {
				return kid
			}
		}
		return nil
	}
	if i < len(n.kids) && n.kids[i].get("Id").text() == "" && n.kids[i].get("Key").text() == "" {
		return n.kids[i]
	}
	return nil
}
