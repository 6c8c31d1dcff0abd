// Package outflow has the names that every part of Outflow shares: the message, its states, its
// destination and the classes of failure. It imports the standard library and uuid only, so
// that anything may import it.
//
// Outflow dispatches a transactional outbox on Temporal:
//
//   - An application writes messages in the transaction that writes its data (package outboxdb).
//   - A scanner (package scanner) starts one Deliver workflow (package workflows) for each
//     committed message.
//   - That workflow publishes the message (package publish) and records its end.
package outflow

import "time"

// DefaultOutbox is the outbox name used where none is configured. It is the first part of every
// workflow ID.
const DefaultOutbox = "outbox"

// The times of a call to a broker. The other timeouts of a delivery follow from these.
const (
	// FastPathCallTime is the longest that a publisher gives one call to a broker, retries
	// included, where its context leaves no time for more: on the fast path, which gives a
	// whole attempt 4 s. Package publish's CallTime applies it.
	FastPathCallTime = 2500 * time.Millisecond
	// MaxCallTime is the longest that a publisher's own timeout can be. The Standard Webhooks
	// specification finds 15 to 30 s enough for a receiver.
	MaxCallTime = 30 * time.Second
)
