package outboxdb_test

import (
	"context"
	"fmt"
	"maps"
	"strings"
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/trace"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/internal/teststack"
)

const traceparent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"

// spanContext returns OpenTelemetry's form of traceparent.
func spanContext(t *testing.T, state string) trace.SpanContext {
	t.Helper()
	traceID, err := trace.TraceIDFromHex("4bf92f3577b34da6a3ce929d0e0e4736")
	require.NoError(t, err)
	spanID, err := trace.SpanIDFromHex("00f067aa0ba902b7")
	require.NoError(t, err)
	parsed, err := trace.ParseTraceState(state)
	require.NoError(t, err)
	return trace.NewSpanContext(trace.SpanContextConfig{TraceID: traceID, SpanID: spanID,
		TraceFlags: trace.FlagsSampled, TraceState: parsed})
}

// longState returns a valid trace state that is too long for a header's value.
func longState() string {
	var members []string
	for i := range 32 {
		members = append(members, fmt.Sprintf("vendor-%02d=%s", i, strings.Repeat("v", 250)))
	}
	return strings.Join(members, ",")
}

func TestTraceGoesAlong(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	ways := drivers(t, pool)
	traced := func(state string) context.Context {
		return trace.ContextWithSpanContext(t.Context(), spanContext(t, state))
	}
	joined := func(a, b map[string]string) map[string]string {
		a = maps.Clone(a)
		maps.Copy(a, b)
		return a
	}
	for _, c := range []struct {
		name        string
		ctx         context.Context
		given, want map[string]string
	}{
		{"no span", t.Context(), map[string]string{"a": "v"}, map[string]string{"a": "v"}},
		{"an invalid span", trace.ContextWithSpanContext(t.Context(), trace.SpanContext{}), nil, map[string]string{}},
		{"no headers", traced(""), nil, map[string]string{"traceparent": traceparent}},
		{"headers", traced(""), map[string]string{"a": "v"}, map[string]string{"a": "v", "traceparent": traceparent}},
		{"a state", traced("vendor=1,other=2"), nil,
			map[string]string{"traceparent": traceparent, "tracestate": "vendor=1,other=2"}},
		{"the producer's own", traced("vendor=1"), map[string]string{"traceparent": "mine"},
			map[string]string{"traceparent": "mine"}},
		{"the producer's own, in capitals", traced("vendor=1"), map[string]string{"Traceparent": "mine"},
			map[string]string{"Traceparent": "mine"}},
		{"the producer's own state", traced(""), map[string]string{"Tracestate": "mine=1"},
			map[string]string{"Tracestate": "mine=1"}},
		{"room for one", traced("vendor=1"), headers(63),
			joined(headers(63), map[string]string{"traceparent": traceparent})},
		{"no room", traced("vendor=1"), headers(64), headers(64)},
		{"a state too long for a header", traced(longState()), nil, map[string]string{"traceparent": traceparent}},
	} {
		t.Run(c.name, func(t *testing.T) {
			for _, d := range ways {
				m, given := message("sqs://orders"), maps.Clone(c.given)
				m.Headers = given
				ids := make([]uuid.UUID, 0, 2)
				s := d.open(t)
				for _, call := range []func(context.Context, ...outflow.Message) ([]uuid.UUID, error){s.enqueue,
					s.enqueueIfAbsent} {
					written, err := call(c.ctx, m)
					require.NoError(t, err, d.name)
					ids = append(ids, written...)
				}
				require.NoError(t, s.commit(t.Context()))
				require.Equal(t, c.given, given, "the caller's map is the caller's")
				for _, got := range values[map[string]string](t, pool,
					`SELECT headers FROM outbox.messages WHERE id = ANY ($1)`, ids) {
					require.Equal(t, c.want, got, d.name)
				}
			}
		})
	}
}
