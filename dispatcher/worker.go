package dispatcher

import (
	"cmp"
	"log/slog"
	"time"

	"go.temporal.io/sdk/worker"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/internal/timing"
	"github.com/outflowhq/outflow/scanner"
	"github.com/outflowhq/outflow/workflows"
)

const (
	// StopTimeout is the least WorkerStopTimeout of a worker that delivers: a stopping
	// worker waits that long for what it is doing. With less, or with the SDK's default
	// of 0, what is published stays unmarked, and another worker publishes it again. It
	// holds the longest call that a publisher makes, and its mark.
	StopTimeout = outflow.MaxCallTime + 5*time.Second
	// HeartbeatThrottle is the MaxHeartbeatThrottleInterval of such a worker. With the SDK's
	// default, a busy Temporal takes a slow publish for a crashed one.
	HeartbeatThrottle = timing.HeartbeatThrottle
	// Slots are the workflow-task and local-activity slots of a worker, where the
	// options name none: the SDK's default.
	Slots = 1000
)

// complete sets what is not set, and warns of what is set and does harm.
func (o *Options) complete() {
	o.Scanner.Logger = cmp.Or(o.Scanner.Logger, slog.Default())
	o.Scanner.Outbox = cmp.Or(o.Scanner.Outbox, outflow.DefaultOutbox)
	o.Scanner.TaskQueue = cmp.Or(o.Scanner.TaskQueue, workflows.TaskQueueFor(o.Scanner.Outbox))
	o.Scanner.InFlight = cmp.Or(max(o.Scanner.InFlight, 0), scanner.DefaultInFlight)
	w := &o.Worker
	if w.WorkerStopTimeout == 0 {
		w.WorkerStopTimeout = StopTimeout
	}
	if w.WorkerStopTimeout < StopTimeout {
		o.warn("messages that are under way when the program stops may be published twice",
			"option", "WorkerStopTimeout", "got", w.WorkerStopTimeout, "wants_at_least", StopTimeout)
	}
	if w.WorkflowPanicPolicy == worker.FailWorkflow {
		o.warn("a delivery whose workflow fails to replay is published again, by a new run; the default waits for a worker that can go on",
			"option", "WorkflowPanicPolicy", "got", "FailWorkflow", "wants", "BlockWorkflow")
	}
	if w.LocalActivityWorkerOnly {
		o.warn("retries and callbacks want another worker on the task queue, which runs activities",
			"option", "LocalActivityWorkerOnly", "got", true, "task_queue", o.Scanner.TaskQueue)
	}
	if w.Tuner == nil {
		o.size("MaxConcurrentWorkflowTaskExecutionSize", &w.MaxConcurrentWorkflowTaskExecutionSize)
		o.size("MaxConcurrentLocalActivityExecutionSize", &w.MaxConcurrentLocalActivityExecutionSize)
	}
	w.MaxHeartbeatThrottleInterval = cmp.Or(w.MaxHeartbeatThrottleInterval, HeartbeatThrottle)
	if w.WorkflowTaskPollerBehavior == nil && w.MaxConcurrentWorkflowTaskPollers == 0 {
		w.WorkflowTaskPollerBehavior = worker.NewPollerBehaviorAutoscaling(worker.PollerBehaviorAutoscalingOptions{})
	}
	if w.ActivityTaskPollerBehavior == nil && w.MaxConcurrentActivityTaskPollers == 0 {
		w.ActivityTaskPollerBehavior = worker.NewPollerBehaviorAutoscaling(worker.PollerBehaviorAutoscalingOptions{})
	}
}

// size gives a message in flight a slot. One that waits for a slot runs out of time
// there and leaves the fast path, so no more are in flight than there are slots.
func (o *Options) size(name string, slots *int) {
	if *slots == 0 {
		*slots = max(Slots, o.Scanner.InFlight)
	}
	if *slots < o.Scanner.InFlight {
		o.warn("no more messages are in flight than the worker has slots",
			"option", name, "got", *slots, "wants_at_least", o.Scanner.InFlight)
		o.Scanner.InFlight = *slots
		o.Scanner.PerDestination = min(o.Scanner.PerDestination, *slots)
	}
}

func (o *Options) warn(what string, details ...any) {
	o.Scanner.Logger.Warn("outflow's worker: "+what, details...)
}
