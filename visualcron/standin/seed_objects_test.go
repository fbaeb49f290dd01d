package standin_test

import (
	"maps"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"unicode"

	"github.com/vcsync/vcsync/schemas"
	"github.com/vcsync/vcsync/visualcron/standin"
)

// refMembers are the members that hold the id of another object, with its type.
var refMembers = map[string]schemas.Type{"ConnectionId": schemas.Connection, "Credential": schemas.Credential, "NetworkCredential": schemas.Credential,
	"Certificate": schemas.Certificate, "SSHKey": schemas.SSHKey, "PGPKeyRing": schemas.PGPKeyRing, "NotificationId": schemas.Notification,
	"ExitCodeCollection": schemas.ExitCode, "TimeExceptions": schemas.TimeException, "User": schemas.User, "Groups": schemas.UserGroup,
	"Group": schemas.UserGroup, "Job": schemas.Job, "JobId": schemas.Job, "Conditions": schemas.Condition}

var (
	inText  = regexp.MustCompile(`\{(?:(USERVAR)\(([^)]*)|(TASK|JOB)\(([^)|,]*))`)
	aGUID   = regexp.MustCompile(`^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$`)
	oddDate = regexp.MustCompile(`^\d{4}-\d\d-\d\dT[\d:.]*(Z|[+-]\d\d:\d\d)?$`)
)

// references returns what a body refers to: objects, and tasks as type "Task".
func references(o standin.Object, body any) []standin.Ref {
	var out []standin.Ref
	var walk func(in, name string, v any)
	walk = func(in, name string, v any) {
		switch v := v.(type) {
		case map[string]any:
			for n, x := range v {
				walk(name, n, x)
			}
		case []any:
			for _, x := range v {
				walk(in, name, x)
			}
		case string:
			// A Group may be a name; a JobId outside of a slot is that of the own job.
			if typ := refMembers[name]; typ != "" && aGUID.MatchString(v) && (name != "JobId" || in == "JobTaskControl") {
				out = append(out, standin.Ref{Type: typ, ID: schemas.ID(v)})
			}
			for _, m := range inText.FindAllStringSubmatch(v, -1) {
				typ := map[string]schemas.Type{"USERVAR": schemas.Variable, "TASK": "Task", "JOB": schemas.Job}[m[1]+m[3]]
				if id := m[2] + m[4]; id != "Active" {
					out = append(out, standin.Ref{Type: typ, ID: schemas.ID(id)})
				}
			}
		}
	}
	walk("", "", body)
	return out
}

// TestSeedRefersToWhatIsThere proves the order of the seed, its cycles and its
// dangling references, and that there are no others.
func TestSeedRefersToWhatIsThere(t *testing.T) {
	objects := standin.SeedObjects()
	if !reflect.DeepEqual(objects, standin.SeedObjects()) {
		t.Error("the seed is another one at every call")
	}
	place := map[standin.Ref]int{}
	bodies := make([]map[string]any, len(objects))
	for i, o := range objects {
		bodies[i] = tree(t, o.Body)
		key := standin.Ref{Type: o.Type, ID: o.ID}
		if _, ok := place[key]; ok {
			t.Errorf("%v stands twice", key)
		}
		place[key] = i
		if tasks, ok := bodies[i]["Tasks"].([]any); ok {
			for _, x := range tasks {
				place[standin.Ref{Type: "Task", ID: schemas.ID(x.(map[string]any)["Id"].(string))}] = i
			}
		}
	}
	dangling := map[standin.Dangling]bool{}
	for _, d := range standin.SeedDangling() {
		dangling[d] = false
	}
	circle := map[[2]standin.Ref]bool{}
	for _, c := range standin.SeedCycles() {
		for i, from := range c {
			circle[[2]standin.Ref{from, c[(i+1)%len(c)]}] = false
		}
	}
	kinds := map[string]bool{}
	for i, o := range objects {
		from := standin.Ref{Type: o.Type, ID: o.ID}
		for _, to := range references(o, bodies[i]) {
			at, there := place[to]
			if _, meant := dangling[standin.Dangling{From: from, To: to}]; meant {
				dangling[standin.Dangling{From: from, To: to}] = true
				if there {
					t.Errorf("%v -> %v does not dangle", from, to)
				}
				continue
			}
			if !there {
				t.Errorf("%v refers to %v, which is nowhere", from, to)
				continue
			}
			kinds[string(o.Type)+"-"+string(to.Type)] = true
			if _, ok := circle[[2]standin.Ref{from, to}]; ok {
				circle[[2]standin.Ref{from, to}] = true
			} else if at > i || at == i && to.Type != "Task" {
				t.Errorf("%v refers to %v, which comes later", from, to)
			}
		}
	}
	for d, found := range dangling {
		if !found {
			t.Errorf("%v is not in the seed", d)
		}
	}
	for c, found := range circle {
		if !found {
			t.Errorf("%v is in no circle", c)
		}
	}
	for _, want := range []string{"Job-Connection", "Job-Credential", "Job-Certificate", "Job-SSHKey", "Job-PGPKeyRing", "Job-Job", "Job-Notification", "Job-Condition",
		"Job-ExitCode", "Job-TimeException", "Job-Variable", "Job-Task", "Job-UserGroup", "Connection-Certificate", "Connection-SSHKey", "NetworkDrive-Credential",
		"MFTServer-Certificate", "MFTServer-SSHKey", "MFTServer-Credential", "MFTServer-User", "User-UserGroup", "Condition-Credential", "Condition-Job",
		"Notification-Connection", "TaskRepository-Credential", "Condition-Variable"} {
		if !kinds[want] {
			t.Errorf("no reference of kind %s", want)
		}
	}
	order := schemas.ApplyOrder()
	if !slices.IsSortedFunc(objects, func(a, b standin.Object) int { return slices.Index(order, a.Type) - slices.Index(order, b.Type) }) {
		t.Error("the types do not come in the order in which they are applied")
	}
}

// TestSeedIsRich looks for what makes it an honest test.
func TestSeedIsRich(t *testing.T) {
	counts, names, ids := map[schemas.Type]int{}, map[string]int{}, map[schemas.ID]int{}
	groups, tasks, dates, spelt := map[any]bool{}, map[int]bool{}, map[string]bool{}, map[string]bool{}
	var text strings.Builder
	scripts, once, removed, sameName := 0, 0, 0, 0
	for _, o := range standin.SeedObjects() {
		counts[o.Type]++
		ids[o.ID]++
		text.Write(o.Body)
		body := tree(t, o.Body)
		if name, ok := body["Name"].(string); ok {
			if names[string(o.Type)+name]++; names[string(o.Type)+name] == 2 {
				sameName++
			}
		}
		if o.Type == schemas.Job {
			groups[body["Group"]] = true
			tasks[len(body["Tasks"].([]any))] = true
			if body["RunOnce"] == true {
				once++
			}
			if body["RemoveAfterExecution"] == true {
				removed++
			}
		}
		var walk func(name string, v any)
		walk = func(name string, v any) {
			switch v := v.(type) {
			case map[string]any:
				for n, x := range v {
					walk(n, x)
				}
			case []any:
				for _, x := range v {
					walk(name, x)
				}
			case string:
				if len(v) >= 300<<10 {
					scripts++
				}
				if m := oddDate.FindStringSubmatch(v); m != nil {
					dates[v[:4]] = true
					dates[regexp.MustCompile(`\d`).ReplaceAllString(v[19:], "0")] = true
				}
				if name == "ProtocolType" || name == "TriggerType" {
					spelt[name+" text"] = true
				}
			case float64:
				spelt[name+" number"] = true
			}
		}
		walk("", body)
	}
	if counts[schemas.Job] != standin.SeedJobs || counts[schemas.Connection] != standin.SeedConnections || counts[schemas.Credential] != standin.SeedCredentials ||
		counts[schemas.Variable] != standin.SeedVariables {
		t.Errorf("counts %v", counts)
	}
	for _, typ := range schemas.Types() {
		if counts[typ] < 3 && typ != schemas.ServerSettings {
			t.Errorf("%d objects of type %s", counts[typ], typ)
		}
	}
	if len(groups) != 12 || len(tasks) != 6 || scripts < 3 || once != 1 || removed != 1 || sameName < 6 {
		t.Errorf("%d groups, %d numbers of tasks, %d scripts, %d run once, %d are removed, %d names more than once", len(groups), len(tasks), scripts, once, removed, sameName)
	}
	if !slices.ContainsFunc(slices.Collect(maps.Values(ids)), func(n int) bool { return n > 1 }) {
		t.Error("no id stands for objects of two types")
	}
	for _, want := range []string{"0001", "9999", "", "Z", ".0000000", ".0000000+00:00"} {
		if !dates[want] {
			t.Errorf("no date with %q", want)
		}
	}
	for _, want := range []string{"ProtocolType text", "ProtocolType number", "TriggerType text", "TriggerType number"} {
		if !spelt[want] {
			t.Errorf("no %s", want)
		}
	}
	all := text.String()
	for _, want := range []string{`\"`, ",", `\r\n`, "請", "å"} {
		if !strings.Contains(all, want) {
			t.Errorf("no %s", want)
		}
	}
	if !strings.ContainsFunc(all, func(r rune) bool { return unicode.Is(unicode.Cyrillic, r) }) {
		t.Error("no Cyrillic")
	}
}

// TestEverySeededSecretStandsInOnePlace, which the stand-in takes for a secret, and
// it takes nothing else for one.
func TestEverySeededSecretStandsInOnePlace(t *testing.T) {
	s := open(t, standin.Config{})
	if err := standin.Seed(s); err != nil {
		t.Fatal(err)
	}
	seeded := regexp.MustCompile(`S3ed-[0-9a-z-]+`)
	stands, secret := map[string]int{}, map[string]int{}
	for _, typ := range schemas.Types() {
		for _, r := range s.Objects(typ) {
			for _, x := range seeded.FindAllString(string(r.Body), -1) {
				stands[x]++
			}
			for at, v := range s.Secrets(typ, r.ID) {
				found := seeded.FindString(v)
				if v != "null" && found == "" {
					t.Errorf("%s/%s%s is taken for a secret", typ, r.ID, at)
				}
				if found != "" {
					secret[found]++
				}
			}
		}
	}
	secrets := standin.SeedSecrets()
	for _, x := range secrets {
		if len(x) < 12 || stands[x] != 1 || secret[x] != 1 {
			t.Errorf("%s: %d in the bodies, %d among the secrets", x, stands[x], secret[x])
		}
	}
	if len(stands) != len(secrets) || len(secret) != len(secrets) || len(secrets) < 200 {
		t.Errorf("%d secrets in the bodies, %d are taken for secrets, %d were made", len(stands), len(secret), len(secrets))
	}
}
