package awssns_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/sns"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	sqstypes "github.com/aws/aws-sdk-go-v2/service/sqs/types"
	"github.com/aws/aws-sdk-go-v2/service/sts"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/publish"
	"github.com/outflowhq/outflow/publish/awssns"
	"github.com/outflowhq/outflow/publish/awssqs"
	"github.com/outflowhq/outflow/publish/publishtest"
	"github.com/outflowhq/outflow/publish/publishtest/fakesns"
	"github.com/outflowhq/outflow/publish/publishtest/fakesqs"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// The suite reads each topic through a queue that is subscribed to it, with raw message delivery
// and in SNS's JSON.
func TestConformance(t *testing.T) {
	for _, suffix := range []string{"", ".fifo"} {
		for _, raw := range []bool{true, false} {
			name := "topic" + suffix
			if !raw {
				name += "-json"
			}
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				b := newBroker(t)
				gate := publishtest.NewGate(t, b.http.Listener.Addr().String())
				b.client = newClient(t, "http://"+gate.Address())
				publishtest.Run(t, &harness{broker: b, gate: gate, suffix: suffix, raw: raw})
			})
		}
	}
}

const (
	region  = "eu-west-1"
	account = fakesqs.DefaultAccount
)

func arnOf(name string) string { return "arn:aws:sns:" + region + ":" + account + ":" + name }

func queueARN(name string) string { return "arn:aws:sqs:" + region + ":" + account + ":" + name }

// broker is a fake SNS behind a real HTTP server, with real clients, and the queues behind it.
type broker struct {
	*fakesns.Server
	http   *httptest.Server
	client *sns.Client
	sts    *sts.Client
	queues *fakesqs.Server
	sqs    *sqs.Client
}

func newBroker(t *testing.T) *broker {
	queues := &fakesqs.Server{}
	b := &broker{Server: &fakesns.Server{Queues: queues}, queues: queues}
	b.http = httptest.NewServer(b)
	t.Cleanup(b.http.Close)
	ofQueues := httptest.NewServer(queues)
	t.Cleanup(ofQueues.Close)
	b.client = newClient(t, b.http.URL)
	config := b.client.Options()
	b.sts = sts.New(sts.Options{BaseEndpoint: config.BaseEndpoint, Credentials: config.Credentials,
		HTTPClient: config.HTTPClient})
	b.sqs = sqs.New(sqs.Options{BaseEndpoint: aws.String(ofQueues.URL), Region: region,
		Credentials: config.Credentials, HTTPClient: config.HTTPClient})
	return b
}

// newClient returns a client that reads none of the machine's settings.
func newClient(t *testing.T, endpoint string, opts ...func(*sns.Options)) *sns.Client {
	transport := &http.Transport{MaxIdleConnsPerHost: 100}
	t.Cleanup(transport.CloseIdleConnections)
	return sns.New(sns.Options{
		BaseEndpoint: aws.String(endpoint), Region: region,
		Credentials: credentials.NewStaticCredentialsProvider("AKIAFAKE", "fake", ""),
		HTTPClient:  &http.Client{Transport: transport},
	}, opts...)
}

// publisher asks STS for the account.
func (b *broker) publisher(opts ...awssns.Option) *awssns.Publisher {
	return awssns.New(b.client, append([]awssns.Option{awssns.WithIdentity(b.sts)}, opts...)...)
}

// topic makes a topic with a queue of the same name that is subscribed to it.
func (b *broker) topic(t *testing.T, name string, raw bool, attributes map[string]string) {
	t.Helper()
	b.CreateTopic(arnOf(name), attributes)
	// Visible at once: the messages of an answer that net/http lost can be received again.
	b.queues.CreateQueue("", name, map[string]string{"VisibilityTimeout": "0"})
	require.NoError(t, b.Subscribe(arnOf(name), queueARN(name),
		map[string]string{"RawMessageDelivery": fmt.Sprint(raw)}))
}

// receive takes everything that is in the queue behind a topic.
func (b *broker) receive(t *testing.T, name string) (found []outflow.Message) {
	t.Helper()
	require.Empty(t, b.Discarded())
	url, err := b.sqs.GetQueueUrl(t.Context(), &sqs.GetQueueUrlInput{QueueName: &name})
	require.NoError(t, err)
	for {
		out, err := b.sqs.ReceiveMessage(t.Context(), &sqs.ReceiveMessageInput{
			QueueUrl: url.QueueUrl, MaxNumberOfMessages: 10, MessageAttributeNames: []string{"All"},
			MessageSystemAttributeNames: []sqstypes.MessageSystemAttributeName{sqstypes.MessageSystemAttributeNameAll},
		})
		require.NoError(t, err)
		if len(out.Messages) == 0 {
			return found
		}
		for _, received := range out.Messages {
			m, err := awssqs.DecodeNotification(received)
			require.NoError(t, err)
			found = append(found, m)
			_, err = b.sqs.DeleteMessage(t.Context(),
				&sqs.DeleteMessageInput{QueueUrl: url.QueueUrl, ReceiptHandle: received.ReceiptHandle})
			require.NoError(t, err)
		}
	}
}

type harness struct {
	*broker
	gate   *publishtest.Gate
	suffix string
	raw    bool
	topics atomic.Int64
}

var _ publishtest.Harness = (*harness)(nil)

func (h *harness) Publisher(*testing.T) publish.Publisher { return h.publisher() }

func (h *harness) Destination(t *testing.T) string {
	name := fmt.Sprintf("topic-%d%s", h.topics.Add(1), h.suffix)
	h.topic(t, name, h.raw, map[string]string{"MaximumMessageSize": "1048576"})
	return "sns://" + name
}

func (h *harness) MissingDestination(*testing.T) string { return "sns://missing" + h.suffix }

func (h *harness) Receive(t *testing.T, destination string, _ int) []outflow.Message {
	return h.receive(t, nameOf(destination))
}

func (h *harness) MaxBytes() int { return 1 << 20 }

func (h *harness) Skip(name string) (string, bool) {
	switch name {
	case publishtest.CaseClose:
		return "the publisher holds nothing that needs closing", true
	case publishtest.CaseOrder, publishtest.CaseBatchOrder:
		return "a standard topic keeps no order", h.suffix == ""
	}
	return "", false
}

func (h *harness) Break(t *testing.T, destination string, f publishtest.Fault) {
	fault := fakesns.Fault{Action: batch, Topic: arnOf(nameOf(destination))}
	switch f {
	case publishtest.Unreachable:
		h.gate.Shut()
		return
	case publishtest.Throttled:
		fault.Error = &fakesns.Error{Code: "Throttling", Message: "Rate exceeded"}
	case publishtest.Denied:
		fault.Error = &fakesns.Error{Status: 403, Code: "AuthorizationError",
			Message: "not authorized to perform: SNS:Publish"}
	case publishtest.Broken:
		fault.Error = &fakesns.Error{Status: 500, Code: "InternalError", Message: "Internal error"}
	case publishtest.AnswerLost:
		fault.CutAfter = true
	case publishtest.Slow:
		fault.Delay = publishtest.SlowBy
	default:
		t.Fatalf("no such fault: %s", f)
	}
	h.Inject(fault)
}

func (h *harness) Restore(t *testing.T, destination string) {
	h.gate.Open(t)
	h.Heal(arnOf(nameOf(destination)))
}

func nameOf(destination string) string { return strings.TrimPrefix(destination, "sns://") }
