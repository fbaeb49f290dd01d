package notify

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"
)

const secret = "T0PS3CRET"

// file writes a file of receivers.
func file(t *testing.T, mode os.FileMode, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "receivers")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, mode); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestFile(t *testing.T) {
	lines, err := Read(file(t, 0o600, "# people\n\nhttps://h.example/x\n  parked,held slack+https://h.example/"+secret+"\r\nsmtp://u:"+secret+"@m.example/?from=a@x.example&to=b@x.example,c@x.example\n"+
		"teams+https://t.example/\nmatrix+https://"+secret+"@m.example/!room:m.example\n"))
	if err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(lines); got != "[line 3 (webhook) line 4 (slack) line 5 (mail) line 6 (teams) line 7 (matrix)]" {
		t.Error(got)
	}
	if !lines[0].takes(Drift) || lines[1].takes(Drift) || !lines[1].takes(Held) {
		t.Error("kinds of a line")
	}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%d"} {
		if got := fmt.Sprintf(verb, lines); strings.Contains(got, secret) {
			t.Errorf("%s shows %s", verb, got)
		}
	}
	if b, err := json.Marshal(lines); err == nil && strings.Contains(string(b), secret) {
		t.Errorf("JSON shows %s", b)
	}
}

func TestFileFaults(t *testing.T) {
	for _, c := range []struct{ name, text, says string }{
		{"nothing", "# nobody\n", "no URL"},
		{"no host", "https:///" + secret, "line 1: file of notifications: not a URL with a host"},
		{"a URL that does not parse", "https://u:" + secret + "%zz@h.example", "not a URL with a host"},
		{"a fragment", "https://h.example/#" + secret, "has a #"},
		{"a kind that is none", secret + " https://h.example/", "not a kind of notification"},
		{"a service that is none", "carrier+https://" + secret + ".example", "not a kind of URL"},
		{"a file", "file://h.example/" + secret, "not a kind of URL"},
		{"three words", "a b " + secret, "want a URL"},
		{"mail to nobody", "smtp://u:" + secret + "@m.example/?from=a@x.example", "?from=ADDRESS&to=ADDRESS"},
		{"mail with a parameter that is none", "smtp://u:" + secret + "@m.example/?from=a@x.example&to=b@x.example&verify=no", "parameter that is not known"},
		{"a password in the clear", "smtp://u:" + secret + "@m.example/?from=a@x.example&to=b@x.example&tls=none", "in the clear"},
		{"matrix without a room", "matrix+https://" + secret + "@m.example/", "the id of the room"},
		{"two faults", "# x\nhttps://\nftp://" + secret + ".example", "line 3"},
		{"too many", strings.Repeat("https://h.example/\n", maxLines+1), "are the most"},
		{"too long", strings.Repeat("# x\n", maxFile), "bytes"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := Read(file(t, 0o600, c.text))
			if !errors.Is(err, ErrFile) || !strings.Contains(err.Error(), c.says) {
				t.Errorf("%v, want %q", err, c.says)
			} else if strings.Contains(err.Error(), secret) {
				t.Errorf("it quotes the file: %v", err)
			}
		})
	}
	if runtime.GOOS != "windows" {
		for _, mode := range []os.FileMode{0o640, 0o604, 0o660} {
			if _, err := Read(file(t, mode, "https://h.example/")); !errors.Is(err, ErrFile) || !strings.Contains(err.Error(), "chmod 600") {
				t.Errorf("mode %o: %v", mode, err)
			}
		}
	}
	if _, err := Read(t.TempDir()); !errors.Is(err, ErrFile) {
		t.Errorf("a folder: %v", err)
	}
}

// heard is a request that a receiver got.
type heard struct {
	method, path, auth string
	body               map[string]any
}

// receiver is a real HTTP server that answers with a status.
func receiver(t *testing.T, status int) (string, func() []heard) {
	t.Helper()
	var mu sync.Mutex
	var all []heard
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := heard{method: r.Method, path: r.URL.EscapedPath() + "?" + r.URL.RawQuery, auth: r.Header.Get("Authorization")}
		raw, _ := io.ReadAll(r.Body)
		if err := json.Unmarshal(raw, &h.body); err != nil {
			t.Errorf("%v: %s", err, raw)
		}
		mu.Lock()
		all = append(all, h)
		mu.Unlock()
		w.Header().Set("Location", "http://"+r.Host+"/elsewhere")
		w.WriteHeader(status)
		fmt.Fprint(w, "the token "+secret+" is bad")
	}))
	t.Cleanup(srv.Close)
	return strings.TrimPrefix(srv.URL, "http://"), func() []heard {
		mu.Lock()
		defer mu.Unlock()
		return all
	}
}

var sample = message(subject{Kind: Down, Target: "b"}, Began, reading{on: true}, time.Unix(1.7e9, 0), time.Unix(1.7e9, 0), "here", "id7")

func try(t *testing.T, url string) Outcome {
	t.Helper()
	lines, err := Read(file(t, 0o600, url))
	if err != nil {
		t.Fatal(err)
	}
	return Try(t.Context(), lines, sample)[0]
}

func TestServicesOverHTTP(t *testing.T) {
	text := sample.Title + "\n" + sample.Text
	for _, c := range []struct {
		name, url, method, path, auth string
		has                           func(map[string]any) bool
	}{
		{"webhook", "http://u:pw@HOST/hook?k=" + secret, "POST", "/hook?k=" + secret, "Basic dTpwdw==", func(b map[string]any) bool {
			return b["id"] == "id7" && b["kind"] == "down" && b["state"] == "began" && b["target"] == "b" && b["command"] == "vcsync server test b"
		}},
		{"slack", "slack+http://HOST/services/" + secret, "POST", "/services/" + secret + "?", "", func(b map[string]any) bool { return b["text"] == text }},
		{"discord", "discord+http://HOST/x", "POST", "/x?", "", func(b map[string]any) bool { return b["content"] == text }},
		{"teams", "teams+http://HOST/x?sig=" + secret, "POST", "/x?sig=" + secret, "", func(b map[string]any) bool {
			return strings.Contains(fmt.Sprint(b["attachments"]), sample.Title)
		}},
		{"matrix", "matrix+http://" + secret + "@HOST/!r:h", "PUT", "/_matrix/client/v3/rooms/%21r:h/send/m.room.message/id7?", "Bearer " + secret, func(b map[string]any) bool { return b["body"] == text }},
	} {
		t.Run(c.name, func(t *testing.T) {
			host, got := receiver(t, 200)
			if o := try(t, strings.Replace(c.url, "HOST", host, 1)); !o.Sent || o.Service != c.name || o.Line != 1 {
				t.Errorf("%+v", o)
			}
			all := got()
			if len(all) != 1 || all[0].method != c.method || all[0].path != c.path || all[0].auth != c.auth || !c.has(all[0].body) {
				t.Errorf("%+v", all)
			}
		})
	}
}

// No redirect is followed, no proxy of the environment is asked, and what came of it is
// said without the URL, the host or the receiver's words.
func TestFailuresAreToldWithoutTheURL(t *testing.T) {
	// Go reads these once; loopback is never proxied either, so the transport is asked too.
	if httpClient.Transport.(*http.Transport).Proxy != nil {
		t.Error("a proxy of the environment may be used")
	}
	for status, says := range map[int]string{301: "redirect", 307: "redirect", 403: "HTTP 403", 404: "not right any more", 500: "HTTP 500"} {
		host, got := receiver(t, status)
		o := try(t, "slack+http://"+host+"/"+secret)
		if o.Sent || !strings.Contains(o.Reason, says) || strings.Contains(o.Reason, secret) || strings.Contains(o.Reason, "127.0.0.1") {
			t.Errorf("%d: %+v", status, o)
		}
		if len(got()) != 1 {
			t.Errorf("%d: asked %d times", status, len(got()))
		}
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	free := l.Addr().String()
	_ = l.Close()
	secured := httptest.NewUnstartedServer(http.NotFoundHandler())
	secured.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug)
	secured.StartTLS()
	defer secured.Close()
	plain, _ := receiver(t, 200)
	for address, says := range map[string]string{
		"http://" + free + "/" + secret:                            "nobody listens there",
		"https://" + plain + "/" + secret:                          "does not speak TLS",
		secured.URL + "/" + secret:                                 "certificate is not trusted",
		"http://" + strings.ToLower(secret) + ".invalid/" + secret: "the name of its host is not known",
	} {
		o := try(t, address)
		if o.Sent || !strings.Contains(o.Reason, says) || strings.Contains(strings.ToLower(o.Reason), strings.ToLower(secret)) || strings.Contains(o.Reason, "127.0.0.1") {
			t.Errorf("want %q: %+v", says, o)
		}
	}
}

// A failure is logged once, by the number of the line, and counted.
func TestTheLogHoldsNoURL(t *testing.T) {
	host, got := receiver(t, 403)
	lines, err := Read(file(t, 0o600, "\nslack+http://"+host+"/"+secret))
	if err != nil {
		t.Fatal(err)
	}
	ask := lines[0].send
	lines[0].send = func(ctx context.Context, m Message) error { // as a failed connection is told by net/http
		return &url.Error{Op: "Post", URL: "http://" + host + "/" + secret, Err: ask(ctx, m)}
	}
	var log bytes.Buffer
	c := counts{by: map[Result]uint64{}}
	o := newOutbox(lines, &c, slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug})))
	if !o.deliver(t.Context(), lines[0], sample) || len(got()) != 1 || c.by[Result{"down", ResultFailed}] != 1 {
		t.Errorf("asked %d times, counted %v: a 403 stays one", len(got()), c.by)
	}
	if s := log.String(); strings.Count(s, "\n") != 1 || !strings.Contains(s, "line=2 service=slack") || strings.Contains(s, secret) || strings.Contains(s, host) {
		t.Error(s)
	}
	lines[0].send = func(context.Context, Message) error { panic(secret) }
	if out := Try(t.Context(), lines, sample); out[0].Sent || strings.Contains(out[0].Reason, secret) {
		t.Errorf("%+v", out)
	}
}

// mailServer is a small SMTP server. It returns its address and what it was told.
func mailServer(t *testing.T, refuse string) (string, func() string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	var said strings.Builder
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer c.Close()
				fmt.Fprint(c, "220 here\r\n")
				data := false
				for in := bufio.NewScanner(c); in.Scan(); {
					line := in.Text()
					mu.Lock()
					said.WriteString(line + "\n")
					mu.Unlock()
					verb, _, _ := strings.Cut(line, " ")
					switch {
					case data && line != ".":
					case data:
						data = false
						fmt.Fprint(c, "250 kept\r\n")
					case verb == refuse:
						fmt.Fprintf(c, "550 %s is not wanted\r\n", secret)
					case verb == "EHLO":
						fmt.Fprint(c, "250-here\r\n250 AUTH PLAIN\r\n")
					case verb == "AUTH":
						fmt.Fprint(c, "235 come in\r\n")
					case verb == "DATA":
						data = true
						fmt.Fprint(c, "354 go on\r\n")
					case verb == "QUIT":
						fmt.Fprint(c, "221 bye\r\n")
						return
					default:
						fmt.Fprint(c, "250 ok\r\n")
					}
				}
			})
		}
	})
	t.Cleanup(func() { _ = l.Close(); wg.Wait() })
	return l.Addr().String(), func() string {
		mu.Lock()
		defer mu.Unlock()
		return said.String()
	}
}

func TestMail(t *testing.T) {
	const people = "/?from=vcsync@x.example&to=ann@x.example,bob@x.example"
	t.Run("a message arrives", func(t *testing.T) {
		addr, said := mailServer(t, "")
		if o := try(t, "smtp://sync:"+secret+"@"+addr+people+"&tls=none"); !o.Sent || o.Service != "mail" {
			t.Fatalf("%+v\n%s", o, said())
		}
		for _, want := range []string{"AUTH PLAIN ", "MAIL FROM:<vcsync@x.example>", "RCPT TO:<ann@x.example>", "RCPT TO:<bob@x.example>", "Subject: vcsync: target b is down", "Message-ID: <id7@vcsync>", "Next: vcsync server test b"} {
			if !strings.Contains(said(), want) {
				t.Errorf("no %q in\n%s", want, said())
			}
		}
	})
	t.Run("no password goes to a server without TLS", func(t *testing.T) {
		addr, said := mailServer(t, "")
		o := try(t, "smtp://sync:"+secret+"@"+addr+people)
		if o.Sent || !strings.Contains(o.Reason, "STARTTLS") || strings.Contains(said(), "AUTH") || strings.Contains(said(), "MAIL") {
			t.Errorf("%+v\n%s", o, said())
		}
	})
	for _, verb := range []string{"AUTH", "RCPT"} {
		t.Run("a refusal of "+verb+" lasts, and its words are not told", func(t *testing.T) {
			addr, _ := mailServer(t, verb)
			lines, err := Read(file(t, 0o600, "smtp://sync:"+secret+"@"+addr+people+"&tls=none"))
			if err != nil {
				t.Fatal(err)
			}
			err = sendOnce(t.Context(), lines[0], sample)
			if err == nil || !lasting(err) || !strings.Contains(reason(err), "SMTP 550") || strings.Contains(reason(err), secret) {
				t.Errorf("%v; told as %q", err, reason(err))
			}
		})
	}
}

func TestAReceiverThatSaysNothingIsLeft(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for _, url := range []string{"http://" + l.Addr().String() + "/", "smtp://" + l.Addr().String() + "/?from=a@x.example&to=b@x.example"} {
		lines, err := Read(file(t, 0o600, url))
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
		begin := time.Now()
		err = sendOnce(ctx, lines[0], sample)
		cancel()
		if d := time.Since(begin); err == nil || d > 5*time.Second {
			t.Errorf("%s: %v after %s", lines[0], err, d)
		}
	}
}
