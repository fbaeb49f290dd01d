package standin_test

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"testing"

	"github.com/vcsync/vcsync/schemas"
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
