package main

import (
	"context"
	"fmt"
	"net/http/httptest"
	"os"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/client"

	"github.com/outflowhq/outflow/internal/teststack"
	"github.com/outflowhq/outflow/publish/publishtest/fakesqs"
)

// TestEmbedded runs the program with Postgres and Temporal: an order that its own workflow
// places is in the queue long before the scanner's next poll.
func TestEmbedded(t *testing.T) {
	pool := teststack.New(t)
	address := teststack.Temporal(t)
	queues := &fakesqs.Server{AutoCreate: true}
	endpoint := httptest.NewServer(queues)
	t.Cleanup(endpoint.Close)
	for name, value := range map[string]string{
		"TEMPORAL_ADDRESS": address, "TEMPORAL_NAMESPACE": "default", "TEMPORAL_API_KEY": "",
		"TEMPORAL_PROFILE": "", "TEMPORAL_CONFIG_FILE": os.DevNull,
		"AWS_REGION": "us-east-1", "AWS_ACCESS_KEY_ID": "fake", "AWS_SECRET_ACCESS_KEY": "fake",
		"AWS_ENDPOINT_URL_SQS": endpoint.URL,
	} {
		t.Setenv(name, value)
	}

	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- run(ctx, pool.Config().ConnString()) }()
	defer stop()

	c, err := client.Dial(client.Options{HostPort: address})
	require.NoError(t, err)
	defer c.Close()
	const orders = 6
	for i := range orders {
		o := Order{ID: uuid.NewString(), Item: fmt.Sprintf("teapot %d", i)}
		placed, err := c.ExecuteWorkflow(t.Context(),
			client.StartWorkflowOptions{ID: "order/" + o.ID, TaskQueue: taskQueue}, PlaceOrder, o)
		require.NoError(t, err)
		require.NoError(t, placed.Get(t.Context(), nil))
		require.Eventually(t, func() bool { return delivered(t, pool) == i+1 }, 30*time.Second, 5*time.Millisecond)
	}
	var took []float64
	err = pool.QueryRow(t.Context(), `
		SELECT array_agg(extract(epoch FROM finished_at - enqueued_at)::float8 ORDER BY seq)
		  FROM outbox.messages`).Scan(&took)
	require.NoError(t, err)
	// The first goes to a destination that the scanner has to find. Without Wake, each of the
	// others would wait for a PollInterval: it is enqueued right after a poll.
	others := 0.0
	for _, seconds := range took[1:] {
		others += seconds
	}
	require.Less(t, others, 25.0, "the commits woke the scanner: %v", took)

	sent := queues.Messages("", "orders")
	require.Len(t, sent, orders)
	for i, m := range sent {
		require.Contains(t, m.MessageBody, fmt.Sprintf("teapot %d", i))
	}

	stop()
	require.NoError(t, <-ended)
}

func delivered(t *testing.T, pool *pgxpool.Pool) (n int) {
	t.Helper()
	require.NoError(t, pool.QueryRow(t.Context(),
		`SELECT count(*) FROM outbox.messages WHERE state = 'delivered'`).Scan(&n))
	return n
}
