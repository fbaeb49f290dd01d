package control

import (
	"bytes"
	"cmp"
	"context"
	stdjson "encoding/json"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"

	"github.com/danielgtaylor/huma/v2"
	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/vcsync/vcsync/broker"
	"github.com/vcsync/vcsync/schemas"
)

// ServerBody is what a person decides about a server, but for its password.
type ServerBody struct {
	Name      string   `json:"name,omitzero" maxLength:"200" doc:"What people call it."`
	Connector string   `json:"connector,omitzero" maxLength:"32" default:"bridge" doc:"How vcsync speaks to it."`
	Address   string   `json:"address" maxLength:"2000" doc:"http://host:port or https://host:port"`
	User      string   `json:"user" maxLength:"200" doc:"The VisualCron account."`
	Pins      []string `json:"pins,omitempty" maxItems:"2" doc:"Public keys that the server's certificate may have, as sha256/BASE64; the system's authorities decide where absent."`
	// Deletes is by type.
	Deletes map[string]MeasureRecord `json:"deletes,omitempty" doc:"By type, how many deletions at once are believed without a person; 5 and 10 % where absent."`
}

// MeasureRecord is how many objects of a type may be gone at once and still be taken for
// deleted: the greater of both.
type MeasureRecord struct {
	Number int `json:"number" minimum:"0" maximum:"1000000" doc:"Objects."`
	Share  int `json:"share" minimum:"0" maximum:"100" doc:"Objects in per cent of the type."`
}

// measures returns b.Deletes as it is stored; a word that is no type is for Validate to
// name.
func measures(in map[string]MeasureRecord) map[schemas.Type]schemas.Measure {
	var out map[schemas.Type]schemas.Measure
	for word, m := range in {
		if out == nil {
			out = map[schemas.Type]schemas.Measure{}
		}
		out[schemas.Type(word)] = schemas.Measure{Number: m.Number, Share: m.Share}
	}
	return out
}

// measureRecords is the inverse of measures.
func measureRecords(in map[schemas.Type]schemas.Measure) map[string]MeasureRecord {
	var out map[string]MeasureRecord
	for t, m := range in {
		if out == nil {
			out = map[string]MeasureRecord{}
		}
		out[string(t)] = MeasureRecord{m.Number, m.Share}
	}
	return out
}

// ServerFile is a server as configuration in a file: servers/ID.json. It has no place
// for a password.
type ServerFile struct {
	Schema string `json:"$schema,omitzero" doc:"The JSON Schema of this file, for editors."`
	ID     string `json:"id" minLength:"1" maxLength:"48" doc:"The short name: lower-case letters, digits and inner hyphens; it never changes."`
	ServerBody
}

// SettingFile is a sync setting as configuration in a file: settings/ID.json.
type SettingFile struct {
	Schema string `json:"$schema,omitzero" doc:"The JSON Schema of this file, for editors."`
	NewSetting
}

// Folders of a configuration in files, and of their schemas.
const (
	ServersDir  = "servers"
	SettingsDir = "settings"
	SchemaDir   = "schema"
)

var configFileTypes = map[string]struct {
	title string
	typ   reflect.Type
}{
	ServersDir:  {"A server that vcsync knows", reflect.TypeFor[ServerFile]()},
	SettingsDir: {"A sync setting of vcsync", reflect.TypeFor[SettingFile]()},
}

// ConfigSchemaFile is the name of the JSON Schema of a folder's files, in SchemaDir.
func ConfigSchemaFile(dir string) string { return strings.TrimSuffix(dir, "s") + ".schema.json" }

func configRegistry(dir string) (huma.Registry, *huma.Schema) {
	r := huma.NewMapRegistry("#/$defs/", huma.DefaultSchemaNamer)
	return r, r.Schema(configFileTypes[dir].typ, false, "")
}

// ConfigSchema returns the JSON Schema (draft 2020-12) of the files in ServersDir or
// SettingsDir, made from the Go types, for editors. The id ends in v1 as long as files
// of before are read.
func ConfigSchema(dir string) ([]byte, error) {
	r, s := configRegistry(dir)
	doc := map[string]any{}
	raw, err := stdjson.Marshal(s)
	if err == nil {
		err = stdjson.Unmarshal(raw, &doc)
	}
	if err != nil {
		return nil, fmt.Errorf("schema of %s: %w", dir, err)
	}
	doc["$schema"] = "https://json-schema.org/draft/2020-12/schema"
	doc["$id"] = "https://vcsync.dev/schemas/v1/config/" + ConfigSchemaFile(dir)
	doc["title"] = configFileTypes[dir].title
	defs := map[string]any{}
	for name, def := range r.Map() {
		if name != configFileTypes[dir].typ.Name() {
			defs[name] = def
		}
	}
	if len(defs) > 0 {
		doc["$defs"] = defs
	}
	if rules, ok := doc["properties"].(map[string]any)["rules"].(map[string]any); ok {
		rules["propertyNames"] = map[string]any{"enum": schemas.Types()}
	}
	if deletes, ok := doc["properties"].(map[string]any)["deletes"].(map[string]any); ok {
		deletes["propertyNames"] = map[string]any{"enum": schemas.Types()}
	}
	// What the API refuses with words of its own, an editor shall refuse too.
	for name, members := range map[string]map[string]map[string]any{
		"KeptRecord":     {"type": {"enum": schemas.Types()}, "pointer": {"pattern": "^/"}},
		"OverrideRecord": {"type": {"enum": schemas.Types()}},
		"PinRecord":      {"type": {"enum": schemas.Types()}},
		"WindowRecord":   {"duration": {"pattern": "^([0-9]+(\\.[0-9]+)?(h|m|s))+$"}},
	} {
		s := r.Map()[name]
		if s == nil {
			continue
		}
		def := map[string]any{}
		raw, err := stdjson.Marshal(s)
		if err == nil {
			err = stdjson.Unmarshal(raw, &def)
		}
		if err != nil {
			return nil, fmt.Errorf("schema of %s: %w", dir, err)
		}
		for member, more := range members {
			if p, ok := def["properties"].(map[string]any)[member].(map[string]any); ok {
				maps.Copy(p, more)
			}
		}
		defs[name] = def
	}
	raw, err = json.Marshal(doc, json.Deterministic(true), jsontext.Multiline(true), jsontext.WithIndent("  "))
	return append(raw, '\n'), err
}

// parseConfigFile reads one file and reports all that its schema does not allow, each
// with its path. The errors wrap schemas.ErrServer or schemas.ErrSetting.
func parseConfigFile(dir string, sentinel error, raw []byte, out any) error {
	fault := func(path, format string, a ...any) error {
		return fmt.Errorf("%w: %s: %s", sentinel, cmp.Or(path, "the file"), fmt.Sprintf(format, a...))
	}
	raw = bytes.TrimPrefix(raw, []byte("\xef\xbb\xbf")) // as editors on Windows write it
	canonical := jsontext.Value(slices.Clone(raw))
	if err := canonical.Canonicalize(); err != nil { // duplicate names, invalid UTF-8, trailing bytes
		var s *jsontext.SyntacticError
		if errors.As(err, &s) {
			at := raw[:min(int(s.ByteOffset), len(raw))]
			return fault(fmt.Sprintf("line %d", 1+strings.Count(string(at), "\n")), "no JSON: %v", s.Err)
		}
		return fault("", "no JSON: %v", err)
	}
	var v any
	if err := stdjson.Unmarshal(raw, &v); err != nil {
		return fault("", "%v", err)
	}
	if _, ok := v.(map[string]any); !ok {
		return fault("", "want one JSON object")
	}
	r, s := configRegistry(dir)
	res := huma.ValidateResult{}
	huma.Validate(r, s, huma.NewPathBuffer(nil, 0), huma.ModeWriteToServer, v, &res)
	var errs []error
	for _, err := range res.Errors {
		if d, ok := errors.AsType[*huma.ErrorDetail](err); ok {
			err = fault(d.Location, "%s", d.Message)
		}
		errs = append(errs, err)
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	if err := json.Unmarshal(raw, out, json.RejectUnknownMembers(true)); err != nil {
		return fault("", "%v", err)
	}
	return nil
}

// ParseServerFile reads a file of ServersDir. The error names every fault with its path
// and wraps schemas.ErrServer.
func ParseServerFile(raw []byte) (ServerFile, error) {
	var f ServerFile
	if err := parseConfigFile(ServersDir, schemas.ErrServer, raw, &f); err != nil {
		return f, err
	}
	f.Connector = cmp.Or(f.Connector, "bridge")
	v := schemas.Server{ID: schemas.Slug(f.ID), Connector: f.Connector, Address: f.Address, User: f.User, Pins: f.Pins, Deletes: measures(f.Deletes)}
	if err := v.Validate(); err != nil {
		return f, err
	}
	v.Normalize()
	f.Pins, f.Deletes = v.Pins, measureRecords(v.Deletes)
	return f, nil
}

// ParseSettingFile reads a file of SettingsDir and brings it to the form in which the
// API shows it. The error names every fault with its path and wraps schemas.ErrSetting.
func ParseSettingFile(raw []byte) (SettingFile, error) {
	var f SettingFile
	if err := parseConfigFile(SettingsDir, schemas.ErrSetting, raw, &f); err != nil {
		return f, err
	}
	v, err := f.setting(schemas.Slug(f.ID))
	if err != nil {
		return f, err
	}
	f.SettingBody = settingRecord(broker.StoredSetting{Setting: v}).SettingBody
	return f, nil
}

// ConfigCheck is what a configuration would be: the settings that are new or changed,
// and what else there would be.
type ConfigCheck struct {
	Servers  []string     `json:"servers" nullable:"false" maxItems:"10000" doc:"All servers that there would be."`
	Settings []NewSetting `json:"settings" nullable:"false" maxItems:"10000" doc:"The sync settings that are new or changed."`
	Removed  []string     `json:"removed,omitzero" maxItems:"10000" doc:"The sync settings that there would be no more."`
}

// ConfigFault is why a sync setting could not stand.
type ConfigFault struct {
	Setting string `json:"setting"`
	Reason  string `json:"reason"`
}

// checkConfig tells whether every sync setting could stand among the others, before
// anything is changed.
func (s *Server) checkConfig(ctx context.Context, in *bodyInput[ConfigCheck]) (*output[list[ConfigFault]], error) {
	snap, err := s.broker.Snapshot(ctx)
	if err != nil {
		return nil, err
	}
	out := &output[list[ConfigFault]]{Body: list[ConfigFault]{Items: []ConfigFault{}}}
	for id := range snap.Servers {
		if !slices.Contains(in.Body.Servers, string(id)) {
			delete(snap.Servers, id)
		}
	}
	for _, id := range in.Body.Servers {
		if _, ok := snap.Servers[schemas.Slug(id)]; !ok {
			snap.Servers[schemas.Slug(id)] = broker.StoredServer{}
		}
	}
	for _, id := range in.Body.Removed {
		delete(snap.Settings, schemas.Slug(id))
	}
	var want []schemas.Setting
	for _, b := range in.Body.Settings {
		v, err := b.SettingBody.setting(schemas.Slug(b.ID))
		if err != nil {
			out.Body.Items = append(out.Body.Items, ConfigFault{b.ID, err.Error()})
			continue
		}
		if fault := snap.Unreadable["setting."+b.ID]; fault != nil {
			out.Body.Items = append(out.Body.Items, ConfigFault{b.ID, fmt.Sprintf("its record is not understood by this version: %v", fault)})
			continue
		}
		snap.Settings[v.ID] = broker.StoredSetting{Setting: v}
		want = append(want, v)
	}
	for _, v := range want {
		if err := s.check(snap, v); err != nil {
			out.Body.Items = append(out.Body.Items, ConfigFault{string(v.ID), err.Error()})
		}
	}
	return out, nil
}
