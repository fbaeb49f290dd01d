// Package tracing sends spans to an OpenTelemetry collector, where the environment names
// one, and carries a trace over the header of an event.
//
// It promises that nothing is made, sent or added to an event where none is named; that
// no span holds the name or content of an object, an address or the words of a server;
// and that a collector that hangs or is gone delays nothing: spans wait in a bounded
// queue, and what is beyond is dropped.
package tracing

import (
	"context"
	"encoding/hex"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"strings"
	"sync"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
)

// Scope is the name of the instrumentation.
const Scope = "github.com/vcsync/vcsync"

// stopFor is how long the last spans may take at the end.
const stopFor = 3 * time.Second

// Wanted tells whether the environment names a collector.
func Wanted() bool {
	return (os.Getenv("OTEL_EXPORTER_OTLP_ENDPOINT") != "" || os.Getenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT") != "") &&
		!strings.EqualFold(os.Getenv("OTEL_SDK_DISABLED"), "true") && os.Getenv("OTEL_TRACES_EXPORTER") != "none"
}

// Open returns a tracer and what ends it; a nil tracer where the environment names no
// collector. What OTEL_ variables say is followed, but for proxies, redirects and
// certificates: none of the first two, and those of the system.
func Open(ctx context.Context, version, instance string, log *slog.Logger) (trace.Tracer, func(), error) {
	if !Wanted() {
		return nil, func() {}, nil
	}
	for _, name := range []string{"OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"} {
		// The library would log what it cannot read, and send to this machine instead.
		if v := os.Getenv(name); v != "" {
			if u, err := url.Parse(v); err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.User != nil {
				return nil, nil, fmt.Errorf("%s: want a URL without an account, such as http://127.0.0.1:4318; what a collector has to know goes into OTEL_EXPORTER_OTLP_HEADERS", name)
			}
		}
	}
	otel.SetErrorHandler(&complaint{log: log})
	exporter, err := otlptracehttp.New(ctx, otlptracehttp.WithHTTPClient(&http.Client{
		Timeout:       10 * time.Second,
		Transport:     &http.Transport{ForceAttemptHTTP2: true, MaxIdleConnsPerHost: 1, IdleConnTimeout: time.Minute, TLSHandshakeTimeout: 10 * time.Second},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}))
	if err != nil { // its words may quote the environment
		return nil, nil, fmt.Errorf("spans cannot be exported: one of the OTEL_EXPORTER_OTLP_ variables is not right")
	}
	tracer, stop := New(exporter, version, instance)
	return tracer, stop, nil
}

// New returns a tracer that exports in batches, and what sends the last ones and ends it.
func New(exporter sdktrace.SpanExporter, version, instance string) (trace.Tracer, func()) {
	res, err := resource.New(context.Background(), resource.WithTelemetrySDK(),
		resource.WithAttributes(attribute.String("service.name", "vcsync"), attribute.String("service.version", version), attribute.String("service.instance.id", instance)),
		resource.WithFromEnv()) // the environment wins
	if err != nil { // a part of it could not be found out
		otel.Handle(err)
	}
	p := sdktrace.NewTracerProvider(sdktrace.WithBatcher(exporter), sdktrace.WithResource(res))
	return p.Tracer(Scope, trace.WithInstrumentationVersion(version)), func() {
		ctx, cancel := context.WithTimeout(context.Background(), stopFor)
		defer cancel()
		if err := p.Shutdown(ctx); err != nil {
			otel.Handle(err)
		}
	}
}

// complaint logs that spans are lost, at most once a minute and in our own words: those
// of the library quote the URL of the collector and its answer.
type complaint struct {
	log *slog.Logger

	mu sync.Mutex
	at time.Time
}

// Handle implements otel.ErrorHandler.
func (c *complaint) Handle(error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.at.IsZero() && time.Since(c.at) < time.Minute {
		return
	}
	c.at = time.Now()
	c.log.Warn("spans could not be exported and are lost; see whether the collector of OTEL_EXPORTER_OTLP_ENDPOINT answers. Nothing else waits for it")
}

// Parent returns the traceparent (W3C) of a span, "" where it is not sampled: nobody
// would find what refers to it.
func Parent(s trace.Span) string {
	c := s.SpanContext()
	if !c.IsValid() || !c.IsSampled() {
		return ""
	}
	return fmt.Sprintf("00-%s-%s-%s", c.TraceID(), c.SpanID(), trace.FlagsSampled)
}

// WithParent returns a context below a traceparent that Parent made, or another program;
// ctx itself where that is none.
func WithParent(ctx context.Context, parent string) context.Context {
	if len(parent) != len("00-0123456789abcdef0123456789abcdef-0123456789abcdef-01") {
		return ctx // whoever writes to the stream may have written anything
	}
	parts := strings.Split(parent, "-")
	if len(parts) != 4 || parts[0] != "00" {
		return ctx
	}
	flags, err := hex.DecodeString(parts[3])
	tid, err1 := trace.TraceIDFromHex(parts[1])
	sid, err2 := trace.SpanIDFromHex(parts[2])
	if err != nil || len(flags) != 1 || err1 != nil || err2 != nil {
		return ctx
	}
	return trace.ContextWithRemoteSpanContext(ctx, trace.NewSpanContext(trace.SpanContextConfig{TraceID: tid, SpanID: sid, TraceFlags: trace.TraceFlags(flags[0]) & trace.FlagsSampled, Remote: true}))
}
