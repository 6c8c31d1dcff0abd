package dispatcher

import (
	"cmp"
	"log/slog"
	"sync"
	"time"

	"go.temporal.io/sdk/worker"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/internal/timing"
	"github.com/outflowhq/outflow/scanner"
	"github.com/outflowhq/outflow/workflows"
)

const (
	// StopTimeout is the smallest WorkerStopTimeout of a worker that delivers: a stopping worker
	// waits that long for its activities. It has room for a publisher's longest call and for the
	// end of the message. With less, or with the SDK's default of 0, published messages stay
	// without their ends, and another worker publishes them again.
	StopTimeout = outflow.MaxCallTime + 5*time.Second
	// HeartbeatThrottle is the MaxHeartbeatThrottleInterval of such a worker. With the SDK's
	// default, a busy Temporal takes a slow publish for a crashed worker.
	HeartbeatThrottle = timing.HeartbeatThrottle
	// Slots are the workflow-task and local-activity slots of a worker without such options: the
	// SDK's default.
	Slots = 1000
)

// complete sets the options that are not set, and warns of options that do harm.
func (o *Options) complete() {
	o.Scanner.Logger = cmp.Or(o.Scanner.Logger, slog.Default())
	o.Scanner.Outbox = cmp.Or(o.Scanner.Outbox, outflow.DefaultOutbox)
	o.Scanner.TaskQueue = cmp.Or(o.Scanner.TaskQueue, workflows.TaskQueueFor(o.Scanner.Outbox))
	o.Scanner.MissingGrace = cmp.Or(o.Scanner.MissingGrace, outflow.DefaultMissingGrace)
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
		o.warn("a delivery whose workflow fails to replay is published again, by a new run;"+
			" the default waits for a worker that can go on",
			"option", "WorkflowPanicPolicy", "got", "FailWorkflow", "wants", "BlockWorkflow")
	}
	if w.LocalActivityWorkerOnly {
		o.warn("retries and callbacks need another worker on the task queue, which runs activities",
			"option", "LocalActivityWorkerOnly", "got", true, "task_queue", o.Scanner.TaskQueue)
	}
	if w.Tuner == nil {
		o.fitSlots("MaxConcurrentWorkflowTaskExecutionSize", &w.MaxConcurrentWorkflowTaskExecutionSize)
		o.fitSlots("MaxConcurrentLocalActivityExecutionSize", &w.MaxConcurrentLocalActivityExecutionSize)
	}
	w.MaxHeartbeatThrottleInterval = cmp.Or(w.MaxHeartbeatThrottleInterval, HeartbeatThrottle)
	if w.WorkflowTaskPollerBehavior == nil && w.MaxConcurrentWorkflowTaskPollers == 0 {
		w.WorkflowTaskPollerBehavior = worker.NewPollerBehaviorAutoscaling(worker.PollerBehaviorAutoscalingOptions{})
	}
	if w.ActivityTaskPollerBehavior == nil && w.MaxConcurrentActivityTaskPollers == 0 {
		w.ActivityTaskPollerBehavior = worker.NewPollerBehaviorAutoscaling(worker.PollerBehaviorAutoscalingOptions{})
	}
}

// newStreamWorker returns a worker of streams. It has its own task queue and slots, and of the program's
// options those that say how it is deployed.
func (d *Dispatcher) newStreamWorker(fail func(error)) worker.Worker {
	own := d.opts.Worker
	w := worker.New(d.opts.Client, workflows.StreamTaskQueue(d.opts.Scanner.TaskQueue), worker.Options{
		WorkerStopTimeout: own.WorkerStopTimeout, MaxConcurrentActivityExecutionSize: d.opts.Streams,
		MaxConcurrentWorkflowTaskPollers: 2, MaxConcurrentActivityTaskPollers: 1,
		MaxHeartbeatThrottleInterval: timing.StreamHeartbeatThrottle,
		Identity:                     own.Identity, DeploymentOptions: own.DeploymentOptions, Interceptors: own.Interceptors,
		OnFatalError: fail,
	})
	workflows.RegisterStream(w, d.streams)
	return w
}

// startAll starts workers, and returns a function that stops at once those that were started.
func startAll(workers []worker.Worker) (stop func(), err error) {
	var started []worker.Worker
	stop = func() {
		var stopping sync.WaitGroup
		for _, w := range started {
			stopping.Go(w.Stop)
		}
		stopping.Wait()
	}
	for _, w := range workers {
		if err := w.Start(); err != nil {
			return stop, err
		}
		started = append(started, w)
	}
	return stop, nil
}

// fitSlots has a slot for each message in flight. A message that waits for a slot runs out of time
// and leaves the fast path, so no more messages are in flight than there are slots.
func (o *Options) fitSlots(name string, slots *int) {
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

func (o *Options) warn(message string, details ...any) {
	o.Scanner.Logger.Warn("outflow's worker: "+message, details...)
}
