package service

import (
	"errors"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/temporal"

	"github.com/outflowhq/outflow"
)

// Whoever has Temporal and not the database waits for the run: its result, or its
// error's details, are the message's outcome.
func TestARunReturnsTheOutcome(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.work()
	w.scan()
	id := w.enqueue("{}")
	w.until(id, func(r row) bool { return r.State == outflow.Delivered })
	var outcome outflow.Outcome
	require.NoError(t, w.client.GetWorkflow(t.Context(), w.workflowID(id), "").Get(t.Context(), &outcome))
	assert.Equal(t, id, outcome.ID)
	assert.Equal(t, outflow.Delivered, outcome.State)
	assert.Equal(t, "broker-1", outcome.BrokerMessageID)
	assert.Equal(t, 1, outcome.Attempts)
	assert.Equal(t, 1, outcome.Generation)
	assert.NotZero(t, outcome.FinishedAt)

	w.broker.set(func(int) (string, error) { return "", outflow.Permanent(errors.New("no such queue")) })
	id = w.enqueue("{}")
	w.until(id, func(r row) bool { return r.State == outflow.Dead })
	err := w.client.GetWorkflow(t.Context(), w.workflowID(id), "").Get(t.Context(), &outcome)
	var dead *temporal.ApplicationError
	require.ErrorAs(t, err, &dead)
	require.NoError(t, dead.Details(&outcome))
	assert.Equal(t, id, outcome.ID)
	assert.Equal(t, outflow.Dead, outcome.State)
	assert.Equal(t, "no such queue", outcome.LastError)
}
