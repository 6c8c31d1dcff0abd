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

	"github.com/google/uuid"
	"go.temporal.io/sdk/activity"

	"github.com/outflowhq/outflow"
)

// Store is the table as the activities use it; outboxdb.Store is one. Every
// method is safe for concurrent use. Renew and Finish write only to a row of
// the given generation, and return the row as it stands otherwise.
type Store interface {
	Load(ctx context.Context, ref outflow.Ref) (outflow.Record, error)
	Renew(ctx context.Context, r outflow.Renewal) (outflow.Record, error)
	Finish(ctx context.Context, e outflow.Ending) (outflow.Outcome, error)
	Yield(ctx context.Context, ref outflow.Ref) error
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
	flights   *flights
}

// New returns the activities over a store and a publisher.
func New(store Store, publisher Publisher) *Activities {
	return &Activities{store: store, publisher: publisher, flights: newFlights()}
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
)

// PublishInput is the input of Publish.
type PublishInput struct {
	MessageID  uuid.UUID `json:"messageId"`
	Generation int       `json:"generation"`
	// LastError and Attempts tell the first durable attempt what the fast path
	// met, for the row.
	LastError string `json:"lastError,omitempty"`
	Attempts  int    `json:"attempts,omitempty"`
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
	ref := outflow.Ref{ID: in.MessageID, Generation: in.Generation}
	look := func(ctx context.Context) (outflow.Record, error) { return a.store.Load(ctx, ref) }
	inTime := ctx
	if !info.IsLocalActivity {
		renewal := renewalOf(ctx, ref, in, info)
		look = func(ctx context.Context) (outflow.Record, error) { return a.store.Renew(ctx, renewal) }
		// A cancel request, a pause or a stopping worker ends ctx. Whoever cancels
		// waits for the answer, since the broker may have the message.
		var cancel context.CancelFunc
		inTime, cancel = context.WithTimeout(context.WithoutCancel(ctx), Durable-answerMargin)
		defer cancel()
	}
	result, joined, err := a.flights.do(inTime, ref, func(ctx context.Context) (PublishResult, error) {
		return a.attempt(ctx, ref, look)
	})
	if err == nil {
		if joined && info.Attempt == 1 {
			result.Attempts = in.Attempts // a later attempt comes after one that noted them
		}
		return result, nil
	}
	if !info.IsLocalActivity {
		// The next attempt, wherever it runs, notes this on the row.
		activity.RecordHeartbeat(ctx, attemptNote{LastError: outflow.CleanErrorText(err.Error())})
	}
	return PublishResult{}, translate(err, info.Attempt)
}

// attemptNote is what a durable attempt that failed leaves for the next one.
type attemptNote struct {
	LastError string `json:"lastError"`
}

// renewalOf says what a durable attempt notes: the fast path's failure the
// first time, then that of the attempt before.
func renewalOf(ctx context.Context, ref outflow.Ref, in PublishInput, info activity.Info) outflow.Renewal {
	r := outflow.Renewal{Ref: ref, Lease: leaseFor(info.Attempt), LastError: in.LastError, Attempts: 1}
	if info.Attempt == 1 {
		r.Attempts += in.Attempts
	}
	var last attemptNote
	if activity.HasHeartbeatDetails(ctx) && activity.GetHeartbeatDetails(ctx, &last) == nil {
		r.LastError = last.LastError
	}
	return r
}

// attempt looks at the row and publishes it if it may be.
func (a *Activities) attempt(ctx context.Context, ref outflow.Ref, look func(context.Context) (outflow.Record, error)) (PublishResult, error) {
	record, err := look(ctx)
	if err != nil {
		return PublishResult{}, err
	}
	outcome := record.Outcome()
	switch {
	case record.Generation != ref.Generation:
		return PublishResult{Verdict: Superseded, Outcome: outcome}, a.store.Yield(ctx, ref)
	case record.State.Final():
		return PublishResult{Verdict: Ended, Outcome: outcome}, nil
	case record.CancelRequested:
		return PublishResult{Verdict: Withdrawn, Outcome: outcome}, nil
	case record.Expired:
		return PublishResult{Verdict: Overdue, Outcome: outcome}, nil
	case timeLeft(ctx) < BrokerCall:
		return PublishResult{}, outflow.ErrNotAttempted
	}
	id, err := a.publisher.Publish(ctx, record.Message)
	if err != nil {
		return PublishResult{}, err
	}
	return PublishResult{Verdict: Published, BrokerMessageID: id}, nil
}

// MarkInput is the input of the Mark activities.
type MarkInput struct {
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
	ref := outflow.Ref{ID: in.MessageID, Generation: in.Generation}
	ending := outflow.Ending{Ref: ref, State: state, BrokerMessageID: in.BrokerMessageID, LastError: in.Reason, Attempts: in.Attempts}
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
		err = a.store.Yield(ctx, ref)
	}
	if err == nil || errors.Is(err, outflow.ErrNotFound) {
		a.flights.forget(ref)
	}
	if err != nil {
		return outflow.Outcome{}, translate(err, activity.GetInfo(ctx).Attempt)
	}
	return outcome, nil
}
