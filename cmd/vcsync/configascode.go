package main

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/http"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/spf13/cobra"

	"github.com/vcsync/vcsync/control"
)

// configuration is the servers and sync settings of a folder, or of a running vcsync.
type configuration struct {
	Servers  map[string]control.ServerFile
	Settings map[string]control.SettingFile
	// tags are the revisions as If-Match takes them, by "server/ID" and "setting/ID".
	tags map[string]string
	// passing are the settings that are on or off for a time only.
	passing map[string]bool
}

// lasting is a setting as it is meant to be: a state that ends by itself is none of its
// configuration, so a deactivation for two hours is not made lasting by an export, nor
// ended by an apply.
func lasting(s control.SettingRecord) control.SettingBody {
	b := s.SettingBody
	if !s.Until.IsZero() {
		b.Active = !b.Active
	}
	return b
}

// readConfiguration asks a running vcsync. A record that it does not understand is an
// error: what is left out of an export in silence is lost by the next restore.
func readConfiguration(ctx context.Context, api *client) (configuration, error) {
	c := configuration{map[string]control.ServerFile{}, map[string]control.SettingFile{}, map[string]string{}, map[string]bool{}}
	var status control.StatusReport
	if _, _, err := api.call(ctx, http.MethodGet, apiPath("status"), nil, nil, &status); err != nil {
		return c, err
	}
	for _, f := range status.Faulty {
		return c, failed(exitDifferent, fmt.Errorf("record %s is not understood by this version, so the configuration cannot be read as a whole: %s; "+
			"use the release that wrote it, or repair the record", f.Record, f.Reason))
	}
	var servers items[control.ServerRecord]
	if _, _, err := api.call(ctx, http.MethodGet, apiPath("servers"), nil, nil, &servers); err != nil {
		return c, err
	}
	var settings items[control.SettingRecord]
	if _, _, err := api.call(ctx, http.MethodGet, apiPath("settings"), nil, nil, &settings); err != nil {
		return c, err
	}
	for _, s := range servers.Items {
		c.Servers[s.ID] = control.ServerFile{ID: s.ID, ServerBody: control.ServerBody{Name: s.Name, Connector: s.Connector, Address: s.Address, User: s.User, Pins: s.Pins, Deletes: s.Deletes}}
		c.tags["server/"+s.ID] = fmt.Sprintf(`"%d"`, s.Revision)
	}
	for _, s := range settings.Items {
		c.Settings[s.ID] = control.SettingFile{NewSetting: control.NewSetting{ID: s.ID, SettingBody: lasting(s)}}
		c.passing[s.ID] = !s.Until.IsZero()
		c.tags["setting/"+s.ID] = fmt.Sprintf(`"%d"`, s.Revision)
	}
	return c, nil
}

// maxConfigFile is the greatest file that is read, in bytes: the API takes no more.
const maxConfigFile = 1 << 20

// readFolder reads and checks every file of a folder and reports all faults at once.
// With prune, what has no file is removed, so a folder that is missing is a fault.
func readFolder(dir string, prune bool) (configuration, error) {
	c := configuration{map[string]control.ServerFile{}, map[string]control.SettingFile{}, nil, nil}
	if info, err := os.Stat(dir); err != nil || !info.IsDir() {
		return c, usageError("-f %s: want a folder, as vcsync export -f writes it: %w", dir, cmp.Or(err, error(fs.ErrInvalid)))
	}
	var errs []error
	fault := func(file string, err error) {
		for line := range strings.Lines(err.Error()) {
			errs = append(errs, fmt.Errorf("%s: %s", file, strings.TrimSpace(line)))
		}
	}
	if err := strayFolders(dir); err != nil {
		return c, err
	}
	found := 0
	for _, kind := range []string{control.ServersDir, control.SettingsDir} {
		entries, err := os.ReadDir(filepath.Join(dir, kind))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return c, usageError("-f %s: %w", dir, err)
		}
		if err != nil && prune {
			return c, usageError("-f %s: there is no folder %s in it, and --prune would remove all %s; make it an empty folder if that is meant. Nothing was changed", dir, kind, kind)
		}
		for _, e := range entries {
			file := filepath.Join(dir, kind, e.Name())
			if strings.HasPrefix(e.Name(), ".") {
				continue
			}
			name, ok := strings.CutSuffix(e.Name(), ".json")
			if !ok || e.IsDir() {
				fault(file, errors.New("want files NAME.json only; move it out of this folder"))
				continue
			}
			found++
			raw, err := os.ReadFile(file)
			if err == nil && len(raw) > maxConfigFile {
				err = fmt.Errorf("%d bytes; a record may have %d", len(raw), maxConfigFile)
			}
			var id string
			if err == nil && kind == control.ServersDir {
				var s control.ServerFile
				s, err = control.ParseServerFile(raw)
				s.Schema, id = "", s.ID
				c.Servers[s.ID] = s
			} else if err == nil {
				var s control.SettingFile
				s, err = control.ParseSettingFile(raw)
				s.Schema, id = "", s.ID
				c.Settings[s.ID] = s
			}
			if err == nil && id != name {
				err = fmt.Errorf("id: %q, want %q, the name of the file", id, name)
			}
			if err != nil {
				fault(file, err)
			}
		}
	}
	if found == 0 {
		return c, usageError("-f %s: no %s/NAME.json and no %s/NAME.json in it; vcsync export -f writes them", dir, control.ServersDir, control.SettingsDir)
	}
	if err := errors.Join(errs...); err != nil {
		return c, usageError("%w\nnothing was changed", err)
	}
	return c, nil
}

// strayFolders finds folders with records whose name is not one that is read, such as
// setting for settings.
func strayFolders(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return usageError("-f %s: %w", dir, err)
	}
	for _, e := range entries {
		if name := e.Name(); e.IsDir() && !strings.HasPrefix(name, ".") && !slices.Contains([]string{control.ServersDir, control.SettingsDir, control.SchemaDir}, name) {
			if files, _ := filepath.Glob(filepath.Join(dir, name, "*.json")); len(files) > 0 {
				return usageError("%s: this folder has files NAME.json and is not read: the folders are %s and %s. Nothing was changed", filepath.Join(dir, name), control.ServersDir, control.SettingsDir)
			}
		}
	}
	return nil
}

// fileBytes is a record as it stands in a file: the members in the order of the API's
// description, the schema first.
func fileBytes(v any) ([]byte, error) {
	b, err := json.Marshal(v, json.Deterministic(true), jsontext.Multiline(true), jsontext.WithIndent("  "))
	return append(b, '\n'), err
}

// ExportReport is what an export did, for --json.
type ExportReport struct {
	Written []string `json:"written"`
	Equal   []string `json:"equal"`
	Removed []string `json:"removed"`
	// Foreign are files of records that are not there, and stayed.
	Foreign []string `json:"foreign"`
}

func newExportCommand(a *app) *cobra.Command {
	var dir string
	var prune bool
	c := &cobra.Command{
		Use:   "export [-f DIR]",
		Short: "Write servers and sync settings into files, without passwords",
		Long: `Writes one JSON file per server and per sync setting, and a JSON Schema beside them
with which editors complete and check:

  DIR/servers/NAME.json   DIR/settings/NAME.json   DIR/schema/*.schema.json

Files whose record is equal stay untouched, and no file holds a password. Without -f
everything is printed as one JSON document. "vcsync apply -f DIR" is the way back.`,
		Example: `  vcsync export -f vcsync.d && git -C vcsync.d diff`,
		Args:    none,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if prune && dir == "" {
				return usageError("--prune removes files, so it needs -f DIR")
			}
			api, err := a.client()
			if err != nil {
				return err
			}
			have, err := readConfiguration(cmd.Context(), api)
			if err != nil {
				return err
			}
			if dir == "" {
				out := struct {
					Servers  []control.ServerFile  `json:"servers"`
					Settings []control.SettingFile `json:"settings"`
				}{sorted(have.Servers), sorted(have.Settings)}
				b, err := fileBytes(out)
				if err == nil {
					_, err = a.out.Write(b)
				}
				return failed(exitRunTime, err)
			}
			r, err := export(dir, have, prune)
			if err != nil {
				return failed(exitEnvironment, fmt.Errorf("export into %s: %w", dir, err))
			}
			raw, err := json.Marshal(r)
			if err != nil {
				return failed(exitRunTime, err)
			}
			return a.show(raw, func() error {
				for _, f := range r.Written {
					fmt.Fprintf(a.out, "written  %s\n", clean(f))
				}
				for _, f := range r.Removed {
					fmt.Fprintf(a.out, "removed  %s\n", clean(f))
				}
				for _, f := range r.Foreign {
					fmt.Fprintf(a.out, "left     %s: there is no such record; --prune removes the file\n", clean(f))
				}
				_, err := fmt.Fprintf(a.out, "%s and %s in %s: %d files written, %d equal.\n", count(len(have.Servers), "server"), count(len(have.Settings), "sync setting"),
					clean(dir), len(r.Written), len(r.Equal))
				return err
			})
		},
	}
	c.Flags().StringVarP(&dir, "file", "f", "", "folder to write into; it is made where it is missing")
	c.Flags().BoolVar(&prune, "prune", false, "remove the files of records that are there no more")
	return c
}

// count names a number of things.
func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

func sorted[T any](m map[string]T) []T {
	out := make([]T, 0, len(m))
	for _, k := range slices.Sorted(maps.Keys(m)) {
		out = append(out, m[k])
	}
	return out
}

// export writes what differs. A file is replaced as a whole or not at all.
func export(dir string, c configuration, prune bool) (r ExportReport, err error) {
	r = ExportReport{Written: []string{}, Equal: []string{}, Removed: []string{}, Foreign: []string{}}
	files := map[string][]byte{}
	for _, kind := range []string{control.ServersDir, control.SettingsDir} {
		if err := os.MkdirAll(filepath.Join(dir, kind), 0o755); err != nil {
			return r, err
		}
		if files[path.Join(control.SchemaDir, control.ConfigSchemaFile(kind))], err = control.ConfigSchema(kind); err != nil {
			return r, err
		}
	}
	if err := os.MkdirAll(filepath.Join(dir, control.SchemaDir), 0o755); err != nil {
		return r, err
	}
	for id, s := range c.Servers {
		s.Schema = "../" + control.SchemaDir + "/" + control.ConfigSchemaFile(control.ServersDir)
		if files[path.Join(control.ServersDir, id+".json")], err = fileBytes(s); err != nil {
			return r, err
		}
	}
	for id, s := range c.Settings {
		s.Schema = "../" + control.SchemaDir + "/" + control.ConfigSchemaFile(control.SettingsDir)
		if files[path.Join(control.SettingsDir, id+".json")], err = fileBytes(s); err != nil {
			return r, err
		}
	}
	for _, name := range slices.Sorted(maps.Keys(files)) {
		file := filepath.Join(dir, filepath.FromSlash(name))
		if old, err := os.ReadFile(file); err == nil && bytes.Equal(old, files[name]) {
			r.Equal = append(r.Equal, name)
			continue
		}
		if err := replaceFile(file, files[name]); err != nil {
			return r, err
		}
		r.Written = append(r.Written, name)
	}
	for _, kind := range []string{control.ServersDir, control.SettingsDir} {
		entries, err := os.ReadDir(filepath.Join(dir, kind))
		if err != nil {
			return r, err
		}
		for _, e := range entries {
			name := path.Join(kind, e.Name())
			if _, ours := files[name]; ours || e.IsDir() || !strings.HasSuffix(name, ".json") || strings.HasPrefix(e.Name(), ".") {
				continue
			}
			if !prune {
				r.Foreign = append(r.Foreign, name)
				continue
			}
			if err := os.Remove(filepath.Join(dir, name)); err != nil {
				return r, err
			}
			r.Removed = append(r.Removed, name)
		}
	}
	return r, nil
}

func replaceFile(path string, b []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".vcsync-*")
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	err = errors.Join(err, f.Chmod(0o644), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return nil
}

// Actions of a change.
const (
	actionAdd    = "add"
	actionChange = "change"
	actionRemove = "remove"
)

// ConfigChange is one record that differs, for --json.
type ConfigChange struct {
	Action string        `json:"action"`
	Kind   string        `json:"kind"` // server or setting
	ID     string        `json:"id"`
	Fields []FieldChange `json:"fields,omitzero"`
	Done   bool          `json:"done"`
}

// FieldChange is one place in a record that differs; From or To is absent where the
// place is.
type FieldChange struct {
	Path string         `json:"path"`
	From jsontext.Value `json:"from,omitzero"`
	To   jsontext.Value `json:"to,omitzero"`
}

// compareConfiguration says what to change so that have becomes want. Records that want
// does not have are removed with prune only. Last known names of objects are for people
// and learned by vcsync, so they make no difference.
func compareConfiguration(have, want configuration, prune bool) (changes []ConfigChange, equal int, unnamed []string, err error) {
	servers, n, s, err := compareRecords("server", have.Servers, want.Servers, prune)
	if err != nil {
		return nil, 0, nil, err
	}
	settings, m, t, err := compareRecords("setting", have.Settings, want.Settings, prune)
	return append(servers, settings...), n + m, append(s, t...), err
}

func compareRecords[T any](kind string, have, want map[string]T, prune bool) (changes []ConfigChange, equal int, unnamed []string, err error) {
	ids := maps.Clone(have)
	maps.Copy(ids, want)
	for _, id := range slices.Sorted(maps.Keys(ids)) {
		h, inHave := have[id]
		w, inWant := want[id]
		c := ConfigChange{Kind: kind, ID: id}
		var from, to any
		if inHave {
			if from, err = plain(h); err != nil {
				return nil, 0, nil, err
			}
		}
		if inWant {
			if to, err = plain(w); err != nil {
				return nil, 0, nil, err
			}
		}
		switch {
		case !inWant && !prune:
			unnamed = append(unnamed, kind+" "+id)
			continue
		case !inWant:
			c.Action = actionRemove
		case !inHave:
			c.Action = actionAdd
			c.Fields = fieldChanges("", map[string]any{"id": id}, to)
		default:
			c.Action, c.Fields = actionChange, fieldChanges("", from, to)
			if len(c.Fields) == 0 {
				equal++
				continue
			}
		}
		changes = append(changes, c)
	}
	return changes, equal, unnamed, nil
}

// plain is a record as maps and lists.
func plain(v any) (any, error) {
	raw, err := json.Marshal(v, json.Deterministic(true))
	if err != nil {
		return nil, err
	}
	var out any
	err = json.Unmarshal(raw, &out)
	return out, err
}

// fieldChanges lists the places in which two values differ, in order of their paths.
// Rows of a list that have an id are told by it and not by their place.
func fieldChanges(path string, from, to any) (out []FieldChange) {
	f, t := members(from), members(to)
	if f == nil || t == nil {
		a, b := compact(from), compact(to)
		if !bytes.Equal(a, b) {
			out = append(out, FieldChange{path, a, b})
		}
		return out
	}
	all := maps.Clone(f)
	maps.Copy(all, t)
	for _, k := range slices.Sorted(maps.Keys(all)) {
		p := k
		if path != "" {
			p = path + "." + k
		}
		if strings.HasPrefix(k, "[") {
			p = path + k
		}
		if k == "name" && strings.HasSuffix(path, "]") {
			continue // the last known name of a row
		}
		fv, inF := f[k]
		tv, inT := t[k]
		switch {
		case inF && inT:
			out = append(out, fieldChanges(p, fv, tv)...)
		case inF && isRows(fv):
			out = append(out, fieldChanges(p, fv, []any{})...)
		case inF:
			out = append(out, FieldChange{Path: p, From: compact(fv)})
		case isRows(tv):
			out = append(out, fieldChanges(p, []any{}, tv)...)
		default:
			out = append(out, FieldChange{Path: p, To: compact(tv)})
		}
	}
	return out
}

// isRows tells whether a value is a list whose rows can be told apart.
func isRows(v any) bool {
	rows, ok := v.([]any)
	return ok && len(rows) > 0 && members(rows) != nil
}

// members returns what can be compared by name: a map's members, and a list's rows by
// what tells each from the others; nil where there is no such thing.
func members(v any) map[string]any {
	switch v := v.(type) {
	case map[string]any:
		return v
	case []any:
		out := map[string]any{}
		for _, row := range v {
			m, ok := row.(map[string]any)
			if !ok {
				return nil
			}
			var key []string
			for _, k := range []string{"type", "id", "source", "pointer", "kind", "schedule"} {
				if part, ok := m[k].(string); ok {
					key = append(key, part)
				}
			}
			name := "[" + strings.Join(key, " ") + "]"
			if _, twice := out[name]; key == nil || twice {
				return nil
			}
			out[name] = m
		}
		return out
	}
	return nil
}

func compact(v any) jsontext.Value {
	b, err := json.Marshal(v, json.Deterministic(true))
	if err != nil {
		return jsontext.Value(`"?"`) // what was read as JSON is always written as JSON
	}
	return b
}

// ApplyReport is what an apply found and did, for --json.
type ApplyReport struct {
	Changes []ConfigChange `json:"changes"`
	Equal   int            `json:"equal"`
	// Unnamed are the records that the folder does not have, and that stay without
	// --prune.
	Unnamed []string `json:"unnamed"`
	DryRun  bool     `json:"dryRun"`
}

func newApplyCommand(a *app) *cobra.Command {
	var dir, passwords string
	var dryRun, prune, yes, offline bool
	c := &cobra.Command{
		Use:   "apply -f DIR",
		Short: "Make servers and sync settings as the files of a folder say",
		Long: `Reads the files of "vcsync export", checks all of them, shows what would change, asks,
and changes it. What is equal is left alone, so a second run does nothing. What has no
file stays, unless --prune is given. Nothing is deleted at any VisualCron server.

The files hold no passwords. That of a new server is read from DIR/NAME of
--password-dir, from VCSYNC_PASSWORD where just one server is new, or asked for on a
terminal.

With --dry-run nothing changes, and the exit code is 1 where something would.`,
		Example: `  vcsync apply -f vcsync.d --dry-run
  vcsync apply -f vcsync.d --prune --yes --password-dir /run/credentials`,
		Args: none,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if dir == "" {
				return usageError("-f is missing: name the folder, as vcsync export -f writes it")
			}
			want, err := readFolder(dir, prune)
			if err != nil {
				return err
			}
			api, err := a.client()
			if err != nil {
				return err
			}
			have, err := readConfiguration(cmd.Context(), api)
			if err != nil {
				return err
			}
			r := ApplyReport{DryRun: dryRun}
			if r.Changes, r.Equal, r.Unnamed, err = compareConfiguration(have, want, prune); err != nil {
				return failed(exitRunTime, err)
			}
			if r.Changes == nil {
				r.Changes = []ConfigChange{}
			}
			if r.Unnamed == nil {
				r.Unnamed = []string{}
			}
			if err := checkConfiguration(cmd.Context(), api, dir, have, want, r.Changes); err != nil {
				return err
			}
			report := func() error {
				raw, err := json.Marshal(r)
				if err != nil {
					return failed(exitRunTime, err)
				}
				return a.show(raw, func() error { return nil })
			}
			if !a.json {
				if err := a.printChanges(r); err != nil {
					return failed(exitRunTime, err)
				}
			}
			switch {
			case len(r.Changes) == 0:
				return report()
			case dryRun:
				return errors.Join(report(), failed(exitDifferent, fmt.Errorf("%s; nothing was changed (--dry-run)", differs(len(r.Changes)))))
			}
			pw, err := a.newPasswords(passwords, r.Changes, have, want, false)
			if err != nil {
				return err
			}
			if !yes {
				if err := a.confirm(cmd.Context(), "Apply?"); err != nil {
					return err
				}
			}
			if pw == nil {
				if pw, err = a.newPasswords(passwords, r.Changes, have, want, true); err != nil {
					return err
				}
			}
			n, err := applyChanges(cmd.Context(), api, r.Changes, have, want, pw, offline)
			if err != nil {
				if n > 0 {
					err = fmt.Errorf("%w\n%d of %d changes were made before it; once the cause is gone, repeat the command for the rest", err, n, len(r.Changes))
				}
				return errors.Join(err, reportIf(a.json, report))
			}
			if a.json {
				return report()
			}
			_, err = fmt.Fprintf(a.out, "Done: %s.\n", count(n, "change"))
			return failed(exitRunTime, err)
		},
	}
	f := c.Flags()
	f.StringVarP(&dir, "file", "f", "", "folder with servers/NAME.json and settings/NAME.json")
	f.BoolVar(&dryRun, "dry-run", false, "show what would change, and change nothing")
	f.BoolVar(&prune, "prune", false, "also remove the servers and sync settings that have no file")
	f.BoolVarP(&yes, "yes", "y", false, "do not ask")
	f.BoolVar(&offline, "offline", false, "store new and changed servers even if they cannot be reached now")
	f.StringVar(&passwords, "password-dir", "", "folder with one file per new server, named as the server, with its password")
	return c
}

func reportIf(on bool, report func() error) error {
	if on {
		return report()
	}
	return nil
}

func differs(n int) string {
	if n == 1 {
		return "1 record differs"
	}
	return fmt.Sprintf("%d records differ", n)
}

// printChanges prints the difference: a line per record, and one per place in it.
func (a *app) printChanges(r ApplyReport) error {
	n := map[string]int{}
	for _, c := range r.Changes {
		n[c.Action]++
		word := "sync setting"
		if c.Kind == "server" {
			word = "server"
		}
		more := ""
		if c.Action == actionRemove && c.Kind == "server" {
			more = ", with its password and hint token"
		}
		fmt.Fprintf(a.out, "%s %s %s%s\n", map[string]string{actionAdd: "+", actionChange: "~", actionRemove: "-"}[c.Action], word, clean(c.ID), more)
		for _, f := range c.Fields {
			switch {
			case f.From == nil:
				fmt.Fprintf(a.out, "    + %s: %s\n", clean(f.Path), clean(shorten(string(f.To), 100)))
			case f.To == nil:
				fmt.Fprintf(a.out, "    - %s: %s\n", clean(f.Path), clean(shorten(string(f.From), 100)))
			default:
				fmt.Fprintf(a.out, "    ~ %s: %s -> %s\n", clean(f.Path), clean(shorten(string(f.From), 60)), clean(shorten(string(f.To), 60)))
			}
		}
	}
	if len(r.Changes) == 0 {
		fmt.Fprintf(a.out, "Nothing to change: %s equal.\n", areIs(r.Equal))
	} else {
		fmt.Fprintf(a.out, "%d to add, %d to change, %d to remove, %d equal.\n", n[actionAdd], n[actionChange], n[actionRemove], r.Equal)
	}
	if len(r.Unnamed) > 0 {
		_, err := fmt.Fprintf(a.out, "Without a file, and left as they are (--prune removes them): %s.\n", clean(strings.Join(r.Unnamed, ", ")))
		return err
	}
	return nil
}

func areIs(n int) string {
	if n == 1 {
		return "1 record is"
	}
	return fmt.Sprintf("%d records are", n)
}

// checkConfiguration finds what cannot stand before anything is changed.
func checkConfiguration(ctx context.Context, api *client, dir string, have, want configuration, changes []ConfigChange) error {
	in := control.ConfigCheck{Servers: []string{}, Settings: []control.NewSetting{}}
	servers := map[string]bool{}
	for id := range have.Servers {
		servers[id] = true
	}
	for id := range want.Servers {
		servers[id] = true
	}
	for _, c := range changes {
		switch {
		case c.Kind == "server" && c.Action == actionRemove:
			delete(servers, c.ID)
		case c.Kind == "server":
		case c.Action == actionRemove:
			in.Removed = append(in.Removed, c.ID)
		default:
			in.Settings = append(in.Settings, want.Settings[c.ID].NewSetting)
		}
	}
	var errs []error
	for _, c := range changes {
		if c.Kind != "server" || c.Action != actionRemove {
			continue
		}
		for _, id := range slices.Sorted(maps.Keys(want.Settings)) {
			if s := want.Settings[id]; s.Source == c.ID || s.Target == c.ID {
				errs = append(errs, fmt.Errorf("%s: it names server %s, which has no file in %s and would be removed", filepath.Join(dir, control.SettingsDir, id+".json"), c.ID, filepath.Join(dir, control.ServersDir)))
			}
		}
	}
	if err := errors.Join(errs...); err != nil {
		return failed(exitDifferent, fmt.Errorf("%w\nnothing was changed", err))
	}
	if len(in.Settings) == 0 {
		return nil
	}
	in.Servers = slices.Sorted(maps.Keys(servers))
	var out items[control.ConfigFault]
	if _, _, err := api.call(ctx, http.MethodPost, apiPath("config", "check"), nil, in, &out); err != nil {
		return err
	}
	for _, f := range out.Items {
		errs = append(errs, fmt.Errorf("%s: %s", filepath.Join(dir, control.SettingsDir, f.Setting+".json"), f.Reason))
	}
	if err := errors.Join(errs...); err != nil {
		return failed(exitDifferent, fmt.Errorf("%w\nnothing was changed", err))
	}
	return nil
}

// elsewhere tells whether a server's password has to be entered again.
func elsewhere(have, want control.ServerFile) bool {
	return have.Address != want.Address || have.User != want.User || have.Connector != want.Connector || !slices.Equal(have.Pins, want.Pins)
}

// newPasswords gets those of servers that are new, or elsewhere than before, from files and the environment, or, with ask,
// from a person. Without ask it returns nil where a person can be asked, and an error
// that names all that are missing where none can.
func (a *app) newPasswords(dir string, changes []ConfigChange, have, want configuration, ask bool) (map[string]string, error) {
	out := map[string]string{}
	var added, missing []string
	for _, c := range changes {
		if c.Kind == "server" && (c.Action == actionAdd || c.Action == actionChange && elsewhere(have.Servers[c.ID], want.Servers[c.ID])) {
			added = append(added, c.ID)
		}
	}
	for _, id := range added {
		if dir != "" {
			raw, err := os.ReadFile(filepath.Join(dir, id))
			if err == nil {
				if out[id] = strings.TrimSuffix(strings.TrimSuffix(string(raw), "\n"), "\r"); out[id] == "" {
					return nil, usageError("the password in %s is empty; nothing was changed", filepath.Join(dir, id))
				}
				continue
			}
			if !errors.Is(err, fs.ErrNotExist) {
				return nil, usageError("read the password of server %s: %w; nothing was changed", id, err)
			}
		}
		if pw := os.Getenv("VCSYNC_PASSWORD"); pw != "" && len(added) == 1 {
			out[id] = pw
			continue
		}
		if ask {
			pw, err := a.password("", false, want.Servers[id].User+" at "+id)
			if err != nil {
				return nil, err
			}
			out[id] = pw
			continue
		}
		missing = append(missing, id)
	}
	switch {
	case len(missing) == 0:
		return out, nil
	case terminal(a.in):
		return nil, nil
	}
	return nil, usageError("the password of each new server, and of each with another address, account or pin, is missing: %s. Put each into a file of that name in a folder, and name the folder with --password-dir, "+
		"or run this on a terminal to be asked; nothing was changed", strings.Join(missing, ", "))
}

// applyChanges makes the changes in an order in which each can stand: servers before
// the settings that name them, and what ends before what begins.
func applyChanges(ctx context.Context, api *client, changes []ConfigChange, have, want configuration, passwords map[string]string, offline bool) (done int, err error) {
	step := func(c ConfigChange) int {
		switch {
		case c.Kind == "server" && c.Action != actionRemove:
			return 0
		case c.Kind == "server":
			return 3
		case c.Action == actionRemove, c.Action == actionChange && !want.Settings[c.ID].Active:
			return 1
		}
		return 2
	}
	order := make([]int, len(changes))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(i, j int) int { return cmp.Compare(step(changes[i]), step(changes[j])) })
	for _, i := range order {
		c := changes[i]
		header := map[string]string{"If-Match": have.tags[c.Kind+"/"+c.ID]}
		one := apiPath(c.Kind+"s", c.ID)
		switch {
		case c.Action == actionRemove:
			_, _, err = api.call(ctx, http.MethodDelete, one, header, nil, nil)
		case c.Kind == "setting" && c.Action == actionAdd:
			_, _, err = api.call(ctx, http.MethodPost, apiPath("settings"), nil, want.Settings[c.ID].NewSetting, nil)
		case c.Kind == "setting":
			body := withNames(want.Settings[c.ID].SettingBody, have.Settings[c.ID].SettingBody)
			if have.passing[c.ID] && body.Active == have.Settings[c.ID].Active {
				body.Active = !body.Active // as it is now; it changes back by itself
			}
			_, _, err = api.call(ctx, http.MethodPut, one, header, body, nil)
		case c.Action == actionAdd:
			s := want.Servers[c.ID]
			_, _, err = api.call(ctx, http.MethodPost, apiPath("servers"), nil, control.NewServer{ID: s.ID, Name: s.Name, Connector: s.Connector, Address: s.Address,
				User: s.User, Pins: s.Pins, Deletes: s.Deletes, Password: passwords[c.ID], UnreachableOK: offline}, nil)
		default:
			_, _, err = api.call(ctx, http.MethodPut, one, header, control.ServerChange{ServerBody: want.Servers[c.ID].ServerBody, Password: passwords[c.ID], UnreachableOK: offline}, nil)
		}
		if err != nil {
			code := exitRunTime
			if e, ok := errors.AsType[*exitError](err); ok {
				code = e.code
			}
			return done, failed(code, fmt.Errorf("%s %s %s: %w", c.Action, c.Kind, c.ID, err))
		}
		changes[i].Done = true
		done++
	}
	return done, nil
}

// withNames keeps the last known names that vcsync has learned.
func withNames(want, have control.SettingBody) control.SettingBody {
	for t, r := range want.Rules {
		for i, o := range r.Objects {
			at := slices.IndexFunc(have.Rules[t].Objects, func(h control.ObjectRuleRecord) bool { return h.ID == o.ID })
			if at >= 0 && have.Rules[t].Objects[at].Name != "" {
				r.Objects[i].Name = have.Rules[t].Objects[at].Name
			}
		}
	}
	return want
}
