package operator

import (
	"context"

	"github.com/google/uuid"

	"github.com/outflowhq/outflow/outbox"
)

// retryCallbacksSQL makes failed callbacks due at once: a scanner starts their runs.
const retryCallbacksSQL = beginAct + `
    UPDATE outbox.messages AS m
       SET callback_state = 'due', callback_due_at = now()
      FROM locked AS l
     WHERE m.id = ANY (ARRAY[l.id]) AND l.callback_state = 'failed'` + actColumns + `
       'retry-callback' AS act, pg_catalog.jsonb_build_object('error', l.callback_error) AS detail` + endAct

// RetryCallbacks makes failed callbacks due, for the next scanner to start. Their attempts and last
// errors stay.
func (o *Operator) RetryCallbacks(ctx context.Context, ids []uuid.UUID, by Actor) ([]Answer, error) {
	changes, err := o.act(ctx, "retrying the callbacks of", retryCallbacksSQL, ids, by)
	if err != nil {
		return nil, err
	}
	answers := make([]Answer, 0, len(ids))
	for _, c := range changes {
		answers = append(answers, callbackRetried(c))
	}
	return answers, nil
}

func callbackRetried(c change) Answer {
	switch {
	case !c.Found || c.Done:
		return c.answer(Done, "its callback had failed, due again")
	case c.Callback == nil:
		return c.answer(Refused, "it has no callback")
	case c.CallbackState == nil:
		return c.answer(Refused, "%s: its callback is sent once it ends", c.State)
	case *c.CallbackState == outbox.CallbackSent:
		return c.answer(Refused, "its callback was sent")
	}
	return c.answer(Refused, "its callback is due: its run tries it, or a scanner starts one")
}
