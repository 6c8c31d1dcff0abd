package operator

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/outboxdb"
)

// The frame of an act's statement: beginAct locks the rows $1, the act's own UPDATE changes some of
// them and returns actColumns with the act's name and detail, and endAct notes these in the audit
// for $2 who says why ($3). It returns every row as it was found under the lock, with what became
// of it: an answer says what the act has seen. A message with an ordering key that the act brings
// into that key's order is written as a follower. Then the same statement releases the next message.
const (
	beginAct = `
WITH locked AS MATERIALIZED (
    SELECT ` + statusColumns + `
      FROM outbox.messages AS m WHERE m.id = ANY ($1::uuid[]) ORDER BY m.id FOR NO KEY UPDATE
), changed AS (`
	actColumns = `
    RETURNING m.id, m.destination, m.state, m.generation, m.available_at, `
	endAct = outboxdb.AuditActSQL + movedSQL + `
SELECT l.*, c.id IS NOT NULL AS done, coalesce(c.state, l.state) AS new_state,
       coalesce(c.generation, l.generation) AS new_generation,
       coalesce(c.destination, l.destination) AS new_destination,
       coalesce(c.available_at, l.available_at) AS new_available_at
  FROM locked AS l LEFT JOIN changed AS c ON c.id = l.id
 WHERE (SELECT count(*) FROM moved) > 0`

	// movedSQL releases the next messages of the ordering keys that the changed rows have and had, and
	// tells an idle starter that something may be due now. A condition that is always true reads it
	// once, because Postgres skips a CTE that nothing reads.
	movedSQL = `, moved AS MATERIALIZED (
    SELECT outbox.release_moved(ARRAY(SELECT c.id FROM changed AS c ORDER BY c.id),
               ARRAY(SELECT coalesce(l.destination, c.destination)
                       FROM changed AS c LEFT JOIN locked AS l ON l.id = c.id ORDER BY c.id)),
           outbox.hint()
)`

	// neverSQL is a follower's available_at.
	neverSQL = `'9999-12-31Z'::timestamptz`
)

// change is what an act made of one message.
type change struct {
	// MessageStatus is the message as the act found it; only its ID where there is none.
	MessageStatus
	// Found says that there is such a message, Done that the act changed it.
	Found bool `db:"-"`
	Done  bool `db:"done"`
	// The rest is what the message is now.
	NewState       outflow.State `db:"new_state"`
	NewGeneration  int           `db:"new_generation"`
	NewDestination string        `db:"new_destination"`
	NewAvailableAt time.Time     `db:"new_available_at"`
}

// act runs an act's statement and returns the change of each of ids, in order.
func (o *Operator) act(
	ctx context.Context, doing, statement string, ids []uuid.UUID, by Actor, args ...any,
) ([]change, error) {
	rows, err := o.pool.Query(ctx, statement, append([]any{ids, by.Who, by.Why}, args...)...)
	if err != nil {
		return nil, fmt.Errorf("%s %d messages: %w", doing, len(ids), err)
	}
	found, err := pgx.CollectRows(rows, pgx.RowToStructByName[change])
	if err != nil {
		return nil, fmt.Errorf("%s %d messages: %w", doing, len(ids), err)
	}
	changes := make([]change, len(ids))
	for i, id := range ids {
		changes[i].ID = id
		if at := slices.IndexFunc(found, func(c change) bool { return c.ID == id }); at >= 0 {
			changes[i] = found[at]
			changes[i].Found = true
		}
	}
	return changes, nil
}

// Verdict is how an act ended for one message, for programs.
type Verdict string

// The verdicts.
const (
	Done      Verdict = "done"      // the message is as it was asked for
	Refused   Verdict = "refused"   // there is no such message, or it is not in a state for this act
	Undecided Verdict = "undecided" // requested; the time to wait is over
	Failed    Verdict = "failed"    // Temporal could not be asked
)

// Answer says how an act ended for one message. An act returns its answers in the order of the IDs.
// Beside an error, which says that the database could not be asked, come the answers for what was
// changed before; an act that returns no answers changed nothing.
type Answer struct {
	ID      uuid.UUID `json:"id"`
	Verdict Verdict   `json:"verdict"`
	Text    string    `json:"text"`
	// State and Generation are the message's now; empty where there is no such message.
	State      outflow.State `json:"state,omitempty"`
	Generation int           `json:"generation,omitempty"`
	// NewID is the ID of the copy that Resend made.
	NewID *uuid.UUID `json:"newId,omitempty"`
}

func (c change) answer(verdict Verdict, format string, args ...any) Answer {
	if !c.Found {
		return notFound(c.ID)
	}
	return Answer{
		ID: c.ID, Verdict: verdict, Text: fmt.Sprintf(format, args...), State: c.NewState, Generation: c.NewGeneration,
	}
}

func notFound(id uuid.UUID) Answer { return Answer{ID: id, Verdict: Refused, Text: "not found"} }
