package outboxdb

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/outbox"
)

// takeRecoveredSQL leases ($2) up to $1 breakers whose runs are to be signalled: they closed, or
// their destination was found not to exist.
const takeRecoveredSQL = `
WITH recovered AS MATERIALIZED (
    SELECT h.destination
      FROM outbox.destinations AS h
     WHERE h.recovered_at IS NOT NULL AND (h.probe_until IS NULL OR h.probe_until <= now())
     LIMIT $1
       FOR UPDATE SKIP LOCKED
)
UPDATE outbox.destinations AS h
   SET probe_until = now() + $2::interval
  FROM recovered AS r
 WHERE h.destination = ANY (ARRAY[r.destination])
RETURNING h.destination, h.recovered_at, h.missing_since IS NOT NULL`

// forgetRecoveredSQL ends the signalling of a recovery ($2), unless there has been a later one.
const forgetRecoveredSQL = `
UPDATE outbox.destinations AS h
   SET recovered_at = NULL, probe_until = NULL, signalled_destination = NULL, signalled_id = NULL
 WHERE h.destination = $1 AND h.recovered_at = $2`

// retryingSQL takes the next $3 messages off the fast path behind the breaker $1, which recovered
// at $2, as long as nothing has failed there since. It renews the lease ($4) of the scanner that
// signals their runs. The row keeps how far that has come, so that the next scanner goes on behind
// it: the first runs may be those that fail whatever the destination does.
const retryingSQL = `
WITH here AS MATERIALIZED (
    SELECT h.destination, h.covers_from, h.covers_before, coalesce(h.signalled_destination, '') AS after_destination,
           coalesce(h.signalled_id, '00000000-0000-0000-0000-000000000000') AS after_id
      FROM outbox.destinations AS h
     WHERE h.destination = $1 AND h.recovered_at = $2
       FOR UPDATE
), page AS MATERIALIZED (
    SELECT m.destination, m.id, m.generation, m.available_at
      FROM here AS h
     CROSS JOIN LATERAL (
           SELECT m.destination, m.id, m.generation, m.available_at
             FROM outbox.messages AS m
            WHERE m.retrying AND m.destination >= h.covers_from AND m.destination < h.covers_before
              AND ` + speaksForSQL + `
              AND (m.destination, m.id) > (h.after_destination, h.after_id)
            ORDER BY m.destination, m.id
            LIMIT $3) AS m
), signalled AS (
    UPDATE outbox.destinations AS h
       SET (signalled_destination, signalled_id) = (
               SELECT p.destination, p.id FROM page AS p ORDER BY p.destination DESC, p.id DESC LIMIT 1),
           probe_until = now() + $4::interval
     WHERE h.destination = $1 AND EXISTS (SELECT FROM page)
)
SELECT p.id, p.generation, p.available_at FROM page AS p ORDER BY p.destination, p.id`

// TakeRecovered leases to the caller some breakers that closed and whose runs are still to be
// signalled.
func (s *Store) TakeRecovered(ctx context.Context) ([]outbox.Recovered, error) {
	rows, err := s.pool.Query(ctx, takeRecoveredSQL, maxProbes, probeLease)
	if err != nil {
		return nil, fmt.Errorf("looking for recovered destinations: %w", err)
	}
	recovered, err := pgx.CollectRows(rows, pgx.RowToStructByPos[outbox.Recovered])
	if err != nil {
		return nil, fmt.Errorf("looking for recovered destinations: %w", err)
	}
	return recovered, nil
}

// ForgetRecovered ends the signalling of a recovery, unless the destination recovered once more.
func (s *Store) ForgetRecovered(ctx context.Context, r outbox.Recovered) error {
	if _, err := s.pool.Exec(ctx, forgetRecoveredSQL, r.Destination, r.At); err != nil {
		return fmt.Errorf("ending the recovery of %s: %w", outflow.DisplayDestination(r.Destination), err)
	}
	return nil
}

// Retrying returns the next messages of a recovered destination that are off the fast path, by ID
// and at most limit. Each is returned once for a recovery. There are none once something has failed
// there again.
func (s *Store) Retrying(ctx context.Context, r outbox.Recovered, limit int) ([]outbox.Leased, error) {
	rows, err := s.pool.Query(ctx, retryingSQL, r.Destination, r.At, limit, probeLease)
	if err != nil {
		return nil, listing(r, err)
	}
	leased, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (m outbox.Leased, err error) {
		return m, row.Scan(&m.ID, &m.Generation, &m.LeasedUntil)
	})
	if err != nil {
		return nil, listing(r, err)
	}
	return leased, nil
}

func listing(r outbox.Recovered, err error) error {
	return fmt.Errorf("listing the retrying messages of %s: %w", outflow.DisplayDestination(r.Destination), err)
}
