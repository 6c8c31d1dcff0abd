package workflows

import (
	"time"

	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/workflow"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/activities"
	"github.com/outflowhq/outflow/internal/timing"
	"github.com/outflowhq/outflow/outbox"
)

// StreamResult is what a stream has done.
type StreamResult struct {
	outbox.Progress
	// Ended is why it ended, such as "drained".
	Ended outbox.StreamEnd `json:"ended"`
}

// Stream delivers the backlog of one destination, in pages of claimed rows, instead of a run for each
// message. Its one activity goes on for some minutes; then the run has another, as often as there is
// more to deliver.
func Stream(ctx workflow.Context, in StreamInput) (StreamResult, error) {
	done := in.Done
	for first := done.Total() == 0; ; first = false {
		var result activities.StreamResult
		task := activities.StreamInput{Owner: in.owner(), Destination: in.Destination, First: first, Before: done}
		err := workflow.ExecuteActivity(streaming(ctx), ActivityStream, task).Get(ctx, &result)
		done = done.Plus(result.Progress)
		switch {
		case err != nil:
			return StreamResult{Progress: done}, err
		case result.Ended == outbox.StreamCancelled:
			return StreamResult{Progress: done, Ended: result.Ended}, temporal.NewCanceledError()
		case result.Ended != outbox.StreamTurn && result.Ended != outbox.StreamStopped:
			return StreamResult{Progress: done, Ended: result.Ended}, nil
		case workflow.GetInfo(ctx).GetContinueAsNewSuggested():
			in.Done = done
			return StreamResult{}, workflow.NewContinueAsNewError(ctx, WorkflowStream, in)
		}
	}
}

func streaming(ctx workflow.Context) workflow.Context {
	return workflow.WithActivityOptions(ctx, workflow.ActivityOptions{
		ActivityID:          ActivityIDStream,
		StartToCloseTimeout: timing.StreamAttempt,
		HeartbeatTimeout:    timing.StreamHeartbeatTimeout,
		RetryPolicy:         unlimited(timing.Backoff{First: time.Second, Max: 2 * time.Second}),
		// Requests under way are waited for, and their ends written.
		WaitForCancellation: true,
		Summary:             "publish in pages" + toDestination(ctx),
	})
}

// StreamOptions returns the options with which a destination's stream is started, for
// client.ExecuteWorkflow with WorkflowStream and a StreamInput. taskQueue is that of the outbox's other
// runs.
func StreamOptions(outboxName, taskQueue, destination string) client.StartWorkflowOptions {
	options := startOptions(StreamID(outboxName, destination), StreamTaskQueue(taskQueue))
	options.TypedSearchAttributes = temporal.NewSearchAttributes(
		AttributeDestination.ValueSet(keyword(outflow.DisplayDestination(destination))))
	options.StaticSummary = "deliver the backlog of " +
		code(cut(outflow.DisplayDestination(destination), maxKeyword-len("deliver the backlog of ``")))
	return options
}
