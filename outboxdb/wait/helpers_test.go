package wait_test

import (
	"context"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/internal/teststack"
	"github.com/outflowhq/outflow/outbox"
	"github.com/outflowhq/outflow/outboxdb"
	"github.com/outflowhq/outflow/outboxdb/wait"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// newWaiter returns a Waiter that polls so rarely that only a notification can be what
// ends a wait, once notifications arrive.
func newWaiter(t testing.TB, pool *pgxpool.Pool, options ...wait.Option) *wait.Waiter {
	t.Helper()
	options = append([]wait.Option{wait.PollEvery(time.Hour), wait.LogTo(slog.New(slog.DiscardHandler))}, options...)
	w := wait.New(pool, options...)
	w.SetSettle(100 * time.Millisecond) // other tests' transactions may be long
	t.Cleanup(w.Close)
	return w
}

// answer is what a Wait or a WaitAll returned.
type answer[T any] struct {
	outcome T
	err     error
}

type (
	end  = answer[outflow.Outcome]
	ends = answer[[]outflow.Outcome]
)

// startWait waits in the background.
func startWait(t testing.TB, w *wait.Waiter, id uuid.UUID) <-chan end { return start(t, w, w.Wait, id) }

// startWaitAll waits for a group in the background.
func startWaitAll(t testing.TB, w *wait.Waiter, id uuid.UUID) <-chan ends {
	return start(t, w, w.WaitAll, id)
}

func start[T any](
	t testing.TB, w *wait.Waiter, await func(context.Context, uuid.UUID) (T, error), id uuid.UUID,
) <-chan answer[T] {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	answers := make(chan answer[T], 1)
	before := w.Waiting()
	go func() {
		outcome, err := await(ctx, id)
		answers <- answer[T]{outcome, err}
	}()
	require.Eventually(t, func() bool { return w.Waiting() > before || len(answers) > 0 }, 10*time.Second,
		time.Millisecond)
	return answers
}

func requireAnswer[T any](t testing.TB, answers <-chan answer[T]) (outcome T) {
	t.Helper()
	select {
	case a := <-answers:
		require.NoError(t, a.err)
		return a.outcome
	case <-time.After(20 * time.Second):
		t.Fatal("the wait did not end")
		return outcome
	}
}

func requireNoAnswer[T any](t testing.TB, answers <-chan answer[T]) {
	t.Helper()
	select {
	case a := <-answers:
		t.Fatalf("the wait ended: %+v", a)
	default:
	}
}

func requireNotified(t testing.TB, w *wait.Waiter) {
	t.Helper()
	require.Eventually(t, w.Notified, 20*time.Second, time.Millisecond, "no notification arrives")
}

// waitFor waits until a statement returns true.
func waitFor(t testing.TB, pool *pgxpool.Pool, statement string, args ...any) {
	t.Helper()
	require.Eventually(t, func() bool { return teststack.Value[bool](t, pool, statement, args...) }, 10*time.Second,
		2*time.Millisecond, statement)
}

// waitsForLock says that some session of this database waits for another's lock.
const waitsForLock = `SELECT EXISTS (
	SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock')`

// listening counts the connections that listen for ends.
func listening(t testing.TB, pool *pgxpool.Pool) int {
	t.Helper()
	return teststack.Value[int](t, pool, `SELECT count(*) FROM pg_stat_activity
		WHERE datname = current_database() AND query = $1`, wait.StatementListen)
}

// tracer counts the polls that a pool sends.
type tracer struct {
	mu    sync.Mutex
	polls int
}

func (t *tracer) TraceQueryStart(ctx context.Context, _ *pgx.Conn, data pgx.TraceQueryStartData) context.Context {
	t.mu.Lock()
	defer t.mu.Unlock()
	if data.SQL == wait.StatementOutcomes || data.SQL == wait.StatementGroups {
		t.polls++
	}
	return ctx
}

func (t *tracer) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData) {}

// takePolls returns the number of polls since the last call.
func (t *tracer) takePolls() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	polls := t.polls
	t.polls = 0
	return polls
}

func traced(t testing.TB, pool *pgxpool.Pool) (*pgxpool.Pool, *tracer) {
	t.Helper()
	tr := &tracer{}
	return teststack.Another(t, pool, func(c *pgxpool.Config) { c.ConnConfig.Tracer = tr }), tr
}

// enqueue commits n messages.
func enqueue(t testing.TB, pool *pgxpool.Pool, n int) (ids []uuid.UUID) {
	t.Helper()
	msgs := make([]outflow.Message, n)
	for i := range msgs {
		msgs[i] = newMessage()
	}
	err := pgx.BeginFunc(t.Context(), pool, func(tx pgx.Tx) (err error) {
		ids, err = outboxdb.Enqueue(t.Context(), tx, msgs...)
		return err
	})
	require.NoError(t, err)
	return ids
}

func newMessage() outflow.Message {
	return outflow.Message{ID: uuid.Must(uuid.NewV7()), Destination: "sqs://orders", Type: "user-registered",
		Payload: []byte(`{"name":"Ada"}`)}
}

func deliver(t testing.TB, pool *pgxpool.Pool, ids ...uuid.UUID) {
	t.Helper()
	finish(t, pool, outbox.Ending{State: outflow.Delivered, BrokerMessageID: "broker-1", Attempts: 1}, ids...)
}

// finish ends messages together, as the dispatcher does.
func finish(t testing.TB, pool *pgxpool.Pool, ending outbox.Ending, ids ...uuid.UUID) {
	t.Helper()
	store := outboxdb.New(pool)
	var finishing sync.WaitGroup
	for _, id := range ids {
		e := ending
		e.Ref = outbox.Ref{ID: id, Generation: 1}
		finishing.Go(func() {
			_, err := store.Finish(t.Context(), e)
			assert.NoError(t, err)
		})
	}
	finishing.Wait()
}
