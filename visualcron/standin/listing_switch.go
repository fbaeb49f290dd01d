package standin

import (
	"fmt"
	"slices"

	"github.com/vcsync/vcsync/schemas"
)

// FailListings makes the listings of these types, of all where none is given, show
// the named fault from now on; "" ends it.
func (s *Server) FailListings(name string, types ...schemas.Type) error {
	var fault *ListingFault
	if name != "" {
		all := ListingFaults()
		i := slices.IndexFunc(all, func(f ListingFault) bool { return f.Name == name })
		if i < 0 {
			return fmt.Errorf("%w: there is no listing fault %.64q", ErrConfig, name)
		}
		fault = &all[i]
	}
	if len(types) == 0 {
		types = schemas.Types()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.listingFaults == nil {
		s.listingFaults = map[schemas.Type]ListingFault{}
	}
	for _, t := range types {
		if delete(s.listingFaults, t); fault != nil {
			s.listingFaults[t] = *fault
		}
	}
	return nil
}

// listingFault returns the fault that listings of t show, and false for none.
func (s *Server) listingFault(t schemas.Type) (ListingFault, bool) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	f, ok := s.listingFaults[t]
	return f, ok
}
