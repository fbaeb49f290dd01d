package control_test

import (
	"bytes"
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/vcsync/vcsync/control"
	"github.com/vcsync/vcsync/schemas"
)

// The schemas that an export brings along for editors are made from the Go types; what
// is in the repository shows their changes.
func TestConfigSchemas(t *testing.T) {
	for _, dir := range []string{control.ServersDir, control.SettingsDir} {
		got, err := control.ConfigSchema(dir)
		if err != nil {
			t.Fatal(err)
		}
		file := "config-" + control.ConfigSchemaFile(dir)
		if *update {
			if err := os.WriteFile(file, got, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, want) {
			t.Errorf("%s is not what the Go types say; run go test ./control -update and look at the difference", file)
		}
		if strings.Contains(strings.ToLower(string(got)), `"password"`) {
			t.Errorf("%s has a place for a password", file)
		}
		doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(got))
		if err != nil {
			t.Fatal(err)
		}
		c := jsonschema.NewCompiler()
		if err := c.AddResource("file.schema.json", doc); err != nil {
			t.Fatal(err)
		}
		s, err := c.Compile("file.schema.json")
		if err != nil {
			t.Fatal(err)
		}
		good := map[string]string{control.ServersDir: goodServer, control.SettingsDir: goodSetting}[dir]
		v, err := jsonschema.UnmarshalJSON(strings.NewReader(good))
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Validate(v); err != nil {
			t.Errorf("%s refuses what is read: %v", file, err)
		}
	}
}

const (
	goodServer  = `{"$schema":"../schema/server.schema.json","id":"a","name":"A","connector":"bridge","address":"http://127.0.0.1:7701","user":"admin"}`
	goodSetting = `{"$schema":"../schema/setting.schema.json","id":"one","source":"a","target":"b","active":true,"rules":{"Job":{"sync":"all","new":true}}}`
)

// Every fault of a file is named with the place where it stands.
func TestConfigFiles(t *testing.T) {
	if f, err := control.ParseServerFile([]byte(goodServer)); err != nil || f.ID != "a" || f.Address != "http://127.0.0.1:7701" {
		t.Errorf("%+v, %v", f, err)
	}
	if f, err := control.ParseSettingFile([]byte(goodSetting)); err != nil || f.ActivePolicy != "keep" || !f.Rules["Job"].New {
		t.Errorf("%+v, %v", f, err)
	}
	setting := func(old, with string) string {
		if !strings.Contains(goodSetting, old) {
			t.Fatalf("no %s", old)
		}
		return strings.Replace(goodSetting, old, with, 1)
	}
	for _, c := range []struct {
		name, file string
		want       []string
	}{
		{"no JSON", "{\n\"id\": one}", []string{"line 2", "no JSON"}},
		{"the same name twice", setting(`"id":"one"`, `"id":"one","id":"two"`), []string{"duplicate"}},
		{"two documents", goodSetting + goodSetting, []string{"no JSON"}},
		{"a list", `[]`, []string{"one JSON object"}},
		{"empty", ``, []string{"no JSON"}},
		{"an unknown member", setting(`"active":true`, `"active":true,"activ":1`), []string{"activ: unexpected property"}},
		{"an unknown member of a rule", setting(`"new":true`, `"news":true`), []string{"rules.Job.news: unexpected property"}},
		{"a missing member", setting(`"active":true,`, ``), []string{"active"}},
		{"two faults", setting(`"source":"a"`, `"source":1,"activePolicy":"on"`), []string{"source: expected string", "activePolicy: "}},
		{"an unknown type", setting(`"Job"`, `"Jobs"`), []string{"rules", "did you mean Job"}},
		{"source and target the same", setting(`"target":"b"`, `"target":"a"`), []string{"target: is the source itself"}},
		{"rights beside listed", setting(`"sync":"all"`, `"sync":"listed"`), []string{"rules.Job", "belong to all"}},
		{"no id", setting(`"id":"one",`, ``), []string{"id"}},
	} {
		_, err := control.ParseSettingFile([]byte(c.file))
		if !errors.Is(err, schemas.ErrSetting) {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		for _, w := range c.want {
			if !strings.Contains(err.Error(), w) {
				t.Errorf("%s: no %q in %v", c.name, w, err)
			}
		}
	}
	for _, file := range []string{strings.Replace(goodServer, `"user"`, `"password":"x","user"`, 1), strings.Replace(goodServer, "http://", "http://u:secretword@", 1)} {
		if _, err := control.ParseServerFile([]byte(file)); !errors.Is(err, schemas.ErrServer) || strings.Contains(err.Error(), "secretword") {
			t.Errorf("%v", err)
		}
	}
}
