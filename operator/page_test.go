package operator

import (
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

// claimPage claims what is due for a destination as a stream does.
func claimPage(t *testing.T, pool *pgxpool.Pool, destination string) outbox.Page {
	t.Helper()
	page, err := outboxdb.New(pool).ClaimPage(t.Context(), outbox.PageRequest{
		Destination: destination, Holder: uuid.New(), MaxMessages: 1000, MaxBytes: 1 << 20})
	require.NoError(t, err)
	require.NotEmpty(t, page.Messages)
	return page
}

// What a stream has in hand goes out as it is: an act that starts it again would have it go out twice.
func TestActsOnAMessageInAPage(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	runs := &noTemporal{}
	o, store := New(pool, runs, ""), outboxdb.New(pool)
	ids := enqueue(t, pool, messages("sqs://orders", 2)...)
	page := claimPage(t, pool, "sqs://orders")
	for _, id := range ids {
		s, err := o.Message(t.Context(), id)
		require.NoError(t, err)
		assert.True(t, s.InPage && s.Streamed)
		assert.Equal(t, "leased", s.Phase)
	}
	one := func(answers []Answer, err error) Answer {
		require.NoError(t, err)
		require.Len(t, answers, 1)
		return answers[0]
	}
	const busy = "pending: a stream is delivering it right now: try again in a minute"
	acts := map[string]func(id uuid.UUID) Answer{
		"reschedule": func(id uuid.UUID) Answer {
			return one(o.Reschedule(t.Context(), []uuid.UUID{id}, time.Time{}, time.Hour, ada))
		},
		"redirect": func(id uuid.UUID) Answer {
			return one(o.Redirect(t.Context(), []uuid.UUID{id}, "sqs://other", ada))
		},
	}
	for name, act := range acts {
		a := act(ids[0])
		assert.Equal(t, Refused, a.Verdict, name)
		assert.Equal(t, busy, a.Text, name)
		s, err := o.Message(t.Context(), ids[0])
		require.NoError(t, err)
		assert.True(t, s.InPage, name)
		assert.Equal(t, 1, s.Generation, name)
		assert.Equal(t, "sqs://orders", s.Destination, name)
	}
	a := one(o.Retry(t.Context(), []uuid.UUID{ids[0]}, ada))
	assert.Equal(t, Refused, a.Verdict)
	assert.Equal(t, "pending: a stream is delivering it", a.Text)
	assert.Empty(t, audited(t, pool, ids[0]))

	// It has no run to ask. The stream's acknowledgement decides.
	a = one(o.Cancel(t.Context(), []uuid.UUID{ids[0]}, 0, ada))
	assert.Equal(t, Undecided, a.Verdict)
	assert.Equal(t, "requested: a stream has it in a page; if it is not sent with it, the next look at its row ends it", a.Text)
	a = one(o.Reschedule(t.Context(), []uuid.UUID{ids[0]}, time.Time{}, time.Hour, ada))
	assert.Equal(t, "pending: its cancel was requested", a.Text)
	time.AfterFunc(200*time.Millisecond, func() {
		store.FinishAll(t.Context(), []outbox.Ending{{Ref: ref(ids[0]), State: outflow.Delivered, Attempts: 1, Streamed: true}})
	})
	a = one(o.Cancel(t.Context(), []uuid.UUID{ids[0]}, 20*time.Second, ada))
	assert.Equal(t, Refused, a.Verdict)
	assert.Equal(t, "too late: delivered", a.Text)
	assert.Zero(t, runs.asked)

	// Given back, it is as never claimed.
	require.NoError(t, store.LeavePage(t.Context(), page.PageRef, []outbox.Ref{ref(ids[1])}))
	for name, act := range acts {
		a := act(ids[1])
		assert.Equal(t, Done, a.Verdict, "%s: %s", name, a.Text)
	}
}

// A cancelled message whose page was lost ends by the next look of a stream at its row.
func TestCancelInALostPage(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	o, store := New(pool, &noTemporal{}, ""), outboxdb.New(pool)
	id := enqueue(t, pool, message("sqs://orders"))[0]
	claimPage(t, pool, "sqs://orders")
	answers, err := o.Cancel(t.Context(), []uuid.UUID{id}, 0, ada)
	require.NoError(t, err)
	assert.Equal(t, Undecided, answers[0].Verdict)
	for range 2 { // noted as overdue, then freed
		execute(t, pool, `UPDATE outbox.pages SET claimed_at = now() - interval '1 hour', overdue_at = overdue_at - interval '1 hour'`)
		_, err = store.FreeLostPages(t.Context())
		require.NoError(t, err)
	}
	s, err := o.Message(t.Context(), id)
	require.NoError(t, err)
	assert.False(t, s.InPage)
	page := claimPage(t, pool, "sqs://orders")
	assert.True(t, page.Messages[0].CancelRequested, "the stream ends it instead of sending it")
}

// A claim of a page and an act on one of its rows come one after the other, never both.
func TestActsBesideAClaimOfAPage(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	o := New(pool, &noTemporal{}, "")
	for range 20 {
		id := enqueue(t, pool, message("sqs://orders"))[0]
		claimed := make(chan outbox.Page)
		go func() {
			page, err := outboxdb.New(pool).ClaimPage(t.Context(), outbox.PageRequest{
				Destination: "sqs://orders", Holder: uuid.New(), MaxMessages: 1000, MaxBytes: 1 << 20})
			assert.NoError(t, err)
			claimed <- page
		}()
		answers, err := o.Redirect(t.Context(), []uuid.UUID{id}, "sqs://other", ada)
		require.NoError(t, err)
		page := <-claimed
		assert.Equal(t, answers[0].Verdict == Refused, len(page.Messages) == 1, answers[0].Text)
	}
}
