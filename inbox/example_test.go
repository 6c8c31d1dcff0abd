package inbox_test

import (
	"context"
	"database/sql"
	"fmt"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/aws/aws-sdk-go-v2/service/sqs/types"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/outflowhq/outflow/inbox"
	"github.com/outflowhq/outflow/publish/awssqs"
)

// The ID is noted in the transaction of the effect, and the message is taken off
// the queue after the commit. examples/signup is this as a whole, tested program.
func ExampleOnce() {
	handle := func(ctx context.Context, pool *pgxpool.Pool, queue *sqs.Client, queueURL string, received types.Message) error {
		m, err := awssqs.Decode(received)
		if err != nil {
			return err
		}
		err = pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
			first, err := inbox.Once(ctx, tx, "points", m.ID)
			if err != nil || !first {
				return err // nil for a duplicate: it is taken off the queue, too
			}
			_, err = tx.Exec(ctx, `UPDATE accounts SET points = points + 10 WHERE name = $1`, string(m.Payload))
			return err
		})
		if err != nil {
			return err // the message stays in the queue and comes again
		}
		_, err = queue.DeleteMessage(ctx, &sqs.DeleteMessageInput{QueueUrl: &queueURL, ReceiptHandle: received.ReceiptHandle})
		return err
	}
	_ = handle
}

// The same with database/sql, whatever the driver.
func ExampleOnceSQL() {
	handle := func(ctx context.Context, db *sql.DB, received types.Message) error {
		m, err := awssqs.Decode(received)
		if err != nil {
			return err
		}
		tx, err := db.BeginTx(ctx, nil)
		if err != nil {
			return err
		}
		defer func() { _ = tx.Rollback() }() // after Commit it does nothing
		first, err := inbox.OnceSQL(ctx, tx, "points", m.ID)
		if err != nil || !first {
			return err
		}
		if _, err := tx.ExecContext(ctx, `UPDATE accounts SET points = points + 10 WHERE name = $1`, string(m.Payload)); err != nil {
			return err
		}
		return tx.Commit()
	}
	_ = handle
}

// Once an hour is often enough.
func ExamplePurge() {
	forget := func(ctx context.Context, pool *pgxpool.Pool) error {
		purged, err := inbox.Purge(ctx, pool, "points", 60*24*time.Hour, 100_000)
		if err != nil {
			return err
		}
		fmt.Println("forgot", purged, "message IDs")
		return nil
	}
	_ = forget
}
