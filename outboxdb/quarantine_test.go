package outboxdb_test

import (
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/outflowhq/outflow/internal/teststack"
	"github.com/outflowhq/outflow/outbox"
	"github.com/outflowhq/outflow/outboxdb"
)

func TestQuarantinedMessagesAreClaimedInIsolation(t *testing.T) {
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
			_, err := store.Renew(t.Context(),
				outbox.Renewal{Ref: r, Lease: time.Minute, LastError: lastError, Lost: lost})
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
		require.NoError(t, makeWay(t.Context(), store, ref(id)))
		require.False(t, stands(t, pool, id).Retrying)
		return id
	}()).LeasedFor, 2.0, "a quarantined message that is set aside can be claimed soon")
	id := row(t, pool, `claims = 4, retrying = true, available_at = now() + interval '1 hour'`)
	require.NoError(t, makeWay(t.Context(), store, ref(id)))
	require.Greater(t, stands(t, pool, id).LeasedFor, 3000.0, "any other row of a run stays its own")
}

// A quarantined message whose destination is down fails with an error: it is quarantined no more,
// and leaves its turn to the others.
func TestQuarantinedMessageThatIsPutBack(t *testing.T) {
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
		_, err = store.PutBack(t.Context(), outbox.PutBack{Ref: ref(want), LastError: "503"})
		require.NoError(t, err)
		require.Zero(t, stands(t, pool, want).Claims)
		execute(t, pool, `UPDATE outbox.messages SET available_at = now()`)
	}
	require.Len(t, claim(t, store, request()).Messages, 2)
}

// A retrying message's run is lost while its destination is down: each claim's start
// fails in an orderly way and is put back, and the message must not be taken for one
// that kills its process.
func TestLostRunInAnOutageIsNotQuarantined(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	store := outboxdb.New(pool)
	id := row(t, pool, `retrying = true`)
	for range 2 * outbox.MaxClaims {
		execute(t, pool, `UPDATE outbox.messages SET available_at = now()`)
		require.Len(t, claim(t, store, request()).Messages, 1)
		_, err := store.PutBack(t.Context(), outbox.PutBack{Ref: ref(id), LastError: "503"})
		require.NoError(t, err)
		require.Zero(t, stands(t, pool, id).Claims)
	}
}
