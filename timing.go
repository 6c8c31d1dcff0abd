package outflow

import "time"

// The times that publishers, activities and the table share. The other timeouts of
// a delivery follow from these; they stand in internal/timing.
const (
	// FastPathCallTime is the longest that a publisher gives one call to a broker, retries
	// included, where its context leaves no time for more: on the fast path, which
	// gives a whole attempt 4 s.
	FastPathCallTime = 2500 * time.Millisecond
	// MaxCallTime is the longest that a publisher's own timeout can be. The Standard
	// Webhooks specification finds 15 to 30 s enough for a receiver.
	MaxCallTime = 30 * time.Second
)
