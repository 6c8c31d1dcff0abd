// Package outflow holds the words that every part of Outflow shares: the
// message, its states, its destination and the classes of failure. It imports
// the standard library and uuid only, so that anything may import it.
//
// Outflow dispatches a transactional outbox on Temporal. An application writes
// messages in the transaction that writes its data (package outboxdb); a
// scanner (package scanner) starts one Deliver workflow (package workflows)
// for each committed message; that workflow publishes it (package publish)
// and records its end.
package outflow

import (
	"time"

	"github.com/google/uuid"
)

// DefaultOutbox is the outbox name used where none is configured. It is the
// first part of every workflow ID.
const DefaultOutbox = "outbox"

// Message is what a producer enqueues: one delivery to one destination.
type Message struct {
	// ID identifies the message for good: it is the primary key of the row,
	// part of the workflow ID, and travels with the published message so that
	// consumers can deduplicate. The zero UUID asks Enqueue for a new UUIDv7.
	ID uuid.UUID
	// Destination is a URI such as "sqs://orders", or a queue URL or ARN as
	// pasted from the AWS console. See ParseDestination.
	Destination string
	// Type says what happened or what is asked for, such as "user-registered":
	// 1 to 200 letters, digits or any of ". _ : / -", the first a letter or digit.
	// Those that begin with "outflow." are Outflow's own, such as a callback's.
	Type string
	// Payload is the body, 1 byte to 16 MiB; a destination may allow less (SQS
	// and SNS: 1 MiB together with the attributes).
	Payload []byte
	// ContentType is the media type of Payload. Empty means "application/json".
	ContentType string
	// Headers travel as attributes of the published message: at most 64, each
	// name 1 to 128 letters, digits, "_", "-" and single inner dots, each value
	// up to 8 KiB. Names that start with "outflow", "aws." or "amazon." and
	// "content-type" are taken; no two may differ by upper and lower case only.
	Headers map[string]string
	// OrderingKey groups messages whose order matters; FIFO queues use it as
	// their message group. Up to 128 printable ASCII characters, no spaces.
	OrderingKey string

	// DueAt and DueIn delay the first delivery: DueAt until a moment, DueIn by
	// a duration counted by the database's clock from the enqueue. At most one
	// may be set; neither means at once.
	DueAt time.Time
	DueIn time.Duration
	// ExpiresAt and ExpiresIn bound the delivery: a message not yet published
	// by then ends expired. ExpiresIn counts by the database's clock from the
	// enqueue. At most one may be set; neither means never.
	ExpiresAt time.Time
	ExpiresIn time.Duration

	// Callback is where the producer is told how the message ended: an https URL,
	// or any other destination, such as "sqs://replies". Empty means wherever an
	// operator's rule for the destination or type says, most often nowhere;
	// NoCallback means nowhere in any case.
	Callback string
	// CallbackPayload has the callback carry the payload, too, where it is no longer
	// than MaxCallbackPayload. Whoever takes callbacks then reads payloads. It wants
	// a Callback; that of a rule carries the payload where the rule says so.
	CallbackPayload bool
}

// State is where a message stands. Pending is the only state that is not final.
type State string

// The states of a message. An operator can make a dead message pending again
// with the next generation.
const (
	Pending   State = "pending"
	Delivered State = "delivered" // the broker acknowledged it
	Dead      State = "dead"      // given up, with a reason
	Expired   State = "expired"   // not published before its expiry
	Cancelled State = "cancelled" // cancelled before it was published
)

// Final reports whether s is one of the four ends.
func (s State) Final() bool {
	switch s {
	case Delivered, Dead, Expired, Cancelled:
		return true
	}
	return false
}

// Ref names one start of a message: its ID and the generation for which it was
// started. Every load and every write of a run carries it, so that a run which
// an operator has superseded can change nothing.
type Ref struct {
	ID         uuid.UUID
	Generation int
}

// Record is a message as it stands in the table.
type Record struct {
	// Message carries the canonical destination and absolute times; DueIn and
	// ExpiresIn are zero.
	Message
	// Seq orders messages by their insertion; a gap or a late commit is normal.
	Seq        int64
	State      State
	Generation int
	// Expired says that the expiry had passed, by the database's clock, when
	// the record was read.
	Expired bool
	// ExpiresAfter is how long after that the expiry is; 0 where it had passed, or
	// there is none.
	ExpiresAfter    time.Duration
	CancelRequested bool
	// Attempts counts the publish attempts that were noted so far. The fast
	// path's one attempt is noted together with the end.
	Attempts int
	// Claims counts the starts whose process died, as far as anybody knows: see
	// SuspectClaims.
	Claims int
	// HeldBack says that the destination's breaker is open and that this message
	// is not the one that probes it; the destination is left alone for
	// HeldBackFor more. Only Renew looks.
	HeldBack        bool
	HeldBackFor     time.Duration
	BrokerMessageID string
	LastError       string
	EnqueuedAt      time.Time
	// FinishedAt is zero while the message is pending.
	FinishedAt time.Time
	// CallbackDue says that the producer is still to be told of the end.
	CallbackDue bool
	// Owed is the size in bytes of a payload that is still to be loaded: a large one
	// is left where it is until it may be sent. 0 says that Payload is whole.
	Owed int
}

// Ref returns the reference of the record's current generation.
func (r Record) Ref() Ref { return Ref{ID: r.ID, Generation: r.Generation} }

// Outcome returns what the record says about the message's end so far.
func (r Record) Outcome() Outcome {
	return Outcome{
		ID: r.ID, State: r.State, Generation: r.Generation, Attempts: r.Attempts,
		BrokerMessageID: r.BrokerMessageID, LastError: r.LastError, FinishedAt: r.FinishedAt,
		CallbackDue: r.CallbackDue, Destination: r.Destination, Type: r.Type,
	}
}

// A message whose process dies again and again may be what kills it. One with
// SuspectClaims counted claims is claimed alone, with nothing else in flight in
// its process, so that it can take nobody with it; one with more than MostClaims
// has done so three times alone, and ends dead.
const (
	SuspectClaims = 5
	MostClaims    = 8
)

// Ending is the end that a run asks the table to write.
type Ending struct {
	Ref
	// State is one of the four final states.
	State State
	// BrokerMessageID is the broker's own ID; set for Delivered.
	BrokerMessageID string
	// LastError is the reason; set for Dead, Expired and Cancelled.
	LastError string
	// Attempts is added to the record's: publish attempts not noted before.
	Attempts int
}

// Outcome is how a message stands after an ending was written or refused: what
// the row says. It never carries the payload.
type Outcome struct {
	ID              uuid.UUID `json:"id"`
	State           State     `json:"state"`
	Generation      int       `json:"generation"`
	Attempts        int       `json:"attempts,omitempty"`
	BrokerMessageID string    `json:"brokerMessageId,omitempty"`
	LastError       string    `json:"lastError,omitempty"`
	FinishedAt      time.Time `json:"finishedAt,omitzero"`
	// CallbackDue says that the producer is still to be told.
	CallbackDue bool `json:"callbackDue,omitempty"`
	// Destination and Type are the message's, for the log of the process that read the
	// row; they go into no workflow's history, and a Waiter leaves them empty.
	Destination string `json:"-"`
	Type        string `json:"-"`
}

// Renewal is what a durable attempt notes on its row before it publishes.
type Renewal struct {
	Ref
	// Lease is how long from now, by the database's clock, the row stays
	// unclaimable: past the run's next attempt.
	Lease time.Duration
	// LastError is the previous attempt's failure; empty leaves the noted one.
	LastError string
	// Attempts is added to the record's, beside the attempt that the renewal comes
	// with: earlier ones that the record does not count yet, or -1 for one that it
	// counts and that sent nothing.
	Attempts int
	// Waits says that no attempt comes with the renewal: it covers a wait. Otherwise
	// the attempt is counted, unless the message is held back, cancelled or expired.
	Waits bool
	// Lost says that the previous attempt ended without a word: its process may
	// have died of it.
	Lost bool
}

// ClaimRequest bounds one claim.
type ClaimRequest struct {
	// Lease is how long the claimed messages stay unclaimable.
	Lease time.Duration
	// MaxMessages and MaxBytes (of payload) bound the claim as a whole. The
	// message that crosses MaxBytes is still claimed, so that a large one is
	// not stuck. Less than 1 of either claims nothing.
	MaxMessages int
	MaxBytes    int
	// Allowance is how many messages of one target (see TargetOf) may be open in this
	// process at once, and Open how many are, by the names in ClaimedMessage.Shares.
	Allowance int
	Open      map[string]int
	// Newcomers bounds the messages of destinations that none has reached yet; 0 means no
	// bound, less than that none.
	Newcomers int
	// Refuse says why this process can't send to a destination, or nil. Messages that are
	// due there are parked for a minute, and say so; no run is started to find out. nil
	// refuses none. It is called under a lock and must be quick.
	Refuse func(destination string) error
	// Ramp begins with a few messages of each destination, whatever its Allowance,
	// and claims more as this process sees some arrive.
	Ramp bool
}

// Bytes is the size of the message's payload and headers.
func (m Message) Bytes() int {
	size := len(m.Payload)
	for name, value := range m.Headers {
		size += len(name) + len(value)
	}
	return size
}

// Leased is a message and its lease, by the database's clock, as it was seen. The
// lease tells it from a later claim.
type Leased struct {
	Ref
	LeasedUntil time.Time
}

// Probe is the one message that may be published while its destination's
// breaker is open.
type Probe struct {
	Leased
	Destination string
	// Running says that the message is off the fast path: its run is to be told.
	// Otherwise the next claim takes it.
	Running bool
}

// Recovered is a destination whose breaker closed, and when, by the database's
// clock. Its retrying runs are still to be told.
type Recovered struct {
	Destination string
	At          time.Time
}

// Claimed is the result of a claim.
type Claimed struct {
	// Messages are the claimed ones, in the order of their insertion.
	Messages []ClaimedMessage
	// Backlog says that a bound stopped the claim: more may be due right now,
	// or only of destinations whose allowance is used up.
	Backlog bool
	// Overlooked is how soon a claim will see destinations that are new, where
	// this one did not look for them; zero where it did.
	Overlooked time.Duration
	// More says that there are more destinations than one look finds: the next goes
	// on where this one stopped.
	More bool
	// Refused are destinations with due messages that the request refused, and why.
	Refused map[string]error
	// Problem is what went wrong beside the claim, or nil: destinations could not be
	// looked for, or how one does could not be noted. What was claimed is claimed.
	Problem error
	// Troubled says that the breaker of some destination is open or has just
	// closed, Suspects that a suspect is due (see SuspectClaims). Both are as the
	// last look for destinations found them.
	Troubled, Suspects bool
}

// ClaimedMessage is a message that this process holds a lease on.
type ClaimedMessage struct {
	Record
	// LeasedUntil is the lease's end by the database's clock. It tells a claim
	// from later ones when the claim is given back.
	LeasedUntil time.Time
	// Shares are what it takes a share of: its target, its destination, or the new
	// destinations of its target. Newcomer says that no message has reached its
	// destination yet.
	Shares   []string
	Newcomer bool
	// Taken is closed when a run in this process took the message over from
	// the claim; Settled when that run wrote the end or left the fast path, when
	// the claim was given back, or when its lease is over.
	Taken, Settled <-chan struct{}
}
