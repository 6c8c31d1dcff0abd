package outboxdb

// Parts of statements that more than one file builds its own from. The exported constants are for
// package operator: its statements mean the same by a due, a leased or a pending row as these.

const (
	// UntouchedSQL says of a pending row m that no claim was ever made of it: then no run has it
	// and none can have published it. What a stream gives back is not started: its attempts are
	// counted, and where the stream is lost its claims.
	UntouchedSQL = `
	(m.finished_at IS NULL AND NOT m.started AND m.claims = 0 AND m.attempts = 0 AND m.generation = 1)`

	// PhaseSQL says in one word how a row m stands. Every message has exactly one phase.
	PhaseSQL = `
	CASE WHEN m.dismissed_at IS NOT NULL THEN 'dismissed' WHEN m.finished_at IS NOT NULL THEN m.state
	     WHEN m.retrying THEN 'retrying'
	     WHEN m.available_at <= now() THEN 'due' WHEN m.due_at > now() THEN 'delayed'
	     WHEN ` + waitsSQL + ` THEN 'waiting' ELSE 'leased' END`

	// HeldSQL says of messages to m.destination that none but a probe is claimed: a breaker of theirs is
	// open, or their destination is missing. Scalar subqueries, so that no planner hashes all
	// destinations for them.
	HeldSQL = `
    ((SELECT count(*) FROM outbox.destinations AS h WHERE h.open_until IS NOT NULL AND ` + BreakersOfSQL + `) > 0
     OR ` + MissingOfSQL + ` IS NOT NULL)`

	// InPageSQL says of a row m that a stream has it in hand. A page's rows are parked for a day, and
	// leave it sooner: ended, given back or freed.
	InPageSQL = `
    (m.state = 'pending' AND m.streamed AND m.parked AND m.available_at > now())`

	// PendingRowsSQL are all pending rows, each along its index.
	PendingRowsSQL = `
    (SELECT * FROM outbox.messages AS free WHERE free.state = 'pending' AND NOT free.parked
     UNION ALL
     SELECT * FROM outbox.messages AS waiting WHERE waiting.state = 'pending' AND waiting.parked)`

	// AuditActSQL notes each row c of the CTE "changed" in outbox.audit, for $2 who says why ($3).
	// The audit outlives the row, so it keeps no query of an address, which may hold a token.
	AuditActSQL = `
), noted AS (
    INSERT INTO outbox.audit (act, message_id, destination, generation, who, why, detail)
    SELECT c.act, c.id, outbox.display_destination(c.destination), c.generation, $2::text, $3::text,
           jsonb_strip_nulls(c.detail)
      FROM changed AS c
)`

	// waitsSQL says of a leased row m that it was put back or held back (no claim counts, and its last
	// error says why), or that it waits for another message of its ordering key.
	waitsSQL = `(m.follower OR m.claims = 0 AND m.last_error IS NOT NULL)`
)
