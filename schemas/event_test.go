package schemas

import (
	"bytes"
	"errors"
	"maps"
	"math"
	"net/url"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/go-json-experiment/json/jsontext"
)

var someTime = time.Date(2026, 11, 23, 5, 6, 7, 123_456_000, time.UTC)

// anEvent is an event with every member.
func anEvent() Event {
	return Event{
		Source: "production", Kind: Updated, Version: Version{2, 42},
		Digest: DigestOf([]byte("new")), BaseDigest: DigestOf([]byte("old")),
		OriginPath: []Slug{"head-office", "site-2"}, Who: `ACME\jörg "jo"`, Time: someTime,
		Object: Object{Type: Job, ID: lowGUID, Name: "Nightly – load 100%", Group: "ETL",
			Body: jsontext.Value(`{"Id":"` + lowGUID + `","Name":"Nightly – load 100%","Password":"x"}`), Sealed: []string{"/Password"}},
	}
}

// aDeletion is the same object's tombstone.
func aDeletion() Event {
	e := anEvent()
	e.Kind, e.Digest, e.BaseDigest = Deleted, "", e.Digest
	e.Object.Body, e.Object.Sealed = nil, nil
	return e
}

// mustEncode returns e as a message.
func mustEncode(t testing.TB, e Event) (map[string][]string, []byte) {
	t.Helper()
	h, data, err := e.Encode()
	if err != nil {
		t.Fatal(err)
	}
	return h, data
}

func TestEventsRoundTrip(t *testing.T) {
	for _, c := range []struct {
		name string
		edit func(*Event)
	}{
		{"as it is", func(*Event) {}},
		{"a deletion", func(e *Event) { *e = aDeletion() }},
		{"a deletion that knows no name", func(e *Event) { *e = aDeletion(); e.Object.Name, e.Object.Group = "", "" }},
		{"an addition", func(e *Event) { e.Kind, e.BaseDigest = Added, "" }},
		{"nobody known", func(e *Event) { e.Who = "" }},
		{"no origin", func(e *Event) { e.OriginPath = nil }},
		{"the greatest version", func(e *Event) { e.Version = Version{math.MaxUint64, math.MaxUint64} }},
		{"the first version", func(e *Event) { e.Version = Version{1, 1} }},
		{"Who with a NUL", func(e *Event) { e.Who = "a\x00b" }},
		{"Who with a line end is no header of its own", func(e *Event) { e.Who = "a\r\nVc-Kind: deleted" }},
		{"Who with blanks at both ends", func(e *Event) { e.Who = "  a  " }},
		{"Who that is a blank", func(e *Event) { e.Who = " " }},
		{"Who that looks escaped", func(e *Event) { e.Who = "%41%zz+%" }},
		{"Who of 200 characters of four bytes", func(e *Event) { e.Who = strings.Repeat("😀", 200) }},
		{"an empty name", func(e *Event) { e.Object.Name = "" }},
		{"a name of 5000 characters stays whole in the envelope", func(e *Event) { e.Object.Name = strings.Repeat("é", 5000) }},
		{"a name with blanks at both ends", func(e *Event) { e.Object.Name = " x " }},
		{"an empty body", func(e *Event) { e.Object.Body, e.Object.Sealed = jsontext.Value(`{}`), nil }},
		{"a body with great numbers", func(e *Event) {
			e.Object.Body = jsontext.Value(`{"Password":"x","N":123456789012345678901234567890,"F":1.10,"E":1e400,"Z":-0}`)
		}},
		{"a body whose strings are spelled as only .NET would", func(e *Event) {
			e.Object.Body = jsontext.Value(`{"Password":"\u003Cx\/\u00e9\uD83D\ude00"}`)
		}},
		{"the first nanosecond of the year 1 that is not zero", func(e *Event) { e.Time = time.Time{}.Add(1) }},
		{"the last nanosecond of the year 9999", func(e *Event) { e.Time = time.Date(10000, 1, 1, 0, 0, 0, -1, time.UTC) }},
		{"a whole second", func(e *Event) { e.Time = someTime.Truncate(time.Second) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			e := anEvent()
			c.edit(&e)
			checkRoundTrip(t, e)
		})
	}
	for _, c := range ids {
		id, err := ParseID(c.id)
		if err != nil {
			continue
		}
		t.Run("an object whose id is: "+c.name, func(t *testing.T) {
			e := anEvent()
			e.Object.ID = id
			checkRoundTrip(t, e)
		})
	}
}

// checkRoundTrip encodes e and reads it back from both of its subjects.
func checkRoundTrip(t *testing.T, e Event) {
	t.Helper()
	h, data := mustEncode(t, e)
	for name, values := range h {
		if len(values) != 1 || values[0] == "" {
			t.Errorf("header %s has the values %q, want one that is not empty", name, values)
		}
		for _, b := range []byte(strings.Join(values, "")) {
			if b <= ' ' || b >= 0x7f || b == '"' {
				t.Errorf("header %s has the byte %#x: %q", name, b, values)
			}
		}
	}
	for _, subject := range []string{e.Subject(), e.Key().StateSubject()} {
		back, err := ParseEvent(subject, h, data)
		if err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(back, e) {
			t.Errorf("on %s\n%+v\nwant\n%+v", subject, back, e)
		}
		h2, data2 := mustEncode(t, back)
		if !reflect.DeepEqual(h2, h) || !bytes.Equal(data2, data) {
			t.Errorf("encoded again\n%v %s\nwant\n%v %s", h2, data2, h, data)
		}
	}
}

func TestHeadersForPeopleAreCutAndCleaned(t *testing.T) {
	for _, c := range []struct{ name, in, want string }{
		{"200 characters stay", strings.Repeat("é", 200), strings.Repeat("é", 200)},
		{"201 characters are cut between two", strings.Repeat("é", 201), strings.Repeat("é", 199) + "…"},
		{"a long text of four-byte characters", strings.Repeat("😀", 5000), strings.Repeat("😀", 199) + "…"},
		{"bytes that are no UTF-8 are replaced", "a\xff\xfeb", "a\ufffdb"},
	} {
		t.Run(c.name, func(t *testing.T) {
			e := anEvent()
			e.Who = c.in
			h, data := mustEncode(t, e)
			back, err := ParseEvent(e.Subject(), h, data)
			if err != nil || back.Who != c.want {
				t.Errorf("%q, error %v, want %q", back.Who, err, c.want)
			}
			// Another client may have cut and cleaned nothing.
			h[HeaderWho] = []string{url.PathEscape(c.in)}
			h[HeaderName], h[HeaderGroup] = h[HeaderWho], h[HeaderWho]
			head, err := ParseHead(e.Subject(), h)
			if err != nil || head.Who != c.want || head.Name != c.want || head.Group != c.want || !utf8.ValidString(head.Who) {
				t.Errorf("%q, %q and %q, error %v, want %q", head.Who, head.Name, head.Group, err, c.want)
			}
		})
	}
}

// A producer validates before it spends a revision, and so before Encode.
func TestValidateNeedsNoEncode(t *testing.T) {
	for name, edit := range map[string]func(*Event){
		"an id that is not canonical": func(e *Event) { e.Object.ID = highGUID },
		"a body of null":              func(e *Event) { e.Object.Body = jsontext.Value("null") },
		"an unknown type":             func(e *Event) { e.Object.Type = "job" },
	} {
		e := anEvent()
		edit(&e)
		if err := e.Validate(); !errors.Is(err, ErrEvent) {
			t.Errorf("%s: %v, want ErrEvent", name, err)
		}
	}
}

func TestTimesTravelAsUTC(t *testing.T) {
	e := anEvent()
	want := e.Time
	e.Time = e.Time.In(time.FixedZone("", 2*3600))
	h, data := mustEncode(t, e)
	if got := h[HeaderCETime][0]; got != "2026-11-23T05:06:07.123456Z" {
		t.Errorf("header %s", got)
	}
	h[HeaderCETime] = []string{"2026-11-23T07:06:07.123456+02:00"}
	back, err := ParseEvent(e.Subject(), h, data)
	if err != nil || back.Time != want {
		t.Errorf("%v, error %v, want %v", back.Time, err, want)
	}
}

func TestEventsThatCannotBePublished(t *testing.T) {
	for _, c := range []struct {
		name string
		from Event
		edit func(*Event)
	}{
		{"no source", anEvent(), func(e *Event) { e.Source = "" }},
		{"a source that is two subject levels", anEvent(), func(e *Event) { e.Source = "a.b" }},
		{"no kind", anEvent(), func(e *Event) { e.Kind = "" }},
		{"an unknown kind", anEvent(), func(e *Event) { e.Kind = "*" }},
		{"no type", anEvent(), func(e *Event) { e.Object.Type = "" }},
		{"an unknown type", anEvent(), func(e *Event) { e.Object.Type = "Jobs" }},
		{"no id", anEvent(), func(e *Event) { e.Object.ID = "" }},
		{"an id that is not canonical", anEvent(), func(e *Event) { e.Object.ID = highGUID }},
		{"the zero GUID", anEvent(), func(e *Event) { e.Object.ID = zeroGUID }},
		{"epoch 0", anEvent(), func(e *Event) { e.Version.Epoch = 0 }},
		{"revision 0", anEvent(), func(e *Event) { e.Version.Revision = 0 }},
		{"no digest", anEvent(), func(e *Event) { e.Digest = "" }},
		{"no body", anEvent(), func(e *Event) { e.Object.Body, e.Object.Sealed = nil, nil }},
		{"a body of no bytes", anEvent(), func(e *Event) { e.Object.Body = jsontext.Value{} }},
		{"a body of null", anEvent(), func(e *Event) { e.Object.Body = jsontext.Value("null") }},
		{"a body that is an array", anEvent(), func(e *Event) { e.Object.Body = jsontext.Value("[]") }},
		{"a body that is cut", anEvent(), func(e *Event) { e.Object.Body = jsontext.Value(`{"a":`) }},
		{"a body with bytes behind it", anEvent(), func(e *Event) { e.Object.Body = jsontext.Value(`{} {}`) }},
		{"a body with a duplicate name", anEvent(), func(e *Event) { e.Object.Body = jsontext.Value(`{"a":1,"a":1}`) }},
		{"a body that is not UTF-8", anEvent(), func(e *Event) { e.Object.Body = jsontext.Value("{\"a\":\"\xff\"}") }},
		{"a name that is not UTF-8", anEvent(), func(e *Event) { e.Object.Name = "\xff" }},
		{"a digest that is none", anEvent(), func(e *Event) { e.Digest = "abc" }},
		{"a base digest that is none", anEvent(), func(e *Event) { e.BaseDigest = "ABC" }},
		{"an origin that is two", anEvent(), func(e *Event) { e.OriginPath = []Slug{"a,b"} }},
		{"an empty origin", anEvent(), func(e *Event) { e.OriginPath = []Slug{"a", ""} }},
		{"no time", anEvent(), func(e *Event) { e.Time = time.Time{} }},
		{"a time after the year 9999", anEvent(), func(e *Event) { e.Time = time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC) }},
		{"a time that is after the year 9999 only in UTC", anEvent(), func(e *Event) {
			e.Time = time.Date(9999, 12, 31, 23, 0, 0, 0, time.FixedZone("", -2*3600))
		}},
		{"a time before the year 1", anEvent(), func(e *Event) { e.Time = time.Time{}.Add(-1) }},
		{"a deletion with a digest", aDeletion(), func(e *Event) { e.Digest = e.BaseDigest }},
		{"a deletion with a body", aDeletion(), func(e *Event) { e.Object.Body = jsontext.Value("{}") }},
		{"a deletion with sealed strings", aDeletion(), func(e *Event) { e.Object.Sealed = []string{"/a"} }},
		{"a sealed pointer without its slash", anEvent(), func(e *Event) { e.Object.Sealed = []string{"Password"} }},
		{"a sealed pointer with a half escape", anEvent(), func(e *Event) { e.Object.Sealed = []string{"/a~2"} }},
		{"the whole body sealed", anEvent(), func(e *Event) { e.Object.Sealed = []string{""} }},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.edit(&c.from)
			if h, data, err := c.from.Encode(); !errors.Is(err, ErrEvent) || h != nil || data != nil {
				t.Errorf("%v %s, error %v, want ErrEvent", h, data, err)
			}
		})
	}
}

// badMessages change one thing of a good message.
var badMessages = []struct {
	name string
	edit func(m *message)
}{
	{"a subject that is none", func(m *message) { m.subject = "vcsync.ev.production.Job.updated" }},
	{"the subject of another source", func(m *message) { m.subject = strings.Replace(m.subject, "production", "test", 1) }},
	{"the subject of another type", func(m *message) { m.subject = strings.Replace(m.subject, ".Job.", ".User.", 1) }},
	{"the subject of another kind", func(m *message) { m.subject = strings.Replace(m.subject, "updated", "added", 1) }},
	{"the subject of another object", func(m *message) { m.subject = strings.Replace(m.subject, lowGUID, "1"+lowGUID[1:], 1) }},
	{"the subject and the ce-subject of another object", func(m *message) {
		m.subject = strings.Replace(m.subject, lowGUID, "x", 1)
		m.set(HeaderCESubject, "Job/x")
	}},
	{"no kind", func(m *message) { delete(m.header, HeaderKind) }},
	{"another kind", func(m *message) { m.set(HeaderKind, "added") }},
	{"a kind in another case", func(m *message) { m.set(HeaderKind, "Updated") }},
	{"no id", func(m *message) { delete(m.header, HeaderID) }},
	{"another id", func(m *message) { m.set(HeaderID, "1"+lowGUID[1:]) }},
	{"the id in upper case", func(m *message) { m.set(HeaderID, highGUID) }},
	{"two ids", func(m *message) { m.header[HeaderID] = append(m.header[HeaderID], "other") }},
	{"an id with a half escape", func(m *message) { m.set(HeaderID, lowGUID+"%4") }},
	{"no epoch", func(m *message) { delete(m.header, HeaderEpoch) }},
	{"both numbers in one header", func(m *message) { m.set(HeaderEpoch, "2.42"); delete(m.header, HeaderRevision) }},
	{"epoch 0", func(m *message) { m.set(HeaderEpoch, "0") }},
	{"an epoch with a sign", func(m *message) { m.set(HeaderEpoch, "+2") }},
	{"a revision with a blank", func(m *message) { m.set(HeaderRevision, "%2042") }},
	{"another revision than in the message id", func(m *message) { m.set(HeaderRevision, "43") }},
	{"no digest", func(m *message) { delete(m.header, HeaderDigest) }},
	{"a digest in upper case", func(m *message) { m.set(HeaderDigest, strings.ToUpper(m.header[HeaderDigest][0])) }},
	{"a base digest that is none", func(m *message) { m.set(HeaderBaseDigest, "0") }},
	{"an origin that is no slug", func(m *message) { m.set(HeaderOriginPath, "Head-Office") }},
	{"a comma behind the origins", func(m *message) { m.set(HeaderOriginPath, "head-office,") }},
	{"no time", func(m *message) { delete(m.header, HeaderCETime) }},
	{"a time without a zone", func(m *message) { m.set(HeaderCETime, "2026-11-23T05:06:07") }},
	{"the zero time", func(m *message) { m.set(HeaderCETime, "0001-01-01T00:00:00Z") }},
	{"a time before the year 1 in UTC", func(m *message) { m.set(HeaderCETime, "0001-01-01T00:00:00%2B01:00") }},
	{"no message id", func(m *message) { delete(m.header, HeaderMsgID) }},
	{"another message id", func(m *message) { m.set(HeaderMsgID, m.header[HeaderMsgID][0]+"0") }},
	{"no ce-id", func(m *message) { delete(m.header, HeaderCEID) }},
	{"another ce-id", func(m *message) { m.set(HeaderCEID, "x") }},
	{"no ce-specversion", func(m *message) { delete(m.header, HeaderCESpecVersion) }},
	{"another CloudEvents version", func(m *message) { m.set(HeaderCESpecVersion, "2.0") }},
	{"another ce-source", func(m *message) { m.set(HeaderCESource, "/vcsync/test") }},
	{"another ce-subject", func(m *message) { m.set(HeaderCESubject, "Job/x") }},
	{"another kind in ce-type", func(m *message) { m.set(HeaderCEType, CEType(Job, Added)) }},
	{"a major version of tomorrow (G10)", func(m *message) { m.set(HeaderCEType, "com.vcsync.Job.updated.v2") }},
	{"another media type", func(m *message) { m.set(HeaderCEDataContentType, "text/html") }},
	{"an unknown encoding", func(m *message) { m.set(HeaderEncoding, "gzip") }},
	{"an encoding in another case", func(m *message) { m.set(HeaderEncoding, "ZSTD") }},
	{"two encodings", func(m *message) { m.header[HeaderEncoding] = []string{"zstd", "zstd"} }},
	{"a reference without its size", func(m *message) { m.set(HeaderDataDigest, lowDigest) }},
	{"a size without its reference", func(m *message) { m.set(HeaderDataSize, "1") }},
	{"a reference that is no digest", func(m *message) { m.set(HeaderDataDigest, "abc"); m.set(HeaderDataSize, "1") }},
	{"a reference to nothing", func(m *message) { m.set(HeaderDataDigest, lowDigest); m.set(HeaderDataSize, "0") }},
	{"a reference to more than there may be", func(m *message) { m.set(HeaderDataDigest, lowDigest); m.set(HeaderDataSize, "134217729") }},
	{"a size with a sign", func(m *message) { m.set(HeaderDataDigest, lowDigest); m.set(HeaderDataSize, "+1") }},
	{"a Who with a half escape", func(m *message) { m.set(HeaderWho, "%g0") }},
	{"two Whos", func(m *message) { m.header[HeaderWho] = []string{"a", "b"} }},

	{"data that is not encoded as the header says", func(m *message) { m.data += " "; m.set(HeaderEncoding, EncodingZstd) }},
	{"data that a reference does not stand for", func(m *message) { RefOf([]byte(m.data)).SetHeader(m.header); m.data += " " }},
	{"no data", func(m *message) { m.data = "" }},
	{"data of null", func(m *message) { m.data = "null" }},
	{"data that is an array", func(m *message) { m.data = "[" + m.data + "]" }},
	{"data with bytes behind", func(m *message) { m.data += "x" }},
	{"data twice", func(m *message) { m.data += m.data }},
	{"data that is cut", func(m *message) { m.data = m.data[:len(m.data)-1] }},
	{"a duplicate member", func(m *message) { m.data = strings.Replace(m.data, `{"type"`, `{"name":"x","type"`, 1) }},
	{"a duplicate member of the body", func(m *message) { m.data = strings.Replace(m.data, `"Password":`, `"Id":"x","Password":`, 1) }},
	{"an escaped duplicate member", func(m *message) {
		m.data = strings.Replace(m.data, `{"type"`, `{"`+"\\"+`u006eame":"x","type"`, 1)
	}},
	{"the envelope of another object", func(m *message) { m.data = strings.ReplaceAll(m.data, lowGUID, "1"+lowGUID[1:]) }},
	{"the envelope of another type", func(m *message) { m.data = strings.Replace(m.data, `"Job"`, `"User"`, 1) }},
	{"an unknown type", func(m *message) { m.data = strings.Replace(m.data, `"Job"`, `"job"`, 1) }},
	{"the envelope's id in upper case", func(m *message) { m.data = strings.Replace(m.data, lowGUID, highGUID, 1) }},
	{"a body of null", func(m *message) { m.data = `{"type":"Job","id":"` + lowGUID + `","name":"x","body":null}` }},
	{"a body that is a string", func(m *message) { m.data = `{"type":"Job","id":"` + lowGUID + `","name":"x","body":"{}"}` }},
	{"no body", func(m *message) { m.data = `{"type":"Job","id":"` + lowGUID + `","name":"x"}` }},
	{"a member in another case is another member", func(m *message) { m.data = strings.Replace(m.data, `"type"`, `"Type"`, 1) }},
	{"data that is not UTF-8", func(m *message) { m.data = strings.Replace(m.data, "Nightly", "\xff", 1) }},
	{"half a surrogate pair", func(m *message) { m.data = strings.Replace(m.data, "Nightly", `\ud800`, 1) }},
	{"a deletion with a digest", func(m *message) { m.delete(); m.set(HeaderDigest, m.header[HeaderBaseDigest][0]) }},
	{"a deletion with a body", func(m *message) { m.delete(); m.data = strings.Replace(m.data, "}", `,"body":{}}`, 1) }},
	{"sealed strings without a body", func(m *message) { m.delete(); m.data = strings.Replace(m.data, "}", `,"sealed":["/a"]}`, 1) }},
	{"a sealed pointer that is none", func(m *message) { m.data = strings.Replace(m.data, `"/Password"`, `"Password"`, 1) }},
}

// message is what lies in a stream.
type message struct {
	subject string
	header  map[string][]string
	data    string
}

func (m *message) set(name, value string) { m.header[name] = []string{value} }

// delete makes the message the object's tombstone.
func (m *message) delete() {
	e := aDeletion()
	h, data, _ := e.Encode()
	*m = message{e.Subject(), h, string(data)}
}

// lowDigest is a digest of nothing in particular.
var lowDigest = string(DigestOf(nil))

func aMessage(t testing.TB) message {
	e := anEvent()
	h, data := mustEncode(t, e)
	return message{e.Subject(), h, string(data)}
}

func TestParseEventRefuses(t *testing.T) {
	for _, c := range badMessages {
		t.Run(c.name, func(t *testing.T) {
			m := aMessage(t)
			if _, err := ParseEvent(m.subject, m.header, []byte(m.data)); err != nil {
				t.Fatalf("the message was bad before: %v", err)
			}
			data := m.data
			c.edit(&m)
			if _, err := ParseHead(m.subject, m.header); m.data == data && !errors.Is(err, ErrEvent) {
				t.Errorf("ParseHead: %v, want ErrEvent", err)
			}
			e, err := ParseEvent(m.subject, m.header, []byte(m.data))
			if !errors.Is(err, ErrEvent) || !reflect.DeepEqual(e, Event{}) {
				t.Errorf("%+v, error %v, want ErrEvent", e, err)
			}
		})
	}
}

func TestParseEventIgnoresWhatItDoesNotKnow(t *testing.T) {
	m := aMessage(t)
	want, err := ParseEvent(m.subject, m.header, []byte(m.data))
	if err != nil {
		t.Fatal(err)
	}
	m.set("Vc-Tomorrow", "%zz")
	m.set("ce-tomorrow", "x")
	m.set("Nats-Stream-Source", "VCS_EV 17 vcsync.ev.> vcsync.st.> x")
	m.set("vc-kind", "deleted") // header names are exact
	m.data = strings.Replace(m.data, `{"type"`, `{"tomorrow":{"a":[1]},"type"`, 1)
	got, err := ParseEvent(m.subject, m.header, []byte(m.data))
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%+v, error %v\nwant %+v", got, err, want)
	}
}

func TestParseHeadNeedsNoData(t *testing.T) {
	e := anEvent()
	h, _ := mustEncode(t, e)
	got, err := ParseHead(e.Key().StateSubject(), h)
	want := Head{Key: e.Key(), Kind: e.Kind, Version: e.Version, ID: e.Object.ID, Name: e.Object.Name, Group: e.Object.Group, Digest: e.Digest,
		BaseDigest: e.BaseDigest, OriginPath: e.OriginPath, Who: e.Who, Time: e.Time}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%+v, error %v\nwant %+v", got, err, want)
	}
}

func TestMsgIDCountsRevisionsAndNamesTheObject(t *testing.T) {
	e := anEvent()
	if got, want := e.MsgID(), "production/Job/"+lowGUID+"/2/42"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
	seen := map[string]string{e.MsgID(): "the event itself"}
	for name, edit := range map[string]func(*Event){
		"another source":             func(e *Event) { e.Source = "test" },
		"another type":               func(e *Event) { e.Object.Type = User },
		"another object":             func(e *Event) { e.Object.ID = "x" },
		"another epoch":              func(e *Event) { e.Version.Epoch++ },
		"another revision":           func(e *Event) { e.Version.Revision++ },
		"digits that move one place": func(e *Event) { e.Version = Version{24, 2} },
		"an id that ends like a version": func(e *Event) {
			e.Object.ID, e.Version = ID(lowGUID+"/2"), Version{42, 1}
		},
	} {
		e := anEvent()
		edit(&e)
		if other, ok := seen[e.MsgID()]; ok {
			t.Errorf("%s has the message id of %s: %s", name, other, e.MsgID())
		}
		seen[e.MsgID()] = name
	}
	undone := anEvent()
	undone.Digest, undone.BaseDigest = undone.BaseDigest, undone.Digest
	undone.Version.Revision++
	if undone.MsgID() == e.MsgID() {
		t.Error("an edit that undoes another would be taken for a duplicate")
	}
}

func TestPathHoldsItsSourceLastAndIsItsOwn(t *testing.T) {
	e := anEvent()
	e.OriginPath = append(make([]Slug, 0, 9), "a", "b")
	if got := e.Path(); !slices.Equal(got, []Slug{"a", "b", "production"}) {
		t.Errorf("path %v", got)
	}
	e.Path()[0] = "x"
	if e.OriginPath[0] != "a" || e.OriginPath[:3][2] != "" {
		t.Error("the path shares memory with the event")
	}
}

func TestObjectEncodeRefusesWhatParseObjectWould(t *testing.T) {
	for _, o := range []Object{{}, {Type: Job}, {Type: Job, ID: highGUID}, {Type: "job", ID: "x"}, {Type: Job, ID: "x", Body: jsontext.Value("1")}} {
		if b, err := o.Encode(); !errors.Is(err, ErrEvent) {
			t.Errorf("%+v became %s, error %v", o, b, err)
		}
	}
}

func FuzzParseEvent(f *testing.F) {
	add := func(m message) {
		head := ""
		for _, name := range slices.Sorted(maps.Keys(m.header)) {
			for _, v := range m.header[name] {
				head += name + "\x00" + v + "\x00"
			}
		}
		f.Add(m.subject, head, []byte(m.data))
	}
	for _, e := range []Event{anEvent(), aDeletion(), aLargeEvent()} {
		h, data := mustEncode(f, e)
		add(message{e.Subject(), h, string(data)})
		add(message{e.Key().StateSubject(), h, string(data)})
	}
	for _, c := range badMessages {
		m := aMessage(f)
		c.edit(&m)
		add(m)
	}
	f.Fuzz(func(t *testing.T, subject, head string, data []byte) {
		header := map[string][]string{}
		for parts := strings.Split(head, "\x00"); len(parts) > 1; parts = parts[2:] {
			header[parts[0]] = append(header[parts[0]], parts[1])
		}
		e, err := ParseEvent(subject, header, data)
		if err != nil {
			if !errors.Is(err, ErrEvent) {
				t.Fatalf("%v does not wrap ErrEvent", err)
			}
			return
		}
		if subject != e.Subject() && subject != e.Key().StateSubject() {
			t.Fatalf("%q was read as %q", subject, e.Subject())
		}
		h, d, err := e.Encode()
		if err != nil {
			t.Fatalf("read, yet not encoded: %v", err)
		}
		again, err := ParseEvent(subject, h, d)
		if err != nil {
			t.Fatalf("encoded, yet not read: %v", err)
		}
		h2, d2, err := again.Encode()
		if err != nil || !reflect.DeepEqual(h2, h) || !bytes.Equal(d2, d) {
			t.Fatalf("encoded twice\n%v %s\n%v %s (%v)", h, d, h2, d2, err)
		}
		// A body keeps all but its blanks.
		for _, o := range []*Object{&e.Object, &again.Object} {
			if o.Body != nil {
				if err := o.Body.Compact(); err != nil {
					t.Fatal(err)
				}
			}
		}
		if !reflect.DeepEqual(again, e) {
			t.Fatalf("round trip\n%+v\nwant\n%+v", again, e)
		}
		for name, v := range h {
			was, _ := url.PathUnescape(strings.Join(header[name], ""))
			is, _ := url.PathUnescape(v[0])
			switch name {
			case HeaderName, HeaderGroup, HeaderWho, HeaderCETime, HeaderCEDataSchema: // for people, or spelled in more than one way
			case HeaderEncoding: // large data may come as it is
			default:
				if was != is {
					t.Fatalf("header %s was %q, is %q", name, was, is)
				}
			}
		}
	})
}
