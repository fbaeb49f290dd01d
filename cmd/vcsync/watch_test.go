package main

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

const (
	alertsFile    = "../../deploy/prometheus/alerts.yml"
	alertsTest    = "../../deploy/prometheus/alerts_test.yml"
	dashboardFile = "../../deploy/grafana/vcsync.json"
	runbooksDir   = "../../docs/runbooks"
	runbookURL    = "https://github.com/vcsync/vcsync/blob/main/docs/runbooks/"
)

func readText(t *testing.T, file string) string {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// alertRule is one of alerts.yml. That the file is as Prometheus wants it, promtool checks.
type alertRule struct{ name, expr, severity, runbook string }

var (
	ruleBlock   = regexp.MustCompile(`(?m)^      - alert: `)
	metricName  = regexp.MustCompile(`\bvcsync_[a-z_]+`)
	runbookFile = regexp.MustCompile(`\(([a-z-]+\.md)[#)]`)
)

func field(block, name string) string {
	m := regexp.MustCompile(`(?m)^ *` + name + `: (.*)$`).FindStringSubmatch(block)
	if m == nil {
		return ""
	}
	return m[1]
}

func alertRules(t *testing.T) (out []alertRule) {
	t.Helper()
	for _, block := range ruleBlock.Split(readText(t, alertsFile), -1)[1:] {
		name, _, _ := strings.Cut(block, "\n")
		out = append(out, alertRule{name, field(block, "expr"), field(block, "severity"), field(block, "runbook_url")})
	}
	if len(out) < 25 {
		t.Fatalf("only %d alerts were found in %s", len(out), alertsFile)
	}
	return out
}

// knownMetrics are those of the table in docs/metrics.md, which go test ./control keeps
// equal to the code.
func knownMetrics(t *testing.T) map[string]bool {
	t.Helper()
	known := map[string]bool{}
	for _, m := range regexp.MustCompile("(?m)^\\| `(vcsync_[a-z_]+)` \\|").FindAllStringSubmatch(readText(t, "../../docs/metrics.md"), -1) {
		known[m[1]] = true
	}
	if len(known) < 40 {
		t.Fatalf("only %d metrics were found", len(known))
	}
	return known
}

// A rule or panel over a metric that does not exist says for ever that all is well.
func TestWatchedMetricsExist(t *testing.T) {
	known := knownMetrics(t)
	files := []string{alertsFile, alertsTest, dashboardFile, "../../deploy/README.md", "../../README.md"}
	for _, dir := range []string{"../../docs", runbooksDir} {
		more, err := filepath.Glob(dir + "/*.md")
		if err != nil || len(more) < 5 {
			t.Fatal(dir, more, err)
		}
		files = append(files, more...)
	}
	for _, file := range files {
		for _, m := range metricName.FindAllString(readText(t, file), -1) {
			if !known[m] {
				t.Errorf("%s speaks of %s, which is no metric", file, m)
			}
		}
	}
	for _, r := range alertRules(t) {
		if !metricName.MatchString(r.expr) {
			t.Errorf("%s looks at no metric of vcsync: %s", r.name, r.expr)
		}
	}
}

func TestEveryAlertHasARunbookAndACase(t *testing.T) {
	type cases struct{ fires, quiet bool }
	tested := map[string]*cases{}
	for _, block := range regexp.MustCompile(`(?m)^  - name: `).Split(readText(t, alertsTest), -1)[1:] {
		name := field(block, "- alertname")
		c := tested[name]
		if c == nil {
			c = &cases{}
			tested[name] = c
		}
		input, _, _ := strings.Cut(block, "alert_rule_test")
		var about bool // a quiet case that is about something else proves nothing
		for _, r := range alertRules(t) {
			about = about || r.name == name && slices.ContainsFunc(metricName.FindAllString(r.expr, -1), func(m string) bool { return strings.Contains(input, m) })
		}
		switch _, expected, _ := strings.Cut(block, "exp_alerts:"); {
		case strings.TrimSpace(expected) == "[]":
			c.quiet = c.quiet || about
		case strings.Contains(expected, "- exp_labels:"):
			c.fires = true
		}
	}
	list := readText(t, runbooksDir+"/README.md")
	names := map[string]bool{}
	for _, r := range alertRules(t) {
		if names[r.name] {
			t.Errorf("there are two alerts %s", r.name)
		}
		names[r.name] = true
		if r.severity != "page" && r.severity != "ticket" {
			t.Errorf("%s has the severity %q, want page or ticket", r.name, r.severity)
		}
		file, ok := strings.CutPrefix(r.runbook, runbookURL)
		if !ok {
			t.Errorf("%s has the runbook %q, want one at %s", r.name, r.runbook, runbookURL)
		} else if text, err := os.ReadFile(filepath.Join(runbooksDir, file)); err != nil {
			t.Errorf("%s: %v", r.name, err)
		} else if !strings.Contains(string(text), "`"+r.name+"`") {
			t.Errorf("%s does not name its alert %s", file, r.name)
		} else if !regexp.MustCompile(`\(` + regexp.QuoteMeta(file) + "\\).*`" + r.name + "`").MatchString(list) {
			t.Errorf("the list of runbooks does not name %s beside %s", r.name, file)
		}
		if c := tested[r.name]; c == nil || !c.fires || !c.quiet {
			t.Errorf("%s has not both in %s, a case in which it fires and one in which it stays quiet: %+v", r.name, alertsTest, c)
		}
		if !strings.Contains(readText(t, "../../docs/metrics.md"), "`"+r.name+"`") {
			t.Errorf("docs/metrics.md does not name %s", r.name)
		}
	}
	for name := range tested {
		if !names[name] {
			t.Errorf("%s tests %q, which is no alert", alertsTest, name)
		}
	}
}

// runbooks returns the text of every runbook by its file name, without the list of them.
func runbooks(t *testing.T) map[string]string {
	t.Helper()
	files, err := filepath.Glob(runbooksDir + "/*.md")
	if err != nil || len(files) < 13 {
		t.Fatal(files, err)
	}
	out := map[string]string{}
	for _, f := range files {
		if name := filepath.Base(f); name != "README.md" {
			out[name] = readText(t, f)
		}
	}
	return out
}

func TestRunbooksAreListedAndWhole(t *testing.T) {
	list, all := readText(t, runbooksDir+"/README.md"), runbooks(t)
	alerts := map[string]bool{}
	for _, r := range alertRules(t) {
		alerts[r.name] = true
	}
	for name, text := range all {
		if !strings.Contains(list, "("+name+")") {
			t.Errorf("%s is not in the list of runbooks", name)
		}
		at := 0
		for _, part := range []string{"\n## What it means\n", "\n## Look\n", "\n## Do", "\n## When it is over\n"} {
			i := strings.Index(text, part)
			if i < at {
				t.Errorf("%s: %q is missing or at another place", name, strings.TrimSpace(part))
			}
			at = max(at, i)
		}
		for _, a := range regexp.MustCompile("`(Vcsync[A-Za-z]+)`").FindAllStringSubmatch(text, -1) {
			if !alerts[a[1]] {
				t.Errorf("%s names %s, which is no alert", name, a[1])
			}
		}
		for _, link := range runbookFile.FindAllStringSubmatch(text, -1) {
			if all[link[1]] == "" {
				t.Errorf("%s points at %s, which is not there", name, link[1])
			}
		}
	}
	for _, link := range runbookFile.FindAllStringSubmatch(list, -1) {
		if all[link[1]] == "" {
			t.Errorf("the list points at %s, which is not there", link[1])
		}
	}
}

// commandLines returns the lines in a text that call vcsync: those of its code blocks, and
// what is set as code within a sentence.
func commandLines(text string) (out []string) {
	env := regexp.MustCompile(`^([A-Z_]+=\S+ )*vcsync `)
	block := false
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if strings.HasPrefix(line, "```") {
			block = !block
			continue
		}
		spans := []string{line}
		if !block {
			spans = nil
			for i, s := range strings.Split(line, "`") {
				if i%2 == 1 {
					spans = append(spans, s)
				}
			}
		}
		for _, s := range spans {
			if m := env.FindString(s); m != "" {
				s, _, _ = strings.Cut(strings.TrimPrefix(s, m), " #")
				out = append(out, strings.TrimSpace(s))
			}
		}
	}
	return out
}

// words splits a line as a shell does, as far as the runbooks go.
func words(line string) (out []string) {
	for _, m := range regexp.MustCompile(`"([^"]*)"|'([^']*)'|(\S+)`).FindAllStringSubmatch(line, -1) {
		out = append(out, m[1]+m[2]+m[3])
	}
	return out
}

// parses tells what is wrong with a command line, without running it.
func parses(line string) error {
	root, _ := newRoot(nil, nil, nil)
	cmd, rest, err := root.Find(words(line))
	if err != nil {
		return err
	}
	if cmd == root {
		return fmt.Errorf("there is no such command")
	}
	if err := cmd.ParseFlags(rest); err != nil {
		return err
	}
	args := cmd.Flags().Args()
	if err := cmd.ValidateArgs(args); err != nil {
		return err
	}
	if err := cmd.ValidateRequiredFlags(); err != nil {
		return err
	}
	if cmd.HasSubCommands() && len(args) > 0 {
		return fmt.Errorf("%s has no command %s", cmd.CommandPath(), args[0])
	}
	return groupRuns(cmd)
}

// groupRuns refuses a command that only holds others and does nothing itself.
func groupRuns(cmd *cobra.Command) error {
	if cmd.Runnable() {
		return nil
	}
	return fmt.Errorf("%s does nothing without a command", cmd.CommandPath())
}

// Somebody who is woken types what stands there.
func TestCommandsOfTheRunbooksExist(t *testing.T) {
	for _, wrong := range []string{"stauts", "status --loud", "server tset production", "airlock approve", "parked show test", "sync one two"} {
		if parses(wrong) == nil {
			t.Errorf("%q counts as a command", wrong)
		}
	}
	n := 0
	for name, text := range runbooks(t) {
		lines := commandLines(text)
		if len(lines) == 0 {
			t.Errorf("%s says no command", name)
		}
		for _, line := range lines {
			n++
			if err := parses(line); err != nil {
				t.Errorf("%s: vcsync %s: %v", name, line, err)
			}
		}
	}
	if n < 100 {
		t.Errorf("only %d commands were found", n)
	}
	var variables []string
	for _, o := range options() {
		variables = append(variables, o.name)
	}
	for name, text := range runbooks(t) {
		for _, v := range regexp.MustCompile(`VCSYNC_[A-Z_]+`).FindAllString(text, -1) {
			if !slices.Contains(variables, v) {
				t.Errorf("%s: %s is no variable of vcsync", name, v)
			}
		}
	}
}

func TestTheDashboardIsWhole(t *testing.T) {
	var d struct {
		SchemaVersion int
		Templating    struct{ List []struct{ Name, Type string } }
		Panels        []struct {
			ID          int
			Type, Title string
			Datasource  struct{ UID string }
			Targets     []struct {
				Expr       string
				Datasource struct{ UID string }
			}
		}
	}
	if err := json.Unmarshal([]byte(readText(t, dashboardFile)), &d); err != nil {
		t.Fatal(err)
	}
	if d.SchemaVersion < 39 {
		t.Errorf("schemaVersion %d is older than that of Grafana 11", d.SchemaVersion)
	}
	if len(d.Templating.List) == 0 || d.Templating.List[0].Name != "datasource" || d.Templating.List[0].Type != "datasource" {
		t.Errorf("no variable for the data source: %+v", d.Templating.List)
	}
	var rows []string
	ids := map[int]bool{}
	for _, p := range d.Panels {
		if ids[p.ID] {
			t.Errorf("two panels have the id %d", p.ID)
		}
		if ids[p.ID] = true; p.Type == "row" {
			rows = append(rows, p.Title)
			continue
		}
		if len(p.Targets) == 0 || p.Datasource.UID != "${datasource}" {
			t.Errorf("panel %s asks for nothing, or of the data source %q", p.Title, p.Datasource.UID)
		}
		for _, q := range p.Targets {
			if !metricName.MatchString(q.Expr) || q.Datasource.UID != "${datasource}" {
				t.Errorf("panel %s: %q of the data source %q", p.Title, q.Expr, q.Datasource.UID)
			}
		}
	}
	if want := "Overall, Sources, Targets, Parked and held, Processes and resources, Door"; strings.Join(rows, ", ") != want {
		t.Errorf("rows %q, want %s", rows, want)
	}
}

// TestAlertsFire runs the cases of alerts_test.yml where promtool is there.
func TestAlertsFire(t *testing.T) {
	promtool, err := exec.LookPath("promtool")
	if err != nil {
		t.Log("promtool is not on PATH: ONLY THE STRUCTURE of the alert rules was checked, by the other tests of this file; that each fires in its case was not. It comes with Prometheus.")
		return
	}
	for _, args := range [][]string{
		{"check", "rules", "alerts.yml"},
		{"check", "config", "--syntax-only", "prometheus.yml"},
		{"test", "rules", "alerts_test.yml"},
	} {
		c := exec.CommandContext(t.Context(), promtool, args...)
		c.Dir = filepath.Dir(alertsFile)
		out, err := c.CombinedOutput()
		if err != nil {
			t.Errorf("promtool %s: %v\n%s", strings.Join(args, " "), err, out)
		}
	}
}
