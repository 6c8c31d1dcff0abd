package outboxdb

import (
	"context"
	"maps"
	"strings"

	"go.opentelemetry.io/otel/propagation"
)

// The bounds of a message's headers, as outbox.headers_refusal holds them. A
// trace that has no room is left out: it must not get a message refused.
const (
	maxHeaders     = 64
	maxHeaderValue = 8192
)

// trace is a span context as W3C headers (https://www.w3.org/TR/trace-context):
// traceparent, and tracestate where there is any. Empty where ctx has none.
type trace map[string]string

func traceOf(ctx context.Context) trace {
	t := trace{}
	propagation.TraceContext{}.Inject(ctx, propagation.MapCarrier(t))
	if len(t["tracestate"]) > maxHeaderValue {
		delete(t, "tracestate")
	}
	return t
}

// join returns headers with the trace. Headers that name a trace stay as they
// are, for half of one and half of the other would be neither.
func (t trace) join(headers map[string]string) map[string]string {
	if len(t) == 0 {
		return headers
	}
	for name := range headers {
		if strings.EqualFold(name, "traceparent") || strings.EqualFold(name, "tracestate") {
			return headers
		}
	}
	joined := maps.Clone(headers) // the caller's map is the caller's
	if joined == nil {
		joined = make(map[string]string, len(t))
	}
	for _, name := range []string{"traceparent", "tracestate"} { // the first means something by itself
		if value, ok := t[name]; ok && len(joined) < maxHeaders {
			joined[name] = value
		}
	}
	return joined
}
