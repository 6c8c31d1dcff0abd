package scanner

import (
	"context"
	"sync"
	"time"
)

// The brake's bounds: from a pause that a person does not notice to one that
// leaves a struggling server alone, and is over soon after it has recovered.
const (
	firstPause = 250 * time.Millisecond
	lastPause  = 15 * time.Second
)

// brake slows the scanner while Temporal refuses starts or the database fails.
// Each failure of a probe doubles the pause; a success lifts it.
type brake struct {
	mu       sync.Mutex
	current  time.Duration
	raisedAt time.Time
	lifted   chan struct{} // closed when the brake is lifted
}

// failed raises the pause, once for all the failures of one pause: many starts
// fail together.
func (b *brake) failed() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if time.Since(b.raisedAt) < b.current {
		return
	}
	if b.current == 0 {
		b.lifted = make(chan struct{})
	}
	b.current = min(max(2*b.current, firstPause), lastPause)
	b.raisedAt = time.Now()
}

func (b *brake) succeeded() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.current > 0 {
		b.current = 0
		close(b.lifted)
	}
}

// state reports whether the brake is raised, so that only a probe may go, and
// how much of the pause before that probe is left.
func (b *brake) state() (raised bool, left time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.current == 0 {
		return false, 0
	}
	return true, max(b.current-time.Since(b.raisedAt), 0)
}

// rest waits until the pause is over or the brake lifted, and reports whether
// there was a pause.
func (b *brake) rest(ctx context.Context) bool {
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

// plainFor is how long starts go without search attributes after a refusal.
const plainFor = time.Minute

// plainStarts remembers that the namespace refused the search attributes.
type plainStarts struct {
	mu    sync.Mutex
	until time.Time
}

func (p *plainStarts) now() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return time.Now().Before(p.until)
}

// begin starts such a time and reports whether none was under way.
func (p *plainStarts) begin() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	begun := now.After(p.until)
	p.until = now.Add(plainFor)
	return begun
}
