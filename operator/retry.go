package operator

import (
	"context"
	"errors"

	"github.com/google/uuid"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/internal/text"
)

const (
	stays          = `coalesce($4::text, m.destination) = m.destination`
	retriedFollows = `(m.ordering_key IS NOT NULL AND NOT (m.head AND ` + stays + `))`
)

// retrySQL makes dead, expired and cancelled messages pending again, with the destination $4 where
// it is given.
//   - Generation: the next one keeps whatever the old run still writes from the row.
//   - Expiry: one that has passed would end the message at once, and is dropped.
//   - Order: a dead head that blocks its ordering key goes on as its head. Any other message follows.
//   - Lease: a message that ended just now waits for a second, in which its old run closes. Until
//     then Temporal would refuse the new start.
const retrySQL = beginAct + `
    UPDATE outbox.messages AS m
       SET state = 'pending', finished_at = NULL, dismissed_at = NULL, generation = m.generation + 1,
           destination = coalesce($4::text, m.destination),
           due_at = now(), head = m.head AND ` + stays + `, follower = ` + retriedFollows + `,
           available_at = CASE WHEN ` + retriedFollows + ` THEN ` + neverSQL + `
                               ELSE greatest(now(), m.finished_at + interval '1 second') END,
           parked = true, started = false, streamed = false, claims = 0, retrying = false, cancel_requested = false,
           broker_message_id = NULL,
           callback_state = NULL, callback_attempts = 0, callback_error = NULL, callback_due_at = NULL,
           expires_at = CASE WHEN m.expires_at > now() THEN m.expires_at END
      FROM locked AS l
     WHERE m.id = ANY (ARRAY[l.id]) AND l.state IN ('dead', 'expired', 'cancelled')` + actColumns + `
       CASE WHEN $4::text IS NULL THEN 'retry' ELSE 'redirect' END AS act,
       pg_catalog.jsonb_build_object(
           'was', l.phase, 'from', outbox.display_destination(nullif(l.destination, m.destination)),
           'expiry_dropped', nullif(l.expires_at, m.expires_at)) AS detail` + endAct

// Retry makes dead, expired and cancelled messages pending again, dismissed ones too: due now, with
// the next generation. Their attempts and last errors stay; an expiry that has passed is dropped.
// It signals the runs of messages that are being retried, so that they try soon.
func (o *Operator) Retry(ctx context.Context, ids []uuid.UUID, by Actor) ([]Answer, error) {
	changes, err := o.act(ctx, "retrying", retrySQL, ids, by, nil)
	if err != nil {
		return nil, err
	}
	answers := make([]Answer, 0, len(ids))
	for _, c := range changes {
		switch {
		case !c.Found || c.Done:
			answers = append(answers, c.answer(Done, "was %s, pending again", c.Phase))
		case c.Retrying && !c.CancelRequested:
			verdict := Done
			outcome, signalErr, err := o.signal(ctx, c, by)
			switch {
			case signalErr == nil: // the row shows nothing of a signal
				err = o.noteSignal(ctx, c.MessageStatus, by)
			case !errors.Is(signalErr, ErrNoRun):
				verdict = Failed
			}
			answers = append(answers, c.answer(verdict, "retrying: %s", outcome))
			if err != nil {
				return answers, err
			}
		default:
			answers = append(answers, c.answer(Refused, "%s", whyNotRetried(c)))
		}
	}
	return answers, nil
}

func whyNotRetried(c change) string {
	switch {
	case c.State == outflow.Delivered:
		return `delivered: "outflow resend" sends a copy`
	case c.CancelRequested:
		return "pending: its cancel was requested; retry it once it is cancelled"
	case c.Follower:
		return "pending: it waits for the message before it of its ordering key"
	case c.Phase == "delayed":
		return "pending, due at " + text.Stamp(c.DueAt) + `: "outflow reschedule" changes that`
	case c.Phase == "waiting":
		return "pending: it waits for its destination until " + text.Stamp(c.AvailableAt) + `; "outflow show" says why`
	case c.InPage:
		return "pending: a stream is delivering it"
	case c.Phase == "leased":
		return "pending: it is being delivered"
	case c.Missing != nil:
		return "pending: it waits for its destination: " + *c.Missing
	}
	return "pending: it is due and waits for a scanner"
}
