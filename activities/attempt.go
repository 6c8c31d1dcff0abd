package activities

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.temporal.io/sdk/activity"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/internal/timing"
	"github.com/outflowhq/outflow/internal/tracing"
	"github.com/outflowhq/outflow/outbox"
)

// maxWaitingRuns is how many messages of a failing destination each process leaves to runs, which
// the Web UI shows and Temporal retries. Those behind them wait as rows: hundreds of runs that
// leave the fast path at once would take the engine's time from healthy destinations.
const maxWaitingRuns = 10

// attempt is one attempt to publish a message.
type attempt struct {
	ref outbox.Ref
	// load reads the row.
	load func(context.Context) (outbox.Record, error)
	// fastPath: the attempt is a local activity. crashed: the process that made the attempt before
	// crashed.
	fastPath, crashed bool
	trace             tracing.Attempt
}

// publishOnce loads the row, and publishes the message if it may.
func (a *Activities) publishOnce(ctx context.Context, t attempt) (PublishResult, error) {
	record, err := t.load(ctx)
	if err != nil {
		return PublishResult{}, notSent(err)
	}
	result, may, err := a.mayPublish(ctx, t, record)
	if !may {
		// A probe that goes on durably stays the probe.
		if !record.HeldBack && !errors.Is(err, errSlowTarget) {
			a.observe(ctx, record, nil, outflow.ErrNotAttempted)
		}
		return result, notSent(err)
	}
	var id string
	var consecutiveFailures int
	loadErr, err := a.withPayload(ctx, record, func(record outbox.Record) (err error) {
		id, consecutiveFailures, err = a.send(ctx, record, t.trace)
		return err
	})
	if loadErr != nil {
		a.observe(ctx, record, nil, outflow.ErrNotAttempted)
		return PublishResult{}, notSent(loadErr)
	}
	if outbox.IsMissing(err) {
		return a.awaitDestination(ctx, t, err)
	}
	if err != nil && t.fastPath && consecutiveFailures > maxWaitingRuns {
		outcome, putErr := a.store.PutBack(ctx, outbox.PutBack{Ref: t.ref, LastError: err.Error()})
		if putErr == nil {
			return PublishResult{Verdict: SetAside, Outcome: outcome}, nil
		}
	}
	if err != nil {
		return PublishResult{}, err
	}
	return PublishResult{Verdict: Published, BrokerMessageID: id}, nil
}

// mayPublish decides by its row whether a message may be sent now. Where it may not, the result or
// the error says why. The row is as load read it. A row that the claim handed over was not read
// again: leaseMargin in outboxdb's handoff.go says when that is safe.
func (a *Activities) mayPublish(
	ctx context.Context, t attempt, record outbox.Record,
) (result PublishResult, may bool, err error) {
	ref, outcome := t.ref, record.Outcome()
	switch {
	case record.Generation != ref.Generation:
		return PublishResult{Verdict: Superseded, Outcome: outcome}, false, a.makeWay(ctx, ref)
	case record.State.Final():
		return PublishResult{Verdict: Ended, Outcome: outcome}, false, nil
	case record.CancelRequested:
		return PublishResult{Verdict: Withdrawn, Outcome: outcome}, false, nil
	case record.Expired:
		return PublishResult{Verdict: Overdue, Outcome: outcome}, false, nil
	case record.Claims > outbox.MaxClaims:
		return PublishResult{}, false, crashesProcess(record)
	case t.crashed && record.Claims >= outbox.QuarantineClaims:
		return PublishResult{Verdict: SetAside, Outcome: outcome}, false, a.makeWay(ctx, ref)
	case record.HeldBack && record.Missing != "":
		result, err := a.putBackMissing(ctx, t, record.Missing, 0)
		return result, false, err
	case record.HeldBack:
		return PublishResult{}, false, breakerOpen(record)
	// A quarantined message is sent here, in isolation: a durable attempt is not isolated.
	case t.fastPath && record.SlowTarget && record.Claims < outbox.QuarantineClaims:
		return PublishResult{}, false, fmt.Errorf("%w: %s", errSlowTarget,
			outflow.DisplayDestination(outbox.TargetOf(record.Destination)))
	case timeLeft(ctx) < timing.FastPathCall:
		return PublishResult{}, false, outflow.ErrNotAttempted
	}
	return PublishResult{}, true, nil
}

// makeWay leaves a message to another start, without a publish.
func (a *Activities) makeWay(ctx context.Context, ref outbox.Ref) error {
	_, err := a.store.PutBack(ctx, outbox.PutBack{Ref: ref, NotSent: true})
	return err
}

// crashesProcess is why a message ends dead with which one process after the other crashed.
func crashesProcess(r outbox.Record) error {
	return outflow.Permanent(fmt.Errorf(
		"publishing to %s: the process crashed %d times while publishing this message,"+
			" the last %d times with nothing else in flight"+
			" (find out how the message crashes the process, then retry or redirect it)",
		outflow.DisplayDestination(r.Destination), outbox.MaxClaims, outbox.MaxClaims-outbox.QuarantineClaims))
}

// breakerOpen is why a message was not sent to a destination whose breaker is open. Its run is
// signalled when the destination recovers, and retries seldom until then: many runs that retry
// would take Temporal's time from healthy destinations.
func breakerOpen(r outbox.Record) error {
	last := ""
	if r.LastError != "" {
		last = "; its last attempt: " + r.LastError
	}
	return &outflow.Failure{
		Class:      outflow.ClassUnavailable,
		RetryAfter: max(r.HeldBackFor, timing.MinHeldBackDelay),
		Err: fmt.Errorf("%w: %s: circuit breaker open: one probe at a time is sent;"+
			" this message is retried when the destination recovers%s",
			outflow.ErrNotAttempted, outflow.DisplayDestination(r.Destination), last),
	}
}

// errSlowTarget is why the fast path sends nothing to a slow target: its call would be cut short,
// and the message sent again.
var errSlowTarget = fmt.Errorf(
	"%w on the fast path: the target takes longer to answer than the %s that a call has there",
	outflow.ErrNotAttempted, timing.FastPathCall)

// notSent marks an error that came before anything was sent. A row that is not there stays so.
func notSent(err error) error {
	if err == nil || errors.Is(err, outflow.ErrNotFound) || errors.Is(err, outflow.ErrNotAttempted) ||
		outflow.IsPermanent(err) {
		return err
	}
	return &notSentError{err}
}

// notSentError has the text of the error that it marks.
type notSentError struct{ error }

func (e *notSentError) Unwrap() error { return e.error }

// Is has errors.Is find outflow.ErrNotAttempted.
func (*notSentError) Is(target error) bool { return target == outflow.ErrNotAttempted }

// send calls the publisher, in a span of its own. consecutiveFailures is as observe returns it.
func (a *Activities) send(
	ctx context.Context, record outbox.Record, t tracing.Attempt,
) (id string, consecutiveFailures int, err error) {
	ctx, span := a.tracer.Publish(ctx, record, t)
	c := call{span: span, path: t.Path}
	began := time.Now()
	err = tracing.ErrNoAnswer // where the publisher panics or ends its goroutine
	defer func() {
		c.took = time.Since(began)
		consecutiveFailures, err = a.observe(ctx, record, &c, err)
	}()
	untilStop, cancel := untilWorkerStops(ctx)
	defer cancel()
	id, err = a.publisher.Publish(untilStop, record.Message)
	span.Published(id)
	return id, 0, err
}

// untilWorkerStops returns ctx until the worker stops. A publisher leaves to another worker what it
// has not sent by then: this worker's time to wait for answers has begun.
func untilWorkerStops(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	if !activity.IsActivity(ctx) {
		return ctx, cancel
	}
	select {
	case <-activity.GetWorkerStopChannel(ctx): // before the publisher is called
		cancel()
	default:
		go func() {
			select {
			case <-activity.GetWorkerStopChannel(ctx):
				cancel()
			case <-ctx.Done():
			}
		}()
	}
	return ctx, cancel
}

// traceOf says for a span which attempt this is.
func traceOf(info activity.Info) tracing.Attempt {
	path := "durable"
	if info.IsLocalActivity {
		path = "fast"
	}
	return tracing.Attempt{
		WorkflowID: info.WorkflowExecution.ID, RunID: info.WorkflowExecution.RunID,
		Number: info.Attempt, Path: path,
	}
}
