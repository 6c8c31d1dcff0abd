package scanner

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"go.temporal.io/api/serviceerror"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/temporal"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/internal/metrics"
	"github.com/outflowhq/outflow/internal/timing"
	"github.com/outflowhq/outflow/outbox"
	"github.com/outflowhq/outflow/workflows"
)

const (
	// startTimeout bounds one start with the SDK's own retries.
	startTimeout = 10 * time.Second
	// giveBackTimeout bounds the statement that gives a claim back.
	giveBackTimeout = 5 * time.Second
	// Once runs are seen to go to other processes, a slot waits only remoteTakeOver for them. One
	// slot in fullWaitOnceIn still waits timing.TakeOver, so that a process which was merely slow
	// sees its own runs again.
	remoteTakeOver = 20 * time.Millisecond
	fullWaitOnceIn = 16
	// plainFor is how long starts go without search attributes after a refusal.
	plainFor = time.Minute
)

// startAll starts the runs of claimed messages in the background.
func (s *Scanner) startAll(starts context.Context, messages []outbox.ClaimedMessage) {
	for _, m := range messages {
		s.record.Taken(m.LeaseExpired)
		s.slots.take(m)
		s.running.Go(func() {
			defer s.record.Freed()
			defer s.slots.free(m)
			s.deliver(starts, m)
		})
	}
}

// deliver starts the run of one message. It holds the message's slot until the fast path is over,
// here or, as far as can be seen, in another process.
func (s *Scanner) deliver(ctx context.Context, m outbox.ClaimedMessage) {
	err := s.startTraced(ctx, m)
	s.slots.started()
	switch {
	case err == nil:
		s.temporal.succeeded()
		s.awaitFastPath(ctx, m)
	case temporal.IsWorkflowExecutionAlreadyStartedError(err):
		// The lease had ended beside a live run. The run goes on, and the claim does not count.
		s.temporal.succeeded()
		s.giveBack(ctx, m, outbox.RunOpen)
		s.noteCollision(ctx, workflows.DeliverID(s.opts.Outbox, m.ID), workflows.WorkflowDeliver, m.Ref(), err)
	default:
		s.temporal.failed()
		s.opts.Logger.Error("starting a delivery in Temporal",
			"message", m.ID, "destination", outflow.DisplayDestination(m.Destination), "error", err)
		s.giveBack(ctx, m, outbox.NotStarted)
		s.Wake() // the message is due
	}
}

// giveBack returns a claim. Where even that fails, the lease ends by itself.
func (s *Scanner) giveBack(ctx context.Context, m outbox.ClaimedMessage, why outbox.GiveBackReason) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), giveBackTimeout)
	defer cancel()
	if err := s.store.GiveBack(ctx, m, why); err != nil {
		s.opts.Logger.Warn("giving a claim back; its lease will end by itself", "message", m.ID, "error", err)
	}
}

// awaitFastPath waits until the run has ended or left the fast path.
func (s *Scanner) awaitFastPath(ctx context.Context, m outbox.ClaimedMessage) {
	takeOver := timing.TakeOver
	if s.remotely.Load() && rand.IntN(fullWaitOnceIn) > 0 {
		takeOver = remoteTakeOver
	}
	timer := time.NewTimer(takeOver)
	defer timer.Stop()
	select {
	case <-m.Taken:
		s.remotely.Store(false)
	case <-m.Settled:
		s.remotely.Store(false)
		return
	case <-timer.C:
		s.remotely.Store(true)
		s.giveBack(ctx, m, outbox.RunElsewhere)
		return
	}
	timer.Reset(timing.WorkflowTask)
	select {
	case <-m.Settled:
	case <-timer.C:
	}
}

// startTraced is start with a span. A run that is open already is no failure.
func (s *Scanner) startTraced(ctx context.Context, m outbox.ClaimedMessage) error {
	ctx, span := s.tracer.Start(ctx, m.Record, workflows.DeliverID(s.opts.Outbox, m.ID))
	began := time.Now()
	runID, err := s.start(ctx, m)
	running := temporal.IsWorkflowExecutionAlreadyStartedError(err)
	s.record.Started(startResult(err, running), time.Since(began))
	span.Started(runID, running)
	if running {
		span.End(nil, "")
	} else {
		span.End(err, "temporal")
	}
	return err
}

// startResult is a start's result as metrics have it.
func startResult(err error, running bool) string {
	switch {
	case running:
		return metrics.ResultRunning
	case err != nil:
		return metrics.ResultFailed
	}
	return metrics.ResultNew
}

// start asks Temporal for the message's run.
func (s *Scanner) start(ctx context.Context, m outbox.ClaimedMessage) (runID string, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, startTimeout, fmt.Errorf("no answer within %s", startTimeout))
	defer cancel()
	in, err := s.inputOf(ctx, m.Ref())
	if err != nil {
		return "", err
	}
	options := workflows.DeliverOptions(s.opts.Outbox, s.opts.TaskQueue, m.Record)
	return s.execute(ctx, options, workflows.WorkflowDeliver, in)
}

// inputOf returns the input of a message's run, and of its callback's.
func (s *Scanner) inputOf(ctx context.Context, ref outbox.Ref) (workflows.DeliverInput, error) {
	database, err := s.store.DatabaseID(ctx)
	return workflows.DeliverInput{
		Outbox: s.opts.Outbox, Database: database, MessageID: ref.ID, Generation: ref.Generation,
	}, err
}

// execute starts a run. A namespace that lacks the search attributes refuses it: then it starts
// the run without them.
func (s *Scanner) execute(
	ctx context.Context, options client.StartWorkflowOptions, workflow string, in any,
) (runID string, err error) {
	withAttributes := !s.plain.active()
	if withAttributes {
		runID, err = s.executeOnce(ctx, options, workflow, in)
		var invalid *serviceerror.InvalidArgument
		if !errors.As(err, &invalid) {
			return runID, err
		}
	}
	options.TypedSearchAttributes = temporal.SearchAttributes{}
	runID, plainErr := s.executeOnce(ctx, options, workflow, in)
	if plainErr != nil {
		return "", plainErr // the attributes were not the cause, or not the only one
	}
	if withAttributes && s.plain.begin() {
		s.opts.Logger.Warn("Temporal refused the search attributes; starting without them for a while", "error", err)
	}
	return runID, nil
}

func (s *Scanner) executeOnce(
	ctx context.Context, options client.StartWorkflowOptions, workflow string, in any,
) (runID string, err error) {
	run, err := s.client.ExecuteWorkflow(ctx, options, workflow, in)
	if err != nil || run == nil {
		return "", err
	}
	return run.GetRunID(), nil
}

// plainStarts remembers that the namespace refused the search attributes.
type plainStarts struct {
	mu    sync.Mutex
	until time.Time
}

func (p *plainStarts) active() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return time.Now().Before(p.until)
}

// begin makes starts go without search attributes for plainFor, and reports whether they had them
// before.
func (p *plainStarts) begin() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	begun := now.After(p.until)
	p.until = now.Add(plainFor)
	return begun
}
