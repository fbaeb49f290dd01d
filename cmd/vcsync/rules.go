package main

import (
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
}

// parseRules reads the --rule flags of one command. A type's own rule and rules of
// its objects in one command contradict each other, as does the same rule twice.
func parseRules(flags []string) ([]ruleChange, error) {
	var out []ruleChange
	for _, f := range flags {
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
			case o.id == "" || c.id == "":
				return nil, usageError("--rule: %s has a rule for the whole type and one for an object; give one kind in one command", c.typ)
			}
		}
		out = append(out, c)
	}
	return out, nil
}

// parseRule reads Type=none, Type=all:rights or Type/ID=rights. An id may hold any
// character, so the last "=" counts.
func parseRule(f string) (ruleChange, error) {
	i := strings.LastIndexByte(f, '=')
	if i < 0 {
		return ruleChange{}, usageError("--rule %q: want Type=none, Type=all:new,updated,deleted or Type/ID=rights", f)
	}
	left, right := f[:i], f[i+1:]
	name, object, ofObject := strings.Cut(left, "/")
	t, err := schemas.ParseType(name)
	if err != nil {
		return ruleChange{}, usageError("--rule %q: %w", f, err)
	}
	c := ruleChange{typ: t}
	if ofObject {
		if c.id, err = schemas.ParseID(object); err != nil {
			return c, usageError("--rule %q: %w", f, err)
		}
		if c.rights, err = schemas.ParseRights(right); err != nil {
			return c, usageError("--rule %q: %w", f, err)
		}
		return c, nil
	}
	mode, rights, _ := strings.Cut(right, ":")
	switch {
	case right == string(schemas.SyncNone):
		c.sync = schemas.SyncNone
	case mode == string(schemas.SyncAll):
		c.sync = schemas.SyncAll
		if c.rights, err = schemas.ParseRights(rights); err != nil || !c.rights.Use() {
			return c, usageError("--rule %q: say which rights: %s=all:new,updated,deleted, or some of the three", f, t)
		}
	default:
		return c, usageError("--rule %q: want %s=none, %s=all:new,updated,deleted or %s/ID=rights", f, t, t, t)
	}
	return c, nil
}

// applyRules changes a setting's rules.
func applyRules(rules map[string]control.RuleRecord, changes []ruleChange) error {
	for _, c := range changes {
		name := string(c.typ)
		rule := rules[name]
		switch {
		case c.id == "" && c.sync == schemas.SyncNone:
			delete(rules, name)
			continue
		case c.id == "":
			rules[name] = control.RuleRecord{Sync: string(c.sync), RightsRecord: control.RightsRecord(c.rights)}
			continue
		case rule.Sync != string(schemas.SyncListed) && !c.rights.Use():
			return usageError("--rule %s/%s=none: %s is not listed object by object, so there is no row to take out; list what is to be synced instead", name, c.id, name)
		case rule.Sync != string(schemas.SyncListed):
			rule = control.RuleRecord{Sync: string(schemas.SyncListed)}
		}
		i := slices.IndexFunc(rule.Objects, func(o control.ObjectRuleRecord) bool { return o.ID == string(c.id) })
		switch {
		case !c.rights.Use() && i < 0:
			return usageError("--rule %s/%s=none: it is not listed", name, c.id)
		case !c.rights.Use():
			rule.Objects = slices.Delete(slices.Clone(rule.Objects), i, i+1)
		case i < 0:
			rule.Objects = append(rule.Objects, control.ObjectRuleRecord{ID: string(c.id), RightsRecord: control.RightsRecord(c.rights)})
		default:
			rule.Objects[i].RightsRecord = control.RightsRecord(c.rights)
		}
		if len(rule.Objects) == 0 {
			delete(rules, name)
			continue
		}
		rules[name] = rule
	}
	return nil
}
