package trigger

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
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
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience is how long a test waits for what must come.
const patience = 2 * time.Minute

// running is a trigger that runs, and what came out of it.
type running struct {
	*Trigger
	t     testing.TB
	hints chan int
	said  *said
	stop  func()
}

// run starts a trigger whose connections have the settings config, with short intervals.
func run(t testing.TB, kind Kind, pool *pgxpool.Pool, config *pgx.ConnConfig) *running {
	t.Helper()
	r := &running{t: t, hints: make(chan int, 10_000), said: &said{}}
	r.Trigger = New(kind, outboxdb.New(pool), Options{
		Connect: func(context.Context) (*pgx.ConnConfig, error) { return config.Copy(), nil },
		Logger:  slog.New(slog.NewTextHandler(r.said, nil)),
	})
	r.times = times{listen: 500 * time.Millisecond, echo: 3 * time.Second, prove: 500 * time.Millisecond,
		elect: 200 * time.Millisecond, slow: 200 * time.Millisecond}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		r.Run(ctx, func(passed int) { r.hints <- passed })
	}()
	r.stop = sync.OnceFunc(func() { cancel(); <-ended })
	t.Cleanup(r.stop)
	return r
}

// up starts a trigger and waits until it is idle and works.
func up(t testing.TB, kind Kind, pool *pgxpool.Pool) *running {
	t.Helper()
	r := run(t, kind, pool, pool.Config().ConnConfig)
	r.awaitWorking()
	return r
}

// awaitWorking waits until the scanner may rest, and forgets the hints up to then.
func (r *running) awaitWorking() {
	r.t.Helper()
	require.Eventually(r.t, func() bool {
		_, works := r.Rest(r.t.Context())
		return works
	}, patience, 20*time.Millisecond, "the trigger does not work")
	r.forget()
}

func (r *running) forget() {
	for {
		select {
		case <-r.hints:
		case <-time.After(200 * time.Millisecond):
			return
		}
	}
}

// hinted waits for a hint.
func (r *running) hinted(why string) int {
	r.t.Helper()
	select {
	case passed := <-r.hints:
		return passed
	case <-time.After(patience):
		require.FailNow(r.t, "no hint came: "+why)
		return 0
	}
}

// silent checks that no hint has come in the last while.
func (r *running) silent(why string) {
	r.t.Helper()
	select {
	case <-r.hints:
		assert.Fail(r.t, "a hint came: "+why)
	case <-time.After(500 * time.Millisecond):
	}
}

// said is what a trigger has logged.
type said struct {
	mu    sync.Mutex
	lines []string
}

func (s *said) Write(line []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lines = append(s.lines, string(line))
	return len(line), nil
}

func (s *said) all() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]string(nil), s.lines...)
}

func order(destination string) outflow.Message {
	return outflow.Message{Destination: destination, Type: "order-placed", Payload: []byte("{}")}
}

func enqueue(t testing.TB, pool *pgxpool.Pool, messages ...outflow.Message) {
	t.Helper()
	require.NoError(t, pgx.BeginFunc(t.Context(), pool, func(tx pgx.Tx) error {
		_, err := outboxdb.Enqueue(t.Context(), tx, messages...)
		return err
	}))
}

var kinds = []Kind{Listen, WAL}

func TestACommitIsHinted(t *testing.T) {
	for _, kind := range kinds {
		t.Run(string(kind), func(t *testing.T) {
			t.Parallel()
			pool := teststack.New(t)
			r := up(t, kind, pool)
			ctx := t.Context()

			tx, err := pool.Begin(ctx)
			require.NoError(t, err)
			_, err = outboxdb.Enqueue(ctx, tx, order("sqs://orders"))
			require.NoError(t, err)
			r.silent("the transaction is open")
			require.NoError(t, tx.Commit(ctx))
			assert.Zero(t, r.hinted("a commit"))

			tx, err = pool.Begin(ctx)
			require.NoError(t, err)
			_, err = outboxdb.Enqueue(ctx, tx, order("sqs://orders"))
			require.NoError(t, err)
			require.NoError(t, tx.Rollback(ctx))
			r.silent("a rollback")

			later := order("sqs://orders")
			later.DueIn = time.Hour
			enqueue(t, pool, later)
			r.hinted("a delayed message may be the next that is due")

			first, second := order("sqs://orders"), order("sqs://orders")
			first.OrderingKey, second.OrderingKey = "customer-1", "customer-1"
			enqueue(t, pool, first)
			r.hinted("the first of an ordering key")
			enqueue(t, pool, second)
			r.silent("it waits for the message before it")
		})
	}
}

// A producer that prepares its transactions turns hints off: such a transaction can't notify.
func TestAProducerMayTurnHintsOff(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	r := up(t, Listen, pool)
	for _, off := range []string{"off", "'OFF'", "false", "no", "0"} {
		require.NoError(t, pgx.BeginFunc(t.Context(), pool, func(tx pgx.Tx) error {
			if _, err := tx.Exec(t.Context(), "SET LOCAL outflow.hint = "+off); err != nil {
				return err
			}
			_, err := outboxdb.Enqueue(t.Context(), tx, order("sqs://orders"))
			return err
		}))
	}
	config := pool.Config()
	config.ConnConfig.RuntimeParams["options"] = "-c outflow.hint=off"
	own, err := pgxpool.NewWithConfig(t.Context(), config)
	require.NoError(t, err)
	defer own.Close()
	enqueue(t, own, order("sqs://orders"))
	r.silent("the producer has turned hints off")
	enqueue(t, pool, order("sqs://orders"))
	r.hinted("others have not")
}

// One starter is told of a message, and only one that is idle.
func TestOneIdleStarterIsTold(t *testing.T) {
	for _, kind := range kinds {
		t.Run(string(kind), func(t *testing.T) {
			t.Parallel()
			pool := teststack.New(t)
			var all []*running
			for range 3 {
				all = append(all, up(t, kind, pool))
			}
			for _, r := range all {
				r.awaitWorking()
			}
			const messages = 30
			for range messages {
				enqueue(t, pool, order("sqs://orders"))
				time.Sleep(20 * time.Millisecond) // so that no two have one hint
			}
			time.Sleep(time.Second)
			hints := 0
			for _, r := range all {
				assert.NotEmpty(t, r.hints, "each has its share")
				hints += len(r.hints)
				r.forget()
			}
			assert.LessOrEqual(t, hints, messages)

			all[0].PassOn(t.Context(), outbox.MaxPassed)
			all[1].PassOn(t.Context(), outbox.MaxPassed)
			for range messages {
				enqueue(t, pool, order("sqs://orders"))
			}
			all[2].hinted("the only idle starter")
			all[0].silent("it has no room")
			all[1].silent("it has no room")

			all[2].forget()
			all[2].PassOn(t.Context(), 0)
			for range messages {
				enqueue(t, pool, order("sqs://orders"))
			}
			for _, r := range all {
				r.silent("none is idle")
			}
			_, ok := all[0].Rest(t.Context())
			require.True(t, ok)
			all[1].PassOn(t.Context(), 0)
			assert.Equal(t, 1, all[0].hinted("another has no room"))
			all[1].PassOn(t.Context(), outbox.MaxPassed)
			all[0].silent("the hint was passed on often enough")
		})
	}
}

// Commits that notify go one after the other: where a starter reads the log, producers' commits do not.
func TestWhoNotifies(t *testing.T) {
	for kind, byProducer := range map[Kind]bool{Listen: true, WAL: false} {
		t.Run(string(kind), func(t *testing.T) {
			t.Parallel()
			pool := teststack.New(t)
			r := up(t, kind, pool)
			ctx := t.Context()
			listener, err := pgx.ConnectConfig(ctx, pool.Config().ConnConfig)
			require.NoError(t, err)
			defer listener.Close(context.WithoutCancel(ctx))
			r.mu.Lock()
			channel := outboxdb.DueChannel(r.listener)
			r.mu.Unlock()
			_, err = listener.Exec(ctx, "LISTEN "+channel)
			require.NoError(t, err)
			var producer uint32
			require.NoError(t, pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
				producer = tx.Conn().PgConn().PID()
				_, err := outboxdb.Enqueue(ctx, tx, order("sqs://orders"))
				return err
			}))
			for {
				n, err := listener.WaitForNotification(ctx)
				require.NoError(t, err)
				if n.Payload != outboxdb.ListenEcho {
					assert.Equal(t, byProducer, n.PID == producer)
					return
				}
			}
		})
	}
}

func TestATransactionPoolerIsNoticed(t *testing.T) {
	for _, kind := range kinds {
		t.Run(string(kind), func(t *testing.T) {
			t.Parallel()
			pool := teststack.New(t)
			relay, config := teststack.NewRelay(t, pool)
			relay.DropNotifications.Store(true)
			r := run(t, kind, pool, config)
			require.Eventually(t, func() bool { return r.Problem() != "" }, patience, 20*time.Millisecond)
			assert.Contains(t, r.Problem(), "transaction pooler")
			_, works := r.Rest(t.Context())
			assert.False(t, works)
			time.Sleep(2 * time.Second)
			warnings := 0
			for _, line := range r.said.all() {
				if strings.Contains(line, "level=WARN") {
					warnings++
				}
			}
			assert.Equal(t, 1, warnings, "it is said once: %q", r.said.all())
			relay.DropNotifications.Store(false)
			r.awaitWorking()
			assert.Empty(t, r.Problem())
			enqueue(t, pool, order("sqs://orders"))
			r.hinted("it works again")
		})
	}
}

// A real pooler: nothing arrives, and nothing is left behind in its sessions.
func TestPgBouncer(t *testing.T) {
	for _, kind := range kinds {
		t.Run(string(kind), func(t *testing.T) {
			t.Parallel()
			pool := teststack.New(t)
			pooled := run(t, kind, pool, teststack.PgBouncer(t, pool).ConnConfig)
			require.Eventually(t, func() bool { return pooled.Problem() != "" }, patience, 20*time.Millisecond)
			time.Sleep(2 * time.Second)
			_, works := pooled.Rest(t.Context())
			assert.False(t, works)
			var locks int
			require.NoError(t, pool.QueryRow(t.Context(), `SELECT count(*) FROM pg_locks AS l
				 WHERE l.locktype = 'advisory' AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())`).
				Scan(&locks))
			assert.Zero(t, locks, "a lock in a session of the pooler would keep every other starter from reading")
			direct := up(t, kind, pool) // OUTFLOW_LISTEN_URL
			enqueue(t, pool, order("sqs://orders"))
			direct.hinted("beside the pooler")
		})
	}
}

// A connection that is cut off and never closed is noticed, and replaced.
func TestADeadLinkIsNoticed(t *testing.T) {
	for _, kind := range kinds {
		t.Run(string(kind), func(t *testing.T) {
			t.Parallel()
			pool := teststack.New(t)
			relay, config := teststack.NewRelay(t, pool)
			r := run(t, kind, pool, config)
			r.awaitWorking()
			relay.DropAll.Store(true)
			require.Eventually(t, func() bool { return r.Problem() != "" }, patience, 20*time.Millisecond)
			relay.DropAll.Store(false)
			r.awaitWorking()
			enqueue(t, pool, order("sqs://orders"))
			r.hinted("it works again")
		})
	}
}

// Whoever reads the log is replaced within seconds when it dies.
func TestAnotherReadsOn(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	a, b := up(t, WAL, pool), up(t, WAL, pool)
	for i := range 3 {
		var ended int
		require.NoError(t, pool.QueryRow(t.Context(), `
			SELECT count(pg_terminate_backend(s.active_pid)) FROM pg_replication_slots AS s
			 WHERE s.database = current_database()`).Scan(&ended))
		require.Equal(t, 1, ended, "one slot for all starters")
		hints := func() int { return len(a.hints) + len(b.hints) }
		require.Eventually(t, func() bool { return hints() > 0 }, patience, 10*time.Millisecond,
			"a starter looks at the table at once")
		a.awaitWorking()
		b.awaitWorking()
		enqueue(t, pool, order(fmt.Sprintf("sqs://orders-%d", i)))
		require.Eventually(t, func() bool { return hints() == 1 }, patience, 10*time.Millisecond)
		a.forget()
		b.forget()
	}
	a.stop()
	b.awaitWorking()
	enqueue(t, pool, order("sqs://orders"))
	b.hinted("the other one has stopped")
}

// A reader whose process was stopped holds its lock: another starter ends its session. One that has
// proved nothing yet is left alone: its slot may wait for a long transaction.
func TestASilentReaderIsReplaced(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	pool := teststack.New(t)
	hold := func() *pgx.Conn {
		conn, err := pgx.ConnectConfig(ctx, pool.Config().ConnConfig)
		require.NoError(t, err)
		t.Cleanup(func() { _ = conn.Close(context.WithoutCancel(ctx)) })
		_, err = conn.Exec(ctx, `SELECT pg_advisory_lock($1::bigint)`, readerLock)
		require.NoError(t, err)
		return conn
	}
	first := hold()
	r := run(t, WAL, pool, pool.Config().ConnConfig)
	require.Eventually(t, func() bool { return r.Problem() == errNoProof.Error() }, patience, 20*time.Millisecond)
	time.Sleep(2 * time.Second)
	require.NoError(t, first.Ping(ctx), "it may be waiting for its slot")
	store, id := outboxdb.New(pool), uuid.New()
	require.NoError(t, store.KeepListener(ctx, outbox.Listener{ID: id}))
	require.NoError(t, store.KeepReader(ctx, id, 2*time.Second))
	r.awaitWorking()
	require.Eventually(t, func() bool { return first.Ping(ctx) != nil }, patience, 100*time.Millisecond,
		"the session of the silent reader is ended")
	r.awaitWorking()
	enqueue(t, pool, order("sqs://orders"))
	r.hinted("it reads itself")
}

func TestTheLogsReaderSaysWhatIsMissing(t *testing.T) {
	t.Run("publication", func(t *testing.T) {
		t.Parallel()
		pool := teststack.New(t)
		r := up(t, WAL, pool)
		teststack.Execute(t, pool, "DROP PUBLICATION outflow_messages")
		enqueue(t, pool, order("sqs://orders")) // the server notices with the next change
		require.Eventually(t, func() bool { return r.Problem() != "" }, patience, 20*time.Millisecond)
		require.Eventually(t, func() bool {
			return strings.Contains(r.Problem(), "CREATE PUBLICATION")
		}, patience, 20*time.Millisecond, "the text has the statement: %s", r.Problem())
		teststack.Execute(t, pool, PublicationSQL)
		r.awaitWorking()
		enqueue(t, pool, order("sqs://orders"))
		r.hinted("the publication is back")
	})
	t.Run("role", func(t *testing.T) {
		t.Parallel()
		pool := teststack.New(t)
		role := "reader_" + uuid.NewString()[:8]
		teststack.Execute(t, pool, "CREATE ROLE "+role+" LOGIN PASSWORD 'secret'")
		t.Cleanup(func() {
			_, err := pool.Exec(context.WithoutCancel(t.Context()), "DROP OWNED BY "+role+"; DROP ROLE "+role)
			assert.NoError(t, err)
		})
		teststack.Execute(t, pool, "GRANT USAGE ON SCHEMA outbox TO "+role)
		teststack.Execute(t, pool, "GRANT SELECT ON outbox.listeners TO "+role)
		teststack.Execute(t, pool, "GRANT EXECUTE ON FUNCTION outbox.hint(integer, boolean, uuid) TO "+role)
		config := pool.Config().ConnConfig
		config.User, config.Password = role, "secret"
		r := run(t, WAL, pool, config)
		require.Eventually(t, func() bool { return r.Problem() != "" }, patience, 20*time.Millisecond)
		assert.Contains(t, r.Problem(), "REPLICATION")
		teststack.Execute(t, pool, "ALTER ROLE "+role+" REPLICATION")
		r.awaitWorking()
		enqueue(t, pool, order("sqs://orders"))
		r.hinted("the role may replicate now")
	})
}

// A slot waits for the transactions that were open: that is said, and the scanner polls.
func TestASlotWaitsForOpenTransactions(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	ctx := t.Context()
	tx, err := pool.Begin(ctx)
	require.NoError(t, err)
	_, err = outboxdb.Enqueue(ctx, tx, order("sqs://orders"))
	require.NoError(t, err)
	r := run(t, WAL, pool, pool.Config().ConnConfig)
	require.Eventually(t, func() bool { return r.Problem() == errSlowSlot.Error() }, patience, 20*time.Millisecond)
	_, works := r.Rest(ctx)
	assert.False(t, works)
	require.NoError(t, tx.Commit(ctx))
	r.awaitWorking()
	enqueue(t, pool, order("sqs://orders"))
	r.hinted("the slot is there")
}

// The server keeps no more of its log for a reader that is alive, whatever else is written.
func TestAReaderHoldsBackNoLog(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	up(t, WAL, pool)
	retained := func() (bytes int64) {
		require.NoError(t, pool.QueryRow(t.Context(), `
			SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), s.confirmed_flush_lsn)::bigint
			  FROM pg_replication_slots AS s WHERE s.database = current_database()`).Scan(&bytes))
		return bytes
	}
	teststack.Execute(t, pool, "CREATE TABLE other AS SELECT g AS id, repeat('x', 1000) AS text FROM generate_series(1, 50000) AS g")
	require.Eventually(t, func() bool { return retained() < 1<<20 }, patience, 100*time.Millisecond)
}
