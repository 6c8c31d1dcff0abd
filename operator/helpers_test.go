package operator

import (
	"context"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/internal/teststack"
	"github.com/outflowhq/outflow/outbox"
	"github.com/outflowhq/outflow/outboxdb"
)

var ada = Actor{Who: "ada@host", Why: "the queue is back"}

// acts are an Operator's acts on the table, as changes, without their answers and runs.
type acts struct{ *Operator }

func newActs(pool *pgxpool.Pool) acts { return acts{New(pool, nil, "")} }

func (a acts) Retry(ctx context.Context, ids []uuid.UUID, by Actor) ([]change, error) {
	return a.act(ctx, "retrying", retrySQL, ids, by, nil)
}

func (a acts) RetryTo(ctx context.Context, ids []uuid.UUID, destination string, by Actor) ([]change, error) {
	return a.act(ctx, "redirecting", retrySQL, ids, by, destination)
}

func (a acts) Redirect(ctx context.Context, ids []uuid.UUID, destination string, by Actor) ([]change, error) {
	return a.act(ctx, "redirecting", redirectSQL, ids, by, destination)
}

func (a acts) Reschedule(ctx context.Context, ids []uuid.UUID, at time.Time, in time.Duration,
	by Actor) ([]change, error) {
	var dueAt *time.Time
	if !at.IsZero() {
		dueAt = &at
	}
	return a.act(ctx, "rescheduling", rescheduleSQL, ids, by, dueAt, in)
}

func (a acts) Dismiss(ctx context.Context, ids []uuid.UUID, by Actor) ([]change, error) {
	return a.act(ctx, "dismissing", dismissSQL, ids, by, true)
}

func (a acts) UndoDismiss(ctx context.Context, ids []uuid.UUID, by Actor) ([]change, error) {
	return a.act(ctx, "undoing the dismissal of", dismissSQL, ids, by, false)
}

func (a acts) Release(ctx context.Context, ref outbox.Ref, leasedUntil time.Time, by Actor) (change, error) {
	changes, err := a.act(ctx, "releasing", releaseSQL, []uuid.UUID{ref.ID}, by, ref.Generation, leasedUntil)
	if err != nil {
		return change{}, err
	}
	return changes[0], nil
}

func (a acts) Resend(ctx context.Context, id uuid.UUID, by Actor) (change, uuid.UUID, error) {
	return a.resend(ctx, id, by)
}

// another returns a second pool on pool's database, changed as wanted.
func another(t testing.TB, pool *pgxpool.Pool, change func(*pgxpool.Config)) *pgxpool.Pool {
	t.Helper()
	return teststack.Another(t, pool, change)
}

func utc(c *pgxpool.Config) { c.ConnConfig.RuntimeParams["timezone"] = "UTC" }

// message returns a message that every rule allows.
func message(destination string) outflow.Message {
	return outflow.Message{Destination: destination, Type: "user-registered", Payload: []byte(`{"name":"Ada"}`)}
}

func messages(destination string, n int) []outflow.Message {
	msgs := make([]outflow.Message, n)
	for i := range msgs {
		msgs[i] = message(destination)
	}
	return msgs
}

// enqueue commits msgs in a transaction of their own.
func enqueue(t testing.TB, pool *pgxpool.Pool, msgs ...outflow.Message) (ids []uuid.UUID) {
	t.Helper()
	require.NoError(t, pgx.BeginFunc(t.Context(), pool, func(tx pgx.Tx) (err error) {
		ids, err = outboxdb.Enqueue(t.Context(), tx, msgs...)
		return err
	}))
	return ids
}

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
	return values[string](t, pool, `SELECT act || ' ' || generation || ' ' || who || ': ' || why || ' ' || detail
		FROM outbox.audit WHERE message_id = $1 ORDER BY id`, id)
}

// value returns the one value that sql returns.
func value[T any](t testing.TB, pool *pgxpool.Pool, sql string, args ...any) T {
	t.Helper()
	return teststack.Value[T](t, pool, sql, args...)
}

func values[T any](t testing.TB, pool *pgxpool.Pool, sql string, args ...any) []T {
	t.Helper()
	return teststack.Values[T](t, pool, sql, args...)
}

func execute(t testing.TB, pool *pgxpool.Pool, sql string, args ...any) {
	t.Helper()
	teststack.Execute(t, pool, sql, args...)
}

func count(t testing.TB, pool *pgxpool.Pool) int {
	t.Helper()
	return value[int](t, pool, `SELECT count(*) FROM outbox.messages`)
}

// row is the part of a row that the dispatcher writes.
type row struct {
	State      string  `db:"state"`
	Generation int     `db:"generation"`
	Claims     int     `db:"claims"`
	Attempts   int     `db:"attempts"`
	Retrying   bool    `db:"retrying"`
	LastError  *string `db:"last_error"`
	LeasedFor  float64 `db:"leased_for"` // seconds from now
}

func stands(t testing.TB, pool *pgxpool.Pool, id uuid.UUID) row {
	t.Helper()
	rows, err := pool.Query(t.Context(), `
		SELECT state, generation, claims, attempts, retrying, last_error,
		       extract(epoch FROM available_at - clock_timestamp())::float8 AS leased_for
		  FROM outbox.messages WHERE id = $1`, id)
	require.NoError(t, err)
	r, err := pgx.CollectExactlyOneRow(rows, pgx.RowToStructByName[row])
	require.NoError(t, err)
	return r
}

// request is a claim that nothing bounds.
func request() outbox.ClaimRequest {
	return outbox.ClaimRequest{Lease: time.Minute, MaxMessages: 10_000, MaxBytes: 1 << 30, Allowance: 10_000}
}

// claim claims with a Store of its own, whose first claim looks at every destination.
func claim(t testing.TB, pool *pgxpool.Pool, req outbox.ClaimRequest) outbox.Claimed {
	t.Helper()
	claimed, err := outboxdb.New(pool).Claim(t.Context(), req)
	require.NoError(t, err)
	return claimed
}

func idsOf(claimed outbox.Claimed) []uuid.UUID {
	ids := make([]uuid.UUID, 0, len(claimed.Messages))
	for _, m := range claimed.Messages {
		ids = append(ids, m.ID)
	}
	return ids
}

func ref(id uuid.UUID) outbox.Ref { return outbox.Ref{ID: id, Generation: 1} }

// waitFor waits until sql returns true.
func waitFor(t testing.TB, pool *pgxpool.Pool, sql string, args ...any) {
	t.Helper()
	require.Eventually(t, func() bool { return value[bool](t, pool, sql, args...) }, 10*time.Second, 2*time.Millisecond,
		sql)
}

// waitsForLock says that some session of this database waits for another's lock.
const waitsForLock = `SELECT EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock')`

// beginLoad makes loading quick. Autovacuum must not make the statistics any better.
func beginLoad(t *testing.T, pool *pgxpool.Pool) {
	t.Helper()
	// A table of a publication stays logged.
	execute(t, pool, `DROP PUBLICATION outflow_messages`)
	execute(t, pool, `ALTER TABLE outbox.messages SET UNLOGGED, SET (autovacuum_enabled = off)`)
}

// makeWay has a run leave its message without sending.
func makeWay(ctx context.Context, s *outboxdb.Store, ref outbox.Ref) error {
	_, err := s.PutBack(ctx, outbox.PutBack{Ref: ref, NotSent: true})
	return err
}
