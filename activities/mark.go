package activities

import (
	"context"
	"errors"

	"github.com/google/uuid"
	"go.temporal.io/sdk/activity"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/outbox"
)

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

// The reasons of ends that no failure caused.
const (
	ReasonExpired   = "expired: it was not published before its expiry"
	ReasonCancelled = "cancelled: an operator asked for it"
)

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

// MarkCancelled writes the end of a message that an operator cancelled.
func (a *Activities) MarkCancelled(ctx context.Context, in MarkInput) (outflow.Outcome, error) {
	return a.mark(ctx, in, outflow.Cancelled)
}

// mark writes an end and returns the row as it stands. An acknowledgement in this process, or in a
// moment, decides: the message is published.
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
		a.ends.ended(a.logger(ctx), outcome)
		a.metrics.Ended(outcome)
	}
	return outcome, nil
}
