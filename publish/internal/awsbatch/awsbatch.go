// Package awsbatch sends messages to SQS and SNS in batches: what the two services share of
// finding a destination, joining messages into requests and reading the answers.
//
// The invariant:
//
//   - A message is reported as published only where the service named it among a batch's
//     successful entries.
//   - It is reported as permanently failed only where the service refused it by itself, where
//     nothing was sent because no destination could take it, or where sending it alone panicked.
//   - It is sent again within one call only where the service accepted nothing, or where the
//     request that it shared panicked.
package awsbatch

import (
	"context"
	"time"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/publish/internal/aws"
)

// MaxEntries is how many messages one request can have.
// https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/quotas-messages.html
// https://docs.aws.amazon.com/sns/latest/dg/sns-batch-api-actions.html
const MaxEntries = 10

// Service is one service, as a Publisher needs it.
type Service struct {
	// Scheme is that of the service's destinations.
	Scheme string
	// Errors says what the service's errors mean.
	Errors *aws.Service
	// MaxBytes is the most bytes of one message.
	MaxBytes int
	// BatchBytes is the most bytes of all messages of one request. A larger message has a
	// request of its own.
	BatchBytes int
	// Verifies says that a Finder's address exists: where the destination does not, Find fails.
	Verifies bool
	// Amend, if set, adds to an encoded message what the service alone has.
	Amend func(outflow.Message, *aws.Encoded)
	// Finder returns the Finder of a destination. timeout bounds a request that it makes.
	Finder func(d outflow.Destination, timeout time.Duration) Finder
	// Checker, if set, returns the Finder that Check asks instead.
	Checker func(d outflow.Destination, timeout time.Duration) Finder
	// Send makes one request and returns what the service says of its entries, in any order:
	// of an entry that it names twice, the last counts. Its error is that of AWS's client.
	Send func(context.Context, Request) ([]Outcome, error)
}

// Finder finds the address of one destination. It is safe for concurrent use.
type Finder interface {
	// Find returns the address. It waits for it, but leaves reserve of ctx's time for the send.
	// stale is an address that turned out not to work any more, or nil: this call does not
	// return it. Its errors are classified and name the destination.
	Find(ctx context.Context, reserve time.Duration, stale *Address) (*Address, error)
}

// Address is where the messages to a destination go, as one look-up found it: a queue's URL, a
// topic's ARN.
type Address struct {
	Value string
	// Of is the address that Value is made of, such as the caller's account; nil for none.
	Of *Address
}

// Request is one request with messages.
type Request struct {
	Destination outflow.Destination
	Address     string
	// Entries have their places as their IDs, from "0" on.
	Entries []Entry
	// Retryer is the request's own.
	Retryer *aws.Retryer
}

// Entry is one message of a Request.
type Entry struct {
	ID string
	aws.Encoded
}

// Outcome is what the service says of an entry, with nil for what its answer leaves out.
type Outcome struct {
	ID *string
	// Refused says that the service did not accept the entry, for the reason in Code, Said and
	// SenderFault.
	Refused     bool
	Code, Said  *string
	SenderFault bool
	// MessageID is the service's own, of an entry that it accepted.
	MessageID *string
	// BodyMD5 is the MD5 of the body that it stored, in hexadecimal digits.
	BodyMD5 *string
}
