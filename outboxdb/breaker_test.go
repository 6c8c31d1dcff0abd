package outboxdb_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/internal/teststack"
	"github.com/outflowhq/outflow/outbox"
	"github.com/outflowhq/outflow/outboxdb"
)

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
	execute(t, pool, `UPDATE outbox.messages SET available_at = now() - interval '2 hours', due_at = now() - interval '2 hours',
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

// How a destination does can't be noted, say for want of a right: a claim says so.
func TestNotesThatCantBeWrittenAreTold(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	store := outboxdb.New(pool)
	execute(t, pool, `ALTER TABLE outbox.destinations ADD CONSTRAINT nothing_goes CHECK (false) NOT VALID`)
	fail(store, "sqs://down", errors.New("503"))
	require.Eventually(t, func() bool {
		got, err := store.Claim(t.Context(), request())
		require.NoError(t, err)
		return got.Problem != nil && strings.Contains(got.Problem.Error(), "noting how sqs://down does")
	}, 20*time.Second, 10*time.Millisecond)
	require.NoError(t, claim(t, store, request()).Problem, "once")
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
