package outboxdb_test

import (
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/outflowhq/outflow/internal/teststack"
	"github.com/outflowhq/outflow/outbox"
	"github.com/outflowhq/outflow/outboxdb"
)

func TestDueChannel(t *testing.T) {
	t.Parallel()
	pool, id := teststack.New(t), uuid.New()
	var channel string
	require.NoError(t, pool.QueryRow(t.Context(), `SELECT outbox.due_channel($1)`, id).Scan(&channel))
	assert.Equal(t, channel, outboxdb.DueChannel(id))
}

// What an idle starter may wait for, by what stands in the table.
func TestRest(t *testing.T) {
	t.Parallel()
	const row = `INSERT INTO outbox.messages (id, destination, type, payload, due_at, available_at, parked, head, follower, ordering_key)
		VALUES (gen_random_uuid(), 'sqs://orders', 'order-placed', '{}', now(), `
	for name, c := range map[string]struct {
		before []string
		due    bool
		nextIn time.Duration // within a second
	}{
		"nothing":   {nextIn: 24 * time.Hour},
		"a message": {before: []string{row + `now(), false, false, false, NULL)`}, due: true, nextIn: 24 * time.Hour},
		"a delayed message": {
			before: []string{row + `now() + interval '30 seconds', true, false, false, NULL)`}, nextIn: 30 * time.Second,
		},
		"the end of a lease": {before: []string{
			row + `now() + interval '50 seconds', true, false, false, NULL)`,
			row + `now() + interval '40 seconds', true, false, false, NULL)`,
		}, nextIn: 40 * time.Second},
		"a follower": {before: []string{
			row + `now() + interval '50 seconds', true, true, false, 'k')`,
			row + `'9999-12-31Z', true, false, true, 'k')`,
		}, nextIn: 50 * time.Second},
		"a deferred release": {before: []string{
			`INSERT INTO outbox.deferred_releases (destination, ordering_key) VALUES ('sqs://orders', 'k')`,
		}, nextIn: time.Second},
		"an open breaker": {before: []string{
			row + `now(), false, false, false, NULL)`,
			`INSERT INTO outbox.destinations (destination, failures, failing_since, openings, open_until)
			 VALUES ('sqs://orders', 5, now(), 1, now() + interval '20 seconds')`,
		}, nextIn: 20 * time.Second},
		"a breaker that is probed": {before: []string{
			`INSERT INTO outbox.destinations (destination, failures, failing_since, openings, open_until, probe_until)
			 VALUES ('sqs://orders', 5, now(), 1, now() - interval '20 seconds', now() + interval '15 seconds')`,
		}, nextIn: 15 * time.Second},
		"a breaker with nothing to probe it": {before: []string{
			`INSERT INTO outbox.destinations (destination, failures, failing_since, openings, open_until)
			 VALUES ('sqs://orders', 5, now(), 1, now() - interval '1 hour')`,
		}, nextIn: time.Second},
		"another destination beside an open breaker": {before: []string{
			row + `now(), false, false, false, NULL)`,
			`INSERT INTO outbox.destinations (destination, failures, failing_since, openings, open_until)
			 VALUES ('sqs://orders', 5, now(), 1, now() + interval '20 seconds')`,
			`INSERT INTO outbox.messages (id, destination, type, payload)
			 VALUES (gen_random_uuid(), 'sqs://others', 'order-placed', '{}')`,
		}, due: true, nextIn: 20 * time.Second},
		"a recovered destination": {before: []string{
			`INSERT INTO outbox.destinations (destination, recovered_at) VALUES ('sqs://orders', now())`,
		}, nextIn: time.Second},
		"a stream's page": {before: []string{
			`INSERT INTO outbox.pages (destination, at, holder, messages)
			 VALUES ('sqs://orders', now() + interval '1 day', gen_random_uuid(), 5)`,
		}, nextIn: 30 * time.Second},
		"a missing destination": {before: []string{
			`INSERT INTO outbox.destinations (destination, missing_since, missing_reason) VALUES ('sqs://orders', now(), 'x')`,
		}, nextIn: time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pool := teststack.New(t)
			for _, statement := range c.before {
				teststack.Execute(t, pool, statement)
			}
			store, id := outboxdb.New(pool), uuid.New()
			require.NoError(t, store.KeepListener(t.Context(), outbox.Listener{ID: id}))
			rest, err := store.Rest(t.Context(), id)
			require.NoError(t, err)
			assert.True(t, rest.Registered)
			assert.True(t, rest.Began)
			assert.Equal(t, c.due, rest.Due)
			assert.InDelta(t, c.nextIn.Seconds(), rest.NextIn.Seconds(), 10, "seconds; a busy machine is late")
			assert.LessOrEqual(t, rest.NextIn, c.nextIn)

			rest, err = store.Rest(t.Context(), id)
			require.NoError(t, err)
			assert.False(t, rest.Began, "again")
			require.NoError(t, store.PassOn(t.Context(), id, 0))
			rest, err = store.Rest(t.Context(), id)
			require.NoError(t, err)
			assert.True(t, rest.Began, "it had no room meanwhile")
			require.NoError(t, store.DropListener(t.Context(), id))
			rest, err = store.Rest(t.Context(), id)
			require.NoError(t, err)
			assert.False(t, rest.Registered)
		})
	}
}

// One starter at a time has proved that it reads the log.
func TestKeepReader(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	pool := teststack.New(t)
	store, a, b := outboxdb.New(pool), uuid.New(), uuid.New()
	for _, id := range []uuid.UUID{a, b} {
		require.NoError(t, store.KeepListener(ctx, outbox.Listener{ID: id}))
	}
	read := func() bool {
		rest, err := store.Rest(ctx, a)
		require.NoError(t, err)
		return rest.LogRead
	}
	assert.False(t, read())
	require.NoError(t, store.KeepReader(ctx, b, time.Minute))
	assert.True(t, read())
	require.NoError(t, store.KeepReader(ctx, a, time.Minute))
	var readers int
	require.NoError(t, pool.QueryRow(ctx, `SELECT count(*) FROM outbox.listeners AS l WHERE l.reads_until IS NOT NULL`).Scan(&readers))
	assert.Equal(t, 1, readers)
	require.NoError(t, store.KeepReader(ctx, uuid.Nil, 0))
	assert.False(t, read())
}

// Registrations that ended without a word are removed by those that come later.
func TestListenersAreForgotten(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	teststack.Execute(t, pool, `INSERT INTO outbox.listeners (id, expires_at, idle, by_producers)
		VALUES (gen_random_uuid(), now() - interval '1 second', true, true)`)
	require.NoError(t, outboxdb.New(pool).KeepListener(t.Context(), outbox.Listener{ID: uuid.New()}))
	rows, err := pool.Query(t.Context(), `SELECT l.idle FROM outbox.listeners AS l`)
	require.NoError(t, err)
	idle, err := pgx.CollectRows(rows, pgx.RowTo[bool])
	require.NoError(t, err)
	assert.Equal(t, []bool{false}, idle)
}
