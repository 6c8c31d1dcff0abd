package tracing

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/codes"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/outbox"
)

const (
	traceID     = "4bf92f3577b34da6a3ce929d0e0e4736"
	spanID      = "00f067aa0ba902b7"
	traceparent = "00-" + traceID + "-" + spanID + "-01"
)

// recorded is a Tracer and what it has recorded.
func recorded() (Tracer, *tracetest.SpanRecorder) {
	r := tracetest.NewSpanRecorder()
	return Tracer{Provider: sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(r))}, r
}

func attributesOf(s sdktrace.ReadOnlySpan) map[string]any {
	all := map[string]any{}
	for _, a := range s.Attributes() {
		all[string(a.Key)] = a.Value.AsInterface()
	}
	return all
}

func record(destination string, headers map[string]string) outbox.Record {
	return outbox.Record{Generation: 2, Message: outflow.Message{
		ID: uuid.MustParse("018f6a3e-7c1b-7d5e-9b1a-2f6f0c9d4e11"), Destination: destination, Type: "order-placed",
		Payload: []byte("the payload"), Headers: headers,
	}}
}

var attempt = Attempt{WorkflowID: "outbox/1", RunID: "run", Number: 3, Path: "durable"}

func TestSpansOfAMessage(t *testing.T) {
	headers := map[string]string{"TraceParent": traceparent, "tracestate": "vendor=1", "secret": "the header"}
	common := map[string]any{
		"messaging.message.id": "018f6a3e-7c1b-7d5e-9b1a-2f6f0c9d4e11", "outflow.type": "order-placed",
		"outflow.generation":         int64(2),
		"messaging.destination.name": "orders",
	}
	for name, c := range map[string]struct {
		begin func(t Tracer) (context.Context, Span)
		kind  trace.SpanKind
		more  map[string]any
	}{
		"start orders": {func(t Tracer) (context.Context, Span) {
			ctx, s := t.Start(context.Background(), record("sqs://orders?region=eu-west-1", headers), "outbox/1")
			s.Started("run", true)
			return ctx, s
		}, trace.SpanKindClient, map[string]any{
			"messaging.system": "outflow", "messaging.operation.name": "start", "temporalWorkflowID": "outbox/1",
			"temporalRunID": "run", "outflow.already_running": true,
		}},
		"publish orders": {func(t Tracer) (context.Context, Span) {
			ctx, s := t.Publish(context.Background(), record("sqs://orders", headers), attempt)
			s.Published("broker-1")
			return ctx, s
		}, trace.SpanKindClient, map[string]any{
			"messaging.system": "aws_sqs", "messaging.operation.name": "publish",
			"messaging.operation.type": "send", "temporalWorkflowID": "outbox/1", "temporalRunID": "run",
			"outflow.attempt": int64(3), "outflow.path": "durable", "outflow.broker_message_id": "broker-1",
		}},
		"callback orders": {func(t Tracer) (context.Context, Span) {
			m := record("", nil)
			return t.Callback(context.Background(), outbox.Callback{
				To: "sqs://orders", Type: m.Type, Trace: headers, Outcome: outflow.Outcome{ID: m.ID, Generation: 2,
					State: outflow.Dead},
			}, attempt)
		}, trace.SpanKindProducer, map[string]any{
			"messaging.system": "aws_sqs", "messaging.operation.name": "callback",
			"messaging.operation.type": "send", "temporalWorkflowID": "outbox/1", "temporalRunID": "run",
			"outflow.attempt": int64(3), "outflow.path": "durable", "outflow.state": "dead",
		}},
	} {
		t.Run(name, func(t *testing.T) {
			tracer, spans := recorded()
			ctx, s := c.begin(tracer)
			s.End(nil, "")
			require.Len(t, spans.Ended(), 1)
			got := spans.Ended()[0]
			assert.Equal(t, name, got.Name())
			assert.Equal(t, c.kind, got.SpanKind())
			assert.Equal(t, traceID, got.SpanContext().TraceID().String())
			assert.Equal(t, spanID, got.Parent().SpanID().String())
			assert.Equal(t, "vendor=1", got.SpanContext().TraceState().String())
			assert.Empty(t, got.Links())
			want := map[string]any{}
			for _, part := range []map[string]any{common, c.more} {
				for key, value := range part {
					want[key] = value
				}
			}
			assert.Equal(t, want, attributesOf(got))
			assert.Equal(t, codes.Unset, got.Status().Code)
			assert.Equal(t, got.SpanContext().SpanID(), trace.SpanContextFromContext(ctx).SpanID(),
				"what is done under it hangs below it")
			assert.Equal(t, map[string]string{
				"traceparent": "00-" + traceID + "-" + got.SpanContext().SpanID().String() +
					"-01", "tracestate": "vendor=1",
			}, Headers(ctx))
		})
	}
}

func TestEnqueueSpan(t *testing.T) {
	tracer, spans := recorded()
	own := record("sqs://orders", map[string]string{"traceparent": traceparent}).Message
	plain := record("sqs://orders", nil).Message
	other := record("sqs://bills", nil).Message
	for _, c := range []struct {
		msgs  []outflow.Message
		name  string
		want  map[string]any
		links int
	}{
		{[]outflow.Message{plain}, "enqueue orders", map[string]any{"messaging.destination.name": "orders"}, 0},
		{[]outflow.Message{plain, plain}, "enqueue orders",
			map[string]any{"messaging.destination.name": "orders", "messaging.batch.message_count": int64(2)}, 0},
		{[]outflow.Message{plain, other, own}, "enqueue", map[string]any{"messaging.batch.message_count": int64(3)}, 1},
	} {
		spans.Reset()
		ctx, s := tracer.Enqueue(t.Context(), c.msgs)
		s.End(nil, "")
		got := spans.Ended()[0]
		assert.Equal(t, c.name, got.Name())
		assert.Equal(t, trace.SpanKindProducer, got.SpanKind(), "its context is what the messages carry")
		c.want["messaging.system"], c.want["messaging.operation.name"], c.want["messaging.operation.type"],
			c.want["outflow.type"] = "outflow", "enqueue", "send", "order-placed"
		assert.Equal(t, c.want, attributesOf(got))
		assert.Len(t, got.Links(), c.links)
		assert.False(t, got.Parent().IsValid())
		assert.Equal(t, got.SpanContext(), trace.SpanContextFromContext(ctx))
	}
}

// A message without a trace is part of its caller's; one with a trace links to it.
func TestTheCallersSpan(t *testing.T) {
	tracer, spans := recorded()
	callers, outer := tracer.Provider.Tracer("test").Start(t.Context(), "caller")
	for _, headers := range []map[string]string{nil, {"traceparent": "00-no-trace-at-all"}, {"tracestate": "a=b"}} {
		_, s := tracer.Publish(callers, record("sqs://orders", headers), attempt)
		s.End(nil, "")
		got := spans.Ended()[len(spans.Ended())-1]
		assert.Equal(t, outer.SpanContext().SpanID(), got.Parent().SpanID())
		assert.Empty(t, got.Links())
	}
	_, s := tracer.Publish(callers, record("sqs://orders", map[string]string{"traceparent": traceparent}), attempt)
	s.End(nil, "")
	got := spans.Ended()[len(spans.Ended())-1]
	assert.Equal(t, spanID, got.Parent().SpanID().String())
	require.Len(t, got.Links(), 1)
	assert.Equal(t, outer.SpanContext(), got.Links()[0].SpanContext)
}

// Of an address no more than its host is shown: the rest may be a secret.
func TestDestinations(t *testing.T) {
	for destination, want := range map[string][2]string{
		"sqs://orders.fifo?account=123456789012":                  {"aws_sqs", "orders.fifo"},
		"sns://news":                                              {"aws.sns", "news"},
		"arn:aws:sqs:eu-west-1:123456789012:orders":               {"aws_sqs", "orders"},
		"https://sqs.eu-west-1.amazonaws.com/123456789012/orders": {"aws_sqs", "orders"},
		"rabbitmq://shop/order.placed":                            {"rabbitmq", "shop:order.placed"},
		"rabbitmq:///orders":                                      {"rabbitmq", "orders"},
		"temporal://orders/Process?signal=pay":                    {"temporal", "orders/Process"},
		"https://hooks.example.com:8443/services/T0/secret?k=v":   {"webhook", "hooks.example.com:8443"},
		"http://localhost:8080/done?k=v":                          {"webhook", "localhost:8080"},
		"nonsense":                                                {"", ""},
	} {
		system, name := describe(destination)
		assert.Equal(t, want, [2]string{system, name}, destination)
	}
}

func TestEnd(t *testing.T) {
	for want, err := range map[string]error{
		"permanent":     outflow.Permanent(errors.New("no such queue")),
		"unavailable":   outflow.Unavailable(errors.New("no such queue")),
		"retryable":     errors.New("no such queue"),
		"not_attempted": outflow.Retryable(fmt.Errorf("no such queue: %w", outflow.ErrNotAttempted)),
		"no_answer":     ErrNoAnswer,
	} {
		tracer, spans := recorded()
		_, s := tracer.Publish(t.Context(), record("sqs://orders", nil), attempt)
		s.End(err, FailureType(err))
		got := spans.Ended()[0]
		assert.Equal(t, sdktrace.Status{Code: codes.Error, Description: err.Error()}, got.Status())
		assert.Equal(t, want, attributesOf(got)["error.type"])
		assert.Empty(t, got.Events())
	}
}

// The SDK writes a panic's words onto a span whose End is deferred.
func TestAPanicIsNotQuoted(t *testing.T) {
	tracer, spans := recorded()
	assert.Panics(t, func() {
		_, s := tracer.Publish(t.Context(), record("sqs://orders", nil), attempt)
		err := ErrNoAnswer
		defer func() { s.End(err, FailureType(err)) }()
		panic("the payload")
	})
	assert.Panics(t, func() {
		_, s := tracer.Publish(t.Context(), record("sqs://orders", nil), attempt)
		defer s.End(ErrNoAnswer, "no_answer")
		panic("the payload")
	})
	require.Len(t, spans.Ended(), 2)
	for _, got := range spans.Ended() {
		assert.NotContains(t, fmt.Sprintf("%+v %+v %+v", got.Events(), got.Status(), got.Attributes()), "the payload")
	}
}

// Without a provider nothing is recorded, and a context keeps the caller's trace.
func TestNoProvider(t *testing.T) {
	for name, tracer := range map[string]Tracer{"the default": {}, "none": {Provider: noop.NewTracerProvider()}} {
		assert.Nil(t, Headers(t.Context()), name)
		ctx, s := tracer.Enqueue(t.Context(), []outflow.Message{record("sqs://orders", nil).Message})
		s.Enqueued(uuid.New())
		s.End(errors.New("refused"), "database")
		assert.Nil(t, Headers(ctx), name)

		message := map[string]string{"traceparent": traceparent}
		callers, _ := into(t.Context(), message)
		ctx, s = tracer.Enqueue(callers, []outflow.Message{record("sqs://orders", nil).Message})
		s.End(nil, "")
		assert.Equal(t, message, Headers(ctx), name)
		ctx, s = tracer.Callback(t.Context(), outbox.Callback{To: "https://shop.example/", Trace: message}, attempt)
		s.End(nil, "")
		assert.Equal(t, message, Headers(ctx), "%s: a callback belongs to its message's trace all the same", name)
	}
}

// A span that is not sampled costs no text.
func TestUnsampled(t *testing.T) {
	r := tracetest.NewSpanRecorder()
	tracer := Tracer{Provider: sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(r),
		sdktrace.WithSampler(sdktrace.ParentBased(sdktrace.AlwaysSample())))}
	message := map[string]string{"traceparent": "00-" + traceID + "-" + spanID + "-00"}
	ctx, s := tracer.Publish(t.Context(), record("sqs://orders", message), attempt)
	s.End(errors.New("refused"), "retryable")
	assert.Empty(t, r.Ended(), "the producer said so")
	assert.Regexp(t, "^00-"+traceID+"-[0-9a-f]{16}-00$", Headers(ctx)["traceparent"])
}

// BenchmarkPublish is what a publish pays for its span: without a provider, and
// with one that records and exports nothing.
func BenchmarkPublish(b *testing.B) {
	recording := sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(discard{}))
	for name, tracer := range map[string]Tracer{"no provider": {}, "recording": {Provider: recording}} {
		for _, headers := range []map[string]string{nil, {"traceparent": traceparent}} {
			b.Run(fmt.Sprintf("%s, %d headers", name, len(headers)), func(b *testing.B) {
				b.ReportAllocs()
				m := record("sqs://orders", headers)
				for b.Loop() {
					_, s := tracer.Publish(context.Background(), m, attempt)
					s.Published("broker-1")
					s.End(nil, "")
				}
			})
		}
	}
}

type discard struct{}

func (discard) OnStart(context.Context, sdktrace.ReadWriteSpan) {}
func (discard) OnEnd(sdktrace.ReadOnlySpan)                     {}
func (discard) Shutdown(context.Context) error                  { return nil }
func (discard) ForceFlush(context.Context) error                { return nil }
