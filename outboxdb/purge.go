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

// purgeTimeout is the deadline of one statement of maintenance. A chunk takes
// some ten milliseconds; large payloads make it slower.
const purgeTimeout = 10 * time.Second

// oldRows are the next final rows of a state ($1), older than $2, from $3 on, at
// most $4: a range of messages_finished, read in its order. It begins where the
// last chunk stopped, so that no chunk crawls over what the one before deleted,
// which the index keeps until it is vacuumed. A row whose callback is due is still
// needed. Who holds a row, such as an operator who starts it anew, is not waited
// for. The limit is a query of its own, which the planner takes for a part of all
// there is: where it believes in a few old rows, it would fetch and sort them all.
// Dismissed rows are counted from their dismissal, along messages_dismissed.
func oldRows(clock string) string {
	return strings.ReplaceAll(`
WITH old AS MATERIALIZED (
    SELECT m.id
      FROM outbox.messages AS m
     WHERE m.state = $1 AND m.CLOCK < now() - $2::interval AND m.CLOCK >= $3
       AND m.callback_state IS DISTINCT FROM 'due'
     ORDER BY m.CLOCK
     LIMIT (SELECT $4::int)
       FOR UPDATE SKIP LOCKED
), purged AS (
    DELETE FROM outbox.messages AS m
     USING pg_catalog.unnest(ARRAY(SELECT id FROM old)) AS o (id)
     WHERE m.id = o.id AND m.state = $1`, "CLOCK", clock)
}

// The state in the delete is the guard that its rows are still final. To say it
// with finished_at would offer the planner messages_finished, all of it, where
// its statistics are from a table that had nothing final.

// historyColumns are those of outbox.messages. A column that is missing here
// would be lost with its row: TestHistoryHasEveryColumn.
const historyColumns = `
	id, seq, destination, type, payload, content_type, headers, ordering_key, batch_id, callback, callback_state, callback_payload,
	callback_attempts, callback_error, callback_due_at, state, generation, claims, attempts, retrying, parked, started, cancel_requested, enqueued_at, due_at, available_at,
	expires_at, finished_at, dismissed_at, broker_message_id, last_error`

// toHistory moves the rows. History is a log: a message that was brought back from
// it, or enqueued again under its ID after the purge, and is final once more,
// becomes a second entry; neither end replaces the other. One statement moves a
// row once, whoever repeats it, so nothing has to look for conflicts. It reads
// nothing of the history, on which a dispatcher may do no more than insert.
const toHistory = `, moved AS (
    INSERT INTO outbox.history (` + historyColumns + `)
    SELECT ` + historyColumns + ` FROM purged
)`

// notePurge is the audit's entry of a purge by an operator ($5, $6): one for each
// chunk that found something. The schedule's purge writes none, nor may its role.
const notePurge = `, noted AS (
    INSERT INTO outbox.audit (act, who, why, detail)
    SELECT 'purge', $5::text, $6::text, pg_catalog.jsonb_build_object('state', $1::text, 'older_than', $2::interval::text, 'messages', count(*))
      FROM purged HAVING count(*) > 0
)`

// notePurgeDismissed is the same for a purge of dismissed messages.
var notePurgeDismissed = strings.Replace(notePurge, "'state', $1::text", "'state', $1::text, 'dismissed', true", 1)

// purgeOf is the statement that deletes a chunk, or moves it to outbox.history.
func purgeOf(clock, history, note string) string {
	returning := "m." + clock
	if history != "" {
		returning = "m.*"
	}
	return oldRows(clock) + " RETURNING " + returning + "\n)" + history + note + "\nSELECT count(*) AS rows, coalesce(max(" + clock + "), $3) AS up_to FROM purged"
}

var (
	purge       = purgeOf("finished_at", "", "")
	move        = purgeOf("finished_at", toHistory, "")
	purgeByHand = purgeOf("finished_at", "", notePurge)
	moveByHand  = purgeOf("finished_at", toHistory, notePurge)

	purgeDismissed       = purgeOf("dismissed_at", "", "")
	moveDismissed        = purgeOf("dismissed_at", toHistory, "")
	purgeDismissedByHand = purgeOf("dismissed_at", "", notePurgeDismissed)
	moveDismissedByHand  = purgeOf("dismissed_at", toHistory, notePurgeDismissed)
)

// PurgeMessages deletes one chunk of final messages, or moves it to
// outbox.history, in one statement. It never touches a message that is not final
// or whose callback is due. Several at a time are fine: each takes other rows. Not
// to be told what happened is harmless, too: what is deleted is not found again. A
// chunk that is too slow, by its own deadline or a timeout of the role or database,
// ends in an error that is context.DeadlineExceeded: a smaller one may not be.
func (s *Store) PurgeMessages(ctx context.Context, p outbox.Purge) (outbox.Purged, error) {
	return purgeChunk(ctx, s.pool, chosen(p, purge, move, purgeDismissed, moveDismissed), p)
}

// PurgeAs is PurgeMessages for an operator: the same statement notes in the audit what was deleted
// or moved, for who and why.
func (s *Store) PurgeAs(ctx context.Context, p outbox.Purge, who, why string) (outbox.Purged, error) {
	statement := chosen(p, purgeByHand, moveByHand, purgeDismissedByHand, moveDismissedByHand)
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

func purgeChunk(ctx context.Context, pool *database.Pool, statement string, p outbox.Purge, by ...any) (outbox.Purged, error) {
	if !p.State.Final() {
		return outbox.Purged{}, fmt.Errorf("purging messages: state: wants a final state (got %q)", p.State)
	}
	if p.Dismissed && p.State != outflow.Dead {
		return outbox.Purged{}, fmt.Errorf("purging messages: state: wants dead for dismissed messages (got %q)", p.State)
	}
	if p.Limit < 1 || p.OlderThan < 0 {
		return outbox.Purged{}, fmt.Errorf("purging %s messages: limit and age: want 1 or more rows and no negative age (got %d and %s)", p.State, p.Limit, p.OlderThan)
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

// purgeAudit looks at the oldest entries alone ($2 of them): their IDs rise with
// their time, which has no index.
const purgeAudit = `
DELETE FROM outbox.audit AS a
 USING (SELECT id FROM outbox.audit ORDER BY id LIMIT $2) AS oldest
 WHERE a.id = oldest.id AND a.at < now() - $1::interval`

// PurgeAudit deletes up to limit of the oldest audit entries, those older than
// the given age, and returns how many.
func (s *Store) PurgeAudit(ctx context.Context, olderThan time.Duration, limit int) (int, error) {
	return s.delete(ctx, "purging audit entries", purgeAudit, olderThan, limit)
}

// purgeDestinations forgets destinations and targets of which nothing was heard for $1:
// no delivery (a process that delivers says so once a day), no opening of the breaker. A
// row without any time says nothing: its destination once answered, and took no message.
// A breaker without messages would stay open for good, and every look for probes
// would pass over it. With the row goes the knowledge that the destination exists,
// so a message that still waits, for its time or for its destination, keeps it. Parked
// rows have no index by destination: theirs are collected once, where a row is idle.
const purgeDestinations = `
WITH parked AS MATERIALIZED (
    SELECT DISTINCT m.destination FROM outbox.messages AS m WHERE m.state = 'pending' AND m.parked
)
DELETE FROM outbox.destinations AS h
 WHERE h.destination IN (
       SELECT d.destination
         FROM outbox.destinations AS d
        WHERE coalesce(greatest(d.delivered_at, d.failing_since, d.open_until, d.recovered_at) < now() - $1::interval, true)
          AND NOT EXISTS (SELECT FROM outbox.messages AS m WHERE m.state = 'pending' AND NOT m.parked
                             AND m.destination >= d.covers_from AND m.destination < d.covers_before)
          AND NOT EXISTS (SELECT FROM parked AS p WHERE p.destination >= d.covers_from AND p.destination < d.covers_before)
        LIMIT $2
          FOR UPDATE SKIP LOCKED)`

// PurgeDestinations forgets up to limit destinations that no message waits for and
// of which nothing was heard for the given time, and returns how many.
func (s *Store) PurgeDestinations(ctx context.Context, idle time.Duration, limit int) (int, error) {
	return s.delete(ctx, "purging destinations", purgeDestinations, idle, limit)
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
