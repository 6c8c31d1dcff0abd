package outboxdb

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/internal/text"
	"github.com/outflowhq/outflow/outbox"
)

// callbackDueSQL is a column of every statement that reads a row: a run that ends with it starts
// the callback.
const callbackDueSQL = `m.callback_state IS NOT DISTINCT FROM 'due' AS callback_due`

// lockOneSQL locks a row by its ID for a write on its callback. The guards are on the columns that
// it returns: on the table itself, "callback_state = 'due'" would offer the planner
// messages_callbacks.
const lockOneSQL = `
WITH locked AS MATERIALIZED (
    SELECT m.id, m.generation, m.state, m.callback_state FROM outbox.messages AS m WHERE m.id = $1 FOR NO KEY UPDATE
)`

// carriedTraceSQL are the trace's headers, whichever way the producer spelled them.
const carriedTraceSQL = `
    (SELECT pg_catalog.jsonb_object_agg(lower(h.key), h.value)
       FROM jsonb_each_text(m.headers) AS h
      WHERE lower(h.key) IN ('traceparent', 'tracestate')) AS trace`

// beginCallbackSQL counts an attempt to notify the producer, and leases the callback ($3) past it.
// It returns no row that was started again ($2) or whose callback is not due. It reads the payload
// where that was asked for and has at most $4 bytes. The length alone needs no read of the payload.
const beginCallbackSQL = lockOneSQL + `
UPDATE outbox.messages AS m
   SET callback_attempts = m.callback_attempts + 1, callback_due_at = now() + $3::interval
  FROM locked AS l
 WHERE m.id = ANY (ARRAY[l.id]) AND l.generation = $2 AND l.callback_state = 'due'
RETURNING m.callback, m.group_id, m.enqueued_at, m.content_type, m.callback_payload, ` + carriedTraceSQL + `,
          CASE WHEN m.callback_payload AND octet_length(m.payload) <= $4 THEN m.payload END AS payload,
          ` + outcomeColumnsSQL

// noteCallbackSQL writes the result of an attempt. The generation keeps the result for an earlier
// end from being taken for this one's. $3, the end that the attempt reported, does the same where a
// late acknowledgement replaced the end.
const noteCallbackSQL = lockOneSQL + `
UPDATE outbox.messages AS m
   SET callback_state = $4::text, callback_error = $5::text,
       callback_due_at = CASE WHEN $4::text = 'due' THEN now() + $6::interval END
  FROM locked AS l
 WHERE m.id = ANY (ARRAY[l.id]) AND l.generation = $2 AND l.callback_state = 'due' AND ($3::text IS NULL OR l.state = $3::text)`

// takeCallbacksSQL leases ($2) up to $1 callbacks that no run has in hand: no run was there to
// start them, or theirs is lost. The limit is a query of its own, as in purge.go: a planner that
// expects a few rows would else sort them all.
const takeCallbacksSQL = `
WITH due AS MATERIALIZED (
    SELECT m.id
      FROM outbox.messages AS m
     WHERE m.callback_state = 'due' AND m.callback_due_at <= now()
     ORDER BY m.callback_due_at
     LIMIT (SELECT $1::int)
       FOR NO KEY UPDATE SKIP LOCKED
)
UPDATE outbox.messages AS m
   SET callback_due_at = now() + $2::interval
  FROM pg_catalog.unnest(ARRAY(SELECT id FROM due)) AS d (id)
 WHERE m.id = ANY (ARRAY[d.id])
RETURNING m.id, m.generation, m.destination, m.type`

func (r row) callback() outbox.Callback {
	return outbox.Callback{
		To: deref(r.Callback), Outcome: r.record().Outcome(), GroupID: deref(r.GroupID),
		Destination: r.Destination, Type: r.Type, EnqueuedAt: r.EnqueuedAt,
		Trace:       r.Trace,
		WithPayload: r.CallbackPayload, Payload: r.Payload, ContentType: r.ContentType,
	}
}

// BeginCallback counts an attempt to notify a message's producer, keeps scanners from the callback
// for lease, and returns what to send. due is false where there is nothing to send: the producer
// has been notified, or the message was started again.
func (s *Store) BeginCallback(
	ctx context.Context, ref outbox.Ref, lease time.Duration,
) (c outbox.Callback, due bool, err error) {
	rows, err := s.pool.Query(ctx, beginCallbackSQL, ref.ID, ref.Generation, lease, outflow.MaxCallbackPayload)
	if err != nil {
		return outbox.Callback{}, false, fmt.Errorf("beginning the callback of message %s: %w", ref.ID, err)
	}
	r, err := pgx.CollectExactlyOneRow(rows, pgx.RowToStructByNameLax[row])
	if errors.Is(err, pgx.ErrNoRows) {
		return outbox.Callback{}, false, nil
	}
	if err != nil {
		return outbox.Callback{}, false, fmt.Errorf("beginning the callback of message %s: %w", ref.ID, err)
	}
	return r.callback(), true, nil
}

// NoteCallback writes the result of an attempt to notify the producer. noted is false, and nothing
// is written, where the callback is not due any more, or the message was started again or ended in
// another way since.
func (s *Store) NoteCallback(ctx context.Context, n outbox.CallbackNote) (noted bool, err error) {
	tag, err := s.pool.Exec(ctx, noteCallbackSQL, n.ID, n.Generation, orNull(string(n.End)), string(n.State),
		orNull(text.Clean(n.LastError)), n.Lease)
	if err != nil {
		return false, fmt.Errorf("noting the callback of message %s as %s: %w", n.ID, n.State, err)
	}
	return tag.RowsAffected() > 0, nil
}

// TakeCallbacks leases to the caller up to limit due callbacks that no run has in hand. The caller
// starts their runs.
func (s *Store) TakeCallbacks(ctx context.Context, limit int, lease time.Duration) ([]outbox.DueCallback, error) {
	rows, err := s.pool.Query(ctx, takeCallbacksSQL, limit, lease)
	if err != nil {
		return nil, fmt.Errorf("looking for due callbacks: %w", err)
	}
	due, err := pgx.CollectRows(rows, pgx.RowToStructByName[outbox.DueCallback])
	if err != nil {
		return nil, fmt.Errorf("looking for due callbacks: %w", err)
	}
	return due, nil
}
