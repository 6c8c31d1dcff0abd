package outboxdb

import (
	"context"
	"fmt"

	"github.com/google/uuid"

	"github.com/outflowhq/outflow/outbox"
)

// loadSQL reads rows as they stand. It says, too, whether the next success is to be written:
// another process may have claimed the row.
const loadSQL = `
SELECT ` + failingSQL + `, ` + slowTargetSQL + `, ` + loadColumnsSQL + `
  FROM outbox.messages AS m
 WHERE m.id = ANY ($1::uuid[])`

// loadAgainSQL reads rows for runs whose process crashed with the workflow task, and counts that as
// a claim: nothing else would find a payload that crashes the process. Beyond 5 only isolated
// claims count, because a message that crashes together with others may not be the cause.
const loadAgainSQL = lockRowsSQL + `
UPDATE outbox.messages AS m
   SET claims = greatest(m.claims, least(m.claims + 1, 5))
  FROM unnest($1::uuid[], $2::int[]) AS r (id, generation)
 WHERE r.id = ANY (ARRAY(SELECT l.id FROM locked AS l)) AND m.id = ANY (ARRAY[r.id]) AND m.generation = r.generation
   AND m.finished_at IS NULL
RETURNING ` + failingSQL + `, ` + slowTargetSQL + `, ` + loadColumnsSQL

// renewSQL moves the lease past the run's next attempt, notes the last error, and counts attempts:
// earlier ones, and this one if it may send.
//   - The generation keeps a superseded run from holding a row that an operator has started again.
//   - An attempt whose process crashed counts as a claim.
//   - An attempt that failed with an error shows that the message crashes nothing: its claims are
//     forgotten.
const renewSQL = lockRowsSQL + `
UPDATE outbox.messages AS m
   SET available_at = now() + r.lease, retrying = true, parked = true,
       attempts = greatest(m.attempts + r.attempts + CASE WHEN NOT r.waits AND NOT m.cancel_requested
                   AND (m.expires_at > now()) IS NOT FALSE AND ` + heldBackSQL + ` IS NULL THEN 1 ELSE 0 END, 0),
       claims = CASE WHEN r.lost THEN greatest(m.claims, least(m.claims + 1, 5))
                     WHEN r.last_error IS NOT NULL THEN 0 ELSE m.claims END,
       last_error = coalesce(r.last_error, m.last_error)
  FROM unnest($1::uuid[], $2::int[], $3::interval[], $4::text[], $5::int[], $6::boolean[], $7::boolean[])
       AS r (id, generation, lease, last_error, attempts, lost, waits)
 WHERE r.id = ANY (ARRAY(SELECT l.id FROM locked AS l)) AND m.id = ANY (ARRAY[r.id]) AND m.generation = r.generation
   AND m.finished_at IS NULL
RETURNING ` + heldBackSQL + ` AS held_back, coalesce(` + MissingOfSQL + `, '') AS missing, ` + failingSQL + `, ` +
	loadColumnsSQL

// heldBackSQL is how long the breaker of the row's destination stays open; NULL where this row may
// be sent: no breaker is open, or the row is its probe. Scanners choose the probe. Where no scanner
// has for ten seconds, because none is running, any row may be sent.
const heldBackSQL = `
	(SELECT greatest(max(h.open_until) - now(), interval '0') FROM outbox.destinations AS h
	  WHERE h.open_until IS NOT NULL AND (h.open_until > now() - interval '10 seconds' OR h.probe_until > now())
	    AND ` + BreakersOfSQL + `
	 HAVING count(*) > 0 AND NOT coalesce(bool_or(h.probe_id = m.id AND h.probe_until > now()), false))`

// Load returns the message as a run may act on it.
//   - A row that this process claimed is returned once without another read, while its lease has
//     leaseMargin left.
//   - Any other row is read, and may lack its payload (see outbox.Record.MissingBytes).
//
// It returns whatever state and generation the row has, and outflow.ErrNotFound where there is no
// row.
func (s *Store) Load(ctx context.Context, ref outbox.Ref) (outbox.Record, error) {
	if record, ok := s.handoff.take(ref); ok {
		if record.SlowTarget && record.Claims < outbox.QuarantineClaims {
			s.handoff.settle(ref) // it leaves the fast path unsent, and needs no slot there
		}
		return record, nil
	}
	found, err := s.loads.Do(ctx, ref)
	if err != nil {
		return outbox.Record{}, fmt.Errorf("loading message %s: %w", ref.ID, err)
	}
	return found.Record, nil
}

// LoadAgain is Load for a run whose process was lost with its workflow task. That counts as a claim
// where the row is pending in that generation.
func (s *Store) LoadAgain(ctx context.Context, ref outbox.Ref) (outbox.Record, error) {
	s.handoff.settle(ref) // a claim of this process no longer leads
	found, err := retryLocked(ctx, s.reloads, ref)
	if err != nil {
		return outbox.Record{}, fmt.Errorf("loading message %s again: %w", ref.ID, err)
	}
	return found.Record, nil
}

// Renew notes a durable attempt, or a wait: it moves the lease, notes the last error and returns
// the row, which says whether its destination is held back. A row that is final, or of another
// generation, is returned as it stands, with nothing written.
func (s *Store) Renew(ctx context.Context, r outbox.Renewal) (outbox.Record, error) {
	s.handoff.settle(r.Ref) // its run has left the fast path
	found, err := retryLocked(ctx, s.renewals, r)
	if err != nil {
		return outbox.Record{}, fmt.Errorf("renewing the lease of message %s: %w", r.ID, err)
	}
	return found.Record, nil
}

func (s *Store) loadAll(ctx context.Context, refs []outbox.Ref) results {
	id := func(r outbox.Ref) uuid.UUID { return r.ID }
	never := func(outbox.Ref, storedRow) bool { return false }
	return answerAll(ctx, refs, id, never, func(ctx context.Context, batch []outbox.Ref) (rowsByID, error) {
		var c columns
		for _, r := range batch {
			c.add(r, "", 0)
		}
		return s.read(ctx, loadSQL, c.ids)
	})
}

func (s *Store) loadAllAgain(ctx context.Context, refs []outbox.Ref) results {
	id := func(r outbox.Ref) uuid.UUID { return r.ID }
	return answerAll(ctx, refs, id, wasLocked, func(ctx context.Context, batch []outbox.Ref) (rowsByID, error) {
		var c columns
		for _, r := range batch {
			c.add(r, "", 0)
		}
		done, err := s.write(ctx, loadAgainSQL, c.ids, c.generations)
		if err != nil {
			return nil, err
		}
		return s.readMissing(ctx, loadSQL, c.ids, done)
	})
}

func (s *Store) renewAll(ctx context.Context, renewals []outbox.Renewal) results {
	id := func(r outbox.Renewal) uuid.UUID { return r.ID }
	locked := func(r outbox.Renewal, found storedRow) bool { return wasLocked(r.Ref, found) }
	return answerAll(ctx, renewals, id, locked, func(ctx context.Context, batch []outbox.Renewal) (rowsByID, error) {
		var c columns
		for _, r := range batch {
			c.add(r.Ref, r.LastError, r.Attempts)
			c.leases = append(c.leases, r.Lease)
			c.lost = append(c.lost, r.Lost)
			c.waits = append(c.waits, r.Waits)
		}
		done, err := s.write(ctx, renewSQL, c.ids, c.generations, c.leases, c.lastErrors, c.attempts, c.lost, c.waits)
		if err != nil {
			return nil, err
		}
		return s.readMissing(ctx, loadSQL, c.ids, done)
	})
}
