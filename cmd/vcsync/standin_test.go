package main

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/vcsync/vcsync/schemas"
	"github.com/vcsync/vcsync/visualcron/standin"
)

func TestSetChangesWhatItNamesAndNothingElse(t *testing.T) {
	const body = `{"Id":"x","Name":"5","Port":1.50,"Big":12345678901234567890,"None":null,"Stats":{"Active":false},"Tasks":[{"Name":"a"},{"Name":"b"}]}`
	for _, c := range []struct {
		name string
		sets []string
		want string // "" for an error
	}{
		{"text stays text", []string{"Name=6"}, strings.Replace(body, `"5"`, `"6"`, 1)},
		{"a number", []string{"Port=7"}, strings.Replace(body, `1.50`, `7`, 1)},
		{"text for a number", []string{"Port=seven"}, strings.Replace(body, `1.50`, `"seven"`, 1)},
		{"a member of a member", []string{"Stats.Active=true"}, strings.Replace(body, `false`, `true`, 1)},
		{"an element", []string{"Tasks[1].Name=c"}, strings.Replace(body, `"b"`, `"c"`, 1)},
		{"a new element", []string{"Tasks[2].Name=c"}, strings.Replace(body, `"b"}]`, `"b"},{"Name":"c"}]`, 1)},
		{"a new member", []string{"New=x=y"}, strings.TrimSuffix(body, "}") + `,"New":"x=y"}`},
		{"a new tree", []string{"A.B[0].C=1"}, strings.TrimSuffix(body, "}") + `,"A":{"B":[{"C":1}]}}`},
		{"JSON", []string{`None={"a":[1]}`}, strings.Replace(body, `"None":null`, `"None":{"a":[1]}`, 1)},
		{"below null", []string{"None.a=1"}, strings.Replace(body, `"None":null`, `"None":{"a":1}`, 1)},
		{"empty text", []string{"Name="}, strings.Replace(body, `"5"`, `""`, 1)},
		{"one after the other", []string{"Name=6", "Name=7"}, strings.Replace(body, `"5"`, `"7"`, 1)},
		{"an element too far", []string{"Tasks[3].Name=c"}, ""},
		{"a member of text", []string{"Name.x=c"}, ""},
		{"an element of an object", []string{"Stats[0]=c"}, ""},
		{"no value", []string{"Name"}, ""},
		{"no path", []string{"=x"}, ""},
		{"an empty name", []string{"A..B=x"}, ""},
		{"an open index", []string{"Tasks[0.Name=x"}, ""},
		{"a negative index", []string{"Tasks[-1]=x"}, ""},
		{"invalid UTF-8", []string{"Name=\xff"}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := applySets(jsontext.Value(body), c.sets)
			if c.want == "" {
				if err == nil || exitCode(err, true, &bytes.Buffer{}) != exitUsage {
					t.Errorf("%s %v, want an error of usage", got, err)
				}
				return
			}
			if err != nil || string(got) != c.want {
				t.Errorf("got  %s %v\nwant %s", got, err, c.want)
			}
		})
	}
}

func TestWithoutNulls(t *testing.T) {
	got, err := withoutNulls(jsontext.Value(`{"a":null,"b":[null,{"c":null,"d":1.0}],"e":{"f":null}}`))
	if want := `{"b":[null,{"d":1.0}],"e":{}}`; err != nil || string(got) != want {
		t.Errorf("got %s %v, want %s", got, err, want)
	}
}

// TestStandinCommands is a session at the keyboard, each line with its exit code.
func TestStandinCommands(t *testing.T) {
	s, err := standin.Open(standin.Config{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewServer(s.Handler())
	defer srv.Close()
	addr := srv.Listener.Addr().String()
	t.Setenv("VCSYNC_STANDIN_PRODUCTION_ADDR", addr)
	t.Setenv("VCSYNC_STANDIN_TEST_ADDR", "127.0.0.1:1")
	file := filepath.Join(t.TempDir(), "job.json")
	if err := os.WriteFile(file, []byte("\xef\xbb\xbf{\"Name\":\"From a file\",\"Own\":1}"), 0o600); err != nil {
		t.Fatal(err)
	}
	const job = "Job/0d9c2f3e-0000-4c58-9e0a-1f2d3c4b5a60"
	for _, c := range []struct {
		line  string
		code  int
		wants []string // on either output
	}{
		{"standin list production", 0, []string{"ID", "NAME", "GROUP", "Backup settings", "Default group"}},
		{"standin list " + addr + " User", 0, []string{"admin"}},
		{"standin list http://" + addr + " --json", 0, []string{`"name": "Backup settings"`}},
		{"standin put production " + job + " --set Name=Mine", 0, []string{"created " + job}},
		{"standin get production " + job, 0, []string{`"Name": "Mine"`, `"Active": true`}},
		{"standin put production " + job, 1, []string{"there already"}},
		{"standin put production " + job + " -f " + file + " --set Description=d --set Tasks[0].Name=t", 0, []string{"replaced"}},
		{"standin get production " + job, 0, []string{"From a file", `"Own": 1`, `"Description": "d"`}},
		{"standin get production " + job + " --raw", 0, []string{`"Execute": null`}},
		{"standin edit production " + job + " --set Description=hello", 0, []string{"edited"}},
		{"standin get production " + job, 0, []string{`"hello"`}},
		{"standin edit production " + job, 2, []string{"--set"}},
		{"standin edit production Job/none --set a=b", 1, []string{"not found"}},
		{"standin put production Variable/a/b --set ValueObject=5", 0, []string{"created Variable/a/b"}},
		{"standin get production Variable/a/b", 0, []string{`"ValueObject": "5"`}},
		{"standin put production Variable/c -f " + file, 1, []string{"another object"}},
		{"standin put production TaskRepository/r", 0, []string{"created"}},
		{"standin put production Notification/n", 0, []string{"created"}},
		{"standin delete production " + job, 0, []string{"deleted"}},
		{"standin delete production " + job, 1, []string{"not found"}},
		{"standin seed production", 1, []string{"not empty"}},
		{"standin delete production Variable/a/b", 0, nil},
		{"standin delete production TaskRepository/r", 0, nil},
		{"standin delete production Notification/n", 0, nil},
		{"standin seed production", 0, []string{"200 jobs"}},
		{"standin seed production", 1, []string{"not empty"}},
		{"standin seed", 2, []string{"--dir"}},
		{"standin seed a b", 2, nil},
		{"standin seed --dir " + t.TempDir(), 0, []string{"200 jobs"}},
		{"standin list test", 3, []string{"refused", "check that the server runs"}},
		{"standin list nowhere", 2, []string{"production, test, standby"}},
		{"standin list ftp://x", 2, []string{"address"}},
		{"standin list production Jobs", 2, []string{"did you mean Job?"}},
		{"standin list", 2, nil},
		{"standin get production Job", 2, []string{"TYPE/ID"}},
		{"standin get production", 2, nil},
		{"standin put production " + job + " -f /nonexistent", 2, []string{"/nonexistent"}},
		{"standin", 2, []string{"--dir"}},
		{"standin --dir " + t.TempDir() + " --addr " + addr, 3, []string{addr, "taken"}},
		{"standin --dir " + t.TempDir() + " --password-file /nonexistent", 2, nil},
	} {
		var out bytes.Buffer
		code := run(t.Context(), strings.Fields(c.line), strings.NewReader(""), &out, &out)
		if code != c.code {
			t.Errorf("vcsync %s: exit code %d, want %d: %.400s", c.line, code, c.code, &out)
		}
		for _, want := range c.wants {
			if !strings.Contains(out.String(), want) {
				t.Errorf("vcsync %s: %q is not in %.600s", c.line, want, &out)
			}
		}
	}
	if n := len(s.Objects(schemas.Job)); n != standin.SeedJobs+2 {
		t.Errorf("%d jobs", n)
	}
	t.Setenv("VCSYNC_STANDIN_PASSWORD", "wr0ng-one")
	var out bytes.Buffer
	if code := run(t.Context(), []string{"standin", "list", "production"}, nil, &out, &out); code != exitUsage || strings.Contains(out.String(), "wr0ng") {
		t.Errorf("a wrong password: exit code %d, %s", code, &out)
	}
}

// TestStandinCommandsChangeStandInsOnly: they are no way around vcsync.
func TestStandinCommandsChangeStandInsOnly(t *testing.T) {
	srv := httptest.NewServer(jsonAnswers{"/api/v1/logon": `{"token":"t"}`, "/api/v1/server": `{"id":"x","version":"13.2.2"}`})
	defer srv.Close()
	var out bytes.Buffer
	if code := run(t.Context(), []string{"standin", "put", srv.URL, "Job/x"}, nil, &out, &out); code != exitDifferent || !strings.Contains(out.String(), "no stand-in") {
		t.Errorf("exit code %d, %s", code, &out)
	}
}

func TestStandinRunsUntilItIsInterrupted(t *testing.T) {
	l, err := standin.Listen(t.Context(), "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	ctx, interrupt := context.WithCancel(t.Context())
	said := make(lines, 10)
	ended := make(chan int, 1)
	dir := t.TempDir()
	go func() {
		ended <- run(ctx, []string{"standin", "--name", "one", "--addr", addr, "--dir", dir}, nil, said, said)
	}()
	if hello := <-said; !strings.Contains(hello, addr) || !strings.Contains(hello, "not VisualCron") {
		t.Error(hello)
	}
	var out bytes.Buffer
	if code := run(t.Context(), []string{"standin", "seed", addr}, nil, &out, &out); code != 0 {
		t.Error(code, &out)
	}
	start := time.Now()
	interrupt()
	if code := <-ended; code != 0 || time.Since(start) > 5*time.Second {
		t.Errorf("exit code %d after %s", code, time.Since(start))
	}
}

// lines is a writer whose reader waits for each write.
type lines chan string

func (l lines) Write(p []byte) (int, error) {
	l <- string(p)
	return len(p), nil
}

// jsonAnswers is a server that has one answer for each path.
type jsonAnswers map[string]string

func (a jsonAnswers) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	fmt.Fprint(w, a[r.URL.Path])
}
