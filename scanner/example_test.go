package scanner_test

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"os/signal"
	"testing"

	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/worker"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/activities"
	"github.com/outflowhq/outflow/internal/teststack"
	"github.com/outflowhq/outflow/outboxdb"
	"github.com/outflowhq/outflow/publish"
	"github.com/outflowhq/outflow/publish/awssqs"
	"github.com/outflowhq/outflow/scanner"
	"github.com/outflowhq/outflow/workflows"
)

// A program that wants more than package dispatcher offers joins the parts itself: a worker
// with the workflows and the activities, and a scanner on the same client. The worker starts
// first and stops last.
func Example() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	pool, err := pgxpool.New(ctx, os.Getenv("DATABASE_URL"))
	if err != nil {
		fmt.Println(err)
		return
	}
	defer pool.Close()
	temporalClient, err := client.DialContext(ctx, client.Options{HostPort: os.Getenv("TEMPORAL_ADDRESS")})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer temporalClient.Close()
	aws, err := config.LoadDefaultConfig(ctx)
	if err != nil {
		fmt.Println(err)
		return
	}

	// Two databases that share a namespace need two names.
	outbox := cmp.Or(os.Getenv("OUTFLOW_OUTBOX"), outflow.DefaultOutbox)
	store, router := outboxdb.New(pool), publish.NewRouter(awssqs.New(sqs.NewFromConfig(aws)))
	w := worker.New(temporalClient, workflows.TaskQueueFor(outbox), worker.Options{})
	workflows.Register(w, activities.New(store, router, activities.ForOutbox(outbox)))
	if err := w.Start(); err != nil {
		fmt.Println(err)
		return
	}
	defer w.Stop()
	s := scanner.New(store, temporalClient, scanner.Options{
		Outbox: outbox, Refuse: router.Refusal, Schemes: router.Schemes(), Check: router.Check,
	})
	fmt.Println("ended:", s.Run(ctx))
}

func TestExample(t *testing.T) {
	printed, _ := teststack.RunDispatcher(t, Example)
	require.Contains(t, printed, "ended: <nil>\n")
}
