// Package decide holds the one decision of vcsync: what to do with one object at one
// target.
//
// It promises that Decide is pure: it reads no clock, makes no request and stores
// nothing, so that a plan, a live change, an audit and a replay that are told the same
// come to the same. docs/settings.md holds the table of what it decides, made from
// it.
package decide

import "github.com/vcsync/vcsync/schemas"

// Occasion is why an object is looked at.
type Occasion int

// Occasions.
const (
	// Live: its source changed, or a setting did.
	Live Occasion = iota
	// Audit: the pass that compares the target with what it should be.
	Audit
	// SyncNow: a person asked for it, and sees the plan first.
	SyncNow
	// Replay: a person asked for the newest state to be applied again.
	Replay
)

// Source is what the source says of the object.
type Source int

// States at the source.
const (
	// Never: it has never been seen there.
	Never Source = iota
	// Present: it is there.
	Present
	// Deleted: it was there and is gone.
	Deleted
)

// Target is what the target has of the object.
type Target int

// States at the target.
const (
	// Unread: the target has not been asked yet.
	Unread Target = iota
	// Absent: it has none.
	Absent
	// Equal: what it has is what it shall have.
	Equal
	// Different: it has something else, or has what shall be deleted.
	Different
)

// Record is what the ledger says of the object.
type Record int

// Records.
const (
	// NoRecord: vcsync never dealt with it.
	NoRecord Record = iota
	// Begun: a first write was begun, and its outcome is not known.
	Begun
	// BegunAgain: the same, of an object that was Brought before.
	BegunAgain
	// Brought: vcsync wrote it there, or found it equal there.
	Brought
	// Removed: vcsync deleted it there, or found it gone.
	Removed
)

// IsBrought tells whether vcsync brought the object to the target or found it equal
// there, and has not removed it since (G4).
func (r Record) IsBrought() bool { return r == Brought || r == BegunAgain }

// Elsewhere is what is known of the object under another id at the target, which vcsync
// brought it to before a pin came, changed or went.
type Elsewhere int

// Places.
const (
	// NotElsewhere: vcsync brought it to no other id, or that is about to be another's.
	NotElsewhere Elsewhere = iota
	// GoneElsewhere: it was brought to another id, and is not there any more.
	GoneElsewhere
	// IsElsewhere: it was brought to another id, and is there.
	IsElsewhere
)

// Age compares the version on record with the newest of the source.
type Age int

// Ages.
const (
	// Older: the source has a newer version than is on record, or none is.
	Older Age = iota
	// Same: the newest version is on record.
	Same
	// Newer: something newer is on record than the source's newest.
	Newer
)

// Grace is how far an object is with being switched off before it is deleted.
type Grace int

// Graces.
const (
	// NoGrace: it is deleted at once, or its grace is over.
	NoGrace Grace = iota
	// GraceBegins: it is to be switched off first.
	GraceBegins
	// InGrace: it is switched off, and not long enough yet.
	InGrace
)

// Parked is what is on record about an earlier try of the same version.
type Parked int

// Parked states.
const (
	// NotParked: there is no such record, or it is time to try again.
	NotParked Parked = iota
	// Waits: it is parked, and nobody has asked for another try.
	Waits
	// Discarded: a person has given this version up.
	Discarded
	// Paused: a person undid what was written of the object. It counts for all versions,
	// until a person resumes it.
	Paused
)

// Situation is all that counts for what becomes of one object. The zero value of
// each member is the harmless or the usual one.
type Situation struct {
	Occasion Occasion
	// Rights are what all settings that take the object from this source to this
	// target allow together. The members up to WindowShut are theirs too.
	Rights      schemas.Rights
	Mode        schemas.Mode
	TargetEdits schemas.TargetEdits
	Drift       schemas.Drift
	Versions    schemas.Versions
	// Approved: a person has approved exactly this.
	Approved bool
	// SafeMode: vcsync does not trust what it remembers.
	SafeMode bool
	// OtherVersions: the two servers are of different major or minor versions.
	OtherVersions bool
	// WindowShut: no sync window is open.
	WindowShut bool

	// The next count for what is to be deleted. Cleared: a person has let exactly this
	// deletion through the airlock. Rejected: one has rejected it.
	Cleared, Rejected bool
	// Beyond: with it, more would be deleted in 24 hours than the setting's measure, or it
	// was once and waits since.
	Beyond bool
	// InUse: other objects at the target refer to it, and who let it through, if anybody, has
	// not seen these.
	InUse bool
	// Grace says how far it is with being switched off before it is deleted.
	Grace Grace

	Source Source
	// RemovesItself: the object deletes itself when it has run. RemovedItself: the
	// source's own is gone because it did, or may be.
	RemovesItself, RemovedItself bool

	// CameFromHere: the source has it from this target.
	CameFromHere bool

	Target Target
	// BuiltIn: what the target has under this id is one of its own built-in objects.
	BuiltIn bool
	// AsLeft: what the target has is what the last write on record was to leave.
	AsLeft bool
	// Edited: somebody changed or deleted it at the target since the last record.
	Edited bool

	Record Record
	// Ours: the record is about the object of this source.
	Ours bool
	// Age is that of a record of ours.
	Age Age
	// Unfinished: the version on record was dealt with under other terms, or is to be
	// completed.
	Unfinished bool
	// MayHaveRun: the write that was begun may have arrived, or what was brought was found
	// gone; the object may have run and gone.
	MayHaveRun bool
	Elsewhere  Elsewhere

	Parked Parked
	// Asked: a person has asked for this one try.
	Asked bool
}

// Act is what is done.
type Act string

// Acts.
const (
	// Nothing is to be done.
	Nothing Act = "nothing"
	// Look: it depends on what the target has; read it and decide again.
	Look Act = "look"
	// Adopt: the target is as it should be; that is put on record.
	Adopt Act = "adopt"
	// Add, Update and Delete are writes to the target.
	Add    Act = "add"
	Update Act = "update"
	Delete Act = "delete"
	// Wait: it is done later by itself. Hold: it is not done unless a person does
	// something. Both say in Would what they keep from being done.
	Wait Act = "wait"
	Hold Act = "hold"
	// Park: it needs a person; the reason is recorded.
	Park Act = "park"
)

// Writes tells whether the act is a write to the target.
func (a Act) Writes() bool { return a == Add || a == Update || a == Delete }

// Decision is what becomes of the object.
type Decision struct {
	Act    Act
	Reason Reason
	// Would is what a Wait, a Hold or a Park keeps from being done; empty where nothing
	// would be.
	Would Act
}

// Decide says what becomes of one object. With a target that is Unread it either says
// Look, or what it would say whatever the target has.
func Decide(s Situation) Decision {
	d := wanted(s)
	if d.Act.Writes() {
		return permitted(s, d)
	}
	return d
}

// Among decides where settings of several modes take an object: all says the same of
// each mode but for what its settings allow, the freest first. Where one lacks the
// right to what would be done, the next is asked, and what that would write is held.
// By is the one that decided.
func Among(all []Situation) (d Decision, by int) {
	first := Decide(all[0])
	d = first
	for by < len(all)-1 && d.lacksRight() {
		by++
		d = Decide(all[by])
		if !d.Act.Writes() && d.Act != Wait {
			continue
		}
		would := d.Act
		if d.Act == Wait {
			would = d.Would
		}
		d = Decision{Act: Hold, Reason: NeedsApproval, Would: would}
		if all[by].Mode == schemas.ReportOnly {
			d.Reason = OnlyReports
		}
	}
	if d.lacksRight() {
		return first, 0
	}
	return d, by
}

// lacksRight tells whether nothing is done because the rules do not give the right.
func (d Decision) lacksRight() bool {
	return d.Act == Nothing && (d.Reason == NewOff || d.Reason == UpdatedOff || d.Reason == DeletedOff || d.Reason == OnlyDeleted)
}

// wanted says what the rules ask for, whether or not it may be done now.
func wanted(s Situation) Decision {
	nothing := func(r Reason) Decision { return Decision{Act: Nothing, Reason: r} }
	switch {
	case s.Source == Never:
		return nothing(NotFromHere)
	case !s.Rights.Use():
		return nothing(NotSelected)
	case s.Parked == Paused:
		return nothing(Undone)
	case s.Ours && s.Age == Newer:
		return nothing(NewerOnRecord) // G3
	case s.Occasion == Live && settled(s):
		return nothing(OnRecord) // G8
	case s.Parked == Discarded && !s.Asked:
		return nothing(GivenUp)
	case s.Parked == Waits && !s.Asked:
		return nothing(IsParked)
	case s.CameFromHere:
		return wantedBack(s)
	case s.Source == Deleted:
		return wantedGone(s)
	}
	return wantedThere(s)
}

// wantedBack: the source has it from this target. Nothing is written, and where both
// have the same that is put on record: what the other side took over is no edit any
// more.
func wantedBack(s Situation) Decision {
	switch {
	case s.Target == Unread:
		return Decision{Act: Look, Reason: Unknown}
	case s.Source == Present && s.Target == Equal:
		return Decision{Act: Adopt, Reason: AlreadyEqual}
	case s.Source == Deleted && s.Target == Absent && s.Ours && s.Record != NoRecord:
		return Decision{Act: Adopt, Reason: GoneToo}
	}
	return Decision{Act: Nothing, Reason: CameFromHere}
}

// settled tells whether the newest version is on record and nothing of it is left to
// do.
func settled(s Situation) bool {
	return s.Ours && (s.Record == Brought || s.Record == Removed) && s.Age == Same && (s.Source == Deleted || !s.Unfinished)
}

// wantedGone: the source has deleted it.
func wantedGone(s Situation) Decision {
	nothing := func(r Reason) Decision { return Decision{Act: Nothing, Reason: r} }
	switch {
	// G4: only what vcsync brought or found equal, and only for the source that owns it
	// here.
	case !s.Ours || s.Record == NoRecord:
		return nothing(NotOurs)
	case s.Record == Removed:
		return nothing(GoneAlready)
	case !s.Rights.Deleted:
		return nothing(DeletedOff)
	}
	switch {
	case s.Target == Unread:
		return Decision{Act: Look, Reason: Unknown}
	case s.Target == Absent:
		return Decision{Act: Adopt, Reason: GoneToo}
	case s.BuiltIn:
		return Decision{Act: Park, Reason: BuiltIn}
	case s.RemovedItself || s.RemovesItself:
		return nothing(RunsAndGoes) // nobody deleted it; it may run here yet
	case !s.Record.IsBrought() && !s.AsLeft:
		return nothing(NotOurs) // G4: a write was begun, and this is not what it would have left
	}
	d := edited(s, Decision{Act: Delete, Reason: GoneAtSource})
	if d.Act == Delete && s.Grace == GraceBegins && !s.Cleared {
		return Decision{Act: Update, Reason: SwitchedOff}
	}
	return d
}

// wantedThere: the source has it.
func wantedThere(s Situation) Decision {
	nothing := func(r Reason) Decision { return Decision{Act: Nothing, Reason: r} }
	if !s.Rights.New && !s.Rights.Updated && s.Ours && s.Record.IsBrought() { // else it is ours once it is found equal
		return nothing(OnlyDeleted)
	}
	switch {
	case s.Target == Unread:
		return Decision{Act: Look, Reason: Unknown}
	case s.Target != Absent && s.BuiltIn:
		return Decision{Act: Park, Reason: BuiltIn}
	case s.Target == Equal:
		return oneHome(s, Decision{Act: Adopt, Reason: AlreadyEqual})
	case s.Target == Different && !s.Rights.Updated:
		return nothing(UpdatedOff) // G4: and never deleted either, unless it was ours before
	case s.Target == Different:
		return oneHome(s, edited(s, Decision{Act: Update, Reason: Differs}))
	case !s.Rights.New:
		return nothing(NewOff)
	case s.Record.IsBrought() && s.RemovesItself:
		return nothing(HasRun) // it was here, ran and deleted itself: it must not run again
	case (s.Record == Begun || s.Record == BegunAgain || s.Record == Removed && s.RemovesItself) && s.MayHaveRun && !s.Asked:
		return Decision{Act: Park, Reason: MayHaveRun, Would: Add}
	}
	return oneHome(s, edited(s, Decision{Act: Add, Reason: IsNew}))
}

// oneHome says what becomes of an object that may have another home at the target: it is
// to have one, or it would run twice there.
func oneHome(s Situation, d Decision) Decision {
	isHome := s.Ours && s.Record.IsBrought()
	switch {
	case s.Elsewhere == IsElsewhere && (d.Act.Writes() || d.Act == Adopt && !isHome):
		return Decision{Act: Park, Reason: OtherHome, Would: d.Act}
	case s.Elsewhere == GoneElsewhere && s.RemovesItself && d.Act.Writes() && !isHome && !s.Asked:
		return Decision{Act: Park, Reason: RanElsewhere, Would: d.Act}
	}
	return d
}

// edited says what becomes of a write that would undo what somebody did at the target.
func edited(s Situation, d Decision) Decision {
	if !s.Edited {
		return d
	}
	switch s.TargetEdits {
	case schemas.KeepEdits:
		return Decision{Act: Nothing, Reason: EditKept, Would: d.Act}
	case schemas.ParkEdits:
		switch {
		case reported(s):
		case settled(s): // no question to a person: nothing new is to come from the source
			return Decision{Act: Hold, Reason: EditHeld, Would: d.Act}
		case !s.Asked:
			return Decision{Act: Park, Reason: EditParked, Would: d.Act}
		}
	}
	return d
}

// reported tells whether it is drift that the setting only reports.
func reported(s Situation) bool {
	return s.Occasion == Audit && settled(s) && s.Drift != schemas.DriftHeal && !s.Approved
}

// permitted says whether a write may be done now.
func permitted(s Situation, d Decision) Decision {
	hold := func(r Reason) Decision { return Decision{Act: Hold, Reason: r, Would: d.Act} }
	person := s.Occasion == SyncNow || s.Occasion == Replay
	goes := d.Act == Delete || d.Reason == SwitchedOff
	if goes {
		hold = func(r Reason) Decision { return Decision{Act: Hold, Reason: r, Would: Delete} }
	}
	switch {
	case goes && s.Rejected && !s.Cleared:
		return hold(Rejected)
	case s.OtherVersions && s.Versions != schemas.AnyVersions:
		return hold(VersionsDiffer)
	case s.Mode == schemas.ReportOnly:
		return hold(OnlyReports)
	case s.SafeMode && (d.Act == Delete || !person && !s.Approved): // whatever the rules say
		return hold(SafeMode)
	case d.Act == Delete && s.Grace == InGrace && !s.Cleared:
		return Decision{Act: Wait, Reason: OnGrace, Would: Delete}
	case goes && s.Beyond && !s.Cleared:
		return hold(Airlock)
	case goes && s.InUse:
		return hold(InUse)
	case reported(s):
		return hold(Drifted)
	case s.Mode == schemas.Approve && !person && !s.Approved:
		return hold(NeedsApproval)
	case s.WindowShut:
		return Decision{Act: Wait, Reason: OutsideWindow, Would: d.Act}
	}
	return d
}
