package outboxdb_test

import (
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/internal/teststack"
	"github.com/outflowhq/outflow/outbox"
	"github.com/outflowhq/outflow/outboxdb"
)

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
			require.Equal(t, []outbox.Probe{{Leased: retrying[i%3], Destination: "sqs://down", Running: true}},
				probes(t, store))
		}
		require.Empty(t, claim(t, store, request()).Messages, "the probe is its run's")

		// Where Temporal knows no such run, the message is freed, and claimed.
		require.NoError(t, store.Release(t.Context(), retrying[0]))
		require.Equal(t, []uuid.UUID{retrying[0].ID}, idsOf(claim(t, store, request())))
	})
	t.Run("a retrying one and one that waits in turn", func(t *testing.T) {
		t.Parallel()
		pool := teststack.New(t)
		store := opened(t, pool)
		hopeless := row(t, pool, `destination = 'sqs://down', retrying = true,
		    available_at = now() + interval '5 minutes'`)
		waiting := enqueue(t, pool, messages("sqs://down", 2)...)
		execute(t, pool, `UPDATE outbox.messages SET available_at = now() - interval '1 hour' WHERE id = $1`,
			waiting[0])
		for _, want := range []outbox.Probe{{Leased: leased(t, pool, hopeless), Destination: "sqs://down",
			Running: true}, {Leased: leased(t, pool, waiting[1]), Destination: "sqs://down"}} {
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

// One message that its destination answers with 503, whatever it does with others,
// opens the breaker alone; another one closes it.
func TestOneHopelessMessageKeepsNothingClosed(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	store := opened(t, pool)
	hopeless := row(t, pool, `destination = 'sqs://down', retrying = true, available_at = now() + interval '5 minutes'`)
	healthy := enqueue(t, pool, messages("sqs://down", 20)...)
	tries := map[uuid.UUID]int{}
	for range 4 {
		probeNow(t, pool)
		probes, err := store.TakeProbes(t.Context())
		require.NoError(t, err)
		require.Len(t, probes, 1)
		tries[probes[0].ID]++
		if probes[0].ID != hopeless {
			require.Equal(t, []uuid.UUID{probes[0].ID}, idsOf(claim(t, store, request())))
			acknowledge(store, "sqs://down")
			waitFor(t, pool, `SELECT NOT EXISTS (SELECT FROM outbox.destinations WHERE open_until IS NOT NULL)`)
			require.Len(t, claim(t, store, request()).Messages, len(healthy)-1)
			return
		}
		fail(store, "sqs://down", errDown)
		waitFor(t, pool, `SELECT EXISTS (SELECT FROM outbox.destinations WHERE open_until > now())`)
	}
	t.Fatalf("still closed to all others after %v", tries)
}

// Whatever waits for a destination that is back may have expired meanwhile: that
// costs a turn each, no lease.
func TestExpiredMessagesDoNotKeepADestinationClosed(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	store := opened(t, pool)
	expired := enqueue(t, pool, messages("sqs://down", 50)...)
	execute(t, pool, `UPDATE outbox.messages SET available_at = now() - interval '2 hours',
	    due_at = now() - interval '2 hours',
		enqueued_at = now() - interval '3 hours', expires_at = now() - interval '1 hour'`)
	probeNow(t, pool)
	for range 5 {
		probes, err := store.TakeProbes(t.Context())
		require.NoError(t, err)
		require.Len(t, probes, 1, "the one before gave its turn back")
		m := claim(t, store, request()).Messages
		require.Len(t, m, 1)
		_, err = store.Finish(t.Context(), outbox.Ending{Ref: m[0].Ref(), State: outflow.Expired, LastError: "expired"})
		require.NoError(t, err)
		inconclusive(store, "sqs://down", m[0].ID)
		waitFor(t, pool, `SELECT EXISTS (SELECT FROM outbox.destinations WHERE probe_until IS NULL)`)
	}
	fresh := enqueue(t, pool, message("sqs://down"))[0]
	require.NotContains(t, expired, fresh)
	probes, err := store.TakeProbes(t.Context())
	require.NoError(t, err)
	require.Equal(t, fresh, probes[0].ID)
}

// Payloads of others must not cost a probe its turn.
func TestProbeComesFirst(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	store := opened(t, pool)
	probe := enqueue(t, pool, message("sqs://down"))[0]
	enqueue(t, pool, messages("sqs://a", 3)...)
	probeNow(t, pool)
	_, err := store.TakeProbes(t.Context())
	require.NoError(t, err)
	req := request()
	req.MaxBytes = 1
	require.Equal(t, []uuid.UUID{probe}, idsOf(claim(t, store, req)))
}

// Breakers stay open whose messages were cancelled or redirected. They must not
// take the places of those that have something to probe with.
func TestIdleBreakersKeepNoOtherFromProbing(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	store := opened(t, pool)
	execute(t, pool, `INSERT INTO outbox.destinations (destination, failures, failing_since, openings, open_until)
		SELECT 'sqs://a' || n, 5, now(), 1, now() FROM generate_series(1, 120) AS n`)
	probeNow(t, pool)
	id := enqueue(t, pool, message("sqs://down"))[0]
	var found []uuid.UUID
	for range 3 {
		probes, err := store.TakeProbes(t.Context())
		require.NoError(t, err)
		for _, p := range probes {
			found = append(found, p.ID)
		}
	}
	require.Equal(t, []uuid.UUID{id}, found)
}

// A quarantined message whose run is lost is no probe: it would be claimed with others, and
// only claims alone may bring it to its end.
func TestQuarantinedMessageIsNoProbe(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	store := opened(t, pool)
	id := enqueue(t, pool, message("sqs://down"))[0]
	execute(t, pool, `UPDATE outbox.messages SET retrying = true, claims = 5`)
	probeNow(t, pool)
	_, err := store.TakeProbes(t.Context())
	require.NoError(t, err)
	require.Empty(t, claim(t, store, request()).Messages)
	alone, err := store.ClaimIsolated(t.Context(), time.Minute)
	require.NoError(t, err)
	require.Len(t, alone, 1)
	require.Equal(t, id, alone[0].ID)
}

// Nor is one that has no run: as a probe it would be claimed by nobody, and the
// destination would stay closed for as long as it is the oldest.
func TestNewlyQuarantinedMessageIsNoProbe(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	store := opened(t, pool)
	ids := enqueue(t, pool, messages("sqs://down", 2)...)
	execute(t, pool, `UPDATE outbox.messages SET claims = 5, available_at = available_at - interval '1 minute'
	    WHERE id = $1`, ids[0])
	probeNow(t, pool)
	probes, err := store.TakeProbes(t.Context())
	require.NoError(t, err)
	require.Equal(t, []outbox.Probe{{Leased: leased(t, pool, ids[1]), Destination: "sqs://down"}}, probes)
}

// A probe is claimed while its time lasts. After it another one may be chosen, and
// both would be sent.
func TestProbeIsClaimedInTime(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	store := opened(t, pool)
	id := enqueue(t, pool, message("sqs://down"))[0]
	execute(t, pool, `UPDATE outbox.destinations SET open_until = now(), probe_id = $1, probe_until = now()`, id)
	require.Empty(t, claim(t, store, request()).Messages)
	execute(t, pool, `UPDATE outbox.destinations SET probe_until = now() + interval '1 minute'`)
	require.Equal(t, []uuid.UUID{id}, idsOf(claim(t, store, request())))
}

// A probe that failed has given its answer: the next one waits for the breaker
// alone, not for the time that the last one might have taken.
func TestFailedProbeMakesRoomForTheNext(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	store := opened(t, pool)
	enqueue(t, pool, message("sqs://down"))
	probeNow(t, pool)
	probes, err := store.TakeProbes(t.Context())
	require.NoError(t, err)
	require.Len(t, probes, 1)
	fail(store, "sqs://down", errDown)
	waitFor(t, pool, `SELECT EXISTS (SELECT FROM outbox.destinations WHERE openings = 2)`)
	execute(t, pool, `UPDATE outbox.destinations SET open_until = now()`)
	probes, err = store.TakeProbes(t.Context())
	require.NoError(t, err)
	require.Len(t, probes, 1)
}

// A probe is claimed out of turn. It moves no mark: once its destination works
// again, what is older is due, and is not left to the next walk.
func TestProbeMovesNoMark(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	store := opened(t, pool)
	ids := enqueue(t, pool, messages("sqs://down", 3)...)
	execute(t, pool, `UPDATE outbox.messages SET available_at = available_at - interval '1 minute' WHERE id <> $1`,
		ids[2])
	execute(t, pool, `UPDATE outbox.destinations SET open_until = now() + interval '1 minute', probe_id = $1,
	    probe_until = now() + interval '1 minute'`, ids[2])
	require.Equal(t, ids[2:], idsOf(claim(t, store, request())))
	acknowledge(store, "sqs://down")
	waitFor(t, pool, `SELECT NOT EXISTS (SELECT FROM outbox.destinations WHERE open_until IS NOT NULL)`)
	store.HoldWalk()
	claimed, err := store.Claim(t.Context(), request())
	require.NoError(t, err)
	require.ElementsMatch(t, ids[:2], idsOf(claimed))
}
