package control

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/danielgtaylor/huma/v2"

	"github.com/vcsync/vcsync/broker"
)

// Role is a set of permissions.
type Role string

// Roles.
const (
	Viewer   Role = "viewer"   // looks
	Operator Role = "operator" // looks, and runs what is set up: Sync now, on and off, polls, what is parked
	Approver Role = "approver" // looks, and decides about deletions that are held
	Auditor  Role = "auditor"  // looks, and reads the audit
	Admin    Role = "admin"    // everything
)

// Permission is what a route needs.
type Permission string

// Permissions.
const (
	Read     Permission = "read"
	Operate  Permission = "operate"
	Approve  Permission = "approve"
	Audit    Permission = "audit"
	Edit     Permission = "edit"     // sync settings
	Servers  Permission = "servers"  // servers, their addresses and passwords
	Safety   Permission = "safety"   // safe mode, backups and keys
	Accounts Permission = "accounts" // who may do what
	Own      Permission = "own"      // one's own session, password and tokens
	Anybody  Permission = "anybody"  // no account is needed
)

// roles says which permissions a role has.
var roles = map[Role][]Permission{
	Viewer:   {Own, Read},
	Operator: {Own, Read, Operate},
	Approver: {Own, Read, Approve},
	Auditor:  {Own, Read, Audit},
	Admin:    {Own, Read, Operate, Approve, Audit, Edit, Servers, Safety, Accounts},
}

// Roles returns all roles, the least first.
func Roles() []Role { return []Role{Viewer, Operator, Approver, Auditor, Admin} }

// scope says where a grant must hold for a route.
type scope string

const (
	// anywhere: a grant of any limit does, because nothing is changed.
	anywhere scope = "any"
	// everywhere: only a grant without a limit does.
	everywhere scope = "everywhere"
	atSetting  scope = "the setting" // of the path
	atServer   scope = "the server"  // of the path
	atTarget   scope = "the target"  // of the path
	// atBatch: the source at which deletions are held, or the setting for which.
	atBatch scope = "the batch"
)

type access struct {
	need  Permission
	where scope
}

// accessTable is the one table of who may do what: each operation of the API with what it
// needs. An operation that is not in it keeps control from starting.
var accessTable = map[string]access{
	"sign-in":         {Anybody, anywhere},
	"first-admin":     {Anybody, anywhere},
	"hint":            {Anybody, anywhere}, // has its own token
	"sign-out":        {Own, anywhere},
	"get-me":          {Own, anywhere},
	"change-password": {Own, anywhere},
	"list-tokens":     {Own, anywhere},
	"add-token":       {Own, anywhere},
	"revoke-token":    {Own, anywhere},

	"list-accounts":   {Accounts, everywhere},
	"add-account":     {Accounts, everywhere},
	"get-account":     {Accounts, everywhere},
	"replace-account": {Accounts, everywhere},
	"reset-password":  {Accounts, everywhere},
	"remove-account":  {Accounts, everywhere},

	"list-account-tokens":  {Accounts, everywhere},
	"revoke-account-token": {Accounts, everywhere},

	"list-servers":      {Read, anywhere},
	"get-server":        {Read, anywhere},
	"add-server":        {Servers, everywhere},
	"replace-server":    {Servers, everywhere},
	"remove-server":     {Servers, everywhere},
	"make-hint-token":   {Servers, everywhere},
	"revoke-hint-token": {Servers, everywhere},
	"test-server":       {Operate, atServer},
	"poll-source":       {Operate, atServer},

	"list-settings":      {Read, anywhere},
	"get-setting":        {Read, anywhere},
	"add-setting":        {Edit, everywhere},
	"replace-setting":    {Edit, everywhere},
	"remove-setting":     {Edit, everywhere},
	"clone-setting":      {Edit, everywhere},
	"activate-setting":   {Operate, atSetting},
	"deactivate-setting": {Operate, atSetting},
	"explain-object":     {Read, anywhere},
	"match-setting":      {Operate, atSetting}, // it lists both servers
	"list-flagged":       {Read, anywhere},
	"check-config":       {Read, anywhere},

	"ask-run":     {Operate, atSetting},
	"get-run":     {Read, anywhere},
	"list-plan":   {Read, anywhere},
	"approve-run": {Operate, atSetting},
	"drop-run":    {Operate, atSetting},
	"get-drift":   {Read, anywhere},
	"list-drift":  {Read, anywhere},

	"list-passes":        {Read, anywhere},
	"get-pass":           {Read, anywhere},
	"undo-pass":          {Operate, everywhere},
	"revert-object":      {Operate, everywhere},
	"get-server-run":     {Read, anywhere},
	"list-server-plan":   {Read, anywhere},
	"approve-server-run": {Operate, atServer},
	"drop-server-run":    {Operate, atServer},

	"list-events":   {Read, anywhere},
	"follow-events": {Read, anywhere},
	"read-history":  {Read, anywhere},
	"read-version":  {Read, anywhere},
	"list-changes":  {Read, anywhere},
	"get-status":    {Read, anywhere},

	"get-safe-mode":   {Read, anywhere},
	"enter-safe-mode": {Safety, everywhere},
	"leave-safe-mode": {Safety, everywhere},
	"make-backup":     {Safety, everywhere},
	"list-keys":       {Safety, everywhere},
	"rewrap-keys":     {Safety, everywhere},

	"list-airlock":    {Read, anywhere},
	"get-airlock":     {Read, anywhere},
	"approve-airlock": {Approve, atBatch},
	"reject-airlock":  {Approve, atBatch},

	"list-parked":      {Read, anywhere},
	"get-parked":       {Read, anywhere},
	"retry-parked":     {Operate, atTarget},
	"retry-all-parked": {Operate, everywhere},
	"discard-parked":   {Operate, atTarget},

	"list-audit":   {Audit, everywhere},
	"verify-audit": {Audit, everywhere},
	"export-audit": {Audit, everywhere},
}

// unmatched are the operations that change something and need no If-Match, each with what
// keeps them from overwriting what nobody saw. Every other one needs it.
var unmatched = map[string]string{
	"sign-in":              "begins a session of its own",
	"first-admin":          "has a token that is good once",
	"hint":                 "changes nothing",
	"sign-out":             "ends the session that asks",
	"change-password":      "names the old password",
	"add-token":            "adds; a name that is taken is refused",
	"revoke-token":         "only takes away",
	"revoke-account-token": "only takes away",
	"add-account":          "adds; a name that is taken is refused",
	"add-server":           "adds; a name that is taken is refused",
	"add-setting":          "adds; a name that is taken is refused",
	"test-server":          "changes nothing",
	"poll-source":          "asks for what comes anyway",
	"match-setting":        "changes nothing",
	"check-config":         "changes nothing",
	"ask-run":              "adds; a run that is under way is not ended by it",
	"approve-run":          "names the plan",
	"drop-run":             "names the run",
	"approve-server-run":   "names the plan",
	"drop-server-run":      "names the run",
	"undo-pass":            "makes a plan, which has to be approved",
	"revert-object":        "makes a plan, which has to be approved",
	"enter-safe-mode":      "must always be possible",
	"make-backup":          "changes nothing",
	"rewrap-keys":          "changes no content",
	"approve-airlock":      "names the batch, which is another once its objects are others",
	"reject-airlock":       "names the batch, which is another once its objects are others",
	"retry-parked":         "asks for what comes anyway",
	"retry-all-parked":     "asks for what comes anyway",
}

// checkAccess names the operations that the table lacks, and those that are not there, and
// what changes something without If-Match.
func (s *Server) checkAccess() error {
	known := map[string]bool{}
	var bad []string
	for _, item := range s.api.OpenAPI().Paths {
		for _, op := range []*huma.Operation{item.Get, item.Put, item.Post, item.Delete, item.Patch, item.Head, item.Options, item.Trace} {
			if op == nil {
				continue
			}
			known[op.OperationID] = true
			if _, ok := accessTable[op.OperationID]; !ok {
				bad = append(bad, op.OperationID+" needs no permission")
			}
			matches := slices.ContainsFunc(op.Parameters, func(p *huma.Param) bool { return p.In == "header" && p.Name == "If-Match" })
			if _, free := unmatched[op.OperationID]; op != item.Get && free == matches {
				bad = append(bad, op.OperationID+" needs If-Match, or a reason why not, and not both")
			}
		}
	}
	for id := range accessTable {
		if !known[id] {
			bad = append(bad, id+" is no operation")
		}
	}
	if bad != nil {
		slices.Sort(bad)
		return fmt.Errorf("%w: the table of permissions is not that of the API: %s", ErrConfig, strings.Join(bad, ", "))
	}
	return nil
}

// authorize lets a request pass whose principal has the permission that its operation
// needs, at the place where it acts. It is the one place where that is decided.
func (s *Server) authorize(ctx huma.Context, next func(huma.Context)) {
	a, ok := accessTable[ctx.Operation().OperationID]
	if ok && a.need == Anybody {
		next(ctx)
		return
	}
	p, signedIn := principalOf(ctx.Context())
	if !ok || !signedIn {
		s.refused.add(refusedForbidden)
		_ = huma.WriteErr(s.api, ctx, http.StatusForbidden, "Nobody may do this.") // the client may be gone
		return
	}
	setting, servers, err := s.place(ctx.Context(), a.where, ctx.Param)
	if err != nil {
		s.log.ErrorContext(ctx.Context(), "a permission cannot be checked", "operation", ctx.Operation().OperationID, "error", err)
		_ = huma.WriteErr(s.api, ctx, http.StatusServiceUnavailable, "The store cannot be read; the log has the details.")
		return
	}
	if !p.may(a, setting, servers) {
		s.refused.add(refusedForbidden)
		s.log.WarnContext(ctx.Context(), "refused", "who", p.name, "operation", ctx.Operation().OperationID)
		_ = huma.WriteErr(s.api, ctx, http.StatusForbidden, fmt.Sprintf("The account %s may not do this: it needs the permission %q, which %s have%s. See: vcsync account me.", p.name, a.need, rolesWith(a.need), placeWords(a.where)))
		return
	}
	next(ctx)
}

// place returns the sync setting and the servers at which a request acts.
func (s *Server) place(ctx context.Context, where scope, param func(string) string) (setting string, servers []string, err error) {
	switch where {
	case atServer:
		return "", []string{param("id")}, nil
	case atTarget:
		return "", []string{param("target")}, nil
	case atSetting:
		setting = param("id")
	case atBatch:
		_, b, err := s.targetLock(ctx, param("batch"))
		if err != nil {
			return "", nil, err
		}
		if b == nil {
			_, of, err := s.airlock(ctx, param("batch"))
			if _, none := err.(huma.StatusError); none {
				return "", nil, nil // there is no such batch: who may everywhere is told so
			}
			return "", []string{of.Source}, err
		}
		setting = b.Setting
	default:
		return "", nil, nil
	}
	snap, err := s.broker.Snapshot(ctx)
	if err != nil {
		return "", nil, err
	}
	for id, v := range snap.Settings {
		if string(id) == setting {
			servers = []string{string(v.Source), string(v.Target)}
		}
	}
	return setting, servers, nil
}

// may tells whether the principal may do what needs a, at that place.
func (p principal) may(a access, setting string, servers []string) bool {
	allows := func(grants []broker.Grant) bool {
		return slices.ContainsFunc(grants, func(g broker.Grant) bool {
			if !slices.Contains(roles[Role(g.Role)], a.need) {
				return false
			}
			switch a.where {
			case anywhere:
				return true
			case everywhere:
				return g.Everywhere()
			}
			return g.Covers(setting, servers...)
		})
	}
	return allows(p.grants) && (p.limit == nil || allows(p.limit))
}

func rolesWith(need Permission) string {
	var out []string
	for _, r := range Roles() {
		if slices.Contains(roles[r], need) {
			out = append(out, string(r))
		}
	}
	return strings.Join(out, ", ")
}

func placeWords(where scope) string {
	switch where {
	case anywhere:
		return ""
	case everywhere:
		return ", with a grant that is not limited to settings or servers"
	}
	return ", at " + string(where) + " in question"
}

// AccessDoc is docs/access.md, made from the table.
func (s *Server) AccessDoc() string {
	var b strings.Builder
	b.WriteString(`# Who may do what

<!-- Made from the table in control/access.go: go test ./control -update -->

An account has grants: each is a role, everywhere or only at some sync settings or servers. A limited grant reads everything, and acts only where it holds: at a setting when it names the setting, or both of its servers; at a server when it names the server. What changes settings, servers, accounts or safety needs a grant without a limit. A token never may more than its account.

| Permission |`)
	for _, r := range Roles() {
		b.WriteString(" " + string(r) + " |")
	}
	b.WriteString("\n|---|" + strings.Repeat("---|", len(Roles())) + "\n")
	for _, p := range roles[Admin] {
		fmt.Fprintf(&b, "| %s |", p)
		for _, r := range Roles() {
			if slices.Contains(roles[r], p) {
				b.WriteString(" yes |")
			} else {
				b.WriteString(" – |")
			}
		}
		b.WriteString("\n")
	}
	b.WriteString("\n| Operation | Route | Permission | Where | If-Match |\n|---|---|---|---|---|\n")
	var rows []string
	for path, item := range s.api.OpenAPI().Paths {
		for method, op := range map[string]*huma.Operation{"GET": item.Get, "PUT": item.Put, "POST": item.Post, "DELETE": item.Delete} {
			if op != nil {
				a := accessTable[op.OperationID]
				tag := "–"
				if why, free := unmatched[op.OperationID]; free {
					tag = "no: " + why
				} else if method != "GET" {
					tag = "yes"
				}
				rows = append(rows, fmt.Sprintf("| %s | `%s %s` | %s | %s | %s |\n", op.OperationID, method, path, a.need, a.where, tag))
			}
		}
	}
	slices.Sort(rows)
	b.WriteString(strings.Join(rows, ""))
	b.WriteString("\nBeside the API: `/livez` and `/readyz` need no account; the status page, `/metrics` and the API's description need any.\n")
	return b.String()
}
