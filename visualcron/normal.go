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
		out := textNode("secret:" + v.Digest(secret))
		out.secret = true
		return out
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
	differ(a, b, func(at string, _, _ *node) bool {
		if len(out) < limit {
			out = append(out, at)
		}
		return len(out) < limit
	})
	return out
}

// differ calls f with every place in which two normal forms differ, and with what each
// has there, nil for nothing, until f returns false.
func differ(a, b Normal, f func(at string, x, y *node) bool) {
	going := true
	var walk func(at string, x, y *node)
	walk = func(at string, x, y *node) {
		switch {
		case !going:
		case x == nil || y == nil || x.kind != y.kind:
			if x != y {
				going = f(at, x, y)
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
			going = f(at, x, y)
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
	hash, _, err := q.HashWithMoments(t, body)
	return hash, err
}

// Moments are what a body tells of the object's past: when the server says that it ran
// last, and that it was edited last. They are no configuration. One that it does not
// tell is the zero time; "never" is the year 1, just after it.
type Moments struct {
	Ran, Edited time.Time
	// Local tells that one of them has no offset: it is the server's local time, which
	// goes back by itself once a year.
	Local bool
}

// Back tells whether what a server says now lies before what it said: by more than ten
// minutes, since runs may overlap and clocks are set, and by more than an hour where it
// tells local time.
func (m Moments) Back(now Moments) bool {
	slack := 10 * time.Minute
	if m.Local || now.Local {
		slack += time.Hour
	}
	back := func(was, is time.Time) bool { return !was.IsZero() && !is.IsZero() && is.Add(slack).Before(was) }
	return back(m.Ran, now.Ran) || back(m.Edited, now.Edited)
}

type moment byte

const (
	momentRan moment = iota + 1
	momentEdited
)

// take reads one moment; what is no point in time tells nothing.
func (m *Moments) take(which moment, raw jsontext.Value) {
	if raw.Kind() != '"' {
		return
	}
	text, err := jsontext.AppendUnquote(nil, raw)
	if err != nil {
		return
	}
	at, err := time.Parse("2006-01-02T15:04:05.999999999Z07:00", string(text))
	if err != nil {
		if at, err = time.Parse("2006-01-02T15:04:05.999999999", string(text)); err != nil {
			return
		}
		m.Local = true
	}
	if at.Year() <= 1 {
		at = time.Time{}.Add(1)
	}
	if which == momentRan {
		m.Ran = at
	} else {
		m.Edited = at
	}
}

// HashWithMoments is Hash, and tells of the object's past what stands beside the
// configuration.
func (q QuickHasher) HashWithMoments(t schemas.Type, body []byte) (uint64, Moments, error) {
	var h quickHash
	h.SetSeed(q.seed)
	dec := jsontext.NewDecoder(bytes.NewReader(body), jsontext.AllowDuplicateNames(true), jsontext.AllowInvalidUTF8(true))
	root := plain
	if f := forms[t]; f != nil {
		root = f.root
	}
	if err := quick(&h, dec, root); err != nil {
		return 0, Moments{}, fmt.Errorf("%w: %w", ErrBody, err)
	}
	return h.Sum64(), h.moments, nil
}

// quickHash is a hash, and what was passed over on the way.
type quickHash struct {
	maphash.Hash
	moments Moments
}

func quick(h *quickHash, dec *jsontext.Decoder, r *rule) error {
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
			if sub != nil && sub.moment != 0 {
				v, err := dec.ReadValue()
				if err != nil {
					return err
				}
				h.moments.take(sub.moment, v)
				continue
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
