package outboxdb_test

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/internal/teststack"
	"github.com/outflowhq/outflow/outbox"
	"github.com/outflowhq/outflow/outboxdb"
)

// Several processes that purge at once share the work.
func TestPurgesAtOnce(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	ended(t, pool, outflow.Delivered, "3 hours", 1000)
	counts := make(chan int)
	for range 4 {
		go func() {
			store, total := outboxdb.New(pool), 0
			for p := (outbox.Purge{State: outflow.Delivered, OlderThan: hour, Limit: 50, History: true}); ; {
				purged, err := store.PurgeMessages(t.Context(), p)
				if err != nil {
					t.Error(err)
				}
				if total += purged.Rows; purged.Rows == 0 {
					counts <- total
					return
				}
			}
		}()
	}
	total := 0
	for range 4 {
		total += <-counts
	}
	require.Equal(t, 1000, total)
	require.Equal(t, 1000, value[int](t, pool, `SELECT count(*) FROM outbox.history`))
}

// TestPurgePlans looks at what a chunk reads among 100,000 rows that it must not
// touch, whatever Postgres believes about them.
func TestPurgePlans(t *testing.T) {
	pool := another(t, teststack.New(t), utc)
	beginLoad(t, pool)
	load(t, pool, 1, 50_000, "paused")
	execute(t, pool, `ANALYZE outbox.messages`)
	load(t, pool, 50_001, 100_000, "delivered")
	ended(t, pool, outflow.Delivered, "3 hours", 20_000)

	look := func(t *testing.T) {
		first := value[time.Time](t, pool, `SELECT min(finished_at) FROM outbox.messages`).Add(-time.Second)
		for name, statement := range map[string]string{"purge": outboxdb.StatementPurge,
			"to history": outboxdb.StatementMove} {
			most := map[string]int{"purge": 9000, "to history": 15_000}[name]
			for _, mode := range []string{"force_custom_plan", "force_generic_plan"} {
				t.Run(name+"/"+mode, func(t *testing.T) {
					p := teststack.Explain(t, pool, mode, statement, outflow.Delivered, "1 hour",
						first.Format(time.RFC3339Nano),
						1000)
					deleted := 0.0
					p.Each(func(n teststack.Plan) {
						if n.Node == "ModifyTable" && n.Table == "messages" {
							deleted = n.Rows
						}
					})
					require.EqualValues(t, 1000, deleted)
					// A row: two looks by index, a lock, a delete; in history, a row and two index
					// entries.
					t.Logf("%s, %s: %d buffers", name, mode, p.Buffers())
					requireIndexed(t, p)
					require.LessOrEqual(t, p.Buffers(), most)
					nothing := teststack.Explain(t, pool, mode, statement, outflow.Dead, "1 hour",
						first.Format(time.RFC3339Nano),
						1000)
					require.LessOrEqual(t, nothing.Buffers(), 50, "nothing to do costs nothing")
				})
			}
		}
	}
	t.Run("statistics from before the first end", look)
	execute(t, pool, `ANALYZE outbox.messages`)
	t.Run("fresh statistics", look)
	execute(t, pool, `DELETE FROM pg_statistic WHERE starelid = 'outbox.messages'::regclass`)
	t.Run("no statistics", look)
}

// Chunk after chunk, a purge reads what it deletes and does not crawl over what
// the chunks before it deleted, even while a snapshot keeps that in the index.
func TestPurgeDoesNotCrawl(t *testing.T) {
	t.Parallel()
	pool := another(t, teststack.New(t), utc)
	beginLoad(t, pool)
	execute(t, pool, `INSERT INTO outbox.messages (id, destination, type, payload, state, finished_at)
		SELECT gen_random_uuid(), 'sqs://orders', 'a', '{}', 'delivered',
		    now() - interval '3 hours' + n * interval '1 ms'
		  FROM generate_series(1, 20000) AS n ORDER BY random()`)
	execute(t, pool, `ANALYZE outbox.messages`)
	holder, err := pool.Begin(t.Context())
	require.NoError(t, err)
	defer func() { _ = holder.Rollback(t.Context()) }()
	_, err = holder.Exec(t.Context(), `SET TRANSACTION ISOLATION LEVEL REPEATABLE READ`)
	require.NoError(t, err)
	require.Equal(t, 20_000, count(t, holder))

	store := outboxdb.New(pool)
	p := outbox.Purge{State: outflow.Delivered, OlderThan: hour, Limit: 1000}
	for range 19 {
		purged := purge(t, store, p)
		require.Equal(t, 1000, purged.Rows)
		p.After = purged.UpTo
	}
	buffers := func(after time.Time) int {
		return teststack.Explain(t, pool, "force_generic_plan", outboxdb.StatementPurge, outflow.Delivered, "1 hour",
			after.Format(time.RFC3339Nano), 100).Buffers()
	}
	marked, fromTheStart := buffers(p.After), buffers(p.After.Add(-hour))
	t.Logf("a chunk of 100 after 19,000: %d buffers from the mark, %d without it", marked, fromTheStart)
	require.Less(t, marked, 2500)
	require.Greater(t, fromTheStart, 15_000, "the snapshot holds nothing back: this test shows nothing")
}

func TestPurgeClauses(t *testing.T) {
	t.Parallel()
	for name, statement := range map[string]string{
		"purge": outboxdb.StatementPurge, "to history": outboxdb.StatementMove,
		"by hand": outboxdb.StatementPurgeByHand, "to history by hand": outboxdb.StatementMoveByHand,
	} {
		text := strings.Join(strings.Fields(statement), " ")
		for _, clause := range []string{
			"WITH old AS MATERIALIZED (",
			"m.state = $1 AND m.finished_at < now() - $2::interval AND m.finished_at >= $3",
			"m.callback_state IS DISTINCT FROM 'due'",
			"ORDER BY m.finished_at LIMIT (SELECT $4::int) FOR UPDATE SKIP LOCKED",
			"USING pg_catalog.unnest(ARRAY(SELECT id FROM old)) AS o (id) " +
				"WHERE m.id = ANY (ARRAY[o.id]) AND m.state = $1",
		} {
			require.Contains(t, text, clause, name)
		}
		require.Equal(t, strings.HasSuffix(name, "by hand"), strings.Contains(text, "INSERT INTO outbox.audit"), name)
	}
}
