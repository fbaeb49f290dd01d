package producer

import (
	"slices"
	"testing"

	"github.com/vcsync/vcsync/broker"
	"github.com/vcsync/vcsync/schemas"
)

func TestNextVersion(t *testing.T) {
	s := &source{epoch: 3}
	for _, c := range []struct {
		what string
		last *known
		want schemas.Version
	}{
		{"a new object begins at 1", nil, schemas.Version{Epoch: 3, Revision: 1}},
		{"a revision is never used twice", &known{version: schemas.Version{Epoch: 3, Revision: 7}}, schemas.Version{Epoch: 3, Revision: 8}},
		{"nor under a new epoch", &known{version: schemas.Version{Epoch: 2, Revision: 7}}, schemas.Version{Epoch: 3, Revision: 8}},
		{"a newer epoch of somebody else is not undercut", &known{version: schemas.Version{Epoch: 4, Revision: 7}}, schemas.Version{Epoch: 4, Revision: 8}},
	} {
		t.Run(c.what, func(t *testing.T) {
			if got := s.next(c.last); got != c.want || c.last != nil && got.Compare(c.last.version) <= 0 {
				t.Errorf("%s, want %s", got, c.want)
			}
		})
	}
}

func TestEcho(t *testing.T) {
	const written, edited = schemas.Digest("written"), schemas.Digest("edited")
	entry := func(state broker.LedgerState, at schemas.Digest, revision uint64) broker.Entry {
		e := broker.Entry{Type: schemas.Job, ID: "a", Source: "production", State: state, AtTarget: at, Path: []schemas.Slug{"production"}}
		if revision > 0 {
			e.Version = schemas.Version{Epoch: 1, Revision: revision}
		}
		return e
	}
	for _, c := range []struct {
		what         string
		at           broker.Entry
		spent        bool
		digest, last schemas.Digest
		echo         bool
	}{
		{"what vcsync wrote", entry(broker.Applied, written, 1), false, written, "", true},
		{"what vcsync is about to write", entry(broker.Intent, written, 0), false, written, "", true},
		{"what it found equal", entry(broker.Adopted, written, 1), false, written, "", true},
		{"what it found and not equal", entry(broker.Adopted, written, 0), false, written, "", false},
		{"an edit made here", entry(broker.Applied, written, 1), false, edited, written, false},
		{"an edit that was undone", entry(broker.Applied, written, 1), true, written, edited, false},
		{"a deletion that vcsync made", entry(broker.Removed, "", 2), false, "", written, true},
		{"a deletion made here", entry(broker.Applied, written, 1), true, "", written, false},
	} {
		t.Run(c.what, func(t *testing.T) {
			e := echo{at: map[objectKey]broker.Entry{{schemas.Job, "a"}: c.at}, spent: map[objectKey]broker.Entry{}}
			if c.spent {
				e.spend(schemas.Job, "a")
			}
			if got := e.path(schemas.Job, "a", c.digest, c.last); slices.Equal(got, c.at.Path) != c.echo {
				t.Errorf("path %v", got)
			}
		})
	}
	e := echo{}
	if got := e.path(schemas.Job, "a", written, ""); got != nil {
		t.Errorf("an object that vcsync never wrote here: %v", got)
	}
}
