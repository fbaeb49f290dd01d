package schemas

import (
	"bytes"
	"encoding/base64"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

var update = flag.Bool("update", false, "write testdata/golden and asyncapi.yaml anew")

const goldenDir = "testdata/golden"

// goldenID is an id as objects of that type have.
func goldenID(x Type) ID {
	switch x {
	case Variable:
		return "Path (é)"
	case ServerSettings:
		return "server"
	}
	return ID(fmt.Sprintf("5b0c2f3e-6a1d-4c58-9e0a-1f2d3c4b5a%02x", slices.Index(Types(), x)))
}

// goldenEvent is the event whose message is pinned for that type and kind: a full
// one for a Job, the least one for other types.
func goldenEvent(x Type, k Kind) Event {
	id := goldenID(x)
	e := Event{Source: "production", Kind: k, Version: Version{1, 1 + uint64(slices.Index(Kinds(), k))}, Time: someTime,
		Object: Object{Type: x, ID: id, Name: string(x) + " 1"}}
	body := `{"Id":"` + string(id) + `","Name":"` + string(x) + ` 1"}`
	switch x {
	case Variable:
		e.Object.Name = string(id)
		body = `{"Name":"` + string(id) + `","Value":"\u003C1\/2\u003E"}`
	case TaskRepository:
		body = `{"Task":{"Id":"` + string(id) + `","Name":"TaskRepository 1"}}`
	case ServerSettings:
		body = `{"MaxLogDays":30}`
	case Job:
		e.Object.Name, e.Object.Group = "Nightly export – 100 %", "Finance"
		e.Who = `CONTOSO\jörg`
		body = `{"Id":"` + string(id) + `","Name":"Nightly export – 100 %","Group":"Finance","Stats":{"Active":true,"NoExecutes":471,"ExecutionTime":221.780},` +
			`"Triggers":[{"Id":"c1a7e5d0-3f4b-4e6a-8b9c-0d1e2f3a4b5c","TriggerType":"TimeType"}],` +
			`"Tasks":[{"Id":"9d8c7b6a-5f4e-4d3c-8b2a-190807060504","Order":1,"TaskType":"SQL","SQL":{"Password":"vcs1:c2VhbGVk"},"PowerShell":null}]}`
		if k != Deleted {
			e.Object.Sealed = []string{"/Tasks/0/SQL/Password"}
		}
		if k == Updated {
			e.OriginPath = []Slug{"head-office", "site-2"}
		}
	}
	if k != Deleted {
		e.Object.Body = jsontext.Value(body)
		e.Digest = DigestOf([]byte(string(x) + " normal form, " + string(k)))
	}
	if k != Added {
		e.BaseDigest = DigestOf([]byte(string(x) + " normal form, " + string(Added)))
	}
	return e
}

// goldenEvents are the pinned events by file name.
func goldenEvents() map[string]Event {
	all := map[string]Event{}
	for _, x := range Types() {
		for _, k := range Kinds() {
			all[string(x)+"."+string(k)+".txt"] = goldenEvent(x, k)
		}
	}
	long := goldenEvent(Variable, Added)
	long.Object.ID = ID(strings.Repeat("long/", 26))
	all["Variable.added.long-id.txt"] = long
	itself := goldenEvent(Job, Deleted)
	itself.RemovedItself = true
	all["Job.deleted.itself.txt"] = itself
	return all
}

// goldenText writes a message as a page: the subject, the headers by name, a blank
// line, the data.
func goldenText(t *testing.T, e Event) string {
	h, data := mustEncode(t, e)
	var b strings.Builder
	b.WriteString(e.Subject() + "\n")
	for _, name := range slices.Sorted(maps.Keys(h)) {
		for _, v := range h[name] {
			b.WriteString(name + ": " + v + "\n")
		}
	}
	b.WriteString("\n" + string(data) + "\n")
	return b.String()
}

// readGolden is the inverse of goldenText.
func readGolden(t *testing.T, text string) message {
	t.Helper()
	head, data, ok := strings.Cut(text, "\n\n")
	if !ok {
		t.Fatalf("no blank line in\n%s", text)
	}
	lines := strings.Split(head, "\n")
	m := message{subject: lines[0], header: map[string][]string{}, data: strings.TrimSuffix(data, "\n")}
	if packed, ok := strings.CutPrefix(m.data, packedMark); ok {
		b, err := base64.StdEncoding.DecodeString(strings.ReplaceAll(packed, "\n", ""))
		if err != nil {
			t.Fatal(err)
		}
		m.data = string(b)
	}
	for _, line := range lines[1:] {
		name, value, ok := strings.Cut(line, ": ")
		if !ok {
			t.Fatalf("no header: %s", line)
		}
		m.header[name] = append(m.header[name], value)
	}
	return m
}

// Each golden file is the contract with consumers already deployed and with
// streams already written: a field may be added to it, and none may be renamed or
// removed. -update writes what was added and refuses to lose anything.
func TestGolden(t *testing.T) {
	known := map[string]bool{"from-a-newer-release.txt": true, "setting.json": true, "server.json": true}
	for _, file := range largeGolden {
		known[file] = true
	}
	for file, e := range goldenEvents() {
		known[file] = true
		t.Run(file, func(t *testing.T) {
			have := compareGolden(t, file, goldenText(t, e), func(t *testing.T, text string) []string {
				m := readGolden(t, text)
				return append(slices.Collect(maps.Keys(m.header)), members(t, []byte(m.data))...)
			})
			m := readGolden(t, have)
			for _, subject := range []string{m.subject, e.Key().StateSubject()} {
				got, err := ParseEvent(subject, m.header, []byte(m.data))
				if err != nil || !reflect.DeepEqual(got, e) {
					t.Errorf("read from %s\n%+v, error %v\nwant\n%+v", subject, got, err, e)
				}
			}
		})
	}
	for file, encode := range map[string]func() ([]byte, error){"setting.json": aSetting().Encode, "server.json": aServer().Encode} {
		t.Run(file, func(t *testing.T) {
			b, err := encode()
			if err != nil {
				t.Fatal(err)
			}
			have := compareGolden(t, file, string(b)+"\n", func(t *testing.T, text string) []string { return members(t, []byte(text)) })
			if file == "setting.json" {
				if s, err := ParseSetting([]byte(have)); err != nil || !reflect.DeepEqual(s, aSetting()) {
					t.Errorf("read\n%+v, error %v\nwant\n%+v", s, err, aSetting())
				}
			} else if s, err := ParseServer([]byte(have)); err != nil || !reflect.DeepEqual(s, aServer()) {
				t.Errorf("read\n%+v, error %v\nwant\n%+v", s, err, aServer())
			}
		})
	}
	files, err := os.ReadDir(goldenDir)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if !known[f.Name()] {
			t.Errorf("%s/%s pins nothing: no event has that name", goldenDir, f.Name())
		}
	}
}

// aLargeEvent is one that is compressed: a Job with a task that has all its empty
// slots.
func aLargeEvent() Event {
	e := goldenEvent(Job, Updated)
	var slots strings.Builder
	for i := range 373 {
		fmt.Fprintf(&slots, `,"EmptyTaskSlot%03d":null`, i)
	}
	e.Object.Body = jsontext.Value(strings.Replace(string(e.Object.Body), `,"PowerShell":null`, slots.String(), 1))
	return e
}

// largeGolden are the golden files of aLargeEvent: as it travels, and by reference,
// with the bytes that the reference stands for in the place of the data.
var largeGolden = []string{"Job.updated.compressed.txt", "Job.updated.by-reference.txt"}

// packedMark begins data that is no text.
const packedMark = "base64:\n"

// What an event is compressed to is the affair of the release that writes it; that
// every release reads it, and the headers that say so, are the contract. So these
// files are never written anew.
func TestGoldenOfLargeEvents(t *testing.T) {
	e := aLargeEvent()
	for i, file := range largeGolden {
		path := filepath.Join(goldenDir, file)
		h, data := mustEncode(t, e)
		if i == 1 {
			RefOf(data).SetHeader(h)
		}
		if _, err := os.Stat(path); *update && errors.Is(err, fs.ErrNotExist) {
			var b strings.Builder
			b.WriteString(e.Subject() + "\n")
			for _, name := range slices.Sorted(maps.Keys(h)) {
				b.WriteString(name + ": " + h[name][0] + "\n")
			}
			b.WriteString("\n" + packedMark)
			for line := range slices.Chunk([]byte(base64.StdEncoding.EncodeToString(data)), 100) {
				b.WriteString(string(line) + "\n")
			}
			if err := os.WriteFile(path, []byte(b.String()), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatalf("%v (go test ./schemas -run TestGolden -update writes it)", err)
		}
		m := readGolden(t, string(text))
		delete(h, HeaderGroup) // younger than the files
		if got, want := slices.Sorted(maps.Keys(m.header)), slices.Sorted(maps.Keys(h)); !slices.Equal(got, want) {
			t.Errorf("%s has the headers %v, want %v", file, got, want)
		}
		for _, subject := range []string{e.Subject(), e.Key().StateSubject()} {
			if got, err := ParseEvent(subject, m.header, []byte(m.data)); err != nil || !reflect.DeepEqual(got, e) {
				t.Errorf("%s: read from %s\n%+v, error %v\nwant\n%+v", file, subject, got, err, e)
			}
		}
	}
}

// A release reads what the next one writes (G10). The file is written by hand.
func TestGoldenOfANewerReleaseIsRead(t *testing.T) {
	b, err := os.ReadFile(filepath.Join(goldenDir, "from-a-newer-release.txt"))
	if err != nil {
		t.Fatal(err)
	}
	m := readGolden(t, string(b))
	got, err := ParseEvent(m.subject, m.header, []byte(m.data))
	if want := goldenEvent(Job, Deleted); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%+v, error %v\nwant\n%+v", got, err, want)
	}
}

// compareGolden compares text with the file, and returns what the file holds. With
// -update it writes the file first, unless a field would be lost.
func compareGolden(t *testing.T, file, text string, fields func(*testing.T, string) []string) string {
	t.Helper()
	path := filepath.Join(goldenDir, file)
	old, err := os.ReadFile(path)
	if *update && (err == nil || errors.Is(err, fs.ErrNotExist)) {
		if err == nil {
			now := fields(t, text)
			for _, f := range fields(t, string(old)) {
				if !slices.Contains(now, f) {
					t.Fatalf("%s would lose %s, which deployed consumers read; not written", file, f)
				}
			}
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		return text
	}
	if err != nil {
		t.Fatalf("%v (go test ./schemas -run TestGolden -update writes it)", err)
	}
	if string(old) != text {
		t.Errorf("%s is\n%s\nnow\n%s", file, old, text)
	}
	return string(old)
}

// members returns the paths of all members of a JSON value but those within a
// body, which is a server's own.
func members(t *testing.T, b []byte) []string {
	t.Helper()
	var out []string
	d := jsontext.NewDecoder(bytes.NewReader(b))
	for {
		tok, err := d.ReadToken()
		if err != nil {
			return out
		}
		if p := string(d.StackPointer()); tok.Kind() != '}' && tok.Kind() != ']' && !strings.HasPrefix(p, "/body/") {
			out = append(out, p)
		}
	}
}

// envelope returns the data that is meant: decompressed where it is compressed.
func envelope(t *testing.T, m message) []byte {
	t.Helper()
	h, err := ParseHead(m.subject, m.header)
	if err != nil {
		t.Fatal(err)
	}
	b, err := decompress([]byte(m.data), h.Encoding)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// jsonDocument returns the message as event.schema.json describes it.
func jsonDocument(t *testing.T, m message) []byte {
	t.Helper()
	headers := map[string]string{}
	for name, v := range m.header {
		headers[name] = v[0]
	}
	b, err := json.Marshal(map[string]any{"subject": m.subject, "headers": headers, "data": jsontext.Value(envelope(t, m))}, json.Deterministic(true))
	if err != nil {
		t.Fatal(err)
	}
	return b
}
