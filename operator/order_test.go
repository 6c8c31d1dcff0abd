package operator

import (
	"context"
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

// keyed enqueues n messages of one ordering key.
func keyed(t *testing.T, pool *pgxpool.Pool, destination string, n int) []uuid.UUID {
	t.Helper()
	var msgs []outflow.Message
	for range n {
		m := message(destination)
		m.OrderingKey = "k"
		msgs = append(msgs, m)
	}
	return enqueue(t, pool, msgs...)
}

// orders are how messages stand in the order of their keys.
func orders(t *testing.T, pool *pgxpool.Pool, ids ...uuid.UUID) []string {
	t.Helper()
	return teststack.Values[string](t, pool, `
		SELECT CASE WHEN m.head THEN 'head' WHEN m.follower THEN 'follower' ELSE m.state END
		  FROM unnest($1::uuid[]) WITH ORDINALITY AS i (id, place) JOIN outbox.messages AS m ON m.id = i.id
		 ORDER BY i.place`, ids)
}

func endAs(t *testing.T, pool *pgxpool.Pool, state outflow.State, id uuid.UUID, generation int) {
	t.Helper()
	_, err := outboxdb.New(pool).Finish(t.Context(),
		outbox.Ending{Ref: outbox.Ref{ID: id, Generation: generation}, State: state})
	require.NoError(t, err)
}

func TestRetryInOrder(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	o := newActs(pool)
	ids := keyed(t, pool, "sqs://a", 3)
	endAs(t, pool, outflow.Dead, ids[0], 1)
	_, err := o.Retry(t.Context(), ids[:1], ada)
	require.NoError(t, err)
	assert.Equal(t, []string{"head", "follower", "follower"}, orders(t, pool, ids...), "it still has its place")
	endAs(t, pool, outflow.Expired, ids[0], 2)
	assert.Equal(t, []string{"expired", "head", "follower"}, orders(t, pool, ids...))
	_, err = o.Retry(t.Context(), ids[:1], ada)
	require.NoError(t, err)
	assert.Equal(t, []string{"follower", "head", "follower"}, orders(t, pool, ids...), "its turn has passed")
	answers, err := o.Operator.Retry(t.Context(), ids[:1], ada)
	require.NoError(t, err)
	assert.Equal(t, "pending: it waits for the message before it of its ordering key", answers[0].Text)
	endAs(t, pool, outflow.Delivered, ids[1], 1)
	assert.Equal(t, []string{"head", "delivered", "follower"}, orders(t, pool, ids...), "it comes before later ones")

	alone := keyed(t, pool, "sqs://b", 1)
	endAs(t, pool, outflow.Expired, alone[0], 1)
	_, err = o.Retry(t.Context(), alone, ada)
	require.NoError(t, err)
	assert.Equal(t, []string{"head"}, orders(t, pool, alone...))
	assert.LessOrEqual(t, stands(t, pool, alone[0]).LeasedFor, 1.0)
}

func TestRedirectInOrder(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	o := newActs(pool)
	old, other := keyed(t, pool, "sqs://old", 3), keyed(t, pool, "sqs://new", 1)
	_, err := o.Redirect(t.Context(), old[:1], "sqs://new", ada)
	require.NoError(t, err)
	assert.Equal(t, []string{"follower", "head", "follower"}, orders(t, pool, old...))
	assert.Equal(t, []string{"head"}, orders(t, pool, other...))
	endAs(t, pool, outflow.Delivered, other[0], 1)
	assert.Equal(t, []string{"head", "head", "follower"}, orders(t, pool, old...), "one of each destination")

	endAs(t, pool, outflow.Dead, old[1], 1)
	_, err = o.RetryTo(t.Context(), old[1:2], "sqs://new", ada)
	require.NoError(t, err)
	assert.Equal(t, []string{"head", "follower", "head"}, orders(t, pool, old...), "its old key is free")
	_, err = o.Redirect(t.Context(), old, "sqs://third", ada)
	require.NoError(t, err)
	_, err = outboxdb.New(pool).ReleaseDeferred(t.Context()) // no producer has used that key
	require.NoError(t, err)
	assert.Equal(t, []string{"head", "follower", "follower"}, orders(t, pool, old...))
}

func TestRescheduleInOrder(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	o := newActs(pool)
	ids := keyed(t, pool, "sqs://a", 2)
	_, err := o.Reschedule(t.Context(), ids[1:], time.Time{}, time.Hour, ada)
	require.NoError(t, err)
	assert.Equal(t, []string{"head", "follower"}, orders(t, pool, ids...))
	_, err = o.Reschedule(t.Context(), ids[:1], time.Time{}, time.Minute, ada)
	require.NoError(t, err)
	assert.Equal(t, []string{"head", "follower"}, orders(t, pool, ids...), "the others wait for it")
	endAs(t, pool, outflow.Delivered, ids[0], 2)
	assert.Equal(t, []string{"delivered", "head"}, orders(t, pool, ids...))
	assert.InDelta(t, 3600, stands(t, pool, ids[1]).LeasedFor, 60, "it is not due yet")
}

func TestResendInOrder(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	o := newActs(pool)
	ids := keyed(t, pool, "sqs://a", 2)
	endAs(t, pool, outflow.Delivered, ids[0], 1)
	_, first, err := o.Resend(t.Context(), ids[0], ada)
	require.NoError(t, err)
	assert.Equal(t, []string{"delivered", "head", "follower"}, orders(t, pool, append(ids, first)...))
	endAs(t, pool, outflow.Delivered, ids[1], 1)
	endAs(t, pool, outflow.Delivered, first, 1)
	_, second, err := o.Resend(t.Context(), ids[0], ada)
	require.NoError(t, err)
	assert.Equal(t, []string{"head"}, orders(t, pool, second))
}

// A follower has no run, whatever its generation: a cancel ends it at once.
func TestCancelInOrder(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	o := newActs(pool)
	ids := keyed(t, pool, "sqs://a", 3)
	_, err := o.Reschedule(t.Context(), ids[1:2], time.Time{}, 0, ada)
	require.NoError(t, err)
	answers, err := o.Cancel(t.Context(), ids[:2], 0, ada)
	require.NoError(t, err)
	assert.Equal(t, Done, answers[0].Verdict)
	assert.Equal(t, Done, answers[1].Verdict)
	assert.Equal(t, []string{"cancelled", "cancelled", "head"}, orders(t, pool, ids...))
}

// An act waits for no producer: a scanner makes the release that the act defers.
func TestActBesideAProducer(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	o, store := newActs(pool), outboxdb.New(pool)
	ids := keyed(t, pool, "sqs://a", 1)
	endAs(t, pool, outflow.Expired, ids[0], 1)
	producer, err := pool.Begin(t.Context())
	require.NoError(t, err)
	defer func() { _ = producer.Rollback(context.Background()) }()
	m := message("sqs://a")
	m.OrderingKey = "k"
	_, err = outboxdb.Enqueue(t.Context(), producer, m)
	require.NoError(t, err)
	_, err = o.Retry(t.Context(), ids, ada)
	require.NoError(t, err)
	assert.Equal(t, []string{"follower"}, orders(t, pool, ids...))
	require.NoError(t, producer.Rollback(t.Context()))
	left, err := store.ReleaseDeferred(t.Context())
	require.NoError(t, err)
	assert.False(t, left)
	assert.Equal(t, []string{"head"}, orders(t, pool, ids...))
}

// A redirect or retry into a key that has no row releases nothing itself: the row's insert might wait
// for a producer. The next claim sees that, and a scanner's look makes the release.
func TestActIntoAKeyWithoutRow(t *testing.T) {
	t.Parallel()
	for name, act := range map[string]func(o acts, id uuid.UUID) error{
		"retry": func(o acts, id uuid.UUID) error {
			_, err := o.Retry(t.Context(), []uuid.UUID{id}, ada)
			return err
		},
		"redirect": func(o acts, id uuid.UUID) error {
			_, err := o.RetryTo(t.Context(), []uuid.UUID{id}, "sqs://b", ada)
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pool := teststack.New(t)
			store := outboxdb.New(pool)
			ids := keyed(t, pool, "sqs://a", 1)
			endAs(t, pool, outflow.Expired, ids[0], 1)
			purged, err := store.PurgeKeys(t.Context(), 0, 10)
			require.NoError(t, err)
			require.Equal(t, 1, purged)
			require.False(t, claim(t, pool, request()).Deferred)
			require.NoError(t, act(newActs(pool), ids[0]))
			assert.Equal(t, []string{"follower"}, orders(t, pool, ids...))
			assert.True(t, claim(t, pool, request()).Deferred)
			left, err := store.ReleaseDeferred(t.Context())
			require.NoError(t, err)
			assert.False(t, left)
			assert.Equal(t, []string{"head"}, orders(t, pool, ids...))
			assert.False(t, claim(t, pool, request()).Deferred)
		})
	}
}

func TestSkip(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	o := newActs(pool)
	ids := keyed(t, pool, "sqs://a", 3)
	endAs(t, pool, outflow.Dead, ids[0], 1)
	dismissed, err := o.Operator.Dismiss(t.Context(), ids[:1], ada)
	require.NoError(t, err)
	assert.Contains(t, dismissed[0].Text, "it still blocks its ordering key")
	answers, err := o.Skip(t.Context(), append(ids[:2:2], uuid.New()), ada)
	require.NoError(t, err)
	assert.Equal(t, []Verdict{Done, Refused, Refused},
		[]Verdict{answers[0].Verdict, answers[1].Verdict, answers[2].Verdict})
	assert.Equal(t, "dead, skipped: the next message of its ordering key goes on", answers[0].Text)
	assert.Equal(t, []string{"dead", "head", "follower"}, orders(t, pool, ids...))
	assert.Contains(t, audited(t, pool, ids[0])[1], "skip 1 ada@host")
	answers, err = o.Skip(t.Context(), ids[:1], ada)
	require.NoError(t, err)
	assert.Equal(t, Done, answers[0].Verdict)
	assert.Equal(t, "dead: it blocks no ordering key", answers[0].Text)
	_, err = o.Retry(t.Context(), ids[:1], ada)
	require.NoError(t, err)
	assert.Equal(t, []string{"follower", "head", "follower"}, orders(t, pool, ids...), "it comes before the last one")
}

// What people see of a message that waits for another.
func TestShowOrder(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	o := newActs(pool)
	ids := keyed(t, pool, "sqs://a", 2)
	blocked, err := o.Blocked(t.Context())
	require.NoError(t, err)
	assert.Empty(t, blocked)
	endAs(t, pool, outflow.Dead, ids[0], 1)
	execute(t, pool, `UPDATE outbox.messages SET last_error = 'of its last life', due_at = now() - interval '1 minute'
		WHERE id = $1`, ids[1])
	details, err := o.Show(t.Context(), ids[1], false)
	require.NoError(t, err)
	assert.Equal(t, "waiting", details.Message.Phase)
	require.NotNil(t, details.Head)
	assert.Equal(t, ids[0], details.Head.ID)
	assert.Equal(t, "dead", details.Head.Phase)
	details, err = o.Show(t.Context(), ids[0], false)
	require.NoError(t, err)
	assert.Nil(t, details.Head)

	blocked, err = o.Blocked(t.Context())
	require.NoError(t, err)
	require.Len(t, blocked, 1)
	assert.Equal(t, 1, blocked[0].Keys)
	assert.InDelta(t, 60, blocked[0].OldestSeconds, 30)
	failing, err := o.failingTargets(t.Context(), 10)
	require.NoError(t, err)
	assert.Empty(t, failing, "its destination does not fail")
	counts, _, err := o.Status(t.Context(), 10)
	require.NoError(t, err)
	for _, c := range counts {
		if c.Phase == "waiting" {
			assert.Empty(t, c.LastError)
		}
	}
	stranded, err := o.strandedKeys(t.Context())
	require.NoError(t, err)
	assert.Zero(t, stranded)
	execute(t, pool, `UPDATE outbox.messages SET head = false WHERE id = $1`, ids[0]) // as nothing of Outflow does
	stranded, err = o.strandedKeys(t.Context())
	require.NoError(t, err)
	assert.Equal(t, 1, stranded)
	execute(t, pool, `INSERT INTO outbox.deferred_releases (destination, ordering_key)
		SELECT DISTINCT destination, ordering_key FROM outbox.messages WHERE follower`)
	_, err = outboxdb.New(pool).ReleaseDeferred(t.Context())
	require.NoError(t, err)
	assert.Equal(t, []string{"dead", "head"}, orders(t, pool, ids...))
}
