// Package workflows holds Deliver, the workflow of one message, and the names
// that stand in histories.
//
// The invariant: a run ends only after the row says how the message ended, or after the row was
// left to another run: a later generation's, or that of a claim in isolation. The run ends as the
// row says: Completed for delivered, Failed for dead and expired, Canceled for cancelled. The
// workflow carries no payload and no destination.
package workflows

import (
	"cmp"
	"fmt"

	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/workflow"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/activities"
)

// Status answers the query delivery-status.
type Status struct {
	// Phase is "publishing", "retrying", "marking" or "ended".
	Phase      string `json:"phase"`
	Generation int    `json:"generation"`
	// LastError is why the run left the fast path, or why it ended.
	LastError string `json:"lastError,omitempty"`
	// Outcome is the row's, once the run has ended.
	Outcome *outflow.Outcome `json:"outcome,omitempty"`
}

// Deliver takes one message to its end and returns its row. A run that an operator's act has
// superseded returns the row as it is, with its later generation.
func Deliver(ctx workflow.Context, in DeliverInput) (outflow.Outcome, error) {
	d := &delivery{in: in, status: Status{Phase: "publishing", Generation: in.Generation}}
	err := workflow.SetQueryHandler(ctx, QueryDeliveryStatus, func() (Status, error) { return d.status, nil })
	if err != nil {
		return outflow.Outcome{}, err
	}
	result, err := d.publish(ctx)
	if workflow.IsContinueAsNewError(err) {
		return outflow.Outcome{}, err
	}
	outcome, err := d.end(ctx, result, err)
	d.status.Phase = "ended"
	if outcome.State != "" {
		d.status.Outcome = &outcome
	}
	if err != nil {
		d.status.LastError = cmp.Or(outcome.LastError, reason(err))
	}
	return outcome, err
}

// delivery is the state of one run.
type delivery struct {
	in     DeliverInput
	status Status
	// attempts are publish attempts that the row does not count yet.
	attempts int
}

// publish tries the fast path once. Then it goes on durably until the message is published, can't
// be published, or is cancelled.
func (d *delivery) publish(ctx workflow.Context) (activities.PublishResult, error) {
	var a *activities.Activities
	var result activities.PublishResult
	in := activities.PublishInput{
		Owner: d.in.owner(), MessageID: d.in.MessageID, Generation: d.in.Generation, Again: taskWasLost(ctx),
	}

	d.attempts = 1
	err := workflow.ExecuteLocalActivity(localPublish(ctx), a.Publish, in).Get(ctx, &result)
	if err == nil || isFinalFailure(err) || ctx.Err() != nil {
		return result, err
	}

	if !in.Again {
		showState(ctx, StateRetrying)
	}
	d.status.Phase, d.status.LastError = "retrying", reason(err)
	in.Again = false
	if !nothingSent(err) { // otherwise the row keeps its own last error, or none
		in.LastError, in.Attempts, in.Wait = reason(err), 1, waitAfter(err)
	}
	result, err = d.publishDurably(ctx, in)
	d.attempts = result.Attempts // durable attempts count themselves on the row
	return result, err
}

// publishDurably leaves the waits between attempts to Temporal. A signal to try now ends a wait:
// the activity is cancelled, and a new one begins with an attempt at once.
func (d *delivery) publishDurably(ctx workflow.Context, in activities.PublishInput) (activities.PublishResult, error) {
	var a *activities.Activities
	for n := 1; ; n++ {
		cancellable, cancel := workflow.WithCancel(ctx)
		publishing := workflow.ExecuteActivity(durablePublish(cancellable, n), a.Publish, in)
		signalled := d.awaitOrSignal(ctx, publishing)
		if signalled {
			cancel()
		}
		var result activities.PublishResult
		err := publishing.Get(ctx, &result) // an attempt under way ends first
		cancel()
		if !signalled || err == nil || isFinalFailure(err) || ctx.Err() != nil {
			return result, err
		}
		if workflow.GetInfo(ctx).GetContinueAsNewSuggested() {
			return result, workflow.NewContinueAsNewError(ctx, WorkflowDeliver, d.in)
		}
		// Earlier attempts are on the row. The error of an attempt that was running when the
		// signal came is passed on here: the next activity can't see it.
		in.LastError, in.Attempts, in.Wait = "", 0, 0
		if errorType(err) != "" && !nothingSent(err) {
			in.LastError = reason(err)
		}
	}
}

// awaitOrSignal waits for the activity's end or a signal to try now. It takes every signal that has
// come by then, and reports whether there was one.
func (d *delivery) awaitOrSignal(ctx workflow.Context, publishing workflow.Future) (signalled bool) {
	workflow.NewSelector(ctx).
		AddFuture(publishing, func(workflow.Future) {}).
		AddReceive(workflow.GetSignalChannel(ctx, SignalTryNow), func(c workflow.ReceiveChannel, _ bool) {
			signalled = true
			for c.ReceiveAsync(nil) { // the first one is still in the channel
			}
		}).
		Select(ctx)
	return signalled
}

// taskWasLost reports whether an earlier workflow task of a new run failed or timed out, as with
// its process: such a task leaves events behind.
func taskWasLost(ctx workflow.Context) bool {
	const started, scheduled, taskStarted = 1, 1, 1
	return workflow.GetInfo(ctx).GetCurrentHistoryLength() > started+scheduled+taskStarted
}

// showState lets the Web UI's filters find the run. Where the namespace lacks the search
// attributes, the run was started without them and sets none. A namespace that only lacks
// OutflowState refuses the whole task, each time: a run whose first task was lost sets none either.
func showState(ctx workflow.Context, state string) {
	if _, ok := workflow.GetTypedSearchAttributes(ctx).GetKeyword(AttributeDestination); !ok {
		return
	}
	if err := workflow.UpsertTypedSearchAttributes(ctx, AttributeState.ValueSet(state)); err != nil {
		workflow.GetLogger(ctx).Warn("setting the search attribute OutflowState; the delivery goes on",
			"state", state, "error", err)
	}
}

// end writes the message's end to its row, and ends the run as the row then says.
func (d *delivery) end(ctx workflow.Context, result activities.PublishResult, err error) (outflow.Outcome, error) {
	var a *activities.Activities
	in := activities.MarkInput{
		Owner: d.in.owner(), MessageID: d.in.MessageID, Generation: d.in.Generation, Attempts: d.attempts,
	}
	var mark any
	switch {
	case errorType(err) == activities.ErrTypeNotFound:
		return outflow.Outcome{}, err
	case isFinalFailure(err):
		mark, in.Reason = a.MarkDead, reason(err)
	case err != nil && (ctx.Err() != nil || temporal.IsCanceledError(err)):
		mark, in.Reason, in.Attempts = a.MarkCancelled, "cancelled: the workflow was asked to cancel", 0
	case err != nil:
		// An activity with unlimited attempts does not give up by itself. An operator can fail it,
		// or limit its attempts.
		mark, in.Reason = a.MarkDead, reason(err)+byHand
	case result.Verdict == activities.Published:
		mark, in.BrokerMessageID = a.MarkDelivered, result.BrokerMessageID
	case result.Verdict == activities.Overdue:
		mark, in.Reason, in.Attempts = a.MarkExpired, activities.ReasonExpired, 0
	case result.Verdict == activities.Withdrawn:
		mark, in.Reason, in.Attempts = a.MarkCancelled, activities.ReasonCancelled, 0
	case result.Verdict == activities.Ended,
		result.Verdict == activities.Superseded,
		result.Verdict == activities.SetAside:
		return d.close(ctx, result.Outcome) // the row has ended, or is left to another run
	default: // completed by hand
		mark, in.Reason = a.MarkDead, fmt.Sprintf(completedByHand, result.Verdict)
	}
	d.status.Phase = "marking"
	// A cancel request must not keep the end from being written.
	ctx, _ = workflow.NewDisconnectedContext(ctx)
	var outcome outflow.Outcome
	if workflow.ExecuteLocalActivity(localMark(ctx), mark, in).Get(ctx, &outcome) != nil {
		if err := workflow.ExecuteActivity(durableMark(ctx), mark, in).Get(ctx, &outcome); err != nil {
			return outflow.Outcome{}, err
		}
	}
	return d.close(ctx, outcome)
}

// The reasons of messages that an operator ended by way of their activity.
const (
	byHand = " (an operator failed the activity or limited its attempts:" +
		" fix the cause, then retry or redirect the message)"
	completedByHand = "an operator completed the activity, with the verdict %q" +
		" (if the broker has no such message, retry or redirect it)"
)

// close ends the run as the row says, after it has started the callback that the row asks for.
func (d *delivery) close(ctx workflow.Context, outcome outflow.Outcome) (outflow.Outcome, error) {
	if outcome.Generation != d.in.Generation {
		return outcome, nil
	}
	if outcome.CallbackDue {
		startCallback(ctx, CallbackInput(d.in))
	}
	switch outcome.State {
	case outflow.Dead:
		return outcome, temporal.NewNonRetryableApplicationError(outcome.LastError, ErrTypeDead, nil, outcome)
	case outflow.Expired:
		return outcome, temporal.NewNonRetryableApplicationError(outcome.LastError, ErrTypeExpired, nil, outcome)
	case outflow.Cancelled:
		return outcome, temporal.NewCanceledError(outcome)
	}
	return outcome, nil
}
