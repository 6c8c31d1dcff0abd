package outboxdb

import (
	"bytes"
	"time"

	"github.com/google/uuid"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/internal/text"
	"github.com/outflowhq/outflow/outbox"
)

// recordColumnsSQL is what a claim, which bounds its bytes, returns of a row.
const recordColumnsSQL = `
	m.payload,` + otherColumnsSQL

// loadColumnsSQL leave a large payload to loadPayloadsSQL: only now it is known how large the
// payloads of so many rows are. With 500 rows this bound makes 4 MiB, as much as one of those
// statements loads.
const loadColumnsSQL = `
	CASE WHEN octet_length(m.payload) <= 8192 THEN m.payload END AS payload,
	octet_length(m.payload) AS payload_bytes,` + otherColumnsSQL

// otherColumnsSQL are all but the payload. The least keeps expires_in within a time.Duration; it
// passes over the NULL of no expiry.
const otherColumnsSQL = `
	m.id, m.seq, m.destination, m.type, m.content_type, m.headers, m.ordering_key,
	m.state, m.generation, m.cancel_requested, m.attempts, m.claims, m.enqueued_at, m.due_at, m.available_at,
	m.expires_at, least(m.expires_at - now(), interval '36500 days') AS expires_in,
	m.finished_at, m.broker_message_id, m.last_error, m.callback, m.callback_payload, ` + callbackDueSQL

// outcomeColumnsSQL are how a message stands, without its payload.
const outcomeColumnsSQL = `
	m.id, m.destination, m.type, m.state, m.generation, m.attempts, m.due_at, m.finished_at,
	m.broker_message_id, m.last_error, ` + callbackDueSQL

// row is one row as these columns return it.
type row struct {
	ID              uuid.UUID         `db:"id"`
	Seq             int64             `db:"seq"`
	Destination     string            `db:"destination"`
	Type            string            `db:"type"`
	Payload         []byte            `db:"payload"`
	ContentType     string            `db:"content_type"`
	Headers         map[string]string `db:"headers"`
	OrderingKey     *string           `db:"ordering_key"`
	State           outflow.State     `db:"state"`
	Generation      int               `db:"generation"`
	CancelRequested bool              `db:"cancel_requested"`
	Attempts        int               `db:"attempts"`
	Claims          int               `db:"claims"`
	EnqueuedAt      time.Time         `db:"enqueued_at"`
	DueAt           time.Time         `db:"due_at"`
	AvailableAt     time.Time         `db:"available_at"`
	ExpiresAt       *time.Time        `db:"expires_at"`
	ExpiresIn       *time.Duration    `db:"expires_in"`
	FinishedAt      *time.Time        `db:"finished_at"`
	BrokerMessageID *string           `db:"broker_message_id"`
	LastError       *string           `db:"last_error"`
	Callback        *string           `db:"callback"`
	CallbackPayload bool              `db:"callback_payload"`
	CallbackDue     bool              `db:"callback_due"`
	// A callback has its trace, and the ID of its message's group.
	Trace   map[string]string `db:"trace"`
	GroupID *uuid.UUID        `db:"group_id"`
	// PayloadBytes is the payload's size, where the statement may have left out the payload.
	PayloadBytes int `db:"payload_bytes"`
	// Some statements also read the destination's breakers.
	HeldBack   *time.Duration `db:"held_back"`
	SlowTarget bool           `db:"slow_target"`
	Failing    bool           `db:"failing"`
	Reached    bool           `db:"reached"`
	Missing    string         `db:"missing"`
	Over       bool           `db:"over"`
	// A statement that ends rows says which heads still block their keys, and how many messages it
	// released.
	Head     bool `db:"head"`
	WasHead  bool `db:"was_head"`
	Released int  `db:"released"`
}

func (r row) record() outbox.Record {
	return outbox.Record{
		Message: outflow.Message{
			ID: r.ID, Destination: r.Destination, Type: r.Type, Payload: r.Payload, ContentType: r.ContentType,
			Headers: r.Headers, OrderingKey: deref(r.OrderingKey), DueAt: r.DueAt, ExpiresAt: deref(r.ExpiresAt),
			Callback: deref(r.Callback), CallbackPayload: r.CallbackPayload,
		},
		Seq: r.Seq, State: r.State, Generation: r.Generation,
		Expired:         r.ExpiresIn != nil && *r.ExpiresIn <= 0,
		ExpiresAfter:    max(deref(r.ExpiresIn), 0),
		CancelRequested: r.CancelRequested, Attempts: r.Attempts, Claims: r.Claims,
		HeldBack: r.HeldBack != nil, HeldBackFor: deref(r.HeldBack), SlowTarget: r.SlowTarget,
		Missing:         r.Missing,
		BrokerMessageID: deref(r.BrokerMessageID), LastError: deref(r.LastError),
		EnqueuedAt: r.EnqueuedAt, FinishedAt: deref(r.FinishedAt), CallbackDue: r.CallbackDue,
		MissingBytes: max(r.PayloadBytes-len(r.Payload), 0),
	}
}

// columns are the array arguments of a statement on many rows.
type columns struct {
	ids         [][16]byte // a uuid.UUID would be encoded by way of its text
	generations []int32
	lastErrors  []*string
	attempts    []int32
	leases      []time.Duration
	states      []string
	brokerIDs   []*string
	leasedUntil []time.Time
	release     []bool
	lost        []bool
	waits       []bool
	streamed    []bool
	graces      []time.Duration
}

func (c *columns) add(ref outbox.Ref, lastError string, attempts int) {
	c.ids = append(c.ids, ref.ID)
	c.generations = append(c.generations, int32(ref.Generation))
	c.lastErrors = append(c.lastErrors, orNull(text.Clean(lastError)))
	c.attempts = append(c.attempts, int32(attempts))
}

func compareIDs(a, b uuid.UUID) int { return bytes.Compare(a[:], b[:]) }

func deref[T any](p *T) T {
	if p == nil {
		var zero T
		return zero
	}
	return *p
}

// orNull makes the zero value NULL.
func orNull[T comparable](v T) *T {
	var zero T
	if v == zero {
		return nil
	}
	return &v
}
