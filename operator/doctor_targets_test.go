package operator

import (
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/internal/teststack"
	"github.com/outflowhq/outflow/outbox"
	"github.com/outflowhq/outflow/outboxdb"
)

func TestReceivesNotifications(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	arrives, err := newActs(pool).receivesNotifications(t.Context())
	require.NoError(t, err)
	assert.True(t, arrives)

	relay, through := teststack.NewRelay(t, pool)
	relay.DropNotifications.Store(true)
	pooled := another(t, pool, func(c *pgxpool.Config) { c.ConnConfig = through })
	arrives, err = newActs(pooled).receivesNotifications(t.Context())
	require.NoError(t, err)
	assert.False(t, arrives)
}

func TestDeadByDestination(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	o := newActs(pool)
	counts, err := o.dead(t.Context())
	require.NoError(t, err)
	assert.Empty(t, counts)

	for _, destination := range []string{"sqs://orders", "sqs://orders", "sqs://letters"} {
		finished(t, pool, message(destination), outflow.Dead)
	}
	finished(t, pool, message("sqs://orders"), outflow.Delivered)
	counts, err = o.dead(t.Context())
	require.NoError(t, err)
	of := map[string]int{}
	for _, c := range counts {
		of[c.Destination] = int(c.Messages)
		assert.Equal(t, "no such queue", c.LastError)
	}
	assert.Equal(t, map[string]int{"sqs://orders": 2, "sqs://letters": 1}, of)
}

// A target fails where any breaker of its destinations counts failures, or a message has an error.
// A breaker that no pending message waits for is left out.
func TestFailingTargets(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	o, store := newActs(pool), outboxdb.New(pool)
	found, err := o.failingTargets(t.Context(), 10)
	require.NoError(t, err)
	assert.Empty(t, found)

	putBack := enqueue(t, pool, message("sqs://odd"))[0]
	claim(t, pool, request())
	_, err = store.PutBack(t.Context(), outbox.PutBack{Ref: ref(putBack), LastError: "too large today"})
	require.NoError(t, err)
	enqueue(t, pool, slices.Concat(messages("sqs://down", 4), messages("https://shop.example/a", 2),
		messages("https://shop.example/b", 1),
		messages("https://new.example/in", 2), messages("sqs://fine", 9), messages("https://fine.example/well", 9))...)
	for _, breaker := range []struct {
		name   string
		opened int
	}{{"sqs://down", 1}, {"sqs://idle", 1}, {"https://shop.example/a", 0}, {"https://shop.example/idle",
		0}, {"https://new.example#new", 1}} {
		execute(t, pool, `INSERT INTO outbox.destinations (destination, failures, failing_since, openings, open_until, last_error)
			VALUES ($1, 5, '2026-01-31Z', $2, CASE WHEN $2 > 0 THEN now() END, 'no answer of ' || $1)`, breaker.name, breaker.opened)
	}
	since := time.Date(2026, 1, 31, 0, 0, 0, 0, time.UTC)
	all := []failingTarget{
		{Target: "sqs://down", Messages: 4, FailingSince: &since, Open: true, LastError: "no answer of sqs://down",
			All: 4},
		{Target: "https://new.example", Messages: 2, FailingSince: &since, Open: true,
			LastError: "no answer of https://new.example#new", All: 4},
		{Target: "https://shop.example", Messages: 2, FailingSince: &since,
			LastError: "no answer of https://shop.example/a", All: 4},
		{Target: "sqs://odd", Messages: 1, LastError: "too large today", All: 4},
	}
	for _, limit := range []int{10, 2} {
		found, err = o.failingTargets(t.Context(), limit)
		require.NoError(t, err)
		for i, f := range found {
			if f.FailingSince != nil {
				found[i].FailingSince = &since
				assert.True(t, f.FailingSince.Equal(since))
			}
		}
		assert.Equal(t, all[:min(limit, 4)], found)
	}
}

func TestFailingCallbacks(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	o, store := newActs(pool), outboxdb.New(pool)
	m := message("sqs://orders")
	m.Callback = "https://shop.example/done"
	ids := []uuid.UUID{finished(t, pool, m, outflow.Delivered), finished(t, pool, m, outflow.Delivered),
		finished(t, pool, m, outflow.Delivered)}
	for i, state := range []outbox.CallbackState{outbox.CallbackDue, outbox.CallbackFailed} {
		_, due, err := store.BeginCallback(t.Context(), ref(ids[i]), time.Minute)
		require.NoError(t, err)
		require.True(t, due)
		noted, err := store.NoteCallback(t.Context(), outbox.CallbackNote{Ref: ref(ids[i]), End: outflow.Delivered,
			State: state, LastError: "no answer", Lease: time.Minute})
		require.NoError(t, err)
		require.True(t, noted)
	}
	n, lastError, err := o.failingCallbacks(t.Context())
	require.NoError(t, err)
	assert.Equal(t, 1, n)
	assert.Equal(t, "no answer", lastError)
}

// Of thousands of destinations that fail each finds its breakers by their names: none is
// compared with all the others.
func TestFailingTargetsPlan(t *testing.T) {
	pool := another(t, teststack.New(t), utc)
	beginLoad(t, pool)
	execute(t, pool, `INSERT INTO outbox.messages (id, destination, type, payload, available_at)
		SELECT lpad(to_hex(n), 32, '0')::uuid, 'https://' || n % 500 || '.shop.example/' || n % 3000, 'a', '{}', now() - interval '1 minute'
		  FROM generate_series(1, 10000) AS n`)
	execute(t, pool, `INSERT INTO outbox.destinations (destination, failures, failing_since)
		SELECT DISTINCT destination, 1, now() FROM outbox.messages`)
	for _, analyze := range []bool{false, true} {
		if analyze {
			execute(t, pool, `ANALYZE outbox.messages, outbox.destinations`)
		}
		for _, mode := range []string{"force_custom_plan", "force_generic_plan"} {
			p := teststack.Explain(t, pool, mode, failingTargetsSQL, 10)
			require.EqualValues(t, 10, p.Rows)
			p.Each(func(n teststack.Plan) {
				require.LessOrEqual(t, n.Joined*n.Loops, 50_000.0, "%s compares every destination with every breaker",
					n.Node)
				require.LessOrEqual(t, n.Rows*n.Loops, 50_000.0, "%s on %s", n.Node, n.Table)
			})
			t.Logf("%d buffers", p.Buffers())
			require.LessOrEqual(t, p.Buffers(), 40_000)
		}
	}
}
