package service

import (
	"bytes"
	"context"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/client"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/internal/config"
	"github.com/outflowhq/outflow/internal/teststack"
	"github.com/outflowhq/outflow/outboxdb"
	"github.com/outflowhq/outflow/publish/publishtest/fakesqs"
)

// syncBuffer is a log that is read while it is written.
type syncBuffer struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

// TestAStarterWithoutARegion sends webhooks, and what names its region itself. A
// message to any other queue waits for AWS_REGION.
func TestAStarterWithoutARegion(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	hooks := httptest.NewTLSServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	t.Cleanup(hooks.Close)
	queues := httptest.NewServer(&fakesqs.Server{AutoCreate: true})
	t.Cleanup(queues.Close)
	var c config.Config
	c.Database, c.Scanner, c.Temporal = w.pool.Config(), w.opts, client.Options{HostPort: teststack.Temporal(t)}
	c.Retention = outflow.Retention{}
	c.Brokers = brokersOf(aws.Config{BaseEndpoint: aws.String(queues.URL),
		Credentials: credentials.NewStaticCredentialsProvider("fake", "fake", "")}, webhookOptions(t, hooks))

	tx, err := w.pool.Begin(t.Context())
	require.NoError(t, err)
	var ids []uuid.UUID
	for _, destination := range []string{hooks.URL + "/hook", "sqs://orders?region=eu-west-1", "sqs://orders"} {
		m, err := outflow.JSON(destination, "order-placed", 7)
		require.NoError(t, err)
		id, err := outboxdb.Enqueue(t.Context(), tx, m)
		require.NoError(t, err)
		ids = append(ids, id...)
	}
	require.NoError(t, tx.Commit(t.Context()))

	var logged syncBuffer
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	ended := make(chan error, 1)
	go func() { ended <- Starter(ctx, c, slog.New(slog.NewTextHandler(&logged, nil))) }()
	for _, id := range ids[:2] {
		w.until(id, func(r row) bool { return r.State == outflow.Delivered })
	}
	w.eventually(func() bool { return strings.Contains(logged.String(), "sqs://orders: no AWS region is configured") },
		logged.String)
	require.Equal(t, outflow.Pending, w.row(ids[2]).State)
	_, err = w.client.DescribeWorkflowExecution(t.Context(), w.workflowID(ids[2]), "")
	require.Error(t, err, "it waits as a row, without a run")
	require.Contains(t, logged.String(), `schemes="[https sqs]"`)
	require.Contains(t, logged.String(), "AWS_REGION")
	stop()
	require.NoError(t, <-ended)
}
