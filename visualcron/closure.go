package visualcron

import (
	"cmp"
	"slices"

	"github.com/vcsync/vcsync/schemas"
)

// Object names an object by its type and id.
type Object struct {
	Type schemas.Type
	ID   schemas.ID
}

// Closed is what objects need to work: see Closure.
type Closed struct {
	// With are the objects that the roots refer to, directly or through others, without
	// the roots themselves, in the order in which they are applied.
	With []Object
	// Missing are referred to and not there: the references dangle at the source too.
	Missing []Reference
}

// Closure returns what the roots refer to, directly or through others. Body returns the
// body of an object, nil where there is none; job returns the job that has a task, false
// where none is known; nil where nobody knows. The error is that of body: what a body that
// cannot be read refers to is not known, and its own look says so. Built-in objects are there on every server and never taken along.
func Closure(roots []Object, body func(Object) ([]byte, error), job func(task schemas.ID) (schemas.ID, bool)) (Closed, error) {
	var out Closed
	seen, missing := map[Object]bool{}, map[Reference]bool{}
	isRoot := map[Object]bool{}
	for _, r := range roots {
		seen[r], isRoot[r] = true, true
	}
	miss := func(r Reference) {
		if !missing[r] {
			missing[r] = true
			out.Missing = append(out.Missing, r)
		}
	}
	for todo := slices.Clone(roots); len(todo) > 0; todo = todo[1:] {
		o := todo[0]
		b, err := body(o)
		if err != nil {
			return Closed{}, err
		}
		if b == nil {
			miss(Reference{Type: o.Type, ID: o.ID})
			continue
		}
		if n, err := (View{Secrets: SecretsMasked}).Normalize(o.Type, b); err == nil && n.BuiltIn {
			continue
		}
		if !isRoot[o] {
			out.With = append(out.With, o)
		}
		refs, err := References(o.Type, b)
		if err != nil {
			continue
		}
		for _, r := range refs {
			next := Object{r.Type, r.ID}
			if r.Task {
				id, ok := schemas.ID(""), false
				if job != nil {
					id, ok = job(r.ID)
				}
				if !ok {
					miss(r)
					continue
				}
				next = Object{schemas.Job, id}
			}
			if !seen[next] {
				seen[next] = true
				todo = append(todo, next)
			}
		}
	}
	order := schemas.ApplyOrder()
	slices.SortStableFunc(out.With, func(a, b Object) int {
		return cmp.Or(cmp.Compare(slices.Index(order, a.Type), slices.Index(order, b.Type)), cmp.Compare(a.ID, b.ID))
	})
	return out, nil
}
