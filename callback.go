package outflow

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/google/uuid"

	"github.com/outflowhq/outflow/internal/text"
)

// NoCallback as a message's Callback says that its end makes no callback, whatever rules an
// operator has set for messages without a Callback.
const NoCallback = "none"

// MaxCallbackPayload is the longest payload in bytes that a callback carries. In JSON it is at
// most three times as long, which leaves room below the 1 MiB of SQS.
const MaxCallbackPayload = 256 << 10

// CallbackType is the type of a message that carries a callback: one to a queue or topic, not to
// an https URL.
const CallbackType = "outflow.callback"

// CallbackIDHeader is the header of such a message that carries the callback's ID. At an https
// URL, "webhook-id" does.
const CallbackIDHeader = "callback-id"

// CallbackEvent is the body of a callback: how a message ended. docs/contract.md has the JSON.
//
// A receiver trusts it because of its way: the signature of a webhook, or the rights on a queue
// that only Outflow may send to. The receiver compares ID with the header that carries it, and
// handles each ID once.
type CallbackEvent struct {
	MessageID uuid.UUID
	// GroupID is the ID that an enqueue by route returned; zero for any other message.
	GroupID     uuid.UUID
	Type        string // the message's own
	Destination string // as DisplayDestination has it: a URL without its query
	// State is Delivered, Dead, Expired or Cancelled.
	State State
	// Generation is 1, and one more for each time that an operator started the message again.
	Generation int
	// BrokerMessageID is the broker's own ID; empty where it gave none.
	BrokerMessageID string
	// Attempts counts the attempts to publish.
	Attempts   int
	EnqueuedAt time.Time
	FinishedAt time.Time
	// LastError is the last failure, also the last before a success; empty where nothing
	// failed.
	LastError string

	// Payload and its ContentType are there where the payload was asked for. PayloadOmitted
	// says that it was, and is longer than MaxCallbackPayload.
	Payload        []byte
	ContentType    string
	PayloadOmitted bool
}

// ID is the callback's ID, as CallbackIDHeader or "webhook-id" has it. All attempts to send the
// callback of one end have the same ID.
func (e CallbackEvent) ID() string { return callbackID(e.MessageID, e.Generation, e.State) }

func callbackID(id uuid.UUID, generation int, state State) string {
	return fmt.Sprintf("%s_%d_%s", id, generation, state)
}

// DecodeCallback reads the body of a callback: the body of a signed request whose signature was
// verified, or the payload of a message of type CallbackType. It ignores fields that it does not
// know. An error names what is missing or can't be read; the same body never decodes later.
func DecodeCallback(body []byte) (CallbackEvent, error) {
	var e CallbackEvent
	if err := e.UnmarshalJSON(body); err != nil {
		return CallbackEvent{}, fmt.Errorf("decoding a callback: %w", err)
	}
	return e, nil
}

// callbackBody is a CallbackEvent in JSON.
type callbackBody struct {
	MessageID       uuid.UUID `json:"messageId"`
	GroupID         uuid.UUID `json:"groupId,omitzero"`
	Type            string    `json:"type"`
	Destination     string    `json:"destination"`
	State           State     `json:"state"`
	Generation      int       `json:"generation"`
	BrokerMessageID string    `json:"brokerMessageId,omitempty"`
	Attempts        int       `json:"attempts"`
	EnqueuedAt      time.Time `json:"enqueuedAt"`
	FinishedAt      time.Time `json:"finishedAt"`
	LastError       string    `json:"lastError,omitempty"`

	// Of these, a callback with the payload has the first and one of the others.
	ContentType    string `json:"contentType,omitempty"`
	Payload        string `json:"payload,omitempty"`
	PayloadBase64  []byte `json:"payloadBase64,omitempty"`
	PayloadOmitted bool   `json:"payloadOmitted,omitempty"`
}

// MarshalJSON writes the body of a callback. It has no character that a terminal obeys or hides:
// those are written in the form \u001b.
func (e CallbackEvent) MarshalJSON() ([]byte, error) {
	body := callbackBody{
		MessageID: e.MessageID, GroupID: e.GroupID, Type: e.Type, Destination: e.Destination, State: e.State,
		Generation: e.Generation, BrokerMessageID: e.BrokerMessageID, Attempts: e.Attempts,
		EnqueuedAt: e.EnqueuedAt.UTC(), FinishedAt: e.FinishedAt.UTC(), LastError: e.LastError,
		ContentType: e.ContentType, PayloadOmitted: e.PayloadOmitted,
	}
	if isPlainText(e.Payload) {
		body.Payload = string(e.Payload)
	} else {
		body.PayloadBase64 = e.Payload
	}
	var encoded bytes.Buffer
	encoder := json.NewEncoder(&encoded)
	encoder.SetEscapeHTML(false) // it makes six bytes of each
	err := encoder.Encode(body)
	return []byte(text.Visible(strings.TrimSuffix(encoded.String(), "\n"))), err
}

// UnmarshalJSON reads the body of a callback.
func (e *CallbackEvent) UnmarshalJSON(text []byte) error {
	var body callbackBody
	if err := json.Unmarshal(text, &body); err != nil {
		return err
	}
	switch {
	case body.MessageID == uuid.Nil:
		return errors.New("messageId: wants the message's UUID")
	case !body.State.Final():
		return fmt.Errorf("state: wants delivered, dead, expired or cancelled (got %.40q)", string(body.State))
	case body.Generation < 1:
		return fmt.Errorf("generation: wants 1 or more (got %d)", body.Generation)
	}
	*e = CallbackEvent{
		MessageID: body.MessageID, GroupID: body.GroupID, Type: body.Type, Destination: body.Destination,
		State: body.State, Generation: body.Generation, BrokerMessageID: body.BrokerMessageID, Attempts: body.Attempts,
		EnqueuedAt: body.EnqueuedAt, FinishedAt: body.FinishedAt, LastError: body.LastError,
		Payload: body.PayloadBase64, ContentType: body.ContentType, PayloadOmitted: body.PayloadOmitted,
	}
	if body.Payload != "" {
		e.Payload = []byte(body.Payload)
	}
	return nil
}

// isPlainText reports whether the payload's JSON has at most three bytes for each of its own.
// MarshalJSON writes any other payload in base64.
func isPlainText(payload []byte) bool {
	return utf8.Valid(payload) && !bytes.ContainsFunc(payload, func(r rune) bool {
		return unicode.IsControl(r) && r != '\t' && r != '\n' && r != '\r' || r == '\uFFFE' || r == '\uFFFF'
	})
}
