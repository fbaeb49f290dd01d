package schemas

import (
	"bytes"
	"maps"
	"reflect"
	"strings"
	"testing"
	"time"
)

const aTrace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

// The traceparent stands beside the event: with it and without it, id, digest, data and
// every other header are the same, and whatever stands there, the event is read.
func TestTheTraceIsNoPartOfTheEvent(t *testing.T) {
	e := Event{Source: "a", Kind: Updated, Version: Version{1, 2}, Digest: Digest(strings.Repeat("0", 64)), Time: time.Unix(1.7e9, 0).UTC(),
		Object: Object{Type: Job, ID: "x", Name: "n", Body: []byte(`{}`)}}
	plain, data, err := e.Encode()
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := plain[HeaderTrace]; ok {
		t.Error("a header without a trace")
	}
	e.Trace = aTrace
	traced, data2, err := e.Encode()
	if err != nil {
		t.Fatal(err)
	}
	if got := traced[HeaderTrace]; len(got) != 1 || got[0] != aTrace {
		t.Errorf("header %q", got)
	}
	// What an older release reads: it does not know the header.
	older := maps.Clone(traced)
	delete(older, HeaderTrace)
	if !reflect.DeepEqual(older, plain) || !bytes.Equal(data, data2) {
		t.Errorf("%v\n%v", older, plain)
	}
	if back, err := ParseEvent(e.Subject(), traced, data); err != nil || !reflect.DeepEqual(back, e) {
		t.Errorf("%+v, %v", back, err)
	}
	e.Trace = ""
	for _, v := range [][]string{nil, {}, {""}, {"%g0"}, {aTrace, aTrace}, {aTrace + "0"}, {strings.ToUpper(aTrace)}, {"01" + aTrace[2:]}, {strings.Replace(aTrace, "a", "-", 1)}, {strings.Repeat("0", 1<<16)}} {
		h := maps.Clone(plain)
		h[HeaderTrace] = v
		if back, err := ParseEvent(e.Subject(), h, data); err != nil || !reflect.DeepEqual(back, e) {
			t.Errorf("%.80q: %+v, %v", v, back, err)
		}
		if len(v) == 1 {
			bad := e
			bad.Trace = v[0]
			if h, _, err := bad.Encode(); err != nil || h[HeaderTrace] != nil {
				t.Errorf("%.80q is written: %v", v, err)
			}
		}
	}
}
