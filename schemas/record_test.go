package schemas

import (
	"bytes"
	jsonv1 "encoding/json"
	"errors"
	"reflect"
	"strings"
	"testing"
	"time"
)

// aSetting is a setting with every member, in its normal form.
func aSetting() Setting {
	return Setting{
		ID: "prod-test", Source: "production", Target: "test", Active: true, Policy: Off, VariableValues: true,
		Description: "nightly <test> & more",
		Created:     time.Date(2026, 11, 23, 5, 6, 7, 80_000_000, time.UTC),
		Mode:        Approve, TargetEdits: ParkEdits, Drift: DriftHeal, Versions: AnyVersions,
		Deletes: map[Type]Measure{Job: {Number: 20, Share: 5}, Variable: {}}, Grace: "48h",
		Windows: Windows{
			{Kind: AllowWindow, Schedule: "0 22 * * 1-5", Duration: "8h", TimeZone: "Europe/Berlin"},
			{Kind: DenyWindow, Schedule: "0 0 1 * *", Duration: "24h"},
		},
		Kept:      []KeptField{{Type: Connection, Pointer: "/Host"}, {Type: Job, ID: "j", Pointer: "/Tasks/*/Timeout"}},
		Overrides: []Override{{Type: Job, Patch: []byte(`{"Description":"test","Stats":null}`)}, {Type: Job, ID: "j", Patch: []byte(`{"Timeout":1.50}`)}},
		Pins:      []Pin{{Type: Job, Source: "j", Target: "k", Name: "J"}},
		Reason:    "month end", Until: time.Date(2026, 11, 24, 5, 0, 0, 0, time.UTC),
		Rules: map[Type]Rule{
			Job: {Sync: SyncAll, Rights: Rights{New: true, Updated: true, Deleted: true}, Groups: []string{"Finance", "HR"}, Names: []string{"*report*"}},
			Variable: {Sync: SyncListed, Objects: []ObjectRule{
				{ID: "..", Name: "é"},
				{ID: "a b", Name: "A", Rights: Rights{Updated: true}},
			}},
			Connection: {Sync: SyncAll, Rights: Rights{New: true}},
		},
	}
}

// aServer is a server with every member, in its normal form.
func aServer() Server {
	return Server{
		ID: "production", Name: "Production <1> & 2", Connector: "bridge", Address: "http://127.0.0.1:7701", User: "admin",
		Deletes:  map[Type]Measure{Job: {Number: 20, Share: 5}, Variable: {}},
		Identity: "f3c1", Created: time.Date(2026, 11, 23, 5, 6, 7, 0, time.UTC),
	}
}

const minimalSetting = `{"id":"s","source":"a","target":"b","active":false,"activePolicy":"keep","rules":{}}`

// withRules returns a setting's JSON with those rules.
func withRules(rules string) string {
	return strings.Replace(minimalSetting, `"rules":{}`, `"rules":`+rules, 1)
}

func TestParseSettingAcceptsAndNormalizes(t *testing.T) {
	for _, c := range []struct{ name, in, want string }{
		{"the normal form stays as it is", minimalSetting, minimalSetting},
		{"absent policy is keep, absent active is off, absent rules are none", `{"id":"s","source":"a","target":"b"}`, minimalSetting},
		{"null stands for absent", `{"id":"s","source":"a","target":"b","active":null,"activePolicy":null,"rules":null}`, minimalSetting},
		{"values of variables that are not taken are left out", strings.Replace(minimalSetting, `"rules"`, `"variableValues":false,"rules"`, 1), minimalSetting},
		{"values of variables are taken where it is said", strings.Replace(minimalSetting, `"active"`, `"variableValues":true,"active"`, 1),
			strings.Replace(minimalSetting, `"rules":{}`, `"rules":{},"variableValues":true`, 1)},
		{"the server's settings may be updated", withRules(`{"ServerSettings":{"sync":"all","updated":true}}`), withRules(`{"ServerSettings":{"sync":"all","updated":true}}`)},
		{"the server's settings may be listed", withRules(`{"ServerSettings":{"sync":"listed","objects":[{"id":"server","updated":true}]}}`),
			withRules(`{"ServerSettings":{"sync":"listed","objects":[{"id":"server","updated":true}]}}`)},
		{"white space around is allowed", "\n " + minimalSetting + "\r\n", minimalSetting},
		{"a rule of none is no rule", withRules(`{"Job":{"sync":"none"}}`), minimalSetting},
		{"all without a right is no rule", withRules(`{"Job":{"sync":"all","new":false}}`), minimalSetting},
		{"an empty list is no rule", withRules(`{"Job":{"sync":"listed","objects":[]}}`), minimalSetting},
		{"an empty list beside all is no list", withRules(`{"Job":{"sync":"all","new":true,"objects":[]}}`), withRules(`{"Job":{"sync":"all","new":true}}`)},
		{"types and rows are sorted", withRules(`{"Variable":{"sync":"listed","objects":[{"id":"b"},{"id":"a","new":true}]},"Job":{"deleted":true,"sync":"all"}}`),
			withRules(`{"Job":{"sync":"all","deleted":true},"Variable":{"sync":"listed","objects":[{"id":"a","new":true},{"id":"b"}]}}`)},
		{"rights that are false are left out", withRules(`{"Job":{"sync":"all","new":true,"updated":false}}`), withRules(`{"Job":{"sync":"all","new":true}}`)},
		{"times become UTC", strings.Replace(minimalSetting, `"rules":{}`, `"rules":{},"created":"2026-11-23T01:00:00+02:00"`, 1),
			strings.Replace(minimalSetting, `"rules":{}`, `"rules":{},"created":"2026-11-22T23:00:00Z"`, 1)},
		{"an unknown member survives (G10)", strings.Replace(minimalSetting, "}}", `},"z":{"b":1.50,"a":[1e400]},"y":null}`, 1),
			strings.Replace(minimalSetting, "}}", `},"z":{"b":1.50,"a":[1e400]},"y":null}`, 1)},
		{"an unknown member of a rule and of a row survives (G10)",
			withRules(`{"Job":{"sync":"listed","w":1,"objects":[{"id":"a","v":"x"}]}}`),
			withRules(`{"Job":{"sync":"listed","objects":[{"id":"a","v":"x"}],"w":1}}`)},
		{"an unknown member keeps a rule of none alive (G10)", withRules(`{"Job":{"sync":"none","w":1}}`), withRules(`{"Job":{"sync":"none","w":1}}`)},
		{"names differ by case, so another case is unknown", strings.Replace(minimalSetting, "}}", `},"Active":true}`, 1),
			strings.Replace(minimalSetting, "}}", `},"Active":true}`, 1)},
	} {
		t.Run(c.name, func(t *testing.T) {
			s, err := ParseSetting([]byte(c.in))
			if err != nil {
				t.Fatal(err)
			}
			b, err := s.Encode()
			if err != nil {
				t.Fatal(err)
			}
			if string(b) != c.want {
				t.Errorf("encoded\n%s\nwant\n%s", b, c.want)
			}
		})
	}
}

var badSettings = []struct {
	name, in string
	also     string // what the error says
}{
	{"nothing", ``, "JSON object"},
	{"null", `null`, "JSON object"},
	{"an array", `[]`, "JSON object"},
	{"trailing bytes", minimalSetting + `x`, "after top-level"},
	{"a second value", minimalSetting + minimalSetting, "after top-level"},
	{"a cut value", minimalSetting[:len(minimalSetting)-1], "EOF"},
	{"a duplicate name", strings.Replace(minimalSetting, `"id":"s"`, `"id":"s","id":"s"`, 1), "duplicate"},
	{"a duplicate unknown name", strings.Replace(minimalSetting, `"id":"s"`, `"id":"s","z":1,"z":1`, 1), "duplicate"},
	{"a duplicate name within an unknown member", strings.Replace(minimalSetting, `"id":"s"`, `"id":"s","z":{"q":1,"q":1}`, 1), "duplicate"},
	{"a duplicate type", withRules(`{"Job":{"sync":"none"},"Job":{"sync":"none"}}`), "duplicate"},
	{"invalid UTF-8", strings.Replace(minimalSetting, `"id":"s"`, "\"id\":\"s\",\"description\":\"\xff\"", 1), "UTF-8"},
	{"no id", strings.Replace(minimalSetting, `"id":"s",`, ``, 1), "id:"},
	{"an id that is no slug", strings.Replace(minimalSetting, `"id":"s"`, `"id":"S"`, 1), "id"},
	{"source and target are one", strings.Replace(minimalSetting, `"target":"b"`, `"target":"a"`, 1), "target:"},
	{"active is no boolean", strings.Replace(minimalSetting, `false`, `"false"`, 1), "active"},
	{"an unknown policy", strings.Replace(minimalSetting, `keep`, `Keep`, 1), "activePolicy"},
	{"an unknown type", withRules(`{"Widget":{"sync":"none"}}`), "Widget"},
	{"a type in the plural", withRules(`{"Jobs":{"sync":"all","new":true}}`), "did you mean Job?"},
	{"an unknown mode", withRules(`{"Job":{"sync":"some"}}`), "rules.Job.sync"},
	{"rights without a mode are not dropped in silence (G7)", withRules(`{"Job":{"new":true}}`), "rules.Job.sync"},
	{"rights beside none are not dropped in silence (G7)", withRules(`{"Job":{"sync":"none","new":true}}`), "rules.Job"},
	{"rows beside none are not dropped in silence (G7)", withRules(`{"Job":{"sync":"none","objects":[{"id":"a"}]}}`), "rules.Job.objects"},
	{"rows beside all without a right (G7)", withRules(`{"Job":{"sync":"all","objects":[{"id":"a"}]}}`), "rules.Job.objects"},
	{"rights beside listed", withRules(`{"Job":{"sync":"listed","updated":true,"objects":[{"id":"a"}]}}`), "rules.Job"},
	{"a row without an id", withRules(`{"Job":{"sync":"listed","objects":[{"new":true}]}}`), "objects[0].id"},
	{"a row listed twice", withRules(`{"Job":{"sync":"listed","objects":[{"id":"a"},{"id":"a"}]}}`), "listed twice"},
	{"a GUID in upper case", withRules(`{"Job":{"sync":"listed","objects":[{"id":"0A111111-2222-3333-4444-555555555555"}]}}`), "canonical"},
	{"the zero GUID", withRules(`{"Job":{"sync":"listed","objects":[{"id":"` + zeroGUID + `"}]}}`), "canonical"},
	{"an empty pattern", withRules(`{"Job":{"sync":"all","new":true,"names":[" "]}}`), "rules.Job.names[0]"},
	{"an empty group", withRules(`{"Job":{"sync":"all","new":true,"groups":["a",""]}}`), "rules.Job.groups[1]"},
	{"a group twice", withRules(`{"Job":{"sync":"all","new":true,"groups":["a","A "]}}`), "twice"},
	{"groups beside listed", withRules(`{"Job":{"sync":"listed","groups":["a"],"objects":[{"id":"a","new":true}]}}`), "they narrow all"},
	{"a group that is too long", withRules(`{"Job":{"sync":"all","new":true,"groups":["` + strings.Repeat("x", 801) + `"]}}`), "at most 800"},
	{"a mode that there is not", strings.Replace(minimalSetting, `"rules"`, `"mode":"manual","rules"`, 1), "automatic, approve or report"},
	{"a window that cannot be read", strings.Replace(minimalSetting, `"rules"`, `"windows":[{"kind":"allow","schedule":"x","duration":"8h"}],"rules"`, 1), "windows[0].schedule"},
	{"values of variables is no boolean", strings.Replace(minimalSetting, `"rules"`, `"variableValues":"yes","rules"`, 1), "variableValues"},
	{"new server settings", withRules(`{"ServerSettings":{"sync":"all","new":true,"updated":true}}`), "rules.ServerSettings: new and deleted do not apply: each server has one object of this type"},
	{"deleted server settings", withRules(`{"ServerSettings":{"sync":"all","updated":true,"deleted":true}}`), "rules.ServerSettings: new and deleted do not apply"},
	{"new server settings of a row", withRules(`{"ServerSettings":{"sync":"listed","objects":[{"id":"server","new":true}]}}`), "rules.ServerSettings.objects[0]: new and deleted do not apply"},
	{"deleted server settings of an exception", withRules(`{"ServerSettings":{"sync":"all","updated":true,"objects":[{"id":"server","deleted":true}]}}`), "rules.ServerSettings.objects[0]: new and deleted do not apply"},
	{"other server settings", withRules(`{"ServerSettings":{"sync":"listed","objects":[{"id":"other","updated":true}]}}`), "rules.ServerSettings.objects[0].id"},
	{"a time without a zone", strings.Replace(minimalSetting, "}}", `},"created":"2026-11-23T01:00:00"}`, 1), "created"},
}

func TestParseSettingRefuses(t *testing.T) {
	for _, c := range badSettings {
		t.Run(c.name, func(t *testing.T) {
			s, err := ParseSetting([]byte(c.in))
			if !errors.Is(err, ErrSetting) || !strings.Contains(err.Error(), c.also) {
				t.Errorf("setting %+v, error %v, want ErrSetting with %q", s, err, c.also)
			}
			if !reflect.DeepEqual(s, Setting{}) {
				t.Errorf("a refused setting came out as %+v", s)
			}
		})
	}
}

func TestSettingReportsAllFaultsAtOnce(t *testing.T) {
	err := Setting{ID: "-", Source: "a", Target: "a", Policy: "on", Rules: map[Type]Rule{
		Job: {Sync: SyncListed, Rights: Rights{New: true}}, "Zoo": {}, "Ant": {}}}.Validate()
	for _, want := range []string{"id:", "target:", "activePolicy:", "rules.Job:", `"Ant"`, `"Zoo"`} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v\ndoes not name %s", err, want)
		}
	}
}

func TestSettingEncodeLeavesTheCallerAlone(t *testing.T) {
	s := aSetting()
	s.Rules[Job] = Rule{Sync: SyncNone}
	s.Rules[Variable] = Rule{Sync: SyncListed, Objects: []ObjectRule{{ID: "b"}, {ID: "a"}}}
	if _, err := s.Encode(); err != nil {
		t.Fatal(err)
	}
	if rows := s.Rules[Variable].Objects; s.Rules[Job].Sync != SyncNone || rows[0].ID != "b" {
		t.Errorf("Encode changed its receiver's rules: %+v", s.Rules)
	}
}

func TestSettingEncodeIsDeterministic(t *testing.T) {
	want, err := aSetting().Encode()
	if err != nil {
		t.Fatal(err)
	}
	for range 50 {
		if got, err := aSetting().Encode(); err != nil || !bytes.Equal(got, want) {
			t.Fatalf("%s (%v)\nwant\n%s", got, err, want)
		}
	}
}

func TestSettingEncodeRefuses(t *testing.T) {
	for _, c := range []struct {
		name string
		edit func(*Setting)
	}{
		{"a setting that is not valid", func(s *Setting) { s.Target = s.Source }},
		{"a description that is not UTF-8", func(s *Setting) { s.Description = "\xff" }},
		{"an unknown member that is a known one", func(s *Setting) { s.Unknown = []byte(`{"id":"other"}`) }},
		{"unknown members that are no object", func(s *Setting) { s.Unknown = []byte(`[1]`) }},
		{"unknown members of a rule that are cut", func(s *Setting) {
			s.Rules[Job] = Rule{Sync: SyncAll, Rights: Rights{New: true}, Unknown: []byte(`{"a":`)}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := aSetting()
			c.edit(&s)
			if b, err := s.Encode(); !errors.Is(err, ErrSetting) {
				t.Errorf("%s, error %v, want ErrSetting", b, err)
			}
		})
	}
}

func TestKeepUnknown(t *testing.T) {
	old, err := ParseSetting([]byte(`{"id":"s","source":"a","target":"b","z":1,"rules":{` +
		`"Job":{"sync":"listed","w":1,"objects":[{"id":"a","v":1},{"id":"b","v":2}]},"Variable":{"sync":"all","new":true,"w":2}},` +
		`"windows":[{"kind":"deny","schedule":"0 1 * * *","duration":"1h","v":3},{"kind":"deny","schedule":"0 2 * * *","duration":"1h","v":4}],` +
		`"kept":[{"type":"Job","pointer":"/a","v":5},{"type":"Job","pointer":"/b","v":6}],` +
		`"overrides":[{"type":"Job","patch":{},"v":7},{"type":"User","patch":{},"v":8}],` +
		`"pins":[{"type":"Job","source":"a","target":"x","v":9},{"type":"Job","source":"b","target":"y","v":10}]}`))
	if err != nil {
		t.Fatal(err)
	}
	var s Setting
	if err := jsonv1.Unmarshal([]byte(withRules(`{"Job":{"sync":"listed","objects":[{"id":"c"},{"id":"b"}]},"User":{"sync":"all","new":true}}`)), &s); err != nil {
		t.Fatal(err)
	}
	s.Windows = Windows{{Kind: DenyWindow, Schedule: "0 2 * * *", Duration: "1h"}, {Kind: DenyWindow, Schedule: "0 1 * * *", Duration: "2h"}}
	s.Kept = []KeptField{{Type: Job, Pointer: "/b"}, {Type: User, Pointer: "/b"}}
	s.Overrides = []Override{{Type: User, Patch: []byte(`{"a":1}`)}}
	s.Pins = []Pin{{Type: Job, Source: "b", Target: "z"}}
	s.KeepUnknown(old)
	b, err := s.Encode()
	if err != nil {
		t.Fatal(err)
	}
	want := `{"id":"s","source":"a","target":"b","active":false,"activePolicy":"keep","rules":{` +
		`"Job":{"sync":"listed","objects":[{"id":"b","v":2},{"id":"c"}],"w":1},"User":{"sync":"all","new":true}},` +
		`"windows":[{"kind":"deny","schedule":"0 2 * * *","duration":"1h","v":4},{"kind":"deny","schedule":"0 1 * * *","duration":"2h"}],` +
		`"kept":[{"type":"Job","pointer":"/b","v":6},{"type":"User","pointer":"/b"}],"overrides":[{"type":"User","patch":{"a":1},"v":8}],` +
		`"pins":[{"type":"Job","source":"b","target":"z","v":10}],"z":1}`
	if string(b) != want {
		t.Errorf("\n%s\nwant\n%s", b, want)
	}
}

func TestParseServerAcceptsAndNormalizes(t *testing.T) {
	const minimal = `{"id":"a","connector":"bridge","address":"https://h","user":"u"}`
	for _, c := range []struct{ name, in, want string }{
		{"the normal form stays as it is", minimal, minimal},
		{"times become UTC", `{"id":"a","connector":"bridge","address":"https://h","user":"u","created":"2026-01-01T00:30:00+01:00"}`,
			`{"id":"a","connector":"bridge","address":"https://h","user":"u","created":"2025-12-31T23:30:00Z"}`},
		{"a measure that is the default is none", `{"id":"a","connector":"bridge","address":"https://h","user":"u","deletes":{"Job":{"number":5,"share":10},"User":{"number":0,"share":0}}}`,
			`{"id":"a","connector":"bridge","address":"https://h","user":"u","deletes":{"User":{"number":0,"share":0}}}`},
		{"an unknown member of a measure survives (G10)", `{"id":"a","connector":"bridge","address":"https://h","user":"u","deletes":{"Job":{"z":1,"number":5,"share":10}}}`,
			`{"id":"a","connector":"bridge","address":"https://h","user":"u","deletes":{"Job":{"number":5,"share":10,"z":1}}}`},
		{"an unknown member survives (G10)", `{"z":[1, 2],"id":"a","connector":"bridge","address":"https://h","user":"u"}`,
			`{"id":"a","connector":"bridge","address":"https://h","user":"u","z":[1,2]}`},
	} {
		t.Run(c.name, func(t *testing.T) {
			s, err := ParseServer([]byte(c.in))
			if err != nil {
				t.Fatal(err)
			}
			if s.Created.Location() != time.UTC {
				t.Errorf("created %s, want UTC", s.Created)
			}
			if b, err := s.Encode(); err != nil || string(b) != c.want {
				t.Errorf("encoded\n%s (%v)\nwant\n%s", b, err, c.want)
			}
		})
	}
}

func TestMeasure(t *testing.T) {
	for _, c := range []struct {
		text          string
		objects, want int
	}{{"5,10%", 0, 5}, {"5,10%", 59, 5}, {"5,10%", 60, 6}, {"0,0%", 1000, 0}, {"0,100%", 7, 7}, {"1000000,0%", 3, 1000000}} {
		m, err := ParseMeasure(c.text)
		if err != nil || m.Of(c.objects) != c.want || m.String() != c.text {
			t.Errorf("%s of %d objects: %d (%v), want %d; written %s", c.text, c.objects, m.Of(c.objects), err, c.want, m)
		}
	}
	for _, text := range []string{"", "5", "5,10", "5%,10%", "-1,10%", "1,101%", "1,-1%", "1000001,1%", "5, 10%", "x,1%"} {
		if m, err := ParseMeasure(text); !errors.Is(err, ErrServer) {
			t.Errorf("%q: %+v, %v", text, m, err)
		}
	}
	s := aServer()
	if s.MeasureOf(Job).Number != 20 || s.MeasureOf(Variable).Of(100) != 0 || s.MeasureOf(User).Of(100) != 10 {
		t.Error("the measure of a type is not what was set, or the default")
	}
}

var badServers = []struct{ name, in string }{
	{"null", `null`},
	{"trailing bytes", `{"id":"a","connector":"bridge","address":"https://h","user":"u"} 1`},
	{"a duplicate name", `{"id":"a","id":"a","connector":"bridge","address":"https://h","user":"u"}`},
	{"an id that is no slug", `{"id":"a_b","connector":"bridge","address":"https://h","user":"u"}`},
	{"no connector", `{"id":"a","address":"https://h","user":"u"}`},
	{"no user", `{"id":"a","connector":"bridge","address":"https://h"}`},
	{"no address", `{"id":"a","connector":"bridge","user":"u"}`},
	{"an address that is no URL", `{"id":"a","connector":"bridge","user":"u","address":"http://h:80x"}`},
	{"another scheme", `{"id":"a","connector":"bridge","user":"u","address":"ftp://h"}`},
	{"an upper-case scheme", `{"id":"a","connector":"bridge","user":"u","address":"HTTP://h"}`},
	{"no scheme", `{"id":"a","connector":"bridge","user":"u","address":"h:80"}`},
	{"a port without a host", `{"id":"a","connector":"bridge","user":"u","address":"http://:80"}`},
	{"a colon without a port", `{"id":"a","connector":"bridge","user":"u","address":"http://h:"}`},
	{"port 0", `{"id":"a","connector":"bridge","user":"u","address":"http://h:0"}`},
	{"port 65536", `{"id":"a","connector":"bridge","user":"u","address":"http://h:65536"}`},
	{"an address that is no URL and holds a password", `{"id":"a","connector":"bridge","user":"u","address":"http://secret:word@h:80x"}`},
	{"a user in the address", `{"id":"a","connector":"bridge","user":"u","address":"http://secret:word@h"}`},
	{"an empty user in the address", `{"id":"a","connector":"bridge","user":"u","address":"http://@h"}`},
	{"a query", `{"id":"a","connector":"bridge","user":"u","address":"http://h/?token=word"}`},
	{"an empty query", `{"id":"a","connector":"bridge","user":"u","address":"http://h/?"}`},
	{"a fragment", `{"id":"a","connector":"bridge","user":"u","address":"http://h/#x"}`},
	{"a blank in the path", `{"id":"a","connector":"bridge","user":"u","address":"http://h/a b"}`},
	{"a measure below 0", `{"id":"a","connector":"bridge","user":"u","address":"http://h","deletes":{"Job":{"number":-1,"share":10}}}`},
	{"a measure of more than all", `{"id":"a","connector":"bridge","user":"u","address":"http://h","deletes":{"Job":{"number":1,"share":101}}}`},
	{"a measure of no type", `{"id":"a","connector":"bridge","user":"u","address":"http://h","deletes":{"Jobs":{"number":1,"share":1}}}`},
	{"a line end", `{"id":"a","connector":"bridge","user":"u","address":"http://h\r\nx: y"}`},
}

func TestParseServerRefuses(t *testing.T) {
	for _, c := range badServers {
		t.Run(c.name, func(t *testing.T) {
			s, err := ParseServer([]byte(c.in))
			if !errors.Is(err, ErrServer) {
				t.Fatalf("%+v, error %v, want ErrServer", s, err)
			}
			if strings.Contains(err.Error(), "word") {
				t.Errorf("the error quotes the address, and with it a secret: %v", err)
			}
		})
	}
}

func TestServerAddressesThatAreFine(t *testing.T) {
	for _, address := range []string{"http://h", "https://h:443", "http://127.0.0.1:7701", "http://[::1]:80", "http://[::1]", "https://h/base/path/", "http://h:65535", "http://bücher.example"} {
		s := aServer()
		s.Address = address
		if err := s.Validate(); err != nil {
			t.Errorf("%s: %v", address, err)
		}
	}
}

// The API's framework codes the same structs with encoding/json, so both must say
// the same.
func TestBothJSONPackagesAgree(t *testing.T) {
	setting, server := aSetting(), aServer()
	for _, c := range []struct {
		name   string
		v      any
		encode func() ([]byte, error)
		parse  func([]byte) (any, error)
	}{
		{"setting", setting, setting.Encode, func(b []byte) (any, error) { return ParseSetting(b) }},
		{"server", server, server.Encode, func(b []byte) (any, error) { return ParseServer(b) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			own, err := c.encode()
			if err != nil {
				t.Fatal(err)
			}
			var std bytes.Buffer
			enc := jsonv1.NewEncoder(&std)
			enc.SetEscapeHTML(false)
			if err := enc.Encode(c.v); err != nil {
				t.Fatal(err)
			}
			if got := strings.TrimSuffix(std.String(), "\n"); got != string(own) {
				t.Errorf("encoding/json writes\n%s\nEncode writes\n%s", got, own)
			}
			back := reflect.New(reflect.TypeOf(c.v))
			if err := jsonv1.Unmarshal(own, back.Interface()); err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(back.Elem().Interface(), c.v) {
				t.Errorf("encoding/json reads\n%+v\nwant\n%+v", back.Elem(), c.v)
			}
			if parsed, err := c.parse(own); err != nil || !reflect.DeepEqual(parsed, c.v) {
				t.Errorf("parsed\n%+v (%v)\nwant\n%+v", parsed, err, c.v)
			}
		})
	}
}

func FuzzParseSetting(f *testing.F) {
	f.Add([]byte(minimalSetting))
	for _, c := range badSettings {
		f.Add([]byte(c.in))
	}
	b, _ := aSetting().Encode()
	f.Add(b)
	f.Add([]byte(withRules(`{"Job":{"sync":"listed","w":1,"objects":[{"id":"a","v":"x"}]}}`)))
	f.Add([]byte(withRules(`{"Job":null}`)))
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := ParseSetting(b)
		if err != nil {
			if !errors.Is(err, ErrSetting) {
				t.Fatalf("%v does not wrap ErrSetting", err)
			}
			return
		}
		first, err := s.Encode()
		if err != nil {
			t.Fatalf("parsed, yet not encoded: %v", err)
		}
		again, err := ParseSetting(first)
		if err != nil || !reflect.DeepEqual(again, s) {
			t.Fatalf("round trip of %s\n%+v (%v)\nwant\n%+v", first, again, err, s)
		}
		if second, err := again.Encode(); err != nil || !bytes.Equal(first, second) {
			t.Fatalf("encoded twice\n%s\n%s (%v)", first, second, err)
		}
	})
}

func FuzzParseServer(f *testing.F) {
	for _, c := range badServers {
		f.Add([]byte(c.in))
	}
	b, _ := aServer().Encode()
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := ParseServer(b)
		if err != nil {
			if !errors.Is(err, ErrServer) {
				t.Fatalf("%v does not wrap ErrServer", err)
			}
			return
		}
		first, err := s.Encode()
		if err != nil {
			t.Fatalf("parsed, yet not encoded: %v", err)
		}
		if again, err := ParseServer(first); err != nil || !reflect.DeepEqual(again, s) {
			t.Fatalf("round trip of %s\n%+v (%v)\nwant\n%+v", first, again, err, s)
		}
	})
}
