package schemas

import (
	"errors"
	"fmt"
	"net/url"
	"time"
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
	u, err := url.Parse(s.Address)
	switch {
	case err != nil:
		add("address", "not a URL") // the parse error would quote it, a password in it included
	case u.Scheme != "http" && u.Scheme != "https", u.Host == "":
		add("address", "want http://host:port or https://host:port")
	case u.User != nil || u.RawQuery != "" || u.Fragment != "":
		add("address", "must hold no user, query or fragment; the account has its own fields")
	}
	if s.User == "" {
		add("user", "empty")
	}
	return errors.Join(errs...)
}
