package e2e

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/publish/publishtest/fakesqs"
)

func TestOneBadEntryOfABatch(t *testing.T) {
	w := newWorld(t)
	const poisoned = `{"number":3}`
	w.queues.Inject(fakesqs.Fault{Queue: "orders", Action: "SendMessageBatch",
		EntryError: func(e fakesqs.Entry) *fakesqs.Error {
			if e.MessageBody != poisoned {
				return nil
			}
			return &fakesqs.Error{Code: "InvalidMessageContents", SenderFault: true, Message: "refused by a test"}
		}})
	// Which messages share a request is up to the moment: ten at a time, until the
	// bad one had company.
	w.start("outflow-starter")
	var ids []uuid.UUID
	neighbours := 0
	for tens := 1; neighbours == 0; tens++ {
		require.LessOrEqual(t, tens, 20, "it was never refused among others")
		ten := w.enqueue(10, to("sqs://orders"))
		ids = append(ids, ten...)
		w.eventually(30*time.Second, "all ended", func() bool { return w.count("finished_at IS NOT NULL") == 10*tens })
		require.Equal(t, 9*tens, w.count("state = 'delivered'"))
		require.Equal(t, 1, w.count("state = 'dead' AND id = $1 AND last_error LIKE '%InvalidMessageContents%'",
			ten[3]))
		missing, duplicates := w.tally("orders", ids)
		require.Equal(t, tens, missing, "the refused ones")
		require.Zero(t, duplicates)
		for _, r := range w.queues.Requests("SendMessageBatch") {
			for _, e := range r.Entries {
				if e.MessageBody == poisoned {
					neighbours = max(neighbours, len(r.Entries)-1)
				}
			}
		}
	}
}

// What can never be delivered ends, and its neighbours do not wait for it.
func TestPoisonStopsNobody(t *testing.T) {
	w := newWorld(t)
	w.queues.AutoCreate = false
	w.queues.CreateQueue("", "orders", nil)
	w.queues.CreateQueue("", "small", map[string]string{"MaximumMessageSize": "1024"})
	w.env = append(w.env, "OUTFLOW_MISSING_GRACE=3s")
	w.start("outflow-worker")
	w.start("outflow-starter")
	load := w.StartLoad(rate, "sqs://orders", "sqs://small")
	defer load.Stop()
	w.eventually(30*time.Second, "deliveries flow", func() bool { return w.count("state = 'delivered'") > rate })

	message := func(destination string, payload []byte, headers map[string]string) func(int) outflow.Message {
		return func(int) outflow.Message {
			return outflow.Message{Destination: destination, Type: "poison", Payload: payload,
				ContentType: "text/plain", Headers: headers}
		}
	}
	control := []byte("bell \a, null \x00, and no UTF-8 \xff")
	w.enqueue(10, message("sqs://nowhere", []byte("unknown queue"), nil))
	w.enqueue(10, message("sqs://small", bytes.Repeat([]byte("x"), 1025), nil))
	w.enqueue(10, message("sqs://orders", control, nil))
	w.enqueue(10, message("sqs://orders", []byte("control characters in a header"),
		map[string]string{"note": "bell \a"}))
	w.enqueue(10, message("sqs://orders", []byte("many headers"), map[string]string{"long": strings.Repeat("x", 8000)}))
	w.eventually(30*time.Second, "every poison has ended",
		func() bool { return w.count("type = 'poison' AND state = 'pending'") == 0 })
	began := time.Now()
	w.eventually(10*time.Second, "the neighbours go on", func() bool {
		return w.count("type <> 'poison' AND state = 'delivered' AND enqueued_at > $1", began) > rate
	})
	load.Stop()
	drained, err := w.Drain(t.Context())
	require.NoError(t, err)

	require.Equal(t, 10, w.count("state = 'dead' AND destination = 'sqs://nowhere'"))
	require.Equal(t, 10, w.count("state = 'dead' AND destination = 'sqs://small'"))
	require.Zero(t, w.count("state = 'dead' AND coalesce(last_error, '') = ''"), "each dead one has its reason")
	require.Equal(t, 30, w.count("type = 'poison' AND state = 'delivered'"), "any payload and header can be delivered")
	tally, err := load.Tally(t.Context(), "orders", "small")
	require.NoError(t, err)
	tally.Drain = drained
	t.Log(tally)
	require.Zero(t, tally.Lost, "lost: %v", tally.LostIDs)
	require.Zero(t, tally.Duplicates)
	var slowest time.Duration
	require.NoError(t, w.pool.QueryRow(t.Context(),
		"SELECT max(finished_at - enqueued_at) FROM outbox.messages WHERE type <> 'poison'").Scan(&slowest))
	t.Logf("the slowest neighbour took %s", slowest)
	require.Less(t, slowest, 30*time.Second, "no neighbour waits for a lease")
}
