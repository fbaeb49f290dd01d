package schemas

import (
	"bytes"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"text/template"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/santhosh-tekuri/jsonschema/v6"
)

// schemaBase is the part that the JSON Schemas' ids have in common.
const schemaBase = "https://vcsync.dev/schemas/v1/"

// compileSchemas returns the JSON Schemas by name.
func compileSchemas(t *testing.T) map[string]*jsonschema.Schema {
	t.Helper()
	c := jsonschema.NewCompiler()
	c.AssertFormat()
	for _, name := range JSONSchemas() {
		b, ok := JSONSchema(name)
		if !ok {
			t.Fatalf("no JSON Schema %s", name)
		}
		doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(b))
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if err := c.AddResource(schemaBase+name+".schema.json", doc); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
	}
	out := map[string]*jsonschema.Schema{}
	for _, name := range JSONSchemas() {
		s, err := c.Compile(schemaBase + name + ".schema.json")
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if s.DraftVersion != 2020 || s.ID != schemaBase+name+".schema.json" {
			t.Errorf("%s: draft %d, id %s", name, s.DraftVersion, s.ID)
		}
		out[name] = s
	}
	return out
}

// validate judges a JSON text by a JSON Schema.
func validate(s *jsonschema.Schema, b []byte) error {
	v, err := jsonschema.UnmarshalJSON(bytes.NewReader(b))
	if err != nil {
		return err
	}
	return s.Validate(v)
}

func TestJSONSchemaNames(t *testing.T) {
	files, err := jsonSchemas.ReadDir("jsonschema")
	if err != nil {
		t.Fatal(err)
	}
	if len(files) != len(JSONSchemas()) {
		t.Errorf("%d files, %d names", len(files), len(JSONSchemas()))
	}
	for _, name := range []string{"", "Object", "object.schema.json", "../doc", "../jsonschema/object"} {
		if _, ok := JSONSchema(name); ok {
			t.Errorf("there is a JSON Schema %q", name)
		}
	}
	if DataSchema != schemaBase+"object.schema.json" {
		t.Errorf("events name %s", DataSchema)
	}
}

func TestJSONSchemaAcceptsWhatIsWritten(t *testing.T) {
	schema := compileSchemas(t)
	for _, file := range slices.Concat(slices.Collect(maps.Keys(goldenEvents())), largeGolden) {
		b, err := os.ReadFile(goldenDir + "/" + file)
		if err != nil {
			t.Fatal(err)
		}
		m := readGolden(t, string(b))
		if err := validate(schema["event"], jsonDocument(t, m)); err != nil {
			t.Errorf("%s: %v", file, err)
		}
		if err := validate(schema["object"], envelope(t, m)); err != nil {
			t.Errorf("%s: %v", file, err)
		}
	}
	for _, name := range []string{"setting", "server"} {
		b, err := os.ReadFile(goldenDir + "/" + name + ".json")
		if err != nil {
			t.Fatal(err)
		}
		if err := validate(schema[name], b); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	rnd := rand.New(rand.NewPCG(1, 2))
	for range 150 {
		e := randomEvent(rnd)
		checkRoundTrip(t, e)
		h, data := mustEncode(t, e)
		for _, subject := range []string{e.Subject(), e.Key().StateSubject()} {
			if err := validate(schema["event"], jsonDocument(t, message{subject, h, string(data)})); err != nil {
				t.Fatalf("%s\n%v\n%s\n%v", subject, h, data, err)
			}
		}
		s := randomSetting(rnd)
		b, err := s.Encode()
		if err != nil {
			t.Fatal(err)
		}
		if err := validate(schema["setting"], b); err != nil {
			t.Fatalf("%s\n%v", b, err)
		}
		if back, err := ParseSetting(b); err != nil || !reflect.DeepEqual(back, s) {
			t.Fatalf("%+v, error %v\nwant %+v", back, err, s)
		}
		sv := randomServer(rnd)
		if b, err = sv.Encode(); err != nil {
			t.Fatal(err)
		}
		if err := validate(schema["server"], b); err != nil {
			t.Fatalf("%s\n%v", b, err)
		}
	}
}

// What the code refuses, the JSON Schema refuses too, but for these: a JSON Schema
// cannot say it, or the code is more lenient than what it writes.
var schemaWaivers = map[string]string{
	"setting: source and target are one":                      "two members compared",
	"setting: a row listed twice":                             "uniqueness of a member",
	"server: port 0":                                          "a number inside a text",
	"server: port 65536":                                      "a number inside a text",
	"event: the subject of another source":                    "subject and headers compared",
	"event: the subject of another type":                      "subject and headers compared",
	"event: the subject of another kind":                      "subject and headers compared",
	"event: the subject of another object":                    "subject and headers compared",
	"event: the subject and the ce-subject of another object": "subject and headers compared",
	"event: another kind":                                     "subject and headers compared",
	"event: another id":                                       "subject and headers compared",
	"event: the id in upper case":                             "an escaped id is any text",
	"event: another revision than in the message id":          "two headers compared",
	"event: another message id":                               "two headers compared",
	"event: another ce-source":                                "subject and headers compared",
	"event: another ce-subject":                               "subject and headers compared",
	"event: another kind in ce-type":                          "two headers compared",
	"event: the envelope of another object":                   "headers and data compared",
	"event: the envelope of another type":                     "headers and data compared",
	"event: two ids":                                          "a document has one value per header",
	"event: two Whos":                                         "a document has one value per header",
	"event: two encodings":                                    "a document has one value per header",
	"event: the zero time":                                    "a date like any other",
	"event: half a surrogate pair":                            "the validator's own reader replaces it",
	"event: data that is not encoded as the header says":      "a document has the data that is meant",
	"event: data that a reference does not stand for":         "a document has the data that is meant",
	"event: a reference to more than there may be":            "a number inside a text",
	"event: a duplicate member of the body":                   "the validator's own reader takes the last",
	"event: a duplicate member":                               "the validator's own reader takes the last",
	"event: an escaped duplicate member":                      "the validator's own reader takes the last",
	"event: data that is not UTF-8":                           "the validator's own reader replaces it",
	"setting: invalid UTF-8":                                  "the validator's own reader replaces it",
	"setting: a duplicate name":                               "the validator's own reader takes the last",
	"setting: a duplicate unknown name":                       "the validator's own reader takes the last",
	"setting: a duplicate name within an unknown member":      "the validator's own reader takes the last",
	"setting: a duplicate type":                               "the validator's own reader takes the last",
	"setting: a group twice":                                  "case does not count",
	"server: a duplicate name":                                "the validator's own reader takes the last",
}

func TestJSONSchemaRefusesWhatTheCodeRefuses(t *testing.T) {
	schema := compileSchemas(t)
	stale := map[string]bool{}
	for name := range schemaWaivers {
		stale[name] = true
	}
	check := func(kind, name string, b []byte) {
		full := kind + ": " + name
		refused := validate(schema[kind], b) != nil
		_, waived := schemaWaivers[full]
		delete(stale, full)
		switch {
		case !refused && !waived:
			t.Errorf("%s is accepted: %s", full, b)
		case refused && waived:
			t.Errorf("the waiver of %q is stale: it is refused", full)
		}
	}
	for _, c := range badSettings {
		check("setting", c.name, []byte(c.in))
	}
	for _, c := range badServers {
		check("server", c.name, []byte(c.in))
	}
	for _, c := range badMessages {
		m := aMessage(t)
		c.edit(&m)
		headers := map[string]string{}
		for name, v := range m.header {
			headers[name] = v[0]
		}
		h, err := json.Marshal(headers)
		if err != nil {
			t.Fatal(err)
		}
		check("event", c.name, fmt.Appendf(nil, `{"subject":%q,"headers":%s,"data":%s}`, m.subject, h, m.data))
	}
	for name := range stale {
		t.Errorf("the waiver of %q is stale: there is no such case", name)
	}
	for _, c := range ids {
		b, err := json.Marshal(map[string]any{"type": "Job", "name": "", "id": c.id})
		if err != nil {
			continue // no JSON can hold it
		}
		id, err := ParseID(c.id)
		canonical := err == nil && string(id) == c.id
		if accepted := validate(schema["object"], b) == nil; accepted != canonical {
			t.Errorf("an object whose id is: %s: the JSON Schema accepts it: %v, canonical: %v", c.name, accepted, canonical)
		}
	}
	for _, c := range slugs {
		b, err := json.Marshal(map[string]any{"id": c.in, "connector": "bridge", "address": "http://h", "user": "u"})
		if err != nil {
			t.Fatal(err)
		}
		if accepted := validate(schema["server"], b) == nil; accepted != c.ok {
			t.Errorf("a slug that is: %s: the JSON Schema accepts it: %v", c.name, accepted)
		}
	}
}

// pick returns one of vs.
func pick[T any](r *rand.Rand, vs ...T) T { return vs[r.IntN(len(vs))] }

func randomText(r *rand.Rand, n int) string {
	var b strings.Builder
	for range r.IntN(n + 1) {
		b.WriteString(pick(r, "a", "Z", "0", " ", ".", "*", ">", "%", "\"", "\\", "/", "=", "é", "😀", "\n", "\t", "\u2028", "<", "\x7f", "\x01"))
	}
	return b.String()
}

func randomID(r *rand.Rand) ID {
	for {
		id, err := ParseID(pick(r, lowGUID, randomText(r, 10), randomText(r, 200), strings.Repeat("é", 1+r.IntN(2048))))
		if err == nil {
			return id
		}
	}
}

func randomSlug(r *rand.Rand) Slug {
	return pick(r, "a", "0", "site-2", "production", Slug(strings.Repeat("x", MaxSlug)))
}

func randomTime(r *rand.Rand) time.Time {
	return time.Unix(r.Int64N(1<<33), r.Int64N(1e9)).UTC()
}

func randomEvent(r *rand.Rand) Event {
	e := Event{Source: randomSlug(r), Kind: pick(r, Kinds()...), Version: Version{1 + r.Uint64N(3), 1 + r.Uint64N(1<<pick(r, 2, 63))},
		BaseDigest: pick(r, "", DigestOf([]byte{1})), Who: cutText(randomText(r, 300)), Time: randomTime(r),
		Object: Object{Type: pick(r, Types()...), ID: randomID(r), Name: randomText(r, 300), Group: randomText(r, 5)}}
	for range r.IntN(3) {
		e.OriginPath = append(e.OriginPath, randomSlug(r))
	}
	if e.Kind != Deleted {
		e.Digest = DigestOf([]byte{2})
		body, err := json.Marshal(map[string]any{"Id": string(e.Object.ID), "X": randomText(r, 20), "N": r.Float64(), "P": "x"}, json.Deterministic(true))
		if err != nil {
			panic(err)
		}
		e.Object.Body = jsontext.Value(body)
		if r.IntN(2) == 0 {
			e.Object.Sealed = []string{"/P", "/a~1b/0/~0"}
		}
	}
	return e
}

func randomSetting(r *rand.Rand) Setting {
	rights := func() Rights { return Rights{r.IntN(2) == 0, r.IntN(2) == 0, r.IntN(2) == 0} }
	s := Setting{ID: randomSlug(r), Source: "a", Target: "b", Active: r.IntN(2) == 0, Policy: pick(r, Keep, Follow, Off, ""), VariableValues: r.IntN(2) == 0,
		Rules: map[Type]Rule{}, Description: randomText(r, 9), Created: pick(r, time.Time{}, randomTime(r))}
	for _, x := range Types() {
		switch r.IntN(4) {
		case 0:
			s.Rules[x] = Rule{Sync: SyncAll, Rights: rights(), Groups: pick(r, nil, []string{"a", "b"}), Names: pick(r, nil, []string{"*x?"})}
		case 1:
			rule := Rule{Sync: SyncListed}
			seen := map[ID]bool{}
			for range r.IntN(4) {
				if id := randomID(r); !seen[id] {
					seen[id] = true
					rule.Objects = append(rule.Objects, ObjectRule{ID: id, Name: randomText(r, 5), Rights: rights()})
				}
			}
			s.Rules[x] = rule
		case 2:
			s.Rules[x] = Rule{Sync: pick(r, SyncNone, "")}
		}
		if x == ServerSettings { // each server has one, which is only ever updated
			s.Rules[x] = pick(r, Rule{}, Rule{Sync: SyncAll, Rights: Rights{Updated: true}},
				Rule{Sync: SyncListed, Objects: []ObjectRule{{ID: "server", Rights: Rights{Updated: r.IntN(2) == 0}}}})
		}
	}
	s.Mode, s.TargetEdits, s.Drift, s.Versions = pick(r, Automatic, Approve, ReportOnly), pick(r, OverwriteEdits, KeepEdits, ParkEdits), pick(r, DriftReport, DriftHeal), pick(r, SameVersions, AnyVersions)
	s.Reason, s.Until = randomText(r, 9), pick(r, time.Time{}, randomTime(r))
	if r.IntN(2) == 0 {
		s.Windows = Windows{{Kind: pick(r, AllowWindow, DenyWindow), Schedule: pick(r, "0 22 * * *", "*/5 1-3 ? jan mon"), Duration: "90m", TimeZone: pick(r, "", "Europe/Berlin")}}
		s.Kept = []KeptField{{Type: pick(r, Types()...), ID: pick(r, "", randomID(r)), Pointer: "/a~1b/*"}}
		s.Overrides = []Override{{Type: pick(r, Types()...), ID: pick(r, "", randomID(r)), Patch: []byte(`{"a":null}`)}}
		s.Pins = []Pin{{Type: pick(r, Types()...), Source: randomID(r), Target: randomID(r), Name: randomText(r, 5)}}
	}
	s.Normalize()
	return s
}

func randomServer(r *rand.Rand) Server {
	return Server{ID: randomSlug(r), Name: randomText(r, 9), Connector: "bridge", User: "u" + randomText(r, 9), Identity: randomText(r, 9),
		Address: pick(r, "http://h", "https://h:65535/x/", "http://[::1]:80", "http://127.0.0.1:7701"), Created: pick(r, time.Time{}, randomTime(r))}
}

// yamlLine is a key, a list item or a folded line; its value is quoted, or is plain
// and holds no sign that YAML could mistake.
var yamlLine = regexp.MustCompile(`^ *(- )?([\w-]+:|\$ref:)?( ?('[^']*'|>-|\w([^:#]|[:#]\S)*))?$`)

// asyncAPIText is the AsyncAPI document, from the words of this package.
func asyncAPIText(t *testing.T) string {
	headers := map[Kind][]string{}
	for _, k := range Kinds() {
		least := goldenEvent(Connection, k)
		least.Object.Name, least.BaseDigest = "", ""
		h, _ := mustEncode(t, least)
		for name := range h {
			headers[k] = append(headers[k], name)
		}
		slices.Sort(headers[k])
	}
	var b strings.Builder
	err := template.Must(template.ParseFiles("testdata/asyncapi.yaml.tmpl")).Execute(&b, map[string]any{
		"Types": Types(), "Kinds": Kinds(), "Required": headers,
		"EventSubjects": EventSubjects, "StateSubjects": StateSubjects, "StateTransform": StateTransform,
		"SlugExample": "production", "TokenExample": ID("Path (é)").Token(), "GUIDExample": lowGUID,
		"Summary": map[Kind]string{Added: "An object is there that was not.", Updated: "An object is not what it was.", Deleted: "An object is gone. The event is its tombstone and stays."},
	})
	if err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func TestAsyncAPIIsCurrent(t *testing.T) {
	want := asyncAPIText(t)
	if *update {
		if err := os.WriteFile("asyncapi.yaml", []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if string(AsyncAPI()) != want {
		t.Errorf("asyncapi.yaml is not what this package says now; go test ./schemas -run TestAsyncAPIIsCurrent -update writes it, and it would be\n%s", want)
	}
	// A plain YAML value ends where a second colon or a special sign begins another.
	for i, line := range strings.Split(strings.TrimSuffix(want, "\n"), "\n") {
		line, _, _ = strings.Cut(line, " # ")
		if !yamlLine.MatchString(line) && !strings.HasPrefix(line, "# ") {
			t.Errorf("asyncapi.yaml:%d is no line that every YAML reader takes: %s", i+1, line)
		}
	}
	AsyncAPI()[0] = 'x'
	if string(AsyncAPI()) != want {
		t.Error("a caller can change the document")
	}
}

// section returns a part of the README from its heading to the next of that level.
func section(t *testing.T, readme, heading string) string {
	t.Helper()
	_, rest, ok := strings.Cut(readme, "\n## "+heading+"\n")
	if !ok {
		t.Fatalf("README.md has no section %q", heading)
	}
	part, _, _ := strings.Cut(rest, "\n## ")
	return part
}

// fields returns the names that a struct's members have in JSON.
func fields(v any) []string {
	var out []string
	for _, f := range reflect.VisibleFields(reflect.TypeOf(v)) {
		if name, _, _ := strings.Cut(f.Tag.Get("json"), ","); name != "" && name != "-" {
			out = append(out, name)
		}
	}
	return out
}

// TestEveryTypeAndKind fails where a type or a kind lacks a part of its contract.
func TestEveryTypeAndKind(t *testing.T) {
	b, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	readme := string(b)
	defs := func(name, def string) []string {
		b, _ := JSONSchema(name)
		var doc struct {
			Defs map[string]struct {
				Enum []string `json:"enum"`
			} `json:"$defs"`
		}
		if err := json.Unmarshal(b, &doc); err != nil {
			t.Fatal(err)
		}
		return doc.Defs[def].Enum
	}
	if got := defs("object", "type"); !reflect.DeepEqual(got, asTexts(Types())) {
		t.Errorf("the JSON Schema's types are %v, want %v", got, Types())
	}
	if got := defs("object", "kind"); !reflect.DeepEqual(got, asTexts(Kinds())) {
		t.Errorf("the JSON Schema's kinds are %v, want %v", got, Kinds())
	}
	schema := compileSchemas(t)["event"]
	async := string(AsyncAPI())
	rows := section(t, readme, "Types and kinds")
	for _, x := range Types() {
		t.Run(string(x), func(t *testing.T) {
			if !slices.Contains(ApplyOrder(), x) {
				t.Error("ApplyOrder does not hold it")
			}
			if !strings.Contains(rows, "| `"+string(x)+"` |") {
				t.Error("README.md has no row for it")
			}
			if !strings.Contains(async, "\n          - "+string(x)+"\n") {
				t.Error("asyncapi.yaml does not name it")
			}
			for _, k := range Kinds() {
				e := goldenEvent(x, k)
				if key, kind, err := ParseEventSubject(e.Subject()); err != nil || key != e.Key() || kind != k {
					t.Errorf("%s: subject %s is read as %s %s, error %v", k, e.Subject(), key, kind, err)
				}
				if key, err := ParseStateSubject(e.Key().StateSubject()); err != nil || key != e.Key() {
					t.Errorf("%s: subject %s is read as %s, error %v", k, e.Key().StateSubject(), key, err)
				}
				file := goldenDir + "/" + string(x) + "." + string(k) + ".txt"
				golden, err := os.ReadFile(file)
				if err != nil {
					t.Errorf("no golden file: %v", err)
					continue
				}
				if err := validate(schema, jsonDocument(t, readGolden(t, string(golden)))); err != nil {
					t.Errorf("%s: %v", file, err)
				}
			}
		})
	}
	for _, k := range Kinds() {
		t.Run(string(k), func(t *testing.T) {
			if !strings.Contains(rows, "| `"+string(k)+"` |") {
				t.Error("README.md has no row for it")
			}
			for _, want := range []string{"\n          - " + string(k) + "\n", "\n    " + string(k) + ":\n", "$ref: '#/components/messages/" + string(k) + "'"} {
				if !strings.Contains(async, want) {
					t.Errorf("asyncapi.yaml does not hold %q", want)
				}
			}
		})
	}
}

// TestREADMEHasARowForEveryField keeps the page of the wire format whole.
func TestREADMEHasARowForEveryField(t *testing.T) {
	b, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	h, _ := mustEncode(t, aLargeEvent())
	RefOf([]byte{1}).SetHeader(h)
	itself := aDeletion()
	itself.RemovedItself, itself.Trace = true, aTrace
	hd, _ := mustEncode(t, itself)
	maps.Copy(h, hd)
	var headers []string
	for name := range h {
		headers = append(headers, name)
	}
	doc, _ := JSONSchema("event")
	for _, c := range []struct {
		section string
		names   []string
	}{
		{"Headers", headers},
		{"Envelope", fields(Object{})},
		{"Setting", fields(Setting{})},
		{"Rule", append(fields(Rule{}), fields(ObjectRule{})...)},
		{"Server", fields(Server{})},
	} {
		part := section(t, string(b), c.section)
		for _, name := range c.names {
			if !strings.Contains(part, "| `"+name+"` |") {
				t.Errorf("README.md, %s: no row for %s", c.section, name)
			}
			if c.section == "Headers" && !bytes.Contains(doc, []byte("\n        \""+name+"\": ")) {
				t.Errorf("event.schema.json: no header %s", name)
			}
		}
		if got := strings.Count(part, "\n| `"); c.section != "Rule" && got != len(c.names) {
			t.Errorf("README.md, %s: %d rows for %d fields", c.section, got, len(c.names))
		}
	}
}

func asTexts[T ~string](vs []T) []string {
	out := make([]string, len(vs))
	for i, v := range vs {
		out[i] = string(v)
	}
	return out
}
