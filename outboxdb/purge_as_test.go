package outboxdb_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/internal/teststack"
	"github.com/outflowhq/outflow/outbox"
	"github.com/outflowhq/outflow/outboxdb"
)

func TestPurgeAs(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	store := outboxdb.New(pool)
	var old []uuid.UUID
	for range 5 {
		old = append(old, finished(t, pool, message("sqs://orders"), outflow.Delivered))
	}
	execute(t, pool, `UPDATE outbox.messages SET finished_at = now() - interval '2 days'`)
	execute(t, pool, `UPDATE outbox.messages SET callback = 'https://shop.example/done', callback_state = 'due', callback_due_at = now() WHERE id = $1`, old[0])
	young := finished(t, pool, message("sqs://orders"), outflow.Delivered)
	dead := finished(t, pool, message("sqs://orders"), outflow.Dead)
	execute(t, pool, `UPDATE outbox.messages SET finished_at = now() - interval '2 days' WHERE id = $1`, dead)
	pending := enqueue(t, pool, message("sqs://orders"))[0]

	p := outbox.Purge{State: outflow.Delivered, OlderThan: 24 * time.Hour, Limit: 3}
	for _, want := range []int{3, 1, 0} {
		purged, err := store.PurgeAs(t.Context(), p, ada.Who, ada.Why)
		require.NoError(t, err)
		assert.Equal(t, want, purged.Rows)
		p.After = purged.UpTo
	}
	assert.ElementsMatch(t, []uuid.UUID{old[0], young, dead, pending},
		values[uuid.UUID](t, pool, `SELECT id FROM outbox.messages`))
	assert.Equal(t, []string{`ada@host: the queue is back: {"state": "delivered", "messages": 3, "older_than": "24:00:00"}`, `ada@host: the queue is back: {"state": "delivered", "messages": 1, "older_than": "24:00:00"}`},
		values[string](t, pool, `SELECT who || ': ' || why || ': ' || detail FROM outbox.audit WHERE act = 'purge' ORDER BY id`), "nothing deleted, nothing noted")
	assert.Zero(t, value[int](t, pool, `SELECT count(*) FROM outbox.history`))

	moved, err := store.PurgeAs(t.Context(),
		outbox.Purge{State: outflow.Dead, OlderThan: 24 * time.Hour, Limit: 3, History: true}, ada.Who, ada.Why)
	require.NoError(t, err)
	assert.Equal(t, 1, moved.Rows)
	assert.Equal(t, []uuid.UUID{dead}, values[uuid.UUID](t, pool, `SELECT id FROM outbox.history`))
	assert.Equal(t, 3, value[int](t, pool, `SELECT count(*) FROM outbox.audit WHERE act = 'purge'`))
	_, err = store.PurgeAs(t.Context(), outbox.Purge{State: outflow.Pending, Limit: 3}, ada.Who, ada.Why)
	require.ErrorContains(t, err, "wants a final state")
	assert.Equal(t, 3, count(t, pool))
}

func TestPurgeDismissed(t *testing.T) {
	t.Parallel()
	for _, history := range []bool{false, true} {
		pool := teststack.New(t)
		store := outboxdb.New(pool)
		old := ended(t, pool, outflow.Dead, "90 days", 4)
		execute(t, pool, `UPDATE outbox.messages SET dismissed_at = now() WHERE id = ANY ($1)`, old[:3])
		p := outbox.Purge{State: outflow.Dead, Dismissed: true, OlderThan: hour, Limit: 10, History: history}
		require.Zero(t, purge(t, store, p).Rows, "dismissed just now, however long ago it ended")
		execute(t, pool, `UPDATE outbox.messages SET dismissed_at = now() - interval '2 hours' WHERE id = ANY ($1)`,
			old[:2])
		purged := purge(t, store, p)
		require.Equal(t, 2, purged.Rows)
		require.WithinDuration(t, time.Now().Add(-2*hour), purged.UpTo, time.Minute)
		require.Equal(t, old[2:], left(t, pool))
		if history {
			require.Equal(t, 2, value[int](t, pool,
				`SELECT count(*) FROM outbox.history WHERE dismissed_at IS NOT NULL`))
		}

		execute(t, pool, `UPDATE outbox.messages SET dismissed_at = now() - interval '2 hours' WHERE id = $1`, old[2])
		purged, err := store.PurgeAs(t.Context(), p, ada.Who, ada.Why)
		require.NoError(t, err)
		require.Equal(t, 1, purged.Rows)
		require.Equal(t, []string{`{"state": "dead", "messages": 1, "dismissed": true, "older_than": "01:00:00"}`},
			values[string](t, pool, `SELECT detail::text FROM outbox.audit WHERE act = 'purge'`))
		_, err = store.PurgeAs(t.Context(), outbox.Purge{State: outflow.Cancelled, Dismissed: true, Limit: 1}, ada.Who,
			ada.Why)
		require.ErrorContains(t, err, "wants dead")
	}
}

// The purge of dismissed messages reads them along their own index, among many dead.
func TestPurgeDismissedPlan(t *testing.T) {
	pool := another(t, teststack.New(t), utc)
	beginLoad(t, pool)
	old := ended(t, pool, outflow.Dead, "90 days", 20_000)
	execute(t, pool, `UPDATE outbox.messages SET dismissed_at = now() - interval '2 days' WHERE id = ANY ($1)`,
		old[19_000:])
	for _, analyze := range []bool{false, true} {
		if analyze {
			execute(t, pool, `ANALYZE outbox.messages`)
		}
		for _, statement := range []string{outboxdb.StatementPurgeDismissed, outboxdb.StatementMoveDismissed} {
			for _, mode := range []string{"force_custom_plan", "force_generic_plan"} {
				p := teststack.Explain(t, pool, mode, statement, outflow.Dead, "1 day", "2000-01-01Z", 10)
				p.Each(func(n teststack.Plan) {
					require.NotEqual(t, "Seq Scan", n.Node)
					require.Contains(t, []string{"", "messages_dismissed", "messages_pkey"}, n.Index)
				})
				require.LessOrEqual(t, p.Buffers(), 300)
			}
		}
	}
}

// A purge by hand finds the oldest along its index, whatever the planner knows.
func TestPurgeAsPlans(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	beginLoad(t, pool)
	execute(t, pool, `
		INSERT INTO outbox.messages (id, destination, type, payload, state, finished_at)
		SELECT lpad(to_hex(n), 32, '0')::uuid, 'sqs://q' || n % 5, 'a', '{}', CASE n % 3 WHEN 0 THEN 'delivered' WHEN 1 THEN 'dead' ELSE 'pending' END,
		       CASE WHEN n % 3 < 2 THEN now() - n * interval '1 second' END
		  FROM generate_series(1, 60000) AS n`)
	var ids []string
	for n := range 20 {
		ids = append(ids, fmt.Sprintf("00000000-0000-0000-0000-%012x", 30_000+n))
	}
	for _, statistics := range []string{"none", "fresh"} {
		if statistics == "fresh" {
			execute(t, pool, `ANALYZE outbox.messages`)
		}
		for name, c := range map[string]struct {
			statement string
			args      []any
		}{
			"purge":  {outboxdb.StatementPurgeByHand, []any{"delivered", "1 hour", "0001-01-01Z", 20, "ada", ""}},
			"move":   {outboxdb.StatementMoveByHand, []any{"delivered", "1 hour", "0001-01-01Z", 20, "ada", ""}},
			"cancel": {outboxdb.StatementRequestCancel, []any{ids, "ada", ""}},
			"end":    {outboxdb.StatementEndCancelled, []any{ids[:1], "ada", "", 1}},
		} {
			for _, mode := range []string{"force_custom_plan", "force_generic_plan"} {
				t.Run(statistics+"/"+mode+"/"+name, func(t *testing.T) {
					p := teststack.Explain(t, pool, mode, c.statement, c.args...)
					p.Each(func(n teststack.Plan) {
						assert.False(t, n.Table == "messages" && n.Node == "Seq Scan")
						assert.LessOrEqual(t, n.Removed*n.Loops, 50.0, "%s on %s reads what it does not use", n.Node,
							n.Index)
					})
					assert.LessOrEqual(t, p.Buffers(), 600)
				})
			}
		}
	}
}
