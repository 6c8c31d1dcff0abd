package outboxdb

import (
	"context"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
)

const (
	// A claim first unparks up to unparkRows rows whose time has come, of up to unparkVisits
	// destinations and seconds, and of up to unparkPerTarget destinations of a target in a second.
	// That may take unparkTimeout, and half of the time. Where there was nothing, the next look
	// comes after unparkInterval.
	unparkRows      = 1000
	unparkVisits    = 1000
	unparkPerTarget = 250
	unparkTimeout   = 2 * time.Second
	unparkInterval  = 200 * time.Millisecond
	// A look goes back unparkSlack beyond the one before, for short transactions that committed
	// late; half of it is what the index's seconds round off. Once in unparkAllInterval a look goes
	// back to the beginning. Where that is too slow, because of a held snapshot, the next such look
	// comes after unparkAllRetry.
	unparkSlack       = 2 * time.Second
	unparkAllInterval = 5 * time.Second
	unparkAllRetry    = time.Minute
)

// SecondOfSQL is the second in which a row becomes available, as the index of parked rows has it.
const SecondOfSQL = `date_bin('1 second'::interval, m.available_at, '2000-01-01Z'::timestamptz)`

// unparkSQL makes parked rows claimable whose time has come within the last $1: a lease is over, or
// a delayed or put-back message is due.
//   - It visits seconds, and the destinations in each, by a loose index scan from the newest: at
//     most $2 of them, and of each target at most $3 in a second.
//   - These share $4 rows, at least one each. So a message that has just become due passes any
//     number of others that became due before it or with it.
//   - It returns the destinations, with the first time at which a row of each was due.
//   - There is always one row, which also says whether there may be more.
const unparkSQL = `
WITH RECURSIVE visits AS (
    (SELECT ` + SecondOfSQL + ` AS second, m.destination, ` + TargetOfSQL + ` AS target, 1 AS place
       FROM outbox.messages AS m
      WHERE m.state = 'pending' AND m.parked AND ` + SecondOfSQL + ` >= now() - $1::interval
        AND ` + SecondOfSQL + ` <= now()
      ORDER BY ` + SecondOfSQL + ` DESC, m.destination DESC
      LIMIT 1)
    UNION ALL
    SELECT next.second, next.destination, next.target,
           CASE WHEN next.second = v.second AND next.target = v.target THEN v.place + 1 ELSE 1 END
      FROM visits AS v
     CROSS JOIN LATERAL (
           SELECT ` + SecondOfSQL + ` AS second, m.destination, ` + TargetOfSQL + ` AS target
             FROM outbox.messages AS m
            WHERE m.state = 'pending' AND m.parked AND ` + SecondOfSQL + ` >= now() - $1::interval
              AND (` + SecondOfSQL + `, m.destination)
                  < (v.second, CASE WHEN v.place < $3::int THEN v.destination ELSE v.target || '/' END)
            ORDER BY ` + SecondOfSQL + ` DESC, m.destination DESC
            LIMIT 1) AS next
), visited AS MATERIALIZED (
    SELECT v.second, v.destination, v.place FROM visits AS v LIMIT $2
), share AS MATERIALIZED (
    SELECT greatest($4::int / greatest(count(*), 1), 1) AS rows,
           count(*) >= $2::int OR coalesce(max(v.place), 0) >= $3::int AS full
      FROM visited AS v
), ripe AS MATERIALIZED (
    SELECT next.id, v.second, v.destination
      FROM visited AS v
     CROSS JOIN LATERAL (
           SELECT m.id
             FROM outbox.messages AS m
            WHERE m.state = 'pending' AND m.parked AND ` + SecondOfSQL + ` = v.second AND m.destination = v.destination
              AND m.available_at <= now()
            ORDER BY m.available_at
            LIMIT (SELECT s.rows FROM share AS s)
              FOR NO KEY UPDATE SKIP LOCKED) AS next
), unparked AS (
    UPDATE outbox.messages AS m
       SET parked = false
      FROM pg_catalog.unnest(ARRAY(SELECT id FROM ripe)) AS r (id)
     WHERE m.id = ANY (ARRAY[r.id])
    RETURNING m.destination, m.available_at
)
SELECT coalesce(u.destination, '') AS destination, coalesce(u.target, '') AS target, coalesce(u.mark, now()) AS mark,
       u.destination IS NOT NULL AS due, coalesce(u.reached, false) AS reached, f.more
  FROM (SELECT s.full OR EXISTS (
                  SELECT FROM ripe AS r GROUP BY r.second, r.destination HAVING count(*) >= s.rows) AS more
          FROM share AS s) AS f
  LEFT JOIN (SELECT m.destination, ` + TargetOfSQL + ` AS target, min(m.available_at) AS mark,
                    ` + deliveredAtSQL + ` IS NOT NULL AS reached
               FROM unparked AS m
              GROUP BY m.destination) AS u ON true`

// unparking is what a Store knows of the parked rows between claims.
type unparking struct {
	upTo    time.Time // rows that were due before are unparked, or left to a look at everything
	next    time.Time // when the next look is due
	nextAll time.Time // when the next look at everything is due
}

// unpark makes rows claimable whose time has come, where a look is due. It brings the marks up to
// these rows, so that they need no walk, which may be too slow.
func (s *Store) unpark(ctx context.Context) error {
	u, began := &s.walk.unpark, time.Now()
	if began.Before(u.next) {
		return nil
	}
	all, within := !began.Before(u.nextAll), time.Duration(math.MaxInt64)
	if !all {
		within = began.Sub(u.upTo) + unparkSlack
	}
	found, more, err := s.unparkDue(ctx, within)
	u.planNext(began, all, more, len(found) > 0, err)
	if err != nil {
		return fmt.Errorf("looking for messages whose time has come: %w", err)
	}
	s.breakers.sawMarks(found)
	s.walk.add(found)
	return nil
}

// planNext plans the next looks after one that began then.
//   - After a look that was too slow, the next one leaves out what it would have found: messages
//     that become due from now on must not wait for that.
//   - Where a look at little fails too, the database was away: a look at everything comes soon.
func (u *unparking) planNext(began time.Time, all, more, found bool, err error) {
	now := time.Now()
	u.next = now.Add(now.Sub(began))
	if !found && err == nil {
		u.next = now.Add(max(now.Sub(began), unparkInterval))
	}
	switch {
	case all && err != nil:
		u.nextAll = now.Add(unparkAllRetry)
	case err != nil && u.nextAll.After(now.Add(unparkAllInterval)), all && !more:
		u.nextAll = now.Add(unparkAllInterval)
	}
	if !more && (err == nil || !all) || u.upTo.IsZero() {
		u.upTo = began
	}
}

// unparkDue runs the statement, and returns the destinations that it unparked rows of, the newest
// first. more says that there may be more such rows.
func (s *Store) unparkDue(ctx context.Context, within time.Duration) (found []mark, more bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, unparkTimeout)
	defer cancel()
	rows, err := s.pool.Query(ctx, unparkSQL, within, unparkVisits, unparkPerTarget, unparkRows)
	if err != nil {
		return nil, false, err
	}
	type unparked struct {
		mark
		More bool `db:"more"`
	}
	rowsFound, err := pgx.CollectRows(rows, pgx.RowToStructByName[unparked])
	for _, r := range rowsFound {
		more = r.More
		if r.Due {
			found = append(found, r.mark)
		}
	}
	slices.SortFunc(found, func(a, b mark) int { return b.At.Compare(a.At) })
	return found, more, err
}
