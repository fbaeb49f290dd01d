package e2e_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"filippo.io/age"

	"github.com/vcsync/vcsync/broker"
	"github.com/vcsync/vcsync/e2e"
	"github.com/vcsync/vcsync/schemas"
	"github.com/vcsync/vcsync/visualcron/standin"
)

// TestCanaries runs the whole thing with secrets in every place that has one, with debug
// logs, faults and people of every role, and looks for the secrets in everything that comes
// out of it (G6).
func TestCanaries(t *testing.T) {
	t.Parallel()
	d := newDemo(t)
	const first = `canary "first" <&> pässword`
	const passphrase = "canary passphrase of the backup"
	d.env = append(d.env, "GOTRACEBACK=all", "XDG_CONFIG_HOME="+filepath.Join(t.TempDir(), "config"))
	d.start()
	d.equal(time.Minute)
	canaries := append(standin.SeedSecrets(), standin.DefaultPassword, passphrase)
	base := "http://" + d.api
	outputs := map[string][]byte{}
	var gathered bytes.Buffer // what the API said, with the path and the role before it
	ask := func(role, auth, method, path, body string) (int, []byte) {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), method, base+path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		if body != "" {
			req.Header.Set("Content-Type", "application/json")
		}
		if auth != "" {
			req.Header.Set("Authorization", auth)
		}
		req.Header.Set("If-Match", "*")
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatalf("%s %s: %v", method, path, err)
		}
		defer resp.Body.Close()
		raw, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, raw
	}
	say := func(v any) string {
		raw, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return string(raw)
	}
	must := func(status int, want int, raw []byte) []byte {
		t.Helper()
		if status != want {
			t.Fatalf("%d, want %d: %s", status, want, raw)
		}
		return raw
	}
	var token struct{ Token string }
	into := func(raw []byte) string {
		t.Helper()
		token.Token = ""
		if err := json.Unmarshal(raw, &token); err != nil || token.Token == "" {
			t.Fatalf("no token: %v", err)
		}
		canaries = append(canaries, token.Token)
		return token.Token
	}

	// The door, with a password of each role.
	var doc struct {
		Paths map[string]map[string]struct {
			OperationID string
			Parameters  []struct{ In, Name string }
		}
	}
	status, raw := ask("", "", "GET", "/api/v1/openapi.json", "")
	if err := json.Unmarshal(must(status, 200, raw), &doc); err != nil {
		t.Fatal(err)
	}
	oneTime, err := os.ReadFile(filepath.Join(d.dir, "data", "first-admin.token"))
	if err != nil {
		t.Fatal(err)
	}
	canaries = append(canaries, strings.TrimSpace(string(oneTime)), first)
	status, raw = ask("", "", "POST", "/api/v1/first-admin", say(map[string]string{"token": strings.TrimSpace(string(oneTime)), "account": "root", "password": first}))
	must(status, 201, raw)
	signIn := func(account, password string) string {
		t.Helper()
		status, raw := ask("", "", "POST", "/api/v1/session", say(map[string]string{"account": account, "password": password}))
		return "Bearer " + into(must(status, 200, raw))
	}
	people := map[string]string{"admin": signIn("root", first)}
	for _, role := range []string{"viewer", "operator", "approver", "auditor"} {
		password := "canary " + role + ` "quoted" & <tagged> ß`
		canaries = append(canaries, password)
		status, raw = ask("", people["admin"], "POST", "/api/v1/accounts", say(map[string]any{"name": "a-" + role, "password": password, "grants": []map[string]string{{"role": role}}}))
		must(status, 201, raw)
		people[role] = signIn("a-"+role, password)
	}
	status, raw = ask("", people["admin"], "POST", "/api/v1/me/tokens", say(map[string]any{"name": "night", "days": 1}))
	api := into(must(status, 201, raw))
	status, raw = ask("", people["admin"], "POST", "/api/v1/servers/production/hint-token", "")
	into(must(status, 201, raw))
	d.env = append(d.env, "VCSYNC_TOKEN="+api)

	// Mistakes that people make with secrets, and faults of the servers.
	typed := "canary typed into the wrong field"
	canaries = append(canaries, typed)
	for _, path := range []string{"/api/v1/settings?token=" + api, "/api/v1/settings?password=" + strings.ReplaceAll(first, " ", "+"), "/" + api, "/api/v1/servers/" + api} {
		req := strings.NewReplacer(`"`, "%22", "<", "%3C", ">", "%3E").Replace(path)
		ask("", people["admin"], "GET", req, "")
	}
	ask("", "", "POST", "/api/v1/session", say(map[string]string{"account": typed, "password": typed}))
	ask("", "", "POST", "/api/v1/session", say(map[string]string{"account": "root", "password": typed}))
	ask("", "Bearer "+typed, "GET", "/api/v1/settings", "")
	ask("", people["admin"], "POST", "/api/v1/servers", say(map[string]any{"id": "x", "address": "http://sync:" + strings.ReplaceAll(typed, " ", "_") + "@127.0.0.1:1", "user": "sync", "password": typed}))
	ask("", people["admin"], "POST", "/api/v1/servers", say(map[string]any{"id": "x", "address": "http://127.0.0.1:1", "user": "sync", "password": typed, "typo": typed}))
	ask("", people["admin"], "PUT", "/api/v1/servers/test", say(map[string]any{"address": "http://127.0.0.1:1", "user": "sync", "password": typed}))
	canaries = append(canaries, strings.ReplaceAll(typed, " ", "_"))
	var connection schemas.ID
	for id := range d.objects("production", schemas.Connection) {
		connection = max(connection, id)
	}
	for _, mode := range []string{"writes-refused", "error=500,text", "error=401,json", "secrets=masked", "cuts"} {
		d.run(0, "standin", "misbehave", "test", mode)
		d.run(0, "standin", "edit", "production", "Connection/"+string(connection), "--set", "Description=canary run "+mode)
		d.run(0, "status")
		d.until(20*time.Second, "the edit arrives at standby", func() bool {
			return bytes.Contains(d.objects("standby", schemas.Connection)[connection], []byte("canary run "+mode))
		})
		d.run(0, "standin", "misbehave", "test", "--off")
	}
	d.run(0, "standin", "misbehave", "production", "error=401,text")
	d.until(30*time.Second, "the source is degraded", func() bool { return strings.Contains(d.run(0, "status"), "degraded") })
	d.run(0, "standin", "misbehave", "production", "--off")

	// What the commands say.
	d.env = append(d.env, "VCSYNC_BACKUP_PASSPHRASE="+passphrase)
	for name, args := range map[string][]string{
		"backup": {"backup", filepath.Join(d.dir, "backup.age")}, "audit": {"audit", "export", "-f", filepath.Join(d.dir, "audit.jsonl")},
		"support": {"support", filepath.Join(d.dir, "support.tar.gz")}, "export": {"export", "-f", filepath.Join(d.dir, "exported")},
		"keys": {"keys", "list"}, "accounts": {"account", "list", "--json"}, "tokens": {"token", "list", "--account", "root", "--json"}, "status": {"status"}, "parked": {"parked", "list", "--json"},
		"history": {"history", "Connection/" + string(connection), "--json"}, "explain": {"explain", "Connection/" + string(connection), "--setting", "production-to-test"},
	} {
		outputs["vcsync "+name] = []byte(d.run(0, args...))
	}

	if said := string(outputs["vcsync support"]); strings.Contains(said, "Left out") {
		t.Errorf("the support bundle is not whole: %s", said)
	}

	// Every route that reads, as everybody.
	values := map[string]string{"id": "production-to-test", "type": "Connection", "token": string(connection.Token()), "target": "test", "name": "night", "version": "1.1"}
	braces := regexp.MustCompile(`\{(\w+)\}`)
	asked := 0
	for _, path := range slices.Sorted(maps.Keys(doc.Paths)) {
		op, ok := doc.Paths[path]["get"]
		if !ok || op.OperationID == "follow-events" { // its events are those of list-events
			continue
		}
		for _, server := range []bool{false, true} {
			vs := maps.Clone(values)
			if server && strings.Contains(path, "/servers/") {
				vs["id"] = "production"
			}
			if strings.Contains(path, "/accounts/") {
				vs["id"] = "root"
			}
			to := braces.ReplaceAllStringFunc(path, func(m string) string { return vs[strings.Trim(m, "{}")] })
			for role, auth := range people {
				status, raw := ask(role, auth, "GET", to, "")
				if status >= 500 {
					t.Errorf("%s as %s: %d %s", to, role, status, raw)
				}
				fmt.Fprintf(&gathered, "%s as %s: %d\n%s\n", to, role, status, raw)
				asked++
			}
		}
	}
	for _, path := range []string{"/", "/metrics", "/readyz", "/livez", "/api/v1/openapi.yaml", "/api/v1/events?limit=1000", "/api/v1/audit?limit=1000", "/api/v1/history/Connection/" + string(connection.Token())} {
		for role, auth := range people {
			_, raw := ask(role, auth, "GET", path, "")
			fmt.Fprintf(&gathered, "%s as %s\n%s\n", path, role, raw)
		}
	}
	outputs["what the API says"] = gathered.Bytes()
	if runtime.GOOS == "linux" {
		if outputs["/proc/self/cmdline"], err = os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", d.cmd.Process.Pid)); err != nil {
			t.Fatal(err)
		}
	}

	// It dies in the middle of everything, and says where it was.
	if err := d.cmd.Process.Signal(syscall.SIGABRT); err != nil {
		t.Fatal(err)
	}
	<-d.died
	log, err := os.ReadFile(filepath.Join(d.dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	outputs["the log"] = log
	for what, has := range map[string]bool{"debug logs": bytes.Contains(log, []byte("DEBUG")), "the stacks of a crash": bytes.Contains(log, []byte("SIGABRT")) && bytes.Contains(log, []byte("goroutine "))} {
		if !has {
			t.Errorf("the log holds no %s", what)
		}
	}
	// The newest state before the crash is in the store; reading it needs it settled first.
	data := filepath.Join(d.dir, "data")
	b, err := broker.Open(t.Context(), broker.Config{Dir: data, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	stored, err := e2e.Stored(t.Context(), b)
	if cerr := b.Close(); err != nil || cerr != nil {
		t.Fatal(err, cerr)
	}
	for name, raw := range stored {
		outputs["stream "+name] = raw
	}
	// What is packed is opened, the backup with its passphrase.
	f, err := os.Open(filepath.Join(d.dir, "support.tar.gz"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	outputs["support bundle"] = unpacked(t, f)
	id, err := age.NewScryptIdentity(passphrase)
	if err != nil {
		t.Fatal(err)
	}
	sealed, err := os.Open(filepath.Join(d.dir, "backup.age"))
	if err != nil {
		t.Fatal(err)
	}
	defer sealed.Close()
	plain, err := age.Decrypt(sealed, id)
	if err != nil {
		t.Fatal(err)
	}
	content, err := io.ReadAll(plain)
	if err != nil {
		t.Fatal(err)
	}
	if zr, err := gzip.NewReader(bytes.NewReader(content)); err == nil {
		more, err := io.ReadAll(zr)
		if err != nil {
			t.Fatal(err)
		}
		content = append(content, more...)
	}
	outputs["backup, decrypted"] = content
	if outputs["audit, exported"], err = os.ReadFile(filepath.Join(d.dir, "audit.jsonl")); err != nil {
		t.Fatal(err)
	}
	if err := filepath.WalkDir(filepath.Join(d.dir, "exported"), func(path string, e os.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		raw, err := os.ReadFile(path)
		outputs["exported configuration"] = append(outputs["exported configuration"], raw...)
		return err
	}); err != nil {
		t.Fatal(err)
	}

	for _, hit := range leaks(t, canaries, outputs, filepath.Join(data, "broker")) {
		t.Error(hit)
	}
	total := 0
	for _, raw := range outputs {
		total += len(raw)
	}
	t.Logf("%d canaries in up to %d spellings each, %d answers, %d outputs of %d bytes, and the store on disk: 0 hits wanted", len(canaries), len(e2e.Spellings(first)), asked, len(outputs), total)

	// The controls: each output holds what it should, and the search finds a canary in each
	// spelling. A secret did arrive where it belongs.
	for where, word := range map[string]string{"the log": "production", "what the API says": "production-to-test", "support bundle": "production-to-test", "backup, decrypted": "production", "audit, exported": "account.add",
		"exported configuration": "production", "stream VCS_EV": "canary run"} {
		if len(leaks(t, []string{word}, map[string][]byte{where: outputs[where]}, "")) == 0 {
			t.Errorf("%s (%d bytes) lacks %q: the search is blind", where, len(outputs[where]), word)
		}
	}
	for _, s := range e2e.Spellings(first) {
		if len(leaks(t, []string{first}, map[string][]byte{"control": []byte("before" + s + "after")}, "")) == 0 {
			t.Errorf("the search does not find %q", s)
		}
	}
	if n := len(outputs["what the API says"]); n < 100_000 {
		t.Errorf("the API said %d bytes", n)
	}
}

// unpacked returns all that is in a .tar.gz.
func unpacked(t *testing.T, r io.Reader) (out []byte) {
	t.Helper()
	zr, err := gzip.NewReader(r)
	if err != nil {
		t.Fatal(err)
	}
	for tr := tar.NewReader(zr); ; {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return out
		}
		if err != nil {
			t.Fatal(err)
		}
		raw, err := io.ReadAll(tr)
		if err != nil {
			t.Fatal(err)
		}
		out = append(append(out, h.Name...), raw...)
	}
}
