package outboxdb

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/outbox"
)

// The bounds of what Gauges reads: a read for metrics must not cost more than a backlog
// is worth. 500,000 rows take some seconds. They are literals, so that the planner knows them.
const (
	gaugeTargets   = "10000"  // with rows that can be claimed
	gaugePerTarget = "200000" // rows of one of those
	gaugeRows      = "500000" // of each part: claimable, parked, dead, callbacks
	gaugeBreakers  = "1000"
	gaugeBlocked   = "10000"
)

// gaugesSQL counts what waits. Each part reads one index, and a bounded number of rows:
//   - claimable rows target by target, so that a target with millions hides no other
//   - parked rows by their time: leased, waiting and retrying ones come before most of
//     those that are delayed
//   - dead rows from the newest
//   - due callbacks from the oldest
//   - dead heads, each with the first message behind it
//   - all streams, and all pages that they have in hand: a row for a destination, and three for a stream
//
// Sums are cast to bigint: a role could own an operator of numeric and integer in its schema.
// Due rows behind an open breaker, or for a missing destination, count as waiting, as in
// pendingCounts. The $1 targets with the most pending rows stand for themselves, the others together
// as $2.
const gaugesSQL = `
WITH RECURSIVE targets AS (
    (SELECT m.destination, ` + TargetOfSQL + ` AS target, 1 AS place
       FROM outbox.messages AS m
      WHERE m.state = 'pending' AND NOT m.parked
      ORDER BY m.destination
      LIMIT 1)
    UNION ALL
    SELECT next.destination, next.target, t.place + 1
      FROM targets AS t
     CROSS JOIN LATERAL (
           SELECT m.destination, ` + TargetOfSQL + ` AS target
             FROM outbox.messages AS m
            WHERE m.state = 'pending' AND NOT m.parked AND m.destination >= ` + behindTargetSQL + `
            ORDER BY m.destination
            LIMIT 1) AS next
     WHERE t.place < ` + gaugeTargets + `
), claimable AS (
    SELECT f.*
      FROM targets AS t
     CROSS JOIN LATERAL (
           SELECT m.destination, m.due_at, m.available_at, m.retrying, false AS waits
             FROM outbox.messages AS m
            WHERE m.state = 'pending' AND NOT m.parked AND m.destination >= t.destination
              AND m.destination < ` + behindTargetSQL + `
            ORDER BY m.destination, m.available_at
            LIMIT ` + gaugePerTarget + `) AS f
     LIMIT ` + gaugeRows + `
), parked AS (
    SELECT m.destination, m.due_at, m.available_at, m.retrying, ` + waitsSQL + ` AS waits
      FROM outbox.messages AS m
     WHERE m.state = 'pending' AND m.parked
     ORDER BY date_bin('1 second'::interval, m.available_at, '2000-01-01Z'::timestamptz), m.destination, m.available_at
     LIMIT ` + gaugeRows + `
), pending AS MATERIALIZED (
    SELECT p.destination,
           count(*) FILTER (WHERE NOT p.retrying AND p.available_at <= now())                        AS due,
           count(*) FILTER (WHERE p.retrying)                                                        AS retrying,
           count(*) FILTER (WHERE NOT p.retrying AND p.available_at > now() AND p.due_at > now())    AS delayed,
           count(*) FILTER (WHERE NOT p.retrying AND p.available_at > now() AND p.due_at <= now()
               AND NOT p.waits) AS leased,
           count(*) FILTER (WHERE NOT p.retrying AND p.available_at > now() AND p.due_at <= now()
               AND p.waits)     AS waiting,
           min(p.due_at) FILTER (WHERE p.due_at <= now())                                            AS oldest
      FROM (SELECT * FROM claimable UNION ALL SELECT * FROM parked) AS p
     GROUP BY p.destination
), breakers AS MATERIALIZED (
    SELECT d.destination, extract(epoch FROM now() - d.failing_since)::float8 AS seconds
      FROM outbox.destinations AS d
     WHERE d.open_until IS NOT NULL
     LIMIT ` + gaugeBreakers + `
), missing AS MATERIALIZED (
    SELECT d.destination, extract(epoch FROM now() - d.missing_since)::float8 AS seconds
      FROM outbox.destinations AS d
     WHERE d.missing_since IS NOT NULL
     LIMIT ` + gaugeBreakers + `
), dead AS (
    SELECT d.destination, count(*) AS dead
      FROM (SELECT m.destination
              FROM outbox.messages AS m
             WHERE m.state = 'dead' AND m.finished_at IS NOT NULL AND m.dismissed_at IS NULL
             ORDER BY m.finished_at DESC
             LIMIT ` + gaugeRows + `) AS d
     GROUP BY d.destination
), counted AS (
    SELECT ` + TargetOfSQL + ` AS target, CASE WHEN m.held THEN 0 ELSE m.due END AS due, m.leased,
           m.waiting + CASE WHEN m.held THEN m.due ELSE 0 END AS waiting, m.retrying, m.delayed, 0 AS dead, m.oldest
      FROM (SELECT m.*, (SELECT count(*) > 0 FROM breakers) AND
                   EXISTS (SELECT FROM outbox.destinations AS h WHERE h.open_until IS NOT NULL
                       AND ` + BreakersOfSQL + `)
                   OR EXISTS (SELECT FROM missing AS h
                       WHERE h.destination = ANY (ARRAY[m.destination, ` + schemeRowSQL + `])) AS held
              FROM pending AS m) AS m
    UNION ALL
    SELECT ` + TargetOfSQL + ` AS target, 0, 0, 0, 0, 0, m.dead, NULL
      FROM dead AS m
), ranked AS (
    SELECT c.target, sum(c.due)::bigint AS due, sum(c.leased)::bigint AS leased, sum(c.waiting)::bigint AS waiting,
           sum(c.retrying)::bigint AS retrying, sum(c.delayed)::bigint AS delayed, sum(c.dead)::bigint AS dead,
           min(c.oldest) AS oldest,
           greatest(sum(sum(c.due + c.waiting)) OVER (),
               sum(sum(c.leased + c.waiting + c.retrying + c.delayed)) OVER (),
               sum(sum(c.dead)) OVER ())::bigint AS total,
           row_number() OVER (ORDER BY sum(c.due + c.leased + c.waiting + c.retrying) DESC, sum(c.dead) DESC,
               c.target) AS place
      FROM counted AS c
     GROUP BY c.target
)
SELECT 'target' AS kind, CASE WHEN r.place <= $1::int THEN r.target ELSE $2::text END AS name,
       sum(r.due)::bigint AS due, sum(r.leased)::bigint AS leased, sum(r.waiting)::bigint AS waiting,
           sum(r.retrying)::bigint AS retrying,
       sum(r.delayed)::bigint AS delayed, sum(r.dead)::bigint AS dead,
           coalesce(extract(epoch FROM now() - min(r.oldest)), 0)::float8 AS seconds,
       coalesce(max(r.place), 0) >= ` + gaugeTargets + ` OR bool_or(r.due + r.waiting >= ` + gaugePerTarget + `)
           OR bool_or(r.total >= ` + gaugeRows + `) AS truncated
  FROM ranked AS r
 GROUP BY 2
UNION ALL
SELECT 'breaker', b.destination, 0, 0, 0, 0, 0, 0, b.seconds, false FROM breakers AS b
UNION ALL
SELECT 'missing', b.destination, 0, 0, 0, 0, 0, 0, b.seconds, false FROM missing AS b
UNION ALL
SELECT 'blocked', '', count(*), 0, 0, 0, 0, 0,
    coalesce(greatest(extract(epoch FROM now() - min(b.due_at)), 0), 0)::float8, count(*) >= ` + gaugeBlocked + `
  FROM (SELECT f.due_at
          FROM outbox.messages AS m
         CROSS JOIN LATERAL (
               SELECT f.due_at FROM outbox.messages AS f
                WHERE f.follower AND f.destination = m.destination AND f.ordering_key = m.ordering_key
                ORDER BY f.seq LIMIT 1) AS f
         WHERE m.head AND m.state = 'dead'
         LIMIT ` + gaugeBlocked + `) AS b
UNION ALL
SELECT 'streams', CASE WHEN s.paused THEN 'paused' ELSE 'running' END, count(*), 0, 0, 0, 0, 0, 0, false
  FROM outbox.streams AS s
 WHERE s.paused OR s.runs_until > now()
 GROUP BY 2
UNION ALL
SELECT 'pages', '', 0, 0, 0, 0, 0, 0,
    coalesce(greatest(extract(epoch FROM now() - min(p.claimed_at)), 0), 0)::float8, false
  FROM outbox.pages AS p
UNION ALL
SELECT 'callbacks', '', count(*), 0, 0, 0, 0, 0,
    greatest(extract(epoch FROM now() - min(c.callback_due_at)), 0)::float8, count(*) >= ` + gaugeRows + `
  FROM (SELECT m.callback_due_at FROM outbox.messages AS m WHERE m.callback_state = 'due'
      ORDER BY m.callback_due_at LIMIT ` + gaugeRows + `) AS c`

// gaugeRow is a row of gaugesSQL.
type gaugeRow struct {
	Kind      string   `db:"kind"`
	Name      string   `db:"name"`
	Due       int64    `db:"due"`
	Leased    int64    `db:"leased"`
	Waiting   int64    `db:"waiting"`
	Retrying  int64    `db:"retrying"`
	Delayed   int64    `db:"delayed"`
	Dead      int64    `db:"dead"`
	Seconds   *float64 `db:"seconds"`
	Truncated bool     `db:"truncated"`
}

func (r gaugeRow) duration() time.Duration {
	return time.Duration(deref(r.Seconds) * float64(time.Second))
}

// Gauges counts what waits in the table, in one statement that reads a bounded number of
// rows. The maxTargets targets with the most pending messages are counted for themselves,
// the rest together under the name other.
func (s *Store) Gauges(ctx context.Context, maxTargets int, other string) (outbox.Gauges, error) {
	rows, err := s.pool.Query(ctx, gaugesSQL, maxTargets, other)
	if err != nil {
		return outbox.Gauges{}, fmt.Errorf("counting what waits: %w", err)
	}
	found, err := pgx.CollectRows(rows, pgx.RowToStructByName[gaugeRow])
	if err != nil {
		return outbox.Gauges{}, fmt.Errorf("counting what waits: %w", err)
	}
	var g outbox.Gauges
	var breakers []outbox.BreakerGauges
	var missing []outbox.MissingGauges
	for _, r := range found {
		g.Truncated = g.Truncated || r.Truncated
		switch r.Kind {
		case "target":
			g.Targets = append(g.Targets, outbox.TargetGauges{Target: r.Name, Due: r.Due, Leased: r.Leased,
				Waiting:  r.Waiting,
				Retrying: r.Retrying, Delayed: r.Delayed, Dead: r.Dead, OldestDue: max(r.duration(), 0)})
		case "breaker":
			breakers = append(breakers, breakerGauges(r))
		case "missing":
			missing = append(missing, outbox.MissingGauges{
				Destination: outflow.DisplayDestination(r.Name), Since: max(r.duration(), 0),
			})
		case "blocked":
			g.BlockedKeys, g.OldestBlocked = r.Due, r.duration()
		case "streams":
			if r.Name == "paused" {
				g.StreamsPaused = r.Due
			} else {
				g.StreamsRunning = r.Due
			}
		case "pages":
			g.OldestPage = r.duration()
		case "callbacks":
			g.CallbacksDue, g.OldestCallbackDue = r.Due, r.duration()
		}
	}
	g.Breakers, g.Missing = joinBreakers(breakers, maxTargets, other), joinMissing(missing, maxTargets, other)
	return g, nil
}

// joinMissing keeps the limit that have been missing for longest, and the rest together as other.
func joinMissing(all []outbox.MissingGauges, limit int, other string) []outbox.MissingGauges {
	slices.SortFunc(all, func(a, b outbox.MissingGauges) int { return cmp.Compare(b.Since, a.Since) })
	if len(all) > limit {
		all = append(all[:limit:limit], outbox.MissingGauges{Destination: other, Since: all[limit].Since})
	}
	return all
}

// breakerGauges names a breaker as metrics show it, without the query of an address.
func breakerGauges(r gaugeRow) outbox.BreakerGauges {
	name, isNew := strings.CutSuffix(r.Name, "#new")
	b := outbox.BreakerGauges{Name: outflow.DisplayDestination(name), Covers: "destination", Open: 1,
		FailingFor: r.duration()}
	switch {
	case isNew:
		b.Covers = "new"
	case outbox.TargetOf(name) == name && strings.Contains(targetSchemes, "|"+name[:strings.Index(name, "://")+1]):
		b.Covers = "target"
	}
	return b
}

// targetSchemes are those whose targets have several destinations.
const targetSchemes = "|https:|http:|rabbitmq:|temporal:"

// joinBreakers adds up breakers of one name. The limit that have failed for longest stand
// for themselves, the rest together as other.
func joinBreakers(all []outbox.BreakerGauges, limit int, other string) (joined []outbox.BreakerGauges) {
	slices.SortFunc(all, func(a, b outbox.BreakerGauges) int {
		return int((b.FailingFor - a.FailingFor) / time.Millisecond)
	})
	for _, b := range all {
		same := func(j outbox.BreakerGauges) bool { return j.Name == b.Name && j.Covers == b.Covers }
		at := slices.IndexFunc(joined, same)
		if at < 0 && len(joined) >= limit {
			b.Name = other
			at = slices.IndexFunc(joined, same)
		}
		if at < 0 {
			joined = append(joined, b)
			continue
		}
		joined[at].Open += b.Open
		joined[at].FailingFor = max(joined[at].FailingFor, b.FailingFor)
	}
	return joined
}
