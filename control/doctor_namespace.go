package control

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/google/uuid"
	"go.temporal.io/api/enums/v1"
	"go.temporal.io/api/serviceerror"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/client"

	"github.com/outflowhq/outflow/internal/stall"
	"github.com/outflowhq/outflow/outbox"
	"github.com/outflowhq/outflow/workflows"
)

// NamespaceHealth is Temporal as Examine looks at it; NewNamespaceHealth makes one.
type NamespaceHealth interface {
	// SearchAttributes is Namespace's.
	SearchAttributes(ctx context.Context) (map[string]enums.IndexedValueType, error)
	// Pollers counts the workers of a task queue that take workflow tasks, and
	// those that take activities.
	Pollers(ctx context.Context, taskQueue string) (workflows, activities int, err error)
	// Schedule is the outbox's, or ErrNoSchedule.
	Schedule(ctx context.Context, outbox string) (ScheduleFound, error)
	// Elsewhere are the task queues, other than the given one, on which an outbox has
	// open runs. more says that not all runs were looked at.
	Elsewhere(ctx context.Context, outbox, taskQueue string) (runs map[string]int, more bool, err error)
	// Stalled returns why a message's open run does not go on, for certain; what and
	// remedy are empty where it does, or where there is none. A zero database is not
	// compared with the run's.
	Stalled(ctx context.Context, outbox string, database uuid.UUID, m outbox.Ref) (what, remedy string, err error)
}

// NewNamespaceHealth returns a namespace as the client, connected for it, sees it.
func NewNamespaceHealth(c client.Client, name string) NamespaceHealth {
	return namespaceHealth{Namespace: NewNamespace(c, name), client: c, name: name}
}

type namespaceHealth struct {
	Namespace
	client client.Client
	name   string
}

func (n namespaceHealth) Pollers(ctx context.Context, taskQueue string) (workflows, activities int, err error) {
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

func (n namespaceHealth) Schedule(ctx context.Context, outbox string) (ScheduleFound, error) {
	return FindSchedule(ctx, n.client, n.name, outbox)
}

// mostElsewhere bounds the runs that Elsewhere reads.
const mostElsewhere = 1000

func (n namespaceHealth) Elsewhere(ctx context.Context, outbox, taskQueue string) (map[string]int, bool, error) {
	found, err := n.client.ListWorkflow(ctx, &workflowservice.ListWorkflowExecutionsRequest{
		Namespace: n.name, PageSize: mostElsewhere,
		Query: fmt.Sprintf("WorkflowType IN ('%s', '%s') AND ExecutionStatus = 'Running' AND TaskQueue != '%s' AND WorkflowId STARTS_WITH '%s/'",
			workflows.WorkflowDeliver, workflows.WorkflowCallback, taskQueue, outbox),
	})
	if err != nil {
		return nil, false, err
	}
	on := map[string]int{}
	for _, e := range found.GetExecutions() {
		on[e.GetTaskQueue()]++
	}
	return on, len(found.GetNextPageToken()) > 0, nil
}

func (n namespaceHealth) Stalled(ctx context.Context, outbox string, database uuid.UUID, m outbox.Ref) (what, remedy string, err error) {
	p, err := stall.Look(ctx, n.client, stall.Expected{
		WorkflowID: workflows.DeliverID(outbox, m.ID), Type: workflows.WorkflowDeliver,
		Input: workflows.DeliverInput{Outbox: outbox, Database: database, MessageID: m.ID, Generation: m.Generation},
	})
	if p == nil || !p.Certain || err != nil {
		return "", "", err
	}
	return p.Text, p.Remedy, nil
}

const (
	startBoth    = "start outflow-starter and outflow-worker, with this OUTFLOW_TASK_QUEUE and namespace"
	askIdentity  = "check the identity's rights in the namespace, and ask again"
	anotherQueue = "start outflow-worker with OUTFLOW_TASK_QUEUE=%s until these have ended (\"Another task queue\" in docs/running.md)"
)

func (e *examination) pollers(ctx context.Context) {
	workflows, activities, err := e.Namespace.Pollers(ctx, e.TaskQueue)
	switch {
	case err != nil:
		e.say("workers", Warn, askIdentity, "task queue %s could not be looked at: %v", e.TaskQueue, err)
	case workflows == 0 || activities == 0:
		e.say("workers", Fail, startBoth, "nobody polls task queue %s (workflow tasks: %d pollers, activities: %d)", e.TaskQueue, workflows, activities)
	default:
		e.say("workers", OK, "", "task queue %s has %d pollers of workflow tasks, %d of activities", e.TaskQueue, workflows, activities)
	}
}

// schedule is what purges the table.
func (e *examination) schedule(ctx context.Context) {
	name := workflows.MaintainID(e.Outbox)
	found, err := e.Namespace.Schedule(ctx, e.Outbox)
	switch {
	case errors.Is(err, ErrNoSchedule):
		e.say("schedule", Warn, "start outflow-starter or outflow-worker, which write it within minutes",
			"there is no schedule %s: nothing is purged", name)
	case refused(err):
		e.say("schedule", Skipped, "", "this identity may not look at schedules: %v", err)
	case err != nil:
		e.say("schedule", Warn, askIdentity, "%v", err)
	case e.id != uuid.Nil && found.OfAnother(e.id):
		e.say("schedule", Fail, "give each database an OUTFLOW_OUTBOX of its own; after a database was made anew, restart the daemons",
			"%s maintains database %s, and this is database %s", name, found.Database, e.id)
	case found.TaskQueue != e.TaskQueue:
		e.say("schedule", Warn, "restart a daemon with the OUTFLOW_TASK_QUEUE that is to be", "%s runs on task queue %s, not %s", name, found.TaskQueue, e.TaskQueue)
	case found.Paused:
		e.say("schedule", Warn, "temporal schedule toggle --unpause --schedule-id "+quote(name), "%s is paused (%s): nothing is purged", name, found.Note)
	case e.id == uuid.Nil:
		e.say("schedule", Skipped, "", "%s is there; this database's ID is not known, so nobody can tell whether it maintains this one", name)
	default:
		e.say("schedule", OK, "", "%s maintains the table", name)
	}
}

// runs looks for messages whose runs do not take them: on task queues that no worker
// polls, or somebody else's under the same ID.
func (e *examination) runs(ctx context.Context) {
	bad := e.elsewhere(ctx)
	if !e.ready {
		return
	}
	messages, err := e.Database.InHand(ctx, examinedRuns)
	if err != nil {
		e.say("runs", Warn, askRights, "%v", err)
		return
	}
	if len(messages) > 0 && e.id == uuid.Nil {
		e.say("runs", Skipped, "", "the database's ID is not known, so nobody can tell whether runs are its own")
		return
	}
	stalled := map[[2]string][]outbox.Ref{}
	for _, m := range messages {
		what, remedy, err := e.Namespace.Stalled(ctx, e.Outbox, e.id, m)
		if err != nil {
			e.say("runs", Warn, askIdentity, "the run of message %s could not be looked at: %v", m.ID, err)
			return
		}
		if what != "" {
			key := [2]string{what, remedy}
			stalled[key] = append(stalled[key], m)
		}
	}
	for key, of := range stalled {
		e.say("runs", Fail, key[1], "%d of %d messages looked at, such as %s, wait for their run: %s", len(of), len(messages), of[0].ID, key[0])
	}
	if len(stalled) == 0 && !bad {
		e.say("runs", OK, "", "%d messages in hand were looked at: none waits for a run that does not go on", len(messages))
	}
}

// elsewhere looks at open runs on other task queues, and reports whether any waits.
func (e *examination) elsewhere(ctx context.Context) (bad bool) {
	on, more, err := e.Namespace.Elsewhere(ctx, e.Outbox, e.TaskQueue)
	if err != nil {
		var invalid *serviceerror.InvalidArgument
		if refused(err) || errors.As(err, &invalid) { // visibility may be limited
			e.say("runs", Skipped, "", "open runs on other task queues could not be listed: %v", err)
			return false
		}
		e.say("runs", Warn, askIdentity, "open runs on other task queues could not be listed: %v", err)
		return true
	}
	atLeast := ""
	if more {
		atLeast = "at least "
	}
	var queues []string
	for name := range on {
		queues = append(queues, name)
	}
	slices.Sort(queues)
	for _, name := range queues {
		workflows, activities, err := e.Namespace.Pollers(ctx, name)
		switch {
		case err != nil:
			e.say("runs", Warn, askIdentity, "task queue %s could not be looked at: %v", name, err)
			bad = true
		case workflows == 0 || activities == 0:
			e.say("runs", Fail, fmt.Sprintf(anotherQueue, name), "%s%d runs of outbox %s are on task queue %s, which nobody polls", atLeast, on[name], e.Outbox, name)
			bad = true
		default:
			e.say("runs", OK, "", "%s%d runs of outbox %s are on task queue %s, which workers poll", atLeast, on[name], e.Outbox, name)
		}
	}
	return bad
}
