package visualcron

import (
	"strings"

	"github.com/vcsync/vcsync/schemas"
)

// rule says what the members at one place of a body mean. The zero rule is
// configuration like any other: unknown fields count, in the digest and on their
// way.
type rule struct {
	// volatile: no configuration. Out of the digest; the target's own is kept.
	volatile bool
	// secret: enters the digest by a keyed digest, and the stream sealed.
	secret bool
	// secretsBelow: members with the name of a secret are secret at any depth.
	secretsBelow bool
	// enum: text that is compared without case.
	enum bool
	// sortBy orders the items of a list by these members, where the order on the
	// server means nothing or is itself a member. Items are matched by the last.
	sortBy []string
	// fields holds the rules of named members, any the rule of all others, or of
	// the items of a list.
	fields map[string]*rule
	any    *rule
}

var (
	plain      = &rule{}
	deepPlain  = &rule{secretsBelow: true}
	deepSecret = &rule{secret: true}
)

// field returns the rule of a member.
func (r *rule) field(name string) *rule {
	f := r.fields[name]
	if f == nil {
		f = r.any
	}
	if f == nil {
		f = plain
	}
	if !r.secretsBelow || f.volatile || f.secret {
		return f
	}
	return f.below(isSecretName(name))
}

// below returns f as it stands under a rule with secretsBelow.
func (f *rule) below(secret bool) *rule {
	switch {
	case secret:
		return deepSecret
	case f == plain:
		return deepPlain
	}
	c := *f
	c.secretsBelow = true
	return &c
}

// item returns the rule of a list's items.
func (r *rule) item() *rule {
	f := r.any
	if f == nil {
		f = plain
	}
	if !r.secretsBelow || f.secretsBelow {
		return f
	}
	return f.below(false)
}

// isSecretName tells whether a member of a task or a trigger holds a secret, by
// its name. EncryptedCommand is seen in public client code; the others are assumed.
func isSecretName(name string) bool {
	n := strings.ToLower(name)
	if strings.HasPrefix(n, "encrypted") {
		return true
	}
	for _, s := range []string{"password", "passphrase", "privatekey", "secret", "apikey", "accesskey", "accesstoken", "refreshtoken"} {
		if strings.HasSuffix(n, s) {
			return true
		}
	}
	return false
}

// volatile returns a field table of volatile members and the given others.
func volatile(names []string, others map[string]*rule) map[string]*rule {
	m := map[string]*rule{}
	for _, n := range names {
		m[n] = &rule{volatile: true}
	}
	for n, r := range others {
		m[n] = r
	}
	return m
}

// stats is run statistics: all volatile but the Active flag, which lies among them.
// Source: field lists in public client code.
func stats() *rule {
	return &rule{any: &rule{volatile: true}, fields: map[string]*rule{"Active": plain}}
}

// form is what vcsync knows of a type.
type form struct {
	root *rule
	// name and group lead to the display columns; who to the last editor.
	name, group, who []string
	// active leads to the flag that the active policy governs; nil where there is
	// none.
	active []string
}

// forms is the one table of types that are synced. What is volatile in a Job comes
// from the field lists of public client code; the run members of a trigger are
// assumed (its GUI shows them, no client names them).
var forms = map[schemas.Type]*form{
	schemas.Job: {
		name: []string{"Name"}, group: []string{"Group"}, who: []string{"ModifiedBy"},
		active: []string{"Stats", "Active"},
		root: &rule{fields: volatile(
			[]string{"Missed", "MissedDate", "ResultOutput", "UniqueRunId", "ResetTriggers", "ResetTriggerDepedency", "Test",
				"CreatedBy", "ModifiedBy", "DateCreated", "DateModified"},
			map[string]*rule{
				"Stats":     stats(),
				"Variables": {sortBy: []string{"Key"}, any: &rule{fields: map[string]*rule{"ValueObject": {secret: true}}}},
				"Tasks": {sortBy: []string{"Order", "Id"}, any: &rule{secretsBelow: true, fields: volatile(
					[]string{"Result", "CreatedBy", "ModifiedBy", "DateCreated", "DateModified"},
					map[string]*rule{"Stats": stats(), "TaskType": {enum: true}})}},
				"Triggers": {sortBy: []string{"Id"}, any: &rule{secretsBelow: true, fields: volatile(
					[]string{"Stats", "DateLastExecution", "DateNextExecution", "DateLastExited", "NoExecutes", "LastRun", "NextRun", "LastResult",
						"CreatedBy", "ModifiedBy", "DateCreated", "DateModified"},
					map[string]*rule{"TriggerType": {enum: true}})}},
			})},
	},
}

// Supported tells whether this version can sync objects of type t: it knows what
// of them is configuration.
func Supported(t schemas.Type) bool { return forms[t] != nil }

// builtins are the objects that every server has from its installation, by name:
// whether their ids are the same everywhere is not known. Source: VisualCron docs.
var builtins = map[schemas.Type][]string{
	schemas.Job: {"Backup settings", "Delete old log files"},
}

// builtinGroup is the group in which VisualCron puts its own jobs.
const builtinGroup = "Default group"

// IsBuiltIn tells whether an object came with the server's installation. Built-in
// objects are never captured and never written.
func IsBuiltIn(t schemas.Type, name, group string) bool {
	for _, b := range builtins[t] {
		if name == b && (t != schemas.Job || group == builtinGroup) {
			return true
		}
	}
	return false
}
