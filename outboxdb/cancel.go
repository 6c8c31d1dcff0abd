package outboxdb

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/outbox"
)

// beginCancelSQL locks the rows $1 in the order of their IDs, so that the answer is what the
// statement decided on.
const beginCancelSQL = `
WITH locked AS MATERIALIZED (
    SELECT m.id, m.state, m.generation, m.available_at, m.finished_at, m.cancel_requested, m.head,
           m.finished_at IS NULL AND m.available_at <= now() AS available,
           ` + UntouchedSQL + ` OR m.follower AS untouched, ` + InPageSQL + ` AS in_page
      FROM outbox.messages AS m WHERE m.id = ANY ($1::uuid[]) ORDER BY m.id FOR NO KEY UPDATE
)`

// cancelEndsSQL are the ends of locked rows l that an operator cancels.
const cancelEndsSQL = `, ends AS (
    SELECT l.id, l.generation, 'cancelled' AS state, 0 AS attempts, NULL::text AS broker_message_id,
           'cancelled: an operator asked for it' AS last_error, interval '0' AS callback_in, false AS blocks,
           l.head AS was_head
      FROM locked AS l`

// cancelledColumnsSQL are what the audit and the answer have of a row.
const cancelledColumnsSQL = `m.id, m.destination, m.state, m.generation`

// endCancelSQL notes the act in the audit, notifies waiters once, and returns each row.
const endCancelSQL = AuditActSQL + `
SELECT l.id, c.id IS NOT NULL AS done, coalesce(c.state, l.state) AS state, l.generation,
       l.available, l.available_at, l.in_page
  FROM locked AS l LEFT JOIN changed AS c ON c.id = l.id
 WHERE ` + notifiedSQL

// requestCancelSQL ends untouched messages and followers, which no run has, and requests the cancel
// of the other pending ones: only their runs know whether the broker has them. A scanner may start
// the callback of an ended one at once, because no run will. A read of the row after this statement
// sees the request; a run that may still publish has read the row before.
const requestCancelSQL = beginCancelSQL + cancelEndsSQL + ` WHERE l.untouched
)` + endingSQL + `cancel_requested = true,` + endRowsSQL + cancelledColumnsSQL + endedSQL + `, requested AS (
    UPDATE outbox.messages AS m
       SET cancel_requested = true
      FROM locked AS l
     WHERE m.id = ANY (ARRAY[l.id]) AND l.finished_at IS NULL AND NOT l.untouched
    RETURNING m.id, m.destination, m.state, m.generation, 'cancel' AS act, '{}'::jsonb AS detail
), changed AS (
    SELECT e.id, e.destination, e.state, e.generation, 'cancel' AS act,
           pg_catalog.jsonb_build_object('ended', 'at once') AS detail
      FROM ended AS e
    UNION ALL SELECT * FROM requested` + endCancelSQL

// endCancelledSQL ends a message whose cancel was requested and whose workflow has no open run, as
// Temporal said while the row had generation $4. A lease means that a start may be on its way: the
// row is left as it is.
const endCancelledSQL = beginCancelSQL + cancelEndsSQL + `
     WHERE l.finished_at IS NULL AND l.cancel_requested AND l.available AND l.generation = $4::int
)` + endingSQL + endRowsSQL + cancelledColumnsSQL + endedSQL + `, changed AS (
    SELECT e.id, e.destination, e.state, e.generation, 'cancel' AS act,
           pg_catalog.jsonb_build_object('ended', 'without a run') AS detail
      FROM ended AS e` + endCancelSQL

// Cancel is what a cancel did to one message.
type Cancel struct {
	ID uuid.UUID `db:"id"`
	// Found says that there is such a message. Where there is none, the rest is zero.
	Found bool `db:"-"`
	// Done says that the message was pending: the cancel ended it, or requested its end.
	Done bool `db:"done"`
	// State is the message's state after the cancel.
	State      outflow.State `db:"state"`
	Generation int           `db:"generation"`
	// Available says that no lease held the pending message; AvailableAt is when its lease ends or
	// ended.
	Available   bool      `db:"available"`
	AvailableAt time.Time `db:"available_at"`
	// InPage says that a stream has the pending message in a page: it has no run of its own.
	InPage bool `db:"in_page"`
}

// RequestCancel ends messages that were never claimed, and requests the cancel of the other pending
// ones. It answers for each of ids, in order, and notes the act in the audit, for who and why.
func (s *Store) RequestCancel(ctx context.Context, ids []uuid.UUID, who, why string) ([]Cancel, error) {
	return s.cancel(ctx, requestCancelSQL, ids, who, why)
}

// EndCancelled ends a message whose cancel was requested and which has no open run. It does nothing
// while a lease holds the message, or where the message has another generation by now.
func (s *Store) EndCancelled(ctx context.Context, ref outbox.Ref, who, why string) (ended bool, err error) {
	answers, err := s.cancel(ctx, endCancelledSQL, []uuid.UUID{ref.ID}, who, why, ref.Generation)
	if err != nil {
		return false, err
	}
	return answers[0].Done, nil
}

func (s *Store) cancel(
	ctx context.Context, statement string, ids []uuid.UUID, who, why string, args ...any,
) ([]Cancel, error) {
	rows, err := s.pool.Query(ctx, statement, append([]any{ids, who, why}, args...)...)
	if err != nil {
		return nil, fmt.Errorf("cancelling %d messages: %w", len(ids), err)
	}
	found, err := pgx.CollectRows(rows, pgx.RowToStructByName[Cancel])
	if err != nil {
		return nil, fmt.Errorf("cancelling %d messages: %w", len(ids), err)
	}
	answers := make([]Cancel, len(ids))
	for i, id := range ids {
		answers[i].ID = id
		if at := slices.IndexFunc(found, func(c Cancel) bool { return c.ID == id }); at >= 0 {
			answers[i] = found[at]
			answers[i].Found = true
		}
	}
	return answers, nil
}
