package visualcron

import (
	"cmp"
	"slices"
	"strings"

	"github.com/vcsync/vcsync/schemas"
)

// Named is an object with what people call it.
type Named struct {
	ID          schemas.ID
	Name, Group string
}

// Pair is an object of a source and the one of a target that is meant to be the same.
type Pair struct{ Source, Target Named }

// Ambiguous is a name that objects of both sides have, and which of them belong together
// only a person can tell.
type Ambiguous struct {
	Name           string
	Source, Target []Named
}

// MatchNames pairs objects of one type by name, in any case and without blanks around it.
// Only who has no partner by its id, nor by one of the pins from source to target, takes
// part, and only a name that one object of each side has makes a pair: as soon as more
// have it, a person has to choose. Both results are sorted by name.
func MatchNames(source, target []Named, pins map[schemas.ID]schemas.ID) (pairs []Pair, ambiguous []Ambiguous) {
	taken, at := map[schemas.ID]bool{}, map[schemas.ID]bool{}
	for _, to := range pins {
		taken[to] = true
	}
	for _, o := range target {
		at[o.ID] = true
	}
	done := map[schemas.ID]bool{} // of the source, with a partner
	for _, o := range source {
		if _, pinned := pins[o.ID]; pinned {
			done[o.ID] = true
		} else if at[o.ID] && !taken[o.ID] {
			done[o.ID], taken[o.ID] = true, true
		}
	}
	type sides struct{ source, target []Named }
	by := map[string]*sides{}
	side := func(o Named) *sides {
		key := strings.ToLower(strings.TrimSpace(o.Name))
		if by[key] == nil {
			by[key] = &sides{}
		}
		return by[key]
	}
	for _, o := range source {
		s := side(o)
		s.source = append(s.source, o)
	}
	for _, o := range target {
		s := side(o)
		s.target = append(s.target, o)
	}
	for key, s := range by {
		open := slices.ContainsFunc(s.source, func(o Named) bool { return !done[o.ID] }) && slices.ContainsFunc(s.target, func(o Named) bool { return !taken[o.ID] })
		switch {
		case key == "" || !open:
		case len(s.source) == 1 && len(s.target) == 1:
			pairs = append(pairs, Pair{s.source[0], s.target[0]})
		default:
			ambiguous = append(ambiguous, Ambiguous{s.source[0].Name, s.source, s.target})
		}
	}
	slices.SortFunc(pairs, func(a, b Pair) int {
		return cmp.Or(cmp.Compare(a.Source.Name, b.Source.Name), cmp.Compare(a.Source.ID, b.Source.ID))
	})
	slices.SortFunc(ambiguous, func(a, b Ambiguous) int { return cmp.Compare(strings.ToLower(a.Name), strings.ToLower(b.Name)) })
	return pairs, ambiguous
}
