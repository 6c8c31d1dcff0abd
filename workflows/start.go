package workflows

import (
	"go.temporal.io/api/enums/v1"
	"go.temporal.io/sdk/client"

	"github.com/outflowhq/outflow/internal/timing"
	"github.com/outflowhq/outflow/outbox"
)

// DeliverOptions returns the options with which the run of a message is started, for
// client.ExecuteWorkflow with WorkflowDeliver and a DeliverInput. The start is eager: a worker
// on the same client takes the run's first task with the answer. A namespace that lacks the
// search attributes refuses the start. It may be repeated with TypedSearchAttributes empty.
func DeliverOptions(outboxName, taskQueue string, r outbox.Record) client.StartWorkflowOptions {
	options := startOptions(DeliverID(outboxName, r.ID), taskQueue)
	options.EnableEagerStart = true
	options.TypedSearchAttributes = StartAttributes(r.Destination, r.Type)
	options.StaticSummary = Summary(r.Destination, r.Type)
	options.StaticDetails = Details(r)
	return options
}

// CallbackOptions is DeliverOptions for WorkflowCallback with a CallbackInput, where a scanner
// starts the run. It is not eager.
func CallbackOptions(in CallbackInput, taskQueue string, due outbox.DueCallback) client.StartWorkflowOptions {
	options := startOptions(in.ID(), taskQueue)
	options.TypedSearchAttributes = StartAttributes(due.Destination, due.Type)
	options.StaticSummary = in.Summary()
	return options
}

// reusePolicy lets a run follow one that has ended: the row alone decides whether there is
// anything left to do.
const reusePolicy = enums.WORKFLOW_ID_REUSE_POLICY_ALLOW_DUPLICATE

// startOptions are those of every run. Two runs under one ID never overlap: the start of the
// second one fails. No timeout ends a run: the row decides when a message is given up.
func startOptions(id, taskQueue string) client.StartWorkflowOptions {
	return client.StartWorkflowOptions{
		ID:                                       id,
		TaskQueue:                                taskQueue,
		WorkflowTaskTimeout:                      timing.WorkflowTask,
		WorkflowIDReusePolicy:                    reusePolicy,
		WorkflowIDConflictPolicy:                 enums.WORKFLOW_ID_CONFLICT_POLICY_FAIL,
		WorkflowExecutionErrorWhenAlreadyStarted: true,
	}
}
