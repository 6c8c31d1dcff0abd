package inbox_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/stretchr/testify/require"

	"github.com/outflowhq/outflow/inbox"
	"github.com/outflowhq/outflow/inbox/migrate"
	"github.com/outflowhq/outflow/internal/teststack"
)

// seen fills the inbox with n IDs that are age old.
func seen(t *testing.T, pool *pgxpool.Pool, consumer string, n int, age time.Duration) {
	t.Helper()
	execute(t, pool, `INSERT INTO inbox.seen (consumer, message_id, seen_at)
		SELECT $1, gen_random_uuid(), now() - $3::interval FROM generate_series(1, $2::int)`, consumer, n, age)
}

func left(t *testing.T, pool *pgxpool.Pool, consumer string) int {
	t.Helper()
	return value[int](t, pool, `SELECT count(*) FROM inbox.seen WHERE consumer = $1`, consumer)
}

const day = 24 * time.Hour

func TestPurge(t *testing.T) {
	t.Parallel()
	pool := newInbox(t)
	seen(t, pool, "mailer", 2300, 61*day)
	seen(t, pool, "mailer", 200, 62*day)
	seen(t, pool, "mailer", 7, 59*day)
	seen(t, pool, "billing", 5, 90*day)
	chunks := &statements{}
	traced := another(t, pool, func(c *pgxpool.Config) { c.ConnConfig.Tracer = chunks })

	purged, err := inbox.Purge(t.Context(), traced, "mailer", 60*day, 1200)
	require.NoError(t, err)
	require.Equal(t, 1200, purged)
	require.Equal(t, 1307, left(t, pool, "mailer"))
	require.Zero(t, value[int](t, pool, `SELECT count(*) FROM inbox.seen
		WHERE consumer = 'mailer' AND seen_at < now() - interval '61.5 days'`), "the oldest first")
	require.Equal(t, []any{1000, 200}, chunks.limits)

	purged, err = inbox.Purge(t.Context(), traced, "mailer", 60*day, 100_000)
	require.NoError(t, err)
	require.Equal(t, 1300, purged)
	require.Equal(t, 7, left(t, pool, "mailer"), "too young")
	require.Equal(t, 5, left(t, pool, "billing"), "another consumer's")
	purged, err = inbox.Purge(t.Context(), traced, "mailer", 60*day, 1)
	require.NoError(t, err)
	require.Zero(t, purged)
}

// statements keeps the limit of each statement that a pool sends.
type statements struct{ limits []any }

func (s *statements) TraceQueryStart(ctx context.Context, _ *pgx.Conn, data pgx.TraceQueryStartData) context.Context {
	if len(data.Args) == 5 { // the mode, and four arguments
		s.limits = append(s.limits, data.Args[4])
	}
	return ctx
}

func (s *statements) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData) {}

// Rows that another purge has locked are skipped.
func TestPurgeSkipsLockedRows(t *testing.T) {
	t.Parallel()
	pool := newInbox(t)
	seen(t, pool, "mailer", 20, 61*day)
	holder := begin(t, pool, pgx.ReadCommitted)
	_, err := holder.Exec(t.Context(), `SELECT FROM inbox.seen LIMIT 5 FOR UPDATE`)
	require.NoError(t, err)
	purged, err := inbox.Purge(t.Context(), pool, "mailer", 60*day, 100)
	require.NoError(t, err)
	require.Equal(t, 15, purged)
	require.NoError(t, holder.Rollback(t.Context()))
	purged, err = inbox.Purge(t.Context(), pool, "mailer", 60*day, 100)
	require.NoError(t, err)
	require.Equal(t, 5, purged)
}

// A message that comes again after its ID was purged has its effect again.
func TestAPurgedMessageIsNew(t *testing.T) {
	t.Parallel()
	pool := newInbox(t)
	id := newID()
	execute(t, pool, `INSERT INTO inbox.seen (consumer, message_id, seen_at)
		VALUES ('mailer', $1, now() - interval '61 days')`, id)
	require.NoError(t, deliver(t.Context(), pool, pgx.ReadCommitted, id, false))
	require.Zero(t, value[int](t, pool, `SELECT count(*) FROM effects`), "61 days old, and not purged yet")
	_, err := inbox.Purge(t.Context(), pool, "mailer", 60*day, 10)
	require.NoError(t, err)
	require.NoError(t, deliver(t.Context(), pool, pgx.ReadCommitted, id, false))
	require.Equal(t, 1, value[int](t, pool, `SELECT count(*) FROM effects`))
}

func TestPurgeRefusesBadInput(t *testing.T) {
	t.Parallel()
	pool := newInbox(t)
	seen(t, pool, "mailer", 3, 61*day)
	for field, call := range map[string]func() (int, error){
		"consumer":  func() (int, error) { return inbox.Purge(t.Context(), pool, "", day, 1) },
		"olderThan": func() (int, error) { return inbox.Purge(t.Context(), pool, "mailer", 0, 1) },
		"limit":     func() (int, error) { return inbox.Purge(t.Context(), pool, "mailer", day, 0) },
	} {
		_, err := call()
		var refused *inbox.InputError
		require.ErrorAs(t, err, &refused, field)
		require.Equal(t, field, refused.Field)
	}
	require.Equal(t, 3, left(t, pool, "mailer"))
}

// A chunk reads only what it deletes, however many IDs there are and whatever the planner
// estimates.
func TestPurgeReadsItsIndex(t *testing.T) {
	t.Parallel()
	pool := newInbox(t)
	seen(t, pool, "mailer", 20_000, 59*day)
	seen(t, pool, "mailer", 500, 61*day)
	for _, statistics := range []string{`SELECT 1`, `ANALYZE inbox.seen`} {
		execute(t, pool, statistics)
		rows, err := pool.Query(t.Context(), `EXPLAIN `+inbox.StatementPurge, "mailer", 60*day, time.Time{}, 1000)
		require.NoError(t, err)
		lines, err := pgx.CollectRows(rows, pgx.RowTo[string])
		require.NoError(t, err)
		plan := strings.Join(lines, "\n")
		require.Contains(t, plan, "seen_oldest", statistics)
		require.Contains(t, plan, "seen_pkey", statistics)
		require.NotContains(t, plan, "Seq Scan", statistics)
		require.NotContains(t, plan, "Sort", statistics)
	}
}

// A timeout of the role makes the chunks smaller.
func TestPurgeUnderAStatementTimeout(t *testing.T) {
	t.Parallel()
	pool := newInbox(t)
	execute(t, pool, `INSERT INTO inbox.seen (consumer, message_id, seen_at)
		SELECT 'c', gen_random_uuid(), now() - interval '1 day' + n * interval '1 s' FROM generate_series(1, 30) AS n`)
	execute(t, pool, `CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $$
		BEGIN PERFORM pg_sleep(0.05); RETURN OLD; END $$`)
	execute(t, pool, `CREATE TRIGGER slow BEFORE DELETE ON inbox.seen FOR EACH ROW EXECUTE FUNCTION slow()`)
	hasty := another(t, pool, func(c *pgxpool.Config) { c.ConnConfig.RuntimeParams["statement_timeout"] = "1s" })
	purged, err := inbox.Purge(t.Context(), hasty, "c", time.Hour, 30)
	require.NoError(t, err)
	require.Equal(t, 30, purged)
}

// Every statement works in each of pgx's execution modes, and through PgBouncer.
func TestEveryMode(t *testing.T) {
	t.Parallel()
	for _, mode := range []pgx.QueryExecMode{pgx.QueryExecModeCacheStatement, pgx.QueryExecModeCacheDescribe,
		pgx.QueryExecModeDescribeExec, pgx.QueryExecModeExec, pgx.QueryExecModeSimpleProtocol} {
		for _, pooled := range []bool{false, true} {
			if pooled && (mode == pgx.QueryExecModeCacheStatement || mode == pgx.QueryExecModeDescribeExec) {
				continue // pgx's own, in the caller's transaction
			}
			t.Run(fmt.Sprintf("%s, pooled %t", mode, pooled), func(t *testing.T) {
				t.Parallel()
				setup := newInbox(t)
				config := setup.Config()
				if pooled {
					config = teststack.PgBouncer(t, setup)
				}
				pool := another(t, setup, func(c *pgxpool.Config) {
					*c.ConnConfig = *config.ConnConfig.Copy()
					c.ConnConfig.DefaultQueryExecMode = mode
				})
				_, err := migrate.Up(t.Context(), pool)
				require.NoError(t, err)
				id := uuid.New()
				for _, want := range []bool{true, false} {
					require.NoError(t, pgx.BeginFunc(t.Context(), pool, func(tx pgx.Tx) error {
						first, err := inbox.Once(t.Context(), tx, "c", id)
						require.Equal(t, want, first)
						return err
					}))
				}
				db := stdlib.OpenDBFromPool(pool)
				defer db.Close()
				tx, err := db.BeginTx(t.Context(), nil)
				require.NoError(t, err)
				first, err := inbox.OnceSQL(t.Context(), tx, "c", id)
				require.NoError(t, err)
				require.False(t, first)
				require.NoError(t, tx.Commit())
				execute(t, setup, `UPDATE inbox.seen SET seen_at = now() - interval '1 day'`)
				purged, err := inbox.Purge(t.Context(), pool, "c", time.Hour, 10)
				require.NoError(t, err)
				require.Equal(t, 1, purged)
			})
		}
	}
}
