package inbox_test

import (
	"context"
	"database/sql"
	"errors"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/outflowhq/outflow/inbox"
	"github.com/outflowhq/outflow/inbox/migrate"
	"github.com/outflowhq/outflow/internal/teststack"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// newInbox returns a pool on a database of its own with an inbox and a table for
// effects.
func newInbox(t *testing.T) *pgxpool.Pool {
	t.Helper()
	pool := teststack.NewEmpty(t)
	_, err := migrate.Up(t.Context(), pool)
	require.NoError(t, err)
	execute(t, pool, `CREATE TABLE effects (message_id uuid NOT NULL)`)
	return pool
}

func execute(t *testing.T, pool *pgxpool.Pool, statement string, args ...any) {
	t.Helper()
	teststack.Execute(t, pool, statement, args...)
}

func value[T any](t *testing.T, pool *pgxpool.Pool, query string, args ...any) T {
	t.Helper()
	return teststack.Value[T](t, pool, query, args...)
}

// another returns a second pool on pool's database, with its settings changed.
func another(t *testing.T, pool *pgxpool.Pool, change func(*pgxpool.Config)) *pgxpool.Pool {
	t.Helper()
	return teststack.Another(t, pool, change)
}

func newID() uuid.UUID { return uuid.Must(uuid.NewV7()) }

// session is a consumer's transaction, whatever its driver.
type session interface {
	once(ctx context.Context, consumer string, id uuid.UUID) (bool, error)
	// act is the consumer's own work.
	act(ctx context.Context, id uuid.UUID) error
	commit(ctx context.Context) error
	rollback(ctx context.Context) error
}

type pgxSession struct{ pgx.Tx }

func (s pgxSession) once(ctx context.Context, consumer string, id uuid.UUID) (bool, error) {
	return inbox.Once(ctx, s.Tx, consumer, id)
}

func (s pgxSession) act(ctx context.Context, id uuid.UUID) error {
	_, err := s.Exec(ctx, insertEffect, id.String())
	return err
}

func (s pgxSession) commit(ctx context.Context) error   { return s.Commit(ctx) }
func (s pgxSession) rollback(ctx context.Context) error { return s.Rollback(ctx) }

type sqlSession struct{ *sql.Tx }

func (s sqlSession) once(ctx context.Context, consumer string, id uuid.UUID) (bool, error) {
	return inbox.OnceSQL(ctx, s.Tx, consumer, id)
}

func (s sqlSession) act(ctx context.Context, id uuid.UUID) error {
	_, err := s.ExecContext(ctx, insertEffect, id.String())
	return err
}

func (s sqlSession) commit(context.Context) error   { return s.Commit() }
func (s sqlSession) rollback(context.Context) error { return s.Rollback() }

const insertEffect = `INSERT INTO effects VALUES ($1::uuid)`

// driver begins transactions with a driver and a protocol.
type driver struct {
	name  string
	begin func(t *testing.T) session
}

func drivers(t *testing.T, pool *pgxpool.Pool) []driver {
	t.Helper()
	over := func(name string, pool *pgxpool.Pool) driver {
		return driver{name, func(t *testing.T) session {
			tx, err := pool.Begin(t.Context())
			require.NoError(t, err)
			return pgxSession{tx}
		}}
	}
	overSQL := func(name string, db *sql.DB) driver {
		return driver{name, func(t *testing.T) session {
			tx, err := db.BeginTx(t.Context(), nil)
			require.NoError(t, err)
			return sqlSession{tx}
		}}
	}
	mode := func(m pgx.QueryExecMode) *pgxpool.Pool {
		return another(t, pool, func(c *pgxpool.Config) { c.ConnConfig.DefaultQueryExecMode = m })
	}
	return []driver{
		over("pgx", pool),
		over("pgx, exec", mode(pgx.QueryExecModeExec)),
		over("pgx, simple protocol", mode(pgx.QueryExecModeSimpleProtocol)),
		overSQL("database-sql, pgx", teststack.OpenSQL(t, pool)["pgx"]),
		overSQL("database-sql, pq", teststack.OpenPQ(t, pool, nil)),
		overSQL("database-sql, pq, binary parameters",
			teststack.OpenPQ(t, pool, url.Values{"binary_parameters": {"yes"}})),
	}
}

func TestOnce(t *testing.T) {
	t.Parallel()
	pool := newInbox(t)
	for _, d := range drivers(t, pool) {
		t.Run(d.name, func(t *testing.T) {
			id := newID()
			says := func(want bool, tx session, consumer string) {
				t.Helper()
				first, err := tx.once(t.Context(), consumer, id)
				require.NoError(t, err)
				require.Equal(t, want, first)
			}
			tx := d.begin(t)
			says(true, tx, "mailer")
			says(false, tx, "mailer")
			require.NoError(t, tx.rollback(t.Context()))

			tx = d.begin(t)
			says(true, tx, "mailer")
			require.NoError(t, tx.act(t.Context(), id))
			require.NoError(t, tx.commit(t.Context()))

			tx = d.begin(t)
			says(false, tx, "mailer")
			says(true, tx, "billing") // each consumer has its own
			require.NoError(t, tx.commit(t.Context()))
			require.Equal(t, 2, value[int](t, pool, `SELECT count(*) FROM inbox.seen WHERE message_id = $1`, id))
		})
	}
}

func TestBadInputLeavesTheTransactionUsable(t *testing.T) {
	t.Parallel()
	pool := newInbox(t)
	for _, d := range drivers(t, pool) {
		t.Run(d.name, func(t *testing.T) {
			tx := d.begin(t)
			for _, tc := range []struct {
				consumer string
				id       uuid.UUID
				field    string
				got      string
			}{
				{"", newID(), "consumer", `(got "")`},
				{strings.Repeat("c", 201), newID(), "consumer", "(got 201 bytes)"},
				{"two words", newID(), "consumer", `(got "two words")`},
				{"a\x00", newID(), "consumer", `(got "a\x00")`},
				{"a\xff", newID(), "consumer", `(got "a\xff")`},
				{"line\n", newID(), "consumer", `(got "line\n")`},
				{"mailer", uuid.Nil, "message ID", "(got the zero UUID)"},
			} {
				_, err := tx.once(t.Context(), tc.consumer, tc.id)
				var refused *inbox.InputError
				require.ErrorAs(t, err, &refused)
				require.Equal(t, tc.field, refused.Field)
				require.Contains(t, refused.Wants, tc.got)
			}
			id := newID()
			first, err := tx.once(t.Context(), "C0nsumer._:/-"+strings.Repeat("c", 187), id)
			require.NoError(t, err)
			require.True(t, first)
			require.NoError(t, tx.commit(t.Context()))
			require.Equal(t, 1, value[int](t, pool, `SELECT count(*) FROM inbox.seen WHERE message_id = $1`, id))
		})
	}
}

// The table holds what other languages write to the same rules.
func TestTheTableRefusesTheSame(t *testing.T) {
	t.Parallel()
	pool := newInbox(t)
	for _, consumer := range []string{"", strings.Repeat("c", 201), "two words", "line\n", "-a"} {
		_, err := pool.Exec(t.Context(), `INSERT INTO inbox.seen (consumer, message_id) VALUES ($1, $2)`, consumer,
			newID())
		require.ErrorContains(t, err, "seen_consumer", consumer)
	}
	_, err := pool.Exec(t.Context(), `INSERT INTO inbox.seen (consumer, message_id) VALUES ('mailer', $1)`, uuid.Nil)
	require.ErrorContains(t, err, "seen_message_id")
	execute(t, pool, `INSERT INTO inbox.seen (consumer, message_id) VALUES ($1, $2)`, strings.Repeat("c", 200), newID())
}

func TestOnceWithoutTheTable(t *testing.T) {
	t.Parallel()
	for _, d := range drivers(t, teststack.NewEmpty(t)) {
		tx := d.begin(t)
		_, err := tx.once(t.Context(), "mailer", newID())
		assert.ErrorContains(t, err, "this database wants the migrations (package inbox/migrate)", d.name)
		require.NoError(t, tx.rollback(t.Context()))
	}
}

// TestConcurrentTransactions: the second waits for the end of the first. It then gets the
// answer, or an error because its snapshot is older than the row.
func TestConcurrentTransactions(t *testing.T) {
	t.Parallel()
	pool := newInbox(t)
	for _, level := range []pgx.TxIsoLevel{pgx.ReadCommitted, pgx.RepeatableRead, pgx.Serializable} {
		for _, commit := range []bool{true, false} {
			name := string(level) + ", rollback"
			if commit {
				name = string(level) + ", commit"
			}
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				id := newID()
				holder := begin(t, pool, level)
				first, err := inbox.Once(t.Context(), holder, "mailer", id)
				require.NoError(t, err)
				require.True(t, first)

				waiter := begin(t, pool, level)
				type answer struct {
					first bool
					err   error
				}
				answers := make(chan answer, 1)
				go func() {
					first, err := inbox.Once(t.Context(), waiter, "mailer", id)
					answers <- answer{first, err}
				}()
				require.Eventually(t, func() bool {
					var waits bool
					err := pool.QueryRow(t.Context(), `SELECT $1::int = ANY (pg_blocking_pids($2::int))`,
						holder.Conn().PgConn().PID(), waiter.Conn().PgConn().PID()).Scan(&waits)
					return err == nil && waits
				}, 10*time.Second, 5*time.Millisecond, "the second does not wait for the first")
				require.Empty(t, answers)

				if commit {
					require.NoError(t, holder.Commit(t.Context()))
				} else {
					require.NoError(t, holder.Rollback(t.Context()))
				}
				got := <-answers
				switch {
				case !commit:
					require.NoError(t, got.err)
					require.True(t, got.first)
					require.NoError(t, waiter.Commit(t.Context()))
				case level == pgx.ReadCommitted:
					require.NoError(t, got.err)
					require.False(t, got.first)
					require.NoError(t, waiter.Commit(t.Context()))
				default:
					require.Equal(t, "40001", sqlState(got.err))
					require.NoError(t, waiter.Rollback(t.Context()))
				}
				again := begin(t, pool, level)
				first, err = inbox.Once(t.Context(), again, "mailer", id)
				require.NoError(t, err)
				require.False(t, first, "a new transaction sees it")
				require.NoError(t, again.Commit(t.Context()))
			})
		}
	}
}

// The transaction does not wait, but its snapshot is older than the commit.
func TestSnapshotOlderThanTheCommit(t *testing.T) {
	t.Parallel()
	pool := newInbox(t)
	for level, want := range map[pgx.TxIsoLevel]string{pgx.ReadCommitted: "", pgx.RepeatableRead: "40001",
		pgx.Serializable: "40001"} {
		t.Run(string(level), func(t *testing.T) {
			id := newID()
			old := begin(t, pool, level)
			_, err := old.Exec(t.Context(), `SELECT count(*) FROM effects`)
			require.NoError(t, err)
			execute(t, pool, `INSERT INTO inbox.seen (consumer, message_id) VALUES ('mailer', $1)`, id)
			first, err := inbox.Once(t.Context(), old, "mailer", id)
			require.False(t, first)
			require.Equal(t, want, sqlState(err))
			require.NoError(t, old.Rollback(t.Context()))
		})
	}
}

// TestManyDeliveriesOneEffect: many copies arrive at once. Each is deleted from the queue only
// after its commit, and comes again after any error.
func TestManyDeliveriesOneEffect(t *testing.T) {
	t.Parallel()
	pool := newInbox(t)
	for _, level := range []pgx.TxIsoLevel{pgx.ReadCommitted, pgx.RepeatableRead, pgx.Serializable} {
		t.Run(string(level), func(t *testing.T) {
			id := newID()
			var deliveries sync.WaitGroup
			for n := range 10 {
				deliveries.Go(func() {
					for attempt := 1; ; attempt++ {
						err := deliver(t.Context(), pool, level, id, n%3 == 0 && attempt == 1)
						if err == nil {
							return
						}
						if !errors.Is(err, errCrash) && sqlState(err) != "40001" {
							t.Errorf("delivery %d: %v", n, err)
							return
						}
					}
				})
			}
			deliveries.Wait()
			require.Equal(t, 1, value[int](t, pool, `SELECT count(*) FROM effects WHERE message_id = $1`, id))
		})
	}
}

var errCrash = errors.New("crashed before the commit")

func deliver(ctx context.Context, pool *pgxpool.Pool, level pgx.TxIsoLevel, id uuid.UUID, crash bool) error {
	return pgx.BeginTxFunc(ctx, pool, pgx.TxOptions{IsoLevel: level}, func(tx pgx.Tx) error {
		first, err := inbox.Once(ctx, tx, "mailer", id)
		if err != nil || !first {
			return err
		}
		if _, err := tx.Exec(ctx, insertEffect, id.String()); err != nil {
			return err
		}
		if crash {
			return errCrash
		}
		return nil
	})
}

func begin(t *testing.T, pool *pgxpool.Pool, level pgx.TxIsoLevel) pgx.Tx {
	t.Helper()
	tx, err := pool.BeginTx(t.Context(), pgx.TxOptions{IsoLevel: level})
	require.NoError(t, err)
	t.Cleanup(func() { _ = tx.Rollback(context.Background()) }) // of a test that failed
	return tx
}

func sqlState(err error) string {
	var answer *pgconn.PgError
	if errors.As(err, &answer) {
		return answer.Code
	}
	return ""
}
