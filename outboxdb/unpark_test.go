package outboxdb_test

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/internal/teststack"
	"github.com/outflowhq/outflow/operator"
	"github.com/outflowhq/outflow/outbox"
	"github.com/outflowhq/outflow/outboxdb"
)

// A hundred thousand messages that are not due yet, each to a destination of its own,
// cost a look at the table nothing.
func TestDelayedMessagesCostNothing(t *testing.T) {
	t.Parallel()
	pool := another(t, teststack.New(t), utc)
	healthy := enqueue(t, pool, message("sqs://zealous"))
	look := func() int {
		walk := teststack.Explain(t, pool, "force_generic_plan", outboxdb.StatementDueDestinations, "",
			outboxdb.WalkDestinations,
			32, []string{}, []string{}, []string{})
		unpark := teststack.Explain(t, pool, "force_generic_plan", outboxdb.StatementUnpark, "100 years", 1000, 250,
			1000)
		require.EqualValues(t, 1, walk.Rows)
		require.EqualValues(t, 1, unpark.Rows)
		return walk.Buffers() + unpark.Buffers()
	}
	before := look()
	delayed := make([]outflow.Message, 5000)
	for i := range delayed {
		delayed[i] = outflow.Message{Destination: fmt.Sprintf("https://host-%d.example.org/hooks/%d", i, i), Type: "a",
			Payload: []byte("{}"), DueIn: time.Hour}
	}
	enqueue(t, pool, delayed...)
	require.Less(t, look(), before+10)
	require.Equal(t, healthy, idsOf(claim(t, outboxdb.New(pool), request())))

	// Their time comes, for all at once: each is claimed.
	execute(t, pool, `UPDATE outbox.messages SET due_at = now(), available_at = now() WHERE state = 'pending'
	    AND destination LIKE 'https:%'`)
	store := outboxdb.New(pool)
	seen := 0
	for range 500 {
		if seen += len(claim(t, store, request()).Messages); seen == len(delayed) {
			return
		}
	}
	t.Fatalf("%d of %d were claimed", seen, len(delayed))
}

// Every statement that puts a row off parks it, and when its time comes it is claimed.
func TestParkedRowsComeBack(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	store, o := outboxdb.New(pool), operator.New(pool, nil, "")
	parked := func(id uuid.UUID) bool {
		return value[bool](t, pool, `SELECT parked FROM outbox.messages WHERE id = $1`, id)
	}
	for name, putOff := range map[string]func(id uuid.UUID){
		"claim": func(uuid.UUID) { require.Len(t, claim(t, store, request()).Messages, 1) },
		"renew": func(id uuid.UUID) {
			_, err := store.Renew(t.Context(), outbox.Renewal{Ref: ref(id), Lease: time.Hour})
			require.NoError(t, err)
		},
		"put back": func(id uuid.UUID) {
			_, err := store.PutBack(t.Context(), outbox.PutBack{Ref: ref(id), LastError: "503"})
			require.NoError(t, err)
		},
		"reschedule": func(id uuid.UUID) {
			_, err := o.Reschedule(t.Context(), []uuid.UUID{id}, time.Time{}, time.Hour, ada)
			require.NoError(t, err)
		},
		"hold back": func(uuid.UUID) {
			req := request()
			req.Refuse = func(string) error { return errors.New("the host is not allowed") }
			require.Empty(t, claim(t, store, req).Messages)
		},
	} {
		id := enqueue(t, pool, message("sqs://a"))[0]
		putOff(id)
		require.True(t, parked(id), name)
		require.Empty(t, claim(t, store, request()).Messages, name)
		execute(t, pool, `UPDATE outbox.messages SET available_at = now() WHERE id = $1`, id)
		require.Equal(t, []uuid.UUID{id}, idsOf(claim(t, store, request())), name)
		execute(t, pool, `DELETE FROM outbox.messages`)
	}
}

// park writes n rows to destinations that the expression makes of n, which become available
// at what the other makes of it, from now on.
func park(t *testing.T, q pgx.Tx, n int, destination, availableIn string) {
	t.Helper()
	_, err := q.Exec(t.Context(), `INSERT INTO outbox.messages (id, destination, type, payload, due_at, available_at,
	    parked)
		SELECT gen_random_uuid(), `+destination+`, 'a', '{}', now() + `+availableIn+`, now() + `+availableIn+`, true
		  FROM generate_series(1, $1::int) AS n ORDER BY random()`, n)
	require.NoError(t, err)
}

// Whatever becomes due before a healthy destination's message or with it, the first look
// makes that one claimable.
func TestWhatHasJustBecomeDuePassesABulk(t *testing.T) {
	t.Parallel()
	const healthy = "https://example.org/healthy"
	for name, c := range map[string]struct{ destination, bulk, ok string }{
		"of one queue, before it":    {`'sqs://down'`, `interval '-10 s'`, `interval '-9 s'`},
		"of one queue, with it":      {`'sqs://down'`, `interval '-10 s'`, `interval '-10 s'`},
		"of one queue, at all times": {`'sqs://down'`, `n * interval '-100 ms'`, `interval '-10 s'`},
		"of queues, before it":       {`'sqs://down-' || n`, `interval '-10 s'`, `interval '-9 s'`},
		"of a host's paths, with it": {`'https://example/' || n`, `interval '-10 s'`, `interval '-10 s'`},
		"of a hundred hosts' paths, too": {`'https://' || n % 100 || '.example.org/' || n`, `interval '-10 s'`,
			`interval '-9 s'`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pool := teststack.New(t)
			inTx(t, pool, func(tx pgx.Tx) {
				park(t, tx, 6000, c.destination, c.bulk)
				park(t, tx, 1, `'`+healthy+`'`, c.ok)
			})
			store := outboxdb.New(pool)
			first := claim(t, store, request())
			require.Equal(t, 1, byDestination(first)[healthy])
			seen := len(first.Messages)
			for range 200 {
				if seen += len(claim(t, store, request()).Messages); seen == 6001 {
					return
				}
			}
			t.Fatalf("%d of 6001 were claimed", seen)
		})
	}
}

// A row that somebody has locked is passed over, and read no more often for it.
func TestALockedParkedRowHoldsUpNothing(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	watched, statements := traced(t, pool)
	store := outboxdb.New(watched)
	var ids []uuid.UUID
	inTx(t, pool, func(tx pgx.Tx) {
		park(t, tx, 2, `'sqs://a'`, `n * interval '-1 s'`)
		ids = values[uuid.UUID](t, tx, `SELECT id FROM outbox.messages ORDER BY available_at`)
	})
	unlock := lock(t, pool, ids[0])
	statements.take()
	require.Equal(t, ids[1:], idsOf(claim(t, store, request())))
	require.Len(t, statements.take(), 3, "one look, one walk, one claim")
	unlock()
	require.Equal(t, ids[:1], idsOf(claim(t, store, request())))
}

// A held snapshot makes a look at all parked rows too slow. What becomes due from then on
// is claimed all the same.
func TestWhatBecomesDuePassesASlowLook(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	slow := &slow{these: func(data pgx.TraceQueryStartData) bool {
		return data.SQL == outboxdb.StatementUnpark && slices.Contains(data.Args, any(time.Duration(math.MaxInt64)))
	}}
	slow.on.Store(true)
	store := slow.store(t, pool)
	_, err := store.Claim(t.Context(), request())
	require.NoError(t, err)
	inTx(t, pool, func(tx pgx.Tx) { park(t, tx, 1, `'sqs://a'`, `interval '0'`) })
	require.Eventually(t, func() bool {
		got, err := store.Claim(t.Context(), request())
		require.NoError(t, err)
		return len(got.Messages) == 1
	}, time.Minute, time.Millisecond)
}

// Whatever the planner knows, a look reads the rows that it unparks and a probe for each
// visit, of a bulk as of many destinations.
func TestUnparkPlan(t *testing.T) {
	t.Parallel()
	pool := another(t, teststack.New(t), utc)
	beginLoad(t, pool)
	inTx(t, pool, func(tx pgx.Tx) {
		park(t, tx, 20_000, `'sqs://down'`, `interval '-10 s'`)
		park(t, tx, 5_000, `'https://' || n % 10 || '.example.org/' || n`, `interval '-20 s'`)
		park(t, tx, 20_000, `'sqs://later-' || n`, `interval '1 hour'`)
	})
	for _, analyze := range []bool{false, true} {
		if analyze {
			execute(t, pool, `ANALYZE outbox.messages`)
		}
		for _, mode := range []string{"force_custom_plan", "force_generic_plan"} {
			p := teststack.Explain(t, pool, mode, outboxdb.StatementUnpark, "1 hour", 100, 20, 100)
			p.Each(func(n teststack.Plan) {
				require.NotEqual(t, "Seq Scan", n.Node)
				require.Contains(t, []string{"", "messages_parked", "messages_pkey", "destinations_pkey"}, n.Index)
			})
			t.Logf("%d buffers to unpark %.0f destinations' rows", p.Buffers(), p.Rows)
			require.EqualValues(t, 100, p.Rows)
			require.LessOrEqual(t, p.Buffers(), 5000)
		}
	}
}

// While a snapshot is held, the rows that were parked and are gone stay in the index. A look
// at what has just become due passes over those of a few seconds, not over all.
func TestAHeldSnapshotCostsALookLittle(t *testing.T) {
	t.Parallel()
	pool := another(t, teststack.New(t), utc)
	beginLoad(t, pool)
	inTx(t, pool, func(tx pgx.Tx) { park(t, tx, 50_000, `'sqs://a'`, `n * interval '-100 ms'`) })
	holder, err := pool.BeginTx(t.Context(), pgx.TxOptions{IsoLevel: pgx.RepeatableRead})
	require.NoError(t, err)
	defer func() { require.NoError(t, holder.Rollback(t.Context())) }()
	require.Equal(t, 50_000, count(t, holder))
	execute(t, pool, `UPDATE outbox.messages SET state = 'delivered', finished_at = now(), parked = false`)
	inTx(t, pool, func(tx pgx.Tx) { park(t, tx, 1, `'sqs://a'`, `interval '0'`) })
	cost := func(within string) int {
		p := teststack.Explain(t, pool, "force_generic_plan", outboxdb.StatementUnpark, within, 1000, 250, 1000)
		require.EqualValues(t, 1, p.Rows)
		return p.Buffers()
	}
	all, latest := cost("2 hours"), cost("1 minute")
	t.Logf("%d buffers to look at everything, %d at the last minute", all, latest)
	require.Greater(t, all, 10_000, "the snapshot holds nothing back: this test shows nothing")
	require.Less(t, latest, 2000)
}
