package service

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.temporal.io/api/enums/v1"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/temporal"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/operator"
	"github.com/outflowhq/outflow/outbox"
	"github.com/outflowhq/outflow/outboxdb"
	"github.com/outflowhq/outflow/scanner"
	"github.com/outflowhq/outflow/workflows"
)

// A starter that finds a backlog has a stream deliver it, and both deliver each message once. What is
// committed late, and what is given back, is found; the run's result says what it has done.
func TestStreamDeliversABacklog(t *testing.T) {
	t.Parallel()
	s := newStreams(newWorld(t))
	s.serve(s.pool, s.queue)
	late, err := s.pool.Begin(t.Context()) // its messages are due before those that the stream begins with
	require.NoError(t, err)
	_, err = outboxdb.Enqueue(t.Context(), late,
		outflow.Message{Destination: backlogged, Type: "late", Payload: []byte("{}")})
	require.NoError(t, err)
	s.backlog(5000)
	s.exec(`UPDATE outbox.messages SET started = true WHERE id IN (SELECT id FROM outbox.messages LIMIT 20)`)
	s.deliver(func(o *scanner.Options) { o.StreamAbove = 100 })
	s.untilDelivered(2000)
	require.NoError(t, late.Commit(t.Context()))
	committed := time.Now()
	s.backlog(3000)
	s.eventually(func() bool { return s.number("type = 'late' AND state = 'delivered'") == 1 },
		func() string { return "a late commit was not found" })
	assert.Less(t, time.Since(committed), 15*time.Second)
	s.untilDelivered(8001)
	s.requireOnce(8001)
	require.Greater(t, s.number("streamed"), 4000, "most of them went by the stream")
	require.GreaterOrEqual(t, s.number("NOT streamed"), 20, "what had been started before went without")

	run := s.client.GetWorkflow(t.Context(), s.execution().GetWorkflowId(), "")
	var result workflows.StreamResult
	require.NoError(t, run.Get(t.Context(), &result))
	assert.Equal(t, outbox.StreamDrained, result.Ended)
	assert.EqualValues(t, s.number("streamed"), result.Delivered)
	assert.Zero(t, s.number("state = 'pending'"))
	assert.True(t, s.says(`SELECT count(*) = 0 FROM outbox.pages`))
	assert.True(t, s.says(`SELECT ended = 'drained' AND runs_until IS NULL FROM outbox.streams`))
	s.historyOf(s.execution().GetWorkflowId(), run.GetRunID(), "")
}

// Somebody pauses the stream's activity in the Web UI: starters go on without it, and nothing begins
// another. Unpaused, it goes on.
func TestStreamIsPausedAndUnpaused(t *testing.T) {
	t.Parallel()
	s := newStreams(newWorld(t))
	s.queue.takes = 100 * time.Millisecond
	s.serve(s.pool, s.queue)
	s.backlog(20_000)
	s.begin()
	s.untilSent(2000)
	s.pause()
	s.eventually(func() bool {
		return s.says(`SELECT paused AND runs_until IS NULL AND ended = 'paused' FROM outbox.streams`)
	},
		func() string { return "it is not noted as paused" })
	s.activity(enums.PENDING_ACTIVITY_STATE_PAUSED)
	require.Zero(t, s.number("streamed AND state = 'pending'"), "what it had not sent is given back")
	require.True(t, s.says(`SELECT count(*) = 0 FROM outbox.pages`))
	s.deliver(func(o *scanner.Options) { o.StreamAbove = 100 })
	before := s.number("state = 'delivered'")
	s.eventually(func() bool { return s.number("state = 'delivered' AND NOT streamed") > 100 },
		func() string { return "starters don't go on without it" })
	require.True(t, s.says(`SELECT paused FROM outbox.streams`))
	s.queue.set(func() { s.queue.takes = 0 })
	s.unpause()
	s.untilDelivered(20_000)
	s.requireOnce(20_000)
	require.Greater(t, s.number("streamed"), before)
	require.True(t, s.says(`SELECT NOT paused FROM outbox.streams`))
}

// Whatever becomes of a stream's run, its messages are delivered, each once: what it had in hand is
// marked or given back.
func TestStreamWhoseRunEnds(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		end      func(s *streams)
		status   enums.WorkflowExecutionStatus
		noStream bool // starters go on by themselves for some time
	}{
		"cancelled": {status: enums.WORKFLOW_EXECUTION_STATUS_CANCELED, noStream: true, end: func(s *streams) {
			require.NoError(s, s.client.CancelWorkflow(s.Context(), s.execution().GetWorkflowId(), ""))
		}},
		"terminated": {status: enums.WORKFLOW_EXECUTION_STATUS_TERMINATED, end: func(s *streams) {
			require.NoError(s, s.client.TerminateWorkflow(s.Context(), s.execution().GetWorkflowId(), "", "a test"))
		}},
		"reset": {status: enums.WORKFLOW_EXECUTION_STATUS_RUNNING, end: func(s *streams) {
			_, err := s.client.ResetWorkflowExecution(s.Context(), &workflowservice.ResetWorkflowExecutionRequest{
				Namespace: "default", WorkflowExecution: s.execution(), Reason: "a test", RequestId: uuid.NewString(),
				WorkflowTaskFinishEventId: 4})
			require.NoError(s, err)
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newStreams(newWorld(t))
			s.queue.takes = 100 * time.Millisecond
			s.serve(s.pool, s.queue)
			s.backlog(20_000)
			run := s.begin()
			s.untilSent(2000)
			c.end(s)
			if c.status != enums.WORKFLOW_EXECUTION_STATUS_RUNNING {
				s.eventually(func() bool { return s.number("streamed AND state = 'pending'") == 0 },
					func() string { return "it still has messages" })
				err := run.Get(t.Context(), nil)
				require.Error(t, err)
				require.Equal(t, name == "cancelled", temporal.IsCanceledError(err), "%v", err)
				s.historyOf(run.GetID(), run.GetRunID(), "")
			}
			described, err := s.client.DescribeWorkflowExecution(t.Context(), s.execution().GetWorkflowId(), "")
			require.NoError(t, err)
			require.Equal(t, c.status, described.GetWorkflowExecutionInfo().GetStatus())
			if name == "cancelled" {
				require.True(t, s.says(`SELECT ended = 'cancelled' AND runs_until IS NULL AND not_before > now()
					FROM outbox.streams`))
			}
			s.queue.set(func() { s.queue.takes = 0 })
			s.deliver(func(o *scanner.Options) { o.StreamAbove = 100 })
			began := time.Now()
			s.untilSent(s.number("state = 'delivered'") + 200)
			assert.Less(t, time.Since(began), 30*time.Second, "the hint of a terminated run ends by itself")
			s.exec(`UPDATE outbox.streams SET not_before = NULL`)
			s.untilDelivered(20_000)
			s.requireOnce(20_000)
		})
	}
}

// A rolling deployment: a worker that stops gives back what it has not sent, waits for what is under
// way, and another one goes on within seconds. Nothing is sent twice.
func TestStreamMovesToAnotherWorker(t *testing.T) {
	t.Parallel()
	s := newStreams(newWorld(t))
	s.queue.takes = 200 * time.Millisecond
	stop := s.serve(s.pool, s.queue)
	s.backlog(20_000)
	run := s.begin()
	for range 3 {
		sent, _ := s.queue.count()
		s.untilSent(sent + 2000)
		next := s.serve(s.pool, s.queue)
		began := time.Now()
		stop()
		took := time.Since(began)
		require.Less(t, took, 5*time.Second)
		stop = next
		sent, _ = s.queue.count()
		s.untilSent(sent + 1)
		t.Logf("it stopped within %s; the next one sent %s later", took.Round(time.Millisecond),
			time.Since(began.Add(took)).Round(time.Millisecond))
		require.Less(t, time.Since(began), 10*time.Second, "pages that are left behind would take a minute")
	}
	s.queue.set(func() { s.queue.takes = 0 })
	s.untilDelivered(20_000)
	s.requireOnce(20_000)
	s.historyOf(run.GetID(), run.GetRunID(), "")
}

// Streamed messages are messages: their callbacks are sent once, their waiters are notified, and those of an
// ordering key come in order. A dead head blocks its key.
func TestStreamedMessagesKeepTheirPromises(t *testing.T) {
	t.Parallel()
	s := newStreams(newWorld(t))
	s.serve(s.pool, s.queue)
	var messages []outflow.Message
	for i := range 300 {
		m := outflow.Message{Destination: backlogged, Type: "order-placed", Payload: fmt.Appendf(nil, "%d", i),
			OrderingKey: fmt.Sprintf("key-%d", i%20)}
		if i%10 == 0 {
			m.Callback = "https://example.com/callback"
		}
		messages = append(messages, m)
	}
	var ids []uuid.UUID
	require.NoError(t, pgx.BeginFunc(t.Context(), s.pool, func(tx pgx.Tx) (err error) {
		ids, err = outboxdb.Enqueue(t.Context(), tx, messages...)
		return err
	}))
	s.queue.answer = func(m outflow.Message) error {
		if string(m.Payload) == "103" { // of key-3, the sixth
			return outflow.Permanent(errors.New("refused"))
		}
		return nil
	}
	s.deliver(func(o *scanner.Options) { o.StreamAbove = 10 })
	s.begin()
	s.eventually(func() bool { return s.number("state = 'pending' AND NOT follower") == 0 },
		func() string { return "some are pending" })
	require.Equal(t, 1, s.number("state = 'dead' AND head AND id = $1", ids[103]))
	require.Equal(t, 9, s.number("follower"), "those behind the dead one")
	require.Equal(t, 290, s.number("state = 'delivered'"))
	last := map[string]int{}
	for _, id := range s.queue.order {
		var key string
		var i int
		require.NoError(t, s.pool.QueryRow(t.Context(),
			`SELECT ordering_key, convert_from(payload, 'UTF8')::int FROM outbox.messages WHERE id = $1`, id).Scan(&key, &i))
		require.Less(t, last[key], i+1, "in the order of their commits")
		last[key] = i + 1
	}
	callbacks := s.number("callback IS NOT NULL AND finished_at IS NOT NULL")
	s.eventually(func() bool { return s.number("callback_state = 'sent'") == callbacks },
		func() string { return "some callbacks are not sent" })
	s.receiver.mu.Lock()
	defer s.receiver.mu.Unlock()
	require.Len(t, s.receiver.took, callbacks)
}

// A retry of very many dead messages is a backlog like any other.
func TestRetryOfManyDeadMessagesGoesByAStream(t *testing.T) {
	if testing.Short() {
		t.Skip("a hundred thousand messages")
	}
	const n = 100_000
	s := newStreams(newWorld(t))
	s.serve(s.pool, s.queue)
	s.backlog(n)
	s.exec(`UPDATE outbox.messages SET state = 'dead', finished_at = now() - interval '1 hour', started = true, claims = 1,
		attempts = 1, last_error = 'refused'`)
	s.exec(`VACUUM ANALYZE outbox.messages`)
	s.deliver(func(o *scanner.Options) { o.StreamAbove = 1000 })
	ops := operator.New(s.pool, nil, s.opts.Outbox)
	rows, err := s.pool.Query(t.Context(), `SELECT id FROM outbox.messages`)
	require.NoError(t, err)
	ids, err := pgx.CollectRows(rows, pgx.RowTo[uuid.UUID])
	require.NoError(t, err)
	began := time.Now()
	for len(ids) > 0 {
		some := ids[:min(len(ids), 1000)]
		ids = ids[len(some):]
		answers, err := ops.Retry(t.Context(), some, operator.Actor{Who: "ada"})
		require.NoError(t, err)
		require.Equal(t, operator.Done, answers[0].Verdict)
	}
	retried := time.Since(began)
	s.untilDelivered(n)
	t.Logf("retried in %s, delivered %s after the first", retried.Round(time.Millisecond),
		time.Since(began).Round(time.Millisecond))
	s.requireOnce(n)
	require.Greater(t, s.number("streamed"), n*9/10)
	require.Equal(t, n, s.number("generation = 2"))
}
