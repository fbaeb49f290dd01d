package main

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"github.com/vcsync/vcsync/control"
)

// printed returns what status prints of a report.
func printed(t *testing.T, r control.StatusReport) string {
	t.Helper()
	var b bytes.Buffer
	if err := (&app{out: &b}).printStatus(r); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func TestStatusShowsProcessesAndAccounts(t *testing.T) {
	r := control.StatusReport{Version: "test", Store: control.StoreReport{Ready: true}, Roles: control.RolesReport{Producer: true, Consumer: true}}
	r.Processes = []control.ProcessReport{{Role: "control", Instance: "main", Host: "one", State: "alive", Memory: 30 << 20}}
	account := control.AccountingReport{Captured: 1234567, Applied: 1200000, Superseded: 30000, Filtered: 4000, Parked: 500, Held: 60, Pending: 7}
	r.Settings = []control.SettingReport{{Setting: "production-to-a-rather-distant-standby", Active: true, Known: true, Accounting: &account}}
	out := printed(t, r)
	if strings.Contains(out, "INSTANCE") || strings.Contains(out, "BALANCE") {
		t.Errorf("one process, and nothing is lost:\n%s", out)
	}

	r.Processes = append(r.Processes,
		control.ProcessReport{Role: "consumer", Instance: "consumer-of-the-second-rack", Host: "host.of.a.long.name.example", State: "gone", Silent: 3599, Memory: 123 << 20},
		control.ProcessReport{Role: "producer", Instance: "p\x1b[31m", Host: "h", State: "alive", Twice: true, Cut: true})
	for i := range 40 {
		r.Processes[1].Targets = append(r.Processes[1].Targets, fmt.Sprintf("target-%02d", i))
	}
	lost := account
	lost.Unaccounted, lost.Objects = 1, []string{"Job/\x1b[31m"}
	r.Settings = append(r.Settings, control.SettingReport{Setting: "other", Active: true, Known: true, Accounting: &lost})
	out = printed(t, r)
	for _, want := range []string{"THE ACCOUNTS DO NOT BALANCE: 1 version captured for setting other in no account", `Job/\x1b[31m`, "gone for 3599s", "target-00 and 39 more", "TWO PROCESSES HAVE ONE NAME: producer", "more to say", "1234567"} {
		if !strings.Contains(out, want) {
			t.Errorf("it does not say %q:\n%s", want, out)
		}
	}
	table := false
	for line := range strings.Lines(out) {
		line = strings.TrimRight(line, "\n")
		if line == "" {
			table = false
		}
		table = table || strings.HasPrefix(line, "PROCESS") || strings.HasPrefix(line, "ACCOUNT OF")
		if n := displayWidth(line); table && n > 100 {
			t.Errorf("%d columns: %s", n, line)
		}
	}
	if strings.Contains(out, "\x1b") {
		t.Error("a name reaches the terminal as it is")
	}
	t.Log("\n" + out)
}
