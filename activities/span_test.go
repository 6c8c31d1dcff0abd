package activities

import (
	"context"
	"errors"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/outbox"
)

const (
	traceID     = "4bf92f3577b34da6a3ce929d0e0e4736"
	traceparent = "00-" + traceID + "-00f067aa0ba902b7-01"
)

// recorded has the spans of activities recorded.
func recorded() (*tracetest.SpanRecorder, Option) {
	spans := tracetest.NewSpanRecorder()
	return spans, WithTracerProvider(sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(spans)))
}

func TestPublishIsASpan(t *testing.T) {
	for name, c := range map[string]struct {
		err                 error
		consecutiveFailures int
		errors              string
		fastPath            bool
	}{
		"fast":      {fastPath: true},
		"durable":   {},
		"permanent": {err: outflow.Permanent(errors.New("too large")), errors: "permanent"},
		"unavailable": {err: outflow.Unavailable(errors.New("503")), errors: "unavailable",
			fastPath: true},
		"unavailable, and set aside": {err: outflow.Unavailable(errors.New("503")),
			consecutiveFailures: maxWaitingRuns + 1, errors: "unavailable", fastPath: true},
		"without a class":            {err: errors.New("reset"), errors: "retryable"},
		"nothing was sent after all": {err: outflow.Retryable(outflow.ErrNotAttempted), errors: "not_attempted"},
	} {
		t.Run(name, func(t *testing.T) {
			spans, option := recorded()
			f, _, ref := newFake()
			f.consecutiveFailures = c.consecutiveFailures
			f.record.Headers = map[string]string{"traceparent": traceparent}
			var under trace.SpanContext
			f.publish = func(ctx context.Context, m outflow.Message) (string, error) {
				under = trace.SpanContextFromContext(ctx)
				assert.Equal(t, traceparent, m.Headers["traceparent"],
					"consumers get the trace of the message's making")
				return "broker-1", c.err
			}
			a := New(f, f, option)
			env, _ := environment()
			if c.fastPath {
				_, err := env.ExecuteLocalActivity(a.Publish, PublishInput{MessageID: ref.ID, Generation: 1})
				assert.Equal(t, c.err != nil && c.consecutiveFailures == 0, err != nil)
			} else {
				env.RegisterActivity(a)
				_, err := env.ExecuteActivity(a.Publish, PublishInput{MessageID: ref.ID, Generation: 1})
				assert.Equal(t, c.err != nil, err != nil)
			}
			require.Len(t, spans.Ended(), 1)
			got := spans.Ended()[0]
			assert.Equal(t, "publish orders", got.Name())
			assert.Equal(t, traceID, got.SpanContext().TraceID().String())
			assert.Equal(t, "00f067aa0ba902b7", got.Parent().SpanID().String())
			assert.Equal(t, got.SpanContext(), under, "what the publisher does hangs below it")
			path := "durable"
			if c.fastPath {
				path = "fast"
			}
			assert.Contains(t, got.Attributes(), attribute.String("outflow.path", path))
			if c.errors == "" {
				assert.Equal(t, codes.Unset, got.Status().Code)
				return
			}
			assert.Equal(t, sdktrace.Status{Code: codes.Error, Description: c.err.Error()}, got.Status())
			assert.Contains(t, got.Attributes(), attribute.String("error.type", c.errors))
		})
	}
}

// The class is what the attempt came to: a queue that was there before is waited for.
func TestTheClassOfAPublishSpan(t *testing.T) {
	spans, option := recorded()
	f, _, ref := newFake()
	f.known = true
	f.publish = func(context.Context, outflow.Message) (string, error) {
		return "", outflow.Permanent(outflow.ErrNoDestination)
	}
	a := New(f, f, option)
	env, _ := environment()
	_, err := env.ExecuteLocalActivity(a.Publish, PublishInput{MessageID: ref.ID, Generation: 1})
	require.Error(t, err)
	assert.Contains(t, spans.Ended()[0].Attributes(), attribute.String("error.type", "unavailable"))
}

// A publisher that panics ends its span, and its words stay out of it.
func TestAPanicEndsItsSpan(t *testing.T) {
	spans, option := recorded()
	f, _, ref := newFake()
	f.publish = func(context.Context, outflow.Message) (string, error) { panic("the payload") }
	a := New(f, f, option)
	env, _ := environment()
	_, err := env.ExecuteLocalActivity(a.Publish, PublishInput{MessageID: ref.ID, Generation: 1})
	require.Error(t, err)
	require.Len(t, spans.Ended(), 1)
	got := spans.Ended()[0]
	assert.Contains(t, got.Attributes(), attribute.String("error.type", "no_answer"))
	assert.Empty(t, got.Events())
	assert.NotContains(t, got.Status().Description, "the payload")
}

func TestNoSpanWhereNothingIsSent(t *testing.T) {
	for name, change := range map[string]func(*fake){
		"superseded": func(f *fake) { f.record.Generation = 2 },
		"ended":      func(f *fake) { f.record.State = outflow.Delivered },
		"cancelled":  func(f *fake) { f.record.CancelRequested = true },
		"expired":    func(f *fake) { f.record.Expired = true },
		"given up":   func(f *fake) { f.record.Claims = outbox.MaxClaims + 1 },
		"held back":  func(f *fake) { f.record.HeldBack = true },
		"not loaded": func(f *fake) { f.rowErr = errors.New("no database") },
	} {
		t.Run(name, func(t *testing.T) {
			spans, option := recorded()
			f, _, ref := newFake()
			change(f)
			a := New(f, f, option)
			env, _ := environment()
			_, _ = env.ExecuteLocalActivity(a.Publish, PublishInput{MessageID: ref.ID, Generation: 1})
			assert.Zero(t, f.sent)
			assert.Empty(t, spans.Started())
		})
	}
}

func TestCallbackIsASpan(t *testing.T) {
	for name, err := range map[string]error{"sent": nil, "not sent": outflow.Unavailable(errors.New("503"))} {
		t.Run(name, func(t *testing.T) {
			spans, option := recorded()
			f := owing()
			f.callback.To = "sqs://replies"
			f.callback.Trace = map[string]string{"traceparent": traceparent, "tracestate": "a=b"}
			var sent outflow.Message
			f.publish = func(_ context.Context, m outflow.Message) (string, error) { sent = m; return "", err }
			a := New(f, f, option)
			env, _ := environment()
			env.RegisterActivity(a.Callback)
			_, failed := env.ExecuteActivity(a.Callback, CallbackInput{MessageID: f.callback.ID, Generation: 2})
			assert.Equal(t, err != nil, failed != nil)
			require.Len(t, spans.Ended(), 1)
			got := spans.Ended()[0]
			assert.Equal(t, "callback replies", got.Name())
			assert.Equal(t, trace.SpanKindProducer, got.SpanKind())
			assert.Equal(t, "00f067aa0ba902b7", got.Parent().SpanID().String())
			assert.Equal(t, map[string]string{
				"callback-id": f.callback.CallbackID(), "traceparent": "00-" + traceID + "-" +
					got.SpanContext().SpanID().String() + "-01", "tracestate": "a=b",
			}, sent.Headers, "the callback's own span is the one that it carries")
			if err != nil {
				assert.Equal(t, sdktrace.Status{Code: codes.Error, Description: "503"}, got.Status())
			}
		})
	}
	t.Run("not due", func(t *testing.T) {
		spans, option := recorded()
		f := owing()
		f.notDue = true
		a := New(f, f, option)
		env, _ := environment()
		env.RegisterActivity(a.Callback)
		_, err := env.ExecuteActivity(a.Callback, CallbackInput{MessageID: f.callback.ID, Generation: 2})
		require.NoError(t, err)
		assert.Empty(t, spans.Started())
	})
	t.Run("nobody records", func(t *testing.T) {
		f := owing()
		f.callback.To = "sqs://replies"
		f.callback.Trace = map[string]string{"traceparent": traceparent}
		var sent outflow.Message
		f.publish = func(_ context.Context, m outflow.Message) (string, error) { sent = m; return "", nil }
		a := New(f, f)
		env, _ := environment()
		env.RegisterActivity(a.Callback)
		_, err := env.ExecuteActivity(a.Callback, CallbackInput{MessageID: f.callback.ID, Generation: 2})
		require.NoError(t, err)
		assert.Equal(t, map[string]string{"callback-id": f.callback.CallbackID(), "traceparent": traceparent},
			sent.Headers)
	})
}
