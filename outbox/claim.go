package outbox

import (
	"errors"
	"time"

	"github.com/outflowhq/outflow"
)

// ClaimRequest bounds one claim.
type ClaimRequest struct {
	// Lease is how long the claimed messages stay unclaimable.
	Lease time.Duration
	// MaxMessages and MaxBytes (of payloads and headers) bound the claim. The message that
	// crosses MaxBytes is still claimed, so that a large message is not stuck. Less than 1
	// of either claims nothing.
	MaxMessages int
	MaxBytes    int
	// Allowance is how many messages of one target (see TargetOf) this process may have
	// open at once. Open is how many it has, by the names in ClaimedMessage.Shares.
	Allowance int
	Open      map[string]int
	// NewDestinations bounds the messages of destinations that no message has reached yet. 0
	// means no bound, a negative number none of them.
	NewDestinations int
	// Refuse says why this process can't send to a destination, or nil. Messages that are
	// due there are parked for a minute with that reason; no run is started. An error that
	// wraps outflow.ErrNoPublisher leaves them as they are, for processes that publish to the
	// scheme. nil refuses no destination. It is called under a lock and must be quick.
	Refuse func(destination string) error
	// MissingGrace is how long messages wait for a destination that does not exist, or for a
	// process that publishes to their scheme, before they end dead. 0: not at all.
	MissingGrace time.Duration
	// Hinted says that a message was committed a moment ago. The claim first asks for messages of the
	// destinations that it knows, by one statement, and looks for others where it finds none.
	Hinted bool
	// SlowStart begins with a few messages of each destination, whatever its Allowance, and
	// claims more as this process sees messages arrive.
	SlowStart bool
}

// Claimed is the result of a claim.
type Claimed struct {
	// Messages are those that were claimed, in the order of their insertion.
	Messages []ClaimedMessage
	// Backlog says that a bound stopped the claim: more messages may be due now, or only
	// messages of destinations whose allowance is used up.
	Backlog bool
	// Full are destinations of which the claim took as much as it might: they may have a backlog.
	Full []string
	// NewDestinationsIn is the time until a claim next looks for destinations that it does
	// not know yet. Zero: this one looked.
	NewDestinationsIn time.Duration
	// MoreDestinations says that there are more destinations than one look finds. The next
	// look goes on where this one stopped.
	MoreDestinations bool
	// Refused are destinations with due messages that the request refused, and why.
	Refused map[string]error
	// Missing are destinations whose messages wait because it does not exist, or because no
	// running process publishes to its scheme, and why.
	Missing map[string]string
	// Ended are messages that this call ended, mostly dead: they waited for MissingGrace. With them
	// come those that ReleaseDeferred has ended since the last call: they expired behind others of their
	// ordering key.
	Ended []outflow.Outcome
	// Problem is what failed beside the claim, or nil: the look for destinations, or a write
	// to outbox.destinations. Messages were claimed all the same.
	Problem error
	// BreakerActive says that some breaker is open or has just closed, QuarantinedDue that a
	// quarantined message is due. Both are as the last look for destinations found them.
	BreakerActive, QuarantinedDue bool
	// Deferred says that the next message of some ordering key is still to be released: by the last look,
	// a producer had locked the key, or an operator the message, or the message has expired.
	Deferred bool
}

// ClaimedMessage is a message that this process holds a lease on.
type ClaimedMessage struct {
	Record
	// LeasedUntil is the lease's end by the database's clock. It distinguishes this claim from a
	// later one when the claim is given back.
	LeasedUntil time.Time
	// LeaseExpired says that an earlier claim or run of the message left no result before
	// its lease ended: its process may have crashed.
	LeaseExpired bool
	// Shares are the names whose allowance the message takes from: its target, its
	// destination, or the new destinations of its target. NewDestination says that no message has
	// reached its destination yet.
	Shares         []string
	NewDestination bool
	// Taken is closed when a run in this process took the message over from the claim.
	// Settled is closed when that run wrote the end or left the fast path, when the claim
	// was given back, or when its lease is over.
	Taken, Settled <-chan struct{}
}

// Leased is a message and its lease, by the database's clock, as it was read. The lease
// distinguishes it from a later claim.
type Leased struct {
	Ref
	LeasedUntil time.Time
}

// Probe is the message that may be published while its destination's breaker is open.
type Probe struct {
	Leased
	Destination string
	// Running says that the message is off the fast path: its run is to be signalled.
	// Otherwise the next claim takes it.
	Running bool
}

// Recovered is a destination whose breaker closed, and when, by the database's clock. Its
// retrying runs are to be signalled.
type Recovered struct {
	Destination string
	At          time.Time
	// Missing says that the breaker did not close: the destination was found not to exist. Its
	// runs then leave their messages to wait as rows.
	Missing bool
}

// PutBack is what a run says that leaves its message to a later claim.
type PutBack struct {
	Ref
	// NotSent says that the run sent nothing: its generation is superseded, or the message is
	// quarantined. Otherwise an attempt failed because of its destination, with LastError.
	NotSent   bool
	LastError string
	// Missing is set where the destination does not exist, or no process publishes to its
	// scheme; else nil.
	Missing *Missing
}

// Missing is what a run says that leaves its message to wait for a missing destination.
type Missing struct {
	// Grace is how long the message waits, from when it was due. A destination that was reached
	// before is waited for without an end.
	Grace time.Duration
	// Attempts is added to the record's: 1 for an attempt that the row does not count yet.
	Attempts int
}

// ErrGraceOver is the result of a PutBack with Missing where the message has waited for all of its
// grace. Nothing was written: the run ends the message.
var ErrGraceOver = errors.New("the message has waited long enough for its destination")

// GiveBackReason is why a scanner gives back a claim.
type GiveBackReason int

// The reasons to give back a claim.
const (
	// NotStarted: no run was started. The claim does not count, and the message is due at once.
	NotStarted GiveBackReason = iota
	// RunOpen: the message's run was open already. The claim does not count, and keeps its lease.
	RunOpen
	// RunElsewhere: the run went to another process. The claim and its lease stand; this process
	// keeps nothing for the run.
	RunElsewhere
)
