package conformance_test

import (
	"strings"
	"testing"
	"testing/synctest"

	"github.com/vcsync/vcsync/schemas"
	"github.com/vcsync/vcsync/visualcron"
	"github.com/vcsync/vcsync/visualcron/conformance"
	"github.com/vcsync/vcsync/visualcron/standin"
)

// inMode says what is expected of a connector while the stand-in is in a mode. With
// whole, all is as without the mode and the whole suite is run.
type inMode struct {
	modes string // of the stand-in, divided by blanks; the first is the one that is judged
	typ   schemas.Type
	whole bool
	conformance.Expected
}

type classes = map[string]visualcron.Class

// expectations has every mode of the stand-in, most with the arguments that make a
// difference.
var expectations = []inMode{
	{modes: "secrets=equal", whole: true},
	{modes: "secrets=opaque", whole: true},
	{modes: "secrets=masked", whole: true},
	{modes: "secrets=null", whole: true},
	{modes: "fresh-iv secrets=opaque"},
	{modes: "enums-as-numbers", whole: true},
	{modes: "statistics-move", whole: true},
	{modes: "version=9.9.9", whole: true},
	{modes: "no-changes-feed", whole: true},
	{modes: "no-account", whole: true},
	{modes: "slow=2ms", whole: true},
	{modes: "canonicalises=order", whole: true},
	// What is stored differs from what was sent, and the answer tells it.
	{modes: "canonicalises"},
	{modes: "adds-fields"},
	{modes: "activity"},
	{modes: "ignores-field=UnknownToAll"},

	{modes: "writes-refused", Expected: conformance.Expected{Known: classes{"Put": visualcron.Refused, "Delete": visualcron.Refused}}},
	{modes: "answers-500-but-applies", Expected: conformance.Expected{Known: classes{"Put": visualcron.Fault, "Delete": visualcron.Fault}, Lands: true}},
	{modes: "lands-late=2s", Expected: conformance.Expected{Known: classes{"Put": visualcron.Fault, "Delete": visualcron.Fault}, Lands: true}},
	{modes: "lands-late=2s,silent", Expected: conformance.Expected{Known: classes{"Put": visualcron.Timeout, "Delete": visualcron.Timeout}, Lands: true}},

	{modes: "token-expires-mid-list", Expected: conformance.Expected{Known: classes{"List": visualcron.BadAnswer}}},
	// Every token is old when the request with it is looked at.
	{modes: "token-short=20ms slow=30ms", Expected: conformance.Expected{Known: conformance.All(visualcron.Unauthorized)}},
	{modes: "empty-token", Expected: conformance.Expected{Fresh: conformance.All(visualcron.BadAnswer)}},
	{modes: "throttles=0", Expected: conformance.Expected{Known: conformance.All(visualcron.Busy)}},
	{modes: "throttles=0,503", Expected: conformance.Expected{Known: conformance.All(visualcron.Busy)}},
	// A connector that logs on first is in the pit with the logon already.
	{modes: "tarpit=1s", Expected: conformance.Expected{
		Known: classes{"Server": visualcron.Timeout, "List": visualcron.Timeout, "Get": visualcron.Timeout, "Put": visualcron.Timeout},
		Fresh: conformance.All(visualcron.Timeout)}},
	{modes: "slow=1h", Expected: conformance.Expected{Known: conformance.All(visualcron.Timeout)}},
	{modes: "hangs", Expected: conformance.Expected{Known: conformance.All(visualcron.Timeout)}},
	{modes: "cuts", Expected: conformance.Expected{Known: classes{"Server": visualcron.BadAnswer, "List": visualcron.BadAnswer, "Get": visualcron.BadAnswer,
		"Put": visualcron.BadAnswer}}}, // an empty answer cannot be cut
	{modes: "error=401", Expected: conformance.Expected{Known: conformance.All(visualcron.Unauthorized)}},
	{modes: "error=401,html", Expected: conformance.Expected{Known: conformance.All(visualcron.Unauthorized)}},
	{modes: "error=403,text", Expected: conformance.Expected{Known: conformance.All(visualcron.Unauthorized)}},
	{modes: "error=403,json", Expected: conformance.Expected{Known: conformance.All(visualcron.Unauthorized)}},
	{modes: "error=404,html", Expected: conformance.Expected{Known: conformance.All(visualcron.BadAnswer)}},
	{modes: "error=404,json", Expected: conformance.Expected{Known: conformance.All(visualcron.BadAnswer)}},
	{modes: "error=500", Expected: conformance.Expected{Known: conformance.All(visualcron.Fault)}},
	{modes: "error=500,html", Expected: conformance.Expected{Known: conformance.All(visualcron.Fault)}},
	{modes: "error=502,text", Expected: conformance.Expected{Known: conformance.All(visualcron.Fault)}},
	{modes: "error=503,html", Expected: conformance.Expected{Known: conformance.All(visualcron.Busy)}},
	{modes: "error=422,json", typ: schemas.Job, Expected: conformance.Expected{Known: classes{"List": visualcron.Refused, "Get": visualcron.Refused,
		"Put": visualcron.Refused, "Delete": visualcron.Refused}}},

	// At first contact nobody can know which server is meant.
	{modes: "another-server", Expected: conformance.Expected{Known: conformance.All(visualcron.WrongServer), Fresh: classes{}}},
	// One that has been told what the server can do does not ask for more.
	{modes: "reads-only", Expected: conformance.Expected{Known: classes{"Put": visualcron.Unsupported, "Delete": visualcron.Unsupported}}},
	{modes: "reads-jobs-only", Expected: conformance.Expected{Known: classes{"Put": visualcron.Unsupported, "Delete": visualcron.Unsupported}}},
	{modes: "forbidden-types=403", typ: schemas.Job, Expected: conformance.Expected{Known: classes{"List": visualcron.Unauthorized, "Get": visualcron.Unauthorized,
		"Put": visualcron.Unauthorized, "Delete": visualcron.Unauthorized}}},
	// A listing that leaves everything out in silence is complete for whoever sees
	// only it; what it was before is for the caller to remember.
	{modes: "forbidden-types=empty", typ: schemas.Job, Expected: conformance.Expected{Known: classes{"Get": visualcron.NotFound, "Put": visualcron.Unauthorized,
		"Delete": visualcron.Unauthorized}, Unseen: true}},
	{modes: "lower-account=100", typ: schemas.Job, Expected: conformance.Expected{Known: classes{"Get": visualcron.NotFound}, Unseen: true}},
}

// TestBridgeInEveryMode runs the suite, or what can be judged of it, while the
// stand-in misbehaves in each way that it can, in virtual time.
func TestBridgeInEveryMode(t *testing.T) {
	judged := map[string]bool{}
	for _, f := range standin.ListingFaults() { // each is judged by the package that makes it
		expectations = append(expectations, inMode{modes: "listing=" + f.Name, typ: schemas.Job, Expected: conformance.Expected{AnyList: true}})
		judged["listing"] = true
	}
	if len(standin.ListingFaults()) == 0 {
		judged["listing"] = true // there is none to show
	}
	for _, e := range expectations {
		var modes []standin.Misbehaviour
		for i, text := range strings.Fields(e.modes) {
			m, err := standin.ParseMisbehaviour(text, e.typ)
			if err != nil {
				t.Error(err)
				continue
			}
			if modes = append(modes, m); i == 0 {
				judged[m.Mode] = true
			}
		}
		if e.whole {
			t.Run(e.modes+": as without it", func(t *testing.T) {
				conformance.RunInBubbles(t, func(t *testing.T) conformance.Harness {
					h, s := memoryHarness(t, standin.Config{})
					misbehave(t, s, modes)
					return h
				})
			})
			continue
		}
		t.Run(e.modes+": "+e.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h, s := memoryHarness(t, standin.Config{})
				conformance.Misbehaving(t, h, func() {
					misbehave(t, s, modes)
					if _, err := s.Act(); err != nil { // of mode activity
						t.Fatal(err)
					}
				}, e.Expected)
			})
		})
	}
	for _, m := range standin.Modes() {
		if !judged[m.Name] {
			t.Errorf("mode %s has no expectation here: say what a connector makes of it", m.Name)
		}
	}
}

func misbehave(t *testing.T, s *standin.Server, modes []standin.Misbehaviour) {
	t.Helper()
	if err := s.Misbehave(modes...); err != nil {
		t.Fatal(err)
	}
}
