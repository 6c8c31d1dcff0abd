package outboxdb

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/internal/database"
	"github.com/outflowhq/outflow/outbox"
)

const (
	// walkDestinations is how many destinations one walk of the index visits, and walkWithin how
	// many of one target.
	walkDestinations = 512
	walkWithin       = 32
	// A walk may take one part in walkShare of the time, and comes at least every walkInterval. It
	// costs well under a millisecond, except where a held snapshot makes it crawl over dead rows.
	walkShare    = 20
	walkInterval = 5 * time.Second
)

// dueDestinationsSQL walks the claim index from target to target, and in each from destination to
// destination. It is a loose index scan: a probe for each, whatever the number of rows.
//   - It begins behind $1, where the last walk stopped, and in the targets $4 behind $5: a host may
//     have more destinations than one walk visits.
//   - It returns up to $2 destinations, of each target up to $3, with the low-water mark from which
//     a claim may start.
//   - Of the schemes $6, which nobody publishes to, it visits one target.
//   - There is always one row, for four flags. breaker_active: a breaker is open, or has closed and
//     its runs are still to be signalled, or has stale failures. quarantined_due: a quarantined
//     message is due. missing_any: messages may wait for a destination that does not exist. deferred: the
//     next message of an ordering key is still to be released.
const dueDestinationsSQL = `
WITH RECURSIVE targets AS (
    (SELECT m.destination, ` + TargetOfSQL + ` AS target
       FROM outbox.messages AS m
      WHERE m.state = 'pending' AND NOT m.parked AND m.destination > $1::text
      ORDER BY m.destination
      LIMIT 1)
    UNION ALL
    SELECT next.destination, next.target
      FROM targets AS t
     CROSS JOIN LATERAL (
           SELECT m.destination, ` + TargetOfSQL + ` AS target
             FROM outbox.messages AS m
            WHERE m.state = 'pending' AND NOT m.parked
              AND m.destination >= CASE WHEN split_part(t.target, '://', 1) = ANY ($6::text[])
                                        THEN split_part(t.target, '://', 1) || ':0' ELSE ` + behindTargetSQL + ` END
            ORDER BY m.destination
            LIMIT 1) AS next
), found AS (
    SELECT t.target, d.destination, d.available_at
      FROM targets AS t
      LEFT JOIN LATERAL (SELECT c.cursor FROM unnest($4::text[], $5::text[]) AS c (target, cursor)
                          WHERE c.target = t.target) AS c ON true
     CROSS JOIN LATERAL (
           WITH RECURSIVE within AS (
               (SELECT m.destination, m.available_at, 1 AS place
                  FROM outbox.messages AS m
                 WHERE m.state = 'pending' AND NOT m.parked AND m.destination > coalesce(c.cursor, '')
                   AND m.destination >= t.destination AND m.destination < ` + behindTargetSQL + `
                 ORDER BY m.destination, m.available_at
                 LIMIT 1)
               UNION ALL
               SELECT next.destination, next.available_at, w.place + 1
                 FROM within AS w
                CROSS JOIN LATERAL (
                      SELECT m.destination, m.available_at
                        FROM outbox.messages AS m
                       WHERE m.state = 'pending' AND NOT m.parked AND m.destination > w.destination
                         AND m.destination < ` + behindTargetSQL + `
                       ORDER BY m.destination, m.available_at
                       LIMIT 1) AS next
                WHERE w.place < $3::int AND w.destination <> t.target
           )
           SELECT w.destination, w.available_at FROM within AS w) AS d
     LIMIT $2
)
SELECT coalesce(f.destination, '') AS destination, coalesce(f.target, '') AS target,
       coalesce(least(f.available_at, now()), now()) AS mark, coalesce(f.available_at <= now(), false) AS due,
       (SELECT p.delivered_at FROM outbox.destinations AS p WHERE p.destination = f.destination) IS NOT NULL AS reached,
       flags.*
  FROM (SELECT EXISTS (SELECT FROM outbox.destinations AS d
                        WHERE d.open_until IS NOT NULL OR d.recovered_at IS NOT NULL)
               OR EXISTS (SELECT FROM outbox.destinations AS h WHERE ` + staleSQL + `) AS breaker_active,
               EXISTS (SELECT FROM outbox.messages AS m WHERE m.state = 'pending' AND m.claims >= 5
                          AND m.available_at <= now()) AS quarantined_due,
               EXISTS (SELECT FROM outbox.destinations AS d WHERE d.missing_since IS NOT NULL) AS missing_any,
               EXISTS (SELECT FROM outbox.deferred_releases) AS deferred) AS flags
  LEFT JOIN found AS f ON true`

// openBreakersSQL are those of the breakers $1 that are open, and why their destination is missing.
const openBreakersSQL = `
SELECT d.destination, coalesce(d.missing_reason, '') AS missing
  FROM outbox.destinations AS d WHERE d.open_until IS NOT NULL AND d.destination = ANY ($1::text[])`

// walk is what a Store knows of the claim index between claims.
type walk struct {
	mu sync.Mutex
	// marks are in turn: a destination that was claimed from goes to the end.
	marks []mark
	// walked says that the marks come from a walk just now: then only those that are due are worth
	// a claim. Between walks, every mark is.
	walked  bool
	full    []string          // destinations of which the last claim took as much as it might
	from    string            // where the next walk goes on
	cursors map[string]string // the same within targets that have more than walkWithin
	next    time.Time         // when the next walk is due
	// The flags of the last walk, and the breakers that were open then.
	breakerActive, quarantinedDue, deferred bool
	openBreakers                            map[string]bool

	unpark     unparking
	heldBackAt time.Time // when messages were last held back
	missing    missingNow
}

// walkRow is one row of a walk: a mark, and the flags. Without any destination there is one row all
// the same.
type walkRow struct {
	mark
	BreakerActive  bool `db:"breaker_active"`
	QuarantinedDue bool `db:"quarantined_due"`
	MissingAny     bool `db:"missing_any"`
	Deferred       bool `db:"deferred"`
}

// findDestinations walks the index if it is time to.
func (s *Store) findDestinations(ctx context.Context) error {
	s.walk.walked = !time.Now().Before(s.walk.next)
	if !s.walk.walked {
		return nil
	}
	if err := s.walkIndex(ctx); err != nil {
		// The destinations of earlier walks can be claimed all the same.
		s.walk.walked, s.walk.next = false, time.Now().Add(walkInterval)
		return fmt.Errorf("finding destinations with due messages: %w", err)
	}
	return nil
}

// walkIndex walks the index. It leaves time for the claim after it, if there is anything to claim
// from.
func (s *Store) walkIndex(ctx context.Context) error {
	if deadline, ok := ctx.Deadline(); ok && len(s.walk.marks) > 0 {
		inTime, cancel := context.WithTimeout(ctx, time.Until(deadline)/2)
		defer cancel()
		ctx = inTime
	}
	conn, err := s.pool.Acquire(ctx)
	if err != nil {
		return err
	}
	defer conn.Release()
	began := time.Now() // a new connection's hundreds of milliseconds are not the walk's
	found, err := s.visit(ctx, conn)
	if err != nil {
		return err
	}
	s.breakers.sawMarks(found)
	s.walk.remember(found)
	if err := s.readOpenBreakers(ctx, conn); err != nil {
		return err
	}
	s.walk.next = time.Now().Add(min(walkShare*time.Since(began), walkInterval))
	return nil
}

// readOpenBreakers reads which breakers of the marks are open, if the walk saw that some are.
func (s *Store) readOpenBreakers(ctx context.Context, conn *database.Conn) error {
	w := &s.walk
	w.openBreakers, w.missing.reasons = nil, nil
	if !w.breakerActive {
		return nil
	}
	rows, err := conn.Query(ctx, openBreakersSQL, s.breakers.namesOf(w.marks))
	if err != nil {
		return err
	}
	w.openBreakers, w.missing.reasons = map[string]bool{}, map[string]string{}
	var name, missing string
	_, err = pgx.ForEachRow(rows, []any{&name, &missing}, func() error {
		w.openBreakers[name] = true
		if missing != "" {
			w.missing.reasons[name] = missing
		}
		return nil
	})
	return err
}

// visit runs the walk's statement.
func (s *Store) visit(ctx context.Context, conn *database.Conn) (found []mark, err error) {
	w := &s.walk
	targets := slices.Sorted(maps.Keys(w.cursors))
	cursors := make([]string, 0, len(targets))
	for _, t := range targets {
		cursors = append(cursors, w.cursors[t])
	}
	rows, err := conn.Query(ctx, dueDestinationsSQL, w.from, walkDestinations, walkWithin, targets, cursors,
		w.missing.unservedSchemes())
	if err != nil {
		return nil, err
	}
	walked, err := pgx.CollectRows(rows, pgx.RowToStructByName[walkRow])
	if err != nil {
		return nil, err
	}
	for _, r := range walked {
		if r.Destination != "" {
			found = append(found, r.mark)
		}
		w.breakerActive, w.quarantinedDue, w.missing.any = r.BreakerActive, r.QuarantinedDue, r.MissingAny
		w.deferred = r.Deferred
	}
	return found, nil
}

// newDestinationsIn is how long a destination that has no mark waits for the next walk.
func (w *walk) newDestinationsIn() time.Duration {
	if w.walked && w.from == "" {
		return 0
	}
	return max(time.Until(w.next), time.Millisecond)
}

// anyDue reports whether some destination may have more to claim right now.
func (w *walk) anyDue() bool {
	return slices.ContainsFunc(w.marks, func(m mark) bool { return m.Due })
}

// claimed is the result of a claim with these arguments, with what the walk knows.
func (w *walk) claimed(
	messages []outbox.ClaimedMessage, ended []outflow.Outcome, problem error, a claimArgs,
) outbox.Claimed {
	return outbox.Claimed{
		Refused: a.refused, Missing: w.missing.because(a.unpublished), Ended: ended,
		Messages: messages, Backlog: w.anyDue(), Full: w.full,
		NewDestinationsIn: w.newDestinationsIn(), MoreDestinations: w.from != "",
		BreakerActive: w.breakerActive || w.missing.any, QuarantinedDue: w.quarantinedDue, Deferred: w.deferred,
		Problem: problem,
	}
}
