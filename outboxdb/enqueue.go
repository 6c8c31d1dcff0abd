package outboxdb

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/internal/text"
)

// maxEnqueueBytes bounds the payloads and headers of one call: in base64 they
// must stay well below the 256 MiB that one jsonb value can hold.
const maxEnqueueBytes = 64 << 20

// Enqueue writes msgs in the caller's transaction, in one statement, and
// returns their IDs in order. It never commits: the messages exist if and only
// if tx commits. A message whose ID is the zero UUID gets a new UUIDv7.
//
// The trace of ctx goes along: where it carries a valid OpenTelemetry span
// context, the headers "traceparent" and "tracestate" are added, unless the
// message has one of them or there is no room for it. Where OpenTelemetry's global
// TracerProvider records spans, they are those of a span "enqueue" around the
// statement, which says nothing of the commit.
//
// The errors outflow.InvalidMessageError (bad input) and
// outflow.DuplicateIDError (an ID that exists, or occurs twice in msgs) mean
// that nothing was written and that tx can go on. Any other error is the
// database's and has ended tx.
func Enqueue(ctx context.Context, tx pgx.Tx, msgs ...outflow.Message) ([]uuid.UUID, error) {
	return enqueueAll(ctx, overPgx(tx), msgs)
}

// EnqueueIfAbsent is Enqueue for messages whose IDs the caller chose: one whose
// ID exists already is skipped. It returns the IDs that it wrote, in order. Two calls
// with the same IDs wait for each other; one call a transaction can't deadlock.
//
// In a REPEATABLE READ or SERIALIZABLE transaction a message that was committed after
// the transaction's first statement can't be skipped: the error has SQLSTATE 40001
// (serialization_failure). Roll back and do the work again, or use READ COMMITTED.
func EnqueueIfAbsent(ctx context.Context, tx pgx.Tx, msgs ...outflow.Message) ([]uuid.UUID, error) {
	return enqueueAbsent(ctx, overPgx(tx), msgs)
}

// EnqueueSQL is Enqueue in a transaction of database/sql, with any driver for
// Postgres: the same statement, the same errors.
func EnqueueSQL(ctx context.Context, tx *sql.Tx, msgs ...outflow.Message) ([]uuid.UUID, error) {
	return enqueueAll(ctx, overSQL(tx), msgs)
}

// EnqueueSQLIfAbsent is EnqueueIfAbsent in a transaction of database/sql.
func EnqueueSQLIfAbsent(ctx context.Context, tx *sql.Tx, msgs ...outflow.Message) ([]uuid.UUID, error) {
	return enqueueAbsent(ctx, overSQL(tx), msgs)
}

func enqueueAll(ctx context.Context, ask query, msgs []outflow.Message) ([]uuid.UUID, error) {
	return traced(ctx, msgs, func(ctx context.Context) ([]uuid.UUID, error) { return writeAll(ctx, ask, msgs) })
}

func writeAll(ctx context.Context, ask query, msgs []outflow.Message) ([]uuid.UUID, error) {
	verdicts, err := enqueue(ctx, ask, msgs, false)
	if err != nil {
		return nil, fmt.Errorf("enqueuing: %w", err)
	}
	ids := make([]uuid.UUID, 0, len(verdicts))
	taken := &outflow.DuplicateIDError{}
	for _, v := range verdicts {
		ids = append(ids, v.ID)
		if v.Verdict == "exists" {
			taken.IDs = append(taken.IDs, v.ID)
		}
	}
	if len(taken.IDs) > 0 {
		return nil, fmt.Errorf("enqueuing: %w", taken)
	}
	return ids, nil
}

func enqueueAbsent(ctx context.Context, ask query, msgs []outflow.Message) ([]uuid.UUID, error) {
	return traced(ctx, msgs, func(ctx context.Context) ([]uuid.UUID, error) { return writeAbsent(ctx, ask, msgs) })
}

func writeAbsent(ctx context.Context, ask query, msgs []outflow.Message) ([]uuid.UUID, error) {
	verdicts, err := enqueue(ctx, ask, msgs, true)
	if err != nil {
		return nil, fmt.Errorf("enqueuing if absent: %w", err)
	}
	var written []uuid.UUID
	for _, v := range verdicts {
		if v.Verdict == "enqueued" {
			written = append(written, v.ID)
		}
	}
	return written, nil
}

// enqueue asks for the verdicts on msgs, one each, in order.
func enqueue(ctx context.Context, ask query, msgs []outflow.Message, ifAbsent bool) ([]verdict, error) {
	batch, err := encodeBatch(msgs, traceOf(ctx))
	if err != nil {
		return nil, err
	}
	verdicts, err := ask(ctx, batch, ifAbsent)
	if err != nil {
		return nil, explain(err, batch)
	}
	var refused []error
	for _, v := range verdicts {
		if reason, found := strings.CutPrefix(string(v.Verdict), "refused: "); found {
			field, wants, _ := strings.Cut(reason, ": ")
			refused = append(refused, &outflow.InvalidMessageError{Index: v.Index, Field: field, Wants: wants})
		}
	}
	return verdicts, errors.Join(refused...)
}

// What Postgres says of a character that the database's encoding lacks: 22P05
// (untranslatable_character), or in SQL_ASCII 0A000 (feature_not_supported).
const (
	untranslatableCharacter = "22P05"
	featureNotSupported     = "0A000"
)

func explain(err error, batch string) error {
	var answer interface{ SQLState() string } // pgx's errors and lib/pq's
	if errors.As(err, &answer) && strings.Contains(batch, `\u`) &&
		(answer.SQLState() == untranslatableCharacter || answer.SQLState() == featureNotSupported) {
		return fmt.Errorf("a header has a character that the database's encoding lacks; a database in UTF8 has every one: %w", err)
	}
	return err
}

// object is a message as outbox.enqueue_batch reads it.
type object struct {
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
	// CallbackPayload asks for the payload beside it.
	CallbackPayload bool `json:"callback_payload,omitempty"`
}

// encodeBatch checks only what JSON and Postgres's text can't carry; the rules
// for the fields are the SQL function's.
func encodeBatch(msgs []outflow.Message, t trace) (string, error) {
	objects := make([]object, 0, len(msgs))
	size := 0
	for i, m := range msgs {
		m.Headers = t.join(m.Headers)
		if err := checkEncodable(i, m); err != nil {
			return "", err
		}
		if size += sizeOf(m); size > maxEnqueueBytes {
			return "", &outflow.InvalidMessageError{Index: i, Field: "payload",
				Wants: fmt.Sprintf("wants at most %d bytes in all messages of one call, headers included", maxEnqueueBytes)}
		}
		if m.ID == uuid.Nil {
			id, err := uuid.NewV7()
			if err != nil {
				return "", fmt.Errorf("making a message ID: %w", err)
			}
			m.ID = id
		}
		objects = append(objects, object{
			ID: m.ID, Destination: m.Destination, Type: m.Type, Payload: m.Payload, ContentType: m.ContentType,
			Headers: m.Headers, OrderingKey: m.OrderingKey,
			DueAt: m.DueAt.UTC(), DueIn: interval(m.DueIn), ExpiresAt: m.ExpiresAt.UTC(), ExpiresIn: interval(m.ExpiresIn),
			Callback: m.Callback, CallbackPayload: m.CallbackPayload,
		})
	}
	encoded, err := json.Marshal(objects)
	if err != nil {
		return "", fmt.Errorf("encoding %d messages: %w", len(msgs), err)
	}
	return ascii(encoded), nil
}

// ascii writes JSON without a character that a client_encoding could change.
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
	for _, text := range []struct{ field, given string }{
		{"destination", m.Destination}, {"type", m.Type}, {"content_type", m.ContentType}, {"ordering_key", m.OrderingKey}, {"callback", m.Callback},
	} {
		if !storable(text.given) {
			return refuse(text.field, fmt.Sprintf("wants valid UTF-8 without NUL (got %q)", text.given[:min(len(text.given), 120)]))
		}
	}
	for _, name := range slices.Sorted(maps.Keys(m.Headers)) {
		if !storable(name) || !storable(m.Headers[name]) {
			return refuse("headers", fmt.Sprintf("%q wants valid UTF-8 without NUL", name[:min(len(name), 120)]))
		}
	}
	for _, moment := range []struct {
		field string
		given time.Time
	}{{"due_at", m.DueAt}, {"expires_at", m.ExpiresAt}} {
		if year := moment.given.UTC().Year(); year < 1 || year > 9999 { // what JSON's times can't say
			return refuse(moment.field, fmt.Sprintf("wants a time from the year 2000 to 9999 (got the year %d)", year))
		}
	}
	return nil
}

func sizeOf(m outflow.Message) int {
	size := len(m.Payload)
	for name, value := range m.Headers {
		size += len(name) + len(value)
	}
	return size
}

// storable reports whether Postgres can keep s in a text column.
func storable(s string) bool { return text.Storable(s) }

// interval writes d as Postgres reads it, or "" for zero. Before version 15 a
// number of microseconds is cut to 32 bits there, a clock's hours are not.
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
