package control_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
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
		if known[m.Name] = true; slices.Contains(m.Labels, "instance") || slices.Contains(m.Labels, "job") {
			t.Errorf("%s has a label of Prometheus's own, which renames it to exported_instance or exported_job", m.Name)
		}
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

type fakeNotifications struct{}

func (fakeNotifications) Counts(put func(kind, result string, n uint64)) { put("parked", "failed", 3) }

func TestMetrics(t *testing.T) {
	certFile, keyFile := writeCertificate(t, t.TempDir(), 1, at.AddDate(20, 0, 0), "vcsync.test")
	cert, err := control.LoadCertificate(certFile, keyFile, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	w := newWorld(t, func(c *control.Config) { c.Notifications, c.Certificate = fakeNotifications{}, cert })
	w.busy()
	w.roles.sources[0].State = producer.Capturing
	w.roles.sources[0].CertificateEnds, w.roles.targets[0].CertificateEnds = at, at.AddDate(1, 0, 0)
	w.roles.setting[0].Accounting = &full
	w.audited()
	w.backup().want2(200)
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
		fmt.Sprintf(`vcsync_server_certificate_expiry_timestamp_seconds{server="a"} %s`, strconv.FormatFloat(float64(at.UnixNano())/1e9, 'g', -1, 64)),
		`vcsync_target_breaker_open{target="b"} 1`,
		`vcsync_parked_objects{class="refused",target="b"} 1`,
		`vcsync_setting_active{setting="two",source="b",target="a"} 0`,
		`vcsync_broker_write_probe_success 1`,
		`vcsync_notifications_total{kind="parked",result="failed"} 3`,
		`vcsync_source_last_complete_scan_timestamp_seconds{source="a",type="Job"} 1.772637377e+09`,
		`vcsync_setting_different_objects{setting="one",target="b"} 3`,
		`vcsync_setting_different_held_objects{setting="one",target="b"} 2`,
		`vcsync_setting_last_audit_timestamp_seconds{setting="one",target="b"} 1.772637377e+09`,
		`vcsync_setting_audit_failed{setting="one",target="b"} 0`,
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

// audited stores what an audit of the target of one found.
func (w *world) audited() {
	w.t.Helper()
	d := broker.DriftList{ID: "d", Setting: "one", Source: "a", Target: "b", Began: at, Counts: []broker.PlanCount{
		{Type: schemas.Job, Difference: broker.Equal, Act: "nothing", Objects: 90},
		{Type: schemas.Job, Difference: broker.Different, Act: "update", Objects: 1},
		{Type: schemas.Job, Difference: broker.Different, Act: "hold", Objects: 1},
		{Type: schemas.Job, Difference: broker.OnlySource, Act: "hold", Objects: 1},
	}}
	if err := w.b.PutDrift(w.t.Context(), d, nil); err != nil {
		w.t.Fatal(err)
	}
}

// metric returns the value of a series, and whether there is one.
func (w *world) metric(series string, header ...string) (float64, bool) {
	w.t.Helper()
	for line := range strings.Lines(string(w.do("GET", "/metrics", "", header...).want(200).body)) {
		if rest, ok := strings.CutPrefix(line, series+" "); ok {
			v, err := strconv.ParseFloat(strings.TrimSpace(rest), 64)
			if err != nil {
				w.t.Fatal(err)
			}
			return v, true
		}
	}
	return 0, false
}

func (w *world) wantMetric(series string, want float64, header ...string) {
	w.t.Helper()
	if got, ok := w.metric(series, header...); !ok || got != want {
		w.t.Errorf("%s %v (%v), want %v", series, got, ok, want)
	}
}

func TestSignInsAreCounted(t *testing.T) {
	const series = `vcsync_api_signins_total{result=%q}`
	w := newWorld(t)
	for _, result := range []string{"ok", "wrong", "busy", "waiting", "failed"} {
		w.wantMetric(fmt.Sprintf(series, result), 0) // so that the first is seen as a rise
	}
	root := w.admin("root") // signs in
	wrong := []string{signInBody("root", "wrong"), signInBody("nobody", personal), signInBody("no name", personal)}
	for _, body := range wrong {
		w.do("POST", "/api/v1/session", body).want(401)
	}
	form := url.Values{"account": {"root"}, "password": {"wrong"}}.Encode()
	w.do("POST", "/signin", form, "Content-Type", "application/x-www-form-urlencoded").want2(401)
	w.edit("root", func(a *broker.Account) { a.Failures, a.Failed = 9, time.Now() })
	w.do("POST", "/api/v1/session", signInBody("root", personal)).want(429, "wait")
	for result, n := range map[string]float64{"ok": 1, "wrong": 4, "waiting": 1, "busy": 0, "failed": 0} {
		w.wantMetric(fmt.Sprintf(series, result), n, "Authorization", root)
	}

	var wg sync.WaitGroup
	var busy atomic.Int64
	for i := range 40 {
		wg.Go(func() {
			if w.do("POST", "/api/v1/session", signInBody(fmt.Sprint("nobody", i), "wrong")).status == 429 {
				busy.Add(1)
			}
		})
	}
	wg.Wait()
	if busy.Load() == 0 {
		t.Error("40 at once, and none was told to wait")
	}
	w.wantMetric(fmt.Sprintf(series, "busy"), float64(busy.Load()), "Authorization", root)
	w.wantMetric(fmt.Sprintf(series, "wrong"), float64(44-busy.Load()), "Authorization", root)

	// Without a store, too, the counters are there.
	if err := w.b.Close(); err != nil {
		t.Fatal(err)
	}
	w.do("POST", "/api/v1/session", signInBody("root", personal)).want(500)
	w.wantMetric(fmt.Sprintf(series, "failed"), 1, "Authorization", root)
	w.wantMetric("vcsync_status_known", 0, "Authorization", root)
}

func TestRefusalsAreCounted(t *testing.T) {
	w := newWorld(t)
	root := w.admin("root")
	viewer := w.account(root, "viewer", `{"role":"viewer"}`)
	browser := w.browser("viewer")
	refused := map[string]float64{"unauthorized": 0, "forbidden": 0, "origin": 0, "host": 0}
	check := func(after string) {
		t.Helper()
		for reason, n := range refused {
			if got, ok := w.metric(fmt.Sprintf(`vcsync_api_refused_total{reason=%q}`, reason), "Authorization", root); !ok || got != n {
				t.Errorf("after %s: %v of %s (%v), want %v", after, got, reason, ok, n)
			}
		}
	}
	check("nothing")
	for _, c := range []struct {
		what, reason string
		do           func() answer
		status       int
	}{
		{"no session", "unauthorized", func() answer { return w.do("GET", "/api/v1/status", "") }, 401},
		{"a token that is none", "unauthorized", func() answer { return w.as("Bearer nothing", "GET", "/metrics", "") }, 401},
		{"a hint with a token that is none", "unauthorized", func() answer { return w.as("Bearer nothing", "POST", "/api/v1/hints/a", "") }, 401},
		{"a viewer who edits", "forbidden", func() answer { return w.as(viewer, "DELETE", "/api/v1/settings/one", "") }, 403},
		{"a cookie without the header", "forbidden", func() answer {
			return w.do("DELETE", "/api/v1/session", "", "Cookie", "__Host-vcsync-7780="+strings.TrimPrefix(browser, "cookie "))
		}, 403},
		{"a change from another page", "origin", func() answer {
			return w.as(root, "POST", "/api/v1/sources/a/poll", "", "Sec-Fetch-Site", "cross-site")
		}, 403},
		{"a look from another page", "origin", func() answer { return w.as(root, "GET", "/metrics", "", "Origin", "http://evil.example") }, 403},
		{"another host", "host", func() answer { return w.as(root, "GET", "/metrics", "", "Host", "evil.example") }, 421},
		{"the form for signing in", "", func() answer { return w.do("GET", "/", "") }, 401},
		{"what is let in", "", func() answer { return w.as(viewer, "GET", "/api/v1/status", "") }, 200},
		{"nothing there", "", func() answer { return w.as(viewer, "GET", "/nothing", "") }, 404},
	} {
		c.do().want2(c.status)
		if c.reason != "" {
			refused[c.reason]++
		}
		check(c.what)
	}
}

func TestAuditWriteFailuresAreCounted(t *testing.T) {
	const series = "vcsync_audit_write_failures_total"
	w := newWorld(t)
	w.putServer("a", "b")
	w.do("POST", "/api/v1/settings", settingBody("one", "a", "b", true, allJobs)).want(201)
	w.wantMetric(series, 0)
	if err := w.b.JS().DeleteStream(t.Context(), broker.StreamAudit); err != nil {
		t.Fatal(err)
	}
	w.do("POST", "/api/v1/settings/one/deactivate", "", "If-Match", "*").want(503, "audit")
	w.wantMetric(series, 1)
	w.backup().want(503, "audit")
	w.wantMetric(series, 2)

	// The record of a result counts too.
	var breaks func()
	w = newWorld(t, func(c *control.Config) { c.Sources = breakingProducers{c.Sources, func() { breaks() }} })
	w.busy()
	breaks = func() {
		if err := w.b.JS().DeleteStream(context.Background(), broker.StreamAudit); err != nil {
			t.Error(err)
		}
	}
	w.do("POST", "/api/v1/sources/a/poll", "").want2(202)
	w.wantMetric(series, 1)
}

// breakingProducers do something at a poke.
type breakingProducers struct {
	control.Producers
	breaks func()
}

func (p breakingProducers) Poke(schemas.Slug) { p.breaks() }

// TestTheLastBackupIsKnown checks that the time is that of a backup that was sent in whole,
// and that another process knows it.
func TestTheLastBackupIsKnown(t *testing.T) {
	const series = "vcsync_backup_timestamp_seconds"
	w := newWorld(t)
	if at, ok := w.metric(series); ok {
		t.Errorf("no backup, and yet one at %v", at)
	}
	begun := float64(time.Now().UnixMilli()) / 1000
	w.backup().want2(200)
	made, ok := w.metric(series)
	if now := float64(time.Now().UnixMilli()) / 1000; !ok || made < begun || made > now {
		t.Errorf("a backup at %v (%v), want between %v and %v", made, ok, begun, now)
	}

	// One that breaks off is none, and the audit says so.
	w.brokenBackup()
	var acts control.AuditList
	waitFor(t, func() bool {
		acts = control.AuditList{}
		w.do("GET", "/api/v1/audit?action=backup.make", "").want(200).into(&acts)
		return len(acts.Items) == 2 && strings.HasPrefix(acts.Items[0].Result, "failed: back up the keyring") && acts.Items[1].Result == "done"
	})

	// Who starts anew finds it in the audit.
	s, err := control.New(control.Config{Broker: w.b, Open: openBridge, Addr: "127.0.0.1:7780"})
	if err != nil {
		t.Fatal(err)
	}
	w.srv.Config.Handler = s.Handler()
	want := float64(acts.Items[1].Time.UnixMilli()) / 1000
	if again, ok := w.metric(series); !ok || again != want {
		t.Errorf("after a start a backup at %v (%v), want %v", again, ok, want)
	}
}

func TestTheDiskIsMeasured(t *testing.T) {
	w := newWorld(t)
	free, ok1 := w.metric("vcsync_disk_free_bytes")
	size, ok2 := w.metric("vcsync_disk_size_bytes")
	if !ok1 || !ok2 || free <= 0 || size <= free {
		t.Errorf("%v of %v bytes free", free, size)
	}
	// What cannot be measured is missing, and the rest is there.
	w = newWorld(t, func(c *control.Config) { c.Data = filepath.Join(c.Data, "nowhere") })
	if free, ok := w.metric("vcsync_disk_free_bytes"); ok {
		t.Errorf("%v bytes are free in a folder that is not there", free)
	}
	w.wantMetric("vcsync_status_known", 1)
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
