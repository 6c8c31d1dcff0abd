package outboxdb_test

import (
	"context"
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/client"

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
