package outboxdb_test

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/internal/teststack"
	"github.com/outflowhq/outflow/outbox"
	"github.com/outflowhq/outflow/outboxdb"
)

// ended inserts n messages that came to an end so long ago, a millisecond apart,
// the oldest first, and returns their IDs.
func ended(t testing.TB, pool *pgxpool.Pool, state outflow.State, ago string, n int) []uuid.UUID {
	t.Helper()
	return values[uuid.UUID](t, pool, `
		WITH inserted AS (
		    INSERT INTO outbox.messages (id, destination, type, payload, state, finished_at)
		    SELECT outbox.new_id(), 'sqs://orders', 'a', '{}', $1, now() - $2::text::interval + n * interval '1 ms'
		        FROM generate_series(1, $3::int) AS n
		    RETURNING id, finished_at)
		SELECT id FROM inserted ORDER BY finished_at`, string(state), ago, n)
}

func purge(t testing.TB, store *outboxdb.Store, p outbox.Purge) outbox.Purged {
	t.Helper()
	purged, err := store.PurgeMessages(t.Context(), p)
	require.NoError(t, err)
	return purged
}

func left(t testing.TB, q queryer) []uuid.UUID {
	t.Helper()
	return values[uuid.UUID](t, q, `SELECT id FROM outbox.messages ORDER BY finished_at, id`)
}

const hour = time.Hour

func TestPurge(t *testing.T) {
	t.Parallel()
	for _, history := range []bool{false, true} {
		t.Run(fmt.Sprintf("history %t", history), func(t *testing.T) {
			t.Parallel()
			t.Run("oldest first, chunk by chunk", func(t *testing.T) {
				pool := teststack.New(t)
				store := outboxdb.New(pool)
				old := ended(t, pool, outflow.Delivered, "3 hours", 5)
				young := ended(t, pool, outflow.Delivered, "30 minutes", 2)
				p := outbox.Purge{State: outflow.Delivered, OlderThan: hour, Limit: 2, History: history}
				for _, want := range []struct{ rows, left int }{{2, 2}, {2, 4}, {1, 5}, {0, 5}} {
					purged := purge(t, store, p)
					require.Equal(t, want.rows, purged.Rows)
					require.False(t, purged.UpTo.Before(p.After))
					p.After = purged.UpTo
					require.Equal(t, append(old[want.left:len(old):len(old)], young...), left(t, pool))
				}
				moved := 0
				if history {
					moved = 5
				}
				require.Equal(t, moved, value[int](t, pool, `SELECT count(*) FROM outbox.history`))
			})
			t.Run("the state that was asked for", func(t *testing.T) {
				pool := teststack.New(t)
				store := outboxdb.New(pool)
				all := []outflow.State{outflow.Delivered, outflow.Dead, outflow.Expired, outflow.Cancelled}
				for _, state := range all {
					ended(t, pool, state, "3 hours", 3)
				}
				for i, state := range all {
					require.Equal(t, 3, purge(t, store,
						outbox.Purge{State: state, OlderThan: hour, Limit: 100, History: history}).Rows)
					require.Zero(t, value[int](t, pool, `SELECT count(*) FROM outbox.messages WHERE state = $1`,
						string(state)))
					require.Equal(t, 3*(3-i), count(t, pool))
				}
			})
			t.Run("what is not delivered, or owes a callback, stays", func(t *testing.T) {
				pool := teststack.New(t)
				store := outboxdb.New(pool)
				enqueue(t, pool, messages("sqs://orders", 2)...)
				execute(t, pool, `UPDATE outbox.messages SET enqueued_at = now() - interval '1 year',
				    due_at = now() - interval '1 year', available_at = now() - interval '1 year'`)
				owing := ended(t, pool, outflow.Delivered, "3 hours", 4)
				for i, state := range []string{"due", "sent", "failed"} {
					execute(t, pool, `UPDATE outbox.messages SET callback = 'https://example.com/', callback_state = $2,
					    callback_due_at = now() WHERE id = $1`, owing[i], state)
				}
				require.Equal(t, 3, purge(t, store,
					outbox.Purge{State: outflow.Delivered, Limit: 100, History: history}).Rows)
				require.Equal(t, 1, value[int](t, pool, `SELECT count(*) FROM outbox.messages WHERE id = $1`, owing[0]))
				require.Equal(t, 2, value[int](t, pool,
					`SELECT count(*) FROM outbox.messages WHERE finished_at IS NULL`))
			})
			t.Run("who holds a row is not waited for", func(t *testing.T) {
				pool := teststack.New(t)
				store := outboxdb.New(pool)
				dead := ended(t, pool, outflow.Dead, "3 hours", 3)
				operator, err := pool.Begin(t.Context())
				require.NoError(t, err)
				defer func() { _ = operator.Rollback(t.Context()) }()
				_, err = operator.Exec(t.Context(),
					`UPDATE outbox.messages SET state = 'pending', finished_at = NULL, generation = 2
					    WHERE id = $1`, dead[0])
				require.NoError(t, err)
				p := outbox.Purge{State: outflow.Dead, OlderThan: hour, Limit: 100, History: history}
				require.Equal(t, 2, purge(t, store, p).Rows)
				require.NoError(t, operator.Commit(t.Context()))
				require.Zero(t, purge(t, store, p).Rows)
				require.Equal(t, dead[:1], left(t, pool), "what was started again stays")
			})
		})
	}
}

// An operator starts dead messages again while they are purged: a row that was
// started again is never deleted.
func TestPurgeMeetsANewStart(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	store := outboxdb.New(pool)
	dead := ended(t, pool, outflow.Dead, "3 hours", 400)
	var operator sync.WaitGroup
	started := 0
	operator.Go(func() {
		for _, id := range dead {
			tag, err := pool.Exec(t.Context(),
				`UPDATE outbox.messages SET state = 'pending', finished_at = NULL, generation = 2 WHERE id = $1`, id)
			assert.NoError(t, err)
			started += int(tag.RowsAffected())
		}
	})
	purged := 0
	for n := 2; n > 0; {
		n = purge(t, store, outbox.Purge{State: outflow.Dead, OlderThan: hour, Limit: 2}).Rows
		purged += n
	}
	operator.Wait()
	t.Logf("%d purged, %d started again", purged, started)
	require.Equal(t, started, value[int](t, pool,
		`SELECT count(*) FROM outbox.messages WHERE generation = 2 AND finished_at IS NULL`))
	require.Equal(t, len(dead), purged+count(t, pool), "a row was deleted or stands")
}

func TestPurgeRefuses(t *testing.T) {
	t.Parallel()
	store := outboxdb.New(teststack.New(t))
	for _, p := range []outbox.Purge{
		{State: outflow.Pending, Limit: 1}, {State: "", Limit: 1}, {State: outflow.Dead}, {State: outflow.Dead,
			Limit: 1, OlderThan: -1},
	} {
		_, err := store.PurgeMessages(t.Context(), p)
		require.ErrorContains(t, err, "want")
	}
}

// What is moved is the whole row, and whatever a migration adds to the table
// must be added to its history too.
func TestHistoryHasEveryColumn(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	columns := `SELECT attname || ' ' || format_type(atttypid, atttypmod) FROM pg_attribute
	    WHERE attrelid = $1::text::regclass AND attnum > 0 AND attname <> 'moved_at' ORDER BY 1`
	require.Equal(t, values[string](t, pool, columns, "outbox.messages"),
		values[string](t, pool, columns, "outbox.history"))

	id := ended(t, pool, outflow.Dead, "3 hours", 1)[0]
	execute(t, pool, `UPDATE outbox.messages SET payload = '\x00ff', content_type = 'text/plain',
	    headers = '{"a": "b"}', ordering_key = 'k',
		group_id = gen_random_uuid(), group_place = 1, callback = 'https://example.com/', callback_state = 'sent',
		    callback_payload = true,
		callback_attempts = 6, callback_error = 'f', callback_due_at = now(), dismissed_at = now(), generation = 3,
		    claims = 4, attempts = 5,
		cancel_requested = true, expires_at = now() + interval '1 day', broker_message_id = 'b', last_error = 'e'`)
	require.Empty(t, values[string](t, pool,
		`SELECT key FROM outbox.messages AS m, jsonb_each(to_jsonb(m))
		    WHERE value = 'null'`), "a column without a value shows nothing")
	whole := value[string](t, pool, `SELECT to_jsonb(m)::text FROM outbox.messages AS m`)
	store := outboxdb.New(pool)
	toHistory := outbox.Purge{State: outflow.Dead, Limit: 10, History: true}
	require.Equal(t, 1, purge(t, store, toHistory).Rows)
	require.Equal(t, whole, value[string](t, pool, `SELECT (to_jsonb(h) - 'moved_at')::text FROM outbox.history AS h`))

	// The same ID once more: both ends are kept.
	execute(t, pool, `INSERT INTO outbox.messages (id, destination, type, payload, state, finished_at) VALUES ($1,
	    'sqs://again', 'a', '{}', 'dead', now() - interval '1 hour')`, id)
	require.Equal(t, 1, purge(t, store, toHistory).Rows)
	require.Equal(t, []string{"sqs://orders", "sqs://again"},
		values[string](t, pool, `SELECT destination FROM outbox.history WHERE id = $1 ORDER BY moved_at`, id))
}

func TestPurgeAudit(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	store := outboxdb.New(pool)
	execute(t, pool, `INSERT INTO outbox.audit (at, act, who) SELECT now() - interval '1 day' * (10 - n), 'retry', 'ada'
	    FROM generate_series(1, 9) AS n`)
	for _, want := range []int{4, 2, 0} {
		n, err := store.PurgeAudit(t.Context(), 84*hour, 4)
		require.NoError(t, err)
		require.Equal(t, want, n)
	}
	require.Equal(t, 3, value[int](t, pool, `SELECT count(*) FROM outbox.audit WHERE at > now() - interval '84 hours'`))
}

func TestPurgeDestinations(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	store := outboxdb.New(pool)
	execute(t, pool, `INSERT INTO outbox.destinations (destination, delivered_at, failures, failing_since, openings, open_until, recovered_at)
		VALUES
		('sqs://idle',       now() - interval '31 days', 0, NULL, 0, NULL, NULL),
		('sqs://failed',     NULL,                       1, now() - interval '31 days', 0, NULL, NULL),
		('sqs://gone',       now() - interval '50 days', 9, now() - interval '40 days', 1, now() - interval '31 days',
		    NULL),
		('sqs://unsignalled',     now() - interval '31 days', 0, NULL, 0, NULL, now() - interval '31 days'),
		('sqs://answered',   NULL,                       0, NULL, 0, NULL, NULL),
		('https://waits.example',     NULL,              9, now() - interval '40 days', 1, now() - interval '31 days',
		    NULL),
		('https://waits.example#new', NULL,              9, now() - interval '40 days', 1, now() - interval '31 days',
		    NULL),
		('https://waits.example:81',  NULL,              9, now() - interval '40 days', 1, now() - interval '31 days',
		    NULL),
		('https://later.example',     NULL,              9, now() - interval '40 days', 1, now() - interval '31 days',
		    NULL),
		('sqs://busy',       now() - interval '29 days', 0, NULL, 0, NULL, NULL),
		('sqs://waited-for', now() - interval '31 days', 0, NULL, 0, NULL, NULL),
		('sqs://missed',     now() - interval '50 days', 9, now() - interval '40 days', 1, now() - interval '31 days',
		    NULL),
		('sqs://failing',    now() - interval '31 days', 1, now(), 0, NULL, NULL),
		('sqs://open',       now() - interval '50 days', 9, now() - interval '40 days', 1, now(), NULL),
		('sqs://recovered',  now() - interval '31 days', 0, NULL, 0, NULL, now())`)
	later := message("sqs://waited-for")
	later.DueIn = 90 * 24 * hour
	parked := message("https://later.example/a")
	parked.DueIn = 90 * 24 * hour
	enqueue(t, pool, later, parked, message("sqs://missed"), message("https://waits.example/a?b=c"))
	for _, want := range []int{3, 3, 0} {
		n, err := store.PurgeDestinations(t.Context(), 30*24*hour, 3)
		require.NoError(t, err)
		require.Equal(t, want, n)
	}
	require.Equal(t, []string{
		"https://later.example", "https://waits.example", "https://waits.example#new",
		"sqs://busy", "sqs://failing", "sqs://missed", "sqs://open", "sqs://recovered", "sqs://waited-for",
	},
		values[string](t, pool, `SELECT destination FROM outbox.destinations ORDER BY 1`))
}

// The rights that docs/rights.md lists for maintenance are enough, beside
// those of the dispatcher.
func TestMaintenanceRights(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	role := newRole(t, pool)
	execute(t, pool, `GRANT USAGE ON SCHEMA outbox TO `+role+`;
		GRANT SELECT, UPDATE, DELETE ON outbox.messages TO `+role+`;
		GRANT SELECT, UPDATE, DELETE ON outbox.destinations TO `+role+`;
		GRANT SELECT, DELETE ON outbox.audit TO `+role+`;
		GRANT INSERT, SELECT ON outbox.history TO `+role)
	store := outboxdb.New(withRole(t, pool, role))
	ended(t, pool, outflow.Delivered, "3 hours", 2)
	execute(t, pool, `INSERT INTO outbox.audit (at, act, who) VALUES (now() - interval '2 days', 'retry', 'ada')`)
	execute(t, pool, `INSERT INTO outbox.destinations (destination, delivered_at) VALUES ('sqs://idle',
	    now() - interval '2 days')`)
	for _, history := range []bool{true, false} {
		require.Equal(t, 1, purge(t, store, outbox.Purge{State: outflow.Delivered, Limit: 1, History: history}).Rows)
	}
	n, err := store.PurgeAudit(t.Context(), hour, 10)
	require.NoError(t, err)
	require.Equal(t, 1, n)
	n, err = store.PurgeDestinations(t.Context(), hour, 10)
	require.NoError(t, err)
	require.Equal(t, 1, n)
	_, err = store.TableHealth(t.Context(), hour)
	require.NoError(t, err)
}
