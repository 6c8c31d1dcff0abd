package activities

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"go.temporal.io/sdk/activity"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/internal/text"
	"github.com/outflowhq/outflow/internal/timing"
	"github.com/outflowhq/outflow/outbox"
)

// publishDurably makes one attempt as a regular activity. After a failure on the fast path that
// wants a wait, the first attempt sends nothing. It leases the row past the wait, which Temporal
// then keeps and the Web UI shows, until the second attempt.
func (a *Activities) publishDurably(
	ctx context.Context, ref outbox.Ref, in PublishInput, info activity.Info,
) (PublishResult, error) {
	// A cancel request, a pause or a stopping worker ends ctx, and the heartbeats made with it. The
	// attempt goes on: the broker may have the message, and whoever cancels waits for the answer.
	ctx = context.WithoutCancel(ctx)
	inTime, cancel := context.WithTimeout(ctx, timing.DurablePublish-timing.AnswerMargin)
	defer cancel()
	last := lastNote(ctx)
	first := info.Attempt == 1 && last == nil // an operator's reset does not wait again
	if in.Wait > 0 && (first || last != nil && last.PassedOn) {
		return a.beginWait(ctx, inTime, ref, in, info.Attempt)
	}
	var previous attemptNote
	if last != nil {
		previous = *last
	}
	stop := heartbeat(ctx, previous)
	r := renewer{store: a.store, renewal: renewalOf(ref, in, info.Attempt, last)}
	result, joined, err := a.flights.do(inTime, ref, func(ctx context.Context) (PublishResult, error) {
		return a.publishOnce(ctx, attempt{ref: ref, load: r.renew, crashed: r.renewal.Lost, trace: traceOf(info)})
	})
	stop()
	if err != nil {
		return PublishResult{}, a.noteFailure(ctx, inTime, ref, info.Attempt, r.row(), err)
	}
	if joined && info.Attempt == 1 {
		result.Attempts = in.Attempts // a later attempt comes after one that noted them
	}
	return result, nil
}

// noteFailure leaves a note for the next attempt, leases the row past a long wait, and returns the
// failure as Temporal's.
func (a *Activities) noteFailure(
	ctx, inTime context.Context, ref outbox.Ref, attempt int32, row renewedRow, err error,
) error {
	note := attemptNote{Attempt: attempt, LastError: text.Clean(err.Error())}
	if errors.Is(err, outflow.ErrNotAttempted) {
		note.Uncounted = row.uncounted
		if marked := new(notSentError); !errors.As(err, &marked) {
			note.LastError = "" // the failure on the row says more
		}
	}
	activity.RecordHeartbeat(ctx, note)
	delay := untilExpiry(retryDelay(attempt, outbox.RetryAfter(err)), row.expiresAfter)
	switch {
	case errors.Is(err, errNoRoom):
		delay = min(delay, timing.MaxRoomDelay)
	case errors.Is(err, errElsewhere):
		delay = timing.ForeignDelay(delay)
	}
	if delay > maxLeasedDelay(attempt) {
		a.leaseWait(ctx, inTime, outbox.Renewal{Ref: ref, Lease: waitLease(delay), LastError: note.LastError})
	}
	return translateAfter(err, delay)
}

// renewer renews the row for one durable attempt.
type renewer struct {
	store   Store
	renewal outbox.Renewal
	// renewed is set by renew, which may still be under way when the attempt ends.
	renewed atomic.Pointer[renewedRow]
}

// renewedRow is what the row says for the steps after the attempt.
type renewedRow struct {
	uncounted    int // see attemptNote
	expiresAfter time.Duration
}

func (r *renewer) renew(ctx context.Context) (outbox.Record, error) {
	record, err := r.store.Renew(ctx, r.renewal)
	row := renewedRow{uncounted: r.renewal.Attempts, expiresAfter: record.ExpiresAfter}
	switch {
	case err != nil:
	case record.HeldBack:
		row.uncounted = 0
	default: // the row counts this attempt, which may send nothing
		row.uncounted = -1
	}
	r.renewed.Store(&row)
	return record, err
}

// row returns the renewed row, as far as it is known.
func (r *renewer) row() renewedRow {
	if row := r.renewed.Load(); row != nil {
		return *row
	}
	return renewedRow{uncounted: r.renewal.Attempts}
}

// beginWait is the first durable attempt where it only begins a wait. It joins an attempt of the
// fast path that is still under way, or has published since.
func (a *Activities) beginWait(
	ctx, inTime context.Context, ref outbox.Ref, in PublishInput, number int32,
) (PublishResult, error) {
	note := attemptNote{Attempt: number, LastError: in.LastError, Uncounted: in.Attempts}
	delay := in.Wait
	wait := func(inTime context.Context) (PublishResult, error) {
		record, err := a.leaseWait(ctx, inTime, outbox.Renewal{
			Ref: ref, Lease: waitLease(in.Wait), LastError: in.LastError, Attempts: in.Attempts,
		})
		if err == nil {
			note.Uncounted, delay = 0, untilExpiry(in.Wait, record.ExpiresAfter)
			record.HeldBack, record.Claims = false, 0 // for the attempt that sends
			if result, may, err := a.mayPublish(inTime, attempt{ref: ref}, record); !may {
				return result, err
			}
		}
		return PublishResult{}, fmt.Errorf("%s; nothing is sent for %s", in.LastError, in.Wait.Round(time.Millisecond))
	}
	result, joined, err := a.flights.do(inTime, ref, wait)
	switch {
	case joined && err == nil:
		result.Attempts = in.Attempts
	case joined:
		result, err = wait(inTime)
	}
	if err != nil {
		activity.RecordHeartbeat(ctx, note)
		return PublishResult{}, translateAfter(notSent(err), delay)
	}
	return result, nil
}

// untilExpiry ends a wait soon after the message's expiry; 0 for none. The message's end is then
// written, and its producer notified.
func untilExpiry(wait, expiresAfter time.Duration) time.Duration {
	if expiresAfter > 0 {
		return min(wait, expiresAfter+timing.PublishBackoff.First)
	}
	return wait
}

// leaseWait leases a row past a wait. An error does not end the wait: without the lease, a claim
// only meets the open run.
func (a *Activities) leaseWait(ctx, inTime context.Context, r outbox.Renewal) (outbox.Record, error) {
	r.Waits = true
	record, err := a.store.Renew(inTime, r)
	if err != nil && !errors.Is(err, outflow.ErrNotFound) {
		activity.GetLogger(ctx).Warn("leasing a message for a wait", "message_id", r.ID, "lease", r.Lease, "error", err)
	}
	return record, err
}
