package outboxdb_test

import (
	"context"
	"database/sql"
	"net/url"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/internal/teststack"
	"github.com/outflowhq/outflow/outboxdb"
)

// session is a producer's transaction, whatever its driver.
type session interface {
	enqueue(ctx context.Context, msgs ...outflow.Message) ([]uuid.UUID, error)
	enqueueIfAbsent(ctx context.Context, msgs ...outflow.Message) ([]uuid.UUID, error)
	// run executes a statement, as the producer's own rows are written.
	run(ctx context.Context, statement string) error
	count(ctx context.Context) (int, error)
	commit(ctx context.Context) error
	rollback(ctx context.Context) error
}

type pgxSession struct{ pgx.Tx }

func (s pgxSession) enqueue(ctx context.Context, msgs ...outflow.Message) ([]uuid.UUID, error) {
	return outboxdb.Enqueue(ctx, s.Tx, msgs...)
}

func (s pgxSession) enqueueIfAbsent(ctx context.Context, msgs ...outflow.Message) ([]uuid.UUID, error) {
	return outboxdb.EnqueueIfAbsent(ctx, s.Tx, msgs...)
}

func (s pgxSession) run(ctx context.Context, statement string) error {
	_, err := s.Exec(ctx, statement)
	return err
}

func (s pgxSession) count(ctx context.Context) (n int, err error) {
	return n, s.QueryRow(ctx, `SELECT count(*) FROM outbox.messages`).Scan(&n)
}

func (s pgxSession) commit(ctx context.Context) error   { return s.Commit(ctx) }
func (s pgxSession) rollback(ctx context.Context) error { return s.Rollback(ctx) }

type sqlSession struct{ *sql.Tx }

func (s sqlSession) enqueue(ctx context.Context, msgs ...outflow.Message) ([]uuid.UUID, error) {
	return outboxdb.EnqueueSQL(ctx, s.Tx, msgs...)
}

func (s sqlSession) enqueueIfAbsent(ctx context.Context, msgs ...outflow.Message) ([]uuid.UUID, error) {
	return outboxdb.EnqueueSQLIfAbsent(ctx, s.Tx, msgs...)
}

func (s sqlSession) run(ctx context.Context, statement string) error {
	_, err := s.ExecContext(ctx, statement)
	return err
}

func (s sqlSession) count(ctx context.Context) (n int, err error) {
	return n, s.QueryRowContext(ctx, `SELECT count(*) FROM outbox.messages`).Scan(&n)
}

func (s sqlSession) commit(context.Context) error   { return s.Commit() }
func (s sqlSession) rollback(context.Context) error { return s.Rollback() }

// driver begins transactions with a driver and a protocol.
type driver struct {
	name  string
	begin func(ctx context.Context) (session, error)
}

// open begins a transaction that the test's end rolls back.
func (d driver) open(t *testing.T) session {
	t.Helper()
	s, err := d.begin(t.Context())
	require.NoError(t, err)
	t.Cleanup(func() { _ = s.rollback(context.Background()) })
	return s
}

// simple sends every statement as one text. A pooler that gives each transaction another
// connection may want that.
func simple(c *pgxpool.Config) {
	c.ConnConfig.DefaultQueryExecMode = pgx.QueryExecModeSimpleProtocol
}

// drivers has every driver and protocol of a Go producer, with times in UTC.
func drivers(t *testing.T, pool *pgxpool.Pool) []driver {
	t.Helper()
	overPool := func(name string, p *pgxpool.Pool) driver {
		return driver{name, func(ctx context.Context) (session, error) {
			tx, err := p.Begin(ctx)
			return pgxSession{tx}, err
		}}
	}
	overSQL := func(name string, db *sql.DB) driver {
		return driver{name, func(ctx context.Context) (session, error) {
			tx, err := db.BeginTx(ctx, nil)
			return sqlSession{tx}, err
		}}
	}
	pool = another(t, pool, utc)
	plain := another(t, pool, simple)
	return []driver{
		overPool("pgx", pool),
		overPool("pgx, simple protocol", plain),
		overSQL("database-sql, pgx", teststack.OpenSQL(t, pool)["pgx"]),
		overSQL("database-sql, pgx, simple protocol", teststack.OpenSQL(t, plain)["pgx"]),
		overSQL("database-sql, pq", teststack.OpenPQ(t, pool, url.Values{"timezone": {"UTC"}})),
		// lib/pq's mode for poolers: it sends parameters in one round trip, and prepares no
		// statement.
		overSQL("database-sql, pq, binary parameters", teststack.OpenPQ(t, pool, url.Values{
			"timezone": {"UTC"}, "binary_parameters": {"yes"},
		})),
	}
}

// TestEveryDriver: the row and the errors are the same, whatever the driver and the protocol.
func TestEveryDriver(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	execute(t, pool, `CREATE TABLE users (name text)`)
	for _, d := range drivers(t, pool) {
		t.Run(d.name, func(t *testing.T) {
			t.Run("every field", func(t *testing.T) {
				now := value[time.Time](t, pool, `SELECT now()`)
				m := outflow.Message{
					ID:          uuid.Must(uuid.NewV7()),
					Destination: "arn:aws:sqs:eu-west-1:123456789012:orders.fifo", Type: "order/placed:v1",
					Payload: []byte("it's \"quoted\" \\ $1 ? \x00\xff"), ContentType: "application/octet-stream",
					Headers:     map[string]string{"tenant": "<a&b> 'x'", "x.y-z_1": "\u2028 \U0001F600 \\ \" \n $2"},
					OrderingKey: "customer#7", DueAt: now.Add(time.Hour), ExpiresAt: now.AddDate(400, 0, 0),
					Callback: "arn:aws:sqs:eu-west-1:123456789012:replies", CallbackPayload: true,
				}
				s := d.open(t)
				ids, err := s.enqueue(t.Context(), m)
				require.NoError(t, err)
				require.Equal(t, []uuid.UUID{m.ID}, ids)
				require.NoError(t, s.commit(t.Context()))
				got, err := outboxdb.New(pool).Load(t.Context(), ref(m.ID))
				require.NoError(t, err)
				require.True(t, got.DueAt.Equal(m.DueAt) && got.ExpiresAt.Equal(m.ExpiresAt))
				got.DueAt, got.ExpiresAt = m.DueAt, m.ExpiresAt
				m.Destination = "sqs://orders.fifo?account=123456789012&region=eu-west-1"
				m.Callback = "sqs://replies?account=123456789012&region=eu-west-1"
				require.Equal(t, m, got.Message)
			})
			t.Run("many, in order, with new IDs", func(t *testing.T) {
				s := d.open(t)
				ids, err := s.enqueue(t.Context(), messages("sqs://orders", 200)...)
				require.NoError(t, err)
				require.Len(t, ids, 200)
				require.NoError(t, s.commit(t.Context()))
				require.Equal(t, ids, values[uuid.UUID](t, pool,
					`SELECT id FROM outbox.messages WHERE id = ANY ($1) ORDER BY seq`, ids))
			})
			t.Run("none", func(t *testing.T) {
				ids, err := d.open(t).enqueue(t.Context())
				require.NoError(t, err)
				require.Empty(t, ids)
			})
			t.Run("nothing without a commit, everything with it", func(t *testing.T) {
				before := count(t, pool)
				for _, commit := range []bool{false, true} {
					s := d.open(t)
					require.NoError(t, s.run(t.Context(), `INSERT INTO users VALUES ('Ada')`))
					_, err := s.enqueue(t.Context(), message("sqs://orders"))
					require.NoError(t, err)
					n, err := s.count(t.Context())
					require.NoError(t, err)
					require.Equal(t, before+1, n)
					require.Equal(t, before, count(t, pool))
					if commit {
						require.NoError(t, s.commit(t.Context()))
						require.Equal(t, before+1, count(t, pool))
					} else {
						require.NoError(t, s.rollback(t.Context()))
					}
				}
				require.Equal(t, 1, value[int](t, pool,
					`WITH d AS (DELETE FROM users RETURNING 1) SELECT count(*) FROM d`))
			})
			t.Run("an ID that exists", func(t *testing.T) {
				msgs := withIDs(3)
				enqueue(t, pool, msgs[1])
				s := d.open(t)
				before, err := s.count(t.Context())
				require.NoError(t, err)
				_, err = s.enqueue(t.Context(), msgs...)
				require.EqualError(t, err,
					"enqueuing: message id: enqueued before, or twice in this call: "+msgs[1].ID.String())
				var duplicate *outflow.DuplicateIDError
				require.ErrorAs(t, err, &duplicate)
				require.Equal(t, []uuid.UUID{msgs[1].ID}, duplicate.IDs)
				n, err := s.count(t.Context())
				require.NoError(t, err)
				require.Equal(t, before, n, "nothing of the call was written")
				ids, err := s.enqueueIfAbsent(t.Context(), msgs...)
				require.NoError(t, err, "the transaction goes on")
				require.Equal(t, []uuid.UUID{msgs[0].ID, msgs[2].ID}, ids)
				require.NoError(t, s.commit(t.Context()))
			})
			t.Run("an ended transaction", func(t *testing.T) {
				s := d.open(t)
				require.NoError(t, s.rollback(t.Context()))
				_, err := s.enqueue(t.Context(), message("sqs://orders"))
				if _, isSQL := s.(sqlSession); isSQL {
					require.ErrorIs(t, err, sql.ErrTxDone)
				} else {
					require.ErrorIs(t, err, pgx.ErrTxClosed)
				}
				require.ErrorContains(t, err, "enqueuing: ")
				_, err = s.enqueueIfAbsent(t.Context(), message("sqs://orders"))
				require.ErrorContains(t, err, "enqueuing if absent: ")
			})
			t.Run("an aborted transaction", func(t *testing.T) {
				s := d.open(t)
				require.Error(t, s.run(t.Context(), `SELECT 1/0`))
				_, err := s.enqueue(t.Context(), message("sqs://orders"))
				require.ErrorContains(t, err, "current transaction is aborted")
			})
			t.Run("every refused message is named", func(t *testing.T) {
				msgs := messages("sqs://orders", 4)
				msgs[1].Type, msgs[3].Destination = "", "nowhere"
				_, err := d.open(t).enqueueIfAbsent(t.Context(), msgs...)
				require.ErrorContains(t, err, "enqueuing if absent: message 1: type: ")
				require.ErrorContains(t, err, "message 3: destination: ")
			})
		})
	}
}

// TestRefusals sends each bad input through every driver and the SQL function. All refuse it
// with the same text, and nothing is written. Where Go refuses, the transaction goes on.
func TestRefusals(t *testing.T) {
	t.Parallel()
	require.GreaterOrEqual(t, len(badInputs), 40)
	pool := another(t, teststack.New(t), utc)
	ways := drivers(t, pool)
	functions := map[string]*pgxpool.Pool{"SQL": pool, "SQL, simple protocol": another(t, pool, simple)}
	for _, in := range badInputs {
		t.Run(in.name, func(t *testing.T) {
			bad := message("sqs://orders")
			in.change(&bad)
			verdict := "" // that of the first driver, which the others must repeat
			for _, d := range ways {
				refused := refusedBy(t, d, bad)
				require.Equal(t, 1, refused.Index, d.name)
				require.Equal(t, in.field, refused.Field, d.name)
				require.Contains(t, refused.Wants, in.wants, d.name)
				said := moments.ReplaceAllString(refused.Field+": "+refused.Wants, "T")
				if verdict == "" {
					verdict = said
				}
				require.Equal(t, verdict, said, d.name)
			}
			for name, p := range functions {
				if in.goOnly {
					continue
				}
				_, err := p.Exec(t.Context(), enqueueOne, arguments(bad)...)
				require.Equal(t, "22023", sqlState(err), "%s: %v", name, err)
				require.Contains(t, moments.ReplaceAllString(err.Error(), "T"), verdict, "%s says it in other words",
					name)
			}
			require.Zero(t, count(t, pool))
		})
	}
}

// refusedBy enqueues a bad message among good ones, and goes on.
func refusedBy(t *testing.T, d driver, bad outflow.Message) *outflow.InvalidMessageError {
	t.Helper()
	s, err := d.begin(t.Context())
	require.NoError(t, err)
	defer func() { require.NoError(t, s.rollback(t.Context())) }()
	_, err = s.enqueue(t.Context(), message("sqs://orders"), bad, message("sqs://orders"))
	var refused *outflow.InvalidMessageError
	require.ErrorAs(t, err, &refused, d.name)
	require.EqualError(t, err, "enqueuing: message 1: "+refused.Field+": "+refused.Wants)
	n, err := s.count(t.Context())
	require.NoError(t, err, d.name)
	require.Zero(t, n, "%s: nothing was written", d.name)
	_, err = s.enqueue(t.Context(), message("sqs://orders"))
	require.NoError(t, err, "%s: the transaction goes on", d.name)
	return refused
}

// TestConnectionsAreFree: an Enqueue leaves no rows open on its connection. With open rows,
// database/sql would refuse the next statement.
func TestConnectionsAreFree(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	for _, d := range drivers(t, pool) {
		s := d.open(t)
		for range 3 {
			_, err := s.enqueue(t.Context(), message("sqs://orders"))
			require.NoError(t, err, d.name)
			_, err = s.enqueue(t.Context(), outflow.Message{})
			require.Error(t, err, d.name)
			require.NoError(t, s.run(t.Context(), `SELECT 1`), d.name)
		}
		require.NoError(t, s.commit(t.Context()), d.name)
	}
	require.Equal(t, 3*len(drivers(t, pool)), count(t, pool))
}
