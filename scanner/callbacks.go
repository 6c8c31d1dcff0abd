package scanner

import (
	"context"
	"errors"
	"sync"
	"time"

	"go.temporal.io/sdk/temporal"

	"github.com/outflowhq/outflow/outbox"
	"github.com/outflowhq/outflow/workflows"
)

const (
	// callbackInterval lies between two looks for due callbacks. A run starts its own callback.
	// This is for messages that ended without a run, and for runs that were lost.
	callbackInterval = 5 * time.Second
	// callbackTimeout bounds one round. The next round finds the rest.
	callbackTimeout = 15 * time.Second
	// callbackLease is how soon a callback is found again that did not start, or whose run has not
	// made its first attempt.
	callbackLease = time.Minute
	// callbackPage bounds the callbacks of one statement, callbackWorkers the starts under way.
	callbackPage    = 100
	callbackWorkers = 8
)

// startDueCallbacks starts runs for due callbacks that have none, in the background. It does not
// while Temporal fails starts.
func (s *Scanner) startDueCallbacks(ctx context.Context) {
	if raised, _ := s.temporal.state(); raised || !s.callbacks.begin(callbackInterval) {
		return
	}
	s.background.Go(func() {
		defer s.callbacks.done()
		ctx, cancel := context.WithTimeout(ctx, callbackTimeout)
		defer cancel()
		if err := s.startCallbacks(ctx); err != nil && ctx.Err() == nil {
			s.opts.Logger.Warn("starting callbacks", "error", err)
		}
	})
}

func (s *Scanner) startCallbacks(ctx context.Context) error {
	for {
		due, err := s.store.TakeCallbacks(ctx, callbackPage, callbackLease)
		if err != nil {
			return err
		}
		var errs [callbackWorkers]error
		var starting sync.WaitGroup
		for first := range callbackWorkers {
			starting.Go(func() {
				for i := first; i < len(due); i += callbackWorkers {
					errs[first] = errors.Join(errs[first], s.startCallback(ctx, due[i]))
				}
			})
		}
		starting.Wait()
		if err := errors.Join(errs[:]...); err != nil || len(due) < callbackPage {
			return err
		}
	}
}

// startCallback starts the run of a callback. A run that is open already goes on.
func (s *Scanner) startCallback(ctx context.Context, due outbox.DueCallback) error {
	input, err := s.inputOf(ctx, due.Ref)
	if err != nil {
		return err
	}
	in := workflows.CallbackInput(input)
	_, err = s.execute(ctx, workflows.CallbackOptions(in, s.opts.TaskQueue, due), workflows.WorkflowCallback, in)
	if temporal.IsWorkflowExecutionAlreadyStartedError(err) {
		s.noteCollision(ctx, in.ID(), workflows.WorkflowCallback, due.Ref, err)
		return nil
	}
	return err
}
