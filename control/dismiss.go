package control

import (
	"context"

	"github.com/google/uuid"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/outboxdb"
)

// DismissStore is the table as Dismiss needs it; outboxdb.Operator is one.
type DismissStore interface {
	Dismiss(ctx context.Context, ids []uuid.UUID, by outboxdb.By) ([]outboxdb.Change, error)
	UndoDismiss(ctx context.Context, ids []uuid.UUID, by outboxdb.By) ([]outboxdb.Change, error)
}

var _ DismissStore = (*outboxdb.Operator)(nil)

// Dismiss lets dead messages go. They have no run, so the table alone is told.
func (d Desk) Dismiss(ctx context.Context, store DismissStore, ids []uuid.UUID) ([]Answer, error) {
	changes, err := store.Dismiss(ctx, ids, d.By)
	if err != nil {
		return nil, err
	}
	answers := make([]Answer, 0, len(changes))
	for _, c := range changes {
		switch {
		case !c.Found || c.Done:
			answers = append(answers, answer(c, Done, "was dead, dismissed"))
		case c.DismissedAt != nil:
			answers = append(answers, answer(c, Done, "dismissed before, at %s", stamp(*c.DismissedAt)))
		case c.State == outflow.Pending:
			answers = append(answers, answer(c, Refused, "pending: \"outflow cancel\" ends it"))
		default:
			answers = append(answers, answer(c, Refused, "%s: only dead messages are dismissed", c.State))
		}
	}
	return answers, nil
}

// UndoDismiss makes dismissed messages plain dead ones again.
func (d Desk) UndoDismiss(ctx context.Context, store DismissStore, ids []uuid.UUID) ([]Answer, error) {
	changes, err := store.UndoDismiss(ctx, ids, d.By)
	if err != nil {
		return nil, err
	}
	answers := make([]Answer, 0, len(changes))
	for _, c := range changes {
		switch {
		case !c.Found || c.Done:
			answers = append(answers, answer(c, Done, "was dismissed, dead again"))
		case c.State == outflow.Dead:
			answers = append(answers, answer(c, Done, "dead: it is not dismissed"))
		default:
			answers = append(answers, answer(c, Refused, "%s: it is not dismissed", c.State))
		}
	}
	return answers, nil
}
