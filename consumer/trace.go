package consumer

import (
	"context"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/trace"

	"github.com/vcsync/vcsync/consumer/decide"
	"github.com/vcsync/vcsync/schemas"
	"github.com/vcsync/vcsync/tracing"
)

// traced is the trace of one look. All does nothing where the consumer has no tracer, and
// for looks that come to nothing before the target is asked: every object has one of those
// every few minutes.
type traced struct {
	tracer trace.Tracer
	begun  time.Time
	seqs   map[schemas.Slug]uint64 // in VCS_EV, of the newest events that were read
	ctx    context.Context
	span   trace.Span // nil until the target is asked
}

func newTraced(t trace.Tracer) traced {
	if t == nil {
		return traced{}
	}
	return traced{tracer: t, begun: time.Now(), seqs: map[schemas.Slug]uint64{}}
}

// sawEvent notes the sequence of an event.
func (t *traced) sawEvent(src schemas.Slug, seq uint64) {
	if t.tracer != nil {
		t.seqs[src] = seq
	}
}

// begin makes the span, below the capture of the event.
func (t *traced) begin(ctx context.Context, target, setting schemas.Slug, e schemas.Event) {
	if t.tracer == nil || t.span != nil {
		return
	}
	t.ctx, t.span = t.tracer.Start(tracing.WithParent(ctx, e.Trace), "apply", trace.WithTimestamp(t.begun), trace.WithSpanKind(trace.SpanKindConsumer), trace.WithAttributes(
		attribute.String("vcsync.source", string(e.Source)), attribute.String("vcsync.target", string(target)), attribute.String("vcsync.setting", string(setting)),
		attribute.String("vcsync.type", string(e.Object.Type)), attribute.String("vcsync.kind", string(e.Kind)), attribute.Int64("vcsync.sequence", int64(t.seqs[e.Source]))))
	_, s := t.tracer.Start(t.ctx, "take", trace.WithTimestamp(t.begun))
	s.End()
}

// step begins a part of the look and returns what ends it.
func (t *traced) step(name string) func() {
	if t.span == nil {
		return func() {}
	}
	_, s := t.tracer.Start(t.ctx, name)
	return func() { s.End() }
}

// decided tells what was decided, and how long that took since the target was read.
func (t *traced) decided(since time.Time, d decide.Decision) {
	if t.span == nil {
		return
	}
	_, s := t.tracer.Start(t.ctx, "decide", trace.WithTimestamp(since))
	s.SetAttributes(attribute.String("vcsync.act", string(d.Act)), attribute.String("vcsync.reason", string(d.Reason)))
	s.End()
	t.span.SetAttributes(attribute.String("vcsync.act", string(d.Act)))
}

// end tells what became of the look.
func (t *traced) end(outcome string) {
	if t.span == nil {
		return
	}
	t.span.SetAttributes(attribute.String("vcsync.outcome", outcome))
	t.span.End()
	t.span = nil
}

// outcomes are the words for what becomes of a failed look. Its error is not told: it may
// quote the server.
var outcomes = map[Fate]string{Retry: "tried again", Park: "parked", TargetDown: "target down", Wait: "waits for another object", AwaitWindow: "waits for its window", Abort: "begun anew"}
