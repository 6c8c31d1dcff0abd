package wait_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/internal/teststack"
	"github.com/outflowhq/outflow/outbox"
	"github.com/outflowhq/outflow/outboxdb"
	"github.com/outflowhq/outflow/outboxdb/wait"
)

func TestWaitForAMessageThatHasEnded(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	w := newWaiter(t, pool)
	for _, state := range []outflow.State{outflow.Delivered, outflow.Dead, outflow.Expired, outflow.Cancelled} {
		id := enqueue(t, pool, 1)[0]
		ending := outbox.Ending{State: state, LastError: "no such queue", Attempts: 1}
		if state == outflow.Delivered {
			ending.LastError, ending.BrokerMessageID = "", "broker-1"
		}
		finish(t, pool, ending, id)
		outcome, err := w.Wait(t.Context(), id)
		require.NoError(t, err)
		assert.Equal(t, state, outcome.State)
		assert.Equal(t, id, outcome.ID)
		assert.Equal(t, 1, outcome.Generation)
		assert.Equal(t, 1, outcome.Attempts)
		assert.NotZero(t, outcome.FinishedAt)
		if state == outflow.Delivered {
			assert.Equal(t, "broker-1", outcome.BrokerMessageID)
		} else {
			assert.Equal(t, "no such queue", outcome.LastError)
		}
	}
	_, err := w.Wait(t.Context(), uuid.New())
	require.ErrorIs(t, err, outflow.ErrNotFound)
	assert.Zero(t, listening(t, pool), "there was nothing to wait for")
	assert.Zero(t, teststack.Value[int](t, pool, `SELECT count(*) FROM outbox.waiters`))
}

func TestWaitIsNotified(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	own, tr := traced(t, pool)
	w := newWaiter(t, own)
	ids := enqueue(t, pool, 3)
	first, other := startWait(t, w, ids[0]), startWait(t, w, ids[1])
	requireNotified(t, w)
	require.Eventually(t, func() bool { return tr.takePolls() == 0 }, 10*time.Second, 50*time.Millisecond,
		"it polls again and again")

	deliver(t, pool, ids[0])
	outcome := requireAnswer(t, first)
	assert.Equal(t, outflow.Delivered, outcome.State)
	assert.Equal(t, "broker-1", outcome.BrokerMessageID)
	assert.Equal(t, 1, tr.takePolls(), "one poll for one end")
	requireNoAnswer(t, other)

	// No call waits for this message: it costs no poll.
	deliver(t, pool, ids[2])
	deliver(t, pool, ids[1])
	requireAnswer(t, other)
	assert.Equal(t, 1, tr.takePolls())
}

func TestAThousandWaitOnOneConnection(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	own, tr := traced(t, teststack.Another(t, pool, func(c *pgxpool.Config) { c.MaxConns = 4 }))
	w := newWaiter(t, own)
	ids := enqueue(t, pool, 1000)
	var waits sync.WaitGroup
	answers := make([]end, len(ids))
	for i, id := range ids {
		waits.Go(func() { answers[i].outcome, answers[i].err = w.Wait(t.Context(), id) })
	}
	require.Eventually(t, func() bool { return w.Waiting() == len(ids) }, 20*time.Second, time.Millisecond)
	requireNotified(t, w)
	assert.Equal(t, 1, listening(t, pool))
	assert.Equal(t, 1, teststack.Value[int](t, pool, `SELECT count(*) FROM outbox.waiters`))
	t.Logf("%d polls until all of them waited", tr.takePolls())

	deliver(t, pool, ids[:500]...)
	deliver(t, pool, ids[500:]...)
	waits.Wait()
	for i := range answers {
		require.NoError(t, answers[i].err)
		require.Equal(t, ids[i], answers[i].outcome.ID)
		require.Equal(t, outflow.Delivered, answers[i].outcome.State)
	}
	n := tr.takePolls()
	t.Logf("%d polls for their ends", n)
	assert.LessOrEqual(t, n, 10)
}

// untilNotified returns a context that ends once w has polled and listens.
func untilNotified(t *testing.T, w *wait.Waiter) context.Context {
	ctx, cancel := context.WithCancel(t.Context())
	t.Cleanup(cancel)
	go func() {
		for !w.Notified() && ctx.Err() == nil {
			time.Sleep(5 * time.Millisecond)
		}
		cancel()
	}()
	return ctx
}

func TestWaitUntilTheContextEnds(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	w := newWaiter(t, pool)
	id := enqueue(t, pool, 1)[0]
	teststack.Execute(t, pool, `UPDATE outbox.messages SET attempts = 3, last_error = 'throttled' WHERE id = $1`, id)
	ctx := untilNotified(t, w)
	outcome, err := w.Wait(ctx, id)
	require.ErrorIs(t, err, context.Canceled)
	require.ErrorContains(t, err, "waiting for message "+id.String())
	require.Equal(t, outflow.Outcome{ID: id, State: outflow.Pending, Generation: 1, Attempts: 3,
		LastError: "throttled"}, outcome)
	require.Zero(t, w.Waiting())

	outcome, err = w.Wait(ctx, id)
	require.ErrorIs(t, err, context.Canceled)
	require.Equal(t, outflow.Outcome{ID: id}, outcome, "nothing was polled")
}

func TestWaitForAPurgedMessage(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	w := newWaiter(t, pool, wait.PollEvery(50*time.Millisecond))
	id := enqueue(t, pool, 1)[0]
	answers := startWait(t, w, id)
	requireNotified(t, w)
	teststack.Execute(t, pool, `DELETE FROM outbox.messages WHERE id = $1`, id)
	require.ErrorIs(t, (<-answers).err, outflow.ErrNotFound)
}

// A poll under way says nothing about a message that is committed before a later Wait.
func TestWaitIsNotAnsweredByAnOlderPoll(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	w := newWaiter(t, pool)
	m := newMessage()
	tx, err := pool.Begin(t.Context())
	require.NoError(t, err)
	defer func() { _ = tx.Rollback(context.Background()) }()
	_, err = tx.Exec(t.Context(), `LOCK TABLE outbox.messages`)
	require.NoError(t, err)
	early := startWait(t, w, m.ID)
	waitFor(t, pool, waitsForLock)
	_, err = outboxdb.Enqueue(t.Context(), tx, m)
	require.NoError(t, err)
	late := startWait(t, w, m.ID) // as if after the commit: the poll does not see it either way
	require.NoError(t, tx.Commit(t.Context()))
	require.ErrorIs(t, (<-early).err, outflow.ErrNotFound)
	deliver(t, pool, m.ID)
	require.Equal(t, outflow.Delivered, requireAnswer(t, late).State)
}

func TestWaitWithoutRights(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	w := newWaiter(t, teststack.WithRole(t, pool, teststack.NewRole(t, pool)))
	_, err := w.Wait(t.Context(), uuid.New())
	var pg *pgconn.PgError
	require.ErrorAs(t, err, &pg)
	require.Equal(t, "42501", pg.Code, "%v", err)
}

func TestWaitWithoutADatabase(t *testing.T) {
	t.Parallel()
	nowhere, err := pgxpool.New(t.Context(), "postgres://nobody@127.0.0.1:1/nothing")
	require.NoError(t, err)
	defer nowhere.Close()
	w := newWaiter(t, nowhere)
	defer w.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	_, err = w.Wait(ctx, uuid.New())
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.ErrorContains(t, err, "connection refused")
}

func TestWaiterEndsItsSession(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	gone := fmt.Sprintf(`SELECT NOT EXISTS (SELECT FROM outbox.waiters)
		AND NOT EXISTS (SELECT FROM pg_stat_activity
			WHERE datname = current_database() AND query = '%s')`, wait.StatementListen)
	w := newWaiter(t, pool)
	w.SetTimes(100*time.Millisecond, time.Minute, 5*time.Second)
	for range 2 {
		id := enqueue(t, pool, 1)[0]
		answers := startWait(t, w, id)
		requireNotified(t, w)
		deliver(t, pool, id)
		requireAnswer(t, answers)
		require.Eventually(t, func() bool { return !w.Busy() }, 10*time.Second, 5*time.Millisecond)
		waitFor(t, pool, gone)
	}

	w = newWaiter(t, pool)
	id := enqueue(t, pool, 1)[0]
	answers := startWait(t, w, id)
	requireNotified(t, w)
	w.Close()
	require.ErrorIs(t, (<-answers).err, wait.ErrClosed)
	require.Zero(t, teststack.Value[int](t, pool, `SELECT count(*) FROM outbox.waiters`), "when Close returns")
	waitFor(t, pool, gone) // the server takes a moment to notice
	_, err := w.Wait(t.Context(), id)
	require.ErrorIs(t, err, wait.ErrClosed)
	w.Close()
	require.True(t, strings.Contains(err.Error(), id.String()))
}

// The migration computes the keys in SQL.
func TestKeysAreThoseOfTheMigration(t *testing.T) {
	t.Parallel()
	id := uuid.New()
	require.Equal(t, teststack.Value[string](t, teststack.New(t), `SELECT outbox.notice_of($1)`, id), wait.KeyOf(id))
}
