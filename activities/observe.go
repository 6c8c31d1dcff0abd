package activities

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/google/uuid"
	"go.temporal.io/sdk/log"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/internal/tracing"
	"github.com/outflowhq/outflow/outbox"
	"github.com/outflowhq/outflow/publish"
)

// call is one call to the publisher.
type call struct {
	span tracing.Span
	path string // see tracing.Attempt
	took time.Duration
}

// observe is the one place that learns how an attempt to publish ended. c is nil where the
// publisher was not called. In this order it
//   - classifies the error: a destination that was there before is taken to come back;
//   - ends the call's span, and records its metrics;
//   - logs the destination's turn, from working to failing or back;
//   - has the destination's circuit breaker note the observation.
//
// It returns the classified error and the destination's consecutive failures in this process.
func (a *Activities) observe(
	ctx context.Context, record outbox.Record, c *call, err error,
) (consecutiveFailures int, classified error) {
	observation := outbox.Observation{Err: a.classify(ctx, record.Destination, err)}
	// Without a grace nothing waits: the destination's answer is about this message.
	observation.Missing = a.grace > 0 && outbox.IsMissing(observation.Err) &&
		errors.Is(observation.Err, outflow.ErrNoDestination)
	if c != nil {
		c.span.End(observation.Err, tracing.FailureType(observation.Err))
		a.metrics.Published(record.Destination, c.path, publishResult(observation.Err), 1, c.took)
		a.turns.observe(a.logger(ctx), record.ID, record.Destination, observation.Err)
		observation.Took = c.took
	}
	if errors.Is(observation.Err, errElsewhere) {
		return 0, observation.Err // the process that sends the message observes for the breaker
	}
	return a.store.Observe(record.Destination, record.ID, observation), observation.Err
}

// publishResult is a call's result in metrics.
func publishResult(err error) string {
	if err == nil {
		return "acknowledged"
	}
	return tracing.FailureType(err)
}

// classify decides what a missing destination or publisher means for a message:
//   - A destination that messages have reached before is unavailable: somebody deleted it, and its
//     messages must not die of that.
//   - A scheme that another process publishes to is left to that process.
func (a *Activities) classify(ctx context.Context, destination string, err error) error {
	if !outbox.IsMissing(err) {
		return err
	}
	if errors.Is(err, outflow.ErrNoPublisher) {
		return a.leaveToOthers(ctx, destination, err)
	}
	known, knownErr := a.store.Known(ctx, destination)
	switch {
	case knownErr != nil:
		return outflow.Retryable(fmt.Errorf("%w; %w", err, knownErr))
	case known:
		return outflow.Unavailable(fmt.Errorf("%w; messages have reached it before, so they wait for it", err))
	}
	return err
}

// observeCallback is observe for an attempt to send a callback. Breakers learn nothing of its
// failures. That it reached a queue or the like counts: such a destination is waited for when it is
// missing.
func (a *Activities) observeCallback(
	ctx context.Context, callback outbox.Callback, span tracing.Span, took time.Duration, err error,
) {
	span.End(err, tracing.FailureType(err))
	a.turns.observe(a.logger(ctx), callback.ID, callback.To, err)
	if scheme := outbox.SchemeOf(callback.To); err == nil && scheme != outflow.SchemeHTTPS &&
		scheme != outflow.SchemeHTTP {
		a.store.Observe(callback.To, callback.ID, outbox.Observation{Took: took})
	}
}

// maxFailing bounds the destinations that a turnLog remembers as failing.
const maxFailing = 1000

// turnLog logs when a destination begins to fail and when it works again: once each, however many
// messages are retried meanwhile. A permanent failure is one message's own, and not logged: its row
// and its run have it, but for a panic, of which the log may say more than a row. A destination that
// is missing is logged by a scanner, once a minute. A turnLog is safe for concurrent use.
type turnLog struct {
	mu      sync.Mutex
	failing map[string]bool
}

// observe logs how a call ended, where that is news.
func (l *turnLog) observe(to log.Logger, message uuid.UUID, destination string, err error) {
	shown := outflow.DisplayDestination(destination)
	var panicked *publish.PanicError
	switch {
	case err == nil:
		if l.turned(destination, false) {
			to.Info("publishing works again", "destination", shown)
		}
	case errors.As(err, &panicked):
		to.Error("publishing panicked", "message_id", message, "destination", shown,
			"panic", panicked.Value, "stack", string(panicked.Stack))
	case errors.Is(err, outflow.ErrNotAttempted), errors.Is(err, tracing.ErrNoAnswer):
		// These say nothing about the destination.
	case !outflow.IsPermanent(err):
		if l.turned(destination, true) {
			to.Warn("publishing fails", "destination", shown, "error", err)
		}
	}
}

// turned notes whether a destination fails, and reports whether that is news.
func (l *turnLog) turned(destination string, failing bool) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.failing[destination] == failing {
		return false
	}
	if !failing {
		delete(l.failing, destination)
		return true
	}
	if len(l.failing) >= maxFailing {
		return false
	}
	if l.failing == nil {
		l.failing = map[string]bool{}
	}
	l.failing[destination] = true
	return true
}
