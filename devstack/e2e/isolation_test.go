package e2e

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// A coarse look at isolation; "make chaos ONLY=isolation" measures it.
func TestBrokenDestinationHurtsOnlyItself(t *testing.T) {
	w := newWorld(t)
	w.start("outflow-worker")
	w.start("outflow-starter")
	w.start("outflow-starter")
	slowest := func() (s time.Duration) {
		require.NoError(t, w.pool.QueryRow(t.Context(),
			`SELECT coalesce(percentile_disc(0.99) WITHIN GROUP (ORDER BY finished_at - enqueued_at), interval '0')
			FROM outbox.messages WHERE destination = 'sqs://up' AND state = 'delivered'`).Scan(&s))
		return s
	}
	deliver := func() time.Duration {
		_, err := w.pool.Exec(t.Context(), "DELETE FROM outbox.messages WHERE destination = 'sqs://up' AND state = 'delivered'")
		require.NoError(t, err)
		load := w.StartLoad(rate, "sqs://up")
		w.eventually(30*time.Second, "a steady flow",
			func() bool { return w.count("destination = 'sqs://up' AND state = 'delivered'") > 8*rate })
		load.Stop()
		w.eventually(10*time.Second, "all of it",
			func() bool { return w.count("destination = 'sqs://up' AND state = 'pending'") == 0 })
		return slowest()
	}
	deliver() // warm
	alone := deliver()

	const n = 600
	w.queues.Inject(fakesqs503("down"))
	ids := w.enqueue(n, to("sqs://down"))
	// Its backlog costs what any backlog does, until the breaker opens.
	w.eventually(30*time.Second, "its breaker is open", func() bool {
		return w.breakerIsOpen() && w.count("destination = 'sqs://down' AND claims > 0 AND NOT retrying") == 0
	})
	beside := deliver()
	untouched := w.count("destination = 'sqs://down' AND attempts = 0 AND claims = 0")
	t.Logf("p99 of healthy deliveries: %s alone, %s beside a broken destination; %d of its %d messages untouched",
		alone, beside, untouched, n)
	require.Less(t, beside, max(3*alone, 5*time.Second))
	require.Greater(t, untouched, n/3, "what the queue never saw spends nothing")
	require.Less(t, len(w.queues.Requests("SendMessageBatch", "SendMessage", "GetQueueUrl")), 2000)

	w.queues.Heal("")
	began := time.Now()
	w.eventually(time.Minute, "it drains", func() bool { return w.count("destination = 'sqs://down' AND state = 'delivered'") == n })
	lost, duplicates := w.report("down", ids, began)
	require.Zero(t, lost)
	require.Zero(t, duplicates)
}

// A queue that is deleted is waited for: its messages do not die of somebody's mistake.
func TestDeletedQueueIsWaitedFor(t *testing.T) {
	w := newWorld(t)
	w.queues.AutoCreate = false
	w.queues.CreateQueue("", "orders", nil)
	w.start("outflow-starter")
	w.enqueue(1, to("sqs://orders"))
	w.eventually(30*time.Second, "delivered", func() bool { return w.count("state = 'delivered'") == 1 })

	w.queues.DeleteQueue("", "orders")
	ids := w.enqueue(100, to("sqs://orders"))
	w.eventually(30*time.Second, "its breaker is open", w.breakerIsOpen)
	require.Zero(t, w.count("state = 'dead'"))
	w.queues.CreateQueue("", "orders", nil)
	began := time.Now()
	w.eventually(time.Minute, "all delivered", func() bool { return w.count("state = 'delivered'") == 101 })
	lost, duplicates := w.report("orders", ids, began)
	require.Zero(t, lost)
	require.Zero(t, duplicates)
}

func (w *world) breakerIsOpen() (open bool) {
	w.t.Helper()
	require.NoError(w.t, w.pool.QueryRow(w.t.Context(),
		"SELECT EXISTS (SELECT FROM outbox.destinations WHERE open_until IS NOT NULL)").Scan(&open))
	return open
}
