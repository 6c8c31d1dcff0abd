// Package tracing has the names of Outflow's spans and of what stands on them,
// and carries a trace in a message's headers. It links OpenTelemetry's API alone:
// where nobody has set up an SDK, its spans record nothing.
//
// The invariant: what becomes of a message belongs to the trace that its headers
// carry, whichever process does it, and no span has a payload, a header, or of an
// https address more than its host. An error's text is the one that stands on the
// row and in the log.
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

// Tracer begins spans. The zero Tracer uses OpenTelemetry's global provider, as
// it is at that moment; without one, spans cost next to nothing.
type Tracer struct {
	// Provider is used instead of the global one, unless it is nil.
	Provider trace.TracerProvider
}

func (t Tracer) tracer() trace.Tracer {
	if t.Provider != nil {
		return t.Provider.Tracer(scope)
	}
	return otel.GetTracerProvider().Tracer(scope)
}

// Headers is the trace of ctx as headers: nil where it has none, and without
// State where there is nothing to it.
func Headers(ctx context.Context) map[string]string {
	if !trace.SpanContextFromContext(ctx).IsValid() {
		return nil
	}
	headers := propagation.MapCarrier{}
	propagation.TraceContext{}.Inject(ctx, headers)
	return headers
}

// carried is the span context in a message's headers, which is invalid where
// there is none. A producer may have spelled their names in its own way.
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

// into makes the message's trace that of ctx. Where the caller has a span, too,
// the new one links to it: the message's own comes first.
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
