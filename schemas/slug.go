package schemas

import "fmt"

// MaxSlug is the greatest length of a slug in bytes.
const MaxSlug = 48

// Slug is the immutable short name of a server or a sync setting: lower-case
// letters, digits and inner hyphens. It stands in subjects, keys and metric
// labels, so it never changes once given; the display name beside it may.
type Slug string

// String returns the slug itself.
func (s Slug) String() string { return string(s) }

// ParseSlug is the inverse of Slug.String. It accepts 1 to MaxSlug bytes of a-z,
// 0-9 and "-", where the first and the last byte is no hyphen. The error wraps
// ErrSlug.
func ParseSlug(s string) (Slug, error) {
	ok := len(s) >= 1 && len(s) <= MaxSlug && s[0] != '-' && s[len(s)-1] != '-'
	for i := 0; ok && i < len(s); i++ {
		c := s[i]
		ok = 'a' <= c && c <= 'z' || '0' <= c && c <= '9' || c == '-'
	}
	if !ok {
		return "", fmt.Errorf("%w %.64q: use 1 to %d lower-case letters, digits and inner hyphens, such as \"production\" or \"site-2\"", ErrSlug, s, MaxSlug)
	}
	return Slug(s), nil
}

// UnmarshalText parses with ParseSlug.
func (s *Slug) UnmarshalText(b []byte) error {
	v, err := ParseSlug(string(b))
	if err == nil {
		*s = v
	}
	return err
}

// MarshalText returns the slug itself.
func (s Slug) MarshalText() ([]byte, error) { return []byte(s), nil }
