package outboxdb_test

import (
	"errors"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/internal/teststack"
	"github.com/outflowhq/outflow/outbox"
	"github.com/outflowhq/outflow/outboxdb"
)

// err429 asks for ten minutes without a request.
var err429 = &outflow.Failure{Class: outflow.ClassUnavailable, Answered: true, RetryAfter: 10 * time.Minute,
	Err: errors.New("HTTP status 429")}

// openFor is how long the breaker is open from now on.
func openFor(t *testing.T, q queryer, name string) time.Duration {
	t.Helper()
	open := breakerOf(t, q, name).OpenFor
	require.NotNil(t, open, name)
	return time.Duration(*open * float64(time.Second))
}

// A message that was sent before its destination asked for a wait may succeed, or be
// refused, after that. The wait stands, in whichever order this process heard of them.
func TestALateSuccessEndsNoWait(t *testing.T) {
	t.Parallel()
	for name, late := range map[string]func(s *outboxdb.Store, destination string){
		"acknowledged": acknowledge,
		"refused":      reject,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pool := teststack.New(t)
			for _, destination := range []string{"sqs://orders", hook(1)} {
				store, elsewhere := outboxdb.New(pool), outboxdb.New(pool)
				reach(t, store, destination)
				reach(t, elsewhere, destination)
				fail(store, destination, err429)
				late(store, destination) // before the failure is written
				waitFor(t, pool, isOpen, destination)
				late(store, destination)
				id := enqueue(t, pool, message(destination))[0]
				_, err := elsewhere.Load(t.Context(), ref(id)) // hears that it fails
				require.NoError(t, err)
				late(elsewhere, destination)
				acknowledge(store, "sqs://last")
				acknowledge(elsewhere, "sqs://last-"+name)
				waitFor(t, pool, `SELECT count(*) = 2 FROM outbox.destinations WHERE destination LIKE 'sqs://last%'`)
				require.Greater(t, openFor(t, pool, destination), 9*time.Minute)
				require.Empty(t, claim(t, outboxdb.New(pool), request()).Messages)

				execute(t, pool, `UPDATE outbox.destinations SET retry_after_until = now(), open_until = now()
				    WHERE open_until IS NOT NULL`)
				_, err = elsewhere.Load(t.Context(), ref(id))
				require.NoError(t, err)
				late(elsewhere, destination)
				waitFor(t, pool, `SELECT NOT EXISTS (SELECT FROM outbox.destinations WHERE open_until IS NOT NULL)`)
				execute(t, pool, `TRUNCATE outbox.messages, outbox.destinations`)
			}
		})
	}
}

// A path that asks for a wait asks for itself, though no message has reached it: the other
// new paths of its host wait for a quarter of a minute at most.
func TestANewPathAsksForItselfOnly(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	store := outboxdb.New(pool)
	fail(store, hook(1), err429)
	waitFor(t, pool, isOpen, hook(1))
	waitFor(t, pool, isOpen, "https://example.org#new")
	require.Greater(t, openFor(t, pool, hook(1)), 9*time.Minute)
	require.LessOrEqual(t, openFor(t, pool, "https://example.org#new"), 15*time.Second)

	enqueue(t, pool, messages(hook(1), 3)...)
	other := enqueue(t, pool, message(hook(2)))
	require.Empty(t, claim(t, outboxdb.New(pool), request()).Messages)
	execute(t, pool, `UPDATE outbox.destinations SET open_until = now(), retry_after_until = now()
	    WHERE destination LIKE '%#new'`)
	elsewhere := outboxdb.New(pool)
	probes, err := elsewhere.TakeProbes(t.Context())
	require.NoError(t, err)
	require.Len(t, probes, 1, "the path that is closed itself does not probe for the others")
	require.Equal(t, other[0], probes[0].ID)
	require.Equal(t, other, idsOf(claim(t, elsewhere, request())))
	acknowledge(elsewhere, hook(2))
	waitFor(t, pool, `SELECT NOT EXISTS (SELECT FROM outbox.destinations WHERE destination LIKE '%#new'
	    AND open_until IS NOT NULL)`)
	require.Greater(t, openFor(t, pool, hook(1)), 9*time.Minute, "another path's success is not its")
	others := enqueue(t, pool, message(hook(3)))
	require.Equal(t, others, idsOf(claim(t, elsewhere, request())))
}

// A run that is signalled to try now, because the host of its path answers again, sends nothing
// while the path's wait lasts.
func TestTheHostsRecoveryEndsNoPathsWait(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	store := outboxdb.New(pool)
	fail(store, hook(1), err429)
	waitFor(t, pool, isOpen, hook(1))
	for n := range 5 {
		fail(store, hook(2+n), errSilent)
	}
	waitFor(t, pool, isOpen, "https://example.org")
	acknowledge(store, hook(7))
	waitFor(t, pool, `SELECT EXISTS (SELECT FROM outbox.destinations WHERE destination = 'https://example.org'
	    AND open_until IS NULL)`)
	id := enqueue(t, pool, message(hook(1)))[0]
	r, err := store.Renew(t.Context(), outbox.Renewal{Ref: ref(id), Lease: time.Minute})
	require.NoError(t, err)
	require.True(t, r.HeldBack)
	require.Greater(t, r.HeldBackFor, 9*time.Minute)
}

// Nor does a path probe for its host while its own wait lasts, be its message waiting or off
// the fast path.
func TestAPathThatAskedForAWaitIsNoProbeOfItsHost(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	store := outboxdb.New(pool)
	reach(t, store, hook(1))
	fail(store, hook(1), err429)
	waitFor(t, pool, isOpen, hook(1))
	for n := range 5 {
		fail(store, hook(2+n), errSilent)
	}
	waitFor(t, pool, isOpen, "https://example.org")
	enqueue(t, pool, messages(hook(1), 2)...)
	row(t, pool, `destination = '`+hook(1)+`', retrying = true, available_at = now() + interval '5 minutes'`)
	probe := func() []outbox.Probe {
		execute(t, pool, `UPDATE outbox.destinations SET open_until = now(), probe_until = NULL
		    WHERE destination = 'https://example.org'`)
		probes, err := store.TakeProbes(t.Context())
		require.NoError(t, err)
		return probes
	}
	for range 4 {
		require.Empty(t, probe())
	}
	other := enqueue(t, pool, message(hook(2)))[0]
	for range 4 {
		probes := probe()
		require.Len(t, probes, 1)
		require.Equal(t, other, probes[0].ID)
	}
}

// The process whose probe succeeds closes the breaker, though it had not heard before that
// messages reach the path; where the probe shows nothing, it gives the turn back.
func TestAProbeElsewhereClosesAPathsOwnBreaker(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	store, elsewhere := outboxdb.New(pool), outboxdb.New(pool)
	acknowledge(store, hook(1)) // too few for the table
	for range 5 {
		fail(store, hook(1), errAnswered)
	}
	waitFor(t, pool, isOpen, hook(1))
	id := enqueue(t, pool, message(hook(1)))[0]
	probe := func() {
		probeNow(t, pool)
		probes, err := elsewhere.TakeProbes(t.Context())
		require.NoError(t, err)
		require.Len(t, probes, 1)
		require.Equal(t, []uuid.UUID{id}, idsOf(claim(t, elsewhere, request())))
	}
	probe()
	inconclusive(elsewhere, hook(1), id)
	waitFor(t, pool, `SELECT probe_until IS NULL FROM outbox.destinations WHERE destination = $1`, hook(1))
	execute(t, pool, `UPDATE outbox.messages SET available_at = now(), parked = false`)
	probe()
	acknowledge(elsewhere, hook(1))
	waitFor(t, pool, `SELECT open_until IS NULL
	    AND probe_until IS NULL FROM outbox.destinations WHERE destination = $1`, hook(1))
}

// A path that one message has reached here is new by the table, and may probe for the new
// ones. The breaker of these hears of it.
func TestAPathThatWasReachedOnceProbesForTheNewOnes(t *testing.T) {
	t.Parallel()
	const fresh = "https://example.org#new"
	for name, c := range map[string]struct {
		say   func(s *outboxdb.Store, id uuid.UUID)
		heard string
	}{
		"not tried": {func(s *outboxdb.Store, id uuid.UUID) { inconclusive(s, hook(1), id) },
			`open_until IS NOT NULL AND openings = 1 AND probe_until IS NULL`},
		"failed": {func(s *outboxdb.Store, _ uuid.UUID) { fail(s, hook(1), errAnswered) },
			`openings = 2 AND probe_until IS NULL`},
		"answered":  {func(s *outboxdb.Store, _ uuid.UUID) { reject(s, hook(1)) }, `open_until IS NULL`},
		"succeeded": {func(s *outboxdb.Store, _ uuid.UUID) { acknowledge(s, hook(1)) }, `open_until IS NULL`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pool := teststack.New(t)
			store := outboxdb.New(pool)
			acknowledge(store, hook(1))
			execute(t, pool, `INSERT INTO outbox.destinations (destination, failures, failing_since, openings, open_until)
		VALUES ($1, 9, now(), 1, now())`, fresh)
			id := enqueue(t, pool, message(hook(1)))[0]
			probes, err := store.TakeProbes(t.Context())
			require.NoError(t, err)
			require.Len(t, probes, 1)
			require.Equal(t, []uuid.UUID{id}, idsOf(claim(t, store, request())))
			c.say(store, id)
			waitFor(t, pool, `SELECT `+c.heard+` FROM outbox.destinations WHERE destination = $1`, fresh)
		})
	}
}

// The backlog of a path that works is not new, however long it is: it takes no probe for
// the new ones, keeps no breaker open, and costs a look at one row.
func TestABacklogThatIsNotNewIsNotProbed(t *testing.T) {
	t.Parallel()
	pool := another(t, teststack.New(t), utc)
	store := outboxdb.New(pool)
	reach(t, store, hook(1))
	waitFor(t, pool, `SELECT EXISTS (SELECT FROM outbox.destinations WHERE delivered_at IS NOT NULL)`)
	execute(t, pool, `INSERT INTO outbox.destinations (destination, failures, failing_since, openings, open_until)
		VALUES ('https://example.org#new', 9, now(), 1, now() - interval '3 minutes')`)
	execute(t, pool, `INSERT INTO outbox.messages (id, destination, type, payload) SELECT gen_random_uuid(), $1, 'a',
	    '{}' FROM generate_series(1, 20000)`, hook(1))
	execute(t, pool, `VACUUM ANALYZE outbox.messages`)
	p := teststack.Explain(t, pool, "force_generic_plan", outboxdb.StatementTakeProbes, 50, "40 s", false, []string{}, []string{"https"})
	require.Zero(t, p.Rows)
	require.Less(t, p.Buffers(), 60)
	_, err := store.TakeProbes(t.Context())
	require.NoError(t, err)
	require.Zero(t, value[int](t, pool, `SELECT count(*) FROM outbox.destinations WHERE open_until IS NOT NULL`))

	execute(t, pool, `UPDATE outbox.destinations SET failures = 9, failing_since = now(), openings = 1,
	    open_until = now() WHERE destination LIKE '%#new'`)
	id := enqueue(t, pool, message(hook(2)))[0]
	probes, err := outboxdb.New(pool).TakeProbes(t.Context())
	require.NoError(t, err)
	require.Len(t, probes, 1)
	require.Equal(t, id, probes[0].ID)
}
