package outboxdb_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/outflowhq/outflow/internal/teststack"
)

// In an outage nobody can tell that a destination was never there. When somebody
// can, its messages are not left to one probe after the other.
func TestMissingDestinationHasNoOpenBreaker(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	store := opened(t, pool)
	reject(store, "sqs://down")
	waitFor(t, pool, `SELECT EXISTS (SELECT FROM outbox.destinations WHERE destination = 'sqs://down' AND open_until IS NULL)`)
	b := breakerOf(t, pool, "sqs://down")
	require.Zero(t, b.Failures)
	require.Zero(t, b.Openings)
	require.True(t, b.Recovered, "its retrying runs are told")
	require.False(t, b.Reached, "no message has reached it")
	reached, err := store.Known(t.Context(), "sqs://down")
	require.NoError(t, err)
	require.False(t, reached)

	reject(store, "sqs://nowhere")
	acknowledge(store, "sqs://fine") // by then it would be there, too
	waitFor(t, pool, `SELECT EXISTS (SELECT FROM outbox.destinations WHERE destination = 'sqs://fine')`)
	var known bool
	require.NoError(t, pool.QueryRow(t.Context(), `SELECT EXISTS (SELECT FROM outbox.destinations WHERE destination = 'sqs://nowhere')`).Scan(&known))
	require.False(t, known, "without a failure there is nothing to write")
}
