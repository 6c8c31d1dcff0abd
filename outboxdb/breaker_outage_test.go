package outboxdb_test

import (
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/internal/teststack"
	"github.com/outflowhq/outflow/outbox"
	"github.com/outflowhq/outflow/outboxdb"
)

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
		r, err := store.Renew(t.Context(), outbox.Renewal{Ref: ref(id), Lease: time.Hour,
			LastError: fmt.Sprint("503, attempt ", n)})
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
		require.NoError(t, store.GiveBack(t.Context(), got[0], outbox.NotStarted))
	}
	require.Zero(t, stands(t, pool, id).Claims)
}

// However many breakers are open, destinations behind them take no turn of a healthy one.
func TestThousandsOfOpenBreakersHoldUpNoHealthyDestination(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	execute(t, pool, `INSERT INTO outbox.destinations (destination, delivered_at, failures, failing_since, openings,
	    open_until)
		SELECT 'sqs://a-' || lpad(n::text, 4, '0'), now(), 9, now(), 1, now() + interval '1 hour'
		    FROM generate_series(1, 2000) AS n`)
	var msgs []outflow.Message
	for n := range 450 {
		msgs = append(msgs, message(fmt.Sprintf("sqs://a-%04d", 1501+n)))
	}
	enqueue(t, pool, msgs...)
	healthy := enqueue(t, pool, message("sqs://healthy"))
	require.Equal(t, healthy, idsOf(claim(t, outboxdb.New(pool), request())))
}

// A hundred thousand messages wait out two hours in which their destination takes
// nothing. Some are runs, which renew their leases past their next attempt. Nothing
// is started in that time but one probe at a time; what is lost with its run comes
// back, and so does everything at the end.
func TestLongOutageStartsNothingTwice(t *testing.T) {
	t.Parallel()
	const (
		waiting, runs = 100_000, 20
		step          = 5 * time.Minute // between a run's attempts: the longest backoff
		steps         = 24              // two hours
		lease         = 7 * time.Minute // past the next attempt, as activities.leaseFor has it
	)
	pool := teststack.New(t)
	store, other := opened(t, pool), outboxdb.New(pool)
	execute(t, pool, `
		INSERT INTO outbox.messages (id, destination, type, payload, available_at)
		SELECT outbox.new_id(), 'sqs://down', 't', 'p', now() - interval '1 day' + n * interval '1 ms'
		  FROM generate_series(1, $1::int) AS n`, waiting)
	var retrying []uuid.UUID
	require.NoError(t, pool.QueryRow(t.Context(),
		`SELECT array_agg(id) FROM (SELECT id FROM outbox.messages ORDER BY id LIMIT $1) AS m`, runs).Scan(&retrying))
	lost := retrying[0]
	renew := func(id uuid.UUID) {
		_, err := store.Renew(t.Context(), outbox.Renewal{Ref: ref(id), Lease: lease, LastError: "503"})
		require.NoError(t, err)
	}
	for _, id := range retrying {
		renew(id)
	}

	started := map[uuid.UUID]int{}
	probes := 0
	for range steps {
		pass(t, pool, step)
		for _, id := range retrying[1:] {
			renew(id)
		}
		for _, s := range []*outboxdb.Store{store, other} {
			until := value[time.Time](t, pool,
				`SELECT open_until FROM outbox.destinations WHERE destination = 'sqs://down'`)
			chosen, err := s.TakeProbes(t.Context())
			require.NoError(t, err)
			if probes += len(chosen); len(chosen) > 0 {
				require.Len(t, chosen, 1, "one probe at a time")
				require.False(t, until.After(value[time.Time](t, pool, `SELECT clock_timestamp()`)),
					"a probe came early")
			}
			for _, m := range claim(t, s, request()).Messages {
				started[m.ID]++
				_, err := s.PutBack(t.Context(), outbox.PutBack{Ref: m.Ref(), LastError: "503"})
				require.NoError(t, err)
			}
			if len(chosen) > 0 {
				fail(s, "sqs://down", errDown)
				waitFor(t, pool, `SELECT EXISTS (SELECT FROM outbox.destinations WHERE open_until > now())`)
			}
		}
	}
	require.Positive(t, probes)
	// The first waits are of seconds: on a busy machine, two looks of one step may be that far apart.
	require.LessOrEqual(t, probes, steps+3, "two scanners, and one probe each time")
	for _, id := range retrying[1:] {
		require.Zero(t, started[id], "its run is alive")
	}
	total := 0
	for _, n := range started {
		total += n
	}
	require.LessOrEqual(t, total, probes, "of %d messages", waiting)
	waits := value[bool](t, pool, `SELECT available_at <= now() FROM outbox.messages WHERE id = $1`, lost)
	require.True(t, waits || started[lost] > 0, "nobody has it: it waits as a row, or probes")

	acknowledge(store, "sqs://down")
	waitFor(t, pool, `SELECT EXISTS (SELECT FROM outbox.destinations WHERE open_until IS NULL)`)
	recovered, err := store.TakeRecovered(t.Context())
	require.NoError(t, err)
	require.Len(t, recovered, 1)
	require.NoError(t, store.ForgetRecovered(t.Context(), recovered[0]))
	require.Len(t, claim(t, store, request()).Messages, request().MaxMessages, "all of it is claimed again")
}

// Runs that fail without opening a breaker wait for their next attempt, thousands of
// them, and no scanner starts one a second time, until its run is lost.
func TestThousandsOfRunsAreNotClaimed(t *testing.T) {
	t.Parallel()
	const (
		runs  = 5000
		next  = 6 * time.Minute // the longest wait for the next attempt
		lease = next + time.Minute
	)
	pool := teststack.New(t)
	store := outboxdb.New(pool)
	ids := enqueue(t, pool, messages("sqs://orders", runs)...)
	for range 2 {
		var renewing sync.WaitGroup
		errs := make([]error, runs)
		for i, id := range ids {
			renewing.Go(func() {
				_, errs[i] = store.Renew(t.Context(), outbox.Renewal{Ref: ref(id), Lease: lease, LastError: "garbled"})
			})
		}
		renewing.Wait()
		require.NoError(t, errors.Join(errs...))
		pass(t, pool, next)
		require.Empty(t, claim(t, outboxdb.New(pool), request()).Messages)
	}
	pass(t, pool, lease-next)
	require.Equal(t, runs, claimAll(t, outboxdb.New(pool)), "their namespace is lost")
}

// claimAll claims until there is nothing left.
func claimAll(t *testing.T, store *outboxdb.Store) (claimed int) {
	t.Helper()
	for {
		n := len(claim(t, store, request()).Messages)
		if n == 0 {
			return claimed
		}
		claimed += n
	}
}

// pass moves all that waits for a time nearer to it.
func pass(t *testing.T, pool *pgxpool.Pool, d time.Duration) {
	t.Helper()
	execute(t, pool, `UPDATE outbox.messages SET available_at = available_at - $1::interval WHERE state = 'pending'
	    AND available_at > now()`, d)
	execute(t, pool, `UPDATE outbox.destinations SET open_until = open_until - $1::interval,
	    probe_until = probe_until - $1::interval`, d)
}
