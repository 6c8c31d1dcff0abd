package control

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/outbox"
	"github.com/outflowhq/outflow/outboxdb"
)

func pendingChange() outboxdb.Change {
	return outboxdb.Change{
		Standing: outboxdb.Standing{ID: uuid.New(), State: outflow.Pending, Destination: "sqs://old", Generation: 1},
		Found:    true, Done: true, NewState: outflow.Pending, NewGeneration: 1,
	}
}

// hanging are runs that do not answer.
type hanging struct{ noTemporal }

func (*hanging) Cancel(ctx context.Context, _ string) error {
	<-ctx.Done()
	return ctx.Err()
}

// cancels are messages whose cancel is requested; the looks at some fail.
type cancels struct {
	changes []outboxdb.Change
	fails   func(id uuid.UUID) bool
}

func (c *cancels) RequestCancel(context.Context, []uuid.UUID, outboxdb.By) ([]outboxdb.Change, error) {
	return c.changes, nil
}

func (c *cancels) EndCancelled(context.Context, outbox.Ref, outboxdb.By) (outboxdb.Change, error) {
	return outboxdb.Change{}, errors.New("not asked for here")
}

func (c *cancels) Show(_ context.Context, id uuid.UUID) (outboxdb.Standing, error) {
	if c.fails != nil && c.fails(id) {
		return outboxdb.Standing{}, errAway
	}
	return outboxdb.Standing{ID: id, State: outflow.Pending, CancelRequested: true}, nil
}

// What was committed before an error is told: the operator would not know of it.
func TestCancelAnswersBesideAnError(t *testing.T) {
	ended := pendingChange()
	ended.NewState = outflow.Cancelled
	store := &cancels{changes: []outboxdb.Change{ended, pendingChange(), pendingChange()}, fails: func(uuid.UUID) bool { return true }}
	answers, err := Desk{Runs: &noTemporal{}}.Cancel(t.Context(), store, nil, time.Minute)
	require.ErrorIs(t, err, errAway)
	require.Len(t, answers, 3)
	assert.Equal(t, Done, answers[0].Verdict)
	for i, a := range answers[1:] {
		assert.Equal(t, store.changes[i+1].ID, a.ID)
		assert.Contains(t, []Verdict{Undecided, Failed}, a.Verdict)
		assert.Contains(t, a.Text, "requested: ", "it stays marked")
	}
}

// A Temporal that hangs takes no more of an operator's time than he gives it.
func TestCancelKeepsItsWait(t *testing.T) {
	store := &cancels{}
	for range 20 {
		store.changes = append(store.changes, pendingChange())
	}
	began := time.Now()
	answers, err := Desk{Runs: &hanging{}}.Cancel(t.Context(), store, nil, 100*time.Millisecond)
	require.NoError(t, err)
	assert.Less(t, time.Since(began), 15*time.Second, "a second for all of them")
	require.Len(t, answers, 20)
	for _, a := range answers {
		assert.Equal(t, Failed, a.Verdict)
		assert.NotContains(t, a.Text, "<nil>")
	}
}

// moves are messages of which the dead ones can't be retried.
type moves struct {
	pending, dead outboxdb.Change
	releaseErr    error
}

func (m *moves) Release(context.Context, outbox.Ref, time.Time, outboxdb.By) (outboxdb.Change, error) {
	return outboxdb.Change{}, m.releaseErr
}

func (m *moves) Redirect(context.Context, []uuid.UUID, string, outboxdb.By) ([]outboxdb.Change, error) {
	return []outboxdb.Change{m.pending, m.dead}, nil
}

func (m *moves) RetryTo(context.Context, []uuid.UUID, string, outboxdb.By) ([]outboxdb.Change, error) {
	return nil, errAway
}

func (m *moves) Retry(context.Context, []uuid.UUID, outboxdb.By) ([]outboxdb.Change, error) {
	return []outboxdb.Change{m.pending}, nil
}

func (m *moves) NoteTold(context.Context, outboxdb.Standing, outboxdb.By) error { return nil }

func TestRedirectAnswersBesideAnError(t *testing.T) {
	dead := pendingChange()
	dead.State, dead.NewState, dead.Done = outflow.Dead, outflow.Dead, false
	answers, err := Desk{Runs: &noTemporal{}}.Redirect(t.Context(), &moves{pending: pendingChange(), dead: dead}, nil, "sqs://new")
	require.ErrorIs(t, err, errAway)
	require.Len(t, answers, 2)
	assert.Equal(t, Done, answers[0].Verdict, "it is redirected")
	assert.Equal(t, Refused, answers[1].Verdict)
}

// Retrying what somebody asked to cancel would only have it cancelled sooner.
func TestRetryOfWhatIsBeingCancelled(t *testing.T) {
	c := pendingChange()
	c.Done, c.Retrying, c.CancelRequested = false, true, true
	runs := &noTemporal{}
	answers, err := Desk{Runs: runs}.Retry(t.Context(), &moves{pending: c}, nil)
	require.NoError(t, err)
	assert.Equal(t, Refused, answers[0].Verdict)
	assert.Equal(t, "pending: its cancel was requested; retry it once it is cancelled", answers[0].Text)
	assert.Zero(t, runs.asked)
}
