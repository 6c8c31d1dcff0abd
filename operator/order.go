package operator

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// blockedSQL counts the ordering keys with a dead head and messages behind it. It reads each dead
// head, and the first message behind it.
const blockedSQL = `
SELECT m.destination, count(*) AS keys,
       greatest(max(extract(epoch FROM now() - f.due_at)), 0)::float8 AS oldest_seconds
  FROM outbox.messages AS m
 CROSS JOIN LATERAL (
       SELECT f.due_at FROM outbox.messages AS f
        WHERE f.follower AND f.destination = m.destination AND f.ordering_key = m.ordering_key
        ORDER BY f.seq LIMIT 1) AS f
 WHERE m.head AND m.state = 'dead'
 GROUP BY m.destination
 ORDER BY keys DESC, m.destination`

// strandedSQL counts the ordering keys with followers, without a head, whose release is not deferred:
// nothing would ever release them. It goes from key to key by a loose index scan.
const strandedSQL = `
WITH RECURSIVE followed AS (
    (SELECT m.destination, m.ordering_key FROM outbox.messages AS m
      WHERE m.follower ORDER BY m.destination, m.ordering_key LIMIT 1)
    UNION ALL
    SELECT next.destination, next.ordering_key
      FROM followed AS k
     CROSS JOIN LATERAL (
           SELECT m.destination, m.ordering_key FROM outbox.messages AS m
            WHERE m.follower AND (m.destination, m.ordering_key) > (k.destination, k.ordering_key)
            ORDER BY m.destination, m.ordering_key LIMIT 1) AS next
)
SELECT count(*)
  FROM followed AS k
 WHERE NOT EXISTS (SELECT FROM outbox.messages AS m
                    WHERE m.head AND m.destination = k.destination AND m.ordering_key = k.ordering_key)
   AND NOT EXISTS (SELECT FROM outbox.deferred_releases AS o
                    WHERE o.destination = k.destination AND o.ordering_key = k.ordering_key)`

// BlockedKeys are the ordering keys of one destination that a dead message blocks.
type BlockedKeys struct {
	Destination string `db:"destination" json:"destination"`
	Keys        int    `db:"keys" json:"keys"`
	// OldestSeconds is how long the longest waiting of the first messages behind the dead ones has
	// been due.
	OldestSeconds float64 `db:"oldest_seconds" json:"oldestSeconds"`
}

// Blocked counts the ordering keys in which messages wait behind a dead one, those with most keys
// first.
func (o *Operator) Blocked(ctx context.Context) ([]BlockedKeys, error) {
	rows, err := o.pool.Query(ctx, blockedSQL)
	if err != nil {
		return nil, fmt.Errorf("counting blocked ordering keys: %w", err)
	}
	blocked, err := pgx.CollectRows(rows, pgx.RowToStructByName[BlockedKeys])
	if err != nil {
		return nil, fmt.Errorf("counting blocked ordering keys: %w", err)
	}
	return blocked, nil
}

// strandedKeys counts the ordering keys whose messages nothing would release.
func (o *Operator) strandedKeys(ctx context.Context) (keys int, err error) {
	if err := o.pool.QueryRow(ctx, strandedSQL).Scan(&keys); err != nil {
		return 0, fmt.Errorf("looking for ordering keys without a head: %w", err)
	}
	return keys, nil
}
