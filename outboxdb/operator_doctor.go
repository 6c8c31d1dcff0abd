package outboxdb

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/outflowhq/outflow/outbox"
)

// PendingTarget is where pending messages go: a queue, a topic, an exchange, or for
// webhooks a scheme and host with its port.
type PendingTarget struct {
	Scheme string `db:"scheme"`
	// Destination is one of the target's.
	Destination string `db:"destination"`
	Messages    int    `db:"messages"`
	// OfScheme is how many targets the scheme has.
	OfScheme int `db:"of_scheme"`
}

// pendingTargets reads every pending row. The targets of each scheme with the most
// messages come first, up to $1 of them: thousands of one scheme hide no other.
const pendingTargets = `
SELECT t.scheme, t.destination, t.messages, t.of_scheme
  FROM (SELECT c.*, row_number() OVER (PARTITION BY c.scheme ORDER BY c.messages DESC, c.destination) AS place,
               count(*) OVER (PARTITION BY c.scheme) AS of_scheme
          FROM (SELECT p.scheme, min(p.destination) AS destination, count(*) AS messages
                  FROM (SELECT m.destination, split_part(m.destination, '://', 1) AS scheme,
                               CASE WHEN split_part(m.destination, '://', 1) IN ('http', 'https', 'rabbitmq')
                                    THEN split_part(split_part(m.destination, '?', 1), '/', 3) ELSE m.destination END AS target
                          FROM ` + pendingRows + ` AS m) AS p
                 GROUP BY p.scheme, p.target) AS c) AS t
 WHERE t.place <= $1
 ORDER BY t.scheme, t.place`

// PendingTargets returns where pending messages go: of each scheme at most limit
// targets, those with the most messages first. It reads every pending row.
func (o *Operator) PendingTargets(ctx context.Context, limit int) ([]PendingTarget, error) {
	rows, err := o.pool.Query(ctx, pendingTargets, limit)
	if err != nil {
		return nil, fmt.Errorf("listing destinations: %w", err)
	}
	targets, err := pgx.CollectRows(rows, pgx.RowToStructByName[PendingTarget])
	if err != nil {
		return nil, fmt.Errorf("listing destinations: %w", err)
	}
	return targets, nil
}

// inHand are messages that somebody has claimed, those due for the longest time first,
// and those off the fast path whose lease ends first: where runs do not take their
// messages, they are among these.
const inHand = `
(SELECT m.id, m.generation
   FROM ` + pendingRows + ` AS m
  WHERE m.started AND NOT m.retrying
  ORDER BY m.due_at
  LIMIT $1)
UNION ALL
(SELECT m.id, m.generation
   FROM outbox.messages AS m
  WHERE m.retrying
  ORDER BY m.available_at
  LIMIT $1)`

// InHand returns pending messages that were claimed, of which a run should be open: at
// most limit of those that are retried, and of the others. It reads every pending row.
func (o *Operator) InHand(ctx context.Context, limit int) ([]outbox.Ref, error) {
	rows, err := o.pool.Query(ctx, inHand, limit)
	if err != nil {
		return nil, fmt.Errorf("listing messages in hand: %w", err)
	}
	refs, err := pgx.CollectRows(rows, pgx.RowToStructByNameLax[row])
	if err != nil {
		return nil, fmt.Errorf("listing messages in hand: %w", err)
	}
	out := make([]outbox.Ref, 0, len(refs))
	for _, r := range refs {
		out = append(out, outbox.Ref{ID: r.ID, Generation: r.Generation})
	}
	return out, nil
}

// FailingTarget is a target (a queue, a topic, an exchange, or a webhook's scheme and host
// with its port) whose messages do not go out.
type FailingTarget struct {
	Target string `db:"target"`
	// Messages are the pending ones of its destinations that fail.
	Messages int `db:"messages"`
	// FailingSince is nil where no breaker has counted a failure: a message alone fails,
	// or the daemons' settings keep it from being sent.
	FailingSince *time.Time `db:"failing_since"`
	// Open says that a breaker is open.
	Open bool `db:"open"`
	// LastError is one of those of its breakers, else of its messages.
	LastError string `db:"last_error"`
	// All is how many such targets there are.
	All int `db:"all_targets"`
}

// failingTargets reads every pending row, and of each of their destinations the breakers
// that it meets.
const failingTargets = `
SELECT f.*, count(*) OVER () AS all_targets
  FROM (SELECT ` + targetOf + ` AS target, sum(m.messages)::bigint AS messages, min(b.failing_since) AS failing_since,
               bool_or(b.open) AS open, coalesce(max(b.last_error), max(m.last_error), '') AS last_error
          FROM (SELECT p.destination, count(*) AS messages, max(p.last_error) FILTER (WHERE p.phase IN ('waiting', 'retrying')) AS last_error
                  FROM (SELECT m.destination, m.last_error, ` + phase + ` AS phase FROM ` + pendingRows + ` AS m) AS p
                 GROUP BY 1) AS m
         CROSS JOIN LATERAL (
               SELECT count(*) > 0 AS fails, min(h.failing_since) AS failing_since,
                      coalesce(bool_or(h.open_until IS NOT NULL), false) AS open, max(h.last_error) AS last_error
                 FROM outbox.destinations AS h
                WHERE (h.failing_since IS NOT NULL OR h.open_until IS NOT NULL) AND ` + breakersOf + `) AS b
         WHERE b.fails OR m.last_error IS NOT NULL
         GROUP BY 1) AS f
 ORDER BY f.messages DESC, f.target
 LIMIT $1`

// Failing returns the targets whose pending messages do not go out: at most limit, those
// with the most messages first. It reads every pending row.
func (o *Operator) Failing(ctx context.Context, limit int) ([]FailingTarget, error) {
	rows, err := o.pool.Query(ctx, failingTargets, limit)
	if err != nil {
		return nil, fmt.Errorf("looking for destinations that fail: %w", err)
	}
	targets, err := pgx.CollectRows(rows, pgx.RowToStructByName[FailingTarget])
	if err != nil {
		return nil, fmt.Errorf("looking for destinations that fail: %w", err)
	}
	return targets, nil
}

// failingCallbacks reads every due callback along its index.
const failingCallbacks = `
SELECT count(*), coalesce(max(m.callback_error), '')
  FROM outbox.messages AS m
 WHERE m.callback_state = 'due' AND m.callback_error IS NOT NULL`

// FailingCallbacks counts the callbacks that are still due after attempts that failed;
// lastError is one of theirs.
func (o *Operator) FailingCallbacks(ctx context.Context) (callbacks int, lastError string, err error) {
	if err := o.pool.QueryRow(ctx, failingCallbacks).Scan(&callbacks, &lastError); err != nil {
		return 0, "", fmt.Errorf("counting callbacks: %w", err)
	}
	return callbacks, lastError, nil
}
