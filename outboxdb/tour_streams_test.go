package outboxdb_test

import (
	"context"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/client"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/operator"
	"github.com/outflowhq/outflow/outbox"
	"github.com/outflowhq/outflow/outboxdb"
	"github.com/outflowhq/outflow/workflows"
)

// takenRuns is a Temporal with a worker that takes streams.
type takenRuns struct {
	willingRuns
	note func()
}

func (r takenRuns) StartStream(context.Context, client.StartWorkflowOptions, workflows.StreamInput) (string, error) {
	r.note()
	return "run-1", nil
}

// tourStream has a stream claim a page, and its messages leave it in each of the ways.
func tourStream(t *testing.T, setup, pool *pgxpool.Pool) {
	t.Helper()
	const destination = backlogged
	ctx, store := t.Context(), outboxdb.New(pool)
	all := make([]outflow.Message, 5)
	for i := range all {
		all[i] = awkward()
		all[i].Destination, all[i].OrderingKey, all[i].DueAt = destination, "", time.Time{}
	}
	enqueue(t, setup, all...)
	wanted, err := store.WantStreams(ctx, []string{destination, "sqs://idle'"}, 2)
	require.NoError(t, err)
	require.Equal(t, []string{destination}, wanted)
	require.NoError(t, store.AnnounceStream(ctx, destination))
	progress := outbox.Progress{Delivered: 3, PerSecond: 7}
	require.NoError(t, store.NoteStream(ctx, outbox.StreamState{Destination: destination, Progress: progress}, true))

	next := func(most int) outbox.Page {
		page, err := store.ClaimPage(ctx, outbox.PageRequest{
			Destination: destination, Holder: uuid.New(), MaxMessages: most, MaxBytes: 1 << 20,
		})
		require.NoError(t, err)
		return page
	}
	page := next(4)
	require.Len(t, page.Messages, 4)
	for _, m := range page.Messages {
		require.Equal(t, awkward().Payload, m.Payload)
		require.Equal(t, awkward().Headers, m.Headers)
		require.InDelta(t, awkward().ExpiresIn.Minutes(), m.ExpiresIn.Minutes(), 5)
	}
	ends := acknowledged(page)[:2]
	ends[1].State, ends[1].LastError = outflow.Dead, `日本 '\`
	for i, f := range store.FinishAll(ctx, ends) {
		require.NoError(t, f.Err)
		require.Equal(t, ends[i].State, f.State)
	}
	failed := outbox.Unfinished{Ref: page.Messages[2].Ref(), LastError: `日本 '\`, Attempts: 5}
	unlock := lockRow(t, setup, page.Messages[3].ID)
	done, err := store.HandOver(ctx, page.PageRef, []outbox.Unfinished{failed, {Ref: page.Messages[3].Ref()}})
	require.NoError(t, err)
	require.Equal(t, outbox.HandedOver{Messages: 1, Enough: true, Locked: []uuid.UUID{page.Messages[3].ID}}, done)
	require.Equal(t, `日本 '\`, *stands(t, setup, failed.ID).LastError)
	locked, err := store.LeavePage(ctx, page.PageRef, unsent(page.Messages[3:]))
	require.NoError(t, err)
	require.Equal(t, []uuid.UUID{page.Messages[3].ID}, locked)
	unlock()
	leavePage(t, store, page, unsent(page.Messages[3:]))
	require.NoError(t, store.EndPage(ctx, page.PageRef))
	require.Len(t, next(5).Messages, 2)
	require.Empty(t, next(5).Messages)
	require.Equal(t, 2, freePages(t, setup, store, uuid.New()))
}

// tourStreamActs has an operator set, start and stop streams, and look at them.
func tourStreamActs(t *testing.T, setup, pool *pgxpool.Pool, by operator.Actor) {
	t.Helper()
	const destination = "rabbitmq://orders/a"
	ctx, store := t.Context(), outboxdb.New(setup)
	_, err := store.DatabaseID(ctx)
	require.NoError(t, err)
	note := func(ended outbox.StreamEnd, first bool) {
		require.NoError(t, store.NoteStream(ctx, outbox.StreamState{Destination: destination, Ended: ended}, first))
	}
	o := operator.New(pool, takenRuns{note: func() { note("", true) }}, "")
	_, err = o.SetStream(ctx, destination, 1000, by)
	require.NoError(t, err)
	was, err := o.SetStream(ctx, destination, 0, by)
	require.NoError(t, err)
	require.Equal(t, 1000, *was)
	started, err := o.StartStream(ctx, destination, "outflow-outbox", by)
	require.NoError(t, err)
	require.Equal(t, operator.StreamRuns, started.State)
	streams, err := o.Streams(ctx)
	require.NoError(t, err)
	require.Len(t, streams, 1)
	note(outbox.StreamPaused, false)
	require.NoError(t, o.StopStream(ctx, destination, by))
	streams, err = o.Streams(ctx)
	require.NoError(t, err)
	require.Equal(t, "cancelled", streams[0].State)
	found, err := o.UnsetStream(ctx, destination, by)
	require.NoError(t, err)
	require.True(t, found)
	_, err = o.Backlogs(ctx, []operator.PhaseCount{{Destination: "sqs://orders", Phase: "due", Messages: 200_000}}, nil, nil)
	require.NoError(t, err)
}
