package outboxdb

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/internal/text"
	"github.com/outflowhq/outflow/outbox"
)

// endRowsSQL is the only SQL that ends rows of outbox.messages. A statement that ends rows locks them
// first. Then its CTE "ends" has the columns id, generation, state, attempts (to add),
// broker_message_id, last_error, callback_in (how long scanners leave a callback to a run), blocks
// (where dead, it keeps the messages of its ordering key behind it) and was_head (it was the head of its
// ordering key), of locked rows alone. The statement goes on after endingSQL, and after columns that it
// sets beside these. Then come the columns that it reads of the ended rows, m.id among them, and endedSQL.
//   - Only a pending row ends, except that a broker's acknowledgement replaces any other end of its
//     generation: the message was sent. Its producer is then notified again.
//   - No condition compares each row with all others: a stream ends some thousand at once.
const endRowsSQL = `
           state = e.state, finished_at = now(), dismissed_at = NULL, retrying = false, parked = false,
           follower = false, head = m.head AND e.blocks AND e.state = 'dead',
           attempts = m.attempts + e.attempts, broker_message_id = e.broker_message_id,
           last_error = coalesce(e.last_error, m.last_error),
           callback_state = CASE WHEN m.callback IS NOT NULL THEN 'due' END,
           callback_due_at = CASE WHEN m.callback IS NOT NULL THEN now() + e.callback_in END,
           callback_attempts = 0, callback_error = NULL
      FROM ends AS e
     WHERE m.id = ANY (ARRAY[e.id]) AND m.generation = e.generation
       AND (m.finished_at IS NULL OR (e.state = 'delivered' AND m.state IN ('dead', 'expired', 'cancelled')))
    RETURNING m.head, e.was_head, `

// endedSQL ends the CTE "ended". "notified" has the same commit notify those who wait for an end.
// "promoted" releases the next message of each ordering key whose head has ended. The statement must
// read both (notifiedSQL).
const endedSQL = `
), promoted AS MATERIALIZED (
    SELECT outbox.promote(ARRAY(SELECT e.id FROM ended AS e WHERE e.was_head AND NOT e.head)) AS released
), notified AS MATERIALIZED (
    SELECT outbox.notify_waiters(ARRAY(SELECT e.id FROM ended AS e))
)`

// endingSQL begins the CTE "ended".
const endingSQL = `, ended AS (
    UPDATE outbox.messages AS m
       SET `

// notifiedSQL is always true. Postgres skips a CTE that nothing reads. This condition reads
// "notified" and "promoted", once for all rows of a statement.
const notifiedSQL = `(SELECT count(*) FROM notified) > 0 AND (SELECT count(*) FROM promoted) > 0`

// releasedSQL is how many messages the statement has released. Each row that it returns says it.
const releasedSQL = `(SELECT p.released FROM promoted AS p) AS released`

// locksEndsSQL has the ends that runs and streams ask for. The run that writes an end has a minute to
// start the callback, before a scanner does; a stream leaves that to the scanner ($8). $7 says whether a
// dead head blocks its ordering key. Each array is behind a SELECT: the planner then takes it for ten rows,
// however many there are, and each row is found by its primary key (TestEndsOfAPageAreFoundByTheirKeys).
const locksEndsSQL = `
WITH locked AS MATERIALIZED (
    SELECT u.*, m.head
      FROM unnest((SELECT $1::uuid[]), (SELECT $2::int[]), (SELECT $3::text[]), (SELECT $4::text[]),
                  (SELECT $5::text[]), (SELECT $6::int[]), (SELECT $8::boolean[]))
           AS u (id, generation, state, broker_message_id, last_error, attempts, streamed)
      JOIN outbox.messages AS m ON m.id = ANY (ARRAY[u.id])
     ORDER BY u.id
       FOR NO KEY UPDATE OF m SKIP LOCKED
), ends AS (
    SELECT l.id, l.generation, l.state, l.broker_message_id, l.last_error, l.attempts, l.head AS was_head,
           CASE WHEN l.streamed THEN interval '0' ELSE interval '1 minute' END AS callback_in, $7::boolean AS blocks
      FROM locked AS l
)`

// finishSQL writes ends and returns how the messages stand then.
const finishSQL = locksEndsSQL + endingSQL + endRowsSQL + outcomeColumnsSQL + endedSQL + `
SELECT e.*, ` + releasedSQL + ` FROM ended AS e WHERE ` + notifiedSQL

// finishPageSQL writes ends and says how many it has written: to return each row costs a stream as much
// as to end it.
const finishPageSQL = locksEndsSQL + endingSQL + endRowsSQL + `m.id` + endedSQL + `
SELECT count(*), now(), ` + releasedSQL + ` FROM ended AS e WHERE ` + notifiedSQL

// loadOutcomesSQL reads how rows ended.
const loadOutcomesSQL = `SELECT ` + outcomeColumnsSQL + ` FROM outbox.messages AS m WHERE m.id = ANY ($1::uuid[])`

// Finish writes an end and returns how the message stands then: as e asks, or as the row says where
// it is final already or of another generation. It is idempotent.
func (s *Store) Finish(ctx context.Context, e outbox.Ending) (outflow.Outcome, error) {
	if !e.State.Final() {
		return outflow.Outcome{}, fmt.Errorf("finishing message %s: %q is not a final state", e.ID, e.State)
	}
	record, err := retryLocked(ctx, s.endings, e)
	if err == nil || errors.Is(err, outflow.ErrNotFound) {
		s.handoff.settle(e.Ref)
	}
	if err != nil {
		return outflow.Outcome{}, fmt.Errorf("marking message %s %s: %w", e.ID, e.State, err)
	}
	return record.Outcome(), nil
}

func (s *Store) finishAll(ctx context.Context, endings []outbox.Ending) results {
	id := func(e outbox.Ending) uuid.UUID { return e.ID }
	locked := func(e outbox.Ending, found storedRow) bool {
		replaces := e.State == outflow.Delivered && found.State.Final() && found.State != outflow.Delivered
		return wasLocked(e.Ref, found) || replaces && !found.written && found.Generation == e.Generation
	}
	return answerAll(ctx, endings, id, locked, func(ctx context.Context, batch []outbox.Ending) (rowsByID, error) {
		ids, args := s.finishArgs(batch)
		done, err := s.write(ctx, finishSQL, args...)
		if err != nil {
			return nil, err
		}
		return s.readMissing(ctx, loadOutcomesSQL, ids, done)
	})
}

// finishArgs are the arguments of locksEndsSQL, ids the first of them.
func (s *Store) finishArgs(endings []outbox.Ending) (ids [][16]byte, args []any) {
	var c columns
	for _, e := range endings {
		c.add(e.Ref, e.LastError, e.Attempts)
		c.states = append(c.states, string(e.State))
		c.brokerIDs = append(c.brokerIDs, orNull(text.Clean(e.BrokerMessageID)))
		c.streamed = append(c.streamed, e.Streamed)
	}
	return c.ids, []any{c.ids, c.generations, c.states, c.brokerIDs, c.lastErrors, c.attempts, s.blocks, c.streamed}
}

// FinishAll is Finish for the messages of a stream, by one statement, whose callbacks are due at once.
// A message whose row another session has locked has an error, and is asked for again.
func (s *Store) FinishAll(ctx context.Context, endings []outbox.Ending) []outbox.Finished {
	finished := make([]outbox.Finished, len(endings))
	written, at, err := s.finishPage(ctx, endings)
	switch {
	case err != nil && !isDataError(err):
		for i, e := range endings {
			finished[i].Err = fmt.Errorf("marking message %s %s: %w", e.ID, e.State, err)
		}
	case err == nil && written == len(endings):
		for i, e := range endings {
			finished[i] = outbox.Finished{Generation: e.Generation, State: e.State, At: at}
		}
	default: // each is asked for again, with an answer of its own
		for i, r := range s.finishAll(ctx, endings) {
			finished[i] = outbox.Finished{Generation: r.Value.Generation, State: r.Value.State, At: r.Value.FinishedAt}
			if r.Err != nil {
				finished[i].Err = fmt.Errorf("marking message %s %s: %w", endings[i].ID, endings[i].State, r.Err)
			}
		}
	}
	return finished
}

func (s *Store) finishPage(ctx context.Context, endings []outbox.Ending) (written int, at time.Time, err error) {
	_, args := s.finishArgs(endings)
	var released int
	if err := s.pool.QueryRow(ctx, finishPageSQL, args...).Scan(&written, &at, &released); err != nil {
		return 0, time.Time{}, err
	}
	if released > 0 {
		s.noteReleased()
	}
	return written, at, nil
}
