package service

import (
	"context"
	"log/slog"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/google/uuid"
	amqp "github.com/rabbitmq/amqp091-go"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/client"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/internal/brokers"
	"github.com/outflowhq/outflow/internal/teststack"
	"github.com/outflowhq/outflow/publish/publishtest/fakesns"
	"github.com/outflowhq/outflow/publish/publishtest/fakesqs"
	"github.com/outflowhq/outflow/publish/rabbitmq"
	"github.com/outflowhq/outflow/publish/temporalwf"
)

// latecomer is a destination that does not exist yet.
type latecomer struct {
	destination string
	broker      brokers.Broker
	create      func()
	says        string // of the destination while it is missing
}

func lateQueue(t *testing.T, _ *world) latecomer {
	queues := &fakesqs.Server{}
	return latecomer{
		destination: "sqs://late", says: "The specified queue does not exist",
		broker: brokers.SQS(fakeAccount(t, queues), 0), create: func() { queues.CreateQueue("", "late", nil) },
	}
}

func lateTopic(t *testing.T, _ *world) latecomer {
	const topic = "arn:aws:sns:eu-west-1:" + fakesqs.DefaultAccount + ":late"
	topics := &fakesns.Server{}
	endpoint := httptest.NewServer(topics)
	t.Cleanup(endpoint.Close)
	return latecomer{
		destination: "sns://late?account=" + fakesqs.DefaultAccount + "&region=eu-west-1", says: "NotFound",
		broker: brokers.SNS(aws.Config{BaseEndpoint: aws.String(endpoint.URL), Region: "eu-west-1",
			Credentials: credentials.NewStaticCredentialsProvider("fake", "fake", "")}, 0),
		create: func() { topics.CreateTopic(topic, nil) },
	}
}

func lateExchange(t *testing.T, _ *world) latecomer {
	server := teststack.NewRabbitMQ(t)
	address, err := rabbitmq.ParseAddress(server.URL)
	require.NoError(t, err)
	name := "late-" + uuid.NewString()
	return latecomer{
		destination: "rabbitmq://" + name + "/placed", says: "no exchange",
		broker: brokers.RabbitMQ(func() rabbitmq.Address { return address }, 0),
		create: func() {
			conn, err := amqp.Dial(server.URL)
			require.NoError(t, err)
			t.Cleanup(func() { _ = conn.Close() }) // with which the queue ends, and the exchange
			channel, err := conn.Channel()
			require.NoError(t, err)
			require.NoError(t, channel.ExchangeDeclare(name, amqp.ExchangeTopic, false, true, false, false, nil))
			queue, err := channel.QueueDeclare(name, false, true, true, false, nil)
			require.NoError(t, err)
			require.NoError(t, channel.QueueBind(queue.Name, "#", name, false, nil))
		},
	}
}

func lateNamespace(t *testing.T, w *world) latecomer {
	name := "late-" + uuid.NewString()
	targets, err := temporalwf.ParseTargets(name + "/orders/Process")
	require.NoError(t, err)
	return latecomer{
		destination: "temporal://orders/Process?namespace=" + name, says: "is not found",
		broker: brokers.Workflows(temporalwf.Options{
			Client: client.Options{HostPort: teststack.Temporal(t)}, Targets: targets,
		}),
		create: func() {
			request := &workflowservice.RegisterNamespaceRequest{
				Namespace: name, WorkflowExecutionRetentionPeriod: durationpb.New(24 * time.Hour),
			}
			_, err := w.client.WorkflowService().RegisterNamespace(t.Context(), request)
			require.NoError(t, err)
		},
	}
}

// What does not exist yet, of each kind: its messages wait as rows, with the reason, and are delivered
// when somebody has made it.
func TestEveryKindThatComesLater(t *testing.T) {
	t.Parallel()
	for name, kind := range map[string]func(t *testing.T, w *world) latecomer{
		"a queue": lateQueue, "a topic": lateTopic, "an exchange": lateExchange, "a namespace": lateNamespace,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			l := kind(t, w)
			c := configOf(w)
			c.Brokers, c.MissingGrace = []brokers.Broker{l.broker}, time.Hour
			ctx, stop := context.WithCancel(t.Context())
			ended := make(chan error, 1)
			go func() { ended <- Starter(ctx, c, slog.New(slog.DiscardHandler)) }()
			t.Cleanup(func() { stop(); assert.NoError(t, <-ended) })

			m := to(l.destination)
			id, another := w.enqueueMessage(m), w.enqueueMessage(m)
			for _, id := range []uuid.UUID{id, another} {
				r := w.until(id, func(r row) bool { return !w.isOpen(id) && missing(w, l.destination) })
				assert.Equal(t, outflow.Pending, r.State)
			}
			counts, err := w.store.Pending(t.Context())
			require.NoError(t, err)
			require.Len(t, counts, 1)
			assert.Equal(t, 2, counts[0].Waiting, "as rows: %+v", counts)
			assert.Contains(t, counts[0].LastError, l.says)

			l.create()
			began := time.Now()
			for _, id := range []uuid.UUID{id, another} {
				w.until(id, func(r row) bool { return r.State == outflow.Delivered })
			}
			t.Logf("delivered %s after it was there", time.Since(began).Round(100*time.Millisecond))
		})
	}
}

// missing reports whether the table knows that a destination is missing.
func missing(w *world, destination string) (is bool) {
	w.Helper()
	require.NoError(w, w.pool.QueryRow(w.Context(), `SELECT EXISTS (SELECT FROM outbox.destinations
		WHERE destination = $1 AND missing_since IS NOT NULL)`, destination).Scan(&is))
	return is
}
