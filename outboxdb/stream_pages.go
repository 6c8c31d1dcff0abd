package outboxdb

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/outbox"
)

const (
	// pageSettled is how long after its claim the requests of a page have ended: they begin within 20 s
	// and take outflow.MaxCallTime at most. Then the next attempt of a stream frees the pages of the
	// attempt before it.
	pageSettled = time.Minute
	// pageLost is how long after its claim a scanner takes a page for lost, with its stream.
	pageLost = 10 * time.Minute
	// A page that is to be freed is noted as overdue first. Its holder may have been without its database
	// as well, and have acknowledgements to write: it has this long to do so.
	pageGrace     = 10 * time.Second
	lostPageGrace = 30 * time.Second
)

// pageRowsSQL are the rows m of a page p that have not ended.
const pageRowsSQL = `
    m.state = 'pending' AND m.parked AND m.destination = p.destination
    AND ` + SecondOfSQL + ` = date_bin('1 second'::interval, p.at, '2000-01-01Z'::timestamptz)
    AND m.available_at = p.at AND m.streamed`

// endPageSQL ends a page whose messages have all ended or were given back. A page with others, such as
// one that another session had locked, is freed later.
const endPageSQL = `
DELETE FROM outbox.pages AS e
 WHERE e.destination = $1 AND e.at = $2
   AND NOT EXISTS (SELECT FROM (SELECT $1::text AS destination, $2::timestamptz AS at) AS p, outbox.messages AS m
                    WHERE ` + pageRowsSQL + `)`

// passedOverSQL goes behind lockRowsSQL. "waiting" are those of the rows $1 that are still in the page $3:
// other sessions have locked them.
const passedOverSQL = `, passed AS MATERIALIZED (
    SELECT a.id FROM pg_catalog.unnest((SELECT $1::uuid[])) AS a (id) EXCEPT SELECT l.id FROM locked AS l
), waiting AS MATERIALIZED (
    SELECT m.id
      FROM passed AS p
      JOIN outbox.messages AS m ON m.id = ANY (ARRAY[p.id])
     WHERE m.finished_at IS NULL AND m.available_at = $3
)`

// leavePageSQL gives messages of a page back that were not sent, or not with success. No run was started
// for any of them, so a stream may claim them again.
const leavePageSQL = lockRowsSQL + `, given AS (
    UPDATE outbox.messages AS m
       SET available_at = now(), parked = false, started = false, streamed = false,
           claims = greatest(m.claims - 1, 0), attempts = m.attempts + g.attempts,
           last_error = coalesce(g.last_error, m.last_error)
      FROM unnest((SELECT $1::uuid[]), (SELECT $2::int[]), (SELECT $4::text[]), (SELECT $5::int[]))
           AS g (id, generation, last_error, attempts)
     WHERE g.id = ANY (ARRAY(SELECT l.id FROM locked AS l)) AND m.id = ANY (ARRAY[g.id])
       AND m.generation = g.generation AND m.finished_at IS NULL AND m.available_at = $3
)` + passedOverSQL + `
SELECT w.id FROM waiting AS w`

// freePagesSQL frees pages of the destination $1 (NULL: of any) which none of $2 holds and which were
// claimed $3 ago: first it notes that they are overdue, and frees them when that was noted $4 ago.
//   - Their claims stay counted: the process of the holder was lost with them. The next page of these
//     rows is a tenth. Where that would be ten rows or fewer they are quarantined (claims = 5).
//   - A stream may claim them again: no run was started for any of them.
//   - A row that another session has locked is freed the next time, and its page stands until then.
const freePagesSQL = `
WITH overdue AS (
    UPDATE outbox.pages AS p
       SET overdue_at = now()
     WHERE ($1::text IS NULL OR p.destination = $1) AND p.holder <> ALL ($2::uuid[])
       AND p.claimed_at <= now() - $3::interval
       AND p.overdue_at IS NULL
    RETURNING p.at
), given AS MATERIALIZED (
    SELECT p.destination, p.at
      FROM outbox.pages AS p
     WHERE ($1::text IS NULL OR p.destination = $1) AND p.holder <> ALL ($2::uuid[])
       AND p.claimed_at <= now() - $3::interval
       AND p.overdue_at <= now() - $4::interval
       FOR UPDATE SKIP LOCKED
), rows AS MATERIALIZED (
    SELECT p.destination, p.at, next.id
      FROM given AS p
     CROSS JOIN LATERAL (SELECT m.id FROM outbox.messages AS m
                          WHERE ` + pageRowsSQL + ` FOR NO KEY UPDATE SKIP LOCKED) AS next
), freed AS (
    UPDATE outbox.messages AS m
       SET available_at = now(), parked = false, started = false, streamed = false,
           claims = CASE WHEN m.claims >= 3 THEN 5 ELSE m.claims END
      FROM pg_catalog.unnest(ARRAY(SELECT r.id FROM rows AS r)) AS r (id)
     WHERE m.id = ANY (ARRAY[r.id]) AND m.finished_at IS NULL
    RETURNING m.id
), ended AS (
    DELETE FROM outbox.pages AS p USING given AS g
     WHERE p.destination = g.destination AND p.at = g.at
       AND (SELECT count(*) FROM outbox.messages AS m WHERE ` + pageRowsSQL + `)
           = (SELECT count(*) FROM rows AS r WHERE r.destination = p.destination AND r.at = p.at)
    RETURNING p.at
)
SELECT (SELECT count(*) FROM freed),
       (SELECT count(*) FROM outbox.pages AS p
         WHERE ($1::text IS NULL OR p.destination = $1) AND p.holder <> ALL ($2::uuid[]))
       - (SELECT count(*) FROM ended)`

// EndPage ends a page whose messages have all ended or were given back. It is idempotent.
func (s *Store) EndPage(ctx context.Context, p outbox.PageRef) error {
	if _, err := s.pool.Exec(ctx, endPageSQL, p.Destination, p.At); err != nil {
		return fmt.Errorf("ending a page of %s: %w", outflow.DisplayDestination(p.Destination), err)
	}
	return nil
}

// LeavePage gives back messages of a page. They are due at once, but for those whose rows other sessions
// have locked: it returns these.
func (s *Store) LeavePage(
	ctx context.Context, p outbox.PageRef, left []outbox.Unfinished,
) (locked []uuid.UUID, err error) {
	var c columns
	for _, u := range left {
		c.add(u.Ref, u.LastError, u.Attempts)
	}
	rows, err := s.pool.Query(ctx, leavePageSQL, c.ids, c.generations, p.At, c.lastErrors, c.attempts)
	if err == nil {
		locked, err = pgx.CollectRows(rows, pgx.RowTo[uuid.UUID])
	}
	if err != nil {
		return nil, fmt.Errorf("giving back %d messages of a page: %w", len(left), err)
	}
	s.hintSoon()
	return locked, nil
}

// FreePages frees the pages of a destination that none of these holders has: earlier attempts of its
// stream have left them behind, or their claims had no answer. Their requests have ended by then. left
// is how many are still to be freed.
func (s *Store) FreePages(
	ctx context.Context, destination string, holders []uuid.UUID,
) (freed, left int, err error) {
	return s.freePages(ctx, &destination, holders, pageSettled, pageGrace)
}

// FreeLostPages frees the pages of streams that are gone for good, such as with Temporal's namespace.
func (s *Store) FreeLostPages(ctx context.Context) (freed int, err error) {
	freed, _, err = s.freePages(ctx, nil, nil, pageLost, lostPageGrace)
	return freed, err
}

func (s *Store) freePages(
	ctx context.Context, destination *string, holders []uuid.UUID, after, grace time.Duration,
) (freed, left int, err error) {
	err = s.pool.QueryRow(ctx, freePagesSQL, destination, append([]uuid.UUID{}, holders...), after, grace).
		Scan(&freed, &left)
	if err != nil {
		return 0, 0, fmt.Errorf("freeing pages that streams have left behind: %w", err)
	}
	if freed > 0 {
		s.hintSoon()
	}
	return freed, left, nil
}
