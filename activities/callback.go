package activities

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"time"

	"github.com/google/uuid"
	"go.temporal.io/sdk/activity"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/internal/metrics"
	"github.com/outflowhq/outflow/internal/timing"
	"github.com/outflowhq/outflow/internal/tracing"
	"github.com/outflowhq/outflow/outbox"
)

// Callbacks are the rows' callbacks as the activities use them; outboxdb.Store has them. Every
// method is safe for concurrent use, and writes only to a row of the given generation whose
// callback is due.
type Callbacks interface {
	// BeginCallback counts an attempt and leases the callback. due is false where no callback is to
	// be sent any more.
	BeginCallback(ctx context.Context, ref outbox.Ref, lease time.Duration) (c outbox.Callback, due bool, err error)
	// NoteCallback writes an attempt's result. noted is false where the row has another end or
	// another generation by now.
	NoteCallback(ctx context.Context, n outbox.CallbackNote) (noted bool, err error)
}

// CallbackSender sends callbacks to producers. A nil error says that the destination accepted the
// callback. Errors carry an outflow.Class. The same id may be sent again: the first answer may be
// lost. ctx carries the callback's trace. A CallbackSender is safe for concurrent use.
type CallbackSender interface {
	SendCallback(ctx context.Context, destination, id, contentType string, body []byte) error
}

// callbackSpace is the namespace of callbacks' message IDs, a random UUID.
var callbackSpace = uuid.MustParse("6c7ab0f4-0b47-4b0c-9d7e-52f2b1f3a6c1")

// PublishCallbacks returns a CallbackSender that publishes each callback as a message of type
// outflow.CallbackType. The header "callback-id" has the callback's ID, and the trace headers its
// trace. The message's own ID is a UUIDv5 of the callback's ID: attempts to send the same callback
// share it.
func PublishCallbacks(p Publisher) CallbackSender { return publishCallbacks{p} }

type publishCallbacks struct{ publisher Publisher }

func (s publishCallbacks) SendCallback(ctx context.Context, destination, id, contentType string, body []byte) error {
	headers := map[string]string{outflow.CallbackIDHeader: id}
	maps.Copy(headers, tracing.Headers(ctx))
	_, err := s.publisher.Publish(ctx, outflow.Message{
		ID: uuid.NewSHA1(callbackSpace, []byte(id)), Destination: destination, Type: outflow.CallbackType,
		Payload: body, ContentType: contentType, Headers: headers,
	})
	return err
}

// bodyOf returns a callback's body. The payload is left out unless the producer asked for it: a
// receiver of callbacks need not be allowed to read payloads.
func bodyOf(c outbox.Callback) ([]byte, error) {
	event := outflow.CallbackEvent{
		MessageID: c.ID, GroupID: c.GroupID, Type: c.Type, Destination: outflow.DisplayDestination(c.Destination),
		State: c.State, Generation: c.Generation,
		BrokerMessageID: c.BrokerMessageID, Attempts: c.Attempts,
		EnqueuedAt: c.EnqueuedAt, FinishedAt: c.FinishedAt, LastError: c.LastError,
	}
	if c.WithPayload {
		event.Payload, event.ContentType = c.Payload, c.ContentType
		event.PayloadOmitted = len(c.Payload) == 0
	}
	return event.MarshalJSON()
}

// CallbackInput is the input of Callback and MarkCallbackFailed.
type CallbackInput struct {
	Owner
	MessageID  uuid.UUID `json:"messageId"`
	Generation int       `json:"generation"`
	// Reason is set for MarkCallbackFailed.
	Reason string `json:"reason,omitempty"`
}

// CallbackResult is the result of Callback.
type CallbackResult struct {
	Verdict CallbackVerdict `json:"verdict"`
	// Reported is the end that the callback reported.
	Reported outflow.State `json:"reported,omitempty"`
}

// CallbackVerdict is the result of an attempt to send a callback that did not fail.
type CallbackVerdict string

// The verdicts of a callback.
const (
	CallbackSent   CallbackVerdict = "sent"
	CallbackNotDue CallbackVerdict = "not due" // sent before, or the message has a new generation
)

// Callback makes one attempt to notify a message's producer of its end. The attempt's result is on
// the row before the attempt ends: a permanent failure that could not be noted is retried. Its
// errors are Temporal's.
func (a *Activities) Callback(ctx context.Context, in CallbackInput) (CallbackResult, error) {
	info := activity.GetInfo(ctx)
	if err := a.owner.check(ctx, in.Owner); err != nil {
		return CallbackResult{}, translate(err, info.Attempt)
	}
	ref := outbox.Ref{ID: in.MessageID, Generation: in.Generation}
	// The attempt goes on after a cancel request: the producer may have the callback, and whoever
	// cancels waits for the answer. A ctx that has ended sends no heartbeat.
	ctx = context.WithoutCancel(ctx)
	inTime, cancel := context.WithTimeout(ctx, timing.CallbackAttempt-timing.AnswerMargin)
	defer cancel()
	callback, due, err := a.store.BeginCallback(inTime, ref, callbackLease(callbackDelay(info.Attempt, 0)))
	if err != nil {
		return CallbackResult{}, translateAfter(err, callbackDelay(info.Attempt, 0))
	}
	if !due {
		return CallbackResult{Verdict: CallbackNotDue}, nil
	}
	sent := sentBefore(ctx)
	stop := heartbeat(ctx, sent)
	defer stop() // a sender may panic
	if sent != callback.State {
		err = a.sendCallback(inTime, callback, traceOf(info))
	}
	delay := callbackDelay(info.Attempt, outbox.RetryAfter(err))
	if outbox.IsMissing(err) {
		var longest time.Duration
		longest, err = a.callbackGrace(inTime, callback.To, info, err)
		delay = min(delay, longest)
	}
	err = a.noteCallback(ctx, inTime, ref, callback.State, delay, err)
	stop()
	if err != nil {
		return CallbackResult{}, translateAfter(err, delay)
	}
	return CallbackResult{Verdict: CallbackSent, Reported: callback.State}, nil
}

// noteCallback writes an attempt's result to the row, and returns the attempt's error: err, or why
// the result could not be written.
func (a *Activities) noteCallback(
	ctx, inTime context.Context, ref outbox.Ref, end outflow.State, delay time.Duration, err error,
) error {
	note := outbox.CallbackNote{Ref: ref, End: end, State: outbox.CallbackSent}
	switch {
	case err == nil:
	case outflow.IsPermanent(err):
		note.State, note.LastError = outbox.CallbackFailed, err.Error()
	default:
		note.State, note.LastError, note.Lease = outbox.CallbackDue, err.Error(), callbackLease(delay)
	}
	noted, noteErr := a.store.NoteCallback(inTime, note)
	if noted {
		a.metrics.Callback(callbackResult(note.State))
	}
	switch {
	case noteErr != nil && err != nil:
		return outflow.Retryable(fmt.Errorf("%w; %w", err, noteErr))
	case noteErr != nil:
		activity.RecordHeartbeat(ctx, end) // another attempt need only note it
		return noteErr
	case !noted:
		return outflow.Retryable(errors.New(
			"the message has another end or another generation by now: the callback is read again"))
	}
	return err
}

// callbackResult is an attempt's result in metrics.
func callbackResult(state outbox.CallbackState) string {
	switch state {
	case outbox.CallbackSent:
		return metrics.ResultSent
	case outbox.CallbackFailed:
		return metrics.ResultFailed
	}
	return metrics.ResultRetried
}

// sentBefore returns the end that an earlier attempt reported and could not note, or "".
func sentBefore(ctx context.Context) (sent outflow.State) {
	if !activity.HasHeartbeatDetails(ctx) || activity.GetHeartbeatDetails(ctx, &sent) != nil {
		return ""
	}
	return sent
}

// sendCallback sends one callback, in a span of its own.
func (a *Activities) sendCallback(ctx context.Context, c outbox.Callback, t tracing.Attempt) (err error) {
	ctx, span := a.tracer.Callback(ctx, c, t)
	began := time.Now()
	err = tracing.ErrNoAnswer // where the sender panics or ends its goroutine
	defer func() { a.observeCallback(ctx, c, span, time.Since(began), err) }()
	body, err := bodyOf(c)
	if err != nil {
		return outflow.Permanent(fmt.Errorf("encoding the callback: %w", err))
	}
	ctx, cancel := context.WithTimeout(ctx, timing.CallbackCall)
	defer cancel()
	return a.sender.SendCallback(ctx, c.To, c.CallbackID(), "application/json", body)
}

// MarkCallbackFailed gives up a callback that is still due. Its errors are Temporal's.
func (a *Activities) MarkCallbackFailed(ctx context.Context, in CallbackInput) error {
	if err := a.owner.check(ctx, in.Owner); err != nil {
		return translate(err, activity.GetInfo(ctx).Attempt)
	}
	noted, err := a.store.NoteCallback(ctx, outbox.CallbackNote{
		Ref:   outbox.Ref{ID: in.MessageID, Generation: in.Generation},
		State: outbox.CallbackFailed, LastError: in.Reason,
	})
	if err != nil {
		return translate(err, activity.GetInfo(ctx).Attempt)
	}
	if noted {
		a.metrics.Callback(metrics.ResultFailed)
	}
	return nil
}

// callbackDelay returns the wait after the given attempt, from 1: the backoff, or retryAfter and a
// little more where the destination asked for that.
func callbackDelay(attempt int32, retryAfter time.Duration) time.Duration {
	return timing.CallbackBackoff.Delay(attempt, retryAfter)
}

// callbackLease is how long scanners leave a callback to its run. The next attempt comes after
// delay.
func callbackLease(delay time.Duration) time.Duration {
	return timing.CallbackAttempt + delay + delay/2 + timing.LeaseMargin
}
