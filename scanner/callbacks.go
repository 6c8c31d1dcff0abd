package scanner

import (
	"context"
	"errors"
	"sync"
	"time"

	"go.temporal.io/api/enums/v1"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/temporal"

	"github.com/outflowhq/outflow/activities"
	"github.com/outflowhq/outflow/outbox"
	"github.com/outflowhq/outflow/workflows"
)

// Callbacks are the table's due callbacks as the scanner sees to them;
// outboxdb.Store has them.
type Callbacks interface {
	// TakeCallbacks leases up to limit callbacks that no run has in hand.
	TakeCallbacks(ctx context.Context, limit int, lease time.Duration) ([]outbox.DueCallback, error)
}

const (
	// sweepAtMost bounds how often due callbacks are looked for. A run starts its
	// own callback; this is for those of messages that ended without one, and of
	// runs that were lost.
	sweepAtMost = 5 * time.Second
	// sweepTimeout bounds one sweep; what it leaves, the next one finds.
	sweepTimeout = 15 * time.Second
	// sweepLease is how soon a callback is looked after again that did not start,
	// or whose run has not made its first attempt.
	sweepLease = time.Minute
	// sweepPage and sweepAtOnce bound the starts.
	sweepPage   = 100
	sweepAtOnce = 8
)

// sweep starts runs for due callbacks that have none, in the background and by
// one goroutine at a time. While Temporal is in trouble, it leaves them alone.
func (s *Scanner) sweep(ctx context.Context) {
	if raised, _ := s.temporal.state(); raised || time.Now().Before(s.nextSweep) || !s.sweeping.CompareAndSwap(false, true) {
		return
	}
	s.nextSweep = time.Now().Add(sweepAtMost)
	s.aside.Go(func() {
		defer s.sweeping.Store(false)
		ctx, cancel := context.WithTimeout(ctx, sweepTimeout)
		defer cancel()
		if err := s.startCallbacks(ctx); err != nil && ctx.Err() == nil {
			s.opts.Logger.Warn("starting callbacks", "error", err)
		}
	})
}

func (s *Scanner) startCallbacks(ctx context.Context) error {
	for {
		due, err := s.store.TakeCallbacks(ctx, sweepPage, sweepLease)
		if err != nil {
			return err
		}
		var errs [sweepAtOnce]error
		var starting sync.WaitGroup
		for i := range sweepAtOnce {
			starting.Go(func() {
				for at := i; at < len(due); at += sweepAtOnce {
					errs[i] = errors.Join(errs[i], s.startCallback(ctx, due[at]))
				}
			})
		}
		starting.Wait()
		if err := errors.Join(errs[:]...); err != nil || len(due) < sweepPage {
			return err
		}
	}
}

// startCallback starts a callback's run. One that is running is left to itself;
// after one that has ended, the row alone decides.
func (s *Scanner) startCallback(ctx context.Context, due outbox.DueCallback) error {
	input, err := s.inputOf(ctx, due.Ref)
	if err != nil {
		return err
	}
	in := workflows.CallbackInput(input)
	_, err = s.withAttributes(ctx, client.StartWorkflowOptions{
		ID:                                       in.ID(),
		TaskQueue:                                s.opts.TaskQueue,
		WorkflowTaskTimeout:                      activities.WorkflowTask,
		WorkflowIDReusePolicy:                    enums.WORKFLOW_ID_REUSE_POLICY_ALLOW_DUPLICATE,
		WorkflowIDConflictPolicy:                 enums.WORKFLOW_ID_CONFLICT_POLICY_FAIL,
		WorkflowExecutionErrorWhenAlreadyStarted: true,
		StaticSummary:                            in.Summary(),
	}, due.Destination, due.Type, workflows.WorkflowCallback, in)
	if temporal.IsWorkflowExecutionAlreadyStartedError(err) {
		s.met(ctx, in.ID(), workflows.WorkflowCallback, due.Ref, err)
		return nil
	}
	return err
}
