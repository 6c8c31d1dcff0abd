package outboxdb_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/internal/teststack"
	"github.com/outflowhq/outflow/outbox"
	"github.com/outflowhq/outflow/outboxdb"
)

// The runs of as many messages as the cap allows are lost together (a namespace is
// lost, somebody terminates them all) while the breaker is not open: then nobody
// probes, and only a claim finds them.
func TestCapCountsNoLostRuns(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	store := outboxdb.New(pool)
	enqueue(t, pool, messages("sqs://down", 210)...)
	execute(t, pool, `UPDATE outbox.messages SET retrying = true, available_at = now() - interval '1 second'`)
	fail(store, "sqs://down", errDown)
	waitFor(t, pool, `SELECT EXISTS (SELECT FROM outbox.destinations WHERE failing_since IS NOT NULL)`)
	require.NotEmpty(t, claim(t, store, request()).Messages)
}

// As many messages as the cap allows fail for reasons of their own, and the
// destination failed once: nobody else would ever be sent to it.
func TestCapIsLiftedWhereTheBreakerDoesNotOpen(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	store := outboxdb.New(pool)
	enqueue(t, pool, messages("sqs://odd", 200)...)
	execute(t, pool, `UPDATE outbox.messages SET retrying = true, available_at = now() + interval '5 minutes'`)
	enqueue(t, pool, messages("sqs://odd", 3)...)
	fail(store, "sqs://odd", errDown)
	waitFor(t, pool, `SELECT EXISTS (SELECT FROM outbox.destinations WHERE failing_since IS NOT NULL)`)
	require.Empty(t, claim(t, store, request()).Messages)
	execute(t, pool, `UPDATE outbox.destinations SET failing_since = now() - interval '11 minutes'`)
	require.Len(t, claim(t, store, request()).Messages, 3)
}

// A worker that took a probe's run over from a starter in another process, and saw
// no failure itself, closes the breaker all the same.
func TestSuccessOfALoadedMessageIsNews(t *testing.T) {
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

// Whoever tells the runs keeps that lease while others report successes too.
func TestSuccessDoesNotEndTheTelling(t *testing.T) {
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

// Breakers stay open whose messages were cancelled or redirected. They must not
// take the places of those that have something to probe with.
func TestIdleBreakersKeepNobodyFromProbing(t *testing.T) {
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

// A suspect whose run is lost is no probe: it would be claimed with others, and
// only claims alone may bring it to its end.
func TestSuspectIsNoProbe(t *testing.T) {
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
func TestNewSuspectIsNoProbe(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	store := opened(t, pool)
	ids := enqueue(t, pool, messages("sqs://down", 2)...)
	execute(t, pool, `UPDATE outbox.messages SET claims = 5, available_at = available_at - interval '1 minute' WHERE id = $1`, ids[0])
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
	execute(t, pool, `UPDATE outbox.messages SET available_at = available_at - interval '1 minute' WHERE id <> $1`, ids[2])
	execute(t, pool, `UPDATE outbox.destinations SET open_until = now() + interval '1 minute', probe_id = $1, probe_until = now() + interval '1 minute'`, ids[2])
	require.Equal(t, ids[2:], idsOf(claim(t, store, request())))
	acknowledge(store, "sqs://down")
	waitFor(t, pool, `SELECT NOT EXISTS (SELECT FROM outbox.destinations WHERE open_until IS NOT NULL)`)
	store.HoldWalk()
	claimed, err := store.Claim(t.Context(), request())
	require.NoError(t, err)
	require.ElementsMatch(t, ids[:2], idsOf(claimed))
}

// Free acts on the row that was seen, and on no later state of it.
func TestFreeGuards(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	store := outboxdb.New(pool)
	for name, c := range map[string]struct {
		set   string
		freed bool
	}{
		"as it was seen":     {`claims = claims`, true},
		"a later generation": {`generation = 2`, false},
		"a later lease":      {`available_at = available_at + interval '1 second'`, false},
		"ended":              {`state = 'dead', finished_at = now(), retrying = false`, false},
	} {
		t.Run(name, func(t *testing.T) {
			id := row(t, pool, `retrying = true, available_at = now() + interval '1 hour'`)
			seen := leased(t, pool, id)
			execute(t, pool, `UPDATE outbox.messages SET `+c.set+` WHERE id = $1`, id)
			before := stands(t, pool, id)
			require.NoError(t, store.Free(t.Context(), seen))
			after := stands(t, pool, id)
			require.Equal(t, c.freed, after.LeasedFor <= 0)
			require.Equal(t, c.freed, !before.AvailableAt.Equal(after.AvailableAt))
		})
	}
}

// Between a scanner's look at the runs of a destination and what it learns of one,
// another scanner may have claimed the message: that start is on its way.
func TestFreeLeavesALaterClaim(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	store := outboxdb.New(pool)
	id := enqueue(t, pool, message("sqs://a"))[0]
	execute(t, pool, `UPDATE outbox.messages SET retrying = true`)
	seen := retryingOf(t, pool, store, "sqs://a")
	require.Len(t, claim(t, store, request()).Messages, 1)
	require.NoError(t, store.Free(t.Context(), seen[0]))
	require.Greater(t, stands(t, pool, id).LeasedFor, 30.0)
}

// A destination that takes a few messages at a time: its telling stops with the next
// failure and goes on behind those who were told, who go first.
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
	told := map[uuid.UUID]bool{}
	page := func() int {
		leased, err := store.Retrying(t.Context(), recovered[0], 100)
		require.NoError(t, err)
		for _, m := range leased {
			require.False(t, told[m.ID], "once each: it may be the one that fails")
			told[m.ID] = true
		}
		return len(leased)
	}
	require.Equal(t, 100, page())
	require.Empty(t, claim(t, store, request()).Messages, "it collects no more of them")

	fail(store, "sqs://down", errDown)
	waitFor(t, pool, `SELECT EXISTS (SELECT FROM outbox.destinations WHERE failing_since IS NOT NULL)`)
	require.Zero(t, page())
	require.NoError(t, store.ForgetRecovered(t.Context(), recovered[0]))

	// The breaker did not open: nobody would tell the others, were they forgotten.
	execute(t, pool, `UPDATE outbox.destinations SET probe_until = now() WHERE probe_until < now() + interval '2 seconds'`)
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

// However many breakers are open, destinations behind them take no turn of a healthy one.
func TestThousandsOfOpenBreakersHoldUpNoHealthyDestination(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	execute(t, pool, `INSERT INTO outbox.destinations (destination, delivered_at, failures, failing_since, openings, open_until)
		SELECT 'sqs://a-' || lpad(n::text, 4, '0'), now(), 9, now(), 1, now() + interval '1 hour' FROM generate_series(1, 2000) AS n`)
	var msgs []outflow.Message
	for n := range 450 {
		msgs = append(msgs, message(fmt.Sprintf("sqs://a-%04d", 1501+n)))
	}
	enqueue(t, pool, msgs...)
	healthy := enqueue(t, pool, message("sqs://healthy"))
	require.Equal(t, healthy, idsOf(claim(t, outboxdb.New(pool), request())))
}

// Scanners that act at once pass over what another one has in hand.
func TestNobodyWaitsForAnotherScanner(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	store := opened(t, pool)
	probe := enqueue(t, pool, message("sqs://down"))[0]
	suspect := enqueue(t, pool, message("sqs://a"))[0]
	execute(t, pool, `UPDATE outbox.messages SET claims = 5 WHERE id = $1`, suspect)
	execute(t, pool, `UPDATE outbox.destinations SET open_until = now(), probe_id = $1, probe_until = now() + interval '1 minute'`, probe)
	execute(t, pool, `INSERT INTO outbox.destinations (destination, delivered_at, recovered_at) VALUES ('sqs://back', now(), now())`)
	tx, err := pool.Begin(t.Context())
	require.NoError(t, err)
	defer func() { _ = tx.Rollback(context.Background()) }()
	_, err = tx.Exec(t.Context(), `SELECT FROM outbox.messages FOR UPDATE`)
	require.NoError(t, err)

	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	alone, err := store.ClaimIsolated(ctx, time.Minute)
	require.NoError(t, err)
	require.Empty(t, alone)
	store.WalkNext()
	claimed, err := store.Claim(ctx, request())
	require.NoError(t, err)
	require.Empty(t, claimed.Messages)

	probeNow(t, pool)
	_, err = tx.Exec(t.Context(), `SELECT FROM outbox.destinations FOR UPDATE`)
	require.NoError(t, err)
	probes, err := store.TakeProbes(ctx)
	require.NoError(t, err)
	require.Empty(t, probes)
	recovered, err := store.TakeRecovered(ctx)
	require.NoError(t, err)
	require.Empty(t, recovered)
	require.NoError(t, tx.Rollback(t.Context()))
	recovered, err = store.TakeRecovered(ctx)
	require.NoError(t, err)
	require.Len(t, recovered, 1)
}
