package control

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/tls"
	_ "embed"
	"encoding/base32"
	"encoding/base64"
	"errors"
	"fmt"
	"html/template"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"github.com/danielgtaylor/huma/v2"
	"github.com/go-json-experiment/json"
	"golang.org/x/oauth2"

	"github.com/vcsync/vcsync/broker"
	"github.com/vcsync/vcsync/schemas"
)

// OIDC is a provider of identities with which people sign in, such as Entra ID or
// Keycloak. Whom it vouches for may what the groups that it names may, and nothing
// without such a group.
type OIDC struct {
	cfg    oidcFile
	groups map[string][]broker.Grant
	client *http.Client
	// exchanges bounds the sign-ins that ask the provider at once, and discoveries those
	// that ask it where it answers: a provider that hangs must not collect them.
	exchanges, discoveries chan struct{}

	mu       sync.Mutex
	provider *oidc.Provider // nil until it answered
}

// oidcFile is the file of VCSYNC_OIDC_FILE.
type oidcFile struct {
	Issuer       string `json:"issuer"`
	ClientID     string `json:"clientId"`
	ClientSecret string `json:"clientSecret"`
	// URL is where people reach vcsync: the provider sends them back there.
	URL string `json:"url"`
	// Claim names the groups in the token; "groups" where empty.
	Claim string `json:"claim"`
	// Groups says what the members of each group may.
	Groups map[string][]string `json:"groups"`
}

const (
	oidcBegin    = "/signin/oidc"
	oidcCallback = "/signin/oidc/callback"
	// oidcCookie binds the answer of the provider to the browser that asked.
	oidcCookie = "__Host-vcsync-oidc"
	oidcFor    = 10 * time.Minute
	// oidcTokens is how long tokens of an account are good after its owner last signed in:
	// who is gone at the provider signs in no more.
	oidcTokens   = 30 * 24 * time.Hour
	oidcPrefix   = "oidc-"
	oidcAtOnce   = 4
	oidcAccounts = 2000
	oidcTimeout  = 10 * time.Second
	maxOIDC      = 1 << 20
)

// oidcAlgorithms are those of signatures that are taken: none that is made with a secret
// that both know, and not "none".
var oidcAlgorithms = []string{oidc.RS256, oidc.RS384, oidc.RS512, oidc.ES256, oidc.ES384, oidc.ES512, oidc.PS256, oidc.PS384, oidc.PS512, oidc.EdDSA}

// LoadOIDC reads a file that says how people sign in through a provider. Only its owner may
// read it. The error wraps ErrConfig and names every fault; nothing is asked of the
// provider before somebody signs in.
func LoadOIDC(path string) (*OIDC, error) {
	fault := func(format string, a ...any) error {
		return fmt.Errorf("%w: VCSYNC_OIDC_FILE: %s: %w", ErrConfig, path, fmt.Errorf(format, a...))
	}
	info, err := os.Stat(path)
	if err != nil {
		return nil, fault("%w", err)
	}
	if m := info.Mode().Perm(); m&0o077 != 0 && runtime.GOOS != "windows" {
		return nil, fault("mode %04o, so others can read the client's secret: run chmod 600 on it", m)
	}
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, fault("%w", err)
	}
	o := &OIDC{groups: map[string][]broker.Grant{}, exchanges: make(chan struct{}, oidcAtOnce), discoveries: make(chan struct{}, oidcAtOnce)}
	if err := json.Unmarshal(raw, &o.cfg, json.RejectUnknownMembers(true)); err != nil {
		return nil, fault("not the JSON that is wanted: an object with issuer, clientId, clientSecret, url, claim and groups") // the text may hold the secret
	}
	var errs []error
	for name, text := range map[string]string{"issuer": o.cfg.Issuer, "url": o.cfg.URL} {
		u, err := url.Parse(text)
		if err != nil || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" || u.Scheme != "https" && !(u.Scheme == "http" && isLoopback(withPort(u.Host))) {
			errs = append(errs, fault("%s: want https://HOST", name))
		}
	}
	o.cfg.URL = strings.TrimSuffix(o.cfg.URL, "/")
	if u, err := url.Parse(o.cfg.URL); err == nil && u.Path != "" {
		errs = append(errs, fault("url: want no path: people reach vcsync at the top of a host"))
	}
	if o.cfg.ClientID == "" {
		errs = append(errs, fault("clientId: empty"))
	}
	if len(o.cfg.Groups) == 0 {
		errs = append(errs, fault("groups: empty, so nobody could sign in"))
	}
	for name, texts := range o.cfg.Groups {
		for _, text := range texts {
			g, err := broker.ParseGrant(text)
			if err == nil && !slices.Contains(Roles(), Role(g.Role)) {
				err = fmt.Errorf("there is no role %.40q", g.Role)
			}
			if err != nil {
				errs = append(errs, fault("groups: %.80q: %w", name, err))
			}
			o.groups[name] = append(o.groups[name], g)
		}
	}
	if o.cfg.Claim == "" {
		o.cfg.Claim = "groups"
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	o.client = &http.Client{
		Timeout: oidcTimeout,
		CheckRedirect: func(*http.Request, []*http.Request) error {
			return errors.New("the provider redirects, and vcsync follows no redirect")
		},
		Transport: bounded{&http.Transport{TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS12}, TLSHandshakeTimeout: oidcTimeout, MaxIdleConnsPerHost: 1, IdleConnTimeout: time.Minute}},
	}
	return o, nil
}

func withPort(host string) string {
	if _, _, err := net.SplitHostPort(host); err == nil {
		return host
	}
	return net.JoinHostPort(strings.Trim(host, "[]"), "0")
}

// bounded cuts answers that are longer than any of a provider.
type bounded struct{ next *http.Transport }

func (b bounded) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := b.next.RoundTrip(r)
	if err == nil {
		resp.Body = struct {
			io.Reader
			io.Closer
		}{io.LimitReader(resp.Body, maxOIDC), resp.Body}
	}
	return resp, err
}

// Host is the provider's, for people.
func (o *OIDC) Host() string {
	u, err := url.Parse(o.cfg.Issuer)
	if err != nil {
		return o.cfg.Issuer
	}
	return u.Host
}

// errOIDCBusy says that the provider has not answered those who asked before.
var errOIDCBusy = errors.New("others wait for its first answer already")

// ask returns the provider and how to speak to it.
func (o *OIDC) ask(ctx context.Context) (context.Context, *oidc.Provider, *oauth2.Config, error) {
	ctx = oidc.ClientContext(ctx, o.client)
	p, err := o.discover(ctx)
	if err != nil {
		return ctx, nil, nil, err
	}
	return ctx, p, &oauth2.Config{ClientID: o.cfg.ClientID, ClientSecret: o.cfg.ClientSecret, Endpoint: p.Endpoint(),
		RedirectURL: o.cfg.URL + oidcCallback, Scopes: []string{oidc.ScopeOpenID, "profile", "email"}}, nil
}

// discover returns what the provider said of itself; it is asked until it answered once.
func (o *OIDC) discover(ctx context.Context) (*oidc.Provider, error) {
	known := func() *oidc.Provider {
		o.mu.Lock()
		defer o.mu.Unlock()
		return o.provider
	}
	if p := known(); p != nil {
		return p, nil
	}
	select {
	case o.discoveries <- struct{}{}:
		defer func() { <-o.discoveries }()
	default:
		return nil, errOIDCBusy
	}
	// Its keys are asked for later too, so this context must not end with the request.
	p, err := oidc.NewProvider(oidc.ClientContext(context.WithoutCancel(ctx), o.client), o.cfg.Issuer)
	if err != nil {
		return nil, err
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.provider = p
	return p, nil
}

// oidcState is what the cookie holds, sealed.
type oidcState struct {
	State    string    `json:"state"`
	Nonce    string    `json:"nonce"`
	Verifier string    `json:"verifier"`
	Until    time.Time `json:"until"`
}

func randomText() string {
	b := make([]byte, 32)
	_, _ = rand.Read(b) // it never fails
	return base64.RawURLEncoding.EncodeToString(b)
}

func oidcStateCookie(text string) *http.Cookie {
	// Lax: the provider's redirect comes from another site, and has to bring it.
	c := &http.Cookie{Name: oidcCookie, Value: text, Path: "/", Secure: true, HttpOnly: true, SameSite: http.SameSiteLaxMode, MaxAge: int(oidcFor.Seconds())}
	if text == "" {
		c.MaxAge = -1
	}
	return c
}

// serveOIDC sends a browser to the provider.
func (s *Server) serveOIDC(w http.ResponseWriter, r *http.Request) {
	closed, err := s.doorClosed(r.Context())
	if err != nil || !closed {
		s.serveSignIn(w, http.StatusConflict, "There is no admin account yet: make it first, with vcsync account first NAME.")
		return
	}
	_, _, cfg, err := s.cfg.OIDC.ask(r.Context())
	if err != nil {
		s.log.WarnContext(r.Context(), "the identity provider cannot be asked", "issuer", s.cfg.OIDC.cfg.Issuer, "error", err)
		s.serveSignIn(w, http.StatusBadGateway, "The identity provider does not answer; the log has the details. An account of vcsync itself can sign in.")
		return
	}
	st := oidcState{State: randomText(), Nonce: randomText(), Verifier: oauth2.GenerateVerifier(), Until: time.Now().Add(oidcFor)}
	raw, err := json.Marshal(st)
	if err != nil {
		writeProblem(w, http.StatusInternalServerError, "The sign-in cannot begin.")
		return
	}
	http.SetCookie(w, oidcStateCookie(base64.RawURLEncoding.EncodeToString([]byte(s.broker.Keys.Seal(oidcCookie, string(raw))))))
	http.Redirect(w, r, cfg.AuthCodeURL(st.State, oidc.Nonce(st.Nonce), oauth2.S256ChallengeOption(st.Verifier)), http.StatusSeeOther)
}

// errOIDC is why nobody was signed in, for the person. What the provider said is for the
// log alone.
type errOIDC struct {
	status int
	words  string
}

func (e *errOIDC) Error() string { return e.words }

// serveOIDCCallback takes the provider's answer.
func (s *Server) serveOIDCCallback(w http.ResponseWriter, r *http.Request) {
	http.SetCookie(w, oidcStateCookie(""))
	result := signInFailed
	defer func() { s.signIns.add(result) }()
	text, err := s.oidcSession(r)
	if err != nil {
		status, words := http.StatusBadGateway, "The identity provider's answer cannot be taken; the log has the details."
		if e, ok := errors.AsType[*errOIDC](err); ok {
			status, words = e.status, e.words
		} else if e, ok := errors.AsType[huma.StatusError](err); ok {
			status, words = e.GetStatus(), e.Error()
		}
		s.log.WarnContext(r.Context(), "a sign-in through the identity provider failed", "from", remoteAddr(r.Context()), "error", err)
		s.serveSignIn(w, status, words)
		return
	}
	result = signInOK
	http.SetCookie(w, s.sessionCookie(text))
	// A redirect would come from the provider's site, as far as the browser is concerned,
	// and would not bring the cookie. This page goes on by itself.
	w.Header().Set("Content-Security-Policy", signInPolicy)
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	var b bytes.Buffer
	if err := signedInPage.Execute(&b, nil); err == nil { // a fixed text
		_, _ = w.Write(b.Bytes()) // the client may be gone
	}
}

var signedInPage = template.Must(template.New("signed-in").Parse(`<!doctype html><html lang="en"><head><meta charset="utf-8"><meta http-equiv="refresh" content="0;url=/"><title>Signed in – vcsync</title></head><body><main><p>Signed in. <a href="/">Go on</a></p></main></body></html>`))

// oidcSession begins a session for whom the provider vouches.
func (s *Server) oidcSession(r *http.Request) (string, error) {
	again := func(status int, words string) error {
		return &errOIDC{status, words + " Sign in again."}
	}
	c, err := r.Cookie(oidcCookie)
	if err != nil {
		return "", again(http.StatusBadRequest, "This sign-in was not begun in this browser.")
	}
	var st oidcState
	raw, err := base64.RawURLEncoding.DecodeString(c.Value)
	if err == nil {
		var text string
		if text, err = s.broker.Keys.Open(oidcCookie, string(raw)); err == nil {
			err = json.Unmarshal([]byte(text), &st)
		}
	}
	q := r.URL.Query()
	switch {
	case err != nil || st.State == "" || subtle.ConstantTimeCompare([]byte(st.State), []byte(q.Get("state"))) != 1:
		return "", again(http.StatusBadRequest, "This sign-in was not begun in this browser.")
	case time.Now().After(st.Until):
		return "", again(http.StatusBadRequest, "It took longer than ten minutes.")
	case q.Get("error") != "":
		s.log.InfoContext(r.Context(), "the identity provider refused a sign-in", "error", Printable(cut(q.Get("error"), 100), false))
		return "", again(http.StatusForbidden, "The identity provider refused the sign-in.")
	}
	o := s.cfg.OIDC
	select {
	case o.exchanges <- struct{}{}:
		defer func() { <-o.exchanges }()
	default:
		return "", again(http.StatusTooManyRequests, "Too many sign in at once.")
	}
	ctx, cancel := context.WithTimeout(r.Context(), 2*oidcTimeout)
	defer cancel()
	ctx, provider, cfg, err := o.ask(ctx)
	if err != nil {
		return "", err
	}
	token, err := cfg.Exchange(ctx, q.Get("code"), oauth2.VerifierOption(st.Verifier))
	if err != nil {
		if e, ok := errors.AsType[*oauth2.RetrieveError](err); ok { // its text holds the whole answer
			return "", fmt.Errorf("the code was not taken: HTTP %d, %s", e.Response.StatusCode, Printable(cut(e.ErrorCode, 100), false))
		}
		return "", fmt.Errorf("ask for the token: %w", err)
	}
	text, ok := token.Extra("id_token").(string)
	if !ok {
		return "", errors.New("the answer holds no id_token")
	}
	id, err := provider.Verifier(&oidc.Config{ClientID: o.cfg.ClientID, SupportedSigningAlgs: oidcAlgorithms}).Verify(ctx, text)
	if err != nil {
		return "", fmt.Errorf("the id_token is not right: %w", err)
	}
	if st.Nonce == "" || subtle.ConstantTimeCompare([]byte(id.Nonce), []byte(st.Nonce)) != 1 {
		return "", errors.New("the id_token has another nonce")
	}
	claims := map[string]any{}
	if err := id.Claims(&claims); err != nil {
		return "", errors.New("the claims of the id_token cannot be read")
	}
	if azp, there := claims["azp"]; there && azp != o.cfg.ClientID || !there && len(id.Audience) > 1 {
		return "", errors.New("the id_token was made for another client")
	}
	if id.Subject == "" {
		return "", errors.New("the id_token has no subject")
	}
	return s.oidcAccount(r.Context(), id, claims)
}

func cut(text string, n int) string { return text[:min(len(text), n)] }

// grants returns what the groups in the claims may; each name has to be the same, letter
// by letter.
func (o *OIDC) grants(claims map[string]any) (out []broker.Grant) {
	var names []string
	switch v := claims[o.cfg.Claim].(type) {
	case string:
		names = []string{v}
	case []any:
		for _, g := range v {
			if name, ok := g.(string); ok {
				names = append(names, name)
			}
		}
	}
	slices.Sort(names)
	for _, name := range slices.Compact(names) {
		out = append(out, o.groups[name]...)
	}
	return out
}

// oidcName is the name of an account of a provider: of who it is there for good, not of
// what people call him, which may be the name of somebody else here.
func oidcName(issuer, subject string) schemas.Slug {
	sum := sha256.Sum256([]byte(issuer + "\x00" + subject))
	return schemas.Slug(oidcPrefix + strings.ToLower(base32.HexEncoding.WithPadding(base32.NoPadding).EncodeToString(sum[:10])))
}

// oidcAccount makes or renews the account, and begins a session.
func (s *Server) oidcAccount(ctx context.Context, id *oidc.IDToken, claims map[string]any) (string, error) {
	closed, err := s.doorClosed(ctx)
	if err != nil {
		return "", err
	}
	if !closed {
		return "", &errOIDC{http.StatusConflict, "There is no admin account yet: make it first, with vcsync account first NAME."}
	}
	title := ""
	for _, claim := range []string{"preferred_username", "email", "name"} {
		if v, ok := claims[claim].(string); ok && title == "" {
			title = Printable(cut(strings.ToValidUTF8(v, ""), 100), false)
		}
	}
	name := oidcName(id.Issuer, id.Subject)
	grants := s.cfg.OIDC.grants(claims)
	s.writes.Lock()
	defer s.writes.Unlock()
	a, err := s.broker.GetAccount(ctx, name)
	fresh := errors.Is(err, broker.ErrNotFound)
	if err != nil && !fresh {
		return "", err
	}
	if len(grants) == 0 {
		if !fresh {
			if err := s.endExternal(ctx, a); err != nil {
				return "", err
			}
		}
		return "", &errOIDC{http.StatusForbidden, "The identity provider names no group of yours that may do anything here. Ask whoever set up VCSYNC_OIDC_FILE."}
	}
	if a.Disabled {
		return "", &errOIDC{http.StatusForbidden, "The account is disabled."}
	}
	if fresh {
		all, _, err := s.broker.Accounts(ctx)
		if err != nil {
			return "", err
		}
		if len(all) >= oidcAccounts {
			return "", &errOIDC{http.StatusConflict, "There are too many accounts; an admin has to remove some."}
		}
		a.Account = broker.Account{Name: name, External: id.Issuer, Made: time.Now().UTC()}
	}
	text, session := s.newSession(ctx, name, true)
	renew := func(v *broker.Account) error {
		if v.Disabled {
			return &errOIDC{http.StatusForbidden, "The account is disabled."}
		}
		if grantWords(v.Grants) != grantWords(grants) {
			v.Sessions = nil // what they may was another
		}
		v.Title, v.Grants, v.SignedIn = title, grants, session.Begun
		addSession(v, session)
		return nil
	}
	err = s.act(ctx, broker.AuditRecord{Who: whoIs(string(name), title), Action: "session.begin", Object: "account/" + string(name), Detail: "through " + id.Issuer + ", " + grantWords(grants)},
		func(ctx context.Context) error {
			if fresh {
				if err := renew(&a.Account); err != nil {
					return err
				}
				_, err := s.broker.PutAccount(ctx, a.Account, 0)
				return err
			}
			return s.changeAccount(ctx, name, renew)
		})
	return text, err
}

// endExternal takes from an account what it had before its provider said that it may
// nothing: its sessions end, and its tokens are good for nothing until it signs in again.
func (s *Server) endExternal(ctx context.Context, a broker.StoredAccount) error {
	if len(a.Sessions) == 0 && a.SignedIn.IsZero() {
		return nil
	}
	return s.act(ctx, broker.AuditRecord{Who: whoIs(string(a.Name), a.Title), Action: "session.end", Object: "account/" + string(a.Name), Detail: "the identity provider names no group that may do anything"},
		func(ctx context.Context) error {
			return s.changeAccount(ctx, a.Name, func(v *broker.Account) error {
				v.Sessions, v.SignedIn = nil, time.Time{}
				return nil
			})
		})
}

// whoIs names an account in the audit.
func whoIs(name, title string) string {
	if title == "" {
		return name
	}
	return name + " (" + title + ")"
}
