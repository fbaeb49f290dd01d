package decide

// Undoing is all that counts for what an undo, or the return of an older version, does
// with one object.
type Undoing struct {
	// Target is what the target has, compared with what it shall have: Absent and Equal
	// where that is so.
	Target Target
	// Gone: it shall have none.
	Gone bool
	// AsLeft: what the target has is what the pass left there. Anything: whatever it has is
	// replaced, as a person saw.
	AsLeft, Anything bool
	// OtherSecrets: it gives its secrets in another way than when the pass wrote.
	OtherSecrets bool
	BuiltIn      bool
	// RemovesItself: the object deletes itself when it has run.
	RemovesItself bool
	// Used: other objects at the target refer to it. Dangles: it refers to what is not
	// there, and nobody said that this is no matter.
	Used, Dangles bool
	SafeMode      bool
}

// Undo says what becomes of one object. A person approves all of it, so no mode and no
// sync window counts; safe mode still deletes nothing.
func Undo(s Undoing) Decision {
	d := Decision{Act: Update, Reason: PutBack}
	switch {
	case s.Gone:
		d.Act = Delete
	case s.Target == Absent:
		d.Act = Add
	}
	hold := func(r Reason) Decision { return Decision{Act: Hold, Reason: r, Would: d.Act} }
	switch {
	case s.Target == Equal || s.Gone && s.Target == Absent:
		return Decision{Act: Adopt, Reason: AsBefore}
	case s.BuiltIn:
		return hold(BuiltIn)
	case s.OtherSecrets && !s.Anything:
		return hold(HidesSecrets)
	case !s.AsLeft && !s.Anything:
		return hold(MovedOn)
	case d.Act == Add && s.RemovesItself:
		return hold(HasRun) // it may have run before it went, or elsewhere: never twice
	case d.Act == Delete && s.SafeMode:
		return hold(SafeMode)
	case d.Act == Delete && s.Used:
		return hold(InUse)
	case s.Dangles:
		return hold(Dangles)
	}
	return d
}
