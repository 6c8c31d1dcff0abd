package outboxdb

import (
	"context"

	"github.com/google/uuid"
)

// dismissMessages lets dead messages go ($4 true) or takes that back. The row stays
// as it is, for whoever asks later; only doctor and status look away from it, and a
// purge takes it some time after.
const dismissMessages = beginAct + `
    UPDATE outbox.messages AS m
       SET dismissed_at = CASE WHEN $4::boolean THEN now() END
      FROM locked AS l
     WHERE m.id = l.id AND l.state = 'dead' AND (l.dismissed_at IS NULL) = $4::boolean` + changedColumns + `
       CASE WHEN $4::boolean THEN 'dismiss' ELSE 'undo-dismiss' END AS act, '{}'::jsonb AS detail` + endAct

// Dismiss lets dead messages go: they stay dead, and doctor and status no longer
// count them. Retry and Redirect still take them. Where a message is dismissed
// already it changes nothing.
func (o *Operator) Dismiss(ctx context.Context, ids []uuid.UUID, by By) ([]Change, error) {
	return o.act(ctx, "dismissing", dismissMessages, ids, by, true)
}

// UndoDismiss makes dismissed messages plain dead ones again.
func (o *Operator) UndoDismiss(ctx context.Context, ids []uuid.UUID, by By) ([]Change, error) {
	return o.act(ctx, "undoing the dismissal of", dismissMessages, ids, by, false)
}
