package awssqs_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/aws/aws-sdk-go-v2/service/sqs/types"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/publish"
	"github.com/outflowhq/outflow/publish/awssqs"
	"github.com/outflowhq/outflow/publish/publishtest"
	"github.com/outflowhq/outflow/publish/publishtest/fakesqs"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestConformance(t *testing.T) {
	for _, suffix := range []string{"", ".fifo"} {
		t.Run("queue"+suffix, func(t *testing.T) {
			t.Parallel()
			b := newBroker(t)
			gate := publishtest.NewGate(t, b.http.Listener.Addr().String())
			b.client = newClient(t, "http://"+gate.Address())
			publishtest.Run(t, &harness{broker: b, gate: gate, suffix: suffix})
		})
	}
}

// broker is a fake SQS behind a real HTTP server, with a real client.
type broker struct {
	*fakesqs.Server
	http   *httptest.Server
	client *sqs.Client
}

func newBroker(t *testing.T) *broker {
	// The URL names another host: requests go to the client's endpoint all the
	// same.
	b := &broker{Server: &fakesqs.Server{URLBase: "http://queue.invalid"}}
	b.http = httptest.NewServer(b)
	b.client = newClient(t, b.http.URL)
	t.Cleanup(b.http.Close)
	return b
}

// newClient returns a client that reads none of the machine's settings.
func newClient(t *testing.T, endpoint string, opts ...func(*sqs.Options)) *sqs.Client {
	transport := &http.Transport{MaxIdleConnsPerHost: 100}
	t.Cleanup(transport.CloseIdleConnections)
	o := sqs.Options{
		BaseEndpoint: aws.String(endpoint),
		Region:       "eu-west-1",
		Credentials:  credentials.NewStaticCredentialsProvider("AKIAFAKE", "fake", ""),
		HTTPClient:   &http.Client{Transport: transport},
	}
	return sqs.New(o, opts...)
}

// visibleAtOnce lets the messages of a lost answer be received again at once. A request that is
// answered while net/http still looks for the end of its body can lose the answer, and the SDK
// asks again: rare, and not where an answer takes a network's time.
var visibleAtOnce = map[string]string{"VisibilityTimeout": "0"}

// receive takes everything that is in the queue.
func (b *broker) receive(t *testing.T, name string) (found []outflow.Message) {
	t.Helper()
	url, err := b.client.GetQueueUrl(t.Context(), &sqs.GetQueueUrlInput{QueueName: &name})
	require.NoError(t, err)
	for {
		out, err := b.client.ReceiveMessage(t.Context(), &sqs.ReceiveMessageInput{
			QueueUrl: url.QueueUrl, MaxNumberOfMessages: 10,
			MessageAttributeNames:       []string{"All"},
			MessageSystemAttributeNames: []types.MessageSystemAttributeName{types.MessageSystemAttributeNameAll},
		})
		require.NoError(t, err)
		if len(out.Messages) == 0 {
			return found // the fake has a message as soon as it has answered
		}
		for _, received := range out.Messages {
			m, err := awssqs.Decode(received)
			require.NoError(t, err)
			found = append(found, m)
			_, err = b.client.DeleteMessage(t.Context(), &sqs.DeleteMessageInput{
				QueueUrl: url.QueueUrl, ReceiptHandle: received.ReceiptHandle,
			})
			require.NoError(t, err)
		}
	}
}

type harness struct {
	*broker
	gate   *publishtest.Gate
	suffix string
	queues atomic.Int64
}

var _ publishtest.Harness = (*harness)(nil)

func (h *harness) Publisher(*testing.T) publish.Publisher { return awssqs.New(h.client) }

func (h *harness) Destination(*testing.T) string {
	name := fmt.Sprintf("queue-%d%s", h.queues.Add(1), h.suffix)
	h.CreateQueue("", name, visibleAtOnce)
	return "sqs://" + name
}

func (h *harness) MissingDestination(*testing.T) string { return "sqs://missing" + h.suffix }

func (h *harness) Receive(t *testing.T, destination string, _ int) []outflow.Message {
	return h.receive(t, nameOf(destination))
}

func (h *harness) MaxBytes() int { return 1 << 20 }

func (h *harness) Skip(name string) (string, bool) {
	switch name {
	case publishtest.CaseClose:
		return "the publisher holds nothing that needs closing", true
	case publishtest.CaseOrder, publishtest.CaseBatchOrder:
		return "a standard queue keeps no order", h.suffix == ""
	}
	return "", false
}

func (h *harness) Break(t *testing.T, destination string, f publishtest.Fault) {
	fault := fakesqs.Fault{Action: "SendMessageBatch", Queue: nameOf(destination)}
	switch f {
	case publishtest.Unreachable:
		h.gate.Shut()
		return
	case publishtest.Throttled:
		fault.Error = &fakesqs.Error{Code: "RequestThrottled", Message: "Rate exceeded"}
	case publishtest.Denied:
		fault.Error = &fakesqs.Error{Status: 403, Code: "AccessDeniedException",
			Message: "not authorized to perform: sqs:sendmessage"}
	case publishtest.Broken:
		fault.Error = &fakesqs.Error{Status: 500, Code: "InternalFailure", Message: "We encountered an internal error."}
	case publishtest.AnswerLost:
		fault.CutAfter = true
	case publishtest.Slow:
		fault.Delay = publishtest.SlowBy
	default:
		t.Fatalf("no such fault: %s", f)
	}
	h.Server.Inject(fault)
}

func (h *harness) Restore(t *testing.T, destination string) {
	h.gate.Open(t)
	h.Server.Heal(nameOf(destination))
}

func nameOf(destination string) string { return strings.TrimPrefix(destination, "sqs://") }
