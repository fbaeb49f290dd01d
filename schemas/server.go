package schemas

import (
	"errors"
	"fmt"
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
	// Identity is the server's own id, learned at the first contact. An answer of
	// another server at the same address is never taken for this one's.
	Identity string    `json:"identity,omitzero"`
	Created  time.Time `json:"created,omitzero"`
	// Unknown holds the members that this version does not know, as one JSON
	// object, nil where there are none. ParseServer fills it and Encode writes it
	// back (G10); other codecs leave it out.
	Unknown jsontext.Value `json:"-"`
}

// Normalize brings equal records to one form: times are UTC.
func (s *Server) Normalize() { s.Created = plainTime(s.Created) }

// KeepUnknown takes over from old, the stored form of the same record, the members
// that this version does not know. A caller that builds a record from another
// codec's JSON needs it before Encode.
func (s *Server) KeepUnknown(old Server) { s.Unknown = slices.Clone(old.Unknown) }

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
