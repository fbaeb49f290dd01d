package producer

import (
	"context"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/trace"

	"github.com/vcsync/vcsync/schemas"
	"github.com/vcsync/vcsync/tracing"
)

// traces are the spans of the objects that a source is about to publish. All does nothing
// where the producer has no tracer.
type traces struct {
	tracer trace.Tracer
	by     map[schemas.ID]captured
}

type captured struct {
	ctx  context.Context
	span trace.Span
}

// begin makes the span of one object's capture and returns the traceparent for its event.
// What came before is told with the time at which it was: of most objects of a listing
// nothing has changed, and they get no span.
func (t *traces) begin(ctx context.Context, e schemas.Event, listing, compared time.Time) string {
	if t.tracer == nil {
		return ""
	}
	if t.by == nil {
		t.by = map[schemas.ID]captured{}
	}
	ctx, span := t.tracer.Start(ctx, "capture", trace.WithTimestamp(listing), trace.WithNewRoot(), trace.WithSpanKind(trace.SpanKindProducer), trace.WithAttributes(
		attribute.String("vcsync.source", string(e.Source)), attribute.String("vcsync.type", string(e.Object.Type)), attribute.String("vcsync.kind", string(e.Kind))))
	if !compared.IsZero() {
		_, s := t.tracer.Start(ctx, "list", trace.WithTimestamp(listing))
		s.End(trace.WithTimestamp(compared))
		_, s = t.tracer.Start(ctx, "compare", trace.WithTimestamp(compared))
		s.End()
	}
	t.end(e.Object.ID, 0, "dropped") // one of before that never came to an end
	t.by[e.Object.ID] = captured{ctx, span}
	return tracing.Parent(span)
}

// publish tells of the publishing of an object and ends its span.
func (t *traces) publish(id schemas.ID, begun time.Time, seq uint64, outcome string) {
	c, ok := t.by[id]
	if !ok {
		return
	}
	_, s := t.tracer.Start(c.ctx, "publish", trace.WithTimestamp(begun))
	s.End()
	t.end(id, seq, outcome)
}

func (t *traces) end(id schemas.ID, seq uint64, outcome string) {
	c, ok := t.by[id]
	if !ok {
		return
	}
	c.span.SetAttributes(attribute.String("vcsync.outcome", outcome))
	if seq != 0 {
		c.span.SetAttributes(attribute.Int64("vcsync.sequence", int64(seq)))
	}
	c.span.End()
	delete(t.by, id)
}

// endAll ends what was not published.
func (t *traces) endAll() {
	for id := range t.by {
		t.end(id, 0, "not published")
	}
}
