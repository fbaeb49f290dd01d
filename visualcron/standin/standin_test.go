package standin_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/vcsync/vcsync/schemas"
	"github.com/vcsync/vcsync/visualcron"
	"github.com/vcsync/vcsync/visualcron/standin"
)

const childDir = "VCSYNC_TEST_STANDIN_DIR"

// TestMain lets the test binary be the process that is killed.
func TestMain(m *testing.M) {
	if dir := os.Getenv(childDir); dir != "" {
		s, err := standin.Open(standin.Config{Dir: dir})
		if err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		for n := 0; ; n++ {
			body := fmt.Sprintf(`{"Id":"job-%d","Name":"%d","Tasks":[{"Id":"t","TaskType":"Execute","Execute":{}}]}`, n%50, n)
			if _, _, err := s.Put(schemas.Job, []byte(body)); err != nil {
				fmt.Println(err)
				os.Exit(1)
			}
			fmt.Println("stored", n%50, n)
		}
	}
	os.Exit(m.Run())
}

func open(t *testing.T, cfg standin.Config) *standin.Server {
	t.Helper()
	s, err := standin.Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func put(t *testing.T, s *standin.Server, typ schemas.Type, body string) map[string]any {
	t.Helper()
	stored, _, err := s.Put(typ, []byte(body))
	if err != nil {
		t.Fatal(err)
	}
	return tree(t, stored)
}

func tree(t *testing.T, body []byte) map[string]any {
	t.Helper()
	var m map[string]any
	if err := json.Unmarshal(body, &m); err != nil {
		t.Fatal(err)
	}
	return m
}

// everything returns all that a stand-in holds.
func everything(s *standin.Server) map[string]string {
	all := map[string]string{}
	for _, typ := range schemas.Types() {
		for _, r := range s.Objects(typ) {
			all[string(typ)+"/"+string(r.ID)] = string(r.Body)
		}
	}
	return all
}

func TestWhatIsStoredOutlivesTheProcess(t *testing.T) {
	dir := t.TempDir()
	s := open(t, standin.Config{Dir: dir})
	if err := standin.Seed(s); err != nil {
		t.Fatal(err)
	}
	for _, id := range []string{".", "..", "CON", strings.Repeat("ü", 64), strings.Repeat("x", 4096), "a/b"} {
		put(t, s, schemas.Variable, fmt.Sprintf(`{"Name":%q}`, id))
	}
	if ok, err := s.Delete(schemas.Job, s.Objects(schemas.Job)[0].ID); !ok || err != nil {
		t.Fatal(ok, err)
	}
	again := open(t, standin.Config{Dir: dir})
	if again.ID() != s.ID() {
		t.Errorf("id %s, was %s", again.ID(), s.ID())
	}
	if !maps.Equal(everything(again), everything(s)) {
		t.Error("not all is as it was")
	}
}

func TestAnOlderCopyIsRestoredWhole(t *testing.T) {
	dir := t.TempDir()
	s := open(t, standin.Config{Dir: dir})
	if err := standin.Seed(s); err != nil {
		t.Fatal(err)
	}
	old, was := s.Copy(), everything(s)
	s.Fire()
	jobs := s.Objects(schemas.Job)
	put(t, s, schemas.Job, strings.Replace(string(jobs[len(jobs)-1].Body), `"Description":`, `"Described":`, 1))
	put(t, s, schemas.Variable, `{"Name":"made since"}`)
	if ok, err := s.Delete(schemas.Job, jobs[0].ID); !ok || err != nil {
		t.Fatal(ok, err)
	}
	if maps.Equal(everything(s), was) {
		t.Fatal("nothing changed since")
	}
	if err := s.Restore(old); err != nil {
		t.Fatal(err)
	}
	if !maps.Equal(everything(s), was) || !maps.Equal(everything(open(t, standin.Config{Dir: dir})), was) {
		t.Error("not all is as it was, with its statistics, in memory and on disk")
	}
}

func TestKilledAtAnyMomentNothingStoredIsLost(t *testing.T) {
	dir := t.TempDir()
	for round := range 5 {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), childDir+"="+dir)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		last := map[int]int{}
		lines := bufio.NewScanner(out)
		for n := 0; lines.Scan(); n++ {
			var job, version int
			if _, err := fmt.Sscanf(lines.Text(), "stored %d %d", &job, &version); err != nil {
				t.Fatal(lines.Text())
			}
			last[job] = version
			if n == 20+37*round {
				_ = cmd.Process.Kill() // what is printed until then is still read
			}
		}
		_ = cmd.Wait() // it was killed
		s := open(t, standin.Config{Dir: dir})
		for job, version := range last {
			body, ok := s.Get(schemas.Job, schemas.ID(fmt.Sprintf("job-%d", job)))
			if !ok {
				t.Fatalf("round %d: job %d is lost", round, job)
			}
			var got int
			if _, err := fmt.Sscan(tree(t, body)["Name"].(string), &got); err != nil || got < version {
				t.Errorf("round %d: job %d is of version %d, stored was %d (%v)", round, job, got, version, err)
			}
		}
		if left, _ := filepath.Glob(filepath.Join(dir, "objects", "*", "*.tmp")); left != nil {
			t.Errorf("left over: %v", left)
		}
	}
}

func TestAFileThatCannotBeReadIsNamed(t *testing.T) {
	for name, spoil := range map[string]func(path string) error{
		"cut":                 func(p string) error { return os.Truncate(p, 5) },
		"empty":               func(p string) error { return os.Truncate(p, 0) },
		"no object":           func(p string) error { return os.WriteFile(p, []byte(`[]`), 0o600) },
		"without id":          func(p string) error { return os.WriteFile(p, []byte(`{"Name":"x"}`), 0o600) },
		"with another's id":   func(p string) error { return os.WriteFile(p, []byte(`{"Id":"other"}`), 0o600) },
		"a name twice":        func(p string) error { return os.WriteFile(p, []byte(`{"Id":"a","Id":"a"}`), 0o600) },
		"a folder in between": func(p string) error { return errors.Join(os.Remove(p), os.Mkdir(p, 0o700)) },
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			s := open(t, standin.Config{Dir: dir})
			put(t, s, schemas.Connection, `{"Id":"a"}`)
			path := filepath.Join(dir, "objects", "Connection", "a.json")
			if err := spoil(path); err != nil {
				t.Fatal(err)
			}
			_, err := standin.Open(standin.Config{Dir: dir})
			if !errors.Is(err, standin.ErrStore) || !strings.Contains(err.Error(), path) {
				t.Errorf("%v, want one that names %s", err, path)
			}
		})
	}
}

func TestAFolderBelongsToOneServer(t *testing.T) {
	dir := t.TempDir()
	open(t, standin.Config{Dir: dir, ID: "one"})
	open(t, standin.Config{Dir: dir, ID: "ONE"})
	if _, err := standin.Open(standin.Config{Dir: dir, ID: "two"}); !errors.Is(err, standin.ErrConfig) {
		t.Error(err)
	}
}

func TestANewServerHoldsItsBuiltInsOnce(t *testing.T) {
	dir := t.TempDir()
	s, other := open(t, standin.Config{Dir: dir}), open(t, standin.Config{})
	if s.ID() == other.ID() {
		t.Error("two servers have one id")
	}
	a, b := everything(s), everything(other)
	if !maps.Equal(a, b) {
		t.Error("the built-ins of two servers differ")
	}
	var names []string
	for _, typ := range schemas.Types() {
		for _, r := range s.Objects(typ) {
			if !standin.IsBuiltin(typ, r.ID) {
				t.Errorf("%s/%s is not built in", typ, r.ID)
			}
			names = append(names, fmt.Sprint(typ, ":", tree(t, r.Body)["Name"]))
		}
	}
	for _, want := range []string{"Job:Backup settings", "Job:Delete old log files", "User:admin", "UserGroup:Administrators", "UserGroup:Viewers",
		"ExitCode:Windows (default)"} {
		if !slices.Contains(names, want) {
			t.Errorf("%s is not there", want)
		}
	}
	if _, err := s.Delete(schemas.Job, s.Objects(schemas.Job)[0].ID); err != nil {
		t.Fatal(err)
	}
	if n := len(open(t, standin.Config{Dir: dir}).Objects(schemas.Job)); n != 1 {
		t.Errorf("a deleted built-in came back: %d jobs", n)
	}
}

func TestEveryTaskCarriesItsSlots(t *testing.T) {
	s := open(t, standin.Config{})
	task := `{"Id":"t","TaskType":"SQL","SQL":{"ConnectionId":"c"},"Own":1}`
	tasks := map[string]map[string]any{
		"Job":            put(t, s, schemas.Job, `{"Id":"j","Tasks":[`+task+`,null,`+task+`]}`)["Tasks"].([]any)[2].(map[string]any),
		"Notification":   put(t, s, schemas.Notification, `{"Id":"n","Task":`+task+`}`)["Task"].(map[string]any),
		"TaskRepository": put(t, s, schemas.TaskRepository, `{"Task":`+task+`}`)["Task"].(map[string]any),
	}
	for in, got := range tasks {
		size, nulls := 0, 0
		for name, v := range got {
			if v == nil {
				nulls++
				size += len(name) + len(`"":null,`)
			}
		}
		// One of the 373 slots is filled.
		if nulls != 372 || size != 8742-len(`"SQL":null,`) {
			t.Errorf("%s: %d empty slots of %d bytes", in, nulls, size)
		}
		if !reflect.DeepEqual(got["SQL"], map[string]any{"ConnectionId": "c"}) || got["Own"] != 1.0 {
			t.Errorf("%s: what was sent has changed", in)
		}
	}
	first, _ := s.Get(schemas.Job, "j")
	if again := put(t, s, schemas.Job, string(first)); len(again["Tasks"].([]any)[0].(map[string]any)) != len(tasks["Job"]) {
		t.Error("slots were added twice")
	}
}

func TestAllElseIsStoredAsSent(t *testing.T) {
	s := open(t, standin.Config{})
	body := `{"Zebra":1.50,"Id":"5B0C2F3E-6A1D-4C58-9E0A-1F2D3C4B5A60","Big":12345678901234567890,"Esc":"\u00fc\n\"","Nested":{"b":[1,{"a":null}],"a":{}},"Empty":"","DateModified":"x"}`
	if _, _, err := s.Put(schemas.Connection, []byte(" \n"+strings.ReplaceAll(body, ":", " : "))); err != nil {
		t.Fatal(err)
	}
	got, ok := s.Get(schemas.Connection, "5b0c2f3e-6a1d-4c58-9e0a-1f2d3c4b5a60")
	if !ok {
		t.Fatal("a GUID in capitals is not found in small letters")
	}
	if want := strings.Split(body, `"DateModified"`)[0]; !strings.HasPrefix(string(got), want) {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

func TestTheServerDatesJobs(t *testing.T) {
	now := time.Date(2026, 3, 4, 2, 0, 0, 123456700, time.FixedZone("", 3600))
	s := open(t, standin.Config{Now: func() time.Time { return now }})
	stats := put(t, s, schemas.Job, `{"Id":"J1","Stats":{"JobId":"wrong","Active":true,"DateCreated":"1999-01-01T00:00:00Z"}}`)["Stats"]
	want := map[string]any{"JobId": "J1", "Active": true, "DateCreated": "2026-03-04T02:00:00.1234567+01:00", "DateModified": "2026-03-04T02:00:00.1234567+01:00"}
	if !reflect.DeepEqual(stats, want) {
		t.Errorf("created: %v", stats)
	}
	now = now.Add(time.Hour)
	stats = put(t, s, schemas.Job, `{"Id":"J1","Stats":null}`)["Stats"]
	want = map[string]any{"JobId": "J1", "DateCreated": "2026-03-04T02:00:00.1234567+01:00", "DateModified": "2026-03-04T03:00:00.1234567+01:00"}
	if !reflect.DeepEqual(stats, want) {
		t.Errorf("replaced: %v", stats)
	}
}

func TestSeed(t *testing.T) {
	s, other := open(t, standin.Config{}), open(t, standin.Config{Dir: t.TempDir()})
	for _, x := range []*standin.Server{s, other} {
		if err := standin.Seed(x); err != nil {
			t.Fatal(err)
		}
	}
	if !errors.Is(standin.Seed(s), standin.ErrNotEmpty) {
		t.Error("seeded twice")
	}
	if !slices.Equal(slices.Sorted(maps.Keys(everything(s))), slices.Sorted(maps.Keys(everything(other)))) {
		t.Error("two seeds differ")
	}
	for _, typ := range schemas.Types() {
		if len(s.Objects(typ)) == 0 {
			t.Errorf("no %s", typ)
		}
	}
}

// volatile are the fields that VisualCron moves by itself.
var volatile = []string{"Result", "UniqueRunId", "NoExecutes", "ExitCode", "ExitCodeResult", "DateLastExecution", "DateLastExited", "DateNextExecution",
	"ExecutionTime", "CPUTime", "TasksCPUTime", "Status"}

func strip(v any) any {
	switch v := v.(type) {
	case map[string]any:
		for name := range v {
			if slices.Contains(volatile, name) {
				delete(v, name)
				continue
			}
			strip(v[name])
		}
	case []any:
		for _, x := range v {
			strip(x)
		}
	}
	return v
}

func TestStatisticsMoveByThemselvesAndTellNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := open(t, standin.Config{StatisticsEvery: time.Minute, Seed: 7})
		if err := standin.Seed(s); err != nil {
			t.Fatal(err)
		}
		before := everything(s)
		ctx, stop := context.WithCancel(t.Context())
		pipe := standin.NewPipe()
		var wg sync.WaitGroup
		wg.Go(func() { s.Run(ctx) })
		srv := &http.Server{Handler: s.Handler()}
		wg.Go(func() { _ = srv.Serve(pipe) })
		feed, end := changes(t, &http.Client{Transport: pipe.Transport()}, "http://pipe")
		time.Sleep(10*time.Minute + time.Second)
		put(t, s, schemas.Variable, `{"Name":"a"}`)
		if line := <-feed; line != `{"type":"Variable","id":"a","kind":"added"}` {
			t.Errorf("the first hint is %s", line)
		}
		moved := 0
		for key, body := range everything(s) {
			was, ok := before[key]
			if !ok || was == body {
				continue
			}
			moved++
			if !reflect.DeepEqual(strip(tree(t, []byte(was))), strip(tree(t, []byte(body)))) {
				t.Errorf("%s: more than statistics changed", key)
			}
		}
		if moved < 20 || moved > 110 {
			t.Errorf("%d jobs moved in 10 minutes", moved)
		}
		if inactive := tree(t, []byte(put2(t, s))); inactive["UniqueRunId"] != nil {
			t.Error("an inactive job has run")
		}
		end()
		stop()
		_ = srv.Close()
		wg.Wait()
	})
}

// put2 stores the one inactive job of a server, lets all jobs run, and returns it.
func put2(t *testing.T, s *standin.Server) string {
	put(t, s, schemas.Job, `{"Id":"idle","Stats":{"Active":false}}`)
	s.MoveStatistics(1000)
	b, _ := s.Get(schemas.Job, "idle")
	return string(b)
}

func logon(t *testing.T, c *http.Client, base string) string {
	t.Helper()
	res, err := c.Post(base+"/api/v1/logon", "application/json", strings.NewReader(`{"user":"admin","password":"standin-demo"}`))
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	var out struct{ Token, ExpiresAt string }
	if err := json.NewDecoder(res.Body).Decode(&out); err != nil || out.Token == "" {
		t.Fatalf("%d %v", res.StatusCode, err)
	}
	if _, err := time.Parse(time.RFC3339, out.ExpiresAt); err != nil {
		t.Error(err)
	}
	return out.Token
}

// changes returns the data lines of the feed, once it stands.
func changes(t *testing.T, c *http.Client, base string) (<-chan string, func()) {
	t.Helper()
	req, err := http.NewRequest(http.MethodGet, base+"/api/v1/changes", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+logon(t, c, base))
	res, err := c.Do(req)
	if err != nil || res.StatusCode != 200 {
		t.Fatal(res, err)
	}
	out := make(chan string)
	stop := make(chan struct{})
	go func() {
		defer close(out)
		lines := bufio.NewScanner(res.Body)
		for lines.Scan() {
			if data, ok := strings.CutPrefix(lines.Text(), "data: "); ok {
				select {
				case out <- data:
				case <-stop:
					return
				}
			}
		}
	}()
	return out, func() {
		close(stop)
		_ = res.Body.Close()
		c.CloseIdleConnections()
	}
}

func TestHTTP(t *testing.T) {
	s := open(t, standin.Config{})
	srv := httptest.NewServer(s.Handler())
	defer srv.Close()
	token := logon(t, srv.Client(), srv.URL)
	const obj = "/api/v1/objects/Connection/"
	for _, c := range []struct {
		name, method, path, auth, media, body string
		want                                  int
	}{
		{"no token", "GET", "/api/v1/server", "", "", "", 401},
		{"a wrong token", "GET", "/api/v1/server", "Bearer x", "", "", 401},
		{"another scheme", "GET", "/api/v1/server", "Basic " + token, "", "", 401},
		{"a token", "GET", "/api/v1/server", "Bearer " + token, "", "", 200},
		{"the scheme in small letters", "GET", "/api/v1/server", "bearer " + token, "", "", 200},
		{"a wrong password", "POST", "/api/v1/logon", "", "application/json", `{"user":"admin","password":"x"}`, 401},
		{"a wrong user", "POST", "/api/v1/logon", "", "application/json", `{"user":"Admin","password":"standin-demo"}`, 401},
		{"no JSON", "POST", "/api/v1/logon", "", "application/json", `user=admin`, 400},
		{"logon by GET", "GET", "/api/v1/logon", "", "", "", 405},
		{"outside of the API", "GET", "/", "Bearer " + token, "", "", 404},
		{"unknown resource", "GET", "/api/v1/jobs", "Bearer " + token, "", "", 404},
		{"a type in another case", "GET", "/api/v1/objects/job", "Bearer " + token, "", "", 404},
		{"a type in the plural", "GET", "/api/v1/objects/Jobs", "Bearer " + token, "", "", 404},
		{"an empty list", "GET", "/api/v1/objects/Certificate", "Bearer " + token, "", "", 200},
		{"no id", "DELETE", obj, "Bearer " + token, "", "", 400},
		{"the whole type", "DELETE", "/api/v1/objects/Connection", "Bearer " + token, "", "", 405},
		{"a raw slash", "GET", obj + "a/b", "Bearer " + token, "", "", 404},
		{"no such object", "GET", obj + "a", "Bearer " + token, "", "", 404},
		{"created", "PUT", obj + "a", "Bearer " + token, "application/json", `{"Id":"a"}`, 201},
		{"replaced", "PUT", obj + "a", "Bearer " + token, "application/json; charset=utf-8", `{"Id":"a"}`, 200},
		{"another id", "PUT", obj + "a", "Bearer " + token, "application/json", `{"Id":"b"}`, 409},
		{"no id in the body", "PUT", obj + "a", "Bearer " + token, "application/json", `{}`, 400},
		{"an array", "PUT", obj + "a", "Bearer " + token, "application/json", `[]`, 400},
		{"two objects", "PUT", obj + "a", "Bearer " + token, "application/json", `{"Id":"a"}{}`, 400},
		{"a name twice", "PUT", obj + "a", "Bearer " + token, "application/json", `{"Id":"a","x":1,"x":2}`, 400},
		{"text", "PUT", obj + "a", "Bearer " + token, "text/plain", `{"Id":"a"}`, 415},
		{"a method that is not offered", "PATCH", obj + "a", "Bearer " + token, "", "", 405},
		{"deleted", "DELETE", obj + "a", "Bearer " + token, "", "", 204},
		{"deleted again", "DELETE", obj + "a", "Bearer " + token, "", "", 404},
		{"a path of dots", "PUT", "/api/v1/objects/Variable/%2E%2E", "Bearer " + token, "application/json", `{"Name":".."}`, 201},
	} {
		t.Run(c.name, func(t *testing.T) {
			req, err := http.NewRequest(c.method, srv.URL+c.path, strings.NewReader(c.body))
			if err != nil {
				t.Fatal(err)
			}
			if c.auth != "" {
				req.Header.Set("Authorization", c.auth)
			}
			req.Header.Set("Content-Type", c.media)
			res, err := srv.Client().Do(req)
			if err != nil {
				t.Fatal(err)
			}
			defer res.Body.Close()
			body, err := io.ReadAll(res.Body)
			if err != nil || res.StatusCode != c.want {
				t.Fatalf("status %d, want %d: %s %v", res.StatusCode, c.want, body, err)
			}
			if res.Header.Get("VisualCron-Server-Id") != s.ID() {
				t.Error("the server does not say which it is")
			}
			if media := res.Header.Get("Content-Type"); c.want >= 400 {
				var p struct {
					Title  string
					Status int
				}
				if err := json.Unmarshal(body, &p); err != nil || media != "application/problem+json" || p.Title == "" || p.Status != c.want {
					t.Errorf("no problem: %s %s", media, body)
				}
			}
		})
	}
	s.Close()
	if res, err := srv.Client().Get(srv.URL + "/api/v1/server"); err != nil || res.StatusCode != 503 {
		t.Errorf("after Close: %v %v", res, err)
	}
}

func TestWritesOfOneObjectDoNotOverlapOnDisk(t *testing.T) {
	var mu sync.Mutex
	starts, ends := 0, map[int]int{}
	s := open(t, standin.Config{Dir: t.TempDir(), Observe: func(w standin.Write) func(standin.Result) {
		mu.Lock()
		starts++
		mu.Unlock()
		if w.Op != "put" || w.Type != schemas.Variable || w.ID != "a" || !bytes.HasPrefix(w.Body, []byte(`{"Name":"a"`)) {
			t.Errorf("observed %+v", w)
		}
		return func(r standin.Result) {
			mu.Lock()
			defer mu.Unlock()
			ends[r.Status]++
		}
	}})
	srv := httptest.NewServer(s.Handler())
	defer srv.Close()
	token := logon(t, srv.Client(), srv.URL)
	var wg sync.WaitGroup
	for n := range 20 {
		wg.Go(func() {
			req, err := http.NewRequest(http.MethodPut, srv.URL+"/api/v1/objects/Variable/a", strings.NewReader(fmt.Sprintf(`{"Name":"a","N":%d}`, n)))
			if err != nil {
				t.Error(err)
				return
			}
			req.Header.Set("Authorization", "Bearer "+token)
			req.Header.Set("Content-Type", "application/json")
			res, err := srv.Client().Do(req)
			if err != nil {
				t.Error(err)
				return
			}
			_ = res.Body.Close()
		})
	}
	wg.Wait()
	if starts != 20 || ends[201] != 1 || ends[200] != 19 {
		t.Errorf("%d starts, ends %v; want 20, one of them created", starts, ends)
	}
}

func TestATakenPortIsNamed(t *testing.T) {
	l, err := standin.Listen(t.Context(), "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, err = standin.Listen(t.Context(), l.Addr().String())
	if !errors.Is(err, standin.ErrListen) || !strings.Contains(err.Error(), l.Addr().String()) || !strings.Contains(err.Error(), "taken") {
		t.Error(err)
	}
	if _, err := standin.Listen(t.Context(), "nonsense"); !errors.Is(err, standin.ErrListen) {
		t.Error(err)
	}
}

func TestServeEndsWithItsContextAndItsFeeds(t *testing.T) {
	s := open(t, standin.Config{})
	l, err := standin.Listen(t.Context(), "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(ctx, l) }()
	feed, end := changes(t, &http.Client{Transport: &http.Transport{}}, "http://"+l.Addr().String())
	defer end()
	stop()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if line, ok := <-feed; ok {
		t.Errorf("the feed goes on: %s", line)
	}
}

func TestBodiesAreCheckedWithoutHTTPToo(t *testing.T) {
	s := open(t, standin.Config{})
	for _, body := range []string{``, `null`, `[]`, `{}`, `{"Id":""}`, `{"Id":"a"} x`, `{"Id":"a","b":1,"b":2}`, "{\"Id\":\"a\xff\"}"} {
		if _, _, err := s.Put(schemas.Job, []byte(body)); !errors.Is(err, standin.ErrBody) {
			t.Errorf("%q: %v", body, err)
		}
	}
	if id, err := visualcron.BodyID(schemas.Job, s.Objects(schemas.Job)[0].Body); err != nil || id == "" {
		t.Error(id, err)
	}
}
