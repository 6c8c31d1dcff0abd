package outboxdb

import (
	"context"
	"errors"
	"maps"
	"slices"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/internal/coalesce"
	"github.com/outflowhq/outflow/outbox"
)

// A write that names its rows guards them with "finished_at IS NULL", which by a constraint means
// pending. To name the state would offer the planner the claim index, and it takes that index where
// its statistics are from an empty queue: a million rows read for one (TestPlans). It is left with
// the primary key.
//
// A join with a large table says "m.id = ANY (ARRAY[x.id])". That leaves the planner a look-up by the
// primary key for each x. With "m.id = x.id" it reads all of a table in which it expects a few rows,
// as on a quiet day, and a connection keeps that plan for the next backlog: a second for each write
// beside 300,000 rows (TestPlansFromATableOfFewRows).

// lockRowsSQL begins a write on many rows; the write is on those of "locked" alone. It locks them
// in the order of their IDs before the first is written, because an update takes rows in whatever
// order it finds them: two such writes could wait for each other in a circle. A row that another
// session has locked is left out, and the caller waits for it without the others (retryLocked).
// Behind a SELECT the planner takes the array for ten rows, however many there are.
const lockRowsSQL = `
WITH locked AS MATERIALIZED (
    SELECT m.id, m.head FROM outbox.messages AS m
     WHERE m.id = ANY ((SELECT $1::uuid[])::uuid[]) ORDER BY m.id FOR NO KEY UPDATE SKIP LOCKED
)`

// rowsByID are the rows that a statement returned, by message ID.
type rowsByID map[uuid.UUID]storedRow

// storedRow is a row as a batch's statement found it.
type storedRow struct {
	outbox.Record
	written bool // by the statement
	over    bool // its grace is over
}

// wasLocked reports whether a row that a statement did not write is as that statement wants it:
// then the row was locked. A row that is final, or of another generation, is the result as it
// stands.
func wasLocked(r outbox.Ref, found storedRow) bool {
	return !found.written && found.Generation == r.Generation && found.State == outflow.Pending
}

type results = []coalesce.Result[storedRow]

// write runs a statement that returns the rows of messages that it wrote.
func (s *Store) write(ctx context.Context, statement string, args ...any) (rowsByID, error) {
	done, err := s.read(ctx, statement, args...)
	for id, l := range done {
		l.written = true
		done[id] = l
	}
	return done, err
}

// writeInto is write that adds to done.
func (s *Store) writeInto(ctx context.Context, done rowsByID, statement string, args ...any) error {
	written, err := s.write(ctx, statement, args...)
	maps.Copy(done, written)
	return err
}

// read runs a statement that returns rows of messages.
func (s *Store) read(ctx context.Context, statement string, args ...any) (rowsByID, error) {
	rows, err := s.pool.Query(ctx, statement, args...)
	if err != nil {
		return nil, err
	}
	found, err := pgx.CollectRows(rows, pgx.RowToStructByNameLax[row])
	if err != nil {
		return nil, err
	}
	byID := make(rowsByID, len(found))
	for _, r := range found {
		byID[r.ID] = storedRow{Record: r.record(), over: r.Over}
		s.breakers.sawRow(r.Destination, r.Failing, r.Reached)
	}
	if len(found) > 0 && found[0].Released > 0 {
		s.noteReleased()
	}
	return byID, nil
}

// readMissing adds the rows that a guarded statement passed over, as they stand.
func (s *Store) readMissing(ctx context.Context, statement string, ids [][16]byte, done rowsByID) (rowsByID, error) {
	missing := slices.DeleteFunc(slices.Clone(ids), func(id [16]byte) bool { _, ok := done[id]; return ok })
	if len(missing) == 0 {
		return done, nil
	}
	rest, err := s.read(ctx, statement, missing)
	if err != nil {
		return nil, err
	}
	for id, r := range rest {
		done[id] = r
	}
	return done, nil
}

// answerAll runs one statement for many entries and answers each by its ID.
//   - The IDs go in order, so that two statements lock their rows in the same order.
//   - Entries of one ID go one after the other, for each must see what the one before it wrote.
//   - A statement that fails on data is run again in halves, down to the entry that is to blame.
//
// locked reports by a row as it stands whether the statement should have written it, and so met
// another session's lock.
func answerAll[In any](ctx context.Context, in []In, id func(In) uuid.UUID,
	locked func(In, storedRow) bool, run func(context.Context, []In) (rowsByID, error)) results {
	out := make(results, len(in))
	places := make([]int, len(in))
	for i := range places {
		places[i] = i
	}
	slices.SortStableFunc(places, func(a, b int) int { return compareIDs(id(in[a]), id(in[b])) })
	for len(places) > 0 {
		var now, later []int
		for i, p := range places {
			if i > 0 && id(in[places[i-1]]) == id(in[p]) {
				later = append(later, p)
			} else {
				now = append(now, p)
			}
		}
		answerDistinct(ctx, in, now, id, locked, run, out)
		places = later
	}
	return out
}

func answerDistinct[In any](ctx context.Context, in []In, places []int, id func(In) uuid.UUID,
	locked func(In, storedRow) bool, run func(context.Context, []In) (rowsByID, error), out results) {
	batch := make([]In, 0, len(places))
	for _, p := range places {
		batch = append(batch, in[p])
	}
	found, err := run(ctx, batch)
	if isDataError(err) && len(places) > 1 {
		half := len(places) / 2
		answerDistinct(ctx, in, places[:half], id, locked, run, out)
		answerDistinct(ctx, in, places[half:], id, locked, run, out)
		return
	}
	for _, p := range places {
		record, ok := found[id(in[p])]
		switch {
		case err != nil:
			out[p].Err = err
		case !ok:
			out[p].Err = outflow.ErrNotFound
		case locked(in[p], record):
			out[p].Err = outbox.ErrLocked
		default:
			out[p].Value = record
		}
	}
}

// isDataError reports whether a value that was sent is to blame: classes 22
// (data exception) and 23 (constraint violation).
// https://www.postgresql.org/docs/current/errcodes-appendix.html
func isDataError(err error) bool {
	var pg *pgconn.PgError
	return errors.As(err, &pg) && (pg.Code[:2] == "22" || pg.Code[:2] == "23")
}
