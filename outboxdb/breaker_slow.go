package outboxdb

import (
	"time"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/outbox"
)

const (
	// slowAfterAnswer is how long a target counts as slow after an answer that was late, and
	// slowAfterCut after a call that was cut short, for which this process may be to blame. A
	// process writes that a target is slow at most once in slowInterval.
	slowAfterAnswer = 10 * time.Minute
	slowAfterCut    = time.Minute
	slowInterval    = time.Minute
	// A call that was cut short weighs cutWeight, a late answer lateWeight, and a quick one takes 1
	// away. A target is slow from slowWeight: a cut and a late answer, or more than one in ten of
	// many. One late answer in thousands must not take the others off the fast path.
	cutWeight  = 10
	lateWeight = 20
	slowWeight = 30
	maxWeight  = 100
	// lateBurst is how soon after a late answer another counts as the same: the messages of one
	// request end together, and so do all calls of a process that stalled.
	lateBurst = time.Second
)

// slowness is what this process knows of the time that a target's answers take.
type slowness struct {
	weight int       // of late answers
	lateAt time.Time // when a late answer last counted
	until  time.Time // as this process noted last
}

// late counts a late answer, unless it belongs to the burst of another.
func (s *slowness) late(weight int, burst time.Duration) {
	if now := time.Now(); now.Sub(s.lateAt) >= burst {
		s.lateAt, s.weight = now, min(s.weight+weight, maxWeight)
	}
}

// took weighs the time that a destination took to acknowledge a message. A target whose answers are
// late is slow: its messages leave the fast path unsent. It stays slow as long as answers take more
// than half of what a call has on the fast path. It runs under the lock.
func (b *breakers) took(destination string, took time.Duration) {
	target := outbox.TargetOf(destination)
	quick := took < outflow.FastPathCallTime/2
	d := b.states[target]
	switch {
	case quick && d != nil:
		d.slowness.weight = max(d.slowness.weight-1, 0)
	case took > outflow.FastPathCallTime:
		d = b.state(target)
		d.slowness.late(lateWeight, b.lateBurst)
	}
	if !quick && d != nil {
		b.noteSlow(target, d, slowAfterAnswer)
	}
}

// cutShort weighs a call that was ended after outflow.FastPathCallTime. That is no failure: the
// answer may have been on its way. It runs under the lock.
func (b *breakers) cutShort(destination string) {
	target := outbox.TargetOf(destination)
	d := b.state(target)
	d.slowness.late(cutWeight, b.lateBurst)
	b.noteSlow(target, d, slowAfterCut)
}

// noteSlow has a target noted as slow, if enough of its answers were late.
func (b *breakers) noteSlow(target string, d *destinationState, length time.Duration) {
	until := time.Now().Add(length)
	if d.slowness.weight < slowWeight || until.Sub(d.slowness.until) < slowInterval {
		return
	}
	d.slowness.until, d.notes.slowFor = until, length
	b.writeNotes(target, d)
}

// noteSlowSQL notes that a target ($1) is slow for at least the time $2 from now.
const noteSlowSQL = `
INSERT INTO outbox.destinations AS h (destination, slow_until) VALUES ($1, now() + $2::interval)
ON CONFLICT (destination) DO UPDATE SET slow_until = greatest(h.slow_until, now() + $2::interval)`

// slowTargetSQL says that the target of the row m is slow. A scalar subquery, so that no planner
// hashes all destinations for it.
const slowTargetSQL = `
	coalesce((SELECT p.slow_until > now() FROM outbox.destinations AS p
	           WHERE p.destination = ` + TargetOfSQL + `), false) AS slow_target`
