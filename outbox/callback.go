package outbox

import (
	"time"

	"github.com/google/uuid"

	"github.com/outflowhq/outflow"
)

// CallbackState is how the callback of an ended message stands. It is empty where no
// callback was asked for, and while the message is pending.
type CallbackState string

// The states of a callback.
const (
	CallbackDue    CallbackState = "due"    // the producer has not been notified yet
	CallbackSent   CallbackState = "sent"   // the receiver acknowledged it
	CallbackFailed CallbackState = "failed" // given up, with a reason
)

// Callback is a message's end as its producer is to be notified of it.
type Callback struct {
	// To is the address that the producer asked for.
	To string
	outflow.Outcome
	// GroupID is the ID of the message's group; zero where it was not enqueued by route.
	GroupID     uuid.UUID
	Destination string
	Type        string
	EnqueuedAt  time.Time
	// Trace is the trace that the message's headers carry: "traceparent" and "tracestate",
	// in lower case, where there is one.
	Trace map[string]string
	// WithPayload says that the payload was asked for. Payload is empty otherwise, and where
	// it is longer than outflow.MaxCallbackPayload.
	WithPayload bool
	Payload     []byte
	ContentType string
}

// CallbackID names the callback of one generation of a message and its end. Its attempts
// share the ID. It has no dot, with which Standard Webhooks join what they sign.
func (c Callback) CallbackID() string {
	return outflow.CallbackEvent{MessageID: c.ID, Generation: c.Generation, State: c.State}.ID()
}

// DueCallback is a callback that no run has in hand, and what the Web UI shows of its
// message.
type DueCallback struct {
	Ref
	Destination string
	Type        string
}

// CallbackNote is the result of an attempt to notify the producer.
type CallbackNote struct {
	Ref
	// End is the end that the attempt reported; empty stands for any. A row with another end
	// by now takes no note: the producer is notified again.
	End outflow.State
	// State is CallbackDue where the attempt is to be repeated.
	State CallbackState
	// LastError is why the attempt failed.
	LastError string
	// Lease is how long a scanner leaves a due callback to its run.
	Lease time.Duration
}
