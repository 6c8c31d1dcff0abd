package workflows

import (
	"fmt"

	"go.temporal.io/api/enums/v1"
	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/workflow"

	"github.com/outflowhq/outflow/activities"
)

// startCallback starts the run that tells the producer, and waits until it has
// started: it goes on when this one ends. What keeps it from starting is no
// matter of the delivery. The row stays due, so a scanner starts it later; or one
// is running already, and sees what the row says.
func startCallback(ctx workflow.Context, in CallbackInput) {
	ctx, _ = workflow.NewDisconnectedContext(ctx) // a cancelled message's producer is told, too
	ctx = workflow.WithChildOptions(ctx, workflow.ChildWorkflowOptions{
		WorkflowID:            in.ID(),
		WorkflowTaskTimeout:   activities.WorkflowTask,
		WorkflowIDReusePolicy: enums.WORKFLOW_ID_REUSE_POLICY_ALLOW_DUPLICATE,
		ParentClosePolicy:     enums.PARENT_CLOSE_POLICY_ABANDON,
		StaticSummary:         in.Summary(),
		TypedSearchAttributes: inherited(ctx),
	})
	if err := workflow.ExecuteChildWorkflow(ctx, WorkflowCallback, in).GetChildWorkflowExecution().Get(ctx, nil); err != nil {
		workflow.GetLogger(ctx).Warn("starting the callback; a scanner sees to it", "error", err)
	}
}

// inherited are the search attributes by which people find a delivery, for its
// callback: none where the namespace lacks them and the delivery has none.
func inherited(ctx workflow.Context) temporal.SearchAttributes {
	own := workflow.GetTypedSearchAttributes(ctx)
	var updates []temporal.SearchAttributeUpdate
	for _, key := range []temporal.SearchAttributeKeyKeyword{AttributeDestination, AttributeType} {
		if value, ok := own.GetKeyword(key); ok {
			updates = append(updates, key.ValueSet(value))
		}
	}
	return temporal.NewSearchAttributes(updates...)
}

// Callback tells a message's producer how it ended. It publishes the message
// never, and delays nothing: a retry of the message makes it superfluous. A run
// that gives up fails, and the row says why.
func Callback(ctx workflow.Context, in CallbackInput) (activities.CallbackResult, error) {
	var a *activities.Activities
	var result activities.CallbackResult
	input := activities.CallbackInput{Owner: in.owner(), MessageID: in.MessageID, Generation: in.Generation}
	err := workflow.ExecuteActivity(tellProducer(ctx), a.Callback, input).Get(ctx, &result)
	switch {
	case err == nil && (result.Verdict == activities.CallbackTold || result.Verdict == activities.CallbackNotOwed):
		return result, nil
	case isFinalFailure(err): // the row says so already, or is gone
		return result, temporal.NewNonRetryableApplicationError(reason(err), ErrTypeCallbackFailed, nil)
	case err == nil: // completed by hand
		input.Reason = fmt.Sprintf("the callback activity ended with an unknown verdict %q", result.Verdict)
	case ctx.Err() != nil || temporal.IsCanceledError(err):
		input.Reason = "cancelled: the workflow was asked to cancel"
	default: // its day is over, or an operator failed it by hand
		input.Reason = "given up: " + reason(err)
	}
	disconnected, _ := workflow.NewDisconnectedContext(ctx)
	if markErr := workflow.ExecuteActivity(durableMark(disconnected), a.MarkCallbackFailed, input).Get(disconnected, nil); markErr != nil {
		return result, markErr
	}
	if ctx.Err() != nil {
		return result, temporal.NewCanceledError(input.Reason)
	}
	return result, temporal.NewNonRetryableApplicationError(input.Reason, ErrTypeCallbackFailed, nil)
}

// tellProducer are the attempts: the activity names each wait itself, with
// jitter; the policy's are for one that died without an answer.
func tellProducer(ctx workflow.Context) workflow.Context {
	return workflow.WithActivityOptions(ctx, workflow.ActivityOptions{
		ActivityID:             ActivityIDCallback,
		StartToCloseTimeout:    activities.CallbackAttempt,
		HeartbeatTimeout:       activities.Silence,
		ScheduleToCloseTimeout: activities.CallbackAltogether,
		RetryPolicy: &temporal.RetryPolicy{
			InitialInterval:    activities.FirstRetry,
			BackoffCoefficient: 2,
			MaximumInterval:    activities.LastCallbackRetry,
		},
		// The producer may already be told: wait for the answer.
		WaitForCancellation: true,
		Summary:             "tell the producer",
	})
}
