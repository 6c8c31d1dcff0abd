package operator

import (
	"context"
	"errors"

	"github.com/google/uuid"

	"github.com/outflowhq/outflow"
)

// yieldWait is how long a message that is started again beside a run waits for that run to yield. A
// run that yields earlier ends the wait. A run that takes longer makes Temporal refuse the new
// start, which is repeated when that claim's lease is over.
const yieldWait = `CASE WHEN l.untouched THEN interval '0' ELSE interval '10 seconds' END`

// redirectSQL sends pending messages to $4 instead. The next generation keeps the old broker's
// acknowledgement from ending the message. The message is due now: a new destination that is missing
// is waited for, however long the old one was. A message with an ordering key follows those of its
// new destination that were enqueued before it.
const redirectSQL = beginAct + `
    UPDATE outbox.messages AS m
       SET destination = $4::text, generation = m.generation + 1, claims = 0, retrying = false,
           due_at = CASE WHEN (m.expires_at > now()) IS NOT FALSE THEN greatest(m.due_at, now()) ELSE m.due_at END,
           parked = true, started = false, streamed = false, head = false, follower = m.ordering_key IS NOT NULL,
           available_at = CASE WHEN m.ordering_key IS NOT NULL THEN ` + neverSQL + `
                               ELSE greatest(m.due_at, now() + ` + yieldWait + `) END
      FROM locked AS l
     WHERE m.id = ANY (ARRAY[l.id]) AND l.finished_at IS NULL AND NOT l.cancel_requested AND NOT l.in_page
       AND l.destination <> $4::text` + actColumns + `
       'redirect' AS act,
       pg_catalog.jsonb_build_object('from', outbox.display_destination(l.destination)) AS detail` + endAct

// Redirect gives pending messages another destination, in canonical form, with the next generation.
// It retries dead, expired and cancelled messages to that destination. A publish that is under way
// may still reach the old one; the message then ends with the new one's acknowledgement. A message that
// a stream has in hand is left as it is.
//
// A message that was claimed before becomes claimable when its old run yields, or after 10 seconds.
func (o *Operator) Redirect(ctx context.Context, ids []uuid.UUID, destination string, by Actor) ([]Answer, error) {
	changes, err := o.act(ctx, "redirecting", redirectSQL, ids, by, destination)
	if err != nil {
		return nil, err
	}
	retryErr := o.retryTo(ctx, changes, destination, by)
	why := func(c change) string {
		if c.Destination == destination {
			return "it goes there already"
		}
		return ""
	}
	answers, err := o.moved(ctx, changes, by, "redirected to "+outflow.DisplayDestination(destination), why)
	return answers, errors.Join(retryErr, err)
}

// retryTo retries the dead, expired and cancelled messages among changes to a destination, and
// replaces their changes.
func (o *Operator) retryTo(ctx context.Context, changes []change, destination string, by Actor) error {
	var ended []uuid.UUID
	for _, c := range changes {
		if c.State.Final() && c.State != outflow.Delivered {
			ended = append(ended, c.ID)
		}
	}
	if len(ended) == 0 {
		return nil
	}
	retried, err := o.act(ctx, "redirecting", retrySQL, ended, by, destination)
	for i, at := 0, 0; i < len(changes) && at < len(retried); i++ {
		if changes[i].ID == retried[at].ID {
			changes[i] = retried[at]
			at++
		}
	}
	return err
}

// moved answers for messages with a next generation, and signals the runs of the old one, so that
// they yield. why says of a pending message why the act left it as it is.
func (o *Operator) moved(
	ctx context.Context, changes []change, by Actor, done string, why func(change) string,
) ([]Answer, error) {
	answers := make([]Answer, 0, len(changes))
	for _, c := range changes {
		a := c.answer(Done, "%s", done)
		switch {
		case c.Done && c.Retrying:
			outcome, _, err := o.signal(ctx, c, by)
			a.Text += "; " + outcome
			if err != nil {
				return append(answers, a), err
			}
		case c.Done && c.State == outflow.Pending && !c.Untouched:
			a.Text += "; if it has a run, that yields within seconds"
		case c.Done || !c.Found:
		case c.State == outflow.Delivered:
			a = c.answer(Refused, "delivered: \"outflow resend\" sends a copy")
		case c.State.Final():
			a = c.answer(Refused, "%s: \"outflow retry\" sends it", c.State)
		case c.CancelRequested:
			a = c.answer(Refused, "pending: its cancel was requested")
		case c.InPage: // its stream does not look at the row again: it would go out twice
			a = c.answer(Refused, "pending: a stream is delivering it right now: try again in a minute")
		default:
			a = c.answer(Refused, "%s", why(c))
		}
		answers = append(answers, a)
	}
	return answers, nil
}
