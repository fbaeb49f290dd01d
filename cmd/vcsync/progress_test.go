package main

import (
	"strings"
	"testing"
	"time"
)

// Where nobody looks at a terminal, what is waited for long is said once.
func TestNotesWithoutATerminal(t *testing.T) {
	var out strings.Builder
	a := &app{err: &out}
	p := a.progress()
	p.note("waiting for the consumer of test, which is down")
	p.show(1, 2, "Job")
	if out.String() != "" {
		t.Errorf("said at once: %q", out.String())
	}
	for range 3 {
		p.said = time.Now().Add(-sayAfter)
		p.note("waiting for the consumer of test,\x1b which is down")
	}
	p.end()
	if got := out.String(); got != "vcsync: waiting for the consumer of test,\\x1b which is down\n" {
		t.Errorf("%q", got)
	}
}
