package awssqs_test

import (
	"context"
	"fmt"
	"strings"
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

// bodies are those of a queue, in the order of acceptance.
func (b *broker) bodies(name string) (bodies []string) {
	for _, e := range b.Messages("", name) {
		bodies = append(bodies, e.MessageBody)
	}
	return bodies
}

func payloads(messages []outflow.Message) (texts []string) {
	for _, m := range messages {
		texts = append(texts, string(m.Payload))
	}
	return texts
}

func errorsOf(results []publish.Result) (errs []error) {
	for _, r := range results {
		errs = append(errs, r.Err)
	}
	return errs
}

func TestBatchGoesOutInOrderAndInFullRequests(t *testing.T) {
	for _, queue := range []string{"orders", "orders.fifo"} {
		b := newBroker(t)
		b.CreateQueue("", queue, nil)
		messages := several(25, "") // a message's own destination is not read
		results := awssqs.New(b.client).PublishBatch(t.Context(), "sqs://"+queue, messages)
		require.Len(t, results, 25)
		noErrors(t, errorsOf(results))
		assert.Equal(t, []int{10, 10, 5}, b.sizes())
		assert.Equal(t, payloads(messages), b.bodies(queue))
		ids := map[string]bool{}
		for _, r := range results {
			ids[r.BrokerMessageID] = true
		}
		assert.Len(t, ids, 25, "each has an ID of its own")
	}
}

func TestBatchOfNothing(t *testing.T) {
	b := newBroker(t)
	assert.Empty(t, awssqs.New(b.client).PublishBatch(t.Context(), "sqs://orders", nil))
	assert.Empty(t, b.Requests())
}

func TestBatchSplitsByBytes(t *testing.T) {
	b := newBroker(t)
	b.CreateQueue("", "orders", nil)
	var messages []outflow.Message
	for _, size := range []int{400_000, 400_000, 400_000, 1_000_000, 10, 10} {
		messages = append(messages, message("", strings.Repeat("x", size)))
	}
	noErrors(t, errorsOf(awssqs.New(b.client).PublishBatch(t.Context(), "sqs://orders", messages)))
	assert.Equal(t, []int{2, 1, 3}, b.sizes())
}

// One message that can't be sent never fails another, whoever refuses it.
func TestBatchHasAResultForEachMessage(t *testing.T) {
	b := newBroker(t)
	b.CreateQueue("", "orders", nil)
	b.Inject(fakesqs.Fault{Action: batch,
		EntryError: func(e fakesqs.Entry) *fakesqs.Error {
			if guilty(e) {
				return &fakesqs.Error{Code: "InternalError"}
			}
			return nil
		}, Omit: func(e fakesqs.Entry) bool { return e.MessageBody == "omitted" }})
	messages := several(12, "")
	messages[1].Payload = []byte("guilty")
	messages[2].ID = uuid.Nil
	messages[3].Payload = []byte(strings.Repeat("x", 1<<20))
	messages[4].Payload = []byte("omitted")
	messages[5].Type = "a\x01b"
	results := awssqs.New(b.client).PublishBatch(t.Context(), "sqs://orders", messages)
	for i, r := range results {
		switch i {
		case 1, 4:
			assert.Equal(t, outflow.ClassRetryable, outflow.ClassOf(r.Err), "%d: %v", i, r.Err)
			assert.Error(t, r.Err)
		case 2, 3, 5:
			assert.True(t, outflow.IsPermanent(r.Err), "%d: %v", i, r.Err)
		default:
			assert.NoError(t, r.Err, "%d", i)
			assert.NotEmpty(t, r.BrokerMessageID)
		}
	}
	assert.Equal(t, []int{9}, b.sizes())
}

func TestBatchToNoQueue(t *testing.T) {
	b := newBroker(t)
	for destination, says := range map[string]string{
		"orders": "no scheme", "sns://news": "sending to sns://news: only sqs:// is published here",
		"https://shop.example/in?token=hunter2": "sending to https://shop.example/in: only sqs://",
	} {
		for _, err := range errorsOf(awssqs.New(b.client).PublishBatch(t.Context(), destination, several(3, ""))) {
			assert.True(t, outflow.IsPermanent(err), "%v", err)
			assert.ErrorContains(t, err, says)
			assert.NotContains(t, err.Error(), "hunter2")
		}
	}
	for _, err := range errorsOf(awssqs.New(b.client).PublishBatch(t.Context(), "sqs://missing", several(12, ""))) {
		assert.ErrorIs(t, err, outflow.ErrNoDestination)
		assert.True(t, outflow.IsPermanent(err), "%v", err)
	}
	assert.Empty(t, b.sizes())
}

// A request refused for content, or one that panics, says nothing of its entries: each is sent alone.
func TestBatchSendsEachAloneAfterARefusalOfAll(t *testing.T) {
	b := newBroker(t)
	b.CreateQueue("", "orders", nil)
	b.Inject(fakesqs.Fault{Action: batch, When: hasGuilty, Error: &fakesqs.Error{Code: "InvalidMessageContents"}})
	messages := several(12, "")
	messages[4].Payload = []byte("guilty")
	results := awssqs.New(b.client).PublishBatch(t.Context(), "sqs://orders", messages)
	assert.True(t, outflow.IsPermanent(results[4].Err), "%v", results[4].Err)
	noErrors(t, append(errorsOf(results[:4]), errorsOf(results[5:])...))
	assert.Equal(t, []int{10, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 2}, b.sizes())
	assert.Equal(t, append(payloads(messages[:4]), payloads(messages[5:])...), b.bodies("orders"), "in their order")

	b = newBroker(t)
	b.CreateQueue("", "orders", nil)
	results = awssqs.New(panicking{b.client, false}).PublishBatch(t.Context(), "sqs://orders", messages)
	var panicked *publish.PanicError
	require.ErrorAs(t, results[4].Err, &panicked)
	assert.True(t, outflow.IsPermanent(results[4].Err))
	noErrors(t, append(errorsOf(results[:4]), errorsOf(results[5:])...))
}

// A request that fails leaves the next ones alone.
func TestBatchGoesOnAfterAFailedRequest(t *testing.T) {
	b := newBroker(t)
	b.CreateQueue("", "orders", nil)
	b.Inject(fakesqs.Fault{Action: batch, Times: 1, Error: &fakesqs.Error{Status: 503, Code: "ServiceUnavailable"}})
	results := awssqs.New(b.client).PublishBatch(t.Context(), "sqs://orders", several(15, ""))
	for i, r := range results {
		if i < 10 {
			assert.Equal(t, outflow.ClassUnavailable, outflow.ClassOf(r.Err), "%v", r.Err)
		} else {
			assert.NoError(t, r.Err)
		}
	}
}

// Of a FIFO queue no message overtakes an earlier one of its key that failed.
func TestBatchKeepsTheOrderOfAKey(t *testing.T) {
	b := newBroker(t)
	b.CreateQueue("", "orders.fifo", nil)
	keyed := func(key, payload string) outflow.Message {
		m := message("", payload)
		m.OrderingKey = key
		return m
	}
	messages := []outflow.Message{
		keyed("a", "a1"), keyed("b", "guilty"), keyed("a", "a2"), keyed("b", "b2"), keyed("", "free"), keyed("b", "b3"),
		keyed("a", "a3"),
	}
	b.Inject(fakesqs.Fault{Action: batch, EntryError: func(e fakesqs.Entry) *fakesqs.Error {
		if guilty(e) {
			return &fakesqs.Error{Code: "InternalError"}
		}
		return nil
	}})
	results := awssqs.New(b.client).PublishBatch(t.Context(), "sqs://orders.fifo", messages)
	assert.Equal(t, []string{"a1", "a2", "free", "a3"}, b.bodies("orders.fifo"))
	assert.ErrorContains(t, results[1].Err, "InternalError")
	for _, i := range []int{3, 5} {
		assert.ErrorIs(t, results[i].Err, outflow.ErrNotAttempted)
		assert.Equal(t, outflow.ClassRetryable, outflow.ClassOf(results[i].Err))
		assert.ErrorContains(t, results[i].Err, "an earlier message of its ordering key failed")
	}
	for _, r := range b.Requests(batch) {
		keys := map[string]bool{}
		for _, e := range r.Entries {
			assert.False(t, keys[e.MessageGroupId], "a request has %s twice", e.MessageGroupId)
			keys[e.MessageGroupId] = true
		}
	}

	// A message that can't be encoded holds back those behind it, too, and none before it.
	messages = []outflow.Message{keyed("c", "c1"), keyed("c", ""), keyed("c", "c3")}
	results = awssqs.New(b.client).PublishBatch(t.Context(), "sqs://orders.fifo", messages)
	assert.NoError(t, results[0].Err)
	assert.True(t, outflow.IsPermanent(results[1].Err))
	assert.ErrorIs(t, results[2].Err, outflow.ErrNotAttempted)

	// A standard queue keeps no order: its keys hold nothing back.
	b.CreateQueue("", "orders", nil)
	results = awssqs.New(b.client).PublishBatch(t.Context(), "sqs://orders", messages)
	assert.NoError(t, results[2].Err)
}

// The end of ctx stops the requests that have not begun; the one under way is waited for.
func TestBatchAndTheEndOfItsContext(t *testing.T) {
	t.Parallel()
	b := newBroker(t)
	b.CreateQueue("", "orders", nil)
	p := awssqs.New(b.client)
	noErrors(t, errorsOf(p.PublishBatch(t.Context(), "sqs://orders", several(1, ""))))
	ctx, cancel := context.WithCancel(t.Context())
	b.Inject(fakesqs.Fault{Action: batch, Delay: 300 * time.Millisecond, When: func(fakesqs.Request) bool {
		cancel()
		return true
	}})
	results := p.PublishBatch(ctx, "sqs://orders", several(25, ""))
	for i, r := range results {
		if i < 10 {
			assert.NoError(t, r.Err, "%d", i)
		} else {
			assert.ErrorIs(t, r.Err, outflow.ErrNotAttempted)
			assert.ErrorIs(t, r.Err, context.Canceled)
			assert.ErrorContains(t, r.Err, "sending to sqs://orders")
		}
	}
	assert.Len(t, b.Messages("", "orders"), 11)

	short, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	for _, err := range errorsOf(p.PublishBatch(short, "sqs://orders", several(3, ""))) {
		assert.ErrorIs(t, err, outflow.ErrNotAttempted, "a request on the fast path wants 2.5 s")
	}
}

// Batches are no part of each other, nor of what Publish joins.
func TestBatchesSideBySide(t *testing.T) {
	b := newBroker(t)
	b.CreateQueue("", "orders", nil)
	p := awssqs.New(b.client)
	done := make(chan []publish.Result)
	for range 20 {
		go func() { done <- p.PublishBatch(t.Context(), "sqs://orders", several(7, "")) }()
	}
	for range 20 {
		noErrors(t, errorsOf(<-done))
	}
	assert.Equal(t, strings.Repeat("7 ", 20), strings.Trim(fmt.Sprint(b.sizes()), "[]")+" ")
	assert.Len(t, b.Messages("", "orders"), 140)
}
