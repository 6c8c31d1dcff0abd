package service

import (
	"context"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/worker"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/activities"
	"github.com/outflowhq/outflow/internal/callbacks"
	"github.com/outflowhq/outflow/internal/config"
	"github.com/outflowhq/outflow/internal/teststack"
	"github.com/outflowhq/outflow/outboxdb"
	"github.com/outflowhq/outflow/publish"
	"github.com/outflowhq/outflow/publish/publishtest/fakesqs"
	"github.com/outflowhq/outflow/publish/webhook"
	"github.com/outflowhq/outflow/scanner"
	"github.com/outflowhq/outflow/workflows"
)

// ofTrace are the spans that have ended in a trace, by the first word of their names.
func ofTrace(spans *tracetest.SpanRecorder, id trace.TraceID) map[string][]sdktrace.ReadOnlySpan {
	found := map[string][]sdktrace.ReadOnlySpan{}
	for _, s := range spans.Ended() {
		if s.SpanContext().TraceID() == id {
			operation, _, _ := strings.Cut(s.Name(), " ")
			found[operation] = append(found[operation], s)
		}
	}
	return found
}

// From the producer's request to its callback everything is one trace, a failed
// attempt included. It sets the global provider, and so runs beside no other test.
func TestTraceFromEndToEnd(t *testing.T) {
	w := newWorld(t)
	spans := tracetest.NewSpanRecorder()
	otel.SetTracerProvider(sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(spans)))
	t.Cleanup(func() { otel.SetTracerProvider(noop.NewTracerProvider()) })
	type request struct{ path, traceparent string }
	requests := make(chan request, 10)
	busy := true
	server := httptest.NewTLSServer(http.HandlerFunc(func(rw http.ResponseWriter, req *http.Request) {
		requests <- request{req.URL.Path, req.Header.Get("traceparent")}
		if busy { // one request after the other
			busy = false
			rw.WriteHeader(http.StatusServiceUnavailable)
		}
	}))
	t.Cleanup(server.Close)
	brokers := publishers(webhookConfig(t, server))
	router := publish.NewRouter(brokers...)
	run := worker.New(w.client, w.opts.TaskQueue, workerOptions(config.Config{}, make(chan error, 1)))
	workflows.Register(run, activities.New(w.store, router, activities.WithCallbacks(callbacks.New(brokers, router))))
	require.NoError(t, run.Start())
	t.Cleanup(run.Stop)
	w.scan()

	ctx, signUp := otel.Tracer("shop").Start(t.Context(), "POST /sign-up")
	var id uuid.UUID
	require.NoError(t, pgx.BeginFunc(ctx, w.pool, func(tx pgx.Tx) error {
		ids, err := outboxdb.Enqueue(ctx, tx, outflow.Message{
			Destination: server.URL + "/orders", Type: "order-placed", Payload: []byte("{}"), Callback: server.URL +
				"/done?token=t",
		})
		id = ids[0]
		return err
	}))
	signUp.End()
	w.untilTold(id)

	var got map[string][]sdktrace.ReadOnlySpan
	w.eventually(func() bool {
		got = ofTrace(spans, signUp.SpanContext().TraceID())
		return len(got["callback"]) == 1
	}, func() string { return "no span of the callback" })
	for operation, n := range map[string]int{"POST": 1, "enqueue": 1, "start": 1, "publish": 2, "callback": 1} {
		require.Len(t, got[operation], n, operation)
	}
	enqueue, start, first, second, callback := got["enqueue"][0], got["start"][0], got["publish"][0], got["publish"][1], got["callback"][0]
	assert.Equal(t, signUp.SpanContext().SpanID(), enqueue.Parent().SpanID())
	for _, s := range []sdktrace.ReadOnlySpan{start, first, second, callback} {
		assert.Equal(t, enqueue.SpanContext().SpanID(), s.Parent().SpanID(), s.Name())
		assert.Contains(t, s.Attributes(), attribute.String("messaging.message.id", id.String()), s.Name())
		assert.NotContains(t, s.Name(), "/", "no more than the host of an address")
	}
	assert.Equal(t, codes.Error, first.Status().Code)
	assert.Contains(t, first.Attributes(), attribute.String("error.type", "unavailable"))
	assert.Contains(t, first.Attributes(), attribute.String("outflow.path", "fast"))
	assert.Equal(t, codes.Unset, second.Status().Code)
	assert.Contains(t, second.Attributes(), attribute.String("outflow.path", "durable"))
	assert.Contains(t, callback.Attributes(), attribute.String("outflow.state", "delivered"))
	assert.Contains(t, start.Attributes(), attribute.String("temporalWorkflowID", w.workflowID(id)))

	header := func(s sdktrace.ReadOnlySpan) string {
		return "00-" + s.SpanContext().TraceID().String() + "-" + s.SpanContext().SpanID().String() + "-01"
	}
	assert.Equal(t, request{"/orders", header(enqueue)}, <-requests, "receivers learn where the message was made")
	assert.Equal(t, request{"/orders", header(enqueue)}, <-requests)
	assert.Equal(t, request{"/done", header(callback)}, <-requests)
	w.closed(id) // the spans changed nothing in what the run did
	w.callbackClosed(id, 1)
}

// A starter whose collector hangs delivers as if it had none, and ends in time.
func TestTraceCollectorThatHangs(t *testing.T) {
	address := teststack.Temporal(t)
	pool := teststack.New(t)
	queue := httptest.NewServer(&fakesqs.Server{AutoCreate: true})
	defer queue.Close()
	hanging, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer hanging.Close()
	database, err := pgxpool.ParseConfig(pool.Config().ConnString())
	require.NoError(t, err)
	name := "test-" + uuid.NewString()
	c := config.Config{
		Database: database,
		Temporal: client.Options{HostPort: address},
		Brokers: brokersOf(aws.Config{Region: "eu-west-1", BaseEndpoint: aws.String(queue.URL),
			Credentials: credentials.NewStaticCredentialsProvider("AKIAFAKE", "fake", "")}, webhook.Options{}),
		Scanner: scanner.Options{Outbox: name, TaskQueue: name, PollInterval: 20 * time.Millisecond},
		Traces: config.Traces{
			Endpoint: &url.URL{Scheme: "http", Host: hanging.Addr().String(),
				Path: "/v1/traces"}, Timeout: 10 * time.Second,
			Sampler: "parentbased_always_on", QueueSize: 16, BatchSize: 4, Delay: 10 * time.Millisecond, ExportTimeout: 30 * time.Second,
		},
	}
	said := &announced{}
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	ended := make(chan error, 1)
	go func() { ended <- Starter(ctx, c, slog.New(slog.NewTextHandler(said, nil))) }()
	const messages = 50
	require.NoError(t, pgx.BeginFunc(t.Context(), pool, func(tx pgx.Tx) error {
		for range messages {
			if _, err := outboxdb.Enqueue(t.Context(), tx,
				outflow.Message{Destination: "sqs://orders", Type: "a", Payload: []byte("{}")}); err != nil {
				return err
			}
		}
		return nil
	}))
	require.Eventually(t, func() bool {
		var delivered int
		require.NoError(t, pool.QueryRow(t.Context(),
			`SELECT count(*) FROM outbox.messages WHERE state = 'delivered' AND attempts = 1`).Scan(&delivered))
		return delivered == messages
	}, 30*time.Second, 20*time.Millisecond)
	stop()
	select {
	case err := <-ended:
		require.NoError(t, err)
	case <-time.After(40 * time.Second):
		t.Fatal("it does not end")
	}
	said.mu.Lock()
	defer said.mu.Unlock()
	text := said.text.String()
	assert.Contains(t, text, "stopping without having exported all spans")
	assert.LessOrEqual(t, strings.Count(text, "exporting spans fails"), 1)
}
