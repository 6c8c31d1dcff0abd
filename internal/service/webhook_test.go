package service

import (
	"io"
	"net/http"
	"net/http/httptest"
	"testing"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/worker"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/activities"
	"github.com/outflowhq/outflow/internal/config"
	"github.com/outflowhq/outflow/outboxdb"
	"github.com/outflowhq/outflow/publish"
	"github.com/outflowhq/outflow/publish/webhook"
	"github.com/outflowhq/outflow/workflows"
)

const webhookSecret = "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="

func webhookConfig(t *testing.T, server *httptest.Server) config.Config {
	hosts, err := webhook.ParseHosts("127.0.0.1")
	require.NoError(t, err)
	secrets, err := webhook.ParseSecrets(webhookSecret)
	require.NoError(t, err)
	c := config.Config{Webhook: webhook.Options{Hosts: hosts, Secrets: webhook.Secrets{Default: secrets}.For, InsecureLoopback: true}}
	if server != nil {
		c.Webhook.RootCAs = server.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs
	}
	return c
}

func TestWebhooksArePublishedWhereHostsAreAllowed(t *testing.T) {
	assert.Equal(t, []string{"sqs"}, publish.NewRouter(publishers(config.Config{})...).Schemes())
	assert.Equal(t, []string{"https", "sqs"}, publish.NewRouter(publishers(webhookConfig(t, nil))...).Schemes())
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
	enqueued, err := outboxdb.Enqueue(t.Context(), tx, outflow.Message{Destination: server.URL + "/orders?token=t", Type: "order-placed", Payload: []byte(`{"id":7}`)})
	require.NoError(t, err)
	require.NoError(t, tx.Commit(t.Context()))
	r := w.until(enqueued[0], func(r row) bool { return r.State == outflow.Delivered })
	assert.Equal(t, 2, r.Attempts)
	assert.Equal(t, enqueued[0].String(), <-ids)
	assert.Equal(t, enqueued[0].String(), <-ids)
	var brokerMessageID string
	require.NoError(t, w.pool.QueryRow(t.Context(), `SELECT broker_message_id FROM outbox.messages WHERE id = $1`, enqueued[0]).Scan(&brokerMessageID))
	assert.Equal(t, "request-1", brokerMessageID)
}
