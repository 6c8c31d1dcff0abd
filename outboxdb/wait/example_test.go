package wait_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/internal/teststack"
	"github.com/outflowhq/outflow/outboxdb"
	"github.com/outflowhq/outflow/outboxdb/wait"
)

// One Waiter serves all calls of a process. Wait after the commit, with a
// timeout: the message is delivered whether or not a call waits for it.
func Example() {
	pool, err := pgxpool.New(context.Background(), os.Getenv("DATABASE_URL"))
	if err != nil {
		fmt.Println(err)
		return
	}
	defer pool.Close()
	waiter := wait.New(pool)
	defer waiter.Close()

	placeOrder := func(ctx context.Context) (string, error) {
		var ids []uuid.UUID
		err := pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) (err error) {
			ids, err = outboxdb.Enqueue(ctx, tx,
				outflow.Message{Destination: "sqs://orders", Type: "order-placed", Payload: []byte(`{"id":7}`)})
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
			return "", fmt.Errorf("order %s: %s", outcome.State, outcome.LastError)
		}
		return "sent", nil
	}
	fmt.Println(placeOrder(context.Background()))
}

func TestExample(t *testing.T) {
	t.Run("without a dispatcher", func(t *testing.T) {
		require.Equal(t, "on its way <nil>\n", teststack.RunExample(t, teststack.New(t), Example))
	})
	t.Run("delivered", func(t *testing.T) {
		pool := teststack.New(t)
		dispatched := make(chan error, 1)
		go func() {
			for {
				tag, err := pool.Exec(t.Context(),
					`UPDATE outbox.messages SET state = 'delivered', finished_at = now()`)
				if err != nil || tag.RowsAffected() == 1 {
					dispatched <- err
					return
				}
				time.Sleep(5 * time.Millisecond)
			}
		}()
		require.Equal(t, "sent <nil>\n", teststack.RunExample(t, pool, Example))
		require.NoError(t, <-dispatched)
	})
}
