package publish

import (
	"context"

	"github.com/outflowhq/outflow"
)

// BatchPublisher is a Publisher whose broker takes many messages in one request. It is for a caller
// that has many messages of one destination in hand. Outflow's activities have one each: they call
// Publish, which joins the calls of the moment into such requests, and leaves each of them its own
// deadline.
type BatchPublisher interface {
	Publisher

	// PublishBatch publishes messages to one destination and returns a result for each, in their
	// order. It makes as many requests as the broker's limits want, one after the other.
	// A message's own Destination is not read.
	//
	// Each result keeps the promises of Publish for its message. One message that the broker
	// refuses never fails another. Messages of one ordering key go out in their order where the
	// broker keeps it, and there none is attempted after one that failed.
	//
	// The end of ctx stops requests that have not begun: their messages get an error that wraps
	// outflow.ErrNotAttempted. A request that has begun is waited for, until its own timeout.
	//
	// It is safe for concurrent use, and joins no messages of other calls.
	PublishBatch(ctx context.Context, destination string, messages []outflow.Message) []Result
}

// Result is what came of one message of a batch.
type Result struct {
	// BrokerMessageID is the broker's own ID for the message; empty where the broker gives none.
	BrokerMessageID string
	// Err is nil where the broker acknowledged the message. Its classes are Publish's.
	Err error
}
