package producer

import (
	"time"

	"github.com/vcsync/vcsync/schemas"
)

// State says how well a source is captured.
type State string

// Source states.
const (
	// Standby: another process captures the source, or this one has not begun.
	Standby State = "standing by"
	// Starting: nothing has been listed since the start.
	Starting State = "starting"
	// Capturing: the last listing of every wanted type was complete.
	Capturing State = "capturing"
	// Degraded: the last listing failed or was not complete. Nothing is deleted
	// because of it; Reason says why.
	Degraded State = "degraded"
)

// Status is what is known of one source.
type Status struct {
	Server schemas.Slug
	State  State
	// Class and Reason say why the source is degraded; Since since when.
	Class  string
	Reason string
	// Partly tells that only some types could not be listed; see their own Class. The
	// others are captured.
	Partly bool
	Since  time.Time
	// Feed tells that the server's change hints arrive.
	Feed  bool
	Epoch uint64
	// CertificateEnds is when the server's certificate ends, as it was last seen; zero where
	// the connection is not encrypted.
	CertificateEnds time.Time
	// Proves tells that the process stores what it has listed where settings wait for that
	// (see broker.Snapshot.Awaits): one of an older release does not. Unproven says why that
	// could not be stored last, "" where it could or nothing waits for it.
	Proves   bool
	Unproven string
	Types    map[schemas.Type]TypeStatus
}

// TypeStatus is what is known of one type of a source.
type TypeStatus struct {
	// Complete is when the last complete listing ended, Objects how many it held
	// beside the built-in ones, which are never synced, and BuiltIn how many of these.
	Complete time.Time
	Objects  int
	BuiltIn  int
	// Began is when the last listing began that was complete and all of whose changes
	// and deletions are published (but for those that are Held). Revision is that of
	// VCS_CFG which this process knew then: what was asked for there before, it answers
	// (see broker.StoredRun.Listed).
	Began    time.Time
	Revision uint64
	// Class and Reason say why the last listing of the type failed; empty where it was
	// complete.
	Class  string
	Reason string
	// Published counts the events stored since the start.
	Published uint64
	// Held is the number of deletions that wait for a person, Batch their name and
	// HeldWhy the reason; Rejected is the number of those that a person turned down.
	Held     int
	Rejected int
	Batch    string
	HeldWhy  string
	// Refused counts the objects of the last listing that could not be captured, and
	// RefusedWhy says why the first could not.
	Refused    int
	RefusedWhy string
	// Stale is how many of the refused ones are on record as they were before.
	Stale int
}
