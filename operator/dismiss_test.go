package operator

import (
	"context"
	"errors"
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

// A dismissed message stays, with who dismissed it and why; doctor's and status's counts
// of dead messages leave it out.
func TestDismiss(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	o := newActs(pool)
	dead := finished(t, pool, message("sqs://orders"), outflow.Dead)
	ids := []uuid.UUID{
		finished(t, pool, message("sqs://orders"), outflow.Delivered), finished(t, pool, message("sqs://orders"),
			outflow.Cancelled),
		finished(t, pool, message("sqs://orders"), outflow.Expired), enqueue(t, pool,
			message("sqs://orders"))[0], uuid.New(), dead,
	}
	changes, err := o.Dismiss(t.Context(), ids, ada)
	require.NoError(t, err)
	for i, c := range changes {
		assert.Equal(t, ids[i], c.ID)
		assert.Equal(t, c.ID == dead, c.Done, "%s", c.State)
	}
	assert.Equal(t, outflow.Dead, changes[5].NewState)
	s, err := o.Message(t.Context(), dead)
	require.NoError(t, err)
	assert.Equal(t, outflow.Dead, s.State)
	assert.Equal(t, "dismissed", s.Phase)
	assert.NotNil(t, s.DismissedAt)
	assert.Equal(t, "no such queue", *s.LastError)
	assert.Equal(t, []string{"dismiss 1 ada@host: the queue is back {}"}, audited(t, pool, dead))
	assert.Equal(t, 1, value[int](t, pool, `SELECT count(*) FROM outbox.audit`), "nothing is noted of the others")

	counts, err := o.dead(t.Context())
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
	o := newActs(pool)
	dismissed, dead := finished(t, pool, message("sqs://orders"), outflow.Dead), finished(t, pool,
		message("sqs://orders"), outflow.Dead)
	_, err := o.Dismiss(t.Context(), []uuid.UUID{dismissed}, ada)
	require.NoError(t, err)
	changes, err := o.UndoDismiss(t.Context(), []uuid.UUID{dismissed, dead}, ada)
	require.NoError(t, err)
	assert.True(t, changes[0].Done)
	assert.False(t, changes[1].Done)
	counts, err := o.dead(t.Context())
	require.NoError(t, err)
	require.Len(t, counts, 1)
	assert.Equal(t, 2, counts[0].Messages)
	assert.Equal(t, []string{"dismiss 1 ada@host: the queue is back {}",
		"undo-dismiss 1 ada@host: the queue is back {}"}, audited(t, pool, dismissed))
}

// Whatever takes a message out of dead takes the mark with it: the next end is news.
func TestDismissedMessagesComeBack(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	o, store := newActs(pool), outboxdb.New(pool)
	for name, back := range map[string]func(id uuid.UUID) error{
		"retry": func(id uuid.UUID) error { _, err := o.Retry(t.Context(), []uuid.UUID{id}, ada); return err },
		"redirect": func(id uuid.UUID) error {
			_, err := o.RetryTo(t.Context(), []uuid.UUID{id}, "sqs://other", ada)
			return err
		},
		"a late acknowledgement": func(id uuid.UUID) error {
			_, err := store.Finish(t.Context(),
				outbox.Ending{Ref: ref(id), State: outflow.Delivered, BrokerMessageID: "late"})
			return err
		},
	} {
		id := finished(t, pool, message("sqs://orders"), outflow.Dead)
		changes, err := o.Dismiss(t.Context(), []uuid.UUID{id}, ada)
		require.NoError(t, err)
		require.True(t, changes[0].Done)
		require.NoError(t, back(id), name)
		s, err := o.Message(t.Context(), id)
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
	for _, id := range []uuid.UUID{enqueue(t, pool, message("sqs://orders"))[0],
		finished(t, pool, message("sqs://orders"), outflow.Cancelled)} {
		_, err := pool.Exec(t.Context(), `UPDATE outbox.messages SET dismissed_at = now() WHERE id = $1`, id)
		require.ErrorContains(t, err, "messages_dismissed_at")
	}
}

// Status leaves out a breaker that no pending message waits for.
func TestBreakersWithNothingBehind(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	o := newActs(pool)
	for _, d := range []string{"sqs://idle", "sqs://busy"} {
		execute(t, pool, `INSERT INTO outbox.destinations (destination, failures, failing_since, openings, open_until, last_error)
			VALUES ($1, 7, now() - interval '1 minute', 1, now() + interval '1 minute', 'throttled')`, d)
		finished(t, pool, message(d), outflow.Dead)
	}
	id := enqueue(t, pool, message("sqs://busy"))[0]
	_, breakers, err := o.Status(t.Context(), 10)
	require.NoError(t, err)
	require.Len(t, breakers, 1)
	assert.Equal(t, "sqs://busy", breakers[0].Destination)
	_, err = o.store.RequestCancel(t.Context(), []uuid.UUID{id}, ada.Who, ada.Why)
	require.NoError(t, err)
	_, breakers, err = o.Status(t.Context(), 10)
	require.NoError(t, err)
	assert.Empty(t, breakers)

	// A target's breaker has all its destinations behind it, and no neighbour's.
	for _, target := range []string{"https://shop.example", "https://shop.example:8443", "https://shop.example.org"} {
		execute(t, pool, `INSERT INTO outbox.destinations (destination, failures, failing_since) VALUES ($1, 1, now())`,
			target)
	}
	enqueue(t, pool, outflow.Message{Destination: "https://shop.example/hooks/7", Type: "a", Payload: []byte("{}"),
		DueIn: time.Hour})
	_, breakers, err = o.Status(t.Context(), 10)
	require.NoError(t, err)
	require.Len(t, breakers, 1)
	assert.Equal(t, "https://shop.example", breakers[0].Destination)
}

func TestListDismissed(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	o := newActs(pool)
	dead, dismissed := finished(t, pool, message("sqs://orders"), outflow.Dead), finished(t, pool,
		message("sqs://orders"), outflow.Dead)
	_, err := o.Dismiss(t.Context(), []uuid.UUID{dismissed}, ada)
	require.NoError(t, err)
	for _, c := range []struct {
		filter ListFilter
		want   []uuid.UUID
	}{
		{ListFilter{State: outflow.Dead}, []uuid.UUID{dismissed, dead}},
		{ListFilter{State: outflow.Dead, Dismissed: true}, []uuid.UUID{dismissed}},
		{ListFilter{State: outflow.Dead, Undismissed: true}, []uuid.UUID{dead}},
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

// A message that ends dead while the dismissal waits for its row is dismissed.
func TestDismissOfAMessageThatJustEnded(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	o := newActs(pool)
	id := enqueue(t, pool, message("sqs://orders"))[0]
	ends, err := pool.Begin(t.Context())
	require.NoError(t, err)
	defer func() { _ = ends.Rollback(context.Background()) }()
	_, err = ends.Exec(t.Context(), `UPDATE outbox.messages SET state = 'dead', finished_at = now() WHERE id = $1`, id)
	require.NoError(t, err)
	dismissed := make(chan error, 1)
	go func() {
		changes, err := o.Dismiss(context.Background(), []uuid.UUID{id}, ada)
		if err == nil && !changes[0].Done {
			err = errors.New("it was not dismissed")
		}
		dismissed <- err
	}()
	require.Eventually(t, func() bool {
		return teststack.Value[bool](t, pool, `SELECT EXISTS (SELECT FROM pg_stat_activity
			WHERE datname = current_database() AND wait_event_type = 'Lock')`)
	}, 10*time.Second, 5*time.Millisecond)
	require.NoError(t, ends.Commit(t.Context()))
	require.NoError(t, <-dismissed)
}
