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
	"github.com/outflowhq/outflow/workflows"
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
	_, err := store.LeavePage(t.Context(), page.PageRef, []outbox.Unfinished{{Ref: ref(ids[1])}})
	require.NoError(t, err)
	for name, act := range acts {
		a := act(ids[1])
		assert.Equal(t, Done, a.Verdict, "%s: %s", name, a.Text)
	}
}

// playedRun is a Temporal that knows one workflow.
type playedRun struct {
	noTemporal
	run Run
}

func (p *playedRun) Describe(_ context.Context, workflowID string) (Run, error) {
	if workflowID != p.run.WorkflowID {
		return Run{}, ErrNoRun
	}
	return p.run, nil
}

func (p *playedRun) Cancel(context.Context, string) error { return nil }

// Of a message that a stream has in hand or ended, the run is the stream's.
func TestShowAStreamsMessage(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	store := outboxdb.New(pool)
	stream := workflows.StreamID("outbox", "sqs://orders")
	runs := &playedRun{run: Run{WorkflowID: stream, RunID: "run-1", StartedAt: time.Now().Add(-time.Hour)}}
	o := New(pool, runs, "")
	ids := enqueue(t, pool, messages("sqs://orders", 3)...)
	show := func(id uuid.UUID) Details {
		d, err := o.Show(t.Context(), id, false)
		require.NoError(t, err)
		return d
	}
	d := show(ids[0])
	assert.Empty(t, d.Stream)
	assert.Equal(t, workflows.DeliverID("outbox", ids[0]), d.WorkflowID)
	assert.Equal(t, "none: not started yet, or past Temporal's retention", d.NoRun)

	page := claimPage(t, pool, "sqs://orders")
	d = show(ids[0])
	assert.Equal(t, StreamHolds, d.Stream)
	assert.Equal(t, stream, d.WorkflowID)
	require.NotNil(t, d.Run)
	assert.Equal(t, "run-1", d.Run.RunID)

	store.FinishAll(t.Context(), []outbox.Ending{{Ref: ref(ids[0]), State: outflow.Delivered, Attempts: 1, Streamed: true}})
	d = show(ids[0])
	assert.Equal(t, StreamEnded, d.Stream)
	require.NotNil(t, d.Run)
	runs.run.StartedAt = time.Now().Add(time.Hour)
	assert.Equal(t, "none of its own: an earlier run of the stream had it", show(ids[0]).NoRun)
	runs.run.WorkflowID = "another"
	assert.Equal(t, "none of its own: a stream had it, whose run is past Temporal's retention", show(ids[0]).NoRun)

	// What the stream did not end has runs of its own.
	_, err := store.LeavePage(t.Context(), page.PageRef, []outbox.Unfinished{{Ref: ref(ids[1])}})
	require.NoError(t, err)
	_, err = store.HandOver(t.Context(), page.PageRef, []outbox.Unfinished{{Ref: ref(ids[2]), LastError: "throttled", Attempts: 5}})
	require.NoError(t, err)
	for _, id := range ids[1:] {
		d = show(id)
		assert.Empty(t, d.Stream)
		assert.Equal(t, workflows.DeliverID("outbox", id), d.WorkflowID)
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

// The doctor looks for no run of a streamed message, and sees pages that nobody finishes.
func TestDoctorSeesPages(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	o := newActs(pool)
	enqueue(t, pool, messages("sqs://orders", 3)...)
	claimPage(t, pool, "sqs://orders")
	own := enqueue(t, pool, message("sqs://other"))[0]
	claim(t, pool, request())
	claimed, err := o.claimed(t.Context(), 10)
	require.NoError(t, err)
	assert.Equal(t, []outbox.Ref{ref(own)}, claimed)

	pages, err := o.oldPages(t.Context())
	require.NoError(t, err)
	assert.Zero(t, pages)
	execute(t, pool, `UPDATE outbox.pages SET claimed_at = now() - interval '16 minutes'`)
	pages, err = o.oldPages(t.Context())
	require.NoError(t, err)
	assert.Equal(t, oldPages{Pages: 1, Messages: 3, Destination: "sqs://orders"}, pages)
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
