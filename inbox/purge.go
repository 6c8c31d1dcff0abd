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

// purgeChunk is how many IDs one statement forgets: some milliseconds of locks.
const purgeChunk = 1000

// purgeSeen deletes a consumer's ($1) next IDs older than $2, from $3 on, at most
// $4: a range of seen_oldest, read in its order. It begins where the last chunk
// stopped, so that it does not crawl over what that one deleted. Another purge's
// rows are not waited for. The limit is a query of its own, which the planner
// takes for a part of all there is, and not for a reason to sort them all.
const purgeSeen = `
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
     WHERE s.consumer = $1 AND s.message_id = o.id
 RETURNING s.seen_at
)
SELECT count(*) AS rows, coalesce(max(seen_at), $3) AS up_to FROM purged`

// chunk is what one statement has done.
type chunk struct {
	Rows int
	UpTo time.Time
}

// Purge forgets up to limit of the oldest message IDs that consumer has seen
// longer ago than olderThan, by the database's clock, and returns how many. It
// works in chunks of 1,000, each a transaction of its own, so that neither a large
// limit nor an error in between costs more than one of them. Fewer than limit
// means that nothing is left, or that another purge has it; several at a time are
// fine. Call it once in a while, for instance from the consumer, with a limit that
// is above what arrives in between.
//
// A message that comes again after its ID is forgotten has its effect again: see
// the package's text for how long is long enough. So olderThan has no default, and
// zero is refused.
func Purge(ctx context.Context, pool *pgxpool.Pool, consumer string, olderThan time.Duration, limit int) (purged int, err error) {
	if err := checkPurge(consumer, olderThan, limit); err != nil {
		return 0, fmt.Errorf("purging seen messages: %w", err)
	}
	on := database.New(pool)
	var last chunk
	chunkSize := purgeChunk
	for purged < limit {
		size := min(limit-purged, chunkSize)
		rows, err := on.Query(ctx, purgeSeen, consumer, olderThan, last.UpTo, size)
		var next chunk
		if err == nil {
			next, err = pgx.CollectExactlyOneRow(rows, pgx.RowToStructByName[chunk])
		}
		if err = database.TooSlow(err); errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil && size > 1 {
			chunkSize = max(size/10, 1) // it was rolled back
			continue
		}
		if err != nil {
			return purged, fmt.Errorf("purging what %s has seen: %w", consumer, err)
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
