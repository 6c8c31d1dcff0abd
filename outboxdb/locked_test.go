package outboxdb_test

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/internal/teststack"
	"github.com/outflowhq/outflow/outbox"
	"github.com/outflowhq/outflow/outboxdb"
)

const lockedText = "another session has locked the message's row"

// lock holds a message's row, as an open psql does, until unlock is called.
func lock(t *testing.T, pool *pgxpool.Pool, id uuid.UUID) (unlock func()) {
	t.Helper()
	tx, err := pool.Begin(t.Context())
	require.NoError(t, err)
	unlock = sync.OnceFunc(func() { _ = tx.Rollback(context.Background()) })
	t.Cleanup(unlock)
	_, err = tx.Exec(t.Context(), `SELECT FROM outbox.messages WHERE id = $1 FOR UPDATE`, id)
	require.NoError(t, err)
	return unlock
}

// A row that somebody has locked is written later, or answered with an error; its
// neighbours in the same statement are not waited for, and not failed.
func TestLockedRow(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	store := outboxdb.New(pool)
	// Writes are those that many messages share: each has one statement for all.
	for name, write := range map[string]func(context.Context, uuid.UUID) error{
		"finish": func(ctx context.Context, id uuid.UUID) error {
			o, err := store.Finish(ctx, outbox.Ending{Ref: ref(id), State: outflow.Delivered, Attempts: 1})
			if err == nil && o.State != outflow.Delivered {
				t.Errorf("answered wrongly: %+v", o)
			}
			return err
		},
		"renew": func(ctx context.Context, id uuid.UUID) error {
			_, err := store.Renew(ctx, outbox.Renewal{Ref: ref(id), Lease: time.Hour, LastError: "503", Attempts: 1})
			return err
		},
		"put back": func(ctx context.Context, id uuid.UUID) error {
			_, err := store.PutBack(ctx, outbox.PutBack{Ref: ref(id), LastError: "503"})
			return err
		},
		"load again": func(ctx context.Context, id uuid.UUID) error {
			_, err := store.LoadAgain(ctx, ref(id))
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			ids := enqueue(t, pool, messages("sqs://a", 100)...)
			untouched := value[string](t, pool, `SELECT m::text FROM outbox.messages AS m WHERE id = $1`, ids[37])
			unlock := lock(t, pool, ids[37])
			errs := make([]error, len(ids))
			var callers sync.WaitGroup
			for i, id := range ids {
				callers.Go(func() { errs[i] = write(t.Context(), id) })
			}
			callers.Wait()
			for i, err := range errs {
				if i != 37 {
					assert.NoError(t, err, "a neighbour")
				}
			}
			require.ErrorContains(t, errs[37], lockedText)
			require.Equal(t, untouched, value[string](t, pool, `SELECT m::text FROM outbox.messages AS m WHERE id = $1`,
				ids[37]), "nothing was written")

			answer := make(chan error)
			go func() { answer <- write(t.Context(), ids[37]) }()
			unlock()
			require.NoError(t, <-answer, "a short lock is waited out")
			require.NotEqual(t, untouched, value[string](t, pool,
				`SELECT m::text FROM outbox.messages AS m WHERE id = $1`, ids[37]))
		})
	}
}

// Claims of rows that are locked by then are not given back in silence.
func TestLockedRowIsNotGivenBack(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	store := outboxdb.New(pool)
	ids := enqueue(t, pool, messages("sqs://a", 20)...)
	claimed := claim(t, store, request()).Messages
	require.Len(t, claimed, len(ids))
	unlock := lock(t, pool, claimed[3].ID)
	var callers sync.WaitGroup
	for i, m := range claimed {
		callers.Go(func() {
			err := store.GiveBack(t.Context(), m, outbox.NotStarted)
			if i == 3 {
				assert.ErrorContains(t, err, lockedText)
			} else {
				assert.NoError(t, err)
			}
		})
	}
	callers.Wait()
	unlock()
	require.Equal(t, []uuid.UUID{claimed[3].ID},
		values[uuid.UUID](t, pool, `SELECT id FROM outbox.messages WHERE available_at > now()`))
	require.NoError(t, store.GiveBack(t.Context(), claimed[3], outbox.NotStarted))
}

// An end that the lock's holder wrote is the answer.
func TestLockedRowThatEnds(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	store := outboxdb.New(pool)
	id := enqueue(t, pool, message("sqs://a"))[0]
	answer := make(chan outflow.Outcome, 1)
	inTx(t, pool, func(tx pgx.Tx) {
		_, err := tx.Exec(t.Context(), `UPDATE outbox.messages SET state = 'cancelled', finished_at = now()
		    WHERE id = $1`, id)
		require.NoError(t, err)
		own, seen := traced(t, pool)
		store = outboxdb.New(own)
		go func() {
			o, err := store.Finish(t.Context(), outbox.Ending{Ref: ref(id), State: outflow.Dead, Attempts: 1})
			assert.NoError(t, err)
			answer <- o
		}()
		require.Eventually(t, func() bool { return len(seen.take()) > 0 }, time.Minute, time.Millisecond)
	})
	require.Equal(t, outflow.Cancelled, (<-answer).State)
}
