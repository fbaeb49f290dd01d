package visualcron_test

import (
	"flag"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/vcsync/vcsync/schemas"
	"github.com/vcsync/vcsync/visualcron"
	"github.com/vcsync/vcsync/visualcron/standin"
)

var update = flag.Bool("update", false, "write docs/types.md anew")

// seeded returns the bodies of all seeded and built-in objects by type.
func seeded(t *testing.T) map[schemas.Type][][]byte {
	t.Helper()
	s, err := standin.Open(standin.Config{Name: "types"})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	out := map[schemas.Type][][]byte{}
	for _, o := range standin.SeedObjects() {
		out[o.Type] = append(out[o.Type], o.Body)
	}
	for _, x := range schemas.Types() {
		for _, r := range s.Objects(x) {
			out[x] = append(out[x], r.Body)
		}
	}
	return out
}

// Every type has everything: whoever adds one fills all of it.
func TestNoTypeHasAGap(t *testing.T) {
	bodies := seeded(t)
	for _, x := range schemas.Types() {
		t.Run(string(x), func(t *testing.T) {
			f, ok := visualcron.FormOf(x)
			if !ok || !visualcron.Supported(x) {
				t.Fatal("the table does not know it")
			}
			if f.Name == "" || f.Columns == "" || f.Evidence == "" || (f.ID == "") != (x == schemas.ServerSettings) {
				t.Errorf("no id, name, columns or evidence: %+v", f)
			}
			if !slices.Contains(schemas.ApplyOrder(), x) {
				t.Error("it has no place in the order of applying")
			}
			for _, p := range f.Paths {
				if !slices.ContainsFunc(bodies[x], func(b []byte) bool { return visualcron.At(b, p) }) {
					t.Errorf("no seeded object has %s", strings.Join(p, "."))
				}
			}
			if len(visualcron.Columns(x)) == 0 {
				t.Error("no columns")
			}
			for _, b := range bodies[x] {
				d, err := visualcron.Describe(x, b)
				if err != nil || d.Name == "" || len(d.Cells) != len(visualcron.Columns(x)) {
					t.Errorf("described as %+v, %v", d, err)
				}
				for _, s := range visualcron.Secrets(x, b) {
					if len(s) > 3 && strings.Contains(fmt.Sprint(d), s) {
						t.Errorf("a secret stands in the description of %s", d.ID)
					}
				}
			}
			var places []string
			for _, b := range bodies[x] {
				s, err := visualcron.View{Secrets: visualcron.SecretsEqual, Values: true}.SealBody(x, b, func(_, s string) string { return "sealed" })
				if err != nil {
					t.Fatal(err)
				}
				for _, p := range s.Places {
					places = append(places, strings.Trim(strings.Map(func(r rune) rune {
						if '0' <= r && r <= '9' {
							return -1
						}
						return r
					}, p), "/"))
				}
			}
			for _, p := range f.Secret {
				if want := strings.ReplaceAll(strings.ReplaceAll(p, "[]", "/"), ".", "/"); !slices.ContainsFunc(places, func(have string) bool {
					return strings.ReplaceAll(have, "//", "/") == strings.ReplaceAll(want, "//", "/")
				}) {
					t.Errorf("no seeded object has the secret %s; sealed are %v", p, slices.Compact(slices.Sorted(slices.Values(places))))
				}
			}
		})
	}
}

// The table as people read it.
func TestTypesAreDocumented(t *testing.T) {
	var b strings.Builder
	b.WriteString(`# Types

What vcsync knows of every type of object. Made from ` + "`visualcron/form.go`" + `, the one place that knows it, by ` + "`go test ./visualcron -update`" + `.
VisualCron's own names are used. What is assumed waits for a live server.

- *Volatile*: no configuration. It makes no event, and an update leaves the target's own. Of every type: ` + "`CreatedBy`, `ModifiedBy`, `DateCreated`, `DateModified`" + `.
- *Secret*: sealed in the store, shown nowhere, and written only to a target that takes secrets of other servers. Beside those named here, at any depth, members whose name begins with ` + "`Encrypted`" + ` or ends in ` + "`Password`, `Passphrase`, `PrivateKey`, `Secret`, `ApiKey`, `AccessKey`, `AccessToken` or `RefreshToken`" + `, in any case, unless they are switches.
- *Value*: data as much as configuration. Synced only by a setting with variable values.
- *Address*: names a host, or a share of one. Where that is a server of the fleet, the object is flagged: at the target it would still speak to that server.
- *Refers to*: ids of other objects. Beside those named here, in members of these names at any depth: `)
	var names []string
	for _, n := range slices.Sorted(maps.Keys(visualcron.RefNames())) {
		names = append(names, "`"+n+"`")
	}
	b.WriteString(strings.Join(names, ", ") + "; and in any text `{USERVAR(name)}`, `{JOB(guid|…)}`, `{TASK(guid,…)}`.\n")
	b.WriteString("\nOrder of applying: ")
	for i, x := range schemas.ApplyOrder() {
		if i > 0 {
			b.WriteString(", ")
		}
		b.WriteString(string(x))
	}
	b.WriteString(". Deletions go in reverse.\n")
	for _, x := range schemas.Types() {
		f, _ := visualcron.FormOf(x)
		fmt.Fprintf(&b, "\n## %s\n\n| | |\n|---|---|\n", x)
		row := func(what, text string) {
			if text != "" {
				fmt.Fprintf(&b, "| %s | %s |\n", what, text)
			}
		}
		id := f.ID
		if x == schemas.ServerSettings {
			id = "`server`: one object per server, only updated, never created or deleted; taken only by a setting that names the type"
		}
		row("Id", id)
		row("Name", f.Name)
		row("Group", f.Group)
		row("Columns", f.Columns)
		row("Inside", f.Children)
		row("Active policy governs", f.Active)
		row("Volatile", strings.Join(f.Volatile, ", "))
		row("Secret", strings.Join(f.Secret, ", "))
		row("Value", strings.Join(f.Value, ", "))
		row("Address", f.Addresses)
		row("Refers to", strings.Join(f.Refs, ", "))
		row("Built in, never synced", strings.Join(f.BuiltIn, ", "))
		row("Evidence", f.Evidence)
	}
	const file = "../docs/types.md"
	if *update {
		if err := os.WriteFile(file, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	have, err := os.ReadFile(file)
	if err != nil || string(have) != b.String() {
		t.Errorf("%s is not what the table says (%v); run go test ./visualcron -update", file, err)
	}
}
