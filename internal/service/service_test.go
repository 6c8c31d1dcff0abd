package service

import (
	"net/http"
	"net/http/httptest"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/google/uuid"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/internal/brokers"
	"github.com/outflowhq/outflow/internal/config"
	"github.com/outflowhq/outflow/internal/timing"
	"github.com/outflowhq/outflow/publish"
	"github.com/outflowhq/outflow/publish/awssqs"
	"github.com/outflowhq/outflow/publish/publishtest/fakesqs"
	"github.com/outflowhq/outflow/publish/webhook"
)

// A worker that stopped sooner would leave publishes without their answers, and
// another worker would publish again.
func TestWorkerWaitsForWhatItIsDoing(t *testing.T) {
	for name, c := range map[string]struct {
		sqs, webhook, longest time.Duration
	}{
		"by default":    {0, 0, max(awssqs.DefaultTimeout, webhook.DefaultTimeout)},
		"a slow SQS":    {30 * time.Second, 0, 30 * time.Second},
		"slow webhooks": {0, 25 * time.Second, 25 * time.Second},
		"all are quick": {time.Second, 2 * time.Second, 2 * time.Second},
	} {
		stop := workerOptions(config.Config{Brokers: []brokers.Broker{brokers.SQS(aws.Config{}, c.sqs),
			brokers.Webhooks(webhook.Options{Timeout: c.webhook})}}, nil).WorkerStopTimeout
		assert.Greater(t, stop, c.longest+timing.LocalMark, name)
		assert.Greater(t, stop, timing.LocalPublish+timing.LocalMark, "%s: so does a fast path", name)
	}
}

// inProcess answers requests by calling a server, and notes how long each may take.
type inProcess struct {
	http.Handler
	times []time.Duration
}

func (c *inProcess) Do(req *http.Request) (*http.Response, error) {
	deadline, _ := req.Context().Deadline()
	c.times = append(c.times, time.Until(deadline))
	answer := httptest.NewRecorder()
	c.ServeHTTP(answer, req)
	return answer.Result(), nil
}

// A slow queue has OUTFLOW_SQS_TIMEOUT for each request.
func TestSQSHasItsTimeout(t *testing.T) {
	queues := &fakesqs.Server{}
	queues.CreateQueue("", "orders", nil)
	synctest.Test(t, func(t *testing.T) {
		sqs := &inProcess{Handler: queues}
		b := brokers.SQS(aws.Config{
			Region: "eu-west-1", HTTPClient: sqs, Credentials: credentials.NewStaticCredentialsProvider("fake", "fake",
				""),
		}, 23*time.Second)
		_, err := publish.NewRouter(b.Publisher).Publish(t.Context(),
			outflow.Message{ID: uuid.New(), Destination: "sqs://orders", Type: "a", Payload: []byte("{}")})
		require.NoError(t, err)
		assert.Equal(t, []time.Duration{23 * time.Second, 23 * time.Second}, sqs.times, "the look-up and the message")
	})
}
