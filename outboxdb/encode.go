package outboxdb

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"time"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/google/uuid"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/internal/text"
)

// maxEnqueueBytes bounds the payloads and headers of one call. In base64 they must stay well
// below the 256 MiB that one jsonb value can hold.
const maxEnqueueBytes = 64 << 20

// encodedMessage is a message as outbox.enqueue_batch reads it.
type encodedMessage struct {
	ID          uuid.UUID         `json:"id"`
	Destination string            `json:"destination"`
	Type        string            `json:"type"`
	Payload     []byte            `json:"payload_base64"`
	ContentType string            `json:"content_type,omitempty"`
	Headers     map[string]string `json:"headers,omitempty"`
	OrderingKey string            `json:"ordering_key,omitempty"`
	DueAt       time.Time         `json:"due_at,omitzero"`
	DueIn       string            `json:"due_in,omitempty"`
	ExpiresAt   time.Time         `json:"expires_at,omitzero"`
	ExpiresIn   string            `json:"expires_in,omitempty"`
	Callback    string            `json:"callback,omitempty"`
	// CallbackPayload puts the payload into the callback.
	CallbackPayload bool `json:"callback_payload,omitempty"`
}

// encodeBatch refuses only what JSON and Postgres's text can't carry. The SQL function
// checks the fields' rules.
func encodeBatch(msgs []outflow.Message, t trace) (string, error) {
	encoded := make([]encodedMessage, 0, len(msgs))
	size := 0
	for i, m := range msgs {
		m.Headers = t.addTo(m.Headers)
		if err := checkEncodable(i, m); err != nil {
			return "", err
		}
		if size += m.Bytes(); size > maxEnqueueBytes {
			wants := fmt.Sprintf("wants at most %d bytes in all messages of one call, headers included",
				maxEnqueueBytes)
			return "", &outflow.InvalidMessageError{Index: i, Field: "payload", Wants: wants}
		}
		if m.ID == uuid.Nil {
			id, err := uuid.NewV7()
			if err != nil {
				return "", fmt.Errorf("making a message ID: %w", err)
			}
			m.ID = id
		}
		encoded = append(encoded, encodedMessage{
			ID: m.ID, Destination: m.Destination, Type: m.Type, Payload: m.Payload, ContentType: m.ContentType,
			Headers: m.Headers, OrderingKey: m.OrderingKey,
			DueAt: m.DueAt.UTC(), DueIn: interval(m.DueIn),
			ExpiresAt: m.ExpiresAt.UTC(), ExpiresIn: interval(m.ExpiresIn),
			Callback: m.Callback, CallbackPayload: m.CallbackPayload,
		})
	}
	marshalled, err := json.Marshal(encoded)
	if err != nil {
		return "", fmt.Errorf("encoding %d messages: %w", len(msgs), err)
	}
	return ascii(marshalled), nil
}

// ascii escapes the characters of JSON that a client_encoding could change.
func ascii(encoded []byte) string {
	if !slices.ContainsFunc(encoded, func(b byte) bool { return b >= utf8.RuneSelf }) {
		return string(encoded)
	}
	plain := make([]byte, 0, len(encoded))
	for len(encoded) > 0 {
		r, size := utf8.DecodeRune(encoded)
		switch {
		case r < utf8.RuneSelf:
			plain = append(plain, byte(r))
		case r > 0xffff:
			high, low := utf16.EncodeRune(r)
			plain = fmt.Appendf(plain, `\u%04x\u%04x`, high, low)
		default:
			plain = fmt.Appendf(plain, `\u%04x`, r)
		}
		encoded = encoded[size:]
	}
	return string(plain)
}

func checkEncodable(index int, m outflow.Message) error {
	refuse := func(field, wants string) error {
		return &outflow.InvalidMessageError{Index: index, Field: field, Wants: wants}
	}
	for _, of := range []struct{ field, given string }{
		{"destination", m.Destination}, {"type", m.Type}, {"content_type", m.ContentType},
		{"ordering_key", m.OrderingKey}, {"callback", m.Callback},
	} {
		if !text.Storable(of.given) {
			got := of.given[:min(len(of.given), 120)]
			return refuse(of.field, fmt.Sprintf("wants valid UTF-8 without NUL (got %q)", got))
		}
	}
	for _, name := range slices.Sorted(maps.Keys(m.Headers)) {
		if !text.Storable(name) || !text.Storable(m.Headers[name]) {
			return refuse("headers", fmt.Sprintf("%q wants valid UTF-8 without NUL", name[:min(len(name), 120)]))
		}
	}
	for _, at := range []struct {
		field string
		given time.Time
	}{{"due_at", m.DueAt}, {"expires_at", m.ExpiresAt}} {
		if year := at.given.UTC().Year(); year < 1 || year > 9999 { // RFC 3339 has no other years
			return refuse(at.field, fmt.Sprintf("wants a time from the year 2000 to 9999 (got the year %d)", year))
		}
	}
	return nil
}

// interval writes d as Postgres reads it, or "" for zero. It writes hours, minutes and
// seconds: before version 15, Postgres cut a number of microseconds to 32 bits.
func interval(d time.Duration) string {
	if d == 0 {
		return ""
	}
	sign, us := "", d.Microseconds()
	if us < 0 {
		sign, us = "-", -us
	}
	return fmt.Sprintf("%s%d:%02d:%02d.%06d", sign, us/3_600_000_000, us/60_000_000%60, us/1_000_000%60, us%1_000_000)
}
