package control

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"fmt"
	"html/template"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/vcsync/vcsync/broker"
	"github.com/vcsync/vcsync/consumer"
	"github.com/vcsync/vcsync/producer"
)

const (
	pageEvents = 20
	pageParked = 50
)

//go:embed page.css
var pageStyle string

//go:embed page.html
var pageText string

// pagePolicy lets the browser use the page's own style and nothing else.
var pagePolicy = func() string {
	sum := sha256.Sum256([]byte(pageStyle))
	return "default-src 'none'; style-src 'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) +
		"'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
}()

var page = template.Must(template.New("page").Funcs(template.FuncMap{
	"when": func(t time.Time) string {
		if t.IsZero() {
			return "–"
		}
		return t.UTC().Format("2006-01-02 15:04:05") + " UTC"
	},
	"many":   many,
	"plain":  func(v any) string { return Printable(fmt.Sprint(v), false) },
	"plural": func(types []string) string { return upperFirst(cmp.Or(TypeWords(types, many), "nothing")) },
	"title":  upperFirst,
	"state": func(s string) string {
		switch s {
		case string(producer.Capturing), string(consumer.Working), processAlive:
			return "good"
		case string(producer.Degraded), string(consumer.Down), processGone, noProducer, noConsumer:
			return "bad"
		}
		return "dim"
	},
}).Parse(pageText))

// many returns the words of the native window's Description column.
func many(t string) string {
	switch t {
	case "ServerSettings", "TaskRepository":
		return t
	}
	return t + "s"
}

// pageData is what the page shows.
type pageData struct {
	Style      template.CSS
	Version    string
	Now        time.Time
	Fault      string
	Trouble    int // sources, targets and accounts
	Status     *StatusReport
	Parked     []ParkedRecord
	MoreParked int
	Events     []EventRecord
}

func (s *Server) servePage(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), 10*time.Second)
	defer cancel()
	d := pageData{Style: template.CSS(pageStyle), Version: s.cfg.Version, Now: time.Now()} // the embedded file
	status := http.StatusOK
	if err := s.fillPage(ctx, &d); err != nil {
		status, d.Fault, d.Status = http.StatusServiceUnavailable, err.Error(), nil
		s.log.WarnContext(ctx, "the status page cannot be filled", "error", err)
	}
	var b bytes.Buffer
	if err := page.Execute(&b, d); err != nil {
		s.log.ErrorContext(ctx, "the status page cannot be made", "error", err)
		writeProblem(w, http.StatusInternalServerError, "The status page cannot be made; the log has the details.")
		return
	}
	w.Header().Set("Content-Security-Policy", pagePolicy)
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.WriteHeader(status)
	_, _ = w.Write(b.Bytes()) // the client may be gone
}

func (s *Server) fillPage(ctx context.Context, d *pageData) error {
	status, err := s.status(ctx)
	if err != nil {
		return err
	}
	d.Status = &status
	for _, v := range status.Sources {
		if v.State == string(producer.Degraded) || v.State == noProducer {
			d.Trouble++
		}
	}
	for _, v := range status.Targets {
		if v.State == string(consumer.Down) || v.State == noConsumer {
			d.Trouble++
		}
	}
	for _, v := range status.Settings {
		if v.Accounting != nil && v.Accounting.Unaccounted > 0 {
			d.Trouble++
		}
	}
	parked, err := s.sortedParked(ctx, "")
	if err != nil {
		return err
	}
	// What waits for somebody stands before what somebody has decided.
	slices.SortStableFunc(parked, func(a, b broker.Parked) int {
		return strings.Compare(yes(a.Discarded != ""), yes(b.Discarded != ""))
	})
	for _, p := range parked[:min(len(parked), pageParked)] {
		d.Parked = append(d.Parked, parkedRecord(p))
	}
	d.MoreParked = len(parked) - len(d.Parked)
	events, err := s.broker.Events(ctx, broker.EventQuery{}, pageEvents)
	if err != nil {
		return err
	}
	for _, e := range events {
		d.Events = append(d.Events, eventRecord(e))
	}
	return nil
}

func yes(b bool) string {
	if b {
		return "1"
	}
	return "0"
}
