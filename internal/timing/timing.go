// Package timing is the table of a delivery's timeouts, of its backoff, and of the steps of
// a shutdown.
//
// The invariant: each outer timeout has room for its inner ones. So the run that asked for an
// answer still notes a late one, and nothing is published again because a clock ran out first.
// The tests of this package add them up.
package timing

import (
	"time"

	"github.com/outflowhq/outflow"
)

// The fast path: one workflow task.
const (
	// WorkflowTask is Temporal's default. The SDK asks for more time at 80 % of it.
	WorkflowTask = 10 * time.Second
	// FastPathCall bounds one call to a broker with its own retries. Publish sends nothing
	// when less than this is left.
	FastPathCall = outflow.FastPathCallTime
	// LocalPublish holds a load of the row and the call. Temporal counts the wait for a slot
	// as part of it. There is one attempt.
	LocalPublish = 4 * time.Second
	// LocalMark is one attempt. A regular activity follows, so that the marker of the publish
	// is recorded meanwhile. LocalPublish and LocalMark together stay under 7 s, before the SDK
	// asks for more time.
	LocalMark = 2 * time.Second
	// KeepAcknowledgement is how long a process remembers a publish whose end is not written
	// yet: longer than the first retries of that write.
	KeepAcknowledgement = 10 * time.Minute
)

// The durable attempts.
const (
	// DurablePublish is the StartToClose timeout of a durable attempt. It holds the row's
	// renewal, PayloadRoom, PayloadLoad and outflow.MaxCallTime. It is the same for all
	// settings: a run's next worker may have others.
	DurablePublish = time.Minute
	// PayloadRoom bounds an attempt's wait for other large payloads to be sent.
	PayloadRoom = 4 * time.Second
	// PayloadLoad bounds the load of a large payload. It is a second more than outboxdb gives a
	// statement for 16 MiB over a slow link.
	PayloadLoad = 21 * time.Second
	// DurableMark is the StartToClose timeout of a durable attempt to write an end.
	DurableMark = 10 * time.Second
	// AnswerMargin is how long before its StartToClose timeout an attempt gives up. The SDK
	// drops a later answer, and with it the failure that the next attempt is to note.
	AnswerMargin = time.Second

	// HeartbeatTimeout is how long Temporal hears nothing of a durable attempt, or of an attempt
	// to send a callback, before it makes another attempt: the worker has crashed.
	HeartbeatTimeout = 20 * time.Second
	// HeartbeatInterval lies between two heartbeats. An attempt that ends before the first one
	// costs no call.
	HeartbeatInterval = 3 * time.Second
	// HeartbeatThrottle is how long the SDK may hold a heartbeat back. Its default, 80 % of
	// HeartbeatTimeout, would leave a busy Temporal 4 s to take one.
	HeartbeatThrottle = 5 * time.Second

	// LeaseMargin is what a durable attempt's lease has beyond the next attempt: time for a busy
	// fleet to get to it. A lost run is noticed that much later.
	LeaseMargin = time.Minute
	// MinHeldBackDelay is the shortest wait of a message whose destination's breaker is open, and
	// the shortest wait that a durable attempt's lease covers.
	MinHeldBackDelay = time.Minute
	// MaxRoomDelay and MaxForeignDelay bound the waits of an attempt that found no room for its
	// payload, and of an attempt that met a worker of another outbox.
	MaxRoomDelay    = 5 * time.Second
	MaxForeignDelay = 5 * time.Second
)

// The callbacks. None has a slot of the fast path.
const (
	// CallbackCall bounds the sender's longest call.
	CallbackCall = outflow.MaxCallTime + 2*time.Second
	// CallbackAttempt is the StartToClose timeout of one attempt: CallbackCall, and the writes to
	// the row before and after it.
	CallbackAttempt = 45 * time.Second
	// CallbackTotal is when a callback is given up: a receiver that is down for a night gets it
	// in the morning.
	CallbackTotal = 24 * time.Hour
)

// Maintenance, which nobody waits for.
const (
	// Purge is how long one purge goes on. The next run of the schedule, some minutes later,
	// takes over.
	Purge = 4 * time.Minute
	// PurgeAttempt adds the longest chunk and its pause.
	PurgeAttempt = Purge + 2*time.Minute
	// PurgeTotal bounds the retries: a later run does better.
	PurgeTotal = 10 * time.Minute
	// PurgeHeartbeatTimeout notices a crashed worker. Heartbeats come at least every
	// PurgeHeartbeatInterval.
	PurgeHeartbeatTimeout  = 30 * time.Second
	PurgeHeartbeatInterval = 5 * time.Second
	// TableHealth is one attempt to read the table's health, TableHealthTotal all of them.
	TableHealth      = 15 * time.Second
	TableHealthTotal = time.Minute
)

// Streams.
const (
	// StreamTurn is how long one activity of a stream goes on. The Web UI then has its result.
	StreamTurn = 10 * time.Minute
	// StreamAttempt is its StartToClose timeout: acknowledgements may have to wait for their database. The
	// next attempt has them from the last heartbeat.
	StreamAttempt = 15 * time.Minute
	// StreamHeartbeatTimeout is how long Temporal hears nothing of a stream before another worker goes on
	// with it. Heartbeats come every StreamHeartbeatInterval.
	StreamHeartbeatTimeout  = 10 * time.Second
	StreamHeartbeatInterval = time.Second
	// StreamHeartbeatThrottle is how long the SDK may hold one back.
	StreamHeartbeatThrottle = 2 * time.Second
	// StreamSends is how long after the claim of a page its requests may begin. With the longest call a
	// page is settled within a minute.
	StreamSends = 20 * time.Second
)
