package operator_test

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
	"go.temporal.io/sdk/client"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/operator"
)

// Every act answers for each message, in order, and notes who did it and why.
func ExampleOperator_Retry() {
	retryDead := func(ctx context.Context, pool *pgxpool.Pool, c client.Client, destination string) error {
		o := operator.New(pool, operator.NewRuns(c), outflow.DefaultOutbox)
		dead, _, err := o.List(ctx, operator.ListFilter{
			State: outflow.Dead, Undismissed: true, Destination: destination, Limit: 100,
		})
		if err != nil {
			return err
		}
		var ids []uuid.UUID
		for _, m := range dead {
			ids = append(ids, m.ID)
		}
		answers, err := o.Retry(ctx, ids, operator.Actor{Who: "ada@host", Why: "the queue is back"})
		for _, a := range answers {
			fmt.Println(a.ID, a.Verdict, a.Text)
		}
		return err
	}
	_ = retryDead
}

// A cancel waits until it is known how the messages ended: the broker may have them already.
func ExampleOperator_Cancel() {
	cancelOrder := func(ctx context.Context, o *operator.Operator, id uuid.UUID) (sent bool, err error) {
		answers, err := o.Cancel(ctx, []uuid.UUID{id}, 10*time.Second, operator.Actor{Who: "shop"})
		if err != nil {
			return false, err
		}
		if answers[0].Verdict == operator.Undecided {
			return false, fmt.Errorf("cancelling message %s: %s", id, answers[0].Text)
		}
		return answers[0].State == outflow.Delivered, nil
	}
	_ = cancelOrder
}

// A producer calls functions, and can read no table.
func ExampleGrants_Statements() {
	grants := operator.Grants{Producers: []string{"shop"}}
	for _, statement := range grants.Statements() {
		first, _, _ := strings.Cut(statement, "\n")
		fmt.Println(strings.TrimSpace(first))
	}
	// Output:
	// GRANT USAGE ON SCHEMA outbox TO "shop"
	// GRANT EXECUTE ON FUNCTION
	// GRANT EXECUTE ON FUNCTION outbox.outcomes(uuid[]), outbox.group_outcomes(uuid[]), outbox.keep_waiter(uuid), outbox.drop_waiter(uuid) TO "shop"
}
