package activities

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.temporal.io/sdk/activity"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/internal/timing"
	"github.com/outflowhq/outflow/outbox"
)

// errElsewhere is why this process sends nothing: it has no publisher for the scheme, and another
// process has.
var errElsewhere = fmt.Errorf("%w here: another process publishes to the scheme", outflow.ErrNotAttempted)

// leaveToOthers makes a missing publisher an attempt that was not made, where another process has
// one: Temporal gives that process a later attempt.
func (a *Activities) leaveToOthers(ctx context.Context, destination string, err error) error {
	served, servedErr := a.store.Served(ctx, destination)
	switch {
	case servedErr != nil:
		return outflow.Retryable(fmt.Errorf("%w: %w; %w", outflow.ErrNotAttempted, err, servedErr))
	case served != outbox.ServedByNone:
		return outflow.Retryable(fmt.Errorf("%w: %w", errElsewhere, err))
	}
	return err
}

// awaitDestination leaves a message to wait as a row, without a run, for a destination that does
// not exist or a scheme that nobody publishes to. Where its grace is over, it returns the failure.
func (a *Activities) awaitDestination(ctx context.Context, t attempt, err error) (PublishResult, error) {
	uncounted := 0
	if t.fastPath { // durable attempts count themselves
		uncounted++
	}
	if errors.Is(err, outflow.ErrNoPublisher) { // nothing was sent
		uncounted--
	}
	return a.putBackMissing(ctx, t, err.Error(), uncounted)
}

// putBackMissing leaves a message to wait as a row, with the reason. A message that could not be
// left is tried again.
func (a *Activities) putBackMissing(
	ctx context.Context, t attempt, reason string, uncounted int,
) (PublishResult, error) {
	missing := &outbox.Missing{Grace: a.grace, Attempts: uncounted}
	outcome, err := a.store.PutBack(ctx, outbox.PutBack{Ref: t.ref, LastError: reason, Missing: missing})
	switch {
	case errors.Is(err, outbox.ErrGraceOver):
		return PublishResult{}, outflow.Permanent(errors.New(reason))
	case err != nil:
		return PublishResult{}, outflow.Retryable(fmt.Errorf("%s; %w", reason, err))
	}
	return PublishResult{Verdict: SetAside, Outcome: outcome}, nil
}

// missingCallbackDelay is the longest wait between two attempts to send a callback whose
// destination is missing.
const missingCallbackDelay = time.Minute

// callbackGrace classifies the failure of a callback whose destination is missing, or has no
// publisher. It waits for as long as a message does, from the first attempt by Temporal's clock: a
// retry of the callback has the whole grace again. A destination that was reached before is waited
// for like a receiver that is down. delay is the longest wait until the next attempt.
func (a *Activities) callbackGrace(
	ctx context.Context, to string, info activity.Info, err error,
) (delay time.Duration, classified error) {
	classified = a.classify(ctx, to, err)
	if errors.Is(classified, errElsewhere) {
		return timing.ForeignDelay(timing.MaxForeignDelay), classified
	}
	if !outbox.IsMissing(classified) {
		return timing.CallbackBackoff.Max, classified
	}
	left := a.grace - info.StartedTime.Sub(info.ScheduledTime)
	if left <= 0 {
		return 0, classified
	}
	return min(left, missingCallbackDelay), outflow.Unavailable(classified)
}
