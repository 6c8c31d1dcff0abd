package outboxdb

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/outbox"
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
	// probeLease is how long a probe may take: a run's next attempt, its publish
	// and the answer's way here.
	probeLease = outflow.MaxCallTime + 10*time.Second
	// probesAtOnce bounds the destinations that one TakeProbes probes.
	probesAtOnce = 50
	// mostRetrying is how many messages of a failing target may be off the fast path,
	// whatever the number of its destinations. The others wait as rows, where waiting
	// costs nothing.
	mostRetrying = 200
	// abandonedFor is how long a breaker stays open behind which nothing waits, and
	// abandonedEvery how often a process looks for such breakers.
	abandonedFor   = 2 * time.Minute
	abandonedEvery = 30 * time.Second
)

// isNew tells of m.destination that it may probe for the new destinations of its target: no
// message has reached it, and it is not closed itself, for a wait that it asked for. A
// scalar, so that no planner hashes all destinations for it.
const isNew = `(SELECT p.delivered_at IS NOT NULL OR p.open_until IS NOT NULL FROM outbox.destinations AS p WHERE p.destination = m.destination) IS NOT TRUE`

// speaksFor tells whether m.destination says how the breaker h does: for a target's new
// destinations any that is new, for others any that has not asked for a wait of its own.
const speaksFor = `CASE WHEN h.destination LIKE '%#new' THEN ` + isNew + `
              ELSE (SELECT p.asked_until > now() FROM outbox.destinations AS p WHERE p.destination = m.destination) IS NOT TRUE END`

// behind are the destinations of the breaker h with messages that wait without a run, in
// order. A loose index scan: the backlog of one destination costs as much as one message.
const behind = behindHead + behindTail

// behindNext are those behind the last probe's destination.
const behindNext = behindHead + ` AND m.destination > coalesce(h.probe_of, '')` + behindTail

const behindHead = `
    SELECT m.destination
      FROM (WITH RECURSIVE turn AS (
                (SELECT m.destination FROM outbox.messages AS m
                  WHERE m.state = 'pending' AND NOT m.parked AND m.destination >= h.covers_from AND m.destination < h.covers_before`

const behindTail = `
                  ORDER BY m.destination LIMIT 1)
                UNION ALL
                SELECT next.destination
                  FROM turn AS t
                 CROSS JOIN LATERAL (
                       SELECT m.destination FROM outbox.messages AS m
                        WHERE m.state = 'pending' AND NOT m.parked AND m.destination > t.destination AND m.destination < h.covers_before
                        ORDER BY m.destination LIMIT 1) AS next)
            SELECT t.destination FROM turn AS t) AS m
     WHERE ` + speaksFor

// mayProbe has "behind" leave out destinations of which no message may be a probe.
const mayProbe = `
       AND EXISTS (SELECT FROM outbox.messages AS w
                    WHERE w.state = 'pending' AND NOT w.parked AND w.destination = m.destination AND w.available_at <= now() AND w.claims < 5)`

// waitingProbe is the message that waits, with no run, and would probe the breaker h: of
// the next destination behind the last probe's, the newest message. It is the least
// likely to have expired, and is found past no dead rows.
const waitingProbe = `
    SELECT w.destination, w.id, w.generation, w.available_at, false AS running
      FROM (SELECT turn.destination
              FROM ((` + behindNext + mayProbe + ` LIMIT 1)
                    UNION ALL
                    (` + behind + mayProbe + ` LIMIT 1)) AS turn
             LIMIT 1) AS d
     CROSS JOIN LATERAL (
           SELECT m.destination, m.id, m.generation, m.available_at FROM outbox.messages AS m
            WHERE m.state = 'pending' AND NOT m.parked AND m.destination = d.destination AND m.available_at <= now() AND m.claims < 5
            ORDER BY m.available_at DESC LIMIT 1) AS w`

// runningProbe is the next message off the fast path that would probe the breaker h.
const runningProbe = `
    SELECT m.destination, m.id, m.generation, m.available_at, true AS running FROM outbox.messages AS m
     WHERE m.retrying AND m.destination >= h.covers_from AND m.destination < h.covers_before
       AND ` + speaksFor

// takeProbes chooses, for up to $1 breakers that may be probed, the message that does
// it, for a lease of $2. A message that waits and one off the fast path take turns:
// those that are retried may fail whatever the destination does, and would keep it closed
// to all others. A breaker is not probed while its target's is open, nor where nothing
// is behind it: it takes no place of others.
const takeProbes = `
WITH chosen AS MATERIALIZED (
    SELECT h.destination AS breaker, c.*
      FROM outbox.destinations AS h
     CROSS JOIN LATERAL (
           (SELECT * FROM (` + waitingProbe + `) AS first WHERE h.probes % 2 = 1)
           UNION ALL
           (` + runningProbe + `
               AND (m.destination, m.id) > (coalesce(h.probe_of, ''), coalesce(h.probe_id, '00000000-0000-0000-0000-000000000000'))
             ORDER BY m.destination, m.id LIMIT 1)
           UNION ALL
           (` + runningProbe + ` ORDER BY m.destination, m.id LIMIT 1)
           UNION ALL
           (` + waitingProbe + `)
           LIMIT 1) AS c
     WHERE h.open_until <= now() AND (h.probe_until IS NULL OR h.probe_until <= now())
       AND (SELECT t.open_until FROM outbox.destinations AS t
             WHERE t.destination = substring(h.destination FROM '^(?:https?|rabbitmq)://[^/#]*') AND t.destination <> h.destination) IS NULL
     ORDER BY h.open_until
     LIMIT $1
       FOR UPDATE OF h SKIP LOCKED
)
UPDATE outbox.destinations AS h
   SET probe_of = c.destination, probe_id = c.id, probe_until = now() + $2::interval, probes = h.probes + 1
  FROM chosen AS c
 WHERE h.destination = c.breaker
RETURNING c.destination, c.id, c.generation, c.available_at, c.running`

// stale tells of a breaker h that has counted failures, has not opened, and would have by
// now: its messages have ended, or wait for something else.
const stale = `h.open_until IS NULL AND h.failing_since < now() - interval '10 minutes'`

// closeAbandoned closes breakers that have been ready for a probe for $1 and have no
// message behind them. One that was put back is due again within that time. Those that
// are stale forget their failures.
const closeAbandoned = `
WITH abandoned AS MATERIALIZED (
SELECT h.destination FROM outbox.destinations AS h
 WHERE (h.open_until < now() - $1::interval AND (h.probe_until IS NULL OR h.probe_until <= now()) OR ` + stale + `)
   AND NOT EXISTS (` + behind + `)
   AND NOT EXISTS (` + runningProbe + `)
   FOR UPDATE SKIP LOCKED
)
UPDATE outbox.destinations AS h
   SET failures = 0, failing_since = NULL, openings = 0, open_until = NULL, probe_of = NULL, probe_id = NULL, probe_until = NULL, last_error = NULL
  FROM abandoned AS a
 WHERE h.destination = a.destination`

// giveBackProbe ends a probe's lease that has shown nothing of its destination: the
// message had expired, say. Another is chosen at once.
const giveBackProbe = `
UPDATE outbox.destinations AS h
   SET probe_until = NULL
 WHERE h.destination = ANY ($1::text[]) AND h.probe_id = $2 AND h.open_until IS NOT NULL`

// free makes a row claimable whose run is lost. The lease ($3) that was seen before
// Temporal was asked tells it from a later claim, whose start may be on its way.
const free = `
UPDATE outbox.messages AS m
   SET available_at = now(), parked = false
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
   SET recovered_at = NULL, probe_until = NULL, told_of = NULL, told_id = NULL
 WHERE h.destination = $1 AND h.recovered_at = $2`

// retryingOf takes the next $3 messages off the fast path of a destination that
// recovered ($2), as long as nothing has failed there since, and renews the lease of
// whoever tells their runs ($4). How far it has come stands in the row: a telling
// that a failure or a death ends goes on behind those who were told, since the first
// ones may be those that fail whatever the destination does.
const retryingOf = `
WITH here AS MATERIALIZED (
    SELECT h.destination, h.covers_from, h.covers_before, coalesce(h.told_of, '') AS after_of,
           coalesce(h.told_id, '00000000-0000-0000-0000-000000000000') AS after
      FROM outbox.destinations AS h
     WHERE h.destination = $1 AND h.recovered_at = $2
       FOR UPDATE
), page AS MATERIALIZED (
    SELECT m.destination, m.id, m.generation, m.available_at
      FROM here AS h
     CROSS JOIN LATERAL (
           SELECT m.destination, m.id, m.generation, m.available_at
             FROM outbox.messages AS m
            WHERE m.retrying AND m.destination >= h.covers_from AND m.destination < h.covers_before AND ` + speaksFor + `
              AND (m.destination, m.id) > (h.after_of, h.after)
            ORDER BY m.destination, m.id
            LIMIT $3) AS m
), told AS (
    UPDATE outbox.destinations AS h
       SET (told_of, told_id) = (SELECT p.destination, p.id FROM page AS p ORDER BY p.destination DESC, p.id DESC LIMIT 1),
           probe_until = now() + $4::interval
     WHERE h.destination = $1 AND EXISTS (SELECT FROM page)
)
SELECT p.id, p.generation, p.available_at FROM page AS p ORDER BY p.destination, p.id`

// TakeProbes chooses the messages that probe the breakers which may be probed now, at
// most one each, and leases the probing to the caller: it signals a running one's run, or
// frees it where that run is lost. One that waits is this Store's next claim's. Now and
// then it closes breakers behind which nothing waits; where that fails, it returns the
// error beside the probes.
func (s *Store) TakeProbes(ctx context.Context) ([]outbox.Probe, error) {
	abandonedErr := s.closeAbandoned(ctx)
	rows, err := s.pool.Query(ctx, takeProbes, probesAtOnce, probeLease)
	if err != nil {
		return nil, errors.Join(abandonedErr, fmt.Errorf("choosing probes: %w", err))
	}
	probes, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (p outbox.Probe, err error) {
		return p, row.Scan(&p.Destination, &p.ID, &p.Generation, &p.LeasedUntil, &p.Running)
	})
	if err != nil {
		return nil, errors.Join(abandonedErr, fmt.Errorf("choosing probes: %w", err))
	}
	s.destinations.choose(probes)
	return probes, abandonedErr
}

func (s *Store) closeAbandoned(ctx context.Context) error {
	if !s.destinations.looksForAbandoned() {
		return nil
	}
	if _, err := s.pool.Exec(ctx, closeAbandoned, abandonedFor); err != nil {
		return fmt.Errorf("closing breakers with nothing behind them: %w", err)
	}
	return nil
}

// Free makes a message claimable whose run is lost, unless its lease has been moved
// since it was seen.
func (s *Store) Free(ctx context.Context, m outbox.Leased) error {
	if _, err := s.pool.Exec(ctx, free, m.ID, m.Generation, m.LeasedUntil); err != nil {
		return fmt.Errorf("freeing message %s: %w", m.ID, err)
	}
	return nil
}

// TakeRecovered leases to the caller some destinations whose breakers closed and
// whose runs are still to be told.
func (s *Store) TakeRecovered(ctx context.Context) ([]outbox.Recovered, error) {
	rows, err := s.pool.Query(ctx, takeRecovered, probesAtOnce, probeLease)
	if err != nil {
		return nil, fmt.Errorf("looking for recovered destinations: %w", err)
	}
	recovered, err := pgx.CollectRows(rows, pgx.RowToStructByPos[outbox.Recovered])
	if err != nil {
		return nil, fmt.Errorf("looking for recovered destinations: %w", err)
	}
	return recovered, nil
}

// ForgetRecovered ends the telling, unless the destination recovered once more.
func (s *Store) ForgetRecovered(ctx context.Context, r outbox.Recovered) error {
	if _, err := s.pool.Exec(ctx, forgetRecovered, r.Destination, r.At); err != nil {
		return fmt.Errorf("ending the recovery of %s: %w", outflow.DisplayDestination(r.Destination), err)
	}
	return nil
}

// Retrying returns the next messages, by ID, of a recovered destination that are off
// the fast path, limit at most: nobody is given them again until it recovers once
// more. There are none once something has failed there again.
func (s *Store) Retrying(ctx context.Context, r outbox.Recovered, limit int) ([]outbox.Leased, error) {
	rows, err := s.pool.Query(ctx, retryingOf, r.Destination, r.At, limit, probeLease)
	if err != nil {
		return nil, fmt.Errorf("listing the retrying messages of %s: %w", outflow.DisplayDestination(r.Destination), err)
	}
	leased, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (m outbox.Leased, err error) {
		return m, row.Scan(&m.ID, &m.Generation, &m.LeasedUntil)
	})
	if err != nil {
		return nil, fmt.Errorf("listing the retrying messages of %s: %w", outflow.DisplayDestination(r.Destination), err)
	}
	return leased, nil
}
