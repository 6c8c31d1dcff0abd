package dispatcher_test

import (
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

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/dispatcher"
	"github.com/outflowhq/outflow/internal/teststack"
	"github.com/outflowhq/outflow/publish"
	"github.com/outflowhq/outflow/publish/awssqs"
	"github.com/outflowhq/outflow/scanner"
	"github.com/outflowhq/outflow/workflows"
)

// A program with a pool, a Temporal client and an SQS client of its own dispatches its
// messages itself. The program examples/embed shares the worker with its own workflows.
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

	d, err := dispatcher.New(dispatcher.Options{
		Pool: pool, Client: temporalClient,
		Publishers: []publish.Publisher{awssqs.New(sqs.NewFromConfig(aws))},
		// Two databases that share a namespace need two names.
		Scanner:   scanner.Options{Outbox: os.Getenv("OUTFLOW_OUTBOX")},
		Retention: outflow.DefaultRetention(), Namespace: client.DefaultNamespace,
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	// Call d.Wake after each commit that enqueued: the message need not wait for the next poll.
	fmt.Println("ended:", d.Run(ctx))
}

func TestExample(t *testing.T) {
	printed, outbox := teststack.RunDispatcher(t, Example)
	require.Contains(t, printed, "ended: <nil>\n")
	temporalClient, err := client.Dial(client.Options{HostPort: teststack.Temporal(t)})
	require.NoError(t, err)
	defer temporalClient.Close()
	schedule := temporalClient.ScheduleClient().GetHandle(t.Context(), workflows.MaintainID(outbox))
	require.NoError(t, schedule.Delete(t.Context()), "Run made the schedule of the purge")
}
