package control_test

import (
	"bufio"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/argon2"

	"github.com/vcsync/vcsync/broker"
	"github.com/vcsync/vcsync/control"
	"github.com/vcsync/vcsync/schemas"
)

// personal is the password of every account in these tests.
const personal = "correct horse 7 battery"

// oneTime makes the one-time token.
func (w *world) oneTime() string {
	w.t.Helper()
	if err := w.s.OfferFirstAdmin(w.t.Context(), w.dir, false); err != nil {
		w.t.Fatal(err)
	}
	raw, err := os.ReadFile(filepath.Join(w.dir, control.FirstAdminFile))
	if err != nil {
		w.t.Fatal(err)
	}
	return strings.TrimSpace(string(raw))
}

// admin makes the first admin and returns the header of a session.
func (w *world) admin(name string) string {
	w.t.Helper()
	w.do("POST", "/api/v1/first-admin", fmt.Sprintf(`{"token":%q,"account":%q,"password":%q}`, w.oneTime(), name, personal)).want(201)
	return w.signIn(name)
}

// signIn returns the header of a new session.
func (w *world) signIn(name string) string {
	w.t.Helper()
	var in control.SignedIn
	w.do("POST", "/api/v1/session", signInBody(name, personal)).want(200).into(&in)
	if in.Token == "" || in.Account != name || time.Until(in.Expires) < 7*time.Hour {
		w.t.Fatalf("%+v", in)
	}
	return "Bearer " + in.Token
}

// browser returns a new session as a browser has it, for as.
func (w *world) browser(name string) string {
	w.t.Helper()
	a := w.do("POST", "/api/v1/session", fmt.Sprintf(`{"account":%q,"password":%q,"cookie":true}`, name, personal)).want(200)
	text, ok := strings.CutPrefix(a.header.Get("Set-Cookie"), "__Host-vcsync-7780=")
	if !ok {
		w.t.Fatalf("%v", a.header)
	}
	text, _, _ = strings.Cut(text, ";")
	return "cookie " + text
}

func signInBody(name, password string) string {
	return fmt.Sprintf(`{"account":%q,"password":%q}`, name, password)
}

func (w *world) as(auth, method, path, body string, header ...string) answer {
	w.t.Helper()
	if cookie, ok := strings.CutPrefix(auth, "cookie "); ok {
		header = append([]string{"Cookie", "__Host-vcsync-7780=" + cookie, "X-Vcsync", "1"}, header...)
	} else if auth != "" {
		header = append([]string{"Authorization", auth}, header...)
	}
	return w.do(method, path, body, header...)
}

// account adds one and returns the header of a session.
func (w *world) account(admin, name, grants string) string {
	w.t.Helper()
	w.as(admin, "POST", "/api/v1/accounts", fmt.Sprintf(`{"name":%q,"password":%q,"grants":[%s]}`, name, personal, grants)).want(201)
	return w.signIn(name)
}

// edit changes an account behind the back of the API.
func (w *world) edit(name schemas.Slug, change func(*broker.Account)) {
	w.t.Helper()
	a, err := w.b.GetAccount(w.t.Context(), name)
	if err != nil {
		w.t.Fatal(err)
	}
	change(&a.Account)
	if _, err := w.b.PutAccount(w.t.Context(), a.Account, a.Revision); err != nil {
		w.t.Fatal(err)
	}
}

// setting stores a sync setting without any contact.
func (w *world) setting(id, from, to schemas.Slug) {
	w.t.Helper()
	if _, err := w.b.PutSetting(w.t.Context(), schemas.Setting{ID: id, Source: from, Target: to}, 0); err != nil {
		w.t.Fatal(err)
	}
}

// TestEveryRouteAndRole asks for every route as everybody, and checks against what is
// written down here who gets in. What gets in is stopped by something else, mostly a body
// that is none or an object that is not there, so that the world stays as it is.
func TestEveryRouteAndRole(t *testing.T) {
	w := newWorld(t)
	w.putServer("a", "b", "c", "d")
	w.setting("one", "a", "b")
	w.setting("two", "c", "d")
	batch := map[schemas.Slug]string{}
	for _, source := range []schemas.Slug{"a", "c"} {
		held := broker.Airlock{Source: source, Type: schemas.Job, Objects: []broker.AirlockObject{{Token: "x", Version: schemas.Version{Epoch: 1, Revision: 1}}}}
		held.Normalize()
		if _, err := w.b.PutAirlock(t.Context(), held); err != nil {
			t.Fatal(err)
		}
		batch[source] = held.Batch
	}
	operations, asked := w.operations(), map[string]bool{"hint": true} // below
	root := w.admin("root")
	who := map[string]string{"nobody": "", "admin": root}
	for name, grants := range map[string]string{
		"viewer": `{"role":"viewer"}`, "operator": `{"role":"operator"}`, "approver": `{"role":"approver"}`, "auditor": `{"role":"auditor"}`,
		"operator-one": `{"role":"operator","settings":["one"]}`, "operator-ab": `{"role":"operator","servers":["a","b"]}`, "operator-b": `{"role":"operator","servers":["b"]}`, "operator-a": `{"role":"operator","servers":["a"]}`,
		"approver-a": `{"role":"approver","servers":["a"]}`,
		"admin-one":  `{"role":"admin","settings":["one"]}`, "admin-ab": `{"role":"viewer"},{"role":"admin","servers":["a","b"]}`,
	} {
		who[name] = w.account(root, name, grants)
	}
	var made control.MadeToken
	w.as(root, "POST", "/api/v1/me/tokens", `{"name":"looks","days":1,"limit":[{"role":"viewer"}]}`).want(201).into(&made)
	who["token-viewer"] = "Bearer " + made.Token
	w.as(root, "POST", "/api/v1/me/tokens", `{"name":"runs","days":1,"limit":[{"role":"operator","settings":["one"]}]}`).want(201).into(&made)
	who["token-one"] = "Bearer " + made.Token
	w.as(who["viewer"], "POST", "/api/v1/me/tokens", `{"name":"dreams","days":1,"limit":[{"role":"admin"}]}`).want(201).into(&made)
	who["token-more"] = "Bearer " + made.Token // of a viewer, with the limit admin: that gives it nothing

	const (
		signedIn = "*"
		sessions = "admin viewer operator approver auditor operator-one operator-ab operator-a operator-b approver-a admin-one admin-ab"
		anybody  = "!"
		admins   = "admin"
	)
	const never = `{"nonsense":true}`
	for _, c := range []struct{ op, path, body, allowed string }{
		{"sign-in", "", never, anybody},
		{"first-admin", "", never, anybody},
		{"get-me", "", "", signedIn},
		{"change-password", "", never, signedIn},
		{"list-tokens", "", "", sessions},
		{"add-token", "", never, signedIn},
		{"revoke-token", "none", "", sessions},
		{"list-accounts", "", "", admins},
		{"add-account", "", never, admins},
		{"get-account", "root", "", admins},
		{"replace-account", "root", never, admins},
		{"reset-password", "root", never, admins},
		{"remove-account", "none", "", admins},

		{"list-account-tokens", "root", "", admins},
		{"revoke-account-token", "root/none", "", admins},

		{"list-servers", "", "", signedIn},
		{"get-server", "a", "", signedIn},
		{"add-server", "", never, admins},
		{"replace-server", "a", never, admins},
		{"remove-server", "none", "", admins},
		{"make-hint-token", "none", "", admins},
		{"revoke-hint-token", "none", "", admins},
		{"test-server", "a", "", "admin operator operator-ab operator-a admin-ab"},
		{"test-server", "b", "", "admin operator operator-ab operator-b admin-ab"},
		{"test-server", "c", "", "admin operator"},
		{"poll-source", "a", "", "admin operator operator-ab operator-a admin-ab"},
		{"poll-source", "none", "", "admin operator"},

		{"list-settings", "", "", signedIn},
		{"get-setting", "one", "", signedIn},
		{"add-setting", "", never, admins},
		{"replace-setting", "one", never, admins},
		{"remove-setting", "none", "", admins},
		{"clone-setting", "one", never, admins},
		{"activate-setting", "one", never, "admin operator operator-one operator-ab admin-one admin-ab token-one"},
		{"activate-setting", "two", never, "admin operator"},
		{"activate-setting", "none", never, "admin operator"},
		{"deactivate-setting", "one", never, "admin operator operator-one operator-ab admin-one admin-ab token-one"},
		{"deactivate-setting", "two", never, "admin operator"},
		{"explain-object", "one/Job/x", "", signedIn},
		{"match-setting", "one", never, "admin operator operator-one operator-ab admin-one admin-ab token-one"},
		{"match-setting", "two", never, "admin operator"},
		{"list-flagged", "one", "", signedIn},
		{"check-config", "", never, signedIn},

		{"ask-run", "one", never, "admin operator operator-one operator-ab admin-one admin-ab token-one"},
		{"ask-run", "two", never, "admin operator"},
		{"get-run", "one", "", signedIn},
		{"list-plan", "one", "", signedIn},
		{"approve-run", "one", never, "admin operator operator-one operator-ab admin-one admin-ab token-one"},
		{"approve-run", "two", never, "admin operator"},
		{"drop-run", "one", never, "admin operator operator-one operator-ab admin-one admin-ab token-one"},
		{"drop-run", "two", never, "admin operator"},
		{"get-drift", "one", "", signedIn},
		{"list-drift", "one", "", signedIn},

		{"list-passes", "", "", signedIn},
		{"get-pass", "none", "", signedIn},
		{"undo-pass", "none", never, "admin operator"},
		{"revert-object", "Job/x", never, "admin operator"},
		{"get-server-run", "a", "", signedIn},
		{"list-server-plan", "a", "", signedIn},
		{"approve-server-run", "a", never, "admin operator operator-ab operator-a admin-ab"},
		{"approve-server-run", "c", never, "admin operator"},
		{"drop-server-run", "b", never, "admin operator operator-ab operator-b admin-ab"},
		{"drop-server-run", "d", never, "admin operator"},

		{"list-events", "", "", signedIn},
		{"follow-events", "", "", signedIn},
		{"read-history", "Job/x", "", signedIn},
		{"read-version", "Job/x/1.1", "", signedIn},
		{"list-changes", "Job/x", "", signedIn},
		{"get-status", "", "", signedIn},
		{"get-safe-mode", "", "", signedIn},
		{"enter-safe-mode", "", never, admins},
		{"leave-safe-mode", "", never, admins},
		{"make-backup", "", never, admins},

		{"list-keys", "", "", admins},
		{"rewrap-keys", "", "", admins},

		{"list-airlock", "", "", signedIn},
		{"get-airlock", "none", "", signedIn},
		{"approve-airlock", batch["a"], never, "admin approver approver-a admin-ab"},
		{"approve-airlock", batch["c"], never, "admin approver"},
		{"approve-airlock", "none", never, "admin approver"},
		{"reject-airlock", batch["a"], never, "admin approver approver-a admin-ab"},
		{"reject-airlock", batch["c"], never, "admin approver"},

		{"list-parked", "", "", signedIn},
		{"get-parked", "b/Job/x", "", signedIn},
		{"retry-parked", "b/Job/x", "", "admin operator operator-ab operator-b admin-ab"},
		{"retry-parked", "d/Job/x", "", "admin operator"},
		{"retry-all-parked", "", never, "admin operator"},
		{"discard-parked", "b/Job/x", never, "admin operator operator-ab operator-b admin-ab"},
		{"discard-parked", "d/Job/x", never, "admin operator"},

		{"list-audit", "", "", "admin auditor"},
		{"verify-audit", "", "", "admin auditor"},
		{"export-audit", "", "", "admin auditor"},

		{"sign-out", "", "", signedIn}, // the last: the sessions are gone then
	} {
		method, path := operations[c.op][0], operations[c.op][1]
		for _, v := range strings.Split(c.path, "/") {
			if v != "" {
				path = param.ReplaceAllStringFunc(path, once(v))
			}
		}
		if strings.Contains(path, "{") {
			t.Fatalf("%s: %s with %q", c.op, path, c.path)
		}
		asked[c.op] = true
		for _, name := range sorted(who) {
			want := 0
			switch {
			case c.allowed == anybody || name != "nobody" && c.allowed == signedIn || slices.Contains(strings.Fields(c.allowed), name):
			case name == "nobody":
				want = 401
			default:
				want = 403
			}
			var status int
			if c.op == "follow-events" && want == 0 {
				s := w.follow("", "Authorization", who[name])
				status = s.resp.StatusCode
				s.close()
			} else {
				a := w.as(who[name], method, path, c.body, "If-Match", `"999999"`)
				if status = a.status; want > 0 && status == want {
					a.want(want)
				}
			}
			if refused := status == 401 || status == 403; want != 0 && status != want || want == 0 && refused || status >= 500 {
				t.Errorf("%s %s as %s: %d, want %s", method, path, name, status, map[int]string{0: "it to come in", 401: "401", 403: "403"}[want])
			}
		}
	}
	for _, op := range sorted(operations) {
		if !asked[op] {
			t.Errorf("nobody asked for %s", op)
		}
	}
	for _, c := range []struct {
		path string
		open bool
	}{{"/livez", true}, {"/readyz", true}, {"/metrics", false}, {"/api/v1/openapi.yaml", false}, {"/api/v1/openapi.json", false}} {
		viewer := w.signIn("viewer")
		if got := w.do("GET", c.path, "").status; c.open != (got != 401) {
			t.Errorf("%s without an account: %d", c.path, got)
		}
		w.as(viewer, "GET", c.path, "").want(200)
	}
	// A hint has a token of its own, and no other is good for it.
	root = w.signIn("root")
	var hint control.HintToken
	w.as(root, "POST", "/api/v1/servers/a/hint-token", "", "If-Match", "*").want(201).into(&hint)
	w.hint("a", hint.Token).want(202)
	w.as(root, "POST", "/api/v1/hints/a", "").want(401)
	w.as("Bearer "+hint.Token, "GET", "/api/v1/settings", "").want(401)
}

var param = regexp.MustCompile(`\{[^}]+\}`)

// once replaces only the first of several.
func once(v string) func(string) string {
	first := true
	return func(have string) string {
		if !first {
			return have
		}
		first = false
		return url.PathEscape(v)
	}
}

func sorted[V any](m map[string]V) []string {
	var out []string
	for k := range m {
		out = append(out, k)
	}
	slices.Sort(out)
	return out
}

// operations returns method and path of every operation by its id, while there is no account.
func (w *world) operations() map[string][2]string {
	w.t.Helper()
	var doc struct {
		Paths map[string]map[string]struct{ OperationID string }
	}
	w.do("GET", "/api/v1/openapi.json", "").want(200).into(&doc)
	out := map[string][2]string{}
	for path, item := range doc.Paths {
		for method, op := range item {
			out[op.OperationID] = [2]string{strings.ToUpper(method), path}
		}
	}
	return out
}

func TestAccessDocIsCurrent(t *testing.T) {
	w := newWorld(t)
	got, path := w.s.AccessDoc(), filepath.Join("..", "docs", "access.md")
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Error("docs/access.md is not what the table in access.go says; run go test ./control -update and look at the difference")
	}
}

func TestFirstAdmin(t *testing.T) {
	w := newWorld(t)
	// Before there is an account, this machine may do everything, but make accounts.
	w.do("GET", "/api/v1/me", "").want(200, `"local"`, "admin")
	w.do("POST", "/api/v1/accounts", `{"name":"x","password":"long enough for it","grants":[{"role":"admin"}]}`).want(409, "vcsync account first")
	w.do("POST", "/api/v1/me/tokens", `{"name":"x","days":1}`).want(409)
	w.do("DELETE", "/api/v1/session", "").want(409)
	first := func(token, name, pw string) answer {
		return w.do("POST", "/api/v1/first-admin", fmt.Sprintf(`{"token":%q,"account":%q,"password":%q}`, token, name, pw))
	}
	first("", "root", personal).want(403, "data folder")
	token := w.oneTime()
	path := filepath.Join(w.dir, control.FirstAdminFile)
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Fatalf("%v %v", info, err)
	}
	other := w.oneTime() // a restart makes another, and the first is good for nothing
	if other == token {
		t.Fatal("two starts made one token")
	}
	first(token, "root", personal).want(403)
	first(other, "root", "short").want(422, "12 characters")
	first(other, "root", "root12345678").want(422)
	first(other, "local", personal).want(422, "no name for an account")
	first(other, "Root!", personal).want(422)
	w.do("GET", "/api/v1/settings", "").want(200) // all that closed nothing
	first(other, "root", personal).want(201, `"root"`, "admin")
	if _, err := os.Stat(path); !os.IsNotExist(err) {
		t.Errorf("the token still lies there: %v", err)
	}
	first(other, "root2", personal).want(403)
	w.do("GET", "/api/v1/settings", "").want(401)
	if err := w.s.OfferFirstAdmin(t.Context(), w.dir, false); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); !os.IsNotExist(err) {
		t.Error("another token though there is an admin")
	}

	// Who has forgotten his password, and can start vcsync, gets another chance, on record.
	if err := w.s.OfferFirstAdmin(t.Context(), w.dir, true); err != nil {
		t.Fatal(err)
	}
	again, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	first(strings.TrimSpace(string(again)), "root", personal).want(409, "already")
	first(strings.TrimSpace(string(again)), "rescue", personal).want(201)
	first(strings.TrimSpace(string(again)), "rescue2", personal).want(403)
	if got := w.audits(); !slices.ContainsFunc(got, func(r broker.AuditRecord) bool { return r.Action == "account.offer-admin" }) {
		t.Errorf("that it was offered is not in the audit: %+v", got)
	}
	w.edit("rescue", func(a *broker.Account) { a.Disabled = true })

	// The door stays closed whatever becomes of the accounts.
	w.edit("root", func(a *broker.Account) { a.Disabled = true })
	w.do("GET", "/api/v1/settings", "").want(401)
	a, err := w.b.GetAccount(t.Context(), "root")
	if err == nil {
		err = w.b.DeleteAccount(t.Context(), "root", a.Revision)
	}
	if err != nil {
		t.Fatal(err)
	}
	w.do("GET", "/api/v1/settings", "").want(401)
	first(w.oneTime(), "again", personal).want(201)

	// A new process knows it too, and so does one whose store was lost.
	kv, err := w.b.JS().KeyValue(t.Context(), broker.BucketSecret)
	if err == nil {
		err = kv.Delete(t.Context(), "door")
	}
	if err != nil {
		t.Fatal(err)
	}
	if closed, err := w.b.DoorClosed(t.Context()); err != nil || !closed {
		t.Errorf("without the key in the store: %v, error %v", closed, err)
	}
	for _, r := range w.audits() {
		if r.Action == "account.add" && r.Who != "first-admin-token" {
			t.Errorf("%+v", r)
		}
	}
}

func TestWhoIsNotLetIn(t *testing.T) {
	w := newWorld(t)
	root := w.admin("root")
	const path = "/api/v1/settings"
	w.as(root, "GET", path, "").want(200)
	secret := strings.TrimPrefix(root, "Bearer ")
	w.account(root, "other", `{"role":"viewer"}`)
	for _, auth := range []string{"Bearer nothing", "Bearer ", "Bearer", "Basic cm9vdDpyb290", secret, "Bearer " + secret + "x", "Bearer " + secret[:len(secret)-1],
		"Bearer vcs_root_", "Bearer vcs_", "Bearer " + strings.Replace(secret, "_root_", "_other_", 1), "Bearer " + strings.Repeat("x", 8000), root + ", " + root} {
		a := w.as(auth, "GET", path, "").want(401)
		if got := a.header.Get("WWW-Authenticate"); got != `Bearer realm="vcsync"` {
			t.Errorf("%.60s: WWW-Authenticate %q", auth, got)
		}
	}
	w.as(" ", "GET", path, "").want(401) // there, and empty
	// A cookie does not help where the header is wrong.
	w.as("Bearer nothing", "GET", path, "", "Cookie", "__Host-vcsync-7780="+secret).want(401)
	w.do("GET", path, "", "Cookie", "vcsync="+secret).want(401)
	w.do("GET", path+"?token="+secret, "").want(401)

	// What has ended.
	revoked := func(t *testing.T, auth string) {
		t.Helper()
		w.as(auth, "GET", path, "").want(401, "expired, or was revoked")
	}
	other := w.signIn("other")
	w.edit("other", func(a *broker.Account) {
		for i := range a.Sessions {
			a.Sessions[i].Used = time.Now().Add(-31 * time.Minute)
		}
	})
	revoked(t, other)
	other = w.signIn("other")
	w.edit("other", func(a *broker.Account) {
		a.Sessions[len(a.Sessions)-1].Expires = time.Now().Add(-time.Second)
	})
	revoked(t, other)
	other = w.signIn("other")
	w.as(other, "DELETE", "/api/v1/session", "").want2(204)
	revoked(t, other)

	other = w.signIn("other")
	var made control.MadeToken
	w.as(other, "POST", "/api/v1/me/tokens", `{"name":"night","days":1}`).want(201).into(&made)
	w.as(other, "POST", "/api/v1/me/tokens", `{"name":"night","days":1}`).want(409, "already")
	w.as(other, "POST", "/api/v1/me/tokens", `{"name":"long","days":366}`).want(422)
	token := "Bearer " + made.Token
	w.as(token, "GET", path, "").want(200)
	w.as(token, "POST", "/api/v1/me/tokens", `{"name":"child","days":1}`).want(403, "cannot make another")
	w.as(token, "POST", "/api/v1/me/password", fmt.Sprintf(`{"old":%q,"new":"another long one"}`, personal)).want(403)
	w.as(token, "DELETE", "/api/v1/session", "").want(409)
	w.as(other, "GET", "/api/v1/me/tokens", "").want(200, `"night"`, "lastUse")
	w.edit("other", func(a *broker.Account) { a.Tokens[0].Expires = time.Now().Add(-time.Second) })
	revoked(t, token)
	w.as(other, "POST", "/api/v1/me/tokens", `{"name":"night","days":1}`).want(201).into(&made) // in place of the expired
	token = "Bearer " + made.Token
	w.as(other, "DELETE", "/api/v1/me/tokens/night", "").want2(204)
	revoked(t, token)
	w.as(other, "DELETE", "/api/v1/me/tokens/night", "").want(404)

	// A token may never more than its account may now.
	w.as(root, "PUT", "/api/v1/accounts/other", `{"grants":[{"role":"operator"}]}`, "If-Match", "*").want(200)
	other = w.signIn("other")
	w.as(other, "POST", "/api/v1/me/tokens", `{"name":"night","days":1}`).want(201).into(&made)
	token = "Bearer " + made.Token
	w.putServer("a")
	w.as(token, "POST", "/api/v1/sources/a/poll", "").want2(202)
	w.as(root, "PUT", "/api/v1/accounts/other", `{"grants":[{"role":"viewer"}]}`, "If-Match", "*").want(200)
	revoked(t, other) // what one may has changed: sign in anew
	w.as(token, "POST", "/api/v1/sources/a/poll", "").want(403, "operate")

	// The password: every session ends, those elsewhere too.
	one, two := w.signIn("other"), w.signIn("other")
	w.as(one, "POST", "/api/v1/me/password", `{"old":"wrong wrong wrong","new":"another long one"}`).want(403)
	w.as(one, "POST", "/api/v1/me/password", fmt.Sprintf(`{"old":%q,"new":"short"}`, personal)).want(422)
	w.as(two, "GET", path, "").want(200)
	w.as(one, "POST", "/api/v1/me/password", fmt.Sprintf(`{"old":%q,"new":"another long one"}`, personal)).want2(204)
	revoked(t, one)
	revoked(t, two)
	w.do("POST", "/api/v1/session", signInBody("other", personal)).want(401)
	w.do("POST", "/api/v1/session", signInBody("other", "another long one")).want(200)
	w.as(root, "POST", "/api/v1/accounts/other/password", fmt.Sprintf(`{"password":%q}`, personal), "If-Match", "*").want2(204)
	w.do("POST", "/api/v1/session", signInBody("other", "another long one")).want(401)

	other = w.signIn("other")
	w.as(root, "PUT", "/api/v1/accounts/other", `{"grants":[{"role":"viewer"}],"disabled":true}`, "If-Match", "*").want(200)
	revoked(t, other)
	revoked(t, token)
	w.do("POST", "/api/v1/session", signInBody("other", personal)).want(401, "account or the password")
	w.do("POST", "/api/v1/session", signInBody("nobody", personal)).want(401, "account or the password")
	w.do("POST", "/api/v1/session", signInBody("../x", personal)).want(401, "account or the password")

	// Somebody must be left who can manage accounts.
	w.as(root, "DELETE", "/api/v1/accounts/root", "", "If-Match", "*").want(409, "another the role admin")
	w.as(root, "PUT", "/api/v1/accounts/root", `{"grants":[{"role":"viewer"}]}`, "If-Match", "*").want(409)
	w.as(root, "PUT", "/api/v1/accounts/root", `{"grants":[{"role":"admin"}],"disabled":true}`, "If-Match", "*").want(409)
	w.as(root, "PUT", "/api/v1/accounts/root", `{"grants":[{"role":"admin","settings":["one"]}]}`, "If-Match", "*").want(409)
	w.as(root, "PUT", "/api/v1/accounts/other", `{"grants":[{"role":"king"}]}`, "If-Match", "*").want(422)
	w.as(root, "PUT", "/api/v1/accounts/other", `{"grants":[{"role":"viewer"}]}`, "If-Match", `"1"`).want(412)
	w.as(root, "DELETE", "/api/v1/accounts/other", "", "If-Match", `"1"`).want(412)
	w.as(root, "DELETE", "/api/v1/accounts/other", "", "If-Match", "*").want2(204)
	revoked(t, token)

	// Neither a password nor a hash of it lies in the store or the log; nor a session.
	sec, err := w.b.JS().Stream(t.Context(), "KV_"+broker.BucketSecret)
	if err != nil {
		t.Fatal(err)
	}
	var stored strings.Builder
	info, _ := sec.Info(t.Context())
	for seq := info.State.FirstSeq; seq <= info.State.LastSeq; seq++ {
		if m, err := sec.GetMsg(t.Context(), seq); err == nil {
			stored.Write(m.Data)
		}
	}
	for _, hidden := range []string{personal, "argon2id", secret, made.Token} {
		for where, text := range map[string]string{"store": stored.String(), "log": w.log.String()} {
			if strings.Contains(text, hidden) {
				t.Errorf("%.12s… stands in the %s", hidden, where)
			}
		}
		if (hidden == "argon2id" || hidden == personal) && strings.Contains(w.answers.String(), hidden) {
			t.Errorf("%s stands in an answer", hidden)
		}
	}
	var acts []string
	for _, r := range w.audits() {
		acts = append(acts, r.Action)
		if r.Who != "root" && r.Who != "other" && r.Who != "first-admin-token" {
			t.Errorf("%+v", r)
		}
	}
	for _, want := range []string{"session.begin", "session.end", "token.add", "token.revoke", "account.add", "account.update", "account.password", "account.reset-password", "account.remove"} {
		if !slices.Contains(acts, want) {
			t.Errorf("no %s in the audit: %v", want, acts)
		}
	}
}

// want2 checks only the status: nothing else comes with it.
func (a answer) want2(status int) {
	a.t.Helper()
	if a.status != status {
		a.t.Fatalf("status %d, want %d: %s", a.status, status, a.body)
	}
}

func TestBrowser(t *testing.T) {
	w := newWorld(t)
	w.putServer("a")
	root := w.admin("root")
	page := w.do("GET", "/", "")
	if page.status != 401 || !strings.Contains(string(page.body), `type="password"`) || page.header.Get("Content-Type") != "text/html; charset=utf-8" {
		t.Fatalf("%d %s", page.status, page.body)
	}
	if csp := page.header.Get("Content-Security-Policy"); !strings.Contains(csp, "form-action 'self'") || !strings.Contains(csp, "default-src 'none'") || !strings.Contains(csp, "frame-ancestors 'none'") {
		t.Errorf("CSP %q", csp)
	}
	form := func(account, pw string, header ...string) answer {
		return w.do("POST", "/signin", url.Values{"account": {account}, "password": {pw}}.Encode(), append([]string{"Content-Type", "application/x-www-form-urlencoded"}, header...)...)
	}
	w.srv.Client().CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	if a := form("root", "wrong"); a.status != 401 || !strings.Contains(string(a.body), `role="alert"`) || a.header.Get("Set-Cookie") != "" {
		t.Errorf("%d %s", a.status, a.body)
	}
	if a := form("root", personal, "Sec-Fetch-Site", "cross-site", "Origin", "https://evil.example"); a.status != 403 || a.header.Get("Set-Cookie") != "" {
		t.Errorf("a form of another origin: %d %s", a.status, a.body)
	}
	in := form("root", personal)
	cookie := in.header.Get("Set-Cookie")
	if in.status != 303 || in.header.Get("Location") != "/" {
		t.Fatalf("%d %v", in.status, in.header)
	}
	for _, want := range []string{"__Host-vcsync-7780=vcs_root_", "Path=/", "HttpOnly", "Secure", "SameSite=Strict"} {
		if !strings.Contains(cookie, want) || strings.Contains(cookie, "Domain") {
			t.Errorf("the cookie %q lacks %q", cookie, want)
		}
	}
	mine, _, _ := strings.Cut(cookie, ";")
	w.do("GET", "/", "", "Cookie", mine).want(200)
	w.do("GET", "/api/v1/me", "", "Cookie", mine).want(200, `"root"`)
	w.do("POST", "/api/v1/sources/a/poll", "", "Cookie", mine).want(403, "X-Vcsync")
	w.do("POST", "/api/v1/sources/a/poll", "", "Cookie", mine, "X-Vcsync", "1", "Origin", "https://evil.example").want(403, "another origin")
	w.do("POST", "/api/v1/sources/a/poll", "", "Cookie", mine, "X-Vcsync", "1", "Sec-Fetch-Site", "same-site").want(403, "another origin")
	w.do("POST", "/api/v1/sources/a/poll", "", "Cookie", mine, "X-Vcsync", "1", "Host", "evil.example").want(421)
	w.as(root, "GET", "/api/v1/me", "", "Host", "evil.example").want(421)
	w.do("POST", "/api/v1/sources/a/poll", "", "Cookie", mine, "X-Vcsync", "1").want2(202)
	out := w.do("DELETE", "/api/v1/session", "", "Cookie", mine, "X-Vcsync", "1")
	if out.want2(204); !strings.Contains(out.header.Get("Set-Cookie"), "Max-Age=0") {
		t.Errorf("signed out with %q", out.header.Get("Set-Cookie"))
	}
	w.do("GET", "/api/v1/me", "", "Cookie", mine).want(401)
	// A script may ask for the cookie too, and gets no token then.
	api := w.do("POST", "/api/v1/session", fmt.Sprintf(`{"account":"root","password":%q,"cookie":true}`, personal)).want(200)
	if strings.Contains(string(api.body), "vcs_") || !strings.Contains(api.header.Get("Set-Cookie"), "__Host-vcsync-7780=vcs_root_") {
		t.Errorf("%s %v", api.body, api.header)
	}
}

func TestWrongPasswordsWait(t *testing.T) {
	w := newWorld(t)
	root := w.admin("root")
	for range 5 {
		w.do("POST", "/api/v1/session", signInBody("root", "wrong")).want(401)
	}
	w.edit("root", func(a *broker.Account) { a.Failures = 9 })
	a := w.do("POST", "/api/v1/session", signInBody("root", personal)).want(429, "wait")
	if a.header.Get("Retry-After") == "" {
		t.Error("no Retry-After")
	}
	w.as(root, "GET", "/api/v1/accounts/root", "").want(200, `"failures":9`) // sessions that are there stay
	// Another process would know it too: it is in the store.
	w.edit("root", func(a *broker.Account) { a.Failed = time.Now().Add(-time.Hour) })
	w.signIn("root")
	if a, err := w.b.GetAccount(t.Context(), "root"); err != nil || a.Failures != 0 {
		t.Errorf("%d failures after the right password, error %v", a.Failures, err)
	}
}

// TestAnAddressWaitsToo has somebody try one password with many accounts.
func TestAnAddressWaitsToo(t *testing.T) {
	w := newWorld(t)
	root := w.admin("root")
	from := func(addr, account, password string) int {
		t.Helper()
		r := httptest.NewRequest(http.MethodPost, "http://127.0.0.1:7780/api/v1/session", strings.NewReader(signInBody(account, password)))
		r.Header.Set("Content-Type", "application/json")
		r.RemoteAddr = addr
		rec := httptest.NewRecorder()
		w.s.Handler().ServeHTTP(rec, r)
		return rec.Code
	}
	for i := range 10 {
		if got := from(fmt.Sprint("[2001:db8::", i+1, "]:1"), fmt.Sprint("nobody", i), "one password"); got != 401 {
			t.Fatalf("%d", got)
		}
	}
	if got := from("[2001:db8::ffff]:9", "root", personal); got != 429 {
		t.Errorf("after ten wrong passwords of its network: %d", got)
	}
	if got := from("[2001:db8:0:1::1]:9", "root", personal); got != 200 {
		t.Errorf("from elsewhere: %d", got)
	}
	for range 12 {
		from("127.0.0.1:5", "nobody", "one password")
	}
	w.as(root, "GET", "/api/v1/me", "").want(200)
	w.signIn("root") // this machine's own address is everybody's behind a tunnel
}

// TestAnOldHashIsMadeAnew signs in with a hash of fewer passes.
func TestAnOldHashIsMadeAnew(t *testing.T) {
	w := newWorld(t)
	w.admin("root")
	salt := []byte("0123456789abcdef")
	sum := argon2.IDKey([]byte(personal), salt, 1, 19<<10, 1, 32)
	enc := base64.RawStdEncoding.EncodeToString
	old := "$argon2id$v=19$m=19456,t=1,p=1$" + enc(salt) + "$" + enc(sum)
	w.edit("root", func(a *broker.Account) { a.Hash = old })
	w.do("POST", "/api/v1/session", signInBody("root", "wrong")).want(401)
	w.signIn("root")
	a, err := w.b.GetAccount(t.Context(), "root")
	if err != nil || a.Hash == old || !strings.Contains(a.Hash, "m=65536,t=3") {
		t.Errorf("the hash is not made anew: error %v", err)
	}
	w.signIn("root")
	for _, damaged := range []string{"", "x", "$argon2id$v=19$m=99999999,t=1,p=1$AAAA$AAAA", "$argon2id$v=19$m=0,t=0,p=0$$"} {
		w.edit("root", func(a *broker.Account) { a.Hash, a.Failures = damaged, 0 })
		w.do("POST", "/api/v1/session", signInBody("root", personal)).want(401)
	}
}

// TestManySignIns checks that many that sign in at once do not fill the memory: each
// hash takes 64 MiB.
func TestManySignIns(t *testing.T) {
	w := newWorld(t)
	w.admin("root")
	var before, peak runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	stop, sampled := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(sampled)
		tick := time.NewTicker(5 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-stop:
				return
			case <-tick.C:
				var m runtime.MemStats
				if runtime.ReadMemStats(&m); m.HeapInuse > peak.HeapInuse {
					peak = m
				}
			}
		}
	}()
	var wg sync.WaitGroup
	var mu sync.Mutex
	got := map[int]int{}
	for i := range 100 {
		wg.Go(func() {
			resp, err := w.srv.Client().Post(w.srv.URL+"/api/v1/session", "application/json", strings.NewReader(signInBody(fmt.Sprint("nobody", i), "wrong")))
			if err != nil {
				t.Error(err)
				return
			}
			resp.Body.Close()
			mu.Lock()
			got[resp.StatusCode]++
			mu.Unlock()
		})
	}
	wg.Wait()
	close(stop)
	<-sampled
	if got[401] == 0 || got[429] == 0 || got[401]+got[429] != 100 {
		t.Errorf("answers %v, want 401 and 429", got)
	}
	more := (int64(peak.HeapInuse) - int64(before.HeapInuse)) >> 20
	t.Logf("answers %v, at most %d MiB more", got, more)
	if more > 512 {
		t.Errorf("the heap grew by %d MiB; 100 hashes at once are 6400, two are 128", more)
	}
	w.signIn("root")
}

// TestBigBodyBeforeSignIn sends the head of a request with a body of 1 GB, and what comes
// of the body before the answer.
func TestBigBodyBeforeSignIn(t *testing.T) {
	w := newWorld(t)
	w.admin("root")
	for path, want := range map[string]string{"/api/v1/settings": "413", "/api/v1/settings/one/runs": "401", "/api/v1/session": "413", "/signin": "400"} {
		t.Run(path, func(t *testing.T) {
			c, err := net.Dial("tcp", strings.TrimPrefix(w.srv.URL, "http://"))
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			_ = c.SetDeadline(time.Now().Add(30 * time.Second))
			kind := "application/json"
			if path == "/signin" {
				kind = "application/x-www-form-urlencoded"
			}
			length := "Content-Length: 1073741824\r\n\r\n"
			if want == "401" { // a length that nobody knows before
				length = "Transfer-Encoding: chunked\r\n\r\n40000000\r\n"
			}
			fmt.Fprintf(c, "POST %s HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: %s\r\n%s", path, kind, length)
			sent := make(chan int64, 1)
			go func() {
				n, _ := io.CopyN(c, endless{}, 1<<30)
				sent <- n
			}()
			resp, err := http.ReadResponse(bufio.NewReader(c), nil)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			if !strings.HasPrefix(resp.Status, want) {
				t.Errorf("%s, want %s", resp.Status, want)
			}
			c.Close()
			if n := <-sent; n > 64<<20 {
				t.Errorf("%d MiB were taken", n>>20)
			}
		})
	}
}

// endless is a string in JSON that does not end.
type endless struct{}

func (endless) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = ' '
	}
	return len(p), nil
}

// TestStreamEndsWithTheSession checks that who is thrown out reads no further.
func TestStreamEndsWithTheSession(t *testing.T) {
	w := newWorld(t, func(c *control.Config) { c.Heartbeat = 20 * time.Millisecond })
	open := w.follow("")
	open.until(": alive")
	root := w.admin("root")
	for open.lines.Scan() { // it was opened when none was needed
	}
	s := w.follow("", "Authorization", w.account(root, "other", `{"role":"viewer"}`))
	s.until(": alive")
	s.until(": alive")
	w.as(root, "PUT", "/api/v1/accounts/other", `{"grants":[{"role":"viewer"}],"disabled":true}`, "If-Match", "*").want(200)
	for s.lines.Scan() {
	}
	if err := s.lines.Err(); err != nil && err.Error() != "context deadline exceeded" {
		t.Logf("it ended with %v", err)
	} else if err != nil {
		t.Error("the stream went on")
	}
}

// TestLooksOnWithoutAStore checks that who watches the metrics sees that the store is gone,
// and that nobody else comes in because of it.
func TestLooksOnWithoutAStore(t *testing.T) {
	w := newWorld(t)
	root := w.admin("root")
	other := w.account(root, "other", `{"role":"viewer"}`)
	w.as(root, "GET", "/metrics", "").want(200)
	if err := w.b.Close(); err != nil {
		t.Fatal(err)
	}
	w.as(root, "GET", "/metrics", "").want(200, "vcsync_status_known 0")
	w.as(other, "GET", "/metrics", "").want(503)
	w.do("GET", "/metrics", "").want(401)
	w.as(root, "GET", "/api/v1/settings", "").want(503)
	w.as("Bearer nothing", "GET", "/metrics", "").want(401)
}

// TestNothingIsOverwrittenUnseen walks over every operation that takes If-Match: without it,
// and with that of an older reading, nothing is done.
func TestNothingIsOverwrittenUnseen(t *testing.T) {
	w := newWorld(t)
	operations := w.operations()
	var doc struct {
		Paths map[string]map[string]struct {
			OperationID string
			Parameters  []struct{ In, Name string }
		}
	}
	w.do("GET", "/api/v1/openapi.json", "").want(200).into(&doc)
	takes := map[string]bool{}
	for _, item := range doc.Paths {
		for _, op := range item {
			for _, p := range op.Parameters {
				takes[op.OperationID] = takes[op.OperationID] || p.In == "header" && p.Name == "If-Match"
			}
		}
	}
	root := w.admin("root")
	w.account(root, "other", `{"role":"viewer"}`)
	w.putServer("a", "b", "c")
	w.setting("one", "a", "b")
	if _, err := w.b.PutParked(t.Context(), broker.Parked{Target: "b", Setting: "one", Source: "a", Type: schemas.Job, Token: "x", ID: "x", Version: schemas.Version{Epoch: 1, Revision: 1}, Class: "refused", Reason: "r", First: time.Now(), Last: time.Now()}); err != nil {
		t.Fatal(err)
	}
	w.as(root, "POST", "/api/v1/safe-mode/on", `{"reason":"r"}`).want(200)
	w.as(root, "POST", "/api/v1/servers/a/hint-token", "", "If-Match", "*").want(201)
	valid := map[string]struct{ id, body string }{
		"replace-server":     {"a", `{"name":"x","address":"http://127.0.0.1:1","user":"sync"}`},
		"remove-server":      {"c", ""},
		"make-hint-token":    {"a", ""},
		"revoke-hint-token":  {"a", ""},
		"replace-setting":    {"one", settingBody("", "a", "b", false, allJobs)},
		"remove-setting":     {"one", ""},
		"clone-setting":      {"one", `{"id":"two"}`},
		"activate-setting":   {"one", ""},
		"deactivate-setting": {"one", ""},
		"leave-safe-mode":    {"", `{"reason":"r"}`},
		"discard-parked":     {"b/Job/x", `{"reason":"r"}`},
		"replace-account":    {"other", `{"grants":[{"role":"auditor"}]}`},
		"reset-password":     {"other", `{"password":"another long one"}`},
		"remove-account":     {"other", ""},
	}
	before, acts := w.state(), len(w.audits())
	for _, op := range sorted(takes) {
		if !takes[op] {
			continue
		}
		v, ok := valid[op]
		if !ok {
			t.Errorf("%s takes If-Match, and nobody says how to ask for it", op)
			continue
		}
		delete(valid, op)
		method, path := operations[op][0], operations[op][1]
		for _, part := range strings.Split(v.id, "/") {
			path = param.ReplaceAllStringFunc(path, once(part))
		}
		w.as(root, method, path, v.body).want(428, "If-Match is missing")
		w.as(root, method, path, v.body, "If-Match", `"0"`).want(412, "changed since you read it")
	}
	for op := range valid {
		t.Errorf("%s takes no If-Match", op)
	}
	if got := w.state(); got != before || len(w.audits()) != acts {
		t.Errorf("%d acts more; before %s, now %s", len(w.audits())-acts, before, got)
	}
	// With what was read it is done; a use of the account in between is no change of it.
	tag := w.as(root, "GET", "/api/v1/accounts/other", "").want(200).etag()
	w.signIn("other")
	w.as(root, "PUT", "/api/v1/accounts/other", `{"grants":[{"role":"auditor"}]}`, "If-Match", tag).want(200)
	w.as(root, "PUT", "/api/v1/accounts/other", `{"grants":[{"role":"viewer"}]}`, "If-Match", tag).want(412)
	tag = w.as(root, "GET", "/api/v1/parked/b/Job/x", "").want(200).etag()
	w.as(root, "POST", "/api/v1/parked/b/Job/x/discard", `{"reason":"r"}`, "If-Match", tag).want(202)
}

// TestNoOutputHasAPlaceForASecret walks over every type that the API answers with. A field
// that is not there cannot be forgotten to be masked.
func TestNoOutputHasAPlaceForASecret(t *testing.T) {
	w := newWorld(t)
	type schema struct {
		Ref                  string             `json:"$ref"`
		Properties           map[string]*schema `json:"properties"`
		Items                *schema            `json:"items"`
		AdditionalProperties json.RawMessage    `json:"additionalProperties"`
	}
	var doc struct {
		Paths map[string]map[string]struct {
			OperationID string
			Responses   map[string]struct {
				Content map[string]struct{ Schema *schema }
			}
		}
		Components struct{ Schemas map[string]*schema }
	}
	w.do("GET", "/api/v1/openapi.json", "").want(200).into(&doc)
	// What makes a secret shows it, once.
	made := map[string]string{"SignedIn": "token", "MadeToken": "token", "HintToken": "token"}
	// The token of an object is its id in subjects and paths.
	objects := map[string]bool{}
	secret := regexp.MustCompile(`(?i)passw|passphrase|secret|credential|hash|apikey|private|sealed`)
	seen, types := map[string]bool{}, map[string]bool{}
	var walk func(name string, s *schema)
	walk = func(name string, s *schema) {
		if s == nil {
			return
		}
		if s.Ref != "" {
			name = s.Ref[strings.LastIndex(s.Ref, "/")+1:]
			if seen[name] {
				return
			}
			seen[name] = true
			s = doc.Components.Schemas[name]
		}
		types[name] = true
		for field, p := range s.Properties {
			switch {
			case made[name] == field:
				delete(made, name)
			case name == "AuditEntry" && field == "hash", name == "AuditVerified" && strings.Contains(strings.ToLower(field), "hash"): // of the record
			case secret.MatchString(field) && field != "secrets": // how many, or how they come out
				t.Errorf("%s has the field %s", name, field)
			case field == "token":
				objects[name] = true
			}
			walk(name+"."+field, p)
		}
		walk(name, s.Items)
		var more schema
		if json.Unmarshal(s.AdditionalProperties, &more) == nil {
			walk(name, &more)
		}
	}
	for _, item := range doc.Paths {
		for _, op := range item {
			for _, r := range op.Responses {
				for _, c := range r.Content {
					walk(op.OperationID, c.Schema)
				}
			}
		}
	}
	if len(types) < 40 || len(made) > 0 {
		t.Errorf("%d types were looked at; %v make no secret", len(types), made)
	}
	for name := range objects {
		if _, ok := doc.Components.Schemas[name].Properties["type"]; !ok {
			t.Errorf("%s has a token, and is no object", name)
		}
	}
}

// TestWhatAThiefCannotKeep has somebody hold a session or a token of another, until he is
// thrown out.
func TestWhatAThiefCannotKeep(t *testing.T) {
	w := newWorld(t)
	root := w.admin("root")
	stolen := w.account(root, "bob", `{"role":"admin"}`)
	var made control.MadeToken
	w.as(stolen, "POST", "/api/v1/me/tokens", `{"name":"night","days":365}`).want(201).into(&made)
	token := "Bearer " + made.Token
	// A token is no way to look at or end others, and a cookie is none as a header, nor the
	// other way round: a browser sends it to every port of this host.
	w.as(token, "GET", "/api/v1/me/tokens", "").want(403)
	w.as(token, "DELETE", "/api/v1/me/tokens/night", "").want(403)
	cookie := w.browser("bob")
	w.as(cookie, "GET", "/api/v1/me", "").want(200)
	w.as("Bearer "+strings.TrimPrefix(cookie, "cookie "), "GET", "/api/v1/me", "").want(401)
	w.as("cookie "+made.Token, "GET", "/api/v1/me", "").want(401)
	w.as("cookie "+strings.TrimPrefix(stolen, "Bearer "), "GET", "/api/v1/me", "").want(401)
	// An admin sees the tokens of others, and ends one, or with the password all.
	w.as(root, "GET", "/api/v1/accounts/bob/tokens", "").want(200, `"night"`)
	w.as(root, "DELETE", "/api/v1/accounts/bob/tokens/none", "").want(404)
	w.as(root, "DELETE", "/api/v1/accounts/bob/tokens/night", "").want2(204)
	w.as(token, "GET", "/api/v1/me", "").want(401)
	w.as(stolen, "POST", "/api/v1/me/tokens", `{"name":"night","days":365}`).want(201).into(&made)
	token = "Bearer " + made.Token
	w.as(root, "POST", "/api/v1/accounts/bob/password", `{"password":"given by an admin"}`, "If-Match", "*").want2(204)
	w.as(token, "GET", "/api/v1/me", "").want(401)
	w.as(stolen, "GET", "/api/v1/me", "").want(401)
	w.as(cookie, "GET", "/api/v1/me", "").want(401)

	// What a session began does not end after the session: all at once, again and again.
	for i := range 6 {
		pw := fmt.Sprint("given by an admin ", i)
		w.as(root, "POST", "/api/v1/accounts/bob/password", fmt.Sprintf(`{"password":%q}`, personal), "If-Match", "*").want2(204)
		stolen = w.signIn("bob")
		var wg sync.WaitGroup
		for j := range 4 {
			wg.Go(func() {
				w.as(stolen, "POST", "/api/v1/me/tokens", fmt.Sprintf(`{"name":"late%d","days":365}`, j))
			})
			wg.Go(func() {
				w.as(stolen, "POST", "/api/v1/me/password", fmt.Sprintf(`{"old":%q,"new":"taken by the thief"}`, personal))
			})
		}
		reset := w.as(root, "POST", "/api/v1/accounts/bob/password", fmt.Sprintf(`{"password":%q}`, pw), "If-Match", "*")
		wg.Wait()
		if reset.status != 204 {
			t.Fatalf("an admin cannot throw him out: %d %s", reset.status, reset.body)
		}
		a, err := w.b.GetAccount(t.Context(), "bob")
		if err != nil || len(a.Tokens)+len(a.Sessions) > 0 {
			t.Errorf("round %d: %d tokens and %d sessions are left, error %v", i, len(a.Tokens), len(a.Sessions), err)
		}
		w.do("POST", "/api/v1/session", signInBody("bob", pw)).want(200)
	}
}

// TestEmptyIsNotEverything gives lists that came out empty.
func TestEmptyIsNotEverything(t *testing.T) {
	w := newWorld(t)
	root := w.admin("root")
	for _, grants := range []string{`{"role":"admin","settings":[]}`, `{"role":"admin","servers":[]}`, `{"role":"admin","settings":[""]}`, ``} {
		w.as(root, "POST", "/api/v1/accounts", fmt.Sprintf(`{"name":"x","password":%q,"grants":[%s]}`, personal, grants)).want(422)
	}
	w.as(root, "POST", "/api/v1/me/tokens", `{"name":"x","days":1,"limit":[]}`).want(422)
	for path, body := range map[string]string{"/api/v1/me/tokens": `{"name":"x","days":1,"limit":null}`, "/api/v1/accounts": fmt.Sprintf(`{"name":"x","password":%q,"grants":[{"role":"admin","settings":null}]}`, personal)} {
		if a := w.as(root, "POST", path, body); a.status != 422 && a.status != 400 {
			t.Errorf("%s: %d %s", body, a.status, a.body)
		}
	}
}

// TestAnUnreadableAccountIsOneOnly damages the record of one account.
func TestAnUnreadableAccountIsOneOnly(t *testing.T) {
	w := newWorld(t)
	root := w.admin("root")
	w.account(root, "bob", `{"role":"admin"}`)
	kv, err := w.b.JS().KeyValue(t.Context(), broker.BucketSecret)
	if err == nil {
		_, err = kv.Put(t.Context(), "account.bob", []byte("garbage"))
	}
	if err != nil {
		t.Fatal(err)
	}
	w.do("POST", "/api/v1/session", signInBody("bob", personal)).want(401, "account or the password")
	w.as(root, "GET", "/api/v1/accounts", "").want(200, `"unreadable":true`, `"root"`)
	w.as(root, "DELETE", "/api/v1/accounts/root", "", "If-Match", "*").want(409) // bob is nobody's admin now
	w.as(root, "GET", "/api/v1/accounts/bob", "").want(200, `"unreadable":true`)
	w.oneTime2(false)
	w.as(root, "DELETE", "/api/v1/accounts/bob", "").want(428)
	w.as(root, "DELETE", "/api/v1/accounts/bob", "", "If-Match", "*").want2(204)
	w.account(root, "bob", `{"role":"viewer"}`)
}

// oneTime2 offers the first admin and tells whether a token was made.
func (w *world) oneTime2(want bool) {
	w.t.Helper()
	if err := w.s.OfferFirstAdmin(w.t.Context(), w.dir, false); err != nil {
		w.t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(w.dir, control.FirstAdminFile)); (err == nil) != want {
		w.t.Errorf("a one-time token: %v, want one %v", err, want)
	}
}

// TestManyGuessesAtOnce tries many passwords of one account in the same moment, known or not.
func TestManyGuessesAtOnce(t *testing.T) {
	w := newWorld(t)
	root := w.admin("root")
	for _, name := range []string{"root", "ghost"} {
		var wg sync.WaitGroup
		var mu sync.Mutex
		got := map[int]int{}
		for i := range 30 {
			wg.Go(func() {
				r := w.do("POST", "/api/v1/session", signInBody(name, fmt.Sprint("guess ", i)))
				mu.Lock()
				defer mu.Unlock()
				got[r.status]++
			})
		}
		wg.Wait()
		// The waits are 1, 2, 4 seconds: on a slow machine a few more come through.
		if got[401] > 10 || got[429] == 0 || got[401]+got[429] != 30 {
			t.Errorf("%s: %v, want at most a few that were looked at", name, got)
		}
	}
	w.as(root, "GET", "/api/v1/me", "").want(200)
}

// TestTwoDoors has two processes serve one store: what one closes is closed at the other.
func TestTwoDoors(t *testing.T) {
	w := newWorld(t)
	cfg := control.Config{Broker: w.b, Open: openBridge, Addr: "127.0.0.1:7780", Log: slog.New(slog.DiscardHandler)}
	other, err := control.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ask := func() int {
		rec := httptest.NewRecorder()
		other.Handler().ServeHTTP(rec, httptest.NewRequest(http.MethodGet, "http://127.0.0.1:7780/api/v1/settings", nil))
		return rec.Code
	}
	if got := ask(); got != 200 {
		t.Fatalf("before there is an account: %d", got)
	}
	w.admin("root")
	if err := os.Remove(filepath.Join(w.dir, "door-closed")); err != nil { // the other process has a folder of its own
		t.Fatal(err)
	}
	if got := ask(); got != 401 {
		t.Errorf("at the other process: %d", got)
	}
	// One that cannot read the store lets nobody in either.
	third, err := control.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	if err := w.b.Close(); err != nil {
		t.Fatal(err)
	}
	rec := httptest.NewRecorder()
	third.Handler().ServeHTTP(rec, httptest.NewRequest(http.MethodGet, "http://127.0.0.1:7780/api/v1/settings", nil))
	if rec.Code != 503 {
		t.Errorf("without a store: %d", rec.Code)
	}
}
