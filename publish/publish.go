// Package publish hands a message to its broker.
//
// The invariant: a nil error means that the broker has acknowledged the message, and an error of
// class permanent means that no later attempt could succeed. Every other failure, a lost
// acknowledgement included, is retryable or unavailable, so that nothing committed is lost: a
// duplicate is possible, and carries the same message ID.
//
// Each broker has a package of its own, such as publish/awssqs. It classifies that broker's errors
// and joins concurrent messages into the broker's own batches. Package publish/publishtest is the
// conformance suite that every publisher passes. A Router picks the publisher by the scheme of the
// message's destination:
//
//	router := publish.NewRouter(awssqs.New(sqsClient))
//	brokerMessageID, err := router.Publish(ctx, message)
package publish

import (
	"context"

	"github.com/outflowhq/outflow"
)

// Publisher publishes to the destinations of one scheme.
type Publisher interface {
	// Scheme is the scheme of the destinations it publishes to, such as "sqs". The publisher of
	// "https" also gets destinations in plain http, and accepts or refuses them.
	Scheme() string

	// Publish hands m to its broker and returns the broker's own ID for it, which may be empty
	// where the broker gives none.
	//
	// A nil error promises that the broker acknowledged the message. Every error has a class for
	// the next attempt: outflow.Permanent, outflow.Unavailable or outflow.Retryable. An error
	// without a class counts as retryable. The text of an error names the destination, the
	// broker's own code and what an operator can do, and never carries the payload. Moreover:
	//
	//   - Where the destination does not exist, the error wraps outflow.ErrNoDestination.
	//   - Where the destination itself refused this message, outflow.Failure.Answered is set: the
	//     destination is reachable for other messages.
	//   - Where CallTime cut the call short of the publisher's own timeout, and the broker may
	//     have the request, outflow.Failure.CutShort is set.
	//   - A panic is a permanent failure of its message: see PanicError. A publisher that shares
	//     requests sends each message of a request that panicked again alone, and only a panic
	//     with a single message says anything about that message.
	//
	// It is not idempotent: publishing a message again sends it again, with the same message ID.
	// It never retries by itself where the broker may have accepted the message.
	//
	// It is safe for concurrent use, and messages of concurrent calls may share a request; each
	// call still gets its own message's result. Concurrent calls may arrive in any order: a
	// caller that needs order waits for each answer.
	//
	// While nothing was sent, the end of ctx ends the call with an error that wraps
	// outflow.ErrNotAttempted; so does a ctx whose deadline leaves too little time for the
	// broker's call. Once the message is part of a request, Publish waits for that request's
	// answer or its deadline, however late.
	Publish(ctx context.Context, m outflow.Message) (brokerMessageID string, err error)
}
