package outboxdb_test

import (
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

// claimOne enqueues m and claims it alone.
func claimOne(t *testing.T, pool *pgxpool.Pool, store *outboxdb.Store, m outflow.Message,
	lease time.Duration) outbox.ClaimedMessage {
	t.Helper()
	id := enqueue(t, pool, m)[0]
	req := request()
	req.Lease = lease
	for _, c := range claim(t, store, req).Messages {
		if c.ID == id {
			return c
		}
	}
	require.Fail(t, "not claimed")
	return outbox.ClaimedMessage{}
}

func TestLoad(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	watched, statements := traced(t, pool)
	store := outboxdb.New(watched)
	loaded := func(t *testing.T, ref outbox.Ref) (outbox.Record, int) {
		t.Helper()
		statements.take()
		r, err := store.Load(t.Context(), ref)
		require.NoError(t, err)
		return r, len(statements.take())
	}

	t.Run("claimed here: once without a look", func(t *testing.T) {
		m := claimOne(t, pool, store, message("sqs://a"), time.Minute)
		require.False(t, closed(m.Taken))
		r, looks := loaded(t, m.Ref())
		require.Zero(t, looks)
		require.Equal(t, m.Record, r)
		require.True(t, closed(m.Taken))
		require.False(t, closed(m.Settled))
		execute(t, pool, `UPDATE outbox.messages SET cancel_requested = true WHERE id = $1`, m.ID)
		r, looks = loaded(t, m.Ref())
		require.Equal(t, 1, looks)
		require.True(t, r.CancelRequested, "the second look sees the row")
		require.Equal(t, m.Payload, r.Payload)
	})
	t.Run("another generation than the claimed", func(t *testing.T) {
		m := claimOne(t, pool, store, message("sqs://a"), time.Minute)
		r, looks := loaded(t, outbox.Ref{ID: m.ID, Generation: 2})
		require.Equal(t, 1, looks)
		require.Equal(t, 1, r.Generation, "as the row has it")
		require.False(t, closed(m.Taken))
	})
	t.Run("no margin left", func(t *testing.T) {
		m := claimOne(t, pool, store, message("sqs://a"), outboxdb.LeaseMargin)
		_, looks := loaded(t, m.Ref())
		require.Equal(t, 1, looks)
		require.True(t, closed(m.Taken), "its run is here all the same")
	})
	t.Run("claimed before", func(t *testing.T) {
		first := claimOne(t, pool, outboxdb.New(pool), message("sqs://a"), time.Minute)
		require.NoError(t, outboxdb.New(pool).GiveBack(t.Context(), first, outbox.NotStarted))
		again := claim(t, store, request()).Messages
		require.Len(t, again, 1)
		execute(t, pool, `UPDATE outbox.messages SET state = 'delivered', finished_at = now() WHERE id = $1`, first.ID)
		r, looks := loaded(t, first.Ref())
		require.Equal(t, 1, looks)
		require.Equal(t, outflow.Delivered, r.State, "the run of the first claim had ended it")
		require.True(t, closed(again[0].Taken), "its run is here all the same")
	})
	t.Run("claimed elsewhere", func(t *testing.T) {
		m := claimOne(t, pool, outboxdb.New(pool), message("sqs://a"), time.Minute)
		r, looks := loaded(t, m.Ref())
		require.Equal(t, 1, looks)
		require.Equal(t, m.Record, r)
	})
	t.Run("a final row", func(t *testing.T) {
		id := enqueue(t, pool, message("sqs://a"))[0]
		execute(t, pool, `UPDATE outbox.messages SET state = 'dead', finished_at = now(), last_error = 'gone'
		    WHERE id = $1`, id)
		r, _ := loaded(t, ref(id))
		require.Equal(t, outflow.Dead, r.State)
		require.Equal(t, "gone", r.LastError)
		require.NotZero(t, r.FinishedAt)
	})
	t.Run("no row", func(t *testing.T) {
		id := uuid.New()
		_, err := store.Load(t.Context(), ref(id))
		require.ErrorIs(t, err, outflow.ErrNotFound)
		require.ErrorContains(t, err, "loading message "+id.String())
	})
	t.Run("expired before the claim", func(t *testing.T) {
		id := enqueue(t, pool, message("sqs://a"))[0]
		execute(t, pool, `UPDATE outbox.messages SET due_at = now() - interval '2 hours',
		    expires_at = now() - interval '1 hour' WHERE id = $1`, id)
		m := claim(t, store, request()).Messages[0]
		require.True(t, m.Expired)
		r, looks := loaded(t, m.Ref())
		require.Zero(t, looks)
		require.True(t, r.Expired)
		r, _ = loaded(t, m.Ref())
		require.True(t, r.Expired)
	})
	t.Run("expired since the claim", func(t *testing.T) {
		m := message("sqs://a")
		m.ExpiresIn = time.Second
		c := claimOne(t, pool, store, m, time.Minute)
		require.False(t, c.Expired)
		// By this process's monotonic clock; the row is not read.
		time.Sleep(m.ExpiresIn)
		r, looks := loaded(t, c.Ref())
		require.Zero(t, looks)
		require.True(t, r.Expired)
	})
	t.Run("not expired yet", func(t *testing.T) {
		m := message("sqs://a")
		m.ExpiresIn = time.Hour
		r, looks := loaded(t, claimOne(t, pool, store, m, time.Minute).Ref())
		require.Zero(t, looks)
		require.False(t, r.Expired)
	})
}

func TestSettled(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	store := outboxdb.New(pool)
	for _, c := range []struct {
		name   string
		settle func(t *testing.T, m outbox.ClaimedMessage)
	}{
		{"its end", func(t *testing.T, m outbox.ClaimedMessage) {
			_, err := store.Finish(t.Context(), outbox.Ending{Ref: m.Ref(), State: outflow.Delivered})
			require.NoError(t, err)
		}},
		{"an end that the row refuses", func(t *testing.T, m outbox.ClaimedMessage) {
			execute(t, pool, `UPDATE outbox.messages SET generation = 2 WHERE id = $1`, m.ID)
			_, err := store.Finish(t.Context(), outbox.Ending{Ref: m.Ref(), State: outflow.Delivered})
			require.NoError(t, err)
		}},
		{"a row that is gone", func(t *testing.T, m outbox.ClaimedMessage) {
			execute(t, pool, `DELETE FROM outbox.messages WHERE id = $1`, m.ID)
			_, err := store.Finish(t.Context(), outbox.Ending{Ref: m.Ref(), State: outflow.Delivered})
			require.ErrorIs(t, err, outflow.ErrNotFound)
		}},
		{"a durable attempt", func(t *testing.T, m outbox.ClaimedMessage) {
			_, err := store.Renew(t.Context(), outbox.Renewal{Ref: m.Ref(), Lease: time.Minute})
			require.NoError(t, err)
		}},
		{"making way", func(t *testing.T, m outbox.ClaimedMessage) {
			require.NoError(t,
				makeWay(t.Context(), store, m.Ref()))
		}},
		{"a claim without a start", func(t *testing.T, m outbox.ClaimedMessage) {
			require.NoError(t, store.GiveBack(t.Context(), m, outbox.NotStarted))
		}},
		{"a claim beside an open run", func(t *testing.T, m outbox.ClaimedMessage) {
			require.NoError(t, store.GiveBack(t.Context(), m, outbox.RunOpen))
		}},
		{"a run elsewhere", func(t *testing.T, m outbox.ClaimedMessage) {
			require.NoError(t, store.GiveBack(t.Context(), m, outbox.RunElsewhere))
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			execute(t, pool, `TRUNCATE outbox.messages`)
			m := claimOne(t, pool, store, message("sqs://a"), time.Minute)
			other := claimOne(t, pool, store, message("sqs://b"), time.Minute)
			c.settle(t, m)
			require.True(t, closed(m.Settled))
			require.False(t, closed(m.Taken))
			require.False(t, closed(other.Settled) || closed(other.Taken), "another message's")
			c.settle(t, other)
			require.Zero(t, store.Held())
		})
	}
	t.Run("a failed mark leaves it open", func(t *testing.T) {
		execute(t, pool, `TRUNCATE outbox.messages`)
		m := claimOne(t, pool, store, message("sqs://a"), time.Minute)
		_, err := store.Finish(t.Context(), outbox.Ending{Ref: m.Ref(), State: outflow.Delivered, Attempts: -1})
		require.Error(t, err)
		require.False(t, closed(m.Settled))
		require.NoError(t, store.GiveBack(t.Context(), m, outbox.RunElsewhere))
	})
	t.Run("a claim whose lease ran out is let go of", func(t *testing.T) {
		execute(t, pool, `TRUNCATE outbox.messages`)
		old := claimOne(t, pool, store, message("sqs://a"), time.Microsecond)
		require.Equal(t, 1, store.Held())
		execute(t, pool, `UPDATE outbox.messages SET available_at = now() + interval '1 hour'`)
		claimOne(t, pool, store, message("sqs://a"), time.Minute)
		require.Equal(t, 1, store.Held(), "only the new one")
		require.False(t, closed(old.Taken))
		require.True(t, closed(old.Settled), "nobody waits for it any more")
	})
}

// TestClaimedAgain: a claim whose lease ran out beside a live run is settled by
// the next claim of the same row, so that nobody waits for it any more.
func TestClaimedAgain(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	store := outboxdb.New(pool)
	first := claimOne(t, pool, store, message("sqs://a"), time.Minute)
	execute(t, pool, `UPDATE outbox.messages SET available_at = now() WHERE id = $1`, first.ID)
	second := claim(t, store, request()).Messages
	require.Len(t, second, 1)
	require.True(t, closed(first.Settled))
	require.False(t, closed(second[0].Settled))
}
