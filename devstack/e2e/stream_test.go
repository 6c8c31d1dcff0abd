package e2e

import (
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/outflowhq/outflow/devstack/faults"
)

// A stream's worker is stopped for longer than its requests may begin, goes on beside its successor, and
// then is killed. Nothing is lost. What is sent twice was under way when the worker was stopped, or sent
// and not marked when it was killed.
func TestStreamOutlivesItsWorkers(t *testing.T) {
	const (
		messages = 40_000
		underWay = 64 * 10  // requests of ten
		inHand   = 3 * 2000 // pages
		stopped  = 25 * time.Second
	)
	w := newWorld(t)
	w.AnswersIn(500 * time.Millisecond)
	rows, err := w.pool.Query(t.Context(), `
		INSERT INTO outbox.messages (id, destination, type, payload)
		SELECT gen_random_uuid(), 'sqs://orders', 'numbered', '{}' FROM generate_series(1, $1::int) RETURNING id`, messages)
	require.NoError(t, err)
	ids, err := pgx.CollectRows(rows, pgx.RowTo[uuid.UUID])
	require.NoError(t, err)
	workers := []*faults.Program{w.start("outflow-worker"), w.start("outflow-worker")}
	began := time.Now()
	w.startIn(append(slices.Clone(w.env), "OUTFLOW_STREAM_ABOVE=100", "OUTFLOW_STREAMS=0", "OUTFLOW_IN_FLIGHT=10"),
		"outflow-starter")
	delivered := func() int { return w.count("state = 'delivered'") }
	// The stream has one holder: while it is stopped nobody sends.
	sendsWithout := func(p *faults.Program) bool {
		require.NoError(t, p.Signal(syscall.SIGSTOP))
		time.Sleep(time.Second) // what is under way ends
		before := len(w.Arrivals("orders"))
		time.Sleep(time.Second)
		return len(w.Arrivals("orders")) > before+underWay
	}
	w.eventually(time.Minute, "the stream goes", func() bool { return w.count("streamed AND state = 'delivered'") > 500 })
	holder, other := workers[0], workers[1]
	if sendsWithout(holder) {
		require.NoError(t, holder.Signal(syscall.SIGCONT))
		holder, other = other, holder
		require.NoError(t, holder.Signal(syscall.SIGSTOP))
	}
	at, stoppedAt := delivered(), time.Now()
	// Temporal may give the next attempt to the stopped worker too, whose poll is still open.
	w.eventually(time.Minute, "the other one goes on", func() bool { return delivered() > at+underWay })
	t.Logf("the other worker went on after %s", time.Since(stoppedAt).Round(time.Millisecond))
	time.Sleep(time.Until(stoppedAt.Add(stopped)))
	require.NoError(t, holder.Signal(syscall.SIGCONT))
	time.Sleep(2 * time.Second)
	_, twice := w.tally("orders", ids)
	t.Logf("%d twice after the stop", twice)
	require.LessOrEqual(t, twice, underWay, "it began no request after it was continued")

	w.kill(other)
	_, before := w.tally("orders", ids)
	killedAt := time.Now()
	w.eventually(3*time.Minute, "all are delivered", func() bool { return delivered() == messages })
	t.Logf("drained %s after the kill", time.Since(killedAt).Round(time.Millisecond))
	lost, twice := w.report("orders", ids, began)
	require.Zero(t, lost)
	require.LessOrEqual(t, twice-before, underWay+inHand, "what was in hand when it was killed")
	require.Zero(t, w.count("state <> 'delivered'"))
}
