// Package visualcron is what vcsync knows of VisualCron: how a server is spoken
// to, when its listing is complete, which part of an object is configuration, and
// how an object of one server is composed for another.
//
// It promises that nothing about VisualCron is guessed in the code that moves
// data: what a server can do is in its Capabilities, per type, before the first
// write; a listing is evidence of absence only as a Complete value; and two bodies
// are equal exactly when their normal forms are. The package knows nothing of
// NATS. Facts about VisualCron carry their source; a fact marked "assumed" has
// none and waits for a live server.
package visualcron

import (
	"context"
	"strconv"
	"strings"
	"time"

	"github.com/vcsync/vcsync/schemas"
)

// Bounded is a Connector that sends nothing after an instant, looked at again each
// time before bytes go out: what a process that was stopped for minutes was about to
// send, it does not send when it goes on.
type Bounded interface {
	// NotAfter sets what tells the instant.
	NotAfter(until func() time.Time)
}

// Connector speaks to one VisualCron server. Each technology is a folder of its
// own (bridge, later webapi and settings), and every one of them passes the suite
// in package conformance. All methods are safe for concurrent use, obey their
// context, and return errors that are or wrap *Error.
type Connector interface {
	// Server asks the server who it is and what it can do, logging on where
	// needed. Every call asks anew. It is the cheap read that probes a server.
	Server(ctx context.Context) (Info, error)

	// List streams all objects of a type in the server's own order, one call of
	// yield per object. The row is valid only during the call. An error of yield
	// ends the listing and is returned as it is. Only a listing that was read to
	// its proven end returns a Complete that IsComplete; with any error the zero
	// Complete is returned and absence of an object proves nothing.
	List(ctx context.Context, t schemas.Type, yield func(Row) error) (Complete, error)

	// Get returns one object's body. An object that is not there is an *Error of
	// class NotFound.
	Get(ctx context.Context, t schemas.Type, id schemas.ID) ([]byte, error)

	// Put creates or replaces one object, keeping its id, and returns the object
	// as the server has stored it. It returns an *Error of class Timeout where the
	// outcome is unknown; read back before the next write then.
	//
	// Made is how the server gave its secrets when the body was made, "" where that
	// does not matter. Where it gives them otherwise now, the same members would mean
	// something else: nothing is written, and the *Error is of class Changed.
	Put(ctx context.Context, t schemas.Type, id schemas.ID, body []byte, made SecretMode) ([]byte, error)

	// Delete removes one object. One that is already absent is no error. It
	// returns an *Error of class Timeout where the outcome is unknown.
	Delete(ctx context.Context, t schemas.Type, id schemas.ID) error

	// Watch calls hint for every change that the server tells of, from one
	// goroutine, until ctx ends or the feed breaks. A hint carries no truth. Ready
	// is called once when the feed stands; changes before that may have been
	// missed. It returns an *Error of class Unsupported where the server has no
	// feed.
	Watch(ctx context.Context, ready func(), hint func(Hint)) error

	// Close ends idle connections. The connector is not used afterwards.
	Close() error
}

// Info is what a server says of itself.
type Info struct {
	// ID is the server's own id; it never changes for one server.
	ID string
	// Name and Version are the server's words. A stand-in says so in Version.
	Name    string
	Version string
	// Types holds what the server can do, per type; an absent type can nothing.
	Types map[schemas.Type]Capability
	// Changes tells that Watch works.
	Changes bool
	// Certificate is that of the connection; nil where it is not encrypted.
	Certificate *Certificate
	// Account is what the server says of the account that asks; nil where it says
	// nothing of it.
	Account *Account
}

// Certificate is that which a server showed.
type Certificate struct {
	Pin     string // of its public key, see schemas.Server.Pins
	Subject string
	Issuer  string
	Ends    time.Time
}

// Account is what a server says of an account. What it may see decides what a listing
// holds, so another account, or one with other rights, is another pair of eyes.
type Account struct {
	// Name is the server's word for it, which may be another than the one that was
	// logged on with.
	Name string
	// Rights are the server's words for what the account may see and do, in any order.
	// They are compared and never understood.
	Rights []string
}

// Release returns the major and minor number of a version, such as "13.2", and "" where
// it does not begin with two numbers.
func Release(version string) string {
	major, rest, ok := strings.Cut(strings.TrimSpace(version), ".")
	end := strings.IndexFunc(rest, func(r rune) bool { return r < '0' || r > '9' })
	minor := rest
	if end >= 0 {
		minor = rest[:end]
	}
	if _, err := strconv.ParseUint(major, 10, 32); !ok || err != nil || minor == "" {
		return ""
	}
	return major + "." + minor
}

// Capability says what a server can do with one type.
type Capability struct {
	List   bool
	Get    bool
	Put    bool
	Delete bool
	// Secrets says how secret fields come out and go in.
	Secrets SecretMode
}

// SecretMode says what a server gives for a secret field and what it takes.
type SecretMode string

// Secret modes. The empty mode means that nothing is known, which is treated like
// Masked: secrets are never written.
const (
	// SecretsEqual: what one server gives another one takes.
	SecretsEqual SecretMode = "equal"
	// SecretsOpaque: ciphertext of this server alone.
	SecretsOpaque SecretMode = "opaque"
	// SecretsMasked: a constant in place of the secret.
	SecretsMasked SecretMode = "masked"
	// SecretsNull: null in place of the secret.
	SecretsNull SecretMode = "null"
)

// silent tells that a null, or nothing, in place of a secret does not say that there
// is none.
// Nor does it where the mode is one that this version does not know.
func (m SecretMode) silent() bool {
	return m != SecretsEqual && m != SecretsOpaque && m != SecretsMasked
}

// Row is one object of a listing.
type Row struct {
	ID   schemas.ID
	Body []byte // the raw JSON object
}

// Hint says that something about an object may have changed. Its fields are what
// the server told, unchecked; any may be empty.
type Hint struct {
	Type schemas.Type
	ID   string
	Kind string
}

// Config is what a connector needs to open a server.
type Config struct {
	// Server is vcsync's name of the server, for messages.
	Server   schemas.Slug
	Address  string
	User     string
	Password string
	// RequestTimeout bounds one request other than a listing; 10 s where zero. It
	// must stay below the lease's time, see consumer.
	RequestTimeout time.Duration
	// Reach says where the connector may connect to; the zero value keeps it from this
	// machine, and from what is never a server.
	Reach Reach
	// Pins are the public keys that the server may have, at most two; what the system's
	// authorities vouch for where there is none. See schemas.Server.
	Pins []string
	// ListTimeout bounds a whole listing; 10 min where zero. ListIdle bounds the
	// time in which no byte of it arrives; 30 s where zero.
	ListTimeout time.Duration
	ListIdle    time.Duration
}
