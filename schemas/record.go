package schemas

import (
	"fmt"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// The plain forms have the members of their originals and none of their coding
// rules, so a coding rule can fall back to them.
type (
	plainSetting    Setting
	plainServer     Server
	plainRule       Rule
	plainObjectRule ObjectRule
	plainWindow     Window
	plainKept       KeptField
	plainOverride   Override
	plainPin        Pin
	plainMeasure    Measure
)

// Rules and their rows keep unknown members as the records around them do. The
// rules of coding stand here and not in methods, because a MarshalJSON would be
// promoted to every struct that embeds one of these types.
var (
	recordMarshalers = json.WithMarshalers(json.JoinMarshalers(
		json.MarshalToFunc(func(e *jsontext.Encoder, r Window) error {
			return json.MarshalEncode(e, struct {
				plainWindow
				Unknown jsontext.Value `json:",embed"`
			}{plainWindow(r), r.Unknown})
		}),
		json.MarshalToFunc(func(e *jsontext.Encoder, r KeptField) error {
			return json.MarshalEncode(e, struct {
				plainKept
				Unknown jsontext.Value `json:",embed"`
			}{plainKept(r), r.Unknown})
		}),
		json.MarshalToFunc(func(e *jsontext.Encoder, r Override) error {
			return json.MarshalEncode(e, struct {
				plainOverride
				Unknown jsontext.Value `json:",embed"`
			}{plainOverride(r), r.Unknown})
		}),
		json.MarshalToFunc(func(e *jsontext.Encoder, r Pin) error {
			return json.MarshalEncode(e, struct {
				plainPin
				Unknown jsontext.Value `json:",embed"`
			}{plainPin(r), r.Unknown})
		}),
		json.MarshalToFunc(func(e *jsontext.Encoder, r Measure) error {
			return json.MarshalEncode(e, struct {
				plainMeasure
				Unknown jsontext.Value `json:",embed"`
			}{plainMeasure(r), r.Unknown})
		}),
		json.MarshalToFunc(func(e *jsontext.Encoder, r Rule) error {
			return json.MarshalEncode(e, struct {
				plainRule
				Unknown jsontext.Value `json:",embed"`
			}{plainRule(r), r.Unknown})
		}),
		json.MarshalToFunc(func(e *jsontext.Encoder, o ObjectRule) error {
			return json.MarshalEncode(e, struct {
				plainObjectRule
				Unknown jsontext.Value `json:",embed"`
			}{plainObjectRule(o), o.Unknown})
		})))
	recordUnmarshalers = json.WithUnmarshalers(json.JoinUnmarshalers(
		json.UnmarshalFromFunc(func(d *jsontext.Decoder, r *Window) error {
			var w struct {
				plainWindow
				Unknown jsontext.Value `json:",embed"`
			}
			err := json.UnmarshalDecode(d, &w)
			*r = Window(w.plainWindow)
			r.Unknown = w.Unknown
			return err
		}),
		json.UnmarshalFromFunc(func(d *jsontext.Decoder, r *KeptField) error {
			var w struct {
				plainKept
				Unknown jsontext.Value `json:",embed"`
			}
			err := json.UnmarshalDecode(d, &w)
			*r = KeptField(w.plainKept)
			r.Unknown = w.Unknown
			return err
		}),
		json.UnmarshalFromFunc(func(d *jsontext.Decoder, r *Override) error {
			var w struct {
				plainOverride
				Unknown jsontext.Value `json:",embed"`
			}
			err := json.UnmarshalDecode(d, &w)
			*r = Override(w.plainOverride)
			r.Unknown = w.Unknown
			return err
		}),
		json.UnmarshalFromFunc(func(d *jsontext.Decoder, r *Pin) error {
			var w struct {
				plainPin
				Unknown jsontext.Value `json:",embed"`
			}
			err := json.UnmarshalDecode(d, &w)
			*r = Pin(w.plainPin)
			r.Unknown = w.Unknown
			return err
		}),
		json.UnmarshalFromFunc(func(d *jsontext.Decoder, r *Measure) error {
			var w struct {
				plainMeasure
				Unknown jsontext.Value `json:",embed"`
			}
			err := json.UnmarshalDecode(d, &w)
			*r = Measure(w.plainMeasure)
			r.Unknown = w.Unknown
			return err
		}),
		json.UnmarshalFromFunc(func(d *jsontext.Decoder, r *Rule) error {
			var w struct {
				plainRule
				Unknown jsontext.Value `json:",embed"`
			}
			err := json.UnmarshalDecode(d, &w)
			*r = Rule(w.plainRule)
			r.Unknown = w.Unknown
			return err
		}),
		json.UnmarshalFromFunc(func(d *jsontext.Decoder, o *ObjectRule) error {
			var w struct {
				plainObjectRule
				Unknown jsontext.Value `json:",embed"`
			}
			err := json.UnmarshalDecode(d, &w)
			*o = ObjectRule(w.plainObjectRule)
			o.Unknown = w.Unknown
			return err
		})))
)

// encodeRecord writes what lies in a bucket: maps sorted, unknown members last.
func encodeRecord(v any) ([]byte, error) {
	return json.Marshal(v, json.Deterministic(true), recordMarshalers)
}

// parseRecord reads one JSON object and nothing after it.
func parseRecord(b []byte, v any) error {
	if k := jsontext.Value(b).Kind(); k != '{' {
		return fmt.Errorf("want a JSON object, have %s", k)
	}
	return json.Unmarshal(b, v, recordUnmarshalers)
}

// plainTime drops what a time's text does not carry: the place and the monotonic
// clock.
func plainTime(t time.Time) time.Time {
	if t.IsZero() {
		return time.Time{}
	}
	return t.Round(0).UTC()
}
