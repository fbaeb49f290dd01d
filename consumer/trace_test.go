package consumer

import (
	"testing"
	"time"

	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"

	"github.com/vcsync/vcsync/consumer/decide"
	"github.com/vcsync/vcsync/schemas"
)

// BenchmarkTraceOfALook is all that traces add to one look that writes.
func BenchmarkTraceOfALook(b *testing.B) {
	for name, tracer := range map[string]trace.Tracer{"off": nil, "on": sdktrace.NewTracerProvider().Tracer("")} {
		b.Run(name, func(b *testing.B) {
			e := schemas.Event{Source: "a", Kind: schemas.Updated, Object: schemas.Object{Type: schemas.Job, ID: "x"}}
			for b.Loop() {
				l := &look{traced: newTraced(tracer)}
				l.traced.sawEvent("a", 7)
				l.traced.begin(b.Context(), "b", "one", e)
				l.traced.step("read")()
				at := time.Now()
				l.traced.decided(at, decide.Decision{Act: decide.Update})
				l.traced.step("write")()
				l.traced.step("read back")()
				l.traced.step("acknowledge")()
				l.traced.end("done")
			}
		})
	}
}
