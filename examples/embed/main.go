// Command embed is a shop that runs a Temporal worker of its own, with Outflow inside. No
// other process of Outflow runs.
//
// The invariant: an order exists if and only if its message does.
package main

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	awsconfig "github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/jackc/pgx/v5/pgxpool"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/contrib/envconfig"
	"go.temporal.io/sdk/worker"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/dispatcher"
	"github.com/outflowhq/outflow/publish"
	"github.com/outflowhq/outflow/publish/awssqs"
	"github.com/outflowhq/outflow/scanner"
)

// taskQueue is the shop's own. Outflow's workflows share it with the shop's.
const taskQueue = "shop"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends the process at once
	if err := run(ctx, os.Getenv("DATABASE_URL")); err != nil {
		fmt.Fprintln(os.Stderr, "embed:", err)
		os.Exit(1)
	}
}

// run returns when ctx ends. Temporal and AWS read their own variables.
func run(ctx context.Context, databaseURL string) error {
	pool, err := pgxpool.New(ctx, databaseURL)
	if err != nil {
		return fmt.Errorf("DATABASE_URL: %w", err)
	}
	defer pool.Close()
	if _, err := pool.Exec(ctx, createOrders); err != nil {
		return fmt.Errorf("creating the table orders: %w", err)
	}
	options, err := envconfig.LoadDefaultClientOptions()
	if err != nil {
		return fmt.Errorf("reading Temporal's settings: %w", err)
	}
	temporalClient, err := client.DialContext(ctx, options)
	if err != nil {
		return fmt.Errorf("connecting to Temporal: %w", err)
	}
	defer temporalClient.Close()
	aws, err := awsconfig.LoadDefaultConfig(ctx)
	if err != nil {
		return fmt.Errorf("reading AWS's settings: %w", err)
	}

	s := &shop{pool: pool}
	d, err := dispatcher.New(dispatcher.Options{
		Pool: pool, Client: temporalClient,
		Publishers: []publish.Publisher{awssqs.New(sqs.NewFromConfig(aws))},
		// The shop wakes the scanner after its commits. The poll finds messages that are due
		// later, and those of a process that was killed.
		Scanner: scanner.Options{TaskQueue: taskQueue, PollInterval: 10 * time.Second},
		// The shop's own workflow and activities, on the same worker.
		Register: func(w worker.Registry) {
			w.RegisterWorkflow(PlaceOrder)
			w.RegisterActivity(s)
		},
		// Messages are purged a week after their delivery.
		Retention: outflow.DefaultRetention(), Namespace: cmp.Or(options.Namespace, client.DefaultNamespace),
	})
	if err != nil {
		return err
	}
	s.committed = d.Wake
	return d.Run(ctx)
}
