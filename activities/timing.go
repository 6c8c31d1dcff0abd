package activities

import (
	"time"

	"github.com/outflowhq/outflow/internal/timing"
)

const (
	BrokerCall    = timing.FastPathCall
	Durable       = timing.DurablePublish
	PayloadRoom   = timing.PayloadRoom
	PayloadLoad   = timing.PayloadLoad
	Beat          = timing.HeartbeatInterval
	answerMargin  = timing.AnswerMargin
	heldBackRetry = timing.MinHeldBackDelay
	mostRoomDelay = timing.MaxRoomDelay
	FirstRetry    = time.Second
)

// mostWaiting is how many messages of a destination that takes nothing wait as
// runs, seen in the Web UI and retried by Temporal, for each process. Those behind
// them wait as rows: hundreds that leave the fast path at once would take the
// engine's time from healthy destinations.
const mostWaiting = 10

// retryDelay is the wait after the given attempt, from 1: the backoff, or what the
// destination asked for and a little more.
func retryDelay(attempt int32, asked time.Duration) time.Duration {
	return timing.PublishBackoff.Delay(attempt, asked)
}

// leaseFor is how long the given durable attempt leases its row: past the next
// attempt, unless the destination asks for a longer wait than covered says.
func leaseFor(attempt int32) time.Duration {
	return timing.DurablePublish + covered(attempt) + timing.LeaseMargin
}

// covered is the longest wait after the given attempt that its lease covers.
func covered(attempt int32) time.Duration {
	backoff := max(timing.PublishBackoff.After(attempt), timing.MinHeldBackDelay)
	return backoff + backoff/5
}

// waitLease is how long a row is leased for a wait: past the attempt that follows.
func waitLease(wait time.Duration) time.Duration { return wait + timing.LeaseMargin }
