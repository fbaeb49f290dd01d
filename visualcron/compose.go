package visualcron

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/vcsync/vcsync/schemas"
)

// Compose makes the body that a target shall hold: the source's configuration, the
// target's own volatile fields (an update never resets run statistics; a new object
// starts without any), and the Active flag as the policy says. Target is nil where
// the object is new there. The policy governs the flag of the object itself; those
// of a job's tasks and triggers are part of its configuration and follow the
// source. The error wraps ErrBody.
func Compose(t schemas.Type, source, target []byte, policy schemas.ActivePolicy) ([]byte, error) {
	f := forms[t]
	if f == nil {
		return nil, fmt.Errorf("%w: objects of type %s are not synced by this version", ErrBody, t)
	}
	s, err := parse(source)
	if err != nil {
		return nil, fmt.Errorf("of the source: %w", err)
	}
	var own *node
	if target != nil {
		if own, err = parse(target); err != nil {
			return nil, fmt.Errorf("of the target: %w", err)
		}
	}
	var active *node
	if f.active != nil {
		if home := s.get(f.active[0]); home == nil || home.kind != '{' {
			s.set(f.active[0], &node{kind: '{'}) // so that the target's own is carried into it
		}
		switch at, has := s.at(f.active), own.at(f.active); {
		case policy == schemas.Follow && at != nil:
			active = at
		case policy == schemas.Keep && has != nil:
			active = has
		default:
			active = boolNode(false)
		}
	}
	carry(f.root, s, own)
	if active != nil {
		setAt(s, f.active, active)
		if t == schemas.Job { // a copy once kept the source's, VisualCron changelog 9.0.0
			if id := s.get("Id"); id != nil {
				s.get(f.active[0]).set("JobId", id)
			}
		}
	}
	return s.append(nil), nil
}

// carry replaces every volatile member of s by the target's own, and takes it out
// where the target has none.
func carry(r *rule, s, own *node) {
	switch s.kind {
	case '{':
		var from []member
		if own != nil && own.kind == '{' {
			from = own.members
		}
		s.members = slices.DeleteFunc(s.members, func(m member) bool {
			return r.field(m.name).volatile && (own == nil || !hasMember(own, m.name))
		})
		for i, m := range s.members {
			fr := r.field(m.name)
			var o *node
			if own != nil {
				o = own.get(m.name)
			}
			if fr.volatile {
				for _, om := range from {
					if om.name == m.name {
						s.members[i].value = om.value
					}
				}
				continue
			}
			carry(fr, m.value, o)
		}
		for _, om := range from {
			if r.field(om.name).volatile && !hasMember(s, om.name) {
				s.members = append(s.members, om)
			}
		}
	case '[':
		if r.sortBy == nil {
			return // no way to tell which item is which
		}
		key := r.sortBy[len(r.sortBy)-1]
		for _, it := range s.items {
			var o *node
			if own != nil && it.get(key).text() != "" {
				for _, c := range own.items {
					if strings.EqualFold(c.get(key).text(), it.get(key).text()) {
						o = c
					}
				}
			}
			carry(r.item(), it, o)
		}
	}
}

func hasMember(n *node, name string) bool {
	return slices.ContainsFunc(n.members, func(m member) bool { return m.name == name })
}

// setAt sets the member under path, making objects on the way.
func setAt(n *node, path []string, v *node) {
	for _, name := range path[:len(path)-1] {
		next := n.get(name)
		if next == nil || next.kind != '{' {
			next = &node{kind: '{'}
			n.set(name, next)
		}
		n = next
	}
	n.set(path[len(path)-1], v)
}

// SealBody returns the body with every secret that is not empty replaced by what
// seal makes of its JSON text, and the JSON pointers of the places. The error
// wraps ErrBody.
func SealBody(t schemas.Type, body []byte, seal func(pointer, secret string) string) ([]byte, []string, error) {
	f := forms[t]
	if f == nil {
		return nil, nil, fmt.Errorf("%w: objects of type %s are not synced by this version", ErrBody, t)
	}
	n, err := parse(body)
	if err != nil {
		return nil, nil, err
	}
	var places []string
	var walk func(r *rule, at string, v *node) *node
	walk = func(r *rule, at string, v *node) *node {
		if r.secret && !v.empty() {
			places = append(places, at)
			return textNode(seal(at, string(v.append(nil))))
		}
		for i, m := range v.members {
			v.members[i].value = walk(r.field(m.name), pointer(at, m.name), m.value)
		}
		for i, it := range v.items {
			v.items[i] = walk(r.item(), at+"/"+strconv.Itoa(i), it)
		}
		return v
	}
	n = walk(f.root, "", n)
	if places == nil {
		return body, nil, nil
	}
	return n.append(nil), places, nil
}

// OpenBody is the inverse of SealBody: it puts back what stands sealed at the
// places. The error is that of open, or wraps ErrBody.
func OpenBody(body []byte, places []string, open func(pointer, sealed string) (string, error)) ([]byte, error) {
	if len(places) == 0 {
		return body, nil
	}
	n, err := parse(body)
	if err != nil {
		return nil, err
	}
	for _, place := range places {
		slot, err := n.find(place)
		if err != nil {
			return nil, err
		}
		secret, err := open(place, slot.text())
		if err != nil {
			return nil, err
		}
		raw := jsontext.Value(secret)
		if !raw.IsValid() {
			return nil, fmt.Errorf("%w: what was sealed at %s is no JSON", ErrBody, place)
		}
		*slot = node{kind: '"', raw: raw} // written as it is, whatever kind it has
	}
	return n.append(nil), nil
}

// find follows a JSON pointer to a text.
func (n *node) find(place string) (*node, error) {
	at := n
	for tok := range jsontext.Pointer(place).Tokens() {
		var next *node
		switch at.kind {
		case '{':
			next = at.get(tok)
		case '[':
			if i, err := strconv.Atoi(tok); err == nil && i >= 0 && i < len(at.items) {
				next = at.items[i]
			}
		}
		if next == nil {
			return nil, fmt.Errorf("%w: nothing at %s", ErrBody, place)
		}
		at = next
	}
	if at.kind != '"' {
		return nil, fmt.Errorf("%w: no text at %s", ErrBody, place)
	}
	return at, nil
}
