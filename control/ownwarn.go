package control

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/vcsync/vcsync/broker"
	"github.com/vcsync/vcsync/schemas"
)

// ownSamples is how many objects of a type are looked at for a member that a kept field
// or an override names.
const ownSamples = 20

// kinds are those that the values of a member have.
type kinds map[string]bool

// kindOf says what a JSON value is, for people.
func kindOf(v jsontext.Value) string {
	switch v.Kind() {
	case '"':
		return "a text"
	case '0':
		return "a number"
	case 't', 'f':
		return "a switch"
	case '[':
		return "a list"
	case '{':
		return "an object"
	}
	return "nothing"
}

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
	members := map[schemas.Type]map[string]kinds{} // nil where nothing of the type is captured
	of := func(t schemas.Type) map[string]kinds {
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
		found := map[string]kinds{}
		for _, k := range keys {
			ev, _, err := s.broker.NewestOf(ctx, k)
			var body map[string]jsontext.Value
			if err == nil {
				err = json.Unmarshal(ev.Object.Body, &body)
			}
			if err != nil {
				return nil
			}
			for name, value := range body {
				if found[name] == nil {
					found[name] = kinds{}
				}
				found[name][kindOf(value)] = true
			}
		}
		if len(keys) > 0 {
			members[t] = found
		}
		return members[t]
	}
	warn := func(what string, t schemas.Type, member string) {
		if m := of(t); m != nil && m[member] == nil {
			out = append(out, fmt.Sprintf("%s names %.64q, which none of the objects of type %s has that were looked at: see how it is spelt", what, member, t))
		}
	}
	for _, k := range v.Kept {
		first, rest, _ := strings.Cut(strings.TrimPrefix(k.Pointer, "/"), "/")
		first = strings.NewReplacer("~1", "/", "~0", "~").Replace(first)
		warn("kept field "+k.Pointer, k.Type, first)
		item, _, _ := strings.Cut(rest, "/")
		if _, err := strconv.Atoi(item); err == nil && of(k.Type)[first]["a list"] {
			out = append(out, fmt.Sprintf("kept field %s names item %s of a list, which goes by the item's own Id or key and not by its place; * is every item", k.Pointer, item))
		}
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
			have, is := of(o.Type)[name], kindOf(patch[name])
			delete(have, "nothing")
			if is != "nothing" && len(have) > 0 && !have[is] {
				out = append(out, fmt.Sprintf("an override makes /%s %s, and it is %s in the objects of type %s that were looked at", name, is, strings.Join(slices.Sorted(maps.Keys(have)), " or "), o.Type))
			}
			if slices.ContainsFunc(v.Kept, func(k schemas.KeptField) bool {
				return k.Type == o.Type && k.Pointer == "/"+name && (k.ID == "" || k.ID == o.ID)
			}) {
				out = append(out, fmt.Sprintf("%s /%s is kept and overridden: the override counts for objects that are new at the target only", o.Type, name))
			}
		}
	}
	return out
}
