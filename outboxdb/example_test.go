package outboxdb_test

import (
	"context"
	"database/sql"

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
