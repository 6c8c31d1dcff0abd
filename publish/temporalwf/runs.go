package temporalwf

import (
	"context"
	"fmt"

	commonpb "go.temporal.io/api/common/v1"
	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/api/serviceerror"
	workflowpb "go.temporal.io/api/workflow/v1"
	"go.temporal.io/api/workflowservice/v1"
	"google.golang.org/grpc"

	"github.com/outflowhq/outflow"
)

// resolve says what came of a message whose workflow ID has a run that Temporal did not take for
// this message's. It may be this message's all the same: a run that continued as new has another
// request ID, and keeps the memo.
func (c *call) resolve(r *request, taken *serviceerror.WorkflowExecutionAlreadyStarted) (runID string, err error) {
	if taken.StartRequestId == r.messageID {
		return taken.RunId, nil
	}
	run, err := c.describe(r, taken.RunId)
	if lost(err) {
		return "", outflow.Retryable(fmt.Errorf("%s: workflow %s was deleted meanwhile (it is tried again)",
			c.doing, r.workflowID))
	}
	if err != nil {
		return "", err
	}
	id := run.GetExecution().GetRunId()
	first, err := c.firstOf(r, run)
	if err != nil {
		return "", err
	}
	other := notOf(run, r.workflow)
	switch {
	case isOf(run.GetMemo(), r.messageID), isOf(first.GetMemo(), r.messageID):
		return first.GetExecution().GetRunId(), nil
	case other != "":
		return "", refused(c.doing, "AlreadyExists: workflow %s is %s, run %s, %s (enqueue with another %s)",
			r.workflowID, other, id, stateOf(run), workflowIDHeader)
	case r.useExisting:
		return id, nil
	case r.signal != "":
		return "", refused(c.doing, "AlreadyExists: workflow %s takes no signal any more, run %s, %s; it may have had "+
			"this one before (look for its %s in the history; enqueue with the ID of a workflow that runs)",
			r.workflowID, id, stateOf(run), HeaderMessageID)
	}
	return "", refused(c.doing, "AlreadyExists: workflow %s was started by another request, run %s, %s (enqueue with "+
		"another %s, or redirect the message to its destination with existing=use where that run will do)",
		r.workflowID, id, stateOf(run), workflowIDHeader)
}

// firstOf returns the first of the runs that continued as run, or run where that is deleted.
func (c *call) firstOf(r *request, run *workflowpb.WorkflowExecutionInfo) (*workflowpb.WorkflowExecutionInfo, error) {
	id := run.GetFirstRunId()
	if id == "" || id == run.GetExecution().GetRunId() {
		return run, nil
	}
	first, err := c.describe(r, id)
	if lost(err) {
		return run, nil
	}
	return first, err
}

// checkSignalled refuses to signal a run of a workflow that is not the destination's: Temporal
// looks at the workflow ID alone, and whoever may enqueue could signal anything.
func (c *call) checkSignalled(r *request) error {
	run, err := c.describe(r, "")
	switch {
	case lost(err):
		return nil
	case err != nil:
		return err
	}
	if other := notOf(run, r.workflow); other != "" {
		return refused(c.doing, "workflow %s is %s (run %s): nothing was sent (enqueue with another %s)",
			r.workflowID, other, run.GetExecution().GetRunId(), workflowIDHeader)
	}
	return nil
}

// notOf says which workflow a run is of where that is another than w, and "" where it is w.
func notOf(run *workflowpb.WorkflowExecutionInfo, w workflow) string {
	if run.GetType().GetName() == w.workflowType && run.GetTaskQueue() == w.taskQueue {
		return ""
	}
	return fmt.Sprintf("a %q on task queue %q", run.GetType().GetName(), run.GetTaskQueue())
}

func stateOf(run *workflowpb.WorkflowExecutionInfo) string {
	if run.GetStatus() == enumspb.WORKFLOW_EXECUTION_STATUS_RUNNING {
		return "running"
	}
	return "closed as " + run.GetStatus().String()
}

// describe looks a run up; an empty runID means the latest.
func (c *call) describe(r *request, runID string) (*workflowpb.WorkflowExecutionInfo, error) {
	var answer *workflowservice.DescribeWorkflowExecutionResponse
	err := c.ask(func(ctx context.Context, option grpc.CallOption) (err error) {
		answer, err = c.service.DescribeWorkflowExecution(ctx, &workflowservice.DescribeWorkflowExecutionRequest{
			Namespace: r.namespace,
			Execution: &commonpb.WorkflowExecution{WorkflowId: r.workflowID, RunId: runID},
		}, option)
		return err
	})
	return answer.GetWorkflowExecutionInfo(), err
}
