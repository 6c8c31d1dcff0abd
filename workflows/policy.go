package workflows

import (
	"fmt"

	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/workflow"

	"github.com/outflowhq/outflow/internal/timing"
)

// The options of every activity of Deliver and Callback. The durations and their reasons stand in
// one table: package timing.

// oneAttempt is for the fast path. A failure there goes on durably.
var oneAttempt = &temporal.RetryPolicy{MaximumAttempts: 1}

// unlimited is for the durable path: attempts without a limit. The activity names each wait
// itself, with jitter. Temporal falls back to these bounds when an attempt crashed.
func unlimited(b timing.Backoff) *temporal.RetryPolicy {
	return &temporal.RetryPolicy{InitialInterval: b.First, BackoffCoefficient: 2, MaximumInterval: b.Max}
}

func localPublish(ctx workflow.Context) workflow.Context {
	return workflow.WithLocalActivityOptions(ctx, workflow.LocalActivityOptions{
		ScheduleToCloseTimeout: timing.LocalPublish,
		RetryPolicy:            oneAttempt,
		Summary:                "publish" + toDestination(ctx),
	})
}

func localMark(ctx workflow.Context) workflow.Context {
	return workflow.WithLocalActivityOptions(ctx, workflow.LocalActivityOptions{
		ScheduleToCloseTimeout: timing.LocalMark,
		RetryPolicy:            oneAttempt,
		Summary:                "write the end to the row",
	})
}

// durablePublish is for the nth series of durable attempts. The SDK accepts no activity ID
// twice where the first activity was cancelled under way.
func durablePublish(ctx workflow.Context, n int) workflow.Context {
	id := ActivityIDPublish
	if n > 1 {
		id = fmt.Sprintf("%s-%d", ActivityIDPublish, n)
	}
	return workflow.WithActivityOptions(ctx, workflow.ActivityOptions{
		ActivityID:          id,
		StartToCloseTimeout: timing.DurablePublish,
		HeartbeatTimeout:    timing.HeartbeatTimeout,
		RetryPolicy:         unlimited(timing.PublishBackoff),
		// An attempt under way may already have published: wait for its answer.
		WaitForCancellation: true,
		Summary:             "publish" + toDestination(ctx),
	})
}

func durableMark(ctx workflow.Context) workflow.Context {
	return workflow.WithActivityOptions(ctx, workflow.ActivityOptions{
		ActivityID:          ActivityIDMark,
		StartToCloseTimeout: timing.DurableMark,
		RetryPolicy:         unlimited(timing.PublishBackoff),
		Summary:             "write the end to the row",
	})
}

// sendCallback is for the attempts to send a callback, a day long.
func sendCallback(ctx workflow.Context) workflow.Context {
	return workflow.WithActivityOptions(ctx, workflow.ActivityOptions{
		ActivityID:             ActivityIDCallback,
		StartToCloseTimeout:    timing.CallbackAttempt,
		HeartbeatTimeout:       timing.HeartbeatTimeout,
		ScheduleToCloseTimeout: timing.CallbackTotal,
		RetryPolicy:            unlimited(timing.CallbackBackoff),
		// The receiver may already have the callback: wait for the answer.
		WaitForCancellation: true,
		Summary:             "notify the producer",
	})
}

// toDestination names the destination, where the start's search attributes have it.
func toDestination(ctx workflow.Context) string {
	destination, ok := workflow.GetTypedSearchAttributes(ctx).GetKeyword(AttributeDestination)
	if !ok {
		return ""
	}
	return " to " + code(destination)
}
