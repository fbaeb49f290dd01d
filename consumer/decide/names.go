package decide

import (
	"slices"
	"strings"

	"github.com/vcsync/vcsync/schemas"
)

// Named is an object with what people call it.
type Named struct {
	ID   schemas.ID
	Name string
}

// Namesake is an object of the source whose name another object of the target has.
type Namesake struct {
	Source Named
	// Target are the target's objects of that name, by id.
	Target []schemas.ID
}

// Namesakes finds the objects of one type that have a name at the source which an object
// of another id has at the target. They are two objects and stay two: ids tell objects
// apart, names never do, and what people do about it is up to them. Case and blanks
// around a name do not count. Of a type whose name is its id, as of variables, there are
// none by themselves. Target are those that came from no source: that a source has a name
// twice itself is no surprise.
func Namesakes(source, target []Named) []Namesake {
	key := func(n Named) string { return strings.ToLower(strings.TrimSpace(n.Name)) }
	there := map[string][]schemas.ID{}
	for _, n := range target {
		if key(n) != "" {
			there[key(n)] = append(there[key(n)], n.ID)
		}
	}
	var out []Namesake
	for _, n := range source {
		ids := slices.DeleteFunc(slices.Clone(there[key(n)]), func(id schemas.ID) bool { return id == n.ID })
		if len(ids) > 0 {
			slices.Sort(ids)
			out = append(out, Namesake{n, ids})
		}
	}
	slices.SortFunc(out, func(a, b Namesake) int { return strings.Compare(string(a.Source.ID), string(b.Source.ID)) })
	return out
}
