package control_test

import (
	"bytes"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/vcsync/vcsync/broker"
	"github.com/vcsync/vcsync/consumer"
	"github.com/vcsync/vcsync/control"
	"github.com/vcsync/vcsync/producer"
	"github.com/vcsync/vcsync/schemas"
)

const metricsDoc = "../docs/metrics.md"

// The table between these lines is made by go test ./control -update.
const beginTable, endTable = "<!-- begin: made by go test ./control -update -->\n", "<!-- end -->\n"

func metricsTable() string {
	var b strings.Builder
	b.WriteString("| Metric | Type | Labels | Meaning |\n|---|---|---|---|\n")
	for _, m := range control.Metrics() {
		kind := "gauge"
		if m.Kind == prometheus.CounterValue {
			kind = "counter"
		}
		labels := "–"
		if len(m.Labels) > 0 {
			labels = "`" + strings.Join(m.Labels, "`, `") + "`"
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s |\n", m.Name, kind, labels, m.Help)
	}
	return b.String()
}

func TestTheListOfMetricsIsCurrent(t *testing.T) {
	raw, err := os.ReadFile(metricsDoc)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, ok1 := bytes.Cut(raw, []byte(beginTable))
	_, after, ok2 := bytes.Cut(rest, []byte(endTable))
	if !ok1 || !ok2 {
		t.Fatalf("%s has no place for the table", metricsDoc)
	}
	want := string(before) + beginTable + metricsTable() + endTable + string(after)
	if *update {
		if err := os.WriteFile(metricsDoc, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	} else if string(raw) != want {
		t.Errorf("%s is not what the code says; run go test ./control -update", metricsDoc)
	}
	// The text around the table speaks of no metric that there is not.
	known := map[string]bool{}
	for _, m := range control.Metrics() {
		known[m.Name] = true
	}
	for _, word := range strings.FieldsFunc(want, func(r rune) bool { return r != '_' && (r < 'a' || r > 'z') }) {
		if strings.HasPrefix(word, "vcsync_") && !known[word] {
			t.Errorf("%s speaks of %s, which is no metric", metricsDoc, word)
		}
	}
}

// fleet is a world with processes of both roles that run apart.
func fleet(t *testing.T) (*world, *control.Reports) {
	t.Helper()
	var reports *control.Reports
	w := newWorld(t, func(c *control.Config) {
		reports = control.NewReports(c.Broker, c.Log)
		c.Sources, c.Targets, c.Fleet, c.Instance = reports.Producers(), reports.Consumers(), reports, "c0"
	})
	return w, reports
}

var full = consumer.Accounting{At: at, Captured: 21, Applied: 10, Superseded: 4, Filtered: 2, Parked: 1, Pending: 2, Oldest: at, Unaccounted: 2, Objects: []string{"Job/<b>x", "Job/y"}}

func TestMetrics(t *testing.T) {
	w := newWorld(t)
	w.busy()
	w.roles.sources[0].State = producer.Capturing
	w.roles.setting[0].Accounting = &full
	a := w.do("GET", "/metrics", "").want(200)
	body := string(a.body)
	for _, m := range control.Metrics() {
		if !strings.Contains(body, "\n"+m.Name) {
			t.Errorf("%s is listed and not served", m.Name)
		}
	}
	for _, want := range []string{
		`vcsync_accounting_versions{setting="one",target="b",term="captured"} 33`, // 12 are held
		`vcsync_accounting_versions{setting="one",target="b",term="held"} 12`,
		`vcsync_accounting_versions{setting="one",target="b",term="superseded"} 4`,
		`vcsync_accounting_unaccounted{setting="one",target="b"} 2`,
		`vcsync_deletes_held{source="a",type="Job"} 12`,
		`vcsync_target_breaker_open{target="b"} 1`,
		`vcsync_parked_objects{class="refused",target="b"} 1`,
		`vcsync_setting_active{setting="two",source="b",target="a"} 0`,
		`vcsync_broker_write_probe_success 1`,
		`vcsync_source_last_complete_scan_timestamp_seconds{source="a",type="Job"} 1.772637377e+09`,
		"go_goroutines", "process_resident_memory_bytes",
	} {
		if !strings.Contains(body, want) {
			t.Errorf("no %s in\n%s", want, body)
		}
	}
	for _, secret := range []string{"Contoso", "<script", "Job/", "nobody answers", "127.0.0.1:1", password} {
		if strings.Contains(body, secret) {
			t.Errorf("the metrics hold %q", secret)
		}
	}
	w.do("GET", "/metrics", "", "Host", "evil.example").want(421)
	w.do("GET", "/metrics", "", "Origin", "http://evil.example").want(403)
	w.do("POST", "/metrics", "").want(405)

	// A store that cannot be read is said, and is no failed scrape.
	if err := w.b.Close(); err != nil {
		t.Fatal(err)
	}
	body = string(w.do("GET", "/metrics", "").want(200).body)
	if !strings.Contains(body, "vcsync_status_known 0") || strings.Contains(body, "vcsync_accounting") {
		t.Errorf("of a store that is gone:\n%s", body)
	}
}

func TestTheAccountsAreShown(t *testing.T) {
	w := newWorld(t)
	w.busy()
	w.roles.setting[0].Accounting = &full
	var r control.StatusReport
	w.do("GET", "/api/v1/status", "").want(200).into(&r)
	c := r.Settings[0].Accounting
	if c == nil || c.Captured != 33 || c.Held != 12 || c.Unaccounted != 2 || c.Captured != c.Applied+c.Superseded+c.Filtered+c.Parked+c.Held+c.Pending+c.Unaccounted {
		t.Errorf("%+v", c)
	}
	w.do("GET", "/", "").want(200, "The accounts do not balance", "Job/&lt;b&gt;x", "What became of every captured version", ">33<", "3 in trouble")
}

func TestProcessesThatRunApart(t *testing.T) {
	w, reports := fleet(t)
	w.busy()
	var r control.StatusReport
	w.do("GET", "/api/v1/status", "").want(200).into(&r)
	if len(r.Processes) != 1 || r.Processes[0].Role != "control" || r.Processes[0].Instance != "c0" {
		t.Errorf("processes %+v", r.Processes)
	}
	if len(r.Sources) != 1 || r.Sources[0].State != "no producer has it" || len(r.Targets) != 1 || r.Targets[0].State != "no consumer has it" {
		t.Errorf("nobody is there: %+v %+v", r.Sources, r.Targets)
	}
	run(t, reports.Run)
	reporter := func(role, instance string, words func() any) broker.Reporter {
		return broker.Reporter{Broker: w.b, Role: role, Instance: instance, Version: "v1", Words: words}
	}
	p := run(t, reporter(broker.RoleNameProducer, "p1", func() any {
		return producer.Report{Sources: []producer.Status{{Server: "a", State: producer.Capturing, Epoch: 4, Types: map[schemas.Type]producer.TypeStatus{schemas.Job: {Objects: 3, Held: 2, Complete: at}}}}}
	}).Run)
	run(t, reporter(broker.RoleNameConsumer, "one", func() any {
		return consumer.Report{Targets: []consumer.TargetStatus{{Target: "b", State: consumer.Waiting, Since: at}},
			Settings: []consumer.SettingStatus{{Setting: "one", State: "target waiting for the lease"}}}
	}).Run)
	run(t, reporter(broker.RoleNameConsumer, "two", func() any {
		return consumer.Report{Targets: []consumer.TargetStatus{{Target: "b", State: consumer.Working, Since: at, Applied: 7}},
			Settings: []consumer.SettingStatus{{Setting: "one", State: "following", Pending: 5, Accounting: &full}}}
	}).Run)
	run(t, reporter(broker.RoleNameConsumer, "idle", func() any {
		return consumer.Report{Settings: []consumer.SettingStatus{{Setting: "one", State: consumer.Inactive}}}
	}).Run)
	waitFor(t, func() bool {
		r = control.StatusReport{}
		w.do("GET", "/api/v1/status", "").want(200).into(&r)
		return len(r.Processes) == 5
	})
	r = control.StatusReport{} // a process may speak while a report is made: the next one has all that it said
	w.do("GET", "/api/v1/status", "").want(200).into(&r)
	if got := r.Processes[2]; got.Instance != "one" || len(got.Targets) != 0 {
		t.Errorf("who stands by holds nothing: %+v", got)
	}
	if got := r.Processes[3]; got.Instance != "two" || fmt.Sprint(got.Targets) != "[b]" || got.State != "alive" || got.Version != "v1" || got.Memory == 0 || got.PID != os.Getpid() {
		t.Errorf("%+v", got)
	}
	if len(r.Sources) != 1 || r.Sources[0].State != "capturing" || r.Sources[0].Types[0].Held != 2 || !r.Sources[0].Types[0].Complete.Equal(at) {
		t.Errorf("sources %+v", r.Sources)
	}
	if len(r.Targets) != 1 || r.Targets[0].State != "working" || r.Targets[0].Applied != 7 {
		t.Errorf("who works on it knows more: %+v", r.Targets)
	}
	if v := r.Settings[0]; !v.Known || v.State != "following" || v.Pending != 5 || v.Accounting == nil || v.Accounting.Held != 2 || v.Accounting.Applied != 10 {
		t.Errorf("setting %+v %+v", v, v.Accounting)
	}
	w.do("GET", "/", "").want(200, "Processes", "two")

	// A poke reaches who listens.
	sub, err := w.b.JS().Conn().SubscribeSync(broker.PokeSubject("a"))
	if err != nil {
		t.Fatal(err)
	}
	w.do("POST", "/api/v1/sources/a/poll", "").want(202)
	if _, err := sub.NextMsg(10 * time.Second); err != nil {
		t.Errorf("no poke: %v", err)
	}

	// Who ends in order is taken out at once.
	p()
	waitFor(t, func() bool {
		r = control.StatusReport{}
		w.do("GET", "/api/v1/status", "").want(200).into(&r)
		return len(r.Processes) == 4 && len(r.Sources) == 1 && r.Sources[0].State == "no producer has it"
	})
}
