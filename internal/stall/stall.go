// Package stall finds out why the open run under a workflow ID does not deliver its message.
//
// The invariant: a look changes nothing, and compares no clocks.
package stall

import (
	"context"
	"errors"
	"fmt"

	"github.com/google/uuid"
	"go.temporal.io/api/enums/v1"
	failurepb "go.temporal.io/api/failure/v1"
	"go.temporal.io/api/serviceerror"
	workflowpb "go.temporal.io/api/workflow/v1"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/converter"

	"github.com/outflowhq/outflow/activities"
	"github.com/outflowhq/outflow/workflows"
)

// Client has the methods of a Temporal client that a look calls.
type Client interface {
	DescribeWorkflowExecution(
		ctx context.Context, workflowID, runID string,
	) (*workflowservice.DescribeWorkflowExecutionResponse, error)
	DescribeTaskQueue(
		ctx context.Context, taskQueue string, kind enums.TaskQueueType,
	) (*workflowservice.DescribeTaskQueueResponse, error)
	GetWorkflowHistory(
		ctx context.Context, workflowID, runID string, isLongPoll bool, filter enums.HistoryEventFilterType,
	) client.HistoryEventIterator
}

// Expected is the run that should be open under a workflow ID.
type Expected struct {
	WorkflowID string
	Type       string // of the workflow
	// Input is the run's input. A zero Database is unknown, and not compared.
	Input workflows.DeliverInput
}

// Problem is why a run does not deliver its message.
type Problem struct {
	// Text says what the run waits for, Remedy what to do.
	Text, Remedy string
	// TaskQueue and Type are the run's.
	TaskQueue, Type string
	// Certain: waiting does not help. Otherwise the run is merely slow.
	Certain bool
}

// Look returns why the open run under an ID does not go on. It returns nil where the run goes on,
// has ended, or does not exist.
func Look(ctx context.Context, c Client, want Expected) (*Problem, error) {
	described, err := c.DescribeWorkflowExecution(ctx, want.WorkflowID, "")
	var none *serviceerror.NotFound
	if errors.As(err, &none) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("describing workflow %s: %w", want.WorkflowID, err)
	}
	info := described.GetWorkflowExecutionInfo()
	if info.GetStatus() != enums.WORKFLOW_EXECUTION_STATUS_RUNNING {
		return nil, nil
	}
	l := look{client: c, want: want, info: info}
	if p := l.mismatch(ctx); p != nil {
		return l.complete(p), nil
	}
	p, err := l.waitsFor(ctx, described)
	return l.complete(p), err
}

// look is one look at an open run.
type look struct {
	client Client
	want   Expected
	info   *workflowpb.WorkflowExecutionInfo
}

// complete adds the run's task queue and type.
func (l look) complete(p *Problem) *Problem {
	if p != nil {
		p.TaskQueue, p.Type = l.info.GetTaskQueue(), l.info.GetType().GetName()
	}
	return p
}

// mismatch returns a problem where the run belongs to another message or another workflow.
func (l look) mismatch(ctx context.Context) *Problem {
	problem := func(format string, args ...any) *Problem {
		return &Problem{
			Certain: true, Text: fmt.Sprintf(format, args...),
			Remedy: fmt.Sprintf("end it if nobody needs it (temporal workflow terminate --workflow-id %q),"+
				" or give this outbox another OUTFLOW_OUTBOX", l.want.WorkflowID),
		}
	}
	if kind := l.info.GetType().GetName(); kind != l.want.Type {
		return problem("a run of workflow %q stands under the ID, where %q is to be", kind, l.want.Type)
	}
	in, ok := l.input(ctx)
	switch {
	case !ok:
		return nil
	case in.Outbox != l.want.Input.Outbox || in.MessageID != l.want.Input.MessageID:
		return problem("the run is of message %s in outbox %q", in.MessageID, in.Outbox)
	case l.want.Input.Database != uuid.Nil && in.Database != l.want.Input.Database:
		return problem("the run is of database %s, and this is database %s (outbox.identity)",
			in.Database, l.want.Input.Database)
	}
	return nil
}

// input returns the run's input. ok is false where it can't be read: a client may encode payloads
// in its own way.
func (l look) input(ctx context.Context) (in workflows.DeliverInput, ok bool) {
	run := l.info.GetExecution()
	events := l.client.GetWorkflowHistory(ctx, run.GetWorkflowId(), run.GetRunId(), false,
		enums.HISTORY_EVENT_FILTER_TYPE_ALL_EVENT)
	if !events.HasNext() {
		return in, false
	}
	first, err := events.Next()
	if err != nil {
		return in, false
	}
	payloads := first.GetWorkflowExecutionStartedEventAttributes().GetInput()
	if len(payloads.GetPayloads()) != 1 {
		return in, false
	}
	encoding := payloads.GetPayloads()[0].GetMetadata()[converter.MetadataEncoding]
	if string(encoding) != converter.MetadataEncodingJSON {
		return in, false
	}
	return in, converter.GetDefaultDataConverter().FromPayloads(payloads, &in) == nil
}

// waitsFor returns what the run's next task waits for.
func (l look) waitsFor(
	ctx context.Context, described *workflowservice.DescribeWorkflowExecutionResponse,
) (*Problem, error) {
	if task := described.GetPendingWorkflowTask(); task.GetState() == enums.PENDING_WORKFLOW_TASK_STATE_SCHEDULED {
		p, err := l.unpolled(ctx, enums.TASK_QUEUE_TYPE_WORKFLOW)
		if p != nil || err != nil {
			return p, err
		}
		if task.GetAttempt() > 2 {
			return &Problem{
				Text: fmt.Sprintf("its workflow task fails: it is at attempt %d", task.GetAttempt()),
				Remedy: "read the worker's log, and the history: temporal workflow show --workflow-id " +
					quote(l.want.WorkflowID),
			}, nil
		}
		return &Problem{Remedy: "add workers", Text: "its workflow task waits for a free worker"}, nil
	}
	for _, a := range described.GetPendingActivities() {
		if p, err := l.activityWaitsFor(ctx, a); p != nil || err != nil {
			return p, err
		}
	}
	return nil, nil
}

func (l look) activityWaitsFor(ctx context.Context, a *workflowpb.PendingActivityInfo) (*Problem, error) {
	named := fmt.Sprintf("its activity %q", a.GetActivityId())
	switch {
	case a.GetPaused() || a.GetState() == enums.PENDING_ACTIVITY_STATE_PAUSED:
		return &Problem{
			Certain: true, Text: named + " is paused",
			Remedy: fmt.Sprintf("temporal activity unpause --workflow-id %q --activity-id %q",
				l.want.WorkflowID, a.GetActivityId()),
		}, nil
	case a.GetState() != enums.PENDING_ACTIVITY_STATE_SCHEDULED:
		return nil, nil // an attempt is under way
	}
	p, err := l.unpolled(ctx, enums.TASK_QUEUE_TYPE_ACTIVITY)
	if p != nil || err != nil {
		return p, err
	}
	failure := a.GetLastFailure()
	text := fmt.Sprintf("%s waits for attempt %d", named, a.GetAttempt())
	if failure.GetMessage() != "" {
		text += "; the last one: " + failure.GetMessage()
	}
	return &Problem{
		Text: text, Remedy: "fix the cause that the last attempt names; where it names none, add workers",
		Certain: isForeign(failure),
	}, nil
}

// unpolled returns a problem where no worker polls the run's queue for such tasks.
func (l look) unpolled(ctx context.Context, kind enums.TaskQueueType) (*Problem, error) {
	name := l.info.GetTaskQueue()
	found, err := l.client.DescribeTaskQueue(ctx, name, kind)
	if err != nil {
		return nil, fmt.Errorf("describing task queue %s: %w", name, err)
	}
	if len(found.GetPollers()) > 0 {
		return nil, nil
	}
	tasks := "workflow tasks"
	if kind == enums.TASK_QUEUE_TYPE_ACTIVITY {
		tasks = "activities"
	}
	return &Problem{
		Certain: true, Text: fmt.Sprintf("it waits on task queue %q, from which no worker takes %s", name, tasks),
		Remedy: "start outflow-worker with OUTFLOW_TASK_QUEUE=" + name +
			" until its runs have ended (\"Another task queue\" in docs/running.md)",
	}, nil
}

// isForeign reports whether a worker of another outbox had the last attempt.
func isForeign(f *failurepb.Failure) bool {
	return f.GetApplicationFailureInfo().GetType() == activities.ErrTypeAnotherOutbox
}

func quote(s string) string { return fmt.Sprintf("%q", s) }
