package outboxdb_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/internal/teststack"
	"github.com/outflowhq/outflow/operator"
	"github.com/outflowhq/outflow/outbox"
	"github.com/outflowhq/outflow/outboxdb"
)

// runs has a process say that it runs, and returns its ID.
func runs(t *testing.T, pool *pgxpool.Pool, scans bool, schemes ...string) uuid.UUID {
	t.Helper()
	p := outbox.Process{ID: uuid.New(), Name: "outflow", Host: "here", Schemes: schemes, Scans: scans}
	require.NoError(t, outboxdb.New(pool).Announce(t.Context(), p))
	return p.ID
}

// A process counts as running for a minute after it last said so.
func TestProcesses(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	store, o := outboxdb.New(pool), operator.New(pool, nil, "")
	served := func(destination string) outbox.Served {
		store.LookAgain()
		s, err := store.Served(t.Context(), destination)
		require.NoError(t, err)
		return s
	}
	require.Equal(t, outbox.ServedByNone, served("sqs://orders"))
	starter, worker := runs(t, pool, true, "sqs"), runs(t, pool, false, "sns", "sqs")
	require.Equal(t, outbox.ServedByScanners, served("sqs://orders"))
	require.Equal(t, outbox.ServedByWorkers, served("sns://news"))
	require.Equal(t, outbox.ServedByNone, served("https://shop.example/"))
	running, err := o.Running(t.Context())
	require.NoError(t, err)
	require.Len(t, running, 2)
	require.Equal(t, "outflow on here: sqs", running[0].String())
	require.True(t, operator.Publishes(running, "sns"))
	require.False(t, operator.Publishes(running, "https"))

	require.NoError(t, store.Withdraw(t.Context(), worker))
	require.Equal(t, outbox.ServedByNone, served("sns://news"))
	execute(t, pool, `UPDATE outbox.processes SET seen_at = now() - $1::interval WHERE id = $2`, time.Minute,
		starter)
	require.Equal(t, outbox.ServedByNone, served("sqs://orders"), "it crashed")
	running, err = o.Running(t.Context())
	require.NoError(t, err)
	require.Empty(t, running)

	execute(t, pool, `UPDATE outbox.processes SET seen_at = now() - interval '2 days'`)
	runs(t, pool, true) // does not say what it publishes to
	require.Equal(t, 1, value[int](t, pool, `SELECT count(*) FROM outbox.processes`),
		"one that crashed long ago is forgotten")
	require.Equal(t, outbox.ServedByScanners, served("sns://news"))
	running, err = o.Running(t.Context())
	require.NoError(t, err)
	require.Equal(t, "outflow on here: any scheme", running[0].String())
	require.True(t, operator.Publishes(running, "sns"))
}

// Messages of a scheme without a publisher here are left to a process that has one, or wait as rows
// until their grace is over.
func TestSchemeWithoutAPublisher(t *testing.T) {
	t.Parallel()
	isUnserved := func(t *testing.T, pool *pgxpool.Pool) bool { return value[bool](t, pool, isMissing, "sns:") }
	for name, c := range map[string]struct {
		others   func(t *testing.T, pool *pgxpool.Pool)
		claims   int
		unserved bool
	}{
		"anywhere":           {func(*testing.T, *pgxpool.Pool) {}, 0, true},
		"in another starter": {func(t *testing.T, pool *pgxpool.Pool) { runs(t, pool, false, "sqs") }, 0, true},
		"here, and a starter has it": {func(t *testing.T, pool *pgxpool.Pool) {
			runs(t, pool, true, "sns")
			runs(t, pool, false, "sns")
		}, 0, false},
		"here, and a process does not say": {func(t *testing.T,
			pool *pgxpool.Pool) {
			runs(t, pool, true)
		}, 0, false},
		"in a starter, and a worker has it, which claims": {func(t *testing.T,
			pool *pgxpool.Pool) {
			runs(t, pool, false, "sns")
		}, 200, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pool := teststack.New(t)
			store := outboxdb.New(pool)
			c.others(t, pool)
			execute(t, pool, `INSERT INTO outbox.processes (id, name, host, schemes, scans, started_at) VALUES (gen_random_uuid(), 'this', 'here', '{sqs}', true, now() - interval '1 hour')`)
			enqueue(t, pool, append(messages("sns://news", 300), message("sqs://orders"))...)
			require.Equal(t, map[string]int{"sqs://orders": 1}, byDestination(look(t, store, graceful())))
			got := claim(t, store, graceful()) // knows of the others
			require.Len(t, got.Messages, c.claims, "a worker's messages leave the fast path, so many at once")
			require.Equal(t, c.unserved, isUnserved(t, pool))
			require.Equal(t, c.unserved, len(got.Missing) > 0)
			require.Equal(t, c.unserved, got.BreakerActive, "the scanner has schemes forgotten that nothing waits for")
			require.Zero(t, value[int](t, pool, `SELECT count(*) FROM outbox.messages WHERE last_error IS NOT NULL`),
				"no row is written")
			waited(t, pool, time.Hour)
			ended := look(t, store, graceful()).Ended
			if !c.unserved {
				require.Empty(t, ended)
				return
			}
			require.Len(t, ended, 300)
			require.Contains(t, ended[0].LastError,
				"no running starter or worker publishes to sns:// (start one that does")
		})
	}
}

// A worker with the publisher that ends is noticed, and so is a starter that has it: until then the
// starter claims messages for the worker.
func TestTheWorkerWithThePublisherLeaves(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		then     func(t *testing.T, pool *pgxpool.Pool)
		unserved bool
	}{
		"for good":      {func(*testing.T, *pgxpool.Pool) {}, true},
		"for a starter": {func(t *testing.T, pool *pgxpool.Pool) { runs(t, pool, true, "sns") }, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pool := teststack.New(t)
			store := outboxdb.New(pool)
			runs(t, pool, true, "sqs")
			worker := runs(t, pool, false, "sns")
			enqueue(t, pool, message("sns://news"))
			look(t, store, graceful())
			require.Len(t, claim(t, store, graceful()).Messages, 1)

			require.NoError(t, store.Withdraw(t.Context(), worker))
			c.then(t, pool)
			enqueue(t, pool, message("sns://news"))
			look(t, store, graceful()) // what this claims is sent by whoever comes
			enqueue(t, pool, message("sns://news"))
			require.Empty(t, look(t, store, graceful()).Messages)
			require.Equal(t, c.unserved, value[bool](t, pool, isMissing, "sns:"))
		})
	}
}

// While no process ran, whoever publishes to a scheme may have ended, too. So the first one that starts
// begins the grace of schemes again, and a later one does not.
func TestTheFirstProcessBeginsTheGraceAgain(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	execute(t, pool, `INSERT INTO outbox.destinations (destination, missing_since, missing_reason)
		VALUES ('sns:', now() - interval '1 hour', 'no'), ('sqs:', now() - interval '1 hour', 'no'),
		       ('sqs://orders', now() - interval '1 hour', 'gone')`)
	began := func() []string {
		return values[string](t, pool, `SELECT destination || ' ' || missing_reason FROM outbox.destinations
			WHERE missing_since > now() - interval '1 minute'`)
	}
	starter := runs(t, pool, true, "sqs")
	require.Equal(t, []string{"sns: no"}, began())
	require.False(t, value[bool](t, pool, isMissing, "sqs:"))
	waited(t, pool, time.Hour)
	runs(t, pool, false, "sqs")
	require.Empty(t, began())
	execute(t, pool, `UPDATE outbox.processes SET seen_at = now() - interval '2 minutes'`)
	require.NoError(t, outboxdb.New(pool).Announce(t.Context(), outbox.Process{ID: starter, Schemes: []string{"sqs"}}))
	require.Equal(t, []string{"sns: no"}, began(), "nobody was seen for a minute")
}

// Messages that wait for a publisher go out when a process comes that has it, within a walk.
func TestPublisherComes(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	without := outboxdb.New(pool)
	ids := enqueue(t, pool, messages("sns://news", 3)...)
	look(t, without, graceful())
	waited(t, pool, time.Hour)
	newcomer := outboxdb.New(pool)
	process := outbox.Process{ID: uuid.New(), Name: "outflow", Schemes: []string{"sns"}, Scans: true}
	require.NoError(t, newcomer.Announce(t.Context(), process))
	require.False(t, value[bool](t, pool, isMissing, "sns:"))
	require.Empty(t, look(t, without, graceful()).Ended, "they are waited for no more")
	require.ElementsMatch(t, ids, idsOf(claim(t, newcomer, request())))
}

// Between a note and an end somebody may have come: the statement looks by itself.
func TestNoGraceEndsBesideAPublisher(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	store := outboxdb.New(pool)
	enqueue(t, pool, message("sns://news"))
	look(t, store, graceful())
	waited(t, pool, time.Hour)
	execute(t, pool, `INSERT INTO outbox.processes (id, name, host, schemes, scans) VALUES (gen_random_uuid(), 'other', 'there', '{sns}', true)`)
	req := graceful()
	store.WalkNext()
	got, err := store.Claim(t.Context(), req)
	require.NoError(t, err)
	require.Empty(t, got.Ended)
}

// A destination of such a scheme that messages have reached before is waited for without an end.
func TestReachedDestinationsWaitForAPublisher(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	store := outboxdb.New(pool)
	acknowledge(store, "sns://known")
	waitFor(t, pool, `SELECT EXISTS (SELECT FROM outbox.destinations WHERE delivered_at IS NOT NULL)`)
	runs(t, pool, true, "sqs")
	execute(t, pool, `UPDATE outbox.processes SET started_at = now() - interval '1 hour'`)
	enqueue(t, pool, message("sns://known"), message("sns://new"))
	look(t, store, graceful())
	waited(t, pool, time.Hour)
	require.Len(t, look(t, store, graceful()).Ended, 1)
	require.Equal(t, []string{"pending", "dead"}, states(t, pool))
}

// Thousands of destinations that nobody publishes to keep no walk from the others.
func TestWalkPassesUnservedSchemes(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	store := outboxdb.New(pool)
	var msgs []outflow.Message
	for n := range 3 * outboxdb.WalkDestinations {
		msgs = append(msgs, message(fmt.Sprintf("sns://topic-%d", n)))
	}
	enqueue(t, pool, msgs...)
	look(t, store, graceful())
	id := enqueue(t, pool, message("sqs://orders"))[0]
	require.Contains(t, idsOf(claim(t, store, graceful())), id, "the next walk finds it")
}
