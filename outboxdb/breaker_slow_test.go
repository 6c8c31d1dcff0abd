package outboxdb_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/internal/teststack"
	"github.com/outflowhq/outflow/outbox"
	"github.com/outflowhq/outflow/outboxdb"
)

const late = outflow.FastPathCallTime + time.Second

// slowUntil waits until a target counts as slow for about so long.
func slowUntil(t *testing.T, pool *pgxpool.Pool, target string, want time.Duration) {
	t.Helper()
	waitFor(t, pool, `SELECT EXISTS (SELECT FROM outbox.destinations
		WHERE destination = $1 AND slow_until BETWEEN now() + 0.8 * $2::interval AND
		  now() + $2::interval)`, target, want)
}

// makeSlow has a target count as slow.
func makeSlow(t *testing.T, pool *pgxpool.Pool, target string) {
	t.Helper()
	execute(t, pool, `INSERT INTO outbox.destinations (destination, slow_until)
		VALUES ($1, now() + interval '10 minutes')
		ON CONFLICT (destination) DO UPDATE SET slow_until = now() + interval '10 minutes'`, target)
}

// Calls that were cut short make a target slow for a minute, and an answer that was late
// for ten. No breaker counts either.
func TestSlowTarget(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	watched, statements := traced(t, pool)
	store := outboxdb.New(watched)
	store.CountEveryLateAnswer()
	for range 2 {
		cutShort(store, "https://shop.example/hooks/1")
	}
	for n := range 20 { // each path once, of which the table has no note
		acknowledgeAfter(store, fmt.Sprintf("https://shop.example/quick/%d", n), time.Millisecond)
	}
	for range 2 {
		cutShort(store, "https://shop.example/hooks/2")
	}
	require.Empty(t, statements.take(), "a few among many are not slowness")

	cutShort(store, "https://shop.example/hooks/1")
	slowUntil(t, pool, "https://shop.example", time.Minute)
	require.Equal(t, breaker{}, breakerOf(t, pool, "https://shop.example"), "nothing failed")
	require.Equal(t, 1, value[int](t, pool, `SELECT count(*)::int FROM outbox.destinations`), "it is its target's")

	acknowledgeAfter(store, "https://shop.example/late", late)
	slowUntil(t, pool, "https://shop.example", 10*time.Minute)
	statements.take()
	for n := range 100 {
		acknowledgeAfter(store, fmt.Sprintf("https://shop.example/late/%d", n), late)
		cutShort(store, "https://shop.example/hooks/1")
	}
	require.Empty(t, statements.take(), "a process says so once a minute")

	// Another process's cut-offs do not shorten what is known.
	other := outboxdb.New(watched)
	other.CountEveryLateAnswer()
	for range 3 {
		cutShort(other, "https://shop.example/hooks/1")
	}
	require.Eventually(t, func() bool { return len(statements.take()) > 0 }, 10*time.Second, 5*time.Millisecond)
	slowUntil(t, pool, "https://shop.example", 10*time.Minute)

	// A target that is slow stays so while its answers leave the fast path no margin.
	execute(t, pool, `DELETE FROM outbox.destinations`)
	third := outboxdb.New(pool)
	third.CountEveryLateAnswer()
	for range 3 {
		cutShort(third, "sqs://orders")
	}
	slowUntil(t, pool, "sqs://orders", time.Minute)
	acknowledgeAfter(third, "sqs://orders", outflow.FastPathCallTime-time.Second)
	slowUntil(t, pool, "sqs://orders", 10*time.Minute)
}

// The messages of one late request, and those that were under way when the process stalled, are one
// late answer together. A late answer that follows makes the target slow.
func TestABurstOfLateAnswersIsOne(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	watched, statements := traced(t, pool)
	store := outboxdb.New(watched)
	for range 100 {
		cutShort(store, "sqs://orders")
	}
	require.Empty(t, statements.take())
	store.CountEveryLateAnswer()
	acknowledgeAfter(store, "sqs://orders", late)
	slowUntil(t, pool, "sqs://orders", 10*time.Minute)
}

// A claim says that a message's target is slow, and so does a load, for as long as it is.
func TestSlowTargetIsRead(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	makeSlow(t, pool, "https://slow.example")
	makeSlow(t, pool, "sqs://slow")
	destinations := map[string]bool{"https://slow.example/a": true, "sqs://slow": true,
		"https://other.example/a": false, "sqs://fast": false}
	for destination := range destinations {
		enqueue(t, pool, message(destination))
	}
	claimed := claim(t, outboxdb.New(pool), request()).Messages
	require.Len(t, claimed, len(destinations))
	read := func(again bool) {
		for _, m := range claimed {
			store := outboxdb.New(pool)
			record, err := store.Load(t.Context(), m.Ref())
			require.NoError(t, err)
			require.Equal(t, again && destinations[m.Destination], record.SlowTarget, m.Destination)
			record, err = store.LoadAgain(t.Context(), m.Ref())
			require.NoError(t, err)
			require.Equal(t, again && destinations[m.Destination], record.SlowTarget, m.Destination)
		}
	}
	for _, m := range claimed {
		require.Equal(t, destinations[m.Destination], m.SlowTarget, m.Destination)
	}
	read(true)
	execute(t, pool, `UPDATE outbox.destinations SET slow_until = now()`)
	read(false) // it lapses by itself
}

// A slow target has so many messages off the fast path, whatever the number of its
// destinations. Those that wait for something else than its answer keep nobody out.
func TestCapOfASlowTarget(t *testing.T) {
	t.Parallel()
	const host = "https://slow.example"
	running := func(t *testing.T, pool *pgxpool.Pool) {
		t.Helper()
		enqueue(t, pool, messages(host+"/a", 195)...)
		execute(t, pool, `UPDATE outbox.messages SET retrying = true, parked = true, attempts = 1,
		    available_at = now() + interval '5 minutes'`)
		enqueue(t, pool, messages(host+"/b", 30)...)
		enqueue(t, pool, messages(host+"/c", 30)...)
		enqueue(t, pool, messages("https://other.example/a", 30)...)
		makeSlow(t, pool, host)
	}
	claimed := func(t *testing.T, pool *pgxpool.Pool) (slow, other int) {
		t.Helper()
		req := request()
		req.Allowance = 100
		for destination, n := range byDestination(claim(t, outboxdb.New(pool), req)) {
			if outbox.TargetOf(destination) == host {
				slow += n
			} else {
				other += n
			}
		}
		return slow, other
	}
	for name, c := range map[string]struct {
		change string
		want   int
	}{
		"as many as leave 200":   {`SELECT 1`, 5},
		"until it lapses":        {`UPDATE outbox.destinations SET slow_until = now()`, 60},
		"not those that fail on": {`UPDATE outbox.messages SET attempts = 4 WHERE destination LIKE '%/a'`, 60},
		"not behind an open one": {`INSERT INTO outbox.destinations (destination, failing_since, openings, open_until)
		VALUES ('https://slow.example/a', now(), 1, now() + interval '1 hour')`, 60},
		"all of one that fails": {`UPDATE outbox.destinations SET failing_since = now(), failures = 1`, 5},
		"nothing behind a breaker": {`UPDATE outbox.destinations SET failing_since = now(), openings = 1,
		    open_until = now() + interval '1 hour'`, 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pool := teststack.New(t)
			running(t, pool)
			execute(t, pool, c.change)
			slow, other := claimed(t, pool)
			require.Equal(t, c.want, slow)
			require.Equal(t, 30, other)
		})
	}
}

// A slow target whose breaker is open is probed: the message that does it may be sent.
func TestProbeOfASlowTarget(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	store := opened(t, pool)
	makeSlow(t, pool, "sqs://down")
	enqueue(t, pool, messages("sqs://down", 3)...)
	probeNow(t, pool)
	probes, err := store.TakeProbes(t.Context())
	require.NoError(t, err)
	require.Len(t, probes, 1)
	claimed := claim(t, store, request()).Messages
	require.Len(t, claimed, 1)
	require.True(t, claimed[0].SlowTarget)
	record, err := store.Renew(t.Context(), outbox.Renewal{Ref: claimed[0].Ref(), Lease: time.Minute})
	require.NoError(t, err)
	require.False(t, record.HeldBack, "a durable attempt sends it")
}
