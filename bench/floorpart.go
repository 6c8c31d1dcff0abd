package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/worker"
	"go.temporal.io/sdk/workflow"

	"github.com/outflowhq/outflow/workflows"
)

const (
	// inFlight is how many of a drain's messages a tracked starter has in flight by default: all go
	// to one queue, and OUTFLOW_PER_DESTINATION is half of OUTFLOW_IN_FLIGHT. The other variants
	// start as many at a time.
	inFlight = 100
	// slots of floor's worker are those of Outflow's.
	slots = 1000
	// warmup messages go first and are not measured: connections, caches, and Temporal's task
	// queue.
	warmup = 50
)

// floorDone is what floor reports after a drain.
type floorDone struct{ Seconds float64 }

// floorPart starts workflows eagerly, as many at a time as a starter of Outflow has in flight: what
// Temporal costs by itself. They are empty, or have two local activities and are listed as Outflow's
// are. It warms up, says so, waits for a line and measures; a slot is held until the workflow's code
// has run, as Outflow's is until the row's end is written. Arguments: address, task queue, how many.
func floorPart(two bool) func(context.Context, []string, io.Writer) error {
	return func(ctx context.Context, args []string, stdout io.Writer) error {
		return runFloor(ctx, two, args, stdout)
	}
}

func runFloor(ctx context.Context, two bool, args []string, stdout io.Writer) error {
	var messages int
	if len(args) != 3 {
		return errors.New("floor wants an address, a task queue and a number")
	}
	if _, err := fmt.Sscan(args[2], &messages); err != nil {
		return fmt.Errorf("reading the number: %w", err)
	}
	c, err := dial(ctx, args[0])
	if err != nil {
		return err
	}
	defer c.Close()
	f := &floorRun{client: c, options: client.StartWorkflowOptions{TaskQueue: args[1], EnableEagerStart: true}}
	code := f.empty
	if two {
		f.listAsOutflow()
		code = f.twoSteps
	}
	w := worker.New(c, f.options.TaskQueue, worker.Options{
		MaxConcurrentWorkflowTaskExecutionSize: slots,
		WorkflowTaskPollerBehavior:             worker.NewPollerBehaviorAutoscaling(worker.PollerBehaviorAutoscalingOptions{}),
	})
	w.RegisterWorkflowWithOptions(code, workflow.RegisterOptions{Name: floorWorkflow})
	if err := w.Start(); err != nil {
		return fmt.Errorf("starting the worker: %w", err)
	}
	defer w.Stop()
	if _, err := f.drain(ctx, "warm", warmup); err != nil {
		return err
	}
	if err := reportLine(stdout, struct{}{}); err != nil {
		return err
	}
	if _, err := bufio.NewReader(os.Stdin).ReadString('\n'); err != nil {
		return fmt.Errorf("waiting for the start: %w", err)
	}
	took, err := f.drain(ctx, "run", messages)
	if err != nil {
		return err
	}
	if err := reportLine(stdout, floorDone{Seconds: took.Seconds()}); err != nil {
		return err
	}
	<-ctx.Done()
	return nil
}

const floorWorkflow = "Empty"

type floorRun struct {
	client  client.Client
	options client.StartWorkflowOptions // of each run, without its ID
	ran     sync.Map                    // workflow ID → chan struct{}
}

// listAsOutflow gives the runs what the list of workflows has of a run of Deliver.
func (f *floorRun) listAsOutflow() {
	destination := "sqs://" + f.options.TaskQueue
	f.options.TypedSearchAttributes = workflows.StartAttributes(destination, messageType)
	f.options.StaticSummary = workflows.Summary(destination, messageType)
}

// empty does nothing.
func (f *floorRun) empty(ctx workflow.Context) error {
	f.report(ctx)
	return nil
}

// stepTime is how long a local activity of floor-two takes: about as long as a publish to a queue
// nearby, or a mark.
const stepTime = 5 * time.Millisecond

// twoSteps has the two local activities of the fast path.
func (f *floorRun) twoSteps(ctx workflow.Context) error {
	local := workflow.WithLocalActivityOptions(ctx, workflow.LocalActivityOptions{ScheduleToCloseTimeout: 5 * time.Second})
	step := func(context.Context) error { time.Sleep(stepTime); return nil }
	for range 2 {
		if err := workflow.ExecuteLocalActivity(local, step).Get(local, nil); err != nil {
			return err
		}
	}
	f.report(ctx)
	return nil
}

// report says that a run's code is done. It is no part of the run's decisions.
func (f *floorRun) report(ctx workflow.Context) {
	if ran, ok := f.ran.LoadAndDelete(workflow.GetInfo(ctx).WorkflowExecution.ID); ok {
		close(ran.(chan struct{}))
	}
}

// drain runs n workflows and says how long they took.
func (f *floorRun) drain(ctx context.Context, name string, n int) (time.Duration, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	began := time.Now()
	free := make(chan struct{}, inFlight)
	var running sync.WaitGroup
	for i := range n {
		free <- struct{}{}
		running.Go(func() {
			defer func() { <-free }()
			if err := f.one(ctx, fmt.Sprintf("%s/%s/%d", f.options.TaskQueue, name, i)); err != nil {
				cancel(err)
			}
		})
	}
	running.Wait()
	return time.Since(began), context.Cause(ctx)
}

func (f *floorRun) one(ctx context.Context, id string) error {
	ran := make(chan struct{})
	f.ran.Store(id, ran)
	options := f.options
	options.ID = id
	if _, err := f.client.ExecuteWorkflow(ctx, options, floorWorkflow); err != nil {
		return fmt.Errorf("starting a workflow: %w", err)
	}
	select {
	case <-ran:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// quiet is a Temporal logger that says nothing.
type quiet struct{}

func (quiet) Debug(string, ...any) {}
func (quiet) Info(string, ...any)  {}
func (quiet) Warn(string, ...any)  {}
func (quiet) Error(string, ...any) {}
