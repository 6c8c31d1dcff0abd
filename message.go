package outflow

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/google/uuid"
)

// Message is what a producer enqueues: one delivery to one destination.
type Message struct {
	// ID identifies the message for good: it is the primary key of the row, part of the
	// workflow ID, and travels with the published message so that consumers can deduplicate.
	// The zero UUID asks Enqueue for a new UUIDv7. ByRoute makes it the ID of a group.
	ID uuid.UUID
	// Destination is a URI such as "sqs://orders", or a queue URL or ARN as pasted from the AWS
	// console. See ParseDestination. ByRoute stands for the destinations of the type's routes.
	Destination string
	// Type says what happened or what is asked for, such as "user-registered": 1 to 200
	// letters, digits or any of ". _ : / -", the first a letter or digit. Types that begin with
	// "outflow." are Outflow's own, such as a callback's.
	Type string
	// Payload is the body, 1 byte to 16 MiB; a destination may allow less (SQS and SNS: 1 MiB
	// together with the attributes; an SNS topic 256 KiB, unless its MaximumMessageSize is set).
	Payload []byte
	// ContentType is the media type of Payload. Empty means "application/json".
	ContentType string
	// Headers travel as attributes of the published message: at most 64, each name 1 to 128
	// letters, digits, "_", "-" and single inner dots, each value up to 8 KiB. Names that start
	// with "outflow", "aws." or "amazon." and "content-type" are reserved; no two may differ by
	// upper and lower case only.
	Headers map[string]string
	// OrderingKey has messages of one key and destination delivered one after the other, in the
	// order of their commits; FIFO queues also get it as their message group. A producer waits
	// for others of its keys until they commit. Up to 128 printable ASCII characters, no spaces.
	OrderingKey string

	// DueAt and DueIn delay the first delivery: DueAt until a moment, DueIn by a duration
	// counted by the database's clock from the enqueue. At most one may be set; neither means
	// at once.
	DueAt time.Time
	DueIn time.Duration
	// ExpiresAt and ExpiresIn bound the delivery: a message not yet published by then ends
	// expired. ExpiresIn counts by the database's clock from the enqueue. At most one may be
	// set; neither means never.
	ExpiresAt time.Time
	ExpiresIn time.Duration

	// Callback is the destination of the callback about the message's end: an https URL, or any
	// other destination, such as "sqs://replies". Empty means the destination that an operator's
	// rule for the destination or type names, most often none; NoCallback means none in any
	// case.
	Callback string
	// CallbackPayload has the callback carry the payload, too, where it is no longer than
	// MaxCallbackPayload. Every receiver of callbacks then reads payloads. It wants a Callback;
	// the callback of a rule carries the payload where the rule says so.
	CallbackPayload bool
}

// JSON returns a message whose payload is value in JSON, as encoding/json writes it. Its fields
// may be changed before it is enqueued. The error is about a value that JSON can't carry; the
// other rules are the enqueue's, which names what it refuses.
func JSON(destination, messageType string, value any) (Message, error) {
	payload, err := json.Marshal(value)
	if err != nil {
		return Message{}, fmt.Errorf("encoding the payload of a message of type %q to %q: %w",
			messageType, destination, err)
	}
	return Message{
		Destination: destination, Type: messageType, Payload: payload, ContentType: "application/json",
	}, nil
}

// Bytes is the size of the message's payload and headers.
func (m Message) Bytes() int {
	size := len(m.Payload)
	for name, value := range m.Headers {
		size += len(name) + len(value)
	}
	return size
}

// State is the state of a message. Pending is the only state that is not final.
type State string

// The states of a message. An operator can make a dead message pending again with the next
// generation.
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

// Outcome is what the row says of a message after its end was written or refused. It never
// carries the payload.
type Outcome struct {
	ID              uuid.UUID `json:"id"`
	State           State     `json:"state"`
	Generation      int       `json:"generation"`
	Attempts        int       `json:"attempts,omitempty"`
	BrokerMessageID string    `json:"brokerMessageId,omitempty"`
	LastError       string    `json:"lastError,omitempty"`
	FinishedAt      time.Time `json:"finishedAt,omitzero"`
	// CallbackDue says that a callback about the end is due.
	CallbackDue bool `json:"callbackDue,omitempty"`
	// Destination and Type are the message's, for the log of the process that read the row;
	// they go into no workflow's history. A Waiter leaves Type empty; its WaitAll sets Destination
	// as DisplayDestination has it, and its Wait leaves that empty too.
	Destination string `json:"-"`
	Type        string `json:"-"`
	// DueAt is when the message was due, by the database's clock; likewise.
	DueAt time.Time `json:"-"`
}
