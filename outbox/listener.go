package outbox

import (
	"time"

	"github.com/google/uuid"
)

const (
	// ListenInterval lies between two registrations of a connection that listens for new messages. One
	// lasts for three of these: so long may a starter that crashed be told of messages.
	ListenInterval = 10 * time.Second
	// MaxPassed is how many starters without room pass a hint on, before it is dropped.
	MaxPassed = 2
)

// Listener is a connection on which a starter is told of new messages.
type Listener struct {
	ID uuid.UUID
	// ByProducers says that the commits of producers tell it. Otherwise the starter that reads the
	// database's log does.
	ByProducers bool
}

// Rest is what a starter learns that says it is idle.
type Rest struct {
	// Registered says that its connection is registered still.
	Registered bool
	// Began says that the starter was not idle before: a producer's transaction that is open now may
	// not know that it is.
	Began bool
	// LogRead says that a starter reads the log, and has proved it.
	LogRead bool
	// Due says that some message may be claimed now.
	Due bool
	// NextIn is the time until anything else is due: a delayed message, the end of a lease, a callback,
	// the probe of a breaker, a deferred release. Zero or less: now.
	NextIn time.Duration
}
