package outboxdb_test

import (
	"errors"
	"fmt"
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

var errDown = errors.New("sending to sqs://down: 503")

// breaker is a row of outbox.destinations.
type breaker struct {
	Failures  int        `db:"failures"`
	Failing   bool       `db:"failing"`
	Openings  int        `db:"openings"`
	OpenFor   *float64   `db:"open_for"` // seconds from now
	ProbeID   *uuid.UUID `db:"probe_id"`
	Recovered bool       `db:"recovered"`
	Reached   bool       `db:"reached"`
	LastError *string    `db:"last_error"`
}

func breakerOf(t testing.TB, q queryer, destination string) breaker {
	t.Helper()
	rows, err := q.Query(t.Context(), `
		SELECT failures, failing_since IS NOT NULL AS failing, openings, probe_id, recovered_at IS NOT NULL AS recovered,
		       extract(epoch FROM open_until - clock_timestamp())::float8 AS open_for, delivered_at IS NOT NULL AS reached, last_error
		  FROM outbox.destinations WHERE destination = $1`, destination)
	require.NoError(t, err)
	b, err := pgx.CollectExactlyOneRow(rows, pgx.RowToStructByName[breaker])
	require.NoError(t, err)
	return b
}

const isOpen = `SELECT EXISTS (SELECT FROM outbox.destinations WHERE destination = $1 AND open_until IS NOT NULL)`

// opened returns a store on a table in which the breaker of sqs://down is open.
func opened(t *testing.T, pool *pgxpool.Pool) *outboxdb.Store {
	t.Helper()
	store := outboxdb.New(pool)
	for range 5 {
		fail(store, "sqs://down", errDown)
	}
	waitFor(t, pool, isOpen, "sqs://down")
	return store
}

// probeNow ends the time in which an open breaker lets nobody probe.
func probeNow(t *testing.T, pool *pgxpool.Pool) {
	t.Helper()
	execute(t, pool, `UPDATE outbox.destinations SET open_until = now(), probe_until = NULL WHERE open_until IS NOT NULL`)
}

func TestBreakerOpensAndCloses(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	store := outboxdb.New(pool)
	for range 4 {
		fail(store, "sqs://down", errDown)
	}
	waitFor(t, pool, `SELECT EXISTS (SELECT FROM outbox.destinations WHERE failures = 4)`)
	b := breakerOf(t, pool, "sqs://down")
	require.True(t, b.Failing)
	require.Nil(t, b.OpenFor, "four failures in a row may be anything")
	require.Equal(t, errDown.Error(), *b.LastError)

	fail(store, "sqs://down", errDown)
	waitFor(t, pool, isOpen, "sqs://down")
	b = breakerOf(t, pool, "sqs://down")
	require.Equal(t, 1, b.Openings)
	require.InDelta(t, 1, *b.OpenFor, 0.9)

	// Stragglers that were sent before it opened do not open it again.
	execute(t, pool, `UPDATE outbox.destinations SET open_until = now() + interval '1 minute'`)
	fail(store, "sqs://down", errDown)
	waitFor(t, pool, `SELECT EXISTS (SELECT FROM outbox.destinations WHERE failures = 6)`)
	require.Equal(t, 1, breakerOf(t, pool, "sqs://down").Openings)

	// Each failed probe doubles the time, up to a quarter of a minute.
	for n, want := range []float64{2, 4, 8, 15, 15} {
		probeNow(t, pool)
		fail(store, "sqs://down", errDown)
		waitFor(t, pool, `SELECT EXISTS (SELECT FROM outbox.destinations WHERE openings = $1)`, n+2)
		require.InDelta(t, want, *breakerOf(t, pool, "sqs://down").OpenFor, 1)
	}

	// A success anywhere closes it: here in a process that saw no failure itself.
	elsewhere := outboxdb.New(pool)
	acknowledge(elsewhere, "sqs://down")
	waitFor(t, pool, `SELECT EXISTS (SELECT FROM outbox.destinations WHERE open_until IS NULL)`)
	require.Equal(t, breaker{Recovered: true, Reached: true}, breakerOf(t, pool, "sqs://down"))
}

func TestBreakerHonoursWhatTheDestinationAsks(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	store := outboxdb.New(pool)
	for range 5 {
		fail(store, "sqs://throttled", &outflow.Failure{Class: outflow.ClassUnavailable, RetryAfter: 20 * time.Second, Err: errDown})
		fail(store, "sqs://greedy", &outflow.Failure{Class: outflow.ClassUnavailable, RetryAfter: 24 * time.Hour, Err: errDown})
	}
	waitFor(t, pool, isOpen, "sqs://throttled")
	waitFor(t, pool, isOpen, "sqs://greedy")
	require.InDelta(t, 20, *breakerOf(t, pool, "sqs://throttled").OpenFor, 10)
	require.InDelta(t, outflow.MaxRetryAfter.Seconds(), *breakerOf(t, pool, "sqs://greedy").OpenFor, 10)
}

// While all goes well, a destination costs one statement a day.
func TestSuccessIsToldOnce(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	watched, statements := traced(t, pool)
	store := outboxdb.New(watched)
	for range 1000 {
		acknowledge(store, "sqs://fine")
	}
	waitFor(t, pool, `SELECT EXISTS (SELECT FROM outbox.destinations WHERE delivered_at IS NOT NULL)`)
	acknowledge(store, "sqs://fine")
	require.Len(t, statements.take(), 1)
	reached, err := store.Known(t.Context(), "sqs://fine")
	require.NoError(t, err)
	require.True(t, reached)
	require.Empty(t, statements.take(), "this process knows")
	for destination, want := range map[string]bool{"sqs://fine": true, "sqs://typo": false} {
		reached, err := outboxdb.New(pool).Known(t.Context(), destination)
		require.NoError(t, err)
		require.Equal(t, want, reached, destination)
	}

	// A claim of a failing destination's row tells that a success is news.
	execute(t, pool, `UPDATE outbox.destinations SET failures = 3, failing_since = now()`)
	enqueue(t, pool, message("sqs://fine"))
	require.Len(t, claim(t, store, request()).Messages, 1)
	acknowledge(store, "sqs://fine")
	waitFor(t, pool, `SELECT EXISTS (SELECT FROM outbox.destinations WHERE failures = 0)`)
}

// Ten starters share what each of them learns: an open breaker's messages stay
// where they are, others go.
func TestOpenBreakerHoldsBackOnlyItsOwn(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	opened(t, pool)
	enqueue(t, pool, messages("sqs://down", 50)...)
	enqueue(t, pool, messages("sqs://up", 50)...)
	total := map[string]int{}
	for range 10 {
		req := request()
		req.MaxMessages = 20
		got := claim(t, outboxdb.New(pool), req)
		require.True(t, got.BreakerActive)
		for destination, n := range byDestination(got) {
			total[destination] += n
		}
	}
	require.Equal(t, map[string]int{"sqs://up": 50}, total)
	require.Zero(t, value[int](t, pool, `SELECT sum(claims + attempts)::int FROM outbox.messages WHERE destination = 'sqs://down'`),
		"nobody spent anything of messages that the queue never saw")

	acknowledge(outboxdb.New(pool), "sqs://down")
	waitFor(t, pool, `SELECT NOT EXISTS (SELECT FROM outbox.destinations WHERE open_until IS NOT NULL)`)
	require.Equal(t, map[string]int{"sqs://down": 50}, byDestination(claim(t, outboxdb.New(pool), request())), "all of them at once")
}

// retryingOf are the messages that would be told if the destination recovered.
func retryingOf(t *testing.T, pool *pgxpool.Pool, store *outboxdb.Store, destination string) []outbox.Leased {
	t.Helper()
	execute(t, pool, `INSERT INTO outbox.destinations (destination, recovered_at) VALUES ($1, '2020-01-01Z')
		ON CONFLICT (destination) DO UPDATE SET recovered_at = '2020-01-01Z', told_id = NULL`, destination)
	defer execute(t, pool, `UPDATE outbox.destinations SET recovered_at = NULL`)
	at := time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC)
	leased, err := store.Retrying(t.Context(), outbox.Recovered{Destination: destination, At: at}, 10)
	require.NoError(t, err)
	return leased
}

// leased is a message as whoever sees its lease now.
func leased(t *testing.T, pool *pgxpool.Pool, id uuid.UUID) outbox.Leased {
	t.Helper()
	return outbox.Leased{Ref: ref(id), LeasedUntil: stands(t, pool, id).AvailableAt}
}

func TestProbes(t *testing.T) {
	t.Parallel()
	probes := func(t *testing.T, store *outboxdb.Store) []outbox.Probe {
		t.Helper()
		taken, err := store.TakeProbes(t.Context())
		require.NoError(t, err)
		return taken
	}
	t.Run("one at a time, of new messages where none is retrying", func(t *testing.T) {
		t.Parallel()
		pool := teststack.New(t)
		store := opened(t, pool)
		ids := enqueue(t, pool, messages("sqs://down", 10)...)
		execute(t, pool, `UPDATE outbox.destinations SET open_until = now() + interval '1 minute'`)
		require.Empty(t, probes(t, store), "not yet")
		probeNow(t, pool)
		taken := probes(t, store)
		require.Len(t, taken, 1)
		require.Contains(t, ids, taken[0].ID)
		require.Equal(t, outbox.Probe{Leased: leased(t, pool, taken[0].ID), Destination: "sqs://down"}, taken[0])
		require.Empty(t, probes(t, outboxdb.New(pool)), "somebody is at it")
		require.Equal(t, []uuid.UUID{taken[0].ID}, idsOf(claim(t, outboxdb.New(pool), request())))
		require.Empty(t, claim(t, outboxdb.New(pool), request()).Messages)
	})
	t.Run("a prober that is never heard of again", func(t *testing.T) {
		t.Parallel()
		pool := teststack.New(t)
		store := opened(t, pool)
		ids := enqueue(t, pool, messages("sqs://down", 2)...)
		probeNow(t, pool)
		first := probes(t, store)[0].ID
		require.Equal(t, []uuid.UUID{first}, idsOf(claim(t, store, request())))
		execute(t, pool, `UPDATE outbox.destinations SET probe_until = now()`)
		second := probes(t, store)[0].ID
		require.Contains(t, ids, second)
		require.NotEqual(t, first, second, "the first one is leased")
	})
	t.Run("of retrying ones in turn", func(t *testing.T) {
		t.Parallel()
		pool := teststack.New(t)
		store := opened(t, pool)
		enqueue(t, pool, messages("sqs://down", 3)...)
		execute(t, pool, `UPDATE outbox.messages SET retrying = true, available_at = now() + interval '5 minutes'`)
		retrying := retryingOf(t, pool, store, "sqs://down")
		require.Len(t, retrying, 3)
		for i := range 4 {
			probeNow(t, pool)
			require.Equal(t, []outbox.Probe{{Leased: retrying[i%3], Destination: "sqs://down", Running: true}}, probes(t, store))
		}
		require.Empty(t, claim(t, store, request()).Messages, "the probe is its run's")

		// Where Temporal knows no such run, the message is freed, and claimed.
		require.NoError(t, store.Free(t.Context(), retrying[0]))
		require.Equal(t, []uuid.UUID{retrying[0].ID}, idsOf(claim(t, store, request())))
	})
	t.Run("a retrying one and one that waits in turn", func(t *testing.T) {
		t.Parallel()
		pool := teststack.New(t)
		store := opened(t, pool)
		hopeless := row(t, pool, `destination = 'sqs://down', retrying = true, available_at = now() + interval '5 minutes'`)
		waiting := enqueue(t, pool, messages("sqs://down", 2)...)
		execute(t, pool, `UPDATE outbox.messages SET available_at = now() - interval '1 hour' WHERE id = $1`, waiting[0])
		for _, want := range []outbox.Probe{{Leased: leased(t, pool, hopeless), Destination: "sqs://down", Running: true}, {Leased: leased(t, pool, waiting[1]), Destination: "sqs://down"}} {
			probeNow(t, pool)
			require.Equal(t, []outbox.Probe{want}, probes(t, store))
		}
		require.Equal(t, waiting[1:], idsOf(claim(t, store, request())), "the newest: the oldest may have expired")
		probeNow(t, pool)
		require.Equal(t, hopeless, probes(t, store)[0].ID)
		probeNow(t, pool)
		require.Equal(t, waiting[0], probes(t, store)[0].ID)
	})
	t.Run("one that came to nothing gives its turn back", func(t *testing.T) {
		t.Parallel()
		pool := teststack.New(t)
		store := opened(t, pool)
		ids := enqueue(t, pool, messages("sqs://down", 2)...)
		probeNow(t, pool)
		chosen := probes(t, store)[0].ID
		other := ids[0]
		if chosen == other {
			other = ids[1]
		}
		inconclusive(store, "sqs://down", other)
		inconclusive(store, "sqs://up", chosen)
		require.Equal(t, []uuid.UUID{chosen}, idsOf(claim(t, store, request())))
		require.Empty(t, probes(t, store), "somebody is at it")
		inconclusive(store, "sqs://down", chosen)
		waitFor(t, pool, `SELECT EXISTS (SELECT FROM outbox.destinations WHERE probe_until IS NULL)`)
		require.Equal(t, other, probes(t, store)[0].ID)
	})
	t.Run("nothing to probe with", func(t *testing.T) {
		t.Parallel()
		pool := teststack.New(t)
		store := opened(t, pool)
		probeNow(t, pool)
		require.Empty(t, probes(t, store))
		id := enqueue(t, pool, message("sqs://down"))[0]
		require.Equal(t, id, probes(t, store)[0].ID, "the first that comes probes, with no lease in its way")
	})
}

// A durable attempt of a message that does not probe is not made.
func TestRenewOfWhatIsHeldBack(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	store := opened(t, pool)
	ids := enqueue(t, pool, messages("sqs://down", 2)...)
	execute(t, pool, `UPDATE outbox.messages SET retrying = true, available_at = now() + interval '5 minutes'`)
	renew := func(id uuid.UUID) outbox.Record {
		r, err := store.Renew(t.Context(), outbox.Renewal{Ref: ref(id), Lease: time.Hour, LastError: "the last"})
		require.NoError(t, err)
		return r
	}
	execute(t, pool, `UPDATE outbox.destinations SET open_until = now() + interval '10 seconds'`)
	r := renew(ids[0])
	require.True(t, r.HeldBack)
	require.InDelta(t, 10, r.HeldBackFor.Seconds(), 2)
	require.Zero(t, r.Attempts, "an attempt that is not made is not counted")
	require.Greater(t, stands(t, pool, ids[0]).LeasedFor, 3000.0, "its lease goes on: a live run is not claimed again")

	probeNow(t, pool)
	probes, err := store.TakeProbes(t.Context())
	require.NoError(t, err)
	for _, id := range ids {
		r := renew(id)
		require.Equal(t, id != probes[0].ID, r.HeldBack)
	}
	require.Equal(t, 1, stands(t, pool, probes[0].ID).Attempts)

	execute(t, pool, `UPDATE outbox.destinations SET probe_until = now()`)
	require.True(t, renew(probes[0].ID).HeldBack, "it took too long to probe")
	execute(t, pool, `UPDATE outbox.destinations SET open_until = now() - interval '11 seconds'`)
	require.False(t, renew(probes[0].ID).HeldBack, "no scanner is there to choose")
}

// A failing destination has so many messages off the fast path and no more; the
// others wait as rows.
func TestCapOfAFailingDestination(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	store := outboxdb.New(pool)
	enqueue(t, pool, messages("sqs://down", 195)...)
	execute(t, pool, `UPDATE outbox.messages SET retrying = true, available_at = now() + interval '5 minutes'`)
	enqueue(t, pool, messages("sqs://down", 50)...)
	fail(store, "sqs://down", errDown)
	waitFor(t, pool, `SELECT EXISTS (SELECT FROM outbox.destinations WHERE failing_since IS NOT NULL)`)
	require.Len(t, claim(t, store, request()).Messages, 5, "up to 200")
	execute(t, pool, `UPDATE outbox.messages SET retrying = true WHERE claims = 1`)
	require.Empty(t, claim(t, store, request()).Messages)

	acknowledge(store, "sqs://down")
	waitFor(t, pool, `SELECT NOT EXISTS (SELECT FROM outbox.destinations WHERE failing_since IS NOT NULL)`)
	require.Len(t, claim(t, store, request()).Messages, 45, "a success lifts the cap at once")
}

func TestRecoveredIsToldOnce(t *testing.T) {
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

	// It broke and recovered once more meanwhile: that is told again.
	execute(t, pool, `UPDATE outbox.destinations SET recovered_at = now() + interval '1 second', probe_until = NULL`)
	require.NoError(t, store.ForgetRecovered(t.Context(), taken[0]))
	taken = take()
	require.Len(t, taken, 1)
	require.NoError(t, store.ForgetRecovered(t.Context(), taken[0]))
	execute(t, pool, `UPDATE outbox.destinations SET probe_until = NULL`)
	require.Empty(t, take())
}

func TestSuspectsAreClaimedAlone(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	store := outboxdb.New(pool)
	ids := enqueue(t, pool, messages("sqs://a", 3)...)
	execute(t, pool, `UPDATE outbox.messages SET claims = CASE id WHEN $1 THEN 4 ELSE 5 END`, ids[0])
	got := claim(t, store, request())
	require.Equal(t, ids[:1], idsOf(got))
	require.True(t, got.QuarantinedDue)
	for _, want := range ids[1:] {
		alone, err := store.ClaimIsolated(t.Context(), time.Minute)
		require.NoError(t, err)
		require.Len(t, alone, 1)
		require.Equal(t, want, alone[0].ID)
		require.Equal(t, 6, alone[0].Claims)
	}
	alone, err := store.ClaimIsolated(t.Context(), time.Minute)
	require.NoError(t, err)
	require.Empty(t, alone)
	require.False(t, claim(t, store, request()).QuarantinedDue, "they are leased")
}

func TestWhatCountsAsAClaim(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	store := outboxdb.New(pool)
	claims := func(set string, act func(ref outbox.Ref)) int {
		id := row(t, pool, set)
		act(ref(id))
		return stands(t, pool, id).Claims
	}
	again := func(r outbox.Ref) {
		got, err := store.LoadAgain(t.Context(), r)
		require.NoError(t, err)
		require.Equal(t, r.ID, got.ID)
	}
	renew := func(lost bool, lastError string) func(outbox.Ref) {
		return func(r outbox.Ref) {
			_, err := store.Renew(t.Context(), outbox.Renewal{Ref: r, Lease: time.Minute, LastError: lastError, Lost: lost})
			require.NoError(t, err)
		}
	}
	require.Equal(t, 3, claims(`claims = 2`, again))
	require.Equal(t, 5, claims(`claims = 4`, again))
	require.Equal(t, 7, claims(`claims = 7`, again), "only claims alone count that far")
	require.Equal(t, 7, claims(`claims = 7`, renew(true, "")))
	require.Equal(t, 2, claims(`claims = 2, generation = 2`, again), "a superseded run counts nothing")
	require.Equal(t, 2, claims(`claims = 2, state = 'dead', finished_at = now()`, again))
	require.Equal(t, 3, claims(`claims = 2`, renew(true, "")))
	require.Equal(t, 2, claims(`claims = 2`, renew(false, "")))
	require.Equal(t, 0, claims(`claims = 2`, renew(false, "503")), "an attempt that failed in order killed nobody")

	require.Less(t, stands(t, pool, func() uuid.UUID {
		id := row(t, pool, `claims = 5, retrying = true, available_at = now() + interval '1 hour'`)
		require.NoError(t, store.Yield(t.Context(), ref(id)))
		require.False(t, stands(t, pool, id).Retrying)
		return id
	}()).LeasedFor, 2.0, "a suspect that is set aside can be claimed soon")
	id := row(t, pool, `claims = 4, retrying = true, available_at = now() + interval '1 hour'`)
	require.NoError(t, store.Yield(t.Context(), ref(id)))
	require.Greater(t, stands(t, pool, id).LeasedFor, 3000.0, "any other row of a run stays its own")
}

// Two weeks of an outage, in steps of an hour: a message is tried and fails, its row
// is claimed by nobody and ends nowhere.
func TestTwoWeeksOfOutageEndNothing(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	store := outboxdb.New(pool)
	id := enqueue(t, pool, message("sqs://down"))[0]
	require.Len(t, claim(t, store, request()).Messages, 1)
	const attempts = 14 * 24
	for n := range attempts {
		r, err := store.Renew(t.Context(), outbox.Renewal{Ref: ref(id), Lease: time.Hour, LastError: fmt.Sprint("503, attempt ", n)})
		require.NoError(t, err)
		require.Equal(t, outflow.Pending, r.State)
	}
	s := stands(t, pool, id)
	require.Zero(t, s.Claims)
	require.Equal(t, attempts, s.Attempts)
	require.Empty(t, claim(t, store, request()).Messages)

	// The same with Temporal down: each claim's start fails and is given back.
	execute(t, pool, `UPDATE outbox.messages SET retrying = false, available_at = now()`)
	for range attempts {
		got := claim(t, store, request()).Messages
		require.Len(t, got, 1)
		require.NoError(t, store.Release(t.Context(), got[0]))
	}
	require.Zero(t, stands(t, pool, id).Claims)
}

// A suspect whose destination is down fails in an orderly way: it is none any more,
// and leaves its turn to the other suspects.
func TestSuspectThatIsPutBack(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	store := outboxdb.New(pool)
	ids := enqueue(t, pool, messages("sqs://down", 2)...)
	execute(t, pool, `UPDATE outbox.messages SET claims = 5`)
	for _, want := range ids {
		alone, err := store.ClaimIsolated(t.Context(), time.Minute)
		require.NoError(t, err)
		require.Len(t, alone, 1)
		require.Equal(t, want, alone[0].ID)
		_, err = store.PutBack(t.Context(), ref(want), "503")
		require.NoError(t, err)
		require.Zero(t, stands(t, pool, want).Claims)
		execute(t, pool, `UPDATE outbox.messages SET available_at = now()`)
	}
	require.Len(t, claim(t, store, request()).Messages, 2)
}

// What is put back waits as a row, longer each time, and its claims do not count.
func TestPutBack(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	store := outboxdb.New(pool)
	id := enqueue(t, pool, message("sqs://down"))[0]
	for n, wait := range []float64{1, 2, 4, 8, 16, 32, 60, 60} {
		execute(t, pool, `UPDATE outbox.messages SET available_at = now()`)
		m := claim(t, store, request()).Messages
		require.Len(t, m, 1)
		o, err := store.PutBack(t.Context(), ref(id), fmt.Sprint("503, number ", n))
		require.NoError(t, err)
		require.Equal(t, outflow.Pending, o.State)
		<-m[0].Settled
		s := stands(t, pool, id)
		require.Zero(t, s.Claims)
		require.Equal(t, n+1, s.Attempts)
		require.InDelta(t, wait, s.LeasedFor, 1)
		require.Equal(t, fmt.Sprint("503, number ", n), *s.LastError)
	}
	for name, set := range map[string]string{"a later generation": `generation = 2`, "final": `state = 'dead', finished_at = now()`} {
		id := row(t, pool, set+`, claims = 3, available_at = now() + interval '1 hour'`)
		before := stands(t, pool, id)
		_, err := store.PutBack(t.Context(), ref(id), "503")
		require.NoError(t, err, name)
		after := stands(t, pool, id)
		before.LeasedFor, after.LeasedFor = 0, 0
		require.Equal(t, before, after, name)
	}
	live := row(t, pool, `retrying = true, available_at = now() + interval '1 hour'`)
	_, err := store.PutBack(t.Context(), ref(live), "503")
	require.NoError(t, err)
	require.Greater(t, stands(t, pool, live).LeasedFor, 3000.0, "off the fast path: a live run's lease")
}

// A retrying message's run is lost while its destination is down: each claim's start
// fails in an orderly way and is put back, and the message must not be taken for one
// that kills its process.
func TestLostRunInAnOutageIsNoSuspect(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	store := outboxdb.New(pool)
	id := row(t, pool, `retrying = true`)
	for range 2 * outbox.MaxClaims {
		execute(t, pool, `UPDATE outbox.messages SET available_at = now()`)
		require.Len(t, claim(t, store, request()).Messages, 1)
		_, err := store.PutBack(t.Context(), ref(id), "503")
		require.NoError(t, err)
		require.Zero(t, stands(t, pool, id).Claims)
	}
}

// The Store counts the failures of this process, from its last success.
func TestFailuresInARow(t *testing.T) {
	t.Parallel()
	store := outboxdb.New(teststack.New(t))
	for n := range 3 {
		require.Equal(t, n+1, fail(store, "sqs://down", errDown))
	}
	require.Equal(t, 4, fail(store, "sqs://other", errDown), "those that none has reached count together")
	acknowledge(store, "sqs://other")
	require.Equal(t, 1, fail(store, "sqs://other", errDown))
	acknowledge(store, "sqs://down")
	require.Equal(t, 1, fail(store, "sqs://down", errDown))
}

// A process begins with a few messages of each destination, and with its whole
// allowance once it has seen some arrive; a failure takes it back.
func TestRamp(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	store := outboxdb.New(pool)
	enqueue(t, pool, messages("sqs://a", 400)...)
	req := request()
	req.Ramp, req.Allowance = true, 150
	take := func(open int) int {
		req.Open = map[string]int{"sqs://a": open}
		return len(claim(t, store, req).Messages)
	}
	require.Equal(t, 20, take(0))
	require.Zero(t, take(20))
	for range 20 {
		acknowledge(store, "sqs://a")
	}
	require.Equal(t, 100, take(0))
	for range 100 {
		acknowledge(store, "sqs://a")
	}
	require.Equal(t, 150, take(0), "never more than its allowance")
	fail(store, "sqs://a", errDown)
	require.Equal(t, 15, take(5))
}
