package visualcron

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/vcsync/vcsync/schemas"
)

// Class sorts the ways in which a server fails to do what was asked, by what
// follows from them and not by their wording.
type Class string

// The classes.
const (
	// Unreachable: no connection, so the request had no effect.
	Unreachable Class = "unreachable"
	// Timeout: the request went out and no answer came in time, or the connection
	// broke; the outcome is unknown.
	Timeout Class = "timeout"
	// Unauthorized: the account or its token was refused, after one new logon.
	Unauthorized Class = "unauthorized"
	// Busy: the server asks to come back later (429, 503); RetryAfter may say when.
	Busy Class = "busy"
	// Fault: the server failed (any other 5xx); the outcome is unknown.
	Fault Class = "fault"
	// Refused: the server will not take this object as it is (4xx).
	Refused Class = "refused"
	// NotFound: there is no such object (404, 410).
	NotFound Class = "not found"
	// BadAnswer: what came back is not what was asked for: HTML, a cut array,
	// trailing bytes, null, another object. The outcome of a write is unknown.
	BadAnswer Class = "bad answer"
	// WrongServer: another server answers at this address.
	WrongServer Class = "wrong server"
	// Changed: the server gives its secrets otherwise than it said when it was last
	// asked. A write had no effect. Ask it anew what it can do.
	Changed Class = "changed"
	// Unsupported: the server cannot do this, by its own capabilities.
	Unsupported Class = "unsupported"
)

// Error says what was being done, to which object on which server, and what an
// operator can do. Its text holds no secret and no URL.
type Error struct {
	Class  Class
	Op     string       // "list", "get", "put", "delete", "logon", "watch", "ask for the server's identity"
	Server schemas.Slug // vcsync's name of the server
	Type   schemas.Type // empty where the act is not about a type
	ID     schemas.ID   // empty where the act is not about one object
	// Status is the HTTP status, 0 where there was none.
	Status int
	// RetryAfter is how long the server asks to wait; 0 where it does not say.
	RetryAfter time.Duration
	// Detail is what was seen, for people: at most 200 characters, redacted.
	Detail string
	// Hint says what to do next; empty where nothing helps but time.
	Hint string
	// Err is the cause, where it is safe to show.
	Err error
}

// Error puts the parts into one line.
func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString(e.Op)
	if e.Type != "" {
		b.WriteString(" " + string(e.Type))
		if e.ID != "" {
			fmt.Fprintf(&b, "/%.64s", e.ID)
		}
	}
	if e.Server != "" {
		b.WriteString(" on " + string(e.Server))
	}
	b.WriteString(": " + string(e.Class))
	if e.Status != 0 {
		fmt.Fprintf(&b, " (HTTP %d)", e.Status)
	}
	if e.Detail != "" {
		b.WriteString(": " + e.Detail)
	}
	if e.Err != nil {
		b.WriteString(": " + e.Err.Error())
	}
	if e.Hint != "" {
		b.WriteString("; " + e.Hint)
	}
	return b.String()
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// ClassOf returns the class of an error of a Connector, and "" for any other.
func ClassOf(err error) Class {
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Class
	}
	return ""
}

// ErrBody says that a body is not one JSON object that vcsync can keep: broken or
// ambiguous JSON, invalid UTF-8, too deep, or without the id of its type.
var ErrBody = errors.New("invalid object body")
