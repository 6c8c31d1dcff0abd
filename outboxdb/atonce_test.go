package outboxdb_test

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/outflowhq/outflow/internal/teststack"
	"github.com/outflowhq/outflow/outbox"
	"github.com/outflowhq/outflow/outboxdb"
)

// Scanners that act at once pass over what another one has in hand.
func TestScannersWaitForNoOther(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	store := opened(t, pool)
	probe := enqueue(t, pool, message("sqs://down"))[0]
	quarantined := enqueue(t, pool, message("sqs://a"))[0]
	execute(t, pool, `UPDATE outbox.messages SET claims = 5 WHERE id = $1`, quarantined)
	execute(t, pool, `UPDATE outbox.destinations SET open_until = now(), probe_id = $1,
	    probe_until = now() + interval '1 minute'`, probe)
	execute(t, pool, `INSERT INTO outbox.destinations (destination, delivered_at, recovered_at)
		VALUES ('sqs://back', now(), now())`)
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

const (
	callersAtOnce = 10
	roundsAtOnce  = 10
)

// atOnce has callers, each with a store of its own, send a statement that writes to
// table at the same moment: the table's lock holds all of them until the last has
// come, and then lets them go together.
func atOnce(t *testing.T, pool *pgxpool.Pool, table string, call func(store *outboxdb.Store)) {
	t.Helper()
	gate, err := pool.Begin(t.Context())
	require.NoError(t, err)
	defer func() { _ = gate.Rollback(context.Background()) }()
	_, err = gate.Exec(t.Context(), `LOCK TABLE `+table+` IN EXCLUSIVE MODE`)
	require.NoError(t, err)
	var callers sync.WaitGroup
	for range callersAtOnce {
		callers.Go(func() { call(outboxdb.New(pool)) })
	}
	waitFor(t, pool, `SELECT count(*) = $1 FROM pg_stat_activity WHERE datname = current_database()
	    AND backend_type = 'client backend' AND wait_event_type = 'Lock'`, callersAtOnce)
	require.NoError(t, gate.Commit(t.Context()))
	callers.Wait()
}

// gathered collects what callers get.
type gathered[T any] struct {
	mu  sync.Mutex
	all []T
}

func (g *gathered[T]) add(t *testing.T, some []T, err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if err != nil {
		t.Error(err)
	}
	g.all = append(g.all, some...)
}

// An expired lease is one starter's, however many meet it. Without the lock each
// that saw the row before the first one's commit has it; without SKIP LOCKED they
// are still one, but wait for each other.
func TestOneExpiredLeaseIsClaimedOnce(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	id := enqueue(t, pool, message("sqs://orders"))[0]
	for range roundsAtOnce {
		execute(t, pool, `UPDATE outbox.messages SET claims = 1, available_at = now() - interval '1 second'`)
		var claimed gathered[outbox.ClaimedMessage]
		atOnce(t, pool, "outbox.messages", func(store *outboxdb.Store) {
			store.WalkNext()
			got, err := store.Claim(t.Context(), request())
			claimed.add(t, got.Messages, err)
		})
		require.Len(t, claimed.all, 1)
		require.Equal(t, id, claimed.all[0].ID)
		require.Equal(t, 2, stands(t, pool, id).Claims)
	}
}

// An open breaker lets one message through, whoever asks at once; the others take
// that one's lease for an answer.
func TestOneProbeAtOnce(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	opened(t, pool)
	enqueue(t, pool, messages("sqs://down", callersAtOnce)...)
	execute(t, pool, `UPDATE outbox.messages SET retrying = true, available_at = now() + interval '5 minutes'`)
	probed := map[uuid.UUID]bool{}
	for range roundsAtOnce {
		probeNow(t, pool)
		var probes gathered[outbox.Probe]
		atOnce(t, pool, "outbox.destinations", func(store *outboxdb.Store) {
			taken, err := store.TakeProbes(t.Context())
			probes.add(t, taken, err)
		})
		require.Len(t, probes.all, 1)
		require.Equal(t, probes.all[0].ID, *breakerOf(t, pool, "sqs://down").ProbeID)
		probed[probes.all[0].ID] = true
	}
	require.Len(t, probed, roundsAtOnce, "each time another one")
}

// The runs of a destination that is back are one starter's to signal.
func TestOneTellsOfARecovery(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	opened(t, pool)
	for range roundsAtOnce {
		execute(t, pool, `UPDATE outbox.destinations SET failures = 0, failing_since = NULL, openings = 0,
		    open_until = NULL, probe_until = NULL, recovered_at = now()`)
		var recovered gathered[outbox.Recovered]
		atOnce(t, pool, "outbox.destinations", func(store *outboxdb.Store) {
			taken, err := store.TakeRecovered(t.Context())
			recovered.add(t, taken, err)
		})
		require.Len(t, recovered.all, 1)
		require.Equal(t, "sqs://down", recovered.all[0].Destination)
	}
}
