package awssns_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/publish"
	"github.com/outflowhq/outflow/publish/publishtest/fakesns"
)

func errorsOf(results []publish.Result) (errs []error) {
	for _, r := range results {
		errs = append(errs, r.Err)
	}
	return errs
}

func TestBatchGoesOutInOrderAndInFullRequests(t *testing.T) {
	for _, topic := range []string{"news", "news.fifo"} {
		b := newBroker(t)
		b.CreateTopic(arnOf(topic), nil)
		messages := several(25, "") // a message's own destination is not read
		results := b.publisher().PublishBatch(t.Context(), "sns://"+topic, messages)
		require.Len(t, results, 25)
		noErrors(t, errorsOf(results))
		assert.Equal(t, []int{10, 10, 5}, b.sizes())
		for i, e := range b.Published(arnOf(topic)) {
			assert.Equal(t, string(messages[i].Payload), e.Message)
			assert.NotEmpty(t, results[i].BrokerMessageID)
		}
	}
}

// A request has 256 KiB; a larger message has one of its own, and ends as its topic says.
func TestBatchSplitsByBytes(t *testing.T) {
	b := newBroker(t)
	b.CreateTopic(arnOf("news"), nil)
	var messages []outflow.Message
	for _, size := range []int{100_000, 100_000, 100_000, 300_000, 10, 10} {
		messages = append(messages, message("", strings.Repeat("x", size)))
	}
	results := b.publisher().PublishBatch(t.Context(), "sns://news", messages)
	assert.Equal(t, []int{2, 1, 1, 2}, b.sizes())
	assert.True(t, outflow.IsPermanent(results[3].Err))
	assert.ErrorContains(t, results[3].Err, "raise the topic's MaximumMessageSize")
	noErrors(t, append(errorsOf(results[:3]), errorsOf(results[4:])...))
}

func TestBatchHasAResultForEachMessage(t *testing.T) {
	b := newBroker(t)
	b.CreateTopic(arnOf("orders.fifo"), nil)
	b.Inject(fakesns.Fault{Action: batch, EntryError: func(e fakesns.Entry) *fakesns.Error {
		if guilty(e) {
			return &fakesns.Error{Code: "InternalError"}
		}
		return nil
	}})
	messages := several(6, "")
	messages[1].Payload, messages[3].Payload = []byte("guilty"), nil
	for _, i := range []int{1, 2, 5} {
		messages[i].OrderingKey = "customer-7"
	}
	results := b.publisher().PublishBatch(t.Context(), "sns://orders.fifo", messages)
	for i, want := range []outflow.Class{"", outflow.ClassRetryable, outflow.ClassRetryable, outflow.ClassPermanent, "",
		outflow.ClassRetryable} {
		if want == "" {
			assert.NoError(t, results[i].Err, "%d", i)
		} else {
			require.Error(t, results[i].Err, "%d", i)
			assert.Equal(t, want, outflow.ClassOf(results[i].Err), "%d: %v", i, results[i].Err)
		}
	}
	assert.ErrorIs(t, results[2].Err, outflow.ErrNotAttempted, "it waits for the one before it of its key")
	assert.ErrorIs(t, results[5].Err, outflow.ErrNotAttempted)
}

func TestBatchToNoTopic(t *testing.T) {
	b := newBroker(t)
	for _, err := range errorsOf(b.publisher().PublishBatch(t.Context(), "sns://missing", several(12, ""))) {
		assert.ErrorIs(t, err, outflow.ErrNoDestination)
		assert.True(t, outflow.IsPermanent(err), "%v", err)
	}
	for _, err := range errorsOf(b.publisher().PublishBatch(t.Context(), "sqs://orders", several(2, ""))) {
		assert.True(t, outflow.IsPermanent(err), "%v", err)
		assert.ErrorContains(t, err, "only sns:// is published here")
	}
}
