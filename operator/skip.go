package operator

import (
	"context"

	"github.com/google/uuid"

	"github.com/outflowhq/outflow"
)

// skipSQL has dead heads block their ordering keys no more. They stay dead. The frame of an act
// releases the next message of each key.
const skipSQL = beginAct + `
    UPDATE outbox.messages AS m
       SET head = false
      FROM locked AS l
     WHERE m.id = ANY (ARRAY[l.id]) AND l.head AND l.state = 'dead'` + actColumns + `
       'skip' AS act, '{}'::jsonb AS detail` + endAct

// Skip lets the messages go on that wait behind dead ones of their ordering keys. The dead ones stay
// dead.
func (o *Operator) Skip(ctx context.Context, ids []uuid.UUID, by Actor) ([]Answer, error) {
	changes, err := o.act(ctx, "skipping", skipSQL, ids, by)
	if err != nil {
		return nil, err
	}
	answers := make([]Answer, 0, len(changes))
	for _, c := range changes {
		switch {
		case !c.Found || c.Done:
			answers = append(answers, c.answer(Done, "dead, skipped: the next message of its ordering key goes on"))
		case c.State == outflow.Pending:
			answers = append(answers, c.answer(Refused, "pending: \"outflow cancel\" ends it"))
		default:
			answers = append(answers, c.answer(Done, "%s: it blocks no ordering key", c.State))
		}
	}
	return answers, nil
}
