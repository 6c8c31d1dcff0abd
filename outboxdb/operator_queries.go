package outboxdb

// An operator's statements. Each act is one statement for many messages: it
// locks the rows in the order of their IDs, changes those that the act may
// touch, notes them in outbox.audit, and returns every row as it was found under
// the lock, with what became of it. So the change and its audit row stand or fall
// together, and what an answer says is what the act has seen. The audit outlives the
// row, so it keeps no query of an address: that may hold a token.

// untouched says of a pending row that no claim was ever made of it: then no run
// has it and none can have published it.
const untouched = `
	(m.finished_at IS NULL AND NOT m.started AND m.generation = 1)`

// waits tells of a leased row that it was put back or held back: no claim counts, and it
// says why.
const waits = `(m.claims = 0 AND m.last_error IS NOT NULL)`

// phase says in one word how a row stands. Every message has exactly one.
const phase = `
	CASE WHEN m.dismissed_at IS NOT NULL THEN 'dismissed' WHEN m.finished_at IS NOT NULL THEN m.state WHEN m.retrying THEN 'retrying'
	     WHEN m.available_at <= now() THEN 'due' WHEN m.due_at > now() THEN 'delayed'
	     WHEN ` + waits + ` THEN 'waiting' ELSE 'leased' END`

// standingColumns are a row without its payload. The lengths in the table's
// header are enough for payload_bytes.
const standingColumns = `
	m.id, m.destination, m.type, octet_length(m.payload) AS payload_bytes, m.content_type, m.headers, m.ordering_key,
	m.callback, m.callback_state, m.callback_payload, m.callback_attempts, m.callback_error, m.state, ` + phase + ` AS phase, m.generation, m.claims, m.attempts, m.retrying, m.cancel_requested,
	m.enqueued_at, m.due_at, m.available_at, m.expires_at, m.finished_at, m.dismissed_at, m.broker_message_id, m.last_error,
	m.finished_at IS NULL AND m.available_at <= now() AS available, ` + untouched + ` AS untouched`

// beginAct locks the rows of $1; $2 is who acts and $3 why. endAct notes what the
// CTE "changed" returns; endActTelling also tells whoever waits for an end.
const (
	beginAct = `
WITH locked AS MATERIALIZED (
    SELECT ` + standingColumns + `
      FROM outbox.messages AS m WHERE m.id = ANY ($1::uuid[]) ORDER BY m.id FOR NO KEY UPDATE
), changed AS (`
	changedColumns = `
    RETURNING m.id, m.destination, m.state, m.generation, m.available_at, `
	noteAct = `
), noted AS (
    INSERT INTO outbox.audit (act, message_id, destination, generation, who, why, detail)
    SELECT c.act, c.id, outbox.display_destination(c.destination), c.generation, $2::text, $3::text, jsonb_strip_nulls(c.detail) FROM changed AS c
)`
	answerAct = `
SELECT l.*, c.id IS NOT NULL AS done, coalesce(c.state, l.state) AS new_state, coalesce(c.generation, l.generation) AS new_generation,
       coalesce(c.destination, l.destination) AS new_destination, coalesce(c.available_at, l.available_at) AS new_available_at
  FROM locked AS l LEFT JOIN changed AS c ON c.id = l.id`
	endAct        = noteAct + answerAct
	endActTelling = noteAct + `, told AS MATERIALIZED (
    SELECT outbox.tell_waiters(ARRAY(SELECT c.id FROM changed AS c WHERE c.state <> 'pending'))
)` + answerAct + `
 WHERE ` + telling
)

// retryMessages starts dead, expired and cancelled messages anew, to the
// destination $4 where it is given. The next generation keeps whatever the old
// run still writes from the row. An expiry that has passed would end the message
// at once, and is dropped. One that ended just now waits out the second in which
// its old run closes: until then it would refuse the new start.
const retryMessages = beginAct + `
    UPDATE outbox.messages AS m
       SET state = 'pending', finished_at = NULL, dismissed_at = NULL, generation = m.generation + 1, destination = coalesce($4::text, m.destination),
           due_at = now(), available_at = greatest(now(), m.finished_at + interval '1 second'), parked = true, started = false,
           claims = 0, retrying = false, cancel_requested = false,
           broker_message_id = NULL, callback_state = NULL, callback_attempts = 0, callback_error = NULL, callback_due_at = NULL,
           expires_at = CASE WHEN m.expires_at > now() THEN m.expires_at END
      FROM locked AS l
     WHERE m.id = l.id AND l.state IN ('dead', 'expired', 'cancelled')` + changedColumns + `
       CASE WHEN $4::text IS NULL THEN 'retry' ELSE 'redirect' END AS act,
       pg_catalog.jsonb_build_object('was', l.phase, 'from', outbox.display_destination(nullif(l.destination, m.destination)), 'expiry_dropped', nullif(l.expires_at, m.expires_at)) AS detail` + endAct

// yieldWait is how long a message that is started anew beside a run waits for it
// to make way. A run that yields earlier ends the wait; one that takes longer
// refuses the new start, which is then repeated when that claim's lease is over.
const yieldWait = `CASE WHEN l.untouched THEN interval '0' ELSE interval '10 seconds' END`

// redirectMessages sends pending messages to $4 instead. The next generation
// keeps the old broker's acknowledgement from ending the message.
const redirectMessages = beginAct + `
    UPDATE outbox.messages AS m
       SET destination = $4::text, generation = m.generation + 1, claims = 0, retrying = false,
           parked = true, started = false, available_at = greatest(m.due_at, now() + ` + yieldWait + `)
      FROM locked AS l
     WHERE m.id = l.id AND l.finished_at IS NULL AND NOT l.cancel_requested AND l.destination <> $4::text` + changedColumns + `
       'redirect' AS act, pg_catalog.jsonb_build_object('from', outbox.display_destination(l.destination)) AS detail` + endAct

// rescheduleMessages makes pending messages due at $4, or in $5; what lies in the
// past means now. A message can't be due after its expiry.
const rescheduleMessages = beginAct + `
    UPDATE outbox.messages AS m
       SET due_at = greatest(coalesce($4::timestamptz, now() + $5::interval), now()), generation = m.generation + 1, claims = 0, retrying = false,
           parked = true, started = false, available_at = greatest(coalesce($4::timestamptz, now() + $5::interval), now() + ` + yieldWait + `)
      FROM locked AS l
     WHERE m.id = l.id AND l.finished_at IS NULL AND NOT l.cancel_requested
       AND (l.expires_at > greatest(coalesce($4::timestamptz, now() + $5::interval), now())) IS NOT FALSE` + changedColumns + `
       'reschedule' AS act, pg_catalog.jsonb_build_object('due_at', m.due_at, 'was_due_at', l.due_at) AS detail` + endAct

// requestCancel ends untouched messages, which nobody holds, and asks the runs of
// the others: only they know what the broker has. No run will start a callback
// for the first, so a scanner may at once. A look at the row that comes
// after this sees the request; what may still publish has looked before.
const requestCancel = beginAct + `
    UPDATE outbox.messages AS m
       SET cancel_requested = true, state = CASE WHEN l.untouched THEN 'cancelled' ELSE m.state END,
           finished_at = CASE WHEN l.untouched THEN now() END, parked = m.parked AND NOT l.untouched,
           last_error = CASE WHEN l.untouched THEN 'cancelled: an operator asked for it' ELSE m.last_error END,
           callback_state = CASE WHEN l.untouched AND m.callback IS NOT NULL THEN 'due' END,
           callback_due_at = CASE WHEN l.untouched AND m.callback IS NOT NULL THEN now() END
      FROM locked AS l
     WHERE m.id = l.id AND l.finished_at IS NULL` + changedColumns + `
       'cancel' AS act, pg_catalog.jsonb_build_object('ended', CASE WHEN l.untouched THEN 'at once' END) AS detail` + endActTelling

// endCancelled ends a message whose cancel was requested and whose workflow,
// Temporal says, has no open run: $4 is the generation that was seen then. A lease
// that holds means that a start may be on its way: it is left alone.
const endCancelled = beginAct + `
    UPDATE outbox.messages AS m
       SET state = 'cancelled', finished_at = now(), retrying = false, parked = false, last_error = 'cancelled: an operator asked for it',
           callback_state = CASE WHEN m.callback IS NOT NULL THEN 'due' END, callback_due_at = CASE WHEN m.callback IS NOT NULL THEN now() END
      FROM locked AS l
     WHERE m.id = l.id AND l.finished_at IS NULL AND l.cancel_requested AND l.available AND l.generation = $4::int` + changedColumns + `
       'cancel' AS act, pg_catalog.jsonb_build_object('ended', 'without a run') AS detail` + endActTelling

// retryCallbacks makes failed callbacks due, at once: a scanner starts their runs.
const retryCallbacks = beginAct + `
    UPDATE outbox.messages AS m
       SET callback_state = 'due', callback_due_at = now()
      FROM locked AS l
     WHERE m.id = l.id AND l.callback_state = 'failed'` + changedColumns + `
       'retry-callback' AS act, pg_catalog.jsonb_build_object('error', l.callback_error) AS detail` + endAct

// releaseMessages makes a message claimable whose workflow has no open run. The
// lease ($5) that was seen before Temporal was asked tells it from a later claim.
const releaseMessages = beginAct + `
    UPDATE outbox.messages AS m
       SET available_at = greatest(m.due_at, now()), parked = true
      FROM locked AS l
     WHERE m.id = l.id AND l.finished_at IS NULL AND l.generation = $4::int AND l.available_at = $5::timestamptz AND NOT l.available` + changedColumns + `
       'release' AS act, pg_catalog.jsonb_build_object('leased_until', l.available_at) AS detail` + endAct

// resendMessages copies delivered messages under new IDs ($4, in the order of
// $1), due now. What bounded the first delivery does not bound this one.
const resendMessages = beginAct + `
    INSERT INTO outbox.messages AS m (id, destination, type, payload, content_type, headers, ordering_key, callback, callback_payload)
    SELECT n.new_id, o.destination, o.type, o.payload, o.content_type, o.headers, o.ordering_key, o.callback, o.callback_payload
      FROM unnest($1::uuid[], $4::uuid[]) AS n (id, new_id)
      JOIN locked AS l ON l.id = n.id AND l.state = 'delivered'
      JOIN outbox.messages AS o ON o.id = l.id
 RETURNING m.id, m.destination, m.generation
), noted AS (
    INSERT INTO outbox.audit (act, message_id, destination, generation, who, why, detail)
    SELECT a.act, a.message_id, outbox.display_destination(c.destination), CASE a.act WHEN 'send' THEN 1 ELSE l.generation END, $2::text, $3::text, a.detail
      FROM changed AS c
      JOIN unnest($1::uuid[], $4::uuid[]) AS n (id, new_id) ON n.new_id = c.id
      JOIN locked AS l ON l.id = n.id
     CROSS JOIN LATERAL (VALUES ('resend', n.id, pg_catalog.jsonb_build_object('new_id', c.id)),
                                ('send', c.id, pg_catalog.jsonb_build_object('resend_of', n.id))) AS a (act, message_id, detail)
)
SELECT l.*, c.id IS NOT NULL AS done, l.state AS new_state, l.generation AS new_generation,
       l.destination AS new_destination, l.available_at AS new_available_at
  FROM locked AS l
  JOIN unnest($1::uuid[], $4::uuid[]) AS n (id, new_id) ON n.id = l.id
  LEFT JOIN changed AS c ON c.id = n.new_id`

// noteSent is the audit row of a message that an operator enqueued, in the same
// transaction.
const noteSent = `
INSERT INTO outbox.audit (act, message_id, destination, generation, who, why)
SELECT 'send', m.id, outbox.display_destination(m.destination), m.generation, $2, $3 FROM outbox.messages AS m WHERE m.id = $1`

// noteTold is the audit row of a telling, which Temporal has taken by then.
const noteTold = `
INSERT INTO outbox.audit (act, message_id, destination, generation, who, why)
VALUES ('try-now', $1, outbox.display_destination($2), $3, $4, $5)`

// showMessage reads one row; messagePayload its payload alone.
const (
	showMessage    = `SELECT ` + standingColumns + ` FROM outbox.messages AS m WHERE m.id = $1`
	messagePayload = `SELECT m.payload FROM outbox.messages AS m WHERE m.id = $1`
	auditOf        = `SELECT a.at, a.act, a.generation, a.destination, a.who, a.login, a.why, a.detail FROM outbox.audit AS a WHERE a.message_id = $1 ORDER BY a.id`
)

// pendingRows are all pending rows, each along its index.
const pendingRows = `
    (SELECT * FROM outbox.messages AS free WHERE free.state = 'pending' AND NOT free.parked
     UNION ALL
     SELECT * FROM outbox.messages AS waiting WHERE waiting.state = 'pending' AND waiting.parked)`

// statusPending counts every pending row, by destination and phase. The age is
// that of the one which has been due for longest.
const statusPending = `
SELECT m.destination, ` + phase + ` AS phase, count(*) AS messages, false AS at_least,
       coalesce(extract(epoch FROM max(now() - m.due_at) FILTER (WHERE m.due_at <= now())), 0)::float8 AS oldest_seconds,
       coalesce(max(m.last_error) FILTER (WHERE ` + phase + ` IN ('waiting', 'retrying')), '') AS last_error
  FROM ` + pendingRows + ` AS m
 GROUP BY 1, 2`

// statusDead counts every dead row that nobody dismissed.
const statusDead = `
SELECT m.destination, m.state AS phase, count(*) AS messages, false AS at_least,
       extract(epoch FROM max(now() - m.finished_at))::float8 AS oldest_seconds, coalesce(max(m.last_error), '') AS last_error
  FROM outbox.messages AS m
 WHERE m.state = 'dead' AND m.finished_at IS NOT NULL AND m.dismissed_at IS NULL
 GROUP BY 1, 2`

// statusDismissed counts the $1 rows that were dismissed last.
const statusDismissed = `
SELECT n.destination, 'dismissed' AS phase, count(*) FILTER (WHERE n.place <= $1) AS messages, max(n.found) > $1 AS at_least,
       0::float8 AS oldest_seconds, '' AS last_error
  FROM (SELECT f.destination, row_number() OVER () AS place, count(*) OVER () AS found
          FROM (SELECT m.destination FROM outbox.messages AS m
                 WHERE m.dismissed_at IS NOT NULL
                 ORDER BY m.dismissed_at DESC
                 LIMIT $1::bigint + 1) AS f) AS n
 GROUP BY 1`

// statusNewest counts the newest $2 rows of a final state ($1), which can be
// millions: at_least says that there are more.
const statusNewest = `
SELECT n.destination, $1::text AS phase, count(*) FILTER (WHERE n.place <= $2) AS messages, max(n.found) > $2 AS at_least,
       0::float8 AS oldest_seconds, '' AS last_error
  FROM (SELECT f.destination, row_number() OVER () AS place, count(*) OVER () AS found
          FROM (SELECT m.destination FROM outbox.messages AS m
                 WHERE m.state = $1::text AND m.finished_at IS NOT NULL
                 ORDER BY m.finished_at DESC
                 LIMIT $2::bigint + 1) AS f) AS n
 GROUP BY 1`

// troubledDestinations are the breakers that failures keep open, or that count some, and
// slow targets, with the destinations that each covers.
const troubledDestinations = `
SELECT d.destination, d.covers_from, d.covers_before, d.failures, d.failing_since, d.open_until, coalesce(d.open_until > now(), false) AS open, coalesce(d.last_error, '') AS last_error,
       CASE WHEN d.slow_until > now() THEN d.slow_until END AS slow_until
  FROM outbox.destinations AS d
 WHERE d.failing_since IS NOT NULL OR d.open_until IS NOT NULL OR d.slow_until > now()`

// health is what a doctor asks of the database in one look.
const health = `
SELECT clock_timestamp() AS clock, current_user::text AS role, current_database()::text AS database, current_setting('server_version') AS version,
       pg_catalog.current_setting('transaction_read_only') = 'on' OR pg_catalog.pg_is_in_recovery() AS read_only, pg_catalog.current_setting('server_encoding') AS encoding,
       has_function_privilege('outbox.enqueue_batch(jsonb, boolean)', 'EXECUTE') AND has_schema_privilege('outbox', 'USAGE') AS produces,
       has_table_privilege('outbox.messages', 'SELECT') AND has_any_column_privilege('outbox.messages', 'UPDATE')
           AND has_table_privilege('outbox.destinations', 'SELECT') AND has_table_privilege('outbox.destinations', 'INSERT')
           AND has_table_privilege('outbox.destinations', 'UPDATE')
           AND has_table_privilege('outbox.identity', 'SELECT') AND has_table_privilege('outbox.identity', 'INSERT')
           AND has_function_privilege('outbox.is_destination(text)', 'EXECUTE')
           AND has_function_privilege('outbox.tell_waiters(uuid[])', 'EXECUTE') AS dispatches,
       has_table_privilege('outbox.messages', 'SELECT') AND has_table_privilege('outbox.messages', 'INSERT')
           AND has_table_privilege('outbox.messages', 'UPDATE') AND has_table_privilege('outbox.messages', 'DELETE')
           AND has_table_privilege('outbox.audit', 'SELECT') AND has_any_column_privilege('outbox.audit', 'INSERT')
           AND has_table_privilege('outbox.destinations', 'SELECT')
           AND has_function_privilege('outbox.is_destination(text)', 'EXECUTE')
           AND has_function_privilege('outbox.display_destination(text)', 'EXECUTE')
           AND has_function_privilege('outbox.tell_waiters(uuid[])', 'EXECUTE') AS operates,
       pg_catalog.pg_has_role('pg_read_all_stats', 'USAGE') AS sees_all`
