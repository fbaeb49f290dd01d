package schemas

import (
	"crypto/sha256"
	"encoding/base32"
	"fmt"
	"strings"
	"unicode/utf8"
)

const (
	// MaxID is the greatest length of an object id in bytes.
	MaxID = 4096
	// MaxPlainID is the greatest length in bytes of an id that its token spells
	// out; the token of a longer one is a hash.
	MaxPlainID = 128

	zeroGUID = "00000000-0000-0000-0000-000000000000"
	hashMark = "=H"
)

// hashed writes SHA-256 sums as token text.
var hashed = base32.StdEncoding.WithPadding(base32.NoPadding)

// ID identifies an object of one type on a server: a GUID in lower case, or for
// types that VisualCron keys otherwise (a Variable by its name) any text.
type ID string

// String returns the id in its canonical form.
func (id ID) String() string { return string(id) }

// ParseID takes an id as a server gives it. GUIDs become lower case, because
// VisualCron compares them without case; all other text stays as it is, so that
// ParseID(id.String()) == id. An empty id, the zero GUID, invalid UTF-8, a NUL
// and more than MaxID bytes are refused with an error that wraps ErrID.
func ParseID(s string) (ID, error) {
	switch {
	case s == "":
		return "", fmt.Errorf("%w: empty", ErrID)
	case len(s) > MaxID:
		return "", fmt.Errorf("%w: %d bytes, at most %d", ErrID, len(s), MaxID)
	case s == zeroGUID:
		return "", fmt.Errorf("%w: the zero GUID stands for no object", ErrID)
	case !utf8.ValidString(s):
		return "", fmt.Errorf("%w: not valid UTF-8", ErrID)
	case strings.ContainsRune(s, 0):
		return "", fmt.Errorf("%w: contains NUL", ErrID)
	case IsGUID(s):
		return ID(strings.ToLower(s)), nil
	}
	return ID(s), nil
}

// IsGUID tells whether s has the 36 characters of a GUID, in any case.
func IsGUID(s string) bool {
	if len(s) != 36 {
		return false
	}
	for i := range len(s) {
		c := s[i]
		if i == 8 || i == 13 || i == 18 || i == 23 {
			if c != '-' {
				return false
			}
		} else if !('0' <= c && c <= '9' || 'a' <= c && c <= 'f' || 'A' <= c && c <= 'F') {
			return false
		}
	}
	return true
}

// Token returns the id's place in subjects and keys.
func (id ID) Token() Token {
	if len(id) > MaxPlainID {
		sum := sha256.Sum256([]byte(id))
		return Token(hashMark + hashed.EncodeToString(sum[:]))
	}
	plain := true
	for i := range len(id) {
		plain = plain && isPlain(id[i])
	}
	if plain {
		return Token(id)
	}
	var b strings.Builder
	for i := range len(id) {
		if c := id[i]; isPlain(c) {
			b.WriteByte(c)
		} else {
			fmt.Fprintf(&b, "=%02X", c)
		}
	}
	return Token(b.String())
}

// isPlain tells whether a byte of an id stands for itself in a token.
func isPlain(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '-' || c == '_'
}

// Token is an object's id in the alphabet of NATS subjects and KV keys (ADR-6 of
// NATS): letters, digits, "-" and "_" stand for themselves, any other byte is
// =XX, and an id longer than MaxPlainID is =H and the base32 of its SHA-256. The
// event's header then carries the true id.
type Token string

// String returns the token as it stands in a subject.
func (t Token) String() string { return string(t) }

// ID returns the id that the token spells out, and false when it is a hash.
func (t Token) ID() (ID, bool) {
	id, err := t.decode()
	return id, err == nil && id != ""
}

// ParseToken is the inverse of Token.String: it accepts exactly what ID.Token
// makes. The error wraps ErrToken.
func ParseToken(s string) (Token, error) {
	t := Token(s)
	id, err := t.decode()
	if err != nil {
		return "", fmt.Errorf("%w %.64q: %v", ErrToken, s, err)
	}
	if id != "" && id.Token() != t {
		return "", fmt.Errorf("%w %.64q: not the shortest spelling", ErrToken, s)
	}
	return t, nil
}

// decode returns the id, or "" for a well-formed hash.
func (t Token) decode() (ID, error) {
	s := string(t)
	if h, ok := strings.CutPrefix(s, hashMark); ok {
		sum, err := hashed.DecodeString(h)
		if err != nil || len(sum) != sha256.Size || hashed.EncodeToString(sum) != h {
			return "", fmt.Errorf("not a hash")
		}
		return "", nil
	}
	if len(s) > 3*MaxPlainID {
		return "", fmt.Errorf("%d bytes long", len(s))
	}
	raw := make([]byte, 0, len(s))
	for i := 0; i < len(s); i++ {
		c := s[i]
		switch {
		case isPlain(c):
			raw = append(raw, c)
		case c == '=' && i+2 < len(s) && isHex(s[i+1]) && isHex(s[i+2]):
			raw = append(raw, unhex(s[i+1])<<4|unhex(s[i+2]))
			i += 2
		default:
			return "", fmt.Errorf("byte %d", i)
		}
	}
	id, err := ParseID(string(raw))
	if err != nil {
		return "", err
	}
	return id, nil
}

func isHex(c byte) bool { return '0' <= c && c <= '9' || 'A' <= c && c <= 'F' }

func unhex(c byte) byte {
	if c <= '9' {
		return c - '0'
	}
	return c - 'A' + 10
}
