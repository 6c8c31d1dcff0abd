package operator

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/outboxdb"
)

// statusPendingSQL counts every pending row, by destination and phase. The age is that of the row
// which has been due for longest. Due rows that nobody may claim yet count as waiting.
const statusPendingSQL = `
SELECT m.destination, CASE WHEN m.phase = 'due' AND ` + outboxdb.HeldSQL + ` THEN 'waiting' ELSE m.phase END AS phase,
       sum(m.messages)::bigint AS messages, false AS at_least, max(m.oldest_seconds) AS oldest_seconds,
       coalesce(max(m.last_error) FILTER (WHERE m.phase IN ('waiting', 'retrying')), '') AS last_error
  FROM (SELECT p.destination, p.phase, count(*) AS messages,
               coalesce(extract(epoch FROM max(now() - p.due_at) FILTER (WHERE p.due_at <= now())), 0)::float8
                   AS oldest_seconds,
               max(p.last_error) FILTER (WHERE NOT p.follower) AS last_error
          FROM (SELECT m.*, ` + outboxdb.PhaseSQL + ` AS phase FROM ` + outboxdb.PendingRowsSQL + ` AS m) AS p
         GROUP BY 1, 2) AS m
 GROUP BY 1, 2`

// statusDeadSQL counts every dead row that nobody dismissed.
const statusDeadSQL = `
SELECT m.destination, m.state AS phase, count(*) AS messages, false AS at_least,
       extract(epoch FROM max(now() - m.finished_at))::float8 AS oldest_seconds,
       coalesce(max(m.last_error), '') AS last_error
  FROM outbox.messages AS m
 WHERE m.state = 'dead' AND m.finished_at IS NOT NULL AND m.dismissed_at IS NULL
 GROUP BY 1, 2`

// statusDismissedSQL counts the $1 rows that were dismissed last.
const statusDismissedSQL = `
SELECT n.destination, 'dismissed' AS phase, count(*) FILTER (WHERE n.place <= $1) AS messages,
       max(n.found) > $1 AS at_least, 0::float8 AS oldest_seconds, '' AS last_error
  FROM (SELECT f.destination, row_number() OVER () AS place, count(*) OVER () AS found
          FROM (SELECT m.destination FROM outbox.messages AS m
                 WHERE m.dismissed_at IS NOT NULL
                 ORDER BY m.dismissed_at DESC
                 LIMIT $1::bigint + 1) AS f) AS n
 GROUP BY 1`

// statusNewestSQL counts the newest $2 rows of a final state ($1), which can be millions: at_least
// says that there are more.
const statusNewestSQL = `
SELECT n.destination, $1::text AS phase, count(*) FILTER (WHERE n.place <= $2) AS messages,
       max(n.found) > $2 AS at_least, 0::float8 AS oldest_seconds, '' AS last_error
  FROM (SELECT f.destination, row_number() OVER () AS place, count(*) OVER () AS found
          FROM (SELECT m.destination FROM outbox.messages AS m
                 WHERE m.state = $1::text AND m.finished_at IS NOT NULL
                 ORDER BY m.finished_at DESC
                 LIMIT $2::bigint + 1) AS f) AS n
 GROUP BY 1`

// statusBreakersSQL returns the breakers that are open or count failures, and slow targets, with
// the destinations that each covers.
const statusBreakersSQL = `
SELECT d.destination, d.covers_from, d.covers_before, d.failures, d.failing_since, d.open_until,
       coalesce(d.open_until > now(), false) AS open, coalesce(d.last_error, '') AS last_error,
       CASE WHEN d.slow_until > now() THEN d.slow_until END AS slow_until,
       d.missing_since, coalesce(d.missing_reason, '') AS missing_reason
  FROM outbox.destinations AS d
 WHERE d.failing_since IS NOT NULL OR d.open_until IS NOT NULL OR d.slow_until > now()`

// PhaseCount counts the messages of one destination in one phase.
type PhaseCount struct {
	Destination string `db:"destination" json:"destination"`
	// Phase is due, delayed, leased, waiting or retrying for pending messages, dismissed for dead
	// ones that an operator dismissed, else the final state.
	Phase    string `db:"phase" json:"phase"`
	Messages int    `db:"messages" json:"messages"`
	// AtLeast says that there are more: counting stopped at its bound.
	AtLeast bool `db:"at_least" json:"atLeast"`
	// OldestSeconds is how long the oldest has been due (pending) or dead; zero where none is due,
	// and for the other final states.
	OldestSeconds float64 `db:"oldest_seconds" json:"oldestSeconds,omitempty"`
	// LastError is the last error of a waiting, retrying or dead message.
	LastError string `db:"last_error" json:"lastError,omitempty"`
}

// BreakerStatus is how a destination's circuit breaker stands while the destination fails, or while
// its target is slow.
type BreakerStatus struct {
	Destination  string     `db:"destination" json:"destination"`
	Failures     int        `db:"failures" json:"failures"`
	FailingSince *time.Time `db:"failing_since" json:"failingSince,omitempty"`
	OpenUntil    *time.Time `db:"open_until" json:"openUntil,omitempty"`
	// Open says that only probes are sent there right now.
	Open      bool   `db:"open" json:"open"`
	LastError string `db:"last_error" json:"lastError,omitempty"`
	// SlowUntil is how long the target counts as slow: its messages leave the fast path unsent, and
	// are sent with the publisher's whole timeout.
	SlowUntil *time.Time `db:"slow_until" json:"slowUntil,omitempty"`
	// MissingSince is since when the destination is known not to exist, and MissingReason why. Its
	// messages wait for it, whatever else fails.
	MissingSince  *time.Time `db:"missing_since" json:"missingSince,omitempty"`
	MissingReason string     `db:"missing_reason" json:"missingReason,omitempty"`
	// The breaker covers the destinations from CoversFrom up to CoversBefore, without the latter.
	CoversFrom   string `db:"covers_from" json:"-"`
	CoversBefore string `db:"covers_before" json:"-"`
}

// withPending returns the breakers that pending messages wait for. Where none waits there is
// nothing to do.
func withPending(breakers []BreakerStatus, counts []PhaseCount) []BreakerStatus {
	var pending []string
	for _, c := range counts {
		if !outflow.State(c.Phase).Final() && c.Phase != "dismissed" {
			pending = append(pending, c.Destination)
		}
	}
	slices.Sort(pending)
	return slices.DeleteFunc(breakers, func(b BreakerStatus) bool {
		at, _ := slices.BinarySearch(pending, b.CoversFrom)
		return at == len(pending) || pending[at] >= b.CoversBefore
	})
}

// Status counts all pending and dead messages, and of delivered, expired, cancelled and dismissed
// ones the newest bound each, by destination. It also returns the breakers of destinations that
// fail or are slow while messages wait for them. It reads every pending and dead row: it is for
// people, not for a loop.
func (o *Operator) Status(ctx context.Context, bound int) (counts []PhaseCount, breakers []BreakerStatus, err error) {
	options := pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}
	err = pgx.BeginTxFunc(ctx, o.pool, options, func(tx pgx.Tx) error {
		for _, query := range []struct {
			statement string
			args      []any
		}{
			{statusPendingSQL, nil}, {statusDeadSQL, nil}, {statusDismissedSQL, []any{bound}},
			{statusNewestSQL, []any{outflow.Delivered, bound}}, {statusNewestSQL, []any{outflow.Expired, bound}},
			{statusNewestSQL, []any{outflow.Cancelled, bound}},
		} {
			rows, err := tx.Query(ctx, query.statement, query.args...)
			if err != nil {
				return err
			}
			some, err := pgx.CollectRows(rows, pgx.RowToStructByName[PhaseCount])
			if err != nil {
				return err
			}
			counts = append(counts, some...)
		}
		rows, err := tx.Query(ctx, statusBreakersSQL)
		if err != nil {
			return err
		}
		breakers, err = pgx.CollectRows(rows, pgx.RowToStructByName[BreakerStatus])
		return err
	})
	if err != nil {
		return nil, nil, fmt.Errorf("counting messages: %w", err)
	}
	return counts, withPending(breakers, counts), nil
}
