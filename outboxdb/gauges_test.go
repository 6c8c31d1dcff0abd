package outboxdb_test

import (
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/internal/teststack"
	"github.com/outflowhq/outflow/operator"
	"github.com/outflowhq/outflow/outbox"
	"github.com/outflowhq/outflow/outboxdb"
)

// TestGaugesAtScale counts 100,000 pending messages beside a million delivered ones, along
// the indexes, whatever Postgres believes about the table.
func TestGaugesAtScale(t *testing.T) {
	pool := another(t, teststack.New(t), utc)
	beginLoad(t, pool)
	load(t, pool, 1, 1_000_000, "delivered")
	execute(t, pool, `ANALYZE outbox.messages`)
	execute(t, pool, `
		INSERT INTO outbox.messages (id, destination, type, payload, due_at, available_at, parked, retrying, claims)
		SELECT gen_random_uuid(), CASE WHEN n % 2 = 0 THEN 'sqs://queue-' || n % 80
		       ELSE 'https://host-' || n % 40 || '.example/' || n % 2000 END, 'a', '{}',
		       now() - n * interval '1 ms',
		       now() + CASE WHEN n % 5 = 0 THEN interval '1 minute' ELSE interval '-1 second' END,
		       n % 5 = 0, n % 10 = 0, CASE WHEN n % 5 = 0 THEN 1 ELSE 0 END
		  FROM generate_series(1, 100000) AS n`)
	execute(t, pool, `INSERT INTO outbox.destinations (destination, failing_since, openings, open_until, failures)
		VALUES ('https://host-1.example', now() - interval '1 hour', 1, now(), 1)`)
	store := outboxdb.New(pool)
	look := func(t *testing.T) {
		for _, mode := range []string{"force_custom_plan", "force_generic_plan"} {
			p := teststack.Explain(t, pool, mode, outboxdb.StatementGauges, 50, "other")
			t.Logf("%s: %d buffers", mode, p.Buffers())
			p.Each(func(n teststack.Plan) {
				if n.Table == "messages" {
					require.NotEqual(t, "Seq Scan", n.Node)
				}
				require.LessOrEqual(t, n.Removed*n.Loops, 3000.0, "%s on %s reads what it does not use", n.Node,
					n.Table)
			})
		}
		began := time.Now()
		g, err := store.Gauges(t.Context(), 50, "other")
		require.NoError(t, err)
		t.Logf("%d targets in %s", len(g.Targets), time.Since(began))
		require.Len(t, g.Targets, 51)
		require.EqualValues(t, 100_000, sum(g))
		require.False(t, g.Truncated)
	}
	t.Run("statistics without the pending ones", look)
	execute(t, pool, `ANALYZE outbox.messages`)
	t.Run("fresh statistics", look)
}

func sum(g outbox.Gauges) (n int64) {
	for _, t := range g.Targets {
		n += t.Due + t.Leased + t.Waiting + t.Retrying + t.Delayed
	}
	return n
}

// TestGauges counts each message once, in its phase. outflow status counts the same.
func TestGauges(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	store := outboxdb.New(pool)
	g, err := store.Gauges(t.Context(), 50, "other")
	require.NoError(t, err)
	require.Equal(t, outbox.Gauges{}, g, "an empty table")

	execute(t, pool, `
		INSERT INTO outbox.messages (id, destination, type, payload, due_at, available_at, parked, retrying, claims,
		                             last_error, callback, state, finished_at, callback_state, callback_due_at)
		SELECT gen_random_uuid(), destination, 'a', '{}', now() + due::interval,
		       now() + available::interval, available > '0' ,
		       retrying, claims, last_error,
		       CASE WHEN state = 'dead' THEN 'sqs://replies' END, state, CASE WHEN state = 'dead' THEN now() END,
		       CASE WHEN state = 'dead' THEN 'due' END, CASE WHEN state = 'dead' THEN now() - interval '40 s' END
		  FROM (VALUES
		    ('sqs://orders', '-90 s', '-90 s', false, 0, NULL, 'pending'),
		    ('sqs://orders', '-80 s', '60 s', false, 1, NULL, 'pending'),
		    ('sqs://orders', '-70 s', '60 s', true, 0, 'no', 'pending'),
		    ('sqs://orders', '-70 s', '60 s', false, 0, 'no', 'pending'),
		    ('sqs://orders', '60 s', '60 s', false, 0, NULL, 'pending'),
		    ('sqs://orders', '-60 s', '-60 s', false, 0, 'no', 'dead'),
		    ('https://a.example/in?token=secret', '-30 s', '-30 s', false, 0, NULL, 'pending'),
		    ('https://a.example/other', '-20 s', '-20 s', false, 0, NULL, 'pending'),
		    ('https://b.example/other', '-10 s', '-10 s', false, 0, NULL, 'pending')
		  ) AS v (destination, due, available, retrying, claims, last_error, state)`)
	execute(t, pool, `
		INSERT INTO outbox.destinations (destination, failing_since, openings, open_until, failures) VALUES
		('https://a.example', now() - interval '1 hour', 1, now(), 1),
		('https://b.example/other?token=secret', now() - interval '10 s', 1, now(), 1),
		('https://b.example/other?token=other', now() - interval '20 s', 1, now(), 1),
		('https://b.example#new', now() - interval '5 s', 1, now(), 1), ('sqs://quiet', NULL, 0, NULL, 1)`)
	g, err = store.Gauges(t.Context(), 50, "other")
	require.NoError(t, err)
	found := map[string]outbox.TargetGauges{}
	for _, c := range g.Targets {
		age := c.OldestDue
		c.OldestDue = age.Truncate(10 * time.Second)
		found[c.Target] = c
	}
	assert.Equal(t, map[string]outbox.TargetGauges{
		"sqs://orders": {Target: "sqs://orders", Due: 1, Leased: 1, Retrying: 1, Waiting: 1, Delayed: 1, Dead: 1,
			OldestDue: 90 * time.Second},
		"https://a.example": {Target: "https://a.example", Waiting: 2, OldestDue: 30 * time.Second},
		"https://b.example": {Target: "https://b.example", Waiting: 1, OldestDue: 10 * time.Second},
	}, found)
	counts, _, err := operator.New(pool, nil, "").Status(t.Context(), 50)
	require.NoError(t, err)
	for i := range counts {
		counts[i].OldestSeconds = 0
	}
	assert.ElementsMatch(t, []operator.PhaseCount{
		{Destination: "sqs://orders", Phase: "due", Messages: 1},
		{Destination: "sqs://orders", Phase: "leased", Messages: 1},
		{Destination: "sqs://orders", Phase: "retrying", Messages: 1, LastError: "no"},
		{Destination: "sqs://orders", Phase: "waiting", Messages: 1, LastError: "no"},
		{Destination: "sqs://orders", Phase: "delayed", Messages: 1},
		{Destination: "sqs://orders", Phase: "dead", Messages: 1, LastError: "no"},
		{Destination: "https://a.example/in?token=secret", Phase: "waiting", Messages: 1},
		{Destination: "https://a.example/other", Phase: "waiting", Messages: 1},
		{Destination: "https://b.example/other", Phase: "waiting", Messages: 1},
	}, counts)
	assert.EqualValues(t, 1, g.CallbacksDue)
	assert.InDelta(t, 40, g.OldestCallbackDue.Seconds(), 5)
	for i := range g.Breakers {
		g.Breakers[i].FailingFor = g.Breakers[i].FailingFor.Truncate(5 * time.Second)
	}
	assert.Equal(t, []outbox.BreakerGauges{
		{Name: "https://a.example", Covers: "target", Open: 1, FailingFor: time.Hour},
		{Name: "https://b.example/other", Covers: "destination", Open: 2, FailingFor: 20 * time.Second},
		{Name: "https://b.example", Covers: "new", Open: 1, FailingFor: 5 * time.Second},
	}, g.Breakers)
	assert.False(t, g.Truncated)
	assert.Zero(t, g.BlockedKeys)
	ids := enqueue(t, pool, keyed("sqs://ordered", "k", 3)...)
	alone := enqueue(t, pool, keyed("sqs://ordered", "alone", 1)...)
	end(t, store, outflow.Dead, ids[0], alone[0])
	execute(t, pool, `UPDATE outbox.messages SET due_at = now() - interval '40 s' WHERE id = $1`, ids[1])
	blocked, err := store.Gauges(t.Context(), 50, "other")
	require.NoError(t, err)
	assert.EqualValues(t, 1, blocked.BlockedKeys, "nothing waits for the other one")
	assert.InDelta(t, 40, blocked.OldestBlocked.Seconds(), 5)
	execute(t, pool, `DELETE FROM outbox.messages WHERE destination = 'sqs://ordered'`)

	g, err = store.Gauges(t.Context(), 1, "other")
	require.NoError(t, err)
	require.Len(t, g.Targets, 2)
	require.Len(t, g.Breakers, 2+1, "those of other by what they cover")
	require.EqualValues(t, 8, sum(g))
}

func TestGaugesOfStreams(t *testing.T) {
	pool := teststack.New(t)
	store := outboxdb.New(pool)
	g, err := store.Gauges(t.Context(), 50, "other")
	require.NoError(t, err)
	assert.Equal(t, outbox.Gauges{}, g)

	enqueue(t, pool, message("sqs://orders"), message("sqs://orders"), message("sqs://bills"))
	for _, n := range []outbox.StreamState{
		{Destination: "sqs://orders"}, {Destination: "sqs://bills"},
		{Destination: "sqs://slips", Ended: outbox.StreamPaused},
		{Destination: "sqs://notes", Ended: outbox.StreamDrained},
	} {
		require.NoError(t, store.NoteStream(t.Context(), n, true))
	}
	for _, destination := range []string{"sqs://orders", "sqs://bills"} {
		claimPage(t, store,
			outbox.PageRequest{Destination: destination, Holder: uuid.New(), MaxMessages: 1, MaxBytes: 1 << 20})
	}
	execute(t, pool, `UPDATE outbox.pages SET claimed_at = now() - interval '40 s' WHERE destination = 'sqs://bills'`)
	g, err = store.Gauges(t.Context(), 50, "other")
	require.NoError(t, err)
	assert.EqualValues(t, 2, g.StreamsRunning)
	assert.EqualValues(t, 1, g.StreamsPaused)
	assert.InDelta(t, 40, g.OldestPage.Seconds(), 5)
}
