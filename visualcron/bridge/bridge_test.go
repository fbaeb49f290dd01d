package bridge_test

import (
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/vcsync/vcsync/schemas"
	"github.com/vcsync/vcsync/visualcron"
	"github.com/vcsync/vcsync/visualcron/bridge"
	"github.com/vcsync/vcsync/visualcron/standin"
)

const guid = "5b0c2f3e-6a1d-4c58-9e0a-1f2d3c4b5a60"

// fake answers logons with a token and gives all else to next.
func fake(t *testing.T, next http.HandlerFunc) (*bridge.Bridge, *httptest.Server) {
	t.Helper()
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/api/v1/logon" {
			w.Header().Set("Content-Type", "application/json")
			fmt.Fprint(w, `{"token":"tok-en","expiresAt":"2030-01-01T00:00:00Z"}`)
			return
		}
		next(w, r)
	}))
	t.Cleanup(srv.Close)
	return open(t, visualcron.Config{Address: srv.URL}), srv
}

func open(t *testing.T, cfg visualcron.Config, opts ...bridge.Option) *bridge.Bridge {
	t.Helper()
	cfg.Server = "under-test"
	if cfg.User == "" {
		cfg.User, cfg.Password = standin.DefaultUser, standin.DefaultPassword
	}
	cfg.Reach = visualcron.Anywhere()
	b, err := bridge.New(cfg, opts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.Close() })
	return b
}

// TestOnlyAnHonestListingIsComplete is the table of G4: no invented deletion.
func TestOnlyAnHonestListingIsComplete(t *testing.T) {
	row := `{"Id":"` + guid + `","Name":"Nightly"}`
	body := func(media, text string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", media)
			fmt.Fprint(w, text)
		}
	}
	answer := func(text string) http.HandlerFunc { return body("application/json", text) }
	status := func(code int, text string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(code)
			fmt.Fprint(w, text)
		}
	}
	for _, c := range []struct {
		name string
		list http.HandlerFunc
		want visualcron.Class
		rows int
	}{
		{"an empty array", answer(`[]`), "", 0},
		{"one object", answer(`[` + row + `]`), "", 1},
		{"blanks around it", answer(" \n[ " + row + " ]\r\n"), "", 1},
		{"a charset", body("application/json; charset=utf-8", `[]`), "", 0},
		{"null", answer(`null`), visualcron.BadAnswer, 0},
		{"a name twice in a row", answer(`[{"Id":"a","Id":"b"}]`), visualcron.BadAnswer, 0},
		{"an object", answer(`{}`), visualcron.BadAnswer, 0},
		{"an object that holds the array", answer(`{"value":[]}`), visualcron.BadAnswer, 0},
		{"nothing", answer(``), visualcron.BadAnswer, 0},
		{"blanks", answer(`  `), visualcron.BadAnswer, 0},
		{"a page", body("text/html; charset=utf-8", `<html>[]</html>`), visualcron.BadAnswer, 0},
		{"a page that says it is JSON", answer(`<html></html>`), visualcron.BadAnswer, 0},
		{"an array cut at the start", answer(`[`), visualcron.BadAnswer, 0},
		{"an array cut in a row", answer(`[` + row + `,{"Id":"x","Na`), visualcron.BadAnswer, 1},
		{"an array cut after a row", answer(`[` + row), visualcron.BadAnswer, 1},
		{"an array cut after a comma", answer(`[` + row + `,`), visualcron.BadAnswer, 1},
		{"a comma too many", answer(`[` + row + `,]`), visualcron.BadAnswer, 1},
		{"bytes after the array", answer(`[` + row + `]x`), visualcron.BadAnswer, 1},
		{"a second array", answer(`[][` + row + `]`), visualcron.BadAnswer, 0},
		{"an error after the array", answer(`[]{"error":"timeout"}`), visualcron.BadAnswer, 0},
		{"a duplicate id", answer(`[` + row + `,` + row + `]`), visualcron.BadAnswer, 1},
		{"a duplicate id in capitals", answer(`[` + row + `,` + strings.ToUpper(row[:45]) + row[45:] + `]`), visualcron.BadAnswer, 1},
		{"a row without id", answer(`[{"Name":"x"}]`), visualcron.BadAnswer, 0},
		{"a row with an empty id", answer(`[{"Id":""}]`), visualcron.BadAnswer, 0},
		{"a row with the zero GUID", answer(`[{"Id":"00000000-0000-0000-0000-000000000000"}]`), visualcron.BadAnswer, 0},
		{"a row with a number as id", answer(`[{"Id":1}]`), visualcron.BadAnswer, 0},
		{"a null row", answer(`[null]`), visualcron.BadAnswer, 0},
		{"invalid UTF-8", answer("[{\"Id\":\"a\",\"Name\":\"\xff\"}]"), visualcron.BadAnswer, 0},
		{"204", status(204, ``), visualcron.BadAnswer, 0},
		{"206", status(206, `[]`), visualcron.BadAnswer, 0},
		{"201", status(201, `[]`), visualcron.BadAnswer, 0},
		{"text", body("text/plain", `[]`), visualcron.BadAnswer, 0},
		{"problem JSON with 200", body("application/problem+json", `[]`), visualcron.BadAnswer, 0},
		{"no media type", func(w http.ResponseWriter, r *http.Request) {
			w.Header()["Content-Type"] = nil
			fmt.Fprint(w, `[]`)
		}, visualcron.BadAnswer, 0},
		{"gzip, which was not asked for", func(w http.ResponseWriter, r *http.Request) {
			if a := r.Header.Get("Accept-Encoding"); a != "identity" {
				t.Errorf("asked for coding %q", a)
			}
			w.Header().Set("Content-Type", "application/json")
			w.Header().Set("Content-Encoding", "gzip")
			z := gzip.NewWriter(w)
			fmt.Fprint(z, `[]`)
			_ = z.Close()
		}, visualcron.BadAnswer, 0},
		{"fewer bytes than announced", func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			w.Header().Set("Content-Length", "100")
			fmt.Fprint(w, `[]`)
		}, visualcron.BadAnswer, 0},
		{"a page that names the next one", func(w http.ResponseWriter, r *http.Request) {
			w.Header().Add("Link", `</help>; rel="help"`)
			w.Header().Add("Link", `</objects/Job?page=1>; rel=prev, </objects/Job?page=3>; title="x"; REL="last Next"`)
			answer(`[]`)(w, r)
		}, visualcron.BadAnswer, 0},
		{"links that are no next page", func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Link", `</next>; rel="prev"; title="next", </help>; rel=nextish`)
			answer(`[]`)(w, r)
		}, "", 0},
		{"a GUID in braces", answer(`[{"Id":"{` + guid + `}"}]`), visualcron.BadAnswer, 0},
		{"a GUID in parentheses", answer(`[{"Id":"(` + guid + `)"}]`), visualcron.BadAnswer, 0},
		{"a GUID without dashes", answer(`[{"Id":"` + strings.ReplaceAll(guid, "-", "") + `"}]`), visualcron.BadAnswer, 0},
		{"a text of 32 letters", answer(`[{"Id":"` + strings.Repeat("x", 32) + `"}]`), "", 1},
		{"a chunk without a length", func(w http.ResponseWriter, r *http.Request) {
			conn, _, err := http.NewResponseController(w).Hijack()
			if err != nil {
				t.Error(err)
				return
			}
			defer conn.Close()
			fmt.Fprint(conn, "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n[\r\nzz\r\n")
		}, visualcron.BadAnswer, 0},
		{"a connection cut in the middle", func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			fmt.Fprint(w, `[`+row+`,`)
			_ = http.NewResponseController(w).Flush()
			panic(http.ErrAbortHandler)
		}, visualcron.BadAnswer, 1},
		{"a whole array whose connection is cut before the end of the body", func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			fmt.Fprint(w, `[`+row+`]`)
			_ = http.NewResponseController(w).Flush()
			panic(http.ErrAbortHandler)
		}, visualcron.BadAnswer, 1},
		{"a token refused in the middle", func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			fmt.Fprint(w, `[`+row+`,{"title":"Unauthorized","status":401}]`)
		}, visualcron.BadAnswer, 1},
		{"401 with an empty array, at every token", status(401, `[]`), visualcron.Unauthorized, 0},
		{"403 with an empty array", status(403, `[]`), visualcron.Unauthorized, 0},
		{"404", status(404, `[]`), visualcron.BadAnswer, 0},
		{"429 with an empty array", status(429, `[]`), visualcron.Busy, 0},
		{"500 with an empty array", status(500, `[]`), visualcron.Fault, 0},
		{"502", status(502, `[]`), visualcron.Fault, 0},
		{"503", status(503, `[]`), visualcron.Busy, 0},
		{"another server", func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("VisualCron-Server-Id", "another")
			answer(`[]`)(w, r)
		}, visualcron.WrongServer, 0},
		{"the right server, its id in capitals", func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("VisualCron-Server-Id", "THE-RIGHT-ONE")
			answer(`[]`)(w, r)
		}, "", 0},
		{"a redirect to an empty array", func(w http.ResponseWriter, r *http.Request) {
			if strings.HasSuffix(r.URL.Path, "/elsewhere") {
				t.Error("the redirect was followed")
			}
			http.Redirect(w, r, "/elsewhere", http.StatusFound)
		}, visualcron.BadAnswer, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, srv := fake(t, c.list)
			b := open(t, visualcron.Config{Address: srv.URL}, bridge.WithIdentity("the-right-one"))
			rows := 0
			complete, err := b.List(t.Context(), schemas.Job, func(visualcron.Row) error { rows++; return nil })
			if got := visualcron.ClassOf(err); got != c.want || rows != c.rows || (err == nil) != (c.want == "") {
				t.Errorf("class %q after %d rows, want %q after %d: %v", got, rows, c.want, c.rows, err)
			}
			if complete.IsComplete() != (c.want == "") {
				t.Errorf("complete: %t", complete.IsComplete())
			}
			if e, ok := errors.AsType[*visualcron.Error](err); ok {
				if e.Op != "list" || e.Server != "under-test" || e.Type != schemas.Job {
					t.Errorf("the error does not say what was done where: %+v", e)
				}
				if strings.Contains(err.Error(), "://") || strings.Contains(err.Error(), "tok-en") {
					t.Errorf("the error gives away too much: %v", err)
				}
			}
		})
	}
}

// TestAnswersToOneObject is the same for the other calls.
func TestAnswersToOneObject(t *testing.T) {
	good := `{"Id":"` + guid + `","Name":"Nightly"}`
	reply := func(status int, media, text string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			if media != "" {
				w.Header().Set("Content-Type", media)
			}
			w.WriteHeader(status)
			fmt.Fprint(w, text)
		}
	}
	const problem, js = "application/problem+json", "application/json"
	for _, c := range []struct {
		name             string
		answer           http.HandlerFunc
		get, put, delete visualcron.Class
	}{
		{"200 with the object", reply(200, js, good), "", "", visualcron.BadAnswer},
		{"201 with the object", reply(201, js, good), visualcron.BadAnswer, "", visualcron.BadAnswer},
		{"204", reply(204, "", ""), visualcron.BadAnswer, visualcron.BadAnswer, ""},
		{"another object", reply(200, js, `{"Id":"27f0b4c2-88aa-4d0e-9a51-6f3e2d1c0b9a"}`), visualcron.BadAnswer, visualcron.BadAnswer, visualcron.BadAnswer},
		{"bytes after the object", reply(200, js, good+good), visualcron.BadAnswer, visualcron.BadAnswer, visualcron.BadAnswer},
		{"an array", reply(200, js, `[`+good+`]`), visualcron.BadAnswer, visualcron.BadAnswer, visualcron.BadAnswer},
		{"null", reply(200, js, `null`), visualcron.BadAnswer, visualcron.BadAnswer, visualcron.BadAnswer},
		{"a cut object", reply(200, js, good[:20]), visualcron.BadAnswer, visualcron.BadAnswer, visualcron.BadAnswer},
		{"an id twice", reply(200, js, `{"Id":"`+guid+`","Id":"x"}`), visualcron.BadAnswer, visualcron.BadAnswer, visualcron.BadAnswer},
		{"a page", reply(200, "text/html", `<html>`), visualcron.BadAnswer, visualcron.BadAnswer, visualcron.BadAnswer},
		{"404 in the words of the contract", reply(404, problem, `{"title":"Not Found"}`), visualcron.NotFound, visualcron.Refused, ""},
		{"410 in the words of the contract", reply(410, problem, `{"title":"Gone"}`), visualcron.NotFound, visualcron.Refused, ""},
		{"404 of some web server", reply(404, "text/html", `<h1>Not Found</h1>`), visualcron.BadAnswer, visualcron.BadAnswer, visualcron.BadAnswer},
		{"400", reply(400, problem, `{"title":"Bad"}`), visualcron.Refused, visualcron.Refused, visualcron.Refused},
		{"409", reply(409, problem, `{}`), visualcron.Refused, visualcron.Refused, visualcron.Refused},
		{"422", reply(422, problem, `no JSON`), visualcron.Refused, visualcron.Refused, visualcron.Refused},
		{"403", reply(403, "", ``), visualcron.Unauthorized, visualcron.Unauthorized, visualcron.Unauthorized},
		{"301", reply(301, "", ``), visualcron.BadAnswer, visualcron.BadAnswer, visualcron.BadAnswer},
		{"429", reply(429, "", ``), visualcron.Busy, visualcron.Busy, visualcron.Busy},
		{"504", reply(504, "", ``), visualcron.Fault, visualcron.Fault, visualcron.Fault},
	} {
		t.Run(c.name, func(t *testing.T) {
			b, _ := fake(t, c.answer)
			_, gerr := b.Get(t.Context(), schemas.Job, guid)
			_, perr := b.Put(t.Context(), schemas.Job, guid, []byte(good), "")
			derr := b.Delete(t.Context(), schemas.Job, guid)
			for _, x := range []struct {
				what string
				err  error
				want visualcron.Class
			}{{"get", gerr, c.get}, {"put", perr, c.put}, {"delete", derr, c.delete}} {
				if got := visualcron.ClassOf(x.err); got != x.want || (x.err == nil) != (x.want == "") {
					t.Errorf("%s: class %q, want %q: %v", x.what, got, x.want, x.err)
				}
			}
		})
	}
}

func TestAProblemIsCutAndSaidInOneLine(t *testing.T) {
	b, _ := fake(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/problem+json")
		w.WriteHeader(422)
		fmt.Fprintf(w, `{"title":"No\nsuch\u0007field","detail":"see https://host/x?password=%s and Bearer tok-en %s"}`, standin.DefaultPassword, strings.Repeat("ö", 500))
	})
	_, err := b.Get(t.Context(), schemas.Job, guid)
	e, ok := errors.AsType[*visualcron.Error](err)
	if !ok {
		t.Fatal(err)
	}
	if want := "No such field: see <address> and Bearer *** öö"; !strings.HasPrefix(e.Detail, want) || len([]rune(e.Detail)) != 200 {
		t.Errorf("detail %q", e.Detail)
	}
}

func TestNewReportsAllFaultsAndNoAddress(t *testing.T) {
	_, err := bridge.New(visualcron.Config{Address: "ftp://admin:hunter2@host/?q=1", RequestTimeout: -1, ListIdle: -1}, bridge.WithTransport(nil))
	if !errors.Is(err, bridge.ErrConfig) {
		t.Fatal(err)
	}
	for _, want := range []string{"request timeout", "list idle", "address", "transport"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q is not said in %v", want, err)
		}
	}
	for _, addr := range []string{"", "host:7701", "http://", "http://u:hunter2@host", "http://h/?x", "http://h/#x", "http://h:port:hunter2/", "http://[::1"} {
		if _, err := bridge.New(visualcron.Config{Address: addr}); !errors.Is(err, bridge.ErrConfig) || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%q: %v", addr, err)
		}
	}
}

func TestABasePathIsKept(t *testing.T) {
	var got atomic.Value
	_, srv := fake(t, func(w http.ResponseWriter, r *http.Request) {})
	srv.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		got.Store(r.URL.EscapedPath())
		w.WriteHeader(500)
	})
	b := open(t, visualcron.Config{Address: srv.URL + "/site%2Fa/"})
	_, _ = b.Server(t.Context()) // it fails, as told to
	if got.Load() != "/site%2Fa/api/v1/logon" {
		t.Errorf("asked for %q", got.Load())
	}
}

func TestIdentity(t *testing.T) {
	s, err := standin.Open(standin.Config{ID: "A0000000-0000-4000-8000-00000000000A"})
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewServer(s.Handler())
	defer srv.Close()
	for id, want := range map[string]visualcron.Class{"": "", s.ID(): "", strings.ToLower(s.ID()): "", "another": visualcron.WrongServer} {
		b := open(t, visualcron.Config{Address: srv.URL}, bridge.WithIdentity(id))
		if _, err := b.Server(t.Context()); visualcron.ClassOf(err) != want {
			t.Errorf("bound to %q: %v", id, err)
		}
		if _, err := b.List(t.Context(), schemas.Job, func(visualcron.Row) error { return nil }); visualcron.ClassOf(err) != want {
			t.Errorf("bound to %q: list: %v", id, err)
		}
	}
}

func TestWhatAServerDoesNotOfferIsNotAskedFor(t *testing.T) {
	asked := 0
	b, _ := fake(t, func(w http.ResponseWriter, r *http.Request) {
		asked++
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprint(w, `{"id":"x","version":"1","capabilities":{"Job":{"list":true,"get":true,"secrets":"clear"},"Sprocket":{"list":true}}}`)
	})
	info, err := b.Server(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if len(info.Types) != 1 || info.Types[schemas.Job] != (visualcron.Capability{List: true, Get: true}) || info.Changes {
		t.Errorf("%+v", info)
	}
	_, err1 := b.Put(t.Context(), schemas.Job, guid, []byte(`{"Id":"`+guid+`"}`), "")
	err2 := b.Delete(t.Context(), schemas.Job, guid)
	_, err3 := b.Get(t.Context(), schemas.User, guid)
	for _, err := range []error{err1, err2, err3} {
		if visualcron.ClassOf(err) != visualcron.Unsupported {
			t.Error(err)
		}
	}
	if asked != 1 {
		t.Errorf("the server was asked %d times", asked)
	}
}

func TestWhatAServerSaysOfItsAccount(t *testing.T) {
	for answer, want := range map[string]*visualcron.Account{
		`{"id":"x"}`:                {},
		`{"id":"x","account":null}`: {},
		`{"id":"x","account":{"name":"sync","rights":["see","edit"],"more":1}}`: {Name: "sync", Rights: []string{"see", "edit"}},
	} {
		b, _ := fake(t, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			fmt.Fprint(w, answer)
		})
		info, err := b.Server(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if want.Name == "" && info.Account != nil || want.Name != "" && !reflect.DeepEqual(info.Account, want) {
			t.Errorf("%s: %+v", answer, info.Account)
		}
	}
}

// bubble serves h on a pipe, in virtual time, and returns a connector to it; when
// f has returned, nothing may be left running.
func bubble(t *testing.T, h http.HandlerFunc, cfg visualcron.Config, f func(t *testing.T, b *bridge.Bridge)) {
	synctest.Test(t, func(t *testing.T) {
		pipe := standin.NewPipe()
		srv := &http.Server{Handler: h}
		var wg sync.WaitGroup
		wg.Go(func() { _ = srv.Serve(pipe) })
		cfg.Address = "http://pipe"
		b := open(t, cfg, bridge.WithTransport(pipe.Transport()))
		f(t, b)
		_ = b.Close()
		_ = srv.Close()
		wg.Wait()
	})
}

func logonOr(next http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/api/v1/logon" {
			w.Header().Set("Content-Type", "application/json")
			fmt.Fprint(w, `{"token":"tok-en"}`)
			return
		}
		next(w, r)
	}
}

func TestAListingMayBeSlowButNotSilent(t *testing.T) {
	// trickle sends a row every gap, n times.
	trickle := func(n int, gap time.Duration) http.HandlerFunc {
		return logonOr(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			lead := "["
			for i := range n {
				fmt.Fprintf(w, `%s{"Id":"x%d"}`, lead, i)
				_ = http.NewResponseController(w).Flush()
				lead = ","
				select {
				case <-time.After(gap):
				case <-r.Context().Done():
					return
				}
			}
			fmt.Fprint(w, "]")
		})
	}
	for _, c := range []struct {
		name string
		n    int
		gap  time.Duration
		work time.Duration // of whoever takes a row
		want visualcron.Class
		took time.Duration
	}{
		{"a row every 29 s is well", 10, 29 * time.Second, 0, "", 290 * time.Second},
		{"a row every 31 s is too slow", 10, 31 * time.Second, 0, visualcron.Timeout, 30 * time.Second},
		{"more than 10 minutes are too long", 100, 20 * time.Second, 0, visualcron.Timeout, 10 * time.Minute},
		{"the work on a row is no silence", 3, time.Second, time.Minute, "", 3 * time.Minute},
	} {
		t.Run(c.name, func(t *testing.T) {
			bubble(t, trickle(c.n, c.gap), visualcron.Config{}, func(t *testing.T, b *bridge.Bridge) {
				start := time.Now()
				complete, err := b.List(t.Context(), schemas.Job, func(visualcron.Row) error { time.Sleep(c.work); return nil })
				if visualcron.ClassOf(err) != c.want || complete.IsComplete() != (c.want == "") {
					t.Errorf("class %q, want %q: %v", visualcron.ClassOf(err), c.want, err)
				}
				if c.want != "" && !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("not a DeadlineExceeded: %v", err)
				}
				if took := time.Since(start); took != c.took {
					t.Errorf("took %s, want %s", took, c.took)
				}
			})
		})
	}
}

func TestARequestEndsInTime(t *testing.T) {
	stuck := logonOr(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body) // so that the server sees the client go
		<-r.Context().Done()
	})
	bubble(t, stuck, visualcron.Config{}, func(t *testing.T, b *bridge.Bridge) {
		start := time.Now()
		_, err := b.Put(t.Context(), schemas.Job, guid, []byte(`{"Id":"`+guid+`"}`), "")
		if visualcron.ClassOf(err) != visualcron.Timeout || time.Since(start) != 10*time.Second {
			t.Errorf("after %s: %v", time.Since(start), err)
		}
	})
}

func TestLogonIsSharedAndNotRepeated(t *testing.T) {
	for _, c := range []struct {
		name   string
		right  bool
		logons int32
		want   visualcron.Class
	}{
		{"a good one serves all callers", true, 1, ""},
		{"a refused one is not tried once per caller", false, 1, visualcron.Unauthorized},
	} {
		t.Run(c.name, func(t *testing.T) {
			var logons atomic.Int32
			h := func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path != "/api/v1/logon" {
					w.Header().Set("Content-Type", "application/json")
					fmt.Fprintf(w, `{"Id":"%s"}`, guid)
					return
				}
				logons.Add(1)
				time.Sleep(time.Second)
				if !c.right {
					w.WriteHeader(401)
					return
				}
				w.Header().Set("Content-Type", "application/json")
				fmt.Fprint(w, `{"token":"tok-en"}`)
			}
			bubble(t, h, visualcron.Config{}, func(t *testing.T, b *bridge.Bridge) {
				var wg sync.WaitGroup
				for range 20 {
					wg.Go(func() {
						if _, err := b.Get(t.Context(), schemas.Job, guid); visualcron.ClassOf(err) != c.want {
							t.Error(err)
						}
					})
				}
				// One whose caller gives up spoils the logon for nobody.
				ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
				defer cancel()
				if _, err := b.Get(ctx, schemas.Job, guid); !errors.Is(err, context.DeadlineExceeded) {
					t.Error(err)
				}
				wg.Wait()
			})
			if n := logons.Load(); n > c.logons+1 {
				t.Errorf("%d logons for 20 callers", n)
			}
		})
	}
}

func TestOneNewLogonAfter401(t *testing.T) {
	var logons, puts atomic.Int32
	h := func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/api/v1/logon" {
			w.Header().Set("Content-Type", "application/json")
			fmt.Fprintf(w, `{"token":"tok-%d"}`, logons.Add(1))
			return
		}
		b, _ := io.ReadAll(r.Body)
		if puts.Add(1); string(b) != `{"Id":"`+guid+`"}` {
			t.Errorf("the body was %q", b)
		}
		w.WriteHeader(401)
	}
	bubble(t, h, visualcron.Config{}, func(t *testing.T, b *bridge.Bridge) {
		_, err := b.Put(t.Context(), schemas.Job, guid, []byte(`{"Id":"`+guid+`"}`), "")
		if visualcron.ClassOf(err) != visualcron.Unauthorized || logons.Load() != 2 || puts.Load() != 2 {
			t.Errorf("%d logons, %d puts, %v; want 2, 2, Unauthorized", logons.Load(), puts.Load(), err)
		}
	})
}

func TestASilentFeedIsBroken(t *testing.T) {
	h := logonOr(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		for range 4 {
			fmt.Fprint(w, ": alive\n\nevent: other\ndata: x\n\nevent: change\ndata: {\"type\":\"Sprocket\",\"id\":\"a\"}\n\n")
			_ = http.NewResponseController(w).Flush()
			time.Sleep(40 * time.Second)
		}
		<-r.Context().Done()
	})
	bubble(t, h, visualcron.Config{}, func(t *testing.T, b *bridge.Bridge) {
		start := time.Now()
		var hints []visualcron.Hint
		err := b.Watch(t.Context(), func() {}, func(h visualcron.Hint) { hints = append(hints, h) })
		if visualcron.ClassOf(err) != visualcron.Timeout || time.Since(start) != 165*time.Second {
			t.Errorf("after %s: %v", time.Since(start), err)
		}
		if want := slices.Repeat([]visualcron.Hint{{ID: "a"}}, 4); !slices.Equal(hints, want) {
			t.Errorf("hints %+v", hints)
		}
	})
}

// TestAWholeStandInInVirtualTime is what the simulation builds on.
func TestAWholeStandInInVirtualTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, err := standin.Open(standin.Config{StatisticsEvery: time.Hour})
		if err != nil {
			t.Fatal(err)
		}
		pipe := standin.NewPipe()
		ctx, stop := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() {
			if err := s.Serve(ctx, pipe); err != nil {
				t.Error(err)
			}
		})
		b := open(t, visualcron.Config{Address: "http://pipe"}, bridge.WithTransport(pipe.Transport()))
		ready := make(chan struct{})
		wg.Go(func() {
			if err := b.Watch(ctx, func() { close(ready) }, func(visualcron.Hint) {}); !errors.Is(err, context.Canceled) {
				t.Error(err)
			}
		})
		<-ready
		time.Sleep(25 * time.Hour) // tokens end, connections idle away
		if _, err := b.Server(t.Context()); err != nil {
			t.Error(err)
		}
		complete, err := b.List(t.Context(), schemas.Job, func(visualcron.Row) error { return nil })
		if err != nil || complete.Count() != 2 {
			t.Error(complete, err)
		}
		stop()
		_ = b.Close()
		wg.Wait()
		_, err = b.Server(t.Context())
		if visualcron.ClassOf(err) != visualcron.Unreachable {
			t.Errorf("after the server has gone: %v", err)
		}
	})
}

// TestTheContractNamesEveryType keeps openapi.yaml with the code.
func TestTheContractNamesEveryType(t *testing.T) {
	text := string(bridge.OpenAPI)
	enum := text[strings.Index(text, "enum: [User,"):]
	enum = enum[len("enum: ["):strings.Index(enum, "]")]
	var want []string
	for _, typ := range schemas.Types() {
		want = append(want, string(typ))
	}
	if got := strings.Fields(strings.ReplaceAll(enum, ",", " ")); !slices.Equal(got, want) {
		t.Errorf("types %v, want %v", got, want)
	}
	for _, path := range []string{"/logon:", "/server:", "/objects/{type}:", "/objects/{type}/{id}:", "/changes:"} {
		if !strings.Contains(text, "\n  "+path) {
			t.Errorf("the path %s is not described", path)
		}
	}
}

func TestARowWithoutEndIsNotReadToItsEnd(t *testing.T) {
	block := []byte(strings.Repeat("a", 1<<20))
	sent := 0
	b, srv := fake(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprint(w, `[{"Id":"x","Script":"`)
		for ; sent < 1000; sent++ {
			if _, err := w.Write(block); err != nil {
				return
			}
		}
	})
	complete, err := b.List(t.Context(), schemas.Job, func(visualcron.Row) error { return nil })
	if visualcron.ClassOf(err) != visualcron.BadAnswer || complete.IsComplete() {
		t.Errorf("complete %t: %v", complete.IsComplete(), err)
	}
	srv.Close() // waits for the handler
	if sent > 200 {
		t.Errorf("%d MiB of one row were read", sent)
	}
}
