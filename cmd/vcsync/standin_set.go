package main

import (
	"bytes"
	"fmt"
	"strconv"
	"strings"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// setHelp explains --set wherever it stands.
const setHelp = `
A PATH is a name, or names and indexes: Description, Stats.Active, Tasks[0].Name.
An index one past the end appends. A VALUE is JSON where it is valid JSON, and text
otherwise; where the object has text already, it stays text.`

// step is one part of a path: a name, or an index where name is "".
type step struct {
	name  string
	index int
}

func (s step) String() string {
	if s.name != "" {
		return s.name
	}
	return "[" + strconv.Itoa(s.index) + "]"
}

// parsePath reads names divided by dots, each with any number of indexes behind.
func parsePath(text string) ([]step, error) {
	bad := usageError("--set %.64q: want PATH=VALUE with a path such as Description, Stats.Active or Tasks[0].Name", text)
	var path []step
	for part := range strings.SplitSeq(text, ".") {
		name, indexes, has := strings.Cut(part, "[")
		if name == "" {
			return nil, bad
		}
		path = append(path, step{name: name})
		if !has {
			continue
		}
		for ix := range strings.SplitSeq(indexes, "[") {
			digits, ok := strings.CutSuffix(ix, "]")
			n, err := strconv.ParseUint(digits, 10, 31)
			if !ok || err != nil {
				return nil, bad
			}
			path = append(path, step{index: int(n)})
		}
	}
	return path, nil
}

// applySets changes a body as the --set flags say, in their order. All that they do
// not name stays as it is, byte by byte.
func applySets(body jsontext.Value, sets []string) (jsontext.Value, error) {
	for _, set := range sets {
		text, value, ok := strings.Cut(set, "=")
		if !ok {
			return nil, usageError("--set %.64q: want PATH=VALUE", set)
		}
		path, err := parsePath(text)
		if err != nil {
			return nil, err
		}
		body, err = setAt(body, path, func(old jsontext.Value) (jsontext.Value, error) {
			if v := jsontext.Value(value); old.Kind() != '"' && v.IsValid() {
				return v, nil
			}
			v, err := json.Marshal(value)
			if err != nil {
				return nil, usageError("--set %s: the value is not valid text", text)
			}
			return v, nil
		})
		if err != nil {
			return nil, usageError("--set %s: %w", text, err)
		}
	}
	return body, nil
}

// setAt replaces the value under path by what change makes of it; change gets nil
// where there is none. Members and arrays on the way that are absent or null are
// made.
func setAt(v jsontext.Value, path []step, change func(old jsontext.Value) (jsontext.Value, error)) (jsontext.Value, error) {
	if len(path) == 0 {
		return change(v)
	}
	s := path[0]
	open, end := byte('{'), byte('}')
	if s.name == "" {
		open, end = '[', ']'
	}
	if k := v.Kind(); v == nil || k == 'n' {
		v = jsontext.Value{open, end}
	} else if byte(k) != open {
		return nil, fmt.Errorf("%s is not there: the value is %.40s", s, v)
	}
	dec := jsontext.NewDecoder(bytes.NewReader(v))
	if _, err := dec.ReadToken(); err != nil {
		return nil, err
	}
	out := []byte{open}
	add := func(name string, value jsontext.Value) error {
		if len(out) > 1 {
			out = append(out, ',')
		}
		if open == '{' {
			var err error
			if out, err = jsontext.AppendQuote(out, name); err != nil {
				return err
			}
			out = append(out, ':')
		}
		out = append(out, value...)
		return nil
	}
	found := false
	n := 0
	for ; byte(dec.PeekKind()) != end; n++ {
		name := ""
		if open == '{' {
			tok, err := dec.ReadToken()
			if err != nil {
				return nil, err
			}
			name = tok.String()
		}
		val, err := dec.ReadValue()
		if err != nil {
			return nil, err
		}
		if open == '{' && name == s.name || open == '[' && n == s.index {
			found = true
			if val, err = setAt(val, path[1:], change); err != nil {
				return nil, err
			}
		}
		if err := add(name, val); err != nil {
			return nil, err
		}
	}
	if !found {
		if open == '[' && s.index != n {
			return nil, fmt.Errorf("%s is not there: the array has %d elements", s, n)
		}
		val, err := setAt(nil, path[1:], change)
		if err != nil {
			return nil, err
		}
		if err := add(s.name, val); err != nil {
			return nil, err
		}
	}
	return append(out, end), nil
}

// withoutNulls leaves out every member that is null.
func withoutNulls(v jsontext.Value) (jsontext.Value, error) {
	k := v.Kind()
	if k != '{' && k != '[' {
		return v, nil
	}
	dec := jsontext.NewDecoder(bytes.NewReader(v))
	if _, err := dec.ReadToken(); err != nil {
		return nil, err
	}
	out := []byte{byte(k)}
	for dec.PeekKind() != '}' && dec.PeekKind() != ']' {
		name := ""
		if k == '{' {
			tok, err := dec.ReadToken()
			if err != nil {
				return nil, err
			}
			name = tok.String()
		}
		val, err := dec.ReadValue()
		if err != nil {
			return nil, err
		}
		if k == '{' && val.Kind() == 'n' {
			continue
		}
		if val, err = withoutNulls(bytes.Clone(val)); err != nil {
			return nil, err
		}
		if len(out) > 1 {
			out = append(out, ',')
		}
		if k == '{' {
			if out, err = jsontext.AppendQuote(out, name); err != nil {
				return nil, err
			}
			out = append(out, ':')
		}
		out = append(out, val...)
	}
	if k == '{' {
		return append(out, '}'), nil
	}
	return append(out, ']'), nil
}
