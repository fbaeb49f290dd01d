package schemas

import (
	"bytes"
	"embed"
)

//go:embed jsonschema/*.schema.json
var jsonSchemas embed.FS

//go:embed asyncapi.yaml
var asyncAPI []byte

// JSONSchemas returns the names that JSONSchema knows.
func JSONSchemas() []string { return []string{"object", "event", "setting", "server"} }

// JSONSchema returns the JSON Schema (draft 2020-12) of that name: "object", the
// data of an event; "event", a whole message as one document; "setting"; "server".
// They refer to each other by file name, relative to their $id.
func JSONSchema(name string) ([]byte, bool) {
	b, err := jsonSchemas.ReadFile("jsonschema/" + name + ".schema.json")
	return b, err == nil
}

// AsyncAPI returns the AsyncAPI 3.0 document of vcsync's subjects, as YAML.
func AsyncAPI() []byte { return bytes.Clone(asyncAPI) }
