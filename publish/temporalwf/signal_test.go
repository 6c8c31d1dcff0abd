package temporalwf_test

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/publish/temporalwf"
)

// step is a signal to a workflow.
func (a *app) step(workflowID, payload string) outflow.Message {
	m := named(message(a.to("Process", "signal=step")), workflowID)
	m.Payload = []byte(payload)
	return m
}

// The first signal starts the workflow, without input; the others reach it.
func TestSignals(t *testing.T) {
	t.Parallel()
	a := newApp(t)
	a.work(t, a.client)
	id := "cart-" + a.queue
	run := a.publish(t, a.step(id, `"one"`))
	assert.Equal(t, run, a.publish(t, a.step(id, `"two"`)))
	assert.Empty(t, a.started(t, id, run).GetInput().GetPayloads())
	for _, s := range a.signals(t, id, run, "step") {
		assert.NotEmpty(t, s.GetHeader().GetFields()[temporalwf.HeaderMessageID].GetData(), "each is found")
	}
	a.end(t, id, "finish")
	var got process
	require.NoError(t, a.client.GetWorkflow(t.Context(), id, run).Get(t.Context(), &got))
	assert.Equal(t, process{Signals: []string{"one", "two"}}, got)
}

// A copy of a signal is dropped by the run that has it. The next run takes it again.
func TestASecondCopyOfASignal(t *testing.T) {
	t.Parallel()
	a := newApp(t)
	a.work(t, a.client)
	id := "cart-" + a.queue
	starts, more := a.step(id, `"one"`), a.step(id, `"two"`)
	first := a.publish(t, starts)
	for range 2 {
		assert.Equal(t, first, a.publish(t, starts))
		assert.Equal(t, first, a.publish(t, more))
	}
	assert.Len(t, a.signals(t, id, first, "step"), 2)

	a.end(t, id, "continue")
	a.closed(t, id, first)
	second := a.latest(t, id)
	require.NotEqual(t, first, second)
	assert.Equal(t, second, a.publish(t, more))
	assert.Len(t, a.signals(t, id, second, "step"), 1, "after a continue-as-new the copy is taken again")
}

// No run takes a signal after its end, and none is started: whoever sent it meant the run that
// closed.
func TestASignalAfterTheEnd(t *testing.T) {
	t.Parallel()
	a := newApp(t)
	a.work(t, a.client)
	id := "cart-" + a.queue
	starts, more := a.step(id, `"one"`), a.step(id, `"two"`)
	run := a.publish(t, starts)
	a.publish(t, more)
	a.end(t, id, "finish")
	a.closed(t, id, run)

	assert.Equal(t, run, a.publish(t, starts), "a copy of the signal that started it")
	for _, m := range []outflow.Message{more, a.step(id, `"three"`)} {
		a.fails(t, m, outflow.ClassPermanent, "AlreadyExists: workflow "+id+" takes no signal any more", "run "+run,
			"closed as Completed", "it may have had this one before")
	}
	assert.Equal(t, run, a.latest(t, id))
}

// Temporal looks at the workflow ID alone. Without a look before, a list of one type would open
// every workflow of the namespace to signals.
func TestASignalReachesItsOwnTypeAlone(t *testing.T) {
	t.Parallel()
	a := newApp(t)
	a.work(t, a.client)
	id := "payment-" + a.queue
	m := named(message(a.to("Another")), id)
	m.Payload = []byte(`{"wait": "yes"}`)
	run := a.publish(t, m)
	a.fails(t, a.step(id, `"pay"`), outflow.ClassPermanent, `is a "Another" on task queue "`+a.queue, "run "+run,
		"nothing was sent")
	assert.Empty(t, a.signals(t, id, run, "step"))
	a.end(t, id, "finish")
	a.closed(t, id, run)
	a.fails(t, a.step(id, `"pay"`), outflow.ClassPermanent, `is a "Another"`)
}

func TestASignalWantsAWorkflowID(t *testing.T) {
	t.Parallel()
	a := newApp(t)
	a.fails(t, message(a.to("Process", "signal=step")), outflow.ClassPermanent, "a signal wants header workflow-id")
}
