package outboxdb

// Parts of statements that say which target and which breakers a destination has. Statements name a
// row of outbox.messages m, one of outbox.destinations h.

// schemesOfTargetsSQL are the schemes whose targets have several destinations, as in outbox.TargetOf.
const schemesOfTargetsSQL = `(?:https?|rabbitmq|temporal)`

// TargetOfSQL is the target of the destination m.destination, as outbox.TargetOf has it.
const TargetOfSQL = `coalesce(substring(m.destination FROM '^` + schemesOfTargetsSQL + `://[^/]*'), m.destination)`

// behindTargetSQL is the name behind all destinations of a target t.target: the canonical
// destinations of a host, an exchange or a task queue begin with its name and "/", and "0" comes
// after "/".
const behindTargetSQL = `(t.target || CASE WHEN t.target ~ '^` + schemesOfTargetsSQL + `:' THEN '0' ELSE E'\x01' END)`

// deliveredAtSQL is when a message was last seen to reach m.destination, as far as the table knows.
// A scalar subquery, so that no planner hashes all destinations for it.
const deliveredAtSQL = `(SELECT p.delivered_at FROM outbox.destinations AS p WHERE p.destination = m.destination)`

// BreakersOfSQL is the condition that h is a breaker which a message of m.destination meets: its
// target's, its own, and that of the target's new destinations. The last one counts as long as no
// message has reached the destination.
const BreakersOfSQL = `
    h.destination = ANY (CASE WHEN m.destination ~ '^` + schemesOfTargetsSQL + `:'
        THEN ARRAY[m.destination, ` + TargetOfSQL + `, ` + TargetOfSQL + ` || '#new'] ELSE ARRAY[m.destination] END)
    AND (h.destination <> ` + TargetOfSQL + ` || '#new' OR ` + deliveredAtSQL + ` IS NULL)`

// failingSQL says that a breaker of the row's destination has counted failures and no success
// since; and, as reached, that a message has reached the destination, where that is not the whole
// target.
const failingSQL = `
	EXISTS (SELECT FROM outbox.destinations AS h WHERE h.failing_since IS NOT NULL
	    AND ` + BreakersOfSQL + `) AS failing,
	CASE WHEN m.destination ~ '^` + schemesOfTargetsSQL + `:'
	     THEN ` + deliveredAtSQL + ` IS NOT NULL ELSE false END AS reached`
