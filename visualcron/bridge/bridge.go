// Package bridge speaks to a VisualCron server through the bridge contract: HTTP
// and JSON, described in openapi.yaml. On Windows a small service beside the
// server answers it through VisualCron's own .NET API; package standin answers it
// for demos and tests.
//
// It promises three things. What it returns was asked for and is whole: one object
// with the asked id, or a listing read to its proven end, from the server that was
// meant. Every failure has the class that says what may have happened at the
// server; where that is not known, the class is one of unknown outcome. And no
// password, token or address stands in an error, a log or a printed Bridge.
//
// The contract is vcsync's own; no VisualCron server has been seen behind it.
package bridge

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/semaphore"

	"github.com/vcsync/vcsync/schemas"
	"github.com/vcsync/vcsync/visualcron"
)

// OpenAPI is the contract, OpenAPI 3.1 in YAML.
//
//go:embed openapi.yaml
var OpenAPI []byte

// ErrConfig says that a Bridge cannot be made of its configuration.
var ErrConfig = errors.New("invalid bridge configuration")

// Defaults of visualcron.Config, and what has no place there.
const (
	defaultRequestTimeout = 10 * time.Second
	defaultListTimeout    = 10 * time.Minute
	defaultListIdle       = 30 * time.Second

	// watchIdle bounds the silence of a change feed: three missed signs of life,
	// which the contract asks for every 15 s.
	watchIdle = 45 * time.Second
	// idleConns is how many idle connections are kept: as many as a target has
	// writes at once, so that none opens a connection of its own.
	idleConns = 16
	// maxSmall bounds an answer that holds no object.
	maxSmall = 1 << 20
	// unacknowledged is how long what was sent may stay without the other end's
	// acknowledgement; less than a lease of the shortest kind (10 s) has left after the
	// last look at it.
	unacknowledged = 5 * time.Second
	// maxLarge bounds what all answers of a server take together beyond the first MiB
	// of each.
	maxLarge = visualcron.MaxBody
	// maxProblem bounds what is read of an answer that tells of an error.
	maxProblem = 64 << 10
	// maxRetryAfter bounds what a server may ask to wait.
	maxRetryAfter = time.Hour

	identityHeader = "VisualCron-Server-Id"
	secretsHeader  = "VisualCron-Secrets"
)

// Bridge is a visualcron.Connector.
type Bridge struct {
	server   schemas.Slug
	base     *url.URL
	user     string
	password secret

	requestTimeout time.Duration
	listTimeout    time.Duration
	listIdle       time.Duration

	allowed   visualcron.Reach
	transport http.RoundTripper
	large     *semaphore.Weighted              // bytes of answers beyond the first MiB of each
	until     atomic.Pointer[func() time.Time] // nil where nothing bounds it

	mu       sync.Mutex
	identity string // as configured or learned; "" before
	types    map[schemas.Type]visualcron.Capability
	session  secret   // the token; unset before the first logon
	flight   *logon   // the logon that is under way
	retired  []secret // earlier tokens, still to be kept out of texts
	peer     *visualcron.Certificate
}

var _ visualcron.Connector = (*Bridge)(nil)

// Option changes how a Bridge is made.
type Option func(*Bridge) error

// WithTransport sends the requests through rt instead of a transport of the
// Bridge's own. It must not follow redirects. It should honour httptrace or return
// a *net.OpError with Op "dial" where nothing was sent; any other error counts as
// one after which the outcome is unknown. Close closes its idle connections where
// it has a CloseIdleConnections. The error wraps ErrConfig for nil.
func WithTransport(rt http.RoundTripper) Option {
	return func(b *Bridge) error {
		if rt == nil {
			return fmt.Errorf("%w: the transport is nil", ErrConfig)
		}
		b.transport = rt
		return nil
	}
}

// WithIdentity binds the Bridge to the server with that id: any other one is
// answered with class WrongServer. Without it, or with "", the id that the first
// Server call brings is the one.
func WithIdentity(id string) Option {
	return func(b *Bridge) error {
		b.identity = id
		return nil
	}
}

// New returns a Bridge to the server at cfg.Address; it connects at the first
// call. The password stays in memory, the token too. Proxies of the environment
// are not used. All faults are reported at once, each wrapping ErrConfig.
func New(cfg visualcron.Config, opts ...Option) (*Bridge, error) {
	b := &Bridge{
		server: cfg.Server, user: cfg.User, password: newSecret(cfg.Password),
		requestTimeout: cfg.RequestTimeout, listTimeout: cfg.ListTimeout, listIdle: cfg.ListIdle,
		large: semaphore.NewWeighted(maxLarge), allowed: cfg.Reach,
	}
	var errs []error
	for _, d := range []struct {
		path string
		have *time.Duration
		def  time.Duration
	}{{"request timeout", &b.requestTimeout, defaultRequestTimeout}, {"list timeout", &b.listTimeout, defaultListTimeout},
		{"list idle", &b.listIdle, defaultListIdle}} {
		switch {
		case *d.have < 0:
			errs = append(errs, fmt.Errorf("%w: %s %s, want above 0", ErrConfig, d.path, *d.have))
		case *d.have == 0:
			*d.have = d.def
		}
	}
	base, err := url.Parse(cfg.Address)
	switch {
	case err != nil:
		errs = append(errs, fmt.Errorf("%w: address: not a URL", ErrConfig)) // the cause quotes it, a password in it included
	case base.Scheme != "http" && base.Scheme != "https", base.Host == "":
		errs = append(errs, fmt.Errorf("%w: address: want http://host:port or https://host:port", ErrConfig))
	case base.User != nil || base.RawQuery != "" || base.Fragment != "":
		errs = append(errs, fmt.Errorf("%w: address: must hold no user, query or fragment", ErrConfig))
	}
	b.base = base
	for _, o := range opts {
		if err := o(b); err != nil {
			errs = append(errs, err)
		}
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	if b.transport == nil {
		b.transport = &http.Transport{
			Proxy:               nil, // the servers are inside; a proxy would see the account
			DialContext:         b.dial,
			TLSClientConfig:     b.tlsConfig(cfg.Pins),
			TLSHandshakeTimeout: b.requestTimeout,
			MaxIdleConnsPerHost: idleConns,
			IdleConnTimeout:     time.Minute, // below the server's, so that a write seldom meets a connection just closed
			DisableCompression:  true,
		}
	}
	return b, nil
}

var errTooLate = errors.New("not sent: the time in which it may be sent is over")

// NotAfter is of visualcron.Bounded.
func (b *Bridge) NotAfter(until func() time.Time) { b.until.Store(&until) }

func (b *Bridge) tooLate() error {
	if until := b.until.Load(); until != nil && !time.Now().Before((*until)()) {
		return errTooLate
	}
	return nil
}

// dial connects, and bounds what is sent.
func (b *Bridge) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	d := net.Dialer{Timeout: b.requestTimeout, KeepAlive: 30 * time.Second, Control: b.reach(hostOf(addr))}
	c, err := d.DialContext(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	if t, ok := c.(*net.TCPConn); ok {
		// Closing drops what the system has not delivered yet: a request that was given
		// up must not arrive minutes later, when a network is whole again.
		if err := t.SetLinger(0); err != nil {
			c.Close()
			return nil, err
		}
	}
	return &boundedConn{c, b}, nil
}

// boundedConn looks at the clock before it sends.
type boundedConn struct {
	net.Conn
	b *Bridge
}

// Write sends what net/http gives it, which are pieces of 32 KiB of a large body.
func (c *boundedConn) Write(p []byte) (int, error) {
	if err := c.b.tooLate(); err != nil {
		return 0, err
	}
	return c.Conn.Write(p)
}

// String names the server; it holds no secret.
func (b *Bridge) String() string { return "bridge to " + string(b.server) }

// GoString is String.
func (b *Bridge) GoString() string { return b.String() }

// LogValue is String.
func (b *Bridge) LogValue() slog.Value { return slog.StringValue(b.String()) }

// Close closes idle connections.
func (b *Bridge) Close() error {
	if c, ok := b.transport.(interface{ CloseIdleConnections() }); ok {
		c.CloseIdleConnections()
	}
	return nil
}

// path puts a resource under the base address. Segments are escaped here, not by
// package url, so that "." and ".." and a slash in an id travel as they are.
func (b *Bridge) path(segments ...string) *url.URL {
	u := *b.base
	plain, raw := strings.TrimSuffix(u.Path, "/")+"/api/v1", strings.TrimSuffix(u.EscapedPath(), "/")+"/api/v1"
	for _, s := range segments {
		plain += "/" + s
		raw += "/" + escapeSegment(s)
	}
	u.Path, u.RawPath = plain, raw
	return &u
}

// escapeSegment percent-encodes all but letters, digits, "-", "_" and "~", and
// dots that could not be taken for a path of their own.
func escapeSegment(s string) string {
	const plain = "-_~"
	dots := strings.Trim(s, ".") == ""
	var out strings.Builder
	for i := range len(s) {
		switch c := s[i]; {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', strings.IndexByte(plain, c) >= 0, c == '.' && !dots:
			out.WriteByte(c)
		default:
			fmt.Fprintf(&out, "%%%02X", c)
		}
	}
	return out.String()
}

// act is one call of the connector, for its errors.
type act struct {
	op string
	t  schemas.Type
	id schemas.ID
	// made is how the server gave secrets when the body of a put was made.
	made visualcron.SecretMode
}

// Server asks the server who it is and what it can do.
func (b *Bridge) Server(ctx context.Context) (visualcron.Info, error) {
	a := act{op: "ask for the server's identity"}
	ctx, cancel := context.WithTimeout(ctx, b.requestTimeout)
	defer cancel()
	res, err := b.do(ctx, a, http.MethodGet, b.path("server"), nil)
	if err != nil {
		return visualcron.Info{}, err
	}
	defer res.close()
	if err := res.want(http.StatusOK); err != nil {
		return visualcron.Info{}, err
	}
	body, err := res.whole(maxSmall)
	if err != nil {
		return visualcron.Info{}, err
	}
	info, err := parseInfo(body)
	if err != nil {
		return visualcron.Info{}, b.errorOf(a, &visualcron.Error{Class: visualcron.BadAnswer, Status: res.status, Detail: err.Error(), Hint: hintAddress})
	}
	if err := b.checkIdentity(a, info.ID); err != nil {
		return visualcron.Info{}, err
	}
	b.mu.Lock()
	b.identity, b.types, info.Certificate = info.ID, info.Types, b.peer
	b.mu.Unlock()
	return info, nil
}

// List streams all objects of a type.
func (b *Bridge) List(ctx context.Context, t schemas.Type, yield func(visualcron.Row) error) (visualcron.Complete, error) {
	a := act{op: "list", t: t}
	if err := b.offered(a, func(c visualcron.Capability) bool { return c.List }); err != nil {
		return visualcron.Complete{}, err
	}
	ctx, cancelTotal := context.WithTimeoutCause(ctx, b.listTimeout, errListTotal)
	defer cancelTotal()
	ctx, idle := withIdle(ctx, b.listIdle)
	defer idle.stop()
	res, err := b.do(ctx, a, http.MethodGet, b.path("objects", string(t)), nil)
	if err != nil {
		return visualcron.Complete{}, err
	}
	defer res.close()
	if err := res.want(http.StatusOK); err != nil {
		return visualcron.Complete{}, err
	}
	if err := b.checkSecrets(a, res.header.Get(secretsHeader)); err != nil {
		return visualcron.Complete{}, err
	}
	if res.namesNext() {
		return visualcron.Complete{}, b.errorOf(a, &visualcron.Error{Class: visualcron.BadAnswer, Status: res.status,
			Detail: "the answer is a page: its Link header says that more rows follow", Hint: hintAddress})
	}
	r := &rowReader{body: res.body, idle: idle, left: maxRowRead}
	var stopped error
	complete, err := visualcron.ReadList(r, t, func(row visualcron.Row) error {
		r.left = maxRowRead
		stopped = yield(row)
		return stopped
	})
	switch e, ok := errors.AsType[*visualcron.Error](err); {
	case err == nil:
		return complete, nil
	case stopped != nil:
		return visualcron.Complete{}, stopped
	case ok:
		// What the decoder takes for broken JSON may be a broken connection.
		if r.err != nil && !isEOF(r.err) {
			return visualcron.Complete{}, b.transportError(ctx, a, r.err, true)
		}
		e.Status = res.status
		return visualcron.Complete{}, b.errorOf(a, e)
	case isEOF(r.cause(err)) && ctx.Err() == nil:
		return visualcron.Complete{}, b.errorOf(a, &visualcron.Error{Class: visualcron.BadAnswer, Status: res.status, Detail: "the answer breaks off before its end"})
	default:
		return visualcron.Complete{}, b.transportError(ctx, a, r.cause(err), true)
	}
}

// Get returns one object's body.
func (b *Bridge) Get(ctx context.Context, t schemas.Type, id schemas.ID) ([]byte, error) {
	a := act{op: "get", t: t, id: id}
	if err := b.offered(a, func(c visualcron.Capability) bool { return c.Get }); err != nil {
		return nil, err
	}
	if err := b.checkID(a); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, b.requestTimeout)
	defer cancel()
	res, err := b.do(ctx, a, http.MethodGet, b.path("objects", string(t), string(id)), nil)
	if err != nil {
		return nil, err
	}
	defer res.close()
	if err := res.want(http.StatusOK); err != nil {
		return nil, err
	}
	if err := b.checkSecrets(a, res.header.Get(secretsHeader)); err != nil {
		return nil, err
	}
	return res.object()
}

// Put creates or replaces one object and returns it as stored.
func (b *Bridge) Put(ctx context.Context, t schemas.Type, id schemas.ID, body []byte, made visualcron.SecretMode) ([]byte, error) {
	a := act{op: "put", t: t, id: id}
	if err := b.offered(a, func(c visualcron.Capability) bool { return c.Put }); err != nil {
		return nil, err
	}
	if err := b.checkID(a); err != nil {
		return nil, err
	}
	if err := checkObject(t, id, body); err != nil {
		return nil, b.errorOf(a, &visualcron.Error{Class: visualcron.Refused, Detail: "not sent: " + err.Error()})
	}
	ctx, cancel := context.WithTimeout(ctx, b.requestTimeout)
	defer cancel()
	a.made = made
	res, err := b.do(ctx, a, http.MethodPut, b.path("objects", string(t), string(id)), body)
	if err != nil {
		return nil, err
	}
	defer res.close()
	if err := res.want(http.StatusOK, http.StatusCreated); err != nil {
		return nil, err
	}
	return res.object()
}

// Delete removes one object.
func (b *Bridge) Delete(ctx context.Context, t schemas.Type, id schemas.ID) error {
	a := act{op: "delete", t: t, id: id}
	if err := b.offered(a, func(c visualcron.Capability) bool { return c.Delete }); err != nil {
		return err
	}
	if err := b.checkID(a); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, b.requestTimeout)
	defer cancel()
	res, err := b.do(ctx, a, http.MethodDelete, b.path("objects", string(t), string(id)), nil)
	if err != nil {
		return err
	}
	defer res.close()
	err = res.want(http.StatusNoContent)
	if visualcron.ClassOf(err) == visualcron.NotFound {
		return nil
	}
	return err
}

// offered refuses what the server said that it cannot do; before Server was called
// nothing is known and all is tried.
func (b *Bridge) offered(a act, has func(visualcron.Capability) bool) error {
	b.mu.Lock()
	types := b.types
	b.mu.Unlock()
	if types == nil || has(types[a.t]) {
		return nil
	}
	return b.errorOf(a, &visualcron.Error{Class: visualcron.Unsupported, Detail: fmt.Sprintf("the server does not offer to %s objects of type %s", a.op, a.t)})
}

// checkID keeps an id that would name another resource, or the whole type, from
// being sent.
func (b *Bridge) checkID(a act) error {
	if id, err := schemas.ParseID(string(a.id)); err != nil || id != a.id {
		return b.errorOf(a, &visualcron.Error{Class: visualcron.Refused, Detail: "not sent: the id is not an object id in its canonical form"})
	}
	return nil
}

// checkSecrets compares how an answer gives secrets, where it says so, with how the
// server gave them when it was last asked: what looks like a secret may be a mask.
func (b *Bridge) checkSecrets(a act, got string) error {
	b.mu.Lock()
	known, can := b.types != nil, b.types[a.t]
	b.mu.Unlock()
	if got == "" || !known || got == string(can.Secrets) {
		return nil
	}
	return b.errorOf(a, &visualcron.Error{Class: visualcron.Changed, Detail: fmt.Sprintf("the server gives its secrets as %.16q now, and gave them as %q", got, can.Secrets)})
}

// checkIdentity compares the id that a server gave with the one it should have;
// the caller holds no lock.
func (b *Bridge) checkIdentity(a act, got string) error {
	b.mu.Lock()
	want := b.identity
	b.mu.Unlock()
	if want == "" || got == "" || strings.EqualFold(want, got) {
		return nil
	}
	return b.errorOf(a, &visualcron.Error{Class: visualcron.WrongServer, Detail: fmt.Sprintf("server %.64s answers instead of %.64s", got, want),
		Hint: "correct the address; a new server needs a name of its own"})
}
