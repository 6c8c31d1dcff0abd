package namespace

import (
	"context"
	"fmt"

	"github.com/google/uuid"
	"go.temporal.io/api/enums/v1"
	"go.temporal.io/api/workflowservice/v1"

	"github.com/outflowhq/outflow/internal/stall"
	"github.com/outflowhq/outflow/outbox"
	"github.com/outflowhq/outflow/workflows"
)

// maxListedRuns bounds the runs that OtherTaskQueues reads.
const maxListedRuns = 1000

// Pollers counts the workers of a task queue that poll for workflow tasks, and those that poll for
// activities.
func (n *Namespace) Pollers(ctx context.Context, taskQueue string) (workflows, activities int, err error) {
	for _, each := range []struct {
		kind  enums.TaskQueueType
		count *int
	}{{enums.TASK_QUEUE_TYPE_WORKFLOW, &workflows}, {enums.TASK_QUEUE_TYPE_ACTIVITY, &activities}} {
		described, err := n.client.DescribeTaskQueue(ctx, taskQueue, each.kind)
		if err != nil {
			return 0, 0, err
		}
		*each.count = len(described.GetPollers())
	}
	return workflows, activities, nil
}

// FindSchedule returns an outbox's schedule, or ErrNoSchedule.
func (n *Namespace) FindSchedule(ctx context.Context, outbox string) (FoundSchedule, error) {
	return FindSchedule(ctx, n.client, n.name, outbox)
}

// OtherTaskQueues counts an outbox's open runs by task queue, those on taskQueue aside. It reads at
// most 1000 runs; more says that there are others.
func (n *Namespace) OtherTaskQueues(
	ctx context.Context, outbox, taskQueue string,
) (runs map[string]int, more bool, err error) {
	const query = "WorkflowType IN ('%s', '%s', '%s') AND ExecutionStatus = 'Running' " +
		"AND TaskQueue != '%s' AND WorkflowId STARTS_WITH '%s/'"
	found, err := n.client.ListWorkflow(ctx, &workflowservice.ListWorkflowExecutionsRequest{
		Namespace: n.name, PageSize: maxListedRuns,
		Query: fmt.Sprintf(query, workflows.WorkflowDeliver, workflows.WorkflowCallback, workflows.WorkflowStream, taskQueue,
			outbox),
	})
	if err != nil {
		return nil, false, err
	}
	runs = map[string]int{}
	for _, e := range found.GetExecutions() {
		runs[e.GetTaskQueue()]++
	}
	return runs, len(found.GetNextPageToken()) > 0, nil
}

// Stalled returns why the open run of a message of the named outbox can't go on, and what to do
// about it. Both are empty where the run goes on or may, and where there is none. A zero database
// is not compared with the run's.
func (n *Namespace) Stalled(
	ctx context.Context, name string, database uuid.UUID, m outbox.Ref,
) (problem, remedy string, err error) {
	p, err := stall.Look(ctx, n.client, stall.Expected{
		WorkflowID: workflows.DeliverID(name, m.ID), Type: workflows.WorkflowDeliver,
		Input: workflows.DeliverInput{Outbox: name, Database: database, MessageID: m.ID, Generation: m.Generation},
	})
	if p == nil || !p.Certain || err != nil {
		return "", "", err
	}
	return p.Text, p.Remedy, nil
}
