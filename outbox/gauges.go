package outbox

import "time"

// Gauges are what waits in the table at one moment, by the database's clock.
type Gauges struct {
	Targets  []TargetGauges
	Breakers []BreakerGauges
	Missing  []MissingGauges
	// CallbacksDue counts callbacks that are still to be sent. OldestCallbackDue is how
	// long the oldest of those has been due that no run has in hand; 0 where there is none.
	CallbacksDue      int64
	OldestCallbackDue time.Duration
	// BlockedKeys counts the ordering keys in which messages wait behind a dead one. OldestBlocked is
	// how long the longest waiting of the first ones behind it has been due; 0 where there is none.
	BlockedKeys   int64
	OldestBlocked time.Duration
	// StreamsRunning and StreamsPaused count streams. OldestPage is how long ago the oldest page was
	// claimed that a stream has in hand, or has left behind; 0 where there is none.
	StreamsRunning, StreamsPaused int64
	OldestPage                    time.Duration
	// Truncated says that there were more rows than the statement counts.
	Truncated bool
}

// TargetGauges counts the pending and dead messages of one target (see TargetOf). Every
// message counts once.
type TargetGauges struct {
	Target string
	// Due messages wait for a claim, Leased ones are on the fast path, Retrying ones have a
	// run off the fast path. Waiting ones were put back and have no run; Delayed ones are
	// not due yet.
	Due, Leased, Waiting, Retrying, Delayed int64
	// Dead messages that no operator has dismissed.
	Dead int64
	// OldestDue is how long the oldest pending message has been due; 0 where none is.
	OldestDue time.Duration
}

// MissingGauges is a destination that messages wait for because it does not exist, or a scheme
// ("sns://") that no running process publishes to.
type MissingGauges struct {
	Destination string
	// Since is how long it has been missing.
	Since time.Duration
}

// BreakerGauges are open circuit breakers of one name.
type BreakerGauges struct {
	Name string
	// Covers is "destination", "target", or "new" for the destinations of a target that no
	// message has reached yet.
	Covers string
	// Open counts the breakers of this name, which only the query of an address tells apart.
	Open int64
	// FailingFor is the time since the first failure.
	FailingFor time.Duration
}
