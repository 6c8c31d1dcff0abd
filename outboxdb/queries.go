package outboxdb

// A write that names its rows guards them with "finished_at IS NULL", which the
// table holds to mean pending. To name the state would offer the planner the
// claim index, and it takes it where its statistics are from an empty queue: a
// million rows read for one (TestPlans). What it has left is the primary key.

// lockRows begins a write on many rows. It locks them in the order of their IDs
// before the first is written, so that two such writes can't wait for each
// other in a circle: the update itself takes them in whatever order it finds
// them. A row that another session has locked is left out, and so is waited for
// without the others. The write is on those of "locked" alone.
const lockRows = `
WITH locked AS MATERIALIZED (
    SELECT m.id FROM outbox.messages AS m WHERE m.id = ANY ($1::uuid[]) ORDER BY m.id FOR NO KEY UPDATE SKIP LOCKED
)`

// recordColumns is what a claim, which bounds its bytes, returns of a row.
const recordColumns = `
	m.payload,` + restOfRow

// lookColumns leave a large payload to loadPayloads: how large the payloads of so
// many rows are is known only now. With 500 rows this bound makes 4 MiB, as much as
// one of those statements loads.
const lookColumns = `
	CASE WHEN octet_length(m.payload) <= 8192 THEN m.payload END AS payload, octet_length(m.payload) AS payload_bytes,` + restOfRow

// restOfRow is all but the payload. The least keeps
// expires_in within a time.Duration; it passes over the NULL of no expiry.
const restOfRow = `
	m.id, m.seq, m.destination, m.type, m.content_type, m.headers, m.ordering_key,
	m.state, m.generation, m.cancel_requested, m.attempts, m.claims, m.enqueued_at, m.due_at, m.available_at,
	m.expires_at, least(m.expires_at - now(), interval '36500 days') AS expires_in, m.finished_at, m.broker_message_id, m.last_error,
	m.callback, m.callback_payload, ` + callbackDue

// outcomeColumns leave the payload where it is: an end needs no look at it.
const outcomeColumns = `
	m.id, m.destination, m.type, m.state, m.generation, m.attempts, m.due_at, m.finished_at, m.broker_message_id, m.last_error, ` + callbackDue

// schemaReady looks for the oldest and the newest thing that a migration makes.
const schemaReady = `SELECT to_regclass('outbox.messages') IS NOT NULL AND to_regclass('outbox.identity') IS NOT NULL`

// targetOf is the target of the destination m.destination, as outbox.TargetOf has it.
const targetOf = `coalesce(substring(m.destination FROM '^(?:https?|rabbitmq)://[^/]*'), m.destination)`

// behindTarget is the name behind all destinations of a target t.target: the canonical
// ones of a host or an exchange begin with its name and "/", and "0" comes after "/".
const behindTarget = `(t.target || CASE WHEN t.target ~ '^(https?|rabbitmq):' THEN '0' ELSE E'\x01' END)`

// deliveredAt is when a message was last seen to reach m.destination, as far as the table
// knows. A scalar, so that no planner hashes all destinations for it.
const deliveredAt = `(SELECT p.delivered_at FROM outbox.destinations AS p WHERE p.destination = m.destination)`

// breakersOf are the names of the breakers that a message of m.destination meets: its
// target's, its own, and that of the target's new destinations. The last one counts as
// long as no message has reached the destination.
const breakersOf = `
    h.destination = ANY (CASE WHEN m.destination ~ '^(https?|rabbitmq):'
        THEN ARRAY[m.destination, ` + targetOf + `, ` + targetOf + ` || '#new'] ELSE ARRAY[m.destination] END)
    AND (h.destination <> ` + targetOf + ` || '#new' OR ` + deliveredAt + ` IS NULL)`

// dueDestinations walks the claim index from target to target, and in each from
// destination to destination (a loose index scan: a probe each, whatever the number of
// rows). It returns up to $2 destinations, of each target up to $3, with the low-water
// mark from which a claim may start. It begins behind $1, where the last walk stopped,
// and in the targets $4 behind $5: a host may have more destinations than one walk
// visits. There is always one row, which also says:
//   - troubled: a breaker is open, or has closed and its runs are still to be signalled,
//     or has failures of long ago to forget
//   - suspects: a suspect is due
const dueDestinations = `
WITH RECURSIVE targets AS (
    (SELECT m.destination, ` + targetOf + ` AS target
       FROM outbox.messages AS m
      WHERE m.state = 'pending' AND NOT m.parked AND m.destination > $1::text
      ORDER BY m.destination
      LIMIT 1)
    UNION ALL
    SELECT next.destination, next.target
      FROM targets AS t
     CROSS JOIN LATERAL (
           SELECT m.destination, ` + targetOf + ` AS target
             FROM outbox.messages AS m
            WHERE m.state = 'pending' AND NOT m.parked AND m.destination >= ` + behindTarget + `
            ORDER BY m.destination
            LIMIT 1) AS next
), found AS (
    SELECT t.target, d.destination, d.available_at
      FROM targets AS t
      LEFT JOIN LATERAL (SELECT c.cursor FROM unnest($4::text[], $5::text[]) AS c (target, cursor) WHERE c.target = t.target) AS c ON true
     CROSS JOIN LATERAL (
           WITH RECURSIVE within AS (
               (SELECT m.destination, m.available_at, 1 AS place
                  FROM outbox.messages AS m
                 WHERE m.state = 'pending' AND NOT m.parked AND m.destination > coalesce(c.cursor, '')
                   AND m.destination >= t.destination AND m.destination < ` + behindTarget + `
                 ORDER BY m.destination, m.available_at
                 LIMIT 1)
               UNION ALL
               SELECT next.destination, next.available_at, w.place + 1
                 FROM within AS w
                CROSS JOIN LATERAL (
                      SELECT m.destination, m.available_at
                        FROM outbox.messages AS m
                       WHERE m.state = 'pending' AND NOT m.parked AND m.destination > w.destination AND m.destination < ` + behindTarget + `
                       ORDER BY m.destination, m.available_at
                       LIMIT 1) AS next
                WHERE w.place < $3::int AND w.destination <> t.target
           )
           SELECT w.destination, w.available_at FROM within AS w) AS d
     LIMIT $2
)
SELECT coalesce(f.destination, '') AS destination, coalesce(f.target, '') AS target,
       coalesce(least(f.available_at, now()), now()) AS mark, coalesce(f.available_at <= now(), false) AS due,
       (SELECT p.delivered_at FROM outbox.destinations AS p WHERE p.destination = f.destination) IS NOT NULL AS proven,
       flags.*
  FROM (SELECT EXISTS (SELECT FROM outbox.destinations AS d WHERE d.open_until IS NOT NULL OR d.recovered_at IS NOT NULL)
               OR EXISTS (SELECT FROM outbox.destinations AS h WHERE ` + stale + `) AS troubled,
               EXISTS (SELECT FROM outbox.messages AS m WHERE m.state = 'pending' AND m.claims >= 5 AND m.available_at <= now()) AS suspects) AS flags
  LEFT JOIN found AS f ON true`

// shutBreakers are those of the breakers $1 that are open.
const shutBreakers = `
SELECT d.destination FROM outbox.destinations AS d WHERE d.open_until IS NOT NULL AND d.destination = ANY ($1::text[])`

// holdBack parks up to $4 due rows of the destinations $1 for $3, and says why ($2):
// this process can't send to them, and a run would find out no more. It returns those whose
// time is over, or that somebody cancelled: no run will ever find them.
const holdBack = `
WITH due AS MATERIALIZED (
    SELECT next.*, d.reason
      FROM unnest($1::text[], $2::text[]) AS d (destination, reason)
     CROSS JOIN LATERAL (
           SELECT m.id, m.generation, m.cancel_requested, m.cancel_requested OR (m.expires_at <= now()) IS TRUE AS over
             FROM outbox.messages AS m
            WHERE m.state = 'pending' AND NOT m.parked AND m.destination = d.destination AND m.available_at <= now()
            ORDER BY m.available_at
            LIMIT (SELECT $4::int)
              FOR NO KEY UPDATE SKIP LOCKED) AS next
     LIMIT (SELECT $4::int)
), held AS (
    UPDATE outbox.messages AS m
       SET available_at = least(now() + $3::interval, m.expires_at), parked = true, last_error = d.reason
      FROM unnest(ARRAY(SELECT id FROM due WHERE NOT over), ARRAY(SELECT reason FROM due WHERE NOT over)) AS d (id, reason)
     WHERE m.id = d.id
)
SELECT d.id, d.generation, CASE WHEN d.cancel_requested THEN 'cancelled' ELSE 'expired' END AS state, d.reason
  FROM due AS d WHERE d.over`

// mayAwaitAnswer tells of a run off the fast path that it may be waiting for a slow target's
// answer: it has not failed again and again, and none of its breakers is open.
const mayAwaitAnswer = `m.attempts <= 3 AND (
                           SELECT count(*) FROM outbox.destinations AS h WHERE h.open_until IS NOT NULL AND ` + breakersOf + `) = 0`

// claim takes due rows of the given destinations ($1) of the targets $2, each from its
// low-water mark ($3) and at most its quota ($4), together at most $6 rows and $7 bytes
// of payload and headers, for a lease of $8. Beside them it takes the messages $10 that
// were chosen to probe.
//   - Breaker: where one is open for a destination, no other row of it is taken.
//   - Cap: a target of which a breaker has counted failures, or whose runs are still being
//     signalled, has no more than $9 rows off the fast path, however many destinations
//     it has. Else a target that takes a few at a time would collect more with each
//     success. $5 is the sum of the quotas of its destinations that come before in $1.
//     A row whose lease is over does not count: its run is lost. The cap ends ten minutes
//     after the first failure if the breaker did not open: then the messages are to
//     blame, not their destination. Where none but a destination's own breaker has counted
//     failures, and no run of it is off the fast path, one message is taken all the same:
//     others' runs are not what it waits for.
//   - Slow: a target that is slow has the same cap, for its messages are all off the fast
//     path. Of a slow target alone only the runs count that may be waiting for its answer:
//     what waits for something else must not keep its slots.
//   - Quarantined messages are claimed in isolation, elsewhere.
//   - Bytes: the row that crosses the bound is taken, so that a large one is not stuck.
//     Those behind it are left as they are, and probes come first.
//
// For the planner: plain scans of the CTEs keep the order in which the destinations are
// given. SKIP LOCKED lets several scanners share the table; MATERIALIZED keeps the
// locking subquery from being run again; the planner takes an array for ten rows, so the
// update finds them by primary key.
const claim = `
WITH asked AS MATERIALIZED (
    SELECT d.*, b.*
      FROM unnest($1::text[], $2::text[], $3::timestamptz[], $4::int[], $5::int[]) AS d (destination, target, mark, quota, before)
     CROSS JOIN LATERAL (
           SELECT coalesce(bool_or(h.open_until IS NOT NULL), false) AS open,
                  coalesce(bool_or(h.recovered_at IS NOT NULL OR h.failing_since >= now() - interval '10 minutes'), false) AS troubled,
                  coalesce(bool_or(h.slow_until > now() AND h.destination = d.target), false) AS slow,
                  coalesce(bool_and(h.destination = m.destination)
                           FILTER (WHERE h.recovered_at IS NOT NULL OR h.failing_since >= now() - interval '10 minutes'), false) AS alone,
                  pg_catalog.array_agg(h.probe_id) FILTER (WHERE h.open_until IS NOT NULL AND h.probe_until > now()) AS probes
             FROM (SELECT d.destination) AS m, outbox.destinations AS h
            WHERE ` + breakersOf + `) AS b
), capped AS MATERIALIZED (
    SELECT t.target, t.troubled,
           (SELECT count(*)
              FROM (SELECT FROM outbox.messages AS m
                     WHERE m.retrying AND m.destination >= CASE WHEN t.whole THEN t.target ELSE t.target || '/' END
                       AND m.destination < t.target || CASE WHEN t.whole THEN E'\x01' ELSE '0' END
                       AND m.available_at > now() AND (t.troubled OR ` + mayAwaitAnswer + `)
                     ORDER BY m.destination, m.id LIMIT $9) AS few) AS runs
      FROM (SELECT a.target, a.troubled, bool_and(a.target = a.destination) AS whole
              FROM asked AS a WHERE NOT a.open AND (a.troubled OR a.slow) GROUP BY a.target, a.troubled) AS t
), allowed AS MATERIALIZED (
    SELECT a.destination, a.mark,
           CASE WHEN NOT a.troubled AND NOT a.slow THEN a.quota
                ELSE least(a.quota, greatest(
                     CASE WHEN a.alone AND NOT EXISTS (SELECT FROM outbox.messages AS r
                                                        WHERE r.retrying AND r.destination = a.destination AND r.available_at > now()) THEN 1 ELSE 0 END,
                     $9::int - a.before - (SELECT c.runs FROM capped AS c WHERE c.target = a.target AND c.troubled = a.troubled))) END AS quota
      FROM asked AS a
     WHERE NOT a.open
), due AS MATERIALIZED (
    SELECT next.*
      FROM allowed AS d
     CROSS JOIN LATERAL (
           SELECT m.id, octet_length(m.payload) + octet_length(m.headers::text) - 2 AS bytes, m.available_at, m.started
             FROM outbox.messages AS m
            WHERE m.state = 'pending' AND NOT m.parked AND m.destination = d.destination
              AND m.available_at >= d.mark AND m.available_at <= now() AND m.claims < 5
            ORDER BY m.available_at
            LIMIT d.quota
              FOR UPDATE SKIP LOCKED) AS next
     WHERE d.quota > 0
     LIMIT $6
), probing AS MATERIALIZED (
    SELECT m.id, octet_length(m.payload) + octet_length(m.headers::text) - 2 AS bytes, m.available_at, m.started
      FROM outbox.messages AS m
     WHERE m.id = ANY ($10::uuid[] OPERATOR(pg_catalog.||) ARRAY(SELECT pg_catalog.unnest(a.probes) FROM asked AS a)) AND m.finished_at IS NULL AND m.available_at <= now() AND m.claims < 5
       AND EXISTS (SELECT FROM outbox.destinations AS h WHERE h.probe_id = m.id AND h.probe_until > now() AND ` + breakersOf + `)
       FOR UPDATE SKIP LOCKED
), fitting AS MATERIALIZED (
    SELECT id, available_at, started
      FROM (SELECT id, available_at, started, sum(bytes) OVER (ROWS UNBOUNDED PRECEDING) - bytes AS before
              FROM (SELECT * FROM probing UNION ALL SELECT * FROM due) AS found) AS counted
     WHERE before < $7
)
UPDATE outbox.messages AS m
   SET available_at = now() + $8::interval, parked = true, started = true, claims = m.claims + 1
  FROM unnest(ARRAY(SELECT id FROM fitting), ARRAY(SELECT available_at FROM fitting), ARRAY(SELECT started FROM fitting))
       AS f (id, was_available_at, was_started)
 WHERE m.id = f.id AND m.finished_at IS NULL
RETURNING f.was_available_at, f.was_started, (SELECT count(*) FROM due) AS seen, m.retrying, ` + failing + `, ` + slowTarget + `, ` + recordColumns

// claimAlone takes the due suspect with the lowest ID, for a lease of $1. Its
// process must have nothing else in flight.
const claimAlone = `
WITH due AS MATERIALIZED (
    SELECT m.id, m.available_at, m.started
      FROM outbox.messages AS m
     WHERE m.state = 'pending' AND m.claims >= 5 AND m.available_at <= now()
     ORDER BY m.id
     LIMIT 1
       FOR UPDATE SKIP LOCKED
)
UPDATE outbox.messages AS m
   SET available_at = now() + $1::interval, parked = true, started = true, claims = m.claims + 1
  FROM due AS f
 WHERE m.id = f.id AND m.finished_at IS NULL
RETURNING f.available_at AS was_available_at, f.started AS was_started, 1::bigint AS seen, m.retrying, ` + failing + `, ` + recordColumns

// giveBackClaims takes back what claim wrote for starts that did not happen:
// the count, and for a release the lease too. A row whose lease is another by
// now has been renewed or claimed since, and keeps it.
const giveBackClaims = lockRows + `
UPDATE outbox.messages AS m
   SET claims = greatest(m.claims - 1, 0),
       available_at = CASE WHEN g.release AND m.available_at = g.leased_until THEN now() ELSE m.available_at END,
       parked = m.parked AND NOT (g.release AND m.available_at = g.leased_until)
  FROM unnest($1::uuid[], $2::int[], $3::timestamptz[], $4::boolean[]) AS g (id, generation, leased_until, release)
 WHERE g.id = ANY (ARRAY(SELECT l.id FROM locked AS l)) AND m.id = g.id AND m.generation = g.generation AND m.finished_at IS NULL
RETURNING m.id, m.state, m.generation`

// load reads rows as they stand, and whether a success would be news to others:
// the run may have been claimed by another process.
const load = `SELECT ` + failing + `, ` + slowTarget + `, ` + lookColumns + ` FROM outbox.messages AS m WHERE m.id = ANY ($1::uuid[])`

// loadPayloads reads what lookColumns leave. A payload never changes, so it needs no
// guard.
const loadPayloads = `SELECT m.id, m.payload FROM outbox.messages AS m WHERE m.id = ANY ($1::uuid[])`

// loadOutcomes reads how rows ended.
const loadOutcomes = `SELECT ` + outcomeColumns + ` FROM outbox.messages AS m WHERE m.id = ANY ($1::uuid[])`

// loadAgain reads rows for runs whose process died with the workflow task, and
// counts that as a claim: nobody else would find a payload that kills. Only claims
// alone count beyond 5, because a message that dies with others may be innocent.
const loadAgain = lockRows + `
UPDATE outbox.messages AS m
   SET claims = greatest(m.claims, least(m.claims + 1, 5))
  FROM unnest($1::uuid[], $2::int[]) AS r (id, generation)
 WHERE r.id = ANY (ARRAY(SELECT l.id FROM locked AS l)) AND m.id = r.id AND m.generation = r.generation AND m.finished_at IS NULL
RETURNING ` + failing + `, ` + slowTarget + `, ` + lookColumns

// slowTarget says that the row's target is slow. A scalar, so that no planner hashes all
// destinations for it.
const slowTarget = `
	coalesce((SELECT p.slow_until > now() FROM outbox.destinations AS p WHERE p.destination = ` + targetOf + `), false) AS slow_target`

// failing says that a breaker of the row's destination has counted failures and no
// success since; proven that a message has reached the destination, where that is not the
// whole target.
const failing = `
	EXISTS (SELECT FROM outbox.destinations AS h WHERE h.failing_since IS NOT NULL AND ` + breakersOf + `) AS failing,
	CASE WHEN m.destination ~ '^(https?|rabbitmq):' THEN ` + deliveredAt + ` IS NOT NULL ELSE false END AS proven`

// heldBack is how long a row's destination still takes nothing but a probe; NULL
// where this row may be sent. Scanners choose the probe. Where none has for a while,
// because none is running, whoever comes next may try.
const heldBack = `
	(SELECT greatest(max(h.open_until) - now(), interval '0') FROM outbox.destinations AS h
	  WHERE h.open_until IS NOT NULL AND (h.open_until > now() - interval '10 seconds' OR h.probe_until > now()) AND ` + breakersOf + `
	 HAVING count(*) > 0 AND NOT coalesce(bool_or(h.probe_id = m.id AND h.probe_until > now()), false))`

// renew moves the lease past the run's next attempt, notes what the last one met,
// and counts the attempts: earlier ones, and this one if it may send. The generation keeps a
// superseded run from holding a row that an operator has started anew. An attempt
// that was lost with its process counts as a claim; one that failed in an orderly
// way shows that the message kills nobody.
const renew = lockRows + `
UPDATE outbox.messages AS m
   SET available_at = now() + r.lease, retrying = true, parked = true,
       attempts = greatest(m.attempts + r.attempts + CASE WHEN NOT r.waits AND NOT m.cancel_requested
                   AND (m.expires_at > now()) IS NOT FALSE AND ` + heldBack + ` IS NULL THEN 1 ELSE 0 END, 0),
       claims = CASE WHEN r.lost THEN greatest(m.claims, least(m.claims + 1, 5)) WHEN r.last_error IS NOT NULL THEN 0 ELSE m.claims END,
       last_error = coalesce(r.last_error, m.last_error)
  FROM unnest($1::uuid[], $2::int[], $3::interval[], $4::text[], $5::int[], $6::boolean[], $7::boolean[])
       AS r (id, generation, lease, last_error, attempts, lost, waits)
 WHERE r.id = ANY (ARRAY(SELECT l.id FROM locked AS l)) AND m.id = r.id AND m.generation = r.generation AND m.finished_at IS NULL
RETURNING ` + heldBack + ` AS held_back, ` + failing + `, ` + lookColumns

// finish writes ends. Only a pending row takes one, except that a broker's
// acknowledgement beats any other end of its generation: the message is out. Its
// producer is then told once more. The run that writes an end has a minute to
// start the callback, before a scanner does. Whoever waits for an end is told by
// the same commit, once for all rows.
const finish = lockRows + `, ended AS (
UPDATE outbox.messages AS m
   SET state = e.state, finished_at = now(), dismissed_at = NULL, retrying = false, parked = false, attempts = m.attempts + e.attempts,
       broker_message_id = e.broker_message_id, last_error = coalesce(e.last_error, m.last_error),
       callback_state = CASE WHEN m.callback IS NOT NULL THEN 'due' END, callback_attempts = 0, callback_error = NULL,
       callback_due_at = CASE WHEN m.callback IS NOT NULL THEN now() + interval '1 minute' END
  FROM unnest($1::uuid[], $2::int[], $3::text[], $4::text[], $5::text[], $6::int[])
       AS e (id, generation, state, broker_message_id, last_error, attempts)
 WHERE e.id = ANY (ARRAY(SELECT l.id FROM locked AS l)) AND m.id = e.id AND m.generation = e.generation
   AND (m.finished_at IS NULL OR (e.state = 'delivered' AND m.state IN ('dead', 'expired', 'cancelled')))
RETURNING ` + outcomeColumns + `
), told AS MATERIALIZED (
    SELECT outbox.tell_waiters(ARRAY(SELECT e.id FROM ended AS e))
)
SELECT e.* FROM ended AS e WHERE ` + telling

// telling has a statement run its CTE "told", once, after the ends that it is told
// of: Postgres leaves out what nothing asks for.
const telling = `(SELECT count(*) FROM told) > 0`

// yield makes a row claimable that its run leaves: one that was started anew, for
// which a run of an older generation stood in the way, or a suspect, for a claim
// that takes it alone. The second gives that run time to close: until then it
// would still refuse the new start. One that was rescheduled is not due before its
// time.
const yield = `
UPDATE outbox.messages AS m
   SET available_at = greatest(m.due_at, now() + interval '1 second'), retrying = false, parked = true
 WHERE m.id = $1 AND m.finished_at IS NULL
   AND (m.generation > $2 AND NOT m.retrying AND m.available_at > greatest(m.due_at, now() + interval '1 second')
        OR m.generation = $2 AND m.claims >= 5)`

// putBack leaves rows to later claims whose destination took nothing: they wait as
// rows, without a run. A row that comes back again and again waits longer each time,
// up to a minute; the first seconds give its run time to close. It failed in an
// orderly way and kills nobody, so its claims are forgotten: else a suspect would
// be claimed alone for as long as its destination is down. A row that is off the
// fast path keeps its lease, which may be that of a live run.
const putBack = lockRows + `
UPDATE outbox.messages AS m
   SET available_at = CASE WHEN m.retrying THEN m.available_at
                           ELSE now() + least(interval '1 second' * (1 << least(m.attempts, 6))::float8, interval '1 minute') END,
       parked = true, claims = 0, attempts = m.attempts + r.attempts, last_error = coalesce(r.last_error, m.last_error)
  FROM unnest($1::uuid[], $2::int[], $3::text[], $4::int[]) AS r (id, generation, last_error, attempts)
 WHERE r.id = ANY (ARRAY(SELECT l.id FROM locked AS l)) AND m.id = r.id AND m.generation = r.generation AND m.finished_at IS NULL
RETURNING ` + outcomeColumns

// pendingCounts counts what is not final, by destination. Rows wait that were put back or
// held back, which no claim counts and which say why, and those that are due behind an
// open breaker.
const pendingCounts = `
SELECT c.destination, CASE WHEN b.open THEN 0 ELSE c.due END AS due, c.delayed, c.leased, c.retrying,
       c.waiting + CASE WHEN b.open THEN c.due ELSE 0 END AS waiting, coalesce(c.last_error, b.last_error, '') AS last_error
  FROM (SELECT m.destination,
               count(*) FILTER (WHERE m.available_at <= now())                                       AS due,
               count(*) FILTER (WHERE m.available_at > now() AND m.retrying)                         AS retrying,
               count(*) FILTER (WHERE m.available_at > now() AND NOT m.retrying AND m.due_at > now()) AS delayed,
               count(*) FILTER (WHERE m.available_at > now() AND NOT m.retrying AND m.due_at <= now() AND NOT m.waits) AS leased,
               count(*) FILTER (WHERE m.available_at > now() AND NOT m.retrying AND m.due_at <= now() AND m.waits)     AS waiting,
               max(m.last_error) FILTER (WHERE m.retrying OR m.waits)                                AS last_error
          FROM (SELECT m.*, ` + waits + ` AS waits FROM ` + pendingRows + ` AS m) AS m
         GROUP BY m.destination) AS c
 CROSS JOIN LATERAL (
       SELECT count(*) > 0 AS open, max(h.last_error) AS last_error
         FROM (SELECT c.destination) AS m, outbox.destinations AS h
        WHERE h.open_until IS NOT NULL AND ` + breakersOf + `) AS b
 ORDER BY c.destination`
