package schemas

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"
)

// Digest is the hash of an object's normal form, in lower-case hex. The empty
// digest stands for an object that is not there. Secret fields enter a normal
// form as keyed digests, so a Digest gives nothing away.
type Digest string

// DigestOf hashes a normal form with SHA-256.
func DigestOf(normal []byte) Digest {
	sum := sha256.Sum256(normal)
	return Digest(hex.EncodeToString(sum[:]))
}

// String returns the digest's hex text.
func (d Digest) String() string { return string(d) }

// Short returns the first 12 characters, for people.
func (d Digest) Short() string { return string(d[:min(12, len(d))]) }

// ParseDigest is the inverse of Digest.String; the empty text is the empty digest.
// The error wraps ErrDigest.
func ParseDigest(s string) (Digest, error) {
	if s == "" {
		return "", nil
	}
	if len(s) != 2*sha256.Size || strings.Trim(s, "0123456789abcdef") != "" {
		return "", fmt.Errorf("%w %.80q: want 64 lower-case hex digits", ErrDigest, s)
	}
	return Digest(s), nil
}
