package visualcron

import (
	"bytes"
	"errors"
	"fmt"
	"io"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/vcsync/vcsync/schemas"
)

// MaxBody is the greatest size of one object's body in bytes. A listing with a
// larger one is not complete.
const MaxBody = 64 << 20

// Complete is the proof that a listing was read to its end: a non-null array, each
// of whose rows is a valid object with an id of its own, closed and followed by
// the end of input. Only ReadList makes one that IsComplete.
type Complete struct {
	t     schemas.Type
	count int
	ok    bool
}

// IsComplete tells whether absence from this listing is evidence.
func (c Complete) IsComplete() bool { return c.ok }

// Type returns the listed type.
func (c Complete) Type() schemas.Type { return c.t }

// Count returns how many objects the listing held.
func (c Complete) Count() int { return c.count }

// ReadList reads the JSON array of a listing from r and yields its rows, holding
// one row at a time. It answers the error of yield as it is, an error of r with
// that error wrapped, and anything that makes the listing incomplete with an error
// of class BadAnswer; the reason stands in Detail.
func ReadList(r io.Reader, t schemas.Type, yield func(Row) error) (Complete, error) {
	bad := func(format string, a ...any) (Complete, error) {
		return Complete{}, &Error{Class: BadAnswer, Op: "list", Type: t, Detail: fmt.Sprintf(format, a...)}
	}
	// A member that stands twice in a row spoils that row and not the listing:
	// Normalize refuses it. Looking for it here would triple the cost of every row.
	dec := jsontext.NewDecoder(r, jsontext.AllowDuplicateNames(true))
	// failed sorts what the decoder says: broken JSON is the server's fault, all
	// else is the transport's and keeps its own meaning.
	failed := func(err error, where string) (Complete, error) {
		if _, ok := errors.AsType[*jsontext.SyntacticError](err); ok || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return bad("not a whole JSON array: it breaks off or is malformed %s", where)
		}
		return Complete{}, err
	}
	tok, err := dec.ReadToken()
	if err != nil {
		return failed(err, "before its first row")
	}
	if tok.Kind() != '[' {
		return bad("want a JSON array, got %s", kindName(tok.Kind()))
	}
	seen := map[schemas.ID]bool{}
	for dec.PeekKind() != ']' {
		where := fmt.Sprintf("after row %d", len(seen))
		row, err := dec.ReadValue()
		if err != nil {
			return failed(err, where)
		}
		if row.Kind() != '{' {
			return bad("row %d is %s, not an object", len(seen)+1, kindName(row.Kind()))
		}
		if len(row) > MaxBody {
			return bad("row %d has %d bytes, at most %d", len(seen)+1, len(row), MaxBody)
		}
		id, err := BodyID(t, row)
		if err != nil {
			return bad("row %d: %v", len(seen)+1, err)
		}
		if seen[id] {
			return bad("the id %.64s stands in it twice", id)
		}
		seen[id] = true
		if err := yield(Row{ID: id, Body: row}); err != nil {
			return Complete{}, err
		}
	}
	if _, err := dec.ReadToken(); err != nil {
		return failed(err, "at its end")
	}
	switch _, err := dec.ReadToken(); {
	case err == nil:
		return bad("bytes follow after the array")
	case errors.Is(err, io.EOF):
		return Complete{t: t, count: len(seen), ok: true}, nil
	default:
		if _, ok := errors.AsType[*jsontext.SyntacticError](err); ok {
			return bad("bytes follow after the array")
		}
		return Complete{}, err
	}
}

func kindName(k jsontext.Kind) string {
	switch k {
	case 'n':
		return "null"
	case 't', 'f':
		return "a boolean"
	case '"':
		return "a string"
	case '0':
		return "a number"
	case '{':
		return "an object"
	case '[':
		return "an array"
	}
	return "something else"
}

// ServerSettingsID is the id of the one ServerSettings object.
const ServerSettingsID schemas.ID = "server"

// BodyID returns the id that a body of type t carries, in canonical form: that of a
// Variable is its name, that of a TaskRepository object its Task's, and there is
// one ServerSettings object per server. Sources: VisualCron docs and public client
// code. The error wraps ErrBody.
func BodyID(t schemas.Type, body []byte) (schemas.ID, error) {
	if t == schemas.ServerSettings {
		return ServerSettingsID, nil
	}
	path := path("Id")
	if f := forms[t]; f != nil {
		path = f.id
	}
	s, err := stringAt(body, path)
	if err != nil {
		return "", fmt.Errorf("%w: %w", ErrBody, err)
	}
	id, err := schemas.ParseID(s)
	if err != nil {
		return "", fmt.Errorf("%w: %w", ErrBody, err)
	}
	if t != schemas.Variable && isOddGUID(s) {
		// It would be another object than the one it names: that one missing, this one new.
		return "", fmt.Errorf("%w: the id %.64s is a GUID in another spelling than 8-4-4-4-12 digits", ErrBody, s)
	}
	return id, nil
}

// isOddGUID tells whether s is a GUID in another of the spellings that .NET has for
// one: without dashes, in braces or in parentheses.
func isOddGUID(s string) bool {
	if len(s) == 38 && (s[0] == '{' && s[37] == '}' || s[0] == '(' && s[37] == ')') {
		return schemas.IsGUID(s[1:37])
	}
	return len(s) == 32 && schemas.IsGUID(s[:8]+"-"+s[8:12]+"-"+s[12:16]+"-"+s[16:20]+"-"+s[20:])
}

// stringAt returns the string under the members of path, without building a tree.
// A member of the path that stands twice is an error: which one counts is anybody's
// guess.
func stringAt(body []byte, path []string) (string, error) {
	dec := jsontext.NewDecoder(bytes.NewReader(body), jsontext.AllowDuplicateNames(true))
	tok, err := dec.ReadToken()
	if err != nil || tok.Kind() != '{' {
		return "", fmt.Errorf("no object")
	}
	var found jsontext.Value
	for {
		tok, err := dec.ReadToken()
		if err != nil {
			return "", fmt.Errorf("malformed JSON: %w", err)
		}
		if tok.Kind() == '}' {
			break
		}
		if tok.String() != path[0] {
			if err := dec.SkipValue(); err != nil {
				return "", fmt.Errorf("malformed JSON: %w", err)
			}
			continue
		}
		v, err := dec.ReadValue()
		if err != nil {
			return "", fmt.Errorf("malformed JSON: %w", err)
		}
		if found != nil {
			return "", fmt.Errorf("member %s stands twice", path[0])
		}
		found = v.Clone()
	}
	switch {
	case found == nil:
		return "", fmt.Errorf("no member %s", path[0])
	case len(path) > 1:
		s, err := stringAt(found, path[1:])
		if err != nil {
			err = fmt.Errorf("in %s: %w", path[0], err)
		}
		return s, err
	case found.Kind() != '"':
		return "", fmt.Errorf("member %s is no text", path[0])
	}
	s, err := jsontext.AppendUnquote(nil, found)
	return string(s), err
}
