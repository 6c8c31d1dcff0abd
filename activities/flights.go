package activities

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"go.temporal.io/sdk/activity"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/internal/panics"
	"github.com/outflowhq/outflow/internal/timing"
	"github.com/outflowhq/outflow/outbox"
)

// flights joins the attempts of one (message, generation) within a process, and remembers an
// acknowledgement until the message's end is written. Temporal may run a local activity again while
// the first run publishes, or after it did.
type flights struct {
	mu   sync.Mutex
	open map[outbox.Ref]*flight
}

type flight struct {
	landed chan struct{} // closed when result and err are set
	result PublishResult
	err    error
	// forgetting drops an acknowledgement whose end is not written in time.
	forgetting *time.Timer
}

func newFlights() *flights { return &flights{open: make(map[outbox.Ref]*flight)} }

// do joins an attempt that is under way, or acknowledged and not marked, and returns its result.
// Otherwise it starts an attempt. An attempt outlives a caller that leaves: the broker may have the
// message by then.
func (f *flights) do(
	ctx context.Context, ref outbox.Ref, attempt func(context.Context) (PublishResult, error),
) (result PublishResult, joined bool, err error) {
	f.mu.Lock()
	fl, joined := f.open[ref]
	if !joined {
		fl = &flight{landed: make(chan struct{})}
		f.open[ref] = fl
		go f.fly(ctx, ref, fl, attempt)
	}
	f.mu.Unlock()
	select {
	case <-fl.landed:
		return fl.result, joined, fl.err
	case <-ctx.Done():
		return PublishResult{}, joined, fmt.Errorf("waiting for the publish under way: %w", ctx.Err())
	}
}

func (f *flights) fly(
	ctx context.Context, ref outbox.Ref, fl *flight, attempt func(context.Context) (PublishResult, error),
) {
	deadline, ok := ctx.Deadline()
	if !ok {
		deadline = time.Now().Add(timing.LocalPublish)
	}
	own, cancel := context.WithDeadline(context.WithoutCancel(ctx), deadline)
	defer cancel()
	defer f.land(ref, fl)
	// A payload that makes its publisher panic must not take the process, and with it
	// everybody's messages, down.
	defer panics.Catch(func(p *panics.Error) {
		activity.GetLogger(ctx).Error("publishing panicked", "panic", p.Value, "stack", string(p.Stack))
		fl.err = outflow.Permanent(panics.OfPublisher("publishing", p))
	})
	fl.err = errors.New("the publish ended without an answer") // it may end its goroutine
	fl.result, fl.err = attempt(own)
}

// land settles a flight. Only an acknowledgement stays.
func (f *flights) land(ref outbox.Ref, fl *flight) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if fl.err == nil && fl.result.Verdict == Published {
		fl.forgetting = time.AfterFunc(timing.KeepAcknowledgement, func() { f.forget(ref) })
	} else {
		delete(f.open, ref)
	}
	close(fl.landed)
}

// acknowledged returns the acknowledgement of ref that waits for its mark, or nil. It waits for an
// attempt that is under way, and returns an error when that takes longer than ctx.
func (f *flights) acknowledged(ctx context.Context, ref outbox.Ref) (*PublishResult, error) {
	f.mu.Lock()
	fl := f.open[ref]
	f.mu.Unlock()
	if fl == nil {
		return nil, nil
	}
	select {
	case <-fl.landed:
	case <-ctx.Done():
		return nil, fmt.Errorf("waiting for the publish under way: %w", ctx.Err())
	}
	if fl.err != nil || fl.result.Verdict != Published {
		return nil, nil
	}
	return &fl.result, nil
}

// forget drops the acknowledgement of a message whose end is written, or was not written in time.
func (f *flights) forget(ref outbox.Ref) {
	f.mu.Lock()
	defer f.mu.Unlock()
	fl := f.open[ref]
	if fl == nil {
		return
	}
	select {
	case <-fl.landed:
		fl.forgetting.Stop()
		delete(f.open, ref)
	default: // a later attempt is under way; it reads the row first
	}
}

// timeLeft returns the time until ctx's deadline.
func timeLeft(ctx context.Context) time.Duration {
	deadline, ok := ctx.Deadline()
	if !ok {
		return time.Duration(1<<63 - 1)
	}
	return time.Until(deadline)
}
