package outflow

import "time"

// CallbackState is how the callback of a message stands that has ended. It is
// empty where no callback was asked for, and while the message is pending.
type CallbackState string

// The states of a callback.
const (
	CallbackDue    CallbackState = "due"    // the producer is still to be told
	CallbackSent   CallbackState = "sent"   // it was told
	CallbackFailed CallbackState = "failed" // given up, with a reason
)

// NoCallback as a message's Callback says that nobody is told of its end, whatever
// rules an operator has set for messages without one.
const NoCallback = "none"

// MaxCallbackPayload is the longest payload in bytes that a callback carries. In
// JSON it is at most three times as long, which leaves room below the 1 MiB of SQS.
const MaxCallbackPayload = 256 << 10

// Callback is a message's end as its producer is to be told.
type Callback struct {
	// To is where the producer wants to be told.
	To string
	Outcome
	Destination string
	Type        string
	EnqueuedAt  time.Time
	// Trace is the trace that the message's headers carry: "traceparent" and
	// "tracestate", in lower case, where there is one.
	Trace map[string]string
	// WithPayload says that the payload was asked for, too. Payload is empty
	// otherwise, and where it is longer than MaxCallbackPayload.
	WithPayload bool
	Payload     []byte
	ContentType string
}

// CallbackID names what a callback tells: how one generation of a message ended.
// Attempts to tell the same thing have the same ID. The state is part of it
// because an end can be corrected: a late acknowledgement makes a message that
// ended dead, expired or cancelled delivered. It has no dots: Standard Webhooks
// join what they sign with them.
func (c Callback) CallbackID() string {
	return callbackID(c.ID, c.Generation, c.State)
}

// DueCallback is a callback that no run has in hand, and by what people find it.
type DueCallback struct {
	Ref
	Destination string
	Type        string
}

// CallbackNote is what an attempt to tell the producer came to.
type CallbackNote struct {
	Ref
	// Told is the end that was, or was to be, told; empty stands for any. A row
	// that says something else by now takes no note: the producer is told again.
	Told State
	// State is CallbackDue where the attempt is to be repeated.
	State CallbackState
	// LastError is why it failed.
	LastError string
	// Lease is how long a scanner leaves a due callback to its run.
	Lease time.Duration
}
