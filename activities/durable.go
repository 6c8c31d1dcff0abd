package activities

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"go.temporal.io/sdk/activity"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/internal/text"
	"github.com/outflowhq/outflow/outbox"
)

// publishDurably makes one attempt of a regular activity. The first one after a fast
// path whose failure wants a wait sends nothing: it leases the row past that wait,
// which is then Temporal's own, seen in the Web UI, until the second attempt.
func (a *Activities) publishDurably(ctx context.Context, ref outbox.Ref, in PublishInput, info activity.Info) (PublishResult, error) {
	// A cancel request, a pause or a stopping worker ends ctx, and the heartbeats made
	// with it. Whoever cancels waits for the answer, since the broker may have the message.
	ctx = context.WithoutCancel(ctx)
	inTime, cancel := context.WithTimeout(ctx, Durable-answerMargin)
	defer cancel()
	last := lastNote(ctx)
	first := info.Attempt == 1 && last == nil // an operator's reset does not wait again
	if in.Wait > 0 && (first || last != nil && last.Refused) {
		return a.putOff(ctx, inTime, ref, in, info.Attempt)
	}
	renewal := renewalOf(ref, in, info.Attempt, last)
	var seen atomic.Pointer[lookedAt] // look may still be under way when this attempt ends
	look := func(ctx context.Context) (outbox.Record, error) {
		record, err := a.store.Renew(ctx, renewal)
		at := lookedAt{uncounted: renewal.Attempts, expiresAfter: record.ExpiresAfter}
		switch {
		case err != nil:
		case record.HeldBack:
			at.uncounted = 0
		default: // the row counts this attempt, and it may come to nothing
			at.uncounted = -1
		}
		seen.Store(&at)
		return record, err
	}
	var before attemptNote
	if last != nil {
		before = *last
	}
	stop := beat(ctx, before)
	result, joined, err := a.flights.do(inTime, ref, func(ctx context.Context) (PublishResult, error) {
		return a.attempt(ctx, try{ref: ref, look: look, lost: renewal.Lost, traced: attemptOf(info)})
	})
	stop()
	if err == nil {
		if joined && info.Attempt == 1 {
			result.Attempts = in.Attempts // a later attempt comes after one that noted them
		}
		return result, nil
	}
	at := lookedAt{uncounted: renewal.Attempts}
	if looked := seen.Load(); looked != nil {
		at = *looked
	}
	note := attemptNote{Attempt: info.Attempt, LastError: text.Clean(err.Error())}
	if errors.Is(err, outflow.ErrNotAttempted) {
		note.Uncounted = at.uncounted
		if before := new(beforehandError); !errors.As(err, &before) {
			note.LastError = "" // the last failure says more
		}
	}
	activity.RecordHeartbeat(ctx, note)
	delay := untilExpiry(retryDelay(info.Attempt, outflow.RetryAfter(err)), at.expiresAfter)
	if errors.Is(err, errNoRoom) {
		delay = min(delay, mostRoomDelay)
	}
	if delay > covered(info.Attempt) {
		a.leaseWait(ctx, inTime, outbox.Renewal{Ref: ref, Lease: waitLease(delay), LastError: note.LastError})
	}
	return PublishResult{}, translateAfter(err, delay)
}

// lookedAt is what a durable attempt's look at the row says for what comes after it.
type lookedAt struct {
	uncounted    int // as attemptNote has it
	expiresAfter time.Duration
}

// putOff is the first durable attempt where it only begins a wait. What the fast path
// still has under way, or has published since, it joins.
func (a *Activities) putOff(ctx, inTime context.Context, ref outbox.Ref, in PublishInput, attempt int32) (PublishResult, error) {
	note := attemptNote{Attempt: attempt, LastError: in.LastError, Uncounted: in.Attempts}
	delay := in.Wait
	wait := func(inTime context.Context) (PublishResult, error) {
		record, err := a.leaseWait(ctx, inTime, outbox.Renewal{
			Ref: ref, Lease: waitLease(in.Wait), LastError: in.LastError, Attempts: in.Attempts,
		})
		if err == nil {
			note.Uncounted, delay = 0, untilExpiry(in.Wait, record.ExpiresAfter)
			// These are looked at when it is to be sent.
			record.HeldBack, record.Claims = false, 0
			if result, done, err := a.withoutSending(inTime, try{ref: ref}, record); done {
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
		return PublishResult{}, translateAfter(beforehand(err), delay)
	}
	return result, nil
}

// refused leaves a word for the next attempt where this worker is not the one to make
// this attempt: no process died of it, and what the fast path met is still to be noted.
func refused(ctx context.Context, in PublishInput, attempt int32) {
	note := attemptNote{LastError: in.LastError, Uncounted: in.Attempts, Refused: true}
	if last := lastNote(ctx); last != nil {
		note = *last
	}
	note.Attempt = attempt
	activity.RecordHeartbeat(context.WithoutCancel(ctx), note)
}

// untilExpiry ends a wait soon after the message's expiry, 0 for none: its end is
// written then, and its producer told.
func untilExpiry(wait, expiresAfter time.Duration) time.Duration {
	if expiresAfter > 0 {
		return min(wait, expiresAfter+FirstRetry)
	}
	return wait
}

// leaseWait leases a row past a wait. Without that lease a claim only meets the run,
// so a failure to write it keeps nobody from waiting.
func (a *Activities) leaseWait(ctx, inTime context.Context, r outbox.Renewal) (outbox.Record, error) {
	r.Waits = true
	record, err := a.store.Renew(inTime, r)
	if err != nil && !errors.Is(err, outflow.ErrNotFound) {
		activity.GetLogger(ctx).Warn("leasing a message for a wait", "message_id", r.ID, "lease", r.Lease, "error", err)
	}
	return record, err
}

// beat tells the engine, until the returned function is called, that this worker is
// alive: a dead one is noticed after Silence, and not after all the time that an
// attempt may take. What the attempt before left goes along: should this one leave
// no word, the next one sees so.
func beat(ctx context.Context, before any) (stop func()) {
	done, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		ticker := time.NewTicker(Beat)
		defer ticker.Stop()
		for {
			select {
			case <-done:
				return
			case <-ticker.C:
				activity.RecordHeartbeat(ctx, before)
			}
		}
	}()
	return sync.OnceFunc(func() { close(done); <-stopped })
}

// attemptNote is what a durable attempt that failed leaves for the next one.
type attemptNote struct {
	LastError string `json:"lastError"`
	Attempt   int32  `json:"attempt"`
	// Uncounted is what the row's count of attempts lacks: -1 for one that it counts
	// and that sent nothing.
	Uncounted int `json:"uncounted,omitempty"`
	// Refused says that every attempt so far met a worker that was not to make it.
	Refused bool `json:"refused,omitempty"`
}

// renewalOf says what a durable attempt notes: the fast path's failure the
// first time, then that of the attempt before, or that it left no word.
func renewalOf(ref outbox.Ref, in PublishInput, attempt int32, last *attemptNote) outbox.Renewal {
	r := outbox.Renewal{Ref: ref, Lease: leaseFor(attempt)}
	switch {
	case last != nil && (last.Attempt == attempt-1 || attempt == 1): // an operator's reset counts anew
		r.LastError, r.Attempts = last.LastError, last.Uncounted
	case attempt == 1:
		r.LastError, r.Attempts = in.LastError, in.Attempts
	default:
		r.Lost = true
	}
	return r
}

// lastNote is what the attempt before left, or nil.
func lastNote(ctx context.Context) *attemptNote {
	var last attemptNote
	if !activity.HasHeartbeatDetails(ctx) || activity.GetHeartbeatDetails(ctx, &last) != nil {
		return nil
	}
	return &last
}
