package schemas

import (
	"fmt"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// Object is the envelope in which one object of a server travels: what vcsync
// needs to know of it, and its body as the server gave it.
type Object struct {
	Type  Type   `json:"type"`
	ID    ID     `json:"id"`
	Name  string `json:"name"`
	Group string `json:"group,omitzero"`
	// Body is the raw JSON object, unknown fields included; nil in a deletion.
	Body jsontext.Value `json:"body,omitzero"`
	// Sealed lists the JSON pointers (RFC 6901) of the body's strings that are
	// sealed; what they hold is not readable without the keyring.
	Sealed []string `json:"sealed,omitzero"`
}

// Encode returns the envelope as JSON.
func (o Object) Encode() ([]byte, error) {
	b, err := json.Marshal(o)
	if err != nil {
		return nil, fmt.Errorf("encode envelope of %s %s: %w", o.Type, o.ID, err)
	}
	return b, nil
}

// ParseObject is the inverse of Object.Encode. Members that this version does not
// know are ignored; duplicate names, invalid UTF-8, trailing bytes, a body that is
// no JSON object and an id that ParseID would change are errors that wrap
// ErrEvent.
func ParseObject(b []byte) (Object, error) {
	var o Object
	if err := json.Unmarshal(b, &o); err != nil {
		return Object{}, fmt.Errorf("%w: envelope: %w", ErrEvent, err)
	}
	if _, err := ParseType(string(o.Type)); err != nil {
		return Object{}, fmt.Errorf("%w: envelope: %w", ErrEvent, err)
	}
	if id, err := ParseID(string(o.ID)); err != nil || id != o.ID {
		return Object{}, fmt.Errorf("%w: envelope: id %.64q is not in its canonical form (%w)", ErrEvent, o.ID, ErrID)
	}
	if o.Body != nil && o.Body.Kind() != '{' {
		return Object{}, fmt.Errorf("%w: envelope: the body is no JSON object", ErrEvent)
	}
	return o, nil
}
