package visualcron

import "github.com/vcsync/vcsync/schemas"

// IsReferable tells whether objects may refer to one of a type: in members that hold ids,
// or in placeholders. Who does may be of any type, since such members and placeholders are
// known wherever they stand.
func IsReferable(t schemas.Type) bool {
	if t == schemas.Job || t == schemas.Variable {
		return true
	}
	for _, to := range refName {
		if to == t {
			return true
		}
	}
	for _, f := range forms {
		if f.root.refersTo(t, map[*rule]bool{}) {
			return true
		}
	}
	return false
}

// refersTo tells whether a member may hold an id of an object of that type.
func (r *rule) refersTo(to schemas.Type, seen map[*rule]bool) bool {
	if r == nil || seen[r] {
		return false
	}
	seen[r] = true
	if r.ref == to || r.any.refersTo(to, seen) {
		return true
	}
	for _, f := range r.fields {
		if f.refersTo(to, seen) {
			return true
		}
	}
	return false
}

// SetActive returns a body with its Active flag set, and what that was: off where it has
// none. The error wraps ErrBody.
func SetActive(t schemas.Type, body []byte, on bool) (out []byte, was bool, err error) {
	f := forms[t]
	if f == nil || f.active == nil {
		return body, false, nil
	}
	n, err := parse(body)
	if err != nil {
		return nil, false, err
	}
	was = isOn(n, f.active)
	if home := n.get(f.active[0]); len(f.active) > 1 && (home == nil || home.kind != '{') {
		n.set(f.active[0], &node{kind: '{'})
	}
	setAt(n, f.active, boolNode(on))
	return n.append(nil), was, nil
}
