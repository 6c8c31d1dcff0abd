// Package tracing has the names of Outflow's spans and of their attributes, and carries a trace in
// a message's headers. It links nothing but OpenTelemetry's API: where no SDK is set up, its spans
// record nothing.
//
// The invariant: every operation on a message belongs to the trace in its headers, whichever
// process does it. No span has a payload, a header, or more of an https address than its host. An
// error's text is the same on the span, on the row and in the log.
package tracing

import (
	"context"
	"strings"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
)

// scope names the spans' instrumentation.
const scope = "github.com/outflowhq/outflow"

// The headers of a trace (https://www.w3.org/TR/trace-context).
const (
	Parent = "traceparent"
	State  = "tracestate"
)

// Tracer begins spans. The zero Tracer uses OpenTelemetry's global provider of that moment. Where that is
// OpenTelemetry's no-op provider, a span of a publish costs nothing; other spans, and those without a
// provider, cost a microsecond or two.
type Tracer struct {
	// Provider is used instead of the global one, unless it is nil.
	Provider trace.TracerProvider
}

func (t Tracer) tracer() trace.Tracer { return t.provider().Tracer(scope) }

func (t Tracer) provider() trace.TracerProvider {
	if t.Provider != nil {
		return t.Provider
	}
	return otel.GetTracerProvider()
}

// Headers returns the trace of ctx as headers: nil where ctx has none, and without State where that
// is empty.
func Headers(ctx context.Context) map[string]string {
	if !trace.SpanContextFromContext(ctx).IsValid() {
		return nil
	}
	headers := propagation.MapCarrier{}
	propagation.TraceContext{}.Inject(ctx, headers)
	return headers
}

// carried returns the span context in a message's headers. It is invalid where there is none. The
// case of the headers' names does not matter.
func carried(headers map[string]string) trace.SpanContext {
	found := propagation.MapCarrier{}
	for name, value := range headers {
		switch {
		case strings.EqualFold(name, Parent):
			found[Parent] = value
		case strings.EqualFold(name, State):
			found[State] = value
		}
	}
	if found[Parent] == "" {
		return trace.SpanContext{}
	}
	return trace.SpanContextFromContext(propagation.TraceContext{}.Extract(context.Background(), found))
}

// into returns ctx with the message's trace. Where the caller has a span of another trace, the new
// span links to it.
func into(ctx context.Context, headers map[string]string) (context.Context, []trace.SpanStartOption) {
	message := carried(headers)
	if !message.IsValid() {
		return ctx, nil
	}
	var options []trace.SpanStartOption
	if callers := trace.SpanContextFromContext(ctx); callers.IsValid() && !callers.Equal(message) {
		options = append(options, trace.WithLinks(trace.Link{SpanContext: callers}))
	}
	return trace.ContextWithRemoteSpanContext(ctx, message), options
}
