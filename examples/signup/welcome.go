package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/contrib/envconfig"
	sdklog "go.temporal.io/sdk/log"
	"go.temporal.io/sdk/worker"
	"go.temporal.io/sdk/workflow"
)

// signUpQueue is the task queue of the application's own workflows.
const signUpQueue = "signup"

// createWelcomes creates the workflow's own table.
const createWelcomes = `CREATE TABLE IF NOT EXISTS welcomes (
	message_id  uuid        PRIMARY KEY,
	name        text        NOT NULL,
	welcomed_at timestamptz NOT NULL DEFAULT clock_timestamp())`

const insertWelcome = `INSERT INTO welcomes (message_id, name) VALUES ($1, $2) ON CONFLICT DO NOTHING`

// Welcome is the application's own workflow. A message starts it: it runs if and only if the user
// is in the table, and its ID is the message's.
func Welcome(ctx workflow.Context, u user) error {
	ctx = workflow.WithActivityOptions(ctx, workflow.ActivityOptions{StartToCloseTimeout: 10 * time.Second})
	var g *greeter
	id := workflow.GetInfo(ctx).WorkflowExecution.ID
	return workflow.ExecuteActivity(ctx, g.Greet, id, u).Get(ctx, nil)
}

// greeter has the workflow's activity.
type greeter struct {
	pool *pgxpool.Pool
	out  io.Writer
}

// Greet greets a new user, here with a line. Temporal may run it again: the row is written once.
func (g *greeter) Greet(ctx context.Context, messageID string, u user) error {
	id, err := uuid.Parse(messageID)
	if err != nil {
		return fmt.Errorf("reading the message's ID: %w", err)
	}
	written, err := g.pool.Exec(ctx, insertWelcome, id, u.Name)
	if err != nil {
		return fmt.Errorf("welcoming the user of message %s: %w", id, err)
	}
	if written.RowsAffected() == 1 {
		fmt.Fprintf(g.out, "%-50s  %s\n", "welcome workflow: "+u.String(), id)
	}
	return nil
}

// welcome runs the worker of the application's own workflows until ctx ends. Temporal's SDK reads
// its own variables.
func welcome(ctx context.Context, pool *pgxpool.Pool, out io.Writer, log *slog.Logger) error {
	if _, err := pool.Exec(ctx, createWelcomes); err != nil {
		return fmt.Errorf("creating the table welcomes: %w", err)
	}
	options, err := envconfig.LoadDefaultClientOptions()
	if err != nil {
		return fmt.Errorf("reading Temporal's settings: %w", err)
	}
	options.Logger = sdklog.NewStructuredLogger(log)
	c, err := client.DialContext(ctx, options)
	if err != nil {
		return fmt.Errorf("connecting to Temporal: %w", err)
	}
	defer c.Close()
	w := worker.New(c, signUpQueue, worker.Options{WorkerStopTimeout: shutdownTimeout})
	w.RegisterWorkflow(Welcome)
	w.RegisterActivity(&greeter{pool: pool, out: out})
	if err := w.Start(); err != nil {
		return fmt.Errorf("starting the worker: %w", err)
	}
	defer w.Stop()
	fmt.Fprintf(out, "running workflows of the task queue %s\n", signUpQueue)
	<-ctx.Done()
	return nil
}
