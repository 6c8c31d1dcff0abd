package outboxdb_test

import (
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/internal/teststack"
	"github.com/outflowhq/outflow/operator"
	"github.com/outflowhq/outflow/outbox"
	"github.com/outflowhq/outflow/outboxdb"
)

var ada = operator.Actor{Who: "ada@host", Why: "the queue is back"}

// finished enqueues a message and writes its end, as if it had been claimed.
func finished(t testing.TB, pool *pgxpool.Pool, m outflow.Message, state outflow.State) uuid.UUID {
	t.Helper()
	id := enqueue(t, pool, m)[0]
	store := outboxdb.New(pool)
	execute(t, pool, `UPDATE outbox.messages SET claims = 1, available_at = now() + interval '1 minute' WHERE id = $1`,
		id)
	ending := outbox.Ending{Ref: ref(id), State: state, LastError: "no such queue", Attempts: 1}
	if state == outflow.Delivered {
		ending.LastError, ending.BrokerMessageID = "", "broker-1"
	}
	_, err := store.Finish(t.Context(), ending)
	require.NoError(t, err)
	return id
}

// audited are the acts noted for a message, with who did them.
func audited(t testing.TB, pool *pgxpool.Pool, id uuid.UUID) []string {
	t.Helper()
	return values[string](t, pool, `SELECT act || ' ' || generation || ' ' || who || ': ' || why || ' ' || detail FROM outbox.audit WHERE message_id = $1 ORDER BY id`, id)
}

func TestRequestCancel(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	store := outboxdb.New(pool)
	claimed := enqueue(t, pool, message("sqs://orders"))[0]
	lease := claim(t, store, request()).Messages[0]
	released := enqueue(t, pool, message("sqs://orders"))[0]
	require.NoError(t, store.GiveBack(t.Context(), claim(t, store, request()).Messages[0], outbox.NotStarted))
	fresh := enqueue(t, pool, message("sqs://orders"))[0]
	execute(t, pool, `UPDATE outbox.messages SET callback = 'https://shop.example/done' WHERE id = $1`, fresh)
	delayed := enqueue(t, pool, outflow.Message{Destination: "sqs://orders", Type: "a", Payload: []byte("{}"),
		DueIn: time.Hour})[0]
	delivered := finished(t, pool, message("sqs://quick"), outflow.Delivered)
	require.Zero(t, stands(t, pool, released).Claims)

	changes, err := store.RequestCancel(t.Context(), []uuid.UUID{claimed, released, delayed, delivered}, "ada@host",
		"the queue is back")
	require.NoError(t, err)
	assert.True(t, changes[0].Done)
	assert.Equal(t, outflow.Pending, changes[0].State, "its run ends it")
	assert.Equal(t, outflow.Pending, changes[1].State, "the start that failed may have come through")
	assert.Equal(t, outflow.Cancelled, changes[2].State)
	assert.False(t, changes[3].Done)

	again, err := store.RequestCancel(t.Context(), []uuid.UUID{claimed}, "ada@host", "the queue is back")
	require.NoError(t, err)
	assert.True(t, again[0].Found)
	assert.True(t, again[0].Done, "its run may not have been asked the first time")
	const entry = `cancel 1 ada@host: the queue is back {}`
	assert.Equal(t, []string{entry, entry}, audited(t, pool, claimed), "an act each")
	assert.Equal(t, []string{`cancel 1 ada@host: the queue is back {"ended": "at once"}`}, audited(t, pool, delayed))

	t.Run("a lease keeps it from being ended", func(t *testing.T) {
		ended, err := store.EndCancelled(t.Context(), ref(claimed), "ada@host", "the queue is back")
		require.NoError(t, err)
		assert.False(t, ended)
		assert.Equal(t, "pending", stands(t, pool, claimed).State)
	})
	t.Run("so does another generation", func(t *testing.T) {
		require.NoError(t, store.GiveBack(t.Context(), lease, outbox.NotStarted))
		ended, err := store.EndCancelled(t.Context(), outbox.Ref{ID: claimed, Generation: 2}, "ada@host",
			"the queue is back")
		require.NoError(t, err)
		assert.False(t, ended)
	})
	t.Run("without either it is ended", func(t *testing.T) {
		ended, err := store.EndCancelled(t.Context(), ref(claimed), "ada@host", "the queue is back")
		require.NoError(t, err)
		assert.True(t, ended)
		assert.Equal(t, "cancelled", stands(t, pool, claimed).State)
		assert.Len(t, audited(t, pool, claimed), 3)
	})
	t.Run("one that nobody asked to cancel is not", func(t *testing.T) {
		ended, err := store.EndCancelled(t.Context(), ref(fresh), "ada@host", "the queue is back")
		require.NoError(t, err)
		assert.False(t, ended)
	})
	t.Run("an acknowledgement still wins", func(t *testing.T) {
		outcome, err := store.Finish(t.Context(),
			outbox.Ending{Ref: ref(claimed), State: outflow.Delivered, BrokerMessageID: "b"})
		require.NoError(t, err)
		assert.Equal(t, outflow.Delivered, outcome.State)
	})
	t.Run("its callback is due", func(t *testing.T) {
		_, err := store.RequestCancel(t.Context(), []uuid.UUID{fresh}, "ada@host", "the queue is back")
		require.NoError(t, err)
		assert.Equal(t, callbackRow{State: "due"}, callbackOf(t, pool, fresh), "by a scanner, at once: it has no run")
	})
}
