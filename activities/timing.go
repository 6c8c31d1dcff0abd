package activities

import (
	"math/rand/v2"
	"time"

	"github.com/outflowhq/outflow"
)

// Every timeout of a delivery. They belong together: each outer one has room
// for the inner ones, so that a late answer is still noted by the run that
// asked for it, and never sent again because a clock ran out first.
const (
	// WorkflowTask is Temporal's default. A fast path that ends within it is one
	// workflow task; the SDK asks for more time at 80 % of it.
	WorkflowTask = 10 * time.Second
	// BrokerCall bounds one call to a broker on the fast path, with its own retries.
	// Publish sends nothing when less than this is left.
	BrokerCall = outflow.FastPathCallTime
	// LocalPublish holds a look at the row and the broker call; one attempt.
	// Temporal counts the wait for a slot as part of it.
	LocalPublish = 4 * time.Second
	// LocalMark is one attempt; a regular activity follows, so that the marker
	// of what was published is recorded meanwhile. LocalPublish and LocalMark
	// together stay under 7 s, below the SDK's request for more time.
	LocalMark = 2 * time.Second

	// Durable is the StartToClose timeout of a durable attempt. It holds the row's
	// renewal, PayloadRoom, PayloadLoad, and the longest call that settings can ask a publisher
	// for. It is one length for all settings: a run's next worker may have others.
	Durable = time.Minute
	// PayloadRoom bounds an attempt's wait for other large payloads to be sent.
	PayloadRoom = 4 * time.Second
	// PayloadLoad bounds the load of a large payload in a durable attempt. It is a
	// second more than outboxdb gives a statement for 16 MiB over a slow link.
	PayloadLoad = 21 * time.Second
	// Silence is how long the engine hears nothing of a durable attempt, or of one to
	// tell a producer, before it makes another: its worker is gone. What ends before the
	// first Beat costs no call.
	Silence = 20 * time.Second
	Beat    = 3 * time.Second
	// HeartbeatThrottle is how long the SDK keeps a beat back at most, for
	// worker.Options.MaxHeartbeatThrottleInterval. Its default, 80 % of Silence, would
	// leave a busy Temporal 4 s to take one.
	HeartbeatThrottle = 5 * time.Second
	// DurableMark is the StartToClose timeout of a durable attempt to write an end.
	DurableMark = 10 * time.Second
	// answerMargin is how long before a StartToClose timeout an attempt gives up, so
	// that its failure is still noted: the SDK drops an answer that comes later.
	answerMargin = time.Second

	// FirstRetry doubles with each attempt up to LastRetry. A destination may ask
	// for more: outflow.MaxRetryAfter at most.
	FirstRetry = time.Second
	LastRetry  = 5 * time.Minute
	// heldBackRetry is the least wait of a message whose destination's breaker is
	// open, and the least wait that a durable attempt's lease covers.
	heldBackRetry = time.Minute
	// renewMargin is what a durable attempt's lease has beyond its next attempt:
	// time for a busy fleet to get to it. A lost run is noticed that much later.
	renewMargin = time.Minute

	// CallbackAttempt is the StartToClose timeout of one attempt to tell a producer:
	// CallbackCall, which bounds the sender's longest call, and what the row is told
	// before and after it. Neither has a slot of the fast path.
	CallbackCall    = outflow.MaxCallTime + 2*time.Second
	CallbackAttempt = 45 * time.Second
	// CallbackAltogether is when a callback is given up: a receiver that is down
	// for a night is told in the morning.
	CallbackAltogether = 24 * time.Hour
	// FirstRetry doubles with each attempt of a callback, too, up to LastCallbackRetry.
	LastCallbackRetry = 10 * time.Minute

	// rememberAck is how long a process remembers an acknowledged publish that
	// is not marked yet: longer than the mark's own first retries.
	rememberAck = 10 * time.Minute
)

// mostWaiting is how many messages of a destination that takes nothing wait as
// runs, seen in the Web UI and retried by Temporal, for each process. Those behind
// them wait as rows: hundreds that leave the fast path at once would take the
// engine's time from healthy destinations.
const mostWaiting = 10

// retryDelay is the wait after the given attempt, from 1: the backoff, or what the
// destination asked for and a little more.
func retryDelay(attempt int32, asked time.Duration) time.Duration {
	return spread(min(backoffOf(attempt), LastRetry), asked)
}

// backoffOf is the wait after the given attempt, from 1, without a bound or jitter.
func backoffOf(attempt int32) time.Duration { return FirstRetry << min(max(attempt, 1)-1, 10) }

// spread keeps many runs that failed together apart: a fifth less or more of a
// backoff. What a destination asked for is never cut short.
func spread(backoff, asked time.Duration) time.Duration {
	backoff += time.Duration((rand.Float64() - 0.5) * 0.4 * float64(backoff))
	asked = min(asked, outflow.MaxRetryAfter)
	return max(backoff, asked+time.Duration(rand.Float64()*0.1*float64(asked)))
}

// leaseFor is how long the given durable attempt leases its row: past the next
// attempt, unless the destination asks for a longer wait than covered says.
func leaseFor(attempt int32) time.Duration {
	return Durable + covered(attempt) + renewMargin
}

// covered is the longest wait after the given attempt that its lease covers.
func covered(attempt int32) time.Duration {
	backoff := max(min(backoffOf(attempt), LastRetry), heldBackRetry)
	return backoff + backoff/5
}

// waitLease is how long a row is leased for a wait: past the attempt that follows.
func waitLease(wait time.Duration) time.Duration { return wait + renewMargin }
