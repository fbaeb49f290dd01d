package broker

import "errors"

// Sentinel errors of this package.
var (
	// ErrInUse says that another vcsync process has the data folder.
	ErrInUse = errors.New("the data folder is in use by another process")
	// ErrLayout says that a stream or bucket on the broker is not what vcsync needs.
	ErrLayout = errors.New("a stream or bucket differs from what vcsync needs")
	// ErrBroker says that the broker refuses this process, or is none that vcsync can
	// use.
	ErrBroker = errors.New("the broker cannot be used")
	// ErrWentBackwards says that a stream holds less than it once held.
	ErrWentBackwards = errors.New("the store went backwards")
	// ErrDamaged says that files of the store are not what the broker wrote.
	ErrDamaged = errors.New("the store is damaged")
	// ErrConflict says that the record or object was changed by somebody else since
	// it was read.
	ErrConflict = errors.New("changed by somebody else meanwhile")
	// ErrNotFound says that there is no such record.
	ErrNotFound = errors.New("not found")
	// ErrLeaseLost says that the lease is another's, or ran out before it could be
	// renewed.
	ErrLeaseLost = errors.New("lease lost")
	// ErrKeyring says that the keyring is missing, readable by others, or cannot
	// open what was sealed.
	ErrKeyring = errors.New("keyring")
	// ErrWatch says that a watch broke off and has to be begun anew.
	ErrWatch = errors.New("watch ended")
	// ErrLostBody says that what an event names instead of carrying it is missing or
	// altered.
	ErrLostBody = errors.New("the event's body is lost")
	// ErrRecord says that a stored record cannot be understood; it is left as it is.
	ErrRecord = errors.New("stored record not understood")
)
