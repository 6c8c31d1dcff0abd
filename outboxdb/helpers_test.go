package outboxdb_test

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/internal/teststack"
	"github.com/outflowhq/outflow/outbox"
	"github.com/outflowhq/outflow/outboxdb"
	"github.com/outflowhq/outflow/outboxdb/migrations"
	"github.com/outflowhq/outflow/outboxdb/wait"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// tracer keeps the statements that a pool sends.
type tracer struct {
	mu         sync.Mutex
	statements []string
}

func (t *tracer) TraceQueryStart(ctx context.Context, _ *pgx.Conn, data pgx.TraceQueryStartData) context.Context {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.statements = append(t.statements, data.SQL)
	return ctx
}

func (t *tracer) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData) {}

// take returns the statements since the last take.
func (t *tracer) take() []string {
	t.mu.Lock()
	defer t.mu.Unlock()
	taken := t.statements
	t.statements = nil
	return taken
}

// has reports whether a statement with this text was sent since the last take.
func (t *tracer) has(text string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return slices.ContainsFunc(t.statements, func(s string) bool { return strings.Contains(s, text) })
}

// another returns a second pool on pool's database, changed as wanted.
func another(t testing.TB, pool *pgxpool.Pool, change func(*pgxpool.Config)) *pgxpool.Pool {
	t.Helper()
	return teststack.Another(t, pool, change)
}

func newRole(t testing.TB, pool *pgxpool.Pool) string {
	t.Helper()
	return teststack.NewRole(t, pool)
}

func withRole(t testing.TB, pool *pgxpool.Pool, role string) *pgxpool.Pool {
	t.Helper()
	return teststack.WithRole(t, pool, role)
}

func traced(t testing.TB, pool *pgxpool.Pool) (*pgxpool.Pool, *tracer) {
	t.Helper()
	tr := &tracer{}
	return another(t, pool, func(c *pgxpool.Config) { c.ConnConfig.Tracer = tr }), tr
}

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
func enqueue(t testing.TB, pool *pgxpool.Pool, msgs ...outflow.Message) []uuid.UUID {
	t.Helper()
	var ids []uuid.UUID
	inTx(t, pool, func(tx pgx.Tx) {
		var err error
		ids, err = outboxdb.Enqueue(t.Context(), tx, msgs...)
		require.NoError(t, err)
	})
	return ids
}

// inTx runs use in a transaction and commits it.
func inTx(t testing.TB, pool *pgxpool.Pool, use func(pgx.Tx)) {
	t.Helper()
	tx, err := pool.Begin(t.Context())
	require.NoError(t, err)
	defer func() { _ = tx.Rollback(context.Background()) }()
	use(tx)
	require.NoError(t, tx.Commit(t.Context()))
}

// queryer is a pool, a connection or a transaction.
type queryer = teststack.Queryer

// value returns the one value that sql returns.
func value[T any](t testing.TB, q queryer, sql string, args ...any) T {
	t.Helper()
	return teststack.Value[T](t, q, sql, args...)
}

func values[T any](t testing.TB, q queryer, sql string, args ...any) []T {
	t.Helper()
	return teststack.Values[T](t, q, sql, args...)
}

func execute(t testing.TB, pool *pgxpool.Pool, sql string, args ...any) {
	t.Helper()
	teststack.Execute(t, pool, sql, args...)
}

// migrationNames are those of all migrations, in order.
func migrationNames(t testing.TB) (names []string) {
	t.Helper()
	files, err := fs.Glob(migrations.Files, "*.up.sql")
	require.NoError(t, err)
	for _, file := range files {
		names = append(names, strings.TrimSuffix(file, ".up.sql"))
	}
	return names
}

func count(t testing.TB, q queryer) int {
	t.Helper()
	return value[int](t, q, `SELECT count(*) FROM outbox.messages`)
}

// standing is a row's part that the dispatcher writes.
type standing struct {
	State           string    `db:"state"`
	Generation      int       `db:"generation"`
	Claims          int       `db:"claims"`
	Attempts        int       `db:"attempts"`
	Retrying        bool      `db:"retrying"`
	LastError       *string   `db:"last_error"`
	BrokerMessageID *string   `db:"broker_message_id"`
	AvailableAt     time.Time `db:"available_at"`
	LeasedFor       float64   `db:"leased_for"` // seconds from now
	Finished        bool      `db:"finished"`
}

func stands(t testing.TB, q queryer, id uuid.UUID) standing {
	t.Helper()
	rows, err := q.Query(t.Context(), `
		SELECT state, generation, claims, attempts, retrying, last_error, broker_message_id, available_at,
		       extract(epoch FROM available_at - clock_timestamp())::float8 AS leased_for,
		           finished_at IS NOT NULL AS finished
		  FROM outbox.messages WHERE id = $1`, id)
	require.NoError(t, err)
	s, err := pgx.CollectExactlyOneRow(rows, pgx.RowToStructByName[standing])
	require.NoError(t, err)
	return s
}

// request is a claim that nothing bounds.
func request() outbox.ClaimRequest {
	return outbox.ClaimRequest{Lease: time.Minute, MaxMessages: 10_000, MaxBytes: 1 << 30, Allowance: 10_000}
}

// claim walks and claims.
func claim(t testing.TB, s *outboxdb.Store, req outbox.ClaimRequest) outbox.Claimed {
	t.Helper()
	s.WalkNext()
	claimed, err := s.Claim(t.Context(), req)
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

func byDestination(claimed outbox.Claimed) map[string]int {
	n := make(map[string]int)
	for _, m := range claimed.Messages {
		n[m.Destination]++
	}
	return n
}

func ref(id uuid.UUID) outbox.Ref { return outbox.Ref{ID: id, Generation: 1} }

// waitFor waits until sql returns true.
func waitFor(t testing.TB, q queryer, sql string, args ...any) {
	t.Helper()
	require.Eventually(t, func() bool { return value[bool](t, q, sql, args...) }, 10*time.Second, 2*time.Millisecond,
		sql)
}

// answer is what a Wait returned.
type answer struct {
	outcome outflow.Outcome
	err     error
}

// startWait waits in the background, with a Waiter over the pool as, for the end of a
// message in pool's database. The Waiter is registered when startWait returns.
func startWait(t testing.TB, pool, as *pgxpool.Pool, id uuid.UUID) (*wait.Waiter, <-chan answer) {
	t.Helper()
	w := wait.New(as, wait.LogTo(slog.New(slog.DiscardHandler)))
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(func() { w.Close(); cancel() })
	answers := make(chan answer, 1)
	go func() {
		outcome, err := w.Wait(ctx, id)
		answers <- answer{outcome, err}
	}()
	waitFor(t, pool, `SELECT EXISTS (SELECT FROM outbox.waiters)`)
	return w, answers
}

func requireAnswer(t testing.TB, answers <-chan answer) outflow.Outcome {
	t.Helper()
	select {
	case a := <-answers:
		require.NoError(t, a.err)
		return a.outcome
	case <-time.After(20 * time.Second):
		t.Fatal("the wait did not end")
		return outflow.Outcome{}
	}
}

// deliver ends messages in one statement.
func deliver(t testing.TB, pool *pgxpool.Pool, ids ...uuid.UUID) {
	t.Helper()
	var endings []outbox.Ending
	for _, id := range ids {
		endings = append(endings, outbox.Ending{Ref: ref(id), State: outflow.Delivered, BrokerMessageID: "broker-1",
			Attempts: 1})
	}
	_, errs := outboxdb.New(pool).FinishBatch(t.Context(), endings...)
	for _, err := range errs {
		require.NoError(t, err)
	}
}

// waitsForLock says that some session of this database waits for another's lock.
const waitsForLock = `SELECT EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database()
    AND wait_event_type = 'Lock')`

func closed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// acknowledge, fail, reject, cutShort and inconclusive observe one attempt to publish.
func acknowledge(s *outboxdb.Store, destination string) {
	s.Observe(destination, uuid.Nil, outbox.Observation{})
}

// acknowledgeAfter is acknowledge where the broker took so long.
func acknowledgeAfter(s *outboxdb.Store, destination string, took time.Duration) {
	s.Observe(destination, uuid.Nil, outbox.Observation{Took: took})
}

func fail(s *outboxdb.Store, destination string, err error) (consecutiveFailures int) {
	if outflow.ClassOf(err) != outflow.ClassUnavailable {
		err = outflow.Unavailable(err)
	}
	return s.Observe(destination, uuid.Nil, outbox.Observation{Err: err})
}

func reject(s *outboxdb.Store, destination string) {
	s.Observe(destination, uuid.Nil, outbox.Observation{Err: &outflow.Failure{
		Class: outflow.ClassPermanent, Answered: true, Err: errors.New("400"),
	}})
}

func cutShort(s *outboxdb.Store, destination string) {
	s.Observe(destination, uuid.Nil, outbox.Observation{Err: &outflow.Failure{
		Class: outflow.ClassUnavailable, CutShort: true, Err: errors.New("no answer in time"),
	}})
}

func inconclusive(s *outboxdb.Store, destination string, id uuid.UUID) {
	s.Observe(destination, id, outbox.Observation{Err: outflow.ErrNotAttempted})
}

// makeWay has a run leave its message without sending.
func makeWay(ctx context.Context, s *outboxdb.Store, ref outbox.Ref) error {
	_, err := s.PutBack(ctx, outbox.PutBack{Ref: ref, NotSent: true})
	return err
}
