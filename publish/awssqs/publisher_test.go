package awssqs_test

import (
	"bytes"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/publish"
	"github.com/outflowhq/outflow/publish/awssqs"
	"github.com/outflowhq/outflow/publish/publishtest/fakesqs"
)

var (
	// untilFull is for whole tens: only a full batch is sent.
	untilFull = awssqs.WithLinger(time.Minute)
	// lingering is longer than a test's goroutines take to start.
	lingering = awssqs.WithLinger(500 * time.Millisecond)
)

func message(destination, payload string) outflow.Message {
	return outflow.Message{ID: uuid.Must(uuid.NewV7()), Destination: destination, Type: "test",
		Payload: []byte(payload)}
}

// publishAll publishes at once and returns the error of each.
func publishAll(t *testing.T, p publish.Publisher, messages ...outflow.Message) []error {
	t.Helper()
	errs := make([]error, len(messages))
	var wg sync.WaitGroup
	for i, m := range messages {
		wg.Go(func() { _, errs[i] = p.Publish(t.Context(), m) })
	}
	wg.Wait()
	return errs
}

func several(n int, destination string) (messages []outflow.Message) {
	for i := range n {
		messages = append(messages, message(destination, fmt.Sprintf("payload %d", i)))
	}
	return messages
}

// sizes returns how many entries each SendMessageBatch had.
func (b *broker) sizes() (sizes []int) {
	for _, r := range b.Requests("SendMessageBatch") {
		sizes = append(sizes, len(r.Entries))
	}
	return sizes
}

func noErrors(t *testing.T, errs []error) {
	t.Helper()
	for _, err := range errs {
		assert.NoError(t, err)
	}
}

func TestConcurrentPublishesShareRequests(t *testing.T) {
	t.Parallel()
	for n, want := range map[int][]int{1: {1}, 10: {10}, 25: {10, 10, 5}} {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			b := newBroker(t)
			b.CreateQueue("", "orders", nil)
			noErrors(t, publishAll(t, awssqs.New(b.client, lingering), several(n, "sqs://orders")...))
			assert.ElementsMatch(t, want, b.sizes())
			assert.Len(t, b.Messages("", "orders"), n)
			assert.Len(t, b.Requests("GetQueueUrl"), 1, "the lookup is shared and kept")
		})
	}
}

func TestBatchesStayBelowOneMebibyte(t *testing.T) {
	t.Parallel()
	b := newBroker(t)
	b.CreateQueue("", "orders", nil)
	var messages []outflow.Message
	for range 5 {
		messages = append(messages, message("sqs://orders", strings.Repeat("x", 400_000)))
	}
	noErrors(t, publishAll(t, awssqs.New(b.client, lingering), messages...))
	assert.ElementsMatch(t, []int{2, 2, 1}, b.sizes())
}

func TestLargestMessageIsSentAndOneByteMoreIsNot(t *testing.T) {
	b := newBroker(t)
	b.CreateQueue("", "orders", nil)
	p := awssqs.New(b.client)
	m := message("sqs://orders", "x")
	attributes := len("outflow-message-id") + len("String") + 36 +
		len("outflow-type") + len("String") + len("test") +
		len("content-type") + len("String") + len("application/json")
	m.Payload = bytes.Repeat([]byte("x"), 1_048_576-attributes)
	noErrors(t, publishAll(t, p, m))
	m.Payload = append(m.Payload, 'x')
	err := publishAll(t, p, m)[0]
	assert.True(t, outflow.IsPermanent(err), "%v", err)
	assert.ErrorContains(t, err, "1048577 bytes")
	assert.ErrorContains(t, err, "takes 1048576")
	assert.Len(t, b.sizes(), 1, "nothing was sent")
}

// A queue's own limit counts as it is when the message is sent: an operator may raise it and retry.
func TestQueuesOwnSizeLimit(t *testing.T) {
	t.Parallel()
	b := newBroker(t)
	b.CreateQueue("", "small", map[string]string{"MaximumMessageSize": "1024"})
	p := awssqs.New(b.client, lingering)
	large := message("sqs://small", strings.Repeat("x", 2000))
	errs := publishAll(t, p, large, message("sqs://small", "fits"))
	assert.True(t, outflow.IsPermanent(errs[0]), "%v", errs[0])
	assert.ErrorContains(t, errs[0], "InvalidParameterValue: the message has 2116 bytes "+
		"with its attributes and encoding, and the queue takes 1024"+
		" (raise the queue's MaximumMessageSize, at most 1048576, and retry the message; "+
		"or enqueue a reference to the content instead)")
	assert.NoError(t, errs[1], "others in its request are not to blame")

	b.DeleteQueue("", "small")
	b.CreateQueue("", "small", map[string]string{"MaximumMessageSize": "4096"})
	noErrors(t, publishAll(t, p, large))
}

// Where a whole request is refused for one message's size, each message is sent alone.
func TestARequestThatOneMessageMakesTooLarge(t *testing.T) {
	t.Parallel()
	b := newBroker(t)
	b.CreateQueue("", "orders", nil)
	b.Inject(fakesqs.Fault{Action: batch, Times: 1, Error: &fakesqs.Error{Status: 400, Code: "InvalidParameterValue",
		Message: "One or more parameters are invalid. Reason: Message must be shorter than 1024 bytes."}})
	noErrors(t, publishAll(t, awssqs.New(b.client, lingering), several(10, "sqs://orders")...))
	assert.Equal(t, []int{10, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1}, b.sizes())
}

func TestRegionAndAccountAreTheDestinations(t *testing.T) {
	b := newBroker(t)
	b.CreateQueue("123456789012", "orders", nil)
	b.CreateQueue("", "orders", nil)
	p := awssqs.New(b.client)
	noErrors(t, publishAll(t, p, message("arn:aws:sqs:us-west-2:123456789012:orders", "there")))
	noErrors(t, publishAll(t, p, message("sqs://orders", "here")))
	assert.Equal(t, "there", b.Messages("123456789012", "orders")[0].MessageBody)
	assert.Equal(t, "here", b.Messages("", "orders")[0].MessageBody)
	requests := b.Requests()
	require.Len(t, requests, 4)
	for i, r := range requests {
		region := "us-west-2"
		if i >= 2 {
			region = "eu-west-1"
		}
		assert.Equal(t, region, r.Region, r.Action)
		assert.Equal(t, strings.TrimPrefix(b.http.URL, "http://"), r.Host,
			"the client's endpoint, whatever host the URL names")
	}
}

func TestFIFOIDs(t *testing.T) {
	b := newBroker(t)
	b.CreateQueue("", "orders.fifo", nil)
	b.CreateQueue("", "orders", nil)
	p := awssqs.New(b.client)
	keyed, plain := message("sqs://orders.fifo", "a"), message("sqs://orders.fifo", "b")
	keyed.OrderingKey = "customer-7"
	noErrors(t, publishAll(t, p, keyed))
	noErrors(t, publishAll(t, p, plain))
	got := b.Messages("", "orders.fifo")
	require.Len(t, got, 2)
	assert.Equal(t, "customer-7", got[0].MessageGroupId)
	assert.Equal(t, keyed.ID.String(), got[0].MessageDeduplicationId)
	assert.Equal(t, plain.ID.String(), got[1].MessageGroupId)
	assert.Equal(t, plain.ID.String(), got[1].MessageDeduplicationId)
	received := b.receive(t, "orders.fifo")
	assert.Equal(t, "customer-7", received[0].OrderingKey)
	assert.Empty(t, received[1].OrderingKey)

	keyed.Destination = "sqs://orders"
	noErrors(t, publishAll(t, p, keyed))
	assert.Empty(t, b.Messages("", "orders")[0].MessageGroupId, "none on a standard queue")
	assert.Empty(t, b.Messages("", "orders")[0].MessageDeduplicationId)
}

func TestFIFODropsADuplicateForFiveMinutes(t *testing.T) {
	b := newBroker(t)
	now := time.Now()
	b.Now = func() time.Time { return now }
	b.CreateQueue("", "orders.fifo", nil)
	p := awssqs.New(b.client)
	m := message("sqs://orders.fifo", "a")
	first, err := p.Publish(t.Context(), m)
	require.NoError(t, err)
	now = now.Add(5*time.Minute - time.Second)
	again, err := p.Publish(t.Context(), m)
	require.NoError(t, err)
	assert.Equal(t, first, again)
	assert.Len(t, b.Messages("", "orders.fifo"), 1)
	now = now.Add(time.Second)
	noErrors(t, publishAll(t, p, m))
	assert.Len(t, b.Messages("", "orders.fifo"), 2)
}

func TestOtherDestinationsAndEmptyMessagesArePermanent(t *testing.T) {
	b := newBroker(t)
	p := awssqs.New(b.client)
	noID := message("sqs://orders", "a")
	noID.ID = uuid.Nil
	badHeader := message("sqs://orders", "a")
	badHeader.Headers = map[string]string{"name": "\xff"}
	badType := message("sqs://orders", "a")
	badType.Type = "a\x00b"
	for text, m := range map[string]outflow.Message{
		"only sqs://":               message("sns://news", "a"),
		"no scheme":                 message("orders", "a"),
		"payload is empty":          message("sqs://orders", ""),
		"no ID":                     noID,
		`header "name" is not`:      badHeader,
		"outflow-type has characte": badType,
	} {
		err := publishAll(t, p, m)[0]
		assert.True(t, outflow.IsPermanent(err), "%v", err)
		assert.ErrorContains(t, err, text)
	}
	assert.Empty(t, b.Requests())
}
