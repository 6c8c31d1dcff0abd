package outboxdb_test

import (
	"context"
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/internal/teststack"
	"github.com/outflowhq/outflow/outbox"
	"github.com/outflowhq/outflow/outboxdb"
)

// record makes the global provider one that records. A test that calls it runs
// beside no other.
func record(t *testing.T) *tracetest.SpanRecorder {
	t.Helper()
	spans := tracetest.NewSpanRecorder()
	otel.SetTracerProvider(sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(spans)))
	t.Cleanup(func() { otel.SetTracerProvider(noop.NewTracerProvider()) })
	return spans
}

func headerOf(t *testing.T, q queryer, id uuid.UUID, name string) string {
	t.Helper()
	return values[string](t, q, `SELECT coalesce(headers ->> $2, '') FROM outbox.messages WHERE id = $1`, id, name)[0]
}

// The message carries the context of the span that enqueued it, which is a child
// of the caller's.
func TestEnqueueIsASpan(t *testing.T) {
	spans := record(t)
	pool := teststack.New(t)
	ctx, outer := otel.Tracer("test").Start(t.Context(), "request")
	for _, d := range drivers(t, pool) {
		s := d.open(t)
		for _, call := range []func(context.Context, ...outflow.Message) ([]uuid.UUID, error){s.enqueue,
			s.enqueueIfAbsent} {
			spans.Reset()
			ids, err := call(ctx, message("sqs://orders"))
			require.NoError(t, err, d.name)
			require.Len(t, spans.Ended(), 1, d.name)
			got := spans.Ended()[0]
			assert.Equal(t, "enqueue orders", got.Name())
			assert.Equal(t, trace.SpanKindProducer, got.SpanKind())
			assert.Equal(t, outer.SpanContext().SpanID(), got.Parent().SpanID())
			assert.Contains(t, got.Attributes(), attribute.String("messaging.message.id", ids[0].String()))
		}
		require.NoError(t, s.commit(t.Context()))
	}
}

func TestTheHeadersCarryTheSpan(t *testing.T) {
	spans := record(t)
	pool := teststack.New(t)
	own := message("sqs://orders")
	own.Headers = map[string]string{"traceparent": traceparent}
	ids := enqueue(t, pool, message("sqs://orders"), message("sqs://bills"), own)
	require.Len(t, spans.Ended(), 1, "one statement, one span")
	got := spans.Ended()[0]
	want := "00-" + got.SpanContext().TraceID().String() + "-" + got.SpanContext().SpanID().String() + "-01"
	assert.Equal(t, want, headerOf(t, pool, ids[0], "traceparent"))
	assert.Equal(t, want, headerOf(t, pool, ids[1], "traceparent"))
	assert.Equal(t, traceparent, headerOf(t, pool, ids[2], "traceparent"), "the producer's own")
	assert.Contains(t, got.Attributes(), attribute.Int("messaging.batch.message_count", 3))
	require.Len(t, got.Links(), 1)
	assert.Equal(t, "00f067aa0ba902b7", got.Links()[0].SpanContext.SpanID().String())
}

func TestARefusalIsOnItsSpan(t *testing.T) {
	spans := record(t)
	pool := teststack.New(t)
	known := message("sqs://orders")
	known.ID = enqueue(t, pool, message("sqs://orders"))[0]
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	for _, c := range []struct {
		ctx  context.Context
		m    outflow.Message
		want string
	}{
		{t.Context(), message("ftp://orders"), "invalid_message"},
		{t.Context(), known, "duplicate_id"},
		{ended, message("sqs://orders"), "database"},
	} {
		tx, err := pool.Begin(t.Context())
		require.NoError(t, err)
		spans.Reset()
		_, err = outboxdb.Enqueue(c.ctx, tx, c.m)
		require.Error(t, err)
		require.Len(t, spans.Ended(), 1)
		got := spans.Ended()[0]
		assert.Equal(t, codes.Error, got.Status().Code)
		assert.Contains(t, got.Attributes(), attribute.String("error.type", c.want))
		_ = tx.Rollback(context.Background())
	}
	spans.Reset()
	tx, err := pool.Begin(t.Context())
	require.NoError(t, err)
	defer func() { _ = tx.Rollback(context.Background()) }()
	ids, err := outboxdb.EnqueueIfAbsent(t.Context(), tx, known)
	require.NoError(t, err)
	assert.Empty(t, ids)
	assert.Equal(t, codes.Unset, spans.Ended()[0].Status().Code, "it was there already, as it may be")
	_, err = outboxdb.Enqueue(t.Context(), tx)
	require.NoError(t, err)
	assert.Len(t, spans.Ended(), 1, "nothing to enqueue is nothing to trace")
}

// A callback carries the trace, however the producer spelled it, and no other header.
func TestCallbackCarriesTheTrace(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	store := outboxdb.New(pool)
	for _, c := range []struct{ headers, want map[string]string }{
		{nil, nil},
		{map[string]string{"tenant": "acme"}, nil},
		{map[string]string{"tenant": "acme", "traceparent": traceparent, "tracestate": "a=b"},
			map[string]string{"traceparent": traceparent, "tracestate": "a=b"}},
		{map[string]string{"Traceparent": traceparent}, map[string]string{"traceparent": traceparent}},
	} {
		m := withCallback("sqs://orders")
		m.Headers = c.headers
		id := enqueue(t, pool, m)[0]
		_, err := store.Finish(t.Context(), outbox.Ending{Ref: ref(id), State: outflow.Delivered})
		require.NoError(t, err)
		callback, due, err := store.BeginCallback(t.Context(), ref(id), 0)
		require.NoError(t, err)
		require.True(t, due)
		assert.Equal(t, c.want, callback.Trace)
	}
}
