package activities

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/temporal"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/internal/timing"
	"github.com/outflowhq/outflow/outbox"
	"github.com/outflowhq/outflow/publish"
)

// StreamStore is the table as streams use it; outboxdb.Store is one. Every method is safe for
// concurrent use.
type StreamStore interface {
	Pages
	// FinishAll writes ends, and answers each. It may be repeated.
	FinishAll(ctx context.Context, endings []outbox.Ending) []outbox.Finished
	// HandOver leaves messages to runs of their own. It may be repeated.
	HandOver(ctx context.Context, p outbox.PageRef, failed []outbox.Unfinished) (outbox.HandedOver, error)
	// NoteStream notes how a stream goes. It is repeated every few seconds.
	NoteStream(ctx context.Context, n outbox.StreamState, first bool) error
}

// Pages are the messages that streams have claimed.
type Pages interface {
	ClaimPage(ctx context.Context, req outbox.PageRequest) (outbox.Page, error)
	// LeavePage gives messages back, but for those whose rows are locked. It may be repeated.
	LeavePage(ctx context.Context, p outbox.PageRef, left []outbox.Unfinished) (locked []uuid.UUID, err error)
	// EndPage ends a page whose messages have all left it. It may be repeated.
	EndPage(ctx context.Context, p outbox.PageRef) error
	// FreePages frees what others than these holders have left behind, and says how much is still to be
	// freed.
	FreePages(ctx context.Context, destination string, holders []uuid.UUID) (freed, left int, err error)
}

// BatchPublisher sends many messages to one destination; publish.Router is one. Each result has the
// promises of Publisher for its message. One that is a publish.Refuser takes no stream of a destination
// that it can't send to.
type BatchPublisher interface {
	PublishBatch(ctx context.Context, destination string, messages []outflow.Message) []publish.Result
}

// Streams has the activity of streams. The streams of a process share its bounds.
type Streams struct {
	*Activities
	store     StreamStore
	publisher BatchPublisher
	// active counts the streams of this process.
	active atomic.Int64
}

// NewStreams returns the activity of streams over a store and a publisher. What it has in common with
// other deliveries, such as the log and the breakers, it has from a.
func NewStreams(a *Activities, store StreamStore, publisher BatchPublisher) *Streams {
	return &Streams{Activities: a, store: store, publisher: publisher}
}

// StreamInput is the input of Stream.
type StreamInput struct {
	Owner
	Destination string `json:"destination"`
	// First says that it is the run's first activity.
	First bool `json:"first,omitempty"`
	// Before is what earlier activities of the stream have done. The table has the sum.
	Before outbox.Progress `json:"before,omitzero"`
}

// StreamResult is what one activity of a stream has done, and why it ended.
type StreamResult struct {
	outbox.Progress
	Ended outbox.StreamEnd `json:"ended"`
}

// streamNote is what a stream's heartbeats carry: the Web UI shows it, and the next attempt begins with
// it.
type streamNote struct {
	outbox.Progress
	// Unmarked are acknowledgements whose ends could not be written yet.
	Unmarked []unmarked `json:"unmarked,omitempty"`
}

// unmarked is an acknowledgement whose end is not written.
type unmarked struct {
	ID         uuid.UUID `json:"id"`
	Generation int       `json:"generation"`
	BrokerID   string    `json:"brokerId,omitempty"`
}

// Stream delivers a destination's backlog in pages until nothing has been due for a while, its time is
// over, or it can't go on.
//
// The invariant: a message of a page is sent only within timing.StreamSends of its claim, and leaves
// the page by one of these: its end is written, it is handed over to a run of its own, or it is given
// back. What a lost process leaves in its pages is freed by the next attempt. An acknowledgement
// is held until its end is written.
func (s *Streams) Stream(ctx context.Context, in StreamInput) (StreamResult, error) {
	info := activity.GetInfo(ctx)
	if err := s.owner.check(ctx, in.Owner); err != nil {
		return StreamResult{}, translate(err, info.Attempt)
	}
	if why := outbox.WhyNoStream(in.Destination); why != "" {
		return StreamResult{}, translate(outflow.Permanent(fmt.Errorf("no stream for %s: %s",
			outflow.DisplayDestination(in.Destination), why)), info.Attempt)
	}
	if refuser, ok := s.publisher.(publish.Refuser); ok {
		if err := refuser.Refusal(in.Destination); err != nil { // another worker may be able to
			return StreamResult{}, translateAfter(
				outflow.Retryable(fmt.Errorf("%w: %w", outflow.ErrNotAttempted, err)), refusedAgain)
		}
	}
	s.active.Add(1)
	defer s.active.Add(-1)
	r := newStreaming(s, in, info)
	var last streamNote
	if activity.HasHeartbeatDetails(ctx) && activity.GetHeartbeatDetails(ctx, &last) == nil {
		r.goOn(last)
	}
	r.logTo().Info("takes a stream", "destination", outflow.DisplayDestination(in.Destination), "attempt", info.Attempt)
	ended, err := r.run(ctx)
	r.logTo().Info("leaves a stream", "destination", outflow.DisplayDestination(in.Destination), "why", ended,
		"delivered", r.progress.Delivered, "dead", r.progress.Dead, "handed_over", r.progress.HandedOver)
	if err != nil {
		return StreamResult{}, err
	}
	return StreamResult{Progress: r.progress, Ended: ended}, nil
}

// stopReason says why a stream's activity is to end, by the end of its context.
func stopReason(ctx context.Context) outbox.StreamEnd {
	switch cause := context.Cause(ctx); {
	case errors.Is(cause, activity.ErrActivityPaused):
		return outbox.StreamPaused
	case temporal.IsCanceledError(cause):
		return outbox.StreamCancelled
	}
	// The run has ended, was reset, or Temporal can't be reached: it knows what comes next.
	return outbox.StreamStopped
}

// endedBy returns the activity's result for an end that came from outside.
func endedBy(ctx context.Context, ended outbox.StreamEnd) (outbox.StreamEnd, error) {
	// A paused activity wants an error; where the run is gone nobody reads it. Of a cancelled one the SDK
	// would log an error too: its run reads the result instead.
	if ctx.Err() != nil && ended != outbox.StreamCancelled {
		return ended, temporal.NewApplicationErrorWithOptions("the stream was stopped: "+context.Cause(ctx).Error(),
			ErrTypeNotAttempted, temporal.ApplicationErrorOptions{
				Category: temporal.ApplicationErrorCategoryBenign, NextRetryDelay: time.Second})
	}
	return ended, nil
}

// streamHeartbeats sends the note of the moment until stop is called, and once more then. The end of ctx
// does not end them: requests under way are still waited for.
func streamHeartbeats(ctx context.Context, note func() streamNote) (stop func()) {
	ctx = context.WithoutCancel(ctx)
	done, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		ticker := time.NewTicker(timing.StreamHeartbeatInterval)
		defer ticker.Stop()
		for {
			activity.RecordHeartbeat(ctx, note())
			select {
			case <-done:
				activity.RecordHeartbeat(ctx, note())
				return
			case <-ticker.C:
			}
		}
	}()
	return func() { close(done); <-stopped }
}
