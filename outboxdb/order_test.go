package outboxdb_test

import (
	"context"
	"fmt"
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

// keyed returns n messages of one ordering key.
func keyed(destination, key string, n int) []outflow.Message {
	msgs := messages(destination, n)
	for i := range msgs {
		msgs[i].OrderingKey = key
	}
	return msgs
}

// order is how a message stands in the order of its key.
func order(t testing.TB, q queryer, id uuid.UUID) string {
	t.Helper()
	return value[string](t, q, `SELECT CASE WHEN head THEN 'head' WHEN follower THEN 'follower' ELSE 'none' END
		FROM outbox.messages WHERE id = $1`, id)
}

// settleDeferred makes the deferred releases, until none is left.
func settleDeferred(t testing.TB, s *outboxdb.Store) {
	t.Helper()
	require.Eventually(t, func() bool {
		left, err := s.ReleaseDeferred(t.Context())
		require.NoError(t, err)
		return !left
	}, 10*time.Second, 10*time.Millisecond)
}

// strandedSQL counts followers of keys without a head whose release is not deferred. In every snapshot
// there are none.
const strandedSQL = `
SELECT count(*) FROM outbox.messages AS f WHERE f.follower
   AND NOT EXISTS (SELECT FROM outbox.messages AS h WHERE h.head
           AND h.destination = f.destination AND h.ordering_key = f.ordering_key)
   AND NOT EXISTS (SELECT FROM outbox.deferred_releases AS o
           WHERE o.destination = f.destination AND o.ordering_key = f.ordering_key)`

func requireOrder(t testing.TB, q queryer) {
	t.Helper()
	require.Zero(t, value[int](t, q, strandedSQL), "a key is stranded")
}

func end(t testing.TB, s *outboxdb.Store, state outflow.State, ids ...uuid.UUID) {
	t.Helper()
	var endings []outbox.Ending
	for _, id := range ids {
		endings = append(endings, outbox.Ending{Ref: ref(id), State: state, Attempts: 1})
	}
	_, errs := s.FinishBatch(t.Context(), endings...)
	for _, err := range errs {
		require.NoError(t, err)
	}
}

func TestOrderPerKey(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	store := outboxdb.New(pool)
	ids := enqueue(t, pool, append(keyed("sqs://a", "k", 3), keyed("sqs://a", "other", 1)...)...)
	ids = append(ids, enqueue(t, pool, append(keyed("sqs://a", "k", 1), keyed("sqs://b", "k", 1)...)...)...)
	released := 0
	store.OnRelease(func() { released++ })

	require.Equal(t, []uuid.UUID{ids[0], ids[3], ids[5]}, idsOf(claim(t, store, request())),
		"one of each key and destination")
	for i, next := range []uuid.UUID{ids[1], ids[2], ids[4]} {
		require.Equal(t, "follower", order(t, pool, next))
		end(t, store, []outflow.State{outflow.Delivered, outflow.Cancelled, outflow.Expired}[i],
			[]uuid.UUID{ids[0], ids[1], ids[2]}[i])
		require.Equal(t, "head", order(t, pool, next))
		require.Equal(t, i+1, released)
		require.Equal(t, []uuid.UUID{next}, idsOf(claim(t, store, request())))
	}
	end(t, store, outflow.Delivered, ids[4])
	require.Equal(t, ids[4:5], values[uuid.UUID](t, pool,
		`SELECT id FROM outbox.messages WHERE seq = (SELECT max(seq) FROM outbox.messages WHERE ordering_key = 'k'
		    AND destination = 'sqs://a')`))
	after := enqueue(t, pool, keyed("sqs://a", "k", 1)...)
	require.Equal(t, "head", order(t, pool, after[0]), "nothing of its key is pending")
	requireOrder(t, pool)
}

func TestDeadHeadBlocks(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	store := outboxdb.New(pool)
	ids := enqueue(t, pool, keyed("sqs://a", "k", 2)...)
	end(t, store, outflow.Dead, ids[0])
	require.Equal(t, "head", order(t, pool, ids[0]))
	more := enqueue(t, pool, keyed("sqs://a", "k", 1)...)
	require.Equal(t, "follower", order(t, pool, more[0]))
	require.Empty(t, claim(t, store, request()).Messages)
	_, err := store.PurgeMessages(t.Context(), outbox.Purge{State: outflow.Dead, Limit: 10})
	require.NoError(t, err)
	require.Equal(t, 3, count(t, pool), "without it nothing would release the others")
	counts, err := store.Pending(t.Context())
	require.NoError(t, err)
	require.Equal(t, []outboxdb.PendingCounts{{Destination: "sqs://a", Followers: 2}}, counts,
		"a single pass does not wait for them")

	end(t, store, outflow.Delivered, ids[0]) // its broker had it after all
	require.Equal(t, "none", order(t, pool, ids[0]))
	require.Equal(t, []uuid.UUID{ids[1]}, idsOf(claim(t, store, request())))
	requireOrder(t, pool)
}

func TestFollowerEndsWithoutRelease(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	store := outboxdb.New(pool)
	ids := enqueue(t, pool, keyed("sqs://a", "k", 3)...)
	answers, err := store.RequestCancel(t.Context(), ids[1:2], "ada", "")
	require.NoError(t, err)
	require.Equal(t, outflow.Cancelled, answers[0].State)
	require.Equal(t, "head", order(t, pool, ids[0]))
	require.Equal(t, "follower", order(t, pool, ids[2]))
	end(t, store, outflow.Delivered, ids[0])
	require.Equal(t, "head", order(t, pool, ids[2]))
	requireOrder(t, pool)
}

// A delayed head delays its key, a delayed follower is released until its time.
func TestDelayedInOrder(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	store := outboxdb.New(pool)
	msgs := keyed("sqs://a", "k", 3)
	msgs[1].DueIn = time.Hour
	ids := enqueue(t, pool, msgs...)
	claim(t, store, request())
	end(t, store, outflow.Delivered, ids[0])
	require.Equal(t, "head", order(t, pool, ids[1]))
	require.Empty(t, claim(t, store, request()).Messages)
	require.InDelta(t, 3600, stands(t, pool, ids[1]).LeasedFor, 60)
	execute(t, pool, `UPDATE outbox.messages SET due_at = now(), available_at = now() WHERE id = $1`, ids[1])
	require.Equal(t, []uuid.UUID{ids[1]}, idsOf(claim(t, store, request())))
	requireOrder(t, pool)
}

// A run that was superseded leaves a follower where it is.
func TestFollowerIsNotMadeWayFor(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	store := outboxdb.New(pool)
	ids := enqueue(t, pool, keyed("sqs://a", "k", 2)...)
	execute(t, pool, `UPDATE outbox.messages SET generation = 2 WHERE id = $1`, ids[1])
	require.NoError(t, makeWay(t.Context(), store, ref(ids[1])))
	require.Equal(t, "follower", order(t, pool, ids[1]))
	require.True(t, value[bool](t, pool, `SELECT available_at = '9999-12-31Z' FROM outbox.messages WHERE id = $1`,
		ids[1]))
}

// If-absent leaves out the first message of a key: the next one is released.
func TestReleaseAfterIfAbsent(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	first := enqueue(t, pool, message("sqs://other"))
	msgs := keyed("sqs://a", "k", 3)
	msgs[0].ID = first[0]
	inTx(t, pool, func(tx pgx.Tx) {
		written, err := outboxdb.EnqueueIfAbsent(t.Context(), tx, msgs...)
		require.NoError(t, err)
		require.Len(t, written, 2)
	})
	require.Equal(t, []string{"head", "follower"}, values[string](t, pool,
		`SELECT CASE WHEN head THEN 'head' WHEN follower THEN 'follower' END
		   FROM outbox.messages WHERE ordering_key = 'k' ORDER BY seq`))
	requireOrder(t, pool)
}

// Two producers of one key go one after the other; what the second one has is in the order of
// commits, whatever the isolation level, or an error says to repeat the transaction.
func TestProducersOfOneKey(t *testing.T) {
	t.Parallel()
	for _, level := range []pgx.TxIsoLevel{pgx.ReadCommitted, pgx.RepeatableRead, pgx.Serializable} {
		for _, commits := range []bool{true, false} {
			for _, ended := range []bool{true, false} {
				t.Run(fmt.Sprintf("%s commits %t ended %t", level, commits, ended), func(t *testing.T) {
					t.Parallel()
					twoProducers(t, level, commits, ended)
				})
			}
		}
	}
}

func twoProducers(t *testing.T, level pgx.TxIsoLevel, commits, ended bool) {
	pool := teststack.New(t)
	store := outboxdb.New(pool)
	before := enqueue(t, pool, keyed("sqs://a", "k", 1)...)
	first, err := pool.BeginTx(t.Context(), pgx.TxOptions{IsoLevel: level})
	require.NoError(t, err)
	defer func() { _ = first.Rollback(context.Background()) }()
	second, err := pool.BeginTx(t.Context(), pgx.TxOptions{IsoLevel: level})
	require.NoError(t, err)
	defer func() { _ = second.Rollback(context.Background()) }()
	for _, tx := range []pgx.Tx{first, second} { // each has its snapshot before the head ends
		_, err = tx.Exec(t.Context(), `SELECT count(*) FROM outbox.messages`)
		require.NoError(t, err)
	}
	ofFirst, err := outboxdb.Enqueue(t.Context(), first, keyed("sqs://a", "k", 1)...)
	require.NoError(t, err)
	if ended { // its producer holds the key: the release is deferred
		end(t, store, outflow.Delivered, before[0])
		require.Equal(t, 1, value[int](t, pool, `SELECT count(*) FROM outbox.deferred_releases`))
		left, err := store.ReleaseDeferred(t.Context())
		require.NoError(t, err)
		require.True(t, left, "the producer still holds the key")
	}
	var ofSecond []uuid.UUID
	result := make(chan error, 1)
	go func() {
		var err error
		if ofSecond, err = outboxdb.Enqueue(context.Background(), second, keyed("sqs://a", "k", 1)...); err == nil {
			err = second.Commit(context.Background())
		}
		result <- err
	}()
	waitFor(t, pool, waitsForLock)
	if commits {
		require.NoError(t, first.Commit(t.Context()))
	} else {
		require.NoError(t, first.Rollback(t.Context()))
	}
	err = <-result
	if level != pgx.ReadCommitted && err != nil {
		var pg *pgconn.PgError
		require.ErrorAs(t, err, &pg)
		require.Equal(t, "40001", pg.Code, "the error says to repeat the transaction")
		_ = second.Rollback(t.Context())
		ofSecond = enqueue(t, pool, keyed("sqs://a", "k", 1)...)
	} else {
		require.NoError(t, err)
	}
	settleDeferred(t, store)
	requireOrder(t, pool)
	want := ofSecond
	if commits {
		want = append(ofFirst, ofSecond...)
	}
	if !ended {
		want = append(before, want...)
	}
	require.Equal(t, want, deliverAll(t, pool, store))
}

// deliverAll delivers what is due, one claim after the other, and returns the order.
func deliverAll(t *testing.T, pool *pgxpool.Pool, store *outboxdb.Store) (delivered []uuid.UUID) {
	t.Helper()
	for {
		ids := idsOf(claim(t, store, request()))
		if len(ids) == 0 {
			return delivered
		}
		end(t, store, outflow.Delivered, ids...)
		settleDeferred(t, store)
		requireOrder(t, pool)
		delivered = append(delivered, ids...)
	}
}

// A producer whose snapshot is older than the end of a key's last message would write a follower that
// nobody releases. It is told to repeat its transaction.
func TestOldSnapshotBesideAnEnd(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	store := outboxdb.New(pool)
	ids := enqueue(t, pool, keyed("sqs://a", "k", 1)...)
	tx, err := pool.BeginTx(t.Context(), pgx.TxOptions{IsoLevel: pgx.RepeatableRead})
	require.NoError(t, err)
	defer func() { _ = tx.Rollback(context.Background()) }()
	_, err = tx.Exec(t.Context(), `SELECT count(*) FROM outbox.messages`)
	require.NoError(t, err)
	end(t, store, outflow.Delivered, ids[0])
	_, err = outboxdb.Enqueue(t.Context(), tx, keyed("sqs://a", "k", 1)...)
	var pg *pgconn.PgError
	require.ErrorAs(t, err, &pg)
	require.Equal(t, "40001", pg.Code)
}

// A message that a producer commits after the statement began that ends the one before it is
// released all the same: the release has a snapshot of its own.
func TestReleaseLooksWithItsOwnSnapshot(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	ids := enqueue(t, pool, keyed("sqs://a", "k", 1)...)
	// A statement that ends the head and dawdles before it releases the next message.
	execute(t, pool, `CREATE TABLE public.gate (open boolean); INSERT INTO public.gate VALUES (true)`)
	gate, err := pool.Begin(t.Context())
	require.NoError(t, err)
	defer func() { _ = gate.Rollback(context.Background()) }()
	_, err = gate.Exec(t.Context(), `LOCK TABLE public.gate`)
	require.NoError(t, err)
	execute(t, pool, `CREATE FUNCTION public.dawdle() RETURNS trigger LANGUAGE plpgsql AS $$
		BEGIN
		    IF NEW.state = 'delivered' THEN LOCK TABLE public.gate IN SHARE MODE; END IF;
		    RETURN NEW;
		END $$`)
	execute(t, pool, `CREATE TRIGGER dawdle BEFORE UPDATE ON outbox.messages FOR EACH ROW
		EXECUTE FUNCTION public.dawdle()`)
	done := make(chan []error, 1)
	go func() {
		_, errs := outboxdb.New(pool).FinishBatch(context.Background(),
			outbox.Ending{Ref: ref(ids[0]), State: outflow.Delivered})
		done <- errs
	}()
	waitFor(t, pool, waitsForLock)
	next := enqueue(t, pool, keyed("sqs://a", "k", 1)...)
	require.Equal(t, "follower", order(t, pool, next[0]))
	require.NoError(t, gate.Commit(t.Context()))
	for _, err := range <-done {
		require.NoError(t, err)
	}
	require.Equal(t, "head", order(t, pool, next[0]))
	require.Zero(t, value[int](t, pool, `SELECT count(*) FROM outbox.deferred_releases`))
}

// A finish of 100 waits for nobody: beside a key that an idle producer holds, 99 are written at once,
// and the hundredth too, whose release is deferred.
func TestFinishBesideAnIdleProducer(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	store := outboxdb.New(pool)
	var msgs []outflow.Message
	for i := range 100 {
		msgs = append(msgs, keyed("sqs://a", fmt.Sprintf("k%d", i), 2)...)
	}
	ids := enqueue(t, pool, msgs...)
	idle := enqueue(t, pool, keyed("sqs://a", "idle", 1)...)
	producer, err := pool.Begin(t.Context())
	require.NoError(t, err)
	defer func() { _ = producer.Rollback(context.Background()) }()
	late, err := outboxdb.Enqueue(t.Context(), producer, keyed("sqs://a", "idle", 1)...)
	require.NoError(t, err)

	heads := idsOf(claim(t, store, request()))
	require.Len(t, heads, 101)
	began := time.Now()
	end(t, store, outflow.Delivered, heads...)
	t.Logf("the end of 101 messages of 101 keys took %s", time.Since(began).Round(100*time.Microsecond))
	require.Equal(t, 101, value[int](t, pool, `SELECT count(*) FROM outbox.messages WHERE state = 'delivered'`))
	require.Equal(t, 100, value[int](t, pool, `SELECT count(*) FROM outbox.messages WHERE head`))
	left, err := store.ReleaseDeferred(t.Context())
	require.NoError(t, err)
	require.True(t, left)
	require.NoError(t, producer.Commit(t.Context()))
	settleDeferred(t, store)
	require.Equal(t, "head", order(t, pool, late[0]))
	require.Equal(t, "none", order(t, pool, idle[0]))
	require.Equal(t, "head", order(t, pool, ids[1]))
	requireOrder(t, pool)
}

// A follower that somebody has locked is not overtaken by the one behind it.
func TestLockedFollower(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	store := outboxdb.New(pool)
	ids := enqueue(t, pool, keyed("sqs://a", "k", 3)...)
	holder, err := pool.Begin(t.Context())
	require.NoError(t, err)
	defer func() { _ = holder.Rollback(context.Background()) }()
	_, err = holder.Exec(t.Context(), `SELECT FROM outbox.messages WHERE id = $1 FOR NO KEY UPDATE`, ids[1])
	require.NoError(t, err)
	end(t, store, outflow.Delivered, ids[0])
	require.Equal(t, "follower", order(t, pool, ids[2]))
	left, err := store.ReleaseDeferred(t.Context())
	require.NoError(t, err)
	require.Equal(t, "follower", order(t, pool, ids[2]))
	require.True(t, left)
	require.NoError(t, holder.Rollback(t.Context()))
	settleDeferred(t, store)
	require.Equal(t, "head", order(t, pool, ids[1]))
}

func TestDeadHeadPasses(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	store := outboxdb.New(pool, outboxdb.PassDead())
	ids := enqueue(t, pool, keyed("sqs://a", "k", 3)...)
	end(t, store, outflow.Dead, ids[0])
	require.Equal(t, "none", order(t, pool, ids[0]))
	require.Equal(t, "head", order(t, pool, ids[1]))
	missed(t, pool, ids[1:2]) // another way to end dead, which blocks
	require.Equal(t, "head", order(t, pool, ids[1]))
	require.Equal(t, "follower", order(t, pool, ids[2]))
}

// A purge of keys takes no key with a head or a follower, nor one that a producer holds.
func TestPurgeKeys(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	store := outboxdb.New(pool)
	done := enqueue(t, pool, keyed("sqs://a", "done", 1)...)
	dead := enqueue(t, pool, keyed("sqs://a", "dead", 2)...)
	end(t, store, outflow.Delivered, done...)
	end(t, store, outflow.Dead, dead[0])
	used := enqueue(t, pool, keyed("sqs://a", "used", 1)...)
	end(t, store, outflow.Delivered, used...)
	keys := func() []string { return values[string](t, pool, `SELECT ordering_key FROM outbox.keys ORDER BY 1`) }
	n, err := store.PurgeKeys(t.Context(), time.Hour, 10)
	require.NoError(t, err)
	require.Zero(t, n, "they were used just now")

	producer, err := pool.Begin(t.Context())
	require.NoError(t, err)
	defer func() { _ = producer.Rollback(context.Background()) }()
	_, err = outboxdb.Enqueue(t.Context(), producer, keyed("sqs://a", "used", 1)...)
	require.NoError(t, err)
	n, err = store.PurgeKeys(t.Context(), 0, 10)
	require.NoError(t, err)
	require.Equal(t, 1, n)
	require.Equal(t, []string{"dead", "used"}, keys())
	require.NoError(t, producer.Rollback(t.Context()))
}

// A producer whose snapshot is older than the purge of its key writes a head, or is told to repeat
// its transaction: nothing of the key waits.
func TestPurgedKeyBesideAnOldSnapshot(t *testing.T) {
	t.Parallel()
	for _, again := range []bool{false, true} {
		t.Run(fmt.Sprintf("used again %t", again), func(t *testing.T) {
			t.Parallel()
			pool := teststack.New(t)
			store := outboxdb.New(pool)
			ids := enqueue(t, pool, keyed("sqs://a", "k", 1)...)
			tx, err := pool.BeginTx(t.Context(), pgx.TxOptions{IsoLevel: pgx.RepeatableRead})
			require.NoError(t, err)
			defer func() { _ = tx.Rollback(context.Background()) }()
			_, err = tx.Exec(t.Context(), `SELECT count(*) FROM outbox.messages`)
			require.NoError(t, err)
			end(t, store, outflow.Delivered, ids...)
			n, err := store.PurgeKeys(t.Context(), 0, 10)
			require.NoError(t, err)
			require.Equal(t, 1, n)
			if again {
				enqueue(t, pool, keyed("sqs://a", "k", 1)...)
			}
			mine, err := outboxdb.Enqueue(t.Context(), tx, keyed("sqs://a", "k", 1)...)
			if again {
				var pg *pgconn.PgError
				require.ErrorAs(t, err, &pg)
				require.Equal(t, "40001", pg.Code)
				return
			}
			require.NoError(t, err)
			require.NoError(t, tx.Commit(t.Context()))
			require.Equal(t, "head", order(t, pool, mine[0]))
		})
	}
}

// A transaction with several calls keeps their order, whatever it rolls back to.
func TestSeveralCallsOfOneTransaction(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	store := outboxdb.New(pool)
	var want []uuid.UUID
	call := func(tx pgx.Tx) []uuid.UUID {
		ids, err := outboxdb.Enqueue(t.Context(), tx, keyed("sqs://a", "k", 1)...)
		require.NoError(t, err)
		return ids
	}
	inTx(t, pool, func(tx pgx.Tx) {
		undone, err := tx.Begin(t.Context()) // a savepoint
		require.NoError(t, err)
		call(undone)
		require.NoError(t, undone.Rollback(t.Context()))
		want = append(want, call(tx)...)
		undone, err = tx.Begin(t.Context())
		require.NoError(t, err)
		call(undone)
		require.NoError(t, undone.Rollback(t.Context()))
		want = append(want, call(tx)...)
	})
	require.Equal(t, "head", order(t, pool, want[0]))
	require.Equal(t, "follower", order(t, pool, want[1]))
	require.Equal(t, want, deliverAll(t, pool, store))
}
