package operator

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/client"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/outbox"
	"github.com/outflowhq/outflow/outboxdb"
	"github.com/outflowhq/outflow/workflows"
)

// noTemporal is a Temporal that can't be reached.
type noTemporal struct{ asked int }

var errAway = errors.New("connection refused")

func (n *noTemporal) Describe(context.Context, string) (Run, error) { n.asked++; return Run{}, errAway }
func (n *noTemporal) Cancel(context.Context, string) error          { n.asked++; return errAway }
func (n *noTemporal) TryNow(context.Context, string) error          { n.asked++; return errAway }
func (n *noTemporal) StartStream(context.Context, client.StartWorkflowOptions, workflows.StreamInput) (string, error) {
	n.asked++
	return "", errAway
}

// oneRow is a table with one message.
type oneRow struct {
	mu  sync.Mutex
	row MessageStatus
	// cancelled says that the request ended or marked it.
	cancelled bool
}

func (o *oneRow) set(row MessageStatus) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.row = row
}

func (o *oneRow) RequestCancel(context.Context, []uuid.UUID, string, string) ([]outboxdb.Cancel, error) {
	m := o.row
	return []outboxdb.Cancel{{
		ID: m.ID, Found: m.ID != uuid.Nil, Done: o.cancelled, State: m.State, Generation: m.Generation,
		Available: m.Available, AvailableAt: m.AvailableAt,
	}}, nil
}

func (o *oneRow) EndCancelled(context.Context, outbox.Ref, string, string) (bool, error) {
	panic("only a message without a run is ended")
}

func (o *oneRow) Message(context.Context, uuid.UUID) (MessageStatus, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.row.ID == uuid.Nil {
		return MessageStatus{}, outflow.ErrNotFound
	}
	return o.row, nil
}

func statusOf(state outflow.State, phase string) MessageStatus {
	return MessageStatus{ID: uuid.New(), State: state, Phase: phase, Generation: 1, Retrying: phase == "retrying",
		DueAt: time.Date(2026, 1, 31, 8, 0, 0, 0, time.UTC), AvailableAt: time.Date(2026, 1, 31, 8, 1, 0, 0, time.UTC)}
}

// cancelWith cancels on a table that a test plays.
func cancelWith(ctx context.Context, runs Runs, table cancelTable, id uuid.UUID, wait time.Duration) ([]Answer, error) {
	return (&Operator{runs: runs, outbox: "outbox"}).cancel(ctx, table, []uuid.UUID{id}, wait, ada)
}

// Without Temporal the request stays in the row, Cancel ends nothing, and answers how the run ends
// the message.
func TestCancelWithoutTemporal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pending := statusOf(outflow.Pending, "leased")
		pending.CancelRequested, pending.Available = true, true
		table, away := &oneRow{row: pending, cancelled: true}, &noTemporal{}
		began := time.Now()
		answers, err := cancelWith(t.Context(), away, table, pending.ID, 5*time.Second)
		require.NoError(t, err)
		assert.Equal(t, Failed, answers[0].Verdict)
		assert.Equal(t, "requested: its run ends it at its next look; the run could not be asked now: connection refused", answers[0].Text)
		assert.Equal(t, 5*time.Second, time.Since(began))

		for state, text := range map[outflow.State]string{
			outflow.Cancelled: "cancelled", outflow.Delivered: "too late: delivered", outflow.Dead: "too late: dead",
		} {
			table.set(pending)
			ended := pending
			ended.State = state
			ends := time.AfterFunc(2*time.Second, func() { table.set(ended) })
			answers, err = cancelWith(t.Context(), away, table, pending.ID, 5*time.Second)
			require.NoError(t, err)
			assert.Equal(t, text, answers[0].Text)
			ends.Stop()
		}
		table.set(pending)
		again := pending
		again.CancelRequested = false
		time.AfterFunc(time.Second, func() { table.set(again) })
		answers, err = cancelWith(t.Context(), away, table, pending.ID, 5*time.Second)
		require.NoError(t, err)
		assert.Equal(t, "too late: somebody started it again meanwhile", answers[0].Text)

		table.set(pending)
		time.AfterFunc(time.Second, func() { table.set(MessageStatus{}) })
		answers, err = cancelWith(t.Context(), away, table, pending.ID, 5*time.Second)
		require.NoError(t, err)
		assert.Equal(t, "not found", answers[0].Text, "purged meanwhile")

		table.set(pending)
		stopping, stop := context.WithCancelCause(t.Context())
		time.AfterFunc(time.Second, func() { stop(errors.New("interrupt")) })
		_, err = cancelWith(stopping, away, table, pending.ID, time.Minute)
		require.ErrorContains(t, err, "which stay marked: interrupt")
	})
}

func TestCancelAnswersAtOnce(t *testing.T) {
	for state, text := range map[outflow.State]string{
		outflow.Cancelled: "cancelled before", outflow.Delivered: "too late: delivered", outflow.Expired: "too late: expired",
	} {
		runs := &noTemporal{}
		row := statusOf(state, string(state))
		answers, err := cancelWith(t.Context(), runs, &oneRow{row: row}, row.ID, time.Minute)
		require.NoError(t, err)
		assert.Equal(t, text, answers[0].Text)
		assert.Equal(t, state == outflow.Cancelled, answers[0].Verdict == Done)
		assert.Zero(t, runs.asked)
	}
}
