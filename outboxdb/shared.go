package outboxdb

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/internal/coalesce"
	"github.com/outflowhq/outflow/internal/text"
	"github.com/outflowhq/outflow/outbox"
)

// records are the rows that a statement returned, by message ID.
type records map[uuid.UUID]looked

// looked is a row as a shared statement found it.
type looked struct {
	outbox.Record
	written bool // by the statement
}

// errLocked is the answer for a row that another session had locked: nothing was
// written.
var errLocked = errors.New("another session has locked the message's row")

// unwritten reports whether a row that a statement did not write is as it should be for
// it: then the row was locked. One that is final, or of another generation, is the
// answer as it stands.
func unwritten(r outbox.Ref, l looked) bool {
	return !l.written && l.Generation == r.Generation && l.State == outflow.Pending
}

type results = []coalesce.Result[looked]

func (s *Store) loadAll(ctx context.Context, refs []outbox.Ref) results {
	id := func(r outbox.Ref) uuid.UUID { return r.ID }
	never := func(outbox.Ref, looked) bool { return false }
	return answerAll(ctx, refs, id, never, func(ctx context.Context, batch []outbox.Ref) (records, error) {
		var c columns
		for _, r := range batch {
			c.add(r, "", 0)
		}
		return s.read(ctx, load, c.ids)
	})
}

func (s *Store) loadAllAgain(ctx context.Context, refs []outbox.Ref) results {
	id := func(r outbox.Ref) uuid.UUID { return r.ID }
	return answerAll(ctx, refs, id, unwritten, func(ctx context.Context, batch []outbox.Ref) (records, error) {
		var c columns
		for _, r := range batch {
			c.add(r, "", 0)
		}
		done, err := s.write(ctx, loadAgain, c.ids, c.generations)
		if err != nil {
			return nil, err
		}
		return s.readMissing(ctx, load, c.ids, done)
	})
}

func (s *Store) renewAll(ctx context.Context, renewals []outbox.Renewal) results {
	id := func(r outbox.Renewal) uuid.UUID { return r.ID }
	return answerAll(ctx, renewals, id, unwrittenRenewal, func(ctx context.Context, batch []outbox.Renewal) (records, error) {
		var c columns
		for _, r := range batch {
			c.add(r.Ref, r.LastError, r.Attempts)
			c.leases = append(c.leases, r.Lease)
			c.lost = append(c.lost, r.Lost)
			c.waits = append(c.waits, r.Waits)
		}
		done, err := s.write(ctx, renew, c.ids, c.generations, c.leases, c.lastErrors, c.attempts, c.lost, c.waits)
		if err != nil {
			return nil, err
		}
		return s.readMissing(ctx, load, c.ids, done)
	})
}

func (s *Store) putBackAll(ctx context.Context, rows []outbox.Renewal) results {
	id := func(r outbox.Renewal) uuid.UUID { return r.ID }
	return answerAll(ctx, rows, id, unwrittenRenewal, func(ctx context.Context, batch []outbox.Renewal) (records, error) {
		var c columns
		for _, r := range batch {
			c.add(r.Ref, r.LastError, r.Attempts)
		}
		done, err := s.write(ctx, putBack, c.ids, c.generations, c.lastErrors, c.attempts)
		if err != nil {
			return nil, err
		}
		return s.readMissing(ctx, loadOutcomes, c.ids, done)
	})
}

func (s *Store) finishAll(ctx context.Context, endings []outbox.Ending) results {
	id := func(e outbox.Ending) uuid.UUID { return e.ID }
	unwritten := func(e outbox.Ending, l looked) bool {
		late := e.State == outflow.Delivered && l.State.Final() && l.State != outflow.Delivered
		return unwritten(e.Ref, l) || late && !l.written && l.Generation == e.Generation
	}
	return answerAll(ctx, endings, id, unwritten, func(ctx context.Context, batch []outbox.Ending) (records, error) {
		var c columns
		for _, e := range batch {
			c.add(e.Ref, e.LastError, e.Attempts)
			c.states = append(c.states, string(e.State))
			c.brokerIDs = append(c.brokerIDs, orNull(text.Clean(e.BrokerMessageID)))
		}
		done, err := s.write(ctx, finish, c.ids, c.generations, c.states, c.brokerIDs, c.lastErrors, c.attempts)
		if err != nil {
			return nil, err
		}
		return s.readMissing(ctx, loadOutcomes, c.ids, done)
	})
}

// returnAll gives claims back. A message that is gone or final needs nothing.
func (s *Store) returnAll(ctx context.Context, claims []giveBack) []coalesce.Result[struct{}] {
	var c columns
	for _, g := range claims {
		c.add(g.Ref, "", 0)
		c.leasedUntil = append(c.leasedUntil, g.leasedUntil)
		c.release = append(c.release, g.release)
	}
	done, err := s.write(ctx, giveBackClaims, c.ids, c.generations, c.leasedUntil, c.release)
	if err == nil {
		done, err = s.readMissing(ctx, loadOutcomes, c.ids, done)
	}
	results := make([]coalesce.Result[struct{}], len(claims))
	for i, g := range claims {
		results[i].Err = err
		if l, ok := done[g.ID]; err == nil && ok && unwritten(g.Ref, l) {
			results[i].Err = errLocked
		}
	}
	return results
}

func unwrittenRenewal(r outbox.Renewal, l looked) bool { return unwritten(r.Ref, l) }

// write runs a statement that returns the rows of messages that it wrote.
func (s *Store) write(ctx context.Context, statement string, args ...any) (records, error) {
	done, err := s.read(ctx, statement, args...)
	for id, l := range done {
		l.written = true
		done[id] = l
	}
	return done, err
}

// read runs a statement that returns rows of messages.
func (s *Store) read(ctx context.Context, statement string, args ...any) (records, error) {
	rows, err := s.pool.Query(ctx, statement, args...)
	if err != nil {
		return nil, err
	}
	found, err := pgx.CollectRows(rows, pgx.RowToStructByNameLax[row])
	if err != nil {
		return nil, err
	}
	byID := make(records, len(found))
	for _, r := range found {
		byID[r.ID] = looked{Record: r.record()}
		s.destinations.see(r.Destination, r.Failing, r.Proven)
	}
	return byID, nil
}

// payloadOf is a message whose payload is to be loaded, and the payload's size.
type payloadOf struct {
	id    uuid.UUID
	bytes int
}

func (p payloadOf) size() int { return p.bytes }

// LoadPayload returns the payload of a record that owes it. A context with time for it
// gives a slow link payloadTimeout, any other statementTimeout.
func (s *Store) LoadPayload(ctx context.Context, r outbox.Record) ([]byte, error) {
	payloads := s.payloads
	if deadline, ok := ctx.Deadline(); !ok || time.Until(deadline) > payloadTimeout {
		payloads = s.slowPayloads
	}
	payload, err := payloads.Do(ctx, payloadOf{r.ID, r.MissingBytes})
	if err != nil {
		return nil, fmt.Errorf("loading the %d bytes of payload of message %s: %w", r.MissingBytes, r.ID, err)
	}
	return payload, nil
}

func (s *Store) loadPayloadsOf(ctx context.Context, asked []payloadOf) []coalesce.Result[[]byte] {
	out := make([]coalesce.Result[[]byte], len(asked))
	ids := make([]uuid.UUID, 0, len(asked))
	for _, p := range asked {
		ids = append(ids, p.id)
	}
	rows, err := s.pool.Query(ctx, loadPayloads, ids)
	byID := make(map[uuid.UUID][]byte, len(asked))
	if err == nil {
		var id uuid.UUID
		var payload []byte
		_, err = pgx.ForEachRow(rows, []any{&id, &payload}, func() error {
			byID[id] = payload
			payload = nil
			return nil
		})
	}
	for i, p := range asked {
		payload, ok := byID[p.id]
		switch {
		case err != nil:
			out[i].Err = err
		case !ok:
			out[i].Err = outflow.ErrNotFound // purged since
		default:
			out[i].Value = payload
		}
	}
	return out
}

// readMissing adds the rows that a guarded statement passed over, as they stand.
func (s *Store) readMissing(ctx context.Context, statement string, asked []uuid.UUID, done records) (records, error) {
	missing := slices.DeleteFunc(slices.Clone(asked), func(id uuid.UUID) bool { _, ok := done[id]; return ok })
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

// answerAll runs one statement for many entries and answers each by its ID. The
// IDs go in order, so that two statements lock their rows in the same order.
// Entries of one ID go one after the other, for each must see what the one
// before it wrote. A statement that fails on data is run again in halves, down to
// the one entry that is to blame. unwritten tells by a row as it stands whether the
// statement should have written it.
func answerAll[In any](ctx context.Context, in []In, id func(In) uuid.UUID,
	unwritten func(In, looked) bool, run func(context.Context, []In) (records, error)) results {
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
		answerDistinct(ctx, in, now, id, unwritten, run, out)
		places = later
	}
	return out
}

func answerDistinct[In any](ctx context.Context, in []In, places []int, id func(In) uuid.UUID,
	unwritten func(In, looked) bool, run func(context.Context, []In) (records, error), out results) {
	batch := make([]In, 0, len(places))
	for _, p := range places {
		batch = append(batch, in[p])
	}
	found, err := run(ctx, batch)
	if isDataError(err) && len(places) > 1 {
		half := len(places) / 2
		answerDistinct(ctx, in, places[:half], id, unwritten, run, out)
		answerDistinct(ctx, in, places[half:], id, unwritten, run, out)
		return
	}
	for _, p := range places {
		record, ok := found[id(in[p])]
		switch {
		case err != nil:
			out[p].Err = err
		case !ok:
			out[p].Err = outflow.ErrNotFound
		case unwritten(in[p], record):
			out[p].Err = errLocked
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
