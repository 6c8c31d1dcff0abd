package activities

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"time"

	"github.com/google/uuid"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/trace"
	"go.temporal.io/sdk/activity"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/internal/metrics"
	"github.com/outflowhq/outflow/internal/timing"
	"github.com/outflowhq/outflow/internal/tracing"
	"github.com/outflowhq/outflow/outbox"
)

// Callbacks are the rows' callbacks as the activities use them; outboxdb.Store
// has them. Every method is safe for concurrent use, and writes only to a row of
// the given generation whose callback is due.
type Callbacks interface {
	// BeginCallback counts an attempt and leases the callback. due is false where
	// there is nothing to tell any more.
	BeginCallback(ctx context.Context, ref outbox.Ref, lease time.Duration) (c outbox.Callback, due bool, err error)
	// NoteCallback writes what an attempt came to; noted is false where the row
	// takes no such note any more.
	NoteCallback(ctx context.Context, n outbox.CallbackNote) (noted bool, err error)
}

// CallbackSender tells producers. A nil error says that the destination took it.
// Errors carry an outflow.Class. It may be asked to send the same id again: the
// answer to the first one may be lost. ctx carries the trace that the callback
// belongs to. It is safe for concurrent use.
type CallbackSender interface {
	SendCallback(ctx context.Context, destination, id, contentType string, body []byte) error
}

// Option changes what New returns.
type Option func(*Activities)

// WithCallbacks has callbacks sent by sender; the default is PublishCallbacks
// over New's publisher.
func WithCallbacks(sender CallbackSender) Option {
	return func(a *Activities) { a.sender = sender }
}

// WithTracerProvider has spans recorded by p; the default is OpenTelemetry's global
// provider, which records none unless somebody has set one up.
func WithTracerProvider(p trace.TracerProvider) Option {
	return func(a *Activities) { a.tracer.Provider = p }
}

// WithMeterProvider has metrics recorded by p; the default is OpenTelemetry's global
// provider, which records none unless somebody has set one up.
func WithMeterProvider(p metric.MeterProvider) Option {
	return func(a *Activities) { a.record = metrics.New(p) }
}

// ForOutbox has the activities refuse what is for an outbox of another name. Without
// it they refuse only what is for another database.
func ForOutbox(name string) Option {
	return func(a *Activities) { a.owner.outbox = name }
}

// callbackSpace is the namespace of callbacks' message IDs, a random UUID.
var callbackSpace = uuid.MustParse("6c7ab0f4-0b47-4b0c-9d7e-52f2b1f3a6c1")

// PublishCallbacks returns a CallbackSender that publishes each callback as a
// message of type outflow.CallbackType, with the callback's ID in the header "callback-id",
// and its trace in those of a trace. The message's own ID is a UUIDv5 of that, so that attempts to
// tell the same thing can be told from others by it, too.
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

// bodyOf is what a producer is told. The payload stays out unless it was asked for:
// whoever takes callbacks need not be who may read it.
func bodyOf(c outbox.Callback) ([]byte, error) {
	event := outflow.CallbackEvent{
		MessageID: c.ID, Type: c.Type, Destination: outflow.DisplayDestination(c.Destination), State: c.State, Generation: c.Generation,
		BrokerMessageID: c.BrokerMessageID, Attempts: c.Attempts,
		EnqueuedAt: c.EnqueuedAt, FinishedAt: c.FinishedAt, LastError: c.LastError,
	}
	if c.WithPayload {
		event.Payload, event.ContentType, event.PayloadOmitted = c.Payload, c.ContentType, len(c.Payload) == 0
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

// CallbackVerdict is what a callback came to.
type CallbackVerdict string

// The verdicts of a callback.
const (
	CallbackSent   CallbackVerdict = "sent"
	CallbackNotDue CallbackVerdict = "not due" // sent before, or the message was started again
)

// Callback makes one attempt to tell a message's producer how it ended. What it
// comes to is on the row before the attempt ends: a permanent failure that could
// not be noted is retried. Its errors are Temporal's.
func (a *Activities) Callback(ctx context.Context, in CallbackInput) (CallbackResult, error) {
	info := activity.GetInfo(ctx)
	if err := a.owner.check(ctx, in.Owner); err != nil {
		return CallbackResult{}, translate(err, info.Attempt)
	}
	ref := outbox.Ref{ID: in.MessageID, Generation: in.Generation}
	// Who cancels waits for the answer: the producer may have been told by then. A ctx
	// that has ended sends no heartbeat.
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
	told := toldBefore(ctx)
	stop := beat(ctx, told)
	defer stop() // a sender may panic
	if told != callback.State {
		err = a.tellProducer(inTime, callback, attemptOf(info))
	}
	if errors.Is(err, outflow.ErrNoDestination) {
		err = outflow.Unavailable(err) // a queue for replies may come back; a day bounds the wait
	}
	delay := callbackDelay(info.Attempt, outflow.RetryAfter(err))
	note := outbox.CallbackNote{Ref: ref, End: callback.State, State: outbox.CallbackSent}
	switch {
	case err == nil:
	case outflow.IsPermanent(err):
		note.State, note.LastError = outbox.CallbackFailed, err.Error()
	default:
		note.State, note.LastError, note.Lease = outbox.CallbackDue, err.Error(), callbackLease(delay)
	}
	noted, notErr := a.store.NoteCallback(inTime, note)
	stop()
	if noted {
		a.record.Callback(callbackResult(note.State))
	}
	switch {
	case notErr != nil && err != nil:
		err = outflow.Retryable(fmt.Errorf("%w; %w", err, notErr))
	case notErr != nil:
		activity.RecordHeartbeat(ctx, callback.State) // another attempt need only note it
		err = notErr
	case !noted:
		err = outflow.Retryable(errors.New("the message ended in another way, or was started anew, meanwhile: looking once more"))
	}
	if err != nil {
		return CallbackResult{}, translateAfter(err, delay)
	}
	return CallbackResult{Verdict: CallbackSent, Reported: callback.State}, nil
}

// callbackResult is an attempt's result as metrics have it.
func callbackResult(state outbox.CallbackState) string {
	switch state {
	case outbox.CallbackSent:
		return metrics.ResultSent
	case outbox.CallbackFailed:
		return metrics.ResultFailed
	}
	return metrics.ResultRetried
}

// toldBefore is the end that an earlier attempt told and could not note, or "".
func toldBefore(ctx context.Context) (told outflow.State) {
	if !activity.HasHeartbeatDetails(ctx) || activity.GetHeartbeatDetails(ctx, &told) != nil {
		return ""
	}
	return told
}

// tellProducer sends one callback, under a span of its own.
func (a *Activities) tellProducer(ctx context.Context, c outbox.Callback, t tracing.Attempt) (err error) {
	ctx, span := a.tracer.Callback(ctx, c, t)
	err = tracing.ErrNoAnswer
	defer func() { span.End(err, tracing.FailureType(err)) }()
	err = a.sendCallback(ctx, c)
	return err
}

func (a *Activities) sendCallback(ctx context.Context, c outbox.Callback) error {
	body, err := bodyOf(c)
	if err != nil {
		return outflow.Permanent(fmt.Errorf("encoding the callback: %w", err))
	}
	ctx, cancel := context.WithTimeout(ctx, timing.CallbackCall)
	defer cancel()
	return a.sender.SendCallback(ctx, c.To, c.CallbackID(), "application/json", body)
}

// MarkCallbackFailed gives a callback up that is still due. Its errors are
// Temporal's.
func (a *Activities) MarkCallbackFailed(ctx context.Context, in CallbackInput) error {
	if err := a.owner.check(ctx, in.Owner); err != nil {
		return translate(err, activity.GetInfo(ctx).Attempt)
	}
	noted, err := a.store.NoteCallback(ctx, outbox.CallbackNote{
		Ref: outbox.Ref{ID: in.MessageID, Generation: in.Generation}, State: outbox.CallbackFailed, LastError: in.Reason,
	})
	if err != nil {
		return translate(err, activity.GetInfo(ctx).Attempt)
	}
	if noted {
		a.record.Callback(metrics.ResultFailed)
	}
	return nil
}

// callbackDelay is the wait after the given attempt, from 1: the backoff with
// jitter, or what the destination asked for and a little more.
func callbackDelay(attempt int32, asked time.Duration) time.Duration {
	return timing.CallbackBackoff.Delay(attempt, asked)
}

// callbackLease is how long scanners leave a callback to its run, whose next
// attempt comes after delay.
func callbackLease(delay time.Duration) time.Duration {
	return timing.CallbackAttempt + delay + delay/2 + timing.LeaseMargin
}
