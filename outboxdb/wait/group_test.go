package wait_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/internal/teststack"
	"github.com/outflowhq/outflow/outbox"
	"github.com/outflowhq/outflow/outboxdb"
	"github.com/outflowhq/outflow/outboxdb/wait"
)

const toA, toB, toHook = "sqs://a", "sqs://b", "https://shop.example/in?token=hunter2"

// enqueueGroups commits n groups of three messages.
func enqueueGroups(t testing.TB, pool *pgxpool.Pool, n int) (groups []uuid.UUID) {
	t.Helper()
	teststack.Execute(t, pool, `INSERT INTO outbox.routes (type, destination)
		SELECT 'user-registered', d FROM unnest($1::text[]) AS d ON CONFLICT DO NOTHING`, []string{toA, toB, toHook})
	msgs := make([]outflow.Message, n)
	for i := range msgs {
		msgs[i] = newMessage()
		msgs[i].Destination = outflow.ByRoute
	}
	err := pgx.BeginFunc(t.Context(), pool, func(tx pgx.Tx) (err error) {
		groups, err = outboxdb.Enqueue(t.Context(), tx, msgs...)
		return err
	})
	require.NoError(t, err)
	return groups
}

func members(group uuid.UUID) []uuid.UUID {
	var ids []uuid.UUID
	for _, d := range []string{toA, toB, toHook} {
		ids = append(ids, outflow.RoutedID(group, d))
	}
	return ids
}

// requireEnds returns the states of a WaitAll that ends, in the order of the outcomes.
func requireEnds(t testing.TB, answers <-chan ends) (states []outflow.State) {
	t.Helper()
	for _, o := range requireAnswer(t, answers) {
		states = append(states, o.State)
	}
	return states
}

var (
	dead         = outbox.Ending{State: outflow.Dead, LastError: "no such queue", Attempts: 1}
	allDelivered = []outflow.State{outflow.Delivered, outflow.Delivered, outflow.Delivered}
)

// What is over already is returned at once: each message's end, one of them a failure, which is no
// error.
func TestWaitAllForWhatHasEnded(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	w := newWaiter(t, pool)
	group := enqueueGroups(t, pool, 1)[0]
	ids := members(group)
	deliver(t, pool, ids[0], ids[2])
	finish(t, pool, dead, ids[1])
	outcomes, err := w.WaitAll(t.Context(), group)
	require.NoError(t, err)
	require.Len(t, outcomes, 3)
	for i, wants := range []struct {
		id          uuid.UUID
		destination string
		state       outflow.State
	}{
		{ids[2], "https://shop.example/in", outflow.Delivered}, {ids[0], toA, outflow.Delivered},
		{ids[1], toB, outflow.Dead},
	} {
		assert.Equal(t, wants.id, outcomes[i].ID)
		assert.Equal(t, wants.destination, outcomes[i].Destination, "the query may hold a token")
		assert.Equal(t, wants.state, outcomes[i].State)
		assert.Equal(t, 1, outcomes[i].Attempts)
		assert.NotZero(t, outcomes[i].FinishedAt)
	}
	assert.Equal(t, "no such queue", outcomes[2].LastError)
	assert.Zero(t, listening(t, pool), "there was nothing to wait for")

	one := enqueue(t, pool, 1)[0]
	deliver(t, pool, one)
	outcomes, err = w.WaitAll(t.Context(), one)
	require.NoError(t, err)
	require.Len(t, outcomes, 1, "a message of no group is its own")
	assert.Equal(t, one, outcomes[0].ID)
	outcomes, err = w.WaitAll(t.Context(), ids[0])
	require.NoError(t, err)
	require.Len(t, outcomes, 1, "of a group's message it is that message")

	_, err = w.WaitAll(t.Context(), uuid.New())
	require.ErrorIs(t, err, outflow.ErrNotFound)
	_, err = w.Wait(t.Context(), group)
	require.ErrorIs(t, err, outflow.ErrNotFound, "a group's ID is no message's")
}

func TestWaitAllIsNotified(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	own, tr := traced(t, pool)
	w := newWaiter(t, own)
	groups := enqueueGroups(t, pool, 2)
	first, other := startWaitAll(t, w, groups[0]), startWaitAll(t, w, groups[1])
	single := startWait(t, w, outflow.RoutedID(groups[0], toB))
	requireNotified(t, w)
	require.Eventually(t, func() bool { return tr.takePolls() == 0 }, 10*time.Second, 50*time.Millisecond,
		"it polls again and again")
	ids := members(groups[0])
	deliver(t, pool, ids[0])
	finish(t, pool, dead, ids[1])
	requireAnswer(t, single)
	requireNoAnswer(t, first)
	deliver(t, pool, ids[2])
	require.Equal(t, []outflow.State{outflow.Delivered, outflow.Delivered, outflow.Dead}, requireEnds(t, first))
	requireNoAnswer(t, other)
	assert.LessOrEqual(t, tr.takePolls(), 4, "a poll of the group for each end, one of the message")
	deliver(t, pool, members(groups[1])...)
	require.Equal(t, allDelivered, requireEnds(t, other))
}

// A message that ends while the group is first polled notifies nobody who knows it by then.
func TestWaitAllForAnEndDuringTheFirstPoll(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	w := newWaiter(t, pool)
	groups := enqueueGroups(t, pool, 2)
	other := startWaitAll(t, w, groups[1])
	requireNotified(t, w)
	ids := members(groups[0])
	deliver(t, pool, ids[:2]...)
	tx, err := pool.Begin(t.Context())
	require.NoError(t, err)
	defer func() { _ = tx.Rollback(context.Background()) }()
	_, err = tx.Exec(t.Context(), `LOCK TABLE outbox.messages`)
	require.NoError(t, err)
	answers := startWaitAll(t, w, groups[0])
	waitFor(t, pool, waitsForLock)
	_, err = tx.Exec(t.Context(), `UPDATE outbox.messages SET state = 'delivered', finished_at = now() WHERE id = $1`,
		ids[2])
	require.NoError(t, err)
	_, err = tx.Exec(t.Context(), `SELECT outbox.notify_waiters($1)`, ids[2:])
	require.NoError(t, err)
	require.NoError(t, tx.Commit(t.Context()))
	require.Equal(t, allDelivered, requireEnds(t, answers))
	requireNoAnswer(t, other)
}

func TestAThousandGroupsOnOneConnection(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	own, tr := traced(t, teststack.Another(t, pool, func(c *pgxpool.Config) { c.MaxConns = 4 }))
	w := newWaiter(t, own)
	groups := enqueueGroups(t, pool, 1000)
	var waits sync.WaitGroup
	answers := make([]ends, len(groups))
	for i, group := range groups {
		waits.Go(func() { answers[i].outcome, answers[i].err = w.WaitAll(t.Context(), group) })
	}
	require.Eventually(t, func() bool { return w.Waiting() == len(groups) }, 20*time.Second, time.Millisecond)
	requireNotified(t, w)
	require.Eventually(t, func() bool { return tr.takePolls() == 0 }, 20*time.Second, 50*time.Millisecond)
	assert.Equal(t, 1, listening(t, pool))
	teststack.Execute(t, pool, `WITH ended AS (
		UPDATE outbox.messages SET state = 'delivered', finished_at = now() RETURNING id)
		SELECT outbox.notify_waiters(ARRAY(SELECT id FROM ended))`)
	waits.Wait()
	for i := range answers {
		require.NoError(t, answers[i].err)
		require.Len(t, answers[i].outcome, 3)
	}
	n := tr.takePolls()
	t.Logf("%d polls for the ends of %d messages", n, 3*len(groups))
	assert.LessOrEqual(t, n, 10)
}

func TestWaitAllUntilTheContextEnds(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	w := newWaiter(t, pool)
	group := enqueueGroups(t, pool, 1)[0]
	deliver(t, pool, members(group)[0])
	ctx := untilNotified(t, w)
	outcomes, err := w.WaitAll(ctx, group)
	require.ErrorIs(t, err, context.Canceled)
	require.ErrorContains(t, err, "waiting for the messages of "+group.String())
	require.Len(t, outcomes, 3, "as they were last seen")
	require.Equal(t, []outflow.State{outflow.Pending, outflow.Delivered, outflow.Pending},
		[]outflow.State{outcomes[0].State, outcomes[1].State, outcomes[2].State})
	require.Zero(t, w.Waiting())
	outcomes, err = w.WaitAll(ctx, group)
	require.ErrorIs(t, err, context.Canceled)
	require.Empty(t, outcomes, "nothing was polled")
}

// While others are pending, an operator retries a message of the group that had ended.
func TestWaitAllForAMessageThatIsRetried(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	w := newWaiter(t, pool)
	group := enqueueGroups(t, pool, 1)[0]
	ids := members(group)
	finish(t, pool, dead, ids[0])
	answers := startWaitAll(t, w, group)
	requireNotified(t, w)
	teststack.Execute(t, pool,
		`UPDATE outbox.messages SET state = 'pending', finished_at = NULL, generation = 2 WHERE id = $1`, ids[0])
	deliver(t, pool, ids[1])
	deliver(t, pool, ids[2])
	requireNoAnswer(t, answers)
	_, err := outboxdb.New(pool).Finish(t.Context(),
		outbox.Ending{Ref: outbox.Ref{ID: ids[0], Generation: 2}, State: outflow.Delivered})
	require.NoError(t, err)
	require.Equal(t, allDelivered, requireEnds(t, answers), "all of them at one moment")
}

func TestWaitAllForPurgedMessages(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	w := newWaiter(t, pool, wait.PollEvery(50*time.Millisecond))
	groups := enqueueGroups(t, pool, 2)
	first, second := startWaitAll(t, w, groups[0]), startWaitAll(t, w, groups[1])
	requireNotified(t, w)
	teststack.Execute(t, pool, `DELETE FROM outbox.messages WHERE group_id = $1 AND destination <> $2`, groups[0], toA)
	deliver(t, pool, members(groups[0])[0])
	require.Equal(t, []outflow.State{outflow.Delivered}, requireEnds(t, first), "those that are left")
	teststack.Execute(t, pool, `DELETE FROM outbox.messages WHERE group_id = $1`, groups[1])
	require.ErrorIs(t, (<-second).err, outflow.ErrNotFound)
}

func TestWaitAllPollsWithoutNotifications(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	b, config := teststack.NewRelay(t, pool) // as a transaction pooler
	b.DropNotifications.Store(true)
	own, tr := traced(t, pool)
	var logged syncBuffer
	w := newWaiter(t, own, wait.ListenOn(config), wait.LogTo(slog.New(slog.NewTextHandler(&logged, nil))))
	w.SetTimes(time.Minute, time.Minute, 200*time.Millisecond)
	groups := enqueueGroups(t, pool, 50)
	var all []<-chan ends
	for _, group := range groups {
		all = append(all, startWaitAll(t, w, group))
	}
	require.Eventually(t, func() bool { return logged.contains("polled") }, 10*time.Second, 5*time.Millisecond)
	tr.takePolls()
	teststack.Execute(t, pool, `UPDATE outbox.messages SET state = 'delivered', finished_at = now()`)
	for _, answers := range all {
		require.Equal(t, allDelivered, requireEnds(t, answers))
	}
	assert.LessOrEqual(t, tr.takePolls(), 10, "they are polled together")
	assert.False(t, w.Notified())
}

func TestWaitAllSurvivesItsConnection(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	w := newWaiter(t, pool)
	groups := enqueueGroups(t, pool, 3)
	last := startWaitAll(t, w, groups[2])
	requireNotified(t, w)
	for _, group := range groups[:2] {
		answers := startWaitAll(t, w, group)
		waitFor(t, pool, `SELECT count(pg_terminate_backend(pid)) = 1 FROM pg_stat_activity
			WHERE datname = current_database() AND query = $1`, wait.StatementListen)
		deliver(t, pool, members(group)...) // the notifications are lost, or nearly always
		require.Equal(t, allDelivered, requireEnds(t, answers))
		requireNotified(t, w)
		require.Eventually(t, func() bool { return listening(t, pool) == 1 }, 10*time.Second, 10*time.Millisecond)
	}
	requireNoAnswer(t, last)
	w.Close()
	require.ErrorIs(t, (<-last).err, wait.ErrClosed)
	_, err := w.WaitAll(t.Context(), groups[2])
	require.ErrorIs(t, err, wait.ErrClosed)
}

// The pool's own connections break while the group is polled.
func TestWaitAllOutlivesTheDatabase(t *testing.T) {
	t.Parallel()
	nowhere, err := pgxpool.New(t.Context(), "postgres://nobody@127.0.0.1:1/nothing")
	require.NoError(t, err)
	defer nowhere.Close()
	w := newWaiter(t, nowhere)
	defer w.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	_, err = w.WaitAll(ctx, uuid.New())
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.ErrorContains(t, err, "connection refused")

	pool := teststack.New(t)
	own := teststack.Another(t, pool, func(c *pgxpool.Config) {
		c.ConnConfig.RuntimeParams["application_name"] = "polls"
	})
	alive := newWaiter(t, own, wait.PollEvery(20*time.Millisecond))
	group := enqueueGroups(t, pool, 1)[0]
	answers := startWaitAll(t, alive, group)
	for range 5 {
		waitFor(t, pool, `SELECT count(pg_terminate_backend(pid)) > 0 FROM pg_stat_activity
			WHERE datname = current_database() AND application_name = 'polls'`)
	}
	deliver(t, pool, members(group)...)
	require.Equal(t, allDelivered, requireEnds(t, answers))
}

// Whoever lacks the right for groups still waits for messages.
func TestWaitAllWithoutRights(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	role := teststack.NewRole(t, pool)
	teststack.Execute(t, pool, fmt.Sprintf(`GRANT USAGE ON SCHEMA outbox TO %[1]s;
		GRANT EXECUTE ON FUNCTION outbox.outcomes(uuid[]), outbox.keep_waiter(uuid), outbox.drop_waiter(uuid) TO %[1]s`,
		role))
	w := newWaiter(t, teststack.WithRole(t, pool, role))
	group, id := enqueueGroups(t, pool, 1)[0], enqueue(t, pool, 1)[0]
	one := startWait(t, w, id)
	_, err := w.WaitAll(t.Context(), group)
	require.ErrorContains(t, err, "permission denied for function group_outcomes")
	requireNoAnswer(t, one)
	deliver(t, pool, id)
	requireAnswer(t, one)
}

func TestWaitAllOverSQL(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	for name, db := range teststack.OpenSQL(t, pool) {
		t.Run(name, func(t *testing.T) {
			w := wait.NewSQL(db, wait.LogTo(slog.New(slog.NewTextHandler(new(bytes.Buffer), nil))))
			t.Cleanup(w.Close)
			group := enqueueGroups(t, pool, 1)[0]
			answers := startWaitAll(t, w, group)
			deliver(t, pool, members(group)...)
			require.Equal(t, allDelivered, requireEnds(t, answers))
		})
	}
}
