package standin_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/vcsync/vcsync/schemas"
	"github.com/vcsync/vcsync/visualcron"
	"github.com/vcsync/vcsync/visualcron/bridge"
	"github.com/vcsync/vcsync/visualcron/standin"
)

// admin speaks to what is beside the contract.
func admin(t *testing.T, base, token, method, path, body string) (int, standin.Admin, string) {
	t.Helper()
	req, err := http.NewRequest(method, base+"/standin/v1/"+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	var a standin.Admin
	_ = json.Unmarshal(b, &a) // the caller looks at the text
	return res.StatusCode, a, string(b)
}

func key(t *testing.T, base string) string {
	t.Helper()
	code, _, text := admin(t, base, "", http.MethodPost, "logon", `{"user":"admin","password":"standin-demo"}`)
	var out struct{ Token string }
	if err := json.Unmarshal([]byte(text), &out); code != 200 || err != nil || out.Token == "" {
		t.Fatal(code, text)
	}
	return out.Token
}

func TestModesAreSwitchedBesideTheContract(t *testing.T) {
	s := open(t, standin.Config{})
	srv := httptest.NewServer(s.Handler())
	defer srv.Close()
	if code, _, _ := admin(t, srv.URL, "", http.MethodGet, "misbehaviour", ""); code != 401 {
		t.Errorf("without a token: %d", code)
	}
	contract := logon(t, srv.Client(), srv.URL)
	code, a, _ := admin(t, srv.URL, contract, http.MethodGet, "misbehaviour", "")
	if code != 200 || len(a.On) != 0 || len(a.Modes) != len(standin.Modes()) || !strings.Contains(a.Version, "stand-in") {
		t.Errorf("%d %+v", code, a)
	}
	k := key(t, srv.URL)
	want := []standin.Misbehaviour{{Mode: "secrets", Arg: "opaque"}, {Mode: "secrets", Arg: "null", Type: schemas.Job}, {Mode: "error", Arg: "500,html"}, {Mode: "hangs", Type: schemas.Job}}
	b, err := json.Marshal(map[string]any{"on": want})
	if err != nil {
		t.Fatal(err)
	}
	for range 2 { // what breaks the contract does not break this
		if code, a, text := admin(t, srv.URL, k, http.MethodPut, "misbehaviour", string(b)); code != 200 || !reflect.DeepEqual(a.On, want) {
			t.Errorf("%d %s", code, text)
		}
	}
	if !reflect.DeepEqual(s.Misbehaviours(), want) {
		t.Errorf("on are %v", s.Misbehaviours())
	}
	for _, bad := range []string{`{"on":[{"mode":"nonsense"}]}`, `{"on":[{"mode":"secrets"}]}`, `{"on":[{"mode":"secrets","arg":"clear"}]}`, `{"on":[{"mode":"cuts","arg":"x"}]}`,
		`{"on":[{"mode":"version","arg":"1","type":"Job"}]}`, `{"on":[{"mode":"cuts","type":"Jobs"}]}`, `{"off":[]}`, `[`, ``} {
		if code, _, text := admin(t, srv.URL, k, http.MethodPut, "misbehaviour", bad); code != 400 {
			t.Errorf("%s: %d %s", bad, code, text)
		}
	}
	if !reflect.DeepEqual(s.Misbehaviours(), want) {
		t.Errorf("after refusals on are %v", s.Misbehaviours())
	}
	req, err := http.NewRequest(http.MethodGet, srv.URL+"/api/v1/server", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+k)
	s.Behave("error")
	if res, err := srv.Client().Do(req); err != nil || res.StatusCode != 401 {
		t.Errorf("the contract takes a key of what is beside it: %v %v", res, err)
	}
	if code, _, text := admin(t, srv.URL, k, http.MethodPut, "misbehaviour", `{"on":[]}`); code != 200 || len(s.Misbehaviours()) != 0 {
		t.Errorf("%d %s", code, text)
	}
}

func TestAMisbehaviourIsTyped(t *testing.T) {
	for text, want := range map[string]string{"secrets=opaque": "", "lands-late=2s": "", "lands-late=2s,silent": "", "throttles=5,503": "", "error=401,text": "",
		"canonicalises": "", "canonicalises=dates,guids": "", "activity=active": "", "tarpit": "", "tarpit=1ms": "", "another-server": "", "another-server=x": "", "version=9": "",
		"ignores-field=/Stats/Active": "", "forbidden-types=empty": "",
		"": "no such mode", "x": "no such mode", "cuts=": "nothing stands", "cuts=1": "takes nothing", "lands-late": "duration", "lands-late=2s,loud": "silent",
		"slow=-1s": "duration", "throttles=x": "number", "error=200": "status", "error=500,pdf": "problem", "canonicalises=all": "some of", "ignores-field": "text",
		"listing=nonsense": "want", "forbidden-types": "empty"} {
		m, err := standin.ParseMisbehaviour(text, "")
		if want == "" && (err != nil || m.String() != text) {
			t.Errorf("%q: %v %v", text, m, err)
		}
		if want != "" && (!errors.Is(err, standin.ErrMode) || !strings.Contains(err.Error(), want)) {
			t.Errorf("%q: %v, want one of %q", text, err, want)
		}
	}
}

// TestCanonicalises: each kind alone, on a body that has something for all of them.
func TestCanonicalises(t *testing.T) {
	const guid = "5b0c2f3e-6a1d-4c58-9e0a-1f2d3c4b5a60"
	const body = `{"Id":"` + guid + `","Z":1,"A":{"c":2.5,"b":-7},"Nothing":null,"Text":"","List":[],"On":true,"Off":false,"Lines":"a\r\nb",` +
		`"At":"2026-03-04T02:00:00.5+01:00","Local":"2026-03-04T02:00:00","Never":"0001-01-01T00:00:00Z","End":"9999-12-31T23:59:59.9999999",` +
		`"ProtocolType":"Sql","PassWord":"a\r\nb","NoDate":"2026-03-04","Ref":"` + guid + `"}`
	for kind, changes := range map[string][]string{ // pairs of before and after
		"guids":    {`"Id":"` + guid, `"Id":"` + strings.ToUpper(guid), `"Ref":"` + guid, `"Ref":"` + strings.ToUpper(guid)},
		"empties":  {`"Nothing":null,`, ``, `"Text":"",`, ``, `"List":[],`, ``, guid + `"}`, guid + `","StandInEmpty":[]}`},
		"booleans": {`true`, `"True"`, `false`, `"False"`},
		"numbers":  {`"Z":1`, `"Z":1.0`, `-7`, `-7.0`},
		"lines":    {`"Lines":"a\r\nb"`, `"Lines":"a\nb"`},
		"dates": {`2026-03-04T02:00:00.5+01:00`, `2026-03-04T01:00:00.5000000Z`, `2026-03-04T02:00:00"`, `2026-03-04T02:00:00.0000000"`,
			`0001-01-01T00:00:00Z`, `0001-01-01T00:00:00`, `9999-12-31T23:59:59.9999999`, `9999-12-31T23:59:59Z`},
		"enums": {`"Sql"`, `"SQL"`},
		"lists": nil, // of jobs only
		"order": {body, `{"Z":1,"Text":"","Ref":"` + guid + `","ProtocolType":"Sql","PassWord":"a\r\nb","On":true,"Off":false,"Nothing":null,"NoDate":"2026-03-04",` +
			`"Never":"0001-01-01T00:00:00Z","Local":"2026-03-04T02:00:00","List":[],"Lines":"a\r\nb","Id":"` + guid + `","End":"9999-12-31T23:59:59.9999999",` +
			`"At":"2026-03-04T02:00:00.5+01:00","A":{"c":2.5,"b":-7}}`},
	} {
		t.Run(kind, func(t *testing.T) {
			s := open(t, standin.Config{})
			misbehave(t, s, "canonicalises="+kind)
			want := strings.NewReplacer(changes...).Replace(body)
			stored, _, err := s.Put(schemas.Connection, []byte(body))
			if err != nil || string(stored) != want {
				t.Errorf("%v\ngot  %s\nwant %s", err, stored, want)
			}
			again, _, err := s.Put(schemas.Connection, stored)
			if err != nil || string(again) != want {
				t.Errorf("written again %v\n%s", err, again)
			}
		})
	}
	s := open(t, standin.Config{})
	misbehave(t, s, "canonicalises=lists")
	job := put(t, s, schemas.Job, `{"Id":"j","Variables":[{"Key":"a"},{"Key":"b"}],"Tasks":[{"Id":"1"},{"Id":"2"}],"Other":[1,2]}`)
	if first := job["Variables"].([]any)[0].(map[string]any)["Key"]; first != "b" || job["Other"].([]any)[0] != 1.0 {
		t.Errorf("%v", job["Variables"])
	}
	s.Behave()
	misbehave(t, s, "canonicalises")
	put(t, s, schemas.Variable, `{"Name":"5b0c2f3e-6a1d-4c58-9e0a-1f2d3c4b5a60","ObjectType":"String"}`)
	if _, ok := s.Get(schemas.Variable, "5b0c2f3e-6a1d-4c58-9e0a-1f2d3c4b5a60"); !ok {
		t.Error("a variable lost its name")
	}
	if n := len(put(t, s, schemas.Job, `{"Id":"t","Tasks":[{"Id":"1","TaskType":"SQL"}]}`)["Tasks"].([]any)[0].(map[string]any)); n != 2+373 {
		t.Errorf("a task has %d members, want all its slots", n)
	}
}

func TestIgnoresAField(t *testing.T) {
	const before, after = `{"Id":"a","Description":"old","Gone":1,"Proxy":{"Address":"old","Port":1},"Rows":[{"Id":"x","Description":"old"},{"Id":"y"}]}`,
		`{"Id":"a","Description":"new","Proxy":{"Address":"new","Port":2},"Rows":[{"Id":"y","Description":"new"},{"Id":"x","Description":"new"}]}`
	for field, want := range map[string]string{
		"Description":         `{"Id":"a","Description":"old","Proxy":{"Address":"new","Port":2},"Rows":[{"Id":"y"},{"Id":"x","Description":"old"}]}`,
		"/Description":        `{"Id":"a","Description":"old","Proxy":{"Address":"new","Port":2},"Rows":[{"Id":"y","Description":"new"},{"Id":"x","Description":"new"}]}`,
		"/Proxy/Address":      `{"Id":"a","Description":"new","Proxy":{"Address":"old","Port":2},"Rows":[{"Id":"y","Description":"new"},{"Id":"x","Description":"new"}]}`,
		"/Rows/1/Description": `{"Id":"a","Description":"new","Proxy":{"Address":"new","Port":2},"Rows":[{"Id":"y","Description":"new"},{"Id":"x","Description":"old"}]}`,
		"/None/There":         after,
		"/Gone":               strings.TrimSuffix(after, "}") + `,"Gone":1}`,
	} {
		t.Run(field, func(t *testing.T) {
			s := open(t, standin.Config{})
			misbehave(t, s, "ignores-field="+field)
			b := over(t, s)
			if _, err := b.Put(t.Context(), schemas.Connection, "a", []byte(before), ""); err != nil {
				t.Fatal(err)
			}
			if got, _ := s.Get(schemas.Connection, "a"); string(got) != before {
				t.Errorf("created as %s", got)
			}
			stored, err := b.Put(t.Context(), schemas.Connection, "a", []byte(after), "")
			if err != nil || string(stored) != want {
				t.Errorf("%v\ngot  %s\nwant %s", err, stored, want)
			}
			if put(t, s, schemas.Connection, after); field == "Description" {
				if got, _ := s.Get(schemas.Connection, "a"); string(got) != after {
					t.Errorf("its owner met the mode too: %s", got)
				}
			}
		})
	}
}

func TestReadingModes(t *testing.T) {
	s := open(t, standin.Config{})
	if err := standin.Seed(s); err != nil {
		t.Fatal(err)
	}
	misbehave(t, s, "enums-as-numbers", "adds-fields")
	numbers := 0
	for _, typ := range []schemas.Type{schemas.Job, schemas.Connection} {
		for _, r := range s.Objects(typ) {
			shown, _ := s.Shown(typ, r.ID)
			m := tree(t, shown)
			if m["StandInAdded"] == nil {
				t.Fatalf("nothing added to %s/%s", typ, r.ID)
			}
			if _, ok := m["ProtocolType"].(string); ok {
				t.Errorf("%s: protocol %v", r.ID, m["ProtocolType"])
			}
			for _, list := range []string{"Tasks", "Triggers"} {
				rows, _ := m[list].([]any)
				for _, x := range rows {
					row := x.(map[string]any)
					for _, name := range []string{"TaskType", "TriggerType"} {
						if _, ok := row[name].(float64); ok {
							numbers++
						} else if row[name] != nil {
							t.Errorf("%s: %s %v", r.ID, name, row[name])
						}
					}
				}
			}
		}
	}
	if numbers < 300 {
		t.Errorf("%d numbers", numbers)
	}
	one := s.Objects(schemas.Job)[7].ID
	before, _ := s.Shown(schemas.Job, one)
	misbehave(t, s, "statistics-move")
	b := over(t, s)
	listed := func() string {
		var all strings.Builder
		if _, err := b.List(t.Context(), schemas.Job, func(r visualcron.Row) error { all.Write(r.Body); return nil }); err != nil {
			t.Fatal(err)
		}
		return all.String()
	}
	if first, second := listed(), listed(); first == second {
		t.Error("two listings show the same statistics")
	}
	if after, _ := s.Shown(schemas.Job, one); !reflect.DeepEqual(strip(tree(t, before)), strip(tree(t, after))) {
		t.Error("more than statistics moved")
	}
}

func TestActivity(t *testing.T) {
	s := open(t, standin.Config{Dir: t.TempDir(), NoSync: true})
	if err := standin.Seed(s); err != nil {
		t.Fatal(err)
	}
	if done, err := s.Act(); err != nil || done != nil {
		t.Errorf("while it is off: %v %v", done, err)
	}
	for kind, want := range map[string]struct {
		typ     schemas.Type
		objects int // more or fewer
		changed int
	}{"active": {schemas.Job, 0, 1}, "exit-codes": {schemas.ExitCode, 0, 1}, "ad-users": {schemas.User, 1, 0}, "removed": {schemas.Job, -1, 0}, "run-once": {schemas.Job, 0, 1}} {
		misbehave(t, s, "activity="+kind)
		before := everything(s)
		done, err := s.Act()
		if err != nil || len(done) != 1 || !strings.HasPrefix(done[0], kind+": "+string(want.typ)) {
			t.Errorf("%s: %v %v", kind, done, err)
		}
		after := everything(s)
		changed := 0
		for k, body := range after {
			if was, ok := before[k]; ok && was != body {
				changed++
				if !strings.HasPrefix(k, string(want.typ)) {
					t.Errorf("%s: %s changed", kind, k)
				}
			}
		}
		if len(after)-len(before) != want.objects || changed != want.changed {
			t.Errorf("%s: %d objects more, %d changed; want %d and %d", kind, len(after)-len(before), changed, want.objects, want.changed)
		}
	}
	misbehave(t, s, "activity=removed,run-once")
	if done, err := s.Act(); err != nil || len(done) != 0 {
		t.Errorf("twice: %v %v", done, err)
	}
	misbehave(t, s, "activity")
	if done, err := s.Act(); err != nil || len(done) != 3 {
		t.Errorf("all: %v %v", done, err)
	}
}

// TestALateWriteLandsOnceAndNotAfterClose, with the time that it was given.
func TestALateWriteLandsOnceAndNotAfterClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var ended atomic.Int32
		s := open(t, standin.Config{Observe: func(standin.Write) func(standin.Result) { return func(standin.Result) { ended.Add(1) } }})
		pipe := standin.NewPipe()
		srv := &http.Server{Handler: s.Handler()}
		go func() { _ = srv.Serve(pipe) }()
		b, err := bridge.New(visualcron.Config{Server: "s", Address: "http://pipe", User: standin.DefaultUser, Password: standin.DefaultPassword}, bridge.WithTransport(pipe.Transport()))
		if err != nil {
			t.Fatal(err)
		}
		for _, mode := range []string{"lands-late=5s", "lands-late=5s,silent"} {
			ended.Store(0)
			misbehave(t, s, mode)
			id := schemas.ID(mode)
			body, _ := json.Marshal(map[string]string{"Id": mode})
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			if _, err := b.Put(ctx, schemas.Connection, id, body, ""); err == nil {
				t.Errorf("%s: no error", mode)
			}
			cancel()
			time.Sleep(3 * time.Second)
			if _, ok := s.Get(schemas.Connection, id); ok || ended.Load() != 0 {
				t.Errorf("%s: it landed before its time", mode)
			}
			time.Sleep(3 * time.Second)
			if _, ok := s.Get(schemas.Connection, id); !ok || ended.Load() != 1 {
				t.Errorf("%s: it did not land, or %d times", mode, ended.Load())
			}
		}
		misbehave(t, s, "lands-late=5s")
		if _, err := b.Put(t.Context(), schemas.Connection, "late", []byte(`{"Id":"late"}`), ""); err == nil {
			t.Error("no error")
		}
		_ = s.Close()
		if _, ok := s.Get(schemas.Connection, "late"); ok {
			t.Error("it landed at Close")
		}
		_ = b.Close()
		_ = srv.Close()
	})
}

// TestWhatIsNotOfferedIsRefused, whether the client has read the capabilities or not.
func TestWhatIsNotOfferedIsRefused(t *testing.T) {
	s := open(t, standin.Config{})
	srv := httptest.NewServer(s.Handler())
	defer srv.Close()
	token := logon(t, srv.Client(), srv.URL)
	ask := func(method, path string) (int, string) {
		t.Helper()
		req, err := http.NewRequest(method, srv.URL+"/api/v1/"+path, strings.NewReader(`{"Id":"a"}`))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer "+token)
		req.Header.Set("Content-Type", "application/json")
		res, err := srv.Client().Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		b, err := io.ReadAll(res.Body)
		if err != nil {
			t.Fatal(err)
		}
		return res.StatusCode, string(b)
	}
	put(t, s, schemas.Connection, `{"Id":"a"}`)
	put(t, s, schemas.Job, `{"Id":"a"}`)
	for _, c := range []struct {
		mode           string
		connection     [4]int // GET of the list and the object, PUT, DELETE
		job            [4]int
		says, saysNone string // of the server
	}{
		{"reads-only", [4]int{200, 200, 405, 405}, [4]int{200, 200, 405, 405}, `"Connection":{"list":true,"get":true,"put":false,"delete":false`, `"put":true`},
		{"reads-jobs-only", [4]int{405, 405, 405, 405}, [4]int{200, 200, 405, 405}, `"Job":{"list":true,"get":true,"put":false`, `"Connection"`},
		{"forbidden-types=403", [4]int{403, 403, 403, 403}, [4]int{200, 200, 200, 204}, `"Connection":{"list":true,"get":true,"put":true,"delete":true`, `"put":false`},
		{"forbidden-types=empty", [4]int{200, 404, 403, 403}, [4]int{200, 200, 200, 204}, `"Connection":{"list":true,"get":true,"put":true,"delete":true`, `"put":false`},
		{"no-changes-feed", [4]int{200, 200, 200, 204}, [4]int{200, 200, 200, 204}, `"changes":false`, `"changes":true`},
		{"version=9.9", [4]int{200, 200, 200, 204}, [4]int{200, 200, 200, 204}, `"version":"9.9 stand-in (not VisualCron)"`, standin.Version},
		{"another-server=x", [4]int{200, 200, 200, 204}, [4]int{200, 200, 200, 204}, `"id":"x"`, s.ID()},
	} {
		s.Behave()
		put(t, s, schemas.Connection, `{"Id":"a"}`)
		put(t, s, schemas.Job, `{"Id":"a"}`)
		misbehave(t, s, c.mode)
		for typ, want := range map[string][4]int{"Connection": c.connection, "Job": c.job} {
			var got [4]int
			for i, act := range [][2]string{{"GET", "objects/" + typ}, {"GET", "objects/" + typ + "/a"}, {"PUT", "objects/" + typ + "/a"}, {"DELETE", "objects/" + typ + "/a"}} {
				var text string
				if got[i], text = ask(act[0], act[1]); i == 0 && got[0] == 200 && (text == "[]") != (c.mode == "forbidden-types=empty" && typ == "Connection") {
					t.Errorf("%s: the list of %s is %.100s", c.mode, typ, text)
				}
			}
			if got != want {
				t.Errorf("%s: %s answers %v, want %v", c.mode, typ, got, want)
			}
		}
		if _, text := ask("GET", "server"); !strings.Contains(text, c.says) || strings.Contains(text, c.saysNone) {
			t.Errorf("%s: the server says %s", c.mode, text)
		}
	}
	s.Behave()
	misbehave(t, s, "token-short=1h")
	if code, _ := ask("GET", "server"); code != 200 {
		t.Errorf("a token that is still good: %d", code)
	}
	misbehave(t, s, "token-short=1ns")
	if code, _ := ask("GET", "server"); code != 401 {
		t.Errorf("a token that was out when they became short: %d", code)
	}
}

func TestThrottlesBySecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := open(t, standin.Config{})
		misbehave(t, s, "throttles=3,503")
		ask := func() int {
			rec := httptest.NewRecorder()
			s.Handler().ServeHTTP(rec, httptest.NewRequest(http.MethodGet, "/api/v1/server", nil))
			if rec.Code == 503 && rec.Header().Get("Retry-After") != "1" {
				t.Error("it does not say when to come back")
			}
			return rec.Code
		}
		for range 3 {
			if got := [5]int{ask(), ask(), ask(), ask(), ask()}; got != [5]int{401, 401, 401, 503, 503} {
				t.Errorf("%v", got)
			}
			time.Sleep(time.Second)
		}
	})
}

// TestATarpitGivesEverythingInTheEnd, and lets go of who goes.
func TestATarpitGivesEverythingInTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := open(t, standin.Config{})
		pipe := standin.NewPipe()
		srv := &http.Server{Handler: s.Handler()}
		go func() { _ = srv.Serve(pipe) }()
		b, err := bridge.New(visualcron.Config{Server: "s", Address: "http://pipe", User: standin.DefaultUser, Password: standin.DefaultPassword,
			RequestTimeout: time.Hour, ListTimeout: 24 * time.Hour, ListIdle: 2 * time.Second}, bridge.WithTransport(pipe.Transport()))
		if err != nil {
			t.Fatal(err)
		}
		misbehave(t, s, "tarpit")
		if _, err := b.Server(t.Context()); err != nil { // logs on, too
			t.Fatal(err)
		}
		begun := time.Now()
		complete, err := b.List(t.Context(), schemas.Job, func(visualcron.Row) error { return nil })
		if took := time.Since(begun); err != nil || complete.Count() != 2 || took < 10*time.Minute {
			t.Errorf("%d jobs after %s: %v", complete.Count(), took, err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if _, err := b.List(ctx, schemas.Job, func(visualcron.Row) error { return nil }); visualcron.ClassOf(err) != visualcron.Timeout {
			t.Error(err)
		}
		_ = b.Close()
		_ = s.Close()
		_ = srv.Close()
	})
}
