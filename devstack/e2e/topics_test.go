package e2e

import (
	"fmt"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/publish/awssqs"
	"github.com/outflowhq/outflow/publish/publishtest/fakesns"
)

// What is enqueued to a topic is in the queues that are subscribed to it, once each, whether the
// subscription has raw message delivery or not. A filter policy chooses by the message's type.
func TestTopicsReachTheirQueues(t *testing.T) {
	w := newWorld(t)
	topics := &fakesns.Server{Queues: w.queues}
	endpoint := httptest.NewServer(topics)
	t.Cleanup(endpoint.Close)
	w.env = append(w.env, "AWS_ENDPOINT_URL_SNS="+endpoint.URL, "AWS_ENDPOINT_URL_STS="+endpoint.URL)
	const topic = "arn:aws:sns:us-east-1:000000000000:orders"
	topics.CreateTopic(topic, nil)
	for queue, attributes := range map[string]map[string]string{
		"raw": {"RawMessageDelivery": "true"}, "wrapped": nil,
		"placed": {"RawMessageDelivery": "true", "FilterPolicy": `{"outflow-type":["order-placed"]}`},
	} {
		w.queues.CreateQueue("", queue, nil)
		require.NoError(t, topics.Subscribe(topic, "arn:aws:sqs:us-east-1:000000000000:"+queue, attributes))
	}

	const n = 60
	destinations := []string{"sns://orders", "sns://orders?region=us-east-1", topic}
	ids := w.enqueue(n, func(i int) outflow.Message {
		m := to(destinations[i%len(destinations)])(i)
		if i%2 == 0 {
			m.Type = "order-placed"
		}
		m.Headers = map[string]string{"subject": fmt.Sprint("Order ", i)}
		return m
	})
	w.start("outflow-starter")
	w.eventually(time.Minute, "every row delivered", func() bool { return w.count("state = 'delivered'") == n })

	client := sqs.New(sqs.Options{BaseEndpoint: aws.String("http://" + w.SQS.Address()), Region: "us-east-1",
		Credentials: credentials.NewStaticCredentialsProvider("fake", "fake", "")})
	receive := func(queue string) (found []uuid.UUID) {
		for {
			out, err := client.ReceiveMessage(t.Context(), &sqs.ReceiveMessageInput{
				QueueUrl:            aws.String("http://" + w.SQS.Address() + "/000000000000/" + queue),
				MaxNumberOfMessages: 10, MessageAttributeNames: []string{"All"}})
			require.NoError(t, err)
			if len(out.Messages) == 0 {
				return found
			}
			for _, received := range out.Messages {
				m, err := awssqs.DecodeNotification(received)
				require.NoError(t, err)
				require.Contains(t, string(m.Payload), `"number"`)
				require.Contains(t, m.Headers["subject"], "Order ")
				found = append(found, m.ID)
			}
		}
	}
	require.ElementsMatch(t, ids, receive("raw"))
	require.ElementsMatch(t, ids, receive("wrapped"))
	require.Len(t, receive("placed"), n/2)
	require.Empty(t, topics.Discarded())
	require.Len(t, topics.Requests("GetCallerIdentity"), 1, "STS is asked once")
	require.Equal(t, n, w.count("attempts = 1 AND broker_message_id IS NOT NULL"))
}
