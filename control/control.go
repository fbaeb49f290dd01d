package control

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"
	"github.com/go-json-experiment/json"
	"golang.org/x/time/rate"

	"github.com/vcsync/vcsync/broker"
	"github.com/vcsync/vcsync/consumer"
	"github.com/vcsync/vcsync/producer"
	"github.com/vcsync/vcsync/schemas"
	"github.com/vcsync/vcsync/visualcron"

	"io"
)

// Producers is what control needs of the role that captures sources.
type Producers interface {
	// Status tells how every source does.
	Status() []producer.Status
	// Poke makes the next poll of a source immediate.
	Poke(source schemas.Slug)
}

// Consumers is what control needs of the role that writes to targets.
type Consumers interface {
	// Status tells how every target and every sync setting does.
	Status() ([]consumer.TargetStatus, []consumer.SettingStatus)
}

// Processes tells of the processes in which roles run; Reports do.
type Processes interface {
	Processes() []Process
}

// Config says what a Server serves.
type Config struct {
	// Broker is the open store; required.
	Broker *broker.Broker
	// Sources and Targets tell of the roles: the managers themselves where they run in
	// this process, what Reports have of them where they run apart; nil for one of
	// which nothing is known.
	Sources Producers
	Targets Consumers
	// Fleet tells of the processes where roles run apart; nil where all run in this
	// one. Then the status also tells of sources and targets that no process has.
	Fleet Processes
	// Instance is the name of this process in the status; host-pid where empty.
	Instance string
	// Open makes a connector to a server; required.
	Open func(s schemas.Server, password string) (visualcron.Connector, error)
	// Supported tells whether objects of a type are synced by this version; all are
	// where nil. A setting that takes anything of another type is refused.
	Supported func(schemas.Type) bool
	// Data is the folder of whose file system the metrics tell how full it is; of none
	// where empty.
	Data string
	// Addr is the address that Serve's listener stands on, such as 127.0.0.1:7780: its
	// host is accepted in Host headers. Only with a Certificate may it be one that others
	// reach; then the hosts that the certificate names are accepted too.
	Addr string
	// Certificate makes the API speak TLS, plain HTTP where nil.
	Certificate *Certificate
	// OIDC is a provider of identities; nil where people sign in only with accounts of
	// vcsync itself.
	OIDC *OIDC
	// Version is shown by the API and the page.
	Version string
	// Heartbeat is how often an idle event stream says that it is alive; 15 s where
	// zero.
	Heartbeat time.Duration
	// Notifications tells of messages to people, for the metrics; nil where none are sent.
	Notifications Notifications
	// Log is where control speaks; slog.Default() where nil.
	Log *slog.Logger
}

// Notifications is what control needs of who notifies people.
type Notifications interface {
	// Counts puts how many messages of each kind came to what, since the start.
	Counts(put func(kind, result string, count uint64))
}

// Server is the API and the page. Its methods are safe for concurrent use.
type Server struct {
	cfg     Config
	log     *slog.Logger
	broker  *broker.Broker
	api     huma.API
	handler http.Handler
	// writes is held by an act from its checks to its effect, so that two acts of
	// this process cannot each be right alone and wrong together.
	writes sync.Mutex
	// streams bounds the event streams that are open at once.
	streams chan struct{}
	// bodies bounds the requests that read bodies of events at once.
	bodies chan struct{}
	// stopping is closed when Serve ends, for the event streams.
	stopping chan struct{}
	stop     func()
	ready    readiness
	self     ProcessReport
	metrics  http.Handler
	// closed is set once there was an account: nobody comes in without one then.
	closed atomic.Bool
	// hasher is for those who sign in, inner for those who have: who floods the one does
	// not keep the other busy.
	hasher, inner *hasher
	// signIns, refused and unrecorded count since the start of this process.
	signIns, refused *tally
	unrecorded       atomic.Uint64
	backedUp         lastBackup
	looked           admitted
	wrongs           addresses
	// tests bounds how often servers are asked who they are.
	tests *rate.Limiter
	// first is the one-time token of the first admin.
	first struct {
		sync.Mutex
		hash, path string
		until      time.Time
		anyway     bool
	}
}

const (
	// testsAtOnce is how many servers may be tested in one go; then one every 2 s.
	testsAtOnce = 50

	maxBody    = 1 << 20
	maxStreams = 64
	apiPrefix  = "/api/v1"
	// pagePattern is the status page.
	pagePattern = "GET /{$}"
)

// New makes a Server. The error wraps ErrConfig and names every fault.
func New(cfg Config) (*Server, error) {
	var errs []error
	if cfg.Broker == nil {
		errs = append(errs, fmt.Errorf("%w: no broker", ErrConfig))
	}
	if cfg.Open == nil {
		errs = append(errs, fmt.Errorf("%w: no way to open a server", ErrConfig))
	}
	if err := CheckAddr(cfg.Addr, cfg.Certificate != nil); err != nil {
		errs = append(errs, err)
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	if cfg.Supported == nil {
		cfg.Supported = func(schemas.Type) bool { return true }
	}
	if cfg.Heartbeat <= 0 {
		cfg.Heartbeat = 15 * time.Second
	}
	s := &Server{cfg: cfg, log: cfg.Log, broker: cfg.Broker, streams: make(chan struct{}, maxStreams), bodies: make(chan struct{}, bodyReaders), stopping: make(chan struct{}),
		self: selfReport(cfg)}
	s.signIns, s.refused = newTally(signInOK, signInWrong, signInBusy, signInWaiting, signInFailed), newTally(refusedUnauthorized, refusedForbidden, refusedOrigin, refusedHost)
	s.metrics, s.hasher = s.newMetrics(), newHasher()
	s.inner = newHasher()
	s.tests = rate.NewLimiter(rate.Every(2*time.Second), testsAtOnce)
	s.stop = sync.OnceFunc(func() { close(s.stopping) })
	mux := http.NewServeMux()
	s.api = humago.New(mux, apiConfig())
	s.api.UseMiddleware(s.authorize)
	s.routes()
	if err := s.checkAccess(); err != nil {
		return nil, err
	}
	mux.HandleFunc(hintPattern, s.serveHint)
	mux.HandleFunc("GET /livez", s.serveLive)
	mux.HandleFunc("GET /readyz", s.serveReady)
	mux.Handle("GET /metrics", s.metrics)
	mux.HandleFunc(pagePattern, s.servePage)
	mux.HandleFunc(signInPattern, s.serveSignedIn)
	if cfg.OIDC != nil {
		mux.HandleFunc("GET "+oidcBegin, s.serveOIDC)
		mux.HandleFunc("GET "+oidcCallback, s.serveOIDCCallback)
	}
	s.handler = s.guard(mux)
	// Where others can come, nobody ever comes in without an account.
	s.closed.Store(!isLoopback(cfg.Addr))
	return s, nil
}

// Handler returns the API and the page with all that guards them.
func (s *Server) Handler() http.Handler { return s.handler }

// OpenAPI returns the description of the API, OpenAPI 3.1 in YAML.
func (s *Server) OpenAPI() ([]byte, error) { return s.api.OpenAPI().YAML() }

// apiConfig is huma's without its documentation page, which loads scripts from
// elsewhere, and without links to schemas in every answer.
func apiConfig() huma.Config {
	c := huma.DefaultConfig("vcsync", "1")
	c.Info.Description = "Syncs VisualCron objects between servers. An act that changes something needs If-Match with the ETag that was read, " +
		"or *. Errors are problem details (RFC 9457). No answer holds a password, " +
		"and only those to signing in and to making a token hold a secret."
	c.OpenAPIPath = apiPrefix + "/openapi"
	c.DocsPath, c.SchemasPath, c.CreateHooks = "", "", nil
	c.RejectUnknownQueryParameters = true
	c.Transformers = []huma.Transformer{stripValues}
	f := huma.Format{
		Marshal: func(w io.Writer, v any) error {
			if err := json.MarshalWrite(w, v, json.Deterministic(true)); err != nil {
				return err
			}
			_, err := io.WriteString(w, "\n")
			return err
		},
		// Duplicate names and invalid UTF-8 are refused.
		Unmarshal: func(b []byte, v any) error { return json.Unmarshal(b, v) },
	}
	c.Formats = map[string]huma.Format{"application/json": f, "json": f}
	return c
}

// Lists are bodies of their own, so that members can be added beside the items.
type list[T any] struct {
	Items []T `json:"items" nullable:"false"`
}

type output[T any] struct{ Body T }

type tagged[T any] struct {
	ETag string `header:"ETag" doc:"The revision; the next change names it in If-Match."`
	Body T
}

func etag(revision uint64) string { return `"` + strconv.FormatUint(revision, 10) + `"` }

// match reads If-Match against a revision: nil when the caller has seen it.
func match(header string, revision uint64) error { return matchTag(header, etag(revision)) }

// matchTag reads If-Match against an ETag.
func matchTag(header, tag string) error {
	switch header {
	case "":
		return huma.NewError(http.StatusPreconditionRequired, "If-Match is missing: send the ETag of what you read, so that nobody's change is overwritten unseen, or * to insist.")
	case "*", tag:
		return nil
	}
	return huma.NewError(http.StatusPreconditionFailed, "It was changed since you read it: read it again, look at the change, and repeat.")
}

// act is the only way to change anything: the audit record is on disk before the
// effect, and without it there is none (G12). The caller holds s.writes where the
// effect rests on a check.
func (s *Server) act(ctx context.Context, r broker.AuditRecord, effect func(context.Context) error) error {
	r.Time, r.From = time.Now().UTC(), remoteAddr(ctx)
	if r.Who == "" {
		r.Who = who(ctx)
	}
	// An act that has begun ends: a client that goes away must not stop it between
	// the record and the effect.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 30*time.Second)
	defer cancel()
	seq, err := s.broker.AuditAct(ctx, r)
	if err != nil {
		s.unrecorded.Add(1)
		return huma.NewError(http.StatusServiceUnavailable, err.Error())
	}
	s.log.InfoContext(ctx, "act", "who", r.Who, "from", r.From, "action", r.Action, "object", r.Object)
	return s.concluded(ctx, r, seq, effect(ctx))
}

type remoteKey struct{}

func remoteAddr(ctx context.Context) string {
	a, _ := ctx.Value(remoteKey{}).(string)
	return a
}

// CheckAddr tells whether the API may listen on addr: host and port, of this machine only
// where there is no TLS. The error wraps ErrConfig.
func CheckAddr(addr string, tls bool) error {
	_, port, err := net.SplitHostPort(addr)
	n, perr := strconv.ParseUint(port, 10, 16)
	switch {
	case err != nil || perr != nil:
		return fmt.Errorf("%w: VCSYNC_API_ADDR=%.80q: want host:port, such as 127.0.0.1:7780", ErrConfig, addr)
	case !tls && !isLoopback(addr):
		return fmt.Errorf("%w: VCSYNC_API_ADDR=%.80q: others could reach it, and there is no TLS: want VCSYNC_API_CERT and VCSYNC_API_KEY beside it, or a loopback address, such as 127.0.0.1:%d, and a tunnel from elsewhere", ErrConfig, addr, n)
	}
	return nil
}

// isLoopback tells whether an address is one that only this machine reaches.
func isLoopback(addr string) bool {
	host, _, err := net.SplitHostPort(addr)
	ip := net.ParseIP(host)
	return err == nil && (strings.EqualFold(host, "localhost") || ip != nil && ip.IsLoopback())
}
