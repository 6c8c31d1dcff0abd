package outboxdb

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/outflowhq/outflow"
)

// The breaker of a destination is a row of outbox.destinations, one for all
// processes. It opens after failuresToOpen failures with no success between
// them, and from then on nothing is sent but one probe at a time. Each opening
// doubles the time until the next probe, from firstOpening to lastOpening: short
// enough that a queue which is back waits a quarter of a minute at most, and long
// enough that one which is down for a day is asked some thousand times.
const (
	failuresToOpen = 5
	firstOpening   = time.Second
	lastOpening    = 15 * time.Second
	// longestAsked is the longest time for which a destination may ask to be left
	// alone altogether.
	longestAsked = time.Minute
	// probeLease is how long a probe may take: a run's next attempt, its publish
	// and the answer's way here.
	probeLease = 20 * time.Second
	// probesAtOnce bounds the destinations that one TakeProbes probes.
	probesAtOnce = 50
	// mostRetrying is how many messages of a failing destination may be off the
	// fast path. The others wait as rows, where waiting costs nothing.
	mostRetrying = 200
)

// takeProbes chooses, for up to $1 destinations whose breaker may be probed, the
// message that does it, for a lease of $2. One of those off the fast path, another
// than the last time, and one that waits take turns: those that are retried may be
// the ones which fail whatever the destination does, and would keep it closed to
// all others. The newest that waits is the least likely to have expired, and is
// found past no dead rows. Destinations with nothing to probe take no place of
// others: their breakers stay open until something comes.
const takeProbes = `
WITH chosen AS MATERIALIZED (
    SELECT h.destination, c.id, c.generation, c.available_at, c.running
      FROM outbox.destinations AS h
     CROSS JOIN LATERAL (
           (SELECT m.id, m.generation, m.available_at, false AS running FROM outbox.messages AS m
             WHERE h.probes % 2 = 1
               AND m.state = 'pending' AND m.destination = h.destination AND m.available_at <= now() AND m.claims < 5
             ORDER BY m.available_at DESC LIMIT 1)
           UNION ALL
           (SELECT m.id, m.generation, m.available_at, true FROM outbox.messages AS m
             WHERE m.retrying AND m.destination = h.destination AND m.id > coalesce(h.probe_id, '00000000-0000-0000-0000-000000000000')
             ORDER BY m.id LIMIT 1)
           UNION ALL
           (SELECT m.id, m.generation, m.available_at, true FROM outbox.messages AS m
             WHERE m.retrying AND m.destination = h.destination ORDER BY m.id LIMIT 1)
           UNION ALL
           (SELECT m.id, m.generation, m.available_at, false FROM outbox.messages AS m
             WHERE m.state = 'pending' AND m.destination = h.destination AND m.available_at <= now() AND m.claims < 5
             ORDER BY m.available_at DESC LIMIT 1)
           LIMIT 1) AS c
     WHERE h.open_until <= now() AND (h.probe_until IS NULL OR h.probe_until <= now())
     ORDER BY h.open_until
     LIMIT $1
       FOR UPDATE OF h SKIP LOCKED
)
UPDATE outbox.destinations AS h
   SET probe_id = c.id, probe_until = now() + $2::interval, probes = h.probes + 1
  FROM chosen AS c
 WHERE h.destination = c.destination
RETURNING h.destination, c.id, c.generation, c.available_at, c.running`

// giveBackProbe ends a probe's lease that has shown nothing of its destination: the
// message had expired, say. Another is chosen at once.
const giveBackProbe = `
UPDATE outbox.destinations AS h
   SET probe_until = NULL
 WHERE h.destination = $1 AND h.probe_id = $2 AND h.open_until IS NOT NULL`

// free makes a row claimable whose run is lost. The lease ($3) that was seen before
// Temporal was asked tells it from a later claim, whose start may be on its way.
const free = `
UPDATE outbox.messages AS m
   SET available_at = now()
 WHERE m.id = $1 AND m.generation = $2 AND m.available_at = $3 AND m.finished_at IS NULL`

// takeRecovered leases ($2) up to $1 destinations whose runs are to be told.
const takeRecovered = `
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
 WHERE h.destination = r.destination
RETURNING h.destination, h.recovered_at`

// forgetRecovered ends the telling, unless there has been another recovery.
const forgetRecovered = `
UPDATE outbox.destinations AS h
   SET recovered_at = NULL, probe_until = NULL, told_id = NULL
 WHERE h.destination = $1 AND h.recovered_at = $2`

// retryingOf takes the next $3 messages off the fast path of a destination that
// recovered ($2), as long as nothing has failed there since, and renews the lease of
// whoever tells their runs ($4). How far it has come stands in the row: a telling
// that a failure or a death ends goes on behind those who were told, since the first
// ones may be those that fail whatever the destination does.
const retryingOf = `
WITH here AS MATERIALIZED (
    SELECT h.destination, coalesce(h.told_id, '00000000-0000-0000-0000-000000000000') AS after
      FROM outbox.destinations AS h
     WHERE h.destination = $1 AND h.recovered_at = $2
       FOR UPDATE
), page AS MATERIALIZED (
    SELECT m.id, m.generation, m.available_at
      FROM here
     CROSS JOIN LATERAL (
           SELECT m.id, m.generation, m.available_at
             FROM outbox.messages AS m
            WHERE m.retrying AND m.destination = here.destination AND m.id > here.after
            ORDER BY m.id
            LIMIT $3) AS m
), told AS (
    UPDATE outbox.destinations AS h
       SET told_id = (SELECT p.id FROM page AS p ORDER BY p.id DESC LIMIT 1), probe_until = now() + $4::interval
     WHERE h.destination = $1 AND EXISTS (SELECT FROM page)
)
SELECT p.id, p.generation, p.available_at FROM page AS p ORDER BY p.id`

// TakeProbes chooses the messages that probe the destinations whose breakers may
// be probed now, at most one each, and leases the probing to the caller: it tells
// a running one's run, or frees it where that run is lost.
func (s *Store) TakeProbes(ctx context.Context) ([]outflow.Probe, error) {
	rows, err := s.pool.Query(ctx, takeProbes, probesAtOnce, probeLease)
	if err != nil {
		return nil, fmt.Errorf("choosing probes: %w", err)
	}
	probes, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (p outflow.Probe, err error) {
		return p, row.Scan(&p.Destination, &p.ID, &p.Generation, &p.LeasedUntil, &p.Running)
	})
	if err != nil {
		return nil, fmt.Errorf("choosing probes: %w", err)
	}
	return probes, nil
}

// Free makes a message claimable whose run is lost, unless its lease has been moved
// since it was seen.
func (s *Store) Free(ctx context.Context, m outflow.Leased) error {
	if _, err := s.pool.Exec(ctx, free, m.ID, m.Generation, m.LeasedUntil); err != nil {
		return fmt.Errorf("freeing message %s: %w", m.ID, err)
	}
	return nil
}

// TakeRecovered leases to the caller some destinations whose breakers closed and
// whose runs are still to be told.
func (s *Store) TakeRecovered(ctx context.Context) ([]outflow.Recovered, error) {
	rows, err := s.pool.Query(ctx, takeRecovered, probesAtOnce, probeLease)
	if err != nil {
		return nil, fmt.Errorf("looking for recovered destinations: %w", err)
	}
	recovered, err := pgx.CollectRows(rows, pgx.RowToStructByPos[outflow.Recovered])
	if err != nil {
		return nil, fmt.Errorf("looking for recovered destinations: %w", err)
	}
	return recovered, nil
}

// ForgetRecovered ends the telling, unless the destination recovered once more.
func (s *Store) ForgetRecovered(ctx context.Context, r outflow.Recovered) error {
	if _, err := s.pool.Exec(ctx, forgetRecovered, r.Destination, r.At); err != nil {
		return fmt.Errorf("ending the recovery of %s: %w", r.Destination, err)
	}
	return nil
}

// Retrying returns the next messages, by ID, of a recovered destination that are off
// the fast path, limit at most: nobody is given them again until it recovers once
// more. There are none once something has failed there again.
func (s *Store) Retrying(ctx context.Context, r outflow.Recovered, limit int) ([]outflow.Leased, error) {
	rows, err := s.pool.Query(ctx, retryingOf, r.Destination, r.At, limit, probeLease)
	if err != nil {
		return nil, fmt.Errorf("listing the retrying messages of %s: %w", r.Destination, err)
	}
	leased, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (m outflow.Leased, err error) {
		return m, row.Scan(&m.ID, &m.Generation, &m.LeasedUntil)
	})
	if err != nil {
		return nil, fmt.Errorf("listing the retrying messages of %s: %w", r.Destination, err)
	}
	return leased, nil
}
