package standin

import (
	"bytes"
	"fmt"
	"slices"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/vcsync/vcsync/schemas"
)

// members are those of a JSON object, in their order, values untouched.
type members []member

type member struct {
	name  string
	value jsontext.Value
}

// parseMembers splits a compact JSON object; its values alias v.
func parseMembers(v jsontext.Value) (members, error) {
	dec := jsontext.NewDecoder(bytes.NewReader(v))
	tok, err := dec.ReadToken()
	if err != nil {
		return nil, err
	}
	if tok.Kind() != '{' {
		return nil, fmt.Errorf("not a JSON object")
	}
	m := make(members, 0, 48)
	for dec.PeekKind() != '}' {
		name, err := dec.ReadToken()
		if err != nil {
			return nil, err
		}
		n := name.String()
		val, err := dec.ReadValue()
		if err != nil {
			return nil, err
		}
		end := dec.InputOffset()
		m = append(m, member{n, v[end-int64(len(val)) : end : end]})
	}
	return m, nil
}

// encode joins the members to a compact JSON object.
func (m members) encode() (jsontext.Value, error) {
	size := 2
	for _, x := range m {
		size += len(x.name) + len(x.value) + 4
	}
	out := append(make([]byte, 0, size), '{')
	for i, x := range m {
		if i > 0 {
			out = append(out, ',')
		}
		var err error
		if out, err = jsontext.AppendQuote(out, x.name); err != nil {
			return nil, err
		}
		out = append(append(out, ':'), x.value...)
	}
	return append(out, '}'), nil
}

func (m members) get(name string) jsontext.Value {
	if i := slices.IndexFunc(m, func(x member) bool { return x.name == name }); i >= 0 {
		return m[i].value
	}
	return nil
}

// set replaces the member or appends it.
func (m *members) set(name string, value any) {
	raw, ok := value.(jsontext.Value)
	if !ok {
		b, err := json.Marshal(value)
		if err != nil {
			panic(fmt.Sprintf("standin: %s: %v", name, err)) // only plain values are given
		}
		raw = b
	}
	if i := slices.IndexFunc(*m, func(x member) bool { return x.name == name }); i >= 0 {
		(*m)[i].value = raw
		return
	}
	*m = append(*m, member{name, raw})
}

// edit changes the object under the named member, which must be one; where it is
// absent, null or no object, edit does nothing.
func (m *members) edit(name string, change func(*members) error) error {
	v := m.get(name)
	if v.Kind() != '{' {
		return nil
	}
	inner, err := parseMembers(v)
	if err != nil {
		return err
	}
	if err := change(&inner); err != nil {
		return err
	}
	out, err := inner.encode()
	if err != nil {
		return err
	}
	m.set(name, out)
	return nil
}

// editEach changes every object in the array under the named member.
func (m *members) editEach(name string, change func(*members) error) error {
	v := m.get(name)
	if v.Kind() != '[' {
		return nil
	}
	dec := jsontext.NewDecoder(bytes.NewReader(v))
	if _, err := dec.ReadToken(); err != nil {
		return err
	}
	out := []byte{'['}
	for dec.PeekKind() != ']' {
		el, err := dec.ReadValue()
		if err != nil {
			return err
		}
		if len(out) > 1 {
			out = append(out, ',')
		}
		if el.Kind() != '{' {
			out = append(out, el...)
			continue
		}
		inner, err := parseMembers(el)
		if err != nil {
			return err
		}
		if err := change(&inner); err != nil {
			return err
		}
		enc, err := inner.encode()
		if err != nil {
			return err
		}
		out = append(out, enc...)
	}
	m.set(name, jsontext.Value(append(out, ']')))
	return nil
}

// complete returns the body, compact, with every Task's missing slots as null.
func complete(t schemas.Type, body []byte) ([]byte, error) {
	v := jsontext.Value(bytes.Clone(body))
	err := v.Compact()
	var m members
	if err == nil {
		m, err = parseMembers(v)
	}
	if err == nil {
		switch t {
		case schemas.Job:
			err = m.editEach("Tasks", fillSlots)
		case schemas.TaskRepository, schemas.Notification:
			err = m.edit("Task", fillSlots)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrBody, err)
	}
	return m.encode()
}

// dateLayout is how a VisualCron server writes dates: ISO 8601, offset, fraction
// of up to seven digits (public client code).
const dateLayout = "2006-01-02T15:04:05.9999999-07:00"

// dated sets what the server itself knows better than the writer. A Job keeps its
// dates and its own id in Stats (public client code); other types are dated only
// where the body has such members.
func dated(t schemas.Type, id schemas.ID, body, old []byte, now time.Time) ([]byte, error) {
	m, err := parseMembers(body)
	if err != nil {
		return nil, err
	}
	var was members
	if old != nil {
		if was, err = parseMembers(old); err != nil {
			return nil, err
		}
	}
	stamp := now.Format(dateLayout)
	if t != schemas.Job {
		if m.get("DateModified") != nil {
			m.set("DateModified", stamp)
		}
		if m.get("DateCreated") != nil {
			m.set("DateCreated", createdOf(was, stamp))
		}
		return m.encode()
	}
	if m.get("Stats").Kind() != '{' {
		m.set("Stats", jsontext.Value("{}"))
	}
	var wasStats members
	if v := was.get("Stats"); v.Kind() == '{' {
		if wasStats, err = parseMembers(v); err != nil {
			return nil, err
		}
	}
	if err := m.edit("Stats", func(st *members) error {
		st.set("JobId", m.get("Id"))
		st.set("DateModified", stamp)
		st.set("DateCreated", createdOf(wasStats, stamp))
		return nil
	}); err != nil {
		return nil, err
	}
	return m.encode()
}

func createdOf(was members, now string) any {
	if v := was.get("DateCreated"); v != nil {
		return v
	}
	return now
}
