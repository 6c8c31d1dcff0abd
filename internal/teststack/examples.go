package teststack

import (
	"context"
	"net/http/httptest"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/outflowhq/outflow/publish/publishtest/fakesqs"
)

// RunExample runs an Example that opens the database in DATABASE_URL, which is pool's here,
// and returns what it prints. Such an Example has no "// Output:" comment: go test would
// run it where there is no database.
func RunExample(t *testing.T, pool *pgxpool.Pool, example func()) (printed string) {
	t.Helper()
	t.Setenv("DATABASE_URL", pool.Config().ConnString())
	file, err := os.CreateTemp(t.TempDir(), "stdout")
	require.NoError(t, err)
	defer file.Close()
	stdout := os.Stdout
	defer func() { os.Stdout = stdout }()
	os.Stdout = file
	example()
	text, err := os.ReadFile(file.Name())
	require.NoError(t, err)
	return string(text)
}

// RunDispatcher runs an Example that dispatches to SQS until it is interrupted. It
// interrupts the Example when one message to sqs://orders has been delivered, and returns
// what it printed and the outbox's name.
func RunDispatcher(t *testing.T, example func()) (printed, outbox string) {
	t.Helper()
	pool := New(t)
	outbox = strings.ReplaceAll(pool.Config().ConnConfig.Database, "_", "-")
	queues := &fakesqs.Server{AutoCreate: true}
	endpoint := httptest.NewServer(queues)
	t.Cleanup(endpoint.Close)
	for name, value := range map[string]string{
		"TEMPORAL_ADDRESS": Temporal(t), "OUTFLOW_OUTBOX": outbox,
		"AWS_ENDPOINT_URL_SQS": endpoint.URL, "AWS_REGION": "eu-west-1", "AWS_ACCESS_KEY_ID": "fake",
		"AWS_SECRET_ACCESS_KEY": "fake",
	} {
		t.Setenv(name, value)
	}
	Execute(t, pool, `SELECT outbox.enqueue('sqs://orders', 'order-placed', '{"id":7}')`)
	// The interrupt must not end the test where the Example has ended before it.
	caught := make(chan os.Signal, 1)
	signal.Notify(caught, os.Interrupt)
	defer signal.Stop(caught)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	interrupted := make(chan struct{})
	go func() {
		defer close(interrupted)
		for delivered := false; !delivered; time.Sleep(10 * time.Millisecond) {
			if pool.QueryRow(ctx, `SELECT state = 'delivered' FROM outbox.messages`).Scan(&delivered) != nil {
				break // ctx has ended
			}
		}
		assert.NoError(t, syscall.Kill(syscall.Getpid(), syscall.SIGINT))
	}()
	printed = RunExample(t, pool, example)
	cancel()
	<-interrupted
	sent := queues.Messages("", "orders")
	require.Len(t, sent, 1)
	require.Equal(t, `{"id":7}`, sent[0].MessageBody)
	return printed, outbox
}
