package operator

import (
	"context"

	"github.com/google/uuid"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/internal/text"
)

// dismissSQL dismisses dead messages ($4 true) or takes that back. The rest of the row stays as it
// is, for whoever looks later: doctor and status leave it out, and a purge deletes it some time
// after. Postgres checks constraints first on the row as the statement's snapshot has it, then again
// on the locked one: "m.state" keeps a message that has just ended from failing the first check.
const dismissSQL = beginAct + `
    UPDATE outbox.messages AS m
       SET dismissed_at = CASE WHEN $4::boolean AND m.state = 'dead' THEN now() END
      FROM locked AS l
     WHERE m.id = ANY (ARRAY[l.id]) AND l.state = 'dead' AND (l.dismissed_at IS NULL) = $4::boolean` + actColumns + `
       CASE WHEN $4::boolean THEN 'dismiss' ELSE 'undo-dismiss' END AS act, '{}'::jsonb AS detail` + endAct

// Dismiss marks dead messages that nobody will send. They stay dead, and doctor and status no
// longer count them. Retry and Redirect still take them.
func (o *Operator) Dismiss(ctx context.Context, ids []uuid.UUID, by Actor) ([]Answer, error) {
	changes, err := o.act(ctx, "dismissing", dismissSQL, ids, by, true)
	if err != nil {
		return nil, err
	}
	answers := make([]Answer, 0, len(changes))
	for _, c := range changes {
		switch {
		case c.Done && c.Head:
			answers = append(answers, c.answer(Done,
				"was dead, dismissed; it still blocks its ordering key: \"outflow skip\" ends that"))
		case !c.Found || c.Done:
			answers = append(answers, c.answer(Done, "was dead, dismissed"))
		case c.DismissedAt != nil:
			answers = append(answers, c.answer(Done, "dismissed before, at %s", text.Stamp(*c.DismissedAt)))
		case c.State == outflow.Pending:
			answers = append(answers, c.answer(Refused, "pending: \"outflow cancel\" ends it"))
		default:
			answers = append(answers, c.answer(Refused, "%s: only dead messages are dismissed", c.State))
		}
	}
	return answers, nil
}

// UndoDismiss makes dismissed messages plain dead ones again.
func (o *Operator) UndoDismiss(ctx context.Context, ids []uuid.UUID, by Actor) ([]Answer, error) {
	changes, err := o.act(ctx, "undoing the dismissal of", dismissSQL, ids, by, false)
	if err != nil {
		return nil, err
	}
	answers := make([]Answer, 0, len(changes))
	for _, c := range changes {
		switch {
		case !c.Found || c.Done:
			answers = append(answers, c.answer(Done, "was dismissed, dead again"))
		case c.State == outflow.Dead:
			answers = append(answers, c.answer(Done, "dead: it is not dismissed"))
		default:
			answers = append(answers, c.answer(Refused, "%s: it is not dismissed", c.State))
		}
	}
	return answers, nil
}
