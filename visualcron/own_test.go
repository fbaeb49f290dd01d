package visualcron_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/vcsync/vcsync/schemas"
	"github.com/vcsync/vcsync/visualcron"
	"github.com/vcsync/vcsync/visualcron/standin"
)

func patches(p ...string) (out []jsontext.Value) {
	for _, x := range p {
		out = append(out, jsontext.Value(x))
	}
	return out
}

func TestComposeKeepsAndOverrides(t *testing.T) {
	keep := func(p ...string) visualcron.Own { return visualcron.Own{Kept: p} }
	patch := func(p ...string) visualcron.Own { return visualcron.Own{Patches: patches(p...)} }
	task := func(id, rest string) string { return `{"Id":"` + id + `"` + rest + `}` }
	tasks := func(items ...string) string { return `,"Tasks":[` + strings.Join(items, ",") + `]` }
	const a, b, c = "aaaaaaaa-1111-4111-8111-111111111111", "bbbbbbbb-1111-4111-8111-111111111111", "cccccccc-1111-4111-8111-111111111111"
	for _, x := range []struct {
		what           string
		t              schemas.Type
		source, target string // an empty target is none
		own            visualcron.Own
		want           string
	}{
		{"a kept field stays", schemas.Connection, credential(`,"Name":"s","Address":"s"`), credential(`,"Name":"t","Address":"t"`), keep("/Address"), credential(`,"Name":"s","Address":"t"`)},
		{"an absent one too", schemas.Connection, credential(`,"Name":"s","Address":"s"`), credential(`,"Name":"t"`), keep("/Address"), credential(`,"Name":"s"`)},
		{"and one that only the target has", schemas.Connection, credential(`,"Name":"s"`), credential(`,"Address":"t"`), keep("/Address"), credential(`,"Name":"s","Address":"t"`)},
		{"a new object begins with the source's", schemas.Connection, credential(`,"Address":"s"`), "", keep("/Address"), credential(`,"Address":"s"`)},
		{"a name that a pointer escapes", schemas.Connection, credential(`,"a/b~c":"s"`), credential(`,"a/b~c":"t"`), keep("/a~1b~0c"), credential(`,"a/b~c":"t"`)},
		{"a whole part", schemas.Connection, credential(`,"Proxy":{"Host":"s","Port":1}`), credential(`,"Proxy":{"Host":"t","User":"t"}`), keep("/Proxy"), credential(`,"Proxy":{"Host":"t","User":"t"}`)},
		{"a field of a part", schemas.Connection, credential(`,"Proxy":{"Host":"s","Port":1}`), credential(`,"Proxy":{"Host":"t","User":"t"}`), keep("/Proxy/Host"), credential(`,"Proxy":{"Host":"t","Port":1}`)},
		{"of a part that the source does not have", schemas.Connection, credential(``), credential(`,"Proxy":{"Host":"t","User":"t"}`), keep("/Proxy/Host"), credential(`,"Proxy":{"Host":"t"}`)},
		{"or has as null", schemas.Connection, credential(`,"Proxy":null`), credential(`,"Proxy":{"Host":"t","User":"t"}`), keep("/Proxy/Host"), credential(`,"Proxy":{"Host":"t"}`)},
		{"a part that is new begins with the source's", schemas.Connection, credential(`,"Proxy":{"Host":"s"}`), credential(`,"Proxy":null`), keep("/Proxy/Host"), credential(`,"Proxy":{"Host":"s"}`)},
		{"an item goes by its id, not its place", schemas.Job, jobOf("true", tasks(task(b, `,"Name":"s"`), task(a, `,"Name":"s"`))), jobOf("true", tasks(task(a, `,"Name":"t"`), task(b, `,"Name":"t"`))),
			keep("/Tasks/" + b + "/Name"), jobOf("true", tasks(task(b, `,"Name":"t"`), task(a, `,"Name":"s"`)))},
		{"in any case", schemas.Job, jobOf("true", tasks(task(b, `,"Name":"s"`))), jobOf("true", tasks(task(strings.ToUpper(b), `,"Name":"t"`))), keep("/Tasks/" + b + "/Name"), jobOf("true", tasks(task(b, `,"Name":"t"`)))},
		{"every item", schemas.Job, jobOf("true", tasks(task(b, `,"Name":"s"`), task(a, `,"Name":"s"`), task(c, `,"Name":"s"`))), jobOf("true", tasks(task(a, `,"Name":"ta"`), task(b, `,"Name":"tb"`))),
			keep("/Tasks/*/Name"), jobOf("true", tasks(task(b, `,"Name":"tb"`), task(a, `,"Name":"ta"`), task(c, `,"Name":"s"`)))},
		{"every item and one of them", schemas.Job, jobOf("true", tasks(task(b, `,"Name":"s","Run":"s"`), task(a, `,"Name":"s","Run":"s"`))), jobOf("true", tasks(task(a, `,"Name":"t","Run":"t"`), task(b, `,"Name":"t","Run":"t"`))),
			keep("/Tasks/*/Name", "/Tasks/"+a+"/Run"), jobOf("true", tasks(task(b, `,"Name":"t","Run":"s"`), task(a, `,"Name":"t","Run":"t"`)))},
		{"a whole item", schemas.Job, jobOf("true", tasks(task(a, `,"Name":"s"`), task(b, `,"Name":"s"`))), jobOf("true", tasks(task(a, `,"Run":"t"`))), keep("/Tasks/" + a), jobOf("true", tasks(task(a, `,"Run":"t"`), task(b, `,"Name":"s"`)))},
		{"that only the target has", schemas.Job, jobOf("true", tasks(task(b, `,"Name":"s"`))), jobOf("true", tasks(task(a, `,"Run":"t"`), task(c, ``))), keep("/Tasks/" + a), jobOf("true", tasks(task(b, `,"Name":"s"`), task(a, `,"Run":"t"`)))},
		{"also where the source has no list", schemas.Job, jobOf("true", `,"Tasks":null`), jobOf("true", tasks(task(a, `,"Run":"t"`), task(c, ``))), keep("/Tasks/" + a), jobOf("true", tasks(task(a, `,"Run":"t"`)))},
		{"that only the source has", schemas.Job, jobOf("true", tasks(task(a, ``), task(b, ``))), jobOf("true", tasks(task(b, ``))), keep("/Tasks/" + a), jobOf("true", tasks(task(b, ``)))},
		{"also where the target has no list", schemas.Job, jobOf("true", tasks(task(a, ``), task(b, ``))), jobOf("true", ``), keep("/Tasks/" + a), jobOf("true", tasks(task(b, ``)))},
		{"an item that is gone takes its kept fields along", schemas.Job, jobOf("true", `,"Tasks":[]`), jobOf("true", tasks(task(a, `,"Name":"t"`))), keep("/Tasks/*/Name"), jobOf("true", `,"Tasks":[]`)},
		{"a variable of a job by its key", schemas.Job, jobOf("true", `,"Variables":[{"Key":"K","Note":"s"}]`), jobOf("true", `,"Variables":[{"Key":"k","Note":"t"}]`), keep("/Variables/k/Note"), jobOf("true", `,"Variables":[{"Key":"K","Note":"t"}]`)},
		{"items without a key", schemas.Connection, credential(`,"Hosts":[{"Name":"b","Port":1},{"Name":"a","Port":1}]`), credential(`,"Hosts":[{"Name":"a","Port":2},{"Name":"b","Port":3}]`), keep("/Hosts/*/Port"),
			credential(`,"Hosts":[{"Name":"b","Port":3},{"Name":"a","Port":2}]`)},
		{"a secret", schemas.Credential, credential(`,"Password":"s"`), credential(`,"Password":"t"`), keep("/Password"), credential(`,"Password":"t"`)},
		{"run statistics are no less the target's own", schemas.Job, jobOf("false", ``), `{` + credentialID + `,"Stats":{"Runs":7,"Active":true},"Description":"t"}`, keep("/Description"),
			`{` + credentialID + `,"Stats":{"Active":false,"Runs":7,"JobId":"11111111-1111-4111-8111-111111111111"},"Description":"t"}`},
		{"its id stays whatever is kept", schemas.TaskRepository, `{"Task":{"Id":"` + a + `","Name":"s"}}`, `{"Task":{"Id":"` + b + `","Name":"t"}}`, keep("/Task"), `{"Task":{"Id":"` + a + `","Name":"t"}}`},

		{"an override sets", schemas.Connection, credential(`,"Address":"s","Port":1`), credential(`,"Address":"t"`), patch(`{"Address":"o"}`), credential(`,"Address":"o","Port":1`)},
		{"also where it is new", schemas.Connection, credential(``), "", patch(`{"Proxy":{"Host":"o","User":null}}`), credential(`,"Proxy":{"Host":"o"}`)},
		{"goes deep", schemas.Connection, credential(`,"Proxy":{"Host":"s","Port":1}`), "", patch(`{"Proxy":{"Host":"o"}}`), credential(`,"Proxy":{"Host":"o","Port":1}`)},
		{"takes out", schemas.Connection, credential(`,"Proxy":{"Host":"s","Port":1}`), credential(`,"Proxy":{"Port":2}`), patch(`{"Proxy":{"Port":null}}`), credential(`,"Proxy":{"Host":"s"}`)},
		{"replaces a list", schemas.Connection, credential(`,"Hosts":["s","t"]`), "", patch(`{"Hosts":["o",null]}`), credential(`,"Hosts":["o",null]`)},
		{"the later one wins", schemas.Connection, credential(``), "", patch(`{"Address":"1","Port":1}`, `{"Address":"2"}`), credential(`,"Address":"2","Port":1`)},
		{"what is kept wins over it", schemas.Connection, credential(`,"Address":"s"`), credential(`,"Address":"t"`), visualcron.Own{Kept: []string{"/Address"}, Patches: patches(`{"Address":"o"}`)}, credential(`,"Address":"t"`)},
		{"but begins with it", schemas.Connection, credential(`,"Address":"s"`), "", visualcron.Own{Kept: []string{"/Address"}, Patches: patches(`{"Address":"o"}`)}, credential(`,"Address":"o"`)},
		{"a list that replaces one keeps the secrets of the target's items", schemas.Job, jobOf("true", `,"Variables":[{"Key":"z","ValueObject":"s"}]`), jobOf("true", `,"Variables":[{"Key":"a","ValueObject":"t"}]`),
			patch(`{"Variables":[{"Key":"a"}]}`), jobOf("true", `,"Variables":[{"Key":"a","ValueObject":"t"}]`)},
		{"a job that an override lets run once follows no more", schemas.Job, jobOf("true", `,"RunOnce":false`), jobOf("false", `,"RunOnce":true`), patch(`{"RunOnce":true}`), jobOf("false", `,"RunOnce":true`)},
	} {
		t.Run(x.what, func(t *testing.T) {
			var target []byte
			if x.target != "" {
				target = []byte(x.target)
			}
			made, err := visualcron.Compose(x.t, []byte(x.source), target, visualcron.Composition{Policy: schemas.Follow, Secrets: equal, Own: x.own})
			if err != nil {
				t.Fatal(err)
			}
			if string(made.Body) != x.want {
				t.Errorf("made %s\nwant %s", made.Body, x.want)
			}
			again, err := visualcron.Compose(x.t, []byte(x.source), made.Body, visualcron.Composition{Policy: schemas.Follow, Secrets: equal, Own: x.own})
			if err != nil || !bytes.Equal(sorted(again.Body), sorted(made.Body)) {
				t.Errorf("made again it is %s, %v", again.Body, err)
			}
		})
	}
}

func TestNormalFormWithoutWhatIsKept(t *testing.T) {
	const a = "aaaaaaaa-1111-4111-8111-111111111111"
	for _, x := range []struct {
		one, other string
		kept       []string
		same       bool
	}{
		{`,"Address":"s"`, `,"Address":"t"`, []string{"/Address"}, true},
		{`,"Address":"s"`, ``, []string{"/Address"}, true},
		{`,"Address":"s","Port":1`, `,"Address":"t","Port":2`, []string{"/Address"}, false},
		{`,"Proxy":{"Host":"s"}`, ``, []string{"/Proxy/Host"}, true},
		{`,"L":[{"Id":"` + a + `","N":"s"},{"N":"x"}]`, `,"L":[{"N":"x"}]`, []string{"/L/" + a}, true},
		{`,"L":[{"Id":"` + a + `","N":"s"}]`, ``, []string{"/L/*"}, true},
		{`,"L":[{"Id":"` + a + `","N":"s","M":1}]`, `,"L":[{"Id":"` + a + `","N":"t","M":1}]`, []string{"/L/*/N"}, true},
		{`,"L":[{"Id":"` + a + `","N":"s","M":1}]`, `,"L":[{"Id":"` + a + `","N":"t","M":2}]`, []string{"/L/*/N"}, false},
		{`,"L":[{"Id":"b","N":"s"}]`, `,"L":[{"Id":"b","N":"t"}]`, []string{"/L/" + a + "/N"}, false},
	} {
		view := visualcron.View{Secrets: equal, Kept: x.kept, Digest: func(s string) string { return s }}
		one, err := view.Normalize(schemas.Connection, []byte(credential(x.one)))
		if err != nil {
			t.Fatal(err)
		}
		other, err := view.Normalize(schemas.Connection, []byte(credential(x.other)))
		if err != nil {
			t.Fatal(err)
		}
		if (one.Digest == other.Digest) != x.same {
			t.Errorf("%s and %s, kept %v: same is %v", x.one, x.other, x.kept, !x.same)
		}
	}
}

func TestOwnIsChecked(t *testing.T) {
	for _, x := range []struct {
		t    schemas.Type
		kept string
		ok   bool
	}{
		{schemas.Job, "/Description", true}, {schemas.Job, "/Tasks/*/Name", true}, {schemas.Job, "/Variables/*/ValueObject", true}, {schemas.Job, "/Tasks", true},
		{schemas.Job, "/Id", false}, {schemas.Job, "/Stats/Active", false}, {schemas.Job, "/Stats", false}, {schemas.Job, "/Stats/Runs", false}, {schemas.Job, "/DateModified", false},
		{schemas.Job, "/Tasks/*/Stats/Runs", false}, {schemas.Job, "/Tasks/*/Stats/Active", true}, {schemas.Job, "", false}, {schemas.Job, "/", false}, {schemas.Job, "x", false}, {schemas.Job, "/a~2", false},
		{schemas.TaskRepository, "/Task", false}, {schemas.TaskRepository, "/Task/Id", false}, {schemas.TaskRepository, "/Task/Name", true},
		{schemas.MFTServer, "/Active", false}, {schemas.Variable, "/Name", false}, {"Nonsense", "/x", false},
	} {
		if err := visualcron.CheckKept(x.t, x.kept); (err == nil) != x.ok || err != nil && !errors.Is(err, visualcron.ErrOwn) {
			t.Errorf("kept %s of %s: %v", x.kept, x.t, err)
		}
	}
	for _, x := range []struct {
		t     schemas.Type
		patch string
		ok    bool
	}{
		{schemas.Connection, `{"Address":"x"}`, true}, {schemas.Job, `{"Tasks":[{"Id":"x","Name":"y"}]}`, true}, {schemas.Connection, `{"AskPassword":true}`, true},
		{schemas.Connection, `{"Id":"x"}`, false}, {schemas.Job, `{"Stats":{"Active":true}}`, false}, {schemas.Job, `{"Stats":null}`, false}, {schemas.Job, `{"Stats":{"Runs":0}}`, false},
		{schemas.Credential, `{"Password":"hunter2"}`, false}, {schemas.Credential, `{"Password":null}`, false}, {schemas.Connection, `{"a":{"b":[{"PassWord":"hunter2"}]}}`, false},
		{schemas.Job, `{"Variables":[{"Key":"a","ValueObject":"hunter2"}]}`, false}, {schemas.TaskRepository, `{"Task":null}`, false}, {schemas.TaskRepository, `{"Task":{"Name":"x"}}`, true},
		{schemas.Connection, `[]`, false}, {schemas.Connection, `7`, false}, {schemas.Connection, `{"a":1,"a":2}`, false}, {schemas.Connection, ``, false}, {"Nonsense", `{}`, false},
	} {
		err := visualcron.CheckOverride(x.t, jsontext.Value(x.patch))
		if (err == nil) != x.ok || err != nil && (!errors.Is(err, visualcron.ErrOwn) || strings.Contains(err.Error(), "hunter2")) {
			t.Errorf("override %s of %s: %v", x.patch, x.t, err)
		}
		if _, cerr := visualcron.Compose(x.t, []byte(credential(``)), nil, visualcron.Composition{Own: visualcron.Own{Patches: patches(x.patch)}}); !x.ok && cerr == nil {
			t.Errorf("override %s of %s was applied", x.patch, x.t)
		}
	}
}

func TestComposeRewritesIds(t *testing.T) {
	const s1, s2, s3 = "11111111-1111-4111-8111-111111111111", "22222222-1111-4111-8111-111111111111", "33333333-1111-4111-8111-111111111111"
	const t1, t2 = "a1111111-1111-4111-8111-111111111111", "a2222222-1111-4111-8111-111111111111"
	ids := func(x schemas.Type, id schemas.ID) schemas.ID {
		switch {
		case x == schemas.Job && id == s1:
			return t1
		case x == schemas.Credential && id == s2:
			return t2
		}
		return id
	}
	source := `{"Id":"` + s1 + `","Stats":{"Active":true,"JobId":"` + s1 + `"},"Credential":"` + strings.ToUpper(s2) + `","CredentialId":"` + s3 + `","Group":"` + s2 + `",` +
		`"Tasks":[{"Id":"` + s2 + `","JobId":"` + s1 + `","Text":"a {JOB(` + s1 + `|Variable|x)} {TASK(` + s1 + `,Name)} { {job( ` + s1 + ` )} {JOB(` + s2 + `)} {USERVAR(v)} {JOB(` + s1 + ` {"}]}`
	want := `{"Id":"` + t1 + `","Stats":{"Active":true,"JobId":"` + t1 + `"},"Credential":"` + t2 + `","CredentialId":"o","Group":"` + s2 + `",` +
		`"Tasks":[{"Id":"` + s2 + `","JobId":"` + t1 + `","Text":"a {JOB(` + t1 + `|Variable|x)} {TASK(` + s1 + `,Name)} { {job( ` + t1 + ` )} {JOB(` + s2 + `)} {USERVAR(v)} {JOB(` + s1 + ` {"}]}`
	made, err := visualcron.Compose(schemas.Job, []byte(source), nil, visualcron.Composition{Policy: schemas.Follow, Secrets: equal,
		Own: visualcron.Own{IDs: ids, Patches: patches(`{"CredentialId":"o"}`)}})
	if err != nil {
		t.Fatal(err)
	}
	if string(made.Body) != want {
		t.Errorf("made %s\nwant %s", made.Body, want)
	}
	refs, err := visualcron.References(schemas.Job, made.Body)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range refs {
		if !r.Task && ids(r.Type, r.ID) != r.ID {
			t.Errorf("%v is the source's", r)
		}
	}
}

// keptPlaces are what random bodies keep; overridden what patches set.
var (
	keptPlaces = []string{"/Description", "/FTP/Host", "/Tasks/*/Run", "/Tasks/t1/Name", "/Triggers/g1", "/Box", "/New"}
	overridden = []string{`{"Description":"o","Group":"o"}`, `{"FTP":{"Port":9},"Note":null}`, `{"Order":[1,2]}`}
)

// edit changes a random thing of a body.
func edit(rng *rand.Rand, b map[string]any) {
	v := fmt.Sprintf("v%d", rng.IntN(1000))
	item := func(list, id string) {
		l, _ := b[list].([]any)
		i := slices.IndexFunc(l, func(x any) bool { return x.(map[string]any)["Id"] == id })
		switch {
		case i < 0:
			b[list] = slices.Insert(slices.Clone(l), rng.IntN(len(l)+1), any(map[string]any{"Id": id, "Name": v, "Run": v}))
		case rng.IntN(3) == 0:
			b[list] = slices.Delete(slices.Clone(l), i, i+1)
		default:
			l[i].(map[string]any)[[]string{"Name", "Run", "Other"}[rng.IntN(3)]] = v
		}
	}
	switch rng.IntN(12) {
	case 0, 1:
		b["Description"] = v
	case 2:
		b["Note"], b["Group"] = v, v
	case 3:
		delete(b, []string{"Description", "Note", "Box", "New", "FTP"}[rng.IntN(5)])
	case 4, 5:
		f, _ := b["FTP"].(map[string]any)
		if f == nil {
			f = map[string]any{}
			b["FTP"] = f
		}
		f[[]string{"Host", "Port", "Dir"}[rng.IntN(3)]] = v
	case 6:
		b["Box"] = []any{v, nil, map[string]any{"x": v}}
	case 7:
		b["Order"], b["New"] = []any{v}, v
	case 8, 9:
		item("Tasks", []string{"t1", "t2", "t3"}[rng.IntN(3)])
	case 10:
		item("Triggers", []string{"g1", "g2"}[rng.IntN(2)])
	case 11:
		b["FTP"] = nil
	}
}

// ownedAt tells what stands at the kept places of a body, by an own reading of it. What
// holds a place that is not there is not told.
func ownedAt(b map[string]any, kept []string) map[string]string {
	out := map[string]string{}
	var walk func(at string, v any, tokens []string)
	walk = func(at string, v any, tokens []string) {
		if len(tokens) == 0 {
			raw, _ := json.Marshal(v)
			out[at] = string(raw)
			return
		}
		switch v := v.(type) {
		case map[string]any:
			walk(at+"/"+tokens[0], v[tokens[0]], tokens[1:])
		case []any:
			for _, it := range v {
				if m, ok := it.(map[string]any); ok && (tokens[0] == "*" || m["Id"] == tokens[0]) {
					walk(at+"/"+fmt.Sprint(m["Id"]), any(m), tokens[1:])
				}
			}
		}
	}
	for _, k := range kept {
		walk("", any(b), strings.Split(k, "/")[1:])
	}
	return out
}

// patched is RFC 7396, word for word.
func patched(target, patch any) any {
	p, ok := patch.(map[string]any)
	if !ok {
		return patch
	}
	t, ok := target.(map[string]any)
	if !ok {
		t = map[string]any{}
	}
	t = maps.Clone(t)
	for k, v := range p {
		if v == nil {
			delete(t, k)
		} else {
			t[k] = patched(t[k], v)
		}
	}
	return t
}

func decoded(t *testing.T, b []byte) (out map[string]any) {
	if err := json.Unmarshal(b, &out); err != nil {
		t.Fatal(err)
	}
	return out
}

// TestRandomEditsWithOwnedFields edits both sides at random. What the target owns
// survives every sync, all else becomes as the source and the overrides say, a second
// sync writes nothing, and neither does one after edits of owned fields alone.
func TestRandomEditsWithOwnedFields(t *testing.T) {
	for seed := range uint64(80) {
		rng := rand.New(rand.NewPCG(seed, 5))
		var own visualcron.Own
		for _, k := range keptPlaces {
			if rng.IntN(2) == 0 {
				own.Kept = append(own.Kept, k)
			}
		}
		for _, p := range overridden {
			if rng.IntN(2) == 0 {
				own.Patches = append(own.Patches, jsontext.Value(p))
			}
		}
		full := visualcron.View{Secrets: equal, Values: true}
		rest := visualcron.View{Secrets: equal, Values: true, Kept: own.Kept}
		normal := func(v visualcron.View, b []byte) visualcron.Normal {
			n, err := v.Normalize(schemas.Job, b)
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
		source := map[string]any{"Id": "11111111-1111-4111-8111-111111111111", "Stats": map[string]any{"Active": true}, "Name": "n"}
		var target []byte
		sync := func(step int) bool {
			src, _ := json.Marshal(source)
			made, err := visualcron.Compose(schemas.Job, src, target, visualcron.Composition{Policy: schemas.Follow, Secrets: equal, Own: own})
			if err != nil {
				t.Fatal(err)
			}
			var want any = source
			for _, p := range own.Patches {
				want = patched(want, decoded(t, p))
			}
			wanted, _ := json.Marshal(want)
			if d := visualcron.Differences(normal(rest, made.Body), normal(rest, wanted), 8); d != nil {
				t.Fatalf("seed %d step %d: %v did not become the source's\nkept %v patches %s\nwanted %s\ntarget %s\nmade   %s", seed, step, d, own.Kept, own.Patches, wanted, target, made.Body)
			}
			if target != nil {
				before, after := ownedAt(decoded(t, target), own.Kept), ownedAt(decoded(t, made.Body), own.Kept)
				for at, v := range before {
					if now, ok := after[at]; ok && now != v {
						t.Fatalf("seed %d step %d: owned %s was %s and is %s\nkept %v patches %s\nsource %s\ntarget %s\nmade   %s", seed, step, at, v, now, own.Kept, own.Patches, src, target, made.Body)
					} else if !ok && v != "null" && (strings.Count(at, "/") < 3 || strings.HasPrefix(at, "/FTP")) {
						t.Fatalf("seed %d step %d: owned %s was %s and is gone", seed, step, at, v)
					}
				}
				if normal(full, made.Body).Digest == normal(full, target).Digest {
					return false
				}
			}
			target = made.Body
			return true
		}
		sync(0)
		for step := range 60 {
			b := decoded(t, target)
			switch rng.IntN(3) {
			case 0:
				edit(rng, source)
			case 1:
				edit(rng, b)
			case 2: // of what is owned alone
				was := normal(rest, target).Digest
				held := b["FTP"] != nil
				edit(rng, b)
				raw, _ := json.Marshal(b)
				if normal(rest, raw).Digest == was && held == (b["FTP"] != nil) { // what is new here begins with the source's
					target = raw
					if sync(step) {
						t.Fatalf("seed %d step %d: an edit of what is owned made a write", seed, step)
					}
				}
				continue
			}
			target, _ = json.Marshal(b)
			sync(step)
			if sync(step) {
				t.Fatalf("seed %d step %d: written again without cause", seed, step)
			}
		}
	}
}

// FuzzComposeOwn: whatever is kept and overridden, what was made is made again of itself,
// it has the id that it shall have, no secret of the source goes where none shall go,
// and without what is kept it is what it would be.
func FuzzComposeOwn(f *testing.F) {
	f.Add("Job", []byte(jobOf("true", `,"Tasks":[{"Id":"a","Name":"s"},{"Id":"b"}],"FTP":null`)), []byte(jobOf("true", `,"Tasks":[{"Id":"b","Name":"t"}],"FTP":{"Host":"t"}`)), "/Tasks/*/Name /FTP/Host /Tasks/a", []byte(`{"Note":"o","Tasks":null}`), byte(0))
	f.Add("Connection", []byte(credential(`,"Hosts":[{"Name":"s","PassWord":"s"}]`)), []byte(credential(`,"Hosts":[{"Name":"t","PassWord":"t"}]`)), "/Hosts", []byte(`{"Hosts":[{"Name":"o"}]}`), byte(2))
	f.Add("TaskRepository", []byte(`{"Task":{"Id":"11111111-1111-4111-8111-111111111111"}}`), []byte(`{"Task":{"Id":"22222222-1111-4111-8111-111111111111"}}`), "/Task /*", []byte(`{"Task":{"Name":"o"}}`), byte(1))
	for i, o := range standin.SeedObjects() {
		if i%97 == 0 && len(o.Body) < 20000 {
			f.Add(string(o.Type), []byte(o.Body), []byte(o.Body), "/Name /Tasks/*/Name", []byte(`{"Description":"o"}`), byte(i))
		}
	}
	f.Fuzz(func(t *testing.T, typ string, source, target []byte, kept string, patch []byte, mode byte) {
		x, err := schemas.ParseType(typ)
		if err != nil {
			return
		}
		const mark = "S3cret0fTheS0urce"
		if source, _ = marked(x, source, mark); source == nil || bytes.Contains(target, []byte(mark)) || bytes.Contains(patch, []byte(mark)) {
			return
		}
		var own visualcron.Own
		for _, k := range strings.Fields(kept) {
			if len(k) > 1 && jsontext.Pointer(k).IsValid() {
				own.Kept = append(own.Kept, k) // also those that nobody may set
			}
		}
		if visualcron.CheckOverride(x, patch) == nil {
			own.Patches = patches(string(patch))
		}
		if len(target) == 0 {
			target = nil
		}
		c := visualcron.Composition{Policy: []schemas.ActivePolicy{schemas.Keep, schemas.Follow, schemas.Off}[int(mode)%3], Values: true, Secrets: allModes[int(mode/3)%len(allModes)], Own: own}
		made, err := visualcron.Compose(x, source, target, c)
		if err != nil {
			return
		}
		if c.Secrets != equal && bytes.Contains(made.Body, []byte(mark)) {
			t.Fatalf("a secret of the source went over: %s", made.Body)
		}
		c.Needs = made.Needs
		again, err := visualcron.Compose(x, source, made.Body, c)
		if err != nil {
			t.Fatalf("what was made cannot be composed with: %v", err)
		}
		if !bytes.Equal(sorted(again.Body), sorted(made.Body)) {
			t.Fatalf("made again it is another, kept %q patch %s\nsource %s\ntarget %s\nfirst %s\nthen  %s", own.Kept, own.Patches, source, target, made.Body, again.Body)
		}
		if want, err := visualcron.BodyID(x, source); err == nil {
			if got, err := visualcron.BodyID(x, made.Body); err != nil || got != want {
				t.Fatalf("it is called %q, %v; want %q: %s", got, err, want, made.Body)
			}
		}
	})
}
