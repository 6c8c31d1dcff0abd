package outboxdb_test

import (
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

// A dismissed message stays, with who let it go and why; doctor's and status's counts
// of dead messages leave it out.
func TestDismiss(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	o := outboxdb.NewOperator(pool)
	dead := finished(t, pool, message("sqs://orders"), outflow.Dead)
	ids := []uuid.UUID{
		finished(t, pool, message("sqs://orders"), outflow.Delivered), finished(t, pool, message("sqs://orders"), outflow.Cancelled),
		finished(t, pool, message("sqs://orders"), outflow.Expired), enqueue(t, pool, message("sqs://orders"))[0], uuid.New(), dead,
	}
	changes, err := o.Dismiss(t.Context(), ids, ada)
	require.NoError(t, err)
	for i, c := range changes {
		assert.Equal(t, ids[i], c.ID)
		assert.Equal(t, c.ID == dead, c.Done, "%s", c.State)
	}
	assert.Equal(t, outflow.Dead, changes[5].NewState)
	s, err := o.Show(t.Context(), dead)
	require.NoError(t, err)
	assert.Equal(t, outflow.Dead, s.State)
	assert.Equal(t, "dismissed", s.Phase)
	assert.NotNil(t, s.DismissedAt)
	assert.Equal(t, "no such queue", *s.LastError)
	assert.Equal(t, []string{"dismiss 1 ada@host: the queue is back {}"}, audited(t, pool, dead))
	assert.Equal(t, 1, value[int](t, pool, `SELECT count(*) FROM outbox.audit`), "nothing is noted of the others")

	counts, err := o.Dead(t.Context())
	require.NoError(t, err)
	assert.Empty(t, counts)
	counts, _, err = o.Status(t.Context(), 10)
	require.NoError(t, err)
	phases := map[string]int{}
	for _, c := range counts {
		phases[c.Phase] += c.Messages
	}
	assert.Equal(t, map[string]int{"due": 1, "delivered": 1, "cancelled": 1, "expired": 1, "dismissed": 1}, phases)

	again, err := o.Dismiss(t.Context(), []uuid.UUID{dead}, ada)
	require.NoError(t, err)
	assert.False(t, again[0].Done)
	assert.Len(t, audited(t, pool, dead), 1)
}

func TestUndoDismiss(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	o := outboxdb.NewOperator(pool)
	dismissed, dead := finished(t, pool, message("sqs://orders"), outflow.Dead), finished(t, pool, message("sqs://orders"), outflow.Dead)
	_, err := o.Dismiss(t.Context(), []uuid.UUID{dismissed}, ada)
	require.NoError(t, err)
	changes, err := o.UndoDismiss(t.Context(), []uuid.UUID{dismissed, dead}, ada)
	require.NoError(t, err)
	assert.True(t, changes[0].Done)
	assert.False(t, changes[1].Done)
	counts, err := o.Dead(t.Context())
	require.NoError(t, err)
	require.Len(t, counts, 1)
	assert.Equal(t, 2, counts[0].Messages)
	assert.Equal(t, []string{"dismiss 1 ada@host: the queue is back {}", "undo-dismiss 1 ada@host: the queue is back {}"}, audited(t, pool, dismissed))
}

// Whatever takes a message out of dead takes the mark with it: the next end is news.
func TestDismissedMessagesComeBack(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	o, store := outboxdb.NewOperator(pool), outboxdb.New(pool)
	for name, back := range map[string]func(id uuid.UUID) error{
		"retry": func(id uuid.UUID) error { _, err := o.Retry(t.Context(), []uuid.UUID{id}, ada); return err },
		"redirect": func(id uuid.UUID) error {
			_, err := o.RetryTo(t.Context(), []uuid.UUID{id}, "sqs://other", ada)
			return err
		},
		"a late acknowledgement": func(id uuid.UUID) error {
			_, err := store.Finish(t.Context(), outbox.Ending{Ref: ref(id), State: outflow.Delivered, BrokerMessageID: "late"})
			return err
		},
	} {
		id := finished(t, pool, message("sqs://orders"), outflow.Dead)
		changes, err := o.Dismiss(t.Context(), []uuid.UUID{id}, ada)
		require.NoError(t, err)
		require.True(t, changes[0].Done)
		require.NoError(t, back(id), name)
		s, err := o.Show(t.Context(), id)
		require.NoError(t, err)
		assert.Nil(t, s.DismissedAt, name)
		assert.NotEqual(t, outflow.Dead, s.State, name)
	}
	assert.Equal(t, 2, value[int](t, pool, `SELECT count(*) FROM outbox.audit WHERE detail ->> 'was' = 'dismissed'`))
}

// No statement of anybody marks a message that is not dead.
func TestTheTableRefusesOtherDismissals(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	for _, id := range []uuid.UUID{enqueue(t, pool, message("sqs://orders"))[0], finished(t, pool, message("sqs://orders"), outflow.Cancelled)} {
		_, err := pool.Exec(t.Context(), `UPDATE outbox.messages SET dismissed_at = now() WHERE id = $1`, id)
		require.ErrorContains(t, err, "messages_dismissed_at")
	}
}

func TestPurgeDismissed(t *testing.T) {
	t.Parallel()
	for _, history := range []bool{false, true} {
		pool := teststack.New(t)
		o, store := outboxdb.NewOperator(pool), outboxdb.New(pool)
		old := ended(t, pool, outflow.Dead, "90 days", 4)
		_, err := o.Dismiss(t.Context(), old[:3], ada)
		require.NoError(t, err)
		p := outbox.Purge{State: outflow.Dead, Dismissed: true, OlderThan: hour, Limit: 10, History: history}
		require.Zero(t, purge(t, store, p).Rows, "dismissed just now, however long ago it ended")
		execute(t, pool, `UPDATE outbox.messages SET dismissed_at = now() - interval '2 hours' WHERE id = ANY ($1)`, old[:2])
		purged := purge(t, store, p)
		require.Equal(t, 2, purged.Rows)
		require.WithinDuration(t, time.Now().Add(-2*hour), purged.UpTo, time.Minute)
		require.Equal(t, old[2:], left(t, pool))
		if history {
			require.Equal(t, 2, value[int](t, pool, `SELECT count(*) FROM outbox.history WHERE dismissed_at IS NOT NULL`))
		}

		execute(t, pool, `UPDATE outbox.messages SET dismissed_at = now() - interval '2 hours' WHERE id = $1`, old[2])
		purged, err = o.Purge(t.Context(), p, ada)
		require.NoError(t, err)
		require.Equal(t, 1, purged.Rows)
		require.Equal(t, []string{`{"state": "dead", "messages": 1, "dismissed": true, "older_than": "01:00:00"}`},
			values[string](t, pool, `SELECT detail::text FROM outbox.audit WHERE act = 'purge'`))
		_, err = o.Purge(t.Context(), outbox.Purge{State: outflow.Cancelled, Dismissed: true, Limit: 1}, ada)
		require.ErrorContains(t, err, "wants dead")
	}
}

// The purge of dismissed messages reads them along their own index, among many dead.
func TestPurgeDismissedPlan(t *testing.T) {
	pool := another(t, teststack.New(t), utc)
	beginLoad(t, pool)
	old := ended(t, pool, outflow.Dead, "90 days", 20_000)
	execute(t, pool, `UPDATE outbox.messages SET dismissed_at = now() - interval '2 days' WHERE id = ANY ($1)`, old[19_000:])
	for _, analyze := range []bool{false, true} {
		if analyze {
			execute(t, pool, `ANALYZE outbox.messages`)
		}
		for _, statement := range []string{outboxdb.StatementPurgeDismissed, outboxdb.StatementMoveDismissed} {
			for _, mode := range []string{"force_custom_plan", "force_generic_plan"} {
				p := explain(t, pool, mode, statement, outflow.Dead, "1 day", "2000-01-01Z", 10)
				p.each(func(n plan) {
					require.NotEqual(t, "Seq Scan", n.Node)
					require.Contains(t, []string{"", "messages_dismissed", "messages_pkey"}, n.Index)
				})
				require.LessOrEqual(t, p.buffers(), 300)
			}
		}
	}
}

// A breaker with nothing behind it is nobody's trouble.
func TestTroubleWithNothingBehind(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	o := outboxdb.NewOperator(pool)
	for _, d := range []string{"sqs://idle", "sqs://busy"} {
		execute(t, pool, `INSERT INTO outbox.destinations (destination, failures, failing_since, openings, open_until, last_error)
			VALUES ($1, 7, now() - interval '1 minute', 1, now() + interval '1 minute', 'throttled')`, d)
		finished(t, pool, message(d), outflow.Dead)
	}
	id := enqueue(t, pool, message("sqs://busy"))[0]
	_, troubled, err := o.Status(t.Context(), 10)
	require.NoError(t, err)
	require.Len(t, troubled, 1)
	assert.Equal(t, "sqs://busy", troubled[0].Destination)
	_, err = o.RequestCancel(t.Context(), []uuid.UUID{id}, ada)
	require.NoError(t, err)
	_, troubled, err = o.Status(t.Context(), 10)
	require.NoError(t, err)
	assert.Empty(t, troubled)

	// A target's breaker has all its destinations behind it, and no neighbour's.
	for _, target := range []string{"https://shop.example", "https://shop.example:8443", "https://shop.example.org"} {
		execute(t, pool, `INSERT INTO outbox.destinations (destination, failures, failing_since) VALUES ($1, 1, now())`, target)
	}
	enqueue(t, pool, outflow.Message{Destination: "https://shop.example/hooks/7", Type: "a", Payload: []byte("{}"), DueIn: time.Hour})
	_, troubled, err = o.Status(t.Context(), 10)
	require.NoError(t, err)
	require.Len(t, troubled, 1)
	assert.Equal(t, "https://shop.example", troubled[0].Destination)
}

func TestListDismissed(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	o := outboxdb.NewOperator(pool)
	dead, dismissed := finished(t, pool, message("sqs://orders"), outflow.Dead), finished(t, pool, message("sqs://orders"), outflow.Dead)
	_, err := o.Dismiss(t.Context(), []uuid.UUID{dismissed}, ada)
	require.NoError(t, err)
	for _, c := range []struct {
		filter outboxdb.ListFilter
		want   []uuid.UUID
	}{
		{outboxdb.ListFilter{State: outflow.Dead}, []uuid.UUID{dismissed, dead}},
		{outboxdb.ListFilter{State: outflow.Dead, Dismissed: true}, []uuid.UUID{dismissed}},
		{outboxdb.ListFilter{State: outflow.Dead, Undismissed: true}, []uuid.UUID{dead}},
	} {
		c.filter.Limit = 10
		page, _, err := o.List(t.Context(), c.filter)
		require.NoError(t, err)
		var got []uuid.UUID
		for _, m := range page {
			got = append(got, m.ID)
		}
		assert.Equal(t, c.want, got)
	}
}
