package scanner

import (
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
}

// failed raises the pause, once for all the failures of one pause: many starts
// fail together.
func (b *brake) failed() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if time.Since(b.raisedAt) < b.current {
		return
	}
	b.current = min(max(2*b.current, firstPause), lastPause)
	b.raisedAt = time.Now()
}

func (b *brake) succeeded() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.current = 0
}

// pause is how long to wait before the next claim, which then takes one message.
func (b *brake) pause() time.Duration {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.current
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
