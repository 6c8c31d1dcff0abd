package outboxdb_test

import (
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/outflowhq/outflow/internal/teststack"
	"github.com/outflowhq/outflow/outbox"
	"github.com/outflowhq/outflow/outboxdb"
)

// retryingOf are the messages that would be signalled if the destination recovered.
func retryingOf(t *testing.T, pool *pgxpool.Pool, store *outboxdb.Store, destination string) []outbox.Leased {
	t.Helper()
	execute(t, pool, `INSERT INTO outbox.destinations (destination, recovered_at) VALUES ($1, '2020-01-01Z')
		ON CONFLICT (destination) DO UPDATE SET recovered_at = '2020-01-01Z', signalled_id = NULL`, destination)
	defer execute(t, pool, `UPDATE outbox.destinations SET recovered_at = NULL`)
	at := time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC)
	leased, err := store.Retrying(t.Context(), outbox.Recovered{Destination: destination, At: at}, 10)
	require.NoError(t, err)
	return leased
}

func TestRecoveryIsSignalledOnce(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	store := opened(t, pool)
	take := func() []outbox.Recovered {
		r, err := store.TakeRecovered(t.Context())
		require.NoError(t, err)
		return r
	}
	require.Empty(t, take())
	acknowledge(store, "sqs://down")
	waitFor(t, pool, `SELECT EXISTS (SELECT FROM outbox.destinations WHERE recovered_at IS NOT NULL)`)
	taken := take()
	require.Len(t, taken, 1)
	require.Equal(t, "sqs://down", taken[0].Destination)
	require.Empty(t, take(), "somebody is at it")

	// It failed and recovered once more meanwhile: that is signalled again.
	execute(t, pool, `UPDATE outbox.destinations SET recovered_at = now() + interval '1 second', probe_until = NULL`)
	require.NoError(t, store.ForgetRecovered(t.Context(), taken[0]))
	taken = take()
	require.Len(t, taken, 1)
	require.NoError(t, store.ForgetRecovered(t.Context(), taken[0]))
	execute(t, pool, `UPDATE outbox.destinations SET probe_until = NULL`)
	require.Empty(t, take())
}

// The scanner that signals the runs keeps its lease while others report successes.
func TestSuccessDoesNotEndTheSignalling(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	acknowledge(opened(t, pool), "sqs://down")
	waitFor(t, pool, `SELECT EXISTS (SELECT FROM outbox.destinations WHERE recovered_at IS NOT NULL)`)
	taken, err := outboxdb.New(pool).TakeRecovered(t.Context())
	require.NoError(t, err)
	require.Len(t, taken, 1)
	execute(t, pool, `UPDATE outbox.destinations SET delivered_at = NULL`)
	acknowledge(outboxdb.New(pool), "sqs://down")
	waitFor(t, pool, `SELECT EXISTS (SELECT FROM outbox.destinations WHERE delivered_at IS NOT NULL)`)
	taken, err = outboxdb.New(pool).TakeRecovered(t.Context())
	require.NoError(t, err)
	require.Empty(t, taken, "somebody is at it")
}

// A destination that takes a few messages at a time: the signalling stops with the next failure
// and goes on behind the runs that were signalled, which go first.
func TestDestinationThatTakesAFew(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	store := opened(t, pool)
	enqueue(t, pool, messages("sqs://down", 250)...)
	execute(t, pool, `UPDATE outbox.messages SET retrying = true, available_at = now() + interval '5 minutes'`)
	enqueue(t, pool, messages("sqs://down", 3)...)
	acknowledge(store, "sqs://down")
	waitFor(t, pool, `SELECT EXISTS (SELECT FROM outbox.destinations WHERE recovered_at IS NOT NULL)`)
	recovered, err := store.TakeRecovered(t.Context())
	require.NoError(t, err)
	signalled := map[uuid.UUID]bool{}
	page := func() int {
		leased, err := store.Retrying(t.Context(), recovered[0], 100)
		require.NoError(t, err)
		for _, m := range leased {
			require.False(t, signalled[m.ID], "once each: it may be the one that fails")
			signalled[m.ID] = true
		}
		return len(leased)
	}
	require.Equal(t, 100, page())
	require.Empty(t, claim(t, store, request()).Messages, "it collects no more of them")

	fail(store, "sqs://down", errDown)
	waitFor(t, pool, `SELECT EXISTS (SELECT FROM outbox.destinations WHERE failing_since IS NOT NULL)`)
	require.Zero(t, page())
	require.NoError(t, store.ForgetRecovered(t.Context(), recovered[0]))

	// The breaker did not open: no scanner would signal the others, were they forgotten.
	execute(t, pool, `UPDATE outbox.destinations SET probe_until = now()
	    WHERE probe_until < now() + interval '2 seconds'`)
	recovered, err = store.TakeRecovered(t.Context())
	require.NoError(t, err)
	require.Len(t, recovered, 1)
	require.Equal(t, 100, page())
	require.Equal(t, 50, page())
	require.Zero(t, page())

	acknowledge(store, "sqs://down")
	waitFor(t, pool, `SELECT EXISTS (SELECT FROM outbox.destinations WHERE failing_since IS NULL)`)
	require.NoError(t, store.ForgetRecovered(t.Context(), recovered[0]))
	require.Len(t, claim(t, store, request()).Messages, 3)
}

// The breaker of a host's new paths has nothing to do with runs of paths that messages have
// reached: they don't keep it open, and are not signalled when it closes.
func TestTheBreakerOfNewPathsLeavesOtherPaths(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	store := outboxdb.New(pool)
	retrying := func(destination string) uuid.UUID {
		return row(t, pool, `destination = '`+destination+`', retrying = true,
		    available_at = now() + interval '5 minutes'`)
	}
	retrying("https://example.org/customer")
	execute(t, pool, `INSERT INTO outbox.destinations (destination, delivered_at)
		VALUES ('https://example.org/customer', now())`)
	execute(t, pool, `INSERT INTO outbox.destinations (destination, failures, failing_since, recovered_at)
		VALUES ('https://example.org#new', 0, NULL, now())`)
	recovered, err := store.TakeRecovered(t.Context())
	require.NoError(t, err)
	require.Len(t, recovered, 1)
	fresh := retrying("https://example.org/new")
	signalled, err := store.Retrying(t.Context(), recovered[0], 10)
	require.NoError(t, err)
	require.Len(t, signalled, 1)
	require.Equal(t, fresh, signalled[0].ID)

	open := `UPDATE outbox.destinations SET recovered_at = NULL, probe_until = NULL, failures = 5,
	    failing_since = now(), openings = 1,
		open_until = now() - interval '3 minutes' WHERE destination = 'https://example.org#new'`
	execute(t, pool, open)
	_, err = outboxdb.New(pool).TakeProbes(t.Context())
	require.NoError(t, err)
	require.True(t, value[bool](t, pool, isOpen, "https://example.org#new"), "a new path's message waits")
	execute(t, pool, `DELETE FROM outbox.messages WHERE id = $1`, fresh)
	execute(t, pool, open)
	_, err = outboxdb.New(pool).TakeProbes(t.Context())
	require.NoError(t, err)
	require.False(t, value[bool](t, pool, isOpen, "https://example.org#new"))
}
