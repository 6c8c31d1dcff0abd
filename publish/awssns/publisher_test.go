package awssns_test

import (
	"encoding/json"
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
	"github.com/outflowhq/outflow/publish/awssns"
	"github.com/outflowhq/outflow/publish/publishtest/fakesns"
)

const batch = "PublishBatch"

var (
	// untilFull is for whole tens: only a full batch is sent.
	untilFull = awssns.WithLinger(time.Minute)
	// lingering is longer than a test's goroutines take to start.
	lingering = awssns.WithLinger(500 * time.Millisecond)
)

func message(destination, payload string) outflow.Message {
	return outflow.Message{ID: uuid.Must(uuid.NewV7()), Destination: destination, Type: "test",
		Payload: []byte(payload)}
}

func several(n int, destination string) (messages []outflow.Message) {
	for i := range n {
		messages = append(messages, message(destination, fmt.Sprintf("payload %d", i)))
	}
	return messages
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

func noErrors(t *testing.T, errs []error) {
	t.Helper()
	for _, err := range errs {
		assert.NoError(t, err)
	}
}

// sizes returns how many entries each PublishBatch had.
func (b *broker) sizes() (sizes []int) {
	for _, r := range b.Requests(batch) {
		sizes = append(sizes, len(r.Entries))
	}
	return sizes
}

// The wire contract, spelled out: consumers and filter policies rely on it.
func TestContract(t *testing.T) {
	b := newBroker(t)
	b.CreateTopic(arnOf("news"), nil)
	m := message("sns://news", `{"id":7}`)
	m.Headers = map[string]string{"tenant": "acme", "subject": "Welcome", "empty": ""}
	noErrors(t, publishAll(t, b.publisher(), m))
	got := b.Published(arnOf("news"))
	require.Len(t, got, 1)
	texts := map[string]string{}
	for name, a := range got[0].MessageAttributes {
		assert.Equal(t, "String", a.DataType, name)
		texts[name] = a.StringValue
	}
	assert.Equal(t, map[string]string{
		"outflow-message-id": m.ID.String(), "outflow-type": "test", "content-type": "application/json",
		"tenant": "acme", "subject": "Welcome", "outflow-headers": `{"empty":""}`,
	}, texts)
	assert.Equal(t, `{"id":7}`, got[0].Message)
	assert.Equal(t, "Welcome", got[0].Subject)
	assert.Empty(t, got[0].MessageGroupId, "none on a standard topic")
	assert.Empty(t, got[0].MessageDeduplicationId)
}

// A subject that SNS would refuse stays a header alone.
func TestSubjectThatSNSWouldRefuse(t *testing.T) {
	b := newBroker(t)
	b.topic(t, "news", false, nil)
	for _, subject := range []string{"", "two\nlines", " led by a space", strings.Repeat("s", 100), "\x01"} {
		m := message("sns://news", "x")
		m.Headers = map[string]string{awssns.HeaderSubject: subject}
		noErrors(t, publishAll(t, b.publisher(), m))
		got := b.receive(t, "news")
		require.Len(t, got, 1, "%q", subject)
		assert.Equal(t, subject, got[0].Headers[awssns.HeaderSubject])
	}
	for _, e := range b.Published(arnOf("news")) {
		assert.Empty(t, e.Subject)
	}
}

func TestSubjectIsInTheNotification(t *testing.T) {
	b := newBroker(t)
	b.topic(t, "news", false, nil)
	m := message("sns://news", "x")
	m.Headers = map[string]string{awssns.HeaderSubject: "Grüße, 🦉"}
	noErrors(t, publishAll(t, b.publisher(), m))
	var n struct{ Type, Subject string }
	require.NoError(t, json.Unmarshal([]byte(b.queues.Messages("", "news")[0].MessageBody), &n))
	assert.Equal(t, "Grüße, 🦉", n.Subject)
}

// Filter policies see the attributes of the contract.
func TestFilterPolicies(t *testing.T) {
	b := newBroker(t)
	b.CreateTopic(arnOf("orders"), nil)
	for name, policy := range map[string]string{
		"placed": `{"outflow-type":["order-placed"]}`, "acme": `{"tenant":["acme","umbrella"]}`, "all": `{}`,
	} {
		b.queues.CreateQueue("", name, map[string]string{"VisibilityTimeout": "0"})
		require.NoError(t, b.Subscribe(arnOf("orders"), queueARN(name),
			map[string]string{"RawMessageDelivery": "true", "FilterPolicy": policy}))
	}
	placed, shipped := message("sns://orders", "a"), message("sns://orders", "b")
	placed.Type, shipped.Type = "order-placed", "order-shipped"
	shipped.Headers = map[string]string{"tenant": "acme"}
	noErrors(t, publishAll(t, b.publisher(), placed, shipped))
	assert.Equal(t, placed.ID, b.receive(t, "placed")[0].ID)
	assert.Equal(t, shipped.ID, b.receive(t, "acme")[0].ID)
	assert.Len(t, b.receive(t, "all"), 2)
}

// Raw delivery takes ten attributes, and discards a message with more.
func TestManyHeadersReachARawSubscription(t *testing.T) {
	b := newBroker(t)
	b.topic(t, "news", true, nil)
	m := message("sns://news", "\x00")
	m.Headers = map[string]string{}
	for i := range 64 {
		m.Headers[fmt.Sprintf("h%02d", i)] = "v"
	}
	noErrors(t, publishAll(t, b.publisher(), m))
	assert.Equal(t, m.Headers, b.receive(t, "news")[0].Headers, "none is discarded")
	assert.Len(t, b.Published(arnOf("news"))[0].MessageAttributes, 10)
}

func TestConcurrentPublishesShareRequests(t *testing.T) {
	t.Parallel()
	for n, want := range map[int][]int{1: {1}, 10: {10}, 25: {10, 10, 5}} {
		b := newBroker(t)
		b.CreateTopic(arnOf("news"), nil)
		noErrors(t, publishAll(t, b.publisher(lingering), several(n, "sns://news")...))
		assert.ElementsMatch(t, want, b.sizes())
		assert.Len(t, b.Published(arnOf("news")), n)
		assert.Len(t, b.Requests("GetCallerIdentity"), 1, "the look-up is shared and kept")
	}
}

// A request has 256 KiB, whatever the topic takes. A larger message has one of its own.
func TestRequestsStayBelow256KiB(t *testing.T) {
	t.Parallel()
	b := newBroker(t)
	b.CreateTopic(arnOf("news"), map[string]string{"MaximumMessageSize": "1048576"})
	var messages []outflow.Message
	for range 5 {
		messages = append(messages, message("sns://news", strings.Repeat("x", 100_000)))
	}
	noErrors(t, publishAll(t, b.publisher(lingering), messages...))
	assert.ElementsMatch(t, []int{2, 2, 1}, b.sizes())
	noErrors(t, publishAll(t, b.publisher(), message("sns://news", strings.Repeat("x", 1_000_000))))
}

func TestSizeLimits(t *testing.T) {
	b := newBroker(t)
	b.CreateTopic(arnOf("news"), nil)
	p := b.publisher()
	attributes := len("outflow-message-id") + len("String") + 36 + len("outflow-type") + len("String") + len("test") +
		len("content-type") + len("String") + len("application/json")
	m := message("sns://news", strings.Repeat("x", 262_144-attributes))
	noErrors(t, publishAll(t, p, m))

	m.Payload = append(m.Payload, 'x')
	err := publishAll(t, p, m)[0]
	assert.True(t, outflow.IsPermanent(err), "%v", err)
	assert.ErrorContains(t, err, "sending to sns://news: BatchRequestTooLong: the message has 262145 bytes with its "+
		"attributes and encoding, and the topic takes fewer (raise the topic's MaximumMessageSize, 262144 unless it is set "+
		"and at most 1048576, and retry the message; or enqueue a reference to the content instead)")

	b.DeleteTopic(arnOf("news"))
	b.CreateTopic(arnOf("news"), map[string]string{"MaximumMessageSize": "1048576"})
	noErrors(t, publishAll(t, p, m))

	m.Payload = []byte(strings.Repeat("x", 1_048_577-attributes))
	sent := len(b.sizes())
	err = publishAll(t, p, m)[0]
	assert.True(t, outflow.IsPermanent(err), "%v", err)
	assert.ErrorContains(t, err, "the message has 1048577 bytes with its attributes and encoding, and SNS takes 1048576 "+
		"(enqueue a reference to the content instead)")
	assert.Len(t, b.sizes(), sent, "nothing was sent")
}

// A topic with a limit of its own refuses a request for its size: each message is sent alone.
func TestATopicsOwnSizeLimit(t *testing.T) {
	t.Parallel()
	b := newBroker(t)
	b.CreateTopic(arnOf("small"), map[string]string{"MaximumMessageSize": "1024"})
	large, fits := message("sns://small", strings.Repeat("x", 2000)), message("sns://small", "fits")
	errs := publishAll(t, b.publisher(lingering), large, fits)
	assert.True(t, outflow.IsPermanent(errs[0]), "%v", errs[0])
	assert.ErrorContains(t, errs[0], "raise the topic's MaximumMessageSize")
	assert.NoError(t, errs[1])
	assert.Equal(t, []int{2, 1, 1}, b.sizes())
}

func TestFIFOIDs(t *testing.T) {
	b := newBroker(t)
	b.topic(t, "orders.fifo", true, nil)
	keyed, plain := message("sns://orders.fifo", "a"), message("sns://orders.fifo", "b")
	keyed.OrderingKey = "customer-7"
	p := b.publisher()
	noErrors(t, publishAll(t, p, keyed))
	noErrors(t, publishAll(t, p, plain))
	got := b.Published(arnOf("orders.fifo"))
	require.Len(t, got, 2)
	assert.Equal(t, "customer-7", got[0].MessageGroupId)
	assert.Equal(t, keyed.ID.String(), got[0].MessageDeduplicationId)
	assert.Equal(t, plain.ID.String(), got[1].MessageGroupId)
	assert.Equal(t, plain.ID.String(), got[1].MessageDeduplicationId)
	received := b.receive(t, "orders.fifo")
	assert.Equal(t, "customer-7", received[0].OrderingKey)
	assert.Empty(t, received[1].OrderingKey)
}

func TestFIFODropsADuplicateForFiveMinutes(t *testing.T) {
	b := newBroker(t)
	now := time.Now()
	b.Now = func() time.Time { return now }
	b.CreateTopic(arnOf("orders.fifo"), nil)
	p := b.publisher()
	m := message("sns://orders.fifo", "a")
	first, err := p.Publish(t.Context(), m)
	require.NoError(t, err)
	now = now.Add(5*time.Minute - time.Second)
	again, err := p.Publish(t.Context(), m)
	require.NoError(t, err)
	assert.Equal(t, first, again)
	assert.Len(t, b.Published(arnOf("orders.fifo")), 1)
	now = now.Add(time.Second)
	noErrors(t, publishAll(t, p, m))
	assert.Len(t, b.Published(arnOf("orders.fifo")), 2)
}

func TestRegionAndAccountAreTheDestinations(t *testing.T) {
	b := newBroker(t)
	there := "arn:aws-us-gov:sns:us-gov-west-1:123456789012:news"
	b.CreateTopic(there, nil)
	noErrors(t, publishAll(t, b.publisher(), message(there, "there")))
	assert.Equal(t, "there", b.Published(there)[0].Message)
	requests := b.Requests()
	require.Len(t, requests, 1, "nothing is looked up")
	assert.Equal(t, "us-gov-west-1", requests[0].Region)
}

func TestOtherDestinationsAndEmptyMessagesArePermanent(t *testing.T) {
	b := newBroker(t)
	p := b.publisher()
	noID := message("sns://news", "a")
	noID.ID = uuid.Nil
	for text, m := range map[string]outflow.Message{
		"only sns://":      message("sqs://orders", "a"),
		"no scheme":        message("orders", "a"),
		"SNS wants at lea": message("sns://news", ""),
		"no ID":            noID,
	} {
		err := publishAll(t, p, m)[0]
		assert.True(t, outflow.IsPermanent(err), "%v", err)
		assert.ErrorContains(t, err, text)
	}
	assert.Empty(t, b.Requests())
}

func TestCheckLooksUpAndSendsNothing(t *testing.T) {
	b := newBroker(t)
	b.CreateTopic(arnOf("news"), nil)
	p := b.publisher()
	require.NoError(t, p.Check(t.Context(), "sns://news"))

	err := p.Check(t.Context(), "sns://gone")
	assert.ErrorIs(t, err, outflow.ErrNoDestination)
	assert.True(t, outflow.IsPermanent(err))
	require.ErrorContains(t, err, "looking up sns://gone: NotFound: Topic does not exist (create the topic, or check")
	b.CreateTopic(arnOf("gone"), nil)
	require.NoError(t, p.Check(t.Context(), "sns://gone"), "it asks each time")

	b.Inject(fakesns.Fault{Action: "GetTopicAttributes",
		Error: &fakesns.Error{Status: 403, Code: "AuthorizationError", Message: "no"}})
	err = p.Check(t.Context(), "sns://news")
	assert.Equal(t, outflow.ClassUnavailable, outflow.ClassOf(err))
	require.ErrorContains(t, err, "allow sns:GetTopicAttributes, which only a look-up needs, in the sender's policy")
	for _, other := range []string{"nonsense", "https://shop.example/in"} {
		assert.True(t, outflow.IsPermanent(p.Check(t.Context(), other)), other)
	}
	assert.Empty(t, b.Requests(batch))
}
