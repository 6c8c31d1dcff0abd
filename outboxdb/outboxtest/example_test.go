package outboxtest_test

import (
	"context"
	"errors"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/internal/teststack"
	"github.com/outflowhq/outflow/outboxdb"
	"github.com/outflowhq/outflow/outboxdb/outboxtest"
)

// signUp is the producer under test.
func signUp(ctx context.Context, tx pgx.Tx, email string) error {
	_, err := outboxdb.Enqueue(ctx, tx, outflow.Message{
		Destination: "sqs://welcome-email", Type: "welcome-email", Payload: []byte(`{"to": "` + email + `"}`),
	})
	return err
}

// The test looks at what its transaction enqueued, and rolls it back. testSignUp is the body
// of a TestSignUp of yours.
func ExampleRequireEnqueued() {
	testSignUp := func(t *testing.T, pool *pgxpool.Pool) {
		tx, err := pool.Begin(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = tx.Rollback(context.WithoutCancel(t.Context())) }()
		if err := signUp(t.Context(), tx, "ada@example.com"); err != nil {
			t.Fatal(err)
		}
		outboxtest.RequireEnqueued(t, tx, outflow.Message{
			Destination: "sqs://welcome-email",
			Payload:     []byte(`{"to": "ada@example.com"}`),
		})
	}
	examples["RequireEnqueued"] = testSignUp
}

// A publisher of the test's own takes the broker's place. Here it fails twice.
func ExampleDeliver() {
	testDelivery := func(t *testing.T, pool *pgxpool.Pool) {
		err := pgx.BeginFunc(t.Context(), pool,
			func(tx pgx.Tx) error { return signUp(t.Context(), tx, "ada@example.com") })
		if err != nil {
			t.Fatal(err)
		}
		attempts := 0
		deliveries := outboxtest.Deliver(t, pool, outboxtest.PublisherFunc(func(m outflow.Message) error {
			if attempts++; attempts < 3 {
				return outflow.Unavailable(errors.New("SQS does not answer"))
			}
			return nil
		}))
		if len(deliveries) != 1 || deliveries[0].Outcome.State != outflow.Delivered ||
			deliveries[0].Outcome.Attempts != 3 {
			t.Fatalf("got %+v", deliveries)
		}
	}
	examples["Deliver"] = testDelivery
}

// examples are the tests above. TestExamples runs them.
var examples = map[string]func(*testing.T, *pgxpool.Pool){}

func TestExamples(t *testing.T) {
	ExampleRequireEnqueued()
	ExampleDeliver()
	for name, example := range examples {
		t.Run(name, func(t *testing.T) { example(t, teststack.New(t)) })
	}
}
