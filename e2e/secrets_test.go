package e2e_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/vcsync/vcsync/broker"
	"github.com/vcsync/vcsync/control"
	"github.com/vcsync/vcsync/e2e"
	"github.com/vcsync/vcsync/schemas"
	"github.com/vcsync/vcsync/visualcron"
	"github.com/vcsync/vcsync/visualcron/standin"
)

// secretModes are the ways in which a server may treat its secrets. A stand-in that
// does not say which one gives null for them.
var secretModes = map[schemas.Slug]visualcron.SecretMode{"equal": visualcron.SecretsEqual, "opaque": visualcron.SecretsOpaque, "masked": visualcron.SecretsMasked,
	"null": visualcron.SecretsNull, "unsaid": ""}

// treat switches how a stand-in treats the secrets of all types.
func treat(t testing.TB, h *e2e.Host, mode visualcron.SecretMode) {
	t.Helper()
	h.SetFaults(nil)
	h.Server.Behave("secrets", "fresh-iv")
	arg := mode
	if mode == "" {
		arg = visualcron.SecretsNull
		h.SetFaults(silentOfSecrets)
	}
	on := []standin.Misbehaviour{{Mode: "secrets", Arg: string(arg)}}
	if mode == visualcron.SecretsOpaque {
		on = append(on, standin.Misbehaviour{Mode: "fresh-iv"})
	}
	if err := h.Server.Misbehave(on...); err != nil {
		t.Fatal(err)
	}
}

// silentOfSecrets makes a server say nothing of how it treats its secrets.
func silentOfSecrets(next http.Handler) http.Handler {
	return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/api/v1/server" {
			next.ServeHTTP(withoutMode{rw}, r)
			return
		}
		rec := httptest.NewRecorder()
		next.ServeHTTP(rec, r)
		maps.Copy(rw.Header(), rec.Header())
		rw.Header().Del("Content-Length")
		rw.WriteHeader(rec.Code)
		_, _ = rw.Write(bytes.ReplaceAll(rec.Body.Bytes(), []byte(`"secrets":"null"`), []byte(`"secrets":""`)))
	})
}

// withoutMode leaves out of an answer how secrets are given.
type withoutMode struct{ http.ResponseWriter }

func (w withoutMode) WriteHeader(status int) {
	w.Header().Del("VisualCron-Secrets")
	w.ResponseWriter.WriteHeader(status)
}

func (w withoutMode) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// someOfTheSeed stores n objects of every type and returns them, with more where it
// takes them to have every kind of secret four times.
func someOfTheSeed(t testing.TB, s *standin.Server, n int) []seeded {
	t.Helper()
	var out []seeded
	of, kinds := map[schemas.Type]int{}, map[string]int{}
	for _, o := range standin.SeedObjects() {
		if len(o.Body) > 100_000 {
			continue // large scripts are no secrets
		}
		if _, _, err := s.Put(o.Type, o.Body); err != nil {
			t.Fatal(err)
		}
		x := seeded{o.Type, o.ID, o.Body, secretsOf(s, o.Type, o.ID)}
		wanted := of[o.Type] < n
		for kind := range x.kinds() {
			wanted = wanted || kinds[kind] < 4
		}
		if !wanted {
			if _, err := s.Delete(o.Type, o.ID); err != nil {
				t.Fatal(err)
			}
			continue
		}
		of[o.Type]++
		for kind := range x.kinds() {
			kinds[kind]++
		}
		out = append(out, x)
	}
	return out
}

// seeded is an object of the seed with its true secrets by JSON pointer.
type seeded struct {
	t       schemas.Type
	id      schemas.ID
	body    []byte
	secrets map[string]string
}

// secretsOf returns the true secrets of an object that are not empty.
func secretsOf(s *standin.Server, x schemas.Type, id schemas.ID) map[string]string {
	out := s.Secrets(x, id)
	maps.DeleteFunc(out, func(_, v string) bool { return v == "null" || v == `""` || v == "true" || v == "false" })
	return out
}

// kinds returns the kinds of its secrets: their types and places, whatever the item
// of a list.
func (o seeded) kinds() map[string]bool {
	out := map[string]bool{}
	for place := range o.secrets {
		steps := strings.Split(place, "/")
		for i, s := range steps {
			if s != "" && strings.Trim(s, "0123456789") == "" {
				steps[i] = "*"
			}
		}
		out[string(o.t)+strings.Join(steps, "/")] = true
	}
	return out
}

// own returns the body with secrets of the named server's own.
func (o seeded) own(server schemas.Slug) []byte {
	body := bytes.Clone(o.body)
	for _, v := range o.secrets {
		body = bytes.ReplaceAll(body, []byte(v), []byte(ownSecret(server, v)))
	}
	return body
}

func ownSecret(server schemas.Slug, v string) string {
	return `"own of ` + string(server) + " " + v[1:]
}

// refreshed tells of what the server itself refreshes: it is no configuration.
func refreshed(place string) bool { return strings.HasPrefix(place, "/OAuth/") }

// Every mode at the source with every mode at the target, for every type: what a
// target truly holds is what it should.
func TestSecretsOfEveryModeAndType(t *testing.T) {
	t.Parallel()
	for source, mode := range secretModes {
		t.Run("from "+string(source), func(t *testing.T) {
			t.Parallel()
			logs := &syncBuffer{}
			synctest.Test(t, func(t *testing.T) {
				w := e2e.NewWorld(t)
				defer w.Close()
				w.Poll = 2 * time.Minute // stand-ins that hide secrets are slow to list
				w.Log = slog.New(slog.NewTextHandler(logs, &slog.HandlerOptions{Level: slog.LevelDebug}))
				prod := w.AddHost("production")
				objects := someOfTheSeed(t, prod.Server, 4)
				treat(t, prod, mode)
				there := func(i int) bool { return i%2 == 0 || objects[i].t == schemas.ServerSettings }
				kinds := map[bool]map[string]bool{true: {}, false: {}}
				for i, o := range objects {
					maps.Copy(kinds[there(i)], o.kinds())
				}
				for kind := range kinds[true] {
					if !kinds[false][kind] && !strings.HasPrefix(kind, string(schemas.ServerSettings)) && !strings.HasPrefix(kind, string(schemas.TaskRepository)) { // of which there is one
						t.Errorf("no new object has a secret at %s", kind)
					}
				}
				for kind := range kinds[false] {
					if strings.HasPrefix(kind, "Connection/OAuth/") { // of which there is one too
						delete(kinds[false], kind)
					}
				}
				if len(kinds[true]) < len(kinds[false]) || len(kinds[true]) < 24 {
					t.Errorf("no target has a secret of its own everywhere: %v", kinds)
				}
				targets := slices.Sorted(maps.Keys(secretModes))
				for _, name := range targets {
					h := w.AddHost(name)
					for i, o := range objects {
						if !there(i) {
							continue
						}
						body := o.own(name)
						if i%4 == 0 {
							body = edited(t, o.t, body)
						}
						if _, _, err := h.Server.Put(o.t, body); err != nil {
							t.Fatal(err)
						}
					}
					treat(t, h, secretModes[name])
					s := e2e.AllObjects("production-to-"+name, "production", name, schemas.Follow)
					s.Rules[schemas.ServerSettings] = schemas.Rule{Sync: schemas.SyncAll, Rights: schemas.Rights{Updated: true}}
					s.VariableValues = true
					w.Setting(s)
				}
				w.StartProducer()
				w.StartConsumer()
				check := func(when, mark string) {
					t.Helper()
					flagged := map[string]bool{}
					for _, p := range listParked(t, w) {
						if p.Class != "secret" {
							t.Errorf("%s, parked at %s: %s %s: %s: %s", when, p.Target, p.Type, p.Name, p.Class, p.Reason)
						}
						flagged[fmt.Sprint(p.Target, p.Type, p.ID)] = strings.Contains(p.Reason, "written without")
					}
					for _, name := range targets {
						both := mode == visualcron.SecretsEqual && secretModes[name] == visualcron.SecretsEqual
						h := w.Hosts[name]
						for i, o := range objects {
							body, ok := h.Server.Get(o.t, o.id)
							if !ok || !bytes.Contains(body, []byte(mark)) {
								t.Errorf("%s, %s has not got %s %s: %.200s", when, name, o.t, o.id, body)
								continue
							}
							want := map[string]string{}
							lacks := false
							for place, v := range o.secrets {
								switch {
								case both && !refreshed(place):
									want[place] = v
								case there(i):
									want[place] = ownSecret(name, v)
								default: // a token of the server's own too: somebody has to sign in
									lacks = true
								}
							}
							if have := secretsOf(h.Server, o.t, o.id); !maps.Equal(have, want) {
								t.Errorf("%s, %s %s %s holds %.300v, want %.300v", when, name, o.t, o.id, have, want)
							}
							isFlagged := flagged[fmt.Sprint(name, o.t, o.id)]
							if lacks && !isFlagged {
								t.Errorf("%s, %s %s %s lacks its secrets and is not flagged", when, name, o.t, o.id)
							}
							// Where all is null at the source nobody knows who has none.
							if !lacks && isFlagged && mode != visualcron.SecretsNull && mode != "" {
								t.Errorf("%s, %s %s %s lacks nothing and is flagged", when, name, o.t, o.id)
							}
							if lacks && isActive(body) {
								t.Errorf("%s, %s %s %s lacks its secrets and is active", when, name, o.t, o.id)
							}
						}
					}
				}
				time.Sleep(10 * time.Minute)
				check("at rest", "")
				for _, o := range objects {
					now, _ := prod.Server.Get(o.t, o.id)
					if _, _, err := prod.Server.Put(o.t, edited(t, o.t, now)); err != nil {
						t.Fatal(err)
					}
				}
				time.Sleep(10 * time.Minute)
				check("after edits", "edited ")
				for _, h := range w.Hosts {
					h.Reset()
				}
				time.Sleep(time.Hour)
				for name, h := range w.Hosts {
					if puts, deletes := h.Count(); puts+deletes > 0 {
						t.Errorf("%d writes and %d deletes at %s in a quiet hour, the first of %s %s", puts, deletes, name, h.Seen()[0].Type, h.Seen()[0].ID)
					}
				}
				check("after an hour", "edited ")
				shown := shownBy(t, w)
				texts := map[string][]byte{"the log": logs.bytes(), "what the API shows": shown}
				w.Do(func(ctx context.Context) error {
					stored, err := e2e.Stored(ctx, w.Broker)
					maps.Copy(texts, stored)
					if len(stored) < 5 || len(leaks(t, []string{"production"}, stored, "")) == 0 {
						t.Errorf("the search of the store is blind: %d streams", len(stored))
					}
					return err
				})
				for _, hit := range leaks(t, append(standin.SeedSecrets(), e2e.Password), texts, w.Dir+"/data") {
					t.Error(hit)
				}
				if len(shown) < 10_000 || len(logs.bytes()) == 0 || len(leaks(t, []string{"production-to-equal"}, map[string][]byte{"": shown}, "")) == 0 {
					t.Errorf("the search is blind: %d bytes shown, %d logged", len(shown), len(logs.bytes()))
				}
			})
		})
	}
}

func isActive(body []byte) bool {
	var x struct {
		Active bool
		Stats  struct{ Active bool }
		// A user has an Active flag too, which no policy governs.
		UserName *string
	}
	_ = json.Unmarshal(body, &x)
	return x.Stats.Active || x.Active && x.UserName == nil
}

// shownBy returns all that the API says of a world.
func shownBy(t *testing.T, w *e2e.World) []byte {
	t.Helper()
	s, err := control.New(control.Config{Broker: w.Broker, Sources: w.Prod, Targets: w.Cons, Open: w.Open, Addr: "127.0.0.1:7780", Log: w.Log})
	if err != nil {
		t.Fatal(err)
	}
	var all []byte
	for _, path := range []string{"/", "/readyz", "/api/v1/servers", "/api/v1/settings", "/api/v1/status", "/api/v1/parked", "/api/v1/events?limit=1000"} {
		rec := httptest.NewRecorder()
		r := httptest.NewRequest(http.MethodGet, "http://127.0.0.1:7780"+path, nil)
		s.Handler().ServeHTTP(rec, r)
		if rec.Code != http.StatusOK {
			t.Errorf("%s: %d %.200s", path, rec.Code, rec.Body)
		}
		all = append(all, rec.Body.Bytes()...)
	}
	return all
}

// leaks returns where one of the secrets stands, in any spelling, in the texts and
// in the files below the folder. It reads everything once.
func leaks(t *testing.T, secrets []string, texts map[string][]byte, folder string) []string {
	t.Helper()
	const head = 8
	index := map[uint64][]string{}
	for _, s := range secrets {
		for _, x := range e2e.Spellings(s) {
			if len(x) < head {
				t.Fatalf("%q is too short to be looked for", x)
			}
			k := binary.LittleEndian.Uint64([]byte(x))
			index[k] = append(index[k], x)
		}
	}
	var hits []string
	search := func(where string, b []byte) {
		for i := 0; i+head <= len(b); i++ {
			for _, x := range index[binary.LittleEndian.Uint64(b[i:])] {
				if bytes.HasPrefix(b[i:], []byte(x)) {
					hits = append(hits, fmt.Sprintf("%s holds %q: %.80q", where, x, b[max(0, i-40):]))
				}
			}
		}
	}
	for where, b := range texts {
		search(where, b)
	}
	if folder != "" {
		files := 0
		if err := filepath.WalkDir(folder, func(path string, d fs.DirEntry, err error) error {
			if err != nil || !d.Type().IsRegular() {
				return err
			}
			b, err := os.ReadFile(path)
			search(path, b)
			files++
			return err
		}); err != nil || files < 5 {
			t.Fatalf("%d files: %v", files, err)
		}
	}
	return hits[:min(len(hits), 10)]
}

// syncBuffer is a log that may be read while it is written.
type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) bytes() []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	return bytes.Clone(s.b.Bytes())
}

// retry asks to try a parked state again, as a person does.
func retry(t *testing.T, w *e2e.World, x schemas.Type, id schemas.ID) {
	t.Helper()
	for _, p := range listParked(t, w) {
		if p.Type == x && p.ID == id {
			p.RetryAsked++
			w.Do(func(ctx context.Context) error { _, err := w.Broker.PutParked(ctx, p); return err })
			return
		}
	}
	t.Fatalf("%s %s is not parked", x, id)
}

// listWorld is a production and a target of those modes, with what they hold.
func listWorld(t *testing.T, source, target schemas.Slug, f func(w *e2e.World, prod, test *e2e.Host)) {
	world(t, nil, func(w *e2e.World) {
		prod, test := w.Hosts["production"], w.AddHost("test")
		treat(t, prod, secretModes[source])
		treat(t, test, secretModes[target])
		w.Setting(e2e.AllObjects("production-to-test", "production", "test", schemas.Follow))
		f(w, prod, test)
	})
}

// keyedList is a list inside an object whose items have secrets.
type keyedList struct {
	t    schemas.Type
	body string // %s stands for the items
	item string // %[1]s for what tells it apart, %[2]s for its secret
	// place is where the secret of the item at %d is, named where it is missed.
	place, named string
}

var keyedLists = map[string]keyedList{
	"job variables": {schemas.Job, `{"Id":"11111111-1111-4111-8111-111111111111","Name":"j","Description":"d","Group":"g","Stats":{"Active":true},"Tasks":[],"Triggers":[],"Variables":[%s]}`,
		`{"Key":"%[1]s","ValueObject":%[2]s}`, "/Variables/%d/ValueObject", "/Variables/%s/ValueObject"},
	"tasks": {schemas.Job, `{"Id":"11111111-1111-4111-8111-111111111111","Name":"j","Description":"d","Group":"g","Stats":{"Active":true},"Triggers":[],"Tasks":[%s]}`,
		`{"Id":"%[1]s","Order":1,"TaskType":"SQL","SQL":{"EncryptedCommand":%[2]s}}`, "/Tasks/%d/SQL/EncryptedCommand", "/Tasks/%s/SQL/EncryptedCommand"},
	"commands of a task": {schemas.Job, `{"Id":"11111111-1111-4111-8111-111111111111","Name":"j","Description":"d","Group":"g","Stats":{"Active":true},"Triggers":[],"Tasks":[{"Id":"22222222-2222-4222-8222-222222222222","TaskType":"FTP","FTP":{"FTPCommands":[%s]}}]}`,
		`{"Id":"%[1]s","FilePassword":%[2]s}`, "/Tasks/0/FTP/FTPCommands/%d/FilePassword", "/Tasks/22222222-2222-4222-8222-222222222222/FTP/FTPCommands/%s/FilePassword"},
	"keys of a ring": {schemas.PGPKeyRing, `{"Id":"11111111-1111-4111-8111-111111111111","Name":"r","Description":"d","Keys":[%s]}`,
		`{"Id":"%[1]s","KeyId":"0x1","Data":%[2]s}`, "/Keys/%d/Data", "/Keys/%s/Data"},
	"users of an MFT server": {schemas.MFTServer, `{"Id":"11111111-1111-4111-8111-111111111111","Name":"m","Description":"d","Active":true,"Users":[%s]}`,
		`{"Id":"%[1]s","UserName":"u","PassWord":%[2]s}`, "/Users/%d/PassWord", "/Users/%s/PassWord"},
}

// Items that come, go and change places while their secrets do not travel: each
// keeps its own, and a new one has nobody's.
func TestItemsOfListsKeepTheirOwnSecrets(t *testing.T) {
	const a, b, c, d = "aaaaaaaa-0000-4000-8000-000000000001", "bbbbbbbb-0000-4000-8000-000000000002", "cccccccc-0000-4000-8000-000000000003", "dddddddd-0000-4000-8000-000000000004"
	for _, modes := range [][2]schemas.Slug{{"equal", "masked"}, {"masked", "equal"}, {"opaque", "equal"}, {"null", "equal"}, {"equal", "opaque"}, {"equal", "null"}, {"unsaid", "unsaid"}, {"masked", "masked"}} {
		t.Run(fmt.Sprintf("from %s to %s", modes[0], modes[1]), func(t *testing.T) {
			t.Parallel()
			listWorld(t, modes[0], modes[1], func(w *e2e.World, prod, test *e2e.Host) {
				put := func(h *e2e.Host, owner, description string, items ...string) {
					t.Helper()
					for what, l := range keyedLists {
						var all []string
						for _, it := range items {
							all = append(all, fmt.Sprintf(l.item, it, fmt.Sprintf("%q", owner+" secret of "+it)))
						}
						body := strings.Replace(fmt.Sprintf(l.body, strings.Join(all, ",")), `"d"`, fmt.Sprintf("%q", description), 1)
						if _, _, err := h.Server.Put(l.t, []byte(strings.Replace(body, listID, string(listIDOf(what)), 1))); err != nil {
							t.Fatal(err)
						}
					}
				}
				// holds checks the target's items in order: those with a secret of their
				// own, and with a ! before it those without any.
				holds := func(when string, items ...string) {
					t.Helper()
					time.Sleep(5 * time.Minute)
					flags := map[schemas.ID]string{}
					for _, p := range listParked(t, w) {
						flags[p.ID] = p.Reason
					}
					for what, l := range keyedLists {
						want, missed := map[string]string{}, []string{}
						for i, it := range items {
							if it, lacks := strings.CutPrefix(it, "!"); lacks {
								missed = append(missed, fmt.Sprintf(l.named, it))
							} else {
								want[fmt.Sprintf(l.place, i)] = fmt.Sprintf("%q", "test secret of "+it)
							}
						}
						if have := secretsOf(test.Server, l.t, listIDOf(what)); !maps.Equal(have, want) {
							t.Errorf("%s, %s: holds %v, want %v", what, when, have, want)
						}
						switch flag := flags[listIDOf(what)]; {
						case len(missed) == 0 && flag != "":
							t.Errorf("%s, %s: parked: %s", what, when, flag)
						case len(missed) > 0 && !strings.Contains(flag, "written without "+strings.Join(missed, ", ")+":"):
							t.Errorf("%s, %s: want %v to be missed, parked: %q", what, when, missed, flag)
						}
					}
				}
				put(prod, "production", "first", a, b)
				put(test, "test", "at test", b, a)
				w.StartProducer()
				w.StartConsumer()
				holds("at first", a, b)
				put(prod, "production", "other order", b, a)
				holds("in another order", b, a)
				put(prod, "production", "one more, between", b, c, a)
				holds("with one more", b, "!"+c, a)
				put(prod, "production", "one less, before it", c, a)
				holds("with one less", "!"+c, a)
				put(prod, "production", "other order again", a, c)
				holds("in another order again", a, "!"+c)
				put(prod, "production", "another in its place", d, a)
				holds("with another in its place", "!"+d, a)
				put(prod, "production", "without", a)
				holds("without it", a)
				test.Reset()
				time.Sleep(15 * time.Minute)
				if puts, _ := test.Count(); puts > 0 {
					t.Errorf("%d writes while nothing changed", puts)
				}
			})
		})
	}
}

const listID = "11111111-1111-4111-8111-111111111111"

// listIDOf returns an id for every list.
func listIDOf(what string) schemas.ID {
	return schemas.ID(fmt.Sprintf("%08x%s", slices.Index(slices.Sorted(maps.Keys(keyedLists)), what)+1, listID[8:]))
}

// putObject puts one object at a host.
func putObject(t testing.TB, h *e2e.Host, x schemas.Type, body string) {
	t.Helper()
	if _, _, err := h.Server.Put(x, []byte(body)); err != nil {
		t.Fatal(err)
	}
}

const (
	connectionID = schemas.ID("33333333-3333-4333-8333-333333333333")
	waitingJob   = `{"Id":"11111111-1111-4111-8111-111111111111","Name":"j","Description":"d","Group":"g","Stats":{"Active":true},"Triggers":[],"Tasks":[{"Id":"22222222-2222-4222-8222-222222222222","TaskType":"SQL","SQL":{"ConnectionId":"33333333-3333-4333-8333-333333333333"}}]}`
)

func connection(address, password string) string {
	return fmt.Sprintf(`{"Id":%q,"Name":"c","Group":"g","ProtocolType":"SQL","Address":%q,"PassWord":%s}`, connectionID, address, password)
}

// A person who enters what is missing at the target, and asks to try again, frees
// the object and what waits for it; where a server tells nothing, who discards the
// flag does.
func TestWhoEntersASecretFreesWhatWaitsForIt(t *testing.T) {
	for _, c := range []struct {
		source, target schemas.Slug
		discard        bool
	}{{"masked", "equal", false}, {"equal", "masked", false}, {"opaque", "opaque", false}, {"equal", "null", true}, {"unsaid", "unsaid", true}} {
		t.Run(fmt.Sprintf("from %s to %s", c.source, c.target), func(t *testing.T) {
			listWorld(t, c.source, c.target, func(w *e2e.World, prod, test *e2e.Host) {
				flags := func(when string, want int) {
					t.Helper()
					n := 0
					for _, p := range listParked(t, w) {
						if p.Class != "secret" {
							t.Errorf("%s, parked: %+v", when, p)
						}
						if p.Discarded == "" {
							n++
						}
					}
					if n != want {
						t.Errorf("%s: %d flags, want %d: %+v", when, n, want, listParked(t, w))
					}
				}
				job := func() bool {
					body, _ := test.Server.Get(schemas.Job, listID)
					return isActive(body)
				}
				putObject(t, prod, schemas.Connection, connection("first", `"s3cret of production"`))
				putObject(t, prod, schemas.Job, waitingJob)
				w.StartProducer()
				w.StartConsumer()
				time.Sleep(5 * time.Minute)
				flags("at first", 2)
				if job() {
					t.Error("the job is active without what it needs")
				}
				w.AddHost("other")
				w.Setting(e2e.AllJobs("other-to-test", "other", "test", schemas.Follow)) // the target has a writer all the time
				time.Sleep(time.Minute)
				set := e2e.AllObjects("production-to-test", "production", "test", schemas.Follow)
				set.Active = false
				w.Setting(set)
				time.Sleep(time.Minute)
				set.Active = true
				w.Setting(set)
				time.Sleep(5 * time.Minute)
				flags("after it was off for a while", 2)
				putObject(t, test, schemas.Connection, connection("first", `"s3cret of test"`))
				test.Reset()
				if !c.discard {
					retry(t, w, schemas.Connection, connectionID)
				} else {
					for _, p := range listParked(t, w) {
						if p.Type == schemas.Connection {
							p.Discarded = "entered by hand"
							w.Do(func(ctx context.Context) error { _, err := w.Broker.PutParked(ctx, p); return err })
						}
					}
				}
				time.Sleep(5 * time.Minute)
				flags("after it was entered", 0)
				if !job() {
					t.Error("the job does not follow its source")
				}
				putObject(t, prod, schemas.Connection, connection("second", `"s3cret of production"`))
				time.Sleep(5 * time.Minute)
				flags("after an edit", 0)
				if body, _ := test.Server.Get(schemas.Connection, connectionID); !bytes.Contains(body, []byte("second")) || !bytes.Contains(body, []byte("s3cret of test")) {
					t.Errorf("after an edit: %s", body)
				}
				if puts, _ := test.Count(); puts != 2 {
					t.Errorf("%d writes, want the job's flag and the edit", puts)
				}
			})
		})
	}
}

func TestASecretThatIsRemovedAtTheSourceIsRemoved(t *testing.T) {
	for left, secrets := range map[string]int{"null": 1, `""`: 0} { // a null says nothing
		listWorld(t, "equal", "equal", func(w *e2e.World, prod, test *e2e.Host) {
			putObject(t, prod, schemas.Connection, connection("first", `"s3cret of production"`))
			w.StartProducer()
			w.StartConsumer()
			time.Sleep(2 * time.Minute)
			if s := secretsOf(test.Server, schemas.Connection, connectionID); len(s) != 1 {
				t.Errorf("the secret has not travelled: %v", s)
			}
			putObject(t, prod, schemas.Connection, connection("first", left))
			time.Sleep(2 * time.Minute)
			if s := secretsOf(test.Server, schemas.Connection, connectionID); len(s) != secrets {
				t.Errorf("%s leaves %v, want %d", left, s, secrets)
			}
		})
	}
}

// A server that begins to say how it treats its secrets shows the same bodies.
func TestASourceThatBeginsToGiveItsSecrets(t *testing.T) {
	listWorld(t, "equal", "equal", func(w *e2e.World, prod, test *e2e.Host) {
		prod.SetFaults(func(next http.Handler) http.Handler {
			return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
				rec := httptest.NewRecorder()
				if r.URL.Path != "/api/v1/server" {
					next.ServeHTTP(withoutMode{rw}, r)
					return
				}
				next.ServeHTTP(rec, r)
				maps.Copy(rw.Header(), rec.Header())
				rw.Header().Del("Content-Length")
				_, _ = rw.Write(bytes.ReplaceAll(rec.Body.Bytes(), []byte(`"secrets":"equal"`), []byte(`"secrets":""`)))
			})
		})
		putObject(t, prod, schemas.Connection, connection("first", `"s3cret of production"`))
		w.StartProducer()
		w.StartConsumer()
		time.Sleep(5 * time.Minute)
		if s := secretsOf(test.Server, schemas.Connection, connectionID); len(s) != 0 {
			t.Errorf("what nobody vouches for has travelled: %v", s)
		}
		if len(listParked(t, w)) != 1 {
			t.Errorf("parked: %+v", listParked(t, w))
		}
		prod.SetFaults(nil)
		time.Sleep(5 * time.Minute)
		if have, want := secretsOf(test.Server, schemas.Connection, connectionID), secretsOf(prod.Server, schemas.Connection, connectionID); !maps.Equal(have, want) {
			t.Errorf("holds %v, want %v", have, want)
		}
		if p := listParked(t, w); len(p) != 0 {
			t.Errorf("still flagged: %+v", p)
		}
	})
}

// The value of a variable is data: it stays at home unless a setting asks, and
// stays where it is when none does any more.
func TestValuesOfVariablesTravelWhenAsked(t *testing.T) {
	listWorld(t, "equal", "equal", func(w *e2e.World, prod, test *e2e.Host) {
		const id = schemas.ID("Region")
		put := func(h *e2e.Host, description, v string) {
			t.Helper()
			putObject(t, h, schemas.Variable, fmt.Sprintf(`{"Name":"Region","Description":%q,"ObjectType":"String","ValueObject":%q}`, description, v))
		}
		holds := func(when, description, v string) {
			t.Helper()
			time.Sleep(5 * time.Minute)
			body, _ := test.Server.Get(schemas.Variable, id)
			var x struct{ Description, ValueObject string }
			if err := json.Unmarshal(body, &x); err != nil || x.Description != description || x.ValueObject != v {
				t.Errorf("%s: %s", when, body)
			}
			if p := listParked(t, w); len(p) != 0 {
				t.Errorf("%s, parked: %+v", when, p)
			}
		}
		values := func(on bool) {
			s := e2e.AllObjects("production-to-test", "production", "test", schemas.Follow)
			s.VariableValues = on
			w.Setting(s)
		}
		put(prod, "first", "v4lue-one-of-production")
		w.StartProducer()
		w.StartConsumer()
		holds("new", "first", "")
		put(prod, "first", "v4lue-two-of-production")
		holds("another value", "first", "")
		put(test, "first", "v4lue-of-test")
		put(prod, "second", "v4lue-two-of-production")
		holds("another definition", "second", "v4lue-of-test")
		if hits := leaks(t, []string{"v4lue-one-of-production", "v4lue-two-of-production"}, nil, w.Dir+"/data"); len(hits) != 0 {
			t.Error(hits)
		}
		entries := func() (n int) {
			w.Do(func(ctx context.Context) error {
				ev, _, err := w.Broker.NewestOf(ctx, schemas.Key{Source: "production", Type: schemas.Variable, Token: id.Token()})
				n = len(ev.Object.Sealed)
				return err
			})
			return n
		}
		if entries() != 0 {
			t.Error("a value is in the store, and nobody asked")
		}
		values(true)
		holds("asked for", "second", "v4lue-two-of-production")
		if entries() != 1 {
			t.Error("a value has travelled outside of the store")
		}
		put(prod, "second", "v4lue-three-of-production")
		holds("another value while asked for", "second", "v4lue-three-of-production")
		values(false)
		put(prod, "third", "v4lue-four-of-production")
		holds("asked for no more", "third", "v4lue-three-of-production")
		if entries() != 0 {
			t.Error("a value is in the newest event, and nobody asks any more")
		}
		if hits := leaks(t, []string{"v4lue-one-of-production", "v4lue-two-of-production", "v4lue-three-of-production", "v4lue-four-of-production"}, nil, w.Dir+"/data"); len(hits) != 0 {
			t.Error(hits)
		}
	})
}

// One target that asks for values must not bring them to another that does not,
// although they are in the store then.
func TestValuesOfVariablesGoToWhoAsks(t *testing.T) {
	listWorld(t, "equal", "equal", func(w *e2e.World, prod, test *e2e.Host) {
		other := w.AddHost("other")
		s := e2e.AllObjects("production-to-other", "production", "other", schemas.Keep)
		s.VariableValues = true
		w.Setting(s)
		put := func(h *e2e.Host, name, description, v string) {
			t.Helper()
			putObject(t, h, schemas.Variable, fmt.Sprintf(`{"Name":%q,"Description":%q,"ObjectType":"String","ValueObject":%q}`, name, description, v))
		}
		put(prod, "Both", "of production", "v4lue-of-production")
		put(prod, "New", "of production", "v4lue-of-production")
		put(test, "Both", "at test", "v4lue-of-test")
		w.StartProducer()
		w.StartConsumer()
		for _, description := range []string{"of production", "edited"} {
			put(prod, "Both", description, "v4lue-of-production")
			time.Sleep(5 * time.Minute)
			for _, c := range []struct {
				h          *e2e.Host
				name, want string
			}{{test, "Both", `"v4lue-of-test"`}, {test, "New", ""}, {other, "Both", `"v4lue-of-production"`}, {other, "New", `"v4lue-of-production"`}} {
				body, ok := c.h.Server.Get(schemas.Variable, schemas.ID(c.name))
				if v := secretsOf(c.h.Server, schemas.Variable, schemas.ID(c.name))["/ValueObject"]; !ok || v != c.want || c.name == "Both" && !bytes.Contains(body, []byte(description)) {
					t.Errorf("%s: %s at %s: %s", description, c.name, c.h.Name, body)
				}
			}
		}
		for _, set := range []schemas.Slug{"production-to-test", "production-to-other"} { // nothing is left to put on record
			if _, entries := w.Ask(set, broker.RunScope{Types: []schemas.Type{schemas.Variable}}); len(entries) > 0 {
				t.Errorf("plan of %s: %+v", set, entries)
			}
			w.Move(set, broker.RunDropped, "")
		}
		time.Sleep(5 * time.Minute)
		test.Reset()
		time.Sleep(time.Hour)
		if puts, _ := test.Count(); puts > 0 || len(listParked(t, w)) > 0 {
			t.Errorf("%d writes in a quiet hour, parked: %+v", puts, listParked(t, w))
		}
	})
}
