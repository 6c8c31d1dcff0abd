// Command embed is a shop that runs a Temporal worker of its own, with Outflow
// inside: no process of Outflow's runs beside it.
//
// The invariant: an order exists if and only if its message does.
package main

import (
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

	"github.com/outflowhq/outflow/activities"
	"github.com/outflowhq/outflow/outboxdb"
	"github.com/outflowhq/outflow/publish"
	"github.com/outflowhq/outflow/publish/awssqs"
	"github.com/outflowhq/outflow/scanner"
	"github.com/outflowhq/outflow/workflows"
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

// run works until ctx ends. Temporal and AWS are set by their own variables.
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

	// The shop's own worker, as it was before.
	ctx, fail := context.WithCancelCause(ctx)
	w := worker.New(temporalClient, taskQueue, worker.Options{
		// The default of 0 would leave what is published unmarked, and send it again.
		WorkerStopTimeout: 15 * time.Second,
		OnFatalError:      func(err error) { fail(fmt.Errorf("running the worker: %w", err)) },
	})
	s := &shop{pool: pool}
	w.RegisterWorkflow(PlaceOrder)
	w.RegisterActivity(s)

	// Outflow: its workflow registered with that worker, and a scanner on the same
	// client and task queue, which eager start wants.
	store := outboxdb.New(pool)
	if err := store.Ping(ctx); err != nil {
		return err
	}
	router := publish.NewRouter(awssqs.New(sqs.NewFromConfig(aws)))
	workflows.Register(w, activities.New(store, router))
	// Nothing purges the table here. workflows.RegisterMaintain and, once the worker
	// is up, control.EnsureSchedule would: the README has the lines.
	deliveries := scanner.New(store, temporalClient, scanner.Options{
		TaskQueue: taskQueue,
		// The shop wakes the scanner after its commits; looking by itself is for
		// what is due later, and for what a killed process has left.
		PollInterval: 2 * time.Second,
	})
	s.committed = deliveries.Wake

	if err := w.Start(); err != nil {
		return fmt.Errorf("starting the worker: %w", err)
	}
	defer w.Stop() // after the scanner, whose starts it finishes
	if err := deliveries.Run(ctx); err != nil {
		return err
	}
	return failure(ctx)
}

// failure is why the worker has ended ctx, or nil where a signal has.
func failure(ctx context.Context) error {
	if cause := context.Cause(ctx); cause != context.Canceled {
		return cause
	}
	return nil
}
