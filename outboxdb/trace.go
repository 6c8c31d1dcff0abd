package outboxdb

import (
	"context"
	"errors"
	"maps"
	"strings"

	"github.com/google/uuid"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/internal/tracing"
)

// The bounds of a message's headers, as outbox.headers_refusal checks them. A trace that has
// no room is left out: it must not get a message refused.
const (
	maxHeaders     = 64
	maxHeaderValue = 8192
)

// trace is a span context as W3C headers: traceparent, and tracestate if there is one. It is
// empty where ctx has no span context. https://www.w3.org/TR/trace-context
type trace map[string]string

func traceOf(ctx context.Context) trace {
	t := trace(tracing.Headers(ctx))
	if len(t[tracing.State]) > maxHeaderValue {
		delete(t, tracing.State)
	}
	return t
}

// withSpan calls write with a ctx that has a span "enqueue". Without messages it calls
// nothing.
func withSpan(
	ctx context.Context, msgs []outflow.Message, write func(context.Context) ([]uuid.UUID, error),
) (written []uuid.UUID, err error) {
	if len(msgs) == 0 {
		return nil, nil
	}
	ctx, span := tracing.Tracer{}.Enqueue(ctx, msgs)
	err = tracing.ErrNoAnswer
	defer func() { span.End(err, errorType(err)) }()
	written, err = write(ctx)
	if len(msgs) == 1 && len(written) == 1 {
		span.Enqueued(written[0])
	}
	return written, err
}

// errorType is the span's attribute error.type. docs/tracing.md lists its values.
func errorType(err error) string {
	var invalid *outflow.InvalidMessageError
	var duplicate *outflow.DuplicateIDError
	switch {
	case errors.As(err, &invalid):
		return "invalid_message"
	case errors.As(err, &duplicate):
		return "duplicate_id"
	}
	return "database"
}

// addTo returns headers with the trace added. Headers that have a trace stay as they are:
// traceparent and tracestate of two traces must not be mixed.
func (t trace) addTo(headers map[string]string) map[string]string {
	if len(t) == 0 {
		return headers
	}
	for name := range headers {
		if strings.EqualFold(name, tracing.Parent) || strings.EqualFold(name, tracing.State) {
			return headers
		}
	}
	added := maps.Clone(headers) // the caller keeps its map unchanged
	if added == nil {
		added = make(map[string]string, len(t))
	}
	for _, name := range []string{tracing.Parent, tracing.State} { // traceparent is of use without tracestate
		if value, ok := t[name]; ok && len(added) < maxHeaders {
			added[name] = value
		}
	}
	return added
}
