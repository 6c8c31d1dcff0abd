// Package workflows holds Deliver, the workflow of one message, and the names
// that stand in histories.
//
// The invariant: a run ends only after the row says how the message ended (or is
// left to another run: a later generation's, or one that has it alone), and what the row says is how the
// run ends: Completed for delivered, Failed for dead and expired, Canceled for
// cancelled. The workflow carries no payload and no destination.
package workflows

import (
	"cmp"
	"errors"
	"fmt"
	"time"

	"go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/worker"
	"go.temporal.io/sdk/workflow"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/activities"
	"github.com/outflowhq/outflow/internal/text"
)

// Register registers Outflow's workflows and activities with a worker. The worker
// may use Worker Versioning (worker.DeploymentOptions), with or without a default
// behavior: all of Outflow's workflows are auto-upgraded.
//
// Package dispatcher makes a worker and registers with it. A worker of your own
// wants a WorkerStopTimeout of dispatcher.StopTimeout at least: the SDK's default of
// 0 leaves what is published unmarked, and another worker publishes it again.
func Register(w worker.Registry, a *activities.Activities) {
	w.RegisterWorkflowWithOptions(Deliver, registered(WorkflowDeliver))
	w.RegisterWorkflowWithOptions(Callback, registered(WorkflowCallback))
	for name, function := range map[string]any{
		ActivityPublish:            a.Publish,
		ActivityMarkDelivered:      a.MarkDelivered,
		ActivityMarkDead:           a.MarkDead,
		ActivityMarkExpired:        a.MarkExpired,
		ActivityMarkCancelled:      a.MarkCancelled,
		ActivityCallback:           a.Callback,
		ActivityMarkCallbackFailed: a.MarkCallbackFailed,
	} {
		w.RegisterActivityWithOptions(function, activity.RegisterOptions{Name: name})
	}
}

// registered are the options of each of our workflows. A versioned worker wants a
// behavior, and it is auto-upgrade. A run may retry for days, for as long as its
// destination is down: pinned, it would keep its deployment version from draining,
// and stop for good with that version's last worker. Our own changes replay the
// recorded histories of earlier versions, with or without Worker Versioning.
func registered(name string) workflow.RegisterOptions {
	return workflow.RegisterOptions{Name: name, VersioningBehavior: workflow.VersioningBehaviorAutoUpgrade}
}

// Status answers the query delivery-status.
type Status struct {
	// Phase is "publishing", "retrying", "marking" or "ended".
	Phase      string `json:"phase"`
	Generation int    `json:"generation"`
	// LastError is why the run left the fast path, or how it ended.
	LastError string `json:"lastError,omitempty"`
	// Outcome is the row's, once the run has ended.
	Outcome *outflow.Outcome `json:"outcome,omitempty"`
}

// Deliver takes one message to its end and returns what its row says then. A
// run that an operator's new start has superseded returns the row as it stands,
// with its later generation.
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
	// attempts are those that the row does not count yet.
	attempts int
}

// publish tries the fast path once, then goes on durably until the message is
// out, can't be published, or is cancelled.
func (d *delivery) publish(ctx workflow.Context) (activities.PublishResult, error) {
	var a *activities.Activities
	var result activities.PublishResult
	in := activities.PublishInput{Owner: d.in.owner(), MessageID: d.in.MessageID, Generation: d.in.Generation, Again: taskWasLost(ctx)}

	d.attempts = 1
	err := workflow.ExecuteLocalActivity(localPublish(ctx), a.Publish, in).Get(ctx, &result)
	if err == nil || isFinalFailure(err) || ctx.Err() != nil {
		return result, err
	}

	if !in.Again {
		showState(ctx, StateRetrying)
	}
	in.Again, in.LastError = false, reason(err)
	if !nothingSent(err) {
		in.Attempts, in.Wait = 1, waitAfter(err)
	}
	d.status.Phase, d.status.LastError = "retrying", in.LastError
	result, err = d.publishDurably(ctx, in)
	d.attempts = result.Attempts // the durable attempts note themselves
	return result, err
}

// publishDurably leaves the waiting between attempts to Temporal, and starts anew
// when it is told to try now.
func (d *delivery) publishDurably(ctx workflow.Context, in activities.PublishInput) (result activities.PublishResult, err error) {
	var a *activities.Activities
	tryNow := workflow.GetSignalChannel(ctx, SignalTryNow)
	for n := 1; ; n++ {
		waiting, stopWaiting := workflow.WithCancel(ctx)
		publishing := workflow.ExecuteActivity(durablePublish(waiting, n), a.Publish, in)
		told := false
		workflow.NewSelector(ctx).
			AddFuture(publishing, func(workflow.Future) {}).
			AddReceive(tryNow, func(c workflow.ReceiveChannel, _ bool) {
				told = true
				for c.ReceiveAsync(nil) { // once for all that came
				}
				stopWaiting()
			}).
			Select(ctx)
		err = publishing.Get(ctx, &result) // an attempt under way ends first
		stopWaiting()
		if !told || err == nil || isFinalFailure(err) || ctx.Err() != nil {
			return result, err
		}
		if workflow.GetInfo(ctx).GetContinueAsNewSuggested() {
			return result, workflow.NewContinueAsNewError(ctx, WorkflowDeliver, d.in)
		}
		// The attempts before have noted themselves; what the last one met, if it was
		// under way, no later one of the same activity is there to note.
		in.LastError, in.Attempts, in.Wait = "", 0, 0
		if errorType(err) != "" && !nothingSent(err) {
			in.LastError = reason(err)
		}
	}
}

// taskWasLost reports whether the run's first workflow task is not its first: a
// task that times out with its process, or is refused, leaves events behind.
func taskWasLost(ctx workflow.Context) bool {
	const started, scheduled, taskStarted = 1, 1, 1
	return workflow.GetInfo(ctx).GetCurrentHistoryLength() > started+scheduled+taskStarted
}

// showState lets the Web UI's filters find the run. A namespace may lack the
// search attributes; then the run was started without them, and sets none. One that
// lacks this attribute alone refuses the whole task, each time: a run whose first
// task was lost, for whatever reason, goes without it.
func showState(ctx workflow.Context, state string) {
	if _, ok := workflow.GetTypedSearchAttributes(ctx).GetKeyword(AttributeDestination); !ok {
		return
	}
	if err := workflow.UpsertTypedSearchAttributes(ctx, AttributeState.ValueSet(state)); err != nil {
		workflow.GetLogger(ctx).Warn("showing how the run stands", "state", state, "error", err) // it goes on all the same
	}
}

// end writes the end that the attempts came to, and turns what the row says
// into the run's own end.
func (d *delivery) end(ctx workflow.Context, result activities.PublishResult, err error) (outflow.Outcome, error) {
	var a *activities.Activities
	in := activities.MarkInput{Owner: d.in.owner(), MessageID: d.in.MessageID, Generation: d.in.Generation, Attempts: d.attempts}
	var mark any
	switch {
	case errorType(err) == activities.ErrTypeNotFound:
		return outflow.Outcome{}, err
	case isFinalFailure(err):
		mark, in.Reason = a.MarkDead, reason(err)
	case err != nil && (ctx.Err() != nil || temporal.IsCanceledError(err)):
		mark, in.Reason, in.Attempts = a.MarkCancelled, "cancelled: the workflow was asked to cancel", 0
	case err != nil:
		// By itself an activity without a limit of attempts does not give up. An
		// operator can make it: fail or complete it by hand, or limit its attempts.
		mark, in.Reason = a.MarkDead, reason(err)+" (the activity was ended, or limited, by hand: mend the cause, then retry or redirect the message)"
	case result.Verdict == activities.Published:
		mark, in.BrokerMessageID = a.MarkDelivered, result.BrokerMessageID
	case result.Verdict == activities.Overdue:
		mark, in.Reason, in.Attempts = a.MarkExpired, "expired: it was not published before its expiry", 0
	case result.Verdict == activities.Withdrawn:
		mark, in.Reason, in.Attempts = a.MarkCancelled, "cancelled: an operator asked for it", 0
	case result.Verdict == activities.Ended, result.Verdict == activities.Superseded, result.Verdict == activities.SetAside:
		return d.close(ctx, result.Outcome) // the row says it already, or is another run's
	default: // completed by hand
		mark, in.Reason = a.MarkDead, fmt.Sprintf("the activity was completed by hand, with the verdict %q (if the broker has no such message, retry or redirect it)", result.Verdict)
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

// close makes the run end as the row did, once the callback that the row asks for
// is on its way.
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

// isFinalFailure reports whether an activity's error says that no later attempt
// can succeed.
func isFinalFailure(err error) bool {
	kind := errorType(err)
	return kind == activities.ErrTypePermanent || kind == activities.ErrTypeNotFound
}

// nothingSent reports whether an activity's error says that it attempted nothing.
func nothingSent(err error) bool {
	kind := errorType(err)
	return kind == activities.ErrTypeNotAttempted || kind == activities.ErrTypeAnotherOutbox
}

// errorType is the type of the application error in err, or "".
func errorType(err error) string {
	var application *temporal.ApplicationError
	if errors.As(err, &application) {
		return application.Type()
	}
	return ""
}

// waitAfter is how long a failed attempt wants the next one to wait: what the broker
// may have is not sent again at once either.
func waitAfter(err error) time.Duration {
	var application *temporal.ApplicationError
	if errors.As(err, &application) && application.NextRetryDelay() > 0 {
		return application.NextRetryDelay()
	}
	return activities.FirstRetry
}

// reason is the publisher's own words, without the SDK's around them.
func reason(err error) string {
	var application *temporal.ApplicationError
	if errors.As(err, &application) {
		return application.Message()
	}
	return text.Clean(err.Error())
}
