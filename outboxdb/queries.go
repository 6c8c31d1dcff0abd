package outboxdb

// A write that names its rows guards them with "finished_at IS NULL", which the
// table holds to mean pending. To name the state would offer the planner the
// claim index, and it takes it where its statistics are from an empty queue: a
// million rows read for one (TestPlans). What it has left is the primary key.

// lockRows begins a write on many rows. It locks them in the order of their IDs
// before the first is written, so that two such writes can't wait for each
// other in a circle: the update itself takes them in whatever order it finds
// them. The write names "locked" to have it run.
const lockRows = `
WITH locked AS MATERIALIZED (
    SELECT m.id FROM outbox.messages AS m WHERE m.id = ANY ($1::uuid[]) ORDER BY m.id FOR NO KEY UPDATE
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
	m.id, m.state, m.generation, m.attempts, m.finished_at, m.broker_message_id, m.last_error, ` + callbackDue

// schemaReady looks for the oldest and the newest thing that a migration makes.
const schemaReady = `SELECT to_regclass('outbox.messages') IS NOT NULL AND to_regclass('outbox.waiters') IS NOT NULL`

// dueDestinations walks the claim index from destination to destination (a
// loose index scan: one probe each, whatever the number of rows) and returns
// each with the low-water mark from which a claim may start. Bounded, because
// https destinations can be many; $1 is where the last walk stopped. On the way
// it says whether a destination's breaker wants a probe or its runs the news that
// it closed, and whether a suspect is due.
const dueDestinations = `
WITH RECURSIVE walk AS (
    (SELECT destination, available_at
       FROM outbox.messages
      WHERE state = 'pending' AND destination > $1
      ORDER BY destination, available_at
      LIMIT 1)
    UNION ALL
    SELECT next.destination, next.available_at
      FROM walk
     CROSS JOIN LATERAL (
           SELECT destination, available_at
             FROM outbox.messages
            WHERE state = 'pending' AND destination > walk.destination
            ORDER BY destination, available_at
            LIMIT 1) AS next
)
SELECT destination, least(available_at, now()) AS mark, available_at <= now() AS due,
       (SELECT EXISTS (SELECT FROM outbox.destinations AS d WHERE d.open_until IS NOT NULL OR d.recovered_at IS NOT NULL)) AS troubled,
       (SELECT EXISTS (SELECT FROM outbox.messages AS m WHERE m.state = 'pending' AND m.claims >= 5 AND m.available_at <= now())) AS suspects
  FROM walk
 LIMIT $2`

// claim takes due rows of the given destinations ($1), each from its low-water
// mark ($2) and at most its quota ($3), together at most $4 rows and $5 bytes,
// for a lease of $6. Of a destination whose breaker is open it takes the one row
// that a scanner chose as the probe, and of one that is failing,
// or whose runs are still being told that it works again, no more than leave it $7
// rows off the fast path: else one that takes a few at a time would collect more
// with each success. A row whose lease is over is not one of
// these: its run is lost. Nor does the cap outlast ten minutes in which every
// retrying run has tried and the breaker did not open: then those that fail are to
// blame, not their destination. Suspects are claimed alone, elsewhere. The
// LIMIT 1 on a primary key keeps the destinations in the order in which they are
// given: a join by hash would lose whose turn it is. SKIP LOCKED lets several scanners share the table;
// MATERIALIZED keeps the locking subquery from being run again; the planner
// takes an array for ten rows, so the update finds them one by one by primary
// key. The row that crosses the byte bound is taken, so that a large one is not
// stuck; those behind it are left as they are, and probes come first: a lost turn
// costs its destination the probe's lease.
const claim = `
WITH allowed AS MATERIALIZED (
    SELECT d.destination, d.mark, CASE WHEN h.open_until IS NOT NULL AND h.probe_until > now() THEN h.probe_id END AS probe,
           CASE WHEN h.open_until IS NOT NULL THEN 0
                WHEN h.recovered_at IS NULL AND (h.failing_since IS NULL OR h.failing_since < now() - interval '10 minutes') THEN d.quota
                ELSE greatest(0, least(d.quota, $7::int - (SELECT count(*)
                     FROM (SELECT FROM outbox.messages AS r
                            WHERE r.retrying AND r.destination = d.destination AND r.available_at > now() ORDER BY r.id LIMIT $7) AS few)))
                END AS quota
      FROM unnest($1::text[], $2::timestamptz[], $3::int[]) AS d (destination, mark, quota)
      LEFT JOIN LATERAL (SELECT * FROM outbox.destinations AS h WHERE h.destination = d.destination LIMIT 1) AS h ON true
), due AS MATERIALIZED (
    SELECT next.id, next.bytes, next.available_at
      FROM allowed AS d
     CROSS JOIN LATERAL (
           SELECT m.id, octet_length(m.payload) AS bytes, m.available_at
             FROM outbox.messages AS m
            WHERE m.state = 'pending' AND m.destination = d.destination
              AND m.available_at >= d.mark AND m.available_at <= now() AND m.claims < 5
            ORDER BY m.available_at
            LIMIT d.quota
              FOR UPDATE SKIP LOCKED) AS next
     WHERE d.quota > 0
     LIMIT $4
), probing AS MATERIALIZED (
    SELECT one.id, one.bytes, one.available_at
      FROM allowed AS d
     CROSS JOIN LATERAL (
           SELECT m.id, octet_length(m.payload) AS bytes, m.available_at
             FROM outbox.messages AS m
            WHERE m.id = d.probe AND m.destination = d.destination AND m.finished_at IS NULL AND m.available_at <= now() AND m.claims < 5
              FOR UPDATE SKIP LOCKED) AS one
), fitting AS MATERIALIZED (
    SELECT id, available_at
      FROM (SELECT id, available_at, sum(bytes) OVER (ROWS UNBOUNDED PRECEDING) - bytes AS before
              FROM (SELECT * FROM probing UNION ALL SELECT * FROM due) AS found) AS counted
     WHERE before < $5
)
UPDATE outbox.messages AS m
   SET available_at = now() + $6::interval, claims = m.claims + 1
  FROM unnest(ARRAY(SELECT id FROM fitting), ARRAY(SELECT available_at FROM fitting)) AS f (id, was_available_at)
 WHERE m.id = f.id AND m.finished_at IS NULL
RETURNING f.was_available_at, (SELECT count(*) FROM due) AS seen, ` + failing + `, ` + recordColumns

// claimAlone takes the due suspect with the lowest ID, for a lease of $1. Its
// process must have nothing else in flight.
const claimAlone = `
WITH due AS MATERIALIZED (
    SELECT m.id, m.available_at
      FROM outbox.messages AS m
     WHERE m.state = 'pending' AND m.claims >= 5 AND m.available_at <= now()
     ORDER BY m.id
     LIMIT 1
       FOR UPDATE SKIP LOCKED
)
UPDATE outbox.messages AS m
   SET available_at = now() + $1::interval, claims = m.claims + 1
  FROM due AS f
 WHERE m.id = f.id AND m.finished_at IS NULL
RETURNING f.available_at AS was_available_at, 1::bigint AS seen, ` + failing + `, ` + recordColumns

// giveBackClaims takes back what claim wrote for starts that did not happen:
// the count, and for a release the lease too. A row whose lease is another by
// now has been renewed or claimed since, and keeps it.
const giveBackClaims = lockRows + `
UPDATE outbox.messages AS m
   SET claims = greatest(m.claims - 1, 0),
       available_at = CASE WHEN g.release AND m.available_at = g.leased_until THEN now() ELSE m.available_at END
  FROM unnest($1::uuid[], $2::int[], $3::timestamptz[], $4::boolean[]) AS g (id, generation, leased_until, release)
 WHERE (SELECT count(*) FROM locked) > 0 AND m.id = g.id AND m.generation = g.generation AND m.finished_at IS NULL`

// load reads rows as they stand, and whether a success would be news to others:
// the run may have been claimed by another process.
const load = `SELECT ` + failing + `, ` + lookColumns + ` FROM outbox.messages AS m WHERE m.id = ANY ($1::uuid[])`

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
 WHERE (SELECT count(*) FROM locked) > 0 AND m.id = r.id AND m.generation = r.generation AND m.finished_at IS NULL
RETURNING ` + failing + `, ` + lookColumns

// failing says that a row's destination has failed and not succeeded since.
const failing = `
	EXISTS (SELECT FROM outbox.destinations AS h WHERE h.destination = m.destination AND h.failing_since IS NOT NULL) AS failing`

// heldBack is how long a row's destination still takes nothing but a probe; NULL
// where this row may be sent. Scanners choose the probe. Where none has for a while,
// because none is running, whoever comes next may try.
const heldBack = `
	(SELECT greatest(h.open_until - now(), interval '0') FROM outbox.destinations AS h
	  WHERE h.destination = m.destination AND h.open_until IS NOT NULL
	    AND (h.open_until > now() - interval '10 seconds' OR h.probe_until > now())
	    AND (h.probe_id = m.id AND h.probe_until > now()) IS NOT TRUE)`

// renew moves the lease past the run's next attempt, notes what the last one met,
// and counts the attempts, without this one if its destination is held back. The generation keeps a
// superseded run from holding a row that an operator has started anew. An attempt
// that was lost with its process counts as a claim; one that failed in an orderly
// way shows that the message kills nobody.
const renew = lockRows + `
UPDATE outbox.messages AS m
   SET available_at = now() + r.lease, retrying = true,
       attempts = m.attempts + r.attempts - CASE WHEN ` + heldBack + ` IS NULL THEN 0 ELSE 1 END,
       claims = CASE WHEN r.lost THEN greatest(m.claims, least(m.claims + 1, 5)) WHEN r.last_error IS NOT NULL THEN 0 ELSE m.claims END,
       last_error = coalesce(r.last_error, m.last_error)
  FROM unnest($1::uuid[], $2::int[], $3::interval[], $4::text[], $5::int[], $6::boolean[])
       AS r (id, generation, lease, last_error, attempts, lost)
 WHERE (SELECT count(*) FROM locked) > 0 AND m.id = r.id AND m.generation = r.generation AND m.finished_at IS NULL
RETURNING ` + heldBack + ` AS held_back, ` + failing + `, ` + lookColumns

// finish writes ends. Only a pending row takes one, except that a broker's
// acknowledgement beats any other end of its generation: the message is out. Its
// producer is then told once more. The run that writes an end has a minute to
// start the callback, before a scanner does. Whoever waits for an end is told by
// the same commit, once for all rows.
const finish = lockRows + `, ended AS (
UPDATE outbox.messages AS m
   SET state = e.state, finished_at = now(), retrying = false, attempts = m.attempts + e.attempts,
       broker_message_id = e.broker_message_id, last_error = coalesce(e.last_error, m.last_error),
       callback_state = CASE WHEN m.callback IS NOT NULL THEN 'due' END, callback_attempts = 0, callback_error = NULL,
       callback_due_at = CASE WHEN m.callback IS NOT NULL THEN now() + interval '1 minute' END
  FROM unnest($1::uuid[], $2::int[], $3::text[], $4::text[], $5::text[], $6::int[])
       AS e (id, generation, state, broker_message_id, last_error, attempts)
 WHERE (SELECT count(*) FROM locked) > 0 AND m.id = e.id AND m.generation = e.generation
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
   SET available_at = greatest(m.due_at, now() + interval '1 second'), retrying = false
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
                           ELSE now() + least(interval '1 second' * 2 ^ least(m.attempts, 6), interval '1 minute') END,
       claims = 0, attempts = m.attempts + r.attempts, last_error = coalesce(r.last_error, m.last_error)
  FROM unnest($1::uuid[], $2::int[], $3::text[], $4::int[]) AS r (id, generation, last_error, attempts)
 WHERE (SELECT count(*) FROM locked) > 0 AND m.id = r.id AND m.generation = r.generation AND m.finished_at IS NULL
RETURNING ` + outcomeColumns

// pendingCounts counts what is not final, by destination.
const pendingCounts = `
SELECT m.destination,
       count(*) FILTER (WHERE m.available_at <= now())                                        AS due,
       count(*) FILTER (WHERE m.available_at > now() AND m.due_at > now() AND NOT m.retrying) AS delayed,
       count(*) FILTER (WHERE m.available_at > now() AND m.due_at <= now() AND NOT m.retrying) AS leased,
       count(*) FILTER (WHERE m.available_at > now() AND m.retrying)                          AS retrying,
       coalesce(max(m.last_error) FILTER (WHERE m.retrying), '')                              AS last_error
  FROM outbox.messages AS m
 WHERE m.state = 'pending'
 GROUP BY m.destination
 ORDER BY m.destination`
