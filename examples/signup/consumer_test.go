package main

import (
	"bytes"
	"encoding/json"
	"log/slog"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/aws/aws-sdk-go-v2/service/sqs/types"
	"github.com/google/uuid"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/inbox/migrate"
	"github.com/outflowhq/outflow/internal/teststack"
	"github.com/outflowhq/outflow/publish/awssqs"
	"github.com/outflowhq/outflow/publish/publishtest/fakesqs"
)

// reader is a consumer on a queue of its own, with what it printed and logged.
type reader struct {
	*consumer
	client    *sqs.Client
	server    *fakesqs.Server
	url       string
	out, logs bytes.Buffer
}

func newReader(t *testing.T) *reader {
	t.Helper()
	i := &reader{server: &fakesqs.Server{}}
	endpoint := httptest.NewServer(i.server)
	t.Cleanup(endpoint.Close)
	i.client = sqs.New(sqs.Options{
		BaseEndpoint: &endpoint.URL, Region: "eu-west-1",
		Credentials: credentials.NewStaticCredentialsProvider("fake", "fake", ""), RetryMaxAttempts: 1,
	})
	// A message that is not deleted comes again at once.
	i.server.CreateQueue("", welcomeEmail, map[string]string{"VisibilityTimeout": "0"})
	urls, err := createQueues(t.Context(), i.client)
	require.NoError(t, err)
	i.url = urls[1]
	pool := teststack.NewEmpty(t)
	_, err = migrate.Up(t.Context(), pool)
	require.NoError(t, err)
	_, err = pool.Exec(t.Context(), createEmails)
	require.NoError(t, err)
	i.consumer = &consumer{pool: pool, queue: i.client, out: &i.out, log: slog.New(slog.NewTextHandler(&i.logs, nil))}
	return i
}

// publish sends a message as Outflow does.
func (i *reader) publish(t *testing.T, id uuid.UUID, kind string, payload any) {
	t.Helper()
	encoded, err := json.Marshal(payload)
	require.NoError(t, err)
	_, err = awssqs.New(i.client).Publish(t.Context(), outflow.Message{
		ID: id, Destination: "sqs://" + welcomeEmail, Type: kind, Payload: encoded,
	})
	require.NoError(t, err)
}

// consume processes the messages of the queue.
func (i *reader) consume(t *testing.T) {
	t.Helper()
	received, err := i.client.ReceiveMessage(t.Context(), &sqs.ReceiveMessageInput{
		QueueUrl: &i.url, MaxNumberOfMessages: 10, MessageAttributeNames: []string{"All"},
	})
	require.NoError(t, err)
	for _, m := range received.Messages {
		i.process(t.Context(), i.url, m)
	}
}

func (i *reader) left() int { return len(i.server.Messages("", welcomeEmail)) }

var ada = user{ID: 1, Name: "Ada", Email: "ada@example.com", RegisteredAt: time.Now()}

func TestSameMessageTwiceIsOneEmail(t *testing.T) {
	i := newReader(t)
	id := uuid.Must(uuid.NewV7())
	i.publish(t, id, welcomeEmail, ada)
	i.consume(t)
	i.publish(t, id, welcomeEmail, ada)
	i.consume(t)
	assert.Equal(t, 1, strings.Count(i.out.String(), "welcome e-mail to Ada <ada@example.com>"), i.out.String())
	assert.Equal(t, 1, strings.Count(i.out.String(), id.String()))
	assert.Zero(t, i.left(), "the duplicate is deleted too")
	assert.Empty(t, i.logs.String())
}

// A consumer that dies before it deletes a message gets it again from SQS.
func TestOneMessageDeliveredThreeTimesIsOneEmail(t *testing.T) {
	i := newReader(t)
	i.server.Inject(fakesqs.Fault{Action: "DeleteMessage", Times: 2,
		Error: &fakesqs.Error{Status: 400, Code: "RequestThrottled", Message: "Rate exceeded"}})
	id := uuid.Must(uuid.NewV7())
	i.publish(t, id, welcomeEmail, ada)
	var deliveries []string
	for i.left() > 0 {
		received, err := i.client.ReceiveMessage(t.Context(), &sqs.ReceiveMessageInput{
			QueueUrl: &i.url, MessageAttributeNames: []string{"All"},
			MessageSystemAttributeNames: []types.MessageSystemAttributeName{
				types.MessageSystemAttributeNameApproximateReceiveCount,
			},
		})
		require.NoError(t, err)
		require.Len(t, received.Messages, 1)
		require.Less(t, len(deliveries), 3)
		deliveries = append(deliveries, received.Messages[0].Attributes["ApproximateReceiveCount"])
		i.process(t.Context(), i.url, received.Messages[0])
	}
	assert.Equal(t, []string{"1", "2", "3"}, deliveries)
	assert.Equal(t, 1, count(t, i.pool, "emails"))
	assert.Equal(t, 1, strings.Count(i.out.String(), id.String()), i.out.String())
}

// Without the e-mail, the message ID is not written either.
func TestAnEmailThatCannotBeWrittenIsTriedAgain(t *testing.T) {
	i := newReader(t)
	_, err := i.pool.Exec(t.Context(), `ALTER TABLE emails ADD CONSTRAINT full_up CHECK (false)`)
	require.NoError(t, err)
	i.publish(t, uuid.Must(uuid.NewV7()), welcomeEmail, ada)
	i.consume(t)
	assert.Contains(t, i.logs.String(), "full_up")
	assert.Empty(t, i.out.String())
	assert.Zero(t, count(t, i.pool, "inbox.seen"))

	_, err = i.pool.Exec(t.Context(), `ALTER TABLE emails DROP CONSTRAINT full_up`)
	require.NoError(t, err)
	i.consume(t)
	assert.Equal(t, 1, count(t, i.pool, "emails"))
	assert.Zero(t, i.left())
}

func TestAMessageThatCannotBeHandledStaysInTheQueue(t *testing.T) {
	id := uuid.Must(uuid.NewV7())
	for name, tc := range map[string]struct {
		send func(*testing.T, *reader)
		says string
	}{
		"another sender's": {func(t *testing.T, i *reader) {
			_, err := i.client.SendMessage(t.Context(),
				&sqs.SendMessageInput{QueueUrl: &i.url, MessageBody: aws.String("hello")})
			require.NoError(t, err)
		}, "no attribute outflow-message-id"},
		"no user": {func(t *testing.T, i *reader) { i.publish(t, id, welcomeEmail, "hello") },
			"reading the payload of message " + id.String()},
		"unknown type": {func(t *testing.T, i *reader) { i.publish(t, id, "invoice", ada) }, "unknown type"},
	} {
		t.Run(name, func(t *testing.T) {
			i := newReader(t)
			tc.send(t, i)
			i.consume(t)
			assert.Equal(t, 1, i.left())
			assert.Contains(t, i.logs.String(), "it stays in the queue")
			assert.Contains(t, i.logs.String(), tc.says)
			assert.Empty(t, i.out.String())
			assert.Zero(t, count(t, i.pool, "inbox.seen"), "it can be handled later")
		})
	}
}

func TestRunConsumesUntilItsEnd(t *testing.T) {
	i := newReader(t)
	i.publish(t, uuid.Must(uuid.NewV7()), welcomeEmail, ada)
	done := make(chan struct{})
	go func() { i.run(t.Context(), i.url); close(done) }()
	require.Eventually(t, func() bool { return i.left() == 0 }, 10*time.Second, 10*time.Millisecond)
	// The context of a test ends before its cleanups.
	t.Cleanup(func() { <-done })
}
