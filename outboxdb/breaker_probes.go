package outboxdb

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/outbox"
)

const (
	// probeLease is how long a probe may take: a run's next attempt, its publish and the way of its
	// result here.
	probeLease = outflow.MaxCallTime + 10*time.Second
	// maxProbes bounds the breakers that one TakeProbes or TakeRecovered takes.
	maxProbes = 50
	// abandonedFor is how long a breaker stays open that no message waits for, and
	// abandonedInterval how often a process looks for such breakers.
	abandonedFor      = 2 * time.Minute
	abandonedInterval = 30 * time.Second
)

// mayProbeNewSQL says of m.destination that it may probe for its target's new destinations: no
// message has reached it, and it asked for no wait of its own. A scalar subquery, so that no
// planner hashes all destinations for it.
const mayProbeNewSQL = `(SELECT p.delivered_at IS NOT NULL OR p.open_until IS NOT NULL
               FROM outbox.destinations AS p WHERE p.destination = m.destination) IS NOT TRUE`

// speaksForSQL says that a message of m.destination may probe the breaker h: for a target's new
// destinations any that is new, for others any that asked for no wait of its own.
const speaksForSQL = `CASE WHEN h.destination LIKE '%#new' THEN ` + mayProbeNewSQL + `
              ELSE (SELECT p.retry_after_until > now() FROM outbox.destinations AS p
                     WHERE p.destination = m.destination) IS NOT TRUE END`

// behindSQL are the destinations of the breaker h with messages that wait without a run, in order.
// A loose index scan: the backlog of a destination costs as much as one message.
const behindSQL = behindHeadSQL + behindTailSQL

// behindNextSQL are those after the last probe's destination.
const behindNextSQL = behindHeadSQL + ` AND m.destination > coalesce(h.probe_destination, '')` + behindTailSQL

const behindHeadSQL = `
    SELECT m.destination
      FROM (WITH RECURSIVE turn AS (
                (SELECT m.destination FROM outbox.messages AS m
                  WHERE m.state = 'pending' AND NOT m.parked AND m.destination >= h.covers_from
                    AND m.destination < h.covers_before`

const behindTailSQL = `
                  ORDER BY m.destination LIMIT 1)
                UNION ALL
                SELECT next.destination
                  FROM turn AS t
                 CROSS JOIN LATERAL (
                       SELECT m.destination FROM outbox.messages AS m
                        WHERE m.state = 'pending' AND NOT m.parked AND m.destination > t.destination
                          AND m.destination < h.covers_before
                        ORDER BY m.destination LIMIT 1) AS next)
            SELECT t.destination FROM turn AS t) AS m
     WHERE ` + speaksForSQL

// hasProbeSQL has behindSQL leave out destinations without a message that may be a probe. It is no
// EXISTS, which a planner that expects few messages turns into a join with all of them.
const hasProbeSQL = `
       AND (SELECT true FROM outbox.messages AS w
             WHERE w.state = 'pending' AND NOT w.parked AND w.destination = m.destination
               AND w.available_at <= now() AND w.claims < 5
             ORDER BY w.available_at DESC LIMIT 1)`

// waitingProbeSQL is the message that would probe the breaker h and waits without a run: the newest
// message of the next destination after the last probe's. The newest is the least likely to have
// expired, and the index finds it past no dead rows.
const waitingProbeSQL = `
    SELECT w.destination, w.id, w.generation, w.available_at, false AS running
      FROM (SELECT turn.destination
              FROM ((` + behindNextSQL + hasProbeSQL + ` LIMIT 1)
                    UNION ALL
                    (` + behindSQL + hasProbeSQL + ` LIMIT 1)) AS turn
             LIMIT 1) AS d
     CROSS JOIN LATERAL (
           SELECT m.destination, m.id, m.generation, m.available_at FROM outbox.messages AS m
            WHERE m.state = 'pending' AND NOT m.parked AND m.destination = d.destination AND m.available_at <= now()
              AND m.claims < 5
            ORDER BY m.available_at DESC LIMIT 1) AS w`

// runningProbeSQL are the messages off the fast path that would probe the breaker h.
const runningProbeSQL = `
    SELECT m.destination, m.id, m.generation, m.available_at, true AS running FROM outbox.messages AS m
     WHERE m.retrying AND m.destination >= h.covers_from AND m.destination < h.covers_before
       AND ` + speaksForSQL

// takeProbesSQL chooses, for up to $1 breakers that may be probed, the message that probes each,
// for a lease of $2.
//   - A waiting message and one off the fast path take turns: those that are retried may fail
//     whatever the destination does, and would keep the breaker open for all others.
//   - A breaker is not probed while its target's is open.
//   - A breaker that no message waits for is not chosen: it takes the place of no other.
//   - $3 says whether destinations are meant that do not exist. They are chosen by themselves, so that
//     neither they nor the others wait for each other.
//   - Destinations of the schemes $4 are left to processes that publish to them, except for those of
//     $5, which this process publishes to. NULL: it may publish to any. An empty scheme in $4 stands
//     for any.
const takeProbesSQL = `
WITH chosen AS MATERIALIZED (
    SELECT h.destination AS breaker, c.*
      FROM outbox.destinations AS h
     CROSS JOIN LATERAL (
           (SELECT * FROM (` + waitingProbeSQL + `) AS first WHERE h.probes % 2 = 1)
           UNION ALL
           (` + runningProbeSQL + `
               AND (m.destination, m.id) > (coalesce(h.probe_destination, ''),
                   coalesce(h.probe_id, '00000000-0000-0000-0000-000000000000'))
             ORDER BY m.destination, m.id LIMIT 1)
           UNION ALL
           (` + runningProbeSQL + ` ORDER BY m.destination, m.id LIMIT 1)
           UNION ALL
           (` + waitingProbeSQL + `)
           LIMIT 1) AS c
     WHERE h.open_until <= now() AND (h.probe_until IS NULL OR h.probe_until <= now())
       AND (SELECT t.open_until FROM outbox.destinations AS t
             WHERE t.destination = substring(h.destination FROM '^` + schemesOfTargetsSQL + `://[^/#]*')
               AND t.destination <> h.destination) IS NULL
       AND (h.missing_since IS NOT NULL) = $3::boolean
       AND ($5::text[] IS NULL OR split_part(h.destination, '://', 1) = ANY ($5::text[])
            OR '' <> ALL ($4::text[]) AND split_part(h.destination, '://', 1) <> ALL ($4::text[]))
     ORDER BY h.open_until
     LIMIT $1
       FOR UPDATE OF h SKIP LOCKED
)
UPDATE outbox.destinations AS h
   SET probe_destination = c.destination, probe_id = c.id, probe_until = now() + $2::interval, probes = h.probes + 1
  FROM chosen AS c
 WHERE h.destination = ANY (ARRAY[c.breaker])
RETURNING c.destination, c.id, c.generation, c.available_at, c.running`

// endProbeSQL ends the lease of the probe $2 of the breakers $1, which said nothing about its
// destination: the message had expired, say. Another probe is chosen at once.
const endProbeSQL = `
UPDATE outbox.destinations AS h
   SET probe_until = NULL
 WHERE h.destination = ANY ($1::text[]) AND h.probe_id = $2 AND h.open_until IS NOT NULL`

// staleSQL says that the breaker h has counted failures, and would have opened by now: its messages
// have ended, or wait for something else.
const staleSQL = `h.open_until IS NULL AND h.failing_since < now() - interval '10 minutes'`

// closeAbandonedSQL closes breakers that could have been probed for $1 and that no message waits
// for: a message that was put back is due again within that time. Stale breakers forget their
// failures, and so do schemes that no message waits for.
const closeAbandonedSQL = `
WITH abandoned AS MATERIALIZED (
SELECT h.destination FROM outbox.destinations AS h
 WHERE (h.open_until < now() - $1::interval AND (h.probe_until IS NULL OR h.probe_until <= now()) OR ` + staleSQL + `
        OR h.open_until IS NULL AND h.missing_since < now() - $1::interval)
   AND NOT EXISTS (` + behindSQL + `)
   AND (SELECT true FROM (` + runningProbeSQL + `) AS r LIMIT 1) IS NULL
   FOR UPDATE SKIP LOCKED
)
UPDATE outbox.destinations AS h
   SET failures = 0, failing_since = NULL, openings = 0, open_until = NULL,
       probe_destination = NULL, probe_id = NULL, probe_until = NULL, last_error = NULL,
       missing_since = NULL, missing_reason = NULL
  FROM abandoned AS a
 WHERE h.destination = ANY (ARRAY[a.destination])`

// TakeProbes chooses the messages that probe the breakers which may be probed now, at most one for
// each, and leases the probing to the caller.
//   - A probe that is running is signalled by the caller, or released where its run is lost.
//   - A probe that waits is claimed by this Store's next Claim.
//   - Destinations that do not exist are left to TakeFound.
//
// Now and then it closes breakers that no message waits for. An error of that comes beside the
// probes.
func (s *Store) TakeProbes(ctx context.Context) ([]outbox.Probe, error) {
	abandonedErr := s.closeAbandoned(ctx)
	probes, err := s.takeProbes(ctx, false)
	if err != nil {
		return nil, errors.Join(abandonedErr, err)
	}
	s.breakers.addProbes(probes)
	return probes, abandonedErr
}

// TakeFound is TakeProbes for destinations that did not exist. It looks each up with look, and leaves
// those out that still do not exist. A nil look looks nothing up: then a message finds out. It takes
// looksTimeout at most.
func (s *Store) TakeFound(
	ctx context.Context, look func(ctx context.Context, destination string) error,
) ([]outbox.Probe, error) {
	probes, err := s.takeProbes(ctx, true)
	if err != nil {
		return nil, err
	}
	probes = s.lookUp(ctx, probes, look)
	s.breakers.addProbes(probes)
	return probes, nil
}

func (s *Store) takeProbes(ctx context.Context, missing bool) ([]outbox.Probe, error) {
	others, own, err := s.leftToOthers(ctx)
	if err != nil {
		return nil, fmt.Errorf("choosing probes: %w", err)
	}
	rows, err := s.pool.Query(ctx, takeProbesSQL, maxProbes, probeLease, missing, others, own)
	if err != nil {
		return nil, fmt.Errorf("choosing probes: %w", err)
	}
	probes, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (p outbox.Probe, err error) {
		return p, row.Scan(&p.Destination, &p.ID, &p.Generation, &p.LeasedUntil, &p.Running)
	})
	if err != nil {
		return nil, fmt.Errorf("choosing probes: %w", err)
	}
	return probes, nil
}

func (s *Store) closeAbandoned(ctx context.Context) error {
	if !s.breakers.looksForAbandoned() {
		return nil
	}
	if _, err := s.pool.Exec(ctx, closeAbandonedSQL, abandonedFor); err != nil {
		return fmt.Errorf("closing breakers that no message waits for: %w", err)
	}
	return nil
}

// looksForAbandoned reports whether it is time to look for abandoned breakers, and notes the look.
func (b *breakers) looksForAbandoned() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := time.Now()
	if now.Before(b.abandonedAt) {
		return false
	}
	b.abandonedAt = now.Add(abandonedInterval)
	return true
}

// addProbes keeps the probes that wait, for the next claim.
func (b *breakers) addProbes(probes []outbox.Probe) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, p := range probes {
		if !p.Running {
			b.probes = append(b.probes, p.ID)
		}
	}
}

// takeWaitingProbes returns these, once.
func (b *breakers) takeWaitingProbes() []uuid.UUID {
	b.mu.Lock()
	defer b.mu.Unlock()
	probes := b.probes
	b.probes = nil
	return probes
}

// keepProbes keeps probes that could not be claimed.
func (b *breakers) keepProbes(probes []uuid.UUID) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.probes = append(b.probes, probes...)
}
