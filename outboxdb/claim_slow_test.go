package outboxdb_test

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/internal/teststack"
	"github.com/outflowhq/outflow/outboxdb"
)

// slow makes statements run out of time, while it is on.
type slow struct {
	on    atomic.Bool
	these func(pgx.TraceQueryStartData) bool
}

func slowWalk() *slow {
	return &slow{these: func(data pgx.TraceQueryStartData) bool { return data.SQL == outboxdb.StatementDueDestinations }}
}

func (s *slow) store(t *testing.T, pool *pgxpool.Pool) *outboxdb.Store {
	t.Helper()
	return outboxdb.New(another(t, pool, func(c *pgxpool.Config) { c.ConnConfig.Tracer = s }))
}

func (s *slow) TraceQueryStart(ctx context.Context, _ *pgx.Conn, data pgx.TraceQueryStartData) context.Context {
	if !s.on.Load() || !s.these(data) {
		return ctx
	}
	ctx, cancel := context.WithCancel(ctx)
	cancel()
	return ctx
}

func (*slow) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData) {}

// A snapshot that is held for hours makes the look for new destinations too slow.
// What is known is claimed all the same, and the log can say so.
func TestClaimsGoOnWhereTheWalkIsTooSlow(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	slow := slowWalk()
	store := slow.store(t, pool)
	enqueue(t, pool, message("sqs://a"))
	require.Len(t, claim(t, store, request()).Messages, 1)
	slow.on.Store(true)
	store.WalkNext()
	ids := enqueue(t, pool, message("sqs://a"))
	got, err := store.Claim(t.Context(), request())
	require.NoError(t, err)
	require.Equal(t, ids, idsOf(got))
	require.ErrorContains(t, got.Problem, "finding destinations with due messages")
	require.Positive(t, got.NewDestinationsIn, "what is new waits for the next look")

	// What was delayed needs no walk, be it below the mark or of a destination without one.
	delayed := message("sqs://a")
	delayed.DueIn = time.Hour
	ids = enqueue(t, pool, delayed)
	delayed.Destination = "sqs://b"
	ids = append(ids, enqueue(t, pool, delayed)...)
	execute(t, pool, `UPDATE outbox.messages SET available_at = now() - interval '1 minute' WHERE id = ANY ($1)`, ids)
	store.WalkNext()
	got, err = store.Claim(t.Context(), request())
	require.NoError(t, err)
	require.Equal(t, ids, idsOf(got))

	fresh := slow.store(t, pool)
	_, err = fresh.Claim(t.Context(), request())
	require.ErrorContains(t, err, "finding destinations with due messages", "it knows none yet")

	slow.on.Store(false)
	ids = enqueue(t, pool, message("sqs://new"))
	store.WalkNext()
	require.Equal(t, ids, idsOf(claim(t, store, request())))
}

// Of more destinations than a look finds, those at the front of a page have no
// lasting advantage.
func TestEveryDestinationOfManyHasItsTurn(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	const pages, perPage, backlog = 2, 256, 300
	var all []outflow.Message
	for n := range pages * perPage {
		all = append(all, message(fmt.Sprintf("sqs://queue-%04d", n)))
	}
	for _, head := range []int{0, perPage} {
		all = append(all, messages(fmt.Sprintf("sqs://queue-%04d", head), backlog)...)
	}
	enqueue(t, pool, all...)
	store := outboxdb.New(pool)
	req := request()
	req.MaxMessages = 4
	served := map[string]bool{}
	for range 100 { // a third of what there is
		store.WalkNext()
		got := claim(t, store, req)
		for destination := range byDestination(got) {
			served[destination] = true
		}
	}
	require.Greater(t, len(served), 100, "and not the two heads alone")
}

func TestWalkPacing(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	store := outboxdb.New(pool)
	enqueue(t, pool, message("sqs://a"))
	claim(t, store, request())
	require.WithinRange(t, store.NextWalk(), time.Now().Add(-time.Second), time.Now().Add(outboxdb.WalkAtLeast))

	// A walk that takes long makes the next one wait, but never too long.
	tx, err := pool.Begin(t.Context())
	require.NoError(t, err)
	_, err = tx.Exec(t.Context(), `LOCK outbox.messages IN ACCESS EXCLUSIVE MODE`)
	require.NoError(t, err)
	store.WalkNext()
	store.HoldUnparking()
	began := time.Now()
	done := make(chan error, 1)
	go func() {
		_, err := store.Claim(t.Context(), request())
		done <- err
	}()
	waitFor(t, pool, waitsForLock)
	require.Eventually(t, func() bool { return time.Since(began) > 400*time.Millisecond }, time.Second,
		time.Millisecond)
	require.NoError(t, tx.Rollback(t.Context()))
	require.NoError(t, <-done)
	next := time.Until(store.NextWalk())
	require.Greater(t, next, outboxdb.WalkAtLeast-2*time.Second)
	require.LessOrEqual(t, next, outboxdb.WalkAtLeast)

	// A claim before that says how soon a new destination will be seen.
	enqueue(t, pool, message("sqs://new"))
	claimed, err := store.Claim(t.Context(), request())
	require.NoError(t, err)
	require.Empty(t, claimed.Messages)
	require.InDelta(t, next, claimed.NewDestinationsIn, float64(time.Second))
	store.WalkNext()
	claimed = claim(t, store, request())
	require.Len(t, claimed.Messages, 1)
	require.Zero(t, claimed.NewDestinationsIn)
}
