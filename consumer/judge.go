package consumer

import (
	"errors"
	"time"

	"github.com/vcsync/vcsync/broker"
	"github.com/vcsync/vcsync/consumer/decide"
	"github.com/vcsync/vcsync/schemas"
	"github.com/vcsync/vcsync/visualcron"
)

// Fate is what becomes of an object state whose apply failed.
type Fate int

// Fates.
const (
	// Retry: try again in the object's own lane, after its back-off.
	Retry Fate = iota
	// Park: record the reason and wait for a person, a newer version or another
	// object.
	Park
	// TargetDown: no object's fault; the target's gate closes until a probe succeeds.
	TargetDown
	// Abort: this writer may not go on; the next one takes the object up.
	Abort
	// Wait: look again when an object that this one refers to has landed, or soon.
	Wait
	// AwaitWindow: look again when a sync window opens, however long that takes.
	AwaitWindow
)

// Verdict is the judgement on one failed apply.
type Verdict struct {
	Fate Fate
	// Class is the parked record's class.
	Class string
	// After is the least time to wait, where the target asked for one.
	After time.Duration
	// Again tells that a parked state is tried again by itself from time to time.
	Again bool
	// Fix says what a person can do.
	Fix string
}

// Classes of parked records that something else than a person can free too.
const (
	// classConflict: two sources have the object.
	classConflict = "conflict"
	// classWaiting: it refers to objects that are not at the target yet.
	classWaiting = "waiting"
	// classSecret: it was written, and lacks a secret or was left inactive for want of
	// one.
	classSecret = "secret"
	// classProtected: the account in use, or the last administrator.
	classProtected = "protected"
)

// parkError carries a decision to park from where it was made to Judge.
type parkError struct {
	class, reason, fix string
}

func (e *parkError) Error() string { return e.reason }

const (
	// patience is how long the back-offs of one object state may add up before it
	// is parked.
	patience = 2 * time.Minute
	// parentPatience is how long an object waits in its lane for those it refers to
	// before that is put on record: in a pass they are on their way.
	parentPatience = 8 * time.Second
	// lateLanding is how long the target may still act on a write after its client
	// gave up, as a lease's margin is: the object is read back no earlier, or an
	// older write could land on a newer one.
	lateLanding = 3 * time.Second
	// mismatches is how many equal differences between write and read-back park.
	mismatches = 3
)

// errMismatch says that the target stored something else than was written.
type errMismatch struct {
	fields []string
}

func (e *errMismatch) Error() string { return "the target stored something else than was written" }

// Judge is the only place that turns an error into an object state's fate. Waited
// is the sum of the back-offs so far, mismatched how often in a row the target
// stored the same other thing than was written.
func Judge(err error, waited time.Duration, mismatched int) Verdict {
	transient := func(class, fix string) Verdict {
		if waited >= patience {
			return Verdict{Fate: Park, Class: class, Again: true, Fix: fix}
		}
		return Verdict{Fate: Retry}
	}
	if p, ok := errors.AsType[*parkError](err); ok {
		// Nobody says that an object was removed at its target.
		return Verdict{Fate: Park, Class: p.class, Again: p.class == string(decide.OtherHome), Fix: p.fix}
	}
	if _, ok := errors.AsType[*errUsers](err); ok {
		return Verdict{Fate: Wait}
	}
	if _, ok := errors.AsType[*errWait](err); ok {
		if waited < parentPatience {
			return Verdict{Fate: Wait}
		}
		return Verdict{Fate: Park, Class: classWaiting, Again: true, Fix: "it goes by itself when they land; see what keeps them. Discard them to go without"}
	}
	if _, ok := errors.AsType[*errWindow](err); ok {
		return Verdict{Fate: AwaitWindow}
	}
	if errors.Is(err, broker.ErrLeaseLost) || errors.Is(err, broker.ErrConflict) {
		return Verdict{Fate: Abort}
	}
	if _, ok := errors.AsType[*errMismatch](err); ok {
		if mismatched >= mismatches {
			return Verdict{Fate: Park, Class: "mismatch", Fix: "compare the object on both servers; this target may not support the named fields"}
		}
		return Verdict{Fate: Retry}
	}
	if errors.Is(err, broker.ErrLostBody) {
		return Verdict{Fate: Park, Class: "body lost", Fix: "bring back the newest data folder and retry, or edit the object at its source"}
	}
	if errors.Is(err, schemas.ErrEvent) {
		return Verdict{Fate: Park, Class: "unreadable", Fix: "some other program wrote to the event stream; the next edit at the source puts it right"}
	}
	if errors.Is(err, visualcron.ErrBody) {
		return Verdict{Fate: Park, Class: "unreadable body", Fix: "look at the object on its servers"}
	}
	if errors.Is(err, visualcron.ErrOwn) {
		return Verdict{Fate: Park, Class: "override", Fix: "correct the override in the sync setting"}
	}
	if errors.Is(err, broker.ErrKeyring) {
		return Verdict{Fate: Park, Class: "sealed", Fix: "restore the keyring that belongs to this data folder"}
	}
	e, ok := errors.AsType[*visualcron.Error](err)
	if !ok { // the broker, most likely; the ledger and the lease say when it is over
		return transient("internal", "see the log")
	}
	switch e.Class {
	case visualcron.Unauthorized:
		if e.Status == 403 && e.Op != "logon" { // the account may not touch this object; others it may
			return Verdict{Fate: Park, Class: "forbidden", Fix: "give vcsync's account on the target the rights for this type"}
		}
		return Verdict{Fate: TargetDown, After: e.RetryAfter}
	case visualcron.Unreachable, visualcron.WrongServer, visualcron.Busy:
		return Verdict{Fate: TargetDown, After: e.RetryAfter}
	case visualcron.Refused:
		return Verdict{Fate: Park, Class: "refused", Fix: "correct the object at its source, or discard this version"}
	case visualcron.Unsupported:
		return Verdict{Fate: Park, Class: "unsupported", Fix: "take the type out of the sync setting, or use another connector"}
	}
	v := transient(string(e.Class), "look at the target server's own log")
	if v.Fate == Retry && mayLand(err) {
		v.After = lateLanding
	}
	return v
}

// mayLand tells whether an error leaves it open what a write has done, or may
// still do, at the target.
func mayLand(err error) bool {
	e, ok := errors.AsType[*visualcron.Error](err)
	if !ok || e.Op != "put" && e.Op != "delete" {
		return false
	}
	switch e.Class {
	case visualcron.Timeout, visualcron.Fault, visualcron.BadAnswer:
		return true
	}
	return false
}

// targetLevel tells whether a failure counts towards closing the target's gate
// when several objects meet it in a row.
func targetLevel(err error) bool {
	switch visualcron.ClassOf(err) {
	case visualcron.Timeout, visualcron.Fault, visualcron.BadAnswer:
		return true
	}
	return false
}
