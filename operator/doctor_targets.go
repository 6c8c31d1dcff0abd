package operator

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/outflowhq/outflow/outbox"
	"github.com/outflowhq/outflow/outboxdb"
)

// pendingTarget is where pending messages go: a queue, a topic, an exchange, or for webhooks a
// scheme and host with its port.
type pendingTarget struct {
	Scheme string `db:"scheme"`
	// Destination is one of the target's.
	Destination string `db:"destination"`
	Messages    int    `db:"messages"`
	// OfScheme is how many targets the scheme has, and DueInScheme says that a message of one is due.
	OfScheme    int  `db:"of_scheme"`
	DueInScheme bool `db:"due_in_scheme"`
}

// pendingTargetsSQL reads every pending row. It returns up to $1 targets of each scheme, those with
// the most messages first, so that thousands of one scheme hide no other.
const pendingTargetsSQL = `
SELECT t.scheme, t.destination, t.messages, t.of_scheme, t.due_in_scheme
  FROM (SELECT c.*, row_number() OVER (PARTITION BY c.scheme ORDER BY c.messages DESC, c.destination) AS place,
               count(*) OVER (PARTITION BY c.scheme) AS of_scheme,
               bool_or(c.due) OVER (PARTITION BY c.scheme) AS due_in_scheme
          FROM (SELECT p.scheme, min(p.destination) AS destination, count(*) AS messages, bool_or(p.due) AS due
                  FROM (SELECT m.destination, m.due_at <= now() AS due, split_part(m.destination, '://', 1) AS scheme,
                               CASE WHEN split_part(m.destination, '://', 1) IN ('http', 'https', 'rabbitmq')
                                      AND m.destination NOT LIKE 'rabbitmq:///%'
                                    THEN split_part(split_part(m.destination, '?', 1), '/', 3)
                                    ELSE m.destination END AS target
                          FROM ` + outboxdb.PendingRowsSQL + ` AS m) AS p
                 GROUP BY p.scheme, p.target) AS c) AS t
 WHERE t.place <= $1
 ORDER BY t.scheme, t.place`

func (o *Operator) pendingTargets(ctx context.Context, limit int) ([]pendingTarget, error) {
	rows, err := o.pool.Query(ctx, pendingTargetsSQL, limit)
	if err != nil {
		return nil, fmt.Errorf("listing destinations: %w", err)
	}
	targets, err := pgx.CollectRows(rows, pgx.RowToStructByName[pendingTarget])
	if err != nil {
		return nil, fmt.Errorf("listing destinations: %w", err)
	}
	return targets, nil
}

// claimedSQL returns messages that were claimed: those due for the longest time first, and those
// off the fast path whose lease ends first. Messages with a stalled run are among these. What a stream
// has in hand has no run.
const claimedSQL = `
(SELECT m.id, m.generation
   FROM ` + outboxdb.PendingRowsSQL + ` AS m
  WHERE m.started AND NOT m.retrying AND NOT m.streamed
  ORDER BY m.due_at
  LIMIT $1)
UNION ALL
(SELECT m.id, m.generation
   FROM outbox.messages AS m
  WHERE m.retrying
  ORDER BY m.available_at
  LIMIT $1)`

// claimed returns pending messages that should have an open run: at most limit of those that are
// retried, and limit of the others. It reads every pending row.
func (o *Operator) claimed(ctx context.Context, limit int) ([]outbox.Ref, error) {
	rows, err := o.pool.Query(ctx, claimedSQL, limit)
	if err != nil {
		return nil, fmt.Errorf("listing claimed messages: %w", err)
	}
	refs, err := pgx.CollectRows(rows, pgx.RowToStructByName[outbox.Ref])
	if err != nil {
		return nil, fmt.Errorf("listing claimed messages: %w", err)
	}
	return refs, nil
}

// failingTarget is a target whose messages do not go out.
type failingTarget struct {
	Target string `db:"target"`
	// Messages are the pending ones of its destinations that fail.
	Messages int `db:"messages"`
	// FailingSince is nil where no breaker has counted a failure: only single messages fail, or the
	// daemons' settings keep them from being sent.
	FailingSince *time.Time `db:"failing_since"`
	// Open says that a breaker is open.
	Open bool `db:"open"`
	// LastError is that of one of its breakers, else of one of its messages.
	LastError string `db:"last_error"`
	// Missing is one of its destinations that does not exist, MissingSince since when. Empty where
	// none is known not to exist.
	Missing      string     `db:"missing"`
	MissingSince *time.Time `db:"missing_since"`
	// All is how many such targets there are.
	All int `db:"all_targets"`
}

// failingTargetsSQL reads every pending row, and the breakers that each of their destinations
// meets. Each destination that does not exist has a row of its own.
const failingTargetsSQL = `
SELECT f.*, count(*) OVER () AS all_targets
  FROM (SELECT coalesce(b.missing, ` + outboxdb.TargetOfSQL + `) AS target, sum(m.messages)::bigint AS messages,
               min(b.failing_since) AS failing_since, bool_or(b.open) AS open,
               coalesce(max(b.reason), max(b.last_error), max(m.last_error), '') AS last_error,
               coalesce(min(b.missing), '') AS missing, min(b.missing_since) AS missing_since
          FROM (SELECT p.destination, count(*) AS messages,
                       max(p.last_error)
                           FILTER (WHERE p.phase IN ('waiting', 'retrying') AND NOT p.follower) AS last_error
                  FROM (SELECT m.destination, m.last_error, m.follower, ` + outboxdb.PhaseSQL + ` AS phase
                          FROM ` + outboxdb.PendingRowsSQL + ` AS m) AS p
                 GROUP BY 1) AS m
         CROSS JOIN LATERAL (
               SELECT count(*) > 0 AS fails, min(h.failing_since) AS failing_since,
                      coalesce(bool_or(h.open_until IS NOT NULL), false) AS open, max(h.last_error) AS last_error,
                      max(h.missing_reason) AS reason, min(h.missing_since) AS missing_since,
                      min(h.destination) FILTER (WHERE h.missing_since IS NOT NULL) AS missing
                 FROM outbox.destinations AS h
                WHERE (h.failing_since IS NOT NULL OR h.open_until IS NOT NULL) AND ` + outboxdb.BreakersOfSQL + `) AS b
         WHERE b.fails OR m.last_error IS NOT NULL
         GROUP BY 1) AS f
 ORDER BY f.messages DESC, f.target
 LIMIT $1`

// failingTargets returns at most limit targets whose pending messages do not go out, those with the
// most messages first. It reads every pending row.
func (o *Operator) failingTargets(ctx context.Context, limit int) ([]failingTarget, error) {
	rows, err := o.pool.Query(ctx, failingTargetsSQL, limit)
	if err != nil {
		return nil, fmt.Errorf("looking for destinations that fail: %w", err)
	}
	targets, err := pgx.CollectRows(rows, pgx.RowToStructByName[failingTarget])
	if err != nil {
		return nil, fmt.Errorf("looking for destinations that fail: %w", err)
	}
	return targets, nil
}

// failingCallbacksSQL reads every due callback along its index.
const failingCallbacksSQL = `
SELECT count(*), coalesce(max(m.callback_error), '')
  FROM outbox.messages AS m
 WHERE m.callback_state = 'due' AND m.callback_error IS NOT NULL`

// failingCallbacks counts the callbacks that are still due after attempts that failed; lastError is
// that of one of them.
func (o *Operator) failingCallbacks(ctx context.Context) (callbacks int, lastError string, err error) {
	if err := o.pool.QueryRow(ctx, failingCallbacksSQL).Scan(&callbacks, &lastError); err != nil {
		return 0, "", fmt.Errorf("counting callbacks: %w", err)
	}
	return callbacks, lastError, nil
}
