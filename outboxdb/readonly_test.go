package outboxdb_test

import (
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/internal/teststack"
	"github.com/outflowhq/outflow/operator"
	"github.com/outflowhq/outflow/outbox"
	"github.com/outflowhq/outflow/outboxdb"
)

// demote makes sessions of pool, each of which store has used, those of a server that is
// read-only from now on, as an old primary is whose address a failover gave to another.
func demote(t *testing.T, pool *pgxpool.Pool, store *outboxdb.Store, sessions int) {
	t.Helper()
	held := make([]*pgxpool.Conn, 0, sessions)
	for range sessions {
		require.NoError(t, store.Ping(t.Context()))
		conn, err := pool.Acquire(t.Context()) // the one that rested last
		require.NoError(t, err)
		held = append(held, conn)
	}
	for _, conn := range held {
		_, err := conn.Exec(t.Context(), `SET default_transaction_read_only = on`)
		require.NoError(t, err)
		conn.Release()
	}
}

// Connections to a server that became read-only are left: one write fails and says
// so, and all others go to where a new connection leads.
func TestReadOnlyConnectionsAreLeft(t *testing.T) {
	t.Parallel()
	setup := teststack.New(t)
	pool := another(t, setup, func(c *pgxpool.Config) { c.MaxConns = 5 })
	store := outboxdb.New(pool)
	demote(t, pool, store, 5)
	ids := enqueue(t, setup, messages("sqs://a", 10)...)
	store.WalkNext()
	got, err := store.Claim(t.Context(), request())
	require.NoError(t, err)
	require.ErrorContains(t, got.Problem, "read-only: it is a standby")
	require.ErrorContains(t, got.Problem, "25006")
	require.ElementsMatch(t, ids, idsOf(got))
	for _, id := range ids {
		outcome, err := store.Finish(t.Context(), outbox.Ending{Ref: ref(id), State: outflow.Delivered, Attempts: 1})
		require.NoError(t, err)
		require.Equal(t, outflow.Delivered, outcome.State)
	}

	// An operator's command, likewise.
	demote(t, pool, store, 5)
	o := operator.New(pool, nil, "")
	_, err = o.Send(t.Context(), message("sqs://a"), ada)
	require.ErrorContains(t, err, "read-only: it is a standby")
	_, err = o.Send(t.Context(), message("sqs://a"), ada)
	require.NoError(t, err)
}

// While every connection leads to a read-only server, a probe says so, nothing that
// such a server knows is acted on, and an operator can still look.
func TestReadOnlyServer(t *testing.T) {
	t.Parallel()
	setup := teststack.New(t)
	enqueue(t, setup, message("sqs://a"))
	pool := another(t, setup, func(*pgxpool.Config) {})
	store := outboxdb.New(pool)
	database := pool.Config().ConnConfig.Database
	demote(t, pool, store, 3)
	execute(t, setup, `ALTER DATABASE `+database+` SET default_transaction_read_only = on`)
	for range 3 {
		require.ErrorContains(t, store.Ping(t.Context()), "read-only: it is a standby")
		store.WalkNext()
		_, err := store.Claim(t.Context(), request())
		require.ErrorContains(t, err, "read-only: it is a standby")
	}
	o := operator.New(pool, nil, "")
	_, _, err := o.List(t.Context(), operator.ListFilter{Limit: 10})
	require.NoError(t, err)
	require.Contains(t, findings(t, pool)["database fail"].Text, "the server is read-only")

	execute(t, setup, `SET default_transaction_read_only = off; ALTER DATABASE `+database+` RESET default_transaction_read_only`)
	require.Eventually(t, func() bool { return store.Ping(t.Context()) == nil }, time.Minute, time.Millisecond)
	require.Len(t, claim(t, store, request()).Messages, 1)
	require.NotContains(t, findings(t, pool), "database fail")
}
