package tracing_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"go.opentelemetry.io/otel"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"

	"github.com/vcsync/vcsync/tracing"
)

func unset(t *testing.T) {
	t.Helper()
	for _, name := range []string{"OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_HEADERS", "OTEL_SDK_DISABLED", "OTEL_TRACES_EXPORTER", "OTEL_TRACES_SAMPLER"} {
		t.Setenv(name, "")
	}
}

func TestOffByDefault(t *testing.T) {
	unset(t)
	for _, env := range [][2]string{{"OTEL_SERVICE_NAME", "x"}, {"OTEL_SDK_DISABLED", "true"}, {"OTEL_TRACES_EXPORTER", "none"}} {
		t.Setenv(env[0], env[1])
		if tracer, stop, err := tracing.Open(t.Context(), "v", "i", slog.New(slog.DiscardHandler)); tracer != nil || err != nil {
			t.Errorf("%s: %v, %v", env[0], tracer, err)
		} else {
			stop()
		}
		t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1") // only then do the next two count
	}
}

func TestAnEndpointThatIsNotRightIsNotQuoted(t *testing.T) {
	unset(t)
	for _, v := range []string{"http://u:sesame@h.example", "sesame", "grpc://sesame.example", "http://h.example/%zzsesame"} {
		t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", v)
		if _, _, err := tracing.Open(t.Context(), "v", "i", slog.New(slog.DiscardHandler)); err == nil || strings.Contains(err.Error(), "sesame") || !strings.Contains(err.Error(), "OTEL_EXPORTER_OTLP_ENDPOINT") {
			t.Errorf("%q: %v", v, err)
		}
	}
}

// A real collector gets the spans, with the headers of the environment; no redirect takes
// them elsewhere, and a failure is logged without words of the library.
func TestACollector(t *testing.T) {
	unset(t)
	var asked, elsewhere atomic.Int32
	other := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { elsewhere.Add(1) }))
	defer other.Close()
	var redirect atomic.Bool
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if redirect.Load() {
			http.Redirect(w, r, other.URL, http.StatusTemporaryRedirect)
			return
		}
		if r.URL.Path == "/v1/traces" && r.Header.Get("X-Key") == "sesame" {
			asked.Add(1)
		}
	}))
	defer srv.Close()
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", srv.URL)
	t.Setenv("OTEL_EXPORTER_OTLP_HEADERS", "x-key=sesame")
	for _, on := range []bool{false, true} {
		redirect.Store(on)
		var log bytes.Buffer
		tracer, stop, err := tracing.Open(t.Context(), "v", "i", slog.New(slog.NewTextHandler(&log, nil)))
		if err != nil {
			t.Fatal(err)
		}
		_, s := tracer.Start(t.Context(), "x")
		s.End()
		stop()
		if asked.Load() != 1 || elsewhere.Load() != 0 || on != strings.Contains(log.String(), "could not be exported") || strings.Contains(log.String(), srv.URL) || strings.Contains(log.String(), "sesame") {
			t.Errorf("redirect %v: %d asked, %d elsewhere, log %s", on, asked.Load(), elsewhere.Load(), &log)
		}
		otel.Handle(errors.New("sesame"))
		otel.Handle(errors.New("sesame"))
		if strings.Contains(log.String(), "sesame") || strings.Count(log.String(), "\n") != 1 {
			t.Errorf("log %s", &log)
		}
	}
}

func TestParent(t *testing.T) {
	for name, sampler := range map[string]sdktrace.Sampler{"sampled": sdktrace.AlwaysSample(), "not": sdktrace.NeverSample()} {
		_, s := sdktrace.NewTracerProvider(sdktrace.WithSampler(sampler)).Tracer("").Start(t.Context(), "x")
		got := trace.SpanContextFromContext(tracing.WithParent(context.Background(), tracing.Parent(s)))
		if name == "not" {
			if tracing.Parent(s) != "" || got.IsValid() {
				t.Errorf("%s: %q", name, tracing.Parent(s))
			}
		} else if got.TraceID() != s.SpanContext().TraceID() || got.SpanID() != s.SpanContext().SpanID() || !got.IsSampled() || !got.IsRemote() {
			t.Errorf("%s: %+v", name, got)
		}
	}
	for _, bad := range []string{"", "x", "00-0-0-01", "00-" + strings.Repeat("0", 32) + "-" + strings.Repeat("1", 16) + "-01", "01-" + strings.Repeat("1", 32) + "-" + strings.Repeat("1", 16) + "-01"} {
		if c := trace.SpanContextFromContext(tracing.WithParent(context.Background(), bad)); c.IsValid() {
			t.Errorf("%q is taken", bad)
		}
	}
}
