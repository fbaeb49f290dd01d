package bridge

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/vcsync/vcsync/visualcron"
)

func TestASecretPrintsItselfInNoWay(t *testing.T) {
	const word = "hunter2"
	s := newSecret(word)
	b, err := New(visualcron.Config{Server: "x", Address: "http://127.0.0.1:1", Password: word})
	if err != nil {
		t.Fatal(err)
	}
	type holder struct {
		hidden secret
		Shown  secret
		in     map[string]secret
		list   []secret
	}
	h := holder{s, s, map[string]secret{"k": s}, []secret{s}}
	var out bytes.Buffer
	for _, v := range []any{s, &s, h, &h, b, struct{ b *Bridge }{b}} {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%t", "%p"} {
			fmt.Fprintf(&out, verb+"\n", v)
		}
		slog.New(slog.NewTextHandler(&out, nil)).Info("m", "v", v)
		slog.New(slog.NewJSONHandler(&out, nil)).Info("m", "v", v)
		j, err := json.Marshal(v)
		fmt.Fprintln(&out, string(j), err)
	}
	for _, w := range []string{word, fmt.Sprintf("%x", word), fmt.Sprintf("%X", word), base64.StdEncoding.EncodeToString([]byte(word))} {
		if strings.Contains(out.String(), w) {
			t.Errorf("the secret shows as %q", w)
		}
	}
}

func TestRedact(t *testing.T) {
	const password, token = `p/+"ä ss`, "tok-123456789"
	b, err := New(visualcron.Config{Server: "x", Address: "http://127.0.0.1:1", Password: password})
	if err != nil {
		t.Fatal(err)
	}
	b.session = newSecret("newer-token")
	b.retired = []secret{newSecret(token)}
	std := base64.StdEncoding.EncodeToString
	for name, text := range map[string]string{
		"as it is":                       "x " + password + " y",
		"the token":                      "Bearer " + token,
		"escaped for a query":            "?password=" + url.QueryEscape(password),
		"escaped for a path":             "/" + url.PathEscape(password),
		"quoted":                         fmt.Sprintf("%q", password),
		"base64":                         std([]byte(password)),
		"base64 for URLs":                base64.RawURLEncoding.EncodeToString([]byte(password)),
		"base64 of user and password":    std([]byte("admin:" + password)),
		"base64 with one byte more":      std([]byte("administrators:" + password + "!")),
		"base64 with two bytes more":     std([]byte("operator:" + password + "!!")),
		"hex":                            fmt.Sprintf("%x", password),
		"a URL with another secret":      "http://admin:else@host/path?token=else",
		"twice":                          password + password,
		"within the first token's URL":   "https://host/?token=" + token,
		"beside what looks like a token": token + "0",
	} {
		got := b.redact(text)
		for _, w := range []string{password, token, "else", "://", url.QueryEscape(password), "host", fmt.Sprintf("%x", password), "L + \"", "cC8rIsOk"} {
			if strings.Contains(got, w) {
				t.Errorf("%s: %q became %q", name, text, got)
			}
		}
		if got == text {
			t.Errorf("%s: %q stayed as it is", name, text)
		}
	}
	if got := b.redact("nothing to hide"); got != "nothing to hide" {
		t.Errorf("a harmless text became %q", got)
	}
}

func TestRetryAfter(t *testing.T) {
	now := time.Date(2026, 3, 4, 12, 0, 0, 0, time.UTC)
	for in, want := range map[string]time.Duration{
		"": 0, "7": 7 * time.Second, " 120 ": 2 * time.Minute, "0": 0, "-1": 0, "1.5": 0, "soon": 0,
		"3600": time.Hour, "3601": time.Hour, "9223372036854775807": time.Hour, "99999999999999999999999": time.Hour,
		now.Add(90 * time.Second).Format(http.TimeFormat):  90 * time.Second,
		now.Add(-90 * time.Second).Format(http.TimeFormat): 0,
		now.Add(48 * time.Hour).Format(http.TimeFormat):    time.Hour,
	} {
		if got := retryAfter(in, now); got != want {
			t.Errorf("%q: %s, want %s", in, got, want)
		}
	}
}

func FuzzEscapeSegment(f *testing.F) {
	for _, s := range []string{".", "..", "...", "a/b", "%2F", "ü", "a b", "", "x.y", "%", "\x00"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		e := escapeSegment(s)
		if back, err := url.PathUnescape(e); err != nil || back != s {
			t.Fatalf("round trip: %q became %q became %q, %v", s, e, back, err)
		}
		if strings.ContainsAny(e, "/?# ") || e == "." || e == ".." {
			t.Fatalf("%q is %q, which is not one plain segment", s, e)
		}
		b := &Bridge{base: &url.URL{Scheme: "http", Host: "h", Path: "/base/"}}
		if got, want := b.path("objects", s).EscapedPath(), "/base/api/v1/objects/"+e; got != want {
			t.Fatalf("the path is %q, want %q", got, want)
		}
	})
}
