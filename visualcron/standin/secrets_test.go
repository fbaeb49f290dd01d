package standin_test

import (
	"encoding/json"
	"maps"
	"net/http/httptest"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/vcsync/vcsync/schemas"
	"github.com/vcsync/vcsync/visualcron"
	"github.com/vcsync/vcsync/visualcron/bridge"
	"github.com/vcsync/vcsync/visualcron/standin"
)

// over returns a connector to the stand-in.
func over(t *testing.T, s *standin.Server) *bridge.Bridge {
	t.Helper()
	srv := httptest.NewServer(s.Handler())
	b, err := bridge.New(visualcron.Config{Server: "s", Reach: visualcron.Anywhere(), Address: srv.URL, User: standin.DefaultUser, Password: standin.DefaultPassword})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = b.Close()
		_ = s.Close() // first, so that what hangs ends
		srv.Close()
	})
	return b
}

func misbehave(t *testing.T, s *standin.Server, modes ...string) {
	t.Helper()
	for _, text := range modes {
		m, err := standin.ParseMisbehaviour(text, "")
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Misbehave(m); err != nil {
			t.Fatal(err)
		}
	}
}

// withSecrets are bodies of every type that has secrets, with where they are.
var withSecrets = map[schemas.Type]struct {
	body   string
	places []string
}{
	schemas.Connection: {`{"Id":"a","UserName":"u","PassWord":"p1","Empty":{"PassWord":""},"Proxy":{"UserName":"q","PassWord":"p2"},"OAuth":[{"Id":"1","RefreshToken":"p3"}],"UsePassword":true}`,
		[]string{"/OAuth/0/RefreshToken", "/PassWord", "/Proxy/PassWord"}},
	schemas.Credential:  {`{"Id":"a","Username":"u","Password":"p1","Domain":"d","LoadProfile":true}`, []string{"/Password"}},
	schemas.User:        {`{"Id":"a","Name":"n","UserName":"u","PassWord":"p1","Email":"e"}`, []string{"/PassWord"}},
	schemas.Certificate: {`{"Id":"a","HasPrivateKey":true,"Data":"p1","Password":"p2"}`, []string{"/Data", "/Password"}},
	schemas.SSHKey:      {`{"Id":"a","Data":"p1\r\nx","Passphrase":"p2"}`, []string{"/Data", "/Passphrase"}},
	schemas.PGPKeyRing: {`{"Id":"a","Keys":[{"Id":"1","Data":"p1","Passphrase":"p2"},{"Id":"2","Data":"p3"}]}`,
		[]string{"/Keys/0/Data", "/Keys/0/Passphrase", "/Keys/1/Data"}},
	schemas.Variable:  {`{"Name":"a","ValueObject":5123456789}`, []string{"/ValueObject"}},
	schemas.MFTServer: {`{"Id":"a","PrivateKey":"p1","Users":[{"Id":"1","UserName":"u","PassWord":"p2","User":"x"}]}`, []string{"/PrivateKey", "/Users/0/PassWord"}},
	schemas.Job: {`{"Id":"a","Password":"no secret here","Variables":[{"Key":"k","ValueObject":"p1"}],"Tasks":[{"Id":"1","TaskType":"SQL","SQL":{"EncryptedCommand":"p2","Sub":[{"ApiKey":"p3"}]}}],
		"Triggers":[{"Id":"1","Password":"p4"}]}`, []string{"/Tasks/0/SQL/EncryptedCommand", "/Tasks/0/SQL/Sub/0/ApiKey", "/Triggers/0/Password", "/Variables/0/ValueObject"}},
	schemas.Notification:   {`{"Id":"a","Password":"no","Task":{"Id":"1","HTTP":{"AccessToken":"p1"}}}`, []string{"/Task/HTTP/AccessToken"}},
	schemas.TaskRepository: {`{"Task":{"Id":"a","DotNetExecute":{"ClientSecret":"p1"}}}`, []string{"/Task/DotNetExecute/ClientSecret"}},
	schemas.ServerSettings: {`{"Mail":{"PassWord":"p1"}}`, []string{"/Mail/PassWord"}},
	schemas.NetworkDrive:   {`{"Id":"a","Path":"\\\\x","SharePassword":"p1"}`, []string{"/SharePassword"}},
}

// held returns the true secrets that are not empty.
func held(s *standin.Server, t schemas.Type, id schemas.ID) map[string]string {
	m := s.Secrets(t, id)
	maps.DeleteFunc(m, func(_, v string) bool { return v == `""` || v == "null" || v == "true" })
	return m
}

func TestSecretModes(t *testing.T) {
	for typ, c := range withSecrets {
		id, err := visualcron.BodyID(typ, []byte(c.body))
		if err != nil {
			t.Fatal(err)
		}
		for _, mode := range []visualcron.SecretMode{visualcron.SecretsEqual, visualcron.SecretsOpaque, visualcron.SecretsMasked, visualcron.SecretsNull} {
			t.Run(string(typ)+" "+string(mode), func(t *testing.T) {
				s := open(t, standin.Config{})
				misbehave(t, s, "secrets="+string(mode))
				b := over(t, s)
				info, err := b.Server(t.Context())
				if err != nil || info.Types[typ].Secrets != mode {
					t.Fatalf("the server says %+v %v", info.Types[typ], err)
				}
				answer, err := b.Put(t.Context(), typ, id, []byte(c.body), "")
				if err != nil {
					t.Fatal(err)
				}
				truth := held(s, typ, id)
				if got := slices.Sorted(maps.Keys(truth)); !slices.Equal(got, c.places) {
					t.Fatalf("secrets at %v, want %v", got, c.places)
				}
				read, err := b.Get(t.Context(), typ, id)
				if err != nil {
					t.Fatal(err)
				}
				var row []byte
				if _, err := b.List(t.Context(), typ, func(r visualcron.Row) error {
					if r.ID == id {
						row = append(row, r.Body...)
					}
					return nil
				}); err != nil {
					t.Fatal(err)
				}
				if string(answer) != string(read) || string(row) != string(read) {
					t.Errorf("answer, get and list differ:\n%.300s\n%.300s\n%.300s", answer, read, row)
				}
				shows := strings.Contains(string(read), truth[c.places[0]])
				if shows != (mode == visualcron.SecretsEqual) {
					t.Errorf("reads as %.400s", read)
				}

				// What is left out stays, where the mode is not equal.
				without, err := standin.WithoutSecrets(typ, read)
				if err != nil {
					t.Fatal(err)
				}
				if _, err := b.Put(t.Context(), typ, id, without, ""); err != nil {
					t.Fatal(err)
				}
				kept := held(s, typ, id)
				if mode == visualcron.SecretsEqual {
					if len(kept) != 0 {
						t.Errorf("a put of the whole object kept %v", kept)
					}
					return
				}
				if !reflect.DeepEqual(kept, truth) {
					t.Fatalf("kept %v, had %v", kept, truth)
				}

				// What is sent back destroys the secret, the server's own ciphertext apart.
				if _, err := b.Put(t.Context(), typ, id, read, ""); err != nil {
					t.Fatal(err)
				}
				back := s.Secrets(typ, id)
				for _, at := range c.places {
					want := map[visualcron.SecretMode]string{visualcron.SecretsOpaque: truth[at], visualcron.SecretsMasked: `"` + standin.Mask + `"`, visualcron.SecretsNull: "null"}[mode]
					if back[at] != want {
						t.Errorf("written back, %s holds %s, want %s", at, back[at], want)
					}
				}

				// And so does what another server gave.
				other := open(t, standin.Config{})
				misbehave(t, other, "secrets="+string(mode))
				if _, _, err := other.Put(typ, []byte(c.body)); err != nil {
					t.Fatal(err)
				}
				theirs, _ := other.Shown(typ, id)
				if _, err := b.Put(t.Context(), typ, id, theirs, ""); err != nil {
					t.Fatal(err)
				}
				for at, v := range s.Secrets(typ, id) {
					if slices.Contains(c.places, at) && (v == truth[at] || mode == visualcron.SecretsOpaque && !strings.Contains(v, "standin-opaque:")) {
						t.Errorf("what another server gave became %s at %s", v, at)
					}
				}
			})
		}
	}
}

// TestAKeptSecretGoesByTheItemsID: lists may come in another order, and items go.
func TestAKeptSecretGoesByTheItemsID(t *testing.T) {
	s := open(t, standin.Config{})
	misbehave(t, s, "secrets=masked")
	put(t, s, schemas.PGPKeyRing, `{"Id":"r","Keys":[{"Id":"A","Data":"one"},{"Id":"b","Data":"two"},{"Id":"c","Data":"three"}]}`)
	put(t, s, schemas.PGPKeyRing, `{"Id":"r","Keys":[{"Id":"new"},{"Id":"c"},{"Id":"a"}]}`)
	if got, want := s.Secrets(schemas.PGPKeyRing, "r"), map[string]string{"/Keys/1/Data": `"three"`, "/Keys/2/Data": `"one"`}; !reflect.DeepEqual(got, want) {
		t.Errorf("kept %v, want %v", got, want)
	}
	put(t, s, schemas.Job, `{"Id":"j","Variables":[{"Key":"x","ValueObject":"one"},{"Key":"y","ValueObject":"two"}]}`)
	put(t, s, schemas.Job, `{"Id":"j","Variables":[{"Key":"y"},{"Key":"x","ValueObject":"new"}]}`)
	if got, want := s.Secrets(schemas.Job, "j"), map[string]string{"/Variables/0/ValueObject": `"two"`, "/Variables/1/ValueObject": `"new"`}; !reflect.DeepEqual(got, want) {
		t.Errorf("kept %v, want %v", got, want)
	}
}

func TestFreshCiphertextIsStillTheServersOwn(t *testing.T) {
	s := open(t, standin.Config{})
	misbehave(t, s, "secrets=opaque")
	put(t, s, schemas.Credential, `{"Id":"a","Password":"truth"}`)
	one, _ := s.Shown(schemas.Credential, "a")
	two, _ := s.Shown(schemas.Credential, "a")
	misbehave(t, s, "fresh-iv")
	three, _ := s.Shown(schemas.Credential, "a")
	four, _ := s.Shown(schemas.Credential, "a")
	if string(one) != string(two) || string(three) == string(four) || string(one) == string(three) {
		t.Errorf("%s %s %s %s", one, two, three, four)
	}
	put(t, s, schemas.Credential, string(three))
	if got := s.Secrets(schemas.Credential, "a")["/Password"]; got != `"truth"` {
		t.Errorf("stored %s", got)
	}
}

func TestSecretModesAreByType(t *testing.T) {
	s := open(t, standin.Config{})
	if err := s.Misbehave(standin.Misbehaviour{Mode: "secrets", Arg: "null"}, standin.Misbehaviour{Mode: "secrets", Arg: "masked", Type: schemas.User}); err != nil {
		t.Fatal(err)
	}
	if a, b := s.SecretMode(schemas.User), s.SecretMode(schemas.Job); a != visualcron.SecretsMasked || b != visualcron.SecretsNull {
		t.Error(a, b)
	}
	put(t, s, schemas.User, `{"Id":"u","PassWord":"x","Other":null}`)
	shown, _ := s.Shown(schemas.User, "u")
	var m map[string]any
	if err := json.Unmarshal(shown, &m); err != nil || m["PassWord"] != standin.Mask {
		t.Errorf("%s %v", shown, err)
	}
	s.Behave()
	if got := s.SecretMode(schemas.User); got != visualcron.SecretsEqual {
		t.Error(got)
	}
}
