package visualcron

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/vcsync/vcsync/schemas"
)

// ErrOwn is wrapped by every error about a kept field or an override that cannot be.
var ErrOwn = errors.New("servers cannot differ so")

// Own is how objects of one source differ at one target on purpose. The zero Own is no
// difference.
type Own struct {
	// Kept are the places that are the target's own, as in schemas.KeptField: JSON
	// pointers in which an item of a list goes by its key, or by * for every item. Its
	// value there stays, an absent one too. Where what holds the place is new at the
	// target, an item, a part or the whole object, it begins with the source's value.
	Kept []string
	// Patches are merge patches (RFC 7396) that the source's body gets on its way, in
	// their order. What is kept wins over them.
	Patches []jsontext.Value
	// IDs returns the id that an object of the source has at the target; nil where all
	// have the same.
	IDs func(t schemas.Type, id schemas.ID) schemas.ID
}

// IsZero tells whether there is no difference.
func (o Own) IsZero() bool { return len(o.Kept) == 0 && len(o.Patches) == 0 && o.IDs == nil }

// id returns the id at the target.
func (o Own) id(t schemas.Type, id schemas.ID) schemas.ID {
	if o.IDs == nil {
		return id
	}
	return o.IDs(t, id)
}

// OwnOf returns how an object of a setting's source, by its id there, differs at the
// setting's target, as far as this setting says.
func OwnOf(s schemas.Setting, t schemas.Type, id schemas.ID) Own {
	var out Own
	for _, one := range []schemas.ID{"", id} { // what is said of the type comes first
		for _, k := range s.Kept {
			if k.Type == t && k.ID == one {
				out.Kept = append(out.Kept, k.Pointer)
			}
		}
		for _, o := range s.Overrides {
			if o.Type == t && o.ID == one {
				out.Patches = append(out.Patches, o.Patch)
			}
		}
	}
	pins := map[Object]schemas.ID{}
	for _, p := range s.Pins {
		pins[Object{p.Type, p.Source}] = p.Target
	}
	if len(pins) > 0 {
		out.IDs = func(t schemas.Type, id schemas.ID) schemas.ID {
			if to, ok := pins[Object{t, id}]; ok {
				return to
			}
			return id
		}
	}
	return out
}

// CheckKept refuses a place that cannot be the target's own: the object's id, the Active
// flag, which has a policy of its own, what holds one of them, and what is the server's
// own anyway. The error wraps ErrOwn.
func CheckKept(t schemas.Type, pointer string) error {
	f := forms[t]
	switch {
	case f == nil:
		return fmt.Errorf("%w: objects of type %s are not synced by this version", ErrOwn, t)
	case len(pointer) < 2 || !jsontext.Pointer(pointer).IsValid():
		return fmt.Errorf("%w: %.64q is no JSON pointer such as /Description", ErrOwn, pointer)
	}
	tokens := slices.Collect(jsontext.Pointer(pointer).Tokens())
	if err := f.fixedPlace(t, tokens, true); err != nil {
		return err
	}
	r := f.root
	for _, tok := range tokens {
		if r = r.child(tok); r.volatile {
			return fmt.Errorf("%w: %s of a %s is no configuration and every server's own anyway", ErrOwn, pointer, t)
		}
	}
	return nil
}

// child returns the rule of what a token of a pointer names: a member, or an item of a
// list, which the rule alone does not tell apart.
func (r *rule) child(tok string) *rule {
	if r.sortBy != nil || r.set || r.key != "" {
		return r.item()
	}
	return r.field(tok)
}

// fixedPlace refuses the places of the id and of the Active flag, and, where the whole
// value counts, what holds them.
func (f *form) fixedPlace(t schemas.Type, at []string, whole bool) error {
	holds := func(p []string) bool {
		if p == nil {
			return false
		}
		if len(at) >= len(p) {
			return slices.Equal(at[:len(p)], p)
		}
		return whole && slices.Equal(at, p[:len(at)])
	}
	switch {
	case holds(f.id):
		return fmt.Errorf("%w: /%s of a %s is, or holds, its id", ErrOwn, strings.Join(at, "/"), t)
	case holds(f.active):
		return fmt.Errorf("%w: /%s of a %s is, or holds, its Active flag; that has a policy of its own: keep, follow or off", ErrOwn, strings.Join(at, "/"), t)
	}
	return nil
}

// CheckOverride refuses a merge patch that cannot be applied to objects of a type: one
// that is no JSON object, or that names a secret, the id, the Active flag or what is no
// configuration. The error wraps ErrOwn and tells no value.
func CheckOverride(t schemas.Type, patch jsontext.Value) error {
	_, err := parsePatch(t, patch)
	return err
}

func parsePatch(t schemas.Type, patch jsontext.Value) (*node, error) {
	f := forms[t]
	if f == nil {
		return nil, fmt.Errorf("%w: objects of type %s are not synced by this version", ErrOwn, t)
	}
	n, err := parse(patch)
	if err != nil {
		return nil, fmt.Errorf("%w: the override of %s is no merge patch: %w", ErrOwn, t, err)
	}
	return n, f.checkPatch(t, f.root, nil, n)
}

func (f *form) checkPatch(t schemas.Type, r *rule, at []string, n *node) error {
	place := "/" + strings.Join(at, "/")
	switch {
	case r.volatile:
		return fmt.Errorf("%w: %s of a %s is no configuration; no override can set it", ErrOwn, place, t)
	case r.hides(n):
		return fmt.Errorf("%w: %s of a %s is a secret; keep the target's own instead", ErrOwn, place, t)
	}
	if len(at) > 0 {
		if err := f.fixedPlace(t, at, n.kind != '{'); err != nil {
			return err
		}
	}
	for _, m := range n.members {
		if err := f.checkPatch(t, r.field(m.name), append(slices.Clone(at), m.name), m.value); err != nil {
			return err
		}
	}
	for _, it := range n.items {
		if err := f.checkPatch(t, r.item(), append(slices.Clone(at), "*"), it); err != nil {
			return err
		}
	}
	return nil
}

// merge applies a merge patch as RFC 7396 says and notes the places that it replaced:
// nothing that was known of what stood below them holds any more.
func merge(n, patch *node, at string, replaced *[]string) *node {
	if patch.kind != '{' {
		*replaced = append(*replaced, at)
		return patch
	}
	if n == nil || n.kind != '{' {
		n = &node{kind: '{'}
		*replaced = append(*replaced, at)
	}
	for _, m := range patch.members {
		place := pointer(at, m.name)
		if m.value.kind == 'n' {
			n.members = slices.DeleteFunc(n.members, func(x member) bool { return x.name == m.name })
			continue
		}
		n.set(m.name, merge(n.get(m.name), m.value, place, replaced))
	}
	return n
}

// below tells whether place is one of the places or lies below one.
func below(places []string, place string) bool {
	return slices.ContainsFunc(places, func(p string) bool { return place == p || strings.HasPrefix(place, p+"/") })
}

// prepare makes of a source's body what it is for the target before anything of the
// target's is carried into it: the ids rewritten, then patched. An id in a patch is the
// target's. It returns the places that were patched.
func (o Own) prepare(t schemas.Type, f *form, s *node) (*node, []string, error) {
	if o.IDs != nil {
		o.rewrite(t, f, s)
	}
	var replaced []string
	for _, p := range o.Patches {
		patch, err := parsePatch(t, p)
		if err != nil {
			return nil, nil, err
		}
		s = merge(s, patch, "", &replaced)
	}
	return s, replaced, nil
}

// Apply returns a source's body as it is for the target, before anything of the target's
// is carried into it. The error wraps ErrBody or ErrOwn.
func (o Own) Apply(t schemas.Type, source []byte) ([]byte, error) {
	f := forms[t]
	if f == nil {
		return source, nil
	}
	n, err := parse(source)
	if err != nil {
		return nil, err
	}
	if n, _, err = o.prepare(t, f, n); err != nil {
		return nil, err
	}
	return n.append(nil), nil
}

// rewrite replaces the object's own id and every reference by those of the target, in
// the places where References finds them.
func (o Own) rewrite(t schemas.Type, f *form, s *node) {
	s.visit(f.root, "", func(r *rule, _ string, n *node) bool {
		if r.volatile || r.secret {
			return false
		}
		if n.kind != '"' {
			return true
		}
		text := n.text()
		if r.ref != "" && schemas.IsGUID(text) {
			if id, err := schemas.ParseID(text); err == nil {
				if to := o.id(r.ref, id); to != id {
					n.raw = textNode(string(to)).raw
				}
			}
			return false
		}
		if to := o.rewriteText(text); to != text {
			n.raw = textNode(to).raw
		}
		return false
	})
	if own := s.at(f.id); own != nil {
		if id, err := schemas.ParseID(own.text()); err == nil {
			if to := o.id(t, id); to != id {
				setAt(s, f.id, textNode(string(to)))
			}
		}
	}
}

// rewriteText rewrites the ids in the placeholders of a text, as placeholders finds
// them. What a task is called by stays: its id is the same wherever its job is.
func (o Own) rewriteText(s string) string {
	var out strings.Builder
	for {
		i := strings.IndexByte(s, '{')
		if i < 0 {
			out.WriteString(s)
			return out.String()
		}
		out.WriteString(s[:i+1])
		s = s[i+1:]
		word, rest, ok := strings.Cut(s, "(")
		if !ok {
			out.WriteString(s)
			return out.String()
		}
		end := strings.IndexAny(rest, ",|)")
		if end < 0 || !strings.EqualFold(word, "JOB") {
			continue
		}
		arg := strings.TrimSpace(rest[:end])
		if !schemas.IsGUID(arg) {
			continue
		}
		if id, err := schemas.ParseID(arg); err == nil {
			if to := o.id(schemas.Job, id); to != id {
				out.WriteString(word + "(" + strings.Replace(rest[:end], arg, string(to), 1))
				s = rest[end:]
			}
		}
	}
}

// kept is the tree of the places that are the target's own. Nil is none.
type kept struct {
	here  bool // all of it
	below map[string]*kept
}

func keptTree(pointers []string) *kept {
	if len(pointers) == 0 {
		return nil
	}
	root := &kept{}
	for _, p := range pointers {
		k := root
		for tok := range jsontext.Pointer(p).Tokens() {
			if k.below == nil {
				k.below = map[string]*kept{}
			}
			if k.below[tok] == nil {
				k.below[tok] = &kept{}
			}
			k = k.below[tok]
		}
		if k != root { // the whole object is no field
			k.here = true
		}
	}
	return root
}

// whole tells whether the place is the target's own with all below it.
func (k *kept) whole() bool { return k != nil && k.here }

// member returns what is kept of a member.
func (k *kept) member(name string) *kept {
	if k == nil {
		return nil
	}
	return k.below[name]
}

// item returns what is kept of an item of a list that stands under r.
func (k *kept) item(r *rule, it *node) *kept {
	if k == nil {
		return nil
	}
	var out *kept
	for tok, sub := range k.below {
		if tok == "*" || isCalled(r, it, tok) {
			out = out.with(sub)
		}
	}
	return out
}

// isCalled tells whether an item of a list goes by that name: its key or its Id.
func isCalled(r *rule, it *node, name string) bool {
	if it.kind != '{' || name == "" {
		return false
	}
	return strings.EqualFold(keyOf(it.get(r.itemKey())), name) || strings.EqualFold(keyOf(it.get("Id")), name)
}

// with returns what either of the two keeps.
func (k *kept) with(o *kept) *kept {
	if k == nil {
		return o
	}
	if o == nil {
		return k
	}
	out := &kept{here: k.here || o.here, below: map[string]*kept{}}
	for _, x := range []*kept{k, o} {
		for tok, sub := range x.below {
			out.below[tok] = out.below[tok].with(sub)
		}
	}
	return out
}

// only returns what is kept of the target's own value and nothing else, nil where that
// is nothing: what is left of a part that the source does not have.
func (k *carrier) only(kp *kept, r *rule, own *node) *node {
	switch {
	case kp == nil || own == nil:
		return nil
	case kp.here:
		return k.sendable(r, own)
	case own.kind == '{':
		var out []member
		for _, m := range own.members {
			fr := r.field(m.name)
			if v := k.only(kp.member(m.name), fr, m.value); v != nil && !fr.volatile {
				out = append(out, member{m.name, v})
			}
		}
		if out != nil {
			return &node{kind: '{', members: out}
		}
	case own.kind == '[':
		var out []*node
		for _, it := range own.items {
			if kp.item(r, it).whole() {
				out = append(out, k.sendable(r.item(), it))
			}
		}
		if out != nil {
			return &node{kind: '[', items: out}
		}
	}
	return nil
}

// OwnedFields returns the places, at most limit, in which the body for the target is
// another on purpose than it would be without what the composition's Own says. Items of
// lists go by their place in the normal form. It tells no values. The error is that of
// Compose.
func OwnedFields(t schemas.Type, source, target []byte, c Composition, limit int) ([]string, error) {
	if c.Own.IsZero() {
		return nil, nil
	}
	with, err := Compose(t, source, target, c)
	if err != nil {
		return nil, err
	}
	c.Own = Own{IDs: c.Own.IDs}
	without, err := Compose(t, source, target, c)
	if err != nil {
		return nil, err
	}
	view := View{Secrets: SecretsMasked, Values: true}
	a, err := view.Normalize(t, with.Body)
	if err != nil {
		return nil, err
	}
	b, err := view.Normalize(t, without.Body)
	if err != nil {
		return nil, err
	}
	return Differences(a, b, limit), nil
}
