package outbox

import (
	"errors"
	"time"

	"github.com/google/uuid"

	"github.com/outflowhq/outflow"
)

// PageRequest bounds the next page of a stream.
type PageRequest struct {
	Destination string
	// Holder is an ID of this claim's own. A stream names those of its pages in hand, and frees the
	// others.
	Holder uuid.UUID
	// From is the first due time that the page looks at; zero: it looks from the beginning.
	From time.Time
	// MaxMessages and MaxBytes (of payloads and headers) bound the page. The message that crosses
	// MaxBytes is still claimed.
	MaxMessages int
	MaxBytes    int
}

// PageRef names a page: its rows share the time at which they would be available again.
type PageRef struct {
	Destination string
	At          time.Time
}

// Page is a set of messages of one destination that a stream has claimed. While it stands nobody else
// claims them.
type Page struct {
	PageRef
	// ClaimedAt is when the claim was sent, by this process's monotonic clock.
	ClaimedAt time.Time
	Messages  []PageMessage
	// Next is where the page after it goes on.
	Next time.Time
	// HeldBack says that nothing was claimed because the destination's breaker is open.
	HeldBack bool
	// Suspect says that the process of an earlier claim of these messages was lost: one of them may be
	// the cause. Such a page is sent with nothing else in hand.
	Suspect bool
}

// PageMessage is a message of a page.
type PageMessage struct {
	Record
	// Expires says that the message has an expiry, ExpiresIn how long after the claim it comes.
	Expires   bool
	ExpiresIn time.Duration
}

// Finished is how a message stands after an Ending was asked for, or why that could not be written.
type Finished struct {
	Generation int
	State      outflow.State
	// At is when it ended, by the database's clock.
	At  time.Time
	Err error
}

// Progress is what a stream has done so far.
type Progress struct {
	Delivered  int64 `json:"delivered"`
	Dead       int64 `json:"dead,omitempty"`
	Expired    int64 `json:"expired,omitempty"`
	Cancelled  int64 `json:"cancelled,omitempty"`
	HandedOver int64 `json:"handedOver,omitempty"`
	// PerSecond is how many messages the last seconds ended.
	PerSecond int `json:"perSecond,omitempty"`
}

// Total is how many messages have left the stream.
func (p Progress) Total() int64 { return p.Delivered + p.Dead + p.Expired + p.Cancelled + p.HandedOver }

// Plus adds the counts of q, and has q's rate.
func (p Progress) Plus(q Progress) Progress {
	return Progress{
		Delivered: p.Delivered + q.Delivered, Dead: p.Dead + q.Dead, Expired: p.Expired + q.Expired,
		Cancelled: p.Cancelled + q.Cancelled, HandedOver: p.HandedOver + q.HandedOver, PerSecond: q.PerSecond,
	}
}

// StreamEnd is why a stream ended.
type StreamEnd string

// The ends of a stream.
const (
	// StreamDrained: nothing was due for some time.
	StreamDrained StreamEnd = "drained"
	// StreamFailing: its destination failed. Starters deliver what is left, as its breaker allows.
	StreamFailing StreamEnd = "failing"
	// StreamCancelled: its run was cancelled, terminated or reset.
	StreamCancelled StreamEnd = "cancelled"
	// StreamStopped: its worker stops. Another one goes on.
	StreamStopped StreamEnd = "stopped"
	// StreamPaused: somebody paused its activity.
	StreamPaused StreamEnd = "paused"
	// StreamTurn: the activity's time is over. The run goes on with another.
	StreamTurn StreamEnd = "turn"
)

// StreamState is the word for how a stream stands, as a holder notes it.
type StreamState struct {
	Destination string
	Progress
	// Ended is empty while the stream goes on.
	Ended StreamEnd
}

// WhyNoStream says why a destination has no stream, or returns an empty text. A call to a receiver or
// to Temporal takes one message each: there a stream would save the run and little else.
func WhyNoStream(destination string) string {
	switch scheme := SchemeOf(destination); scheme {
	case outflow.SchemeHTTPS, outflow.SchemeHTTP, outflow.SchemeTemporal:
		return scheme + " takes one message a call: a stream would be no faster"
	}
	return ""
}

// Unfinished is a message that leaves its page without an end.
type Unfinished struct {
	Ref
	// LastError is why it was not sent; empty: it was not tried.
	LastError string
	// Attempts are publish attempts that the row does not count yet.
	Attempts int
}

// HandedOver is what came of a hand-over.
type HandedOver struct {
	// Messages is how many have runs of their own now.
	Messages int
	// Enough is false where too many of the destination have such runs: then the last of them wait as
	// rows, and the stream is to end.
	Enough bool
	// Locked are those whose rows another session has locked: nothing was done with them.
	Locked []uuid.UUID
}

// ErrLocked is the error of a write that left a row out, because another session had locked it.
var ErrLocked = errors.New("another session has locked the message's row")
