package workflows

import (
	"fmt"

	"go.temporal.io/api/enums/v1"
	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/workflow"

	"github.com/outflowhq/outflow/activities"
	"github.com/outflowhq/outflow/internal/timing"
)

// startCallback starts the run that notifies the producer, and waits until that run has
// started: it outlives this one. A failure to start it does not fail the delivery: the row stays
// due, and a scanner starts it later. If it is running already, it reads the row itself.
func startCallback(ctx workflow.Context, in CallbackInput) {
	ctx, _ = workflow.NewDisconnectedContext(ctx) // a cancelled message has a callback, too
	ctx = workflow.WithChildOptions(ctx, workflow.ChildWorkflowOptions{
		WorkflowID:            in.ID(),
		WorkflowTaskTimeout:   timing.WorkflowTask,
		WorkflowIDReusePolicy: reusePolicy,
		ParentClosePolicy:     enums.PARENT_CLOSE_POLICY_ABANDON,
		StaticSummary:         in.Summary(),
		TypedSearchAttributes: inherited(ctx),
	})
	started := workflow.ExecuteChildWorkflow(ctx, WorkflowCallback, in).GetChildWorkflowExecution()
	if err := started.Get(ctx, nil); err != nil {
		workflow.GetLogger(ctx).Warn("starting the callback; a scanner starts it later", "error", err)
	}
}

// inherited returns the search attributes of a delivery for its callback. There are none where
// the namespace lacks them and the delivery has none.
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

// Callback notifies a message's producer of its end. It never publishes the message, and delays
// nothing: a retry of the message makes the callback superfluous. A run that gives up fails, and
// the row says why.
func Callback(ctx workflow.Context, in CallbackInput) (activities.CallbackResult, error) {
	var a *activities.Activities
	var result activities.CallbackResult
	input := activities.CallbackInput{Owner: in.owner(), MessageID: in.MessageID, Generation: in.Generation}
	err := workflow.ExecuteActivity(sendCallback(ctx), a.Callback, input).Get(ctx, &result)
	switch {
	case err == nil && (result.Verdict == activities.CallbackSent || result.Verdict == activities.CallbackNotDue):
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
	markErr := workflow.ExecuteActivity(durableMark(disconnected), a.MarkCallbackFailed, input).Get(disconnected, nil)
	if markErr != nil {
		return result, markErr
	}
	if ctx.Err() != nil {
		return result, temporal.NewCanceledError(input.Reason)
	}
	return result, temporal.NewNonRetryableApplicationError(input.Reason, ErrTypeCallbackFailed, nil)
}
