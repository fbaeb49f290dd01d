package visualcron

import (
	"bytes"
	"cmp"
	"fmt"
	"hash/maphash"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/vcsync/vcsync/schemas"
)

// Normal is an object reduced to what counts as configuration.
type Normal struct {
	ID          schemas.ID
	Name, Group string
	// Who is the account that edited the object last, as the body tells.
	Who string
	// Digest is the hash of the normal form.
	Digest schemas.Digest
	// BuiltIn: it came with the server's installation, by its name. Built-in objects
	// are never captured and never written.
	BuiltIn bool
	// RemovesItself and RunsOnce tell of a job that deletes or deactivates itself
	// when it has run.
	RemovesItself, RunsOnce bool
	// Login is the name with which a user logs on; empty for all other types.
	Login string

	tree *node
}

// secretMark begins what a normal form holds in place of a secret: its keyed digest.
const secretMark = "secret:"

// View says what counts in a normal form, beside the rules of the type.
type View struct {
	// Secrets is how the server gives secret fields. Unless equal, they do not count:
	// a mask or a ciphertext tells nothing.
	Secrets SecretMode
	// Values: the values of user variables count. They are written by running jobs
	// as much as by people.
	Values bool
	// Digest makes the keyed digest of a secret.
	Digest func(secret string) string
	// Kept are places that do not count, as in Own.
	Kept []string
}

// Normalize reduces a body with everything that can count: the secrets and the
// values of variables. Digest makes the keyed digest of a secret. See
// View.Normalize.
func Normalize(t schemas.Type, body []byte, digest func(secret string) string) (Normal, error) {
	return View{Secrets: SecretsEqual, Values: true, Digest: digest}.Normalize(t, body)
}

// Normalize reduces a body. Volatile fields, nulls and empty values are out;
// members and lists whose order means nothing are sorted; GUIDs, enumerations,
// numbers, switches, line ends, points in time and the dates that stand for "never"
// and "no end" have one spelling. The error wraps ErrBody.
func (v View) Normalize(t schemas.Type, body []byte) (Normal, error) {
	f := forms[t]
	if f == nil {
		return Normal{}, fmt.Errorf("%w: objects of type %s are not synced by this version", ErrBody, t)
	}
	n, err := parse(body)
	if err != nil {
		return Normal{}, err
	}
	id, err := BodyID(t, body)
	if err != nil {
		return Normal{}, err
	}
	out := Normal{ID: id, Name: f.title(n), Group: n.at(f.group).text(), Who: n.at(f.who).text(),
		RemovesItself: isOn(n, f.removesItself), RunsOnce: isOn(n, f.runsOnce)}
	if f.login != nil {
		out.Login = n.at(f.login).text()
	}
	out.BuiltIn = f.isBuiltIn(n, out.Name, out.Group)
	out.tree = v.value(f.root, n, keptTree(v.Kept))
	if out.tree == nil {
		out.tree = &node{kind: '{'}
	}
	out.Digest = schemas.DigestOf(append([]byte(string(t)+"\n"), out.tree.append(nil)...))
	return out, nil
}

// RemovesItself tells whether a body is that of a job that deletes itself when it
// has run. Its absence is nobody's wish to have it deleted anywhere else.
func RemovesItself(t schemas.Type, body []byte) bool {
	f := forms[t]
	if f == nil || f.removesItself == nil {
		return false
	}
	n, err := parse(body)
	return err == nil && isOn(n, f.removesItself)
}

// isOn tells whether the switch under path is on.
func isOn(n *node, path []string) bool {
	if path == nil {
		return false
	}
	v := n.at(path)
	return v != nil && (v.kind == 't' || v.kind == '"' && strings.EqualFold(v.text(), "true"))
}

// at follows member names; nil where one is missing, and for no path.
func (n *node) at(path []string) *node {
	if len(path) == 0 {
		return nil
	}
	for _, name := range path {
		n = n.get(name)
	}
	return n
}

// value returns the normal form of n under rule r without what is kept, nil where
// nothing is left.
func (v View) value(r *rule, n *node, kp *kept) *node {
	if r.volatile || kp.whole() || r.value && !v.Values || n.empty() {
		return nil
	}
	if r.hides(n) {
		if v.Secrets != SecretsEqual {
			return nil
		}
		secret := string(n.append(nil))
		switch n.kind { // as for what is no secret, the spelling means nothing
		case '"':
			secret = string(textNode(n.text()).raw)
		case '0':
			secret = string(number(n.raw))
		}
		return textNode(secretMark + v.Digest(secret))
	}
	switch n.kind {
	case '{':
		out := &node{kind: '{'}
		for _, m := range n.members {
			if m.value.kind == 'n' {
				continue // the hundreds of empty task slots
			}
			if x := v.value(r.field(m.name), m.value, kp.member(m.name)); x != nil {
				out.members = append(out.members, member{m.name, x})
			}
		}
		if len(out.members) == 0 {
			return nil
		}
		slices.SortFunc(out.members, func(a, b member) int { return strings.Compare(a.name, b.name) })
		return out
	case '[':
		out := &node{kind: '['}
		ir := r.item()
		for _, it := range n.items {
			sub := kp.item(r, it)
			if sub.whole() {
				continue
			}
			x := v.value(ir, it, sub)
			if x == nil {
				x = null // a place in a list counts
			}
			out.items = append(out.items, x)
		}
		if kp != nil && len(out.items) == 0 {
			return nil
		}
		switch {
		case r.sortBy != nil:
			slices.SortStableFunc(out.items, func(a, b *node) int { return compareBy(r.sortBy, a, b) })
		case r.set:
			slices.SortFunc(out.items, func(a, b *node) int { return bytes.Compare(a.raw, b.raw) })
		}
		return out
	case '"':
		s := n.text()
		switch {
		case strings.EqualFold(s, "true"):
			return boolNode(true)
		case strings.EqualFold(s, "false"):
			return boolNode(false)
		case r.enum || schemas.IsGUID(s):
			s = strings.ToLower(s)
		case isDate(s) && s[:4] <= "0001":
			return nil // year 1 is .NET's "never"
		case isDate(s) && s[:4] == "9999":
			s = "9999" // "no end", whatever the fraction and the offset
		case isDate(s):
			s = instant(s)
		default:
			s = strings.ReplaceAll(s, "\r\n", "\n") // XML, in which VisualCron keeps its settings, makes no difference
		}
		return textNode(s)
	case '0':
		return &node{kind: '0', raw: number(n.raw)}
	}
	return n
}

// instant returns one spelling of a point in time: in UTC, without trailing zeros
// of the fraction. Without an offset it is the server's local time and stays so.
func instant(s string) string {
	for _, layout := range []string{"2006-01-02T15:04:05.999999999Z07:00", "2006-01-02T15:04:05.999999999"} {
		if t, err := time.Parse(layout, s); err == nil {
			return t.UTC().Format(layout)
		}
	}
	return s
}

// isDate tells whether s is an ISO 8601 date and time, as .NET writes them: with or
// without a fraction, with or without an offset.
func isDate(s string) bool {
	if len(s) < 19 {
		return false
	}
	for i := range 19 {
		switch c := s[i]; i {
		case 4, 7:
			if c != '-' {
				return false
			}
		case 10:
			if c != 'T' {
				return false
			}
		case 13, 16:
			if c != ':' {
				return false
			}
		default:
			if c < '0' || c > '9' {
				return false
			}
		}
	}
	rest := s[19:]
	if f, ok := strings.CutPrefix(rest, "."); ok {
		if rest = strings.TrimLeft(f, "0123456789"); rest == f {
			return false
		}
	}
	if rest == "" || rest == "Z" {
		return true
	}
	return len(rest) == 6 && (rest[0] == '+' || rest[0] == '-') && rest[3] == ':' && strings.Trim(rest[1:3]+rest[4:], "0123456789") == ""
}

func compareBy(names []string, a, b *node) int {
	for _, n := range names {
		x, y := a.get(n), b.get(n)
		if c := cmp.Compare(numberOf(x), numberOf(y)); c != 0 {
			return c
		}
		if c := strings.Compare(x.text(), y.text()); c != 0 {
			return c
		}
	}
	return 0
}

func numberOf(n *node) float64 {
	if n == nil || n.kind != '0' {
		return 0
	}
	f, err := strconv.ParseFloat(string(n.raw), 64)
	if err != nil {
		return 0
	}
	return f
}

// Differences returns the JSON pointers of the fields in which two normal forms
// differ, at most limit of them. Items of lists go by their place in the normal
// form. It tells no values, so it may be shown for secrets too.
func Differences(a, b Normal, limit int) []string {
	var out []string
	differ(a, b, limit, func(at string, _, _ *node) { out = append(out, at) })
	return out
}

// Change is a field in which two normal forms differ, with its values as JSON: empty
// where it is not there, hidden and cut as Changes says.
type Change struct{ Field, Old, New string }

// Hidden stands for the value of a secret in a Change, and valueMost is how many runes of
// a value it keeps.
const (
	Hidden    = "(secret)"
	valueMost = 160
)

// Changes returns what Differences does, with the values: those in a as the old ones.
// What is known as a secret is hidden, and redact hides what else must not be told in a
// text, such as a password within a command line; nil for nothing. Long values are cut.
func Changes(a, b Normal, limit int, redact func(string) string) []Change {
	var out []Change
	value := func(n *node) string {
		if n == nil {
			return ""
		}
		text := []rune(strings.ToValidUTF8(string(n.hidden(redact).append(nil)), "\uFFFD"))
		if len(text) > valueMost {
			return string(text[:valueMost-3]) + "..."
		}
		return string(text)
	}
	differ(a, b, limit, func(at string, x, y *node) { out = append(out, Change{at, value(x), value(y)}) })
	return out
}

// hidden returns a copy of a normal form without the digests of secrets, and with its
// texts redacted.
func (n *node) hidden(redact func(string) string) *node {
	switch n.kind {
	case '{':
		out := &node{kind: n.kind}
		for _, m := range n.members {
			out.members = append(out.members, member{m.name, m.value.hidden(redact)})
		}
		return out
	case '[':
		out := &node{kind: n.kind}
		for _, it := range n.items {
			out.items = append(out.items, it.hidden(redact))
		}
		return out
	case '"':
		s := n.text()
		switch {
		case strings.HasPrefix(s, secretMark):
			return &node{kind: '0', raw: []byte(Hidden)}
		case redact != nil:
			return textNode(redact(s))
		}
	}
	return n
}

// differ calls each with the fields in which two normal forms differ, at most limit of
// them; nil for what one lacks.
func differ(a, b Normal, limit int, each func(at string, x, y *node)) {
	told := 0
	tell := func(at string, x, y *node) {
		told++
		each(at, x, y)
	}
	var walk func(at string, x, y *node)
	walk = func(at string, x, y *node) {
		switch {
		case told >= limit:
		case x == nil || y == nil || x.kind != y.kind:
			if x != y {
				tell(at, x, y)
			}
		case x.kind == '{':
			names := map[string]bool{}
			for _, m := range slices.Concat(x.members, y.members) {
				if !names[m.name] {
					names[m.name] = true
					walk(pointer(at, m.name), x.get(m.name), y.get(m.name))
				}
			}
		case x.kind == '[':
			for i := range max(len(x.items), len(y.items)) {
				var xi, yi *node
				if i < len(x.items) {
					xi = x.items[i]
				}
				if i < len(y.items) {
					yi = y.items[i]
				}
				walk(at+"/"+strconv.Itoa(i), xi, yi)
			}
		case !bytes.Equal(x.raw, y.raw):
			tell(at, x, y)
		}
	}
	walk("", a.tree, b.tree)
}

// QuickHasher tells in one pass whether an object's configuration may have
// changed since it was last seen: equal hashes mean equal up to volatile fields,
// different ones mean nothing. Hashes of one QuickHasher compare with its own only.
type QuickHasher struct{ seed maphash.Seed }

// NewQuickHasher returns a QuickHasher with a fresh seed.
func NewQuickHasher() QuickHasher { return QuickHasher{maphash.MakeSeed()} }

// Hash returns the hash of a body that ReadList or parse has found valid.
func (q QuickHasher) Hash(t schemas.Type, body []byte) (uint64, error) {
	var h maphash.Hash
	h.SetSeed(q.seed)
	dec := jsontext.NewDecoder(bytes.NewReader(body), jsontext.AllowDuplicateNames(true), jsontext.AllowInvalidUTF8(true))
	root := plain
	if f := forms[t]; f != nil {
		root = f.root
	}
	if err := quick(&h, dec, root); err != nil {
		return 0, fmt.Errorf("%w: %w", ErrBody, err)
	}
	return h.Sum64(), nil
}

func quick(h *maphash.Hash, dec *jsontext.Decoder, r *rule) error {
	k := dec.PeekKind()
	if k != '{' && k != '[' || len(r.fields) == 0 && r.any == nil {
		v, err := dec.ReadValue()
		h.Write(v)
		h.WriteByte(0)
		return err
	}
	if _, err := dec.ReadToken(); err != nil {
		return err
	}
	h.WriteByte(byte(k))
	for c := dec.PeekKind(); c != '}' && c != ']'; c = dec.PeekKind() {
		sub := r.any
		if k == '{' {
			tok, err := dec.ReadToken()
			if err != nil {
				return err
			}
			name := tok.String()
			if f := r.fields[name]; f != nil {
				sub = f
			}
			if sub != nil && sub.volatile || r.own != nil && r.own(name) {
				if err := dec.SkipValue(); err != nil {
					return err
				}
				continue
			}
			h.WriteString(name)
			h.WriteByte(0)
		}
		if sub == nil {
			sub = plain
		}
		if err := quick(h, dec, sub); err != nil {
			return err
		}
	}
	_, err := dec.ReadToken()
	h.WriteByte(byte(k))
	return err
}
