package control

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/vcsync/vcsync/broker"
	"github.com/vcsync/vcsync/schemas"
)

// ownSamples is how many objects of a type are looked at for a member that a kept field
// or an override names.
const ownSamples = 20

// ownWarnings says which kept fields and overrides name a member that no captured object
// has, which is most often a slip of the pen: then the target's own would be overwritten.
// A member may also be absent where it is empty, so it is no fault. What cannot be read
// in time is not warned of.
func (s *Server) ownWarnings(ctx context.Context, v schemas.Setting) (out []string) {
	if len(v.Kept)+len(v.Overrides) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, namesTime)
	defer cancel()
	members := map[schemas.Type]map[string]bool{} // nil where nothing of the type is captured
	of := func(t schemas.Type) map[string]bool {
		if m, ok := members[t]; ok {
			return m
		}
		members[t] = nil
		var keys []schemas.Key
		err := s.broker.ScanState(ctx, []string{schemas.TypeStateFilter(v.Source, t)}, func(n broker.Newest) {
			if n.Kind != schemas.Deleted && len(keys) < ownSamples {
				keys = append(keys, n.Key)
			}
		}, func(broker.Unreadable) {})
		if err != nil {
			return nil
		}
		found := map[string]bool{}
		for _, k := range keys {
			ev, _, err := s.broker.NewestOf(ctx, k)
			var body map[string]jsontext.Value
			if err == nil {
				err = json.Unmarshal(ev.Object.Body, &body)
			}
			if err != nil {
				return nil
			}
			for name := range body {
				found[name] = true
			}
		}
		if len(keys) > 0 {
			members[t] = found
		}
		return members[t]
	}
	warn := func(what string, t schemas.Type, member string) {
		if m := of(t); m != nil && !m[member] {
			out = append(out, fmt.Sprintf("%s names %.64q, which none of the objects of type %s has that were looked at: see how it is spelt", what, member, t))
		}
	}
	for _, k := range v.Kept {
		first, _, _ := strings.Cut(strings.TrimPrefix(k.Pointer, "/"), "/")
		warn("kept field "+k.Pointer, k.Type, strings.NewReplacer("~1", "/", "~0", "~").Replace(first))
	}
	for _, o := range v.Overrides {
		var patch map[string]jsontext.Value
		if json.Unmarshal(o.Patch, &patch) != nil {
			continue
		}
		var names []string
		for name := range patch {
			names = append(names, name)
		}
		slices.Sort(names)
		for _, name := range names {
			warn("an override", o.Type, name)
			if slices.ContainsFunc(v.Kept, func(k schemas.KeptField) bool {
				return k.Type == o.Type && k.Pointer == "/"+name && (k.ID == "" || k.ID == o.ID)
			}) {
				out = append(out, fmt.Sprintf("%s /%s is kept and overridden: the override counts for objects that are new at the target only", o.Type, name))
			}
		}
	}
	return out
}
