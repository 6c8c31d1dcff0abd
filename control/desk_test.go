package control

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

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/outbox"
	"github.com/outflowhq/outflow/outboxdb"
)

// noTemporal is a Temporal that can't be reached.
type noTemporal struct{ asked int }

var errAway = errors.New("connection refused")

func (n *noTemporal) Describe(context.Context, string) (Run, error) { n.asked++; return Run{}, errAway }
func (n *noTemporal) Cancel(context.Context, string) error          { n.asked++; return errAway }
func (n *noTemporal) TryNow(context.Context, string) error          { n.asked++; return errAway }

// oneRow is a table with one message; acts answer as they are told.
type oneRow struct {
	mu     sync.Mutex
	row    outboxdb.Standing
	done   bool
	noted  []outboxdb.Standing
	noting error
}

func (o *oneRow) set(row outboxdb.Standing) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.row = row
}

func (o *oneRow) change() outboxdb.Change {
	return outboxdb.Change{Standing: o.row, Found: o.row.ID != uuid.Nil, Done: o.done, NewState: o.row.State, NewGeneration: o.row.Generation}
}

func (o *oneRow) Retry(context.Context, []uuid.UUID, outboxdb.By) ([]outboxdb.Change, error) {
	return []outboxdb.Change{o.change()}, nil
}

func (o *oneRow) NoteTold(_ context.Context, m outboxdb.Standing, _ outboxdb.By) error {
	o.noted = append(o.noted, m)
	return o.noting
}

func (o *oneRow) Release(context.Context, outbox.Ref, time.Time, outboxdb.By) (outboxdb.Change, error) {
	panic("only a message without a run is released")
}

func (o *oneRow) RequestCancel(context.Context, []uuid.UUID, outboxdb.By) ([]outboxdb.Change, error) {
	return []outboxdb.Change{o.change()}, nil
}

func (o *oneRow) EndCancelled(context.Context, outbox.Ref, outboxdb.By) (outboxdb.Change, error) {
	panic("only a message without a run is ended")
}

func (o *oneRow) Show(context.Context, uuid.UUID) (outboxdb.Standing, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.row.ID == uuid.Nil {
		return outboxdb.Standing{}, outflow.ErrNotFound
	}
	return o.row, nil
}

func standing(state outflow.State, phase string) outboxdb.Standing {
	return outboxdb.Standing{ID: uuid.New(), State: state, Phase: phase, Generation: 1, Retrying: phase == "retrying",
		DueAt: time.Date(2026, 1, 31, 8, 0, 0, 0, time.UTC), AvailableAt: time.Date(2026, 1, 31, 8, 1, 0, 0, time.UTC)}
}

func TestRetryAnswers(t *testing.T) {
	for name, c := range map[string]struct {
		row     outboxdb.Standing
		done    bool
		verdict Verdict
		text    string
		asked   int
	}{
		"none":      {outboxdb.Standing{}, false, Refused, "not found", 0},
		"dead":      {standing(outflow.Dead, "dead"), true, Done, "was dead, pending again", 0},
		"delivered": {standing(outflow.Delivered, "delivered"), false, Refused, `delivered: "outflow resend" sends a copy`, 0},
		"delayed":   {standing(outflow.Pending, "delayed"), false, Refused, `pending, due at 2026-01-31T08:00:00Z: "outflow reschedule" changes that`, 0},
		"leased":    {standing(outflow.Pending, "leased"), false, Refused, "pending: it is being delivered", 0},
		"waiting":   {standing(outflow.Pending, "waiting"), false, Refused, `pending: it waits for its destination until 2026-01-31T08:01:00Z; "outflow show" says why`, 0},
		"due":       {standing(outflow.Pending, "due"), false, Refused, "pending: it is due and waits for a scanner", 0},
		"retrying":  {standing(outflow.Pending, "retrying"), false, Failed, "retrying: its run could not be told: connection refused", 1},
	} {
		t.Run(name, func(t *testing.T) {
			runs, table := &noTemporal{}, &oneRow{row: c.row, done: c.done}
			answers, err := Desk{Runs: runs, Outbox: "outbox"}.Retry(t.Context(), table, []uuid.UUID{c.row.ID})
			require.NoError(t, err)
			assert.Empty(t, table.noted, "no run was told")
			require.Len(t, answers, 1)
			assert.Equal(t, c.verdict, answers[0].Verdict)
			assert.Equal(t, c.text, answers[0].Text)
			assert.Equal(t, c.asked, runs.asked)
		})
	}
}

// willing is a Temporal whose runs take what they are told.
type willing struct{ noTemporal }

func (w *willing) TryNow(context.Context, string) error { w.asked++; return nil }

// A telling is noted once Temporal has taken it; one that can't be noted is told.
func TestRetryNotesWhatItTells(t *testing.T) {
	table, runs := &oneRow{row: standing(outflow.Pending, "retrying")}, &willing{}
	desk := Desk{Runs: runs, Outbox: "outbox"}
	answers, err := desk.Retry(t.Context(), table, []uuid.UUID{table.row.ID})
	require.NoError(t, err)
	require.Len(t, answers, 1)
	assert.Equal(t, Done, answers[0].Verdict)
	assert.Equal(t, "retrying: its run was told", answers[0].Text)
	assert.Equal(t, []outboxdb.Standing{table.row}, table.noted)

	table.noting = errors.New("no connection")
	_, err = desk.Retry(t.Context(), table, []uuid.UUID{table.row.ID})
	require.ErrorIs(t, err, table.noting)
	assert.Equal(t, 2, runs.asked)
}

// Without Temporal the request stands in the row, nothing is ended, and what the
// run makes of it is reported.
func TestCancelWithoutTemporal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pending := standing(outflow.Pending, "leased")
		pending.CancelRequested, pending.Available = true, true
		table := &oneRow{row: pending, done: true}
		desk := Desk{Runs: &noTemporal{}, Outbox: "outbox"}
		began := time.Now()
		answers, err := desk.Cancel(t.Context(), table, []uuid.UUID{pending.ID}, 5*time.Second)
		require.NoError(t, err)
		assert.Equal(t, Failed, answers[0].Verdict)
		assert.Equal(t, "requested: the next look of its run ends it; now that could not be told: connection refused", answers[0].Text)
		assert.Equal(t, 5*time.Second, time.Since(began))

		for state, text := range map[outflow.State]string{
			outflow.Cancelled: "cancelled", outflow.Delivered: "too late: delivered", outflow.Dead: "too late: dead",
		} {
			table.set(pending)
			ended := pending
			ended.State = state
			ends := time.AfterFunc(2*time.Second, func() { table.set(ended) })
			answers, err = desk.Cancel(t.Context(), table, []uuid.UUID{pending.ID}, 5*time.Second)
			require.NoError(t, err)
			assert.Equal(t, text, answers[0].Text)
			ends.Stop()
		}
		table.set(pending)
		anew := pending
		anew.CancelRequested = false
		time.AfterFunc(time.Second, func() { table.set(anew) })
		answers, err = desk.Cancel(t.Context(), table, []uuid.UUID{pending.ID}, 5*time.Second)
		require.NoError(t, err)
		assert.Equal(t, "too late: it was started anew meanwhile", answers[0].Text)

		table.set(pending)
		time.AfterFunc(time.Second, func() { table.set(outboxdb.Standing{}) })
		answers, err = desk.Cancel(t.Context(), table, []uuid.UUID{pending.ID}, 5*time.Second)
		require.NoError(t, err)
		assert.Equal(t, "not found", answers[0].Text, "purged meanwhile")

		table.set(pending)
		stopping, stop := context.WithCancelCause(t.Context())
		time.AfterFunc(time.Second, func() { stop(errors.New("interrupt")) })
		_, err = desk.Cancel(stopping, table, []uuid.UUID{pending.ID}, time.Minute)
		require.ErrorContains(t, err, "which stay marked: interrupt")
	})
}

func TestCancelAnswersAtOnce(t *testing.T) {
	for state, text := range map[outflow.State]string{
		outflow.Cancelled: "cancelled before", outflow.Delivered: "too late: delivered", outflow.Expired: "too late: expired",
	} {
		runs := &noTemporal{}
		row := standing(state, string(state))
		answers, err := Desk{Runs: runs}.Cancel(t.Context(), &oneRow{row: row}, []uuid.UUID{row.ID}, time.Minute)
		require.NoError(t, err)
		assert.Equal(t, text, answers[0].Text)
		assert.Equal(t, state == outflow.Cancelled, answers[0].Verdict == Done)
		assert.Zero(t, runs.asked)
	}
}
