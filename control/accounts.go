package control

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"crypto/subtle"
	_ "embed"
	"encoding/base64"
	"errors"
	"fmt"
	"html/template"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/danielgtaylor/huma/v2"
	"github.com/go-json-experiment/json"

	"github.com/vcsync/vcsync/broker"
	"github.com/vcsync/vcsync/schemas"
)

// GrantRecord is a role, everywhere or at some sync settings or servers.
type GrantRecord struct {
	Role     string `json:"role" enum:"viewer,operator,approver,auditor,admin"`
	Settings Names  `json:"settings,omitempty" minItems:"1" maxItems:"200" nullable:"false" doc:"Only at these sync settings; absent for all, never empty."`
	Servers  Names  `json:"servers,omitempty" minItems:"1" maxItems:"200" nullable:"false" doc:"Only at these servers; at a sync setting only where both of its servers are among them."`
}

// Names are short names. Null is refused: nothing here may stand for everything.
type Names []string

// UnmarshalJSON is json.Unmarshaler's.
func (n *Names) UnmarshalJSON(raw []byte) error { return notNull(raw, (*[]string)(n)) }

// Limits are grants that limit; null is refused.
type Limits []GrantRecord

// UnmarshalJSON is json.Unmarshaler's.
func (l *Limits) UnmarshalJSON(raw []byte) error { return notNull(raw, (*[]GrantRecord)(l)) }

func notNull[T any](raw []byte, into *[]T) error {
	if string(bytes.TrimSpace(raw)) == "null" {
		return errors.New("null, want a list or nothing")
	}
	return json.Unmarshal(raw, into)
}

// SignIn is the body of signing in.
type SignIn struct {
	Account  string `json:"account" maxLength:"48"`
	Password string `json:"password" maxLength:"1024"`
	Cookie   bool   `json:"cookie,omitzero" doc:"The session comes as a cookie, for a browser, and not in the answer."`
}

// SignedIn is the answer to signing in.
type SignedIn struct {
	Account string    `json:"account"`
	Token   string    `json:"token,omitzero" doc:"The session, for Authorization: Bearer. Shown this once; only its hash is kept."`
	Expires time.Time `json:"expires" doc:"It ends then, and after 30 minutes without a request."`
}

// FirstAdmin is the body of making the first admin.
type FirstAdmin struct {
	Token    string `json:"token" maxLength:"200" doc:"The one-time token from the data folder."`
	Account  string `json:"account" maxLength:"48"`
	Password string `json:"password" maxLength:"1024"`
}

// PasswordChange is the body of changing one's own password.
type PasswordChange struct {
	Old string `json:"old" maxLength:"1024"`
	New string `json:"new" maxLength:"1024"`
}

// NewPassword is the body of giving an account another password.
type NewPassword struct {
	Password string `json:"password" maxLength:"1024"`
}

// NewAccount is the body of adding an account.
type NewAccount struct {
	Name     string        `json:"name" maxLength:"48"`
	Password string        `json:"password" maxLength:"1024"`
	Grants   []GrantRecord `json:"grants" minItems:"1" maxItems:"50"`
}

// AccountBody is what can be changed of an account.
type AccountBody struct {
	Grants   []GrantRecord `json:"grants" minItems:"1" maxItems:"50"`
	Disabled bool          `json:"disabled,omitzero"`
}

// AccountRecord is an account as it is shown: with no hash of anything.
type AccountRecord struct {
	Name       string        `json:"name"`
	Grants     []GrantRecord `json:"grants" nullable:"false"`
	Limit      []GrantRecord `json:"limit,omitempty" doc:"That of the token with which the request came."`
	Disabled   bool          `json:"disabled,omitzero"`
	Unreadable bool          `json:"unreadable,omitzero" doc:"It cannot be read, and nobody can sign in with it: it was sealed with a key that is lost, or is damaged. Remove it, and add it again."`
	External   string        `json:"external,omitzero" doc:"The identity provider that vouches for it; absent for an account of vcsync itself."`
	Title      string        `json:"title,omitzero" doc:"What the provider calls its owner."`
	Made       time.Time     `json:"made,omitzero"`
	Sessions   int           `json:"sessions" doc:"How many sign-ins are good yet."`
	Tokens     int           `json:"tokens" doc:"How many tokens are good yet."`
	LastUse    time.Time     `json:"lastUse,omitzero"`
	Failures   int           `json:"failures,omitzero" doc:"Wrong passwords since the last right one."`
}

// NewToken is the body of making a token.
type NewToken struct {
	Name  string `json:"name" minLength:"1" maxLength:"100"`
	Days  int    `json:"days" minimum:"1" maximum:"365" doc:"How long it is good."`
	Limit Limits `json:"limit,omitempty" minItems:"1" maxItems:"50" nullable:"false" doc:"It may no more than this, and never more than its account."`
}

// TokenRecord is a token as it is shown.
type TokenRecord struct {
	Name    string        `json:"name"`
	Limit   []GrantRecord `json:"limit,omitempty"`
	Made    time.Time     `json:"made"`
	Expires time.Time     `json:"expires"`
	LastUse time.Time     `json:"lastUse,omitzero"`
}

// MadeToken is the answer to making a token, and the only one that holds it.
type MadeToken struct {
	TokenRecord
	Token string `json:"token" doc:"Shown this once; only its hash is kept."`
}

// TokenPath names a token.
type TokenPath struct {
	Name string `path:"name" maxLength:"100"`
}

type signedIn struct {
	SetCookie string `header:"Set-Cookie"`
	Body      SignedIn
}

func (s *Server) accountRoutes() {
	const accounts = "Accounts"
	register(s, "sign-in", accounts, http.MethodPost, "/session", 200, "Sign in", s.signIn)
	register(s, "sign-out", accounts, http.MethodDelete, "/session", 204, "End this session", s.signOut)
	register(s, "first-admin", accounts, http.MethodPost, "/first-admin", 201, "Make the first admin, with the one-time token from the data folder", s.firstAdmin)
	register(s, "get-me", accounts, http.MethodGet, "/me", 200, "Who one is, and what one may", s.getMe)
	register(s, "change-password", accounts, http.MethodPost, "/me/password", 204, "Change one's own password; every session of the account ends", s.changePassword)
	register(s, "list-tokens", accounts, http.MethodGet, "/me/tokens", 200, "List one's own tokens", s.listTokens)
	register(s, "add-token", accounts, http.MethodPost, "/me/tokens", 201, "Make a token", s.addToken)
	register(s, "revoke-token", accounts, http.MethodDelete, "/me/tokens/{name}", 204, "Make a token good for nothing", s.revokeToken)
	register(s, "list-accounts", accounts, http.MethodGet, "/accounts", 200, "List the accounts", s.listAccounts)
	register(s, "add-account", accounts, http.MethodPost, "/accounts", 201, "Add an account", s.addAccount)
	register(s, "get-account", accounts, http.MethodGet, "/accounts/{id}", 200, "Read an account", s.getAccount)
	register(s, "replace-account", accounts, http.MethodPut, "/accounts/{id}", 200, "Change what an account may, or disable it; its sessions end", s.replaceAccount)
	register(s, "reset-password", accounts, http.MethodPost, "/accounts/{id}/password", 204, "Give an account another password; its sessions end, and its tokens are good for nothing", s.resetPassword)
	register(s, "remove-account", accounts, http.MethodDelete, "/accounts/{id}", 204, "Forget an account, its sessions and its tokens", s.removeAccount)
	register(s, "list-account-tokens", accounts, http.MethodGet, "/accounts/{id}/tokens", 200, "List the tokens of an account", s.listAccountTokens)
	register(s, "revoke-account-token", accounts, http.MethodDelete, "/accounts/{id}/tokens/{name}", 204, "Make a token of an account good for nothing", s.revokeAccountToken)
	doc := s.api.OpenAPI()
	doc.Components.SecuritySchemes["account"] = &huma.SecurityScheme{Type: "http", Scheme: "bearer", Description: "A session or an API token. While there is no account at all, none is needed from this machine."}
	doc.Security = []map[string][]string{{"account": {}}, {}}
}

func grantsOf(in []GrantRecord) ([]broker.Grant, error) {
	var out []broker.Grant
	for _, g := range in {
		for _, id := range slices.Concat(g.Settings, g.Servers) {
			if _, err := parseSlug(id); err != nil {
				return nil, err
			}
		}
		out = append(out, broker.Grant{Role: g.Role, Settings: g.Settings, Servers: g.Servers})
	}
	return out, nil
}

func grantRecords(in []broker.Grant) []GrantRecord {
	out := []GrantRecord{}
	for _, g := range in {
		out = append(out, GrantRecord{g.Role, g.Settings, g.Servers})
	}
	return out
}

func grantWords(in []broker.Grant) string {
	var out []string
	for _, g := range in {
		out = append(out, g.String())
	}
	return strings.Join(out, " ")
}

// accountTag is the ETag of an account: of what people decide about it, because the rest
// changes with every use.
func accountTag(a broker.Account) string {
	raw, err := json.Marshal(struct {
		Grants   []broker.Grant
		Disabled bool
		Hash     string
	}{a.Grants, a.Disabled, a.Hash}, json.Deterministic(true))
	if err != nil {
		panic(err) // these can be written
	}
	return `"` + hashSecret(string(raw))[:16] + `"`
}

func accountRecord(a broker.Account) AccountRecord {
	out := AccountRecord{Name: string(a.Name), Grants: grantRecords(a.Grants), Disabled: a.Disabled, External: a.External, Title: a.Title, Made: a.Made, Failures: a.Failures}
	now := time.Now()
	for _, v := range a.Sessions {
		if now.Before(v.Expires) && now.Sub(v.Used) <= sessionIdle {
			out.Sessions++
		}
		out.LastUse = later(out.LastUse, v.Used)
	}
	for _, v := range a.Tokens {
		if now.Before(v.Expires) {
			out.Tokens++
		}
		out.LastUse = later(out.LastUse, v.Used)
	}
	return out
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

// goodPassword tells why a new password cannot be taken.
func goodPassword(password, account string) error {
	switch n := utf8.RuneCountInString(password); {
	case n < 12:
		return huma.Error422UnprocessableEntity("A password needs at least 12 characters.")
	case utf8.RuneCountInString(strings.ReplaceAll(strings.ToLower(password), strings.ToLower(account), "")) < 9:
		return huma.Error422UnprocessableEntity("The password is little more than the account's name.")
	}
	return nil
}

// busy turns the error of a hash into one of the API.
func busy(err error) error {
	if errors.Is(err, errBusy) {
		return huma.NewError(http.StatusTooManyRequests, "Too many sign in at once; try again in a moment.")
	}
	return err
}

// delay is how long an account waits after wrong passwords.
func delay(failures int) time.Duration {
	if failures < 5 {
		return 0
	}
	return min(time.Second<<min(failures-5, 10), time.Minute)
}

// change reads an account, changes it and stores it, again where another change came
// between. The effect is part of an act.
func (s *Server) changeAccount(ctx context.Context, name schemas.Slug, change func(*broker.Account) error) error {
	for try := 0; ; try++ {
		a, err := s.broker.GetAccount(ctx, name)
		if err == nil {
			err = change(&a.Account)
		}
		if err != nil {
			return err
		}
		if _, err = s.broker.PutAccount(ctx, a.Account, a.Revision); !errors.Is(err, broker.ErrConflict) || try == 9 {
			return err
		}
	}
}

func (s *Server) signIn(ctx context.Context, in *bodyInput[SignIn]) (*signedIn, error) {
	text, expires, err := s.beginSession(ctx, in.Body.Account, in.Body.Password, in.Body.Cookie)
	if err != nil {
		return nil, err
	}
	out := &signedIn{Body: SignedIn{Account: in.Body.Account, Expires: expires}}
	if in.Body.Cookie {
		out.SetCookie = s.sessionCookie(text).String()
	} else {
		out.Body.Token = text
	}
	return out, nil
}

func (s *Server) sessionCookie(text string) *http.Cookie {
	c := &http.Cookie{Name: s.cookieName(), Value: text, Path: "/", Secure: true, HttpOnly: true, SameSite: http.SameSiteStrictMode, MaxAge: int(sessionMost.Seconds())}
	if text == "" {
		c.MaxAge = -1
	}
	return c
}

// beginSession signs in. The answer is the same whether the account or the password is
// wrong, and takes as long.
func (s *Server) beginSession(ctx context.Context, account, password string, cookie bool) (text string, expires time.Time, err error) {
	wrong := huma.Error401Unauthorized("The account or the password is not right.")
	result := signInFailed
	defer func() {
		switch {
		case err == nil:
			result = signInOK
		case errors.Is(err, wrong):
			result = signInWrong
		}
		s.signIns.add(result)
	}()
	var a broker.StoredAccount
	name, err := schemas.ParseSlug(account)
	if err == nil {
		a, err = s.broker.GetAccount(ctx, name)
	} else {
		err = broker.ErrNotFound
	}
	known := err == nil
	if errors.Is(err, broker.ErrKeyring) || errors.Is(err, broker.ErrRecord) {
		s.log.ErrorContext(ctx, "an account cannot be read", "account", name, "error", err)
		known, a, err = false, broker.StoredAccount{}, nil
	}
	if err != nil && !errors.Is(err, broker.ErrNotFound) {
		return "", expires, err
	}
	err = nil
	// Each try is booked before the password is looked at: of many at once all but the
	// first few wait, and whoever guesses learns nothing from those.
	from := remoteAddr(ctx)
	unknown := "account " + hashSecret(account)
	late := func(wait time.Duration) error {
		result = signInWaiting
		return huma.ErrorWithHeaders(huma.NewError(http.StatusTooManyRequests, fmt.Sprintf("Too many wrong passwords: wait %d seconds.", int(wait.Seconds())+1)),
			http.Header{"Retry-After": {strconv.Itoa(int(wait.Seconds()) + 1)}})
	}
	if wait := s.wrongs.wait(from, addressFree); wait > 0 {
		return "", expires, late(wait)
	}
	if known {
		err = s.changeAccount(ctx, name, func(now *broker.Account) error {
			if wait := time.Until(now.Failed.Add(delay(now.Failures))); wait > 0 {
				return late(wait)
			}
			now.Failures, now.Failed = now.Failures+1, time.Now().UTC()
			a.Account = *now
			return nil
		})
	} else if wait := s.wrongs.wait(unknown, accountFree); wait > 0 {
		err = late(wait)
	} else {
		s.wrongs.wrong(unknown)
	}
	if err != nil {
		return "", expires, err
	}
	ok, err := s.hasher.same(ctx, password, a.Hash)
	if err != nil {
		if errors.Is(err, errBusy) {
			result = signInBusy
		}
		if known { // it was not looked at, so it was no wrong one
			_ = s.changeAccount(context.WithoutCancel(ctx), name, func(now *broker.Account) error {
				now.Failures = max(0, now.Failures-1)
				return nil
			})
		}
		return "", expires, busy(err)
	}
	if !ok || a.Disabled {
		s.wrongs.wrongFrom(from)
		s.log.WarnContext(ctx, "a sign-in failed", "from", from, "known", known)
		return "", expires, wrong
	}
	renewed := ""
	if !strings.HasPrefix(a.Hash, currentHash) { // made by a release that took less time over it
		if renewed, err = s.hasher.hash(ctx, password); err != nil {
			return "", expires, busy(err)
		}
	}
	text, session := s.newSession(ctx, name, cookie)
	err = s.act(ctx, broker.AuditRecord{Who: account, Action: "session.begin", Object: "account/" + account}, func(ctx context.Context) error {
		return s.changeAccount(ctx, name, func(now2 *broker.Account) error {
			if now2.Hash != a.Hash || now2.Disabled { // changed meanwhile
				return wrong
			}
			now2.Failures, now2.Failed, now2.Hash = 0, time.Time{}, cmp.Or(renewed, now2.Hash)
			addSession(now2, session)
			return nil
		})
	})
	return text, session.Expires, err
}

// newSession makes a session and its secret.
func (s *Server) newSession(ctx context.Context, name schemas.Slug, cookie bool) (string, broker.Session) {
	now := time.Now().UTC()
	text, hash := newSecret(name)
	return text, broker.Session{Hash: hash, Cookie: cookie, From: remoteAddr(ctx), Begun: now, Used: now, Expires: now.Add(sessionMost)}
}

// addSession puts a session with those that are good yet; the oldest go where there are
// too many.
func addSession(a *broker.Account, v broker.Session) {
	a.Sessions = slices.DeleteFunc(a.Sessions, func(old broker.Session) bool {
		return v.Begun.After(old.Expires) || v.Begun.Sub(old.Used) > sessionIdle
	})
	if n := len(a.Sessions); n >= maxSessions {
		a.Sessions = a.Sessions[n-maxSessions+1:]
	}
	a.Sessions = append(a.Sessions, v)
}

func (s *Server) signOut(ctx context.Context, _ *noInput) (*struct {
	SetCookie string `header:"Set-Cookie"`
}, error) {
	if err := s.endSession(ctx); err != nil {
		return nil, err
	}
	return &struct {
		SetCookie string `header:"Set-Cookie"`
	}{s.sessionCookie("").String()}, nil
}

func (s *Server) endSession(ctx context.Context) error {
	p, _ := principalOf(ctx)
	if p.secret == "" {
		return huma.Error409Conflict("There is no session: there are no accounts yet.")
	}
	return s.act(ctx, broker.AuditRecord{Action: "session.end", Object: "account/" + p.name}, func(ctx context.Context) error {
		return s.changeAccount(ctx, schemas.Slug(p.name), func(a *broker.Account) error {
			n := len(a.Sessions)
			if a.Sessions = slices.DeleteFunc(a.Sessions, func(v broker.Session) bool { return v.Hash == p.secret }); len(a.Sessions) == n {
				return huma.Error409Conflict("This is a token and no session; revoke it with: vcsync token revoke NAME.")
			}
			return nil
		})
	})
}

// inForce is an error where the session that asks has ended, or its account was disabled,
// since it was let in: what it began does not end then.
func inForce(a *broker.Account, p principal) error {
	if a.Disabled || !slices.ContainsFunc(a.Sessions, func(v broker.Session) bool { return v.Hash == p.secret }) {
		return huma.Error401Unauthorized("This session has ended meanwhile. Sign in again.")
	}
	return nil
}

// own returns the account of the principal.
func (s *Server) own(ctx context.Context) (broker.StoredAccount, principal, error) {
	p, _ := principalOf(ctx)
	if p.secret == "" {
		return broker.StoredAccount{}, p, huma.Error409Conflict("There are no accounts yet: make the first with vcsync account first NAME.")
	}
	a, err := s.broker.GetAccount(ctx, schemas.Slug(p.name))
	return a, p, err
}

func (s *Server) getMe(ctx context.Context, _ *noInput) (*output[AccountRecord], error) {
	p, _ := principalOf(ctx)
	if p.secret == "" {
		return &output[AccountRecord]{AccountRecord{Name: p.name, Grants: grantRecords(p.grants)}}, nil
	}
	a, p, err := s.own(ctx)
	if err != nil {
		return nil, err
	}
	out := &output[AccountRecord]{accountRecord(a.Account)}
	if p.limit != nil {
		out.Body.Limit = grantRecords(p.limit)
	}
	return out, nil
}

func (s *Server) changePassword(ctx context.Context, in *bodyInput[PasswordChange]) (*struct{}, error) {
	a, p, err := s.own(ctx)
	if err != nil {
		return nil, err
	}
	if p.limit != nil || !slices.ContainsFunc(a.Sessions, func(v broker.Session) bool { return v.Hash == p.secret }) {
		return nil, huma.Error403Forbidden("A token cannot change the password: sign in.")
	}
	if a.External != "" {
		return nil, huma.Error409Conflict("This account has no password here: the identity provider vouches for it.")
	}
	if err := goodPassword(in.Body.New, p.name); err != nil {
		return nil, err
	}
	ok, err := s.inner.same(ctx, in.Body.Old, a.Hash)
	if err != nil {
		return nil, busy(err)
	}
	if !ok {
		return nil, huma.Error403Forbidden("The old password is not right.")
	}
	return nil, s.setPassword(ctx, a.Name, in.Body.New, "account.password", func(now *broker.Account) error {
		if now.Hash != a.Hash { // another one was given meanwhile
			return huma.Error409Conflict("The password was changed meanwhile. Sign in again.")
		}
		return inForce(now, p)
	})
}

// setPassword stores a password and ends every session of the account, if it is as before
// says.
func (s *Server) setPassword(ctx context.Context, name schemas.Slug, password, action string, before func(*broker.Account) error) error {
	hash, err := s.inner.hash(ctx, password)
	if err != nil {
		return busy(err)
	}
	return s.act(ctx, broker.AuditRecord{Action: action, Object: "account/" + string(name)}, func(ctx context.Context) error {
		return s.changeAccount(ctx, name, func(a *broker.Account) error {
			if err := before(a); err != nil {
				return err
			}
			a.Hash, a.Sessions, a.Failures, a.Failed = hash, nil, 0, time.Time{}
			return nil
		})
	})
}

func (s *Server) listTokens(ctx context.Context, _ *noInput) (*output[list[TokenRecord]], error) {
	out := &output[list[TokenRecord]]{Body: list[TokenRecord]{Items: []TokenRecord{}}}
	p, _ := principalOf(ctx)
	if p.secret == "" {
		return out, nil
	}
	a, _, err := s.own(ctx)
	if err != nil {
		return nil, err
	}
	if inForce(&a.Account, p) != nil {
		return nil, huma.Error403Forbidden("A token cannot look at others: sign in.")
	}
	for _, t := range a.Tokens {
		out.Body.Items = append(out.Body.Items, tokenRecord(t))
	}
	return out, nil
}

func tokenRecord(t broker.Token) TokenRecord {
	out := TokenRecord{Name: t.Name, Made: t.Made, Expires: t.Expires, LastUse: t.Used}
	if t.Limit != nil {
		out.Limit = grantRecords(t.Limit)
	}
	return out
}

func (s *Server) addToken(ctx context.Context, in *bodyInput[NewToken]) (*output[MadeToken], error) {
	a, p, err := s.own(ctx)
	if err != nil {
		return nil, err
	}
	if !slices.ContainsFunc(a.Sessions, func(v broker.Session) bool { return v.Hash == p.secret }) {
		return nil, huma.Error403Forbidden("A token cannot make another: sign in.")
	}
	limit, err := grantsOf(in.Body.Limit)
	if err != nil {
		return nil, err
	}
	now := time.Now().UTC()
	text, hash := newSecret(a.Name)
	t := broker.Token{Name: in.Body.Name, Hash: hash, Limit: limit, Made: now, Expires: now.AddDate(0, 0, in.Body.Days)}
	err = s.act(ctx, broker.AuditRecord{Action: "token.add", Object: "account/" + p.name, Detail: fmt.Sprintf("%s, %d days, %s", t.Name, in.Body.Days, grantWords(limit))}, func(ctx context.Context) error {
		return s.changeAccount(ctx, a.Name, func(a *broker.Account) error {
			if err := inForce(a, p); err != nil {
				return err
			}
			a.Tokens = slices.DeleteFunc(a.Tokens, func(v broker.Token) bool { return now.After(v.Expires) })
			if slices.ContainsFunc(a.Tokens, func(v broker.Token) bool { return v.Name == t.Name }) {
				return huma.Error409Conflict(fmt.Sprintf("There is a token %q already; revoke it first, or choose another name.", t.Name))
			}
			if len(a.Tokens) >= maxTokens {
				return huma.Error409Conflict(fmt.Sprintf("The account has %d tokens; revoke one first.", maxTokens))
			}
			a.Tokens = append(a.Tokens, t)
			return nil
		})
	})
	if err != nil {
		return nil, err
	}
	return &output[MadeToken]{MadeToken{tokenRecord(t), text}}, nil
}

func (s *Server) revokeToken(ctx context.Context, in *TokenPath) (*struct{}, error) {
	a, p, err := s.own(ctx)
	if err != nil {
		return nil, err
	}
	if inForce(&a.Account, p) != nil {
		return nil, huma.Error403Forbidden("A token cannot revoke others: sign in.")
	}
	return s.dropToken(ctx, a, in.Name, func(now *broker.Account) error { return inForce(now, p) })
}

// dropToken makes a token of an account good for nothing.
func (s *Server) dropToken(ctx context.Context, a broker.StoredAccount, token string, before func(*broker.Account) error) (*struct{}, error) {
	if !slices.ContainsFunc(a.Tokens, func(v broker.Token) bool { return v.Name == token }) {
		return nil, huma.Error404NotFound(fmt.Sprintf("The account %s has no token %.100q.", a.Name, token))
	}
	return nil, s.act(ctx, broker.AuditRecord{Action: "token.revoke", Object: "account/" + string(a.Name), Detail: token}, func(ctx context.Context) error {
		return s.changeAccount(ctx, a.Name, func(a *broker.Account) error {
			if err := before(a); err != nil {
				return err
			}
			a.Tokens = slices.DeleteFunc(a.Tokens, func(v broker.Token) bool { return v.Name == token })
			return nil
		})
	})
}

// AccountToken names a token of an account.
type AccountToken struct {
	IDPath
	TokenPath
}

func (s *Server) listAccountTokens(ctx context.Context, in *IDPath) (*output[list[TokenRecord]], error) {
	a, err := s.account(ctx, in.ID)
	if err != nil {
		return nil, err
	}
	out := &output[list[TokenRecord]]{Body: list[TokenRecord]{Items: []TokenRecord{}}}
	for _, t := range a.Tokens {
		out.Body.Items = append(out.Body.Items, tokenRecord(t))
	}
	return out, nil
}

func (s *Server) revokeAccountToken(ctx context.Context, in *AccountToken) (*struct{}, error) {
	a, err := s.account(ctx, in.ID)
	if err != nil {
		return nil, err
	}
	return s.dropToken(ctx, a, in.Name, func(*broker.Account) error { return nil })
}

func (s *Server) listAccounts(ctx context.Context, _ *noInput) (*output[list[AccountRecord]], error) {
	all, faulty, err := s.broker.Accounts(ctx)
	if err != nil {
		return nil, err
	}
	out := &output[list[AccountRecord]]{Body: list[AccountRecord]{Items: []AccountRecord{}}}
	for _, a := range all {
		out.Body.Items = append(out.Body.Items, accountRecord(a.Account))
	}
	for _, name := range faulty {
		out.Body.Items = append(out.Body.Items, AccountRecord{Name: string(name), Grants: []GrantRecord{}, Unreadable: true})
	}
	return out, nil
}

func (s *Server) account(ctx context.Context, id string) (broker.StoredAccount, error) {
	name, err := parseSlug(id)
	if err != nil {
		return broker.StoredAccount{}, err
	}
	a, err := s.broker.GetAccount(ctx, name)
	if errors.Is(err, broker.ErrNotFound) {
		return a, huma.Error404NotFound(fmt.Sprintf("There is no account %s.", name))
	}
	return a, err
}

// unreadable tells whether the error of account says that the record is there and cannot be
// read.
func (s *Server) unreadable(err error, id string) (schemas.Slug, bool) {
	name, perr := parseSlug(id)
	return name, perr == nil && (errors.Is(err, broker.ErrKeyring) || errors.Is(err, broker.ErrRecord))
}

func (s *Server) getAccount(ctx context.Context, in *IDPath) (*tagged[AccountRecord], error) {
	a, err := s.account(ctx, in.ID)
	if name, ok := s.unreadable(err, in.ID); ok {
		return &tagged[AccountRecord]{`"unreadable"`, AccountRecord{Name: string(name), Grants: []GrantRecord{}, Unreadable: true}}, nil
	}
	if err != nil {
		return nil, err
	}
	return &tagged[AccountRecord]{accountTag(a.Account), accountRecord(a.Account)}, nil
}

// reserved are names that the audit uses for what is no account.
func reserved(name schemas.Slug) bool {
	return strings.HasPrefix(string(name), oidcPrefix) || name == "local" || name == firstAdminName || name == byItself
}

func (s *Server) addAccount(ctx context.Context, in *bodyInput[NewAccount]) (*tagged[AccountRecord], error) {
	if p, _ := principalOf(ctx); p.secret == "" {
		return nil, huma.Error409Conflict("The first account is made with the one-time token from the data folder: vcsync account first NAME.")
	}
	grants, err := grantsOf(in.Body.Grants)
	if err != nil {
		return nil, err
	}
	return s.makeAccount(ctx, in.Body.Name, in.Body.Password, grants)
}

// makeAccount stores a new account.
func (s *Server) makeAccount(ctx context.Context, id, password string, grants []broker.Grant) (*tagged[AccountRecord], error) {
	name, err := parseSlug(id)
	if err != nil {
		return nil, err
	}
	if reserved(name) {
		return nil, huma.Error422UnprocessableEntity(fmt.Sprintf("%s is no name for an account: names like this are vcsync's own.", name))
	}
	if err := goodPassword(password, id); err != nil {
		return nil, err
	}
	hash, err := s.inner.hash(ctx, password)
	if err != nil {
		return nil, busy(err)
	}
	s.writes.Lock()
	defer s.writes.Unlock()
	if _, err := s.broker.GetAccount(ctx, name); err == nil {
		return nil, huma.Error409Conflict(fmt.Sprintf("There is an account %s already.", name))
	} else if !errors.Is(err, broker.ErrNotFound) {
		return nil, err
	}
	a := broker.Account{Name: name, Hash: hash, Grants: grants, Made: time.Now().UTC()}
	err = s.act(ctx, broker.AuditRecord{Action: "account.add", Object: "account/" + id, Detail: grantWords(grants)}, func(ctx context.Context) (err error) {
		if err := s.broker.CloseDoor(ctx); err != nil {
			return err
		}
		s.closed.Store(true)
		_, err = s.broker.PutAccount(ctx, a, 0)
		return err
	})
	if err != nil {
		return nil, err
	}
	return &tagged[AccountRecord]{accountTag(a), accountRecord(a)}, nil
}

// needsAdmin is an error where no other account could manage accounts than the one, as it
// would be: nil for one that is gone.
func (s *Server) needsAdmin(ctx context.Context, name schemas.Slug, as *broker.Account) error {
	all, _, err := s.broker.Accounts(ctx)
	if err != nil {
		return err
	}
	for _, a := range all {
		v := a.Account
		if v.Name == name {
			if as == nil {
				continue
			}
			v = *as
		}
		if isAdmin(v) {
			return nil
		}
	}
	return huma.Error409Conflict("No account would be left that can manage accounts: give another the role admin first.")
}

func isAdmin(a broker.Account) bool {
	return !a.Disabled && a.External == "" && slices.ContainsFunc(a.Grants, func(g broker.Grant) bool { return g.Role == string(Admin) && g.Everywhere() })
}

func (s *Server) replaceAccount(ctx context.Context, in *idMatchBody[AccountBody]) (*tagged[AccountRecord], error) {
	s.writes.Lock()
	defer s.writes.Unlock()
	a, err := s.account(ctx, in.ID)
	if err == nil {
		err = matchTag(in.IfMatch, accountTag(a.Account))
	}
	if err != nil {
		return nil, err
	}
	grants, err := grantsOf(in.Body.Grants)
	if err != nil {
		return nil, err
	}
	next := a.Account
	if a.External != "" && grantWords(grants) != grantWords(a.Grants) {
		return nil, huma.Error409Conflict("What this account may is said by its groups at the identity provider. It can be disabled here, and no more.")
	}
	change := func(a *broker.Account) error {
		if err := matchTag(in.IfMatch, accountTag(*a)); err != nil {
			return err
		}
		a.Grants, a.Disabled, a.Sessions = grants, in.Body.Disabled, nil
		next = *a
		return nil
	}
	if err := change(&next); err != nil {
		return nil, err
	}
	if err := s.needsAdmin(ctx, a.Name, &next); err != nil {
		return nil, err
	}
	detail := grantWords(next.Grants)
	if next.Disabled {
		detail += ", disabled"
	}
	err = s.act(ctx, broker.AuditRecord{Action: "account.update", Object: "account/" + in.ID, Before: a.Revision, Detail: detail}, func(ctx context.Context) error {
		return s.changeAccount(ctx, a.Name, change)
	})
	if err != nil {
		return nil, err
	}
	return &tagged[AccountRecord]{accountTag(next), accountRecord(next)}, nil
}

func (s *Server) resetPassword(ctx context.Context, in *idMatchBody[NewPassword]) (*struct{}, error) {
	a, err := s.account(ctx, in.ID)
	if err == nil {
		err = matchTag(in.IfMatch, accountTag(a.Account))
	}
	if err == nil && a.External != "" {
		err = huma.Error409Conflict("This account has no password here: the identity provider vouches for it.")
	}
	if err == nil {
		err = goodPassword(in.Body.Password, in.ID)
	}
	if err != nil {
		return nil, err
	}
	return nil, s.setPassword(ctx, a.Name, in.Body.Password, "account.reset-password", func(now *broker.Account) error {
		if err := matchTag(in.IfMatch, accountTag(*now)); err != nil {
			return err
		}
		now.Tokens = nil // whoever had the password may have made some
		return nil
	})
}

func (s *Server) removeAccount(ctx context.Context, in *IDMatch) (*struct{}, error) {
	s.writes.Lock()
	defer s.writes.Unlock()
	a, err := s.account(ctx, in.ID)
	if name, ok := s.unreadable(err, in.ID); ok {
		if err := matchTag(in.IfMatch, `"unreadable"`); err != nil {
			return nil, err
		}
		return nil, s.act(ctx, broker.AuditRecord{Action: "account.remove", Object: "account/" + in.ID, Detail: "it could not be read"}, func(ctx context.Context) error {
			return s.broker.DropAccount(ctx, name)
		})
	}
	if err == nil {
		err = matchTag(in.IfMatch, accountTag(a.Account))
	}
	if err == nil {
		err = s.needsAdmin(ctx, a.Name, nil)
	}
	if err != nil {
		return nil, err
	}
	return nil, s.act(ctx, broker.AuditRecord{Action: "account.remove", Object: "account/" + in.ID, Before: a.Revision}, func(ctx context.Context) error {
		for try := 0; ; try++ { // a use of it meanwhile is no reason to keep it
			now, err := s.broker.GetAccount(ctx, a.Name)
			if err == nil {
				err = matchTag(in.IfMatch, accountTag(now.Account))
			}
			if err == nil {
				err = s.broker.DeleteAccount(ctx, a.Name, now.Revision)
			}
			if !errors.Is(err, broker.ErrConflict) || try == 9 {
				return err
			}
		}
	})
}

// FirstAdminFile is the file in the data folder with the one-time token.
const FirstAdminFile = "first-admin.token"

// firstAdminName is who makes the first admin, in the audit.
const firstAdminName = "first-admin-token"

// firstAdminFor is how long the one-time token is good.
const firstAdminFor = time.Hour

// OfferFirstAdmin writes a one-time token into the file FirstAdminFile of a folder where
// no account can manage accounts, good for an hour and once. Who can read the folder can
// make the first admin with it.
//
// With anyway it does so where there is an admin too, for one who has forgotten his
// password; that it was offered is in the audit then.
func (s *Server) OfferFirstAdmin(ctx context.Context, dir string, anyway bool) error {
	all, _, err := s.broker.Accounts(ctx)
	if err != nil {
		return err
	}
	path := filepath.Join(dir, FirstAdminFile)
	admin := slices.ContainsFunc(all, func(a broker.StoredAccount) bool { return isAdmin(a.Account) })
	if admin && anyway {
		err := s.act(ctx, broker.AuditRecord{Who: byItself, Action: "account.offer-admin", Object: "account", Detail: "it was started with --offer-admin"}, func(context.Context) error { return nil })
		if err != nil {
			return err
		}
	}
	if admin && !anyway {
		if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("remove the one-time token: %w", err)
		}
		return nil
	}
	random := make([]byte, 32)
	_, _ = rand.Read(random) // it never fails
	text := base64.RawURLEncoding.EncodeToString(random)
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) { // whose it was matters for its mode
		return fmt.Errorf("write the one-time token: %w", err)
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err == nil {
		_, err = io.WriteString(f, text+"\n")
		if cerr := f.Close(); err == nil {
			err = cerr
		}
	}
	if err != nil {
		return fmt.Errorf("write the one-time token: %w", err)
	}
	s.first.Lock()
	s.first.hash, s.first.until, s.first.path, s.first.anyway = hashSecret(text), time.Now().Add(firstAdminFor), path, anyway
	s.first.Unlock()
	if admin {
		s.log.WarnContext(ctx, "another admin can be made with vcsync account first NAME, within an hour", "token in", path)
		return nil
	}
	s.log.InfoContext(ctx, "there is no admin account; until there is one, everybody on this machine may do everything: make it with vcsync account first NAME, within an hour", "token in", path)
	return nil
}

func (s *Server) firstAdmin(ctx context.Context, in *bodyInput[FirstAdmin]) (*tagged[AccountRecord], error) {
	s.first.Lock()
	defer s.first.Unlock()
	if s.first.hash == "" || time.Now().After(s.first.until) || subtle.ConstantTimeCompare([]byte(s.first.hash), []byte(hashSecret(in.Body.Token))) != 1 {
		return nil, huma.Error403Forbidden("This is not the one-time token, or it has expired or was used. It lies in the data folder, in " + FirstAdminFile + "; a restart makes another where there is no admin.")
	}
	all, _, err := s.broker.Accounts(ctx)
	if err != nil {
		return nil, err
	}
	if !s.first.anyway && slices.ContainsFunc(all, func(a broker.StoredAccount) bool { return isAdmin(a.Account) }) {
		return nil, huma.Error409Conflict("There is an admin already.")
	}
	out, err := s.makeAccount(context.WithValue(ctx, principalKey{}, principal{name: firstAdminName}), in.Body.Account, in.Body.Password, []broker.Grant{{Role: string(Admin)}})
	if err == nil {
		s.first.hash = ""
		if rerr := os.Remove(s.first.path); rerr != nil {
			s.log.WarnContext(ctx, "the one-time token was used and cannot be removed", "error", rerr)
		}
	}
	return out, err
}

//go:embed signin.html
var signInText string

var signInPage = template.Must(template.New("signin").Parse(signInText))

// signInPolicy is pagePolicy with a form that may be sent here.
var signInPolicy = strings.Replace(pagePolicy, "form-action 'none'", "form-action 'self'", 1)

// serveSignIn shows the form for signing in.
func (s *Server) serveSignIn(w http.ResponseWriter, status int, fault string) {
	provider := ""
	if s.cfg.OIDC != nil {
		provider = s.cfg.OIDC.Host()
	}
	var b bytes.Buffer
	if err := signInPage.Execute(&b, map[string]any{"Style": template.CSS(pageStyle), "Fault": fault, "Provider": provider, "Begin": oidcBegin}); err != nil { // the embedded file
		writeProblem(w, http.StatusInternalServerError, "The page cannot be made.")
		return
	}
	w.Header().Set("Content-Security-Policy", signInPolicy)
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.WriteHeader(status)
	_, _ = w.Write(b.Bytes()) // the client may be gone
}

// signInPattern takes the form, which a browser sends without a script.
const signInPattern = "POST /signin"

func (s *Server) serveSignedIn(w http.ResponseWriter, r *http.Request) {
	r.Body = http.MaxBytesReader(w, r.Body, 8<<10)
	if err := r.ParseForm(); err != nil {
		s.serveSignIn(w, http.StatusBadRequest, "The form cannot be read.")
		return
	}
	text, _, err := s.beginSession(r.Context(), r.PostForm.Get("account"), r.PostForm.Get("password"), true)
	if err != nil {
		status, words := http.StatusServiceUnavailable, "The store cannot be read; the log has the details."
		if e, ok := errors.AsType[huma.StatusError](err); ok {
			status, words = e.GetStatus(), e.Error()
		}
		s.serveSignIn(w, status, words)
		return
	}
	http.SetCookie(w, s.sessionCookie(text))
	http.Redirect(w, r, "/", http.StatusSeeOther)
}
