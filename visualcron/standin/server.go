package standin

import (
	"crypto/rand"
	"errors"
	"fmt"
	mathrand "math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/vcsync/vcsync/schemas"
	"github.com/vcsync/vcsync/visualcron"
)

// Version is what every stand-in calls its version. The number is the VisualCron
// release whose documentation it follows.
const Version = "13.2.2 stand-in (not VisualCron)"

// DefaultUser and DefaultPassword are the demo account.
const (
	DefaultUser     = "admin"
	DefaultPassword = "standin-demo"
)

// Config says what a stand-in is.
type Config struct {
	// Dir is the folder of its objects, made where it is absent. Empty keeps them
	// in memory only.
	Dir string
	// Name is the server's display name; "stand-in" where empty.
	Name string
	// ID is the server's own id. Where empty, the one in Dir is used, or a new GUID
	// is made and kept there. Where set, it must be the one in Dir if Dir has one.
	ID string
	// User and Password are the only account; DefaultUser and DefaultPassword where
	// empty.
	User     string
	Password string
	// Now is the clock for dates in objects; time.Now where nil.
	Now func() time.Time
	// Seed makes the moving statistics repeatable.
	Seed uint64
	// StatisticsEvery is how often Run moves the statistics of some jobs; 10 s where
	// zero, never where negative.
	StatisticsEvery time.Duration
	// TokenLife is how long a token is good; 24 h where zero (VisualCron docs).
	TokenLife time.Duration
	// Heartbeat is how often an idle change feed says that it is alive; 15 s where
	// zero.
	Heartbeat time.Duration
	// NoChanges leaves out the change feed.
	NoChanges bool
	// NoSync leaves out fsync: a killed process still loses nothing, a power cut may.
	// For tests that write much.
	NoSync bool
	// Intercept wraps the whole handler; tests put faults there.
	Intercept func(http.Handler) http.Handler
	// Observe is called when a write over HTTP starts, before it waits for others of
	// the same object. The function it returns, if any, is called when the write has
	// ended and before its answer goes out. Both may be called side by side.
	Observe func(Write) (ended func(Result))
}

// Write is one write as it came in.
type Write struct {
	Op   string // "put" or "delete"
	Type schemas.Type
	ID   schemas.ID
	Body []byte // as sent; nil for a delete
}

// Result is how a write ended.
type Result struct {
	Status int    // of the HTTP answer
	Body   []byte // the object as stored; nil where there is none
}

// Server is one stand-in. Its methods are safe for concurrent use.
type Server struct {
	cfg   Config
	id    string
	store *store // nil for memory only
	now   func() time.Time

	mu      sync.RWMutex
	objects map[schemas.Type]map[schemas.ID]*object
	tokens  map[[32]byte]time.Time // by SHA-256 of the token, until when
	feeds   map[chan hint]struct{}
	closed  bool
	rng     *mathrand.Rand
	// listingFaults are the faults that FailListings has switched on.
	listingFaults map[schemas.Type]ListingFault

	locks keyed
	done  chan struct{} // closed by Close
}

// object is one stored object; it is never changed in place.
type object struct {
	id   schemas.ID
	body []byte // compact JSON
}

// hint is what the change feed tells.
type hint struct {
	Type schemas.Type `json:"type"`
	ID   schemas.ID   `json:"id"`
	Kind schemas.Kind `json:"kind"`
}

// Open reads the stand-in in cfg.Dir, or makes a new one with the built-in objects
// only. An object that cannot be read is an error that names its file and wraps
// ErrStore; leftovers of a write that was cut off are removed.
func Open(cfg Config) (*Server, error) {
	if cfg.Name == "" {
		cfg.Name = "stand-in"
	}
	if cfg.User == "" {
		cfg.User = DefaultUser
	}
	if cfg.Password == "" {
		cfg.Password = DefaultPassword
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.StatisticsEvery == 0 {
		cfg.StatisticsEvery = 10 * time.Second
	}
	if cfg.TokenLife == 0 {
		cfg.TokenLife = 24 * time.Hour
	}
	if cfg.Heartbeat == 0 {
		cfg.Heartbeat = 15 * time.Second
	}
	var errs []error
	if cfg.TokenLife < 0 {
		errs = append(errs, fmt.Errorf("%w: token life %s, want above 0", ErrConfig, cfg.TokenLife))
	}
	if cfg.Heartbeat < 0 {
		errs = append(errs, fmt.Errorf("%w: heartbeat %s, want above 0", ErrConfig, cfg.Heartbeat))
	}
	if strings.ContainsFunc(cfg.ID, func(r rune) bool { return r <= ' ' || r > '~' }) {
		errs = append(errs, fmt.Errorf("%w: id %.64q, want printable ASCII such as a GUID", ErrConfig, cfg.ID))
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	s := &Server{
		cfg: cfg, id: cfg.ID, now: cfg.Now,
		objects: map[schemas.Type]map[schemas.ID]*object{},
		tokens:  map[[32]byte]time.Time{},
		feeds:   map[chan hint]struct{}{},
		rng:     mathrand.New(mathrand.NewPCG(cfg.Seed, 0x76637379)),
		done:    make(chan struct{}),
	}
	for _, t := range schemas.Types() {
		s.objects[t] = map[schemas.ID]*object{}
	}
	fresh := true
	if cfg.Dir != "" {
		s.store = &store{dir: cfg.Dir, sync: !cfg.NoSync}
		id, err := s.store.open()
		if err != nil {
			return nil, err
		}
		if id != "" {
			fresh = false
			if s.id != "" && !strings.EqualFold(s.id, id) {
				return nil, fmt.Errorf("%w: %s belongs to server %s, not to %s; use another folder", ErrConfig, cfg.Dir, id, s.id)
			}
			s.id = id
		}
		if err := s.store.load(func(t schemas.Type, id schemas.ID, body []byte) {
			s.objects[t][id] = &object{id, body}
		}); err != nil {
			return nil, err
		}
	}
	if s.id == "" {
		s.id = newGUID()
	}
	if fresh {
		for _, o := range builtins(cfg.Name) {
			body, err := complete(o.Type, o.Body)
			if err != nil {
				return nil, err
			}
			if err := s.keep(o.Type, o.ID, body); err != nil {
				return nil, err
			}
			s.objects[o.Type][o.ID] = &object{o.ID, body}
		}
		if s.store != nil { // last, so that a cut first start is started over
			if err := s.store.saveID(s.id); err != nil {
				return nil, err
			}
		}
	}
	return s, nil
}

// ID returns the server's own id.
func (s *Server) ID() string { return s.id }

// Name returns the server's display name.
func (s *Server) Name() string { return s.cfg.Name }

// Close ends the change feeds and Run; requests are answered with 503 from then
// on. What is stored stays. It never fails.
func (s *Server) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.closed {
		s.closed = true
		close(s.done)
	}
	return nil
}

// Objects returns all objects of a type, sorted by id: what a listing gives. The
// bodies must not be changed.
func (s *Server) Objects(t schemas.Type) []visualcron.Row {
	s.mu.RLock()
	defer s.mu.RUnlock()
	rows := make([]visualcron.Row, 0, len(s.objects[t]))
	for id, o := range s.objects[t] {
		rows = append(rows, visualcron.Row{ID: id, Body: o.body})
	}
	slices.SortFunc(rows, func(a, b visualcron.Row) int { return strings.Compare(string(a.ID), string(b.ID)) })
	return rows
}

// Get returns the body of one object, and false where there is none. The body must
// not be changed.
func (s *Server) Get(t schemas.Type, id schemas.ID) ([]byte, bool) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if o := s.objects[t][id]; o != nil {
		return o.body, true
	}
	return nil, false
}

// Put stores an object as a PUT does and tells the change feeds. It returns the
// object as stored and whether it is new. The error wraps ErrBody or ErrStore.
func (s *Server) Put(t schemas.Type, body []byte) (stored []byte, created bool, err error) {
	id, err := visualcron.BodyID(t, body)
	if err != nil {
		return nil, false, fmt.Errorf("%w: %w", ErrBody, err)
	}
	return s.put(t, id, body)
}

// Delete removes an object as a DELETE does and tells the change feeds; it returns
// false where there is none. The error wraps ErrStore.
func (s *Server) Delete(t schemas.Type, id schemas.ID) (bool, error) {
	defer s.locks.lock(string(t) + "/" + string(id))()
	if _, ok := s.Get(t, id); !ok {
		return false, nil
	}
	if s.store != nil {
		if err := s.store.remove(t, id); err != nil {
			return false, err
		}
	}
	s.mu.Lock()
	delete(s.objects[t], id)
	s.tell(hint{t, id, schemas.Deleted})
	s.mu.Unlock()
	return true, nil
}

// put stores body, which carries id.
func (s *Server) put(t schemas.Type, id schemas.ID, body []byte) (stored []byte, created bool, err error) {
	if !jsontext.Value(body).IsValid() || jsontext.Value(body).Kind() != '{' {
		return nil, false, fmt.Errorf("%w: not one JSON object with each name once", ErrBody)
	}
	defer s.locks.lock(string(t) + "/" + string(id))()
	old, exists := s.Get(t, id)
	body, err = complete(t, body)
	if err == nil {
		body, err = dated(t, id, body, old, s.now())
	}
	if err != nil {
		return nil, false, err
	}
	if err := s.keep(t, id, body); err != nil {
		return nil, false, err
	}
	kind := schemas.Updated
	if !exists {
		kind = schemas.Added
	}
	s.mu.Lock()
	s.objects[t][id] = &object{id, body}
	s.tell(hint{t, id, kind})
	s.mu.Unlock()
	return body, !exists, nil
}

// keep writes an object to disk, where there is one.
func (s *Server) keep(t schemas.Type, id schemas.ID, body []byte) error {
	if s.store == nil {
		return nil
	}
	return s.store.save(t, id, body)
}

// tell hands a hint to every feed; s.mu is held. A feed that does not keep up is
// ended: its reader connects again and compares everything.
func (s *Server) tell(h hint) {
	for f := range s.feeds {
		select {
		case f <- h:
		default:
			delete(s.feeds, f)
			close(f)
		}
	}
}

// newGUID returns a random GUID (version 4).
func newGUID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return guidText(b)
}

func guidText(b [16]byte) string {
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[0:4], b[4:6], b[6:8], b[8:10], b[10:16])
}

// keyed is a lock per key.
type keyed struct {
	mu    sync.Mutex
	locks map[string]*keyedLock
}

type keyedLock struct {
	sync.Mutex
	users int
}

// lock waits for the key and returns what gives it free.
func (k *keyed) lock(key string) (unlock func()) {
	k.mu.Lock()
	if k.locks == nil {
		k.locks = map[string]*keyedLock{}
	}
	l := k.locks[key]
	if l == nil {
		l = &keyedLock{}
		k.locks[key] = l
	}
	l.users++
	k.mu.Unlock()
	l.Lock()
	return func() {
		l.Unlock()
		k.mu.Lock()
		if l.users--; l.users == 0 {
			delete(k.locks, key)
		}
		k.mu.Unlock()
	}
}
