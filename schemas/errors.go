package schemas

import "errors"

// Sentinel errors of this package. A function's error wraps the one that its
// comment names, and below that perhaps the one of the part that was wrong.
var (
	// ErrType says that a word names none of the 17 object types.
	ErrType = errors.New("unknown object type")
	// ErrKind says that a word is none of added, updated, deleted.
	ErrKind = errors.New("unknown event kind")
	// ErrSlug says that a server or setting name is not a slug.
	ErrSlug = errors.New("invalid name")
	// ErrID says that an object id cannot identify anything.
	ErrID = errors.New("invalid object id")
	// ErrToken says that a subject token is not one that Token.String makes.
	ErrToken = errors.New("invalid object token")
	// ErrSubject says that a subject is not one of vcsync's.
	ErrSubject = errors.New("invalid subject")
	// ErrDigest says that a text is not a digest.
	ErrDigest = errors.New("invalid digest")
	// ErrEvent says that a message is not an event, or contradicts itself.
	ErrEvent = errors.New("invalid event")
	// ErrSetting says that a sync setting breaks a rule of its own.
	ErrSetting = errors.New("invalid sync setting")
	// ErrServer says that a server record is incomplete or contradicts itself.
	ErrServer = errors.New("invalid server")
)
