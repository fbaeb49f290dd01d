package standin

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
	"unicode/utf16"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/vcsync/vcsync/schemas"
	"github.com/vcsync/vcsync/visualcron"
)

// ListingFault is a way in which a listing is not what it should be: cut, wrapped,
// of somebody else, or without rows that are there. A value may count how often it
// was served, so whoever switches one on keeps that value until it ends.
type ListingFault struct {
	// Name is its word on the command line.
	Name string
	// What says in one line what the server does.
	What string

	do func(*falseListing)
}

// serve answers a request for the listing of t, whose true rows are given, in the
// fault's way. Where there is nothing to spoil, such as an id where there are no
// rows, the answer is the true one.
func (f ListingFault) serve(s *Server, w http.ResponseWriter, r *http.Request, t schemas.Type, rows []visualcron.Row) {
	l := &falseListing{s: s, w: w, r: r, t: t}
	for _, row := range rows {
		l.rows = append(l.rows, string(row.Body))
	}
	f.do(l)
}

// pageSize is how many rows a server gives that thinks in pages.
const pageSize = 100

// elsewhere is the id of a server that is not this one.
const elsewhere = "00000000-57a1-4d10-8000-00000000e15e"

// ListingFaults returns all listing faults: first answers that are something else
// than a listing, then wrong HTTP, then what is wrong in the array, in its rows and
// in their ids, and last what looks whole and is not.
func ListingFaults() []ListingFault {
	const js = "application/json"
	// says answers 200 with that body.
	says := func(media, body string) func(*falseListing) {
		return func(l *falseListing) { l.send(http.StatusOK, media, body) }
	}
	// bends answers 200 with what f makes of the rows.
	bends := func(f func(l *falseListing) string) func(*falseListing) {
		return func(l *falseListing) { l.send(http.StatusOK, js, f(l)) }
	}
	// fails answers with a status other than 200.
	fails := func(status int, media, body string) func(*falseListing) {
		return func(l *falseListing) { l.send(status, media, body) }
	}
	problem := func(status int) func(*falseListing) {
		return func(l *falseListing) { refuse(l.w, status, "a fault of the stand-in") }
	}
	// spoils changes the row in the middle.
	spoils := func(f func(l *falseListing, row string) string) func(*falseListing) {
		return bends(func(l *falseListing) string {
			if i := len(l.rows) / 2; len(l.rows) > 0 {
				l.rows[i] = f(l, l.rows[i])
			}
			return l.array()
		})
	}
	// id puts another id into the row in the middle; nothing takes it out.
	id := func(value string) func(*falseListing) {
		return spoils(func(l *falseListing, row string) string { return withID(l.t, row, value) })
	}
	// guids spells every id that is a GUID in another way.
	guids := func(spell func(string) string) func(*falseListing) {
		return bends(func(l *falseListing) string {
			for i, row := range l.rows {
				if own, err := visualcron.BodyID(l.t, []byte(row)); err == nil && schemas.IsGUID(string(own)) {
					l.rows[i] = withID(l.t, row, strconv.Quote(spell(string(own))))
				}
			}
			return l.array()
		})
	}
	const (
		page    = `<!DOCTYPE html><html><head><title>Sign in</title></head><body><form method="post" action="/login">…</form></body></html>`
		iis     = `<html><body><h2>Server Error in '/' Application.</h2></body></html>`
		soap    = `<s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/"><s:Body><s:Fault><faultcode>s:Client</faultcode></s:Fault></s:Body></s:Envelope>`
		refused = `{"type":"about:blank","title":"Unauthorized","status":401}`
	)
	var lacks atomic.Int64
	return []ListingFault{
		// Something else than a listing, with success.
		{"null", "null in place of the array", says(js, "null")},
		{"empty-array", "an empty array, whatever there is", says(js, "[]")},
		{"empty-object", "an empty object", says(js, "{}")},
		{"empty-body", "200 and no byte", says(js, "")},
		{"blank-body", "200 and nothing but blanks", says(js, " \r\n\t ")},
		{"no-content", "204", fails(http.StatusNoContent, "", "")},
		{"a-number", "a number, such as a count", says(js, "0")},
		{"a-text", "the listing as one JSON text, encoded twice", bends(func(l *falseListing) string { return quoted(l.array()) })},
		{"error-object", "200 and an object that tells of an error", says(js, `{"Result":0,"Token":"","Error":"session expired"}`)},
		{"problem-200", "200 and an RFC 9457 problem", says("application/problem+json", refused)},
		{"login-page", "200 and the sign-in page of a proxy", says("text/html; charset=utf-8", page)},
		{"login-page-json", "the same page, called JSON", says(js, page)},
		{"soap-fault", "200 and a SOAP fault", says("text/xml; charset=utf-8", soap)},
		{"xml-json", "XML, called JSON", says(js, `<?xml version="1.0"?><ArrayOfJobClass/>`)},
		{"text-list", "the text format: a BOM, a line of names, commas", says("text/plain", "\ufeffid,active,name\r\n")},
		{"json-lines", "a row per line, without an array", bends(func(l *falseListing) string { return strings.Join(l.rows, "\n") })},
		{"jsonp", "the array as the argument of a call", bends(func(l *falseListing) string { return "callback(" + l.array() + ");" })},
		{"wrapped-d", `the array in {"d":…}`, bends(func(l *falseListing) string { return `{"d":` + l.array() + `}` })},
		{"wrapped-next", "a page in an object, and where the next one is", bends(func(l *falseListing) string {
			l.rows = l.rows[:min(len(l.rows), pageSize)]
			return `{"value":` + l.array() + `,"next":"/api/v1/objects/` + string(l.t) + `?page=2"}`
		})},
		{"keyed", "an object of rows by number", bends(func(l *falseListing) string {
			for i, row := range l.rows {
				l.rows[i] = fmt.Sprintf("%q:%s", strconv.Itoa(i), row)
			}
			return "{" + strings.Join(l.rows, ",") + "}"
		})},

		// Refusals and faults.
		{"status-401", "401 to every listing, whatever the token", problem(http.StatusUnauthorized)},
		{"status-403", "403: the account may not read this type", problem(http.StatusForbidden)},
		{"status-404", "404 in the words of the contract", problem(http.StatusNotFound)},
		{"status-404-page", "404 of a web server that knows nothing of the contract", fails(http.StatusNotFound, "text/html", iis)},
		{"status-429", "429", problem(http.StatusTooManyRequests)},
		{"status-500", "500", problem(http.StatusInternalServerError)},
		{"status-500-page", "500 and a page", fails(http.StatusInternalServerError, "text/html", iis)},
		{"status-502", "502 of a proxy, with an empty array", fails(http.StatusBadGateway, js, "[]")},
		{"status-503", "503, to come back in 7 seconds", func(l *falseListing) {
			l.w.Header().Set("Retry-After", "7")
			refuse(l.w, http.StatusServiceUnavailable, "a fault of the stand-in")
		}},
		{"status-206", "206: the first rows of more", func(l *falseListing) {
			l.rows = l.rows[:min(len(l.rows), pageSize)]
			l.w.Header().Set("Content-Range", "items 0-99/*")
			l.send(http.StatusPartialContent, js, l.array())
		}},
		{"redirect", "302 to a sign-in page", func(l *falseListing) {
			l.w.Header().Set("Location", "/login")
			l.send(http.StatusFound, "text/html", page)
		}},

		// Wrong headers, codings and connections.
		{"text-plain", "the listing as text/plain", func(l *falseListing) { l.send(http.StatusOK, "text/plain", l.array()) }},
		{"no-media-type", "the listing without a media type", func(l *falseListing) {
			l.w.Header()["Content-Type"] = nil // so that net/http does not guess one
			_, _ = l.w.Write([]byte(l.array()))
		}},
		{"gzip", "the listing in gzip, which was not asked for", func(l *falseListing) {
			l.w.Header().Set("Content-Encoding", "gzip")
			l.send(http.StatusOK, js, zipped(l.array()))
		}},
		{"gzip-unsaid", "the listing in gzip, without a word about it", bends(func(l *falseListing) string { return zipped(l.array()) })},
		{"other-server", "the listing, but another server's id in the header", func(l *falseListing) {
			l.w.Header().Set(serverIDHeader, elsewhere)
			l.send(http.StatusOK, js, l.array())
		}},
		{"other-server-empty", "an empty array of another server, by its header", func(l *falseListing) {
			l.w.Header().Set(serverIDHeader, elsewhere)
			l.send(http.StatusOK, js, "[]")
		}},
		{"other-server-mid", "half of the listing, then from its start that of another server", bends(func(l *falseListing) string {
			return "[" + strings.Join(l.rows[:len(l.rows)/2], ",") + `[{"Id":"` + elsewhere + `"}]`
		})},
		{"hang-up", "the connection is closed without an answer", func(*falseListing) { panic(http.ErrAbortHandler) }},
		{"hang-up-mid", "the connection is closed after half of the listing", func(l *falseListing) {
			l.begin(l.half())
			panic(http.ErrAbortHandler)
		}},
		{"hang-up-end", "the whole array, and the connection is closed before the answer's end", func(l *falseListing) {
			l.begin(l.array())
			panic(http.ErrAbortHandler)
		}},
		{"length-long", "a Content-Length above what comes", func(l *falseListing) {
			body := l.array()
			l.w.Header().Set("Content-Length", strconv.Itoa(len(body)+10))
			l.send(http.StatusOK, js, body)
		}},
		{"length-short", "a Content-Length below that of the listing", func(l *falseListing) {
			body := l.array()
			l.w.Header().Set("Content-Length", strconv.Itoa(len(body)-1))
			l.send(http.StatusOK, js, body[:len(body)-1])
		}},
		{"bad-chunk", "a chunked answer with a length that is no number", func(l *falseListing) {
			half := l.half()
			l.raw(fmt.Sprintf("HTTP/1.1 200 OK\r\n%s: %s\r\nContent-Type: %s\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\nzz\r\n", serverIDHeader, l.s.id, js, len(half), half))
		}},
		{"http-1.0-cut", "HTTP/1.0 without a length, which breaks off in mid-list as if that were its end", func(l *falseListing) {
			l.raw(fmt.Sprintf("HTTP/1.0 200 OK\r\n%s: %s\r\nContent-Type: %s\r\n\r\n%s", serverIDHeader, l.s.id, js, l.half()))
		}},
		{"no-http", "something that is not HTTP", func(l *falseListing) { l.raw("SSH-2.0-OpenSSH_9.6\r\n") }},
		{"silent", "no answer ever", func(l *falseListing) { l.pause(forever) }},
		{"silent-mid", "half of the listing, then silence", func(l *falseListing) {
			l.begin(l.half())
			l.pause(forever)
		}},
		{"slow", "a byte per second, beginning with a thousand blanks", func(l *falseListing) {
			body := strings.Repeat(" ", 1000) + l.array()
			l.begin("")
			for i := range len(body) {
				if !l.more(body[i:i+1]) || !l.pause(time.Second) {
					return
				}
			}
		}},
		{"endless-blanks", "half of the listing, then blanks without end", func(l *falseListing) {
			l.begin("[" + strings.Join(l.rows[:len(l.rows)/2], ","))
			for l.more(strings.Repeat(" ", 1024)) && l.pause(time.Second) {
			}
		}},
		{"endless-row", "a row without end", func(l *falseListing) {
			l.begin(`[{"Id":"` + elsewhere + `","Script":"`)
			for block := strings.Repeat("a", 1<<20); l.more(block); {
			}
		}},

		// What is wrong in the array.
		{"cut", "the first half of the listing", bends((*falseListing).half)},
		{"cut-between-rows", "the listing up to a comma between rows", bends(func(l *falseListing) string {
			lead := "["
			for _, row := range l.rows[:max(0, len(l.rows)-1)] {
				lead += row + ","
			}
			return lead
		})},
		{"unclosed", "all rows, but no bracket at the end", bends(func(l *falseListing) string { return strings.TrimSuffix(l.array(), "]") })},
		{"changed-cut", "every row changed, and no bracket at the end", bends(func(l *falseListing) string {
			for i, row := range l.rows {
				l.rows[i] = withMember(row, `"ListingFault":true`)
			}
			return strings.TrimSuffix(l.array(), "]")
		})},
		{"trailing-bytes", "the listing, and bytes behind it", bends(func(l *falseListing) string { return l.array() + "\x00\x00" })},
		{"trailing-error", "the listing, and an error behind it", bends(func(l *falseListing) string { return l.array() + refused })},
		{"two-arrays", "the rows in two arrays", bends(func(l *falseListing) string {
			first := &falseListing{rows: l.rows[:len(l.rows)/2]}
			l.rows = l.rows[len(l.rows)/2:]
			return first.array() + l.array()
		})},
		{"trailing-comma", "a comma behind the last row", bends(func(l *falseListing) string { return strings.TrimSuffix(l.array(), "]") + ",]" })},
		{"comments", "a comment in the JSON", bends(func(l *falseListing) string { return "[/* all objects */" + l.array()[1:] })},
		{"bom", "a byte order mark before the array", bends(func(l *falseListing) string { return "\ufeff" + l.array() })},
		{"utf-16", "the listing in UTF-16", bends(func(l *falseListing) string { return inUTF16(l.array()) })},
		{"nested-array", "the array in an array", bends(func(l *falseListing) string { return "[" + l.array() + "]" })},
		{"token-mid", "half of the rows, then the refusal of the token in mid-list", bends(func(l *falseListing) string {
			return "[" + strings.Join(l.rows[:(len(l.rows)+1)/2], ",") + refused
		})},
		{"error-row", "an error as the last row", bends(func(l *falseListing) string {
			l.rows = append(l.rows, `{"Error":"timeout while reading"}`)
			return l.array()
		})},
		{"null-row", "a null as the last row", bends(func(l *falseListing) string { l.rows = append(l.rows, "null"); return l.array() })},
		{"ids-only", "the ids in place of the objects", bends(func(l *falseListing) string {
			for i, row := range l.rows {
				own, _ := visualcron.BodyID(l.t, []byte(row))
				l.rows[i] = quoted(string(own))
			}
			return l.array()
		})},
		{"twice", "one object twice", bends(func(l *falseListing) string {
			if len(l.rows) > 0 {
				l.rows = append(l.rows, l.rows[0])
			}
			return l.array()
		})},
		{"twice-changed", "one object twice, in two versions", bends(func(l *falseListing) string {
			if len(l.rows) > 0 {
				l.rows = append(l.rows, withMember(l.rows[0], `"ListingFault":true`))
			}
			return l.array()
		})},
		{"twice-capitals", "one object twice, the second time with its GUID in capitals", bends(func(l *falseListing) string {
			if len(l.rows) > 0 {
				own, _ := visualcron.BodyID(l.t, []byte(l.rows[0]))
				if schemas.IsGUID(string(own)) {
					own = schemas.ID(strings.ToUpper(string(own)))
				}
				l.rows = append(l.rows, withID(l.t, l.rows[0], quoted(string(own))))
			}
			return l.array()
		})},

		// What is wrong in one row.
		{"invalid-utf-8", "a text that is not UTF-8", spoils(func(_ *falseListing, row string) string { return withMember(row, "\"Latin1\":\"Gr\xf6\xdfe\"") })},
		{"lone-surrogate", "half of a surrogate pair", spoils(func(_ *falseListing, row string) string { return withMember(row, `"Half":"\ud83d"`) })},
		{"nul", "a NUL in a text", spoils(func(_ *falseListing, row string) string { return withMember(row, "\"Nul\":\"a\x00b\"") })},
		{"nan", "NaN in place of a number", spoils(func(_ *falseListing, row string) string { return withMember(row, `"ExecutionTime":NaN`) })},
		{"booleans-of-net", "True in place of true", spoils(func(_ *falseListing, row string) string { return withMember(row, `"Active":True`) })},
		{"single-quotes", "a text in single quotes", spoils(func(_ *falseListing, row string) string { return withMember(row, `"Text":'x'`) })},
		{"too-deep", "lists in lists, 20,000 deep", spoils(func(_ *falseListing, row string) string {
			return withMember(row, `"Deep":`+strings.Repeat("[", 20000)+strings.Repeat("]", 20000))
		})},
		{"deep-row", "lists in lists, 5,000 deep", spoils(func(_ *falseListing, row string) string {
			return withMember(row, `"Deep":`+strings.Repeat("[", 5000)+strings.Repeat("]", 5000))
		})},
		{"member-twice", "a member that stands twice in its row", spoils(func(_ *falseListing, row string) string { return withMember(row, `"Twice":1,"Twice":2`) })},
		{"small-letters", "the names of members in small letters", bends(func(l *falseListing) string {
			for i, row := range l.rows {
				l.rows[i] = smallNames(row)
			}
			return l.array()
		})},

		// What is wrong with ids.
		{"id-missing", "a row without an id", id("")},
		{"id-null", "a row whose id is null", id("null")},
		{"id-number", "a row whose id is a number", id("17")},
		{"id-empty", "a row with an empty id", id(`""`)},
		{"id-zero", "a row with the zero GUID", id(`"` + zeroGUID + `"`)},
		{"id-nul", "a row with a NUL in its id", id(`"a\u0000b"`)},
		{"id-long", "a row with an id of 5,000 bytes", id(`"` + strings.Repeat("x", 5000) + `"`)},
		{"id-twice", "a row with two ids", spoils(func(l *falseListing, row string) string {
			switch l.t {
			case schemas.ServerSettings:
				return row
			case schemas.Variable:
				return withMember(row, `"Name":"another"`)
			case schemas.TaskRepository:
				return withMember(row, `"Task":{"Id":"`+elsewhere+`"}`)
			}
			return withMember(row, `"Id":"`+elsewhere+`"`)
		})},
		{"id-braces", "all GUIDs in braces", guids(func(id string) string { return "{" + id + "}" })},
		{"id-no-dashes", "all GUIDs without dashes", guids(func(id string) string { return strings.ReplaceAll(id, "-", "") })},
		{"id-capitals", "all GUIDs in capitals", guids(strings.ToUpper)},

		// What looks whole.
		{"page-link", "the first 100 rows, and a Link header that names the next page", func(l *falseListing) {
			if len(l.rows) > pageSize {
				l.rows = l.rows[:pageSize]
				l.w.Header().Set("Link", fmt.Sprintf(`</api/v1/objects/%s?page=2>; rel="next"`, l.t))
			}
			l.send(http.StatusOK, js, l.array())
		}},
		{"page-limit", "the first 100 rows, and nothing tells that there are more", bends(func(l *falseListing) string {
			l.rows = l.rows[:min(len(l.rows), pageSize)]
			return l.array()
		})},
		{"half-rights", "every second row, as for an account that may not read all", bends(func(l *falseListing) string {
			var own []string
			for i := 0; i < len(l.rows); i += 2 {
				own = append(own, l.rows[i])
			}
			l.rows = own
			return l.array()
		})},
		{"flicker", "each time another one of several rows is left out", bends(func(l *falseListing) string {
			if n := len(l.rows); n > 1 {
				i := int(lacks.Add(1)) % n
				l.rows = slices.Delete(l.rows, i, i+1)
			}
			return l.array()
		})},
	}
}

const serverIDHeader = "VisualCron-Server-Id"

// falseListing is one answer of a ListingFault in the making.
type falseListing struct {
	s    *Server
	w    http.ResponseWriter
	r    *http.Request
	t    schemas.Type
	rows []string
}

// array returns the rows as a JSON array.
func (l *falseListing) array() string { return "[" + strings.Join(l.rows, ",") + "]" }

// half returns the first half of the array, never all of it.
func (l *falseListing) half() string {
	a := l.array()
	return a[:len(a)/2]
}

// send answers at once.
func (l *falseListing) send(status int, media, body string) {
	if media != "" {
		l.w.Header().Set("Content-Type", media)
	}
	l.w.WriteHeader(status)
	if body != "" {
		_, _ = l.w.Write([]byte(body)) // a client that is gone needs no answer
	}
}

// begin starts an answer of unknown length.
func (l *falseListing) begin(text string) {
	l.w.Header().Set("Content-Type", "application/json")
	l.w.WriteHeader(http.StatusOK)
	l.more(text)
}

// more goes on with it; false says that the client is gone.
func (l *falseListing) more(text string) bool {
	if _, err := l.w.Write([]byte(text)); err != nil {
		return false
	}
	return http.NewResponseController(l.w).Flush() == nil
}

const forever = 1<<63 - 1

// pause waits; false says that the client is gone or the stand-in closes.
func (l *falseListing) pause(d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-l.r.Context().Done():
	case <-l.s.done:
	}
	return false
}

// raw sends bytes past net/http and closes the connection.
func (l *falseListing) raw(text string) {
	conn, _, err := http.NewResponseController(l.w).Hijack()
	if err != nil {
		panic(http.ErrAbortHandler) // no HTTP/1 connection: nothing but a hang-up is left
	}
	_, _ = io.WriteString(conn, text) // a client that is gone needs no answer
	_ = conn.Close()
}

// withMember puts text, a member or several, before the others of a row.
func withMember(row, text string) string {
	if row == "{}" {
		return "{" + text + "}"
	}
	return "{" + text + "," + row[1:]
}

// withID puts value in the place of a row's id; an empty one takes the member out.
// A type without ids stays as it is.
func withID(t schemas.Type, row, value string) string {
	change := func(name string) func(*members) error {
		return func(m *members) error {
			if value == "" {
				*m = slices.DeleteFunc(*m, func(x member) bool { return x.name == name })
			} else {
				m.set(name, jsontext.Value(value))
			}
			return nil
		}
	}
	m, err := parseMembers(jsontext.Value(row))
	if err == nil {
		switch t {
		case schemas.ServerSettings:
			return row
		case schemas.Variable:
			err = change("Name")(&m)
		case schemas.TaskRepository:
			err = m.edit("Task", change("Id"))
		default:
			err = change("Id")(&m)
		}
	}
	var out jsontext.Value
	if err == nil {
		out, err = m.encode()
	}
	if err != nil {
		panic("standin: " + err.Error()) // what is stored was parsed before
	}
	return string(out)
}

// smallNames writes the names of a row's own members in small letters.
func smallNames(row string) string {
	m, err := parseMembers(jsontext.Value(row))
	if err != nil {
		panic("standin: " + err.Error()) // what is stored was parsed before
	}
	for i := range m {
		m[i].name = strings.ToLower(m[i].name)
	}
	out, err := m.encode()
	if err != nil {
		panic("standin: " + err.Error())
	}
	return string(out)
}

// quoted returns s as a JSON text.
func quoted(s string) string {
	b, err := jsontext.AppendQuote(nil, s)
	if err != nil {
		panic("standin: " + err.Error()) // what is stored is valid UTF-8
	}
	return string(b)
}

func zipped(s string) string {
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	_, _ = io.WriteString(z, s) // a buffer takes all
	_ = z.Close()
	return b.String()
}

func inUTF16(s string) string {
	out := []byte{0xff, 0xfe}
	for _, u := range utf16.Encode([]rune(s)) {
		out = append(out, byte(u), byte(u>>8))
	}
	return string(out)
}
