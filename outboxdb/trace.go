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
	t := trace(tracing.Headers(ctx))
	if len(t[tracing.State]) > maxHeaderValue {
		delete(t, tracing.State)
	}
	return t
}

// traced has write write msgs under a span "enqueue", whose trace it finds in its
// ctx. Nothing to write is nothing to trace.
func traced(ctx context.Context, msgs []outflow.Message, write func(context.Context) ([]uuid.UUID, error)) (written []uuid.UUID, err error) {
	if len(msgs) == 0 {
		return nil, nil
	}
	ctx, span := tracing.Tracer{}.Enqueue(ctx, msgs)
	err = tracing.ErrNoAnswer
	defer func() { span.End(err, refusalType(err)) }()
	written, err = write(ctx)
	if len(msgs) == 1 && len(written) == 1 {
		span.Enqueued(written[0])
	}
	return written, err
}

// refusalType is the type of a failed enqueue, as docs/tracing.md has it.
func refusalType(err error) string {
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

// join returns headers with the trace. Headers that name a trace stay as they
// are, for half of one and half of the other would be neither.
func (t trace) join(headers map[string]string) map[string]string {
	if len(t) == 0 {
		return headers
	}
	for name := range headers {
		if strings.EqualFold(name, tracing.Parent) || strings.EqualFold(name, tracing.State) {
			return headers
		}
	}
	joined := maps.Clone(headers) // the caller's map is the caller's
	if joined == nil {
		joined = make(map[string]string, len(t))
	}
	for _, name := range []string{tracing.Parent, tracing.State} { // the first means something by itself
		if value, ok := t[name]; ok && len(joined) < maxHeaders {
			joined[name] = value
		}
	}
	return joined
}
