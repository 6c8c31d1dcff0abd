package scanner_test

import (
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.temporal.io/api/serviceerror"

	"github.com/outflowhq/outflow/scanner"
)

func TestStartIsASpan(t *testing.T) {
	for name, c := range map[string]struct {
		reply  error
		status codes.Code
		more   attribute.KeyValue
	}{
		"started": {nil, codes.Unset, attribute.String("messaging.operation.name", "start")},
		"already running": {serviceerror.NewWorkflowExecutionAlreadyStarted("running", "", ""), codes.Unset,
			attribute.Bool("outflow.already_running", true)},
		"refused": {errors.New("no answer"), codes.Error, attribute.String("error.type", "temporal")},
	} {
		t.Run(name, func(t *testing.T) {
			spans := tracetest.NewSpanRecorder()
			provider := sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(spans))
			var id string
			inWorld(t, scanner.Options{Outbox: "shop", TracerProvider: provider}, func(w *world) {
				w.table.enqueue("sqs://orders", 1)
				w.table.set(func(table *table) {
					table.due[0].Headers = map[string]string{"traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"}
					id = table.due[0].ID.String()
				})
				w.engine.set(func(e *engine) { e.reply = func(start) error { return c.reply } })
			}, func(w *world) {
				pass(100 * time.Millisecond)
				require.NotEmpty(t, spans.Ended())
				got := spans.Ended()[0]
				assert.Equal(t, "start orders", got.Name())
				assert.Equal(t, "4bf92f3577b34da6a3ce929d0e0e4736", got.SpanContext().TraceID().String())
				assert.Equal(t, "00f067aa0ba902b7", got.Parent().SpanID().String())
				assert.Equal(t, c.status, got.Status().Code)
				assert.Contains(t, got.Attributes(), c.more)
				assert.Contains(t, got.Attributes(), attribute.String("messaging.message.id", id))
				assert.Contains(t, got.Attributes(), attribute.String("temporalWorkflowID", "shop/"+id))
			})
		})
	}
}
