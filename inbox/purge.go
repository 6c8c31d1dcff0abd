package inbox

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/outflowhq/outflow/internal/database"
)

// purgeChunk is how many IDs one statement deletes. It then holds locks for some
// milliseconds.
const purgeChunk = 1000

// purgeSQL deletes a consumer's ($1) next IDs older than $2, from $3 on, at most $4. It reads
// a range of the index seen_oldest in its order.
//   - $3 is where the last chunk stopped: the scan skips the rows that it deleted.
//   - SKIP LOCKED: rows of another purge are not waited for.
//   - The limit is a subquery: the planner then expects a part of all rows, and does not sort
//     all of them.
//   - "= ANY (ARRAY[o.id])" is a look-up of each row. Of "= o.id" a planner that expects few rows makes
//     a walk of all of the consumer's.
const purgeSQL = `
WITH old AS MATERIALIZED (
    SELECT message_id
      FROM inbox.seen
     WHERE consumer = $1 AND seen_at < now() - $2::interval AND seen_at >= $3
     ORDER BY seen_at
     LIMIT (SELECT $4::int)
       FOR UPDATE SKIP LOCKED
), purged AS (
    DELETE FROM inbox.seen AS s
     USING pg_catalog.unnest(ARRAY(SELECT message_id FROM old)) AS o (id)
     WHERE s.consumer = $1 AND s.message_id = ANY (ARRAY[o.id])
 RETURNING s.seen_at
)
SELECT count(*) AS rows, coalesce(max(seen_at), $3) AS up_to FROM purged`

// chunk is the result of one purgeSQL.
type chunk struct {
	Rows int
	UpTo time.Time
}

// Purge deletes message IDs that consumer wrote longer ago than olderThan, by the database's
// clock: the oldest first, limit at most. It returns how many. Fewer than limit means that
// none is left, or that another purge is deleting the rest.
//
// Purge deletes 1,000 IDs in a transaction, so that an error costs the work of one
// transaction. Concurrent purges are safe. Call it from time to time, for instance in the
// consumer, with a limit above the number of messages since the last call.
//
// A message that comes again after its ID was deleted has its effect again. The package's
// documentation says how long to keep IDs. So olderThan has no default, and zero is refused.
func Purge(ctx context.Context, pool *pgxpool.Pool, consumer string, olderThan time.Duration,
	limit int) (purged int, err error) {
	if err := checkPurge(consumer, olderThan, limit); err != nil {
		return 0, fmt.Errorf("purging seen messages: %w", err)
	}
	on := database.New(pool)
	var last chunk
	chunkSize := purgeChunk
	for purged < limit {
		size := min(limit-purged, chunkSize)
		rows, err := on.Query(ctx, purgeSQL, consumer, olderThan, last.UpTo, size)
		var next chunk
		if err == nil {
			next, err = pgx.CollectExactlyOneRow(rows, pgx.RowToStructByName[chunk])
		}
		if err = database.TooSlow(err); errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil && size > 1 {
			chunkSize = max(size/10, 1) // the larger chunk was rolled back
			continue
		}
		if err != nil {
			return purged, fmt.Errorf("purging the message IDs of %s: %w", consumer, err)
		}
		last = next
		purged += last.Rows
		if last.Rows < size {
			break
		}
	}
	return purged, nil
}

func checkPurge(consumer string, olderThan time.Duration, limit int) error {
	if err := checkConsumer(consumer); err != nil {
		return err
	}
	if olderThan <= 0 {
		return &InputError{"olderThan", fmt.Sprintf("wants an age above zero (got %s)", olderThan)}
	}
	if limit < 1 {
		return &InputError{"limit", fmt.Sprintf("wants 1 or more (got %d)", limit)}
	}
	return nil
}
