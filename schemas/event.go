package schemas

import (
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Header names of an event. The ce- ones are CloudEvents 1.0 in binary mode
// (NATS protocol binding: values percent-encoded), the Vc- ones are vcsync's.
const (
	HeaderMsgID = "Nats-Msg-Id"

	HeaderCESpecVersion     = "ce-specversion"
	HeaderCEID              = "ce-id"
	HeaderCESource          = "ce-source"
	HeaderCEType            = "ce-type"
	HeaderCESubject         = "ce-subject"
	HeaderCETime            = "ce-time"
	HeaderCEDataSchema      = "ce-dataschema"
	HeaderCEDataContentType = "ce-datacontenttype"

	HeaderEpoch      = "Vc-Epoch"
	HeaderRevision   = "Vc-Revision"
	HeaderKind       = "Vc-Kind"
	HeaderID         = "Vc-Id"
	HeaderName       = "Vc-Name"
	HeaderGroup      = "Vc-Group"
	HeaderDigest     = "Vc-Digest"
	HeaderBaseDigest = "Vc-Base-Digest"
	HeaderOriginPath = "Vc-Origin-Path"
	HeaderWho        = "Vc-Who"
	HeaderItself     = "Vc-Removed-Itself"

	// HeaderTrace is that of W3C Trace Context. It is no part of the event: nothing
	// depends on it, and one that is not understood is left out.
	HeaderTrace = "traceparent"
)

const (
	// DataSchema identifies the envelope's JSON Schema in every event.
	DataSchema = "https://vcsync.dev/schemas/v1/object.schema.json"
	// DataContentType is the media type of an event's data.
	DataContentType = "application/json"

	ceSpecVersion = "1.0"
	maxHeaderText = 200
)

// Version orders the states of one object at one source: a higher epoch is
// newer, and within an epoch a higher revision is.
type Version struct {
	Epoch    uint64 `json:"epoch"`
	Revision uint64 `json:"revision"`
}

// Compare returns -1, 0 or +1 as v is older than, the same as or newer than w.
func (v Version) Compare(w Version) int {
	switch {
	case v == w:
		return 0
	case v.Epoch < w.Epoch || v.Epoch == w.Epoch && v.Revision < w.Revision:
		return -1
	}
	return 1
}

// IsZero tells whether v is the version before the first.
func (v Version) IsZero() bool { return v == Version{} }

// String returns epoch.revision, such as 1.42.
func (v Version) String() string {
	return strconv.FormatUint(v.Epoch, 10) + "." + strconv.FormatUint(v.Revision, 10)
}

// ParseVersion is the inverse of Version.String. The error wraps ErrEvent.
func ParseVersion(s string) (Version, error) {
	e, r, ok := strings.Cut(s, ".")
	epoch, err1 := strconv.ParseUint(e, 10, 64)
	rev, err2 := strconv.ParseUint(r, 10, 64)
	v := Version{Epoch: epoch, Revision: rev}
	if !ok || err1 != nil || err2 != nil || v.String() != s {
		return Version{}, fmt.Errorf("%w: version %.64q, want epoch.revision", ErrEvent, s)
	}
	return v, nil
}

// Event is one change of one object at one source.
type Event struct {
	Source  Slug
	Kind    Kind
	Version Version
	// Digest is the hash of the object's normal form, empty for a deletion.
	Digest Digest
	// BaseDigest is the digest that this event replaces, empty where the object
	// was not there before.
	BaseDigest Digest
	// OriginPath lists the servers that the content has already come by, oldest
	// first, Source excluded: not empty only when vcsync itself wrote to Source
	// what this event tells of.
	OriginPath []Slug
	// Who changed the object, as far as the source tells; may be empty.
	Who string
	// RemovedItself tells of a deletion that nobody made: the object has deleted itself
	// at its source, as it was set to. No copy is deleted because of it.
	RemovedItself bool
	// Time is when vcsync captured the change.
	Time time.Time
	// Trace is the traceparent of its capture, "" where that is not traced. It says
	// nothing of the object: no id, digest or comparison knows of it.
	Trace string
	// Object is the envelope; its Body is nil for a deletion.
	Object Object
}

// Key returns the object's place in the streams.
func (e Event) Key() Key { return Key{e.Source, e.Object.Type, e.Object.ID.Token()} }

// Subject returns where the event is published.
func (e Event) Subject() string { return e.Key().EventSubject(e.Kind) }

// MsgID identifies the event for the broker's de-duplication, which is
// stream-wide, so it names source and object. It counts revisions instead of
// hashing content: an edit that undoes another has the older content again and
// must still reach every consumer.
func (e Event) MsgID() string {
	return e.Key().String() + "/" + strconv.FormatUint(e.Version.Epoch, 10) + "/" + strconv.FormatUint(e.Version.Revision, 10)
}

// CEType returns the CloudEvents type of an event of type t and kind k.
func CEType(t Type, k Kind) string { return "com.vcsync." + string(t) + "." + string(k) + ".v1" }

func ceSource(s Slug) string           { return "/vcsync/" + string(s) }
func ceSubject(t Type, k Token) string { return string(t) + "/" + string(k) }

// Path returns every server that holds the content because of the chain that
// this event stands in: OriginPath, then Source.
func (e Event) Path() []Slug { return append(slices.Clone(e.OriginPath), e.Source) }

// Validate tells whether the event can be published, so that ParseEvent takes it:
// every word and id canonical, a known version, a digest where there is a body and
// none where there is none. The error wraps ErrEvent.
func (e Event) Validate() error {
	bad := func(format string, a ...any) error {
		return fmt.Errorf("%w: %.200s: %w", ErrEvent, e.Key(), fmt.Errorf(format, a...))
	}
	if _, err := ParseSlug(string(e.Source)); err != nil {
		return bad("source: %w", err)
	}
	if _, err := ParseKind(string(e.Kind)); err != nil {
		return bad("%w", err)
	}
	if err := e.Object.check(); err != nil {
		return bad("%w", err)
	}
	for _, d := range []Digest{e.Digest, e.BaseDigest} {
		if _, err := ParseDigest(string(d)); err != nil {
			return bad("%w", err)
		}
	}
	for _, s := range e.OriginPath {
		if _, err := ParseSlug(string(s)); err != nil {
			return bad("origin path: %w", err)
		}
	}
	switch {
	case e.RemovedItself && e.Kind != Deleted:
		return bad("%s of an object that removed itself", e.Kind)
	case e.Version.Epoch == 0 || e.Version.Revision == 0:
		return bad("version %s, both numbers start at 1", e.Version)
	case e.Kind == Deleted && (e.Digest != "" || e.Object.Body != nil):
		return bad("a deletion carries a digest or a body")
	case e.Kind != Deleted && (e.Digest == "" || e.Object.Body == nil):
		return bad("%s without a digest or a body", e.Kind)
	case !isEventTime(e.Time):
		return bad("time %s, want one of the years 1 to 9999", e.Time)
	}
	return nil
}

// isEventTime tells whether t is set and RFC 3339 can write it.
func isEventTime(t time.Time) bool {
	y := t.UTC().Year()
	return !t.IsZero() && 1 <= y && y <= 9999
}

// Encode returns the headers and the data of the message that carries e. The data
// is the envelope, compressed where it is large. Name and group in the headers and Who
// are cut to 200 characters, and what is no UTF-8 in them is replaced. The error wraps
// ErrEvent.
func (e Event) Encode() (header map[string][]string, data []byte, err error) {
	if err := e.Validate(); err != nil {
		return nil, nil, err
	}
	data, err = e.Object.Encode()
	if err != nil {
		return nil, nil, err
	}
	if len(data) > MaxData {
		return nil, nil, fmt.Errorf("%w: the envelope of %.200s has %d bytes, at most %d", ErrEvent, e.Key(), len(data), MaxData)
	}
	data, encoding := compress(data)
	header = map[string][]string{}
	set := func(name, value string) {
		if value != "" {
			header[name] = []string{escapeHeader(value)}
		}
	}
	set(HeaderMsgID, e.MsgID())
	set(HeaderCESpecVersion, ceSpecVersion)
	set(HeaderCEID, e.MsgID())
	set(HeaderCESource, ceSource(e.Source))
	set(HeaderCEType, CEType(e.Object.Type, e.Kind))
	set(HeaderCESubject, ceSubject(e.Object.Type, e.Object.ID.Token()))
	set(HeaderCETime, e.Time.UTC().Format(time.RFC3339Nano))
	set(HeaderCEDataSchema, DataSchema)
	set(HeaderCEDataContentType, DataContentType)
	set(HeaderEncoding, encoding)
	set(HeaderEpoch, strconv.FormatUint(e.Version.Epoch, 10))
	set(HeaderRevision, strconv.FormatUint(e.Version.Revision, 10))
	set(HeaderKind, string(e.Kind))
	set(HeaderID, string(e.Object.ID))
	set(HeaderName, cutText(e.Object.Name))
	set(HeaderGroup, cutText(e.Object.Group))
	set(HeaderDigest, string(e.Digest))
	set(HeaderBaseDigest, string(e.BaseDigest))
	path := make([]string, len(e.OriginPath))
	for i, s := range e.OriginPath {
		path[i] = string(s)
	}
	set(HeaderOriginPath, strings.Join(path, ","))
	set(HeaderWho, cutText(e.Who))
	if e.RemovedItself {
		set(HeaderItself, "true")
	}
	set(HeaderTrace, parseTrace(e.Trace))
	return header, data, nil
}

// Head is what an event's headers alone tell: all but the envelope.
type Head struct {
	Key        Key
	Kind       Kind
	Version    Version
	ID         ID
	Name       string // cut to 200 characters, as Group and Who are
	Group      string
	Digest     Digest
	BaseDigest Digest
	OriginPath []Slug
	Who        string
	// RemovedItself is as in Event.
	RemovedItself bool
	Time          time.Time
	// Trace is as in Event.
	Trace string
	// Encoding says how the data is compressed, empty where it is not.
	Encoding string
	// Ref stands for the data where that is not in the message.
	Ref Ref
}

// ParseHead reads the headers of a message on an event or a state subject. It
// refuses headers that contradict the subject or each other, whatever client
// wrote them, and a ce-type of another major version (G10), with an error that
// wraps ErrEvent. Headers that it does not know are ignored.
func ParseHead(subject string, header map[string][]string) (Head, error) {
	bad := func(format string, a ...any) (Head, error) {
		return Head{}, fmt.Errorf("%w on %.200q: %w", ErrEvent, subject, fmt.Errorf(format, a...))
	}
	var h Head
	var headerErr error
	get := func(name string) string {
		v := header[name]
		if len(v) == 0 {
			return ""
		}
		if len(v) > 1 {
			headerErr = fmt.Errorf("header %s stands there %d times", name, len(v))
		}
		s, err := url.PathUnescape(v[0])
		if err != nil {
			headerErr = fmt.Errorf("header %s: %w", name, err)
		}
		return s
	}
	var err error
	h.Key, err = ParseStateSubject(subject)
	onEvent := err != nil
	var subjectKind Kind
	if onEvent {
		if h.Key, subjectKind, err = ParseEventSubject(subject); err != nil {
			return bad("%w", err)
		}
	}
	if h.Kind, err = ParseKind(get(HeaderKind)); err != nil {
		return bad("header %s: %w", HeaderKind, err)
	}
	if onEvent && h.Kind != subjectKind {
		return bad("the subject says %s, header %s says %s", subjectKind, HeaderKind, h.Kind)
	}
	id := get(HeaderID)
	if h.ID, err = ParseID(id); err != nil {
		return bad("header %s: %w", HeaderID, err)
	}
	if string(h.ID) != id || h.ID.Token() != h.Key.Token {
		return bad("header %s names another object than the subject", HeaderID)
	}
	if h.Version, err = ParseVersion(get(HeaderEpoch) + "." + get(HeaderRevision)); err != nil {
		return bad("headers %s, %s: %w", HeaderEpoch, HeaderRevision, err)
	}
	if h.Version.Epoch == 0 || h.Version.Revision == 0 {
		return bad("version %s, both numbers start at 1", h.Version)
	}
	if h.Digest, err = ParseDigest(get(HeaderDigest)); err != nil {
		return bad("header %s: %w", HeaderDigest, err)
	}
	if (h.Digest == "") != (h.Kind == Deleted) {
		return bad("%s with digest %q", h.Kind, h.Digest)
	}
	if h.BaseDigest, err = ParseDigest(get(HeaderBaseDigest)); err != nil {
		return bad("header %s: %w", HeaderBaseDigest, err)
	}
	if p := get(HeaderOriginPath); p != "" {
		for s := range strings.SplitSeq(p, ",") {
			slug, perr := ParseSlug(s)
			if perr != nil {
				return bad("header %s: %w", HeaderOriginPath, perr)
			}
			h.OriginPath = append(h.OriginPath, slug)
		}
	}
	if h.Time, err = time.Parse(time.RFC3339Nano, get(HeaderCETime)); err != nil {
		return bad("header %s: %w", HeaderCETime, err)
	}
	if h.Time = h.Time.UTC(); !isEventTime(h.Time) {
		return bad("header %s: %s, want one of the years 1 to 9999", HeaderCETime, h.Time)
	}
	if h.Encoding = get(HeaderEncoding); h.Encoding != "" && h.Encoding != EncodingZstd {
		return bad("header %s: unknown encoding %.32q, want %s", HeaderEncoding, h.Encoding, EncodingZstd)
	}
	if h.Ref, err = parseRef(get(HeaderDataDigest), get(HeaderDataSize)); err != nil {
		return bad("%w", err)
	}
	switch v := get(HeaderItself); {
	case v == "":
	case v != "true" || h.Kind != Deleted:
		return bad("header %s: %.32q in an event of kind %s, want true in a deletion", HeaderItself, v, h.Kind)
	default:
		h.RemovedItself = true
	}
	if v := header[HeaderTrace]; len(v) == 1 { // whatever stands there, the event is one
		h.Trace = parseTrace(v[0])
	}
	h.Who, h.Name, h.Group = cutText(get(HeaderWho)), cutText(get(HeaderName)), cutText(get(HeaderGroup))
	msgID := Event{Source: h.Key.Source, Version: h.Version, Object: Object{Type: h.Key.Type, ID: h.ID}}.MsgID()
	for _, x := range []struct{ name, want string }{
		{HeaderMsgID, msgID},
		{HeaderCEID, msgID},
		{HeaderCESpecVersion, ceSpecVersion},
		{HeaderCESource, ceSource(h.Key.Source)},
		{HeaderCEType, CEType(h.Key.Type, h.Kind)}, // G10: another major has another type
		{HeaderCESubject, ceSubject(h.Key.Type, h.Key.Token)},
		{HeaderCEDataContentType, DataContentType},
	} {
		if have := get(x.name); have != x.want {
			return bad("header %s is %.200q, want %q", x.name, have, x.want)
		}
	}
	if headerErr != nil {
		return bad("%w", headerErr)
	}
	return h, nil
}

// ParseEvent is the inverse of Event.Encode, for a message on the event's own
// subject or on its state subject; a Who that Encode has cut stays cut. Where the
// headers hold a Ref, data is what that stands for. The error wraps ErrEvent.
func ParseEvent(subject string, header map[string][]string, data []byte) (Event, error) {
	h, err := ParseHead(subject, header)
	if err != nil {
		return Event{}, err
	}
	if !h.Ref.IsZero() {
		if err := h.Ref.Check(data); err != nil {
			return Event{}, fmt.Errorf("on %.200q: %w", subject, err)
		}
	}
	if data, err = decompress(data, h.Encoding); err != nil {
		return Event{}, fmt.Errorf("%w on %.200q: %w", ErrEvent, subject, err)
	}
	o, err := ParseObject(data)
	if err != nil {
		return Event{}, fmt.Errorf("on %.200q: %w", subject, err)
	}
	if o.Type != h.Key.Type || o.ID != h.ID {
		return Event{}, fmt.Errorf("%w on %.200q: the envelope holds another object", ErrEvent, subject)
	}
	e := Event{Source: h.Key.Source, Kind: h.Kind, Version: h.Version, Digest: h.Digest, BaseDigest: h.BaseDigest,
		OriginPath: h.OriginPath, Who: h.Who, RemovedItself: h.RemovedItself, Time: h.Time, Trace: h.Trace, Object: o}
	if err := e.Validate(); err != nil {
		return Event{}, err
	}
	return e, nil
}

// parseTrace returns a traceparent of the form that is known, "" for any other text.
func parseTrace(s string) string {
	if len(s) != 55 || s[:3] != "00-" || s[35] != '-' || s[52] != '-' {
		return ""
	}
	for i := range len(s) {
		if c := s[i]; c != '-' && (c < '0' || c > '9') && (c < 'a' || c > 'f') || c == '-' && i != 2 && i != 35 && i != 52 {
			return ""
		}
	}
	return s
}

// cutText shortens a text that only people read, and makes it valid UTF-8, because
// what shows it speaks JSON.
func cutText(s string) string {
	s = strings.ToValidUTF8(s, "\uFFFD")
	if r := []rune(s); len(r) > maxHeaderText {
		return string(r[:maxHeaderText-1]) + "…"
	}
	return s
}

// escapeHeader percent-encodes what a NATS header cannot hold or CloudEvents asks
// to encode: space, double quote, percent, and all outside of printable ASCII.
func escapeHeader(s string) string {
	var b strings.Builder
	for i := range len(s) {
		if c := s[i]; c <= ' ' || c >= 0x7f || c == '%' || c == '"' {
			fmt.Fprintf(&b, "%%%02X", c)
		} else {
			b.WriteByte(c)
		}
	}
	return b.String()
}
