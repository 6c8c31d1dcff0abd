package outboxdb_test

import (
	"context"
	"slices"
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/internal/teststack"
	"github.com/outflowhq/outflow/outboxdb"
)

// expire has messages expire.
func expire(t testing.TB, q queryer, ids ...uuid.UUID) {
	t.Helper()
	values[uuid.UUID](t, q, `UPDATE outbox.messages SET due_at = now() - interval '1 hour',
		expires_at = now() - interval '1 minute' WHERE id = ANY ($1) RETURNING id`, ids)
}

// A thousand messages that have expired behind another of their key end in a few statements, and the
// next one that has not goes on. Their callbacks are due, and one who waits for an end is notified.
func TestFollowersExpireBySet(t *testing.T) {
	t.Parallel()
	const expired = 1000
	pool := teststack.New(t)
	msgs := keyed("sqs://a", "k", expired+3)
	msgs[1].Callback = "sqs://answers"
	ids := enqueue(t, pool, msgs...)
	other := enqueue(t, pool, keyed("sqs://a", "other", 2)...)
	late := expired + 2 // expired, too, and it comes after one that has not
	gone := append(slices.Clone(ids[1:expired+1]), ids[late])
	expire(t, pool, append(gone, other[1])...)
	_, answers := startWait(t, pool, pool, ids[expired])

	traced, statements := traced(t, pool)
	store := outboxdb.New(traced)
	released := 0
	store.OnRelease(func() { released++ })
	require.Len(t, claim(t, store, request()).Messages, 2)
	end(t, store, outflow.Delivered, ids[0])
	require.Equal(t, "follower", order(t, pool, ids[expired+1]))
	requireOrder(t, pool)
	require.Zero(t, released)
	require.True(t, claim(t, store, request()).Deferred)
	statements.take()
	left, err := store.ReleaseDeferred(t.Context())
	require.NoError(t, err)
	require.False(t, left)
	require.LessOrEqual(t, len(statements.take()), 2+3*(1+expired/outboxdb.ExpiredRows))

	require.Equal(t, "head", order(t, pool, ids[expired+1]))
	require.Equal(t, 1, released)
	require.Equal(t, "follower", order(t, pool, ids[late]))
	require.Equal(t, "follower", order(t, pool, other[1]), "another key's turn has not come")
	require.Equal(t, expired, value[int](t, pool, `SELECT count(*) FROM outbox.messages WHERE state = 'expired'
		AND attempts = 0 AND generation = 1 AND last_error LIKE 'expired: %'`))
	require.Equal(t, ids[1:2], values[uuid.UUID](t, pool,
		`SELECT id FROM outbox.messages WHERE callback_state = 'due' AND callback_due_at <= now()`))
	require.Equal(t, outflow.Expired, requireAnswer(t, answers).State)
	claimed := claim(t, store, request())
	require.Len(t, claimed.Ended, expired, "their ends are counted")
	require.Equal(t, ids[expired+1:late], idsOf(claimed))
	require.Empty(t, claim(t, store, request()).Ended)
	requireOrder(t, pool)
}

// What ends as a follower of one destination leaves the other messages of its group alone.
func TestExpiredFollowerHasSiblings(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	store := outboxdb.New(pool)
	for _, to := range []string{"sqs://a", "sqs://b"} {
		execute(t, pool, `INSERT INTO outbox.routes (type, destination) VALUES ('user-registered', $1)`, to)
	}
	before := enqueue(t, pool, keyed("sqs://a", "k", 1)...)
	group := enqueue(t, pool, keyed(outflow.ByRoute, "k", 1)...)
	waits, sibling := outflow.RoutedID(group[0], "sqs://a"), outflow.RoutedID(group[0], "sqs://b")
	expire(t, pool, waits, sibling)
	end(t, store, outflow.Delivered, before[0])
	settleDeferred(t, store)
	require.Equal(t, "expired", stands(t, pool, waits).State)
	require.Equal(t, "head", order(t, pool, sibling))
	require.Equal(t, "pending", stands(t, pool, sibling).State, "its run ends it")
	requireOrder(t, pool)
}

// A message that has expired and that somebody has locked is waited for: the one behind it does not go
// first.
func TestLockedExpiredFollower(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	store := outboxdb.New(pool)
	ids := enqueue(t, pool, keyed("sqs://a", "k", 4)...)
	expire(t, pool, ids[1:3]...)
	holder, err := pool.Begin(t.Context())
	require.NoError(t, err)
	defer func() { _ = holder.Rollback(context.Background()) }()
	_, err = holder.Exec(t.Context(), `SELECT FROM outbox.messages WHERE id = $1 FOR NO KEY UPDATE`, ids[1])
	require.NoError(t, err)
	end(t, store, outflow.Delivered, ids[0])
	left, err := store.ReleaseDeferred(t.Context())
	require.NoError(t, err)
	require.True(t, left)
	require.Equal(t, "expired", stands(t, pool, ids[2]).State, "nothing depends on its end")
	require.Equal(t, "follower", order(t, pool, ids[3]))
	requireOrder(t, pool)
	require.NoError(t, holder.Rollback(t.Context()))
	settleDeferred(t, store)
	require.Equal(t, "expired", stands(t, pool, ids[1]).State)
	require.Equal(t, "head", order(t, pool, ids[3]))
}

// A single pass waits for a deferred release.
func TestFollowersOfADeferredReleaseWait(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	store := outboxdb.New(pool)
	ids := enqueue(t, pool, keyed("sqs://a", "k", 3)...)
	blocked := enqueue(t, pool, keyed("sqs://a", "blocked", 2)...)
	expire(t, pool, ids[1])
	end(t, store, outflow.Delivered, ids[0])
	end(t, store, outflow.Dead, blocked[0])
	counts, err := store.Pending(t.Context())
	require.NoError(t, err)
	require.Equal(t, []outboxdb.PendingCounts{{Destination: "sqs://a", Waiting: 2, Followers: 1}}, counts)
}
