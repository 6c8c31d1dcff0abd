package outbox

import (
	"errors"
	"time"

	"github.com/outflowhq/outflow"
)

// Observation is how an attempt to publish ended, as the circuit breaker of its destination is to
// hear of it.
type Observation struct {
	// Err is why the broker did not acknowledge the message; nil where it did. It wraps
	// outflow.ErrNotAttempted where nothing was sent.
	Err error
	// Took is how long the broker took to acknowledge the message. It is not read beside an Err.
	Took time.Duration
	// Missing says that the destination does not exist, and that the message waits for it.
	Missing bool
}

// ObservationKind is what an Observation says about its destination.
type ObservationKind string

// The kinds of observation.
const (
	// Acknowledged: the destination works. It closes the breaker.
	Acknowledged ObservationKind = "acknowledged"
	// DestinationFailed: an error of the class unavailable. Several open the breaker.
	DestinationFailed ObservationKind = "failed"
	// MessageRejected: the destination replied but rejected this message, so it is reachable. It
	// closes the breaker, and does not prove that a message ever reached the destination.
	MessageRejected ObservationKind = "rejected"
	// CallCutShort: the call ended after outflow.FastPathCallTime while the answer may have been on
	// its way. The target may be slow.
	CallCutShort ObservationKind = "cut short"
	// DestinationMissing: the destination does not exist. It opens the breaker at once.
	DestinationMissing ObservationKind = "missing"
	// Inconclusive: the attempt says nothing about the destination. Another probe is chosen.
	Inconclusive ObservationKind = "inconclusive"
)

// Kind classifies the observation.
func (o Observation) Kind() ObservationKind {
	switch {
	case o.Err == nil:
		return Acknowledged
	case o.Missing:
		return DestinationMissing
	case WasCutShort(o.Err):
		return CallCutShort
	case outflow.ClassOf(o.Err) == outflow.ClassUnavailable && !errors.Is(o.Err, outflow.ErrNotAttempted):
		return DestinationFailed
	case WasAnswered(o.Err):
		return MessageRejected
	default:
		return Inconclusive
	}
}
