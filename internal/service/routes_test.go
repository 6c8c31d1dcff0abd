package service

import (
	"context"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/operator"
	"github.com/outflowhq/outflow/outboxdb"
	"github.com/outflowhq/outflow/outboxdb/wait"
	"github.com/outflowhq/outflow/publish/publishtest/fakesqs"
)

// hook is a receiver of webhooks.
type hook struct {
	mu      sync.Mutex
	down    bool
	arrived []uuid.UUID
}

func (h *hook) ServeHTTP(rw http.ResponseWriter, req *http.Request) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.down {
		rw.WriteHeader(http.StatusServiceUnavailable)
		return
	}
	h.arrived = append(h.arrived, uuid.MustParse(req.Header.Get("webhook-id")))
}

func (h *hook) set(down bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.down = down
}

func (h *hook) arrivals() []uuid.UUID {
	h.mu.Lock()
	defer h.mu.Unlock()
	return append([]uuid.UUID(nil), h.arrived...)
}

// One enqueue by route goes to a destination of every kind. While one of them is down, the others
// have it at once; that one has it when it is back; none has it twice.
func TestOneEnqueueToEveryKind(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	receiver := &hook{}
	server := httptest.NewTLSServer(receiver)
	t.Cleanup(server.Close)
	queues := &fakesqs.Server{AutoCreate: true}
	endpoint := httptest.NewServer(queues)
	t.Cleanup(endpoint.Close)
	topic, topics := topicEnd(t)
	started, workflows := workflowEnd(t, w)
	ends := []end{
		queueEnd(t, queues, "orders"), topic, started,
		{"https", server.URL + "/in", func() { receiver.set(true) }, func() { receiver.set(false) }, receiver.arrivals},
	}
	c := configOf(w)
	c.Brokers = brokersOf(aws.Config{BaseEndpoint: aws.String(endpoint.URL), Region: "eu-west-1",
		Credentials: credentials.NewStaticCredentialsProvider("fake", "fake", "")}, webhookOptions(t, server))
	c.Brokers = append(c.Brokers, topics, workflows)
	if os.Getenv("DEVSTACK_AMQP_URL") != "" || os.Getenv("OUTFLOW_TEST_REQUIRES_RABBITMQ") != "" {
		exchange, exchanges := exchangeEnd(t)
		ends, c.Brokers = append(ends, exchange), append(c.Brokers, exchanges)
	} else {
		t.Log("without RabbitMQ: this stack has none")
	}
	o := operator.New(w.pool, nil, "")
	for _, e := range ends {
		r := operator.Route{Type: "order-placed", Destination: e.destination}
		require.NoError(t, o.SetRoute(t.Context(), r, operator.Actor{Who: "ada"}))
	}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- Starter(ctx, c, slog.New(slog.DiscardHandler)) }()
	t.Cleanup(func() { stop(); assert.NoError(t, <-ended) })
	waiter := wait.New(w.pool, wait.LogTo(slog.New(slog.DiscardHandler)))
	t.Cleanup(waiter.Close)

	for _, broken := range ends {
		t.Run(broken.name+" is down", func(t *testing.T) {
			broken.down()
			var group uuid.UUID
			require.NoError(t, pgx.BeginFunc(t.Context(), w.pool, func(tx pgx.Tx) error {
				ids, err := outboxdb.Enqueue(t.Context(), tx, outflow.Message{
					Destination: outflow.ByRoute, Type: "order-placed", Payload: []byte(`{"id":7}`)})
				group = ids[0]
				return err
			}))
			held := outflow.RoutedID(group, broken.destination)
			for _, e := range ends {
				if e.name != broken.name {
					r := w.until(outflow.RoutedID(group, e.destination),
						func(r row) bool { return r.State == outflow.Delivered })
					assert.Equal(t, 1, r.Attempts, e.name)
				}
			}
			r := w.until(held, func(r row) bool { return r.LastError != "" })
			assert.Equal(t, outflow.Pending, r.State)
			assert.NotContains(t, broken.arrivals(), held)

			broken.up()
			inTime, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			outcomes, err := waiter.WaitAll(inTime, group)
			require.NoError(t, err)
			require.Len(t, outcomes, len(ends))
			for _, outcome := range outcomes {
				assert.Equal(t, outflow.Delivered, outcome.State, outcome.Destination)
			}
			for _, e := range ends {
				times := 0
				for _, id := range e.arrivals() {
					if id == outflow.RoutedID(group, e.destination) {
						times++
					}
				}
				assert.Equal(t, 1, times, e.name)
			}
		})
	}
	for _, e := range ends {
		assert.Len(t, e.arrivals(), len(ends), "%s has a message of each group, and no other", e.name)
	}
}
