package outboxdb

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/outflowhq/outflow/outbox"
)

// maxHinted is how many known destinations a hinted claim asks by one statement, before it looks for
// any: each costs it some lookups.
const maxHinted = 20

// maxRetrying is how many messages of a failing target may be off the fast path, whatever the
// number of its destinations. The others wait as rows, where waiting costs nothing.
const maxRetrying = 200

// claimSQL takes due rows for a lease. Each of its CTEs has one concern; a further order or bound
// is one more between dueSQL and fittingSQL. Its arguments:
//   - $1 destinations, $2 their targets, $3 the low-water marks from which they are claimed, $4 how
//     many messages each may have at most (its quota), $5 the sum of the quotas of destinations of
//     the same target that come before it
//   - $6 how many rows, and $7 how many bytes of payload and headers altogether; $8 the lease
//   - $9 maxRetrying; $10 the messages that this process chose as probes
//   - $11 whether only workers publish to the destination, not this process: its messages leave the
//     fast path unsent, like those of a slow target
//
// For the planner:
//   - Plain scans of CTEs keep the order in which the destinations are given.
//   - SKIP LOCKED lets several scanners share the table. MATERIALIZED keeps the locking subqueries
//     from being run again.
//   - The planner takes an array for ten rows, so the update finds its rows by primary key.
const claimSQL = "WITH " + requestedSQL + ", " + retryingCapSQL + ", " + dueSQL + ", " + handedOverSQL + ", " +
	probingSQL + ", " + fittingSQL + leaseSQL

// requestedSQL are the destinations of a claim with the state of their breakers: open, failing (it
// has counted failures, or retrying runs are still to be signalled), own_only (no breaker but the
// destination's own is failing), slow, and the probes that may be claimed. streams says that a stream
// delivers the destination's backlog.
const requestedSQL = `requested AS MATERIALIZED (
    SELECT d.*, b.*,
           (SELECT s.runs_until > now() FROM outbox.streams AS s WHERE s.destination = d.destination) IS TRUE AS streams
      FROM unnest($1::text[], $2::text[], $3::timestamptz[], $4::int[], $5::int[], $11::boolean[])
           AS d (destination, target, mark, quota, before, elsewhere)
     CROSS JOIN LATERAL (
           SELECT coalesce(bool_or(h.open_until IS NOT NULL), false) AS open,
                  coalesce(bool_or(` + failingLatelySQL + `), false) AS failing,
                  coalesce(bool_and(h.destination = m.destination)
                      FILTER (WHERE ` + failingLatelySQL + `), false) AS own_only,
                  d.elsewhere OR coalesce(bool_or(h.slow_until > now() AND h.destination = d.target), false) AS slow,
                  pg_catalog.array_agg(h.probe_id)
                      FILTER (WHERE h.open_until IS NOT NULL AND h.probe_until > now()) AS probes
             FROM (SELECT d.destination) AS m, outbox.destinations AS h
            WHERE ` + BreakersOfSQL + `) AS b
)`

// failingLatelySQL ends ten minutes after the first failure if the breaker did not open: then the
// messages are to blame, not their destination.
const failingLatelySQL = `h.recovered_at IS NOT NULL OR h.failing_since >= now() - interval '10 minutes'`

// retryingCapSQL caps the quotas of targets that fail or are slow at $9 rows off the fast path,
// however many destinations they have. Else a target that takes a few at a time would collect more
// with each success. Nothing is allowed behind an open breaker.
//   - A row whose lease is over does not count: its run is lost.
//   - Where only a destination's own breaker is failing, and no run of it is off the fast path, one
//     message is allowed all the same: it does not wait for others' runs.
//   - Of a target that is only slow, the runs count that may be waiting for its answer. A run that
//     waits for something else must not take its place.
const retryingCapSQL = `capped AS MATERIALIZED (
    SELECT t.target, t.failing,
           (SELECT count(*)
              FROM (SELECT FROM outbox.messages AS m
                     WHERE m.retrying AND m.destination >= CASE WHEN t.whole THEN t.target ELSE t.target || '/' END
                       AND m.destination < t.target || CASE WHEN t.whole THEN E'\x01' ELSE '0' END
                       AND m.available_at > now() AND (t.failing OR ` + mayAwaitAnswerSQL + `)
                     ORDER BY m.destination, m.id LIMIT $9) AS few) AS runs
      FROM (SELECT a.target, a.failing, bool_and(a.target = a.destination) AS whole
              FROM requested AS a WHERE NOT a.open AND (a.failing OR a.slow) GROUP BY a.target, a.failing) AS t
), allowed AS MATERIALIZED (
    SELECT a.destination, a.mark, a.streams,
           CASE WHEN NOT a.failing AND NOT a.slow THEN a.quota
                ELSE least(a.quota, greatest(
                     CASE WHEN a.own_only AND (
                               SELECT true FROM outbox.messages AS r
                                WHERE r.retrying AND r.destination = a.destination AND r.available_at > now() LIMIT 1) IS NULL
                          THEN 1 ELSE 0 END,
                     $9::int - a.before - (SELECT c.runs FROM capped AS c
                                            WHERE c.target = a.target AND c.failing = a.failing))) END AS quota
      FROM requested AS a
     WHERE NOT a.open
)`

// mayAwaitAnswerSQL says of a run off the fast path that it may be waiting for a slow target's
// answer: it has not failed again and again, and none of its breakers is open.
const mayAwaitAnswerSQL = `m.attempts <= 3 AND (
                           SELECT count(*) FROM outbox.destinations AS h
                            WHERE h.open_until IS NOT NULL AND ` + BreakersOfSQL + `) = 0`

// dueSQL are the due rows of each destination within its quota. Quarantined messages (claims >= 5)
// are claimed in isolation. Where a stream runs, the rows are its own: a claim of them would start a run
// for each.
const dueSQL = `due AS MATERIALIZED (
    SELECT next.*
      FROM allowed AS d
     CROSS JOIN LATERAL (
           SELECT ` + claimableSQL + `
             FROM outbox.messages AS m
            WHERE m.state = 'pending' AND NOT m.parked AND m.destination = d.destination
              AND m.available_at >= d.mark AND m.available_at <= now() AND m.claims < 5
            ORDER BY m.available_at
            LIMIT d.quota
              FOR UPDATE SKIP LOCKED) AS next
     WHERE d.quota > 0 AND NOT d.streams
     LIMIT $6
)`

// handedOverSQL are the due rows that a running stream has left to runs of their own. They have an
// index of their own: among the due rows they would stand behind all of the stream's.
const handedOverSQL = `handed AS MATERIALIZED (
    SELECT next.*
      FROM allowed AS d
     CROSS JOIN LATERAL (
           SELECT ` + claimableSQL + `
             FROM outbox.messages AS m
            WHERE m.retrying AND m.destination = d.destination AND m.available_at <= now() AND m.claims < 5
              AND m.finished_at IS NULL
            LIMIT d.quota
              FOR UPDATE SKIP LOCKED) AS next
     WHERE d.quota > 0 AND d.streams
     LIMIT $6
)`

// claimableSQL is what a claim reads of a row before it takes it.
const claimableSQL = `
                  m.id, octet_length(m.payload) + octet_length(m.headers::text) - 2 AS bytes, m.available_at, m.started`

// probingSQL are the probes: the one message of an open breaker that may be claimed.
const probingSQL = `probing AS MATERIALIZED (
    SELECT ` + claimableSQL + `
      FROM outbox.messages AS m
     WHERE m.id = ANY ($10::uuid[] OPERATOR(pg_catalog.||)
                       ARRAY(SELECT pg_catalog.unnest(a.probes) FROM requested AS a))
       AND m.finished_at IS NULL AND m.available_at <= now() AND m.claims < 5
       AND EXISTS (SELECT FROM outbox.destinations AS h
                    WHERE h.probe_id = m.id AND h.probe_until > now() AND ` + BreakersOfSQL + `)
       FOR UPDATE SKIP LOCKED
)`

// fittingSQL are the rows within $7 bytes, probes first. The row that crosses the bound is taken,
// so that a large message is not stuck; those behind it are left as they are.
const fittingSQL = `fitting AS MATERIALIZED (
    SELECT id, available_at, started
      FROM (SELECT id, available_at, started, sum(bytes) OVER (ROWS UNBOUNDED PRECEDING) - bytes AS before
              FROM (SELECT * FROM probing UNION ALL SELECT * FROM handed
                    UNION ALL SELECT * FROM due) AS found) AS counted
     WHERE before < $7
)`

// leaseSQL leases the fitting rows.
const leaseSQL = `
UPDATE outbox.messages AS m
   SET available_at = now() + $8::interval, parked = true, started = true, streamed = false, claims = m.claims + 1
  FROM unnest(ARRAY(SELECT id FROM fitting), ARRAY(SELECT available_at FROM fitting),
      ARRAY(SELECT started FROM fitting))
       AS f (id, was_available_at, was_started)
 WHERE m.id = ANY (ARRAY[f.id]) AND m.finished_at IS NULL
RETURNING f.was_available_at, f.was_started, (SELECT count(*) FROM due) AS seen, m.retrying,
          ` + failingSQL + `, ` + slowTargetSQL + `, ` + recordColumnsSQL

// claimIsolatedSQL takes the due quarantined message with the lowest ID, for a lease of $1.
const claimIsolatedSQL = `
WITH due AS MATERIALIZED (
    SELECT m.id, m.available_at, m.started
      FROM outbox.messages AS m
     WHERE m.state = 'pending' AND m.claims >= 5 AND m.available_at <= now()
     ORDER BY m.id
     LIMIT 1
       FOR UPDATE SKIP LOCKED
)
UPDATE outbox.messages AS m
   SET available_at = now() + $1::interval, parked = true, started = true, streamed = false, claims = m.claims + 1
  FROM due AS f
 WHERE m.id = ANY (ARRAY[f.id]) AND m.finished_at IS NULL
RETURNING f.available_at AS was_available_at, f.started AS was_started, 1::bigint AS seen, m.retrying,
          ` + failingSQL + `, ` + recordColumnsSQL

// Claim leases due messages to this process: of each target and destination at most req.Allowance
// less those open already, oldest first. Concurrent scanners never get the same row. It sends up to
// three statements: one unparks rows whose time has come, one finds destinations, and one claims
// where any has due messages. An idle call sends the first two, or none. Where one of these is too
// slow, because of a held snapshot, Claim goes on with the destinations that it knows. Once a second,
// while destinations are missing, it also ends messages that have waited for req.MissingGrace.
func (s *Store) Claim(ctx context.Context, req outbox.ClaimRequest) (outbox.Claimed, error) {
	s.walk.mu.Lock()
	defer s.walk.mu.Unlock()
	if req.Hinted && len(s.walk.marks) <= maxHinted {
		if claimed, err := s.claimKnown(ctx, req); err != nil || len(claimed.Messages) > 0 {
			return claimed, err
		}
	}
	unparkErr := s.unpark(ctx)
	walkErr := s.findDestinations(ctx)
	if walkErr != nil && len(s.walk.marks) == 0 {
		return outbox.Claimed{}, errors.Join(unparkErr, walkErr)
	}
	noteErr := s.breakers.takeProblem()
	args := s.walk.claimArgs(req, s.breakers, time.Now())
	ended, endErr := s.endMissing(ctx, req.MissingGrace)
	ended = append(ended, s.expired.take()...)
	problem := errors.Join(unparkErr, walkErr, noteErr, s.holdBack(ctx, args.refused),
		s.noteUnserved(ctx, args.unpublished), endErr)
	messages, err := s.claimWith(ctx, req, args)
	if err != nil {
		return outbox.Claimed{Ended: ended, Problem: noteErr}, err
	}
	return s.walk.claimed(messages, ended, problem, args), nil
}

// claimKnown claims from the destinations that earlier walks found.
func (s *Store) claimKnown(ctx context.Context, req outbox.ClaimRequest) (outbox.Claimed, error) {
	s.walk.walked = false
	args := s.walk.claimArgs(req, s.breakers, time.Now())
	messages, err := s.claimWith(ctx, req, args)
	if err != nil {
		return outbox.Claimed{}, err
	}
	return s.walk.claimed(messages, nil, nil, args), nil
}

// claimWith leases due messages of the destinations in args, and the probes that may be claimed.
func (s *Store) claimWith(
	ctx context.Context, req outbox.ClaimRequest, args claimArgs,
) ([]outbox.ClaimedMessage, error) {
	probes := s.breakers.takeWaitingProbes()
	if len(args.destinations) == 0 && len(probes) == 0 {
		return nil, nil
	}
	messages, rows, err := s.lease(ctx, req.Lease, claimSQL, args.destinations, args.targets, args.marks, args.quotas,
		args.before, req.MaxMessages, req.MaxBytes, req.Lease, maxRetrying, probes, args.elsewhere)
	if err != nil {
		s.breakers.keepProbes(probes)
		return nil, fmt.Errorf("claiming up to %d messages: %w", req.MaxMessages, err)
	}
	if slices.ContainsFunc(messages, func(m outbox.ClaimedMessage) bool { return m.NewDestination }) {
		s.breakers.claimedNewDestinations(time.Now())
	}
	s.walk.moveMarks(args, rows, req.MaxMessages)
	return messages, nil
}

// ClaimIsolated leases one quarantined message to this process (see outbox.QuarantineClaims), or
// none. The caller has nothing else in flight.
func (s *Store) ClaimIsolated(ctx context.Context, lease time.Duration) ([]outbox.ClaimedMessage, error) {
	messages, _, err := s.lease(ctx, lease, claimIsolatedSQL, lease)
	if err != nil {
		return nil, fmt.Errorf("claiming a quarantined message: %w", err)
	}
	return messages, nil
}

// lease runs a claiming statement, and keeps what it claimed for the runs to come.
func (s *Store) lease(
	ctx context.Context, lease time.Duration, statement string, args ...any,
) ([]outbox.ClaimedMessage, []claimedRow, error) {
	rows, sent, err := s.pool.QuerySent(ctx, statement, args...)
	if err != nil {
		return nil, nil, err
	}
	claimed, err := pgx.CollectRows(rows, pgx.RowToStructByNameLax[claimedRow])
	if err != nil {
		return nil, nil, err
	}
	slices.SortFunc(claimed, func(a, b claimedRow) int { return cmp.Compare(a.Seq, b.Seq) })

	messages := make([]outbox.ClaimedMessage, 0, len(claimed))
	holds := make([]*held, 0, len(claimed))
	for _, r := range claimed {
		h := &held{
			record: r.record(), claimedAt: sent, lease: lease, expiresIn: r.ExpiresIn,
			claimedBefore: r.claimedBefore(), taken: make(chan struct{}), settled: make(chan struct{}),
		}
		holds = append(holds, h)
		s.breakers.sawRow(r.Destination, r.Failing, r.Reached)
		shares, newDestination := s.breakers.shares(r.Destination)
		messages = append(messages, outbox.ClaimedMessage{
			Record: h.record, LeasedUntil: r.AvailableAt, LeaseExpired: r.Claims > 1 || r.Retrying,
			Shares: shares, NewDestination: newDestination, Taken: h.taken, Settled: h.settled,
		})
	}
	s.handoff.put(sent, holds)
	return messages, claimed, nil
}

// claimedRow is a row as a claiming statement returns it.
type claimedRow struct {
	row
	WasAvailableAt time.Time `db:"was_available_at"`
	WasStarted     bool      `db:"was_started"`
	Retrying       bool      `db:"retrying"`
	// Seen is how many rows the claim found, before the bound in bytes.
	Seen int `db:"seen"`
}

// claimedBefore reports whether this may not be the first claim of the row: a run of an earlier
// claim, or of an earlier generation, may be open, or a stream that was taken for lost.
func (r claimedRow) claimedBefore() bool { return r.Generation > 1 || r.WasStarted || r.Claims > 1 }
