package queues_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	neturl "net/url"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/sns"
	snstypes "github.com/aws/aws-sdk-go-v2/service/sns/types"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/aws/aws-sdk-go-v2/service/sqs/types"
	"github.com/aws/aws-sdk-go-v2/service/sts"
	"github.com/google/uuid"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/publish/awssns"
	"github.com/outflowhq/outflow/publish/awssqs"

	"github.com/outflowhq/outflow/devstack/queues"
)

// startTopics returns clients of one endpoint for all three services.
func startTopics(t *testing.T) (context.Context, *sqs.Client, *sns.Client, *sts.Client) {
	t.Helper()
	ctx, c, s := startServer(t)
	o := c.Options()
	return ctx, c, sns.New(sns.Options{BaseEndpoint: aws.String(s.URL()), Region: o.Region,
			Credentials: o.Credentials}),
		sts.New(sts.Options{BaseEndpoint: aws.String(s.URL()), Region: o.Region, Credentials: o.Credentials})
}

// subscribe makes a topic with a queue of the same name that is subscribed to it.
func subscribe(ctx context.Context, t *testing.T, c *sqs.Client, topics *sns.Client, name string,
	raw bool) (url string) {
	t.Helper()
	var attributes map[string]string
	if strings.HasSuffix(name, ".fifo") {
		attributes = map[string]string{"FifoTopic": "true"}
	}
	topic, err := topics.CreateTopic(ctx, &sns.CreateTopicInput{Name: &name, Attributes: attributes})
	if err != nil {
		t.Fatal(err)
	}
	url = create(ctx, t, c, name, nil)
	_, err = topics.Subscribe(ctx, &sns.SubscribeInput{TopicArn: topic.TopicArn, Protocol: aws.String("sqs"),
		Endpoint:   aws.String("arn:aws:sqs:" + queues.Region + ":" + queues.Account + ":" + name),
		Attributes: map[string]string{"RawMessageDelivery": fmt.Sprint(raw)}})
	if err != nil {
		t.Fatal(err)
	}
	return url
}

// What Outflow publishes to a topic is in the queue that is subscribed to it, with raw message
// delivery and without.
func TestTopicsDeliverIntoQueues(t *testing.T) {
	ctx, c, topics, identity := startTopics(t)
	p := awssns.New(topics, awssns.WithIdentity(identity))
	for name, raw := range map[string]bool{"raw": true, "wrapped": false, "raw.fifo": true, "wrapped.fifo": false} {
		url := subscribe(ctx, t, c, topics, name, raw)
		var messages []outflow.Message
		for i := range 12 {
			messages = append(messages, outflow.Message{ID: uuid.New(), Type: "order-placed", ContentType: "text/plain",
				Payload: fmt.Appendf(nil, "%d\x00 <ä>", i), Headers: map[string]string{"subject": "Welcome",
					"empty": ""}})
		}
		for _, r := range p.PublishBatch(ctx, "sns://"+name, messages) {
			if r.Err != nil || r.BrokerMessageID == "" {
				t.Fatalf("%s: %+v", name, r)
			}
		}
		got := map[uuid.UUID]string{}
		for len(got) < len(messages) {
			out, err := c.ReceiveMessage(ctx, &sqs.ReceiveMessageInput{QueueUrl: &url, MaxNumberOfMessages: 10,
				WaitTimeSeconds: 5, MessageAttributeNames: []string{"All"},
				MessageSystemAttributeNames: []types.MessageSystemAttributeName{"All"}})
			if err != nil || len(out.Messages) == 0 {
				t.Fatalf("%s: received %d of %d messages (%v)", name, len(got), len(messages), err)
			}
			for _, received := range out.Messages {
				m, err := awssqs.DecodeNotification(received)
				if err != nil {
					t.Fatal(err)
				}
				if m.Headers["subject"] != "Welcome" || m.ContentType != "text/plain" {
					t.Errorf("%s: received %+v", name, m)
				}
				got[m.ID] = string(m.Payload)
				if _, err := c.DeleteMessage(ctx,
					&sqs.DeleteMessageInput{QueueUrl: &url, ReceiptHandle: received.ReceiptHandle}); err != nil {
					t.Fatal(err)
				}
			}
		}
		for _, m := range messages {
			if got[m.ID] != string(m.Payload) {
				t.Errorf("%s: %q arrived as %q", name, m.Payload, got[m.ID])
			}
		}
	}
}

func TestMissingTopicAndTopicsByHand(t *testing.T) {
	ctx, c, topics, identity := startTopics(t)
	p := awssns.New(topics, awssns.WithIdentity(identity))
	if err := p.Check(ctx, "sns://news"); !errors.Is(err, outflow.ErrNoDestination) {
		t.Errorf("a topic that is not there: %v", err)
	}
	// As a person makes it, with curl.
	answer, err := http.PostForm(*c.Options().BaseEndpoint, neturl.Values{"Action": {"CreateTopic"}, "Name": {"news"}})
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err != nil || !strings.Contains(string(body), "arn:aws:sns:us-east-1:000000000000:news") {
		t.Errorf("made by a form: %s (%v)", body, err)
	}
	if err := p.Check(ctx, "sns://news"); err != nil {
		t.Error(err)
	}
	_, err = topics.GetTopicAttributes(ctx,
		&sns.GetTopicAttributesInput{TopicArn: aws.String("arn:aws:sns:us-east-1:000000000000:gone")})
	if !errors.As(err, new(*snstypes.NotFoundException)) {
		t.Errorf("another topic: %v", err)
	}
}
