package inbox_test

import (
	"context"
	"database/sql"
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/aws/aws-sdk-go-v2/service/sqs/types"
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/outflowhq/outflow/inbox"
	"github.com/outflowhq/outflow/inbox/migrate"
	"github.com/outflowhq/outflow/internal/teststack"
	"github.com/outflowhq/outflow/publish/awssqs"
)

// A message that is delivered twice has its effect once: its ID is written in the
// transaction of the effect.
func ExampleOnce() {
	ctx := context.Background()
	pool, err := pgxpool.New(ctx, os.Getenv("DATABASE_URL"))
	if err != nil {
		fmt.Println(err)
		return
	}
	defer pool.Close()

	messageID := uuid.MustParse("0190a5b0-7c3e-7d50-9a2f-000000000001") // Decode returns it
	for range 2 {
		err := pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
			first, err := inbox.Once(ctx, tx, "points", messageID)
			if err != nil || !first {
				fmt.Println("skipped:", err)
				return err // nil for a duplicate
			}
			tag, err := tx.Exec(ctx, `UPDATE accounts SET points = points + 10 WHERE name = $1`, "Ada")
			fmt.Println("handled:", tag.RowsAffected(), err)
			return err
		})
		if err != nil {
			fmt.Println(err)
		}
	}
}

// A consumer of SQS deletes the message after the commit, a duplicate too. The program
// examples/signup is a complete consumer.
func ExampleOnce_sqs() {
	handle := func(ctx context.Context, pool *pgxpool.Pool, queue *sqs.Client, queueURL string,
		received types.Message) error {
		m, err := awssqs.Decode(received)
		if err != nil {
			return err
		}
		err = pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
			first, err := inbox.Once(ctx, tx, "points", m.ID)
			if err != nil || !first {
				return err
			}
			_, err = tx.Exec(ctx, `UPDATE accounts SET points = points + 10 WHERE name = $1`, string(m.Payload))
			return err
		})
		if err != nil {
			return err // the message stays in the queue and comes again
		}
		_, err = queue.DeleteMessage(ctx,
			&sqs.DeleteMessageInput{QueueUrl: &queueURL, ReceiptHandle: received.ReceiptHandle})
		return err
	}
	_ = handle
}

// OnceSQL does the same with database/sql, whatever the driver.
func ExampleOnceSQL() {
	handle := func(ctx context.Context, db *sql.DB, messageID uuid.UUID, name string) (first bool, err error) {
		tx, err := db.BeginTx(ctx, nil)
		if err != nil {
			return false, err
		}
		defer func() { _ = tx.Rollback() }() // after Commit it does nothing
		first, err = inbox.OnceSQL(ctx, tx, "points", messageID)
		if err != nil || !first {
			return false, err
		}
		if _, err := tx.ExecContext(ctx, `UPDATE accounts SET points = points + 10 WHERE name = $1`, name); err != nil {
			return false, err
		}
		return true, tx.Commit()
	}

	db, err := sql.Open("pgx", os.Getenv("DATABASE_URL")) // import _ "github.com/jackc/pgx/v5/stdlib"
	if err != nil {
		fmt.Println(err)
		return
	}
	defer db.Close()
	messageID := uuid.MustParse("0190a5b0-7c3e-7d50-9a2f-000000000001")
	fmt.Println(handle(context.Background(), db, messageID, "Ada"))
	fmt.Println(handle(context.Background(), db, messageID, "Ada"))
}

// Purge deletes old IDs. Calling it once an hour is often enough.
func ExamplePurge() {
	ctx := context.Background()
	pool, err := pgxpool.New(ctx, os.Getenv("DATABASE_URL"))
	if err != nil {
		fmt.Println(err)
		return
	}
	defer pool.Close()

	purged, err := inbox.Purge(ctx, pool, "points", 60*24*time.Hour, 100_000)
	fmt.Println("purged", purged, "message IDs:", err)
}

func TestExamples(t *testing.T) {
	for name, c := range map[string]struct {
		example func()
		prints  string
		points  int
	}{
		"Once":    {ExampleOnce, "handled: 1 <nil>\nskipped: <nil>\n", 10},
		"OnceSQL": {ExampleOnceSQL, "true <nil>\nfalse <nil>\n", 10},
		"Purge":   {ExamplePurge, "purged 1 message IDs: <nil>\n", 0},
	} {
		t.Run(name, func(t *testing.T) {
			pool := teststack.NewEmpty(t)
			_, err := migrate.Up(t.Context(), pool)
			require.NoError(t, err)
			teststack.Execute(t, pool, `CREATE TABLE accounts AS SELECT 'Ada' AS name, 0 AS points`)
			teststack.Execute(t, pool, `INSERT INTO inbox.seen (consumer, message_id, seen_at)
				VALUES ('points', gen_random_uuid(), now() - interval '61 days')`)
			require.Equal(t, c.prints, teststack.RunExample(t, pool, c.example))
			require.Equal(t, c.points, teststack.Value[int](t, pool, `SELECT points FROM accounts`))
		})
	}
}
