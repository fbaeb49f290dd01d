package schemas

import (
	"fmt"
	"strings"
)

const (
	eventPrefix = "vcsync.ev."
	statePrefix = "vcsync.st."

	// EventSubjects is what the event stream takes in: source, type, kind, object.
	EventSubjects = eventPrefix + "*.*.*.*"
	// StateSubjects is what the state stream holds, by the server's own transform:
	// source, type, object.
	StateSubjects = statePrefix + "*.*.*"
	// StateTransform turns a subject of EventSubjects into one of StateSubjects.
	StateTransform = statePrefix + "{{wildcard(1)}}.{{wildcard(2)}}.{{wildcard(4)}}"
)

// Key names one object of one source, as subjects do.
type Key struct {
	Source Slug
	Type   Type
	Token  Token
}

// StateSubject returns where the object's newest event lies.
func (k Key) StateSubject() string {
	return statePrefix + string(k.Source) + "." + string(k.Type) + "." + string(k.Token)
}

// EventSubject returns where an event of that kind is published.
func (k Key) EventSubject(kind Kind) string {
	return eventPrefix + string(k.Source) + "." + string(k.Type) + "." + string(kind) + "." + string(k.Token)
}

// EventFilter matches the object's events of every kind; the guard of a publish
// is the last sequence over it.
func (k Key) EventFilter() string {
	return eventPrefix + string(k.Source) + "." + string(k.Type) + ".*." + string(k.Token)
}

// String returns source/type/token, for messages.
func (k Key) String() string {
	return string(k.Source) + "/" + string(k.Type) + "/" + string(k.Token)
}

// SourceStateFilter matches the newest events of all objects of a source.
func SourceStateFilter(source Slug) string { return statePrefix + string(source) + ".>" }

// TypeStateFilter matches the newest events of one type of a source.
func TypeStateFilter(source Slug, t Type) string {
	return statePrefix + string(source) + "." + string(t) + ".*"
}

// EventsFilter matches events; an empty source, type or kind stands for any.
func EventsFilter(source Slug, t Type, kind Kind) string {
	any := func(s string) string {
		if s == "" {
			return "*"
		}
		return s
	}
	return eventPrefix + any(string(source)) + "." + any(string(t)) + "." + any(string(kind)) + ".*"
}

// ParseStateSubject is the inverse of Key.StateSubject. The error wraps ErrSubject.
func ParseStateSubject(s string) (Key, error) {
	rest, ok := strings.CutPrefix(s, statePrefix)
	parts := strings.Split(rest, ".")
	if !ok || len(parts) != 3 {
		return Key{}, fmt.Errorf("%w %.200q", ErrSubject, s)
	}
	return parseKey(s, parts[0], parts[1], parts[2])
}

// ParseEventSubject is the inverse of Key.EventSubject. The error wraps ErrSubject.
func ParseEventSubject(s string) (Key, Kind, error) {
	rest, ok := strings.CutPrefix(s, eventPrefix)
	parts := strings.Split(rest, ".")
	if !ok || len(parts) != 4 {
		return Key{}, "", fmt.Errorf("%w %.200q", ErrSubject, s)
	}
	k, err := parseKey(s, parts[0], parts[1], parts[3])
	if err != nil {
		return Key{}, "", err
	}
	kind, err := ParseKind(parts[2])
	if err != nil {
		return Key{}, "", fmt.Errorf("%w %.200q: %w", ErrSubject, s, err)
	}
	return k, kind, nil
}

func parseKey(subject, source, typ, token string) (Key, error) {
	src, err := ParseSlug(source)
	if err != nil {
		return Key{}, fmt.Errorf("%w %.200q: %w", ErrSubject, subject, err)
	}
	t, err := ParseType(typ)
	if err != nil {
		return Key{}, fmt.Errorf("%w %.200q: %w", ErrSubject, subject, err)
	}
	tok, err := ParseToken(token)
	if err != nil {
		return Key{}, fmt.Errorf("%w %.200q: %w", ErrSubject, subject, err)
	}
	return Key{Source: src, Type: t, Token: tok}, nil
}
