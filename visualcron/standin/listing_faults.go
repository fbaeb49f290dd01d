package standin

import (
	"net/http"

	"github.com/vcsync/vcsync/schemas"
	"github.com/vcsync/vcsync/visualcron"
)

// ListingFault is a way in which a listing is wrong.
type ListingFault struct {
	Name string
	What string
}

// ListingFaults returns all of them.
func ListingFaults() []ListingFault { return nil }

func (f ListingFault) serve(*Server, http.ResponseWriter, *http.Request, schemas.Type, []visualcron.Row) {
}
