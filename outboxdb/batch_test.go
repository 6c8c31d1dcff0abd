package outboxdb_test

import (
	"context"
	"errors"
	"math"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/internal/teststack"
	"github.com/outflowhq/outflow/outbox"
	"github.com/outflowhq/outflow/outboxdb"
)

func endings(ids []uuid.UUID, state outflow.State) []outbox.Ending {
	all := make([]outbox.Ending, 0, len(ids))
	for _, id := range ids {
		all = append(all, outbox.Ending{Ref: ref(id), State: state, LastError: "reason", Attempts: 1})
	}
	return all
}

// Many marks become few statements, and each caller gets its own row's answer.
func TestFinishTogether(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	watched, statements := traced(t, pool)
	store := outboxdb.New(watched)
	ids := enqueue(t, pool, messages("sqs://a", 200)...)
	require.NoError(t, store.Ping(t.Context()))
	statements.take()
	var callers sync.WaitGroup
	start := make(chan struct{})
	for i, id := range ids {
		callers.Go(func() {
			<-start
			o, err := store.Finish(t.Context(),
				outbox.Ending{Ref: ref(id), State: outflow.Delivered, BrokerMessageID: id.String(), Attempts: i})
			switch {
			case err != nil:
				t.Error(err)
			case o.ID != id || o.BrokerMessageID != id.String() || o.Attempts != i:
				t.Errorf("message %s got %+v", id, o)
			}
		})
	}
	close(start)
	callers.Wait()
	sent := statements.take()
	t.Logf("%d statements for 200 marks", len(sent))
	require.Less(t, len(sent), 40)
	require.Equal(t, 200, value[int](t, pool,
		`SELECT count(*) FROM outbox.messages WHERE state = 'delivered' AND broker_message_id = id::text`))
}

func TestPoisonedBatch(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	watched, statements := traced(t, pool)
	store := outboxdb.New(watched)
	execute(t, pool, `ALTER TABLE outbox.messages ADD CONSTRAINT poison CHECK (last_error <> 'poison')`)
	ids := enqueue(t, pool, messages("sqs://a", 100)...)

	t.Run("one is refused, the others are written", func(t *testing.T) {
		batch := endings(ids, outflow.Dead)
		batch[37].LastError = "poison"
		statements.take()
		outcomes, errs := store.FinishBatch(t.Context(), batch...)
		t.Logf("%d statements", len(statements.take()))
		for i, err := range errs {
			if i == 37 {
				require.Equal(t, "23514", sqlState(err))
				require.Equal(t, "pending", stands(t, pool, ids[i]).State)
				continue
			}
			require.NoError(t, err)
			require.Equal(t, ids[i], outcomes[i].ID)
			require.Equal(t, outflow.Dead, outcomes[i].State)
			require.Equal(t, 1, outcomes[i].Attempts, "counted once")
		}
		require.Equal(t, 99, value[int](t, pool,
			`SELECT count(*) FROM outbox.messages WHERE state = 'dead' AND attempts = 1`))
	})
	t.Run("the same for renewals", func(t *testing.T) {
		ids := enqueue(t, pool, messages("sqs://a", 5)...)
		renewals := make([]outbox.Renewal, 0, len(ids))
		for _, id := range ids {
			renewals = append(renewals, outbox.Renewal{Ref: ref(id), Lease: time.Minute})
		}
		renewals[0].LastError, renewals[4].Attempts = "poison", math.MaxInt32
		records, errs := store.RenewBatch(t.Context(), renewals...)
		require.Equal(t, "23514", sqlState(errs[0]))
		require.Equal(t, "22003", sqlState(errs[4]))
		for i := 1; i < 4; i++ {
			require.NoError(t, errs[i])
			require.Equal(t, 1, records[i].Attempts)
		}
	})
	t.Run("an error that is nobody's fails all", func(t *testing.T) {
		ended, cancel := context.WithCancel(t.Context())
		cancel()
		statements.take()
		_, errs := store.FinishBatch(ended, endings(ids[:3], outflow.Delivered)...)
		for _, err := range errs {
			require.ErrorIs(t, err, context.Canceled)
		}
		require.LessOrEqual(t, len(statements.take()), 1, "and is not tried for each")
	})
}

// Entries of one ID go one after the other: each sees what the one before wrote.
func TestSameIDInABatch(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	store := outboxdb.New(pool)
	ids := enqueue(t, pool, messages("sqs://a", 3)...)
	end := func(id uuid.UUID, generation int, state outflow.State) outbox.Ending {
		return outbox.Ending{Ref: outbox.Ref{ID: id, Generation: generation}, State: state, Attempts: 1}
	}
	outcomes, errs := store.FinishBatch(t.Context(),
		end(ids[2], 1, outflow.Dead), end(ids[0], 1, outflow.Dead), end(ids[1], 1, outflow.Delivered), end(ids[0], 1,
			outflow.Delivered),
		end(ids[1], 1, outflow.Dead), end(ids[0], 1, outflow.Delivered), end(ids[2], 2,
			outflow.Delivered), end(uuid.New(), 1, outflow.Dead))
	for _, err := range errs[:7] {
		require.NoError(t, err)
	}
	require.ErrorIs(t, errs[7], outflow.ErrNotFound)
	states := make([]outflow.State, 0, 7)
	attempts := make([]int, 0, 7)
	for _, o := range outcomes[:7] {
		states, attempts = append(states, o.State), append(attempts, o.Attempts)
	}
	require.Equal(t, []outflow.State{"dead", "dead", "delivered", "delivered", "delivered", "delivered", "dead"},
		states)
	require.Equal(t, []int{1, 1, 1, 2, 1, 2, 1}, attempts)

	records, errs := store.RenewBatch(t.Context(), outbox.Renewal{Ref: ref(ids[2])}, outbox.Renewal{Ref: ref(ids[2])})
	require.Equal(t, []error{nil, nil}, errs)
	require.Equal(t, outflow.Dead, records[1].State)
}

// Two processes with the same messages, each in its own order, pass over each other's
// rows, and never wait in a circle.
func TestNoDeadlock(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	ids := enqueue(t, pool, messages("sqs://a", 300)...)
	var stores sync.WaitGroup
	for range 2 {
		stores.Go(func() {
			store := outboxdb.New(pool)
			mine := slices.Clone(ids)
			for range 25 {
				rand.Shuffle(len(mine), func(i, j int) { mine[i], mine[j] = mine[j], mine[i] })
				renewals := make([]outbox.Renewal, 0, 200)
				for _, id := range mine[:200] {
					renewals = append(renewals, outbox.Renewal{Ref: ref(id), Lease: time.Minute})
				}
				_, errs := store.RenewBatch(t.Context(), renewals...)
				for _, err := range errs {
					if err != nil && !errors.Is(err, outbox.ErrLocked) {
						t.Error(err)
						return
					}
				}
			}
			for left := endings(mine, outflow.Delivered); len(left) > 0; {
				_, errs := store.FinishBatch(t.Context(), left...)
				var again []outbox.Ending
				for i, err := range errs {
					if errors.Is(err, outbox.ErrLocked) {
						again = append(again, left[i])
					} else if err != nil {
						t.Error(err)
					}
				}
				left = again
			}
		})
	}
	stores.Wait()
	require.Equal(t, 300, value[int](t, pool, `SELECT count(*) FROM outbox.messages WHERE state = 'delivered'`))
}
