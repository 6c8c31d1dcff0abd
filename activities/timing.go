package activities

import (
	"math/rand/v2"
	"time"
)

// Every timeout of a delivery. They belong together: each outer one has room
// for the inner ones, so that a late answer is still noted by the run that
// asked for it, and never sent again because a clock ran out first.
const (
	// WorkflowTask is Temporal's default. A fast path that ends within it is one
	// workflow task; the SDK asks for more time at 80 % of it.
	WorkflowTask = 10 * time.Second
	// BrokerCall bounds one call to a broker with its own retries. Publish sends
	// nothing when less than this is left.
	BrokerCall = 2500 * time.Millisecond
	// LocalPublish holds a look at the row and the broker call; one attempt.
	// Temporal counts the wait for a slot as part of it.
	LocalPublish = 4 * time.Second
	// LocalMark is one attempt; a regular activity follows, so that the marker
	// of what was published is recorded meanwhile. LocalPublish and LocalMark
	// together stay under 7 s, below the SDK's request for more time.
	LocalMark = 2 * time.Second
	// Durable is the StartToClose timeout of a durable attempt: the same work as
	// LocalPublish on a slower day. The broker's deadline lies within it.
	Durable = 10 * time.Second
	// answerMargin is how long before Durable's end an attempt gives up, so that
	// its failure is still noted: the SDK drops an answer that comes later.
	answerMargin = time.Second

	// FirstRetry doubles with each attempt up to LastRetry.
	FirstRetry = time.Second
	LastRetry  = 5 * time.Minute
	// AskedRetry is the longest wait that a destination may ask for before the
	// backoff has come that far by itself.
	AskedRetry = time.Minute
	// renewMargin is what a durable attempt's lease has beyond its next attempt:
	// time for a busy fleet to get to it. A lost run is noticed that much later.
	renewMargin = time.Minute

	// CallbackCall bounds one attempt to tell a producer, whose server may be slow,
	// and CallbackAttempt, the StartToClose timeout, what the row is told before
	// and after it, too. Neither has a slot of the fast path.
	CallbackCall    = 20 * time.Second
	CallbackAttempt = 30 * time.Second
	// CallbackAltogether is when a callback is given up: a receiver that is down
	// for a night is told in the morning.
	CallbackAltogether = 24 * time.Hour
	// FirstRetry doubles with each attempt of a callback, too, up to
	// LastCallbackRetry; a receiver may ask for AskedCallbackRetry at most.
	LastCallbackRetry  = 10 * time.Minute
	AskedCallbackRetry = time.Hour

	// rememberAck is how long a process remembers an acknowledged publish that
	// is not marked yet: longer than the mark's own first retries.
	rememberAck = 10 * time.Minute
)

// mostWaiting is how many messages of a destination that takes nothing wait as
// runs, seen in the Web UI and retried by Temporal, for each process. Those behind
// them wait as rows: hundreds that leave the fast path at once would take the
// engine's time from healthy destinations.
const mostWaiting = 10

// retryDelay is the wait after the given durable attempt, from 1.
func retryDelay(attempt int32, asked time.Duration) time.Duration {
	delay := FirstRetry << min(attempt-1, 10)
	delay = min(max(delay, min(asked, AskedRetry)), LastRetry)
	// A fifth less or more keeps many runs that failed together apart.
	return delay + time.Duration((rand.Float64()-0.5)*0.4*float64(delay))
}

// leaseFor is how long the given durable attempt leases its row: past the
// longest wait that may follow it.
func leaseFor(attempt int32) time.Duration {
	delay := min(max(FirstRetry<<min(attempt-1, 10), AskedRetry), LastRetry)
	return Durable + delay + delay/5 + renewMargin
}
