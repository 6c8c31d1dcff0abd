package outboxdb

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/outbox"
)

const (
	// endMissingRows bounds a statement that ends messages whose grace is over, and
	// endMissingInterval is the shortest time between two: a hundred thousand such messages end
	// within two minutes, and take no time from others.
	endMissingRows     = 1000
	endMissingInterval = time.Second
	// endMissingTimeout bounds it, because a claim waits for it: as long as for rows that become due.
	endMissingTimeout = unparkTimeout
)

// isSchemeSQL says that a row h of outbox.destinations is about a scheme, and schemeRowSQL is the name of
// that row for m.destination. A destination always has "//".
const (
	isSchemeSQL  = `h.destination NOT LIKE '%//%'`
	schemeRowSQL = `split_part(m.destination, '://', 1) || ':'`
)

// unservedSQL says of a row h of outbox.destinations about a scheme that no running process publishes
// to it; of any other row nothing.
const unservedSQL = `
    (NOT ` + isSchemeSQL + ` OR NOT EXISTS (
        SELECT FROM outbox.processes AS p
         WHERE ` + RunsSQL + `
           AND (p.schemes IS NULL OR rtrim(h.destination, ':') = ANY (p.schemes))))`

// MissingOfSQL is why messages to m.destination wait, where that is known: the destination does not
// exist, or no running process publishes to its scheme. A scalar subquery, so that no planner hashes
// all destinations for it.
const MissingOfSQL = `
    (SELECT min(h.missing_reason) FROM outbox.destinations AS h
      WHERE h.missing_since IS NOT NULL
        AND h.destination = ANY (ARRAY[m.destination, ` + schemeRowSQL + `]))`

// noteUnservedSQL notes the schemes $1 ("sns:") that no running process publishes to.
const noteUnservedSQL = `
INSERT INTO outbox.destinations AS d (destination, missing_since, missing_reason)
SELECT h.destination, now(), 'no running starter or worker publishes to ' || h.destination ||
       '// (start one that does, or redirect the messages; retry those that ended dead)'
  FROM pg_catalog.unnest($1::text[]) AS h (destination)
 WHERE ` + unservedSQL + `
ON CONFLICT (destination) DO UPDATE
   SET missing_since = now(), missing_reason = excluded.missing_reason
 WHERE d.missing_since IS NULL`

// missingAtSQL is when the row h of outbox.destinations, which is missing, was last found so, for a
// grace of $1; NULL where that is too long ago. Messages end whose grace was over by then: while no
// starter ran, somebody may have made the destination.
//   - A destination was looked up or tried, or its target failed, within the last minute.
//   - Nobody publishes to a scheme, though processes have had time to start: half a minute.
const missingAtSQL = `
    CASE WHEN NOT ` + isSchemeSQL + ` THEN (
              SELECT max(b.failed_at) FROM outbox.destinations AS b
               WHERE b.destination = ANY (ARRAY[h.destination,
                         substring(h.destination FROM '^` + schemesOfTargetsSQL + `://[^/]*')])
                 AND b.open_until IS NOT NULL AND b.failed_at > now() - interval '1 minute')
         WHEN ` + unservedSQL + ` AND EXISTS (
              SELECT FROM outbox.processes AS p
               WHERE ` + RunsSQL + ` AND p.started_at <= now() - least($1::interval, interval '30 seconds'))
         THEN now() END`

// endMissingSQL ends up to $2 messages that have waited for $1: since they were due, and since their
// destination, or their scheme, was found missing. A destination that was reached before is waited
// for without an end.
//   - A row's available_at is never before its due_at. So those that have waited long enough stand
//     first in their destination's part of the index, but for a few that were claimed meanwhile.
//   - A message that had expired by then, or was cancelled, ends so.
//   - Leased rows are parked: their runs write their ends.
//   - $3 says whether a dead head blocks its ordering key.
const endMissingSQL = `
WITH locked AS MATERIALIZED (
    SELECT next.*, h.missing_reason
      FROM outbox.destinations AS h
     CROSS JOIN LATERAL (SELECT ` + missingAtSQL + ` - $1::interval AS since) AS missed
     CROSS JOIN LATERAL (` + behindSQL + `) AS d
     CROSS JOIN LATERAL (
           SELECT m.id, m.generation, m.head, m.cancel_requested, (m.expires_at <= now()) IS TRUE AS expired
             FROM outbox.messages AS m
            WHERE m.state = 'pending' AND NOT m.parked AND m.destination = d.destination
              AND m.available_at <= missed.since AND greatest(m.due_at, m.enqueued_at) <= missed.since
            ORDER BY m.available_at
            LIMIT (SELECT $2::int)
              FOR NO KEY UPDATE SKIP LOCKED) AS next
     WHERE h.missing_since <= missed.since
       AND (SELECT p.delivered_at FROM outbox.destinations AS p WHERE p.destination = d.destination) IS NULL
     LIMIT (SELECT $2::int)
), ends AS (
    SELECT l.id, l.generation,
           CASE WHEN l.cancel_requested THEN 'cancelled' WHEN l.expired THEN 'expired' ELSE 'dead' END AS state,
           0 AS attempts, NULL::text AS broker_message_id, l.missing_reason AS last_error,
           interval '0' AS callback_in, $3::boolean AS blocks, l.head AS was_head
      FROM locked AS l
)` + endingSQL + endRowsSQL + outcomeColumnsSQL + endedSQL + `
SELECT e.*, ` + releasedSQL + ` FROM ended AS e WHERE ` + notifiedSQL

// missingNow is what a Store knows of destinations that messages wait for, between claims.
type missingNow struct {
	any     bool              // by the last walk: some messages may wait for a missing destination
	reasons map[string]string // by the last walk, of the marks' destinations
	// unserved are schemes that neither this process nor another running one publishes to, and when
	// that was last found. A walk visits few of their destinations.
	unserved map[string]time.Time
	served   map[string]outbox.Served // by scheme, as it was last read
	endAt    time.Time                // when to look next for messages whose grace is over
}

// endMissing ends messages whose grace is over, now and then.
func (s *Store) endMissing(ctx context.Context, grace time.Duration) ([]outflow.Outcome, error) {
	w := &s.walk.missing
	if !w.any || time.Now().Before(w.endAt) {
		return nil, nil
	}
	began := time.Now()
	ended, err := s.endMissingRows(ctx, grace)
	w.endAt = time.Now().Add(max(endMissingInterval, walkShare*time.Since(began)))
	if err != nil {
		return nil, fmt.Errorf("ending messages that waited for a missing destination: %w", err)
	}
	return ended, nil
}

func (s *Store) endMissingRows(ctx context.Context, grace time.Duration) ([]outflow.Outcome, error) {
	ctx, cancel := context.WithTimeout(ctx, endMissingTimeout)
	defer cancel()
	rows, err := s.pool.Query(ctx, endMissingSQL, grace, endMissingRows, s.blocks)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(r pgx.CollectableRow) (outflow.Outcome, error) {
		found, err := pgx.RowToStructByNameLax[row](r)
		return found.record().Outcome(), err
	})
}

// noteUnserved looks which other processes publish to destinations that the caller has no publisher
// for: its next claim takes messages that a worker can send. Where no process publishes to a scheme,
// that is noted.
func (s *Store) noteUnserved(ctx context.Context, unpublished map[string]error) error {
	if len(unpublished) == 0 {
		return nil
	}
	w := &s.walk.missing
	served, err := s.servedSchemes(ctx)
	if err != nil {
		return err
	}
	w.served = served
	if w.unserved == nil {
		w.unserved = map[string]time.Time{}
	}
	var names []string
	for destination := range unpublished {
		scheme := outbox.SchemeOf(destination)
		switch {
		case servedBy(served, destination) != outbox.ServedByNone:
			delete(w.unserved, scheme)
		case time.Since(w.unserved[scheme]) >= servedFor:
			w.unserved[scheme] = time.Now()
			names = append(names, scheme+":")
		}
	}
	if len(names) == 0 {
		return nil
	}
	w.any = true
	slices.Sort(names)
	if _, err := s.pool.Exec(ctx, noteUnservedSQL, names); err != nil {
		return fmt.Errorf("noting schemes that no process publishes to: %w", err)
	}
	return nil
}

// isUnserved reports whether no running process publishes to a destination's scheme, as was found
// lately.
func (w *missingNow) isUnserved(destination string) bool {
	return time.Since(w.unserved[outbox.SchemeOf(destination)]) < 2*servedFor
}

// unservedSchemes are those schemes.
func (w *missingNow) unservedSchemes() (schemes []string) {
	for scheme, found := range w.unserved {
		if time.Since(found) < 2*servedFor {
			schemes = append(schemes, scheme)
		}
	}
	slices.Sort(schemes)
	return schemes
}

// because says why messages to destinations wait that are missing, as far as the last walk and this
// claim know.
func (w *missingNow) because(unpublished map[string]error) map[string]string {
	reasons := maps.Clone(w.reasons)
	for destination, err := range unpublished {
		if w.isUnserved(destination) {
			if reasons == nil {
				reasons = map[string]string{}
			}
			reasons[destination] = err.Error()
		}
	}
	return reasons
}
