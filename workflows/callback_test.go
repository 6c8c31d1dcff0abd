package workflows_test

import (
	"context"
	"encoding/json"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/temporal"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/activities"
	"github.com/outflowhq/outflow/outbox"
	"github.com/outflowhq/outflow/workflows"
)

const replies = "sqs://replies"

// newCallbackRun is a run of a message that asks for a callback.
func newCallbackRun(t *testing.T, message answer, callbacks ...answer) (*run, *broker) {
	receiver := &broker{script: callbacks}
	r := newRun(t, func(ctx context.Context, m outflow.Message) (string, error) {
		if m.Destination == replies {
			return receiver.Publish(ctx, m)
		}
		return message(ctx, m)
	})
	r.table.row.Callback = replies
	return r, receiver
}

func (r *run) callbackInput() workflows.CallbackInput { return workflows.CallbackInput(r.in) }

// owes makes the message one that has ended, and whose producer waits.
func (r *run) owes(state outflow.State) {
	r.table.change(func(m *outbox.Record) { m.State, m.CallbackDue, m.FinishedAt = state, true, r.began })
}

// executeCallback runs Callback to its end.
func (r *run) executeCallback() (activities.CallbackResult, error) {
	r.t.Helper()
	r.env.ExecuteWorkflow(workflows.WorkflowCallback, r.callbackInput())
	require.True(r.t, r.env.IsWorkflowCompleted())
	var result activities.CallbackResult
	if err := r.env.GetWorkflowError(); err != nil {
		return result, err
	}
	require.NoError(r.t, r.env.GetWorkflowResult(&result))
	return result, nil
}

// Every end that the row is given starts the callback, and none that asks for none.
func TestDeliverStartsTheCallback(t *testing.T) {
	for name, c := range map[string]struct {
		message answer
		state   outflow.State
		change  func(*outbox.Record)
	}{
		"delivered": {message: acks, state: outflow.Delivered},
		"dead":      {message: fails(outflow.Permanent(errReset)), state: outflow.Dead},
		"cancelled": {message: acks, state: outflow.Cancelled,
			change: func(r *outbox.Record) { r.CancelRequested = true }},
		"expired": {message: acks, state: outflow.Expired,
			change: func(r *outbox.Record) { r.ExpiresAt = time.Unix(0, 0) }},
	} {
		t.Run(name, func(t *testing.T) {
			r, _ := newCallbackRun(t, c.message, acks)
			if c.change != nil {
				r.table.change(c.change)
			}
			started := r.children()
			_, _ = r.execute()
			assert.Equal(t, c.state, r.table.row.State)
			assert.Equal(t, []string{r.callbackInput().ID()}, started())
		})
	}
	t.Run("none asked for", func(t *testing.T) {
		r := newRun(t, acks)
		started := r.children()
		_, err := r.execute()
		require.NoError(t, err)
		assert.Empty(t, started())
	})
	t.Run("the row said so before", func(t *testing.T) {
		r, _ := newCallbackRun(t, acks, acks)
		r.owes(outflow.Delivered)
		started := r.children()
		_, err := r.execute()
		require.NoError(t, err)
		assert.Len(t, started(), 1, "whoever wrote the end may have been lost")
		assert.Empty(t, r.table.endings)
	})
	t.Run("another generation's", func(t *testing.T) {
		r, _ := newCallbackRun(t, acks, acks)
		r.owes(outflow.Dead)
		r.table.change(func(m *outbox.Record) { m.Generation = 2 })
		started := r.children()
		_, err := r.execute()
		require.NoError(t, err)
		assert.Empty(t, started(), "that run's")
	})
}

// children notes the IDs of the child workflows that are started.
func (r *run) children() func() []string {
	var mu sync.Mutex
	var ids []string
	r.spy.child = func(id string) {
		mu.Lock()
		defer mu.Unlock()
		ids = append(ids, id)
	}
	return func() []string {
		mu.Lock()
		defer mu.Unlock()
		return ids
	}
}

// A callback that can't be started, or fails, is no matter of the delivery.
func TestDeliverGoesOnWithoutItsCallback(t *testing.T) {
	r, _ := newCallbackRun(t, acks, fails(outflow.Permanent(errReset)))
	outcome, err := r.execute()
	require.NoError(t, err)
	assert.Equal(t, outflow.Delivered, outcome.State)

	r, receiver := newCallbackRun(t, acks, acks)
	r.spy.noChildren = temporal.NewApplicationError("running already", "")
	outcome, err = r.execute()
	require.NoError(t, err)
	assert.Equal(t, outflow.Delivered, outcome.State)
	assert.Zero(t, receiver.count())
	assert.True(t, r.table.row.CallbackDue, "for a scanner")
}

func TestCallbackTellsHowItEnded(t *testing.T) {
	for _, state := range []outflow.State{outflow.Delivered, outflow.Dead, outflow.Expired, outflow.Cancelled} {
		t.Run(string(state), func(t *testing.T) {
			r, receiver := newCallbackRun(t, acks, acks)
			r.owes(state)
			result, err := r.executeCallback()
			require.NoError(t, err)
			assert.Equal(t, activities.CallbackResult{Verdict: activities.CallbackSent, Reported: state}, result)
			assert.Equal(t, outbox.CallbackSent, r.table.callback.state)
			require.Equal(t, 1, receiver.count())
			m := receiver.calls[0]
			assert.Equal(t, []any{replies, outflow.CallbackType, "application/json"},
				[]any{m.Destination, m.Type, m.ContentType})
			assert.Equal(t, map[string]string{"callback-id": r.in.MessageID.String() + "_1_" + string(state)},
				m.Headers)
			var body map[string]any
			require.NoError(t, json.Unmarshal(m.Payload, &body))
			assert.Equal(t, r.in.MessageID.String(), body["messageId"])
			assert.Equal(t, string(state), body["state"])
			assert.NotContains(t, string(m.Payload), "secret")
		})
	}
}

// Attempts come after a growing wait, or the one that was asked for, and each
// keeps scanners away until the next.
func TestCallbackIsRetried(t *testing.T) {
	busy := &outflow.Failure{Class: outflow.ClassUnavailable, RetryAfter: 30 * time.Minute, Err: errors.New("503")}
	r, receiver := newCallbackRun(t, acks, append(times(4, fails(errReset)), fails(busy), acks)...)
	r.owes(outflow.Delivered)
	result, err := r.executeCallback()
	require.NoError(t, err)
	assert.Equal(t, activities.CallbackSent, result.Verdict)
	assert.Equal(t, 6, r.table.callback.attempts)
	assert.Equal(t, 6, receiver.count())
	assert.Empty(t, r.table.callback.lastErr)
	var ids []string
	for _, m := range receiver.calls {
		ids = append(ids, m.ID.String()+m.Headers["callback-id"])
	}
	assert.Equal(t, times2(ids[0], 6), ids, "it is the same callback each time")
	took := r.env.Now().Sub(r.began)
	assert.Greater(t, took, 30*time.Minute)
	assert.Less(t, took, 40*time.Minute)
	assert.Greater(t, r.table.callback.notes[4].Lease, 30*time.Minute, "a scanner knows")
	assert.Less(t, r.table.callback.notes[0].Lease, 3*time.Minute)
}

func times2(s string, n int) (all []string) {
	for range n {
		all = append(all, s)
	}
	return all
}

func TestCallbackIsGivenUpAfterADay(t *testing.T) {
	r, receiver := newCallbackRun(t, acks, fails(outflow.Unavailable(errReset)))
	r.owes(outflow.Dead)
	_, err := r.executeCallback()
	failedAs(t, err, workflows.ErrTypeCallbackFailed)
	assert.Equal(t, outbox.CallbackFailed, r.table.callback.state)
	assert.Contains(t, r.table.callback.lastErr, "given up: ")
	assert.Greater(t, receiver.count(), 100)
	assert.Less(t, receiver.count(), 400, "every ten minutes at most")
	assert.InDelta(t, 24, r.env.Now().Sub(r.began).Hours(), 1)
}

func TestCallbackFailsAtOnce(t *testing.T) {
	r, receiver := newCallbackRun(t, acks, fails(outflow.Permanent(errors.New("404"))))
	r.owes(outflow.Delivered)
	_, err := r.executeCallback()
	failedAs(t, err, workflows.ErrTypeCallbackFailed)
	assert.ErrorContains(t, err, "404")
	assert.Equal(t, 1, receiver.count())
	assert.Equal(t, outbox.CallbackFailed, r.table.callback.state)
	assert.Equal(t, "404", r.table.callback.lastErr)
	assert.Len(t, r.table.callback.notes, 1, "an operator may have made it due again by then")
	assert.Equal(t, outflow.Delivered, r.table.row.State)
}

// A verdict that could not be written is not lost, nor is the callback sent again.
func TestCallbackThatCantBeNoted(t *testing.T) {
	t.Run("sent", func(t *testing.T) {
		r, receiver := newCallbackRun(t, acks, acks)
		r.owes(outflow.Delivered)
		r.table.before = failsFirst("note callback", 3)
		result, err := r.executeCallback()
		require.NoError(t, err)
		assert.Equal(t, activities.CallbackSent, result.Verdict)
		assert.Equal(t, 1, receiver.count(), "another attempt only notes it")
		assert.Equal(t, outbox.CallbackSent, r.table.callback.state)
	})
	t.Run("failed for good", func(t *testing.T) {
		r, receiver := newCallbackRun(t, acks, fails(outflow.Permanent(errReset)))
		r.owes(outflow.Delivered)
		r.table.before = failsFirst("note callback", 2)
		_, err := r.executeCallback()
		failedAs(t, err, workflows.ErrTypeCallbackFailed)
		assert.Equal(t, 3, receiver.count())
		assert.Equal(t, outbox.CallbackFailed, r.table.callback.state)
	})
	t.Run("no database at first", func(t *testing.T) {
		r, receiver := newCallbackRun(t, acks, acks)
		r.owes(outflow.Delivered)
		r.table.before = failsFirst("begin callback", 5)
		_, err := r.executeCallback()
		require.NoError(t, err)
		assert.Equal(t, 1, receiver.count())
	})
}

// Reported dead, and delivered all the same: the producer is notified of that, too.
func TestCallbackOfACorrectedEnd(t *testing.T) {
	var r *run
	r, receiver := newCallbackRun(t, acks, func(context.Context, outflow.Message) (string, error) {
		r.table.change(func(m *outbox.Record) { m.State = outflow.Delivered })
		return "broker-1", nil
	})
	r.owes(outflow.Dead)
	result, err := r.executeCallback()
	require.NoError(t, err)
	assert.Equal(t, outflow.Delivered, result.Reported)
	require.Equal(t, 2, receiver.count())
	assert.NotEqual(t, receiver.calls[0].ID, receiver.calls[1].ID, "nobody takes the second for the first")
}

func TestCallbackThatIsNotDue(t *testing.T) {
	for name, change := range map[string]func(r *run){
		"sent before":   func(r *run) { r.table.change(func(m *outbox.Record) { m.CallbackDue = false }) },
		"started again": func(r *run) { r.table.change(func(m *outbox.Record) { m.Generation = 2 }) },
		"purged":        func(r *run) { r.table.gone = true },
		"pending once more": func(r *run) {
			r.table.change(func(m *outbox.Record) { m.State, m.CallbackDue = outflow.Pending, false })
		},
	} {
		t.Run(name, func(t *testing.T) {
			r, receiver := newCallbackRun(t, acks, acks)
			r.owes(outflow.Dead)
			change(r)
			result, err := r.executeCallback()
			require.NoError(t, err)
			assert.Equal(t, activities.CallbackNotDue, result.Verdict)
			assert.Zero(t, receiver.count())
			assert.Empty(t, r.table.callback.notes)
		})
	}
}

func TestCallbackIsCancelled(t *testing.T) {
	r, _ := newCallbackRun(t, acks, fails(errReset))
	r.owes(outflow.Dead)
	r.env.RegisterDelayedCallback(r.env.CancelWorkflow, 10*time.Minute)
	_, err := r.executeCallback()
	var canceled *temporal.CanceledError
	require.ErrorAs(t, err, &canceled)
	assert.Equal(t, outbox.CallbackFailed, r.table.callback.state)
	assert.Equal(t, "cancelled: the workflow was asked to cancel", r.table.callback.lastErr)
}
