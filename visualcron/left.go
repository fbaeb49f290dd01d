package visualcron

import (
	"slices"

	"github.com/vcsync/vcsync/schemas"
)

// Left is the digest of a normal form as the one who wrote it remembers it, to tell
// later whether somebody else edited the object. Without follows the Active flag is the
// server's own and does not count; nor does it ever of a job that deactivates or
// deletes itself.
func (n Normal) Left(t schemas.Type, follows bool) schemas.Digest {
	f := forms[t]
	if f == nil || f.active == nil || follows && !n.RunsOnce && !n.RemovesItself {
		return n.Digest
	}
	tree := n.tree.without(f.active)
	if tree == nil {
		tree = &node{kind: '{'}
	}
	return schemas.DigestOf(append([]byte(string(t)+"\n"), tree.append(nil)...))
}

// without returns n without the member that path leads to, and without what holds
// nothing else. It shares all else with n.
func (n *node) without(path []string) *node {
	if n == nil || n.kind != '{' {
		return n
	}
	out := *n
	out.members = slices.Clone(n.members)
	for i, m := range out.members {
		if m.name != path[0] {
			continue
		}
		var rest *node
		if len(path) > 1 {
			rest = m.value.without(path[1:])
		}
		if rest == nil {
			out.members = slices.Delete(out.members, i, i+1)
		} else {
			out.members[i].value = rest
		}
		break
	}
	if len(out.members) == 0 {
		return nil
	}
	return &out
}
