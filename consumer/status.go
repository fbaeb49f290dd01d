package consumer

import (
	"time"

	"github.com/vcsync/vcsync/schemas"
)

// TargetState says what a target's writer does.
type TargetState string

// Target states.
const (
	// Waiting: another instance holds the target's lease, or the last holder's has
	// not run out.
	Waiting TargetState = "waiting for the lease"
	// Working: the lease is held and the target is not Down.
	Working TargetState = "working"
	// Down: the target does not answer or refuses the account; it is probed, and
	// nothing is lost meanwhile.
	Down TargetState = "down"
)

// TargetStatus is what is known of one target.
type TargetStatus struct {
	Target schemas.Slug
	State  TargetState
	// Reason says why the target is down, Since since when.
	Reason string
	Since  time.Time
	// Unanswered is since when requests to a target that is Working are without an answer,
	// and Reason says so too; zero where they are answered, or have been made for less than
	// 5 seconds. A few more, and it is Down.
	Unanswered time.Time
	// Lanes is the number of objects that are being worked on or wait for it.
	Lanes int
	// Applied counts writes that were confirmed since the start, Equal the looks
	// that found nothing to do.
	Applied uint64
	Equal   uint64
	Parked  int
	// CertificateEnds is when the server's certificate ends, as it was last seen; zero where
	// the connection is not encrypted.
	CertificateEnds time.Time
}

// Inactive is the state of a setting that is off, or that no writer of this process
// follows.
const Inactive = "inactive"

// SettingStatus is what is known of one sync setting.
type SettingStatus struct {
	Setting schemas.Slug
	// Pending is the number of objects whose newest state has not been dealt with.
	Pending uint64
	// LastRun is the end of the last completed pass over all objects; zero if never
	// since the start. OK tells whether that pass ended well and nothing is parked
	// now.
	LastRun time.Time
	OK      bool
	// State is for people: "following", "inactive", "comparing", "target down", ...
	State string
	// LastError is the newest fault, empty where the last look went well.
	LastError string
	Parked    int
	// Waiting is how many objects wait for a sync window.
	Waiting int
	// DeletesHeld is how many deletions wait in the airlock at the target, and Orphans how
	// many objects are there of which nobody can tell whether their source still has them;
	// the first are named. InGrace is how many jobs were only switched off so far.
	DeletesHeld int
	Orphans     int
	OrphanNames []string
	InGrace     int
	// Accounting says what became of every captured version; nil where nothing is known
	// yet. It is never changed once it stands here.
	Accounting *Accounting
}

// Report is what a consumer process says of itself.
type Report struct {
	Targets  []TargetStatus
	Settings []SettingStatus
}

// Report returns what is known of every target and sync setting, for a
// broker.Reporter.
func (m *Manager) Report() Report {
	targets, settings := m.Status()
	return Report{targets, settings}
}
