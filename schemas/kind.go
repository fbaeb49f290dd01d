package schemas

import "fmt"

// Kind says what happened to an object at its source.
type Kind string

// The three kinds, in the words of the native window.
const (
	Added   Kind = "added"
	Updated Kind = "updated"
	Deleted Kind = "deleted"
)

// Kinds returns all kinds.
func Kinds() []Kind { return []Kind{Added, Updated, Deleted} }

// String returns the kind's word, as it stands in subjects.
func (k Kind) String() string { return string(k) }

// ParseKind is the inverse of Kind.String; it accepts no aliases. The error wraps
// ErrKind.
func ParseKind(s string) (Kind, error) {
	switch k := Kind(s); k {
	case Added, Updated, Deleted:
		return k, nil
	}
	return "", fmt.Errorf("%w %.64q, want added, updated or deleted", ErrKind, s)
}

// UnmarshalText parses with ParseKind.
func (k *Kind) UnmarshalText(b []byte) error {
	v, err := ParseKind(string(b))
	if err == nil {
		*k = v
	}
	return err
}

// MarshalText returns the kind's word.
func (k Kind) MarshalText() ([]byte, error) { return []byte(k), nil }
