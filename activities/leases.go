package activities

import (
	"time"

	"github.com/outflowhq/outflow/internal/timing"
)

// retryDelay returns the wait after the given attempt, from 1: the backoff, or retryAfter and a
// little more where the destination asked for that.
func retryDelay(attempt int32, retryAfter time.Duration) time.Duration {
	return timing.PublishBackoff.Delay(attempt, retryAfter)
}

// leaseFor returns the lease that the given durable attempt takes. It covers the next attempt,
// unless the wait before that is longer than maxLeasedDelay.
func leaseFor(attempt int32) time.Duration {
	return timing.DurablePublish + maxLeasedDelay(attempt) + timing.LeaseMargin
}

// maxLeasedDelay is the longest wait after the given attempt that the attempt's own lease covers.
func maxLeasedDelay(attempt int32) time.Duration {
	backoff := max(timing.PublishBackoff.After(attempt), timing.MinHeldBackDelay)
	return backoff + backoff/5
}

// waitLease returns the lease for a longer wait. It covers the attempt that follows.
func waitLease(wait time.Duration) time.Duration { return wait + timing.LeaseMargin }
