package main

import (
	"cmp"
	"slices"
	"strings"

	"github.com/vcsync/vcsync/control"
	"github.com/vcsync/vcsync/schemas"
)

// ruleChange is one --rule: of a whole type, or of one object where id is set.
type ruleChange struct {
	typ    schemas.Type
	id     schemas.ID
	sync   schemas.SyncMode
	rights schemas.Rights
	// groups and names narrow a rule of all.
	groups, names []string
}

// everyType stands in a rule for all types.
const everyType = "*"

// parseRules reads the --rule flags of one command, the rules of types before those
// of objects, whose exceptions or list they begin. What is said of one type counts
// for it, whatever is said of every type. The same rule twice is refused.
func parseRules(flags []string) ([]ruleChange, error) {
	var out []ruleChange
	var every *ruleChange
	for _, f := range flags {
		if left, right, _ := strings.Cut(f, "="); left == everyType {
			if every != nil {
				return nil, usageError("--rule: every type has two rules")
			}
			c, err := parseTypeRule(f, everyType, right)
			if err != nil {
				return nil, err
			}
			every = &c
			continue
		}
		c, err := parseRule(f)
		if err != nil {
			return nil, err
		}
		for _, o := range out {
			switch {
			case o.typ != c.typ:
			case o.id == c.id && c.id == "":
				return nil, usageError("--rule: %s has two rules", c.typ)
			case o.id == c.id:
				return nil, usageError("--rule: %s/%s has two rules", c.typ, c.id)
			}
		}
		out = append(out, c)
	}
	if every != nil {
		for _, t := range schemas.Types() {
			if t == schemas.ServerSettings && every.sync != schemas.SyncNone {
				continue // off unless asked for by its name
			}
			if !slices.ContainsFunc(out, func(o ruleChange) bool { return o.typ == t && o.id == "" }) {
				c := *every
				c.typ = t
				out = append(out, c)
			}
		}
	}
	slices.SortStableFunc(out, func(a, b ruleChange) int {
		return cmp.Compare(min(len(a.id), 1), min(len(b.id), 1))
	})
	return out, nil
}

// parseRule reads Type=none, Type=all:rights and what narrows it, or Type/ID=rights. An
// id may hold any character, so behind Type/ the last "=" counts.
func parseRule(f string) (ruleChange, error) {
	i := strings.IndexAny(f, "=/")
	if i >= 0 && f[i] == '/' {
		i = strings.LastIndexByte(f, '=')
	}
	if i < 0 {
		return ruleChange{}, usageError("--rule %q: want Type=none, Type=all:new,updated,deleted or Type/ID=rights", f)
	}
	left, right := f[:i], f[i+1:]
	name, object, ofObject := strings.Cut(left, "/")
	if name == everyType {
		return ruleChange{}, usageError("--rule %q: name the object's type; * is for rules of types", f)
	}
	t, err := schemas.ParseType(name)
	if err != nil {
		return ruleChange{}, usageError("--rule %q: %w", f, err)
	}
	c := ruleChange{typ: t}
	if ofObject {
		if c.id, err = schemas.ParseID(object); err != nil {
			return c, usageError("--rule %q: %w", f, err)
		}
		if strings.EqualFold(strings.Trim(object, "<>"), "id") { // copied from a help text
			return c, usageError("--rule %q: put the %s's id in place of %s; vcsync events shows ids", f, t, object)
		}
		if c.rights, err = schemas.ParseRights(right); err != nil {
			return c, usageError("--rule %q: %w", f, err)
		}
		return c, nil
	}
	c, err = parseTypeRule(f, name, right)
	c.typ = t
	return c, err
}

// parseTypeRule reads what stands behind Type= or *=, none or all:rights, perhaps with
// :group=G and :name=PATTERN. A group may hold any text but these two words.
func parseTypeRule(f, name, right string) (c ruleChange, err error) {
	const group, pattern = ":group=", ":name="
	for {
		at := max(strings.LastIndex(right, group), strings.LastIndex(right, pattern))
		if at < 0 {
			break
		}
		if text, ok := strings.CutPrefix(right[at:], group); ok {
			c.groups = slices.Insert(c.groups, 0, text)
		} else {
			c.names = slices.Insert(c.names, 0, right[at+len(pattern):])
		}
		right = right[:at]
	}
	mode, rights, _ := strings.Cut(right, ":")
	switch {
	case right == string(schemas.SyncNone) && c.groups == nil && c.names == nil:
		c.sync = schemas.SyncNone
	case mode == string(schemas.SyncAll):
		c.sync = schemas.SyncAll
		if c.rights, err = schemas.ParseRights(rights); err != nil || !c.rights.Use() {
			return c, usageError("--rule %q: say which rights: %s=all:new,updated,deleted, or some of the three", f, name)
		}
	case name == everyType:
		return c, usageError("--rule %q: want *=none or *=all:new,updated,deleted", f)
	default:
		return c, usageError("--rule %q: want %s=none, %s=all:new,updated,deleted or %s/ID=rights", f, name, name, name)
	}
	return c, nil
}

// applyRules changes a setting's rules. Where all objects of a type are taken, a rule
// of one object is an exception; otherwise it is a row of the list.
func applyRules(rules map[string]control.RuleRecord, changes []ruleChange) error {
	for _, c := range changes {
		name := string(c.typ)
		rule := rules[name]
		switch {
		case c.id == "" && c.sync == schemas.SyncNone:
			delete(rules, name)
			continue
		case c.id == "":
			rules[name] = control.RuleRecord{Sync: string(c.sync), RightsRecord: control.RightsRecord(c.rights), Groups: c.groups, Names: c.names}
			continue
		case rule.Sync == "" || rule.Sync == string(schemas.SyncNone):
			if !c.rights.Use() {
				return usageError("--rule %s/%s=none: nothing of %s is taken, so there is no row to take out", name, c.id, name)
			}
			rule = control.RuleRecord{Sync: string(schemas.SyncListed)}
		}
		i := slices.IndexFunc(rule.Objects, func(o control.ObjectRuleRecord) bool { return o.ID == string(c.id) })
		listed := rule.Sync == string(schemas.SyncListed)
		rule.Objects = slices.Clone(rule.Objects)
		switch {
		case listed && !c.rights.Use() && i < 0:
			return usageError("--rule %s/%s=none: it is not listed", name, c.id)
		case listed && !c.rights.Use():
			rule.Objects = slices.Delete(rule.Objects, i, i+1)
		case !listed && i >= 0 && control.RightsRecord(c.rights) == rule.RightsRecord:
			rule.Objects = slices.Delete(rule.Objects, i, i+1) // no exception any more
		case i < 0:
			rule.Objects = append(rule.Objects, control.ObjectRuleRecord{ID: string(c.id), RightsRecord: control.RightsRecord(c.rights)})
		default:
			rule.Objects[i].RightsRecord = control.RightsRecord(c.rights)
		}
		if listed && len(rule.Objects) == 0 {
			delete(rules, name)
			continue
		}
		rules[name] = rule
	}
	return nil
}
