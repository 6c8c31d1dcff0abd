package outboxdb_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"testing"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/internal/teststack"
	"github.com/outflowhq/outflow/outboxdb"
)

// Enqueue writes in your transaction: the messages exist if and only if the user does.
func ExampleEnqueue() {
	ctx := context.Background()
	pool, err := pgxpool.New(ctx, os.Getenv("DATABASE_URL"))
	if err != nil {
		fmt.Println(err)
		return
	}
	defer pool.Close()

	err = pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, `INSERT INTO users (name) VALUES ($1)`, "Ada"); err != nil {
			return err
		}
		_, err := outboxdb.Enqueue(ctx, tx,
			outflow.Message{Destination: "sqs://crm", Type: "user-registered", Payload: []byte(`{"name":"Ada"}`)},
			outflow.Message{Destination: "sqs://emails", Type: "welcome-email", Payload: []byte(`{"to":"Ada"}`)},
		)
		return err
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println("committed: one user, two messages")
}

// EnqueueSQL does the same with database/sql, whatever the driver.
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
		welcome, err := outflow.JSON("sqs://emails", "welcome-email", map[string]string{"to": name})
		if err != nil {
			return err
		}
		if _, err := outboxdb.EnqueueSQL(ctx, tx, welcome); err != nil {
			return err
		}
		return tx.Commit()
	}

	db, err := sql.Open("pgx", os.Getenv("DATABASE_URL")) // import _ "github.com/jackc/pgx/v5/stdlib"
	if err != nil {
		fmt.Println(err)
		return
	}
	defer db.Close()
	if err := register(context.Background(), db, "Ada"); err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println("committed: one user, one message")
}

// A message that breaks a rule is refused with its index and its field. Nothing was
// written, and the transaction can go on.
func ExampleEnqueue_invalidMessage() {
	ctx := context.Background()
	pool, err := pgxpool.New(ctx, os.Getenv("DATABASE_URL"))
	if err != nil {
		fmt.Println(err)
		return
	}
	defer pool.Close()

	err = pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
		_, err := outboxdb.Enqueue(ctx, tx,
			outflow.Message{Destination: "sqs://emails", Type: "welcome e-mail", Payload: []byte(`{}`)})
		return err
	})
	var invalid *outflow.InvalidMessageError
	if errors.As(err, &invalid) {
		fmt.Println("message", invalid.Index, "field", invalid.Field)
	}
}

// EnqueueIfAbsent skips an ID that exists. A request that is sent twice with the same ID
// enqueues one message.
func ExampleEnqueueIfAbsent() {
	ctx := context.Background()
	pool, err := pgxpool.New(ctx, os.Getenv("DATABASE_URL"))
	if err != nil {
		fmt.Println(err)
		return
	}
	defer pool.Close()

	requestID := uuid.MustParse("0190a5b0-7c3e-7d50-9a2f-000000000001")
	for range 2 {
		err := pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
			written, err := outboxdb.EnqueueIfAbsent(ctx, tx, outflow.Message{
				ID: requestID, Destination: "sqs://orders", Type: "order-placed", Payload: []byte(`{"id":7}`),
			})
			fmt.Println(written, err)
			return err
		})
		if err != nil {
			fmt.Println(err)
		}
	}
}

func TestExamples(t *testing.T) {
	for name, c := range map[string]struct {
		example func()
		prints  string
		rows    int
	}{
		"Enqueue":                 {ExampleEnqueue, "committed: one user, two messages\n", 2},
		"EnqueueSQL":              {ExampleEnqueueSQL, "committed: one user, one message\n", 1},
		"Enqueue, invalidMessage": {ExampleEnqueue_invalidMessage, "message 0 field type\n", 0},
		"EnqueueIfAbsent": {
			ExampleEnqueueIfAbsent, "[0190a5b0-7c3e-7d50-9a2f-000000000001] <nil>\n[] <nil>\n", 1,
		},
	} {
		t.Run(name, func(t *testing.T) {
			pool := teststack.New(t)
			teststack.Execute(t, pool, `CREATE TABLE users (name text)`)
			require.Equal(t, c.prints, teststack.RunExample(t, pool, c.example))
			require.Equal(t, c.rows, teststack.Value[int](t, pool, `SELECT count(*) FROM outbox.messages`))
		})
	}
}
