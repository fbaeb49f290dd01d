package schemas

import (
	"errors"
	"fmt"
	"strconv"

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
	// Withholds tells that the source does not give its secrets. Withheld lists the
	// JSON pointers of the places where it has one, or may have one; the body has
	// null there, or nothing. A reader leaves the target's own secrets as they are.
	Withholds bool     `json:"withholds,omitzero"`
	Withheld  []string `json:"withheld,omitzero"`
}

// check tells whether the envelope can travel.
func (o Object) check() error {
	if _, err := ParseType(string(o.Type)); err != nil {
		return err
	}
	if id, err := ParseID(string(o.ID)); err != nil {
		return err
	} else if id != o.ID {
		return fmt.Errorf("%w: %.64q is not in its canonical form (GUIDs in lower case)", ErrID, o.ID)
	}
	if o.Body != nil && o.Body.Kind() != '{' {
		return errors.New("the body is no JSON object")
	}
	if o.Body == nil && (len(o.Sealed) > 0 || len(o.Withheld) > 0 || o.Withholds) {
		return errors.New("sealed or withheld strings without a body")
	}
	for _, list := range []struct {
		name     string
		pointers []string
	}{{"sealed", o.Sealed}, {"withheld", o.Withheld}} {
		for _, p := range list.pointers {
			if p == "" || !jsontext.Pointer(p).IsValid() {
				return fmt.Errorf("%s: %.64q is no JSON pointer to a string of the body", list.name, p)
			}
		}
	}
	return nil
}

// Encode returns the envelope as JSON. The body keeps the spelling of its numbers
// and strings and loses its blanks. The error wraps ErrEvent.
func (o Object) Encode() ([]byte, error) {
	if err := o.check(); err != nil {
		return nil, fmt.Errorf("%w: envelope: %w", ErrEvent, err)
	}
	b, err := json.Marshal(o, jsontext.PreserveRawStrings(true))
	if err != nil {
		return nil, fmt.Errorf("%w: envelope of %s %.64q: %w", ErrEvent, o.Type, o.ID, err)
	}
	return b, nil
}

// ParseObject is the inverse of Object.Encode. Members that this version does not
// know are ignored; duplicate names, invalid UTF-8, trailing bytes, a body that is
// no JSON object (null included) and an id that ParseID would change are errors
// that wrap ErrEvent.
func ParseObject(b []byte) (Object, error) {
	var o Object
	if err := json.Unmarshal(b, &o); err != nil {
		return Object{}, fmt.Errorf("%w: envelope: %w", ErrEvent, err)
	}
	if err := o.check(); err != nil {
		return Object{}, fmt.Errorf("%w: envelope: %w", ErrEvent, err)
	}
	return o, nil
}

// SealContext names what a sealed secret of a body belongs to, so that it opens
// there only.
func SealContext(source Slug, t Type, id ID, pointer string) string {
	return "object/" + string(source) + "/" + string(t) + "/" + strconv.Quote(string(id)) + pointer
}
