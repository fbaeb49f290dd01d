package visualcron

import (
	"slices"
	"strings"

	"github.com/vcsync/vcsync/schemas"
)

// rule says what the members at one place of a body mean. The zero rule is
// configuration like any other: unknown fields count, in the digest and on their
// way. Whatever the rules say, a member with the name of a secret is one, and a
// member with the name of a reference refers: see isSecretName and refName.
type rule struct {
	// volatile: no configuration. Out of the digest; the target's own is kept.
	volatile bool
	// secret: enters the digest by a keyed digest, and the stream sealed.
	secret bool
	// byName: secret because of its name only, which a switch may have too.
	byName bool
	// value: data of the server's running rather than its definition. It is synced
	// only where a setting asks for it.
	value bool
	// moment says which of Moments stands here.
	moment moment
	// enum: text that is compared without case.
	enum bool
	// ref: a text here is the id of an object of that type.
	ref schemas.Type
	// set: the order of the items, which are texts, means nothing.
	set bool
	// sortBy orders the items of a list by these members, where the order on the
	// server means nothing or is itself a member.
	sortBy []string
	// key is the member by which the items of a list are told apart; the last of
	// sortBy where empty, and Id where that is empty too.
	key string
	// fields holds the rules of named members, any the rule of all others, or of
	// the items of a list. own says by name which of the others are volatile.
	fields map[string]*rule
	any    *rule
	own    func(name string) bool
}

var (
	plain        = &rule{}
	volatileRule = &rule{volatile: true}
	secretRule   = &rule{secret: true, byName: true}
	// volatileSecretRule: no less to be hidden for being no configuration.
	volatileSecretRule = &rule{volatile: true, secret: true, byName: true}
	enumRule           = &rule{enum: true}
	refRules           = func() map[schemas.Type]*rule {
		m := map[schemas.Type]*rule{}
		for _, t := range schemas.Types() {
			m[t] = &rule{ref: t, any: &rule{ref: t}} // one id, or a list of them
		}
		return m
	}()
)

// field returns the rule of a member.
func (r *rule) field(name string) *rule {
	if f := r.fields[name]; f != nil {
		return f
	}
	secret := isSecretName(name)
	if r.any != nil && r.any.volatile || r.own != nil && r.own(name) {
		if secret {
			return volatileSecretRule
		}
		return volatileRule
	}
	if secret {
		return secretRule
	}
	if t, ok := refName[name]; ok {
		return refRules[t]
	}
	if r.any != nil {
		return r.any
	}
	return plain
}

// item returns the rule of a list's items.
func (r *rule) item() *rule {
	if r.any != nil {
		return r.any
	}
	return plain
}

// itemKey returns the member that tells the items of a list apart, where they have
// it.
func (r *rule) itemKey() string {
	switch {
	case r.key != "":
		return r.key
	case len(r.sortBy) > 0:
		return r.sortBy[len(r.sortBy)-1]
	}
	return "Id"
}

// hides tells whether v, which stands under the rule, is a secret. A switch or a
// number of days may have a name that ends like a secret's.
func (r *rule) hides(v *node) bool {
	return r.secret && !(r.byName && (v.kind == 't' || v.kind == 'f'))
}

// isSecretName tells whether a member holds a secret, by its name. EncryptedCommand
// and PassWord are seen in public client code; the others are assumed.
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

// refName names the members that hold ids of other objects, wherever they stand.
// ConnectionId, Credential, NetworkCredential and JobId are seen in public client
// code, Conditions and TimeExceptions are members of a job there; that the others
// are called so is assumed. A text that is no id refers to nothing.
var refName = map[string]schemas.Type{
	"ConnectionId": schemas.Connection, "Connection": schemas.Connection,
	"Credential": schemas.Credential, "CredentialId": schemas.Credential, "NetworkCredential": schemas.Credential,
	"Certificate": schemas.Certificate, "CertificateId": schemas.Certificate, "ClientCertificate": schemas.Certificate,
	"SSHKey": schemas.SSHKey, "SSHKeyId": schemas.SSHKey,
	"PGPKeyRing": schemas.PGPKeyRing, "PGPKeyRingId": schemas.PGPKeyRing,
	"Job": schemas.Job, "JobId": schemas.Job,
	"Notification": schemas.Notification, "NotificationId": schemas.Notification,
	"Conditions": schemas.Condition, "Condition": schemas.Condition, "ConditionId": schemas.Condition,
	"ExitCodeCollection": schemas.ExitCode, "ExitCodeCollectionId": schemas.ExitCode,
	"TimeExceptions": schemas.TimeException,
	"UserGroup":      schemas.UserGroup, "User": schemas.User,
	"Group": schemas.UserGroup, // of a permission override; a job's own Group is a name
}

// audited are the members that say who made an object and when: no configuration.
// Source: field lists in public client code, for jobs; assumed for other types.
var audited = []string{"CreatedBy", "ModifiedBy", "DateCreated", "DateModified"}

// members returns a field table of volatile members and the given others.
func members(names []string, others map[string]*rule) map[string]*rule {
	m := map[string]*rule{}
	for _, n := range slices.Concat(audited, names) {
		m[n] = volatileRule
	}
	for n, r := range others {
		m[n] = r
	}
	return m
}

// stats is run statistics: all volatile but the Active flag, which lies among them.
// Source: field lists in public client code.
func stats() *rule {
	return &rule{any: volatileRule, fields: map[string]*rule{"Active": plain}}
}

// jobStats is that of a job as a whole, which says when it ran and was edited.
func jobStats() *rule {
	r := stats()
	r.fields["DateLastExecution"], r.fields["DateModified"] = &rule{volatile: true, moment: momentRan}, &rule{volatile: true, moment: momentEdited}
	return r
}

// task is a Task, in a job or alone in a notification or a repository object.
func task() *rule {
	return &rule{fields: members([]string{"Result"}, map[string]*rule{"Stats": stats(), "TaskType": enumRule})}
}

// trigger: its GUI shows the run members, no client names them, so they are assumed.
func trigger() *rule {
	return &rule{fields: members(
		[]string{"Stats", "DateLastExecution", "DateNextExecution", "DateLastExited", "NoExecutes", "LastRun", "NextRun", "LastResult"},
		map[string]*rule{"TriggerType": enumRule})}
}

// Column is a column of the grid in which VisualCron shows objects of a type.
type Column struct {
	Title string
	path  []string
}

// ChildKind names what an object of a type has inside, such as a job's Tasks.
type ChildKind struct {
	// Title is VisualCron's word for them, in the plural.
	Title      string
	path, name []string
}

// form is what vcsync knows of a type.
type form struct {
	root *rule
	// id leads to the id; nil where there is one object per server.
	id []string
	// name leads to what people call the object, joined where it is several places;
	// fixed is its name where it has none. Group and who lead to the display group
	// and the last editor.
	name       [][]string
	fixed      string
	group, who []string
	// columns are the grid's, children what can be unfolded in it.
	columns  []Column
	children []ChildKind
	// active leads to the flag that the active policy governs; nil where there is
	// none.
	active []string
	// runsOnce and removesItself lead to the switches of a job that deactivates or
	// deletes itself.
	runsOnce, removesItself []string
	// login leads to the name with which somebody logs on.
	login []string
	// addresses lead to the members that name a host, or a share of one.
	addresses [][]string
	// builtin are the objects that every server has from its installation, by name:
	// whether their ids are the same everywhere is not known. builtinGroup is the
	// group that these have, "" where any. Source: VisualCron docs.
	builtin      []string
	builtinGroup string
	// evidence says where the shape comes from.
	evidence string
}

func column(title string, path ...string) Column { return Column{title, path} }

func path(names ...string) []string { return names }

// forms is the one table of types. Sources: VisualCron docs (grids, windows) and
// public client code (member names); what has neither is marked as assumed in
// docs/types.md.
var forms = map[schemas.Type]*form{
	schemas.Job: {
		id: path("Id"), name: [][]string{{"Name"}}, group: path("Group"), who: path("ModifiedBy"),
		columns:  []Column{column("Name", "Name"), column("Group", "Group"), column("Description", "Description"), column("Active", "Stats", "Active")},
		children: []ChildKind{{"Tasks", path("Tasks"), path("Name")}, {"Triggers", path("Triggers"), path("Description")}, {"Variables", path("Variables"), path("Key")}},
		active:   path("Stats", "Active"), runsOnce: path("RunOnce"), removesItself: path("RemoveAfterExecution"),
		builtin: []string{"Backup settings", "Delete old log files"}, builtinGroup: "Default group",
		evidence: "members from public client code; shapes of Flow, JobLoops, GroupOverride, TimeExceptions and Conditions assumed",
		root: &rule{fields: members(
			[]string{"Missed", "MissedDate", "ResultOutput", "UniqueRunId", "ResetTriggers", "ResetTriggerDepedency", "Test"},
			map[string]*rule{
				"Stats":          jobStats(),
				"Variables":      {sortBy: []string{"Key"}, any: &rule{fields: map[string]*rule{"ValueObject": {secret: true}}}},
				"Tasks":          {sortBy: []string{"Order", "Id"}, any: task()},
				"Triggers":       {sortBy: []string{"Id"}, any: trigger()},
				"TimeExceptions": {set: true, any: refRules[schemas.TimeException]},
			})},
	},
	schemas.Connection: {
		id: path("Id"), name: [][]string{{"Name"}}, group: path("Group"), who: path("ModifiedBy"),
		columns:   []Column{column("Protocol type", "ProtocolType"), column("Name", "Name"), column("Address", "Address"), column("Port", "Port")},
		addresses: [][]string{{"Address"}, {"Proxy", "Address"}},
		evidence:  "Id, Name, Group and ProtocolType from public client code; the others assumed from the windows",
		root: &rule{fields: members(nil, map[string]*rule{
			"ProtocolType": enumRule,
			// The server itself refreshes them (VisualCron changelog 10.0.0).
			"OAuth": {fields: map[string]*rule{"Expires": volatileRule, "AccessToken": {volatile: true, secret: true}, "RefreshToken": {volatile: true, secret: true}}},
		})},
	},
	schemas.Credential: {
		id: path("Id"), name: [][]string{{"Username"}, {"Domain"}}, who: path("ModifiedBy"),
		columns:  []Column{column("User", "Username"), column("Domain", "Domain"), column("Local", "LocalLogin"), column("Load profile", "LoadProfile")},
		evidence: "Id, Username, Password, Domain and IsMSA from public client code; the others assumed from the window",
		root:     &rule{fields: members(nil, nil)},
	},
	schemas.User: {
		id: path("Id"), name: [][]string{{"Name"}}, who: path("ModifiedBy"), login: path("UserName"),
		columns: []Column{column("User name", "UserName"), column("Name", "Name"), column("AD", "IsADUser"), column("Email", "Email"),
			column("Domain", "ADDC"), column("AD host name", "ADHostName"), column("Expiry date", "ExpiryDate"), column("Blocked", "Blocked")},
		builtin:  []string{"admin", "TrayClientUser"},
		evidence: "members from public client code; ExpiryDate and Blocked assumed from the window",
		root: &rule{fields: members([]string{"Blocked", "LastLogon", "DateLastLogon"}, map[string]*rule{
			"Groups": {set: true, any: refRules[schemas.UserGroup]}})},
	},
	schemas.UserGroup: {
		id: path("Id"), name: [][]string{{"Name"}}, who: path("ModifiedBy"),
		columns:  []Column{column("Name", "Name"), column("Description", "Description"), column("Default", "DefaultGroup")},
		children: []ChildKind{{"Permissions", path("Permissions"), path("Permission")}},
		builtin:  []string{"Administrators", "Viewers", "VisualCron system group"},
		evidence: "Id, Name, Description and DefaultGroup from public client code; the permission rows assumed from the window",
		root:     &rule{fields: members(nil, map[string]*rule{"Permissions": {sortBy: []string{"Permission"}}})},
	},
	schemas.Notification: {
		id: path("Id"), name: [][]string{{"Task", "Name"}}, who: path("ModifiedBy"),
		columns:  []Column{column("Type", "Task", "TaskType"), column("Description", "Task", "Description")},
		evidence: "assumed: a wrapper of one Task",
		root:     &rule{fields: members(nil, map[string]*rule{"Task": task()})},
	},
	schemas.Certificate: {
		id: path("Id"), name: [][]string{{"Name"}}, who: path("ModifiedBy"),
		columns: []Column{column("Common name", "CommonName"), column("Self signed", "SelfSigned"), column("Private key", "HasPrivateKey"),
			column("Can encrypt", "CanEncrypt"), column("Can sign", "CanSign"), column("Key valid", "KeyValid"), column("Issuer name", "IssuerName"),
			column("Email", "Email"), column("Name", "Name")},
		evidence: "assumed from the grid",
		root:     &rule{fields: members([]string{"KeyValid"}, map[string]*rule{"Data": {secret: true}})},
	},
	schemas.Condition: {
		id: path("Id"), name: [][]string{{"Description"}}, who: path("ModifiedBy"),
		columns:  []Column{column("Description", "Description")},
		children: []ChildKind{{"Conditions", path("Conditions"), path("Description")}},
		evidence: "Id, Description and Conditions from public client code; the rows and actions assumed from the window",
		root: &rule{fields: members(nil, map[string]*rule{
			"Conditions": {key: "Id", any: &rule{fields: members([]string{"Result", "LastResult"}, map[string]*rule{"ConditionType": enumRule})}}})},
	},
	schemas.PGPKeyRing: {
		id: path("Id"), name: [][]string{{"Name"}}, who: path("ModifiedBy"),
		columns:  []Column{column("Name", "Name"), column("Description", "Description")},
		children: []ChildKind{{"Keys", path("Keys"), path("UserId")}},
		evidence: "assumed from the grid",
		root: &rule{fields: members(nil, map[string]*rule{
			"Keys": {sortBy: []string{"Id"}, any: &rule{fields: map[string]*rule{"Data": {secret: true}}}}})},
	},
	schemas.TimeException: {
		id: path("Id"), name: [][]string{{"Name"}}, who: path("ModifiedBy"),
		columns:  []Column{column("Name", "Name"), column("Description", "Description")},
		children: []ChildKind{{"Exceptions", path("Exceptions"), path("Name")}},
		evidence: "assumed from the grids; Use and Next exception are shown there and taken for the server's own",
		root: &rule{fields: members([]string{"NextException"}, map[string]*rule{
			"Exceptions": {sortBy: []string{"Id"}, any: &rule{fields: members([]string{"NextException"}, nil)}}})},
	},
	schemas.TaskRepository: {
		id: path("Task", "Id"), name: [][]string{{"Task", "Name"}}, who: path("ModifiedBy"),
		columns: []Column{column("Name", "Task", "Name"), column("Description", "Task", "Description"), column("Lang", "Task", "TaskType"),
			column("Version", "Version")},
		evidence: "Version and Task with Id, Name, Description, TaskType from public client code; the others as in a Task",
		root:     &rule{fields: members(nil, map[string]*rule{"Task": task()})},
	},
	schemas.Variable: {
		id: path("Name"), name: [][]string{{"Name"}}, who: path("ModifiedBy"),
		columns:  []Column{column("Name", "Name"), column("Type", "ObjectType"), column("Description", "Description")},
		evidence: "Name, Description and ObjectType from public client code; ValueObject assumed, as in a job variable",
		root: &rule{fields: members(nil, map[string]*rule{
			"ObjectType": enumRule, "ValueObject": {secret: true, value: true}})},
	},
	schemas.NetworkDrive: {
		id: path("Id"), name: [][]string{{"Drive"}, {"Path"}}, who: path("ModifiedBy"),
		columns: []Column{column("Drive", "Drive"), column("Path", "Path"), column("Connection status", "ConnectionStatus"),
			column("Controlled", "Controlled"), column("Credential", "Credential")},
		addresses: [][]string{{"Path"}},
		evidence:  "assumed from the grid",
		root:      &rule{fields: members([]string{"ConnectionStatus"}, nil)},
	},
	schemas.MFTServer: {
		id: path("Id"), name: [][]string{{"Name"}}, who: path("ModifiedBy"), active: path("Active"),
		columns: []Column{column("Server name", "Name"), column("Ports", "Port"), column("Type", "Type"), column("Active", "Active"),
			column("Connections", "Connections"), column("Status", "Status")},
		children: []ChildKind{{"Users", path("Users"), path("UserName")}},
		evidence: "assumed from the grid and windows",
		root: &rule{fields: members([]string{"Status", "State", "Connections", "LastAccess"}, map[string]*rule{
			"Type":  enumRule,
			"Users": {sortBy: []string{"Id"}, any: &rule{fields: members([]string{"LastAccess", "LastLogon", "Connections"}, nil)}}})},
	},
	schemas.SSHKey: {
		id: path("Id"), name: [][]string{{"Name"}}, who: path("ModifiedBy"),
		columns: []Column{column("Name", "Name"), column("Algorithm", "Algorithm"), column("Bits", "Bits"), column("Public key", "PublicKey"),
			column("SHA256 fingerprint", "Fingerprint")},
		evidence: "assumed from the grid",
		root:     &rule{fields: members(nil, map[string]*rule{"Data": {secret: true}})},
	},
	schemas.ExitCode: {
		id: path("Id"), name: [][]string{{"Name"}}, who: path("ModifiedBy"),
		columns:  []Column{column("Name", "Name")},
		children: []ChildKind{{"Exit codes", path("Codes"), path("Description")}},
		builtin:  []string{"Windows (default)"},
		evidence: "assumed from the grid",
		root:     &rule{fields: members(nil, map[string]*rule{"Codes": {sortBy: []string{"Code"}}})},
	},
	schemas.ServerSettings: {
		fixed: "Server settings", who: path("ModifiedBy"),
		columns:  []Column{column("Log level", "LogLevel")},
		evidence: "assumed: ten tabs of a window, the class is known from public client code",
		root:     serverSettings(),
	},
}

// serverSettings leaves to every server, at any depth, what makes it itself: its
// licence, id, name, ports and folders.
func serverSettings() *rule {
	r := &rule{own: isServersOwn}
	r.any = r
	r.fields = members([]string{"Id", "Name"}, nil)
	return r
}

// isServersOwn tells whether a member of the server settings belongs to the one
// server, by the words of its name: MailPort does, Support does not.
func isServersOwn(name string) bool {
	lower := strings.ToLower(name)
	if lower == "serverid" || strings.Contains(lower, "licen") || strings.HasSuffix(lower, "folder") {
		return true
	}
	for _, w := range words(name) {
		switch strings.ToLower(w) {
		case "port", "ports", "folder", "folders", "directory", "directories", "dir", "dirs", "path", "paths", "file", "location",
			"guid", "serial", "activation", "machine":
			return true
		}
	}
	return false
}

// words splits a name in PascalCase: WebAPIPort is Web, API, Port.
func words(name string) []string {
	var out []string
	upper := func(c byte) bool { return 'A' <= c && c <= 'Z' }
	begin := 0
	for i := 1; i <= len(name); i++ {
		if i == len(name) || upper(name[i]) && (!upper(name[i-1]) || i+1 < len(name) && !upper(name[i+1])) || name[i] == '_' {
			out = append(out, strings.Trim(name[begin:i], "_"))
			begin = i
		}
	}
	return out
}

// Supported tells whether this version can sync objects of type t: it knows what
// of them is configuration.
func Supported(t schemas.Type) bool { return forms[t] != nil }

// HasActive tells whether objects of type t have an Active flag that the active
// policy governs.
func HasActive(t schemas.Type) bool { return forms[t] != nil && forms[t].active != nil }

// IsBuiltIn tells whether an object of that name and group came with the server's
// installation. Built-in objects are never captured and never written. See
// Normal.BuiltIn, which knows the names of a user too.
func IsBuiltIn(t schemas.Type, name, group string) bool {
	f := forms[t]
	return f != nil && slices.Contains(f.builtin, name) && (f.builtinGroup == "" || f.builtinGroup == group)
}

// isBuiltIn is IsBuiltIn for a body: a user may be called by either of its names,
// and logs on in any case.
func (f *form) isBuiltIn(n *node, name, group string) bool {
	if f.builtinGroup != "" && f.builtinGroup != group {
		return false
	}
	return slices.Contains(f.builtin, name) || slices.ContainsFunc(f.builtin, func(b string) bool {
		return f.login != nil && strings.EqualFold(b, n.at(f.login).text())
	})
}

// title returns what people call the object.
func (f *form) title(n *node) string {
	var parts []string
	for _, p := range f.name {
		if s := n.at(p).text(); s != "" {
			parts = append(parts, s)
		}
	}
	if len(parts) == 0 {
		return f.fixed
	}
	sep := " "
	if slices.Equal(f.name[0], []string{"Username"}) {
		sep = "@" // as VisualCron shows a credential
	}
	return strings.Join(parts, sep)
}
