package visualcron_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/vcsync/vcsync/schemas"
	"github.com/vcsync/vcsync/visualcron"
)

// job is a Job in the shape that public client code shows, with synthetic content.
const job = `{"ResetTriggerDepedency":false,"ResetTriggers":false,"TriggerDependencies":[],
 "Stats":{"JobId":"5b0c2f3e-6a1d-4c58-9e0a-1f2d3c4b5a60","Active":true,"ExitCode":0,"DateLastExecution":"2026-03-04T02:00:00.1371842+01:00",
  "DateModified":"2026-02-27T16:40:02.0031187+01:00","NoExecutes":471,"ExecutionTime":221.78,"Status":1},
 "Id":"5b0c2f3e-6a1d-4c58-9e0a-1f2d3c4b5a60","Name":"Nightly Contoso export","Description":"Copies orders","Group":"Finance","GroupOverride":[],
 "Variables":[{"Key":"Region","ValueObject":"AAEAAAD/////AQ=="},{"Key":"Area","ValueObject":"c2VjcmV0"}],
 "Triggers":[{"Id":"c1a7e5d0-3f4b-4e6a-8b9c-0d1e2f3a4b5c","Active":true,"TriggerType":"TimeType","Description":"Daily","Expires":"9999-12-31T23:59:59.9999999"}],
 "Tasks":[{"Id":"9d8c7b6a-5f4e-4d3c-8b2a-190807060504","Order":1,"Name":"Read","Description":"","TaskType":"SQL","TimeOut":null,
   "Stats":{"Active":true,"Status":1,"Result":"Success","ExecutionTime":12.5},
   "Execute":null,"SQL":{"ConnectionId":"27F0B4C2-88aa-4d0e-9a51-6f3e2d1c0b9a","Command":null,"EncryptedCommand":"T3BhcXVl"}},
  {"Id":"0f1e2d3c-4b5a-4968-8776-655443322110","Order":2,"Name":"Zip","TaskType":"Execute","Stats":{"Active":false},
   "Execute":{"CmdLine":"zip","Password":"hunter2"}}],
 "MissedDate":"0001-01-01T00:00:00Z","RunTasksInOrder":true,"UniqueRunId":0,"ModifiedBy":"1e2d3c4b-5a69-4788-96a5-b4c3d2e1f001","Limit":1.0}`

func keyed(secret string) string { return fmt.Sprintf("%x", secret+"key") }

func normal(t *testing.T, body string) visualcron.Normal {
	t.Helper()
	n, err := visualcron.Normalize(schemas.Job, []byte(body), keyed)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestNormalFormOfAJob(t *testing.T) {
	base := normal(t, job)
	if base.Name != "Nightly Contoso export" || base.Group != "Finance" || base.Who != "1e2d3c4b-5a69-4788-96a5-b4c3d2e1f001" {
		t.Errorf("%+v", base)
	}
	for _, c := range []struct {
		what     string
		old, new string
		changed  string // the pointer that differs, empty for none
	}{
		{"run statistics are no configuration", `"NoExecutes":471`, `"NoExecutes":472`, ""},
		{"a task's statistics are none", `"ExecutionTime":12.5`, `"ExecutionTime":99`, ""},
		{"the last editor is none", `"ModifiedBy":"1e2d`, `"ModifiedBy":"2e2d`, ""},
		{"Active is", `"Active":true,"ExitCode"`, `"Active":false,"ExitCode"`, "/Stats/Active"},
		{"a task's Active is", `"Stats":{"Active":true,"Status"`, `"Stats":{"Active":false,"Status"`, "/Tasks/0/Stats/Active"},
		{"the name is", `Nightly Contoso`, `Weekly Contoso`, "/Name"},
		{"an unknown field is", `"Limit":1.0`, `"Limit":2`, "/Limit"},
		{"an unknown field of a task is", `"Name":"Zip",`, `"Name":"Zip","Fresh":1,`, "/Tasks/1/Fresh"},
		{"an unknown field among null slots is not", `"Execute":null,"SQL"`, `"Execute":null,"Fresh":null,"SQL"`, ""},
		{"null and empty text are equal", `"Description":"","TaskType"`, `"Description":null,"TaskType"`, ""},
		{"an empty list and no list are equal", `"GroupOverride":[],`, ``, ""},
		{"1.0 and 1 are equal", `"Limit":1.0`, `"Limit":1`, ""},
		{"GUIDs compare without case", `27F0B4C2-88aa`, `27f0b4c2-88AA`, ""},
		{"a task type compares without case", `"TaskType":"SQL"`, `"TaskType":"sql"`, ""},
		{"text compares with case", `"Name":"Read"`, `"Name":"read"`, "/Tasks/0/Name"},
		{"never is nothing", `"MissedDate":"0001-01-01T00:00:00Z"`, `"Never":"0001-01-01T00:00:00"`, ""},
		{"no end has one spelling", `23:59:59.9999999`, `23:59:59Z`, ""},
		{"a secret counts", `"T3BhcXVl"`, `"T3RoZXI="`, "/Tasks/0/SQL/EncryptedCommand"},
		{"a password counts", `hunter2`, `hunter3`, "/Tasks/1/Execute/Password"},
		{"a variable's value counts", `c2VjcmV0`, `c2VjcmV1`, "/Variables/0/ValueObject"},
	} {
		t.Run(c.what, func(t *testing.T) {
			if strings.Count(job, c.old) != 1 {
				t.Fatalf("%q stands in the sample %d times", c.old, strings.Count(job, c.old))
			}
			changed := normal(t, strings.Replace(job, c.old, c.new, 1))
			got := visualcron.Differences(base, changed, 10)
			if (base.Digest == changed.Digest) != (c.changed == "") {
				t.Errorf("digests equal: %v, differences %v", base.Digest == changed.Digest, got)
			}
			if c.changed == "" && got != nil || c.changed != "" && (len(got) != 1 || got[0] != c.changed) {
				t.Errorf("differences %v, want %q", got, c.changed)
			}
		})
	}
	t.Run("order of members, tasks and variables means nothing", func(t *testing.T) {
		other := `{"Name":"x","Id":"A","Tasks":[{"Order":2,"Id":"t2"},{"Order":1,"Id":"t1"}],"Variables":[{"Key":"b"},{"Key":"a"}]}`
		same := `{"Id":"A","Name":"x","Variables":[{"Key":"a"},{"Key":"b"}],"Tasks":[{"Id":"t1","Order":1},{"Id":"t2","Order":2}]}`
		if normal(t, other).Digest != normal(t, same).Digest {
			t.Error("digests differ")
		}
	})
	t.Run("no secret is in the clear in the normal form", func(t *testing.T) {
		if s := fmt.Sprintf("%+v", base); strings.Contains(s, "hunter2") || strings.Contains(s, "T3BhcXVl") {
			t.Error(s)
		}
	})
}

func TestWhatIsEqualInTheNormalForm(t *testing.T) {
	j := func(s string) string { return `{"Id":"11111111-1111-4111-8111-111111111111",` + s + `}` }
	for _, c := range []struct {
		name, a, b string
		equal      bool
	}{
		{"a secret in another JSON spelling", `"Variables":[{"Key":"k","ValueObject":"a+b/c"}]`, `"Variables":[{"Key":"k","ValueObject":"a\u002bb\/c"}]`, true},
		{"two texts that begin like the last year", `"Description":"9999-12-31T23:59:59 keep A"`, `"Description":"9999-12-31T23:59:59 keep B"`, false},
		{"a text that begins like year 1", `"Description":"0001-01-01T00:00:00 is not set"`, `"Description":""`, false},
		{"no end with a fraction, an offset and neither", `"D":"9999-12-31T23:59:59.9999999+01:00"`, `"D":"9999-12-31T23:59:59"`, true},
		{"decimals beyond a float", `"N":9007199254740993.0`, `"N":9007199254740992.0`, false},
		{"fractions beyond a float", `"N":0.12345678901234567890`, `"N":0.12345678901234567891`, false},
		{"task order by text", `"Tasks":[{"Id":"a","Order":"10"},{"Id":"b","Order":"9"}]`, `"Tasks":[{"Id":"b","Order":"9"},{"Id":"a","Order":"10"}]`, true},
		{"lists with and without a trailing empty item", `"L":["a"]`, `"L":["a",null]`, false},
		{"an object of empties and none", `"O":{"A":null,"B":""}`, `"X":null`, true},
	} {
		if got := normal(t, j(c.a)).Digest == normal(t, j(c.b)).Digest; got != c.equal {
			t.Errorf("%s: equal is %v, want %v", c.name, got, c.equal)
		}
	}
}

func TestStatisticsAreCarriedWhateverTheCaseOfAnId(t *testing.T) {
	source := `{"Id":"11111111-1111-4111-8111-111111111111","Tasks":[{"Id":"ABCDEF00-1111-4111-8111-111111111111","Order":1,"Stats":{"Active":true}}]}`
	target := `{"Id":"11111111-1111-4111-8111-111111111111","Tasks":[{"Id":"abcdef00-1111-4111-8111-111111111111","Order":1,"Stats":{"Active":true,"NoExecutes":77}}]}`
	out, err := compose(source, []byte(target), schemas.Keep)
	if err != nil || !strings.Contains(string(out), "77") {
		t.Errorf("statistics reset: %s, %v", out, err)
	}
}

func TestBadBodiesAreRefused(t *testing.T) {
	for name, body := range map[string]string{
		"not JSON":        `{"Id":`,
		"an array":        `[]`,
		"null":            `null`,
		"trailing bytes":  `{"Id":"a"} x`,
		"no id":           `{"Name":"a"}`,
		"empty id":        `{"Id":""}`,
		"zero id":         `{"Id":"00000000-0000-0000-0000-000000000000"}`,
		"duplicate names": `{"Id":"a","Name":"x","Name":"y"}`,
		"bad UTF-8":       "{\"Id\":\"a\",\"Name\":\"\xff\"}",
		"lone surrogate":  `{"Id":"a","Name":"\ud800"}`,
		"too deep":        `{"Id":"a","X":` + strings.Repeat("[", 500) + strings.Repeat("]", 500) + `}`,
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := visualcron.Normalize(schemas.Job, []byte(body), keyed); !errors.Is(err, visualcron.ErrBody) {
				t.Errorf("%v, want ErrBody", err)
			}
		})
	}
}

func TestQuickHashFollowsTheNormalForm(t *testing.T) {
	q := visualcron.NewQuickHasher()
	h := func(body string) uint64 {
		v, err := q.Hash(schemas.Job, []byte(body))
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	base := h(job)
	for _, c := range []struct {
		old, new string
		moves    bool
	}{
		{`"NoExecutes":471`, `"NoExecutes":472`, false},
		{`"ExecutionTime":12.5`, `"ExecutionTime":13`, false},
		{`"UniqueRunId":0`, `"UniqueRunId":9`, false},
		{`"Name":"Zip"`, `"Name":"Zap"`, true},
		{`"Active":true,"ExitCode"`, `"Active":false,"ExitCode"`, true},
		{`hunter2`, `hunter3`, true},
		{`"Order":1`, `"Order":3`, true},
		{`"Limit":1.0`, `"Limit":1.0,"Fresh":1`, true},
	} {
		if moved := h(strings.Replace(job, c.old, c.new, 1)) != base; moved != c.moves {
			t.Errorf("%s to %s: the hash moves: %v, want %v", c.old, c.new, moved, c.moves)
		}
	}
}

func TestMomentsOfAJob(t *testing.T) {
	q := visualcron.NewQuickHasher()
	of := func(stats string) visualcron.Moments {
		_, m, err := q.HashWithMoments(schemas.Job, []byte(`{"Id":"a","DateModified":"2031-01-01T00:00:00Z","Stats":{`+stats+`},"Tasks":[{"Id":"t","Stats":{"DateLastExecution":"2031-01-01T00:00:00Z"}}]}`))
		if err != nil {
			t.Fatal(err)
		}
		return m
	}
	ran := func(text string) string { return `"DateLastExecution":"` + text + `"` }
	edited := func(text string) string { return `"DateModified":"` + text + `"` }
	for _, c := range []struct {
		was, now string
		back     bool
	}{
		{ran("2026-11-23T10:00:00Z"), ran("2026-11-23T10:00:00Z"), false},
		{ran("2026-11-23T10:00:00Z"), ran("2026-11-23T11:00:00.0000001+01:00"), false},
		{ran("2026-11-23T10:00:00Z"), ran("2026-11-23T10:50:00+01:00"), false}, // runs that overlap
		{ran("2026-11-23T10:00:00Z"), ran("2026-11-23T10:49:59+01:00"), true},
		{ran("2026-11-23T10:00:00Z"), ran("0001-01-01T00:00:00"), true}, // never
		{ran("0001-01-01T00:00:00"), ran("2026-11-23T10:00:00Z"), false},
		{ran("2026-10-25T02:50:00"), ran("2026-10-25T02:05:00"), false}, // summer time ended
		{ran("2026-10-25T02:50:00"), ran("2026-10-25T01:05:00"), true},
		{ran("2026-11-23T10:00:00Z"), "", false}, // it tells nothing
		{"", ran("2026-11-23T10:00:00Z"), false},
		{ran("2026-11-23T10:00:00Z"), ran("soon"), false},
		{edited("2026-11-23T10:00:00Z"), edited("2026-11-23T09:00:00Z"), true},
		{edited("2026-11-23T10:00:00Z"), edited("2026-11-23T10:00:00Z"), false},
	} {
		if back := of(c.was).Back(of(c.now)); back != c.back {
			t.Errorf("%s to %s: back %v, want %v", c.was, c.now, back, c.back)
		}
	}
}

// compose composes for a target that takes everything.
func compose(source string, target []byte, policy schemas.ActivePolicy) ([]byte, error) {
	c, err := visualcron.Compose(schemas.Job, []byte(source), target, visualcron.Composition{Policy: policy, Values: true, Secrets: visualcron.SecretsEqual})
	return c.Body, err
}

func TestCompose(t *testing.T) {
	target := strings.NewReplacer(`"NoExecutes":471`, `"NoExecutes":7`, `"Active":true,"ExitCode"`, `"Active":false,"ExitCode"`,
		`"ExecutionTime":12.5`, `"ExecutionTime":1`, "Nightly", "Old").Replace(job)
	value := func(t *testing.T, body []byte, ptr string) string {
		t.Helper()
		v := jsontext.Value(body)
		if !v.IsValid() {
			t.Fatalf("not JSON: %s", body)
		}
		for tok := range jsontext.Pointer(ptr).Tokens() {
			v = member(v, tok)
		}
		return string(v)
	}
	for _, c := range []struct {
		what   string
		target []byte
		policy schemas.ActivePolicy
		want   map[string]string
	}{
		{"keep leaves the target's own state and statistics", []byte(target), schemas.Keep,
			map[string]string{"/Stats/Active": "false", "/Stats/NoExecutes": "7", "/Tasks/0/Stats/ExecutionTime": "1", "/Name": `"Nightly Contoso export"`}},
		{"keep: an active job stays active", []byte(job), schemas.Keep, map[string]string{"/Stats/Active": "true"}},
		{"keep: a new job arrives inactive, without statistics", nil, schemas.Keep,
			map[string]string{"/Stats/Active": "false", "/Stats/NoExecutes": "", "/Stats/JobId": `"5b0c2f3e-6a1d-4c58-9e0a-1f2d3c4b5a60"`, "/Tasks/0/Stats/Active": "true", "/Tasks/0/Stats/ExecutionTime": "", "/MissedDate": ""}},
		{"follow takes the source's state", []byte(target), schemas.Follow, map[string]string{"/Stats/Active": "true", "/Stats/NoExecutes": "7"}},
		{"follow: a new job is as at the source", nil, schemas.Follow, map[string]string{"/Stats/Active": "true"}},
		{"off makes inactive", []byte(job), schemas.Off, map[string]string{"/Stats/Active": "false"}},
		{"off: a new job is inactive", nil, schemas.Off, map[string]string{"/Stats/Active": "false"}},
		{"the empty task slots stay", nil, schemas.Keep, map[string]string{"/Tasks/0/Execute": "null"}},
	} {
		t.Run(c.what, func(t *testing.T) {
			out, err := compose(job, c.target, c.policy)
			if err != nil {
				t.Fatal(err)
			}
			for ptr, want := range c.want {
				if got := value(t, out, ptr); got != want {
					t.Errorf("%s is %s, want %s", ptr, got, want)
				}
			}
		})
	}
	t.Run("an equal target composes to itself", func(t *testing.T) {
		out, err := compose(job, []byte(job), schemas.Keep)
		if err != nil {
			t.Fatal(err)
		}
		if normal(t, string(out)).Digest != normal(t, job).Digest {
			t.Error("digests differ")
		}
	})
	t.Run("a source without statistics resets none", func(t *testing.T) {
		out, err := compose(`{"Id":"a","Name":"x"}`, []byte(job), schemas.Keep)
		if err != nil || value(t, out, "/Stats/NoExecutes") != "471" || value(t, out, "/Stats/Active") != "true" {
			t.Errorf("%s, %v", out, err)
		}
	})
}

// member returns a member or an item, "" where there is none.
func member(v jsontext.Value, name string) jsontext.Value {
	dec := jsontext.NewDecoder(strings.NewReader(string(v)))
	tok, err := dec.ReadToken()
	if err != nil {
		return nil
	}
	for i := 0; ; i++ {
		key := fmt.Sprint(i)
		if tok.Kind() == '{' {
			k, err := dec.ReadToken()
			if err != nil || k.Kind() == '}' {
				return nil
			}
			key = k.String()
		}
		val, err := dec.ReadValue()
		if err != nil {
			return nil
		}
		if key == name {
			return val.Clone()
		}
	}
}

func TestSealAndOpenAreInverse(t *testing.T) {
	sealed, places, err := visualcron.SealBody(schemas.Job, []byte(job), func(p, s string) string { return "sealed(" + p + ")" + keyed(s) })
	if err != nil {
		t.Fatal(err)
	}
	if len(places) != 4 {
		t.Errorf("sealed %v, want the two variables, the command and the password", places)
	}
	for _, secret := range []string{"hunter2", "T3BhcXVl", "c2VjcmV0"} {
		if strings.Contains(string(sealed), secret) {
			t.Errorf("%s is in the sealed body", secret)
		}
	}
	opened, err := visualcron.OpenBody(sealed, places, func(p, s string) (string, error) {
		var out []byte
		if _, err := fmt.Sscanf(strings.TrimPrefix(s, "sealed("+p+")"), "%x", &out); err != nil {
			return "", err
		}
		return strings.TrimSuffix(string(out), "key"), nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if normal(t, string(opened)).Digest != normal(t, job).Digest {
		t.Error("the opened body differs")
	}
	if _, err := visualcron.OpenBody(sealed, []string{"/Nowhere/3"}, nil); !errors.Is(err, visualcron.ErrBody) {
		t.Errorf("a place that is not there: %v", err)
	}
}

func TestBuiltIns(t *testing.T) {
	if !visualcron.IsBuiltIn(schemas.Job, "Backup settings", "Default group") || visualcron.IsBuiltIn(schemas.Job, "Backup settings", "Finance") || visualcron.IsBuiltIn(schemas.Job, "x", "Default group") {
		t.Error("built-in jobs are told by name and group")
	}
}
