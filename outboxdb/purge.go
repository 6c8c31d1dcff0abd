package outboxdb

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/internal/database"
	"github.com/outflowhq/outflow/outbox"
)

// purgeTimeout is the deadline of one statement of maintenance. A chunk takes some ten
// milliseconds, and more with large payloads.
const purgeTimeout = 10 * time.Second

// oldRows are the next final rows of a state ($1), older than $2, from $3 on, at most $4: a range
// of messages_finished, read in its order.
//   - It begins where the last chunk stopped: the index keeps what that one deleted until a vacuum.
//   - A row whose callback is due is still needed. So is a dead head, which keeps the messages of its
//     ordering key waiting: nothing would release them. A row that another session has locked, such
//     as that of an operator, is passed over. "NOT m.head" would halve what the planner expects where
//     it has no statistics: it would sort.
//   - The limit is a query of its own, which the planner takes for a part of all there is. Where it
//     expects a few old rows, it would fetch and sort them all.
//   - Dismissed rows are counted from their dismissal, along messages_dismissed.
func oldRows(clock string) string {
	return strings.ReplaceAll(`
WITH old AS MATERIALIZED (
    SELECT m.id
      FROM outbox.messages AS m
     WHERE m.state = $1 AND m.CLOCK < now() - $2::interval AND m.CLOCK >= $3
       AND m.callback_state IS DISTINCT FROM 'due' AND m.head::int <> 1
     ORDER BY m.CLOCK
     LIMIT (SELECT $4::int)
       FOR UPDATE SKIP LOCKED
), purged AS (
    DELETE FROM outbox.messages AS m
     USING pg_catalog.unnest(ARRAY(SELECT id FROM old)) AS o (id)
     WHERE m.id = ANY (ARRAY[o.id]) AND m.state = $1 AND NOT m.head`, "CLOCK", clock)
}

// The state in the delete is the guard that its rows are still final. As "finished_at" that guard
// would offer the planner all of messages_finished, where its statistics are from a table without
// final rows.

// historyColumnsSQL are the columns of outbox.messages. A column that is missing here would be lost
// with its row (TestHistoryHasEveryColumn).
const historyColumnsSQL = `
	id, seq, destination, type, payload, content_type, headers, ordering_key, group_id, group_place,
	callback, callback_state, callback_payload, callback_attempts, callback_error, callback_due_at,
	state, generation, claims, attempts, retrying, parked, head, follower, started, streamed, cancel_requested,
	enqueued_at, due_at, available_at, expires_at, finished_at, dismissed_at, broker_message_id, last_error`

// toHistorySQL moves the rows. History is a log: a message that ends again, after it was brought
// back or enqueued again under its ID, becomes a second entry. A statement moves a row once, so
// nothing has to look for conflicts. It reads nothing of the history, where a dispatcher may only
// insert.
const toHistorySQL = `, moved AS (
    INSERT INTO outbox.history (` + historyColumnsSQL + `)
    SELECT ` + historyColumnsSQL + ` FROM purged
)`

// notePurgeSQL is the audit's entry of a purge by an operator ($5, $6): one for each chunk that
// found something. The schedule's purge writes none, nor may its role.
const notePurgeSQL = `, noted AS (
    INSERT INTO outbox.audit (act, who, why, detail)
    SELECT 'purge', $5::text, $6::text,
           pg_catalog.jsonb_build_object('state', $1::text, 'older_than', $2::interval::text, 'messages', count(*))
      FROM purged HAVING count(*) > 0
)`

// notePurgeDismissedSQL is the same for a purge of dismissed messages.
var notePurgeDismissedSQL = strings.Replace(notePurgeSQL,
	"'state', $1::text", "'state', $1::text, 'dismissed', true", 1)

// purgeOf is the statement that deletes a chunk, or moves it to outbox.history.
func purgeOf(clock, history, note string) string {
	returning := "m." + clock
	if history != "" {
		returning = "m.*"
	}
	return oldRows(clock) + " RETURNING " + returning + "\n)" + history + note +
		"\nSELECT count(*) AS rows, coalesce(max(" + clock + "), $3) AS up_to FROM purged"
}

var (
	purgeSQL       = purgeOf("finished_at", "", "")
	moveSQL        = purgeOf("finished_at", toHistorySQL, "")
	purgeByHandSQL = purgeOf("finished_at", "", notePurgeSQL)
	moveByHandSQL  = purgeOf("finished_at", toHistorySQL, notePurgeSQL)

	purgeDismissedSQL       = purgeOf("dismissed_at", "", "")
	moveDismissedSQL        = purgeOf("dismissed_at", toHistorySQL, "")
	purgeDismissedByHandSQL = purgeOf("dismissed_at", "", notePurgeDismissedSQL)
	moveDismissedByHandSQL  = purgeOf("dismissed_at", toHistorySQL, notePurgeDismissedSQL)
)

// PurgeMessages deletes one chunk of final messages, or moves it to outbox.history, in one
// statement.
//   - It never touches a message that is not final or whose callback is due.
//   - Concurrent calls take different rows. To repeat a call whose result was lost is harmless.
//   - A chunk that is too slow, by its own deadline or a timeout of the role or database, ends in
//     an error that is context.DeadlineExceeded: a smaller chunk may work.
func (s *Store) PurgeMessages(ctx context.Context, p outbox.Purge) (outbox.Purged, error) {
	return purgeChunk(ctx, s.pool, chosen(p, purgeSQL, moveSQL, purgeDismissedSQL, moveDismissedSQL), p)
}

// PurgeAs is PurgeMessages for an operator: the same statement notes in the audit what was deleted
// or moved, for who and why.
func (s *Store) PurgeAs(ctx context.Context, p outbox.Purge, who, why string) (outbox.Purged, error) {
	statement := chosen(p, purgeByHandSQL, moveByHandSQL, purgeDismissedByHandSQL, moveDismissedByHandSQL)
	return purgeChunk(ctx, s.pool, statement, p, who, why)
}

// chosen is the statement for p.
func chosen(p outbox.Purge, purge, move, purgeDismissed, moveDismissed string) string {
	switch {
	case p.Dismissed && p.History:
		return moveDismissed
	case p.Dismissed:
		return purgeDismissed
	case p.History:
		return move
	}
	return purge
}

func purgeChunk(
	ctx context.Context, pool *database.Pool, statement string, p outbox.Purge, by ...any,
) (outbox.Purged, error) {
	if !p.State.Final() {
		return outbox.Purged{}, fmt.Errorf("purging messages: state: wants a final state (got %q)", p.State)
	}
	if p.Dismissed && p.State != outflow.Dead {
		return outbox.Purged{}, fmt.Errorf("purging messages: state: wants dead for dismissed messages (got %q)",
			p.State)
	}
	if p.Limit < 1 || p.OlderThan < 0 {
		return outbox.Purged{}, fmt.Errorf(
			"purging %s messages: limit and age: want 1 or more rows and no negative age (got %d and %s)",
			p.State, p.Limit, p.OlderThan)
	}
	ctx, cancel := context.WithTimeout(ctx, purgeTimeout)
	defer cancel()
	rows, err := pool.Query(ctx, statement, append([]any{string(p.State), p.OlderThan, p.After, p.Limit}, by...)...)
	if err != nil {
		return outbox.Purged{}, fmt.Errorf("purging %s messages: %w", p.State, database.TooSlow(err))
	}
	purged, err := pgx.CollectExactlyOneRow(rows, pgx.RowToStructByName[outbox.Purged])
	if err != nil {
		return outbox.Purged{}, fmt.Errorf("purging %s messages: %w", p.State, database.TooSlow(err))
	}
	return purged, nil
}

// purgeAuditSQL reads the $2 oldest entries: their IDs rise with their time, which has no index.
const purgeAuditSQL = `
DELETE FROM outbox.audit AS a
 USING (SELECT id FROM outbox.audit ORDER BY id LIMIT $2) AS oldest
 WHERE a.id = oldest.id AND a.at < now() - $1::interval`

// PurgeAudit deletes up to limit of the oldest audit entries, those older than the given age, and
// returns how many.
func (s *Store) PurgeAudit(ctx context.Context, olderThan time.Duration, limit int) (int, error) {
	return s.delete(ctx, "purging audit entries", purgeAuditSQL, olderThan, limit)
}

// purgeDestinationsSQL deletes up to $2 rows of outbox.destinations that were idle for $1.
//   - Idle means no delivery (a process that delivers notes one once a day) and no opening of the
//     breaker. A row without any time is idle too: its destination rejected a message and accepted
//     none.
//   - A breaker without messages would else stay open, and every choice of probes would pass over
//     it.
//   - A destination for which a message still waits is kept: without the row it would not be known.
//   - Parked rows have no index by destination, so their destinations are collected once.
const purgeDestinationsSQL = `
WITH parked AS MATERIALIZED (
    SELECT DISTINCT m.destination FROM outbox.messages AS m WHERE m.state = 'pending' AND m.parked
)
DELETE FROM outbox.destinations AS h
 WHERE h.destination IN (
       SELECT d.destination
         FROM outbox.destinations AS d
        WHERE (greatest(d.delivered_at, d.failing_since, d.open_until, d.recovered_at, d.missing_since)
               >= now() - $1::interval) IS NOT TRUE
          AND NOT EXISTS (SELECT FROM outbox.messages AS m WHERE m.state = 'pending' AND NOT m.parked
                             AND m.destination >= d.covers_from AND m.destination < d.covers_before)
          AND NOT EXISTS (SELECT FROM parked AS p
                           WHERE p.destination >= d.covers_from AND p.destination < d.covers_before)
        LIMIT $2
          FOR UPDATE SKIP LOCKED)`

// PurgeDestinations deletes up to limit destinations that no message waits for and that were idle
// for the given time, and returns how many.
func (s *Store) PurgeDestinations(ctx context.Context, idle time.Duration, limit int) (int, error) {
	return s.delete(ctx, "purging destinations", purgeDestinationsSQL, idle, limit)
}

// purgeKeysSQL deletes up to $2 ordering keys that were idle for $1.
const purgeKeysSQL = `SELECT outbox.purge_keys($1::interval, $2::int)`

// PurgeKeys deletes up to limit ordering keys that no message waits for and no producer has used for
// the given time, and returns how many.
func (s *Store) PurgeKeys(ctx context.Context, idle time.Duration, limit int) (purged int, err error) {
	ctx, cancel := context.WithTimeout(ctx, purgeTimeout)
	defer cancel()
	if err := s.pool.QueryRow(ctx, purgeKeysSQL, idle, limit).Scan(&purged); err != nil {
		return 0, fmt.Errorf("purging ordering keys: %w", database.TooSlow(err))
	}
	return purged, nil
}

func (s *Store) delete(ctx context.Context, doing, statement string, args ...any) (int, error) {
	ctx, cancel := context.WithTimeout(ctx, purgeTimeout)
	defer cancel()
	tag, err := s.pool.Exec(ctx, statement, args...)
	if err != nil {
		return 0, fmt.Errorf("%s: %w", doing, database.TooSlow(err))
	}
	return int(tag.RowsAffected()), nil
}
