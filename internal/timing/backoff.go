package timing

import (
	"math/rand/v2"
	"time"

	"github.com/outflowhq/outflow/outbox"
)

// Backoff is the wait between attempts: First after the first one, doubled with each attempt
// up to Max.
type Backoff struct{ First, Max time.Duration }

// The backoffs of a delivery and of its callback. A destination may ask for longer waits:
// outbox.MaxRetryAfter at most.
var (
	PublishBackoff  = Backoff{First: time.Second, Max: 5 * time.Minute}
	CallbackBackoff = Backoff{First: time.Second, Max: 10 * time.Minute}
)

// maxDoublings keeps the shift from overflowing, and is more than any Max needs.
const maxDoublings = 10

// ForeignDelay is the wait of an attempt that met a worker of another outbox, or one that does not
// publish to its scheme: delay, or a random part of MaxForeignDelay if that is shorter. Workers take
// turns at a task queue: after waits of one length the same wrong one could have each attempt.
func ForeignDelay(delay time.Duration) time.Duration {
	return min(delay, time.Duration((0.2+0.8*rand.Float64())*float64(MaxForeignDelay)))
}

// After returns the wait after the given attempt, from 1, without jitter.
func (b Backoff) After(attempt int32) time.Duration {
	return min(b.First<<min(max(attempt, 1)-1, maxDoublings), b.Max)
}

// Delay returns the wait after the given attempt with jitter, or retryAfter and a little more
// where the destination asked for that. Jitter of a fifth spreads runs that failed together. A
// wait that the destination asked for is never cut short.
func (b Backoff) Delay(attempt int32, retryAfter time.Duration) time.Duration {
	delay := b.After(attempt)
	delay += time.Duration((rand.Float64() - 0.5) * 0.4 * float64(delay))
	retryAfter = min(retryAfter, outbox.MaxRetryAfter)
	return max(delay, retryAfter+time.Duration(rand.Float64()*0.1*float64(retryAfter)))
}
