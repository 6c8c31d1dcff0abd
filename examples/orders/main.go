// Command orders takes orders over HTTP, and processes each in a workflow that the order's own
// transaction starts.
//
// The invariant: an order's workflow runs if and only if the order is in the table.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"

	"github.com/jackc/pgx/v5/pgxpool"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/contrib/envconfig"
	"go.temporal.io/sdk/worker"
)

// taskQueue is the shop's own.
const taskQueue = "orders"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends the process at once
	if err := run(ctx, os.Args[1:], os.Getenv, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "orders:", err)
		os.Exit(1)
	}
}

// run serves or works until ctx ends.
func run(ctx context.Context, args []string, getenv func(string) string, out io.Writer) error {
	if len(args) != 1 || args[0] != "serve" && args[0] != "work" {
		return errors.New("wants serve (answer POST /orders) or work (run the workflows)")
	}
	pool, err := pgxpool.New(ctx, getenv("DATABASE_URL"))
	if err != nil {
		return fmt.Errorf("DATABASE_URL: %w", err)
	}
	defer pool.Close()
	if _, err := pool.Exec(ctx, createOrders); err != nil {
		return fmt.Errorf("creating the table orders: %w", err)
	}
	if args[0] == "work" {
		return work(ctx, pool, out)
	}
	return serve(ctx, &service{pool}, getenv("LISTEN"), out)
}

// serve answers on an address, such as 127.0.0.1:8080.
func serve(ctx context.Context, s *service, address string, out io.Writer) error {
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return fmt.Errorf("LISTEN: %w", err)
	}
	server := &http.Server{Handler: s}
	context.AfterFunc(ctx, func() { _ = server.Shutdown(context.WithoutCancel(ctx)) })
	fmt.Fprintf(out, "listening on http://%s\n", listener.Addr())
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// work runs the shop's worker, as in any application of Temporal's.
func work(ctx context.Context, pool *pgxpool.Pool, out io.Writer) error {
	options, err := envconfig.LoadDefaultClientOptions()
	if err != nil {
		return fmt.Errorf("reading Temporal's settings: %w", err)
	}
	c, err := client.DialContext(ctx, options)
	if err != nil {
		return fmt.Errorf("connecting to Temporal: %w", err)
	}
	defer c.Close()
	w := worker.New(c, taskQueue, worker.Options{})
	w.RegisterWorkflow(ProcessOrder)
	w.RegisterActivity(&warehouse{pool})
	if err := w.Start(); err != nil {
		return fmt.Errorf("starting the worker: %w", err)
	}
	defer w.Stop()
	fmt.Fprintf(out, "working on the task queue %s\n", taskQueue)
	<-ctx.Done()
	return nil
}
