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

const (
	// heldBackFor is how long messages are parked whose destination this process can't send to.
	// heldBackRows bounds a statement that parks them, and heldBackInterval is the shortest time
	// between two: a million such messages cost no more than these.
	heldBackFor      = time.Minute
	heldBackRows     = 1000
	heldBackInterval = time.Second
)

// holdBackSQL parks up to $4 due rows of the destinations $1 for $3, with the reason ($2): this
// process can't send to them, and a run would find out no more. It returns rows that have expired
// or were cancelled: no run will find them.
const holdBackSQL = `
WITH due AS MATERIALIZED (
    SELECT next.*, d.reason
      FROM unnest($1::text[], $2::text[]) AS d (destination, reason)
     CROSS JOIN LATERAL (
           SELECT m.id, m.generation, m.cancel_requested, m.cancel_requested OR (m.expires_at <= now()) IS TRUE AS over
             FROM outbox.messages AS m
            WHERE m.state = 'pending' AND NOT m.parked AND m.destination = d.destination AND m.available_at <= now()
            ORDER BY m.available_at
            LIMIT (SELECT $4::int)
              FOR NO KEY UPDATE SKIP LOCKED) AS next
     LIMIT (SELECT $4::int)
), held AS (
    UPDATE outbox.messages AS m
       SET available_at = least(now() + $3::interval, m.expires_at), parked = true, last_error = d.reason
      FROM unnest(ARRAY(SELECT id FROM due WHERE NOT over), ARRAY(SELECT reason FROM due WHERE NOT over))
          AS d (id, reason)
     WHERE m.id = ANY (ARRAY[d.id])
)
SELECT d.id, d.generation, CASE WHEN d.cancel_requested THEN 'cancelled' ELSE 'expired' END AS state, d.reason
  FROM due AS d WHERE d.over`

// holdBack parks due messages whose destinations the caller refuses, and ends those that have
// expired or were cancelled.
func (s *Store) holdBack(ctx context.Context, refused map[string]error) error {
	if len(refused) == 0 || time.Since(s.walk.heldBackAt) < heldBackInterval {
		return nil
	}
	s.walk.heldBackAt = time.Now()
	var destinations, reasons []string
	for destination, err := range refused {
		destinations = append(destinations, destination)
		reasons = append(reasons, text.Clean(err.Error()))
	}
	rows, err := s.pool.Query(ctx, holdBackSQL, destinations, reasons, heldBackFor, heldBackRows)
	if err != nil {
		return fmt.Errorf("holding back messages of %d destinations: %w", len(destinations), err)
	}
	over, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (e outbox.Ending, err error) {
		return e, row.Scan(&e.ID, &e.Generation, &e.State, &e.LastError)
	})
	if err != nil {
		return fmt.Errorf("holding back messages of %d destinations: %w", len(destinations), err)
	}
	if len(over) == 0 {
		return nil
	}
	var errs []error
	for i, result := range s.finishAll(ctx, over) {
		if result.Err != nil && !errors.Is(result.Err, outflow.ErrNotFound) && !errors.Is(result.Err, outbox.ErrLocked) {
			errs = append(errs, fmt.Errorf("marking message %s %s: %w", over[i].ID, over[i].State, result.Err))
		}
	}
	return errors.Join(errs...)
}
