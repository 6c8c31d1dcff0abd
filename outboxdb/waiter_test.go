package outboxdb_test

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/internal/teststack"
	"github.com/outflowhq/outflow/outbox"
	"github.com/outflowhq/outflow/outboxdb"
)

// newWaiter returns a Waiter that polls so rarely that only a notification can be
// what woke it, once it hears them.
func newWaiter(t testing.TB, pool *pgxpool.Pool, options ...outboxdb.WaiterOption) *outboxdb.Waiter {
	t.Helper()
	options = append([]outboxdb.WaiterOption{outboxdb.PollEvery(time.Hour), outboxdb.LogTo(slog.New(slog.DiscardHandler))}, options...)
	w := outboxdb.NewWaiter(pool, options...)
	w.SetSettle(100 * time.Millisecond) // other tests' transactions may be long
	t.Cleanup(w.Close)
	return w
}

// answer is what a Wait returned.
type answer struct {
	outcome outflow.Outcome
	err     error
}

// wait waits in the background.
func wait(t testing.TB, w *outboxdb.Waiter, id uuid.UUID) <-chan answer {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	answers := make(chan answer, 1)
	before := w.Waiting()
	go func() {
		outcome, err := w.Wait(ctx, id)
		answers <- answer{outcome, err}
	}()
	require.Eventually(t, func() bool { return w.Waiting() > before || len(answers) > 0 }, 10*time.Second, time.Millisecond)
	return answers
}

func requireAnswer(t testing.TB, answers <-chan answer) outflow.Outcome {
	t.Helper()
	select {
	case a := <-answers:
		require.NoError(t, a.err)
		return a.outcome
	case <-time.After(20 * time.Second):
		t.Fatal("nobody was woken")
		return outflow.Outcome{}
	}
}

func requireNoAnswer(t testing.TB, answers <-chan answer) {
	t.Helper()
	select {
	case a := <-answers:
		t.Fatalf("woken by nothing: %+v", a)
	default:
	}
}

func hears(t testing.TB, w *outboxdb.Waiter) {
	t.Helper()
	require.Eventually(t, w.Hears, 20*time.Second, time.Millisecond, "it hears nothing")
}

// listening counts the connections that listen for ends.
func listening(t testing.TB, pool *pgxpool.Pool) int {
	t.Helper()
	return value[int](t, pool, `SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND query = $1`, outboxdb.StatementListen)
}

func looks(tr *tracer) (n int) {
	for _, statement := range tr.take() {
		if statement == outboxdb.StatementOutcomes {
			n++
		}
	}
	return n
}

func deliver(t testing.TB, pool *pgxpool.Pool, ids ...uuid.UUID) {
	t.Helper()
	var endings []outbox.Ending
	for _, id := range ids {
		endings = append(endings, outbox.Ending{Ref: ref(id), State: outflow.Delivered, BrokerMessageID: "broker-1", Attempts: 1})
	}
	_, errs := outboxdb.New(pool).FinishBatch(t.Context(), endings...)
	for _, err := range errs {
		require.NoError(t, err)
	}
}

func TestWaitForWhatHasEnded(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	w := newWaiter(t, pool)
	for _, state := range []outflow.State{outflow.Delivered, outflow.Dead, outflow.Expired, outflow.Cancelled} {
		id := finished(t, pool, message("sqs://orders"), state)
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
	assert.Zero(t, value[int](t, pool, `SELECT count(*) FROM outbox.waiters`))
}

func TestWaitIsWoken(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	own, tr := traced(t, pool)
	w := newWaiter(t, own)
	ids := enqueue(t, pool, messages("sqs://orders", 3)...)
	first, other := wait(t, w, ids[0]), wait(t, w, ids[1])
	hears(t, w)
	require.Eventually(t, func() bool { return looks(tr) == 0 }, 10*time.Second, 50*time.Millisecond, "it looks again and again")

	deliver(t, pool, ids[0])
	outcome := requireAnswer(t, first)
	assert.Equal(t, outflow.Delivered, outcome.State)
	assert.Equal(t, "broker-1", outcome.BrokerMessageID)
	assert.Equal(t, 1, looks(tr), "one look for one end")
	requireNoAnswer(t, other)

	// Nobody waits for this one: it costs no look.
	deliver(t, pool, ids[2])
	deliver(t, pool, ids[1])
	requireAnswer(t, other)
	assert.Equal(t, 1, looks(tr))
}

func TestAThousandWaitOnOneConnection(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	own, tr := traced(t, another(t, pool, func(c *pgxpool.Config) { c.MaxConns = 4 }))
	w := newWaiter(t, own)
	ids := enqueue(t, pool, messages("sqs://orders", 1000)...)
	var waits sync.WaitGroup
	answers := make([]answer, len(ids))
	for i, id := range ids {
		waits.Go(func() { answers[i].outcome, answers[i].err = w.Wait(t.Context(), id) })
	}
	require.Eventually(t, func() bool { return w.Waiting() == len(ids) }, 20*time.Second, time.Millisecond)
	hears(t, w)
	assert.Equal(t, 1, listening(t, pool))
	assert.Equal(t, 1, value[int](t, pool, `SELECT count(*) FROM outbox.waiters`))
	t.Logf("%d looks until all of them waited", looks(tr))

	deliver(t, pool, ids[:500]...)
	deliver(t, pool, ids[500:]...)
	waits.Wait()
	for i := range answers {
		require.NoError(t, answers[i].err)
		require.Equal(t, ids[i], answers[i].outcome.ID)
		require.Equal(t, outflow.Delivered, answers[i].outcome.State)
	}
	n := looks(tr)
	t.Logf("%d looks for their ends", n)
	assert.LessOrEqual(t, n, 10)
}

func TestWaitUntilTheContextEnds(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	w := newWaiter(t, pool)
	id := enqueue(t, pool, message("sqs://orders"))[0]
	execute(t, pool, `UPDATE outbox.messages SET attempts = 3, last_error = 'throttled' WHERE id = $1`, id)
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	outcome, err := w.Wait(ctx, id)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.ErrorContains(t, err, "waiting for message "+id.String())
	require.Equal(t, outflow.Outcome{ID: id, State: outflow.Pending, Generation: 1, Attempts: 3, LastError: "throttled"}, outcome)
	require.Zero(t, w.Waiting())

	outcome, err = w.Wait(ctx, id)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.Equal(t, outflow.Outcome{ID: id}, outcome, "nothing was looked at")
}

func TestWaitForWhatIsPurged(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	w := newWaiter(t, pool, outboxdb.PollEvery(50*time.Millisecond))
	id := enqueue(t, pool, message("sqs://orders"))[0]
	answers := wait(t, w, id)
	hears(t, w)
	execute(t, pool, `DELETE FROM outbox.messages WHERE id = $1`, id)
	require.ErrorIs(t, (<-answers).err, outflow.ErrNotFound)
}

// A look under way says nothing of what was committed before a later Wait.
func TestWaitIsNotAnsweredByAnOlderLook(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	w := newWaiter(t, pool)
	m := withIDs(1)[0]
	tx, err := pool.Begin(t.Context())
	require.NoError(t, err)
	defer func() { _ = tx.Rollback(context.Background()) }()
	_, err = tx.Exec(t.Context(), `LOCK TABLE outbox.messages`)
	require.NoError(t, err)
	early := wait(t, w, m.ID)
	waitFor(t, pool, waitsForLock)
	_, err = outboxdb.Enqueue(t.Context(), tx, m)
	require.NoError(t, err)
	late := wait(t, w, m.ID) // as if after the commit: the look does not see it either way
	require.NoError(t, tx.Commit(t.Context()))
	require.ErrorIs(t, (<-early).err, outflow.ErrNotFound)
	deliver(t, pool, m.ID)
	require.Equal(t, outflow.Delivered, requireAnswer(t, late).State)
}

func TestWaitWithoutRights(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	w := newWaiter(t, withRole(t, pool, newRole(t, pool)))
	_, err := w.Wait(t.Context(), uuid.New())
	require.Equal(t, "42501", sqlState(err), "%v", err)
}

func TestWaitWithoutADatabase(t *testing.T) {
	t.Parallel()
	nowhere, err := pgxpool.New(t.Context(), "postgres://nobody@127.0.0.1:1/nothing")
	require.NoError(t, err)
	defer nowhere.Close()
	w := newWaiter(t, nowhere)
	defer w.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	_, err = w.Wait(ctx, uuid.New())
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.ErrorContains(t, err, "connection refused")
}

func TestWaiterLetsGo(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	gone := fmt.Sprintf(`SELECT NOT EXISTS (SELECT FROM outbox.waiters) AND NOT EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database() AND query = '%s')`, outboxdb.StatementListen)
	w := newWaiter(t, pool)
	w.SetTimes(100*time.Millisecond, time.Minute, 5*time.Second)
	for range 2 {
		id := enqueue(t, pool, message("sqs://orders"))[0]
		answers := wait(t, w, id)
		hears(t, w)
		deliver(t, pool, id)
		requireAnswer(t, answers)
		require.Eventually(t, func() bool { return !w.Busy() }, 10*time.Second, 5*time.Millisecond)
		waitFor(t, pool, gone)
	}

	w = newWaiter(t, pool)
	id := enqueue(t, pool, message("sqs://orders"))[0]
	answers := wait(t, w, id)
	hears(t, w)
	w.Close()
	require.ErrorIs(t, (<-answers).err, outboxdb.ErrWaiterClosed)
	require.Zero(t, value[int](t, pool, `SELECT count(*) FROM outbox.waiters`), "when Close returns")
	waitFor(t, pool, gone) // the server takes a moment to notice
	_, err := w.Wait(t.Context(), id)
	require.ErrorIs(t, err, outboxdb.ErrWaiterClosed)
	w.Close()
	require.True(t, strings.Contains(err.Error(), id.String()))
}
