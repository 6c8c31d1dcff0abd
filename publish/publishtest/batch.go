package publishtest

import (
	"fmt"
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/publish"
)

// ordered is more messages than any broker of Outflow's takes in one request.
const ordered = 25

// ofOneKey returns messages of one ordering key, each with its place as its type.
func ofOneKey(destination string) (messages []outflow.Message) {
	for i := range ordered {
		m := message(destination)
		m.OrderingKey, m.Type = "customer-42", fmt.Sprintf("step-%02d", i)
		messages = append(messages, m)
	}
	return messages
}

// inOrder checks that the messages of ofOneKey arrive in their order.
func inOrder(t *testing.T, h Harness, destination string, sent []outflow.Message) {
	t.Helper()
	got := h.Receive(t, destination, len(sent))
	require.Len(t, got, len(sent))
	for i := range got {
		require.Equal(t, sent[i].ID, got[i].ID, "place %d", i)
	}
}

// orderOfAKey publishes each message after the answer to the one before.
func orderOfAKey(t *testing.T, h Harness) {
	p, destination := h.Publisher(t), h.Destination(t)
	sent := ofOneKey(destination)
	for _, m := range sent {
		_, err := p.Publish(t.Context(), m)
		require.NoError(t, err)
	}
	inOrder(t, h, destination, sent)
}

func orderInABatch(t *testing.T, h Harness) {
	p, destination := batchPublisher(t, h), h.Destination(t)
	sent := ofOneKey(destination)
	for _, result := range p.PublishBatch(t.Context(), destination, sent) {
		require.NoError(t, result.Err)
	}
	inOrder(t, h, destination, sent)
}

func batchPublisher(t *testing.T, h Harness) publish.BatchPublisher {
	t.Helper()
	p, ok := h.Publisher(t).(publish.BatchPublisher)
	if !ok {
		t.Skip("the publisher takes messages one by one")
	}
	return p
}

// batchHasResults: a refused message among others fails alone, results have the order of the
// messages, and the messages of an empty destination list are none.
func batchHasResults(t *testing.T, h Harness) {
	p, destination := batchPublisher(t, h), h.Destination(t)
	assert.Empty(t, p.PublishBatch(t.Context(), destination, nil))

	const refused = 7
	sent := map[uuid.UUID]outflow.Message{}
	var batch []outflow.Message
	for i := range ordered {
		m := message(destination)
		if i == refused {
			m = large(h, destination)
		} else {
			sent[m.ID] = m
		}
		m.Destination = "sqs://not-read" // the batch has one destination
		batch = append(batch, m)
	}
	var ids []string
	results := p.PublishBatch(t.Context(), destination, batch)
	require.Len(t, results, len(batch))
	for i, r := range results {
		if i == refused {
			failsAs(t, outflow.ClassPermanent, r.Err)
			continue
		}
		assert.NoError(t, r.Err, "message %d", i)
		ids = append(ids, r.BrokerMessageID)
	}
	haveIDs(t, ids)
	for _, m := range h.Receive(t, destination, len(sent)) {
		assert.Equal(t, carried(sent[m.ID]), m)
		delete(sent, m.ID)
	}
	assert.Empty(t, sent, "missing")
}
