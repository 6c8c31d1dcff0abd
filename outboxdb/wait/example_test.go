package wait_test

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/outboxdb"
	"github.com/outflowhq/outflow/outboxdb/wait"
)

// One Waiter serves a whole process, however many calls wait. Wait after the commit, with a
// timeout of its own: the message is delivered all the same.
func Example() {
	order := func(ctx context.Context, pool *pgxpool.Pool, waiter *wait.Waiter) (string, error) {
		var ids []uuid.UUID
		err := pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) (err error) {
			ids, err = outboxdb.Enqueue(ctx, tx, outflow.Message{Destination: "sqs://orders", Type: "order-placed", Payload: []byte(`{"id":7}`)})
			return err
		})
		if err != nil {
			return "", err
		}
		ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
		defer cancel()
		outcome, err := waiter.Wait(ctx, ids[0])
		switch {
		case errors.Is(err, context.DeadlineExceeded):
			return "on its way", nil
		case err != nil:
			return "", err
		case outcome.State != outflow.Delivered:
			return "", fmt.Errorf("order not sent: %s", outcome.LastError)
		}
		return "sent as " + outcome.BrokerMessageID, nil
	}
	serve := func(pool *pgxpool.Pool) { // pool.Close comes after
		waiter := wait.New(pool)
		defer waiter.Close()
		_, _ = order(context.Background(), pool, waiter)
	}
	_ = serve
}
