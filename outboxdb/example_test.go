package outboxdb_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/outboxdb"
)

// A message exists if and only if the transaction that made it commits.
func ExampleEnqueue() {
	register := func(ctx context.Context, pool *pgxpool.Pool, name string) error {
		tx, err := pool.Begin(ctx)
		if err != nil {
			return err
		}
		defer func() { _ = tx.Rollback(context.WithoutCancel(ctx)) }()
		if _, err := tx.Exec(ctx, `INSERT INTO users (name) VALUES ($1)`, name); err != nil {
			return err
		}
		_, err = outboxdb.Enqueue(ctx, tx,
			outflow.Message{Destination: "sqs://welcome-email", Type: "user-registered", Payload: []byte(`{"name":"Ada"}`)},
			outflow.Message{Destination: "sqs://emails", Type: "welcome-email", Payload: []byte(`{"to":"Ada"}`)},
		)
		if err != nil {
			return err
		}
		return tx.Commit(ctx)
	}
	_ = register
}

// The same with database/sql, whatever the driver.
func ExampleEnqueueSQL() {
	register := func(ctx context.Context, db *sql.DB, name string) error {
		tx, err := db.BeginTx(ctx, nil)
		if err != nil {
			return err
		}
		defer func() { _ = tx.Rollback() }() // after Commit it does nothing
		if _, err := tx.ExecContext(ctx, `INSERT INTO users (name) VALUES ($1)`, name); err != nil {
			return err
		}
		_, err = outboxdb.EnqueueSQL(ctx, tx, outflow.Message{Destination: "sqs://welcome-email", Type: "user-registered", Payload: []byte(`{"name":"Ada"}`)})
		if err != nil {
			return err
		}
		return tx.Commit()
	}
	_ = register
}

// One Waiter serves a whole process, however many wait. The wait comes behind the
// commit, and has a bound of its own: the message is delivered all the same.
func ExampleWaiter() {
	order := func(ctx context.Context, pool *pgxpool.Pool, waiter *outboxdb.Waiter) (string, error) {
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
		waiter := outboxdb.NewWaiter(pool)
		defer waiter.Close()
		_, _ = order(context.Background(), pool, waiter)
	}
	_ = serve
}
