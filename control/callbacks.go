package control

import (
	"context"

	"github.com/google/uuid"

	"github.com/outflowhq/outflow/outbox"
	"github.com/outflowhq/outflow/outboxdb"
)

// CallbackStore is the table as RetryCallbacks needs it; outboxdb.Operator is one.
type CallbackStore interface {
	RetryCallbacks(ctx context.Context, ids []uuid.UUID, by outboxdb.By) ([]outboxdb.Change, error)
}

var _ CallbackStore = (*outboxdb.Operator)(nil)

// RetryCallbacks makes failed callbacks due again, for the next scanner to start.
func (d Desk) RetryCallbacks(ctx context.Context, store CallbackStore, ids []uuid.UUID) ([]Answer, error) {
	changes, err := store.RetryCallbacks(ctx, ids, d.By)
	if err != nil {
		return nil, err
	}
	answers := make([]Answer, 0, len(ids))
	for _, c := range changes {
		answers = append(answers, callbackRetried(c))
	}
	return answers, nil
}

func callbackRetried(c outboxdb.Change) Answer {
	switch {
	case !c.Found || c.Done:
		return answer(c, Done, "its callback had failed, due again")
	case c.Callback == nil:
		return answer(c, Refused, "it has no callback")
	case c.CallbackState == nil:
		return answer(c, Refused, "%s: its callback comes with its end", c.State)
	case *c.CallbackState == outbox.CallbackSent:
		return answer(c, Refused, "its producer was told")
	}
	return answer(c, Refused, "its callback is due: its run tries it, or a scanner starts one")
}
