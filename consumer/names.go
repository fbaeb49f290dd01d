package consumer

import (
	"fmt"
	"slices"
	"strings"

	"github.com/vcsync/vcsync/broker"
	"github.com/vcsync/vcsync/consumer/decide"
	"github.com/vcsync/vcsync/schemas"
)

// namesakesMost is how many names of a type that both servers have for different objects
// are told.
const namesakesMost = 20

// warnOfNamesakes tells of objects of a source whose name an object has that only the
// target knows: they are two objects, and are never taken for one.
func (y *survey) warnOfNamesakes(t schemas.Type, source []decide.Named) {
	var target []decide.Named
	for _, e := range y.entries {
		if e.Type == t && e.Difference == broker.OnlyTarget {
			target = append(target, decide.Named{ID: e.ID, Name: e.Name})
		}
	}
	all := decide.Namesakes(source, target)
	for _, n := range all[:min(len(all), namesakesMost)] {
		y.warnings = append(y.warnings, fmt.Sprintf("%s %q is two objects: %s has %s of that name, and %s brings %s; they are not merged. Rename or delete one of the two, or match them: vcsync setting match %s",
			t, n.Source.Name, y.server.ID, strings.Join(words(n.Target), ", "), y.set.Source, n.Source.ID, y.set.ID))
	}
	if more := len(all) - namesakesMost; more > 0 {
		y.warnings = append(y.warnings, fmt.Sprintf("%d more objects of type %s have the name of another one at %s", more, t, y.server.ID))
	}
}

func words(ids []schemas.ID) (out []string) {
	for _, id := range slices.Sorted(slices.Values(ids)) {
		out = append(out, string(id))
	}
	return out
}
