package control_test

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/vcsync/vcsync/broker"
	"github.com/vcsync/vcsync/control"
	"github.com/vcsync/vcsync/schemas"
)

// provider is a stand-in for an identity provider. What it says of a person is what the
// test wants.
type provider struct {
	t   *testing.T
	url string
	key *rsa.PrivateKey

	mu     sync.Mutex
	codes  map[string]url.Values // what was asked for, by code
	claims map[string]any        // over those that are right
	sign   func(raw []byte) string
	down   bool
}

const clientSecret = "s3cret of the client"

func newProvider(t *testing.T) *provider {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	p := &provider{t: t, key: key, codes: map[string]url.Values{}}
	p.sign = func(raw []byte) string { return p.signed(jose.RS256, p.key, raw) }
	mux := http.NewServeMux()
	reply := func(w http.ResponseWriter, v any) {
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(v)
	}
	mux.HandleFunc("GET /.well-known/openid-configuration", func(w http.ResponseWriter, _ *http.Request) {
		reply(w, map[string]any{"issuer": p.url, "authorization_endpoint": p.url + "/auth", "token_endpoint": p.url + "/token", "jwks_uri": p.url + "/keys",
			"id_token_signing_alg_values_supported": []string{"RS256", "HS256", "none"}})
	})
	mux.HandleFunc("GET /keys", func(w http.ResponseWriter, _ *http.Request) {
		reply(w, jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: p.key.Public(), KeyID: "one", Algorithm: "RS256", Use: "sig"}}})
	})
	mux.HandleFunc("POST /token", func(w http.ResponseWriter, r *http.Request) {
		user, pw, _ := r.BasicAuth()
		user, _ = url.QueryUnescape(user)
		pw, _ = url.QueryUnescape(pw)
		p.mu.Lock()
		asked, ok := p.codes[r.PostFormValue("code")]
		delete(p.codes, r.PostFormValue("code"))
		p.mu.Unlock()
		sum := sha256.Sum256([]byte(r.PostFormValue("code_verifier")))
		if !ok || user != "vcsync" || pw != clientSecret || asked.Get("code_challenge") != base64.RawURLEncoding.EncodeToString(sum[:]) || asked.Get("code_challenge_method") != "S256" {
			w.WriteHeader(http.StatusBadRequest)
			reply(w, map[string]string{"error": "invalid_grant", "error_description": "<b>secret words</b>"})
			return
		}
		claims := map[string]any{"iss": p.url, "aud": "vcsync", "sub": "42", "exp": time.Now().Add(time.Hour).Unix(), "iat": time.Now().Unix(),
			"nonce": asked.Get("nonce"), "preferred_username": "root", "groups": []string{"people", "vcsync-operators"}}
		for k, v := range p.claims {
			if claims[k] = v; v == nil {
				delete(claims, k)
			}
		}
		raw, _ := json.Marshal(claims)
		reply(w, map[string]any{"access_token": "access", "token_type": "Bearer", "id_token": p.sign(raw)})
	})
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if p.down {
			http.Redirect(w, r, "http://127.0.0.1:1/elsewhere", http.StatusFound)
			return
		}
		mux.ServeHTTP(w, r)
	}))
	t.Cleanup(srv.Close)
	p.url = srv.URL
	return p
}

func (p *provider) signed(alg jose.SignatureAlgorithm, key any, raw []byte) string {
	s, err := jose.NewSigner(jose.SigningKey{Algorithm: alg, Key: key}, (&jose.SignerOptions{}).WithHeader("kid", "one"))
	if err != nil {
		p.t.Error(err)
		return ""
	}
	sig, err := s.Sign(raw)
	if err != nil {
		p.t.Error(err)
		return ""
	}
	text, _ := sig.CompactSerialize()
	return text
}

// file writes a file of VCSYNC_OIDC_FILE and returns what it says.
func (p *provider) file(more string) *control.OIDC {
	p.t.Helper()
	path := filepath.Join(p.t.TempDir(), "oidc.json")
	text := fmt.Sprintf(`{"issuer":%q,"clientId":"vcsync","clientSecret":%q,"url":"https://vcsync.test","groups":{"vcsync-operators":["operator"],"vcsync-one":["viewer","operator@setting/one"],"admins":["admin"]}%s}`, p.url, clientSecret, more)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		p.t.Fatal(err)
	}
	o, err := control.LoadOIDC(path)
	if err != nil {
		p.t.Fatal(err)
	}
	return o
}

// begin goes to the provider and returns the cookie, and what it is asked for.
func (w *world) begin() (cookie string, asked url.Values) {
	w.t.Helper()
	a := w.do("GET", "/signin/oidc", "")
	to, err := url.Parse(a.header.Get("Location"))
	if a.status != 303 || err != nil || to.Path != "/auth" {
		w.t.Fatalf("%d %v %s", a.status, a.header, a.body)
	}
	set := a.header.Get("Set-Cookie")
	for _, want := range []string{"__Host-vcsync-oidc=", "HttpOnly", "Secure", "SameSite=Lax", "Path=/"} {
		if !strings.Contains(set, want) {
			w.t.Errorf("the cookie %q lacks %s", set, want)
		}
	}
	cookie, _, _ = strings.Cut(set, ";")
	return cookie, to.Query()
}

// back comes from the provider.
func (w *world) back(cookie string, q url.Values) answer {
	w.t.Helper()
	return w.do("GET", "/signin/oidc/callback?"+q.Encode(), "", "Cookie", cookie, "Sec-Fetch-Site", "cross-site", "Sec-Fetch-Mode", "navigate")
}

// through signs in and returns the session, "" with the answer where it was refused.
func (w *world) through(p *provider) (string, answer) {
	w.t.Helper()
	cookie, asked := w.begin()
	code := fmt.Sprint("code-", len(asked.Get("state")), time.Now().UnixNano())
	p.mu.Lock()
	p.codes[code] = asked
	p.mu.Unlock()
	a := w.back(cookie, url.Values{"code": {code}, "state": {asked.Get("state")}})
	for _, set := range a.header["Set-Cookie"] {
		if v, ok := strings.CutPrefix(set, "__Host-vcsync-7780="); ok {
			text, _, _ := strings.Cut(v, ";")
			return "cookie " + text, a
		}
	}
	return "", a
}

func newOIDCWorld(t *testing.T, p *provider) *world {
	w := newWorld(t, func(c *control.Config) { c.OIDC = p.file("") })
	w.srv.Client().CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return w
}

func TestSignInThroughAProvider(t *testing.T) {
	p := newProvider(t)
	w := newOIDCWorld(t, p)
	if a := w.do("GET", "/signin/oidc", ""); a.status != 409 {
		t.Errorf("before there is an admin: %d %s", a.status, a.body)
	}
	root := w.admin("root")
	if page := w.do("GET", "/", ""); !strings.Contains(string(page.body), `href="/signin/oidc"`) {
		t.Errorf("the form does not lead to the provider: %s", page.body)
	}
	session, a := w.through(p)
	if session == "" || a.status != 200 || !strings.Contains(string(a.body), `url=/`) {
		t.Fatalf("%d %s\n%s", a.status, a.body, w.log.String())
	}
	// He is called root there, and is nobody's root here.
	var me control.AccountRecord
	w.as(session, "GET", "/api/v1/me", "").want(200).into(&me)
	if !strings.HasPrefix(me.Name, "oidc-") || me.Title != "root" || me.External != p.url || len(me.Grants) != 1 || me.Grants[0].Role != "operator" {
		t.Fatalf("%+v", me)
	}
	w.as(session, "GET", "/api/v1/accounts", "").want(403)
	path := "/api/v1/accounts/" + me.Name
	w.do("POST", "/api/v1/session", signInBody(me.Name, "")).want(401)
	w.as(session, "POST", "/api/v1/me/password", `{"old":"","new":"a long password"}`).want(409, "identity provider")
	w.as(root, "POST", path+"/password", `{"password":"a long password"}`, "If-Match", "*").want(409, "identity provider")
	w.as(root, "PUT", path, `{"grants":[{"role":"admin"}]}`, "If-Match", "*").want(409, "groups")
	w.as(root, "POST", "/api/v1/accounts", fmt.Sprintf(`{"name":"oidc-x","password":%q,"grants":[{"role":"viewer"}]}`, personal)).want(422)
	w.putServer("a")
	w.as(session, "POST", "/api/v1/sources/a/poll", "").want2(202)
	if got := w.audits(); got[len(got)-1].Who != me.Name+" (root)" {
		t.Errorf("the audit says %q", got[len(got)-1].Who)
	}

	// The same person again is the same account; other groups end what went before.
	var made control.MadeToken
	w.as(session, "POST", "/api/v1/me/tokens", `{"name":"night","days":300}`).want(201).into(&made)
	token := "Bearer " + made.Token
	p.claims = map[string]any{"groups": []string{"vcsync-one", "ADMINS", "admins ", "not-admins", "admin"}, "preferred_username": "root\x1b[31m\u202e<b>"}
	second, _ := w.through(p)
	w.as(session, "GET", "/api/v1/me", "").want(401)
	var now control.AccountRecord
	w.as(second, "GET", "/api/v1/me", "").want(200).into(&now)
	if now.Name != me.Name || len(now.Grants) != 2 || now.Grants[1].Settings[0] != "one" || strings.ContainsAny(now.Title, "\x1b\u202e") {
		t.Errorf("%+v", now)
	}
	w.as(token, "POST", "/api/v1/sources/a/poll", "").want(403)
	// A name at the provider may be given to somebody else: another subject is another account.
	p.claims = map[string]any{"sub": "43"}
	third, _ := w.through(p)
	w.as(third, "GET", "/api/v1/me", "").want(200).into(&now)
	if now.Name == me.Name {
		t.Error("two people have one account")
	}
	p.claims = map[string]any{"groups": "admins"} // one group as a text
	if s, _ := w.through(p); s == "" {
		t.Error("a group that is no list")
	} else {
		w.as(s, "GET", "/api/v1/accounts", "").want(200)
	}
	// He who is admin there only does not keep the door: the last of vcsync's own stays.
	w.as(root, "DELETE", "/api/v1/accounts/root", "", "If-Match", "*").want(409)

	// Who signs in no more at the provider has no tokens after a month.
	w.as(token, "GET", "/api/v1/me", "").want(200)
	w.edit(schemas.Slug(me.Name), func(a *broker.Account) { a.SignedIn = time.Now().Add(-31 * 24 * time.Hour) })
	w.as(token, "GET", "/api/v1/me", "").want(401)
	w.as(root, "PUT", path, `{"grants":[{"role":"admin"}],"disabled":true}`, "If-Match", "*").want(200)
	if s, a := w.through(p); s != "" || a.status != 403 {
		t.Errorf("a disabled account: %d %s", a.status, a.body)
	}
	// Whom the provider takes out of every group has no session and no token from then on.
	p.claims = map[string]any{"sub": "44"}
	fourth, _ := w.through(p)
	w.as(fourth, "POST", "/api/v1/me/tokens", `{"name":"night","days":300}`).want(201).into(&made)
	w.as("Bearer "+made.Token, "GET", "/api/v1/me", "").want(200)
	p.claims = map[string]any{"sub": "44", "groups": []string{"people"}}
	for range 2 {
		if s, a := w.through(p); s != "" || a.status != 403 {
			t.Errorf("in no group: %d %s", a.status, a.body)
		}
	}
	w.as(fourth, "GET", "/api/v1/me", "").want(401)
	w.as("Bearer "+made.Token, "GET", "/api/v1/me", "").want(401)
	ends := 0
	for _, r := range w.audits() {
		if r.Action == "session.end" && strings.Contains(r.Detail, "no group") {
			ends++
		}
	}
	if ends != 1 {
		t.Errorf("the audit has it %d times, want once", ends)
	}
	for where, text := range map[string]string{"log": w.log.String(), "answers": w.answers.String()} {
		if strings.Contains(text, clientSecret) || strings.Contains(text, "secret words") {
			t.Errorf("the client's secret, or what the provider said, stands in the %s", where)
		}
	}
}

// TestAProviderThatHangs collects no sign-ins: a few wait for it, and the rest is told so.
func TestAProviderThatHangs(t *testing.T) {
	p := newProvider(t)
	asked, free := make(chan struct{}, 100), make(chan struct{})
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked <- struct{}{}
		<-free
		http.Error(w, "gone", http.StatusBadGateway)
	}))
	t.Cleanup(srv.Close)
	p.url = srv.URL
	w := newOIDCWorld(t, p)
	w.admin("root")
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() { w.do("GET", "/signin/oidc", "") })
		<-asked
	}
	for range 20 {
		if a := w.do("GET", "/signin/oidc", ""); a.status != 502 {
			t.Errorf("while four wait: %d %s", a.status, a.body)
		}
	}
	close(free)
	wg.Wait()
	if len(asked) != 0 {
		t.Errorf("%d more were sent to the provider", len(asked))
	}
}

// TestAProviderIsNotBelieved has it, or somebody in its place, say what is not right.
func TestAProviderIsNotBelieved(t *testing.T) {
	p := newProvider(t)
	w := newOIDCWorld(t, p)
	w.admin("root")
	other, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	right := p.sign
	public, err := json.Marshal(p.key.Public())
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		claims map[string]any
		sign   func([]byte) string
		status int
	}{
		"another audience":      {claims: map[string]any{"aud": "another"}},
		"another issuer":        {claims: map[string]any{"iss": "https://evil.example"}},
		"it has expired":        {claims: map[string]any{"exp": time.Now().Add(-time.Minute).Unix()}},
		"another nonce":         {claims: map[string]any{"nonce": "another"}},
		"no nonce":              {claims: map[string]any{"nonce": nil}},
		"made for another":      {claims: map[string]any{"azp": "another"}},
		"two and no azp":        {claims: map[string]any{"aud": []string{"vcsync", "another"}}},
		"no subject":            {claims: map[string]any{"sub": ""}},
		"another key":           {sign: func(raw []byte) string { return p.signed(jose.RS256, other, raw) }},
		"the client's secret":   {sign: func(raw []byte) string { return p.signed(jose.HS256, []byte(clientSecret+"................"), raw) }},
		"the public key as one": {sign: func(raw []byte) string { return p.signed(jose.HS256, public, raw) }},
		"none": {sign: func(raw []byte) string {
			return base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"none"}`)) + "." + base64.RawURLEncoding.EncodeToString(raw) + "."
		}},
		"no token":          {sign: func([]byte) string { return "" }},
		"no group":          {claims: map[string]any{"groups": []string{"people"}}, status: 403},
		"no claim":          {claims: map[string]any{"groups": nil}, status: 403},
		"groups of numbers": {claims: map[string]any{"groups": []int{1}}, status: 403},
		"groups of objects": {claims: map[string]any{"groups": map[string]string{"admins": "admins"}}, status: 403},
	} {
		p.claims, p.sign = c.claims, right
		if c.sign != nil {
			p.sign = c.sign
		}
		s, a := w.through(p)
		if want := max(c.status, 400); s != "" || c.status != 0 && a.status != want || c.status == 0 && a.status != 502 {
			t.Errorf("%s: %d %q", name, a.status, s)
		}
	}
	p.claims, p.sign = nil, right

	// Somebody else's answer, or one that was not asked for.
	code := func() (string, url.Values) {
		cookie, asked := w.begin()
		p.mu.Lock()
		p.codes["c"] = asked
		p.mu.Unlock()
		return cookie, url.Values{"code": {"c"}, "state": {asked.Get("state")}}
	}
	mine, q := code()
	theirs, _ := code()
	for name, a := range map[string]answer{
		"no cookie":        w.back("", q),
		"another browser":  w.back(theirs, q),
		"a made up cookie": w.back("__Host-vcsync-oidc="+base64.RawURLEncoding.EncodeToString([]byte(`{"state":"x"}`)), url.Values{"state": {"x"}, "code": {"c"}}),
		"no state":         w.back(mine, url.Values{"code": {"c"}}),
	} {
		if a.status != 400 || strings.Contains(strings.Join(a.header["Set-Cookie"], " "), "__Host-vcsync-7780=") {
			t.Errorf("%s: %d %v", name, a.status, a.header["Set-Cookie"])
		}
	}
	a := w.back(mine, url.Values{"state": q["state"], "error": {"<script>alert(1)</script>"}})
	if a.status != 403 || strings.Contains(string(a.body), "<script>") {
		t.Errorf("an error of the provider: %d %s", a.status, a.body)
	}
	// A code with another verifier, and a code that was used.
	p.mu.Lock()
	p.codes["c"] = url.Values{"code_challenge": {"another"}, "code_challenge_method": {"S256"}}
	p.mu.Unlock()
	for range 2 {
		if a := w.back(mine, q); a.status != 502 || strings.Contains(string(a.body), "secret words") {
			t.Errorf("%d %s", a.status, a.body)
		}
	}
	w.do("GET", "/signin/oidc/callback", "", "Sec-Fetch-Site", "cross-site", "Sec-Fetch-Mode", "cors").want(403)

	// A provider that redirects is not followed, and an account of vcsync's own still gets in.
	p2 := newProvider(t)
	p2.down = true
	w2 := newOIDCWorld(t, p2)
	w2.admin("root")
	if a := w2.do("GET", "/signin/oidc", ""); a.status != 502 {
		t.Errorf("%d %s", a.status, a.body)
	}
	w2.signIn("root")
}

func TestOIDCFileFaults(t *testing.T) {
	dir := t.TempDir()
	load := func(text string, mode os.FileMode) error {
		path := filepath.Join(dir, fmt.Sprint(mode, len(text)))
		_ = os.Remove(path)
		if err := os.WriteFile(path, []byte(text), mode); err != nil {
			t.Fatal(err)
		}
		_, err := control.LoadOIDC(path)
		return err
	}
	const good = `{"issuer":"https://id.example","clientId":"c","clientSecret":"very s3cret","url":"https://vcsync.example","groups":{"g":["viewer"]}}`
	if err := load(good, 0o600); err != nil {
		t.Fatal(err)
	}
	for text, want := range map[string]string{
		strings.Replace(good, "https://id", "http://id", 1):            "issuer",
		strings.Replace(good, "https://vcsync", "http://0.0.0.0/", 1):  "url",
		strings.Replace(good, "vcsync.example", "vcsync.example/x", 1): "no path",
		strings.Replace(good, `"viewer"`, `"king"`, 1):                 "no role",
		strings.Replace(good, `"viewer"`, `"viewer@job/x"`, 1):         "ROLE@setting",
		strings.Replace(good, `{"g":["viewer"]}`, `{}`, 1):             "nobody could sign in",
		strings.Replace(good, `"clientId":"c",`, ``, 1):                "clientId",
		strings.Replace(good, `"clientId"`, `"client_id"`, 1):          "not the JSON",
		"very s3cret": "not the JSON",
	} {
		err := load(text, 0o600)
		if !errors.Is(err, control.ErrConfig) || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "s3cret") {
			t.Errorf("%s: %v, want it to say %q", text, err, want)
		}
	}
	if err := load(good, 0o644); err == nil || !strings.Contains(err.Error(), "chmod 600") {
		t.Errorf("a file that others can read: %v", err)
	}
}
