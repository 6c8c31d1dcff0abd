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
	// Between two claims up to unparkRows rows are unparked whose time has come, of up to
	// unparkVisits destinations and seconds, and of each target unparkWithin in a second.
	// That may take unparkTimeout, and half of the time. Where there was nothing, the next
	// look comes after unparkEvery.
	unparkRows    = 1000
	unparkVisits  = 1000
	unparkWithin  = 250
	unparkTimeout = 2 * time.Second
	unparkEvery   = 200 * time.Millisecond
	// A look goes back unparkSlack beyond the one before, for short transactions that
	// committed late; half of it is what the index's seconds round off. Every unparkAll one
	// looks at everything; where that is too slow, which a held snapshot makes it, after
	// unparkAllLater.
	unparkSlack    = 2 * time.Second
	unparkAll      = 5 * time.Second
	unparkAllLater = time.Minute
)

// secondOf is the second in which a row becomes available, as the index of parked rows has it.
const secondOf = `date_bin('1 second'::interval, m.available_at, '2000-01-01Z'::timestamptz)`

// unpark makes parked rows claimable whose time has come within the last $1: a lease is
// over, or a delayed or put-back message is due. It visits seconds and the destinations
// in each by a loose index scan, the newest first: at most $2 of them, and of each target
// at most $3 in a second. These share $4 rows, at least one each. So what has just become
// due passes whatever others have become due before it or with it, in any number. It
// returns the destinations with the first time at which a row of each was due. There is
// always one row, which also says whether there may be more.
const unpark = `
WITH RECURSIVE visits AS (
    (SELECT ` + secondOf + ` AS second, m.destination, ` + targetOf + ` AS target, 1 AS place
       FROM outbox.messages AS m
      WHERE m.state = 'pending' AND m.parked AND ` + secondOf + ` >= now() - $1::interval AND ` + secondOf + ` <= now()
      ORDER BY ` + secondOf + ` DESC, m.destination DESC
      LIMIT 1)
    UNION ALL
    SELECT next.second, next.destination, next.target,
           CASE WHEN next.second = v.second AND next.target = v.target THEN v.place + 1 ELSE 1 END
      FROM visits AS v
     CROSS JOIN LATERAL (
           SELECT ` + secondOf + ` AS second, m.destination, ` + targetOf + ` AS target
             FROM outbox.messages AS m
            WHERE m.state = 'pending' AND m.parked AND ` + secondOf + ` >= now() - $1::interval
              AND (` + secondOf + `, m.destination) < (v.second, CASE WHEN v.place < $3::int THEN v.destination ELSE v.target || '/' END)
            ORDER BY ` + secondOf + ` DESC, m.destination DESC
            LIMIT 1) AS next
), visited AS MATERIALIZED (
    SELECT v.second, v.destination, v.place FROM visits AS v LIMIT $2
), share AS MATERIALIZED (
    SELECT greatest($4::int / greatest(count(*), 1), 1) AS rows, count(*) >= $2::int OR coalesce(max(v.place), 0) >= $3::int AS full
      FROM visited AS v
), ripe AS MATERIALIZED (
    SELECT next.id, v.second, v.destination
      FROM visited AS v
     CROSS JOIN LATERAL (
           SELECT m.id
             FROM outbox.messages AS m
            WHERE m.state = 'pending' AND m.parked AND ` + secondOf + ` = v.second AND m.destination = v.destination AND m.available_at <= now()
            ORDER BY m.available_at
            LIMIT (SELECT s.rows FROM share AS s)
              FOR NO KEY UPDATE SKIP LOCKED) AS next
), unparked AS (
    UPDATE outbox.messages AS m
       SET parked = false
      FROM pg_catalog.unnest(ARRAY(SELECT id FROM ripe)) AS r (id)
     WHERE m.id = r.id
    RETURNING m.destination, m.available_at
)
SELECT coalesce(u.destination, '') AS destination, coalesce(u.target, '') AS target, coalesce(u.mark, now()) AS mark,
       u.destination IS NOT NULL AS due, coalesce(u.proven, false) AS proven, f.more
  FROM (SELECT s.full OR EXISTS (SELECT FROM ripe AS r GROUP BY r.second, r.destination HAVING count(*) >= s.rows) AS more FROM share AS s) AS f
  LEFT JOIN (SELECT m.destination, ` + targetOf + ` AS target, min(m.available_at) AS mark, ` + deliveredAt + ` IS NOT NULL AS proven
               FROM unparked AS m
              GROUP BY m.destination) AS u ON true`

// unparking is what a Store knows of the parked rows between claims.
type unparking struct {
	upTo    time.Time // what became due before is unparked, or is left to a look at everything
	next    time.Time // when the next look is due
	nextAll time.Time // when one at everything is
}

// unpark makes rows claimable whose time has come, where it is time to look. It brings the
// marks up to them, so that it needs no walk, which may be too slow.
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
	u.looked(began, all, more, len(found) > 0, err)
	if err != nil {
		return fmt.Errorf("looking for messages whose time has come: %w", err)
	}
	s.destinations.proveAll(found)
	s.walk.add(found)
	return nil
}

// looked plans the next looks after one that began then. Where one is too slow, the next
// leaves out what it would have found: what becomes due from now on must not wait for that.
// Where one at little fails too, the database was away: everything is looked at soon.
func (u *unparking) looked(began time.Time, all, more, found bool, err error) {
	now := time.Now()
	u.next = now.Add(now.Sub(began))
	if !found && err == nil {
		u.next = now.Add(max(now.Sub(began), unparkEvery))
	}
	switch {
	case all && err != nil:
		u.nextAll = now.Add(unparkAllLater)
	case err != nil && u.nextAll.After(now.Add(unparkAll)), all && !more:
		u.nextAll = now.Add(unparkAll)
	}
	if !more && (err == nil || !all) || u.upTo.IsZero() {
		u.upTo = began
	}
}

// unparkDue runs the statement, and returns the destinations that it unparked rows of, the
// newest first. more says that there may be more such rows.
func (s *Store) unparkDue(ctx context.Context, within time.Duration) (found []mark, more bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, unparkTimeout)
	defer cancel()
	rows, err := s.pool.Query(ctx, unpark, within, unparkVisits, unparkWithin, unparkRows)
	if err != nil {
		return nil, false, err
	}
	type unparked struct {
		mark
		More bool `db:"more"`
	}
	seen, err := pgx.CollectRows(rows, pgx.RowToStructByName[unparked])
	for _, one := range seen {
		more = one.More
		if one.Due {
			found = append(found, one.mark)
		}
	}
	slices.SortFunc(found, func(a, b mark) int { return b.At.Compare(a.At) })
	return found, more, err
}

// add brings the marks up to what was unparked: it may lie below them.
func (w *walk) add(found []mark) {
	fresh := make(map[string]mark, len(found))
	for _, m := range found {
		fresh[m.Destination] = m
	}
	for i := range w.marks {
		old := &w.marks[i]
		if m, ok := fresh[old.Destination]; ok {
			old.Due, old.Proven = true, old.Proven || m.Proven
			if m.At.Before(old.At) {
				old.At = m.At
			}
			delete(fresh, old.Destination)
		}
	}
	for _, m := range found {
		if _, ok := fresh[m.Destination]; ok {
			w.marks = append(w.marks, m)
		}
	}
	w.marks = trim(w.marks)
}
