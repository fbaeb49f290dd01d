package decide

import (
	"slices"

	"github.com/vcsync/vcsync/schemas"
)

// Candidate is the newest state of an object at one of the sources from which the
// settings take it.
type Candidate struct {
	Source  schemas.Slug
	Deleted bool
	Digest  schemas.Digest
}

// Choose says which candidate the object has to follow at a target: that of the
// source that owns it there, or of one that has it. Owner is the source on record,
// empty where vcsync has brought none or removed it, and recorded the digest on record.
// A source that deleted the object hands it over to one that still has the same.
// Rival is one that has another content, -1 for none: that is a Conflict, never a race.
// There must be at least one candidate.
func Choose(all []Candidate, owner schemas.Slug, recorded schemas.Digest) (best, rival int) {
	if i := slices.IndexFunc(all, func(c Candidate) bool { return owner != "" && c.Source == owner }); i >= 0 {
		best = i
	} else if i := slices.IndexFunc(all, func(c Candidate) bool { return !c.Deleted }); i >= 0 {
		best = i
	}
	for i, c := range all {
		if all[best].Deleted && !c.Deleted && c.Digest == recorded {
			best = i
		}
	}
	rival = slices.IndexFunc(all, func(c Candidate) bool {
		return c.Source != all[best].Source && !c.Deleted && c.Digest != all[best].Digest
	})
	return best, rival
}
