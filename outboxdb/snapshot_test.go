package outboxdb_test

import (
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/outflowhq/outflow/internal/teststack"
	"github.com/outflowhq/outflow/outboxdb"
)

// While a snapshot is held (a backup, a long report), no dead row can be
// cleaned up or marked in the index. A claim must not crawl over all that were
// delivered since: it starts at the mark. The rows pass without a log of writes,
// which is of no account here.
func TestHeldSnapshot(t *testing.T) {
	t.Parallel()
	pool := another(t, teststack.New(t), utc)
	beginLoad(t, pool)
	const rows, step, own = 250_000, 5_000, 500
	execute(t, pool, `INSERT INTO outbox.messages (id, destination, type, payload, due_at, available_at)
		SELECT gen_random_uuid(), 'sqs://a', 'a', '{}', now() - interval '1 hour',
		    now() - interval '1 hour' + n * interval '1 ms'
		  FROM generate_series(1, $1) AS n ORDER BY random()`, rows+step)
	holder, err := pool.BeginTx(t.Context(), pgx.TxOptions{IsoLevel: pgx.RepeatableRead})
	require.NoError(t, err)
	defer func() { require.NoError(t, holder.Rollback(t.Context())) }()
	require.Equal(t, rows+step, count(t, holder))

	store := outboxdb.New(pool)
	req := request()
	req.MaxMessages = own
	claim(t, store, req)
	store.HoldWalk()
	cost := func(marks []time.Time) int {
		p := teststack.Explain(t, pool, "force_generic_plan", outboxdb.StatementClaim, []string{"sqs://a"},
			[]string{"sqs://a"},
			marks,
			[]string{"10"}, []string{"0"}, 10, 1<<24, "1 minute", 200, []string{}, []string{"false"})
		require.EqualValues(t, 10, p.Rows)
		return p.Buffers()
	}
	_, marks := store.Remembered()
	first := cost(marks)
	for range rows / step {
		// Others take most of them, and this starter the next.
		_, marks = store.Remembered()
		for _, set := range []string{`claims = 1`, `state = 'delivered', finished_at = now()`} {
			execute(t, pool, `UPDATE outbox.messages SET `+set+` WHERE state = 'pending' AND destination = 'sqs://a'
				AND available_at > $1 AND available_at <= $2`, marks[0], marks[0].Add((step-own)*time.Millisecond))
		}
		claimed, err := store.Claim(t.Context(), req)
		require.NoError(t, err)
		require.Len(t, claimed.Messages, own)
		execute(t, pool, `UPDATE outbox.messages SET state = 'delivered', finished_at = now() WHERE id = ANY ($1)`,
			idsOf(claimed))
	}
	_, marks = store.Remembered()
	last := cost(marks)
	passed := value[int](t, pool, `SELECT count(*) FROM outbox.messages WHERE state = 'delivered'`)
	require.GreaterOrEqual(t, passed, rows)
	aDayAgo := []time.Time{time.Now().Add(-24 * time.Hour)}
	cost(aDayAgo) // where nothing holds dead rows, this marks them in the index
	unbounded := cost(aDayAgo)
	t.Logf("buffers of a claim of 10: %d at first, %d after %d rows, %d without the mark", first, last, passed,
		unbounded)
	require.Greater(t, unbounded, 2000, "the snapshot holds nothing back: this test shows nothing")
	require.Less(t, last, 300)
}
