package control

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/crc32"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"time"

	"golang.org/x/crypto/argon2"

	"github.com/vcsync/vcsync/broker"
	"github.com/vcsync/vcsync/schemas"
)

// principal is who makes a request.
type principal struct {
	name   string
	title  string
	grants []broker.Grant
	// limit is a token's; nil where there is none.
	limit []broker.Grant
	// secret is the hash of the session or token; "" for the local one.
	secret string
	cookie bool
}

type principalKey struct{}

func principalOf(ctx context.Context) (principal, bool) {
	p, ok := ctx.Value(principalKey{}).(principal)
	return p, ok
}

// who names the principal of a request.
func who(ctx context.Context) string {
	if p, ok := principalOf(ctx); ok {
		return whoIs(p.name, p.title)
	}
	return "local"
}

const (
	// cookiePrefix keeps the cookie to this host, to secure connections and to all paths.
	cookiePrefix = "__Host-vcsync"
	// cookieHeader must be there with a cookie where something is changed: no form can
	// send it, and no other origin may.
	cookieHeader = "X-Vcsync"

	sessionIdle = 30 * time.Minute
	sessionMost = 8 * time.Hour
	// touchEvery is how exact the last use of a session or token is.
	touchEvery  = time.Minute
	maxSessions = 20
	maxTokens   = 50
	tokenMost   = 366 * 24 * time.Hour

	secretPrefix = "vcs_"
	secretRandom = 43 // 32 bytes in base64
	secretSum    = 8
)

// cookieName has the port in it: to a browser all ports of a host are one.
func (s *Server) cookieName() string {
	_, port, err := net.SplitHostPort(s.cfg.Addr)
	if err != nil {
		return cookiePrefix
	}
	return cookiePrefix + "-" + port
}

// errRefused says that a secret is good for nothing, for whatever reason.
var errRefused = errors.New("no such session or token")

// newSecret makes a secret of an account, and the hash that is kept of it. The account's
// name stands in it, so that it is looked up without a table, and a checksum ends it, so
// that scanners know it from random text.
func newSecret(account schemas.Slug) (text, hash string) {
	random := make([]byte, 32)
	_, _ = rand.Read(random) // it never fails
	text = secretPrefix + string(account) + "_" + base64.RawURLEncoding.EncodeToString(random)
	text += fmt.Sprintf("%08x", crc32.ChecksumIEEE([]byte(text)))
	return text, hashSecret(text)
}

func hashSecret(text string) string {
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:])
}

// accountOf returns the account that a secret names.
func accountOf(text string) (schemas.Slug, error) {
	rest, ok := strings.CutPrefix(text, secretPrefix)
	if !ok || len(rest) < 1+1+secretRandom+secretSum || len(rest) > 200 {
		return "", errRefused
	}
	body, sum := text[:len(text)-secretSum], text[len(text)-secretSum:]
	if fmt.Sprintf("%08x", crc32.ChecksumIEEE([]byte(body))) != sum {
		return "", errRefused
	}
	name := rest[:len(rest)-secretSum-secretRandom]
	if !strings.HasSuffix(name, "_") {
		return "", errRefused
	}
	id, err := schemas.ParseSlug(strings.TrimSuffix(name, "_"))
	if err != nil {
		return "", errRefused
	}
	return id, nil
}

// verify is the one function that tells whose a session or token is. The error is
// errRefused, or says that this cannot be known now.
func (s *Server) verify(ctx context.Context, text string, cookie bool) (principal, error) {
	name, err := accountOf(text)
	if err != nil {
		return principal{}, err
	}
	return s.verifyHash(ctx, name, hashSecret(text), cookie, true)
}

func (s *Server) verifyHash(ctx context.Context, name schemas.Slug, hash string, cookie, touch bool) (principal, error) {
	a, err := s.broker.GetAccount(ctx, name)
	if errors.Is(err, broker.ErrNotFound) {
		return principal{}, errRefused
	}
	if err != nil {
		return principal{}, err
	}
	if a.Disabled {
		return principal{}, errRefused
	}
	now := time.Now()
	same := func(have string) bool { return subtle.ConstantTimeCompare([]byte(have), []byte(hash)) == 1 }
	for i := range a.Sessions {
		v := &a.Sessions[i]
		if !same(v.Hash) {
			continue
		}
		// What a browser sends to every port of this host is no use as a header.
		if now.After(v.Expires) || now.Sub(v.Used) > sessionIdle || v.Cookie != cookie {
			return principal{}, errRefused
		}
		s.touch(ctx, a, &v.Used, now, touch)
		return principal{name: string(name), title: a.Title, grants: a.Grants, secret: hash, cookie: cookie}, nil
	}
	for i := range a.Tokens {
		v := &a.Tokens[i]
		if !same(v.Hash) {
			continue
		}
		if now.After(v.Expires) || cookie || a.External != "" && now.Sub(a.SignedIn) > oidcTokens {
			return principal{}, errRefused
		}
		s.touch(ctx, a, &v.Used, now, touch)
		return principal{name: string(name), title: a.Title, grants: a.Grants, limit: v.Limit, secret: hash}, nil
	}
	return principal{}, errRefused
}

// touch notes a use. That another change came between costs a minute, no more.
func (s *Server) touch(ctx context.Context, a broker.StoredAccount, used *time.Time, now time.Time, touch bool) {
	if !touch || now.Sub(*used) < touchEvery {
		return
	}
	*used = now.UTC()
	if _, err := s.broker.PutAccount(ctx, a.Account, a.Revision); err != nil && !errors.Is(err, broker.ErrConflict) {
		s.log.WarnContext(ctx, "the last use of a session or token cannot be noted", "account", a.Name, "error", err)
	}
}

// still tells whether the session or token of a request that goes on for long is good
// yet, without keeping it alive.
func (s *Server) still(ctx context.Context) bool {
	p, ok := principalOf(ctx)
	if !ok {
		return false
	}
	if p.secret == "" {
		closed, err := s.doorClosed(ctx)
		return err == nil && !closed
	}
	_, err := s.verifyHash(ctx, schemas.Slug(p.name), p.secret, p.cookie, false)
	return !errors.Is(err, errRefused)
}

// doorClosed tells whether an account is needed. Once it is, it is for good.
func (s *Server) doorClosed(ctx context.Context) (bool, error) {
	if s.closed.Load() {
		return true, nil
	}
	closed, err := s.broker.DoorClosed(ctx)
	if err == nil && closed {
		s.closed.Store(true)
	}
	return closed || err != nil, err
}

// admitted remembers who was let in to look, for the time in which the store cannot be
// read: then above all the metrics and the status page say what is wrong.
type admitted struct {
	sync.Mutex
	at map[string]time.Time
}

const (
	// admittedFor is how long who was let in may look on without a store.
	admittedFor  = 15 * time.Minute
	admittedMost = 1000
)

// looks tells whether a request only looks at the metrics or the status page.
func looks(r *http.Request) bool {
	return r.Method == http.MethodGet && (r.URL.Path == "/metrics" || r.URL.Path == "/")
}

func (a *admitted) note(secret string) {
	now := time.Now()
	a.Lock()
	defer a.Unlock()
	if len(a.at) >= admittedMost {
		a.at = nil
	}
	if a.at == nil {
		a.at = map[string]time.Time{}
	}
	a.at[secret] = now
}

func (a *admitted) forget(secret string) {
	a.Lock()
	defer a.Unlock()
	delete(a.at, secret)
}

func (a *admitted) has(secret string) bool {
	a.Lock()
	defer a.Unlock()
	at, ok := a.at[secret]
	return ok && time.Since(at) < admittedFor
}

// identify tells who makes a request. Where nobody does, the status and words say why.
func (s *Server) identify(r *http.Request) (principal, int, string) {
	p, secret, status, words := s.identified(r)
	switch {
	case !looks(r):
	case status == 0:
		s.looked.note(p.secret)
	case status == http.StatusUnauthorized && secret != "":
		s.looked.forget(secret)
	case status == http.StatusServiceUnavailable && s.looked.has(secret) && !(secret == "" && s.closed.Load()):
		return principal{name: "without a store"}, 0, ""
	}
	return p, status, words
}

func (s *Server) identified(r *http.Request) (p principal, secret string, status int, words string) {
	const signIn = "Sign in: vcsync login, or send a token as Authorization: Bearer TOKEN."
	var text string
	fromCookie := false
	switch given, ok := r.Header["Authorization"]; {
	case ok:
		scheme, rest, _ := strings.Cut(strings.Join(given, ","), " ")
		if text = strings.TrimSpace(rest); !strings.EqualFold(scheme, "Bearer") || text == "" {
			return p, secret, http.StatusUnauthorized, "The header Authorization holds no Bearer token. " + signIn
		}
	default:
		if c, err := r.Cookie(s.cookieName()); err == nil {
			text, fromCookie = c.Value, true
		}
	}
	if text == "" {
		closed, err := s.doorClosed(r.Context())
		if err != nil {
			s.log.ErrorContext(r.Context(), "it cannot be known whether there are accounts", "error", err)
			return p, secret, http.StatusServiceUnavailable, "The store cannot be read; the log has the details."
		}
		if closed {
			return p, secret, http.StatusUnauthorized, signIn
		}
		return principal{name: "local", grants: []broker.Grant{{Role: string(Admin)}}}, "", 0, ""
	}
	secret = hashSecret(text)
	p, err := s.verify(r.Context(), text, fromCookie)
	switch {
	case errors.Is(err, errRefused):
		return p, secret, http.StatusUnauthorized, "The session or token is not known, has expired, or was revoked. " + signIn
	case err != nil:
		s.log.ErrorContext(r.Context(), "an account cannot be read", "error", err)
		return p, secret, http.StatusServiceUnavailable, "The store cannot be read; the log has the details."
	}
	if p.cookie = fromCookie; fromCookie && r.Method != http.MethodGet && r.Method != http.MethodHead && r.Header.Get(cookieHeader) == "" {
		return principal{}, "", http.StatusForbidden, "With a cookie, a change needs the header " + cookieHeader + "."
	}
	return p, secret, 0, ""
}

// The password hash: argon2id with what OWASP asks for and more.
const (
	hashMemory  = 64 << 10 // KiB
	hashTime    = 3
	hashThreads = 1
	hashBytes   = 32
	// atOnce bounds the hashes that are computed at once, so that sign-ins take 128 MiB
	// at most, and waiting those that wait.
	hashesAtOnce  = 2
	hashesWaiting = 16
)

// addresses counts wrong passwords by the address that they come from, so that somebody who
// tries one password with many accounts waits too. This machine's own address is not
// counted: behind a tunnel it is everybody's. It is in memory; what is counted by account
// is in the store.
type addresses struct {
	sync.Mutex
	of map[string]failures
}

type failures struct {
	n    int
	last time.Time
}

const (
	// addressFree is how many wrong passwords of an address cost nothing, addressFor how long
	// they are remembered, addressesMost how many addresses are.
	addressFree   = 10
	accountFree   = 5
	addressFor    = 15 * time.Minute
	addressesMost = 10000
)

// wait is how long a key waits now: an address, or an account that is not there, for which
// so many cost nothing.
func (a *addresses) wait(key string, free int) time.Duration {
	a.Lock()
	defer a.Unlock()
	f := a.of[addressOf(key)]
	return time.Until(f.last.Add(delay(f.n - free + 5)))
}

// wrongFrom counts a wrong password of an address.
func (a *addresses) wrongFrom(from string) {
	if ip := net.ParseIP(addressOf(from)); ip != nil && !ip.IsLoopback() {
		a.wrong(from)
	}
}

// wrong counts a wrong password.
func (a *addresses) wrong(key string) {
	key = addressOf(key)
	now := time.Now()
	a.Lock()
	defer a.Unlock()
	if len(a.of) >= addressesMost {
		maps.DeleteFunc(a.of, func(_ string, f failures) bool { return now.Sub(f.last) > addressFor })
	}
	if len(a.of) >= addressesMost {
		return // so many at once are no person; the accounts wait by themselves
	}
	if a.of == nil {
		a.of = map[string]failures{}
	}
	f := a.of[key]
	if now.Sub(f.last) > addressFor {
		f.n = 0
	}
	a.of[key] = failures{f.n + 1, now}
}

// addressOf returns the address without its port; of IPv6 the network, which is one
// subscriber's.
func addressOf(from string) string {
	host, _, err := net.SplitHostPort(from)
	if err != nil {
		host = from
	}
	if ip, err := netip.ParseAddr(host); err == nil {
		if ip = ip.Unmap().WithZone(""); ip.Is6() && !ip.IsLoopback() {
			if p, err := ip.Prefix(64); err == nil {
				return p.Addr().String()
			}
		}
		return ip.String()
	}
	return host
}

// errBusy says that too many sign in at once.
var errBusy = errors.New("too many sign-ins at once")

// hasher computes password hashes, few at a time.
type hasher struct{ queue, slots chan struct{} }

func newHasher() *hasher {
	return &hasher{make(chan struct{}, hashesAtOnce+hashesWaiting), make(chan struct{}, hashesAtOnce)}
}

func (h *hasher) do(ctx context.Context, f func()) error {
	select {
	case h.queue <- struct{}{}:
		defer func() { <-h.queue }()
	default:
		return errBusy
	}
	select {
	case h.slots <- struct{}{}:
		defer func() { <-h.slots }()
	case <-ctx.Done():
		return ctx.Err()
	}
	f()
	return nil
}

// hash returns the hash of a password with its parameters, in the form that others use.
func (h *hasher) hash(ctx context.Context, password string) (out string, err error) {
	salt := make([]byte, 16)
	_, _ = rand.Read(salt) // it never fails
	err = h.do(ctx, func() {
		sum := argon2.IDKey([]byte(password), salt, hashTime, hashMemory, hashThreads, hashBytes)
		b := base64.RawStdEncoding
		out = currentHash + b.EncodeToString(salt) + "$" + b.EncodeToString(sum)
	})
	return out, err
}

// currentHash begins the hashes that are made now.
var currentHash = fmt.Sprintf("$argon2id$v=%d$m=%d,t=%d,p=%d$", argon2.Version, hashMemory, hashTime, hashThreads)

// same tells whether a password has that hash. It takes as long for a hash that is none,
// so that nobody learns which accounts there are.
func (h *hasher) same(ctx context.Context, password, hash string) (ok bool, err error) {
	memory, times, threads := uint32(hashMemory), uint32(hashTime), uint8(hashThreads)
	salt, want := make([]byte, 16), []byte(nil)
	if parts := strings.Split(hash, "$"); len(parts) == 6 && parts[1] == "argon2id" {
		var m, t uint32
		var p uint8
		s, serr := base64.RawStdEncoding.DecodeString(parts[4])
		w, werr := base64.RawStdEncoding.DecodeString(parts[5])
		if _, err := fmt.Sscanf(parts[3], "m=%d,t=%d,p=%d", &m, &t, &p); err == nil && serr == nil && werr == nil && m > 0 && m <= 1<<20 && t > 0 && t <= 16 && p > 0 && len(w) == hashBytes {
			memory, times, threads, salt, want = m, t, p, s, w
		}
	}
	err = h.do(ctx, func() {
		sum := argon2.IDKey([]byte(password), salt, times, memory, threads, hashBytes)
		ok = want != nil && subtle.ConstantTimeCompare(sum, want) == 1
	})
	return ok, err
}
