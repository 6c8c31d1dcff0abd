package outboxdb_test

import (
	"errors"
	"strings"
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
		SELECT failures, failing_since IS NOT NULL AS failing, openings, probe_id,
		    recovered_at IS NOT NULL AS recovered,
		       extract(epoch FROM open_until - clock_timestamp())::float8 AS open_for,
		           delivered_at IS NOT NULL AS reached, last_error
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
	execute(t, pool, `UPDATE outbox.destinations SET open_until = now(), probe_until = NULL
	    WHERE open_until IS NOT NULL`)
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

	// Late failures of attempts from before it opened do not open it again.
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

func TestBreakerHonoursRetryAfter(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	store := outboxdb.New(pool)
	for range 5 {
		fail(store, "sqs://throttled", &outflow.Failure{Class: outflow.ClassUnavailable, RetryAfter: 20 * time.Second,
			Err: errDown})
		fail(store, "sqs://greedy", &outflow.Failure{Class: outflow.ClassUnavailable, RetryAfter: 24 * time.Hour,
			Err: errDown})
	}
	waitFor(t, pool, isOpen, "sqs://throttled")
	waitFor(t, pool, isOpen, "sqs://greedy")
	require.InDelta(t, 20, *breakerOf(t, pool, "sqs://throttled").OpenFor, 10)
	require.InDelta(t, outbox.MaxRetryAfter.Seconds(), *breakerOf(t, pool, "sqs://greedy").OpenFor, 10)
}

// While all goes well, a destination costs one statement a day.
func TestSuccessIsWrittenOnce(t *testing.T) {
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

	// A claim of a failing destination's row says that the next success is to be written.
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
	require.Zero(t, value[int](t, pool, `SELECT sum(claims + attempts)::int FROM outbox.messages
	    WHERE destination = 'sqs://down'`),
		"nobody spent anything of messages that the queue never saw")

	acknowledge(outboxdb.New(pool), "sqs://down")
	waitFor(t, pool, `SELECT NOT EXISTS (SELECT FROM outbox.destinations WHERE open_until IS NOT NULL)`)
	require.Equal(t, map[string]int{"sqs://down": 50}, byDestination(claim(t, outboxdb.New(pool), request())),
		"all of them at once")
}

// leased is a message as whoever sees its lease now.
func leased(t *testing.T, pool *pgxpool.Pool, id uuid.UUID) outbox.Leased {
	t.Helper()
	return outbox.Leased{Ref: ref(id), LeasedUntil: stands(t, pool, id).AvailableAt}
}

// A durable attempt of a message that does not probe is not made.
func TestRenewOfAHeldBackMessage(t *testing.T) {
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

// The Store counts the failures of this process, from its last success.
func TestConsecutiveFailures(t *testing.T) {
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

// How a destination does can't be noted, say for want of a right: a claim says so.
func TestNotesThatCantBeWrittenAreReported(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	store := outboxdb.New(pool)
	execute(t, pool, `ALTER TABLE outbox.destinations ADD CONSTRAINT nothing_goes CHECK (false) NOT VALID`)
	fail(store, "sqs://down", errors.New("503"))
	require.Eventually(t, func() bool {
		got, err := store.Claim(t.Context(), request())
		require.NoError(t, err)
		return got.Problem != nil && strings.Contains(got.Problem.Error(), "writing the breaker of sqs://down")
	}, 20*time.Second, 10*time.Millisecond)
	require.NoError(t, claim(t, store, request()).Problem, "once")
}

// A worker that took a probe's run over from a starter in another process, and saw
// no failure itself, closes the breaker all the same.
func TestSuccessOfALoadedMessageIsWritten(t *testing.T) {
	t.Parallel()
	for name, load := range map[string]func(*outboxdb.Store, outbox.Ref) error{
		"load":       func(s *outboxdb.Store, r outbox.Ref) error { _, err := s.Load(t.Context(), r); return err },
		"load again": func(s *outboxdb.Store, r outbox.Ref) error { _, err := s.LoadAgain(t.Context(), r); return err },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pool := teststack.New(t)
			worker := outboxdb.New(pool)
			acknowledge(worker, "sqs://down")
			waitFor(t, pool, `SELECT EXISTS (SELECT FROM outbox.destinations)`)
			opened(t, pool)
			id := enqueue(t, pool, message("sqs://down"))[0]
			require.NoError(t, load(worker, ref(id)))
			acknowledge(worker, "sqs://down")
			waitFor(t, pool, `SELECT NOT EXISTS (SELECT FROM outbox.destinations WHERE open_until IS NOT NULL)`)
		})
	}
}

// In an outage nothing shows that a destination refuses a message for good. When
// that shows, its messages are not left to one probe after the other.
func TestDestinationThatRefusesHasNoOpenBreaker(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	store := opened(t, pool)
	reject(store, "sqs://down")
	waitFor(t, pool, `SELECT EXISTS (SELECT FROM outbox.destinations WHERE destination = 'sqs://down'
	    AND open_until IS NULL)`)
	b := breakerOf(t, pool, "sqs://down")
	require.Zero(t, b.Failures)
	require.Zero(t, b.Openings)
	require.True(t, b.Recovered, "its retrying runs are signalled")
	require.False(t, b.Reached, "no message has reached it")
	reached, err := store.Known(t.Context(), "sqs://down")
	require.NoError(t, err)
	require.False(t, reached)

	reject(store, "sqs://nowhere")
	acknowledge(store, "sqs://fine") // by then it would be there, too
	waitFor(t, pool, `SELECT EXISTS (SELECT FROM outbox.destinations WHERE destination = 'sqs://fine')`)
	var known bool
	require.NoError(t, pool.QueryRow(t.Context(),
		`SELECT EXISTS (SELECT FROM outbox.destinations WHERE destination = 'sqs://nowhere')`).Scan(&known))
	require.False(t, known, "without a failure there is nothing to write")
}
