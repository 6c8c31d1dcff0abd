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

// recordColumns is what every statement returns of a row. The least keeps
// expires_in within a time.Duration; it passes over the NULL of no expiry.
const recordColumns = `
	m.id, m.seq, m.destination, m.type, m.payload, m.content_type, m.headers, m.ordering_key,
	m.state, m.generation, m.cancel_requested, m.attempts, m.enqueued_at, m.due_at, m.available_at,
	m.expires_at, least(m.expires_at - now(), interval '36500 days') AS expires_in, m.finished_at, m.broker_message_id, m.last_error`

// outcomeColumns leave the payload where it is: an end needs no look at it.
const outcomeColumns = `
	m.id, m.state, m.generation, m.attempts, m.finished_at, m.broker_message_id, m.last_error`

// schemaReady looks for the newest thing that a migration makes.
const schemaReady = `
SELECT to_regclass('outbox.messages') IS NOT NULL
   AND to_regclass('outbox.history') IS NOT NULL`

// dueDestinations walks the claim index from destination to destination (a
// loose index scan: one probe each, whatever the number of rows) and returns
// each with the low-water mark from which a claim may start. Bounded, because
// https destinations can be many; $1 is where the last walk stopped.
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
SELECT destination, least(available_at, now()) AS mark, available_at <= now() AS due
  FROM walk
 LIMIT $2`

// claim takes due rows of the given destinations ($1), each from its low-water
// mark ($2) and at most its quota ($3), together at most $4 rows and $5 bytes,
// for a lease of $6. SKIP LOCKED lets several scanners share the table;
// MATERIALIZED keeps the locking subquery from being run again; the planner
// takes an array for ten rows, so the update finds them one by one by primary
// key. The row that crosses the byte bound is taken, so that a large one is not
// stuck; those behind it are left as they are.
const claim = `
WITH due AS MATERIALIZED (
    SELECT next.id, next.bytes, next.available_at
      FROM unnest($1::text[], $2::timestamptz[], $3::int[]) AS d (destination, mark, quota)
     CROSS JOIN LATERAL (
           SELECT m.id, octet_length(m.payload) AS bytes, m.available_at
             FROM outbox.messages AS m
            WHERE m.state = 'pending' AND m.destination = d.destination
              AND m.available_at >= d.mark AND m.available_at <= now()
            ORDER BY m.available_at
            LIMIT d.quota
              FOR UPDATE SKIP LOCKED) AS next
     LIMIT $4
), fitting AS MATERIALIZED (
    SELECT id, available_at
      FROM (SELECT id, available_at, sum(bytes) OVER (ROWS UNBOUNDED PRECEDING) - bytes AS before FROM due) AS counted
     WHERE before < $5
)
UPDATE outbox.messages AS m
   SET available_at = now() + $6::interval, claims = m.claims + 1
  FROM unnest(ARRAY(SELECT id FROM fitting), ARRAY(SELECT available_at FROM fitting)) AS f (id, was_available_at)
 WHERE m.id = f.id AND m.finished_at IS NULL
RETURNING f.was_available_at, (SELECT count(*) FROM due) AS seen, ` + recordColumns

// giveBackClaims takes back what claim wrote for starts that did not happen:
// the count, and for a release the lease too. A row whose lease is another by
// now has been renewed or claimed since, and keeps it.
const giveBackClaims = lockRows + `
UPDATE outbox.messages AS m
   SET claims = greatest(m.claims - 1, 0),
       available_at = CASE WHEN g.release AND m.available_at = g.leased_until THEN now() ELSE m.available_at END
  FROM unnest($1::uuid[], $2::int[], $3::timestamptz[], $4::boolean[]) AS g (id, generation, leased_until, release)
 WHERE (SELECT count(*) FROM locked) > 0 AND m.id = g.id AND m.generation = g.generation AND m.finished_at IS NULL`

// load reads rows as they stand.
const load = `SELECT ` + recordColumns + ` FROM outbox.messages AS m WHERE m.id = ANY ($1::uuid[])`

// loadOutcomes reads how rows ended.
const loadOutcomes = `SELECT ` + outcomeColumns + ` FROM outbox.messages AS m WHERE m.id = ANY ($1::uuid[])`

// renew moves the lease past the run's next attempt and notes what the last one
// met. The generation keeps a superseded run from holding a row that an
// operator has started anew.
const renew = lockRows + `
UPDATE outbox.messages AS m
   SET available_at = now() + r.lease, retrying = true, attempts = m.attempts + r.attempts,
       last_error = coalesce(r.last_error, m.last_error)
  FROM unnest($1::uuid[], $2::int[], $3::interval[], $4::text[], $5::int[])
       AS r (id, generation, lease, last_error, attempts)
 WHERE (SELECT count(*) FROM locked) > 0 AND m.id = r.id AND m.generation = r.generation AND m.finished_at IS NULL
RETURNING ` + recordColumns

// finish writes ends. Only a pending row takes one, except that a broker's
// acknowledgement beats any other end of its generation: the message is out.
const finish = lockRows + `
UPDATE outbox.messages AS m
   SET state = e.state, finished_at = now(), retrying = false, attempts = m.attempts + e.attempts,
       broker_message_id = e.broker_message_id, last_error = coalesce(e.last_error, m.last_error)
  FROM unnest($1::uuid[], $2::int[], $3::text[], $4::text[], $5::text[], $6::int[])
       AS e (id, generation, state, broker_message_id, last_error, attempts)
 WHERE (SELECT count(*) FROM locked) > 0 AND m.id = e.id AND m.generation = e.generation
   AND (m.finished_at IS NULL OR (e.state = 'delivered' AND m.state IN ('dead', 'expired', 'cancelled')))
RETURNING ` + outcomeColumns

// yield makes a row that was started anew claimable, for the run of an older
// generation that stood in its way. The second gives that run time to close:
// until then it would still refuse the new start. One that was rescheduled is not
// due before its time.
const yield = `
UPDATE outbox.messages AS m
   SET available_at = greatest(m.due_at, now() + interval '1 second')
 WHERE m.id = $1 AND m.generation > $2 AND m.finished_at IS NULL AND NOT m.retrying
   AND m.available_at > greatest(m.due_at, now() + interval '1 second')`

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
