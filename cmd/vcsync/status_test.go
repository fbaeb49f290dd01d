package main

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

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

func TestStatusSaysWhatASettingWaitsFor(t *testing.T) {
	now := time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
	later := now.Add(10 * time.Hour)
	for _, c := range []struct {
		what string
		v    control.SettingReport
		want []string
	}{
		{"nothing", control.SettingReport{Active: true}, nil},
		{"a window that is shut", control.SettingReport{Active: true, Window: &control.WindowReport{Changes: later}, Waiting: 2}, []string{"waits for its sync window, which opens at " + when(later) + "; 2 objects wait"}},
		{"one object", control.SettingReport{Active: true, Window: &control.WindowReport{Changes: later}, Waiting: 1}, []string{"waits for its sync window, which opens at " + when(later) + "; 1 object waits"}},
		{"a window that is open", control.SettingReport{Active: true, Window: &control.WindowReport{Open: true, Changes: later}}, []string{"its sync window is open until " + when(later)}},
		{"windows that never open", control.SettingReport{Active: true, Window: &control.WindowReport{}}, []string{"its sync windows do not open in the next years: it writes nothing"}},
		{"a window of a setting that is off", control.SettingReport{Window: &control.WindowReport{Changes: later}}, nil},
		{"off for a time", control.SettingReport{Until: later, Reason: "month end"}, []string{"off until " + when(later) + ": month end"}},
		{"on for a reason", control.SettingReport{Active: true, Reason: "tried"}, []string{"on: tried"}},
		{"a listing that does not come", control.SettingReport{Active: true, Unlisted: "update it"}, []string{"update it"}},
		{"held for an approval", control.SettingReport{Setting: "one", Active: true, Mode: "approve", Drift: &control.DriftRecord{Differs: 5, Held: 4}}, []string{"4 objects are held for an approval: vcsync sync one"}},
		{"held by its words", control.SettingReport{Setting: "one", Active: true, Mode: "automatic", Drift: &control.DriftRecord{Held: 1}}, []string{"1 object is held: vcsync drift one says why"}},
		{"a time that is over", control.SettingReport{Active: true, Until: now.Add(-time.Hour)}, []string{"on until " + when(now.Add(-time.Hour)) + ", which is over, and it could not be turned back: see the log of control"}},
		{"what is left alone", control.SettingReport{Active: true, Accounting: &control.AccountingReport{Left: 7, LeftObjects: []string{"Job/a", "Job/b"}}},
			[]string{"7 brought to the target before and not taken any more, left alone there: Job/a, Job/b"}},
	} {
		if got := settingNotes(c.v, now); !slices.Equal(got, c.want) {
			t.Errorf("%s: %q, want %q", c.what, got, c.want)
		}
	}
}

func TestParseUntil(t *testing.T) {
	now := time.Date(2026, 11, 23, 18, 30, 0, 0, time.FixedZone("", 3600))
	for text, want := range map[string]string{
		"2026-11-24T06:00:00Z": "2026-11-24T06:00:00Z",
		"2026-11-24 06:00":     "2026-11-24T05:00:00Z",
		"2026-11-24T06:00:30":  "2026-11-24T05:00:30Z",
		"19:00":                "2026-11-23T18:00:00Z",
		"18:30":                "2026-11-24T17:30:00Z",
		"06:00":                "2026-11-24T05:00:00Z",
	} {
		if got, err := parseUntil(text, now); err != nil || got.UTC().Format(time.RFC3339) != want {
			t.Errorf("%s: %s, error %v, want %s", text, got.UTC(), err, want)
		}
	}
	for _, text := range []string{"", "tomorrow", "25:00", "24-11-2026"} {
		if _, err := parseUntil(text, now); err == nil {
			t.Errorf("%q is taken", text)
		}
	}
}
