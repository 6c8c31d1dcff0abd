// Package outboxtest is for the tests of programs that enqueue. RequireEnqueued compares the
// messages of a transaction with the expected ones. Deliver delivers messages to a publisher
// of the test's own. Both use the real table in a migrated database (outboxdb/migrate);
// neither needs a Temporal server.
//
// The invariant: Deliver writes only what Outflow itself would write, SetRoutes writes routes
// alone, and the assertions write nothing.
//
//	tx, err := pool.Begin(ctx)
//	err = signUp(ctx, tx, "ada@example.com")
//	outboxtest.RequireEnqueued(t, tx, outflow.Message{
//		Destination: "sqs://welcome-email",
//		Payload:     []byte(`{"to": "ada@example.com"}`),
//	})
package outboxtest

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/outflowhq/outflow"
)

// Querier is what an assertion reads from: a *pgxpool.Pool, a *pgx.Conn or a pgx.Tx.
type Querier interface {
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

// SQLQuerier is a *sql.DB, a *sql.Conn or a *sql.Tx.
type SQLQuerier interface {
	QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row
}

// RequireEnqueued ends the test unless the pending messages are want: each once, in any
// order, and no others. Without want, it requires that there are none.
//
// If q is a transaction, only messages that this transaction enqueued count. It need not be
// committed, and tests can share a database. Otherwise every pending message counts, and each
// test needs its own database.
//
// Zero fields of want are not compared. Payloads that are JSON are compared as JSON. Of
// Headers, the names in want are compared. DueIn and ExpiresIn are compared with the time
// since the enqueue.
//
// A message in want with the Destination outflow.ByRoute stands for all messages of a group,
// however many routes there are; its ID is the group's. Then every group counts as one message.
func RequireEnqueued(t testing.TB, q Querier, want ...outflow.Message) {
	t.Helper()
	requireEqual(t, want, read(t, q))
}

// RequireEnqueuedSQL is RequireEnqueued with database/sql.
func RequireEnqueuedSQL(t testing.TB, q SQLQuerier, want ...outflow.Message) {
	t.Helper()
	requireEqual(t, want, readSQL(t, q))
}

// Enqueued returns the messages that RequireEnqueued compares, in the order of their
// enqueuing. DueAt and ExpiresAt are absolute; DueIn and ExpiresIn are zero.
func Enqueued(t testing.TB, q Querier) []outflow.Message {
	t.Helper()
	return messagesOf(read(t, q))
}

// EnqueuedSQL is Enqueued with database/sql.
func EnqueuedSQL(t testing.TB, q SQLQuerier) []outflow.Message {
	t.Helper()
	return messagesOf(readSQL(t, q))
}

// pendingSQL returns all pending messages as one text, which every driver and protocol can
// read. If $1 is true, it returns only those that its own transaction has written, in
// savepoints too.
const pendingSQL = `
SELECT coalesce(json_agg(json_build_object(
           'id', m.id, 'destination', m.destination, 'type', m.type, 'payload', encode(m.payload, 'base64'),
           'content_type', m.content_type, 'headers', m.headers, 'ordering_key', coalesce(m.ordering_key, ''),
           'group_id', m.group_id, 'callback', coalesce(m.callback, ''), 'enqueued_at', m.enqueued_at, 'due_at', m.due_at,
           'expires_at', m.expires_at) ORDER BY m.seq), '[]')::text
  FROM outbox.messages AS m
 WHERE m.state = 'pending' AND (NOT $1::boolean OR pg_xact_status(m.xmin::text::xid8) = 'in progress')`

// row is a message as pendingSQL returns it.
type row struct {
	ID          uuid.UUID         `json:"id"`
	Destination string            `json:"destination"`
	Type        string            `json:"type"`
	Payload     []byte            `json:"payload"`
	ContentType string            `json:"content_type"`
	Headers     map[string]string `json:"headers"`
	OrderingKey string            `json:"ordering_key"`
	GroupID     uuid.UUID         `json:"group_id"` // zero for null
	Callback    string            `json:"callback"`
	EnqueuedAt  time.Time         `json:"enqueued_at"`
	DueAt       time.Time         `json:"due_at"`
	ExpiresAt   time.Time         `json:"expires_at"` // zero for null
}

func (r row) message() outflow.Message {
	return outflow.Message{
		ID: r.ID, Destination: r.Destination, Type: r.Type, Payload: r.Payload, ContentType: r.ContentType,
		Headers: r.Headers, OrderingKey: r.OrderingKey, Callback: r.Callback, DueAt: r.DueAt, ExpiresAt: r.ExpiresAt,
	}
}

func messagesOf(rows []row) []outflow.Message {
	var messages []outflow.Message
	for _, r := range rows {
		messages = append(messages, r.message())
	}
	return messages
}

func read(t testing.TB, q Querier) []row {
	t.Helper()
	_, own := q.(pgx.Tx)
	return decode(t, q.QueryRow(t.Context(), pendingSQL, own))
}

func readSQL(t testing.TB, q SQLQuerier) []row {
	t.Helper()
	_, own := q.(*sql.Tx)
	return decode(t, q.QueryRowContext(t.Context(), pendingSQL, own))
}

func decode(t testing.TB, answer interface{ Scan(...any) error }) []row {
	t.Helper()
	var text string
	var rows []row
	err := answer.Scan(&text)
	if err == nil {
		err = json.Unmarshal([]byte(text), &rows)
	}
	if err != nil {
		t.Fatal(fmt.Errorf("outboxtest: reading outbox.messages: %w", err))
	}
	return rows
}
