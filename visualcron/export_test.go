package visualcron

import (
	"slices"
	"strings"

	"github.com/vcsync/vcsync/schemas"
)

// Form is the table's entry of a type, opened for its tests.
type Form struct {
	ID, Name, Group, Active, Columns, Children, Addresses string
	Paths                                                 [][]string // of all that is named, but what only the server writes
	Volatile, Secret, Value, Refs                         []string
	BuiltIn                                               []string
	Evidence                                              string
}

// FormOf reads the table.
func FormOf(t schemas.Type) (Form, bool) {
	f := forms[t]
	if f == nil {
		return Form{}, false
	}
	out := Form{ID: dotted(f.id), Name: f.fixed, Group: dotted(f.group), Active: dotted(f.active), Evidence: f.evidence, BuiltIn: f.builtin}
	var names []string
	for _, p := range f.name {
		names = append(names, dotted(p))
		out.Paths = append(out.Paths, p)
	}
	if names != nil {
		out.Name = strings.Join(names, ", ")
	}
	for _, p := range [][]string{f.id, f.group, f.active, f.runsOnce, f.removesItself, f.login} {
		if p != nil {
			out.Paths = append(out.Paths, p)
		}
	}
	var titles []string
	for _, c := range f.columns {
		titles = append(titles, c.Title)
		out.Paths = append(out.Paths, c.path)
	}
	out.Columns = strings.Join(titles, ", ")
	var addresses []string
	for _, p := range f.addresses {
		addresses = append(addresses, dotted(p))
		out.Paths = append(out.Paths, p)
	}
	out.Addresses = strings.Join(addresses, ", ")
	titles = nil
	for _, c := range f.children {
		titles = append(titles, c.Title)
		out.Paths = append(out.Paths, c.path)
	}
	out.Children = strings.Join(titles, ", ")
	seen := map[*rule]bool{}
	var walk func(r *rule, at string)
	walk = func(r *rule, at string) {
		if seen[r] {
			return
		}
		seen[r] = true
		for name, x := range r.fields {
			place := strings.TrimPrefix(at+"."+name, ".")
			switch {
			case x.volatile:
				out.Volatile = append(out.Volatile, place)
			case x.value:
				out.Value = append(out.Value, place)
			}
			if x.secret {
				out.Secret = append(out.Secret, place)
			}
			if x.ref != "" {
				out.Refs = append(out.Refs, place+" → "+string(x.ref))
			} else if x.any != nil && x.any.ref != "" {
				out.Refs = append(out.Refs, place+"[] → "+string(x.any.ref))
			}
			if !x.volatile && x.ref == "" {
				walk(x, place)
			}
		}
		switch {
		case r.any == volatileRule:
			out.Volatile = append(out.Volatile, at+".* but what is named")
		case r.any != nil:
			walk(r.any, at+"[]")
		}
		if r.own != nil {
			out.Volatile = append(out.Volatile, "at any depth: the licence, ServerId, and whatever has Port, Folder, Directory, Dir, Path, File, Location, Guid, Serial, Activation or Machine as a word of its name")
		}
	}
	walk(f.root, "")
	out.Volatile = slices.DeleteFunc(out.Volatile, func(s string) bool {
		return slices.ContainsFunc(audited, func(a string) bool { return s == a || strings.HasSuffix(s, "."+a) })
	})
	for _, l := range []*[]string{&out.Volatile, &out.Secret, &out.Value, &out.Refs} {
		slices.Sort(*l)
	}
	return out, true
}

func dotted(p []string) string { return strings.Join(p, ".") }

// RefNames returns the members that refer wherever they stand.
func RefNames() map[string]schemas.Type { return refName }

// At returns the member of a body under a path, false where there is none.
func At(body []byte, path []string) bool {
	n, err := parse(body)
	if err != nil {
		return false
	}
	for i, name := range path {
		j := slices.IndexFunc(n.members, func(m member) bool { return m.name == name })
		if j < 0 {
			return false
		}
		if n = n.members[j].value; i < len(path)-1 && n.kind != '{' {
			return false
		}
	}
	return true
}
