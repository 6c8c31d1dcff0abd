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

// callbackDue is part of what every look at a row returns: a run that ends with
// it starts the callback.
const callbackDue = `m.callback_state IS NOT DISTINCT FROM 'due' AS callback_due`

// lockOne locks a row by its ID for a write on its callback. The guards are on
// what it returns: on the table itself, "callback_state = 'due'" would offer the
// planner messages_callbacks, as messages_claim in queries.go.
const lockOne = `
WITH locked AS MATERIALIZED (
    SELECT m.id, m.generation, m.state, m.callback_state FROM outbox.messages AS m WHERE m.id = $1 FOR NO KEY UPDATE
)`

// carriedTrace is what the headers say of the trace, whichever way the producer
// spelled them. The others are no matter of the callback.
const carriedTrace = `
    (SELECT pg_catalog.jsonb_object_agg(lower(h.key), h.value)
       FROM jsonb_each_text(m.headers) AS h
      WHERE lower(h.key) IN ('traceparent', 'tracestate')) AS trace`

// beginCallback counts an attempt to tell the producer, and leases the callback
// ($3) past it. A row that was started anew ($2), or whose callback is not due,
// is not returned. The payload is read where it was asked for and has at most $4
// bytes; its length takes no look at it.
const beginCallback = lockOne + `
UPDATE outbox.messages AS m
   SET callback_attempts = m.callback_attempts + 1, callback_due_at = now() + $3::interval
  FROM locked AS l
 WHERE m.id = l.id AND l.generation = $2 AND l.callback_state = 'due'
RETURNING m.callback, m.enqueued_at, m.content_type, m.callback_payload, ` + carriedTrace + `,
          CASE WHEN m.callback_payload AND octet_length(m.payload) <= $4 THEN m.payload END AS payload, ` + outcomeColumns

// noteCallback writes what an attempt came to. The generation keeps the answer to
// an earlier end's callback from being taken for this one's, and $3, the end that
// was told, does so where a late acknowledgement corrected the end.
const noteCallback = lockOne + `
UPDATE outbox.messages AS m
   SET callback_state = $4::text, callback_error = $5::text,
       callback_due_at = CASE WHEN $4::text = 'due' THEN now() + $6::interval END
  FROM locked AS l
 WHERE m.id = l.id AND l.generation = $2 AND l.callback_state = 'due' AND ($3::text IS NULL OR l.state = $3::text)`

// takeCallbacks leases ($2) up to $1 callbacks that nobody has in hand: no run
// was there to start them, or theirs is lost. The limit is a query of its own, as
// in purge.go, so that a planner who believes in a few does not sort them all.
const takeCallbacks = `
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
 WHERE m.id = d.id
RETURNING m.id, m.generation, m.destination, m.type`

func (r row) callback() outbox.Callback {
	return outbox.Callback{
		To: deref(r.Callback), Outcome: r.record().Outcome(), Destination: r.Destination, Type: r.Type, EnqueuedAt: r.EnqueuedAt,
		Trace:       r.Trace,
		WithPayload: r.CallbackPayload, Payload: r.Payload, ContentType: r.ContentType,
	}
}

// BeginCallback counts an attempt to tell a message's producer, keeps scanners
// from it for lease, and returns what to tell. due is false where there is
// nothing to tell: the producer was told, or the message was started anew.
func (s *Store) BeginCallback(ctx context.Context, ref outbox.Ref, lease time.Duration) (c outbox.Callback, due bool, err error) {
	rows, err := s.pool.Query(ctx, beginCallback, ref.ID, ref.Generation, lease, outflow.MaxCallbackPayload)
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

// NoteCallback writes what an attempt to tell the producer came to. noted is
// false, and nothing is written, where the callback is not due any more, or where
// the message was started anew or ended in another way since.
func (s *Store) NoteCallback(ctx context.Context, n outbox.CallbackNote) (noted bool, err error) {
	tag, err := s.pool.Exec(ctx, noteCallback, n.ID, n.Generation, orNull(string(n.End)), string(n.State),
		orNull(text.Clean(n.LastError)), n.Lease)
	if err != nil {
		return false, fmt.Errorf("noting the callback of message %s as %s: %w", n.ID, n.State, err)
	}
	return tag.RowsAffected() > 0, nil
}

// TakeCallbacks leases to the caller up to limit due callbacks that no run has in
// hand, for which it starts runs.
func (s *Store) TakeCallbacks(ctx context.Context, limit int, lease time.Duration) ([]outbox.DueCallback, error) {
	rows, err := s.pool.Query(ctx, takeCallbacks, limit, lease)
	if err != nil {
		return nil, fmt.Errorf("looking for due callbacks: %w", err)
	}
	due, err := pgx.CollectRows(rows, pgx.RowToStructByName[outbox.DueCallback])
	if err != nil {
		return nil, fmt.Errorf("looking for due callbacks: %w", err)
	}
	return due, nil
}
