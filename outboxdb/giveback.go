package outboxdb

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/internal/coalesce"
	"github.com/outflowhq/outflow/outbox"
)

// Three methods make a row claimable again before its lease ends:
//
//	method    who calls it            why                                claimable again
//	PutBack   a run that leaves its   its destination fails              after a backoff
//	          message                 its destination does not exist     after a second
//	                                  it is superseded, or quarantined   after a second
//	GiveBack  a scanner after a       no run was started (NotStarted)    at once
//	          claim                   a run was open (RunOpen)           after its lease
//	                                  another process has the run        after its lease
//	Release   a scanner that signals  Temporal knows no such run         at once
//
// PutBack and GiveBack also end what the claim counted, and what this process keeps for the run.
// Package operator has a release of its own, with an entry in the audit.

// putBackSQL leaves rows to later claims whose destination is failing: they wait as rows, without a
// run.
//   - A row that comes back again and again waits longer each time, up to a minute. The first
//     seconds give its run time to close.
//   - Its attempt failed with an error, so the message crashes nothing: its claims are forgotten.
//     Else a quarantined message would be claimed in isolation for as long as its destination is
//     down.
//   - A row that is off the fast path keeps its lease, which may be that of a live run.
const putBackSQL = lockRowsSQL + `
UPDATE outbox.messages AS m
   SET available_at = CASE WHEN m.retrying THEN m.available_at
                           ELSE now() + least(interval '1 second' * (1 << least(m.attempts, 6))::float8,
                               interval '1 minute') END,
       parked = true, claims = 0, attempts = m.attempts + r.attempts, last_error = coalesce(r.last_error, m.last_error)
  FROM unnest($1::uuid[], $2::int[], $3::text[], $4::int[]) AS r (id, generation, last_error, attempts)
 WHERE r.id = ANY (ARRAY(SELECT l.id FROM locked AS l)) AND m.id = ANY (ARRAY[r.id]) AND m.generation = r.generation
   AND m.finished_at IS NULL
RETURNING ` + outcomeColumnsSQL

// putBackMissingSQL leaves rows to later claims whose destination does not exist, or whose scheme no
// process publishes to. The breaker, and who publishes, decide when they are claimed. The second
// gives its run time to close. A row that has waited for its grace ($5) is left as it is, and
// returned as over: its run ends it.
const putBackMissingSQL = lockRowsSQL + `, here AS MATERIALIZED (
    SELECT r.*, greatest(m.due_at, m.enqueued_at, coalesce((
                    SELECT min(h.missing_since) FROM outbox.destinations AS h
                     WHERE h.destination = ANY (ARRAY[m.destination, ` + schemeRowSQL + `])), now()))
                    <= now() - r.grace AND ` + deliveredAtSQL + ` IS NULL AS over
      FROM unnest($1::uuid[], $2::int[], $3::text[], $4::int[], $5::interval[])
           AS r (id, generation, last_error, attempts, grace)
      JOIN outbox.messages AS m ON m.id = ANY (ARRAY[r.id])
     WHERE r.id = ANY (ARRAY(SELECT l.id FROM locked AS l)) AND m.generation = r.generation AND m.finished_at IS NULL
), put AS (
    UPDATE outbox.messages AS m
       SET available_at = now() + interval '1 second', retrying = false, parked = true, claims = 0,
           attempts = greatest(m.attempts + r.attempts, 0), last_error = coalesce(r.last_error, m.last_error)
      FROM here AS r
     WHERE m.id = ANY (ARRAY[r.id]) AND NOT r.over AND m.generation = r.generation AND m.finished_at IS NULL
    RETURNING ` + outcomeColumnsSQL + `, false AS over
)
SELECT * FROM put
 UNION ALL
SELECT ` + outcomeColumnsSQL + `, true AS over
  FROM outbox.messages AS m
  JOIN here AS r ON m.id = ANY (ARRAY[r.id])
 WHERE r.over`

// makeWaySQL makes a row claimable that its run leaves without sending: a run of an older
// generation was in the way of one that was started again, or the row is quarantined and is to be
// claimed in isolation. The second gives that run time to close: until then it would refuse the new
// start. A row that was rescheduled is not due before its time, and a follower not before its turn. A
// row in a stream's page waits for no start: made claimable, it would be sent by both.
const makeWaySQL = `
UPDATE outbox.messages AS m
   SET available_at = greatest(m.due_at, now() + interval '1 second'), retrying = false, parked = true
 WHERE m.id = $1 AND m.finished_at IS NULL AND NOT m.follower
   AND (m.generation > $2 AND NOT m.retrying AND NOT m.streamed
        AND m.available_at > greatest(m.due_at, now() + interval '1 second')
        OR m.generation = $2 AND m.claims >= 5)`

// giveBackSQL takes back what a claim wrote where no run was started: the count, and for a release
// the lease. A row whose lease is another by now has been renewed or claimed since, and keeps it.
const giveBackSQL = lockRowsSQL + `
UPDATE outbox.messages AS m
   SET claims = greatest(m.claims - 1, 0),
       available_at = CASE WHEN g.release AND m.available_at = g.leased_until THEN now() ELSE m.available_at END,
       parked = m.parked AND NOT (g.release AND m.available_at = g.leased_until)
  FROM unnest($1::uuid[], $2::int[], $3::timestamptz[], $4::boolean[]) AS g (id, generation, leased_until, release)
 WHERE g.id = ANY (ARRAY(SELECT l.id FROM locked AS l)) AND m.id = ANY (ARRAY[g.id]) AND m.generation = g.generation
   AND m.finished_at IS NULL
RETURNING m.id, m.state, m.generation`

// releaseSQL makes a row claimable whose run is lost. The lease ($3) that was read before Temporal
// was asked distinguishes it from a later claim, whose start may be on its way.
const releaseSQL = `
UPDATE outbox.messages AS m
   SET available_at = now(), parked = false
 WHERE m.id = $1 AND m.generation = $2 AND m.available_at = $3 AND m.finished_at IS NULL`

// PutBack leaves a message to a later claim. After an attempt that failed it returns how the message
// stands then: one that is final or of another generation is left as it is. With NotSent it returns
// no outcome. With Missing the error is outbox.ErrGraceOver where the message has waited long enough.
func (s *Store) PutBack(ctx context.Context, p outbox.PutBack) (outflow.Outcome, error) {
	if p.NotSent {
		s.handoff.settle(p.Ref)
		if _, err := s.pool.Exec(ctx, makeWaySQL, p.ID, p.Generation); err != nil {
			return outflow.Outcome{}, fmt.Errorf("leaving message %s to another run: %w", p.ID, err)
		}
		s.hintSoon()
		return outflow.Outcome{}, nil
	}
	record, err := retryLocked(ctx, s.putBacks, p)
	if err != nil {
		return outflow.Outcome{}, fmt.Errorf("putting message %s back: %w", p.ID, err)
	}
	if record.over {
		return outflow.Outcome{}, outbox.ErrGraceOver
	}
	s.handoff.settle(p.Ref)
	return record.Outcome(), nil
}

// GiveBack ends this process's claim of a message for which it started no run, or none that came
// here. With outbox.RunElsewhere it writes nothing.
func (s *Store) GiveBack(ctx context.Context, m outbox.ClaimedMessage, why outbox.GiveBackReason) error {
	s.handoff.settle(m.Ref())
	if why == outbox.RunElsewhere {
		return nil
	}
	_, err := retryLocked(ctx, s.giveBacks, giveBack{m.Ref(), m.LeasedUntil, why == outbox.NotStarted})
	if err != nil {
		return fmt.Errorf("giving back message %s: %w", m.ID, err)
	}
	return nil
}

// Release makes a message claimable whose run is lost, unless its lease has been moved since it was
// read.
func (s *Store) Release(ctx context.Context, m outbox.Leased) error {
	if _, err := s.pool.Exec(ctx, releaseSQL, m.ID, m.Generation, m.LeasedUntil); err != nil {
		return fmt.Errorf("releasing message %s: %w", m.ID, err)
	}
	s.hintSoon()
	return nil
}

// giveBack is a claim without a run.
type giveBack struct {
	outbox.Ref
	leasedUntil time.Time
	release     bool
}

func (s *Store) putBackAll(ctx context.Context, rows []outbox.PutBack) results {
	id := func(p outbox.PutBack) uuid.UUID { return p.ID }
	locked := func(p outbox.PutBack, found storedRow) bool { return wasLocked(p.Ref, found) }
	return answerAll(ctx, rows, id, locked, func(ctx context.Context, batch []outbox.PutBack) (rowsByID, error) {
		var failed, missing columns
		for _, p := range batch {
			if p.Missing == nil {
				failed.add(p.Ref, p.LastError, 1)
				continue
			}
			missing.add(p.Ref, p.LastError, p.Missing.Attempts)
			missing.graces = append(missing.graces, p.Missing.Grace)
		}
		done := rowsByID{}
		if c := failed; len(c.ids) > 0 {
			if err := s.writeInto(ctx, done, putBackSQL, c.ids, c.generations, c.lastErrors, c.attempts); err != nil {
				return nil, err
			}
		}
		if c := missing; len(c.ids) > 0 {
			err := s.writeInto(ctx, done, putBackMissingSQL, c.ids, c.generations, c.lastErrors, c.attempts, c.graces)
			if err != nil {
				return nil, err
			}
		}
		s.hintSoon() // they are due before their leases would have ended
		return s.readMissing(ctx, loadOutcomesSQL, slices.Concat(failed.ids, missing.ids), done)
	})
}

// giveBackAll gives claims back. A message that is gone or final needs nothing.
func (s *Store) giveBackAll(ctx context.Context, claims []giveBack) []coalesce.Result[struct{}] {
	var c columns
	for _, g := range claims {
		c.add(g.Ref, "", 0)
		c.leasedUntil = append(c.leasedUntil, g.leasedUntil)
		c.release = append(c.release, g.release)
	}
	done, err := s.write(ctx, giveBackSQL, c.ids, c.generations, c.leasedUntil, c.release)
	if err == nil {
		done, err = s.readMissing(ctx, loadOutcomesSQL, c.ids, done)
	}
	results := make([]coalesce.Result[struct{}], len(claims))
	for i, g := range claims {
		results[i].Err = err
		if found, ok := done[g.ID]; err == nil && ok && wasLocked(g.Ref, found) {
			results[i].Err = outbox.ErrLocked
		}
	}
	return results
}
