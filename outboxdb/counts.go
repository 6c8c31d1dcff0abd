package outboxdb

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// pendingCountsSQL counts pending messages by destination and phase. Beside the phases of a status:
//   - A retrying row whose lease is over is due: its run is lost.
//   - Rows that are due behind an open breaker, or for a missing destination, wait.
//   - Followers are counted by themselves: what they wait for is counted too, or has ended dead. Those
//     of a key whose release is deferred wait for a scanner.
const pendingCountsSQL = `
SELECT c.destination, CASE WHEN b.open OR w.missing THEN 0 ELSE c.due END AS due, c.delayed, c.leased, c.retrying,
       c.followers, c.waiting + CASE WHEN b.open OR w.missing THEN c.due ELSE 0 END AS waiting,
       coalesce(w.reason, c.last_error, b.last_error, '') AS last_error,
       w.missing AND w.looked AS missing,
       CASE WHEN w.missing AND NOT w.reached
            THEN extract(epoch FROM now() - greatest(c.oldest, w.since))::float8 ELSE 0 END AS missed_seconds
  FROM (SELECT m.destination, min(greatest(m.due_at, m.enqueued_at)) AS oldest,
               count(*) FILTER (WHERE m.phase = 'due')      AS due,
               count(*) FILTER (WHERE m.phase = 'delayed')  AS delayed,
               count(*) FILTER (WHERE m.phase = 'leased')   AS leased,
               count(*) FILTER (WHERE m.phase = 'retrying') AS retrying,
               count(*) FILTER (WHERE m.phase = 'waiting')  AS waiting,
               count(*) FILTER (WHERE m.phase = 'follower') AS followers,
               max(m.last_error) FILTER (WHERE m.retrying OR m.waits AND NOT m.follower) AS last_error
          FROM (SELECT m.destination, m.last_error, m.retrying, m.follower, m.due_at, m.enqueued_at,
                       ` + waitsSQL + ` AS waits,
                       CASE WHEN m.available_at <= now() THEN 'due'
                            WHEN m.follower AND (m.destination, m.ordering_key) IN (
                                 SELECT o.destination, o.ordering_key FROM outbox.deferred_releases AS o) THEN 'waiting'
                            WHEN m.follower THEN 'follower'
                            ELSE ` + PhaseSQL + ` END AS phase
                  FROM ` + PendingRowsSQL + ` AS m) AS m
         GROUP BY m.destination) AS c
 CROSS JOIN LATERAL (
       SELECT count(*) > 0 AS open, max(h.last_error) AS last_error
         FROM (SELECT c.destination) AS m, outbox.destinations AS h
        WHERE h.open_until IS NOT NULL AND ` + BreakersOfSQL + `) AS b
 CROSS JOIN LATERAL (
       SELECT count(*) > 0 AS missing,
              coalesce(bool_and(h.open_until IS NULL OR h.open_until > now()), false) AS looked,
              min(h.missing_since) AS since, min(h.missing_reason) AS reason,
              (SELECT p.delivered_at FROM outbox.destinations AS p
                WHERE p.destination = c.destination) IS NOT NULL AS reached
         FROM (SELECT c.destination) AS m, outbox.destinations AS h
        WHERE h.missing_since IS NOT NULL
          AND h.destination = ANY (ARRAY[m.destination, ` + schemeRowSQL + `])) AS w
 ORDER BY c.destination`

// PendingCounts counts the pending messages of one destination.
type PendingCounts struct {
	Destination string `db:"destination"`
	// Due messages wait for a scanner, Delayed ones for their time. Leased ones are on the fast
	// path. Retrying ones wait for a durable attempt, or are in one.
	Due      int `db:"due"`
	Delayed  int `db:"delayed"`
	Leased   int `db:"leased"`
	Retrying int `db:"retrying"`
	// Waiting messages have no run: a breaker of their destination is open, an attempt put them
	// back, or a scanner may not send to the destination.
	Waiting int `db:"waiting"`
	// Followers wait for the message before them of their ordering key.
	Followers int `db:"followers"`
	// LastError is that of a message that is retrying or waits.
	LastError string `db:"last_error"`
	// Missing says that the destination does not exist, as somebody found in the last seconds, or
	// that no running process publishes to its scheme. MissedSeconds is how long the longest of its
	// messages has waited for that; 0 where they wait without an end.
	Missing       bool    `db:"missing"`
	MissedSeconds float64 `db:"missed_seconds"`
}

// Pending counts the pending messages by destination. It reads every pending row: for an operator
// or an exit message, not for a loop.
func (s *Store) Pending(ctx context.Context) ([]PendingCounts, error) {
	rows, err := s.pool.Query(ctx, pendingCountsSQL)
	if err != nil {
		return nil, fmt.Errorf("counting pending messages: %w", err)
	}
	counts, err := pgx.CollectRows(rows, pgx.RowToStructByName[PendingCounts])
	if err != nil {
		return nil, fmt.Errorf("counting pending messages: %w", err)
	}
	return counts, nil
}
