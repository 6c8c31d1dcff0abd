package operator

import (
	"context"
	"errors"
	"fmt"

	"github.com/google/uuid"

	"github.com/outflowhq/outflow/outbox"
)

// releaseSQL makes a message claimable whose workflow has no open run. The lease ($5) that was read
// before Temporal was asked distinguishes it from a later claim.
const releaseSQL = beginAct + `
    UPDATE outbox.messages AS m
       SET available_at = CASE WHEN m.follower THEN m.available_at ELSE greatest(m.due_at, now()) END, parked = true
      FROM locked AS l
     WHERE m.id = ANY (ARRAY[l.id]) AND l.finished_at IS NULL AND l.generation = $4::int AND l.available_at = $5::timestamptz
       AND NOT l.available` + actColumns + `
       'release' AS act, pg_catalog.jsonb_build_object('leased_until', l.available_at) AS detail` + endAct

// noteSignalSQL is the audit entry of a signal that Temporal has accepted.
const noteSignalSQL = `
INSERT INTO outbox.audit (act, message_id, destination, generation, who, why)
VALUES ('try-now', $1, outbox.display_destination($2), $3, $4, $5)`

// signal asks the run of a retrying message to look at its row now. Where the message has no run,
// nothing uses its lease, and signal drops it. It returns the outcome in words for an answer, and
// Temporal's error.
func (o *Operator) signal(ctx context.Context, c change, by Actor) (outcome string, signalErr, err error) {
	signalErr = o.runs.TryNow(ctx, o.workflowID(c.ID))
	switch {
	case signalErr == nil:
		return "its run was signalled", nil, nil
	case !errors.Is(signalErr, ErrNoRun):
		return "its run could not be signalled: " + signalErr.Error(), signalErr, nil
	}
	ref := outbox.Ref{ID: c.ID, Generation: c.NewGeneration}
	_, err = o.act(ctx, "releasing", releaseSQL, []uuid.UUID{ref.ID}, by, ref.Generation, c.NewAvailableAt)
	return "it had no run; the next scanner starts one", signalErr, err
}

// noteSignal notes that the run of a message was signalled, which changes nothing in the row. The
// entry is of the message as it stood then: the run may have changed it since.
func (o *Operator) noteSignal(ctx context.Context, m MessageStatus, by Actor) error {
	if _, err := o.pool.Exec(ctx, noteSignalSQL, m.ID, m.Destination, m.Generation, by.Who, by.Why); err != nil {
		return fmt.Errorf("noting that the run of message %s was signalled: %w", m.ID, err)
	}
	return nil
}
