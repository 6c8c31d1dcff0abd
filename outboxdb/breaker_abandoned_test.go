package outboxdb_test

import (
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/outflowhq/outflow/internal/teststack"
	"github.com/outflowhq/outflow/outboxdb"
)

// probeLeaves has a store choose probes, and requires that the column is set for these breakers
// alone afterwards.
func probeLeaves(t *testing.T, pool *pgxpool.Pool, store *outboxdb.Store, column string, destinations ...string) {
	t.Helper()
	_, err := store.TakeProbes(t.Context())
	require.NoError(t, err)
	require.Equal(t, destinations, values[string](t, pool,
		`SELECT destination FROM outbox.destinations WHERE `+column+` IS NOT NULL ORDER BY 1`))
}

// A breaker that no message waits for closes.
func TestAbandonedBreakersClose(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	enqueue(t, pool, message("sqs://waited-for"))
	execute(t, pool, `INSERT INTO outbox.destinations (destination, failures, failing_since, openings, open_until)
		VALUES ('sqs://abandoned', 9, now(), 1, now() - interval '3 minutes'),
		    ('sqs://waited-for', 9, now(), 1, now() - interval '3 minutes'),
		       ('sqs://recent', 9, now(), 1, now())`)
	probeLeaves(t, pool, outboxdb.New(pool), "open_until", "sqs://recent", "sqs://waited-for")
}

// Failures that opened no breaker are forgotten once no message waits for it.
func TestStaleFailuresAreForgotten(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	enqueue(t, pool, message("sqs://waited-for"))
	execute(t, pool, `INSERT INTO outbox.destinations (destination, failures, failing_since)
		VALUES ('https://example.org#new', 2, now() - interval '11 minutes'),
		    ('sqs://waited-for', 2, now() - interval '11 minutes'), ('sqs://recent', 2, now())`)
	store := outboxdb.New(pool)
	require.True(t, claim(t, store, request()).BreakerActive)
	execute(t, pool, `UPDATE outbox.messages SET parked = false`)
	probeLeaves(t, pool, store, "failing_since", "sqs://recent", "sqs://waited-for")
}

// Where abandoned breakers can't be closed, the others are probed all the same.
func TestProbesGoOnWhereAbandonedBreakersStay(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	slow := &slow{these: func(data pgx.TraceQueryStartData) bool { return data.SQL == outboxdb.StatementCloseAbandoned }}
	slow.on.Store(true)
	opened(t, pool)
	id := enqueue(t, pool, message("sqs://down"))[0]
	probeNow(t, pool)
	probes, err := slow.store(t, pool).TakeProbes(t.Context())
	require.ErrorContains(t, err, "closing breakers that no message waits for")
	require.Len(t, probes, 1)
	require.Equal(t, id, probes[0].ID)
}
