package operator

import (
	"context"
	"fmt"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/outboxdb"
)

// noteSendSQL is the audit entry of a message that an operator enqueued, in the same transaction;
// by route, of each message.
const noteSendSQL = `
INSERT INTO outbox.audit (act, message_id, destination, generation, who, why)
SELECT 'send', m.id, outbox.display_destination(m.destination), m.generation, $2, $3` + ofIDSQL + `
 ORDER BY m.seq`

// Send enqueues one message, in a transaction of its own, and returns its ID; by route, the
// group's. Its errors are those of outboxdb.Enqueue.
func (o *Operator) Send(ctx context.Context, m outflow.Message, by Actor) (uuid.UUID, error) {
	var id uuid.UUID
	err := pgx.BeginFunc(ctx, o.pool, func(tx pgx.Tx) error {
		ids, err := outboxdb.Enqueue(ctx, tx, m)
		if err != nil {
			return err
		}
		id = ids[0]
		_, err = tx.Exec(ctx, noteSendSQL, id, by.Who, by.Why)
		return err
	})
	if err != nil {
		return uuid.Nil, fmt.Errorf("sending a message: %w", err)
	}
	return id, nil
}
