package outboxdb

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/outbox"
)

// A stream claims rows in pages (docs/decisions/0036).
//   - It claims rows that nobody has claimed since the enqueue or an operator's last act ("started").
//     Another claim may have left a live run behind, of which a start without an answer tells nothing.
//   - A page is a row of outbox.pages. Its messages are leased until a time that is a day away, and
//     freed by name: by their stream, by the next attempt of it, or by a scanner (stream_pages.go).
//   - What ends rows is what ends those of runs: finishSQL, with its generation guard.

const (
	// streamHint is how long starters leave a stream's messages to it after it was last heard of.
	streamHint = 15 * time.Second
	// maxHandedOver is how many messages of a stream may wait for runs of their own: as many as may be
	// off the fast path.
	maxHandedOver = maxRetrying
	// endOfThis is how old the end of a stream may be that a starter has just begun: its start, and the
	// note of it, take 10 s at most.
	endOfThis = 10 * time.Second
	// streamPause is how long starters begin no stream after one that could not go on.
	streamPause = time.Minute
)

// claimPageSQL claims the next page of the destination $1, from the due time $2 on: at most $3 messages
// and $4 bytes, for the holder $5.
//   - Nothing is claimed behind an open breaker.
//   - Rows that were claimed before are handed over: retrying has starters claim them, by its own index.
//   - A page has rows with as many lost claims as the first one. With each lost claim it is a tenth.
//   - The planner takes an array for ten rows, so the updates find their rows by primary key.
const claimPageSQL = `
WITH here AS MATERIALIZED (
    SELECT coalesce(bool_or(h.open_until IS NOT NULL), false) AS open,
           coalesce(bool_or(h.failing_since IS NOT NULL), false) AS failing
      FROM (SELECT $1::text AS destination) AS m, outbox.destinations AS h
     WHERE ` + BreakersOfSQL + `
), found AS MATERIALIZED (
    SELECT m.id, octet_length(m.payload) + octet_length(m.headers::text) - 2 AS bytes,
           m.available_at, m.started, m.claims
      FROM outbox.messages AS m
     WHERE m.state = 'pending' AND NOT m.parked AND m.destination = $1
       AND m.available_at >= $2 AND m.available_at <= now() AND m.claims < 5 AND NOT m.retrying
       AND NOT (SELECT b.open FROM here AS b)
     ORDER BY m.available_at
     LIMIT $3
       FOR UPDATE SKIP LOCKED
), fresh AS MATERIALIZED (
    SELECT a.id, a.available_at,
           a.alike AND sum(a.bytes) FILTER (WHERE a.alike) OVER placed - a.bytes < $4
           AND count(*) FILTER (WHERE a.alike) OVER placed <= greatest($3::int / CASE a.claims
               WHEN 0 THEN 1 WHEN 1 THEN 10 WHEN 2 THEN 100 ELSE 1000 END, 1) AS fits
      FROM (SELECT f.*, f.claims = (SELECT g.claims FROM found AS g WHERE NOT g.started
                                     ORDER BY g.available_at, g.id LIMIT 1) AS alike
              FROM found AS f
             WHERE NOT f.started) AS a
    WINDOW placed AS (ORDER BY a.available_at, a.id ROWS UNBOUNDED PRECEDING)
), handed AS (
    UPDATE outbox.messages AS m
       SET retrying = true
      FROM pg_catalog.unnest(ARRAY(SELECT f.id FROM found AS f WHERE f.started)) AS h (id)
     WHERE m.id = ANY (ARRAY[h.id]) AND m.finished_at IS NULL
), page AS MATERIALIZED (
    SELECT now() + interval '1 day' AS at,
           coalesce(min(f.available_at) FILTER (WHERE NOT f.fits), max(f.available_at)) AS next,
           count(*) FILTER (WHERE f.fits) AS messages
      FROM fresh AS f
), noted AS (
    INSERT INTO outbox.pages (destination, at, holder, messages)
    SELECT $1, p.at, $5, p.messages FROM page AS p WHERE p.messages > 0
)
UPDATE outbox.messages AS m
   SET available_at = (SELECT p.at FROM page AS p), parked = true, started = true, streamed = true,
       claims = m.claims + 1
  FROM pg_catalog.unnest(ARRAY(SELECT f.id FROM fresh AS f WHERE f.fits)) AS f (id)
 WHERE m.id = ANY (ARRAY[f.id]) AND m.finished_at IS NULL
RETURNING (SELECT p.next FROM page AS p) AS next, (SELECT b.failing FROM here AS b) AS failing, ` + pageColumnsSQL

// pageColumnsSQL are what a stream needs of a row: a page has thousands, and each column costs both sides.
// The least keeps expires_in within a time.Duration.
const pageColumnsSQL = `
	m.id, m.type, m.payload, m.content_type, CASE WHEN m.headers <> '{}' THEN m.headers END AS headers,
	m.ordering_key, m.generation, m.claims, m.cancel_requested, m.due_at, m.available_at,
	least(m.expires_at - now(), interval '36500 days') AS expires_in`

// pageRow is a row of a page.
type pageRow struct {
	Next            time.Time         `db:"next"`
	Failing         bool              `db:"failing"`
	ID              uuid.UUID         `db:"id"`
	Type            string            `db:"type"`
	Payload         []byte            `db:"payload"`
	ContentType     string            `db:"content_type"`
	Headers         map[string]string `db:"headers"`
	OrderingKey     *string           `db:"ordering_key"`
	Generation      int               `db:"generation"`
	Claims          int               `db:"claims"`
	CancelRequested bool              `db:"cancel_requested"`
	DueAt           time.Time         `db:"due_at"`
	AvailableAt     time.Time         `db:"available_at"`
	ExpiresIn       *time.Duration    `db:"expires_in"`
}

// message is the row as a stream has it. The database has decided that it is pending.
func (r pageRow) message(destination string) outbox.PageMessage {
	return outbox.PageMessage{
		Record: outbox.Record{
			Message: outflow.Message{
				ID: r.ID, Destination: destination, Type: r.Type, Payload: r.Payload, ContentType: r.ContentType,
				Headers: r.Headers, OrderingKey: deref(r.OrderingKey), DueAt: r.DueAt,
			},
			State: outflow.Pending, Generation: r.Generation, Claims: r.Claims, CancelRequested: r.CancelRequested,
		},
		Expires: r.ExpiresIn != nil, ExpiresIn: deref(r.ExpiresIn),
	}
}

// breakerOpenSQL says whether a breaker of the destination $1 is open.
const breakerOpenSQL = `
SELECT coalesce(bool_or(h.open_until IS NOT NULL), false)
  FROM (SELECT $1::text AS destination) AS m, outbox.destinations AS h WHERE ` + BreakersOfSQL

// ClaimPage claims the next page of a stream. A page without messages says that none is due now, or
// that the destination's breaker is open. From the beginning it says which.
func (s *Store) ClaimPage(ctx context.Context, req outbox.PageRequest) (outbox.Page, error) {
	page := outbox.Page{PageRef: outbox.PageRef{Destination: req.Destination}, Next: req.From}
	if req.MaxMessages < 1 || req.MaxBytes < 1 {
		return page, nil
	}
	rows, sent, err := s.pool.QuerySent(ctx, claimPageSQL, req.Destination, req.From, req.MaxMessages, req.MaxBytes, req.Holder)
	if err != nil {
		return page, fmt.Errorf("claiming a page of %s: %w", outflow.DisplayDestination(req.Destination), err)
	}
	claimed, err := pgx.CollectRows(rows, pgx.RowToStructByPos[pageRow])
	var pg *pgconn.PgError
	if errors.As(err, &pg) && pg.Code == "23505" { // another claim made a page in the same microsecond
		return page, nil
	}
	if err != nil {
		return page, fmt.Errorf("claiming a page of %s: %w", outflow.DisplayDestination(req.Destination), err)
	}
	if len(claimed) == 0 && req.From.IsZero() {
		if err := s.pool.QueryRow(ctx, breakerOpenSQL, req.Destination).Scan(&page.HeldBack); err != nil {
			return page, fmt.Errorf("reading the breaker of %s: %w", outflow.DisplayDestination(req.Destination), err)
		}
	}
	page.ClaimedAt, page.Messages = sent, make([]outbox.PageMessage, 0, len(claimed))
	for i, r := range claimed {
		if i == 0 {
			s.breakers.sawRow(req.Destination, r.Failing, false)
		}
		page.At, page.Next = r.AvailableAt, r.Next
		page.Suspect = page.Suspect || r.Claims > 1
		page.Messages = append(page.Messages, r.message(req.Destination))
	}
	return page, nil
}

// handOverSQL leaves rows of the page $3 to runs of their own, as far as at most $7 of the destination $6
// are off the fast path then, after a failure; the others to later claims. The attempts failed with an
// error, so the messages crash nothing.
const handOverSQL = lockRowsSQL + `, room AS MATERIALIZED (
    SELECT $7::int - count(*) AS rows
      FROM (SELECT FROM outbox.messages AS m
             WHERE m.retrying AND m.destination = $6::text AND m.attempts > 0 LIMIT $7) AS few
), handed AS (
    UPDATE outbox.messages AS m
       SET retrying = h.place <= r.rows, streamed = false, claims = 0, attempts = m.attempts + h.attempts,
           available_at = CASE WHEN h.place <= r.rows THEN now() ELSE now() + interval '1 second' END, parked = true,
           last_error = coalesce(h.last_error, m.last_error)
      FROM unnest((SELECT $1::uuid[]), (SELECT $2::int[]), (SELECT $4::text[]), (SELECT $5::int[])) WITH ORDINALITY
           AS h (id, generation, last_error, attempts, place), room AS r
     WHERE h.id = ANY (ARRAY(SELECT l.id FROM locked AS l)) AND m.id = ANY (ARRAY[h.id])
       AND m.generation = h.generation AND m.finished_at IS NULL AND m.available_at = $3
    RETURNING m.retrying
)` + passedOverSQL + `
SELECT h.retrying, NULL::uuid FROM handed AS h UNION ALL SELECT NULL, w.id FROM waiting AS w`

// HandOver leaves messages of a page to runs of their own. What has left the page meanwhile stays as it
// is. A stream makes one call at a time: each counts by itself.
func (s *Store) HandOver(
	ctx context.Context, p outbox.PageRef, failed []outbox.Unfinished,
) (done outbox.HandedOver, err error) {
	var c columns
	for _, f := range failed {
		c.add(f.Ref, f.LastError, f.Attempts)
	}
	rows, err := s.pool.Query(ctx, handOverSQL, c.ids, c.generations, p.At, c.lastErrors, c.attempts, p.Destination,
		maxHandedOver)
	if err != nil {
		return done, fmt.Errorf("handing over %d messages: %w", len(failed), err)
	}
	all, err := pgx.CollectRows(rows, pgx.RowToStructByPos[struct {
		Handed *bool
		Locked *uuid.UUID
	}])
	if err != nil {
		return done, fmt.Errorf("handing over %d messages: %w", len(failed), err)
	}
	s.hintSoon()
	done.Enough = true
	for _, r := range all {
		switch {
		case r.Locked != nil:
			done.Locked = append(done.Locked, *r.Locked)
		case deref(r.Handed):
			done.Messages++
		default:
			done.Enough = false
		}
	}
	return done, nil
}

// noteStreamSQL notes how a stream goes. $2 to $5 are its progress, $6 is why it ended (NULL: it goes on),
// $7 how long the hint lasts, $8 how long no other is begun. $9 says that it is the run's first note.
const noteStreamSQL = `
INSERT INTO outbox.streams AS s
       (destination, delivered, dead, handed_over, per_second, started_at, runs_until, paused, ended_at, ended,
        not_before)
VALUES ($1, $2, $3, $4, $5, now(), CASE WHEN $6::text IS NULL THEN now() + $7::interval END,
        coalesce($6 = 'paused', false), CASE WHEN $6 IS NOT NULL THEN now() END, $6, now() + $8::interval)
ON CONFLICT (destination) DO UPDATE
   SET delivered = $2, dead = $3, handed_over = $4, per_second = $5,
       started_at = CASE WHEN $9::boolean OR s.started_at IS NULL OR s.ended IN ('drained', 'failing', 'cancelled')
                         THEN now() ELSE s.started_at END,
       runs_until = excluded.runs_until, paused = excluded.paused, ended_at = excluded.ended_at, ended = excluded.ended,
       not_before = coalesce(excluded.not_before, CASE WHEN NOT $9 THEN s.not_before END)`

// NoteStream notes how a stream goes, and has starters leave its messages to it for some seconds. first
// says that this is the first note of a run.
func (s *Store) NoteStream(ctx context.Context, n outbox.StreamState, first bool) error {
	var ended *string
	var pause *time.Duration
	if n.Ended != "" && n.Ended != outbox.StreamTurn && n.Ended != outbox.StreamStopped {
		ended = orNull(string(n.Ended))
	}
	if n.Ended == outbox.StreamFailing || n.Ended == outbox.StreamCancelled {
		pause = orNull(streamPause)
	}
	_, err := s.pool.Exec(ctx, noteStreamSQL, n.Destination, n.Delivered, n.Dead, n.HandedOver, n.PerSecond,
		ended, streamHint, pause, first)
	if err != nil {
		return fmt.Errorf("noting how the stream of %s goes: %w", outflow.DisplayDestination(n.Destination), err)
	}
	return nil
}

// announceStreamSQL notes that a starter has begun the stream of the destination $1. A worker that has
// taken it meanwhile knows better: its note stands, and so does that of an end of the last seconds.
const announceStreamSQL = `
INSERT INTO outbox.streams AS s (destination, started_at, runs_until) VALUES ($1, now(), now() + $2::interval)
ON CONFLICT (destination) DO UPDATE
   SET delivered = 0, dead = 0, handed_over = 0, per_second = 0, started_at = now(),
       runs_until = excluded.runs_until, paused = false, ended_at = NULL, ended = NULL, not_before = NULL
 WHERE (s.runs_until > now()) IS NOT TRUE AND (s.ended_at > now() - $3::interval) IS NOT TRUE`

// AnnounceStream has starters leave a destination's messages to the stream that one of them has just
// begun, for some seconds: until a worker notes how it goes.
func (s *Store) AnnounceStream(ctx context.Context, destination string) error {
	if _, err := s.pool.Exec(ctx, announceStreamSQL, destination, streamHint, endOfThis); err != nil {
		return fmt.Errorf("announcing the stream of %s: %w", outflow.DisplayDestination(destination), err)
	}
	return nil
}

// wantStreamsSQL are those of the destinations $1 that are worth a stream: no stream runs, and more
// than its bound are due. $2 is the bound of those without their own; 0: never. The few of these that
// were claimed before count too: to leave them out would read each row.
const wantStreamsSQL = `
SELECT d.destination
  FROM (SELECT w.destination, coalesce(s.above, $2::int) AS above
          FROM pg_catalog.unnest($1::text[]) AS w (destination)
          LEFT JOIN outbox.streams AS s ON s.destination = w.destination
         WHERE (s.runs_until > now()) IS NOT TRUE AND (s.not_before > now()) IS NOT TRUE) AS d
 WHERE d.above > 0
   AND (SELECT count(*) FROM (SELECT FROM outbox.messages AS m
                               WHERE m.state = 'pending' AND NOT m.parked AND m.destination = d.destination
                                 AND m.available_at <= now()
                               ORDER BY m.destination, m.available_at LIMIT d.above + 1) AS few) > d.above`

// WantStreams returns those of the destinations that are worth a stream. above is the bound of those
// without one of their own; 0: they have none.
func (s *Store) WantStreams(ctx context.Context, destinations []string, above int) ([]string, error) {
	rows, err := s.pool.Query(ctx, wantStreamsSQL, destinations, above)
	if err != nil {
		return nil, fmt.Errorf("looking which destinations are worth a stream: %w", err)
	}
	wanted, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return nil, fmt.Errorf("looking which destinations are worth a stream: %w", err)
	}
	return wanted, nil
}
