package workflows

import (
	"fmt"

	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/workflow"

	"github.com/outflowhq/outflow/activities"
)

// The options of every activity. The durations and their reasons stand in one
// table, activities/timing.go.

// once is for the fast path: what fails there goes on durably.
var once = &temporal.RetryPolicy{MaximumAttempts: 1}

// endlessly is for the durable path. The activity names each wait itself, with
// jitter; these are the bounds that Temporal falls back to when an attempt died
// without an answer.
var endlessly = &temporal.RetryPolicy{
	InitialInterval:    activities.FirstRetry,
	BackoffCoefficient: 2,
	MaximumInterval:    activities.LastRetry,
}

func localPublish(ctx workflow.Context) workflow.Context {
	return workflow.WithLocalActivityOptions(ctx, workflow.LocalActivityOptions{
		ScheduleToCloseTimeout: activities.LocalPublish,
		RetryPolicy:            once,
		Summary:                "publish" + toDestination(ctx),
	})
}

func localMark(ctx workflow.Context) workflow.Context {
	return workflow.WithLocalActivityOptions(ctx, workflow.LocalActivityOptions{
		ScheduleToCloseTimeout: activities.LocalMark,
		RetryPolicy:            once,
		Summary:                "write the end to the row",
	})
}

// durablePublish is for the nth time that the run takes up its durable attempts.
// The SDK takes no activity ID twice where the first was cancelled under way.
func durablePublish(ctx workflow.Context, n int) workflow.Context {
	id := ActivityIDPublish
	if n > 1 {
		id = fmt.Sprintf("%s-%d", ActivityIDPublish, n)
	}
	return workflow.WithActivityOptions(ctx, workflow.ActivityOptions{
		ActivityID:          id,
		StartToCloseTimeout: activities.Durable,
		HeartbeatTimeout:    activities.Silence,
		RetryPolicy:         endlessly,
		// What is under way may already be published: wait for its answer.
		WaitForCancellation: true,
		Summary:             "publish" + toDestination(ctx),
	})
}

func durableMark(ctx workflow.Context) workflow.Context {
	return workflow.WithActivityOptions(ctx, workflow.ActivityOptions{
		ActivityID:          ActivityIDMark,
		StartToCloseTimeout: activities.DurableMark,
		RetryPolicy:         endlessly,
		Summary:             "write the end to the row",
	})
}

// toDestination names the destination, where the start's search attributes do.
func toDestination(ctx workflow.Context) string {
	destination, ok := workflow.GetTypedSearchAttributes(ctx).GetKeyword(AttributeDestination)
	if !ok {
		return ""
	}
	return " to " + code(destination)
}
