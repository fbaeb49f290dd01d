package broker

import (
	"io"
	"time"
)

// A pass in its parts, so that a test can do something in between.
var (
	OldBodies    = (*Broker).oldBodies
	DropNamed    = (*Broker).dropNamed
	RemoveBodies = (*Broker).removeBodies

	BodyName   = bodyName
	BodyRecord = (*Broker).bodyRecord
	RenewBody  = (*Broker).renewBody
)

// SetBackwardsFor shortens the time after which a store in use counts as lost, and
// returns a function that puts it back.
func SetBackwardsFor(d time.Duration) func() {
	old := backwardsFor
	backwardsFor = d
	return func() { backwardsFor = old }
}

// TooOld is what vcsync says of a NATS server's version.
var TooOld = tooOld

// LateEnd is how a body is handed to the client.
func LateEnd(r io.Reader) io.Reader { return lateEnd{r} }
