// Package outbox is the port between the table (package outboxdb), the scanner and the
// activities: what they ask of each other, and what they answer.
//
// The invariant: whatever is read or written for a run names the message and its
// generation (Ref), so that a run which an operator has superseded changes nothing.
//
// Producers and consumers of messages need package outflow alone. This package is for
// whoever brings a table, a scanner or activities of their own.
package outbox

import (
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/outflowhq/outflow"
)

// A message whose process crashes again and again may be the cause of the crash. A
// message with QuarantineClaims counted claims is quarantined: it is claimed in isolation,
// with nothing else in flight in its process. A message with more than MaxClaims has
// crashed its process three times in isolation, and ends dead.
const (
	QuarantineClaims = 5
	MaxClaims        = 8
)

// Ref names one start of a message: its ID, and the generation that was started. Every
// load and every write of a run carries it.
type Ref struct {
	ID         uuid.UUID
	Generation int
}

// Record is a message as it stands in the table.
type Record struct {
	// Message carries the canonical destination and absolute times; DueIn and
	// ExpiresIn are zero.
	outflow.Message
	// Seq orders messages by their insertion; gaps and late commits are normal.
	Seq        int64
	State      outflow.State
	Generation int
	// Expired says that the expiry had passed, by the database's clock, when the record
	// was read.
	Expired bool
	// ExpiresAfter is the time from then to the expiry; 0 where the expiry had passed, or
	// there is none.
	ExpiresAfter    time.Duration
	CancelRequested bool
	// Attempts counts the publish attempts that the row knows of. The attempt of the fast
	// path is written together with the end.
	Attempts int
	// Claims counts the starts after which the process crashed, as far as the table knows:
	// see QuarantineClaims.
	Claims int
	// HeldBack says that the destination's breaker is open, and that this message is not
	// its probe. Nothing is sent to the destination for HeldBackFor more. Only Renew sets
	// them.
	HeldBack    bool
	HeldBackFor time.Duration
	// Missing is why messages to the destination wait: it does not exist. Empty where it is not
	// known to be missing. Only Renew sets it.
	Missing string
	// SlowTarget says that the destination's target takes longer to answer than
	// FastPathCallTime: the message is left to a durable attempt. Only claims and loads set it.
	SlowTarget      bool
	BrokerMessageID string
	LastError       string
	EnqueuedAt      time.Time
	// FinishedAt is zero while the message is pending.
	FinishedAt time.Time
	// CallbackDue says that the producer has not been notified of the end yet.
	CallbackDue bool
	// MissingBytes is the size in bytes of a payload that was not loaded with the row: a
	// large payload is loaded when it may be sent. 0 says that Payload is complete.
	MissingBytes int
}

// Ref returns the reference of the record's current generation.
func (r Record) Ref() Ref { return Ref{ID: r.ID, Generation: r.Generation} }

// Outcome returns what the record says about the message's end so far.
func (r Record) Outcome() outflow.Outcome {
	return outflow.Outcome{
		ID: r.ID, State: r.State, Generation: r.Generation, Attempts: r.Attempts,
		BrokerMessageID: r.BrokerMessageID, LastError: r.LastError, FinishedAt: r.FinishedAt,
		CallbackDue: r.CallbackDue, Destination: r.Destination, Type: r.Type, DueAt: r.DueAt,
	}
}

// Ending is the end that a run asks the table to write.
type Ending struct {
	Ref
	// State is one of the four final states.
	State outflow.State
	// BrokerMessageID is the broker's own ID; set for Delivered.
	BrokerMessageID string
	// LastError is the reason; set for Dead, Expired and Cancelled.
	LastError string
	// Attempts is added to the record's: publish attempts that the row does not count yet.
	Attempts int
	// Streamed says that a stream asks: no run starts the callback, so it is due at once.
	Streamed bool
}

// Renewal is what a durable attempt writes to its row before it publishes.
type Renewal struct {
	Ref
	// Lease is how long from now, by the database's clock, the row stays unclaimable:
	// past the run's next attempt.
	Lease time.Duration
	// LastError is the previous attempt's failure; empty leaves the row's.
	LastError string
	// Attempts is added to the record's, beside the attempt that the renewal belongs to:
	// earlier attempts that the row does not count yet, or -1 for an attempt that it
	// counts and that sent nothing.
	Attempts int
	// Waits says that the renewal covers a wait and belongs to no attempt. Otherwise the
	// attempt is counted, unless the message is held back, cancelled or expired.
	Waits bool
	// Lost says that the previous attempt left no result: its process may have crashed.
	Lost bool
}

// TargetOf returns the target of a canonical destination: what shares slots, turns of the
// claim and the verdict of a connection. For https it is scheme, host and port; for
// RabbitMQ the exchange; for Temporal the task queue; else the destination itself.
func TargetOf(destination string) string {
	scheme, rest, _ := strings.Cut(destination, "://")
	switch scheme {
	case outflow.SchemeHTTPS, outflow.SchemeHTTP, outflow.SchemeRabbitMQ, outflow.SchemeTemporal:
		name, _, _ := strings.Cut(rest, "/")
		return scheme + "://" + name
	}
	return destination
}
