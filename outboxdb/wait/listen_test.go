package wait_test

import (
	"bytes"
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

	"github.com/outflowhq/outflow/internal/teststack"
	"github.com/outflowhq/outflow/outboxdb/wait"
)

func TestWaitPollsWithoutNotifications(t *testing.T) {
	t.Parallel()
	for name, listenOn := range map[string]func(*testing.T, *pgxpool.Pool) *pgx.ConnConfig{
		"no connection": func(_ *testing.T, pool *pgxpool.Pool) *pgx.ConnConfig {
			config := pool.Config().ConnConfig
			config.Host, config.Port, config.Fallbacks = "127.0.0.1", 1, nil
			return config
		},
		"a pooler drops notifications": func(t *testing.T, pool *pgxpool.Pool) *pgx.ConnConfig {
			b, config := teststack.NewRelay(t, pool)
			b.DropNotifications.Store(true)
			return config
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pool := teststack.New(t)
			own, tr := traced(t, pool)
			var logged syncBuffer
			w := newWaiter(t, own, wait.ListenOn(listenOn(t, pool)),
				wait.LogTo(slog.New(slog.NewTextHandler(&logged, nil))))
			w.SetTimes(time.Minute, time.Minute, 200*time.Millisecond)
			ids := enqueue(t, pool, 100)
			var all []<-chan end
			for _, id := range ids {
				all = append(all, startWait(t, w, id))
			}
			require.Eventually(t, func() bool { return logged.contains("polled") }, 10*time.Second, 5*time.Millisecond)
			tr.takePolls()
			began := time.Now()
			deliver(t, pool, ids...)
			for _, answers := range all {
				requireAnswer(t, answers)
			}
			assert.Less(t, time.Since(began), time.Minute)
			assert.LessOrEqual(t, tr.takePolls(), 10, "they are polled together")
			assert.False(t, w.Notified())
		})
	}
}

type syncBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *syncBuffer) contains(text string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return bytes.Contains(b.buf.Bytes(), []byte(text))
}

func TestWaitSurvivesItsConnection(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	w := newWaiter(t, pool)
	ids := enqueue(t, pool, 5)
	last := startWait(t, w, ids[4])
	requireNotified(t, w)
	for _, id := range ids[:4] {
		answers := startWait(t, w, id)
		waitFor(t, pool, `SELECT count(pg_terminate_backend(pid)) = 1 FROM pg_stat_activity
			WHERE datname = current_database() AND query = $1`, wait.StatementListen)
		deliver(t, pool, id) // the notification is lost, or nearly always
		requireAnswer(t, answers)
		requireNotified(t, w)
		require.Eventually(t, func() bool { return listening(t, pool) == 1 }, 10*time.Second, 10*time.Millisecond)
		require.Eventually(t, func() bool { // the old one is gone, or has run out
			return teststack.Value[bool](t, pool,
				`SELECT count(*) = 1 FROM outbox.waiters AS w WHERE w.expires_at > now()`)
		}, 90*time.Second, 10*time.Millisecond)
	}
	requireNoAnswer(t, last)
	deliver(t, pool, ids[4])
	requireAnswer(t, last)
}

// A dead connection looks like one on which nothing was sent.
func TestWaitReplacesASilentConnection(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	b, config := teststack.NewRelay(t, pool)
	w := newWaiter(t, pool, wait.ListenOn(config))
	w.SetTimes(time.Minute, 200*time.Millisecond, 300*time.Millisecond)
	ids := enqueue(t, pool, 2)
	first, second := startWait(t, w, ids[0]), startWait(t, w, ids[1])
	requireNotified(t, w)
	b.DropAll.Store(true)
	deliver(t, pool, ids[0])
	requireAnswer(t, first)
	requireNotified(t, w) // on a new connection
	deliver(t, pool, ids[1])
	requireAnswer(t, second)
}

// A statement that found no waiter registered commits after the message was polled.
func TestWaitRegistersBesideAnEnd(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	ids := enqueue(t, pool, 2)
	tx, err := pool.Begin(t.Context())
	require.NoError(t, err)
	defer func() { _ = tx.Rollback(context.Background()) }()
	_, err = tx.Exec(t.Context(), `UPDATE outbox.messages SET state = 'delivered', finished_at = now() WHERE id = $1`,
		ids[0])
	require.NoError(t, err)
	_, err = tx.Exec(t.Context(), `SELECT outbox.notify_waiters($1)`, ids[:1])
	require.NoError(t, err)

	own, tr := traced(t, pool)
	w := newWaiter(t, own)
	w.SetSettle(time.Minute)
	first, second := startWait(t, w, ids[0]), startWait(t, w, ids[1])
	waitFor(t, pool, `SELECT EXISTS (SELECT FROM outbox.waiters)`)
	tr.takePolls()
	require.Eventually(t, func() bool { return tr.takePolls() > 0 }, 10*time.Second, time.Millisecond)
	require.False(t, w.Notified(), "it could miss that end")
	requireNoAnswer(t, first)
	require.NoError(t, tx.Commit(t.Context()))
	requireAnswer(t, first)
	requireNotified(t, w)
	requireNoAnswer(t, second)
	deliver(t, pool, ids[1])
	requireAnswer(t, second)
}

// A message that is notified during a poll is polled again: that poll may have begun
// before the end.
func TestWaitIsNotifiedDuringAPoll(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	w := newWaiter(t, pool)
	ids := enqueue(t, pool, 2)
	answers, other := startWait(t, w, ids[0]), startWait(t, w, ids[1])
	requireNotified(t, w)
	tx, err := pool.Begin(t.Context())
	require.NoError(t, err)
	defer func() { _ = tx.Rollback(context.Background()) }()
	_, err = tx.Exec(t.Context(), `LOCK TABLE outbox.messages`)
	require.NoError(t, err)
	teststack.Execute(t, pool, `SELECT pg_notify('outflow_ended', $1)`, wait.KeyOf(ids[0]))
	waitFor(t, pool, waitsForLock)
	_, err = tx.Exec(t.Context(), `UPDATE outbox.messages SET state = 'delivered', finished_at = now() WHERE id = $1`,
		ids[0]) // no waiter is notified
	require.NoError(t, err)
	teststack.Execute(t, pool, `SELECT pg_notify('outflow_ended', $1)`, wait.KeyOf(ids[0]))
	require.Eventually(t, func() bool { return w.IsDue(ids[0]) }, 10*time.Second, time.Millisecond)
	require.NoError(t, tx.Commit(t.Context()))
	requireAnswer(t, answers)
	requireNoAnswer(t, other)
}

// A notification that anybody may send costs a poll at most.
func TestWaitIgnoresNonsense(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	w := newWaiter(t, pool)
	id := enqueue(t, pool, 1)[0]
	answers := startWait(t, w, id)
	requireNotified(t, w)
	for _, payload := range []string{"", ",", "nonsense", "waiter", "waiter " + uuid.NewString(), id.String() + ",",
		uuid.NewString(), id.String()} {
		teststack.Execute(t, pool, `SELECT pg_notify('outflow_ended', $1)`, payload)
	}
	deliver(t, pool, id)
	requireAnswer(t, answers)
}
