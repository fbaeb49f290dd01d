package schemas

import (
	"encoding/base64"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/go-json-experiment/json/jsontext"
)

// Server is a VisualCron server that vcsync knows: VisualCron's own word for such
// a record is Connection. Its password is kept elsewhere, sealed.
type Server struct {
	// ID is given at creation and never changes: it stands in subjects.
	ID Slug `json:"id"`
	// Name is what people call the server; the id where empty.
	Name string `json:"name,omitzero"`
	// Connector names how vcsync speaks to it, such as "bridge".
	Connector string `json:"connector"`
	// Address is an http or https URL without user, query and fragment.
	Address string `json:"address"`
	// User is the VisualCron account.
	User string `json:"user"`
	// Pins are the public keys of certificates that the server may show, at most two so
	// that one can be changed without a gap: "sha256/" and the SHA-256 of the
	// SubjectPublicKeyInfo in base64. Without any, the system's authorities decide.
	Pins []string `json:"pins,omitzero"`
	// Deletes says, by type, how many deletions at this server are believed without a
	// person; DefaultMeasure for a type that is not named.
	Deletes map[Type]Measure `json:"deletes,omitzero"`
	// Identity is the server's own id, learned at the first contact. An answer of
	// another server at the same address is never taken for this one's.
	Identity string    `json:"identity,omitzero"`
	Created  time.Time `json:"created,omitzero"`
	// Unknown holds the members that this version does not know, as one JSON
	// object, nil where there are none. ParseServer fills it and Encode writes it
	// back (G10); other codecs leave it out.
	Unknown jsontext.Value `json:"-"`
}

// PinPrefix begins every pin; maxPins is how many a server may have.
const (
	PinPrefix = "sha256/"
	maxPins   = 2
)

// Measure is how many objects of a type may be gone at once at a server and still be
// taken for deleted, or be deleted at a target in 24 hours: the greater of both. What is
// more waits for a person (G4).
type Measure struct {
	// Number is a count of objects, Share one in per cent of the type.
	Number int `json:"number"`
	Share  int `json:"share"`
	// Unknown holds the members that this version does not know (see Server).
	Unknown jsontext.Value `json:"-"`
}

// DefaultMeasure is that of a type for which nothing was said.
var DefaultMeasure = Measure{Number: 5, Share: 10}

// maxMeasure bounds Measure.Number.
const maxMeasure = 1_000_000

// Of returns the measure for a type of that many objects.
func (m Measure) Of(objects int) int { return max(m.Number, objects*m.Share/100) }

// String returns the measure as ParseMeasure takes it, such as "5,10%".
func (m Measure) String() string { return fmt.Sprintf("%d,%d%%", m.Number, m.Share) }

// ParseMeasure is the inverse of Measure.String. The error wraps ErrServer.
func ParseMeasure(text string) (Measure, error) {
	number, share, ok := strings.Cut(text, ",")
	percent, sign := strings.CutSuffix(share, "%")
	n, err1 := strconv.Atoi(number)
	p, err2 := strconv.Atoi(percent)
	m := Measure{Number: n, Share: p}
	if fault := m.fault(); !ok || !sign || err1 != nil || err2 != nil || fault != "" {
		return Measure{}, fmt.Errorf("%w: measure %.32q, want NUMBER,SHARE%% such as 5,10%%: up to %d objects, or 0 to 100 per cent of the type, whichever is more", ErrServer, text, maxMeasure)
	}
	return m, nil
}

func (m Measure) fault() string {
	switch {
	case m.Number < 0 || m.Number > maxMeasure:
		return fmt.Sprintf("number %d, want 0 to %d", m.Number, maxMeasure)
	case m.Share < 0 || m.Share > 100:
		return fmt.Sprintf("share %d, want 0 to 100 per cent", m.Share)
	}
	return ""
}

// MeasureOf returns how many deletions of a type are believed at the server.
func (s Server) MeasureOf(t Type) Measure {
	if m, ok := s.Deletes[t]; ok {
		return m
	}
	return DefaultMeasure
}

// Normalize brings equal records to one form: times are UTC, and a measure that is the
// default is none.
func (s *Server) Normalize() {
	s.Created = plainTime(s.Created)
	s.Pins = slices.Clone(s.Pins)
	slices.Sort(s.Pins)
	if s.Pins = slices.Compact(s.Pins); len(s.Pins) == 0 {
		s.Pins = nil
	}
	s.Deletes = plainMeasures(s.Deletes)
}

// plainMeasures returns a copy without the measures that are the default, nil for none.
func plainMeasures(in map[Type]Measure) map[Type]Measure {
	out := maps.Clone(in)
	maps.DeleteFunc(out, func(_ Type, m Measure) bool {
		return m.Number == DefaultMeasure.Number && m.Share == DefaultMeasure.Share && m.Unknown == nil
	})
	if len(out) == 0 {
		return nil
	}
	return out
}

// measureFaults says what is wrong with measures.
func measureFaults(in map[Type]Measure, add func(path, format string, a ...any)) {
	for _, t := range slices.Sorted(maps.Keys(in)) {
		if _, err := ParseType(string(t)); err != nil {
			add("deletes", "%v", err)
		}
		if fault := in[t].fault(); fault != "" {
			add("deletes."+string(t), "%s", fault)
		}
	}
}

// KeepUnknown takes over from old, the stored form of the same record, the members
// that this version does not know: its own, and those of measures that both have. A
// caller that builds a record from another codec's JSON needs it before Encode.
func (s *Server) KeepUnknown(old Server) {
	s.Unknown = slices.Clone(old.Unknown)
	for t, m := range s.Deletes {
		m.Unknown = slices.Clone(old.Deletes[t].Unknown)
		s.Deletes[t] = m
	}
}

// Encode returns the record's normal form as JSON: equal records give equal bytes.
// The error wraps ErrServer.
func (s Server) Encode() ([]byte, error) {
	s.Normalize()
	if err := s.Validate(); err != nil {
		return nil, err
	}
	b, err := encodeRecord(struct {
		plainServer
		Unknown jsontext.Value `json:",embed"`
	}{plainServer(s), s.Unknown})
	if err != nil {
		return nil, fmt.Errorf("%w: %s: %w", ErrServer, s.ID, err)
	}
	return b, nil
}

// ParseServer is the inverse of Server.Encode. It keeps members that it does not
// know in Unknown, normalizes, and refuses with an error that wraps ErrServer:
// duplicate names, invalid UTF-8, trailing bytes, and whatever Validate refuses.
func ParseServer(b []byte) (Server, error) {
	var w struct {
		plainServer
		Unknown jsontext.Value `json:",embed"`
	}
	if err := parseRecord(b, &w); err != nil {
		return Server{}, fmt.Errorf("%w: %w", ErrServer, err)
	}
	s := Server(w.plainServer)
	s.Unknown = w.Unknown
	s.Normalize()
	if err := s.Validate(); err != nil {
		return Server{}, err
	}
	return s, nil
}

// Validate reports all faults of the record at once. The error wraps ErrServer.
func (s Server) Validate() error {
	var errs []error
	add := func(path, format string, a ...any) {
		errs = append(errs, fmt.Errorf("%w: %s: %s", ErrServer, path, fmt.Sprintf(format, a...)))
	}
	if _, err := ParseSlug(string(s.ID)); err != nil {
		add("id", "%v", err)
	}
	if s.Connector == "" {
		add("connector", "empty; want bridge")
	}
	if fault := addressFault(s.Address); fault != "" {
		add("address", "%s", fault)
	}
	if s.User == "" {
		add("user", "empty")
	}
	measureFaults(s.Deletes, add)
	if len(s.Pins) > maxPins {
		add("pins", "%d pins, want %d at most: the one in use, and the one that follows", len(s.Pins), maxPins)
	}
	for _, p := range s.Pins {
		text, ok := strings.CutPrefix(p, PinPrefix)
		if raw, err := base64.StdEncoding.Strict().DecodeString(text); !ok || err != nil || len(raw) != 32 {
			add("pins", "%.80q is no pin; want sha256/ and the SHA-256 of the public key in base64, as vcsync server test shows it", p)
		}
	}
	if len(s.Pins) > 0 && !strings.HasPrefix(s.Address, "https://") {
		add("pins", "the address does not begin with https://, so there is no certificate")
	}
	return errors.Join(errs...)
}

// addressFault says what is wrong with a server's address, without quoting it: a
// mistaken one may hold a password.
func addressFault(address string) string {
	u, err := url.Parse(address)
	if err != nil {
		return "not a URL"
	}
	port, portErr := strconv.ParseUint(u.Port(), 10, 16)
	switch {
	case !strings.HasPrefix(address, "http://") && !strings.HasPrefix(address, "https://"), u.Hostname() == "", strings.Contains(address, " "):
		return "want http://host:port or https://host:port"
	case u.User != nil || strings.ContainsAny(address, "?#"):
		return "must hold no user, query or fragment; the account has its own fields"
	case strings.HasSuffix(u.Host, ":"), u.Port() != "" && (portErr != nil || port == 0):
		return "the port is no number from 1 to 65535"
	}
	return ""
}
