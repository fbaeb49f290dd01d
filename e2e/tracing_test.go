package e2e_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	"github.com/vcsync/vcsync/broker"
	"github.com/vcsync/vcsync/e2e"
	"github.com/vcsync/vcsync/schemas"
	"github.com/vcsync/vcsync/tracing"
)

// traceparents returns the header of every event in both streams, by sequence.
func traceparents(t *testing.T, w *e2e.World) (out []string) {
	t.Helper()
	for _, name := range []string{broker.StreamEvents, broker.StreamState} {
		s, err := w.Broker.JS().Stream(context.Background(), name)
		if err != nil {
			t.Fatal(err)
		}
		info, err := s.Info(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		for seq := info.State.FirstSeq; seq <= info.State.LastSeq; seq++ {
			m, err := s.GetMsg(context.Background(), seq)
			if err == jetstream.ErrMsgNotFound {
				continue // replaced
			}
			if err != nil {
				t.Fatal(err)
			}
			h, err := schemas.ParseHead(m.Subject, m.Header)
			if err != nil {
				t.Fatal(err)
			}
			have := strings.Join(m.Header[schemas.HeaderTrace], ",")
			if h.Trace != have {
				t.Errorf("header %q is read as %q", have, h.Trace)
			}
			out = append(out, have)
		}
	}
	return out
}

// edits makes an add, an edit and a deletion arrive at both targets.
func edits(t *testing.T, w *e2e.World) {
	t.Helper()
	putJob(t, w.Hosts["production"], 2, "stays") // a listing is never empty
	w.StartProducer()
	w.StartConsumer()
	within(t, w, time.Minute, "test", "standby")
	putJob(t, w.Hosts["production"], 1, "new")
	within(t, w, time.Minute, "test", "standby")
	putJob(t, w.Hosts["production"], 1, "edited")
	within(t, w, time.Minute, "test", "standby")
	deleteJob(t, w.Hosts["production"], 1)
	within(t, w, time.Minute, "test", "standby")
	time.Sleep(time.Second) // acknowledged
}

func TestATraceGoesFromCaptureToApply(t *testing.T) {
	world(t, []schemas.Slug{"test", "standby"}, func(w *e2e.World) {
		exporter := tracetest.NewInMemoryExporter()
		p := sdktrace.NewTracerProvider(sdktrace.WithSyncer(exporter))
		w.Tracer = p.Tracer(tracing.Scope)
		edits(t, w)
		spans := exporter.GetSpans()
		byID := map[string]tracetest.SpanStub{}
		below := map[string]map[string]bool{} // names of the children
		for _, s := range spans {
			byID[s.SpanContext.SpanID().String()] = s
			parent := s.Parent.SpanID().String()
			if below[parent] == nil {
				below[parent] = map[string]bool{}
			}
			below[parent][s.Name] = true
			if s.EndTime.Before(s.StartTime) {
				t.Errorf("%s ends before it begins", s.Name)
			}
		}
		applied := map[string]int{}
		for _, s := range spans {
			at := map[string]string{}
			for _, a := range s.Attributes {
				at[string(a.Key)] = a.Value.String()
			}
			children := below[s.SpanContext.SpanID().String()]
			switch s.Name {
			case "capture":
				for _, want := range []string{"list", "compare", "publish"} {
					if !children[want] && (at["vcsync.kind"] != "deleted" || want == "publish") {
						t.Errorf("a capture (%s) has no %s", at["vcsync.kind"], want)
					}
				}
				if at["vcsync.source"] != "production" || at["vcsync.type"] != "Job" || at["vcsync.outcome"] != "published" || at["vcsync.sequence"] == "" {
					t.Errorf("capture: %v", at)
				}
			case "apply":
				of, ok := byID[s.Parent.SpanID().String()]
				if !ok || of.Name != "capture" || of.SpanContext.TraceID() != s.SpanContext.TraceID() || !s.Parent.IsRemote() {
					t.Errorf("an apply is not below a capture: %v", at)
					continue
				}
				if at["vcsync.act"] != "add" && at["vcsync.act"] != "update" && at["vcsync.act"] != "delete" {
					continue
				}
				applied[at["vcsync.target"]+" "+at["vcsync.kind"]+" "+at["vcsync.act"]]++
				for _, want := range []string{"take", "read", "decide", "write", "acknowledge"} {
					if !children[want] {
						t.Errorf("an apply has no %s: %v", want, at)
					}
				}
				if !children["read back"] && at["vcsync.act"] != "delete" {
					t.Errorf("an apply has no read back: %v", at)
				}
				if at["vcsync.source"] != "production" || !strings.HasPrefix(at["vcsync.setting"], "production-to-") || at["vcsync.outcome"] != "done" || at["vcsync.sequence"] == "0" {
					t.Errorf("apply: %v", at)
				}
				for _, a := range of.Attributes {
					if a.Key == "vcsync.sequence" && a.Value.String() != at["vcsync.sequence"] {
						t.Errorf("captured as %s, applied as %s", a.Value.String(), at["vcsync.sequence"])
					}
				}
			}
			// No name, id or content of an object, and no address.
			text := fmt.Sprintf("%s %v %v %v", s.Name, at, s.Events, s.Status)
			for _, secret := range []string{"Finance", "edited", "Job 1", string(jobID(1)), string(jobID(2)), "x.cmd", "http", e2e.Password} {
				if strings.Contains(text, secret) {
					t.Errorf("a span holds %q: %s", secret, text)
				}
			}
		}
		if got := fmt.Sprint(applied); got != "map[standby added add:2 standby deleted delete:1 standby updated update:1 test added add:2 test deleted delete:1 test updated update:1]" {
			t.Error(got)
		}
		for _, h := range traceparents(t, w) {
			if h == "" {
				t.Error("an event without a traceparent")
			}
		}
		// Looks that come to nothing make no spans, and the header none of its own.
		n := len(exporter.GetSpans())
		for _, h := range w.Hosts {
			h.Reset()
		}
		time.Sleep(10 * time.Minute)
		if got := len(exporter.GetSpans()); got != n {
			t.Errorf("%d spans in 10 minutes without an edit", got-n)
		}
		for id, h := range w.Hosts {
			if puts, deletes := h.Count(); puts+deletes != 0 {
				t.Errorf("%s: %d puts, %d deletes without any edit", id, puts, deletes)
			}
		}
	})
}

// Off, nothing is added to an event. And what was captured with traces is applied by who
// makes none, and the other way round.
func TestTracesChangeNothingElse(t *testing.T) {
	world(t, []schemas.Slug{"test", "standby"}, func(w *e2e.World) {
		edits(t, w)
		for _, h := range traceparents(t, w) {
			if h != "" {
				t.Errorf("off, and an event has traceparent %s", h)
			}
		}
		w.StopProducer(nil)
		w.Tracer = sdktrace.NewTracerProvider(sdktrace.WithSyncer(tracetest.NewInMemoryExporter())).Tracer("")
		for _, h := range w.Hosts {
			h.Reset()
		}
		w.StartProducer() // the consumer goes on without
		time.Sleep(time.Minute)
		if puts, _ := w.Hosts["test"].Count(); puts != 0 {
			t.Errorf("%d writes because traces were switched on", puts)
		}
		putJob(t, w.Hosts["production"], 2, "traced")
		within(t, w, time.Minute, "test", "standby")
		w.StopConsumer(nil)
		w.StopProducer(nil)
		w.StartConsumer() // with
		w.Tracer = nil
		w.StartProducer()
		putJob(t, w.Hosts["production"], 2, "not traced")
		within(t, w, time.Minute, "test", "standby")
	})
}
