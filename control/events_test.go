package control_test

import (
	"bufio"
	"context"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/nats-io/nats.go"

	"github.com/vcsync/vcsync/control"
	"github.com/vcsync/vcsync/schemas"
)

// publish stores an event as a producer would, and returns its sequence.
func (w *world) publish(source schemas.Slug, typ schemas.Type, kind schemas.Kind, id schemas.ID, revision uint64) uint64 {
	w.t.Helper()
	e := schemas.Event{Source: source, Kind: kind, Version: schemas.Version{Epoch: 1, Revision: revision}, Who: "Åsa", Time: time.Now().UTC(),
		Object: schemas.Object{Type: typ, ID: id, Name: "name of " + string(id)}}
	if kind != schemas.Deleted {
		e.Digest = schemas.DigestOf(fmt.Append(nil, revision))
		e.Object.Body = jsontext.Value(`{"Id":"x","Secretive":"body"}`)
	}
	header, data, err := e.Encode()
	if err != nil {
		w.t.Fatal(err)
	}
	ack, err := w.b.JS().PublishMsg(w.t.Context(), &nats.Msg{Subject: e.Subject(), Header: header, Data: data})
	if err != nil {
		w.t.Fatal(err)
	}
	return ack.Sequence
}

type eventList struct {
	Items []control.EventRecord
}

// seqs reads a list of events as their sequences.
func (a answer) seqs() string {
	a.t.Helper()
	var l eventList
	a.want(200).into(&l)
	var out []string
	for _, e := range l.Items {
		out = append(out, fmt.Sprint(e.Seq))
	}
	return strings.Join(out, " ")
}

func TestEvents(t *testing.T) {
	w := newWorld(t)
	w.do("GET", "/api/v1/events", "").want(200, `"items":[]`)
	w.publish("a", schemas.Job, schemas.Added, "one", 1)                  // 1
	w.publish("a", schemas.Job, schemas.Updated, "one", 2)                // 2
	w.publish("b", schemas.Job, schemas.Added, "one", 1)                  // 3
	w.publish("a", schemas.Variable, schemas.Added, "Contoso/Share=1", 1) // 4
	w.publish("a", schemas.Job, schemas.Deleted, "one", 3)                // 5

	got := w.do("GET", "/api/v1/events", "").want(200, `"name":"name of one"`, `"who":"Åsa"`, `"version":"1.3"`, `"id":"Contoso/Share=1"`)
	if strings.Contains(string(got.body), "Secretive") {
		t.Error("a list holds bodies")
	}
	for _, c := range []struct{ query, want string }{
		{"", "5 4 3 2 1"},
		{"?limit=2", "5 4"},
		{"?source=a", "5 4 2 1"},
		{"?source=a&type=Job", "5 2 1"},
		{"?kind=added", "4 3 1"},
		{"?object=one", "5 3 2 1"},
		{"?object=one&kind=updated", "2"},
		{"?object=Contoso%2FShare%3D1", "4"},
		{"?source=c", ""},
		{"?since=2999-01-01T00:00:00Z", ""},
		{"?since=2001-01-01T00:00:00Z&limit=1", "5"},
	} {
		if got := w.do("GET", "/api/v1/events"+c.query, "").seqs(); got != c.want {
			t.Errorf("%s: %s, want %s", c.query, got, c.want)
		}
	}
	for _, q := range []string{"?source=A", "?type=Jobs", "?kind=new", "?limit=0", "?limit=1001", "?since=yesterday", "?body=true", "?object=00000000-0000-0000-0000-000000000000"} {
		w.do("GET", "/api/v1/events"+q, "").want(422)
	}
}

// A rare kind of event is found behind many others, in the right order.
func TestEventsAreFoundFarBack(t *testing.T) {
	w := newWorld(t)
	var want []string
	for i := range 1500 {
		src := schemas.Slug("busy")
		if i%500 == 3 {
			src = "rare"
		}
		seq := w.publish(src, schemas.Job, schemas.Added, schemas.ID(fmt.Sprint("job", i)), 1)
		if src == "rare" {
			want = append([]string{fmt.Sprint(seq)}, want...)
		}
	}
	if got := w.do("GET", "/api/v1/events?source=rare&limit=10", "").seqs(); got != strings.Join(want, " ") {
		t.Errorf("%s, want %s", got, want)
	}
	if got := w.do("GET", "/api/v1/events?source=rare&limit=2", "").seqs(); got != strings.Join(want[:2], " ") {
		t.Errorf("%s, want %s", got, want[:2])
	}
	var l eventList
	w.do("GET", "/api/v1/events?limit=1000", "").want(200).into(&l)
	if len(l.Items) != 1000 || l.Items[0].Seq != 1500 || l.Items[999].Seq != 501 {
		t.Errorf("%d events, from %d to %d", len(l.Items), l.Items[0].Seq, l.Items[len(l.Items)-1].Seq)
	}
}

// sse reads an event stream line by line.
type sse struct {
	t      *testing.T
	resp   *http.Response
	lines  *bufio.Scanner
	cancel context.CancelFunc
}

func (w *world) follow(query string, header ...string) *sse {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), 30*time.Second)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, w.srv.URL+"/api/v1/events/stream"+query, nil)
	if err != nil {
		w.t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := w.srv.Client().Do(req)
	if err != nil {
		w.t.Fatal(err)
	}
	s := &sse{w.t, resp, bufio.NewScanner(resp.Body), cancel}
	w.t.Cleanup(s.close)
	return s
}

func (s *sse) close() {
	s.cancel()
	s.resp.Body.Close()
}

// until reads to a line with that prefix and returns it.
func (s *sse) until(prefix string) string {
	s.t.Helper()
	for s.lines.Scan() {
		if strings.HasPrefix(s.lines.Text(), prefix) {
			return s.lines.Text()
		}
	}
	s.t.Fatalf("the stream ended before a line %q: %v", prefix, s.lines.Err())
	return ""
}

func TestEventsAreFollowed(t *testing.T) {
	w := newWorld(t, func(c *control.Config) { c.Heartbeat = 20 * time.Millisecond })
	first := w.publish("a", schemas.Job, schemas.Added, "one", 1)
	s := w.follow("")
	if s.resp.StatusCode != 200 || s.resp.Header.Get("Content-Type") != "text/event-stream" || s.resp.Header.Get("Cache-Control") != "no-store" {
		t.Fatalf("%d %v", s.resp.StatusCode, s.resp.Header)
	}
	s.until(": listening")
	if got := s.until("id: "); got != fmt.Sprint("id: ", first) {
		t.Errorf("it begins after %s, want %d", got, first)
	}
	s.until(": alive")
	second := w.publish("a", schemas.Job, schemas.Updated, "one", 2)
	if got := s.until("id: "); got != fmt.Sprint("id: ", second) {
		t.Errorf("%s, want %d", got, second)
	}
	s.until("event: event")
	if got := s.until("data: "); !strings.Contains(got, `"kind":"updated"`) || strings.Contains(got, "Secretive") {
		t.Error(got)
	}
	s.close()

	third := w.publish("b", schemas.Job, schemas.Added, "two", 1)
	s = w.follow("", "Last-Event-ID", fmt.Sprint(first))
	s.until(": listening")
	s.until("id: ")
	for _, want := range []uint64{second, third} {
		if got := s.until("id: "); got != fmt.Sprint("id: ", want) {
			t.Errorf("after a resumption %s, want %d", got, want)
		}
	}
	s.close()

	// From the very beginning, and filtered.
	s = w.follow("?source=b", "Last-Event-ID", "0")
	s.until(": listening")
	s.until("id: ")
	if got := s.until("id: "); got != fmt.Sprint("id: ", third) {
		t.Errorf("%s, want %d", got, third)
	}
	s.close()

	w.do("GET", "/api/v1/events/stream?type=Jobs", "").want(422)
	w.do("GET", "/api/v1/events/stream", "", "Last-Event-ID", "x").want(422)
}

func TestEventStreamsAreBounded(t *testing.T) {
	w := newWorld(t)
	var open []*sse
	for range 64 {
		s := w.follow("")
		s.until(": listening")
		open = append(open, s)
	}
	w.do("GET", "/api/v1/events/stream", "").want(503, "64")
	open[0].close()
	for end := time.Now().Add(10 * time.Second); ; { // until the server has seen it go
		s := w.follow("")
		if s.resp.StatusCode == 200 {
			break
		}
		s.close()
		if time.Now().After(end) {
			t.Fatal("a closed stream still counts")
		}
	}
}
