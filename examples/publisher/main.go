// Command publisher runs Outflow's dispatcher with a publisher of its own. Messages to
// x-file://orders become lines of orders.jsonl in the folder that the command line names.
//
// The invariant: the module uses nothing of Outflow but its public packages.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/jackc/pgx/v5/pgxpool"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/contrib/envconfig"

	"github.com/outflowhq/outflow/dispatcher"
	"github.com/outflowhq/outflow/publish"

	"example.com/publisher/files"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: publisher FOLDER")
		os.Exit(2)
	}
	if err := run(ctx, os.Getenv("DATABASE_URL"), os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, "publisher:", err)
		os.Exit(1)
	}
}

// run returns when ctx ends. Temporal's client reads its own variables.
func run(ctx context.Context, databaseURL, folder string) error {
	pool, err := pgxpool.New(ctx, databaseURL)
	if err != nil {
		return fmt.Errorf("DATABASE_URL: %w", err)
	}
	defer pool.Close()
	options, err := envconfig.LoadDefaultClientOptions()
	if err != nil {
		return fmt.Errorf("reading Temporal's settings: %w", err)
	}
	temporalClient, err := client.DialContext(ctx, options)
	if err != nil {
		return fmt.Errorf("connecting to Temporal: %w", err)
	}
	defer temporalClient.Close()
	d, err := dispatcher.New(dispatcher.Options{
		Pool: pool, Client: temporalClient,
		Publishers: []publish.Publisher{&files.Publisher{Folder: folder}},
	})
	if err != nil {
		return err
	}
	return d.Run(ctx)
}
