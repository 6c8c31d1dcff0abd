package outboxdb_test

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/internal/teststack"
	"github.com/outflowhq/outflow/outbox"
	"github.com/outflowhq/outflow/outboxdb"
)

// Fifty producers queue up on a key, so that one of them always holds it. The backlog of the key is
// delivered all the same: a release needs the key only where it sees no follower.
func TestBacklogBesideProducers(t *testing.T) {
	t.Parallel()
	const producers, backlog = 50, 100
	pool := teststack.New(t)
	store := outboxdb.New(pool)
	want := enqueue(t, pool, keyed("sqs://a", "k", backlog)...)
	of := another(t, pool, func(c *pgxpool.Config) { c.MaxConns = producers })
	written, release := make(chan uuid.UUID, producers), make(chan struct{})
	letGo := sync.OnceFunc(func() { close(release) })
	defer letGo()
	errs := make([]error, producers)
	var all sync.WaitGroup
	for i := range producers {
		all.Go(func() {
			errs[i] = pgx.BeginFunc(context.Background(), of, func(tx pgx.Tx) error {
				ids, err := outboxdb.Enqueue(context.Background(), tx, keyed("sqs://a", "k", 1)...)
				if err == nil {
					<-release
					written <- ids[0]
				}
				return err
			})
		})
	}
	waitFor(t, pool, `SELECT count(*) = $1 FROM pg_stat_activity
		WHERE datname = current_database() AND wait_event_type = 'Lock'`, producers-1)

	var delivered []uuid.UUID
	for range backlog {
		ids := idsOf(claim(t, store, request()))
		require.Len(t, ids, 1, "after %d", len(delivered))
		end(t, store, outflow.Delivered, ids...)
		delivered = append(delivered, ids...)
	}
	require.Equal(t, want, delivered)
	require.Equal(t, 1, value[int](t, pool, `SELECT count(*) FROM outbox.deferred_releases`), "the last one alone saw no follower")

	letGo()
	var later []uuid.UUID
	for range producers {
		later = append(later, <-written)
	}
	all.Wait()
	require.NoError(t, errors.Join(errs...))
	settleDeferred(t, store)
	require.Equal(t, later, deliverAll(t, pool, store))
}

// Two producers of a key commit late and roll back in turn, each in any isolation level. What they
// commit is delivered meanwhile in the order of the commits. An error says to repeat a transaction.
func TestProducersInTurn(t *testing.T) {
	t.Parallel()
	const transactions = 40
	pool := teststack.New(t)
	store := outboxdb.New(pool)
	var mu sync.Mutex
	var committed []uuid.UUID // in the order in which their transactions had the key
	refused := 0
	produce := func(i int) error {
		level := []pgx.TxIsoLevel{pgx.ReadCommitted, pgx.RepeatableRead, pgx.Serializable}[rand.IntN(3)]
		tx, err := pool.BeginTx(t.Context(), pgx.TxOptions{IsoLevel: level})
		if err != nil {
			return err
		}
		defer func() { _ = tx.Rollback(context.Background()) }()
		if _, err := tx.Exec(t.Context(), `SELECT count(*) FROM outbox.messages`); err != nil {
			return err
		}
		ids, err := outboxdb.Enqueue(t.Context(), tx, keyed("sqs://a", "k", 1+rand.IntN(2))...)
		if err == nil {
			time.Sleep(time.Duration(rand.IntN(3000)) * time.Microsecond)
			if i%2 == 1 {
				return tx.Rollback(t.Context())
			}
			mu.Lock()
			committed = append(committed, ids...) // the other producer waits for the key
			mu.Unlock()
			err = tx.Commit(t.Context())
		}
		var pg *pgconn.PgError
		if level != pgx.ReadCommitted && errors.As(err, &pg) && pg.Code == "40001" {
			mu.Lock()
			defer mu.Unlock()
			refused++
			committed = slices.DeleteFunc(committed, func(id uuid.UUID) bool { return slices.Contains(ids, id) })
			return nil
		}
		return err
	}
	var producers sync.WaitGroup
	errs := make([]error, 2)
	for p := range errs {
		producers.Go(func() {
			for i := range transactions {
				if errs[p] = produce(i); errs[p] != nil {
					return
				}
			}
		})
	}
	done := make(chan struct{})
	go func() { defer close(done); producers.Wait() }()
	var delivered []uuid.UUID
	for !closed(done) {
		delivered = append(delivered, deliverAll(t, pool, store)...)
	}
	require.NoError(t, errors.Join(errs...))
	settleDeferred(t, store)
	delivered = append(delivered, deliverAll(t, pool, store)...)
	t.Logf("%d messages, %d transactions to be repeated", len(committed), refused)
	require.NotEmpty(t, committed)
	require.Equal(t, committed, delivered)
}

// Neither purge takes a dead head that blocks its key, nor the key, nor what waits.
func TestPurgesBesideDeadHead(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	store := outboxdb.New(pool)
	ids := enqueue(t, pool, keyed("sqs://a", "k", 2)...)
	alone := enqueue(t, pool, keyed("sqs://a", "alone", 1)...) // blocks a key in which nothing waits
	end(t, store, outflow.Dead, ids[0], alone[0])
	execute(t, pool, `UPDATE outbox.messages SET dismissed_at = now() - interval '1 day',
		finished_at = now() - interval '1 day' WHERE state = 'dead'`)
	purge := func() (messages, keys int) {
		for _, dismissed := range []bool{true, false} {
			p, err := store.PurgeMessages(t.Context(),
				outbox.Purge{State: outflow.Dead, Dismissed: dismissed, Limit: 10})
			require.NoError(t, err)
			messages += p.Rows
		}
		keys, err := store.PurgeKeys(t.Context(), 0, 10)
		require.NoError(t, err)
		return messages, keys
	}
	messages, keys := purge()
	require.Zero(t, messages)
	require.Zero(t, keys)

	end(t, store, outflow.Delivered, ids[0]) // its broker had it after all
	require.Equal(t, "head", order(t, pool, ids[1]))
	end(t, store, outflow.Delivered, ids[1])
	execute(t, pool, `UPDATE outbox.messages SET head = false WHERE id = $1`, alone[0]) // as a skip does
	messages, keys = purge()
	require.Equal(t, 1, messages)
	require.Equal(t, 2, keys)
	requireOrder(t, pool)
}
