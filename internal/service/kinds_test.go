package service

import (
	"net/http"
	"net/http/httptest"
	"net/url"
	"sync"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/google/uuid"
	amqp "github.com/rabbitmq/amqp091-go"
	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/client"

	"github.com/outflowhq/outflow/internal/brokers"
	"github.com/outflowhq/outflow/internal/teststack"
	"github.com/outflowhq/outflow/publish/publishtest"
	"github.com/outflowhq/outflow/publish/publishtest/fakesns"
	"github.com/outflowhq/outflow/publish/publishtest/fakesqs"
	"github.com/outflowhq/outflow/publish/rabbitmq"
	"github.com/outflowhq/outflow/publish/temporalwf"
)

// end is a destination of the test's: how it breaks, how it is restored, and what has arrived.
type end struct {
	name, destination string
	down, up          func()
	arrivals          func() []uuid.UUID
}

// queueEnd is a queue of an SQS endpoint.
func queueEnd(t *testing.T, queues *fakesqs.Server, name string) end {
	t.Helper()
	return end{
		name: name, destination: "sqs://" + name,
		down: func() {
			queues.Inject(fakesqs.Fault{Queue: name, Error: &fakesqs.Error{
				Status: http.StatusServiceUnavailable, Code: "ServiceUnavailable", Message: "try again later"}})
		},
		up: func() { queues.Heal(name) },
		arrivals: func() (ids []uuid.UUID) {
			for _, m := range queues.Messages("", name) {
				ids = append(ids, uuid.MustParse(m.MessageAttributes["outflow-message-id"].StringValue))
			}
			return ids
		},
	}
}

// topicEnd is a topic with a queue behind it, and the broker of its endpoint.
func topicEnd(t *testing.T) (end, brokers.Broker) {
	t.Helper()
	const (
		place = "eu-west-1:" + fakesqs.DefaultAccount + ":"
		topic = "arn:aws:sns:" + place + "news"
	)
	queues := &fakesqs.Server{}
	queues.CreateQueue("", "behind-news", nil)
	topics := &fakesns.Server{Queues: queues}
	topics.CreateTopic(topic, nil)
	require.NoError(t, topics.Subscribe(topic, "arn:aws:sqs:"+place+"behind-news",
		map[string]string{"RawMessageDelivery": "true"}))
	endpoint := httptest.NewServer(topics)
	t.Cleanup(endpoint.Close)
	e := queueEnd(t, queues, "behind-news")
	e.name, e.destination = "sns", "sns://news?account="+fakesqs.DefaultAccount+"&region=eu-west-1"
	e.down = func() {
		topics.Inject(fakesns.Fault{Topic: topic, Error: &fakesns.Error{
			Status: http.StatusServiceUnavailable, Code: "ServiceUnavailable", Message: "try again later"}})
	}
	e.up = func() { topics.Heal(topic) }
	return e, brokers.SNS(aws.Config{BaseEndpoint: aws.String(endpoint.URL), Region: "eu-west-1",
		Credentials: credentials.NewStaticCredentialsProvider("fake", "fake", "")}, 0)
}

// workflowEnd is a workflow that no worker runs, and the broker behind a gate to Temporal.
func workflowEnd(t *testing.T, w *world) (end, brokers.Broker) {
	t.Helper()
	queue := "welcome-" + uuid.NewString()
	targets, err := temporalwf.ParseTargets("default/" + queue + "/Welcome")
	require.NoError(t, err)
	gate := publishtest.NewGate(t, teststack.Temporal(t))
	e := end{
		name: "workflow", destination: "temporal://" + queue + "/Welcome", down: gate.Shut, up: func() { gate.Open(t) },
	}
	e.arrivals = func() (ids []uuid.UUID) {
		var enqueued []uuid.UUID
		require.NoError(t, w.pool.QueryRow(t.Context(),
			`SELECT array_agg(id) FROM outbox.messages WHERE destination = $1`, e.destination).Scan(&enqueued))
		for _, id := range enqueued {
			if _, err := w.client.DescribeWorkflowExecution(t.Context(), id.String(), ""); err == nil {
				ids = append(ids, id)
			}
		}
		return ids
	}
	return e, brokers.Workflows(temporalwf.Options{
		Client: client.Options{HostPort: gate.Address()}, Targets: targets,
	})
}

// exchangeEnd is a queue of RabbitMQ, and the broker behind a gate to it.
func exchangeEnd(t *testing.T) (end, brokers.Broker) {
	t.Helper()
	server := teststack.NewRabbitMQ(t)
	conn, err := amqp.Dial(server.URL)
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	channel, err := conn.Channel()
	require.NoError(t, err)
	queue, err := channel.QueueDeclare("every-kind-"+uuid.NewString(), false, true, false, false, nil)
	require.NoError(t, err)
	gate := publishtest.NewGate(t, server.Address)
	through, err := url.Parse(server.URL)
	require.NoError(t, err)
	through.Host = gate.Address()
	address, err := rabbitmq.ParseAddress(through.String())
	require.NoError(t, err)

	var mu sync.Mutex
	var arrived []uuid.UUID
	e := end{
		name: "rabbitmq", destination: "rabbitmq:///" + queue.Name, down: gate.Shut, up: func() { gate.Open(t) },
		arrivals: func() []uuid.UUID {
			mu.Lock()
			defer mu.Unlock()
			for {
				delivery, there, err := channel.Get(queue.Name, true)
				require.NoError(t, err)
				if !there {
					return append([]uuid.UUID(nil), arrived...)
				}
				arrived = append(arrived, uuid.MustParse(delivery.MessageId))
			}
		},
	}
	return e, brokers.RabbitMQ(func() rabbitmq.Address { return address }, 0)
}
