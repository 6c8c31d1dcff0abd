package dispatcher_test

import (
	"context"

	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/jackc/pgx/v5/pgxpool"
	"go.temporal.io/sdk/client"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/dispatcher"
	"github.com/outflowhq/outflow/publish"
	"github.com/outflowhq/outflow/publish/awssqs"
)

// Inside a program with a pool, a Temporal client and an SQS client of its own.
func Example() {
	run := func(ctx context.Context, pool *pgxpool.Pool, temporalClient client.Client, sqsClient *sqs.Client) error {
		d, err := dispatcher.New(dispatcher.Options{
			Pool: pool, Client: temporalClient,
			Publishers: []publish.Publisher{awssqs.New(sqsClient)},
			Retention:  outflow.DefaultRetention(), Namespace: "default", // or no purge
		})
		if err != nil {
			return err
		}
		return d.Run(ctx) // until ctx ends; d.Wake() after a commit spares the wait for the next look
	}
	_ = run
}
