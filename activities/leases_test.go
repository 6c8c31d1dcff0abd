package activities

import (
	"testing"
	"time"

	"github.com/outflowhq/outflow/internal/timing"
	"github.com/outflowhq/outflow/outbox"
)

// For every attempt and every wait that a destination may ask for: the lease of the attempt, or of
// the longer wait, is still open when the next attempt comes.
func TestLeaseIsAlwaysPastTheNextAttempt(t *testing.T) {
	for attempt := int32(1); attempt <= 1000; attempt++ {
		lease := leaseFor(attempt)
		for _, asked := range []time.Duration{-time.Hour, 0, time.Millisecond, time.Second, 59 * time.Second,
			time.Minute, time.Hour, 1 << 62} {
			delay := retryDelay(attempt, asked)
			if delay <= 0 || delay > outbox.MaxRetryAfter*11/10 {
				t.Fatalf("attempt %d, asked %s: waits %s", attempt, asked, delay)
			}
			spare := lease - timing.DurablePublish - delay
			if delay > maxLeasedDelay(attempt) {
				spare = waitLease(delay) - delay
			}
			if spare < timing.LeaseMargin {
				t.Fatalf("attempt %d, asked %s: the lease of %s leaves %s", attempt, asked, lease, spare)
			}
		}
		if lease > timing.PublishBackoff.Max*2 {
			t.Fatalf("attempt %d: a lost run is noticed only after %s", attempt, lease)
		}
	}
}
