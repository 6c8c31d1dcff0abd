// Package activities holds what a delivery does outside of its workflow: look
// at the row, publish, write the end.
//
// The invariant: a message is handed to its publisher only after its row was
// seen pending with the run's own generation, and within a process one (message,
// generation) is published by one call at a time, whose acknowledgement is
// remembered until the end is written. So a run that Temporal lets start over
// meets its own acknowledgement, and sends nothing.
package activities

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"go.temporal.io/sdk/activity"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/internal/metrics"
	"github.com/outflowhq/outflow/internal/tracing"
	"github.com/outflowhq/outflow/outbox"
)

// Store is the table as the activities use it; outboxdb.Store is one. Every
// method is safe for concurrent use. Renew and Finish write only to a row of
// the given generation, and return the row as it stands otherwise.
type Store interface {
	// What Load, LoadAgain and Renew return may owe its payload, which LoadPayload loads.
	Load(ctx context.Context, ref outbox.Ref) (outbox.Record, error)
	// LoadAgain also counts that a process was lost with the run's task.
	LoadAgain(ctx context.Context, ref outbox.Ref) (outbox.Record, error)
	Renew(ctx context.Context, r outbox.Renewal) (outbox.Record, error)
	LoadPayload(ctx context.Context, r outbox.Record) ([]byte, error)
	Finish(ctx context.Context, e outbox.Ending) (outflow.Outcome, error)
	// PutBack leaves a message to a later claim, without a run meanwhile.
	PutBack(ctx context.Context, p outbox.PutBack) (outflow.Outcome, error)

	Destinations
	Callbacks
	Identity
}

// Destinations are the circuit breakers of destinations. Every method is safe for concurrent use.
type Destinations interface {
	// Observe notes how an attempt to publish the message id ended. Renew then holds back what goes
	// to a destination whose breaker is open. It returns how many attempts in this process have
	// failed since the destination's last success.
	Observe(destination string, id uuid.UUID, o outbox.Observation) (consecutiveFailures int)
	// Known reports whether a message has ever reached the destination.
	Known(ctx context.Context, destination string) (bool, error)
}

// Publisher hands one message to its broker; publish.Router is one. A nil error
// says that the broker acknowledged it. Errors carry an outflow.Class.
type Publisher interface {
	Publish(ctx context.Context, m outflow.Message) (brokerMessageID string, err error)
}

// Activities is the set that a worker registers. One serves a whole process.
type Activities struct {
	store     Store
	publisher Publisher
	sender    CallbackSender
	owner     *ownership
	flights   *flights
	payloads  *payloads
	tracer    tracing.Tracer
	record    *metrics.Recorder
	ends      endLog
}

// New returns the activities over a store and a publisher.
func New(store Store, publisher Publisher, options ...Option) *Activities {
	a := &Activities{store: store, publisher: publisher, sender: PublishCallbacks(publisher),
		owner: &ownership{identity: store}, flights: newFlights(), payloads: newPayloads()}
	for _, option := range options {
		option(a)
	}
	if a.record == nil {
		a.record = metrics.New(nil)
	}
	return a
}

// Verdict is what an attempt to publish came to.
type Verdict string

// The verdicts. All but Published mean that this attempt sent nothing.
const (
	Published  Verdict = "published"  // the broker acknowledged it
	Ended      Verdict = "ended"      // the row is final already
	Superseded Verdict = "superseded" // the row has a later generation
	Overdue    Verdict = "overdue"    // the expiry has passed
	Withdrawn  Verdict = "withdrawn"  // an operator asked to cancel it
	SetAside   Verdict = "set aside"  // left to a later start: a suspect, or one of many for a destination that takes nothing
)

// PublishInput is the input of Publish.
type PublishInput struct {
	Owner
	MessageID  uuid.UUID `json:"messageId"`
	Generation int       `json:"generation"`
	// LastError and Attempts tell the first durable attempt what the fast path
	// met, for the row.
	LastError string `json:"lastError,omitempty"`
	Attempts  int    `json:"attempts,omitempty"`
	// Wait is how long the first durable attempt puts the next one off, and sends
	// nothing itself: what the fast path met says so.
	Wait time.Duration `json:"wait,omitempty"`
	// Again says that the run's first workflow task was lost, its process with it.
	Again bool `json:"again,omitempty"`
}

// PublishResult is the result of Publish.
type PublishResult struct {
	Verdict         Verdict `json:"verdict"`
	BrokerMessageID string  `json:"brokerMessageId,omitempty"`
	// Outcome is the row's, where it was read.
	Outcome outflow.Outcome `json:"outcome,omitzero"`
	// Attempts are publish attempts that a durable attempt has not noted on the
	// row, because it met what an earlier one in this process had sent.
	Attempts int `json:"attempts,omitempty"`
}

// Publish makes one attempt. As a local activity it loads the row; as a regular
// one (a durable attempt) it also renews the row's lease past its next attempt.
// Its errors are Temporal's, translated from their outflow.Class.
func (a *Activities) Publish(ctx context.Context, in PublishInput) (PublishResult, error) {
	info := activity.GetInfo(ctx)
	if err := a.owner.check(ctx, in.Owner); err != nil {
		if !info.IsLocalActivity {
			refused(ctx, in, info.Attempt)
		}
		return PublishResult{}, translate(err, info.Attempt)
	}
	ref := outbox.Ref{ID: in.MessageID, Generation: in.Generation}
	if !info.IsLocalActivity {
		return a.publishDurably(ctx, ref, in, info)
	}
	look := func(ctx context.Context) (outbox.Record, error) { return a.store.Load(ctx, ref) }
	if in.Again {
		look = func(ctx context.Context) (outbox.Record, error) { return a.store.LoadAgain(ctx, ref) }
	}
	result, _, err := a.flights.do(ctx, ref, func(ctx context.Context) (PublishResult, error) {
		return a.attempt(ctx, try{ref, look, true, in.Again, attemptOf(info)})
	})
	if err != nil {
		return PublishResult{}, translate(err, info.Attempt)
	}
	return result, nil
}

// try is one attempt to come.
type try struct {
	ref  outbox.Ref
	look func(context.Context) (outbox.Record, error)
	// local is the fast path's; lost says that the run's process was lost before.
	local, lost bool
	// traced is what its span says of it.
	traced tracing.Attempt
}

// attempt looks at the row and publishes it if it may be.
func (a *Activities) attempt(ctx context.Context, t try) (PublishResult, error) {
	ref := t.ref
	record, err := t.look(ctx)
	if err != nil {
		return PublishResult{}, beforehand(err)
	}
	if result, done, err := a.withoutSending(ctx, t, record); done {
		// It may have been chosen to probe, and still is where a durable attempt follows.
		if !record.HeldBack && !errors.Is(err, errSlowTarget) {
			a.store.Observe(record.Destination, ref.ID, outbox.Observation{Err: outflow.ErrNotAttempted})
		}
		return result, beforehand(err)
	}
	var id string
	var consecutiveFailures int
	loadErr, err := a.withPayload(ctx, record, func(record outbox.Record) (err error) {
		id, consecutiveFailures, err = a.send(ctx, record, t.traced)
		return err
	})
	if loadErr != nil {
		a.store.Observe(record.Destination, ref.ID, outbox.Observation{Err: outflow.ErrNotAttempted})
		return PublishResult{}, beforehand(loadErr)
	}
	if err != nil && t.local && consecutiveFailures > mostWaiting {
		outcome, putErr := a.store.PutBack(ctx, outbox.PutBack{Ref: ref, LastError: err.Error()})
		if putErr == nil {
			return PublishResult{Verdict: SetAside, Outcome: outcome}, nil
		}
	}
	if err != nil {
		return PublishResult{}, err
	}
	return PublishResult{Verdict: Published, BrokerMessageID: id}, nil
}

// beforehand marks what failed before anything was sent. A row that is gone stays so.
func beforehand(err error) error {
	if err == nil || errors.Is(err, outflow.ErrNotFound) || errors.Is(err, outflow.ErrNotAttempted) ||
		outflow.IsPermanent(err) {
		return err
	}
	return &beforehandError{err}
}

// beforehandError is such a failure. Its words are the failure's own.
type beforehandError struct{ error }

func (e *beforehandError) Unwrap() error { return e.error }

// Is has errors.Is find outflow.ErrNotAttempted.
func (*beforehandError) Is(target error) bool { return target == outflow.ErrNotAttempted }

// errSlowTarget is why the fast path sends nothing to a slow target: its call would be cut
// short, and the message sent again.
var errSlowTarget = fmt.Errorf("%w on the fast path: the target takes longer to answer than the %s that a call has there", outflow.ErrNotAttempted, BrokerCall)

// withoutSending says what becomes of a message that is not to be sent now.
func (a *Activities) withoutSending(ctx context.Context, t try,
	record outbox.Record) (result PublishResult, done bool, err error) {
	ref, outcome := t.ref, record.Outcome()
	switch {
	case record.Generation != ref.Generation:
		return PublishResult{Verdict: Superseded, Outcome: outcome}, true, a.makeWay(ctx, ref)
	case record.State.Final():
		return PublishResult{Verdict: Ended, Outcome: outcome}, true, nil
	case record.CancelRequested:
		return PublishResult{Verdict: Withdrawn, Outcome: outcome}, true, nil
	case record.Expired:
		return PublishResult{Verdict: Overdue, Outcome: outcome}, true, nil
	case record.Claims > outbox.MaxClaims:
		return PublishResult{}, true, outflow.Permanent(fmt.Errorf(
			"publishing to %s: the process ended without a word %d times while it had this message, the last %d times this one alone"+
				" (find out what it does to the process, then retry or redirect it)",
			outflow.DisplayDestination(record.Destination), outbox.MaxClaims, outbox.MaxClaims-outbox.QuarantineClaims))
	case t.lost && record.Claims >= outbox.QuarantineClaims:
		return PublishResult{Verdict: SetAside, Outcome: outcome}, true, a.makeWay(ctx, ref)
	case record.HeldBack:
		return PublishResult{}, true, heldBack(record)
	// A quarantined message is tried here, in isolation: a durable attempt is not isolated.
	case t.local && record.SlowTarget && record.Claims < outbox.QuarantineClaims:
		return PublishResult{}, true, fmt.Errorf("%w: %s", errSlowTarget,
			outflow.DisplayDestination(outbox.TargetOf(record.Destination)))
	case timeLeft(ctx) < BrokerCall:
		return PublishResult{}, true, outflow.ErrNotAttempted
	}
	return PublishResult{}, false, nil
}

// makeWay leaves a message to another start, without a publish.
func (a *Activities) makeWay(ctx context.Context, ref outbox.Ref) error {
	_, err := a.store.PutBack(ctx, outbox.PutBack{Ref: ref, NotSent: true})
	return err
}

// send hands a message to its publisher, under a span of its own, and passes on how
// that went. consecutiveFailures is as observe has it.
func (a *Activities) send(ctx context.Context, record outbox.Record,
	t tracing.Attempt) (id string, consecutiveFailures int, err error) {
	ctx, span := a.tracer.Publish(ctx, record, t)
	var began time.Time
	err = tracing.ErrNoAnswer
	defer func() { span.End(err, tracing.FailureType(err)) }()
	defer func() { a.record.Published(record.Destination, t.Path, publishResult(err), time.Since(began)) }()
	untilStop, cancel := whileWorking(ctx)
	defer cancel()
	began = time.Now()
	id, err = a.publisher.Publish(untilStop, record.Message)
	span.Published(id)
	consecutiveFailures, err = a.observe(ctx, record, outbox.Observation{Err: err, Took: time.Since(began)})
	return id, consecutiveFailures, err
}

// publishResult is an attempt's result as metrics have it.
func publishResult(err error) string {
	if err == nil {
		return "acknowledged"
	}
	return tracing.FailureType(err)
}

// whileWorking is ctx until the worker stops: what a publisher has not sent by then, it
// leaves to another worker, for this one's time to wait for an answer has begun.
func whileWorking(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	if !activity.IsActivity(ctx) {
		return ctx, cancel
	}
	select {
	case <-activity.GetWorkerStopChannel(ctx): // a publisher that is called must know at once
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

// attemptOf says for a span which attempt this is.
func attemptOf(info activity.Info) tracing.Attempt {
	path := "durable"
	if info.IsLocalActivity {
		path = "fast"
	}
	return tracing.Attempt{WorkflowID: info.WorkflowExecution.ID, RunID: info.WorkflowExecution.RunID,
		Number: info.Attempt, Path: path}
}

// heldBack is why a message was not sent whose destination's breaker is open. Its
// run is told when the destination works again: until then it seldom asks, for many
// runs that ask would take Temporal's time from the healthy.
func heldBack(r outbox.Record) error {
	last := ""
	if r.LastError != "" {
		last = "; its last attempt: " + r.LastError
	}
	return &outflow.Failure{Class: outflow.ClassUnavailable, RetryAfter: max(r.HeldBackFor, heldBackRetry),
		Err: fmt.Errorf(
			"%w: %s takes nothing and is left to one probe at a time; this message is told when it works again%s",
			outflow.ErrNotAttempted, outflow.DisplayDestination(r.Destination), last)}
}

// observe has the destination's breaker note how a publish ended, and returns the destination's
// consecutive failures. One that does not exist, and did, is taken to come back: somebody
// deleted it, and its messages must not die of that.
func (a *Activities) observe(
	ctx context.Context, record outbox.Record, o outbox.Observation,
) (consecutiveFailures int, err error) {
	destination := record.Destination
	if errors.Is(o.Err, outflow.ErrNoDestination) && outflow.IsPermanent(o.Err) {
		known, unknown := a.store.Known(ctx, destination)
		if unknown != nil {
			return 0, outflow.Retryable(fmt.Errorf("%w; %w", o.Err, unknown))
		}
		if known {
			o.Err = outflow.Unavailable(
				fmt.Errorf("%w; messages have reached it before, so they wait for it", o.Err))
		}
	}
	// After a call that was cut short, the run goes on durably: where this message is a probe, it
	// stays the probe.
	return a.store.Observe(destination, record.ID, o), o.Err
}

// MarkInput is the input of the Mark activities.
type MarkInput struct {
	Owner
	MessageID  uuid.UUID `json:"messageId"`
	Generation int       `json:"generation"`
	// BrokerMessageID is set for MarkDelivered, Reason for the others.
	BrokerMessageID string `json:"brokerMessageId,omitempty"`
	Reason          string `json:"reason,omitempty"`
	// Attempts are publish attempts that the row does not count yet.
	Attempts int `json:"attempts,omitempty"`
}

// MarkDelivered writes the end of an acknowledged message.
func (a *Activities) MarkDelivered(ctx context.Context, in MarkInput) (outflow.Outcome, error) {
	return a.mark(ctx, in, outflow.Delivered)
}

// MarkDead writes the end of a message that can't be published.
func (a *Activities) MarkDead(ctx context.Context, in MarkInput) (outflow.Outcome, error) {
	return a.mark(ctx, in, outflow.Dead)
}

// MarkExpired writes the end of a message that was not published in time.
func (a *Activities) MarkExpired(ctx context.Context, in MarkInput) (outflow.Outcome, error) {
	return a.mark(ctx, in, outflow.Expired)
}

// MarkCancelled writes the end of a message that somebody cancelled.
func (a *Activities) MarkCancelled(ctx context.Context, in MarkInput) (outflow.Outcome, error) {
	return a.mark(ctx, in, outflow.Cancelled)
}

// mark writes an end and returns how the row stands. Where this process holds an
// acknowledgement, or is about to, that decides: the message is out.
func (a *Activities) mark(ctx context.Context, in MarkInput, state outflow.State) (outflow.Outcome, error) {
	if err := a.owner.check(ctx, in.Owner); err != nil {
		return outflow.Outcome{}, translate(err, activity.GetInfo(ctx).Attempt)
	}
	ref := outbox.Ref{ID: in.MessageID, Generation: in.Generation}
	ending := outbox.Ending{Ref: ref, State: state, BrokerMessageID: in.BrokerMessageID, LastError: in.Reason,
		Attempts: in.Attempts}
	if state != outflow.Delivered {
		published, err := a.flights.acknowledged(ctx, ref)
		if err != nil {
			return outflow.Outcome{}, translate(err, activity.GetInfo(ctx).Attempt)
		}
		if published != nil {
			ending.State, ending.BrokerMessageID, ending.LastError = outflow.Delivered, published.BrokerMessageID, ""
		}
	}
	outcome, err := a.store.Finish(ctx, ending)
	if err == nil && outcome.Generation > ref.Generation {
		err = a.makeWay(ctx, ref)
	}
	if err == nil || errors.Is(err, outflow.ErrNotFound) {
		a.flights.forget(ref)
	}
	if err != nil {
		return outflow.Outcome{}, translate(err, activity.GetInfo(ctx).Attempt)
	}
	if outcome.Generation == ref.Generation && outcome.State == ending.State {
		a.ends.ended(ctx, outcome)
		a.record.Ended(outcome)
	}
	return outcome, nil
}
