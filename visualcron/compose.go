package visualcron

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/vcsync/vcsync/schemas"
)

// Composition says how a body is made for a target.
type Composition struct {
	// Policy governs the Active flag of the object itself; those of a job's tasks and
	// triggers are part of its configuration and follow the source.
	Policy schemas.ActivePolicy
	// Values: the values of user variables are synced, not only their definition.
	Values bool
	// Withholds tells that the source does not give secrets, Withheld the JSON
	// pointers of the places where it has one, or may have.
	Withholds bool
	Withheld  []string
	// Secrets is the target's own mode. Unless equal, it takes no secret of another
	// server, and keeps its own where a write leaves the member out.
	Secrets SecretMode
	// Needs are the places that were found without their secret before, as Composed
	// names them. They count where the target does not tell whether it has one.
	Needs []string
	// Wait: something that the object refers to lacks its secret, so a new one is
	// inactive and the flag of one that is there stays as it is.
	Wait bool
	// Own is how the target differs on purpose.
	Own Own
}

// Composed is a body made for a target.
type Composed struct {
	Body []byte
	// Needs are the places of the secrets that the object has at its source, or may
	// have, and lacks at the target: a person has to enter them there. They are
	// written like JSON pointers, with the key of an item, where it has one, for its
	// index: a list may have another order next time.
	Needs []string
}

// Compose makes the body that a target shall hold: the source's configuration, the
// target's own volatile fields (an update never resets run statistics; a new object
// starts without any), its own secrets where the source's do not travel, and the
// Active flag as the policy says. A job or a user that lacks a secret is new as inactive,
// and its flag is the target's own until the secret is there. A job that deactivates
// or deletes itself when it has run follows the source's flag when it is new only:
// it must not run twice. Ids and references become the target's, overrides are applied,
// and what is kept stays as it is at the target. Target is nil where the object is new
// there. The error wraps ErrBody, or ErrOwn where an override cannot be applied.
func Compose(t schemas.Type, source, target []byte, c Composition) (Composed, error) {
	f := forms[t]
	if f == nil {
		return Composed{}, fmt.Errorf("%w: objects of type %s are not synced by this version", ErrBody, t)
	}
	s, err := parse(source)
	if err != nil {
		return Composed{}, fmt.Errorf("of the source: %w", err)
	}
	var own *node
	if target != nil {
		if own, err = parse(target); err != nil {
			return Composed{}, fmt.Errorf("of the target: %w", err)
		}
	}
	s, patched, err := c.Own.prepare(t, f, s)
	if err != nil {
		return Composed{}, err
	}
	c.Withheld = slices.DeleteFunc(slices.Clone(c.Withheld), func(place string) bool { return below(patched, place) })
	k := carrier{Composition: c, f: f}
	if len(f.active) > 1 {
		if home := s.get(f.active[0]); home == nil || home.kind != '{' {
			s.set(f.active[0], &node{kind: '{'}) // so that the target's own is carried into it
		}
	}
	at, has := s.at(f.active), own.at(f.active)
	id := s.at(f.id)
	k.carry(f.root, "", "", s, own, keptTree(c.Own.Kept))
	if id != nil && len(c.Own.Kept) > 0 { // whatever is kept, it is the same object
		setAt(s, f.id, id)
	}
	once := isOn(s, f.runsOnce) || isOn(s, f.removesItself)
	if f.active != nil {
		var active *node
		waits := len(k.needs) > 0 || c.Wait || once
		switch {
		case c.Policy == schemas.Off:
			active = boolNode(false)
		case has != nil && (c.Policy == schemas.Keep || waits):
			active = has
		case has == nil && (len(k.needs) > 0 || c.Wait):
			active = boolNode(false)
		case c.Policy == schemas.Follow && at != nil:
			active = at
		default:
			active = boolNode(false)
		}
		setAt(s, f.active, active)
		if t == schemas.Job { // a copy once kept the source's, VisualCron changelog 9.0.0
			if id := s.get("Id"); id != nil {
				s.get(f.active[0]).set("JobId", id)
			}
		}
	}
	if f.login != nil && len(k.needs) > 0 { // nobody shall be able to log on without the password
		active := own.get("Active")
		if active == nil {
			active = boolNode(false)
		}
		s.set("Active", active)
	}
	return Composed{s.append(nil), k.needs}, nil
}

// carrier carries what is the target's own into a source's body.
type carrier struct {
	Composition
	f     *form
	needs []string
}

// carry replaces every volatile member of s by the target's own, and takes it out
// where the target has none. At is the JSON pointer of s, called its name in Needs.
// Own is nil where nothing at the target is known to be the same thing, kp holds what
// of it the target keeps.
func (k *carrier) carry(r *rule, at, called string, s, own *node, kp *kept) {
	if own == nil || s.kind == '{' && (own.kind != '{' || own.empty()) {
		kp = nil // new here
	}
	switch s.kind {
	case '{':
		var from []member
		if own != nil && own.kind == '{' {
			from = own.members
		}
		var out []member
		for _, m := range s.members {
			fr, place, called := r.field(m.name), pointer(at, m.name), pointer(called, m.name)
			var o *node // the target's own, null included
			if i := slices.IndexFunc(from, func(om member) bool { return om.name == m.name }); i >= 0 {
				o = from[i].value
			}
			sub := kp.member(m.name)
			switch {
			case fr.volatile:
				if fr.secret && !fr.byName { // the object needs one of its own here
					k.secret(fr, place, called, m.value, o, own != nil)
				}
				if o = k.sendable(fr, o); o != nil {
					out = append(out, member{m.name, o})
				}
			case sub.whole():
				if o = k.sendable(fr, o); o != nil {
					out = append(out, member{m.name, o})
				}
			case k.keeps(fr, place, m.value, o):
				if v := k.secret(fr, place, called, m.value, o, own != nil); v != nil {
					out = append(out, member{m.name, v})
				}
			default:
				if sub != nil && o != nil && m.value.kind != o.kind {
					if left := k.only(sub, fr, o); left != nil {
						m.value = left
						out = append(out, m)
						continue
					}
				}
				if m.value.kind == '[' && sub != nil && o == nil {
					o = &node{kind: '['} // no list and an empty one are the same
				}
				k.carry(fr, place, called, m.value, o, sub)
				out = append(out, m)
			}
		}
		for _, om := range from { // what only the target has
			if slices.ContainsFunc(s.members, func(m member) bool { return m.name == om.name }) {
				continue
			}
			fr := r.field(om.name)
			if !fr.volatile && !fr.hides(om.value) {
				if left := k.only(kp.member(om.name), fr, om.value); left != nil {
					out = append(out, member{om.name, left})
					continue
				}
			}
			// A source that says nothing of a secret does not say that there is none.
			// Of the server settings nothing is taken out: every server has its own.
			if fr.volatile || r.own != nil || fr.hides(om.value) {
				if v := k.sendable(fr, om.value); v != nil {
					out = append(out, member{om.name, v})
				}
			}
		}
		s.members = out
	case '[':
		twins := r.twins(s, own, kp)
		var out []*node
		for i, it := range s.items {
			name := strconv.Itoa(i)
			if key := keyOf(it.get(r.itemKey())); key != "" {
				name = key
			}
			sub := kp.item(r, it)
			if sub.whole() {
				if twins[i] != nil {
					out = append(out, k.sendable(r.item(), twins[i]))
				}
				continue
			}
			k.carry(r.item(), at+"/"+strconv.Itoa(i), pointer(called, name), it, twins[i], sub)
			out = append(out, it)
		}
		if kp != nil && own.kind == '[' { // what only the target has, and keeps
			for _, it := range own.items {
				if !slices.Contains(twins, it) && kp.item(r, it).whole() {
					out = append(out, k.sendable(r.item(), it))
				}
			}
		}
		s.items = out
	}
}

// sendable returns the target's own value as it may be sent back, nil for not at
// all. What a server that is not equal shows of its secrets it would take for the
// secrets themselves.
func (k *carrier) sendable(r *rule, own *node) *node {
	if own == nil || k.Secrets == SecretsEqual {
		return own
	}
	if r.hides(own) {
		return nil
	}
	var members []member
	for _, m := range own.members {
		if m.value = k.sendable(r.field(m.name), m.value); m.value != nil {
			members = append(members, m)
		}
	}
	own.members = members
	for _, it := range own.items {
		k.sendable(r.item(), it)
	}
	return own
}

// twins returns for every item of a list the one of the target's list that is the
// same thing, nil where none is. They have the same key, or, without one, the same
// content but for secrets, what is volatile and what is kept: the place in a list tells nothing.
// No item is the twin of two.
func (r *rule) twins(s, own *node, kp *kept) []*node {
	out := make([]*node, len(s.items))
	if own == nil || own.kind != '[' {
		return out
	}
	key := r.itemKey()
	name := func(it *node) string {
		if k := keyOf(it.get(key)); k != "" {
			return "key " + k
		}
		if x := (View{Secrets: SecretsMasked}).value(r.item(), it, kp.item(r, it)); x != nil && x.kind == '{' {
			return string(x.append(nil))
		}
		return ""
	}
	names := make([]string, len(own.items))
	for i, it := range own.items {
		names[i] = name(it)
	}
	for _, same := range []func(a, b string) bool{func(a, b string) bool { return a == b }, strings.EqualFold} {
		for i, it := range s.items {
			n := name(it)
			if out[i] != nil || n == "" {
				continue
			}
			if j := slices.IndexFunc(names, func(o string) bool { return same(n, o) }); j >= 0 {
				out[i], names[j] = own.items[j], ""
			}
		}
	}
	return out
}

// keyOf returns what tells an item of a list apart, as text.
func keyOf(n *node) string {
	if n != nil && n.kind == '0' {
		return string(number(n.raw))
	}
	return n.text()
}

// keeps tells whether the target's own secret, or value of a variable, stays at a
// place.
func (k *carrier) keeps(r *rule, place string, v, own *node) bool {
	switch {
	case !r.secret && !r.value:
		return false
	case slices.Contains(k.Withheld, place), r.value && !k.Values:
		return true
	}
	hidden := r.hides(v) || v.kind == 'n' || own != nil && !own.empty() && r.hides(own)
	// A null never takes a secret away, whatever the server says of itself: only an
	// empty text does.
	return hidden && (k.Withholds || k.Secrets != SecretsEqual || v.kind == 'n')
}

// secret returns what a write sends at a place that keeps the target's own; nil to
// leave the member out. It notes where the target lacks a secret that the source
// has. There tells that the target has the thing whose secret this is.
func (k *carrier) secret(r *rule, place, called string, source, own *node, there bool) *node {
	has := own != nil && !own.empty()
	wants := slices.Contains(k.Withheld, place) || !k.Withholds && !source.empty()
	if r.value { // one that was not asked for when it was captured is on its way
		wants = k.Values && wants && (k.Withholds || !source.empty())
	}
	// A null says nothing where all secrets come out as null: who was found without
	// one stays so until a person says otherwise.
	known := !k.Secrets.silent() || !there
	if wants && !has && (known || slices.Contains(k.Needs, called)) {
		k.needs = append(k.needs, called)
	}
	if k.Secrets != SecretsEqual {
		return nil
	}
	return own
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

// Sealed is a body as it travels.
type Sealed struct {
	Body []byte
	// Places are the JSON pointers of the secrets that stand sealed in it, Withheld
	// those that the source does not give: there the body has null.
	Places, Withheld []string
}

// SealBody returns the body with every secret that is not empty replaced by what
// seal makes of its JSON text. What does not count in the view is taken out: the
// secrets of a server that does not give them, and the values of variables unless
// they are asked for. So is what the server settings leave to the one server: its
// licence must not even lie in the store. The error wraps ErrBody.
func (v View) SealBody(t schemas.Type, body []byte, seal func(pointer, secret string) string) (Sealed, error) {
	f := forms[t]
	if f == nil {
		return Sealed{}, fmt.Errorf("%w: objects of type %s are not synced by this version", ErrBody, t)
	}
	n, err := parse(body)
	if err != nil {
		return Sealed{}, err
	}
	var out Sealed
	changed := false
	var walk func(r *rule, at string, n *node) *node
	walk = func(r *rule, at string, n *node) *node {
		switch withhold := v.Secrets != SecretsEqual || r.value && !v.Values; {
		case !r.hides(n):
		case withhold && (!n.empty() || n.kind == 'n' && v.Secrets.silent()):
			if !r.volatile || !r.byName {
				out.Withheld = append(out.Withheld, at)
			}
			changed = true
			return null
		case !withhold && !n.empty():
			out.Places = append(out.Places, at)
			return textNode(seal(at, string(n.append(nil))))
		}
		if r.own != nil {
			before := len(n.members)
			n.members = slices.DeleteFunc(n.members, func(m member) bool { return r.field(m.name).volatile })
			changed = changed || len(n.members) < before
		}
		for i, m := range n.members {
			n.members[i].value = walk(r.field(m.name), pointer(at, m.name), m.value)
		}
		for i, it := range n.items {
			n.items[i] = walk(r.item(), at+"/"+strconv.Itoa(i), it)
		}
		return n
	}
	n = walk(f.root, "", n)
	if out.Places == nil && !changed {
		out.Body = body
	} else {
		out.Body = n.append(nil)
	}
	return out, nil
}

// SealBody is View.SealBody for a view in which everything counts.
func SealBody(t schemas.Type, body []byte, seal func(pointer, secret string) string) ([]byte, []string, error) {
	s, err := View{Secrets: SecretsEqual, Values: true}.SealBody(t, body, seal)
	return s.Body, s.Places, err
}

// Secrets returns the texts of the secrets in a body, to keep them out of what is
// shown. A body that cannot be read has none.
func Secrets(t schemas.Type, body []byte) []string {
	var out []string
	n, err := parse(body)
	if err != nil || forms[t] == nil {
		return nil
	}
	n.visit(forms[t].root, "", func(r *rule, _ string, n *node) bool {
		if r.hides(n) && !n.empty() {
			out = append(out, strings.Trim(string(n.append(nil)), `"`))
			if s := n.text(); s != "" && s != out[len(out)-1] {
				out = append(out, s)
			}
			return false
		}
		return true
	})
	return out
}

// visit calls f with every value below n, and goes deeper where it returns true.
func (n *node) visit(r *rule, at string, f func(r *rule, at string, n *node) bool) {
	if !f(r, at, n) {
		return
	}
	for _, m := range n.members {
		if m.value.kind != 'n' {
			m.value.visit(r.field(m.name), pointer(at, m.name), f)
		}
	}
	for i, it := range n.items {
		it.visit(r.item(), at+"/"+strconv.Itoa(i), f)
	}
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
