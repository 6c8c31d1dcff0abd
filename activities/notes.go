package activities

import (
	"context"
	"sync"
	"time"

	"go.temporal.io/sdk/activity"

	"github.com/outflowhq/outflow/internal/timing"
	"github.com/outflowhq/outflow/outbox"
)

// attemptNote is what a durable attempt that failed leaves for the next one, as its last heartbeat.
type attemptNote struct {
	LastError string `json:"lastError"`
	Attempt   int32  `json:"attempt"`
	// Uncounted is what the row's count of attempts lacks: -1 for an attempt that the row counts
	// and that sent nothing.
	Uncounted int `json:"uncounted,omitempty"`
	// PassedOn: every attempt so far met a worker of another outbox.
	PassedOn bool `json:"passedOn,omitempty"`
}

// lastNote returns the note of the attempt before, or nil.
func lastNote(ctx context.Context) *attemptNote {
	var last attemptNote
	if !activity.HasHeartbeatDetails(ctx) || activity.GetHeartbeatDetails(ctx, &last) != nil {
		return nil
	}
	return &last
}

// renewalOf returns what a durable attempt notes on the row: at first the fast path's failure, then
// the failure of the attempt before. An attempt that left no note crashed.
func renewalOf(ref outbox.Ref, in PublishInput, attempt int32, last *attemptNote) outbox.Renewal {
	r := outbox.Renewal{Ref: ref, Lease: leaseFor(attempt)}
	switch {
	case last != nil && (last.Attempt == attempt-1 || attempt == 1): // an operator's reset counts from 1
		r.LastError, r.Attempts = last.LastError, last.Uncounted
	case attempt == 1:
		r.LastError, r.Attempts = in.LastError, in.Attempts
	default:
		r.Lost = true
	}
	return r
}

// passOn leaves a note where a worker of another outbox got the attempt: no process crashed, and
// the fast path's failure is still to be noted on the row.
func passOn(ctx context.Context, in PublishInput, attempt int32) {
	note := attemptNote{LastError: in.LastError, Uncounted: in.Attempts, PassedOn: true}
	if last := lastNote(ctx); last != nil {
		note = *last
	}
	note.Attempt = attempt
	activity.RecordHeartbeat(context.WithoutCancel(ctx), note)
}

// heartbeat shows Temporal that this worker is alive, until stop is called. So a crashed worker is
// noticed after timing.HeartbeatTimeout. Each heartbeat repeats the note of the attempt before:
// should this attempt crash, the next one sees that.
func heartbeat(ctx context.Context, previous any) (stop func()) {
	done, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		ticker := time.NewTicker(timing.HeartbeatInterval)
		defer ticker.Stop()
		for {
			select {
			case <-done:
				return
			case <-ticker.C:
				activity.RecordHeartbeat(ctx, previous)
			}
		}
	}()
	return sync.OnceFunc(func() { close(done); <-stopped })
}
