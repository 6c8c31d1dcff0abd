package scanner

import (
	"context"
	"sync"
	"time"
)

// The bounds of a pause: from one that a person does not notice to one that spares a struggling
// server, and is over soon after its recovery.
const (
	minPause = 250 * time.Millisecond
	maxPause = 15 * time.Second
)

// backpressure slows the scanner while Temporal fails starts or the database fails claims. Each
// failure after a pause doubles the next pause. A success ends it.
type backpressure struct {
	mu       sync.Mutex
	pause    time.Duration
	raisedAt time.Time
	lifted   chan struct{} // closed by a success
}

// failed raises the pause, once for all failures within one pause: many starts fail together.
func (b *backpressure) failed() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if time.Since(b.raisedAt) < b.pause {
		return
	}
	if b.pause == 0 {
		b.lifted = make(chan struct{})
	}
	b.pause = min(max(2*b.pause, minPause), maxPause)
	b.raisedAt = time.Now()
}

func (b *backpressure) succeeded() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.pause > 0 {
		b.pause = 0
		close(b.lifted)
	}
}

// state reports whether there is backpressure, so that only one start at a time may probe, and how
// much of the pause before that probe is left.
func (b *backpressure) state() (raised bool, left time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.pause == 0 {
		return false, 0
	}
	return true, max(b.pause-time.Since(b.raisedAt), 0)
}

// wait waits until the pause is over or a success ends it. It reports whether there was a pause.
func (b *backpressure) wait(ctx context.Context) bool {
	_, left := b.state()
	if left == 0 {
		return false
	}
	b.mu.Lock()
	lifted := b.lifted
	b.mu.Unlock()
	timer := time.NewTimer(left)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-lifted:
	case <-timer.C:
	}
	return true
}
