package outboxdb

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/outflowhq/outflow"
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
func (o *Operator) InHand(ctx context.Context, limit int) ([]outflow.Ref, error) {
	rows, err := o.pool.Query(ctx, inHand, limit)
	if err != nil {
		return nil, fmt.Errorf("listing messages in hand: %w", err)
	}
	refs, err := pgx.CollectRows(rows, pgx.RowToStructByNameLax[row])
	if err != nil {
		return nil, fmt.Errorf("listing messages in hand: %w", err)
	}
	out := make([]outflow.Ref, 0, len(refs))
	for _, r := range refs {
		out = append(out, outflow.Ref{ID: r.ID, Generation: r.Generation})
	}
	return out, nil
}
