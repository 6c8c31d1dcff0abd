package service

import (
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/google/uuid"
	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/client"
	sdklog "go.temporal.io/sdk/log"
	"go.temporal.io/sdk/worker"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/activities"
	"github.com/outflowhq/outflow/internal/brokers"
	"github.com/outflowhq/outflow/internal/callbacks"
	"github.com/outflowhq/outflow/internal/config"
	"github.com/outflowhq/outflow/internal/teststack"
	"github.com/outflowhq/outflow/outboxdb"
	"github.com/outflowhq/outflow/publish"
	"github.com/outflowhq/outflow/publish/webhook"
	"github.com/outflowhq/outflow/workflows"
)

const webhookSecret = "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="

func webhookOptions(t *testing.T, server *httptest.Server) webhook.Options {
	hosts, err := webhook.ParseHosts("127.0.0.1")
	require.NoError(t, err)
	secrets, err := webhook.ParseSecrets(webhookSecret)
	require.NoError(t, err)
	o := webhook.Options{Hosts: hosts, Secrets: webhook.Secrets{Default: secrets}.For, InsecureLoopback: true}
	if server != nil {
		o.RootCAs = server.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs
	}
	return o
}

// webhookConfig is a config with the webhooks of webhookOptions.
func webhookConfig(t *testing.T, server *httptest.Server) config.Config {
	return config.Config{Brokers: brokersOf(aws.Config{}, webhookOptions(t, server))}
}

// Without a setting, messages to https wait for one; none ends dead.
func TestWebhooksArePublishedWhereHostsAreAllowed(t *testing.T) {
	const to = "https://127.0.0.1/orders"
	allows := publish.NewRouter(publishers(webhookConfig(t, nil))...)
	assert.Equal(t, []string{"https", "sqs"}, allows.Schemes())
	require.NoError(t, allows.Refusal(to))
	router := publish.NewRouter(brokers.Publishers(brokersOf(aws.Config{}, webhook.Options{}))...)
	_, err := router.Publish(t.Context(), outflow.Message{ID: uuid.New(), Destination: to})
	for _, err := range []error{router.Refusal(to), err} {
		require.ErrorContains(t, err, "OUTFLOW_WEBHOOK_HOSTS")
		assert.Equal(t, outflow.ClassUnavailable, outflow.ClassOf(err))
	}
}

// An https destination from the table to its receiver, which is busy at first:
// both attempts carry the message ID, each a signature of its own.
func TestAWebhookIsDelivered(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	verifier, err := standardwebhooks.NewWebhook(webhookSecret)
	require.NoError(t, err)
	ids := make(chan string, 10)
	busy := true
	server := httptest.NewTLSServer(http.HandlerFunc(func(rw http.ResponseWriter, req *http.Request) {
		body, err := io.ReadAll(req.Body)
		assert.NoError(t, err)
		assert.NoError(t, verifier.Verify(body, req.Header))
		ids <- req.Header.Get("webhook-id")
		if busy { // one request after the other
			busy = false
			rw.Header().Set("Retry-After", "1")
			rw.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		rw.Header().Set("X-Request-Id", "request-1")
	}))
	t.Cleanup(server.Close)
	run := worker.New(w.client, w.opts.TaskQueue, workerOptions(config.Config{}, make(chan error, 1)))
	workflows.Register(run, activities.New(w.store, publish.NewRouter(publishers(webhookConfig(t, server))...)))
	require.NoError(t, run.Start())
	t.Cleanup(run.Stop)
	w.scan()

	tx, err := w.pool.Begin(t.Context())
	require.NoError(t, err)
	enqueued, err := outboxdb.Enqueue(t.Context(), tx,
		outflow.Message{Destination: server.URL + "/orders?token=t", Type: "order-placed", Payload: []byte(`{"id":7}`)})
	require.NoError(t, err)
	require.NoError(t, tx.Commit(t.Context()))
	r := w.until(enqueued[0], func(r row) bool { return r.State == outflow.Delivered })
	assert.Equal(t, 2, r.Attempts)
	assert.Equal(t, enqueued[0].String(), <-ids)
	assert.Equal(t, enqueued[0].String(), <-ids)
	var brokerMessageID string
	require.NoError(t, w.pool.QueryRow(t.Context(), `SELECT broker_message_id FROM outbox.messages WHERE id = $1`,
		enqueued[0]).Scan(&brokerMessageID))
	assert.Equal(t, "request-1", brokerMessageID)
}

// TestAWebhooksQueryIsShownNowhere: of an address that holds a token, the request has
// the whole, and logs, history, search attributes, errors and callbacks have scheme,
// host and path.
func TestAWebhooksQueryIsShownNowhere(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	var logged notes
	w.opts.Logger = slog.New(slog.NewTextHandler(&logged, &slog.HandlerOptions{Level: slog.LevelDebug}))
	w.log = w.opts.Logger
	var err error
	w.client, err = client.Dial(client.Options{HostPort: teststack.Temporal(t),
		Logger: sdklog.NewStructuredLogger(w.log)})
	require.NoError(t, err)
	t.Cleanup(w.client.Close)

	var status atomic.Int64
	var requested, body atomic.Value
	status.Store(http.StatusInternalServerError)
	server := httptest.NewTLSServer(http.HandlerFunc(func(rw http.ResponseWriter, req *http.Request) {
		if req.URL.Path == "/done" {
			got, err := io.ReadAll(req.Body)
			assert.NoError(t, err)
			body.Store(string(got))
			return
		}
		requested.Store(req.URL.RequestURI())
		rw.WriteHeader(int(status.Load()))
	}))
	t.Cleanup(server.Close)
	c := webhookConfig(t, server)
	router := publish.NewRouter(publishers(c)...)
	run := worker.New(w.client, w.opts.TaskQueue, workerOptions(config.Config{}, make(chan error, 1)))
	workflows.Register(run, activities.New(w.store, router,
		activities.WithCallbacks(callbacks.New(publishers(c), router)), activities.LogTo(w.log)))
	require.NoError(t, run.Start())
	t.Cleanup(run.Stop)
	w.scan()

	tx, err := w.pool.Begin(t.Context())
	require.NoError(t, err)
	ids, err := outboxdb.Enqueue(t.Context(), tx, outflow.Message{
		Destination: server.URL + "/orders?token=hunter2", Callback: server.URL +
			"/done?token=hunter2", Type: "order-placed", Payload: []byte(`{}`),
	})
	require.NoError(t, err)
	require.NoError(t, tx.Commit(t.Context()))
	shown := server.URL + "/orders"
	retrying := w.until(ids[0], func(r row) bool { return r.Retrying && r.LastError != "" })
	assert.Contains(t, retrying.LastError, "posting to "+shown+": ")
	description, err := w.client.DescribeWorkflowExecution(t.Context(), w.workflowID(ids[0]), "")
	require.NoError(t, err)
	status.Store(http.StatusGone)
	require.NoError(t, w.client.SignalWorkflow(t.Context(), w.workflowID(ids[0]), "", workflows.SignalTryNow, nil))
	dead := w.until(ids[0], func(r row) bool { return r.State == outflow.Dead })
	_, history := w.closed(ids[0])
	w.eventually(func() bool { return body.Load() != nil }, logged.String)

	assert.Equal(t, "/orders?token=hunter2", requested.Load(), "the request has it")
	assert.Contains(t, body.Load(), `"destination":"`+shown+`"`)
	assert.Contains(t, string(description.GetWorkflowExecutionInfo().GetSearchAttributes().GetIndexedFields()[workflows.AttributeDestination.GetName()].GetData()), shown)
	assert.Contains(t, logged.String(), "destination="+shown)
	for what, text := range map[string]string{
		"the row's errors": retrying.LastError +
			dead.LastError, "the run": description.String(), "its history": history.String(),
		"the log": logged.String(), "the callback": body.Load().(string),
	} {
		assert.NotContains(t, text, "hunter2", what)
	}
}
