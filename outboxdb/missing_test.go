package outboxdb_test

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/internal/teststack"
	"github.com/outflowhq/outflow/operator"
	"github.com/outflowhq/outflow/outbox"
	"github.com/outflowhq/outflow/outboxdb"
)

// errMissing is what SQS says of a queue that does not exist.
var errMissing = &outflow.Failure{Class: outflow.ClassPermanent, Answered: true,
	Err: fmt.Errorf("no such queue: %w", outflow.ErrNoDestination)}

const (
	missingReason = "no such queue: the destination does not exist"
	isMissing     = `SELECT EXISTS (SELECT FROM outbox.destinations WHERE destination = $1 AND missing_since IS NOT NULL)`
)

// miss observes an attempt to a destination that does not exist, and waits until that is written.
func miss(t *testing.T, pool *pgxpool.Pool, s *outboxdb.Store, destination string) {
	t.Helper()
	s.Observe(destination, uuid.Nil, outbox.Observation{Err: errMissing, Missing: true})
	waitFor(t, pool, isMissing, destination)
}

// wait lets time pass for pending messages and missing destinations.
func waited(t *testing.T, pool *pgxpool.Pool, d time.Duration) {
	t.Helper()
	execute(t, pool, `UPDATE outbox.messages SET due_at = due_at - $1::interval, enqueued_at = enqueued_at - $1::interval,
	    available_at = available_at - $1::interval WHERE state = 'pending'`, d)
	execute(t, pool, `UPDATE outbox.destinations SET missing_since = missing_since - $1::interval`, d)
}

// graceful is a claim of a process that has a publisher for sqs:// alone.
func graceful() outbox.ClaimRequest {
	req := request()
	req.MissingGrace = 10 * time.Minute
	req.Refuse = func(d string) error {
		if outbox.SchemeOf(d) == "sqs" {
			return nil
		}
		return outflow.Unavailable(fmt.Errorf("publishing to %s: %w", d, outflow.ErrNoPublisher))
	}
	return req
}

// look claims as at the next walk, with everything read again.
func look(t *testing.T, s *outboxdb.Store, req outbox.ClaimRequest) outbox.Claimed {
	t.Helper()
	s.LookAgain()
	got := claim(t, s, req)
	require.NoError(t, got.Problem)
	return got
}

func states(t *testing.T, pool *pgxpool.Pool) []string {
	t.Helper()
	return values[string](t, pool, `SELECT state FROM outbox.messages ORDER BY seq`)
}

// The first answer that a destination does not exist holds all of its messages back, as rows.
func TestMissingDestinationHoldsItsMessagesBack(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	store := outboxdb.New(pool)
	enqueue(t, pool, append(messages("sqs://missing", 1000), message("sqs://orders"))...)
	req := graceful()
	req.Allowance, req.SlowStart = 100, true
	first := claim(t, store, req)
	require.Equal(t, map[string]int{"sqs://missing": 20, "sqs://orders": 1}, byDestination(first))
	m := first.Messages[0]
	require.Equal(t, "sqs://missing", m.Destination)

	store.Observe("sqs://missing", m.ID, outbox.Observation{Err: errMissing, Missing: true})
	require.NotContains(t, byDestination(claim(t, store, req)), "sqs://missing", "before its row says so, too")
	waitFor(t, pool, isMissing, "sqs://missing")
	outcome, err := store.PutBack(t.Context(), outbox.PutBack{Ref: m.Ref(), LastError: missingReason,
		Missing: &outbox.Missing{Grace: time.Minute, Attempts: 1}})
	require.NoError(t, err)
	require.Equal(t, outflow.Pending, outcome.State)
	s := stands(t, pool, m.ID)
	require.Equal(t, missingReason, *s.LastError)
	require.Equal(t, 1, s.Attempts)
	require.Zero(t, s.Claims)
	require.LessOrEqual(t, s.LeasedFor, 1.0)

	other := outboxdb.New(pool)
	got := claim(t, other, req)
	require.Empty(t, got.Messages, "for every process")
	require.Equal(t, map[string]string{"sqs://missing": missingReason}, got.Missing)
	require.True(t, got.BreakerActive)
	require.Equal(t, 1, value[int](t, pool,
		`SELECT openings FROM outbox.destinations WHERE destination = 'sqs://missing'`))
}

// While it is missing it is looked up, and no message is sent. One that is there again is probed by a
// message, and a success lets all go.
func TestMissingDestinationIsLookedUp(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	store := outboxdb.New(pool)
	enqueue(t, pool, messages("sqs://missing", 3)...)
	miss(t, pool, store, "sqs://missing")
	since := value[time.Time](t, pool, `SELECT missing_since FROM outbox.destinations`)
	var looked []string
	answer := error(errMissing)
	probe := func() []outbox.Probe {
		probeNow(t, pool)
		probes, err := store.TakeFound(t.Context(), func(_ context.Context, d string) error {
			looked = append(looked, d)
			return answer
		})
		require.NoError(t, err)
		return probes
	}
	for range 5 {
		require.Empty(t, probe())
		waitFor(t, pool, `SELECT open_until > now() AND probe_until IS NULL FROM outbox.destinations`)
	}
	require.Len(t, looked, 5)
	require.LessOrEqual(t, value[float64](t, pool,
		`SELECT extract(epoch FROM open_until - now())::float8 FROM outbox.destinations`), 5.0, "the next look comes soon")
	require.Empty(t, claim(t, store, graceful()).Messages)
	require.Equal(t, since, value[time.Time](t, pool, `SELECT missing_since FROM outbox.destinations`))

	// A look that can't tell leaves it to a message.
	answer = outflow.Unavailable(fmt.Errorf("AccessDenied"))
	require.Len(t, probe(), 1)
	require.Len(t, claim(t, store, graceful()).Messages, 1)
	require.Equal(t, since, value[time.Time](t, pool, `SELECT missing_since FROM outbox.destinations`))

	// It is there, but the message says that it is not: its grace goes on.
	answer = nil
	require.Len(t, probe(), 1)
	store.Observe("sqs://missing", uuid.Nil, outbox.Observation{Err: errMissing, Missing: true})
	waitFor(t, pool, `SELECT open_until > now() FROM outbox.destinations`)
	require.Equal(t, since, value[time.Time](t, pool, `SELECT missing_since FROM outbox.destinations`))

	// It is there, and fails in another way: its messages wait for that without an end.
	require.Len(t, probe(), 1)
	fail(store, "sqs://missing", errDown)
	waitFor(t, pool, `SELECT open_until IS NOT NULL AND missing_since IS NULL FROM outbox.destinations`)

	miss(t, pool, store, "sqs://missing")
	require.Len(t, probe(), 1)
	acknowledge(store, "sqs://missing")
	waitFor(t, pool, `SELECT open_until IS NULL AND missing_since IS NULL FROM outbox.destinations`)
	execute(t, pool, `UPDATE outbox.messages SET available_at = now(), parked = false, claims = 0`)
	require.Len(t, claim(t, store, graceful()).Messages, 3)
}

// A publisher that can't look up has messages probe, as behind any open breaker.
func TestMissingDestinationWithoutALook(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	store := outboxdb.New(pool)
	ids := enqueue(t, pool, messages("sqs://missing", 3)...)
	miss(t, pool, store, "sqs://missing")
	probeNow(t, pool)
	probes, err := store.TakeFound(t.Context(), nil)
	require.NoError(t, err)
	require.Len(t, probes, 1)
	require.Equal(t, []uuid.UUID{probes[0].ID}, idsOf(claim(t, store, graceful())))
	require.Contains(t, ids, probes[0].ID)
}

// Messages end when their grace is over, and each as it should.
func TestGraceEnds(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	store := outboxdb.New(pool)
	late := message("sqs://missing")
	late.DueIn = 5 * time.Minute
	asks := message("sqs://missing")
	asks.Callback = "sqs://replies"
	expires := message("sqs://missing")
	expires.ExpiresIn = time.Minute
	longAgo := message("sqs://missing")
	longAgo.DueAt = time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC)
	ids := enqueue(t, pool, asks, expires, message("sqs://missing"), late, longAgo, message("sqs://missing"),
		message("sqs://there"))
	cancelled, running := ids[2], ids[5]
	execute(t, pool, `UPDATE outbox.messages SET cancel_requested = true WHERE id = $1`, cancelled)
	_, err := store.Renew(t.Context(), outbox.Renewal{Ref: ref(running), Lease: time.Hour})
	require.NoError(t, err)
	miss(t, pool, store, "sqs://missing")
	req := graceful()
	req.MaxMessages = 1 // of sqs://there
	require.Empty(t, look(t, store, req).Ended)
	require.Equal(t, []string{"pending", "pending", "pending", "pending", "pending", "pending", "pending"},
		states(t, pool),
		"a message whose time came long ago has its grace, too")

	waited(t, pool, 9*time.Minute)
	execute(t, pool, `UPDATE outbox.messages SET expires_at = now() WHERE id = $1`, ids[1])
	require.Empty(t, look(t, store, req).Ended)
	waited(t, pool, time.Minute)
	ended := look(t, store, req).Ended
	require.Len(t, ended, 4)
	require.Equal(t, []string{"dead", "expired", "cancelled", "pending", "dead", "pending", "pending"}, states(t, pool))
	require.Equal(t, missingReason, *stands(t, pool, ids[0]).LastError)
	require.True(t, value[bool](t, pool,
		`SELECT callback_state = 'due' AND callback_due_at <= now() FROM outbox.messages WHERE id = $1`, ids[0]),
		"its producer is notified at once: no run does it")
	for _, o := range ended {
		require.True(t, o.State.Final())
		require.NotEmpty(t, o.Destination)
		require.False(t, o.FinishedAt.IsZero())
	}

	// The delayed one has its grace from its own time.
	waited(t, pool, 5*time.Minute)
	execute(t, pool, `UPDATE outbox.messages SET parked = false WHERE id = $1`, ids[3])
	require.Len(t, look(t, store, req).Ended, 1)
	require.Equal(t, []string{"dead", "expired", "cancelled", "dead", "dead", "pending", "pending"}, states(t, pool),
		"the one with a run is left to that")
}

// While no starter ran somebody may have made the destination. So nothing ends before somebody has
// looked; and nothing for want of a publisher before processes had time to start.
func TestNoGraceEndsUnseen(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	store := outboxdb.New(pool)
	enqueue(t, pool, message("sqs://missing"), message("rabbitmq://events/a"), message("sns://news"))
	req := graceful()
	refuse := req.Refuse
	req.Refuse = func(d string) error {
		if outbox.SchemeOf(d) == "sns" {
			return refuse(d)
		}
		return nil
	}
	for _, d := range []string{"sqs://missing", "rabbitmq://events/a"} {
		miss(t, pool, store, d)
	}
	require.Empty(t, look(t, store, req).Ended) // it notes the scheme
	waited(t, pool, time.Hour)
	execute(t, pool, `UPDATE outbox.destinations SET open_until = open_until - interval '1 hour', failed_at = failed_at - interval '1 hour'`)
	runs(t, pool, true, "sqs")
	require.Empty(t, look(t, outboxdb.New(pool), req).Ended, "no process ran until now: the grace begins again")
	waited(t, pool, time.Hour)
	require.Empty(t, look(t, outboxdb.New(pool), req).Ended)

	execute(t, pool, `UPDATE outbox.processes SET started_at = now() - interval '31 seconds'`)
	require.Len(t, look(t, store, req).Ended, 1)
	require.Equal(t, []string{"pending", "pending", "dead"}, states(t, pool))

	// An outage of the target is reason enough: nobody can look.
	execute(t, pool, `INSERT INTO outbox.destinations (destination, failing_since, failed_at, openings, open_until) VALUES ('rabbitmq://events', now(), now(), 1, now())`)
	require.Len(t, look(t, store, req).Ended, 1)
	require.Equal(t, []string{"pending", "dead", "dead"}, states(t, pool))

	probes, err := store.TakeFound(t.Context(), func(context.Context, string) error { return errMissing })
	require.NoError(t, err)
	require.Empty(t, probes)
	waitFor(t, pool, `SELECT open_until > now() FROM outbox.destinations WHERE destination = 'sqs://missing'`)
	require.Len(t, look(t, store, req).Ended, 1)
}

// A message ends where its destination was found missing after the message's grace was over. What was
// found before says nothing: somebody may have made the destination since, while no starter ran.
func TestGraceEndsWithALookAfterIt(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	store := outboxdb.New(pool)
	enqueue(t, pool, messages("sqs://missing", 2)...)
	miss(t, pool, store, "sqs://missing")
	execute(t, pool, `UPDATE outbox.messages SET due_at = now() - interval '10 minutes 10 seconds', available_at = now() - interval '10 minutes 10 seconds',
	    enqueued_at = now() - interval '10 minutes 10 seconds'`)
	execute(t, pool, `UPDATE outbox.destinations SET missing_since = now() - interval '11 minutes', failed_at = now() - interval '11 seconds'`)
	require.Empty(t, look(t, outboxdb.New(pool), graceful()).Ended, "the last look was a second before the end")
	execute(t, pool, `UPDATE outbox.destinations SET failed_at = now() - interval '9 seconds'`)
	require.Len(t, look(t, outboxdb.New(pool), graceful()).Ended, 2)
}

// A destination that one message has reached is waited for, by every process: of an address it takes
// two, because a host may have any number of them.
func TestOneMessageReachesADestination(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	store := outboxdb.New(pool)
	for _, d := range []string{"sqs://a", "rabbitmq://events/placed", "rabbitmq:///mail", "temporal://orders/Process", "x-file://a"} {
		acknowledge(store, d)
		waitFor(t, pool, `SELECT EXISTS (SELECT FROM outbox.destinations WHERE destination = $1 AND delivered_at IS NOT NULL)`, d)
		known, err := outboxdb.New(pool).Known(t.Context(), d)
		require.NoError(t, err)
		require.True(t, known, d)
	}
	acknowledge(store, "https://shop.example/hooks/1")
	known, err := outboxdb.New(pool).Known(t.Context(), "https://shop.example/hooks/1")
	require.NoError(t, err)
	require.False(t, known)
}

// Destinations that fail and those that are missing are probed by themselves, however many there are of
// each. A round of look-ups that takes too long leaves the rest to the next one.
func TestMissingDestinationsDelayNoProbe(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	store := outboxdb.New(pool)
	var msgs []outflow.Message
	for n := range 60 {
		msgs = append(msgs, message(fmt.Sprintf("sqs://missing-%02d", n)), message(fmt.Sprintf("sqs://down-%02d", n)))
	}
	enqueue(t, pool, msgs...)
	execute(t, pool, `INSERT INTO outbox.destinations (destination, missing_since, missing_reason, failing_since, openings, open_until)
		SELECT m.destination, CASE WHEN m.destination LIKE '%missing%' THEN now() END,
		       CASE WHEN m.destination LIKE '%missing%' THEN 'no' END, now(), 1, now() - interval '1 minute'
		  FROM outbox.messages AS m`)
	down, err := store.TakeProbes(t.Context())
	require.NoError(t, err)
	require.Len(t, down, 50)
	for _, p := range down {
		require.Contains(t, p.Destination, "sqs://down-")
	}
	ctx, cancel := context.WithCancel(t.Context())
	var looks atomic.Int64
	probes, err := store.TakeFound(ctx, func(context.Context, string) error {
		if looks.Add(1) == 20 {
			cancel()
		}
		return errMissing
	})
	require.NoError(t, err)
	require.Empty(t, probes)
	require.GreaterOrEqual(t, looks.Load(), int64(20))
	require.Less(t, looks.Load(), int64(49))
	waitFor(t, pool, `SELECT count(*) = 60 FROM outbox.destinations WHERE missing_since IS NOT NULL AND probe_until IS NULL`)
}

// A process without the scheme's publisher can't look a missing destination up. It claims a message
// for a worker, which can.
func TestMissingDestinationThatOnlyAWorkerCanLookUp(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	store := outboxdb.New(pool)
	enqueue(t, pool, messages("sns://news", 3)...)
	runs(t, pool, false, "sns")
	miss(t, pool, store, "sns://news")
	probeNow(t, pool)
	probes, err := store.TakeFound(t.Context(), func(_ context.Context, d string) error {
		return outflow.Permanent(fmt.Errorf("looking up %s: %w", d, outflow.ErrNoPublisher))
	})
	require.NoError(t, err)
	require.Len(t, probes, 1)
	require.Equal(t, missingReason, value[string](t, pool, `SELECT missing_reason FROM outbox.destinations`))
	require.Len(t, claim(t, store, graceful()).Messages, 1)
}

// What a message's grace is counted from, and what ends it not at all.
func TestGraceIsCountedFrom(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		then func(t *testing.T, pool *pgxpool.Pool, store *outboxdb.Store, id uuid.UUID)
		want string
	}{
		"its due time": {nil, "dead"},
		"a retry": {func(t *testing.T, pool *pgxpool.Pool, store *outboxdb.Store, id uuid.UUID) {
			require.Len(t, look(t, store, graceful()).Ended, 1)
			answers, err := operator.New(pool, nil, "").Retry(t.Context(), []uuid.UUID{id}, ada)
			require.NoError(t, err)
			require.Equal(t, operator.Done, answers[0].Verdict)
		}, "pending"},
		"a redirect": {func(t *testing.T, pool *pgxpool.Pool, store *outboxdb.Store, id uuid.UUID) {
			miss(t, pool, store, "sqs://other")
			waited(t, pool, time.Hour)
			_, err := operator.New(pool, nil, "").Redirect(t.Context(), []uuid.UUID{id}, "sqs://other", ada)
			require.NoError(t, err)
		}, "pending"},
		"a reschedule": {func(t *testing.T, pool *pgxpool.Pool, _ *outboxdb.Store, id uuid.UUID) {
			_, err := operator.New(pool, nil, "").Reschedule(t.Context(), []uuid.UUID{id}, time.Time{}, 0, ada)
			require.NoError(t, err)
		}, "pending"},
		"the time since when its destination is missing": {func(t *testing.T, pool *pgxpool.Pool, _ *outboxdb.Store,
			_ uuid.UUID) {
			execute(t, pool, `UPDATE outbox.destinations SET missing_since = now()`)
		}, "pending"},
		"nothing, for a copy of a delivered message": {func(t *testing.T, pool *pgxpool.Pool, store *outboxdb.Store,
			id uuid.UUID) {
			deliver(t, pool, id)
			acknowledge(store, "sqs://missing")
			waitFor(t, pool, `SELECT EXISTS (SELECT FROM outbox.destinations WHERE delivered_at IS NOT NULL)`)
			_, err := operator.New(pool, nil, "").Resend(t.Context(), []uuid.UUID{id}, ada)
			require.NoError(t, err)
			execute(t, pool, `DELETE FROM outbox.messages WHERE id = $1`, id)
			miss(t, pool, store, "sqs://missing")
			waited(t, pool, time.Hour)
		}, "pending"},
		"nothing, where a message has reached it before": {func(t *testing.T, pool *pgxpool.Pool, _ *outboxdb.Store,
			_ uuid.UUID) {
			execute(t, pool, `UPDATE outbox.destinations SET delivered_at = now() - interval '1 day'`)
		}, "pending"},
		"the same, where another breaker is open, too": {func(t *testing.T, pool *pgxpool.Pool, store *outboxdb.Store,
			_ uuid.UUID) {
			for range 5 {
				fail(store, "sqs://missing", errDown)
			}
			waitFor(t, pool, `SELECT failures >= 6 FROM outbox.destinations`)
			require.Equal(t, missingReason, value[string](t, pool, `SELECT missing_reason FROM outbox.destinations`),
				"an outage does not hide it")
		}, "dead"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pool := teststack.New(t)
			store := outboxdb.New(pool)
			id := enqueue(t, pool, message("sqs://missing"))[0]
			miss(t, pool, store, "sqs://missing")
			waited(t, pool, time.Hour)
			if c.then != nil {
				c.then(t, pool, store, id)
			}
			execute(t, pool, `UPDATE outbox.messages SET parked = false WHERE available_at <= now()`)
			look(t, store, graceful())
			require.Equal(t, []string{c.want}, states(t, pool))
			if c.want == "dead" {
				return
			}
			if strings.HasPrefix(name, "nothing") {
				waited(t, pool, 24*time.Hour)
				require.Empty(t, look(t, store, graceful()).Ended)
				return
			}
			waited(t, pool, 11*time.Minute) // an act leaves its old run a second or ten
			execute(t, pool, `UPDATE outbox.messages SET parked = false`)
			require.Len(t, look(t, store, graceful()).Ended, 1, "and then it is over")
		})
	}
}

// A run that leaves its message to wait writes only to a row of its own generation, and learns where
// the message has waited long enough.
func TestPutBackOfAMissingDestination(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	store := outboxdb.New(pool)
	put := func(ref outbox.Ref, grace time.Duration) (outflow.Outcome, error) {
		return store.PutBack(t.Context(), outbox.PutBack{Ref: ref, LastError: missingReason,
			Missing: &outbox.Missing{Grace: grace}})
	}
	retrying := enqueue(t, pool, message("sqs://missing"))[0]
	_, err := store.Renew(t.Context(), outbox.Renewal{Ref: ref(retrying), Lease: time.Hour, LastError: "503"})
	require.NoError(t, err)
	outcome, err := put(ref(retrying), time.Minute)
	require.NoError(t, err)
	require.Equal(t, outflow.Pending, outcome.State)
	s := stands(t, pool, retrying)
	require.False(t, s.Retrying, "it waits as a row")
	require.LessOrEqual(t, s.LeasedFor, 1.0)
	require.Equal(t, 1, s.Attempts, "the renewal has counted the attempt")

	for name, c := range map[string]struct {
		spoil string
		grace time.Duration
		over  bool
	}{
		"without a grace":      {`SELECT`, 0, true},
		"after its grace":      {`UPDATE outbox.messages SET due_at = due_at - interval '1 hour', enqueued_at = enqueued_at - interval '1 hour'`, time.Minute, false},
		"a later generation":   {`UPDATE outbox.messages SET generation = 2`, 0, false},
		"one that has ended":   {`UPDATE outbox.messages SET state = 'cancelled', finished_at = now()`, 0, false},
		"reached before":       {`INSERT INTO outbox.destinations (destination, delivered_at) VALUES ('sqs://missing', now())`, 0, false},
		"missing for too long": {`INSERT INTO outbox.destinations (destination, missing_since, missing_reason) VALUES ('sqs://missing', now() - interval '1 hour', 'no')`, time.Minute, false},
		"due and missing for too long": {`WITH m AS (UPDATE outbox.messages SET due_at = due_at - interval '1 hour', enqueued_at = enqueued_at - interval '1 hour')
			INSERT INTO outbox.destinations (destination, missing_since, missing_reason) VALUES ('sqs://missing', now() - interval '1 hour', 'no')`, time.Minute, true},
	} {
		execute(t, pool, `TRUNCATE outbox.messages, outbox.destinations`)
		id := enqueue(t, pool, message("sqs://missing"))[0]
		execute(t, pool, c.spoil)
		before := stands(t, pool, id)
		outcome, err := put(ref(id), c.grace)
		if c.over {
			require.ErrorIs(t, err, outbox.ErrGraceOver, name)
			require.Equal(t, before.AvailableAt, stands(t, pool, id).AvailableAt, "%s: its run ends it", name)
			continue
		}
		require.NoError(t, err, name)
		require.Equal(t, before.State, string(outcome.State), name)
		require.Equal(t, before.Generation, outcome.Generation, name)
		if before.Generation > 1 || before.State != "pending" {
			require.Equal(t, before.AvailableAt, stands(t, pool, id).AvailableAt, name)
			require.Nil(t, stands(t, pool, id).LastError, name)
		}
	}
	_, err = put(outbox.Ref{ID: uuid.New(), Generation: 1}, 0)
	require.ErrorIs(t, err, outflow.ErrNotFound)
}

// Runs off the fast path are signalled once, when their destination is found missing. They see that on
// their row, and leave their messages to wait.
func TestRunsOfAMissingDestinationAreSignalled(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	store := opened(t, pool)
	id := enqueue(t, pool, message("sqs://down"))[0]
	renew := func() outbox.Record {
		r, err := store.Renew(t.Context(), outbox.Renewal{Ref: ref(id), Lease: time.Hour})
		require.NoError(t, err)
		return r
	}
	require.Empty(t, renew().Missing)
	miss(t, pool, store, "sqs://down")
	r := renew()
	require.True(t, r.HeldBack)
	require.Equal(t, missingReason, r.Missing)
	recovered, err := store.TakeRecovered(t.Context())
	require.NoError(t, err)
	require.Len(t, recovered, 1)
	require.True(t, recovered[0].Missing)
	runs, err := store.Retrying(t.Context(), recovered[0], 10)
	require.NoError(t, err)
	require.Len(t, runs, 1)
	require.NoError(t, store.ForgetRecovered(t.Context(), recovered[0]))

	probeNow(t, pool)
	_, err = store.TakeFound(t.Context(), func(context.Context, string) error { return errMissing })
	require.NoError(t, err)
	waitFor(t, pool, `SELECT open_until > now() FROM outbox.destinations`)
	recovered, err = store.TakeRecovered(t.Context())
	require.NoError(t, err)
	require.Empty(t, recovered, "it is missing still")
}

// A missing destination that no message waits for is forgotten.
func TestMissingDestinationIsForgotten(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	store := outboxdb.New(pool)
	id := enqueue(t, pool, message("sqs://waited-for"))[0]
	for _, d := range []string{"sqs://abandoned", "sqs://waited-for"} {
		miss(t, pool, store, d)
	}
	execute(t, pool, `INSERT INTO outbox.destinations (destination, missing_since, missing_reason) VALUES ('sns:', now() - interval '1 hour', 'no')`)
	execute(t, pool, `UPDATE outbox.destinations SET open_until = now() - interval '3 minutes' WHERE open_until IS NOT NULL`)
	_, err := outboxdb.New(pool).TakeProbes(t.Context())
	require.NoError(t, err)
	require.Equal(t, []string{"sqs://waited-for"},
		values[string](t, pool, `SELECT destination FROM outbox.destinations WHERE missing_since IS NOT NULL`))
	deliver(t, pool, id)
}

// A thousand destinations that do not exist are found one by one, and slowly: each costs a run.
func TestManyMissingDestinations(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	store := outboxdb.New(pool)
	var msgs []outflow.Message
	for n := range 1000 {
		msgs = append(msgs, message(fmt.Sprintf("sqs://missing-%d", n)))
	}
	enqueue(t, pool, msgs...)
	acknowledge(store, "sqs://healthy")
	waitFor(t, pool, `SELECT EXISTS (SELECT FROM outbox.destinations)`)
	req := graceful()
	req.Allowance, req.NewDestinations, req.SlowStart = 100, 50, true
	claimed := map[string]bool{}
	for range 20 {
		enqueue(t, pool, messages("sqs://healthy", 10)...)
		healthy := 0
		for _, m := range claim(t, store, req).Messages {
			if m.Destination == "sqs://healthy" {
				healthy++
				acknowledge(store, m.Destination)
				continue
			}
			require.False(t, claimed[m.Destination], "%s is tried once", m.Destination)
			claimed[m.Destination] = true
			store.Observe(m.Destination, m.ID, outbox.Observation{Err: errMissing, Missing: true})
		}
		require.Equal(t, 10, healthy)
	}
	require.LessOrEqual(t, len(claimed), 50+20*2, "after the first ones, two at a time")
	require.NotEmpty(t, claimed)
}

// The counts and gauges of messages that wait for a missing destination say that they wait, and why.
func TestCountsOfMissingDestinations(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	store := outboxdb.New(pool)
	enqueue(t, pool, append(messages("sqs://missing", 2), message("sns://news"))...)
	miss(t, pool, store, "sqs://missing")
	require.Empty(t, look(t, store, graceful()).Messages)
	enqueue(t, pool, message("sqs://fine"))
	counts, err := store.Pending(t.Context())
	require.NoError(t, err)
	require.Len(t, counts, 3)
	for _, c := range counts[:1] {
		assert.Equal(t, "sns://news", c.Destination)
		assert.Contains(t, c.LastError, "no running starter or worker publishes to sns://")
		assert.True(t, c.Missing)
		assert.Equal(t, 1, c.Waiting)
	}
	assert.Equal(t, "sqs://fine", counts[1].Destination)
	assert.False(t, counts[1].Missing)
	assert.Equal(t, 1, counts[1].Due)
	assert.Equal(t, 2, counts[2].Waiting)
	assert.Zero(t, counts[2].Due)
	assert.Equal(t, missingReason, counts[2].LastError)
	assert.True(t, counts[2].Missing)
	assert.Positive(t, counts[2].MissedSeconds)

	// Its next look is due: somebody may have made it by now.
	execute(t, pool, `UPDATE outbox.destinations SET open_until = now() WHERE open_until IS NOT NULL`)
	counts, err = store.Pending(t.Context())
	require.NoError(t, err)
	assert.False(t, counts[2].Missing)
	assert.Equal(t, 2, counts[2].Waiting)

	waited(t, pool, time.Minute)
	g, err := store.Gauges(t.Context(), 50, "other")
	require.NoError(t, err)
	require.Len(t, g.Missing, 2)
	names := []string{g.Missing[0].Destination, g.Missing[1].Destination}
	assert.ElementsMatch(t, []string{"sqs://missing", "sns:"}, names)
	assert.GreaterOrEqual(t, g.Missing[1].Since, time.Minute)
	for _, target := range g.Targets {
		if target.Target != "sqs://fine" {
			assert.Zero(t, target.Due, target.Target)
			assert.Positive(t, target.Waiting, target.Target)
		}
	}
	g, err = store.Gauges(t.Context(), 1, "other")
	require.NoError(t, err)
	require.Len(t, g.Missing, 2)
	assert.Equal(t, "other", g.Missing[1].Destination)
}
