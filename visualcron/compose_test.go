package visualcron_test

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/vcsync/vcsync/schemas"
	"github.com/vcsync/vcsync/visualcron"
	"github.com/vcsync/vcsync/visualcron/standin"
)

const (
	equal  = visualcron.SecretsEqual
	opaque = visualcron.SecretsOpaque
	masked = visualcron.SecretsMasked
	nulled = visualcron.SecretsNull
)

const (
	credentialID = `"Id":"11111111-1111-4111-8111-111111111111"`
	otherID      = `"Id":"22222222-2222-4222-8222-222222222222"`
)

func credential(rest string) string { return `{` + credentialID + rest + `}` }

// jobOf returns a job with the Active flag and other members.
func jobOf(active, rest string) string {
	return `{` + credentialID + `,"Stats":{"Active":` + active + `,"JobId":"11111111-1111-4111-8111-111111111111"}` + rest + `}`
}

func TestComposeCarriesSecretsAsTheModesSay(t *testing.T) {
	compose := func(secrets visualcron.SecretMode) visualcron.Composition {
		return visualcron.Composition{Policy: schemas.Follow, Secrets: secrets}
	}
	withheld := func(secrets visualcron.SecretMode, places ...string) visualcron.Composition {
		return visualcron.Composition{Policy: schemas.Follow, Secrets: secrets, Withholds: true, Withheld: places}
	}
	with := func(c visualcron.Composition, change func(*visualcron.Composition)) visualcron.Composition {
		change(&c)
		return c
	}
	variables := func(items ...string) string { return `,"Variables":[` + strings.Join(items, ",") + `]` }
	value := func(key, v string) string { return `{"Key":"` + key + `","ValueObject":` + v + `}` }
	bare := func(key string) string { return `{"Key":"` + key + `"}` }
	for _, c := range []struct {
		what           string
		t              schemas.Type
		source, target string // an empty target is none
		how            visualcron.Composition
		want           string
		needs          string
	}{
		{"both equal: the source's", schemas.Credential, credential(`,"Password":"s"`), credential(`,"Password":"t"`), compose(equal), credential(`,"Password":"s"`), ""},
		{"both equal: an empty one empties", schemas.Credential, credential(`,"Password":""`), credential(`,"Password":"t"`), compose(equal), credential(`,"Password":""`), ""},
		{"both equal: a null takes nothing away", schemas.Credential, credential(`,"Password":null`), credential(`,"Password":"t"`), compose(equal), credential(`,"Password":"t"`), ""},
		{"both equal: nor does silence", schemas.Credential, credential(``), credential(`,"Password":"t"`), compose(equal), credential(`,"Password":"t"`), ""},
		{"a new user without its password cannot log on", schemas.User, `{"Id":"11111111-1111-4111-8111-111111111111","UserName":"u","PassWord":null,"Active":true}`, "",
			withheld(equal, "/PassWord"), `{"Id":"11111111-1111-4111-8111-111111111111","UserName":"u","Active":false}`, "/PassWord"},
		{"withheld: the target's own", schemas.Credential, credential(`,"Password":null`), credential(`,"Password":"t"`), withheld(equal, "/Password"), credential(`,"Password":"t"`), ""},
		{"withheld and empty: the target's own", schemas.Credential, credential(`,"Password":""`), credential(`,"Password":"t"`), withheld(equal), credential(`,"Password":"t"`), ""},
		{"withheld and not there: the target's own", schemas.Credential, credential(``), credential(`,"Password":"t"`), withheld(equal), credential(`,"Password":"t"`), ""},
		{"withheld, a mask in spite of it: the target's own", schemas.Credential, credential(`,"Password":"***"`), credential(`,"Password":"t"`), withheld(equal), credential(`,"Password":"t"`), ""},
		{"withheld and new: without it", schemas.Credential, credential(`,"Password":null`), "", withheld(equal, "/Password"), credential(``), "/Password"},
		{"masked target: left out", schemas.Credential, credential(`,"Password":"s"`), credential(`,"Password":"***"`), compose(masked), credential(``), ""},
		{"opaque target: left out", schemas.Credential, credential(`,"Password":"s"`), credential(`,"Password":"c1ph3r"`), compose(opaque), credential(``), ""},
		{"masked target without it", schemas.Credential, credential(`,"Password":"s"`), credential(`,"Password":null`), compose(masked), credential(``), "/Password"},
		{"masked target, new", schemas.Credential, credential(`,"Password":"s"`), "", compose(masked), credential(``), "/Password"},
		{"null target: it says nothing", schemas.Credential, credential(`,"Password":"s"`), credential(`,"Password":null`), compose(nulled), credential(``), ""},
		{"null target, found without before", schemas.Credential, credential(`,"Password":"s"`), credential(`,"Password":null`),
			with(compose(nulled), func(c *visualcron.Composition) { c.Needs = []string{"/Password"} }), credential(``), "/Password"},
		{"null target, new", schemas.Credential, credential(`,"Password":"s"`), "", compose(nulled), credential(``), "/Password"},
		{"a target of no mode is sent none", schemas.Credential, credential(`,"Password":"s"`), credential(`,"Password":null`), compose(""), credential(``), ""},
		{"nor is one of a mode that nobody knows, whose null says nothing", schemas.Credential, credential(`,"Password":"s"`), credential(`,"Password":null`), compose("vaulted"), credential(``), ""},
		{"a source without a secret asks for none", schemas.Credential, credential(`,"Password":null`), "", compose(masked), credential(``), ""},

		{"a secret that is a number", schemas.Credential, credential(`,"Password":42`), credential(`,"Password":7`), compose(masked), credential(``), ""},
		{"a secret that is an object", schemas.Credential, credential(`,"Password":{"Plain":"s"}`), credential(`,"Password":"***"`), compose(masked), credential(``), ""},
		{"a secret that is a list", schemas.Credential, credential(`,"Password":["s"]`), "", compose(opaque), credential(``), "/Password"},
		{"true where the target has a secret is a mask like any other", schemas.Credential, credential(`,"Password":true`), credential(`,"Password":"***"`), compose(masked), credential(``), ""},
		{"and does not replace it where it could", schemas.Credential, credential(`,"Password":true`), credential(`,"Password":"t"`), withheld(equal), credential(`,"Password":"t"`), ""},
		{"a switch with a secret's name is none", schemas.Credential, credential(`,"AskPassword":true`), credential(`,"AskPassword":false`), compose(masked), credential(`,"AskPassword":true`), ""},
		{"places that are not there, or no secrets, mean nothing", schemas.Credential, credential(`,"Username":"u","Password":null`), credential(`,"Username":"v","Password":"t"`),
			withheld(equal, "/Nowhere", "/Password/0", "Password", "", "/", "/~2", "/Username", "/Id", "/Password"), credential(`,"Username":"u","Password":"t"`), ""},

		{"what the server refreshes is the target's own", schemas.Connection, credential(`,"OAuth":{"RefreshToken":null,"TenantId":"s"}`), credential(`,"OAuth":{"RefreshToken":"t","TenantId":"t"}`),
			withheld(equal), credential(`,"OAuth":{"RefreshToken":"t","TenantId":"s"}`), ""},
		{"and is not sent where it would be a mask", schemas.Connection, credential(`,"OAuth":{"RefreshToken":"s","TenantId":"s"}`), credential(`,"OAuth":{"RefreshToken":"***","TenantId":"t"}`),
			compose(masked), credential(`,"OAuth":{"TenantId":"s"}`), ""},
		{"nor where the source has none", schemas.Connection, credential(`,"OAuth":{"TenantId":"s"}`), credential(`,"OAuth":{"RefreshToken":"***","TenantId":"t"}`),
			compose(opaque), credential(`,"OAuth":{"TenantId":"s"}`), ""},
		{"nor below what is no configuration", schemas.Job, jobOf("true", `,"Tasks":[{`+otherID+`,"Result":null,"Stats":{"RunPassword":"s"}}]`),
			jobOf("true", `,"Tasks":[{`+otherID+`,"Result":{"Password":"***","Lines":[{"ApiKey":"***","Code":1}]},"Stats":{"RunPassword":"***","Code":2}}]`),
			compose(masked), jobOf("true", `,"Tasks":[{`+otherID+`,"Result":{"Lines":[{"Code":1}]},"Stats":{"Code":2}}]`), ""},

		{"job variables go by their key, not by their place", schemas.Job, jobOf("true", variables(value("b", "null"), value("a", "null"))), jobOf("true", variables(value("a", `"1"`), value("b", `"2"`))),
			withheld(equal, "/Variables/0/ValueObject", "/Variables/1/ValueObject"), jobOf("true", variables(value("b", `"2"`), value("a", `"1"`))), ""},
		{"a new variable has none of another's", schemas.Job, jobOf("true", variables(value("a", "null"), value("c", "null"))), jobOf("false", variables(value("a", `"1"`), value("b", `"2"`))),
			withheld(equal, "/Variables/0/ValueObject", "/Variables/1/ValueObject"), jobOf("false", variables(value("a", `"1"`), bare("c"))), "/Variables/c/ValueObject"},
		{"keys that differ in case only are two", schemas.Job, jobOf("true", variables(value("A", "null"), value("a", "null"))), jobOf("true", variables(value("a", `"1"`), value("A", `"2"`))),
			withheld(equal, "/Variables/0/ValueObject", "/Variables/1/ValueObject"), jobOf("true", variables(value("A", `"2"`), value("a", `"1"`))), ""},
		{"a key in another case is the same where there is one", schemas.Job, jobOf("true", variables(value("Region", "null"))), jobOf("true", variables(value("REGION", `"1"`))),
			withheld(equal, "/Variables/0/ValueObject"), jobOf("true", variables(value("Region", `"1"`))), ""},
		{"of a key that stands twice each has its own", schemas.Job, jobOf("true", variables(value("a", "null"), value("a", "null"), value("a", "null"))), jobOf("true", variables(value("a", `"1"`), value("a", `"2"`))),
			withheld(equal, "/Variables/0/ValueObject", "/Variables/1/ValueObject", "/Variables/2/ValueObject"),
			jobOf("true", variables(value("a", `"1"`), value("a", `"2"`), bare("a"))), "/Variables/a/ValueObject"},
		{"what a null target lacks is known by its key when the list has another order", schemas.Job, jobOf("true", variables(value("b", `"2"`), value("a", `"1"`))), jobOf("false", variables(value("a", "null"), value("b", "null"))),
			with(compose(nulled), func(c *visualcron.Composition) { c.Needs = []string{"/Variables/b/ValueObject"} }), jobOf("false", variables(bare("b"), bare("a"))), "/Variables/b/ValueObject"},
		{"and when the list is shorter", schemas.Job, jobOf("true", variables(value("b", `"2"`))), jobOf("false", variables(value("a", "null"), value("b", "null"))),
			with(compose(nulled), func(c *visualcron.Composition) { c.Needs = []string{"/Variables/b/ValueObject"} }), jobOf("false", variables(bare("b"))), "/Variables/b/ValueObject"},
		{"items of any list have their ids", schemas.Job, jobOf("true", `,"Tasks":[{`+otherID+`,"FTP":{"FTPCommands":[{"Id":"y","FilePassword":null},{"Id":"x","FilePassword":null}]}}]`),
			jobOf("true", `,"Tasks":[{`+otherID+`,"FTP":{"FTPCommands":[{"Id":"x","FilePassword":"1"},{"Id":"Y","FilePassword":"2"}]}}]`),
			withheld(equal, "/Tasks/0/FTP/FTPCommands/0/FilePassword", "/Tasks/0/FTP/FTPCommands/1/FilePassword"),
			jobOf("true", `,"Tasks":[{`+otherID+`,"FTP":{"FTPCommands":[{"Id":"y","FilePassword":"2"},{"Id":"x","FilePassword":"1"}]}}]`), ""},
		{"items without a key are the same where all that is no secret is", schemas.Connection, credential(`,"Hosts":[{"Name":"b","Password":null},{"Name":"c","Password":null},{"Name":"a","Password":null}]`),
			credential(`,"Hosts":[{"Name":"a","Password":"1"},{"Name":"b","Password":"2"}]`), withheld(equal, "/Hosts/0/Password", "/Hosts/1/Password", "/Hosts/2/Password"),
			credential(`,"Hosts":[{"Name":"b","Password":"2"},{"Name":"c"},{"Name":"a","Password":"1"}]`), "/Hosts/1/Password"},
		{"a key of the wrong kind is none", schemas.Job, jobOf("true", `,"Variables":[{"Key":{"x":1},"ValueObject":null},7,null,"a"]`), jobOf("true", `,"Variables":{"Key":"a","ValueObject":"1"}`),
			withheld(equal, "/Variables/0/ValueObject"), jobOf("true", `,"Variables":[{"Key":{"x":1}},7,null,"a"]`), "/Variables/0/ValueObject"},

		{"a new job that needs one is inactive", schemas.Job, jobOf("true", variables(value("a", `"1"`))), "", compose(masked), jobOf("false", variables(bare("a"))), "/Variables/a/ValueObject"},
		{"one that is there keeps its flag", schemas.Job, jobOf("false", variables(value("a", `"1"`))), jobOf("true", ""), compose(masked), jobOf("true", variables(bare("a"))), "/Variables/a/ValueObject"},
		{"it follows when nothing is lacking", schemas.Job, jobOf("false", variables(value("a", `"1"`))), jobOf("true", variables(value("a", `"***"`))), compose(masked), jobOf("false", variables(bare("a"))), ""},
		{"a new job waits for what it refers to", schemas.Job, jobOf("true", ""), "", with(compose(equal), func(c *visualcron.Composition) { c.Wait = true }), jobOf("false", ""), ""},
		{"off goes before all", schemas.Job, jobOf("true", variables(value("a", `"1"`))), jobOf("true", ""), with(compose(masked), func(c *visualcron.Composition) { c.Policy = schemas.Off }), jobOf("false", variables(bare("a"))), "/Variables/a/ValueObject"},
		{"a job that runs once follows when it is new", schemas.Job, jobOf("true", `,"RunOnce":true`), "", compose(equal), jobOf("true", `,"RunOnce":true`), ""},
		{"and then never more", schemas.Job, jobOf("true", `,"RunOnce":true`), jobOf("false", `,"RunOnce":true`), compose(equal), jobOf("false", `,"RunOnce":true`), ""},
		{"however its switch is written", schemas.Job, jobOf("true", `,"RunOnce":"True"`), jobOf("false", `,"RunOnce":"True"`), compose(equal), jobOf("false", `,"RunOnce":"True"`), ""},
		{"so does one that removes itself", schemas.Job, jobOf("false", `,"RemoveAfterExecution":"TRUE"`), jobOf("true", ``), compose(equal), jobOf("true", `,"RemoveAfterExecution":"TRUE"`), ""},
		{"a job without statistics gets its flag", schemas.Job, credential(`,"Stats":7`), "", compose(equal), `{` + credentialID + `,"Stats":{"Active":false,"JobId":"11111111-1111-4111-8111-111111111111"}}`, ""},
		{"an MFT server has its flag at the top", schemas.MFTServer, credential(`,"Active":true,"PrivateKey":"s"`), "", compose(masked), credential(`,"Active":false`), "/PrivateKey"},

		{"a variable's value is the target's own", schemas.Variable, `{"Name":"v","Description":"s","ValueObject":"1"}`, `{"Name":"v","ValueObject":"2"}`, compose(equal), `{"Name":"v","Description":"s","ValueObject":"2"}`, ""},
		{"where it was not captured too", schemas.Variable, `{"Name":"v","ValueObject":null}`, `{"Name":"v","ValueObject":"2"}`,
			visualcron.Composition{Secrets: equal, Withheld: []string{"/ValueObject"}}, `{"Name":"v","ValueObject":"2"}`, ""},
		{"and where the source has none", schemas.Variable, `{"Name":"v"}`, `{"Name":"v","ValueObject":"2"}`, compose(equal), `{"Name":"v","ValueObject":"2"}`, ""},
		{"a new one has none, and needs none", schemas.Variable, `{"Name":"v","ValueObject":"1"}`, "", compose(equal), `{"Name":"v"}`, ""},
		{"nor at a target that takes none", schemas.Variable, `{"Name":"v","ValueObject":"1"}`, `{"Name":"v","ValueObject":"***"}`, compose(masked), `{"Name":"v"}`, ""},
		{"asked for it comes", schemas.Variable, `{"Name":"v","ValueObject":"1"}`, `{"Name":"v","ValueObject":"2"}`, visualcron.Composition{Secrets: equal, Values: true}, `{"Name":"v","ValueObject":"1"}`, ""},
		{"asked for and not captured yet it is on its way", schemas.Variable, `{"Name":"v","ValueObject":null}`, "",
			visualcron.Composition{Secrets: equal, Values: true, Withheld: []string{"/ValueObject"}}, `{"Name":"v"}`, ""},
		{"asked for and withheld somebody has to enter it", schemas.Variable, `{"Name":"v","ValueObject":null}`, "",
			visualcron.Composition{Secrets: equal, Values: true, Withholds: true, Withheld: []string{"/ValueObject"}}, `{"Name":"v"}`, "/ValueObject"},
		{"as where the target takes none", schemas.Variable, `{"Name":"v","ValueObject":"1"}`, "", visualcron.Composition{Secrets: masked, Values: true}, `{"Name":"v"}`, "/ValueObject"},

		{"a server keeps its licence, and its secrets where they do not travel", schemas.ServerSettings, `{"LogLevel":"s","LicenceKey":"s","Mail":{"Port":1,"PassWord":"s"}}`,
			`{"LogLevel":"t","LicenceKey":"t","Mail":{"Port":2,"PassWord":"***"}}`, compose(masked), `{"LogLevel":"s","LicenceKey":"t","Mail":{"Port":2}}`, ""},
		{"no setting of a server is taken out, whatever comes for its settings", schemas.ServerSettings, `{"Error":"s"}`,
			`{"LogLevel":"t","Mail":{"Server":"t"}}`, compose(equal), `{"Error":"s","LogLevel":"t","Mail":{"Server":"t"}}`, ""},
	} {
		t.Run(c.what, func(t *testing.T) {
			var target []byte
			if c.target != "" {
				target = []byte(c.target)
			}
			if c.how.Policy == "" {
				c.how.Policy = schemas.Keep
			}
			got, err := visualcron.Compose(c.t, []byte(c.source), target, c.how)
			if err != nil {
				t.Fatal(err)
			}
			if string(got.Body) != c.want {
				t.Errorf("made  %s\nwant  %s", got.Body, c.want)
			}
			if needs := strings.Join(got.Needs, " "); needs != c.needs {
				t.Errorf("needs %q, want %q", needs, c.needs)
			}
		})
	}
}

func TestComposeRefusesWhatIsNoObject(t *testing.T) {
	for _, c := range [][2]string{{`[]`, ``}, {`{"a":1,"a":2}`, ``}, {`{}`, `{"a":1,"a":2}`}, {`{}`, `null`}, {"{\"a\":\"\xff\"}", ``}, {strings.Repeat(`{"a":`, 200) + `1` + strings.Repeat(`}`, 200), ``}} {
		var target []byte
		if c[1] != "" {
			target = []byte(c[1])
		}
		if _, err := visualcron.Compose(schemas.Credential, []byte(c[0]), target, visualcron.Composition{Secrets: equal}); !errors.Is(err, visualcron.ErrBody) {
			t.Errorf("%.40s at %s: %v", c[0], c[1], err)
		}
	}
}

func TestSealBodyTakesOutWhatDoesNotTravel(t *testing.T) {
	for _, c := range []struct {
		what             string
		t                schemas.Type
		mode             visualcron.SecretMode
		values           bool
		body             string
		want             string
		sealed, withheld string
	}{
		{"what is no secret stays", schemas.Credential, equal, false, `{"Username":"u","Password":"", "AskPassword":true}`, `{"Username":"u","Password":"", "AskPassword":true}`, "", ""},
		{"a secret", schemas.Credential, equal, false, `{"Password":"s"}`, `{"Password":"SEALED"}`, "/Password", ""},
		{"of any kind", schemas.Job, equal, false, `{"Variables":[{"ValueObject":{"a":"s"}},{"ValueObject":["s"]},{"ValueObject":7},{"ValueObject":true},{"ValueObject":null}]}`,
			`{"Variables":[{"ValueObject":"SEALED"},{"ValueObject":"SEALED"},{"ValueObject":"SEALED"},{"ValueObject":"SEALED"},{"ValueObject":null}]}`,
			"/Variables/0/ValueObject /Variables/1/ValueObject /Variables/2/ValueObject /Variables/3/ValueObject", ""},
		{"with a name that a pointer has to escape", schemas.Connection, equal, false, `{"a/b~c":{"PassWord":"s"}}`, `{"a/b~c":{"PassWord":"SEALED"}}`, "/a~1b~0c/PassWord", ""},
		{"a mask is withheld", schemas.Credential, masked, false, `{"Password":"***"}`, `{"Password":null}`, "", "/Password"},
		{"none is none where it would have a mask", schemas.Credential, masked, false, `{"Password":null}`, `{"Password":null}`, "", ""},
		{"a null may be a secret where all are null", schemas.Credential, nulled, false, `{"Password":null}`, `{"Password":null}`, "", "/Password"},
		{"as where nothing is known", schemas.Credential, "", false, `{"Password":null,"Domain":null}`, `{"Password":null,"Domain":null}`, "", "/Password"},
		{"or a mode that nobody knows", schemas.Credential, "vaulted", false, `{"Password":null}`, `{"Password":null}`, "", "/Password"},
		{"a value that nobody asks for", schemas.Variable, equal, false, `{"Name":"v","ValueObject":"s"}`, `{"Name":"v","ValueObject":null}`, "", "/ValueObject"},
		{"a value that somebody asks for", schemas.Variable, equal, true, `{"Name":"v","ValueObject":"s"}`, `{"Name":"v","ValueObject":"SEALED"}`, "/ValueObject", ""},
		{"a value that is asked for and not given", schemas.Variable, opaque, true, `{"Name":"v","ValueObject":"s"}`, `{"Name":"v","ValueObject":null}`, "", "/ValueObject"},
		{"a token that is no configuration is hidden all the same", schemas.Connection, equal, false, `{"OAuth":{"RefreshToken":"s"}}`, `{"OAuth":{"RefreshToken":"SEALED"}}`, "/OAuth/RefreshToken", ""},
		{"so is one among the statistics", schemas.Job, equal, false, `{"Stats":{"LastPassword":"s","Code":{"ApiKey":"s"}}}`, `{"Stats":{"LastPassword":"SEALED","Code":{"ApiKey":"SEALED"}}}`,
			"/Stats/LastPassword /Stats/Code/ApiKey", ""},
		{"where it is not given, somebody has to sign in", schemas.Connection, masked, false, `{"OAuth":{"RefreshToken":"***"}}`, `{"OAuth":{"RefreshToken":null}}`, "", "/OAuth/RefreshToken"},
		{"a licence does not even come into the store", schemas.ServerSettings, equal, false, `{"Id":"s","Name":"s","LicenceKey":"s","ServerId":"s","LogLevel":"n","Web":{"Port":1,"LicensePassword":"s","Url":"u"}}`,
			`{"LogLevel":"n","Web":{"Url":"u"}}`, "", ""},
	} {
		t.Run(c.what, func(t *testing.T) {
			body := []byte(c.body)
			if c.t == schemas.Credential || c.t == schemas.Connection || c.t == schemas.Job {
				body = []byte(strings.Replace(c.body, "{", `{`+credentialID+`,`, 1))
				c.want = strings.Replace(c.want, "{", `{`+credentialID+`,`, 1)
			}
			kept := map[string]string{}
			got, err := visualcron.View{Secrets: c.mode, Values: c.values}.SealBody(c.t, body, func(at, s string) string { kept[at] = s; return "SEALED" })
			if err != nil {
				t.Fatal(err)
			}
			if string(got.Body) != c.want {
				t.Errorf("sealed %s\nwant   %s", got.Body, c.want)
			}
			if places, withheld := strings.Join(got.Places, " "), strings.Join(got.Withheld, " "); places != c.sealed || withheld != c.withheld {
				t.Errorf("sealed %q, withheld %q", places, withheld)
			}
			back, err := visualcron.OpenBody(got.Body, got.Places, func(at, _ string) (string, error) { return kept[at], nil })
			if err != nil {
				t.Fatal(err)
			}
			if c.mode == equal && c.withheld == "" && c.t != schemas.ServerSettings && string(back) != string(body) {
				t.Errorf("opened %s", back)
			}
		})
	}
}

var allModes = []visualcron.SecretMode{equal, opaque, masked, nulled, "", "vaulted"}

// FuzzCompose sends bodies through the whole way: sealed at the source, opened,
// composed for a target, twice. No secret of the source is in what a target gets
// that shall not have it.
func FuzzCompose(f *testing.F) {
	for i, o := range standin.SeedObjects() {
		if i%29 == 0 && len(o.Body) < 20000 {
			f.Add(string(o.Type), []byte(o.Body), []byte(o.Body), byte(i), byte(i/29))
		}
	}
	f.Add("Job", []byte(jobOf("true", `,"Variables":[{"Key":"a","ValueObject":"S3ed-x"},{"Key":"A","ValueObject":{"S3ed":1}},{"ValueObject":["S3ed"]}]`)),
		[]byte(jobOf("true", `,"Variables":[{"Key":"a","ValueObject":7},{"Key":"a","ValueObject":"t"},7]`)), byte(9), byte(3))
	f.Add("Connection", []byte(credential(`,"OAuth":{"RefreshToken":"S3ed-y"},"Hosts":[{"PassWord":"S3ed-z"}]`)), []byte(credential(`,"OAuth":[{"RefreshToken":"t"}],"Hosts":{"PassWord":true}`)), byte(40), byte(5))
	f.Fuzz(func(t *testing.T, typ string, source, target []byte, how, mode byte) {
		x, err := schemas.ParseType(typ)
		if err != nil {
			return
		}
		from, to := allModes[int(mode)%len(allModes)], allModes[int(mode)/len(allModes)%len(allModes)]
		if len(target) == 0 {
			target = nil
		}
		// Every secret of the source is one that can be found again.
		const mark = "S3cret0fTheS0urce"
		source, ok := marked(x, source, mark)
		if !ok {
			return
		}
		values := how&1 != 0
		kept := map[string]string{}
		sealed, err := visualcron.View{Secrets: from, Values: values}.SealBody(x, source, func(at, s string) string { kept[at] = s; return "sealed" })
		if err != nil {
			t.Fatalf("%s could be read and not be sealed: %v", source, err)
		}
		if bytes.Contains(sealed.Body, []byte(mark)) {
			t.Fatalf("a secret lies open in what is stored: %s", sealed.Body)
		}
		if from != equal && len(sealed.Places) > 0 {
			t.Fatalf("what %q gives for secrets was sealed: %v", from, sealed.Places)
		}
		opened, err := visualcron.OpenBody(sealed.Body, sealed.Places, func(at, _ string) (string, error) { return kept[at], nil })
		if err != nil {
			t.Fatalf("what was sealed does not open: %v", err)
		}
		c := visualcron.Composition{Policy: []schemas.ActivePolicy{schemas.Keep, schemas.Follow, schemas.Off}[int(how>>1)%3], Values: how&8 != 0, Secrets: to,
			Withholds: from != equal, Withheld: sealed.Withheld, Wait: how&16 != 0}
		if how&32 != 0 {
			c.Withheld = append(slices.Clone(c.Withheld), "/Nowhere/0", "", "x", "/Id", "/Tasks")
		}
		made, err := visualcron.Compose(x, opened, target, c)
		if err != nil {
			if !errors.Is(err, visualcron.ErrBody) {
				t.Fatal(err)
			}
			return // the target's own body is none
		}
		if v := jsontext.Value(made.Body); !v.IsValid() || v.Kind() != '{' {
			t.Fatalf("made no object: %s", made.Body)
		}
		if (from != equal || to != equal) && bytes.Contains(made.Body, []byte(mark)) && !bytes.Contains(target, []byte(mark)) {
			t.Fatalf("%q to %q: a secret of the source went over: %s", from, to, made.Body)
		}
		if x == schemas.Variable && !c.Values && bytes.Contains(made.Body, []byte(mark)) && !bytes.Contains(target, []byte(mark)) {
			t.Fatalf("a value went over that nobody asked for: %s", made.Body)
		}
		if to != equal {
			if left := visualcron.Secrets(x, made.Body); len(left) > 0 {
				t.Fatalf("%q is sent secrets: %v in %s", to, left, made.Body)
			}
		}
		// The target stores it, and nothing more is to be done.
		c.Needs = made.Needs
		again, err := visualcron.Compose(x, opened, made.Body, c)
		if err != nil {
			t.Fatalf("what was made cannot be composed with: %v", err)
		}
		if !bytes.Equal(sorted(again.Body), sorted(made.Body)) {
			t.Fatalf("made again it is another\nfirst %s\nthen  %s", made.Body, again.Body)
		}
		// A target that takes none keeps its own, which made lacks.
		if (to == equal || target == nil) && fmt.Sprint(again.Needs) != fmt.Sprint(made.Needs) {
			t.Fatalf("it needed %v, and then %v", made.Needs, again.Needs)
		}
	})
}

// sorted returns the body with its members by name: their order says nothing.
func sorted(body []byte) []byte {
	v := jsontext.Value(bytes.Clone(body))
	_ = v.Canonicalize() // of what is no JSON the bytes are compared
	return v
}

// marked returns the body with every secret that is not empty replaced by the mark.
// False where it is no body.
func marked(x schemas.Type, body []byte, mark string) ([]byte, bool) {
	if bytes.Contains(body, []byte(mark)) {
		return nil, false
	}
	s, err := visualcron.View{Secrets: equal, Values: true}.SealBody(x, body, func(string, string) string { return mark })
	return s.Body, err == nil
}
