package outboxdb

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// pendingCountsSQL counts pending messages by destination and phase. Beside the phases of a status:
//   - A retrying row whose lease is over is due: its run is lost.
//   - Rows that are due behind an open breaker wait.
const pendingCountsSQL = `
SELECT c.destination, CASE WHEN b.open THEN 0 ELSE c.due END AS due, c.delayed, c.leased, c.retrying,
       c.waiting + CASE WHEN b.open THEN c.due ELSE 0 END AS waiting,
       coalesce(c.last_error, b.last_error, '') AS last_error
  FROM (SELECT m.destination,
               count(*) FILTER (WHERE m.phase = 'due')      AS due,
               count(*) FILTER (WHERE m.phase = 'delayed')  AS delayed,
               count(*) FILTER (WHERE m.phase = 'leased')   AS leased,
               count(*) FILTER (WHERE m.phase = 'retrying') AS retrying,
               count(*) FILTER (WHERE m.phase = 'waiting')  AS waiting,
               max(m.last_error) FILTER (WHERE m.retrying OR m.waits) AS last_error
          FROM (SELECT m.destination, m.last_error, m.retrying, ` + waitsSQL + ` AS waits,
                       CASE WHEN m.available_at <= now() THEN 'due' ELSE ` + PhaseSQL + ` END AS phase
                  FROM ` + PendingRowsSQL + ` AS m) AS m
         GROUP BY m.destination) AS c
 CROSS JOIN LATERAL (
       SELECT count(*) > 0 AS open, max(h.last_error) AS last_error
         FROM (SELECT c.destination) AS m, outbox.destinations AS h
        WHERE h.open_until IS NOT NULL AND ` + BreakersOfSQL + `) AS b
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
	// LastError is that of a message that is retrying or waits.
	LastError string `db:"last_error"`
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
